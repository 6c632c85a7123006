"""conversion/: originals in the formats of ParlAI and Google become repositories that compute what the originals do.

What the originals compute is written down in originals.py, in NumPy and in their own formulation. The tolerance of
1e-5, absolute and relative, is that between float32 and float64. It is wider in one case, and for one reason: Google's
norms add 1e-12 to the variance and all of ours 1e-5. At the first place of the decoder, where the original's input is
the timing alone and has a variance of 1/4, that changes values by 1e-5 / (2 * 1/4), 2e-5 of their size.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import seq2seq_models
from seq2seq_models import (
    AutoTokenizer,
    BlenderbotSmallForConditionalGeneration,
    BlenderbotSmallTokenizer,
    GenerationConfig,
    PegasusForConditionalGeneration,
    PegasusTokenizer,
)
from seq2seq_models.core.storage.safetensors_file import read_safetensors
from seq2seq_models.core.storage.stored import as_float32
from seq2seq_models.errors import CheckpointError

from .originals import (
    GooglePegasus,
    ParlaiBlender,
    ParlaiDictionary,
    Sizes,
    forget,
    google_timing,
    google_weights,
    hub_timing,
    optimizer_state,
    parlai_options,
    parlai_weights,
    write_google,
    write_parlai,
)
from .tokenizer_vocabularies import blenderbot_folder, pegasus_folder

CONVERSION = Path(__file__).parents[1] / "conversion"
OFFSET = 103
TEXTS = [
    "A fire broke out at the harbour on Monday, and nobody was hurt!",
    "what kind of carbs do they eat? i don't know much about carbs.",
    "First line.\nSecond line: naïve café, 1,234 (about 50) times… 漢字",
    "it's Theirs, or IS it?  Yes, 'tis.",
]
pytestmark = pytest.mark.filterwarnings(r"ignore:::(tensorflow|keras|google|optree|jax|flax|transformers)(\..*)?")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The scripts as modules, which they are to each other when they run."""
    sys.path.insert(0, str(CONVERSION))
    try:
        import google_pegasus
        import parlai_blenderbot
    finally:
        sys.path.pop(0)
    yield {"google": google_pegasus, "parlai": parlai_blenderbot}


OURS, GOOGLES = 1e-5, 1e-12
"""What layer norms add to the variance."""

APART = 6e-5
"""How far Google's and our epsilon may lead apart."""


def close(ours: Any, original: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(np.asarray(ours), original, atol=tolerance, rtol=tolerance)


def ids(sizes: Sizes, rows: int, length: int, seed: int, padding: bool = False) -> Any:
    drawn = np.random.default_rng(seed).integers(4, sizes.vocabulary, (rows, length))
    if padding:
        for row in range(1, rows):
            drawn[row, length - 2 * row :] = 0
    return drawn


# ---- Google's Pegasus


def spiece() -> Path:
    return pegasus_folder(400, 300) / "spiece.model"


def pegasus_sizes() -> Sizes:
    import sentencepiece

    return Sizes(sentencepiece.SentencePieceProcessor(model_file=str(spiece())).get_piece_size() + OFFSET)


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Sizes]:
    """A checkpoint of Google's: prefix, weights, sizes."""
    sizes = pegasus_sizes()
    weights = google_weights(sizes)
    return write_google(tmp_path_factory.mktemp("google"), weights), weights, sizes


def convert_google(scripts: dict[str, ModuleType], prefix: Path, target: Path, *options: str) -> int:
    arguments = [str(prefix), str(spiece()), str(target), "--heads", "4", "--positions", "37", *options]
    return int(scripts["google"].main(arguments))


def google_pair(
    target: Path,
    weights: dict[str, Any],
    sizes: Sizes,
    timing: Any = google_timing,
    epsilon: float = GOOGLES,
    length: int = 11,
) -> tuple[Any, Any]:
    """Logits of the converted model and of the original, without those of <pad>.

    The converted model is given the targets moved by one place with <pad> in front, as it makes them of labels.
    """
    inputs, targets = ids(sizes, 3, length, 1, padding=True), ids(sizes, 3, length - 4, 2)
    model = PegasusForConditionalGeneration.from_pretrained(target)
    shifted = np.concatenate([np.zeros_like(targets[:, :1]), targets[:, :-1]], axis=1)
    with torch.no_grad():
        ours = model(
            input_ids=torch.tensor(inputs), attention_mask=torch.tensor(inputs != 0),
            decoder_input_ids=torch.tensor(shifted),
        ).logits  # fmt: skip
    original = GooglePegasus(weights, sizes, timing, epsilon).logits(inputs, targets)
    # The row of <pad> is zero, as in the hub's checkpoints: its score is 0 and not what the original's row gives.
    assert np.all(ours[..., 0].numpy() == 0) and np.all(np.abs(original[..., 0]) > 0)
    return ours[..., 1:].numpy(), original[..., 1:]


