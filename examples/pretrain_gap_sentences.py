#!/usr/bin/env python3
"""Pretrains a Pegasus on plain documents: it reads them without their principal sentences and writes those.

    python examples/pretrain_gap_sentences.py                                   reports made up by demo_reports.py
    python examples/pretrain_gap_sentences.py --documents news.txt              a document per line
    python examples/pretrain_gap_sentences.py --model google/pegasus-large --keep-weights --documents news.txt

The sizes of the model and its tokenizer are those of --model; its weights are drawn anew unless --keep-weights. The
result is a checkpoint to fine-tune from. See docs/pretraining.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from demo_reports import reports
from seq2seq_models import AutoConfig, AutoTokenizer, DataCollatorForGapSentences, PegasusForConditionalGeneration
from seq2seq_models.bundled import resolve_model
from seq2seq_models.core.gap_sentences import SELECTIONS


def documents(path: Path | None, examples: int, seed: int) -> list[str]:
    """The lines of a file, empty ones left out, or made-up reports."""
    if path is None:
        return [one.text for one in islice(reports(seed), examples)]
    found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not found:
        raise SystemExit(f"{path} must have a document per line, got none.")
    return found


def batches(texts: list[str], collator: DataCollatorForGapSentences, size: int, seed: int) -> Iterator[Any]:
    """Batches without end; each epoch has an order and a seed of its own."""
    for epoch in count(seed):
        collator.seed = epoch
        order = torch.Generator().manual_seed(epoch)
        yield from DataLoader(texts, size, shuffle=True, generator=order, collate_fn=collator)  # type: ignore[arg-type]


def learning_rate(step: int, options: argparse.Namespace) -> float:
    """Linear warm-up, then a linear way down."""
    warm_up = min(1.0, step / max(1, options.warmup_steps))
    return float(options.learning_rate * min(warm_up, 1 - (step - 1) / options.steps))


def train(model: Any, data: Iterator[Any], options: argparse.Namespace) -> None:
    """Takes the steps and prints the mean loss of every `log_every`."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.98), weight_decay=0.01)
    losses: list[float] = []
    tokens, start = 0, time.perf_counter()
    model.train()
    for step, batch in enumerate(islice(data, options.steps), 1):
        loss = model(**batch.to(model.device)).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options)
        optimizer.step()
        losses.append(loss.item())
        tokens += int(batch["attention_mask"].sum() + (batch["labels"] != -100).sum())
        if step % options.log_every == 0 or step == options.steps:
            speed = tokens / (time.perf_counter() - start)
            print(
                f"step {step} of {options.steps}, loss {sum(losses) / len(losses):.4f}, {speed:.0f} tokens/s",
                flush=True,
            )
            losses.clear()


def arguments() -> argparse.ArgumentParser:
    """What the command line takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("pretrained"), help="folder of the checkpoint (pretrained)")
    parser.add_argument("--documents", type=Path, help="a file with a document per line (default: made-up reports)")
    parser.add_argument("--examples", type=int, default=20000, help="how many reports to make up (20000)")
    parser.add_argument("--model", default="pegasus-demo", help="whose sizes and tokenizer to take (pegasus-demo)")
    parser.add_argument("--keep-weights", action="store_true", help="begin with the weights of --model, too")
    parser.add_argument("--gap-sentences-ratio", type=float, default=0.3, help="share of sentences taken out (0.3)")
    parser.add_argument("--selection", choices=SELECTIONS, default="ind-orig", help="how they are chosen (ind-orig)")
    parser.add_argument("--unchanged-probability", type=float, default=0.0, help="share of them left in (0)")
    parser.add_argument("--max-source-length", type=int, help="tokens of a document that are read (all it can)")
    parser.add_argument("--max-target-length", type=int, default=256, help="tokens to write (256)")
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps (1000)")
    parser.add_argument("--batch-size", type=int, default=32, help="documents per step (32)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="its highest value (0.002)")
    parser.add_argument("--warmup-steps", type=int, default=100, help="steps until then (100)")
    parser.add_argument("--log-every", type=int, default=50, help="steps per line (50)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and gaps (0)")
    return parser


def main(given: list[str] | None = None) -> None:
    """Pretrains and saves."""
    options = arguments().parse_args(given)
    torch.manual_seed(options.seed)
    source = resolve_model(options.model)
    tokenizer = AutoTokenizer.from_pretrained(source)
    if options.keep_weights:
        model = PegasusForConditionalGeneration.from_pretrained(source)
    else:
        model = PegasusForConditionalGeneration(AutoConfig.from_pretrained(source))
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    collator = DataCollatorForGapSentences(
        tokenizer,
        gap_sentences_ratio=options.gap_sentences_ratio,
        selection=options.selection,
        unchanged_probability=options.unchanged_probability,
        max_source_length=options.max_source_length,
        max_target_length=options.max_target_length,
    )
    texts = documents(options.documents, options.examples, options.seed)
    train(model, batches(texts, collator, options.batch_size, options.seed), options)
    model.eval().save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    print(f"saved to {options.out}")


if __name__ == "__main__":
    main()
