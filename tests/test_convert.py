"""`seq2seq-models convert`: what it writes is what the source holds, value by value, or nothing is written at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import seq2seq_models
from seq2seq_models import cli
from seq2seq_models.bundled import demo_checkpoint
from seq2seq_models.core.checkpoints import FORMATS, open_checkpoint, read_index
from seq2seq_models.core.parameters import parameters
from seq2seq_models.core.storage import conversion
from seq2seq_models.core.storage.casting import cast
from seq2seq_models.core.storage.conversion import convert_checkpoint
from seq2seq_models.core.storage.safetensors_file import write_safetensors
from seq2seq_models.core.storage.stored import NUMPY_NAMES, Stored
from seq2seq_models.core.storage.torch_file import stored_tensor, tensor_of
from seq2seq_models.errors import CheckpointError, CheckpointNotFoundError

from .loading import BASE, CAUSAL, FULL, names, ours, same
from .repositories import SMALL, write_repository
from .stand_in_hub import StandInHub

SHARD = "100KB"
REPOSITORIES = {"Pegasus": "google/pegasus-xsum", "BlenderbotSmall": "facebook/blenderbot_small-90M"}
WORDS = ["A fire broke out at the harbour on Monday.", "what kind of carbs do they eat?"]


@pytest.fixture(scope="module", params=REPOSITORIES)
def sources(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Path]]:
    """A family and the same weights in folders, by what they are: as the hub has them, and as they are saved here."""
    family = request.param
    top = tmp_path_factory.mktemp(family)
    folders = {}
    for form in ("bin", "h5", "msgpack"):
        folders[form] = top / form
        write_repository(folders[form], REPOSITORIES[family], WORDS, [form], **SMALL)
    model = ours(family).from_pretrained(folders["bin"])
    for kind, options in {
        "safetensors": {},
        "shards": {"max_shard_size": SHARD},
        "bin shards": {"max_shard_size": SHARD, "safe_serialization": False},
    }.items():
        folders[kind] = top / kind
        model.save_pretrained(folders[kind], **options)
    return family, folders


@pytest.fixture(scope="module")
def pegasus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Pegasus repository with all its files, the weights as .bin."""
    folder = tmp_path_factory.mktemp("pegasus") / "source"
    write_repository(folder, "google/pegasus-xsum", WORDS, **SMALL)
    return folder


def opened(folder: Path) -> dict[str, Stored]:
    """The tensors of the one checkpoint in a folder."""
    index = next(folder.glob("*.index.json"), None)
    files = sorted(file for file in folder.iterdir() if file.suffix.removeprefix(".") in FORMATS)
    return dict(open_checkpoint(files, None if index is None else read_index(index)))


def weight_files(folder: Path) -> list[str]:
    return [name for name in names(folder) if conversion._is_weights(name)]


