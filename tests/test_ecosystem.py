"""accelerate, peft and torch.compile take our PyTorch models as they are; the Trainer is in test_trainer.py."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.data import DataLoader
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from seq2seq_models.errors import InputError
from seq2seq_models.pytorch import packing
from seq2seq_models.pytorch.serving import Served

from .tiny import FAMILIES, HEADS, batch, close, ours_like, reference
from .tiny_training import STILL, collator, exactly, examples, models, moved, tokenizer

pytestmark = [
    pytest.mark.reference,
    pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing(_kwargs)?` is deprecated"),  # by transformers 5
]


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps what the first Accelerator of a process was asked for."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def loader(family: str, model: Any, count: int = 8) -> DataLoader[Any]:
    data = examples(family, count).remove_columns("number")
    return DataLoader(data, batch_size=2, collate_fn=collator(family, model.config))


def adam(model: Any) -> torch.optim.Optimizer:
    # As in test_trainer.py: rounding is no gradient.
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2, eps=1e-4)


# ---- accelerate


def learn(accelerator: Accelerator, model: Any, optimizer: Any, data: Iterable[Any]) -> list[float]:
    """The losses of one pass with accelerate, written as its guide writes it."""
    losses = []
    model.train()
    for inputs in data:
        with accelerator.accumulate(model):
            loss = model(**inputs).loss
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("family", FAMILIES)
def test_accelerate_trains_as_a_plain_loop(family: str) -> None:
    _, mine = models(family)
    plain, before = copy.deepcopy(mine), copy.deepcopy(mine)
    optimizer = adam(plain.train())
    for number, inputs in enumerate(loader(family, plain)):
        (plain(**inputs).loss / 2).backward()
        if number % 2:
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer, data = accelerator.prepare(mine, adam(mine), loader(family, mine))
    learn(accelerator, model, optimizer, data)
    assert exactly(accelerator.unwrap_model(model), plain) and moved(mine, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_accelerate_goes_on_from_a_saved_state(family: str, tmp_path: Path) -> None:
    """Bit for bit, with dropout."""
    _, mine = models(family, dropout=0.1)
    other = copy.deepcopy(mine)
    accelerator = Accelerator(cpu=True)
    model, optimizer, data = accelerator.prepare(mine, adam(mine), loader(family, mine))
    learn(accelerator, model, optimizer, data)
    accelerator.save_state(str(tmp_path / "state"))
    expected = learn(accelerator, model, optimizer, data)
    accelerator.free_memory()

    model, optimizer, data = accelerator.prepare(other, adam(other), loader(family, other))
    accelerator.load_state(str(tmp_path / "state"))
    assert learn(accelerator, model, optimizer, data) == expected
    assert exactly(other, mine)
    accelerator.save_model(model, str(tmp_path / "model"))
    other.config.save_pretrained(tmp_path / "model")
    assert exactly(type(mine).from_pretrained(tmp_path / "model"), mine)


def test_accelerate_in_bfloat16() -> None:
    _, mine = models("Pegasus")
    exact = copy.deepcopy(mine)
    accelerator = Accelerator(cpu=True)
    model, optimizer, data = accelerator.prepare(exact, adam(exact), loader("Pegasus", exact))
    expected = learn(accelerator, model, optimizer, data)
    AcceleratorState._reset_state(reset_partial_state=True)

    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    model, optimizer, data = accelerator.prepare(mine, adam(mine), loader("Pegasus", mine))
    found = learn(accelerator, model, optimizer, data)
    assert found != expected and found == pytest.approx(expected, rel=2e-2)
    assert mine.dtype is torch.float32 and model(**next(iter(data))).logits.dtype is torch.float32


# ---- peft


@pytest.fixture
def packs_everything(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets tiny weights be packed too; counts the products with packed weights."""
    calls: list[int] = []
    product = packing._product
    monkeypatch.setattr(packing, "SMALLEST", 1)
    monkeypatch.setattr(packing, "_product", lambda *args: (calls.append(1), product(*args))[1])
    return calls


def adapted(model: Any, **options: Any) -> Any:
    """The model with an adapter of fixed random values."""
    torch.manual_seed(4)
    chosen = {"target_modules": ["q_proj", "v_proj", "fc1"], **options}
    config = peft.LoraConfig(r=3, lora_alpha=4, init_lora_weights=False, **chosen)
    return peft.get_peft_model(model, config)


