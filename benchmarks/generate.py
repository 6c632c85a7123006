"""Speed and memory of loading and generating, beside transformers on the same weights, in turn on the same machine.

    python benchmarks/generate.py                        # BlenderbotSmall-90M's shape
    python benchmarks/generate.py --family pegasus       # pegasus-large's shape (2.3 GB)
    python benchmarks/generate.py --cases beam10-b1 --rounds 5 --threads 1

Weights are random (seed 0) and every case forces its length, so that both sides do the same work. A row is the median
over the rounds; each round runs both sides, each in a process of its own. Throughput counts the tokens of the output
over the batch, beams not counted. Needs transformers 4.57.6 beside this library.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

LIBRARIES = ("seq2seq_models", "transformers")
SHAPES = {
    "blenderbot-small": {
        "vocab_size": 54944, "d_model": 512, "encoder_layers": 8, "decoder_layers": 8, "encoder_ffn_dim": 2048,
        "decoder_ffn_dim": 2048, "max_position_embeddings": 512, "scale_embedding": True,
    },
    "pegasus": {
        "vocab_size": 96103, "d_model": 1024, "encoder_layers": 16, "decoder_layers": 16,
        "max_position_embeddings": 1024, "activation_function": "relu", "scale_embedding": True,
    },
}  # fmt: skip
CLASSES = {"blenderbot-small": "BlenderbotSmall", "pegasus": "Pegasus"}
CASES = {  # name: batch, source tokens, new tokens, beams
    "blenderbot-small": {
        "greedy-b1": (1, 64, 64, 1), "greedy-b8": (8, 64, 64, 1), "beam10-b1": (1, 64, 64, 10),
        "beam10-b4": (4, 64, 64, 10), "beam10-b4-source512": (4, 512, 32, 10),
    },
    "pegasus": {"greedy-b1": (1, 256, 32, 1), "beam8-b1": (1, 256, 32, 8), "beam8-b4": (4, 256, 32, 8)},
}  # fmt: skip


def write_checkpoint(family: str, folder: Path) -> None:
    """A checkpoint of this family's full size with random weights."""
    import torch

    import seq2seq_models

    torch.manual_seed(0)
    config = getattr(seq2seq_models, f"{CLASSES[family]}Config")(**SHAPES[family])
    getattr(seq2seq_models, f"{CLASSES[family]}ForConditionalGeneration")(config).save_pretrained(folder)


def peak_mb() -> float:
    """Largest resident set of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # counts from the start of this program, where getrusage may count the one that started it
        return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(library: str, family: str, folder: str, cases: list[str], threads: int) -> Iterator[tuple[str, float]]:
    """The rows of one library, in this process."""
    start = time.perf_counter()
    model_class = getattr(importlib.import_module(library), f"{CLASSES[family]}ForConditionalGeneration")
    yield "import, s", time.perf_counter() - start
    yield "peak after import, MB", peak_mb()
    import torch

    torch.set_num_threads(threads)
    start = time.perf_counter()
    model = model_class.from_pretrained(folder).eval()
    yield "load, s", time.perf_counter() - start
    yield "peak after load, MB", peak_mb()
    options = {
        "do_sample": False,
        "length_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "max_length": None,
        "min_length": 0,
    }
    generator = torch.Generator().manual_seed(0)
    for name in cases:
        batch, source, new, beams = CASES[family][name]
        ids = torch.randint(200, SHAPES[family]["vocab_size"] - 10, (batch, source), generator=generator)
        ids[:, -1] = model.config.eos_token_id
        before, times = peak_mb(), []
        with torch.inference_mode():
            for _ in range(3):
                start = time.perf_counter()
                model.generate(ids, max_new_tokens=new, min_new_tokens=new, num_beams=beams, **options)
                times.append(time.perf_counter() - start)
        yield f"{name}, first call, s", times[0]
        yield f"{name}, tokens/s", batch * new / min(times[1:])
        yield f"{name}, peak over what was there, MB", peak_mb() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=list(SHAPES), default="blenderbot-small")
    parser.add_argument("--cases", nargs="+", help="some of the cases only")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--run", nargs=2, metavar=("LIBRARY", "FOLDER"), help="measure one side in this process")
    args = parser.parse_args()
    cases = args.cases or list(CASES[args.family])
    if args.run:
        for what, value in measure(args.run[0], args.family, args.run[1], cases, args.threads):
            print(json.dumps([what, value]), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(args.family, Path(folder))
        rounds = [{library: _side(library, folder, args, cases) for library in LIBRARIES} for _ in range(args.rounds)]
    print(f"{args.family}, {args.threads} threads, medians of {args.rounds} rounds in turn\n")
    print(f"| {'':44} | {LIBRARIES[0]:>14} | {LIBRARIES[1]:>14} | {'ratio':>6} |")
    print(f"|{'-' * 46}|{'-' * 15}:|{'-' * 15}:|{'-' * 7}:|")
    for what in rounds[0][LIBRARIES[0]]:
        ours, theirs = ([sides[library][what] for sides in rounds] for library in LIBRARIES)
        ratio = statistics.median(a / b if b else float("nan") for a, b in zip(ours, theirs, strict=True))
        print(f"| {what:44} | {statistics.median(ours):14.2f} | {statistics.median(theirs):14.2f} | {ratio:6.2f} |")


def _side(library: str, folder: str, args: argparse.Namespace, cases: list[str]) -> dict[str, float]:
    options = ["--family", args.family, "--threads", str(args.threads), "--cases", *cases]
    command = [sys.executable, __file__, "--run", library, folder, *options]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    if done.returncode:
        sys.exit(f"{library} failed:\n{done.stderr[-2000:]}")
    return dict(map(json.loads, done.stdout.splitlines()))


if __name__ == "__main__":
    main()
