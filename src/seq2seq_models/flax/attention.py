"""Masks and multi-head attention. Letters in shapes: B batch, S source, T target, D model, H heads, K per head, L keys.

R rows of queries may share B rows of keys: R = B * n, for n beams of one input.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..errors import InputError

Entry = tuple[Array, Array]
"""Keys and values of one attention, each [B, H, L, K]."""

Packed = tuple[Array, Array]
"""The kernels of queries, keys and values side by side [D, 3 D], and their biases [3 D]."""


def padding_mask(mask: Array | None, dtype: Any) -> Array | None:
    """Additive mask [B, 1, 1, S] for a 1/0 mask [B, S], or None where none is given.

    Masked places hold the dtype's lowest finite number, not minus infinity: a row that is masked throughout stays
    finite. A mask of four dimensions is taken as additive already.
    """
    if mask is None or mask.ndim == 4:
        return mask
    if mask.ndim != 2:
        raise InputError(f"`attention_mask` must have 2 or 4 dimensions, got {mask.ndim}. Pass one 1/0 row per input.")
    return _additive(mask != 0, dtype)[:, None, None, :]


def causal_mask(mask: Array | None, places: Array, length: int, dtype: Any) -> Array:
    """Additive mask [B or 1, 1, T, length]: each query sees the keys up to its own place that `mask` keeps.

    Args:
        mask: 1/0 [B, at most length] over past and present keys, or an additive mask of four dimensions, or None. Keys
            beyond its columns count as kept.
        places: int32 [T], the queries' places among the keys; may be traced.
        length: number of keys there is room for.
        dtype: of the attention scores.
    """
    if mask is not None and mask.ndim == 4:
        return mask
    seen = (jnp.arange(length, dtype=jnp.int32)[None, :] <= places[:, None])[None, None]
    if mask is not None:
        kept = jnp.pad(mask != 0, ((0, 0), (0, length - mask.shape[1])), constant_values=True)
        seen = seen & kept[:, None, None, :]
    return _additive(seen, dtype)


def mask_of(name: str, mask: Any, shape: tuple[int, ...], exact: bool = True) -> Array | None:
    """A mask as an array, or None.

    Raises:
        InputError: if it is not [rows, tokens] of the given shape, or with fewer tokens unless `exact`.
    """
    if mask is None:
        return None
    found = mask if isinstance(mask, Array) else jnp.asarray(np.asarray(mask))
    fits = found.ndim == 2 and found.shape[0] == shape[0]
    if found.ndim != 4 and not (fits and (found.shape[1] == shape[1] or (found.shape[1] < shape[1] and not exact))):
        at_most = "" if exact else " (or fewer columns)"
        raise InputError(f"`{name}` must be {list(shape)}{at_most}, got {list(found.shape)}.")
    return found


def _additive(kept: Array, dtype: Any) -> Array:
    lowest = jnp.finfo(dtype).min  # type: ignore[no-untyped-call]
    return jnp.where(kept, jnp.zeros((), dtype), jnp.full((), lowest, dtype))


def wide(dtype: Any) -> Any:
    """float32 for the half-precision dtypes, for what they are too coarse to compute; otherwise the dtype itself."""
    return jnp.dtype(dtype) if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)


def variable(module: nn.Module, name: str, init: Any, shape: tuple[int, ...]) -> Array:
    """A parameter of a module: float32 when it is first drawn, of its own dtype when it is given.

    `Module.param` would trace the initialiser again in every call only to compare shapes.
    """
    held: Array | None = module.get_variable("params", name)
    if held is not None:
        return held
    drawn: Array = module.param(name, init, shape, jnp.float32)
    return drawn


def drop(module: nn.Module, values: Array, rate: float, deterministic: bool) -> Array:
    """The values, each zeroed with probability `rate` and scaled up otherwise; as they are if `deterministic`."""
    if deterministic or rate == 0.0:
        return values
    if rate == 1.0:
        return jnp.zeros_like(values)
    kept = jax.random.bernoulli(module.make_rng("dropout"), 1.0 - rate, values.shape)
    return jnp.where(kept, values / (1.0 - rate), jnp.zeros_like(values))


class Linear(nn.Module):
    """A product with a kernel [in, out] and, by default, a bias [out], computed in `dtype`."""

    features: int
    init_std: float
    dtype: Any
    use_bias: bool = True

    @nn.compact
    def __call__(self, values: Array) -> Array:
        """[..., in] to [..., out]."""
        shape = (values.shape[-1], self.features)
        kernel = variable(self, "kernel", nn.initializers.normal(self.init_std), shape).astype(self.dtype)
        # As one matrix: the kernel's gradient is then a product that XLA computes a third faster on a CPU.
        rows = values.astype(self.dtype).reshape(-1, shape[0])
        out = lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())))
        if self.use_bias:
            out = out + variable(self, "bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)[None]
        return out.reshape(*values.shape[:-1], self.features)


class Attention(nn.Module):
    """Multi-head attention over the module's own input, or over keys and values made before.

    Source: Vaswani et al. 2017, section 3.2.
    """

    dim: int
    num_heads: int
    dropout: float
    init_std: float
    dtype: Any

    def setup(self) -> None:
        self.head_dim = self.dim // self.num_heads
        self.k_proj = Linear(self.dim, self.init_std, self.dtype)
        self.v_proj = Linear(self.dim, self.init_std, self.dtype)
        self.q_proj = Linear(self.dim, self.init_std, self.dtype)
        self.out_proj = Linear(self.dim, self.init_std, self.dtype)

    def entries(self, states: Array) -> Entry:
        """Keys and values, each [B, H, S, K], of states [B, S, D]."""
        return self._split(self.k_proj(states)), self._split(self.v_proj(states))

    def packed(self) -> Packed:
        """The three projections in one, for steps: one large product reads memory faster than three small ones."""
        parts = [part.variables["params"] for part in (self.q_proj, self.k_proj, self.v_proj)]
        kernel, bias = (jnp.concatenate([part[name] for part in parts], -1) for name in ("kernel", "bias"))
        return kernel.astype(self.dtype), bias.astype(self.dtype)

    def __call__(
        self,
        hidden: Array,
        entry: Entry | None = None,
        start: Array | int | None = None,
        mask: Array | None = None,
        need_weights: bool = False,
        deterministic: bool = True,
        packed: Packed | None = None,
    ) -> tuple[Array, Array | None, Entry]:
        """Attended values [R, T, D]; the weights after the softmax [R, H, T, L] if asked; keys and values as used.

        Args:
            hidden: the queries' states [R, T, D].
            entry: keys and values [B, H, L, K] to attend to; by default those of `hidden` alone. With fewer rows than
                `hidden`, n = R / B beams share each.
            start: write the keys and values of `hidden` into `entry` at this place first; int32, may be traced.
            mask: additive [B or 1, 1, T or 1, L].
            need_weights: return the weights.
            deterministic: no dropout.
            packed: what `packed` gives, to be used instead of the three projections.
        """
        rows, length, _ = hidden.shape
        projected = None if packed is None else self._project(hidden, packed)
        if entry is None:
            entry = self.entries(hidden)
        elif start is not None:
            new = self.entries(hidden) if projected is None else (self._split(projected[1]), self._split(projected[2]))
            keys, values = (
                lax.dynamic_update_slice_in_dim(held, fresh.astype(held.dtype), start, axis=2)
                for held, fresh in zip(entry, new, strict=True)
            )
            entry = (keys, values)
        keys, values = entry
        queries = (self.q_proj(hidden) if projected is None else projected[0]) * self.head_dim**-0.5
        queries = queries.reshape(keys.shape[0], -1, length, self.num_heads, self.head_dim)  # [B, n, T, H, K]
        scores = jnp.einsum("bnthk,bhlk->bhntl", queries, keys.astype(self.dtype))
        weights = self._weigh(scores, mask)
        # Differs from transformers 4.57.6: `attention_dropout` is applied, which its Flax encoder leaves out.
        weights = drop(self, weights, self.dropout, deterministic)
        attended = jnp.einsum("bhntl,bhlk->bnthk", weights, values.astype(self.dtype))
        out = self.out_proj(attended.reshape(rows, length, self.dim))
        return out, self._per_row(weights, rows) if need_weights else None, entry

    def _project(self, hidden: Array, packed: Packed) -> tuple[Array, Array, Array]:
        """Queries, keys and values, each [R, T, D]."""
        kernel, bias = packed
        every = lax.dot_general(hidden.astype(self.dtype), kernel, (((2,), (0,)), ((), ()))) + bias[None, None]
        queries, keys, values = jnp.split(every, 3, axis=-1)
        return queries, keys, values

    def _split(self, projected: Array) -> Array:
        rows, length, _ = projected.shape
        return projected.reshape(rows, length, self.num_heads, self.head_dim).transpose(0, 2, 1, 3)  # [B, H, T, K]

    def _weigh(self, scores: Array, mask: Array | None) -> Array:
        # In half precision the lowest number plus a negative score is minus infinity, and a row of those NaN.
        scores = scores.astype(wide(self.dtype))
        if mask is not None:
            scores = scores + mask.astype(scores.dtype)[:, :, None]
        return jax.nn.softmax(scores, axis=-1).astype(self.dtype)

    def _per_row(self, folded: Array, rows: int) -> Array:
        """[B, H, n, T, L] -> [R, H, T, L]."""
        return folded.swapaxes(1, 2).reshape(rows, self.num_heads, *folded.shape[3:])
