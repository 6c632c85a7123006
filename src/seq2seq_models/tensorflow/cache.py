"""Decoder key/value caches: what attention reads and writes, legacy tuples, and entries that are allocated once.

Keys and values are [B, H, length, K]. Entries are one (keys, values) per decoder layer. The encoder's belong to the
input, not to the beam: they keep B rows while the decoder's own have B * beams.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from ..errors import InputError

Entry = tuple[Any, Any]
Entries = tuple[Entry, ...]
LegacyCache = Sequence[Sequence[Any]]
"""Per layer (keys, values) or (keys, values, cross keys, cross values)."""


class LayerCache:
    """Keys and values of one decoder layer while it runs.

    Args:
        own: (keys, values) so far, or None.
        cross: the encoder's (keys, values), or None if not known yet.
        start: None where the cache grows. Otherwise an int32 scalar: `own` has room, and is written from there on.
        packed: the self-attention's projections in one, kernel [D, 3 D] and bias [3 D]; or None.
    """

    def __init__(
        self, own: Entry | None = None, cross: Entry | None = None, start: Any = None, packed: Entry | None = None
    ) -> None:
        self.own = own
        self.packed = packed
        self.cross = cross
        self.start = start

    @property
    def is_static(self) -> bool:
        """Whether the keys and values have their final size already."""
        return self.start is not None

    def update(self, keys: Any, values: Any) -> Entry:
        """Take [B, H, T, K] in and return all keys and values."""
        if self.own is None:
            self.own = keys, values
        elif self.is_static:
            place = (0, 0, self.start, 0)
            self.own = ops.slice_update(self.own[0], place, keys), ops.slice_update(self.own[1], place, values)
        else:
            self.own = ops.concatenate([self.own[0], keys], 2), ops.concatenate([self.own[1], values], 2)
        return self.own

    def legacy(self) -> tuple[Any, ...]:
        """(keys, values) or (keys, values, cross keys, cross values)."""
        return *(self.own or ()), *(self.cross or ())


def layer_caches(past: LegacyCache | None, layers: int) -> list[LayerCache]:
    """A growing cache per layer, holding what legacy tuples hold.

    Raises:
        InputError: there is not one tuple of 2 or 4 tensors per layer.
    """
    if past is None:
        return [LayerCache() for _ in range(layers)]
    lengths = [len(layer) for layer in past]
    if len(lengths) != layers or any(length not in (2, 4) for length in lengths):
        raise InputError(
            f"`past_key_values` must be {layers} tuples of 2 or 4 tensors, got tuples of {lengths}. "
            "Pass what the model returned."
        )
    return [LayerCache((layer[0], layer[1]), (layer[2], layer[3]) if len(layer) == 4 else None) for layer in past]


def past_length(past: LegacyCache | None) -> int:
    """Number of positions that legacy tuples hold."""
    return 0 if past is None else ops.shape(past[0][0])[2]


def entries(layers: int, rows: Any, heads: int, length: int, width: int, dtype: str) -> Entries:
    """Empty entries: zeros [rows, heads, length, width] for keys and for values of each layer."""
    shape = (rows, heads, length, width)
    return tuple((ops.zeros(shape, dtype), ops.zeros(shape, dtype)) for _ in range(layers))
