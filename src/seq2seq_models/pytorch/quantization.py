"""Linear maps with 8-bit integers for a CPU: a quarter of the memory to read, and integer products.

Each row of a weight has a scale of its own, found once; an input has one, found when it comes. What that changes in the
results is measured in docs/precision.md.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, InputError

logger = logging.getLogger("seq2seq_models")

KINDS = ("int8",)
"""What `from_pretrained(..., quantization=...)` takes."""

LEVELS = 127
"""Integers from -127 to 127: as many on both sides of zero."""


class Int8Linear(nn.Module):
    """`torch.nn.Linear` with its weight rounded to 8-bit integers; for inference, inputs and outputs are real numbers.

    Attributes:
        weight: int8 [out, in].
        scale: float32 [out]; row i of the original is about weight[i] * scale[i].
        bias: [out], or None.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, original: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = original.weight.shape
        rows = original.weight.detach().float()
        scale = rows.abs().amax(1).div_(LEVELS).clamp_(min=torch.finfo(torch.float32).tiny)
        self.register_buffer("weight", rows.div(scale[:, None]).round_().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if original.bias is None else original.bias.detach())

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out], in the dtype of the input."""
        return self.product(input, None)

    def product(self, values: Tensor, more: Tensor | None) -> Tensor:
        """What `forward` gives, plus `more` [out].

        Raises:
            InputError: on a GPU, which would be slower with it.
        """
        is_compiling = torch.compiler.is_compiling()
        if not (values.is_cpu or is_compiling):
            raise InputError(
                f"a model with int8 weights must be on a CPU, got one on {values.device}. "
                "Load it without `quantization` for other devices."
            )
        packed = None if is_compiling else self._packed()
        if packed is None:
            weight = self.weight.to(values.dtype) * self.scale.to(values.dtype)[:, None]
            out = nn.functional.linear(values, weight, self.bias)
        else:
            out = _product(values.float(), packed).to(values.dtype)
        return out if more is None else out.add_(more)

    def _packed(self) -> Any:
        """The weight in the layout that the product reads, made when it is first used and not saved; None without."""
        known: tuple[int, int, Any] = self.__dict__.get("_copy", (0, 0, None))
        state = self._state()
        if known[:2] != state:
            known = (*state, _pack(self.weight, self.scale, self.bias))
            self.__dict__["_copy"] = known
        return known[2]

    def _state(self) -> tuple[int, int]:
        """What changes when the weight does."""
        return self.weight.data_ptr(), 0 if self.weight.is_inference() else self.weight._version

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_copy", "_joint")}

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, missing: Any, odd: Any, errors: Any
    ) -> None:
        weight = state_dict.get(f"{prefix}weight")
        if weight is not None and weight.dtype != torch.int8:
            errors.append(
                f"`{prefix}weight` must be int8, got {weight.dtype}. Load into a model before it is quantized."
            )
            return
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, odd, errors)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def joined(layers: Sequence[Int8Linear]) -> Callable[[Tensor], Tensor] | None:
    """The outputs of layers for the same input, one behind the other, by one product; None where it can't be had.

    The copy that it reads is kept with the first layer, and made anew when one of them changes.
    """
    states = [layer._state() for layer in layers]
    first = layers[0].__dict__
    if first.get("_joint", (None, None))[0] != states:
        biases = [layer.bias for layer in layers if layer.bias is not None]
        if len(biases) != len(layers):
            return None
        parts = ([layer.weight for layer in layers], [layer.scale for layer in layers], biases)
        first["_joint"] = (states, _pack(*map(torch.cat, parts)))
    copy = first["_joint"][1]
    return None if copy is None else lambda values: _product(values.float(), copy).to(values.dtype)


def check_kind(kind: Any) -> None:
    """Raise unless this is a kind of quantization, or None.

    Raises:
        ConfigError: it is not.
    """
    if kind is not None and kind not in KINDS:
        allowed = ", ".join(map(repr, KINDS))
        raise ConfigError(f"`quantization` must be {allowed} or None, got {kind!r} (from_pretrained). Leave it out.")


def quantize(model: nn.Module) -> None:
    """Replaces every linear layer of a model, its head among them, by an `Int8Linear`; the embeddings stay as they are.

    A processor without instructions for products of 8-bit integers would be slower with them: there the model stays as
    it is, and the log says so once.

    Raises:
        ConfigError: the model is not on a CPU.
    """
    places = {parameter.device.type for parameter in model.parameters()}
    if places != {"cpu"}:
        raise ConfigError(
            f'`quantization="int8"` must be asked of a model on a CPU, got one on {", ".join(sorted(places))} '
            "(from_pretrained). On a GPU, use dtype=torch.float16 or torch.bfloat16."
        )
    if not has_integer_products():
        _tell_once()
        return
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(parent, name, Int8Linear(layer))
    model.requires_grad_(False)


@cache
def has_integer_products() -> bool:
    """Whether this processor and this PyTorch multiply 8-bit integers at full speed."""
    return _pack(torch.ones(1, 8, dtype=torch.int8), torch.ones(1), None) is not None


@cache
def _has_instructions() -> bool:
    can = torch.cpu.get_capabilities()
    return any(can.get(name) for name in ("amx_int8", "avx512_vnni", "avx_vnni"))


@cache
def _tell_once() -> None:
    logger.warning(
        "quantization: this processor has no instructions for products of 8-bit integers (AVX-512 VNNI or AMX), or "
        "this PyTorch does not use them; the weights stay as they are"
    )


# The two operations are PyTorch's own. It has announced the end of the tensors that the first takes; oneDNN's
# `qlinear_pointwise`, which would follow, takes twice as long for a few rows.


def _pack(weight: Tensor, scale: Tensor, bias: Tensor | None) -> Any:
    # Without them PyTorch's product adds pairs in 16 bits, which overflow: a model from another machine computes in
    # float here.
    if not _has_instructions():
        return None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*deprecated.*", UserWarning)
            zeros = torch.zeros(len(weight), dtype=torch.int64)
            quantized = torch._make_per_channel_quantized_tensor(weight, scale.double(), zeros, 0)
            return torch.ops.quantized.linear_prepack(quantized, None if bias is None else bias.float())
    except (AttributeError, RuntimeError):
        return None


def _product(values: Tensor, packed: Any) -> Tensor:
    out: Tensor = torch.ops.quantized.linear_dynamic(values, packed)
    return out
