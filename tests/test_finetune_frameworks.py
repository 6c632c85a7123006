"""The three fine-tuning scripts do the same: loss curves of their first updates agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from .finetuning_runs import EXAMPLES, SHORT, history, run, same_histories

LINES = {"max_steps": 20, "dropout": 0.0, "log_every": 1, "evaluate_every": 20, "save_every": 20}


@pytest.mark.heavy
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "accumulation": 2, "schedule": "cosine"}])
def test_the_first_twenty_updates_are_the_same(options: dict[str, str], tmp_path: Path) -> None:
    words = [
        word
        for key, value in {**SHORT, **LINES, **options}.items()
        for word in (f"--{key.replace('_', '-')}", str(value))
    ]
    run([str(EXAMPLES / "compare_frameworks.py"), "--output", str(tmp_path), *words])
    assert len(history(tmp_path / "pytorch")) == 22
    for framework in ("tensorflow", "flax"):
        same_histories(tmp_path / "pytorch", tmp_path / framework, within=1e-4)
    assert (tmp_path / "compared.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
