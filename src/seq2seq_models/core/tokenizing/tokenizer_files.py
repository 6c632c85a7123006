"""Tokenizers to and from their files: tokenizer_config.json, special_tokens_map.json, added_tokens.json, tokenizer.json
and the vocabulary files of the family. Any of them may be absent, as they are in some of the hub's repositories."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from tokenizers import AddedToken

from ...errors import TokenizerError
from ..hub import PushToHubMixin, Repository, write_folder_atomically
from .call_options import NO_MAX_LENGTH

TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
TOKENIZER_JSON = "tokenizer.json"
CHAT_TEMPLATE = "chat_template.jinja"

_NOT_SAVED = ("name_or_path", "special_tokens_map_file", "tokenizer_file", "device_map", "added_tokens_decoder")
_NOT_READ = ("tokenizer_class", "auto_map", "init_inputs", "processor_class", "tokenizer_file",
             "backend", "is_local", "local_files_only")  # fmt: skip
"""Settings of a file that say how it was made; the second row is transformers 5's."""
_FIELDS = ("content", "lstrip", "normalized", "rstrip", "single_word")


class TokenizerFiles(PushToHubMixin):
    """`from_pretrained`, `save_pretrained` and `push_to_hub` of a tokenizer."""

    vocab_files_names: ClassVar[dict[str, str]]
    init_kwargs: dict[str, Any]

    def __init__(self, **kwargs: Any) -> None:
        """Declared for `from_pretrained`; the families say what they take."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str = "main",
        trust_remote_code: bool = False,
        **kwargs: Any,
    ) -> Self:
        """The tokenizer of a hub repository or folder.

        Args:
            pretrained_model_name_or_path: "google/pegasus-xsum", or a folder.
            cache_dir: the hub cache to use instead of the client's own.
            force_download: fetch again what is cached already.
            local_files_only: never use the network.
            token: a hub token; True for the stored one, False for none.
            revision: branch, tag or commit.
            trust_remote_code: no effect; code from a repository is never run.
            **kwargs: `subfolder`, and options of the constructor, which win over the files.
        Raises:
            CheckpointNotFoundError: no such repository, folder or vocabulary file.
            TokenizerError: files that cannot be read as this tokenizer.
        """
        options = {
            "cache_dir": cache_dir, "force_download": force_download, "local_files_only": local_files_only,
            "token": token, "revision": None if revision == "main" else revision,
            "trust_remote_code": trust_remote_code, **kwargs,
        }  # fmt: skip
        for name in ("use_fast", "from_slow", "tokenizer_type", "_configuration_file"):
            options.pop(name, None)
        repository = Repository.from_options(pretrained_model_name_or_path, options)
        settings = _read_settings(cls, repository, options)
        tokenizer = cls(**settings)
        if "model_max_length" not in options and getattr(tokenizer, "model_max_length", 0) >= NO_MAX_LENGTH:
            positions = read_repository_json(repository, "config.json").get("max_position_embeddings")
            if isinstance(positions, int):
                # Differs from transformers 4.57.6: the model's positions, so that truncation=True truncates.
                tokenizer.model_max_length = positions  # type: ignore[attr-defined]
        return tokenizer

    @classmethod
    def _find_vocabulary(cls, repository: Repository) -> dict[str, str]:
        """Constructor arguments for the vocabulary files: the family's own, or else tokenizer.json.

        Raises:
            CheckpointNotFoundError: neither is there.
        """
        found = {}
        for argument, filename in cls.vocab_files_names.items():
            path = repository.find(filename)
            if path is not None:
                found[argument] = str(path)
        if len(found) == len(cls.vocab_files_names):
            return found
        path = repository.find(TOKENIZER_JSON)
        if path is None:
            raise repository.missing(*cls.vocab_files_names.values(), TOKENIZER_JSON)
        return {"tokenizer_file": str(path)}

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> tuple[str, ...]:
        """The files that were written: settings, special tokens, and the vocabulary in both formats. All, or none.

        Args:
            save_directory: the folder.
            legacy_format: True leaves out tokenizer.json, False writes no other vocabulary file.
            filename_prefix: put before each file's name, with a "-".
            push_to_hub: upload the files too.
            **kwargs: for `push_to_hub`: `repo_id`, `token`, `private`, `commit_message` and so on.
        """
        prefix = f"{filename_prefix}-" if filename_prefix else ""

        def write(folder: Path) -> None:
            _write_json(folder / f"{prefix}{TOKENIZER_CONFIG}", self._config_to_save())
            special = _plain(self.special_tokens_map_extended, typed=False)  # type: ignore[attr-defined]
            _write_json(folder / f"{prefix}{SPECIAL_TOKENS_MAP}", special)
            size = self.vocab_size  # type: ignore[attr-defined]
            added = {
                token: index
                for token, index in self.added_tokens_encoder.items()  # type: ignore[attr-defined]
                if index >= size
            }
            if added:
                _write_json(folder / f"{prefix}{ADDED_TOKENS}", added)
            if legacy_format is not False:
                self.save_vocabulary(str(folder), filename_prefix)
            backend = None if legacy_format is True else self._backend_json()
            if backend is not None:
                (folder / f"{prefix}{TOKENIZER_JSON}").write_text(backend + "\n", encoding="utf-8")

        # A template goes into tokenizer_config.json, and a file of its own would be read before that.
        ours = {f"{prefix}{name}" for name in (ADDED_TOKENS, TOKENIZER_JSON, CHAT_TEMPLATE)}
        written = write_folder_atomically(save_directory, write, stale=ours.__contains__)
        if push_to_hub:
            self._push_saved(Path(save_directory), written, kwargs)
        return tuple(str(path) for path in written)

    def _config_to_save(self) -> dict[str, Any]:
        config = {key: value for key, value in copy.deepcopy(self.init_kwargs).items() if key not in _NOT_SAVED}
        for key in {*config, "model_max_length", "clean_up_tokenization_spaces", "extra_special_tokens"}:
            if hasattr(self, key):
                config[key] = getattr(self, key)
        for key, default in self._settable().items():
            if getattr(self, key) != default:
                config[key] = getattr(self, key)
        config.update(self.special_tokens_map)  # type: ignore[attr-defined]
        if config.get("chat_template") is None:
            config.pop("chat_template", None)
        for key in self.vocab_files_names:
            config.pop(key, None)
        config = {key: _plain(value, typed=True) for key, value in config.items()}
        added = self.added_tokens_decoder  # type: ignore[attr-defined]
        config["added_tokens_decoder"] = {
            str(index): {**_fields(token), "special": token.special} for index, token in added.items()
        }
        # Both names are one implementation; this one, transformers can load everywhere.
        config["tokenizer_class"] = type(self).__name__.removesuffix("Fast")
        return config

    def _settable(self) -> dict[str, Any]:
        """The attributes that may be set on a tokenizer once it is made, and their defaults."""
        kind: Any = type(self)
        return {
            "chat_template": None,
            "padding_side": kind.padding_side,
            "truncation_side": kind.truncation_side,
            "model_input_names": list(kind.model_input_names),
            "split_special_tokens": False,
        }

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """The vocabulary files that were written.

        Args:
            save_directory: a folder that exists.
            filename_prefix: put before each file's name, with a "-".
        """
        raise NotImplementedError

    def _backend_json(self) -> str | None:
        """The text of tokenizer.json; None if the vocabulary cannot be said in it."""
        return None


def _read_settings(cls: type[TokenizerFiles], repository: Repository, options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the constructor: from the files, and over them `options`."""
    settings = read_repository_json(repository, TOKENIZER_CONFIG)
    for name in _NOT_READ:
        settings.pop(name, None)
    template = repository.find(CHAT_TEMPLATE)
    if template is not None:
        settings["chat_template"] = _read_text(template)
    vocabulary = cls._find_vocabulary(repository)
    settings.update(options)
    settings = {**vocabulary, **{key: value for key, value in settings.items() if key not in cls.vocab_files_names}}
    added = _tokens(settings.get("added_tokens_decoder") or {}, repository)
    known = added if added else _read_older_files(cls, repository, settings, options, added)
    settings["added_tokens_decoder"] = added
    settings = {key: _as_token(value) for key, value in settings.items()}
    by_text = {token.content: token for token in known.values()}
    roles: list[str] = cls.SPECIAL_TOKENS_ATTRIBUTES[:-1]  # type: ignore[attr-defined]
    for name in roles:
        if settings.get(name) is not None:
            settings[name] = by_text.get(str(settings[name]), settings[name])
    settings["name_or_path"] = repository.name
    return settings


