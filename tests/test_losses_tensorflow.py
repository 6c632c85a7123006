"""The loss that is computed together with its gradient, some rows at a time, against the plain way, in TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

import seq2seq_models
from seq2seq_models.errors import InputError
from seq2seq_models.tensorflow import loss as room
from seq2seq_models.tensorflow.layers import gelu
from seq2seq_models.tensorflow.linear import LayerNorm
from seq2seq_models.tensorflow.loss import head_loss, language_modeling_loss

from .tiny import FAMILIES, settings
from .tiny_tensorflow import CAUSAL, FULL, LIBRARY_WARNINGS, near

pytestmark = LIBRARY_WARNINGS
V, D = 83, 7
WAYS: dict[str, Callable[[Any], Any]] = {
    "eager": lambda function: function,
    "graph": partial(tf.function, autograph=False),
    "unknown sizes": partial(
        tf.function,
        autograph=False,
        input_signature=[
            tf.TensorSpec([None, None, D]), tf.TensorSpec([V, D]), tf.TensorSpec([None, None], tf.int64),
        ],
    ),
    "XLA": partial(tf.function, autograph=False, jit_compile=True),
}  # fmt: skip


@pytest.fixture(params=[2**25, V * 4, 1])
def elements(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Logits that are there at once: all, those of four rows (so that the last part is filled up), those of one."""
    monkeypatch.setattr(room, "ELEMENTS", request.param)
    return int(request.param)


def inputs() -> tuple[Any, Any, Any, Any]:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, V, (3, 5))
    labels[0, 2:] = labels[2] = -100
    hidden, weight, bias = (tf.constant(draw.normal(size=shape), tf.float32) for shape in ((3, 5, D), (V, D), (V,)))
    return hidden, weight, bias, tf.constant(labels)


def pytorch(hidden: Any, weight: Any, bias: Any, labels: Any, smoothing: float) -> tuple[Any, Any, Any]:
    """The loss of PyTorch over all logits, and three times its gradient of states and weights."""
    states = [torch.tensor(one.numpy(), requires_grad=True) for one in (hidden, weight)]
    logits = torch.nn.functional.linear(*states, None if bias is None else torch.tensor(bias.numpy()))
    targets = torch.tensor(labels.numpy()).flatten()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets, label_smoothing=smoothing)
    return loss, *torch.autograd.grad(3 * loss, states)


def with_gradients(hidden: Any, weight: Any, labels: Any, bias: Any = None, smoothing: float = 0.0) -> Any:
    """Our loss, and three times its gradient of states and weights."""
    with tf.GradientTape() as tape:
        tape.watch([hidden, weight])
        loss = head_loss(hidden, weight, bias, labels, smoothing)
        more = 3 * loss
    return loss, *tape.gradient(more, [hidden, weight])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_value_and_gradients_are_pytorchs(elements: int, smoothing: float, way: str) -> None:
    hidden, weight, bias, labels = inputs()
    run = WAYS[way](lambda hidden, weight, labels: with_gradients(hidden, weight, labels, bias, smoothing))
    near(run(hidden, weight, labels), pytorch(hidden, weight, bias, labels, smoothing), 2e-6)
    logits = tf.einsum("btd,vd->btv", hidden, weight) + bias
    near(language_modeling_loss(logits, labels, smoothing), head_loss(hidden, weight, bias, labels, smoothing), 2e-6)
    nothing = run(hidden, weight, tf.fill(labels.shape, tf.constant(-100, tf.int64)))
    assert not any(tf.reduce_any(one != 0) for one in nothing)


def test_no_rows_at_all(elements: int) -> None:
    hidden, weight, _, labels = inputs()
    loss, of_hidden, of_weight = WAYS["unknown sizes"](lambda *x: with_gradients(*x))(hidden[:0], weight, labels[:0])
    assert loss == 0 and of_hidden.shape == (0, 5, D) and not tf.reduce_any(of_weight != 0)


def test_far_apart_logits_have_a_finite_loss(elements: int) -> None:
    hidden, weight, _, labels = inputs()
    expected = pytorch(hidden * 300, weight, None, labels, 0.1)
    assert expected[0] > 500
    near(with_gradients(hidden * 300, weight, labels, smoothing=0.1), expected)


@pytest.mark.parametrize("kind", [tf.bfloat16, tf.float16])
def test_half_precision(elements: int, kind: Any) -> None:
    """States in half precision, weights in float32: both gradients have their own dtype."""
    hidden, weight, bias, labels = inputs()
    hidden = tf.cast(hidden, kind)
    found = with_gradients(hidden, weight, labels, bias)
    assert [one.dtype for one in found] == [tf.float32, kind, tf.float32]
    expected = pytorch(tf.cast(hidden, tf.float32), weight, bias, labels, 0.0)
    for mine, theirs in zip(found, expected, strict=True):
        near(tf.cast(mine, tf.float32), theirs, 3e-2 if kind == tf.bfloat16 else 5e-3)


def most_rows(function: Any, *given: Any) -> int:
    """Rows over all words in the largest such tensor of a graph, its loops included."""
    graph = tf.function(function, autograph=False).get_concrete_function(*given).graph.as_graph_def(add_shapes=True)
    nodes = [node for part in (graph.node, *(one.node_def for one in graph.library.function)) for node in part]
    shapes = [[size.size for size in shape.dim] for node in nodes for shape in node.attr["_output_shapes"].list.shape]
    return max(int(np.prod(shape[:-1])) for shape in shapes if shape[-1:] == [V])


def test_logits_are_never_all_there(elements: int) -> None:
    hidden, weight, bias, labels = inputs()
    allowed = {2**25: 15, V * 4: 4, 1: 1}[elements]
    assert most_rows(partial(with_gradients, bias=bias), hidden, weight, labels) == allowed


