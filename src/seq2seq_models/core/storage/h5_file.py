"""Keras' weight files (.h5), as transformers wrote them from 2020 to 2025; each tensor stays on disk until read.

Layout of one file: a group for every top-level layer, named in the attribute `layer_names`; each names its datasets in
`weight_names`, with the model's own name at their head. A shard has the datasets at its root, without that name, and
lists them in `layer_names`. Source: files written by transformers 4.57.6 and tf-keras 2.21. h5py is imported when such
a file is opened or written; it comes with TensorFlow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError, MissingFrameworkError
from .file_map import FileMap
from .stored import DTYPES, ITEM_SIZES, NUMPY_NAMES, Stored, as_float32, check_not_mislabelled, corrupt

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger("seq2seq_models")

_LARGEST_ATTRIBUTE = 64512
"""Bytes of one attribute, as Keras limits it; a longer list of names goes into several, numbered from 0."""

_KERAS_VERSION = b"2.15.0"
"""The last Keras that wrote this layout by default; readers want to see a version of Keras 2."""

_FAULTS = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)
"""What h5py raises at a damaged file."""


# ---- reading


def read_h5(file: Path) -> list[Stored]:
    """The datasets of a file, whole or shard, under their full paths in it; none of them read yet.

    Plain datasets are views of a copy-on-write memory map; compressed ones are read by h5py when asked for.

    Raises:
        CheckpointError: the file is damaged, or holds something besides weights.
        MissingFrameworkError: h5py is not installed.
    """
    h5py = _h5py(file, "reading")
    if file.stat().st_size == 0:
        raise corrupt(file, "it is empty")
    with file.open("rb") as stream:
        check_not_mislabelled(file, stream.read(64), "an HDF5 file")
    try:
        opened = h5py.File(file, "r")
    except _FAULTS as error:
        raise corrupt(file, f"it is cut off, damaged or no HDF5 file ({_first_line(error)})") from error
    try:
        found, needs_it = _datasets(file, opened, h5py)
    except _FAULTS as error:
        opened.close()
        if isinstance(error, CheckpointError):
            raise
        raise corrupt(file, f"it is damaged ({_first_line(error)})") from error
    if not needs_it:
        opened.close()
    return found


def _h5py(file: Path, what: str) -> Any:
    try:
        import h5py
    except ModuleNotFoundError as error:
        if error.name != "h5py":
            raise
        raise MissingFrameworkError(
            f"{file} is an HDF5 file, and {what} it needs h5py, which comes with TensorFlow. Install it: "
            "pip install h5py, or pip install 'seq2seq-models[tensorflow]'."
        ) from None
    return h5py


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _datasets(file: Path, opened: Any, h5py: Any) -> tuple[list[Stored], bool]:
    """The datasets, and whether the opened file is needed to read one of them."""
    if not _has(opened, "layer_names"):
        raise CheckpointError(
            f"{file} must hold weights as Keras saves them, got an HDF5 file without `layer_names`. "
            "Save it with save_weights or save_pretrained."
        )
    datasets: list[tuple[str, Any]] = []

    def visit(name: str, one: Any) -> None:
        if isinstance(one, h5py.Dataset):
            datasets.append((name, one))

    opened.visititems(visit)
    promised = set(_promised(opened))
    absent = sorted(promised - {name for name, _ in datasets})
    if absent:
        raise corrupt(file, f"its list of names promises {', '.join(absent[:5])}, which it does not hold")
    content, needs_it, found = FileMap(file), False, []
    for name, dataset in datasets:
        shape, dtype = _checked(file, name, dataset)
        first, size = dataset.id.get_offset(), prod(shape) * ITEM_SIZES[dtype]
        if first is None or opened.userblock_size or size == 0:
            needs_it = needs_it or size > 0
            found.append(Stored(name, shape, dtype, _h5_reader(file, name, dataset, dtype), file=str(file)))
            continue
        if first + size > len(content.buffer):
            raise corrupt(file, f"{name} ends at byte {first + size}, but the file has {len(content.buffer)}")
        read, release = content.reader(first, first + size, dtype, shape), content.releaser(first, first + size)
        found.append(Stored(name, shape, dtype, read, file=str(file), release=release))
    return found, needs_it


def _checked(file: Path, name: str, dataset: Any) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of a dataset that is one of plain numbers inside this very file."""
    kind = dataset.dtype
    dtype = DTYPES.get(kind.name) if kind.isnative else None
    if dtype is None or dtype == "BF16" or dataset.shape is None:
        raise CheckpointError(
            f"The dtype of {name} must be one of {', '.join(DTYPES)}, got {kind} ({file}). "
            "Use a checkpoint that is not quantized."
        )
    if dataset.external or dataset.is_virtual:
        raise CheckpointError(
            f"The weights of {file} must lie in that file, got {name} in another one. Do not use this checkpoint."
        )
    return tuple(dataset.shape), dtype


