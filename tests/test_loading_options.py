"""What from_pretrained and save_pretrained take: dtypes, devices, configs, variants, and the hub behind a name."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import seq2seq_models
from seq2seq_models.core.checkpoints import write_checkpoint
from seq2seq_models.core.hub import Repository
from seq2seq_models.errors import CheckpointError, CheckpointNotFoundError, ConfigError

from .loading import SHARD, names, ours, same
from .stand_in_hub import OUTAGE, TOKEN, StandInHub
from .tiny import ours_like, pair, reference, settings

pytestmark = pytest.mark.reference


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny Pegasus for conditional generation, saved by the reference."""
    pair("Pegasus")[0].save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# ---- options


def test_dtypes(folder: Path) -> None:
    load = ours("Pegasus").from_pretrained
    assert load(folder).dtype == torch.float32
    for spelling in (torch.bfloat16, "bfloat16", "torch.bfloat16"):
        mine = load(folder, torch_dtype=spelling)
        assert mine.dtype == torch.bfloat16
        assert mine.config.dtype == "bfloat16"
        assert mine.final_logits_bias.dtype == torch.bfloat16
    expected = load(folder).to(torch.float16)
    same(load(folder, dtype="float16"), expected)
    half = load(folder, dtype=torch.float16)
    half.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    assert load(folder).dtype == torch.float32, "the default is float32, whatever the file holds"
    assert load(folder, dtype="auto").dtype == torch.float16
    config = json.loads((folder / "config.json").read_text())
    del config["dtype"]
    (folder / "config.json").write_text(json.dumps(config))
    assert load(folder, dtype="auto").dtype == torch.float16, "found in the weights"
    with pytest.raises(ConfigError, match='`dtype` must be "auto" or a floating-point dtype'):
        load(folder, dtype="int8")


@pytest.mark.parametrize(
    "device_map", [None, "auto", "cpu", torch.device("cpu"), {"": "cpu"}, {"": torch.device("cpu")}]
)
def test_device_maps(folder: Path, device_map: Any) -> None:
    if device_map == "auto" and torch.accelerator.is_available():
        device_map = {"": "cpu"}
    mine = ours("Pegasus").from_pretrained(folder, device_map=device_map)
    assert mine.device == torch.device("cpu")
    same(mine, pair("Pegasus")[0])


def test_device_maps_we_cannot_do(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="`device_map` must put the whole model on one device"):
        ours("Pegasus").from_pretrained(folder, device_map={"model.encoder": 0, "model.decoder": "cpu"})
    for device in ("nowhere", "meta"):
        with pytest.raises(ConfigError, match="`device_map` must be"):
            ours("Pegasus").from_pretrained(folder, device_map=device)


