"""Reading and writing `spiece.model`, the protobuf file of SentencePiece, with neither of the two packages installed.

Field numbers are those of sentencepiece_model.proto in github.com/google/sentencepiece. Fields that tokenization does
not need are skipped on reading; the file as it was read is kept, so that saving it again loses nothing.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from ...errors import TokenizerError

UNIGRAM = 1
"""The only `trainer_spec.model_type` that Pegasus checkpoints use."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class PieceType(IntEnum):
    """What a piece of a SentencePiece vocabulary is for, with the numbers of the file."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class SentencePieceModel:
    """A SentencePiece vocabulary and the rules that go with it.

    Attributes:
        pieces: piece of every id.
        scores: log probability of every id, a float32 value.
        types: PieceType of every id.
        charsmap: compiled character rules; empty for none.
        add_dummy_prefix: put a space before the text.
        remove_extra_whitespaces: drop spaces at both ends and squeeze runs of them.
        escape_whitespaces: write a space as U+2581.
        whitespace_as_suffix: the space belongs to the end of a word.
        byte_fallback: unknown characters become their UTF-8 bytes.
        unk_surface: what an unknown id decodes to.
        denormalizer_charsmap: compiled character rules for decoding; empty for none.
        serialized: the file as it was read, or as it would be written.
    """

    pieces: list[str]
    scores: list[float]
    types: list[int]
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    whitespace_as_suffix: bool = False
    byte_fallback: bool = False
    unk_surface: str = " \u2047 "
    denormalizer_charsmap: bytes = b""
    serialized: bytes = b""

    @property
    def unk_id(self) -> int:
        """The id of the one unknown piece."""
        return self.types.index(PieceType.UNKNOWN)


class _Broken(Exception):
    """The bytes are not what the format says; the reader adds the file's name."""


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise _Broken("a number runs past its end")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Field number, wire type and value of each field of one message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise _Broken(f"wire type {wire} is not in use")
        if number == 0 or size > len(data) - at:
            raise _Broken(f"field {number} wants {size} bytes where {len(data) - at} are left")
        yield number, wire, data[at : at + size]
        at += size


