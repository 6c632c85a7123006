"""Models, configs and generation configs through the hub, with either generation of the client and no reference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from seq2seq_models import (
    BlenderbotSmallConfig,
    BlenderbotSmallForConditionalGeneration,
    GenerationConfig,
    PegasusConfig,
    PegasusForConditionalGeneration,
)
from seq2seq_models.errors import CheckpointNotFoundError

from .conftest import environment_for
from .stand_in_hub import GATED, OUTAGE, TOKEN, StandInHub

# huggingface_hub 2 passes file contents in a way that httpx deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

SIZES = {
    "vocab_size": 53,
    "d_model": 24,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 56,
    "max_position_embeddings": 37,
}
MODELS = [
    (PegasusConfig, PegasusForConditionalGeneration),
    (BlenderbotSmallConfig, BlenderbotSmallForConditionalGeneration),
]


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("config_class", "model_class"), MODELS)
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "10KB"}, {"safe_serialization": False}])
def test_push_download_cache_outage(
    hub: StandInHub, config_class: Any, model_class: Any, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    model = model_class(config_class(**SIZES))
    model.generation_config.num_beams = 3
    model.push_to_hub("tester/model", token=TOKEN, **options)
    first = model_class.from_pretrained("tester/model")
    assert same(first, model)
    assert first.generation_config.num_beams == 3
    hub.requests.clear()
    hub.trouble["*"] = OUTAGE
    assert same(model_class.from_pretrained("tester/model"), model)
    assert len([line for line in hub.requests if "agent" not in line]) == 1
    hub.close()
    assert same(model_class.from_pretrained("tester/model"), model)
    assert same(model_class.from_pretrained("tester/model", local_files_only=True), model)


def test_configs_travel_alone(hub: StandInHub) -> None:
    PegasusConfig(**SIZES).push_to_hub("tester/config", token=TOKEN)
    assert PegasusConfig.from_pretrained("tester/config").decoder_ffn_dim == 56
    GenerationConfig(num_beams=4).push_to_hub("tester/generation", token=TOKEN)
    assert GenerationConfig.from_pretrained("tester/generation").num_beams == 4


def test_refusals_reach_the_user(hub: StandInHub, tmp_path: Path) -> None:
    PegasusForConditionalGeneration(PegasusConfig(**SIZES)).save_pretrained(tmp_path)
    hub.add("owner/gated", tmp_path)
    hub.trouble["owner/gated"] = GATED
    with pytest.raises(CheckpointNotFoundError, match="owner/gated is gated"):
        PegasusForConditionalGeneration.from_pretrained("owner/gated")
    with pytest.raises(CheckpointNotFoundError, match="neither a folder here nor a repository"):
        PegasusForConditionalGeneration.from_pretrained("owner/mistyped")
    with pytest.raises(CheckpointNotFoundError, match="which is no folder here"):
        PegasusForConditionalGeneration.from_pretrained(str(tmp_path / "mistyped"))


@pytest.mark.heavy
def test_a_folder_needs_no_client_and_an_environment_is_obeyed(hub: StandInHub, tmp_path: Path) -> None:
    """In fresh processes: a folder is loaded without the client, and HF_HUB_OFFLINE keeps it off the network."""
    model = PegasusForConditionalGeneration(PegasusConfig(**SIZES))
    model.save_pretrained(tmp_path / "model")
    hub.add("owner/model", tmp_path / "model")
    script = (
        "import os, sys; before = dict(os.environ)\n"
        "from seq2seq_models import PegasusForConditionalGeneration as P\n"
        "m = P.from_pretrained(sys.argv[1]); m.save_pretrained(sys.argv[2])\n"
        "assert dict(os.environ) == before\n"
        "print(*sorted({'huggingface_hub', 'requests', 'httpx2'} & set(sys.modules)))\n"
    )
    base = {**os.environ, **environment_for(hub.endpoint, tmp_path / "home")}

    def run(name: str, **extra: str) -> str:
        command = [sys.executable, "-c", script, name, str(tmp_path / "out")]
        done = subprocess.run(command, env={**base, **extra}, capture_output=True, text=True, timeout=100)
        return done.stdout if done.returncode == 0 else done.stderr.splitlines()[-1]

    assert run(str(tmp_path / "model")) == "\n"
    assert "offline mode is on (HF_HUB_OFFLINE)" in run("owner/model", HF_HUB_OFFLINE="1")
    assert hub.requests == []
    assert "huggingface_hub" in run("owner/model").split()
    hub.requests.clear()
    assert "huggingface_hub" in run("owner/model", HF_HUB_OFFLINE="1").split()
    assert hub.requests == []
