"""SavedModels: functions that TensorFlow serves without this library.

Letters in shapes: B inputs, S source, T target, L cache length, N decoder layers, H heads, K per head, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from keras import ops

from ..core.outputs import ModelOutput
from .attention import causal_mask, padding_mask

if TYPE_CHECKING:
    from ..core.config import PretrainedConfig
    from .model import PreTrainedModel


def stacked(output: ModelOutput, config: PretrainedConfig) -> ModelOutput:
    """The output with each tuple of tensors as one tensor, and without what the config does not ask for."""
    found: dict[str, Any] = {}
    for name, value in output.items():
        if name == "past_key_values":
            if config.use_cache:
                found[name] = tuple(ops.stack(parts) for parts in zip(*value, strict=True))
        elif isinstance(value, tuple | list):
            is_wanted = config.output_attentions if name.endswith("attentions") else config.output_hidden_states
            if is_wanted:
                found[name] = ops.stack(value)
        else:
            found[name] = value
    return type(output)(**found)


class Served(tf.Module):  # type: ignore[misc]
    """A model as functions of tensors; what a SavedModel is made of."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.held = [variable.value for variable in model.variables]
        self.tables = [stack.embed_positions.embeddings for stack in model._stacks()]
        self._model = [lambda: model]  # a function: TensorFlow would look into a model for things to save

    @property
    def model(self) -> Any:
        """The model itself."""
        return self._model[0]()

    def default(self, **inputs: Any) -> dict[str, Any]:
        """The forward pass on the names of `input_signature`; what is not a plain tensor is left out."""
        output = self.model.serving_output(self.model.call(**inputs, use_cache=False, return_dict=True))
        return {name: value for name, value in output.items() if not isinstance(value, tuple)}

    def encode(self, input_ids: Any, attention_mask: Any) -> dict[str, Any]:
        """The encoder's states and the keys and values that `decode_step` attends to, each [N, B, H, S, K]."""
        memory = self.model.encode(input_ids, attention_mask).last_hidden_state
        cross = self.model.cross_entries(memory)
        return {
            "encoder_last_hidden_state": memory,
            "cross_keys": ops.stack([keys for keys, _ in cross]),
            "cross_values": ops.stack([values for _, values in cross]),
        }

    def decode_step(
        self,
        decoder_input_ids: Any,
        start: Any,
        attention_mask: Any,
        cross_keys: Any,
        cross_values: Any,
        cache_keys: Any,
        cache_values: Any,
    ) -> dict[str, Any]:
        """Logits [B, T, V] of new tokens, and the cache with them in it.

        Args:
            decoder_input_ids: int32 [B, T], the tokens that are not in the cache yet.
            start: int32 scalar, how many are.
            attention_mask: int32 [B, S], the source's.
            cross_keys, cross_values: from `encode`.
            cache_keys, cache_values: [N, B, H, L, K], zeros at first; L is the most tokens there can be.
        """
        model = self.model
        layers = len(model.get_decoder().layers)
        dtype = model.compute_dtype
        positions = start + ops.arange(ops.shape(decoder_input_ids)[1], dtype="int32")
        hidden, cache, _ = model.step(
            decoder_input_ids,
            start,
            tuple((cache_keys[index], cache_values[index]) for index in range(layers)),
            tuple((cross_keys[index], cross_values[index]) for index in range(layers)),
            causal_mask(None, positions, ops.shape(cache_keys)[3], dtype),
            padding_mask(attention_mask, dtype),
        )
        return {
            "logits": model.logits(hidden),
            "cache_keys": ops.stack([keys for keys, _ in cache]),
            "cache_values": ops.stack([values for _, values in cache]),
        }

    def generate(self, options: dict[str, Any], input_ids: Any, attention_mask: Any) -> dict[str, Any]:
        """Generated token ids, int32 [B * num_return_sequences, max_length], padded after their end."""
        return {"sequences": self.model.generate(input_ids, attention_mask=attention_mask, **options)}


def functions(
    model: PreTrainedModel, batch_size: int = 1, source_length: int = 128, **options: Any
) -> tuple[Served, dict[str, Any]]:
    """What to save of a model: the module that holds its variables, and its functions by signature name.

    Args:
        model: any of this library.
        batch_size, source_length: of the inputs of "generate", which are padded to these sizes by whoever calls it; the
            length is at most that of the position table.
        **options: for `generate`, beside the model's generation config.
    """
    served = Served(model)
    ids = tf.TensorSpec([None, None], tf.int32)
    named = {"serving_default": tf.function(served.default).get_concrete_function(**model.input_signature)}
    if model.head == "conditional":
        attention = model.get_decoder().layers[0].self_attn
        sizes = [len(model.get_decoder().layers), None, attention.num_heads, None, attention.head_dim]
        entry = tf.TensorSpec(sizes, model.compute_dtype)
        named["encode"] = tf.function(served.encode).get_concrete_function(input_ids=ids, attention_mask=ids)
        named["decode_step"] = tf.function(served.decode_step).get_concrete_function(
            decoder_input_ids=ids,
            start=tf.TensorSpec([], tf.int32),
            attention_mask=ids,
            cross_keys=entry,
            cross_values=entry,
            cache_keys=entry,
            cache_values=entry,
        )
    if model.can_generate():
        sized = tf.TensorSpec([batch_size, min(source_length, model.config.max_position_embeddings)], tf.int32)
        loop = tf.function(partial(served.generate, options), autograph=False)
        named["generate"] = loop.get_concrete_function(input_ids=sized, attention_mask=sized)
    return served, named


def export(model: PreTrainedModel, folder: str, signatures: Any = None, **options: Any) -> None:
    """Writes a SavedModel: "serving_default", for a model with a head "generate", for a conditional one "encode" and
    "decode_step". See `Served` for their arguments. It runs wherever TensorFlow does, without this library.

    Args:
        model: what to save.
        folder: made if it is not there.
        signatures: other functions to save, by name; they may be taken from `functions`.
        **options: for `functions`.
    """
    served, named = functions(model, **options)
    if signatures is not None:
        named = signatures if isinstance(signatures, dict) else {"serving_default": signatures}
    tf.saved_model.save(served, folder, signatures=named)
