"""The functions of this folder in ONNX Runtime: `load(folder, "generate")`, "encode" and "decode_step"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime


def load(folder: Path, name: str) -> Callable[..., dict[str, Any]]:
    """A function of NumPy arrays by name, which gives NumPy arrays by name; see README.md."""
    session = onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=onnxruntime.get_available_providers())
    names = [output.name.removeprefix("new_") for output in session.get_outputs()]

    def call(**inputs: Any) -> dict[str, Any]:
        return dict(zip(names, session.run(None, inputs), strict=True))

    return call
