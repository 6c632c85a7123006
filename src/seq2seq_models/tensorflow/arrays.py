"""The array operations of core/generation in TensorFlow; core/generation/arrays.py says what each of them means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import tensorflow as tf

from ..core.generation.arrays import State, StaticArrays

Tensor = Any


class TensorFlowArrays(StaticArrays):
    """The namespace for compiled loops; nothing in it looks at a value."""

    reshape = staticmethod(tf.reshape)
    transpose = staticmethod(tf.transpose)
    maximum = staticmethod(tf.maximum)
    minimum = staticmethod(tf.minimum)
    abs = staticmethod(tf.abs)
    exp = staticmethod(tf.exp)
    log = staticmethod(tf.math.log)
    sqrt = staticmethod(tf.sqrt)
    isinf = staticmethod(tf.math.is_inf)
    isnan = staticmethod(tf.math.is_nan)
    softmax = staticmethod(tf.nn.softmax)
    log_softmax = staticmethod(tf.nn.log_softmax)
    matmul = staticmethod(tf.matmul)
    where = staticmethod(tf.where)

    def asarray(self, value: Any, dtype: str) -> Tensor:
        return tf.cast(value, dtype)

    def cast(self, x: Tensor, dtype: str) -> Tensor:
        return tf.cast(x, dtype)

    def arange(self, stop: int) -> Tensor:
        return tf.range(stop, dtype=tf.int32)

    def full(self, shape: Sequence[int], value: Any, dtype: str) -> Tensor:
        return tf.fill(tuple(shape), tf.cast(value, dtype))

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        return tf.concat(parts, axis)

    def stack(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        return tf.stack(parts, axis)

    def repeat(self, x: Tensor, times: int) -> Tensor:
        return x if times == 1 else tf.repeat(x, times, axis=0)

    def sum(self, x: Tensor, axis: int, keepdims: bool = False) -> Tensor:
        return tf.reduce_sum(x, axis, keepdims)

    def max(self, x: Tensor, axis: int, keepdims: bool = False) -> Tensor:
        return tf.reduce_max(x, axis, keepdims)

    def min(self, x: Tensor, axis: int, keepdims: bool = False) -> Tensor:
        return tf.reduce_min(x, axis, keepdims)

    def any(self, x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
        return tf.reduce_any(x, axis, keepdims)

    def all(self, x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
        return tf.reduce_all(x, axis, keepdims)

    def argmax(self, x: Tensor) -> Tensor:
        return tf.argmax(x, -1, tf.int32)

    def argmin(self, x: Tensor) -> Tensor:
        return tf.argmin(x, -1, tf.int32)

    def argsort(self, x: Tensor) -> Tensor:
        return tf.argsort(x, stable=True)

    def sort(self, x: Tensor) -> Tensor:
        return tf.sort(x)

    def cumsum(self, x: Tensor) -> Tensor:
        return tf.cumsum(x, -1)

    def top_k(self, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        values, places = tf.math.top_k(x, count)
        return values, places

    def take(self, x: Tensor, places: Tensor, axis: int) -> Tensor:
        return tf.gather(x, places, axis=axis)

    def take_along(self, x: Tensor, places: Tensor) -> Tensor:
        return tf.gather(x, places, batch_dims=1)

    def pick(self, x: Tensor, places: Tensor) -> Tensor:
        return tf.gather(x, places, batch_dims=1)

    def put(self, x: Tensor, start: Tensor, new: Tensor, axis: int) -> Tensor:
        return put(x, start, new, axis)

    def put_at(self, x: Tensor, places: Tensor, new: Tensor) -> Tensor:
        return tf.tensor_scatter_nd_update(x, self._indices(places), new)

    def add_at(self, x: Tensor, places: Tensor, new: Tensor) -> Tensor:
        return tf.tensor_scatter_nd_add(x, self._indices(places), new)

    def min_at(self, x: Tensor, places: Tensor, new: Tensor) -> Tensor:
        return tf.tensor_scatter_nd_min(x, self._indices(places), new)

    def _indices(self, places: Tensor) -> Tensor:
        rows = tf.broadcast_to(tf.range(places.shape[0])[:, None], places.shape)
        return tf.stack([rows, places], -1)

    def noise(self, seed: Tensor, step: Tensor, rows: int, width: int) -> Tensor:
        # TensorFlow's own stateless numbers take one seed per call, so that every row would be compiled by itself.
        key = tf.unstack(tf.bitcast(seed, tf.uint32))
        row, column = tf.cast(tf.range(rows), tf.uint32)[:, None], tf.cast(tf.range(width), tf.uint32)[None]
        own = threefry(key, (row, tf.cast(step, tf.uint32)))
        bits, _ = threefry(own, (column, tf.zeros_like(column)))
        return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24

    def while_loop(
        self, go_on: Callable[[State], Tensor], body: Callable[[State], State], state: State, most: Any = None
    ) -> State:
        last: State
        (last,) = tf.while_loop(go_on, lambda held: (body(held),), (state,), parallel_iterations=1)
        return last


def threefry(key: Sequence[Tensor], counter: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Two random words for every pair of words of a counter, under a pair of words as a key; all uint32.

    Source: Salmon et al. 2011 (parallel random numbers: as easy as 1, 2, 3), Threefry-2x32 with 20 rounds.
    """
    word = partial(tf.constant, dtype=tf.uint32)
    keys = (*key, key[0] ^ key[1] ^ word(0x1BD11BDA))
    x, y = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x = x + y
            y = tf.bitwise.left_shift(y, word(turn)) | tf.bitwise.right_shift(y, word(32 - turn))
            y = y ^ x
        x, y = x + keys[(group + 1) % 3], y + keys[(group + 2) % 3] + word(group + 1)
    return x, y


def put(x: Tensor, start: Tensor, new: Tensor, axis: int) -> Tensor:
    """x with `new` written from `start` on along an axis; in place where XLA compiles it."""
    length, axis_count = new.shape[axis], len(x.shape)
    shape = [1] * axis_count
    shape[axis] = x.shape[axis]
    places = tf.reshape(tf.range(x.shape[axis]), shape)
    if length == 1:
        return tf.where(places == start, new, x)
    before = tf.gather(new, tf.clip_by_value(tf.range(x.shape[axis]) - start, 0, length - 1), axis=axis)
    return tf.where((places >= start) & (places < start + length), before, x)