@pytest.mark.parametrize(("option", "timing"), [("original", google_timing), ("hub", hub_timing)])
def test_a_converted_pegasus_computes_what_google_s_does(
    option: str, timing: Any, scripts: dict[str, ModuleType], google: Any, tmp_path: Path
) -> None:
    prefix, weights, sizes = google
    assert convert_google(scripts, prefix, tmp_path / "new", "--timing", option) == 0
    ours, original = google_pair(tmp_path / "new", weights, sizes, timing, OURS)
    close(ours, original)
    assert np.std(original) > 0.5
    close(*google_pair(tmp_path / "new", weights, sizes, timing, GOOGLES), tolerance=APART)


def test_the_two_timings_are_not_the_same(google: Any) -> None:
    _, weights, sizes = google
    inputs, targets = ids(sizes, 2, 9, 1), ids(sizes, 2, 7, 2)
    timings = (google_timing, hub_timing)
    one, other = (GooglePegasus(weights, sizes, timing).logits(inputs, targets) for timing in timings)
    assert np.max(np.abs(one - other)) > 0.05
    one, other = (timing(1024, 1024) for timing in timings)  # pegasus-large's
    assert 0.7 < np.max(np.abs(one - other)) < 0.8


def test_pegasus_files_are_the_hub_s(scripts: dict[str, ModuleType], google: Any, tmp_path: Path) -> None:
    prefix, _, sizes = google
    arguments = [str(prefix), str(spiece()), str(tmp_path), "--heads", "4", "--dataset", "cnn_dailymail"]
    assert scripts["google"].main(arguments) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "spiece.model", "special_tokens_map.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert (tmp_path / "spiece.model").read_bytes() == spiece().read_bytes()
    config = json.loads((tmp_path / "config.json").read_text())
    wanted = {
        "architectures": ["PegasusForConditionalGeneration"], "model_type": "pegasus", "vocab_size": sizes.vocabulary,
        "d_model": 24, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40,
        "encoder_attention_heads": 4, "max_position_embeddings": 1024, "activation_function": "relu",
        "scale_embedding": True, "pad_token_id": 0, "eos_token_id": 1, "forced_eos_token_id": 1, "bos_token_id": 0,
        "decoder_start_token_id": 0, "dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1,
    }  # fmt: skip
    assert {name: config.get(name) for name in wanted} == wanted
    generation = GenerationConfig.from_pretrained(tmp_path)
    stated = (
        "num_beams",
        "max_length",
        "min_length",
        "length_penalty",
        "forced_eos_token_id",
        "decoder_start_token_id",
    )
    assert [getattr(generation, name) for name in stated] == [8, 128, 32, 0.8, 1, 0]
    assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == 1024
    _, report = PegasusForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())


def test_pegasus_ids_are_those_of_the_vocabulary(scripts: dict[str, ModuleType], google: Any, tmp_path: Path) -> None:
    """Google moves all pieces but <pad> and </s> up by 103 places, and ends a text with </s>."""
    import sentencepiece

    assert convert_google(scripts, google[0], tmp_path) == 0
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(spiece()))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(tokenizer, PegasusTokenizer)
    for text in TEXTS:
        original = [piece if piece < 2 else piece + OFFSET for piece in pieces.encode(text)]
        assert tokenizer(text).input_ids == [*original, 1]
    assert OFFSET + pieces.unk_id() in tokenizer(TEXTS[2]).input_ids
    names = tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4, 104, 105])
    assert names == ["<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk_2>", "<unk_102>", "<unk>"]


SQUARE = [f"{where}.{part}_proj" for where in ("self_attn", "encoder_attn") for part in ("q", "k", "v", "out")]
NORMS = ["self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"]
SWAPS = [*itertools.combinations(SQUARE, 2), *itertools.combinations(NORMS, 2)]


def swapped(table: dict[str, str], pair: tuple[str, str]) -> dict[str, str]:
    one, other = pair
    return {**table, one: table[other], other: table[one]}


