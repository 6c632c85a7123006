"""`generate` in TensorFlow on hundreds of random combinations of options; see compiled.Combinations."""

from __future__ import annotations

import pytest

from . import compiled
from .test_tensorflow_generation import TensorFlow, room_for_tiny_programs
from .tiny_tensorflow import LIBRARY_WARNINGS

pytestmark = [pytest.mark.reference, LIBRARY_WARNINGS]

__all__ = ["room_for_tiny_programs"]  # a fixture


class TestCombinations(compiled.Combinations):
    side = TensorFlow()
