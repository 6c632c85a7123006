"""Values equal to transformers 4.57.6 at every stage, 1e-5 absolute and relative in float32 on CPU."""

from __future__ import annotations

import importlib.machinery
import sys
import types

import pytest
import torch
import transformers

import seq2seq_models
from seq2seq_models.errors import ConfigError, InputError, MissingFrameworkError

from .loading import tensors
from .tiny import FAMILIES, batch, close, ours_like, pair, reference, settings

FULL = "ForConditionalGeneration"
pytestmark = [pytest.mark.reference, pytest.mark.parametrize("family", FAMILIES)]


def states(model, inputs, **options):
    with torch.no_grad():
        return model(**inputs, **options)


def test_state_dict_has_the_hubs_names(family):
    for head in ("Model", FULL, "ForCausalLM"):
        theirs, mine = pair(family, head)
        state = theirs.state_dict()
        assert list(mine.state_dict()) == [name for name in state if name not in mine._tied_weights_keys]
        for name, weight in tensors(mine).items():
            assert state.pop(name).shape == weight.shape
        assert not state


def test_embeddings(family):
    theirs, mine = pair(family, "Model")
    inputs = batch()
    a = states(theirs, inputs, output_hidden_states=True)
    b = states(mine, inputs, output_hidden_states=True)
    close(b.encoder_hidden_states[0], a.encoder_hidden_states[0])
    close(b.decoder_hidden_states[0], a.decoder_hidden_states[0])


def test_one_layer(family):
    theirs, mine = pair(family, "Model")
    hidden = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(3))
    memory = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        a = theirs.encoder.layers[1](hidden, None, layer_head_mask=None)[0]
        b = mine.encoder.layers[1](hidden, None)[0]
        close(b, a)
        a = theirs.decoder.layers[2](hidden, None, memory, None)[0]
        b = mine.decoder.layers[2](hidden, None, memory, None)[0]
    close(b, a)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_every_state_and_attention(family, implementation):
    theirs, _ = pair(family)
    mine = ours_like(theirs)
    mine.set_attn_implementation(implementation)
    eager = reference(family, attn_implementation="eager")
    inputs = {**batch(), "labels": batch(seed=9)["decoder_input_ids"]}
    inputs["labels"][0, 3:] = -100
    a = states(eager, inputs, output_hidden_states=True, output_attentions=True, use_cache=True)
    b = states(mine, inputs, output_hidden_states=True, output_attentions=True, use_cache=True)
    assert list(a.keys()) == list(b.keys())
    for name in a:
        if name != "past_key_values":
            close(b[name], a[name])
    close(states(mine, inputs).logits, a.logits)  # without attentions: the fused path


def test_outputs_as_tuples(family):
    theirs, mine = pair(family)
    a = states(theirs, batch(), return_dict=False, output_hidden_states=True, use_cache=False)
    b = states(mine, batch(), return_dict=False, output_hidden_states=True, use_cache=False)
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        close(y, x)


def test_loss_and_gradients(family):
    theirs = reference(family, attn_implementation="eager").train()
    for module in theirs.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.0
    theirs.config.dropout = 0.0
    mine = ours_like(theirs, dropout=0.0, attention_dropout=0.0)
    inputs = batch()
    labels = inputs.pop("decoder_input_ids").clone()
    labels[1, 2:] = -100
    a, b = theirs(**inputs, labels=labels), mine(**inputs, labels=labels)
    close(b.loss, a.loss)
    close(b.logits, a.logits)
    assert b.past_key_values is None
    a.loss.backward()
    b.loss.backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    found = {name: p.grad for name, p in mine.named_parameters() if p.grad is not None}
    assert gradients.keys() == found.keys()
    assert ("model.encoder.embed_positions.weight" in found) == (family == "BlenderbotSmall")
    for name, gradient in gradients.items():
        # Key biases have no effect on attention: their gradient is rounding noise around zero.
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("legacy", [False, True])
def test_cached_steps_equal_the_full_pass(family, legacy):
    theirs, mine = pair(family)
    inputs = batch(target=8)
    ids = inputs.pop("decoder_input_ids")
    full = states(theirs, inputs, decoder_input_ids=ids, use_cache=False).logits
    cache, encoded, logits = None, None, []
    for start, stop in ((0, 3), (3, 4), (4, 8)):
        out = states(
            mine,
            {"attention_mask": inputs["attention_mask"], "encoder_outputs": encoded} if encoded is not None else inputs,
            decoder_input_ids=ids[:, start:stop],
            past_key_values=cache,
            use_cache=True,
        )
        logits.append(out.logits)
        encoded, cache = (out.encoder_last_hidden_state,), out.past_key_values
        assert cache[0][0].shape == (3, 6, stop, 4)
        assert cache[0][2].shape == (3, 6, 11, 4)
        if legacy:
            cache = tuple(cache) if start == 0 else cache
            assert isinstance(cache, tuple)
    close(torch.cat(logits, 1), full)


