"""What beam search in PyTorch saves itself gives what doing all of it would give."""

from __future__ import annotations

import pytest
import torch

from seq2seq_models.pytorch import beams
from seq2seq_models.pytorch.cache import CacheLayer, StaticCacheLayer

from .combinations import source
from .tiny import FAMILIES, pair


@pytest.mark.parametrize("size", [1000, 128 * 40, 128 * 40 + 1, 54944, 96103])
@pytest.mark.parametrize("count", [2, 9, 20])
def test_the_largest_are_those_of_topk(size, count):
    generator = torch.Generator().manual_seed(size + count)
    values = torch.randn(3, size, generator=generator)
    values[0, -1] = 50.0  # behind the last whole block
    values[1, 200:260] += 40.0  # several in one block
    values[2, torch.randperm(size, generator=generator)[: size // 2]] = -float("inf")
    expected = values.topk(count)
    found, places = beams.largest(values, count)
    assert torch.equal(found, expected.values) and torch.equal(places, expected.indices)


def test_what_is_ruled_out_is_ranked_by_topk():
    values = torch.full((2, 128 * 100), -float("inf"))
    values[:, [5, 300, 9000]] = torch.tensor([1.0, 3.0, 2.0])
    found, places = beams.largest(values, 6)
    assert torch.equal(places, values.topk(6).indices) and found[0, :3].tolist() == [3.0, 2.0, 1.0]


@pytest.mark.parametrize("seed", range(4))
def test_a_settled_start_need_not_be_copied(seed):
    """Rows of two inputs that follow each other as beams do; what all of an input share stays where it is."""
    generator = torch.Generator().manual_seed(seed)
    inputs, width, steps = 2, 3, 30
    plain, static = CacheLayer(), StaticCacheLayer(steps)
    lineage = torch.zeros(inputs * width, 0, dtype=torch.long)  # for each row, which row each position was written by
    saved = 0
    for step in range(steps):
        keys, values = (torch.randn(inputs * width, 2, 1, 4, generator=generator) for _ in range(2))
        plain.update(keys, values)
        held = static.update(keys, values)
        assert torch.equal(held[0], plain.keys) and torch.equal(held[1], plain.values), step
        lineage = torch.cat([lineage, torch.arange(inputs * width)[:, None]], 1)
        rows = torch.randint(width, (inputs, width), generator=generator)
        rows = (rows + torch.arange(inputs)[:, None] * width).flatten()
        lineage = lineage[rows]
        each = lineage.view(inputs, width, -1)
        settled = int((each == each[:, :1]).flatten(0, 1).all(0).long().cumprod(0).sum())
        saved += settled
        plain.reorder(rows)
        static.reorder(rows, settled)
    assert saved > 5 * steps  # else nothing was tried


@pytest.mark.reference
@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_search_with_settled_beams_is_the_references(family, monkeypatch):
    told = []
    settled = beams.BeamSearch.settled
    monkeypatch.setattr(beams.BeamSearch, "settled", lambda self: (told.append(settled(self)), told[-1])[1])
    options = {"num_beams": 2, "max_new_tokens": 30, "min_new_tokens": 30}
    for seed in range(8):
        theirs, mine = pair(family, seed=seed % 4)
        one = {name: value[seed % 3, None] for name, value in source(seed).items()}
        assert mine.generate(**one, **options).tolist() == theirs.generate(**one, **options).tolist()
    assert max(told) > 10