@pytest.mark.heavy
def test_any_two_entries_of_google_s_map_exchanged_show(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Projections are square, so no shape tells. One table is for both sides; the encoder has no memory attention."""
    sizes = replace(pegasus_sizes(), encoder_layers=1, decoder_layers=1)
    weights = google_weights(sizes)
    prefix, module = write_google(tmp_path, weights), scripts["google"]
    table = dict(module.PARTS)
    for number, pair in enumerate(SWAPS):
        crossing = ("encoder_attn" in pair[0]) != ("encoder_attn" in pair[1])
        monkeypatch.setattr(module, "PARTS", swapped(table, pair))
        target = tmp_path / str(number)
        status = convert_google(scripts, prefix, target, "--timing", "original")
        if crossing:  # then the encoder's layers lack what they are asked for
            assert status == 1 and not target.exists()
            continue
        assert status == 0
        ours, original = google_pair(target, weights, sizes, length=8)
        assert np.max(np.abs(ours - original)) > 1e-2, pair
    monkeypatch.setattr(module, "PARTS", table)
    assert convert_google(scripts, prefix, tmp_path / "right", "--timing", "original") == 0
    close(*google_pair(tmp_path / "right", weights, sizes, length=8), tolerance=APART)


def test_all_faults_of_a_google_checkpoint_are_named_at_once(
    scripts: dict[str, ModuleType], google: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, weights, _ = google
    broken = dict(weights)
    del broken["encoder/layer_0/ffn/LayerNorm/beta"], broken["decoder/layer_2/self_attention/q_proj/kernel"]
    broken["decoder/layer_1/ffn/dense_1/kernel"] = np.zeros((7, 24), np.float32)
    broken["decoder/layer_1/self_attention/q_proj/bias"] = np.zeros(24, np.float32)
    broken["momentum"] = np.zeros((), np.float32)
    broken["decoder/layer_999999999/ffn/dense/bias"] = np.zeros(40, np.float32)
    prefix = write_google(tmp_path, broken)
    assert convert_google(scripts, prefix, tmp_path / "new") == 1
    message = capsys.readouterr().err
    assert (
        "unknown: decoder/layer_1/self_attention/q_proj/bias, decoder/layer_999999999/ffn/dense/bias, momentum; "
        "of another shape: decoder/layer_1/ffn/dense_1/kernel (must be [40, 24], is [7, 24])." in message
    )
    for name in ("decoder/layer_2/self_attention/q_proj/kernel", "encoder/layer_0/ffn/LayerNorm/beta"):
        assert name in message.partition("missing: ")[2].partition("; unknown")[0]
    assert message.startswith("error: The variables of ") and message.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_what_google_s_checkpoint_needs_is_said(
    scripts: dict[str, ModuleType], google: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix, weights, _ = google
    main = scripts["google"].main

    def fault(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 1
        assert not (tmp_path / "new").exists()
        return capsys.readouterr().err

    new = tmp_path / "new"
    assert "must be the prefix of a TensorFlow checkpoint" in fault(tmp_path / "nothing", spiece(), new)
    assert "`--heads` must divide the width" in fault(prefix, spiece(), new, "--heads", "5")
    assert "`--heads` must divide the width" in fault(prefix, spiece(), new, "--heads", "0")
    assert "max_position_embeddings" in fault(prefix, spiece(), new, "--heads", "4", "--positions", "0")
    other = pegasus_folder(350, 300) / "spiece.model"
    assert "The vocabulary must have" in fault(prefix, other, new, "--heads", "4")
    (tmp_path / "short").mkdir()
    few = {name: values for name, values in weights.items() if "ffn" not in name}
    text = fault(write_google(tmp_path / "short", few), spiece(), new)
    assert "lacks the matrices decoder/layer_0/ffn/dense/kernel, encoder/layer_0/ffn/dense/kernel" in text
    wide = {**weights, "encoder/LayerNorm/beta": np.zeros(24, np.int32)}
    (tmp_path / "wide").mkdir()
    assert "must be float32, got encoder/LayerNorm/beta of int32" in fault(
        write_google(tmp_path / "wide", wide), spiece(), new, "--heads", "4"
    )


@pytest.mark.parametrize("way", ["prefix", "index", "data", "folder"])
def test_a_google_checkpoint_is_found_by_any_of_its_names(
    way: str, scripts: dict[str, ModuleType], google: Any, tmp_path: Path
) -> None:
    prefix = google[0]
    names = {
        "prefix": prefix, "folder": prefix.parent, "index": prefix.parent / f"{prefix.name}.index",
        "data": prefix.parent / f"{prefix.name}.data-00000-of-00001",
    }  # fmt: skip
    assert names[way].exists() or way == "prefix"
    assert convert_google(scripts, names[way], tmp_path) == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_are_rounded_to_the_dtype_asked_for(
    dtype: str, scripts: dict[str, ModuleType], google: Any, tmp_path: Path
) -> None:
    prefix, weights, _ = google
    assert convert_google(scripts, prefix, tmp_path, "--dtype", dtype) == 0
    model = PegasusForConditionalGeneration.from_pretrained(tmp_path, dtype="auto")
    kind = getattr(torch, dtype)
    kernel = torch.from_numpy(weights["decoder/layer_2/ffn/dense_1/kernel"].T.copy()).to(kind)
    found = model.model.decoder.layers[2].fc2.weight
    assert found.dtype == kind and torch.equal(found.detach(), kernel)


def test_values_beyond_float16_are_not_written(
    scripts: dict[str, ModuleType], google: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {**google[1], "encoder/LayerNorm/beta": np.full(24, 1e6, np.float32)}
    prefix = write_google(tmp_path, weights)
    assert convert_google(scripts, prefix, tmp_path / "new", "--dtype", "float16") == 1
    assert "The values of model.encoder.layer_norm.bias must fit into float16" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert convert_google(scripts, prefix, tmp_path / "new", "--dtype", "bfloat16") == 0


def test_a_checkpoint_is_not_replaced_unasked(
    scripts: dict[str, ModuleType], google: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = google[0]
    assert convert_google(scripts, prefix, tmp_path) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert convert_google(scripts, prefix, tmp_path, "--dtype", "float16") == 1
    assert "`target` must not hold a checkpoint, got" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "pytorch_model.bin").write_bytes(b"old")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "README.md").write_text("mine")
    assert convert_google(scripts, prefix, tmp_path, "--dtype", "float16", "--force") == 0
    assert {path.name for path in tmp_path.iterdir()} == {*before, "README.md"}
    assert (tmp_path / "model.safetensors").stat().st_size < len(before["model.safetensors"])
    assert convert_google(scripts, prefix, tmp_path, "--max-shard-size", "20KB", "--force") == 0
    assert not (tmp_path / "model.safetensors").exists()
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert PegasusForConditionalGeneration.from_pretrained(tmp_path).config.d_model == 24
    assert convert_google(scripts, prefix, tmp_path / "other", "--max-shard-size", "much") == 1
    assert "`max_shard_size` must be a number of bytes" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


# ---- ParlAI's Blender


def dictionary() -> tuple[list[str], list[str]]:
    """Tokens by id, and merges."""
    folder = blenderbot_folder(500, 300)
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    return sorted(vocab, key=vocab.__getitem__), (folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]


def blender(folder: Path, seed: int = 0, *, sizes: Sizes | None = None, **options: Any) -> tuple[dict[str, Any], Sizes]:
    """Writes an original into a folder: its weights and sizes."""
    tokens, merges = dictionary()
    sizes = sizes or Sizes(len(tokens))
    weights = options.pop("weights", None) or parlai_weights(sizes, seed, options.pop("dtype", np.float32))
    kept = {key: options.pop(key) for key in ("is_zip", "extra") if key in options}
    folder.mkdir(exist_ok=True)
    write_parlai(folder, weights, parlai_options(sizes, **options), tokens, merges, **kept)
    return weights, sizes


def parlai_pair(target: Path, weights: dict[str, Any], sizes: Sizes, length: int = 11) -> tuple[Any, Any]:
    inputs, replies = ids(sizes, 3, length, 1, padding=True), ids(sizes, 3, length - 4, 2)
    replies[:, 0] = 1
    model = BlenderbotSmallForConditionalGeneration.from_pretrained(target)
    with torch.no_grad():
        ours = model(
            input_ids=torch.tensor(inputs), attention_mask=torch.tensor(inputs != 0),
            decoder_input_ids=torch.tensor(replies),
        ).logits  # fmt: skip
    return ours.numpy(), ParlaiBlender(weights, sizes).logits(inputs, replies)


@pytest.mark.parametrize("is_zip", [False, True], ids=["legacy", "zip"])
def test_a_converted_blender_computes_what_parlai_s_does(
    is_zip: bool, scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    """All training state beside the weights, an object of a class that is not there included."""
    try:
        weights, sizes = blender(tmp_path / "old", is_zip=is_zip, extra=optimizer_state())
    finally:
        forget()
    assert scripts["parlai"].main([str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    ours, original = parlai_pair(tmp_path / "new", weights, sizes)
    close(ours, original)
    assert np.std(original) > 0.5


def test_a_blender_in_float16_keeps_its_values(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    weights, sizes = blender(tmp_path / "old", dtype=np.float16, embeddings_scale=False)
    assert scripts["parlai"].main([str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    tensors = {
        tensor.name: as_float32(tensor) for tensor in read_safetensors(tmp_path / "new" / "model.safetensors")[0]
    }
    found = tensors["model.encoder.layers.1.self_attn.out_proj.weight"]
    assert np.array_equal(found, weights["encoder.layers.1.attention.out_lin.weight"].astype(np.float32))
    model = BlenderbotSmallForConditionalGeneration.from_pretrained(tmp_path / "new")
    assert model.config.scale_embedding is False
    ours, original = parlai_pair(tmp_path / "new", weights, sizes)
    assert np.max(np.abs(ours - original)) > 0.1  # the forward pass of originals.py scales
    model.config.scale_embedding = True
    model.config.save_pretrained(tmp_path / "new")
    close(*parlai_pair(tmp_path / "new", weights, sizes))


def test_blender_files_are_the_hub_s(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    _, sizes = blender(tmp_path / "old")
    assert scripts["parlai"].main([str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "vocab.json", "merges.txt",
        "special_tokens_map.json", "tokenizer_config.json",
    }  # fmt: skip
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    wanted = {
        "architectures": ["BlenderbotSmallForConditionalGeneration"], "model_type": "blenderbot-small",
        "vocab_size": sizes.vocabulary, "d_model": 24, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 40,
        "decoder_ffn_dim": 40, "decoder_attention_heads": 4, "max_position_embeddings": 37, "scale_embedding": True,
        "activation_function": "gelu", "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "decoder_start_token_id": 1, "forced_eos_token_id": 2, "dropout": 0.1, "attention_dropout": 0.0,
    }  # fmt: skip
    assert {name: config.get(name) for name in wanted} == wanted
    generation = GenerationConfig.from_pretrained(tmp_path / "new")
    stated = ("num_beams", "max_length", "min_length", "length_penalty", "no_repeat_ngram_size", "forced_eos_token_id")
    assert [getattr(generation, name) for name in stated] == [10, 128, 20, 0.65, 3, 2]
    _, report = BlenderbotSmallForConditionalGeneration.from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not any(report.values())


def test_blender_ids_are_those_of_the_dictionary(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    blender(tmp_path / "old")
    assert scripts["parlai"].main([str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    tokenizer, original = AutoTokenizer.from_pretrained(tmp_path / "new"), ParlaiDictionary(tmp_path / "old")
    assert isinstance(tokenizer, BlenderbotSmallTokenizer)
    assert tokenizer.model_max_length == 37
    for text in TEXTS[:2] + TEXTS[3:]:
        assert tokenizer(text).input_ids == original.encode(text)
    assert original.ids["__newln__"] in tokenizer("one\ntwo").input_ids == original.encode("one\ntwo")
    assert tokenizer.get_vocab() == original.ids
    # Known to differ: ParlAI sets every mark apart on both sides (docs/originals.md).
    for text in ("well-known", "yes: no", "1,234", "(or not)"):
        assert tokenizer(text).input_ids != original.encode(text)
        apart = " ".join(re.findall(r"\w+|[^\w\s]", text))
        assert tokenizer(apart).input_ids == original.encode(text)


@pytest.mark.heavy
def test_any_two_entries_of_parlai_s_map_exchanged_show(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, sizes = blender(tmp_path / "old", sizes=Sizes(len(dictionary()[0]), encoder_layers=1, decoder_layers=1))
    module, right, number = scripts["parlai"], dict(scripts["parlai"].PARTS), 0
    for side, table in right.items():
        swaps = [pair for pair in SWAPS if pair[0] in table and pair[1] in table]
        assert len(swaps) == (7 if side == "encoder" else 31)
        for pair in swaps:
            monkeypatch.setattr(module, "PARTS", {**right, side: swapped(table, pair)})
            number += 1
            assert module.main([str(tmp_path / "old"), str(tmp_path / str(number))]) == 0
            ours, original = parlai_pair(tmp_path / str(number), weights, sizes, length=8)
            assert np.max(np.abs(ours - original)) > 1e-2, (side, pair)
    monkeypatch.setattr(module, "PARTS", right)
    assert module.main([str(tmp_path / "old"), str(tmp_path / "right")]) == 0
    close(*parlai_pair(tmp_path / "right", weights, sizes, length=8))


def test_rows_that_pad_the_embedding_for_float16_get_parlai_s_names(
    scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    tokens, _ = dictionary()
    rows = len(tokens) + 8 - len(tokens) % 8 if len(tokens) % 8 else len(tokens)
    kept = rows - 5
    blender(tmp_path / "old", sizes=Sizes(rows))
    lines = (tmp_path / "old" / "model.dict").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "old" / "model.dict").write_text("".join(lines[:kept]), encoding="utf-8")
    assert scripts["parlai"].main([str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    vocab = json.loads((tmp_path / "new" / "vocab.json").read_text(encoding="utf-8"))
    assert [token for token, place in vocab.items() if place >= kept] == [f"__FP16_PAD_{n}__" for n in range(5)]
    assert len(vocab) == rows


def test_a_dictionary_is_read_as_parlai_reads_it(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    """Special tokens first wherever they stand, escapes undone, each token once; of equal merges the first counts."""
    module = scripts["parlai"]
    lines = ["the\t9", "__UNK__\t8", "__null__\t7", "a\\nb\t6", "the\t5", "no count", "__start__\t1", "__end__\t1"]
    (tmp_path / "model.dict").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokens = ["__null__", "__start__", "__end__", "__unk__", "the", "a\nb", "no count"]
    assert module.read_dictionary(tmp_path / "model.dict", {}, 7) == tokens
    assert module.read_dictionary(tmp_path / "model.dict", {}, 8) == [*tokens, "__FP16_PAD_0__"]
    for rows in (6, 9, 16):
        with pytest.raises(CheckpointError, match=f"for each of the {rows} rows of the embedding, got 7"):
            module.read_dictionary(tmp_path / "model.dict", {}, rows)
    (tmp_path / "codecs").write_bytes(b"#version: 0.2\na b\nc d</w>\r\na b\n\n")
    assert module.read_codecs(tmp_path / "codecs") == ["a b", "c d</w>"]
    (tmp_path / "codecs").write_bytes(b"#version: 0.2\n\xff b\n")
    with pytest.raises(CheckpointError, match="must be UTF-8 text"):
        module.read_codecs(tmp_path / "codecs")


def test_all_faults_of_a_parlai_model_are_named_at_once(
    scripts: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = Sizes(len(dictionary()[0]))
    weights = parlai_weights(sizes)
    del weights["encoder.layers.1.norm1.bias"], weights["decoder.layers.0.encoder_attention.k_lin.bias"]
    weights["encoder.segment_embeddings.weight"] = np.zeros((2, 24), np.float32)
    weights["decoder.norm_embeddings.bias"] = np.zeros(23, np.float32)
    blender(tmp_path / "old", sizes=sizes, weights=weights)
    assert scripts["parlai"].main([str(tmp_path / "old"), str(tmp_path / "new")]) == 1
    message = capsys.readouterr().err
    assert (
        "missing: decoder.layers.0.encoder_attention.k_lin.bias, encoder.layers.1.norm1.bias; "
        "unknown: encoder.segment_embeddings.weight; "
        "of another shape: decoder.norm_embeddings.bias (must be [24], is [23])." in message
    )
    assert not (tmp_path / "new").exists()


def test_what_parlai_s_model_needs_is_said(
    scripts: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"

    def fault() -> str:
        assert scripts["parlai"].main([str(old), str(new)]) == 1
        assert not new.exists()
        return capsys.readouterr().err

    assert "without model, model.opt, model.dict, model.dict.codecs" in fault()
    blender(old, variant="prelayernorm", dict_tokenizer="bytelevelbpe", n_segments=2)
    assert (
        "`variant` must be 'xlm', got 'prelayernorm'; `n_segments` must be 0, got 2; "
        "`dict_tokenizer` must be 'bpe', got 'bytelevelbpe'." in fault()
    )
    blender(old, n_heads=5)
    assert "must be a divisor of `d_model` = 24, got 5" in fault()
    blender(old)
    (old / "model.opt").write_text("{", encoding="utf-8")
    assert "must be JSON" in fault()
    blender(old)
    lines = (old / "model.dict").read_text(encoding="utf-8").splitlines(keepends=True)
    (old / "model.dict").write_text("".join(lines[:-9]), encoding="utf-8")
    assert f"a token for each of the {len(lines)} rows of the embedding, got {len(lines) - 9}" in fault()
    blender(old)
    (old / "model.dict.codecs").write_text("#version: 0.2\na b\na b c\n", encoding="utf-8")
    assert "got line 3: 'a b c'" in fault()
    (old / "model.dict.codecs").write_text("a b\n", encoding="utf-8")
    assert "got line 1: 'a b'" in fault()
    blender(old)
    whole = (old / "model").read_bytes()
    (old / "model").write_bytes(whole[: len(whole) // 2])
    assert "cannot be opened: it is cut off or damaged" in fault()
    torch.save({"weights": torch.zeros(2)}, old / "model")
    assert "must hold a table of tensors under the key 'model'" in fault()
    weights, sizes = blender(old)
    apart = torch.load(old / "model", weights_only=True)
    apart["model"]["decoder.embeddings.weight"] = torch.zeros(sizes.vocabulary, sizes.dim)
    torch.save(apart, old / "model")
    assert "decoder.embeddings.weight and embeddings.weight differ" in fault()
    assert weights


class _Runs:
    """Pickles as a call."""

    def __init__(self, call: Any, argument: str) -> None:
        self.call, self.argument = call, argument

    def __reduce__(self) -> Any:
        return self.call, (self.argument,)


def test_no_code_of_a_file_is_run(
    scripts: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Calls are refused, or end in an object that does nothing; what they would have written is never there."""
    for name, call in (("system", os.system), ("touch", Path.touch), ("exec", exec), ("loads", pickle.loads)):
        old, mark = tmp_path / name, tmp_path / "mark"
        argument: Any = f"touch {mark}" if call is os.system else mark
        if call is exec:
            argument = f"open({str(mark)!r}, 'w')"
        if call is pickle.loads:
            argument = pickle.dumps(_Runs(os.system, f"touch {mark}"))
        blender(old, extra={"optimizer": _Runs(call, argument)})
        status = scripts["parlai"].main([str(old), str(tmp_path / f"{name}-new")])
        assert not mark.exists()
        assert status == 1 or (tmp_path / f"{name}-new" / "model.safetensors").exists()
        if call is os.system:
            assert status == 1 and "code that is never run" in capsys.readouterr().err


# ---- both


@pytest.mark.reference
def test_transformers_loads_what_was_converted(scripts: dict[str, ModuleType], google: Any, tmp_path: Path) -> None:
    import transformers

    prefix, weights, sizes = google
    assert convert_google(scripts, prefix, tmp_path / "pegasus", "--timing", "original") == 0
    model, report = transformers.PegasusForConditionalGeneration.from_pretrained(
        tmp_path / "pegasus", output_loading_info=True
    )
    assert not any(report.values())
    inputs, targets = ids(sizes, 2, 9, 1), ids(sizes, 2, 6, 2)
    shifted = np.concatenate([np.zeros_like(targets[:, :1]), targets[:, :-1]], axis=1)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(inputs), decoder_input_ids=torch.tensor(shifted)).logits
    close(logits[..., 1:], GooglePegasus(weights, sizes).logits(inputs, targets)[..., 1:], APART)
    blender(tmp_path / "old")
    assert scripts["parlai"].main([str(tmp_path / "old"), str(tmp_path / "small")]) == 0
    _, report = transformers.BlenderbotSmallForConditionalGeneration.from_pretrained(
        tmp_path / "small", output_loading_info=True
    )
    assert not any(report.values())
    for folder in ("pegasus", "small"):
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / folder, use_fast=False)
        ours = AutoTokenizer.from_pretrained(tmp_path / folder)
        for text in TEXTS:
            assert theirs(text).input_ids == ours(text).input_ids