def _read_older_files(
    cls: type[TokenizerFiles],
    repository: Repository,
    settings: dict[str, Any],
    options: Mapping[str, Any],
    added: dict[int, AddedToken],
) -> dict[int, AddedToken]:
    """Reads the files that held special and added tokens before tokenizer_config.json did; those of tokenizer.json."""
    for name, value in read_repository_json(repository, SPECIAL_TOKENS_MAP).items():
        if options.get(name):
            continue
        if name == "additional_special_tokens" and isinstance(value, list):
            present = [_as_token(token) for token in settings.get(name) or []]
            value = [_as_token(token, special=True) for token in value]
            value = present + [token for token in value if str(token) not in map(str, present)]
        settings[name] = _as_token(value, special=True)
    roles: list[str] = cls.SPECIAL_TOKENS_ATTRIBUTES  # type: ignore[attr-defined]
    special: set[str] = set()
    for name in roles:
        value = settings.get(name)
        special.update(map(str, value if isinstance(value, list) else [value]))
    for token, index in read_repository_json(repository, ADDED_TOKENS).items():
        if not isinstance(index, int):
            raise TokenizerError(f"{ADDED_TOKENS} of {repository} must map tokens to ids, got {token!r}: {index!r}.")
        added[index] = AddedToken(token, normalized=token not in special, special=token in special)
    entries = read_repository_json(repository, TOKENIZER_JSON).get("added_tokens") or []
    fields = {entry["id"]: {key: value for key, value in entry.items() if key != "id"} for entry in entries}
    detailed = _tokens(fields, repository)
    added.update(detailed)
    return detailed


