"""The array operations of loops that run on the host, in NumPy: nothing has to be compiled for many small shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .arrays import Array, Arrays, State, StaticArrays


class HostArrays(StaticArrays):
    """The namespace for loops that run from Python, step by step; what a framework computes comes in as NumPy arrays.

    Args:
        device: the framework's own namespace, which draws the random numbers, so that they are the same in both.
    """

    def __init__(self, device: Arrays) -> None:
        import numpy as np

        self.np, self.device = np, device
        for name in "stack reshape transpose exp log sqrt isinf isnan matmul abs maximum minimum".split():
            setattr(self, name, getattr(np, name))

    stack: Any
    reshape: Any
    transpose: Any
    exp: Any
    log: Any
    sqrt: Any
    isinf: Any
    isnan: Any
    matmul: Any
    abs: Any
    maximum: Any
    minimum: Any

    def asarray(self, value: Any, dtype: str) -> Array:
        return self.np.asarray(value, dtype)

    def cast(self, x: Array, dtype: str) -> Array:
        return self.np.asarray(x).astype(dtype)

    def arange(self, stop: int) -> Array:
        return self.np.arange(stop, dtype="int32")

    def full(self, shape: Sequence[int], value: Any, dtype: str) -> Array:
        return self.np.full(tuple(shape), value, dtype)

    def where(self, condition: Array, x: Any, y: Any) -> Array:
        if isinstance(x, float) and isinstance(y, float):  # NumPy would make them float64
            x = self.np.float32(x)
        return self.np.where(condition, x, y)

    def concat(self, parts: Sequence[Array], axis: int) -> Array:
        return self.np.concatenate(parts, axis)

    def repeat(self, x: Array, times: int) -> Array:
        return self.np.repeat(x, times, axis=0)

    def sum(self, x: Array, axis: int, *, keepdims: bool = False) -> Array:
        return self.np.sum(x, axis, keepdims=keepdims, dtype=x.dtype)

    def max(self, x: Array, axis: int, *, keepdims: bool = False) -> Array:
        return self.np.max(x, axis, keepdims=keepdims)

    def min(self, x: Array, axis: int, *, keepdims: bool = False) -> Array:
        return self.np.min(x, axis, keepdims=keepdims)

    def any(self, x: Array, axis: int | None = None, *, keepdims: bool = False) -> Array:
        return self.np.any(x, axis, keepdims=keepdims)

    def all(self, x: Array, axis: int | None = None, *, keepdims: bool = False) -> Array:
        return self.np.all(x, axis, keepdims=keepdims)

    def argmax(self, x: Array) -> Array:
        return self.np.argmax(x, -1).astype("int32")

    def argmin(self, x: Array) -> Array:
        return self.np.argmin(x, -1).astype("int32")

    def argsort(self, x: Array) -> Array:
        return self.np.argsort(x, -1, kind="stable").astype("int32")

    def sort(self, x: Array) -> Array:
        return self.np.sort(x, -1)

    def cumsum(self, x: Array) -> Array:
        return self.np.cumsum(x, -1, dtype="float64").astype(x.dtype)

    def top_k(self, x: Array, count: int) -> tuple[Array, Array]:
        np, x = self.np, self.np.asarray(x)
        rows = x.reshape(-1, x.shape[-1])
        places = np.empty((len(rows), count), np.int32)
        for index, least in enumerate(np.partition(rows, -count, -1)[:, -count]):
            # All that reach the last of them, in order; of equals the first come first, as in a compiled loop.
            among = np.flatnonzero(rows[index] >= least)
            places[index] = among[np.argsort(-rows[index, among], kind="stable")[:count]]
        places = places.reshape(*x.shape[:-1], count)
        return np.take_along_axis(x, places, -1), places

    def softmax(self, x: Array) -> Array:
        x = self.np.asarray(x)
        shifted = self.np.exp(x - self.np.max(x, -1, keepdims=True))
        return shifted / self.np.sum(shifted, -1, keepdims=True)

    def log_softmax(self, x: Array) -> Array:
        x = self.np.asarray(x)
        shifted = x - self.np.max(x, -1, keepdims=True)
        return shifted - self.np.log(self.np.sum(self.np.exp(shifted), -1, keepdims=True))

    def take(self, x: Array, places: Array, axis: int) -> Array:
        return self.np.take(x, places, axis, mode="clip")

    def take_along(self, x: Array, places: Array) -> Array:
        return self.np.take_along_axis(self.np.asarray(x), places, -1)

    def pick(self, x: Array, places: Array) -> Array:
        return self.np.asarray(x)[self.np.arange(len(places))[:, None], places]

    def put(self, x: Array, start: Any, new: Array, axis: int) -> Array:
        x = x.copy()
        x[(slice(None),) * axis + (slice(int(start), int(start) + new.shape[axis]),)] = new
        return x

    def put_at(self, x: Array, places: Array, new: Array) -> Array:
        x = self.np.array(x)
        self.np.put_along_axis(x, places, new, -1)
        return x

    def add_at(self, x: Array, places: Array, new: Array) -> Array:
        return self._at(self.np.add, x, places, new)

    def min_at(self, x: Array, places: Array, new: Array) -> Array:
        return self._at(self.np.minimum, x, places, new)

    def _at(self, operation: Any, x: Array, places: Array, new: Array) -> Array:
        x = self.np.array(x)
        operation.at(x, (self.np.arange(len(places))[:, None], places), new)
        return x

    def noise(self, seed: Array, step: Any, rows: int, width: int) -> Array:
        return self.np.asarray(self.device.noise(seed, step, rows, width))

    def when(self, condition: Any, change: Callable[[Array], Array], x: Array) -> Array:
        return change(x) if bool(condition) else x

    def while_loop(
        self, go_on: Callable[[State], Array], body: Callable[[State], State], state: State, most: Any = None
    ) -> State:
        while bool(go_on(state)):
            state = body(state)
        return state
