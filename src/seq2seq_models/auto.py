"""Auto classes: the class that fits a checkpoint, chosen by its `model_type`."""

from __future__ import annotations

from typing import Any, ClassVar

from .core.config import CONFIG_CLASSES, PretrainedConfig, Seq2SeqConfig, config_class, config_of
from .core.hub import Repository
from .errors import ConfigError


class _Auto:
    """Base of the auto classes: never made itself, only asked for one that fits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError(f"{type(self).__name__} is made with from_pretrained (or from_config), not by calling it.")


class AutoConfig(_Auto):
    """The config class that fits a checkpoint."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """The config of a checkpoint: a `PegasusConfig` or a `BlenderbotSmallConfig`.

        Args:
            pretrained_model_name_or_path: a repository's name or a folder.
            **kwargs: where to find it (`revision`, `token`, `cache_dir`, …) and overrides, as for
                `PretrainedConfig.from_pretrained`.

        Raises:
            ConfigError: if the checkpoint belongs to neither family.
            CheckpointNotFoundError: if there is no such repository or config.json.
        """
        return config_of(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def for_model(cls, model_type: str, **kwargs: Any) -> Any:
        """A config of this `model_type` with these values."""
        return config_class(model_type)(**kwargs)

    @staticmethod
    def register(model_type: str, config: type[PretrainedConfig], exist_ok: bool = False) -> None:
        """Makes this config class the one of checkpoints with this `model_type`.

        Args:
            model_type: as in config.json, and as the class's own `model_type`.
            config: a subclass of `PegasusConfig` or `BlenderbotSmallConfig`.
            exist_ok: replace the class that is registered for it.

        Raises:
            ConfigError: the class is no such subclass or has another `model_type`, or the name is taken.
        """
        if not (isinstance(config, type) and issubclass(config, Seq2SeqConfig)):
            raise ConfigError(
                f"`config` must be a subclass of PegasusConfig or BlenderbotSmallConfig, got {config!r}. Derive it."
            )
        if config.model_type != model_type:
            raise ConfigError(
                f"`model_type` must be that of {config.__name__}, {config.model_type!r}, got {model_type!r}. "
                "Give both the same."
            )
        if model_type in CONFIG_CLASSES and not exist_ok:
            raise ConfigError(
                f"`model_type` must not be registered yet, got {model_type!r}. Choose another name, or pass "
                "exist_ok=True to replace it."
            )
        CONFIG_CLASSES[model_type] = config


class AutoTokenizer(_Auto):
    """The tokenizer class that fits a checkpoint."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *inputs: Any, **kwargs: Any) -> Any:
        """The tokenizer of a checkpoint: a `PegasusTokenizer` or a `BlenderbotSmallTokenizer`.

        Args:
            pretrained_model_name_or_path: a repository's name or a folder.
            *inputs: passed on to the tokenizer.
            **kwargs: where to find it and arguments of the tokenizer; `use_fast` is accepted, both are the same.

        Raises:
            TokenizerError: if the files make no tokenizer of either family.
            CheckpointNotFoundError: if there is no such repository.
        """
        from .core.tokenizing.tokenizer_class import tokenizer_class_for

        use_fast = kwargs.pop("use_fast", True)
        kwargs.pop("config", None)
        repository = Repository.from_options(pretrained_model_name_or_path, dict(kwargs))
        chosen = tokenizer_class_for(repository, use_fast=use_fast)
        return chosen.from_pretrained(pretrained_model_name_or_path, *inputs, **kwargs)


