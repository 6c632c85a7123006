"""What decoding is made of in TensorFlow: steps over a cache of fixed size, eager, as a graph and compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from seq2seq_models.errors import InputError
from seq2seq_models.tensorflow.attention import causal_mask, lowest, padding_mask
from seq2seq_models.tensorflow.cache import LayerCache, layer_caches

from .tiny import FAMILIES
from .tiny_tensorflow import CAUSAL, LIBRARY_WARNINGS, inputs, loaded, near

pytestmark = [pytest.mark.reference, LIBRARY_WARNINGS]
BEAMS, ROOM = 2, 9


def decode(model: Any, source: Any, mask: Any, ids: Any) -> tuple[Any, Any, Any]:
    """Logits, cross-attention of the first layer, and states of the last, of ids that come in four portions."""
    memory = model.encode(source, mask).last_hidden_state
    cross = model.cross_entries(memory)
    cache = model.get_decoder().entries(ids.shape[0], ROOM)
    logits, attentions, states = [], [], []
    for start, length in ((0, 3), (3, 1), (4, 1), (5, 2)):
        begin = tf.constant(start)
        own = causal_mask(None, begin + tf.range(length), ROOM, memory.dtype)
        hidden, cache, details = model.step(
            ids[:, start : start + length],
            begin,
            cache,
            cross,
            own,
            padding_mask(mask, memory.dtype),
            need_weights=True,
            need_hidden=True,
        )
        logits.append(model.logits(hidden))
        attentions.append(details[1][0])
        states.append(details[2][-1])
        assert cache[0][0].shape == (ids.shape[0], 6, ROOM, 4)
    return tf.concat(logits, 1), tf.concat(attentions, 2), tf.concat(states, 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["eager", "graph", "xla"])
def test_steps_are_the_full_pass(family: str, kind: str) -> None:
    model, given = loaded(family), inputs()
    ids = given["decoder_input_ids"]
    rows = tf.reshape(tf.stack([ids, ids[:, ::-1]], 1), (-1, 7))  # beams of one input beside each other
    repeated = {name: tf.repeat(given[name], BEAMS, 0) for name in ("input_ids", "attention_mask")}
    whole = model(**repeated, decoder_input_ids=rows, output_attentions=True, output_hidden_states=True)

    def run(*tensors: Any) -> Any:
        return decode(model, *tensors)

    run = run if kind == "eager" else tf.function(run, jit_compile=kind == "xla")
    found = run(given["input_ids"], given["attention_mask"], rows)
    near(found[0], whole.logits, 3e-5)
    near(found[1], whole.cross_attentions[0])
    near(found[2], whole.decoder_hidden_states[-1])
    assert found[0].dtype == tf.float32


@pytest.mark.parametrize("family", FAMILIES)
def test_a_causal_model_steps_without_an_encoder(family: str) -> None:
    model, ids = loaded(family, CAUSAL), inputs()["decoder_input_ids"]
    whole = model(ids).logits
    cache = model.get_decoder().entries(3, ROOM)
    for start in range(7):
        own = causal_mask(None, tf.constant([start]), ROOM, tf.float32)
        hidden, cache, details = model.step(ids[:, start : start + 1], start, cache, None, own)
        near(model.logits(hidden)[:, 0], whole[:, start], 3e-5)
        assert details == (None, None, None)


def test_positions_may_differ_from_places_in_the_cache() -> None:
    model, ids = loaded("Pegasus", CAUSAL), inputs()["decoder_input_ids"]
    own = causal_mask(None, tf.range(7), ROOM, tf.float32)
    cache = model.get_decoder().entries(3, ROOM)
    moved, _, _ = model.step(ids, 0, cache, None, own, positions=tf.range(5, 12))
    plain, _, _ = model.step(ids, 0, cache, None, own)
    expected = model.get_decoder()(ids, position_ids=tf.range(5, 12)).last_hidden_state
    near(moved, expected)
    assert np.abs(moved - plain).max() > 0.1


def test_the_step_of_one_shape_is_traced_once() -> None:
    model, ids = loaded("BlenderbotSmall", CAUSAL), inputs()["decoder_input_ids"]
    traces = []

    @tf.function(jit_compile=True)
    def step(tokens: Any, start: Any, cache: Any) -> Any:
        traces.append(1)
        own = causal_mask(None, start[None], ROOM, tf.float32)
        return model.step(tokens, start, cache, None, own)[:2]

    cache = model.get_decoder().entries(3, ROOM)
    for start in range(3):
        _, cache = step(ids[:, start : start + 1], tf.constant(start), cache)
    assert traces == [1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_masks_are_finite(dtype: str) -> None:
    assert np.isfinite(tf.cast(tf.constant(lowest(dtype), dtype), "float32").numpy())
    mask = padding_mask(tf.constant([[1, 0], [0, 0]]), dtype)
    assert mask.shape == (2, 1, 1, 2) and mask.dtype == dtype
    assert (tf.cast(mask, "float32").numpy() == [[[[0, lowest(dtype)]]], [[[lowest(dtype)] * 2]]]).all()
    assert padding_mask(None, dtype) is None and padding_mask(mask, dtype) is mask


def test_causal_masks_count_padding_and_places() -> None:
    mask = causal_mask(tf.constant([[0, 1, 1]]), tf.constant([1, 2]), 4, "float32").numpy() == 0
    assert mask.tolist() == [[[[False, True, False, False], [False, True, True, False]]]]


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_row_that_is_masked_throughout_stays_finite(dtype: str) -> None:
    model, given = loaded("Pegasus"), inputs()
    changed = type(model)(model.config, dtype=dtype)
    changed.set_weights(model.get_weights())
    given["attention_mask"] = tf.zeros_like(given["attention_mask"])
    given["decoder_attention_mask"] = tf.zeros_like(given["decoder_input_ids"])
    # XLA takes long to compile halves on a CPU, and treats the mask as it does in float32.
    for run in [changed, tf.function(changed, jit_compile=True)] if dtype == "float32" else [changed]:
        assert np.isfinite(tf.cast(run(**given).logits, "float32").numpy()).all()


def test_caches_of_the_wrong_form_are_refused() -> None:
    pair = (tf.zeros((1, 6, 2, 4)),) * 2
    assert isinstance(layer_caches([pair] * 3, 3)[0], LayerCache)
    for past in ([pair] * 2, [pair, pair, (*pair, pair[0])]):
        with pytest.raises(InputError, match=r"`past_key_values` must be 3 tuples of 2 or 4 tensors"):
            layer_caches(past, 3)