def test_options_that_change_nothing(folder: Path) -> None:
    mine = ours("Pegasus").from_pretrained(
        folder, low_cpu_mem_usage=True, _fast_init=False, trust_remote_code=False, proxies=None, resume_download=True,
        weights_only=True, quantization_config=None, load_in_8bit=False, from_tf=False, offload_folder="x",
    )  # fmt: skip
    same(mine, pair("Pegasus")[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"load_in_8bit": True}, "`load_in_8bit`: Quantized weights"),
        ({"quantization_config": {"bits": 4}}, "`quantization_config`"),
        ({"gguf_file": "x.gguf"}, "`gguf_file`"),
        ({"weights_only": False}, "`weights_only` must be True"),
        ({"from_tf": True, "from_flax": True}, "`from_tf` and `from_flax`: weights come from one framework"),
        ({"from_tf": True, "use_safetensors": True}, "`use_safetensors` must be left out with `from_tf`, got True"),
        ({"tp_plan": "auto"}, "`tp_plan`"),
    ],
)
def test_options_we_refuse(folder: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        ours("Pegasus").from_pretrained(folder, **options)


def test_config_overrides_and_unknown_keywords(folder: Path) -> None:
    mine = ours("Pegasus").from_pretrained(folder, dropout=0.3, use_cache=False, attn_implementation="eager")
    assert mine.config.dropout == 0.3
    assert mine.config.use_cache is False
    assert mine.config._attn_implementation == "eager"
    with pytest.raises(ConfigError, match="got droput, numbeams"):
        ours("Pegasus").from_pretrained(folder, droput=0.3, numbeams=2)
    with pytest.raises(CheckpointError, match="1 positional arguments"):
        ours("Pegasus").from_pretrained(folder, 3)


def test_config_as_object_or_name(folder: Path, tmp_path: Path) -> None:
    config = seq2seq_models.PegasusConfig(**settings("Pegasus"), dropout=0.0)
    (folder / "config.json").rename(tmp_path / "config.json")
    mine = ours("Pegasus").from_pretrained(folder, config=config)
    assert mine.config.dropout == 0.0
    assert mine.config is not config
    assert ours("Pegasus").from_pretrained(folder, config=str(tmp_path)).config.d_model == 24
    assert ours("Pegasus").from_pretrained(folder, config=tmp_path / "config.json").config.d_model == 24
    with pytest.raises(CheckpointNotFoundError, match=r"has no config\.json"):
        ours("Pegasus").from_pretrained(folder)


def test_state_dict(folder: Path, tmp_path: Path) -> None:
    theirs = pair("Pegasus")[0]
    config = seq2seq_models.PegasusConfig.from_pretrained(folder)
    mine = ours("Pegasus").from_pretrained(None, config=config, state_dict=theirs.state_dict())
    same(mine, theirs)
    with pytest.raises(CheckpointError, match="`state_dict` must be None when"):
        ours("Pegasus").from_pretrained(folder, state_dict={})
    with pytest.raises(CheckpointError, match="must be a name or folder, got None"):
        ours("Pegasus").from_pretrained(None, config=config)
    doubled = {name: tensor * 2 for name, tensor in mine.state_dict().items() if name != "lm_head.weight"}
    doubled = {name: tensor for name, tensor in doubled.items() if "embed_tokens" not in name}
    mine.save_pretrained(tmp_path / "doubled", state_dict=doubled)
    again = ours("Pegasus").from_pretrained(tmp_path / "doubled")
    assert torch.equal(again.model.shared.weight, theirs.model.shared.weight * 2)


def test_generation_configs(folder: Path) -> None:
    load = ours("Pegasus").from_pretrained
    generation = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**generation, "num_beams": 7}))
    assert load(folder).generation_config.num_beams == 7
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_beams": 5}))
    mine = load(folder)
    assert mine.generation_config.num_beams == 5
    mine.save_pretrained(folder)
    assert json.loads((folder / "generation_config.json").read_text())["num_beams"] == 5
    given = seq2seq_models.GenerationConfig(num_beams=3)
    assert load(folder, generation_config=given).generation_config.num_beams == 3


def test_variants_and_formats_on_request(folder: Path) -> None:
    load = ours("Pegasus").from_pretrained
    mine = load(folder)
    mine.half().save_pretrained(folder, variant="fp16")
    assert names(folder) == [
        "config.json", "generation_config.json", "model.fp16.safetensors", "model.safetensors",
    ]  # fmt: skip
    assert torch.equal(load(folder, variant="fp16").lm_head.weight, mine.lm_head.weight.float())
    with pytest.raises(CheckpointNotFoundError, match="leave out `use_safetensors`"):
        load(folder, use_safetensors=False)
    with pytest.raises(CheckpointNotFoundError, match=r"no model\.int8\.safetensors or .* leave out `variant`"):
        load(folder, variant="int8")
    mine.save_pretrained(folder, variant="fp16", max_shard_size="10KB", safe_serialization=False)
    assert load(folder, variant="fp16", use_safetensors=False, dtype="auto").dtype == torch.float16
    for file in folder.glob("model*"):
        file.unlink()
    for file in folder.glob("pytorch*"):
        file.unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"has no model\.safetensors or .*\.msgpack\.index\.json\. Check"):
        load(folder)


def test_saves_replace_what_an_earlier_save_left(tmp_path: Path) -> None:
    mine = pair("Pegasus")[1]
    mine.save_pretrained(tmp_path, max_shard_size=SHARD)
    (tmp_path / "notes.txt").write_text("mine")
    shards = {name for name in names(tmp_path) if name.startswith("model")}
    assert len(shards) > 3
    mine.save_pretrained(tmp_path)
    assert names(tmp_path) == ["config.json", "generation_config.json", "model.safetensors", "notes.txt"]
    mine.save_pretrained(tmp_path, max_shard_size=SHARD)
    assert {name for name in names(tmp_path) if name.startswith("model")} == shards
    same(ours("Pegasus").from_pretrained(tmp_path), mine)


