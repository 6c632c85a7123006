"""Times imports: this package beside transformers, and one class of each framework over the framework's own import.

    python benchmarks/imports.py [--runs 7]

Every figure comes from a fresh process. The cases take turns, so that a busy spell of the machine hits all of them, and
the median is shown, with the fastest run beside it. MB is how much the peak resident set of the process grew, at most.
A first round, which writes the bytecode and warms the file cache, is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CHILD = """
import json, sys, time
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
def run(statement):
    start = time.perf_counter()
    exec(statement, {})
    return time.perf_counter() - start
start = [0.0, peak()]
first = [run(sys.argv[1]), peak()]
second = [run(sys.argv[2]), peak()]
print(json.dumps({"start": start, "first": first, "second": second}))
"""


@dataclass(frozen=True)
class Case:
    """One line of the table: what is timed, and what was imported before it without being counted."""

    label: str
    counted: str
    before: str = "pass"
    bar: tuple[float, float] | None = None


def over(framework: str, name: str, before: str, bar: tuple[float, float] | None = None) -> tuple[Case, ...]:
    """One class of each library over the framework's own import; the bar is ours."""
    return tuple(
        Case(f"{library}.{name}, over {framework}", f"from {library} import {name}", before, bar if mine else None)
        for mine, library in ((True, "seq2seq_models"), (False, "transformers"))
    )


CASES = (
    Case("seq2seq_models", "import seq2seq_models", bar=(0.1, float("inf"))),
    Case("transformers", "import transformers"),
    Case("torch", "import torch"),
    *over("torch", "PegasusForConditionalGeneration", "import torch", (0.15, 20.0)),
    Case("tensorflow, keras", "import tensorflow, keras"),
    *over("tensorflow, keras", "TFPegasusForConditionalGeneration", "import tensorflow, keras", (0.3, 30.0)),
    Case("flax.linen", "import flax.linen"),
    *over("flax.linen", "FlaxPegasusForConditionalGeneration", "import flax.linen", (0.2, float("inf"))),
    Case("seq2seq_models.PegasusTokenizer", "from seq2seq_models import PegasusTokenizer"),
    Case("transformers.PegasusTokenizer", "from transformers import PegasusTokenizer"),
)


def measure(case: Case) -> tuple[float, float]:
    """Seconds and MB that the counted statement took in a fresh process."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    source = str(Path(__file__).parents[1] / "src")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
    command = [sys.executable, "-c", CHILD, case.before, case.counted]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"`{case.counted}` failed:\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    return found["second"][0], found["second"][1] - found["first"][1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="counted rounds (default: %(default)s)")
    parser.add_argument("--only", default="", help="cases whose label contains this text")
    args = parser.parse_args()
    cases = [case for case in CASES if args.only in case.label]
    found: dict[str, list[tuple[float, float]]] = {case.label: [] for case in cases}
    for number in range(args.runs + 1):
        for case in cases:
            figures = measure(case)
            if number:
                found[case.label].append(figures)
    width = max(len(case.label) for case in cases)
    print(f"{'import':{width}}  {'median s':>8}  {'min s':>7}  {'MB':>6}  bar")
    for case in cases:
        seconds, megabytes = zip(*found[case.label], strict=True)
        line = f"{case.label:{width}}  {statistics.median(seconds):8.3f}  {min(seconds):7.3f}  {max(megabytes):6.1f}"
        if case.bar is not None:
            limit = f"{case.bar[0]} s" + (f", {case.bar[1]:.0f} MB" if case.bar[1] != float("inf") else "")
            line += f"  {limit}"
        print(line)


if __name__ == "__main__":
    main()
