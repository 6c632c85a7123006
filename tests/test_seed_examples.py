"""The PyTorch examples of the documentation, on repositories of the documented names, beside the reference.

Weights are random: what the examples print is compared with the reference on the same files, not with the documented
sentences.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from seq2seq_models import (
    AutoTokenizer,
    BlenderbotSmallConfig,
    BlenderbotSmallForCausalLM,
    BlenderbotSmallForConditionalGeneration,
    BlenderbotSmallModel,
    PegasusConfig,
    PegasusForCausalLM,
    PegasusForConditionalGeneration,
    PegasusModel,
)

from . import seed_examples
from .loading import tensors
from .repositories import add_repository
from .seed_examples import ARTICLE, BLENDERBOT, DOG, FIRST, LARGE, NEXT, SENTENCES, SOURCE, TARGET, XSUM
from .stand_in_hub import StandInHub
from .tiny import close

pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings(r"ignore:::(transformers|jax|flax)(\..*)?")]

REAL_BLENDERBOT = {
    "d_model": 512,
    "encoder_layers": 8,
    "decoder_layers": 8,
    "num_hidden_layers": 8,
    "encoder_attention_heads": 16,
    "decoder_attention_heads": 16,
    "encoder_ffn_dim": 2048,
    "decoder_ffn_dim": 2048,
}
WIDE_PEGASUS = {**REAL_BLENDERBOT, "d_model": 1024, "encoder_layers": 1, "decoder_layers": 1, "num_hidden_layers": 1}
# The reference's BlenderbotSmall in PyTorch lost the decoder's scale; without any scale both can be compared.
UNSCALED: dict[str, Any] = {"scale_embedding": False}


def reference_ids(folder: Path, family: str, texts: str | list[str]) -> torch.Tensor:
    """The ids that the reference's own slow tokenizer makes of the same files."""
    return torch.tensor(seed_examples.reference_ids(folder, family, texts))


@pytest.mark.parametrize(
    ("config_class", "model_class"), [(BlenderbotSmallConfig, BlenderbotSmallModel), (PegasusConfig, PegasusModel)]
)
@pytest.mark.heavy
def test_a_default_config_makes_a_model(config_class: Any, model_class: Any) -> None:
    configuration = config_class()
    model = model_class(configuration)
    configuration = model.config
    reference = getattr(transformers, config_class.__name__)()
    with torch.device("meta"):
        shapes = {
            name: p.shape for name, p in getattr(transformers, model_class.__name__)(reference).named_parameters()
        }
    assert {name: p.shape for name, p in model.named_parameters()} == shapes
    assert (configuration.vocab_size, configuration.d_model) == (50265, reference.d_model)
    assert configuration.encoder_layers == configuration.decoder_layers == reference.decoder_layers


@pytest.mark.heavy
def test_blenderbot_small_model(hub: StandInHub, tmp_path: Path) -> None:
    folder = add_repository(hub, BLENDERBOT, tmp_path / "repository", SENTENCES, **REAL_BLENDERBOT)
    model = BlenderbotSmallModel.from_pretrained("facebook/blenderbot_small-90M")
    tokenizer = AutoTokenizer.from_pretrained("facebook/blenderbot_small-90M")

    inputs = tokenizer("Studies have been shown that owning a dog is good for you", return_tensors="pt")
    decoder_inputs = tokenizer("Studies show that", return_tensors="pt")
    outputs = model(input_ids=inputs.input_ids, decoder_input_ids=decoder_inputs.input_ids)
    last_hidden_states = outputs.last_hidden_state
    assert list(last_hidden_states.shape) == [1, 3, 512]

    assert torch.equal(inputs.input_ids, reference_ids(folder, "BlenderbotSmall", SOURCE))
    assert torch.equal(decoder_inputs.input_ids, reference_ids(folder, "BlenderbotSmall", TARGET))
    flax = transformers.FlaxBlenderbotSmallModel.from_pretrained(folder, from_pt=True)
    expected = flax(input_ids=inputs.input_ids.numpy(), decoder_input_ids=decoder_inputs.input_ids.numpy())
    close(last_hidden_states.detach(), torch.tensor(expected.last_hidden_state.__array__()), 3e-5)  # 8 layers deep
    unscaled = BlenderbotSmallModel.from_pretrained(BLENDERBOT, **UNSCALED)
    theirs = transformers.BlenderbotSmallModel.from_pretrained(folder, **UNSCALED)
    with torch.no_grad():
        given = {"input_ids": inputs.input_ids, "decoder_input_ids": decoder_inputs.input_ids}
        close(unscaled(**given).last_hidden_state, theirs(**given).last_hidden_state, 3e-5)


def test_blenderbot_small_conversation(hub: StandInHub, tmp_path: Path) -> None:
    folder = add_repository(hub, BLENDERBOT, tmp_path / "repository", SENTENCES)
    mname = "facebook/blenderbot_small-90M"
    model = BlenderbotSmallForConditionalGeneration.from_pretrained(mname)
    tokenizer = AutoTokenizer.from_pretrained(mname)

    inputs = tokenizer(["My friends are cool but they eat too many carbs."], return_tensors="pt")
    reply_ids = model.generate(**inputs)
    reply = tokenizer.batch_decode(reply_ids, skip_special_tokens=True)[0]
    next_inputs = tokenizer([NEXT], return_tensors="pt")
    next_reply_ids = model.generate(**next_inputs)
    next_reply = tokenizer.batch_decode(next_reply_ids, skip_special_tokens=True)[0]

    assert reply_ids[0, 0] == 1 and reply_ids[0, -1] == 2  # __start__ … __end__
    assert 20 <= reply_ids.shape[1] <= 128  # as the repository's generation_config.json says
    assert reply.strip() and next_reply.strip() and "__" not in reply + next_reply
    start, end = tokenizer.convert_tokens_to_ids(["__start__", "__end__"])
    assert (next_inputs.input_ids == end).sum() == 2 and (next_inputs.input_ids == start).sum() == 2
    for text, ids in ((FIRST, inputs.input_ids), (NEXT, next_inputs.input_ids)):
        assert torch.equal(ids, reference_ids(folder, "BlenderbotSmall", [text]))
    mine = BlenderbotSmallForConditionalGeneration.from_pretrained(mname, **UNSCALED)
    theirs = transformers.BlenderbotSmallForConditionalGeneration.from_pretrained(folder, **UNSCALED)
    for given in (inputs, next_inputs):
        options = {"input_ids": given.input_ids, "attention_mask": given.attention_mask}
        assert mine.generate(**options).tolist() == theirs.generate(**options).tolist()


