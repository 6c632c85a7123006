"""The PyTorch models as modules like any other: what is put into them, hooked, traced, or differentiated twice."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

import seq2seq_models
import seq2seq_models.pytorch
from seq2seq_models.core.architecture import ACTIVATIONS
from seq2seq_models.errors import ConfigError, InputError

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


@pytest.mark.parametrize("family", FAMILIES)
def test_an_onnx_file_with_a_full_mask_takes_a_padded_one(family: str, tmp_path: Path) -> None:
    import onnxruntime

    mine, theirs = ours(family)
    encoder = mine.eval().get_encoder()
    ids, mask = torch.tensor([[5, 6, 7, 1], [8, 9, 4, 1]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, which is deprecated, and of lengths
        torch.onnx.export(
            _States(encoder), (ids, torch.ones_like(ids)), tmp_path / "x.onnx", dynamo=False,
            input_names=["ids", "mask"], output_names=["states"],
        )  # fmt: skip
        expected = theirs.eval().get_encoder()(ids, mask).last_hidden_state
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    (found,) = session.run(["states"], {"ids": ids.numpy(), "mask": mask.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)


class _States(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = self.encoder(ids, mask).last_hidden_state
        return states


# ---- what other tools see


def test_dynamic_quantization_takes_every_linear_layer() -> None:
    mine, theirs = ours("Pegasus")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is to be replaced, and says so
        found, expected = (
            torch.ao.quantization.quantize_dynamic(model.eval(), {nn.Linear}) for model in (mine, theirs)
        )
    kinds = [type(module) for module in found.modules()]
    assert nn.Linear not in kinds
    linears = sum(isinstance(module, nn.Linear) for module in mine.modules())
    assert sum(kind is torch.ao.nn.quantized.dynamic.Linear for kind in kinds) == linears == 49
    given = {name: value for name, value in batch("ForConditionalGeneration").items() if name != "labels"}
    with torch.no_grad():
        outputs = [model(**given, decoder_input_ids=torch.tensor([[0, 4], [0, 5]])) for model in (found, expected)]
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, rtol=1e-3, atol=1e-3)
    ids = [model.generate(given["input_ids"], max_new_tokens=4, num_beams=1) for model in (found, expected)]
    assert ids[0].tolist() == ids[1].tolist()


def test_operations_are_counted() -> None:
    mine, theirs = ours("BlenderbotSmall")
    counts = []
    for model in (mine, theirs):
        with FlopCounterMode(display=False) as counter:
            model.eval()(input_ids=torch.ones(2, 4).long(), decoder_input_ids=torch.ones(2, 3).long(), use_cache=False)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_the_reference_s(name: str) -> None:
    """Values and gradients; the model pickles, copies, and its activation can be hooked."""
    mine, theirs = ours("Pegasus", activation_function=name)
    mine = pickle.loads(pickle.dumps(copy.deepcopy(mine)))
    seen = []
    mine.model.decoder.layers[1].activation_fn.register_forward_hook(lambda *_: seen.append(1))
    for model in (mine, theirs):
        model(**batch("ForConditionalGeneration")).loss.backward()
    assert_same_gradients(mine, theirs)
    assert seen == [1]


def test_activations_are_those_of_the_reference() -> None:
    from transformers.activations import ACT2CLS

    assert set(ACT2CLS) - set(ACTIVATIONS) == {"prelu", "xielu"}, "those have weights"


# ---- halves


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_is_a_model(family: str, tmp_path: Path) -> None:
    mine, theirs = ours(family)
    for model, folder in ((mine, "ours"), (theirs, "theirs")):
        model.eval().get_encoder().save_pretrained(tmp_path / folder)
        model.save_pretrained(tmp_path / f"{folder}-whole")
    kind = getattr(seq2seq_models.pytorch, family.lower().replace("small", "_small"))
    encoder_class = getattr(kind, f"{family}Encoder")
    ids = torch.tensor([[5, 6, 7, 1]])
    expected = theirs.get_encoder()(ids).last_hidden_state
    for folder in ("ours", "theirs", "ours-whole", "theirs-whole"):
        encoder = encoder_class.from_pretrained(tmp_path / folder)
        torch.testing.assert_close(encoder(ids).last_hidden_state, expected, rtol=1e-5, atol=1e-5)
    reference_class = type(theirs.get_encoder())
    read = reference_class.from_pretrained(tmp_path / "ours")
    torch.testing.assert_close(read(ids).last_hidden_state, expected, rtol=1e-5, atol=1e-5)
    assert mine.get_encoder().device == torch.device("cpu")
    assert mine.half().get_encoder().dtype == mine.get_decoder().dtype == torch.float16


def test_a_decoder_and_a_causal_model_s_base_are_saved(tmp_path: Path) -> None:
    mine, _ = ours("Pegasus", "ForCausalLM")
    mine.base_model.save_pretrained(tmp_path / "base")
    mine.get_decoder().save_pretrained(tmp_path / "decoder")
    again = type(mine).from_pretrained(tmp_path / "base")
    decoder = seq2seq_models.pytorch.pegasus.PegasusDecoder.from_pretrained(tmp_path / "decoder")
    for name, tensor in mine.get_decoder().state_dict().items():
        torch.testing.assert_close(again.get_decoder().state_dict()[name], tensor, rtol=0, atol=0)
        torch.testing.assert_close(decoder.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_new_encoder_draws_its_own_weights_only() -> None:
    mine, _ = ours("Pegasus")
    before = mine.get_input_embeddings().weight.clone()
    encoder = seq2seq_models.pytorch.pegasus.PegasusEncoder(mine.config, mine.get_input_embeddings())
    torch.testing.assert_close(mine.get_input_embeddings().weight, before, rtol=0, atol=0)
    assert 0.015 < encoder.layers[0].fc1.weight.std() < 0.025
    assert encoder.layers[0].fc1.bias.tolist() == [0.0] * 40


# ---- layers by hand


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_take_transformers_names(family: str) -> None:
    mine, theirs = ours(family)
    torch.manual_seed(3)
    states, memory = torch.randn(2, 4, 24), torch.randn(2, 5, 24)
    hidden = torch.zeros(2, 1, 4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), torch.finfo(torch.float32).min)
    padding = torch.zeros(2, 1, 1, 5)
    padding[1, :, :, 3:] = torch.finfo(torch.float32).min
    heads = torch.tensor([1.0, 0.0, 1.0, 1.0])
    for output_attentions in (False, True):
        calls = [
            lambda m, o: m.model.encoder.layers[1](
                hidden_states=states, attention_mask=hidden, layer_head_mask=heads, output_attentions=o
            ),
            lambda m, o: m.model.decoder.layers[2](
                states, attention_mask=hidden, encoder_hidden_states=memory, encoder_attention_mask=padding,
                layer_head_mask=None, cross_attn_layer_head_mask=None, past_key_values=None, output_attentions=o,
            ),
            lambda m, o: m.model.decoder.layers[0].encoder_attn(
                hidden_states=states, key_value_states=memory, attention_mask=padding, output_attentions=o
            ),
        ]  # fmt: skip
        for model in (mine, theirs):
            model.eval().set_attn_implementation("eager")
        for call in calls:
            found, expected = (call(model, output_attentions) for model in (mine, theirs))
            count = len(expected) if output_attentions else 1  # the reference's eager layers give weights unasked
            for one, other in zip(found[:count], expected[:count], strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    shape = torch.Size([2, 4])
    for one, other in (
        (mine.model.encoder.embed_positions(shape), theirs.model.encoder.embed_positions(shape)),
        (mine.model.decoder.embed_positions(shape, 3), theirs.model.decoder.embed_positions(shape, 3)),
    ):
        torch.testing.assert_close(one, other)


class Recording(nn.Module):
    """An attention of one's own, which attends by the mask that it is given under transformers' name."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = attention, []

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Any:
        mask = kwargs.get("attention_mask")
        self.seen.append(mask)
        q, k, v = (
            getattr(self.inner, f"{name}_proj")(hidden_states).unflatten(-1, (self.inner.num_heads, -1)).transpose(1, 2)
            for name in "qkv"
        )
        out = F.scaled_dot_product_attention(q, k, v, mask)
        return self.inner.out_proj(out.transpose(1, 2).flatten(2)), None


