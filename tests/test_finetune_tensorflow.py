"""examples/finetune_tensorflow.py: its updates beside PyTorch's, its options, kills, and several processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

from finetune_pytorch import PyTorchLearner
from finetune_tensorflow import TensorFlowLearner
from finetuning.arguments import Settings
from finetuning.training import prepare
from seq2seq_models import PegasusConfig, PegasusForConditionalGeneration, PegasusTokenizer
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
    weights,
    words,
)
from .tiny import SIZES
from .tiny_tensorflow import LIBRARY_WARNINGS

pytestmark = LIBRARY_WARNINGS
SCRIPT = "finetune_tensorflow.py"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Pegasus with the bundled tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = PegasusTokenizer.from_pretrained(demo_checkpoint("pegasus-demo"))
    torch.manual_seed(0)
    sizes = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 256}
    PegasusForConditionalGeneration(PegasusConfig(**sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def policy() -> Iterator[None]:
    """A learner sets Keras' policy for its process."""
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


def settings(tiny: Path, folder: Path, **options: Any) -> Settings:
    given = {**SHORT, "model": str(tiny), "dropout": 0.0, "output": folder, **options}
    given |= {name: str(given[name]) for name in ("train", "validation")}
    return Settings(**given)


def stepped(made: Any, numbers: range = range(3), rate: float = 1e-3) -> list[tuple[float, float]]:
    """Losses and gradient norms of updates, each of two batches."""
    task = prepare(made.settings, made.model)
    found = []
    for number in numbers:
        several = [task.batch(task.training, list(range(at, at + 4))) for at in (8 * number, 8 * number + 4)]
        found.append(made.step(several, sum(one.labels for one in several), rate, number))
    return found


@pytest.mark.parametrize("options", [{"clip": 0.0}, {"label_smoothing": 0.2, "clip": 0.5, "weight_decay": 0.1}])
def test_an_update_is_that_of_pytorch(options: dict[str, Any], tiny: Path, tmp_path: Path) -> None:
    asked = settings(tiny, tmp_path, **options)
    ours, theirs = TensorFlowLearner(asked), PyTorchLearner(asked)
    np.testing.assert_allclose(stepped(ours), stepped(theirs), rtol=2e-5)
    for made, name in ((ours, "ours"), (theirs, "theirs")):
        made.save(tmp_path / name)
    same_weights(tmp_path / "ours", tmp_path / "theirs", within=5e-5)
    moved = weights(tmp_path / "ours")["model.shared.weight"] - weights(tiny)["model.shared.weight"]
    assert np.abs(moved).max() > 1e-3


def test_adafactor_keeps_half_the_state_and_learns_as_pytorchs(tiny: Path, tmp_path: Path) -> None:
    asked = settings(tiny, tmp_path, optimizer="adafactor")
    ours = TensorFlowLearner(asked)
    np.testing.assert_allclose(stepped(ours), stepped(PyTorchLearner(asked)), rtol=1e-4)
    kept = sum(int(np.prod(variable.shape)) for variable in ours.optimizer.variables)
    assert kept < 1.2 * sum(int(np.prod(variable.shape)) for variable in ours.weights)


def test_evaluation_is_that_of_pytorch(tiny: Path, tmp_path: Path) -> None:
    asked = settings(tiny, tmp_path, label_smoothing=0.2, dropout=0.3)
    ours, theirs = TensorFlowLearner(asked), PyTorchLearner(asked)
    task = prepare(asked, ours.model)
    batch, nothing = task.batch(task.validation, [0, 1, 2]), task.batch(task.validation, [])
    np.testing.assert_allclose(ours.loss(batch), theirs.loss(batch), rtol=1e-5)
    assert ours.loss(nothing) == 0.0
    assert ours.generate(batch) == theirs.generate(batch)


@pytest.fixture(scope="module")
def noisy(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> TensorFlowLearner:
    """A learner with dropout."""
    return TensorFlowLearner(settings(tiny, tmp_path_factory.mktemp("noisy"), dropout=0.3))


def test_dropout_follows_the_seed_the_update_and_the_process(noisy: TensorFlowLearner) -> None:
    asked = noisy.settings
    once = stepped(noisy, rate=0.0)
    assert stepped(noisy, range(2, 3), rate=0.0) == once[2:]
    noisy.rank = 1
    assert stepped(noisy, range(2, 3), rate=0.0) != once[2:]
    noisy.rank, noisy.settings = 0, replace(asked, seed=1)
    assert stepped(noisy, range(2, 3), rate=0.0) != once[2:]
    noisy.settings = asked


def test_a_state_holds_all_that_the_next_update_depends_on(noisy: TensorFlowLearner, tmp_path: Path) -> None:
    stepped(noisy)
    noisy.save_state(tmp_path)
    expected = stepped(noisy, range(3, 5))
    noisy.save(tmp_path / "first")
    assert stepped(noisy, range(3, 5)) != expected
    noisy.load_state(tmp_path)
    assert stepped(noisy, range(3, 5)) == expected
    noisy.save(tmp_path / "again")
    same_weights(tmp_path / "first", tmp_path / "again", within=0.0)


def test_bfloat16_is_close_and_keeps_float32_weights(tiny: Path, tmp_path: Path) -> None:
    expected = stepped(PyTorchLearner(settings(tiny, tmp_path)))
    made = TensorFlowLearner(settings(tiny, tmp_path, precision="bfloat16"))
    found = stepped(made)
    np.testing.assert_allclose(found, expected, rtol=3e-2)
    assert not np.allclose(found, expected, rtol=1e-5) and made.model.compute_dtype == "bfloat16"
    assert {str(variable.dtype) for variable in made.weights} == {"float32"}


@pytest.mark.parametrize(
    "options, word", [({"shard_model": 2}, "--shard-model"), ({"gradient_checkpointing": True}, "--gradient-check")]
)
def test_what_it_cannot_do_is_said(options: dict[str, Any], word: str, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=word):
        TensorFlowLearner(settings(tiny, tmp_path, **options))


@pytest.mark.heavy
def test_killed_and_continued(tmp_path: Path) -> None:
    killed_and_continued(SCRIPT, tmp_path, dropout=0.1, accumulation=2)


@pytest.mark.heavy
def test_two_processes_are_as_one(tmp_path: Path) -> None:
    path, options = str(EXAMPLES / SCRIPT), {"dropout": 0.0}
    run([path, *words(tmp_path / "one", accumulation=2, **options)])
    cluster = {"worker": [f"127.0.0.1:{free_port()}" for _ in range(2)]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": rank}} for rank in range(2)]
    command = [path, *words(tmp_path / "two", **options)]
    together([(command, {"TF_CONFIG": json.dumps(task)}) for task in tasks])
    same_weights(tmp_path / "one", tmp_path / "two", within=1e-5)
    same_histories(tmp_path / "one", tmp_path / "two", within=1e-4)
