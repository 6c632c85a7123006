"""The functions of this folder in PyTorch: `load(folder, "generate")`, "encode" and "decode_step"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

INPUTS = {
    "encode": ("input_ids", "attention_mask"),
    "decode_step": (
        "decoder_input_ids", "start", "attention_mask", "cross_keys", "cross_values", "cache_keys", "cache_values",
    ),
    "generate": ("input_ids", "attention_mask"),
}  # fmt: skip
"""A program of torch.export takes its inputs in this order."""


def load(folder: Path, name: str) -> Callable[..., dict[str, Any]]:
    """A function of NumPy arrays by name, which gives NumPy arrays by name; see README.md."""
    program = torch.export.load(folder / f"{name}.pt2").module()

    def call(**inputs: Any) -> dict[str, Any]:
        with torch.inference_mode():
            found = program(*(torch.from_numpy(inputs[one]) for one in INPUTS[name]))
        return {key: value.numpy() for key, value in found.items()}

    return call
