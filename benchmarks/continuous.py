"""Ten thousand summaries in one process, with lengths as they come: does memory grow?

    python benchmarks/continuous.py                                      # the bundled checkpoint on made-up reports
    python benchmarks/continuous.py --model google/pegasus-xsum --data articles.jsonl --count 1000

The pipeline gets a hundred texts at a time and sorts them into batches of similar length. Prints the resident memory as
it goes, and exits with 1 if it grew by more than 2 % after the first fifth.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

from seq2seq_models import pipeline

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
GROUP = 100
MOST = 1.02


def resident_mb() -> float:
    """The resident set of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def texts(data: Path | None) -> Iterator[str]:
    """Texts without end: made-up reports of one to ten sentences, or those of a file again and again."""
    if data is None:
        from demo_reports import reports

        return (one.text for one in reports(7))
    return cycle([json.loads(line)["document"] for line in data.read_text(encoding="utf-8").splitlines()])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: the bundled checkpoint")
    parser.add_argument("--data", type=Path, help="JSON lines with a `document`")
    parser.add_argument("--count", type=int, default=10_000)
    args = parser.parse_args()
    summarize = pipeline("summarization", model=args.model)
    source, start, first = texts(args.data), time.perf_counter(), 0.0
    for done in range(GROUP, args.count + 1, GROUP):
        summarize(list(islice(source, GROUP)))
        if done == args.count // 5 // GROUP * GROUP:
            first = resident_mb()
        if done % (args.count // 10) == 0:
            print(f"{done} summaries, {time.perf_counter() - start:.0f} s, {resident_mb():.1f} MB", flush=True)
    grown = resident_mb() / first
    print(f"since {args.count // 5} summaries: {100 * (grown - 1):+.2f} %")
    return int(grown > MOST)


if __name__ == "__main__":
    sys.exit(main())
