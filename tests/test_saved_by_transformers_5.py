"""Folders that transformers 5 has saved: tests/data/saved-by-transformers-5 is what its version 5.24 wrote for the two
bundled checkpoints, without their weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import seq2seq_models
from seq2seq_models import AutoTokenizer
from seq2seq_models.bundled import demo_checkpoint

DATA = Path(__file__).parent / "data" / "saved-by-transformers-5"
FAMILIES = {"Pegasus": "pegasus-demo", "BlenderbotSmall": "blenderbot-small-demo"}
TEXTS = [
    "It rained all day in Porto on Monday, and two streets were closed.",
    'Firefighters, 12 of them: "no one\'s hurt"! naïve café ﬁne ½',
    "  odd   spacing \n and lines\t",
    "hello there, my pet is called rex. <unk_2> __start__",
    "",
]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def saved(family: str) -> Path:
    return DATA / FAMILIES[family]


def own(family: str) -> Any:
    kind = getattr(seq2seq_models, f"{family}Tokenizer")
    return kind.from_pretrained(demo_checkpoint(FAMILIES[family]))


def assert_same(found: Any, expected: Any) -> None:
    assert len(found) == len(expected) and found.get_vocab() == expected.get_vocab()
    assert found.special_tokens_map == expected.special_tokens_map
    for text in TEXTS:
        ids = expected(text)["input_ids"]
        assert found(text)["input_ids"] == ids
        assert found.tokenize(text) == expected.tokenize(text)
        for skip in (False, True):
            assert found.decode(ids, skip_special_tokens=skip) == expected.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("suffix", ["Tokenizer", "TokenizerFast", "auto"])
def test_a_tokenizer_is_the_one_it_came_from(family: str, suffix: str, tmp_path: Path) -> None:
    kind = AutoTokenizer if suffix == "auto" else getattr(seq2seq_models, family + suffix)
    found = kind.from_pretrained(saved(family))
    assert_same(found, own(family))
    assert found.model_max_length == 512
    found.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert not {"backend", "is_local", "local_files_only"} & set(settings)
    assert_same(AutoTokenizer.from_pretrained(tmp_path), own(family))


def test_a_class_that_holds_any_family_is_told_by_the_config(family: str, tmp_path: Path) -> None:
    folder = shutil.copytree(saved(family), tmp_path / "x")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "TokenizersBackend"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert_same(AutoTokenizer.from_pretrained(folder), own(family))
    (folder / "config.json").unlink()
    assert_same(AutoTokenizer.from_pretrained(folder), own(family))


def test_a_list_of_extra_special_tokens_is_one_of_additional_ones(family: str) -> None:
    kind, folder = getattr(seq2seq_models, f"{family}Tokenizer"), saved(family)
    more = kind.from_pretrained(folder, extra_special_tokens=["<speaker>"])
    assert "<speaker>" in more.additional_special_tokens and more.extra_special_tokens == {}
    assert more.decode(more("<speaker>")["input_ids"], skip_special_tokens=True) == ""


def test_configs_load(family: str) -> None:
    config = seq2seq_models.AutoConfig.from_pretrained(saved(family))
    expected = seq2seq_models.AutoConfig.from_pretrained(demo_checkpoint(FAMILIES[family]))
    sizes = ("vocab_size", "d_model", "encoder_layers", "decoder_ffn_dim", "max_position_embeddings", "scale_embedding")
    assert [getattr(config, name) for name in sizes] == [getattr(expected, name) for name in sizes]
    found = seq2seq_models.GenerationConfig.from_pretrained(saved(family))
    wanted = seq2seq_models.GenerationConfig.from_pretrained(demo_checkpoint(FAMILIES[family]))
    names = ("max_length", "num_beams", "eos_token_id", "forced_eos_token_id", "length_penalty", "no_repeat_ngram_size")
    assert [getattr(found, name) for name in names] == [getattr(wanted, name) for name in names]


@pytest.mark.reference
def test_transformers_takes_what_is_saved_here(family: str, tmp_path: Path) -> None:
    """With whichever version is installed: 4.57.6, or that of `make test-newest`."""
    import transformers

    mine = own(family)
    mine.save_pretrained(tmp_path)
    theirs = getattr(transformers, f"{family}Tokenizer").from_pretrained(tmp_path)
    for text in (TEXTS[0], "hello there, my pet is called rex."):  # the fast classes treat odd spacing otherwise
        assert theirs(text)["input_ids"] == mine(text)["input_ids"]
        assert theirs.decode(mine(text)["input_ids"]) == mine.decode(mine(text)["input_ids"])