def test_cache_values(family):
    theirs, mine = pair(family)
    a, b = states(theirs, batch(), use_cache=True), states(mine, batch(), use_cache=True)
    for layer in range(3):
        for x, y in zip(a.past_key_values[layer], b.past_key_values[layer], strict=True):
            close(y, x)


def test_head_masks(family):
    theirs = reference(family, attn_implementation="eager")
    mine = ours_like(theirs)
    generator = torch.Generator().manual_seed(5)
    masks = {
        "head_mask": torch.rand(2, 4, generator=generator),
        "decoder_head_mask": torch.rand(3, 6, generator=generator).round(),
        "cross_attn_head_mask": torch.rand(3, 6, generator=generator),
    }
    a, b = states(theirs, batch(), **masks), states(mine, batch(), **masks)
    close(b.logits, a.logits)
    assert not torch.allclose(b.logits, states(mine, batch()).logits, atol=1e-3)
    with pytest.raises(InputError, match="one row for each of 2 layers, got 1"):
        states(mine, batch(), head_mask=torch.ones(1, 4))


def test_inputs_embeds_and_decoder_mask(family):
    theirs, mine = pair(family)
    inputs = batch()
    generator = torch.Generator().manual_seed(6)
    embeds = torch.randn(3, 11, 24, generator=generator)
    decoder_embeds = torch.randn(3, 7, 24, generator=generator)
    decoder_mask = torch.tensor([[1] * 7, [1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 1, 1, 1]])
    options = {
        "inputs_embeds": embeds,
        "decoder_inputs_embeds": decoder_embeds,
        "decoder_attention_mask": decoder_mask,
        "attention_mask": inputs["attention_mask"],
    }
    close(states(mine, options).logits, states(theirs, options).logits)


def test_inputs_given_twice_or_not_at_all(family):
    _, mine = pair(family)
    with pytest.raises(InputError, match="`input_ids` and `inputs_embeds` must be given, got neither"):
        mine(decoder_input_ids=torch.ones(1, 2, dtype=torch.long))
    with pytest.raises(InputError, match="got both"):
        mine(input_ids=torch.ones(1, 2, dtype=torch.long), inputs_embeds=torch.ones(1, 2, 24))
    with pytest.raises(InputError, match="decoder_input_ids"):
        mine(input_ids=torch.ones(1, 2, dtype=torch.long))


def test_too_long_inputs_and_foreign_ids_are_named(family):
    _, mine = pair(family)
    long = torch.ones(1, 38, dtype=torch.long)
    short = torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="at most 37 positions .*got 38"):
        mine(input_ids=long, decoder_input_ids=short)
    with pytest.raises(ValueError, match="at most 37 positions .*got 38"):
        mine(input_ids=short, decoder_input_ids=long)
    with pytest.raises(ValueError, match="between 0 and 82, got ids from 1 to 83"):
        mine(input_ids=torch.tensor([[1, 83]]), decoder_input_ids=short)


