"""Training in TensorFlow as Keras users know it: batches in every form, policies, callbacks, strategies, datasets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import seq2seq_models
from seq2seq_models.errors import InputError
from seq2seq_models.tensorflow.loss import language_modeling_loss

from .tiny import settings
from .tiny_tensorflow import BASE, FULL, LIBRARY_WARNINGS, inputs, loaded, near

pytestmark = [
    pytest.mark.reference,
    LIBRARY_WARNINGS,
    # Keras says so for every dataset given to `fit`.
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed, but will be ignored:UserWarning"),
]
SOURCE = Path(seq2seq_models.__file__).parent.parent


def example() -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    given = inputs()
    return given, given.pop("decoder_input_ids")


def forms(x: dict[str, tf.Tensor], labels: tf.Tensor) -> dict[str, dict[str, Any]]:
    """The same batch in each form that `fit` takes."""
    return {
        "dataset of dicts": {"x": tf.data.Dataset.from_tensors({**x, "labels": labels})},
        "dataset of pairs": {"x": tf.data.Dataset.from_tensors((x, labels))},
        "dataset of pairs of dicts": {"x": tf.data.Dataset.from_tensors((x, {"labels": labels}))},
        "dict": {"x": {**x, "labels": labels}, "batch_size": 3},
        "dict and labels": {"x": x, "y": labels, "batch_size": 3},
        "tuple and labels": {"x": (x["input_ids"], x["attention_mask"]), "y": labels, "batch_size": 3},
        "arrays": {"x": {name: value.numpy() for name, value in x.items()}, "y": labels.numpy(), "batch_size": 3},
    }


@pytest.mark.parametrize("form", list(forms(*example())))
def test_fit_takes_every_form_and_moves_the_weights_as_by_hand(form: str) -> None:
    x, labels = example()
    model = loaded("Pegasus", dropout=0.0)
    by_hand = loaded("Pegasus", dropout=0.0)
    # Tracing takes seconds, and is the same for all forms.
    model.compile(optimizer=keras.optimizers.SGD(0.1), run_eagerly=form != "dict")
    history = model.fit(**forms(x, labels)[form], epochs=1, verbose=0)
    with tf.GradientTape() as tape:
        loss = by_hand(**x, labels=labels, training=True).loss
    trainable = by_hand.trainable_variables
    for variable, gradient in zip(trainable, tape.gradient(loss, trainable), strict=True):
        variable.assign_sub(0.1 * tf.convert_to_tensor(gradient))
    near(history.history["loss"], [float(loss)])
    for one, other in zip(model.weights, by_hand.weights, strict=True):
        near(one.numpy(), other.numpy())


def test_evaluate_and_predict() -> None:
    x, labels = example()
    model = loaded("BlenderbotSmall")
    model.compile(metrics=["accuracy"], run_eagerly=True)
    expected = model(**x, labels=labels)
    result = model.evaluate({**x, "labels": labels}, batch_size=3, verbose=0, return_dict=True)
    near(result["loss"], float(expected.loss))
    hits = np.argmax(expected.logits, -1) == labels.numpy()
    near(result["accuracy"], hits.mean())
    given = {**x, "decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels)}
    predicted = model.predict({**given, "labels": labels}, batch_size=2, verbose=0)
    near(predicted.logits, expected.logits, 3e-5)
    assert list(predicted) == ["logits", "encoder_last_hidden_state"] and isinstance(predicted.logits, np.ndarray)
    cached = model.predict({**x, "decoder_input_ids": given["decoder_input_ids"]}, verbose=0)
    assert isinstance(cached, seq2seq_models.Seq2SeqLMOutput)


def test_another_loss_sees_logits_and_labels() -> None:
    x, labels = example()
    model = loaded("Pegasus", dropout=0.0)
    model.compile(optimizer="sgd", run_eagerly=True, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    expected = float(model(**x, labels=labels).loss)
    near(model.fit(x, labels, verbose=0, batch_size=3).history["loss"], [expected])
    base = loaded("Pegasus", BASE)
    base.compile(optimizer="sgd", loss="mse", run_eagerly=True)
    given = inputs()
    target = np.zeros((3, 7, 24), "float32")
    near(base.evaluate(given, target, verbose=0), np.square(base(**given).last_hidden_state).mean())


def test_without_labels_the_error_says_so() -> None:
    x, _ = example()
    model = loaded("Pegasus")
    model.compile(run_eagerly=True)
    with pytest.raises(InputError, match=r"`labels` must be among the inputs, or beside them"):
        model.fit(x, verbose=0)


def test_sample_weights_multiply_the_terms() -> None:
    x, labels = example()
    model = loaded("Pegasus", dropout=0.0)
    model.compile(run_eagerly=True)
    weights = np.array([1.0, 0.0, 2.0], "float32")
    given = {**x, "decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels)}
    logits = model(**given).logits
    rows = [float(model.hf_compute_loss(labels[row : row + 1], logits[row : row + 1])) for row in range(3)]
    result = model.evaluate(x, labels, sample_weight=weights, batch_size=3, verbose=0)
    near(result, np.dot(rows, weights) / 3)
    near(float(language_modeling_loss(logits, labels, weights=weights)), np.dot(rows, weights) / 3)


def test_dropout_is_on_in_training_only_and_follows_the_seed() -> None:
    x, labels = example()
    model = loaded("Pegasus", dropout=0.3, attention_dropout=0.2, activation_dropout=0.2)
    assert float(model(**x, labels=labels).loss) == float(model(**x, labels=labels).loss)
    losses = []
    for _ in range(2):
        for stack in model._stacks():
            stack.seeds.state.assign(np.array([1, 2], "uint32"))
        losses.append([float(model(**x, labels=labels, training=True).loss) for _ in range(2)])
    assert losses[0] == losses[1] and losses[0][0] != losses[0][1]


def test_layerdrop_draws_while_running() -> None:
    x, labels = example()
    model = loaded("Pegasus", encoder_layerdrop=0.5, decoder_layerdrop=0.5, dropout=0.0)
    step = tf.function(lambda: model(**x, labels=labels, training=True).loss)
    assert len({round(float(step()), 4) for _ in range(12)}) > 2
    everything = loaded("Pegasus", encoder_layerdrop=1.0, dropout=0.0)
    out = everything.get_encoder()(x["input_ids"], output_hidden_states=True, training=True)
    near(out.hidden_states[0], out.hidden_states[1])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_policies_compute_the_loss_in_float32(policy: str) -> None:
    x, labels = example()
    full = loaded("Pegasus", dropout=0.0)
    model = type(full)(full.config, dtype=policy)
    model.set_weights(full.get_weights())
    out = model(**x, labels=labels)
    assert out.logits.dtype == tf.float32 and out.loss.dtype == tf.float32
    assert model.weights[0].dtype == ("bfloat16" if policy == "bfloat16" else "float32")
    near(float(out.loss), float(full(**x, labels=labels).loss), 2e-2)
    # Keras's Adam stands still on bfloat16 variables: 0.999 is 1 there.
    optimizer = keras.optimizers.SGD(0.1) if policy == "bfloat16" else keras.optimizers.Adam(1e-2)
    model.compile(optimizer=optimizer, run_eagerly=policy != "mixed_float16")
    losses = model.fit({**x, "labels": labels}, epochs=6, verbose=0, batch_size=3).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")


def test_a_global_policy_counts_for_loaded_models() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = loaded("BlenderbotSmall")
        assert model.compute_dtype == "bfloat16" and model(**inputs()).logits.dtype == tf.float32
        assert {weight.dtype for weight in model.weights} == {"float32"}
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.heavy
def test_a_compiled_training_learns_a_batch() -> None:
    x, labels = example()
    model = loaded("BlenderbotSmall", dropout=0.0)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=True)
    losses = model.fit({**x, "labels": labels}, epochs=25, verbose=0, batch_size=3).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


def test_checkpoints_weights_and_whole_models(tmp_path: Path) -> None:
    x, labels = example()
    model = loaded("Pegasus")
    model.compile(optimizer=keras.optimizers.Adam(1e-3), run_eagerly=True)
    best = keras.callbacks.ModelCheckpoint(tmp_path / "best.weights.h5", save_weights_only=True)
    whole = keras.callbacks.ModelCheckpoint(tmp_path / "whole.keras")
    seen: list[dict[str, float]] = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs))
    model.fit({**x, "labels": labels}, epochs=2, verbose=0, batch_size=3, callbacks=[best, whole, note])
    expected = model(**x, labels=labels).logits
    other = type(model)(seq2seq_models.PegasusConfig(**settings("Pegasus")))
    other.load_weights(tmp_path / "best.weights.h5")
    near(other(**x, labels=labels).logits, expected)
    again = keras.models.load_model(tmp_path / "whole.keras")
    assert type(again) is type(model) and again.config.to_dict() == model.config.to_dict()
    near(again(**x, labels=labels).logits, expected)
    assert len(seen) == 2 and set(seen[0]) == {"loss"}
    near(
        again.fit({**x, "labels": labels}, verbose=0, batch_size=3).history["loss"][0],
        seen[1]["loss"],
        0.5,
    )


STRATEGY = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
import numpy as np
from seq2seq_models import TFPegasusForConditionalGeneration
def trained(scope):
    with scope:
        model = TFPegasusForConditionalGeneration.from_pretrained(sys.argv[1], dropout=0.0)
        model.compile(optimizer=keras.optimizers.SGD(0.1))
    ids = np.arange(4 * 6).reshape(4, 6) % 70 + 3
    data = tf.data.Dataset.from_tensor_slices({"input_ids": ids, "labels": ids[:, ::-1]}).batch(4)
    history = model.fit(data, epochs=2, verbose=0).history["loss"]
    return history, [weight.numpy() for weight in model.weights]
import contextlib
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
alone, shared = trained(contextlib.nullcontext()), trained(strategy.scope())
np.testing.assert_allclose(alone[0], shared[0], rtol=1e-4)
for one, other in zip(alone[1], shared[1]):
    np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-4)
print("equal")
"""


