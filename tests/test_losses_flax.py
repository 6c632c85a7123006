"""The loss that is computed together with its gradient, some rows at a time, against the plain way, in JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import seq2seq_models
from seq2seq_models.errors import InputError
from seq2seq_models.flax import loss as room
from seq2seq_models.flax.loss import head_loss, language_modeling_loss

from .tiny import FAMILIES, ours_like, reference, settings
from .tiny_flax import CAUSAL, FULL, near, ours_of

V, D = 83, 7


@pytest.fixture(params=[2**24, 240])
def elements(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Logits that are there at once: all, or those of three of 15 rows, in six parts that have to be filled up."""
    monkeypatch.setattr(room, "ELEMENTS", request.param)
    return int(request.param)


def inputs() -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, V, (3, 5))
    labels[0, 2:] = -100
    labels[2] = -100
    hidden, weight, bias = (jnp.asarray(draw.normal(size=shape), jnp.float32) for shape in ((3, 5, D), (V, D), (V,)))
    return hidden, weight, bias, jnp.asarray(labels)


def plain(hidden: Any, weight: Any, bias: Any, labels: Any, smoothing: float = 0.0) -> Any:
    """optax's losses over all logits, with PyTorch's meaning of label smoothing."""
    logits = (hidden @ weight.T).astype(jnp.float32) + (0 if bias is None else bias)
    right = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    counted = labels != -100
    return (optax.softmax_cross_entropy(logits, right) * counted).sum() / counted.sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("with_bias", [False, True])
def test_value_and_gradients(elements: int, smoothing: float, with_bias: bool) -> None:
    hidden, weight, bias, labels = inputs()
    given = (hidden, weight, bias if with_bias else None)
    kept = labels
    near(language_modeling_loss(hidden @ weight.T, kept, smoothing), plain(hidden, weight, None, kept, smoothing))
    which = (0, 1, 2) if with_bias else (0, 1)
    ours, theirs = (
        jax.value_and_grad(lambda *x, one=one: 3 * one(*x, kept, smoothing), which)(*given)
        for one in (head_loss, plain)
    )
    near(head_loss(*given, kept, smoothing), plain(*given, kept, smoothing))
    near(ours, theirs)


def test_it_is_pytorch_s(elements: int) -> None:
    hidden, weight, bias, labels = inputs()
    states = [torch.tensor(np.asarray(one), requires_grad=True) for one in (hidden, weight, bias)]
    logits = torch.nn.functional.linear(*states).flatten(0, 1)
    theirs = torch.nn.functional.cross_entropy(
        logits, torch.tensor(np.asarray(labels)).long().flatten(), label_smoothing=0.1
    )
    loss, found = jax.value_and_grad(head_loss, (0, 1, 2))(hidden, weight, bias, labels, 0.1)
    near(loss, theirs)
    near(found, list(torch.autograd.grad(theirs, states)))


@pytest.mark.parametrize("learnt", [(0,), (1,), (2,), (0, 2)])
def test_only_what_is_learnt_has_a_gradient(elements: int, learnt: tuple[int, ...]) -> None:
    """A frozen embedding costs no product."""
    given = inputs()
    one = lambda loss: jax.grad(lambda *x: loss(*x, given[3]), learnt)  # noqa: E731
    near(one(head_loss)(*given[:3]), one(plain)(*given[:3]))
    if elements > V * 15:
        products = str(jax.make_jaxpr(one(head_loss))(*given[:3])).count("dot_general")
        assert products == 1 + (0 in learnt) + (1 in learnt)


def test_transformations(elements: int) -> None:
    """jit, remat, vmap over several inputs, and a derivative of the derivative."""
    hidden, weight, bias, labels = inputs()
    ours, theirs = (lambda x, one=one: one(x, weight, bias, labels) for one in (head_loss, plain))
    near(jax.jit(jax.grad(ours))(hidden), jax.grad(theirs)(hidden))
    near(jax.grad(jax.checkpoint(ours))(hidden), jax.grad(theirs)(hidden))
    several = jnp.stack([hidden, 2 * hidden])
    near(jax.vmap(jax.grad(ours))(several), jax.vmap(jax.grad(theirs))(several))
    norm = lambda one: jax.grad(lambda x: jnp.square(jax.grad(one)(x)).sum())  # noqa: E731
    near(norm(ours)(hidden), norm(theirs)(hidden))


