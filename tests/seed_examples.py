"""What the documentation's examples share in all frameworks: their texts, and repositories of the names they load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import transformers

SOURCE, TARGET = "Studies have been shown that owning a dog is good for you", "Studies show that"
DOG = "Hello, my dog is cute"
FIRST = "My friends are cool but they eat too many carbs."
NEXT = (
    "My friends are cool but they eat too many carbs.__end__ __start__what kind of carbs do they eat? "
    "i don't know much about carbs__end__ "
    "__start__ I'm not sure."
)
ARTICLE = (
    "PG&E stated it scheduled the blackouts in response to forecasts for high winds amid dry conditions. The aim is to "
    "reduce the risk of wildfires. Nearly 800 thousand customers were scheduled to be affected by the shutoffs which "
    "were expected to last through at least midday tomorrow."
)
NEXT_IN_TENSORFLOW = (
    "My friends are cool but they eat too many carbs.</s> "
    "<s>what kind of carbs do they eat? i don't know much about carbs.</s> "
    "<s>I'm not sure."
)
MASKED = "My friends are <mask> but they eat too many carbs."
SENTENCES = (SOURCE, TARGET, DOG, FIRST, NEXT, ARTICLE)
MORE_SENTENCES = (*SENTENCES, NEXT_IN_TENSORFLOW, MASKED)
BLENDERBOT, LARGE, XSUM = "facebook/blenderbot_small-90M", "google/pegasus-large", "google/pegasus-xsum"


def reference_ids(folder: Path, family: str, texts: str | list[str], **options: Any) -> list[list[int]]:
    """The ids that the reference's own slow tokenizer makes of the same files."""
    tokenizer = getattr(transformers, f"{family}Tokenizer").from_pretrained(folder)
    ids: list[list[int]] = tokenizer([texts] if isinstance(texts, str) else texts, **options).input_ids
    return ids


def near(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    """Arrays of any framework, equal within 1e-5 absolute and relative."""
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=tolerance, rtol=tolerance)
