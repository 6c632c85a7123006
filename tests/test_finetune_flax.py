"""examples/finetune_flax.py: its updates by value, its options, kills, and several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from finetune_flax import FlaxLearner
from finetuning.arguments import Settings
from finetuning.training import prepare
from seq2seq_models import AutoTokenizer, FlaxPegasusForConditionalGeneration, PegasusConfig
from seq2seq_models.bundled import demo_checkpoint

from .finetuning_runs import (
    EXAMPLES,
    SHORT,
    free_port,
    killed_and_continued,
    run,
    same_histories,
    same_weights,
    together,
    words,
)
from .tiny import SIZES
from .tiny_flax import near

SCRIPT = "finetune_flax.py"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Pegasus with the bundled tokenizer, and a bias on its logits, which is not to be trained."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(demo_checkpoint("pegasus-demo"))
    sizes = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 256, "decoder_layers": 2}
    model = FlaxPegasusForConditionalGeneration(PegasusConfig(**sizes))
    bias = jnp.linspace(-1, 1, len(tokenizer))[None]
    model.save_pretrained(folder, params={**model.params, "final_logits_bias": bias})
    tokenizer.save_pretrained(folder)
    return folder


def learner(tiny: Path, folder: Path, **options: Any) -> Any:
    given = {**SHORT, "model": str(tiny), "dropout": 0.0, "output": folder, **options}
    given |= {name: str(given[name]) for name in ("train", "validation")}
    return FlaxLearner(Settings(**given))


def stepped(made: Any, count: int = 2) -> list[tuple[float, float]]:
    """Losses and gradient norms of the first updates, each of two batches."""
    task = prepare(made.settings, made.model)
    found = []
    for number in range(count):
        several = [task.batch(task.training, list(range(at, at + 4))) for at in (8 * number, 8 * number + 4)]
        found.append(made.step(several, sum(one.labels for one in several), 1e-3, number))
    return found


def by_hand(made: Any, smoothing: float, clip: float, count: int = 2) -> tuple[list[tuple[float, float]], Any]:
    """The same with optax's loss, optimizer and clipping, over all examples of an update; and the parameters."""
    task, model, params = prepare(made.settings, made.model), made.model, made.params
    trained = {name: name != "final_logits_bias" for name in params}
    adam = optax.adamw(1e-3, weight_decay=made.settings.weight_decay, mask=trained)
    optimizer = optax.chain(optax.clip_by_global_norm(clip), adam)

    @jax.jit
    def step(params: Any, state: Any, ids: Any, mask: Any, target: Any, labels: Any) -> Any:
        def loss(params: Any) -> Any:
            logits = model(ids, mask, target, params=params).logits
            right = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
            return (optax.softmax_cross_entropy(logits, right) * (labels != -100)).sum() / (labels != -100).sum()

        value, gradient = jax.value_and_grad(loss)(params)
        changes, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, changes), state, value, optax.tree.norm(gradient)

    found, state = [], optimizer.init(params)
    for number in range(count):
        rows = task.training[8 * number : 8 * number + 8]
        ids, mask = (np.zeros((8, 160), np.int32) for _ in range(2))
        labels, target = np.full((8, 64), -100, np.int32), np.zeros((8, 64), np.int32)
        for place, one in enumerate(rows):
            ids[place, : len(one.source)], mask[place, : len(one.source)] = one.source, 1
            labels[place, : len(one.target)] = one.target
            target[place, 1 : len(one.target)] = one.target[:-1]
        target[:, 0] = model.config.decoder_start_token_id
        params, state, loss, norm = step(params, state, ids, mask, target, labels)
        found.append((float(loss), float(norm)))
    return found, params


@pytest.mark.parametrize("smoothing, clip, decay", [(0.0, 1e9, 0.0), (0.2, 0.5, 0.1)])
def test_an_update_is_that_of_plain_optax(
    smoothing: float, clip: float, decay: float, tiny: Path, tmp_path: Path
) -> None:
    made = learner(tiny, tmp_path, label_smoothing=smoothing, clip=clip, weight_decay=decay)
    bias = np.asarray(made.params["final_logits_bias"])
    expected, params = by_hand(made, smoothing, clip)
    np.testing.assert_allclose(stepped(made), expected, rtol=1e-5)
    # Adam divides by the root of a gradient's square: where that is nearly 0, rounding is all there is of it.
    jax.tree.map(lambda mine, yours: near(mine, yours, 1e-4), made.params, params)
    np.testing.assert_array_equal(made.params["final_logits_bias"], bias)


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[tuple[float, float]]:
    """The updates without any option."""
    return stepped(learner(tiny, tiny))


