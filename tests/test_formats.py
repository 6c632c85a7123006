"""TensorFlow's and Flax' files: what transformers 4.57.6 wrote is read, what is written it reads, value by value."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.serialization
import h5py
import jax
import ml_dtypes
import numpy as np
import pytest
import tf_keras
import torch
import transformers

import seq2seq_models
from seq2seq_models.core.checkpoints import FORMATS, is_weight_file, open_checkpoint, read_index, write_checkpoint
from seq2seq_models.core.leaves import to_flax, to_keras
from seq2seq_models.core.storage import h5_file, msgpack_file
from seq2seq_models.core.storage.checkpoint_report import describe_checkpoint
from seq2seq_models.core.storage.h5_file import read_h5, write_h5
from seq2seq_models.core.storage.msgpack_file import read_msgpack, write_msgpack
from seq2seq_models.core.storage.stored import NUMPY_NAMES, Stored
from seq2seq_models.core.storage.torch_file import tensor_of
from seq2seq_models.errors import CheckpointError, CheckpointNotFoundError, MissingFrameworkError

from .loading import BASE, CAUSAL, FULL, SHARD, names, ours, rewrite, same, tensors
from .repositories import FAMILY, add_repository
from .stand_in_hub import StandInHub
from .tiny import FAMILIES, HEADS, pair, reference, settings

pytestmark = [
    pytest.mark.reference,
    pytest.mark.filterwarnings(r"ignore:::(transformers|jax|flax|tensorflow|keras|tf_keras|google)(\..*)?"),
]

WINGS = {"tf": "TF", "flax": "Flax"}
FORM = {"tf": "h5", "flax": "msgpack"}
FULL_AND_BASE = [(family, head) for family in FAMILIES for head in (FULL, BASE)]


@pytest.fixture(scope="module", params=FULL_AND_BASE, ids="".join)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """A model and what the reference's three frameworks wrote of it: folders pt, tf, tf_shards, tf_safe, flax, …"""
    family, head = request.param
    folder = tmp_path_factory.mktemp(family + head)
    reference(family, head).save_pretrained(folder / "pt")
    tf_keras.backend.reset_uids()  # files carry the model's name, with a number if another was built in this process
    for wing, prefix in WINGS.items():
        model = getattr(transformers, prefix + family + head).from_pretrained(folder / "pt", from_pt=True)
        model.save_pretrained(folder / wing)
        model.save_pretrained(folder / f"{wing}_shards", max_shard_size=SHARD)
        model.save_pretrained(folder / f"{wing}_safe", safe_serialization=True)
    return family, head, folder


@pytest.fixture(scope="module")
def pegasus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Pegasus with its head, in all four formats and in shards: folders pt, tf, tf_shards, …, by our own writers."""
    folder = tmp_path_factory.mktemp("pegasus")
    pair("Pegasus")[1].save_pretrained(folder / "pt")
    for wing in WINGS:
        model = like(wing, "Pegasus").from_pretrained(folder / "pt")
        model.save_pretrained(folder / wing, safe_serialization=False)
        model.save_pretrained(folder / f"{wing}_shards", safe_serialization=False, max_shard_size=SHARD)
    return folder


def like(wing: str, family: str, head: str = FULL) -> Any:
    """Our PyTorch class, but with the files of another framework: reading and writing know only the word."""
    return type(f"{WINGS[wing]}{family}{head}", (ours(family, head),), {"framework": wing})


def opened(folder: Path) -> dict[str, Stored]:
    index = next(folder.glob("*.index.json"), None)
    files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".h5", ".msgpack"))
    return dict(open_checkpoint(files, None if index is None else read_index(index)))


def check(found: dict[str, Stored], expected: dict[str, Stored], wing: str, family: str) -> None:
    computed = {name for name in expected if "embed_positions" in name}
    assert set(expected) - set(found) == (computed if (wing, family) == ("flax", "Pegasus") else set())
    assert set(found) <= set(expected)
    for name, stored in found.items():
        assert stored.shape == expected[name].shape, name
        assert stored.dtype == expected[name].dtype, name
        assert np.array_equal(stored.read(), expected[name].read()), name
        assert torch.equal(tensor_of(stored), tensor_of(expected[name])), name


# ---- reading


def test_what_the_reference_wrote_is_read(written: tuple[str, str, Path]) -> None:
    family, head, folder = written
    expected = dict(open_checkpoint([folder / "pt" / "model.safetensors"]))
    assert len(expected) == (118 if head == FULL else 117)
    for wing in WINGS:
        assert len(list((folder / f"{wing}_shards").glob(f"*.{FORM[wing]}"))) > 3
        for kind in (wing, f"{wing}_shards", f"{wing}_safe"):
            check(opened(folder / kind), expected, wing, family)


def test_models_load_from_every_format(written: tuple[str, str, Path]) -> None:
    family, head, folder = written
    expected = ours(family, head).from_pretrained(folder / "pt")
    for kind in ("tf", "tf_shards", "tf_safe", "flax", "flax_shards", "flax_safe"):
        mine, info = ours(family, head).from_pretrained(folder / kind, output_loading_info=True)
        assert not any(info.values()), kind
        same(mine, expected)
        assert all(parameter.is_contiguous() for parameter in mine.parameters())


def as_in_2021(file: Path) -> None:
    """Renames the datasets as the hub's files of 2021 have them: another model's name, and the embedding's "weight"."""
    with h5py.File(file, "r+") as content:
        group = content["model"]
        changed = []
        for name in group.attrs["weight_names"]:
            new = name.replace("tf_pegasus_for_conditional_generation", "tf_pegasus_for_conditional_generation_2", 1)
            if name.startswith("model.shared/"):
                new = name.replace("embeddings:0", "weight:0")
            if new != name:
                group.move(name, new)
            changed.append(new.encode())
        group.attrs["weight_names"] = changed


