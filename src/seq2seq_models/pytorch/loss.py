"""The cross-entropy of a language model, from the states under its head: the part of a training step that is largest.

Logits over 55,000 words take far more memory than everything else that a step computes, and the usual way keeps four
copies of them: themselves, their logarithms, and the gradients of both. Here they are made some rows at a time and
their gradient at once, while they are there; no product is computed twice.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

ELEMENTS = 2**24
"""Logits that are there at once, in elements: large enough for fast products."""


def language_modeling_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy, a float32 scalar whatever the logits' dtype, over labels that are not -100.

    Args:
        logits: [B, T, V].
        labels: int64 [B, T].
        label_smoothing: share of each label that is spread evenly over all words.
    """
    labels = labels.to(logits.device).flatten()
    return F.cross_entropy(logits.float().flatten(0, 1), labels, label_smoothing=label_smoothing)


def head_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    label_smoothing: float = 0.0,
    keep_logits: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Mean cross-entropy of `hidden @ weight.T + bias`, a float32 scalar, and those logits [B, T, V] if they are kept.

    Args:
        hidden: states [B, T, D].
        weight: [V, D].
        bias: [V], without a gradient.
        labels: int64 [B, T], -100 where a place does not count.
        label_smoothing: share of each label that is spread evenly over all words.
        keep_logits: return the logits too; a gradient may flow through them as well.
    """
    plain = torch.compiler.is_compiling() or type(weight) not in (Tensor, torch.nn.Parameter)
    if plain or (bias is not None and bias.requires_grad):
        # A compiler orders and joins the operations itself; foreign kinds of weights know only the usual ones.
        logits = F.linear(hidden, weight, bias)
        return language_modeling_loss(logits, labels, label_smoothing), logits if keep_logits else None
    if torch.is_autocast_enabled(hidden.device.type):
        kind = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight, bias = hidden.to(kind), weight.to(kind), None if bias is None else bias.to(kind)
    learn = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    with torch.autocast(hidden.device.type, enabled=False):
        loss, logits, _, _ = _HeadLoss.apply(  # type: ignore[no-untyped-call]
            hidden, weight, bias, labels.to(hidden.device), label_smoothing, keep_logits, learn
        )
    return loss, logits


class _HeadLoss(torch.autograd.Function):
    """The loss with its gradient, computed together; see the head of this file."""

    @staticmethod
    def forward(
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        label_smoothing: float,
        keep_logits: bool,
        learn: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        rows, targets = hidden.flatten(0, -2), labels.flatten()
        counted = targets != -100
        count = counted.sum()
        share, targets = (counted / count)[:, None], targets.masked_fill(~counted, 0)[:, None]
        size, step = weight.shape[0], max(ELEMENTS // weight.shape[0], 1)
        all_logits = rows.new_empty(rows.shape[0], size) if keep_logits else None
        of_rows, of_weight = (torch.empty_like(rows), torch.empty_like(weight)) if learn else (None, None)
        total = torch.zeros((), device=rows.device)
        # One block of memory for all parts: a new one for each would be cleared by the system every time.
        block = rows.new_empty(min(step, rows.shape[0]), size)
        for start in range(0, rows.shape[0], step):
            at = slice(start, start + step)
            part, right_one = rows[at], targets[at]
            logits = _product(part, weight, bias, block[: len(part)])
            if all_logits is not None:
                all_logits[at] = logits
            values = logits.float()
            highest, place = values.max(1, keepdim=True)
            right = values.gather(1, right_one)
            mean = values.mean(1, keepdim=True) if label_smoothing else right
            torch.softmax(values, 1, out=values)
            norm = highest - values.gather(1, place).log()
            losses = norm - (1 - label_smoothing) * right - label_smoothing * mean
            total += losses.masked_fill(~counted[at, None], 0.0).sum()
            if of_rows is not None and of_weight is not None:
                if label_smoothing:
                    values -= label_smoothing / size
                values.scatter_add_(1, right_one, torch.full_like(right, label_smoothing - 1))
                gradient, weights = values.to(rows.dtype), share[at].to(rows.dtype)
                torch.mm(gradient, weight, out=of_rows[at]).mul_(weights)
                torch.addmm(of_weight, gradient.T, part * weights, beta=0 if start == 0 else 1, out=of_weight)
        if all_logits is not None:
            all_logits = all_logits.view(*hidden.shape[:-1], size)
        return total / count, all_logits, of_rows, of_weight

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        hidden, weight = inputs[:2]
        ctx.mark_non_differentiable(*(one for one in output[2:] if one is not None))
        ctx.save_for_backward(hidden, weight, *output[2:])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor | None, of_logits: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        hidden, weight, of_rows, of_weight = ctx.saved_tensors
        for_hidden = for_weight = None
        if of_loss is not None:
            for_hidden = (of_rows * of_loss.to(of_rows.dtype)).view_as(hidden)
            for_weight = of_weight * of_loss.to(of_weight.dtype)
        if of_logits is not None:
            more = of_logits @ weight
            again = of_logits.flatten(0, -2).T @ hidden.flatten(0, -2)
            for_hidden = more if for_hidden is None else for_hidden + more
            for_weight = again if for_weight is None else for_weight + again
        return for_hidden, for_weight, None, None, None, None, None


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    return torch.mm(rows, weight.T, out=out) if bias is None else torch.addmm(bias, rows, weight.T, out=out)
