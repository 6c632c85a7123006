"""States of a run on the disk: complete or not there at all, so that a run killed at any moment continues."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .arguments import Settings


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: updates made.
        epoch: passes over the data begun, from 0.
        place: updates made in this epoch.
        best: the best value of the metric so far.
        best_step: when it was measured.
        misses: evaluations since then.
        history: bytes of the history that belong to the updates made.
        seconds: time spent so far.
    """

    step: int = 0
    epoch: int = 0
    place: int = 0
    best: float | None = None
    best_step: int = 0
    misses: int = 0
    history: int = 0
    seconds: float = 0.0


def begin(settings: Settings) -> Path | None:
    """The state to continue from, or None; the output folder is made, or emptied of an old run with `--overwrite`.

    Raises:
        ValueError: the folder holds a run with other settings; the message names them.
    """
    folder, record = settings.output, settings.output / "settings.json"
    asked = json.loads(json.dumps(settings.same_run(), default=str))
    if settings.overwrite:
        for old in [*folder.glob("state-*"), *folder.glob("logs")]:
            shutil.rmtree(old)
        (folder / "history.jsonl").unlink(missing_ok=True)
        record.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    if record.is_file():
        before = json.loads(record.read_text(encoding="utf-8"))
        changed = [f"--{key.replace('_', '-')} {before.get(key)}" for key in asked if before.get(key) != asked[key]]
        if changed:
            raise ValueError(
                f"--output must be a folder without another run, got {folder}, which holds one with "
                f"{', '.join(changed)}. Continue it with the same settings, or begin anew with --overwrite."
            )
    states = sorted(folder.glob("state-*[0-9]"))
    if not record.is_file():
        _write(record, json.dumps(asked, indent=2))
    return states[-1] if states else None


def save(
    settings: Settings, progress: Progress, save_state: Callable[[Path], None], first: bool, wait: Callable[[], Any]
) -> None:
    """Write a state beside the last one, then let it take that one's place. All processes call this together.

    Args:
        settings: of the run.
        progress: where it stands.
        save_state: writes the learner's part into a folder, each process its own.
        first: whether this is the one process that names and removes folders.
        wait: comes back when all processes have come here.
    """
    final = settings.output / f"state-{progress.step:08d}"
    made = final.with_suffix(".partial")
    if first:
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
    wait()
    save_state(made)
    wait()
    if first:
        (made / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
        made.replace(final)
        for old in settings.output.glob("state-*"):
            if old != final:
                shutil.rmtree(old, ignore_errors=True)
    wait()


def load(folder: Path) -> Progress:
    """Where the run of a state stood."""
    return Progress(**json.loads((folder / "progress.json").read_text(encoding="utf-8")))


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
