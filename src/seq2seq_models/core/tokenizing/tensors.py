"""Lists of ints to the tensors of a framework, each imported only when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ...errors import MissingFrameworkError, TokenizerError

_FRAMEWORKS = {"pt": "torch", "tf": "tensorflow", "np": "numpy", "jax": "jax"}


def tensor_name(tensor_type: Any) -> str:
    """ "pt", "tf", "np" or "jax", from such a name or an enum member with one as its value."""
    name = getattr(tensor_type, "value", tensor_type)
    if name not in _FRAMEWORKS:
        raise TokenizerError(f"`return_tensors` must be one of {', '.join(_FRAMEWORKS)}, got {tensor_type!r}.")
    return str(name)


def tensor_maker(tensor_type: Any) -> Callable[[Any], Any]:
    """The function that turns nested lists of ints into a tensor: int64 in PyTorch and NumPy, int32 in the others.

    Raises:
        MissingFrameworkError: the framework is not installed.
    """
    name = tensor_name(tensor_type)
    try:
        if name == "pt":
            import torch

            return lambda value: torch.from_numpy(_array(value, "int64"))
        if name == "tf":
            import tensorflow as tf

            return lambda value: tf.constant(_array(value, "int32"))
        if name == "jax":
            import jax.numpy as jnp

            return lambda value: jnp.asarray(_array(value, "int32"))
    except ImportError as error:
        extra = {"pt": "torch", "tf": "tensorflow", "jax": "flax"}[name]
        raise MissingFrameworkError(
            f"return_tensors={name!r} needs {_FRAMEWORKS[name]}, which is not installed. "
            f"Install it with `pip install seq2seq_models[{extra}]`, or use return_tensors='np'."
        ) from error
    return lambda value: _array(value, "int64")


def _array(value: Any, integer: str) -> Any:
    import numpy as np

    array = np.asarray(value)
    if array.dtype == object:
        raise ValueError("ragged")
    if array.size == 0 or array.dtype.kind in "iub":
        return array.astype(integer, copy=False)
    return array


def framework_of(value: Any) -> str | None:
    """The name of the framework a tensor belongs to; None if it is no tensor. Imports nothing."""
    for name, module in (("pt", "torch"), ("tf", "tensorflow"), ("np", "numpy"), ("jax", "jax")):
        if module in sys.modules and is_tensor_of(name, value):
            return name
    return None


def is_tensor_of(tensor_type: Any, value: Any) -> bool:
    """Whether the value is a tensor of this framework."""
    if isinstance(value, int | float | str | list | tuple) or value is None:
        return False
    name = tensor_name(tensor_type)
    module = sys.modules.get(_FRAMEWORKS[name])
    if module is None:
        return False
    if name == "pt":
        return bool(module.is_tensor(value))
    if name == "tf":
        return bool(module.is_tensor(value))
    return isinstance(value, module.ndarray if name == "np" else module.Array)


def as_list(value: Any) -> Any:
    """A tensor as nested lists of ints; lists of tensors likewise; a tensor of one number as an int."""
    if isinstance(value, int | str):
        return value
    if isinstance(value, list | tuple):
        return value if all(type(item) is int for item in value) else [as_list(item) for item in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "numpy"):
        return value.numpy().tolist()
    return value