def generated(model: Any, inputs: dict[str, Any]) -> list[list[list[int]]]:
    """Greedy search and beams, with and without a cache."""
    source = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    ways = [(beams, cached) for beams in (1, 3) for cached in (True, False)]
    return [
        model.generate(**source, max_new_tokens=8, num_beams=beams, use_cache=cached).tolist() for beams, cached in ways
    ]


def scores(model: Any) -> torch.Tensor:
    """Logits of the first generated tokens [steps, B, V]."""
    options = {"max_new_tokens": 3, "return_dict_in_generate": True, "output_logits": True}
    return torch.stack(model.generate(batch()["input_ids"], **options).logits)


def training_batch() -> dict[str, Any]:
    inputs = batch()
    labels = inputs.pop("decoder_input_ids").clone()
    labels[1, 4:] = -100
    return {**inputs, "labels": labels}


def fit(model: Any, steps: int = 4) -> None:
    optimizer, inputs = adam(model.train()), training_batch()
    for _ in range(steps):
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@pytest.mark.parametrize("task", ["SEQ_2_SEQ_LM", None])
@pytest.mark.parametrize("family", FAMILIES)
def test_lora(family: str, task: str | None, packs_everything: list[int], tmp_path: Path) -> None:
    theirs = reference(family, **STILL, scale_embedding=family == "Pegasus")
    base = ours_like(theirs)
    model, inputs = copy.deepcopy(base), training_batch()
    first = generated(model, inputs)  # packs the weights that the adapter will change
    wrapped, expected = adapted(model, task_type=task), adapted(theirs, task_type=task)
    for one in (wrapped, expected):
        fit(one)
    learnt = dict(wrapped.named_parameters())
    for name, weight in expected.named_parameters():
        close(learnt[name], weight)
    logits, ids = wrapped(**inputs).logits, generated(wrapped, inputs)
    close(logits, expected(**inputs).logits, 2e-5)  # sums of adapted weights that already differ by rounding
    assert ids == generated(expected, inputs) != first

    wrapped.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    assert type(again) is type(wrapped)
    close(again(**inputs).logits, logits, 0.0)
    assert generated(again, inputs) == ids

    with wrapped.disable_adapter():
        assert generated(wrapped, inputs) == first
    wrapped.merge_adapter()
    assert generated(wrapped, inputs) == ids
    wrapped.unmerge_adapter()
    assert generated(wrapped, inputs) == ids
    merged = wrapped.merge_and_unload()
    assert type(merged) is type(base)
    close(merged(**inputs).logits, logits)
    products = len(packs_everything)
    assert generated(merged, inputs) == ids
    assert len(packs_everything) > products
    merged.save_pretrained(tmp_path / "merged")
    assert exactly(type(base).from_pretrained(tmp_path / "merged"), merged)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_write_through_data_is_noticed(family: str, packs_everything: list[int]) -> None:
    """Which is how adapters are merged: the weight's own count of writes stays."""
    mine = ours_like(reference(family))
    for model in (mine, ours_like(mine).bfloat16()):
        before = scores(model)
        for weight in (model.lm_head.weight, model.model.decoder.layers[0].fc1.weight):
            writes = weight._version
            weight.data[5:9] *= -2.0
            assert weight._version == writes
            found = scores(model)
            assert torch.equal(found, scores(copy.deepcopy(model))) and not torch.equal(found, before)
            before = found
    assert packs_everything


@pytest.mark.parametrize("family", FAMILIES)
def test_new_words_and_whole_layers_with_an_adapter(family: str, tmp_path: Path) -> None:
    """The embedding, which is trained as a whole, and an adapter on it; with words added before."""
    inputs = training_batch()
    for number, options in enumerate(({"modules_to_save": ["shared"]}, {"target_modules": ["shared", "q_proj"]})):
        base = ours_like(reference(family, **STILL, tie_word_embeddings=False))
        base.resize_token_embeddings(90)
        start = copy.deepcopy(base)
        wrapped = adapted(base, task_type="SEQ_2_SEQ_LM", **options)
        fit(wrapped)
        folder = tmp_path / str(number)
        wrapped.save_pretrained(folder)
        again = peft.PeftModel.from_pretrained(start, folder)
        close(again(**inputs).logits, wrapped(**inputs).logits, 0.0)


@pytest.mark.parametrize(
    "weight",
    [torch.zeros(3, 5), torch.zeros(3, 5, dtype=torch.bfloat16), torch.zeros(31)[1:].view(5, 6), torch.zeros(6, 4).T],
    ids=["odd", "odd bfloat16", "odd place", "turned"],
)
def test_so_it_is_for_every_layout(weight: torch.Tensor) -> None:
    before = packing._state(weight)
    assert packing._is_same(before, packing._state(weight))
    weight.data[1, 2] = 1e-30
    assert not packing._is_same(before, packing._state(weight))


