"""The base of both tokenizers: vocabulary, decoding, and what a user sees of them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, ClassVar, overload

from tokenizers import AddedToken, Tokenizer

from ..errors import TokenizerError
from .tokenizing.call_options import NO_MAX_LENGTH, SIDES
from .tokenizing.chat_template import ChatTemplates
from .tokenizing.encoding import TokenSource
from .tokenizing.tensors import as_list
from .tokenizing.tokenizer_call import TokenizerCalls
from .tokenizing.tokenizer_files import TokenizerFiles

logger = logging.getLogger(__name__)

_CLEANED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


TO_TOKENS = frozenset({"convert_ids_to_tokens", "_convert_id_to_token"})
DECODING = TO_TOKENS | {"convert_tokens_to_string"}
"""Methods that a subclass may override and that decide the text of ids."""

_WORKED_OUT = frozenset(
    {"_said", "_length", "_special_set", "_special_ids", "_alone", "_tokens", "_pattern", "_plain", "_words"}
)


def without_list(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a constructor with a list of `extra_special_tokens`, which is what transformers 5 calls the
    `additional_special_tokens`, among those."""
    extra = options.get("extra_special_tokens")
    if not isinstance(extra, list | tuple):
        return options
    given = list(options.get("additional_special_tokens") or [])
    known = set(map(str, given))
    more = [token for token in extra if str(token) not in known]
    return {**options, "extra_special_tokens": {}, "additional_special_tokens": given + more}


