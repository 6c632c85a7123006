"""`generate` in Flax on hundreds of random combinations of options; see compiled.Combinations."""

from __future__ import annotations

import pytest

from . import compiled
from .test_flax_generation import Flax

pytestmark = [pytest.mark.reference]


class TestCombinations(compiled.Combinations):
    side = Flax()