class _AutoModel(_Auto):
    """Base of the model auto classes."""

    _package: ClassVar[str]
    _prefix: ClassVar[str]
    _head: ClassVar[str]
    _registered: ClassVar[dict[tuple[type, type], Any]] = {}
    """The model class by auto class and config class."""

    @classmethod
    def register(cls, config_class: type[PretrainedConfig], model_class: Any, exist_ok: bool = False) -> None:
        """Makes this model class the one for configs of this class.

        Args:
            config_class: of the configs, as registered by `AutoConfig.register`.
            model_class: has it as its `config_class`.
            exist_ok: replace the class that is registered for it, or that of this library.

        Raises:
            ConfigError: the model has another `config_class`, or there is a class for it already.
        """
        if getattr(model_class, "config_class", None) is not config_class:
            raise ConfigError(
                f"`model_class` must have {config_class.__name__} as its `config_class`, got {model_class!r} with "
                f"{getattr(model_class, 'config_class', None)!r}. Set `config_class` in the class."
            )
        is_ours = config_class.__module__.startswith(f"{__package__}.")
        if not exist_ok and (is_ours or (cls, config_class) in cls._registered):
            raise ConfigError(
                f"`config_class` must not have a model in {cls.__name__} yet, got {config_class.__name__}. Register a "
                "config class of your own, or pass exist_ok=True to replace it."
            )
        cls._registered[cls, config_class] = model_class

    @classmethod
    def _class_for(cls, config: Any) -> Any:
        from importlib import import_module

        model_type = config.get("model_type") if isinstance(config, dict) else getattr(config, "model_type", None)
        kind = type(config) if isinstance(config, Seq2SeqConfig) else config_class(model_type)
        if (cls, kind) in cls._registered:
            return cls._registered[cls, kind]
        if not kind.__module__.startswith(f"{__package__}."):
            raise ConfigError(
                f"{cls.__name__} must know a model class for {kind.__name__}, got none. Register it: "
                f"{cls.__name__}.register({kind.__name__}, YourModel)."
            )
        family = kind.__name__.removesuffix("Config")
        name = f"{cls._prefix}{family}{cls._head}"
        return getattr(import_module(f"{__package__}.{cls._package}"), name)

    @classmethod
    def from_config(cls, config: PretrainedConfig, **kwargs: Any) -> Any:
        """A model with random weights for this config."""
        return cls._class_for(config)(config, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """The model of a checkpoint, of the class that fits its `model_type`.

        Args:
            pretrained_model_name_or_path: a repository's name or a folder.
            *model_args, **kwargs: as for the model class's own `from_pretrained`.

        Raises:
            ConfigError: if the checkpoint belongs to neither family.
            CheckpointNotFoundError: if there is no such repository or file.
        """
        config = kwargs.get("config")
        if not isinstance(config, PretrainedConfig):
            source = config if config is not None else pretrained_model_name_or_path
            repository = Repository.from_options(source, dict(kwargs))
            config, _ = PretrainedConfig.get_config_dict(repository)
        return cls._class_for(config).from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)


class AutoModel(_AutoModel):
    """The PyTorch base model that fits a checkpoint."""

    _package, _prefix, _head = "pytorch", "", "Model"


class AutoModelForSeq2SeqLM(_AutoModel):
    """The PyTorch conditional-generation model that fits a checkpoint."""

    _package, _prefix, _head = "pytorch", "", "ForConditionalGeneration"


class AutoModelForCausalLM(_AutoModel):
    """The PyTorch causal language model that fits a checkpoint."""

    _package, _prefix, _head = "pytorch", "", "ForCausalLM"


class TFAutoModel(_AutoModel):
    """The TensorFlow base model that fits a checkpoint."""

    _package, _prefix, _head = "tensorflow", "TF", "Model"


class TFAutoModelForSeq2SeqLM(_AutoModel):
    """The TensorFlow conditional-generation model that fits a checkpoint."""

    _package, _prefix, _head = "tensorflow", "TF", "ForConditionalGeneration"


class TFAutoModelForCausalLM(_AutoModel):
    """The TensorFlow causal language model that fits a checkpoint."""

    _package, _prefix, _head = "tensorflow", "TF", "ForCausalLM"


class FlaxAutoModel(_AutoModel):
    """The Flax base model that fits a checkpoint."""

    _package, _prefix, _head = "flax", "Flax", "Model"


class FlaxAutoModelForSeq2SeqLM(_AutoModel):
    """The Flax conditional-generation model that fits a checkpoint."""

    _package, _prefix, _head = "flax", "Flax", "ForConditionalGeneration"


class FlaxAutoModelForCausalLM(_AutoModel):
    """The Flax causal language model that fits a checkpoint."""

    _package, _prefix, _head = "flax", "Flax", "ForCausalLM"
