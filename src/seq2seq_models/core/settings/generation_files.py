"""The named generation settings of a repository: one file a task, or `task_specific_params` of its config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import GenerationError
from ..hub import Repository
from .config_values import CONFIG_NAME, read_json
from .generation_options import OPTIONS

_BEFORE, _AFTER = "generation_config_for_", ".json"


def task_values(repository: Repository, task: str) -> tuple[dict[str, Any], str]:
    """The generation options of a task and where they stand.

    Args:
        repository: where to look.
        task: full name of the task, or its end where only one ends so.
    Raises:
        GenerationError: the repository has no such task; the message lists those it has.
    """
    params = _task_params(repository)
    names = sorted({*params, *_task_files(repository)})
    found = [name for name in names if name == task] or [name for name in names if name.endswith(f"_{task}")]
    # A hub repository does not list its files, so a name that config.json does not know is still tried as a file.
    name = found[0] if len(found) == 1 else task
    file = f"{_BEFORE}{name}{_AFTER}"
    path = repository.find(file) if len(found) < 2 else None
    if path is not None:
        return _options(read_json(path)), file
    if name not in params:
        offered = f"one of {', '.join(names)}" if names else "left out: the repository has no named tasks"
        raise GenerationError(f"`task` must be {offered}, got {task!r} ({repository}). Pass one of the names.")
    return _options(params[name]), f"task_specific_params of {CONFIG_NAME}"


def _task_params(repository: Repository) -> dict[str, dict[str, Any]]:
    path = repository.find(CONFIG_NAME)
    params = read_json(path).get("task_specific_params") if path is not None else None
    return {name: values for name, values in (params or {}).items() if isinstance(values, dict)}


def _task_files(repository: Repository) -> list[str]:
    if not repository.is_local:
        return []
    folder = Path(repository.name).expanduser() / repository.subfolder
    return [path.name[len(_BEFORE) : -len(_AFTER)] for path in folder.glob(f"{_BEFORE}*{_AFTER}")]


def _options(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in OPTIONS and value is not None}


def for_json(value: Any) -> Any:
    """The value as JSON can hold it: token ids that are keys become pairs, objects become dictionaries."""
    if isinstance(value, dict):
        if any(isinstance(key, tuple) for key in value):
            return [[list(key), for_json(one)] for key, one in value.items()]
        return {str(key): for_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [for_json(one) for one in value]
    return value.to_dict() if hasattr(value, "to_dict") else value