def test_blenderbot_small_causal_lm(hub: StandInHub, tmp_path: Path) -> None:
    folder = add_repository(hub, BLENDERBOT, tmp_path / "repository", SENTENCES)
    tokenizer = AutoTokenizer.from_pretrained("facebook/blenderbot_small-90M")
    model = BlenderbotSmallForCausalLM.from_pretrained("facebook/blenderbot_small-90M", add_cross_attention=False)
    assert model.config.is_decoder, f"{model.__class__} has to be configured as a decoder."
    inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")
    outputs = model(**inputs)
    logits = outputs.logits
    expected_shape = [1, inputs.input_ids.shape[-1], model.config.vocab_size]
    assert list(logits.shape) == expected_shape

    assert torch.equal(inputs.input_ids, reference_ids(folder, "BlenderbotSmall", DOG))
    mine = BlenderbotSmallForCausalLM.from_pretrained(BLENDERBOT, add_cross_attention=False, **UNSCALED)
    theirs = transformers.BlenderbotSmallForCausalLM.from_pretrained(folder, add_cross_attention=False, **UNSCALED)
    with torch.no_grad():
        close(mine(**inputs).logits, theirs(**inputs).logits)
        assert not torch.allclose(logits, mine(**inputs).logits, atol=2e-5)  # the scale, seen through a layer norm
    assert list(tensors(mine)) == list(theirs.state_dict())


@pytest.mark.heavy
def test_pegasus_model(hub: StandInHub, tmp_path: Path) -> None:
    folder = add_repository(hub, LARGE, tmp_path / "repository", SENTENCES, **WIDE_PEGASUS)
    tokenizer = AutoTokenizer.from_pretrained("google/pegasus-large")
    model = PegasusModel.from_pretrained("google/pegasus-large")

    inputs = tokenizer("Studies have been shown that owning a dog is good for you", return_tensors="pt")
    decoder_inputs = tokenizer("Studies show that", return_tensors="pt")
    outputs = model(input_ids=inputs.input_ids, decoder_input_ids=decoder_inputs.input_ids)
    last_hidden_states = outputs.last_hidden_state
    assert list(last_hidden_states.shape) == [1, 4, 1024]

    assert torch.equal(inputs.input_ids, reference_ids(folder, "Pegasus", SOURCE))
    assert torch.equal(decoder_inputs.input_ids, reference_ids(folder, "Pegasus", TARGET))
    theirs = transformers.PegasusModel.from_pretrained(folder)
    with torch.no_grad():
        given = {"input_ids": inputs.input_ids, "decoder_input_ids": decoder_inputs.input_ids}
        close(last_hidden_states.detach(), theirs(**given).last_hidden_state)


def test_pegasus_summarization(hub: StandInHub, tmp_path: Path) -> None:
    folder = add_repository(hub, XSUM, tmp_path / "repository", SENTENCES)
    model = PegasusForConditionalGeneration.from_pretrained("google/pegasus-xsum")
    tokenizer = AutoTokenizer.from_pretrained("google/pegasus-xsum")

    inputs = tokenizer(ARTICLE, max_length=1024, return_tensors="pt")
    summary_ids = model.generate(inputs["input_ids"])
    summary = tokenizer.batch_decode(summary_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)[0]

    assert tokenizer.model_max_length == 512 and model.generation_config.num_beams == 8
    assert summary_ids[0, 0] == 0 and summary_ids.shape[1] <= 64
    theirs = transformers.PegasusForConditionalGeneration.from_pretrained(folder)
    slow = transformers.PegasusTokenizer.from_pretrained(folder)
    assert torch.equal(inputs["input_ids"], reference_ids(folder, "Pegasus", ARTICLE))
    expected = theirs.generate(inputs["input_ids"])
    assert summary_ids.tolist() == expected.tolist()
    assert summary.strip()
    assert summary == slow.batch_decode(expected, skip_special_tokens=True, clean_up_tokenization_spaces=False)[0]


def test_pegasus_causal_lm(hub: StandInHub, tmp_path: Path) -> None:
    folder = add_repository(hub, LARGE, tmp_path / "repository", SENTENCES)
    tokenizer = AutoTokenizer.from_pretrained("google/pegasus-large")
    model = PegasusForCausalLM.from_pretrained("google/pegasus-large", add_cross_attention=False)
    assert model.config.is_decoder, f"{model.__class__} has to be configured as a decoder."
    inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")
    outputs = model(**inputs)
    logits = outputs.logits
    expected_shape = [1, inputs.input_ids.shape[-1], model.config.vocab_size]
    assert list(logits.shape) == expected_shape

    assert torch.equal(inputs.input_ids, reference_ids(folder, "Pegasus", DOG))
    theirs = transformers.PegasusForCausalLM.from_pretrained(folder, add_cross_attention=False)
    with torch.no_grad():
        close(logits.detach(), theirs(**inputs).logits)
