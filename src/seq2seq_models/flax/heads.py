"""The three models over the stack, for both families: base, conditional generation, and causal."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..core.config import PretrainedConfig
from ..core.parameters import Head
from ..errors import InputError
from .attention import mask_of
from .changes import ORIGINALS
from .generation import GenerationMixin
from .layers import check_positions, ids_of
from .model import PreTrainedModel
from .modules import CausalModule, ConditionalGenerationModule, Seq2SeqModule
from .transformer import memory_of
from .transformer import shift_tokens_right as shift_tokens_right


class Seq2SeqModel(PreTrainedModel):
    """Encoder and decoder without a head."""

    head: ClassVar[Head] = "base"
    module_class = Seq2SeqModule

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
        """States [B, T, D] of the target given the source, as `Seq2SeqModelOutput` or its tuple.

        The arguments and errors are those of `PreTrainedModel.__call__`.
        """
        return super().__call__(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            position_ids,
            decoder_position_ids,
            output_attentions,
            output_hidden_states,
            return_dict,
            train,
            params,
            dropout_rng,
        )


class LanguageModel(PreTrainedModel, GenerationMixin):
    """What both models with a head share: the loss to train with."""

    def _learnt(self, labels: Array, inputs: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The module's inputs to learn labels [B, T] from, checked, and the name of those that have the same shape."""
        raise NotImplementedError

    def cross_entropy(
        self,
        labels: Array,
        label_smoothing: float = 0.0,
        *,
        params: Mapping[str, Any] | None = None,
        dropout_rng: Array | None = None,
        train: bool = False,
        **inputs: Any,
    ) -> Array:
        """The loss to train with, a float32 scalar: the mean cross-entropy over labels that are not -100.

        The logits [B, T, V] are never all there at once, nor are their gradients, so a step takes far less memory than
        with a loss of the logits. The gradient is that of reverse mode: `jax.grad`, `jax.value_and_grad`, `jax.vjp`.

        Args:
            labels: integers [B, T], -100 where a place does not count. Unless decoder inputs are given too, they are
                the labels shifted right.
            label_smoothing: share of each label that is spread evenly over all words, from 0 to 1.
            params, dropout_rng, train: as for a call of the model.
            **inputs: inputs of a call of the model.

        Raises:
            InputError: as a call of the model does, or if the labels do not fit its inputs.
        """
        targets = labels_of(labels, self.config)
        given, target = self._learnt(targets, inputs)
        if targets.shape != given[target].shape:
            raise InputError(f"`labels` must be {list(given[target].shape)} as `{target}`, got {list(targets.shape)}.")
        loss: Array = self._apply("cross_entropy", params, train, dropout_rng, targets, label_smoothing, **given)
        return loss


