"""Weights in another floating-point dtype, cast when they are read; NumPy lacks bfloat16, so its bits are made here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError
from .stored import DTYPE_NAMES, NUMPY_NAMES, Stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AT_ONCE = 2**22
"""Values that are cast at a time, so that a cast takes hardly more memory than its result."""


def cast(tensor: Stored, dtype: str) -> Stored:
    """The tensor in another floating-point dtype, rounded to the nearest value, ties to even; others stay as they are.

    Args:
        tensor: not read yet, and not read here.
        dtype: "F64", "F32", "F16" or "BF16".
    Raises:
        CheckpointError: when it is read, if a finite value is too large for the dtype.
    """
    if tensor.dtype == dtype or not tensor.is_floating:
        return tensor

    def read() -> NDArray[Any]:
        import numpy as np

        values = np.ascontiguousarray(tensor.read()).reshape(-1)
        result = np.empty(values.size, NUMPY_NAMES[dtype])
        for at in range(0, values.size, _AT_ONCE):
            result[at : at + _AT_ONCE] = _cast_values(tensor, values[at : at + _AT_ONCE], dtype)
        tensor.release()
        return result.reshape(tensor.shape)

    return replace(tensor, dtype=dtype, read=read)


def _cast_values(tensor: Stored, values: NDArray[Any], dtype: str) -> NDArray[Any]:
    import numpy as np

    if tensor.dtype == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    was_finite = np.isfinite(values)
    with np.errstate(over="ignore"):  # it is told below, with the name
        if dtype != "BF16":
            values = values.astype(NUMPY_NAMES[dtype])
            is_finite = np.isfinite(values)
        else:
            values = _bfloat16(values.astype(np.float32))
            is_finite = (values & 0x7F80) != 0x7F80
    if not np.array_equal(was_finite, is_finite):
        raise CheckpointError(
            f"The values of {tensor.name} must fit into {DTYPE_NAMES[dtype]}, got larger ones ({tensor.file}). "
            "Use a dtype of a wider range, bfloat16 or float32."
        )
    return values


def _bfloat16(values: NDArray[Any]) -> NDArray[Any]:
    """The upper 16 bits of float32 values, rounded."""
    import numpy as np

    bits = values.view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    rounded[np.isnan(values)] = 0x7FC0
    return rounded
