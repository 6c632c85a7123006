"""What people train Flax models with takes ours as they are: TrainState, optax's wrappers, orbax, pmap; by value."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import jax_utils, serialization, traverse_util
from flax.core import freeze
from flax.training import checkpoints, common_utils
from flax.training.train_state import TrainState

import seq2seq_models

from .tiny import FAMILIES, settings
from .tiny_flax import near

RATE = 0.1


@pytest.fixture(params=FAMILIES, scope="module")
def model(request: pytest.FixtureRequest) -> Any:
    sizes = settings(request.param, dropout=0.0, encoder_layers=1, decoder_layers=1)
    config = getattr(seq2seq_models, f"{request.param}Config")(**sizes)
    return getattr(seq2seq_models, f"Flax{request.param}ForConditionalGeneration")(config)


def batch(rows: int = 4) -> dict[str, jax.Array]:
    draw = np.random.default_rng(0)
    shapes = {"input_ids": (rows, 9), "labels": (rows, 6)}
    return {name: jnp.asarray(draw.integers(3, 83, shape), jnp.int32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def gradient(model: Any) -> Any:
    """(parameters, batch) -> the loss and its gradient, compiled once for all tests."""
    return jax.jit(jax.value_and_grad(lambda params, batch: model.cross_entropy(**batch, params=params, train=True)))


def state_of(model: Any, optimizer: optax.GradientTransformation) -> Any:
    return TrainState.create(apply_fn=model.module.apply, params=model.params, tx=optimizer)


def same(one: Any, other: Any) -> None:
    """Bit for bit, whatever objects hold the leaves."""
    for mine, yours in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(mine, yours)


def all_near(one: Any, other: Any) -> None:
    jax.tree.map(near, one, other)


def descended(params: Any, gradient: Any, rate: float = RATE) -> Any:
    return jax.tree.map(lambda p, g: p - rate * g, params, gradient)


def test_a_train_state(model: Any, gradient: Any) -> None:
    state, given = state_of(model, optax.sgd(RATE)), batch()
    first, found = gradient(state.params, given)
    expected = descended(model.params, found)
    state = state.apply_gradients(grads=found)
    assert state.step == 1
    all_near(state.params, expected)
    assert gradient(state.params, given)[0] < first
    near(state.apply_fn({"params": state.params}, **given, method="cross_entropy"), gradient(state.params, given)[0])


def test_multi_steps_of_two_halves_are_one_of_the_whole(model: Any, gradient: Any) -> None:
    given = batch()
    whole = state_of(model, optax.adam(RATE, eps=1e-3)).apply_gradients(grads=gradient(model.params, given)[1])
    state = state_of(model, optax.MultiSteps(optax.adam(RATE, eps=1e-3), every_k_schedule=2))
    for half in (slice(0, 2), slice(2, 4)):
        same(state.params, model.params)
        part = {name: values[half] for name, values in given.items()}
        state = state.apply_gradients(grads=gradient(state.params, part)[1])
    all_near(state.params, whole.params)


def test_weight_decay_of_kernels_only(model: Any, gradient: Any) -> None:
    """Chosen by path, as the parameters are a nested dict."""
    marks = traverse_util.path_aware_map(lambda path, _: path[-1] in ("kernel", "embedding"), model.params)
    _, found = gradient(model.params, batch())
    decayed, plain = (
        state_of(model, optax.adamw(RATE, weight_decay=decay, mask=marks)).apply_gradients(grads=found).params
        for decay in (0.5, 0.0)
    )
    expected = jax.tree.map(lambda new, old, mark: new - RATE * 0.5 * old * mark, plain, model.params, marks)
    all_near(decayed, expected)
    assert 0 < sum(jax.tree.leaves(marks)) < len(jax.tree.leaves(marks))


def test_frozen_embeddings(model: Any, gradient: Any) -> None:
    labels = traverse_util.path_aware_map(lambda path, _: "still" if "embedding" in path else "moving", model.params)
    parts = {"still": optax.set_to_zero(), "moving": optax.sgd(RATE)}
    _, found = gradient(model.params, batch())
    params = state_of(model, optax.multi_transform(parts, labels)).apply_gradients(grads=found).params
    expected = descended(model.params, found)
    for path, leaf in traverse_util.flatten_dict(params).items():
        before, after = (traverse_util.flatten_dict(tree)[path] for tree in (model.params, expected))
        near(leaf, after) if "embedding" not in path else same(leaf, before)
    assert any("fc1" in path and leaf.any() for path, leaf in traverse_util.flatten_dict(found).items())


def test_a_learning_rate_that_is_set_by_hand(model: Any, gradient: Any) -> None:
    state = state_of(model, optax.inject_hyperparams(optax.sgd)(learning_rate=RATE))
    _, found = gradient(state.params, batch())
    state.opt_state.hyperparams["learning_rate"] = jnp.asarray(0.0)
    same(state.apply_gradients(grads=found).params, model.params)
    state.opt_state.hyperparams["learning_rate"] = jnp.asarray(0.5)
    all_near(state.apply_gradients(grads=found).params, descended(model.params, found, 0.5))


def two_updates(state: Any, gradient: Any) -> Any:
    for _ in range(2):
        state = state.apply_gradients(grads=gradient(state.params, batch())[1])
    return state


def test_orbax_keeps_a_train_state(model: Any, gradient: Any, tmp_path: Path) -> None:
    """What is trained after reading is what would have been trained without."""
    state = two_updates(state_of(model, optax.adamw(RATE)), gradient)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        kept = checkpointer.restore(tmp_path / "state", state_of(model, optax.adamw(RATE)))
    assert kept.step == 2
    same(kept, state)
    same(two_updates(kept, gradient), two_updates(state, gradient))


def test_orbax_manages_several(model: Any, gradient: Any, tmp_path: Path) -> None:
    with ocp.CheckpointManager(tmp_path, options=ocp.CheckpointManagerOptions(max_to_keep=1)) as manager:
        for step in (1, 2):
            params = jax.tree.map(partial(jnp.multiply, step), model.params)
            manager.save(step, args=ocp.args.StandardSave({"params": params}))
        manager.wait_until_finished()
        assert manager.all_steps() == [2]
        kept = manager.restore(2, args=ocp.args.StandardRestore({"params": model.params}))
    same(kept["params"], jax.tree.map(lambda p: p * 2, model.params))


def test_flax_writes_and_reads_it(model: Any, gradient: Any, tmp_path: Path) -> None:
    state = two_updates(state_of(model, optax.adam(RATE)), gradient)
    checkpoints.save_checkpoint_multiprocess(tmp_path, serialization.to_state_dict(state), step=2)
    kept = checkpoints.restore_checkpoint(tmp_path, state_of(model, optax.adam(RATE)))
    same(kept, state)
    read = serialization.from_bytes(model.params, serialization.to_bytes(state.params))
    same(read, state.params)


def test_frozen_dicts_are_parameters_too(model: Any, gradient: Any) -> None:
    frozen = freeze(model.params)
    loss, found = gradient(frozen, batch())
    assert isinstance(found, type(frozen))
    expected = gradient(model.params, batch())
    near(loss, expected[0])
    same(found.unfreeze(), expected[1])


def test_pmap_with_the_tools_of_the_examples_of_its_time(model: Any, gradient: Any) -> None:
    """`replicate`, `shard` and `lax.pmean`, on the one device there is."""

    def step(state: Any, batch: Any) -> Any:
        loss, found = jax.value_and_grad(lambda params: model.cross_entropy(**batch, params=params))(state.params)
        state = state.apply_gradients(grads=jax.lax.pmean(found, "batch"))
        return state, jax.lax.pmean({"loss": loss}, "batch")

    state = jax_utils.replicate(state_of(model, optax.sgd(RATE)))
    state, metrics = jax.pmap(step, "batch")(state, common_utils.shard(batch()))
    loss, found = gradient(model.params, batch())
    near(common_utils.get_metrics([metrics])["loss"], [loss])
    all_near(jax_utils.unreplicate(state).params, descended(model.params, found))


def test_what_was_trained_is_saved(model: Any, gradient: Any, tmp_path: Path) -> None:
    state = two_updates(state_of(model, optax.adam(RATE)), gradient)
    model.save_pretrained(tmp_path, params=state.params)
    same(type(model).from_pretrained(tmp_path).params, state.params)
