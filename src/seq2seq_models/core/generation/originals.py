"""The methods of this library's models as they were when they were defined, to see whether a user has changed them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Originals:
    """The methods that decide the logits of a framework's models.

    Args:
        methods: their names; a class may lack some.
    """

    def __init__(self, methods: Sequence[str]) -> None:
        self.methods = methods
        self._known: dict[type, dict[str, Any]] = {}

    def remember(self, *kinds: type) -> None:
        """Take these classes' methods for the originals."""
        for kind in kinds:
            self._known[kind] = {name: getattr(kind, name) for name in self.methods if hasattr(kind, name)}

    def overridden(self, model: Any, where: str = "") -> str | None:
        """Which method of a model is another than the original, in words; None if none is.

        Args:
            model: of one of the remembered classes, or of a subclass.
            where: what part it is, as in " of `model`".
        """
        known = next((kind for kind in type(model).__mro__ if kind in self._known), None)
        if known is None:
            return f"the class{where} is {type(model).__name__}"
        for name, method in self._known[known].items():
            own = vars(model).get(name)
            # Other libraries put a method back as an attribute of the model.
            is_back = getattr(own, "__func__", None) is method and getattr(own, "__self__", None) is model
            if (own is not None and not is_back) or getattr(type(model), name, None) is not method:
                return f"`{name}`{where} is overridden"
        return None
