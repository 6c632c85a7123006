"""The safetensors format, read over a private memory map and written as a stream; nothing in a file is trusted.

Layout: 8 bytes header length (little endian), the header as JSON (name -> dtype, shape, data_offsets, and
__metadata__), then the values without gaps. Source: github.com/huggingface/safetensors, README, "Format".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from .file_map import FileMap
from .stored import ITEM_SIZES, Stored, check_not_mislabelled, corrupt, row_order

LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the reference implementation. Real headers here have about 60,000."""


def read_safetensors(file: Path) -> tuple[list[Stored], dict[str, str]]:
    """The tensors of a file, under the names it gives them, and its metadata.

    The values are views of one copy-on-write memory map: reading costs what the disk costs, and writing to an array
    changes this process only.

    Raises:
        CheckpointError: the file is no sound safetensors file; the message says what is wrong with it.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(64)
        check_not_mislabelled(file, start, "a safetensors file")
        length = int.from_bytes(start[:8], "little")
        if size < 8:
            raise corrupt(file, f"it has {size} bytes and is cut off or empty")
        if length > size - 8 or length > LARGEST_HEADER:
            raise corrupt(file, f"its header claims {length} bytes, but the file has {size}: cut off or no safetensors")
        stream.seek(8)
        header = _parse_header(file, stream.read(length))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise corrupt(file, "its __metadata__ is not a table of strings")
    begin = 8 + length
    entries = _check_entries(file, header, size - begin)
    if not entries:
        return [], metadata
    content = FileMap(file)
    found = [
        Stored(
            name,
            shape,
            dtype,
            content.reader(begin + first, begin + last, dtype, shape),
            file=str(file),
            release=content.releaser(begin + first, begin + last),
        )
        for name, dtype, shape, first, last in entries
    ]
    return found, metadata


def _parse_header(file: Path, content: bytes) -> dict[str, Any]:
    def no_constant(word: str) -> None:
        raise ValueError(f"it holds {word}")

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a name appears twice")
        return table

    try:
        header = json.loads(content.decode("utf-8"), parse_constant=no_constant, object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as error:
        raise corrupt(file, f"its header is not sound JSON ({error})") from error
    if not isinstance(header, dict):
        raise corrupt(file, "its header is not a JSON object")
    return header


def _check_entries(
    file: Path, header: dict[str, Any], available: int
) -> list[tuple[str, str, tuple[int, ...], int, int]]:
    found = []
    for name, entry in header.items():
        try:
            dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
        except (TypeError, KeyError, ValueError) as error:
            raise corrupt(file, f"its entry for {name} lacks dtype, shape or data_offsets") from error
        if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
            raise CheckpointError(
                f"The dtype of {name} must be one of {', '.join(ITEM_SIZES)}, got {dtype!r} ({file}). "
                "Use a checkpoint that is not quantized."
            )
        if not isinstance(shape, list) or not all(_is_count(n) for n in (*shape, first, last)):
            raise corrupt(file, f"shape and offsets of {name} are not whole numbers: {shape}, [{first}, {last}]")
        if last > available:
            raise corrupt(file, f"{name} ends at byte {last} of the data, but the file has {available}: it is cut off")
        if last - first != prod(shape) * ITEM_SIZES[dtype]:
            raise corrupt(file, f"{name} is {dtype} {shape}, but has {last - first} bytes")
        found.append((name, dtype, tuple(shape), first, last))
    end = 0
    for name, _, _, first, last in sorted(found, key=lambda entry: entry[3:]):
        if first != end:
            raise corrupt(file, f"{name} {'overlaps' if first < end else 'leaves a gap after'} the tensor before it")
        end = last
    if end != available:
        raise corrupt(file, f"it has {available - end} bytes more than its header names")
    return found


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def write_safetensors(file: Path, tensors: Sequence[Stored], metadata: dict[str, str] | None = None) -> None:
    """Writes one file, reading one tensor at a time.

    Args:
        file: must not be a file that the tensors are read from.
        tensors: under the names to write; read in this order within each dtype.
        metadata: {"format": "pt"} by default, which transformers insists on.
    """
    ordered = sorted(tensors, key=lambda tensor: -ITEM_SIZES[tensor.dtype])  # stable, and keeps every tensor aligned
    header: dict[str, Any] = {"__metadata__": metadata or {"format": "pt"}}
    end = 0
    for tensor in ordered:
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.nbytes],
        }
        end += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for tensor in ordered:
            stream.write(row_order(tensor))
            tensor.release()
