"""The Flax models against transformers 4.57.6's Flax classes and our PyTorch ones, value by value, stage by stage."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from seq2seq_models.core.leaves import from_flax
from seq2seq_models.flax import weights
from seq2seq_models.flax.attention import causal_mask, padding_mask
from seq2seq_models.flax.layers import ACTIVATIONS
from seq2seq_models.pytorch.layers import ACTIVATIONS as TORCH_ACTIVATIONS

from .tiny import FAMILIES
from .tiny_flax import BASE, CAUSAL, FULL, arrays, near, trio

pytestmark = pytest.mark.reference
EVERYTHING = {"output_attentions": True, "output_hidden_states": True}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def torch_inputs(inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in inputs.items()}


@pytest.mark.parametrize("head", [BASE, FULL])
def test_every_state_attention_and_logit(family, head):
    """Embeddings are the first hidden state, one layer the second, encoder and decoder the last, then the logits."""
    theirs, mine, in_torch = trio(family, head)
    inputs = arrays()
    a, b = theirs(**inputs, **EVERYTHING), mine(**inputs, **EVERYTHING)
    assert list(b.keys()) == [key for key in a.keys() if a[key] is not None]
    for key in b:
        near(b[key], a[key])
    with torch.no_grad():
        c = in_torch(**torch_inputs(inputs), **EVERYTHING, use_cache=False)
    assert list(b.keys()) == list(c.keys())
    for key in b:
        near(b[key], c[key])


def test_positions_masks_and_default_targets(family):
    theirs, mine, _ = trio(family)
    inputs = arrays()
    near(mine(inputs["input_ids"]).logits, theirs(inputs["input_ids"]).logits)
    rng = np.random.default_rng(3)
    inputs["decoder_attention_mask"] = (rng.random((3, 7)) < 0.7).astype(np.int64)
    inputs["decoder_attention_mask"][:, 0] = 1
    inputs["position_ids"] = rng.integers(0, 37, (3, 11))
    inputs["decoder_position_ids"] = rng.integers(0, 37, (3, 7))
    near(mine(**inputs).logits, theirs(**inputs).logits)


@pytest.mark.parametrize(
    "overrides", [{"scale_embedding": True}, {"tie_word_embeddings": False}], ids=["scale", "head"]
)
def test_scaled_embeddings_and_a_head_of_its_own(family, overrides):
    theirs, mine, _ = trio(family, FULL, **overrides)
    near(mine(**arrays()).logits, theirs(**arrays()).logits)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations(name):
    """All names a config may carry, against the PyTorch wing's, which are compared with the reference."""
    values = np.linspace(-6, 6, 101, dtype=np.float32)
    near(ACTIVATIONS[name](jnp.asarray(values)), TORCH_ACTIVATIONS[name]()(torch.from_numpy(values)))
    assert set(ACTIVATIONS) == set(TORCH_ACTIVATIONS)


@pytest.mark.parametrize("head", [BASE, FULL])
@pytest.mark.parametrize("return_dict", [True, False])
def test_encode_and_decode(family, head, return_dict):
    theirs, mine, _ = trio(family, head)
    inputs = arrays()
    source = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    options = {"return_dict": return_dict, **EVERYTHING}
    a, b = theirs.encode(**source, **options), mine.encode(**source, **options)
    assert type(b) is tuple if not return_dict else b.keys() == a.keys()
    near(tuple(b) if not return_dict else b.to_tuple(), tuple(a) if not return_dict else a.to_tuple())
    masks = {"encoder_attention_mask": inputs["attention_mask"]}
    a = theirs.decode(inputs["decoder_input_ids"], a, **masks, **options)
    b = mine.decode(inputs["decoder_input_ids"], b, **masks, **options)
    near(tuple(b) if not return_dict else b.to_tuple(), tuple(a) if not return_dict else a.to_tuple())


@pytest.mark.parametrize("head", [BASE, FULL])
def test_decoding_with_the_cache_of_init_cache(family, head):
    """Step by step as the reference, and as the whole pass; the caches hold the same under the same names."""
    theirs, mine, _ = trio(family, head)
    inputs = arrays()
    encoded = mine.encode(inputs["input_ids"], inputs["attention_mask"])
    mask = {"encoder_attention_mask": inputs["attention_mask"]}
    caches = [model.init_cache(3, 9, encoded) for model in (theirs, mine)]
    assert jax.tree.structure(caches[0]) == jax.tree.structure(caches[1])
    whole = mine.decode(inputs["decoder_input_ids"], encoded, **mask)[0]
    for start, end in ((0, 3), (3, 4), (4, 7)):
        ids = inputs["decoder_input_ids"][:, start:end]
        positions = np.broadcast_to(np.arange(start, end), ids.shape)
        room = {"decoder_attention_mask": np.ones((3, 9), np.int32)}
        a = theirs.decode(ids, encoded, **mask, **room, decoder_position_ids=positions, past_key_values=caches[0])
        b = mine.decode(ids, encoded, **mask, past_key_values=caches[1])
        near(b[0], a[0])
        near(b[0], whole[:, start:end])
        caches = [a.past_key_values, b.past_key_values]
        jax.tree.map(near, caches[1], caches[0])


