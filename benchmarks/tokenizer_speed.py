"""Tokenizer speed beside the reference, in one run.

    python benchmarks/tokenizer_speed.py [--texts 512] [--batch 64] [--repeats 5] [--family pegasus blenderbot-small]

Prints, per family and task, texts per second of this library and of transformers 4.57.6 and the ratio between them.
Pegasus stands beside PegasusTokenizerFast, BlenderbotSmall beside the slow class (the reference has no other that
works). The vocabularies are those that the tests train. "new words" clears what this library remembers of words, so
that every word of the texts is met for the first time.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.tokenizer_vocabularies import blenderbot_folder, english_paragraphs, pegasus_folder


def best_seconds(task: Callable[[], object], repeats: int, before: Callable[[], object] | None = None) -> float:
    """The shortest of several runs, after one that is not counted."""
    found = []
    for _ in range(repeats + 1):
        if before is not None:
            before()
        start = time.perf_counter()
        task()
        found.append(time.perf_counter() - start)
    return min(found[1:])


def forget(tokenizer: Any) -> None:
    """Makes one of our tokenizers meet every word for the first time."""
    holder = getattr(tokenizer, "unigram", tokenizer)
    holder._words = type(holder._words)(holder)


def tasks_of(tokenizer: Any, texts: list[str], size: int) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    batches = [texts[start : start + size] for start in range(0, len(texts), size)]
    rows = [tokenizer(text)["input_ids"] for text in texts]
    options = {"padding": True, "truncation": True, "max_length": 512}
    return {
        f"batches of {size}": lambda: [tokenizer(batch, **options) for batch in batches],
        f"batches of {size}, NumPy": lambda: [tokenizer(batch, return_tensors="np", **options) for batch in batches],
        "single texts": lambda: [tokenizer(text) for text in texts],
        "single, truncated": lambda: [tokenizer(text, truncation=True, max_length=512) for text in texts],
        "decode": lambda: tokenizer.batch_decode(rows, skip_special_tokens=True),
    }


def compare(family: str, arguments: argparse.Namespace) -> None:
    """Prints the rows of one family."""
    import transformers

    from seq2seq_models.core.blenderbot_small import BlenderbotSmallTokenizer
    from seq2seq_models.core.pegasus import PegasusTokenizerFast

    transformers.logging.set_verbosity(logging.CRITICAL)
    if family == "pegasus":
        folder = pegasus_folder()
        ours, reference = (
            PegasusTokenizerFast.from_pretrained(folder),
            transformers.PegasusTokenizerFast.from_pretrained(folder),
        )
    else:
        folder = blenderbot_folder()
        ours = BlenderbotSmallTokenizer.from_pretrained(folder)
        reference = transformers.BlenderbotSmallTokenizer.from_pretrained(folder)
    texts = [text for text in english_paragraphs(6000) if len(text) > 200][: arguments.texts]
    tokens = statistics.mean(len(ours(text)["input_ids"]) for text in texts)
    print(f"{family}: {len(texts)} texts of {tokens:.0f} tokens on average, vocabulary of {ours.vocab_size}, "
          f"beside {type(reference).__name__}")  # fmt: skip
    print(f"  {'task':28}{'ours/s':>12}{'reference/s':>14}{'ratio':>9}")
    mine, theirs = tasks_of(ours, texts, arguments.batch), tasks_of(reference, texts, arguments.batch)
    seconds = {
        name: (best_seconds(mine[name], arguments.repeats), best_seconds(theirs[name], arguments.repeats))
        for name in mine
    }
    first = next(iter(mine))
    seconds[f"{first}, new words"] = (
        best_seconds(mine[first], arguments.repeats, lambda: forget(ours)),
        seconds[first][1],
    )
    for name, (own, other) in seconds.items():
        print(f"  {name:28}{len(texts) / own:12,.0f}{len(texts) / other:14,.0f}{other / own:8.1f}x")


def main() -> None:
    """Reads the arguments and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=512, help="how many paragraphs (default 512)")
    parser.add_argument("--batch", type=int, default=64, help="texts per batch (default 64)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of which the best counts (default 5)")
    parser.add_argument(
        "--family", nargs="+", default=["pegasus", "blenderbot-small"], choices=["pegasus", "blenderbot-small"]
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for family in arguments.family:
        compare(family, arguments)


if __name__ == "__main__":
    main()
