"""The linen modules of the three models: base, conditional generation, and causal. Pure: arrays in, arrays out."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from ..core.config import PretrainedConfig
from ..core.outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)
from .attention import Linear, Packed, wide
from .cache import Entries, entries
from .layers import TokenEmbedding
from .loss import head_loss
from .transformer import Decoder, Details, Encoder, shift_tokens_right


def _token_embedding(config: PretrainedConfig, dtype: Any, **options: Any) -> TokenEmbedding:
    padding = config.pad_token_id
    return TokenEmbedding(config.vocab_size, config.d_model, config.init_std, dtype, padding, **options)


class Module(nn.Module):
    """What the three modules share: a config, the dtype of the computation, and the decoder's step.

    All methods are pure: `module.apply({"params": params}, …, method="step")` changes nothing.
    """

    config: PretrainedConfig
    dtype: Any = jnp.float32
    gradient_checkpointing: bool = False

    def _decoder(self) -> Decoder:
        raise NotImplementedError

    def entries(self, rows: int, length: int, dtype: Any = None) -> Entries:
        """An empty cache for `step`: for every layer, keys and values [rows, H, length, K]."""
        return entries(self.config, rows, length, dtype or self.dtype)

    def cross_entries(self, memory: Array) -> Entries:
        """Keys and values [B, H, S, K] of the encoder's output [B, S, D] for every layer, once per input."""
        return self._decoder().cross_entries(memory)

    def packed(self) -> tuple[Packed, ...]:
        """For every layer, the self-attention's projections in one, for `step`."""
        return self._decoder().packed()

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
        """The decoder's `step`: states [R, T, D] of new tokens, the cache with them in it, and details."""
        return self._decoder().step(
            tokens,
            start,
            cache,
            cross,
            self_mask,
            memory_mask,
            positions=positions,
            packed=packed,
            need_weights=need_weights,
            need_hidden=need_hidden,
        )


class Seq2SeqModule(Module):
    """Encoder and decoder without a head."""

    def setup(self) -> None:
        self.shared = _token_embedding(self.config, self.dtype)
        self.encoder = Encoder(self.config, self.shared, self.dtype, self.gradient_checkpointing)
        self.decoder = Decoder(self.config, self.shared, self.dtype, self.gradient_checkpointing)

    def _decoder(self) -> Decoder:
        decoder: Decoder = self.decoder
        return decoder

    def encode(
        self,
        input_ids: Array,
        attention_mask: Array | None = None,
        position_ids: Array | None = None,
        **options: Any,
    ) -> BaseModelOutput[Array]:
        """The encoder's output; `options`: output_attentions, output_hidden_states, deterministic."""
        output: BaseModelOutput[Array] = self.encoder(input_ids, attention_mask, position_ids, **options)
        return output

    def decode(self, *inputs: Any, **options: Any) -> BaseModelOutputWithPastAndCrossAttentions[Array]:
        """The decoder's output; arguments as for `Decoder`."""
        output: BaseModelOutputWithPastAndCrossAttentions[Array] = self.decoder(*inputs, **options)
        return output

    def __call__(
        self,
        input_ids: Array,
        attention_mask: Array | None = None,
        decoder_input_ids: Array | None = None,
        decoder_attention_mask: Array | None = None,
        position_ids: Array | None = None,
        decoder_position_ids: Array | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        deterministic: bool = True,
    ) -> Any:
        """States of the target given the source; arguments as for the model, all of them arrays."""
        if decoder_input_ids is None:
            config: Any = self.config
            decoder_input_ids = shift_tokens_right(input_ids, config.pad_token_id, config.decoder_start_token_id)
        options: dict[str, Any] = {
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
            "deterministic": deterministic,
        }
        encoded = self.encode(input_ids, attention_mask, position_ids, **options)
        decoded = self.decode(
            decoder_input_ids,
            decoder_attention_mask,
            decoder_position_ids,
            encoded.last_hidden_state,
            attention_mask,
            **options,
        )
        output = Seq2SeqModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )
        return output if return_dict else output.to_tuple()


