"""PyTorch's own files (.bin), zip and legacy: read with weights only, never as a pickle that may run code.

torch is imported when such a file is opened; TensorFlow and Flax users without it are told so.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError, MissingFrameworkError
from .stored import DTYPES, Stored, check_not_mislabelled, corrupt

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
    except (RuntimeError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise corrupt(file, f"it is cut off or damaged ({reason})") from error
    return [stored_tensor(name, value, str(file)) for name, value in _checked(file, content, torch).items()]


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


def write_torch(file: Path, tensors: Sequence[Stored], save_function: Callable[..., Any] | None = None) -> None:
    """Writes one zip file that `torch.load(..., weights_only=True)` reads.

    Args:
        file: must not be a file that the tensors are read from.
        tensors: under the names to write.
        save_function: called with the table and the path instead of `torch.save`.
    """
    torch = _torch(file)
    table = {tensor.name: tensor_of(tensor) for tensor in tensors}
    (save_function or torch.save)(table, file)
