"""TensorFlow models around their forward pass: inputs, embeddings, loading, saving, serving, imports."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
import transformers

import seq2seq_models
from seq2seq_models.errors import ConfigError, InputError

from .tiny import FAMILIES, HEADS, batch, ours_like, settings
from .tiny_tensorflow import BASE, CAUSAL, FULL, LIBRARY_WARNINGS, folder, inputs, loaded, near, trio

pytestmark = [pytest.mark.reference, LIBRARY_WARNINGS]
SOURCE = Path(seq2seq_models.__file__).parent.parent


def python(code: str, *arguments: str, with_library: bool = True) -> str:
    """What the code prints in a fresh process."""
    inherited = {"PYTHONPATH", "TF_USE_LEGACY_KERAS"}  # the reference sets the second when its TF classes load
    environment = {name: value for name, value in os.environ.items() if name not in inherited}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", **({"PYTHONPATH": str(SOURCE)} if with_library else {})}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# ---- inputs


def test_every_form_of_the_first_argument() -> None:
    model, given = loaded("Pegasus"), inputs()
    whole = model(**given).logits
    ids, mask, target = given["input_ids"], given["attention_mask"], given["decoder_input_ids"]
    for form in (
        given,
        [ids, mask, target],
        (ids, mask, target),
        {name: value.numpy() for name, value in given.items()},
        seq2seq_models.BatchEncoding(dict(given)),
        {**given, "token_type_ids": ids, "labels": None},
    ):
        near(model(form).logits, whole)
    near(model(ids, mask, target).logits, whole)
    near(model(ids, attention_mask=mask, decoder_input_ids=target).logits, whole)
    near(loaded("Pegasus", CAUSAL)(target).logits, loaded("Pegasus", CAUSAL)(input_ids=target).logits)
    with pytest.raises(InputError, match="a list of inputs must have at most 18 items, got 19"):
        model([ids] * 19)


def test_symbolic_inputs_make_a_functional_model() -> None:
    model, given = loaded("BlenderbotSmall"), inputs()
    symbols = {name: keras.Input((None,), dtype="int32", name=name) for name in given}
    in_any_order = [symbols["decoder_input_ids"], symbols["attention_mask"], symbols["input_ids"]]
    for form in (symbols, in_any_order):
        functional = keras.Model(symbols, model(form).logits)
        near(functional(given), model(**given).logits)


def test_plain_and_compiled_functions_of_a_model() -> None:
    model, given = loaded("Pegasus"), inputs()
    whole = model(**given)
    out = tf.function(model)(**given)
    assert type(out) is type(whole) and list(out) == list(whole)
    near(out.past_key_values, whole.past_key_values)
    dynamic = tf.function(model, input_signature=None).get_concrete_function(**model.input_signature)
    mask = tf.ones_like(given["decoder_input_ids"])
    near(dynamic(**given, decoder_attention_mask=mask).logits, whole.logits, 3e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"input_ids": tf.ones((1, 38), "int32")}, r"^the sequence must have at most 37 positions .*, got 38\."),
        ({"decoder_input_ids": tf.ones((3, 38), "int32")}, r"^the sequence must have at most 37 positions"),
        ({"decoder_position_ids": tf.range(31, 38)}, r"^the sequence must have at most 37 positions"),
        ({"input_ids": tf.constant([[83]])}, r"^token ids must be between 0 and 82, got ids from 83 to 83\."),
        ({"decoder_input_ids": tf.constant([[-1]] * 3)}, r"^token ids must be between 0 and 82"),
        ({"decoder_input_ids": None}, r"^exactly one of `decoder_input_ids` and .* must be given, got neither\."),
        ({"inputs_embeds": tf.zeros((3, 11, 24))}, r"^exactly one of `input_ids` and .* must be given, got both\."),
        ({"head_mask": tf.ones((3, 4))}, r"^`head_mask` must have one row for each of 2 layers, got 3\."),
        ({"attention_mask": tf.ones((3, 1, 11))}, r"^`attention_mask` must have 2 or 4 dimensions, got 3\."),
        ({"decoder_attention_mask": tf.ones((3, 8))}, r"^`decoder_attention_mask` must have 7 columns"),
        ({"encoder_outputs": ()}, r"^`encoder_outputs` must have 1 to 3 parts, got 0\."),
    ],
)
def test_inputs_that_cannot_be_taken(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trio("Pegasus")[2](**{**inputs(), **changed})


def test_too_long_an_input_raises_while_tracing() -> None:
    model = trio("Pegasus")[2]
    given = {"input_ids": tf.ones((1, 38), "int32"), "decoder_input_ids": tf.ones((1, 1), "int32")}
    for function in (model, lambda **named: model(**named)):
        with pytest.raises(InputError, match="at most 37 positions"):
            tf.function(function, jit_compile=True)(**given)


def test_configs_of_another_family_are_refused() -> None:
    with pytest.raises(ConfigError, match="must be a PegasusConfig, got BlenderbotSmallConfig"):
        seq2seq_models.TFPegasusModel(seq2seq_models.BlenderbotSmallConfig(**settings("BlenderbotSmall")))


# ---- embeddings, bias, sizes


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_and_bias(family: str) -> None:
    model = loaded(family)
    embedding = model.get_input_embeddings()
    assert model.get_output_embeddings() is embedding is model.get_encoder().embed_tokens
    near(embedding(tf.constant([[3]]))[0, 0], embedding.embeddings.numpy()[3])
    bias = model.get_bias()["final_logits_bias"]
    before = model(**inputs()).logits
    model.set_bias({"final_logits_bias": bias + 1.0})
    near(model(**inputs()).logits, before + 1.0, 3e-5)
    assert not model.get_bias()["final_logits_bias"].trainable
    model.set_input_embeddings(tf.zeros((83, 24)))
    assert np.abs(model.get_decoder().embed_tokens.embeddings.numpy()).max() == 0
    base = loaded(family, BASE)
    assert base.get_output_embeddings() is None and base.get_bias() is None
    for change in (lambda: base.set_bias({}), lambda: base.set_output_embeddings(None), lambda: base.prune_heads({})):
        with pytest.raises(NotImplementedError):
            change()


@pytest.mark.parametrize("size", [90, 60])
@pytest.mark.parametrize("tied", [True, False])
def test_resizing_the_vocabulary(size: int, tied: bool) -> None:
    model = loaded("BlenderbotSmall", FULL, tie_word_embeddings=tied)
    given = {name: tf.minimum(value, 59) for name, value in inputs().items()}
    before = model(**given).logits
    assert model.resize_token_embeddings() is model.get_input_embeddings()
    embedding = model.resize_token_embeddings(size)
    after = model(**given).logits
    assert after.shape[-1] == size == model.config.vocab_size == embedding.input_dim
    kept = min(size, 83)
    near(after[..., :kept], before[..., :kept], 3e-5)
    assert (model.get_bias()["final_logits_bias"].numpy()[0, 83:] == 0).all()
    assert sum("embeddings" in weight.path and weight.shape[0] in (83, size) for weight in model.weights) == 1
    with pytest.raises(InputError, match="`new_num_tokens` must be at least 1, got 0"):
        model.resize_token_embeddings(0)


@pytest.mark.parametrize("family", FAMILIES)
def test_resizing_the_positions(family: str) -> None:
    model = loaded(family)
    before = model(**inputs()).logits
    model.resize_position_embeddings(45)
    near(model(**inputs()).logits, before)
    assert [table.num_embeddings for table in model.get_position_embeddings()] == [45, 45]
    assert np.isfinite(model(**inputs(source=45)).logits).all() and model.config.max_position_embeddings == 45


# ---- loading and saving


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_weights_are_those_of_pytorch(family: str, head: str, tmp_path: Path) -> None:
    original = folder(family, head)[1]
    model = loaded(family, head)
    model.save_pretrained(tmp_path / "safe")
    again = getattr(seq2seq_models, family + head).from_pretrained(tmp_path / "safe")
    expected = ours_like(original).state_dict()
    assert again.state_dict().keys() == expected.keys()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    config = json.loads((tmp_path / "safe" / "config.json").read_text())
    assert config["architectures"] == [family + head] and config["vocab_size"] == 83
    if head != CAUSAL:
        model.save_pretrained(tmp_path / "h5", safe_serialization=False)
        theirs = getattr(transformers, f"TF{family}{head}").from_pretrained(tmp_path / "h5")
        near(theirs(**inputs())[0], model(**inputs())[0], 3e-5)
        near(type(model).from_pretrained(tmp_path / "h5")(**inputs())[0], model(**inputs())[0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", tf.bfloat16])
def test_loading_in_another_dtype(dtype: Any, tmp_path: Path) -> None:
    name = dtype if isinstance(dtype, str) else dtype.name
    model = type(loaded("Pegasus")).from_pretrained(folder("Pegasus", FULL)[0], dtype=dtype)
    assert {weight.dtype for weight in model.weights} == {name}
    near(tf.cast(model(**inputs()).logits, "float32"), loaded("Pegasus")(**inputs()).logits, 0.5)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype="auto")
    assert again.dtype_policy.name == name
    near(tf.cast(again(**inputs()).logits, "float32"), tf.cast(model(**inputs()).logits, "float32"))


def test_fresh_models_are_drawn_and_loaded_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    config = seq2seq_models.PegasusConfig(**settings("Pegasus"))
    keras.utils.set_random_seed(1)
    model = seq2seq_models.TFAutoModelForSeq2SeqLM.from_config(config)
    kernel = model.get_encoder().layers[0].fc1.kernel.numpy()
    assert 0.015 < kernel.std() < 0.025 and model.get_encoder().layers[0].fc1.bias.numpy().max() == 0
    assert np.abs(model.get_input_embeddings().embeddings.numpy()[config.pad_token_id]).max() == 0
    monkeypatch.setattr(keras.random, "normal", lambda *_, **__: pytest.fail("drawn"))
    loaded("Pegasus")


def test_auto_classes_and_state_dicts() -> None:
    place, original = folder("BlenderbotSmall", FULL)
    for name, head in (("TFAutoModel", BASE), ("TFAutoModelForSeq2SeqLM", FULL), ("TFAutoModelForCausalLM", CAUSAL)):
        assert type(getattr(seq2seq_models, name).from_pretrained(place)).__name__ == f"TFBlenderbotSmall{head}"
    state = {name: value.numpy() for name, value in original.state_dict().items()}
    config = seq2seq_models.BlenderbotSmallConfig.from_pretrained(place)
    model = seq2seq_models.TFBlenderbotSmallForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=state
    )
    near(model(**inputs()).logits, loaded("BlenderbotSmall")(**inputs()).logits)


# ---- serving

SERVE = """
import sys
import numpy as np
import tensorflow as tf
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "seq2seq_models":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
served = tf.saved_model.load(sys.argv[1])
given = {name: tf.constant(value) for name, value in np.load(sys.argv[2]).items()}
ids, mask, target = given["input_ids"], given["attention_mask"], given["decoder_input_ids"]
call = served.signatures["serving_default"]
whole = call(input_ids=ids, attention_mask=mask, decoder_input_ids=target, decoder_attention_mask=tf.ones_like(target))
encoded = served.signatures["encode"](input_ids=ids, attention_mask=mask)
shape = (3, 3, 6, 9, 4)
keys, values, logits = tf.zeros(shape), tf.zeros(shape), []
for start in range(7):
    out = served.signatures["decode_step"](
        decoder_input_ids=target[:, start : start + 1], start=tf.constant(start), attention_mask=mask,
        cross_keys=encoded["cross_keys"], cross_values=encoded["cross_values"], cache_keys=keys, cache_values=values,
    )
    keys, values = out["cache_keys"], out["cache_values"]
    logits.append(out["logits"])
