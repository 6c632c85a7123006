"""How TensorFlow and Flax call a leaf and whether it is turned around: all that their formats differ in from ours.

Canonical names are PyTorch's. A linear weight is [out, in] here and [in, out] there; norms, embeddings and position
tables only have other names. Attention projections are square, so a missed transposition passes every shape check:
compare values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .parameters import SHARED, Kind, Parameter

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Leaf:
    """The last segment of a name in another framework.

    Attributes:
        name: "kernel" and the like.
        transpose: whether the values are stored [in, out].
    """

    name: str
    transpose: bool = False


Table = dict[tuple[Kind, str], Leaf]

FLAX: Table = {
    ("linear", "weight"): Leaf("kernel", transpose=True),
    ("linear", "bias"): Leaf("bias"),
    ("norm", "weight"): Leaf("scale"),
    ("norm", "bias"): Leaf("bias"),
    ("embedding", "weight"): Leaf("embedding"),
    ("table", "weight"): Leaf("embedding"),
}
KERAS: Table = {
    ("linear", "weight"): Leaf("kernel", transpose=True),
    ("linear", "bias"): Leaf("bias"),
    ("norm", "weight"): Leaf("gamma"),
    ("norm", "bias"): Leaf("beta"),
    ("embedding", "weight"): Leaf("embeddings"),
    ("table", "weight"): Leaf("embeddings"),
}
PATHS_OF_OLD = {"model.shared": "weight"}
"""TensorFlow files of 2021 call the shared embedding's leaf as PyTorch does."""


def leaf_of(parameter: Parameter, table: Table) -> Leaf:
    """What another framework calls the last segment of this parameter; a "plain" one keeps its name."""
    last = parameter.name.rpartition(".")[2]
    return Leaf(last) if parameter.kind == "plain" else table[parameter.kind, last]


def turned(values: NDArray[Any], leaf: Leaf) -> NDArray[Any]:
    """The values in the other orientation, if this leaf is turned around; a view. Forwards and backwards alike."""
    return values.T if leaf.transpose else values


def flax_path(parameter: Parameter) -> tuple[str, ...]:
    """The keys of a parameter in the tree of a Flax model: ("model", "encoder", "layers", "0", "fc1", "kernel")."""
    return (*parameter.name.split(".")[:-1], leaf_of(parameter, FLAX).name)


def keras_path(parameter: Parameter) -> str:
    """The path of a parameter in tf_model.h5, without the name of the model at its head and ":0" at its end."""
    if parameter.name == SHARED:
        return "model.shared/embeddings"
    stem = ".".join(parameter.name.split(".")[:-1])
    steps = stem.replace("layers.", "layers@").split(".") if stem else []
    return "/".join([*(step.replace("@", ".") for step in steps), leaf_of(parameter, KERAS).name])


def from_flax(path: tuple[str, ...]) -> tuple[str, bool]:
    """The canonical name of a leaf of a Flax tree, and whether its values have to be transposed.

    Raises:
        CheckpointError: no leaf of these models is called so.
    """
    return _backwards(".".join(path[:-1]), path[-1], FLAX, "/".join(path))


def from_keras(path: str) -> tuple[str, bool]:
    """The canonical name of a dataset of tf_model.h5, and whether its values have to be transposed.

    Args:
        path: without the model's own name at its head: "model/encoder/layers.0/fc1/kernel:0". The shared embedding is
            found under "model.shared" twice, and in files of 2021 its leaf is called "weight".

    Raises:
        CheckpointError: no leaf of these models is called so.
    """
    stem, _, last = path.removesuffix(":0").rpartition("/")
    if stem.split("/")[-1] in PATHS_OF_OLD:
        stem = stem.split("/")[-1]
        last = "embeddings" if last == PATHS_OF_OLD[stem] else last
    return _backwards(stem.replace("/", "."), last, KERAS, path)


def _backwards(stem: str, last: str, table: Table, path: str) -> tuple[str, bool]:
    name = f"{stem}." if stem else ""
    if not stem:  # final_logits_bias
        return last, False
    for (_, ours), leaf in table.items():
        if leaf.name == last:
            return name + ours, leaf.transpose
    known = ", ".join(sorted({leaf.name for leaf in table.values()}))
    raise CheckpointError(
        f"The last part of a weight's name must be one of {known}, got {path}. It is of another model."
    )
