"""The tiny models of tiny.py in Flax: the reference's, ours, and ours in PyTorch, with the same weights."""

from __future__ import annotations

import tempfile
from functools import cache
from typing import Any

import numpy as np
import transformers

import seq2seq_models

from .tiny import batch, ours_like, reference

FULL, BASE, CAUSAL = "ForConditionalGeneration", "Model", "ForCausalLM"


@cache
def trio(family: str, head: str = FULL, **overrides: Any) -> tuple[Any, Any, Any]:
    """(the reference in Flax, ours in Flax, ours in PyTorch); shared between tests, so not to be changed.

    The reference has no causal models of these families in Flax: the first is None then.
    """
    torch_reference = reference(family, head, **overrides)
    ours = ours_of(torch_reference, family, head)
    theirs = None
    if head != CAUSAL:
        with tempfile.TemporaryDirectory() as folder:
            torch_reference.save_pretrained(folder)
            theirs = getattr(transformers, f"Flax{family}{head}").from_pretrained(folder, from_pt=True)
    return theirs, ours, ours_like(torch_reference)


def ours_of(torch_reference: Any, family: str, head: str = FULL, **options: Any) -> Any:
    """Our Flax model with the weights of a reference in PyTorch."""
    with tempfile.TemporaryDirectory() as folder:
        torch_reference.save_pretrained(folder)
        return getattr(seq2seq_models, f"Flax{family}{head}").from_pretrained(folder, **options)


def arrays(**options: Any) -> dict[str, np.ndarray]:
    """tiny.batch as NumPy arrays."""
    return {name: value.numpy() for name, value in batch(**options).items()}


def near(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    """Equal within 1e-5 absolute and relative; tensors of all three frameworks, and nested tuples of them."""
    if isinstance(theirs, tuple | list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            near(one, other, tolerance)
        return
    one, other = (np.asarray(x.detach() if hasattr(x, "detach") else x, dtype=np.float64) for x in (ours, theirs))
    np.testing.assert_allclose(one, other, atol=tolerance, rtol=tolerance)
