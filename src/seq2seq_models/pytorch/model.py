"""PreTrainedModel: what every PyTorch model of this library can do besides its forward pass."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..core.checkpoints import Stored
from ..core.config import PretrainedConfig
from ..core.generation_config import GenerationConfig
from ..core.pretrained import Match, PretrainedModelMixin, check_multiple
from ..core.storage.load_options import resolve_dtype
from ..errors import CheckpointError, ConfigError, InputError, MissingFrameworkError
from . import weights
from .attention import Attention
from .layers import PositionEmbedding, TokenEmbedding
from .quantization import Int8Linear, check_kind, quantize

ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager", "flash_attention_2")

_builds_inner_model: ContextVar[bool] = ContextVar("builds_inner_model", default=False)
_is_loading: ContextVar[bool] = ContextVar("is_loading", default=False)


class _SkipInit(TorchFunctionMode):
    """Leaves memory as it is where a module would fill it with PyTorch's own defaults, which we overwrite anyway."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def uninitialised() -> Iterator[None]:
    """Modules made in here hold no values yet; the model around them initialises or loads them once."""
    token = _builds_inner_model.set(True)
    try:
        with _SkipInit(), torch.device("meta") if _is_loading.get() else nullcontext():
            yield
    finally:
        _builds_inner_model.reset(token)


@contextmanager
def _loading() -> Iterator[None]:
    """Models made in here are to be loaded: what is `uninitialised` takes no memory. A user's own modules are real."""
    token = _is_loading.set(True)
    try:
        yield
    finally:
        _is_loading.reset(token)