def test_names_of_2021(written: tuple[str, str, Path], tmp_path: Path) -> None:
    family, head, folder = written
    file = tmp_path / "tf_model.h5"
    for source in (folder / "tf" / file.name, folder / "tf" / "config.json"):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    as_in_2021(file)
    assert "model/model.shared/model.shared/weight:0" in {stored.name for stored in read_h5(file)}
    check(opened(tmp_path), dict(open_checkpoint([folder / "pt" / "model.safetensors"])), "tf", family)
    theirs = getattr(transformers, f"TF{family}{head}")
    theirs, info = theirs.from_pretrained(tmp_path, output_loading_info=True)
    assert "model.shared/embeddings:0" not in info["missing_keys"], "the reference reads this file, too"
    assert np.array_equal(theirs.weights[0].numpy(), opened(tmp_path)["model.shared.weight"].read())


def test_a_read_tensor_is_lazy_and_its_own(pegasus: Path) -> None:
    for file in (pegasus / "tf" / "tf_model.h5", pegasus / "flax" / "flax_model.msgpack"):
        before = file.read_bytes()
        views = 0
        for stored in open_checkpoint([file]).values():
            values = stored.read()
            assert values.flags.writeable
            assert values.flags.aligned
            views += not values.flags.owndata
            values[...] = 0
            stored.release()
        assert views > 10, "views of the map, not copies"
        assert file.read_bytes() == before


def test_other_frameworks_stay_out(pegasus: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from seq2seq_models.core.checkpoints import open_checkpoint\n"
        "assert 'h5py' not in sys.modules and 'numpy' not in sys.modules\n"
        "open_checkpoint([pathlib.Path(sys.argv[1])])['final_logits_bias'].read()\n"
        "assert 'h5py' not in sys.modules\n"
        "open_checkpoint([pathlib.Path(sys.argv[2])])['final_logits_bias'].read()\n"
        "print(sorted({'flax', 'jax', 'msgpack', 'tensorflow', 'keras', 'torch'} & set(sys.modules)))\n"
    )
    files = [pegasus / "flax" / "flax_model.msgpack", pegasus / "tf" / "tf_model.h5"]
    result = subprocess.run([sys.executable, "-c", code, *map(str, files)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# ---- writing


@pytest.mark.parametrize("size", ["5GB", pytest.param(SHARD, marks=pytest.mark.heavy)])
def test_the_reference_reads_tensorflow_files(written: tuple[str, str, Path], tmp_path: Path, size: str) -> None:
    family, head, folder = written
    mine = like("tf", family, head).from_pretrained(folder / "pt")
    mine.save_pretrained(tmp_path, safe_serialization=False, max_shard_size=size)
    assert any("-of-" in name for name in names(tmp_path)) == (size == SHARD)
    assert names(tmp_path) == names(folder / ("tf" if size == "5GB" else "tf_shards"))
    expected = {short(stored.name.removeprefix("model/")): stored for stored in read_h5(folder / "tf" / "tf_model.h5")}
    model = getattr(transformers, f"TF{family}{head}")
    model, info = model.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert len(expected) == len(model.weights) == (118 if head == FULL else 117)
    for weight in model.weights:
        assert np.array_equal(weight.numpy(), expected[short(weight.name)].read()), weight.name
    same(ours(family, head).from_pretrained(tmp_path), mine)


def short(name: str) -> str:
    """The name of a TensorFlow variable without its model's, which counts the models of a process."""
    return name.partition("/")[2] or name


@pytest.mark.parametrize("size", ["5GB", pytest.param(SHARD, marks=pytest.mark.heavy)])
def test_the_reference_reads_flax_files(written: tuple[str, str, Path], tmp_path: Path, size: str) -> None:
    family, head, folder = written
    mine = like("flax", family, head).from_pretrained(folder / "pt")
    mine.save_pretrained(tmp_path, safe_serialization=False, max_shard_size=size)
    assert any("-of-" in name for name in names(tmp_path)) == (size == SHARD)
    expected = flax_tree(folder / "flax" / "flax_model.msgpack")
    found = getattr(transformers, f"Flax{family}{head}").from_pretrained(tmp_path).params
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, expected))
    same(ours(family, head).from_pretrained(tmp_path), mine)


