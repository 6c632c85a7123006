"""The random numbers of sampling in loops that run from Python: one stream per row. Compiled loops draw their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def streams(seed: int, rows: int) -> list[np.random.Generator]:
    """One stream of random numbers per row.

    Row i depends on the seed and on i alone, so that what a row draws does not change with the rest of its batch.

    Args:
        seed: at least 0, below 2**63.
        rows: number of sequences being sampled.

    Source: counter-based streams, Salmon et al. 2011 (Philox), as NumPy provides them.
    """
    import numpy as np

    return [np.random.Generator(np.random.Philox(key=np.array([seed, row], dtype=np.uint64))) for row in range(rows)]