def _tokens(table: Any, repository: Repository) -> dict[int, AddedToken]:
    found = {}
    try:
        for index, token in table.items():
            found[int(index)] = token if isinstance(token, AddedToken) else AddedToken(**_without_type(token))
    except (AttributeError, TypeError, ValueError) as error:
        raise TokenizerError(
            f"`added_tokens_decoder` of {repository} must map ids to the fields of a token, but: {error}."
        ) from None
    return found


def _without_type(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != "__type"}


def _as_token(value: Any, special: bool = False) -> Any:
    """Dicts that stand for an AddedToken as what they stand for, also inside of lists."""
    if isinstance(value, list):
        return [_as_token(item, special) for item in value]
    if isinstance(value, dict) and "content" in value and (special or value.get("__type") == "AddedToken"):
        fields = _without_type(value)
        return AddedToken(**({**fields, "special": True} if special else fields))
    return value


def _fields(token: AddedToken) -> dict[str, Any]:
    return {name: getattr(token, name) for name in _FIELDS}


def _plain(value: Any, typed: bool) -> Any:
    """The value with AddedTokens as dicts; `typed` writes what a reader needs to turn them back."""
    if isinstance(value, AddedToken):
        return {**_fields(value), **({"special": value.special, "__type": "AddedToken"} if typed else {})}
    if isinstance(value, list | tuple):
        return [_plain(item, typed) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item, typed) for key, item in value.items()}
    return value


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} must be UTF-8 text, but: {error}. Download it again.") from None


def read_json_file(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        TokenizerError: the file is cut off, damaged, or holds something else.
    """
    text = _read_text(path)
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise TokenizerError(f"{path} must be JSON, but: {error}. Download it again.") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} must hold a JSON object, got {type(value).__name__}. Download it again.")
    return value


def read_repository_json(repository: Repository, filename: str) -> dict[str, Any]:
    """The object in a file of the repository; empty if there is no such file."""
    path = repository.find(filename)
    return {} if path is None else read_json_file(path)
