"""A checkpoint from one format into another: read lazily, written tensor by tensor, read back and compared.

Memory stays at a few copies of the largest tensor. The target gets all files or none: they are written into a scratch
folder inside it, whose name no reader looks for, and moved once every tensor has been verified.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError
from ..checkpoints import FORMATS, is_weight_file, open_checkpoint, size_in_bytes, write_checkpoint
from ..config import config_of
from ..hub import Repository
from ..leaves import computed_weight
from ..parameters import HEADS, LM_HEAD, SHARED, Head, parameters
from .casting import cast
from .fitting import fit, misfit
from .saving import write_folder_atomically
from .stored import DTYPES, NUMPY_NAMES, Stored, row_order
from .weight_files import Asked, find_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..config import PretrainedConfig

logger = logging.getLogger("seq2seq_models")

CAST_TO = ("float32", "float16", "bfloat16")
"""The dtypes that a conversion can cast to."""

_COPIED = (
    "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json",
    "spiece.model", "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip
_NAMED_SETTINGS = "generation_config_for_*.json"
"""What belongs to a checkpoint besides its weights and config.json. A hub repository does not list the latter."""

_MARKER = ".converting"
"""A file in the scratch folder that its conversion holds a lock on: without the lock, that process is gone."""


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        files: all files, in their place.
        tensors: how many were written and compared.
        nbytes: their size.
    """

    files: list[Path]
    tensors: int
    nbytes: int


def convert_checkpoint(
    source: str | os.PathLike[str] | Repository,
    target: str | os.PathLike[str],
    form: str,
    *,
    dtype: str | None = None,
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    progress: Callable[[int, int], object] | None = None,
    committing: Callable[[], object] | None = None,
) -> Conversion:
    """What was written: the checkpoint in another format, its config, generation settings and tokenizer beside it.

    The weights are those that the model's `save_pretrained` would write, under the names of the format's framework.
    Every tensor is read back from the written files; its name, shape, dtype and checksum must be what was meant.

    Args:
        source: repository or folder.
        target: a folder; made if it is not there.
        form: a key of `FORMATS`.
        dtype: one of `CAST_TO`; None keeps the stored ones, except that .h5 has float32 for bfloat16.
        max_shard_size: of one file.
        overwrite: replace the weights that the target holds, of whatever format, instead of refusing.
        revision: branch, tag or commit of the source.
        token: access token.
        progress: called with the bytes that are done (written or compared) and the bytes in all.
        committing: called when all is verified, before the first file is moved into its place.
    Raises:
        CheckpointError: a fault in the words, in the source's files, or in what was written.
        CheckpointNotFoundError: there is no such source, or it has no weights.
        ConfigError: the checkpoint belongs to neither family.
        MissingFrameworkError: .bin without torch, .h5 without h5py.
    """
    folder = Path(target).expanduser()
    _check(form, dtype, max_shard_size, folder, overwrite)
    repository = Repository.from_options(source, {"revision": revision, "token": token})
    config = config_of(repository)
    files = find_weights(repository, Asked.from_options("pt", {}, None), None)
    weights, head = _weights(open_checkpoint(files.paths, files.index, quiet=True), config, str(files.chosen))
    kept = _kept_dtype(weights, form, dtype)
    meant = _Meant(list(_complete(weights, config, head, form, kept)), progress)

    def write(scratch: Path) -> None:
        with _claimed(scratch):
            _copy_others(repository, scratch, kept)
            tensors = FORMATS[form].named(meant.watched(), config, head)
            write_checkpoint(scratch, tensors, form=form, max_shard_size=max_shard_size)
            meant.compare(scratch, form, folder)
        if committing is not None:
            committing()

    _sweep(folder)
    written = write_folder_atomically(folder, write, stale=_is_weights)
    return Conversion(written, len(meant.tensors), meant.nbytes)


def canonical_weights(repository: Repository, config: PretrainedConfig) -> dict[str, Stored]:
    """Every weight of a checkpoint's model by its canonical name, computed tables included, in float32 when read.

    Raises:
        CheckpointError: a fault in the files.
        CheckpointNotFoundError: there are no weights.
    """
    files = find_weights(repository, Asked.from_options("pt", {}, None), None)
    weights, head = _weights(open_checkpoint(files.paths, files.index, quiet=True), config, str(files.chosen))
    return {one.name: one for one in _complete(weights, config, head, "safetensors", "F32")}


