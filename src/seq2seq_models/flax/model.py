"""PreTrainedModel: an object that holds a linen module and its parameters, checks inputs and runs passes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from ..core import outputs as kinds
from ..core.config import PretrainedConfig
from ..core.generation_config import GenerationConfig
from ..core.outputs import ModelOutput
from ..errors import ConfigError, InputError
from . import weights
from .attention import mask_of
from .cache import entries, from_dict, to_dict
from .layers import check_positions, ids_of, seen_from_python
from .parameters import ParameterHolder, floating
from .transformer import memory_of, shift_tokens_right


def _register_outputs() -> None:
    """Makes the output classes pytrees, so that they pass through jit, grad and the tree functions."""

    def register(kind: type[ModelOutput]) -> None:
        names = tuple(field.name for field in fields(kind))  # type: ignore[arg-type]

        def flatten(output: ModelOutput) -> tuple[tuple[tuple[Any, Any], ...], None]:
            return tuple((jax.tree_util.GetAttrKey(name), getattr(output, name)) for name in names), None

        def unflatten(_: None, values: Any) -> ModelOutput:
            output = kind()
            for name, value in zip(names, values, strict=True):
                setattr(output, name, value)
            return output

        jax.tree_util.register_pytree_with_keys(kind, flatten, unflatten)

    for kind in {id(value): value for value in vars(kinds).values()}.values():  # some have two names
        if isinstance(kind, type) and issubclass(kind, ModelOutput) and kind is not ModelOutput:
            register(kind)


_register_outputs()


class PreTrainedModel(ParameterHolder):
    """Base of all Flax models: an object that holds a linen module and its parameters.

    The module is pure and can be used alone: `model.module.apply({"params": params}, input_ids)`.

    Args:
        config: the model's configuration.
        input_shape: accepted for compatibility; no parameter depends on it.
        seed: of the random parameters.
        dtype: of the computation: float32, bfloat16 or float16. Parameters keep their own; see `to_bf16`.
        _do_init: whether the object holds parameters. If not, they are passed to every call as `params`.
        **kwargs: fields of the module: `gradient_checkpointing`.

    Raises:
        ConfigError: if no model can be built from `config`, or `dtype` is no floating-point dtype.
    """

    config_class: ClassVar[type[PretrainedConfig]]
    module_class: ClassVar[Callable[..., nn.Module] | None] = None
    base_model_prefix: ClassVar[str] = "model"
    main_input_name: ClassVar[str] = "input_ids"
    framework: ClassVar[str] = "flax"

    def __init__(
        self,
        config: PretrainedConfig,
        input_shape: tuple[int, ...] = (1, 1),
        seed: int = 0,
        dtype: Any = jnp.float32,
        _do_init: bool = True,
        **kwargs: Any,
    ) -> None:
        name = type(self).__name__
        if not isinstance(config, self.config_class):
            raise ConfigError(
                f"`config` of {name} must be a {self.config_class.__name__}, got {type(config).__name__}. "
                "Load a model with from_pretrained."
            )
        if self.module_class is None:
            raise ConfigError(f"{name} is the base of the family's models and has no module. Use one of those.")
        config.validate()
        self.config = config
        self.name_or_path = config.name_or_path
        self.dtype = floating(dtype)
        self.input_shape = input_shape
        self.key = jax.random.PRNGKey(seed)
        if getattr(config, "gradient_checkpointing", False):
            kwargs.setdefault("gradient_checkpointing", True)
        self._module = self.module_class(config=config, dtype=self.dtype, **kwargs)
        self._slots = self._all_slots()
        self._params: weights.Tree | None = self.init_weights(self.key, input_shape) if _do_init else None
        if self.can_generate():
            self.generation_config = GenerationConfig.from_model_config(config)

    @classmethod
    def _from_config(cls, config: PretrainedConfig, **kwargs: Any) -> Any:
        """A model with parameters drawn at random, for a copy of a config; `kwargs` as for the class."""
        return cls(copy.deepcopy(config), **kwargs)

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the model has a head to generate with."""
        return hasattr(cls, "generate")

    def enable_gradient_checkpointing(self) -> None:
        """Trade time for memory while training: keep only each layer's input, and compute the rest again."""
        self._module = self._module.clone(gradient_checkpointing=True)

    # ---- passes

    def __call__(
        self,
        input_ids: Array,
        attention_mask: Array | None = None,
        decoder_input_ids: Array | None = None,
        decoder_attention_mask: Array | None = None,
        position_ids: Array | None = None,
        decoder_position_ids: Array | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        train: bool = False,
        params: Mapping[str, Any] | None = None,
        dropout_rng: Array | None = None,
    ) -> Any:
        """What the model gives for a source and a target, as an output object or its tuple.

        Args:
            input_ids: integers [B, S], the source, at most `max_position_embeddings` long.
            attention_mask: 1/0 [B, S], 0 where the source is padding; by default nothing is.
            decoder_input_ids: integers [B, T], the target; by default the source, shifted right behind the start token.
            decoder_attention_mask: 1/0 [B, T]; by default every earlier token is seen, padding included.
            position_ids: integers [B, S], counted from 0 by default.
            decoder_position_ids: integers [B, T], counted from 0 by default.
            output_attentions: return all attention weights.
            output_hidden_states: return the states of all layers.
            return_dict: an output object (default) or a plain tuple.
            train: apply dropout, with `dropout_rng`.
            params: parameters to use instead of the model's own.
            dropout_rng: a key.

        Raises:
            InputError: if an input is missing, of the wrong shape or dtype, outside the vocabulary, or longer than the
                position table, or if `params` lacks something. Values are looked at where they are on the CPU and not
                traced.
        """
        output = self._apply(
            None,
            params,
            train,
            dropout_rng,
            **self._checked(
                input_ids,
                attention_mask,
                decoder_input_ids,
                decoder_attention_mask,
                position_ids,
                decoder_position_ids,
            ),
            **self._wanted(output_attentions, output_hidden_states),
        )
        return self._given(output, return_dict)

    def _checked(
        self,
        input_ids: Array,
        attention_mask: Array | None = None,
        decoder_input_ids: Array | None = None,
        decoder_attention_mask: Array | None = None,
        position_ids: Array | None = None,
        decoder_position_ids: Array | None = None,
    ) -> dict[str, Array | None]:
        """The inputs of a pass for the module."""
        source = ids_of("input_ids", input_ids, self.config)
        if decoder_input_ids is None:
            target = shift_tokens_right(source, self.config.pad_token_id, self.config.decoder_start_token_id)
        else:
            target = ids_of("decoder_input_ids", decoder_input_ids, self.config)
        if source.shape[0] != target.shape[0]:
            raise InputError(
                f"`decoder_input_ids` must have as many rows as `input_ids`, {source.shape[0]}, got {target.shape[0]}."
            )
        return {
            "input_ids": source,
            "attention_mask": mask_of("attention_mask", attention_mask, source.shape),
            "decoder_input_ids": target,
            "decoder_attention_mask": mask_of("decoder_attention_mask", decoder_attention_mask, target.shape),
            "position_ids": check_positions("position_ids", position_ids, source.shape, self.config),
            "decoder_position_ids": check_positions(
                "decoder_position_ids", decoder_position_ids, target.shape, self.config
            ),
        }

    def encode(
        self,
        input_ids: Array,
        attention_mask: Array | None = None,
        position_ids: Array | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        train: bool = False,
        params: Mapping[str, Any] | None = None,
        dropout_rng: Array | None = None,
    ) -> Any:
        """The encoder's states of a source, as `BaseModelOutput` or its tuple. Arguments as for the whole model."""
        source = ids_of("input_ids", input_ids, self.config)
        output = self._apply(
            "encode",
            params,
            train,
            dropout_rng,
            source,
            mask_of("attention_mask", attention_mask, source.shape),
            check_positions("position_ids", position_ids, source.shape, self.config),
            **self._wanted(output_attentions, output_hidden_states),
        )
        return self._given(output, return_dict)

    def decode(
        self,
        decoder_input_ids: Array,
        encoder_outputs: Any,
        encoder_attention_mask: Array | None = None,
        decoder_attention_mask: Array | None = None,
        decoder_position_ids: Array | None = None,
        past_key_values: Mapping[str, Any] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        train: bool = False,
        params: Mapping[str, Any] | None = None,
        dropout_rng: Array | None = None,
    ) -> Any:
        """What the decoder gives for a target and the encoder's output, as an output object or its tuple.

        Args:
            decoder_input_ids: integers [B, T]; with a cache, only the tokens that are not in it yet.
            encoder_outputs: what `encode` returned; its first item is [B, S, D].
            encoder_attention_mask: 1/0 [B, S].
            decoder_attention_mask: 1/0 [B, T]; with a cache, [B, at most its length], what it leaves out is seen.
            decoder_position_ids: integers [B, T]; counted on from the cache by default.
            past_key_values: the dict of `init_cache`, or the one an earlier call returned. Without it none is returned.
            output_attentions, output_hidden_states, return_dict, train, params, dropout_rng: as for the whole model.

        Raises:
            InputError: as for the whole model, or if the cache has no room for the new tokens.
        """
        memory = memory_of(encoder_outputs, self.config)
        target = ids_of("decoder_input_ids", decoder_input_ids, self.config)
        if target.shape[0] % memory.shape[0]:
            raise InputError(
                f"`decoder_input_ids` must have as many rows as `encoder_outputs`, {memory.shape[0]} (or a multiple, "
                f"for beams), got {target.shape[0]}."
            )
        memory_mask = mask_of("encoder_attention_mask", encoder_attention_mask, memory.shape[:2])
        return self._decode(
            target,
            memory,
            memory_mask,
            decoder_attention_mask,
            decoder_position_ids,
            past_key_values,
            (output_attentions, output_hidden_states, return_dict),
            train,
            params,
            dropout_rng,
        )

    def _decode(
        self,
        target: Array,
        memory: Array | None,
        memory_mask: Array | None,
        mask: Array | None,
        positions: Array | None,
        past: Mapping[str, Any] | None,
        wanted: tuple[bool | None, bool | None, bool | None],
        train: bool,
        params: Mapping[str, Any] | None,
        dropout_rng: Array | None,
    ) -> Any:
        rows, length = target.shape
        room, cache, start = length, None, None
        if past is not None:
            cache, start = from_dict(past, self._decoder_path, self.config)
            room = cache[0][0].shape[2]
            self._check_room(cache[0][0].shape, start, target.shape)
        output = self._apply(
            "decode",
            params,
            train,
            dropout_rng,
            target,
            mask_of("decoder_attention_mask", mask, (rows, room), exact=past is None),
            # Differs from transformers 4.57.6: with a cache, `decoder_position_ids` need not be given.
            check_positions("decoder_position_ids", positions, target.shape, self.config),
            memory,
            memory_mask,
            cache,
            start,
            **self._wanted(*wanted[:2]),
        )
        if cache is not None and start is not None:
            output.past_key_values = to_dict(output.past_key_values, start + length, self._decoder_path)
        return self._given(output, wanted[2])

    def _check_room(self, held: tuple[int, ...], start: Array, new: tuple[int, ...]) -> None:
        seen = seen_from_python(start)
        used = 0 if seen is None else int(seen)
        if held[0] != new[0]:
            raise InputError(f"`decoder_input_ids` must have {held[0]} rows, as the cache has, got {new[0]}.")
        if used + new[1] > held[2]:
            raise InputError(
                f"`past_key_values` must have room for {used + new[1]} tokens, got room for {held[2]}. "
                "Call init_cache with a larger `max_length`."
            )
        limit = self.config.max_position_embeddings
        if used + new[1] > limit:
            raise InputError(
                f"the sequence must have at most {limit} positions (max_position_embeddings), got {used + new[1]}."
            )

    def init_cache(self, batch_size: int, max_length: int, encoder_outputs: Any = None) -> dict[str, Any]:
        """An empty cache for `decode`: a nested dict with keys and values [batch_size, max_length, H, K] per layer.

        Args:
            batch_size: rows of the target.
            max_length: tokens there is to be room for.
            encoder_outputs: accepted for compatibility; nothing of it is kept here.
        """
        return to_dict(entries(self.config, batch_size, max_length, self.dtype), 0, self._decoder_path)

    @property
    def _decoder_path(self) -> tuple[str, ...]:
        return ("decoder",) if self.head == "base" else ("model", "decoder")

    def _wanted(self, attentions: bool | None, states: bool | None) -> dict[str, bool]:
        config = self.config
        return {
            "output_attentions": config.output_attentions if attentions is None else attentions,
            "output_hidden_states": config.output_hidden_states if states is None else states,
        }

    def _given(self, output: ModelOutput, return_dict: bool | None) -> Any:
        as_object = self.config.use_return_dict if return_dict is None else return_dict
        return output if as_object else output.to_tuple()

    def _apply(
        self,
        method: str | None,
        params: Mapping[str, Any] | None,
        train: bool,
        dropout_rng: Array | None,
        *inputs: Any,
        **options: Any,
    ) -> Any:
        if train and dropout_rng is None and self._draws:
            raise InputError("`dropout_rng` must be a key when `train` is True, got None. Pass jax.random.key(0), say.")
        return self._module.apply(
            {"params": self._params_or(params)},
            *inputs,
            deterministic=not train,
            rngs={} if dropout_rng is None else {"dropout": dropout_rng},
            method=method,
            **options,
        )

    @property
    def _draws(self) -> bool:
        """Whether training draws random numbers at all."""
        names = ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop")
        return any(getattr(self.config, name) > 0 for name in names)
