"""The sinusoidal position table: one source for all frameworks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def sinusoidal_table(length: int, dim: int) -> NDArray[np.float32]:
    """Fixed position vectors: sines fill the first half of each row, cosines the second.

    Column j of the underlying formula has the angle position / 10000 ** (2 * (j // 2) / dim); the even columns' sines
    come first, the odd columns' cosines after them, not interleaved.

    Args:
        length: number of rows, in token positions.
        dim: width D of a row; an odd width gives the sines the extra column.

    Returns:
        float32 [length, D], values in [-1, 1], rounded once from float64.

    Source: Vaswani et al. 2017, section 3.5; the half-and-half layout is that of the hub's Pegasus weights.
    """
    import numpy as np

    columns = np.arange(dim)
    angles = np.arange(length)[:, None] / np.power(10000.0, 2 * (columns // 2) / dim)
    return np.concatenate([np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])], axis=1).astype(np.float32)
