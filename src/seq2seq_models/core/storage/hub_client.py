"""What reading from and writing to the hub share: who we say we are, and how an error of the client is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def library() -> dict[str, Any]:
    """Who is asking, as keywords of the client's functions."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return {"library_name": "seq2seq_models", "library_version": version("seq2seq_models")}
    except PackageNotFoundError:  # run from a checkout that is not installed
        return {"library_name": "seq2seq_models"}


def endpoint() -> str:
    """The hub's address."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def sent_token(token: str | bool | None) -> str | None:
    """Which token goes with a request, in words and never itself; None if none does."""
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalTokenNotFoundError
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # not in its __all__

    if isinstance(token, str):
        return "the token passed as `token`"
    try:
        if "authorization" not in build_hf_headers(token=token):
            return None
    except LocalTokenNotFoundError:
        return None
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name, "").strip():
            return f"the token in the environment variable {name}"
    file = Path(constants.HF_TOKEN_PATH)
    return f"the token of the login in {file}" if file.is_file() else "the token of the login"


def status_of(error: BaseException) -> int | None:
    """The HTTP status an error carries; None if no answer came."""
    return getattr(getattr(error, "response", None), "status_code", None)


def first_line(error: BaseException) -> str:
    """What an error says, in one line without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def said(error: BaseException) -> str:
    """What the hub says about an error, in its own words if it has any, in one line without its full stop."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    words = " ".join((headers.get("X-Error-Message") or "").split())
    return words.rstrip(".") or first_line(error)


def is_temporary(status: int | None) -> bool:
    """Whether a status (None: no answer) says nothing about the repository, so that a later request may do better."""
    return status is None or status in (408, 429) or status >= 500


def timed_out(error: BaseException) -> bool:
    """Whether an error of either generation of the client means that an answer did not come in time."""
    return "Timeout" in type(error).__name__ or "timed out" in str(error)


def retry_after(answer: Any) -> float | None:
    """The seconds that an answer, or the answer that an error carries, asks to wait for; None if it does not.

    The header holds seconds or a date (RFC 9110, 10.2.3).
    """
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime

    answer = getattr(answer, "response", answer)
    if getattr(answer, "status_code", None) not in (429, 503):
        return None
    value = str(answer.headers.get("Retry-After") or "").strip()
    if value.isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def outage(error: BaseException) -> str:
    """Why the hub gave no answer, to be read after a comma or "because"."""
    status = status_of(error)
    if status == 429:
        seconds = retry_after(error)
        pause = "" if seconds is None else f", and asks to wait {seconds:.0f} s"
        return f"{endpoint()} is limiting requests (429){pause}"
    if type(error).__name__ == "FileMetadataError":
        return f"{endpoint()} answers without the headers of a hub (is a proxy or a login page in between?)"
    if status is not None:
        reason = f"status {status}"
    elif timed_out(error):
        reason = "no answer in time"
    else:
        reason = "no connection" if type(error).__name__.startswith("Connect") else type(error).__name__
    return f"{endpoint()} cannot be reached ({reason})"
