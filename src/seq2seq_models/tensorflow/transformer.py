"""Encoder and Decoder: embeddings, the stack of layers, and what is collected on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import ops

from ..core.config import Seq2SeqConfig, config_class
from ..core.outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions
from ..errors import InputError
from . import cache as caches
from .attention import causal_mask, padding_mask
from .cache import Entries, LayerCache, LegacyCache
from .layers import DecoderLayer, EncoderLayer, PositionEmbedding, TokenEmbedding, embedding_scale, unasked
from .linear import LayerNorm, Part, apply, dropout


@dataclass
class Details:
    """What is collected on the way through the layers; only what was asked for."""

    need_weights: bool
    need_states: bool
    states: tuple[Any, ...] = ()
    attentions: tuple[Any, ...] = ()
    cross_attentions: tuple[Any, ...] = field(default=())


class Stack(Part):
    """What encoder and decoder share: embeddings, norms around the layers, and LayerDrop."""

    main_input_name = "input_ids"

    def __init__(self, config: Seq2SeqConfig, embed_tokens: TokenEmbedding | None, **options: Any) -> None:
        super().__init__(**options)
        self.config = config
        self.dropout = config.dropout
        self.embed_scale = embedding_scale(config)
        self.seeds = keras.random.SeedGenerator()
        with keras.name_scope(self.name):
            self.embed_tokens = embed_tokens or TokenEmbedding(config, name="embed_tokens", **self.inner)
            self.embed_positions = PositionEmbedding(config, name="embed_positions", **self.inner)
            self._make_layers(config)
            if config.architecture.embedding_norm:
                self.layernorm_embedding = LayerNorm(config.d_model, name="layernorm_embedding", **self.inner)
            if config.architecture.final_norm:
                self.layer_norm = LayerNorm(config.d_model, name="layer_norm", **self.inner)

    def _make_layers(self, config: Seq2SeqConfig) -> None:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """What `from_config` makes the same layer from, without its weights and with an embedding of its own."""
        return {"config": self.config.to_dict(), "name": self.name, "dtype": self.dtype_policy.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """A layer with fresh weights."""
        values = dict(config.pop("config"))
        return cls(config_class(values["model_type"]).from_dict(values), **config)

    def get_input_embeddings(self) -> TokenEmbedding:
        return self.embed_tokens

    def set_input_embeddings(self, value: TokenEmbedding) -> None:
        self.embed_tokens = value

    def get_position_embeddings(self) -> PositionEmbedding:
        return self.embed_positions

    def resize_position_embeddings(self, new_num_position_embeddings: int) -> None:
        """Give the table this many rows: sinusoids exactly, learned rows kept and new ones drawn with `init_std`."""
        self.config.max_position_embeddings = new_num_position_embeddings
        self.embed_positions.resize(new_num_position_embeddings, self.config.init_std)

    def _embed(self, ids: Any, embeds: Any, start: Any = 0, positions: Any = None, training: bool = False) -> Any:
        """Token and position vectors [B, T, D], normed where the family does so.

        BlenderbotSmall's encoder norms token + position, its decoder norms the token and adds the position after.
        """
        if embeds is None:
            embeds = apply(self.embed_tokens, ops.convert_to_tensor(ids))
            embeds = embeds * ops.cast(self.embed_scale, embeds.dtype)
        else:
            embeds = ops.convert_to_tensor(embeds, dtype=self.compute_dtype)
        places = apply(self.embed_positions, ops.shape(embeds)[:2], start, positions)
        if not self.config.architecture.embedding_norm:
            hidden = embeds + places
        elif isinstance(self, Decoder):
            hidden = apply(self.layernorm_embedding, embeds) + places
        else:
            hidden = apply(self.layernorm_embedding, embeds + places)
        return dropout(hidden, self.dropout, self.seeds, training)

    def _maybe_dropped(self, before: Any, after: Any, rate: float, training: bool) -> Any:
        """LayerDrop: in training, a layer's input in place of its output, at random (Fan et al. 2019)."""
        if not training or rate <= 0:
            return after
        # Drawn while running, not while tracing: a compiled step drops another layer each time.
        return ops.where(keras.random.uniform((), seed=self.seeds) < rate, before, after)

    def _finish(self, hidden: Any) -> Any:
        return apply(self.layer_norm, hidden) if self.config.architecture.final_norm else hidden

    def _flags(
        self, output_attentions: bool | None, output_hidden_states: bool | None, return_dict: bool | None
    ) -> tuple[Details, bool]:
        config = self.config
        details = Details(
            need_weights=config.output_attentions if output_attentions is None else output_attentions,
            need_states=config.output_hidden_states if output_hidden_states is None else output_hidden_states,
        )
        return details, config.use_return_dict if return_dict is None else return_dict


