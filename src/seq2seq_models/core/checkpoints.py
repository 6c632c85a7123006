"""Checkpoint files of any kind as one lazy mapping from canonical names to tensors, and back into files.

Each format is a row of `FORMATS`: its file names, how a file is read and written, and how its names and orientation
become those of PyTorch and back. `canonical_name` does the rest; `write_checkpoint` shards and names the files as the
hub expects them.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .leaves import from_flax, from_keras, to_flax, to_keras, turned_back
from .parameters import PREFIXES, STACK_PARTS
from .storage.h5_file import read_h5, without_bfloat16, write_h5
from .storage.msgpack_file import read_msgpack, write_msgpack
from .storage.safetensors_file import read_safetensors, write_safetensors
from .storage.stored import Stored as Stored
from .storage.stored import check_not_mislabelled, corrupt
from .storage.torch_file import read_torch, write_torch

if TYPE_CHECKING:
    from .config import PretrainedConfig
    from .parameters import Head

logger = logging.getLogger("seq2seq_models")

# ---- names


def canonical_name(name: str, head: str | None = None) -> str | None:
    """The canonical name of a weight from the name in a PyTorch-style file; None for what is no weight.

    A base model is saved without "model.", an encoder or a decoder alone (`head`) without its own name too; norms of
    very old files say gamma and beta; BART-like files of 2020 counted their version in the state dict.
    """
    if name.startswith(("shared.", "encoder.", "decoder.")):
        name = f"model.{name}"
    elif head in ("encoder", "decoder") and name.startswith(tuple(f"{part}." for part in STACK_PARTS)):
        name = PREFIXES[head] + name
    if name in ("model.encoder.version", "model.decoder.version"):
        return None
    stem, _, leaf = name.rpartition(".")
    if not name.startswith("model.") or "norm" not in stem.rpartition(".")[2]:
        return name
    return f"{stem}.{ {'gamma': 'weight', 'beta': 'bias'}.get(leaf, leaf) }"


_WRAPPERS = re.compile(r"(?:^(?:module\.)+|(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)")
"""What training wrappers put into the names of a state dict: DistributedDataParallel, torch.compile, FSDP."""


def unwrapped(tensors: Iterable[Stored], where: object) -> list[Stored]:
    """The tensors without what training wrappers have put into their names, which is logged once."""
    held = list(tensors)
    found = [tensor.renamed(_WRAPPERS.sub("", tensor.name)) for tensor in held]
    for old, new in zip(held, found, strict=True):
        if old.name != new.name:
            logger.info(
                "%s: it was saved from a wrapped model (DistributedDataParallel, torch.compile); %s is read as %s, and "
                "so are its other weights.",
                where,
                old.name,
                new.name,
            )
            break
    return found


def file_name(name: str, head: str | None) -> str:
    """The name a weight has in a file: canonical, but for what `PREFIXES` says."""
    return name.removeprefix(PREFIXES.get(head, ""))


def with_variant(filename: str, variant: str | None) -> str:
    """A weight file's name with a variant such as "fp16" in it: model.fp16.safetensors."""
    if not variant:
        return filename
    stem, _, suffix = filename.rpartition(".")
    return f"{stem}.{variant}.{suffix}"


# ---- formats


def _plain(name: str) -> tuple[str, bool]:
    return name, False


def _safetensors_name(name: str) -> tuple[str, bool]:
    return from_keras(name) if "/" in name or name.endswith(":0") else (name, False)


def _flax_name(path: str) -> tuple[str, bool]:
    return from_flax(tuple(path.split("/")))


def _flax_safetensors_name(path: str) -> tuple[str, bool]:
    return from_flax(tuple(path.split(".")))


def _translated(file: Path, tensors: list[Stored], pytorch_name: Callable[[str], tuple[str, bool]]) -> list[Stored]:
    try:
        return [turned_back(tensor, *pytorch_name(tensor.name)) for tensor in tensors]
    except CheckpointError as error:
        raise CheckpointError(f"{file} does not fit. {error}") from error


def _read_safetensors(file: Path) -> list[Stored]:
    """The tensors of a file that PyTorch's, TensorFlow's or Flax' classes have written; its metadata says which."""
    tensors, metadata = read_safetensors(file)
    translations = {"tf": _safetensors_name, "flax": _flax_safetensors_name}
    return _translated(file, tensors, translations.get(metadata.get("format", "pt"), _plain))


def _read_h5(file: Path) -> list[Stored]:
    return _translated(file, read_h5(file), from_keras)


def _read_msgpack(file: Path) -> list[Stored]:
    return _translated(file, read_msgpack(file), _flax_name)


def _own_names(
    tensors: Iterable[Stored], config: PretrainedConfig, head: Head | None, own: Container[str] = ()
) -> list[Stored]:
    return [tensor.renamed(file_name(tensor.name, head)) for tensor in tensors]


def _keras_names(
    tensors: Iterable[Stored], config: PretrainedConfig, head: Head | None, own: Container[str] = ()
) -> list[Stored]:
    return without_bfloat16(to_keras(_canonical(tensors), config, head or "conditional", own))


def _flax_names(
    tensors: Iterable[Stored], config: PretrainedConfig, head: Head | None, own: Container[str] = ()
) -> list[Stored]:
    return to_flax(_canonical(tensors), config, head or "conditional", own)


