"""A hub on 127.0.0.1 that speaks as much of the hub's HTTP as the client uses: download, snapshot, upload, and trouble.

`StandInHub` runs in a thread of the test process; `hub.add("google/pegasus-xsum", folder)` publishes a folder, and
`hub.trouble[...]` makes things go wrong. `hub.requests` lists what was asked, as "METHOD path", and
`hub.tokens` the token that came with each.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from .stand_in_repositories import FORBIDDEN as FORBIDDEN
from .stand_in_repositories import GATED as GATED
from .stand_in_repositories import LFS_FROM, Repo, Stored
from .stand_in_repositories import OTHER_TOKEN as OTHER_TOKEN
from .stand_in_repositories import OUTAGE as OUTAGE
from .stand_in_repositories import TOKEN as TOKEN
from .stand_in_repositories import UNAUTHORIZED as UNAUTHORIZED
from .stand_in_repositories import Trouble as Trouble


class StandInHub:
    """A running hub; use as a context manager or call `close`."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.trouble: dict[str, Trouble] = {}
        self.requests: list[str] = []
        self.tokens: list[str | None] = []
        self.ranges: list[str] = []
        self.uploads: dict[str, bytes] = {}
        self.fail_uploads: int | None = None
        self.moved: dict[str, str] = {}
        self.storage: StandInHub | None = None
        self.storage_for: tuple[str, ...] = ("HEAD", "GET")
        self.storage_host = "127.0.0.1"
        self.stored: dict[str, Stored] = {}
        self.closing = threading.Event()
        self.connections: list[socket.socket] = []
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def __enter__(self) -> StandInHub:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops answering: from here on the hub cannot be reached."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in self.connections:  # a client may hold one open, and a later hub may get the same port
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def add(
        self,
        name: str,
        folder: str | Path | dict[str, bytes],
        *,
        revision: str = "main",
        private: bool = False,
        gated: bool = False,
    ) -> str:
        """The commit hash under which the files of `folder` (or a name -> bytes mapping) are now published."""
        if isinstance(folder, dict):
            files = {path: Stored(content) for path, content in folder.items()}
        else:
            root = Path(folder)
            files = {path.relative_to(root).as_posix(): Stored(path) for path in root.rglob("*") if path.is_file()}
        repo = self.repos.setdefault(name, Repo())
        repo.private, repo.gated = private, gated
        return repo.commit(files, revision)

    def keep_bodies_on(self, other: StandInHub, host: str, methods: tuple[str, ...] = ("HEAD", "GET")) -> None:
        """From here on these methods send a client that asks for a large file to another server, under this host."""
        self.storage, self.storage_host, self.storage_for = other, host, methods

    def count(self, method: str = "", contains: str = "") -> int:
        """How many requests so far start with `method` and contain this text."""
        return sum(line.startswith(method) and contains in line for line in self.requests)


