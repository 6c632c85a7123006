"""The bundled checkpoints do what their cards say, and the text they are measured on is what it claims to be."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from seq2seq_models import AutoTokenizer, pipeline
from seq2seq_models.bundled import demo_checkpoint

NAMES = ("pegasus-demo", "blenderbot-small-demo")
FILES = {
    "pegasus-demo": {"spiece.model"},
    "blenderbot-small-demo": {"vocab.json", "merges.txt"},
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """examples/make_demo_checkpoints.py as a module."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    try:
        import make_demo_checkpoints
    finally:
        sys.path.pop(0)
    return make_demo_checkpoints


def recipe(script: ModuleType, name: str) -> Any:
    return next(one for one in script.RECIPES if one.name == name)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_is_in_hub_layout_with_a_card(name: str) -> None:
    files = {path.name for path in demo_checkpoint(name).iterdir()}
    wanted = {"config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json", "README.md"}
    assert wanted | FILES[name] <= files
    card = (demo_checkpoint(name) / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlanguage: en\nlicense: apache-2.0\n")
    assert "**It is a toy**" in card
    assert "exact match on 1000 held-out" in card


def test_both_together_stay_under_8_megabytes() -> None:
    sizes = [path.stat().st_size for name in NAMES for path in demo_checkpoint(name).rglob("*") if path.is_file()]
    assert sum(sizes) < 8e6


def test_special_tokens_have_their_real_places() -> None:
    pegasus = AutoTokenizer.from_pretrained(demo_checkpoint("pegasus-demo"))
    assert pegasus.convert_ids_to_tokens([0, 1, 2, 3, 4, 104, 105]) == [
        "<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk_2>", "<unk_102>", "<unk>",
    ]  # fmt: skip
    blenderbot = AutoTokenizer.from_pretrained(demo_checkpoint("blenderbot-small-demo"))
    assert blenderbot.convert_ids_to_tokens([0, 1, 2, 3, 4]) == [
        "__null__", "__start__", "__end__", "__unk__", "__newln__",
    ]  # fmt: skip
    assert blenderbot("hello\nthere")["input_ids"].count(4) == 1


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_in_the_style_of_the_hub(name: str) -> None:
    model = pipeline("text2text-generation", model=demo_checkpoint(name), device="cpu").model
    settings, config = model.generation_config, model.config
    assert config.scale_embedding is True
    assert settings.forced_eos_token_id == config.eos_token_id
    if name == "pegasus-demo":
        assert (settings.num_beams, settings.length_penalty, config.activation_function) == (8, 0.8, "relu")
    else:
        assert (settings.num_beams, settings.length_penalty, config.activation_function) == (10, 0.65, "gelu")
        assert (settings.no_repeat_ngram_size, config.max_position_embeddings) == (3, 512)


@pytest.mark.parametrize("name", NAMES)
def test_held_out_texts_are_answered_to_the_letter(script: ModuleType, name: str) -> None:
    assert script.exact_match(recipe(script, name), demo_checkpoint(name), 64) >= 0.93


@pytest.mark.heavy
@pytest.mark.parametrize("name", NAMES)
def test_hundreds_of_held_out_texts_are_answered_to_the_letter(script: ModuleType, name: str) -> None:
    assert script.exact_match(recipe(script, name), demo_checkpoint(name), 500) >= 0.95


def test_line_ends_and_printed_quotes_are_read_as_the_text_was_trained() -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo_checkpoint("pegasus-demo"))
    typed = 'He was taken to hospital. "Yes," said Anna\'s son - now...'
    printed = "He was\ttaken to\r\nhospital.\n\u201cYes,\u201d said\u00a0Anna\u2019s son \u2013 now\u2026\n"
    assert tokenizer(printed)["input_ids"] == tokenizer(typed)["input_ids"]


@pytest.mark.reference
def test_transformers_reads_the_vocabularies_alike(script: ModuleType) -> None:
    import transformers

    texts = {
        "pegasus-demo": [one.text for one in islice(script.reports(4), 50)] + ["to\nhospital \u2026 \u65e5 \u00e9"],
        "blenderbot-small-demo": [" ".join(one.turns) for one in islice(script.exchanges(4), 50)] + ["a\nb \u65e5"],
    }
    for name in NAMES:
        theirs = getattr(transformers, f"{'Pegasus' if 'pegasus' in name else 'BlenderbotSmall'}Tokenizer")
        theirs = theirs.from_pretrained(demo_checkpoint(name))
        ours = AutoTokenizer.from_pretrained(demo_checkpoint(name))
        assert ours(texts[name])["input_ids"] == theirs(texts[name])["input_ids"]


def test_what_is_held_out_is_never_trained_on(script: ModuleType) -> None:
    trained = {one.text for one in islice(script.reports(1), 3000)}
    assert len(trained) == 3000
    assert not trained & {one.text for one in islice(script.reports(1, held_out=True), 300)}
    talks = {one.turns for one in islice(script.exchanges(1, longest=2), 3000)}
    held_out = {one.turns for one in islice(script.exchanges(1, longest=2, held_out=True), 300)}
    assert not talks & held_out
    # Short talks repeat, so that this tells something.
    assert len(talks) < 3000


def test_text_repeats_with_its_seed_only(script: ModuleType) -> None:
    for texts in (script.reports, script.exchanges):
        first, again, other = (list(islice(texts(seed), 20)) for seed in (5, 5, 6))
        assert first == again
        assert first != other


def test_a_headline_is_not_the_first_sentence_and_needs_a_choice(script: ModuleType) -> None:
    sample = list(islice(script.reports(7), 500))
    assert all(one.headline not in one.text for one in sample)
    late = sum(one.headline.split()[-1] not in one.text.split(".")[0] for one in sample)
    assert late > 100
    assert len({one.headline.split()[0] for one in sample}) > 30


def test_the_same_words_are_answered_by_what_went_before(script: ModuleType) -> None:
    replies: dict[str, set[str]] = {}
    for one in islice(script.exchanges(8), 4000):
        replies.setdefault(one.turns[-1], set()).add(one.reply)
    assert len(replies["what is my name?"]) > 20
    assert "you have not told me your name yet." in replies["what is my name?"]


def test_no_reply_repeats_three_tokens(script: ModuleType) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo_checkpoint("blenderbot-small-demo"))
    for one in islice(script.exchanges(9), 500):
        ids = tokenizer(one.reply)["input_ids"]
        runs = Counter(zip(ids, ids[1:], ids[2:], strict=False))
        assert max(runs.values()) == 1, one.reply


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")  # as the script itself does
def test_training_starts_to_learn_and_writes_a_checkpoint(script: ModuleType, tmp_path: Path) -> None:
    import torch

    threads = torch.get_num_threads()
    try:
        script.train(recipe(script, "pegasus-demo"), tmp_path / "pegasus-demo", updates=2)
    finally:
        torch.set_num_threads(threads)
    loaded = pipeline("summarization", model=tmp_path / "pegasus-demo", device="cpu", max_new_tokens=3)
    assert len(loaded("A fire broke out.")) == 1
    bundled = (demo_checkpoint("pegasus-demo") / "spiece.model").read_bytes()
    assert (tmp_path / "pegasus-demo" / "spiece.model").read_bytes() == bundled
