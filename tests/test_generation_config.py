"""Generation configs against transformers 4.57.6 by value: defaults, files of the hub, older keys, tasks, checks."""

from __future__ import annotations

import copy
import json
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from seq2seq_models.core.config import CONFIG_CLASSES, PegasusConfig, PretrainedConfig
from seq2seq_models.core.generation_config import GenerationConfig, GenerationMode
from seq2seq_models.core.settings.generation_options import GENERATE_ARGUMENTS, OPTIONS, OptionValues
from seq2seq_models.errors import CheckpointError, CheckpointNotFoundError, GenerationError

from .stand_in_hub import TOKEN, StandInHub

HUB_CONFIGS = Path(__file__).parent / "data" / "hub-configs"
GENERATION_FILES = sorted(HUB_CONFIGS.rglob("generation_config*.json"))
CONFIG_FILES = sorted(HUB_CONFIGS.rglob("config.json"))
TASKS = {
    "aeslc": (0.6, 32),
    "arxiv": (0.8, 256),
    "big_patent": (0.7, 256),
    "billsum": (0.6, 256),
    "cnn_dailymail": (0.8, 128),
    "gigaword": (0.6, 32),
    "large": (0.8, 256),
    "multi_news": (0.8, 256),
    "newsroom": (0.8, 128),
    "pubmed": (0.8, 256),
    "reddit_tifu": (0.6, 128),
    "wikihow": (0.6, 256),
    "xsum": (0.8, 64),
}
"""Length penalty and longest output of pegasus-large's thirteen tasks."""


def name_of(value: Any) -> str | None:
    return f"{value.parent.name}/{value.stem}" if isinstance(value, Path) else None


def comparable(values: dict[str, Any]) -> dict[str, Any]:
    """Without the version of the writer, which differs by nature."""
    return {key: value for key, value in values.items() if key != "transformers_version"}


def pegasus_large(folder: Path, *, files: bool = True) -> Path:
    """The folder of google/pegasus-large, with or without its generation files."""
    for source in (HUB_CONFIGS, HUB_CONFIGS / "inferred"):
        for file in (source / "google__pegasus-large").glob("*.json"):
            if files or file.name == "config.json":
                shutil.copy(file, folder)
    return folder


# ---- defaults


def test_defaults_are_those_of_the_reference() -> None:
    assert comparable(GenerationConfig().to_dict()) == comparable(transformers.GenerationConfig().to_dict())
    assert GenerationConfig().to_diff_dict() == {}
    assert GenerationConfig().max_length == 20
    assert GenerationConfig().top_k == 50


def test_every_option_has_a_rule_its_default_keeps_and_a_type() -> None:
    assert [name for name, option in OPTIONS.items() if option.fault(name, option.default)] == []
    assert set(OptionValues.__annotations__) == set(OPTIONS)
    assert all(option.does for option in OPTIONS.values())


# ---- files of the hub


@pytest.mark.parametrize("file", GENERATION_FILES, ids=name_of)
def test_hub_file_reads_as_in_the_reference_and_round_trips(file: Path, tmp_path: Path) -> None:
    ours = GenerationConfig.from_pretrained(file.parent, file.name)
    theirs = transformers.GenerationConfig.from_pretrained(file.parent, file.name)
    assert comparable(ours.to_dict()) == comparable(theirs.to_dict())
    ours.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == json.loads(file.read_text())
    assert GenerationConfig.from_pretrained(tmp_path) == ours
    again = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert comparable(again.to_dict()) == comparable(ours.to_dict())


@pytest.mark.parametrize("file", CONFIG_FILES, ids=name_of)
def test_older_keys_read_as_in_the_reference(file: Path) -> None:
    config_class = CONFIG_CLASSES[json.loads(file.read_text())["model_type"]]
    ours = GenerationConfig.from_model_config(config_class.from_pretrained(file.parent))
    theirs = transformers.GenerationConfig.from_model_config(
        getattr(transformers, config_class.__name__).from_pretrained(file.parent)
    )
    assert comparable(ours.to_dict()) == comparable(theirs.to_dict())


