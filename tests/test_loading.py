"""Models from files and back: every value against transformers 4.57.6, whatever the format, head, dtype and age."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers

from seq2seq_models.core.positions import sinusoidal_table

from .loading import BASE, CAUSAL, FULL, SHARD, names, ours, rewrite, same
from .tiny import FAMILIES, HEADS, batch, close, pair, reference

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
WAYS = list(itertools.product(DTYPES, (True, False), (True, False)))

pytestmark = pytest.mark.reference


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny Pegasus for conditional generation, saved by the reference."""
    pair("Pegasus")[0].save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# ---- by value, both ways


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("dtype", "safe", "sharded"), WAYS)
def test_theirs_to_ours_and_back(tmp_path: Path, family: str, head: str, dtype: str, safe: bool, sharded: bool) -> None:
    theirs = reference(family, head).to(DTYPES[dtype])
    options = {"safe_serialization": safe, **({"max_shard_size": SHARD} if sharded else {})}
    theirs.save_pretrained(tmp_path / "theirs", **options)
    mine = ours(family, head).from_pretrained(tmp_path / "theirs", torch_dtype="auto")
    assert not mine.training
    assert mine.dtype == DTYPES[dtype]
    same(mine, theirs)

    mine.save_pretrained(tmp_path / "ours", **options)
    assert any("-of-" in name for name in names(tmp_path / "ours")) == sharded
    assert names(tmp_path / "ours") == names(tmp_path / "theirs")
    theirs_again, info = getattr(transformers, family + head).from_pretrained(
        tmp_path / "ours", dtype=DTYPES[dtype], output_loading_info=True
    )
    assert not any(info.values())
    same(mine, theirs_again)
    again, info = ours(family, head).from_pretrained(tmp_path / "ours", dtype=DTYPES[dtype], output_loading_info=True)
    assert not any(info.values())
    same(again, theirs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("safe", [True, False])
def test_names_in_our_files_are_the_references(tmp_path: Path, family: str, safe: bool) -> None:
    for head in HEADS:
        theirs, mine = pair(family, head)
        theirs.save_pretrained(tmp_path / "theirs")
        mine.save_pretrained(tmp_path / "ours", safe_serialization=safe)
        with safetensors.safe_open(tmp_path / "theirs" / "model.safetensors", "pt") as opened:
            expected = sorted(opened.keys())
        if safe:
            with safetensors.safe_open(tmp_path / "ours" / "model.safetensors", "pt") as opened:
                assert sorted(opened.keys()) == expected
        else:
            assert sorted(torch.load(tmp_path / "ours" / "pytorch_model.bin", weights_only=True)) == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("source", [FULL, BASE])
@pytest.mark.parametrize("target", HEADS)
def test_heads_load_from_each_other(tmp_path: Path, family: str, source: str, target: str) -> None:
    theirs = reference(family, source)
    theirs.save_pretrained(tmp_path)
    mine, info = ours(family, target).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    expected = {name if name.startswith(("model.", "final", "lm_")) else f"model.{name}": tensor
                for name, tensor in theirs.state_dict().items()}  # fmt: skip
    for name, tensor in mine.state_dict().items():
        name = name if name.startswith(("model.", "final", "lm_")) else f"model.{name}"
        if name == "final_logits_bias" and source == BASE:
            assert not tensor.any()
        elif name == "lm_head.weight":
            assert torch.equal(tensor, expected["model.shared.weight"])
        else:
            assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_from_full_computes_as_the_reference(tmp_path: Path, family: str) -> None:
    full = reference(family, FULL)
    full.save_pretrained(tmp_path)
    # The reference itself leaves the embedding random when it loads this, so it gets the full model's parts by hand.
    theirs = reference(family, CAUSAL)
    theirs.model.decoder.load_state_dict(full.model.decoder.state_dict())
    mine = ours(family, CAUSAL).from_pretrained(tmp_path)
    ids = batch()["decoder_input_ids"]
    with torch.no_grad():
        close(mine(input_ids=ids, use_cache=False).logits, theirs(input_ids=ids, use_cache=False).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_loaded_model_computes_and_trains(tmp_path: Path, family: str) -> None:
    theirs = reference(family)
    theirs.save_pretrained(tmp_path)
    mine = ours(family).from_pretrained(tmp_path)
    inputs = batch()
    with torch.no_grad():
        close(mine(**inputs).logits, theirs(**inputs).logits)
    before = (tmp_path / "model.safetensors").read_bytes()
    labels = inputs["decoder_input_ids"]
    mine(input_ids=inputs["input_ids"], labels=labels).loss.backward()
    torch.optim.SGD(mine.parameters(), lr=0.1).step()
    assert (tmp_path / "model.safetensors").read_bytes() == before, "training must not reach the file"
    frozen = [name for name, parameter in mine.named_parameters() if not parameter.requires_grad]
    assert [name.rpartition(".")[0].rpartition(".")[2] for name in frozen] == (
        ["embed_positions"] * 2 if family == "Pegasus" else []
    )


def test_weights_are_views_of_the_file(folder: Path) -> None:
    import mmap

    mine = ours("Pegasus").from_pretrained(folder)
    assert mine.lm_head.weight is mine.model.shared.weight
    assert mine.model.encoder.embed_tokens.weight is mine.model.shared.weight

    def root(array: Any) -> Any:
        while getattr(array, "base", None) is not None:
            array = array.base
        return array

    for name, parameter in mine.named_parameters():
        assert isinstance(root(parameter.detach().numpy()), mmap.mmap | torch.Tensor), name
    # and saving over the very file they live in works
    same_before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    mine.save_pretrained(folder)
    again = ours("Pegasus").from_pretrained(folder)
    assert all(torch.equal(tensor, same_before[name]) for name, tensor in again.state_dict().items())


# ---- what files of the years hold


def test_files_without_positions_head_and_bias(folder: Path) -> None:
    keep = ("embed_positions", "final_logits_bias")
    rewrite(folder, lambda tensors: {n: t for n, t in tensors.items() if not any(word in n for word in keep)})
    mine, info = ours("Pegasus").from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    table = torch.from_numpy(sinusoidal_table(37, 24))
    assert torch.equal(mine.model.encoder.embed_positions.weight, table)
    assert torch.equal(mine.model.decoder.embed_positions.weight, table)
    assert not mine.final_logits_bias.any()
    assert not any(tensor.is_meta for tensor in mine.state_dict().values())


def test_files_with_every_alias_and_old_spellings(folder: Path) -> None:
    def old(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        shared = tensors["model.shared.weight"]
        for name in ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = shared.clone()
        tensors["model.encoder.layer_norm.gamma"] = tensors.pop("model.encoder.layer_norm.weight")
        tensors["model.encoder.layer_norm.beta"] = tensors.pop("model.encoder.layer_norm.bias")
        tensors["model.encoder.version"] = torch.tensor(3)
        return tensors

    expected = ours("Pegasus").from_pretrained(folder)
    rewrite(folder, old)
    mine, info = ours("Pegasus").from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    same(mine, expected)


def test_more_positions_than_the_file(folder: Path) -> None:
    mine = ours("Pegasus").from_pretrained(folder, max_position_embeddings=64)
    assert torch.equal(mine.model.encoder.embed_positions.weight, torch.from_numpy(sinusoidal_table(64, 24)))
    assert not mine.model.encoder.embed_positions.weight.requires_grad


def test_untied_heads(tmp_path: Path) -> None:
    theirs = reference("Pegasus", tie_word_embeddings=False)
    theirs.save_pretrained(tmp_path / "untied")
    mine = ours("Pegasus").from_pretrained(tmp_path / "untied")
    same(mine, theirs)
    assert not torch.equal(mine.lm_head.weight, mine.model.shared.weight)
    mine.save_pretrained(tmp_path / "again")
    same(transformers.PegasusForConditionalGeneration.from_pretrained(tmp_path / "again"), mine)


def test_a_new_head_is_one_log_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reference("Pegasus", BASE).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="seq2seq_models"):
        mine, info = ours("Pegasus").from_pretrained(tmp_path, tie_word_embeddings=False, output_loading_info=True)
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "lm_head.weight is new in PegasusForConditionalGeneration and has to be trained"
    ]
    assert info["missing_keys"] == ["lm_head.weight"]
    assert mine.lm_head.weight.std() > 0
    assert not torch.equal(mine.lm_head.weight, mine.model.shared.weight)


def test_quiet_when_all_is_well(
    folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger="seq2seq_models"):
        ours("Pegasus").from_pretrained(folder)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_several_formats_are_one_log_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = ours("Pegasus").from_pretrained(folder)
    mine.save_pretrained(folder, safe_serialization=False)
    (folder / "tf_model.h5").write_bytes(b"")
    assert (folder / "model.safetensors").is_file()
    with caplog.at_level(logging.INFO, logger="seq2seq_models"):
        ours("Pegasus").from_pretrained(folder)
    assert [record.getMessage().partition(" holds ")[2] for record in caplog.records] == [
        "weights in several formats: read model.safetensors, not pytorch_model.bin, tf_model.h5"
    ]