class Handler(BaseHTTPRequestHandler):
    """Answers one connection; `hub` is set by StandInHub."""

    hub: ClassVar[StandInHub]
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.hub.connections.append(self.connection)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # clients may hang up
            super().handle()

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        url = urlsplit(self.path)
        self.hub.requests.append(f"{self.command} {self.path}")
        authorization = self.headers.get("authorization")
        token = authorization.removeprefix("Bearer ") if authorization else None
        self.hub.tokens.append(token)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        everywhere = self.hub.trouble.get("*", Trouble())
        if everywhere.silent:
            self.hub.closing.wait(5)
            self.close_connection = True
        elif everywhere.refuses(self.command):
            self.refuse(everywhere)
        elif parts[0] == "api":
            self.api(parts[1:], parse_qs(url.query), body, token)
        elif parts[0] == "stored" and parts[1] in self.hub.stored:
            self.send_file("stored", self.hub.stored[parts[1]], "")
        elif parts[0] == "lfs" and self.command == "PUT" and self.hub.fail_uploads is not None:
            self.send_error_code(self.hub.fail_uploads, None, "No")
        elif parts[0] == "lfs" and self.command == "PUT":
            self.hub.uploads[parts[1]] = body
            self.send_json({})
        elif parts[0] == "lfs-verify":
            ok = len(self.hub.uploads.get(json.loads(body)["oid"], b"")) == json.loads(body)["size"]
            self.send_json({}, 200 if ok else 400)
        elif parts[-4:] == ["info", "lfs", "objects", "batch"]:
            self.lfs_batch(json.loads(body))
        elif "resolve" in parts:
            at = parts.index("resolve")
            name = "/".join(parts[:at])
            if name in self.hub.moved:
                self.redirect(self.path.replace(f"/{name}", self.hub.moved[name], 1))
                return
            self.resolve("/".join(parts[:at]), parts[at + 1], "/".join(parts[at + 2 :]), token)
        else:
            self.send_error_code(404, "EntryNotFound")

    def redirect(self, location: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(307)
        for key, value in {"Location": location, "Content-Length": "0", **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()

    def refuse(self, trouble: Trouble) -> None:
        assert trouble.status is not None
        self.send_error_code(trouble.status, trouble.code, trouble.message, retry_after=trouble.retry_after)

    def repo(self, name: str, token: str | None) -> Repo | None:
        """The repository if it may be seen; otherwise the refusal has been sent."""
        trouble = self.hub.trouble.get(name)
        if trouble is not None and trouble.refuses(self.command):
            self.refuse(trouble)
            return None
        found = self.hub.repos.get(name)
        if token not in (None, TOKEN, OTHER_TOKEN):
            self.send_error_code(401, None, "Invalid credentials in Authorization header")
        elif found is None or (found.private and token != TOKEN):
            self.send_error_code(401 if token is None else 404, "RepoNotFound", "Repository not found")
        elif found.gated and token is None:
            self.send_error_code(401, "GatedRepo", f"Access to model {name} is restricted. Please log in.")
        elif found.gated and token != TOKEN:
            text = f"Access to model {name} is restricted and you are not in the authorized list."
            self.send_error_code(403, "GatedRepo", text)
        else:
            return found
        return None

    def resolve(self, name: str, revision: str, path: str, token: str | None) -> None:
        repo = self.repo(name, token)
        if repo is None:
            return
        files = repo.files(revision)
        if files is None:
            self.send_error_code(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        commit = repo.refs.get(revision, revision)
        file = files.get(path)
        if file is None:
            self.send_error_code(404, "EntryNotFound", "Entry not found", commit=commit)
            return
        self.send_file(name, file, commit)

    def send_file(self, name: str, file: Stored, commit: str) -> None:
        content = b"" if self.command == "HEAD" else file.read()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
        if file.is_lfs:
            headers |= {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(file.size)}
            storage = self.hub.storage
            if storage is not None and self.command in self.hub.storage_for:
                storage.stored[file.oid] = file
                place = storage.endpoint.replace("127.0.0.1", self.hub.storage_host)
                self.redirect(f"{place}/stored/{file.oid}", headers)
                return
        status, start = 200, 0
        wanted = self.headers.get("Range")
        if wanted and self.command == "GET":
            self.hub.ranges.append(wanted)
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else file.size
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
            content, status = content[start:end], 206
        trouble = self.hub.trouble.get(name)
        if self.command == "HEAD" or trouble is None or trouble.times <= 0 or not file.is_lfs:
            trouble = Trouble()
        length = file.size if self.command == "HEAD" else len(content) + trouble.grow
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(key, value)
        self.end_headers()
        self.send_body(content, trouble)

    def send_body(self, content: bytes, trouble: Trouble) -> None:
        """The body, or as much of it as this trouble lets through."""
        trouble.times -= 1
        with contextlib.suppress(ConnectionError):  # a client need not wait for the end
            if trouble.break_after is not None:
                self.wfile.write(content[: trouble.break_after])
                self.close_connection = True
            elif trouble.stall_after is not None:
                self.wfile.write(content[: trouble.stall_after])
                self.wfile.flush()
                waits = 0
                while waits < 500 and not (trouble.until is not None and trouble.until()):
                    waits += 1 if not self.hub.closing.wait(0.01) else 500
                self.wfile.write(content[trouble.stall_after :])
            else:
                self.wfile.write(content + bytes(trouble.grow))

    def api(self, parts: list[str], query: dict[str, list[str]], body: bytes, token: str | None) -> None:
        if parts == ["whoami-v2"]:
            known = token == TOKEN
            role = {"accessToken": {"displayName": "tests", "role": "write"}}
            account = {"name": "tester", "type": "user", "orgs": [], "auth": role}
            self.send_json(account if known else {"error": "no"}, 200 if known else 401)
        elif parts == ["repos", "create"]:
            self.create(json.loads(body), token)
        elif parts == ["validate-yaml"]:
            self.send_json({"warnings": [], "errors": []})
        elif parts[0] == "models" and len(parts) >= 3:
            self.model("/".join(parts[1:3]), parts[3:], query, body, token)
        else:
            self.send_error_code(404, None)

    def create(self, wanted: dict[str, Any], token: str | None) -> None:
        if token != TOKEN:
            self.send_error_code(401, None, "Invalid username or password.")
            return
        name = f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
        url, exists = {"url": f"{self.hub.endpoint}/{name}"}, name in self.hub.repos
        if "/" in name and self.hub.trouble.get(name, Trouble()).refuses("POST"):
            self.refuse(self.hub.trouble[name])
            return
        if not exists:
            private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            self.hub.repos[name] = Repo(private=private)
            self.hub.repos[name].commit({}, message="initial commit")
        self.send_json(url, 409 if exists else 200)

    def model(self, name: str, rest: list[str], query: dict[str, list[str]], body: bytes, token: str | None) -> None:
        repo = self.repo(name, token)
        if repo is None:
            return
        verb, revision = rest[0] if rest else "", rest[1] if len(rest) > 1 else "main"
        if verb == "branch" and self.command == "POST":
            exists = revision in repo.refs
            repo.refs.setdefault(revision, repo.refs["main"])
            self.send_json({} if not exists else {"error": "exists"}, 409 if exists else 200)
            return
        files = repo.files(revision)
        if files is None:
            self.send_error_code(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif verb in ("", "revision"):
            siblings = [{"rfilename": path} for path in sorted(files)]
            sha = repo.refs.get(revision, revision)
            self.send_json({"id": name, "sha": sha, "siblings": siblings, "private": repo.private, "tags": []})
        elif verb == "tree":
            self.send_json([self.entry(path, file) for path, file in sorted(files.items())])
        elif verb == "preupload":
            self.send_json({"files": [self.mode(wanted, files) for wanted in json.loads(body)["files"]]})
        elif verb == "commit":
            self.commit(name, repo, revision, body, create_pr="create_pr" in query)
        else:
            self.send_error_code(404, None)

    def entry(self, path: str, file: Stored) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": file.size, "oid": file.oid[:40]}
        if file.is_lfs:
            entry["lfs"] = {"oid": file.oid, "size": file.size, "pointerSize": 130}
        return entry

    def mode(self, wanted: dict[str, Any], files: dict[str, Stored]) -> dict[str, Any]:
        present = files.get(wanted["path"])
        kind = "lfs" if wanted["size"] >= LFS_FROM else "regular"
        oid = present.oid if present is not None else None
        return {"path": wanted["path"], "uploadMode": kind, "shouldIgnore": False, "oid": oid}

    def lfs_batch(self, wanted: dict[str, Any]) -> None:
        objects = []
        for item in wanted["objects"]:
            actions = {
                "upload": {"href": f"{self.hub.endpoint}/lfs/{item['oid']}", "header": {}},
                "verify": {"href": f"{self.hub.endpoint}/lfs-verify/{item['oid']}", "header": {}},
            }
            objects.append({"oid": item["oid"], "size": item["size"], "actions": actions})
        self.send_json({"transfer": "basic", "objects": objects})

    def commit(self, name: str, repo: Repo, revision: str, body: bytes, *, create_pr: bool) -> None:
        files, message = dict(repo.files(revision) or {}), ""
        for line in body.decode().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = Stored(base64.b64decode(value["content"]))
            elif item["key"] == "lfsFile":
                files[value["path"]] = Stored(self.hub.uploads[value["oid"]])
            elif item["key"] == "deletedFile":
                files.pop(value["path"], None)
        sha = repo.commit(files, "refs/pr/1" if create_pr else revision, message)
        answer = {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{sha}", "commitOid": sha}
        if create_pr:
            answer["pullRequestUrl"] = f"{self.hub.endpoint}/{name}/discussions/1"
        self.send_json(answer)

    def send_json(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_error_code(
        self,
        status: int,
        code: str | None,
        message: str | None = None,
        *,
        commit: str | None = None,
        retry_after: int | str | None = None,
    ) -> None:
        content = json.dumps({"error": message or "error"}).encode()
        self.send_response(status)
        headers = {
            "X-Error-Code": code,
            "X-Error-Message": message,
            "X-Repo-Commit": commit,
            "Retry-After": retry_after,
        }
        for key, value in headers.items():
            if value is not None:
                self.send_header(key, str(value))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
