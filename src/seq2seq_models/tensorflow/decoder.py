"""The decoder that the searches of core/generation drive through a Keras model's own `call`.

Letters in shapes: R rows, L width of the sequences, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from .heads import ConditionalGenerationModel

Tensor = Any


class ModelDecoder:
    """Asks `prepare_inputs_for_generation` and the model, and takes the logits from the output.

    Whatever a subclass or a replaced layer changes has its effect.

    Args:
        model: has a head.
        inputs: further arguments by name, a row per sequence, R.
        mask: 1/0 over the prompt [R, length], or None where nothing is masked.
        details: whether attentions and hidden states are collected.
        use_cache: read every token once; else all of them at each step.
    """

    def __init__(
        self, model: Any, inputs: dict[str, Any], mask: Tensor, details: tuple[bool, bool], use_cache: bool
    ) -> None:
        self.model, self.inputs, self.prompt_mask, self.details = model, inputs, mask, details
        self.use_cache = use_cache
        self.is_seq2seq = bool(model.config.is_encoder_decoder)
        own = type(model).prepare_inputs_for_generation
        self.is_prepared_here = own is ConditionalGenerationModel.prepare_inputs_for_generation

    def prefill(self, ids: Tensor, length: Any) -> Any:
        return None

    def next_logits(self, ids: Tensor, length: Any, cache: Any) -> tuple[Tensor, Any, Any]:
        given = dict(self.inputs)
        if self.prompt_mask is not None:
            wide = np.pad(self.prompt_mask, ((0, 0), (0, int(length) - self.prompt_mask.shape[1])), constant_values=1)
            given["decoder_attention_mask" if self.is_seq2seq else "attention_mask"] = tf.constant(wide)
        inputs = self.model.prepare_inputs_for_generation(
            tf.constant(np.maximum(ids[:, : int(length)], 0)), past_key_values=cache, use_cache=self.use_cache, **given
        )
        if self.is_prepared_here:
            inputs.pop("decoder_position_ids", None)  # counted on from the cache
        inputs = {name: value for name, value in inputs.items() if value is not None}
        outputs = self.model(
            **inputs,
            return_dict=True,
            output_attentions=self.details[0],
            output_hidden_states=self.details[1],
        )
        cache = outputs.past_key_values if self.use_cache else None
        return tf.cast(outputs.logits[:, -1], tf.float32).numpy(), cache, self._details(outputs)

    def reorder(self, cache: Any, rows: Tensor) -> Any:
        return None if cache is None else tf.nest.map_structure(lambda x: tf.gather(x, np.asarray(rows)), cache)

    def _details(self, outputs: Any) -> Any:
        prefix = "decoder_" if self.is_seq2seq else ""
        names = (prefix + "attentions", "cross_attentions", prefix + "hidden_states")
        wanted = (self.details[0], self.details[0], self.details[1])
        return tuple(
            getattr(outputs, name, None) if is_wanted else None for name, is_wanted in zip(names, wanted, strict=True)
        )