def test_hub_files_are_all_there() -> None:
    assert (len(GENERATION_FILES), len(CONFIG_FILES)) == (24, 12)


def test_gigaword_may_want_one_length() -> None:
    config = GenerationConfig.from_pretrained(HUB_CONFIGS / "google__pegasus-gigaword")
    assert (config.min_length, config.max_length) == (32, 32)
    config.validate(resolved=True)


def test_without_its_own_file_the_older_keys_and_family_defaults_hold(tmp_path: Path) -> None:
    # This config.json says nothing of the start and the forced end: the family's defaults do.
    config = GenerationConfig.from_pretrained(HUB_CONFIGS / "tuner007__pegasus_paraphrase")
    assert (config.decoder_start_token_id, config.forced_eos_token_id) == (0, 1)
    assert (config.num_beams, config.max_length, config.length_penalty) == (8, 60, 0.8)
    (tmp_path / "config.json").write_text('{"model_type": "bart", "num_beams": 3}')
    assert GenerationConfig.from_pretrained(tmp_path).num_beams == 3


def test_its_own_file_wins_over_the_older_keys(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "pegasus", "num_beams": 3, "max_length": 7}')
    (tmp_path / "generation_config.json").write_text('{"num_beams": 5}')
    config = GenerationConfig.from_pretrained(tmp_path)
    assert (config.num_beams, config.max_length) == (5, 20)


def test_null_means_unset(tmp_path: Path) -> None:
    nulls = {"length_penalty": None, "max_length": None, "num_beams": None, "min_length": None, "early_stopping": None}
    config = GenerationConfig.from_model_config(PegasusConfig(**nulls, no_repeat_ngram_size=3))
    assert (config.length_penalty, config.max_length, config.num_beams, config.min_length) == (1.0, 20, 1, 0)
    assert (config.early_stopping, config.no_repeat_ngram_size) == (False, 3)
    (tmp_path / "generation_config.json").write_text(json.dumps({**nulls, "num_return_sequences": None, "x": None}))
    config = GenerationConfig.from_pretrained(tmp_path)
    assert config.to_diff_dict() == {"x": None}
    config.temperature = None
    assert config.temperature == 1.0


def test_top_k_null_is_off_as_in_the_reference(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"top_k": null}')
    assert GenerationConfig.from_pretrained(tmp_path).top_k is None
    assert GenerationConfig.from_pretrained(tmp_path).to_diff_dict() == {"top_k": None}
    assert GenerationConfig.from_model_config(PegasusConfig(top_k=None)).top_k == 50