def test_a_padded_batch_equals_each_row_alone(family):
    _, mine = pair(family)
    inputs = batch()
    together = states(mine, inputs).logits
    for row in range(3):
        length = int(inputs["attention_mask"][row].sum())
        alone = states(
            mine,
            {
                "input_ids": inputs["input_ids"][row : row + 1, :length],
                "decoder_input_ids": inputs["decoder_input_ids"][row : row + 1],
            },
        ).logits
        close(together[row : row + 1], alone)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_fully_masked_row_stays_finite(family, implementation, dtype):
    mine = ours_like(pair(family)[0]).to(dtype)
    mine.set_attn_implementation(implementation)
    inputs = batch()
    inputs["attention_mask"][1] = 0
    inputs["decoder_attention_mask"] = torch.tensor([[1] * 7, [0] * 7, [0, 0, 1, 1, 1, 1, 1]])
    assert torch.isfinite(states(mine, inputs).logits).all()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 0.03), (torch.bfloat16, 0.25)])
def test_half_precision_follows_float32(family, dtype, tolerance):
    theirs, mine = pair(family)
    half = ours_like(theirs).to(dtype)
    inputs = {**batch(), "labels": batch()["decoder_input_ids"]}
    out = states(half, inputs)
    assert out.logits.dtype == dtype and out.loss.dtype == torch.float32
    torch.testing.assert_close(out.logits.float(), states(mine, inputs).logits, atol=tolerance * 20, rtol=tolerance)


def test_fp16_encoder_is_clamped(family):
    theirs, _ = pair(family)
    mine = ours_like(theirs).half()
    with torch.no_grad():
        for layer in mine.model.encoder.layers:
            layer.fc2.bias.fill_(65000.0)
    layer = mine.model.encoder.layers[0]
    (out,) = layer(torch.randn(1, 4, 24).half() * 100, None)
    assert out.abs().max() <= 64504


@pytest.mark.parametrize("cross", [True, False])
def test_causal_lm(family, cross):
    theirs, mine = pair(family, "ForCausalLM")
    ids, memory = batch()["decoder_input_ids"], torch.randn(3, 9, 24, generator=torch.Generator().manual_seed(8))
    options = {"encoder_hidden_states": memory, "encoder_attention_mask": batch(source=9)["attention_mask"]}
    inputs = {"input_ids": ids, "labels": ids, **(options if cross else {})}
    # The reference's own cache counts encoder layers here and fails when the decoder has more.
    options = {"output_hidden_states": True, "use_cache": False}
    a, b = states(theirs, inputs, **options), states(mine, inputs, **options)
    close(b.logits, a.logits)
    close(b.loss, a.loss)
    assert list(a.keys()) == list(b.keys())
    assert mine.config.is_decoder and not mine.config.is_encoder_decoder
    first = states(mine, {**inputs, "input_ids": ids[:, :4], "labels": None}, use_cache=True)
    rest = {**inputs, "input_ids": ids[:, 4:], "labels": None, "past_key_values": first.past_key_values}
    close(states(mine, rest).logits, a.logits[:, 4:])


def test_gradient_checkpointing_changes_nothing_but_memory(family):
    theirs = reference(family)
    mine = ours_like(theirs, dropout=0.0).train()
    inputs = batch()
    inputs["labels"] = inputs.pop("decoder_input_ids")
    mine(**inputs).loss.backward()
    expected = {name: p.grad.clone() for name, p in mine.named_parameters() if p.grad is not None}
    ids = mine.generate(inputs["input_ids"], max_new_tokens=5, use_cache=True)
    for reentrant in (False, True):
        mine.zero_grad()
        mine.gradient_checkpointing_enable({"use_reentrant": reentrant})
        assert mine.is_gradient_checkpointing
        mine(**inputs).loss.backward()
        for name, parameter in mine.named_parameters():
            if name in expected:
                close(parameter.grad, expected[name])
        with torch.no_grad():
            unlabelled = {**inputs, "labels": None, "decoder_input_ids": ids}
            assert mine(**unlabelled).past_key_values is None
        assert mine.eval().generate(inputs["input_ids"], max_new_tokens=5).tolist() == ids.tolist()
        mine.train().gradient_checkpointing_disable()
    assert not mine.is_gradient_checkpointing


