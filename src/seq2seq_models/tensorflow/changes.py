"""Whether a model is as this library made it: only then may the compiled path go round its `call`."""

from __future__ import annotations

from typing import Any

from ..core.generation.originals import Originals

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


def changed_part(model: Any) -> str | None:
    """What about a model with a head is not this library's own, in words; None if nothing is.

    A subclass that overrides nothing of what decides its logits, such as one with further heads, is unchanged.
    """
    if found := ORIGINALS.overridden(model):
        return found
    parts = [*getattr(model.model, "_flatten_layers", list)(), *model.get_decoder()._flatten_layers()]
    for layer in parts:
        kind = type(layer)
        if not f"{kind.__module__}.".startswith(OURS):
            return f"a layer is of the type {kind.__name__}"
        if "call" in vars(layer):
            return f"the `call` of `{layer.name}` is overridden"
    return None
