"""Position tables, encoder layers and decoder layers. The families differ in `architecture`, and only there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from ..core.architecture import FP16_CLAMP
from ..core.config import Seq2SeqConfig
from ..core.positions import sinusoidal_table
from ..errors import InputError
from .attention import Attention
from .cache import LayerCache
from .linear import LayerNorm, Linear, Part, apply, dropout, normal


@tf.custom_gradient  # type: ignore[untyped-decorator]
def gelu(x: Any) -> tuple[Any, Callable[[Any], Any]]:
    """x times the share of a standard normal distribution that is below it, and the derivative of that.

    TensorFlow's own derivative keeps four arrays of the feed-forward block's size in each layer; here it is one.

    Source: Hendrycks & Gimpel 2016.
    """
    below = 0.5 * (1.0 + tf.math.erf(x * math.sqrt(0.5)))

    def gradient(of_out: Any) -> Any:
        density = tf.exp(-0.5 * tf.square(x)) * math.sqrt(0.5 / math.pi)
        return of_out * (below + x * density)

    return x * below, gradient


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": gelu,
    "gelu_10": lambda x: ops.clip(gelu(x), -10, 10),
    "gelu_accurate": lambda x: ops.gelu(x, approximate=True),
    "gelu_fast": lambda x: ops.gelu(x, approximate=True),
    "gelu_new": lambda x: ops.gelu(x, approximate=True),
    "gelu_python": gelu,
    "gelu_python_tanh": lambda x: ops.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: ops.gelu(x, approximate=True),
    "laplace": lambda x: 0.5 * (1.0 + ops.erf((x - 0.707107) / (0.282095 * math.sqrt(2.0)))),  # Ma et al. 2022
    "leaky_relu": lambda x: ops.leaky_relu(x, negative_slope=0.01),
    "linear": lambda x: x,
    "mish": lambda x: x * ops.tanh(ops.softplus(x)),
    "quick_gelu": lambda x: x * ops.sigmoid(1.702 * x),
    "relu": ops.relu,
    "relu2": lambda x: ops.square(ops.relu(x)),
    "relu6": ops.relu6,
    "sigmoid": ops.sigmoid,
    "silu": ops.silu,
    "swish": ops.silu,
    "tanh": ops.tanh,
}


class TokenEmbedding(Part):
    """Token vectors; an id outside the vocabulary is named, where ids can be looked at.

    Looking up the padding token gives its vector no gradient, as in PyTorch.
    """

    def __init__(self, config: Seq2SeqConfig, **options: Any) -> None:
        super().__init__(**options)
        shape = (config.vocab_size, config.d_model)
        self.embeddings = self.variable("embeddings", shape, normal(config.init_std, config.pad_token_id))
        self.padding_idx = config.pad_token_id

    @property
    def input_dim(self) -> int:
        """Number V of words."""
        return int(self.embeddings.shape[0])

    @property
    def output_dim(self) -> int:
        """Width D of a vector."""
        return int(self.embeddings.shape[1])

    def call(self, input: Any) -> Any:
        """Vectors [..., D] for ids [...], in the dtype that the model computes with."""
        check_ids(input, self.input_dim)
        vectors = ops.cast(ops.take(self.embeddings, input, axis=0), self.compute_dtype)
        if self.padding_idx is None:
            return vectors
        # Differs from transformers 4.57.6: there the vector of the padding token learns from being looked up in
        # TensorFlow and Flax, and not in PyTorch; here in no framework, so that the same training has the same result.
        return ops.where(ops.equal(input, self.padding_idx)[..., None], ops.stop_gradient(vectors), vectors)

    def logits(self, hidden: Any) -> Any:
        """The product of states [..., D] with every token's vector, [..., V]."""
        shape = ops.shape(hidden)
        flat = ops.reshape(hidden, (-1, shape[-1]))
        # einsum, not matmul: nothing of the vocabulary's size is transposed.
        out = ops.einsum("nd,vd->nv", flat, ops.cast(self.embeddings, hidden.dtype))
        return ops.reshape(out, (*shape[:-1], self.input_dim))

    def resize(self, values: Any) -> None:
        """Hold these vectors [V, D] instead."""
        self.replace("embeddings", values)


