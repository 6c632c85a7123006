"""Flax's own files (.msgpack): a tree of arrays, read over a memory map and written as a stream.

Layout: one msgpack map of maps, whose leaves are extension type 1 (an array) or 3 (a single number); the payload is a
msgpack array of shape, name of the dtype and the bytes in row order. An array of more than a gibibyte is a map with
`__msgpack_chunked_array__`, its shape, and its values in pieces. Source: flax.serialization; the msgpack specification.
Neither flax nor msgpack is needed. Nothing in a file is trusted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedWriter
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError
from .file_map import FileMap
from .stored import DTYPES, ITEM_SIZES, NAMES, NUMPY_NAMES, Stored, check_not_mislabelled, corrupt

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ARRAY, _SCALAR = 1, 3
_CHUNKED = "__msgpack_chunked_array__"
_DEEPEST = 32
LARGEST_CHUNK = 2**30
"""Bytes of one piece of a chunked array, as flax cuts them."""


# ---- reading


@dataclass(frozen=True)
class _Span:
    """Bytes of the file: those of an extension type, or plain ones (kind None)."""

    kind: int | None
    first: int
    last: int


@dataclass(frozen=True)
class _Array:
    """An array in the file."""

    dtype: str
    shape: tuple[int, ...]
    first: int
    last: int


def read_msgpack(file: Path) -> list[Stored]:
    """The arrays of a file, named by their path in the tree with "/" between the keys; none of them read yet.

    The values are views of one copy-on-write memory map where they are aligned, and copies of one array at a time
    where they are not.

    Raises:
        CheckpointError: the file is damaged, or holds something besides arrays.
    """
    if file.stat().st_size == 0:
        raise corrupt(file, "it is empty")
    content = FileMap(file)
    check_not_mislabelled(file, content.buffer[:64], "a msgpack file")
    scan = _Scan(file, content)
    tree = scan.value(_DEEPEST)
    if not isinstance(tree, dict):
        raise corrupt(file, "it is no msgpack file with a tree of weights")
    if scan.at != scan.end:
        raise corrupt(file, f"it has {scan.end - scan.at} bytes more than its tree of weights")
    return list(_leaves(file, content, tree, ""))


class _Scan:
    """Walks over msgpack values from one offset to another; bytes and extension types are not read."""

    def __init__(self, file: Path, content: FileMap, at: int = 0, end: int | None = None) -> None:
        self.file, self.content = file, content
        self.at = at
        self.end = len(content.buffer) if end is None else end

    def _take(self, count: int) -> int:
        """The offset of the next bytes, which are passed over."""
        first = self.at
        if count > self.end - first:
            raise corrupt(self.file, f"it is cut off or damaged at byte {first}")
        self.at = first + count
        return first

    def _number(self, code: str) -> Any:
        size = struct.calcsize(code)
        return struct.unpack_from(">" + code, self.content.buffer, self._take(size))[0]

    def value(self, depth: int) -> Any:
        """The next value: a dict, list, str, number, None, or the `_Span` of bytes and extension types."""
        tag = self._number("B")
        if tag < 0x80 or tag >= 0xE0:
            return tag if tag < 0x80 else tag - 256
        if tag < 0x90 or tag in (0xDE, 0xDF):
            return self._map(tag & 15 if tag < 0x90 else self._number("HI"[tag - 0xDE]), depth)
        if tag < 0xA0 or tag in (0xDC, 0xDD):
            return self._list(tag & 15 if tag < 0xA0 else self._number("HI"[tag - 0xDC]), depth)
        if tag < 0xC0 or tag in (0xD9, 0xDA, 0xDB):
            return self._text(tag & 31 if tag < 0xC0 else self._number("BHI"[tag - 0xD9]))
        if tag in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[tag]
        if 0xC4 <= tag <= 0xC6:
            return self._span(None, self._number("BHI"[tag - 0xC4]))
        if 0xC7 <= tag <= 0xC9:
            size = self._number("BHI"[tag - 0xC7])
            return self._span(self._number("b"), size)
        if 0xD4 <= tag <= 0xD8:
            return self._span(self._number("b"), 1 << (tag - 0xD4))
        if tag == 0xC1:
            raise corrupt(self.file, f"it is no sound msgpack at byte {self.at - 1}")
        return self._number("fdBHIQbhiq"[tag - 0xCA])

    def _map(self, count: int, depth: int) -> dict[str, Any]:
        if depth == 0:
            raise corrupt(self.file, f"its tree is nested more than {_DEEPEST} deep")
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self.value(0)
            if not isinstance(key, str):
                raise corrupt(self.file, f"a key of its tree is no text, before byte {self.at}")
            if key in found:
                raise corrupt(self.file, f"its tree has {key!r} twice in one place")
            found[key] = self.value(depth - 1)
        return found

    def _list(self, count: int, depth: int) -> list[Any]:
        if depth == 0 or count > _DEEPEST:  # only a shape and the three parts of an array are lists
            raise corrupt(self.file, f"it has a list where none belongs, before byte {self.at}")
        return [self.value(depth - 1) for _ in range(count)]

    def _text(self, size: int) -> str:
        first = self._take(size)
        try:
            return self.content.buffer[first : first + size].decode("utf-8")
        except UnicodeDecodeError as error:
            raise corrupt(self.file, f"the text at byte {first} is no UTF-8") from error

    def _span(self, kind: int | None, size: int) -> _Span:
        first = self._take(size)
        return _Span(kind, first, first + size)


def _leaves(file: Path, content: FileMap, tree: Mapping[str, Any], path: str) -> Iterator[Stored]:
    for key, value in tree.items():
        name = f"{path}/{key}" if path else key
        if isinstance(value, dict) and _CHUNKED in value:
            yield _joined(file, content, value, name)
        elif isinstance(value, dict):
            yield from _leaves(file, content, value, name)
        else:
            array = _array(file, content, value, name)
            yield Stored(
                name,
                array.shape,
                array.dtype,
                content.reader(array.first, array.last, array.dtype, array.shape),
                file=str(file),
                release=content.releaser(array.first, array.last),
            )


def _array(file: Path, content: FileMap, value: Any, name: str) -> _Array:
    if not isinstance(value, _Span) or value.kind not in (_ARRAY, _SCALAR):
        raise CheckpointError(
            f"{file} must hold arrays only, got something else as {name}. "
            "If it is a training checkpoint, save its parameters alone."
        )
    scan = _Scan(file, content, value.first, value.last)
    parts = scan.value(2)
    if not isinstance(parts, list) or len(parts) != 3 or scan.at != scan.end:
        raise corrupt(file, f"the array {name} has no shape, dtype and values")
    shape, dtype, values = parts
    if isinstance(dtype, _Span) and dtype.kind is None:  # files written before msgpack told text from bytes
        dtype = content.buffer[dtype.first : dtype.last].decode("latin-1")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(
            f"The dtype of {name} must be one of {', '.join(DTYPES)}, got {dtype!r} ({file}). "
            "Use a checkpoint that is not quantized."
        )
    if not isinstance(values, _Span) or values.kind is not None or not isinstance(shape, list):
        raise corrupt(file, f"the array {name} has no shape, dtype and values")
    _check_size(file, name, shape, DTYPES[dtype], values.last - values.first)
    return _Array(DTYPES[dtype], tuple(shape), values.first, values.last)


def _check_size(file: Path, name: str, shape: Sequence[Any], dtype: str, size: int) -> None:
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 62 for n in shape):
        raise corrupt(file, f"the shape of {name} is not of whole numbers: {list(shape)}")
    if prod(shape) * ITEM_SIZES[dtype] != size:
        raise corrupt(file, f"{name} is {dtype} {list(shape)}, but has {size} bytes")


def _joined(file: Path, content: FileMap, value: Mapping[str, Any], name: str) -> Stored:
    """An array in pieces; they are put together when it is read."""
    shape, chunks = value.get("shape"), value.get("chunks")
    if not isinstance(shape, dict) or not isinstance(chunks, dict) or not chunks:
        raise corrupt(file, f"the chunked array {name} lacks its shape or its chunks")
    for part in (shape, chunks):
        if list(part) != [str(index) for index in range(len(part))]:
            raise corrupt(file, f"the chunked array {name} is not numbered from 0")
    arrays = [_array(file, content, chunk, f"{name}, chunk {key}") for key, chunk in chunks.items()]
    dtype, sizes = arrays[0].dtype, tuple(shape.values())
    if any(array.dtype != dtype for array in arrays):
        raise corrupt(file, f"the chunks of {name} differ in dtype")
    _check_size(file, name, sizes, dtype, sum(array.last - array.first for array in arrays))
    readers = [content.reader(array.first, array.last, dtype, (prod(array.shape),)) for array in arrays]
    releasers = [content.releaser(array.first, array.last) for array in arrays]

    def read() -> NDArray[Any]:
        import numpy as np

        values = np.empty(prod(sizes), NUMPY_NAMES[dtype])
        filled = 0
        for array, reader in zip(arrays, readers, strict=True):
            piece = reader()
            values[filled : filled + piece.size] = piece
            filled += piece.size
            content.releaser(array.first, array.last)()
        return values.reshape(sizes)

    def release() -> None:
        for one in releasers:
            one()

    return Stored(name, sizes, dtype, read, file=str(file), release=release)


# ---- writing


def write_msgpack(file: Path, tensors: Sequence[Stored]) -> None:
    """Writes one file as `flax.serialization.to_bytes` would, reading one tensor at a time.

    Args:
        file: must not be a file that the tensors are read from.
        tensors: named by their path in the tree, with "/" between the keys.
    """
    tree: dict[str, Any] = {}
    for tensor in tensors:
        *folders, leaf = tensor.name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = tensor
    with file.open("wb") as stream:
        _write_tree(stream, tree)


def _write_tree(stream: BufferedWriter, tree: Mapping[str, Any]) -> None:
    stream.write(_head(len(tree), 0x80, 16, (None, 0xDE, 0xDF)))
    for key, value in tree.items():
        stream.write(_text(key))
        if isinstance(value, Stored):
            _write_tensor(stream, value)
        else:
            _write_tree(stream, value)


def _write_tensor(stream: BufferedWriter, tensor: Stored) -> None:
    import numpy as np

    values = np.ascontiguousarray(tensor.read(), dtype=NUMPY_NAMES[tensor.dtype])
    if values.nbytes <= LARGEST_CHUNK:
        _write_array(stream, tensor.shape, tensor.dtype, values)
        tensor.release()
        return
    flat = values.reshape(-1)
    step = max(1, LARGEST_CHUNK // values.itemsize)
    pieces = [flat[first : first + step] for first in range(0, flat.size, step)]
    stream.write(_head(3, 0x80, 16, (None, 0xDE, 0xDF)) + _text(_CHUNKED) + b"\xc3" + _text("shape"))
    stream.write(_head(len(tensor.shape), 0x80, 16, (None, 0xDE, 0xDF)))
    for axis, size in enumerate(tensor.shape):
        stream.write(_text(str(axis)) + _count(size))
    stream.write(_text("chunks") + _head(len(pieces), 0x80, 16, (None, 0xDE, 0xDF)))
    for index, piece in enumerate(pieces):
        stream.write(_text(str(index)))
        _write_array(stream, piece.shape, tensor.dtype, piece)
    tensor.release()


def _write_array(stream: BufferedWriter, shape: tuple[int, ...], dtype: str, values: NDArray[Any]) -> None:
    import numpy as np

    head = _head(3, 0x90, 16, (None, 0xDC, 0xDD)) + _head(len(shape), 0x90, 16, (None, 0xDC, 0xDD))
    head += b"".join(map(_count, shape)) + _text(NAMES[dtype]) + _head(values.nbytes, 0, 0, (0xC4, 0xC5, 0xC6))
    size = len(head) + values.nbytes
    fixed = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}.get(size)
    stream.write(bytes([fixed]) if fixed else _head(size, 0, 0, (0xC7, 0xC8, 0xC9)))
    stream.write(bytes([_ARRAY]) + head)
    if values.nbytes:
        stream.write(values.reshape(-1).view(np.uint8).data)


def _head(size: int, fixed: int, below: int, tags: tuple[int | None, int, int]) -> bytes:
    """What msgpack puts before something of this size: one byte for a small one, else a tag and the size."""
    if size < below:
        return bytes([fixed | size])
    widths: tuple[tuple[int | None, str, int], ...] = tuple(zip(tags, "BHI", (8, 16, 32), strict=True))
    for tag, code, width in widths:
        if tag is not None and size < 1 << width:
            return struct.pack(f">B{code}", tag, size)
    raise CheckpointError(f"A msgpack file holds at most 4 GiB in one place, got {size} bytes. Save as safetensors.")


def _text(text: str) -> bytes:
    content = text.encode("utf-8")
    return _head(len(content), 0xA0, 32, (0xD9, 0xDA, 0xDB)) + content


def _count(number: int) -> bytes:
    if number >= 1 << 32:
        return struct.pack(">BQ", 0xCF, number)
    return _head(number, 0, 128, (0xCC, 0xCD, 0xCE))