@pytest.mark.parametrize("is_padded", [True, False])
def test_a_replaced_attention_gets_its_mask(is_padded: bool) -> None:
    mine, theirs = ours("Pegasus")
    for model in (mine, theirs):
        model.eval()
        model.model.encoder.layers[0].self_attn = Recording(model.model.encoder.layers[0].self_attn)
        model.model.decoder.layers[1].self_attn = Recording(model.model.decoder.layers[1].self_attn)
    given = batch("ForConditionalGeneration")
    if not is_padded:
        given["attention_mask"] = torch.ones_like(given["attention_mask"])
    found, expected = mine(**given, use_cache=False), theirs.set_attn_implementation("eager") or theirs(**given)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
    assert mine.model.decoder.layers[1].self_attn.seen[0] is not None, "the mask that hides later tokens"


def test_parts_have_transformers_names() -> None:
    import transformers.models.blenderbot_small.modeling_blenderbot_small as small
    import transformers.models.pegasus.modeling_pegasus as pegasus

    for family, theirs in (("Pegasus", pegasus), ("BlenderbotSmall", small)):
        ours_module = getattr(seq2seq_models.pytorch, theirs.__name__.rpartition("modeling_")[2])
        names = [name for name in vars(theirs) if name.startswith(family) and name != f"{family}Config"]
        missing = [name for name in [*names, "shift_tokens_right"] if not hasattr(ours_module, name)]
        assert missing == []


