"""What a user meets when the hub, the way to it or the disk fails; the table of docs/hub.md is what is printed here."""

from __future__ import annotations

import errno
import gc
import hashlib
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants

from seq2seq_models.core import hub as loader
from seq2seq_models.core.hub import Repository
from seq2seq_models.core.storage.hub_client import retry_after
from seq2seq_models.errors import CheckpointNotFoundError

from .conftest import environment_for
from .hub_faults import BAD_TOKEN, BIG, FAULTS, FILES, NAME, TOO_MANY, fill_the_disk, load, protect_the_cache
from .stand_in_hub import OTHER_TOKEN, TOKEN, StandInHub, Trouble

# huggingface_hub 2 passes file contents in a way that httpx deprecates.
# Generation 0.x leaves a connection open whose body it gave up.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning", "ignore::ResourceWarning")

PAGE = Path(__file__).parents[1] / "docs" / "hub.md"
CACHE = "~/.cache/huggingface/hub"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Short timeouts and small pieces, and no pauses between attempts: they are noted instead."""
    pauses: list[float] = []
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    monkeypatch.setattr(time, "sleep", pauses.append)
    yield pauses
    gc.collect()  # the connections that are left open go now, where their warnings are ignored


# ---- the table


def as_printed(error: BaseException, hub: StandInHub, tmp_path: Path) -> str:
    """The message, with the addresses, folders and figures of a user in the place of the test's."""
    text = str(error).replace(hub.endpoint, "https://huggingface.co")
    text = text.replace(str(tmp_path / "hf-home" / "hub"), CACHE).replace(str(tmp_path / "hf-home"), CACHE[:-4])
    text = text.replace(str(tmp_path / "file" / "cache"), "/file/cache").replace(" 0.2 s ", " 10 s ")
    return re.sub(r"[\d.,]+ MB", "12.3 MB", text)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_table_says_what_is_printed(
    fault: str, hub: StandInHub, short: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cause = FAULTS[fault]
    wanted = {"monkeypatch": monkeypatch, "tmp_path": tmp_path}
    names = cause.__code__.co_varnames[: cause.__code__.co_argcount]
    with pytest.raises(CheckpointNotFoundError) as caught:
        cause(hub, **{name: value for name, value in wanted.items() if name in names})
    printed = as_printed(caught.value, hub, tmp_path)
    assert not any(token in str(caught.value) for token in (TOKEN, OTHER_TOKEN, BAD_TOKEN)), "no token is printed"
    assert "\n" not in printed
    rows = PAGE.read_text(encoding="utf-8").splitlines()
    assert f"| {fault} | {printed.replace('|', '/')} |" in rows
    monkeypatch.undo()


def test_the_table_has_nothing_else() -> None:
    rows = re.findall(r"^\| ([^|]+) \| .+ \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    table = rows[rows.index("fault") :]
    assert [row for row in table if set(row) - set("- ")][1 : len(FAULTS) + 1] == list(FAULTS)


# ---- tokens


def sent(hub: StandInHub) -> set[str | None]:
    """The tokens that came with requests about repositories."""
    return {token for line, token in zip(hub.requests, hub.tokens, strict=True) if "agent-harnesses" not in line}


def test_argument_before_environment_before_login(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, FILES, private=True)
    file = Path(constants.HF_TOKEN_PATH)
    file.parent.mkdir(parents=True)
    file.write_text(TOKEN + "\n")
    load()
    assert sent(hub) == {TOKEN}, "a login serves"

    hub.tokens.clear(), hub.requests.clear()
    monkeypatch.setenv("HF_TOKEN", OTHER_TOKEN)
    with pytest.raises(CheckpointNotFoundError, match="with the token in the environment variable HF_TOKEN"):
        load(force_download=True)
    assert sent(hub) == {OTHER_TOKEN}, "the environment comes before the login"

    hub.tokens.clear(), hub.requests.clear()
    load(force_download=True, token=TOKEN)
    assert sent(hub) == {TOKEN}, "the argument comes before the environment"

    hub.tokens.clear(), hub.requests.clear()
    with pytest.raises(CheckpointNotFoundError, match="no token was sent"):
        load(force_download=True, token=False)
    assert sent(hub) == {None}, "False sends none"


def test_a_login_of_the_client_is_enough(hub: StandInHub, tmp_path: Path) -> None:
    """In a process of its own, as a user would: log in, then load."""
    hub.add(NAME, FILES, gated=True)
    script = (
        "import sys; from huggingface_hub import login; login(token=sys.argv[1])\n"
        "from seq2seq_models.core.hub import Repository\n"
        "print(Repository(sys.argv[2]).require('config.json').read_text())\n"
    )
    environment = {**os.environ, **environment_for(hub.endpoint, tmp_path / "home")}
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", script, TOKEN, NAME], env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.stdout.splitlines()[-1:] == [FILES["config.json"].decode()], done.stderr
    assert (tmp_path / "home" / "token").read_text() == TOKEN


@pytest.mark.parametrize("methods", [("HEAD", "GET"), ("GET",)])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_no_token_goes_to_another_host(hub: StandInHub, host: str, methods: tuple[str, ...]) -> None:
    """Also not to another port of the same host, which another program may have opened."""
    hub.add(NAME, FILES, private=True)
    with StandInHub() as storage:
        hub.keep_bodies_on(storage, host, methods)
        path = Repository(NAME, token=TOKEN).require("model.safetensors")
        assert path.read_bytes() == BIG
        assert storage.count("GET", "/stored/") == 1, "the body came from there"
        assert set(storage.tokens) == {None}
        assert sent(hub) == {TOKEN}


def test_no_token_goes_where_a_repository_seems_to_have_moved(hub: StandInHub) -> None:
    with StandInHub() as stranger:
        stranger.add(NAME, FILES)
        hub.moved[NAME] = stranger.endpoint.replace("127.0.0.1", "localhost") + f"/{NAME}"
        with pytest.raises(CheckpointNotFoundError, match="answers without the headers of a hub"):
            load(token=TOKEN)
        assert TOKEN not in stranger.tokens
        assert sent(hub) == {TOKEN}


# ---- a hub that is busy, and bodies that do not arrive


def test_retry_after_is_waited_for_when_nothing_is_cached(
    hub: StandInHub, short: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    hub.add(NAME, FILES)
    hub.trouble[NAME] = Trouble(429, None, TOO_MANY, retry_after=7, refusals=2)
    with caplog.at_level(logging.WARNING, logger="seq2seq_models"):
        load()
    assert short == [7, 7]
    assert [record.getMessage() for record in caplog.records] == [
        f"{NAME}: {hub.endpoint} asks to wait 7 s, so we do"
    ] * 2


def test_retry_after_of_a_body(hub: StandInHub, short: list[float]) -> None:
    hub.add(NAME, FILES)
    hub.trouble[NAME] = Trouble(429, None, TOO_MANY, retry_after=4, refusals=1, only=("GET",))
    load()
    assert short in ([4], [5]), "generation 2 of the client waits itself, a second longer"


def test_patience_has_an_end(hub: StandInHub, short: list[float]) -> None:
    hub.add(NAME, FILES)
    hub.trouble[NAME] = Trouble(429, None, TOO_MANY, retry_after=25)
    with pytest.raises(CheckpointNotFoundError, match=r"limiting requests \(429\), and asks to wait 25 s"):
        load()
    assert short == [25, 25]
    assert sum(short) <= loader.PATIENCE_SECONDS
    assert hub.count("HEAD") == 3


def test_retry_after_as_a_date() -> None:
    class Answer:
        status_code = 429

        def __init__(self, value: str) -> None:
            self.headers = {"Retry-After": value}

    later = retry_after(Answer(formatdate(time.time() + 30, usegmt=True)))
    assert later is not None and 25 < later <= 30
    assert retry_after(Answer(formatdate(time.time() - 30, usegmt=True))) == 0
    assert retry_after(Answer("12")) == 12
    assert retry_after(Answer("soon")) is None
    assert retry_after(Answer("")) is None


def test_a_body_that_pauses_is_gone_on_with(hub: StandInHub, short: list[float]) -> None:
    hub.add(NAME, FILES)
    hub.trouble[NAME] = Trouble(stall_after=700_000, times=1)
    assert Repository(NAME).require("model.safetensors").read_bytes() == BIG
    assert [int(one.removeprefix("bytes=").partition("-")[0]) > 0 for one in hub.ranges] == [True]


def test_a_body_that_breaks_off_is_gone_on_with(hub: StandInHub, short: list[float]) -> None:
    """Within one load, whatever the generation of the client."""
    hub.add(NAME, FILES)
    hub.trouble[NAME] = Trouble(break_after=300_000, times=3)
    assert Repository(NAME).require("model.safetensors").read_bytes() == BIG
    starts = [int(one.removeprefix("bytes=").partition("-")[0]) for one in hub.ranges]
    assert len(starts) == 3
    assert starts == sorted(starts) and starts[0] > 0, "each attempt asked for the rest only"


def test_a_length_that_is_wrong_once_is_mended_by_force_download(hub: StandInHub, short: list[float]) -> None:
    hub.add(NAME, FILES)
    hub.trouble[NAME] = Trouble(grow=7, times=1)
    with pytest.raises(CheckpointNotFoundError, match="force_download=True"):
        load()
    assert Repository(NAME, local_files_only=True).find("model.safetensors") is None
    load(force_download=True)
    assert Repository(NAME, local_files_only=True).require("model.safetensors").read_bytes() == BIG


# ---- two at once, and disks


def partial(cache: Path) -> list[str]:
    return [path.name for path in cache.rglob("*.incomplete")]


@pytest.fixture
def at_once() -> Iterator[Callable[..., list[str]]]:
    """Runs a script in two processes at the same time; gives what they print."""
    running: list[subprocess.Popen[str]] = []

    def run(script: str, environment: dict[str, str]) -> list[str]:
        for _ in range(2):
            command = [sys.executable, "-c", script]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            running.append(subprocess.Popen(command, env={**os.environ, **environment}, text=True, **pipes))
        results = [process.communicate(timeout=100) for process in running]
        assert [process.returncode for process in running] == [0, 0], results
        return [out for out, _ in results]

    yield run
    for process in running:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_two_processes_at_once(
    hub: StandInHub, tmp_path: Path, at_once: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, FILES)
    # The first body stands still until both have asked for the file, so that the second comes upon it half-way.

    def both() -> bool:
        return hub.count("HEAD", "model.safetensors") >= 2

    hub.trouble[NAME] = Trouble(stall_after=1_000_000, times=1, until=both)
    script = (
        "import hashlib\n"
        "from seq2seq_models.core.hub import Repository\n"
        "from seq2seq_models.core.checkpoints import open_checkpoint\n"
        f"found = Repository({NAME!r})\n"
        "found.require('config.json')\n"
        "values = open_checkpoint([found.require('model.safetensors')])['values'].read()\n"
        "print(hashlib.sha256(values.tobytes()).hexdigest())\n"
    )
    printed = at_once(script, environment_for(hub.endpoint, tmp_path / "hf-home"))
    values = np.arange(1 << 19, dtype=np.float32).tobytes()
    assert printed == [hashlib.sha256(values).hexdigest() + "\n"] * 2
    assert both()
    assert hub.count("GET", "model.safetensors") == 1, "the second waited for the first"
    cache = tmp_path / "hf-home" / "hub"
    assert partial(cache) == []
    assert len([path for path in cache.rglob("blobs/*") if path.is_file()]) == 2
    assert Repository(NAME, local_files_only=True).require("model.safetensors").read_bytes() == BIG


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_what_a_full_disk_leaves_is_no_checkpoint(
    hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: list[float], code: int
) -> None:
    hub.add(NAME, FILES)
    with monkeypatch.context() as while_full:
        fill_the_disk(while_full, code)
        with pytest.raises(CheckpointNotFoundError, match=r"the disk of the cache is full \(.*MB are free\)") as caught:
            load()
        assert str(tmp_path / "hf-home" / "hub") in str(caught.value)
        assert hub.count("GET", "model.safetensors") == 1, "it is not tried again and again"
    here = Repository(NAME, local_files_only=True)
    assert here.find("model.safetensors") is None
    load()
    assert here.require("model.safetensors").read_bytes() == BIG
    assert partial(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_cache_serves_what_it_has(hub: StandInHub, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    hub.add(NAME, FILES)
    load(file="config.json")
    protect_the_cache(monkeypatch, code)
    load(file="config.json")
    assert Repository(NAME).find("generation_config.json") is None, "what the hub does not have needs no room"
    hub.add(NAME, {**FILES, "config.json": b"{}"})
    with pytest.raises(CheckpointNotFoundError, match=rf"cannot be written to \({os.strerror(code)}\)"):
        load(file="config.json")


def test_a_cache_that_cannot_be_read(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, FILES)
    load(file="config.json")

    def refused(path: Any) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "listdir", refused)
    with pytest.raises(CheckpointNotFoundError, match=r"cannot be read for google/pegasus-xsum \(Permission denied\)"):
        load(file="config.json")
