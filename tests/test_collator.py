"""The data collator against transformers 4.57.6 by value, and seeding."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from seq2seq_models import PegasusTokenizer
from seq2seq_models.bundled import demo_checkpoint
from seq2seq_models.core.collator import DataCollatorForSeq2Seq
from seq2seq_models.core.seed import set_seed
from seq2seq_models.errors import InputError


class PadTokenizer:
    """Pads as tokenizers do, and nothing else."""

    def __init__(self, padding_side: str = "right") -> None:
        self.padding_side = padding_side
        self.calls: list[dict[str, Any]] = []

    def pad(self, features: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
        self.calls.append(options)
        kind, padding = options["return_tensors"], options["padding"]
        length = max(len(feature["input_ids"]) for feature in features)
        if padding == "max_length" and options["max_length"] is not None:
            length = options["max_length"]
        step = options["pad_to_multiple_of"] or 1
        length = -(-length // step) * step
        batch: dict[str, Any] = {}
        for key, fill in (("input_ids", 0), ("attention_mask", 0)):
            rows = []
            for feature in features:
                row = list(feature[key])
                fills = [] if padding in (False, "do_not_pad") else [fill] * (length - len(row))
                rows.append(row + fills if self.padding_side == "right" else fills + row)
            batch[key] = torch.tensor(rows) if kind == "pt" else np.array(rows)
        return batch


class Model:
    """Shifts labels to the right, as models do."""

    def prepare_decoder_input_ids_from_labels(self, labels: Any) -> Any:
        shifted = labels.new_zeros(labels.shape) if isinstance(labels, torch.Tensor) else np.zeros_like(labels)
        shifted[:, 1:] = labels[:, :-1]
        shifted[shifted == -100] = 0
        return shifted


def examples(seed: int, *, arrays: bool = False, key: str = "labels", equal: bool = False) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    found = []
    for _ in range(rng.randrange(1, 5)):
        source, target = (4, 3) if equal else (rng.randrange(1, 9), rng.randrange(1, 9))
        labels: Any = [rng.randrange(1, 50) for _ in range(target)]
        ids = [rng.randrange(1, 50) for _ in range(source)]
        labels = np.array(labels) if arrays else labels
        found.append({"input_ids": ids, "attention_mask": [1] * source, key: labels})
    return found


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        assert type(ours[key]) is type(value), key
        if value is not None:
            assert ours[key].dtype == value.dtype, key
            assert np.array_equal(np.asarray(ours[key]), np.asarray(value)), key
    return True


# The reference makes a tensor of a list of arrays, which torch finds slow.
@pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy.ndarrays")
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", ["pt", "np"])
@pytest.mark.parametrize("model", [None, Model()], ids=["alone", "with model"])
def test_batches_are_those_of_the_reference(side: str, kind: str, model: Any) -> None:
    settings = itertools.product(
        [True, "longest", "max_length"], [None, 12], [None, 8], [False, True], ["labels", "label"]
    )
    for seed, (padding, max_length, multiple, arrays, key) in enumerate(settings):
        options = {
            "model": model,
            "padding": padding,
            "max_length": max_length,
            "pad_to_multiple_of": multiple,
            "label_pad_token_id": -100 if seed % 2 else -1,
            "return_tensors": kind,
        }
        features = examples(seed, arrays=arrays, key=key)
        ours = DataCollatorForSeq2Seq(PadTokenizer(side), **options)(features)
        theirs = transformers.DataCollatorForSeq2Seq(PadTokenizer(side), **options)(features)
        assert same(ours, theirs)


@pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy.ndarrays")
@pytest.mark.parametrize("padding", [False, "do_not_pad"])
@pytest.mark.parametrize("arrays", [False, True])
def test_without_padding(padding: bool | str, arrays: bool) -> None:
    features = examples(3, arrays=arrays, equal=True)
    ours = DataCollatorForSeq2Seq(PadTokenizer(), padding=padding)(features)
    theirs = transformers.DataCollatorForSeq2Seq(PadTokenizer(), padding=padding)(features)
    assert same(ours, theirs)
    with pytest.raises(InputError, match="`labels` must be of one length without padding, got 2, 1"):
        DataCollatorForSeq2Seq(PadTokenizer(), padding=padding)(
            [{"input_ids": [1], "attention_mask": [1], "labels": labels} for labels in ([1, 2], [1])]
        )


def test_without_labels() -> None:
    features = [{"input_ids": [1, 2], "attention_mask": [1, 1]}, {"input_ids": [3], "attention_mask": [1]}]
    for extra in ({}, {"labels": None}):
        given = [{**feature, **extra} for feature in features]
        ours = DataCollatorForSeq2Seq(PadTokenizer(), model=Model())(given)
        assert same(ours, transformers.DataCollatorForSeq2Seq(PadTokenizer(), model=Model())(given))
        assert ours["labels"] is None
    given = [{**features[0], "labels": [1]}, features[1]]
    with pytest.raises(InputError, match="`labels` must be there for all examples or for none, got none for example 1"):
        DataCollatorForSeq2Seq(PadTokenizer())(given)


def test_labels_longer_than_the_length_are_refused() -> None:
    features = [{"input_ids": [1], "attention_mask": [1], "labels": [1, 2, 3]}]
    with pytest.raises(InputError, match="`labels` must be at most `max_length` = 2 tokens long, got 3"):
        DataCollatorForSeq2Seq(PadTokenizer(), padding="max_length", max_length=2)(features)


def test_the_call_chooses_the_tensors_and_leaves_the_examples_alone() -> None:
    features = examples(1)
    before = [dict(feature) for feature in features]
    tokenizer = PadTokenizer()
    batch = DataCollatorForSeq2Seq(tokenizer)(features, return_tensors="np")
    assert isinstance(batch["labels"], np.ndarray)
    assert batch["labels"].dtype == np.int64
    assert tokenizer.calls[-1]["return_tensors"] == "np"
    assert features == before


def test_advice_about_padding_is_held_back_and_then_restored() -> None:
    class Advising(PadTokenizer):
        deprecation_warnings: dict[str, bool] = {}  # noqa: RUF012

        def pad(self, features: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
            assert self.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] is True
            return super().pad(features, **options)

    tokenizer = Advising()
    DataCollatorForSeq2Seq(tokenizer)(examples(1))
    assert tokenizer.deprecation_warnings == {"Asking-to-pad-a-fast-tokenizer": False}


# ---- seeds


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_a_seed_fixes_what_is_drawn_as_in_the_reference() -> None:
    set_seed(7)
    first = draws()
    assert draws() != first
    set_seed(7)
    assert draws() == first
    transformers.set_seed(7)
    assert draws() == first
    set_seed(8)
    assert draws() != first


def test_seeding_loads_no_framework_and_deterministic_reaches_torch() -> None:
    code = (
        "import sys; from seq2seq_models.core.seed import set_seed; set_seed(1, deterministic=True); "
        "print(sorted({'torch', 'tensorflow', 'jax'} & set(sys.modules))); "
        "import torch; set_seed(1, deterministic=True); print(torch.are_deterministic_algorithms_enabled())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split("\n")[:2] == ["[]", "True"]


@pytest.mark.parametrize(
    ("kind", "module"), [("np", "numpy"), ("tf", "tensorflow"), ("jax", "jaxlib"), ("pt", "torch")]
)
def test_every_kind_of_tensor_holds_the_same(kind: str, module: str) -> None:
    """With a tokenizer of ours, in every framework."""
    tokenizer = PegasusTokenizer.from_pretrained(demo_checkpoint("pegasus-demo"))
    examples = [
        {**tokenizer("A fire broke out in Lisbon."), "labels": [200, 201, 1]},
        {**tokenizer("It rained."), "labels": [202, 1]},
    ]
    batch = DataCollatorForSeq2Seq(tokenizer, return_tensors=kind)(examples)
    wanted = DataCollatorForSeq2Seq(tokenizer)(examples, return_tensors="np")
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    for name, value in batch.items():
        assert type(value).__module__.partition(".")[0] == module
        assert np.array_equal(np.asarray(value), wanted[name])
    assert wanted["labels"].tolist() == [[200, 201, 1], [202, 1, -100]]
