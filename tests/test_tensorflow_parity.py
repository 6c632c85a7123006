"""TensorFlow against transformers 4.57.6's TensorFlow classes and our PyTorch models, by value, stage by stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch

import seq2seq_models
from seq2seq_models.core.positions import sinusoidal_table

from .tiny import FAMILIES, batch, ours_like
from .tiny_tensorflow import (
    BASE,
    CAUSAL,
    FULL,
    LIBRARY_WARNINGS,
    folder,
    gradients,
    inputs,
    loaded,
    near,
    tensors,
    trio,
    variables,
    variables_of_reference,
)

pytestmark = [pytest.mark.reference, LIBRARY_WARNINGS, pytest.mark.parametrize("family", FAMILIES)]
FIELDS = ("decoder_hidden_states", "decoder_attentions", "cross_attentions")
FIELDS += ("encoder_last_hidden_state", "encoder_hidden_states", "encoder_attentions", "past_key_values")


def test_every_weight_is_where_it_belongs(family: str) -> None:
    _, pytorch, ours = trio(family)
    state = pytorch.state_dict()
    named = variables(ours)
    for name, (value, transpose) in named.items():
        values = value.numpy()
        assert np.array_equal(values.T if transpose else values, state[name].numpy()), name
    tied = {"lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"}
    assert named.keys() == state.keys() - tied


def test_embeddings(family: str) -> None:
    theirs, pytorch, ours = trio(family, BASE)
    given = inputs()
    for side, ids in (("encoder", given["input_ids"]), ("decoder", given["decoder_input_ids"])):
        hidden = getattr(ours, side)._embed(ids, None)
        near(hidden, getattr(pytorch, side)._embed(torch.from_numpy(ids.numpy()).long(), None))
        reference = theirs.model.encoder(ids, output_hidden_states=True).hidden_states
        if side == "encoder":
            near(hidden, reference[0])


def test_positions(family: str) -> None:
    _, pytorch, ours = trio(family, BASE)
    table = ours.decoder.embed_positions
    near(table.call((1, 5), 3), pytorch.decoder.embed_positions((1, 5), 3))
    near(table.call((1, 5), tf.constant(3)), pytorch.decoder.embed_positions((1, 5), 3))
    near(table.call((1, 2), 0, tf.constant([6, 1])), pytorch.decoder.embed_positions.weight[[6, 1]])
    is_computed = family == "Pegasus"
    if is_computed:
        assert np.array_equal(table.embeddings.numpy(), sinusoidal_table(37, 24))
    positions = [one for one in ours.weights if "embed_positions" in one.path]
    assert len(positions) == (0 if is_computed else 2)
    assert ours.num_parameters() == sum(p.numel() for p in pytorch.parameters() if p.requires_grad)


def test_one_layer_of_each_side(family: str) -> None:
    theirs, pytorch, ours = trio(family, BASE)
    generator = np.random.default_rng(0)
    hidden, memory = (generator.normal(size=(2, length, 24)).astype("float32") for length in (5, 7))
    out, weights = ours.encoder.layers[1].call(tf.constant(hidden))
    expected, expected_weights = pytorch.encoder.layers[1](torch.from_numpy(hidden), None, None, True)
    near((out, weights), (expected, expected_weights))
    reference = theirs.model.encoder.layers[1](tf.constant(hidden), tf.zeros((2, 1, 5, 5)), tf.ones(4))
    near((out, weights), reference)
    decoded = ours.decoder.layers[2].call(hidden_states=tf.constant(hidden), encoder_hidden_states=tf.constant(memory))
    expected = pytorch.decoder.layers[2](
        torch.from_numpy(hidden), torch.zeros(1, 1, 5, 5), torch.from_numpy(memory), output_attentions=True
    )
    near(decoded, expected)
    reference = theirs.model.decoder.layers[2](
        tf.constant(hidden), encoder_hidden_states=tf.constant(memory), encoder_attention_mask=tf.zeros((2, 1, 5, 7))
    )
    near(decoded, reference[:3])


@pytest.mark.parametrize("scale_embedding", [False, True])
def test_all_that_a_forward_pass_returns(family: str, scale_embedding: bool) -> None:
    theirs, pytorch, ours = trio(family, scale_embedding=scale_embedding)
    options = {"output_attentions": True, "output_hidden_states": True, "use_cache": True}
    out = ours(**inputs(), **options)
    expected = theirs(**inputs(), **options)
    # Logits reach 12: 1e-5 of that is what the last bits of two sums in another order differ by.
    near(out.logits, expected.logits, 3e-5)
    for field in FIELDS:
        near(out[field], expected[field])
    with torch.no_grad():
        own = pytorch(**batch(), **options)
    near(out.logits, own.logits, 3e-5)
    for field in FIELDS[:-1]:
        near(out[field], own[field])
    near(out.past_key_values, own.past_key_values.to_legacy_cache())
    near(ours(**inputs(), **options, return_dict=False), expected.to_tuple(), 3e-5)
    assert isinstance(out, seq2seq_models.TFSeq2SeqLMOutput)


def test_the_base_model(family: str) -> None:
    theirs, pytorch, ours = trio(family, BASE)
    out = ours(**inputs())
    near(out.last_hidden_state, theirs(**inputs()).last_hidden_state)
    near(out.last_hidden_state, pytorch(**batch()).last_hidden_state)
    assert list(out) == ["last_hidden_state", "past_key_values", "encoder_last_hidden_state"]
    encoded = ours.get_encoder()(inputs()["input_ids"], attention_mask=inputs()["attention_mask"])
    near(encoded.last_hidden_state, out.encoder_last_hidden_state)


def test_the_causal_model(family: str) -> None:
    _, pytorch, ours = trio(family, CAUSAL)
    given = batch()
    target, mask = given["decoder_input_ids"], torch.ones(3, 7, dtype=torch.long)
    mask[1, 5:] = 0
    memory = torch.randn(3, 11, 24)
    options: dict[str, Any] = {"output_attentions": True, "output_hidden_states": True}
    for extra in ({}, {"encoder_hidden_states": memory, "encoder_attention_mask": given["attention_mask"]}):
        with torch.no_grad():
            expected = pytorch(input_ids=target, attention_mask=mask, labels=target, **extra, **options)
        out = ours(
            input_ids=target.numpy(),
            attention_mask=mask.numpy(),
            labels=target.numpy(),
            **{name: value.numpy() for name, value in extra.items()},
            **options,
        )
        assert list(out) == list(expected)
        for field in ("loss", "logits", "hidden_states", "attentions", *(["cross_attentions"] if extra else [])):
            near(out[field], expected[field], 3e-5 if field == "logits" else 1e-5)
        near(out.past_key_values, expected.past_key_values.to_legacy_cache())


def test_head_masks(family: str) -> None:
    theirs, pytorch, ours = trio(family)
    draw = torch.Generator().manual_seed(3)
    masks = {
        "head_mask": torch.randint(0, 2, (2, 4), generator=draw).float(),
        "decoder_head_mask": torch.randint(0, 2, (3, 6), generator=draw).float(),
        "cross_attn_head_mask": torch.randint(0, 2, (3, 6), generator=draw).float(),
    }
    given = {name: tf.constant(mask.numpy()) for name, mask in masks.items()}
    out = ours(**inputs(), **given).logits
    near(out, theirs(**inputs(), **given).logits, 3e-5)
    with torch.no_grad():
        near(out, pytorch(**batch(), **masks).logits, 3e-5)
    assert np.abs(out - ours(**inputs()).logits).max() > 0.1


def test_decoder_masks_positions_and_embeddings_given(family: str) -> None:
    theirs, _, ours = trio(family, scale_embedding=True)
    given = inputs()
    mask = tf.constant([[1] * 7, [1] * 5 + [0] * 2, [1] * 6 + [0]])
    for extra in (
        {"decoder_attention_mask": mask},
        {"decoder_position_ids": tf.constant([3, 4, 5, 6, 7, 8, 9])},
        {"decoder_position_ids": tf.constant([[0, 1, 2, 3, 4, 5, 6]] * 2 + [[6, 5, 4, 3, 2, 1, 0]])},
    ):
        near(ours(**given, **extra).logits, theirs(**given, **extra).logits, 3e-5)
    vectors = ours.get_input_embeddings()
    embeds = {
        "inputs_embeds": vectors(given["input_ids"]),
        "decoder_inputs_embeds": vectors(given["decoder_input_ids"]),
        "attention_mask": given["attention_mask"],
    }
    near(ours(**embeds).logits, theirs(None, **embeds).logits, 3e-5)


def test_encoder_outputs_may_be_given(family: str) -> None:
    _, _, ours = trio(family)
    given = inputs()
    whole = ours(**given).logits
    encoded = ours.get_encoder()(given.pop("input_ids"), attention_mask=given["attention_mask"])
    for form in (encoded, encoded.to_tuple(), list(encoded.to_tuple()), encoded.last_hidden_state, dict(encoded)):
        near(ours(**given, encoder_outputs=form).logits, whole)


def test_a_cached_step_is_the_full_pass(family: str) -> None:
    theirs, _, ours = trio(family)
    given = inputs()
    ids = given.pop("decoder_input_ids")
    whole = ours(**given, decoder_input_ids=ids).logits
    first = ours(**given, decoder_input_ids=ids[:, :4])
    assert [len(layer) for layer in first.past_key_values] == [4, 4, 4]
    given["encoder_outputs"] = (first.encoder_last_hidden_state,)
    given.pop("input_ids")
    second = ours(**given, decoder_input_ids=ids[:, 4:], past_key_values=first.past_key_values)
    near(second.logits, whole[:, 4:], 3e-5)
    reference = theirs(
        None, **given, decoder_input_ids=ids[:, 4:5], past_key_values=first.past_key_values, use_cache=True
    )
    one = ours(**given, decoder_input_ids=ids[:, 4:5], past_key_values=first.past_key_values, use_cache=True)
    near(one.logits, reference.logits, 3e-5)
    near(one.past_key_values, reference.past_key_values)
    short = tuple(layer[:2] for layer in first.past_key_values)
    near(ours(**given, decoder_input_ids=ids[:, 4:], past_key_values=short).logits, whole[:, 4:], 3e-5)


def test_loss_and_every_gradient(family: str) -> None:
    theirs, pytorch, ours = trio(family)
    given = batch()
    labels = given.pop("decoder_input_ids").clone()
    labels[0, 5:], labels[2, 3:] = -100, 0
    source = {**tensors(given), "labels": tf.constant(labels.numpy())}
    with tf.GradientTape() as tape:
        loss = ours(**source).loss
    found = gradients(tape, loss, variables(ours))
    with tf.GradientTape() as tape:
        expected_loss = theirs(**source).loss
    expected = gradients(tape, expected_loss, variables_of_reference(theirs))
    near(loss, expected_loss[0])
    assert loss.dtype == tf.float32
    frozen = {"model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"}
    assert found.keys() == (expected.keys() - frozen if family == "Pegasus" else expected.keys())
    shared = "model.shared.weight"
    for name, gradient in found.items():
        rows = slice(1, None) if name == shared else slice(None)
        near(gradient[rows], expected[name][rows])
    # There the padding token, with which Pegasus' target starts, learns from being looked up; in PyTorch and here not.
    assert np.allclose(found[shared][0], expected[shared][0]) == (family == "BlenderbotSmall")
    # Padding in labels counts in PyTorch, so it is marked there.
    pytorch.zero_grad()
    own = pytorch(**given, labels=labels.masked_fill(labels == 0, -100)).loss
    own.backward()
    near(loss, own)
    for name, parameter in pytorch.named_parameters():
        if parameter.grad is not None:
            near(found[name], parameter.grad)
    pytorch.zero_grad()


def test_the_loss_alone(family: str) -> None:
    theirs, _, ours = trio(family)
    labels = tf.constant([[5, 6, -100], [-100, -100, 7]])
    logits = tf.random.normal((2, 3, 83))
    near(ours.hf_compute_loss(labels, logits), theirs.hf_compute_loss(labels, logits)[0])
    assert float(ours.hf_compute_loss(tf.fill((2, 3), -100), logits)) == 0.0


@pytest.mark.parametrize("length", [1, 36, 37])
def test_every_length_up_to_the_limit(family: str, length: int) -> None:
    theirs, _, ours = trio(family)
    given = inputs(source=length, target=length)
    near(ours(**given).logits, theirs(**given).logits, 3e-5)


def test_padded_rows_equal_each_row_alone(family: str) -> None:
    _, _, ours = trio(family)
    given = inputs()
    call = tf.function(lambda **named: ours(**named).logits, jit_compile=True)
    for run in (lambda **named: ours(**named).logits, call):
        whole = run(**given)
        for row in range(3) if run is not call else [2]:  # each length is compiled anew
            kept = int(tf.reduce_sum(given["attention_mask"][row]))
            alone = run(
                input_ids=given["input_ids"][row : row + 1, :kept],
                attention_mask=given["attention_mask"][row : row + 1, :kept],
                decoder_input_ids=given["decoder_input_ids"][row : row + 1],
            )
            near(whole[row : row + 1], alone, 3e-5)


def test_untied_heads(family: str) -> None:
    _, pytorch, ours = trio(family, CAUSAL, tie_word_embeddings=False)
    given = batch()["decoder_input_ids"]
    with torch.no_grad():
        near(ours(given.numpy()).logits, pytorch(given).logits, 3e-5)
    assert ours.get_output_embeddings().kernel.shape == (24, 83)
    assert ours.num_parameters() == sum(p.numel() for p in pytorch.parameters() if p.requires_grad)
    full = loaded(family, FULL, tie_word_embeddings=False)
    with torch.no_grad():
        expected = ours_like(folder(family, FULL, tie_word_embeddings=False)[1])(**batch()).logits
    near(full(**inputs()).logits, expected, 3e-5)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu", "quick_gelu", "tanh", "sigmoid", "linear"])
def test_activations(family: str, activation: str) -> None:
    # The reference in TensorFlow knows no "linear".
    pytorch = ours_like(folder(family, BASE, activation_function=activation)[1])
    ours = loaded(family, BASE, activation_function=activation)
    with torch.no_grad():
        near(ours(**inputs()).last_hidden_state, pytorch(**batch()).last_hidden_state)