def inside(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["convert", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_json_tells_what_was_written(sources, tmp_path, capsys):
    source = next(iter(sources[1].values()))
    code, out, _ = inside(capsys, source, tmp_path / "there", "--to", "safetensors", "--json")
    found = json.loads(out)
    assert code == 0 and sorted(found["files"]) == sorted(map(str, (tmp_path / "there").iterdir()))
    assert found["target"] == str(tmp_path / "there") and found["tensors"] == len(opened(tmp_path / "there"))


# ---- values


@pytest.mark.parametrize("form", FORMATS)
def test_every_value_arrives(sources: tuple[str, dict[str, Path]], tmp_path: Path, form: str) -> None:
    family, folders = sources
    for number, (kind, source) in enumerate(folders.items()):
        size = (SHARD, "5GB")[number % 2]  # every other one: bin, msgpack and shards go into shards
        target = tmp_path / kind
        expected = ours(family).from_pretrained(source)
        done = convert_checkpoint(source, target, form, max_shard_size=size)
        assert sorted(done.files) == sorted(target.iterdir())
        files = weight_files(target)
        assert files == [FORMATS[form].whole] if size == "5GB" else len(files) > 3
        same(ours(family).from_pretrained(target), expected)
        found, state = opened(target), expected.state_dict()
        assert done.tensors == len(found)
        computed = {name for name in state if "embed_positions" in name and form == "msgpack" and family == "Pegasus"}
        tied = {one.name for one in parameters(expected.config) if one.tied_to is not None}
        assert set(found) == set(state) - computed - tied
        for name, stored in found.items():
            assert torch.equal(tensor_of(stored), state[name]), name


@pytest.mark.parametrize("head", [BASE, CAUSAL])
def test_other_heads(sources: tuple[str, dict[str, Path]], tmp_path: Path, head: str) -> None:
    family, folders = sources
    model = ours(family, head).from_pretrained(folders["safetensors"])
    model.save_pretrained(tmp_path / "source")
    source = tmp_path / "source"
    for form in FORMATS:
        convert_checkpoint(source, tmp_path / form, form)
        again, report = ours(family, head).from_pretrained(tmp_path / form, output_loading_info=True)
        assert not any(report.values())
        same(again, model)
        source = tmp_path / form


def test_the_head_is_found_without_its_name(pegasus: Path, tmp_path: Path) -> None:
    for head in (FULL, BASE, CAUSAL):
        source = tmp_path / head
        ours("Pegasus", head).from_pretrained(pegasus).save_pretrained(source)
        table = json.loads((source / "config.json").read_text())
        del table["architectures"]
        (source / "config.json").write_text(json.dumps(table))
        convert_checkpoint(source, tmp_path / f"{head}-h5", "h5")
        same(
            ours("Pegasus", head).from_pretrained(tmp_path / f"{head}-h5"),
            ours("Pegasus", head).from_pretrained(source),
        )


def test_nothing_is_left_out_because_of_a_wrong_name(pegasus: Path, tmp_path: Path) -> None:
    """A config that calls the model a base model, while the file has a head's bias."""
    for path in pegasus.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    table = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**table, "architectures": ["PegasusModel"]}))
    convert_checkpoint(tmp_path, tmp_path / "target", "safetensors")
    bias = opened(tmp_path / "target")["final_logits_bias"].read()
    assert np.array_equal(bias, opened(pegasus)["final_logits_bias"].read())
    assert bias.any()


def test_a_head_of_its_own_goes_along(tmp_path: Path) -> None:
    config = seq2seq_models.PegasusConfig(**SMALL, vocab_size=83, max_position_embeddings=12, tie_word_embeddings=False)
    model = seq2seq_models.PegasusForConditionalGeneration(config)
    model.save_pretrained(tmp_path / "source")
    assert not torch.equal(model.lm_head.weight, model.model.shared.weight)
    source = tmp_path / "source"
    for form in ("msgpack", "bin", "h5", "safetensors"):
        convert_checkpoint(source, tmp_path / form, form)
        source = tmp_path / form
    same(ours("Pegasus").from_pretrained(source), model)


def test_the_bin_file_is_a_sound_archive(pegasus: Path, tmp_path: Path) -> None:
    convert_checkpoint(pegasus, tmp_path / "target", "bin")
    file = tmp_path / "target" / "pytorch_model.bin"
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
    mapped = torch.load(file, weights_only=True, mmap=True)
    held = torch.load(file, weights_only=True)
    assert list(mapped) == list(held)
    for name, tensor in mapped.items():
        assert tensor.data_ptr() % 64 == 0
        assert torch.equal(tensor, held[name])


@pytest.mark.reference
@pytest.mark.filterwarnings(r"ignore:::transformers(\..*)?")
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_the_reference_reads_it(sources: tuple[str, dict[str, Path]], tmp_path: Path, form: str) -> None:
    import transformers

    family, folders = sources
    convert_checkpoint(folders["msgpack"], tmp_path, form, max_shard_size=SHARD)
    theirs = getattr(transformers, family + FULL)
    model, report = theirs.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    same(model, ours(family).from_pretrained(tmp_path))


# ---- dtypes


