"""Encoder and Decoder: embeddings, the stack of layers, and what is collected on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from ..core.config import PretrainedConfig
from ..core.outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions
from ..errors import ConfigError, InputError
from .attention import Packed, causal_mask, drop, padding_mask
from .cache import Entries
from .layers import DecoderLayer, EncoderLayer, Layer, LayerNorm, PositionEmbedding, TokenEmbedding, embedding_scale

if TYPE_CHECKING:
    pass


class Details(NamedTuple):
    """What a decoder step collects if asked, one item per layer (and one more state): None where not asked.

    Attributes:
        attentions: decoder_layers times [R, H, T, L].
        cross_attentions: decoder_layers times [R, H, T, S]; None without an encoder.
        hidden_states: decoder_layers + 1 times [R, T, D].
    """

    attentions: tuple[Array, ...] | None
    cross_attentions: tuple[Array, ...] | None
    hidden_states: tuple[Array, ...] | None


class LayerList(nn.Module):
    """Layers under the names "0", "1", …, as checkpoints number them."""

    config: PretrainedConfig
    dtype: Any
    layer_class: type[Layer]
    count: int

    def setup(self) -> None:
        self.items = [self.layer_class(self.config, self.dtype, name=str(index)) for index in range(self.count)]


class Stack(nn.Module):
    """What encoder and decoder share: embeddings, norms around the layers, LayerDrop and gradient checkpointing."""

    config: PretrainedConfig
    embed_tokens: TokenEmbedding
    dtype: Any = jnp.float32
    gradient_checkpointing: bool = False

    def _set_up(self, layer_class: type[Layer], count: int) -> None:
        self.embed_positions = PositionEmbedding(self.config, self.dtype)
        self.layers = LayerList(self.config, self.dtype, layer_class, count)
        if self.config.architecture.embedding_norm:
            self.layernorm_embedding = LayerNorm(self.dtype)
        if self.config.architecture.final_norm:
            self.layer_norm = LayerNorm(self.dtype)

    def _embed(self, ids: Array, positions: Array, deterministic: bool) -> Array:
        """Token and position vectors [B, T, D], normed where the family does so.

        BlenderbotSmall's encoder norms token + position, its decoder norms the token and adds the position after.
        """
        tokens = self.embed_tokens(ids) * embedding_scale(self.config)
        places = self.embed_positions(positions if positions.ndim == 2 else positions[None])
        if not self.config.architecture.embedding_norm:
            hidden = tokens + places
        elif isinstance(self, Decoder):
            hidden = self.layernorm_embedding(tokens) + places
        else:
            hidden = self.layernorm_embedding(tokens + places)
        return drop(self, hidden, self.config.dropout, deterministic)

    def _run(self, layer: Layer, rate: float, deterministic: bool, hidden: Array, **options: Any) -> Any:
        """What a layer returns; recomputed in the backward pass, or left out, where training asks for it."""

        def forward(layer: Layer, hidden: Array) -> Any:
            return layer(hidden, deterministic=deterministic, **options)

        if self.gradient_checkpointing and not deterministic:
            forward = nn.remat(forward)
        states, *others = forward(layer, hidden)
        if rate > 0.0 and not deterministic:  # LayerDrop (Fan et al. 2019), drawn anew in every step
            # Differs from transformers 4.57.6: it draws once while tracing, and a dropped layer ends in an error.
            kept = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - rate)
            states = jnp.where(kept, states, hidden)
        return states, *others

    def _finish(self, hidden: Array) -> Array:
        normed: Array = self.layer_norm(hidden) if self.config.architecture.final_norm else hidden
        return normed


class Encoder(Stack):
    """The encoder: token ids [B, S] to states [B, S, D]."""

    def setup(self) -> None:
        self._set_up(EncoderLayer, self.config.encoder_layers)

    def __call__(
        self,
        input_ids: Array,
        attention_mask: Array | None = None,
        position_ids: Array | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        deterministic: bool = True,
    ) -> BaseModelOutput[Array]:
        """States of the source.

        Args:
            input_ids: int32 [B, S].
            attention_mask: 1/0 [B, S], 0 where the input is padding.
            position_ids: int32 [B, S] or [S]; counted from 0 by default.
            output_attentions, output_hidden_states: what to return besides.
            deterministic: no dropout.
        """
        positions = jnp.arange(input_ids.shape[1], dtype=jnp.int32) if position_ids is None else position_ids
        hidden = self._embed(input_ids, positions, deterministic)
        mask = padding_mask(attention_mask, self.dtype)
        states, attentions = [], []
        for layer in self.layers.items:
            states.append(hidden)
            hidden, weights = self._run(
                layer, self.config.encoder_layerdrop, deterministic, hidden, mask=mask, need_weights=output_attentions
            )
            attentions.append(weights)
        hidden = self._finish(hidden)
        return BaseModelOutput(
            last_hidden_state=hidden,
            hidden_states=(*states, hidden) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )


class Decoder(Stack):
    """The decoder: token ids [R, T] and the encoder's states [B, S, D] to states [R, T, D]."""

    def setup(self) -> None:
        self._set_up(DecoderLayer, self.config.decoder_layers)

    def __call__(
        self,
        input_ids: Array,
        attention_mask: Array | None = None,
        position_ids: Array | None = None,
        encoder_hidden_states: Array | None = None,
        encoder_attention_mask: Array | None = None,
        past_key_values: Entries | None = None,
        start: Array | int | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        deterministic: bool = True,
    ) -> BaseModelOutputWithPastAndCrossAttentions[Array]:
        """States of the target, causally; with a cache, of the tokens that are not in it yet.

        Args:
            input_ids: int32 [B, T].
            attention_mask: 1/0 [B, at most L], over cached and new tokens; what it leaves out is seen.
            position_ids: int32 [B, T] or [T]; counted on from `start` by default.
            encoder_hidden_states: [B, S, D]; without them, there is no cross-attention.
            encoder_attention_mask: 1/0 [B, S].
            past_key_values: entries with room for L tokens; the returned ones hold the new tokens too.
            start: number of tokens in the cache; int32, may be traced.
            output_attentions, output_hidden_states: what to return besides.
            deterministic: no dropout.
        """
        length = input_ids.shape[1]
        places = jnp.arange(length, dtype=jnp.int32)
        room = length
        if past_key_values is not None:
            start = jnp.asarray(0 if start is None else start, jnp.int32)
            places, room = places + start, past_key_values[0][0].shape[2]
        hidden, entries, details = self._through(
            self._embed(input_ids, places if position_ids is None else position_ids, deterministic),
            causal_mask(attention_mask, places, room, self.dtype),
            padding_mask(encoder_attention_mask, self.dtype),
            memory=encoder_hidden_states,
            cache=past_key_values,
            start=start,
            need_weights=output_attentions,
            need_hidden=output_hidden_states,
            deterministic=deterministic,
        )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden,
            past_key_values=None if past_key_values is None else entries,
            hidden_states=details.hidden_states,
            attentions=details.attentions,
            cross_attentions=details.cross_attentions,
        )

    def cross_entries(self, memory: Array) -> Entries:
        """Keys and values [B, H, S, K] of the encoder's output [B, S, D] for every layer, once per input."""
        return tuple(layer.encoder_attn.entries(memory) for layer in self.layers.items)

    def packed(self) -> tuple[Packed, ...]:
        """For every layer, the self-attention's projections in one, for `step`."""
        return tuple(layer.self_attn.packed() for layer in self.layers.items)

    def step(
        self,
        tokens: Array,
        start: Array | int,
        cache: Entries,
        cross: Entries | None,
        self_mask: Array | None,
        memory_mask: Array | None,
        *,
        positions: Array | None = None,
        packed: tuple[Packed, ...] | None = None,
        need_weights: bool = False,
        need_hidden: bool = False,
    ) -> tuple[Array, Entries, Details]:
        """States [R, T, D] of new tokens, the cache with them in it, and what was asked for besides.

        Args:
            tokens: int32 [R, T].
            start: place of the first new token in the cache; int32, may be traced. The caller sees to it that
                start + T is at most L and that no position is past the table.
            cache: for every layer, keys and values [R, H, L, K].
            cross: for every layer, keys and values [B, H, S, K] of `cross_entries`; R = B * n beams share them. None:
                no cross-attention.
            self_mask: additive [R or 1, 1, T, L]; it has to hide what lies behind the new tokens.
            memory_mask: additive [B, 1, 1, S].
            positions: int32 [T] or [R, T]; counted on from `start` by default.
            packed: what `packed` gives; the same numbers, read faster.
            need_weights, need_hidden: collect attentions, hidden states.
        """
        start = jnp.asarray(start, jnp.int32)
        if positions is None:
            positions = jnp.arange(tokens.shape[1], dtype=jnp.int32) + start
        return self._through(
            self._embed(tokens, positions, True),
            self_mask,
            memory_mask,
            cross=cross,
            cache=cache,
            start=start,
            packed=packed,
            need_weights=need_weights,
            need_hidden=need_hidden,
        )

    def _through(
        self,
        hidden: Array,
        mask: Array | None,
        memory_mask: Array | None,
        *,
        memory: Array | None = None,
        cross: Entries | None = None,
        cache: Entries | None = None,
        start: Array | int | None = None,
        packed: tuple[Packed, ...] | None = None,
        need_weights: bool = False,
        need_hidden: bool = False,
        deterministic: bool = True,
    ) -> tuple[Array, Entries, Details]:
        """All layers, for the whole pass and for a step alike."""
        states, entries, attentions, cross_attentions = [], [], [], []
        for index, layer in enumerate(self.layers.items):
            states.append(hidden)
            hidden, entry, weights, cross_weights = self._run(
                layer,
                self.config.decoder_layerdrop,
                deterministic,
                hidden,
                mask=mask,
                memory=memory,
                memory_mask=memory_mask,
                entry=None if cache is None else cache[index],
                start=start,
                cross=None if cross is None else cross[index],
                packed=None if packed is None else packed[index],
                need_weights=need_weights,
            )
            entries.append(entry)
            attentions.append(weights)
            cross_attentions.append(cross_weights)
        hidden = self._finish(hidden)
        has_memory = memory is not None or cross is not None
        details = Details(
            attentions=tuple(attentions) if need_weights else None,
            cross_attentions=tuple(cross_attentions) if need_weights and has_memory else None,
            hidden_states=(*states, hidden) if need_hidden else None,
        )
        return hidden, tuple(entries), details


