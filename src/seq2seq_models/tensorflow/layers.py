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
from .linear import LayerNorm, Linear, Part, dropout, normal


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
    "gelu_new": lambda x: ops.gelu(x, approximate=True),
    "gelu_fast": lambda x: ops.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * ops.sigmoid(1.702 * x),
    "relu": ops.relu,
    "silu": ops.silu,
    "swish": ops.silu,
    "tanh": ops.tanh,
    "sigmoid": ops.sigmoid,
    "linear": lambda x: x,
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

    def call(self, start: Any, length: Any, positions: Any = None) -> Any:
        """Vectors [T, D] for `length` positions from `start`, or [..., D] for the given int32 `positions`.

        Raises:
            InputError: a position is beyond the table, as far as that can be seen before computing.
        """
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
        return norm.call(hidden) if self.norm_first else hidden

    def _leave(self, hidden: Any, out: Any, norm: LayerNorm, training: bool) -> Any:
        total = hidden + dropout(out, self.dropout, self.seeds, training)
        return total if self.norm_first else norm.call(total)

    def _feed_forward(self, hidden: Any, training: bool) -> Any:
        inner = self.activation_fn(self.fc1.call(self._enter(hidden, self.final_layer_norm)))
        out = self.fc2.call(dropout(inner, self.activation_dropout, self.seeds, training))
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
        self, hidden: Any, mask: Any, head_mask: Any = None, need_weights: bool = False, training: bool = False
    ) -> tuple[Any, Any]:
        """States [B, S, D] and, if asked, attention weights [B, H, S, S]."""
        out, weights = self.self_attn.call(
            self._enter(hidden, self.self_attn_layer_norm),
            mask=mask,
            head_mask=head_mask,
            need_weights=need_weights,
            training=training,
        )
        hidden = self._feed_forward(self._leave(hidden, out, self.self_attn_layer_norm, training), training)
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
        hidden: Any,
        mask: Any,
        memory: Any,
        memory_mask: Any,
        cache: LayerCache | None = None,
        head_mask: Any = None,
        cross_head_mask: Any = None,
        need_weights: bool = False,
        has_memory: bool = False,
        training: bool = False,
    ) -> tuple[Any, Any, Any]:
        """States [B, T, D] and, if asked, the weights of self-attention and of cross-attention."""
        out, weights = self.self_attn.call(
            self._enter(hidden, self.self_attn_layer_norm),
            mask=mask,
            cache=cache,
            head_mask=head_mask,
            need_weights=need_weights,
            training=training,
        )
        hidden = self._leave(hidden, out, self.self_attn_layer_norm, training)
        cross_weights = None
        if has_memory:
            out, cross_weights = self.encoder_attn.call(
                self._enter(hidden, self.encoder_attn_layer_norm),
                memory=memory,
                mask=memory_mask,
                cache=cache,
                head_mask=cross_head_mask,
                need_weights=need_weights,
                is_cross=True,
                training=training,
            )
            hidden = self._leave(hidden, out, self.encoder_attn_layer_norm, training)
        return self._feed_forward(hidden, training), weights, cross_weights


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