SEQ2SEQ: dict[str, Any] = {"task_type": "SEQ_2_SEQ_LM"}
OTHERS = {
    "IA3": peft.IA3Config(**SEQ2SEQ, target_modules=["k_proj", "v_proj", "fc2"], feedforward_modules=["fc2"]),
    "DoRA": peft.LoraConfig(**SEQ2SEQ, target_modules=["q_proj", "fc1"], use_dora=True),
    # peft leaves out the head by itself only for transformers' own classes.
    "every linear layer": peft.LoraConfig(**SEQ2SEQ, target_modules="all-linear", exclude_modules=["lm_head"]),
    "some words": peft.LoraConfig(**SEQ2SEQ, target_modules=["q_proj"], trainable_token_indices={"shared": [5, 9]}),
    "prompt": peft.PromptTuningConfig(**SEQ2SEQ, num_virtual_tokens=3),
}


@pytest.mark.parametrize("method", OTHERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_other_methods_are_those_of_the_reference(family: str, method: str) -> None:
    theirs = reference(family, **STILL, scale_embedding=family == "Pegasus")
    mine, inputs, wrapped = ours_like(theirs), training_batch(), []
    for model in (mine, theirs):
        torch.manual_seed(4)
        wrapped.append(peft.get_peft_model(model, copy.deepcopy(OTHERS[method])))
        fit(wrapped[-1], steps=2)
    learnt = {name: p for name, p in wrapped[0].named_parameters() if p.requires_grad}
    assert learnt
    for name, weight in learnt.items():
        close(weight, wrapped[1].get_parameter(name))
    close(wrapped[0](**inputs).loss, wrapped[1](**inputs).loss)
    assert generated(wrapped[0], inputs) == generated(wrapped[1], inputs)


def test_prefix_tuning_is_refused() -> None:
    inputs = training_batch()
    source = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    sizes = {"num_virtual_tokens": 3, "num_layers": 3, "num_attention_heads": 6, "token_dim": 24}
    prefix = peft.get_peft_model(ours_like(reference("Pegasus")), peft.PrefixTuningConfig(**SEQ2SEQ, **sizes))
    with pytest.raises(InputError, match="`past_key_values` must be a cache of this library"):
        prefix(**inputs)
    with pytest.raises(InputError, match="`past_key_values` must be a cache of this library"):
        prefix.generate(**source)


def test_a_prompt_before_a_causal_model_is_generated_from() -> None:
    """The reference fails here ("list index out of range"), so the steps are taken by hand."""
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    causal = peft.get_peft_model(ours_like(reference("Pegasus", "ForCausalLM")), prompt)
    ids = torch.randint(3, 83, (3, 5), generator=torch.Generator().manual_seed(0))
    found = causal.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, eos_token_id=None)
    expected = ids
    with torch.no_grad():
        for _ in range(5):  # the last is forced to be the end
            logits = causal(input_ids=expected, attention_mask=torch.ones_like(expected)).logits
            expected = torch.cat([expected, logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert found[:, :-1].tolist() == expected.tolist()


def test_the_encoder_on_its_own_for_earlier_versions_of_peft() -> None:
    mine = ours_like(reference("Pegasus"))
    inputs = {name: tensor for name, tensor in training_batch().items() if name != "labels"}
    ids = inputs.pop("input_ids")
    found = mine._prepare_encoder_decoder_kwargs_for_generation(ids, inputs, "input_ids", mine.generation_config)
    expected = mine.get_encoder()(ids, **inputs)
    close(found.pop("encoder_outputs").last_hidden_state, expected.last_hidden_state, 0.0)
    assert found == inputs


def test_the_trainer_trains_an_adapter(tmp_path: Path) -> None:
    _, mine = models("Pegasus")
    base, before = copy.deepcopy(mine), copy.deepcopy(mine)
    wrapped = adapted(mine, task_type="SEQ_2_SEQ_LM")
    start = copy.deepcopy(wrapped)
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path), max_steps=4, save_steps=2, use_cpu=True, disable_tqdm=True, report_to=[],
        predict_with_generate=True, gradient_checkpointing=True, per_device_train_batch_size=2,
    )  # fmt: skip
    data = {"train_dataset": examples("Pegasus", 8), "eval_dataset": examples("Pegasus", 4, seed=1)}
    pad = collator("Pegasus", base.config)
    run = Seq2SeqTrainer(wrapped, arguments, pad, **data, processing_class=tokenizer("Pegasus"))
    run.train()
    assert moved(wrapped, start)
    again = peft.PeftModel.from_pretrained(base, tmp_path / "checkpoint-4")
    inputs = next(iter(loader("Pegasus", base)))
    close(again(**inputs).logits, wrapped.eval()(**inputs).logits, 0.0)
    assert run.predict(data["eval_dataset"], max_length=6).predictions.shape[1] <= 9
    with wrapped.disable_adapter():
        close(wrapped(**inputs).logits, before(**inputs).logits, 0.0)


