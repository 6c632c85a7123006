"""Runs of the fine-tuning scripts as people start them: in processes of their own, killed or several at once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SHORT = {
    "train": EXAMPLES / "data" / "wire-train.jsonl",
    "validation": EXAMPLES / "data" / "wire-validation.jsonl",
    "train_examples": 96,
    "validation_examples": 6,
    "batch_size": 4,
    "max_steps": 12,
    "evaluate_every": 5,
    "save_every": 3,
    "log_every": 1,
    "learning_rate": 1e-3,
    "max_new_tokens": 8,
    "metric": "loss",
    "pad_to_multiple_of": 64,
}
"""A run of a few seconds, whose last model is its best."""

KILLED = """
import os, runpy, signal, sys
from pathlib import Path
script, moment = sys.argv[1], int(sys.argv[2])
sys.argv = sys.argv[1:2] + sys.argv[3:]
sys.path.insert(0, str(Path(script).parent))
from finetuning import training
calls = 0
def last_words(self, *given):
    global calls
    calls += 1
    if calls == moment:
        os.kill(os.getpid(), signal.SIGKILL)
    return told(self, *given)
told, training.Run.update = training.Run.update, last_words
if moment < 0:
    def half_saved(folder, *more):
        (folder / "begun").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    kept = training.Run.save
    def save(self):
        if self.progress.step == -moment:
            self.learner.save_state = half_saved
        kept(self)
    training.Run.save = save
runpy.run_path(script, run_name="__main__")
"""
"""Runs a script until its so-many-th update, or until it writes the state of an update, and kills it there."""


def words(output: Path, **options: Any) -> list[str]:
    """The command line of a short run with these options."""
    found = ["--output", str(output)]
    for name, value in {**SHORT, **options}.items():
        found += ["--" + name.replace("_", "-"), *([] if value is True else [str(value)])]
    return found


def run(command: list[str], killed: bool = False, **environment: str) -> str:
    """What a Python command says; it must end well, or be killed.

    Args:
        command: the words after `python`.
        killed: whether SIGKILL is to end it.
        **environment: variables beside this process's own.
    """
    given = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"), **environment}
    made = subprocess.run([sys.executable, *command], env=given, capture_output=True, text=True, timeout=600)
    said = made.stdout + made.stderr
    assert made.returncode == (-signal.SIGKILL if killed else 0), said[-4000:]
    return said


def together(commands: list[tuple[list[str], dict[str, str]]]) -> None:
    """Run Python commands at the same time, each with variables of its own; all must end well."""
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            env={**shared, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command, own in commands
    ]
    said = [process.communicate(timeout=600)[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(started), "\n".join(text[-3000:] for text in said)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def weights(folder: Path) -> dict[str, np.ndarray]:
    """The weights of a run's model."""
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path, within: float) -> None:
    """The models of two runs must have the same weights.

    But for the keys' biases: they add the same to all scores of a query, so the gradient that reaches them is nothing
    but rounding, which Adam makes steps of full size from.
    """
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    for name, values in left.items():
        if not name.endswith("k_proj.bias"):
            np.testing.assert_allclose(values, right[name], atol=within, rtol=within, err_msg=name)


def history(folder: Path) -> list[dict[str, float]]:
    """All that a run recorded but its speed, which no two runs share."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in lines]


def same_histories(one: Path, other: Path, within: float) -> None:
    """Two runs must have recorded the same, to this relative difference."""
    left, right = history(one), history(other)
    assert [(line.keys(), line["step"]) for line in left] == [(line.keys(), line["step"]) for line in right]
    for mine, yours in zip(left, right, strict=True):
        for name, value in mine.items():
            np.testing.assert_allclose(value, yours[name], atol=within, rtol=within, err_msg=f"{name} {mine['step']}")


def killed_and_continued(script: str, folder: Path, **options: Any) -> None:
    """A run that is killed three times must end as one that was not, bit for bit.

    Once in the middle of writing the state of update 6, once five updates after it began again, and once during its
    first update after that.
    """
    path = str(EXAMPLES / script)
    run([path, *words(folder / "whole", **options)])
    parts = words(folder / "parts", **options)
    for moment in (-6, 5, 1):
        run(["-c", KILLED, path, str(moment), *parts], killed=True)
    assert "continue after update" in run([path, *parts])
    assert history(folder / "parts") == history(folder / "whole")
    whole, again = ((folder / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == again