class PreTrainedTokenizer(TokenizerCalls, ChatTemplates, TokenizerFiles):
    """What both tokenizers share.

    Args:
        model_max_length: the longest input of the model, in tokens; None for no limit.
        padding_side: "right" or "left".
        truncation_side: "right" or "left".
        model_input_names: what a call returns by default; the first name is that of the ids.
        clean_up_tokenization_spaces: decoding takes out the spaces before punctuation.
        split_special_tokens: treat special tokens in the text as plain text.
        chat_template: a Jinja template for `apply_chat_template`, or name to template.
        added_tokens_decoder: id to AddedToken, as in a saved tokenizer_config.json.
        bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token: special tokens.
        additional_special_tokens: special tokens without a role.
        extra_special_tokens: role to token, for roles of your own.
        verbose: log warnings.
        **kwargs: kept, and saved again in tokenizer_config.json.
    Raises:
        TokenizerError: an option that cannot be used.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {}
    init_kwargs: dict[str, Any]

    def __init__(self, **kwargs: Any) -> None:
        clash = sorted(key for key in kwargs if callable(getattr(type(self), key, None)))
        if clash:
            raise AttributeError(f"An option must not be called like a method of {type(self).__name__}, got {clash}.")
        added = kwargs.pop("added_tokens_decoder", None) or {}
        kwargs = without_list(kwargs)
        self.init_kwargs = copy.deepcopy(kwargs)
        self.name_or_path: str = kwargs.get("name_or_path") or ""
        length = kwargs.get("model_max_length", kwargs.get("max_len"))
        self.model_max_length = NO_MAX_LENGTH if length is None else length
        self.padding_side = _side("padding_side", kwargs.get("padding_side", type(self).padding_side))
        self.truncation_side = _side("truncation_side", kwargs.get("truncation_side", type(self).truncation_side))
        self.model_input_names = list(kwargs.get("model_input_names") or type(self).model_input_names)
        self.clean_up_tokenization_spaces = bool(kwargs.get("clean_up_tokenization_spaces", False))
        self.split_special_tokens = bool(kwargs.get("split_special_tokens", False))
        self.verbose = bool(kwargs.get("verbose", True))
        self.chat_template = _templates(kwargs.get("chat_template"))
        self.extra_special_tokens = dict(kwargs.get("extra_special_tokens") or {})
        self._said = set()
        self._length: int | None = None
        self._start_special_tokens(kwargs, {int(index): _added(token) for index, token in added.items()})

    # What a family says.

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary, without those added to it."""
        raise NotImplementedError

    def _convert_id_to_token(self, index: int) -> str:
        raise NotImplementedError

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text that tokens stand for."""
        raise NotImplementedError

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The vocabulary as a tokenizer of the `tokenizers` library, as it is saved in tokenizer.json.

        Its ids are those of this object on plain text; where the two families' rules say what that library cannot
        (odd white space, rare ties), this object is right.

        Raises:
            TokenizerError: that library cannot hold this vocabulary.
        """
        text = self._backend_json()
        if text is None:
            raise TokenizerError(
                "The `tokenizers` library cannot hold this vocabulary: merges lead to tokens that it lacks. "
                "Use this tokenizer itself."
            )
        return Tokenizer.from_str(text)

    @property
    def is_fast(self) -> bool:
        """Whether the class is one of those that transformers calls fast. Both kinds are equally fast here."""
        return self._windows

    @property
    def max_len_single_sentence(self) -> int:
        """The longest text, in tokens, that leaves room for the special tokens."""
        return self.model_max_length - self.num_special_tokens_to_add(False)

    @property
    def max_len_sentences_pair(self) -> int:
        """The longest pair of texts, in tokens, that leaves room for the special tokens."""
        return self.model_max_length - self.num_special_tokens_to_add(True)

    def __len__(self) -> int:
        """Tokens of the vocabulary, added ones included: the size that the model's embedding must have."""
        if self._length is None:
            self._length = len(self.get_vocab())
        return self._length

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        added = "".join(f"\t{index}: {token!r},\n" for index, token in self.added_tokens_decoder.items())
        return (
            f"{type(self).__name__}(name_or_path='{self.name_or_path}', vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, is_fast={self.is_fast}, padding_side='{self.padding_side}', "
            f"truncation_side='{self.truncation_side}', special_tokens={self.special_tokens_map}, "
            f"clean_up_tokenization_spaces={self.clean_up_tokenization_spaces}, "
            f"added_tokens_decoder={{\n{added}}}\n)"
        )

    def _vocabulary_changed(self) -> None:
        self._length = None

    @property
    def init_inputs(self) -> tuple[Any, ...]:
        """(): every argument is kept by name, in `init_kwargs`."""
        return ()

    def __getstate__(self) -> dict[str, Any]:
        """What makes the tokenizer, without what was worked out on the way: its hash stays as it is used."""
        return {name: value for name, value in vars(self).items() if name not in _WORKED_OUT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._said, self._length = set(), None
        self._forget()

    # Ids and tokens

    def _token_of(self, index: int) -> str:
        token = self._added_by_id.get(index)
        return self._convert_id_to_token(index) if token is None else token.content

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...
    @overload
    def convert_tokens_to_ids(self, tokens: list[str] | tuple[str, ...]) -> list[int]: ...
    @overload
    def convert_tokens_to_ids(self, tokens: None) -> None: ...
    def convert_tokens_to_ids(self, tokens: str | list[str] | tuple[str, ...] | None) -> int | list[int] | None:
        """The id of a token, or the ids of several; an unknown one has the id of the unknown token."""
        if tokens is None:
            return None
        return self._id_of(tokens) if isinstance(tokens, str) else [self._id_of(token) for token in tokens]

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str: ...
    @overload
    def convert_ids_to_tokens(self, ids: Sequence[int], skip_special_tokens: bool = False) -> list[str]: ...
    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> str | list[str]:
        """The token of an id, or the tokens of several.

        Args:
            ids: an id, or a list or tensor of them.
            skip_special_tokens: leave special tokens out of a list.
        Raises:
            IndexError: an id that the vocabulary does not have.
        """
        if isinstance(ids, int):
            return self._token_of(ids)
        wanted = _id_list(ids)
        if skip_special_tokens:
            skipped = self._special_id_set()
            wanted = [index for index in wanted if index not in skipped]
        return list(map(self._tokens.__getitem__, wanted))

    # Decoding

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        """The text of a row of ids.

        Args:
            token_ids: an id, or a list or tensor of shape [T]. Negative ids count as padding.
            skip_special_tokens: leave special tokens out.
            clean_up_tokenization_spaces: take out the spaces before punctuation; by default the tokenizer's setting.
            **kwargs: `spaces_between_special_tokens` (by default True): a space on each side of an added token.
        Raises:
            IndexError: an id that the vocabulary does not have.
        """
        return self._decode(
            token_ids,
            skip_special_tokens=skip_special_tokens,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            **kwargs,
        )

    def _decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        """`decode`, for subclasses to override."""
        spaced = kwargs.pop("spaces_between_special_tokens", True)
        for name in ("use_source_tokenizer", "truncate_before_pattern"):
            kwargs.pop(name, None)
        self._note_unknown(kwargs)
        ids = _id_list(token_ids)
        if ids and min(ids) < 0:
            # Differs from transformers 4.57.6: negative ids, such as the -100 of labels, are padding.
            pad = self.pad_token_id
            ids = [index for index in (pad if i < 0 else i for i in ids) if index is not None]
        if skip_special_tokens:
            skipped = self._special_id_set()
            ids = [index for index in ids if index not in skipped]
        text = None if self._overrides(DECODING) else self._decode_plain(ids)
        if text is None:
            tokens = (
                list(map(self._tokens.__getitem__, ids))
                if not self._overrides(TO_TOKENS)
                else (self.convert_ids_to_tokens(ids))
            )
            text = self._join(tokens, skip_special_tokens, spaced)
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return self.clean_up_tokenization(text) if clean_up_tokenization_spaces else text

    def _decode_plain(self, ids: list[int]) -> str | None:
        """The text of ids, where none of them needs a second look; else None."""
        return None

    def _join(self, tokens: list[str], skip_special: bool, spaced: bool) -> str:
        """The text of tokens: added tokens without a role stand by themselves, the rest is the family's business."""
        special = self._special_token_set()
        if self._alone is None:
            self._alone = self._standing_alone()
        alone = self._alone
        if skip_special and not special.isdisjoint(tokens):
            tokens = [token for token in tokens if token not in special]
        if alone.isdisjoint(tokens):
            return self.convert_tokens_to_string(tokens) if tokens else ""
        parts: list[str] = []
        last = len(tokens)
        for is_alone, group in groupby(enumerate(tokens), lambda item: item[1] in alone):
            run = list(group)
            if is_alone:
                parts += [token for _, token in run]
                continue
            text = self.convert_tokens_to_string([token for _, token in run])
            if text or run[-1][0] == last - 1:
                parts.append(text)
        return (" " if spaced else "").join(parts)

    def _standing_alone(self) -> frozenset[str]:
        """Added tokens that are not special, and special ones without a role that are outside of the vocabulary."""
        added = frozenset(self._added_ids) - self._special_token_set()
        size = self.vocab_size
        return added | {str(token) for token in self._additional if self._id_of(str(token)) >= size}

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """The texts of rows of ids.

        Args:
            sequences: lists of ids, or a tensor of shape [B, T]. Negative ids count as padding.
            skip_special_tokens, clean_up_tokenization_spaces, **kwargs: as in `decode`.
        """
        rows = sequences if isinstance(sequences, list | tuple) else as_list(sequences)
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces, **kwargs) for row in rows]

    @staticmethod
    def clean_up_tokenization(out_string: str) -> str:
        """The text without the spaces that tokenization puts before punctuation and shortened words."""
        for found in _CLEANED:
            out_string = out_string.replace(found, found.strip(" "))
        return out_string

    @contextmanager
    def as_target_tokenizer(self) -> Iterator[None]:
        """Does nothing for these families: sources and targets are tokenized alike. Use `text_target` instead."""
        yield

    def sanitize_special_tokens(self) -> int:
        """How many special tokens were missing from the vocabulary and are in it now."""
        return self.add_tokens(self.all_special_tokens_extended, special_tokens=True)

    def _sources_of_stretch(self, text: str) -> list[TokenSource]:
        raise NotImplementedError


def _id_list(value: Any) -> list[int]:
    if type(value) is list and set(map(type, value)) <= {int}:
        return value
    ids = as_list(value)
    return [ids] if isinstance(ids, int) else list(map(int, ids))


def _side(name: str, value: Any) -> str:
    if value not in SIDES:
        raise TokenizerError(f"`{name}` must be 'right' or 'left', got {value!r}.")
    return str(value)


def _added(token: Any) -> AddedToken:
    if isinstance(token, AddedToken):
        return token
    if isinstance(token, Mapping) and isinstance(token.get("content"), str):
        fields = {key: value for key, value in token.items() if key not in ("content", "__type", "id")}
        try:
            return AddedToken(token["content"], **fields)
        except TypeError as error:
            raise TokenizerError(f"`added_tokens_decoder` holds a token that cannot be read: {error}.") from None
    raise TypeError(f"`added_tokens_decoder` must hold AddedToken or dicts of its fields, got {token!r}.")


def _templates(value: Any) -> str | dict[str, str] | None:
    """A template, or name to template; files hold the latter as a list of {name, template}."""
    if isinstance(value, list | tuple):
        return {item["name"]: item["template"] for item in value}
    return value  # type: ignore[no-any-return]