@pytest.mark.heavy
@pytest.mark.parametrize("wing", ["TF", "Flax"])
def test_the_other_frameworks_compute_the_same(
    wing: str, scripts: dict[str, ModuleType], google: Any, tmp_path: Path
) -> None:
    prefix, weights, sizes = google
    assert convert_google(scripts, prefix, tmp_path / "pegasus") == 0
    inputs, targets = ids(sizes, 3, 11, 1, padding=True), ids(sizes, 3, 7, 2)
    shifted = np.concatenate([np.zeros_like(targets[:, :1]), targets[:, :-1]], axis=1)
    arguments = {"input_ids": inputs, "attention_mask": inputs != 0, "decoder_input_ids": shifted}
    arguments = {name: values.astype(np.int32) for name, values in arguments.items()}
    model = getattr(seq2seq_models, f"{wing}PegasusForConditionalGeneration").from_pretrained(tmp_path / "pegasus")
    original = GooglePegasus(weights, sizes, hub_timing, OURS).logits(inputs, targets)
    close(np.asarray(model(**arguments).logits)[..., 1:], original[..., 1:])
    weights, sizes = blender(tmp_path / "old")
    assert scripts["parlai"].main([str(tmp_path / "old"), str(tmp_path / "small")]) == 0
    replies = ids(sizes, 3, 7, 2)
    replies[:, 0] = 1
    model = getattr(seq2seq_models, f"{wing}BlenderbotSmallForConditionalGeneration").from_pretrained(
        tmp_path / "small"
    )
    arguments["decoder_input_ids"] = replies.astype(np.int32)
    arguments["input_ids"] = ids(sizes, 3, 11, 1, padding=True).astype(np.int32)
    original = ParlaiBlender(weights, sizes).logits(arguments["input_ids"], replies)
    close(model(**arguments).logits, original)


