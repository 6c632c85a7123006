"""Calling a tokenizer: from texts to padded, truncated, tensor-shaped model inputs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from ...errors import TokenizerError
from .batch_encoding import BatchEncoding
from .call_options import CallOptions, choice, padding_strategy, strategies
from .tensors import as_list, framework_of
from .token_rows import Ids, Pair, TokenRows
from .truncation import truncate


class TokenizerCalls(TokenRows):
    """`__call__` and its relatives."""

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        add_special_tokens: bool = True,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        split_special_tokens: bool | None = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        """The model inputs of a text or a batch of texts: `input_ids`, `attention_mask` and what else is asked for.

        Args:
            text: a text, a list of texts, a list of words or a list of such lists (with `is_split_into_words`).
            text_pair: the text, or texts, that follow in the same row.
            text_target: the text, or texts, to make labels of: with `text` they become `labels` of the result,
                alone they are the result.
            text_pair_target: what follows them.
            add_special_tokens: put the family's special tokens around each text.
            padding: True or "longest", "max_length", or False.
            truncation: True or "longest_first", "only_first", "only_second", or False.
            max_length: in tokens; by default the tokenizer's `model_max_length`.
            stride: how many tokens the parts of an overflowing text share.
            is_split_into_words: the inputs are lists of words.
            pad_to_multiple_of: pad to a multiple of this many tokens.
            padding_side: "right" or "left"; by default the tokenizer's own.
            return_tensors: "pt", "tf", "np", "jax", or None for lists.
            return_token_type_ids: also return 0 and 1 for the first and second text.
            return_attention_mask: return 1 for text and 0 for padding; by default yes.
            return_overflowing_tokens: also return what truncation cuts off. Tokenizers named "Fast" make rows of it
                (`overflow_to_sample_mapping` says of which text), the others `overflowing_tokens`.
            return_special_tokens_mask: also return 1 for special tokens and padding.
            return_offsets_mapping: also return each token's first character and the one past its last.
            return_length: also return the number of tokens.
            verbose: log warnings.
            split_special_tokens: treat special tokens in the text as plain text.
            **kwargs: ignored with a warning.
        Raises:
            TokenizerError: inputs or options that cannot be used.
        """
        if kwargs:
            self._note_unknown(kwargs)
        if text is None and text_target is None:
            raise TokenizerError("`text` or `text_target` must be given, got neither.")
        options = self._options(
            padding, truncation, max_length, stride, padding_side, return_token_type_ids, return_attention_mask,
            verbose, split_special_tokens, add_special_tokens=add_special_tokens,
            split_words=is_split_into_words, pad_to_multiple_of=pad_to_multiple_of, tensors=return_tensors,
            overflow=return_overflowing_tokens, special_tokens_mask=return_special_tokens_mask,
            offsets=return_offsets_mapping, length=return_length,
        )  # fmt: skip
        result = None if text is None else self._call_one("text", text, text_pair, options)
        if text_target is None:
            assert result is not None
            return result
        target = self._call_one("text_target", text_target, text_pair_target, options)
        if result is None:
            return target
        result["labels"] = target["input_ids"]
        return result

    def _call_one(self, name: str, text: Any, pair: Any, options: CallOptions) -> BatchEncoding:
        for which, value in ((name, text), (name.replace("text", "text_pair"), pair)):
            if value is not None and not _is_text(value):
                raise TokenizerError(
                    f"`{which}` must be a str, a list of str, or a list of lists of str, got "
                    f"{type(value).__name__}: {value!r:.80}."
                )
        if isinstance(text, str):
            batched = False
        elif options.split_words:
            batched = bool(text) and isinstance(text[0], list | tuple)
        else:
            batched = True
        if not batched:
            return self._encode_inputs([(text, pair)], options, single=True)
        if isinstance(pair, str):
            raise TypeError(f"`text_pair` must be a list as long as `{name}`, got a str.")
        if pair is not None and len(pair) != len(text):
            raise TokenizerError(f"`text_pair` must be as long as `{name}`, got {len(pair)} and {len(text)}.")
        if pair is None:
            return self._encode_inputs([_as_pair(item, options) for item in text], options, single=False)
        return self._encode_inputs(list(zip(text, pair, strict=True)), options, single=False)

    def encode(
        self,
        text: Any,
        text_pair: Any = None,
        add_special_tokens: bool = True,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        stride: int = 0,
        padding_side: str | None = None,
        return_tensors: Any = None,
        **kwargs: Any,
    ) -> Any:
        """The ids of one text (or of its tokens, or ids): a list, or a tensor of shape [1, S].

        Args:
            text: a text, a list of tokens, or a list of ids.
            text_pair: what follows in the same row.
            add_special_tokens, padding, truncation, max_length, stride, padding_side, return_tensors, **kwargs: as in
                `__call__`.
        """
        return self.encode_plus(
            text, text_pair, add_special_tokens, padding, truncation, max_length, stride,
            padding_side=padding_side, return_tensors=return_tensors, **kwargs,
        )["input_ids"]  # fmt: skip

    def encode_plus(
        self,
        text: Any,
        text_pair: Any = None,
        add_special_tokens: bool = True,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        split_special_tokens: bool | None = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        """The model inputs of one text; `__call__` for a text that may also be a list of tokens or of ids."""
        self._note_unknown(kwargs)
        options = self._options(
            padding, truncation, max_length, stride, padding_side, return_token_type_ids, return_attention_mask,
            verbose, split_special_tokens, add_special_tokens=add_special_tokens,
            split_words=is_split_into_words, pad_to_multiple_of=pad_to_multiple_of, tensors=return_tensors,
            overflow=return_overflowing_tokens, special_tokens_mask=return_special_tokens_mask,
            offsets=return_offsets_mapping, length=return_length,
        )  # fmt: skip
        return self._encode_inputs([(text, text_pair)], options, single=True)

    def batch_encode_plus(
        self,
        batch_text_or_text_pairs: Any,
        add_special_tokens: bool = True,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        split_special_tokens: bool | None = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        """The model inputs of a list of texts, or of pairs of texts; `__call__` for pairs given as (text, text)."""
        self._note_unknown(kwargs)
        if not isinstance(batch_text_or_text_pairs, list | tuple):
            raise TypeError(
                f"`batch_text_or_text_pairs` must be a list or tuple, got {type(batch_text_or_text_pairs).__name__}."
            )
        options = self._options(
            padding, truncation, max_length, stride, padding_side, return_token_type_ids, return_attention_mask,
            verbose, split_special_tokens, add_special_tokens=add_special_tokens,
            split_words=is_split_into_words, pad_to_multiple_of=pad_to_multiple_of, tensors=return_tensors,
            overflow=return_overflowing_tokens, special_tokens_mask=return_special_tokens_mask,
            offsets=return_offsets_mapping, length=return_length,
        )  # fmt: skip
        return self._encode_inputs([_as_pair(item, options) for item in batch_text_or_text_pairs], options, False)

    def prepare_for_model(
        self,
        ids: Ids,
        pair_ids: Ids | None = None,
        add_special_tokens: bool = True,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        prepend_batch_axis: bool = False,
        **kwargs: Any,
    ) -> BatchEncoding:
        """The model inputs of ids: truncated, with special tokens around them, padded.

        Args:
            ids: ids of a text.
            pair_ids: ids of the text that follows in the same row.
            prepend_batch_axis: make tensors of shape [1, S] instead of [S].

        The others are those of `__call__`.
        """
        kwargs.pop("split_special_tokens", None)
        self._note_unknown(kwargs)
        options = self._options(
            padding, truncation, max_length, stride, padding_side, return_token_type_ids, return_attention_mask,
            verbose, add_special_tokens=add_special_tokens, pad_to_multiple_of=pad_to_multiple_of,
            overflow=return_overflowing_tokens, special_tokens_mask=return_special_tokens_mask,
            offsets=return_offsets_mapping, length=return_length,
        )  # fmt: skip
        data = self._encode_inputs([(list(ids), None if pair_ids is None else list(pair_ids))], options, True).data
        return BatchEncoding(data, None, return_tensors, prepend_batch_axis)

    def truncate_sequences(
        self,
        ids: Ids,
        pair_ids: Ids | None = None,
        num_tokens_to_remove: int = 0,
        truncation_strategy: Any = "longest_first",
        stride: int = 0,
    ) -> tuple[Ids, Ids | None, Ids]:
        """The ids of both texts after truncation, and what was cut off.

        Args:
            ids: ids of a text.
            pair_ids: ids of a second one.
            num_tokens_to_remove: how many tokens have to go.
            truncation_strategy: "longest_first", "only_first", "only_second" or "do_not_truncate".
            stride: how many of the tokens that stay are repeated in what was cut off.
        """
        strategy = getattr(truncation_strategy, "value", truncation_strategy)
        return truncate(ids, pair_ids, num_tokens_to_remove, strategy, stride, self.truncation_side)

    def pad(
        self,
        encoded_inputs: Any,
        padding: Any = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Any = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Encoded inputs, padded to one length.

        Args:
            encoded_inputs: a dict or BatchEncoding of one input or of a batch, or a list of them, holding lists or
                tensors; tensors give tensors back.
            padding: True or "longest", "max_length", or False.
            max_length: for padding="max_length"; by default the tokenizer's `model_max_length`.
            pad_to_multiple_of: pad to a multiple of this many tokens.
            padding_side: "right" or "left"; by default the tokenizer's own.
            return_attention_mask: add a mask where there is none; by default yes.
            return_tensors: "pt", "tf", "np", "jax", or None for what was given.
            verbose: log warnings.
        Raises:
            TokenizerError: no `input_ids`, or columns of different lengths.
        """
        main = self.model_input_names[0]
        if isinstance(encoded_inputs, list | tuple):
            inputs = [dict(item) for item in encoded_inputs if isinstance(item, Mapping)]
            data = {key: [item[key] for item in inputs] for key in inputs[0]} if inputs else {}
        else:
            data = dict(encoded_inputs)
        if main not in data:
            raise TokenizerError(f"`encoded_inputs` must hold {main}, got {', '.join(data) or 'nothing'}.")
        given = data[main]
        if given is None or len(given) == 0:
            return BatchEncoding({**data, **({"attention_mask": []} if return_attention_mask else {})})
        kind = framework_of(given) or (framework_of(given[0]) if isinstance(given, list | tuple) else None)
        data = {key: as_list(value) for key, value in data.items()}
        strategy = padding_strategy(padding, None, max_length, verbose)
        if strategy == "max_length" and max_length is None:
            strategy, _, max_length = strategies(padding, None, None, self.model_max_length, self._said, verbose)
        side = self.padding_side if padding_side is None else choice("padding_side", padding_side, ("right", "left"))
        mask = "attention_mask" in self.model_input_names if return_attention_mask is None else return_attention_mask
        options = CallOptions(padding=strategy, max_length=max_length, pad_to_multiple_of=pad_to_multiple_of,
                              padding_side=side, attention_mask=mask)  # fmt: skip
        single = not isinstance(data[main][0], list | tuple)
        columns = {key: [value] for key, value in data.items()} if single else data
        wrong = sorted(key for key, value in columns.items() if len(value) != len(columns[main]))
        if wrong:
            raise TokenizerError(f"`encoded_inputs` must hold columns as long as {main}, got others: {wrong}.")
        self._pad_columns(columns, options)
        result = {key: value[0] for key, value in columns.items()} if single else columns
        return BatchEncoding(result, None, return_tensors if return_tensors is not None else kind)

    def prepare_seq2seq_batch(
        self,
        src_texts: Any,
        tgt_texts: Any = None,
        max_length: int | None = None,
        max_target_length: int | None = None,
        padding: Any = "longest",
        return_tensors: Any = None,
        truncation: Any = True,
        **kwargs: Any,
    ) -> BatchEncoding:
        """The model inputs of source texts with the ids of the target texts as `labels`; `__call__` with
        `text_target` is the newer way to say it.

        Args:
            src_texts: text or texts to read.
            tgt_texts: text or texts to write.
            max_length: of the sources, in tokens; by default the tokenizer's `model_max_length`.
            max_target_length: of the targets; by default `max_length`.
            padding, return_tensors, truncation, **kwargs: as in `__call__`.
        """
        warnings.warn(
            "`prepare_seq2seq_batch` is the old way: call the tokenizer with `text_target` instead.",
            FutureWarning,
            stacklevel=2,
        )
        for name in ("src_lang", "tgt_lang"):
            kwargs.pop(name, None)
        length = self.model_max_length if max_length is None else max_length
        shared = {"padding": padding, "truncation": truncation, "return_tensors": return_tensors, **kwargs}
        result = self(src_texts, max_length=length, **shared)
        if tgt_texts is not None:
            target_length = length if max_target_length is None else max_target_length
            result["labels"] = self(tgt_texts, max_length=target_length, **shared)["input_ids"]
        return result


def _is_text(value: Any) -> bool:
    if isinstance(value, str):
        return True
    if not isinstance(value, list | tuple):
        return False
    if not value or isinstance(value[0], str):
        return True
    return isinstance(value[0], list | tuple) and (not value[0] or isinstance(value[0][0], str | list | tuple))


def _as_pair(item: Any, options: CallOptions) -> Pair:
    """One entry of a batch: a text, or (text, text)."""
    if isinstance(item, str) or not isinstance(item, list | tuple):
        return item, None
    if not options.split_words and len(item) == 2 and isinstance(item[0], str | list | tuple):
        return item[0], item[1]
    if options.split_words and len(item) == 2 and isinstance(item[0], list | tuple):
        return item[0], item[1]
    return item, None
