"""Position tables, encoder layers and decoder layers. The families differ in `architecture`, and only there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.architecture import FP16_CLAMP, LAYER_NORM_EPSILON
from ..core.config import PretrainedConfig
from ..core.positions import sinusoidal_table
from ..errors import InputError
from .attention import Attention, Products, apply
from .cache import Cache
from .linear import Linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "linear": lambda x: x,
}


_shared_gradient: ContextVar[tuple[Tensor, Tensor] | None] = ContextVar("shared_gradient", default=None)
"""A weight and the tensor to look rows up in instead; see `sharing_gradient`."""


@contextmanager
def sharing_gradient(weight: nn.Parameter) -> Iterator[Tensor]:
    """Within, in this thread, token embeddings of this weight add the rows of their gradient to that of its other uses.

    A tied head gives the weight a gradient of all rows, [V, D], and each embedding one more of that size, nearly all
    zeros, if it is made by itself. Here an embedding gives the rows that were looked up, and they are added in place.
    The gradient of the weight itself is dense, whatever a loss is made of.

    Yields:
        What the head is to compute with in the place of the weight.
    """
    dense: Tensor = _DenseGradient.apply(weight)  # type: ignore[no-untyped-call]
    token = _shared_gradient.set((weight, dense))
    try:
        yield dense
    finally:
        _shared_gradient.reset(token)


class _DenseGradient(torch.autograd.Function):
    """The same tensor; its gradient is dense."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, of_weight: Tensor) -> Tensor:
        return of_weight.to_dense() if of_weight.is_sparse else of_weight


class _Rows(torch.autograd.Function):
    """Rows of a weight; its gradient is a sparse tensor of them, unless that is to be differentiated again."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding_idx: int) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.size, ctx.padding_idx = weight.shape[0], padding_idx
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, of_rows: Tensor) -> tuple[Tensor | None, ...]:
        (ids,) = ctx.saved_tensors
        aten, is_sparse = torch.ops.aten, not torch.is_grad_enabled()
        of_weight: Tensor = aten.embedding_backward(of_rows, ids, ctx.size, ctx.padding_idx, False, is_sparse)
        return of_weight, None, None


class TokenEmbedding(nn.Embedding):
    """Token vectors; an id outside the vocabulary is named instead of ending in an index error."""

    def forward(self, input: Tensor) -> Tensor:
        shared = _shared_gradient.get()
        try:
            if shared is not None and shared[0] is self.weight and self.max_norm is None and not self.sparse:
                padding = -1 if self.padding_idx is None else self.padding_idx
                rows: Tensor = _Rows.apply(shared[1], input, padding)  # type: ignore[no-untyped-call]
                return rows
            return super().forward(input)
        except IndexError:
            low, high = int(input.min()), int(input.max())
            raise InputError(
                f"token ids must be between 0 and {self.num_embeddings - 1}, got ids from {low} to {high}. "
                "Use the tokenizer of this checkpoint, or resize_token_embeddings."
            ) from None


def check_ids(name: str, ids: Any, dimensions: int | None = None) -> None:
    """Raise unless token ids are a tensor of integers, with that many dimensions if it is given."""
    if ids is None:
        return
    if not isinstance(ids, Tensor):
        kind = f"{type(ids).__module__}.{type(ids).__name__}".removeprefix("builtins.")
        raise InputError(
            f"`{name}` must be a torch.Tensor of token ids, got {kind}. Ask the tokenizer for "
            '`return_tensors="pt"`, or make one by torch.tensor.'
        )
    if ids.dtype not in (torch.int64, torch.int32):
        raise InputError(
            f"`{name}` must be integers [B, S], got {ids.dtype} {list(ids.shape)}. Token ids are int64 or int32."
        )
    if dimensions is not None and ids.dim() != dimensions:
        raise InputError(
            f"`{name}` must be integers [B, S], got {ids.dtype} {list(ids.shape)}. One input is `ids[None]`."
        )


class PositionEmbedding(nn.Embedding):
    """One vector per position [P, D]: sinusoids, computed and frozen, or learned rows."""

    def __init__(self, config: PretrainedConfig) -> None:
        self.is_computed = config.architecture.positions == "sinusoidal"
        super().__init__(config.max_position_embeddings, config.d_model)
        if self.is_computed:
            self.weight.requires_grad_(False)

    def fill(self) -> None:
        """Write the sinusoids, wherever the weight lives."""
        table = torch.from_numpy(sinusoidal_table(*self.weight.shape))
        with torch.no_grad():
            self.weight.copy_(table)

    def forward(self, start: int, length: int, positions: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Vectors [T, D] for `length` positions from `start`, or for the given int64 `positions` [T]."""
        if start + length > self.num_embeddings:
            raise InputError(
                f"the sequence must have at most {self.num_embeddings} positions (max_position_embeddings), "
                f"got {start + length}. Truncate the input, or call resize_position_embeddings."
            )
        return self.weight[start : start + length] if positions is None else F.embedding(positions, self.weight)


