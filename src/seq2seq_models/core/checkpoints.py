"""Checkpoint files of any kind as one lazy mapping from canonical names to tensors, and back into files.

Reading: each format is one function from a file to tensors under the file's own names (`_READERS`); `canonical_name`
then translates. Writing: `write_checkpoint` shards and names the files as the hub expects them.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import CheckpointError
from .storage.safetensors_file import read_safetensors, write_safetensors
from .storage.stored import Stored as Stored
from .storage.stored import check_not_mislabelled, corrupt
from .storage.torch_file import read_torch, write_torch

SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
SAFETENSORS_INDEX, BIN_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
LATER = {"tf_model.h5": "TensorFlow", "tf_model.h5.index.json": "TensorFlow", "flax_model.msgpack": "Flax",
         "flax_model.msgpack.index.json": "Flax"}  # fmt: skip
"""Files whose readers are still to come, and what wrote them."""


# ---- names


def canonical_name(name: str) -> str | None:
    """The canonical name of a weight from the name in a PyTorch-style file; None for what is no weight.

    A base model is saved without "model."; norms of very old files say gamma and beta; BART-like files of 2020 counted
    their version in the state dict.
    """
    if name.startswith(("shared.", "encoder.", "decoder.")):
        name = f"model.{name}"
    if name in ("model.encoder.version", "model.decoder.version"):
        return None
    stem, dot, leaf = name.rpartition(".")
    return stem + dot + {"gamma": "weight", "beta": "bias"}.get(leaf, leaf)


def file_name(name: str, head: str) -> str:
    """The name a weight has in a file: canonical, except that a base model is saved without "model."."""
    return name.removeprefix("model.") if head == "base" else name


def with_variant(filename: str, variant: str | None) -> str:
    """A weight file's name with a variant such as "fp16" in it: model.fp16.safetensors."""
    if not variant:
        return filename
    stem, _, suffix = filename.rpartition(".")
    return f"{stem}.{variant}.{suffix}"


# ---- reading


def open_checkpoint(files: Sequence[Path], index: Mapping[str, str] | None = None) -> Mapping[str, Stored]:
    """The tensors of a checkpoint by canonical name, none of them read yet.

    Args:
        files: one file, or all shards.
        index: for shards, which file holds which (uncanonical) name, as `read_index` gives it.
    Raises:
        CheckpointError: a file is damaged or mislabelled, a shard lacks a tensor that the index promises, or two
            tensors have one name.
        MissingFrameworkError: a .bin file without torch.
    """
    found: dict[str, Stored] = {}
    for file in _progress(files):
        held = _read(file)
        if index is not None:
            promised = {name for name, shard in index.items() if PurePosixPath(shard).name == file.name}
            absent = sorted(promised - {tensor.name for tensor in held})
            if absent:
                raise corrupt(file, f"the index promises {', '.join(absent)} in it, but it holds none of that name")
        for tensor in held:
            name = canonical_name(tensor.name)
            if name is None:
                continue
            if name in found:
                raise CheckpointError(
                    f"A checkpoint must hold each weight once, got {name} twice ({found[name].file} and {file}). "
                    "Delete the file that does not belong to it."
                )
            found[name] = tensor.renamed(name)
    return found


def _read(file: Path) -> list[Stored]:
    for suffix, reader in _READERS.items():
        if file.name.endswith(suffix):
            return reader(file)
    raise CheckpointError(f"A checkpoint file must end in {' or '.join(_READERS)}, got {file}. Rename it.")


def _read_safetensors(file: Path) -> list[Stored]:
    tensors, metadata = read_safetensors(file)
    if metadata.get("format") in ("tf", "flax"):
        raise CheckpointError(
            f"{file} must name its weights as PyTorch does, got a file written by {metadata['format']}. Reading those "
            "comes with a later version; save it with from_tf=True or from_flax=True in transformers 4.57 until then."
        )
    return tensors


_READERS: dict[str, Callable[[Path], list[Stored]]] = {".safetensors": _read_safetensors, ".bin": read_torch}


