"""Tiny models and data to train them on, for the tests of libraries that train."""

from __future__ import annotations

from functools import cache
from typing import Any

import datasets
import numpy as np
import torch

import seq2seq_models
from seq2seq_models import DataCollatorForSeq2Seq
from seq2seq_models.bundled import demo_checkpoint

from .loading import tensors
from .tiny import close, ours_like, reference

DEMOS = {"Pegasus": "pegasus-demo", "BlenderbotSmall": "blenderbot-small-demo"}
STILL = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}


@cache
def tokenizer(family: str) -> Any:
    return getattr(seq2seq_models, f"{family}Tokenizer").from_pretrained(demo_checkpoint(DEMOS[family]))


def models(family: str, **overrides: Any) -> tuple[Any, Any]:
    """A reference model and ours with the same weights, for the words of the demonstration's tokenizer."""
    # Without the decoder's scale, which the reference's BlenderbotSmall lost.
    settings = {"scale_embedding": family == "Pegasus", "vocab_size": len(tokenizer(family))}
    theirs = reference(family, **{**STILL, **settings, **overrides})
    theirs.generation_config.max_length = 9
    mine = ours_like(theirs)
    mine.generation_config.max_length = 9
    return theirs, mine


def examples(family: str, count: int, seed: int = 0) -> datasets.Dataset:
    """Random sources and labels of several lengths, and a column that is no input of the model."""
    random = np.random.default_rng(seed)
    size = len(tokenizer(family))
    rows = []
    for number in range(count):
        source, target = (random.integers(5, size, random.integers(low, 12)).tolist() for low in (4, 3))
        rows.append({"input_ids": source, "attention_mask": [1] * len(source), "labels": target, "number": number})
    return datasets.Dataset.from_list(rows)


def collator(family: str, config: Any) -> DataCollatorForSeq2Seq:
    """Pads examples and makes decoder inputs: the reference's BlenderbotSmall cannot, so ours does it for both."""
    shift = getattr(seq2seq_models, f"{family}ForConditionalGeneration").prepare_decoder_input_ids_from_labels
    shifts = type("Shifts", (), {"config": config, "prepare_decoder_input_ids_from_labels": shift})()
    return DataCollatorForSeq2Seq(tokenizer(family), model=shifts)


def batches(family: str, config: Any, count: int, rows: int = 2) -> list[dict[str, torch.Tensor]]:
    """The same as tensors: so many batches of so many rows."""
    data = examples(family, count * rows).remove_columns("number")
    pad = collator(family, config)
    return [dict(pad([data[at] for at in range(start, start + rows)])) for start in range(0, count * rows, rows)]


def equal_weights(mine: Any, theirs: Any) -> None:
    ours, expected = tensors(mine), tensors(theirs)
    assert ours.keys() == expected.keys()
    for name, weight in ours.items():
        close(weight, expected[name])


def exactly(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(one).values(), tensors(other).values(), strict=True))


def moved(model: Any, before: Any) -> bool:
    """Whether every weight that can be trained has changed; the bias of keys need not, as no output depends on it."""
    after = dict(model.named_parameters())
    learnt = [name for name, p in before.named_parameters() if p.requires_grad and not name.endswith("k_proj.bias")]
    return not any(torch.equal(before.get_parameter(name), after[name]) for name in learnt)
