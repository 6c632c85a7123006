"""Every public name, argument, method and property of the classes that people know from transformers 4.57.6.

tests/data/api.json has them, read from its signatures; "beyond" marks a class that it lacks.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

import seq2seq_models

API: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "api.json").read_text(encoding="utf-8"))
CLASSES: dict[str, Any] = API["classes"]
OTHER_NAMES = sorted({name for group in API["names"].values() for name in group})
PAGE = Path(__file__).parents[1] / "docs" / "coming-from-transformers.md"
CALL = {"pytorch": "forward", "tensorflow": "call", "flax": "__call__"}
EXACT = {"generate", "encode", "decode", "init_cache"}
"""Methods whose arguments must have their own names, not only a place among further keywords."""


def arguments(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def plain(wanted: list[str] | None) -> set[str]:
    """Names of arguments written as "name=default"."""
    return {one.partition("=")[0] for one in wanted or []} - {"self"}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_what_it_had(name: str) -> None:
    entry, cls = CLASSES[name], getattr(seq2seq_models, name)
    public = {one for one in plain(entry["init"]) if not one.startswith("_")}
    missing = {f"__init__({one})" for one in public - arguments(cls.__init__)}
    for method, wanted in entry["methods"].items():
        found = getattr(cls, method, None)
        if not callable(found) and not isinstance(found, property):  # which gives a function, as `serving` does
            missing.add(method)
        elif method in EXACT or method == CALL.get(entry["group"]):
            missing |= {f"{method}({one})" for one in plain(wanted) - arguments(getattr(cls, method))}
    assert missing == set()


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_a_name_is_there(name: str) -> None:
    assert callable(getattr(seq2seq_models, name))


def rows() -> dict[str, str]:
    """Each name of the page's table, with what is said of it."""
    found: dict[str, str] = {}
    for names, verdict in re.findall(r"^\| (`.*?`) \| (\w+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            assert name not in found, f"{name} stands twice"
            found[name] = verdict
    return found


@pytest.mark.reference
def test_the_page_judges_every_name_and_rightly() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = set(dir(transformers))
    for file in Path(transformers.__file__).parent.glob("modeling_*outputs.py"):  # not named at the top
        theirs |= set(re.findall(r"^class (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE))
    family = re.compile(r"^(TF|Flax|)(Pegasus|BlenderbotSmall)(?!X)")
    listed = rows()
    assert set(listed) == {*CLASSES, *OTHER_NAMES, *(name for name in theirs if family.match(name))}
    for name, verdict in listed.items():
        assert verdict in {"same", "different", "absent", "new"}
        assert hasattr(seq2seq_models, name) == (verdict != "absent"), name
        assert (name in theirs) == (verdict != "new"), name
