"""From a name to files on this disk: a folder, the hub's cache, or a download.

The network is the real `huggingface_hub` client, of either generation (0.36 or 2.x), imported when a name that is not a
folder is asked for. Per repository one short request settles which commit a revision means; every further file is
looked up by that commit, so that what is cached costs no request and all files of a load belong together. When the hub
cannot be reached, or offline mode is on, the cache answers alone.
"""

from __future__ import annotations

import logging
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ..errors import CheckpointError, CheckpointNotFoundError
from .storage.hub_client import endpoint, is_temporary, library, outage, retry_after, status_of
from .storage.hub_faults import broke_off, broken_download, refusal, unreadable_cache
from .storage.saving import PushToHubMixin as PushToHubMixin
from .storage.saving import write_folder_atomically as write_folder_atomically

logger = logging.getLogger("seq2seq_models")
COMMIT = re.compile(r"[0-9a-f]{40}")
REVALIDATION_SECONDS = 3.0
"""How long a load that the cache could serve waits for the hub to say whether something newer is there."""
PATIENCE_SECONDS = 60.0
"""How long a load waits in all because the hub asks for it (Retry-After), if the cache cannot serve it."""
BREAKS = 3
"""How often a file is asked for again after its body broke off; the client then goes on where it was if it can."""

# Accepted as transformers accepts them, without effect here: the client resumes and takes proxies from its environment.
IGNORED_OPTIONS = ("proxies", "resume_download", "trust_remote_code", "code_revision", "_from_auto", "_from_pipeline",
                   "_commit_hash", "mirror", "user_agent", "local_dir_use_symlinks")  # fmt: skip


@dataclass
class _Contact:
    """What one repository object has learnt from the hub so far.

    Attributes:
        commit: the commit that the revision means, once known.
        asked: the one request was made, or is not to be made.
        unreachable: why the hub gave no answer (offline mode, no connection, server error).
        refusal: the error for a repository, revision or token that the hub did answer with a refusal.
        fetched: files that force_download has already fetched again.
        said: the log says that the cache stands in.
        waited: seconds spent because the hub asked for it.
    """

    commit: str | None = None
    asked: bool = False
    unreachable: str | None = None
    refusal: CheckpointNotFoundError | None = None
    fetched: set[str] = field(default_factory=set)
    said: bool = False
    waited: float = 0.0


