"""docs/errors.md is true: every kind of error is on it, and every mistake gets the message that is shown."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from seq2seq_models import errors
from seq2seq_models.bundled import demo_checkpoint

from .test_imports import BLOCK, python

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"
TEXT = PAGE.read_text(encoding="utf-8")
MISTAKE = re.compile(r"^```python raises([\w ]*)\n(.*?)^```\n\n```text\n(.*?)\n```", re.DOTALL | re.MULTILINE)
MISTAKES = [(found[1].removeprefix(" without ").strip(), found[2], found[3]) for found in MISTAKE.finditer(TEXT)]
START = re.search(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
LIBRARY_WARNINGS = r"ignore:::(jax|flax)(\..*)?"


def is_like(message: str, shown: str) -> bool:
    """Whether a message is the one shown, where … stands for any text."""
    return re.fullmatch(".*".join(map(re.escape, shown.split("…"))), message, re.DOTALL) is not None


@pytest.fixture(scope="module")
def start() -> dict[str, Any]:
    assert START is not None
    namespace: dict[str, Any] = {}
    exec(START[1], namespace)
    return namespace


def test_every_kind_has_its_row() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]
    assert len(kinds) == 7
    for kind in kinds:
        assert f"| `{kind.__name__}` | `{kind.__base__.__name__}` |" in TEXT


def test_the_mistakes_are_found() -> None:
    assert len(MISTAKES) == TEXT.count("```python raises") >= 12


@pytest.mark.filterwarnings(LIBRARY_WARNINGS)
@pytest.mark.parametrize(
    ("code", "shown"), [(code, shown) for without, code, shown in MISTAKES if not without], ids=lambda one: one[:40]
)
def test_a_mistake_gets_its_message(
    code: str, shown: str, start: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "Flax" in code:
        pytest.importorskip("flax")
    with pytest.raises(Exception) as caught:  # which one is for the page to say
        exec(code, dict(start))
    assert is_like(f"{caught.type.__name__}: {caught.value}", shown), f"{caught.type.__name__}: {caught.value}"
    assert caught.type.__module__ == errors.__name__


@pytest.mark.parametrize(
    ("without", "code", "shown"), [one for one in MISTAKES if one[0]], ids=lambda one: one.partition("\n")[0][-40:]
)
def test_a_missing_framework_gets_its_message(
    without: str, code: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seq2seq_models import PegasusForConditionalGeneration

    monkeypatch.chdir(tmp_path)
    whole = PegasusForConditionalGeneration.from_pretrained(demo_checkpoint("pegasus-demo"))
    whole.save_pretrained("old-checkpoint", safe_serialization=False)
    lines = "".join(f"    {line}\n" for line in code.splitlines() if line)
    # A file is read by what there is, so torch must be missing to `find_spec` too; keras asks for more of tensorflow.
    hidden = "import sys; sys.modules['torch'] = None" if without == "torch" else BLOCK.format(blocked=without)
    said = python(
        f"{hidden}\ntry:\n{lines}except Exception as error:\n    print(f'{{type(error).__name__}}: {{error}}')\n"
    )
    assert is_like(said.strip(), shown), said


def test_messages_of_the_hub_are_those_of_its_page() -> None:
    """docs/hub.md has them from a stand-in of the hub that fails as the real one does; see test_hub_faults.py."""
    shown = re.findall(r"^```text hub\n(.*?)\n```", TEXT, re.DOTALL | re.MULTILINE)
    assert len(shown) == 2
    listed = (PAGE.parent / "hub.md").read_text(encoding="utf-8")
    assert all(f"| {message} |" in listed for message in shown)


def test_padding_in_labels_is_learnt_and_minus_100_is_not(start: dict[str, Any]) -> None:
    model, tokenizer = start["model"], start["tokenizer"]
    labels = tokenizer(["Fire at harbour", "Rain"], padding=True, return_tensors="pt").input_ids
    assert (labels == tokenizer.pad_token_id).any()
    learnt = labels.masked_fill(labels == tokenizer.pad_token_id, -100)
    with_padding, without = (model(**start["inputs"], labels=one).loss.item() for one in (labels, learnt))
    assert with_padding > without + 0.1


def test_a_tensorflow_model_needs_no_first_call() -> None:
    pytest.importorskip("tensorflow")
    code = f"""
from seq2seq_models import PegasusConfig, TFPegasusForConditionalGeneration
model = TFPegasusForConditionalGeneration(PegasusConfig.from_pretrained({str(demo_checkpoint("pegasus-demo"))!r}))
print(model.count_params())
"""
    assert int(python(code).split()[-1]) > 500_000
