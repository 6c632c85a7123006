"""Generates from the model in this folder: texts in, texts out; or token ids.

    python generate.py "It rained all day in Porto." "A fire broke out at the harbour."
    python generate.py --ids 51 96 107 1
    python generate.py --greedy "It rained all day in Porto."

Without --greedy it calls `generate`, which holds the whole search as generation_config.json has it, beams and rules
included. With --greedy it runs the loop below over `encode` and `decode_step`, to be changed as you need it. That loop
honours decoder_start_token_id, eos_token_id, pad_token_id, max_length, min_length, forced_bos_token_id and
forced_eos_token_id of generation_config.json, and no other option.

Needs NumPy and what runtime.py imports; for texts, tokenizers. It imports nothing of seq2seq_models.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Function = Callable[..., dict[str, Any]]

FOLDER = Path(__file__).parent


def settings() -> dict[str, Any]:
    """The options of generation_config.json."""
    found: dict[str, Any] = json.loads((FOLDER / "generation_config.json").read_text(encoding="utf-8"))
    return found


def padded(rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Rows of token ids as `input_ids` and `attention_mask`, int32 [B, S]."""
    pad, length = settings().get("pad_token_id") or 0, max(map(len, rows))
    ids = [[*row, *[pad] * (length - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
    return {"input_ids": np.array(ids, np.int32), "attention_mask": np.array(mask, np.int32)}


def greedy(encode: Function, decode_step: Function, input_ids: Any, attention_mask: Any) -> Any:
    """The most probable token at each step, int32 [B, max_length], padded after the end.

    Args:
        encode, decode_step: as `runtime.load` gives them.
        input_ids, attention_mask: int32 [B, S].
    """
    options = settings()
    most, pad = options["max_length"], options.get("pad_token_id") or 0
    forced = {1: options.get("forced_bos_token_id"), most - 1: options.get("forced_eos_token_id")}
    end = np.atleast_1d(options.get("eos_token_id", []))
    found = encode(input_ids=input_ids, attention_mask=attention_mask)
    source = {"attention_mask": attention_mask, **{name: found[name] for name in ("cross_keys", "cross_values")}}
    layers, rows, heads, _, width = found["cross_keys"].shape
    keys = values = np.zeros((layers, rows, heads, most - 1, width), found["cross_keys"].dtype)
    tokens = np.full((rows, most), pad, np.int32)
    tokens[:, 0] = options["decoder_start_token_id"]
    is_open = np.ones(rows, bool)
    for length in range(1, most):
        latest, start = tokens[:, length - 1 : length], np.array(length - 1, np.int32)
        step = decode_step(decoder_input_ids=latest, start=start, cache_keys=keys, cache_values=values, **source)
        keys, values, scores = step["cache_keys"], step["cache_values"], np.array(step["logits"][:, -1])
        if length < (options.get("min_length") or 0):
            scores[:, end] = -np.inf
        if forced.get(length) is not None:
            scores[:, forced[length]] = np.inf
        tokens[is_open, length] = scores.argmax(-1)[is_open]
        is_open &= ~np.isin(tokens[:, length], end)
        if not is_open.any():
            break
    return tokens


def main() -> None:
    """Prints what comes of every text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", help="texts, or with --ids the token ids of one")
    parser.add_argument("--ids", action="store_true", help="take and print token ids")
    parser.add_argument("--greedy", action="store_true", help="the loop of this file instead of `generate`")
    given = parser.parse_args()
    import runtime  # type: ignore[import-not-found]  # the file beside this one

    if given.ids:
        rows = [list(map(int, given.texts))]
    else:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
        config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
        tokenizer.enable_truncation(config["max_position_embeddings"])
        rows = [tokenizer.encode(text).ids for text in given.texts]
    if given.greedy:
        found = greedy(runtime.load(FOLDER, "encode"), runtime.load(FOLDER, "decode_step"), **padded(rows))
    else:
        found = runtime.load(FOLDER, "generate")(**padded(rows))["sequences"]
    for row in found:
        print(*row) if given.ids else print(tokenizer.decode(row, skip_special_tokens=True))


if __name__ == "__main__":
    main()
