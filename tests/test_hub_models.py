"""Models, configs and generation configs through the hub, with either generation of the client and no reference."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from seq2seq_models import (
    AutoTokenizer,
    BlenderbotSmallConfig,
    BlenderbotSmallForConditionalGeneration,
    GenerationConfig,
    PegasusConfig,
    PegasusForCausalLM,
    PegasusForConditionalGeneration,
    PegasusModel,
)
from seq2seq_models.bundled import demo_checkpoint
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


# ---- model cards


def card_of(hub: StandInHub, name: str, revision: str = "main") -> str:
    files = hub.repos[name].files(revision)
    assert files is not None
    return files["README.md"].read().decode()


def run_examples(card: str) -> int:
    """Runs the Python of a card; gives the number of blocks."""
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    for block in blocks:
        exec(compile(block, "card", "exec"), {"__name__": "__main__"})
    return len(blocks)


@pytest.mark.parametrize(
    ("demo", "model_class", "data"),
    [
        (
            "pegasus-demo",
            PegasusForConditionalGeneration,
            {"pipeline_tag": "summarization", "tags": ["pegasus", "news: short"]},
        ),
        (
            "blenderbot-small-demo",
            BlenderbotSmallForConditionalGeneration,
            {"pipeline_tag": "text-generation", "tags": ["blenderbot-small", "conversational", "news: short"]},
        ),
        ("pegasus-demo", PegasusModel, {"pipeline_tag": "feature-extraction", "tags": ["pegasus", "news: short"]}),
        ("pegasus-demo", PegasusForCausalLM, {"pipeline_tag": "text-generation", "tags": ["pegasus", "news: short"]}),
    ],
)
def test_a_card_says_what_was_saved(
    hub: StandInHub, capsys: pytest.CaptureFixture[str], demo: str, model_class: Any, data: dict[str, Any]
) -> None:
    folder = demo_checkpoint(demo)
    config = model_class.config_class.from_pretrained(folder, max_length=8, min_length=0)
    model = model_class(config).to(torch.bfloat16)
    model.push_to_hub("me/mine", token=TOKEN, tags=["news: short"], max_shard_size="200KB")
    AutoTokenizer.from_pretrained(folder).push_to_hub("me/mine", token=TOKEN)
    card = card_of(hub, "me/mine")
    assert ModelCard(card).data.to_dict() == {"library_name": "seq2seq_models", **data}, "and no license"
    shards = [name for name in hub.repos["me/mine"].files() or {} if name.endswith(".safetensors")]
    for row in (
        f"| class | `{model_class.__name__}` |",
        f"| architecture | {config.model_type}: `encoder_layers` {config.encoder_layers}, ",
        "| framework | PyTorch |",
        f"| parameters | {model.num_parameters():,}, bfloat16 |",
        f"| format | safetensors, in {len(shards)} shards |",
    ):
        assert f"\n{row}" in card
    assert len(shards) > 1 and all(f"`{name}`" in card for name in [*shards, "config.json"])
    assert run_examples(card) == 2, "of the model and of the tokenizer"
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_cards_of_what_is_no_model(hub: StandInHub, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo_checkpoint("pegasus-demo"))
    for name, thing, row in (
        ("config", PegasusConfig(**SIZES), "| architecture | pegasus: `encoder_layers` 1"),
        ("generation", GenerationConfig(num_beams=4), "| files | `generation_config.json` |"),
        ("tokenizer", tokenizer, f"| vocabulary | {len(tokenizer):,} tokens |"),
    ):
        thing.push_to_hub(f"me/{name}", token=TOKEN)
        card = card_of(hub, f"me/{name}")
        assert "pipeline_tag" not in card and "license" not in card
        assert f"\n{row}" in card
        assert run_examples(card) == 1
        assert capsys.readouterr().out


def test_a_card_of_ours_follows_and_that_of_an_author_stays(hub: StandInHub) -> None:
    GenerationConfig(num_beams=4).push_to_hub("me/mine", token=TOKEN)
    model = PegasusForConditionalGeneration(PegasusConfig(**SIZES))
    model.push_to_hub("me/mine", token=TOKEN)
    card = card_of(hub, "me/mine")
    assert "pipeline_tag: summarization" in card
    assert card.index("## GenerationConfig") < card.index("## PegasusForConditionalGeneration")
    assert "float32 |" in card
    model.half().push_to_hub("me/mine", token=TOKEN)
    again = card_of(hub, "me/mine")
    assert again == card.replace("float32 |", "float16 |"), "the section of the class is renewed, and nothing else"

    theirs = "---\nlicense: mit\n---\n# Mine\n"
    hub.add("me/theirs", {"README.md": theirs.encode()})
    model.push_to_hub("me/theirs", token=TOKEN)
    assert card_of(hub, "me/theirs") == theirs
    model.push_to_hub("me/theirs", token=TOKEN, tags=["mine"])
    tagged = ModelCard(card_of(hub, "me/theirs"))
    assert tagged.data.to_dict() == {"license": "mit", "tags": ["mine"]}
    assert tagged.text == "# Mine\n"


def test_the_card_of_the_branch_counts(hub: StandInHub) -> None:
    hub.add("me/mine", {"config.json": b"{}"})
    hub.add("me/mine", {"README.md": b"# Of the branch\n"}, revision="dev")
    config = PegasusConfig(**SIZES)
    config.push_to_hub("me/mine", token=TOKEN, revision="dev")
    assert card_of(hub, "me/mine", "dev") == "# Of the branch\n"
    config.push_to_hub("me/mine", token=TOKEN, revision="v2")
    assert 'PegasusConfig.from_pretrained("me/mine", revision="v2")' in card_of(hub, "me/mine", "v2")
    run_examples(card_of(hub, "me/mine", "v2"))


class MyPegasus(PegasusForConditionalGeneration):
    """A class that the package does not have."""


def test_the_card_of_a_subclass_and_of_a_variant(hub: StandInHub, tmp_path: Path) -> None:
    mine = MyPegasus(PegasusConfig(**SIZES))
    mine.save_pretrained(tmp_path, variant="fp16", push_to_hub=True, repo_id="me/mine", token=TOKEN)
    card = card_of(hub, "me/mine")
    assert f"from {__name__} import MyPegasus\nfrom seq2seq_models import AutoTokenizer\n" in card
    assert 'model = MyPegasus.from_pretrained("me/mine", variant="fp16")' in card
    assert same(MyPegasus.from_pretrained("me/mine", variant="fp16"), mine)


@pytest.mark.heavy
@pytest.mark.filterwarnings(r"ignore:::(tensorflow|keras|google|optree|jax|flax)(\..*)?")
@pytest.mark.parametrize(("prefix", "framework"), [("TF", "TensorFlow"), ("Flax", "Flax")])
def test_cards_of_the_other_frameworks(hub: StandInHub, prefix: str, framework: str) -> None:
    import seq2seq_models

    folder = demo_checkpoint("pegasus-demo")
    model_class = getattr(seq2seq_models, f"{prefix}PegasusForConditionalGeneration")
    model = model_class.from_pretrained(folder)
    model.push_to_hub("me/mine", token=TOKEN, safe_serialization=False)
    AutoTokenizer.from_pretrained(folder).push_to_hub("me/mine", token=TOKEN)
    card = card_of(hub, "me/mine")
    assert f"| framework | {framework} |" in card
    assert f"| format | {'Keras' if prefix == 'TF' else 'Flax'} |" in card
    assert run_examples(card) == 2
