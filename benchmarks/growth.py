"""How speed and memory change with the batch, the beams, the source and the output, in one picture.

    python benchmarks/growth.py --output growth.png                        # BlenderbotSmall-90M's shape
    python benchmarks/growth.py --family pegasus --output growth-pegasus.png
    python benchmarks/growth.py --libraries seq2seq_models --output growth.png

Each column changes one of the four and leaves the others at 1 input, 1 beam, 64 tokens in, 32 tokens out. A point of
speed is the better of two calls after a short one; one of memory is the most that the process held in these calls
beyond what it held before them, freed memory given back (Linux with glibc). Each library runs alone, in PyTorch.
Needs transformers 4.57.6, ctranslate2 and matplotlib. The numbers are printed as JSON lines, too.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from generate import OURS, SHAPES, loader, prepared, random_ids

USUAL = {"batch": 1, "beams": 1, "source": 64, "new": 32}
SWEEPS = {
    "batch": (1, 2, 4, 8, 16, 32, 64),
    "beams": (1, 2, 4, 8, 16),
    "source": (64, 128, 256, 512, 1024),
    "new": (16, 32, 64, 128, 256, 512),
}
NAMES = {"batch": "inputs at once", "beams": "beams", "source": "tokens in", "new": "tokens out"}
LIBRARIES = (OURS, "transformers", "ctranslate2")


def measure(library: str, precision: str, family: str, folder: Path, threads: int) -> Iterator[dict[str, Any]]:
    """The points of one library, in this process."""
    generate = loader(library, "pytorch", precision, family, threads)(folder)
    positions = SHAPES[family]["max_position_embeddings"]
    for what, values in SWEEPS.items():
        for value in values:
            sizes = {**USUAL, what: value}
            if max(sizes["source"], sizes["new"]) > positions:
                continue
            if sizes["new"] == positions:
                sizes["new"] -= 1  # the start token takes a position, too
            ids = random_ids(family, sizes["batch"], sizes["source"])
            generate(ids, 2, sizes["beams"])
            held, times = settled_memory(), []
            for _ in range(2):
                start = time.perf_counter()
                generate(ids, sizes["new"], sizes["beams"])
                times.append(time.perf_counter() - start)
            speed = sizes["batch"] * sizes["new"] / min(times)
            more = (resident("VmHWM") - held) / 2**20
            yield {"library": library, "what": what, "value": value, "tokens/s": speed, "MB": more}


def settled_memory() -> int:
    """The bytes that the process holds once freed memory is given back; the system measures its peak from here on."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(kind: str) -> int:
    """A line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


def draw(points: list[dict[str, Any]], title: str, output: Path) -> None:
    """Speed above, memory below; a column for each of the four."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), layout="constrained")
    rows = figure.subplots(2, len(SWEEPS), sharex="col", sharey="row")
    for axes, unit in zip(rows, ("tokens/s", "MB"), strict=True):
        for what, ax in zip(SWEEPS, axes, strict=True):
            for library in dict.fromkeys(point["library"] for point in points):
                line = [point for point in points if (point["library"], point["what"]) == (library, what)]
                ax.plot([one["value"] for one in line], [one[unit] for one in line], marker="o", label=library)
            ax.set_xscale("log", base=2)
            ax.set_xticks(SWEEPS[what], SWEEPS[what])
            ax.set_yscale("log")
            ax.grid(alpha=0.3)
    for what, ax in zip(SWEEPS, rows[1], strict=True):
        ax.set_xlabel(NAMES[what])
    rows[0][0].set_ylabel("tokens of output per second")
    rows[1][0].set_ylabel("memory while generating, MB")
    rows[0][0].legend()
    figure.suptitle(title)
    figure.savefig(output, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=list(SHAPES), default="blenderbot-small")
    parser.add_argument("--precision", choices=("float32", "int8"), default="float32")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, help="the picture")
    parser.add_argument("--run", nargs=2, metavar=("LIBRARY", "FOLDER"), help="measure one side in this process")
    args = parser.parse_args()
    if args.run:
        library, folder = args.run
        for point in measure(library, args.precision, args.family, Path(folder), args.threads):
            print(json.dumps(point), flush=True)
        return
    if args.output is None:
        parser.error("--output must say where the picture goes")
    points = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = prepared(args.family, args.libraries, Path(scratch))
        for library in args.libraries:
            options = ["--family", args.family, "--precision", args.precision, "--threads", str(args.threads)]
            command = [sys.executable, __file__, "--run", library, str(folder), *options]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            print(done.stdout, end="", flush=True)
            points += list(map(json.loads, done.stdout.splitlines()))
    draw(points, f"{args.family}, {args.precision}, {args.threads} threads", args.output)


if __name__ == "__main__":
    main()
