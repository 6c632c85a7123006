"""The three models over the stack, for both families: base, conditional generation, and causal."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.config import PretrainedConfig, Seq2SeqConfig
from ..core.outputs import (
    BaseModelOutput,
    CausalLMOutputWithCrossAttentions,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)
from ..core.parameters import Head
from ..errors import ConfigError
from .cache import Cache, LegacyCache
from .changes import ORIGINALS, is_changed
from .generation import GenerationMixin
from .layers import TokenEmbedding, sharing_gradient
from .linear import any_hooks, linear
from .loss import head_loss, language_modeling_loss
from .model import PreTrainedModel, uninitialised
from .quantization import Int8Linear
from .transformer import Decoder, Encoder

EncoderOutputs = BaseModelOutput[Tensor] | tuple[Tensor, ...]


def shift_tokens_right(input_ids: Tensor, pad_token_id: int | None, decoder_start_token_id: int | None) -> Tensor:
    """Decoder inputs for labels: the start token, then the labels without their last; -100 becomes padding.

    Args:
        input_ids: int64 labels [B, T].

    Raises:
        ConfigError: if the config names no pad or start token.
    """
    if pad_token_id is None or decoder_start_token_id is None:
        missing = "pad_token_id" if pad_token_id is None else "decoder_start_token_id"
        raise ConfigError(f"`{missing}` must be set in the config to make decoder inputs from labels, got None.")
    shifted = F.pad(input_ids[:, :-1], (1, 0), value=decoder_start_token_id)
    return shifted.masked_fill(shifted == -100, pad_token_id)


class Seq2SeqModel(PreTrainedModel):
    """Encoder and decoder without a head."""

    head: ClassVar[Head] = "base"
    _tied_weights_keys = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]  # noqa: RUF012

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        with uninitialised():
            self.shared = TokenEmbedding(config.vocab_size, config.d_model, config.pad_token_id)
            self.encoder = Encoder(config, self.shared)
            self.decoder = Decoder(config, self.shared)
        self.post_init()

    def get_encoder(self) -> Encoder:
        return self.encoder

    def get_decoder(self) -> Decoder:
        return self.decoder

    def get_input_embeddings(self) -> nn.Embedding:
        return self.shared

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.shared = self.encoder.embed_tokens = self.decoder.embed_tokens = value  # type: ignore[assignment]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        decoder_head_mask: Tensor | None = None,
        cross_attn_head_mask: Tensor | None = None,
        encoder_outputs: EncoderOutputs | None = None,
        past_key_values: Cache | LegacyCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
    ) -> Seq2SeqModelOutput[Tensor] | tuple[Any, ...]:
        """States of the target given the source, as `Seq2SeqModelOutput` or its tuple.

        Args:
            input_ids: int64 source [B, S], at most `max_position_embeddings` long.
            attention_mask: 1/0 [B, S], 0 where the source is padding; by default nothing is.
            decoder_input_ids: int64 target [B, T]; with a cache, only the tokens that are not in it yet.
            decoder_attention_mask: 1/0 [B, past + T]; by default every earlier token is seen, padding included.
            head_mask: 1/0 [encoder_layers, H], 0 switches a head off.
            decoder_head_mask, cross_attn_head_mask: 1/0 [decoder_layers, H].
            encoder_outputs: what the encoder returned before, to save running it.
            past_key_values: a cache returned before, or legacy tuples of (key, value, cross key, cross value), each
                [B, H, length, K]; what is returned has the same form.
            inputs_embeds: [B, S, D] instead of `input_ids`, already scaled.
            decoder_inputs_embeds: [B, T, D] instead of `decoder_input_ids`; `inputs_embeds` if neither is given.
            use_cache: return keys and values for the next step.
            output_attentions: return all attention weights.
            output_hidden_states: return the states of all layers.
            return_dict: an output object (default) or a plain tuple.
            cache_position: int64 [T], positions of the target's tokens; counted on from the cache by default.

        Raises:
            InputError: if an input is missing, given twice, of the wrong shape, or longer than the position table.
        """
        return_dict = self.config.use_return_dict if return_dict is None else return_dict
        encoded: Any = encoder_outputs
        if encoder_outputs is None:
            encoded = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                head_mask=head_mask,
                inputs_embeds=inputs_embeds,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                return_dict=True,
            )
        elif not isinstance(encoder_outputs, BaseModelOutput):
            encoded = BaseModelOutput(*cast(tuple[Any, ...], encoder_outputs)[:3])
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_inputs_embeds = inputs_embeds
        decoded = self.decoder(
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
            cache_position=cache_position,
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


class LanguageModel(PreTrainedModel, GenerationMixin):
    """What both models with a head share: logits for states."""

    lm_head: nn.Linear

    def _head_bias(self) -> Tensor | None:
        """What is added to the head's product, [V], or None."""
        return None

    def _head_weight(self) -> Tensor | None:
        """The weight [V, D] of a head that nobody has changed; None where the head must be called."""
        head: Any = self.lm_head  # whatever a user has put there
        if (
            any_hooks()
            or is_changed("lm_head", head)
            or type(head) is not nn.Linear
            or getattr(head, "bias", None) is not None
        ):
            return None
        weight: Tensor = head.weight
        return weight

    def _logits(self, hidden: Tensor) -> Tensor:
        head: Any = self.lm_head
        bias, weight = self._head_bias(), self._head_weight()
        if weight is not None:
            return linear(hidden, weight, bias)
        if type(head) is Int8Linear and not is_changed("lm_head", head):
            quantized: Tensor = head.product(hidden, bias)
            return quantized
        logits: Tensor = head(hidden)
        return logits if bias is None else logits + bias

    def _wide(self, logits: Tensor | None) -> Tensor | None:
        """Logits as they are given back: float32 under autocast."""
        is_mixed = logits is not None and torch.is_autocast_enabled(logits.device.type)
        return logits.float() if logits is not None and is_mixed else logits

    def _states(self, labels: Tensor, inputs: dict[str, Any]) -> Tensor:
        """The states [B, T, D] under the head, for inputs of `forward` and the labels [B, T] to be learnt."""
        raise NotImplementedError

    @contextmanager
    def _learning(self, labels: Tensor | None) -> Iterator[Tensor | None]:
        """Within, a tied head and the token embeddings share one gradient, where there are labels to learn from.

        Yields:
            What the head is to compute with, if it has a weight that may be taken.
        """
        weight = self._head_weight()
        embedding: Any = self.get_input_embeddings()
        is_tied = weight is not None and weight is getattr(embedding, "weight", None)
        is_plain = type(embedding) is TokenEmbedding and type(weight) is nn.Parameter
        is_learning = labels is not None and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if is_tied and is_plain and is_learning and cast(Tensor, weight).requires_grad:
            with sharing_gradient(cast(nn.Parameter, weight)) as shared:
                yield shared
        else:
            yield weight

    def _loss(
        self,
        hidden: Tensor,
        labels: Tensor | None,
        weight: Tensor | None,
        label_smoothing: float = 0.0,
        keep_logits: bool = True,
    ) -> tuple[Tensor | None, Tensor | None]:
        """The loss, if there are labels, and the logits, if they are to be kept; the weight is that of `_learning`."""
        if labels is None:
            return None, self._wide(self._logits(hidden))
        if weight is not None:
            loss, kept = head_loss(hidden, weight, self._head_bias(), labels, label_smoothing, keep_logits)
            return loss, self._wide(kept)
        logits = self._logits(hidden)
        return language_modeling_loss(logits, labels, label_smoothing), self._wide(logits)

    def cross_entropy(self, labels: Tensor, label_smoothing: float = 0.0, **inputs: Any) -> Tensor:
        """The loss to train with, a float32 scalar: the mean cross-entropy over labels that are not -100.

        It is the `loss` of a forward pass with labels, without that pass's logits [B, T, V]: they are never all there
        at once, so a step takes far less memory.

        Args:
            labels: int64 [B, T], -100 where a place does not count.
            label_smoothing: share of each label that is spread evenly over all words, from 0 to 1.
            **inputs: inputs of `forward`.

        Raises:
            InputError: as `forward` does.
        """
        with self._learning(labels) as weight:
            hidden = self._states(labels, inputs)
        loss, _ = self._loss(hidden, labels, weight, label_smoothing, keep_logits=False)
        return cast(Tensor, loss)


