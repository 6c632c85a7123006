"""Names to files and back: the whole cycle against a hub on 127.0.0.1, with either generation of the client."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from seq2seq_models.core.hub import PushToHubMixin, Repository, write_folder_atomically
from seq2seq_models.errors import CheckpointError, CheckpointNotFoundError

from .stand_in_hub import FORBIDDEN, GATED, OUTAGE, TOKEN, UNAUTHORIZED, StandInHub, Trouble

# huggingface_hub 2 passes file contents in a way that httpx deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "google/pegasus-test"
BIG = bytes(range(256)) * 8192  # 2 MiB, stored as the hub stores large files
FILES = {"config.json": b'{"model_type": "pegasus"}', "model.safetensors": BIG, "sub/config.json": b"{}"}


def harmless(hub: StandInHub) -> list[str]:
    """What was asked about repositories; huggingface_hub 2 also asks once a day for a list of agents."""
    return [line for line in hub.requests if "agent-harnesses" not in line]


def test_download_then_cache(hub: StandInHub) -> None:
    commit = hub.add(NAME, FILES)
    repository = Repository(NAME)
    assert repository.require("config.json").read_bytes() == FILES["config.json"]
    path = repository.require("model.safetensors")
    assert path.read_bytes() == BIG
    assert path.parent.name == commit
    hub.requests.clear()

    again = Repository(NAME)
    assert again.require("config.json").read_bytes() == FILES["config.json"]
    assert again.require("model.safetensors") == path
    assert harmless(hub) == [f"HEAD /{NAME}/resolve/main/config.json"], "one revalidation for the whole load"


def test_commit_hash_needs_no_request(hub: StandInHub) -> None:
    commit = hub.add(NAME, FILES)
    Repository(NAME, revision=commit).require("config.json")
    hub.requests.clear()
    assert Repository(NAME, revision=commit).require("config.json").is_file()
    assert harmless(hub) == []


def test_absent_file_is_remembered(hub: StandInHub) -> None:
    hub.add(NAME, FILES)
    repository = Repository(NAME)
    assert repository.find("generation_config.json") is None
    assert repository.find("config.json") is not None
    hub.requests.clear()
    again = Repository(NAME)
    assert again.find("config.json") is not None
    assert again.find("generation_config.json") is None
    assert len(harmless(hub)) == 1
    with pytest.raises(CheckpointNotFoundError, match=r"google/pegasus-test has no vocab\.json \(revision main\)"):
        again.require("vocab.json")


def test_new_commit_is_fetched_and_the_cache_follows(hub: StandInHub) -> None:
    hub.add(NAME, FILES)
    Repository(NAME).require("config.json")
    hub.add(NAME, {**FILES, "config.json": b'{"new": 1}'})
    assert Repository(NAME).require("config.json").read_bytes() == b'{"new": 1}'
    offline = Repository(NAME, local_files_only=True)
    assert offline.require("config.json").read_bytes() == b'{"new": 1}'


def test_revision_subfolder_and_cache_dir(hub: StandInHub, tmp_path: Path) -> None:
    hub.add(NAME, FILES)
    hub.add(NAME, {"config.json": b'{"branch": 1}'}, revision="v1")
    assert Repository(NAME, revision="v1").require("config.json").read_bytes() == b'{"branch": 1}'
    elsewhere = Repository(NAME, subfolder="sub", cache_dir=str(tmp_path / "elsewhere"))
    assert elsewhere.require("config.json").read_bytes() == b"{}"
    assert (tmp_path / "elsewhere").is_dir()
    assert elsewhere.find("model.safetensors") is None
    with pytest.raises(CheckpointNotFoundError, match=r"`revision` must be a branch, tag or commit of .* got 'v9'"):
        Repository(NAME, revision="v9").find("config.json")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # generation 0.x leaves a connection open that broke off
def test_resume_after_a_broken_body(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    hub.add(NAME, FILES)
    hub.trouble[NAME] = Trouble(break_after=300_000, times=1)
    assert Repository(NAME).require("model.safetensors").read_bytes() == BIG
    assert hub.ranges, "the second attempt asked for the rest only"
    assert int(hub.ranges[0].removeprefix("bytes=").partition("-")[0]) > 0


def test_missing_repository(hub: StandInHub) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"nobody/nothing is neither a folder here nor a repository"):
        Repository("nobody/nothing").find("config.json")


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (GATED, "is gated: its owner has to grant access"),
        (UNAUTHORIZED, r"refused the token for google/pegasus-test \(401\)"),
        (FORBIDDEN, r"This token may not read google/pegasus-test \(403"),
        (Trouble(404, "RepoNotFound"), "neither a folder here nor a repository"),
    ],
)
def test_refusals_are_explained(hub: StandInHub, trouble: Trouble, words: str) -> None:
    hub.add(NAME, FILES)
    hub.trouble[NAME] = trouble
    with pytest.raises(CheckpointNotFoundError, match=words):
        Repository(NAME, token=TOKEN).require("config.json")


@pytest.mark.parametrize("trouble", [OUTAGE, Trouble(500), Trouble(429, retry_after=3), GATED, UNAUTHORIZED])
def test_warm_cache_survives_trouble(hub: StandInHub, trouble: Trouble, caplog: pytest.LogCaptureFixture) -> None:
    hub.add(NAME, FILES)
    Repository(NAME).require("config.json")
    hub.trouble[NAME] = trouble
    hub.requests.clear()
    start = time.perf_counter()
    with caplog.at_level(logging.WARNING, logger="seq2seq_models"):
        repository = Repository(NAME)
        assert repository.require("config.json").read_bytes() == FILES["config.json"]
        assert repository.require("config.json").is_file()
    assert time.perf_counter() - start < 2
    assert len(harmless(hub)) == 1, "one attempt, no retries"
    assert [record.getMessage().startswith(f"{NAME}: using its cached files") for record in caplog.records] == [True]


def test_outage_with_a_cold_cache(hub: StandInHub) -> None:
    hub.add(NAME, FILES)
    hub.trouble["*"] = OUTAGE
    start = time.perf_counter()
    repository = Repository(NAME)
    assert repository.find("config.json") is None
    with pytest.raises(CheckpointNotFoundError, match=r"not in the cache .* cannot be reached \(status 503\)"):
        repository.require("config.json")
    assert time.perf_counter() - start < 2


def test_no_hub_at_all(hub: StandInHub) -> None:
    hub.add(NAME, FILES)
    Repository(NAME).require("config.json")
    hub.close()
    start = time.perf_counter()
    assert Repository(NAME).require("config.json").is_file()
    with pytest.raises(CheckpointNotFoundError, match="cannot be reached"):
        Repository(NAME).require("model.safetensors")
    assert time.perf_counter() - start < 2


def test_offline_asks_nothing(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, FILES)
    warm = Repository(NAME)
    warm.require("config.json")
    warm.find("generation_config.json")
    hub.requests.clear()
    for repository in (
        Repository(NAME, local_files_only=True),
        Repository(NAME, local_files_only=True, revision="main"),
    ):
        assert repository.require("config.json").is_file()
        with pytest.raises(CheckpointNotFoundError, match="`local_files_only` is set, so the hub was not asked"):
            repository.require("model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = Repository(NAME)
    assert offline.require("config.json").is_file()
    assert offline.find("generation_config.json") is None
    with pytest.raises(CheckpointNotFoundError, match="offline mode is on"):
        offline.require("model.safetensors")
    assert hub.requests == []


def test_force_download_fetches_again(hub: StandInHub) -> None:
    hub.add(NAME, FILES)
    Repository(NAME).require("model.safetensors")
    hub.requests.clear()
    forced = Repository(NAME, force_download=True)
    forced.require("model.safetensors")
    forced.require("model.safetensors")
    assert hub.count("GET", "model.safetensors") == 1
    with pytest.raises(CheckpointNotFoundError, match="`force_download` must be False when"):
        Repository(NAME, force_download=True, local_files_only=True).require("model.safetensors")


def test_token_goes_with_every_request(hub: StandInHub) -> None:
    hub.add(NAME, FILES, private=True)
    with pytest.raises(CheckpointNotFoundError, match="if the repository is private, pass token"):
        Repository(NAME).require("config.json")
    hub.requests.clear()
    hub.tokens.clear()
    for spelling in ("token", "use_auth_token"):
        repository = Repository.from_options(NAME, {spelling: TOKEN})
        repository.require("config.json")
        repository.require("model.safetensors")
        assert repository.find("vocab.json") is None
    asked = [token for line, token in zip(hub.requests, hub.tokens, strict=True) if "agent-harnesses" not in line]
    assert len(asked) >= 5
    assert set(asked) == {TOKEN}
    with pytest.raises(CheckpointNotFoundError, match="`token` must be a token when none is stored, got True"):
        Repository("google/other", token=True).require("config.json")


def test_renamed_repository_is_followed(hub: StandInHub) -> None:
    hub.add(NAME, FILES)
    hub.moved["google/old-name"] = f"/{NAME}"
    repository = Repository("google/old-name")
    assert repository.require("config.json").read_bytes() == FILES["config.json"]
    assert repository.require("model.safetensors").read_bytes() == BIG


@pytest.mark.parametrize("name", ["./nothing-here", "/nothing/here", "~/nothing-here", "a/b/c", "models/", "..\\x", ""])
def test_mistyped_folder_fails_at_once(hub: StandInHub, name: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match="must be a folder or a hub repository"):
        Repository(name)
    assert hub.requests == []


def test_impossible_names_and_files(hub: StandInHub, tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="which is neither"):
        Repository("google/pega sus")
    file = tmp_path / "config.json"
    file.write_text("{}")
    with pytest.raises(CheckpointNotFoundError, match="got the file"):
        Repository(str(file))
    with pytest.raises(CheckpointError, match="must lie inside"):
        Repository(str(tmp_path)).find("../secret")
    assert hub.requests == []


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "config.json").write_text("{}")
    repository = Repository.from_options(tmp_path, {"subfolder": "sub", "proxies": {}, "trust_remote_code": False})
    assert repository.is_local
    assert repository.require("config.json") == tmp_path / "sub" / "config.json"
    assert repository.find("model.safetensors") is None
    with pytest.raises(CheckpointNotFoundError, match=r"has no a\.bin or b\.bin|has no sub/a\.bin or sub/b\.bin"):
        raise repository.missing("a.bin", "b.bin")


def test_from_options_takes_only_what_it_knows() -> None:
    options: dict[str, Any] = {"revision": None, "local_files_only": True, "num_beams": 3, "_from_auto": True}
    repository = Repository.from_options("gpt2", options)
    assert options == {"num_beams": 3}
    assert repository.local_files_only
    assert Repository.from_options(repository, {"token": "x"}) is repository


def test_save_is_all_or_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "new"

    def fails(scratch: Path) -> None:
        (scratch / "a.txt").write_text("new")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_folder_atomically(folder, fails)
    assert not folder.exists()

    folder.mkdir()
    (folder / "a.txt").write_text("old")
    (folder / "stale.bin").write_text("old")
    (folder / "mine.txt").write_text("keep")
    with pytest.raises(RuntimeError):
        write_folder_atomically(folder, fails)
    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "mine.txt", "stale.bin"]
    assert (folder / "a.txt").read_text() == "old"

    def works(scratch: Path) -> list[str]:
        (scratch / "a.txt").write_text("new")
        return ["a.txt"]

    written = write_folder_atomically(folder, works, stale=lambda name: name.endswith(".bin"))
    assert written == [folder / "a.txt"]
    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "mine.txt"]
    assert (folder / "a.txt").read_text() == "new"
    with pytest.raises(CheckpointError, match="must be a folder, got the file"):
        write_folder_atomically(folder / "a.txt", works)


class Thing(PushToHubMixin):
    def save_pretrained(self, save_directory: Path, max_shard_size: str = "5GB") -> None:
        Path(save_directory).mkdir(exist_ok=True)
        (Path(save_directory) / "config.json").write_text(json.dumps({"shard": max_shard_size}))
        (Path(save_directory) / "model.safetensors").write_bytes(BIG)


def test_push_makes_the_repository(hub: StandInHub) -> None:
    info = Thing().push_to_hub("tester/new", token=TOKEN, private=True, tags=["summarization"], max_shard_size="1MB")
    files = hub.repos["tester/new"].files()
    assert files is not None
    assert hub.repos["tester/new"].private
    assert hub.repos["tester/new"].messages[-1] == "Upload Thing"
    assert files["config.json"].read() == b'{"shard": "1MB"}'
    assert files["model.safetensors"].read() == BIG
    card = files["README.md"].read().decode()
    assert card.startswith("---\nlibrary_name: seq2seq_models\ntags:\n- summarization\n---\n\n# tester/new\n")
    assert "| class | `Thing` |" in card
    assert f'from {__name__} import Thing\n\nconfig = Thing.from_pretrained("tester/new")' in card
    assert info.oid == hub.repos["tester/new"].refs["main"]
    assert Repository("tester/new", token=TOKEN).require("model.safetensors").read_bytes() == BIG


def test_push_to_an_existing_repository_keeps_its_card(hub: StandInHub) -> None:
    hub.add("tester/old", {"README.md": b"---\nlicense: mit\n---\n# Mine\n", "other.txt": b"x"})
    Thing().push_to_hub("tester/old", token=TOKEN, commit_message="Second", revision="dev")
    files = hub.repos["tester/old"].files("dev")
    assert files is not None
    assert sorted(files) == ["README.md", "config.json", "model.safetensors", "other.txt"]
    assert files["README.md"].read() == b"---\nlicense: mit\n---\n# Mine\n"
    info = Thing().push_to_hub("tester/old", use_auth_token=TOKEN, create_pr=True, tags=["chat"])
    assert info.pr_url is not None
    changed = hub.repos["tester/old"].files("refs/pr/1")
    assert changed is not None
    card = changed["README.md"].read().decode()
    assert "license: mit" in card
    assert "- chat" in card
    assert "# Mine" in card


def test_push_without_a_valid_token(hub: StandInHub) -> None:
    with pytest.raises(CheckpointNotFoundError, match="wants a valid token"):
        Thing().push_to_hub("tester/new", token="hf_wrong")
    assert hub.repos == {}


def test_push_troubles_are_explained(hub: StandInHub) -> None:
    with pytest.raises(CheckpointNotFoundError, match='`repo_id` must be "owner/name"'):
        Thing().push_to_hub("tester/a b", token=TOKEN)
    hub.add("tester/mine", {})
    hub.trouble["tester/mine"] = FORBIDDEN
    with pytest.raises(CheckpointNotFoundError, match="this token may not write there"):
        Thing().push_to_hub("tester/mine", token=TOKEN)
    hub.fail_uploads = 403
    with pytest.raises(CheckpointNotFoundError, match="tester/other was not pushed: this token may not write there"):
        Thing().push_to_hub("tester/other", token=TOKEN)
    assert hub.repos["tester/other"].files() == {}, "all files go up in one commit, or none"
    hub.close()
    with pytest.raises(CheckpointNotFoundError, match=r"tester/new was not pushed: .* cannot be reached"):
        Thing().push_to_hub("tester/new", token=TOKEN)


def test_push_into_a_named_folder(hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "private.txt").write_text("not part of the save")
    Thing().push_to_hub("tester/named", use_temp_dir=False, token=TOKEN)
    files = hub.repos["tester/named"].files()
    assert files is not None
    assert "private.txt" not in files
    assert (tmp_path / "named" / "model.safetensors").is_file()


def test_client_generation_is_a_supported_one() -> None:
    assert huggingface_hub.__version__.split(".")[0] in {"0", "1", "2"}
