"""The PyTorch models as modules like any other: what is put into them, hooked, traced, or differentiated twice."""

from __future__ import annotations

import copy
import threading
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

import seq2seq_models

from .tiny import FAMILIES, reference, settings

LM_HEADS = ("ForConditionalGeneration", "ForCausalLM")


def ours(family: str, head: str = "ForConditionalGeneration", **overrides: Any) -> tuple[Any, Any]:
    """A model and the reference with the same weights, both for training but without dropout."""
    # The reference's causal models make their cache for as many layers as the encoder has.
    overrides = {"encoder_layers": 3, **overrides}
    theirs = reference(family, head, dropout=0.0, **overrides)
    config = getattr(seq2seq_models, f"{family}Config")(**settings(family, dropout=0.0, **overrides))
    mine = getattr(seq2seq_models, family + head)(config)
    mine.load_state_dict(theirs.state_dict())
    return mine.train(), theirs.train()


def batch(head: str) -> dict[str, Tensor]:
    ids = torch.tensor([[5, 6, 7, 1], [8, 9, 1, 0]])
    labels = torch.tensor([[11, 12, 1], [13, 1, -100]])
    if head == "ForCausalLM":
        return {"input_ids": ids[:, :3], "labels": labels}
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def assert_same_gradients(mine: nn.Module, theirs: nn.Module) -> None:
    expected = gradients(theirs)
    assert gradients(mine).keys() == expected.keys()
    for name, gradient in gradients(mine).items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=2e-4, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


# ---- the head is called


def with_bias(model: Any) -> None:
    head = nn.Linear(model.lm_head.in_features, model.lm_head.out_features)
    torch.manual_seed(4)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.copy_(torch.randn(head.out_features))
    model.lm_head = head


def with_hook(model: Any) -> None:
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * 0.5)


def with_patched_forward(model: Any) -> None:
    head = model.lm_head
    head.forward = lambda hidden: F.linear(hidden, head.weight) + hidden.sum(-1, keepdim=True)


def with_pruning(model: Any) -> None:
    prune.l1_unstructured(model.lm_head, "weight", amount=0.5)


def with_a_wrapper(model: Any) -> None:
    model.lm_head = nn.Sequential(model.lm_head, nn.Tanh())


CHANGES = (with_bias, with_hook, with_patched_forward, with_pruning, with_a_wrapper)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("head", LM_HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_is_called(family: str, head: str, change: Any) -> None:
    """Logits, loss and gradients of two steps, then tokens, as the reference's with the same change."""
    mine, theirs = ours(family, head)
    for model in (mine, theirs):
        change(model)
    for _ in range(2):
        losses = []
        for model in (mine, theirs):
            model.zero_grad()
            output = model(**batch(head))
            output.loss.backward()
            losses.append(output)
        torch.testing.assert_close(losses[0].logits, losses[1].logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(losses[0].loss, losses[1].loss, rtol=1e-5, atol=1e-5)
        assert_same_gradients(mine, theirs)
        for model in (mine, theirs):
            torch.optim.SGD(model.parameters(), lr=0.01).step()
    options = {"max_new_tokens": 5, "num_beams": 2, "do_sample": False}
    ids = batch(head)["input_ids"]
    found, expected = (model.eval().generate(ids, **options) for model in (mine, theirs))
    assert found.tolist() == expected.tolist()


def test_hooks_on_all_modules_see_the_head() -> None:
    mine, _ = ours("Pegasus")
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(module))
    try:
        mine(**batch("ForConditionalGeneration"))
    finally:
        handle.remove()
    assert mine.lm_head in seen


# ---- no hidden state in training


LOSSES = {
    "encoder": lambda output: output.encoder_last_hidden_state.square().mean(),
    "logits": lambda output: output.logits.square().mean(),
    "both": lambda output: output.loss + output.logits.square().mean() + output.encoder_last_hidden_state.sum() * 0.01,
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_of_other_outputs_give_dense_gradients(family: str, name: str) -> None:
    mine, theirs = ours(family)
    for model in (mine, theirs):
        LOSSES[name](model(**batch("ForConditionalGeneration"))).backward()
    assert not any(gradient.is_sparse for gradient in gradients(mine).values())
    assert_same_gradients(mine, theirs)
    nn.utils.clip_grad_norm_(mine.parameters(), 1.0)
    torch.optim.AdamW(mine.parameters()).step()
    torch.optim.Adafactor(mine.parameters()).step()


@pytest.mark.parametrize("head", LM_HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gradient_penalty(family: str, head: str) -> None:
    """Gradients of the loss plus the squared norm of its gradient, as the reference's."""
    mine, theirs = ours(family, head)
    for model in (mine, theirs):
        held = [one for one in model.parameters() if one.requires_grad]
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            loss = model(**batch(head)).loss
            found = torch.autograd.grad(loss, held, create_graph=True, allow_unused=True)
        (loss + 0.1 * sum(one.square().sum() for one in found if one is not None)).backward()
    assert_same_gradients(mine, theirs)


def test_nothing_of_a_model_changes_while_it_learns() -> None:
    mine, _ = ours("Pegasus")
    before = {name: dict(vars(module)) for name, module in mine.named_modules()}
    during: list[bool] = []
    mine.model.encoder.register_forward_hook(lambda *_: during.append(mine.model.shared.sparse))
    mine(**batch("ForConditionalGeneration")).loss.backward()
    assert during == [False]
    after = {name: dict(vars(module)) for name, module in mine.named_modules()}
    assert all(after[name].keys() == held.keys() for name, held in before.items())


def test_training_in_two_threads() -> None:
    """Two models, and one model under two losses, in threads at once: the gradients of each alone."""
    first, _ = ours("Pegasus")
    second = copy.deepcopy(first)
    alone = copy.deepcopy(first)
    alone(**batch("ForConditionalGeneration")).loss.backward()
    expected = gradients(alone)

    def learn(model: Any, found: list[Any]) -> None:
        for _ in range(5):
            held = [one for one in model.parameters() if one.requires_grad]
            loss = model(**batch("ForConditionalGeneration")).loss
            found.append(torch.autograd.grad(loss, held))

    results: list[list[Any]] = [[], [], []]
    threads = [threading.Thread(target=learn, args=args) for args in zip((first, first, second), results, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found in results:
        assert len(found) == 5
        for each in found:
            for gradient, name in zip(each, expected, strict=True):
                torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-6)


# ---- traces keep the mask


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trace_with_a_full_mask_takes_a_padded_one(family: str) -> None:
    mine, theirs = ours(family)
    mine.eval()
    ids, ones = torch.tensor([[5, 6, 7, 1], [8, 9, 4, 1]]), torch.ones(2, 4, dtype=torch.long)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    target = torch.tensor([[0, 11, 12], [0, 13, 14]])

    class Whole(nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Tensor, mask: Tensor, target: Tensor, target_mask: Tensor) -> Tensor:
            logits: Tensor = self.model(ids, mask, target, target_mask, use_cache=False).logits
            return logits

    target_mask = torch.tensor([[1, 1, 1], [1, 0, 1]])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit itself
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of lengths, which the trace is for
        traced = torch.jit.trace(Whole(mine), (ids, ones, target, torch.ones_like(target)))
        expected = theirs.eval()(ids, mask, target, target_mask, use_cache=False).logits
        torch.testing.assert_close(traced(ids, mask, target, target_mask), expected, rtol=1e-4, atol=1e-4)