@dataclass(frozen=True)
class Repository:
    """Where files come from: a folder on disk or a hub repository, and how to reach it.

    Attributes:
        name: a repository such as "google/pegasus-xsum", or a folder.
        revision: branch, tag or commit; None is "main".
        subfolder: folder inside the repository that the files lie in.
        token: a token, True (the stored one is required), False (send none), None (the stored one if there is one).
        cache_dir: the hub cache to use instead of the client's own.
        force_download: fetch again what is cached already.
        local_files_only: never use the network.
    Raises:
        CheckpointNotFoundError: at once if the name can only be a folder and is none.
    """

    name: str
    revision: str | None = None
    subfolder: str = ""
    token: str | bool | None = None
    cache_dir: str | None = None
    force_download: bool = False
    local_files_only: bool = False
    _contact: _Contact = field(default_factory=_Contact, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.is_local:
            return
        path = Path(self.name).expanduser() if self.name else Path()
        if self.name and path.is_file():
            raise CheckpointNotFoundError(
                f"`pretrained_model_name_or_path` must be a folder or a hub repository, got the file {self.name}. "
                f"Pass its folder, {path.parent}."
            )
        if _looks_like_path(self.name):
            raise CheckpointNotFoundError(
                f"`pretrained_model_name_or_path` must be a folder or a hub repository, got {self.name!r}, which is no "
                f"folder here (working folder {Path.cwd()}). Check the spelling; "
                'a hub repository is written "owner/name".'
            )
        if not re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", self.name, re.ASCII):
            raise CheckpointNotFoundError(
                f"`pretrained_model_name_or_path` must be a folder or a hub repository, got {self.name!r}, which is "
                'neither. A hub repository is written "owner/name", in letters, digits, "-", "_" and ".".'
            )

    @classmethod
    def from_options(cls, name: str | os.PathLike[str] | Repository, options: dict[str, Any]) -> Repository:
        """A repository from the keywords of a `from_pretrained`; takes the ones it knows out of `options`.

        Passing a Repository as the name returns it as it is, so that several loads can share one look at the hub.
        """
        for ignored in IGNORED_OPTIONS:
            options.pop(ignored, None)
        old_token = options.pop("use_auth_token", None)
        token = options.pop("token", None)
        revision, subfolder = options.pop("revision", None), options.pop("subfolder", None)
        cache_dir = options.pop("cache_dir", None)
        force_download = bool(options.pop("force_download", False))
        local_files_only = bool(options.pop("local_files_only", False))
        if isinstance(name, Repository):
            return name
        return cls(
            os.fspath(name),
            revision=revision,
            subfolder=(subfolder or "").strip("/"),
            token=old_token if token is None else token,
            cache_dir=None if cache_dir is None else os.fspath(cache_dir),
            force_download=force_download,
            local_files_only=local_files_only,
        )

    @property
    def is_local(self) -> bool:
        """Whether the name is a folder on this disk; a folder wins over a repository of the same name."""
        return bool(self.name) and Path(self.name).expanduser().is_dir()

    def __str__(self) -> str:
        place = self.name if self.revision is None or self.is_local else f"{self.name} at revision {self.revision}"
        return f"{place}, folder {self.subfolder}" if self.subfolder else place

    def find(self, filename: str) -> Path | None:
        """The file on this disk, downloaded if need be; None if the repository has no such file.

        Also None if the hub cannot be reached and the cache does not know the file: `missing` then says so.

        Raises:
            CheckpointNotFoundError: the hub refuses the repository, the revision or the token, and nothing is cached.
        """
        inside = str(PurePosixPath(self.subfolder, filename))
        if inside.startswith("/") or ".." in PurePosixPath(inside).parts:
            raise CheckpointError(f"A file must lie inside {self.name}, got {inside!r}. Do not use this repository.")
        if self.is_local:
            path = Path(self.name).expanduser() / inside
            return path if path.is_file() else None
        return self._find_on_hub(inside)

    def require(self, filename: str) -> Path:
        """The file on this disk, downloaded if need be.

        Raises:
            CheckpointNotFoundError: it is not there; the message says why and what to do.
        """
        path = self.find(filename)
        if path is None:
            raise self.missing(filename)
        return path

    def missing(self, *filenames: str) -> CheckpointNotFoundError:
        """The error to raise when none of these files was found, telling an absent file from an absent hub."""
        wanted = " or ".join(str(PurePosixPath(self.subfolder, name)) for name in filenames)
        if self.is_local:
            return CheckpointNotFoundError(
                f"The folder {self.name} has no {wanted}. Check that it is the folder of a saved model or tokenizer."
            )
        contact, cache = self._contact, self._cache()
        if contact.unreachable is None:
            where = f"revision {self.revision or 'main'}"
            return CheckpointNotFoundError(
                f"The hub repository {self.name} has no {wanted} ({where}). "
                f"See its files at {endpoint()}/{self.name}/tree/{self.revision or 'main'}."
            )
        return CheckpointNotFoundError(
            f"{wanted} of {self.name} is not in the cache {cache}, and {contact.unreachable}. "
            "Load it once when the hub can be reached, or pass a folder that holds the files."
        )

    def _cache(self) -> str:
        from huggingface_hub import constants

        return str(Path(self.cache_dir or constants.HF_HUB_CACHE).expanduser())

    def _find_on_hub(self, inside: str) -> Path | None:
        contact, revision = self._contact, self.revision or "main"
        again = self.force_download and inside not in contact.fetched
        if COMMIT.fullmatch(revision):
            contact.commit = revision
            known = self._cached(inside, revision)
            if known is not None and not again:
                return known or None
        if not contact.asked:
            self._ask(inside)
        known = self._cached(inside, contact.commit or revision)
        if known is not None and not again:
            self._say_cached()
            return known or None
        if contact.refusal is not None:
            raise contact.refusal
        if contact.unreachable is not None:
            if again:
                raise CheckpointNotFoundError(
                    f"`force_download` must be False when {contact.unreachable}; got True for {self.name}. "
                    "Leave it out."
                )
            return None
        return self._download(inside)

    def _say_cached(self) -> None:
        """One log line when the cache is used because of trouble, and not because it was asked for."""
        trouble = self._contact.refusal or self._contact.unreachable
        if trouble is not None and not self._contact.said and not self._is_offline():
            logger.warning("%s: using its cached files, because %s", self.name, trouble)
            self._contact.said = True

    def _is_offline(self) -> bool:
        from huggingface_hub import constants

        return bool(self.local_files_only or constants.HF_HUB_OFFLINE)

    def _cached(self, inside: str, revision: str) -> Path | Literal[False] | None:
        """The cached file; False if the cache knows that the commit lacks it; None if the cache knows nothing."""
        from huggingface_hub import try_to_load_from_cache

        try:
            found = try_to_load_from_cache(self.name, inside, cache_dir=self._cache(), revision=revision)
        except OSError as error:
            raise unreadable_cache(self.name, self._cache(), error) from error
        if isinstance(found, str):
            return Path(found)
        return None if found is None else False

    def _ask(self, inside: str) -> None:
        """One request, without retries: which commit the revision means now, or why we cannot know.

        If the cache has nothing to offer and the hub asks for a short pause, the request is made again after it.
        """
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.errors import EntryNotFoundError, HTTPError  # type: ignore[attr-defined]
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

        contact, revision = self._contact, self.revision or "main"
        contact.asked = True
        if self._is_offline():
            setting = "`local_files_only` is set" if self.local_files_only else "offline mode is on (HF_HUB_OFFLINE)"
            contact.unreachable = f"{setting}, so the hub was not asked"
            return
        warm = self._cached(inside, revision) is not None
        seconds = float(constants.HF_HUB_ETAG_TIMEOUT)
        if warm and seconds == constants.DEFAULT_ETAG_TIMEOUT:
            seconds = min(seconds, REVALIDATION_SECONDS)
        try:
            headers = build_hf_headers(token=self.token, **library()) | {"Accept-Encoding": "identity"}
            url = hf_hub_url(self.name, inside, revision=revision)
            response = _head(url, headers, seconds)
            while not warm and self._waited_for(response):
                response = _head(url, headers, seconds)
            contact.commit = response.headers.get("X-Repo-Commit")
            if response.status_code >= 400:
                hf_raise_for_status(response)
        except EntryNotFoundError:
            pass  # the repository and the revision are there; the download that follows notes the absence in the cache
        except (OSError, HTTPError) as error:
            self._note(error)

    def _note(self, error: Exception) -> None:
        from huggingface_hub.errors import LocalTokenNotFoundError

        if is_temporary(status_of(error)) and not isinstance(error, LocalTokenNotFoundError):
            self._contact.unreachable = outage(error)
        else:
            self._contact.refusal = refusal(self.name, self.revision, self.token, error)

    def _waited_for(self, answer: Any) -> bool:
        """Whether the hub asked for a pause that a load can afford; then it is over."""
        contact, seconds = self._contact, retry_after(answer)
        if seconds is None or contact.waited + seconds > PATIENCE_SECONDS:
            return False
        seconds = max(seconds, 1.0)
        logger.warning("%s: %s asks to wait %.0f s, so we do", self.name, endpoint(), seconds)
        time.sleep(seconds)
        contact.waited += seconds
        return True

    def _download(self, inside: str) -> Path | None:
        from huggingface_hub.errors import (  # type: ignore[attr-defined]
            EntryNotFoundError,
            HTTPError,
            LocalEntryNotFoundError,
        )

        contact, breaks = self._contact, 0
        while True:
            try:
                found = self._fetch(inside)
            except LocalEntryNotFoundError as error:  # the client could not ask about the file
                cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
                if self._waited_for(cause):
                    continue
                self._note(cause)
                if contact.refusal is not None:
                    raise contact.refusal from error
                return None
            except EntryNotFoundError:
                return None
            except (OSError, HTTPError, ValueError) as error:
                if self._waited_for(error):
                    continue
                if broke_off(error) and breaks < BREAKS:
                    breaks += 1
                    continue
                raise self._broken(inside, error) from error
            contact.fetched.add(inside)
            return found

    def _fetch(self, inside: str) -> Path:
        from huggingface_hub import hf_hub_download

        commit, revision = self._contact.commit, self.revision or "main"
        # Asked by the revision's own name when the cache does not yet know what it means: the client then notes it.
        by_name = commit is None or not self._ref_is(commit)
        path = hf_hub_download(
            self.name,
            inside,
            revision=revision if by_name else commit,
            cache_dir=self._cache(),
            token=self.token,
            force_download=self.force_download,
            **library(),
        )
        return Path(path)

    def _ref_is(self, commit: str) -> bool:
        revision = self.revision or "main"
        ref = Path(self._cache(), "models--" + self.name.replace("/", "--"), "refs", revision)
        return revision == commit or (ref.is_file() and ref.read_text().strip() == commit)

    def _broken(self, inside: str, error: Exception) -> CheckpointNotFoundError:
        if type(error) is ValueError and isinstance(error.__cause__, Exception):
            error = error.__cause__  # with force_download, the client hides the reason
        status = status_of(error)
        if is_temporary(status) or status == 416:
            return broken_download(inside, self.name, self._cache(), error)
        return refusal(self.name, self.revision, self.token, error)


def _looks_like_path(name: str) -> bool:
    return (
        name in ("", ".", "..", "~")
        or name.startswith(("./", "../", "/", "~"))
        or name.endswith("/")
        or name.count("/") > 1
        or "\\" in name
    )


def _head(url: str, headers: dict[str, str], seconds: float) -> Any:
    """The hub's answer about one file; redirects are followed within the hub (a renamed repository), not beyond."""
    from urllib.parse import urljoin, urlsplit

    import huggingface_hub
    from huggingface_hub import get_session

    session: Any = get_session()
    no_redirect = {"allow_redirects" if huggingface_hub.__version__.startswith("0.") else "follow_redirects": False}
    for _ in range(5):
        response = session.head(url, headers=headers, timeout=seconds, **no_redirect)
        target = urljoin(url, response.headers.get("Location", ""))
        moved = 300 <= response.status_code < 400 and "X-Repo-Commit" not in response.headers
        if not moved or urlsplit(target)[:2] != urlsplit(url)[:2]:
            break
        url = target
    return response
