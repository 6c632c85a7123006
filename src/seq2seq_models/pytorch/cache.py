"""Decoder key/value caches: one that grows, one that is allocated once, and the pair an encoder-decoder needs.

Keys and values are [B, H, length, K]. The cross-attention cache belongs to the input, not to the beam: it keeps B rows
while the self-attention cache has B * beams, and is never reordered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError

if TYPE_CHECKING:
    from ..core.config import PretrainedConfig

LegacyCache = Sequence[Sequence[Tensor]]


class CacheLayer:
    """Keys and values of one attention, each [B, H, length, K]; None before the first update."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append [B, H, T, K] and return all keys and values so far."""
        if self.keys is None or self.values is None:
            self.keys, self.values = keys, values
        else:
            self.keys = torch.cat([self.keys, keys], dim=2)
            self.values = torch.cat([self.values, values], dim=2)
        return self.keys, self.values

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes what row rows[i] was, int64 [B]."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys.index_select(0, rows), self.values.index_select(0, rows)

    def copy_rows(self, sources: Tensor, rows: Tensor, start: int = 0) -> None:
        """Row rows[i] becomes what row sources[i] is; the first `start` positions are the same in both already."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = (
                tensor.index_copy(0, rows, tensor.index_select(0, sources)) for tensor in (self.keys, self.values)
            )

    def crop(self, length: int) -> None:
        """Keep the first `length` positions."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[:, :, :length], self.values[:, :, :length]

    def keep(self, start: int, chosen: Tensor) -> None:
        """Of the positions from `start` on, only the one that is chosen[row] later stays, at `start`."""
        if self.keys is not None and self.values is not None:
            picked = (_of_row(tensor[:, :, start:], chosen) for tensor in (self.keys, self.values))
            before = (self.keys[:, :, :start], self.values[:, :, :start])
            self.keys, self.values = (torch.cat(both, dim=2) for both in zip(before, picked, strict=True))

    def length(self) -> int:
        return 0 if self.keys is None else self.keys.shape[2]


class StaticCacheLayer(CacheLayer):
    """The same over memory that is allocated once, for `max_length` positions, and written in place."""

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length
        self._buffers: list[Tensor] | None = None
        self._filled = 0

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        start, self._filled = self._filled, self._filled + keys.shape[2]
        if self._filled > self.max_length:
            raise InputError(
                f"a StaticCache must have room for every position, got position {self._filled} of {self.max_length}. "
                "Make it with a larger max_cache_len."
            )
        if self._buffers is None:
            rows, heads, _, width = keys.shape
            self._buffers = [keys.new_empty(rows, heads, self.max_length, width) for _ in range(2)]
        self._buffers[0][:, :, start : self._filled] = keys
        self._buffers[1][:, :, start : self._filled] = values
        return self._view()

    def reorder(self, rows: Tensor) -> None:
        if self._buffers is not None:
            fresh = [torch.empty_like(buffer) for buffer in self._buffers]
            for old, new in zip(self._buffers, fresh, strict=True):
                torch.index_select(old[:, :, : self._filled], 0, rows, out=new[:, :, : self._filled])
            self._buffers = fresh
            self._view()

    def copy_rows(self, sources: Tensor, rows: Tensor, start: int = 0) -> None:
        if self._buffers is not None and start < self._filled:
            for filled in self._view():
                filled[:, :, start:].index_copy_(0, rows, filled[:, :, start:].index_select(0, sources))

    def crop(self, length: int) -> None:
        if self._buffers is not None:
            self._filled = min(length, self._filled)
            self._view()

    def keep(self, start: int, chosen: Tensor) -> None:
        if self._buffers is not None:
            for buffer in self._buffers:
                buffer[:, :, start : start + 1] = _of_row(buffer[:, :, start : self._filled], chosen)
            self.crop(start + 1)

    def length(self) -> int:
        return self._filled

    def _view(self) -> tuple[Tensor, Tensor]:
        assert self._buffers is not None
        self.keys, self.values = (buffer[:, :, : self._filled] for buffer in self._buffers)
        return self.keys, self.values


class Cache:
    """What attention asks of a cache. `layers[i].keys` and `.values` are the tensors, `cache[i]` the legacy tuple."""

    is_compileable = False

    def __init__(self) -> None:
        self.layers: list[CacheLayer] = []

    def _new_layer(self) -> CacheLayer:
        return CacheLayer()

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, cache_kwargs: dict[str, Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, H, T, K] to a layer; returns all of that layer's so far."""
        while len(self.layers) <= layer_idx:
            self.layers.append(self._new_layer())
        return self.layers[layer_idx].update(key_states, value_states)

    def cross(self, layer_idx: int) -> tuple[Tensor, Tensor] | None:
        """The encoder's keys and values for a layer, or None if they are not known yet."""
        return None

    def set_cross(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Keep the encoder's keys and values; a cache without a place for them just hands them back."""
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of positions cached so far."""
        return self.layers[layer_idx].length() if len(self.layers) > layer_idx else 0

    def get_max_cache_shape(self) -> int:
        """Number of positions there is room for; -1 where the cache grows."""
        return -1

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes what row beam_idx[i] was, int64 [B], in every layer."""
        for layer in self.layers:
            layer.reorder(beam_idx)

    def copy_rows(self, sources: Tensor, rows: Tensor, start: int = 0) -> None:
        """Row rows[i] becomes what row sources[i] is, in every layer; where no row is in both, this is a reordering.

        Args:
            sources, rows: int64 of one length.
            start: number of positions at the start that are the same in both already.
        """
        for layer in self.layers:
            layer.copy_rows(sources, rows, start)

    def crop(self, max_length: int) -> None:
        """Forget the positions from `max_length` on; a negative number is that of the positions to forget.

        The encoder's keys and values stay. What the cache holds beyond may be overwritten by the next update.
        """
        held = self.get_seq_length()
        length = max(held + max_length, 0) if max_length < 0 else max_length
        if length < held:
            for layer in self.layers:
                layer.crop(length)

    def keep(self, start: int, chosen: Tensor) -> None:
        """Of the positions from `start` on, only the one that is chosen[row] later stays, at `start`.

        Args:
            start: number of positions that all stay.
            chosen: int64 [B], counted from `start`.
        """
        for layer in self.layers:
            layer.keep(start, chosen)

    def to_legacy_cache(self) -> tuple[tuple[Tensor, ...], ...]:
        """One tuple of tensors per layer: (keys, values)."""
        return tuple(self)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, layer_idx: int) -> tuple[Tensor, ...]:
        if not -len(self.layers) <= layer_idx < len(self.layers):
            raise IndexError(f"a cache layer must be among {len(self.layers)}, got {layer_idx}.")
        keys, values = self.layers[layer_idx].keys, self.layers[layer_idx].values
        if keys is None or values is None:
            raise KeyError(f"layer {layer_idx} of the cache is empty. Run the model once first.")
        return keys, values

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return (self[index] for index in range(len(self)))


