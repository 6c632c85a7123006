"""Keras subclasses with layers of their own: what is loaded, drawn, saved and refused; and a head of one's own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from seq2seq_models import PegasusConfig, TFPegasusForConditionalGeneration
from seq2seq_models.errors import CheckpointError, ConfigError
from seq2seq_models.tensorflow.pegasus import TFPegasusModel, TFPegasusPreTrainedModel

from .tiny import settings


class Valued(TFPegasusForConditionalGeneration):
    """A second head, made at its first call, a list of layers, and a variable."""

    def __init__(self, config: PegasusConfig, width: int = 3, *, gate: float = 0.5, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.value = keras.layers.Dense(width, kernel_initializer="he_normal")
        self.norms = [keras.layers.LayerNormalization(), keras.layers.LayerNormalization()]
        self.gate = self.add_weight(name="gate", shape=(1,), initializer=keras.initializers.Constant(gate))

    def call(self, input_ids: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
        output = super().call(input_ids, attention_mask, **kwargs)
        states = output.encoder_last_hidden_state
        for norm in self.norms:
            states = norm(states)
        output.logits = output.logits + keras.ops.mean(self.value(states)) * self.gate
        return output


@pytest.fixture
def plain(tmp_path: Path) -> Any:
    keras.utils.set_random_seed(3)
    model = TFPegasusForConditionalGeneration(PegasusConfig(**settings("Pegasus")))
    model.save_pretrained(tmp_path / "plain")
    return model


GIVEN = {"input_ids": np.asarray([[5, 6, 7, 1]]), "decoder_input_ids": np.asarray([[0, 4]])}


@pytest.mark.parametrize("is_safe", [True, False], ids=["safetensors", "h5"])
def test_own_layers_are_drawn_saved_and_loaded(is_safe: bool, plain: Any, tmp_path: Path, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        model = Valued.from_pretrained(tmp_path / "plain", 5, gate=0.25)
    assert "value.weight" in caplog.text and "has to be trained" in caplog.text
    np.testing.assert_array_equal(model.model.shared.embeddings, plain.model.shared.embeddings)
    np.testing.assert_array_equal(model.model.decoder.layers[1].fc1.kernel, plain.model.decoder.layers[1].fc1.kernel)
    assert model.value.kernel.shape == (24, 5) and float(model.gate[0]) == 0.25
    assert 0.1 < float(np.std(model.value.kernel)) < 0.5, "drawn by its own initializer"
    own = [model.value.kernel, model.value.bias, model.norms[0].gamma, model.norms[1].beta, model.gate]
    for index, variable in enumerate(own):
        variable.assign(np.random.default_rng(index).normal(size=variable.shape))
    model.save_pretrained(tmp_path / "own", safe_serialization=is_safe)
    again, info = Valued.from_pretrained(tmp_path / "own", 5, output_loading_info=True)
    assert info["missing_keys"] == info["unexpected_keys"] == []
    found = [again.value.kernel, again.value.bias, again.norms[0].gamma, again.norms[1].beta, again.gate]
    for one, other in zip(found, own, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(again(**GIVEN).logits, model(**GIVEN).logits)
    with pytest.raises(CheckpointError, match=r"value.weight expected \[4, 24\], got \[5, 24\]"):
        Valued.from_pretrained(tmp_path / "own", 4)
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        TFPegasusForConditionalGeneration.from_pretrained(tmp_path / "own")
    assert "norms.0.bias, norms.0.weight" in caplog.text and "left out" in caplog.text
    with pytest.raises(ConfigError, match="got widht"):
        TFPegasusForConditionalGeneration.from_pretrained(tmp_path / "plain", widht=4)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of Keras' variables
def test_keras_itself_saves_own_layers(plain: Any, tmp_path: Path) -> None:
    model = Valued.from_pretrained(tmp_path / "plain")
    model.value.kernel.assign(np.ones((24, 3)))
    expected = model(**GIVEN).logits
    model.save_weights(tmp_path / "x.weights.h5")
    other = Valued.from_pretrained(tmp_path / "plain")
    other.load_weights(tmp_path / "x.weights.h5")
    np.testing.assert_array_equal(other(**GIVEN).logits, expected)


def test_a_class_over_the_base_loads_what_it_has(plain: Any, tmp_path: Path) -> None:
    class Classifier(TFPegasusPreTrainedModel):
        def __init__(self, config: PegasusConfig, **kwargs: Any) -> None:
            super().__init__(config, **kwargs)
            self.model = TFPegasusModel(config, name="model")
            self.classifier = keras.layers.Dense(2)

        def call(self, input_ids: Any) -> Any:
            return self.classifier(self.model(input_ids, decoder_input_ids=input_ids).last_hidden_state[:, -1])

    model = Classifier.from_pretrained(tmp_path / "plain")
    ids = np.asarray([[5, 6, 7, 1]])
    states = plain.model(input_ids=ids, decoder_input_ids=ids).last_hidden_state[:, -1]
    np.testing.assert_allclose(model(ids), states @ model.classifier.kernel, rtol=1e-5, atol=1e-6)
    model.save_pretrained(tmp_path / "own")
    np.testing.assert_array_equal(Classifier.from_pretrained(tmp_path / "own")(ids), model(ids))


# ---- the head is called


def with_bias(model: Any) -> None:
    head = keras.layers.Dense(83, name="biased")
    head.build((None, 24))
    head.kernel.assign(keras.ops.transpose(model.model.shared.embeddings))
    head.bias.assign(np.eye(83)[9] * 50.0)
    model.lm_head = head


def with_patched_call(model: Any) -> None:
    embedding = model.model.shared
    own = type(embedding).logits
    head = keras.layers.Layer(name="patched")
    head.call = lambda hidden: own(embedding, hidden) + np.eye(83)[9].astype("float32") * 50.0
    model.lm_head = head


@pytest.mark.parametrize("change", [with_bias, with_patched_call])
def test_the_head_is_called(change: Any, plain: Any) -> None:
    labels = np.asarray([[9, 4]])
    before = plain(**GIVEN).logits.numpy()
    change(plain)
    with tf.GradientTape() as tape:
        output = plain(**GIVEN, labels=labels)
    expected = before + np.eye(83)[9] * 50.0
    np.testing.assert_allclose(output.logits, expected, rtol=1e-4, atol=1e-4)
    log = expected - np.log(np.exp(expected - expected.max(-1, keepdims=True)).sum(-1, keepdims=True))
    log = log - expected.max(-1, keepdims=True)
    np.testing.assert_allclose(output.loss, -np.mean([log[0, 0, 9], log[0, 1, 4]]), rtol=1e-4)
    graph = tf.function(lambda: plain(**GIVEN, labels=labels).loss)
    np.testing.assert_allclose(graph(), output.loss, rtol=1e-5)
    np.testing.assert_allclose(plain.cross_entropy(labels, **GIVEN), output.loss, rtol=1e-5)
    gradient = tape.gradient(output.loss, plain.model.decoder.layers[0].fc1.kernel.value)
    assert float(np.abs(gradient).max()) > 0
    if change is with_bias:
        with tf.GradientTape() as tape:
            loss = plain(**GIVEN, labels=labels).loss
        chances = np.exp(log)
        chances[0, 0, 9] -= 1
        chances[0, 1, 4] -= 1
        found = tape.gradient(loss, plain.lm_head.bias.value)
        np.testing.assert_allclose(found, chances.mean(1)[0], rtol=1e-3, atol=1e-6)
    ids = plain.generate(GIVEN["input_ids"], num_beams=1, max_length=5)
    assert ids[0, 1:4].numpy().tolist() == [9, 9, 9]


def test_a_replaced_attention_gets_its_mask(plain: Any) -> None:
    seen = []

    class Own(keras.layers.Layer):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def call(self, hidden_states: Any, attention_mask: Any = None, training: bool = False, **kwargs: Any) -> Any:
            seen.append(attention_mask)
            return self.inner(hidden_states, attention_mask=attention_mask, training=training, **kwargs)

    given = {**GIVEN, "attention_mask": np.asarray([[1, 1, 0, 0]])}
    expected = plain(**given).logits
    for layer in (plain.model.encoder.layers[0], plain.model.decoder.layers[1]):
        layer.self_attn = Own(layer.self_attn)
    np.testing.assert_allclose(plain(**given).logits, expected, rtol=1e-5, atol=1e-5)
    assert seen[0].shape == (1, 1, 1, 4) and seen[1].shape == (1, 1, 2, 2)
