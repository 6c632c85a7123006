"""`from_pretrained` and `save_pretrained`, once for all frameworks: name, files, fitted weights, model; and back."""

from __future__ import annotations

import copy
import gc
import inspect
import logging
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import CheckpointError, ConfigError, InputError
from .checkpoints import (
    FORMATS,
    OWN_FORMAT,
    canonical_name,
    file_name,
    is_weight_file,
    open_checkpoint,
    unwrapped,
    write_checkpoint,
)
from .hub import PushToHubMixin, Repository, write_folder_atomically
from .parameters import parameters
from .storage.fitting import Fit, fit, misfit
from .storage.load_options import Choices, check_refused, resolve_device, resolve_dtype
from .storage.stored import DTYPE_NAMES, Stored, as_float32, read_ahead
from .storage.weight_files import Asked, find_weights

if TYPE_CHECKING:
    from .config import PretrainedConfig
    from .parameters import Head, Parameter

logger = logging.getLogger("seq2seq_models")

Match = Callable[["Sequence[Parameter]", Mapping[str, tuple[int, ...]]], Mapping[str, Stored]]
"""The stored weights by canonical name, for a model's parameters of the architecture and the shapes of its others."""

_ROUNDING = 2.0**-8
"""As far as a bfloat16 table may be from the sinusoids it was rounded from."""


