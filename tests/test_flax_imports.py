"""What importing a Flax class loads, each case in a process of its own."""

from __future__ import annotations

import sys

from .test_imports import BLOCK, FRAMEWORKS, probe, python


def test_a_flax_class_loads_jax_and_flax_and_no_other_framework() -> None:
    statement = "from seq2seq_models import FlaxPegasusForConditionalGeneration, FlaxAutoModel"
    found = probe(statement, first="import flax.linen")
    added = {name for name in found["loaded"] if name not in sys.stdlib_module_names}
    assert added == {"seq2seq_models"}
    assert found["changed"] == [] and found["threads"] == 0
    alone = probe("from seq2seq_models import FlaxBlenderbotSmallModel")
    assert {"jax", "flax"} <= set(alone["loaded"])
    assert not (FRAMEWORKS - {"jax", "jaxlib", "flax"}) & set(alone["loaded"])


def test_importing_leaves_the_settings_of_jax_alone() -> None:
    code = """
import flax.linen, jax
before = dict(jax.config.values)
from seq2seq_models import FlaxPegasusForConditionalGeneration
print({name for name in before if before[name] != jax.config.values[name]}, jax._src.xla_bridge._backends)
"""
    assert python(code).strip() == "set() {}"


def test_without_flax_the_error_names_the_extra() -> None:
    for blocked in ("flax", "jax"):
        code = f"""{BLOCK.format(blocked=blocked)}
from seq2seq_models import PegasusConfig
from seq2seq_models.errors import MissingFrameworkError
try:
    from seq2seq_models import FlaxPegasusModel
except ImportError as error:
    print(type(error) is MissingFrameworkError, error)
"""
        said = python(code)
        assert said.startswith("True ") and "pip install 'seq2seq-models[flax]'" in said
