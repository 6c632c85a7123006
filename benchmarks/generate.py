"""Speed and memory of loading and generating, beside others on the same weights, in turn on the same machine.

    python benchmarks/generate.py                        # BlenderbotSmall-90M's shape, beside transformers
    python benchmarks/generate.py --family pegasus       # pegasus-large's shape (2.3 GB)
    python benchmarks/generate.py --cases beam10-b1 --rounds 5 --threads 1
    python benchmarks/generate.py --beside transformers ctranslate2
    python benchmarks/generate.py --precision int8 --beside ctranslate2
    python benchmarks/generate.py --framework flax       # or tensorflow
    python benchmarks/generate.py --framework tensorflow --beside transformers-xla   # its generate compiled by XLA
    python benchmarks/generate.py --framework flax --beside transformers-xla
    python benchmarks/generate.py --framework tensorflow --precision bfloat16 --beside

Weights are random (seed 0) and every case forces its length, so that both sides do the same work. A row is the median
over the rounds; each round runs both sides, each in a process of its own. Throughput counts the tokens of the output
over the batch, beams not counted. Needs transformers 4.57.6 beside this library, or ctranslate2.
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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Generate = Callable[[Any, int, int], Any]
"""Of source ids [B, S], the number of new tokens, and that of beams; it returns when the tokens are there."""

OURS = "seq2seq_models"
THEIRS = ("transformers", "transformers-xla", "ctranslate2")
PRECISIONS = ("float32", "bfloat16", "int8")
PREFIX = {"pytorch": "", "tensorflow": "TF", "flax": "Flax"}
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
END = {"blenderbot-small": 2, "pegasus": 1}
"""The ids that end a text."""

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


def prepared(family: str, libraries: Iterable[str], scratch: Path) -> Path:
    """A folder with a checkpoint of this family for all these libraries."""
    folder = scratch / "checkpoint"
    write_checkpoint(family, folder)
    if "ctranslate2" in libraries:
        from seq2seq_models.export import export_checkpoint

        export_checkpoint(folder, scratch / "exported", "ctranslate2")
        (scratch / "exported" / "ctranslate2").rename(folder / "ctranslate2")
    return folder


def peak_mb() -> float:
    """Largest resident set of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # counts from the start of this program, where getrusage may count the one that started it
        return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(
    library: str, framework: str, precision: str, family: str, folder: Path, cases: list[str], threads: int
) -> Iterator[tuple[str, float]]:
    """The rows of one library, in this process."""
    start = time.perf_counter()
    load = loader(library, framework, precision, family, threads)
    yield "import, s", time.perf_counter() - start
    yield "peak after import, MB", peak_mb()
    start = time.perf_counter()
    generate = load(folder)
    yield "load, s", time.perf_counter() - start
    yield "peak after load, MB", peak_mb()
    for case in cases:
        batch, source, new, beams = CASES[family][case]
        ids = random_ids(family, batch, source)
        before, times = peak_mb(), []
        for _ in range(3):
            start = time.perf_counter()
            generate(ids, new, beams)
            times.append(time.perf_counter() - start)
        yield f"{case}, first call, s", times[0]
        yield f"{case}, tokens/s", batch * new / min(times[1:])
        yield f"{case}, peak over what was there, MB", peak_mb() - before


def random_ids(family: str, batch: int, source: int) -> Any:
    """Token ids int64 [batch, source], which end as texts do."""
    ids = np.random.default_rng(0).integers(200, SHAPES[family]["vocab_size"] - 10, (batch, source))
    ids[:, -1] = END[family]
    return ids


def loader(library: str, framework: str, precision: str, family: str, threads: int) -> Callable[[Path], Generate]:
    """Imports a library, and gives what loads a checkpoint and returns a function of ids, new tokens and beams."""
    if library == "ctranslate2":
        import ctranslate2

        def load(folder: Path) -> Generate:
            places = {"device": "cpu", "inter_threads": 1, "intra_threads": threads}
            model = ctranslate2.Translator(str(folder / "ctranslate2"), compute_type=precision, **places)

            def generate(ids: Any, new: int, beams: int) -> Any:
                words = [list(map(str, row)) for row in ids.tolist()]
                lengths = {"max_decoding_length": new, "min_decoding_length": new}
                return model.translate_batch(words, beam_size=beams, **lengths)

            return generate

        return load
    name = f"{PREFIX[framework]}{CLASSES[family]}ForConditionalGeneration"
    model_class = getattr(importlib.import_module(library.removesuffix("-xla")), name)
    options: dict[str, Any] = {}
    if framework == "pytorch":
        import torch

        torch.set_num_threads(threads)
        if precision == "bfloat16":
            options["torch_dtype"] = torch.bfloat16
    elif precision != "float32":
        options["dtype"] = precision
    if precision == "int8":
        options["quantization"] = "int8"
    if framework == "tensorflow" and library != OURS:
        options["from_pt"] = True  # its own reader of safetensors fails with current versions
    return lambda folder: generator(library, framework, model_class.from_pretrained(folder, **options))


