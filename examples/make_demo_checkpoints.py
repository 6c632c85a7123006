#!/usr/bin/env python3
"""Makes the two demonstration checkpoints that the package brings along, or measures them.

    python examples/make_demo_checkpoints.py                  train both, on one core, into the package
    python examples/make_demo_checkpoints.py --out FOLDER     the same, elsewhere
    python examples/make_demo_checkpoints.py --evaluate 1000  exact match on 1000 held-out texts each

The text is made up by demo_reports.py and demo_talk.py; nothing is downloaded. Seeds are fixed, so the same versions on
the same kind of machine make the same files.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from demo_cards import card
from demo_reports import reports
from demo_talk import Exchange, exchanges
from demo_vocabulary import write_blenderbot_vocabulary, write_pegasus_vocabulary
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

Pair = tuple[str, str]
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
class Recipe:
    """How one checkpoint is made.

    Attributes:
        name: its folder.
        steps: optimizer steps.
        rate: highest learning rate.
        pairs: texts and answers for a share of the training from 0 to 1, endless.
        held_out: the same, of what training never sees.
        vocabulary: writes the tokenizer's files into a folder.
        tokenizer: the class that reads them.
        model: an untrained model for a vocabulary of this size.
        generation: the settings that the checkpoint is to be used with.
    """

    name: str
    steps: int
    rate: float
    pairs: Callable[[Any, Callable[[], float]], Iterator[Pair]]
    held_out: Callable[[Any], Iterator[Pair]]
    vocabulary: Callable[[Path], None]
    tokenizer: Any
    model: Callable[[int], Any]
    generation: GenerationConfig


# Reports and headlines.


def _report_pairs(_: Any, __: Callable[[], float]) -> Iterator[Pair]:
    return ((one.text, one.headline) for one in reports(TRAINING))


def _held_out_reports(_: Any) -> Iterator[Pair]:
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


def _talk_pairs(tokenizer: Any, progress: Callable[[], float]) -> Iterator[Pair]:
    """Talks that grow with the training: short ones teach what an answer is, long ones where to look for it."""
    longest = {length: exchanges(TRAINING + 10 * length, longest=length) for length in range(2, 8)}
    endless = exchanges(TRAINING, longest=28, shortest=8)
    choice = random.Random(TRAINING)
    while True:
        share = progress()
        if share > 0.6 and choice.random() < 0.03:
            one = next(endless)
        else:
            one = next(longest[min(7, 2 + int(8 * share))])
        yield talk_text(one, tokenizer), one.reply


def _held_out_talks(tokenizer: Any) -> Iterator[Pair]:
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
        steps=2600,
        rate=3e-3,
        pairs=_report_pairs,
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
        steps=2450,
        rate=3e-3,
        pairs=_talk_pairs,
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

TOKENS = 4096
"""Tokens of one batch, padding included."""


def _rows(pairs: Iterator[Pair], tokenizer: Any, eos: int, limit: int) -> Iterator[tuple[list[int], list[int]]]:
    while True:
        texts, answers = zip(*islice(pairs, 256), strict=True)
        for row, answer in zip(tokenizer(list(texts))["input_ids"], tokenizer(list(answers))["input_ids"], strict=True):
            if len(row) <= limit:
                yield row, answer if answer[-1] == eos else [*answer, eos]


def _batches(rows: Iterator[tuple[list[int], list[int]]], shuffle: random.Random) -> Iterator[list[Any]]:
    """Batches of rows of about the same length."""
    while True:
        batches: list[list[Any]] = [[]]
        for row in sorted(islice(rows, 1024), key=lambda row: len(row[0])):
            if (len(batches[-1]) + 1) * (len(row[0]) + len(row[1])) > TOKENS:
                batches.append([])
            batches[-1].append(row)
        shuffle.shuffle(batches)
        yield from batches


def _padded(rows: list[list[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def _loss(model: Any, batch: list[Any], offset: int) -> Tensor:
    """The loss of a batch whose first token stands at position `offset`."""
    sources, answers = zip(*batch, strict=True)
    inputs = {
        "input_ids": _padded(list(sources), 0),
        "attention_mask": _padded([[1] * len(row) for row in sources], 0),
        "labels": _padded(list(answers), -100),
    }
    name = "model.encoder.embed_positions.weight"
    table = model.get_parameter(name)
    # Learned positions must all be learnt, also those that only a long talk reaches.
    shifted = {name: table.roll(-offset, 0)} if offset else {}
    loss: Tensor = torch.func.functional_call(model, shifted, kwargs=inputs).loss
    return loss


def train(recipe: Recipe, folder: Path, steps: int | None = None) -> None:
    """Makes one checkpoint from nothing, on one core."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    recipe.vocabulary(folder)
    tokenizer = recipe.tokenizer.from_pretrained(folder.resolve())
    model = recipe.model(len(tokenizer))
    model.generation_config = recipe.generation
    print(f"{recipe.name}: {sum(p.numel() for p in model.parameters() if p.requires_grad):,} parameters", flush=True)
    total = recipe.steps if steps is None else steps
    model.train()
    _optimize(recipe, model, tokenizer, total)
    model.eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _optimize(recipe: Recipe, model: Any, tokenizer: Any, total: int) -> None:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.01)
    learned = model.get_parameter("model.encoder.embed_positions.weight").requires_grad
    step, chance, start = 0, random.Random(0), time.process_time()
    limit = model.config.max_position_embeddings
    rows = _rows(recipe.pairs(tokenizer, lambda: step / total), tokenizer, model.config.eos_token_id, limit)
    losses = []
    for batch in islice(_batches(rows, chance), total):
        step += 1
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * min(step / 200, 1.0) * max(1 - step / total, 0.01)
        longest = max(len(row) for row, _ in batch)
        offset = chance.randint(0, limit - longest) if learned and chance.random() < 0.3 else 0
        loss = _loss(model, batch, offset)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 100 == 0:
            seconds = time.process_time() - start
            print(f"  step {step} of {total}, loss {sum(losses) / len(losses):.4f}, {seconds:.0f} s", flush=True)
            losses.clear()


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
    parser.add_argument("--steps", type=int, help="train for fewer steps, to try things out")
    options = parser.parse_args()
    for recipe in RECIPES:
        if options.only in (None, recipe.name):
            folder = options.out / recipe.name if options.out else demo_checkpoint(recipe.name)
            if options.evaluate is None:
                train(recipe, folder, options.steps)
            count = options.evaluate or 1000
            share = exact_match(recipe, folder, count, options.misses)
            print(f"{recipe.name}: {share:.1%} exact match on {count} held-out texts", flush=True)
            if options.evaluate is None:
                (folder / "README.md").write_text(card(recipe.name, share, count), encoding="utf-8")


if __name__ == "__main__":
    main()
