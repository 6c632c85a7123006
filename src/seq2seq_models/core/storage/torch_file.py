"""PyTorch's own files (.bin), zip and legacy: read with weights only, never as a pickle that may run code.

torch is imported when such a file is opened; TensorFlow and Flax users without it are told so.
"""

from __future__ import annotations

import pickle
import re
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError, MissingFrameworkError
from .stored import DTYPES, Stored, check_not_mislabelled, corrupt, row_order

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_torch(file: Path) -> list[Stored]:
    """The tensors of a file, under the names it gives them; those of a zip file stay on disk until read.

    Raises:
        CheckpointError: the file is damaged, or holds something besides tensors.
        MissingFrameworkError: torch is not installed, or older than 2.6, whose weights-only mode is not safe.
    """
    torch = _torch(file)
    if file.stat().st_size == 0:
        raise corrupt(file, "it is empty")
    with file.open("rb") as stream:
        start = stream.read(64)
    check_not_mislabelled(file, start, "a PyTorch file")
    try:
        with warnings.catch_warnings():  # about pickle protocols, which either work or raise
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=start.startswith(b"PK"))
    except pickle.UnpicklingError as error:
        refused = re.search(r"(?:GLOBAL|[Uu]nsupported (?:global|class)\S*)\s+(?:GLOBAL\s+)?([\w.]+)", str(error))
        if refused is None:
            raise corrupt(file, "it is cut off, damaged or no PyTorch file") from error
        raise CheckpointError(
            f"{file} must hold tensors only, but it also holds {refused[1]}, which is not opened because it could run "
            "code. Use a safetensors file of this model."
        ) from error
    except Exception as error:  # a damaged pickle makes torch raise anything, AssertionError among it
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise corrupt(file, f"it is cut off or damaged ({reason})") from error
    found = [(stored_tensor(name, value, str(file)), value) for name, value in _checked(file, content, torch).items()]
    if start.startswith(b"PK") and _is_mapped_as_it_is(file):
        return [replace(stored, release=_releaser(value)) for stored, value in found]
    return [stored for stored, _ in found]


def _is_mapped_as_it_is(file: Path) -> bool:
    """Whether the tensors of a zip file are pages of it: torch turns the bytes of big-endian files around in memory."""
    import zipfile

    try:
        with zipfile.ZipFile(file) as archive:
            orders = [archive.read(name) for name in archive.namelist() if name.endswith("/byteorder")]
    except (zipfile.BadZipFile, NotImplementedError, OSError):
        return False  # torch opened it all the same: then nothing is known of how, and nothing is released
    return sys.platform == "linux" and all(order == sys.byteorder.encode() for order in orders)


def _releaser(tensor: Any) -> Callable[[], None]:
    """Takes the whole pages of a mapped tensor out of this process's memory; the file still has them."""

    def release() -> None:
        import ctypes
        import mmap

        if not tensor.is_contiguous():
            return
        first = tensor.data_ptr()
        last = first + tensor.numel() * tensor.element_size()
        start, end = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE, last // mmap.PAGESIZE * mmap.PAGESIZE
        if end > start:
            length = ctypes.c_size_t(end - start)
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), length, ctypes.c_int(mmap.MADV_DONTNEED))

    return release


def _torch(file: Path) -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingFrameworkError(
            f"{file} is a PyTorch file, and reading it needs torch. Install it: pip install 'seq2seq-models[torch]', "
            "or use a repository that has model.safetensors."
        ) from None
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2] if part.isdigit())
    if version < (2, 6):
        raise MissingFrameworkError(
            f"Reading {file} safely needs torch 2.6 or newer, got {torch.__version__} (CVE-2025-32434). "
            "Upgrade torch, or use a safetensors file."
        )
    return torch


def _checked(file: Path, content: Any, torch: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{file} must hold a table of tensors, got a {type(content).__name__}. Save a state dict."
        )
    wrong = sorted(str(name) for name, value in content.items() if not isinstance(value, torch.Tensor))
    if wrong:
        raise CheckpointError(
            f"{file} must hold tensors only, got something else as {', '.join(wrong[:5])}. "
            "If it is a training checkpoint, save its state dict alone."
        )
    odd = sorted(
        f"{name} ({value.dtype}, {value.layout})"
        for name, value in content.items()
        if str(value.dtype).removeprefix("torch.") not in DTYPES or value.layout != torch.strided
    )
    if odd:
        raise CheckpointError(
            f"{file} must hold plain tensors, got {', '.join(odd)}. Use a checkpoint that is not quantized."
        )
    return {str(name): value for name, value in content.items()}


