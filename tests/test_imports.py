"""What importing costs and loads: each case in a process of its own, judged by sys.modules."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import seq2seq_models

PACKAGE = Path(seq2seq_models.__file__).parent
FRAMEWORKS = {"torch", "tensorflow", "keras", "tf_keras", "jax", "jaxlib", "flax", "transformers"}
CLIENTS = {"tokenizers", "huggingface_hub", "safetensors", "regex", "requests", "httpx", "sentencepiece"}

PROBE = """
import json, os, sys, threading
environment, threads = dict(os.environ), threading.active_count()
before = set(sys.modules)
exec(sys.argv[1])
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
changed = sorted(k for k in {*environment, *os.environ} if environment.get(k) != os.environ.get(k))
print(json.dumps({"loaded": sorted(loaded), "changed": changed, "threads": threading.active_count() - threads}))
"""

BLOCK = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def python(code: str, *arguments: str) -> str:
    """What the code prints in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    environment.pop("TF_USE_LEGACY_KERAS", None)  # which the reference sets in this process when its TF classes load
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def probe(statement: str, first: str = "") -> dict[str, object]:
    """What a statement loads, changes and starts; `first` runs before anything is noted."""
    found: dict[str, object] = json.loads(python(f"{first}\n{PROBE}", statement))
    return found


def tables() -> tuple[dict[str, str], dict[str, str]]:
    """Name -> room as a type checker reads it, and as __getattr__ does."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    typed: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for statement in node.body:
                assert isinstance(statement, ast.ImportFrom) and statement.module and statement.level == 1
                for alias in statement.names:
                    assert alias.name == alias.asname, f"{alias.name} is not re-exported"
                    typed[alias.name] = statement.module
    rooms = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_ROOMS"
    )
    return typed, {name: room for room, names in rooms.items() for name in names}


def test_the_package_alone_loads_nothing_heavy() -> None:
    found = probe("import seq2seq_models")
    assert found == {"loaded": found["loaded"], "changed": [], "threads": 0}
    assert not {*FRAMEWORKS, *CLIENTS, "numpy", "tqdm"} & set(found["loaded"])


def test_a_pytorch_class_loads_torch_and_no_other_framework() -> None:
    found = probe("from seq2seq_models import PegasusForConditionalGeneration")
    assert "torch" in found["loaded"]
    assert not (FRAMEWORKS - {"torch"}) & set(found["loaded"])


def test_a_pytorch_class_adds_no_package_to_torch() -> None:
    found = probe("from seq2seq_models import PegasusForConditionalGeneration", first="import torch")
    added = {name for name in found["loaded"] if name not in sys.stdlib_module_names}
    assert added == {"seq2seq_models"}
    assert found["changed"] == [] and found["threads"] == 0


WINGS = {
    "tensorflow": ("import tensorflow, keras", "TF", {"torch", "flax", "tf_keras", "transformers"}),
    "flax": ("import flax.linen", "Flax", {"torch", "tensorflow", "keras", "tf_keras", "transformers"}),
}
"""How a framework is imported alone, the prefix of its classes, and what those must not load.

