"""The loop around one framework's steps: order, evaluation, early stopping, the best model, states, and reports."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from seq2seq_models import AutoTokenizer
from seq2seq_models.bundled import resolve_model

from . import batches, reports, scores, states
from .arguments import Settings
from .batches import Batch
from .data import Example, read

logger = logging.getLogger("finetuning")


class Learner(Protocol):
    """What a framework does in a run. One process of many calls the same methods at the same time as the others.

    Attributes:
        model: the model, with its `config` and `generation_config`.
        framework: its name, for people.
        rank: number of this process, from 0.
        world: how many processes share the data.
    """

    model: Any
    framework: str
    rank: int
    world: int

    def step(self, several: Sequence[Batch], labels: int, rate: float, number: int) -> tuple[float, float]:
        """One update; the loss of a label over all processes' batches, and the gradient's norm before it was clipped.

        Args:
            several: this process's batches.
            labels: how many labels the batches of all processes have together; the gradient is that of their mean.
            rate: the learning rate.
            number: of the update, from 0; with the seed it decides what dropout drops.
        """

    def loss(self, batch: Batch) -> float:
        """The loss of a batch, summed over its labels, without label smoothing and dropout."""

    def generate(self, batch: Batch) -> list[list[int]]:
        """Token ids written for each row of a batch."""

    def save(self, folder: Path) -> None:
        """Save the model as `from_pretrained` reads it."""

    def save_state(self, folder: Path) -> None:
        """Save all that the next update depends on."""

    def load_state(self, folder: Path) -> None:
        """Go back to what was saved."""

    def gather(self, values: list[Any]) -> list[Any]:
        """The values of all processes, in the order of their ranks; comes back when all have come here."""


@dataclass
class Task:
    """What a run works on: texts as ids, and how they are put into batches."""

    settings: Settings
    tokenizer: Any
    training: list[Example]
    validation: list[Example]
    pad: int
    limit: int

    def batch(self, examples: list[Example], rows: list[int]) -> Batch:
        """The batch of these rows."""
        return batches.padded(examples, rows, self.settings, self.pad, self.limit)


def learning_rate(settings: Settings, step: int, total: int) -> float:
    """The learning rate of an update, from 0 on, of `total` updates."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    share = (step - settings.warmup_steps) / max(total - settings.warmup_steps, 1)
    shape = {"linear": 1 - share, "cosine": (1 + math.cos(math.pi * share)) / 2, "constant": 1.0}
    return settings.learning_rate * shape[settings.schedule]


