"""Random combinations of generation options for tiny models: every framework is held to the same ones."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from .tiny import batch

COMBINATIONS = 320
CHUNK = 20
BY_DEFAULT = 80
END = {"Pegasus": 1, "BlenderbotSmall": 2}
RULES = frozenset(
    "min_length min_new_tokens no_repeat_ngram_size repetition_penalty forced_bos_token_id forced_eos_token_id "
    "suppress_tokens begin_suppress_tokens encoder_no_repeat_ngram_size encoder_repetition_penalty bad_words_ids "
    "sequence_bias exponential_decay_length_penalty prefix_allowed_tokens_fn remove_invalid_values "
    "renormalize_logits length_penalty early_stopping eos_token_id use_cache decoder_input_ids".split()
)


def chunks() -> list[Any]:
    """Starts of the runs of combinations; the later ones are heavy."""
    starts = range(0, COMBINATIONS, CHUNK)
    return [pytest.param(start, marks=[pytest.mark.heavy] if start >= BY_DEFAULT else []) for start in starts]


def source(seed: int, rows: int = 3, length: int = 11) -> dict[str, torch.Tensor]:
    inputs = batch(seed, rows=rows, source=length)
    return {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}


class EveryOther:
    """Allows half of the words, another half at each length, and the end."""

    def __init__(self, end: int) -> None:
        self.end = end

    def __call__(self, row: int, ids: Any) -> list[int]:
        return [self.end, *range(3 + (row + len(ids)) % 2, 83, 2)]


def combination(seed: int, family: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Random inputs and options; every option is off more often than on, so that all pairs occur."""
    draw = random.Random(seed)
    end = END[family]

    def word() -> int:
        return draw.randrange(3, 83)

    def words(count: int) -> list[int]:
        return draw.sample(range(3, 83), count)

    beams = draw.choice([1, 1, 2, 3, 5])
    length = draw.choice([5, 9, 14, 20])
    rows = draw.choice([1, 2, 4])
    bias = [[[word()], 4.0], [[word(), word()], -5.0]]
    bias.append([[word(), bias[0][0][0]], 6.0])
    chances = {
        "min_length": (0.15, lambda: draw.randrange(1, length)),
        "min_new_tokens": (0.15, lambda: draw.randrange(1, length)),
        "no_repeat_ngram_size": (0.4, lambda: draw.choice([1, 2, 3])),
        "repetition_penalty": (0.4, lambda: draw.choice([0.7, 1.3, 2.0])),
        "forced_bos_token_id": (0.3, word),
        "forced_eos_token_id": (0.3, lambda: draw.choice([None, end, [end, 7]])),
        "eos_token_id": (0.3, lambda: [end, word()]),
        "suppress_tokens": (0.2, lambda: words(5)),
        "begin_suppress_tokens": (0.2, lambda: words(5)),
        "encoder_no_repeat_ngram_size": (0.25, lambda: draw.choice([1, 2, 3])),
        # With beams, the reference treats the first rows only.
        "encoder_repetition_penalty": (0.3 if beams == 1 else 0.0, lambda: draw.choice([0.5, 1.5, 3.0])),
        "bad_words_ids": (0.25, lambda: [[word()], [word(), word()], [end], [end, word()]]),
        "sequence_bias": (0.25, lambda: draw.choice([bias, {tuple(ids): value for ids, value in bias}])),
        "exponential_decay_length_penalty": (0.4, lambda: (draw.randrange(1, 6), draw.choice([1.1, 1.5]))),
        "prefix_allowed_tokens_fn": (0.2, lambda: EveryOther(end)),
        "remove_invalid_values": (0.15, lambda: True),
        "renormalize_logits": (0.2, lambda: True),
        "use_cache": (0.2, lambda: False),
        "decoder_input_ids": (0.2, lambda: torch.tensor([words(3) for _ in range(rows)])),
        "length_penalty": (beams - 1, lambda: draw.choice([0.0, 0.6, 1.0, 2.0, -1.0])),
        "early_stopping": (beams - 1, lambda: draw.choice([True, False, "never"])),
        "num_return_sequences": (beams - 1, lambda: draw.randrange(1, beams + 1)),
    }
    options = {name: value() for name, (chance, value) in chances.items() if draw.random() < chance}
    options |= {"num_beams": beams, "do_sample": False}
    counts_new = "min_new_tokens" in options or "decoder_input_ids" in options or draw.random() < 0.4
    options["max_new_tokens" if counts_new else "max_length"] = length
    if {"min_length", "min_new_tokens", "eos_token_id", "forced_eos_token_id"} & set(options):
        # Where the end is impossible at some step, the reference's decay makes it NaN, which then wins.
        options.pop("exponential_decay_length_penalty", None)
    if "min_length" in options and "min_new_tokens" in options:
        del options["min_length"]
    return source(seed, rows=rows, length=draw.choice([1, 6, 13])), options