TensorFlow itself loads jax where that is installed; that we add nothing to it is another test's matter.
"""


@pytest.mark.parametrize("wing", WINGS)
def test_a_class_loads_its_own_framework_and_no_other(wing: str) -> None:
    _, prefix, others = WINGS[wing]
    found = probe(f"from seq2seq_models import {prefix}PegasusForConditionalGeneration, {prefix}AutoModelForSeq2SeqLM")
    assert wing in found["loaded"]
    assert not others & set(found["loaded"])


@pytest.mark.parametrize("wing", WINGS)
def test_a_class_adds_no_package_to_its_framework(wing: str) -> None:
    alone, prefix, _ = WINGS[wing]
    found = probe(f"from seq2seq_models import {prefix}BlenderbotSmallForCausalLM", first=alone)
    added = {name for name in found["loaded"] if name not in sys.stdlib_module_names}
    assert added == {"seq2seq_models"}
    assert found["changed"] == [] and found["threads"] == 0


@pytest.mark.parametrize(
    "names",
    [
        "PegasusConfig, BlenderbotSmallConfig, PretrainedConfig, GenerationConfig, AutoConfig",
        "ModelOutput, Seq2SeqLMOutput, LogitsProcessorList, TextStreamer, AutoModel, pipeline, Conversation",
    ],
)
def test_configs_outputs_and_choosers_load_no_framework_and_no_client(names: str) -> None:
    found = probe(f"from seq2seq_models import {names}")
    assert not (FRAMEWORKS | CLIENTS) & set(found["loaded"])
    assert found["changed"] == [] and found["threads"] == 0


def test_tokenizers_load_no_framework() -> None:
    found = probe(
        "from seq2seq_models import AutoTokenizer, BatchEncoding, BlenderbotSmallTokenizer, PegasusTokenizerFast, "
        "PreTrainedTokenizer"
    )
    assert "tokenizers" in found["loaded"]
    assert not {*FRAMEWORKS, "huggingface_hub", "sentencepiece"} & set(found["loaded"])
    assert found["changed"] == [] and found["threads"] == 0


def test_type_checkers_and_users_see_the_same_names() -> None:
    typed, rooms = tables()
    assert typed == rooms
    assert seq2seq_models.__all__ == sorted(typed)


@pytest.mark.parametrize("name", seq2seq_models.__all__)
def test_every_name_is_where_the_table_says(name: str) -> None:
    value = getattr(seq2seq_models, name)
    # An output is one class for all frameworks, under the three names it has upstream.
    is_output = value.__module__ == "seq2seq_models.core.outputs"
    assert value.__name__ == (name.removeprefix("TF").removeprefix("Flax") if is_output else name)
    assert value.__module__.startswith("seq2seq_models.")
    assert (value.__doc__ or "").strip(), f"{name} has no docstring"


def test_dir_lists_every_name_before_it_is_used() -> None:
    listed = json.loads(python("import json, seq2seq_models; print(json.dumps(dir(seq2seq_models)))"))
    assert set(seq2seq_models.__all__) <= set(listed)
    assert "__version__" in listed and listed == sorted(listed)


def test_star_import_gives_every_name() -> None:
    found = python("from seq2seq_models import *; print(sorted(n for n in dir() if n[0] != '_'))")
    assert ast.literal_eval(found) == seq2seq_models.__all__


def test_a_misspelt_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'seq2seq_models' has no attribute 'PegasusModle'"):
        seq2seq_models.PegasusModle  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'PegasusModle'"):
        exec("from seq2seq_models import PegasusModle")
    assert not hasattr(seq2seq_models, "np")


@pytest.mark.parametrize(
    ("missing", "prefix", "extra"),
    [
        ("torch", "", "torch"),
        ("tensorflow", "TF", "tensorflow"),
        ("keras", "TF", "tensorflow"),
        ("jax", "Flax", "flax"),
        ("flax", "Flax", "flax"),
    ],
)
def test_without_a_framework_the_error_names_the_extra(missing: str, prefix: str, extra: str) -> None:
    code = f"""{BLOCK.format(blocked=missing)}
from seq2seq_models import PegasusConfig, PegasusTokenizer
from seq2seq_models.errors import MissingFrameworkError
try:
    from seq2seq_models import {prefix}PegasusForConditionalGeneration
except ImportError as error:
    print(type(error) is MissingFrameworkError, error)
"""
    said = python(code)
    assert said.startswith("True ") and missing in said
    assert f"pip install 'seq2seq-models[{extra}]'" in said


def test_a_broken_torch_is_not_called_missing() -> None:
    code = f"""{BLOCK.format(blocked="networkx_of_torch")}
import sys, types
class Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            import networkx_of_torch
sys.meta_path.insert(0, Broken())
try:
    import seq2seq_models.pytorch
except ModuleNotFoundError as error:
    print(type(error).__name__, error.name)
"""
    assert python(code).strip() == "ModuleNotFoundError networkx_of_torch"