def prepare(settings: Settings, model: Any) -> Task:
    """Read the data for a model."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(settings.model))
    config = model.config

    def examples(name: str | None, split: str) -> list[Example]:
        return read(name, split, settings, str(settings.task), tokenizer, config) if name else []

    training, validation = examples(settings.train, "train"), examples(settings.validation, "validation")
    return Task(settings, tokenizer, training, validation, config.pad_token_id, config.max_position_embeddings)


def fine_tune(settings: Settings, learner: Learner) -> dict[str, float]:
    """Run from the beginning or from the last state; what the best model of the run measured."""
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
        logger.propagate = False
    logger.setLevel(logging.INFO if learner.rank == 0 else logging.WARNING)
    config = learner.model.config
    settings = replace(settings, task=settings.task or ("summarization" if config.model_type == "pegasus" else "chat"))
    settings = replace(settings, metric=settings.metric or ("rougeL" if settings.task != "chat" else "perplexity"))
    return Run(settings, learner).go()


class Run:
    """One run of `fine_tune`."""

    def __init__(self, settings: Settings, learner: Learner) -> None:
        self.settings, self.learner, self.first = settings, learner, learner.rank == 0
        self.task = prepare(settings, learner.model)
        self.lengths = [len(one.source) for one in self.task.training]
        found = states.begin(settings) if self.first else None
        found = learner.gather([found])[0]
        self.progress = states.Progress() if found is None else states.load(found)
        if found is not None:
            learner.load_state(found)
            logger.info("continue after update %d, from %s", self.progress.step, found)
        self.history = (
            reports.History(settings.output, self.progress.history, self.progress.step) if self.first else None
        )
        of_epoch = len(batches.updates(self.lengths, settings, learner.world, 0))
        self.total = settings.max_steps or settings.epochs * of_epoch
        self.every = settings.evaluate_every or of_epoch
        logger.info(
            "%s, %d process%s: %d examples, %d updates of %d",
            learner.framework, learner.world, "es" if learner.world > 1 else "", len(self.lengths), self.total,
            settings.batch_size * settings.accumulation * learner.world,
        )  # fmt: skip

    def go(self) -> dict[str, float]:
        """Train until the end; the best model's results."""
        settings, progress, started = self.settings, self.progress, time.perf_counter() - self.progress.seconds
        if progress.step == 0:
            self.evaluate()
        bar = tqdm(
            total=self.total, initial=progress.step, unit="update", disable=not (self.first and sys.stderr.isatty())
        )
        while progress.step < self.total and not self.stopped():
            for several in batches.updates(self.lengths, settings, self.learner.world, progress.epoch)[
                progress.place :
            ]:
                self.update(several, bar)
                last = progress.step == self.total
                if last or progress.step % self.every == 0:
                    self.evaluate()
                progress.seconds = time.perf_counter() - started
                if last or self.stopped() or progress.step % settings.save_every == 0:
                    self.save()
                if last or self.stopped():
                    break
            else:
                progress.epoch, progress.place = progress.epoch + 1, 0
        bar.close()
        return self.finish()

    def stopped(self) -> bool:
        """Whether the run has gone on long enough without a better model."""
        return bool(self.settings.patience) and self.progress.misses >= self.settings.patience

    def update(self, several: list[list[int]], bar: Any) -> None:
        """One update of the weights, and what is told of it."""
        settings, progress, learner = self.settings, self.progress, self.learner
        started = time.perf_counter()
        made = [self.task.batch(self.task.training, rows) for rows in several]
        rate = learning_rate(settings, progress.step, self.total)
        mine = made[learner.rank :: learner.world]
        loss, norm = learner.step(mine, sum(one.labels for one in made), rate, progress.step)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss must be finite, got {loss} after update {progress.step + 1}.")
        progress.step, progress.place = progress.step + 1, progress.place + 1
        speed = sum(one.tokens for one in made) / (time.perf_counter() - started)
        bar.set_postfix(loss=f"{loss:.4f}", tokens_per_second=f"{speed:,.0f}", refresh=False)
        bar.update()
        if self.history is not None and (progress.step % settings.log_every == 0 or progress.step == self.total):
            values = {"loss": loss, "learning_rate": rate, "gradient_norm": norm, "tokens_per_second": speed}
            self.history.add(progress.step, values)

    def evaluate(self) -> None:
        """Measure the model on the validation data; keep it if it is the best so far."""
        settings, progress, validation = self.settings, self.progress, self.task.validation
        if not validation:
            progress.best_step = progress.step
            self.learner.save(settings.output)
            self.save_tokenizer()
            return
        results = self.measure(validation)
        value = results[{"loss": "validation_loss"}.get(str(settings.metric), str(settings.metric))]
        if scores.better(str(settings.metric), value, progress.best):
            progress.best, progress.best_step, progress.misses = value, progress.step, 0
            self.learner.save(settings.output)
            self.save_tokenizer()
        else:
            progress.misses += 1
        if self.history is not None:
            self.history.add(progress.step, results)
            logger.info("update %d: %s", progress.step, reports.shown(results))

    def measure(self, validation: list[Example]) -> dict[str, float]:
        """Loss, perplexity and, of summaries, ROUGE."""
        learner, settings = self.learner, self.settings
        groups = batches.in_order([len(one.source) for one in validation], settings.batch_size)
        groups += [[]] * (-len(groups) % learner.world)  # each process runs the same number of batches
        loss, labels, texts = 0.0, 0, {}
        for rows in groups[learner.rank :: learner.world]:
            batch = self.task.batch(validation, rows)
            loss, labels = loss + learner.loss(batch), labels + batch.labels
            if settings.task != "chat":
                ids = learner.generate(batch)[: len(rows)]
                texts.update(zip(rows, self.task.tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True))
        parts = learner.gather([(loss, labels, texts)])
        mean = sum(part[0] for part in parts) / sum(part[1] for part in parts)
        found = {"validation_loss": mean, "perplexity": scores.perplexity(mean)}
        written = {row: text for part in parts for row, text in part[2].items()}
        if written:
            order = range(len(validation))
            found |= scores.rouge([written[row] for row in order], [validation[row].answer for row in order])
        return found

    def save_tokenizer(self) -> None:
        """The tokenizer belongs to the model's files."""
        if self.first:
            self.task.tokenizer.save_pretrained(self.settings.output)

    def save(self) -> None:
        """Write a state."""
        self.progress.history = self.history.size if self.history is not None else 0
        wait = lambda: self.learner.gather([None])  # noqa: E731
        states.save(self.settings, self.progress, self.learner.save_state, self.first, wait)

    def finish(self) -> dict[str, float]:
        """Write the reports; the best model's results."""
        settings, progress = self.settings, self.progress
        if self.history is None:
            return {}
        self.history.close()
        lines = reports.read_history(settings.output)
        best = next((line for line in lines if line["step"] == progress.best_step and "perplexity" in line), {})
        results = {name: value for name, value in best.items() if name != "step"}
        reports.draw({"": settings.output}, settings.output / reports.PICTURE)
        reports.write_card(settings, results, self.learner.framework)
        logger.info("%s", reports.summary(results, progress.best_step))
        if settings.push_to_hub:
            logger.info("pushed to %s", reports.push(settings))
        return results