def test_far_apart_logits_have_a_finite_loss(elements: int) -> None:
    hidden, weight, _, labels = inputs()
    loss, gradient = jax.value_and_grad(head_loss)(hidden * 300, weight, None, labels)
    assert loss > 500
    near(loss, plain(hidden * 300, weight, None, labels))
    near(gradient, jax.grad(plain)(hidden * 300, weight, None, labels))


def test_without_labels_the_loss_is_zero(elements: int) -> None:
    hidden, weight, bias, labels = inputs()
    loss, gradients = jax.value_and_grad(head_loss, (0, 1))(hidden, weight, bias, jnp.full_like(labels, -100))
    assert loss == 0 and not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16])
def test_half_precision(elements: int, kind: Any) -> None:
    """States in half precision, weights in float32: both gradients have their own dtype."""
    hidden, weight, bias, labels = inputs()
    hidden = hidden.astype(kind)
    loss, found = jax.value_and_grad(head_loss, (0, 1))(hidden, weight, bias, labels)
    same = hidden.astype(jnp.float32), weight.astype(kind).astype(jnp.float32), bias, labels
    assert loss.dtype == jnp.float32
    near(loss, plain(*same))
    assert [gradient.dtype for gradient in found] == [kind, jnp.float32]
    for mine, theirs in zip(found, jax.grad(plain, (0, 1))(*same), strict=True):
        near(mine.astype(jnp.float32), theirs, 3e-3)


def test_strict_modes(elements: int) -> None:
    given = inputs()
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"), jax.debug_nans(True):
        jax.block_until_ready(jax.jit(jax.grad(head_loss, (0, 1, 2)), static_argnums=4)(*given, 0.1))


def most_logits(function: Any, *given: Any) -> int:
    """Rows over all words in the largest such array that a function makes, inside of loops too."""

    def rows(jaxpr: Any) -> list[int]:
        shapes = [one.aval.shape for step in jaxpr.eqns for one in step.outvars]
        inner = [value for step in jaxpr.eqns for value in jax.tree.leaves(tuple(step.params.values()))]
        deeper = [count for value in inner if hasattr(value, "eqns") for count in rows(getattr(value, "jaxpr", value))]
        return deeper + [int(np.prod(shape[:-1])) for shape in shapes if shape[-1:] == (V,)]

    return max(rows(jax.make_jaxpr(function)(*given).jaxpr))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def made(family: str, head: str = FULL, **options: Any) -> Any:
    config = getattr(seq2seq_models, f"{family}Config")(**settings(family, dropout=0.0, **options))
    return getattr(seq2seq_models, f"Flax{family}{head}")(config)


def batch(rows: int = 3, length: int = 6) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    labels = draw.integers(3, 80, (rows, length))
    labels[0, 3:] = -100
    mask = np.ones((rows, 9), np.int64)
    mask[1, 6:] = 0
    return {"input_ids": draw.integers(3, 80, (rows, 9)), "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": False}])
