"""Embeddings, encoder layers and decoder layers. The families differ in `architecture`, and only there."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..core.architecture import FP16_CLAMP, LAYER_NORM_EPSILON
from ..core.config import PretrainedConfig
from ..core.positions import sinusoidal_table
from ..errors import InputError
from .attention import Attention, Entry, Linear, Packed, drop, variable, wide

if TYPE_CHECKING:
    from numpy.typing import NDArray

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    # Computed again in the backward pass, where it costs next to nothing: three arrays less for each layer to keep.
    "gelu": jax.checkpoint(partial(jax.nn.gelu, approximate=False)),
    "gelu_10": lambda x: jnp.clip(jax.nn.gelu(x, approximate=False), -10, 10),
    "gelu_accurate": partial(jax.nn.gelu, approximate=True),
    "gelu_fast": partial(jax.nn.gelu, approximate=True),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_python": partial(jax.nn.gelu, approximate=False),
    "gelu_python_tanh": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "laplace": lambda x: 0.5 * (1.0 + jax.lax.erf((x - 0.707107) / (0.282095 * 2.0**0.5))),  # Ma et al. 2022
    "leaky_relu": jax.nn.leaky_relu,
    "mish": jax.nn.mish,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "relu6": jax.nn.relu6,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "linear": lambda x: x,
}


class TokenEmbedding(nn.Module):
    """Token vectors [V, D]: looked up for the input, and multiplied with where the head is tied to them.

    Looking up the token `padding_idx` gives its vector no gradient, as in PyTorch.
    """

    num_embeddings: int
    features: int
    init_std: float
    dtype: Any
    padding_idx: int | None = None

    def setup(self) -> None:
        init = nn.initializers.normal(self.init_std)
        self.embedding = variable(self, "embedding", init, (self.num_embeddings, self.features))

    def __call__(self, ids: Array) -> Array:
        """[..., D] for integer ids [...]. Inside a trace an id outside the vocabulary counts as the nearest in it."""
        # The rows are cast, not the table: that would be read whole for a handful of tokens.
        vectors = jnp.take(self.embedding, ids, axis=0, mode="clip").astype(self.dtype)
        if self.padding_idx is None:
            return vectors
        # Differs from transformers 4.57.6: there the vector of the padding token learns from being looked up in
        # TensorFlow and Flax, and not in PyTorch; here in no framework, so that the same training has the same result.
        return jnp.where((ids == self.padding_idx)[..., None], lax.stop_gradient(vectors), vectors)

    def attend(self, hidden: Array) -> Array:
        """float32 [..., V]: products with every token's vector, contracting D without turning the table around."""
        table, states = self.embedding.astype(self.dtype), hidden.astype(self.dtype)
        dimensions = (((hidden.ndim - 1,), (1,)), ((), ()))
        return lax.dot_general(states, table, dimensions, preferred_element_type=wide(self.dtype))


class PositionEmbedding(nn.Module):
    """One vector per position [P, D]: sinusoids, computed and no parameter, or learned rows."""

    config: PretrainedConfig
    dtype: Any

    def setup(self) -> None:
        config = self.config
        if config.architecture.positions == "learned":
            shape = (config.max_position_embeddings, config.d_model)
            self.embedding = variable(self, "embedding", nn.initializers.normal(config.init_std), shape)

    def __call__(self, positions: Array) -> Array:
        """Vectors [..., D] for int32 positions [...]. Inside a trace one past the table counts as the last."""
        config = self.config
        if config.architecture.positions == "learned":
            table = self.embedding
        else:
            table = jnp.asarray(_sinusoids(config.max_position_embeddings, config.d_model))
        return jnp.take(table, positions, axis=0, mode="clip").astype(self.dtype)


@cache
def _sinusoids(length: int, dim: int) -> NDArray[np.float32]:
    return sinusoidal_table(length, dim)


