"""One tensor of a checkpoint, known by name, shape and dtype before a byte of it is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ITEM_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Bytes per value of the dtypes that a checkpoint may hold, spelt as safetensors spells them."""

NUMPY_NAMES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
               "I8": "|i1", "U8": "|u1", "BOOL": "|b1"}  # fmt: skip
"""The NumPy dtype that `Stored.read` gives; NumPy has no bfloat16, so its bits come as uint16."""

NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
         "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}  # fmt: skip
"""The names that frameworks use for these dtypes."""

DTYPES = {name: dtype for dtype, name in NAMES.items()}
"""The same, the other way round."""

DTYPE_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The names that configs and frameworks use for the floating-point dtypes."""


def _nothing() -> None:
    """The memory is someone else's, or goes away with the array."""


@dataclass(frozen=True)
class Stored:
    """One tensor, not read yet.

    Attributes:
        name: canonical name, or the file's own where it has not been translated yet.
        shape: in PyTorch's order.
        dtype: "F32", "F16", "BF16", "I64", ... (as in safetensors).
        read: gives the values, of this shape; bfloat16 as its uint16 bits. Writing to them does not change the file.
        file: where it comes from, for messages; "" if from memory.
        release: gives back the memory that reading took, once the values have been copied elsewhere.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], NDArray[Any]]
    file: str = ""
    release: Callable[[], None] = _nothing

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * ITEM_SIZES[self.dtype]

    @property
    def is_floating(self) -> bool:
        """Whether the values are floating-point numbers."""
        return self.dtype in DTYPE_NAMES

    def renamed(self, name: str) -> Stored:
        """The same tensor under another name."""
        return replace(self, name=name)


def as_float32(stored: Stored) -> NDArray[Any]:
    """The values as float32, whatever the stored dtype; for comparing, not for computing."""
    import numpy as np

    values = stored.read()
    if stored.dtype == "BF16":
        bits = values.astype(np.uint32)
        bits <<= 16  # in place: an embedding is large
        return bits.view(np.float32)
    return values.astype(np.float32)


def row_order(stored: Stored) -> memoryview:
    """The bytes of the values in row order, as files hold them; a view where the values lie so already."""
    import numpy as np

    values = np.ascontiguousarray(stored.read(), dtype=NUMPY_NAMES[stored.dtype]).reshape(-1)
    return values.view(np.uint8).data


def read_ahead(files: Iterable[str]) -> None:
    """Tells the system that these files will be read whole, so that the disk works before the first use waits for it.

    A hint that returns at once; systems without it read when first used.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for file in files:
        with Path(file).open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def corrupt(file: Path, what: str) -> CheckpointError:
    """The error for a file that cannot be read, saying what to do."""
    return CheckpointError(
        f"{file} cannot be read: {what}. Delete it and download or save it again; for a hub repository, load once with "
        "force_download=True."
    )


_SIGNATURES = (
    (b"PK\x03\x04", "a PyTorch file (zip)", ".bin"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", ".h5"),
    (b"\x80\x02", "a pickle", ".bin"),
    (b"\x1f\x8b", "a gzip archive", ".gz"),
    (b"<!DOCTYPE", "a web page", ".html"),
    (b"<!doctype", "a web page", ".html"),
    (b"<html", "a web page", ".html"),
)


def check_not_mislabelled(file: Path, start: bytes, wanted: str) -> None:
    """Raises if the first bytes of a file say that it is something else than its name claims.

    Args:
        file: for the message.
        start: its first bytes, 64 or so.
        wanted: what it should be: "a safetensors file".
    """
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{file} must be {wanted}, got a git-lfs pointer: the large file itself was never fetched. "
            "Run `git lfs pull` in the clone, or load by the repository's name."
        )
    if start[8:10] in (b'{"', b"{}"):  # comes first: the 8 bytes before may look like anything
        if wanted != "a safetensors file":
            raise CheckpointError(f"{file} must be {wanted}, got a safetensors file. Rename it to end in .safetensors.")
        return
    for signature, kind, suffix in _SIGNATURES:
        if start.startswith(signature) and not (suffix == file.suffix or (suffix == ".bin" and file.suffix == ".pt")):
            advice = f"Rename it to end in {suffix}" if suffix in (".bin", ".h5") else "Download it again"
            raise CheckpointError(f"{file} must be {wanted}, got {kind}. {advice}.")
