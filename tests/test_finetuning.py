"""What the three fine-tuning scripts share: data, batches, the loop, its states and its reports."""

from __future__ import annotations

import csv
import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from finetuning import batches, reports, scores, states
from finetuning.arguments import Settings, parse
from finetuning.data import Example, read
from finetuning.training import fine_tune, learning_rate
from seq2seq_models import AutoConfig, AutoTokenizer
from seq2seq_models.bundled import demo_checkpoint

from .finetuning_learner import FewNumbers, Stopped
from .stand_in_hub import TOKEN, StandInHub

DATA = Path(__file__).parent.parent / "examples" / "data"
PAIRS = [("A fire broke out.", "Fire"), ("It rained for two days in Oslo.", "Rain in Oslo"), ("Nothing.", "Calm")]


def settings(folder: Path, **options: Any) -> Settings:
    few = {
        "train_examples": 12,
        "validation_examples": 5,
        "batch_size": 2,
        "log_every": 1,
        "save_every": 2,
        "epochs": 1,
    }
    given = {**few, "train": str(DATA / "wire-train.jsonl"), "validation": str(DATA / "wire-validation.jsonl")}
    return Settings(output=folder, **{**given, **options})


def family(name: str = "pegasus-demo") -> tuple[Any, Any]:
    return AutoTokenizer.from_pretrained(demo_checkpoint(name)), AutoConfig.from_pretrained(demo_checkpoint(name))


# ---- the command line


def test_the_command_line_is_the_settings(tmp_path: Path) -> None:
    words = ["--train", "a.jsonl", "--output", str(tmp_path), "--batch-size", "3", "--gradient-checkpointing"]
    assert parse("What it does.", words) == Settings("a.jsonl", tmp_path, batch_size=3, gradient_checkpointing=True)