@pytest.mark.heavy
def test_two_replicas_learn_what_one_does() -> None:
    from .tiny_tensorflow import folder

    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", STRATEGY, str(folder("Pegasus", FULL)[0])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("equal"), done.stderr[-3000:]


class Tokenizer:
    """Just enough of one: pads ids with 0 on the right."""

    padding_side = "right"

    def pad(self, rows: list[dict[str, Any]], return_tensors: str, **_: Any) -> dict[str, Any]:
        length = max(len(row["input_ids"]) for row in rows)
        ids = np.array([list(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in rows])
        found = {"input_ids": ids, "attention_mask": (ids != 0).astype("int64")}
        return {name: tf.constant(value) for name, value in found.items()} if return_tensors == "tf" else found


def examples(count: int = 7) -> list[dict[str, Any]]:
    return [{"input_ids": [5] * (row + 1), "labels": [6, row + 3][: row % 2 + 1], "text": "x"} for row in range(count)]


def test_datasets_are_padded_shuffled_and_counted() -> None:
    model = loaded("Pegasus", dropout=0.0)
    data = model.prepare_tf_dataset(examples(), batch_size=3, shuffle=False, tokenizer=Tokenizer())
    batches = list(data)
    assert data.cardinality() == 3 and [batch[1].shape[0] for batch in batches] == [3, 3, 1]
    x, y = batches[0]
    assert x["input_ids"].numpy().tolist() == [[5, 0, 0], [5, 5, 0], [5, 5, 5]]
    assert y.numpy().tolist() == [[6, -100], [6, 4], [6, -100]] and set(x) == {"input_ids", "attention_mask"}
    np.random.seed(0)
    shuffled = model.prepare_tf_dataset(examples(), batch_size=3, tokenizer=Tokenizer(), prefetch=False)
    orders = [[batch[0]["attention_mask"].numpy().sum(1).tolist() for batch in shuffled] for _ in range(2)]
    assert shuffled.cardinality() == 2 and orders[0] != orders[1]
    model.compile(optimizer="sgd", run_eagerly=True)
    assert np.isfinite(model.fit(data, verbose=0).history["loss"]).all()


def test_datasets_of_equal_lengths_need_no_tokenizer() -> None:
    model = loaded("Pegasus")
    rows = [{"input_ids": [5, row + 3], "label": [7]} for row in range(2)]
    ((x, y),) = list(model.prepare_tf_dataset(rows, shuffle=False))
    assert x["input_ids"].numpy().tolist() == [[5, 3], [5, 4]] and y.numpy().tolist() == [[7], [7]]
    with pytest.raises(InputError, match="at least one example"):
        model.prepare_tf_dataset([])
    with pytest.raises(InputError, match="must have a column that is an input of the model, got words"):
        model.prepare_tf_dataset([{"words": [1]}])


def test_the_collator_gives_tensorflow_tensors() -> None:
    model = loaded("Pegasus")
    collate = seq2seq_models.DataCollatorForSeq2Seq(Tokenizer(), model=model, return_tensors="tf")
    given = collate([{name: row[name] for name in ("input_ids", "labels")} for row in examples(2)])
    assert all(isinstance(value, tf.Tensor) for value in given.values())
    assert given["labels"].numpy().tolist() == [[6, -100], [6, 4]]
    assert given["decoder_input_ids"].numpy().tolist() == [[0, 6], [0, 6]]
    assert np.isfinite(float(model(**given).loss))
