"""Model configs: what config.json holds, as attributes. Reading, checking, comparing, writing and pushing them."""

from __future__ import annotations

import copy
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

from ...errors import ConfigError
from ..architecture import ARCHITECTURES, Architecture
from ..hub import PushToHubMixin, Repository, write_folder_atomically
from .config_rules import config_faults
from .config_values import (
    CONFIG_NAME,
    LEGACY_GENERATION_DEFAULTS,
    config_path,
    dtype_name,
    int_keys,
    like,
    read_json,
)
from .validity import is_whole, message

logger = logging.getLogger(__name__)

_ALIASES = {"torch_dtype": "dtype"}
_NEVER_SAVED = ("_commit_hash", "_attn_implementation")
_NOT_COMPARED = (*_NEVER_SAVED, "_name_or_path", "transformers_version")
_PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


class PretrainedConfig(PushToHubMixin):
    """A model config: every key is an attribute, known keys have defaults, unknown ones are kept and saved again.

    Nothing is checked here beyond what the attributes need, so that any config can be read; `validate` does that, and
    `from_pretrained` and every model call it.

    Args:
        output_hidden_states: models return all hidden states unless told otherwise in the call.
        output_attentions: models return all attention weights unless told otherwise in the call.
        return_dict: models return an output object; False means a tuple.
        torchscript: makes `use_return_dict` False.
        dtype: of the weights, "float32" or the like; a dtype of any framework is turned into its name.
        pruned_heads: kept for the file's sake; must be empty to build a model.
        tie_word_embeddings: the head shares the weights of the token embedding.
        chunk_size_feed_forward: kept for the file's sake, not used.
        is_encoder_decoder: whether the model has both halves.
        is_decoder: the model is a decoder alone, with a causal mask and a cache.
        cross_attention_hidden_size: kept for the file's sake, not used.
        add_cross_attention: a decoder alone has cross-attention layers.
        tie_encoder_decoder: kept for the file's sake; must be false to build a model.
        architectures: names of the classes the weights were saved from.
        finetuning_task: name of the task the weights were tuned for.
        id2label: class number to label; keys become ints.
        label2id: label to class number.
        num_labels: number of labels, where `id2label` is not given.
        task_specific_params: per task name, the values to use for it.
        problem_type: "regression", "single_label_classification" or "multi_label_classification".
        tokenizer_class: name of the tokenizer class, where it is not the family's own.
        prefix: text to put before every input.
        bos_token_id: id of the token that begins a sequence.
        pad_token_id: id of the token that fills a sequence up.
        eos_token_id: id of the token that ends a sequence, or a list of them.
        sep_token_id: id of the token that separates.
        decoder_start_token_id: id the decoder starts with.
        **kwargs: any other key of a config.json, older generation options (`max_length`, `num_beams`, ...) included.
    Raises:
        ConfigError: labels or problem type that cannot be read.
    """

    model_type: str = ""
    attribute_map: ClassVar[dict[str, str]] = {}
    keys_to_ignore_at_inference: ClassVar[list[str]] = []

    id2label: dict[int, str]
    label2id: dict[str, int] | None

    def __init__(
        self,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool = True,
        torchscript: bool = False,
        dtype: Any = None,
        pruned_heads: dict[int, list[int]] | None = None,
        tie_word_embeddings: bool = True,
        chunk_size_feed_forward: int = 0,
        is_encoder_decoder: bool = False,
        is_decoder: bool = False,
        cross_attention_hidden_size: int | None = None,
        add_cross_attention: bool = False,
        tie_encoder_decoder: bool = False,
        architectures: list[str] | None = None,
        finetuning_task: str | None = None,
        id2label: dict[int, str] | None = None,
        label2id: dict[str, int] | None = None,
        num_labels: int | None = None,
        task_specific_params: dict[str, Any] | None = None,
        problem_type: str | None = None,
        tokenizer_class: str | None = None,
        prefix: str | None = None,
        bos_token_id: int | None = None,
        pad_token_id: int | None = None,
        eos_token_id: int | list[int] | None = None,
        sep_token_id: int | None = None,
        decoder_start_token_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        old_dtype = kwargs.pop("torch_dtype", None)
        self.dtype = old_dtype if dtype is None else dtype
        self.output_hidden_states = output_hidden_states
        self.output_attentions = output_attentions
        self.return_dict = return_dict
        self.torchscript = torchscript
        self.pruned_heads = int_keys("pruned_heads", pruned_heads or {})
        self.tie_word_embeddings = tie_word_embeddings
        self.chunk_size_feed_forward = chunk_size_feed_forward
        self.is_encoder_decoder = is_encoder_decoder
        self.is_decoder = is_decoder
        self.cross_attention_hidden_size = cross_attention_hidden_size
        self.add_cross_attention = add_cross_attention
        self.tie_encoder_decoder = tie_encoder_decoder
        self.architectures = architectures
        self.finetuning_task = finetuning_task
        self._set_labels(id2label, label2id, num_labels, problem_type)
        self.task_specific_params = task_specific_params
        self.tokenizer_class = tokenizer_class
        self.prefix = prefix
        self.bos_token_id = bos_token_id
        self.pad_token_id = pad_token_id
        self.eos_token_id = eos_token_id
        self.sep_token_id = sep_token_id
        self.decoder_start_token_id = decoder_start_token_id
        self._set_rest(kwargs)

    def _set_labels(
        self,
        id2label: dict[int, str] | None,
        label2id: dict[str, int] | None,
        num_labels: int | None,
        problem_type: str | None,
    ) -> None:
        if label2id is not None and not isinstance(label2id, dict):
            raise ConfigError(f"`label2id` must be a dictionary of label to number, got {label2id!r}. Correct the key.")
        if problem_type is not None and problem_type not in _PROBLEM_TYPES:
            raise ConfigError(
                f"`problem_type` must be one of {', '.join(_PROBLEM_TYPES)}, got {problem_type!r}. Correct the key."
            )
        self.problem_type = problem_type
        if id2label is None:
            self._number_labels(2 if num_labels is None else num_labels)
            self.label2id = self.label2id if label2id is None else label2id
            return
        self.id2label = int_keys("id2label", id2label)
        self.label2id = label2id
        if num_labels is not None and num_labels != len(self.id2label):
            logger.warning("`num_labels` = %s is ignored: `id2label` has %d labels.", num_labels, len(self.id2label))

    def _set_rest(self, kwargs: dict[str, Any]) -> None:
        for key, default in LEGACY_GENERATION_DEFAULTS.items():
            setattr(self, key, kwargs.pop(key, default))
        self._name_or_path = str(kwargs.pop("name_or_path", ""))
        self._commit_hash: str | None = kwargs.pop("_commit_hash", None)
        self._attn_implementation: str | None = kwargs.pop("attn_implementation", None)
        self.transformers_version: str | None = kwargs.pop("transformers_version", None)
        self.tf_legacy_loss: bool = kwargs.pop("tf_legacy_loss", False)
        self.use_bfloat16: bool = kwargs.pop("use_bfloat16", False)
        if type(self).model_type:
            kwargs.pop("model_type", None)
        for key, value in kwargs.items():
            try:
                setattr(self, key, value)
            except AttributeError as error:
                raise ConfigError(
                    f"`{key}` must not be a key of a config, got {value!r}: {type(self).__name__} computes it. "
                    "Remove the key."
                ) from error

    # The other names of a key are resolved here, so that every reader and writer of attributes sees one value.
    # Differs from transformers 4.57.6: `dtype` is a name, not a torch.dtype, as three frameworks read it.

    def __setattr__(self, key: str, value: Any) -> None:
        key = type(self).attribute_map.get(key, _ALIASES.get(key, key))
        super().__setattr__(key, dtype_name(value) if key == "dtype" else value)

    def __getattr__(self, key: str) -> Any:
        other = type(self).attribute_map.get(key, _ALIASES.get(key))
        if other is None:
            raise AttributeError(f"{type(self).__name__} has no key {key!r}")
        return getattr(self, other)

    def __delattr__(self, key: str) -> None:
        super().__delattr__(type(self).attribute_map.get(key, _ALIASES.get(key, key)))

    @property
    def architecture(self) -> Architecture:
        """What sets this model family apart.

        Raises:
            ConfigError: a config of no known family.
        """
        # A subclass may have a name of its own, for the auto classes.
        names = [kind.model_type for kind in type(self).__mro__ if hasattr(kind, "model_type")]
        name = next((name for name in (self.model_type, *names) if name in ARCHITECTURES), None)
        if name is None:
            known = ", ".join(sorted(ARCHITECTURES))
            raise ConfigError(
                f"`model_type` must be one of {known}, got {self.model_type!r} ({type(self).__name__}). "
                "Use the config class of the family, or AutoConfig."
            )
        return ARCHITECTURES[name]

    @property
    def name_or_path(self) -> str:
        """Repository or folder that the config was read for, or "" if it was made in Python."""
        return self._name_or_path

    @name_or_path.setter
    def name_or_path(self, value: Any) -> None:
        self._name_or_path = str(value)

    @property
    def use_return_dict(self) -> bool:
        """Whether models return an output object rather than a tuple."""
        return self.return_dict and not self.torchscript

    @property
    def num_labels(self) -> int:
        """How many labels there are; setting another number makes new ones, LABEL_0 and so on."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        if count != len(self.id2label):
            self._number_labels(count)

    def _number_labels(self, count: int) -> None:
        if not is_whole(count) or count < 0:
            raise ConfigError(f"`num_labels` must be a whole number of at least 0, got {count!r}. Correct the key.")
        self.id2label = {number: f"LABEL_{number}" for number in range(count)}
        self.label2id = {label: number for number, label in self.id2label.items()}

    def validate(self, where: str | None = None) -> None:
        """Checks that a model can be built from this config.

        Args:
            where: what to name in the message, such as "config.json of google/pegasus-xsum".
        Raises:
            ConfigError: naming every key that stands in the way.
        """
        faults = config_faults(self)
        if faults:
            advice = "Correct it in the file, or pass the right value as a keyword."
            raise ConfigError(message(faults, where or type(self).__name__, advice))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | Repository,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str = "main",
        **kwargs: Any,
    ) -> Self:
        """The config of a repository, a folder, or a JSON file; with `return_unused_kwargs=True`, and the rest.

        Args:
            pretrained_model_name_or_path: "owner/name" on the hub, a folder, or a config file.
            cache_dir: the hub cache to use.
            force_download: fetch again what is cached.
            local_files_only: never use the network.
            token: for gated and private repositories.
            revision: branch, tag or commit.
            **kwargs: keys of the config to override; `subfolder`; `return_unused_kwargs`. Others are left over.
        Raises:
            CheckpointNotFoundError: no such repository, folder or file.
            CheckpointError: the file is no JSON object.
            ConfigError: it is of another model family, or no model can be built from it.
        """
        kwargs.update(cache_dir=cache_dir, force_download=force_download, local_files_only=local_files_only)
        kwargs.update(token=token, revision=revision)
        values, kwargs = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        where = f"{CONFIG_NAME} of {pretrained_model_name_or_path}"
        found = values.get("model_type")
        # Differs from transformers 4.57.6: it warns and builds a config of the wrong family.
        if cls.model_type and found is not None and found != cls.model_type:
            raise ConfigError(
                f"`model_type` must be {cls.model_type!r} for {cls.__name__}, got {found!r} ({where}). "
                "Use AutoConfig, or the config class of that family."
            )
        kept = kwargs.pop("return_unused_kwargs", False)
        try:
            config, unused = cls._with_overrides(values, kwargs)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        config.validate(where)
        return (config, unused) if kept else config  # type: ignore[return-value]

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | Repository, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The content of config.json, as it stands there, and the keywords that do not say where to find it.

        Args:
            pretrained_model_name_or_path: "owner/name" on the hub, a folder, or a config file.
            **kwargs: where and how to find it (`revision`, `subfolder`, `token`, `cache_dir`, ...), and any others.
        Raises:
            CheckpointNotFoundError: no such repository, folder or file.
            CheckpointError: the file is no JSON object.
        """
        path, kwargs = config_path(pretrained_model_name_or_path, kwargs)
        values = read_json(path)
        # The hub's cache keeps the files of a commit in snapshots/<commit>.
        commit = re.search(r"/snapshots/([0-9a-f]{40})/", path.as_posix())
        if commit is not None:
            values["_commit_hash"] = commit[1]
        return values, kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """A config with these values; with `return_unused_kwargs=True`, and the keywords that are no keys of it.

        Args:
            config_dict: keys and values, as in config.json.
            **kwargs: keys to override; `dtype` (or `torch_dtype`) is also left among the unused, for the model.
        Raises:
            ConfigError: labels that contradict each other.
        """
        kept = kwargs.pop("return_unused_kwargs", False)
        config, unused = cls._with_overrides(config_dict, kwargs)
        return (config, unused) if kept else config  # type: ignore[return-value]

    @classmethod
    def _with_overrides(cls, config_dict: dict[str, Any], kwargs: dict[str, Any]) -> tuple[Self, dict[str, Any]]:
        for key in ("_from_auto", "_from_pipeline"):
            kwargs.pop(key, None)
        if "torch_dtype" in kwargs:
            kwargs.setdefault("dtype", kwargs.pop("torch_dtype"))
            kwargs.pop("torch_dtype", None)
        values = copy.deepcopy(config_dict)
        if "attn_implementation" in kwargs:
            values["attn_implementation"] = kwargs.pop("attn_implementation")
        if "_commit_hash" in values:
            kwargs.pop("_commit_hash", None)
        count, labels = kwargs.get("num_labels"), kwargs.get("id2label")
        if count is not None and labels is not None and count != len(labels):
            raise ConfigError(f"`num_labels` must be the number of labels, {len(labels)}, got {count}. Pass only one.")
        config = cls(**values)
        overrides = {key: kwargs[key] for key in kwargs if hasattr(config, key)}
        config.update(overrides)
        return config, {key: value for key, value in kwargs.items() if key not in overrides or key == "dtype"}

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Self:
        """A config with the values of this file.

        Raises:
            CheckpointError: the file is no JSON object.
        """
        return cls(**read_json(Path(json_file)))

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Writes config.json into a folder, or leaves the folder as it was.

        Args:
            save_directory: made if it is not there.
            push_to_hub: upload it too, to the repository of the folder's name.
            **kwargs: for the upload: `repo_id`, `token`, `private`, `commit_message`, ...
        """
        write_folder_atomically(save_directory, lambda folder: self.to_json_file(folder / CONFIG_NAME))
        if push_to_hub:
            self._push_saved(Path(save_directory), [Path(save_directory) / CONFIG_NAME], kwargs)

    def to_dict(self) -> dict[str, Any]:
        """All keys and their values, as JSON can hold them; a copy."""
        found = {key: copy.deepcopy(value) for key, value in vars(self).items() if key not in _NEVER_SAVED}
        found["model_type"] = self.model_type
        # Differs from transformers 4.57.6: the version is that of the file that was read, as we are not transformers.
        if found.get("transformers_version") is None:
            found.pop("transformers_version", None)
        return found

    def to_diff_dict(self) -> dict[str, Any]:
        """The keys that a reader needs: those that differ from the defaults of every config or of this class."""
        general, own = PretrainedConfig().to_dict(), type(self)().to_dict()
        return {
            key: value
            for key, value in self.to_dict().items()
            if key != "_name_or_path" and (key not in general or value != general[key] or value != own.get(key, value))
        }

    def to_json_string(self, use_diff: bool = True) -> str:
        """The text of a config.json.

        Args:
            use_diff: leave out what `to_diff_dict` leaves out.
        """
        return json.dumps(self.to_diff_dict() if use_diff else self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Writes the text of a config.json to this file.

        Args:
            json_file_path: the file.
            use_diff: leave out what `to_diff_dict` leaves out.
        """
        Path(json_file_path).write_text(self.to_json_string(use_diff=use_diff), encoding="utf-8")

    def update(self, config_dict: dict[str, Any]) -> None:
        """Sets these keys; a key that was unknown becomes one of the config."""
        for key, value in config_dict.items():
            setattr(self, key, value)

    def update_from_string(self, update_str: str) -> None:
        """Sets keys from text such as "dropout=0.2,use_cache=false"; each takes the type that it has already.

        Raises:
            ConfigError: a key that the config lacks, or text that is no value of its type.
            TypeError: a key that holds neither a number, a bool nor a string.
        """
        values = {}
        for part in update_str.split(","):
            key, _, word = part.partition("=")
            if not hasattr(self, key):
                raise ConfigError(f"`{key}` must be a key of the config, got {part!r}. Check the spelling.")
            values[key] = like(key, getattr(self, key), word)
        self.update(values)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PretrainedConfig:
        """This config, or with one of the arguments a copy that describes only that half, without prefixed keys.

        Args:
            decoder: of the half that writes text: `decoder_layers` becomes `num_hidden_layers`, and so on.
            encoder: of the half that reads text.
        """
        if bool(decoder) == bool(encoder) or not self.is_encoder_decoder:
            return self
        half = copy.deepcopy(self)
        keep, drop = ("decoder_", "encoder_") if decoder else ("encoder_", "decoder_")
        renamed = {"layers": "num_hidden_layers", "attention_heads": "num_attention_heads"}
        values = {key[len(keep) :]: value for key, value in vars(self).items() if key.startswith(keep)}
        mapped = set(type(self).attribute_map.values())
        for key in [key for key in vars(half) if key.startswith(keep) or (key.startswith(drop) and key not in mapped)]:
            delattr(half, key)
        half.update({renamed.get(key, key): value for key, value in values.items()})
        return half

    # Differs from transformers 4.57.6: where a config came from is no part of equality, so a reloaded one is equal.
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PretrainedConfig):
            return NotImplemented
        return type(self) is type(other) and self._compared() == other._compared()

    __hash__ = None  # type: ignore[assignment]  # a config can change

    def _compared(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in _NOT_COMPARED}

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    def __iter__(self) -> Iterator[str]:
        yield from vars(self)
