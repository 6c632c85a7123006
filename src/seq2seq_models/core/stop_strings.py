"""Ending a text at a string, whatever tokens it is made of; for all frameworks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


class StopStrings:
    """Says which rows' newest token completes one of the strings, whatever else the token holds.

    Args:
        strings: one string or several.
        tokenizer: turns ids into text.
    """

    def __init__(self, strings: str | Sequence[str], tokenizer: Any) -> None:
        self.strings = (strings,) if isinstance(strings, str) else tuple(strings)
        self.tokenizer = tokenizer
        # A token holds at least one character, but for marks that show as nothing: some room for those.
        self.tail = max(map(len, self.strings)) + 8

    def __call__(self, rows: Iterable[list[int]]) -> list[bool]:
        """For each row of ids so far, whether its last one has just completed a string."""
        return [self._is_complete(row[-self.tail :]) for row in rows]

    def _is_complete(self, ids: list[int]) -> bool:
        before, text = self.tokenizer.decode(ids[:-1]), self.tokenizer.decode(ids)
        return any(text.count(string) > before.count(string) for string in self.strings)