# ---- what was asked for


def _check(form: str, dtype: str | None, max_shard_size: int | str, folder: Path, overwrite: bool) -> None:
    """Raises for all that is wrong with the words, before anything is looked for."""
    faults = []
    if form not in FORMATS:
        faults.append(f"`to` must be one of {', '.join(FORMATS)}, got {form!r}. Give one of these.")
    if dtype is not None and dtype not in CAST_TO:
        faults.append(f"`dtype` must be one of {', '.join(CAST_TO)}, got {dtype!r}. Give one of these, or none.")
    elif (form, dtype) == ("h5", "bfloat16"):
        faults.append("`dtype` must be float32 or float16 for h5, which has no bfloat16, got 'bfloat16'. Give another.")
    try:
        size_in_bytes(max_shard_size)
    except CheckpointError as error:
        faults.append(str(error))
    if folder.exists() and not folder.is_dir():
        faults.append(f"`target` must be a folder, got the file {folder}. Give another name.")
    held = sorted(path.name for path in folder.iterdir() if _is_weights(path.name)) if folder.is_dir() else []
    if held and not overwrite:
        faults.append(
            f"`target` must hold no weights, got {', '.join(held[:3])}{', ...' if len(held) > 3 else ''} in {folder}. "
            "Give another folder, or replace them with --force (overwrite=True)."
        )
    if faults:
        raise CheckpointError(" ".join(sorted(faults)))


def _is_weights(name: str) -> bool:
    return any(is_weight_file(name, form=form) for form in FORMATS)


def _kept_dtype(weights: Mapping[str, Stored], form: str, dtype: str | None) -> str | None:
    """The dtype that every weight is cast to; None leaves each as it is."""
    if dtype is not None:
        return DTYPES[dtype]
    if form == "h5" and any(tensor.dtype == "BF16" for tensor in weights.values()):
        logger.warning("tf_model.h5 cannot hold bfloat16: the weights are written as float32")
        return "F32"
    return None


# ---- what is meant to be written


def _weights(stored: Mapping[str, Stored], config: PretrainedConfig, where: str) -> tuple[dict[str, Stored], Head]:
    """The weights of the model that the checkpoint is of, and which of its heads that is."""
    head = _head(config, set(stored))
    fitted = fit(stored, config, parameters(config, head))
    fitted.missing += fitted.new
    fitted.unexpected += fitted.additional  # a file is copied whole or not at all
    fitted.new = []
    if not fitted.is_clean:
        suffix = next(suffix for suffix, one in HEADS.items() if one == head)
        text = misfit(fitted, stored, type(config).__name__.removesuffix("Config") + suffix, config, where)
        text, separator, _ = text.partition(" Check that config.json")
        raise CheckpointError(f"{text} Check that config.json belongs to these weights." if separator else text)
    if fitted.recomputed:
        tables = ", ".join(fitted.recomputed)
        logger.info("%s: %s computed for %d positions", where, tables, config.max_position_embeddings)
    return fitted.weights, head


def _head(config: PretrainedConfig, held: set[str]) -> Head:
    """What config.json calls the model, unless the file holds more than such a model has."""
    named = [head for name in config.architectures or () for suffix, head in HEADS.items() if name.endswith(suffix)]
    if not named and SHARED not in held and not any(name.startswith("model.encoder.") for name in held):
        named = ["causal"]
    if not named and not config.tie_word_embeddings and LM_HEAD not in held:
        named = ["base"]
    heads: tuple[Head, ...] = (*named[:1], "conditional")
    covering = (head for head in heads if held <= {parameter.name for parameter in parameters(config, head)})
    return next(covering, heads[0])


def _complete(
    weights: Mapping[str, Stored], config: PretrainedConfig, head: Head, form: str, dtype: str | None
) -> Iterator[Stored]:
    """Every weight as it is to be written, those included that a checkpoint may lack because they are computed."""
    common = dtype or next((one.dtype for one in weights.values() if one.is_floating), "F32")
    for parameter in parameters(config, head):
        is_computed = parameter.kind == "table" and parameter.optional
        if parameter.tied_to is not None or (is_computed and form == "msgpack"):  # Flax' tree has no such tables
            continue
        tensor = weights.get(parameter.name) or cast(computed_weight(parameter), common)
        yield tensor if dtype is None else cast(tensor, dtype)


