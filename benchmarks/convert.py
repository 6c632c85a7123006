"""Times `seq2seq-models convert` and shows its peak memory, each conversion in a process of its own.

    python benchmarks/convert.py FOLDER [--scratch DIR] [--dtype bfloat16]

FOLDER holds a checkpoint in any format, for instance pegasus-large. It is written in all four formats, and each of
those back as safetensors. MB is the peak resident set of the process, the pages of mapped files in it included; the
size is that of the largest weight file written. What is written goes under --scratch and is deleted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHILD = """
import sys
from seq2seq_models.cli import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
sys.exit(code)
"""
FORMS = ("safetensors", "bin", "h5", "msgpack")
WEIGHTS = (".safetensors", ".bin", ".h5", ".msgpack")


def convert(source: Path, target: Path, form: str, options: list[str]) -> tuple[float, float, float]:
    """Seconds, peak resident set in MB and size of the largest weight file in MB of one conversion."""
    words = ["convert", str(source), str(target), "--to", form, "--quiet", *options]
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", CHILD, *words], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    largest = max(path.stat().st_size for path in target.iterdir() if path.suffix in WEIGHTS)
    return seconds, int(done.stdout.split()[-1]) * 1024 / 1e6, largest / 1e6


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scratch", type=Path, help="where to write; twice the checkpoint's size is needed")
    parser.add_argument("--dtype", help="cast to float32, float16 or bfloat16 on the way there")
    words = parser.parse_args()
    cast = ["--dtype", words.dtype] if words.dtype else []
    print("| from | to | s | MB at most | largest file, MB |\n| --- | --- | --- | --- | --- |")
    for form in FORMS:
        options = [] if (form, words.dtype) == ("h5", "bfloat16") else cast
        with tempfile.TemporaryDirectory(dir=words.scratch) as scratch:
            there, back = Path(scratch, form), Path(scratch, "back")
            print(f"| FOLDER | {form} | {row(convert(words.folder, there, form, options))} |", flush=True)
            print(f"| {form} | safetensors | {row(convert(there, back, 'safetensors', []))} |", flush=True)


def row(numbers: tuple[float, float, float]) -> str:
    """Numbers as cells."""
    seconds, peak, size = numbers
    return f"{seconds:.1f} | {peak:.0f} | {size:.0f}"


if __name__ == "__main__":
    main()
