"""Between canonical weights and a Flax tree of parameters: `assign` puts them in place, `extract` lists them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..core.checkpoints import canonical_name
from ..core.config import PretrainedConfig
from ..core.leaves import FLAX, Leaf, flax_path, from_flax, leaf_of, own_parameter, turned
from ..core.parameters import Head, Parameter, parameters
from ..core.storage.stored import DTYPE_NAMES, Stored
from ..errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Path = tuple[str, ...]
Tree = dict[str, Any]


@dataclass(frozen=True)
class Slot:
    """Where a parameter stands in the tree.

    Attributes:
        parameter: canonical name and shape.
        path: its keys, ("model", "encoder", "layers", "0", "fc1", "kernel").
        leaf: whether it is turned around here.
        shape: here; a kernel is [in, out].
        is_own: whether it is of a user's own module.
    """

    parameter: Parameter
    path: Path
    leaf: Leaf
    shape: tuple[int, ...]
    is_own: bool = False


def slots(config: PretrainedConfig, head: Head | None, shapes: Mapping[Path, Any] | None = None) -> tuple[Slot, ...]:
    """Every leaf of the tree of a model; ties and computed position tables have none.

    Args:
        config: of the model.
        head: of the model; None for a user's own class.
        shapes: for a user's own module, all its leaves by path, with their shapes.
    """
    found = []
    for parameter in parameters(config, head or "conditional"):
        if parameter.tied_to is None and not (parameter.kind == "table" and parameter.optional):
            leaf = leaf_of(parameter, FLAX)
            shape = parameter.shape[::-1] if leaf.transpose else parameter.shape
            path = flax_path(parameter)
            found.append(Slot(parameter, path[1:] if head == "base" else path, leaf, shape))
    if shapes is None:
        return tuple(found)
    known = {slot.path: slot for slot in found}
    return tuple(replace(known[path], shape=leaf.shape) if path in known else _own(path, leaf.shape)
                 for path, leaf in shapes.items())  # fmt: skip


def _own(path: Path, shape: tuple[int, ...]) -> Slot:
    """A leaf of a user's own module."""
    name, transpose = from_flax(path)
    parameter = own_parameter(name, shape[::-1] if transpose else shape)
    return Slot(parameter, path, Leaf(path[-1], transpose), shape, is_own=True)


def nest(leaves: Mapping[Path, Any]) -> Tree:
    """The nested dict of leaves by path."""
    tree: Tree = {}
    for path, leaf in leaves.items():
        branch = tree
        for name in path[:-1]:
            branch = branch.setdefault(name, {})
        branch[path[-1]] = leaf
    return tree


def flatten(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Path and value of every leaf of a nested mapping."""
    for name, branch in tree.items():
        if isinstance(branch, Mapping):
            yield from flatten(branch, (*path, str(name)))
        else:
            yield (*path, str(name)), branch


def initial(slot: Slot, rng: Array, std: float) -> Array:
    """A fresh float32 value: normal with this standard deviation, norms 1, biases 0."""
    last = slot.path[-1]
    if last in ("kernel", "embedding"):
        return std * jax.random.normal(rng, slot.shape, jnp.float32)
    return jnp.ones(slot.shape, jnp.float32) if last == "scale" else jnp.zeros(slot.shape, jnp.float32)


def fresh(every: Sequence[Slot], std: float, rng: Array, held: Mapping[Path, Any]) -> Tree:
    """A tree of parameters: those that are held, and the others drawn anew. Pure, so it may be traced."""
    leaves = dict(held)
    for index, slot in enumerate(every):
        if slot.path not in leaves:
            leaves[slot.path] = initial(slot, jax.random.fold_in(rng, index), std)
    return nest({slot.path: leaves.pop(slot.path) for slot in every} | leaves)


def assign(weights: Mapping[str, Stored], every: Sequence[Slot], dtype: str | None) -> dict[Path, Array]:
    """The parameters of a model that are stored, by path, on the default device.

    Each goes from where it was read straight to its place, kernels turned on the way, and what reading took is given
    back before the next arrives: one copy is held, not two.

    Args:
        weights: canonical name -> tensor of the right shape.
        every: of the model.
        dtype: name of a dtype to cast to; None keeps each tensor's own.
    """
    wanted = [slot for slot in every if slot.parameter.name in weights]

    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]

    def place(slot: Slot) -> Array:
        with jax.default_device(chosen):  # a caller's choice holds for its own thread only
            return _placed(weights[slot.parameter.name], slot.leaf, dtype)

    # Two at a time: turning a kernel waits for memory as much as for the processor, and NumPy lets go of the lock.
    with ThreadPoolExecutor(2) as pool:
        return dict(zip((slot.path for slot in wanted), pool.map(place, wanted), strict=True))


def _placed(stored: Stored, leaf: Leaf, dtype: str | None) -> Array:
    """The stored values on the default device, turned; nothing of what reading took is held any more."""
    values = turned(values_of(stored), leaf)
    kind = jax.dtypes.canonicalize_dtype(values.dtype if dtype is None else dtype)
    # JAX may keep this very memory as the array's (on a CPU it does, for it is aligned); nobody writes to it again.
    buffer = _aligned(values.shape, np.dtype(kind))
    if values.ndim < 2 or values.flags.c_contiguous:
        buffer[...] = values
    else:
        width = max(1, _LINE // buffer.itemsize)
        for first in range(0, values.shape[1], width):  # whole cache lines are written at a time
            buffer[:, first : first + width] = values[:, first : first + width]
    array: Array = jax.device_put(buffer)
    array.block_until_ready()
    stored.release()
    return array


_LINE = 64
"""Bytes of a cache line, and the alignment at which a CPU device takes memory without copying it."""


def _aligned(shape: tuple[int, ...], kind: np.dtype[Any]) -> NDArray[Any]:
    size = math.prod(shape) * kind.itemsize
    memory = np.empty(size + _LINE, np.uint8)
    first = -memory.ctypes.data % _LINE
    return memory[first : first + size].view(kind).reshape(shape)


def values_of(stored: Stored) -> NDArray[Any]:
    """The values of a stored tensor; bfloat16 as such, not as its bits."""
    values = stored.read()
    return values.view(jnp.bfloat16) if stored.dtype == "BF16" else values


def extract(params: Any) -> Iterator[Stored]:
    """The leaves of a tree as stored tensors under their canonical names, kernels turned back.

    Raises:
        InputError: a leaf is no array of a dtype that checkpoints hold.
    """
    for path, array in flatten(params):
        name, transpose = from_flax(path)
        name = canonical_name(name) or name
        dtype = _DTYPES.get(str(getattr(array, "dtype", None)))
        if dtype is None:
            raise InputError(
                f"`params` must hold floating-point arrays, got {type(array).__name__} "
                f"{getattr(array, 'dtype', '')} for {'/'.join(path)}."
            )
        shape = tuple(array.shape[::-1] if transpose else array.shape)
        yield Stored(name, shape, dtype, _Reader(array, transpose))


_DTYPES = {name: code for code, name in DTYPE_NAMES.items()}


class _Reader:
    """Gives an array's values as `Stored.read` does, fetched from its device when asked."""

    def __init__(self, array: Any, transpose: bool) -> None:
        self._array, self._transpose = array, transpose

    def __call__(self) -> NDArray[Any]:
        values = np.asarray(self._array)
        if values.dtype == jnp.bfloat16:
            values = values.view(np.uint16)
        return values.T if self._transpose else values
