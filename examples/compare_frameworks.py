#!/usr/bin/env python3
"""Fine-tunes the same model on the same data in PyTorch, TensorFlow and JAX, and draws the three runs in one picture.

    python examples/compare_frameworks.py --output compared
    python examples/compare_frameworks.py --output compared --max-steps 20 --dropout 0 --log-every 1

The data are the wire lines beside this script unless `--train` names others. All options are those of the scripts; each
run has its own folder in the output folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from finetuning import reports

HERE = Path(__file__).parent
FRAMEWORKS = ("pytorch", "tensorflow", "flax")
USUAL = {
    "train": str(HERE / "data" / "wire-train.jsonl"),
    "validation": str(HERE / "data" / "wire-validation.jsonl"),
    "epochs": "4",
    "batch-size": "16",
    "learning-rate": "1e-3",
    "warmup-steps": "20",
}


def main() -> None:
    """Run the three scripts one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the three runs and the picture")
    args, rest = parser.parse_known_args()
    usual = [word for name, value in USUAL.items() if f"--{name}" not in rest for word in (f"--{name}", value)]
    rows = []
    for framework in FRAMEWORKS:
        script, folder, start = HERE / f"finetune_{framework}.py", args.output / framework, time.perf_counter()
        subprocess.run([sys.executable, str(script), "--output", str(folder), *usual, *rest], check=True)
        lines = [line for line in reports.read_history(folder) if "validation_loss" in line]
        best = max(lines, key=lambda line: line.get("rougeL", -line["validation_loss"]))
        rows.append((framework, best.get("rougeL", float("nan")), best["validation_loss"], time.perf_counter() - start))
    reports.draw({name: args.output / name for name in FRAMEWORKS}, args.output / "compared.png")
    print("\n| framework | ROUGE-L | loss | seconds |\n| --- | ---: | ---: | ---: |")
    for framework, rouge, loss, seconds in rows:
        print(f"| {framework} | {rouge:.1f} | {loss:.4f} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
