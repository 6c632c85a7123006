"""Damaged files; see fuzz.py, which goes on for as long as one likes."""

from __future__ import annotations

from pathlib import Path

import pytest

from .fuzz import KINDS, files, fuzz

pytestmark = [
    pytest.mark.reference,
    pytest.mark.filterwarnings(r"ignore:::(transformers|jax|flax|tensorflow|keras|tf_keras|google)(\..*)?"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return files(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_clearly_or_read(whole: dict[str, Path], kind: str) -> None:
    found = fuzz(kind, whole[kind], 100)
    assert found["refused"] > 30  # the others differ in the values only
    assert found.total() == 100