class Layer(nn.Module):
    """What encoder and decoder layers share: residuals with pre- or post-norm, and the feed-forward block."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.norm_first = config.architecture.norm == "pre"
        self.dropout = config.dropout
        self.activation_dropout = config.activation_dropout
        self.activation_fn = ACTIVATIONS[config.activation_function]

    def _add_feed_forward(self, config: PretrainedConfig, ffn_dim: int) -> None:
        # Made last: optimizer states saved elsewhere count on the checkpoints' order of parameters.
        self.fc1 = Linear(config.d_model, ffn_dim)
        self.fc2 = Linear(ffn_dim, config.d_model)
        self.final_layer_norm = layer_norm(config)

    def _enter(self, hidden: Tensor, norm: nn.LayerNorm) -> Tensor:
        return norm(hidden) if self.norm_first else hidden

    def _leave(self, hidden: Tensor, out: Tensor, norm: nn.LayerNorm) -> Tensor:
        total = hidden + F.dropout(out, self.dropout, self.training)
        return total if self.norm_first else norm(total)

    def _feed_forward(self, hidden: Tensor, products: Products | None = None) -> Tensor:
        inner = self.activation_fn(apply(self.fc1, self._enter(hidden, self.final_layer_norm), products))
        out = apply(self.fc2, F.dropout(inner, self.activation_dropout, self.training), products)
        return self._leave(hidden, out, self.final_layer_norm)


class EncoderLayer(Layer):
    """Self-attention and feed-forward over [B, S, D]."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.self_attn = Attention(config.d_model, config.encoder_attention_heads, config.attention_dropout)
        self.self_attn_layer_norm = layer_norm(config)
        self._add_feed_forward(config, config.encoder_ffn_dim)

    def forward(
        self, hidden: Tensor, mask: Tensor | None, head_mask: Tensor | None = None, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """States [B, S, D] and, if asked, attention weights [B, H, S, S]."""
        out, weights = self.self_attn(
            self._enter(hidden, self.self_attn_layer_norm), mask=mask, head_mask=head_mask, need_weights=need_weights
        )
        hidden = self._feed_forward(self._leave(hidden, out, self.self_attn_layer_norm))
        if hidden.dtype == torch.float16:
            hidden = hidden.clamp(-FP16_CLAMP, FP16_CLAMP)
        return hidden, weights


class DecoderLayer(Layer):
    """Causal self-attention, attention to the encoder, and feed-forward over [B, T, D]."""

    def __init__(self, config: PretrainedConfig, index: int) -> None:
        super().__init__(config)
        heads, dropout = config.decoder_attention_heads, config.attention_dropout
        self.self_attn = Attention(config.d_model, heads, dropout, index)
        self.self_attn_layer_norm = layer_norm(config)
        self.encoder_attn = Attention(config.d_model, heads, dropout, index)
        self.encoder_attn_layer_norm = layer_norm(config)
        self._add_feed_forward(config, config.decoder_ffn_dim)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        memory: Tensor | None,
        memory_mask: Tensor | None,
        cache: Cache | None = None,
        head_mask: Tensor | None = None,
        cross_head_mask: Tensor | None = None,
        need_weights: bool = False,
        is_causal: bool = False,
        has_memory: bool = False,
        products: Products | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """States [B, T, D] and, if asked, the weights of self-attention and of cross-attention."""
        more = {} if products is None else {"products": products}
        out, weights = self.self_attn(
            self._enter(hidden, self.self_attn_layer_norm),
            mask=mask,
            cache=cache,
            head_mask=head_mask,
            need_weights=need_weights,
            is_causal=is_causal,
            **more,
        )
        hidden = self._leave(hidden, out, self.self_attn_layer_norm)
        cross_weights = None
        if has_memory:
            out, cross_weights = self.encoder_attn(
                self._enter(hidden, self.encoder_attn_layer_norm),
                memory=memory,
                mask=memory_mask,
                cache=cache,
                head_mask=cross_head_mask,
                need_weights=need_weights,
                is_cross=True,
                **more,
            )
            hidden = self._leave(hidden, out, self.encoder_attn_layer_norm)
        return self._feed_forward(hidden, products), weights, cross_weights


def layer_norm(config: PretrainedConfig) -> nn.LayerNorm:
    """A layer norm over D with the checkpoints' epsilon."""
    return nn.LayerNorm(config.d_model, eps=LAYER_NORM_EPSILON)


def embedding_scale(config: PretrainedConfig) -> float:
    """What token vectors are multiplied with before the positions are added."""
    return math.sqrt(config.d_model) if config.scale_embedding else 1.0
