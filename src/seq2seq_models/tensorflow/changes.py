"""Whether a model is as this library made it: only then may the compiled path go round its `call`."""

from __future__ import annotations

from typing import Any

from ..core.generation.originals import Originals
from .attention import Attention
from .layers import DecoderLayer, PositionEmbedding, TokenEmbedding
from .linear import LayerNorm, Linear
from .transformer import Decoder

ORIGINALS = Originals(
    (
        "call",
        "prepare_inputs_for_generation",
        "get_encoder",
        "get_decoder",
        "encode",
        "step",
        "cross_entries",
        "logits",
        "_logits",
        "_head_bias",
    )
)


OURS = ("seq2seq_models.", "keras.")
CALLS: dict[type, Any] = {
    kind: kind.call
    for kind in (
        Attention,
        Decoder,
        DecoderLayer,
        LayerNorm,
        Linear,
        PositionEmbedding,
        TokenEmbedding,
    )
}
"""What each of the layers of a decoder and its head computes with."""


def changed_head(model: Any) -> str | None:
    """What about what makes logits is not this library's own, in words; None if nothing is."""
    layer = model.get_input_embeddings() if model.lm_head is None else model.lm_head
    name, kind = "the token embedding" if model.lm_head is None else "`lm_head`", type(layer)
    if kind not in CALLS:
        return f"{name} is of the type {kind.__name__}"
    if "call" in vars(layer) or kind.call is not CALLS[kind]:
        return f"the `call` of {name} is overridden"
    if model.lm_head is not None and layer.bias is not None:
        return f"{name} has a bias"
    return None


def changed_part(model: Any) -> str | None:
    """What about a model with a head is not this library's own, in words; None if nothing is.

    A subclass that overrides nothing of what decides its logits, such as one with further heads, is unchanged.
    """
    if found := ORIGINALS.overridden(model) or changed_head(model):
        return found
    parts = [*getattr(model.model, "_flatten_layers", list)(), *model.get_decoder()._flatten_layers()]
    for layer in parts:
        kind = type(layer)
        if not f"{kind.__module__}.".startswith(OURS):
            return f"a layer is of the type {kind.__name__}"
        if "call" in vars(layer) or kind.call is not CALLS.get(kind, kind.call):
            return f"the `call` of `{layer.name}` is overridden"
    return None