def test_a_failed_save_leaves_all_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    mine = pair("Pegasus")[1]

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        mine.save_pretrained(folder, safe_serialization=False, save_function=fails)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    mine.save_pretrained(folder / "other", is_main_process=False)
    assert not (folder / "other").exists()


# ---- through the hub


def test_a_model_over_the_hub(hub: StandInHub, folder: Path) -> None:
    theirs = pair("Pegasus")[0]
    hub.add("google/pegasus-tiny", folder)
    mine = seq2seq_models.PegasusForConditionalGeneration.from_pretrained("google/pegasus-tiny")
    same(mine, theirs)
    assert mine.name_or_path == mine.config.name_or_path == "google/pegasus-tiny"
    hub.requests.clear()
    same(ours("Pegasus").from_pretrained("google/pegasus-tiny"), theirs)
    assert [line for line in hub.requests if "agent" not in line] == [
        "HEAD /google/pegasus-tiny/resolve/main/config.json"
    ]
    hub.requests.clear()
    same(ours("Pegasus").from_pretrained("google/pegasus-tiny", local_files_only=True), theirs)
    assert hub.requests == []
    hub.trouble["*"] = OUTAGE
    same(ours("Pegasus").from_pretrained("google/pegasus-tiny"), theirs)
    with pytest.raises(
        CheckpointNotFoundError, match=r"config\.json of google/other is not in the cache .* \(status 503\)"
    ):
        ours("Pegasus").from_pretrained("google/other")


def test_sharded_over_the_hub_with_subfolder_and_revision(hub: StandInHub, tmp_path: Path) -> None:
    mine = pair("BlenderbotSmall")[1]
    mine.save_pretrained(tmp_path / "repo" / "inner", max_shard_size=SHARD)
    hub.add("me/sharded", tmp_path / "repo", revision="v2", private=True)
    load = ours("BlenderbotSmall").from_pretrained
    same(load("me/sharded", revision="v2", subfolder="inner", token=TOKEN), mine)
    with pytest.raises(CheckpointNotFoundError, match="`revision` must be a branch, tag or commit"):
        load("me/sharded", subfolder="inner", token=TOKEN)
    with pytest.raises(CheckpointNotFoundError, match=r"has no config\.json"):
        load("me/sharded", revision="v2", token=TOKEN)


def test_push_and_load(hub: StandInHub, tmp_path: Path) -> None:
    mine = pair("Pegasus")[1]
    mine.push_to_hub("tester/pegasus", token=TOKEN, max_shard_size=SHARD)
    same(ours("Pegasus").from_pretrained("tester/pegasus"), mine)
    card = Repository("tester/pegasus").require("README.md").read_text()
    assert 'PegasusForConditionalGeneration.from_pretrained("tester/pegasus")' in card
    mine.config.push_to_hub("tester/config", token=TOKEN)
    assert seq2seq_models.PegasusConfig.from_pretrained("tester/config").d_model == 24
    mine.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="tester/saved", token=TOKEN)
    same(ours("Pegasus").from_pretrained("tester/saved"), mine)


def test_progress_bar_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pair("Pegasus")[1].save_pretrained(tmp_path, max_shard_size=SHARD)
    ours("Pegasus").from_pretrained(tmp_path)
    assert capsys.readouterr().err == "", "no bar without a terminal"
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda self: True, raising=False)
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    ours("Pegasus").from_pretrained(tmp_path)
    assert "Loading checkpoint shards" in capsys.readouterr().err


def test_ours_like_is_what_loading_gives(tmp_path: Path) -> None:
    theirs = reference("Pegasus", seed=5)
    theirs.save_pretrained(tmp_path)
    same(ours("Pegasus").from_pretrained(tmp_path), ours_like(theirs))
    names = write_checkpoint(tmp_path, list(ours_like(theirs)._weights()), form="bin")
    assert names == ["pytorch_model.bin"]
