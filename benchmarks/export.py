"""What `seq2seq-models export` writes: size, time to export, to import and load, and speed beside this library.

    python benchmarks/export.py                              # random weights of BlenderbotSmall-90M's shape
    python benchmarks/export.py ./my-checkpoint --formats onnx jax
    python benchmarks/export.py --family pegasus --rounds 5

One input of 64 tokens, 64 new tokens, greedy, float32. Every measurement is a process of its own; a speed is the best
of three calls after the first, and a row the median over the rounds, in each of which a format and this library take
turns, this library in the framework that the format was written from. In the first call, JAX and TensorFlow compile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from generate import CLASSES, PREFIX, generator, write_checkpoint

FRAMEWORKS = {
    "onnx": "pytorch", "torch": "pytorch", "savedmodel": "tensorflow", "jax": "flax", "ctranslate2": "pytorch",
}  # fmt: skip
SOURCE, NEW = 64, 64
OPTIONS = {
    "num_beams": 1, "max_length": NEW + 1, "min_length": NEW + 1, "no_repeat_ngram_size": 0,
    "forced_eos_token_id": None,
}  # fmt: skip


def source() -> Any:
    """Token ids int32 [1, SOURCE]."""
    return np.random.default_rng(0).integers(200, 50_000, (1, SOURCE)).astype(np.int32)


def speeds(call: Any) -> dict[str, float]:
    """The first call's seconds, and tokens per second of the best of three more."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return {"first call, s": times[0], "tokens/s": NEW / min(times[1:])}


def measure_export(folder: Path, threads: int) -> dict[str, float]:
    """An exported folder in this process."""
    sys.path.insert(0, str(folder))
    start = time.perf_counter()
    import runtime

    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    function = runtime.load(folder, "generate")
    loaded = time.perf_counter() - start
    ids = source()
    found = function(input_ids=ids, attention_mask=np.ones_like(ids))["sequences"]
    assert found.shape == (1, NEW + 1), found.shape
    return {
        "import and load, s": loaded,
        **speeds(lambda: function(input_ids=ids, attention_mask=np.ones_like(ids))),
    }


def measure_ours(folder: Path, family: str, framework: str, threads: int) -> dict[str, float]:
    """This library in this process."""
    start = time.perf_counter()
    import seq2seq_models

    if framework == "pytorch":
        import torch

        torch.set_num_threads(threads)
    name = f"{PREFIX[framework]}{CLASSES[family]}ForConditionalGeneration"
    model = getattr(seq2seq_models, name).from_pretrained(folder)
    loaded = time.perf_counter() - start
    generate = generator("seq2seq_models", framework, model)
    return {"import and load, s": loaded, **speeds(lambda: generate(source().astype(np.int64), NEW, 1))}


def apart(*arguments: str) -> dict[str, float]:
    """What this file measures in a process of its own."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="a folder (default: random weights of the family's full size)")
    parser.add_argument("--family", choices=list(CLASSES), default="blenderbot-small")
    parser.add_argument("--formats", nargs="+", choices=list(FRAMEWORKS), default=list(FRAMEWORKS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--run", nargs=2, metavar=("WHAT", "FOLDER"), help="measure one side in this process")
    args = parser.parse_args()
    if args.run:
        what, folder = args.run[0], Path(args.run[1])
        is_export = what == "export"
        found = (
            measure_export(folder, args.threads) if is_export else measure_ours(folder, args.family, what, args.threads)
        )
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(args.checkpoint or Path(scratch) / "checkpoint")
        if args.checkpoint is None:
            write_checkpoint(args.family, checkpoint)
        print(f"{args.family}, {args.threads} threads, medians of {args.rounds} rounds\n", flush=True)
        print("| format | MB | to export, s | import and load, s | first call, s | tokens/s | this library, tokens/s |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
        for form in args.formats:
            print(row(form, checkpoint, Path(scratch) / form, args), flush=True)


def row(form: str, checkpoint: Path, target: Path, args: argparse.Namespace) -> str:
    """The table's row of a format."""
    words = ["export", str(checkpoint), str(target), "--to", form, "--options", json.dumps(OPTIONS)]
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "seq2seq_models", *words, "--source-length", str(SOURCE)],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    took = time.perf_counter() - start
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) / 1e6
    fixed = ("--family", args.family, "--threads", str(args.threads))
    theirs, ours = [], []
    for _ in range(args.rounds):
        theirs.append(apart("--run", "export", str(target), *fixed))
        ours.append(apart("--run", FRAMEWORKS[form], str(checkpoint), *fixed))

    def median(sides: list[dict[str, float]], what: str) -> float:
        return statistics.median(side[what] for side in sides)

    load, first = median(theirs, "import and load, s"), median(theirs, "first call, s")
    speed, own = median(theirs, "tokens/s"), median(ours, "tokens/s")
    return f"| {form} | {size:.0f} | {took:.0f} | {load:.1f} | {first:.2f} | {speed:.0f} | {own:.0f} |"


if __name__ == "__main__":
    main()
