"""What Keras users train with works with these models: callbacks, schedules, accumulation, metrics; by value."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import seq2seq_models

from .tiny import settings
from .tiny_tensorflow import LIBRARY_WARNINGS, near

pytestmark = LIBRARY_WARNINGS
ROWS, EPOCHS = 4, 4


def made(**options: Any) -> Any:
    """A model of one layer each, with the same weights every time."""
    keras.utils.set_random_seed(0)
    sizes = settings("Pegasus", encoder_layers=1, decoder_layers=1, **{"dropout": 0.0, **options})
    return seq2seq_models.TFPegasusForConditionalGeneration(seq2seq_models.PegasusConfig(**sizes))


def data(rows: int = ROWS) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {"input_ids": draw.integers(3, 80, (rows, 6)), "labels": draw.integers(3, 80, (rows, 5))}


def fitted(model: Any, *callbacks: Any, epochs: int = EPOCHS, **options: Any) -> dict[str, list[float]]:
    """The history of a training on all rows at once."""
    given = {"batch_size": ROWS, "shuffle": False, "verbose": 0, **options}
    history: dict[str, list[float]] = model.fit(data(), epochs=epochs, callbacks=list(callbacks), **given).history
    return history


def compiled(optimizer: Any = None, **options: Any) -> Any:
    model = made(**options)
    model.compile(optimizer=optimizer or keras.optimizers.Adam(1e-2))
    return model


def values(model: Any) -> list[np.ndarray]:
    return [weight.numpy() for weight in model.weights]


@pytest.fixture(scope="module")
def plain() -> tuple[dict[str, list[float]], list[list[np.ndarray]]]:
    """The history of a training without callbacks, and the weights after each epoch."""
    model, after = compiled(), []
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: after.append(values(model)))
    return fitted(model, keep, validation_data=data()), after


def same(one: list[np.ndarray], other: list[np.ndarray], tolerance: float = 1e-6) -> None:
    for mine, yours in zip(one, other, strict=True):
        near(mine, yours, tolerance)


def test_early_stopping_ends_a_run_and_goes_back(plain: Any) -> None:
    model = compiled()
    # Every epoch is better than the one before, which as a measure to grow is worse.
    stop = keras.callbacks.EarlyStopping("val_loss", mode="max", patience=2, restore_best_weights=True)
    history = fitted(model, stop, validation_data=data())
    assert len(history["loss"]) == 3 and stop.stopped_epoch == 2 and stop.best_epoch == 0
    near(history["val_loss"], plain[0]["val_loss"][:3])
    same(values(model), plain[1][0])


def test_model_checkpoint_keeps_weights_and_whole_models(plain: Any, tmp_path: Path) -> None:
    best = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.weights.h5", monitor="loss", mode="max", save_best_only=True, save_weights_only=True
    )
    every = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True)
    whole = keras.callbacks.ModelCheckpoint(tmp_path / "whole.keras")
    history = fitted(compiled(), best, every, whole, epochs=2)
    for name, epoch in (("best", 0), ("1", 0), ("2", 1)):
        other = made()
        other.load_weights(tmp_path / f"{name}.weights.h5")
        same(values(other), plain[1][epoch])
    again = keras.models.load_model(tmp_path / "whole.keras")
    same(values(again), plain[1][1])
    # The optimizer's moments are in it too: the next epoch is the one that follows.
    near(fitted(again, epochs=1)["loss"][0], plain[0]["loss"][2])
    near(history["loss"], plain[0]["loss"][:2])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "1.weights.h5", "2.weights.h5", "best.weights.h5", "whole.keras",
    ]  # fmt: skip


def test_backup_and_restore_continues(plain: Any, tmp_path: Path) -> None:
    def stop(epoch: int, logs: Any) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(
            compiled(),
            keras.callbacks.BackupAndRestore(tmp_path / "backup"),
            keras.callbacks.LambdaCallback(on_epoch_begin=stop),
        )
    model = compiled()
    history = fitted(model, keras.callbacks.BackupAndRestore(tmp_path / "backup"))
    near(history["loss"], plain[0]["loss"][2:])
    same(values(model), plain[1][-1])


def test_csv_logger_and_tensorboard_write_what_history_has(plain: Any, tmp_path: Path) -> None:
    log, board = keras.callbacks.CSVLogger(tmp_path / "log.csv"), keras.callbacks.TensorBoard(tmp_path / "board")
    fitted(compiled(), log, board, epochs=2, validation_data=data())
    with (tmp_path / "log.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for split, name in (("train", "loss"), ("validation", "val_loss")):
        near([float(row[name]) for row in rows], plain[0][name][:2])
        events = EventAccumulator(str(tmp_path / "board" / split), {"tensors": 0})
        events.Reload()
        written = [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("epoch_loss")]
        near(written, plain[0][name][:2])


def test_learning_rates_follow_callbacks_and_schedules() -> None:
    lower = keras.callbacks.ReduceLROnPlateau("loss", mode="max", factor=0.5, patience=1, min_delta=0)
    planned = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 1e-2 / (epoch + 1))
    schedule = keras.optimizers.schedules.InverseTimeDecay(1e-2, 1, 1.0)
    one, other = compiled(), compiled(keras.optimizers.Adam(schedule))
    assert fitted(one, planned)["learning_rate"] == pytest.approx([1e-2, 5e-3, 1e-2 / 3, 2.5e-3])
    fitted(other)
    same(values(one), values(other))
    one.optimizer.learning_rate = 1e-2
    # Every epoch is better than the one before, which as a measure to grow is worse.
    assert fitted(one, lower)["learning_rate"] == pytest.approx([1e-2, 1e-2, 5e-3, 2.5e-3])


@pytest.mark.heavy
def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    """Labels of all batches are as many, so the mean of the means is the mean."""
    whole, parts = (compiled(keras.optimizers.AdamW(1e-2, gradient_accumulation_steps=steps)) for steps in (None, 2))
    fitted(whole, epochs=2)
    fitted(parts, epochs=2, batch_size=ROWS // 2)
    same(values(whole), values(parts), 2e-5)
    assert max(np.abs(one - other).max() for one, other in zip(values(whole), values(made()), strict=True)) > 1e-3


def test_metrics_see_logits_and_labels() -> None:
    model = made()
    model.compile(
        optimizer=keras.optimizers.Adam(1e-2),
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(40, name="top")],
    )
    logits = model(**data()).logits.numpy()
    ranks = (logits > np.take_along_axis(logits, data()["labels"][..., None], -1)).sum(-1)
    history = fitted(model, epochs=1)
    near(history["accuracy"][0], (ranks == 0).mean())
    near(history["top"][0], (ranks < 40).mean())
    assert 0 < (ranks < 40).mean() < 1
