"""The array operations of core/generation in PyTorch: eager and in place for `generate`, traceable for the exporter.

See core/generation/arrays.py for what each of them means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.generation.arrays import State, StaticArrays
from ..core.sampling import streams

BLOCK = 128
"""Scores that `largest` compares together."""


class TorchArrays(StaticArrays):
    """What eager and exported loops share; nothing in it looks at a value."""

    integer = torch.int32
    """The dtype of token ids and indices."""
    device: torch.device | None = None

    abs = staticmethod(torch.abs)
    exp = staticmethod(torch.exp)
    log = staticmethod(torch.log)
    sqrt = staticmethod(torch.sqrt)
    isinf = staticmethod(torch.isinf)
    isnan = staticmethod(torch.isnan)
    matmul = staticmethod(torch.matmul)

    def _dtype(self, name: str) -> torch.dtype:
        return self.integer if name == "int32" else getattr(torch, name)

    def to_host(self, x: Tensor) -> Tensor:
        return x.cpu()

    def where(self, condition: Tensor, x: Any, y: Any) -> Tensor:
        return torch.where(condition, x, y)

    def asarray(self, value: Any, dtype: str) -> Tensor:
        return torch.as_tensor(value, dtype=self._dtype(dtype), device=self.device)

    def cast(self, x: Tensor, dtype: str) -> Tensor:
        return x.to(self._dtype(dtype))

    def arange(self, stop: int) -> Tensor:
        return torch.arange(stop, dtype=self.integer, device=self.device)

    def full(self, shape: Sequence[int], value: Any, dtype: str) -> Tensor:
        return torch.full(tuple(shape), value, dtype=self._dtype(dtype), device=self.device)

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        return torch.cat(list(parts), axis)

    def stack(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        return torch.stack(list(parts), axis)

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return x.reshape(tuple(shape))

    def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        return x.permute(*axes)

    def repeat(self, x: Tensor, times: int) -> Tensor:
        return x if times == 1 else x.repeat_interleave(times, 0)

    def sum(self, x: Tensor, axis: int, *, keepdims: bool = False) -> Tensor:
        return x.sum(axis, keepdim=keepdims, dtype=x.dtype)

    def max(self, x: Tensor, axis: int, *, keepdims: bool = False) -> Tensor:
        return x.amax(axis, keepdim=keepdims)

    def min(self, x: Tensor, axis: int, *, keepdims: bool = False) -> Tensor:
        return x.amin(axis, keepdim=keepdims)

    def any(self, x: Tensor, axis: int | None = None, *, keepdims: bool = False) -> Tensor:
        return x.any() if axis is None else x.any(axis, keepdim=keepdims)

    def all(self, x: Tensor, axis: int | None = None, *, keepdims: bool = False) -> Tensor:
        return x.all() if axis is None else x.all(axis, keepdim=keepdims)

    def maximum(self, x: Tensor, y: Any) -> Tensor:
        return torch.maximum(x, y) if isinstance(y, Tensor) else x.clamp(min=y)

    def minimum(self, x: Tensor, y: Any) -> Tensor:
        return torch.minimum(x, y) if isinstance(y, Tensor) else x.clamp(max=y)

    def argmax(self, x: Tensor) -> Tensor:
        return x.argmax(-1).to(self.integer)

    def argmin(self, x: Tensor) -> Tensor:
        return x.argmin(-1).to(self.integer)

    def argsort(self, x: Tensor) -> Tensor:
        return x.sort(dim=-1, stable=True).indices.to(self.integer)

    def sort(self, x: Tensor) -> Tensor:
        return x.sort(dim=-1).values

    def cumsum(self, x: Tensor) -> Tensor:
        return x.cumsum(-1)

    def top_k(self, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        found = x.topk(count)
        return found.values, found.indices.to(self.integer)

    def softmax(self, x: Tensor) -> Tensor:
        return x.softmax(-1)

    def log_softmax(self, x: Tensor) -> Tensor:
        return x.log_softmax(-1)

    def take(self, x: Tensor, places: Tensor, axis: int) -> Tensor:
        return x.index_select(axis, places)

    def take_along(self, x: Tensor, places: Tensor) -> Tensor:
        return x.gather(-1, places.long())

    def pick(self, x: Tensor, places: Tensor) -> Tensor:
        wide = places.long().reshape(*places.shape, *(1,) * (x.dim() - 2)).expand(*places.shape, *x.shape[2:])
        return x.gather(1, wide)

    def put(self, x: Tensor, start: Any, new: Tensor, axis: int) -> Tensor:
        places = start + torch.arange(new.shape[axis])
        shape = [*x.shape[:axis], new.shape[axis], *x.shape[axis:][1:]]
        return x.index_copy(axis, places, new.expand(shape))

    def put_at(self, x: Tensor, places: Tensor, new: Tensor) -> Tensor:
        return x.scatter(1, places.long(), new)

    def add_at(self, x: Tensor, places: Tensor, new: Tensor) -> Tensor:
        return x.scatter_add(1, places.long(), new)

    def min_at(self, x: Tensor, places: Tensor, new: Tensor) -> Tensor:
        return x.scatter_reduce(1, places.long(), new, "amin")


class ExportArrays(TorchArrays):
    """The namespace for exported loops."""

    def noise(self, seed: Tensor, step: Any, rows: int, width: int) -> Tensor:
        raise NotImplementedError("an exported program draws nothing: its formats have no streams of random numbers")

    def while_loop(
        self, go_on: Callable[[State], Tensor], body: Callable[[State], State], state: State, most: Any = None
    ) -> State:
        leaves, tree = pytree.tree_flatten(state)

        def held(values: Sequence[Tensor]) -> State:
            found: State = pytree.tree_unflatten(list(values), tree)
            return found

        def again(*values: Tensor) -> tuple[Tensor, ...]:
            new = body(held(values))
            found = pytree.tree_leaves({name: new[name] for name in state})
            return tuple(one.clone() if any(one is value for value in values) else one for one in found)

        # The exporter's loop takes no tensor twice, and gives back none that it was given.
        fresh = tuple(leaf.clone() for leaf in leaves)
        return held(torch.while_loop(lambda *values: go_on(held(values)), again, fresh))  # type: ignore[no-untyped-call]


class EagerArrays(TorchArrays):
    """The namespace for loops that run from Python: in place where an argument is consumed. One object per call.

    Args:
        device: of the arrays.
        every: rounds between two looks at whether a loop is over; each waits for the device.
        reuses: whether scores may lie in the same memory at each step: no function of the user sees them.
    """

    integer = torch.int64
    precise = "float64"

    def __init__(self, device: torch.device, every: int = 1, reuses: bool = True) -> None:
        self.device, self.every, self.reuses = device, every, reuses and device.type == "cpu"
        self._columns: dict[tuple[int, ...], Tensor] = {}
        self._standing: Tensor | None = None
        self._streams: list[Any] = []

    def copy(self, x: Tensor) -> Tensor:
        return x.clone()

    def when(self, condition: Any, change: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return change(x) if bool(condition) else x

    def fill(self, x: Tensor, mask: Tensor, value: float) -> Tensor:
        return x.masked_fill_(mask, value)

    def fill_columns(self, x: Tensor, columns: Sequence[int], value: float) -> Tensor:
        key = tuple(columns)
        if key not in self._columns:
            self._columns[key] = torch.tensor(key, dtype=torch.int64, device=self.device)
        return x.index_fill_(1, self._columns[key], value)

    def add(self, x: Tensor, y: Any) -> Tensor:
        return x.add_(y) if self.reuses else x + y

    def divide(self, x: Tensor, y: Any) -> Tensor:
        return x.div_(y)

    def log_probabilities(self, x: Tensor) -> Tensor:
        # Fresh memory for many beams costs more than the sum: the system is asked for megabytes, and gets them back.
        if not self.reuses:
            return x.log_softmax(-1)
        if self._standing is None or self._standing.shape != x.shape:
            self._standing = torch.empty_like(x)
        return torch.log_softmax(x, -1, out=self._standing)

    def at(self, x: Tensor, index: int, axis: int) -> Tensor:
        return x.narrow(axis, index, 1)

    def element(self, values: Any, index: int) -> float:
        return float(values[index])

    def written(self, x: Tensor, length: int) -> Tensor:
        return x[:, :length]

    def put(self, x: Tensor, start: int, new: Tensor, axis: int) -> Tensor:
        x.narrow(axis, start, new.shape[axis]).copy_(new)
        return x

    def put_at(self, x: Tensor, places: Tensor, new: Tensor) -> Tensor:
        return x.scatter_(1, places, new)

    def add_at(self, x: Tensor, places: Tensor, new: Tensor) -> Tensor:
        return x.scatter_add_(1, places, new)

    def min_at(self, x: Tensor, places: Tensor, new: Tensor) -> Tensor:
        return x.scatter_reduce_(1, places, new, "amin")

    def best(self, totals: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        values, picked = largest(totals.flatten(1), count)
        return values, picked // totals.shape[2], picked % totals.shape[2]

    def noise(self, seed: int, step: Any, rows: int, width: int) -> Tensor:
        """As the protocol has it, for steps that are asked for in order; float64 for one number a row."""
        if not self._streams:
            self._streams = streams(seed, rows)
        kind: Any = "float64" if width == 1 else "float32"
        numbers = [torch.from_numpy(stream.random(width, dtype=kind)) for stream in self._streams]
        return torch.stack(numbers).to(self.device)

    def while_loop(
        self, go_on: Callable[[State], Any], body: Callable[[State], State], state: State, most: Any = None
    ) -> State:
        every = 1 if most is None else self.every
        for index in count() if most is None else range(most):
            if index % every == 0 and not bool(go_on(state)):
                break
            state = body(state)
        return state


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row and their indices, both [B, count], largest first, as `topk` gives them.

    On a CPU the maximum of each block says which blocks to look into: that reads the row once, and sorts little.

    Args:
        values: [B, any].
    """
    size = values.shape[1]
    blocks = size // BLOCK
    if values.device.type != "cpu" or blocks < 4 * count:
        return _topk(values, count)
    inside = values[:, : blocks * BLOCK].view(len(values), blocks, BLOCK)
    chosen = inside.amax(2).topk(count).indices.sort().values
    # What is left over behind the blocks is looked at as a whole.
    few = torch.cat(
        [inside.gather(1, chosen[:, :, None].expand(-1, -1, BLOCK)).flatten(1), values[:, blocks * BLOCK :]], 1
    )
    top, index = few.topk(count)
    if not bool(top[:, -1].isfinite().all()):
        return _topk(values, count)  # among what is ruled out, it decides which come first
    block = chosen.gather(1, (index // BLOCK).clamp(max=count - 1))
    rest = index - count * BLOCK + blocks * BLOCK
    return top, torch.where(index < count * BLOCK, block * BLOCK + index % BLOCK, rest)


def _topk(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    top, index = values.topk(count)
    return top, index