def test_files_are_laid_out_as_the_reference_does(written: tuple[str, str, Path], tmp_path: Path) -> None:
    family, head, folder = written
    for wing in WINGS:
        mine = like(wing, family, head).from_pretrained(folder / "pt")
        for kind, size in ((wing, "5GB"), (f"{wing}_shards", SHARD)):
            mine.save_pretrained(tmp_path / kind, safe_serialization=False, max_shard_size=size)
    assert h5_layout(tmp_path / "tf" / "tf_model.h5") == h5_layout(folder / "tf" / "tf_model.h5")
    shards = [sorted((place / "tf_shards").glob("*.h5")) for place in (tmp_path, folder)]
    tree = {str(key): value for key, value in flax_tree(tmp_path / "flax" / "flax_model.msgpack").items()}
    assert jax.tree.structure(tree) == jax.tree.structure(flax_tree(folder / "flax" / "flax_model.msgpack"))
    for kind in ("tf", "flax"):
        form = FORMATS[FORM[kind]]
        indexes = [json.loads((place / f"{kind}_shards" / form.index).read_text()) for place in (tmp_path, folder)]
        assert indexes[0]["metadata"] == indexes[1]["metadata"]
        maps = [{re.sub("_[0-9]+/model/", "/model/", name) for name in index["weight_map"]} for index in indexes]
        assert maps[0] == maps[1]
    both = [{name for file in files for name in h5_layout(file)} for files in shards]
    assert both[0] == both[1]
    config = json.loads((tmp_path / "tf" / "config.json").read_text())
    assert config["architectures"] == [family + head]


def h5_layout(file: Path) -> dict[str, Any]:
    """Names, shapes and dtypes of the datasets of a file, and what its attributes say."""
    found: dict[str, Any] = {}

    def text(value: Any) -> Any:
        return value.decode() if isinstance(value, bytes) else str(value)

    def visit(name: str, one: Any) -> None:
        if isinstance(one, h5py.Dataset):
            found[name] = (one.shape, str(one.dtype))
        if "weight_names" in one.attrs:
            found[f"{name}:names"] = sorted(map(text, one.attrs["weight_names"]))

    with h5py.File(file) as content:
        content.visititems(visit)
        if "backend" in content.attrs:
            found["backend"] = text(content.attrs["backend"])
            found["layers"] = sorted(map(text, content.attrs["layer_names"]))
            assert text(content.attrs["keras_version"]).startswith("2.")
    return found


def flax_tree(file: Path) -> Any:
    return flax.serialization.msgpack_restore(file.read_bytes())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wing", WINGS)
@pytest.mark.parametrize("size", ["5GB", SHARD])
def test_causal_models_and_untied_heads_go_there_and_back(tmp_path: Path, family: str, wing: str, size: str) -> None:
    for head, options in ((CAUSAL, {}), (FULL, {"tie_word_embeddings": False})):
        reference(family, head, **options).save_pretrained(tmp_path / "theirs")
        mine = like(wing, family, head).from_pretrained(tmp_path / "theirs")
        mine.save_pretrained(tmp_path / head, safe_serialization=False, max_shard_size=size)
        assert any(name.endswith(FORM[wing]) for name in names(tmp_path / head))
        again, info = ours(family, head).from_pretrained(tmp_path / head, output_loading_info=True)
        assert not any(info.values())
        same(again, mine)


@pytest.mark.parametrize("head", HEADS)
def test_heads_take_from_each_other(pegasus: Path, head: str) -> None:
    expected = ours("Pegasus", head).from_pretrained(pegasus / "pt")
    for kind in ("tf", "flax_shards"):
        same(ours("Pegasus", head).from_pretrained(pegasus / kind), expected)


def test_a_state_dict_is_written_without_its_aliases(pegasus: Path, tmp_path: Path) -> None:
    mine = like("tf", "Pegasus").from_pretrained(pegasus / "pt")
    state = {name: tensor.clone() for name, tensor in tensors(mine).items()}
    state["model.encoder.version"] = torch.tensor(3)
    mine.save_pretrained(tmp_path, state_dict=state, safe_serialization=False)
    assert len(read_h5(tmp_path / "tf_model.h5")) == 118
    same(ours("Pegasus").from_pretrained(tmp_path), mine)
    only_alias = {name: tensor for name, tensor in state.items() if name != "model.shared.weight"}
    mine.save_pretrained(tmp_path, state_dict=only_alias, safe_serialization=False)
    same(ours("Pegasus").from_pretrained(tmp_path), mine)
    with pytest.raises(CheckpointError, match=r"must be those of this model, got model\.ghost"):
        mine.save_pretrained(tmp_path, state_dict={**state, "model.ghost": torch.ones(1)}, safe_serialization=False)