class LanguageModule(Module):
    """What both modules with a head share: logits for states."""

    def _tied(self) -> TokenEmbedding:
        raise NotImplementedError

    def _set_up_head(self) -> None:
        config: Any = self.config
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.vocab_size, config.init_std, self.dtype, use_bias=False)

    def _head_bias(self) -> Array | None:
        """What is added to the head's product, [V], or None."""
        return None

    def _states(self, labels: Array, inputs: dict[str, Any]) -> Array:
        """The states [B, T, D] under the head, for inputs of the model and the labels [B, T] to be learnt."""
        raise NotImplementedError

    def cross_entropy(self, labels: Array, label_smoothing: float = 0.0, **inputs: Any) -> Array:
        """The loss to train with, a float32 scalar: the mean cross-entropy over labels that are not -100.

        Args:
            labels: int32 [B, T].
            label_smoothing: share of each label that is spread evenly over all words.
            **inputs: what `__call__` takes, by name; `deterministic=False` to train.
        """
        hidden = self._states(labels, inputs)
        if self.config.tie_word_embeddings:
            weight = self._tied().embedding
        else:
            weight = self.lm_head.variables["params"]["kernel"].T
        return head_loss(hidden, weight, self._head_bias(), labels, label_smoothing)

    def head(self, hidden: Array) -> Array:
        """float32 logits [..., V] of states [..., D], whatever the dtype of the computation."""
        logits: Array = self._tied().attend(hidden) if self.config.tie_word_embeddings else self.lm_head(hidden)
        return logits.astype(wide(self.dtype))

    def decode(self, *inputs: Any, **options: Any) -> CausalLMOutputWithCrossAttentions[Array]:
        """The decoder's output and the logits [R, T, V] of each next token; arguments as for `Decoder`."""
        decoded = self._decoder()(*inputs, **options)
        assert decoded.last_hidden_state is not None
        return CausalLMOutputWithCrossAttentions(
            logits=self.head(decoded.last_hidden_state),
            past_key_values=decoded.past_key_values,
            hidden_states=decoded.hidden_states,
            attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
        )


class ConditionalGenerationModule(LanguageModule):
    """Encoder and decoder with a head tied to the token embedding, and a bias on its logits that is not trained."""

    def setup(self) -> None:
        config: Any = self.config
        self.model = Seq2SeqModule(config, self.dtype, self.gradient_checkpointing)
        self._set_up_head()
        shape = (1, config.vocab_size)
        self.final_logits_bias = self.param("final_logits_bias", nn.initializers.zeros, shape, jnp.float32)

    def _decoder(self) -> Decoder:
        decoder: Decoder = self.model.decoder
        return decoder

    def _tied(self) -> TokenEmbedding:
        shared: TokenEmbedding = self.model.shared
        return shared

    def _head_bias(self) -> Array:
        return lax.stop_gradient(self.final_logits_bias)[0]

    def _states(self, labels: Array, inputs: dict[str, Any]) -> Array:
        if inputs.get("decoder_input_ids") is None:
            config: Any = self.config
            inputs["decoder_input_ids"] = shift_tokens_right(labels, config.pad_token_id, config.decoder_start_token_id)
        states: Array = self.model(**inputs).last_hidden_state
        return states

    def head(self, hidden: Array) -> Array:
        """float32 logits [..., V] of states [..., D], bias included."""
        logits = super().head(hidden)
        return logits + self._head_bias().astype(logits.dtype).reshape((1,) * (logits.ndim - 1) + (-1,))

    def encode(self, *inputs: Any, **options: Any) -> BaseModelOutput[Array]:
        """The encoder's output; arguments as for `Seq2SeqModule.encode`."""
        output: BaseModelOutput[Array] = self.model.encode(*inputs, **options)
        return output

    def __call__(
        self,
        input_ids: Array,
        attention_mask: Array | None = None,
        decoder_input_ids: Array | None = None,
        decoder_attention_mask: Array | None = None,
        position_ids: Array | None = None,
        decoder_position_ids: Array | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        deterministic: bool = True,
    ) -> Any:
        """Logits [B, T, V] of the target's next tokens; arguments as for the model, all of them arrays."""
        outputs = self.model(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            position_ids,
            decoder_position_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            deterministic=deterministic,
        )
        output = Seq2SeqLMOutput(
            logits=self.head(outputs.last_hidden_state),
            decoder_hidden_states=outputs.decoder_hidden_states,
            decoder_attentions=outputs.decoder_attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
            encoder_attentions=outputs.encoder_attentions,
        )
        return output if return_dict else output.to_tuple()


class DecoderWrapper(nn.Module):
    """Puts the decoder under the name the hub's checkpoints give it, `model.decoder`."""

    config: PretrainedConfig
    dtype: Any
    gradient_checkpointing: bool

    def setup(self) -> None:
        tokens = _token_embedding(self.config, self.dtype, parent=None)  # becomes the decoder's own, `embed_tokens`
        self.decoder = Decoder(self.config, tokens, self.dtype, self.gradient_checkpointing)


class CausalModule(LanguageModule):
    """The decoder alone with a head, tied to its token embedding."""

    def setup(self) -> None:
        self.model = DecoderWrapper(self.config, self.dtype, self.gradient_checkpointing)
        self._set_up_head()

    def _decoder(self) -> Decoder:
        decoder: Decoder = self.model.decoder
        return decoder

    def _tied(self) -> TokenEmbedding:
        tokens: TokenEmbedding = self.model.decoder.embed_tokens
        return tokens

    def __call__(self, *inputs: Any, **options: Any) -> CausalLMOutputWithCrossAttentions[Array]:
        """The decoder's output and the logits [B, T, V] of each next token; arguments as for `Decoder`."""
        return self.decode(*inputs, **options)

    def _states(self, labels: Array, inputs: dict[str, Any]) -> Array:
        states = self._decoder()(**inputs).last_hidden_state
        assert states is not None
        return states
