"""Whether a model is as this library made it: only then may the compiled path go round its `decode`."""

from __future__ import annotations

from typing import Any

METHODS = (
    "__call__",
    "encode",
    "decode",
    "init_cache",
    "prepare_inputs_for_generation",
    "update_inputs_for_generation",
)
"""What of a model with a head decides its logits."""

ORIGINALS: dict[type, dict[str, Any]] = {}
"""The methods of this library's models as they were when they were defined, by class and name."""


def changed_part(model: Any) -> str | None:
    """What about a model with a head is not this library's own, in words; None if nothing is.

    A subclass that overrides nothing of what decides its logits is unchanged.
    """
    known = next((kind for kind in type(model).__mro__ if kind in ORIGINALS), None)
    if known is None:
        return f"the class is {type(model).__name__}"
    for name, method in ORIGINALS[known].items():
        if name in vars(model) or getattr(type(model), name, None) is not method:
            return f"`{name}` is overridden"
    kind = type(model.module)
    return None if f"{kind.__module__}.".startswith("seq2seq_models.") else f"the module is a {kind.__name__}"


def remember(*kinds: type) -> None:
    """Take these classes' methods for the originals."""
    for kind in kinds:
        ORIGINALS[kind] = {name: getattr(kind, name) for name in METHODS if hasattr(kind, name)}