class ConditionalGenerationModel(LanguageModel):
    """Encoder and decoder with a language-modelling head tied to the token embedding, and a bias on its logits."""

    head: ClassVar[Head] = "conditional"
    module_class = ConditionalGenerationModule

    def prepare_decoder_input_ids_from_labels(self, labels: Array) -> Array:
        """Decoder inputs [B, T] for labels [B, T]: shifted right, the start token first, -100 as padding."""
        return shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)

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
        """float32 logits [B, T, V] of the target's next tokens, as `Seq2SeqLMOutput` or its tuple.

        The arguments and errors are those of `PreTrainedModel.__call__`.
        # Differs from transformers 4.57.6: logits are float32 also where the computation is in half precision.
        """
        return super().__call__(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            position_ids,
            decoder_position_ids,
            output_attentions,
            output_hidden_states,
            return_dict,
            train,
            params,
            dropout_rng,
        )

    def _learnt(self, labels: Array, inputs: dict[str, Any]) -> tuple[dict[str, Any], str]:
        if inputs.get("decoder_input_ids") is None:
            inputs["decoder_input_ids"] = shift_tokens_right(
                labels, self.config.pad_token_id, self.config.decoder_start_token_id
            )
        return self._checked(**inputs), "decoder_input_ids"

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
        deterministic: bool = True,
        params: Mapping[str, Any] | None = None,
        dropout_rng: Array | None = None,
    ) -> Any:
        """float32 logits [B, T, V] of the target's next tokens, as `CausalLMOutputWithCrossAttentions` or its tuple.

        The arguments and errors are those of `PreTrainedModel.decode`; `deterministic` is its `train` turned around.
        """
        return super().decode(
            decoder_input_ids,
            encoder_outputs,
            encoder_attention_mask,
            decoder_attention_mask,
            decoder_position_ids,
            past_key_values,
            output_attentions,
            output_hidden_states,
            return_dict,
            not deterministic,
            params,
            dropout_rng,
        )

    def prepare_inputs_for_generation(
        self,
        decoder_input_ids: Array,
        max_length: int,
        attention_mask: Array | None = None,
        decoder_attention_mask: Array | None = None,
        encoder_outputs: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """What `decode` takes besides the tokens, for a loop of one's own: an empty cache, masks and positions."""
        rows, length = decoder_input_ids.shape
        mask = jnp.ones((rows, max_length), jnp.int32)
        positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (rows, length))
        if decoder_attention_mask is not None:
            given = jnp.asarray(decoder_attention_mask, jnp.int32)
            positions = given.cumsum(axis=-1, dtype=jnp.int32) - 1
            mask = lax.dynamic_update_slice(mask, given, (0, 0))
        return {
            "past_key_values": self.init_cache(rows, max_length, encoder_outputs),
            "encoder_outputs": encoder_outputs,
            "encoder_attention_mask": attention_mask,
            "decoder_attention_mask": mask,
            "decoder_position_ids": positions,
        }

    def update_inputs_for_generation(self, model_outputs: Any, model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """The same for the next token, after `decode` returned."""
        model_kwargs["past_key_values"] = model_outputs.past_key_values
        model_kwargs["decoder_position_ids"] = model_kwargs["decoder_position_ids"][:, -1:] + 1
        return model_kwargs


class CausalModel(LanguageModel):
    """The decoder alone with a language-modelling head, tied to its token embedding.

    The constructor's arguments are those of `PreTrainedModel`; the model keeps a copy of the config, marked
    as a decoder.
    """

    head: ClassVar[Head] = "causal"
    module_class = CausalModule

    def __init__(
        self,
        config: PretrainedConfig,
        input_shape: tuple[int, ...] = (1, 1),
        seed: int = 0,
        dtype: Any = jnp.float32,
        _do_init: bool = True,
        **kwargs: Any,
    ) -> None:
        if isinstance(config, PretrainedConfig):
            config = copy.deepcopy(config)
            config.is_decoder = True
            config.is_encoder_decoder = False
        super().__init__(config, input_shape, seed, dtype, _do_init, **kwargs)

    def __call__(  # type: ignore[override]
        self,
        input_ids: Array,
        attention_mask: Array | None = None,
        encoder_hidden_states: Array | None = None,
        encoder_attention_mask: Array | None = None,
        position_ids: Array | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        train: bool = False,
        params: Mapping[str, Any] | None = None,
        past_key_values: Mapping[str, Any] | None = None,
        dropout_rng: Array | None = None,
    ) -> Any:
        """float32 logits [B, T, V] of each next token, as `CausalLMOutputWithCrossAttentions` or its tuple.

        Args:
            input_ids: integers [B, T]; with a cache, only the tokens that are not in it yet.
            attention_mask: 1/0 [B, T]; with a cache, [B, at most its length], what it leaves out is seen.
            encoder_hidden_states: [B, S, D]; cross-attention runs only if given.
            encoder_attention_mask: 1/0 [B, S].
            position_ids: integers [B, T]; counted on from the cache by default.
            output_attentions, output_hidden_states, return_dict, train, params, dropout_rng: as for
                `PreTrainedModel.__call__`.
            past_key_values: the dict of `init_cache`, or the one an earlier call returned. Without it none is returned.

        Raises:
            InputError: as for `PreTrainedModel.__call__`, or if the cache has no room for the new tokens.
        """
        memory, memory_mask = self._memory(encoder_hidden_states, encoder_attention_mask)
        return self._decode(
            ids_of("input_ids", input_ids, self.config),
            memory,
            memory_mask,
            attention_mask,
            position_ids,
            past_key_values,
            (output_attentions, output_hidden_states, return_dict),
            train,
            params,
            dropout_rng,
        )

    def _memory(self, states: Array | None, mask: Array | None) -> tuple[Array | None, Array | None]:
        """The encoder's states [B, S, D] and their mask [B, S], checked; without states there is neither."""
        if states is None:
            return None, None
        memory = memory_of((states,), self.config)
        return memory, mask_of("encoder_attention_mask", mask, memory.shape[:2])

    def _checked(  # type: ignore[override]
        self,
        input_ids: Array,
        attention_mask: Array | None = None,
        encoder_hidden_states: Array | None = None,
        encoder_attention_mask: Array | None = None,
        position_ids: Array | None = None,
    ) -> dict[str, Array | None]:
        """The inputs of a pass for the module."""
        ids = ids_of("input_ids", input_ids, self.config)
        memory, memory_mask = self._memory(encoder_hidden_states, encoder_attention_mask)
        return {
            "input_ids": ids,
            "attention_mask": mask_of("attention_mask", attention_mask, ids.shape),
            "position_ids": check_positions("position_ids", position_ids, ids.shape, self.config),
            "encoder_hidden_states": memory,
            "encoder_attention_mask": memory_mask,
        }

    def _learnt(self, labels: Array, inputs: dict[str, Any]) -> tuple[dict[str, Any], str]:
        return self._checked(**inputs), "input_ids"


def labels_of(labels: Any, config: PretrainedConfig) -> Array:
    """Labels as int32 [B, T].

    Raises:
        InputError: as for token ids, but -100 is one of them.
    """
    found = labels if isinstance(labels, Array) else np.asarray(labels)
    ids_of("labels", (jnp if isinstance(found, Array) else np).where(found == -100, 0, found), config)
    return jnp.asarray(found, jnp.int32)


ORIGINALS.remember(ConditionalGenerationModel, CausalModel)
