#!/usr/bin/env python3
"""Makes the two demonstration checkpoints that the package brings along, or measures them.

    python examples/make_demo_checkpoints.py                  train both, on one core, into the package
    python examples/make_demo_checkpoints.py --out FOLDER     the same, elsewhere
    python examples/make_demo_checkpoints.py --evaluate 1000  exact match on 1000 held-out texts each

The text is made up by demo_reports.py and demo_talk.py; nothing is downloaded. A model of random weights is fine-tuned
on it as finetune_pytorch.py fine-tunes any. Seeds are fixed, so the same versions on the same kind of machine make the
same files.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from demo_cards import card
from demo_reports import reports
from demo_talk import Exchange, exchanges
from demo_vocabulary import write_blenderbot_vocabulary, write_pegasus_vocabulary
from finetune_pytorch import PyTorchLearner
from finetuning.arguments import Settings
from finetuning.training import fine_tune
from seq2seq_models import (
    BlenderbotSmallConfig,
    BlenderbotSmallForConditionalGeneration,
    BlenderbotSmallTokenizer,
    Conversation,
    GenerationConfig,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PegasusTokenizer,
    pipeline,
)
from seq2seq_models.bundled import demo_checkpoint
from seq2seq_models.core.positions import sinusoidal_table

Row = dict[str, Any]
TRAINING, HELD_OUT, VOCABULARY = 1, 2, 3
"""Seeds of the text."""

SIZES = {
    "d_model": 128,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 256,
    "decoder_ffn_dim": 256,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 512,
    "scale_embedding": True,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "init_std": 0.05,
}


@dataclass(frozen=True)
class Stage:
    """One run of fine-tuning.

    Attributes:
        rows: what it learns from, endless.
        updates: how many updates it makes, each of 64 texts it has not seen before.
        rate: highest learning rate.
    """

    rows: Callable[[], Iterator[Row]]
    updates: int
    rate: float = 3e-3


@dataclass(frozen=True)
class Recipe:
    """How one checkpoint is made.

    Attributes:
        name: its folder.
        stages: the runs, each beginning with the model of the one before.
        held_out: texts and answers that training never sees, endless.
        vocabulary: writes the tokenizer's files into a folder.
        tokenizer: the class that reads them.
        model: an untrained model for a vocabulary of this size.
        generation: the settings that the checkpoint is to be used with.
    """

    name: str
    stages: tuple[Stage, ...]
    held_out: Callable[[Any], Iterator[tuple[str, str]]]
    vocabulary: Callable[[Path], None]
    tokenizer: Any
    model: Callable[[int], Any]
    generation: GenerationConfig


# Reports and headlines.


def _report_rows() -> Iterator[Row]:
    return ({"document": one.text, "headline": one.headline} for one in reports(TRAINING))


def _held_out_reports(_: Any) -> Iterator[tuple[str, str]]:
    return ((one.text, one.headline) for one in reports(HELD_OUT, held_out=True))


def _report_vocabulary(folder: Path) -> None:
    texts = [f"{one.text} {one.headline}" for one in islice(reports(VOCABULARY), 20000)]
    write_pegasus_vocabulary(folder, texts, size=1280, length=512)


def _headline_model(vocabulary: int) -> Any:
    return PegasusForConditionalGeneration(
        PegasusConfig(vocab_size=vocabulary, activation_function="relu", bos_token_id=0, **SIZES)
    )


# Talks and replies.


def talk_text(exchange: Exchange, tokenizer: Any) -> str:
    """The turns as the model reads them; the last is the partner's."""
    roles = ("user", "assistant")
    last = len(exchange.turns) - 1
    turns = [{"role": roles[(last - index) % 2], "content": text} for index, text in enumerate(exchange.turns)]
    return Conversation(turns).prompt(tokenizer)


def _talk_rows(longest: int, long: float = 0.0) -> Callable[[], Iterator[Row]]:
    """Talks of up to `longest` replies: short ones teach what an answer is, longer ones where to look for it.

    Args:
        longest: replies.
        long: share of talks that are much longer, so that every position is learnt.
    """

    def rows() -> Iterator[Row]:
        usual = exchanges(TRAINING + 10 * longest, longest=longest)
        endless = exchanges(TRAINING, longest=28, shortest=8)
        choice = random.Random(longest)
        while True:
            one = next(endless if choice.random() < long else usual)
            # Only the last turn is to be learnt: the replies before it are part of talks of their own.
            said = [{"role": "user", "content": text} for text in one.turns]
            yield {"turns": [*said, {"role": "assistant", "content": one.reply}]}

    return rows


def _held_out_talks(tokenizer: Any) -> Iterator[tuple[str, str]]:
    return ((talk_text(one, tokenizer), one.reply) for one in exchanges(HELD_OUT, held_out=True))


def _talk_vocabulary(folder: Path) -> None:
    texts = [" ".join([*one.turns, one.reply]) for one in islice(exchanges(VOCABULARY), 12000)]
    write_blenderbot_vocabulary(folder, texts, size=1400, length=512)


def _talk_model(vocabulary: int) -> Any:
    config = BlenderbotSmallConfig(vocab_size=vocabulary, activation_function="gelu", **SIZES)
    model = BlenderbotSmallForConditionalGeneration(config)
    # Sinusoids to begin with: random rows say nothing of before and after, and take far longer to learn it.
    table = torch.from_numpy(sinusoidal_table(config.max_position_embeddings, config.d_model))
    with torch.no_grad():
        for side in ("encoder", "decoder"):
            model.get_parameter(f"model.{side}.embed_positions.weight").copy_(table)
    return model


