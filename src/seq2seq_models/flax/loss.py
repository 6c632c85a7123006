"""The cross-entropy of a language model, from the states under its head: the part of a training step that is largest.

Logits over 55,000 words take far more memory than everything else that a step computes, and the usual way keeps
several copies of them. Here they are made some rows at a time and their gradient at once, while they are there; no
product is computed twice.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from .attention import wide

ELEMENTS = 2**25
"""Logits that are there at once on each device, in elements: about as many as there are weights in a large head."""


# What a product of two matrices sums over: the first or second axis of each.
_BOTH_FIRST = (((0,), (0,)), ((), ()))
_BOTH_SECOND = (((1,), (1,)), ((), ()))
_SECOND_AND_FIRST = (((1,), (0,)), ((), ()))


class Gradients(NamedTuple):
    """Of the loss by hidden [R, D], weight [V, D] and bias [V]; None where it is not asked for."""

    hidden: Array | None
    weight: Array | None
    bias: Array | None


def language_modeling_loss(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """Mean cross-entropy, a float32 scalar whatever the logits' dtype, over labels that are not -100; 0 without any.

    Args:
        logits: [B, T, V].
        labels: integers [B, T].
        label_smoothing: share of each label that is spread evenly over all words.
    """
    values = logits.astype(wide(logits.dtype))
    losses, _ = _losses(values, jax.nn.logsumexp(values, axis=-1), labels, label_smoothing)
    return (losses * _shares(labels, losses.dtype)).sum()


def head_loss(hidden: Array, weight: Array, bias: Array | None, labels: Array, label_smoothing: float = 0.0) -> Array:
    """Mean cross-entropy of `hidden @ weight.T + bias`, a float32 scalar, over labels that are not -100; 0 without any.

    Products are computed in the dtype of `hidden`, everything else in float32. The gradient is that of reverse mode, by
    `jax.grad` and its relatives; there is no forward mode.

    On several devices, the rows may be split over one axis of a mesh and the words over another. Under `jax.set_mesh`
    as many more rows are computed at a time as the mesh has devices to hold them.

    Args:
        hidden: states [B, T, D].
        weight: [V, D].
        bias: [V].
        labels: integers [B, T].
        label_smoothing: share of each label that is spread evenly over all words.
    """
    loss: Array = _head_loss(hidden, weight, bias, labels, label_smoothing)
    return loss


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _head_loss(hidden: Array, weight: Array, bias: Array | None, labels: Array, label_smoothing: float) -> Array:
    return _loss_and_gradients(hidden, weight, bias, labels, label_smoothing, (False, False, False))[0]


def _forward(hidden: Any, weight: Any, bias: Any, labels: Any, label_smoothing: float) -> tuple[Array, Gradients]:
    learnt = (hidden.perturbed, weight.perturbed, bias is not None and bias.perturbed)
    values = (hidden.value, weight.value, None if bias is None else bias.value, labels.value)
    return _loss_and_gradients(*values, label_smoothing, learnt)


def _backward(_: float, found: Gradients, of_loss: Any) -> tuple[Any, Any, Any, None]:
    if isinstance(of_loss, SymbolicZero):
        return None, None, None, None
    scaled = jax.tree.map(lambda gradient: gradient * of_loss.astype(gradient.dtype), found)
    return *scaled, None


_head_loss.defvjp(_forward, _backward, symbolic_zeros=True)


def _loss_and_gradients(
    hidden: Array,
    weight: Array,
    bias: Array | None,
    labels: Array,
    label_smoothing: float,
    learnt: tuple[bool, bool, bool],
) -> tuple[Array, Gradients]:
    rows, targets = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    shares = _shares(targets, wide(hidden.dtype))
    table, precise = weight.astype(hidden.dtype), shares.dtype

    def part(rows: Array, targets: Array, shares: Array) -> tuple[Array, Gradients]:
        """The loss of some rows, and its gradients."""
        logits = lax.dot_general(rows, table, _BOTH_SECOND, preferred_element_type=precise)
        if bias is not None:
            logits = logits + bias.astype(precise)[None]
        highest = logits.max(-1, keepdims=True)
        # Made once, for the sum and for the gradient: XLA would compute them again inside of either, slowly.
        powers = lax.optimization_barrier(jnp.exp(logits - highest))  # type: ignore[no-untyped-call]
        sums = powers.sum(-1, keepdims=True)
        losses, right = _losses(logits, (highest + jnp.log(sums))[:, 0], targets, label_smoothing)
        loss, (of_rows, of_weight, of_bias) = (losses * shares).sum(), learnt
        if not any(learnt):
            return loss, Gradients(None, None, None)
        wrong = powers / sums - label_smoothing / logits.shape[1]
        precise_gradient = jnp.where(right, wrong - (1.0 - label_smoothing), wrong) * shares[:, None]
        gradient = precise_gradient.astype(rows.dtype)
        return loss, Gradients(
            lax.dot_general(gradient, table, _SECOND_AND_FIRST) if of_rows else None,
            lax.dot_general(gradient, rows, _BOTH_FIRST, preferred_element_type=precise) if of_weight else None,
            precise_gradient.sum(0) if of_bias else None,
        )

    count = _parts(rows.shape[0], weight.shape[0])
    if count == 1:
        loss, found = part(rows, targets, shares)
    else:

        def one(carried: Any, several: Any) -> tuple[Any, Array | None]:
            loss, found = part(*several)
            return jax.tree.map(jnp.add, carried, (loss, found.weight, found.bias)), found.hidden

        kinds = jax.eval_shape(part, *(lax.slice_in_dim(x, 0, 1) for x in (rows, targets, shares)))
        sums = (kinds[0], kinds[1].weight, kinds[1].bias)
        start = jax.tree.map(lambda kind: jnp.zeros(kind.shape, kind.dtype), sums)
        several = [_split(x, count) for x in (rows, targets, shares)]
        (loss, of_weight, of_bias), of_rows = lax.scan(one, start, several)
        found = Gradients(None if of_rows is None else _joined(of_rows, rows.shape[0]), of_weight, of_bias)
    return loss, Gradients(
        None if found.hidden is None else found.hidden.reshape(hidden.shape),
        None if found.weight is None else found.weight.astype(weight.dtype),
        None if found.bias is None or bias is None else found.bias.astype(bias.dtype),
    )


def _losses(logits: Array, norms: Array, labels: Array, label_smoothing: float) -> tuple[Array, Array]:
    """The loss of each row [...] for the logarithm of its exponentials' sum [...], and where its label is [..., V]."""
    words = jnp.arange(logits.shape[-1], dtype=labels.dtype).reshape((1,) * labels.ndim + (-1,))
    # Looked up: compared as below, it would be one more pass over the logits, and XLA would hold them twice.
    chosen = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    losses = norms - (1.0 - label_smoothing) * chosen
    if label_smoothing:
        losses = losses - label_smoothing * logits.mean(-1)
    return losses, labels[..., None] == words


def _shares(labels: Array, dtype: Any) -> Array:
    """What each label counts for in the mean."""
    counted = (labels != -100).astype(dtype)
    return counted / jnp.maximum(counted.sum(), 1.0)


def _parts(rows: int, words: int) -> int:
    """How many parts the rows are computed in: such that none is filled up, if at most twice as many are even."""
    mesh = jax.sharding.get_abstract_mesh()
    fewest = max(-(-rows * words // (ELEMENTS * max(mesh.size, 1))), 1)
    return next((count for count in range(fewest, 2 * fewest + 1) if rows % count == 0), fewest)


def _split(values: Array, count: int) -> Array:
    """[R, ...] to [count, R / count, ...], each part with rows from everywhere: so all devices have some of each."""
    filled = jnp.pad(values, [(0, -values.shape[0] % count)] + [(0, 0)] * (values.ndim - 1))
    return filled.reshape(-1, count, *values.shape[1:]).swapaxes(0, 1)


def _joined(parts: Array, rows: int) -> Array:
    """The same turned around."""
    return parts.swapaxes(0, 1).reshape(-1, *parts.shape[2:])[:rows]
