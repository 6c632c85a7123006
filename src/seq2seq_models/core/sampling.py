"""The random numbers of sampling in PyTorch: one stream per row. Compiled loops draw theirs where they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def uniforms(seed: int, rows: int, steps: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) that choose the tokens: float64 [rows, steps], one column per step.

    Row i depends on the seed and on i alone, so that what a row draws does not change with the rest of its batch.

    Args:
        seed: at least 0, below 2**63.
        rows: number of sequences being sampled.
        steps: greatest number of tokens each of them may get.

    Source: counter-based streams, Salmon et al. 2011 (Philox), as NumPy provides them.
    """
    import numpy as np

    streams = [np.random.Generator(np.random.Philox(key=np.array([seed, row], dtype=np.uint64))) for row in range(rows)]
    return np.stack([stream.random(steps) for stream in streams])