@pytest.mark.parametrize(("form", "dtype"), list(product(FORMATS, conversion.CAST_TO)))
def test_weights_are_cast(pegasus: Path, tmp_path: Path, form: str, dtype: str) -> None:
    if (form, dtype) == ("h5", "bfloat16"):
        with pytest.raises(CheckpointError, match="`dtype` must be float32 or float16 for h5"):
            convert_checkpoint(pegasus, tmp_path / "target", form, dtype=dtype)
        return
    convert_checkpoint(pegasus, tmp_path / "target", form, dtype=dtype)
    state = ours("Pegasus").from_pretrained(pegasus).state_dict()
    for name, stored in opened(tmp_path / "target").items():
        assert torch.equal(tensor_of(stored), state[name].to(getattr(torch, dtype))), name
    assert json.loads((tmp_path / "target" / "config.json").read_text())["dtype"] == dtype
    assert ours("Pegasus").from_pretrained(tmp_path / "target", dtype="auto").dtype == getattr(torch, dtype)
    convert_checkpoint(tmp_path / "target", tmp_path / "back", "safetensors", dtype="float32")
    for name, stored in opened(tmp_path / "back").items():
        if not (form == "msgpack" and "embed_positions" in name):  # computed anew
            assert torch.equal(tensor_of(stored), state[name].to(getattr(torch, dtype)).float()), name


def test_the_old_key_of_the_dtype_is_kept(pegasus: Path, tmp_path: Path) -> None:
    convert_checkpoint(pegasus, tmp_path / "one", "safetensors")
    file = tmp_path / "one" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "torch_dtype": "float32"}))
    convert_checkpoint(tmp_path / "one", tmp_path / "two", "msgpack", dtype="float16")
    table = json.loads((tmp_path / "two" / "config.json").read_text())
    assert (table["torch_dtype"], table.get("dtype")) == ("float16", None)


