"""Weights of 8-bit integers: near the real ones, and never saved for them."""

from __future__ import annotations

import copy
import logging
import pickle
from itertools import islice

import pytest
import torch
from torch import nn

import seq2seq_models
from make_demo_checkpoints import RECIPES
from seq2seq_models import PegasusConfig, PegasusForConditionalGeneration, pipeline
from seq2seq_models.bundled import DEMO_CHECKPOINTS, demo_checkpoint
from seq2seq_models.errors import CheckpointError, ConfigError, InputError
from seq2seq_models.pytorch import quantization
from seq2seq_models.pytorch.packing import packed_products
from seq2seq_models.pytorch.quantization import Int8Linear, has_integer_products, joined

from .combinations import source
from .tiny import FAMILIES, ours_like, pair, settings

DEMOS = {"Pegasus": "summarization", "BlenderbotSmall": "chat"}


@pytest.fixture(autouse=True)
def integer_products(monkeypatch):
    """The layer computes the same with and without fast integer products; what it replaces is tested everywhere."""
    monkeypatch.setattr(quantization, "has_integer_products", lambda: True)


def rounded(layer: nn.Linear) -> torch.Tensor:
    """The weight that the integers stand for, found another way: row by row, in double precision."""
    rows = []
    for row in layer.weight.detach().double():
        step = float(row.abs().max()) / 127
        rows.append(torch.tensor([round(float(x) / step) * step for x in row], dtype=torch.float64))
    return torch.stack(rows)


