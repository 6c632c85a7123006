"""The functions of this folder in JAX: `load(folder, "generate")`, "encode" and "decode_step"."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from safetensors.flax import load_file

INPUTS = {
    "encode": ("input_ids", "attention_mask"),
    "decode_step": (
        "decoder_input_ids", "start", "attention_mask", "cross_keys", "cross_values", "cache_keys", "cache_values",
    ),
    "generate": ("input_ids", "attention_mask"),
}  # fmt: skip
"""An exported function takes the weights first, and then its inputs in this order."""


def load(folder: Path, name: str) -> Callable[..., dict[str, Any]]:
    """A function of NumPy arrays by name, which gives NumPy arrays by name; see README.md.

    It is compiled at its first call, and for every new shape.
    """
    function = jax.jit(export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes())).call)

    def call(**inputs: Any) -> dict[str, Any]:
        found = function(_weights(folder), *(inputs[one] for one in INPUTS[name]))
        return {key: np.asarray(value) for key, value in found.items()}

    return call


@cache
def _weights(folder: Path) -> dict[str, jax.Array]:
    found: dict[str, jax.Array] = load_file(folder / "weights.safetensors")
    return found