class PositionEmbedding(Part):
    """One vector per position [P, D]: sinusoids, computed and constant, or learned rows."""

    def __init__(self, config: Seq2SeqConfig, **options: Any) -> None:
        super().__init__(**options)
        self.is_computed = config.architecture.positions == "sinusoidal"
        shape = (config.max_position_embeddings, config.d_model)
        if self.is_computed:
            # Differs from transformers 4.57.6: a constant, where its TensorFlow classes train Pegasus' positions.
            with tf.init_scope():
                self.embeddings: Any = tf.constant(sinusoidal_table(*shape))
        else:
            self.embeddings = self.variable("embeddings", shape, normal(config.init_std))

    @property
    def num_embeddings(self) -> int:
        """Number P of positions."""
        return int(self.embeddings.shape[0])

    def call(self, input_shape: Any, past_key_values_length: Any = 0, position_ids: Any = None) -> Any:
        """Vectors [T, D] for the positions of tokens, or [..., D] for `position_ids`.

        Args:
            input_shape: of the tokens, [B, T].
            past_key_values_length: the first token's position.
            position_ids: int32, the positions themselves.

        Raises:
            InputError: a position is beyond the table, as far as that can be seen before computing.
        """
        start, length, positions = past_key_values_length, input_shape[1], position_ids
        if positions is None and isinstance(start, int) and isinstance(length, int):
            self.check(start + length)
        if positions is not None:
            if tf.executing_eagerly():
                self.check(int(ops.max(positions)) + 1)
            found = ops.take(self.embeddings, positions, axis=0)
        elif isinstance(start, int):
            found = ops.convert_to_tensor(self.embeddings)[start : start + length]
        else:
            found = ops.take(self.embeddings, start + ops.arange(length, dtype="int32"), axis=0)
        return ops.cast(found, self.compute_dtype)

    def check(self, length: int) -> None:
        """Raise if the table has fewer positions than this."""
        if length > self.num_embeddings:
            raise InputError(
                f"the sequence must have at most {self.num_embeddings} positions (max_position_embeddings), "
                f"got {length}. Truncate the input, or call resize_position_embeddings."
            )

    def resize(self, length: int, std: float) -> None:
        """Have this many rows: sinusoids exactly, learned rows kept and new ones drawn."""
        old, width = self.embeddings, self.embeddings.shape[1]
        if self.is_computed:
            self.embeddings = tf.constant(sinusoidal_table(length, width))
            return
        fresh = normal(std)((length, width), "float32")
        kept = min(length, old.shape[0])
        self.replace("embeddings", ops.concatenate([ops.cast(old, "float32")[:kept], fresh[kept:]], axis=0))


class Layer(Part):
    """What encoder and decoder layers share: residuals with pre- or post-norm, and the feed-forward block."""

    def __init__(self, config: Seq2SeqConfig, seeds: Any, **options: Any) -> None:
        super().__init__(**options)
        self.norm_first = config.architecture.norm == "pre"
        self.dropout = config.dropout
        self.activation_dropout = config.activation_dropout
        self.activation_fn = ACTIVATIONS[config.activation_function]
        self.seeds = seeds

    def _add_attention(self, config: Seq2SeqConfig, name: str, heads: int) -> None:
        part = Attention(
            config.d_model,
            heads,
            config.attention_dropout,
            self.seeds,
            config.init_std,
            name=name,
            **self.inner,
        )
        setattr(self, name, part)
        setattr(self, f"{name}_layer_norm", LayerNorm(config.d_model, name=f"{name}_layer_norm", **self.inner))

    def _add_feed_forward(self, config: Seq2SeqConfig, ffn_dim: int) -> None:
        # Made last: optimizer states saved elsewhere count on the checkpoints' order of parameters.
        self.fc1 = Linear(config.d_model, ffn_dim, config.init_std, name="fc1", **self.inner)
        self.fc2 = Linear(ffn_dim, config.d_model, config.init_std, name="fc2", **self.inner)
        self.final_layer_norm = LayerNorm(config.d_model, name="final_layer_norm", **self.inner)

    def _enter(self, hidden: Any, norm: LayerNorm) -> Any:
        return apply(norm, hidden) if self.norm_first else hidden

    def _leave(self, hidden: Any, out: Any, norm: LayerNorm, training: bool) -> Any:
        total = hidden + dropout(out, self.dropout, self.seeds, training)
        return total if self.norm_first else apply(norm, total)

    def _feed_forward(self, hidden: Any, training: bool) -> Any:
        inner = self.activation_fn(apply(self.fc1, self._enter(hidden, self.final_layer_norm)))
        out = apply(self.fc2, dropout(inner, self.activation_dropout, self.seeds, training))
        return self._leave(hidden, out, self.final_layer_norm, training)


