"""The loss that is computed together with its gradient, some rows at a time, against the plain way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import seq2seq_models
from seq2seq_models.pytorch import loss as room
from seq2seq_models.pytorch.loss import head_loss, language_modeling_loss

from .tiny import FAMILIES, settings

V, D = 83, 7


@pytest.fixture(params=[2**24, 83 * 4, 1])
def elements(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Logits that are there at once: all, those of four rows, those of one."""
    monkeypatch.setattr(room, "ELEMENTS", request.param)
    return int(request.param)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.randint(0, V, (3, 5))
    labels[0, 2:] = -100
    labels[2] = -100
    hidden, weight = torch.randn(3, 5, D, requires_grad=True), torch.nn.Parameter(torch.randn(V, D))
    return hidden, weight, torch.randn(V), labels


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_value_and_gradients(elements: int, smoothing: float, keep: bool, with_bias: bool) -> None:
    hidden, weight, bias, labels = inputs()
    bias = bias if with_bias else None
    logits = F.linear(hidden, weight, bias)
    plain = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing)
    ours, kept = head_loss(hidden, weight, bias, labels, smoothing, keep)
    torch.testing.assert_close(ours, plain)
    for mine, theirs in zip(*(torch.autograd.grad(3 * one, [hidden, weight]) for one in (ours, plain)), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert (kept is not None) == keep
    if kept is not None:
        torch.testing.assert_close(kept, logits)


def test_a_gradient_may_flow_through_the_logits_too(elements: int) -> None:
    hidden, weight, bias, labels = inputs()
    ours, kept = head_loss(hidden, weight, bias, labels, keep_logits=True)
    logits = F.linear(hidden, weight, bias)
    plain = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert kept is not None
    for total, expected in ((ours + kept.square().mean(), plain + logits.square().mean()), (kept.sum(), logits.sum())):
        gradients = [torch.autograd.grad(one, [hidden, weight], retain_graph=True) for one in (total, expected)]
        for mine, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_a_graph_may_be_gone_through_twice() -> None:
    hidden, weight, bias, labels = inputs()
    ours, _ = head_loss(hidden, weight, bias, labels)
    (once,) = torch.autograd.grad(ours, [weight], retain_graph=True)
    (again,) = torch.autograd.grad(ours, [weight])
    torch.testing.assert_close(once, again, rtol=0, atol=0)


def test_far_apart_logits_have_a_finite_loss(elements: int) -> None:
    hidden, weight, _, labels = inputs()
    ours, _ = head_loss(hidden * 300, weight, None, labels)
    plain = F.cross_entropy(F.linear(hidden * 300, weight).flatten(0, 1), labels.flatten())
    assert plain > 500
    torch.testing.assert_close(ours, plain)


def test_without_labels_the_loss_and_its_gradients_are_zero() -> None:
    hidden, weight, bias, labels = inputs()
    nothing = torch.full_like(labels, -100)
    losses = [head_loss(hidden, weight, bias, nothing, keep_logits=True)[0]]
    losses.append(language_modeling_loss(F.linear(hidden, weight, bias), nothing))
    for loss in losses:
        assert loss.item() == 0.0
        assert not any(one.any() for one in torch.autograd.grad(loss, (hidden, weight)))


def test_bfloat16_under_autocast(elements: int) -> None:
    hidden, weight, bias, labels = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        ours, _ = head_loss(hidden, weight, bias, labels)
        plain = F.cross_entropy(F.linear(hidden, weight, bias).float().flatten(0, 1), labels.flatten())
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-3)
    for mine, theirs in zip(*(torch.autograd.grad(one, [hidden, weight]) for one in (ours, plain)), strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, rtol=3e-2, atol=3e-2)


def test_gradients_of_functions() -> None:
    hidden, weight, bias, labels = inputs()
    states, weight = hidden.detach(), weight.detach()
    found = torch.func.grad(lambda one: head_loss(states, one, bias, labels)[0])(weight)
    plain = torch.func.grad(lambda one: F.cross_entropy((states @ one.T + bias).flatten(0, 1), labels.flatten()))(
        weight
    )
    torch.testing.assert_close(found, plain)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor) and one.layout == torch.strided:
                self.elements = max(self.elements, one.numel())
        return made


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    config = getattr(seq2seq_models, f"{request.param}Config")(**settings(request.param, dropout=0.0))
    made = getattr(seq2seq_models, f"{request.param}ForConditionalGeneration")(config)
    made.final_logits_bias.normal_()
    return made.train()


def batch(rows: int = 3, length: int = 6) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    labels = torch.randint(3, 80, (rows, length))
    labels[0, 3:] = -100
    return {"input_ids": torch.randint(3, 80, (rows, 9)), "labels": labels}


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def test_a_model_has_one_loss(model: Any) -> None:
    """That of a forward pass with labels, of `cross_entropy`, and of the logits; and one gradient, of all weights."""
    given = batch()
    target = model.prepare_decoder_input_ids_from_labels(given["labels"])
    logits = model(input_ids=given["input_ids"], decoder_input_ids=target).logits
    plain = F.cross_entropy(logits.flatten(0, 1), given["labels"].flatten())
    expected = gradients(model, plain)
    for loss in (
        model(**given).loss,
        model.cross_entropy(**given),
        model.cross_entropy(**given, decoder_input_ids=target),
    ):
        torch.testing.assert_close(loss, plain)
        found = gradients(model, loss)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert value.layout == torch.strided
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["untied", "frozen", "frozen embedding"])
def test_other_heads(kind: str, model: Any) -> None:
    if kind == "frozen":
        model.lm_head.requires_grad_(False)
    else:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 2)
        model.get_input_embeddings().requires_grad_(kind == "untied")
    given = batch()
    target = model.prepare_decoder_input_ids_from_labels(given["labels"])
    logits = model(input_ids=given["input_ids"], decoder_input_ids=target).logits
    expected = gradients(model, F.cross_entropy(logits.flatten(0, 1), given["labels"].flatten()))
    found = gradients(model, model.cross_entropy(**given))
    assert found.keys() == expected.keys() and len(found) > 10
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_logits_are_never_all_there(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ELEMENTS", 83 * 4)
    given = batch(rows=24, length=20)
    with Largest() as seen:
        model.cross_entropy(**given).backward()
    words = model.config.vocab_size
    assert seen.elements < 24 * 20 * words
    with Largest() as seen:
        model(**given).loss.backward()
    assert seen.elements >= 24 * 20 * words


def test_the_causal_model_has_it_too() -> None:
    config = seq2seq_models.PegasusConfig(**settings("Pegasus", dropout=0.0))
    model = seq2seq_models.PegasusForCausalLM(config).train()
    ids, labels = batch()["labels"].clamp(min=3), batch()["labels"]
    expected = F.cross_entropy(model(input_ids=ids).logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1)
    torch.testing.assert_close(model.cross_entropy(labels, 0.1, input_ids=ids), expected)
