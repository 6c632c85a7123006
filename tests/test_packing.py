"""Packed weights change the time of a step and nothing else."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from seq2seq_models.pytorch import packing

from .combinations import combination, source
from .tiny import FAMILIES, close, ours_like, pair, same_ids

pytestmark = [pytest.mark.reference, pytest.mark.parametrize("family", FAMILIES)]


@pytest.fixture(autouse=True)
def pack_everything(monkeypatch):
    monkeypatch.setattr(packing, "SMALLEST", 1)


def count_products(monkeypatch):
    calls = []
    product = packing._product
    monkeypatch.setattr(packing, "_product", lambda *args: (calls.append(1), product(*args))[1])
    return calls


def test_ids_stay_the_references(family, monkeypatch):
    calls = count_products(monkeypatch)
    close_calls = 0
    for seed in range(30):
        theirs, mine = pair(family, seed=seed % 4)
        close_calls += not same_ids(mine, theirs, *combination(seed, family))[1]
    assert close_calls <= 1
    assert len(calls) > 30 * 3 * 8


def test_scores_stay_within_the_tolerance(family):
    theirs, mine = pair(family)
    options = {"max_new_tokens": 6, "return_dict_in_generate": True, "output_logits": True, "num_beams": 3}
    expected, found = theirs.generate(**source(2), **options), mine.generate(**source(2), **options)
    for x, y in zip(found.logits, expected.logits, strict=True):
        close(x, y, 2e-5)


def test_a_changed_weight_is_packed_anew(family):
    mine = ours_like(pair(family)[0])
    before = mine.generate(**source(3), max_new_tokens=8)
    with torch.no_grad():
        for parameter in mine.model.decoder.parameters():
            parameter.mul_(-1.3)
    fresh = ours_like(pair(family)[0])
    fresh.load_state_dict(mine.state_dict())
    after = mine.generate(**source(3), max_new_tokens=8)
    assert after.tolist() == fresh.generate(**source(3), max_new_tokens=8).tolist() != before.tolist()
    mine.lm_head.weight.data = mine.lm_head.weight.data.flip(0).contiguous()
    fresh.load_state_dict(mine.state_dict())
    found = mine.generate(**source(3), max_new_tokens=8)
    assert found.tolist() == fresh.generate(**source(3), max_new_tokens=8).tolist() != after.tolist()


def test_nothing_of_it_stays_on_the_model(family):
    mine = ours_like(pair(family)[0])
    expected = mine.generate(**source(4), max_new_tokens=6).tolist()

    def fail(ids, scores):
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        mine.generate(**source(4), max_new_tokens=6, logits_processor=[fail])
    assert all("forward" not in module.__dict__ for module in mine.modules())
    for twin in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        assert twin.generate(**source(4), max_new_tokens=6).tolist() == expected
    loss = mine(**source(4), labels=torch.ones(3, 4, dtype=torch.long)).loss
    loss.backward()
    assert mine.lm_head.weight.grad is not None


def test_a_copy_goes_with_its_weight(family):
    mine = ours_like(pair(family)[0])
    mine.generate(**source(5), max_new_tokens=3)
    weight = mine.model.decoder.layers[0].fc1.weight
    assert weight in packing._packed
    held = len(packing._packed)
    del mine, weight
    assert len(packing._packed) < held


def test_without_the_operations_the_plain_product_serves(family, monkeypatch):
    mine = ours_like(pair(family)[0])
    expected = mine.generate(**source(6), max_new_tokens=6).tolist()
    monkeypatch.setattr(packing, "is_packable", lambda weight: False)
    assert mine.generate(**source(6), max_new_tokens=6).tolist() == expected
    monkeypatch.undo()
    monkeypatch.setattr(packing, "SMALLEST", 1)
    monkeypatch.setattr(packing, "_reorder", lambda weight: (_ for _ in ()).throw(RuntimeError("not built")))
    other = ours_like(pair(family)[0])
    calls = count_products(monkeypatch)
    assert other.generate(**source(6), max_new_tokens=6).tolist() == expected
    assert not calls


@pytest.mark.parametrize("rows", range(1, 7))
def test_few_rows_of_a_large_weight(family, rows, monkeypatch):
    monkeypatch.setattr(packing, "LARGE", 1)
    weight, bias, values = torch.randn(48, 20), torch.randn(48), torch.randn(rows, 1, 20)
    with torch.no_grad():
        found = packing.packed_linear(weight, bias)(values)
    assert found.shape == (rows, 1, 48)
    close(found, torch.nn.functional.linear(values, weight, bias))
    theirs, mine = pair(family)
    assert mine.generate(**source(rows)).tolist() == theirs.generate(**source(rows)).tolist()


def test_bfloat16_is_packed_too(family, monkeypatch):
    mine = ours_like(pair(family)[0]).bfloat16()
    calls = count_products(monkeypatch)
    ids = mine.generate(**source(7), max_new_tokens=6)
    assert ids.shape[0] == 3 and bool(calls) == packing._has_bfloat16()