def test_computed_positions_are_written_for_tensorflow_only(pegasus: Path) -> None:
    config = seq2seq_models.PegasusConfig(**settings("Pegasus"))
    full = open_checkpoint([pegasus / "pt" / "model.safetensors"])
    without = [stored for name, stored in full.items() if "embed_positions" not in name]
    keras = {stored.name: stored for stored in to_keras(without, config, "conditional")}
    table = keras["tf_pegasus_for_conditional_generation/model/encoder/embed_positions/embeddings:0"]
    assert np.array_equal(table.read(), full["model.encoder.embed_positions.weight"].read())
    assert not any("embed_positions" in stored.name for stored in to_flax(full.values(), config, "conditional"))


def test_a_save_replaces_an_earlier_one(pegasus: Path, tmp_path: Path) -> None:
    for wing, form in FORM.items():
        mine = like(wing, "Pegasus").from_pretrained(pegasus / "pt")
        mine.save_pretrained(tmp_path, safe_serialization=False, max_shard_size=SHARD)
        assert all(is_weight_file(name, form=form) for name in names(tmp_path) if form in name)
        mine.save_pretrained(tmp_path, safe_serialization=False)
        assert [name for name in names(tmp_path) if form in name] == [FORMATS[form].whole]
        again = like(wing, "Pegasus").from_pretrained(tmp_path)
        again.save_pretrained(tmp_path, safe_serialization=False)  # over the very file its weights may lie in
        same(ours("Pegasus").from_pretrained(tmp_path), mine)
        mine.save_pretrained(tmp_path, safe_serialization=False, variant="fp16")
        assert (tmp_path / f"{FORMATS[form].whole.removesuffix(f'.{form}')}.fp16.{form}").is_file()


