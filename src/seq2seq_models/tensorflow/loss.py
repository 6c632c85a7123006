"""The cross-entropy of a language model, from the states under its head: the part of a training step that is largest.

Logits over 55,000 words take far more memory than everything else that a step computes, and the usual way keeps several
copies of them. Here the loss and its gradient come from one kernel that may write over the logits, and where there are
many rows they are made some at a time, with their gradient while they are there; no product is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import ops

ELEMENTS = 2**25
"""Logits that are there at once, in elements: about as many as there are weights in a large head."""


def language_modeling_loss(logits: Any, labels: Any, label_smoothing: float = 0.0, weights: Any = None) -> Any:
    """Mean cross-entropy, a float32 scalar whatever the logits' dtype, over labels that are not -100.

    Args:
        logits: [B, T, V].
        labels: int [B, T].
        label_smoothing: share of each label that is spread evenly over all words.
        weights: float [B] or [B, T], multiplied onto the terms; the divisor stays their number.
    """
    values = ops.cast(logits, "float32")
    counted = ops.not_equal(labels, -100)
    safe = ops.where(counted, labels, ops.zeros_like(labels))
    terms = ops.sparse_categorical_crossentropy(safe, values, from_logits=True)
    if label_smoothing:
        evenly = ops.logsumexp(values, axis=-1) - ops.mean(values, axis=-1)
        terms = (1 - label_smoothing) * terms + label_smoothing * evenly
    if weights is not None:
        weights = ops.cast(weights, "float32")
        terms = terms * (weights if len(weights.shape) > 1 else weights[:, None])
    total = ops.sum(ops.where(counted, terms, ops.zeros_like(terms)))
    # Differs from transformers 4.57.6: without any label the loss is 0, not NaN, which would end a training.
    return total / ops.maximum(ops.sum(ops.cast(counted, "float32")), 1.0)


def head_loss(hidden: Any, weight: Any, bias: Any, labels: Any, label_smoothing: float = 0.0) -> Any:
    """Mean cross-entropy of `hidden @ weight.T + bias`, a float32 scalar; it has first derivatives only.

    Args:
        hidden: states [B, T, D]; products are computed in their dtype, sums of them in float32.
        weight: [V, D].
        bias: [V] or None, without a gradient.
        labels: int [B, T], -100 where a place does not count.
        label_smoothing: share of each label that is spread evenly over all words.
    """
    part = _Part(bias, label_smoothing)
    targets = tf.reshape(tf.convert_to_tensor(labels), (-1,))
    count = tf.maximum(tf.reduce_sum(tf.cast(targets != -100, tf.float32)), 1.0)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def mean(rows: Any, weight: Any) -> tuple[Any, Callable[[Any], Any]]:
        # Nothing inside is to be recorded: the gradient is known.
        total, gradients = _summed(part, tf.stop_gradient(rows), tf.stop_gradient(weight), targets)

        def gradient(of_loss: Any) -> Any:
            of_rows, of_weight = gradients(of_loss / count)
            return tf.cast(of_rows, rows.dtype), tf.cast(of_weight, weight.dtype)

        return total / count, gradient

    rows = tf.reshape(hidden, (-1, hidden.shape[-1]))
    return mean(rows, tf.convert_to_tensor(weight))


class _Part:
    """The loss of some rows, and the gradient of their logits."""

    def __init__(self, bias: Any, label_smoothing: float) -> None:
        self.bias, self.label_smoothing = bias, label_smoothing

    def loss(self, rows: Any, weight: Any, targets: Any) -> tuple[Any, Any]:
        """Summed loss and, for the sum, the gradient of the logits float32 [N, V]; of rows without a label too."""
        # einsum, not matmul: see `_affine` in linear.py.
        logits = tf.einsum("nd,vd->nv", rows, tf.cast(weight, rows.dtype))
        if self.bias is not None:
            logits = tf.nn.bias_add(logits, tf.cast(self.bias, logits.dtype))
        values, counted = tf.cast(logits, tf.float32), targets != -100
        safe, share = tf.where(counted, targets, tf.zeros_like(targets)), self.label_smoothing
        top, right = tf.reduce_max(values, axis=1), tf.gather(values, safe, batch_dims=1)
        wanted = (1 - share) * right + share * tf.reduce_mean(values, axis=1) if share else right
        # In this order each step may write over what the one before it has made.
        with tf.control_dependencies([top, wanted]):
            gradient = tf.nn.softmax(values)
        # The largest is e to the top over the sum of all, which saves their exponentials another time.
        losses = top - tf.math.log(tf.reduce_max(gradient, axis=1)) - wanted
        places = tf.stack([tf.range(tf.shape(safe, safe.dtype)[0]), safe], axis=1)
        with tf.control_dependencies([losses]):
            gradient = tf.tensor_scatter_nd_sub(gradient, places, tf.fill(tf.shape(right), 1.0 - share))
        if share:
            gradient -= share / weight.shape[0]
        return tf.reduce_sum(tf.where(counted, losses, 0.0)), gradient

    def gradients(self, rows: Any, weight: Any, targets: Any, gradient: Any, scale: Any = 1.0) -> tuple[Any, Any]:
        """The gradients of rows [N, D] and weight [V, D], times a scale, for that of the logits."""
        gradient, counted = tf.cast(gradient, rows.dtype), (targets != -100)[:, None]
        counts = tf.cast(tf.where(counted, scale, 0.0), rows.dtype)  # onto what is small: no row of logits is touched
        of_rows = counts * tf.matmul(gradient, tf.cast(weight, rows.dtype))
        return of_rows, tf.matmul(gradient, counts * rows, transpose_a=True)


def _summed(part: _Part, rows: Any, weight: Any, targets: Any) -> tuple[Any, Callable[[Any], list[Any]]]:
    """The summed loss, and what gives the gradients of rows and weight, times a scale."""
    number, most = rows.shape[0], max(ELEMENTS // weight.shape[0], 1)
    if number is None or number > most:
        total, *gradients = _block_by_block(part, rows, weight, targets, most)
        return total, lambda scale: [tf.cast(one, tf.float32) * scale for one in gradients]
    total, gradient = part.loss(rows, weight, targets)
    return total, lambda scale: list(part.gradients(rows, weight, targets, gradient, scale))


def _block_by_block(part: _Part, rows: Any, weight: Any, targets: Any, most: int) -> tuple[Any, Any, Any]:
    """The summed loss with the gradients of rows and weight, from at most `most` rows at a time."""
    number = rows.shape[0]
    filled = tf.maximum(tf.shape(rows)[0], 1) if number is None else number
    blocks = -(-filled // most)
    size = -(-filled // blocks)
    missing = blocks * size - (tf.shape(rows)[0] if number is None else number)
    rows_of = tf.reshape(tf.pad(rows, [[0, missing], [0, 0]]), (blocks, size, rows.shape[1]))
    targets_of = tf.reshape(tf.pad(targets, [[0, missing]], constant_values=-100), (blocks, size))

    def body(at: Any, total: Any, of_rows: Any, of_weight: Any) -> tuple[Any, ...]:
        some, some_targets = tf.gather(rows_of, at), tf.gather(targets_of, at)
        loss, gradient = part.loss(some, weight, some_targets)
        for_rows, for_weight = part.gradients(some, weight, some_targets, gradient)
        return (
            at + 1,
            total + loss,
            tf.tensor_scatter_nd_update(of_rows, [[at]], for_rows[None]),
            of_weight + tf.cast(for_weight, tf.float32),
        )

    first = (0, 0.0, tf.zeros_like(rows_of), tf.zeros(weight.shape))
    # One at a time, or all blocks' logits would be there at once.
    _, total, of_rows, of_weight = tf.while_loop(
        lambda at, *_: at < blocks, body, first, parallel_iterations=1, maximum_iterations=blocks
    )
    return total, tf.reshape(of_rows, (-1, rows.shape[1]))[: tf.shape(rows)[0]], of_weight
