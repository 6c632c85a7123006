"""transformers' Trainer takes our PyTorch models as they are, and ends with the weights it gives its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from accelerate.state import AcceleratorState, GradientState
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

import seq2seq_models
from seq2seq_models import DataCollatorForSeq2Seq, SaveConfigCallback

from .tiny import FAMILIES, batch, close
from .tiny_training import collator, equal_weights, exactly, examples, models, moved, tokenizer

IS_NEW = int(transformers.__version__.split(".")[0]) >= 5
"""Whether the Trainer is that of transformers 5, which calls some arguments otherwise and left others out."""

pytestmark = [
    pytest.mark.reference,
    pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing(_kwargs)?` is deprecated"),  # by transformers 5
]
BY_LENGTH = {"train_sampling_strategy": "group_by_length"} if IS_NEW else {"group_by_length": True}
TRAINING = {
    "max_steps": 4,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-2,
    # The gradient of a key's bias is zero but for rounding, which Adam with its own epsilon makes a step of full size.
    "adam_epsilon": 1e-4,
    "save_steps": 2,
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": [],
    "logging_steps": 1,
}


@pytest.fixture(autouse=True)
def fresh_accelerate(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """accelerate keeps what the first Accelerator of a process was asked for, and a Trainer passes it by variables."""
    for name in ("DYNAMO_BACKEND", "DYNAMO_MODE", "MIXED_PRECISION", "GRADIENT_ACCUMULATION_STEPS"):
        monkeypatch.setenv(f"ACCELERATE_{name}", "no")
        monkeypatch.delenv(f"ACCELERATE_{name}")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def trainer(family: str, model: Any, folder: Path, kind: type[Trainer] = Seq2SeqTrainer, **options: Any) -> Any:
    """A Trainer over a few examples; options are those of its arguments, or of itself."""
    own = {name: options.pop(name) for name in ("callbacks", "compute_metrics") if name in options}
    settings = Seq2SeqTrainingArguments if issubclass(kind, Seq2SeqTrainer) else TrainingArguments
    return kind(
        model=model,
        args=settings(output_dir=str(folder), **{**TRAINING, **options}),
        train_dataset=examples(family, 8),
        eval_dataset=examples(family, 4, seed=1),
        data_collator=collator(family, model.config),
        processing_class=tokenizer(family),
        **own,
    )


def losses(trained: Any) -> list[float]:
    return [entry[key] for entry in trained.state.log_history for key in ("loss", "eval_loss") if key in entry]


@pytest.mark.parametrize(
    "options",
    [
        {"kind": Trainer},
        {"gradient_accumulation_steps": 2, "max_grad_norm": 0.5},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"label_smoothing_factor": 0.2},
        {"optim": "sgd", "lr_scheduler_type": "cosine", "warmup_steps": 2, **BY_LENGTH},
    ],
    ids=["plain", "accumulated", "checkpointed", "reentrant", "smoothed", "by length"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_trainer_ends_with_the_references_weights(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    theirs, mine = models(family)
    before = copy.deepcopy(mine)
    evaluation = {"eval_strategy": "steps", "eval_steps": 2}
    runs = []
    for model in (mine, theirs):  # one after the other: making a Trainer sets the seed
        runs.append(trainer(family, model, tmp_path / type(model).__module__, **options, **evaluation))
        runs[-1].train()
    equal_weights(mine, theirs)
    assert moved(mine, before)
    assert len(losses(runs[0])) == 6
    expected = losses(runs[1])
    if IS_NEW and options.get("gradient_accumulation_steps"):
        # transformers 5 has the Trainer leave the division to its own models, and Pegasus' does not divide.
        expected = [loss if index % 3 == 2 else loss / 2 for index, loss in enumerate(expected)]
    assert losses(runs[0]) == pytest.approx(expected, abs=1e-4)  # a log has four places
    assert runs[0].state.total_flos == runs[1].state.total_flos > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_is_resumed_bit_for_bit(family: str, tmp_path: Path) -> None:
    """With dropout, whose draws are part of what a checkpoint holds."""
    _, mine = models(family, dropout=0.1)
    other = copy.deepcopy(mine)
    trainer(family, mine, tmp_path).train()
    resumed = trainer(family, other, tmp_path / "again")
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.global_step == 4
    assert exactly(mine, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_of_theirs_is_resumed_by_ours(family: str, tmp_path: Path) -> None:
    """So the optimizer's state fits too: it goes by the order of the parameters."""
    theirs, mine = models(family)
    trainer(family, theirs, tmp_path).train()
    trainer(family, mine, tmp_path / "again").train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    equal_weights(mine, theirs)


