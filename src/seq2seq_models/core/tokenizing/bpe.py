"""Byte-pair encoding as BlenderbotSmall does it: subword-nmt's marks ("@@" for "goes on") and text rules of its own."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import pairwise

import regex

_BEFORE = regex.compile(r"([.,!?()])")
_AROUND = regex.compile(r"(')")
_RUN = regex.compile(r"\s{2,}")
_WORD = regex.compile(r"\S+\n?")
_LONG = 60
END = "</w>"
"""What the last symbol of a word ends in while merging."""

GOES_ON = "@@"
"""What a token ends in if the word goes on after it."""

NEW_LINE = "__newln__"


def split_words(text: str) -> list[str]:
    """The words of a text: runs without white space, each with the one newline that may follow it."""
    if text.isascii() and not ("\x1c" in text or "\x1d" in text or "\x1e" in text or "\x1f" in text):
        # There str.split knows the same white space, and is several times faster.
        lines = text.split("\n")
        words = lines[-1].split()
        if len(lines) == 1:
            return words
        found: list[str] = []
        for line in lines[:-1]:
            inside = line.split()
            if inside and not line[-1].isspace():
                inside[-1] += "\n"
            found += inside
        return found + words
    return _WORD.findall(text)  # type: ignore[no-any-return]


def word_spans(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each word in a text."""
    for match in _WORD.finditer(text):
        yield match.span()


def split_parts(word: str) -> list[str]:
    """A word with its punctuation set apart and a newline spelt out, lower-cased."""
    word = _BEFORE.sub(r" \1", word)
    word = _AROUND.sub(r" \1 ", word)
    word = _RUN.sub(" ", word)
    return [part.lower() for part in word.replace("\n", f" {NEW_LINE}").split(" ") if part]


def part_spans(word: str) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """The parts of a word as `split_parts` has them, with the place in the word of each of their characters."""
    marked = [(character, (place, place + 1)) for place, character in enumerate(word)]
    out: list[tuple[str, tuple[int, int]]] = []
    for character, span in marked:
        if character in ".,!?()'":
            out.append((" ", span))
        out.append((character, span))
        if character == "'":
            out.append((" ", span))
    text = "".join(character for character, _ in out)
    for match in reversed(list(_RUN.finditer(text))):
        out[match.start() : match.end()] = [(" ", out[match.start()][1])]
    spelt: list[tuple[str, tuple[int, int]]] = []
    for character, span in out:
        spelt += [(letter, span) for letter in f" {NEW_LINE}"] if character == "\n" else [(character, span)]
    start = 0
    for end in [place for place, (character, _) in enumerate(spelt) if character == " "] + [len(spelt)]:
        inside = spelt[start:end]
        start = end + 1
        if inside:
            # One character may become several in lower case; the case of a final sigma needs the whole part.
            lowered = "".join(character for character, _ in inside).lower()
            origins = [span for character, span in inside for _ in character.lower()]
            yield lowered, origins


class BytePairs:
    """The merges of a vocabulary.

    Args:
        merges: the pairs in the order in which they were learnt.
    """

    def __init__(self, merges: list[tuple[str, ...]]) -> None:
        self.pairs = merges
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}

    def split(self, part: str) -> list[str]:
        """The tokens of a lower-cased part of a word; all but the last end in "@@"."""
        if len(part) == 1:
            return [part]
        symbols = [*part[:-1], part[-1] + END]
        symbols = self._merge_short(symbols) if len(symbols) < _LONG else self._merge_long(symbols)
        tokens = [f"{symbol}{GOES_ON}" for symbol in symbols]
        tokens[-1] = symbols[-1][: -len(END)]
        return tokens

    def _merge_short(self, symbols: list[str]) -> list[str]:
        none = len(self.pairs)
        while len(symbols) > 1:
            rank, pair = min((self.ranks.get(pair, none), pair) for pair in pairwise(symbols))
            if rank == none:
                break
            symbols = _merge(symbols, pair)
        return symbols

    def _merge_long(self, symbols: list[str]) -> list[str]:
        """The same in a time that does not grow with the square of the length: a text may be one word of a megabyte."""
        ranks = self.ranks
        after = [*range(1, len(symbols)), -1]
        before = [*range(-1, len(symbols) - 1)]
        alive: list[str | None] = [*symbols]
        queue = [(ranks[pair], place, pair) for place, pair in enumerate(pairwise(symbols)) if pair in ranks]
        heapify(queue)
        while queue:
            # All places of one pair, from left to right, before any pair that they give rise to.
            rank = queue[0][0]
            changed: list[int] = []
            while queue and queue[0][0] == rank:
                _, place, pair = heappop(queue)
                follower = after[place]
                if follower < 0 or (alive[place], alive[follower]) != pair:
                    continue
                alive[place], alive[follower] = "".join(pair), None
                after[place] = after[follower]
                if after[place] >= 0:
                    before[after[place]] = place
                changed.append(place)
            for place in changed:
                for left in (before[place], place):
                    right = after[left] if left >= 0 else -1
                    fresh = (alive[left], alive[right]) if right >= 0 else None
                    if fresh in ranks:
                        heappush(queue, (ranks[fresh], left, fresh))  # type: ignore[index, misc]
        return [symbol for symbol in alive if symbol is not None]


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    first, second = pair
    merged: list[str] = []
    index, last = 0, len(symbols) - 1
    while index <= last:
        if index < last and symbols[index] == first and symbols[index + 1] == second:
            merged.append(first + second)
            index += 2
        else:
            merged.append(symbols[index])
            index += 1
    return merged
