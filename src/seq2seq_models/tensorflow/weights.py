"""Between canonical weights and a Keras model: `assign` says where its variables begin, `extract` lists them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from ..core.leaves import KERAS, Leaf, leaf_of, turned
from ..core.parameters import Head, Parameter, parameters
from ..core.storage.stored import NUMPY_NAMES, Stored
from ..errors import CheckpointError

if TYPE_CHECKING:
    from ..core.config import PretrainedConfig
    from .model import PreTrainedModel

STORED_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64",
                "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"}  # fmt: skip
"""How safetensors spells a dtype."""


def assign(model: PreTrainedModel, weights: Mapping[str, Stored], *, head: Head, config: PretrainedConfig) -> None:
    """Says where the variables of a model take their first values from; those that are absent are drawn.

    Args:
        model: made inside `keras.StatelessScope`, which asks for the values when it is left: nothing is drawn that is
            loaded, and no weight is held twice.
        weights: canonical name -> tensor of the right shape.
        head: of the model.
        config: of the model.
    """
    for parameter, owner, leaf in _places(model, head, config):
        if parameter.name in weights and leaf.name in owner.initials:
            owner.initials[leaf.name].source = partial(_first_value, weights[parameter.name], leaf)


def _first_value(stored: Stored, leaf: Leaf, shape: tuple[int, ...], dtype: str) -> Any:
    """The tensor of a variable, turned and cast; the checkpoint's memory is given back."""
    values = tensor_of(stored)
    if leaf.transpose:
        values = tf.transpose(values)
    if values.dtype != dtype:
        values = tf.cast(values, dtype)
    stored.release()
    return values


def tensor_of(stored: Stored) -> tf.Tensor:
    """The values as a tensor of the stored dtype; a copy."""
    values = tf.constant(stored.read())
    return tf.bitcast(values, tf.bfloat16) if stored.dtype == "BF16" else values


def extract(model: PreTrainedModel) -> Iterator[Stored]:
    """The weights of a model under their canonical names, in their canonical order, tied ones once."""
    head: Head = model.head or "conditional"
    for parameter, owner, leaf in _places(model, head, model.config):
        value = getattr(owner, leaf.name)
        shape = tuple(reversed(value.shape)) if leaf.transpose else tuple(value.shape)
        dtype = STORED_NAMES[keras.backend.standardize_dtype(value.dtype)]
        yield Stored(parameter.name, shape, dtype, partial(_canonical_values, value, leaf))


def _canonical_values(value: Any, leaf: Leaf) -> np.ndarray[Any, Any]:
    values = np.asarray(value.numpy())
    if values.dtype.name == "bfloat16":
        values = values.view(np.uint16)
    return np.ascontiguousarray(turned(values, leaf))


def from_state_dict(state_dict: Mapping[str, Any]) -> list[Stored]:
    """The arrays or tensors of a state dict under its own names."""
    return [_stored_array(name, value) for name, value in state_dict.items()]


def _stored_array(name: str, value: Any) -> Stored:
    array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
    if array.dtype.name not in STORED_NAMES:
        known = ", ".join(STORED_NAMES)
        raise CheckpointError(f"A tensor of a state dict must be of {known}, got {array.dtype} ({name}). Cast it.")
    dtype = STORED_NAMES[array.dtype.name]
    bits = array.view(NUMPY_NAMES[dtype])
    return Stored(name, array.shape, dtype, lambda: bits)


def _places(model: PreTrainedModel, head: Head, config: Any) -> Iterator[tuple[Parameter, Any, Leaf]]:
    """Every weight that holds data of its own: (parameter, the layer that has it, the name it has there)."""
    for parameter in parameters(config, head):
        if parameter.tied_to is None:
            leaf = leaf_of(parameter, KERAS)
            yield parameter, _owner(model, parameter.name, head), leaf


def _owner(model: PreTrainedModel, name: str, head: Head) -> Any:
    local = name.removeprefix("model.") if head == "base" else name
    owner: Any = model
    for step in local.split(".")[:-1]:
        owner = owner[int(step)] if step.isdigit() else getattr(owner, step)
    return owner
