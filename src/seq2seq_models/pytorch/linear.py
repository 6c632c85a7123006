"""Products of linear layers over many rows, which are oneDNN's on a CPU, in training too.

PyTorch multiplies float32 matrices on a CPU by MKL; oneDNN, which it brings along, is faster on processors that are not
Intel's (measured on AMD's). Its operation is not part of PyTorch's public interface: where it is missing, the usual
product is used. What a decoding step computes is in packing.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C import _len_torch_dispatch_stack
from torch.nn.modules import module as torch_module

ROWS = 64
"""Fewer rows than these are left to PyTorch's usual product."""

ELEMENTS = 2**18
"""So are weights with fewer elements."""


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

Products = Mapping[nn.Module, Callable[[Tensor], Any]]
"""Faster functions in the place of layers that nobody has changed, for one call of `generate`; see packing.py."""

_forward = nn.Linear.forward


def apply(layer: nn.Module, values: Tensor, products: Products | None = None) -> Tensor:
    """layer(values), by another product where that gives the same.

    Args:
        layer: called as it is, unless it is a `torch.nn.Linear` that nobody has changed.
        values: [..., in].
        products: of layers, for one call of `generate`.
    """
    product = None if products is None else products.get(layer)
    if product is not None:
        out: Tensor = product(values)
    elif type(layer) is nn.Linear and _is_for_onednn(values, layer.weight, layer.bias) and not _is_changed(layer):
        out = _Linear.apply(values, layer.weight, layer.bias)  # type: ignore[no-untyped-call]
    else:
        out = layer(values)
    return out


def any_hooks() -> bool:
    """Whether there are hooks on all modules of the process."""
    return any(getattr(torch_module, f"_global{name}") for name in HOOKS)


def is_watched() -> bool:
    """Whether something looks at every operation that PyTorch runs, such as a counter of operations."""
    return _len_torch_dispatch_stack() > 0


def _is_changed(layer: nn.Linear) -> bool:
    held = vars(layer)
    return "forward" in held or type(layer).forward is not _forward or any(held[name] for name in HOOKS) or any_hooks()


def linear(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """values @ weight.T + bias, which is `torch.nn.functional.linear`, by the product that is fastest here.

    Args:
        values: [..., in].
        weight: [out, in].
        bias: [out].
    """
    if not _is_for_onednn(values, weight, bias):
        return F.linear(values, weight, bias)
    out: Tensor = _Linear.apply(values, weight, bias)  # type: ignore[no-untyped-call]
    return out


def _is_for_onednn(values: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    # First of all: in a graph, a look at the number of rows would hold for graphs of that many rows only.
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    if weight.numel() < ELEMENTS or values.numel() < ROWS * weight.shape[1]:
        return False
    if torch.jit.is_tracing() or is_watched():  # type: ignore[attr-defined, no-untyped-call]
        return False
    # Foreign kinds of tensors know only the usual operations.
    known = (one for one in (values, weight, bias) if one is not None)
    if not all(type(one) in (Tensor, nn.Parameter) and one.dtype == torch.float32 and one.is_cpu for one in known):
        return False
    has_onednn = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled  # type: ignore[no-untyped-call]
    return bool(has_onednn) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class _Linear(torch.autograd.Function):
    """The product with its derivatives, which are such products themselves and so have theirs."""

    @staticmethod
    def forward(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        values, weight, _ = inputs
        ctx.save_for_backward(values, weight)
        ctx.save_for_forward(values, weight)

    @staticmethod
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor | None, ...]:
        values, weight = ctx.saved_tensors
        for_values, for_weight, for_bias = ctx.needs_input_grad
        rows = of_out.flatten(0, -2)
        return (
            linear(of_out, weight.T) if for_values else None,
            rows.T @ values.flatten(0, -2) if for_weight else None,
            rows.sum(0) if for_bias else None,
        )

    @staticmethod
    def jvp(ctx: Any, values_by: Tensor | None, weight_by: Tensor | None, bias_by: Tensor | None) -> Tensor:
        values, weight = ctx.saved_tensors
        out = values.new_zeros(*values.shape[:-1], len(weight)) if values_by is None else linear(values_by, weight)
        out = out if weight_by is None else out + values @ weight_by.T
        return out if bias_by is None else out + bias_by

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], values: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, int]:
        out: Tensor = torch.vmap(F.linear, in_dims)(values, weight, bias)
        return out, 0