wide = lambda rows: tf.pad(rows[:1], [[0, 0], [0, 37 - rows.shape[1]]])
generated = served.signatures["generate"](input_ids=wide(ids), attention_mask=wide(mask))["sequences"]
np.savez(
    sys.argv[3], whole=whole["logits"], steps=tf.concat(logits, 1), memory=whole["encoder_last_hidden_state"],
    generated=generated,
)
"""


@pytest.mark.heavy
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_is_served_without_this_library(family: str, tmp_path: Path) -> None:
    model, given = loaded(family), inputs()
    model.save_pretrained(tmp_path / "out", saved_model=True, version=3)
    np.savez(tmp_path / "in.npz", **{name: value.numpy() for name, value in given.items()})
    arguments = [tmp_path / "out/saved_model/3", tmp_path / "in.npz", tmp_path / "out.npz"]
    python(SERVE, *map(str, arguments), with_library=False)
    found, expected = np.load(tmp_path / "out.npz"), model(**given)
    near(found["whole"], expected.logits, 3e-5)
    near(found["steps"], expected.logits, 3e-5)
    near(found["memory"], expected.encoder_last_hidden_state)
    wanted = model.generate(given["input_ids"][:1], attention_mask=given["attention_mask"][:1]).numpy()
    assert found["generated"][:, : wanted.shape[1]].tolist() == wanted.tolist()
    assert (found["generated"][:, wanted.shape[1] :] == model.config.pad_token_id).all()


def test_serving_output_stacks_what_the_config_asks_for() -> None:
    model = loaded("Pegasus")
    assert list(model.input_signature) == ["input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask"]
    served = model.serving(inputs())
    assert list(served) == ["logits", "past_key_values", "encoder_last_hidden_state"]
    assert [part.shape for part in served.past_key_values] == [(3, 3, 6, 7, 4)] * 2 + [(3, 3, 6, 11, 4)] * 2
    model.config.output_attentions = model.config.output_hidden_states = True
    served = model.serving(inputs())
    assert served.decoder_hidden_states.shape == (4, 3, 7, 24) and served.cross_attentions.shape == (3, 3, 6, 7, 11)
    assert np.isfinite(model(model.dummy_inputs).logits).all()


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of Keras' variables
def test_a_generation_config_goes_along(tmp_path: Path) -> None:
    """Through every way in which Keras makes the same model again, and then through save_pretrained."""
    model = loaded("Pegasus")
    model.generation_config.num_beams, model.generation_config.max_length = 8, 64
    model(**inputs())
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    model.save(tmp_path / "m.keras")
    batch = {**inputs(), "labels": inputs()["decoder_input_ids"]}
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "c.keras")
    model.fit(tf.data.Dataset.from_tensors(batch), callbacks=[checkpoint], verbose=0)
    again = [
        keras.models.load_model(tmp_path / "m.keras"),
        keras.models.load_model(tmp_path / "c.keras"),
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        keras.models.clone_model(model),
    ]
    for index, one in enumerate(again):
        assert (one.generation_config.num_beams, one.generation_config.max_length) == (8, 64)
        one.save_pretrained(tmp_path / str(index))
        assert type(model).from_pretrained(tmp_path / str(index)).generation_config.num_beams == 8


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of Keras' variables
@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_in_a_functional_model_is_saved(family: str, tmp_path: Path) -> None:
    model = loaded(family)
    ids = keras.Input((None,), dtype="int32")
    whole = keras.Model(ids, keras.layers.Dense(2)(model.get_encoder()(ids).last_hidden_state[:, 0]))
    whole.save(tmp_path / "x.keras")
    given = inputs()["input_ids"]
    near(keras.models.load_model(tmp_path / "x.keras")(given), whole(given))


def every_input() -> dict[str, Any]:
    """All that a signature takes."""
    given = inputs()
    return {**given, "decoder_attention_mask": tf.ones_like(given["decoder_input_ids"])}


@pytest.mark.parametrize("is_called", [False, True])
def test_keras_own_ways_to_export(is_called: bool, tmp_path: Path) -> None:
    model, given = loaded("BlenderbotSmall"), every_input()
    expected = model(**given).logits
    if not is_called:
        model = loaded("BlenderbotSmall")
    model.export(tmp_path / "exported", verbose=False)
    tf.saved_model.save(model, tmp_path / "saved")
    for where in ("exported", "saved"):
        signature = tf.saved_model.load(tmp_path / where).signatures["serving_default"]
        near(signature(**{name: tf.cast(value, tf.int32) for name, value in given.items()})["logits"], expected)
    concrete = model.serving.get_concrete_function(model.input_signature)
    near(concrete(**{name: tf.cast(value, tf.int32) for name, value in given.items()})["logits"], expected)
    near(model.serving({name: tf.cast(value, tf.int64) for name, value in given.items()})["logits"], expected)


@pytest.mark.filterwarnings("ignore:    tf.lite.Interpreter is deprecated")
@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_tflite_by_way_of_an_export(tmp_path: Path) -> None:
    model, given = loaded("Pegasus"), {name: tf.cast(value, tf.int32) for name, value in every_input().items()}
    with pytest.raises(InputError, match=r"model.export\(folder, input_signature"):
        tf.lite.TFLiteConverter.from_keras_model(model).convert()
    fixed = {name: tf.TensorSpec(value.shape, tf.int32, name=name) for name, value in given.items()}
    model.export(tmp_path / "x", verbose=False, input_signature=[fixed])
    content = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "x")).convert()
    found = tf.lite.Interpreter(model_content=content).get_signature_runner()(**given)
    near(found["logits"], model(**given).logits, 3e-5)


@pytest.mark.parametrize("name", ["attention_mask", "decoder_attention_mask"])
def test_a_mask_of_wrong_length_is_an_input_error(name: str) -> None:
    for length in (2, 20):
        with pytest.raises(InputError, match=f"{name}` must have"):
            loaded("Pegasus")(**{**inputs(), name: tf.ones((3, length), tf.int32)})


def test_small_things_of_transformers() -> None:
    import transformers.models.pegasus.modeling_tf_pegasus as theirs

    from seq2seq_models.tensorflow import pegasus

    model = loaded("Pegasus")
    assert model.get_lm_head() is None and model.vocab_size == 83
    model.resize_token_embeddings(90)
    assert model.vocab_size == model.config.vocab_size == 90
    assert type(model)._from_config(model.config).vocab_size == 90
    names = [name for name in vars(theirs) if name.startswith("TFPegasus") and hasattr(vars(theirs)[name], "call")]
    missing = {name for name in [*names, "shift_tokens_right"] if not hasattr(pegasus, name)}
    assert missing == {"TFPegasusMainLayer"}, "which holds no more than the model"
    with pytest.raises(ConfigError, match="`gradient_checkpointing` must be False"):
        type(model)(type(model.config)(**{**model.config.to_dict(), "gradient_checkpointing": True}))


# ---- what it is


def test_models_are_keras_3_and_no_other() -> None:
    model = trio("Pegasus")[2]
    assert isinstance(model, keras.Model) and "tf_keras" not in type(model).__mro__[1].__module__
    assert model.framework == "tf" and model.main_input_name == "input_ids" and model.base_model_prefix == "model"
    assert model.can_generate() and not seq2seq_models.TFPegasusModel.can_generate()
    assert all("/" in weight.path for weight in model.weights)
    assert any(weight.path.endswith("model/decoder/layers.2/encoder_attn/q_proj/kernel") for weight in model.weights)


def test_every_argument_of_the_reference_is_taken() -> None:
    import inspect

    for family in FAMILIES:
        for head in (BASE, FULL):
            theirs = inspect.signature(getattr(transformers, f"TF{family}{head}").call.__wrapped__)
            ours = inspect.signature(getattr(seq2seq_models, f"TF{family}{head}").call)
            assert [name for name in theirs.parameters if name != "kwargs"] == list(ours.parameters)


IMPORT = """
import json, os, sys, resource
import tensorflow, keras
environment, before = dict(os.environ), set(sys.modules)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
from seq2seq_models import TFPegasusForConditionalGeneration
megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
added = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(json.dumps([megabytes, sorted(added), environment == dict(os.environ)]))
"""


def test_importing_a_class_costs_little_and_loads_no_other_framework() -> None:
    megabytes, added, is_unchanged = json.loads(python(IMPORT).splitlines()[-1])
    assert not {"torch", "jax", "tf_keras", "transformers", "huggingface_hub", "tokenizers", "h5py"} & set(added)
    assert is_unchanged and megabytes < 30


def test_the_pytorch_batch_and_ours_are_the_same() -> None:
    for name, value in batch().items():
        assert np.array_equal(value.numpy(), inputs()[name].numpy())
