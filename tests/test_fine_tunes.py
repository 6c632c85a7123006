"""Checkpoints as people published them: what they leave out, name twice, or size otherwise, in every framework."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import seq2seq_models
from seq2seq_models.core.storage.torch_file import tensor_of
from seq2seq_models.errors import CheckpointError

from .loading import FULL, rewrite
from .matrix import FRAMEWORKS, short
from .tiny import FAMILIES, batch, reference

pytestmark = [
    pytest.mark.reference,
    pytest.mark.filterwarnings(r"ignore:::(transformers|jax|flax|tensorflow|keras|tf_keras|google)(\..*)?"),
]

Tensors = dict[str, torch.Tensor]
SHAPES = {
    "a decoder of few layers, as distill-16-4": {"encoder_layers": 4, "decoder_layers": 1},
    "60 positions, as pegasus_paraphrase": {"max_position_embeddings": 60},
    "words added to the vocabulary": {"vocab_size": 97},
}


def without(*words: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: x for name, x in tensors.items() if not any(word in name for word in words)}


def named_by(*aliases: str) -> Callable[[Tensors], Tensors]:
    """The tied embedding under these names and no other."""

    def change(tensors: Tensors) -> Tensors:
        embedding = tensors.pop("model.shared.weight")
        return tensors | {alias: embedding.clone() for alias in aliases}

    return change


def with_aliases(*aliases: str) -> Callable[[Tensors], Tensors]:
    return named_by("model.shared.weight", *aliases)


ENCODER, DECODER = "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"
CONTENTS = {
    "no positions": without("embed_positions"),
    "no bias": without("final_logits_bias"),
    "the head": with_aliases("lm_head.weight"),
    "the encoder's alias": with_aliases(ENCODER),
    "the decoder's alias": with_aliases(DECODER),
    "all aliases": with_aliases(ENCODER, DECODER, "lm_head.weight"),
    "aliases alone": named_by(ENCODER, DECODER),
}


def check(framework: str, family: str, folder: Path, expected: dict[str, Any]) -> Any:
    cls = getattr(seq2seq_models, FRAMEWORKS[framework] + family + FULL)
    model, info = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    found = {short(weight.name): tensor_of(weight).numpy() for weight in model._weights()}
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    tied = {name for name in expected if name.endswith(("embed_tokens.weight", "lm_head.weight"))}
    computed = {name for name in expected if "embed_positions" in name and family == "Pegasus"}
    assert set(expected) - set(found) <= tied | computed
    return model


def logits(framework: str, model: Any, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    if framework == "PyTorch":
        with torch.no_grad():
            return model(**inputs).logits.numpy()
    return np.asarray(model(**{name: value.numpy() for name, value in inputs.items()}).logits)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_other_sizes(tmp_path: Path, shape: str, family: str, framework: str) -> None:
    theirs = reference(family, **SHAPES[shape])
    theirs.save_pretrained(tmp_path)
    model = check(framework, family, tmp_path, {short(name): x.numpy() for name, x in theirs.state_dict().items()})
    inputs = batch()
    with torch.no_grad():
        expected = theirs(**inputs).logits.numpy()
    np.testing.assert_allclose(logits(framework, model, inputs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("content", CONTENTS)
def test_other_contents(tmp_path: Path, content: str, framework: str) -> None:
    theirs = reference("Pegasus")
    if content == "no bias":
        torch.nn.init.zeros_(theirs.final_logits_bias)
    theirs.save_pretrained(tmp_path)
    rewrite(tmp_path, CONTENTS[content])
    check(framework, "Pegasus", tmp_path, {short(name): x.numpy() for name, x in theirs.state_dict().items()})


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_learned_positions_cannot_be_made_up(tmp_path: Path, framework: str) -> None:
    reference("BlenderbotSmall").save_pretrained(tmp_path)
    rewrite(tmp_path, without("embed_positions"))
    cls = getattr(seq2seq_models, FRAMEWORKS[framework] + "BlenderbotSmall" + FULL)
    with pytest.raises(
        CheckpointError, match=r"missing: model.decoder.embed_positions.weight, model.encoder.embed_pos"
    ):
        cls.from_pretrained(tmp_path)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_table_of_ones_own_is_used_or_told(tmp_path: Path, framework: str, caplog: pytest.LogCaptureFixture) -> None:
    """PyTorch has the positions as weights; the others compute them."""
    theirs = reference("Pegasus")
    theirs.save_pretrained(tmp_path)
    cls = getattr(seq2seq_models, FRAMEWORKS[framework] + "Pegasus" + FULL)
    cls.from_pretrained(tmp_path)
    assert not caplog.records
    name = "model.decoder.embed_positions.weight"
    rewrite(tmp_path, lambda tensors: tensors | {name: tensors[name] + 0.1})
    model = cls.from_pretrained(tmp_path)
    said = [record.getMessage() for record in caplog.records]
    if framework == "PyTorch":
        expected = theirs.state_dict()[name] + 0.1
        assert torch.equal(model.state_dict()[name], expected) and not said
    else:
        assert len(said) == 1 and f"{name} differs from the sinusoids that {cls.__name__} computes" in said[0]


def test_the_reference_agrees_about_what_is_left_out(tmp_path: Path) -> None:
    theirs = reference("Pegasus")
    theirs.save_pretrained(tmp_path)
    rewrite(tmp_path, without("embed_positions"))
    again = transformers.PegasusForConditionalGeneration.from_pretrained(tmp_path)
    for name, values in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], values), name