class PreTrainedModel(PretrainedModelMixin, nn.Module):
    """Base of all PyTorch models: loading and saving, embeddings, initialisation, gradient checkpointing.

    Args:
        config: the model's configuration.

    Raises:
        ConfigError: if no model can be built from `config`; the message names every fault.
    """

    config_class: ClassVar[type[PretrainedConfig]]
    base_model_prefix: ClassVar[str] = "model"
    main_input_name: ClassVar[str] = "input_ids"
    framework: ClassVar[str] = "pt"
    supports_gradient_checkpointing: ClassVar[bool] = True
    is_stack: ClassVar[bool] = False
    """Whether this is an encoder or a decoder."""
    _given: ClassVar[nn.Module | None] = None
    """A module that was handed to the constructor, and is not to be drawn anew."""
    _tied_weights_keys: ClassVar[list[str]] = []
    _keys_to_ignore_on_save: ClassVar[list[str] | None] = None
    """Looked up by transformers' Trainer after it has loaded a checkpoint."""

    def __init__(self, config: PretrainedConfig, *_: Any, **__: Any) -> None:
        super().__init__()
        if not isinstance(config, self.config_class):
            raise ConfigError(
                f"`config` of {type(self).__name__} must be a {self.config_class.__name__}, "
                f"got {type(config).__name__}. Load a model with from_pretrained."
            )
        if not _builds_inner_model.get():
            config.validate()
        self.config = config
        self.vocab_size = getattr(config, "vocab_size", None)
        self.name_or_path = config.name_or_path
        if self.can_generate():
            self.generation_config = GenerationConfig.from_model_config(config)
        self.warnings_issued: dict[str, bool] = {}

    # ---- building

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
        own: Mapping[str, Any] | None = None,
    ) -> PreTrainedModel:
        """A model in evaluation mode holding the stored weights; nothing is initialised that is loaded."""
        if attn_implementation is not None:
            config._attn_implementation = attn_implementation
        place = weights.resolve_device(device)
        with _loading(), place:
            model = cls(config, *args, **(kwargs or {}))
        model._apply_attn_implementation()
        weights.assign(model, match, dtype=dtype, device=place)
        if own is not None:
            quantize(model)
        return model.eval()

    @classmethod
    def _from_config(
        cls,
        config: PretrainedConfig,
        *,
        dtype: Any = None,
        torch_dtype: Any = None,
        attn_implementation: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """A model with weights drawn at random.

        Args:
            config: of the model; it is copied.
            dtype, torch_dtype: of the weights, a dtype or its name; float32 by default.
            attn_implementation: as for `from_pretrained`.
            **kwargs: for the constructor of a class of your own.
        """
        config = copy.deepcopy(config)
        if attn_implementation is not None:
            config._attn_implementation = attn_implementation
        name = resolve_dtype(torch_dtype if dtype is None else dtype, config, {})
        config.dtype = name or "float32"
        model = cls(config, **kwargs)
        return model if name is None else model.to(getattr(torch, name))

    @classmethod
    def _own_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        """`quantization`: "int8" rounds the weights of all linear layers, for inference on a CPU."""
        kind = options.pop("quantization", None)
        check_kind(kind)
        return {} if kind is None else {"quantization": kind}

    def _weights(self) -> Iterator[Stored]:
        if self.is_rounded:
            raise CheckpointError(
                "what is saved must be a model with its own weights, got one whose weights are rounded to int8 "
                "(save_pretrained). Save the model that it was loaded from."
            )
        return weights.extract(self)

    @classmethod
    def _stored(cls, state_dict: Mapping[str, Tensor]) -> list[Stored]:
        return weights.from_state_dict(state_dict)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """All weights and buffers by name, as of any module, but a shared one under its first name only.

        The token embedding is `model.shared.weight`, and neither `lm_head.weight` nor `embed_tokens.weight`, as long as
        these are the same parameter. So the result can be written by safetensors, which takes no tensor twice, and
        `load_state_dict` takes it with or without the other names.
        """
        # Differs from transformers 4.57.6: there a state dict has the token embedding under all its names.
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
        for names in weights.shared_names(self):
            for name in names[1:]:
                state.pop(prefix + name, None)
        return state

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        """What `load_state_dict` calls for this module before its parts, also where it is itself a part."""
        for names in weights.shared_names(self):
            keys = [prefix + name for name in names]
            weights.complete(state_dict, keys, keep_one=local_metadata.get("assign_to_params_buffers", False))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def post_init(self) -> None:
        """Initialise what was just built, once, by the outermost model."""
        if not _builds_inner_model.get() and not _is_loading.get():
            self._apply_attn_implementation()
            self.init_weights()

    def init_weights(self) -> None:
        """Draw all weights anew: normal with the config's `init_std`, norms 1, biases and the pad row 0."""
        self.tie_weights()
        head, tied = self.get_output_embeddings(), self.config.tie_word_embeddings
        for module in self.modules():
            # The head is drawn as the embedding it shares, whose pad row is zero; what was given is as it is.
            if not (tied and module is head) and module is not self._given:
                self._init_weights(module)

    def _init_weights(self, module: nn.Module) -> None:
        with torch.no_grad():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0.0, self.config.init_std)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, PositionEmbedding) and module.is_computed:
                module.fill()
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(0.0, self.config.init_std)
                if module.padding_idx is not None:
                    module.weight[module.padding_idx].zero_()
            elif isinstance(module, nn.LayerNorm):
                module.weight.fill_(1.0)
                module.bias.zero_()

    def _init_missing(self, names: Iterable[str]) -> None:
        """Initialise the modules that hold these parameters or buffers (names as in `state_dict`)."""
        for owner in sorted({name.rpartition(".")[0] for name in names}):
            self._init_weights(self.get_submodule(owner))

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the model has a head to generate with."""
        return hasattr(cls, "generate")

    # ---- what and where

    @property
    def base_model(self) -> nn.Module:
        """The model without its head; itself if it has none."""
        inner = getattr(self, self.base_model_prefix, self)
        return inner if isinstance(inner, nn.Module) else self

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return next(self.parameters()).dtype

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """A small valid input: two rows, one of them padded."""
        pad = self.config.pad_token_id or 0
        ids = torch.tensor([[0, 6, 10, 4, 2], [0, 8, 12, 2, pad]], device=self.device) % self.config.vocab_size
        mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]], device=self.device)
        return {"attention_mask": mask, "input_ids": ids, "decoder_input_ids": ids}

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Number of weights, tied ones counted once."""
        excluded = set()
        if exclude_embeddings:
            excluded = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)}
        return sum(
            p.numel() for p in self.parameters() if id(p) not in excluded and (p.requires_grad or not only_trainable)
        )

    def floating_point_ops(self, input_dict: Mapping[str, Any], exclude_embeddings: bool = True) -> int:
        """About how many operations a training step takes: 6 per token and weight (Kaplan et al. 2020, section 2.1).

        Args:
            input_dict: the model's inputs; the source's tokens count, padding included, and the target's do not.
            exclude_embeddings: leave out the weights of embeddings, which are looked up.
        """
        return 6 * int(input_dict[self.main_input_name].numel()) * self.num_parameters(False, exclude_embeddings)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the parameters and, by default, the buffers."""
        held = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    # ---- attention

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Choose how attention is computed: "sdpa" (fused, the default), "eager" or "flash_attention_2".

        Attention weights and head masks are always computed by the eager formula, whatever is chosen here.

        Raises:
            MissingFrameworkError: for "flash_attention_2" without the flash-attn package.
        """
        self.config._attn_implementation = attn_implementation
        self._apply_attn_implementation()

    def _apply_attn_implementation(self) -> None:
        chosen = getattr(self.config, "_attn_implementation", None) or "sdpa"
        if chosen not in ATTENTION_IMPLEMENTATIONS:
            allowed = ", ".join(map(repr, ATTENTION_IMPLEMENTATIONS))
            raise ConfigError(f"`attn_implementation` must be one of {allowed}, got {chosen!r}.")
        if chosen == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
            raise MissingFrameworkError(
                "`attn_implementation='flash_attention_2'` needs the flash-attn package and a GPU it supports. "
                "Install flash-attn, or use 'sdpa', which takes PyTorch's own flash kernel where it can."
            )
        self.config._attn_implementation = chosen
        for module in self.modules():
            if isinstance(module, Attention):
                module.implementation = chosen

    # ---- embeddings

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embedding."""
        raise NotImplementedError

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Put another token embedding in place of this one, wherever it is shared."""
        raise NotImplementedError

    def get_output_embeddings(self) -> nn.Linear | None:
        """The language-modelling head, or None."""
        return getattr(self, "lm_head", None)

    @property
    def is_rounded(self) -> bool:
        """Whether the linear layers hold integers: `from_pretrained(..., quantization="int8")`."""
        return any(isinstance(module, Int8Linear) for module in self.modules())

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Put another language-modelling head in place of this one."""
        self.lm_head = new_embeddings

    def tie_weights(self) -> None:
        """Make the head share the token embedding's weight, if the config ties them."""
        head = self.get_output_embeddings()
        if head is not None and self.config.tie_word_embeddings and not self.is_rounded:
            head.weight = self.get_input_embeddings().weight

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Give the vocabulary this many words; returns the new token embedding [V, D].

        Old rows are kept. New rows are drawn around the mean of the old ones with a billionth of their covariance, so
        that a new word begins as an average word (Hewitt 2021), or with the config's `init_std` if not
        `mean_resizing`. The head's bias is extended with zeros.

        Args:
            new_num_tokens: the new number of words; None keeps it (but rounds up, see next).
            pad_to_multiple_of: round the number up to a multiple of this.
            mean_resizing: how new rows are drawn.
        """
        old = self.get_input_embeddings()
        size = old.num_embeddings if new_num_tokens is None else new_num_tokens
        if pad_to_multiple_of is not None:
            check_multiple(pad_to_multiple_of)
            size = -(-size // pad_to_multiple_of) * pad_to_multiple_of
        if size < 1:
            raise InputError(f"`new_num_tokens` must be at least 1, got {size}.")
        if size == old.num_embeddings:
            return old
        head = self.get_output_embeddings()
        if self.is_rounded:
            raise ConfigError(
                "the vocabulary must be resized before the weights are rounded to int8 (resize_token_embeddings). Load "
                "without `quantization`, resize, save, and load what was saved with it."
            )
        is_tied = head is not None and head.weight is old.weight
        pad = old.padding_idx if old.padding_idx is not None and old.padding_idx < size else None
        new = TokenEmbedding(size, old.embedding_dim, pad, _weight=self._resized(old.weight, size, mean_resizing))
        new.weight.requires_grad_(old.weight.requires_grad)
        self.set_input_embeddings(new)
        if head is not None:
            weight = new.weight if is_tied else nn.Parameter(self._resized(head.weight, size, mean_resizing))
            head.weight, head.out_features = weight, size
        self.config.vocab_size = size
        for module in self.modules():
            if isinstance(module, PreTrainedModel):
                module.vocab_size = size
        self._resize_head(size)
        return new

    def _resized(self, weight: Tensor, size: int, from_mean: bool) -> Tensor:
        with torch.no_grad():
            new = weight.new_empty(size, weight.shape[1])
            kept = min(size, weight.shape[0])
            new[:kept] = weight[:kept]
            if size > kept and from_mean:
                old = weight.float()
                mean = old.mean(0)
                noise = torch.randn(size - kept, kept, device=old.device) @ (old - mean) * (1e-9 / kept) ** 0.5
                new[kept:] = (mean + noise).to(new.dtype)
            elif size > kept:
                new[kept:].normal_(0.0, self.config.init_std)
            return new

    def _resize_head(self, size: int) -> None:
        """For a head with a bias: extend or cut it."""

    def _stacks(self) -> list[Any]:
        return [module for module in self.modules() if getattr(module, "is_stack", False)]

    def get_position_embeddings(self) -> PositionEmbedding | tuple[PositionEmbedding, ...]:
        """The position tables: of encoder and decoder, or the decoder's alone where there is no encoder."""
        tables = tuple(stack.embed_positions for stack in self._stacks())
        return tables if len(tables) > 1 else tables[0]

    def resize_position_embeddings(self, new_num_position_embeddings: int) -> None:
        """Make room for this many positions, in encoder and decoder and in the config.

        Pegasus' sinusoids are extended exactly. BlenderbotSmall keeps its learned rows and draws new ones, which mean
        nothing before they are trained.
        """
        if new_num_position_embeddings < 1:
            raise InputError(f"`new_num_position_embeddings` must be at least 1, got {new_num_position_embeddings}.")
        self.config.max_position_embeddings = new_num_position_embeddings
        for stack in self._stacks():
            stack.resize_position_embeddings(new_num_position_embeddings)

    def prune_heads(self, heads_to_prune: dict[int, list[int]]) -> None:
        """Not offered for these families, as upstream: a pruned model no longer fits its checkpoint format."""
        raise NotImplementedError(
            f"prune_heads is not possible for {type(self).__name__}: checkpoints hold square projections only. "
            "Mask heads with `head_mask`, `decoder_head_mask` and `cross_attn_head_mask` instead."
        )

    # ---- training

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether layers recompute their activations in the backward pass."""
        return any(stack.gradient_checkpointing for stack in self._stacks())

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Trade time for memory while training: keep only each layer's input. `generate` is not affected.

        Args:
            gradient_checkpointing_kwargs: passed to `torch.utils.checkpoint.checkpoint`; by default
                `{"use_reentrant": False}`.
        """
        options = {"use_reentrant": False, **(gradient_checkpointing_kwargs or {})}
        for stack in self._stacks():
            stack.gradient_checkpointing, stack.gradient_checkpointing_options = True, options
            stack.checkpoint_every, stack.first_checkpointed = 1, 0
        if options["use_reentrant"]:
            self.enable_input_require_grads()  # else nothing in a re-entrant segment would seem to need gradients

    def gradient_checkpointing_disable(self) -> None:
        """Keep all activations again."""
        for stack in self._stacks():
            stack.gradient_checkpointing = False
        self.disable_input_require_grads()

    # What transformers 5 calls the same.

    @property
    def is_activation_checkpointing(self) -> bool:
        """`is_gradient_checkpointing`."""
        return self.is_gradient_checkpointing

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """`gradient_checkpointing_enable`, for every n-th layer, counted from the encoder's first.

        Args:
            activation_checkpointing_kwargs: passed to `torch.utils.checkpoint.checkpoint`.
            every_n_layers: 1 checkpoints every layer.
            offload: must be False: inputs of layers stay on their device.

        Raises:
            ConfigError: `offload` is set, or `every_n_layers` is less than 1.
        """
        if offload:
            raise ConfigError(
                "`offload` must be False, got True: the inputs of layers stay on their device. Leave it out."
            )
        if every_n_layers < 1:
            raise ConfigError(f"`every_n_layers` must be at least 1, got {every_n_layers}.")
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs)
        first = 0
        for stack in self._stacks():
            stack.checkpoint_every, stack.first_checkpointed = every_n_layers, -first % every_n_layers
            first += len(stack.layers)

    def activation_checkpointing_disable(self) -> None:
        """`gradient_checkpointing_disable`."""
        self.gradient_checkpointing_disable()

    def enable_input_require_grads(self) -> None:
        """Make the embeddings' output require gradients, for training adapters on a frozen model."""
        self.disable_input_require_grads()
        self._require_grads_hook = self.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output: output.requires_grad_(True)
        )

    def disable_input_require_grads(self) -> None:
        """Undo `enable_input_require_grads`."""
        hook = self.__dict__.pop("_require_grads_hook", None)
        if hook is not None:
            hook.remove()
