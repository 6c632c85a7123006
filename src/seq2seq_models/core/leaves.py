"""How TensorFlow and Flax call a leaf and whether it is turned around: all that their formats differ in from ours.

Canonical names are PyTorch's. A linear weight is [out, in] here and [in, out] there; norms, embeddings and position
tables only have other names. Attention projections are square, so a missed transposition passes every shape check:
compare values.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .parameters import SHARED, Head, Kind, Parameter, parameters
from .storage.casting import cast
from .storage.stored import NUMPY_NAMES, Stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .config import PretrainedConfig


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
_KERAS_LEAVES = {leaf.name for leaf in KERAS.values()}
_EMBEDDINGS = ("model.shared", "shared", "embed_tokens", "embed_positions")
"""Layers whose leaf TensorFlow files of 2020 and 2021 call "weight", as PyTorch does."""


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
    """The canonical name of a variable or dataset of TensorFlow, and whether its values have to be transposed.

    Args:
        path: "model/encoder/layers.0/fc1/kernel:0", with or without what stands before it: the model's own name, and
            in a file the layer's. The shared embedding is found under "model.shared" twice.

    Raises:
        CheckpointError: no leaf of these models is called so.
    """
    *steps, last = path.removesuffix(":0").split("/")
    if last == "final_logits_bias" or (steps == ["model"] and last not in _KERAS_LEAVES):
        return last, False
    if steps and steps[-1] in _EMBEDDINGS and last == "weight":
        last = "embeddings"
    if steps and steps[-1] in ("model.shared", "shared"):
        steps = [SHARED.removesuffix(".weight")]
    elif steps and steps[-1] == "lm_head":
        steps = steps[-1:]
    sides = [index for index, step in enumerate(steps) if step in ("encoder", "decoder")]
    if sides:
        steps = ["model", *steps[sides[0] :]]
    else:  # of a user's own layer, behind the model's own name
        steps = steps[max((index + 1 for index, step in enumerate(steps) if step.startswith("tf_")), default=0) :]
    return _backwards(".".join(steps), last, KERAS, path)


def from_attributes(path: tuple[str, ...]) -> tuple[str, bool]:
    """The same of a variable of a user's own Keras layer, by the attributes that lead to it."""
    return _backwards(".".join(path[:-1]), path[-1], KERAS, "/".join(path))


def _backwards(stem: str, last: str, table: Table, path: str) -> tuple[str, bool]:
    name = f"{stem}." if stem else ""
    if not stem:  # final_logits_bias
        return last, False
    for (_, ours), leaf in table.items():
        if leaf.name == last:
            return name + ours, leaf.transpose
    if not name.startswith(("model.", "encoder.", "decoder.", "shared.")):
        return name + last, False  # of a user's own module
    known = ", ".join(sorted({leaf.name for leaf in table.values()}))
    raise CheckpointError(
        f"The last part of a weight's name must be one of {known}, got {path}. It is of another model."
    )


# ---- from canonical tensors to another framework's, for writing


def to_keras(tensors: Iterable[Stored], config: PretrainedConfig, head: Head, own: Container[str] = ()) -> list[Stored]:
    """The tensors as TensorFlow's model has them, under the names of its variables, computed positions included.

    Args:
        tensors: by canonical name; aliases of a tied weight are left out.
        config: of the model.
        head: of the model.
        own: the names of weights of a user's own modules.

    Raises:
        CheckpointError: a name that is no weight of this model.
    """
    words = {"base": "model", "conditional": "for_conditional_generation", "causal": "for_causal_lm"}
    model = f"tf_{config.model_type.replace('-', '_')}_{words[head]}"
    found = []
    for parameter, tensor in _sorted(tensors, config, head, own, computed=True):
        path = keras_path(parameter)
        if parameter.name == SHARED:
            path = f"model.shared/{path}"
        elif "/" in path:
            path = f"{model}/{path}"
        found.append(_turned_as(tensor, f"{path}:0", leaf_of(parameter, KERAS)))
    return found


def to_flax(tensors: Iterable[Stored], config: PretrainedConfig, head: Head, own: Container[str] = ()) -> list[Stored]:
    """The tensors as Flax' tree has them, under their paths with "/" between the keys; it has no computed positions.

    Args:
        tensors: by canonical name; aliases of a tied weight are left out.
        config: of the model.
        head: of the model; the tree of a base model has no "model" at its root.
        own: the names of weights of a user's own modules.

    Raises:
        CheckpointError: a name that is no weight of this model.
    """
    found = []
    for parameter, tensor in _sorted(tensors, config, head, own, computed=False):
        path = "/".join(flax_path(parameter))
        found.append(
            _turned_as(tensor, path.removeprefix("model/") if head == "base" else path, leaf_of(parameter, FLAX))
        )
    return found


def turned_back(tensor: Stored, name: str, transpose: bool) -> Stored:
    """A tensor of another framework under its canonical name, and as PyTorch has it."""
    return _turned_as(tensor, name, Leaf(name, transpose))


def _turned_as(tensor: Stored, name: str, leaf: Leaf) -> Stored:
    if not leaf.transpose:
        return tensor.renamed(name)
    return replace(tensor, name=name, shape=tensor.shape[::-1], read=lambda: turned(tensor.read(), leaf))


def _sorted(
    tensors: Iterable[Stored], config: PretrainedConfig, head: Head, own: Container[str], *, computed: bool
) -> Iterator[tuple[Parameter, Stored]]:
    """Each weight of the model that is given, in the model's order; with the position tables it computes or without."""
    given = {tensor.name: tensor for tensor in tensors}
    known = parameters(config, head)
    others = [name for name in given if name not in {parameter.name for parameter in known}]
    foreign = sorted(name for name in others if name not in own)
    if foreign:
        raise CheckpointError(
            f"The names of weights to save must be those of this model, got {', '.join(foreign)}. Leave them out, or "
            "save as safetensors."
        )
    for parameter in known:
        if parameter.tied_to is not None and parameter.tied_to not in given and parameter.name in given:
            given[parameter.tied_to] = given[parameter.name]
    for parameter in known:
        is_computed = parameter.kind == "table" and parameter.optional
        if parameter.tied_to is not None or (is_computed and not computed):
            continue
        if parameter.name in given:
            yield parameter, given[parameter.name]
        elif is_computed:
            dtype = next((tensor.dtype for tensor in given.values() if tensor.is_floating), "F32")
            yield parameter, cast(computed_weight(parameter), dtype if dtype in ("F16", "F64") else "F32")
    for name in others:
        yield own_parameter(name, given[name].shape), given[name]


def own_parameter(name: str, shape: tuple[int, ...]) -> Parameter:
    """A weight of a user's own module, by its canonical name: a dense layer's, a norm's, or one like no other."""
    last = name.rpartition(".")[2]
    if last not in ("weight", "bias"):
        return Parameter(name, shape, "plain")
    return Parameter(name, shape, "norm" if last == "weight" and len(shape) == 1 else "linear")


def computed_weight(parameter: Parameter) -> Stored:
    """What a checkpoint may lack, in float32: the sinusoids of a position table; zeros for the bias of the logits."""

    def read() -> NDArray[Any]:
        import numpy as np

        from .positions import sinusoidal_table

        if parameter.kind == "table":
            length, dim = parameter.shape
            return sinusoidal_table(length, dim)
        return np.zeros(parameter.shape, NUMPY_NAMES["F32"])

    return Stored(parameter.name, parameter.shape, "F32", read)