@pytest.mark.heavy
def test_the_commands_run_from_a_shell(google: Any, tmp_path: Path) -> None:
    """As docs/originals.md says; what they print names the files."""
    blender(tmp_path / "old")
    commands = {
        "parlai_blenderbot.py": [tmp_path / "old", tmp_path / "small"],
        "google_pegasus.py": [google[0], spiece(), tmp_path / "pegasus", "--heads", "4", "--dataset", "xsum"],
    }
    for script, arguments in commands.items():
        command = [sys.executable, str(CONVERSION / script), *map(str, arguments)]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "model.safetensors" in found.stdout and "Traceback" not in found.stderr
    assert PegasusForConditionalGeneration.from_pretrained(tmp_path / "pegasus").generation_config.max_length == 64
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1 and "`target` must not hold a checkpoint" in refused.stderr


@pytest.mark.heavy
def test_blender_at_full_size(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    """Blender 90M's shape in float16, as ParlAI trained it, with a dictionary of as many tokens."""
    sizes = Sizes(54944, dim=512, encoder_layers=8, decoder_layers=8, ffn=2048, heads=16, positions=512)
    weights = parlai_weights(sizes, dtype=np.float16)
    tokens, merges = dictionary()
    tokens += [f"word{number}" for number in range(sizes.vocabulary - len(tokens))]
    (tmp_path / "old").mkdir()
    write_parlai(tmp_path / "old", weights, parlai_options(sizes), tokens, merges)
    assert scripts["parlai"].main([str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    stored, _ = read_safetensors(tmp_path / "new" / "model.safetensors")
    assert sum(tensor.nbytes for tensor in stored) == 350_035_968 + 219_776  # facebook/blenderbot_small-90M's
    close(*parlai_pair(tmp_path / "new", weights, sizes, length=20))


@pytest.mark.heavy
def test_pegasus_at_full_width(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    """pegasus-large's width, heads and vocabulary, with one layer in the encoder and two in the decoder, not 16."""
    sizes = Sizes(96103, dim=1024, encoder_layers=1, decoder_layers=2, ffn=4096, heads=16, positions=1024)
    weights = google_weights(sizes)
    prefix = write_google(tmp_path, weights)
    vocabulary = tmp_path / "vocabulary.model"
    vocabulary.write_bytes(full_vocabulary())
    arguments = [str(prefix), str(vocabulary), str(tmp_path / "new"), "--timing", "original"]
    assert scripts["google"].main(arguments) == 0
    close(*google_pair(tmp_path / "new", weights, sizes, epsilon=OURS, length=20))


def full_vocabulary() -> bytes:
    """The tests' SentencePiece model with words that no text has, up to 96,000 pieces."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(spiece().read_bytes())
    for number in range(96000 - len(model.pieces)):
        model.pieces.add(piece=f"word{number}", score=-20.0)
    return bytes(model.SerializeToString())