# ---- torch.compile


def gradients(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss, and the gradient of each parameter by its name."""
    model.zero_grad()
    output = model(**inputs)
    loss = output.last_hidden_state.pow(2).mean() if "labels" not in inputs else output.loss
    loss.backward()
    named = {name.removeprefix("_orig_mod."): p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), {name: grad.clone() for name, grad in named.items()}


def same_gradients(compiled: Any, eager: Any, inputs: dict[str, Any]) -> None:
    (loss, found), (expected_loss, expected) = gradients(compiled, inputs), gradients(eager, inputs)
    close(loss, expected_loss)
    assert found.keys() == expected.keys() and len(found) > 15
    for name, gradient in found.items():
        close(gradient, expected[name])


def inputs_of(head: str) -> dict[str, Any]:
    inputs = training_batch()
    if head == "ForCausalLM":
        inputs["labels"] = inputs["input_ids"]
    return batch() if head == "Model" else inputs


@pytest.fixture(autouse=True)
def forget_compiled() -> Iterator[None]:
    yield
    torch.compiler.reset()


def still(family: str, head: str = "ForConditionalGeneration") -> Any:
    """One layer each: what is compiled grows with their number."""
    layers = {"encoder_layers": 1, "decoder_layers": 1}
    return ours_like(reference(family, head, **STILL, **layers)).train()


def test_one_graph_trains() -> None:
    mine = still("BlenderbotSmall")
    same_gradients(torch.compile(mine, fullgraph=True, backend="aot_eager"), copy.deepcopy(mine), training_batch())


@pytest.mark.heavy
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_head_is_one_graph(family: str, head: str) -> None:
    mine = still(family, head)
    twin = copy.deepcopy(mine)
    mine.compile(fullgraph=True, backend="aot_eager")
    inputs = inputs_of(head)
    same_gradients(mine, twin, inputs)
    same_gradients(mine, twin, {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])})
    twin.gradient_checkpointing_enable()
    mine.gradient_checkpointing_enable()
    same_gradients(mine, twin, inputs)


# torch itself warns of its own when it first loads this compiler.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.heavy
def test_the_default_compiler(tmp_path: Path) -> None:
    mine = still("Pegasus")
    twin = copy.deepcopy(mine)
    compiled = torch.compile(mine)
    same_gradients(compiled, twin, training_batch())
    for one in (mine, twin):
        torch.optim.SGD(one.parameters(), 0.1).step()
        one.eval()
    assert generated(compiled, training_batch()) == generated(twin, training_batch())
    compiled.save_pretrained(tmp_path)
    assert exactly(type(mine).from_pretrained(tmp_path), mine)


# As above.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.heavy
@pytest.mark.parametrize("family", FAMILIES)
def test_a_decoding_step_is_one_graph_for_all_steps(family: str) -> None:
    """Its shapes stay and nothing is looked at, so CUDA graphs can replay it."""
    mine = still(family).eval()
    served, inputs = Served(mine), batch(rows=2)
    source, mask, target = (inputs[name].int() for name in ("input_ids", "attention_mask", "decoder_input_ids"))
    compiler = CompileCounterWithBackend("inductor")
    step = torch.compile(served.decode_step, fullgraph=True, dynamic=False, backend=compiler)
    with torch.no_grad():
        expected = mine(**inputs).logits
        encoded = served.encode(source, mask)
        layers, rows, heads, _, width = encoded["cross_keys"].shape
        # Two tensors: one that is given twice is another case to the compiler.
        keys, values = (torch.zeros(layers, rows, heads, target.shape[1], width) for _ in range(2))
        for place in range(target.shape[1]):
            at = torch.tensor(place, dtype=torch.int32)
            new = target[:, place : place + 1].clone()
            found = step(new, at, mask, encoded["cross_keys"], encoded["cross_values"], keys, values)
            keys, values = found["cache_keys"], found["cache_values"]
            close(found["logits"][:, 0], expected[:, place])
    assert compiler.frame_count == 1