RECIPES = (
    Recipe(
        name="pegasus-demo",
        stages=(Stage(_report_rows, 3600),),
        held_out=_held_out_reports,
        vocabulary=_report_vocabulary,
        tokenizer=PegasusTokenizer,
        model=_headline_model,
        generation=GenerationConfig(
            bos_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
            forced_eos_token_id=1,
            num_beams=8,
            length_penalty=0.8,
            max_length=64,
        ),
    ),
    Recipe(
        name="blenderbot-small-demo",
        stages=(Stage(_talk_rows(2), 500), Stage(_talk_rows(4), 500), Stage(_talk_rows(7, long=0.05), 1500)),
        held_out=_held_out_talks,
        vocabulary=_talk_vocabulary,
        tokenizer=BlenderbotSmallTokenizer,
        model=_talk_model,
        generation=GenerationConfig(
            bos_token_id=1,
            pad_token_id=0,
            eos_token_id=2,
            decoder_start_token_id=1,
            forced_eos_token_id=2,
            num_beams=10,
            length_penalty=0.65,
            max_length=64,
            min_length=4,
            no_repeat_ngram_size=3,
        ),
    ),
)


# Training.

BATCH = 64
HELD_OUT_ROWS = 200
"""Rows that a run is watched with; they are new, as all of its rows are."""


def train(recipe: Recipe, folder: Path, updates: int | None = None) -> None:
    """Makes one checkpoint from nothing, on one core.

    Args:
        recipe: which one.
        folder: where it is to be.
        updates: make only so many in each stage, to try things out.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "untrained"
        made.mkdir()
        recipe.vocabulary(made)
        tokenizer = recipe.tokenizer.from_pretrained(made)
        model = recipe.model(len(tokenizer))
        model.generation_config = recipe.generation
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        print(
            f"{recipe.name}: {sum(p.numel() for p in model.parameters() if p.requires_grad):,} parameters", flush=True
        )
        for number, stage in enumerate(recipe.stages):
            made = _run(stage, made, Path(scratch) / f"stage-{number}", updates or stage.updates)
        folder.mkdir(parents=True, exist_ok=True)
        kept = {file.name for file in (Path(scratch) / "untrained").iterdir()}
        for file in made.iterdir():
            if file.name in kept:
                shutil.copy2(file, folder / file.name)


def _run(stage: Stage, model: Path, output: Path, updates: int) -> Path:
    """Fine-tunes the model in a folder; the folder of the outcome."""
    output.mkdir()
    rows = stage.rows()
    for split, count in (("train", updates * BATCH), ("validation", HELD_OUT_ROWS)):
        text = "".join(json.dumps(row) + "\n" for row in islice(rows, count))
        (output / f"{split}.jsonl").write_text(text, encoding="utf-8")
    settings = Settings(
        train=str(output / "train.jsonl"),
        validation=str(output / "validation.jsonl"),
        model=str(model),
        output=output,
        epochs=1,
        batch_size=BATCH,
        learning_rate=stage.rate,
        warmup_steps=min(200, updates // 3),
        weight_decay=0.01,
        metric="loss",
        evaluate_every=max(updates // 4, 1),
        save_every=updates,
        pad_to_multiple_of=8,
        max_new_tokens=32,
    )
    fine_tune(settings, PyTorchLearner(settings))
    return output


# Measuring.


def exact_match(recipe: Recipe, folder: Path, count: int, misses: int = 0) -> float:
    """Share of `count` held-out texts whose answer, with the checkpoint's own settings, is right to the letter.

    Args:
        recipe: which checkpoint.
        folder: where it is.
        count: how many texts.
        misses: how many wrong answers to print.
    """
    tokenizer = recipe.tokenizer.from_pretrained(folder.resolve())
    answer = pipeline("text2text-generation", folder.resolve(), tokenizer=tokenizer, device="cpu", batch_size=32)
    pairs = list(islice(recipe.held_out(answer.tokenizer), count))
    written = answer([text for text, _ in pairs], clean_up_tokenization_spaces=True)
    right = 0
    for (text, wanted), got in zip(pairs, written, strict=True):
        right += got["generated_text"] == wanted
        if got["generated_text"] != wanted and misses:
            misses -= 1
            print(f"  {text}\n    wanted: {wanted}\n    got:    {got['generated_text']}")
    return right / count


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[recipe.name for recipe in RECIPES], help="one checkpoint instead of both")
    parser.add_argument("--out", type=Path, help="folder to write to or to measure (default: inside the package)")
    parser.add_argument("--evaluate", type=int, metavar="N", help="measure on N held-out texts instead of training")
    parser.add_argument("--misses", type=int, default=0, metavar="N", help="print so many wrong answers")
    parser.add_argument("--updates", type=int, help="train for fewer updates in each stage, to try things out")
    options = parser.parse_args()
    for recipe in RECIPES:
        if options.only in (None, recipe.name):
            folder = options.out / recipe.name if options.out else demo_checkpoint(recipe.name)
            if options.evaluate is None:
                train(recipe, folder, options.updates)
            count = options.evaluate or 1000
            share = exact_match(recipe, folder, count, options.misses)
            print(f"{recipe.name}: {share:.1%} exact match on {count} held-out texts", flush=True)
            if options.evaluate is None:
                (folder / "README.md").write_text(card(recipe.name, share, count), encoding="utf-8")


if __name__ == "__main__":
    main()