def test_layerdrop_one_skips_every_layer(family):
    mine = ours_like(pair(family)[0], encoder_layerdrop=1.0, decoder_layerdrop=1.0, dropout=0.0)
    none = ours_like(pair(family)[0], dropout=0.0)
    none.model.encoder.layers = torch.nn.ModuleList()
    none.model.decoder.layers = torch.nn.ModuleList()
    close(states(mine.train(), batch(), use_cache=False).logits, states(none, batch(), use_cache=False).logits)


def test_resize_token_embeddings(family):
    theirs, mine = reference(family), None
    mine = ours_like(theirs)
    before = states(mine, batch()).logits
    assert mine.resize_token_embeddings(90).weight.shape == (90, 24)
    assert mine.config.vocab_size == 90 and mine.lm_head.weight is mine.model.shared.weight
    assert mine.model.encoder.embed_tokens is mine.model.decoder.embed_tokens is mine.model.shared
    after = states(mine, batch()).logits
    close(after[..., :83], before)
    close(mine.final_logits_bias[0, 83:], torch.zeros(7))
    old = mine.model.shared.weight[:83].mean(0)
    assert (mine.model.shared.weight[83:] - old).abs().max() < 1e-2
    theirs.resize_token_embeddings(80)
    mine.resize_token_embeddings(80)
    inputs = {name: value.clamp(max=79) for name, value in batch().items()}
    close(states(mine, inputs).logits, states(theirs, inputs).logits)
    assert mine.resize_token_embeddings(pad_to_multiple_of=32).num_embeddings == 96
    loose = ours_like(reference(family, tie_word_embeddings=False))
    assert loose.lm_head.weight is not loose.model.shared.weight
    loose.resize_token_embeddings(100)
    assert loose.lm_head.weight.shape == (100, 24) and states(loose, batch()).logits.shape[-1] == 100


def test_resize_position_embeddings(family):
    theirs, mine = reference(family), None
    mine = ours_like(theirs)
    before = states(mine, batch()).logits
    mine.resize_position_embeddings(53)
    assert mine.config.max_position_embeddings == 53
    close(states(mine, batch()).logits, before)
    tables = mine.get_position_embeddings()
    assert [table.num_embeddings for table in tables] == [53, 53]
    if family == "Pegasus":
        fresh = reference(family, max_position_embeddings=53)
        for table, other in zip(tables, fresh.get_position_embeddings(), strict=True):
            assert torch.equal(table.weight, other.weight) and not table.weight.requires_grad
    mine.resize_position_embeddings(20)
    close(states(mine, batch()).logits, before)
    with pytest.raises(InputError, match="at least 1, got 0"):
        mine.resize_position_embeddings(0)


def test_untied_head(family):
    theirs = reference(family, tie_word_embeddings=False)
    mine = ours_like(theirs)
    close(states(mine, batch()).logits, states(theirs, batch()).logits)


