"""Every way in which a checkpoint can be wrong is one error that names the file and what to do."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import seq2seq_models
from seq2seq_models.errors import CheckpointError, CheckpointNotFoundError, ConfigError

from .loading import CAUSAL, SHARD, ours, rewrite
from .tiny import pair, reference, settings

pytestmark = pytest.mark.reference


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny Pegasus for conditional generation, saved by the reference."""
    pair("Pegasus")[0].save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# ---- what is wrong with a checkpoint


def breaks(folder: Path, words: str, cls: Any = None, error: type[Exception] = CheckpointError, **options: Any) -> str:
    with pytest.raises(error, match=words) as caught:
        (cls or ours("Pegasus")).from_pretrained(folder, **options)
    return str(caught.value)


def test_wrong_shapes_missing_and_unexpected_names(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        del tensors["model.encoder.layers.0.fc1.bias"], tensors["model.decoder.layers.2.self_attn.k_proj.weight"]
        tensors["model.encoder.layers.1.fc2.weight"] = torch.zeros(3, 3)
        tensors["model.classifier.weight"] = torch.zeros(2)
        return tensors

    rewrite(folder, spoil)
    text = breaks(folder, "4 weights of .* do not fit PegasusForConditionalGeneration")
    assert str(folder / "model.safetensors") in text
    assert (
        "missing: model.decoder.layers.2.self_attn.k_proj.weight, model.encoder.layers.0.fc1.bias; "
        "unexpected: model.classifier.weight; model.encoder.layers.1.fc2.weight expected [24, 40], got [3, 3]" in text
    )
    with caplog.at_level(logging.WARNING, logger="seq2seq_models"):
        mine, info = ours("Pegasus").from_pretrained(folder, ignore_mismatched_sizes=True, output_loading_info=True)
    assert len(caplog.records) == 1
    assert info["missing_keys"] == ["model.decoder.layers.2.self_attn.k_proj.weight", "model.encoder.layers.0.fc1.bias"]
    assert info["unexpected_keys"] == ["model.classifier.weight"]
    assert info["mismatched_keys"] == [("model.encoder.layers.1.fc2.weight", (3, 3), (24, 40))]
    theirs = pair("Pegasus")[0].state_dict()
    lost = {*info["missing_keys"], "model.encoder.layers.1.fc2.weight"}
    for name, tensor in mine.state_dict().items():
        assert not tensor.is_meta
        assert torch.isfinite(tensor).all()
        assert torch.equal(tensor, theirs[name]) == (name not in lost), name


def test_unequal_ties(folder: Path) -> None:
    def part(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**tensors, "lm_head.weight": tensors["model.shared.weight"] + 1}

    rewrite(folder, part)
    breaks(folder, r"model\.shared\.weight and lm_head\.weight must be equal.*tie_word_embeddings=False")
    mine = ours("Pegasus").from_pretrained(folder, tie_word_embeddings=False)
    assert torch.equal(mine.lm_head.weight, mine.model.shared.weight + 1)


def test_wrong_families(folder: Path, tmp_path: Path) -> None:
    blender = ours("BlenderbotSmall")
    text = breaks(folder, "`model_type` must be", blender, ConfigError)
    assert "'blenderbot-small'" in text
    assert "'pegasus'" in text
    config = seq2seq_models.BlenderbotSmallConfig(**settings("BlenderbotSmall"))
    text = breaks(folder, "holds weights of the family 'pegasus', but BlenderbotSmallFor", blender, config=config)
    assert str(folder / "model.safetensors") in text
    (folder / "config.json").write_text(json.dumps({"model_type": "bart", "d_model": 24}))
    text = breaks(folder, "`model_type` must be 'pegasus'.*got 'bart'", error=ConfigError)
    assert str(folder) in text
    rewrite(folder, lambda tensors: {"transformer.h.0.attn.weight": torch.ones(2)})
    config = seq2seq_models.PegasusConfig(**settings("Pegasus"))
    breaks(folder, r"holds no weight of .* \(its first names are transformer\.h\.0\.attn\.weight\)", config=config)
    rewrite(folder, lambda tensors: {})
    breaks(folder, "holds no weights at all", config=config)


def test_a_causal_checkpoint_is_no_full_one(tmp_path: Path) -> None:
    reference("Pegasus", CAUSAL).save_pretrained(tmp_path)
    breaks(
        tmp_path,
        r"missing: model\.encoder\.layer_norm\.bias, .*model\.encoder\.layers\.1\.self_attn_layer_norm\.weight",
    )


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-5000]), "it is cut off"),
        (lambda file: file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"), "git-lfs pointer"),
        (lambda file: file.write_bytes(b"PK\x03\x04" + b"\0" * 99), r"a PyTorch file \(zip\)"),
        (lambda file: file.write_bytes(file.read_bytes()[:8] + b"NaN" + file.read_bytes()[11:]), "not sound JSON"),
        (lambda file: file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:]), "its header claims"),
    ],
)
def test_damaged_files_name_the_file(folder: Path, spoil: Any, words: str) -> None:
    spoil(folder / "model.safetensors")
    text = breaks(folder, words)
    assert text.startswith(str(folder / "model.safetensors"))


def test_damaged_shards_and_indexes(folder: Path, tmp_path: Path) -> None:
    pair("Pegasus")[1].save_pretrained(folder, max_shard_size=SHARD)
    shard = sorted(folder.glob("model-*"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:-9])
    breaks(folder, "it is cut off")
    shard.unlink()
    breaks(folder, f"has no {shard.name}", error=CheckpointNotFoundError)
    index = folder / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    table["weight_map"]["model.shared.weight"] = "../../outside.safetensors"
    index.write_text(json.dumps(table))
    breaks(folder, "must lie in its own folder, got '../../outside.safetensors'")


def test_no_weights_at_all(tmp_path: Path) -> None:
    seq2seq_models.PegasusConfig(**settings("Pegasus")).save_pretrained(tmp_path)
    breaks(tmp_path, r"has no model\.safetensors or .*pytorch_model\.bin", error=CheckpointNotFoundError)
    breaks(tmp_path / "nothing" / "here", "which is no folder here", error=CheckpointNotFoundError)
