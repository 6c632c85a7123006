"""The decoder's side of a loop: masks and caches of fixed length around a model's own step.

Letters in shapes: B inputs, R rows, T tokens, C places of the cache, S source, H heads, K per head, D model, V
vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from .arrays import Array, Arrays

Entries = tuple[tuple[Array, Array], ...]
"""Keys and values of every layer: [R, H, C, K] of the decoder's own tokens, [B, H, S, K] of the encoder's output."""


class Steps(Protocol):
    """What a model offers."""

    dtype: str

    def encode(self, ids: Array | None, embeds: Array | None, mask: Array | None) -> Array:
        """States [B, S, D] of a source, under an additive mask [B, 1, 1, S]."""

    def cross_entries(self, memory: Array) -> Entries:
        """Keys and values of the encoder's output [B, S, D]."""

    def entries(self, rows: int, length: int) -> Entries:
        """Keys and values of nothing yet."""

    def step(
        self,
        tokens: Array,
        start: Array,
        cache: Entries,
        cross: Entries | None,
        self_mask: Array,
        memory_mask: Array | None,
        positions: Array | None,
        packed: Any,
    ) -> tuple[Array, Entries, Any]:
        """States [R, T, D] of tokens at places from `start`, the cache with them in it, and details."""

    def packed(self) -> Any:
        """Weights arranged for steps, made once before the loop; or None."""

    def head(self, hidden: Array) -> Array:
        """Logits float32 [..., V] of states [..., D]."""


@dataclass(frozen=True)
class Sight:
    """What several tokens at one and the same place see: all before it, and each itself. `place` is an int32 scalar."""

    place: Array


@dataclass(frozen=True)
class Decoder:
    """Runs a model's decoder over a cache of fixed length.

    Attributes:
        xp: the array namespace.
        device: the one of the cache; the same but for loops on the host.
        steps: the model.
        rows: R.
        capacity: C.
        cross: keys and values of the encoder's output; None without one.
        memory_mask: additive [B, 1, 1, S], or None.
        allowed: bool [R, at least C], False where the prompt is padding; None if it has none.
        packed: weights arranged for steps.
    """

    xp: Arrays
    device: Arrays
    steps: Steps
    rows: int
    capacity: int
    cross: Entries | None
    memory_mask: Array | None
    allowed: Array | None
    packed: Any = None

    def read(
        self, tokens: Array, start: Array, cache: Entries, sight: Sight | None = None
    ) -> tuple[Array, Entries, Any]:
        """States [R, T, D] of tokens int32 [R, T] at places from `start`, the cache with them, and details."""
        xp, count = self.xp, tokens.shape[1]
        places, own = xp.arange(self.capacity)[None, :], start + xp.arange(count)[:, None]
        positions = None
        if sight is None:
            seen = places <= own
        else:
            seen = (places < sight.place) | (places == own)
            positions = sight.place + xp.full((count,), 0, "int32")
        # Padding gets the least finite number, so that a row of padding only stays finite; what is not written yet gets
        # minus infinity, so that such a row does not depend on the length of the cache.
        shown = xp.full((), 0.0, self.steps.dtype)
        if self.allowed is not None:
            shown = xp.where(self.allowed[:, None, None, : self.capacity], shown, lowest(self.steps.dtype))
        mask = xp.where(seen[None, None], shown, -float("inf"))
        return self.steps.step(tokens, start, cache, self.cross, mask, self.memory_mask, positions, self.packed)

    def logits(self, hidden: Array) -> Array:
        """Logits float32 [R, V] for states [R, D]."""
        return self.steps.head(hidden)

    def empty(self) -> Entries:
        """A cache with room for every token."""
        return self.steps.entries(self.rows, self.capacity)

    def reorder(self, cache: Entries, rows: Array) -> Entries:
        """The cache where row i goes on from what row rows[i] was."""
        take = self.device.take
        return tuple((take(keys, rows, 0), take(values, rows, 0)) for keys, values in cache)

    def keep(self, cache: Entries, length: Array, chosen: Array) -> Entries:
        """The cache where each row [R] has its chosen one of the latest tokens at place `length`."""
        xp = self.device
        is_chosen = (xp.arange(self.capacity)[None, :] == (length + chosen)[:, None])[:, None, :, None]

        def kept(x: Array) -> Array:
            own = xp.sum(xp.where(is_chosen, x, xp.full((), 0.0, self.steps.dtype)), axis=2, keepdims=True)
            return xp.put(x, length, own, 2)

        return tuple((kept(keys), kept(values)) for keys, values in cache)


def lowest(dtype: str) -> float:
    """The least finite number of a floating-point dtype."""
    return {"float32": -3.4028234663852886e38, "float16": -65504.0, "bfloat16": -3.3895313892515355e38}[dtype]