def test_bfloat16_is_widened_for_h5(
    pegasus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    convert_checkpoint(pegasus, tmp_path / "half", "safetensors", dtype="bfloat16")
    code, _, err = inside(capsys, tmp_path / "half", tmp_path / "target", "--to", "h5")
    assert (code, err) == (0, "warning: tf_model.h5 cannot hold bfloat16: the weights are written as float32\n")
    half = opened(tmp_path / "half")
    for name, stored in opened(tmp_path / "target").items():
        assert torch.equal(tensor_of(stored), tensor_of(half[name]).float()), name
    assert json.loads((tmp_path / "target" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize(
    ("source", "target"), list(product(("F64", "F32", "F16", "BF16"), ("F64", "F32", "F16", "BF16")))
)
def test_casts_round_as_torch_does(source: str, target: str) -> None:
    torch_names = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    pattern = np.random.default_rng(0).integers(0, 1 << 32, 300_000, dtype=np.uint32).view(np.float32)
    special = np.array(
        [0, -0.0, np.inf, -np.inf, np.nan, 1 + 2**-8, 1 + 3 * 2**-8, 2**-24, 2**-25, 2**-133], np.float32
    )
    small = np.clip(pattern[~np.isnan(pattern)], -6e4, 6e4)
    values = torch.from_numpy(np.concatenate([special, small, small * np.float32(1e-5)])).to(torch_names[source])
    found = tensor_of(cast(stored_tensor("w", values), target))
    expected = values.to(torch_names[target])
    assert found.dtype == expected.dtype
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(nan=1.0).signbit(), expected.nan_to_num(nan=1.0).signbit())
    assert torch.equal(found.nan_to_num(nan=1.0), expected.nan_to_num(nan=1.0))


def test_a_value_that_is_too_large_is_told(pegasus: Path, tmp_path: Path) -> None:
    model = ours("Pegasus").from_pretrained(pegasus)
    with torch.no_grad():
        model.model.encoder.layers[1].fc1.weight[3, 4] = 7e4
    model.save_pretrained(tmp_path / "source")
    with pytest.raises(CheckpointError, match=r"model\.encoder\.layers\.1\.fc1\.weight must fit into float16, got lar"):
        convert_checkpoint(tmp_path / "source", tmp_path / "target", "bin", dtype="float16")
    assert names(tmp_path) == ["source"]
    convert_checkpoint(tmp_path / "source", tmp_path / "target", "bin", dtype="bfloat16")


# ---- the other files


def test_what_belongs_to_it_is_copied(pegasus: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in pegasus.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    for name in ("generation_config_for_news.json", "generation_config.json"):
        (source / name).write_text('{"num_beams": 3}\n')
    (source / "README.md").write_text("of another model")
    (source / "optimizer.pt").write_bytes(b"x")
    convert_checkpoint(source, tmp_path / "target", "msgpack")
    expected = (set(names(source)) - {"README.md", "optimizer.pt", "pytorch_model.bin"}) | {"flax_model.msgpack"}
    assert set(names(tmp_path / "target")) == expected
    assert {"config.json", "spiece.model", "tokenizer_config.json", "special_tokens_map.json"} < expected
    for name in expected - {"flax_model.msgpack"}:
        assert (tmp_path / "target" / name).read_bytes() == (source / name).read_bytes()


def test_a_repository_of_the_hub(hub: StandInHub, pegasus: Path, tmp_path: Path) -> None:
    hub.add("google/pegasus-xsum", pegasus, revision="v1")
    code = cli.main(
        ["convert", "google/pegasus-xsum", str(tmp_path / "target"), "--to", "safetensors", "--revision", "v1"]
    )
    assert code == 0
    assert set(names(tmp_path / "target")) == (set(names(pegasus)) - {"pytorch_model.bin"}) | {"model.safetensors"}
    same(ours("Pegasus").from_pretrained(tmp_path / "target"), ours("Pegasus").from_pretrained(pegasus))
    text = seq2seq_models.AutoTokenizer.from_pretrained(tmp_path / "target")(WORDS[0]).input_ids
    assert text == seq2seq_models.AutoTokenizer.from_pretrained(pegasus)(WORDS[0]).input_ids


# ---- a target that is there


def test_a_target_with_weights_is_refused_or_replaced(
    pegasus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "target"
    assert inside(capsys, pegasus, target, "--to", "safetensors", "--max-shard-size", SHARD)[0] == 0
    (target / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    code, out, err = inside(capsys, pegasus, target, "--to", "h5")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: `target` must hold no weights, got model-00001-of-0")
    assert "--force" in err
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    code, out, err = inside(capsys, pegasus, target, "--to", "h5", "--force")
    assert (code, err) == (0, "")
    assert weight_files(target) == ["tf_model.h5"]
    assert (target / "notes.txt").read_text() == "mine"
    same(ours("Pegasus").from_pretrained(target), ours("Pegasus").from_pretrained(pegasus))


def test_a_checkpoint_is_converted_in_its_place(pegasus: Path, tmp_path: Path) -> None:
    expected = ours("Pegasus").from_pretrained(pegasus)
    convert_checkpoint(pegasus, tmp_path, "bin")
    for form in ("bin", "h5", "msgpack", "safetensors", "safetensors", "bin"):
        with pytest.raises(CheckpointError, match="must hold no weights"):
            convert_checkpoint(tmp_path, tmp_path, form)
        convert_checkpoint(tmp_path, tmp_path, form, overwrite=True)
        assert weight_files(tmp_path) == [FORMATS[form].whole]
        same(ours("Pegasus").from_pretrained(tmp_path), expected)


# ---- faults


def flipped(folder: Path, tensors: list[Stored], write: Callable[..., Any], **options: Any) -> None:
    write(folder, tensors, **options)
    file = next(path for path in folder.iterdir() if path.suffix.removeprefix(".") in FORMATS)
    values = next(tensor for tensor in tensors if "fc1" in tensor.name and len(tensor.shape) == 2).read().tobytes()
    content = bytearray(file.read_bytes())
    content[content.index(values) + 5] ^= 1
    file.write_bytes(content)


def dropped(folder: Path, tensors: list[Stored], write: Callable[..., Any], **options: Any) -> None:
    write(folder, [tensor for tensor in tensors if "final_logits_bias" not in tensor.name], **options)


def swapped(folder: Path, tensors: list[Stored], write: Callable[..., Any], **options: Any) -> None:
    """Two weights of one shape change places."""
    same_shape = [tensor for tensor in tensors if "k_proj" in tensor.name and len(tensor.shape) == 2][:2]
    others = {id(same_shape[0]): same_shape[1], id(same_shape[1]): same_shape[0]}
    write(folder, [replace(one, read=others.get(id(one), one).read) for one in tensors], **options)


def turned(folder: Path, tensors: list[Stored], write: Callable[..., Any], **options: Any) -> None:
    """A square weight is written in the wrong orientation."""
    first = next(tensor for tensor in tensors if "q_proj" in tensor.name and len(tensor.shape) == 2)
    write(folder, [replace(one, read=lambda: first.read().T) if one is first else one for one in tensors], **options)


def cut(folder: Path, tensors: list[Stored], write: Callable[..., Any], **options: Any) -> None:
    write(folder, tensors, **options)
    file = next(path for path in folder.iterdir() if path.suffix.removeprefix(".") in FORMATS)
    file.write_bytes(file.read_bytes()[:-100])


def unwritten(folder: Path, tensors: list[Stored], write: Callable[..., Any], **options: Any) -> None:
    write(folder, tensors, **options)
    raise OSError(28, "No space left on device")


FAULTS: dict[Any, str] = {
    flipped: r"got 1 differences: model\.encoder\.layers\.0\.fc1\.weight has another checksum",
    dropped: r"got 1 differences: final_logits_bias is missing",
    swapped: r"got 2 differences: .*k_proj\.weight has another checksum; .*k_proj\.weight has another checksum",
    turned: r"got 1 differences: .*q_proj\.weight has another checksum",
    cut: r"must read back, got an error: .*target.*Nothing was kept",
    unwritten: "No space left",
}


@pytest.mark.parametrize(("form", "fault"), list(product(FORMATS, FAULTS)))
def test_a_writer_that_fails_leaves_nothing(
    pegasus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, fault: Callable[..., None]
) -> None:
    convert_checkpoint(pegasus, tmp_path / "old", "safetensors")
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}
    write = conversion.write_checkpoint
    monkeypatch.setattr(
        conversion, "write_checkpoint", lambda folder, tensors, **options: fault(folder, tensors, write, **options)
    )
    with pytest.raises((CheckpointError, OSError), match=FAULTS[fault]) as caught:
        convert_checkpoint(pegasus, tmp_path / "new" / "target", form)
    assert ".saving-" not in str(caught.value)
    assert names(tmp_path) == ["old"]
    with pytest.raises((CheckpointError, OSError)):
        convert_checkpoint(pegasus, tmp_path / "old", form, overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before


@pytest.mark.parametrize("form", FORMATS)
def test_a_source_that_is_cut_off(pegasus: Path, tmp_path: Path, form: str) -> None:
    convert_checkpoint(pegasus, tmp_path / "source", form)
    file = tmp_path / "source" / FORMATS[form].whole
    whole = file.read_bytes()
    for length in (0, 1, 7, 64, 1000, *range(5000, len(whole), len(whole) // 20), len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=file.name):
            convert_checkpoint(tmp_path / "source", tmp_path / "target", "safetensors")
        assert names(tmp_path) == ["source"]
    file.write_bytes(whole)
    convert_checkpoint(tmp_path / "source", tmp_path / "target", "safetensors")


def test_a_checkpoint_of_another_model(pegasus: Path, tmp_path: Path) -> None:
    convert_checkpoint(pegasus, tmp_path, "safetensors")
    table = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**table, "decoder_ffn_dim": 8, "encoder_layers": 3}))
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(tmp_path, tmp_path / "target", "bin")
    assert "do not fit PegasusForConditionalGeneration: missing: model.encoder.layers.2.fc1.bias, " in str(caught.value)
    assert "model.decoder.layers.0.fc1.weight expected [8, 64], got [80, 64]" in str(caught.value)
    assert str(caught.value).endswith("Check that config.json belongs to these weights.")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "zip"], "error: `to` must be one of safetensors, bin, h5, msgpack, got 'zip'."),
        (["--to", "bin", "--dtype", "int8"], "error: `dtype` must be one of float32, float16, bfloat16, got 'int8'."),
        (["--to", "h5", "--dtype", "bfloat16"], "error: `dtype` must be float32 or float16 for h5"),
        (
            ["--to", "bin", "--max-shard-size", "5 apples"],
            "error: `max_shard_size` must be a number of bytes or a size",
        ),
        (["--to", "bin", "--max-shard-size", "0"], "error: `max_shard_size` must be a number of bytes or a size"),
        (["--to", "zip", "--dtype", "x"], "error: `dtype` must be one of float32, float16, bfloat16, got 'x'."),
    ],
)
def test_a_bad_word_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = inside(capsys, demo_checkpoint("pegasus-demo"), tmp_path / "target", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(message)
    assert names(tmp_path) == []


def test_a_bad_place_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], no_network: None) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    demo = demo_checkpoint("pegasus-demo")
    for source, target, message in (
        ("./nothing-here", "target", "`pretrained_model_name_or_path` must be a folder or a hub repository, got"),
        ("owner/nothing-here", "target", "config.json of owner/nothing-here is not in the cache"),
        (tmp_path / "empty", "target", f"The folder {tmp_path}/empty has no config.json."),
        (demo, "file", f"`target` must be a folder, got the file {tmp_path}/file."),
        (demo, "file/below", "[Errno 20] Not a directory"),
    ):
        code, out, err = inside(capsys, source, tmp_path / target, "--to", "bin")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"error: {message}")
    assert names(tmp_path) == ["empty", "file"]
    (tmp_path / "empty" / "config.json").write_bytes((demo / "config.json").read_bytes())
    code, _, err = inside(capsys, tmp_path / "empty", tmp_path / "target", "--to", "bin")
    assert (code, err.startswith(f"error: The folder {tmp_path}/empty has no model.safetensors or ")) == (2, True)


