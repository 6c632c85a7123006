"""The few array operations the searches are written in; each framework provides them in its own `arrays.py`.

They follow NumPy where NumPy has them. Arrays of these namespaces also take Python's operators. Dtypes are given by
name: "int32", "float32", "bool"; "int32" stands for the namespace's dtype of token ids and indices (int64 in PyTorch).

Where an operation says that it consumes its first argument, it may overwrite it: the caller must never use that array
again. A namespace for loops that run from Python then works in place; compiled code does as it always did.
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
        """x with `new` written from `start` on along an axis; consumes x."""

    def put_at(self, x: Array, /, places: Array, new: Array) -> Array:
        """x [R, V] with new [R, m] at places [R, m]; equal places have equal values. Consumes x."""

    def add_at(self, x: Array, /, places: Array, new: Array) -> Array:
        """x [R, V] plus new [R, m] at places [R, m]; consumes x."""

    def min_at(self, x: Array, /, places: Array, new: Array) -> Array:
        """The lesser of x [R, V] and new [R, m] at places [R, m]; consumes x."""

    def noise(self, seed: Array, /, step: Any, rows: int, width: int) -> Array:
        """Numbers in [0, 1), float32 [rows, width], from a seed, int32 [2], and a step; each row has its own stream."""

    def while_loop(
        self, go_on: Callable[[State], Array], body: Callable[[State], State], state: State, most: Any = None
    ) -> State:
        """The state after as many rounds as `go_on` holds before each.

        Where the greatest number of rounds is given, a namespace may look at `go_on` every few rounds only: rounds past
        the end must then change nothing that is returned.
        """

    precise: str
    """The dtype of running sums that choose a token: "float64" where there is one."""

    def copy(self, x: Array, /) -> Array:
        """x in memory of its own, if anything here may overwrite it."""

    def to_host(self, x: Array, /) -> Array:
        """x as an array in the memory of the CPU, which streamers get: NumPy's, or PyTorch's in PyTorch."""

    def when(self, condition: Any, change: Callable[[Array], Array], x: Array, /) -> Array:
        """change(x) where a scalar condition holds, else x; consumes x. Where the condition is known, an `if`."""

    def fill(self, x: Array, mask: Array, value: float, /) -> Array:
        """x with the value where the mask, bool of a shape that broadcasts to x's, holds; consumes x."""

    def fill_columns(self, x: Array, columns: Sequence[int], value: float, /) -> Array:
        """x [R, V] with the value in these columns; consumes x."""

    def add(self, x: Array, y: Any, /) -> Array:
        """x + y; consumes x."""

    def divide(self, x: Array, y: Any, /) -> Array:
        """x / y; consumes x."""

    def log_probabilities(self, x: Array, /) -> Array:
        """`log_softmax` that consumes x; the next call may overwrite what it returns."""

    def at(self, x: Array, index: Any, axis: int, /) -> Array:
        """The slice of x at one index of an axis, which stays with length 1. The index is a scalar."""

    def element(self, values: Array, index: Any, /) -> Any:
        """One of the values [m], a scalar."""

    def written(self, x: Array, length: Any, /) -> Array:
        """x [R, L] without the columns from `length` on, where the length is known; else x."""

    def best(self, totals: Array, count: int, /) -> tuple[Array, Array, Array]:
        """The greatest of totals [B, n, V] per input, descending: values, beams and tokens, each [B, count]."""


class StaticArrays:
    """What follows from the other operations in code of fixed shapes, which looks at no value."""

    FEW = 8
    """So many columns are compared with one by one: a table in a loop's body is what PyTorch's exporter refuses."""

    precise = "float32"

    def copy(self, x: Array) -> Array:
        return x

    def to_host(self, x: Array) -> Array:
        import numpy as np

        return np.asarray(x)

    def when(self: Any, condition: Any, change: Callable[[Array], Array], x: Array) -> Array:
        return self.where(condition, change(x), x)

    def fill(self: Any, x: Array, mask: Array, value: float) -> Array:
        return self.where(mask, value, x)

    def fill_columns(self: Any, x: Array, columns: Sequence[int], value: float) -> Array:
        import numpy as np

        if 0 < len(columns) <= self.FEW:
            indices = self.arange(x.shape[1])[None, :]
            mask = indices == columns[0]
            for column in columns[1:]:
                mask = mask | (indices == column)
        else:
            table = np.zeros((1, x.shape[1]), bool)
            table[0, list(columns)] = True
            mask = self.asarray(table, "bool")
        return self.where(mask, value, x)

    def add(self, x: Array, y: Any) -> Array:
        return x + y

    def divide(self, x: Array, y: Any) -> Array:
        return x / y

    def log_probabilities(self: Any, x: Array) -> Array:
        return self.log_softmax(x)

    def at(self: Any, x: Array, index: Any, axis: int) -> Array:
        return self.take(x, self.reshape(index, (1,)), axis)

    def element(self: Any, values: Array, index: Any) -> Array:
        return self.reshape(self.take(self.asarray(values, "float32"), self.reshape(index, (1,)), 0), ())

    def written(self, x: Array, length: Any) -> Array:
        return x

    def best(self: Any, totals: Array, count: int) -> tuple[Array, Array, Array]:
        # The best of each beam first, then the best of those: the same, over far fewer numbers.
        batch, beams, vocabulary = totals.shape
        each, tokens = self.top_k(totals, min(count, vocabulary))
        kept = each.shape[2]
        values, picked = self.top_k(self.reshape(each, (batch, beams * kept)), count)
        return values, picked // kept, self.take_along(self.reshape(tokens, (batch, beams * kept)), picked)
