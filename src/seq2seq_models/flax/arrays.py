"""The array operations of the decoding loops in JAX. See core/generation/arrays.py for what each of them means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..core.generation.arrays import State, StaticArrays


class JaxArrays(StaticArrays):
    """The namespace for compiled loops; nothing in it looks at a value."""

    concat = staticmethod(jnp.concatenate)
    stack = staticmethod(jnp.stack)
    reshape = staticmethod(jnp.reshape)
    transpose = staticmethod(jnp.transpose)
    sum = staticmethod(jnp.sum)
    max = staticmethod(jnp.max)
    min = staticmethod(jnp.min)
    any = staticmethod(jnp.any)
    all = staticmethod(jnp.all)
    maximum = staticmethod(jnp.maximum)
    minimum = staticmethod(jnp.minimum)
    abs = staticmethod(jnp.abs)
    exp = staticmethod(jnp.exp)
    log = staticmethod(jnp.log)
    sqrt = staticmethod(jnp.sqrt)
    isinf = staticmethod(jnp.isinf)
    isnan = staticmethod(jnp.isnan)
    softmax = staticmethod(jax.nn.softmax)
    log_softmax = staticmethod(jax.nn.log_softmax)
    matmul = staticmethod(jnp.matmul)

    def where(self, condition: Any, x: Any, y: Any) -> Array:
        return jnp.where(condition, x, y)

    def asarray(self, value: Any, dtype: str) -> Array:
        return jnp.asarray(value, jnp.dtype(dtype))

    def cast(self, x: Array, dtype: str) -> Array:
        return x.astype(jnp.dtype(dtype))

    def arange(self, stop: int) -> Array:
        return jnp.arange(stop, dtype=jnp.int32)

    def full(self, shape: Sequence[int], value: Any, dtype: str) -> Array:
        return jnp.full(tuple(shape), value, jnp.dtype(dtype))

    def repeat(self, x: Array, times: int) -> Array:
        if times == 1:
            return x
        wide = jnp.broadcast_to(x[:, None], (x.shape[0], times, *x.shape[1:]))
        return wide.reshape(x.shape[0] * times, *x.shape[1:])

    def argmax(self, x: Array) -> Array:
        return lax.argmax(x, x.ndim - 1, jnp.int32)

    def argmin(self, x: Array) -> Array:
        return lax.argmin(x, x.ndim - 1, jnp.int32)

    def argsort(self, x: Array) -> Array:
        return jnp.argsort(x, axis=-1, stable=True).astype(jnp.int32)

    def sort(self, x: Array) -> Array:
        return jnp.sort(x, axis=-1)

    def cumsum(self, x: Array) -> Array:
        return jnp.cumsum(x, axis=-1)

    def top_k(self, x: Array, count: int) -> tuple[Array, Array]:
        values, places = lax.top_k(x, count)
        return values, places

    def take(self, x: Array, places: Array, axis: int) -> Array:
        return jnp.take(x, places, axis=axis, mode="clip")

    def take_along(self, x: Array, places: Array) -> Array:
        return jnp.take_along_axis(x, places, axis=-1, mode="clip")

    def pick(self, x: Array, places: Array) -> Array:
        return jax.vmap(lambda row, place: jnp.take(row, place, axis=0, mode="clip"))(x, places)

    def put(self, x: Array, start: Array, new: Array, axis: int) -> Array:
        return lax.dynamic_update_slice_in_dim(x, new, start, axis)

    def put_at(self, x: Array, places: Array, new: Array) -> Array:
        return x.at[self._rows(places), places].set(new)

    def add_at(self, x: Array, places: Array, new: Array) -> Array:
        return x.at[self._rows(places), places].add(new)

    def min_at(self, x: Array, places: Array, new: Array) -> Array:
        return x.at[self._rows(places), places].min(new)

    def _rows(self, places: Array) -> Array:
        return jnp.broadcast_to(jnp.arange(places.shape[0], dtype=places.dtype)[:, None], places.shape)

    def noise(self, seed: Array, step: Array, rows: int, width: int) -> Array:
        key = jax.random.wrap_key_data(seed.astype(jnp.uint32), impl="threefry2x32")

        def one(row: Array) -> Array:
            own = jax.random.fold_in(jax.random.fold_in(key, row), step)
            return jax.random.uniform(own, (width,), jnp.float32)

        return jax.vmap(one)(jnp.arange(rows, dtype=jnp.uint32))

    def while_loop(
        self, go_on: Callable[[State], Array], body: Callable[[State], State], state: State, most: Any = None
    ) -> State:
        return lax.while_loop(go_on, body, state)