def test_unknown_keys_of_a_file_are_kept(tmp_path: Path) -> None:
    values = {"_from_model_config": True, "my_own": {"a": 1}, "num_beams": 2, "transformers_version": "4.27.0"}
    (tmp_path / "generation_config.json").write_text(json.dumps(values))
    config = GenerationConfig.from_pretrained(tmp_path)
    assert config.my_own == {"a": 1}
    config.save_pretrained(tmp_path, "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == values


def test_asking_for_outputs_asks_for_an_object() -> None:
    assert GenerationConfig.from_model_config(PegasusConfig(output_scores=True)).return_dict_in_generate is True
    assert GenerationConfig.from_model_config(PegasusConfig()).return_dict_in_generate is False


# ---- tasks


@pytest.mark.parametrize("files", [True, False], ids=["files", "config.json"])
@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_one_call(task: str, files: bool, tmp_path: Path) -> None:
    folder = pegasus_large(tmp_path, files=files)
    full = GenerationConfig.from_pretrained(folder, task=f"summarization_{task}")
    assert GenerationConfig.from_pretrained(folder, task=task) == full
    assert (full.length_penalty, full.max_length, full.num_beams) == (*TASKS[task], 8)
    source = f"generation_config_for_summarization_{task}.json" if files else "task_specific_params of config.json"
    rows = {line.split()[0]: line for line in full.describe().splitlines()}
    assert rows["max_length"].endswith(source)
    assert not hasattr(full, "max_position_embeddings")


def test_arguments_win_over_the_task(tmp_path: Path) -> None:
    config = GenerationConfig.from_pretrained(pegasus_large(tmp_path), task="xsum", max_length=10, num_beams=2)
    assert (config.max_length, config.num_beams, config.length_penalty) == (10, 2, 0.8)


def test_a_task_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(GenerationError, match=r"`task` must be one of summarization_aeslc, .*, got 'sum'") as caught:
        GenerationConfig.from_pretrained(pegasus_large(tmp_path), task="sum")
    assert all(f"summarization_{task}" in str(caught.value) for task in TASKS)
    with pytest.raises(GenerationError, match="has no named tasks"):
        GenerationConfig.from_pretrained(HUB_CONFIGS / "google__pegasus-billsum", task="billsum")


def test_an_end_that_two_tasks_share_is_no_name(tmp_path: Path) -> None:
    params = {"a_news": {"max_length": 5}, "b_news": {"max_length": 6}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "pegasus", "task_specific_params": params}))
    assert GenerationConfig.from_pretrained(tmp_path, task="b_news").max_length == 6
    with pytest.raises(GenerationError, match="`task` must be one of a_news, b_news, got 'news'"):
        GenerationConfig.from_pretrained(tmp_path, task="news")


def test_a_task_file_on_the_hub_needs_no_mention_in_the_config(hub: StandInHub, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"num_beams": 4}')
    (tmp_path / "generation_config_for_letters.json").write_text('{"max_length": 9}')
    hub.add("tester/tasks", tmp_path)
    config = GenerationConfig.from_pretrained("tester/tasks", task="letters")
    assert (config.num_beams, config.max_length) == (4, 9)
    with pytest.raises(GenerationError, match="got 'postcards'"):
        GenerationConfig.from_pretrained("tester/tasks", task="postcards")


# ---- where values come from


def test_every_value_says_where_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"num_beams": 4, "max_length": 30, "my_own": 1}')
    config = GenerationConfig.from_pretrained(tmp_path, max_length=40)
    config.min_length = 5
    config.update(length_penalty=0.5)
    rows = {line.split()[0]: line.split(None, 2)[1:] for line in config.describe().splitlines()}
    assert set(rows) == {"option", *OPTIONS, "my_own"}
    assert rows["num_beams"] == ["4", "generation_config.json"]
    assert rows["my_own"] == ["1", "generation_config.json"]
    assert rows["max_length"] == ["40", "argument"]
    assert rows["length_penalty"] == ["0.5", "argument"]
    assert rows["min_length"] == ["5", "set on the object"]
    assert rows["top_k"] == ["50", "class default"]
    config.num_beams = None
    assert len(config.describe(defaults=False).splitlines()) == 1 + 4
    columns = {line.index(line.split(None, 2)[2]) for line in config.describe().splitlines()}
    assert len(columns) == 1


def test_sources_are_neither_saved_nor_compared() -> None:
    ours, other = GenerationConfig(num_beams=4), GenerationConfig()
    other.num_beams = 4
    assert ours.describe() != other.describe()
    assert ours == other
    assert hash(ours) == hash(other)
    assert "_sources" not in ours.to_dict()


def test_older_keys_say_config_json() -> None:
    config = GenerationConfig.from_model_config(PegasusConfig(num_beams=4))
    rows = {line.split()[0]: line.split(None, 2)[1:] for line in config.describe().splitlines()}
    assert rows["num_beams"] == ["4", "config.json"]
    assert rows["max_length"] == ["20", "class default"]


