"""How much text a model reads at once, and the one place where a longer document is made to fit."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

logger = logging.getLogger("seq2seq_models")

_SENTENCE_ENDS = re.compile(r"[.!?…][^\w\s]*\s+|\n+")
"""Where a text may be parted: after a sentence and the quotes or brackets that close it, and at line breaks."""


def window(config: Any, tokenizer: Any) -> int:
    """Tokens that the encoder reads at once: the smaller of the model's positions and the tokenizer's own limit.

    Args:
        config: a model config with `max_position_embeddings`.
        tokenizer: its `model_max_length` counts only where it is set (files without it leave it at 1e30).
    """
    return int(min(config.max_position_embeddings, tokenizer.model_max_length))


def sentences(document: str) -> list[str]:
    """The sentences of a text in order, white space around them left out; none for an empty text."""
    cuts = [0, *(match.end() for match in _SENTENCE_ENDS.finditer(document)), len(document)]
    return [piece for start, end in pairwise(cuts) if (piece := document[start:end].strip())]


def cut_rows(tokenizer: Any, documents: Sequence[str], limit: int) -> list[list[int]]:
    """Token ids of each document, none longer than `limit`: a longer document loses its end, and the log says so.

    Args:
        tokenizer: turns text into ids, special tokens included; truncation keeps its closing token.
        documents: the texts.
        limit: tokens that the model reads at once, see `window`.
    """
    rows: list[list[int]] = [list(row) for row in tokenizer(list(documents), verbose=False)["input_ids"]]
    for index, row in enumerate(rows):
        if len(row) > limit:
            logger.warning("a text has %d tokens and this model reads %d: only its beginning is read", len(row), limit)
            rows[index] = list(tokenizer(documents[index], truncation=True, max_length=limit)["input_ids"])
    return rows


def part_rows(tokenizer: Any, documents: Sequence[str], limit: int) -> list[list[list[int]]]:
    """Token ids of each document in parts of whole sentences, none longer than `limit`; one part where it fits.

    Parts are of about equal length, so that no summary rests on a leftover sentence. The log says what was parted.

    Args:
        tokenizer: turns text into ids, special tokens included.
        documents: the texts.
        limit: tokens that the model reads at once, see `window`.
    """
    parts: list[list[list[int]]] = [[list(row)] for row in tokenizer(list(documents), verbose=False)["input_ids"]]
    for index, (row,) in enumerate(parts):
        if len(row) > limit:
            texts = part_texts(tokenizer, documents[index], limit)
            parts[index] = [list(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]]
    return parts


def part_texts(tokenizer: Any, document: str, limit: int) -> list[str]:
    """The texts of these parts, of one document; together they have its characters, but for white space.

    Args:
        tokenizer, limit: as for `part_rows`.
        document: the text.
    """
    size = len(tokenizer(document, verbose=False)["input_ids"])
    if size <= limit:
        return [document]
    texts = _part(tokenizer, document, size, limit)
    logger.warning(
        "a text has %d tokens and this model reads %d: it is read in %d parts, whose summaries are joined",
        size,
        limit,
        len(texts),
    )
    return texts


def _part(tokenizer: Any, document: str, total: int, limit: int) -> list[str]:
    """The document in texts of at most `limit` tokens each, parted between sentences where that is possible."""
    pieces = sentences(document)
    if len(pieces) < 2:
        pieces = document.split()
        if len(pieces) < 2:
            half = len(document) // 2
            pieces = [document[:half], document[half:]]
    lengths = [len(row) for row in tokenizer(pieces, verbose=False)["input_ids"]]
    aim = total / -(-total // limit)
    texts: list[list[str]] = [[]]
    length = 0
    for piece, size in zip(pieces, lengths, strict=True):
        if texts[-1] and (length + size > limit or length + size / 2 > aim):
            texts.append([])
            length = 0
        texts[-1].append(piece)
        length += size
    found: list[str] = []
    for text in map(" ".join, texts):
        size = len(tokenizer(text, verbose=False)["input_ids"])
        found += [text] if size <= limit else _part(tokenizer, text, size, limit)
    return found
