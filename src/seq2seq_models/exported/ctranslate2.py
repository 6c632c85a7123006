"""The model of this folder in CTranslate2: `load(folder, "generate")`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np


def load(folder: Path, name: str) -> Callable[..., dict[str, Any]]:
    """`generate` on NumPy arrays by name, which gives NumPy arrays by name; see README.md.

    Of generation_config.json it honours num_beams, num_return_sequences, max_length, min_length, length_penalty,
    repetition_penalty, no_repeat_ngram_size and forced_eos_token_id.
    """
    if name != "generate":
        raise ValueError(f"`name` must be 'generate', got {name!r}: CTranslate2 has no single steps.")
    options = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    words = json.loads((folder / "ctranslate2" / "shared_vocabulary.json").read_text(encoding="utf-8"))
    places = {word: place for place, word in enumerate(words)}
    start, most = options["decoder_start_token_id"], options["max_length"]
    forced = options.get("forced_eos_token_id")  # the last of max_length tokens, if no other is the end before
    translator = ctranslate2.Translator(str(folder / "ctranslate2"))

    def generate(input_ids: Any, attention_mask: Any) -> dict[str, Any]:
        rows = [[words[token] for token in ids[mask != 0]] for ids, mask in zip(input_ids, attention_mask, strict=True)]
        results = translator.translate_batch(
            rows,
            beam_size=options.get("num_beams", 1),
            num_hypotheses=options.get("num_return_sequences", 1),
            length_penalty=options.get("length_penalty", 1.0),
            repetition_penalty=options.get("repetition_penalty", 1.0),
            no_repeat_ngram_size=options.get("no_repeat_ngram_size", 0),
            min_decoding_length=max(options.get("min_length", 0) - 1, 0),
            max_decoding_length=most - 1 - (forced is not None),
            max_input_length=0,
            return_end_token=True,
        )
        found = [[start, *(places[word] for word in one)] for result in results for one in result.hypotheses]
        if forced is not None:
            found = [row if row[-1] == options["eos_token_id"] else [*row, forced] for row in found]
        pad = options.get("pad_token_id") or 0
        return {"sequences": np.array([[*row, *[pad] * (most - len(row))] for row in found], np.int32)}

    return generate
