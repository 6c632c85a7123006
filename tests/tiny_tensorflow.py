"""Tiny TensorFlow models beside the reference's and our PyTorch ones, all with the same weights."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import transformers

import seq2seq_models
from seq2seq_models.core.leaves import from_keras
from seq2seq_models.tensorflow.weights import _places

from .tiny import batch, ours_like, reference

FULL, BASE, CAUSAL = "ForConditionalGeneration", "Model", "ForCausalLM"

# The libraries' own warnings, ours are errors: tf_keras and TensorFlow use what NumPy and Python deprecate.
LIBRARY_WARNINGS = pytest.mark.filterwarnings(r"ignore:::(transformers|tensorflow|keras|tf_keras|google|optree)(\..*)?")


@cache
def folder(family: str, head: str, **overrides: Any) -> tuple[Path, Any]:
    """Where a tiny reference model is saved, and that model."""
    model = reference(family, head, **overrides)
    place = Path(tempfile.mkdtemp(prefix="tiny-tensorflow-"))
    model.save_pretrained(place)
    return place, model


@cache
def trio(family: str, head: str = FULL, **overrides: Any) -> tuple[Any, Any, Any]:
    """(the reference in TensorFlow, our PyTorch model, our TensorFlow model); shared, so not to be changed.

    The reference has no causal models in TensorFlow: None.
    """
    place, original = folder(family, head, **overrides)
    theirs = getattr(transformers, f"TF{family}{head}", None)
    theirs = None if theirs is None else theirs.from_pretrained(place, from_pt=True)
    return theirs, ours_like(original), loaded(family, head, **overrides)


def loaded(family: str, head: str = FULL, **overrides: Any) -> Any:
    """Our TensorFlow model with those weights, one's own to change."""
    return getattr(seq2seq_models, f"TF{family}{head}").from_pretrained(folder(family, head, **overrides)[0])


def tensors(given: dict[str, Any]) -> dict[str, tf.Tensor]:
    """PyTorch inputs as int32 TensorFlow ones."""
    return {name: tf.constant(value.numpy().astype("int32")) for name, value in given.items()}


def inputs(**sizes: int) -> dict[str, tf.Tensor]:
    return tensors(batch(**sizes))


def as_numpy(value: Any) -> Any:
    return value.detach().numpy() if hasattr(value, "detach") else np.asarray(value)


def near(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    """Every tensor in both, however nested, is close to the other's."""
    if isinstance(theirs, tuple | list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            near(one, other, tolerance)
        return
    one, other = as_numpy(ours), as_numpy(theirs)
    assert one.shape == other.shape
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def variables(model: Any) -> dict[str, tuple[Any, bool]]:
    """Canonical name -> (variable or constant, whether it is turned) of one of ours."""
    return {parameter.name: (getattr(owner, leaf.name), leaf.transpose) for parameter, owner, leaf in _places(model)}


def variables_of_reference(model: Any) -> dict[str, tuple[Any, bool]]:
    """The same of one of the reference's, by the names that its files have."""
    found = {}
    for variable in model.weights:
        name, transpose = from_keras(variable.name.partition("/")[2] or variable.name)
        found[name] = variable, transpose
    return found


def gradients(tape: tf.GradientTape, loss: Any, named: dict[str, tuple[Any, bool]]) -> dict[str, Any]:
    """Gradients by canonical name, in PyTorch's orientation; those that are None are left out."""
    trainable = {name: pair for name, pair in named.items() if getattr(pair[0], "trainable", False)}
    found = tape.gradient(loss, [variable for variable, _ in trainable.values()])
    result = {}
    for (name, (_, transpose)), gradient in zip(trainable.items(), found, strict=True):
        if gradient is not None:
            values = tf.convert_to_tensor(gradient).numpy()
            result[name] = values.T if transpose else values
    return result
