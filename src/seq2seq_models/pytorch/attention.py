"""Masks and multi-head attention. Letters in shapes: B batch, S source, T target, D model, H heads, K per head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from .cache import Cache
from .linear import Products, apply


def padding_mask(mask: Tensor | None, dtype: torch.dtype, length: int | None = None) -> Tensor | None:
    """Additive mask [B, 1, 1, S] for a 1/0 mask [B, S], or None where nothing is masked.

    Masked places hold the dtype's lowest finite number, not minus infinity: a row that is masked throughout then
    averages over all places and stays finite. A mask of four dimensions is taken as additive already.

    Args:
        mask: 1/0 [B, S] or additive [B, 1, 1, S].
        dtype: of the attention scores.
        length: S of what is attended to, if it is known.

    Raises:
        InputError: it is no such tensor, or of another length.
    """
    if mask is None:
        return mask
    if not isinstance(mask, Tensor):
        raise InputError(f"`attention_mask` must be a torch.Tensor, got {type(mask).__name__}.")
    if mask.dim() == 4:
        return mask
    if mask.dim() != 2:
        raise InputError(f"`attention_mask` must have 2 or 4 dimensions, got {mask.dim()}. Pass one 1/0 row per input.")
    if length is not None and not is_traced() and mask.shape[1] != length:
        raise InputError(
            f"`attention_mask` must have one column for each of {length} tokens of the source, got {list(mask.shape)}. "
            "Pass the one that the tokenizer gave with the ids."
        )
    if hides_nothing(mask):
        return None  # lets attention take its unmasked path
    lowest = torch.finfo(dtype).min
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask == 0, lowest)[:, None, None, :]


def hides_nothing(mask: Tensor) -> bool:
    """Whether a 1/0 mask is known to be 1 throughout.

    It is not looked at on a device, where the look would wait, nor while a graph is traced, which is to hold for other
    values.
    """
    return not is_traced() and mask.device.type == "cpu" and bool(mask.all())


def is_traced() -> bool:
    """Whether what runs is made into a graph, for inputs of other values and lengths."""
    is_tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return is_tracing or torch.compiler.is_compiling()


def causal_mask(mask: Tensor | None, positions: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """Additive mask [B or 1, 1, T, length]: each query sees the keys up to its own position that `mask` keeps.

    Args:
        mask: 1/0 [B, at most length] over past and present keys, or an additive mask of four dimensions, or None.
        positions: int64 [T], the queries' positions among the keys.
        length: number of keys, past and present.
        dtype: of the attention scores.
    """
    if mask is not None and mask.dim() == 4:
        return mask
    hidden = torch.arange(length, device=positions.device) > positions[:, None]
    if mask is not None:
        padded = F.pad(mask == 0, (0, length - mask.shape[-1]))
        hidden = hidden[None, None] | padded[:, None, None, :]
    else:
        hidden = hidden[None, None]
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, torch.finfo(dtype).min)


class Attention(nn.Module):
    """Multi-head attention over the module's own input, or over an encoder's output (`memory`).

    Source: Vaswani et al. 2017, section 3.2.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dropout: float,
        layer: int | None = None,
        is_causal: bool = False,
        is_cross: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.dropout = dropout
        self.layer = layer
        self.is_causal = is_causal
        self.is_cross = is_cross
        self.implementation = "sdpa"
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        layer_head_mask: Tensor | None = None,
        output_attentions: bool = False,
        cache_position: Tensor | None = None,
        *,
        products: Products | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attended values [B, T, D] and, if `output_attentions`, the weights after the softmax [B, H, T, keys].

        Args:
            hidden_states: the queries' states [B, T, D].
            key_value_states: the encoder's output [B, S, D], to attend to in the place of the queries' own states. Its
                keys may have fewer rows than the queries: B rows of beams share them.
            past_key_values: where keys and values are kept; those of this layer are read and written. Where it holds
                those of the encoder's output, `key_value_states` is not looked at.
            attention_mask: additive [B or 1, 1, T or 1, keys]. Without one, every key is seen; in a decoder's
                self-attention, those up to the query's own place.
            layer_head_mask: [H], multiplied onto the weights.
            output_attentions: return the weights.
            cache_position: accepted as transformers accepts it; the cache itself knows how many tokens it holds.
            products: of this module's layers; of the module itself, for queries, keys and values together.

        Raises:
            InputError: if there is nothing to attend to.
        """
        hidden, cache, mask, head_mask = hidden_states, past_key_values, attention_mask, layer_head_mask
        rows, length, dim = hidden.shape
        if self.is_cross or key_value_states is not None:
            query = self._split(apply(self.q_proj, hidden, products))
            key, value = self._keys_and_values(key_value_states, cache)
        else:
            query, key, value = map(self._split, self.project(hidden, products))
            if cache is not None:
                assert self.layer is not None
                key, value = cache.update(key, value, self.layer)
        is_causal = mask is None and length > 1 and self.is_causal
        if is_causal and key.shape[2] > length:
            positions = torch.arange(key.shape[2] - length, key.shape[2], device=hidden.device)
            mask, is_causal = causal_mask(None, positions, key.shape[2], hidden.dtype), False
        beams = rows // key.shape[0]
        if beams > 1:  # [B * beams, H, T, K] -> [B, H, beams * T, K]: the beams of one input read its keys once
            query = query.view(key.shape[0], beams, self.num_heads, length, -1).transpose(1, 2).flatten(2, 3)
        if output_attentions or head_mask is not None or self.implementation == "eager":
            attended, weights = self._eager(query, key, value, mask, head_mask, is_causal)
        else:
            attended, weights = self._fused(query, key, value, mask, is_causal), None
        if beams > 1:
            attended = self._per_beam(attended, beams)
            weights = None if weights is None else self._per_beam(weights, beams)
        attended = attended.transpose(1, 2).reshape(rows, length, dim)
        return apply(self.out_proj, attended, products), weights if output_attentions else None

    def project(self, hidden: Tensor, products: Products | None = None) -> tuple[Tensor, ...]:
        """Queries, keys and values of the module's own input, each [B, T, D]."""
        together = None if products is None else products.get(self)
        if together is not None:
            out: tuple[Tensor, ...] = together(hidden)
            return out
        return tuple(apply(layer, hidden, products) for layer in (self.q_proj, self.k_proj, self.v_proj))

    def _split(self, projected: Tensor) -> Tensor:
        return projected.view(*projected.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)  # [B, H, T, K]

    def _per_beam(self, folded: Tensor, beams: int) -> Tensor:
        """[B, H, beams * T, x] -> [B * beams, H, T, x]."""
        rows, heads, queries, width = folded.shape
        return folded.reshape(rows, heads, beams, queries // beams, width).transpose(1, 2).flatten(0, 1)

    def _keys_and_values(self, memory: Tensor | None, cache: Cache | None) -> tuple[Tensor, Tensor]:
        """Those of the encoder's output, each [B, H, S, K]; kept in the cache, if there is one."""
        stored = None if cache is None or self.layer is None else cache.cross(self.layer)
        if stored is not None:
            return stored
        if memory is None:
            raise InputError("`key_value_states` must be the encoder's output [B, S, D] to attend to, got None.")
        keys, values = self._split(apply(self.k_proj, memory)), self._split(apply(self.v_proj, memory))
        if cache is None or self.layer is None:
            return keys, values
        return cache.set_cross(
            keys.contiguous(), values.contiguous(), self.layer
        )  # in one piece: every step reads them

    def _fused(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if self.implementation == "flash_attention_2" and mask is None:
            return _flash_attention(query, key, value, dropout, is_causal)
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal)

    def _eager(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, head_mask: Tensor | None, is_causal: bool
    ) -> tuple[Tensor, Tensor]:
        scores = query @ key.transpose(2, 3) * self.head_dim**-0.5
        if is_causal:
            positions = torch.arange(query.shape[2], device=query.device)
            mask = causal_mask(None, positions, key.shape[2], query.dtype)
        if mask is not None:
            scores = scores + mask
        weights = F.softmax(scores, dim=-1)
        if head_mask is not None:
            weights = weights * head_mask.view(1, -1, 1, 1)
        weights = F.dropout(weights, self.dropout, self.training)
        return weights @ value, weights


def _flash_attention(query: Tensor, key: Tensor, value: Tensor, dropout: float, is_causal: bool) -> Tensor:
    """The flash-attn package's kernel on [B, H, T, K]; it wants [B, T, H, K] in half precision on a GPU."""
    from flash_attn import flash_attn_func

    out: Tensor = flash_attn_func(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), dropout_p=dropout, causal=is_causal
    )
    return out.transpose(1, 2)