def test_filling_from_another_config_keeps_what_is_set_and_its_sources(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"num_beams": 4, "max_length": 30, "eos_token_id": [1, 2]}')
    own, given = GenerationConfig.from_pretrained(tmp_path), GenerationConfig(max_length=9)
    given.fill_from(own, ("num_beams", "max_length"))
    assert (given.max_length, given.num_beams, given.eos_token_id) == (9, 4, None)
    given.fill_from(own)
    assert given.eos_token_id == [1, 2]
    assert given.eos_token_id is not own.eos_token_id
    rows = {line.split()[0]: line.split(None, 2)[2] for line in given.describe(defaults=False).splitlines()}
    assert (rows["num_beams"], rows["max_length"]) == ("generation_config.json", "argument")


# ---- checks

BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"num_beams": 0}, "num_beams", "a whole number of at least 1, got 0"),
    ({"num_beams": 2.0}, "num_beams", "a whole number of at least 1, got 2.0"),
    ({"num_beams": True}, "num_beams", "a whole number of at least 1, got True"),
    ({"max_length": 0}, "max_length", "a whole number of at least 1, got 0"),
    ({"max_length": "64"}, "max_length", "a whole number of at least 1, got '64'"),
    ({"max_new_tokens": -1}, "max_new_tokens", "a whole number of at least 0, got -1"),
    ({"min_length": -1}, "min_length", "a whole number of at least 0, got -1"),
    ({"min_length": 9, "max_length": 8}, "min_length", "at most `max_length` = 8, got 9"),
    ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens", "at most `max_new_tokens` = 8, got 9"),
    ({"temperature": 0}, "temperature", "a number above 0, got 0"),
    ({"temperature": float("nan")}, "temperature", "a number above 0, got nan"),
    ({"top_k": -1}, "top_k", "a whole number of at least 0, got -1"),
    ({"top_p": 0}, "top_p", "a number above 0 and at most 1, got 0"),
    ({"top_p": 1.1}, "top_p", "a number above 0 and at most 1, got 1.1"),
    ({"min_p": 2}, "min_p", "a number of at least 0 and at most 1, got 2"),
    ({"typical_p": 0}, "typical_p", "a number above 0 and at most 1, got 0"),
    ({"epsilon_cutoff": 1}, "epsilon_cutoff", "a number of at least 0 and below 1, got 1"),
    ({"eta_cutoff": -0.1}, "eta_cutoff", "a number of at least 0 and below 1, got -0.1"),
    ({"repetition_penalty": 0}, "repetition_penalty", "a number above 0, got 0"),
    ({"encoder_repetition_penalty": -1}, "encoder_repetition_penalty", "a number above 0, got -1"),
    ({"length_penalty": "long"}, "length_penalty", "a number, got 'long'"),
    ({"no_repeat_ngram_size": 1.5}, "no_repeat_ngram_size", "a whole number of at least 0, got 1.5"),
    ({"early_stopping": "always"}, "early_stopping", "one of True, False, 'never', got 'always'"),
    ({"early_stopping": 1}, "early_stopping", "one of True, False, 'never', got 1"),
    ({"do_sample": "yes"}, "do_sample", "true or false, got 'yes'"),
    ({"num_return_sequences": 0}, "num_return_sequences", "a whole number of at least 1, got 0"),
    ({"num_return_sequences": 2}, "num_return_sequences", "1 with neither beams nor `do_sample`, got 2"),
    ({"num_return_sequences": 3, "num_beams": 2}, "num_return_sequences", "at most `num_beams` = 2, got 3"),
    ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, "num_beams", "a multiple of `num_beam_groups`"),
    ({"num_beams": 4, "num_beam_groups": 2}, "diversity_penalty", "above 0 with `num_beam_groups` = 2, got 0"),
    (
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": True},
        "do_sample",
        "false with `num_beam_groups` = 2, got True",
    ),
    ({"bad_words_ids": [[]]}, "bad_words_ids", "a list of lists of token ids, none of them empty, got [[]]"),
    ({"bad_words_ids": [1, 2]}, "bad_words_ids", "a list of lists of token ids"),
    ({"sequence_bias": {(1,): "much"}}, "sequence_bias", "a list of [token ids, number] pairs, or a dictionary"),
    ({"suppress_tokens": [-1]}, "suppress_tokens", "a list of token ids of at least 0, got [-1]"),
    ({"forced_eos_token_id": -1}, "forced_eos_token_id", "a token id of at least 0 or a list of such ids, got -1"),
    ({"eos_token_id": []}, "eos_token_id", "a token id or a list of such ids, got []"),
    ({"pad_token_id": -1}, "pad_token_id", "a token id of at least 0, got -1"),
    ({"exponential_decay_length_penalty": [1]}, "exponential_decay_length_penalty", "a start position and a factor"),
    ({"stop_strings": [1]}, "stop_strings", "a string or a list of strings, got [1]"),
    ({"max_time": -1}, "max_time", "a number of at least 0, got -1"),
    ({"cache_implementation": "magic"}, "cache_implementation", "one of 'static', "),
    ({"use_cache": 1}, "use_cache", "true or false, got 1"),
]


