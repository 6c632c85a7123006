"""Whether a model is as this library made it: only then may a fast path go round its modules' `forward`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from ..core.generation.originals import Originals
from .attention import Attention
from .layers import ACTIVATIONS, DecoderLayer, PositionEmbedding, TokenEmbedding
from .linear import HOOKS, any_hooks
from .quantization import Int8Linear
from .transformer import Decoder

ACTIVATION_KINDS: set[Any] = {type(make()) for make in ACTIVATIONS.values()}
PARTS: dict[type, Any] = {
    kind: kind.forward
    for kind in (
        *ACTIVATION_KINDS,
        Attention,
        Decoder,
        DecoderLayer,
        Int8Linear,
        PositionEmbedding,
        TokenEmbedding,
        nn.Embedding,
        nn.LayerNorm,
        nn.Linear,
        nn.ModuleList,
    )
}
"""The modules of a decoder and its head, exactly of these types, and what each of them computes with."""

ORIGINALS = Originals(
    ("forward", "prepare_inputs_for_generation", "get_encoder", "get_decoder", "_logits", "_head_bias"),
)


def changed_part(model: Any) -> str | None:
    """What about a model with a head is not this library's own, in words; None if nothing is.

    A subclass that overrides nothing of what decides its logits, such as one with further heads, is unchanged.
    """
    if found := ORIGINALS.overridden(model) or _hooked("the model", model):
        return found
    if any_hooks():
        return "there are hooks on all modules"
    if found := is_changed("lm_head", model.lm_head):
        return found
    if type(model.lm_head) is not Int8Linear and model.lm_head.bias is not None:
        return "`lm_head` has a bias"
    if found := ORIGINALS.overridden(model.model, " of `model`") or _hooked("model", model.model):
        return found
    return next((what for name, one in _named(model.get_decoder()) if (what := is_changed(name, one))), None)


def is_changed(name: str, part: nn.Module) -> str | None:
    """What about a module of a model is not this library's own, in words; None if nothing is."""
    kind = type(part)
    if kind not in PARTS:
        return f"`{name}` is of the type {kind.__name__}"
    if "forward" in vars(part) or kind.forward is not PARTS[kind]:
        return f"the `forward` of `{name}` is overridden"
    return _hooked(name, part)


def _named(decoder: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((f"decoder.{name}" if name else "decoder", one) for name, one in decoder.named_modules())


def _hooked(name: str, part: nn.Module) -> str | None:
    return f"there are hooks on `{name}`" if any(getattr(part, hooks) for hooks in HOOKS) else None