class ConditionalGenerationModel(LanguageModel):
    """Encoder and decoder with a language-modelling head tied to the token embedding, and a bias on its logits."""

    head: ClassVar[Head] = "conditional"
    base_class: ClassVar[type[Seq2SeqModel]]
    _tied_weights_keys = [  # noqa: RUF012
        "model.encoder.embed_tokens.weight",
        "model.decoder.embed_tokens.weight",
        "lm_head.weight",
    ]

    final_logits_bias: Tensor

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        with uninitialised():
            self.model = self.base_class(config)
            self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.register_buffer("final_logits_bias", torch.zeros(1, config.vocab_size))
        self.tie_weights()
        self.post_init()

    def get_encoder(self) -> Encoder:
        return self.model.encoder

    def get_decoder(self) -> Decoder:
        return self.model.decoder

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.shared

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.set_input_embeddings(value)

    def _resize_head(self, size: int) -> None:
        bias = self.final_logits_bias
        self.final_logits_bias = F.pad(bias[:, :size], (0, max(0, size - bias.shape[1])))

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Decoder inputs [B, T] for labels [B, T]: shifted right, the start token first, -100 as padding."""
        return shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)

    def _head_bias(self) -> Tensor | None:
        return self.final_logits_bias[0].to(self.dtype)

    def _states(self, labels: Tensor, inputs: dict[str, Any]) -> Tensor:
        if inputs.get("decoder_input_ids") is None and inputs.get("decoder_inputs_embeds") is None:
            inputs["decoder_input_ids"] = self.prepare_decoder_input_ids_from_labels(labels)
        states: Tensor = self.model(**{**inputs, "use_cache": False, "return_dict": True}).last_hidden_state
        return states

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        decoder_head_mask: Tensor | None = None,
        cross_attn_head_mask: Tensor | None = None,
        encoder_outputs: EncoderOutputs | None = None,
        past_key_values: Cache | LegacyCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
    ) -> Seq2SeqLMOutput[Tensor] | tuple[Any, ...]:
        """Logits [B, T, V] of the target's next tokens and, with labels, the loss; as `Seq2SeqLMOutput` or its tuple.

        Args:
            labels: int64 [B, T], -100 where a place does not count. Unless decoder inputs are given too, they are the
                labels shifted right. Nothing is cached then.

        The other arguments, and the errors, are those of the base model's `forward`.
        """
        return_dict = self.config.use_return_dict if return_dict is None else return_dict
        if labels is not None:
            use_cache = False
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        with self._learning(labels) as weight:
            outputs = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                decoder_input_ids=decoder_input_ids,
                decoder_attention_mask=decoder_attention_mask,
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
                cache_position=cache_position,
            )
        loss, logits = self._loss(outputs.last_hidden_state, labels, weight)
        output = Seq2SeqLMOutput(
            loss=loss,
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


class DecoderWrapper(PreTrainedModel):
    """Puts the decoder under the name the hub's checkpoints give it, `model.decoder`."""

    head: ClassVar[Head] = "base"
    config_class = Seq2SeqConfig

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        with uninitialised():
            self.decoder = Decoder(config)
        self.post_init()

    def get_decoder(self) -> Decoder:
        return self.decoder

    def get_input_embeddings(self) -> nn.Embedding:
        return self.decoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.decoder.embed_tokens = value

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.decoder(*args, **kwargs)