def test_a_loop_of_ones_own(family):
    """prepare_inputs_for_generation and update_inputs_for_generation, as the reference's own loop uses them."""
    theirs, mine, _ = trio(family)
    inputs = arrays()
    rows = {}
    for model in (theirs, mine):
        tokens = np.full((3, 1), model.config.decoder_start_token_id)
        encoded = model.encode(inputs["input_ids"], inputs["attention_mask"])
        options = model.prepare_inputs_for_generation(
            jnp.asarray(tokens), 6, attention_mask=inputs["attention_mask"], encoder_outputs=encoded
        )
        found = [tokens]
        for _ in range(5):
            out = model.decode(found[-1], **options)
            found.append(np.asarray(out.logits[:, -1].argmax(-1))[:, None])
            options = model.update_inputs_for_generation(out, options)
        rows[model] = np.concatenate(found, 1)
    assert (rows[mine] == rows[theirs]).all()


def test_padded_prompts_get_their_own_positions(family):
    theirs, mine, _ = trio(family)
    encoded = (jnp.zeros((3, 11, 24)),)
    mask = jnp.array([[1, 1, 1], [0, 1, 1], [0, 0, 1]], jnp.int32)
    ids = jnp.asarray(arrays()["decoder_input_ids"][:, :3], jnp.int32)
    a, b = (
        m.prepare_inputs_for_generation(ids, 5, decoder_attention_mask=mask, encoder_outputs=encoded)
        for m in (theirs, mine)
    )
    for key in ("decoder_attention_mask", "decoder_position_ids"):
        near(b[key], a[key])


def test_the_static_step_is_the_whole_pass(family):
    """Prompt of three and then single tokens, two beams an input, jitted with a traced place."""
    _, mine, _ = trio(family)
    inputs = arrays()
    module, variables = mine.module, {"params": mine.params}
    ids, mask = (jnp.asarray(inputs[name], jnp.int32) for name in ("input_ids", "attention_mask"))
    target = np.random.default_rng(5).integers(3, 83, (6, 7)).astype(np.int32)
    encoded = module.apply(variables, ids, mask, method="encode").last_hidden_state
    cross = module.apply(variables, encoded, method="cross_entries")
    assert cross[0][0].shape == (3, 6, 11, 4) and len(cross) == 3

    @jax.jit
    def step(params, tokens, start, cache):
        places = start + jnp.arange(tokens.shape[1], dtype=jnp.int32)
        return module.apply(
            {"params": params},
            tokens,
            start,
            cache,
            cross,
            causal_mask(None, places, 9, jnp.float32),
            padding_mask(mask, jnp.float32),
            method="step",
            need_weights=True,
            need_hidden=True,
        )

    repeated = [np.repeat(inputs[name], 2, 0) for name in ("input_ids", "attention_mask")]
    whole = mine(*repeated, target, **EVERYTHING)
    cache = module.apply(variables, 6, 9, method="entries")
    for start, end in ((0, 3), (3, 4), (4, 5), (5, 7)):
        hidden, cache, details = step(mine.params, target[:, start:end], jnp.int32(start), cache)
        near(module.apply(variables, hidden, method="head"), whole.logits[:, start:end])
        near(details.hidden_states, tuple(state[:, start:end] for state in whole.decoder_hidden_states))
        near(details.cross_attentions, tuple(w[:, :, start:end] for w in whole.cross_attentions))
        for one, other in zip(details.attentions, whole.decoder_attentions, strict=True):
            near(one[..., :end], other[:, :, start:end, :end])
            assert not one[..., end:].any()


