"""The decoder that the searches of core/generation drive through a Flax model's own `decode`.

Letters in shapes: R rows, L width of the sequences, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class ModelDecoder:
    """Asks `prepare_inputs_for_generation` and `decode` (a causal model: `__call__`); logits come from the output.

    Whatever a subclass changes has its effect. A causal model reads all tokens at each step.

    Args:
        model: has a head.
        params: its parameters.
        inputs: further arguments by name, a row per sequence, R.
        mask: 1/0 over the prompt [R, length], or None where nothing is masked.
        details: whether attentions and hidden states are collected.
        width: L.
    """

    def __init__(
        self,
        model: Any,
        params: Any,
        inputs: dict[str, Any],
        mask: Any,
        details: tuple[bool, bool],
        width: int,
    ) -> None:
        self.model, self.inputs, self.prompt_mask, self.width = model, inputs, mask, width
        self.is_seq2seq = bool(model.config.is_encoder_decoder)
        self.options = {
            "params": params,
            "return_dict": True,
            "output_attentions": details[0],
            "output_hidden_states": details[1],
        }
        self.details = details

    def prefill(self, ids: Array, length: Any) -> Any:
        return None

    def next_logits(self, ids: Array, length: Any, cache: Any) -> tuple[Any, Any, Any]:
        so_far, length = jnp.asarray(np.maximum(ids[:, : int(length)], 0)), int(length)
        if not self.is_seq2seq:
            mask = np.ones(so_far.shape, np.int32)
            if self.prompt_mask is not None:
                mask[:, : self.prompt_mask.shape[1]] = self.prompt_mask
            outputs = self.model(so_far, attention_mask=jnp.asarray(mask), **self.inputs, **self.options)
        elif cache is None:
            cache = self.model.prepare_inputs_for_generation(
                so_far, self.width, decoder_attention_mask=self.prompt_mask, **self.inputs
            )
            outputs = self.model.decode(so_far, **cache, **self.options)
        else:
            outputs = self.model.decode(so_far[:, -1:], **cache, **self.options)
        if self.is_seq2seq:
            cache = self.model.update_inputs_for_generation(outputs, dict(cache))
        return np.asarray(outputs.logits[:, -1], np.float32), cache, self._details(outputs)

    def reorder(self, cache: Any, rows: Any) -> Any:
        if cache is None:
            return None
        taken = jax.tree.map(lambda x: x[rows] if jnp.ndim(x) > 1 else x, cache["past_key_values"])
        return {**cache, "past_key_values": taken}

    def _details(self, outputs: Any) -> Any:
        own = "attentions" if hasattr(outputs, "attentions") else "decoder_attentions"
        hidden = "hidden_states" if hasattr(outputs, "hidden_states") else "decoder_hidden_states"
        weights, states = self.details
        return (
            getattr(outputs, own, None) if weights else None,
            getattr(outputs, "cross_attentions", None) if weights else None,
            getattr(outputs, hidden, None) if states else None,
        )
