"""What a type checker makes of a user's code: the real classes, and errors for a wrong name or argument."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import seq2seq_models

pytestmark = pytest.mark.heavy
SOURCE = Path(seq2seq_models.__file__).parents[1]

SNIPPET = """\
import seq2seq_models
from seq2seq_models import BlenderbotSmallTokenizer, GenerationConfig, PegasusConfig, PegasusForConditionalGeneration
from seq2seq_models import PegasusModle
from seq2seq_models import FlaxBlenderbotSmallForCausalLM, FlaxPegasusModel, TFBlenderbotSmallModel, TFPegasusModel

config = PegasusConfig(d_model=64)
reveal_type(config)
reveal_type(PegasusForConditionalGeneration)
model = PegasusForConditionalGeneration(config)
reveal_type(model)
reveal_type(model.generate)
reveal_type(GenerationConfig)
reveal_type(BlenderbotSmallTokenizer)
PegasusForConditionalGeneration(config, config)
PegasusConfig(d_model="wide")
reveal_type(config.d_model)
seq2seq_models.nothing_here
reveal_type(TFPegasusModel)
reveal_type(TFBlenderbotSmallModel(config))
reveal_type(FlaxPegasusModel(config))
reveal_type(FlaxBlenderbotSmallForCausalLM)
reveal_type(FlaxPegasusModel(config).encode)
FlaxPegasusModel(config, wing=1, seed="none")
FlaxPegasusModel(config).encode()
"""
TYPES = {
    7: "seq2seq_models.core.config.PegasusConfig",
    8: "seq2seq_models.pytorch.pegasus.PegasusForConditionalGeneration",
    10: "seq2seq_models.pytorch.pegasus.PegasusForConditionalGeneration",
    11: "def (",
    12: "seq2seq_models.core.generation_config.GenerationConfig",
    13: "seq2seq_models.core.blenderbot_small.BlenderbotSmallTokenizer",
    16: "int",
    18: "seq2seq_models.tensorflow.pegasus.TFPegasusModel",
    19: "seq2seq_models.tensorflow.blenderbot_small.TFBlenderbotSmallModel",
    20: "seq2seq_models.flax.pegasus.FlaxPegasusModel",
    21: "seq2seq_models.flax.blenderbot_small.FlaxBlenderbotSmallForCausalLM",
    22: "def (input_ids:",
}
FAULTS = {3: "PegasusModle", 14: "Too many", 15: "d_model", 17: "nothing_here", 23: "seed", 24: "input_ids"}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """What mypy says about each line of the snippet."""
    folder = tmp_path_factory.mktemp("typing")
    (folder / "snippet.py").write_text(SNIPPET, encoding="utf-8")
    options = ["--strict", "--follow-imports=silent", "--ignore-missing-imports", "--no-incremental"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--python-executable", sys.executable, "snippet.py"],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and not done.stderr, done.stdout + done.stderr
    lines: dict[int, str] = {}
    for line in done.stdout.splitlines():
        name, number, rest = line.split(":", 2) if line.count(":") >= 2 else ("", "0", line)
        if name == "snippet.py":
            lines[int(number)] = lines.get(int(number), "") + rest
    return lines


@pytest.mark.parametrize("line", TYPES)
def test_types_are_the_real_ones(said: dict[int, str], line: int) -> None:
    assert "Revealed type" in said[line] and TYPES[line] in said[line]


@pytest.mark.parametrize("line", FAULTS)
def test_faults_are_flagged(said: dict[int, str], line: int) -> None:
    assert "error" in said[line] and FAULTS[line] in said[line]


def test_nothing_else_is_flagged(said: dict[int, str]) -> None:
    assert {line for line, text in said.items() if "error" in text} == set(FAULTS)


def test_the_package_says_that_it_is_typed() -> None:
    assert (SOURCE / "seq2seq_models" / "py.typed").is_file()
