"""examples/summarize_folder.py on two workers: killed workers and a killed driver lose nothing and change nothing.

One story for the whole file, since Ray takes seconds to start: a first run, on a Ray of its own, is killed midway; a
second one, on a cluster that was there before, does the rest while both of its workers are killed.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

import seq2seq_models
from seq2seq_models import pipeline

pytestmark = pytest.mark.heavy
EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPT = EXAMPLES / "summarize_folder.py"
OPTIONS = {"min_length": 40, "max_length": 64}
"""Long summaries, so that there is a midway."""
BROKEN = {"empty.txt": "ValueError: there is no text", "lines.jsonl:3": "ValueError: there is no text"}


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The example as a module, and what it imports from its own folder."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        import summarize_folder

        yield summarize_folder
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def texts(script: ModuleType) -> dict[str, str]:
    """Documents by name, one of them longer than the model reads at once."""
    from demo_reports import reports

    found = [one.text for one in islice(reports(11), 90)]
    names = [f"{number % 3}/{number}.txt" for number in range(60)]
    names += [f"lines.jsonl:{number}" for number in range(1, 14) if number not in (3, 7)]
    return {**dict(zip(names, found, strict=False)), "long.txt": " ".join(found[71:])}


@pytest.fixture(scope="module")
def folder(texts: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as files, with an empty one, one that is no UTF-8, and a line without a text."""
    folder = tmp_path_factory.mktemp("documents")
    lines = ["" if number == 7 else json.dumps({"other": 1}) for number in range(1, 14)]
    for name, text in texts.items():
        if name.endswith(".txt"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        else:
            lines[int(name.partition(":")[2]) - 1] = json.dumps({"text": text, "id": name})
    (folder / "lines.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "empty.txt").write_text(" \n")
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    (folder / "notes.md").write_text("no document")
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """For processes with Ray: its files go to a folder of their own, whose name sockets can bear, and then away."""
    place = Path(tempfile.mkdtemp(prefix="ray-"))
    own = {"HOME": str(place), "RAY_TMPDIR": str(place), "OMP_NUM_THREADS": "1"}
    yield {**os.environ, **own, "PYTHONPATH": str(Path(seq2seq_models.__file__).parents[1])}
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def started() -> Iterator[list[psutil.Process]]:
    """Processes of Ray to end when all is over: its agents outlive a killed driver by a minute."""
    found: list[psutil.Process] = []
    yield found
    for process in living(found, 0):
        process.kill()


@dataclass
class Story:
    """What happened: the parts after the first run was killed, and how the second one went."""

    out: Path
    first: dict[str, int]
    left: list[psutil.Process]
    killed: set[int]
    seen: set[int]
    said: str


def parts(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}


def wait_for(condition: Callable[[], Any], running: subprocess.Popen[str], what: str) -> Any:
    """What the condition gives as soon as it holds, while the process runs."""
    deadline = time.monotonic() + 90
    while not (found := condition()):
        assert running.poll() is None, f"ended before {what}: {running.communicate()}"
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.005)
    return found


def living(processes: Iterable[psutil.Process], seconds: float = 30) -> list[psutil.Process]:
    """Those that still live after a while; the dead whom nobody has asked about are dead."""
    deadline = time.monotonic() + seconds
    while found := [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return found


def workers(of: int) -> dict[int, psutil.Process]:
    """The processes below this one that hold a model."""
    found = {}
    for process in psutil.Process(of).children(recursive=True):
        try:
            if (
                process.cmdline()[:1]
                and process.cmdline()[0].startswith("ray::")
                and "Summarizer" in process.cmdline()[0]
            ):
                found[process.pid] = process
        except psutil.Error:
            continue
    return found


def start(folder: Path, out: Path, environment: dict[str, str], *more: str) -> subprocess.Popen[str]:
    options = ["--workers", "2", "--part-size", "4", "--batch-size", "3", "--options", json.dumps(OPTIONS), *more]
    command = [sys.executable, str(SCRIPT), str(folder), str(out), *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def cluster(environment: dict[str, str], started: list[psutil.Process]) -> Iterator[tuple[str, int]]:
    """A Ray cluster of one host, as `ray start --head` makes it: its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
    command += ["--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false", "--disable-usage-stats"]
    command += [f"--temp-dir={environment['RAY_TMPDIR']}/cluster"]
    log = Path(environment["RAY_TMPDIR"]) / "cluster.log"
    with log.open("w") as said:
        running = subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT, text=True)
        wait_for(lambda: "Ray runtime started" in log.read_text(), running, "cluster")
        yield f"127.0.0.1:{port}", running.pid
        # Asked to end, it would wait half a minute for work to drain.
        started += psutil.Process(running.pid).children(recursive=True)
        running.kill()
        running.wait()


@pytest.fixture(scope="module")
def story(
    folder: Path,
    environment: dict[str, str],
    cluster: tuple[str, int],
    started: list[psutil.Process],
    tmp_path_factory: pytest.TempPathFactory,
) -> Story:
    out = tmp_path_factory.mktemp("results") / "summaries"
    running = start(folder, out, environment)
    wait_for(lambda: len(parts(out)) >= 3, running, "parts")
    started += psutil.Process(running.pid).children(recursive=True)
    holders = workers(running.pid)
    assert len(holders) == 2
    running.kill()
    running.communicate()
    left = living(holders.values())
    first = parts(out)
    (out / ".part-0.parquet.0").write_text("what a killed worker had begun")

    address, head = cluster
    running = start(folder, out, environment, "--address", address)
    both = wait_for(lambda: len(found := workers(head)) == 2 and found, running, "workers")
    for count, victim in zip((1, 4), both.values(), strict=True):
        wait_for(lambda count=count: len(parts(out)) >= len(first) + count, running, "parts")
        victim.kill()
    done = len(parts(out))
    seen = set()
    while running.poll() is None:
        seen |= set(workers(head))
        time.sleep(0.05)
    said = running.communicate()[0]
    assert running.returncode == 0, said
    assert done < len(parts(out)) - 2, "the workers must die midway"
    return Story(out, first, left, set(both), seen, said)


def test_a_killed_driver_leaves_parts_and_no_workers(story: Story) -> None:
    assert 3 <= len(story.first) < 15
    assert story.left == []


def test_the_next_run_keeps_them_and_does_the_rest(story: Story, texts: dict[str, str]) -> None:
    after = parts(story.out)
    assert {name: after[name] for name in story.first} == story.first
    assert f"75 documents, {4 * len(story.first)} done before" in story.said
    assert f"{story.out}: 75 rows, 3 of them with an error" in story.said
    assert sorted(path.name for path in story.out.iterdir()) == sorted(after)
    assert len(after) == 19


def test_dead_workers_are_replaced(story: Story) -> None:
    """Both were killed, one after the other, and there were parts to do after that."""
    assert len(story.killed) == 2
    assert len(story.seen - story.killed) >= 1


def test_every_document_is_there_once_as_from_one_process(story: Story, texts: dict[str, str]) -> None:
    rows = {row["document"]: row for row in pq.read_table(story.out).to_pylist()}
    assert pq.read_table(story.out).num_rows == len(rows) == len(texts) + 3
    summarize = pipeline("summarization", **OPTIONS)
    wanted = summarize(list(texts.values()), return_text=True, return_tensors=True)
    for name, result in zip(texts, wanted, strict=True):
        ids = result["summary_token_ids"]
        tokens = sum(len(one) - 1 for one in ids) if isinstance(ids, list) else len(ids) - 1
        row = rows[name]
        assert (row["summary"], row["tokens"], row["error"]) == (result["summary_text"], tokens, None)
        assert 0 < row["seconds"] < 60
    assert len(wanted[-1]["summary_token_ids"]) > 1  # the long one was read in parts
    errors = {name: row["error"] for name, row in rows.items() if name not in texts}
    assert errors.pop("latin.txt").startswith("UnicodeDecodeError: 'utf-8' codec can't decode byte 0xe9")
    assert errors == BROKEN


def test_results_of_other_settings_are_not_mixed(story: Story, folder: Path, script: ModuleType) -> None:
    before = parts(story.out)
    with pytest.raises(SystemExit, match="must be made with .*'options': {}.* Name another folder"):
        script.main([str(folder), str(story.out)])
    assert parts(story.out) == before


def test_a_finished_folder_takes_no_ray(story: Story, folder: Path, script: ModuleType, capsys: Any) -> None:
    before = parts(story.out)
    script.main([str(folder), str(story.out), "--options", json.dumps(OPTIONS)])
    assert "75 documents, 75 done before" in capsys.readouterr().out
    assert parts(story.out) == before
    assert "ray" not in sys.modules


def test_a_document_too_many_is_noticed(story: Story, folder: Path, script: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(story.out, out)
    shutil.copy(next(out.iterdir()), out / "part-0.parquet")
    with pytest.raises(SystemExit, match="must have every document once, but does not"):
        script.main([str(folder), str(out), "--options", json.dumps(OPTIONS)])


@pytest.mark.filterwarnings(r"ignore:::(tensorflow|keras|google|optree|jax|flax)(\..*)?")
@pytest.mark.parametrize("framework", ["tensorflow", "flax"])
def test_every_framework_writes_the_same(framework: str, script: ModuleType, folder: Path, tmp_path: Path) -> None:
    rows = {}
    for name in ("pytorch", framework):
        settings = {"model": "pegasus-demo", "framework": name, "dtype": None, "field": "text"}
        (tmp_path / name).mkdir()
        summarizer = script.Summarizer(str(tmp_path / name), {**settings, "options": {"num_beams": 1}}, 2)
        (part,) = script.parts(list(script.documents(folder / "1"))[:3], 4)
        done = summarizer(part)
        rows[name] = pq.read_table(tmp_path / name / part["part"]).drop(["seconds"]).to_pylist()
        assert done == {"documents": 3, "tokens": sum(row["tokens"] for row in rows[name])}
    assert rows[framework] == rows["pytorch"]
    assert len({row["summary"] for row in rows[framework]}) == 3
