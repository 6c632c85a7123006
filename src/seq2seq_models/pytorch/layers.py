"""Position tables, encoder layers and decoder layers. The families differ in `architecture`, and only there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
from .attention import Attention
from .cache import Cache
from .linear import Products, apply


class _Activation(nn.Module):
    """An activation by the name that a config gives it, where PyTorch has no module for it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, input: Tensor) -> Tensor:
        if self.name == "quick_gelu":
            return input * torch.sigmoid(1.702 * input)
        if self.name == "gelu_10":
            return F.gelu(input).clamp(-10, 10)
        if self.name == "relu2":
            return F.relu(input).square()
        mean, spread = 0.707107, 0.282095  # "laplace", Ma et al. 2022
        return 0.5 * (1.0 + torch.erf((input - mean) / (spread * math.sqrt(2.0))))

    def extra_repr(self) -> str:
        return self.name


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_10": partial(_Activation, "gelu_10"),
    "gelu_accurate": partial(nn.GELU, "tanh"),
    "gelu_fast": partial(nn.GELU, "tanh"),
    "gelu_new": partial(nn.GELU, "tanh"),
    "gelu_python": nn.GELU,
    "gelu_python_tanh": partial(nn.GELU, "tanh"),
    "gelu_pytorch_tanh": partial(nn.GELU, "tanh"),
    "laplace": partial(_Activation, "laplace"),
    "leaky_relu": nn.LeakyReLU,
    "linear": nn.Identity,
    "mish": nn.Mish,
    "quick_gelu": partial(_Activation, "quick_gelu"),
    "relu": nn.ReLU,
    "relu2": partial(_Activation, "relu2"),
    "relu6": nn.ReLU6,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
}
"""What makes the module of each activation."""


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
    # Autograd goes back in the order of making: the head's gradient, by way of what is made first, is added last, and
    # the rows are added to it where it is. Rows that came last would be added to a copy of it.
    of_head: Tensor = _DenseGradient.apply(dense)  # type: ignore[no-untyped-call]
    token = _shared_gradient.set((weight, dense))
    try:
        yield of_head
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
        shared = None if torch.compiler.is_compiling() else _shared_gradient.get()
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

    def forward(  # type: ignore[override]
        self,
        input_ids_shape: Sequence[int],
        past_key_values_length: int = 0,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Vectors [T, D] for the positions of tokens.

        Args:
            input_ids_shape: of the tokens, [B, T].
            past_key_values_length: the first token's position.
            position_ids: int64 [T], the positions themselves.

        Raises:
            InputError: if a position is beyond the table.
        """
        start, length = past_key_values_length, input_ids_shape[1]
        if start + length > self.num_embeddings:
            raise InputError(
                f"the sequence must have at most {self.num_embeddings} positions (max_position_embeddings), "
                f"got {start + length}. Truncate the input, or call resize_position_embeddings."
            )
        return self.weight[start : start + length] if position_ids is None else F.embedding(position_ids, self.weight)


class Layer(nn.Module):
    """What encoder and decoder layers share: residuals with pre- or post-norm, and the feed-forward block."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.norm_first = config.architecture.norm == "pre"
        self.dropout = config.dropout
        self.activation_dropout = config.activation_dropout
        self.activation_fn = ACTIVATIONS[config.activation_function]()

    def _add_feed_forward(self, config: PretrainedConfig, ffn_dim: int) -> None:
        # Made last: optimizer states saved elsewhere count on the checkpoints' order of parameters.
        self.fc1 = nn.Linear(config.d_model, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, config.d_model)
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
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        layer_head_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, ...]:
        """A tuple of the states [B, S, D] and, with `output_attentions`, attention weights [B, H, S, S].

        Args:
            hidden_states: [B, S, D].
            attention_mask: additive [B, 1, 1 or S, S]; None hides nothing.
            layer_head_mask: [H], multiplied onto the attention weights.
            output_attentions: return the weights.
        """
        out, weights = self.self_attn(
            hidden_states=self._enter(hidden_states, self.self_attn_layer_norm),
            attention_mask=attention_mask,
            layer_head_mask=layer_head_mask,
            output_attentions=output_attentions,
        )
        hidden = self._feed_forward(self._leave(hidden_states, out, self.self_attn_layer_norm))
        if hidden.dtype == torch.float16:
            hidden = hidden.clamp(-FP16_CLAMP, FP16_CLAMP)
        return (hidden, weights) if output_attentions else (hidden,)


