"""The TensorFlow examples of the documentation, on repositories of the documented names, beside the reference.

Weights are random: what the examples compute is compared with the reference's TensorFlow classes on the same files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
import transformers

from seq2seq_models import (
    AutoTokenizer,
    BlenderbotSmallForConditionalGeneration,
    TFBlenderbotSmallForConditionalGeneration,
    TFBlenderbotSmallModel,
    TFPegasusForConditionalGeneration,
    TFPegasusModel,
)

from .repositories import add_repository
from .seed_examples import (
    ARTICLE,
    BLENDERBOT,
    DOG,
    FIRST,
    LARGE,
    MORE_SENTENCES,
    NEXT_IN_TENSORFLOW,
    TARGET,
    XSUM,
    near,
    reference_ids,
)
from .stand_in_hub import StandInHub
from .tiny_tensorflow import LIBRARY_WARNINGS

pytestmark = [pytest.mark.reference, LIBRARY_WARNINGS]


def reference(name: str, folder: Path) -> Any:
    """The reference's TensorFlow model of the same files."""
    return getattr(transformers, name).from_pretrained(folder, from_pt=True)


def test_blenderbot_small_model(hub: StandInHub, tmp_path: Path) -> None:
    folder = add_repository(hub, BLENDERBOT, tmp_path / "repository", MORE_SENTENCES)
    tokenizer = AutoTokenizer.from_pretrained("facebook/blenderbot_small-90M")
    model = TFBlenderbotSmallModel.from_pretrained("facebook/blenderbot_small-90M")

    inputs = tokenizer("Hello, my dog is cute", return_tensors="tf")
    theirs = reference("TFBlenderbotSmallModel", folder)
    # As documented the call has no decoder inputs: there and here a ValueError that names them, and here alone.
    for call in (theirs, model):
        with pytest.raises(ValueError, match="decoder_input_ids"):
            call(inputs)
    inputs["decoder_input_ids"] = tokenizer(TARGET, return_tensors="tf").input_ids
    outputs = model(inputs)
    last_hidden_states = outputs.last_hidden_state

    assert last_hidden_states.shape == (1, 3, model.config.d_model)
    assert inputs.input_ids.numpy().tolist() == reference_ids(folder, "BlenderbotSmall", DOG)
    near(last_hidden_states, theirs(dict(inputs)).last_hidden_state)


def test_blenderbot_small_conversation(hub: StandInHub, tmp_path: Path) -> None:
    folder = add_repository(hub, BLENDERBOT, tmp_path / "repository", MORE_SENTENCES)
    mname = "facebook/blenderbot_small-90M"
    # The documentation imports this class, and then spells it without its first letters.
    model = TFBlenderbotSmallForConditionalGeneration.from_pretrained(mname)
    tokenizer = AutoTokenizer.from_pretrained(mname)

    UTTERANCE = "My friends are cool but they eat too many carbs."
    inputs = tokenizer([UTTERANCE], return_tensors="tf")
    reply_ids = model.generate(**inputs)
    reply = tokenizer.batch_decode(reply_ids, skip_special_tokens=True)[0]
    NEXT_UTTERANCE = (
        "My friends are cool but they eat too many carbs.</s> "
        "<s>what kind of carbs do they eat? i don't know much about carbs.</s> "
        "<s>I'm not sure."
    )
    next_inputs = tokenizer([NEXT_UTTERANCE], return_tensors="tf")
    next_inputs.pop("token_type_ids", None)  # in the documentation without the default; it never makes any
    next_reply_ids = model.generate(**next_inputs)
    next_reply = tokenizer.batch_decode(next_reply_ids, skip_special_tokens=True)[0]

    assert (UTTERANCE, NEXT_UTTERANCE) == (FIRST, NEXT_IN_TENSORFLOW)
    assert reply_ids.dtype == tf.int32 and reply_ids[0, 0] == 1 and reply_ids[0, -1] == 2  # __start__ … __end__
    assert 20 <= reply_ids.shape[1] <= 128  # as the repository's generation_config.json says
    assert reply.strip() and next_reply.strip() and "__" not in reply + next_reply
    theirs = reference("TFBlenderbotSmallForConditionalGeneration", folder)
    torch_model = BlenderbotSmallForConditionalGeneration.from_pretrained(mname)
    ours_in_torch = AutoTokenizer.from_pretrained(mname)
    for text, given, ids in ((FIRST, inputs, reply_ids), (NEXT_IN_TENSORFLOW, next_inputs, next_reply_ids)):
        assert given.input_ids.numpy().tolist() == reference_ids(folder, "BlenderbotSmall", text)
        logits = model(**given, decoder_input_ids=ids).logits
        near(logits, theirs(**given, decoder_input_ids=ids).logits, 3e-5)  # tens of tokens deep
        assert ids.numpy().tolist() == torch_model.generate(**ours_in_torch([text], return_tensors="pt")).tolist()


def test_greedy_replies_are_the_references(hub: StandInHub, tmp_path: Path) -> None:
    """The reference's own loop takes minutes with the repository's ten beams; here it has one."""
    folder = add_repository(hub, BLENDERBOT, tmp_path / "repository", MORE_SENTENCES)
    model = TFBlenderbotSmallForConditionalGeneration.from_pretrained("facebook/blenderbot_small-90M")
    inputs = AutoTokenizer.from_pretrained("facebook/blenderbot_small-90M")([FIRST], return_tensors="tf")
    theirs = reference("TFBlenderbotSmallForConditionalGeneration", folder)
    options: dict[str, Any] = {"num_beams": 1, "max_length": 12, "min_length": 0, "no_repeat_ngram_size": 0}
    expected = theirs.generate(**inputs, **options).numpy().tolist()
    assert model.generate(**inputs, **options).numpy().tolist() == expected


@pytest.mark.parametrize("name", [LARGE, XSUM])
def test_pegasus(hub: StandInHub, tmp_path: Path, name: str) -> None:
    """The page of Pegasus has no TensorFlow examples; the same calls hold for its classes."""
    folder = add_repository(hub, name, tmp_path / "repository", MORE_SENTENCES)
    tokenizer = AutoTokenizer.from_pretrained(name)
    inputs = tokenizer(ARTICLE, max_length=1024, return_tensors="tf")
    assert inputs.input_ids.numpy().tolist() == reference_ids(folder, "Pegasus", ARTICLE)
    base = TFPegasusModel.from_pretrained(name)
    given = {**inputs, "decoder_input_ids": tokenizer(TARGET, return_tensors="tf").input_ids}
    near(base(given).last_hidden_state, reference("TFPegasusModel", folder)(given).last_hidden_state)
    model = TFPegasusForConditionalGeneration.from_pretrained(name)
    theirs = reference("TFPegasusForConditionalGeneration", folder)
    near(model(given).logits, theirs(given).logits)
    ids = model.generate(inputs["input_ids"], num_beams=1, max_length=12).numpy().tolist()
    assert ids == theirs.generate(inputs["input_ids"], num_beams=1, max_length=12).numpy().tolist()
