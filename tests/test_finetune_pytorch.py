"""examples/finetune_pytorch.py: its updates by value, its options, kills, and several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from finetune_pytorch import PyTorchLearner
from finetuning.arguments import Settings
from finetuning.training import prepare
from seq2seq_models import PegasusConfig, PegasusForConditionalGeneration, PegasusTokenizer
from seq2seq_models.bundled import demo_checkpoint

from .finetuning_runs import SHORT, free_port, killed_and_continued, run, same_histories, same_weights, words
from .tiny import SIZES

SCRIPT = "finetune_pytorch.py"
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Pegasus with the bundled tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = PegasusTokenizer.from_pretrained(demo_checkpoint("pegasus-demo"))
    torch.manual_seed(0)
    sizes = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 256}
    PegasusForConditionalGeneration(PegasusConfig(**sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def learner(tiny: Path, folder: Path, **options: Any) -> Any:
    given = {**SHORT, "model": str(tiny), "dropout": 0.0, "output": folder, **options}
    given |= {name: str(given[name]) for name in ("train", "validation")}
    return PyTorchLearner(Settings(**given))


def stepped(made: Any, count: int = 2) -> list[tuple[float, float]]:
    """Losses and gradient norms of the first updates, each of two batches."""
    task = prepare(made.settings, made.model)
    found = []
    for number in range(count):
        several = [task.batch(task.training, list(range(at, at + 4))) for at in (8 * number, 8 * number + 4)]
        found.append(made.step(several, sum(one.labels for one in several), 1e-3, number))
    return found


def by_hand(made: Any, smoothing: float, clip: float, count: int = 2) -> list[tuple[float, float]]:
    """The same in plain PyTorch, over all examples of an update at once."""
    task, model = prepare(made.settings, made.model), made.model
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=made.settings.weight_decay)
    found = []
    for number in range(count):
        rows = task.training[8 * number : 8 * number + 8]
        longest, width = max(len(one.source) for one in rows), max(len(one.target) for one in rows)
        ids = torch.tensor([one.source + [0] * (longest - len(one.source)) for one in rows])
        mask = torch.tensor([[1] * len(one.source) + [0] * (longest - len(one.source)) for one in rows])
        labels = torch.tensor([one.target + [-100] * (width - len(one.target)) for one in rows])
        start = torch.full((len(rows), 1), model.config.decoder_start_token_id)
        target = torch.cat([start, labels[:, :-1]], 1).masked_fill(torch.cat([start, labels[:, :-1]], 1) == -100, 0)
        logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=target).logits
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, clip)
        optimizer.step()
        optimizer.zero_grad()
        found.append((loss.item(), norm.item()))
    return found


@pytest.mark.parametrize("smoothing, clip, decay", [(0.0, 1e9, 0.0), (0.2, 0.5, 0.1)])
def test_an_update_is_that_of_plain_pytorch(
    smoothing: float, clip: float, decay: float, tiny: Path, tmp_path: Path
) -> None:
    options = {"label_smoothing": smoothing, "clip": clip, "weight_decay": decay}
    ours, plain = learner(tiny, tmp_path, **options), learner(tiny, tmp_path, **options)
    np.testing.assert_allclose(stepped(ours), by_hand(plain, smoothing, clip), rtol=1e-5)
    for (name, mine), yours in zip(ours.model.named_parameters(), plain.model.parameters(), strict=True):
        # Adam divides by the root of a gradient's square: where that is nearly 0, rounding is all there is of it.
        torch.testing.assert_close(mine, yours, atol=2e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_checkpointing_changes_no_update(tiny: Path, tmp_path: Path) -> None:
    expected = stepped(learner(tiny, tmp_path))
    np.testing.assert_allclose(stepped(learner(tiny, tmp_path, gradient_checkpointing=True)), expected, rtol=1e-6)


def test_bfloat16_is_close_and_keeps_float32_weights(tiny: Path, tmp_path: Path) -> None:
    made = learner(tiny, tmp_path, precision="bfloat16")
    found, expected = stepped(made), stepped(learner(tiny, tmp_path))
    np.testing.assert_allclose(found, expected, rtol=3e-2)
    assert found != expected
    assert {weight.dtype for weight in made.model.parameters()} == {torch.float32}


def test_adafactor_keeps_rows_and_columns_only(tiny: Path, tmp_path: Path) -> None:
    made = learner(tiny, tmp_path, optimizer="adafactor")
    (before, _), *_ = stepped(made)
    (after, _), *_ = stepped(made)
    assert after < before
    kept = sum(value.numel() for one in made.optimizer.state.values() for value in one.values())
    assert kept < sum(weight.numel() for weight in made.weights) / 5


def test_dropout_is_drawn_for_each_update(tiny: Path, tmp_path: Path) -> None:
    noisy = [stepped(learner(tiny, tmp_path, dropout=0.3, seed=seed)) for seed in (1, 1, 2)]
    assert noisy[0] == noisy[1] != noisy[2]


@pytest.mark.heavy
def test_killed_and_continued(tmp_path: Path) -> None:
    killed_and_continued(SCRIPT, tmp_path, dropout=0.1, accumulation=2)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")  # one process reads: that is the point
def test_two_processes_are_as_one(tmp_path: Path) -> None:
    path, options = str(Path(__file__).parent.parent / "examples" / SCRIPT), {"dropout": 0.0}
    run([path, *words(tmp_path / "one", accumulation=2, **options)])
    launch = [*TORCHRUN, str(free_port()), path]
    run([*launch, *words(tmp_path / "ddp", **options)])
    run([*launch, *words(tmp_path / "fsdp", shard_model=2, **options)])
    for name in ("ddp", "fsdp"):
        # Two processes add their gradients in another order, and Adam makes a step of the sign of a tiny one: 1.2e-5.
        same_weights(tmp_path / "one", tmp_path / name, within=3e-5)
        same_histories(tmp_path / "one", tmp_path / name, within=1e-4)
    # The parts that two processes saved are read as one whole model by one process.
    (state,) = (tmp_path / "fsdp").glob("state-*")
    assert len(list((state / "pytorch").glob("*.distcp"))) == 2
    alone = PyTorchLearner(Settings(train="", output=tmp_path, dropout=0.0))
    alone.load_state(state)
    alone.save(tmp_path / "joined")
    same_weights(tmp_path / "one", tmp_path / "joined", within=3e-5)