@pytest.mark.parametrize(("values", "name", "must"), BAD)
def test_a_bad_value_is_named(values: dict[str, Any], name: str, must: str, tmp_path: Path) -> None:
    with pytest.raises(GenerationError) as caught:
        GenerationConfig(**values)
    assert str(caught.value).startswith(f"`{name}` must be {must}")
    assert ("passed as an argument" in str(caught.value)) is (name in values)
    config = GenerationConfig()
    with pytest.raises(GenerationError, match=f"`{name}` must be"):
        config.update(**values)
    assert config == GenerationConfig()
    assert config.describe(defaults=False) == GenerationConfig().describe(defaults=False)
    for option, value in values.items():
        setattr(config, option, value)
    with pytest.raises(GenerationError, match="set on the object" if name in values else name):
        config.validate()


def test_all_bad_values_are_in_one_error(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"top_p": 7, "num_beams": 0}')
    with pytest.raises(GenerationError) as caught:
        GenerationConfig.from_pretrained(tmp_path, temperature=-1)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"3 values cannot be used ({tmp_path}):"
    assert [line.split("`")[1] for line in lines[1:4]] == ["num_beams", "temperature", "top_p"]
    assert lines[1].endswith("got 0, from generation_config.json")
    assert lines[2].endswith("got -1, passed as an argument")
    assert GenerationConfig.from_pretrained(tmp_path, top_p=0.5, num_beams=2).num_beams == 2


GOOD: list[dict[str, Any]] = [
    {"max_new_tokens": 1},
    {"min_length": 64},
    {"min_length": 64, "max_length": 10, "max_new_tokens": 70},
    {"length_penalty": 0.8, "num_beams": 1},
    {"length_penalty": -2},
    {"temperature": 0.5},
    {"top_k": 0},
    {"top_k": None, "top_p": None},
    {"early_stopping": "never", "num_beams": 2},
    {"do_sample": True, "num_return_sequences": 5},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5, "num_return_sequences": 4},
    {"eos_token_id": [1, 2], "forced_eos_token_id": [1, 2]},
    {"sequence_bias": {(1, 2): -1.5}},
    {"sequence_bias": [[[1, 2], -1.5]]},
    {"suppress_tokens": []},
    {"exponential_decay_length_penalty": (5, 1.1)},
    {"stop_strings": "."},
    {"bad_words_ids": [[1], [2, 3]]},
]


@pytest.mark.parametrize("values", GOOD)
def test_good_values_are_taken_and_saved(values: dict[str, Any], tmp_path: Path) -> None:
    config = GenerationConfig(**values)
    config.save_pretrained(tmp_path)
    again = GenerationConfig.from_pretrained(tmp_path)
    assert json.loads(again.to_json_string()) == json.loads(config.to_json_string())
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path)
    for name in json.loads(config.to_json_string()):
        assert json.dumps(getattr(theirs, name)) == json.dumps(getattr(again, name)), name