def test_initialisation(family):
    torch.manual_seed(0)
    model = getattr(seq2seq_models, family + FULL)(
        getattr(seq2seq_models, family + "Config")(**settings(family, vocab_size=4000, d_model=48))
    )
    assert abs(float(model.model.shared.weight[1:].detach().std()) - 0.02) < 5e-4
    assert model.model.shared.weight[0].abs().sum() == 0
    assert model.lm_head.weight is model.model.shared.weight
    layer = model.model.encoder.layers[0]
    assert abs(float(layer.fc1.weight.detach().std()) - 0.02) < 2e-3 and layer.fc1.bias.abs().sum() == 0
    assert torch.equal(layer.final_layer_norm.weight, torch.ones(48))
    assert model.final_logits_bias.abs().sum() == 0
    assert model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_counts_and_handles(family):
    theirs, mine = pair(family)
    assert mine.num_parameters() == theirs.num_parameters()
    assert mine.num_parameters(only_trainable=True) == theirs.num_parameters(only_trainable=True)
    assert mine.get_memory_footprint() == theirs.get_memory_footprint()
    assert mine.device == theirs.device and mine.dtype == theirs.dtype
    assert mine.base_model is mine.model and mine.base_model_prefix == "model" and mine.framework == "pt"
    assert mine.get_encoder() is mine.model.encoder and mine.get_decoder() is mine.model.decoder
    assert mine.can_generate() and not getattr(seq2seq_models, family + "Model").can_generate()
    assert states(mine, mine.dummy_inputs).logits.shape == (2, 5, 83)
    with pytest.raises(NotImplementedError, match="head_mask"):
        mine.prune_heads({0: [1]})


def test_input_gradients_can_be_asked_for(family):
    mine = ours_like(pair(family)[0]).requires_grad_(False)
    assert not mine(**batch()).logits.requires_grad
    mine.enable_input_require_grads()
    assert mine(**batch()).logits.requires_grad
    mine.disable_input_require_grads()
    assert not mine(**batch()).logits.requires_grad


def test_wrong_configs_and_attention_names(family):
    cls = getattr(seq2seq_models, family + FULL)
    other = next(name for name in FAMILIES if name != family)
    with pytest.raises(ConfigError, match=f"must be a {family}Config, got {other}Config"):
        cls(getattr(seq2seq_models, other + "Config")())
    with pytest.raises(ConfigError, match="encoder_attention_heads"):
        cls(getattr(seq2seq_models, family + "Config")(d_model=25, encoder_attention_heads=4))
    mine = ours_like(pair(family)[0])
    with pytest.raises(ConfigError, match="one of 'sdpa', 'eager', 'flash_attention_2', got 'flex'"):
        mine.set_attn_implementation("flex")
    with pytest.raises(MissingFrameworkError, match="flash-attn"):
        mine.set_attn_implementation("flash_attention_2")


def test_flash_attention_is_given_what_it_takes(family, monkeypatch):
    """The package's kernel takes [B, T, H, K]; here one of the same signature that PyTorch computes."""
    seen = []

    def flash_attn_func(query, key, value, dropout_p=0.0, causal=False):
        seen.append((tuple(query.shape), causal))
        heads = (x.transpose(1, 2) for x in (query, key, value))
        out = torch.nn.functional.scaled_dot_product_attention(*heads, dropout_p=dropout_p, is_causal=causal)
        return out.transpose(1, 2)

    package = types.ModuleType("flash_attn")
    package.__spec__ = importlib.machinery.ModuleSpec("flash_attn", None)
    package.flash_attn_func = flash_attn_func
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    theirs, plain = pair(family)
    mine = ours_like(theirs)
    mine.set_attn_implementation("flash_attention_2")
    close(states(mine, batch()).logits, states(plain, batch()).logits)
    assert ((3, 7, 6, 4), True) in seen  # the decoder's own attention; the padded source takes the masked path
    whole = {name: value[:1] for name, value in batch().items()}
    seen.clear()
    close(states(mine, whole).logits, states(plain, whole).logits)
    assert {shape for shape, _ in seen} == {(1, 11, 4, 6), (1, 7, 6, 4)}


def test_blenderbot_small_decoder_scales_its_embeddings(family, tmp_path):
    """The reference in PyTorch lost the factor, its Flax class has it; Pegasus has it in both."""
    theirs = reference(family, scale_embedding=True)
    theirs.save_pretrained(tmp_path)
    flax = getattr(transformers, f"Flax{family}{FULL}").from_pretrained(tmp_path, from_pt=True)
    inputs = batch()
    expected = flax(**{name: value.numpy() for name, value in inputs.items()}).logits
    close(states(ours_like(theirs), inputs).logits, torch.tensor(expected.__array__()))