def test_a_layer_is_its_rounded_weight():
    torch.manual_seed(3)
    layer = nn.Linear(24, 40)
    with torch.no_grad():
        layer.weight[5] *= 100.0  # a row with a scale of its own
        layer.weight[6] = 0.0
        layer.weight[6, 0] = 1e-30
    found = Int8Linear(layer)
    assert found.weight.dtype == torch.int8
    restored = found.weight.double() * found.scale.double()[:, None]
    torch.testing.assert_close(restored, rounded(layer), rtol=1e-6, atol=1e-9)
    values = torch.randn(3, 7, 24)
    exact = values.double() @ rounded(layer).T + layer.bias.double()
    # The input has 255 levels over its range, so each of 24 products is off by at most half of one.
    step = (values.max() - values.min()).item() / 255
    room = 0.51 * step * restored.abs().sum(1) + 1e-6
    assert bool(((found(values).double() - exact).abs() <= room).all())
    assert found(values).shape == (3, 7, 40)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_without_the_operation_computes_with_real_numbers(monkeypatch, dtype):
    torch.manual_seed(4)
    layer = nn.Linear(16, 8)
    found = Int8Linear(layer).to(dtype)
    values = torch.randn(5, 16, dtype=dtype)
    monkeypatch.setattr(quantization, "_pack", lambda *_: None)
    plain = Int8Linear(layer).to(dtype)
    exact = (values.double() @ rounded(layer).T + layer.bias.double()).to(dtype)
    near = {torch.float32: 1e-5, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(plain(values), exact, rtol=near, atol=near)
    torch.testing.assert_close(found(values), exact, rtol=5e-2, atol=5e-2)
    assert found(values).dtype == plain(values).dtype == dtype


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_is_rounded_and_the_logits_stay_near(family):
    model = ours_like(pair(family)[0])
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    twin = copy.deepcopy(model)
    quantization.quantize(twin)
    assert [name for name, module in twin.named_modules() if isinstance(module, Int8Linear)] == linears
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    inputs = {**source(1), "decoder_input_ids": source(2)["input_ids"]}
    exact, near = model(**inputs).logits, twin(**inputs).logits
    error = (exact - near).abs().max() / exact.std()
    assert 0 < error < 0.25, error


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("beams", [1, 3])
def test_it_writes_what_its_real_numbers_write(family, beams):
    """On what the bundled checkpoints were trained for, where they are sure of their words, the ids stay."""
    folder = demo_checkpoint(DEMO_CHECKPOINTS[DEMOS[family]])
    name = f"{family}ForConditionalGeneration"
    exact = getattr(seq2seq_models, name).from_pretrained(folder)
    near = getattr(seq2seq_models, name).from_pretrained(folder, quantization="int8")
    assert sum(isinstance(module, Int8Linear) for module in near.modules()) > 20
    tokenizer = seq2seq_models.AutoTokenizer.from_pretrained(folder)
    recipe = next(one for one in RECIPES if one.name == DEMO_CHECKPOINTS[DEMOS[family]])
    texts = [text for text, _ in islice(recipe.held_out(tokenizer), 24)]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    assert near.generate(**inputs, num_beams=beams).tolist() == exact.generate(**inputs, num_beams=beams).tolist()


def test_a_copy_of_it_computes_the_same():
    model = ours_like(pair("Pegasus")[0])
    quantization.quantize(model)
    expected = model.generate(**source(3), max_new_tokens=6).tolist()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.generate(**source(3), max_new_tokens=6).tolist() == expected


def test_weights_that_change_are_packed_anew():
    layer = Int8Linear(nn.Linear(16, 8))
    values = torch.randn(2, 16)
    before = layer(values)
    layer.load_state_dict(Int8Linear(nn.Linear(16, 8)).state_dict())
    assert not torch.allclose(layer(values), before, atol=1e-2)


def test_layers_for_one_input_are_one_product(monkeypatch):
    monkeypatch.setattr(quantization, "_has_instructions", lambda: True)  # the layout is there on any processor
    layers = [Int8Linear(nn.Linear(16, 8)) for _ in range(3)]
    values = torch.randn(2, 5, 16)
    found = joined(layers)(values)
    assert torch.equal(found, torch.cat([layer(values) for layer in layers], -1))
    layers[1].load_state_dict(Int8Linear(nn.Linear(16, 8)).state_dict())
    assert not torch.equal(joined(layers)(values), found)
    assert torch.equal(joined(layers)(values), torch.cat([layer(values) for layer in layers], -1))
    assert pickle.loads(pickle.dumps(layers[0])).__dict__.keys() == Int8Linear(nn.Linear(16, 8)).__dict__.keys()
    assert joined([*layers[:2], Int8Linear(nn.Linear(16, 8, bias=False))]) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decoder_asks_for_queries_keys_and_values_at_once(family, monkeypatch):
    monkeypatch.setattr(quantization, "_has_instructions", lambda: True)  # the layout is there on any processor
    model = ours_like(pair(family)[0])
    quantization.quantize(model)
    attention = model.get_decoder().layers[0].self_attn
    hidden = torch.randn(2, 1, attention.q_proj.in_features)
    expected = attention.project(hidden)
    with torch.no_grad():
        products = packed_products(model.get_decoder())
        found = attention.project(hidden, {attention: products[attention]})
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    heard = []
    attention.k_proj.register_forward_hook(lambda *_: heard.append(1))
    model.generate(**source(3), max_new_tokens=6, min_new_tokens=6)
    assert len(heard) >= 5


def test_it_is_not_saved_for_the_real_one(tmp_path):
    model = ours_like(pair("Pegasus")[0])
    state = model.state_dict()
    quantization.quantize(model)
    with pytest.raises(CheckpointError, match="rounded to int8"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    with pytest.raises(RuntimeError, match="must be int8"):
        model.load_state_dict(state)
    with pytest.raises(ConfigError, match="vocabulary"):
        model.resize_token_embeddings(7)


def test_what_it_is_asked_for_is_checked(tmp_path):
    folder = demo_checkpoint(DEMO_CHECKPOINTS["summarization"])
    with pytest.raises(ConfigError, match="`quantization` must be 'int8' or None, got 'int4'"):
        PegasusForConditionalGeneration.from_pretrained(folder, quantization="int4")
    with torch.device("meta"):
        model = PegasusForConditionalGeneration(PegasusConfig(**settings("Pegasus")))
    with pytest.raises(ConfigError, match="a model on a CPU, got one on meta"):
        quantization.quantize(model)


def test_it_stays_on_the_cpu(monkeypatch):
    summarize = pipeline("summarization", model_kwargs={"quantization": "int8"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # where the pipeline would move a model by itself
    assert pipeline("summarization", model=summarize.model, tokenizer=summarize.tokenizer).model.device.type == "cpu"
    layer = Int8Linear(nn.Linear(16, 8)).to("meta")
    with pytest.raises(InputError, match="must be on a CPU, got one on meta"):
        layer(torch.empty(2, 16, device="meta"))


def test_a_processor_without_integer_products_keeps_its_weights_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(quantization, "has_integer_products", lambda: False)
    quantization._tell_once.cache_clear()
    folder = demo_checkpoint(DEMO_CHECKPOINTS["summarization"])
    with caplog.at_level(logging.WARNING, "seq2seq_models"):
        for _ in range(2):
            model = PegasusForConditionalGeneration.from_pretrained(folder, quantization="int8")
    assert not any(isinstance(module, Int8Linear) for module in model.modules())
    assert [record.message for record in caplog.records if "8-bit" in record.message] != []
    assert len([record for record in caplog.records if "8-bit" in record.message]) == 1


def test_what_the_processor_can_is_looked_at(monkeypatch):
    for known in (has_integer_products, quantization._has_instructions):
        known.cache_clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert not has_integer_products()
    for known in (has_integer_products, quantization._has_instructions):
        known.cache_clear()


def test_a_pipeline_takes_it():
    summarize = pipeline("summarization", model_kwargs={"quantization": "int8"})
    assert any(isinstance(module, Int8Linear) for module in summarize.model.modules())
    report = "A new museum will open in Glasgow in June. It cost three million euros."
    assert summarize(report) == pipeline("summarization")(report)
