"""What a load or push says that the hub, the way to it or a disk has stopped: what is wrong, where, and what to do."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from ...errors import CheckpointNotFoundError
from .hub_client import endpoint, first_line, is_temporary, outage, said, sent_token, status_of, timed_out

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
UNUSABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST})
"""What the system says of a folder that cannot be written to, or read from, or is none."""


LOGIN = "pass token=… or run `hf auth login`"


def refusal(name: str, revision: str | None, token: str | bool | None, error: Exception) -> CheckpointNotFoundError:
    """The error for a repository, revision or token that the hub did answer, with a no.

    Args:
        name: the repository.
        revision: the one that was asked for.
        token: as the user passed it; the message says where the token that was sent came from.
        error: the client's.
    """
    from huggingface_hub.errors import LocalTokenNotFoundError, RevisionNotFoundError

    hub, page, status = endpoint(), f"{endpoint()}/{name}", status_of(error)
    if isinstance(error, LocalTokenNotFoundError):
        text = f"`token` must be a token when none is stored, got True (for {name}). Give it, or run `hf auth login`"
    elif _elsewhere(error):
        text = f"{_elsewhere(error)}, where {hub} keeps files of {name}, refused one ({status}). Load it again"
    elif isinstance(error, RevisionNotFoundError):
        text = f"`revision` must be a branch, tag or commit of {name}, got {revision!r}. See {page}"
    elif status in (401, 403, 404):
        sent = sent_token(token)
        text = _unknown(name, error) if sent is None else _not_for(name, sent, error)
    else:
        text = f"{hub} refused {name} ({first_line(error)}). See {page}"
    return CheckpointNotFoundError(text + ".")


def _unknown(name: str, error: Exception) -> str:
    """What somebody who has sent no token may not see."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    hub = endpoint()
    if isinstance(error, GatedRepoError):
        return (
            f"{name} is gated: its owner has to grant access, and no token was sent. "
            f"Ask for access at {hub}/{name}, then {LOGIN} with that account"
        )
    if isinstance(error, RepositoryNotFoundError) or status_of(error) == 404:
        return (
            f"{name} is neither a folder here nor a repository on {hub} that you may see (no token was sent). "
            f"Check the spelling; if the repository is private, {LOGIN}"
        )
    answer = f"{status_of(error)}: {said(error)}"
    return f"{hub} does not give {name} to everyone ({answer}), and no token was sent. Please {LOGIN}"


def _not_for(name: str, sent: str, error: Exception) -> str:
    """What the token that was sent is no key to."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    hub, status = endpoint(), status_of(error)
    if isinstance(error, GatedRepoError):
        return (
            f"{name} is gated: its owner has to grant access, and the account of {sent} has none "
            f"({status}: {said(error)}). Ask for it at {hub}/{name}"
        )
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return (
            f"{name} is neither a folder here nor a repository on {hub} that you may see with {sent}. "
            "Check the spelling; if it is private, pass a token of an account that may read it"
        )
    if status == 401:
        return (
            f"{hub} refused the token for {name} (401): {sent} is not valid, or is no longer. "
            f"Make a new one at {hub}/settings/tokens, then {LOGIN}"
        )
    return f"This token may not read {name} (403: {said(error)}); it is {sent}. Use one that may; see {hub}/{name}"


def _elsewhere(error: Exception) -> str:
    """The host that answered, if the hub had sent the client to another one; such a host is sent no token."""
    asked = str(getattr(getattr(error, "response", None), "url", ""))
    origin = urlsplit(asked)[:2]
    return "" if not asked or origin == urlsplit(endpoint())[:2] else "://".join(origin)


def unusable_cache(cache: str, error: BaseException) -> str | None:
    """Why the disk of the cache stopped a load, and what to do; None if it was something else."""
    if not isinstance(error, OSError) or status_of(error) is not None:
        return None
    elsewhere = "pass cache_dir=…, or set HF_HOME, to a folder"
    if error.errno in FULL:
        there = next(path for path in (Path(cache), *Path(cache).parents) if path.exists())
        free = shutil.disk_usage(there).free / 1e6
        return (
            f"the disk of the cache is full ({error.strerror}; {free:,.1f} MB are free). "
            f"Free some space, or {elsewhere} on another disk"
        )
    if error.errno in UNUSABLE:
        return f"the cache cannot be written to ({error.strerror}). Make it writable, or {elsewhere} that is"
    return None


def unreadable_cache(name: str, cache: str, error: OSError) -> CheckpointNotFoundError:
    """The error for a cache that does not let itself be looked into."""
    return CheckpointNotFoundError(
        f"The cache {cache} cannot be read for {name} ({error.strerror or first_line(error)}). "
        "Make it readable, or pass cache_dir=…, or set HF_HOME, to a folder that is."
    )


def broke_off(error: Exception) -> bool:
    """Whether a body ended early on its way, which a further attempt may mend."""
    return type(error).__name__ in ("ChunkedEncodingError", "ReadError", "RemoteProtocolError")


def broken_download(file: str, name: str, cache: str, error: Exception) -> CheckpointNotFoundError:
    """The error for a file that the hub has, and that did not arrive whole.

    Args:
        file: its path in the repository.
        name: the repository.
        cache: the folder it should have gone to.
        error: the client's, or the system's.
    """
    from huggingface_hub import constants

    status = status_of(error)
    why = unusable_cache(cache, error)
    if why is not None:
        pass
    elif status == 416 or "Consistency check failed" in str(error):
        why = "it is not as long as the hub says. Load it again with force_download=True"
    elif status is None and timed_out(error):
        seconds = f"{constants.HF_HUB_DOWNLOAD_TIMEOUT:g} s (HF_HUB_DOWNLOAD_TIMEOUT)"
        why = f"nothing more came for {seconds}. Load it again: files that are complete are kept"
    elif broke_off(error):
        why = "the connection broke off, again and again. Load it again: files that are complete are kept"
    elif (status is not None and is_temporary(status)) or type(error).__name__.startswith("Connect"):
        why = f"{outage(error)}. Load it again later: files that are complete are kept"
    else:
        why = f"{first_line(error)}. Load it again: files that are complete are kept"
    return CheckpointNotFoundError(f"{file} of {name} could not be downloaded into {cache}: {why}.")


def push_refusal(repo_id: str, token: str | bool | None, error: Exception) -> CheckpointNotFoundError:
    """The error for a push that the hub or the way to it has stopped."""
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, RepositoryNotFoundError

    if isinstance(error, HFValidationError):
        return CheckpointNotFoundError(
            f'`repo_id` must be "owner/name" in letters, digits, "-", "_" and ".", got {repo_id!r}. Give such a name.'
        )
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the client's wrapper around a failed file
    status, hub = status_of(error), endpoint()
    sent = sent_token(token)
    login = "Pass token=… of an account that may write there, or run `hf auth login`."
    got = "no token was sent" if sent is None else f"what was sent is {sent}"
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        why = f"{hub} wants a valid token, and {got}. {login}"
    elif status == 403:
        why = f"this token may not write there (403: {said(error)}): {got}. {login}"
    elif isinstance(error, RepositoryNotFoundError) or status == 404:
        why = f"{hub} does not show it to this account; {got}. {login}"
    elif is_temporary(status) and isinstance(error, OSError) and error.errno in FULL:
        why = f"a disk here is full ({error}). Free some space and push again."
    elif is_temporary(status):
        why = f"{outage(error)}. Push again later."
    else:
        why = f"{hub} answered {first_line(error)}."
    return CheckpointNotFoundError(f"{repo_id} was not pushed: {why}")