class DecoderLayer(Layer):
    """Causal self-attention, attention to the encoder, and feed-forward over [B, T, D]."""

    def __init__(self, config: PretrainedConfig, layer_idx: int | None = None) -> None:
        super().__init__(config)
        heads, dropout = config.decoder_attention_heads, config.attention_dropout
        self.self_attn = Attention(config.d_model, heads, dropout, layer_idx, is_causal=True)
        self.self_attn_layer_norm = layer_norm(config)
        self.encoder_attn = Attention(config.d_model, heads, dropout, layer_idx, is_cross=True)
        self.encoder_attn_layer_norm = layer_norm(config)
        self._add_feed_forward(config, config.decoder_ffn_dim)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        layer_head_mask: Tensor | None = None,
        cross_attn_layer_head_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        output_attentions: bool = False,
        use_cache: bool = True,
        cache_position: Tensor | None = None,
        *,
        products: Products | None = None,
    ) -> tuple[Any, ...]:
        """A tuple of the states [B, T, D] and, with `output_attentions`, the weights of both attentions.

        Args:
            hidden_states: [B, T, D].
            attention_mask: additive [B or 1, 1, T, past + T]; without one, each token sees those up to itself.
            encoder_hidden_states: [B, S, D], or fewer rows that beams share; without it, and without a cache that holds
                its keys and values, the layer attends to no encoder.
            encoder_attention_mask: additive [B, 1, 1, S].
            layer_head_mask, cross_attn_layer_head_mask: [H], multiplied onto the weights.
            past_key_values: takes in the new keys and values.
            output_attentions: return the weights; those over the encoder are None if there is none.
            use_cache, cache_position: accepted as transformers accepts them; a cache that is given is used, and knows
                how many tokens it holds.
            products: faster functions for the layers, see packing.py.
        """
        more: dict[str, Any] = {} if products is None else {"products": products}
        out, weights = self.self_attn(
            hidden_states=self._enter(hidden_states, self.self_attn_layer_norm),
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            layer_head_mask=layer_head_mask,
            output_attentions=output_attentions,
            **more,
        )
        hidden = self._leave(hidden_states, out, self.self_attn_layer_norm)
        cross_weights = None
        if encoder_hidden_states is not None or self._remembers(past_key_values):
            out, cross_weights = self.encoder_attn(
                hidden_states=self._enter(hidden, self.encoder_attn_layer_norm),
                key_value_states=encoder_hidden_states,
                past_key_values=past_key_values,
                attention_mask=encoder_attention_mask,
                layer_head_mask=cross_attn_layer_head_mask,
                output_attentions=output_attentions,
                **more,
            )
            hidden = self._leave(hidden, out, self.encoder_attn_layer_norm)
        hidden = self._feed_forward(hidden, products)
        return (hidden, weights, cross_weights) if output_attentions else (hidden,)

    def _remembers(self, cache: Cache | None) -> bool:
        """Whether a cache holds the keys and values of an encoder's output for this layer."""
        layer: Any = getattr(self.encoder_attn, "layer", None)
        return cache is not None and layer is not None and cache.cross(layer) is not None


def layer_norm(config: PretrainedConfig) -> nn.LayerNorm:
    """A layer norm over D with the checkpoints' epsilon."""
    return nn.LayerNorm(config.d_model, eps=LAYER_NORM_EPSILON)


def embedding_scale(config: PretrainedConfig) -> float:
    """What token vectors are multiplied with before the positions are added."""
    return math.sqrt(config.d_model) if config.scale_embedding else 1.0