@pytest.mark.parametrize("in_safetensors", [True] if IS_NEW else [True, False])
def test_the_best_checkpoint_is_loaded_at_the_end(
    in_safetensors: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, mine = models("Pegasus")
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "learning_rate": 2.0}
    form = {} if IS_NEW else {"save_safetensors": in_safetensors}
    run = trainer("Pegasus", mine, tmp_path, **steps, load_best_model_at_end=True, **form)
    run.train()
    best = run.state.best_global_step
    assert 1 <= best < 4
    assert losses(run)[1::2][best - 1] == run.state.best_metric == min(losses(run)[1::2])
    folder = Path(run.state.best_model_checkpoint)
    if in_safetensors:
        kept = safetensors.torch.load_file(folder / "model.safetensors")
    else:
        kept = torch.load(folder / "pytorch_model.bin", weights_only=True)
    state = mine.state_dict()
    assert kept.keys() == state.keys()
    assert all(torch.equal(kept[name], state[name]) for name in state)
    assert "missing keys" not in caplog.text and "unexpected keys" not in caplog.text


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_loads_in_both_libraries(family: str, tmp_path: Path) -> None:
    _, mine = models(family)
    run = trainer(family, mine, tmp_path, callbacks=[SaveConfigCallback()])
    run.train()
    run.save_model()
    assert exactly(type(mine).from_pretrained(tmp_path), mine)
    ours, theirs = (
        getattr(library, f"{family}ForConditionalGeneration").from_pretrained(tmp_path / "checkpoint-4")
        for library in (seq2seq_models, transformers)
    )
    assert exactly(ours, mine)
    equal_weights(theirs, mine)
    assert ours.generation_config == mine.generation_config
    inputs = batch(vocabulary=len(tokenizer(family)))
    close(ours(**inputs).logits, theirs(**inputs).logits)
    source = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    assert ours.generate(**source).tolist() == theirs.generate(**source).tolist()
    words = "rain in porto"
    again = getattr(seq2seq_models, f"{family}Tokenizer").from_pretrained(tmp_path / "checkpoint-4")
    assert again(words)["input_ids"] == tokenizer(family)(words)["input_ids"]
    # Without the callback: the weights are there, and the config comes from elsewhere.
    mine.config.save_pretrained(tmp_path / "config")
    (tmp_path / "checkpoint-2" / "config.json").unlink()
    cls = type(mine)
    early = cls.from_pretrained(tmp_path / "checkpoint-2", config=tmp_path / "config")
    kept = safetensors.torch.load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in early.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_evaluation_generates(family: str, tmp_path: Path) -> None:
    theirs, mine = models(family)
    seen: list[Any] = []

    def metrics(found: Any) -> dict[str, float]:
        seen.append(found)
        return {"tokens": float((found.predictions > 0).sum())}

    runs = [
        trainer(family, model, tmp_path, predict_with_generate=True, compute_metrics=metrics)
        for model in (mine, theirs)
    ]
    asked: list[dict[str, Any]] = [{}, {"max_length": 7, "num_beams": 3, "length_penalty": 0.4}, {"max_new_tokens": 5}]
    for options in asked:
        ours, expected = (run.predict(examples(family, 5, seed=2), **options) for run in runs)
        assert ours.predictions.tolist() == expected.predictions.tolist()
        assert ours.label_ids.tolist() == expected.label_ids.tolist()
        assert ours.metrics["test_loss"] == pytest.approx(expected.metrics["test_loss"], abs=1e-5)
    ours, expected = (run.evaluate(num_beams=2) for run in runs)
    assert ours["eval_tokens"] == expected["eval_tokens"] > 0
    assert len(seen) == 8