def test_a_model_has_one_loss(family: str, options: dict[str, Any]) -> None:
    """That of its logits, of `cross_entropy`, and of the module; one gradient, of all parameters."""
    model, given = made(family, encoder_layers=1, decoder_layers=1, **options), batch()
    params = dict(model.params, final_logits_bias=jnp.linspace(-1, 1, V)[None])
    target = np.full_like(given["labels"], model.config.pad_token_id)
    target[:, 0] = model.config.decoder_start_token_id
    target[:, 1:] = np.where(given["labels"][:, :-1] == -100, model.config.pad_token_id, given["labels"][:, :-1])
    arrays = {name: jnp.asarray(value, jnp.int32) for name, value in given.items()}

    def of_logits(params: Any) -> Any:
        logits = model(given["input_ids"], given["attention_mask"], target, params=params).logits
        return language_modeling_loss(logits, arrays["labels"], 0.1)

    losses = (
        of_logits,
        lambda params: model.cross_entropy(**given, label_smoothing=0.1, params=params),
        lambda params: model.cross_entropy(**given, label_smoothing=0.1, params=params, decoder_input_ids=target),
        lambda params: model.module.apply({"params": params}, **arrays, label_smoothing=0.1, method="cross_entropy"),
        lambda params: model.cross_entropy(**arrays, label_smoothing=0.1, params=params),
    )
    expected, *others = jax.jit(lambda params: [jax.value_and_grad(one)(params) for one in losses])(params)
    for found in others:
        jax.tree.map(near, found, expected)
        assert not found[1]["final_logits_bias"].any()


@pytest.mark.reference
def test_it_is_the_loss_of_pytorch(family: str) -> None:
    theirs = reference(family)
    model, in_torch, given = ours_of(theirs, family), ours_like(theirs), batch()
    for smoothing in (0.0, 0.1):
        expected = in_torch.cross_entropy(
            label_smoothing=smoothing, **{name: torch.from_numpy(value) for name, value in given.items()}
        )
        near(model.cross_entropy(**given, label_smoothing=smoothing), expected)


def test_logits_are_never_all_there(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ELEMENTS", V * 4)
    model, given = made(family, encoder_layers=1, decoder_layers=1), batch(rows=24, length=20)
    assert most_logits(jax.grad(lambda params: model.cross_entropy(**given, params=params)), model.params) == 4
    whole = lambda params: model(given["input_ids"], params=params).logits.sum()  # noqa: E731
    assert most_logits(jax.grad(whole), model.params) == 24 * 9


@pytest.mark.parametrize(
    "rows, parts", [(480, 120), (479, 120), (7, 2), (8, 2), (4, 1), (5, 2), (13, 4), (22, 11), (23, 6)]
)
def test_parts_are_even_where_that_is_possible(rows: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ELEMENTS", V * 4)
    assert room._parts(rows, V) == parts


def test_the_causal_model_has_it_too() -> None:
    model, labels = made("Pegasus", CAUSAL), batch()["labels"]
    ids = np.maximum(labels, 3)
    memory = np.random.default_rng(2).normal(size=(3, 4, 24)).astype(np.float32)
    seen = {"encoder_hidden_states": memory, "encoder_attention_mask": np.array([[1, 1, 1, 0]] * 3)}
    for more in ({}, seen):
        expected = language_modeling_loss(model(ids, **more).logits, jnp.asarray(labels), 0.1)
        near(model.cross_entropy(labels, 0.1, input_ids=ids, **more), expected)


def test_dropout_follows_its_key(family: str) -> None:
    config = getattr(seq2seq_models, f"{family}Config")(**settings(family, dropout=0.3))
    model, given = getattr(seq2seq_models, f"Flax{family}{FULL}")(config), batch()
    drawn = [float(model.cross_entropy(**given, train=True, dropout_rng=jax.random.key(seed))) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(InputError, match="`dropout_rng` must be a key"):
        model.cross_entropy(**given, train=True)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": np.full((3, 6), 83)}, "token ids must be between 0 and 82"),
        ({"labels": np.full((3, 6), 1.0)}, "`labels` must be integers"),
        ({"labels": np.full((3, 38), 5)}, "at most 37 positions"),
        ({"labels": np.full(3, 5)}, "`labels` must have 2 dimensions"),
        ({"labels": np.full((2, 6), 5)}, "`decoder_input_ids` must have as many rows as `input_ids`, 3, got 2"),
        ({"decoder_input_ids": np.full((3, 5), 5)}, r"`labels` must be \[3, 5\] as `decoder_input_ids`, got \[3, 6\]"),
        ({"attention_mask": np.ones((3, 4))}, r"`attention_mask` must be \[3, 9\]"),
    ],
)
def test_what_does_not_fit_is_said(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made("Pegasus").cross_entropy(**{**batch(), **change})
