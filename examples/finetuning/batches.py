"""Examples to batches: of about one length each, in an order that a seed and the number of the epoch decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .arguments import Settings
from .data import Example

POOL = 50
"""Batches among which examples are sorted by length: little padding, and still another order in every epoch."""


@dataclass(frozen=True)
class Batch:
    """One forward pass: always full, so that a compiled step sees few shapes.

    Attributes:
        inputs: `input_ids` and `attention_mask` [B, S], `labels` [B, T], int64; -100 where nothing is to be learnt.
        rows: which examples they are; the rows after those fill the batch up, and have no labels.
    """

    inputs: dict[str, np.ndarray]
    rows: list[int]

    @property
    def labels(self) -> int:
        """How many tokens are to be learnt."""
        return int((self.inputs["labels"] != -100).sum())

    @property
    def tokens(self) -> int:
        """How many tokens are read and learnt, without padding."""
        return int(self.inputs["attention_mask"][: len(self.rows)].sum()) + self.labels


def updates(lengths: Sequence[int], settings: Settings, world: int, epoch: int) -> list[list[list[int]]]:
    """The updates of an epoch: each a list of batches for all processes, each batch a list of examples' numbers.

    Args:
        lengths: of the examples' sources, in tokens.
        settings: batch size, accumulation, seed.
        world: the number of processes.
        epoch: which pass over the data this is.
    """
    size, together = settings.batch_size, settings.accumulation * world
    draw = np.random.default_rng([settings.seed, epoch])
    order = draw.permutation(len(lengths))
    # What does not fill an update waits for another epoch's order; a data set smaller than an update is repeated.
    order = np.resize(order, max(len(order) // (size * together), 1) * size * together)
    batches: list[list[int]] = []
    for start in range(0, len(order), POOL * size):
        pool = sorted(order[start : start + POOL * size].tolist(), key=lambda row: (lengths[row], row))
        batches += [pool[at : at + size] for at in range(0, len(pool), size)]
    # Batches of an update are neighbours in length: a process does not wait for another's longer batch.
    grouped = [batches[at : at + together] for at in range(0, len(batches), together)]
    return [grouped[place] for place in draw.permutation(len(grouped))]


def in_order(lengths: Sequence[int], size: int) -> list[list[int]]:
    """All examples once, sorted by length, in batches."""
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    return [order[at : at + size] for at in range(0, len(order), size)]


def padded(examples: Sequence[Example], rows: list[int], settings: Settings, pad: int, limit: int) -> Batch:
    """The batch of these rows.

    Args:
        examples: all examples.
        rows: the numbers of those in the batch, at most `batch_size`.
        settings: batch size, and what lengths are rounded up to.
        pad: the padding token's id.
        limit: the longest that the model reads, in tokens.
    """
    several = [examples[row] for row in rows]
    several += [Example(examples[rows[0]].source if rows else [pad], [], "")] * (settings.batch_size - len(rows))
    step = settings.pad_to_multiple_of

    def table(lists: list[list[int]], fill: int) -> np.ndarray:
        longest = max(1, *map(len, lists))
        made = np.full((len(lists), min(-(-longest // step) * step, limit)), fill, np.int64)
        for place, row in enumerate(lists):
            made[place, : len(row)] = row
        return made

    inputs = {
        "input_ids": table([one.source for one in several], pad),
        "attention_mask": table([[1] * len(one.source) for one in several], 0),
        "labels": table([one.target for one in several], -100),
    }
    return Batch(inputs, list(rows))
