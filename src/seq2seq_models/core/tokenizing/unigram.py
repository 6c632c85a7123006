"""Unigram segmentation as SentencePiece does it, to the last bit: text to piece ids, and the place of each in the text.

SentencePiece adds log probabilities in float32 along the whole text, so that the rounding of what stands before can
decide between two segmentations of a word that are nearly equally probable ("---" is a common case). Here each word is
segmented once in float64 and remembered together with the distance to the second-best segmentation. Where that
distance is larger than any rounding can be, the remembered answer is the answer; only elsewhere is the text's
running float32 sum needed, and then it is computed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from .charsmap import Charsmap, Chunk
from .spiece import PieceType, SentencePieceModel

SPACE = "\u2581"
"""How SentencePiece writes a space."""

_UNKNOWN_PENALTY = 10.0
_NEVER = float("-inf")
_WORDS_KEPT = 200_000
_SURE = 2.0**-9
"""A word is "sure" if the gap, over its length, is above this: half a unit in the last place of a sum below 2**14."""
_REBASED = -100_000.0
"""A sum below this is set to 0, and the others by as much; sentencepiece 0.2.3 does that, found by trying."""
_FLOAT = struct.Struct("<f")


def _is_sure(gap: float, lowest: float) -> bool:
    """Whether rounding cannot change a word with this gap where no sum is below `lowest`."""
    return lowest > _REBASED and gap > -lowest * 2.0**-22


def _single(value: float) -> float:
    return _FLOAT.unpack(_FLOAT.pack(value))[0]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class PieceSpan:
    """One piece in a text.

    Attributes:
        piece: what the text is here, after the character rules.
        id: its id in the vocabulary.
        start: first character of the original text.
        end: one past the last one.
    """

    piece: str
    id: int
    start: int
    end: int


class _Words(dict[str, tuple[int, ...]]):
    """Word to ids, filled on demand; with the gap of each word and the set of those that rounding could change."""

    def __init__(self, model: Unigram) -> None:
        super().__init__({"": ()})
        self.model = model
        self.gaps: dict[str, float] = {}
        self.close: set[str] = set()

    def __missing__(self, word: str) -> tuple[int, ...]:
        path, gap = self.model.best(SPACE + word)
        ids = self.model.fuse(SPACE + word, path)
        # Unknown characters, fused or spelt in bytes, hide how much they add to the sum: such a word is never sure.
        gap = 0.0 if any(index == self.model.unk_id for _, index in path) else gap / (len(word) + 3)
        # Before the ids, so that another thread that finds the ids finds these too.
        self.gaps[word] = gap
        if gap <= _SURE:
            self.close.add(word)
        self[word] = ids
        return ids


class Unigram:
    """A unigram vocabulary that segments text.

    Args:
        model: pieces, scores and rules.
    """

    def __init__(self, model: SentencePieceModel) -> None:
        self.model = model
        self.rules = Charsmap(model.charsmap)
        self.denormalizer = Charsmap(model.denormalizer_charsmap) if model.denormalizer_charsmap else None
        self.ids = {piece: index for index, piece in enumerate(model.pieces)}
        self.unk_id = model.unk_id
        normal = [s for s, kind in zip(model.scores, model.types, strict=True) if kind == PieceType.NORMAL]
        self.unk_score = _single(min(normal, default=0.0) - _UNKNOWN_PENALTY)
        self.candidates = self._candidates()
        """What can stand in a segmentation: piece to (score, id)."""
        self.scores = {index: score for score, index in self.candidates.values()}
        self.longest = max(map(len, self.candidates), default=1)
        self.nodes = _nodes(self.candidates)
        """What pieces begin with: to (score, id or -1, whether a longer piece begins with it)."""
        symbols = [p for p, kind in zip(model.pieces, model.types, strict=True) if kind == PieceType.USER_DEFINED]
        self.symbols = tuple(sorted(symbols, key=len, reverse=True))
        self.by_words = self._can_go_by_words()
        self._words = _Words(self)

    def _candidates(self) -> dict[str, tuple[float, int]]:
        found: dict[str, tuple[float, int]] = {}
        for index, piece in enumerate(self.model.pieces):
            kind, score = self.model.types[index], self.model.scores[index]
            if kind == PieceType.USER_DEFINED:
                # SentencePiece 0.2.3's bonus, so that such a piece always wins.
                found[piece] = (_single(0.1 * (len(piece.encode()) - 1)), index)
            elif kind == PieceType.NORMAL:
                found[piece] = (score, index)
        return found

    def _can_go_by_words(self) -> bool:
        """Whether no piece crosses a space, so that each word can be segmented by itself."""
        model = self.model
        if not (model.add_dummy_prefix and model.remove_extra_whitespaces and model.escape_whitespaces):
            return False
        if model.whitespace_as_suffix or SPACE not in self.candidates or not self.rules.plain:
            return False
        for symbol in self.symbols:
            if symbol.translate(self.rules.table) != symbol or not self.rules.is_exact(symbol) or " " in symbol:
                return False
        return not any(SPACE in piece[1:] for piece in self.candidates)

    def encode(self, text: str) -> list[int]:
        """Ids of the pieces of a text, runs of unknown characters as one unknown id."""
        if self.by_words:
            clean = text.translate(self.rules.table)
            if SPACE not in clean and self.rules.is_exact(text):
                return self._encode_words(clean.split(" "))
        return [span.id for span in self.spans(text)]

    def _encode_words(self, words: list[str]) -> list[int]:
        known = self._words
        if len(known) > _WORDS_KEPT:
            known = self._words = _Words(self)
        ids = list(chain.from_iterable(map(known.__getitem__, words)))
        # The magnitude of the running sum is below the number of pieces times the worst score.
        if len(ids) * -self.unk_score >= 2**14 or not known.close.isdisjoint(words):
            return self._encode_closely(words, known)
        return ids

    def _encode_closely(self, words: list[str], known: _Words) -> list[int]:
        """The same with a look at every word: can rounding change it at the place where it stands?"""
        worst = self.unk_score
        ids: list[int] = []
        total, summed, unsummed = 0.0, 0, 0
        for word in filter(None, words):
            found, gap = known[word], known.gaps[word]
            lowest = total + worst * (unsummed + len(word) + 1)
            if not _is_sure(gap, lowest) and unsummed:
                for index in ids[summed:]:
                    total = _single(total + self.scores[index])
                summed, unsummed = len(ids), 0
                lowest = total + worst * (len(word) + 1)
            if _is_sure(gap, lowest):
                ids += found
                unsummed += len(found)
                continue
            path, total = self._path(SPACE + word, total)
            ids += self.fuse(SPACE + word, path)
            summed = len(ids)
        return ids

    def best(self, text: str) -> tuple[list[tuple[int, int]], float]:
        """The most probable segmentation as (end, id), and by how much it is more probable than the next one."""
        # One loop without calls: this is what a text of new words waits for.
        size = len(text)
        first = [_NEVER] * (size + 1)
        second = first.copy()
        back = [(0, 0)] * (size + 1)
        first[0] = 0.0
        look_up = self.nodes.get
        for start in range(size):
            here, next_best = first[start], second[start]
            single = False
            for end in range(start + 1, size + 1):
                node = look_up(text[start:end])
                if node is None:
                    break
                score, index, goes_on = node
                if index >= 0:
                    single = single or end == start + 1
                    value = here + score
                    if value > first[end]:
                        other = next_best + score
                        second[end] = first[end] if first[end] > other else other
                        first[end], back[end] = value, (start, index)
                    elif value > second[end]:
                        second[end] = value
                if not goes_on:
                    break
            if not single:
                value, end = here + self.unk_score, start + 1
                if value > first[end]:
                    second[end] = max(first[end], next_best + self.unk_score)
                    first[end], back[end] = value, (start, self.unk_id)
                elif value > second[end]:
                    second[end] = value
        return _trace(back), first[size] - second[size]

    def _starting(self, text: str, start: int) -> Iterable[tuple[int, float, int]]:
        """End, score and id of each piece that can begin at a place."""
        single = False
        for end in range(start + 1, len(text) + 1):
            node = self.nodes.get(text[start:end])
            if node is None:
                break
            score, index, goes_on = node
            if index >= 0:
                single = single or end == start + 1
                yield end, score, index
            if not goes_on:
                break
        if not single:
            yield start + 1, self.unk_score, self.unk_id

    def _path(self, text: str, total: float = 0.0) -> tuple[list[tuple[int, int]], float]:
        """The segmentation that SentencePiece finds with its float32 sums, as (end, id), and the sum after it.

        Args:
            text: the text after all rules, or one word of it.
            total: the sum over what stands before it.
        """
        scores: list[float | None] = [None] * (len(text) + 1)
        back = [(0, 0)] * (len(text) + 1)
        scores[0] = total
        for start in range(len(text)):
            here = scores[start]
            assert here is not None  # a single character always leads on
            if here < _REBASED:
                for end in range(start + 1, min(start + self.longest, len(text)) + 1):
                    ahead = scores[end]
                    scores[end] = None if ahead is None else _single(ahead - here)
                here = 0.0
            for end, score, index in self._starting(text, start):
                value = _single(here + score)
                best = scores[end]
                if best is None or value > best:
                    scores[end], back[end] = value, (start, index)
        end_score = scores[-1]
        return _trace(back), total if end_score is None else end_score

    def fuse(self, text: str, path: list[tuple[int, int]]) -> tuple[int, ...]:
        """The ids along a path, a run of unknown characters as one."""
        return tuple(index for _, index, _, _ in self._pieces(text, path))

    def _pieces(self, text: str, path: list[tuple[int, int]]) -> Iterable[tuple[str, int, int, int]]:
        """Piece, id, start and end along a path; unknown runs are fused, or spelt in bytes if the model says so."""
        start, waiting = 0, None
        for end, index in path:
            if index == self.unk_id and not self.model.byte_fallback:
                waiting = start if waiting is None else waiting
                start = end
                continue
            if waiting is not None:
                yield self._unknown(text, waiting, start)
                waiting = None
            if index == self.unk_id:
                for byte in text[start:end].encode():
                    piece = f"<0x{byte:02X}>"
                    yield piece, self.ids.get(piece, self.unk_id), start, end
            else:
                yield text[start:end], index, start, end
            start = end
        if waiting is not None:
            yield self._unknown(text, waiting, start)

    def _unknown(self, text: str, start: int, end: int) -> tuple[str, int, int, int]:
        # The run as a whole may be the name of a piece that no text segments into, such as a control piece.
        return text[start:end], self.ids.get(text[start:end], self.unk_id), start, end

    def spans(self, text: str) -> list[PieceSpan]:
        """The pieces of a text and where they come from. The same ids as `encode`, computed character by character."""
        clean, origins = self._normalize(text)
        found = []
        for piece, index, start, end in self._pieces(clean, self._path(clean)[0]):
            inside = origins[start:end]
            if piece == SPACE and end < len(origins):
                inside = origins[end : end + 1]  # as transformers has it: the space shares the word's first character
            elif piece[0] == SPACE and len(inside) > 1:
                inside = inside[1:]  # the word without the space before it
            found.append(PieceSpan(piece, index, inside[0][0], inside[-1][1]))
        return found

    def decode(self, pieces: list[str]) -> str:
        """The text of pieces: spaces for U+2581, none at the start, bytes put together, control pieces left out."""
        model = self.model
        drops_space = model.add_dummy_prefix or model.remove_extra_whitespaces
        out: list[str] = []
        bytes_seen = bytearray()
        at_start, consumed = True, False
        for piece in pieces:
            index = self.ids.get(piece, self.unk_id)
            kind = model.types[index]
            if kind == PieceType.BYTE:
                bytes_seen.append(int(piece[3:5], 16))
                continue
            if bytes_seen:
                out.append(bytes_seen.decode("utf-8", "replace"))
                bytes_seen.clear()
            if consumed or any(out):
                at_start = False
            consumed = False
            if kind == PieceType.CONTROL:
                continue
            if kind == PieceType.UNKNOWN:
                out.append(model.unk_surface if piece == model.pieces[index] else piece)
                continue
            if at_start and drops_space and piece.startswith(SPACE):
                piece = piece[1:]
                consumed = not model.remove_extra_whitespaces
            out.append(piece.replace(SPACE, " "))
        out.append(bytes_seen.decode("utf-8", "replace"))
        text = "".join(out)
        if self.denormalizer is None:
            return text
        return "".join(replacement for _, _, replacement in self.denormalizer.chunks(text))

    def words_of_pieces(self) -> list[str | None]:
        """What each piece adds to the text behind others; None for pieces that take more than putting behind others."""
        if not self.by_words or self.denormalizer is not None:
            return [None] * len(self.model.pieces)
        odd = (PieceType.CONTROL, PieceType.UNKNOWN, PieceType.BYTE)
        kinds = zip(self.model.pieces, self.model.types, strict=True)
        return [None if kind in odd else piece.replace(SPACE, " ") for piece, kind in kinds]

    def __deepcopy__(self, memo: object) -> Unigram:
        return self  # nothing in it changes but what it remembers of words

    def __reduce__(self) -> tuple[type[Unigram], tuple[SentencePieceModel]]:
        return Unigram, (self.model,)

    def _normalize(self, text: str) -> tuple[str, list[tuple[int, int]]]:
        """The text after all rules, and for each of its characters the place in the original it comes from."""
        model = self.model
        chunks: list[Chunk] = list(self.rules.chunks(text, self.symbols))
        if model.remove_extra_whitespaces:
            first = next((i for i, chunk in enumerate(chunks) if chunk[2] != " "), len(chunks))
            chunks = chunks[first:]
        if not chunks:
            return "", []
        space = SPACE if model.escape_whitespaces else " "
        out: list[str] = []
        origins: list[tuple[int, int]] = []
        if model.add_dummy_prefix and not model.whitespace_as_suffix:
            out.append(space)
            origins.append((chunks[0][0], chunks[0][0]))
        after_space = model.remove_extra_whitespaces
        for start, end, replacement in chunks:
            kept = replacement.lstrip(" ") if after_space else replacement
            out.extend(space if character == " " else character for character in kept)
            origins.extend([(start, end)] * len(kept))
            if kept:
                after_space = kept.endswith(" ") and model.remove_extra_whitespaces
        if model.remove_extra_whitespaces:
            while out and out[-1] == space:
                out.pop()
                origins.pop()
        if model.add_dummy_prefix and model.whitespace_as_suffix:
            out.append(space)
            origins.append((chunks[-1][1], chunks[-1][1]))
        return "".join(out), origins


def _nodes(candidates: dict[str, tuple[float, int]]) -> dict[str, tuple[float, int, bool]]:
    nodes: dict[str, tuple[float, int, bool]] = {}
    inner = (0.0, -1, True)
    for piece in candidates:
        for size in range(len(piece) - 1, 0, -1):
            prefix = piece[:size]
            if prefix in nodes:
                break  # and so are all shorter ones
            nodes[prefix] = inner
    for piece, (score, index) in candidates.items():
        nodes[piece] = score, index, piece in nodes
    return nodes


def _trace(back: list[tuple[int, int]]) -> list[tuple[int, int]]:
    path = []
    end = len(back) - 1
    while end > 0:
        start, index = back[end]
        path.append((end, index))
        end = start
    path.reverse()
    return path
