"""What a tokenizer returns: a mapping of input names to lists or tensors, and where each token stands in the text."""

from __future__ import annotations

import logging
from collections import UserDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

from ...errors import TokenizerError
from .encoding import Encoding
from .tensors import is_tensor_of, tensor_maker

logger = logging.getLogger(__name__)


class CharSpan(NamedTuple):
    """Characters of a text: the first, and one past the last."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens of a row: the first, and one past the last."""

    start: int
    end: int


class BatchEncoding(UserDict[str, Any]):
    """The inputs of a model: `input_ids`, `attention_mask` and what else was asked for, as items and as attributes.

    An int as key gives the Encoding of that row, a slice gives the rows as a plain dict.

    Args:
        data: input names to lists or tensors.
        encoding: Encoding of each row (or of the only one), or a function that makes them when they are asked for.
        tensor_type: "pt", "tf", "np" or "jax" to turn all lists into tensors.
        prepend_batch_axis: put the lists into a list first, when making tensors.
        n_sequences: texts per row, 1 or 2.
    """

    def __init__(
        self,
        data: dict[str, Any] | None = None,
        encoding: Encoding | Sequence[Encoding] | Callable[[], list[Encoding]] | None = None,
        tensor_type: Any = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
    ) -> None:
        self.data = {} if data is None else dict(data)
        self._encodings = [encoding] if isinstance(encoding, Encoding) else encoding
        self._n_sequences = n_sequences
        if tensor_type is not None:
            self.convert_to_tensors(tensor_type, prepend_batch_axis)

    @property
    def n_sequences(self) -> int | None:
        """Texts per row: 1, 2 for pairs, None if not known."""
        if self._n_sequences is None and self._encodings is not None and self.encodings:
            self._n_sequences = self.encodings[0].n_sequences
        return self._n_sequences

    @property
    def is_fast(self) -> bool:
        """Whether tokens can be traced back to the text."""
        return self._encodings is not None

    @property
    def encodings(self) -> list[Encoding] | None:
        """Encoding of each row; None if the tokens cannot be traced back to a text."""
        if callable(self._encodings):
            self._encodings = self._encodings()
        return None if self._encodings is None else list(self._encodings)

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, str):
            return self.data[item]
        if isinstance(item, slice):
            return {key: value[item] for key, value in self.data.items()}
        if isinstance(item, int) and self._encodings is not None:
            return self._rows()[item]
        raise KeyError(
            f"A key must be an input name, a slice, or (where tokens can be traced back) a row, got {item!r}."
        )

    def __getattr__(self, name: str) -> Any:
        # Not via self.data: while unpickling there is none yet.
        data = self.__dict__.get("data", {})
        if name in data:
            return data[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "encodings": self.encodings, "n_sequences": self._n_sequences}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.data = state["data"]
        self._encodings = state["encodings"]
        self._n_sequences = state["n_sequences"]

    def _rows(self) -> list[Encoding]:
        rows = self.encodings
        if rows is None:
            raise TokenizerError(
                "Tokens can be traced back to the text only in what a tokenizer returned for a text; "
                "this BatchEncoding was made of ids."
            )
        return rows

    def _place(self, batch_or_index: int, index: int | None) -> tuple[Encoding, int]:
        """The row and the place in it that a pair of arguments means; one argument alone means a place in row 0."""
        row, place = (0, batch_or_index) if index is None else (batch_or_index, index)
        rows = self._rows()
        return rows[row], place

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row."""
        return self._rows()[batch_index].tokens

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row: 0 or 1 for the first or second text, None for tokens that were put around them."""
        return self._rows()[batch_index].sequence_ids

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row: the number of its word, None for tokens that were put around the text."""
        return self._rows()[batch_index].word_ids

    def words(self, batch_index: int = 0) -> list[int | None]:
        """The old name of `word_ids`."""
        return self.word_ids(batch_index)

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """0 or 1 for a token of the first or second text; None for one that was put around them."""
        row, place = self._place(batch_or_token_index, token_index)
        return row.token_to_sequence(place)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The number of the word that a token belongs to."""
        row, place = self._place(batch_or_token_index, token_index)
        return row.token_to_word(place)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word; None if it has none."""
        row, place = self._place(batch_or_word_index, word_index)
        found = row.word_to_tokens(place, sequence_index)
        return None if found is None else TokenSpan(*found)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters that a token stands for; None for one that was put around the text."""
        row, place = self._place(batch_or_token_index, token_index)
        found = row.token_to_chars(place)
        return None if found is None else CharSpan(*found)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The token that a character belongs to; None for white space."""
        row, place = self._place(batch_or_char_index, char_index)
        return row.char_to_token(place, sequence_index)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """The characters of a word; None if it has no tokens."""
        row, place = self._place(batch_or_word_index, word_index)
        found = row.word_to_chars(place, sequence_index)
        return None if found is None else CharSpan(*found)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The number of the word that a character belongs to; None for white space."""
        row, place = self._place(batch_or_char_index, char_index)
        return row.char_to_word(place, sequence_index)

    def convert_to_tensors(self, tensor_type: Any = None, prepend_batch_axis: bool = False) -> Self:
        """This object, its lists turned into tensors.

        Args:
            tensor_type: "pt", "tf", "np" or "jax"; None changes nothing.
            prepend_batch_axis: put the lists into a list first.
        Raises:
            TokenizerError: lists of different lengths, or an unknown `tensor_type`.
            MissingFrameworkError: the framework is not installed.
        """
        if tensor_type is None:
            return self
        make = tensor_maker(tensor_type)
        for key, value in self.data.items():
            if is_tensor_of(tensor_type, value):
                continue
            try:
                self.data[key] = make([value] if prepend_batch_axis else value)
            except (ValueError, TypeError, OverflowError) as error:
                raise TokenizerError(
                    f"`{key}` must be rows of one length to make a tensor of it, got rows that differ or nest. "
                    "Pass padding=True (and truncation=True)"
                    + (", or leave out return_tensors." if key == "overflowing_tokens" else ".")
                ) from error
        return self

    def to(self, device: Any, *, non_blocking: bool = False) -> Self:
        """This object, its PyTorch tensors moved to a device.

        Args:
            device: a device, its name, or a number.
            non_blocking: do not wait for the copy.
        """
        import torch

        if not isinstance(device, str | int | torch.device):
            logger.warning("A BatchEncoding can be moved to a device only, not to %s: left as it is.", device)
            return self
        self.data = {
            key: value.to(device=device, non_blocking=non_blocking) if isinstance(value, torch.Tensor) else value
            for key, value in self.data.items()
        }
        return self