# ---- config flags and helpers


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_by_the_config(family: str) -> None:
    plain, theirs = ours(family)
    mine = type(plain)(type(plain.config).from_dict({**plain.config.to_dict(), "gradient_checkpointing": True}))
    mine.load_state_dict(plain.state_dict())
    assert mine.train().is_gradient_checkpointing and not plain.is_gradient_checkpointing
    calls: list[int] = []
    mine.model.encoder.layers[0].fc1.register_forward_hook(lambda *_: calls.append(1))
    for model in (mine, theirs):
        model(**batch("ForConditionalGeneration")).loss.backward()
    assert calls == [1, 1], "computed again in the backward pass"
    assert_same_gradients(mine, theirs)


@pytest.mark.parametrize(("every", "expected"), [(1, [2] * 6), (2, [2, 1, 2, 1, 2, 1]), (4, [2, 1, 1, 1, 2, 1])])
def test_some_layers_are_checkpointed(every: int, expected: list[int]) -> None:
    mine, theirs = ours("Pegasus")
    mine.activation_checkpointing_enable(every_n_layers=every)
    counts = [0] * 6
    layers = [*mine.model.encoder.layers, *mine.model.decoder.layers]
    for index, layer in enumerate(layers):
        layer.fc1.register_forward_hook(lambda *_, at=index: counts.__setitem__(at, counts[at] + 1))
    for model in (mine, theirs):
        model(**batch("ForConditionalGeneration")).loss.backward()
    assert counts == expected
    assert_same_gradients(mine, theirs)
    for wrong in ({"offload": True}, {"every_n_layers": 0}):
        with pytest.raises(ConfigError):
            mine.activation_checkpointing_enable(**wrong)


def test_helpers_of_the_vocabulary() -> None:
    mine, _ = ours("Pegasus")
    mine.resize_token_embeddings(90)
    assert mine.vocab_size == mine.model.vocab_size == mine.config.vocab_size == 90
    for wrong in (1.3, 0, True, "8"):
        with pytest.raises(InputError, match="`pad_to_multiple_of` must be a whole number"):
            mine.resize_token_embeddings(95, pad_to_multiple_of=wrong)
    assert mine.vocab_size == 90
    mine.resize_token_embeddings(91, pad_to_multiple_of=8)
    assert mine.vocab_size == mine.lm_head.out_features == 96


