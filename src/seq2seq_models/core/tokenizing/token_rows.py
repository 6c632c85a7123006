"""From texts to rows of ids: found, truncated, closed with special tokens, padded, and traced back on demand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from ...errors import TokenizerError
from .batch_encoding import BatchEncoding
from .call_options import CallOptions, check_multiple, choice, strategies, warn_once
from .encoding import Encoding, TokenSource
from .special_tokens import SpecialTokens
from .truncation import truncate, windows

logger = logging.getLogger(__name__)

Ids = list[int]
Pair = tuple[Any, Any]
"""A text and the text that goes with it, or None."""


class TokenRows(SpecialTokens):
    """What stands between a family's view of a stretch of text and the public calls."""

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

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """The tokens of a stretch of text without added tokens. What overrides it is asked by everything."""
        return self._tokens_of_stretch(text)

    def prepare_for_tokenization(
        self, text: str, is_split_into_words: bool = False, **kwargs: Any
    ) -> tuple[str, dict[str, Any]]:
        """The text as it is to be tokenized, and the arguments that are left. What overrides it is asked first.

        Args:
            text: any text.
            is_split_into_words: whether it is one word of several.
            **kwargs: arguments of `tokenize`.
        """
        return text, kwargs

    def _overrides(self, names: frozenset[str]) -> bool:
        """Whether one of these methods is not this library's own."""
        kind: Any = type(self)
        return not names.isdisjoint(vars(self)) or _has_own(kind, names)

    def _encode_text(self, text: str, split_special: bool = False) -> Ids:
        if self._overrides(TOKENIZING):
            return self.convert_tokens_to_ids(self.tokenize(text, split_special_tokens=split_special))  # type: ignore[no-any-return]
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

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs: Any
    ) -> list[str]:
        """The tokens of a text.

        Args:
            text: any text.
            pair: a second text; its tokens follow.
            add_special_tokens: put the family's special tokens around them.
            **kwargs: `split_special_tokens` to treat special tokens in the text as plain text.
        """
        split_special = kwargs.pop("split_special_tokens", self.split_special_tokens)
        is_word = bool(kwargs.pop("is_split_into_words", False))
        text, kwargs = self.prepare_for_tokenization(text, is_word, **kwargs)
        if pair is not None:
            pair, _ = self.prepare_for_tokenization(pair, is_word)
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
            return self._tokenize(text)
        tokens: list[str] = []
        for part, _, found in self._split_added(text):
            tokens += self._tokenize(part) if found is None else [part]
        return tokens

    def _sources_of_text(self, text: str, split_special: bool) -> list[TokenSource]:
        if self._overrides(TOKENIZING):
            raise TokenizerError(
                f"places of tokens in the text are known for this library's own way of tokenizing only, and "
                f"{type(self).__name__} has another one. Leave out `return_offsets_mapping` and the like."
            )
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

    # Options

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


TOKENIZING = frozenset(
    {"tokenize", "_tokenize", "prepare_for_tokenization", "convert_tokens_to_ids", "_convert_token_to_id"}
)
"""Methods that a subclass may override and that decide the ids of a text."""


@lru_cache(64)
def _has_own(kind: type, names: frozenset[str]) -> bool:
    """Whether a class has one of these methods from elsewhere than this library."""
    own = __name__.split(".")[0]
    homes = (next((one for one in kind.__mro__ if name in vars(one)), kind) for name in names if hasattr(kind, name))
    return any(home.__module__.split(".")[0] != own for home in homes)


def _joined(first: Ids, second: Ids | None) -> Ids:
    return first if second is None else first + second


def _type_ids(first: Ids, second: Ids | None) -> Ids:
    return [0] * len(first) + [1] * len(second or ())