@pytest.mark.parametrize("family", FAMILIES)
def test_evaluation_generates_through_a_forward_of_ones_own(family: str, tmp_path: Path) -> None:
    found = []
    for index, model in enumerate(models(family)):

        class Favouring(type(model)):  # type: ignore[misc]
            def forward(
                self, input_ids: Any = None, attention_mask: Any = None, labels: Any = None, **more: Any
            ) -> Any:
                outputs = super().forward(input_ids, attention_mask, labels=labels, **more)
                outputs.logits = outputs.logits + 100.0 * torch.nn.functional.one_hot(
                    torch.tensor(40), outputs.logits.shape[-1]
                )
                return outputs

        model.__class__ = Favouring
        own = trainer(family, model, tmp_path / str(index), predict_with_generate=True, generation_max_length=8)
        found.append(own.predict(own.eval_dataset, num_beams=2).predictions.tolist())
    assert found[0] == found[1] and any(40 in row for row in found[0])


def test_training_arguments_bring_a_generation_config(tmp_path: Path) -> None:
    theirs, mine = models("Pegasus")
    config = transformers.GenerationConfig(
        max_length=6, num_beams=2, decoder_start_token_id=0, eos_token_id=1, pad_token_id=0, no_repeat_ngram_size=2
    )
    config.save_pretrained(tmp_path / "config")
    for given in (config, str(tmp_path / "config")):
        runs = [
            trainer("Pegasus", model, tmp_path, predict_with_generate=True, generation_config=given)
            for model in (mine, theirs)
        ]
        assert isinstance(mine.generation_config, seq2seq_models.GenerationConfig)
        ours, expected = (run.predict(examples("Pegasus", 5, seed=2)).predictions.tolist() for run in runs)
        assert ours == expected
    inputs = batch(vocabulary=len(tokenizer("Pegasus")))
    source = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    once = transformers.GenerationConfig(max_new_tokens=4, num_beams=3)
    found, expected = (model.generate(**source, generation_config=once) for model in (mine, theirs))
    assert found.tolist() == expected.tolist()


def test_defaults_and_bfloat16(tmp_path: Path) -> None:
    """A Trainer with nothing but an output folder and a number of steps, and one in mixed precision."""
    _, mine = models("Pegasus")
    first, second = copy.deepcopy(mine), copy.deepcopy(mine)
    collator = DataCollatorForSeq2Seq(tokenizer("Pegasus"), model=first)
    plain = Trainer(
        model=first,
        args=TrainingArguments(output_dir=str(tmp_path / "plain"), max_steps=3, use_cpu=True),
        train_dataset=examples("Pegasus", 8),
        data_collator=collator,
    )
    plain.train()
    saved = safetensors.torch.load_file(tmp_path / "plain" / "checkpoint-3" / "model.safetensors")
    assert saved.keys() == first.state_dict().keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in first.state_dict().items())
    exact, mixed = (
        trainer("Pegasus", mine, tmp_path / "exact"),
        trainer("Pegasus", second, tmp_path / "bf16", bf16=True),
    )
    exact.train()
    mixed.train()
    assert second.dtype is torch.float32 and losses(mixed) != losses(exact)
    assert losses(mixed) == pytest.approx(losses(exact), rel=2e-2)


@pytest.mark.heavy
def test_a_compiled_model(tmp_path: Path) -> None:
    _, mine = models("Pegasus", encoder_layers=1, decoder_layers=1)
    eager = copy.deepcopy(mine)
    options = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    trainer("Pegasus", eager, tmp_path / "eager").train()
    run = trainer("Pegasus", mine, tmp_path / "compiled", **options)
    run.train()
    assert type(run.model_wrapped).__name__ == "OptimizedModule"
    equal_weights(mine, eager)
    saved = safetensors.torch.load_file(tmp_path / "compiled" / "checkpoint-4" / "model.safetensors")
    assert saved.keys() == mine.state_dict().keys()
    torch.compiler.reset()
