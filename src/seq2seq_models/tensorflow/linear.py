"""What the layers are made of: parts that are complete when they are made, linear maps and layer norms.

Letters in shapes: B batch, T positions, D model, F any width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from ..core.architecture import LAYER_NORM_EPSILON

Draw = Callable[[tuple[int, ...], str], Any]
"""(shape, dtype) -> first values of a variable."""


class Initial:
    """The first value of a variable: drawn, or from a checkpoint if `source` is set before the variable asks."""

    def __init__(self, draw: Draw) -> None:
        self.source = draw

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        return self.source(tuple(shape), keras.backend.standardize_dtype(dtype))


def zeros(shape: tuple[int, ...], dtype: str) -> Any:
    """Zeros, for biases."""
    return ops.zeros(shape, dtype)


def ones(shape: tuple[int, ...], dtype: str) -> Any:
    """Ones, for the scale of a norm."""
    return ops.ones(shape, dtype)


def normal(std: float, zero_row: int | None = None) -> Draw:
    """Draws from a normal distribution around zero; one row may stay zero."""

    def draw(shape: tuple[int, ...], dtype: str) -> Any:
        values = keras.random.normal(shape, stddev=std, dtype="float32")
        if zero_row is not None:
            values = ops.where(ops.arange(shape[0])[:, None] == zero_row, 0.0, values)
        return ops.cast(values, dtype)

    return draw


class Variables:
    """What layers and models share: variables that take their first value where `initials` says.

    Keras never casts them behind the back of what computes with them; that casts them to the dtype of its input.
    """

    initials: dict[str, Initial]

    @property
    def inner(self) -> dict[str, Any]:
        """Options that the parts inside share with this one."""
        return {"dtype": self.dtype_policy}  # type: ignore[attr-defined]

    def variable(self, name: str, shape: tuple[int, ...], draw: Draw, trainable: bool = True) -> Any:
        """A new variable; its first value is found under its name in `initials`."""
        initial = self.initials[name] = Initial(draw)
        return self.add_weight(  # type: ignore[attr-defined]
            shape=shape, initializer=initial, name=name, trainable=trainable, autocast=False
        )

    def replace(self, name: str, values: Any) -> None:
        """Put a variable with these values, of any shape, in the place of the one of this name."""
        trainable = getattr(self, name).trainable
        delattr(self, name)
        fresh = self.variable(name, tuple(values.shape), lambda shape, dtype: ops.cast(values, dtype), trainable)
        setattr(self, name, fresh)


def apply(layer: Any, *args: Any, **kwargs: Any) -> Any:
    """layer(...); what Keras does around a call is left out for this library's own layers, which need none of it."""
    is_own = f"{type(layer).__module__}.".startswith("seq2seq_models.")
    return layer.call(*args, **kwargs) if is_own else layer(*args, **kwargs)


class Part(Variables, keras.layers.Layer):  # type: ignore[misc]
    """A layer whose variables are made with it: nothing waits for an input to be built."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.initials = {}
        self.built = True


class Linear(Part):
    """x @ kernel + bias, with a kernel [in, out].

    Args:
        width: of the input.
        out: width of the output.
        std: standard deviation of the fresh kernel.
        use_bias: whether there is a bias [out].
    """

    def __init__(self, width: int, out: int, std: float = 0.02, use_bias: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.out = out
        self.kernel = self.variable("kernel", (width, out), normal(std))
        self.bias = self.variable("bias", (out,), zeros) if use_bias else None

    def call(self, hidden: Any) -> Any:
        """[..., in] -> [..., out], in the dtype of the input."""
        shape = ops.shape(hidden)
        # Two dimensions: a product over a batch would multiply, and differentiate, row by row.
        flat = ops.reshape(hidden, (-1, shape[-1])) if len(shape) != 2 else hidden
        kernel = ops.cast(self.kernel, hidden.dtype)
        if self.bias is None:
            out = ops.matmul(flat, kernel)
        else:
            out = _affine(flat, kernel, ops.cast(self.bias, hidden.dtype))
        return out if len(shape) == 2 else ops.reshape(out, (*shape[:-1], self.out))


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _affine(rows: Any, kernel: Any, bias: Any) -> tuple[Any, Callable[[Any], Any]]:
    """rows @ kernel + bias; its derivative is TensorFlow's own but for the kernel of one product.

    What `matmul` does with a transposed second factor on several threads of a CPU takes 1.2 to 1.5 times as long as
    what `einsum` does.
    """

    def gradient(of_out: Any) -> Any:
        of_rows = tf.einsum("no,io->ni", of_out, kernel)
        return of_rows, tf.matmul(rows, of_out, transpose_a=True), tf.raw_ops.BiasAddGrad(out_backprop=of_out)

    return tf.nn.bias_add(tf.matmul(rows, kernel), bias), gradient


class LayerNorm(Part):
    """Layer norm over the last axis with the checkpoints' epsilon, computed in float32.

    Source: Ba et al. 2016, section 3.
    """

    def __init__(self, width: int, **options: Any) -> None:
        super().__init__(**options)
        self.gamma = self.variable("gamma", (width,), ones)
        self.beta = self.variable("beta", (width,), zeros)

    def call(self, hidden: Any) -> Any:
        """[..., D] -> [..., D], in the dtype of the input."""
        full, gamma, beta = (ops.cast(one, "float32") for one in (hidden, self.gamma, self.beta))
        return ops.cast(_normed(full, gamma, beta), hidden.dtype)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _normed(hidden: Any, gamma: Any, beta: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Layer norm, and its derivative: shorter, and of fewer arrays, than that of each of its operations."""
    centred = hidden - tf.reduce_mean(hidden, axis=-1, keepdims=True)
    scale = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True) + LAYER_NORM_EPSILON)
    unit = centred * scale

    def gradient(of_out: Any) -> Any:
        of_unit = of_out * gamma
        along = unit * tf.reduce_mean(of_unit * unit, axis=-1, keepdims=True)
        of_hidden = scale * (of_unit - tf.reduce_mean(of_unit, axis=-1, keepdims=True) - along)
        rows = list(range(len(of_out.shape) - 1))
        return of_hidden, tf.reduce_sum(of_out * unit, rows), tf.reduce_sum(of_out, rows)

    return unit * gamma + beta, gradient


def dropout(values: Any, rate: float, seeds: Any, training: bool) -> Any:
    """The values, a part of them zeroed and the rest scaled up if `training`."""
    return keras.random.dropout(values, rate, seed=seeds) if training and rate > 0 else values
