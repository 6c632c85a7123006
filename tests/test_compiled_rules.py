"""The rules of sampling in core/search, computed with TensorFlow and with JAX, against PyTorch's functions by value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from seq2seq_models import GenerationConfig
from seq2seq_models.core.generation_rules import Rule, score_rules
from seq2seq_models.core.search.rules import Look, apply_rules, join, split
from seq2seq_models.pytorch import rules as pytorch_rules

ROWS, WORDS, LENGTH = 5, 41, 4
OPTIONS: dict[str, tuple[Any, ...]] = {
    "temperature": (0.5, 3.0),
    "top_k": (1, 7),
    "top_p": (0.2, 0.9),
    "min_p": (0.05, 0.6, 1.0),
    "typical_p": (0.2, 0.9),
    "epsilon_cutoff": (0.01, 0.3),
    "eta_cutoff": (0.01, 0.3),
    "renormalize_logits": (True,),
}
CASES = [(name, value) for name, values in OPTIONS.items() for value in values]


def rules_of(name: str, value: Any, beams: int) -> list[Rule]:
    """The rules that this option alone asks for."""
    settings = {"do_sample": True, "top_k": 0, "num_beams": beams, name: value}
    return list(score_rules(GenerationConfig(**settings), 1)[1])


def scores() -> np.ndarray:
    """float32 [R, V]: peaked and flat rows, ties, and impossible words."""
    made = np.random.default_rng(0).normal(size=(ROWS, WORDS)).astype("float32") * [[1.0], [6.0], [0.1], [3.0], [2.0]]
    made[3, 5:9] = made[3].max()
    made[4, 10:] = -np.inf
    return made.astype("float32")


def expected(rules: list[Rule]) -> np.ndarray:
    found, ids = torch.tensor(scores()), torch.zeros(ROWS, LENGTH, dtype=torch.long)
    for rule in rules:
        found = pytorch_rules.FUNCTIONS[type(rule)](rule, ids, found)
    return found.numpy()


def in_tensorflow() -> tuple[Any, Callable[..., Any]]:
    import tensorflow as tf

    from seq2seq_models.tensorflow.arrays import TensorFlowArrays

    return TensorFlowArrays(), lambda function: tf.function(function, jit_compile=True, autograph=False)


def in_jax() -> tuple[Any, Callable[..., Any]]:
    import jax

    from seq2seq_models.flax.arrays import JaxArrays

    return JaxArrays(), jax.jit


@pytest.mark.parametrize("wing", [in_tensorflow, in_jax], ids=["tensorflow", "flax"])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(("name", "value"), CASES)
def test_a_rule_of_sampling(wing: Callable[[], Any], beams: int, name: str, value: Any) -> None:
    xp, compiled = wing()
    rules = rules_of(name, value, beams)
    assert name in {rule.option for rule in rules} and len(rules) <= 2
    parts = [split(rule) for rule in rules]

    def apply(values: Any, numbers: Any) -> Any:
        look = Look(xp, xp.full((ROWS, LENGTH), 0, "int32"), xp.asarray(LENGTH, "int32"), xp.asarray(0, "int32"))
        whole = [join(alone, held, None) for (alone, _, _), held in zip(parts, numbers, strict=True)]
        return apply_rules(whole, look, values)

    numbers = [[np.float32(number) for number in held] for _, held, _ in parts]
    found = np.asarray(compiled(apply)(scores(), numbers))
    wanted = expected(rules)
    if name == "top_p":  # of words that tie, a sort keeps any; compiled code keeps all
        least = np.where(np.isinf(wanted), np.inf, wanted).min(axis=1, keepdims=True)
        wanted = np.where(scores() >= least, scores(), -np.inf)
    assert (np.isinf(found) == np.isinf(wanted)).all()
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5)
    if name not in ("temperature", "renormalize_logits"):
        assert np.isinf(found).sum() > np.isinf(scores()).sum()
