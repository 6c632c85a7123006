"""What beam search in PyTorch saves itself gives what doing all of it would give."""

from __future__ import annotations

import pytest
import torch

from seq2seq_models.pytorch import arrays
from seq2seq_models.pytorch.cache import Cache, CacheLayer, StaticCacheLayer
from seq2seq_models.pytorch.decoder import succession

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
    found, places = arrays.largest(values, count)
    assert torch.equal(found, expected.values) and torch.equal(places, expected.indices)


def test_what_is_ruled_out_is_ranked_by_topk():
    values = torch.full((2, 128 * 100), -float("inf"))
    values[:, [5, 300, 9000]] = torch.tensor([1.0, 3.0, 2.0])
    found, places = arrays.largest(values, 6)
    assert torch.equal(places, values.topk(6).indices) and found[0, :3].tolist() == [3.0, 2.0, 1.0]


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_go_on_stay_in_their_places(seed):
    """Rows of two inputs that follow each other as beams do; what all of an input share is not copied either."""
    generator = torch.Generator().manual_seed(seed)
    inputs, width, steps = 2, 3, 30
    count = inputs * width
    plain, static = CacheLayer(), StaticCacheLayer(steps)
    lineage = torch.zeros(count, 0, dtype=torch.long)  # for each row, which row each position was written by
    places, saved, copied = list(range(count)), 0, 0
    for step in range(steps):
        keys, values = (torch.randn(count, 2, 1, 4, generator=generator) for _ in range(2))
        plain.update(keys, values)
        held = static.update(*(tensor[torch.tensor(places).argsort()] for tensor in (keys, values)))
        assert torch.equal(held[0][places], plain.keys) and torch.equal(held[1][places], plain.values), step
        lineage = torch.cat([lineage, torch.arange(count)[:, None]], 1)
        each = lineage.view(inputs, width, -1)
        settled = int((each == each[:, :1]).flatten(0, 1).all(0).long().cumprod(0).sum())
        rows = torch.randint(width, (inputs, width), generator=generator)
        rows = (rows + torch.arange(inputs)[:, None] * width).flatten()
        lineage = lineage[rows]
        plain.reorder(rows)
        parents = [places[row] for row in rows.tolist()]
        places, sources, copies = succession(parents)
        assert sorted(places) == list(range(count)) and len(copies) == count - len(set(parents))
        assert not set(copies) & set(parents) and set(sources) <= set(parents)
        assert all(place // width == row // width for row, place in enumerate(places))
        static.copy_rows(torch.tensor(sources, dtype=torch.long), torch.tensor(copies, dtype=torch.long), settled)
        saved, copied = saved + settled, copied + len(copies)
    assert saved > 5 * steps and 0 < copied < steps * count / 2  # else nothing was tried


def test_a_static_cache_is_reordered_as_another():
    plain, static = CacheLayer(), StaticCacheLayer(9)
    for rows in ([1, 1, 0], [2, 0, 1], [0, 0, 0]):
        keys, values = torch.randn(2, 3, 2, 1, 4)
        plain.update(keys, values)
        static.update(keys, values)
        for layer in (plain, static):
            layer.reorder(torch.tensor(rows))
        assert torch.equal(static.keys, plain.keys) and torch.equal(static.values, plain.values)
        for layer in (plain, static):
            layer.copy_rows(torch.tensor([1]), torch.tensor([2]))
        assert torch.equal(static.keys, plain.keys) and torch.equal(static.values, plain.values)


@pytest.mark.reference
@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_search_with_settled_beams_is_the_references(family, monkeypatch):
    told, copy_rows = [], Cache.copy_rows
    monkeypatch.setattr(Cache, "copy_rows", lambda self, *args: (told.append(args[2]), copy_rows(self, *args))[1])
    options = {"num_beams": 2, "max_new_tokens": 30, "min_new_tokens": 30}
    for seed in range(8):
        theirs, mine = pair(family, seed=seed % 4)
        one = {name: value[seed % 3, None] for name, value in source(seed).items()}
        assert mine.generate(**one, **options).tolist() == theirs.generate(**one, **options).tolist()
    assert max(told) > 10