def _h5_reader(file: Path, name: str, dataset: Any, dtype: str) -> Callable[[], NDArray[Any]]:
    shape = tuple(dataset.shape)

    def read() -> NDArray[Any]:
        import numpy as np

        if prod(shape) == 0:
            return np.empty(shape, NUMPY_NAMES[dtype])
        try:
            values: NDArray[Any] = np.asarray(dataset[()], NUMPY_NAMES[dtype]).reshape(shape)
        except _FAULTS as error:
            raise corrupt(file, f"{name} is damaged ({_first_line(error)})") from error
        return values

    return read


def _promised(opened: Any) -> Iterator[str]:
    """The paths that the lists of names in a file promise."""
    for layer in _names(opened, "layer_names"):
        if layer not in opened:
            yield layer
            continue
        here = opened[layer]
        if hasattr(here, "shape"):  # a shard: the layer is the dataset itself
            yield layer
            continue
        for name in _names(here, "weight_names"):
            yield f"{layer}/{name}"


def _has(group: Any, name: str) -> bool:
    return name in group.attrs or f"{name}0" in group.attrs


def _names(group: Any, name: str) -> Iterator[str]:
    """A list of names, which is split over several attributes if it is long."""
    attributes = [name] if name in group.attrs else []
    while not attributes or attributes[-1] != name:
        following = f"{name}{len(attributes)}"
        if following not in group.attrs:
            break
        attributes.append(following)
    for attribute in attributes:
        for one in group.attrs[attribute]:
            yield one.decode("utf-8") if isinstance(one, bytes) else str(one)


# ---- writing


def write_h5(file: Path, tensors: Sequence[Stored], *, is_shard: bool = False) -> None:
    """Writes one file, reading one tensor at a time; bfloat16, which the format does not have, becomes float32.

    Args:
        file: must not be a file that the tensors are read from.
        tensors: named as TensorFlow names its variables: "tf_pegasus_model/model/encoder/layer_norm/gamma:0",
            "model.shared/model.shared/embeddings:0", "final_logits_bias:0".
        is_shard: one of several files, which have another layout.
    """
    h5py = _h5py(file, "writing")
    with h5py.File(file, "w") as opened:
        if is_shard:
            for tensor in tensors:
                _write(opened, name_in_shard(tensor.name), tensor)
            _put_names(opened, "layer_names", sorted(name_in_shard(tensor.name) for tensor in tensors))
            return
        layers: dict[str, list[Stored]] = {}
        for tensor in tensors:
            layers.setdefault(_layer(tensor.name), []).append(tensor)
        opened.attrs["backend"], opened.attrs["keras_version"] = b"tensorflow", _KERAS_VERSION
        _put_names(opened, "layer_names", list(layers))
        for layer, held in layers.items():
            group = opened.create_group(layer)
            _put_names(group, "weight_names", [tensor.name for tensor in held])
            for tensor in held:
                _write(group, tensor.name, tensor)
        _put_names(opened.create_group("top_level_model_weights"), "weight_names", [])


def name_in_shard(name: str) -> str:
    """The name of a variable in a shard: without the model's own name, if it has that."""
    return name if "model." in name or "/" not in name else name.split("/", 1)[1]


def without_bfloat16(tensors: Sequence[Stored]) -> list[Stored]:
    """The tensors with every bfloat16 one as float32, which is logged; HDF5 has no bfloat16."""
    if any(tensor.dtype == "BF16" for tensor in tensors):
        logger.warning("tf_model.h5 cannot hold bfloat16: the weights are written as float32")
    return [_widened(tensor) if tensor.dtype == "BF16" else tensor for tensor in tensors]


def _widened(tensor: Stored) -> Stored:
    return replace(tensor, dtype="F32", read=lambda: as_float32(tensor))


def _layer(name: str) -> str:
    """The top-level layer a variable belongs to: the head and its bias stand beside the model."""
    last = name.removesuffix(":0").split("/")
    return next((part for part in last if part in ("final_logits_bias", "lm_head")), "model")


def _write(group: Any, name: str, tensor: Stored) -> None:
    import numpy as np

    values = np.ascontiguousarray(tensor.read(), dtype=NUMPY_NAMES[tensor.dtype]).reshape(tensor.shape)
    group.create_dataset(name, data=values)
    tensor.release()


def _put_names(group: Any, name: str, names: Sequence[str]) -> None:
    import numpy as np

    content = np.asarray([one.encode("utf-8") for one in names])
    if content.nbytes <= _LARGEST_ATTRIBUTE:
        group.attrs[name] = content
        return
    count = -(-content.nbytes // _LARGEST_ATTRIBUTE)
    while any(part.nbytes > _LARGEST_ATTRIBUTE for part in np.array_split(content, count)):
        count += 1
    for index, part in enumerate(np.array_split(content, count)):
        group.attrs[f"{name}{index}"] = part
