"""One encoded row, token by token, and where its tokens come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class TokenSource:
    """Where one token comes from.

    Attributes:
        id: of the token.
        token: as text.
        start: first character in the text (in the word, for an input that is a list of words).
        end: one past the last character.
        word: number of the word in the text; of the list, for an input that is a list of words.
        sequence: 0 or 1, for the first or second text of a pair.
    """

    id: int
    token: str
    start: int
    end: int
    word: int
    sequence: int = 0


@dataclass
class Encoding:
    """One row of a batch: ids and masks, and for each token its place in the text.

    Attributes:
        ids: ids of the tokens.
        type_ids: 1 for tokens of the second text, else 0.
        tokens: the tokens as text.
        offsets: start and end of each token in its text; (0, 0) for tokens that were put around it.
        attention_mask: 0 for padding, else 1.
        special_tokens_mask: 1 for tokens that were put around the text, else 0.
        overflowing: the rows that truncation cut off, where they were asked for.
    """

    ids: list[int]
    type_ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]
    attention_mask: list[int]
    special_tokens_mask: list[int]
    sources: list[TokenSource | None]
    overflowing: list[Encoding] = field(default_factory=list)

    @classmethod
    def of(cls, row: list[Any], token_of: Any, padding: int, padding_side: str) -> Encoding:
        """The encoding of a row of TokenSource and plain ids; `padding` ids at that side of it are padding."""
        sources = [item if isinstance(item, TokenSource) else None for item in row]
        kept = len(row) - padding
        mask = [1] * kept + [0] * padding if padding_side == "right" else [0] * padding + [1] * kept
        return cls(
            ids=[item.id if isinstance(item, TokenSource) else item for item in row],
            type_ids=[source.sequence if source else 0 for source in sources],
            tokens=[item.token if isinstance(item, TokenSource) else token_of(item) for item in row],
            offsets=[(source.start, source.end) if source else (0, 0) for source in sources],
            attention_mask=mask,
            special_tokens_mask=[0 if source else 1 for source in sources],
            sources=sources,
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_sequences(self) -> int:
        """Texts in this row, 1 or 2."""
        return max((source.sequence for source in self.sources if source), default=0) + 1

    @property
    def word_ids(self) -> list[int | None]:
        """Number of the word of each token."""
        return [source.word if source else None for source in self.sources]

    words = word_ids

    @property
    def sequence_ids(self) -> list[int | None]:
        """Number of the text of each token."""
        return [source.sequence if source else None for source in self.sources]

    def token_to_sequence(self, token_index: int) -> int | None:
        """Number of the text that a token belongs to."""
        source = self.sources[token_index]
        return None if source is None else source.sequence

    def token_to_word(self, token_index: int) -> int | None:
        """Number of the word that a token belongs to."""
        source = self.sources[token_index]
        return None if source is None else source.word

    def token_to_chars(self, token_index: int) -> tuple[int, int] | None:
        """Start and end of a token in its text."""
        source = self.sources[token_index]
        return None if source is None else (source.start, source.end)

    def word_to_tokens(self, word_index: int, sequence_index: int = 0) -> tuple[int, int] | None:
        """First token of a word, and one past the last."""
        places = [
            place
            for place, source in enumerate(self.sources)
            if source and source.word == word_index and source.sequence == sequence_index
        ]
        return (places[0], places[-1] + 1) if places else None

    def word_to_chars(self, word_index: int, sequence_index: int = 0) -> tuple[int, int] | None:
        """Start and end of a word in its text."""
        found = self.word_to_tokens(word_index, sequence_index)
        return None if found is None else (self.offsets[found[0]][0], self.offsets[found[1] - 1][1])

    def char_to_token(self, char_pos: int, sequence_index: int = 0) -> int | None:
        """The token that a character belongs to."""
        for place, source in enumerate(self.sources):
            if source and source.sequence == sequence_index and source.start <= char_pos < source.end:
                return place
        return None

    def char_to_word(self, char_pos: int, sequence_index: int = 0) -> int | None:
        """Number of the word that a character belongs to."""
        token = self.char_to_token(char_pos, sequence_index)
        return None if token is None else self.token_to_word(token)