class DynamicCache(Cache):
    """A cache that grows with every step. Gradients flow through it.

    Args:
        ddp_cache_data: legacy tuples (keys, values) to begin with, one per layer.
        config: accepted for compatibility; nothing of it is needed.
    """

    def __init__(self, ddp_cache_data: LegacyCache | None = None, config: PretrainedConfig | None = None) -> None:
        super().__init__()
        for index, layer in enumerate(ddp_cache_data or ()):
            self.update(layer[0], layer[1], index)

    @classmethod
    def from_legacy_cache(cls, past_key_values: LegacyCache | None = None) -> DynamicCache:
        """A cache holding legacy tuples (keys, values), one per layer."""
        return cls(past_key_values)


class StaticCache(Cache):
    """A cache whose memory is allocated once, at the first update, and written in place.

    Args:
        config: accepted for compatibility; shapes come from the first update.
        max_cache_len: number of positions there is room for.

    # Differs from transformers 4.57.6: attention sees the filled part only, so no mask over the empty part is needed.
    """

    def __init__(self, config: PretrainedConfig | None = None, max_cache_len: int = 0, **_: Any) -> None:
        super().__init__()
        self.max_cache_len = max_cache_len

    def _new_layer(self) -> CacheLayer:
        return StaticCacheLayer(self.max_cache_len)

    def get_max_cache_shape(self) -> int:
        return self.max_cache_len


class EncoderDecoderCache(Cache):
    """The self-attention cache of the decoder and, beside it, the encoder's keys and values.

    Args:
        self_attention_cache: the decoder's own; a new `DynamicCache` if not given.
        cross_attention_cache: the encoder's, filled by the first step.
    """

    def __init__(self, self_attention_cache: Cache | None = None, cross_attention_cache: Cache | None = None) -> None:
        self.self_attention_cache = self_attention_cache if self_attention_cache is not None else DynamicCache()
        self.cross_attention_cache = cross_attention_cache if cross_attention_cache is not None else DynamicCache()

    @property
    def layers(self) -> list[CacheLayer]:  # type: ignore[override]
        return self.self_attention_cache.layers

    @property
    def is_updated(self) -> dict[int, bool]:
        """For each layer, whether the encoder's keys and values are known."""
        return {index: self.cross(index) is not None for index in range(len(self.layers))}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, cache_kwargs: dict[str, Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.self_attention_cache.update(key_states, value_states, layer_idx, cache_kwargs)

    def cross(self, layer_idx: int) -> tuple[Tensor, Tensor] | None:
        layers = self.cross_attention_cache.layers
        if layer_idx >= len(layers):
            return None
        keys, values = layers[layer_idx].keys, layers[layer_idx].values
        return None if keys is None or values is None else (keys, values)

    def set_cross(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        return self.cross_attention_cache.update(keys, values, layer_idx)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.self_attention_cache.get_seq_length(layer_idx)

    def get_max_cache_shape(self) -> int:
        return self.self_attention_cache.get_max_cache_shape()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the decoder's rows; the encoder's belong to the input and stay, unless they were made per beam."""
        self.self_attention_cache.reorder_cache(beam_idx)
        cross = self.cross(0)
        own = self.layers[0].keys if self.layers else None
        if cross is not None and own is not None and cross[0].shape[0] == own.shape[0] == len(beam_idx):
            self.cross_attention_cache.reorder_cache(beam_idx)

    def __getitem__(self, layer_idx: int) -> tuple[Tensor, ...]:
        return *self.self_attention_cache[layer_idx], *(self.cross(layer_idx) or ())

    @classmethod
    def from_legacy_cache(cls, past_key_values: LegacyCache | None = None) -> EncoderDecoderCache:
        """A cache holding legacy tuples (keys, values, cross keys, cross values), one per layer."""
        cache = cls()
        for index, layer in enumerate(past_key_values or ()):
            cache.update(layer[0], layer[1], index)
            if len(layer) > 2:
                cache.set_cross(layer[2], layer[3], index)
        return cache


def _of_row(tensor: Tensor, chosen: Tensor) -> Tensor:
    """The place chosen[row] of each row of [B, H, places, K], as [B, H, 1, K]."""
    rows, heads, _, width = tensor.shape
    return tensor.gather(2, chosen.view(rows, 1, 1, 1).expand(rows, heads, 1, width))