def read_index(file: Path) -> dict[str, str]:
    """Which shard holds which name, from an index file.

    Raises:
        CheckpointError: it is no sound index, or it names a file outside its folder.
    """
    content = file.read_bytes()
    check_not_mislabelled(file, content[:64], "an index (JSON)")
    try:
        table = json.loads(content)["weight_map"]
        pairs = list(table.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise corrupt(file, f"it is no index with a `weight_map` ({type(error).__name__}: {error})") from error
    if not pairs:
        raise corrupt(file, "its `weight_map` is empty")
    for name, shard in pairs:
        if not isinstance(shard, str) or not _is_inside(shard):
            raise CheckpointError(
                f"The shards of an index must lie in its own folder, got {shard!r} for {name} ({file}). "
                "Do not use this checkpoint."
            )
    return dict(pairs)


def _is_inside(shard: str) -> bool:
    path = PurePosixPath(shard)
    return bool(shard) and "\\" not in shard and ":" not in shard and len(path.parts) == 1 and shard not in (".", "..")


def _progress(files: Sequence[Path]) -> Iterable[Path]:
    """The files, with a progress bar if there are several and someone watches; the hub client's switch counts too."""
    if len(files) < 2:
        return files
    client = sys.modules.get("huggingface_hub.utils")
    switch = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "").upper()
    off = switch in ("1", "ON", "YES", "TRUE") if client is None else client.are_progress_bars_disabled()
    if off or not sys.stderr.isatty():
        return files
    from tqdm import tqdm

    bar: Iterable[Path] = tqdm(files, desc="Loading checkpoint shards", unit="file")
    return bar


# ---- writing


_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def size_in_bytes(size: int | str) -> int:
    """Bytes of a size such as "5GB", "200MiB" or 10000.

    Raises:
        CheckpointError: it is none.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]I?B)", str(size).strip().upper())
    if match is None or float(match[1]) <= 0:
        raise CheckpointError(
            f'`max_shard_size` must be a number of bytes or a size such as "5GB" or "200MB", got {size!r}. Give one.'
        )
    return int(float(match[1]) * _UNITS[match[2]])


def write_checkpoint(
    folder: Path,
    tensors: Iterable[Stored],
    *,
    max_shard_size: int | str = "5GB",
    safe_serialization: bool = True,
    variant: str | None = None,
    save_function: Callable[..., Any] | None = None,
) -> list[str]:
    """Writes the weights into a folder, in one file or in shards with an index; the names of the files.

    Args:
        folder: must hold no file that the tensors are read from.
        tensors: under the names to write.
        max_shard_size: of one file; a single larger tensor gets a file of its own.
        safe_serialization: safetensors; otherwise PyTorch's format.
        variant: goes into the file names.
        save_function: for PyTorch's format, what to call instead of `torch.save`.
    """
    shards = list(_split(list(tensors), size_in_bytes(max_shard_size)))
    weights = with_variant(SAFETENSORS if safe_serialization else BIN, variant)
    stem, _, suffix = weights.rpartition(".")
    names = [weights] if len(shards) == 1 else [
        f"{stem}-{number:05d}-of-{len(shards):05d}.{suffix}" for number in range(1, len(shards) + 1)
    ]  # fmt: skip
    for name, shard in zip(names, shards, strict=True):
        if safe_serialization:
            write_safetensors(folder / name, shard)
        else:
            write_torch(folder / name, shard, save_function)
    if len(shards) > 1:
        index = with_variant(SAFETENSORS_INDEX if safe_serialization else BIN_INDEX, variant)
        weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(tensor.nbytes for shard in shards for tensor in shard)
        content = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / index).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        names.append(index)
    return names


def _split(tensors: list[Stored], limit: int) -> Iterator[list[Stored]]:
    shard: list[Stored] = []
    filled = 0
    for tensor in tensors:
        if shard and filled + tensor.nbytes > limit:
            yield shard
            shard, filled = [], 0
        shard.append(tensor)
        filled += tensor.nbytes
    yield shard


def is_weight_file(filename: str, *, safe_serialization: bool, variant: str | None = None) -> bool:
    """Whether a save in this format and variant could have written this name: one file, a shard or an index."""
    whole, index = (SAFETENSORS, SAFETENSORS_INDEX) if safe_serialization else (BIN, BIN_INDEX)
    stem, _, suffix = with_variant(whole, variant).rpartition(".")
    shard = rf"{re.escape(stem)}(-[0-9]{{5}}-of-[0-9]{{5}})?\.{suffix}"
    return filename == with_variant(index, variant) or re.fullmatch(shard, filename) is not None
