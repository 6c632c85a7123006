"""One seed for everything that draws random numbers here."""

from __future__ import annotations

import random
import sys


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seeds Python, NumPy, and those of PyTorch and TensorFlow that are loaded; JAX takes its keys as arguments.

    Args:
        seed: from 0 to 2**32 - 1.
        deterministic: have PyTorch and TensorFlow take only deterministic algorithms, which can be slower.
    """
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
    # A framework that is not loaded yet draws nothing, and loading it here would cost seconds.
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)
        if deterministic:
            torch.use_deterministic_algorithms(True)
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None:
        tensorflow.random.set_seed(seed)
        if deterministic:
            tensorflow.config.experimental.enable_op_determinism()