class PretrainedModelMixin(PushToHubMixin):
    """Loading and saving. A framework's model base says how to build a model from weights and how to list them."""

    config_class: ClassVar[type[PretrainedConfig]]
    head: ClassVar[Head | None] = None
    """Which of the architecture's models a class is; None for a user's own class over a family's base."""

    framework: ClassVar[str]
    config: PretrainedConfig
    generation_config: Any

    @classmethod
    def _build(
        cls,
        config: PretrainedConfig,
        match: Match,
        *,
        dtype: str | None,
        device: Any,
        attn_implementation: str | None,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """A model with the weights that `match` finds for it; those that are absent are computed or initialised.

        Args:
            config: of the model.
            match: asked once, with the parameters of the architecture that the model has, and the shapes of the
                weights of its other modules.
            dtype: of the weights; None is the framework's default.
            device: for the whole model, in the framework's words.
            attn_implementation: how attention is computed.
            args, kwargs: further arguments of a user's constructor.
        """
        raise NotImplementedError

    def _weights(self) -> Iterator[Stored]:
        """The weights under their canonical names, tied ones once."""
        raise NotImplementedError

    def _own_names(self) -> set[str]:
        """The canonical names of the weights of a user's own modules, for formats that must know them."""
        return set()

    @classmethod
    def _stored(cls, state_dict: Mapping[str, Any]) -> list[Stored]:
        """The tensors of a state dict of this framework, under its own names."""
        raise NotImplementedError

    @classmethod
    def _own_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Keywords of `from_pretrained` that only this framework has, taken out of `options`; `_build` gets them.

        What it takes is looked at by nobody else: a framework for which `dtype` is the dtype of computation takes that.
        """
        return {}

    @classmethod
    def _result(cls, model: Any, own: Mapping[str, Any]) -> Any:
        """What `from_pretrained` gives back in the model's place, once it is complete."""
        return model

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | Repository | None,
        *model_args: Any,
        config: PretrainedConfig | str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        ignore_mismatched_sizes: bool = False,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str = "main",
        use_safetensors: bool | None = None,
        weights_only: bool = True,
        **kwargs: Any,
    ) -> Any:
        """A model with the weights of a hub repository or folder, in evaluation mode.

        Args:
            pretrained_model_name_or_path: "owner/name" on the hub, or a folder; None with `config` and `state_dict`.
            *model_args: for the constructor of a class of your own, after the config.
            config: a config, or where to read it from; by default the repository's config.json.
            cache_dir: the hub cache to use.
            ignore_mismatched_sizes: load what fits and initialise the rest, instead of raising.
            force_download: fetch again what is cached.
            local_files_only: never use the network.
            token: for private and gated repositories.
            revision: branch, tag or commit.
            use_safetensors: True reads nothing else, False reads the other formats; None prefers safetensors, then the
                framework's own format.
            weights_only: must be True: no file is opened in a way that could run code.
            **kwargs: `from_pt`, `from_tf` or `from_flax` (True reads that framework's files only); `subfolder`;
                `variant` ("fp16": model.fp16.safetensors); `dtype` or `torch_dtype` (a dtype, its name,
                or "auto" for the checkpoint's own; float32 by default); `device_map` ("auto", a device, or
                {"": device}: the whole model goes there); `attn_implementation`; `state_dict`; `generation_config`;
                `output_loading_info` (then the result is the model and a dict of missing_keys, unexpected_keys,
                mismatched_keys and error_msgs). Any other keyword must be a key of the config, and overrides it, or an
                argument of the constructor of a class of your own.

        Raises:
            CheckpointNotFoundError: no such repository, folder or file, or the hub cannot be reached.
            CheckpointError: the files are damaged, or do not fit this class; the message names all that is wrong.
            ConfigError: config.json is of another family, or no model can be built from it.
            MissingFrameworkError: the only weights are .bin without torch, or .h5 without h5py.
        """
        options = dict(kwargs)
        if options.get("token") is None and token is not None:
            options["token"] = token
        options.update(revision=revision, cache_dir=cache_dir)
        options.update(force_download=force_download, local_files_only=local_files_only)
        takes = _constructor(cls)
        check_refused(cls.__name__, model_args if takes is None else (), options, weights_only)
        own = cls._own_options(options)
        asked = Asked.from_options(cls.framework, options, use_safetensors)
        choices = Choices(options)
        repository = _repository(pretrained_model_name_or_path, choices.state_dict, options)
        config, model_kwargs = _config(cls, config, repository, options, takes)
        files = None if repository is None else find_weights(repository, asked, choices.variant)
        with _collector_paused():
            if files is None:
                stored, where = open_state_dict(cls._stored(choices.state_dict or {})), "the state dict"
            else:
                stored, where = open_checkpoint(files.paths, files.index), str(files.chosen)
            named = ((canonical_name(name, cls.head), tensor) for name, tensor in stored.items())
            stored = {name: tensor.renamed(name) for name, tensor in named if name is not None}
            fitted = Fit()

            def match(wanted: Sequence[Parameter], own: Mapping[str, tuple[int, ...]]) -> Mapping[str, Stored]:
                nonlocal fitted
                fitted = fit(stored, config, wanted, own)
                _judge(fitted, stored, cls.__name__, config, where, ignore_mismatched_sizes)
                if cls.framework != "pt":
                    _tell_of_unused_tables(fitted, config, cls.__name__, where)
                read_ahead({weight.file for weight in fitted.weights.values() if weight.file})
                return fitted.weights

            dtype = resolve_dtype(choices.dtype, config, stored)
            config.dtype = dtype or "float32"
            device = resolve_device(choices.device_map)
            attention = choices.attn_implementation
            extra: dict[str, Any] = {"own": own} if own else {}
            if takes is not None:
                extra |= {"args": model_args, "kwargs": model_kwargs}
            model = cls._build(config, match, dtype=dtype, device=device, attn_implementation=attention, **extra)
        if repository is not None:
            config.name_or_path = model.name_or_path = repository.name
        if cls._has_generation():
            model.generation_config = _generation_config(repository, config, choices.generation_config)
        result = cls._result(model, own)
        return (result, _loading_info(fitted, cls.head)) if choices.output_loading_info else result

    @classmethod
    def _has_generation(cls) -> bool:
        return bool(cls.can_generate()) if hasattr(cls, "can_generate") else cls.head != "base"

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: Mapping[str, Any] | None = None,
        save_function: Callable[..., Any] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
        variant: str | None = None,
        token: str | bool | None = None,
        save_peft_format: bool = True,
        **kwargs: Any,
    ) -> None:
        """Writes config.json, generation_config.json and the weights into a folder, or leaves the folder as it was.

        Args:
            save_directory: made if it is not there; weights of an earlier save in the same format are replaced.
            is_main_process: False writes nothing, for all processes but one of a distributed run.
            state_dict: weights to write instead of the model's own, by name.
            save_function: for PyTorch's format, what to call instead of `torch.save`.
            push_to_hub: upload what was written, to `repo_id` or the repository of the folder's name.
            max_shard_size: largest size of one file ("5GB", or bytes); more go into shards with an index.
            safe_serialization: safetensors; False writes the framework's own format, pytorch_model.bin, tf_model.h5 or
                flax_model.msgpack.
            variant: goes into the file names, "fp16": model.fp16.safetensors.
            token: for the upload.
            save_peft_format: has no effect.
            **kwargs: for the upload: `repo_id`, `private`, `commit_message`, `revision`, `create_pr`, ...
        Raises:
            CheckpointError: `save_directory` is a file, or `max_shard_size` is no size.
            MissingFrameworkError: tf_model.h5 is to be written, and h5py is not installed.
        """
        if not is_main_process:  # Differs from transformers 4.57.6: it writes the weights from every process.
            return
        weights = list(self._weights()) if state_dict is None else self._stored(state_dict)
        form = "safetensors" if safe_serialization else OWN_FORMAT[self.framework]
        tensors = FORMATS[form].named(weights, self.config, self.head, self._own_names())
        config = copy.deepcopy(self.config)
        config.architectures = [type(self).__name__.removeprefix("TF").removeprefix("Flax")]
        config.dtype = next((DTYPE_NAMES[w.dtype] for w in weights if w.is_floating), config.dtype)

        def write(folder: Path) -> None:
            config.save_pretrained(folder)
            generation_config = getattr(self, "generation_config", None)
            if self._has_generation() and generation_config is not None:
                generation_config.save_pretrained(folder)
            write_checkpoint(
                folder,
                tensors,
                form=form,
                max_shard_size=max_shard_size,
                variant=variant,
                save_function=save_function,
            )

        def stale(name: str) -> bool:
            return is_weight_file(name, form=form, variant=variant)

        written = write_folder_atomically(save_directory, write, stale=stale)
        if push_to_hub:
            self._push_saved(Path(save_directory), written, {"token": token, **kwargs})