def test_what_a_conversion_says(
    pegasus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = inside(capsys, pegasus, tmp_path / "one", "--to", "safetensors")
    size = sum(stored.nbytes for stored in opened(tmp_path / "one").values()) / 1e6
    count = len(opened(tmp_path / "one"))
    files = len(names(tmp_path / "one"))
    told = f"{files} files, {count} tensors of {size:,.1f} MB, written and compared\n"
    assert (code, out, err) == (0, f"{tmp_path / 'one'}: {told}", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert "100%" in inside(capsys, pegasus, tmp_path / "two", "--to", "h5")[2]
    shards = ("--max-shard-size", SHARD, "--quiet")
    assert inside(capsys, pegasus, tmp_path / "three", "--to", "msgpack", *shards)[2] == ""
    assert inside(capsys, tmp_path / "three", tmp_path / "four", "--to", "h5", *shards)[2] == ""


def test_progress_counts_every_byte_twice(pegasus: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    done = convert_checkpoint(pegasus, tmp_path, "h5", progress=lambda *step: steps.append(step))
    assert len(steps) == 2 * done.tensors
    assert steps == sorted(steps)
    assert {total for _, total in steps} == {2 * done.nbytes} == {steps[-1][0]}


# ---- killed


SLOW = """
import signal, sys, time
from seq2seq_models import cli
# A shell's background jobs have the one ignored, those of nohup the other.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from seq2seq_models.core.storage import conversion
count = 0
def slow(self, tensor):
    global count
    count += 1
    if count == int(sys.argv[1]):
        print("here", flush=True)
        time.sleep(60)
conversion._Meant._advance = slow
sys.exit(cli.main(sys.argv[2:]))
"""


def interrupted(number: int, at: int, source: Path, target: Path, form: str) -> tuple[int, bytes]:
    """Exit code and errors of a conversion that gets this signal after so many tensors were written or compared."""
    words = [sys.executable, "-c", SLOW, str(at), "convert", str(source), str(target), "--to", form]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        assert len(list(target.glob(".saving-*"))) == 1
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.mark.parametrize(
    ("number", "code", "at", "form"),
    [
        (signal.SIGTERM, 143, 20, "h5"),
        (signal.SIGTERM, 143, 130, "safetensors"),
        (signal.SIGINT, 130, 20, "msgpack"),
        (signal.SIGHUP, 129, 1, "safetensors"),
    ],
)
def test_a_signal_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int, at: int, form: str) -> None:
    source = demo_checkpoint("pegasus-demo")
    assert interrupted(number, at, source, tmp_path / "new" / "target", form) == (code, b"")
    assert names(tmp_path) == []


def test_a_kill_leaves_no_checkpoint_and_the_next_conversion_cleans_up(pegasus: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    code, _ = interrupted(signal.SIGKILL, 30, demo_checkpoint("pegasus-demo"), target, "safetensors")
    assert code == -signal.SIGKILL
    assert [name[:8] for name in names(target)] == [".saving-"]
    with pytest.raises(CheckpointNotFoundError, match=r"has no config\.json"):
        ours("Pegasus").from_pretrained(target)
    (target / ".saving-other").mkdir()  # a save by other means, which may be alive
    convert_checkpoint(pegasus, target, "safetensors")
    assert [name for name in names(target) if name.startswith(".")] == [".saving-other"]
    same(ours("Pegasus").from_pretrained(target), ours("Pegasus").from_pretrained(pegasus))


def test_a_conversion_that_is_alive_is_left_alone(pegasus: Path, tmp_path: Path) -> None:
    left: list[list[str]] = []

    def another(*_: int) -> None:
        if not left:
            left.append([])
            before = names(tmp_path)
            convert_checkpoint(pegasus, tmp_path, "safetensors", progress=None)
            left.append(sorted(set(before) - set(names(tmp_path))))

    convert_checkpoint(pegasus, tmp_path, "bin", progress=another)
    assert left == [[], []]


def test_the_last_moment_is_not_disturbed(
    pegasus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from seq2seq_models import checkpoint_commands

    finish = checkpoint_commands.Stopped.let_finish
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]

    def disturbed(self: Any) -> None:
        finish(self)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(checkpoint_commands.Stopped, "let_finish", disturbed)
    assert inside(capsys, pegasus, tmp_path / "target", "--to", "bin")[0] == 0
    same(ours("Pegasus").from_pretrained(tmp_path / "target"), ours("Pegasus").from_pretrained(pegasus))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == handlers


# ---- memory


PEAK = """
import sys
from seq2seq_models.cli import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
sys.exit(code)
"""


def write_large(folder: Path, layers: int) -> int:
    """The bytes of a float32 checkpoint whose largest tensor has 16.8 MB, of constants."""
    sizes = {"encoder_layers": layers, "decoder_layers": layers, "num_hidden_layers": layers}
    config = seq2seq_models.PegasusConfig(vocab_size=200, architectures=["PegasusForConditionalGeneration"], **sizes)
    config.save_pretrained(folder)

    def constant(value: int, shape: tuple[int, ...]) -> Callable[[], Any]:
        return lambda: np.full(shape, value, NUMPY_NAMES["F32"])

    wanted = [one for one in parameters(config) if one.tied_to is None]
    tensors = [Stored(one.name, one.shape, "F32", constant(at, one.shape)) for at, one in enumerate(wanted)]
    write_safetensors(folder / "model.safetensors", tensors)
    return sum(tensor.nbytes for tensor in tensors)


def peak(source: Path, target: Path, form: str, *options: str) -> int:
    """The most bytes of memory that the process of a conversion has, the pages of mapped files included."""
    words = ["convert", str(source), str(target), "--to", form, "--quiet", *options]
    done = subprocess.run([sys.executable, "-c", PEAK, *words], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) * 1024


@pytest.mark.heavy
def test_memory_is_that_of_a_few_tensors(tmp_path: Path) -> None:
    """To all four formats and back from them, beyond what the process needs for a small checkpoint."""
    size = write_large(tmp_path / "large", 3)
    write_large(tmp_path / "small", 1)
    assert size > 350e6
    allowed = 50e6  # three tensors of the largest; holding them all would take 230 MB more than the small one
    table = {}
    for form in FORMATS:
        start = peak(tmp_path / "small", tmp_path / f"small-{form}", form)
        table[f"to {form}"] = peak(tmp_path / "large", tmp_path / form, form) - start
        start = peak(tmp_path / f"small-{form}", tmp_path / f"small-{form}-back", "safetensors")
        table[f"from {form}"] = peak(tmp_path / form, tmp_path / f"{form}-back", "safetensors") - start
        (tmp_path / f"{form}-back" / "model.safetensors").unlink()
        (tmp_path / form / FORMATS[form].whole).unlink()
    assert {what: most for what, most in table.items() if most > allowed} == {}
