"""`generate` in PyTorch goes through whatever a user has put on the model: overrides, hooks, replaced modules."""

from __future__ import annotations

import copy
import logging
import re
import threading
from functools import partial
from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn

from seq2seq_models import GenerationConfig
from seq2seq_models.core.settings.validity import warn_once
from seq2seq_models.errors import InputError
from seq2seq_models.pytorch import packing
from seq2seq_models.pytorch.changes import changed_part
from seq2seq_models.pytorch.decoder import EagerDecoder

from .combinations import combination, source
from .tiny import FAMILIES, ours_like, pair, reference, same_ids

pytestmark = pytest.mark.reference

TOKEN = 40
PLAIN = {"num_beams": 1, "do_sample": False, "max_new_tokens": 6, "forced_eos_token_id": None}
STRATEGIES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "returned": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5},
    "no cache": {"use_cache": False, "num_beams": 2},
}


def twins(family: str, head: str = "ForConditionalGeneration") -> tuple[Any, Any]:
    """A model of this library and the reference's with the same weights, not shared with other tests."""
    theirs = copy.deepcopy(reference(family, head))
    return ours_like(theirs), theirs


def favoured(outputs: Any) -> Any:
    outputs.logits[..., TOKEN] += 3.0
    return outputs


def by_subclass(model: Any) -> None:
    base = type(model)

    class Biased(base):  # type: ignore[misc, valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return favoured(super().forward(*args, **kwargs))

    model.__class__ = Biased


def by_attribute(model: Any) -> None:
    forward = model.forward
    model.forward = lambda *args, **kwargs: favoured(forward(*args, **kwargs))


def by_hook(model: Any) -> None:
    model.register_forward_hook(lambda module, args, outputs: favoured(outputs))


def by_inner_forward(model: Any) -> None:
    forward = model.model.forward

    def changed(*args: Any, **kwargs: Any) -> Any:
        outputs = forward(*args, **kwargs)
        outputs.last_hidden_state = outputs.last_hidden_state.flip(-1)
        return outputs

    model.model.forward = changed


def by_head_bias(model: Any) -> None:
    head = nn.Linear(model.config.d_model, model.config.vocab_size)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.zero_()
        head.bias[TOKEN] = 3.0
    model.lm_head = head


def by_head_forward(model: Any) -> None:
    forward = model.lm_head.forward
    model.lm_head.forward = lambda hidden: forward(hidden) * 2.0 + hidden[..., :1]


def by_head_hook(model: Any) -> None:
    model.lm_head.register_forward_hook(lambda module, args, logits: logits.roll(5, -1))


def by_layer_hook(model: Any) -> None:
    model.get_decoder().layers[0].fc1.register_forward_hook(lambda module, args, out: out * -1.0)


def by_wrapped_layer(model: Any) -> None:
    layer = model.get_decoder().layers[1]

    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return self.inner(hidden) + 0.3 * hidden.flip(-1)[..., : self.inner.out_features]

    layer.self_attn.v_proj = Wrapped(layer.self_attn.v_proj)


def by_class_of_a_part(model: Any) -> None:
    part = model.get_decoder().layers[0].fc2
    part.forward = MethodType(lambda self, x: nn.functional.linear(x, self.weight.flip(0), self.bias), part)


