"""`generate` in TensorFlow: what every compiling framework must do (compiled.py), and what Keras asks for besides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf

import seq2seq_models
from seq2seq_models.core.generation.programs import Programs
from seq2seq_models.errors import InputError
from seq2seq_models.tensorflow import generation
from seq2seq_models.tensorflow.arrays import threefry

from . import compiled
from .combinations import source
from .compiled import CONTRAST, GROUPS, Collect, copied, near, numbers, plain, thin, twin
from .tiny_tensorflow import LIBRARY_WARNINGS

pytestmark = [pytest.mark.reference, LIBRARY_WARNINGS]


class TensorFlow:
    """See compiled.Side."""

    eager: ClassVar[dict[str, Any]] = {"run_eagerly": True}
    keeps_width: ClassVar[bool] = False

    def load(self, folder: str, name: str) -> Any:
        return getattr(seq2seq_models, "TF" + name).from_pretrained(folder)

    def generate(self, model: Any, **options: Any) -> Any:
        return model.generate(**{"return_dict_in_generate": True, **options})

    def array(self, x: Any) -> Any:
        return tf.constant(x)

    def seeded(self, seed: int) -> dict[str, Any]:
        return {"seed": (7, seed)}

    def compiled_loops(self) -> int:
        assert not generation.GRAPHS.made["decode"]
        return generation.PROGRAMS.made["decode"]

    def leaf(self, model: Any) -> Any:
        return model.weights[0]

    def inside(self, call: Callable[[Any], Any]) -> list[Callable[[Any], Any]]:
        return [tf.function(call, autograph=False, jit_compile=compiled) for compiled in (False, True)]

    def no_even(self, ids: Any, scores: Any, length: Any) -> Any:
        return tf.where(tf.range(scores.shape[1]) % 2 == 0, -float("inf"), scores)

    def encoder_outputs(self, model: Any, inputs: dict[str, Any]) -> Any:
        return model.encode(**{name: tf.constant(value) for name, value in inputs.items()})

    def favour(self, model: Any, in_class: bool) -> None:
        call = type(model).call

        def favoured(self: Any, *args: Any, **kwargs: Any) -> Any:
            outputs = call(self, *args, **kwargs)
            added = tf.one_hot(compiled.TOKEN, outputs.logits.shape[-1]) * 8.0
            outputs.logits = outputs.logits + tf.cast(added, outputs.logits.dtype)
            return outputs

        if in_class:
            model.__class__ = type("Favouring", (type(model),), {"call": favoured})
        else:
            model.call = partial(favoured, model)

    @contextmanager
    def many_shapes(self) -> Iterator[None]:
        """As graphs, which are freed, and not as the XLA programs that the other tests take."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generation.PROGRAMS, "most", 0)
            yield


