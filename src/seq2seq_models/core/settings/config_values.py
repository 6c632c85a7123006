"""What config.json holds beside a model's own keys, and how its values are read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, CheckpointNotFoundError, ConfigError
from ..hub import Repository

CONFIG_NAME = "config.json"

LEGACY_GENERATION_DEFAULTS: dict[str, Any] = {
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "early_stopping": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "num_return_sequences": 1,
    "output_scores": False,
    "return_dict_in_generate": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
}
"""Generation options that a config.json may hold, with the values of a config that does not mention them."""


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: it is not one; the message names the file.
        CheckpointNotFoundError: there is no such file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointNotFoundError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    if content.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} must be a JSON file, got a git-lfs pointer. Fetch the file with `git lfs pull`.")
    try:
        values = json.loads(content)
    except ValueError as error:
        raise CheckpointError(f"{path} must be a JSON file, but {error}. Download or save it again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{path} must hold a JSON object, got a {type(values).__name__}. Download or save it again."
        )
    return values


def config_path(name: str | os.PathLike[str] | Repository, options: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The config file that a name stands for, and the options that do not say where or how to find it."""
    rest = dict(options)
    if not isinstance(name, Repository):
        file = Path(name).expanduser()
        inside = Path(rest.get("subfolder") or "") / file
        for path in (file, inside):
            if path.is_file():
                Repository.from_options(file.parent, rest)
                return path, rest
    return Repository.from_options(name, rest).require(CONFIG_NAME), rest


def dtype_name(value: Any) -> Any:
    """The name of a dtype of any framework; text loses a leading "torch."."""
    if value is None or isinstance(value, dict):
        return value
    if isinstance(value, str):
        return value.removeprefix("torch.")
    named = getattr(value, "name", None) or getattr(value, "__name__", None)
    return named if isinstance(named, str) else str(value).rsplit(".", 1)[-1]


def int_keys(key: str, values: Any) -> dict[int, Any]:
    """The dictionary with its keys, which are strings in JSON, as ints."""
    try:
        return {int(number): value for number, value in values.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"`{key}` must be a dictionary by number, got {values!r}. Correct the key.") from error


def like(key: str, old: Any, word: str) -> Any:
    """`word` as a value of the type of `old`."""
    words = {"true": True, "1": True, "y": True, "yes": True, "false": False, "0": False, "n": False, "no": False}
    if isinstance(old, str):
        return word
    if not isinstance(old, bool | int | float):
        raise TypeError(f"`{key}` must hold a number, a bool or a string, got {old!r}. Set it as an attribute.")
    try:
        return words[word.lower()] if isinstance(old, bool) else type(old)(word)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"`{key}` must be of type {type(old).__name__}, got {word!r}. Correct the text.") from error