class EncoderLayer(Layer):
    """Self-attention and feed-forward over [B, S, D]."""

    self_attn: Attention
    self_attn_layer_norm: LayerNorm

    def __init__(self, config: Seq2SeqConfig, seeds: Any, **options: Any) -> None:
        super().__init__(config, seeds, **options)
        with keras.name_scope(self.name):
            self._add_attention(config, "self_attn", config.encoder_attention_heads)
            self._add_feed_forward(config, config.encoder_ffn_dim)

    def call(
        self,
        hidden_states: Any,
        attention_mask: Any = None,
        layer_head_mask: Any = None,
        training: bool = False,
        *,
        need_weights: bool = True,
    ) -> tuple[Any, Any]:
        """States [B, S, D] and, if `need_weights`, attention weights [B, H, S, S].

        Args:
            hidden_states: [B, S, D].
            attention_mask: additive [B, 1, 1 or S, S]; None hides nothing.
            layer_head_mask: [H], multiplied onto the attention weights.
            training: whether dropout is on.
            need_weights: return the weights; else None.
        """
        out, weights, *_ = apply(
            self.self_attn,
            self._enter(hidden_states, self.self_attn_layer_norm),
            attention_mask=attention_mask,
            layer_head_mask=layer_head_mask,
            training=training,
            **unasked(need_weights),
        )
        hidden = self._feed_forward(self._leave(hidden_states, out, self.self_attn_layer_norm, training), training)
        if hidden.dtype == tf.float16:
            hidden = ops.clip(hidden, -FP16_CLAMP, FP16_CLAMP)
        return hidden, weights


class DecoderLayer(Layer):
    """Causal self-attention, attention to the encoder, and feed-forward over [B, T, D]."""

    self_attn: Attention
    self_attn_layer_norm: LayerNorm
    encoder_attn: Attention
    encoder_attn_layer_norm: LayerNorm

    def __init__(self, config: Seq2SeqConfig, seeds: Any, **options: Any) -> None:
        super().__init__(config, seeds, **options)
        with keras.name_scope(self.name):
            self._add_attention(config, "self_attn", config.decoder_attention_heads)
            self._add_attention(config, "encoder_attn", config.decoder_attention_heads)
            self._add_feed_forward(config, config.decoder_ffn_dim)

    def call(
        self,
        hidden_states: Any,
        attention_mask: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        layer_head_mask: Any = None,
        cross_attn_layer_head_mask: Any = None,
        past_key_value: LayerCache | None = None,
        training: bool = False,
        *,
        need_weights: bool = True,
    ) -> tuple[Any, Any, Any]:
        """States [B, T, D] and, if `need_weights`, the weights of self-attention and of cross-attention.

        Args:
            hidden_states: [B, T, D].
            attention_mask: additive [B or 1, 1, T, past + T]; None hides nothing, later tokens included.
            encoder_hidden_states: [B, S, D], or fewer rows that beams share; without it, and without a cache that holds
                its keys and values, the layer attends to no encoder.
            encoder_attention_mask: additive [B, 1, 1, S].
            layer_head_mask, cross_attn_layer_head_mask: [H], multiplied onto the weights.
            past_key_value: the layer's cache, which takes in the new keys and values.
            training: whether dropout is on.
            need_weights: return the weights; else None.
        """
        # Only this library's own attention knows a cache.
        held = {} if past_key_value is None else {"past_key_value": past_key_value}
        out, weights, *_ = apply(
            self.self_attn,
            self._enter(hidden_states, self.self_attn_layer_norm),
            attention_mask=attention_mask,
            layer_head_mask=layer_head_mask,
            training=training,
            **held,
            **unasked(need_weights),
        )
        hidden = self._leave(hidden_states, out, self.self_attn_layer_norm, training)
        cross_weights = None
        remembers = past_key_value is not None and past_key_value.cross is not None
        if encoder_hidden_states is not None or remembers:
            out, cross_weights, *_ = apply(
                self.encoder_attn,
                self._enter(hidden, self.encoder_attn_layer_norm),
                key_value_states=encoder_hidden_states,
                attention_mask=encoder_attention_mask,
                layer_head_mask=cross_attn_layer_head_mask,
                training=training,
                **held,
                **({"is_cross": True} if remembers else {}),
                **unasked(need_weights),
            )
            hidden = self._leave(hidden, out, self.encoder_attn_layer_norm, training)
        return self._feed_forward(hidden, training), weights, cross_weights


def unasked(need_weights: bool) -> dict[str, bool]:
    """The argument that says that no weights are wanted; it is not given where they are."""
    return {} if need_weights else {"need_weights": False}


def embedding_scale(config: Seq2SeqConfig) -> float:
    """What token vectors are multiplied with before the positions are added."""
    return math.sqrt(config.d_model) if config.scale_embedding else 1.0


def check_ids(ids: Any, size: int) -> None:
    """Raise for an id outside the vocabulary, if the ids are there to look at; inside a trace they are not.

    Raises:
        InputError: it names the lowest and the highest id.
    """
    if not tf.executing_eagerly() or not isinstance(ids, tf.Tensor) or 0 in ids.shape:
        return
    low, high = int(tf.reduce_min(ids)), int(tf.reduce_max(ids))
    if low < 0 or high >= size:
        raise InputError(
            f"token ids must be between 0 and {size - 1}, got ids from {low} to {high}. "
            "Use the tokenizer of this checkpoint, or resize_token_embeddings."
        )