@keras.saving.register_keras_serializable(package="seq2seq_models")
class Encoder(Stack):
    """The encoder: token ids [B, S] to states [B, S, D]."""

    def __init__(self, config: Seq2SeqConfig, embed_tokens: TokenEmbedding | None = None, **options: Any) -> None:
        super().__init__(config, embed_tokens, **options)

    def _make_layers(self, config: Seq2SeqConfig) -> None:
        self.layers: list[EncoderLayer] = [
            EncoderLayer(config, self.seeds, name=f"layers.{index}", **self.inner)
            for index in range(config.encoder_layers)
        ]

    def call(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
    ) -> Any:
        """States of the source, as `BaseModelOutput` or its tuple.

        Args:
            input_ids: int [B, S]; or give `inputs_embeds`.
            attention_mask: 1/0 [B, S], 0 where the input is padding.
            head_mask: 1/0 [encoder_layers, H], multiplied onto the attention weights.
            inputs_embeds: [B, S, D] instead of ids, already scaled.
            output_attentions, output_hidden_states, return_dict: what to return; the config's by default.
            training: whether dropout and LayerDrop are on.

        Raises:
            InputError: if neither or both inputs are given, or the source is longer than the position table.
        """
        details, return_dict = self._flags(output_attentions, output_hidden_states, return_dict)
        only_one("input_ids", input_ids, "inputs_embeds", inputs_embeds)
        head_mask = per_layer("head_mask", head_mask, len(self.layers))
        hidden = self._embed(input_ids, inputs_embeds, training=training)
        mask = padding_mask(as_tensor(attention_mask), hidden.dtype, hidden.shape[1])
        for index, layer in enumerate(self.layers):
            details.states += (hidden,)
            after, *found = apply(
                layer, hidden, mask, head_mask[index], training=training, **unasked(details.need_weights)
            )
            weights = found[0] if details.need_weights else None
            hidden = self._maybe_dropped(hidden, after, self.config.encoder_layerdrop, training)
            details.attentions += (weights,)
        hidden = self._finish(hidden)
        output = BaseModelOutput(
            last_hidden_state=hidden,
            hidden_states=(*details.states, hidden) if details.need_states else None,
            attentions=details.attentions if details.need_weights else None,
        )
        return output if return_dict else output.to_tuple()