@pytest.mark.parametrize("words", [["--batch-size", "0"], ["--schedule", "square"], ["--epochs", "x"], ["--bach", "2"]])
def test_a_wrong_command_line_ends_at_once(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse("What it does.", ["--train", "a.jsonl", "--output", "b", *words])
    assert stopped.value.code == 2
    assert words[0] in capsys.readouterr().err


# ---- data


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    else:
        import datasets

        made = datasets.Dataset.from_list(rows)
        datasets.DatasetDict({"train": made, "validation": made.select([0])}).save_to_disk(path)
    return str(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of datasets and what it loads
@pytest.mark.parametrize("kind", [".jsonl", ".csv", ""])
@pytest.mark.parametrize("names", [("source", "target"), ("document", "summary"), ("text", "headline"), ("x", "y")])
def test_every_format_gives_the_same_examples(kind: str, names: tuple[str, str], tmp_path: Path) -> None:
    tokenizer, config = family()
    where = write(tmp_path / f"data{kind}", [dict(zip(names, pair, strict=True)) for pair in PAIRS])
    columns = {} if names[0] != "x" else {"source_column": "x", "target_column": "y"}
    found = read(where, "train", settings(tmp_path, **columns), "summarization", tokenizer, config)
    ids = [tuple(tokenizer(list(side))["input_ids"]) for side in zip(*PAIRS, strict=True)]
    assert [one.source for one in found] == list(ids[0])
    assert [one.target for one in found] == list(ids[1])
    assert [one.answer for one in found] == ["Fire", "Rain in Oslo", "Calm"]


def test_sources_and_targets_are_cut(tmp_path: Path) -> None:
    tokenizer, config = family()
    where = write(tmp_path / "data.jsonl", [{"source": "rain " * 900, "target": "rain " * 900}])
    short = settings(tmp_path, max_target_length=5)
    (one,) = read(where, "train", short, "summarization", tokenizer, config)
    assert len(one.source) == config.max_position_embeddings
    assert len(one.target) == 5 and one.target[-1] == one.source[-1] == config.eos_token_id
    (one,) = read(where, "train", settings(tmp_path, max_source_length=7), "summarization", tokenizer, config)
    assert len(one.source) == 7


TALK = ["hello , my name is ann .", "nice to meet you , ann .", "what is my name ?", "your name is ann ."]


@pytest.mark.parametrize("kind", ["texts", "messages", "cell"])
def test_every_reply_of_a_talk_is_an_example(kind: str, tmp_path: Path) -> None:
    tokenizer, config = family("blenderbot-small-demo")
    roles = ["user", "assistant"] * 2
    turns: Any = TALK
    if kind == "messages":
        turns = [{"role": role, "content": text} for role, text in zip(roles, TALK, strict=True)]
    where = tmp_path / ("data.csv" if kind == "cell" else "data.jsonl")
    write(where, [{"turns": json.dumps(turns) if kind == "cell" else turns}])
    found = read(str(where), "train", settings(tmp_path), "chat", tokenizer, config)
    between = "__end__ __start__"
    sources = [TALK[0], between.join(TALK[:3])]
    assert [one.source for one in found] == tokenizer(sources)["input_ids"]
    assert [one.answer for one in found] == [TALK[1], TALK[3]]
    assert all(one.target == [*tokenizer(one.answer)["input_ids"], config.eos_token_id] for one in found)


def test_of_a_long_talk_the_newest_turns_are_read(tmp_path: Path) -> None:
    tokenizer, config = family("blenderbot-small-demo")
    where = write(tmp_path / "data.jsonl", [{"turns": TALK}])
    first, second = read(where, "train", settings(tmp_path, max_source_length=8), "chat", tokenizer, config)
    assert first.source == tokenizer(TALK[0])["input_ids"]
    assert second.source == tokenizer(TALK[2])["input_ids"]


@pytest.mark.parametrize(
    "row, option", [({"a": "x"}, "--source-column"), ({"source": "x", "b": "y"}, "--target-column")]
)
def test_a_missing_column_is_named(row: dict[str, str], option: str, tmp_path: Path) -> None:
    where = write(tmp_path / "data.jsonl", [row])
    with pytest.raises(ValueError, match=f"{option} must be one of {', '.join(row)}"):
        read(where, "train", settings(tmp_path), "summarization", *family())


def test_no_data_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="must hold at least one example"):
        read(str(tmp_path / "empty.jsonl"), "train", settings(tmp_path), "summarization", *family())
    with pytest.raises(ValueError, match="must be a file that is there"):
        read(str(tmp_path / "absent.csv"), "train", settings(tmp_path), "summarization", *family())


# ---- batches


def examples(count: int) -> list[Example]:
    draw = np.random.default_rng(0)
    return [Example([5] * int(draw.integers(1, 40)), [6, 1], "") for _ in range(count)]


def test_an_epoch_has_every_example_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    lengths = [len(one.source) for one in examples(96)]
    options = settings(tmp_path, batch_size=4, accumulation=2)
    epochs = [batches.updates(lengths, options, 1, epoch) for epoch in (0, 1)]
    for epoch in epochs:
        assert sorted(row for update in epoch for batch in update for row in batch) == list(range(96))
        assert {len(update) for update in epoch} == {2} and {len(batch) for update in epoch for batch in update} == {4}
    assert epochs[0] != epochs[1] and epochs[0] == batches.updates(lengths, options, 1, 0)
    assert epochs[0] != batches.updates(lengths, settings(tmp_path, batch_size=4, accumulation=2, seed=1), 1, 0)
    spread = [max(lengths[row] for row in batch) - min(lengths[row] for row in batch) for u in epochs[0] for batch in u]
    assert np.mean(spread) < 5  # unsorted it is about 24


def test_processes_share_what_one_would_accumulate(tmp_path: Path) -> None:
    lengths = [len(one.source) for one in examples(30)]
    alone = batches.updates(lengths, settings(tmp_path, accumulation=6), 1, 3)
    assert alone == batches.updates(lengths, settings(tmp_path, accumulation=2), 3, 3)


def test_a_small_data_set_is_repeated_within_an_update(tmp_path: Path) -> None:
    ((batch,),) = batches.updates([3, 4, 5], settings(tmp_path, batch_size=8), 1, 0)
    assert sorted(batch) == sorted([0, 1, 2] * 2 + batch_rest(batch))


def batch_rest(batch: list[int]) -> list[int]:
    """What is left of a batch of eight when three examples were taken out twice."""
    rest = list(batch)
    for row in [0, 1, 2] * 2:
        rest.remove(row)
    assert len(rest) == 2
    return rest


def test_a_batch_is_always_full(tmp_path: Path) -> None:
    options = settings(tmp_path, batch_size=3, pad_to_multiple_of=4)
    made = batches.padded(
        [Example([7, 8, 9, 10, 1], [11, 1], "a"), Example([12, 1], [1], "b")], [1, 0], options, 0, 512
    )
    ids, mask, labels = (made.inputs[name].tolist() for name in ("input_ids", "attention_mask", "labels"))
    assert ids == [[12, 1] + [0] * 6, [7, 8, 9, 10, 1, 0, 0, 0], [12, 1] + [0] * 6]
    assert mask == [[1, 1] + [0] * 6, [1] * 5 + [0] * 3, [1, 1] + [0] * 6]
    assert labels == [[1, -100, -100, -100], [11, 1, -100, -100], [-100] * 4]
    assert (made.labels, made.tokens) == (3, 10)
    assert batches.padded([Example([7] * 9, [1], "")], [0], options, 0, 10).inputs["input_ids"].shape == (3, 10)


@pytest.mark.reference
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_learning_rates_are_those_of_transformers(schedule: str, tmp_path: Path) -> None:
    import torch
    from transformers import get_scheduler

    name = "constant_with_warmup" if schedule == "constant" else schedule
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    theirs = get_scheduler(name, optimizer, num_warmup_steps=4, num_training_steps=20)
    options = settings(tmp_path, learning_rate=0.5, schedule=schedule, warmup_steps=4)
    for step in range(20):
        # Theirs is 0 for the first update, which therefore does nothing; ours has made the first part of the rise.
        ours = learning_rate(options, step, 20)
        assert ours == pytest.approx(0.5 * (step + 1) / 4 if step < 4 else theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


# ---- the loop


def history(folder: Path) -> list[dict[str, float]]:
    """All that was recorded but for the speed, which no two runs share."""
    lines = reports.read_history(folder)
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in lines]


def test_a_run_records_all_that_it_measures(tmp_path: Path) -> None:
    results = fine_tune(settings(tmp_path, evaluate_every=3), FewNumbers())
    lines = history(tmp_path)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "rougeL" in line] == [0, 3, 6]
    assert [line["validation_loss"] for line in lines if "rougeL" in line] == pytest.approx([1, 1 / 4, 1 / 7])
    assert results == {key: value for key, value in lines[-1].items() if key != "step"}
    assert results["perplexity"] == pytest.approx(math.exp(1 / 7)) and results["rougeL"] == 100
    board = EventAccumulator(str(tmp_path / "logs"))
    board.Reload()
    assert [one.step for one in board.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert (
        "base_model: pegasus-demo" in card and "| rougeL | 100 |" in card and "![loss and scores](curves.png)" in card
    )


@pytest.mark.parametrize("metric, better", [("loss", 3), ("rougeL", 4)])
def test_the_best_model_is_kept_and_patience_ends(metric: str, better: int, tmp_path: Path) -> None:
    curve = {0: 5.0, 1: 4.0, 2: 3.0, 3: 1.0}
    learner = FewNumbers(lambda step: curve.get(step, 2.0))
    options = settings(tmp_path, evaluate_every=1, epochs=9, patience=3, metric=metric)
    fine_tune(options, learner)
    lines = [line for line in history(tmp_path) if "validation_loss" in line]
    assert lines[-1]["step"] == better + 3  # ROUGE is full after four updates, and then no better
    assert np.load(tmp_path / "model.npy").tolist() == learner.past[better].tolist()
    assert states.load(max(tmp_path.glob("state-*"))).best_step == better


def killed_at(moment: int) -> Any:
    """An interruption at the so-many-th call of any kind."""
    calls = 0

    def interrupt(what: str) -> None:
        nonlocal calls
        calls += 1
        if calls == moment:
            raise Stopped(what)

    return interrupt


@pytest.mark.parametrize("moment", range(1, 38, 3))
def test_a_run_stopped_anywhere_goes_on_as_if_it_had_not(moment: int, tmp_path: Path) -> None:
    options = {"evaluate_every": 3, "accumulation": 2, "epochs": 3}
    whole = FewNumbers()
    fine_tune(settings(tmp_path / "whole", **options), whole)
    with pytest.raises(Stopped):
        fine_tune(settings(tmp_path / "parts", **options), FewNumbers(interrupt=killed_at(moment)))
    with suppress(Stopped):  # and once more, right after it has begun again, if there is still anything to do
        fine_tune(settings(tmp_path / "parts", **options), FewNumbers(interrupt=killed_at(3)))
    last = FewNumbers()
    fine_tune(settings(tmp_path / "parts", **options), last)
    assert last.weights.tolist() == whole.weights.tolist()
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert np.load(tmp_path / "parts" / "model.npy").tolist() == np.load(tmp_path / "whole" / "model.npy").tolist()
    assert [path.name for path in (tmp_path / "parts").glob("state-*")] == ["state-00000009"]


def test_without_validation_the_last_model_is_kept(tmp_path: Path) -> None:
    learner = FewNumbers()
    assert fine_tune(settings(tmp_path, validation=None), learner) == {}
    assert np.load(tmp_path / "model.npy").tolist() == learner.weights.tolist()
    assert "On no held-out data" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first = fine_tune(settings(tmp_path), FewNumbers())
    again = FewNumbers()
    assert fine_tune(settings(tmp_path), again) == first
    assert again.seen == []


def test_another_run_in_the_folder_is_not_overwritten_unasked(tmp_path: Path) -> None:
    fine_tune(settings(tmp_path), FewNumbers())
    with pytest.raises(ValueError, match="holds one with --learning-rate 5e-05, --seed 0"):
        fine_tune(settings(tmp_path, seed=3, learning_rate=1e-4), FewNumbers())
    learner = FewNumbers()
    fine_tune(settings(tmp_path, seed=3, overwrite=True), learner)
    assert len(learner.seen) == 6 and history(tmp_path)[0]["step"] == 0


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    learner = FewNumbers()
    learner.weights[:] = np.nan
    with pytest.raises(FloatingPointError, match="must be finite, got nan after update 1"):
        fine_tune(settings(tmp_path), learner)


def test_rouge_is_that_of_the_package() -> None:
    found = scores.rouge(["the cat sat", "a dog"], ["the cat sits", "a dog"])
    assert found == pytest.approx({"rouge1": (200 / 3 + 100) / 2, "rouge2": 75.0, "rougeL": (200 / 3 + 100) / 2})


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:httpx2")
def test_the_folder_is_pushed_without_its_states(hub: StandInHub, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fine_tune(settings(tmp_path / "tuned", push_to_hub="tester/tuned"), FewNumbers())
    pushed = set(hub_files(hub, "tester/tuned"))
    assert {"README.md", "curves.png", "history.jsonl", "model.npy", "settings.json", "tokenizer.json"} <= pushed
    assert not [path for path in pushed if path.startswith("state-")]


def hub_files(hub: StandInHub, repository: str) -> list[str]:
    from huggingface_hub import HfApi

    return list(HfApi(endpoint=hub.endpoint, token=TOKEN).list_repo_files(repository))