def test_no_new_tokens_may_be_asked_for() -> None:
    assert GenerationConfig(max_new_tokens=0).max_new_tokens == 0


def test_unset_lengths_count_once_nothing_will_be_set_any_more() -> None:
    config = GenerationConfig(min_length=64)
    config.validate()
    with pytest.raises(GenerationError, match="`min_length` must be at most `max_length` = 20, got 64"):
        config.validate(resolved=True)


def test_arguments_of_generate_are_no_options() -> None:
    for name in GENERATE_ARGUMENTS:
        with pytest.raises(GenerationError, match=f"`{name}` must be passed to `generate` itself"):
            GenerationConfig(**{name: 1})


def test_unknown_names_get_a_suggestion() -> None:
    assert GenerationConfig.unknown({"num_beam": 3, "max_length": 3, "zzzz": 1, "streamr": 1}) == [
        "`num_beam` (did you mean `num_beams`?)",
        "`streamr` (did you mean `streamer`?)",
        "`zzzz`",
    ]
    assert GenerationConfig.unknown(OPTIONS) == []
    assert GenerationConfig.unknown(["synced_gpus"]) == ["`synced_gpus`"]


def test_unknown_keywords_are_returned_or_refused(tmp_path: Path) -> None:
    GenerationConfig(num_beams=2).save_pretrained(tmp_path)
    with pytest.raises(GenerationError, match=r"`num_beam` \(did you mean `num_beams`\?\)"):
        GenerationConfig.from_pretrained(tmp_path, num_beam=3)
    with pytest.raises(GenerationError, match="`foo`"):
        GenerationConfig.from_dict({}, foo=3)
    config, unused = GenerationConfig.from_pretrained(tmp_path, top_k=1, foo=False, return_unused_kwargs=True)
    assert (config.top_k, config.num_beams, unused) == (1, 2, {"foo": False})
    assert config.update(top_k=2, foo=1) == {"foo": 1}
    assert config.top_k == 2
    config, unused = GenerationConfig.from_dict({"own": 1}, own=2, bar=3, return_unused_kwargs=True)
    assert (config.own, unused) == (2, {"bar": 3})


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "typical_p": 0.5},
        {"epsilon_cutoff": 0.1, "eta_cutoff": 0.1},
        {"do_sample": True, "temperature": 0.5},
        {"length_penalty": 2.0, "early_stopping": True},
        {"num_beams": 2, "length_penalty": 2.0, "early_stopping": "never"},
        {"use_cache": False, "cache_implementation": "static", "return_legacy_cache": True},
        {"output_scores": True, "output_attentions": True},
        {"output_scores": True, "return_dict_in_generate": True},
    ],
)
def test_idle_options_are_those_the_reference_refuses_to_save(values: dict[str, Any]) -> None:
    config, theirs = GenerationConfig(**values), transformers.GenerationConfig(**values)
    try:
        theirs.validate(strict=True)
        named = set()
    except ValueError as error:
        named = {line.split("`")[1] for line in str(error).splitlines() if line.startswith("- `")}
    assert set(config.idle_options()) == named
    if named:
        with pytest.raises(GenerationError, match="must be left unset while"):
            config.validate(strict=True)
    else:
        config.validate(strict=True)


# ---- strategy