@keras.saving.register_keras_serializable(package="seq2seq_models")
class Decoder(Stack):
    """The decoder: token ids [B, T] and the encoder's states [B, S, D] to states [B, T, D]."""

    def __init__(self, config: Seq2SeqConfig, embed_tokens: TokenEmbedding | None = None, **options: Any) -> None:
        super().__init__(config, embed_tokens, **options)

    def _make_layers(self, config: Seq2SeqConfig) -> None:
        self.layers: list[DecoderLayer] = [
            DecoderLayer(config, self.seeds, name=f"layers.{index}", **self.inner)
            for index in range(config.decoder_layers)
        ]

    def call(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        head_mask: Any = None,
        cross_attn_head_mask: Any = None,
        past_key_values: LegacyCache | None = None,
        inputs_embeds: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        position_ids: Any = None,
        training: bool = False,
    ) -> Any:
        """States of the target, as `BaseModelOutputWithPastAndCrossAttentions` or its tuple.

        Args:
            input_ids: int [B, T]; with a cache, only the tokens that are not in it yet. Or give `inputs_embeds`.
            attention_mask: 1/0 [B, past + T]; everything is seen by default, padding included.
            encoder_hidden_states: [B, S, D].
            encoder_attention_mask: 1/0 [B, S].
            head_mask, cross_attn_head_mask: 1/0 [decoder_layers, H].
            past_key_values: per layer (keys, values, cross keys, cross values), or the first two only.
            inputs_embeds: [B, T, D] instead of ids, already scaled.
            use_cache: return the tuples for the next call.
            output_attentions, output_hidden_states, return_dict: what to return; the config's by default.
            position_ids: int [T], [B, T] or a scalar, the tokens' positions; counted on from the cache by default.
            training: whether dropout and LayerDrop are on.

        Raises:
            InputError: if neither or both inputs are given, or the target is longer than the position table.
        """
        details, return_dict = self._flags(output_attentions, output_hidden_states, return_dict)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        only_one("decoder_input_ids", input_ids, "decoder_inputs_embeds", inputs_embeds)
        past = caches.past_length(past_key_values)
        hidden = self._embed(input_ids, inputs_embeds, past, as_tensor(position_ids, "int32"), training)
        held = caches.layer_caches(past_key_values, len(self.layers)) if use_cache or past_key_values else None
        memory = as_tensor(encoder_hidden_states, hidden.dtype)
        hidden = self._run(
            hidden,
            self._self_mask(as_tensor(attention_mask), hidden, past),
            memory,
            padding_mask(as_tensor(encoder_attention_mask), hidden.dtype, None if memory is None else memory.shape[1]),
            held,
            details,
            head_mask=per_layer("head_mask", head_mask, len(self.layers)),
            cross_head_mask=per_layer("cross_attn_head_mask", cross_attn_head_mask, len(self.layers)),
            training=training,
        )
        has_cross = bool(details.cross_attentions) and details.cross_attentions[0] is not None
        output = BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden,
            past_key_values=tuple(one.legacy() for one in held) if use_cache and held is not None else None,
            hidden_states=(*details.states, hidden) if details.need_states else None,
            attentions=details.attentions if details.need_weights else None,
            cross_attentions=details.cross_attentions if details.need_weights and has_cross else None,
        )
        return output if return_dict else output.to_tuple()

    def cross_entries(self, memory: Any) -> Entries:
        """Keys and values of the encoder's output [B, S, D] for every layer, each [B, H, S, K]; once per input."""
        memory = ops.cast(memory, self.compute_dtype)
        return tuple(layer.encoder_attn.entry(memory) for layer in self.layers)

    def entries(self, rows: Any, length: int) -> Entries:
        """Empty keys and values [rows, H, length, K] for every layer, for `step` to write."""
        attention = self.layers[0].self_attn
        return caches.entries(
            len(self.layers), rows, attention.num_heads, length, attention.head_dim, self.compute_dtype
        )

    def packed(self) -> tuple[tuple[Any, Any], ...]:
        """For every layer, the self-attention's projections in one, for `step`."""
        return tuple(layer.self_attn.packed() for layer in self.layers)

    def step(
        self,
        tokens: Any,
        start: Any,
        cache: Entries,
        cross: Entries | None,
        self_mask: Any,
        memory_mask: Any = None,
        *,
        positions: Any = None,
        packed: Sequence[tuple[Any, Any]] | None = None,
        need_weights: bool = False,
        need_hidden: bool = False,
    ) -> tuple[Any, Entries, tuple[Any, Any, Any]]:
        """States [R, T, D] of new tokens over a cache of fixed size, the cache with them in it, and details.

        It can be compiled with XLA, traced as a plain graph and run eagerly. Positions beyond the table are the
        caller's to check.

        Args:
            tokens: int [R, T], R = B * beams.
            start: int32 scalar, the first new token's place in the cache.
            cache: keys and values [R, H, L, K] per layer.
            cross: the encoder's [B, H, S, K] per layer, from `cross_entries`; None without cross-attention.
            self_mask: additive [R or 1, 1, T, L].
            memory_mask: additive [B, 1, 1, S], or None.
            positions: int32 [T]; `start` and on by default.
            packed: what `packed` gives; the same numbers, read faster.
            need_weights, need_hidden: fill the details.

        Returns:
            States, cache, and (attentions, cross attentions, hidden states), each a tuple per layer or None.
        """
        details = Details(need_weights, need_hidden)
        start = ops.cast(start, "int32")
        hidden = self._embed(tokens, None, start, positions)
        none = (None,) * len(self.layers)
        parts = zip(cache, cross or none, packed or none, strict=True)
        held = [LayerCache(own, other, start, weights) for own, other, weights in parts]
        hidden = self._run(
            hidden,
            self_mask,
            None,
            memory_mask,
            held,
            details,
            head_mask=none,
            cross_head_mask=none,
            training=False,
        )
        written = tuple(one.own for one in held if one.own is not None)
        return (
            hidden,
            written,
            (
                details.attentions if need_weights else None,
                details.cross_attentions if need_weights and cross is not None else None,
                (*details.states, hidden) if need_hidden else None,
            ),
        )

    def _run(
        self,
        hidden: Any,
        mask: Any,
        memory: Any,
        memory_mask: Any,
        held: list[LayerCache] | None,
        details: Details,
        *,
        head_mask: Sequence[Any],
        cross_head_mask: Sequence[Any],
        training: bool,
    ) -> Any:
        """Through all layers and the final norm; what is asked for is added to `details`."""
        for index, layer in enumerate(self.layers):
            details.states += (hidden,)
            after, *found = apply(
                layer,
                hidden,
                mask,
                memory,
                memory_mask,
                head_mask[index],
                cross_head_mask[index],
                training=training,
                **({} if held is None else {"past_key_value": held[index]}),
                **unasked(details.need_weights),
            )
            weights, cross_weights = found[:2] if details.need_weights else (None, None)
            hidden = self._maybe_dropped(hidden, after, self.config.decoder_layerdrop, training)
            details.attentions += (weights,)
            details.cross_attentions += (cross_weights,)
        return self._finish(hidden)

    def _self_mask(self, attention_mask: Any, hidden: Any, past: Any) -> Any:
        """The additive mask of self-attention, or None where each query sees every key there is."""
        length = ops.shape(hidden)[1]
        if attention_mask is None and isinstance(length, int) and length == 1:
            return None
        total = past + length
        if attention_mask is not None and len(attention_mask.shape) == 2:
            columns = attention_mask.shape[1]
            if isinstance(total, int) and columns is not None and columns != total:
                raise InputError(
                    f"`decoder_attention_mask` must have {total} columns, one for each cached and new token, "
                    f"got {list(attention_mask.shape)}."
                )
        return causal_mask(attention_mask, past + ops.arange(length, dtype="int32"), total, hidden.dtype)


def as_tensor(value: Any, dtype: Any = None) -> Any:
    """A tensor of a value, None for None."""
    return None if value is None else ops.convert_to_tensor(value, dtype=dtype)


def only_one(name: str, value: Any, other_name: str, other: Any) -> None:
    """Raise unless exactly one of two inputs is given."""
    if (value is None) == (other is None):
        given = "neither" if value is None else "both"
        raise InputError(f"exactly one of `{name}` and `{other_name}` must be given, got {given}.")


def per_layer(name: str, mask: Any, layers: int) -> Sequence[Any]:
    """A head mask's row for each layer; None for each if there is no mask.

    Raises:
        InputError: there is not one row per layer.
    """
    if mask is None:
        return (None,) * layers
    mask = ops.convert_to_tensor(mask)
    if mask.shape[0] != layers:
        raise InputError(f"`{name}` must have one row for each of {layers} layers, got {mask.shape[0]}.")
    return [mask[index] for index in range(layers)]
