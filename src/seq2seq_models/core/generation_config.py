"""Generation configs: how `generate` writes, from generation_config.json, older keys of config.json, or arguments."""

from __future__ import annotations

import copy
import difflib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from ..errors import GenerationError
from .config import CONFIG_CLASSES, PretrainedConfig
from .hub import PushToHubMixin, Repository, write_folder_atomically
from .settings.config_values import CONFIG_NAME, read_json
from .settings.generation_files import for_json, task_values
from .settings.generation_options import (
    BEAM_OPTIONS,
    CACHE_OPTIONS,
    GENERATE_ARGUMENTS,
    OPTIONS,
    OUTPUT_OPTIONS,
    SAMPLING_OPTIONS,
    GenerationMode,
    OptionValues,
)
from .settings.validity import message

logger = logging.getLogger(__name__)

GENERATION_CONFIG_NAME = "generation_config.json"

_NEVER_SAVED = ("_commit_hash", "_sources", "_at_first", "compile_config")
_METADATA = ("_from_model_config", "_commit_hash", "transformers_version")
_ARGUMENT, _ASSIGNED, _DEFAULT = "argument", "set on the object", "class default"


class GenerationConfig(OptionValues, PushToHubMixin):
    """The options of `generate`, each an attribute that always has a value; their table is in `core.settings`.

    None means unset: the option takes its class default. The one exception is `top_k`, where None switches it off, as
    0 does. `describe()` shows every value and where it came from.

    Args:
        **kwargs: options by name. Names that are none are kept and saved again, as a file may hold them; `unknown`
            finds them.
    Raises:
        GenerationError: values that no strategy can work with, all of them named.
    """

    def __init__(self, **kwargs: Any) -> None:
        self._start()
        self._take(kwargs, _ARGUMENT)
        self.validate()

    def _start(self) -> None:
        """Sets every option to its class default."""
        self._sources: dict[str, str] = {}
        for name, option in OPTIONS.items():
            object.__setattr__(self, name, copy.copy(option.default))
        self._from_model_config = False
        self._at_first: dict[str, Any] = {}  # what a model's config said when this was made of it
        self._commit_hash: str | None = None
        object.__setattr__(self, "transformers_version", None)

    def _take(self, values: dict[str, Any], source: str) -> None:
        """Sets these options and notes where they came from."""
        for name, value in values.items():
            setattr(self, name, value)
            if name in self._sources:
                self._sources[name] = source

    # Differs from transformers 4.57.6: there None stays, and options such as `num_beams` then fail far from here.
    def __setattr__(self, name: str, value: Any) -> None:
        option = OPTIONS.get(name)
        unset = option is not None and value is None and not option.none_is_off
        super().__setattr__(name, copy.copy(option.default) if option is not None and unset else value)
        if unset:
            self._sources.pop(name, None)
        elif not name.startswith("_") and name not in _METADATA:
            self._sources[name] = _ASSIGNED

    @classmethod
    def _built(cls, values: dict[str, Any], source: str) -> Self:
        """A config with these values, not yet checked."""
        config = cls.__new__(cls)
        config._start()
        config._take(copy.deepcopy(values), source)
        return config

    @classmethod
    def unknown(cls, kwargs: Iterable[str]) -> list[str]:
        """The names in `kwargs` that are no generation options, each with the option it is most like, for a message.

        Args:
            kwargs: names, or a dictionary by name.
        Returns:
            Sorted lines such as "`num_beam` (did you mean `num_beams`?)"; empty if all names are options.
        """
        found = []
        for name in sorted(set(kwargs) - set(OPTIONS)):
            close = difflib.get_close_matches(name, [*OPTIONS, *GENERATE_ARGUMENTS], n=1)
            found.append(f"`{name}`" + (f" (did you mean `{close[0]}`?)" if close and close[0] != name else ""))
        return found

    def get_generation_mode(self, assistant_model: Any = None) -> GenerationMode:
        """The strategy that these options ask for.

        Args:
            assistant_model: a smaller model that guesses ahead, if there is one.
        """
        assisted = (assistant_model, self.prompt_lookup_num_tokens, self.assistant_early_exit) != (None, None, None)
        if self.constraints is not None or self.force_words_ids is not None:
            return GenerationMode.CONSTRAINED_BEAM_SEARCH
        if self.num_beams > 1:
            if self.num_beam_groups > 1:
                return GenerationMode.GROUP_BEAM_SEARCH
            return GenerationMode.BEAM_SAMPLE if self.do_sample else GenerationMode.BEAM_SEARCH
        if not self.do_sample and (self.top_k or 0) > 1 and (self.penalty_alpha or 0) > 0:
            return GenerationMode.CONTRASTIVE_SEARCH
        if assisted:
            return GenerationMode.ASSISTED_GENERATION
        if self.dola_layers is not None:
            return GenerationMode.DOLA_GENERATION
        return GenerationMode.SAMPLE if self.do_sample else GenerationMode.GREEDY_SEARCH

    def validate(self, strict: bool = False, *, where: str | None = None, resolved: bool = False) -> None:
        """Checks every option and how they go together.

        Args:
            strict: also refuse options that have no effect with the others; see `idle_options`.
            where: what to name in the message, such as "generation_config.json of google/pegasus-xsum".
            resolved: nothing will be set any more, so unset lengths count with their class defaults.
        Raises:
            GenerationError: naming every option that is wrong, its value and what it must be.
        """
        found = {name: fault for name, option in OPTIONS.items() if (fault := option.fault(name, getattr(self, name)))}
        faults = [*found.items(), *self._beam_faults(set(found)), *self._length_faults(set(found), resolved)]
        lines = [fault + self._origin(name) for name, fault in faults]
        lines += [
            f"`{name}` must be passed to `generate` itself, got {getattr(self, name)!r}"
            for name in GENERATE_ARGUMENTS
            if hasattr(self, name)
        ]
        if strict:
            lines += [f"`{name}` must be left unset {reason}" for name, reason in self.idle_options().items()]
        if lines:
            raise GenerationError(message(lines, where or type(self).__name__, "Correct what is set there."))

    def _origin(self, name: str) -> str:
        source = self._sources.get(name)
        return {None: "", _ARGUMENT: ", passed as an argument", _ASSIGNED: f", {_ASSIGNED}"}.get(
            source, f", from {source}"
        )

    def _beam_faults(self, wrong: set[str]) -> Iterator[tuple[str, str]]:
        if wrong & {"num_beams", "num_beam_groups", "num_return_sequences", "do_sample", "diversity_penalty"}:
            return
        beams, groups, outputs = self.num_beams, self.num_beam_groups, self.num_return_sequences
        if groups > 1:
            if beams % groups:
                yield "num_beams", f"`num_beams` must be a multiple of `num_beam_groups` = {groups}, got {beams}"
            if self.do_sample:
                yield "do_sample", f"`do_sample` must be false with `num_beam_groups` = {groups}, got True"
            if not self.diversity_penalty:
                yield (
                    "diversity_penalty",
                    f"`diversity_penalty` must be above 0 with `num_beam_groups` = {groups}, got 0",
                )
        if beams == 1 and not self.do_sample and outputs > 1:
            need = "must be 1 with neither beams nor `do_sample`"
            yield "num_return_sequences", f"`num_return_sequences` {need}, got {outputs}"
        if 1 < beams < outputs:
            need = f"must be at most `num_beams` = {beams}"
            yield "num_return_sequences", f"`num_return_sequences` {need}, got {outputs}"

    def _length_faults(self, wrong: set[str], resolved: bool) -> Iterator[tuple[str, str]]:
        """An unset length is no fault as long as it may still be set."""
        # Differs from transformers 4.57.6: there `min_length` above `max_length` is a warning.
        if wrong & {"max_length", "min_length", "max_new_tokens", "min_new_tokens"}:
            return
        known = resolved or ("max_length" in self._sources and "min_length" in self._sources)
        if known and self.max_new_tokens is None and self.min_length > self.max_length:
            yield "min_length", f"`min_length` must be at most `max_length` = {self.max_length}, got {self.min_length}"
        least, most = self.min_new_tokens, self.max_new_tokens
        if least is not None and most is not None and least > most:
            yield "min_new_tokens", f"`min_new_tokens` must be at most `max_new_tokens` = {most}, got {least}"

    def idle_options(self) -> dict[str, str]:
        """Options that are set but have no effect with the others, and why; they are no error."""
        drawing = self.do_sample or self.get_generation_mode() is GenerationMode.CONTRASTIVE_SEARCH
        groups = (
            (not drawing, SAMPLING_OPTIONS, "while `do_sample` is false"),
            (self.num_beams == 1, BEAM_OPTIONS, "while `num_beams` is 1"),
            (not self.use_cache, CACHE_OPTIONS, "while `use_cache` is false"),
            (not self.return_dict_in_generate, OUTPUT_OPTIONS, "while `return_dict_in_generate` is false"),
        )
        return {
            name: reason
            for idle, names, reason in groups
            for name in names
            if idle and getattr(self, name) not in (OPTIONS[name].default, None)
        }

    def describe(self, defaults: bool = True) -> str:
        """A table of every option, its value, and where the value came from.

        Args:
            defaults: also show the options that nothing has set.
        """
        rows = [("option", "value", "source")]
        extra = [name for name in vars(self) if not name.startswith("_") and name not in (*OPTIONS, *_METADATA)]
        for name in (*OPTIONS, *extra):
            source = self._sources.get(name, _DEFAULT)
            if defaults or source != _DEFAULT:
                rows.append((name, repr(getattr(self, name)), source))
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        return "\n".join(f"{name:{widths[0]}}  {value:{widths[1]}}  {source}" for name, value, source in rows)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name: str | os.PathLike[str] | Repository,
        config_file_name: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str = "main",
        *,
        task: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """The generation config of a repository; with `return_unused_kwargs=True`, and the other keywords.

        It is read from generation_config.json, and where there is none, from the older keys of config.json.

        Args:
            pretrained_model_name: "owner/name" on the hub, or a folder.
            config_file_name: another file to read, instead of generation_config.json.
            cache_dir: the hub cache to use.
            force_download: fetch again what is cached.
            local_files_only: never use the network.
            token: for gated and private repositories.
            revision: branch, tag or commit.
            task: lay the values of one of the repository's named tasks over the others, such as "summarization_xsum"
                or just "xsum" of google/pegasus-large: of generation_config_for_<task>.json, and where that file is
                not there, of `task_specific_params` in config.json.
            **kwargs: options to override; `subfolder`; `return_unused_kwargs`.
        Raises:
            CheckpointNotFoundError: no such repository, folder or file.
            CheckpointError: a file is no JSON object.
            GenerationError: options out of range, keywords that are no options, or a task that is not there.
        """
        kwargs.update(cache_dir=cache_dir, force_download=force_download, local_files_only=local_files_only)
        kwargs.update(token=token, revision=revision)
        repository = Repository.from_options(pretrained_model_name, kwargs)
        kept = kwargs.pop("return_unused_kwargs", False)
        config = cls._read(repository, config_file_name)
        if task is not None:
            config._take(*task_values(repository, task))
        unused = config._finished(kwargs, kept, str(repository))
        return (config, unused) if kept else config  # type: ignore[return-value]

    @classmethod
    def _read(cls, repository: Repository, file: str | os.PathLike[str] | None) -> Self:
        name = GENERATION_CONFIG_NAME if file is None else os.fspath(file)
        path = repository.find(name)
        if path is not None:
            return cls._built(read_json(path), name)
        path = repository.find(CONFIG_NAME) if file is None else None
        if path is None:
            raise repository.missing(*((name, CONFIG_NAME) if file is None else (name,)))
        values = read_json(path)
        family = CONFIG_CLASSES.get(values.get("model_type", ""), PretrainedConfig)
        return cls._of_model(family(**values))

    def _finished(self, kwargs: dict[str, Any], kept: bool, where: str) -> dict[str, Any]:
        """Takes the options among the keywords and checks everything; the other keywords."""
        mine, unused = self._split(kwargs)
        # Differs from transformers 4.57.6: it ignores them, or keeps them as attributes that nothing reads.
        if unused and not kept:
            raise GenerationError(
                f"Keywords must be generation options, got {', '.join(self.unknown(unused))}. "
                "Correct them, or pass `return_unused_kwargs=True` to get them back."
            )
        self._take(mine, _ARGUMENT)
        self.validate(where=where)
        return unused

    def _split(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        mine = {name: value for name, value in kwargs.items() if name in vars(self) or name in OPTIONS}
        return mine, {name: value for name, value in kwargs.items() if name not in mine}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """A config with these values; with `return_unused_kwargs=True`, and the keywords that are no options.

        Args:
            config_dict: names and values, as in generation_config.json; names that are no options are kept.
            **kwargs: options to override.
        Raises:
            GenerationError: values out of range, or keywords that are no options.
        """
        kept = kwargs.pop("return_unused_kwargs", False)
        for key in ("_from_auto", "_from_pipeline"):
            kwargs.pop(key, None)
        config = cls._built(config_dict, "dictionary")
        unused = config._finished(kwargs, kept, cls.__name__)
        return (config, unused) if kept else config  # type: ignore[return-value]

    @classmethod
    def from_model_config(cls, model_config: Any) -> Self:
        """The generation options that a model config holds: token ids, and the older keys such as `num_beams`.

        Args:
            model_config: a config, as of `PegasusConfig.from_pretrained`. Its keys that are null are unset.
        Raises:
            GenerationError: values out of range.
        """
        config = cls._of_model(model_config)
        config.validate(where=getattr(model_config, "name_or_path", "") or type(model_config).__name__)
        return config

    @classmethod
    def _of_model(cls, model_config: Any) -> Self:
        stated = model_config.to_dict()
        values = {name: stated[name] for name in OPTIONS if stated.get(name) is not None}
        values = {name: value for name, value in values.items() if value != OPTIONS[name].default}
        config = cls._built(values, CONFIG_NAME)
        config._from_model_config = True
        if any(getattr(config, name) for name in OUTPUT_OPTIONS):
            config._take({"return_dict_in_generate": True}, CONFIG_NAME)
        config._at_first = {name: copy.copy(getattr(config, name)) for name in OPTIONS}
        return config

    def update(self, defaults_only: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Sets the options among the keywords and returns the other keywords; after an error nothing has changed.

        Args:
            defaults_only: set those only that are None here.
            **kwargs: options, and others.

        Raises:
            GenerationError: values that do not go together, or are out of range.
        """
        mine, unused = self._split(kwargs)
        if defaults_only:
            mine = {name: value for name, value in mine.items() if getattr(self, name) is None}
        before = {**vars(self), "_sources": dict(self._sources)}
        self._take(mine, _ARGUMENT)
        try:
            self.validate()
        except GenerationError:
            vars(self).clear()
            vars(self).update(before)
            raise
        return unused

    def _get_default_generation_params(self) -> dict[str, Any]:
        """What transformers 5's Trainer fills in before it evaluates: nothing, for every option has its default."""
        return {}

    def fill_from(self, other: GenerationConfig, names: Iterable[str] = OPTIONS) -> None:
        """Takes the options that have their class default here from `other`, and notes where `other` has them from.

        Args:
            other: such as the model's own config, under one given for a call.
            names: the options to look at.
        """
        for name in names:
            value = getattr(other, name)
            if getattr(self, name) == OPTIONS[name].default and value != OPTIONS[name].default:
                self._take({name: copy.deepcopy(value)}, other._sources.get(name, _ASSIGNED))

    def to_dict(self) -> dict[str, Any]:
        """All options and unknown keys with their values; a copy."""
        found = {name: copy.deepcopy(value) for name, value in vars(self).items() if name not in _NEVER_SAVED}
        if found.get("transformers_version") is None:
            found.pop("transformers_version", None)
        return found

    def to_diff_dict(self) -> dict[str, Any]:
        """What `to_dict` gives, without the values that are the class defaults."""
        defaults = GenerationConfig().to_dict()
        missing = object()
        return {name: value for name, value in self.to_dict().items() if value != defaults.get(name, missing)}

    def to_json_string(self, use_diff: bool = True, ignore_metadata: bool = False) -> str:
        """The text of a generation_config.json.

        Args:
            use_diff: leave out values that are the class defaults.
            ignore_metadata: leave out what says where the config came from.
        """
        values = self.to_diff_dict() if use_diff else self.to_dict()
        if ignore_metadata:
            values = {name: value for name, value in values.items() if name not in _METADATA}
        return json.dumps(for_json(values), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Writes the text of a generation_config.json to this file.

        Args:
            json_file_path: the file.
            use_diff: leave out values that are the class defaults.
        """
        Path(json_file_path).write_text(self.to_json_string(use_diff=use_diff), encoding="utf-8")

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        config_file_name: str | os.PathLike[str] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Writes generation_config.json into a folder, or leaves the folder as it was.

        Args:
            save_directory: made if it is not there.
            config_file_name: another name for the file.
            push_to_hub: upload it too, to the repository of the folder's name.
            **kwargs: for the upload: `repo_id`, `token`, `private`, `commit_message`, ...
        Raises:
            GenerationError: values that no strategy can work with.
        """
        # Differs from transformers 4.57.6: options that have no effect with the others are saved, not refused.
        self.validate()
        name = GENERATION_CONFIG_NAME if config_file_name is None else os.fspath(config_file_name)
        write_folder_atomically(save_directory, lambda folder: self.to_json_file(folder / name))
        if push_to_hub:
            self._push_saved(Path(save_directory), [Path(save_directory) / name], kwargs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GenerationConfig):
            return NotImplemented
        return self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash(self.to_json_string(ignore_metadata=True))

    def _compared(self) -> dict[str, Any]:
        return {name: value for name, value in self.to_dict().items() if name not in _METADATA}

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string(ignore_metadata=True)}"
