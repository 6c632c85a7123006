"""The texts of a command line: files, standard input, lines, JSON records; read one by one, told apart by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from .errors import InputError

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Document:
    """A text and what its result is printed with.

    Attributes:
        text: the text.
        record: keys to repeat in JSON output: the input's own record, or where the text comes from.
        is_file: the text is a whole file, known by the file's name.
    """

    text: str
    record: dict[str, Any]
    is_file: bool = False


def read_documents(
    files: Sequence[str], *, lines: bool, jsonl: bool, field: str
) -> tuple[Iterator[Document], int | None]:
    """The documents of these files, read while they are iterated over, and how many there are, if that is known.

    Args:
        files: names; "-" is standard input, and so is no name at all.
        lines: every line is a document.
        jsonl: every line is a JSON object whose `field` is a document.
        field: see there.

    Raises:
        InputError: files do not exist or are folders (at once, all of them named), or are no text, or no such JSON
            (when reached).
    """
    names = list(files) or [STANDARD_INPUT]
    missing = sorted({name for name in names if name != STANDARD_INPUT and not Path(name).is_file()})
    folders = [name for name in missing if Path(name).is_dir()]
    if folders:
        raise InputError(f"a document must be a file, got the folder {', '.join(folders)}. Name the files in it.")
    if missing:
        raise InputError(f'no such file: {", ".join(missing)}. Check the spelling; "-" reads standard input.')
    by_line = lines or jsonl
    count = len(names) if not by_line and STANDARD_INPUT not in names else None
    return _documents(names, by_line, field if jsonl else None), count


def _documents(names: Sequence[str], by_line: bool, field: str | None) -> Iterator[Document]:
    for name in names:
        with _opened(name) as source:
            try:
                if by_line:
                    yield from _lines(name, source, field)
                else:
                    yield Document(source.read(), {"file": name}, is_file=True)
            except UnicodeDecodeError as error:
                raise InputError(f"{name} is not UTF-8 text: {error.reason} at byte {error.start}.") from error


def _opened(name: str) -> AbstractContextManager[TextIO]:
    # A byte-order mark, as Windows editors write it, is no part of the text.
    if name != STANDARD_INPUT:
        return Path(name).open(encoding="utf-8-sig")
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict")
    return nullcontext(sys.stdin)


def _lines(name: str, source: TextIO, field: str | None) -> Iterator[Document]:
    for number, line in enumerate(source, 1):
        if field is None:
            yield Document(line.strip(), {"file": name, "line": number})
        elif line.strip():
            record = _record(line, field, f"{name}, line {number}")
            yield Document(record[field], record)


def _record(line: str, field: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{place} is not JSON: {error.msg} at character {error.pos + 1}.") from error
    if not isinstance(record, dict) or not isinstance(record.get(field), str):
        raise InputError(f"{place} must be a JSON object with a text under {field!r}. Name another key with --field.")
    return record