@dataclass
class _Meant:
    """The tensors that are to be written, what their bytes sum up to, and how far the work is."""

    tensors: list[Stored]
    progress: Callable[[int, int], object] | None
    checksums: dict[str, int] = field(default_factory=dict)
    done: int = 0

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    def watched(self) -> list[Stored]:
        """The tensors, each of which notes its checksum when it is read."""
        return [replace(tensor, read=self._watched_read(tensor)) for tensor in self.tensors]

    def _watched_read(self, tensor: Stored) -> Callable[[], NDArray[Any]]:
        def read() -> NDArray[Any]:
            import numpy as np

            content = row_order(tensor)
            self.checksums[tensor.name] = zlib.crc32(content)
            self._advance(tensor)
            return np.asarray(content).view(NUMPY_NAMES[tensor.dtype]).reshape(tensor.shape)

        return read

    def _advance(self, tensor: Stored) -> None:
        self.done += tensor.nbytes
        if self.progress is not None:
            self.progress(self.done, 2 * self.nbytes)

    def compare(self, scratch: Path, form: str, target: Path) -> None:
        """Reads everything back.

        Raises:
            CheckpointError: it is not what was meant; all names of it.
        """
        try:
            files = find_weights(Repository(str(scratch)), Asked((form,)), None)
            found = open_checkpoint(files.paths, files.index, quiet=True)
            faults = list(self._faults(found))
        except CheckpointError as error:
            text = str(error).replace(str(scratch), str(target))
            raise CheckpointError(
                f"What was written into {target} must read back, got an error: {text} Nothing was kept. Check the disk."
            ) from error
        if faults:
            shown = "; ".join(faults[:5]) + ("; ..." if len(faults) > 5 else "")
            raise CheckpointError(
                f"What was written into {target} must read back as it was meant, got {len(faults)} differences: "
                f"{shown}. Nothing was kept. Check the disk and convert again."
            )

    def _faults(self, found: Mapping[str, Stored]) -> Iterator[str]:
        meant = {tensor.name: tensor for tensor in self.tensors}
        for name in sorted(set(meant) | set(found)):
            if name not in found or name not in meant:
                yield f"{name} is {'missing' if name in meant else 'not meant to be there'}"
                continue
            one, other = meant[name], found[name]
            if (one.shape, one.dtype) != (other.shape, other.dtype):
                yield f"{name} is {other.dtype} {list(other.shape)}, not {one.dtype} {list(one.shape)}"
                continue
            if zlib.crc32(row_order(other)) != self.checksums.get(name):
                yield f"{name} has another checksum"
            other.release()
            self._advance(other)


# ---- the other files


def _copy_others(repository: Repository, scratch: Path, dtype: str | None) -> None:
    """config.json, with the dtype in it if that changes, the generation settings and the files of the tokenizer."""
    config = repository.require("config.json")
    if dtype is None:
        shutil.copyfile(config, scratch / config.name)
    else:
        table = json.loads(config.read_text(encoding="utf-8"))
        name = next(name for name, one in DTYPES.items() if one == dtype)
        for key in [key for key in ("dtype", "torch_dtype") if key in table] or ["dtype"]:
            table[key] = name
        text = json.dumps(table, indent=2, ensure_ascii=False)
        (scratch / "config.json").write_text(text + "\n", encoding="utf-8")
    for path in _others(repository):
        shutil.copyfile(path, scratch / path.name)


def _others(repository: Repository) -> Iterable[Path]:
    found = [repository.find(name) for name in _COPIED]
    listed = Path(repository.name).expanduser().glob(_NAMED_SETTINGS) if repository.is_local else ()
    return [*(path for path in found if path is not None), *listed]


# ---- what a killed conversion leaves


@contextmanager
def _claimed(scratch: Path) -> Iterator[None]:
    """Marks a scratch folder as one of a conversion that is alive."""
    marker = scratch / _MARKER
    with marker.open("wb") as stream:
        _is_locked(stream)
        yield
    marker.unlink()


def _is_locked(stream: Any) -> bool:
    """Takes the lock on an open file; False if another process has it. Without locks on this system, it is taken."""
    try:
        import fcntl
    except ModuleNotFoundError:
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sweep(target: Path) -> None:
    """Removes the scratch folders of conversions into this folder that were killed before they could do it."""
    for marker in target.glob(f".saving-*/{_MARKER}"):
        with suppress(OSError), marker.open("rb") as stream:
            if _is_locked(stream):
                shutil.rmtree(marker.parent, ignore_errors=True)
