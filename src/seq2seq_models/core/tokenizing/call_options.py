"""What a call of a tokenizer asks for, checked and completed: padding, truncation, lengths, and what to return."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Any

from ...errors import TokenizerError

logger = logging.getLogger(__name__)

NO_MAX_LENGTH = int(1e30)
"""`model_max_length` of a tokenizer that knows no limit."""

_LARGE = int(1e20)
PADDING = ("longest", "max_length", "do_not_pad")
TRUNCATION = ("longest_first", "only_first", "only_second", "do_not_truncate")
SIDES = ("right", "left")


@dataclass(frozen=True, slots=True)
class CallOptions:
    """One call's settings.

    Attributes:
        add_special_tokens: put the family's special tokens around the text.
        padding: one of PADDING.
        truncation: one of TRUNCATION.
        max_length: in tokens; None for no limit.
        stride: tokens that a truncated text's parts share.
        pad_to_multiple_of: padded lengths are multiples of this.
        padding_side: "right" or "left".
        token_type_ids, attention_mask, overflow, special_tokens_mask, offsets, length: what to return.
        tensors: "pt", "tf", "np", "jax" or None for lists.
        verbose: log warnings.
        split_special_tokens: treat special tokens in the text as plain text.
        split_words: the input is a list of words.
    """

    add_special_tokens: bool = True
    padding: str = "do_not_pad"
    truncation: str = "do_not_truncate"
    max_length: int | None = None
    stride: int = 0
    pad_to_multiple_of: int | None = None
    padding_side: str = "right"
    token_type_ids: bool = False
    attention_mask: bool = True
    overflow: bool = False
    special_tokens_mask: bool = False
    offsets: bool = False
    length: bool = False
    tensors: Any = None
    verbose: bool = True
    split_special_tokens: bool = False
    split_words: bool = False


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """`value`, or the value of an enum member, if it is one of `allowed`."""
    value = getattr(value, "value", value)
    if value not in allowed:
        raise TokenizerError(f"`{name}` must be a bool or one of {', '.join(allowed)}, got {value!r}.")
    return str(value)


def padding_strategy(padding: Any, truncation: Any = None, max_length: int | None = None, verbose: bool = True) -> str:
    """The name of the padding strategy that an argument `padding` means."""
    if padding is False or padding is None:
        return "do_not_pad"
    if padding is not True:
        return choice("padding", padding, PADDING)
    if verbose and max_length is not None and truncation in (None, False, "do_not_truncate"):
        warnings.warn(
            "`max_length` has no effect with padding=True and no truncation. Use padding='max_length' to pad to it.",
            stacklevel=4,
        )
    return "longest"


def strategies(
    padding: Any, truncation: Any, max_length: int | None, limit: int, said: set[str], verbose: bool = True
) -> tuple[str, str, int | None]:
    """Padding strategy, truncation strategy and length, with the gaps filled as transformers fills them.

    Args:
        padding: the argument of the call.
        truncation: the argument of the call; None with a `max_length` and no padding means "longest_first".
        max_length: the argument of the call.
        limit: the tokenizer's `model_max_length`.
        said: the warnings that this tokenizer has already logged, each only once.
        verbose: log warnings.
    """
    if max_length is not None and (isinstance(max_length, bool) or not hasattr(max_length, "__index__")):
        raise TokenizerError(f"`max_length` must be an int, got {max_length!r}.")
    if max_length is not None and padding is False and truncation is None:
        warn_once(said, "truncation", verbose, "`max_length` is given without `truncation`: truncating to it. "
                  "Pass truncation=True to say so.")  # fmt: skip
        truncation = "longest_first"
    pad = padding_strategy(padding, truncation, max_length, verbose)
    if truncation is None or truncation is False:
        cut = "do_not_truncate"
    else:
        cut = "longest_first" if truncation is True else choice("truncation", truncation, TRUNCATION)
    if max_length is None and pad == "max_length":
        if limit > _LARGE:
            warn_once(said, "pad", verbose, "padding='max_length' has no effect: there is no `max_length` and the "
                      "tokenizer has no `model_max_length`.")  # fmt: skip
            pad = "do_not_pad"
        else:
            max_length = limit
    if max_length is None and cut != "do_not_truncate":
        if limit > _LARGE:
            warn_once(said, "truncate", verbose, "`truncation` has no effect: there is no `max_length` and the "
                      "tokenizer has no `model_max_length`.")  # fmt: skip
            cut = "do_not_truncate"
        else:
            max_length = limit
    return pad, cut, max_length


def check_multiple(options: CallOptions) -> None:
    """Raises if the texts would be cut to a length that is not the multiple they are padded to."""
    multiple, length = options.pad_to_multiple_of, options.max_length
    if multiple is None or length is None or options.padding == "do_not_pad":
        return
    if options.truncation != "do_not_truncate" and length % multiple:
        raise TokenizerError(
            f"`max_length` must be a multiple of `pad_to_multiple_of` when both truncating and padding, "
            f"got {length} and {multiple}."
        )


def warn_once(said: set[str], key: str, verbose: bool, text: str) -> None:
    """Logs a warning unless this tokenizer has already logged it."""
    if verbose and key not in said:
        logger.warning(text)
        said.add(key)