def test_mode_is_that_of_the_reference_for_every_combination() -> None:
    seen = set()
    for seed in range(600):
        rng = random.Random(seed)
        values: dict[str, Any] = {"num_beams": rng.choice([1, 1, 4]), "do_sample": rng.random() < 0.4}
        if rng.random() < 0.3:
            values.update(penalty_alpha=0.6, top_k=rng.choice([0, 1, 4]))
        if values["num_beams"] > 1 and rng.random() < 0.3 and not values["do_sample"]:
            values.update(num_beam_groups=2, diversity_penalty=1.0)
        if rng.random() < 0.2:
            values[rng.choice(["prompt_lookup_num_tokens", "assistant_early_exit"])] = 3
        if rng.random() < 0.2:
            values["dola_layers"] = "high"
        if rng.random() < 0.05:
            values["force_words_ids"] = [[3]]
        mode = GenerationConfig(**values).get_generation_mode()
        assert mode == transformers.GenerationConfig(**values).get_generation_mode().value, values
        seen.add(mode)
    assert seen == set(GenerationMode)
    assert GenerationConfig().get_generation_mode(assistant_model=object()) == "assisted_generation"
    assert GenerationConfig(num_beams=2).get_generation_mode(assistant_model=object()) == "beam_search"


# ---- writing, comparing, copying


def test_json_is_that_of_the_reference() -> None:
    values = {"num_beams": 4, "eos_token_id": [1, 2], "my_own": {"x": None}, "early_stopping": "never"}
    ours, theirs = GenerationConfig(**values), transformers.GenerationConfig(**values)
    for use_diff in (True, False):
        assert ours.to_json_string(use_diff, ignore_metadata=True) == theirs.to_json_string(
            use_diff, ignore_metadata=True
        )
    assert repr(ours) == repr(theirs)


def test_a_bias_by_tuple_survives_a_file(tmp_path: Path) -> None:
    GenerationConfig(sequence_bias={(1, 2): -1.5, (3,): 2.0}).save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path).sequence_bias == [[[1, 2], -1.5], [[3], 2.0]]


def test_equality_and_hash() -> None:
    ours = GenerationConfig(num_beams=4)
    assert ours == GenerationConfig(num_beams=4, _commit_hash="x", transformers_version="4.0")
    assert ours != GenerationConfig(num_beams=5)
    assert ours != GenerationConfig(num_beams=4, my_own=1)
    assert ours != ours.to_dict()
    assert len({ours, GenerationConfig(num_beams=4), GenerationConfig()}) == 2


def test_copies_are_independent() -> None:
    config = GenerationConfig(num_beams=4, eos_token_id=[1, 2])
    for again in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert again == config
        assert again.describe() == config.describe()
        again.update(num_beams=2)
        again.eos_token_id.append(3)
    assert (config.num_beams, config.eos_token_id) == (4, [1, 2])
    assert "4" in config.describe(defaults=False)


def test_a_save_is_all_or_nothing(tmp_path: Path) -> None:
    GenerationConfig(num_beams=4).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    config = GenerationConfig(my_own=object())
    with pytest.raises(TypeError):
        config.save_pretrained(tmp_path)
    config = GenerationConfig()
    config.num_beams = 0
    with pytest.raises(GenerationError, match="num_beams"):
        config.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_idle_options_do_not_stop_a_save(tmp_path: Path) -> None:
    GenerationConfig(length_penalty=0.8, num_beams=1, temperature=0.5).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"length_penalty": 0.8, "temperature": 0.5}


def test_push_and_read_back(hub: StandInHub, tmp_path: Path) -> None:
    config = GenerationConfig(num_beams=4, max_length=60)
    config.push_to_hub("tester/one", token=TOKEN)
    assert GenerationConfig.from_pretrained("tester/one", token=TOKEN) == config
    config.save_pretrained(tmp_path / "two", "other.json", push_to_hub=True, repo_id="tester/two", token=TOKEN)
    assert GenerationConfig.from_pretrained("tester/two", "other.json", token=TOKEN) == config


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"generation_config\.json or config\.json"):
        GenerationConfig.from_pretrained(tmp_path)
    PretrainedConfig().save_pretrained(tmp_path)
    with pytest.raises(CheckpointNotFoundError, match=r"other\.json"):
        GenerationConfig.from_pretrained(tmp_path, "other.json")
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json must be a JSON file"):
        GenerationConfig.from_pretrained(tmp_path)
