"""Masks and multi-head attention. Letters in shapes: B batch, S source, T target, D model, H heads, K per head."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from ..core.generation.decoder import lowest as core_lowest
from ..errors import InputError
from .cache import LayerCache
from .linear import Linear, Part, apply, dropout


def lowest(dtype: Any) -> float:
    """The lowest finite number of a dtype, which stands for "not seen" in a mask."""
    return core_lowest(keras.backend.standardize_dtype(dtype))


def padding_mask(mask: Any, dtype: Any, length: Any = None) -> Any:
    """Additive mask [B, 1, 1, S] for a 1/0 mask [B, S], or None for None.

    Masked places hold the dtype's lowest finite number, not minus infinity: a row that is masked throughout then
    averages over all places and stays finite. A mask of four dimensions is taken as additive already.

    Args:
        mask: 1/0 [B, S] or additive [B, 1, 1, S].
        dtype: of the attention scores.
        length: S of what is attended to, if it is known.

    Raises:
        InputError: it is no such tensor, or of another length.
    """
    if mask is None or len(mask.shape) == 4:
        return mask
    if len(mask.shape) != 2:
        raise InputError(
            f"`attention_mask` must have 2 or 4 dimensions, got {len(mask.shape)}. Pass one 1/0 row per input."
        )
    if isinstance(length, int) and mask.shape[1] is not None and mask.shape[1] != length:
        raise InputError(
            f"`attention_mask` must have one column for each of {length} tokens of the source, got {list(mask.shape)}. "
            "Pass the one that the tokenizer gave with the ids."
        )
    return _additive(ops.equal(mask, 0), dtype)[:, None, None, :]


def causal_mask(mask: Any, positions: Any, length: Any, dtype: Any) -> Any:
    """Additive mask [B or 1, 1, T, length]: each query sees the keys up to its own position that `mask` keeps.

    Args:
        mask: 1/0 [B, at most length] over past and present keys, or an additive mask of four dimensions, or None.
        positions: int32 [T], the queries' positions among the keys.
        length: number of keys, past and present.
        dtype: of the attention scores.
    """
    if mask is not None and len(mask.shape) == 4:
        return mask
    hidden = (ops.arange(length, dtype="int32")[None, :] > positions[:, None])[None, None]
    if mask is not None:
        padded = ops.pad(ops.equal(mask, 0), ((0, 0), (0, length - ops.shape(mask)[1])))
        hidden = ops.logical_or(hidden, padded[:, None, None, :])
    return _additive(hidden, dtype)


def _additive(hidden: Any, dtype: Any) -> Any:
    return ops.where(hidden, ops.cast(lowest(dtype), dtype), ops.cast(0.0, dtype))


class Attention(Part):
    """Multi-head attention over the layer's own input, or over an encoder's output (`memory`).

    Source: Vaswani et al. 2017, section 3.2.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float, seeds: Any, std: float, **options: Any) -> None:
        super().__init__(**options)
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.dropout = dropout
        self.seeds = seeds
        with keras.name_scope(self.name):
            self.k_proj = Linear(dim, dim, std, name="k_proj", **self.inner)
            self.v_proj = Linear(dim, dim, std, name="v_proj", **self.inner)
            self.q_proj = Linear(dim, dim, std, name="q_proj", **self.inner)
            self.out_proj = Linear(dim, dim, std, name="out_proj", **self.inner)

    def packed(self) -> tuple[Any, Any]:
        """Queries', keys' and values' kernels side by side [D, 3 D], and their biases [3 D].

        For steps: one large product reads memory faster than three small ones.
        """
        parts = (self.q_proj, self.k_proj, self.v_proj)
        kernel, bias = (
            ops.concatenate([one.kernel for one in parts], 1),
            ops.concatenate([one.bias for one in parts], 0),
        )
        return ops.cast(kernel, self.compute_dtype), ops.cast(bias, self.compute_dtype)

    def call(
        self,
        hidden_states: Any,
        key_value_states: Any = None,
        past_key_value: LayerCache | None = None,
        attention_mask: Any = None,
        layer_head_mask: Any = None,
        training: bool = False,
        *,
        need_weights: bool = True,
        is_cross: bool = False,
    ) -> tuple[Any, Any]:
        """Attended values [B, T, D] and, if `need_weights`, the weights after the softmax [B, H, T, keys].

        Args:
            hidden_states: the queries' states [B, T, D].
            key_value_states: the encoder's output [B, S, D], to attend to in the place of the queries' own states.
            past_key_value: where keys and values are kept; those of this layer are read and written.
            attention_mask: additive [B or 1, 1, T or 1, keys]; None hides nothing.
            layer_head_mask: [H], multiplied onto the weights.
            training: whether attention dropout is on.
            need_weights: return the weights; else None.
            is_cross: attend to the encoder, whose keys and values the cache may hold already. They may have fewer rows
                than the queries: B rows of beams share them.
        """
        hidden, memory, mask = hidden_states, key_value_states, attention_mask
        cache, head_mask = past_key_value, layer_head_mask
        is_cross = is_cross or memory is not None
        rows, length, dim = ops.shape(hidden)
        if cache is not None and cache.packed is not None and not is_cross:
            query, key, value = self._project(hidden, *cache.packed)
            key, value = cache.update(self._split(key), self._split(value))
        else:
            query = apply(self.q_proj, hidden)
            key, value = self._keys_and_values(hidden, memory, cache, is_cross)
        inputs = ops.shape(key)[0]
        # The beams of one input read its keys once: [B * beams, T, ..] is [B, beams * T, ..] in the same order.
        is_folded = is_cross and cache is not None and cache.is_static and not _is_same(inputs, rows)
        query = query * ops.cast(self.head_dim**-0.5, hidden.dtype)
        query = ops.reshape(query, (inputs if is_folded else rows, -1, self.num_heads, self.head_dim))
        weights = self._weights(query, key, mask)
        if head_mask is not None:
            weights = weights * ops.reshape(ops.cast(head_mask, weights.dtype), (1, -1, 1, 1))
        weights = dropout(weights, self.dropout, self.seeds, training)
        attended = ops.reshape(ops.einsum("bhtl,bhlk->bthk", weights, value), (rows, length, dim))
        out = apply(self.out_proj, attended)
        if not need_weights:
            return out, None
        return out, self._per_beam(weights, rows, length) if is_folded else weights

    def _weights(self, query: Any, key: Any, mask: Any) -> Any:
        """Weights after the softmax [B, H, T, keys] for queries [B, T, H, K]; the softmax is computed in float32."""
        scores = ops.cast(ops.einsum("bthk,bhlk->bhtl", query, key), "float32")
        if mask is not None:
            scores = scores + ops.cast(mask, "float32")
        return ops.cast(tf.nn.softmax(scores, axis=-1), query.dtype)  # Keras warns of a single key

    def _project(self, hidden: Any, kernel: Any, bias: Any) -> Any:
        """Queries, keys and values [B, T, D] of states [B, T, D], from the projections in one."""
        rows, length, dim = ops.shape(hidden)
        every = ops.matmul(ops.reshape(hidden, (-1, dim)), kernel) + bias
        return ops.split(ops.reshape(every, (rows, length, 3 * dim)), 3, axis=-1)

    def _split(self, projected: Any) -> Any:
        rows, length, _ = ops.shape(projected)
        return ops.transpose(ops.reshape(projected, (rows, length, self.num_heads, self.head_dim)), (0, 2, 1, 3))

    def _per_beam(self, folded: Any, rows: Any, length: Any) -> Any:
        """[B, H, beams * T, S] -> [B * beams, H, T, S]."""
        inputs, heads, _, source = ops.shape(folded)
        split = ops.reshape(folded, (inputs, heads, -1, length, source))
        return ops.reshape(ops.transpose(split, (0, 2, 1, 3, 4)), (rows, heads, length, source))

    def entry(self, source: Any) -> tuple[Any, Any]:
        """Keys and values [B, H, S, K] of states [B, S, D]."""
        return self._split(apply(self.k_proj, source)), self._split(apply(self.v_proj, source))

    def _keys_and_values(self, hidden: Any, memory: Any, cache: LayerCache | None, is_cross: bool) -> tuple[Any, Any]:
        if is_cross:
            if cache is None:
                return self.entry(memory)
            if cache.cross is None:
                cache.cross = self.entry(memory)
            return cache.cross
        own = self.entry(hidden)
        return own if cache is None else cache.update(*own)


def _is_same(one: Any, other: Any) -> bool:
    """Whether two sizes are known to be equal."""
    return isinstance(one, int) and isinstance(other, int) and one == other
