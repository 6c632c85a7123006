"""Subclasses with linen modules of their own, in Flax: what is loaded, drawn, saved and refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq2seq_models import FlaxPegasusForConditionalGeneration, PegasusConfig
from seq2seq_models.errors import CheckpointError, ConfigError
from seq2seq_models.flax.modules import ConditionalGenerationModule, Seq2SeqModule
from seq2seq_models.flax.pegasus import FlaxPegasusPreTrainedModel

from .tiny import settings


class ValueModule(ConditionalGenerationModule):
    """The usual module, with a second head that is added to the logits."""

    width: int = 3

    def setup(self) -> None:
        super().setup()
        self.value = nn.Dense(self.width)
        self.norm = nn.LayerNorm()
        self.level = self.param("level", nn.initializers.constant(0.125), (1,))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = super().__call__(*args, **kwargs)
        value = self.value(self.norm(output.encoder_last_hidden_state))
        output.logits = output.logits + value.mean() + self.level
        return output


class Valued(FlaxPegasusForConditionalGeneration):
    module_class = ValueModule

    def __init__(self, config: PegasusConfig, width: int = 3, **kwargs: Any) -> None:
        super().__init__(config, width=width, **kwargs)


def leaves(params: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(params)}


@pytest.fixture
def plain(tmp_path: Path) -> Any:
    model = FlaxPegasusForConditionalGeneration(PegasusConfig(**settings("Pegasus")), seed=3)
    model.save_pretrained(tmp_path / "plain")
    return model


@pytest.mark.parametrize("is_safe", [True, False], ids=["safetensors", "msgpack"])
def test_own_modules_are_drawn_saved_and_loaded(is_safe: bool, plain: Any, tmp_path: Path, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        model = Valued.from_pretrained(tmp_path / "plain", width=5)
    assert "value.weight" in caplog.text and "has to be trained" in caplog.text
    held, known = leaves(model.params), leaves(plain.params)
    assert set(held) - set(known) == {
        "['value']['kernel']", "['value']['bias']", "['norm']['scale']", "['norm']['bias']", "['level']"
    }  # fmt: skip
    for name, value in known.items():
        np.testing.assert_array_equal(held[name], value)
    assert held["['value']['kernel']"].shape == (24, 5) and held["['value']['kernel']"].std() > 0.05
    assert held["['level']"].tolist() == [0.125] and held["['norm']['scale']"].tolist() == [1.0] * 24

    ids = jnp.asarray([[5, 6, 7, 1]])
    model.params = jax.tree.map(lambda x: x + 0.01, model.params)
    model.save_pretrained(tmp_path / "own", safe_serialization=is_safe)
    again = Valued.from_pretrained(tmp_path / "own", width=5)
    for name, value in leaves(model.params).items():
        np.testing.assert_array_equal(leaves(again.params)[name], value)
    np.testing.assert_array_equal(again(ids).logits, model(ids).logits)
    with pytest.raises(CheckpointError, match=r"value.weight expected \[4, 24\], got \[5, 24\]"):
        Valued.from_pretrained(tmp_path / "own", width=4)
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        bare = FlaxPegasusForConditionalGeneration.from_pretrained(tmp_path / "plain")
    assert leaves(bare.params).keys() == known.keys()
    with pytest.raises(ConfigError, match="got widht"):
        FlaxPegasusForConditionalGeneration.from_pretrained(tmp_path / "plain", widht=4)


def test_generate_goes_through_an_own_module(plain: Any, tmp_path: Path) -> None:
    class Last(ConditionalGenerationModule):
        def setup(self) -> None:
            super().setup()
            self.lift = self.param("lift", nn.initializers.zeros, (1,))

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            output = super().__call__(*args, **kwargs)
            output.logits = output.logits.at[..., 9].add(self.lift[0])
            return output

    class Own(FlaxPegasusForConditionalGeneration):
        module_class = Last

        def decode(self, *args: Any, **kwargs: Any) -> Any:
            output = super().decode(*args, **kwargs)
            output.logits = output.logits.at[..., 9].add(self.params["lift"][0])
            return output

    model = Own.from_pretrained(tmp_path / "plain")
    ids = jnp.asarray([[5, 6, 7, 1]])
    options = {"max_length": 5, "num_beams": 1}
    np.testing.assert_array_equal(model.generate(ids, **options).sequences, plain.generate(ids, **options).sequences)
    model.params = {**model.params, "lift": jnp.asarray([1e4])}
    assert model.generate(ids, **options).sequences[0, 1:4].tolist() == [9, 9, 9]


def test_a_class_over_the_base_loads_what_it_has(plain: Any, tmp_path: Path) -> None:
    class Classifying(nn.Module):
        config: Any
        dtype: Any = jnp.float32

        def setup(self) -> None:
            self.model = Seq2SeqModule(self.config, self.dtype)
            self.classifier = nn.Dense(2, dtype=self.dtype)

        def __call__(self, input_ids: Any) -> Any:
            return self.classifier(self.model(input_ids).last_hidden_state[:, -1])

    class Classifier(FlaxPegasusPreTrainedModel):
        module_class = Classifying

    model = Classifier.from_pretrained(tmp_path / "plain")
    assert set(model.params) == {"model", "classifier"}
    ids = jnp.asarray([[5, 6, 7, 1]])
    states = plain(ids, output_hidden_states=True).decoder_hidden_states[-1][:, -1]
    expected = states @ model.params["classifier"]["kernel"]
    np.testing.assert_allclose(model.module.apply({"params": model.params}, ids), expected, rtol=1e-5, atol=1e-6)
    model.save_pretrained(tmp_path / "own")
    again = Classifier.from_pretrained(tmp_path / "own")
    for name, value in leaves(model.params).items():
        np.testing.assert_array_equal(leaves(again.params)[name], value)