def shift_tokens_right(input_ids: Array, pad_token_id: int | None, decoder_start_token_id: int | None) -> Array:
    """Decoder inputs for labels: the start token, then the labels without their last; -100 becomes padding.

    Args:
        input_ids: integers [B, T].

    Raises:
        ConfigError: if the config names no pad or start token.
    """
    if pad_token_id is None or decoder_start_token_id is None:
        missing = "pad_token_id" if pad_token_id is None else "decoder_start_token_id"
        raise ConfigError(f"`{missing}` must be set in the config to make decoder inputs from labels, got None.")
    ids = jnp.asarray(input_ids)
    shifted = jnp.pad(ids[:, :-1], ((0, 0), (1, 0)), constant_values=decoder_start_token_id)
    return jnp.where(shifted == -100, jnp.full((), pad_token_id, ids.dtype), shifted)


def memory_of(encoder_outputs: Any, config: PretrainedConfig) -> Array:
    """The encoder's states [B, S, D] in what `encode` returned.

    Raises:
        InputError: there are none.
    """
    try:
        found = encoder_outputs[0]
        if found.ndim == 3 and found.shape[2] == config.d_model:
            return jnp.asarray(found)
        got = f"an array {list(found.shape)}"
    except (TypeError, KeyError, IndexError, AttributeError):
        got = type(encoder_outputs).__name__
    raise InputError(
        "`encoder_outputs` must be what `encode` returns, or a tuple that begins with states [B, S, "
        f"{config.d_model}], got {got}."
    )
