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

from .linear import linear

ELEMENTS = 2**25
"""Logits that are there at once, in elements: about as many as there are weights in a large head."""

WORDS = 2**12
"""Logits of a row that a CPU computes at a time in float32: as many as stay in its cache until they are used."""


def language_modeling_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy, a float32 scalar whatever the logits' dtype, over labels that are not -100; 0 without any.

    Args:
        logits: [B, T, V].
        labels: int64 [B, T].
        label_smoothing: share of each label that is spread evenly over all words.
    """
    labels = labels.to(logits.device).flatten()
    total = F.cross_entropy(logits.float().flatten(0, 1), labels, reduction="sum", label_smoothing=label_smoothing)
    # Differs from transformers 4.57.6: without any label the loss is 0, not NaN, which would end a training.
    return total / (labels != -100).sum().clamp(min=1)


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


def _loss_and_gradients(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    label_smoothing: float,
    keep_logits: bool,
    learn: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """The loss, the logits [B, T, V], and the gradients of the loss by the rows [N, D] and by the weight."""
    rows, targets = hidden.flatten(0, -2), labels.flatten()
    counted = targets != -100
    count = counted.sum().clamp(min=1)
    share, targets = (counted / count)[:, None], targets.masked_fill(~counted, 0)[:, None]
    size, step = weight.shape[0], max(ELEMENTS // weight.shape[0], 1)
    width = WORDS if rows.is_cpu and rows.dtype == torch.float32 else size
    all_logits = rows.new_empty(rows.shape[0], size) if keep_logits else None
    of_rows, of_weight = (torch.zeros_like(rows), torch.empty_like(weight)) if learn else (None, None)
    total = torch.zeros((), device=rows.device)
    for start in range(0, rows.shape[0], step):
        at = slice(start, start + step)
        part, tiles = rows[at], []
        for first in range(0, size, width):
            words = slice(first, min(first + width, size))
            logits = linear(part, weight[words], None if bias is None else bias[words])
            if all_logits is not None:
                all_logits[at, words] = logits
            tiles.append(_Tile(words, logits.float(), targets[at], label_smoothing, size))
        norm = torch.cat([tile.norm for tile in tiles], 1).logsumexp(1, keepdim=True)
        wanted = torch.cat([tile.wanted for tile in tiles], 1).sum(1, keepdim=True)
        total += (norm - wanted).masked_fill(~counted[at, None], 0.0).sum()
        if of_rows is None or of_weight is None:
            continue
        weights = share[at].to(rows.dtype)
        for tile in tiles:
            gradient = tile.gradient(norm).to(rows.dtype)
            of_rows[at] += linear(gradient, weight[tile.words].T)
            out = of_weight[tile.words]
            torch.addmm(out, gradient.T, part * weights, beta=0 if start == 0 else 1, out=out)
        of_rows[at] *= weights
    if all_logits is not None:
        all_logits = all_logits.view(*hidden.shape[:-1], size)
    return total / count, all_logits, of_rows, of_weight


class _HeadLoss(torch.autograd.Function):
    """The loss with its gradient, computed together; see the head of this file."""

    forward = staticmethod(_loss_and_gradients)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.label_smoothing, ctx.gradients = inputs[4], output[2:]
        ctx.mark_non_differentiable(*(one for one in output[2:] if one is not None))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, of_loss: Tensor | None, of_logits: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated again
            return (
                *_differentiable(hidden, weight, bias, labels, ctx.label_smoothing, of_loss, of_logits),
                *[None] * 5,
            )
        for_hidden = for_weight = None
        if of_loss is not None:
            # Handed over, not kept: autograd then adds to them where they are. A second backward computes them again.
            found, ctx.gradients = ctx.gradients, None
            if found is None:
                found = _loss_and_gradients(hidden, weight, bias, labels, ctx.label_smoothing, False, True)[2:]
            of_rows, of_weight = found
            del found
            for_hidden = of_rows.mul_(of_loss.to(of_rows.dtype)).view_as(hidden)
            for_weight = of_weight.mul_(of_loss.to(of_weight.dtype))
        if of_logits is not None:
            more = of_logits @ weight
            again = of_logits.flatten(0, -2).T @ hidden.flatten(0, -2)
            for_hidden = more if for_hidden is None else for_hidden + more
            for_weight = again if for_weight is None else for_weight + again
        return for_hidden, for_weight, None, None, None, None, None


def _differentiable(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    label_smoothing: float,
    of_loss: Tensor | None,
    of_logits: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of hidden and weight by the usual operations, with a graph of their own."""
    # Views: a tied weight is part of how the states came about, which is not to be gone back through here.
    hidden, weight = hidden.view_as(hidden), weight.view_as(weight)
    logits = F.linear(hidden, weight, bias)
    loss = language_modeling_loss(logits, labels, label_smoothing)
    given = [(loss, of_loss), (logits, of_logits)]
    outputs = [(output, gradient) for output, gradient in given if gradient is not None]
    inputs = [one for one in (hidden, weight) if one.requires_grad]
    found = iter(
        torch.autograd.grad([one for one, _ in outputs], inputs, [one for _, one in outputs], create_graph=True)
    )
    return next(found) if hidden.requires_grad else None, next(found) if weight.requires_grad else None


class _Tile:
    """Logits of some rows for a range of words, made into what the loss and its gradient need of them.

    Args:
        words: the range.
        logits: float32 [N, words], written over.
        targets: int64 [N, 1], of all words.
        label_smoothing: share of each label that is spread evenly over all words.
        size: the number of all words.
    """

    def __init__(self, words: slice, logits: Tensor, targets: Tensor, label_smoothing: float, size: int) -> None:
        self.words, self.evenly = words, label_smoothing / size
        place = targets - words.start
        self.place = place.clamp(0, logits.shape[1] - 1)
        self.certain = torch.where(place == self.place, 1 - label_smoothing, 0.0)
        highest, where = logits.max(1, keepdim=True)
        # Part of the logit that the loss is less by, and the logarithm of the summed exponentials, [N, 1].
        self.wanted = torch.where(place == self.place, logits.gather(1, self.place), 0.0) * (1 - label_smoothing)
        if label_smoothing:
            self.wanted += self.evenly * logits.sum(1, keepdim=True)
        self.values = torch.softmax(logits, 1, out=logits)
        self.norm = highest - self.values.gather(1, where).log()

    def gradient(self, norm: Tensor) -> Tensor:
        """Of the rows' losses by these logits, float32 [N, words], for the `norm` [N, 1] of all words; asked once."""
        self.values *= (self.norm - norm).exp()
        if self.evenly:
            self.values -= self.evenly
        return self.values.scatter_add_(1, self.place, -self.certain)