class LayerNorm(nn.Module):
    """A layer norm over D with the checkpoints' epsilon, its statistics in float32."""

    dtype: Any

    @nn.compact
    def __call__(self, values: Array) -> Array:
        """[..., D] to the same."""
        dim = values.shape[-1]
        scale = variable(self, "scale", nn.initializers.ones, (dim,))
        bias = variable(self, "bias", nn.initializers.zeros, (dim,))
        precise = wide(self.dtype)
        values = values.astype(precise)
        centred = values - values.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        shape = (1,) * (values.ndim - 1) + (dim,)
        normed = centred * lax.rsqrt(variance + LAYER_NORM_EPSILON)
        return (normed * scale.astype(precise).reshape(shape) + bias.astype(precise).reshape(shape)).astype(self.dtype)


class Layer(nn.Module):
    """What encoder and decoder layers share: residuals with pre- or post-norm, and the feed-forward block."""

    config: PretrainedConfig
    dtype: Any

    def _attention(self, heads: int) -> Attention:
        config = self.config
        return Attention(config.d_model, heads, config.attention_dropout, config.init_std, self.dtype)

    def _linear(self, features: int) -> Linear:
        return Linear(features, self.config.init_std, self.dtype)

    def _enter(self, hidden: Array, norm: LayerNorm) -> Array:
        normed: Array = norm(hidden) if self.config.architecture.norm == "pre" else hidden
        return normed

    def _leave(self, hidden: Array, out: Array, norm: LayerNorm, deterministic: bool) -> Array:
        total = hidden + drop(self, out, self.config.dropout, deterministic)
        normed: Array = total if self.config.architecture.norm == "pre" else norm(total)
        return normed

    def _feed_forward(self, hidden: Array, deterministic: bool) -> Array:
        config = self.config
        inner = ACTIVATIONS[config.activation_function](self.fc1(self._enter(hidden, self.final_layer_norm)))
        out = self.fc2(drop(self, inner, config.activation_dropout, deterministic))
        return self._leave(hidden, out, self.final_layer_norm, deterministic)


class EncoderLayer(Layer):
    """Self-attention and feed-forward over [B, S, D]."""

    def setup(self) -> None:
        config = self.config
        self.self_attn = self._attention(config.encoder_attention_heads)
        self.self_attn_layer_norm = LayerNorm(self.dtype)
        self.fc1, self.fc2 = self._linear(config.encoder_ffn_dim), self._linear(config.d_model)
        self.final_layer_norm = LayerNorm(self.dtype)

    def __call__(
        self, hidden: Array, mask: Array | None, need_weights: bool = False, deterministic: bool = True
    ) -> tuple[Array, Array | None]:
        """States [B, S, D] and, if asked, attention weights [B, H, S, S]."""
        out, weights, _ = self.self_attn(
            self._enter(hidden, self.self_attn_layer_norm),
            mask=mask,
            need_weights=need_weights,
            deterministic=deterministic,
        )
        hidden = self._leave(hidden, out, self.self_attn_layer_norm, deterministic)
        hidden = self._feed_forward(hidden, deterministic)
        if hidden.dtype == jnp.float16:
            hidden = jnp.clip(hidden, -FP16_CLAMP, FP16_CLAMP)
        return hidden, weights


