"""Fixtures shared by all tests. No test reaches a real network: the hub is a stand-in on 127.0.0.1 or absent."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .stand_in_hub import StandInHub

QUICK_TO_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
)
"""XLA takes two thirds of its time to optimize programs that then run for a millisecond. `optimized` in
compiled.py repeats a choice of the tests with XLA as it is."""

os.environ.setdefault("XLA_FLAGS", QUICK_TO_COMPILE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that are mostly heavy tests come first: with two processes, one would else end on them alone."""
    tests = Counter(item.path for item in items)
    heavy = Counter(item.path for item in items if "heavy" in item.keywords)
    items.sort(key=lambda item: -heavy[item.path] / tests[item.path])


@pytest.fixture(autouse=True, scope="module")
def nothing_stays_compiled() -> Iterator[None]:
    """JAX keeps what it has compiled for good: several test files in one process would run out of memory maps."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


def point_client_at(endpoint: str, home: Path, monkeypatch: pytest.MonkeyPatch, *, offline: bool = False) -> None:
    """Makes the huggingface_hub client of this process use this hub and this cache; both generations read constants."""
    from huggingface_hub import constants, file_download

    values: dict[str, Any] = {
        "ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": offline,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "AGENT_HARNESSES_PATH": str(home / "agents.json"),
    }
    for name, value in values.items():
        if hasattr(constants, name):
            monkeypatch.setattr(constants, name, value)
    # Generation 0.x keeps its own copy of this one.
    template = values["HUGGINGFACE_CO_URL_TEMPLATE"]
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def environment_for(endpoint: str, home: Path) -> dict[str, str]:
    """The same for a process that a test starts: variables to add to its environment."""
    return {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """A stand-in hub with nothing on it, and an empty cache: `hub.add("google/pegasus-xsum", folder)`."""
    with StandInHub() as running:
        point_client_at(running.endpoint, tmp_path / "hf-home", monkeypatch)
        yield running


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub at all: every connection is refused at once, and the cache is empty."""
    point_client_at("http://127.0.0.1:9", tmp_path / "hf-home", monkeypatch)