def stored_tensor(name: str, tensor: Any, file: str = "") -> Stored:
    """A torch tensor as a Stored; `read` gives its memory without a copy where that is possible."""
    return Stored(name, tuple(tensor.shape), DTYPES[str(tensor.dtype).removeprefix("torch.")], _reader(tensor), file)


def _reader(tensor: Any) -> Callable[[], NDArray[Any]]:
    def read() -> NDArray[Any]:
        import numpy as np
        import torch

        plain = tensor.detach().cpu().contiguous()
        if plain.dtype == torch.bfloat16:  # NumPy knows no bfloat16
            bits: NDArray[Any] = plain.view(torch.int16).numpy()
            return bits.view(np.uint16)
        values: NDArray[Any] = plain.numpy()
        return values

    return read


def tensor_of(stored: Stored) -> Any:
    """A torch tensor over the memory that `stored.read()` gives, or over a copy if that is read-only or turned."""
    import numpy as np
    import torch

    values = stored.read()
    if not values.flags.writeable:
        values = values.copy()
    bits = torch.from_numpy(values.view(np.int16) if stored.dtype == "BF16" else values)
    if not bits.is_contiguous():  # kernels of other frameworks come as turned views
        bits = bits.contiguous()
        stored.release()
    return bits.view(torch.bfloat16) if stored.dtype == "BF16" else bits


_STORAGES = {"F64": "Double", "F32": "Float", "F16": "Half", "BF16": "BFloat16", "I64": "Long", "I32": "Int",
             "I16": "Short", "I8": "Char", "U8": "Byte", "BOOL": "Bool"}  # fmt: skip
"""What torch calls a piece of memory of each dtype: torch.FloatStorage."""

_ALIGNMENT = 64
"""Bytes; where torch puts the start of a tensor in a file, so that it can be used where it lies."""


def write_torch(file: Path, tensors: Sequence[Stored], save_function: Callable[..., Any] | None = None) -> None:
    """Writes one zip file that `torch.load(..., weights_only=True)` reads, reading one tensor at a time.

    `torch.save` wants all tensors at once, so the file is put together here: a zip archive without compression, with
    the table of tensors as a pickle and the values of each as a record. Source: torch.save of torch 2.6 to 2.9.

    Args:
        file: must not be a file that the tensors are read from.
        tensors: under the names to write.
        save_function: called with the table and the path instead.
    """
    torch = _torch(file)
    if save_function is not None:
        save_function({tensor.name: tensor_of(tensor) for tensor in tensors}, file)
        return
    import zipfile

    with file.open("wb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        _write_record(archive, "data.pkl", _table(tensors, torch))
        _write_record(archive, "byteorder", b"little")
        for key, tensor in enumerate(tensors):
            _write_record(archive, f"data/{key}", row_order(tensor))
            tensor.release()
        _write_record(archive, "version", b"3\n")


def _write_record(archive: Any, name: str, content: bytes | memoryview) -> None:
    """One file of the archive, whose content starts where torch can map it."""
    import zipfile

    record = zipfile.ZipInfo(f"archive/{name}")
    record.file_size, record.compress_size, record.CRC = memoryview(content).nbytes, 0, 0
    is_large = record.file_size * 1.05 > zipfile.ZIP64_LIMIT  # as zipfile itself decides on the longer header
    begin = archive.fp.tell() + len(record.FileHeader(is_large)) + 4
    gap = -begin % _ALIGNMENT
    record.extra = b"FB" + gap.to_bytes(2, "little") + b"Z" * gap
    with archive.open(record, "w", force_zip64=is_large) as stream:
        stream.write(content)


@dataclass(frozen=True)
class _Storage:
    """The memory of a tensor as the table names it."""

    kind: Any
    key: str
    size: int


def _table(tensors: Sequence[Stored], torch: Any) -> bytes:
    """The pickle of the table, in which each tensor says which record it is made from."""
    from io import BytesIO

    keys = {id(tensor): str(key) for key, tensor in enumerate(tensors)}

    class Pickler(pickle.Pickler):
        def persistent_id(self, one: Any) -> Any:
            return ("storage", one.kind, one.key, "cpu", one.size) if isinstance(one, _Storage) else None

        def reducer_override(self, one: Any) -> Any:
            if not isinstance(one, Stored):
                return NotImplemented
            kind = getattr(torch, f"{_STORAGES[one.dtype]}Storage")
            strides = tuple(prod(one.shape[axis + 1 :]) for axis in range(len(one.shape)))
            memory = _Storage(kind, keys[id(one)], prod(one.shape))
            return torch._utils._rebuild_tensor_v2, (memory, 0, one.shape, strides, False, OrderedDict())

    buffer = BytesIO()
    Pickler(buffer, protocol=2).dump({tensor.name: tensor for tensor in tensors})
    return buffer.getvalue()