def test_a_failed_save_leaves_all_as_it_was(pegasus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = like("tf", "Pegasus").from_pretrained(pegasus / "pt")
    mine.save_pretrained(tmp_path, safe_serialization=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingFrameworkError, match=r"writing it needs h5py.* 'seq2seq-models\[tensorflow\]'"):
        mine.save_pretrained(tmp_path, safe_serialization=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# ---- dtypes


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(pegasus: Path, tmp_path: Path, dtype: str, caplog: pytest.LogCaptureFixture) -> None:
    for wing, form in FORM.items():
        mine = like(wing, "Pegasus").from_pretrained(pegasus / "pt", dtype=dtype)
        with caplog.at_level(logging.WARNING, logger="seq2seq_models"):
            mine.save_pretrained(tmp_path / wing, safe_serialization=False)
        stored = opened(tmp_path / wing)["model.shared.weight"]
        widened = (dtype, form) == ("bfloat16", "h5")
        assert stored.dtype == ("F32" if widened else {"float16": "F16", "bfloat16": "BF16"}[dtype])
        said = [record.getMessage() for record in caplog.records]
        assert said == (["tf_model.h5 cannot hold bfloat16: the weights are written as float32"] if widened else [])
        caplog.clear()
        same(ours("Pegasus").from_pretrained(tmp_path / wing, dtype="auto"), mine)
    tree = flax_tree(tmp_path / "flax" / "flax_model.msgpack")
    assert tree["model"]["shared"]["embedding"].dtype == np.dtype(dtype if dtype == "float16" else ml_dtypes.bfloat16)
    theirs = transformers.TFPegasusForConditionalGeneration.from_pretrained(tmp_path / "tf")
    assert np.array_equal(theirs.weights[0].numpy(), mine.model.shared.weight.detach().float().numpy())


# ---- the formats themselves


VALUES = {
    "a/kernel": np.arange(12, dtype=np.float32).reshape(3, 4) / 7,
    "a/bias": np.array([1.5, -2.0, np.inf], np.float16),
    "b/ids": np.arange(300),
    "b/flag": np.array([True, False]),
    "b/none": np.empty((0, 4), np.float32),
    "scalar": np.array(2.5),
}


def as_stored(values: dict[str, Any]) -> list[Stored]:
    codes = {name.lstrip("<|"): code for code, name in NUMPY_NAMES.items() if code != "BF16"}
    return [
        Stored(name, array.shape, codes[array.dtype.str.lstrip("<|")], partial(np.asarray, array))
        for name, array in values.items()
    ]


def nested(values: dict[str, Any]) -> dict[str, Any]:
    return flax.traverse_util.unflatten_dict(values, sep="/")


def equal(found: list[Stored], expected: dict[str, Any]) -> None:
    assert sorted(stored.name for stored in found) == sorted(expected)
    for stored in found:
        values, wanted = stored.read(), expected[stored.name]
        assert stored.shape == values.shape == wanted.shape, stored.name
        assert values.dtype == wanted.dtype, stored.name
        assert np.array_equal(values, wanted), stored.name


@pytest.mark.parametrize("chunk", [2**30, 20])
def test_msgpack_is_flax_byte_for_byte(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", chunk)
    monkeypatch.setattr(msgpack_file, "LARGEST_CHUNK", chunk)
    wide = {f"wide/{index}": np.full(index % 5, index, np.int32) for index in range(66_000 if chunk > 20 else 300)}
    big = {"big": np.zeros(70_000, np.int8), "much": np.zeros((1, 20_000), np.float32), "x" * 300: np.ones(1, np.uint8)}
    values = {**VALUES, **wide, **big}
    file = tmp_path / "flax_model.msgpack"
    write_msgpack(file, as_stored(values))
    content = file.read_bytes()
    theirs = flax.serialization.msgpack_serialize(nested(values), in_place=True)
    assert content == theirs
    equal(read_msgpack(file), values)


def test_msgpack_numbers_and_bfloat16(tmp_path: Path) -> None:
    file = tmp_path / "flax_model.msgpack"
    bfloat16 = np.array([1.5, -2.0, 3e38], ml_dtypes.bfloat16)
    file.write_bytes(flax.serialization.msgpack_serialize({"a": {"half": bfloat16, "number": np.float32(0.5)}}))
    half, number = read_msgpack(file)
    assert (half.dtype, half.shape, number.dtype, number.shape) == ("BF16", (3,), "F32", ())
    assert np.array_equal(half.read().view(ml_dtypes.bfloat16), bfloat16)
    assert number.read() == 0.5
    write_msgpack(tmp_path / "again.msgpack", [half, number])
    restored = flax_tree(tmp_path / "again.msgpack")["a"]
    assert restored["half"].dtype == ml_dtypes.bfloat16
    assert np.array_equal(restored["half"], bfloat16)


def test_h5_long_lists_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tf_keras.src.saving.legacy.hdf5_format import load_attributes_from_hdf5_group as theirs

    names = [f"tf_pegasus_model/model/encoder/layers.{n}/{'very_' * 12}long/kernel:0" for n in range(900)]
    tensors = as_stored({name: np.full((2,), n, np.float32) for n, name in enumerate(names)})
    for is_shard in (False, True):
        write_h5(tmp_path / "tf_model.h5", tensors, is_shard=is_shard)
        with h5py.File(tmp_path / "tf_model.h5") as content:
            group, kept = (content, "layer_names") if is_shard else (content["model"], "weight_names")
            assert kept not in group.attrs
            assert sorted(theirs(group, kept)) == sorted(n.removeprefix("tf_pegasus_model/" * is_shard) for n in names)
        found = {stored.name.partition("model/encoder")[2]: stored for stored in read_h5(tmp_path / "tf_model.h5")}
        assert [found[name.partition("model/encoder")[2]].read()[0] for name in names] == list(range(900))


def test_the_reference_reads_split_lists_of_names(
    pegasus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h5_file, "_LARGEST_ATTRIBUTE", 600)
    for size in ("5GB", SHARD):
        mine = like("tf", "Pegasus").from_pretrained(pegasus / "pt")
        mine.save_pretrained(tmp_path, safe_serialization=False, max_shard_size=size)
        theirs = transformers.TFPegasusForConditionalGeneration
        theirs, info = theirs.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values())
        assert np.array_equal(theirs.weights[-2].numpy(), mine.model.decoder.layer_norm.bias.detach().numpy())
        same(ours("Pegasus").from_pretrained(tmp_path), mine)


def test_h5_in_other_storage(tmp_path: Path) -> None:
    file = tmp_path / "tf_model.h5"
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    with h5py.File(file, "w") as content:
        content.attrs["layer_names"] = [b"packed", b"plain", b"none"]
        content.create_dataset("packed", data=values, compression="gzip", chunks=(2, 3))
        content.create_dataset("plain", data=values)
        content.create_dataset("none", shape=(0, 6), dtype="f4")
        content.create_dataset("unset", shape=(2,), dtype="f2")
    equal(read_h5(file), {"packed": values, "plain": values, "none": values[:0], "unset": np.zeros(2, np.float16)})
    held = read_h5(file)
    file.unlink()
    assert next(stored for stored in held if stored.name == "packed").read()[3, 5] == 23, "it is kept open"


# ---- unsound files


def h5_with(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        with h5py.File(file, "w") as content:
            content.attrs["layer_names"] = [b"a"]
            content.create_dataset("a", data=np.ones(3, np.float32))
            change(content)

    return write


def cut(count: int) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        h5_with(lambda content: content.create_dataset("b", data=np.ones(3000)) and None)(file)
        file.write_bytes(file.read_bytes()[:-count])

    return write


def outside(content: Any) -> None:
    content.create_dataset("b", shape=(3,), dtype="f4", external=[("/etc/hostname", 0, 12)])


def virtual(content: Any) -> None:
    layout = h5py.VirtualLayout(shape=(3,), dtype="f4")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "x", shape=(3,))
    content.create_virtual_dataset("b", layout)


def plain(content: bytes) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(content) and None


LFS = plain(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2\n")
BROKEN_H5: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (plain(b""), "it is empty"),
    "noise": (plain(b"\x07" * 500), "no HDF5 file"),
    "signature only": (plain(b"\x89HDF\r\n\x1a\n" + b"\0" * 200), "cannot be read"),
    "cut": (cut(300), "cut off"),
    "lfs": (LFS, "got a git-lfs pointer"),
    "zip": (plain(b"PK\x03\x04" + b"\0" * 80), r"got a PyTorch file \(zip\)\. Rename it to end in \.bin"),
    "web page": (plain(b"<!DOCTYPE html><html></html>"), "got a web page"),
    "no names": (h5_with(lambda c: c.attrs.__delitem__("layer_names")), "without `layer_names`"),
    "promise": (h5_with(lambda c: c.attrs.__setitem__("layer_names", [b"a", b"z"])), "promises z, which it does not"),
    "text": (h5_with(lambda c: c.create_dataset("b", data="words") and None), "The dtype of b must be one of"),
    "big endian": (h5_with(lambda c: c.create_dataset("b", data=np.ones(2, ">f4")) and None), "got >f4"),
    "outside": (h5_with(outside), "must lie in that file, got b in another one"),
    "virtual": (h5_with(virtual), "must lie in that file, got b in another one"),
}


@pytest.mark.parametrize("case", BROKEN_H5)
def test_broken_h5(tmp_path: Path, case: str) -> None:
    write, words = BROKEN_H5[case]
    file = tmp_path / "tf_model.h5"
    write(file)
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint([file])
    assert str(file) in str(caught.value)


def packed(value: Any, code: int = 1) -> bytes:
    import msgpack

    def ext(one: Any) -> Any:
        return msgpack.ExtType(code, msgpack.packb(one, use_bin_type=True)) if isinstance(one, tuple) else one

    return bytes(msgpack.packb(jax.tree.map(ext, value, is_leaf=lambda one: isinstance(one, tuple))))


ONE = ((2,), "float32", b"\0" * 8)
BROKEN_MSGPACK: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "noise": (b"\x07" * 500, "no msgpack file with a tree of weights"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "got a git-lfs pointer"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 60, r"got an HDF5 file\. Rename it to end in \.h5"),
    "a list": (packed([1, 2]), "no msgpack file with a tree"),
    "unused tag": (b"\x81\xa1a\xc1", "no sound msgpack at byte 3"),
    "rest": (packed({"a": ONE}) + b"\0", "it has 1 bytes more than its tree"),
    "cut": (packed({"a": ONE})[:-1], "cut off or damaged at byte"),
    "huge map": (b"\xdf\xff\xff\xff\xff\xa1a\xc0", "cut off or damaged at byte"),
    "deep": (b"\x81\xa1a" * 200 + b"\xc0", "nested more than 32 deep"),
    "deep list": (b"\x81\xa1a" + b"\x91" * 200, "a list where none belongs"),
    "long list": (packed({"a": list(range(100))}), "a list where none belongs"),
    "number as key": (packed({1: ONE}), "a key of its tree is no text"),
    "twice": (b"\x82\xa1a\xc0\xa1a\xc0", "'a' twice"),
    "no UTF-8": (b"\x81\xa1\xff\xc0", "is no UTF-8"),
    "step count": (packed({"params": {"a": ONE}, "step": 3}), "must hold arrays only, got something else as step"),
    "other extension": (packed({"a": ONE}, code=2), "must hold arrays only, got something else as a"),
    "two parts": (packed({"a": ((2,), "float32")}), "the array a has no shape, dtype and values"),
    "text as values": (packed({"a": ((2,), "float32", "12345678")}), "the array a has no shape"),
    "complex": (packed({"a": ((1,), "complex64", b"\0" * 8)}), "The dtype of a must be one of .* got 'complex64'"),
    "wrong product": (packed({"a": ((3,), "float32", b"\0" * 8)}), r"a is F32 \[3\], but has 8 bytes"),
    "negative": (packed({"a": ((-2,), "float32", b"\0" * 8)}), "not of whole numbers"),
    "true": (packed({"a": ((True, 2), "float32", b"\0" * 8)}), "not of whole numbers"),
    "chunks missing": (packed({"a": {"__msgpack_chunked_array__": True}}), "lacks its shape or its chunks"),
    "chunks misnumbered": (
        packed({"a": {"__msgpack_chunked_array__": True, "shape": {"0": 2}, "chunks": {"1": ONE}}}),
        "is not numbered from 0",
    ),
    "chunks too few": (
        packed({"a": {"__msgpack_chunked_array__": True, "shape": {"0": 4}, "chunks": {"0": ONE}}}),
        r"a is F32 \[4\], but has 8 bytes",
    ),
    "foreign leaf": (packed({"encoder": {"fc1": {"weight_g": ONE}}}), "must be one of .* got encoder/fc1/weight_g"),
}


@pytest.mark.parametrize("case", BROKEN_MSGPACK)
def test_broken_msgpack(tmp_path: Path, case: str) -> None:
    content, words = BROKEN_MSGPACK[case]
    file = tmp_path / "flax_model.msgpack"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint([file])
    assert str(file) in str(caught.value)


def test_every_truncation_is_noticed(pegasus: Path, tmp_path: Path) -> None:
    for source, step in ((pegasus / "flax" / "flax_model.msgpack", 499), (pegasus / "tf" / "tf_model.h5", 4999)):
        content = source.read_bytes()
        for length in [*range(0, 200, 7), *range(200, len(content), step), len(content) - 1]:
            file = tmp_path / f"{length}-{source.name}"
            file.write_bytes(content[:length])
            with pytest.raises(CheckpointError, match="cannot be read"):
                open_checkpoint([file])
            file.unlink()


@pytest.mark.parametrize("wing", WINGS)
def test_an_index_that_promises_too_much(pegasus: Path, wing: str) -> None:
    form = FORMATS[FORM[wing]]
    table = read_index(pegasus / f"{wing}_shards" / form.index)
    ghost = "tf_x/model/encoder/fc9/kernel:0" if wing == "tf" else "model/encoder/fc9/kernel"
    files = [pegasus / f"{wing}_shards" / name for name in sorted(set(table.values()))]
    assert len(open_checkpoint(files, table)) == (118 if wing == "tf" else 116)
    with pytest.raises(CheckpointError, match=f"the index promises {ghost} in it"):
        open_checkpoint(files, {**table, ghost: files[0].name})


def test_without_h5py(pegasus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingFrameworkError, match=r"tf_model\.h5 is an HDF5 file, and reading it needs h5py"):
        ours("Pegasus").from_pretrained(pegasus / "tf")


# ---- which files


@pytest.fixture
def full(pegasus: Path, tmp_path: Path) -> Path:
    """All four formats in one folder, with a bias of 1, 2, 3 and 4 in safetensors, .bin, .h5 and .msgpack."""
    config = seq2seq_models.PegasusConfig(**settings("Pegasus"))
    config.save_pretrained(tmp_path)
    for value, (name, form) in enumerate(FORMATS.items(), start=1):
        stored = dict(open_checkpoint([pegasus / "pt" / "model.safetensors"]))
        bias = partial(np.full, (1, 83), value, np.float32)
        stored["final_logits_bias"] = Stored("final_logits_bias", (1, 83), "F32", bias)
        write_checkpoint(tmp_path, form.named(stored.values(), config, "conditional"), form=name)
    return tmp_path


def chosen(cls: Any, folder: Path, **options: Any) -> str:
    """The format that was read."""
    value = cls.from_pretrained(folder, **options).final_logits_bias[0, 0].item()
    return list(FORMATS)[int(value) - 1]


CLASSES = {"pt": lambda: ours("Pegasus"), "tf": lambda: like("tf", "Pegasus"), "flax": lambda: like("flax", "Pegasus")}


@pytest.mark.parametrize(
    ("framework", "order"),
    [
        ("pt", ["safetensors", "bin", "h5", "msgpack"]),
        ("tf", ["safetensors", "h5", "bin", "msgpack"]),
        ("flax", ["safetensors", "msgpack", "bin", "h5"]),
    ],
)
def test_the_own_format_comes_after_safetensors(
    full: Path, framework: str, order: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    cls = CLASSES[framework]()
    for position, form in enumerate(order):
        with caplog.at_level(logging.INFO, logger="seq2seq_models"):
            assert chosen(cls, full) == form
        others = [FORMATS[name].whole for name in FORMATS if name in order[position + 1 :]]
        said = [record.getMessage().partition(" holds ")[2] for record in caplog.records]
        line = f"weights in several formats: read {FORMATS[form].whole}, not {', '.join(others)}"
        assert said == ([line] if others else [])
        caplog.clear()
        (full / FORMATS[form].whole).unlink()


def test_files_on_request(full: Path) -> None:
    for framework, own in {"pt": "bin", "tf": "h5", "flax": "msgpack"}.items():
        cls = CLASSES[framework]()
        assert chosen(cls, full, from_pt=True) == "safetensors"
        assert chosen(cls, full, from_pt=True, use_safetensors=False) == "bin"
        assert chosen(cls, full, from_tf=True) == ("safetensors" if framework == "tf" else "h5")
        assert chosen(cls, full, from_flax=True) == ("safetensors" if framework == "flax" else "msgpack")
        assert chosen(cls, full, use_safetensors=True) == "safetensors"
        assert chosen(cls, full, use_safetensors=False) == own
        assert chosen(cls, full, from_tf=False, from_flax=None) == "safetensors"
    with pytest.raises(CheckpointError, match="`from_pt` and `from_flax`: weights come from one framework"):
        ours("Pegasus").from_pretrained(full, from_pt=True, from_flax=True)


def test_files_on_request_that_are_not_there(full: Path, pegasus: Path) -> None:
    (full / "tf_model.h5").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"It has model\.safetensors, .*: leave out `from_tf`"):
        ours("Pegasus").from_pretrained(full, from_tf=True)
    with pytest.raises(CheckpointNotFoundError, match=r"It has flax_model\.msgpack: leave out `from_pt`"):
        like("tf", "Pegasus").from_pretrained(pegasus / "flax", from_pt=True)
    with pytest.raises(CheckpointNotFoundError, match=r"leave out `from_pt` and `use_safetensors`"):
        like("tf", "Pegasus").from_pretrained(pegasus / "flax", from_pt=True, use_safetensors=True)


def test_without_torch_a_bin_file_is_the_last_choice(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seq2seq_models.core.storage import weight_files

    monkeypatch.setattr(weight_files, "find_spec", lambda name: None if name == "torch" else object())
    (full / "model.safetensors").unlink()
    (full / "tf_model.h5").unlink()
    assert chosen(CLASSES["tf"](), full) == "msgpack"


def test_own_options_reach_the_wing_and_its_result_comes_back(pegasus: Path) -> None:
    seen: dict[str, Any] = {}

    class Wing(ours("Pegasus")):  # type: ignore[misc]
        framework = "flax"

        @classmethod
        def _own_options(cls, options: dict[str, Any]) -> dict[str, Any]:
            return {key: options.pop(key) for key in ("dtype", "_do_init") if key in options}

        @classmethod
        def _build(cls, config: Any, stored: Any, *, own: Any = None, **options: Any) -> Any:
            seen.update(own=own, dtype=options["dtype"])
            return super()._build(config, stored, **options)

        @classmethod
        def _result(cls, model: Any, own: Any) -> Any:
            return (model, "params") if own.get("_do_init") is False else model

    model, params = Wing.from_pretrained(pegasus / "flax", dtype="bfloat16", _do_init=False)
    assert (params, model.dtype, model.name_or_path) == ("params", torch.float32, str(pegasus / "flax"))
    assert seen == {"own": {"dtype": "bfloat16", "_do_init": False}, "dtype": None}
    assert isinstance(Wing.from_pretrained(pegasus / "flax"), Wing)
    assert seen == {"own": None, "dtype": None}


@pytest.mark.parametrize("name", ["google/pegasus-xsum", "facebook/blenderbot_small-90M"])
def test_repositories_with_three_formats(hub: StandInHub, tmp_path: Path, name: str) -> None:
    family = FAMILY[name]
    add_repository(hub, name, tmp_path / "repository", ["A frog is small."], formats=("bin", "h5", "msgpack"))
    assert any("shared/weight:0" in stored.name for stored in read_h5(tmp_path / "repository" / "tf_model.h5"))
    expected = ours(family).from_pretrained(name)
    for wing, form in FORM.items():
        hub.requests.clear()
        same(like(wing, family).from_pretrained(name), expected)
        fetched = {line.split("/")[-1] for line in hub.requests if line.startswith("GET")}
        assert FORMATS[form].whole in fetched
        assert not fetched & {FORMATS[other].whole for other in FORMATS if other != form}
        same(like(wing, family).from_pretrained(name, from_pt=True), expected)
        same(ours(family).from_pretrained(name, **{f"from_{wing}": True}), expected)
    with pytest.raises(CheckpointNotFoundError, match="not looked for, because of `use_safetensors`"):
        ours(family).from_pretrained(name, use_safetensors=True)


# ---- info


def test_info_of_every_format(pegasus: Path) -> None:
    expected = describe_checkpoint(pegasus / "pt")
    assert expected.weights == ["model.safetensors"]
    tensors = [tensor for tensor in expected.tensors if "embed_positions" not in tensor.name]
    for kind in ("tf", "tf_shards", "flax", "flax_shards"):
        report = describe_checkpoint(pegasus / kind)
        assert all(name.endswith(FORM[kind.partition("_")[0]]) for name in report.weights)
        assert report.weights == [name for name in names(pegasus / kind) if name.endswith((".h5", ".msgpack"))]
        assert [tensor for tensor in report.tensors if "embed_positions" not in tensor.name] == tensors
        assert (len(report.tensors) > len(tensors)) == ("tf" in kind)
        assert report.parameters == expected.parameters


def test_info_tells_what_would_not_fit(pegasus: Path, tmp_path: Path) -> None:
    assert describe_checkpoint(pegasus / "pt").classes == {f"Pegasus{head}": {} for head in (FULL, CAUSAL, BASE)}
    pair("Pegasus", CAUSAL)[1].save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors | {"lm_head.scale": torch.ones(2)})
    report = describe_checkpoint(tmp_path)
    assert report.classes["PegasusForCausalLM"] == {"unexpected": ["lm_head.scale"]}
    faults = report.classes["PegasusModel"]
    assert set(faults) == {"missing", "unexpected"}
    assert all(name.startswith("model.encoder.") for name in faults["missing"]) and len(faults["missing"]) > 30
    line = next(line for line in report.as_text().splitlines() if line.strip().startswith("PegasusModel "))
    assert "missing: model.encoder" in line and "more; unexpected: lm_head.scale" in line
