"""What reduced precision changes: ids, ROUGE and perplexity beside float32, on the same texts.

    python benchmarks/precision.py                                   # the bundled checkpoints, on texts they never saw
    python benchmarks/precision.py --model tuned --data validation.jsonl --text document --summary summary

For each text the checkpoint's own generation settings are used, in batches of 16 that are padded as usual. "Same ids"
is the share of texts whose output is token for token that of float32. Needs rouge-score.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from seq2seq_models import AutoModelForSeq2SeqLM, AutoTokenizer
from seq2seq_models.bundled import demo_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from finetuning.scores import perplexity, rouge

PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": torch.bfloat16},
    "int8": {"quantization": "int8"},
}
BATCH = 16
Pairs = Sequence[tuple[str, str]]


def held_out(name: str) -> Callable[[Any], Iterator[tuple[str, str]]]:
    """A function of the tokenizer that gives texts that a bundled checkpoint never saw, and what it should write."""
    from make_demo_checkpoints import RECIPES

    return next(recipe.held_out for recipe in RECIPES if recipe.name == name)


def written(model: Any, tokenizer: Any, pairs: Pairs) -> list[list[int]]:
    """The ids of each output, without padding."""
    rows: list[list[int]] = []
    for start in range(0, len(pairs), BATCH):
        texts = [text for text, _ in pairs[start : start + BATCH]]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
        for row in model.generate(**inputs).tolist():
            end = row.index(tokenizer.eos_token_id, 1) if tokenizer.eos_token_id in row[1:] else len(row)
            rows.append(row[:end])
    return rows


def mean_loss(model: Any, tokenizer: Any, pairs: Pairs) -> float:
    """The mean cross-entropy of a token of the texts that should be written, in nats."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for text, wanted in pairs:
            inputs = tokenizer([text], return_tensors="pt", truncation=True)
            labels = tokenizer([wanted], return_tensors="pt", truncation=True)["input_ids"]
            total += float(model(**inputs, labels=labels).loss) * labels.numel()
            count += labels.numel()
    return total / count


def measure(title: str, folder: Any, pairs: Pairs) -> None:
    """Prints the rows of one checkpoint."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    first: list[list[int]] = []
    for name, options in tqdm(PRECISIONS.items(), desc=title, disable=None):
        model = AutoModelForSeq2SeqLM.from_pretrained(folder, **options)
        ids = written(model, tokenizer, pairs)
        first = first or ids
        same = sum(a == b for a, b in zip(ids, first, strict=True)) / len(ids)
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        score = rouge(texts, [wanted for _, wanted in pairs])["rougeL"]
        found = perplexity(mean_loss(model, tokenizer, pairs))
        assert math.isfinite(found)
        print(f"| {title} | {name} | {100 * same:.1f} % | {score:.2f} | {found:.5f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder or repository instead of the bundled checkpoints; needs --data")
    parser.add_argument("--data", type=Path, help="JSON lines")
    parser.add_argument("--text", default="document", help="the key of the text")
    parser.add_argument("--summary", default="summary", help="the key of what should be written")
    parser.add_argument("--count", type=int, default=1000, help="texts of each checkpoint")
    args = parser.parse_args()
    if (args.model is None) != (args.data is None):
        parser.error("--model and --data must be given together")
    print("| checkpoint | computed in | same ids | ROUGE-L | perplexity |\n| --- | --- | ---: | ---: | ---: |")
    if args.model:
        records = map(json.loads, args.data.read_text(encoding="utf-8").splitlines())
        measure(args.model, args.model, [(one[args.text], one[args.summary]) for one in islice(records, args.count)])
        return
    for name in ("pegasus-demo", "blenderbot-small-demo"):
        tokenizer = AutoTokenizer.from_pretrained(demo_checkpoint(name))
        measure(name, demo_checkpoint(name), list(islice(held_out(name)(tokenizer), args.count)))


if __name__ == "__main__":
    main()
