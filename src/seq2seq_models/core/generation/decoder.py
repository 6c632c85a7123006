"""The decoder's side of a search: the protocol, and masks and caches of fixed length around a model's own step.

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


class Decoder(Protocol):
    """What a search drives. It owns caches, masks and weights; a search hands its cache on and never looks into it."""

    def prefill(self, ids: Array, length: Any) -> Any:
        """The cache before the first step, for prompts int [R, L] of this length.

        It may hold the prompt but for its last token, which the first step reads.
        """

    def next_logits(self, ids: Array, length: Any, cache: Any) -> tuple[Array, Any, Any]:
        """Logits float32 [R, V] of the next token for sequences [R, L] of this length, the cache, and details.

        The cache given is consumed. Details are attentions, cross-attentions and hidden states, a tuple each, or None.
        """

    def reorder(self, cache: Any, rows: Array) -> Any:
        """The cache where row i goes on from what row rows[i] was; consumes the cache."""

    def read_prompt(self, ids: Array, length: Any) -> tuple[Array, Any, Any]:
        """States [R, at least length, D] of prompts int [R, L], the cache that holds them, and details."""

    def logits(self, hidden: Array) -> Array:
        """Logits float32 [R, V] for states [R, D]."""

    def look_ahead(self, ids: Array, length: Any, cache: Any, candidates: Array) -> tuple[Array, Any]:
        """States [R, k, D] that candidates int [R, k] would have as the next token of ids [R, L], and the cache.

        Candidates share one position: each sees the tokens before and itself.
        """

    def keep(self, ids: Array, length: Any, cache: Any, chosen: Array, tokens: Array) -> tuple[Any, Any]:
        """The cache with one candidate of each row, the `chosen` one [R], which is `tokens` [R, 1]; and details."""


@dataclass(frozen=True)
class StaticDecoder:
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
        use_cache: read every token once; else all of them at each step.
        prompt_room: tokens of the prompt that are read before the first step, rounded up; 0 if the prompt is one token.
        low_memory: read candidates one after the other, and the chosen one once more.
        prompt_length: if the details of the whole prompt are wanted: they come with the first step. Else None.
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
    use_cache: bool = True
    prompt_room: int = 0
    low_memory: bool = False
    prompt_length: int | None = None

    def prefill(self, ids: Array, length: Array) -> Entries:
        cache = self.empty()
        if self.prompt_room and self.use_cache and self.prompt_length is None:
            # Tokens that only fill up are read too: their places are overwritten before anything looks at them.
            _, cache, _ = self.read(self._tokens(ids[:, : self.prompt_room]), self.xp.asarray(0, "int32"), cache)
        return cache

    def next_logits(self, ids: Array, length: Array, cache: Entries) -> tuple[Array, Entries, Any]:
        xp = self.xp
        if not self.use_cache:
            tokens = self._tokens(ids[:, : ids.shape[1] - 1])
            hidden, _, details = self.read(tokens, xp.asarray(0, "int32"), self.empty())
            return self.logits(xp.at(hidden, length - 1, 1)[:, 0]), cache, details
        if self.prompt_length is not None and int(length) == self.prompt_length:
            hidden, cache, details = self.read(ids[:, : int(length)], xp.asarray(0, "int32"), cache)
            return self.logits(hidden[:, -1]), cache, details
        hidden, cache, details = self.read(xp.at(ids, length - 1, 1), length - 1, cache)
        return self.logits(hidden[:, 0]), cache, details

    def _tokens(self, ids: Array) -> Array:
        """Ids that can be looked up: what fills beams up is none if nothing ends them."""
        return self.xp.maximum(ids, 0)

    def read(self, tokens: Array, start: Array, cache: Entries, shared: bool = False) -> tuple[Array, Entries, Any]:
        """States [R, T, D] of tokens int32 [R, T], the cache with them, and details.

        Args:
            tokens: at the positions from `start` on.
            start: int32 scalar.
            cache: has the tokens before.
            shared: whether the tokens are candidates for one position, of which each sees those before and itself.
        """
        xp, count = self.xp, tokens.shape[1]
        places, own = xp.arange(self.capacity)[None, :], start + xp.arange(count)[:, None]
        positions = None
        if shared:
            seen = (places < start) | (places == own)
            positions = start + xp.full((count,), 0, "int32")
        else:
            seen = places <= own
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

    def read_prompt(self, ids: Array, length: Array) -> tuple[Array, Entries, Any]:
        room = min(self.prompt_room + 1, ids.shape[1] - 1)
        hidden, cache, _ = self.read(ids[:, :room], self.xp.asarray(0, "int32"), self.empty())
        return hidden, cache, ()

    def look_ahead(self, ids: Array, length: Array, cache: Entries, candidates: Array) -> tuple[Array, Entries]:
        if self.low_memory:
            each = [self.read(candidates[:, one : one + 1], length, cache)[0] for one in range(candidates.shape[1])]
            return self.device.concat(each, 1), cache
        hidden, cache, _ = self.read(candidates, length, cache, shared=True)
        return hidden, cache

    def empty(self) -> Entries:
        """A cache with room for every token."""
        return self.steps.entries(self.rows, self.capacity)

    def reorder(self, cache: Entries, rows: Array) -> Entries:
        """The cache where row i goes on from what row rows[i] was."""
        take = self.device.take
        return tuple((take(keys, rows, 0), take(values, rows, 0)) for keys, values in cache)

    def keep(
        self, ids: Array, length: Array, cache: Entries, chosen: Array, tokens: Array
    ) -> tuple[Entries, tuple[()]]:
        if self.low_memory:
            return self.read(tokens, length, cache)[1], ()
        xp = self.device
        is_chosen = (xp.arange(self.capacity)[None, :] == (length + chosen)[:, None])[:, None, :, None]

        def kept(x: Array) -> Array:
            own = xp.sum(xp.where(is_chosen, x, xp.full((), 0.0, self.steps.dtype)), axis=2, keepdims=True)
            return xp.put(x, length, own, 2)

        return tuple((kept(keys), kept(values)) for keys, values in cache), ()


def lowest(dtype: str) -> float:
    """The least finite number of a floating-point dtype."""
    return {"float32": -3.4028234663852886e38, "float16": -65504.0, "bfloat16": -3.3895313892515355e38}[dtype]