def check_multiple(pad_to_multiple_of: Any) -> None:
    """Raise unless the argument of `resize_token_embeddings` is a whole number of at least 1."""
    if not isinstance(pad_to_multiple_of, int) or isinstance(pad_to_multiple_of, bool) or pad_to_multiple_of < 1:
        raise InputError(
            f"`pad_to_multiple_of` must be a whole number of at least 1, got {pad_to_multiple_of!r}. Give one, or None."
        )


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Building a model makes many objects and no garbage; a full collection in the middle costs as much as the load."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _repository(
    name: str | os.PathLike[str] | Repository | None, state_dict: Mapping[str, Any] | None, options: dict[str, Any]
) -> Repository | None:
    """Where the weights come from; None if a state dict stands in."""
    if name is not None and state_dict is not None:
        raise CheckpointError("`state_dict` must be None when a name or folder is given. Pass only one of them.")
    if name is not None:
        return Repository.from_options(name, options)
    if state_dict is None:
        raise CheckpointError(
            "`pretrained_model_name_or_path` must be a name or folder, got None. "
            "Without one, pass `config` and `state_dict`."
        )
    return None


def _config(
    cls: type[PretrainedModelMixin],
    given: PretrainedConfig | str | os.PathLike[str] | None,
    repository: Repository | None,
    options: dict[str, Any],
    takes: Container[str] | None,
) -> tuple[PretrainedConfig, dict[str, Any]]:
    """The config to build with: read, or a copy of the given one, with the remaining keywords set on it.

    Those that are no keys of the config but are taken by a user's constructor come back apart.
    """
    from .config import PretrainedConfig, config_of

    if isinstance(given, PretrainedConfig):
        config = copy.deepcopy(given)
    elif given is not None or repository is not None:
        source: Any = given if given is not None else repository
        # An encoder or decoder is of either family.
        read = cls.config_class.from_pretrained if cls.config_class.model_type else config_of
        config = read(source, **_reach(repository, given))
    else:
        raise ConfigError("`config` must be given when no name or folder is, got None. Pass one.")
    others = [key for key in options if not hasattr(config, key) and key not in _REPOSITORY_KEYS]
    own = {key: options.pop(key) for key in others if takes is not None and key in takes}
    unknown = sorted(set(others) - set(own))
    if unknown:
        raise ConfigError(
            f"A keyword of {cls.__name__}.from_pretrained must be one of its own or a key of {type(config).__name__}, "
            f"got {', '.join(unknown)}. Check the spelling."
        )
    config.update({key: value for key, value in options.items() if key not in _REPOSITORY_KEYS})
    return config, own


