"""The three models over the stack, for both families: base, conditional generation, and causal."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import keras
import tensorflow as tf
from keras import ops

from ..core.config import Seq2SeqConfig
from ..core.outputs import (
    BaseModelOutput,
    CausalLMOutputWithCrossAttentions,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)
from ..core.parameters import FINAL_LOGITS_BIAS, Head
from ..errors import ConfigError, InputError
from .cache import Entries, LegacyCache
from .changes import ORIGINALS, changed_head
from .generation import GenerationMixin
from .layers import TokenEmbedding
from .linear import Linear, Part, apply, zeros
from .loss import head_loss, language_modeling_loss
from .model import PreTrainedModel
from .transformer import Decoder, Encoder


def shift_tokens_right(input_ids: Any, pad_token_id: int | None, decoder_start_token_id: int | None) -> Any:
    """Decoder inputs for labels: the start token, then the labels without their last; -100 becomes padding.

    Args:
        input_ids: int labels [B, T].

    Raises:
        ConfigError: if the config names no pad or start token.
    """
    if pad_token_id is None or decoder_start_token_id is None:
        missing = "pad_token_id" if pad_token_id is None else "decoder_start_token_id"
        raise ConfigError(f"`{missing}` must be set in the config to make decoder inputs from labels, got None.")
    input_ids = ops.convert_to_tensor(input_ids)
    start = ops.full_like(input_ids[:, :1], decoder_start_token_id)
    shifted = ops.concatenate([start, input_ids[:, :-1]], axis=1)
    return ops.where(ops.equal(shifted, -100), ops.cast(pad_token_id, shifted.dtype), shifted)


class Steps:
    """What every model offers for decoding, besides its documented forward pass. All of it can be compiled."""

    def get_decoder(self) -> Decoder:
        """The decoder."""
        raise NotImplementedError

    def cross_entries(self, memory: Any) -> Entries:
        """Keys and values of the encoder's output [B, S, D] for every decoder layer, each [B, H, S, K]."""
        return self.get_decoder().cross_entries(memory)

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
        packed: Any = None,
        need_weights: bool = False,
        need_hidden: bool = False,
    ) -> tuple[Any, Entries, tuple[Any, Any, Any]]:
        """States of new tokens over a cache of fixed size; see `Decoder.step`."""
        return self.get_decoder().step(
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

    def encode(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BaseModelOutput[Any]:
        """The encoder's output without training noise, `last_hidden_state` [B, S, D] first."""
        encoder: Encoder = self.get_encoder()  # type: ignore[attr-defined]
        output: BaseModelOutput[Any] = encoder.call(
            input_ids, attention_mask, head_mask, inputs_embeds, output_attentions, output_hidden_states, True
        )
        return output


class Seq2SeqModel(Steps, PreTrainedModel):
    """Encoder and decoder without a head."""

    head: ClassVar[Head] = "base"

    def __init__(self, config: Seq2SeqConfig, *inputs: Any, **kwargs: Any) -> None:
        super().__init__(config, *inputs, **kwargs)
        with keras.name_scope(self.name):
            self.shared = TokenEmbedding(config, name="shared", **self.inner)
            self.encoder = Encoder(config, self.shared, name="encoder", **self.inner)
            self.decoder = Decoder(config, self.shared, name="decoder", **self.inner)

    def get_encoder(self) -> Encoder:
        return self.encoder

    def get_decoder(self) -> Decoder:
        return self.decoder

    def get_input_embeddings(self) -> TokenEmbedding:
        return self.shared

    def call(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        decoder_position_ids: Any = None,
        head_mask: Any = None,
        decoder_head_mask: Any = None,
        cross_attn_head_mask: Any = None,
        encoder_outputs: Any = None,
        past_key_values: LegacyCache | None = None,
        inputs_embeds: Any = None,
        decoder_inputs_embeds: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
    ) -> Any:
        """States of the target given the source, as `Seq2SeqModelOutput` or its tuple.

        All inputs may also come as one list, tuple or dict in the place of `input_ids`.

        Args:
            input_ids: int source [B, S], at most `max_position_embeddings` long.
            attention_mask: 1/0 [B, S], 0 where the source is padding; by default nothing is.
            decoder_input_ids: int target [B, T]; with a cache, only the tokens that are not in it yet.
            decoder_attention_mask: 1/0 [B, past + T]; by default every earlier token is seen, padding included.
            decoder_position_ids: int [T], [B, T] or a scalar; counted on from the cache by default.
            head_mask: 1/0 [encoder_layers, H], 0 switches a head off.
            decoder_head_mask, cross_attn_head_mask: 1/0 [decoder_layers, H].
            encoder_outputs: what the encoder returned before, to save running it; or its states [B, S, D] alone.
            past_key_values: per decoder layer (keys, values, cross keys, cross values), each [B, H, length, K].
            inputs_embeds: [B, S, D] instead of `input_ids`, already scaled.
            decoder_inputs_embeds: [B, T, D] instead of `decoder_input_ids`, already scaled.
            use_cache: return keys and values for the next step.
            output_attentions: return all attention weights.
            output_hidden_states: return the states of all layers.
            return_dict: an output object (default) or a plain tuple.
            training: whether dropout is on.

        Raises:
            InputError: if an input is missing, given twice, of the wrong shape, or longer than the position table.
        """
        return_dict = self.config.use_return_dict if return_dict is None else return_dict
        encoded: Any = as_encoder_output(encoder_outputs)
        if encoded is None:
            encoded = self.encoder.call(
                input_ids=input_ids,
                attention_mask=attention_mask,
                head_mask=head_mask,
                inputs_embeds=inputs_embeds,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                return_dict=True,
                training=training,
            )
        decoded = self.decoder.call(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoded[0],
            encoder_attention_mask=attention_mask,
            head_mask=decoder_head_mask,
            cross_attn_head_mask=cross_attn_head_mask,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            position_ids=decoder_position_ids,
            training=training,
        )
        output = Seq2SeqModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            past_key_values=decoded.past_key_values,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )
        return output if return_dict else output.to_tuple()


def as_encoder_output(given: Any) -> BaseModelOutput[Any] | None:
    """What `encoder_outputs` may be, as the encoder's own output: that, its tuple or list, or the states alone."""
    if given is None or isinstance(given, BaseModelOutput):
        return given
    if isinstance(given, dict):
        return BaseModelOutput(**given)
    parts = given if isinstance(given, tuple | list) else (given,)
    if not 1 <= len(parts) <= 3:
        raise InputError(f"`encoder_outputs` must have 1 to 3 parts, got {len(parts)}. Pass what the encoder returned.")
    return BaseModelOutput(*parts)


class LanguageModel(Steps, PreTrainedModel, GenerationMixin):
    """What both models with a head share: logits for states, and the loss."""

    lm_head: Linear | None = None

    def _head_bias(self) -> Any:
        """What is added to the head's product, [1, V], or None."""
        return None

    def _make_head(self, config: Seq2SeqConfig) -> None:
        if not config.tie_word_embeddings:
            width, size, std = config.d_model, config.vocab_size, config.init_std
            self.lm_head = Linear(width, size, std, use_bias=False, name="lm_head", **self.inner)

    def _logits(self, hidden: Any) -> Any:
        head, embedding, bias = self.lm_head, self.get_input_embeddings(), self._head_bias()
        logits = embedding.logits(hidden) if head is None else apply(head, hidden)
        return logits if bias is None else logits + ops.cast(bias[0], logits.dtype)

    def logits(self, hidden: Any) -> Any:
        """Logits float32 [..., V] of states [..., D], the bias included."""
        return ops.cast(self._logits(hidden), "float32")

    def get_output_embeddings(self) -> Any:
        """What makes logits of states: the token embedding if it is tied, else a `Linear` with a kernel [D, V]."""
        return self.get_input_embeddings() if self.lm_head is None else self.lm_head

    def get_lm_head(self) -> Any:
        """The head that is a layer of its own; None where it is the token embedding."""
        return self.lm_head

    def set_output_embeddings(self, value: Any) -> None:
        """Take over the vectors [V, D] of an embedding (tied) or the kernel [D, V] of a linear layer (not tied)."""
        if self.lm_head is None:
            self.set_input_embeddings(value)
        else:
            self.lm_head.replace("kernel", ops.convert_to_tensor(getattr(value, "kernel", value)))

    def hf_compute_loss(self, labels: Any, logits: Any) -> Any:
        """Mean cross-entropy, a float32 scalar, of logits [B, T, V] over labels [B, T] that are not -100."""
        return language_modeling_loss(ops.convert_to_tensor(logits), ops.convert_to_tensor(labels))

    def cross_entropy(self, labels: Any, label_smoothing: float = 0.0, training: bool = False, **inputs: Any) -> Any:
        """The loss to train with, a float32 scalar: the mean cross-entropy over labels that count.

        It is the `loss` of a call with labels, without that call's logits [B, T, V], so a step takes far less memory.

        Args:
            labels: int [B, T], -100 or padding where a place does not count.
            label_smoothing: share of each label that is spread evenly over all words, from 0 to 1.
            training: whether dropout is on.
            **inputs: inputs of `call`.

        Raises:
            InputError: as `call` does.
        """
        labels = self._known(labels)
        return self._loss(self._states(labels, {**inputs, "training": training}), labels, label_smoothing)

    def _states(self, labels: Any, inputs: dict[str, Any]) -> Any:
        """The states [B, T, D] under the head, for inputs of `call` and the labels [B, T] to be learnt."""
        raise NotImplementedError

    def _loss(self, hidden: Any, labels: Any, label_smoothing: float = 0.0) -> Any:
        head, embedding, bias = self.lm_head, self.get_input_embeddings(), self._head_bias()
        if changed_head(self) is not None:
            return language_modeling_loss(self._logits(hidden), labels, label_smoothing)
        weight = embedding.embeddings if head is None else ops.transpose(head.kernel)
        return head_loss(hidden, weight, None if bias is None else ops.reshape(bias, (-1,)), labels, label_smoothing)

    def _loss_beside(self, hidden: Any, labels: Any, logits: Any) -> Any:
        """The loss where logits are returned too. In a graph those that nobody looks at are never made."""
        if tf.executing_eagerly() or isinstance(hidden, keras.KerasTensor):
            return self.hf_compute_loss(labels, logits)
        return self._loss(hidden, labels)

    def _known(self, labels: Any) -> Any:
        """Labels with padding made -100."""
        labels = ops.convert_to_tensor(labels)
        if self.config.pad_token_id is None:
            return labels
        return ops.where(ops.equal(labels, self.config.pad_token_id), ops.cast(-100, labels.dtype), labels)


class ConditionalGenerationModel(LanguageModel):
    """Encoder and decoder with a language-modelling head tied to the token embedding, and a bias on its logits."""

    head: ClassVar[Head] = "conditional"
    base_class: ClassVar[type[Seq2SeqModel]]

    def __init__(self, config: Seq2SeqConfig, *inputs: Any, **kwargs: Any) -> None:
        super().__init__(config, *inputs, **kwargs)
        with keras.name_scope(self.name):
            self.model = self.base_class(config, name="model", **self.inner)
            self._make_head(config)
        # Not trained, like PyTorch's buffer.
        self.final_logits_bias = self.variable(FINAL_LOGITS_BIAS, (1, config.vocab_size), zeros, trainable=False)

    def get_encoder(self) -> Encoder:
        return self.model.encoder

    def get_decoder(self) -> Decoder:
        return self.model.decoder

    def get_input_embeddings(self) -> TokenEmbedding:
        return self.model.shared

    def _head_bias(self) -> Any:
        return self.final_logits_bias

    def get_bias(self) -> dict[str, Any] | None:
        """The bias on the logits, {"final_logits_bias": [1, V]}."""
        return {FINAL_LOGITS_BIAS: self.final_logits_bias}

    def set_bias(self, value: dict[str, Any]) -> None:
        """Replace the bias on the logits, as `get_bias` gives it; of any size."""
        self.replace(FINAL_LOGITS_BIAS, ops.reshape(ops.convert_to_tensor(value[FINAL_LOGITS_BIAS]), (1, -1)))

    def prepare_decoder_input_ids_from_labels(self, labels: Any) -> Any:
        """Decoder inputs [B, T] for labels [B, T]: shifted right, the start token first, -100 as padding."""
        return shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)

    def _states(self, labels: Any, inputs: dict[str, Any]) -> Any:
        if inputs.get("decoder_input_ids") is None and inputs.get("decoder_inputs_embeds") is None:
            inputs["decoder_input_ids"] = self.prepare_decoder_input_ids_from_labels(labels)
        return self.model.call(**{**inputs, "use_cache": False, "return_dict": True}).last_hidden_state

    def call(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        decoder_position_ids: Any = None,
        head_mask: Any = None,
        decoder_head_mask: Any = None,
        cross_attn_head_mask: Any = None,
        encoder_outputs: Any = None,
        past_key_values: LegacyCache | None = None,
        inputs_embeds: Any = None,
        decoder_inputs_embeds: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Any = None,
        training: bool = False,
    ) -> Any:
        """Logits [B, T, V] of the target's next tokens and, with labels, the loss; as `Seq2SeqLMOutput` or its tuple.

        Args:
            labels: int [B, T], -100 or padding where a place does not count. Unless decoder inputs are given too, they
                are the labels shifted right. Nothing is cached then.

        The other arguments, and the errors, are those of the base model's `call`.

        # Differs from transformers 4.57.6: the loss is a scalar, not of shape [1], which `float` no longer takes.
        """
        return_dict = self.config.use_return_dict if return_dict is None else return_dict
        if labels is not None:
            labels, use_cache = self._known(labels), False
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        outputs = self.model.call(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            decoder_position_ids=decoder_position_ids,
            head_mask=head_mask,
            decoder_head_mask=decoder_head_mask,
            cross_attn_head_mask=cross_attn_head_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            training=training,
        )
        logits = self.logits(outputs.last_hidden_state)
        output = Seq2SeqLMOutput(
            loss=None if labels is None else self._loss_beside(outputs.last_hidden_state, labels, logits),
            logits=logits,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.decoder_hidden_states,
            decoder_attentions=outputs.decoder_attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
            encoder_attentions=outputs.encoder_attentions,
        )
        return output if return_dict else output.to_tuple()

    def prepare_inputs_for_generation(
        self,
        decoder_input_ids: Any,
        past_key_values: LegacyCache | None = None,
        attention_mask: Any = None,
        decoder_attention_mask: Any = None,
        head_mask: Any = None,
        decoder_head_mask: Any = None,
        cross_attn_head_mask: Any = None,
        use_cache: bool | None = None,
        encoder_outputs: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of `call` for the next token of ids [B, T] so far; with a cache, the last token only."""
        if decoder_attention_mask is not None:
            mask = ops.cast(decoder_attention_mask, "int32")
            positions = (ops.cumsum(mask, axis=-1) - mask)[:, -1:]
        elif past_key_values is not None:
            positions = past_key_values[0][0].shape[2]
        else:
            positions = ops.arange(ops.shape(decoder_input_ids)[1], dtype="int32")
        return {
            "input_ids": None,
            "encoder_outputs": encoder_outputs,
            "past_key_values": past_key_values,
            "decoder_input_ids": decoder_input_ids if past_key_values is None else decoder_input_ids[:, -1:],
            "attention_mask": attention_mask,
            "decoder_attention_mask": decoder_attention_mask,
            "decoder_position_ids": positions,
            "head_mask": head_mask,
            "decoder_head_mask": decoder_head_mask,
            "cross_attn_head_mask": cross_attn_head_mask,
            "use_cache": use_cache,
        }


class DecoderWrapper(Part):
    """Puts the decoder under the name the hub's checkpoints give it, `model.decoder`."""

    def __init__(self, config: Seq2SeqConfig, **options: Any) -> None:
        super().__init__(**options)
        with keras.name_scope(self.name):
            self.decoder = Decoder(config, name="decoder", **self.inner)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.decoder.call(*args, **kwargs)


class CausalModel(LanguageModel):
    """The decoder alone with a language-modelling head, tied to its token embedding."""

    head: ClassVar[Head] = "causal"

    def __init__(self, config: Seq2SeqConfig, *inputs: Any, **kwargs: Any) -> None:
        config = copy.deepcopy(config)
        config.is_decoder = True
        config.is_encoder_decoder = False
        super().__init__(config, *inputs, **kwargs)
        with keras.name_scope(self.name):
            self.model = DecoderWrapper(config, name="model", **self.inner)
            self._make_head(config)

    def get_decoder(self) -> Decoder:
        return self.model.decoder

    def set_decoder(self, decoder: Decoder) -> None:
        self.model.decoder = decoder

    def get_input_embeddings(self) -> TokenEmbedding:
        return self.model.decoder.embed_tokens

    def _states(self, labels: Any, inputs: dict[str, Any]) -> Any:
        return self.model.decoder.call(**{**inputs, "use_cache": False, "return_dict": True}).last_hidden_state

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
        labels: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
    ) -> Any:
        """Logits [B, T, V] of each next token, as `CausalLMOutputWithCrossAttentions` or its tuple.

        Args:
            input_ids: int [B, T]; with a cache, only the tokens that are not in it yet.
            attention_mask: 1/0 [B, past + T].
            encoder_hidden_states: [B, S, D]; cross-attention runs only if given (or cached).
            encoder_attention_mask: 1/0 [B, S].
            head_mask, cross_attn_head_mask: 1/0 [decoder_layers, H].
            past_key_values: tuples returned before.
            inputs_embeds: [B, T, D] instead of ids, already scaled.
            labels: int [B, T], compared place by place with the logits (not shifted); -100 and padding do not count.
            use_cache, output_attentions, output_hidden_states, return_dict: what to return.
            training: whether dropout is on.

        Raises:
            InputError: if an input is missing, given twice, of the wrong shape, or longer than the position table.
        """
        return_dict = self.config.use_return_dict if return_dict is None else return_dict
        outputs = self.model.decoder.call(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            head_mask=head_mask,
            cross_attn_head_mask=cross_attn_head_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            training=training,
        )
        hidden = outputs.last_hidden_state
        logits = self.logits(hidden)
        output = CausalLMOutputWithCrossAttentions(
            loss=None if labels is None else self._loss_beside(hidden, self._known(labels), logits),
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
        )
        return output if return_dict else output.to_tuple()

    def prepare_inputs_for_generation(
        self, input_ids: Any, past_key_values: LegacyCache | None = None, attention_mask: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The arguments of `call` for the next token of ids [B, T] so far; with a cache, the last token only."""
        return {
            "input_ids": input_ids if past_key_values is None else input_ids[:, -1:],
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
            **{name: value for name, value in kwargs.items() if value is not None},
        }


ORIGINALS.remember(ConditionalGenerationModel, CausalModel)
