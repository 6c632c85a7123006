"""The matrix of matrix.py: a file of every format, from both writers, in every dtype, into every class."""

from __future__ import annotations

import pytest

from .matrix import DTYPES, FORMATS, FRAMEWORKS, HEADS, row, why_not

pytestmark = [
    pytest.mark.reference,
    pytest.mark.filterwarnings(r"ignore:::(transformers|jax|flax|tensorflow|keras|tf_keras|google)(\..*)?"),
]

LATER = pytest.mark.heavy


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("writer", [pytest.param("transformers", marks=LATER), "seq2seq_models"])
@pytest.mark.parametrize(
    "dtype", [pytest.param(DTYPES[0], marks=LATER), pytest.param(DTYPES[1], marks=LATER), DTYPES[2]]
)
def test_every_element_comes_back(writer: str, form: str, dtype: str) -> None:
    wrong = []
    cells = 0

    def told(cell: object, said: str) -> None:
        nonlocal cells
        cells += 1
        if said not in ("equal", why_not(cell)):
            wrong.append((cell, said))

    row(writer, form, dtype, told)
    assert not wrong
    assert cells == 2 * len(HEADS) * len(FRAMEWORKS)
