"""Encoder and Decoder: embeddings, the stack of layers, and what is collected on the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..core.config import PretrainedConfig, Seq2SeqConfig
from ..core.outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions
from ..core.parameters import Head
from ..errors import InputError
from .attention import Attention, causal_mask, hides_nothing, is_traced, padding_mask
from .cache import Cache, DynamicCache, EncoderDecoderCache, LegacyCache
from .layers import (
    DecoderLayer,
    EncoderLayer,
    PositionEmbedding,
    TokenEmbedding,
    check_ids,
    embedding_scale,
    layer_norm,
)
from .linear import Products
from .model import PreTrainedModel, uninitialised


class Stack(PreTrainedModel):
    """What encoder and decoder share: embeddings, norms around the layers, LayerDrop and gradient checkpointing."""

    config_class = Seq2SeqConfig
    is_stack = True

    def __init__(
        self,
        config: PretrainedConfig,
        embed_tokens: nn.Embedding | None,
        layers: Iterable[nn.Module],
        layerdrop: float,
    ) -> None:
        super().__init__(config)
        self.dropout = config.dropout
        self.layerdrop = layerdrop
        self.embed_scale = embedding_scale(config)
        with uninitialised():
            self.embed_tokens = embed_tokens or TokenEmbedding(config.vocab_size, config.d_model, config.pad_token_id)
            self.embed_positions = PositionEmbedding(config)
            self.layers = nn.ModuleList(layers)
            if config.architecture.embedding_norm:
                self.layernorm_embedding = layer_norm(config)
            if config.architecture.final_norm:
                self.layer_norm = layer_norm(config)
        self.gradient_checkpointing = bool(getattr(config, "gradient_checkpointing", False))
        self.gradient_checkpointing_options: dict[str, Any] = {"use_reentrant": False}
        self.checkpoint_every, self.first_checkpointed = 1, 0
        if embed_tokens is not None:
            object.__setattr__(self, "_given", embed_tokens)  # no part of this module
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embed_tokens = value

    def get_position_embeddings(self) -> PositionEmbedding:
        return self.embed_positions

    def resize_position_embeddings(self, new_num_position_embeddings: int) -> None:
        """Give the table this many rows: sinusoids exactly, learned rows kept and new ones drawn with `init_std`."""
        old = self.embed_positions
        self.config.max_position_embeddings = new_num_position_embeddings
        new = PositionEmbedding(self.config).to(old.weight.device, old.weight.dtype)
        if new.is_computed:
            new.fill()
        else:
            kept = min(new_num_position_embeddings, old.num_embeddings)
            with torch.no_grad():
                new.weight.normal_(0.0, self.config.init_std)
                new.weight[:kept] = old.weight[:kept]
        self.embed_positions = new

    def _embed(
        self, ids: Tensor | None, embeds: Tensor | None, start: int = 0, positions: Tensor | None = None
    ) -> Tensor:
        """Token and position vectors [B, T, D], normed where the family does so.

        BlenderbotSmall's encoder norms token + position, its decoder norms the token and adds the position after.
        """
        is_decoder = isinstance(self, Decoder)
        if embeds is None:
            assert ids is not None
            embeds = self.embed_tokens(ids.view(-1, ids.shape[-1])) * self.embed_scale
        elif is_decoder:
            embeds = embeds * self.embed_scale
        # Differs from transformers 4.57.6: BlenderbotSmall's decoder scales its embeddings too, as ParlAI, TF, Flax
        # and earlier PyTorch versions do; 4.57.6's PyTorch class lost the factor.
        places = self.embed_positions(embeds.shape[:2], start, positions)
        if not self.config.architecture.embedding_norm:
            hidden = embeds + places
        elif is_decoder:
            hidden = self.layernorm_embedding(embeds) + places
        else:
            hidden = self.layernorm_embedding(embeds + places)
        return F.dropout(hidden, self.dropout, self.training)

    def _run(self, index: int, layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """layer(...); what may have a gradient is given by position, as re-entrant checkpoints want it."""
        is_checkpointed = self.gradient_checkpointing and index % self.checkpoint_every == self.first_checkpointed
        if is_checkpointed and self.training and torch.is_grad_enabled():
            return checkpoint(partial(layer, **kwargs), *args, **self.gradient_checkpointing_options)
        return layer(*args, **kwargs)

    def _is_dropped(self) -> bool:
        """LayerDrop: whether to leave out a layer in this training step (Fan et al. 2019)."""
        return self.training and self.layerdrop > 0 and float(torch.rand(())) < self.layerdrop

    def _finish(self, hidden: Tensor) -> Tensor:
        return self.layer_norm(hidden) if self.config.architecture.final_norm else hidden

    def _flags(
        self, output_attentions: bool | None, output_hidden_states: bool | None, return_dict: bool | None
    ) -> tuple[bool, bool, bool]:
        config = self.config
        return (
            config.output_attentions if output_attentions is None else output_attentions,
            config.output_hidden_states if output_hidden_states is None else output_hidden_states,
            config.use_return_dict if return_dict is None else return_dict,
        )


class Encoder(Stack):
    """The encoder: token ids [B, S] to states [B, S, D]."""

    head: ClassVar[Head] = "encoder"

    def __init__(self, config: PretrainedConfig, embed_tokens: nn.Embedding | None = None) -> None:
        layers = (EncoderLayer(config) for _ in range(config.encoder_layers))
        super().__init__(config, embed_tokens, layers, config.encoder_layerdrop)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput[Tensor] | tuple[Any, ...]:
        """States of the source, as `BaseModelOutput` or its tuple.

        Args:
            input_ids: int64 [B, S]; or give `inputs_embeds`.
            attention_mask: 1/0 [B, S], 0 where the input is padding.
            head_mask: 1/0 [encoder_layers, H], multiplied onto the attention weights.
            inputs_embeds: [B, S, D] instead of ids, already scaled.
            output_attentions, output_hidden_states, return_dict: what to return; the config's by default.

        Raises:
            InputError: if neither or both inputs are given, or the source is longer than the position table.
        """
        need_weights, need_states, return_dict = self._flags(output_attentions, output_hidden_states, return_dict)
        only_one("input_ids", input_ids, "inputs_embeds", inputs_embeds)
        check_ids("input_ids", input_ids)
        check_head_mask("head_mask", head_mask, len(self.layers))
        hidden = self._embed(input_ids, inputs_embeds)
        mask = padding_mask(attention_mask, hidden.dtype, hidden.shape[1])
        states: tuple[Tensor, ...] = ()
        attentions: tuple[Any, ...] = ()
        for index, layer in enumerate(self.layers):
            states += (hidden,)
            weights = None
            if not self._is_dropped():
                layer_head_mask = None if head_mask is None else head_mask[index]
                hidden, *details = self._run(
                    index, layer, hidden, mask, layer_head_mask=layer_head_mask, output_attentions=need_weights
                )
                weights = details[0] if need_weights else None
            attentions += (weights,)
        hidden = self._finish(hidden)
        output = BaseModelOutput(
            last_hidden_state=hidden,
            hidden_states=(*states, hidden) if need_states else None,
            attentions=attentions if need_weights else None,
        )
        return output if return_dict else output.to_tuple()


class Decoder(Stack):
    """The decoder: token ids [B, T] and the encoder's states [B, S, D] to states [B, T, D]."""

    head: ClassVar[Head] = "decoder"

    def __init__(self, config: PretrainedConfig, embed_tokens: nn.Embedding | None = None) -> None:
        layers = (DecoderLayer(config, index) for index in range(config.decoder_layers))
        super().__init__(config, embed_tokens, layers, config.decoder_layerdrop)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        cross_attn_head_mask: Tensor | None = None,
        past_key_values: Cache | LegacyCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions[Tensor] | tuple[Any, ...]:
        """States of the target, as `BaseModelOutputWithPastAndCrossAttentions` or its tuple.

        Args:
            input_ids: int64 [B, T]; with a cache, only the tokens that are not in it yet. Or give `inputs_embeds`.
            attention_mask: 1/0 [B, past + T]; everything is seen by default, padding included.
            encoder_hidden_states: [B, S, D]; may have fewer rows when beams share an input.
            encoder_attention_mask: 1/0 [B, S].
            head_mask, cross_attn_head_mask: 1/0 [decoder_layers, H].
            past_key_values: a `Cache`, or legacy tuples; what comes back has the same form.
            inputs_embeds: [B, T, D] instead of ids, not yet scaled.
            use_cache: return the cache (not while training with gradient checkpointing).
            output_attentions, output_hidden_states, return_dict: what to return; the config's by default.
            cache_position: int64 [T], the tokens' positions; counted on from the cache by default.

        Raises:
            InputError: if neither or both inputs are given, or the target is longer than the position table.
        """
        need_weights, need_states, return_dict = self._flags(output_attentions, output_hidden_states, return_dict)
        only_one("decoder_input_ids", input_ids, "decoder_inputs_embeds", inputs_embeds)
        check_ids("decoder_input_ids", input_ids)
        check_head_mask("head_mask", head_mask, len(self.layers))
        check_head_mask("cross_attn_head_mask", cross_attn_head_mask, len(self.layers))
        cache, is_legacy = self._open_cache(past_key_values, use_cache, encoder_hidden_states is not None)
        output = self._decode(
            input_ids,
            inputs_embeds,
            attention_mask,
            encoder_hidden_states,
            encoder_attention_mask,
            cache,
            head_mask=head_mask,
            cross_attn_head_mask=cross_attn_head_mask,
            need_weights=need_weights,
            need_states=need_states,
            cache_position=cache_position,
        )
        if is_legacy and cache is not None:
            output.past_key_values = cache.to_legacy_cache()
        return output if return_dict else output.to_tuple()

    def _decode(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        memory: Tensor | None,
        memory_mask: Tensor | None,
        cache: Cache | None,
        *,
        head_mask: Tensor | None = None,
        cross_attn_head_mask: Tensor | None = None,
        need_weights: bool = False,
        need_states: bool = False,
        cache_position: Tensor | None = None,
        products: Products | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions[Tensor]:
        """`forward` behind its checks, which is one step of `generate`.

        Args:
            input_ids, inputs_embeds, attention_mask, head_mask, cross_attn_head_mask, cache_position: as for `forward`.
            memory: the encoder's states [B, S, D].
            memory_mask: 1/0 [B, S] or additive [B, 1, 1, S].
            cache: takes in the new keys and values.
            need_weights, need_states: whether attentions and hidden states are collected.
            products: faster functions for the layers, see packing.py.
        """
        past = cache.get_seq_length() if cache is not None else 0
        start = past if cache_position is None else int(cache_position[-1]) + 1 - cache_position.shape[0]
        hidden = self._embed(input_ids, inputs_embeds, start, cache_position)
        mask = self._self_mask(attention_mask, hidden, past, cache_position)
        memory_mask = padding_mask(memory_mask, hidden.dtype, None if memory is None else memory.shape[1])
        has_memory = memory is not None or (cache is not None and cache.cross(0) is not None)
        more: dict[str, Any] = {} if products is None else {"products": products}
        states: tuple[Tensor, ...] = ()
        attentions: tuple[Tensor, ...] = ()
        cross_attentions: tuple[Tensor, ...] = ()
        for index, layer in enumerate(self.layers):
            states += (hidden,)
            if self._is_dropped():
                continue
            hidden, *details = self._run(
                index,
                layer,
                hidden,
                mask,
                memory,
                encoder_attention_mask=memory_mask,
                layer_head_mask=None if head_mask is None else head_mask[index],
                cross_attn_layer_head_mask=None if cross_attn_head_mask is None else cross_attn_head_mask[index],
                past_key_values=cache,
                output_attentions=need_weights,
                use_cache=cache is not None,
                cache_position=cache_position,
                **more,
            )
            if need_weights:
                attentions += (details[0],)
                cross_attentions += (details[1],)
        hidden = self._finish(hidden)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden,
            past_key_values=cache,
            hidden_states=(*states, hidden) if need_states else None,
            attentions=attentions if need_weights else None,
            cross_attentions=cross_attentions if need_weights and has_memory else None,
        )

    def _open_cache(
        self, past: Cache | LegacyCache | None, use_cache: bool | None, has_memory: bool
    ) -> tuple[Cache | None, bool]:
        """The cache to use, and whether to hand it back as legacy tuples."""
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if self.gradient_checkpointing and self.training:
            use_cache = False  # a recomputed layer would write its keys twice
        if past is not None and not isinstance(past, Cache):
            if not isinstance(past, Sequence):
                raise InputError(
                    f"`past_key_values` must be a cache of this library or tuples of tensors, got {type(past)}. "
                    "Convert it with to_legacy_cache. Of the methods of peft, prefix tuning is not possible."
                )
            is_full = len(past) > 0 and len(past[0]) > 2
            kind = EncoderDecoderCache if has_memory or is_full else DynamicCache
            return kind.from_legacy_cache(past), True
        if past is None and use_cache:
            return EncoderDecoderCache() if has_memory else DynamicCache(), False
        return past, False

    def _self_mask(
        self,
        attention_mask: Tensor | None,
        hidden: Tensor,
        past: int,
        cache_position: Tensor | None,
    ) -> Tensor | None:
        """The additive mask of self-attention; None where that needs none, or is causal by itself."""
        length = hidden.shape[1]
        if attention_mask is not None and attention_mask.dim() == 2:
            if attention_mask.shape[1] != past + length and not is_traced():
                raise InputError(
                    f"`decoder_attention_mask` must have {past + length} columns, one for each cached and new token, "
                    f"got {list(attention_mask.shape)}."
                )
            if hides_nothing(attention_mask):
                attention_mask = None
        if attention_mask is None:
            if length == 1:
                return None  # one query sees every key there is
            if past == 0 and all(map(_is_own, self.layers)):
                return None
        positions = cache_position
        if positions is None:
            positions = torch.arange(past, past + length, device=hidden.device)
        return causal_mask(attention_mask, positions, past + length, hidden.dtype)


def _is_own(layer: nn.Module) -> bool:
    """Whether a layer's self-attention is causal without a mask."""
    attention: Any = getattr(layer, "self_attn", None)
    kinds = ((layer, DecoderLayer), (attention, Attention))
    return all(type(one) is kind and "forward" not in vars(one) for one, kind in kinds)


def only_one(name: str, value: Any, other_name: str, other: Any) -> None:
    """Raise unless exactly one of two inputs is given."""
    if (value is None) == (other is None):
        given = "neither" if value is None else "both"
        raise InputError(f"exactly one of `{name}` and `{other_name}` must be given, got {given}.")


def check_head_mask(name: str, mask: Tensor | None, layers: int) -> None:
    """Raise unless a head mask has one row per layer."""
    if mask is not None and mask.shape[0] != layers:
        raise InputError(f"`{name}` must have one row for each of {layers} layers, got {mask.shape[0]}.")