def _number(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise _Broken("a number was expected and bytes were found")
    return value


def _blob(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _Broken("bytes were expected and a number was found")
    return value


def _text(value: int | memoryview) -> str:
    try:
        return str(_blob(value), "utf-8")
    except UnicodeDecodeError as error:
        raise _Broken(f"a piece is not UTF-8 ({error.reason})") from None


def _piece(data: memoryview) -> tuple[str, float, int]:
    piece, score, kind = "", 0.0, int(PieceType.NORMAL)
    for number, wire, value in _fields(data):
        if number == 1:
            piece = _text(value)
        elif number == 2:
            if wire != _FIXED32:
                raise _Broken("a score is not a float")
            score = struct.unpack("<f", _blob(value))[0]
        elif number == 3:
            kind = _number(value)
    return piece, score, kind


def _common_pieces(data: bytes) -> tuple[list[tuple[str, float, int]], int]:
    """The pieces at the start of the file that are written the way all writers write them, and where they end.

    Such a piece is its text (under 128 bytes), its score and perhaps its type: 0a size 0a size text 15 float [18 type].
    The general reader takes over at the first one that is not; it would give the same for these, only slower.
    """
    found: list[tuple[str, float, int]] = []
    at, end = 0, len(data)
    unpack = struct.Struct("<f").unpack_from
    while at + 9 < end and data[at] == 0x0A and data[at + 2] == 0x0A:
        size, length = data[at + 1], data[at + 3]
        stop, score_at = at + 2 + size, at + 4 + length
        rest = stop - score_at
        if size > 0x7F or length > 0x7F or stop > end or rest not in (5, 7) or data[score_at] != 0x15:
            break
        kind = 1
        if rest == 7:
            kind = data[score_at + 6]
            if data[score_at + 5] != 0x18 or kind > 0x7F:
                break
        try:
            piece = data[at + 4 : score_at].decode()
        except UnicodeDecodeError:
            break
        found.append((piece, unpack(data, score_at + 1)[0], kind))
        at = stop
    return found, at


def _parse(data: bytes) -> SentencePieceModel:
    common, start = _common_pieces(data)
    pieces = [piece for piece, _, _ in common]
    scores = [score for _, score, _ in common]
    types = [kind for _, _, kind in common]
    options: dict[str, object] = {}
    model_type = UNIGRAM
    for number, _, value in _fields(memoryview(data)[start:]):
        if number == 1:
            piece, score, kind = _piece(_blob(value))
            pieces.append(piece)
            scores.append(score)
            types.append(kind)
        elif number == 2:
            for inner, _, setting in _fields(_blob(value)):
                if inner == 3:
                    model_type = _number(setting)
                elif inner == 24:
                    options["whitespace_as_suffix"] = bool(_number(setting))
                elif inner == 35:
                    options["byte_fallback"] = bool(_number(setting))
                elif inner == 44:
                    options["unk_surface"] = _text(setting)
        elif number in (3, 5):
            options.update(_normalizer(_blob(value), "denormalizer_" if number == 5 else ""))
    if model_type != UNIGRAM:
        raise _Broken(f"its model type is {model_type}, not unigram ({UNIGRAM})")
    return SentencePieceModel(pieces, scores, types, serialized=data, **options)  # type: ignore[arg-type]


def _normalizer(data: memoryview, prefix: str) -> dict[str, object]:
    found: dict[str, object] = {}
    names = {3: "add_dummy_prefix", 4: "remove_extra_whitespaces", 5: "escape_whitespaces"}
    for number, _, value in _fields(data):
        if number == 2:
            found[f"{prefix}charsmap"] = bytes(_blob(value))
        elif number in names and not prefix:
            found[names[number]] = bool(_number(value))
    return found


def check_model(model: SentencePieceModel) -> str | None:
    """What keeps the vocabulary from being used; None if nothing does."""
    if not model.pieces:
        return "it holds no pieces"
    unknown = model.types.count(PieceType.UNKNOWN)
    if unknown != 1:
        return f"it must have one unknown piece and has {unknown}"
    if "" in model.pieces:
        return f"piece {model.pieces.index('')} is empty"
    if len(set(model.pieces)) != len(model.pieces):
        seen: set[str] = set()
        twice = sorted({piece for piece in model.pieces if piece in seen or seen.add(piece)})  # type: ignore[func-returns-value]
        return f"pieces occur twice: {', '.join(map(repr, twice[:5]))}"
    wrong = sorted(set(model.types) - set(PieceType))
    if wrong:
        return f"piece types {wrong} are not in use"
    if any(not -3.4e38 < score < 3.4e38 for score in model.scores):
        return "a score is not a finite number"
    return None


def read_spiece_model(path: str | os.PathLike[str]) -> SentencePieceModel:
    """The vocabulary and rules in a `spiece.model`.

    Raises:
        TokenizerError: the file is no SentencePiece unigram model, or is cut off or damaged.
    """
    data = Path(path).read_bytes()
    if data.startswith(b"version https://git-lfs"):
        raise TokenizerError(
            f"{path} is a git-lfs pointer and not the vocabulary itself. Fetch the file with `git lfs pull`, "
            "or download it from the hub."
        )
    try:
        model = _parse(data)
        fault = check_model(model)
    except _Broken as error:
        fault = str(error)
    if fault is not None:
        raise TokenizerError(f"{path} must be a SentencePiece unigram model, but {fault}. Download it again.")
    return model


def _write_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _write_bytes(number: int, data: bytes) -> bytes:
    return _write_varint(number << 3 | _BYTES) + _write_varint(len(data)) + data


def _write_number(number: int, value: int) -> bytes:
    return _write_varint(number << 3 | _VARINT) + _write_varint(value)


def serialize(model: SentencePieceModel) -> bytes:
    """The bytes of a `spiece.model` that the sentencepiece package loads too."""
    out = []
    for piece, score, kind in zip(model.pieces, model.scores, model.types, strict=True):
        body = _write_bytes(1, piece.encode()) + _write_varint(2 << 3 | _FIXED32) + struct.pack("<f", score)
        out.append(_write_bytes(1, body + (_write_number(3, kind) if kind != PieceType.NORMAL else b"")))
    ids = {piece: index for index, piece in enumerate(model.pieces)}
    trainer = _write_number(3, UNIGRAM) + _write_number(4, len(model.pieces))
    trainer += _write_number(24, model.whitespace_as_suffix) + _write_number(35, model.byte_fallback)
    absent = (1 << 64) - 1  # -1, as protobuf writes a negative int32
    trainer += _write_number(40, model.unk_id)
    trainer += b"".join(
        _write_number(number, ids.get(piece, absent)) for number, piece in ((41, "<s>"), (42, "</s>"), (43, "<pad>"))
    )
    trainer += _write_bytes(44, model.unk_surface.encode()) + _write_bytes(45, model.pieces[model.unk_id].encode())
    normalizer = _write_bytes(1, b"nmt_nfkc" if model.charsmap else b"identity") + _write_bytes(2, model.charsmap)
    normalizer += _write_number(3, model.add_dummy_prefix) + _write_number(4, model.remove_extra_whitespaces)
    normalizer += _write_number(5, model.escape_whitespaces)
    return b"".join([*out, _write_bytes(2, trainer), _write_bytes(3, normalizer)])


def write_spiece_model(
    path: str | Path,
    pieces: Iterable[tuple[str, float, int]],
    charsmap: bytes = b"",
    *,
    add_dummy_prefix: bool = True,
    remove_extra_whitespaces: bool = True,
    byte_fallback: bool = False,
) -> SentencePieceModel:
    """The model that was written: a `spiece.model` from a vocabulary trained by any means.

    Args:
        path: the file to write.
        pieces: piece, log probability and PieceType of every id in turn; one of them the unknown piece.
        charsmap: compiled character rules (`precompiled_charsmap` of another spiece.model); empty for none.
        add_dummy_prefix: put a space before every text.
        remove_extra_whitespaces: drop spaces at both ends of a text and squeeze runs of them.
        byte_fallback: unknown characters become their UTF-8 bytes; the pieces must then hold all 256 of them.
    Raises:
        TokenizerError: the pieces make no vocabulary.
    """
    rows = list(pieces)
    model = SentencePieceModel(
        [piece for piece, _, _ in rows],
        [struct.unpack("<f", struct.pack("<f", score))[0] for _, score, _ in rows],
        [int(kind) for _, _, kind in rows],
        charsmap=charsmap,
        add_dummy_prefix=add_dummy_prefix,
        remove_extra_whitespaces=remove_extra_whitespaces,
        byte_fallback=byte_fallback,
    )
    fault = check_model(model)
    if fault is not None:
        raise TokenizerError(f"`pieces` must make a vocabulary, but {fault}. Give each piece once.")
    data = serialize(model)
    Path(path).write_bytes(data)
    return SentencePieceModel(**{**model.__dict__, "serialized": data})
