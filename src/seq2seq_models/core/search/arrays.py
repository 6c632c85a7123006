"""The few array operations the loops are written in; each compiling framework provides them in its own `arrays.py`.

They follow NumPy where NumPy has them. Arrays of these namespaces also take Python's operators. Dtypes are given by
name: "int32", "float32", "bool".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

Array = Any
State = dict[str, Any]


class Arrays(Protocol):
    """What a framework must offer."""

    def asarray(self, value: Any, /, dtype: str) -> Array:
        """A constant or an array of this dtype."""

    def cast(self, x: Array, /, dtype: str) -> Array:
        """The same values in another dtype."""

    def arange(self, stop: int, /) -> Array:
        """int32 [stop]."""

    def full(self, shape: Sequence[int], value: Any, dtype: str) -> Array:
        """An array filled with a value."""

    def where(self, condition: Array, x: Any, y: Any, /) -> Array:
        """x where the condition holds, else y."""

    def concat(self, parts: Sequence[Array], axis: int) -> Array:
        """Joined along an axis."""

    def stack(self, parts: Sequence[Array], axis: int) -> Array:
        """Joined along a new axis."""

    def reshape(self, x: Array, shape: Sequence[int], /) -> Array:
        """Another shape, row by row."""

    def transpose(self, x: Array, axes: Sequence[int], /) -> Array:
        """Axes in another order."""

    def repeat(self, x: Array, /, times: int) -> Array:
        """Every row [B, …] so many times, side by side [B * times, …]."""

    def sum(self, x: Array, /, axis: int, *, keepdims: bool = False) -> Array:
        """Sums along an axis."""

    def max(self, x: Array, /, axis: int, *, keepdims: bool = False) -> Array:
        """Greatest values along an axis."""

    def min(self, x: Array, /, axis: int, *, keepdims: bool = False) -> Array:
        """Least values along an axis."""

    def any(self, x: Array, /, axis: int | None = None, *, keepdims: bool = False) -> Array:
        """Whether any holds."""

    def all(self, x: Array, /, axis: int | None = None, *, keepdims: bool = False) -> Array:
        """Whether all hold."""

    def maximum(self, x: Array, y: Any, /) -> Array:
        """The greater, place by place."""

    def minimum(self, x: Array, y: Any, /) -> Array:
        """The lesser, place by place."""

    def abs(self, x: Array, /) -> Array:
        """Sizes."""

    def exp(self, x: Array, /) -> Array:
        """Powers of e."""

    def log(self, x: Array, /) -> Array:
        """Natural logarithms."""

    def sqrt(self, x: Array, /) -> Array:
        """Square roots."""

    def isinf(self, x: Array, /) -> Array:
        """Where a value is infinite."""

    def isnan(self, x: Array, /) -> Array:
        """Where a value is not a number."""

    def argmax(self, x: Array, /) -> Array:
        """Place of the greatest in the last axis, the first of equals, int32."""

    def argmin(self, x: Array, /) -> Array:
        """Place of the least in the last axis, the first of equals, int32."""

    def argsort(self, x: Array, /) -> Array:
        """Places in ascending order along the last axis, equals in their own order, int32."""

    def sort(self, x: Array, /) -> Array:
        """Ascending along the last axis."""

    def cumsum(self, x: Array, /) -> Array:
        """Running sums along the last axis."""

    def top_k(self, x: Array, /, count: int) -> tuple[Array, Array]:
        """The greatest of the last axis in descending order, the first of equals first, and their places, int32."""

    def softmax(self, x: Array, /) -> Array:
        """Probabilities along the last axis."""

    def log_softmax(self, x: Array, /) -> Array:
        """Log-probabilities along the last axis."""

    def matmul(self, x: Array, y: Array, /) -> Array:
        """Products of the last two axes."""

    def take(self, x: Array, /, places: Array, axis: int) -> Array:
        """The places, int32 of one axis, of an axis."""

    def take_along(self, x: Array, /, places: Array) -> Array:
        """The places [R, m] of the last axis of x [R, V], row by row."""

    def pick(self, x: Array, /, places: Array) -> Array:
        """The places [B, k] of the second axis of x [B, n, …], row by row."""

    def put(self, x: Array, /, start: Any, new: Array, axis: int) -> Array:
        """x with `new` written from `start` on along an axis; in place where the compiler can."""

    def put_at(self, x: Array, /, places: Array, new: Array) -> Array:
        """x [R, V] with new [R, m] at places [R, m]; equal places have equal values."""

    def add_at(self, x: Array, /, places: Array, new: Array) -> Array:
        """x [R, V] plus new [R, m] at places [R, m]."""

    def min_at(self, x: Array, /, places: Array, new: Array) -> Array:
        """The lesser of x [R, V] and new [R, m] at places [R, m]."""

    def noise(self, seed: Array, /, step: Any, rows: int, width: int) -> Array:
        """Numbers in [0, 1), float32 [rows, width], from a seed, int32 [2], and a step; each row has its own stream."""

    def while_loop(self, go_on: Callable[[State], Array], body: Callable[[State], State], state: State) -> State:
        """The state after as many rounds as `go_on` holds before each."""
