"""Helpers of the loading tests: classes by family and head, equality of models, and files to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import torch

import seq2seq_models

FULL, CAUSAL, BASE = "ForConditionalGeneration", "ForCausalLM", "Model"
SHARD = "20KB"


def ours(family: str, head: str = FULL) -> Any:
    return getattr(seq2seq_models, family + head)


def same(mine: torch.nn.Module, theirs: torch.nn.Module) -> None:
    a, b = tensors(mine), tensors(theirs)
    assert sorted(a) == sorted(b)
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name], b[name]), name


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers, shared ones under each of their names."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rewrite(folder: Path, change: Any) -> None:
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(file).items()}
    safetensors.torch.save_file(change(tensors), file, metadata={"format": "pt"})
