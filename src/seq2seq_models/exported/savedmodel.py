"""The functions of this folder in TensorFlow: `load(folder, "generate")`, "encode" and "decode_step"."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf


def load(folder: Path, name: str) -> Callable[..., dict[str, Any]]:
    """A function of NumPy arrays by name, which gives NumPy arrays by name; see README.md."""
    function = _loaded(folder).signatures[name]
    sizes = function.structured_input_signature[1]["attention_mask"].shape

    def call(**inputs: Any) -> dict[str, Any]:
        found = function(**{key: tf.constant(value) for key, value in inputs.items()})
        return {key: value.numpy() for key, value in found.items()}

    def in_batches(input_ids: Any, attention_mask: Any) -> dict[str, Any]:
        rows, length = sizes
        count = len(input_ids)
        if input_ids.shape[1] > length:
            raise ValueError(f"`input_ids` must have at most {length} columns, got {input_ids.shape[1]}.")
        wider = ((0, -count % rows), (0, length - input_ids.shape[1]))
        ids, mask = (np.pad(one, wider) for one in (input_ids, attention_mask))
        parts = [
            call(input_ids=ids[at : at + rows], attention_mask=mask[at : at + rows]) for at in range(0, count, rows)
        ]
        sequences = np.concatenate([part["sequences"] for part in parts])
        return {"sequences": sequences[: len(sequences) * count // len(ids)]}

    return in_batches if name == "generate" else call


@cache
def _loaded(folder: Path) -> Any:
    return tf.saved_model.load(str(folder / "saved_model" / "1"))
