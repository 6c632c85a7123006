"""The array operations of core/search in PyTorch, as its exporter can trace them: see core/search/arrays.py.

`generate` does not use them: its loops look at values. They are for the programs of serving.py, which run alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

State = dict[str, Any]


class TorchArrays:
    """The namespace for exported loops; nothing in it looks at a value."""

    abs = staticmethod(torch.abs)
    exp = staticmethod(torch.exp)
    log = staticmethod(torch.log)
    sqrt = staticmethod(torch.sqrt)
    isinf = staticmethod(torch.isinf)
    isnan = staticmethod(torch.isnan)
    matmul = staticmethod(torch.matmul)

    def where(self, condition: Tensor, x: Any, y: Any) -> Tensor:
        return torch.where(condition, x, y)

    def asarray(self, value: Any, dtype: str) -> Tensor:
        return torch.as_tensor(value, dtype=getattr(torch, dtype))

    def cast(self, x: Tensor, dtype: str) -> Tensor:
        return x.to(getattr(torch, dtype))

    def arange(self, stop: int) -> Tensor:
        return torch.arange(stop, dtype=torch.int32)

    def full(self, shape: Sequence[int], value: Any, dtype: str) -> Tensor:
        return torch.full(tuple(shape), value, dtype=getattr(torch, dtype))

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
        return x.argmax(-1).int()

    def argmin(self, x: Tensor) -> Tensor:
        return x.argmin(-1).int()

    def argsort(self, x: Tensor) -> Tensor:
        return x.sort(dim=-1, stable=True).indices.int()

    def sort(self, x: Tensor) -> Tensor:
        return x.sort(dim=-1).values

    def cumsum(self, x: Tensor) -> Tensor:
        return x.cumsum(-1)

    def top_k(self, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        found = x.topk(count)
        return found.values, found.indices.int()

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

    def noise(self, seed: Tensor, step: Any, rows: int, width: int) -> Tensor:
        raise NotImplementedError("an exported program draws nothing: its formats have no streams of random numbers")

    def while_loop(self, go_on: Callable[[State], Tensor], body: Callable[[State], State], state: State) -> State:
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
