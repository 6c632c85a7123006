"""All-or-nothing saves into a folder, and `push_to_hub` for everything that can be saved."""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError
from .hub_client import library
from .hub_faults import push_refusal
from .model_card import Pushed, changed_card, new_card

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


def write_folder_atomically(
    folder: str | os.PathLike[str],
    write: Callable[[Path], object],
    *,
    stale: Callable[[str], bool] | None = None,
) -> list[Path]:
    """The files that a save produced, each in its place; after an error the folder is as it was before.

    Args:
        folder: where the files go; made if it is not there.
        write: writes all files of the save into the (empty) folder that it is given. What it returns is not looked at.
        stale: says of a file name in `folder` whether an earlier save left it and it has to go if not written again.
    Raises:
        CheckpointError: if `folder` is a file.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"`save_directory` must be a folder, got the file {target}. Give another name.")
    made = [path for path in (target, *target.parents) if not path.exists()]
    target.mkdir(parents=True, exist_ok=True)
    # Inside the folder, not beside it: the same file system for certain, and the same right to write.
    scratch = Path(tempfile.mkdtemp(prefix=".saving-", dir=target))
    try:
        write(scratch)
        written = sorted(path.relative_to(scratch) for path in scratch.rglob("*") if path.is_file())
        # Index files last: until they are there, a reader sees the earlier save or none.
        written.sort(key=lambda path: path.name.endswith(".index.json"))
        for path in written:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (scratch / path).replace(target / path)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        raise
    shutil.rmtree(scratch)
    kept = {str(path) for path in written}
    for path in list(target.iterdir()):
        if stale is not None and path.is_file() and path.name not in kept and stale(path.name):
            path.unlink()
    return [target / path for path in written]


class PushToHubMixin:
    """`push_to_hub` for everything that has a `save_pretrained`: configs, generation configs, tokenizers, models."""

    def push_to_hub(
        self,
        repo_id: str,
        use_temp_dir: bool | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        max_shard_size: int | str | None = "5GB",
        create_pr: bool = False,
        safe_serialization: bool = True,
        revision: str | None = None,
        commit_description: str | None = None,
        tags: list[str] | None = None,
        use_auth_token: bool | str | None = None,
    ) -> CommitInfo:
        """The commit that was made: saves this object and uploads the files, making the repository if need be.

        Args:
            repo_id: "owner/name", or "name" for your own account.
            use_temp_dir: False saves into a folder of the repository's name, which stays; otherwise nothing is left.
            commit_message: first line of the commit; by default "Upload" and the class.
            private: make a new repository private.
            token: a token with write access; None or True takes the stored one.
            max_shard_size: largest size of one weight file (models only).
            create_pr: open a pull request instead of writing to the branch.
            safe_serialization: write safetensors (models only).
            revision: branch to write to; made if it is not there.
            commit_description: further text of the commit.
            tags: words for the model card. A repository without a card gets one that says what was saved; the card of
                one that has is kept.
            use_auth_token: the old name of `token`.
        Raises:
            CheckpointNotFoundError: the hub refuses or cannot be reached.
        """
        accepted = inspect.signature(self.save_pretrained).parameters  # type: ignore[attr-defined]
        options = {"max_shard_size": max_shard_size, "safe_serialization": safe_serialization}
        options = {key: value for key, value in options.items() if key in accepted}
        upload = {
            "commit_message": commit_message,
            "private": private,
            "token": use_auth_token if token is None else token,
            "create_pr": create_pr,
            "revision": revision,
            "commit_description": commit_description,
            "tags": tags,
        }
        if use_temp_dir is False:
            folder = Path(repo_id.rsplit("/", 1)[-1])
            saved = self._save_for_upload(folder, options)
            return self._push_saved(folder, saved, {"repo_id": repo_id, **upload})
        with tempfile.TemporaryDirectory(prefix="push-") as scratch:
            saved = self._save_for_upload(Path(scratch), options)
            return self._push_saved(Path(scratch), saved, {"repo_id": repo_id, **upload})

    def _save_for_upload(self, folder: Path, options: dict[str, Any]) -> list[Path]:
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
        self.save_pretrained(folder, **options)  # type: ignore[attr-defined]
        after = [path for path in folder.rglob("*") if path.is_file()]
        return sorted(path for path in after if before.get(path) != path.stat().st_mtime_ns)

    def _push_saved(self, folder: str | Path, files: Iterable[str | Path], options: dict[str, Any]) -> CommitInfo:
        """The commit that uploads `files` of `folder`; for `save_pretrained(..., push_to_hub=True, **options)`.

        Takes repo_id (by default the folder's name), commit_message, private, token, create_pr, revision,
        commit_description and tags out of `options`.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

        names = [Path(file).relative_to(folder).as_posix() for file in files]
        old_token = options.pop("use_auth_token", None)
        token = options.pop("token", None)
        repo_id = options.pop("repo_id", None) or Path(folder).resolve().name
        tags = list(options.pop("tags", None) or [])
        message = options.pop("commit_message", None) or f"Upload {type(self).__name__}"
        private, revision = options.pop("private", None), options.pop("revision", None)
        description, create_pr = options.pop("commit_description", None), options.pop("create_pr", False)
        token = old_token if token is None else token
        api = HfApi(token=token, **library())
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if revision is not None and not create_pr:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            pushed = Pushed(self, repo_id, names, tags, None if create_pr or revision == "main" else revision)
            return api.create_commit(
                repo_id,
                self._operations(api, Path(folder), pushed, revision),
                commit_message=message,
                commit_description=description,
                create_pr=create_pr,
                revision=revision,
            )
        except (OSError, HTTPError, RuntimeError, HFValidationError) as error:
            raise push_refusal(repo_id, token, error) from error

    def _operations(self, api: Any, folder: Path, pushed: Pushed, at: str | None) -> list[Any]:
        """The files to upload, and a card that is new or has changed; `at` is the revision whose card counts."""
        from huggingface_hub import CommitOperationAdd

        found = [CommitOperationAdd(name, str(folder / name)) for name in pushed.files]
        if "README.md" not in pushed.files:
            card = self._card(api, pushed, at)
            if card is not None:
                found.append(CommitOperationAdd("README.md", card.encode()))
        return found

    def _card(self, api: Any, pushed: Pushed, at: str | None) -> str | None:
        """The model card to upload with the files; None if the repository's own needs no change."""
        if not api.file_exists(pushed.repo_id, "README.md", revision=at):
            return new_card(pushed)
        with tempfile.TemporaryDirectory() as scratch:
            path = api.hf_hub_download(pushed.repo_id, "README.md", local_dir=scratch, revision=at)
            return changed_card(Path(path).read_text(encoding="utf-8"), pushed)
