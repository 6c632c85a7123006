"""What a stand-in hub holds: repositories of commits of files, and the troubles that can be made for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

LFS_FROM = 1 << 20
"""Files of this size and more are stored as the hub stores large files (sha256 as ETag, LFS upload)."""

TOKEN = "hf_" + "a" * 34
"""Of an account that may see and write everything."""
OTHER_TOKEN = "hf_" + "b" * 34
"""Of an account that may see only what is public."""


@dataclass
class Stored:
    """One file of a commit: its bytes, in memory or on disk."""

    content: bytes | Path

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def read(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()

    @property
    def is_lfs(self) -> bool:
        return self.size >= LFS_FROM

    @property
    def oid(self) -> str:
        if not hasattr(self, "_oid"):
            content = self.read()
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self._oid = hashlib.sha256(content).hexdigest() if self.is_lfs else blob
        return self._oid


@dataclass
class Repo:
    """A repository: commits by hash, branches and tags by name."""

    commits: dict[str, dict[str, Stored]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, Stored], branch: str = "main", message: str = "") -> str:
        text = json.dumps([sorted((name, file.oid) for name, file in files.items()), len(self.commits), branch])
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha], self.refs[branch] = files, sha
        self.messages.append(message)
        return sha

    def files(self, revision: str = "main") -> dict[str, Stored] | None:
        return self.commits.get(self.refs.get(revision, revision))


@dataclass
class Trouble:
    """What goes wrong, for one repository or (key "*") for all.

    Attributes:
        status: every request is answered with this status.
        code: X-Error-Code that goes with it.
        message: X-Error-Message that goes with it.
        break_after: bodies of large files end after so many bytes, `times` times.
        stall_after: nothing comes of bodies of large files after so many bytes for a while, `times` times.
        until: what ends that while; by default it ends when the hub does.
        grow: bodies of large files are so many bytes too long, `times` times.
        times: how many bodies have that trouble.
        retry_after: seconds, or a date, in a Retry-After header.
        refusals: how many requests get the status; None: all.
        only: the methods that get it.
        silent: nothing is answered at all, until the hub ends.
    """

    status: int | None = None
    code: str | None = None
    message: str | None = None
    break_after: int | None = None
    stall_after: int | None = None
    until: Callable[[], bool] | None = None
    grow: int = 0
    times: int = 1
    retry_after: int | str | None = None
    refusals: int | None = None
    only: tuple[str, ...] = ("HEAD", "GET", "POST", "PUT")
    silent: bool = False

    def refuses(self, method: str) -> bool:
        """Whether a request of this method is answered with the status; one of the `refusals` is then used up."""
        if self.status is None or method not in self.only or self.refusals == 0:
            return False
        if self.refusals is not None:
            self.refusals -= 1
        return True


GATED = Trouble(403, "GatedRepo", "Access to this model is restricted.")
UNAUTHORIZED = Trouble(401, None, "Invalid credentials in Authorization header")
FORBIDDEN = Trouble(403, None, "You are not allowed here")
OUTAGE = Trouble(503, None, "Service unavailable")
