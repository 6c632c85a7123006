"""What a checkpoint holds, told from its config and the headers of its files: no weight is read, none is downloaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError, CheckpointNotFoundError
from ..checkpoints import FORMATS, open_checkpoint, read_index
from ..config import config_of
from ..hub import Repository
from ..parameters import HEADS, Head, parameters, several
from .fitting import fit
from .stored import DTYPE_NAMES, Stored

if TYPE_CHECKING:
    from ..config import PretrainedConfig

_NOT_TOLD = ("transformers_version", "_name_or_path", "architectures", "id2label", "label2id", "task_specific_params")


@dataclass(frozen=True)
class Tensors:
    """Tensors of one shape and dtype whose names differ in the layer only.

    Attributes:
        name: canonical name, "*" for the layer where there are several.
        shape: in PyTorch's order.
        dtype: such as "float32".
        count: how many.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    count: int


@dataclass(frozen=True)
class CheckpointReport:
    """What `seq2seq-models info` shows.

    Attributes:
        name: where the checkpoint is.
        model_type: "pegasus" or "blenderbot-small".
        parameters: weights of the model that the config describes, tied ones counted once.
        config: config.json as it is read, defaults left out.
        generation: the checkpoint's own generation settings.
        files: size in bytes of every file; None where the hub does not say.
        weights: the files that hold weights and are on this disk; empty if they would have to be downloaded.
        tensors: what they hold.
        classes: for each class of the family what would not fit, by kind: "missing", "unexpected", "mismatched", "new"
            (of a head, to be trained), "unequal" (copies of one weight that differ). Empty if it would load.
    """

    name: str
    model_type: str
    parameters: int
    config: dict[str, Any]
    generation: dict[str, Any]
    files: dict[str, int | None]
    weights: list[str] = field(default_factory=list)
    tensors: list[Tensors] = field(default_factory=list)
    classes: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        return asdict(self)

    def as_text(self) -> str:
        """The report as a person reads it."""
        lines = [f"{self.name}: {self.model_type}, {self.parameters:,} parameters", "", "files"]
        lines += _columns((name, "" if size is None else _bytes(size)) for name, size in sorted(self.files.items()))
        lines += ["", "config", *_columns((key, str(value)) for key, value in self.config.items())]
        lines += ["", "generation", *_columns((key, str(value)) for key, value in self.generation.items())]
        lines += ["", "weights" + (f" in {', '.join(self.weights)}" if self.weights else " are not on this disk")]
        lines += _columns(
            (one.name, one.dtype, str(list(one.shape)), f"x {one.count}" if one.count > 1 else "")
            for one in self.tensors
        )
        if self.classes:
            lines += ["", "classes", *_columns((name, _judgement(faults)) for name, faults in self.classes.items())]
        return "\n".join(lines)


def describe_checkpoint(
    name: str | Path, revision: str | None = None, token: str | bool | None = None
) -> CheckpointReport:
    """What the checkpoint in a folder or a repository of the hub holds.

    Of a repository, config.json and generation_config.json are fetched; weights only count if they are in the cache.

    Args:
        name: repository or folder.
        revision: branch, tag or commit.
        token: access token.

    Raises:
        CheckpointNotFoundError: there is no such folder, repository or config.json.
        ConfigError: the checkpoint belongs to neither family.
    """
    from ..generation_config import GenerationConfig

    repository = Repository.from_options(name, {"revision": revision, "token": token})
    config = config_of(repository)
    try:
        generation = GenerationConfig.from_pretrained(repository)
    except CheckpointNotFoundError:
        generation = GenerationConfig.from_model_config(config)
    files, stored = _stored(repository, revision, token)
    told = config.to_diff_dict()
    return CheckpointReport(
        name=str(name),
        model_type=config.model_type,
        parameters=sum(prod(one.shape) for one in parameters(config) if one.tied_to is None and one.trainable),
        config={key: value for key, value in told.items() if key not in _NOT_TOLD},
        generation={key: value for key, value in generation.to_diff_dict().items() if key not in _NOT_TOLD},
        files=_files(repository, revision, token),
        weights=[file.name for file in files],
        tensors=_folded(stored.values()),
        classes=_classes(stored, config) if stored else {},
    )


def _classes(stored: Mapping[str, Stored], config: PretrainedConfig) -> dict[str, dict[str, list[str]]]:
    """What would not fit each class of the family."""
    family = type(config).__name__.removesuffix("Config")
    return {family + suffix: _faults(stored, config, head) for suffix, head in HEADS.items()}


def _faults(stored: Mapping[str, Stored], config: PretrainedConfig, head: Head) -> dict[str, list[str]]:
    try:
        fitted = fit(stored, config, parameters(config, head))
    except CheckpointError as error:
        return {"unequal": [str(error)]}
    wrong = [f"{name} {list(found)} instead of {list(wanted)}" for name, found, wanted in fitted.mismatched]
    kinds = {
        "missing": fitted.missing,
        "unexpected": fitted.unexpected,
        "mismatched": wrong,
        "new": fitted.new,
        "additional": fitted.additional,
    }
    return {kind: sorted(names) for kind, names in kinds.items() if names}


def _judgement(faults: dict[str, list[str]]) -> str:
    """What would not fit, the first three names of each kind."""
    if not faults:
        return "loads"
    return "; ".join(f"{kind}: {several(names)}" for kind, names in faults.items())


def _stored(
    repository: Repository, revision: str | None, token: str | bool | None
) -> tuple[list[Path], Mapping[str, Stored]]:
    """The weight files on this disk and the tensors in them, unread."""
    here = repository
    if not repository.is_local:
        here = Repository(repository.name, revision=revision, token=token, local_files_only=True)
    for name in (name for form in FORMATS.values() for name in (form.whole, form.index)):
        path = here.find(name)
        if path is None:
            continue
        if not name.endswith(".index.json"):
            return [path], open_checkpoint([path])
        index = read_index(path)
        shards = [here.find(shard) for shard in sorted(set(index.values()))]
        found = [shard for shard in shards if shard is not None]
        if len(found) == len(shards):
            return found, open_checkpoint(found, index)
    return [], {}


def _files(repository: Repository, revision: str | None, token: str | bool | None) -> dict[str, int | None]:
    """Every file and its size: of the folder, or as the hub lists them; without the hub, those that are cached."""
    if repository.is_local:
        folder = Path(repository.name).expanduser()
        return {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        listed = HfApi().model_info(repository.name, revision=revision, token=token, files_metadata=True).siblings
        return {one.rfilename: one.size for one in listed or ()}
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
        config = repository.require("config.json")
        return {path.name: path.stat().st_size for path in config.parent.iterdir() if path.is_file()}


def _folded(tensors: Iterable[Stored]) -> list[Tensors]:
    """The layers of a stack as one line each."""
    counts: dict[tuple[str, tuple[int, ...], str], list[str]] = {}
    for one in tensors:
        key = (re.sub(r"\.layers\.\d+\.", ".layers.*.", one.name), one.shape, DTYPE_NAMES.get(one.dtype, one.dtype))
        counts.setdefault(key, []).append(one.name)
    return [
        Tensors(name if len(names) > 1 else names[0], shape, dtype, len(names))
        for (name, shape, dtype), names in sorted(counts.items())
    ]


def _columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in table]


def _bytes(size: int) -> str:
    amount = float(size)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.2f} GB"
