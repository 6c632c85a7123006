"""Each way in which a load or a push can fail, as a function that brings it about. docs/hub.md is the table of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save

from seq2seq_models import PegasusConfig
from seq2seq_models.core.hub import Repository
from seq2seq_models.errors import CheckpointNotFoundError

from .stand_in_hub import OTHER_TOKEN, TOKEN, StandInHub, Trouble

NAME = "google/pegasus-xsum"
BIG = save({"values": np.arange(1 << 19, dtype=np.float32)})  # 2 MiB, stored as the hub stores large files
FILES = {"config.json": b'{"model_type": "pegasus"}', "model.safetensors": BIG}
BAD_TOKEN = "hf_" + "c" * 34


class FullDisk:
    """A file on a disk that takes no more than some bytes."""

    room = 500_000

    def __init__(self, file: Any, code: int) -> None:
        self.file, self.code, self.left = file, code, self.room

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> int:
        self.left -= len(content)
        if self.left < 0:
            raise OSError(self.code, os.strerror(self.code))
        return int(self.file.write(content))


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, code: int = errno.ENOSPC) -> None:
    """From here on, what the client downloads meets this error of the system after some bytes."""
    really_open = Path.open

    def opened(self: Path, *args: Any, **options: Any) -> Any:
        file = really_open(self, *args, **options)
        return FullDisk(file, code) if self.name.endswith(".incomplete") else file

    monkeypatch.setattr(Path, "open", opened)


def protect_the_cache(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """From here on no folder can be made in the cache, as on a file system that is mounted read-only."""

    def refused(path: Any, *_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "makedirs", refused)


def load(name: str = NAME, file: str = "model.safetensors", **options: Any) -> None:
    Repository(name, **options).require(file)


def gated(hub: StandInHub, **options: Any) -> None:
    hub.add(NAME, FILES, gated=True)
    load(**options)


def private(hub: StandInHub, **options: Any) -> None:
    hub.add(NAME, FILES, private=True)
    load(**options)


def troubled(hub: StandInHub, trouble: Trouble, everywhere: bool = False, **options: Any) -> None:
    hub.add(NAME, FILES)
    hub.trouble["*" if everywhere else NAME] = trouble
    load(**options)


def with_bad_variable(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", BAD_TOKEN)
    troubled(hub, Trouble())


def with_bad_login(hub: StandInHub) -> None:
    Path(constants.HF_TOKEN_PATH).parent.mkdir(parents=True, exist_ok=True)
    Path(constants.HF_TOKEN_PATH).write_text(BAD_TOKEN)
    troubled(hub, Trouble())


def gone(hub: StandInHub) -> None:
    hub.close()
    load()


def not_a_hub(hub: StandInHub) -> None:
    with StandInHub() as other:
        hub.moved[NAME] = f"{other.endpoint}/login"
        load()


def storage_refuses(hub: StandInHub) -> None:
    with StandInHub() as other:
        hub.keep_bodies_on(other, "127.0.0.1")
        other.trouble["*"] = Trouble(403)
        try:
            troubled(hub, Trouble(), token=TOKEN)
        except CheckpointNotFoundError as error:
            raise CheckpointNotFoundError(str(error).replace(other.endpoint, "https://cdn.example")) from None


def full(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_the_disk(monkeypatch)
    troubled(hub, Trouble())


def read_only(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    protect_the_cache(monkeypatch, errno.EROFS)
    troubled(hub, Trouble())


def below_a_file(hub: StandInHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    troubled(hub, Trouble(), cache_dir=str(tmp_path / "file" / "cache"))


def offline(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    troubled(hub, Trouble())


def push(hub: StandInHub, token: str | None, trouble: Trouble | None = None) -> None:
    if trouble is not None:
        hub.add("me/mine", {})
        hub.trouble["me/mine"] = trouble
    PegasusConfig().push_to_hub("me/mine", token=token)


def push_into_nothing(hub: StandInHub) -> None:
    hub.close()
    push(hub, TOKEN)


TOO_MANY = "You have sent too many requests"
FAULTS: dict[str, Callable[..., None]] = {
    "401, 404: no such repository, or a private one without a token": private,
    "404: a private repository, with a token of another account": lambda hub: private(hub, token=OTHER_TOKEN),
    "401: a gated repository, without a token": gated,
    "403: a gated repository, with the token of an account that has no access": lambda hub: gated(
        hub, token=OTHER_TOKEN
    ),
    "401: an invalid token, as `token`": lambda hub: troubled(hub, Trouble(), token=BAD_TOKEN),
    "401: an invalid token in `HF_TOKEN`": with_bad_variable,
    "401: an invalid token of a login": with_bad_login,
    "`token=True` without a login": lambda hub: troubled(hub, Trouble(), token=True),
    "403: a token without the right to read": lambda hub: troubled(
        hub, Trouble(403, None, "This token lacks the scope repo.content.read"), token=OTHER_TOKEN
    ),
    "403, without a token": lambda hub: troubled(hub, Trouble(403, None, "Not for everyone")),
    "404: no such branch, tag or commit": lambda hub: troubled(hub, Trouble(), revision="v9"),
    "404: no such file": lambda hub: troubled(hub, Trouble(), file="vocab.json"),
    "429 with a long Retry-After": lambda hub: troubled(hub, Trouble(429, None, TOO_MANY, retry_after=300)),
    "429 without Retry-After": lambda hub: troubled(hub, Trouble(429, None, TOO_MANY)),
    "5xx": lambda hub: troubled(hub, Trouble(503)),
    "5xx for a body": lambda hub: troubled(hub, Trouble(503, only=("GET",))),
    "no connection": gone,
    "no answer in time": lambda hub: troubled(hub, Trouble(silent=True), everywhere=True),
    "a proxy or login page answers in the hub's place": not_a_hub,
    "offline mode, and not in the cache": offline,
    "`local_files_only`, and not in the cache": lambda hub: troubled(hub, Trouble(), local_files_only=True),
    "`force_download` without a connection": lambda hub: troubled(hub, Trouble(503), force_download=True),
    "a body that stops coming": lambda hub: troubled(hub, Trouble(stall_after=0, times=99)),
    "a body that breaks off every time": lambda hub: troubled(hub, Trouble(break_after=0, times=99)),
    "a body of another length": lambda hub: troubled(hub, Trouble(grow=7, times=99)),
    "the storage host that the hub points to refuses": storage_refuses,
    "a full disk": full,
    "a read-only cache": read_only,
    "a cache folder that is below a file": below_a_file,
    "push: no token": lambda hub: push(hub, None),
    "push: an invalid token": lambda hub: push(hub, BAD_TOKEN),
    "push: no right to write": lambda hub: push(hub, TOKEN, Trouble(403, None, "You have no right to write")),
    "push: 5xx": lambda hub: push(hub, TOKEN, Trouble(503)),
    "push: no connection": push_into_nothing,
}