def _canonical(tensors: Iterable[Stored]) -> Iterator[Stored]:
    for tensor in tensors:
        name = canonical_name(tensor.name)
        if name is not None:
            yield tensor.renamed(name)


@dataclass(frozen=True)
class Format:
    """One way to keep weights in files.

    Attributes:
        whole: name of the file that holds all weights.
        index: name of the file that says which shard holds which.
        read: the tensors of a file, in PyTorch's names and orientation.
        pytorch_name: PyTorch's name of a weight from the one in a file or an index, and whether it is turned there.
        named: canonical tensors as this format names and turns them; it is told the names of a user's own modules.
        needs: the package that reading it needs, if it needs one.
    """

    whole: str
    index: str
    read: Callable[[Path], list[Stored]]
    pytorch_name: Callable[[str], tuple[str, bool]]
    named: Callable[..., list[Stored]]
    needs: str | None = None


FORMATS = {
    "safetensors": Format(
        "model.safetensors", "model.safetensors.index.json", _read_safetensors, _safetensors_name, _own_names
    ),
    "bin": Format("pytorch_model.bin", "pytorch_model.bin.index.json", read_torch, _plain, _own_names, "torch"),
    "h5": Format("tf_model.h5", "tf_model.h5.index.json", _read_h5, from_keras, _keras_names, "h5py"),
    "msgpack": Format("flax_model.msgpack", "flax_model.msgpack.index.json", _read_msgpack, _flax_name, _flax_names),
}
"""Every format by the end of its file names, which is also what other modules call it."""

OWN_FORMAT = {"pt": "bin", "tf": "h5", "flax": "msgpack"}
"""The format of each framework's own."""


def format_of(file: Path) -> str:
    """The format that a file's name says it is of.

    Raises:
        CheckpointError: of none.
    """
    form = file.suffix.removeprefix(".")
    if form not in FORMATS:
        known = " or ".join(f".{known}" for known in FORMATS)
        raise CheckpointError(f"A checkpoint file must end in {known}, got {file}. Rename it.")
    return form


# ---- reading


def open_checkpoint(
    files: Sequence[Path], index: Mapping[str, str] | None = None, *, quiet: bool = False
) -> Mapping[str, Stored]:
    """The tensors of a checkpoint by canonical name, none of them read yet.

    Args:
        files: one file, or all shards.
        index: for shards, which file holds which (uncanonical) name, as `read_index` gives it.
        quiet: show no progress bar; the caller has its own.
    Raises:
        CheckpointError: a file is damaged or mislabelled, a shard lacks a tensor that the index promises, or two
            tensors have one name.
        MissingFrameworkError: a .bin file without torch, or a .h5 file without h5py.
    """
    found: dict[str, Stored] = {}
    for file in files if quiet else _progress(files):
        form = FORMATS[format_of(file)]
        held = form.read(file)
        if index is not None:
            promised = {name for name, shard in index.items() if PurePosixPath(shard).name == file.name}
            names = {tensor.name for tensor in held}
            absent = sorted(name for name in promised if form.pytorch_name(name)[0] not in names)
            if absent:
                raise corrupt(file, f"the index promises {', '.join(absent)} in it, but it holds none of that name")
        for tensor in unwrapped(held, file):
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
    form: str = "safetensors",
    max_shard_size: int | str = "5GB",
    variant: str | None = None,
    save_function: Callable[..., Any] | None = None,
) -> list[str]:
    """Writes the weights into a folder, in one file or in shards with an index; the names of the files.

    Args:
        folder: must hold no file that the tensors are read from.
        tensors: as the format's `named` gives them.
        form: a key of `FORMATS`.
        max_shard_size: of one file; a single larger tensor gets a file of its own.
        variant: goes into the file names.
        save_function: for PyTorch's format, what to call instead of `torch.save`.
    """
    shards = list(_split(list(tensors), size_in_bytes(max_shard_size)))
    weights = with_variant(FORMATS[form].whole, variant)
    stem, _, suffix = weights.rpartition(".")
    names = [weights] if len(shards) == 1 else [
        f"{stem}-{number:05d}-of-{len(shards):05d}.{suffix}" for number in range(1, len(shards) + 1)
    ]  # fmt: skip
    for name, shard in zip(names, shards, strict=True):
        if form == "bin":
            write_torch(folder / name, shard, save_function)
        elif form == "h5":
            write_h5(folder / name, shard, is_shard=len(shards) > 1)
        else:
            (write_safetensors if form == "safetensors" else write_msgpack)(folder / name, shard)
    if len(shards) > 1:
        index = with_variant(FORMATS[form].index, variant)
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


def is_weight_file(filename: str, *, form: str, variant: str | None = None) -> bool:
    """Whether a save in this format and variant could have written this name: one file, a shard or an index."""
    stem, _, suffix = with_variant(FORMATS[form].whole, variant).rpartition(".")
    shard = rf"{re.escape(stem)}(-[0-9]{{5}}-of-[0-9]{{5}})?\.{suffix}"
    return filename == with_variant(FORMATS[form].index, variant) or re.fullmatch(shard, filename) is not None
