"""ParlAI's dictionary: the tokens of `model.dict` and the merges of `model.dict.codecs`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seq2seq_models.errors import CheckpointError

SPECIAL = (("null", "__null__"), ("start", "__start__"), ("end", "__end__"), ("unk", "__unk__"))


def read_dictionary(file: Path, options: Mapping[str, Any], rows: int) -> list[str]:
    """The tokens in the order of their ids: the special ones, then a line each, as ParlAI reads the file.

    Args:
        file: lines of a token, a tab and its count.
        options: they name the special tokens.
        rows: of the embedding; up to 7 of them pad a dictionary to a multiple of 8 for float16 without a line.
    """
    tokens = dict.fromkeys(str(options.get(f"dict_{name}token", default)) for name, default in SPECIAL)
    with file.open(encoding="utf-8", errors="ignore") as stream:  # as ParlAI does: its ids depend on it
        for line in stream:
            token = line.strip().split("\t")[0]
            token = token.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r")
            tokens[token.lower() if token in ("__UNK__", "__NULL__", "__END__", "__START__") else token] = None
    if rows % 8 == 0 and 0 < rows - len(tokens) < 8:
        tokens.update(dict.fromkeys(f"__FP16_PAD_{number}__" for number in range(rows - len(tokens))))
    if len(tokens) != rows:
        raise CheckpointError(
            f"The dictionary must have a token for each of the {rows} rows of the embedding, got {len(tokens)} "
            f"({file}). Give the model.dict of this model."
        )
    return list(tokens)


def read_codecs(file: Path) -> list[str]:
    """The merges, one "first second" each, as subword-nmt reads them: of two equal ones, the first counts.

    Raises:
        CheckpointError: it is no file of merges, or of a version that marks the ends of words otherwise.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file} must be UTF-8 text, but: {error}. Download it again.") from None
    merges = [line.strip("\r\n ") for line in lines[1:]]
    while merges and not merges[-1]:
        merges.pop()
    wrong = [number for number, merge in enumerate(merges, 2) if len(merge.split(" ")) != 2]
    if lines[0].strip() != "#version: 0.2" or wrong:
        got = f"line {wrong[0]}: {merges[wrong[0] - 2]!r}" if wrong else f"line 1: {lines[0][:40]!r}"
        raise CheckpointError(
            f"{file} must begin with '#version: 0.2' and have two symbols on each line, got {got}. "
            "Give the model.dict.codecs of this model."
        )
    return list(dict.fromkeys(merges))
