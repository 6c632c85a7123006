"""State dicts hold each weight once; they load with any of its names, everywhere that PyTorch loads them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from .loading import tensors
from .tiny import FAMILIES, HEADS, ours_like, pair, reference

pytestmark = pytest.mark.reference
TIES = {
    "Model": ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"],
    "ForConditionalGeneration": [
        "model.encoder.embed_tokens.weight",
        "model.decoder.embed_tokens.weight",
        "lm_head.weight",
    ],
    "ForCausalLM": ["lm_head.weight"],
}
EMBEDDING = {
    "Model": "shared.weight",
    "ForConditionalGeneration": "model.shared.weight",
    "ForCausalLM": "model.decoder.embed_tokens.weight",
}


def blank(model: Any, family: str) -> Any:
    """A model of the same class with other weights."""
    head = type(model).__name__.removeprefix(family)
    return ours_like(reference(family, head, seed=9))


def equal(one: Any, other: Any) -> bool:
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def is_tied(model: Any) -> bool:
    embedding = model.model.shared.weight
    stacks = (model.model.encoder, model.model.decoder)
    return model.lm_head.weight is embedding and all(stack.embed_tokens.weight is embedding for stack in stacks)


@pytest.fixture
def one_process() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_state_dict_can_be_written_and_read_with_every_name(family: str, head: str, tmp_path: Path) -> None:
    theirs, mine = pair(family, head)
    state = mine.state_dict()
    assert set(theirs.state_dict()) - set(state) == set(TIES[head])
    safetensors.torch.save_file(state, tmp_path / "own.safetensors")
    torch.save(theirs.state_dict(), tmp_path / "theirs.bin")
    alias = dict(state)
    alias[TIES[head][-1]] = alias.pop(EMBEDDING[head])
    for values in (
        safetensors.torch.load_file(tmp_path / "own.safetensors"),
        torch.load(tmp_path / "theirs.bin", weights_only=True),
        alias,
    ):
        for assign in (False, True):
            again = blank(mine, family)
            assert again.load_state_dict(values, assign=assign) == ([], [])
            assert equal(again, mine)
            assert again.state_dict().keys() == state.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_theirs_takes_ours(family: str) -> None:
    mine, other = pair(family)[1], reference(family, seed=9)
    assert other.load_state_dict(mine.state_dict(), strict=False) == (TIES["ForConditionalGeneration"], [])
    assert equal(other, pair(family)[0])


def test_real_faults_are_still_told() -> None:
    mine = pair("Pegasus")[1]
    state = mine.state_dict()
    del state["model.shared.weight"]
    state["model.ghost"] = torch.ones(1)
    found = blank(mine, "Pegasus").load_state_dict(state, strict=False)
    assert set(found.missing_keys) == {"model.shared.weight", *TIES["ForConditionalGeneration"]}
    assert found.unexpected_keys == ["model.ghost"]
    with pytest.raises(RuntimeError, match=r"model\.ghost"):
        blank(mine, "Pegasus").load_state_dict(state)


def test_an_untied_head_has_its_name() -> None:
    theirs = reference("Pegasus", tie_word_embeddings=False)
    mine = ours_like(theirs)
    assert set(theirs.state_dict()) - set(mine.state_dict()) == set(TIES["ForConditionalGeneration"][:2])
    again = ours_like(reference("Pegasus", seed=9, tie_word_embeddings=False))
    again.load_state_dict(mine.state_dict())
    assert equal(again, mine) and not torch.equal(again.lm_head.weight, again.model.shared.weight)
    del (state := mine.state_dict())["lm_head.weight"]
    assert again.load_state_dict(state, strict=False).missing_keys == ["lm_head.weight"]


@pytest.mark.parametrize("family", FAMILIES)
def test_assigning_keeps_the_ties(family: str) -> None:
    """As loaders do that build a model on the meta device."""
    theirs, mine = pair(family)
    for values in (mine.state_dict(), theirs.state_dict()):
        with torch.device("meta"):
            again = type(mine)(mine.config)
        again.load_state_dict(values, assign=True)
        assert equal(again, mine) and is_tied(again)
        named = dict(again.named_parameters())
        assert {name: p.requires_grad for name, p in mine.named_parameters()} == {
            name: p.requires_grad for name, p in named.items()
        }
    assert not mine.state_dict()["model.shared.weight"].requires_grad
    assert mine.state_dict(keep_vars=True)["model.shared.weight"] is mine.model.shared.weight


def test_copies_and_a_part() -> None:
    mine = pair("Pegasus")[1]
    other = blank(mine, "Pegasus")
    twin = copy.deepcopy(other)
    twin.load_state_dict(mine.state_dict())
    assert equal(twin, mine) and is_tied(twin) and not equal(twin, other)
    holder = torch.nn.ModuleDict({"teacher": mine, "student": other})
    state = holder.state_dict()
    assert "student.model.shared.weight" in state and "student.lm_head.weight" not in state
    again = torch.nn.ModuleDict({"teacher": blank(mine, "Pegasus"), "student": blank(mine, "Pegasus")})
    assert again.load_state_dict(state) == ([], [])
    assert equal(again["teacher"], mine) and equal(again["student"], other)


def test_safetensors_own_loader(tmp_path: Path) -> None:
    mine = pair("BlenderbotSmall")[1]
    safetensors.torch.save_model(mine, str(tmp_path / "model.safetensors"))
    again = blank(mine, "BlenderbotSmall")
    assert safetensors.torch.load_model(again, tmp_path / "model.safetensors") == (set(), [])
    assert equal(again, mine)


def test_distributed_data_parallel(one_process: None) -> None:
    theirs, mine = pair("Pegasus")
    wrapped = DistributedDataParallel(blank(mine, "Pegasus"))
    assert wrapped.state_dict().keys() == {f"module.{name}" for name in mine.state_dict()}
    for values in (mine.state_dict(), theirs.state_dict()):
        wrapped = DistributedDataParallel(blank(mine, "Pegasus"))
        assert wrapped.load_state_dict({f"module.{name}": value for name, value in values.items()}) == ([], [])
        assert equal(wrapped.module, mine)
    # With its wrapper, PyTorch asks for every name of a tied weight; the model itself is what is meant, anyway.
    assert get_model_state_dict(wrapped).keys() == mine.state_dict().keys()
    wrapped = DistributedDataParallel(blank(mine, "Pegasus"))
    set_model_state_dict(wrapped.module, mine.state_dict())
    assert equal(wrapped.module, mine)
    wrapped = DistributedDataParallel(blank(mine, "Pegasus"))
    set_model_state_dict(wrapped, mine.state_dict(), options=StateDictOptions(strict=False))
    assert equal(wrapped.module, mine)


@pytest.mark.parametrize("full", [False, True])
def test_distributed_checkpoints(full: bool, one_process: None) -> None:
    mine = pair("BlenderbotSmall")[1]
    state = get_model_state_dict(mine)
    assert state.keys() == mine.state_dict().keys()
    again = blank(mine, "BlenderbotSmall")
    set_model_state_dict(again, state, options=StateDictOptions(full_state_dict=full))
    assert equal(again, mine) and is_tied(again)


def test_sharded_parameters(one_process: None) -> None:
    """FSDP2: the tie holds between shards, and a whole state dict goes in and comes out."""
    mine = pair("Pegasus")[1]
    again, mesh = blank(mine, "Pegasus"), init_device_mesh("cpu", (1,))
    for layer in [*again.model.encoder.layers, *again.model.decoder.layers]:
        fully_shard(layer, mesh=mesh)
    fully_shard(again, mesh=mesh)
    assert is_tied(again)
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(again, mine.state_dict(), options=options)
    assert is_tied(again)
    found, expected = get_model_state_dict(again, options=options), mine.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
