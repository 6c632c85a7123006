"""What reading from and writing to the hub share: who we say we are, and how an error of the client is read."""

from __future__ import annotations

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


def status_of(error: BaseException) -> int | None:
    """The HTTP status an error carries; None if no answer came."""
    return getattr(getattr(error, "response", None), "status_code", None)


def first_line(error: BaseException) -> str:
    """What an error says, in one line without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def outage(error: BaseException, status: int | None) -> str:
    """Why the hub gave no answer, to be read after a comma or "because"."""
    if status == 429:
        return f"{endpoint()} is limiting requests (429)"
    reason = f"status {status}" if status is not None else type(error).__name__
    return f"{endpoint()} cannot be reached ({reason})"
