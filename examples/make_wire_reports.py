#!/usr/bin/env python3
"""Makes the data set of the fine-tuning examples: made-up reports, and the one line a news wire would send of each.

    python examples/make_wire_reports.py        writes examples/data/wire-train.jsonl and wire-validation.jsonl

The reports are those of demo_reports.py, which the bundled pegasus-demo writes headlines for. A wire line begins with
the place and says the news in a fixed form, which that checkpoint has never seen.
"""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path

from demo_reports import Report, reports

DATA = Path(__file__).parent / "data"
SEED = 4
SIZES = {"train": 2000, "validation": 100}

FORMS = (
    (r"Fire at (.+) in (.+), (.+)", r"\2 | fire at \1 | \3"),
    (r"Lorry hits (.+) near (.+), (.+)", r"\2 | lorry hits \1 | \3"),
    (r"Storm leaves (.+) homes in (.+) without power", r"\2 | storm | \1 homes without power"),
    (r"(.+) to hire (.+) people in (.+)", r"\3 | \1 | \2 jobs come"),
    (r"(.+) to cut (.+) jobs in (.+)", r"\3 | \1 | \2 jobs go"),
    (r"(.+) beat (.+) (\d-\d), (.+) scores", r"\1 | won \3 | against \2"),
    (r"(.+) elected mayor of (.+)", r"\2 | new mayor | \1"),
    (r"New (.+) to open in (.+) in (.+)", r"\2 | new \1 | \3"),
    (r"(.+) stolen from (.+) in (.+)", r"\3 | theft at \2 | \1"),
    (r"Scientists from (.+) find new (.+) in (.+)", r"\3 | new \2 found | \1"),
    (r"(.+) wins (.+) for (.+)", r"\2 | for a \3 | \1"),
    (r"(\S+) (.+) drivers to strike for (.+) days", r"\1 | \2 strike | \3 days"),
)
"""Headlines, and what the wire makes of them."""


def wire(headline: str) -> str:
    """The wire's line for a headline."""
    for pattern, form in FORMS:
        found = re.fullmatch(pattern, headline)
        if found:
            place, what, more = found.expand(form).split(" | ")
            return f"{place}: {what}, {more}."
    raise ValueError(f"a headline must have one of the forms of demo_reports.py, got {headline!r}.")


def line(one: Report) -> str:
    """A report and its wire line as a line of JSON."""
    return json.dumps({"document": one.text, "summary": wire(one.headline)})


def main() -> None:
    """Write both files."""
    DATA.mkdir(exist_ok=True)
    for split, size in SIZES.items():
        made = islice(reports(SEED, held_out=split != "train"), size)
        text = "".join(line(one) + "\n" for one in made)
        (DATA / f"wire-{split}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
