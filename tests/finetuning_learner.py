"""A learner of a few numbers instead of a model, so that the loop around it can be tested at every point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from finetuning.batches import Batch
from seq2seq_models import AutoConfig
from seq2seq_models.bundled import demo_checkpoint


class Stopped(Exception):
    """What stands for a kill: nothing after it runs."""


class FewNumbers:
    """Three weights that each update moves by what it was given; `interrupt` may raise at any of its calls.

    Attributes:
        curve: the loss of a label in an evaluation, by the number of updates made.
        past: the weights before the first update and after each.
    """

    framework = "NumPy"
    rank, world = 0, 1

    def __init__(
        self,
        curve: Callable[[int], float] = lambda step: 1 / (1 + step),
        interrupt: Callable[[str], None] | None = None,
    ) -> None:
        self.weights = np.zeros(3)
        self.past = [self.weights.copy()]
        self.steps = 0
        self.curve, self.interrupt = curve, interrupt or (lambda _: None)
        self.seen: list[list[int]] = []
        self.model = SimpleNamespace(config=AutoConfig.from_pretrained(demo_checkpoint("pegasus-demo")))

    def step(self, several: Sequence[Batch], labels: int, rate: float, number: int) -> tuple[float, float]:
        self.interrupt("step")
        drawn = np.random.default_rng(number).normal(size=3)
        for batch in several:
            self.seen.append(batch.rows)
            self.weights += rate * drawn * batch.labels / labels * np.sin(sum(batch.rows))
        self.steps += 1
        self.past.append(self.weights.copy())
        return float(np.abs(self.weights).sum()), float(labels)

    def loss(self, batch: Batch) -> float:
        self.interrupt("loss")
        return self.curve(self.steps) * batch.labels

    def generate(self, batch: Batch) -> list[list[int]]:
        """The labels themselves, but for the first words: ever fewer are missing."""
        rows = batch.inputs["labels"]
        return [[int(token) for token in row[max(0, 4 - self.steps) :] if token >= 0] for row in rows]

    def save(self, folder: Path) -> None:
        self.interrupt("save")
        np.save(folder / "model.npy", self.weights)
        self.interrupt("saved")

    def save_state(self, folder: Path) -> None:
        self.interrupt("state")
        np.savez(folder / "state.npz", weights=self.weights, steps=self.steps)
        self.interrupt("stated")

    def load_state(self, folder: Path) -> None:
        found = np.load(folder / "state.npz")
        self.weights, self.steps = found["weights"], int(found["steps"])

    def gather(self, values: list[Any]) -> list[Any]:
        return values