@pytest.fixture(autouse=True, scope="module")
def room_for_tiny_programs():
    """The programs of these models are so small that more of them fit into a process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation.PROGRAMS, "most", 400)
        patch.setattr(generation.GRAPHS, "most", 1000)
        yield


class TestCompilations(compiled.Compilations):
    side = TensorFlow()


class TestSampling(compiled.Sampling):
    side = TensorFlow()


class TestInputs(compiled.Inputs):
    side = TensorFlow()


class TestOutputs(compiled.Outputs):
    side = TensorFlow()


class TestThroughTheModel(compiled.ThroughTheModel):
    side = TensorFlow()


class TestCallbacks(compiled.Callbacks):
    side = TensorFlow()


class TestInside(compiled.Inside):
    side = TensorFlow()


class TestFaults(compiled.Faults):
    side = TensorFlow()


@pytest.mark.parametrize(("family", "beams"), [("Pegasus", 1), ("BlenderbotSmall", 2)])
def test_vectors_as_the_source(family, beams):
    model, inputs = thin(family), source(7)
    options = {"num_beams": beams, "max_new_tokens": 8}
    embeds = model.get_input_embeddings()(inputs["input_ids"]) * model.get_encoder().embed_scale
    mask = plain(inputs)["attention_mask"]
    for given in (embeds.detach().numpy(), tf.constant(embeds.detach().numpy())):
        for own in ({}, TensorFlow.eager):
            found = twin(TensorFlow(), model).generate(inputs_embeds=given, attention_mask=mask, **options, **own)
            assert numbers(found).tolist() == model.generate(**inputs, **options).tolist()
    with pytest.raises(InputError, match="are the same input, got both"):
        twin(TensorFlow(), model).generate(**plain(inputs), inputs_embeds=given)


@pytest.mark.parametrize("beams", [1, 3])
def test_transition_scores_are_those_of_pytorch(beams):
    model, inputs = thin("Pegasus"), source(5)
    options = {"num_beams": beams, "max_new_tokens": 9, "return_dict_in_generate": True, "output_scores": True}
    options["num_return_sequences"] = beams
    expected, own = model.generate(**inputs, **options), twin(TensorFlow(), model)
    found = own.generate(**plain(inputs), **options)
    for normalize in (False, True):
        pairs = [
            one.compute_transition_scores(out.sequences, out.scores, getattr(out, "beam_indices", None), normalize)
            for one, out in ((own, found), (model, expected))
        ]
        near(*pairs, 2e-5)


def test_the_result_without_a_dictionary_is_the_ids():
    model, inputs = thin("Pegasus"), source(5)
    for given in (
        plain(inputs)["input_ids"],
        tf.constant(plain(inputs)["input_ids"], tf.int64),
        inputs["input_ids"].tolist(),
    ):
        for own in ({}, TensorFlow.eager):
            found = twin(TensorFlow(), model).generate(given, max_new_tokens=5, **own)
            assert found.dtype == tf.int32 and tf.is_tensor(found)
            assert numbers(found).tolist() == model.generate(**inputs, max_new_tokens=5).tolist()


def test_tensorflows_own_seed_decides_without_one():
    model, inputs = twin(TensorFlow(), thin("Pegasus")), plain(source(5))

    def draw(seed):
        tf.random.set_seed(seed)
        return numbers(model.generate(**inputs, do_sample=True, temperature=2.0, max_new_tokens=9)).tolist()

    assert draw(1) == draw(1) != draw(2)
    one = [
        numbers(model.generate(**inputs, do_sample=True, seed=seed, max_new_tokens=9)).tolist() for seed in (4, 4, 5)
    ]
    assert one[0] == one[1] != one[2]


def test_autograph_leaves_the_library_as_it_is():
    """By default `tf.function` rewrites what it calls, and errors lose their class there."""
    model, inputs = thin("Pegasus"), source(3)
    own, ids = twin(TensorFlow(), model), tf.constant(plain(inputs)["input_ids"])

    @tf.function
    def decode(ids):
        return own.generate(ids, max_new_tokens=7)

    @tf.function
    def stream(ids):
        return own.generate(ids, max_new_tokens=7, streamer=Collect())

    found, expected = decode(ids), model.generate(**inputs, max_new_tokens=7)
    assert numbers(found)[:, : expected.shape[1]].tolist() == expected.tolist()
    with pytest.raises(Exception, match="`streamer` must be unset inside compiled code"):
        stream(ids)


def test_unknown_shapes_are_refused_by_name():
    model = twin(TensorFlow(), thin("Pegasus"))
    function = tf.function(
        lambda ids: model.generate(ids, max_new_tokens=3), input_signature=[tf.TensorSpec((None, None), tf.int32)]
    )
    with pytest.raises(InputError, match=r"`input_ids` must have a known shape .*\[None, None\]"):
        function.get_concrete_function()


@pytest.mark.parametrize(
    ("family", "policy"),
    [
        ("BlenderbotSmall", "mixed_bfloat16"),
        pytest.param("Pegasus", "mixed_bfloat16", marks=pytest.mark.heavy),
        pytest.param("Pegasus", "mixed_float16", marks=pytest.mark.heavy),
    ],
)
def test_mixed_precision_gives_plausible_ids(family, policy):
    whole = twin(TensorFlow(), thin(family))
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(policy)
        mixed = copied(TensorFlow(), thin(family))
    finally:
        keras.config.set_dtype_policy(before)
    assert mixed.compute_dtype == policy.removeprefix("mixed_")
    agree = 0
    for seed in range(6):
        given = {**plain(source(seed)), "max_new_tokens": 4}
        expected = numbers(whole.generate(**given))[:, 1]
        for own in ({}, TensorFlow.eager):
            agree += (numbers(mixed.generate(**given, **own))[:, 1] == expected).sum()
    assert agree >= 28  # of 36
    out = mixed.generate(**given, output_scores=True, return_dict_in_generate=True)
    assert all(step.dtype == tf.float32 and np.isfinite(step).all() for step in out.scores[:-1])
    for options in (
        ({"num_beams": 3}, CONTRAST, GROUPS) if family == "Pegasus" and policy == "mixed_bfloat16" else ({},)
    ):
        masked = {**given, "attention_mask": given["attention_mask"] * 0}
        assert mixed.generate(**masked, **options).shape[0] == 3


def test_random_words_are_those_that_are_published():
    """Known answers of Random123 1.09 for Threefry-2x32 with 20 rounds; compiled and not."""
    known = [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ]
    for function in (threefry, tf.function(threefry, jit_compile=True)):
        for key, counter, words in known:
            given = ([tf.constant(word, tf.uint32) for word in pair] for pair in (key, counter))
            assert tuple(int(word) for word in function(*given)) == words


def test_shapes_beyond_the_room_for_xla_programs_run_as_graphs(monkeypatch, caplog):
    model, options = thin("Pegasus"), {"max_new_tokens": 4, "num_beams": 2}
    own = twin(TensorFlow(), model)
    for name, most in (("PROGRAMS", 1), ("GRAPHS", 2)):
        kept = getattr(generation, name)
        monkeypatch.setattr(generation, name, Programs(kept._make, kept._drop, most))
    for rows in (1, 2, 3, 4, 1, 2):
        inputs = source(rows, rows=rows)
        found = own.generate(**plain(inputs), **options)
        assert found.numpy().tolist() == model.generate(**inputs, **options).tolist()
    assert generation.PROGRAMS.made == {"decode": 1}
    assert generation.GRAPHS.made == {"decode": 4} and len(generation.GRAPHS) == 2
    said = [record.getMessage() for record in caplog.records if "TensorFlow graphs" in record.getMessage()]
    assert len(said) == 1 and "compiled 1 programs" in said[0]
