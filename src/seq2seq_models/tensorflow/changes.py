"""Whether a model is as this library made it: only then may the compiled path go round its `call`."""

from __future__ import annotations

from typing import Any

METHODS = (
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
"""What of a model with a head decides its logits."""

ORIGINALS: dict[type, dict[str, Any]] = {}
"""The methods of this library's models as they were when they were defined, by class and name."""

OURS = ("seq2seq_models.", "keras.")


def changed_part(model: Any) -> str | None:
    """What about a model with a head is not this library's own, in words; None if nothing is.

    A subclass that overrides nothing of what decides its logits, such as one with further heads, is unchanged.
    """
    known = next((kind for kind in type(model).__mro__ if kind in ORIGINALS), None)
    if known is None:
        return f"the class is {type(model).__name__}"
    for name, method in ORIGINALS[known].items():
        if name in vars(model) or getattr(type(model), name, None) is not method:
            return f"`{name}` is overridden"
    parts = [*getattr(model.model, "_flatten_layers", list)(), *model.get_decoder()._flatten_layers()]
    for layer in parts:
        kind = type(layer)
        if not f"{kind.__module__}.".startswith(OURS):
            return f"a layer is of the type {kind.__name__}"
        if "call" in vars(layer):
            return f"the `call` of `{layer.name}` is overridden"
    return None


def remember(*kinds: type) -> None:
    """Take these classes' methods for the originals."""
    for kind in kinds:
        ORIGINALS[kind] = {name: getattr(kind, name) for name in METHODS if hasattr(kind, name)}