@pytest.mark.parametrize("cross", [True, False])
def test_causal_lm(family, cross):
    _, mine, in_torch = trio(family, CAUSAL)
    ids = arrays()["decoder_input_ids"]
    memory = np.random.default_rng(8).standard_normal((3, 9, 24)).astype(np.float32)
    options: dict[str, Any] = {"attention_mask": np.array([[1] * 7, [1] * 5 + [0] * 2, [1] * 7])}
    if cross:
        options |= {"encoder_hidden_states": memory, "encoder_attention_mask": arrays(source=9)["attention_mask"]}
    with torch.no_grad():
        a = in_torch(torch.from_numpy(ids), **torch_inputs(options), **EVERYTHING, use_cache=False)
    b = mine(ids, **options, **EVERYTHING)
    assert list(a.keys()) == list(b.keys())
    for key in b:
        near(b[key], a[key])
    assert mine.config.is_decoder and not mine.config.is_encoder_decoder
    first = mine(ids[:, :4], **options | {"attention_mask": None}, past_key_values=mine.init_cache(3, 8))
    rest = mine(ids[:, 4:], **options | {"attention_mask": None}, past_key_values=first.past_key_values)
    whole = mine(ids, **options | {"attention_mask": None})
    near(jnp.concatenate([first.logits, rest.logits], 1), whole.logits)


def loss_of(model: Any, inputs: dict[str, np.ndarray], labels: np.ndarray) -> Any:
    def loss(params: Any) -> Any:
        logits = model(**inputs, params=params).logits
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(labels)[..., None], -1)
        return -chosen.mean()

    return loss


def test_loss_and_gradients(family):
    theirs, mine, in_torch = trio(family)
    inputs, labels = arrays(), arrays(seed=4)["decoder_input_ids"]
    inputs["decoder_input_ids"][:, 0] = 0  # padding, as what Pegasus begins with
    (a, a_gradient), (b, b_gradient) = (
        jax.value_and_grad(loss_of(model, inputs, labels))(model.params) for model in (theirs, mine)
    )
    near(b, a)
    assert jax.tree.structure(a_gradient) == jax.tree.structure(b_gradient)
    # There the pad row learns from being looked up, in PyTorch and here it does not.
    inner = b_gradient["model"]["shared"]
    assert not np.allclose(inner["embedding"][0], a_gradient["model"]["shared"]["embedding"][0])
    pad = a_gradient["model"]["shared"]["embedding"].at[0].set(inner["embedding"][0])
    a_gradient = {**a_gradient, "model": {**a_gradient["model"], "shared": {"embedding": pad}}}
    jax.tree.map(near, b_gradient, a_gradient)
    assert not b_gradient["final_logits_bias"].any()

    in_torch.zero_grad()
    loss = in_torch(**torch_inputs(inputs), labels=torch.from_numpy(labels)).loss
    loss.backward()
    near(b, loss)
    compared = 0
    named = dict(in_torch.named_parameters())
    for path, gradient in weights.flatten(b_gradient):
        name, transpose = from_flax(path)
        if name in named:
            near(gradient.T if transpose else gradient, named[name].grad)
            compared += 1
    assert compared == len(list(weights.flatten(b_gradient))) - 1


def test_a_padded_batch_equals_each_row_alone(family):
    _, mine, _ = trio(family)
    inputs = arrays()
    together = mine(**inputs).logits
    for row in range(3):
        length = int(inputs["attention_mask"][row].sum())
        alone = mine(inputs["input_ids"][row : row + 1, :length], None, inputs["decoder_input_ids"][row : row + 1])
        near(together[row : row + 1], alone.logits)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float16", 0.03), ("bfloat16", 0.25)])
def test_other_precisions_follow_float32_and_masked_rows_stay_finite(family, dtype, tolerance):
    from .tiny import reference
    from .tiny_flax import ours_of

    _, mine, _ = trio(family)
    half = ours_of(reference(family), family, dtype=dtype)
    assert half.dtype == dtype and {leaf.dtype.name for leaf in jax.tree.leaves(half.params)} == {"float32"}
    inputs = arrays()
    out = half(**inputs, output_hidden_states=True)
    assert out.logits.dtype == jnp.float32 and out.encoder_last_hidden_state.dtype == dtype
    np.testing.assert_allclose(out.logits, mine(**inputs).logits, atol=20 * tolerance, rtol=tolerance)
    inputs["attention_mask"] = inputs["attention_mask"].copy()
    inputs["attention_mask"][1] = 0
    inputs["decoder_attention_mask"] = np.array([[1] * 7, [0] * 7, [0, 0, 1, 1, 1, 1, 1]])
    assert jnp.isfinite(half(**inputs).logits).all()


def test_fp16_encoder_is_clamped(family):
    from seq2seq_models.flax.layers import EncoderLayer

    _, mine, _ = trio(family)
    layer = EncoderLayer(mine.config, jnp.float16)
    held = jax.tree.map(lambda x: x, mine.params["model"]["encoder"]["layers"]["0"])
    held["fc2"]["bias"] = jnp.full((24,), 65000.0)
    hidden = 100 * jax.random.normal(jax.random.key(0), (1, 4, 24), jnp.float16)
    out, _ = layer.apply({"params": held}, hidden, None)
    assert jnp.abs(out).max() <= 64504