CHANGES = [value for name, value in list(globals().items()) if name.startswith("by_")]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_change_has_its_effect(family: str, change: Any, strategy: str) -> None:
    mine, theirs = twins(family)
    options = {**PLAIN, **STRATEGIES[strategy]}
    shown = {"return_dict_in_generate": True, "output_logits": True}
    before = mine.generate(**source(1), **options, **shown)
    assert changed_part(mine) is None
    for model in (mine, theirs):
        change(model)
    assert changed_part(mine) is not None
    same_ids(mine, theirs, source(1), options)
    after, expected = (model.generate(**source(1), **options, **shown) for model in (mine, theirs))
    assert float((after.logits[0] - before.logits[0]).abs().max()) > 1e-3  # it had one at all
    torch.testing.assert_close(after.logits[0], expected.logits[0], atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_two_forms_are_one(family: str) -> None:
    """The fast form against the plain one on random combinations, both of this library."""
    seeds = range(40)
    for seed in seeds:
        mine = pair(family, seed=seed % 4)[1]
        plain = copy.deepcopy(mine)
        plain.register_forward_hook(lambda *_: None)
        assert changed_part(mine) is None and changed_part(plain) == "there are hooks on `the model`"
        same_ids(plain, mine, *combination(seed, family))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("low_memory", [False, True])
def test_contrastive_search_through_the_model(family: str, low_memory: bool) -> None:
    mine, _ = twins(family)
    options = {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": 8, "low_memory": low_memory, "num_beams": 1}
    options |= {"return_dict_in_generate": True, "output_scores": True, "output_attentions": True}
    fast = mine.generate(**source(2), **options)
    mine.register_forward_hook(lambda *_: None)
    plain = mine.generate(**source(2), **options)
    assert fast.sequences.tolist() == plain.sequences.tolist()
    for one, other in zip(fast.scores, plain.scores, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_further_argument_of_forward_is_handed_on(beams: int) -> None:
    mine, theirs = twins("Pegasus")
    for model in (mine, theirs):

        class Pushed(type(model)):  # type: ignore[misc]
            def forward(self, *args: Any, push: torch.Tensor | None = None, **kwargs: Any) -> Any:
                outputs = super().forward(*args, **kwargs)
                if push is not None:
                    outputs.logits += push[:, None]
                return outputs

            def prepare_inputs_for_generation(self, *args: Any, push: Any = None, **kwargs: Any) -> dict[str, Any]:
                return {**super().prepare_inputs_for_generation(*args, **kwargs), "push": push}

        model.__class__ = Pushed
    push = torch.zeros(3, mine.config.vocab_size)
    push[0, 7], push[1, 8], push[2, 9] = 20.0, 20.0, 20.0
    found, _ = same_ids(mine, theirs, {**source(1), "push": push}, {**PLAIN, "num_beams": beams})
    assert [row[1:].unique().tolist() for row in found] == [[7], [8], [9]]
    assert found.tolist() != mine.generate(**source(1), **PLAIN, num_return_sequences=1).tolist()


@pytest.mark.parametrize("beams", [1, 3])
def test_an_encoder_of_ones_own_reads_several_sources(beams: int) -> None:
    mine, theirs = twins("BlenderbotSmall")
    more = source(5)["input_ids"]
    for model in (mine, theirs):

        class Fused(nn.Module):
            def __init__(self, encoder: nn.Module) -> None:
                super().__init__()
                self.encoder = encoder
                self.main_input_name = "input_ids"

            def forward(self, input_ids: Any, attention_mask: Any = None, second: Any = None, **kwargs: Any) -> Any:
                first = self.encoder(input_ids, attention_mask)
                first.last_hidden_state = first.last_hidden_state + self.encoder(second).last_hidden_state
                return first

        class Several(type(model)):  # type: ignore[misc]
            def get_encoder(self) -> Any:
                return self.fused

            def forward(self, *args: Any, second: Any = None, **kwargs: Any) -> Any:
                return super().forward(*args, **kwargs)

            def prepare_inputs_for_generation(self, *args: Any, second: Any = None, **kwargs: Any) -> dict[str, Any]:
                return super().prepare_inputs_for_generation(*args, **kwargs)

        object.__setattr__(model, "fused", Fused(model.get_encoder()))
        model.__class__ = Several
    found, _ = same_ids(mine, theirs, {**source(1), "second": more}, {**PLAIN, "num_beams": beams})
    other = mine.generate(**source(1), second=more.flip(1), **PLAIN, **({} if beams == 1 else {"length_penalty": 1.0}))
    assert found.tolist() != other.tolist()


def test_a_hook_counts_steps() -> None:
    mine, _ = twins("Pegasus")
    steps: list[int] = []
    mine.register_forward_hook(lambda *_: steps.append(1))
    found = mine.generate(**source(1), **{**PLAIN, "eos_token_id": None})
    assert len(steps) == found.shape[1] - 1 == 6


def test_drafts_go_through_the_model_too() -> None:
    mine, _ = twins("Pegasus")
    by_subclass(mine)
    helper = pair("Pegasus", seed=2)[1]
    one = {name: value[:1] for name, value in source(1).items()}
    options = {**PLAIN, "max_new_tokens": 12}
    plain = mine.generate(**one, **options)
    assert mine.generate(**one, **options, assistant_model=helper).tolist() == plain.tolist()
    assert (
        helper.generate(**one, **options, assistant_model=mine).tolist() == helper.generate(**one, **options).tolist()
    )


def test_the_log_says_which_form_runs_and_why(caplog: pytest.LogCaptureFixture) -> None:
    mine, _ = twins("Pegasus")
    with caplog.at_level(logging.INFO, "seq2seq_models"):
        mine.generate(**source(1), **PLAIN)
        by_head_bias(mine)
        mine.generate(**source(1), **PLAIN)
    told = [one.getMessage() for one in caplog.records if "decodes" in one.getMessage()]
    assert "by the fast path" in told[0] and "`lm_head` has a bias" in told[1]


def test_heads_beside_the_models_own_leave_the_fast_path(caplog: pytest.LogCaptureFixture) -> None:
    mine, _ = twins("Pegasus")

    class Valued(type(mine)):  # type: ignore[misc]
        def value(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden.mean(-1)

    mine.__class__ = Valued
    assert changed_part(mine) is None


def test_gradients_inside_generate_and_in_another_thread_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """No module is changed while tokens are generated: packed weights, which know no gradients, are passed along."""
    monkeypatch.setattr(packing, "SMALLEST", 1)
    mine, _ = twins("Pegasus")
    inputs = source(1)
    batch = {**inputs, "labels": inputs["input_ids"]}

    def gradients() -> list[torch.Tensor]:
        mine.zero_grad()
        with torch.enable_grad():
            mine(**batch).loss.backward()
        return [p.grad.clone() for p in mine.parameters() if p.grad is not None]

    expected = gradients()
    inside: list[list[torch.Tensor]] = []

    def asks(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        inside.append(gradients())
        worker = threading.Thread(target=lambda: inside.append(gradients()))
        worker.start()
        worker.join()
        return scores

    mine.generate(**inputs, **PLAIN, logits_processor=[asks])
    assert len(inside) >= 4
    for found in inside:
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    assert all("forward" not in vars(part) and "project" not in vars(part) for part in mine.modules())


@pytest.mark.parametrize("change", [by_head_bias, by_head_forward, by_head_hook])
def test_the_head_is_called_in_forward_and_in_the_loss(change: Any) -> None:
    mine, theirs = twins("BlenderbotSmall")
    labels = source(4)["input_ids"]
    found, heard = [], []
    for model in (mine, theirs):
        change(model)
        model.lm_head.register_forward_hook(lambda *_: heard.append(1))
        # The decoder's scale, which the reference's PyTorch class lost, is no subject here.
        output = model(**source(1), labels=labels)
        output.loss.backward()
        found.append((output.logits, output.loss, model.lm_head.weight.grad))
    assert len(heard) == 2
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("ends", [-1, [-1], [-5, 7], [-1, -2]])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_negative_end_never_comes(ends: Any, beams: int, caplog: pytest.LogCaptureFixture) -> None:
    mine, theirs = twins("Pegasus")
    warn_once.cache_clear()
    options = {**PLAIN, "eos_token_id": ends, "num_beams": beams, "min_new_tokens": 0}
    with caplog.at_level(logging.WARNING, "seq2seq_models"):
        found = mine.generate(**source(1), **options)
        mine.generate(**source(1), **options)
    assert len([one for one in caplog.records if "it never does" in one.getMessage()]) == 1
    assert found.tolist() == theirs.generate(**source(1), **options).tolist()


def test_what_is_set_on_the_models_config_after_loading_is_used(caplog: pytest.LogCaptureFixture) -> None:
    mine, theirs = twins("BlenderbotSmall")
    warn_once.cache_clear()
    assert mine.generation_config._from_model_config
    for model in (mine, theirs):
        model.generation_config.forced_eos_token_id = None
        model.config.max_length, model.config.num_beams, model.config.no_repeat_ngram_size = 9, 3, 2
    with caplog.at_level(logging.WARNING, "seq2seq_models"):
        mine.generate(**source(1))
        found = mine.generate(**source(1))
    told = [one.getMessage() for one in caplog.records if "the model's config" in one.getMessage()]
    assert len(told) == 1 and "max_length=9, no_repeat_ngram_size=2, num_beams=3" in told[0]
    wanted = theirs.generate(**source(1), max_length=9, num_beams=3, no_repeat_ngram_size=2)
    assert found.tolist() == wanted.tolist()
    assert re.search(r"max_length\W+9\b", mine.describe_generation())
    mine.generation_config.max_length = 5  # what is set on the object itself wins
    assert mine.generate(**source(1)).shape[1] == 5
    assert mine.generate(**source(1), max_length=4).shape[1] == 4


def counted(monkeypatch: pytest.MonkeyPatch, reads: list[int]) -> None:
    """Notes how many tokens each step of the fast form reads."""
    read = EagerDecoder.read
    monkeypatch.setattr(EagerDecoder, "read", lambda *args: (reads.append(args[1].shape[1]), read(*args))[1])


def heard(reads: list[int], module: nn.Module, args: Any, out: torch.Tensor) -> None:
    reads.append(out.shape[1])


@pytest.mark.parametrize("change", [None, by_hook])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_earlier_calls_cache_is_gone_on_from(
    family: str, beams: int, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = twins(family)
    options = {**PLAIN, "eos_token_id": None}
    found = []
    for model in (mine, theirs):
        if change is not None:
            change(model)
        first = model.generate(**source(1), **options, return_dict_in_generate=True)
        reads: list[int] = []
        if model is mine and change is None:
            counted(monkeypatch, reads)
        else:
            model.get_decoder().layers[0].fc1.register_forward_hook(partial(heard, reads))
        past = {"decoder_input_ids": first.sequences, "past_key_values": first.past_key_values}
        longer = model.generate(**source(1), **{**options, "max_new_tokens": 4, "num_beams": 1}, **past)
        assert reads == [1, 1, 1, 1]
        monkeypatch.undo()
        assert longer.tolist() == model.generate(**source(1), **{**options, "max_new_tokens": 10}).tolist()
        found.append(longer.tolist())
    assert found[0] == found[1]
    with pytest.raises(InputError, match=f"must hold {3 * beams} rows of fewer than 1 tokens"):
        again = mine.generate(**source(1), **options, return_dict_in_generate=True)
        mine.generate(**source(1), num_beams=beams, past_key_values=again.past_key_values)


def test_nothing_to_read_begins_with_the_token_that_begins_one() -> None:
    mine, theirs = twins("BlenderbotSmall")
    options = {**PLAIN, "max_new_tokens": 4}
    assert mine.generate(**options).tolist() == theirs.generate(**options).tolist()
    assert mine.generate(do_sample=True, max_new_tokens=4, eos_token_id=None).shape == (1, 5)
    pegasus, reference_of_it = twins("Pegasus")
    pegasus.generation_config.bos_token_id = reference_of_it.generation_config.bos_token_id = None
    with pytest.raises(InputError, match="or a `bos_token_id`, got none of them"):
        pegasus.generate(**options)
    with pytest.raises(ValueError, match="bos_token_id"):
        reference_of_it.generate(**options)


@pytest.mark.parametrize("use_model_defaults", [True, False, None])
def test_what_of_the_models_own_settings_completes_a_configuration(use_model_defaults: bool | None) -> None:
    from transformers import GenerationConfig as Theirs

    mine, theirs = twins("Pegasus")
    for model in (mine, theirs):
        model.generation_config.max_length, model.generation_config.num_beams = 7, 3
    given = {"use_model_defaults": use_model_defaults, "eos_token_id": None}
    found = mine.generate(**source(1), generation_config=GenerationConfig(no_repeat_ngram_size=2), **given)
    expected = theirs.generate(**source(1), generation_config=Theirs(no_repeat_ngram_size=2), **given)
    assert found.tolist() == expected.tolist()
    assert (found.shape[1] == 7) == (use_model_defaults is not False)