class CausalModel(LanguageModel):
    """The decoder alone with a language-modelling head, tied to its token embedding."""

    head: ClassVar[Head] = "causal"
    _tied_weights_keys = ["lm_head.weight"]  # noqa: RUF012

    def __init__(self, config: PretrainedConfig) -> None:
        config = copy.deepcopy(config)
        config.is_decoder = True
        config.is_encoder_decoder = False
        super().__init__(config)
        with uninitialised():
            self.model = DecoderWrapper(config)
            self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.tie_weights()
        self.post_init()

    def get_decoder(self) -> Decoder:
        return self.model.decoder

    def set_decoder(self, decoder: Decoder) -> None:
        self.model.decoder = decoder

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.decoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.decoder.embed_tokens = value

    def _states(self, labels: Tensor, inputs: dict[str, Any]) -> Tensor:
        states: Tensor = self.model.decoder(**{**inputs, "use_cache": False, "return_dict": True}).last_hidden_state
        return states

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
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
    ) -> CausalLMOutputWithCrossAttentions[Tensor] | tuple[Any, ...]:
        """Logits [B, T, V] of each next token, as `CausalLMOutputWithCrossAttentions` or its tuple.

        Args:
            input_ids: int64 [B, T]; with a cache, only the tokens that are not in it yet.
            attention_mask: 1/0 [B, past + T].
            encoder_hidden_states: [B, S, D]; cross-attention runs only if given (or cached).
            encoder_attention_mask: 1/0 [B, S].
            head_mask, cross_attn_head_mask: 1/0 [decoder_layers, H].
            past_key_values: a cache returned before, or legacy tuples.
            inputs_embeds: [B, T, D] instead of ids, not yet scaled.
            labels: int64 [B, T], compared place by place with the logits (not shifted); -100 does not count.
            use_cache, output_attentions, output_hidden_states, return_dict: what to return.
            cache_position: int64 [T], positions of the tokens.

        Raises:
            InputError: if an input is missing, given twice, of the wrong shape, or longer than the position table.
        """
        return_dict = self.config.use_return_dict if return_dict is None else return_dict
        with self._learning(labels) as weight:
            outputs = self.model.decoder(
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
                cache_position=cache_position,
            )
        loss, logits = self._loss(outputs.last_hidden_state, labels, weight)
        output = CausalLMOutputWithCrossAttentions(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
        )
        return output if return_dict else output.to_tuple()


ORIGINALS.remember(Seq2SeqModel, ConditionalGenerationModel, DecoderWrapper, CausalModel)
