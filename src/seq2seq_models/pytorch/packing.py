"""Weights in the layout that oneDNN reads fastest, for the decoder's steps on a CPU.

A decoding step multiplies a few rows with every weight of the decoder, so it takes as long as reading them; with the
plain layout, PyTorch's product of a few rows takes up to five times as long as that. A packed copy is made when a model
first generates, kept while the weight lives, and made anew when the weight changes. Nothing of it shows in the modules.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from .attention import Attention
from .layers import DecoderLayer
from .linear import is_watched
from .quantization import Int8Linear, joined

SMALLEST = 2**18
"""Weights with fewer elements stay as they are: they fit into the processor's cache either way."""

ROWS = 16
"""The number of rows the layout is made for; it is about as fast for a hundred."""

FEWEST, LARGE = 4, 2**21
"""In float32, oneDNN reads weights of more elements than LARGE a third faster for 4 rows than for fewer."""

_packed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # weight -> (its state, the packed copy)

WORDS = {2: torch.int16, 4: torch.int32}
"""Integers as large as an element, to add up its bits; eight bytes at once take a fraction of the time."""

Product = Callable[[Tensor], Tensor]
State = tuple[int, int, Tensor]


def is_packable(weight: Tensor) -> bool:
    """Whether a packed copy of this weight would serve: on the CPU, float32 or bfloat16, large, not in training."""
    if weight.device.type != "cpu" or weight.numel() < SMALLEST or torch.is_grad_enabled() or is_watched():
        return False
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):  # type: ignore[no-untyped-call]
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and _has_bfloat16())


def packed_linear(weight: Tensor, bias: Tensor | None) -> Product | None:
    """x @ weight.T + bias over a packed copy of the weight [out, in], or None where there is nothing to gain.

    The two operations are PyTorch's own but not part of its public interface, so they are used here only, and where
    they are missing or refuse, the caller keeps its plain product.
    """
    if not is_packable(weight):
        return None
    state = _state(weight)
    known, copy = _packed[weight] if weight in _packed else (None, None)
    if known is None or not _is_same(known, state):
        try:
            copy = _reorder(weight.detach())
        except (AttributeError, RuntimeError):
            return None
        _packed[weight] = (state, copy)
    is_large = weight.dtype == torch.float32 and weight.numel() >= LARGE
    return partial(_product_of_few if is_large else _product, copy, bias)


def packed_products(decoder: nn.Module) -> dict[nn.Module, Callable[[Tensor], Any]]:
    """Products with packed copies of the weights, for the large linear layers of a decoder that nobody has changed.

    They are passed along with a step; no module is touched. With 8-bit weights, queries, keys and values are one
    product: its time is mostly that of being called.
    """
    found: dict[nn.Module, Callable[[Tensor], Any] | None] = {}
    for layer in decoder.modules():
        if isinstance(layer, DecoderLayer) and isinstance(layer.self_attn, Attention):
            found[layer.self_attn] = _joint_product(layer.self_attn)
        elif type(layer) is nn.Linear:
            found[layer] = packed_linear(layer.weight, layer.bias)
    return {layer: product for layer, product in found.items() if product is not None}


def _joint_product(attention: Attention) -> Callable[[Tensor], tuple[Tensor, ...]] | None:
    """`Attention.project` as one product, or None where the layers are not of 8 bits."""
    three: tuple[nn.Module, ...] = (attention.q_proj, attention.k_proj, attention.v_proj)
    layers = [layer for layer in three if isinstance(layer, Int8Linear)]
    product = joined(layers) if len(layers) == 3 else None
    return None if product is None else lambda hidden: product(hidden).chunk(3, -1)


def _state(weight: Tensor) -> State:
    """What changes when the weight does: its memory, how often that was written, and a sum over each row's bits.

    A write through `.data`, which is how adapters are merged, does not count as one. Summing reads the weight once, in
    two thirds of the time of a decoding step.
    """
    # Tensors made in inference mode do not count their writes at all.
    writes = 0 if weight.is_inference() else weight._version
    rows, size = weight.detach().contiguous(), weight.element_size()
    by_eight = all(elements * size % 8 == 0 for elements in (rows.shape[1], rows.storage_offset()))
    return weight.data_ptr(), writes, rows.view(torch.int64 if by_eight else WORDS[size]).sum(1)


def _is_same(one: State, other: State) -> bool:
    return one[:2] == other[:2] and torch.equal(one[2], other[2])


def _reorder(weight: Tensor) -> Any:
    return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)


def _product(copy: Any, bias: Tensor | None, x: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, copy, bias, "none", [], "")
    return out


def _product_of_few(copy: Any, bias: Tensor | None, x: Tensor) -> Tensor:
    """The same, with other rows beside fewer than FEWEST."""
    count = x.shape[:-1].numel()
    if count >= FEWEST:
        return _product(copy, bias, x)
    rows = x.reshape(count, -1)
    more = rows.expand(FEWEST, -1) if count == 1 else nn.functional.pad(rows, (0, 0, 0, FEWEST - count))
    return _product(copy, bias, more)[:count].view(*x.shape[:-1], -1)


def _has_bfloat16() -> bool:
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False
