"""The rules of sampling, computed in each framework's arrays, against the reference's own warpers by value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from seq2seq_models import GenerationConfig
from seq2seq_models.core.generation.arrays import Arrays
from seq2seq_models.core.generation.rules import RuleContext, apply_rules, join, split
from seq2seq_models.core.generation_rules import Rule, score_rules

pytestmark = pytest.mark.reference

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


def expected(name: str, value: Any, at_least: int) -> np.ndarray:
    """What the reference's warper makes of the scores."""
    from transformers.generation import logits_process as theirs

    more = {"min_tokens_to_keep": at_least}
    warper: Any = {
        "temperature": lambda: theirs.TemperatureLogitsWarper(value),
        "top_k": lambda: theirs.TopKLogitsWarper(value, **more),
        "top_p": lambda: theirs.TopPLogitsWarper(value, **more),
        "min_p": lambda: theirs.MinPLogitsWarper(value, **more),
        "typical_p": lambda: theirs.TypicalLogitsWarper(value, **more),
        "epsilon_cutoff": lambda: theirs.EpsilonLogitsWarper(value, **more),
        "eta_cutoff": lambda: theirs.EtaLogitsWarper(value, **more),
        "renormalize_logits": theirs.LogitNormalization,
    }[name]()
    return np.asarray(warper(torch.zeros(ROWS, LENGTH, dtype=torch.long), torch.tensor(scores())))


def in_pytorch() -> tuple[Arrays, Callable[..., Any]]:
    from seq2seq_models.pytorch.arrays import EagerArrays

    return EagerArrays(torch.device("cpu")), lambda function: lambda x, numbers: function(torch.tensor(x), numbers)


def in_numpy() -> tuple[Arrays, Callable[..., Any]]:
    from seq2seq_models.core.generation.host_arrays import HostArrays
    from seq2seq_models.flax.arrays import JaxArrays

    return HostArrays(JaxArrays()), lambda function: function


def in_tensorflow() -> tuple[Any, Callable[..., Any]]:
    import tensorflow as tf

    from seq2seq_models.tensorflow.arrays import TensorFlowArrays

    return TensorFlowArrays(), lambda function: tf.function(function, jit_compile=True, autograph=False)


def in_jax() -> tuple[Any, Callable[..., Any]]:
    import jax

    from seq2seq_models.flax.arrays import JaxArrays

    return JaxArrays(), jax.jit


@pytest.mark.parametrize("framework", [in_pytorch, in_numpy, in_tensorflow, in_jax])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(("name", "value"), CASES)
def test_a_rule_of_sampling(framework: Callable[[], Any], beams: int, name: str, value: Any) -> None:
    xp, compiled = framework()
    rules = rules_of(name, value, beams)
    assert name in {rule.option for rule in rules} and len(rules) <= 2
    parts = [split(rule) for rule in rules]

    def apply(values: Any, numbers: Any) -> Any:
        context = RuleContext(xp, xp.full((ROWS, LENGTH), 0, "int32"), LENGTH, 0)
        whole = [join(alone, held, None) for (alone, _, _), held in zip(parts, numbers, strict=True)]
        return apply_rules(whole, context, values)

    numbers = [[np.float32(number) for number in held] for _, held, _ in parts]
    with np.errstate(all="ignore"):
        found = np.asarray(compiled(apply)(scores(), numbers))
    wanted = expected(name, value, 1 if beams == 1 else 2)
    if name in ("top_p", "min_p"):  # of tokens that tie at the cut, the reference keeps any; here all stay
        least = np.where(np.isinf(wanted), np.inf, wanted).min(axis=1, keepdims=True)
        wanted = np.where(scores() >= least, scores(), -np.inf)
    assert (np.isinf(found) == np.isinf(wanted)).all()
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5)
    if name not in ("temperature", "renormalize_logits"):
        assert np.isinf(found).sum() > np.isinf(scores()).sum()
