"""From files and data sets to pairs of text, and from those to rows of token ids."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from seq2seq_models import Conversation
from seq2seq_models.core.window import window

from .arguments import Settings

SOURCES = ("source", "document", "article", "text")
TARGETS = ("target", "summary", "highlights", "headline")
DIALOGUES = ("turns", "dialogue", "messages")


@dataclass(frozen=True)
class Example:
    """One source and what is to be written for it.

    Attributes:
        source: token ids.
        target: token ids, the closing token last.
        answer: the target as text, to score against.
    """

    source: list[int]
    target: list[int]
    answer: str


def read(name: str, split: str, settings: Settings, task: str, tokenizer: Any, config: Any) -> list[Example]:
    """The examples of a file, a folder of `datasets`, or a data set on the hub ("NAME" or "NAME:CONFIG").

    Args:
        name: where the data is.
        split: "train" or "validation", for data sets that have splits.
        settings: names of columns, and lengths.
        task: "summarization", of pairs; or "chat", of dialogues: every reply in them is an example.
        tokenizer: the model's tokenizer.
        config: the model's config.

    Raises:
        ValueError: there is no such data, or it lacks a column; the message names those there are.
    """
    limit = window(config, tokenizer)
    limit = min(limit, settings.max_source_length or limit)
    most = settings.train_examples if split == "train" else settings.validation_examples
    made = _replies if task == "chat" else _pairs
    found = list(islice(made(_rows(name, split), settings, tokenizer, limit), most))
    if not found:
        raise ValueError(f"--{split} must hold at least one example, got none in {name}.")
    targets = tokenizer([answer for _, answer in found])["input_ids"]
    end, room = config.eos_token_id, min(settings.max_target_length, config.max_position_embeddings)
    return [
        Example(source, [*[token for token in target if token != end][: room - 1], end], answer)
        for (source, answer), target in zip(found, targets, strict=True)
    ]


def _rows(name: str, split: str) -> Iterator[Mapping[str, Any]]:
    path = Path(name)
    if path.suffix in (".jsonl", ".json") and path.is_file():
        with path.open(encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines if line.strip())
    elif path.suffix == ".csv" and path.is_file():
        with path.open(encoding="utf-8", newline="") as table:
            yield from csv.DictReader(table)
    elif path.suffix in (".jsonl", ".json", ".csv"):
        raise ValueError(f"--{split} must be a file that is there, got {name}.")
    else:
        yield from _data_set(name, split)


def _data_set(name: str, split: str) -> Any:
    import datasets

    if Path(name).is_dir():
        found = datasets.load_from_disk(name)
        return found[split] if isinstance(found, datasets.DatasetDict) else found
    repository, _, config = name.partition(":")
    return datasets.load_dataset(repository, config or None, split=split)


def _column(row: Mapping[str, Any], wanted: str | None, usual: tuple[str, ...], option: str) -> Any:
    for name in (wanted,) if wanted else usual:
        if name in row:
            return row[name]
    raise ValueError(f"--{option}-column must be one of {', '.join(row)}; looked for {wanted or ', '.join(usual)}.")


def _pairs(
    rows: Iterator[Mapping[str, Any]], settings: Settings, tokenizer: Any, limit: int
) -> Iterator[tuple[list[int], str]]:
    """Token ids of each source, its end cut where it is too long, and the answer."""
    while several := list(islice(rows, 1000)):
        texts = [_column(row, settings.source_column, SOURCES, "source") for row in several]
        for row, ids in zip(several, tokenizer(texts, truncation=True, max_length=limit)["input_ids"], strict=True):
            yield list(ids), _column(row, settings.target_column, TARGETS, "target")


def _replies(
    rows: Iterator[Mapping[str, Any]], settings: Settings, tokenizer: Any, limit: int
) -> Iterator[tuple[list[int], str]]:
    """Token ids of what was said before each reply, its beginning cut where it is too long, and the reply.

    In a plain list of turns the second speaker's are the replies.
    """
    for row in rows:
        turns = _column(row, settings.dialogue_column, DIALOGUES, "dialogue")
        turns = json.loads(turns) if isinstance(turns, str) else turns  # in a cell of a table
        roles = ("user", "assistant")
        said = [
            turn if isinstance(turn, Mapping) else {"role": roles[place % 2], "content": turn}
            for place, turn in enumerate(turns)
        ]
        for place, turn in enumerate(said):
            if turn["role"] == "assistant" and place:
                yield Conversation(said[:place]).encode(tokenizer, limit), turn["content"]