# ---- models


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def made(family: str, head: str = FULL, **options: Any) -> Any:
    config = getattr(seq2seq_models, f"{family}Config")(**settings(family, dropout=0.0, **options))
    return getattr(seq2seq_models, f"TF{family}{head}")(config)


def batch(rows: int = 3, length: int = 6) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    labels = draw.integers(3, 80, (rows, length))
    labels[0, 3:], labels[1, 4:] = -100, 0
    mask = np.ones((rows, 9), np.int64)
    mask[1, 6:] = 0
    return {"input_ids": draw.integers(3, 80, (rows, 9)), "attention_mask": mask, "labels": labels}


def learnt(model: Any, loss: Callable[[], Any]) -> list[Any]:
    """A loss and its gradient of every weight, computed in a graph."""

    @partial(tf.function, autograph=False)
    def run() -> list[Any]:
        with tf.GradientTape() as tape:
            value = loss()
        found = tape.gradient(value, [one.value for one in model.trainable_variables])
        return [value, *(tf.convert_to_tensor(one) for one in found)]

    found: list[Any] = run()
    return found


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_has_one_loss(family: str, tied: bool) -> None:
    """That of its logits, of `call` and of `cross_entropy`, which passes over padding too; one gradient of all."""
    model, given = made(family, encoder_layers=1, decoder_layers=1, tie_word_embeddings=tied), batch()
    model.set_bias({"final_logits_bias": tf.linspace(-1.0, 1.0, V)[None]})
    inputs, labels = {**given}, given["labels"]
    del inputs["labels"]
    inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(np.where(labels == 0, -100, labels))
    kept = tf.constant(np.where(labels == 0, -100, labels))

    def of_logits(smoothing: float) -> Any:
        return language_modeling_loss(model(**inputs).logits, kept, smoothing)

    expected = learnt(model, lambda: of_logits(0.1))
    near(learnt(model, lambda: model.cross_entropy(**given, label_smoothing=0.1)), expected, 2e-6)
    near(model.cross_entropy(labels, 0.1, **inputs), expected[0], 2e-6)
    expected = learnt(model, lambda: of_logits(0.0))
    near(learnt(model, lambda: model(**given).loss), expected, 2e-6)
    near(model(**given).loss, expected[0], 2e-6)
    with pytest.raises(InputError, match="exactly one of `input_ids`"):
        model.cross_entropy(labels)


def test_a_loss_beside_logits_and_one_alone_make_graphs_of_their_own(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for logits gets them, and gradients flow through both."""
    monkeypatch.setattr(room, "ELEMENTS", V * 4)
    model, given = made(family, encoder_layers=1, decoder_layers=1), batch()

    def both(plain: bool) -> Any:
        out = model(**given)
        loss = model.hf_compute_loss(np.where(given["labels"] == 0, -100, given["labels"]), out.logits)
        return (loss if plain else out.loss) + tf.reduce_mean(tf.square(out.logits))

    near(learnt(model, lambda: both(False)), learnt(model, lambda: both(True)), 2e-6)
    assert most_rows(lambda: model.cross_entropy(**given)) == 4  # of 18
    assert most_rows(lambda: model(**given).logits) >= 18


def test_the_causal_model_has_it_too(family: str) -> None:
    model, labels = made(family, CAUSAL), batch()["labels"]
    ids, kept = np.maximum(labels, 3), np.where(labels == 0, -100, labels)
    expected = language_modeling_loss(model(ids).logits, kept, 0.1)
    near(model.cross_entropy(labels, 0.1, input_ids=ids), expected, 2e-6)


def test_dropout_is_on_when_training(family: str) -> None:
    model, given = made(family, activation_dropout=0.5), batch()
    still = [float(model.cross_entropy(**given)) for _ in range(2)]
    assert still[0] == still[1] != float(model.cross_entropy(**given, training=True))


# ---- derivatives that are written out


def test_the_derivative_of_gelu() -> None:
    x = np.concatenate([np.linspace(-9, 9, 400), [0.0, -30.0, 30.0]]).astype("float32")
    theirs = torch.tensor(x, requires_grad=True)
    out = torch.nn.functional.gelu(theirs)
    ours = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(ours)
        mine = gelu(ours)
    near(mine, out, 1e-6)
    near(tape.gradient(mine, ours), torch.autograd.grad(out.sum(), theirs)[0], 1e-6)


@pytest.mark.parametrize("shape", [(4, D), (2, 3, D)])
def test_the_derivative_of_a_layer_norm(shape: tuple[int, ...]) -> None:
    draw = np.random.default_rng(0)
    x, gamma, beta, of_out = (draw.normal(size=size).astype("float32") for size in (shape, D, D, shape))
    norm, theirs = LayerNorm(D), [torch.tensor(one, requires_grad=True) for one in (x, gamma, beta)]
    norm.gamma.assign(gamma)
    norm.beta.assign(beta)
    out = torch.nn.functional.layer_norm(theirs[0], (D,), *theirs[1:], eps=1e-5)
    ours = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(ours)
        mine = norm.call(ours)
    near(mine, out, 2e-6)
    found = tape.gradient(mine, [ours, norm.gamma.value, norm.beta.value], output_gradients=tf.constant(of_out))
    near(found, list(torch.autograd.grad(out, theirs, torch.tensor(of_out))), 3e-6)


def test_a_layer_norm_is_symbolic_too() -> None:
    x = keras.Input((D,))
    assert keras.Model(x, LayerNorm(D)(x))(np.ones((2, D), "float32")).shape == (2, D)