class DecoderLayer(Layer):
    """Causal self-attention, attention to the encoder, and feed-forward over [R, T, D]."""

    def setup(self) -> None:
        config = self.config
        self.self_attn = self._attention(config.decoder_attention_heads)
        self.self_attn_layer_norm = LayerNorm(self.dtype)
        self.encoder_attn = self._attention(config.decoder_attention_heads)
        self.encoder_attn_layer_norm = LayerNorm(self.dtype)
        self.fc1, self.fc2 = self._linear(config.decoder_ffn_dim), self._linear(config.d_model)
        self.final_layer_norm = LayerNorm(self.dtype)

    def __call__(
        self,
        hidden: Array,
        mask: Array | None,
        memory: Array | None = None,
        memory_mask: Array | None = None,
        entry: Entry | None = None,
        start: Array | int | None = None,
        cross: Entry | None = None,
        need_weights: bool = False,
        deterministic: bool = True,
        packed: Packed | None = None,
    ) -> tuple[Array, Entry, Array | None, Array | None]:
        """States [R, T, D], the self-attention's keys and values, and, if asked, both attentions' weights.

        Args:
            hidden: [R, T, D].
            mask: additive [R or 1, 1, T, L].
            memory: the encoder's output [B, S, D], unless `cross` holds its keys and values already.
            memory_mask: additive [B, 1, 1, S].
            entry: the cache [R, H, L, K], written at `start`.
            start: place of the first new token in the cache; int32, may be traced.
            cross: keys and values [B, H, S, K] of the encoder's output. Without it and `memory`, there is no
                cross-attention.
            need_weights: return attention weights.
            deterministic: no dropout.
            packed: the self-attention's projections in one.
        """
        out, weights, entry = self.self_attn(
            self._enter(hidden, self.self_attn_layer_norm),
            entry=entry,
            start=start,
            mask=mask,
            need_weights=need_weights,
            deterministic=deterministic,
            packed=packed,
        )
        hidden = self._leave(hidden, out, self.self_attn_layer_norm, deterministic)
        cross_weights = None
        if cross is None and memory is not None:
            cross = self.encoder_attn.entries(memory)
        if cross is not None:
            out, cross_weights, _ = self.encoder_attn(
                self._enter(hidden, self.encoder_attn_layer_norm),
                entry=cross,
                mask=memory_mask,
                need_weights=need_weights,
                deterministic=deterministic,
            )
            hidden = self._leave(hidden, out, self.encoder_attn_layer_norm, deterministic)
        elif self.is_initializing():  # a decoder without cross-attention still holds the weights, as upstream
            self.encoder_attn(hidden)
            self.encoder_attn_layer_norm(hidden)
        return self._feed_forward(hidden, deterministic), entry, weights, cross_weights


def embedding_scale(config: PretrainedConfig) -> float:
    """What token vectors are multiplied with before the positions are added."""
    return math.sqrt(config.d_model) if config.scale_embedding else 1.0


# ---- what is wrong with an input, said before anything is traced


def ids_of(name: str, ids: Any, config: PretrainedConfig) -> Array:
    """Token ids as int32 [B, T].

    Raises:
        InputError: if they are no integers, have not two dimensions, are more than the position table has, or lie
            outside the vocabulary.
    """
    found = _integers(name, ids)
    if found.ndim != 2:
        raise InputError(f"`{name}` must have 2 dimensions, [rows, tokens], got {found.ndim}.")
    limit, vocabulary = config.max_position_embeddings, config.vocab_size
    if found.shape[1] > limit:
        raise InputError(
            f"the sequence must have at most {limit} positions (max_position_embeddings), got {found.shape[1]} in "
            f"`{name}`. Truncate the input."
        )
    _check_range(
        found, vocabulary, "token ids must be between 0 and {}, got ids from {} to {}. Use this checkpoint's tokenizer."
    )
    return jnp.asarray(found, jnp.int32)


def check_positions(name: str, positions: Any, shape: tuple[int, ...], config: PretrainedConfig) -> Array | None:
    """Positions as int32 [B, T], or None.

    Raises:
        InputError: if they are no integers, of another shape than the ids, or not in the table.
    """
    if positions is None:
        return None
    found = _integers(name, positions)
    if found.shape not in (shape, (1, shape[1]), shape[1:]):
        raise InputError(f"`{name}` must be {list(shape)} as the ids are, got {list(found.shape)}.")
    message = f"`{name}` must be between 0 and {{}} (max_position_embeddings), got positions from {{}} to {{}}."
    _check_range(found, config.max_position_embeddings, message)
    return jnp.asarray(found, jnp.int32)


def seen_from_python(values: Any) -> NDArray[Any] | None:
    """The values, if Python can look at them without waiting for a device; None while traced or elsewhere."""
    if isinstance(values, Array):
        if isinstance(values, jax.core.Tracer) or not values.is_fully_addressable:
            return None
        if any(device.platform != "cpu" for device in values.devices()):
            return None
    return np.asarray(values)


def _integers(name: str, values: Any) -> Any:
    found = values if isinstance(values, Array) else np.asarray(values)
    if not jnp.issubdtype(found.dtype, jnp.integer):
        raise InputError(f"`{name}` must be integers, got {found.dtype}. Pass ids as the tokenizer gives them.")
    return found


def _check_range(values: Any, limit: int, message: str) -> None:
    seen = seen_from_python(values)
    if seen is not None and seen.size and not (seen.min() >= 0 and seen.max() < limit):
        raise InputError(message.format(limit - 1, int(seen.min()), int(seen.max())))
