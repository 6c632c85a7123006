"""Configs against transformers 4.57.6 by value: defaults, files of the hub, round trips, checks."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from seq2seq_models.core.architecture import ACTIVATIONS, ARCHITECTURES
from seq2seq_models.core.config import CONFIG_CLASSES, BlenderbotSmallConfig, PegasusConfig, PretrainedConfig
from seq2seq_models.errors import CheckpointError, CheckpointNotFoundError, ConfigError

from .stand_in_hub import TOKEN, StandInHub

HUB_CONFIGS = Path(__file__).parent / "data" / "hub-configs"
CONFIG_FILES = sorted(HUB_CONFIGS.rglob("config.json"))
FAMILIES = [PegasusConfig, BlenderbotSmallConfig]


def name_of(value: Any) -> str | None:
    return value.parent.name if isinstance(value, Path) else None


def reference(config_class: type) -> Any:
    return getattr(transformers, config_class.__name__)


def comparable(values: dict[str, Any]) -> dict[str, Any]:
    """Without the version of the writer, which differs by nature."""
    return {key: value for key, value in values.items() if key != "transformers_version"}


def stored_class(file: Path) -> type[PretrainedConfig]:
    return CONFIG_CLASSES[json.loads(file.read_text())["model_type"]]


# ---- defaults


@pytest.mark.parametrize("config_class", FAMILIES)
def test_defaults_are_those_of_the_reference(config_class: type[PretrainedConfig]) -> None:
    ours, theirs = config_class(), reference(config_class)()
    assert comparable(ours.to_dict()) == comparable(theirs.to_dict())
    assert comparable(ours.to_diff_dict()) == comparable(theirs.to_diff_dict())
    ours.validate()


@pytest.mark.parametrize("config_class", FAMILIES)
def test_arguments_have_the_order_and_defaults_of_the_reference(config_class: type[PretrainedConfig]) -> None:
    def arguments(function: Any) -> list[tuple[str, Any]]:
        return [(name, one.default) for name, one in inspect.signature(function).parameters.items()]

    assert arguments(config_class.__init__) == arguments(reference(config_class).__init__)


def test_base_defaults_are_those_of_the_reference() -> None:
    assert comparable(PretrainedConfig().to_dict()) == comparable(transformers.PretrainedConfig().to_dict())


@pytest.mark.parametrize("config_class", FAMILIES)
def test_class_facts(config_class: type[PretrainedConfig]) -> None:
    theirs = reference(config_class)
    assert config_class.model_type == theirs.model_type
    assert config_class.attribute_map == theirs.attribute_map
    assert config_class.keys_to_ignore_at_inference == theirs.keys_to_ignore_at_inference
    assert config_class().architecture is ARCHITECTURES[theirs.model_type]


def test_a_config_of_no_family_has_no_architecture() -> None:
    with pytest.raises(ConfigError, match="`model_type` must be one of blenderbot-small, pegasus, got 'bart'"):
        _ = PretrainedConfig(model_type="bart").architecture


# ---- files of the hub


@pytest.mark.parametrize("file", CONFIG_FILES, ids=name_of)
def test_hub_file_reads_as_in_the_reference(file: Path) -> None:
    config_class = stored_class(file)
    ours, theirs = config_class.from_pretrained(file.parent), reference(config_class).from_pretrained(file.parent)
    assert comparable(ours.to_dict()) == comparable(theirs.to_dict())
    assert comparable(ours.to_diff_dict()) == comparable(theirs.to_diff_dict())


@pytest.mark.parametrize("file", CONFIG_FILES, ids=name_of)
def test_hub_file_keeps_every_key_through_a_save(file: Path, tmp_path: Path) -> None:
    config_class = stored_class(file)
    config = config_class.from_pretrained(file.parent)
    config.save_pretrained(tmp_path)
    again = config_class.from_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert again == config
    for key, value in json.loads(file.read_text()).items():
        if key in ("id2label", "label2id", "_name_or_path"):
            continue
        assert getattr(again, key) == value, key
        # A key may be missing in the file only where it says what every reader assumes.
        written = saved.get("dtype" if key == "torch_dtype" else key, getattr(config_class(), key, None))
        assert written == value, key
    assert saved["model_type"] == config.model_type
    assert saved.get("transformers_version") == json.loads(file.read_text()).get("transformers_version")


@pytest.mark.parametrize("file", CONFIG_FILES, ids=name_of)
def test_our_file_loads_in_the_reference_and_theirs_here(file: Path, tmp_path: Path) -> None:
    config_class = stored_class(file)
    ours = config_class.from_pretrained(file.parent)
    ours.save_pretrained(tmp_path / "ours")
    theirs = reference(config_class).from_pretrained(tmp_path / "ours")
    assert comparable(theirs.to_dict()) == {**comparable(ours.to_dict()), "_name_or_path": ""}
    theirs.to_json_file(tmp_path / "theirs.json")
    assert config_class.from_pretrained(tmp_path / "theirs.json") == ours


def test_hub_files_are_all_there() -> None:
    assert len(CONFIG_FILES) == 12
    assert {stored_class(file) for file in CONFIG_FILES} == set(FAMILIES)


def test_labels_of_a_hub_file_have_int_keys() -> None:
    config = PegasusConfig.from_pretrained(HUB_CONFIGS / "google__pegasus-large")
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.num_labels == 3
    assert config.extra_pos_embeddings == 1
    assert config.task_specific_params["summarization_gigaword"]["max_position_embeddings"] == 128


def random_values(seed: int, config_class: type[PretrainedConfig]) -> dict[str, Any]:
    rng = random.Random(seed)
    width = rng.choice([8, 16, 48])
    choices: dict[str, list[Any]] = {
        "vocab_size": [100, 96103],
        "d_model": [width],
        "encoder_layers": [1, 5],
        "decoder_layers": [2, 12],
        "encoder_attention_heads": [1, 4, 8],
        "decoder_attention_heads": [2, 8],
        "activation_function": list(ACTIVATIONS),
        "dropout": [0.0, 0.25, 1.0],
        "scale_embedding": [True, False],
        "eos_token_id": [2, [2, 7]],
        "bos_token_id": [None, 0],
        "forced_eos_token_id": [None, 1],
        "num_beams": [None, 1, 4],
        "max_length": [None, 20, 64],
        "use_cache": [True, False],
        "num_labels": [1, 2, 5],
        "output_attentions": [True, False],
        "tie_word_embeddings": [True, False],
        "architectures": [None, [config_class.__name__]],
        "dtype": [None, "float32", "bfloat16"],
        "my_own_key": ["text", {"nested": [1, 2]}],
        "prefix": [None, "summarize: "],
        "is_decoder": [True, False],
        "problem_type": [None, "regression"],
    }
    return {key: rng.choice(choices[key]) for key in choices if rng.random() < 0.5}


@pytest.mark.parametrize("config_class", FAMILIES)
def test_random_configs_write_what_the_reference_writes(config_class: type[PretrainedConfig], tmp_path: Path) -> None:
    for seed in range(150):
        values = random_values(seed, config_class)
        ours, theirs = config_class(**values), reference(config_class)(**values)
        assert comparable(ours.to_dict()) == comparable(theirs.to_dict()), values
        assert comparable(json.loads(ours.to_json_string())) == comparable(json.loads(theirs.to_json_string())), values
        ours.to_json_file(tmp_path / "config.json")
        assert config_class.from_json_file(tmp_path / "config.json") == ours, values
        for half in ({}, {"decoder": True}, {"encoder": True}):
            here, there = ours.get_text_config(**half), theirs.get_text_config(**half)
            assert comparable(here.to_dict()) == comparable(there.to_dict()), (values, half)


# ---- attributes


def test_other_names_of_a_key() -> None:
    config = PegasusConfig(d_model=64, encoder_attention_heads=4)
    assert (config.hidden_size, config.num_attention_heads) == (64, 4)
    config.hidden_size = 32
    assert config.d_model == 32
    assert "hidden_size" not in config.to_dict()
    assert PegasusConfig(hidden_size=48).d_model == 48
    assert not hasattr(config, "hidden_sise")


@pytest.mark.parametrize("value", ["float16", "torch.float16", torch.float16, np.float16, np.dtype("float16")])
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_dtype_has_two_names_and_is_text(key: str, value: Any) -> None:
    config = PegasusConfig(**{key: value})
    assert config.dtype == config.torch_dtype == "float16"
    setattr(config, key, None)
    assert config.dtype is None
    assert config.torch_dtype is None
    config.update({key: value})
    assert json.loads(config.to_json_string())["dtype"] == "float16"
    assert "torch_dtype" not in config.to_dict()


def test_dtype_wins_over_its_old_name() -> None:
    assert PegasusConfig(dtype="float32", torch_dtype="float16").dtype == "float32"


def test_labels() -> None:
    config = PegasusConfig(num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    config.num_labels = 1
    assert (config.id2label, config.label2id) == ({0: "LABEL_0"}, {"LABEL_0": 0})
    assert PegasusConfig(id2label={"4": "x"}).id2label == {4: "x"}
    with pytest.raises(ConfigError, match="`id2label` must be a dictionary by number, got \\['x'\\]"):
        PegasusConfig(id2label=["x"])
    with pytest.raises(ConfigError, match="`label2id` must be"):
        PegasusConfig(label2id=["x"])
    with pytest.raises(ConfigError, match="`num_labels` must be the number of labels, 1, got 2"):
        PegasusConfig.from_dict({}, num_labels=2, id2label={0: "x"})


def test_problem_type_is_one_of_three() -> None:
    with pytest.raises(ConfigError, match=r"`problem_type` must be one of regression, .*, got 'guessing'"):
        PegasusConfig(problem_type="guessing")


def test_use_return_dict() -> None:
    assert PegasusConfig().use_return_dict is True
    assert PegasusConfig(return_dict=False).use_return_dict is False
    assert PegasusConfig(torchscript=True).use_return_dict is False


def test_a_key_that_is_computed_cannot_be_given() -> None:
    with pytest.raises(ConfigError, match="`use_return_dict` must not be a key of a config"):
        PegasusConfig(use_return_dict=True)


def test_private_values_are_not_written() -> None:
    config = PegasusConfig(attn_implementation="eager", _commit_hash="abc", name_or_path="here")
    assert (config._attn_implementation, config._commit_hash, config.name_or_path) == ("eager", "abc", "here")
    assert {"_attn_implementation", "attn_implementation", "_commit_hash"}.isdisjoint(config.to_dict())
    assert config.to_dict()["_name_or_path"] == "here"
    assert "_name_or_path" not in json.loads(config.to_json_string())


def test_equality_is_of_values_not_of_origin() -> None:
    config = PegasusConfig(my_own_key=1, name_or_path="a", _commit_hash="b")
    assert config == PegasusConfig(my_own_key=1)
    assert config != PegasusConfig(my_own_key=2)
    assert PegasusConfig() != BlenderbotSmallConfig()
    assert PegasusConfig() != PegasusConfig().to_dict()


def test_copies() -> None:
    config = PegasusConfig(my_own_key={"a": [1]})
    for again in (copy.deepcopy(config), copy.copy(config), pickle.loads(pickle.dumps(config))):
        assert again == config
        assert again.hidden_size == 1024
    config.to_dict()["my_own_key"]["a"].append(2)
    assert config.my_own_key == {"a": [1]}


def test_a_printed_config_is_its_json() -> None:
    config = PegasusConfig(my_own_key=1)
    assert repr(config) == "PegasusConfig " + config.to_json_string()
    assert "d_model" in config
    assert "d_modle" not in config


@pytest.mark.parametrize(
    "update",
    ["d_model=10,dropout=0.5", "scale_embedding=yes,use_cache=false,use_bfloat16=1", "activation_function=relu"],
)
def test_update_from_string(update: str) -> None:
    ours, theirs = PegasusConfig(), transformers.PegasusConfig()
    ours.update_from_string(update)
    theirs.update_from_string(update)
    assert ours != PegasusConfig()
    assert comparable(ours.to_dict()) == comparable(theirs.to_dict())


@pytest.mark.parametrize(
    ("update", "error"),
    [
        ("d_modle=10", ConfigError),
        ("d_model=ten", ConfigError),
        ("use_cache=perhaps", ConfigError),
        ("task_specific_params=x", TypeError),
    ],
)
def test_update_from_string_changes_all_or_nothing(update: str, error: type[Exception]) -> None:
    config = PegasusConfig()
    with pytest.raises(error, match=f"`{update.split('=')[0]}` must"):
        config.update_from_string(f"dropout=0.5,{update}")
    assert config == PegasusConfig()


# ---- reading


def test_overrides_and_what_is_left(tmp_path: Path) -> None:
    PegasusConfig(d_model=64).save_pretrained(tmp_path)
    config, unused = PegasusConfig.from_pretrained(
        tmp_path, hidden_size=32, dtype="float16", foo=False, attn_implementation="eager", return_unused_kwargs=True
    )
    theirs, left = transformers.PegasusConfig.from_pretrained(
        tmp_path, hidden_size=32, dtype="float16", foo=False, attn_implementation="eager", return_unused_kwargs=True
    )
    assert (config.d_model, config.dtype, config._attn_implementation) == (32, "float16", "eager")
    assert unused == left == {"foo": False, "dtype": "float16"}
    assert theirs.d_model == 32
    assert PegasusConfig.from_pretrained(tmp_path, foo=False) == PegasusConfig(d_model=64)


def test_from_dict_leaves_its_argument_alone() -> None:
    values = {"d_model": 64, "id2label": {"0": "x"}, "my_own_key": {"a": 1}}
    before = copy.deepcopy(values)
    config = PegasusConfig.from_dict(values, dropout=0.5)
    config.my_own_key["a"] = 2
    assert values == before
    assert (config.d_model, config.dropout) == (64, 0.5)


def test_get_config_dict_is_the_file_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "config.json").write_text('{"model_type": "bart", "x": null}')
    values, rest = PretrainedConfig.get_config_dict(tmp_path, subfolder="part", foo=1, revision="main")
    assert (values, rest) == ({"model_type": "bart", "x": None}, {"foo": 1})


def test_a_file_can_be_named_itself(tmp_path: Path) -> None:
    PegasusConfig(d_model=64).to_json_file(tmp_path / "other.json")
    assert PegasusConfig.from_pretrained(tmp_path / "other.json").d_model == 64
    assert PegasusConfig.from_pretrained(str(tmp_path / "other.json")).d_model == 64


def test_another_family_is_refused(tmp_path: Path) -> None:
    BlenderbotSmallConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="`model_type` must be 'pegasus' for PegasusConfig, got 'blenderbot-small'"):
        PegasusConfig.from_pretrained(tmp_path)
    assert PretrainedConfig.from_pretrained(tmp_path).d_model == 512


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"d_model": 64', "must be a JSON file"),
        ("", "must be a JSON file"),
        ("[1, 2]", "must hold a JSON object, got a list"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        ("\ufeff\x00", "must be a JSON file"),
    ],
)
def test_a_broken_file_is_named(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=says) as caught:
        PegasusConfig.from_pretrained(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path, no_network: None) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"config\.json"):
        PegasusConfig.from_pretrained(tmp_path)
    with pytest.raises(CheckpointNotFoundError, match="no-such-folder"):
        PegasusConfig.from_pretrained(tmp_path / "no-such-folder")
    with pytest.raises(CheckpointNotFoundError, match=r"nothing\.json"):
        PegasusConfig.from_json_file(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"id2label": ["x"]}, "`id2label` must be a dictionary by number, got"),
        ({"num_labels": "three"}, "`num_labels` must be a whole number of at least 0, got 'three'"),
        ({"pruned_heads": [1]}, "`pruned_heads` must be a dictionary by number"),
        ({"problem_type": "x"}, "`problem_type` must be one of"),
        ({"architecture": "x"}, "`architecture` must not be a key of a config"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_with_its_file(values: dict[str, Any], says: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=says) as caught:
        PegasusConfig.from_pretrained(tmp_path)
    assert str(caught.value).startswith(f"config.json of {tmp_path}: ")


# ---- writing


def test_a_failed_save_leaves_the_folder_alone(tmp_path: Path) -> None:
    PegasusConfig(d_model=64).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        PegasusConfig(my_own_key=object()).save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(TypeError):
        PegasusConfig(my_own_key=object()).save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_generation_keys_are_saved_without_a_word(tmp_path: Path) -> None:
    PegasusConfig(num_beams=8, length_penalty=0.6, max_length=64).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["num_beams"], saved["length_penalty"], saved["max_length"]) == (8, 0.6, 64)
    assert "min_length" not in saved


def test_push_and_read_back(hub: StandInHub, tmp_path: Path) -> None:
    config = PegasusConfig(d_model=64, my_own_key="kept")
    config.push_to_hub("tester/one", token=TOKEN)
    again = PegasusConfig.from_pretrained("tester/one", token=TOKEN)
    assert again == config
    assert again._commit_hash == hub.repos["tester/one"].refs["main"]
    config.save_pretrained(tmp_path / "two", push_to_hub=True, repo_id="tester/two", token=TOKEN)
    assert PegasusConfig.from_pretrained("tester/two", token=TOKEN) == config
    asked = hub.count()
    assert PegasusConfig.from_pretrained("tester/one", local_files_only=True) == config
    assert hub.count() == asked


# ---- checks

BAD: list[tuple[str, Any, str]] = [
    *[
        (key, value, "a whole number of at least 1")
        for key in (
            "vocab_size",
            "max_position_embeddings",
            "d_model",
            "encoder_layers",
            "encoder_ffn_dim",
            "encoder_attention_heads",
            "decoder_layers",
            "decoder_ffn_dim",
            "decoder_attention_heads",
        )
        for value in (0, -8, 8.0, "8", None, True)
    ],
    *[
        (key, value, "a number of at least 0 and at most 1")
        for key in ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop")
        for value in (-0.1, 1.5, float("nan"), "0.1", None)
    ],
    ("encoder_attention_heads", 3, "a divisor of `d_model` = 1024"),
    ("decoder_attention_heads", 7, "a divisor of `d_model` = 1024"),
    ("activation_function", "gelo", "one of 'gelu', "),
    ("init_std", -1, "a number of at least 0"),
    ("use_cache", "yes", "true or false"),
    ("scale_embedding", 1, "true or false"),
    ("is_encoder_decoder", "true", "true or false"),
    ("tie_encoder_decoder", True, "false"),
    ("pruned_heads", {0: [1]}, "empty"),
    ("dtype", "float12", "one of 'auto', "),
    *[
        (key, value, "a token id of at least 0 below `vocab_size` = 50265")
        for key in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_eos_token_id")
        for value in (-1, 50265, "1", 1.0)
    ],
    ("eos_token_id", [1, 50265], "a token id of at least 0 below `vocab_size` = 50265 or a list"),
]


@pytest.mark.parametrize(("key", "value", "must"), BAD)
def test_a_config_that_cannot_be_built_names_the_key(key: str, value: Any, must: str) -> None:
    config = PegasusConfig(**{key: value})
    with pytest.raises(ConfigError) as caught:
        config.validate("config.json of somewhere")
    said = str(caught.value)
    assert said.startswith(f"`{key}` must be {must}")
    assert "(config.json of somewhere)" in said


def test_all_bad_keys_are_in_one_error(tmp_path: Path) -> None:
    bad = {"d_model": 100, "encoder_layers": -1, "activation_function": "x", "dropout": 2, "eos_token_id": 99999}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "pegasus", **bad}))
    with pytest.raises(ConfigError) as caught:
        PegasusConfig.from_pretrained(tmp_path)
    named = [line.split("`")[1] for line in str(caught.value).splitlines() if line.startswith("- `")]
    assert named == sorted([*bad.keys() - {"d_model"}, "encoder_attention_heads", "decoder_attention_heads"])
    assert str(tmp_path) in str(caught.value)


def test_overrides_are_checked_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"d_model": 100}')
    assert PegasusConfig.from_pretrained(tmp_path, d_model=64).d_model == 64
    with pytest.raises(ConfigError, match="attention_heads"):
        PegasusConfig.from_pretrained(tmp_path)


def test_a_bad_config_can_still_be_made_and_read() -> None:
    assert PegasusConfig(d_model=-1).d_model == -1
    assert PegasusConfig.from_dict({"d_model": -1}).d_model == -1


@pytest.mark.parametrize(
    "good",
    [
        {"eos_token_id": [1, 2]},
        {"pad_token_id": None, "eos_token_id": None, "decoder_start_token_id": None},
        {"use_cache": None},
        {"dropout": 1, "init_std": 0},
        {"d_model": 6, "encoder_attention_heads": 3, "decoder_attention_heads": 2},
        {"d_model": np.int64(64)},
        {"max_length": None, "num_beams": None, "length_penalty": None},
    ],
)
def test_unusual_configs_that_can_be_built(good: dict[str, Any]) -> None:
    PegasusConfig(**good).validate()


# ---- cost


def test_importing_configs_loads_no_heavy_library() -> None:
    code = (
        "import sys; import seq2seq_models.core.config, seq2seq_models.core.generation_config, "
        "seq2seq_models.core.streamers, seq2seq_models.core.collator, seq2seq_models.core.seed; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'torch', 'tensorflow', 'jax', 'keras', 'flax', 'numpy', 'tokenizers', 'huggingface_hub', 'safetensors', "
        "'regex', 'transformers'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
