"""Whether a model is as this library made it: only then may the compiled path go round its `decode`."""

from __future__ import annotations

from typing import Any

from ..core.generation.originals import Originals

ORIGINALS = Originals(
    (
        "__call__",
        "encode",
        "decode",
        "init_cache",
        "prepare_inputs_for_generation",
        "update_inputs_for_generation",
    )
)


def changed_part(model: Any) -> str | None:
    """What about a model with a head is not this library's own, in words; None if nothing is.

    A subclass that overrides nothing of what decides its logits is unchanged.
    """
    if found := ORIGINALS.overridden(model):
        return found
    kind = type(model.module)
    return None if f"{kind.__module__}.".startswith("seq2seq_models.") else f"the module is a {kind.__name__}"
