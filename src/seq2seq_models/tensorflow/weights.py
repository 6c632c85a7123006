"""Between canonical weights and a Keras model: `assign` says where its variables begin, `extract` lists them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from ..core.leaves import KERAS, Leaf, from_attributes, leaf_of, turned
from ..core.parameters import Head, Parameter, parameters
from ..core.storage.stored import NUMPY_NAMES, Stored
from ..errors import CheckpointError

if TYPE_CHECKING:
    from ..core.pretrained import Match
    from .model import PreTrainedModel

STORED_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64",
                "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"}  # fmt: skip
"""How safetensors spells a dtype."""


def assign(model: PreTrainedModel, weights: Mapping[str, Stored]) -> None:
    """Says where the variables of a model take their first values from; those that are absent are drawn.

    Args:
        model: made inside `keras.StatelessScope`, which asks for the values when it is left: nothing is drawn that is
            loaded, and no weight is held twice.
        weights: canonical name -> tensor of the right shape.
    """
    for parameter, owner, leaf in _places(model):
        if parameter.name in weights and leaf.name in owner.initials:
            owner.initials[leaf.name].source = partial(_first_value, weights[parameter.name], leaf)


def load_own(model: PreTrainedModel, match: Match) -> PreTrainedModel:
    """Gives a model of a user's own class, which has its values already, those that are stored for it.

    Layers that Keras builds at their first call are built by one on `dummy_inputs`.
    """
    if not all(layer.built for layer in model._flatten_layers()):
        model(model.dummy_inputs)
    places = list(_places(model))
    variables = own_variables(model)
    held = match([parameter for parameter, _, _ in places], {name: _shape(*one) for name, one in variables.items()})
    for parameter, owner, leaf in places:
        if parameter.name in held and leaf.name in owner.initials:
            variable = getattr(owner, leaf.name)
            variable.assign(_first_value(held[parameter.name], leaf, variable.shape, _dtype(variable)))
    for name, (variable, transpose) in variables.items():
        if name in held:
            variable.assign(_first_value(held[name], Leaf(name, transpose), variable.shape, _dtype(variable)))
    return model


def own_variables(model: PreTrainedModel) -> dict[str, tuple[Any, bool]]:
    """The variables of a user's own layers by canonical name, and whether their values are turned around there.

    A name is made of the attributes that lead to a variable; a dense layer's kernel is a "weight" [out, in].
    """
    seen = {id(getattr(owner, leaf.name)) for _, owner, leaf in _places(model)}
    found: dict[str, tuple[Any, bool]] = {}

    def walk(part: Any, path: tuple[str, ...]) -> None:
        if id(part) in seen:
            return
        seen.add(id(part))
        if isinstance(part, keras.layers.Layer):
            public = {id(value): name for name, value in vars(part).items() if not name.startswith("_")}
            for variable in (*part._trainable_variables, *part._non_trainable_variables):
                if id(variable) not in seen:
                    seen.add(id(variable))
                    name, transpose = from_attributes((*path, public.get(id(variable), variable.name)))
                    found[name] = (variable, transpose and len(variable.shape) > 1)
            parts = {name: value for name, value in vars(part).items() if not name.startswith("_")}
        elif isinstance(part, Mapping):
            parts = {str(name): value for name, value in part.items()}
        else:
            parts = {str(index): value for index, value in enumerate(part)}
        for name, value in parts.items():
            if isinstance(value, keras.layers.Layer | Mapping | list | tuple):
                walk(value, (*path, name))

    walk(model, ())
    return found


def _shape(variable: Any, transpose: bool) -> tuple[int, ...]:
    return tuple(reversed(variable.shape)) if transpose else tuple(variable.shape)


def _dtype(variable: Any) -> str:
    return str(keras.backend.standardize_dtype(variable.dtype))


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
    every = [(parameter.name, getattr(owner, leaf.name), leaf) for parameter, owner, leaf in _places(model)]
    if not f"{type(model).__module__}.".startswith("seq2seq_models."):
        every += [(name, value, Leaf(name, is_turned)) for name, (value, is_turned) in own_variables(model).items()]
    for name, value, leaf in every:
        yield Stored(
            name, _shape(value, leaf.transpose), STORED_NAMES[_dtype(value)], partial(_canonical_values, value, leaf)
        )


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


def _places(model: PreTrainedModel) -> Iterator[tuple[Parameter, Any, Leaf]]:
    """Every weight that holds data of its own: (parameter, the layer that has it, the name it has there).

    Those that a user's own class has not got, or has replaced by another kind of layer, are left out.
    """
    for parameter in parameters(model.config, model.head or "conditional"):
        if parameter.tied_to is None:
            leaf = leaf_of(parameter, KERAS)
            owner = _owner(model, parameter.name, model.head)
            if hasattr(owner, "initials") and hasattr(owner, leaf.name):
                yield parameter, owner, leaf


def _owner(model: PreTrainedModel, name: str, head: Head | None) -> Any:
    local = name.removeprefix("model.") if head == "base" else name
    owner: Any = model
    for step in local.split(".")[:-1]:
        if owner is None or (step.isdigit() and not hasattr(owner, "__getitem__")):
            return None
        owner = owner[int(step)] if step.isdigit() else getattr(owner, step, None)
    return owner