def test_checkpointing_changes_no_update(expected: Any, tiny: Path, tmp_path: Path) -> None:
    made = learner(tiny, tmp_path, gradient_checkpointing=True)
    np.testing.assert_allclose(stepped(made), expected, rtol=1e-6)
    assert "remat" in str(made.update.trace(*traced(made)).jaxpr)


def traced(made: Any) -> tuple[Any, ...]:
    task = prepare(made.settings, made.model)
    batches = made.arrays([task.batch(task.training, [0, 1, 2, 3])])
    return made.params, made.state, batches, np.float32(9), np.float32(1e-3), np.int32(0)


def test_bfloat16_is_close_and_keeps_float32_weights(expected: Any, tiny: Path, tmp_path: Path) -> None:
    made = learner(tiny, tmp_path, precision="bfloat16")
    found = stepped(made)
    np.testing.assert_allclose(found, expected, rtol=3e-2)
    assert found != expected
    assert {leaf.dtype.name for leaf in jax.tree.leaves(made.params)} == {"float32"}


def test_adafactor_keeps_rows_and_columns_only(tiny: Path, tmp_path: Path) -> None:
    made = learner(tiny, tmp_path, optimizer="adafactor")
    (before, _), *_ = stepped(made)
    (after, _), *_ = stepped(made)
    assert after < before
    assert made.state[0].v_row["model"]["shared"]["embedding"].shape == (24,)


@pytest.mark.heavy
def test_dropout_is_drawn_for_each_update(tiny: Path, tmp_path: Path) -> None:
    found = []
    for seed, numbers in ((1, (0, 0, 1)), (2, (0,))):
        made = learner(tiny, tmp_path, dropout=0.3, seed=seed)
        batch = prepare(made.settings, made.model)
        batch = batch.batch(batch.training, [0, 1, 2, 3])
        for number in numbers:
            params, state = (jax.tree.map(jnp.copy, one) for one in (made.params, made.state))
            found.append(made.step([batch], batch.labels, 1e-3, number)[0])
            made.params, made.state = params, state
    assert found[0] == found[1] and len(set(found)) == 3


def test_texts_and_losses_are_the_models(tiny: Path, tmp_path: Path) -> None:
    made = learner(tiny, tmp_path, beams=2)
    task = prepare(made.settings, made.model)
    batch = task.batch(task.validation, [2, 0, 1])
    source = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
    ids = made.model.generate(**source, params=made.params, num_beams=2, max_new_tokens=8).sequences
    assert made.generate(batch) == ids.tolist()
    near(made.loss(batch), made.model.cross_entropy(**batch.inputs, params=made.params) * batch.labels)


@pytest.mark.parametrize("options", [{"shard_model": 3}, {"shard_model": 2}])
def test_devices_that_cannot_be_shared_are_named(options: dict[str, int], tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--shard-model must divide the number of devices, 1"):
        learner(tiny, tmp_path, **options)


@pytest.fixture
def compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes that a test starts keep on the disk what they have compiled."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


@pytest.mark.heavy
def test_killed_and_continued(tmp_path: Path, compiled_once: None) -> None:
    killed_and_continued(SCRIPT, tmp_path, dropout=0.1, accumulation=2)


@pytest.mark.heavy
def test_two_processes_are_as_one(tmp_path: Path, compiled_once: None) -> None:
    """With a small learning rate: Adam makes steps of full size from a gradient that is nothing but rounding."""
    path, options = str(EXAMPLES / SCRIPT), {"dropout": 0.0, "max_steps": 6, "learning_rate": 1e-4}
    run([path, *words(tmp_path / "one", accumulation=2, **options)])
    for name, more in (("data", {}), ("model", {"shard_model": 2})):
        shared = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
        command = [path, *words(tmp_path / name, **more, **options)]
        together([(command, {**shared, "JAX_PROCESS_ID": str(rank)}) for rank in (0, 1)])
        # Two processes sum in another order, and some processors round otherwise: 1.3e-5 is seen.
        same_weights(tmp_path / "one", tmp_path / name, within=3e-5)
        same_histories(tmp_path / "one", tmp_path / name, within=1e-5)
    # The parts that two processes saved are read as one whole model by one process.
    (state,) = (tmp_path / "model").glob("state-*")
    alone = FlaxLearner(Settings(train="", output=tmp_path, dropout=0.0))
    alone.load_state(state)
    alone.save(tmp_path / "joined")
    same_weights(tmp_path / "one", tmp_path / "joined", within=3e-5)
