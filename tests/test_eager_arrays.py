"""PyTorch's eager array operations, which overwrite what they consume, against NumPy's, operation by operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from seq2seq_models.core.generation.arrays import Arrays
from seq2seq_models.core.generation.host_arrays import HostArrays
from seq2seq_models.pytorch.arrays import EagerArrays

draw = np.random.default_rng(0)
X = draw.normal(size=(3, 2000)).astype("float32")
X[0, :7], X[2, 5] = -np.inf, np.inf
IDS = draw.integers(0, 2000, (3, 6))
CUBE = draw.normal(size=(3, 2, 2000)).astype("float32")
BLOCK = draw.normal(size=(3, 4, 5)).astype("float32")
PICKED = np.array([[1, 3], [0, 0], [2, 1]])
OPERATIONS: dict[str, Callable[[Arrays, Callable[..., Any]], Any]] = {
    "when": lambda xp, to: (
        xp.when(True, lambda x: xp.divide(x, 2.0), to(X)),
        xp.when(False, lambda x: xp.divide(x, 2.0), to(X)),
    ),
    "fill": lambda xp, to: xp.fill(to(X), to(X > 0), -5.0),
    "fill_columns": lambda xp, to: (xp.fill_columns(to(X), (1, 7), 2.0), xp.fill_columns(to(X), range(40), 2.0)),
    "add": lambda xp, to: xp.add(to(CUBE), to(CUBE)),
    "divide": lambda xp, to: xp.divide(to(X), 3.0),
    "log_probabilities": lambda xp, to: xp.log_probabilities(to(CUBE[0])),
    "log_softmax": lambda xp, to: xp.log_softmax(to(CUBE[0])),
    "softmax": lambda xp, to: xp.softmax(to(CUBE[0])),
    "at": lambda xp, to: xp.at(to(BLOCK), 2, 1),
    "element": lambda xp, to: xp.full((1,), float(xp.element(X[1], 4)), "float32"),
    "put": lambda xp, to: xp.put(to(BLOCK), 1, to(BLOCK[:, :2] * 2), 1),
    "put_at": lambda xp, to: xp.put_at(to(X), to(IDS), to(X[:, :1].repeat(6, 1))),
    "add_at": lambda xp, to: xp.add_at(to(X), to(np.concatenate([IDS, IDS], 1)), to(X[:, 20:32])),
    "min_at": lambda xp, to: xp.min_at(to(X), to(np.concatenate([IDS, IDS], 1)), to(X[:, 20:32])),
    "best": lambda xp, to: (xp.best(to(CUBE), 5), xp.best(to(CUBE[:, :, :9]), 5)),
    "top_k": lambda xp, to: xp.top_k(to(CUBE[0]), 5),
    "sort": lambda xp, to: (xp.sort(to(X)), xp.argsort(to(X)), xp.cumsum(to(CUBE))),
    "arg": lambda xp, to: (xp.argmax(to(X)), xp.argmin(to(X))),
    "take": lambda xp, to: (xp.take(to(BLOCK), to(PICKED[0]), 1), xp.take_along(to(X), to(IDS))),
    "pick": lambda xp, to: xp.pick(to(BLOCK), to(PICKED)),
    "repeat": lambda xp, to: xp.repeat(to(BLOCK), 3),
    "reduce": lambda xp, to: (
        xp.sum(to(BLOCK), 1),
        xp.max(to(BLOCK), 2, keepdims=True),
        xp.min(to(BLOCK), 0),
        xp.any(to(X > 2), 1),
        xp.all(to(X > -2), 1),
    ),
    "join": lambda xp, to: (xp.concat([to(BLOCK), to(BLOCK)], 2), xp.stack([to(BLOCK), to(BLOCK)], 1)),
    "bounds": lambda xp, to: (xp.maximum(to(X), 0.5), xp.minimum(to(X), 0.5), xp.where(to(X > 0), to(X), 0.0)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_equals_numpys(name: str) -> None:
    eager = EagerArrays(torch.device("cpu"))
    numpy: Any = HostArrays(eager)
    with np.errstate(all="ignore"):
        wanted = OPERATIONS[name](numpy, np.array)
    found = OPERATIONS[name](eager, torch.tensor)

    def compare(mine: Any, theirs: Any) -> int:
        if isinstance(theirs, tuple):
            return sum(compare(*pair) for pair in zip(mine, theirs, strict=True))
        assert tuple(mine.shape) == theirs.shape
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-5, atol=1e-5)
        return theirs.size

    assert compare(found, wanted) > 0


def test_the_largest_memory_is_used_again_but_where_a_function_of_the_user_looks() -> None:
    logits = torch.randn(4, 300)
    eager, shown = EagerArrays(torch.device("cpu")), EagerArrays(torch.device("cpu"), reuses=False)
    first, second = eager.log_probabilities(logits), eager.log_probabilities(logits + 1)
    assert first.data_ptr() == second.data_ptr()
    kept = shown.log_probabilities(logits)
    before = kept.clone()
    assert shown.add(kept, 1.0) is not kept and torch.equal(kept, before)
    assert shown.log_probabilities(logits).data_ptr() != kept.data_ptr()


def test_a_loop_that_looks_every_few_rounds_never_runs_past_its_most() -> None:
    eager = EagerArrays(torch.device("cpu"), every=8)
    rounds = [
        eager.while_loop(lambda s: s["n"] < 3, lambda s: {"n": s["n"] + 1}, {"n": 0}, most)["n"] for most in (5, 99)
    ]
    assert rounds == [5, 8]
    assert eager.while_loop(lambda s: s["n"] < 3, lambda s: {"n": s["n"] + 1}, {"n": 0})["n"] == 3


def test_numbers_of_a_row_do_not_depend_on_the_others() -> None:
    one, two = EagerArrays(torch.device("cpu")), EagerArrays(torch.device("cpu"))
    many = torch.cat([one.noise(7, step, 3, 1) for step in range(4)], 1)
    alone = torch.cat([two.noise(7, step, 1, 1) for step in range(4)], 1)
    assert torch.equal(many[:1], alone) and len(set(many.flatten().tolist())) == 12
