"""How much text a model reads at once, and the one place where a longer document is made to fit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

logger = logging.getLogger("seq2seq_models")


def window(config: Any, tokenizer: Any) -> int:
    """Tokens that the encoder reads at once: the smaller of the model's positions and the tokenizer's own limit.

    Args:
        config: a model config with `max_position_embeddings`.
        tokenizer: its `model_max_length` counts only where it is set (files without it leave it at 1e30).
    """
    return int(min(config.max_position_embeddings, tokenizer.model_max_length))


def document_rows(tokenizer: Any, documents: Sequence[str], limit: int) -> list[list[int]]:
    """Token ids of each document, none longer than `limit`: a longer document loses its end, and the log says so.

    This is the seam for reading long documents in parts: it alone decides what of a document reaches the model.

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
