"""Calling a tokenizer: from texts to padded, truncated, tensor-shaped model inputs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import TokenizerError
from .batch_encoding import BatchEncoding
from .call_options import CallOptions, check_multiple, choice, padding_strategy, strategies, warn_once
from .encoding import Encoding, TokenSource
from .special_tokens import SpecialTokens
from .tensors import as_list, framework_of
from .truncation import truncate, windows

logger = logging.getLogger(__name__)

Ids = list[int]
Pair = tuple[Any, Any]
"""A text and the text that goes with it, or None."""


class TokenizerCalls(SpecialTokens):
    """`__call__` and its relatives, over what a family says about a stretch of text."""

    model_input_names: Sequence[str] = ("input_ids", "attention_mask")
    padding_side: str = "right"
    truncation_side: str = "right"
    model_max_length: int
    split_special_tokens: bool
    pad_token_type_id = 0
    _said: set[str]
    _windows = False
    """Whether tokens that overflow make rows of their own, as in the fast tokenizers of transformers."""

    # What a family says.

    def _encode_stretch(self, text: str) -> Ids:
        """Ids of a text without added tokens."""
        raise NotImplementedError

    def _tokens_of_stretch(self, text: str) -> list[str]:
        """Tokens of a text without added tokens."""
        raise NotImplementedError

    def _sources_of_stretch(self, text: str) -> list[TokenSource]:
        """The same tokens with their places; words are numbered from 0."""
        raise NotImplementedError

    def build_inputs_with_special_tokens(self, token_ids_0: Ids, token_ids_1: Ids | None = None) -> Ids:
        """The ids of one text, or of two, with the family's special tokens put around them."""
        return token_ids_0 if token_ids_1 is None else token_ids_0 + token_ids_1

    def get_special_tokens_mask(
        self, token_ids_0: Ids, token_ids_1: Ids | None = None, already_has_special_tokens: bool = False
    ) -> Ids:
        """1 for each special token, else 0.

        Args:
            token_ids_0: ids of a text.
            token_ids_1: ids of a second one.
            already_has_special_tokens: the ids have the family's special tokens around them. Without that, the mask is
                that of the ids with those tokens put around them.
        """
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise TokenizerError(
                    "`token_ids_1` must be None when the ids already have their special tokens. Pass one list."
                )
            special = self._special_id_set()
            return [int(index in special) for index in token_ids_0]
        return [0] * (len(token_ids_0) + len(token_ids_1 or ()))

    def create_token_type_ids_from_sequences(self, token_ids_0: Ids, token_ids_1: Ids | None = None) -> Ids:
        """0 for each token of the first text, 1 for those of the second; as long as the ids with special tokens."""
        # Differs from transformers 4.57.6: as long as the ids, where its slow tokenizers forget the closing token.
        whole = len(self.build_inputs_with_special_tokens(token_ids_0, token_ids_1))
        first = whole if token_ids_1 is None else len(token_ids_0)
        return [0] * first + [1] * (whole - first)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens are put around a text, or around a pair."""
        return len(self.build_inputs_with_special_tokens([], [] if pair else None))

    # Text to ids

    def _encode_text(self, text: str, split_special: bool = False) -> Ids:
        if split_special:
            return [self._id_of(token) for token in self._tokens_of_stretch(text)]
        pattern = self._added_pattern()
        if pattern is None or pattern.search(text) is None:
            return self._encode_stretch(text)
        ids: Ids = []
        for part, _, found in self._split_added(text):
            if found is None:
                ids += self._encode_stretch(part)
            else:
                ids.append(found)
        return ids

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs: Any) -> list[str]:
        """The tokens of a text.

        Args:
            text: any text.
            pair: a second text; its tokens follow.
            add_special_tokens: put the family's special tokens around them.
            **kwargs: `split_special_tokens` to treat special tokens in the text as plain text.
        """
        split_special = kwargs.pop("split_special_tokens", self.split_special_tokens)
        kwargs.pop("is_split_into_words", None)
        self._note_unknown(kwargs)
        tokens = self._tokens_of_text(text, split_special)
        second = None if pair is None else self._tokens_of_text(pair, split_special)
        if not add_special_tokens:
            return tokens + (second or [])
        # The special tokens come as ids among tokens.
        whole: list[Any] = self.build_inputs_with_special_tokens(tokens, second)  # type: ignore[arg-type]
        return [token if isinstance(token, str) else self._token_of(token) for token in whole]

    def _tokens_of_text(self, text: str, split_special: bool) -> list[str]:
        if not isinstance(text, str):
            raise TypeError(f"`text` must be a str, got {type(text).__name__}.")
        if split_special:
            return self._tokens_of_stretch(text)
        tokens: list[str] = []
        for part, _, found in self._split_added(text):
            tokens += self._tokens_of_stretch(part) if found is None else [part]
        return tokens

    def _sources_of_text(self, text: str, split_special: bool) -> list[TokenSource]:
        found: list[TokenSource] = []
        word = 0
        for part, place, added in [(text, 0, None)] if split_special else self._split_added(text):
            if added is not None:
                found.append(TokenSource(added, part, place, place + len(part), word))
                word += 1
                continue
            inside = self._sources_of_stretch(part)
            found += [
                replace(source, start=source.start + place, end=source.end + place, word=source.word + word)
                for source in inside
            ]
            word += inside[-1].word + 1 if inside else 0
        if split_special:
            return [replace(source, id=self._id_of(source.token)) for source in found]
        return found

    def _input_ids(self, text: Any, options: CallOptions) -> Ids:
        """Ids of one input: a text, a list of words, of tokens or of ids."""
        if isinstance(text, str):
            return self._encode_text(text, options.split_special_tokens)
        if isinstance(text, list | tuple):
            if not text:
                return []
            if options.split_words and isinstance(text[0], str):
                ids: Ids = []
                for word in text:
                    ids += self._encode_text(word, options.split_special_tokens)
                return ids
            if isinstance(text[0], str):
                return [self._id_of(token) for token in text]
            if isinstance(text[0], int):
                return list(text)
        raise TokenizerError(
            "An input must be a str, a list of words (with is_split_into_words=True), of tokens or of ids, "
            f"got {type(text).__name__}: {text!r:.80}."
        )

    def _input_sources(self, text: Any, options: CallOptions, sequence: int) -> list[TokenSource]:
        """The same as `_input_ids`, token by token with its place."""
        if isinstance(text, str):
            found = self._sources_of_text(text, options.split_special_tokens)
        elif options.split_words and text and isinstance(text[0], str):
            found = [
                replace(source, word=number)
                for number, word in enumerate(text)
                for source in self._sources_of_text(word, options.split_special_tokens)
            ]
        else:
            ids = self._input_ids(text, options)
            found = [TokenSource(index, self._token_of(index), 0, 0, place) for place, index in enumerate(ids)]
        return [replace(source, sequence=sequence) for source in found] if sequence else found

    # Rows

    def _rows(self, pairs: Sequence[tuple[Any, Any]], options: CallOptions) -> Iterator[tuple[int, Any, Any, Any, int]]:
        """For each row: which input it is of, its two parts, what was cut off, and how many tokens too long it was.

        The parts are lists of ids, or of anything else that has one entry per token.
        """
        cuts = options.truncation != "do_not_truncate" and bool(options.max_length)
        limit = options.max_length or 0
        around = {False: 0, True: 0}
        if options.add_special_tokens:
            around = {pair: self.num_special_tokens_to_add(pair) for pair in (False, True)}
        for number, (first, second) in enumerate(pairs):
            pair = second is not None
            length = len(first) + (len(second) if pair else 0) + around[pair]
            if options.overflow and options.truncation == "longest_first" and pair:
                raise TokenizerError(
                    "`truncation` must be 'only_first' or 'only_second' to return the overflowing tokens of a pair, "
                    "got 'longest_first'."
                )
            if not cuts or length <= limit:
                yield number, first, second, [], length - limit
            elif options.overflow and self._windows:
                for one, other in windows(first, second, limit - around[pair], options, self.truncation_side):
                    yield number, one, other, [], length - limit
            else:
                one, other, rest = truncate(
                    first, second, length - limit, options.truncation, options.stride, self.truncation_side
                )
                yield number, one, other, rest, length - limit

    def _assemble(self, pairs: Sequence[tuple[Ids, Ids | None]], options: CallOptions) -> dict[str, list[Any]]:
        """All rows as columns, not padded yet."""
        columns: dict[str, list[Any]] = {}
        if options.overflow:
            columns.update({"overflow_to_sample_mapping": []} if self._windows else
                           {"overflowing_tokens": [], "num_truncated_tokens": []})  # fmt: skip
        ids = columns["input_ids"] = []
        for name in ("token_type_ids", "special_tokens_mask"):
            if getattr(options, name):
                columns[name] = []
        build = self.build_inputs_with_special_tokens if options.add_special_tokens else _joined
        for number, first, second, rest, excess in self._rows(pairs, options):
            row = build(first, second)
            ids.append(row)
            if options.overflow and self._windows:
                columns["overflow_to_sample_mapping"].append(number)
            elif options.overflow:
                columns["overflowing_tokens"].append(rest)
                # Differs from transformers 4.57.6: 0 without a max_length, where it raises a TypeError.
                columns["num_truncated_tokens"].append(0 if options.max_length is None else excess)
            if options.token_type_ids:
                make = self.create_token_type_ids_from_sequences if options.add_special_tokens else _type_ids
                columns["token_type_ids"].append(make(first, second))
            if options.special_tokens_mask:
                mask = self.get_special_tokens_mask(first, second) if options.add_special_tokens else [0] * len(row)
                columns["special_tokens_mask"].append(mask)
        if options.length:
            columns["length"] = [len(row) for row in ids]
        if options.max_length is None and options.verbose and ids:
            self._warn_if_too_long(max(map(len, ids)))
        return columns

    def _warn_if_too_long(self, length: int) -> None:
        if length > self.model_max_length != 0:
            warn_once(self._said, "length", True, f"A text has {length} tokens and the model takes "
                      f"{self.model_max_length}. Pass truncation=True, or the model will refuse it.")  # fmt: skip

    def _pad_columns(self, columns: dict[str, list[Any]], options: CallOptions) -> None:
        """Pads all columns in place and adds the attention mask."""
        rows = columns[self.model_input_names[0]]
        given = columns.get("attention_mask")
        masks = given
        if options.attention_mask and given is None:
            masks = columns["attention_mask"] = [[1] * len(row) for row in rows]
        width = self._width(max(map(len, rows), default=0), options)
        if width is None or not rows:
            return
        fills = {self.model_input_names[0]: self.pad_token_id}
        if masks is not None and options.attention_mask:
            fills["attention_mask"] = 0
        fills.update({"token_type_ids": self.pad_token_type_id} if "token_type_ids" in columns else {})
        fills.update({"special_tokens_mask": 1} if "special_tokens_mask" in columns else {})
        gaps = [width - len(row) for row in rows]
        for name, fill in fills.items():
            if options.padding_side == "right":
                columns[name] = [
                    row + [fill] * gap if gap > 0 else row for row, gap in zip(columns[name], gaps, strict=True)
                ]
            else:
                columns[name] = [
                    [fill] * gap + row if gap > 0 else row for row, gap in zip(columns[name], gaps, strict=True)
                ]

    def _width(self, longest: int, options: CallOptions) -> int | None:
        """The length to pad to; None for no padding."""
        if options.padding == "do_not_pad":
            return None
        if self.pad_token is None:
            raise TokenizerError(
                "`pad_token` must be set in order to pad, got None. Set it: tokenizer.pad_token = tokenizer.eos_token."
            )
        width = longest if options.padding == "longest" or options.max_length is None else options.max_length
        multiple = options.pad_to_multiple_of
        return width if multiple is None else -(-width // multiple) * multiple

    def _encode_inputs(self, inputs: Sequence[Pair], options: CallOptions, single: bool) -> BatchEncoding:
        """The result of a call for a batch of (text, text or None); `single` takes the batch axis off again."""
        check_multiple(options)
        pairs: list[tuple[Ids, Ids | None]] = [
            (self._input_ids(one, options), None if other is None else self._input_ids(other, options))
            for one, other in inputs
        ]
        columns = self._assemble(pairs, options)
        self._pad_columns(columns, options)
        if single and options.length:
            columns["length"] = [len(row) for row in columns["input_ids"]]
        encodings = self._tracer(inputs, options)
        if options.offsets:
            columns["offset_mapping"] = [row.offsets for row in encodings()]
        keep_axis = options.tensors is not None or (options.overflow and self._windows)
        data = columns if keep_axis or not single else {name: column[0] for name, column in columns.items()}
        pair = any(other is not None for _, other in inputs)
        return BatchEncoding(data, encodings, options.tensors, n_sequences=2 if pair else 1)

    def _tracer(self, inputs: Sequence[Pair], options: CallOptions) -> Callable[[], list[Encoding]]:
        """What makes the Encoding of every row when somebody asks: most callers never do."""

        def trace() -> list[Encoding]:
            pairs = [
                (
                    self._input_sources(one, options, 0),
                    None if other is None else self._input_sources(other, options, 1),
                )
                for one, other in inputs
            ]
            build: Any = self.build_inputs_with_special_tokens if options.add_special_tokens else _joined
            rows = [build(first, second) for _, first, second, _, _ in self._rows(pairs, options)]
            width = self._width(max(map(len, rows), default=0), options) or 0
            found = []
            for row in rows:
                gap = max(width - len(row), 0)
                fill = [self.pad_token_id] * gap
                padded = row + fill if options.padding_side == "right" else fill + row
                found.append(Encoding.of(padded, self._token_of, gap, options.padding_side))
            return found

        return trace

    # Calls

    def _options(
        self,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        stride: int = 0,
        padding_side: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        verbose: bool = True,
        split_special_tokens: bool | None = None,
        **rest: Any,
    ) -> CallOptions:
        pad, cut, length = strategies(padding, truncation, max_length, self.model_max_length, self._said, verbose)
        names = self.model_input_names
        if return_token_type_ids and not rest.get("add_special_tokens", True):
            raise TokenizerError(
                "`return_token_type_ids` must not be True with add_special_tokens=False. Leave one of them out."
            )
        side = self.padding_side if padding_side is None else choice("padding_side", padding_side, ("right", "left"))
        return CallOptions(
            padding=pad,
            truncation=cut,
            max_length=length,
            stride=stride,
            padding_side=side,
            token_type_ids="token_type_ids" in names if return_token_type_ids is None else return_token_type_ids,
            attention_mask="attention_mask" in names if return_attention_mask is None else return_attention_mask,
            verbose=verbose,
            split_special_tokens=self.split_special_tokens if split_special_tokens is None else split_special_tokens,
            **rest,
        )

    def _note_unknown(self, kwargs: Mapping[str, Any]) -> None:
        if kwargs:
            logger.warning("Options that a tokenizer does not know have no effect: %s", ", ".join(sorted(kwargs)))

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
            add_special_tokens, padding, truncation, max_length, stride, pad_to_multiple_of, padding_side,
                return_tensors, return_token_type_ids, return_attention_mask, return_overflowing_tokens,
                return_special_tokens_mask, return_offsets_mapping, return_length, verbose, **kwargs: as in `__call__`.
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
        wants_mask = "attention_mask" in self.model_input_names if return_attention_mask is None else return_attention_mask
        options = CallOptions(padding=strategy, max_length=max_length, pad_to_multiple_of=pad_to_multiple_of,
                              padding_side=side, attention_mask=wants_mask)  # fmt: skip
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


def _joined(first: Ids, second: Ids | None) -> Ids:
    return first if second is None else first + second


def _type_ids(first: Ids, second: Ids | None) -> Ids:
    return [0] * len(first) + [1] * len(second or ())


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