class _Anything:
    """Contains every name."""

    def __contains__(self, name: object) -> bool:
        return True


def _constructor(cls: type) -> Container[str] | None:
    """The names that the constructor of a user's own class takes; None for the constructors of this library."""
    function: Any = cls.__init__  # type: ignore[misc]  # looked at, not called
    if getattr(function, "__module__", "").split(".")[0] == __name__.split(".")[0]:
        return None
    takes = inspect.signature(function).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in takes):
        return _Anything()
    return {one.name for one in takes}


_REPOSITORY_KEYS = (
    "revision",
    "subfolder",
    "token",
    "cache_dir",
    "force_download",
    "local_files_only",
    "use_auth_token",
)


def _reach(repository: Repository | None, given: object) -> dict[str, Any]:
    """How to reach a config that is named apart from the weights: as the weights are reached."""
    if repository is None or given is None:
        return {}
    names = ("token", "cache_dir", "force_download", "local_files_only")
    return {name: getattr(repository, name) for name in names}


def open_state_dict(tensors: list[Stored]) -> Mapping[str, Stored]:
    """The tensors of a state dict by canonical name."""
    named = [(canonical_name(tensor.name), tensor) for tensor in unwrapped(tensors, "the state dict")]
    return {name: tensor.renamed(name) for name, tensor in named if name is not None}


def _judge(
    fitted: Fit, stored: Mapping[str, Stored], name: str, config: PretrainedConfig, where: str, lenient: bool
) -> None:
    """Raises for what does not fit, or logs it if that was asked for; tells of new heads and recomputed tables."""
    if not fitted.is_clean:
        text = misfit(fitted, stored, name, config, where)
        if not lenient or not fitted.weights:
            raise CheckpointError(text)
        logger.warning("%s", text.partition(" Check that config.json")[0] + " Missing ones are newly initialised.")
    if fitted.additional:
        logger.warning(
            "%s: %s belongs to modules that %s has not got, and is left out", where, ", ".join(fitted.additional), name
        )
    if fitted.new:
        logger.warning("%s: %s is new in %s and has to be trained", where, ", ".join(fitted.new), name)
    if fitted.recomputed:
        tables = ", ".join(fitted.recomputed)
        logger.info("%s: %s computed for %d positions", where, tables, config.max_position_embeddings)


def _tell_of_unused_tables(fitted: Fit, config: PretrainedConfig, name: str, where: str) -> None:
    """Logs the position tables of a file that differ from those that a framework without such weights computes."""
    import numpy as np

    from .positions import sinusoidal_table

    tables = {parameter.name for parameter in parameters(config) if parameter.kind == "table" and parameter.optional}
    odd = []
    for table in sorted(tables & set(fitted.weights)):
        values = as_float32(fitted.weights[table])
        if np.abs(values - sinusoidal_table(*values.shape)).max() > _ROUNDING:
            odd.append(table)
    if odd:
        logger.warning(
            "%s: %s differs from the sinusoids that %s computes, and is not used: only the PyTorch classes use it. "
            "Expect other results than theirs.",
            where,
            ", ".join(odd),
            name,
        )


def _loading_info(fitted: Fit, head: Head | None) -> dict[str, Any]:
    """The names as the loaded class has them."""

    def named(names: list[str]) -> list[str]:
        return sorted(file_name(name, head) for name in names)

    return {
        "missing_keys": named(fitted.missing + fitted.new),
        "unexpected_keys": named(fitted.unexpected + fitted.additional),
        "mismatched_keys": [(file_name(name, head), *shapes) for name, *shapes in fitted.mismatched],
        "error_msgs": [],
    }


def _generation_config(repository: Repository | None, config: PretrainedConfig, given: Any) -> Any:
    """The given one, that of generation_config.json, or the older keys of config.json."""
    from .generation_config import GenerationConfig

    if given is not None and not isinstance(given, str | os.PathLike):
        return given
    if given is not None:
        return GenerationConfig.from_pretrained(given)
    if repository is not None and repository.find("generation_config.json") is not None:
        return GenerationConfig.from_pretrained(repository)
    return GenerationConfig.from_model_config(config)