def test_a_model_from_a_config() -> None:
    config = seq2seq_models.PegasusConfig(**settings("Pegasus"))
    kind = seq2seq_models.PegasusForConditionalGeneration
    model = kind._from_config(config, dtype=torch.bfloat16, attn_implementation="eager")
    assert model.dtype == torch.bfloat16 and model.config.dtype == "bfloat16"
    assert model.config._attn_implementation == "eager" and model.config is not config
    assert kind._from_config(config).dtype == torch.float32
    assert type(seq2seq_models.AutoModelForSeq2SeqLM.from_config(config)) is kind


@pytest.mark.parametrize("head", LM_HEADS)
def test_logits_under_autocast_are_float32(head: str) -> None:
    mine, _ = ours("Pegasus", head)
    with torch.autocast("cpu", torch.bfloat16):
        given = batch(head)
        with_labels, without = mine(**given), mine(**{**given, "decoder_input_ids": given["labels"].clamp(min=0)} if
            head != "ForCausalLM" else {"input_ids": given["input_ids"]})  # fmt: skip
    assert with_labels.logits.dtype == without.logits.dtype == with_labels.loss.dtype == torch.float32


@pytest.mark.parametrize("name", ["attention_mask", "decoder_attention_mask"])
def test_a_mask_of_wrong_length_is_an_input_error(name: str) -> None:
    mine, _ = ours("Pegasus")
    given = batch("ForConditionalGeneration")
    for length in (2, 9):
        with pytest.raises(InputError, match=f"{name}` must have"):
            mine(**{**given, name: torch.ones(2, length, dtype=torch.long)})


@pytest.mark.parametrize("head", LM_HEADS)
def test_a_batch_without_labels_teaches_nothing(head: str) -> None:
    mine, _ = ours("Pegasus", head)
    given = batch(head)
    given["labels"] = torch.full_like(given["labels"], -100)
    for change in (lambda model: None, with_hook):
        change(mine)
        mine.zero_grad()
        loss = mine(**given).loss
        loss.backward()
        assert loss.item() == 0.0
        assert all(not gradient.any() for gradient in gradients(mine).values())


# ---- accelerate


def all_names(model: nn.Module) -> dict[str, Tensor]:
    """Every weight under all its names: `state_dict` has a shared one once."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}


@pytest.mark.parametrize("way", ["cpu_offload", "disk_offload", "dispatch_model"])
def test_offloading(way: str, tmp_path: Path) -> None:
    import accelerate
    from accelerate.utils import offload_state_dict

    mine, _ = ours("Pegasus")
    given = batch("ForConditionalGeneration")
    with torch.no_grad():
        expected = mine.eval()(**given).logits
        ids = mine.generate(given["input_ids"], max_new_tokens=4)
        state = {name: tensor.detach().clone() for name, tensor in all_names(mine).items()}
        if way == "cpu_offload":
            accelerate.cpu_offload(mine, torch.device("cpu"), state_dict=state)
        elif way == "disk_offload":
            offload_state_dict(tmp_path, state)
            accelerate.disk_offload(mine, tmp_path, torch.device("cpu"))
        else:
            accelerate.dispatch_model(mine, {"": "cpu"}, force_hooks=True)
        torch.testing.assert_close(mine(**given).logits, expected, rtol=1e-5, atol=1e-5)
        assert mine.generate(given["input_ids"], max_new_tokens=4).tolist() == ids.tolist()


def test_empty_weights(tmp_path: Path) -> None:
    import accelerate

    mine, _ = ours("BlenderbotSmall")
    mine.save_pretrained(tmp_path)
    with accelerate.init_empty_weights():
        empty = type(mine)(mine.config)
    assert all(one.is_meta for one in empty.parameters())
    empty.tie_weights()  # which the context has undone, here as in transformers
    accelerate.load_checkpoint_and_dispatch(empty, str(tmp_path / "model.safetensors"), device_map={"": "cpu"})
    given = batch("ForConditionalGeneration")
    with torch.no_grad():
        torch.testing.assert_close(empty.eval()(**given).logits, mine.eval()(**given).logits)