def generator(library: str, framework: str, model: Any) -> Generate:
    """A function of source ids, new tokens and beams that returns when the tokens are there."""
    fixed = {"do_sample": False, "length_penalty": 1.0, "no_repeat_ngram_size": 0}
    if framework == "pytorch":
        import torch

        model.eval()
        fixed |= {"max_length": None, "min_length": 0}

        def generate(ids: Any, new: int, beams: int) -> Any:
            with torch.inference_mode():
                source = torch.tensor(ids)
                return model.generate(source, max_new_tokens=new, min_new_tokens=new, num_beams=beams, **fixed)

    elif framework == "tensorflow":
        import tensorflow as tf

        call = tf.function(model.generate, jit_compile=True) if library == "transformers-xla" else model.generate

        def generate(ids: Any, new: int, beams: int) -> Any:
            source = tf.constant(ids, tf.int32)
            return call(source, max_new_tokens=new, min_new_tokens=new, num_beams=beams, **fixed).numpy()

    else:

        def generate(ids: Any, new: int, beams: int) -> Any:
            lengths = {"max_length": new + 1, "min_length": new + 1}
            return model.generate(ids, num_beams=beams, **lengths, **fixed).sequences.block_until_ready()

    return generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=list(SHAPES), default="blenderbot-small")
    parser.add_argument("--framework", choices=list(PREFIX), default="pytorch")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of all sides")
    parser.add_argument(
        "--beside",
        choices=THEIRS,
        nargs="*",
        default=["transformers"],
        help="nobody, or one or several; -xla: its TensorFlow classes, compiled",
    )
    parser.add_argument("--cases", nargs="+", help="some of the cases only")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--run", nargs=2, metavar=("LIBRARY", "FOLDER"), help="measure one side in this process")
    args = parser.parse_args()
    cases = args.cases or list(CASES[args.family])
    if args.run:
        library, folder = args.run
        rows = measure(library, args.framework, args.precision, args.family, Path(folder), cases, args.threads)
        for what, value in rows:
            print(json.dumps([what, value]), flush=True)
        return
    if args.framework != "pytorch" and (args.precision == "int8" or (args.precision != "float32" and args.beside)):
        parser.error("outside PyTorch, --precision is float32, or bfloat16 with --beside followed by nothing")
    libraries = (OURS, *args.beside)
    with tempfile.TemporaryDirectory() as scratch:
        folder = prepared(args.family, libraries, Path(scratch))
        rounds = [{library: _side(library, folder, args, cases) for library in libraries} for _ in range(args.rounds)]
    kind = f"{args.family}, {args.framework}, {args.precision}"
    print(f"{kind}, {args.threads} threads, medians of {args.rounds} rounds in turn\n")
    heads = [OURS, *(head for library in args.beside for head in (library, "ratio"))]
    print(f"| {'':44} | {' | '.join(f'{head:>16}' for head in heads)} |")
    print(f"|{'-' * 46}|{'|'.join('-' * 17 + ':' for _ in heads)}|")
    for what in rounds[0][OURS]:
        ours = [sides[OURS][what] for sides in rounds]
        cells = [statistics.median(ours)]
        for library in args.beside:
            theirs = [sides[library][what] for sides in rounds]
            ratios = (a / b if b else float("nan") for a, b in zip(ours, theirs, strict=True))
            cells += [statistics.median(theirs), statistics.median(ratios)]
        print(f"| {what:44} | {' | '.join(f'{cell:16.2f}' for cell in cells)} |")


def _side(library: str, folder: Path, args: argparse.Namespace, cases: list[str]) -> dict[str, float]:
    framework = "tensorflow" if library == "transformers-xla" else args.framework
    options = ["--family", args.family, "--framework", framework, "--threads", str(args.threads), "--cases", *cases]
    command = [sys.executable, __file__, "--run", library, str(folder), "--precision", args.precision, *options]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    if done.returncode:
        sys.exit(f"{library} failed:\n{done.stderr[-2000:]}")
    return dict(map(json.loads, done.stdout.splitlines()))


if __name__ == "__main__":
    main()
