"""Which files of a repository the weights are read from: the formats that are wanted, the best first."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, CheckpointNotFoundError
from ..checkpoints import FORMATS, OWN_FORMAT, read_index, with_variant
from ..hub import Repository
from .load_options import FROM_KEYS

logger = logging.getLogger("seq2seq_models")


@dataclass(frozen=True)
class Asked:
    """The formats that a load may read.

    Attributes:
        forms: keys of `FORMATS`, the best first.
        because: the keywords that left others out.
    """

    forms: tuple[str, ...]
    because: tuple[str, ...] = ()

    @classmethod
    def from_options(cls, framework: str, options: dict[str, Any], use_safetensors: bool | None) -> Asked:
        """What the keywords of a `from_pretrained` ask for; takes `from_pt`, `from_tf`, `from_flax` out of `options`.

        One that names the class's own framework asks for nothing.

        Args:
            framework: "pt", "tf" or "flax".
            options: keywords, at most one of these three true.
            use_safetensors: True for nothing else, False for all others.
        Raises:
            CheckpointError: the keywords leave no format.
        """
        given = {key: bool(options.pop(key, False)) for key in FROM_KEYS}
        forms, because = list(_by_preference(framework)), []
        for key, source in FROM_KEYS.items():
            if given[key] and source != framework:
                wanted = ("safetensors", "bin") if source == "pt" else (OWN_FORMAT[source],)
                forms, because = [form for form in forms if form in wanted], [key]
        if use_safetensors is not None:
            forms = [form for form in forms if (form == "safetensors") == use_safetensors]
            because.append("use_safetensors")
        if not forms:
            raise CheckpointError(
                f"`use_safetensors` must be left out with `{because[0]}`, got {use_safetensors}: together they leave "
                "no format to read. Leave one of them out."
            )
        return cls(tuple(forms), tuple(because))


def _by_preference(framework: str) -> Iterator[str]:
    """safetensors, the framework's own format, then the others; last those that cannot be read here."""
    own = OWN_FORMAT[framework]
    others = [form for form in FORMATS if form not in ("safetensors", own)]
    yield from ("safetensors", own, *sorted(others, key=lambda form: not _is_readable(form)))


def _is_readable(form: str) -> bool:
    needs = FORMATS[form].needs
    return needs is None or find_spec(needs) is not None


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of a repository: the one that was chosen, and all that it stands for."""

    chosen: Path
    paths: list[Path]
    index: dict[str, str] | None = None


def find_weights(repository: Repository, asked: Asked, variant: str | None) -> WeightFiles:
    """The weight files of a repository, on this disk.

    Raises:
        CheckpointNotFoundError: it has none in the formats that are asked for.
    """
    for form in asked.forms:
        file = repository.find(with_variant(FORMATS[form].whole, variant))
        if file is not None:
            _log_choice(repository, file, variant)
            return WeightFiles(file, [file])
        table = repository.find(with_variant(FORMATS[form].index, variant))
        if table is not None:
            _log_choice(repository, table, variant)
            shards = read_index(table)
            return WeightFiles(table, [repository.require(shard) for shard in sorted(set(shards.values()))], shards)
    raise _no_weights(repository, asked, variant)


def _names(forms: tuple[str, ...], variant: str | None) -> list[str]:
    both = [name for form in forms for name in (FORMATS[form].whole, FORMATS[form].index)]
    return [with_variant(name, variant) for name in both]


def _present(repository: Repository, variant: str | None) -> list[str]:
    """The weight files and indexes of a folder; on the hub, asking what there is would cost downloads."""
    if not repository.is_local:
        return []
    return [name for name in _names(tuple(FORMATS), variant) if repository.find(name) is not None]


def _log_choice(repository: Repository, chosen: Path, variant: str | None) -> None:
    others = [name for name in _present(repository, variant) if name != chosen.name]
    if others:
        logger.info("%s holds weights in several formats: read %s, not %s", repository, chosen.name, ", ".join(others))


def _no_weights(repository: Repository, asked: Asked, variant: str | None) -> CheckpointNotFoundError:
    error = repository.missing(*_names(asked.forms, variant))
    keywords = " and ".join(f"`{key}`" for key in asked.because)
    others = _present(repository, variant)
    if others:
        return CheckpointNotFoundError(f"{error} It has {', '.join(others)}: leave out {keywords}.")
    if keywords and not repository.is_local:
        return CheckpointNotFoundError(f"{error} Other formats were not looked for, because of {keywords}.")
    if variant is not None and _present(repository, None):
        return CheckpointNotFoundError(f"{error} It has weights without a variant: leave out `variant`.")
    return error
