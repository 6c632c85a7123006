"""The attention of generated tokens: the same numbers as a forward pass has, in every framework, and their picture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seq2seq_models
from seq2seq_models import AutoTokenizer
from seq2seq_models.bundled import demo_checkpoint
from seq2seq_models.errors import InputError
from seq2seq_models.plots import cross_attention, plot_attention

DEMO = demo_checkpoint("pegasus-demo")
TEXTS = ["Firefighters in Lisbon fought a fire at a bakery on Monday.", "It rained in Porto."]
FRAMEWORKS = {"": "pt", "TF": "tf", "Flax": "np"}
ASKED = {"max_new_tokens": 9, "return_dict_in_generate": True, "output_attentions": True}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(DEMO)


@pytest.fixture(scope="module")
def pytorch(tokenizer: Any) -> tuple[Any, Any]:
    model = seq2seq_models.PegasusForConditionalGeneration.from_pretrained(DEMO, attn_implementation="eager")
    return model, tokenizer(TEXTS, padding=True, return_tensors="pt")


def expected(pytorch: tuple[Any, Any], sequence: Any, row: int) -> np.ndarray:
    """The weights [new tokens, S] of a forward pass over what was written."""
    model, inputs = pytorch
    import torch

    written = torch.tensor(np.asarray(sequence)[None, :-1])
    given = {name: values[row : row + 1] for name, values in inputs.items()}
    with torch.no_grad():
        out = model(**given, decoder_input_ids=written, output_attentions=True)
    return torch.stack(out.cross_attentions).mean((0, 2))[0].numpy()


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("prefix", FRAMEWORKS)
def test_the_weights_are_those_of_a_forward_pass(
    prefix: str, beams: int, tokenizer: Any, pytorch: tuple[Any, Any]
) -> None:
    if prefix:
        pytest.importorskip({"TF": "tensorflow", "Flax": "flax"}[prefix])
    model = getattr(seq2seq_models, f"{prefix}PegasusForConditionalGeneration").from_pretrained(DEMO)
    inputs = tokenizer(TEXTS, padding=True, return_tensors=FRAMEWORKS[prefix])
    outputs = model.generate(**inputs, **ASKED, num_beams=beams)
    for row in range(2):
        found = cross_attention(outputs, row)
        wanted = expected(pytorch, outputs.sequences[row], row)[: len(found)]
        assert len(found) >= 6
        np.testing.assert_allclose(found[: len(wanted)], wanted, atol=1e-5)
    one = cross_attention(outputs, 0, layers=[1], heads=[0, 2])
    assert one.shape == cross_attention(outputs, 0).shape
    assert np.abs(one - cross_attention(outputs, 0)).max() > 1e-3


def test_bfloat16_gives_the_same_to_its_own_precision(tokenizer: Any, pytorch: tuple[Any, Any]) -> None:
    model = seq2seq_models.PegasusForConditionalGeneration.from_pretrained(DEMO, dtype="bfloat16")
    inputs = tokenizer(TEXTS[:1], return_tensors="pt")
    found = cross_attention(model.generate(**inputs, **ASKED))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, cross_attention(pytorch[0].generate(**inputs, **ASKED)), atol=0.03)


def test_the_picture_has_the_tokens_at_its_edges(tokenizer: Any, pytorch: tuple[Any, Any], tmp_path: Path) -> None:
    model, inputs = pytorch
    outputs = model.generate(**inputs, **ASKED, num_beams=3)
    ax = plot_attention(outputs, tokenizer, inputs["input_ids"], row=1)
    (image,) = ax.get_images()
    columns = [label.get_text() for label in ax.get_xticklabels()]
    lines = [label.get_text() for label in ax.get_yticklabels()]
    assert columns == tokenizer.convert_ids_to_tokens(tokenizer(TEXTS[1]).input_ids)
    written = outputs.sequences[1, 1:].tolist()
    assert lines == tokenizer.convert_ids_to_tokens(written[: written.index(tokenizer.eos_token_id) + 1])
    wanted = cross_attention(outputs, 1)[: len(lines), : len(columns)]
    np.testing.assert_array_equal(np.asarray(image.get_array()), wanted)
    ax.figure.savefig(tmp_path / "attention.png")
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("prefix", FRAMEWORKS)
def test_the_lines_are_the_new_tokens(prefix: str, beams: int, tokenizer: Any) -> None:
    """Behind a prompt of two tokens, and before the padding up to `max_length` that Flax returns."""
    if prefix:
        pytest.importorskip({"TF": "tensorflow", "Flax": "flax"}[prefix])
    model = getattr(seq2seq_models, f"{prefix}PegasusForConditionalGeneration").from_pretrained(DEMO)
    kind = FRAMEWORKS[prefix]
    inputs = tokenizer(TEXTS[:1], return_tensors=kind)
    ids = [model.config.decoder_start_token_id, *tokenizer("Fire", add_special_tokens=False).input_ids]
    start = tokenizer.pad({"input_ids": [ids]}, return_tensors=kind)["input_ids"]
    outputs = model.generate(**inputs, decoder_input_ids=start, **{**ASKED, "max_new_tokens": 30}, num_beams=beams)
    ax = plot_attention(outputs, tokenizer, inputs["input_ids"])
    lines = [label.get_text() for label in ax.get_yticklabels()]
    assert lines[-1] == tokenizer.eos_token and len(lines) < 30
    written = np.asarray(outputs.sequences[0]).tolist()
    assert lines == tokenizer.convert_ids_to_tokens(written[len(ids) : len(ids) + len(lines)])


def test_what_cannot_be_drawn_is_refused(tokenizer: Any, pytorch: tuple[Any, Any]) -> None:
    model, inputs = pytorch
    with pytest.raises(InputError, match="return_dict_in_generate=True, output_attentions=True"):
        cross_attention(model.generate(**inputs, max_new_tokens=3))
    outputs = model.generate(**inputs, **ASKED)
    with pytest.raises(InputError, match="`row` must be from 0 to 1, got 2"):
        cross_attention(outputs, 2)
    with pytest.raises(
        InputError, match=r"`source` must be the ids that were read, \[B, 13\] for 2 rows, got \[2, 3\]"
    ):
        plot_attention(outputs, tokenizer, inputs["input_ids"][:, :3])


def test_without_matplotlib_the_error_names_the_extra() -> None:
    code = f"""
import sys; sys.modules["matplotlib"] = None
from seq2seq_models import AutoTokenizer, PegasusForConditionalGeneration, plot_attention
model = PegasusForConditionalGeneration.from_pretrained({str(DEMO)!r})
tokenizer = AutoTokenizer.from_pretrained({str(DEMO)!r})
inputs = tokenizer("It rained.", return_tensors="pt")
outputs = model.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True, output_attentions=True)
try:
    plot_attention(outputs, tokenizer, inputs.input_ids)
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == (
        "MissingFrameworkError plot_attention needs matplotlib. Install it: pip install 'seq2seq-models[plots]'"
    ), done.stderr
