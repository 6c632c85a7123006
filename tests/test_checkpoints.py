"""Checkpoint files, sound and unsound: what is read equals what was written, and what is broken is one clear error."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from seq2seq_models import PegasusConfig
from seq2seq_models.core.checkpoints import (
    canonical_name,
    is_weight_file,
    open_checkpoint,
    read_index,
    size_in_bytes,
    with_variant,
    write_checkpoint,
)
from seq2seq_models.core.parameters import parameters
from seq2seq_models.core.storage.fitting import fit, misfit
from seq2seq_models.core.storage.safetensors_file import read_safetensors, write_safetensors
from seq2seq_models.core.storage.stored import Stored
from seq2seq_models.core.storage.torch_file import read_torch, tensor_of
from seq2seq_models.errors import CheckpointError

TENSORS = {
    "model.a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7,
    "model.b.bias": torch.tensor([1.5, -2.0, float("inf")], dtype=torch.bfloat16),
    "model.c.weight": torch.randn(2, 5, generator=torch.Generator().manual_seed(0)).half(),
    "model.ids": torch.arange(3),
    "model.flag": torch.tensor([True, False]),
    "model.scalar": torch.tensor(2.5),
    "model.none": torch.empty(0, 4),
}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def check(found: Any, expected: dict[str, torch.Tensor] = TENSORS) -> None:
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert found[name].shape == tuple(tensor.shape), name
        loaded = tensor_of(found[name])
        assert loaded.dtype == tensor.dtype, name
        assert bits(loaded) == bits(tensor), name


def as_stored(tensors: dict[str, torch.Tensor]) -> list[Stored]:
    from seq2seq_models.core.storage.torch_file import stored_tensor

    return [stored_tensor(name, tensor) for name, tensor in tensors.items()]


def test_reads_what_safetensors_writes(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(TENSORS, file, metadata={"format": "pt"})
    check(open_checkpoint([file]))


def test_safetensors_reads_what_we_write(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    write_safetensors(file, as_stored(TENSORS))
    theirs = safetensors.torch.load_file(file)
    assert sorted(theirs) == sorted(TENSORS)
    for name, tensor in TENSORS.items():
        assert bits(theirs[name]) == bits(tensor), name
    with safetensors.safe_open(file, "np") as opened:
        assert opened.metadata() == {"format": "pt"}
    check(open_checkpoint([file]))


def test_a_read_tensor_is_lazy_and_its_own(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    write_safetensors(file, as_stored(TENSORS))
    before = file.read_bytes()
    stored = open_checkpoint([file])["model.a.weight"]
    values = stored.read()
    assert values.flags.writeable
    assert values.flags.aligned
    assert not values.flags.owndata, "a view of the map, not a copy"
    values[:] = 0
    assert file.read_bytes() == before


def test_unaligned_data_is_read(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    header += b" " * (3 - len(header) % 4)  # on purpose
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + np.array([1.0, 2.0], "<f4").tobytes())
    values = read_safetensors(file)[0][0].read()
    assert values.tolist() == [1.0, 2.0]
    assert values.flags.aligned


@pytest.mark.parametrize("is_zip", [True, False])
def test_bin_zip_and_legacy(tmp_path: Path, is_zip: bool) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, file, _use_new_zipfile_serialization=is_zip)
    assert zipfile.is_zipfile(file) == is_zip
    check(open_checkpoint([file]))


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_and_their_index(tmp_path: Path, safe: bool, variant: str | None) -> None:
    form, other = ("safetensors", "bin") if safe else ("bin", "safetensors")
    names = write_checkpoint(tmp_path, as_stored(TENSORS), max_shard_size=48, form=form, variant=variant)
    part = f".{variant}" if variant else ""
    stem, suffix = (f"model{part}", "safetensors") if safe else (f"pytorch_model{part}", "bin")
    index = f"model.safetensors.index{part}.json" if safe else f"pytorch_model.bin.index{part}.json"
    assert names == [
        f"{stem}-00001-of-00003.{suffix}",
        f"{stem}-00002-of-00003.{suffix}",
        f"{stem}-00003-of-00003.{suffix}",
        index,
    ]
    assert all(is_weight_file(name, form=form, variant=variant) for name in names)
    assert not any(is_weight_file(name, form=other, variant=variant) for name in names)
    assert not any(is_weight_file(name, form=form, variant="other") for name in names)
    content = json.loads((tmp_path / index).read_text())
    assert content["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in TENSORS.values())
    table = read_index(tmp_path / index)
    check(open_checkpoint([tmp_path / name for name in names[:3]], table))
    with pytest.raises(CheckpointError, match=r"the index promises model\.ghost in it"):
        open_checkpoint([tmp_path / name for name in names[:3]], {**table, "model.ghost": names[0]})


def test_one_file_when_it_fits(tmp_path: Path) -> None:
    assert write_checkpoint(tmp_path, as_stored(TENSORS), variant="bf16") == ["model.bf16.safetensors"]
    assert with_variant("model.safetensors.index.json", "fp16") == "model.safetensors.index.fp16.json"


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        write_safetensors(tmp_path / name, as_stored({"model.a.weight": torch.ones(2)}))
    with pytest.raises(CheckpointError, match=r"must hold each weight once, got model\.a\.weight twice"):
        open_checkpoint([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


@pytest.mark.parametrize(
    ("size", "expected"),
    [("5GB", 5 * 10**9), ("200MB", 2 * 10**8), ("1.5kb", 1500), ("1GiB", 2**30), (77, 77), (" 3 KiB ", 3072)],
)
def test_sizes(size: int | str, expected: int) -> None:
    assert size_in_bytes(size) == expected


@pytest.mark.parametrize("size", ["5", "GB", "five GB", 0, -1, True, "0GB", ""])
def test_no_sizes(size: Any) -> None:
    with pytest.raises(CheckpointError, match="`max_shard_size` must be"):
        size_in_bytes(size)


def test_canonical_names() -> None:
    assert canonical_name("encoder.layers.0.fc1.weight") == "model.encoder.layers.0.fc1.weight"
    assert canonical_name("model.decoder.layer_norm.gamma") == "model.decoder.layer_norm.weight"
    assert canonical_name("decoder.layer_norm.beta") == "model.decoder.layer_norm.bias"
    assert canonical_name("shared.weight") == "model.shared.weight"
    assert canonical_name("final_logits_bias") == "final_logits_bias"
    assert canonical_name("lm_head.weight") == "lm_head.weight"
    assert canonical_name("model.encoder.version") is None


# ---- unsound files


def packed(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


EIGHT = b"\0" * 8
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "has 0 bytes and is cut off or empty"),
    "seven bytes": (b"\x01" * 7, "has 7 bytes"),
    "huge header": (packed({}, length=2**63), "its header claims 9223372036854775808 bytes, but the file has 10"),
    "header beyond the file": (packed({"a": entry()}, length=500), "claims 500 bytes"),
    "no JSON": (packed(b"\xff\xfe{}"), "not sound JSON"),
    "NaN": (packed(b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}', EIGHT), "it holds NaN"),
    "Infinity": (packed(b'{"a": Infinity}', EIGHT), "it holds Infinity"),
    "a list": (packed([1, 2]), "not a JSON object"),
    "nested deep": (packed(b"[" * 100_000), "not sound JSON"),
    "name twice": (packed(b'{"a": 1, "a": 2}'), "a name appears twice"),
    "metadata not strings": (packed({"__metadata__": {"a": 1}}), "not a table of strings"),
    "entry is a number": (packed({"a": 3}), "its entry for a lacks dtype"),
    "no offsets": (packed({"a": {"dtype": "F32", "shape": [2]}}), "its entry for a lacks"),
    "three offsets": (packed({"a": entry(offsets=[0, 4, 8])}, EIGHT), "its entry for a lacks"),
    "unknown dtype": (packed({"a": entry("F8_E4M3")}, EIGHT), "The dtype of a must be one of .* got 'F8_E4M3'"),
    "dtype is a list": (packed({"a": entry(["F32"])}, EIGHT), "The dtype of a must be one of"),
    "negative shape": (packed({"a": entry(shape=[-2])}, EIGHT), "not whole numbers"),
    "float shape": (packed({"a": entry(shape=[2.0])}, EIGHT), "not whole numbers"),
    "true shape": (packed({"a": entry(shape=[True, 2])}, EIGHT), "not whole numbers"),
    "shape is a number": (packed({"a": entry(shape=2)}, EIGHT), "not whole numbers"),
    "negative offset": (packed({"a": entry(offsets=[-8, 0])}, EIGHT), "not whole numbers"),
    "backwards": (packed({"a": entry(offsets=[8, 0])}, EIGHT), "but has -8 bytes"),
    "cut off": (packed({"a": entry()}, EIGHT[:5]), "a ends at byte 8 of the data, but the file has 5: it is cut off"),
    "wrong product": (packed({"a": entry(shape=[3])}, EIGHT), r"a is F32 \[3\], but has 8 bytes"),
    "huge product": (packed({"a": entry(shape=[2**61, 2**61])}, EIGHT), "but has 8 bytes"),
    "overlap": (packed({"a": entry(), "b": entry(offsets=[4, 12])}, EIGHT * 2), "b overlaps the tensor before it"),
    "gap": (packed({"a": entry(), "b": entry(offsets=[12, 20])}, EIGHT * 3), "b leaves a gap"),
    "rest": (packed({"a": entry()}, EIGHT * 2), "it has 8 bytes more than its header names"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2\n", "got a git-lfs pointer"),
    "web page": (b"<!DOCTYPE html><html>not found</html>", "got a web page"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + EIGHT * 8, "got an HDF5 file. Rename it to end in .h5"),
    "zip": (b"PK\x03\x04" + EIGHT * 8, r"got a PyTorch file \(zip\)\. Rename it to end in \.bin"),
    "tf names": (
        packed({"__metadata__": {"format": "tf"}, "model/encoder/fc1/slot:0": entry()}, EIGHT),
        "must be one of beta, bias, .*, got model/encoder/fc1/slot:0",
    ),
    "flax names": (
        packed({"__metadata__": {"format": "flax"}, "encoder.fc1.weight": entry()}, EIGHT),
        "must be one of bias, embedding, .*, got encoder/fc1/weight",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_safetensors(tmp_path: Path, case: str) -> None:
    content, words = BROKEN[case]
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint([file])
    assert str(file) in str(caught.value)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    write_safetensors(file, as_stored(TENSORS))
    content = file.read_bytes()
    for length in [*range(0, 64), *range(64, len(content), 37), len(content) - 1]:
        file.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="cannot be read"):
            open_checkpoint([file])


class Payload:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (exec, ("raise SystemExit('code from a file was run')",))


def broken_bins() -> dict[str, tuple[Callable[[Path], None], str]]:
    def save(content: Any) -> Callable[[Path], None]:
        return lambda file: torch.save(content, file)

    def cut(is_zip: bool) -> Callable[[Path], None]:
        def write(file: Path) -> None:
            torch.save(TENSORS, file, _use_new_zipfile_serialization=is_zip)
            file.write_bytes(file.read_bytes()[:-300])

        return write

    return {
        "empty": (lambda file: file.write_bytes(b"") and None, "it is empty"),
        "noise": (lambda file: file.write_bytes(b"\x07" * 500) and None, "cannot be read"),
        "cut zip": (cut(True), "cut off or damaged"),
        "cut legacy": (cut(False), "cannot be read"),
        "code": (save({"a": Payload()}), r"also holds \S*exec, which is not opened because it could run code"),
        "plain pickle": (
            lambda file: file.write_bytes(pickle.dumps(Payload())) and None,
            "no PyTorch file",
        ),
        "a list": (save([torch.ones(1)]), "must hold a table of tensors, got a list"),
        "training state": (
            save({"state_dict": {"a": torch.ones(1)}, "epoch": 3}),
            "got something else as epoch, state_dict",
        ),
        "sparse": (save({"a": torch.eye(3).to_sparse()}), "must hold plain tensors"),
        "complex": (save({"a": torch.ones(2, dtype=torch.complex64)}), "must hold plain tensors"),
        "lfs": (lambda file: file.write_bytes(BROKEN["lfs"][0]) and None, "got a git-lfs pointer"),
        "safetensors": (lambda file: write_safetensors(file, as_stored(TENSORS)), "got a safetensors file"),
    }


@pytest.mark.parametrize("case", broken_bins())
def test_broken_bin(tmp_path: Path, case: str) -> None:
    write, words = broken_bins()[case]
    file = tmp_path / "pytorch_model.bin"
    write(file)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_torch(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "it is no index"),
        (b'{"metadata": {}}', "it is no index"),
        (b'{"weight_map": []}', "it is no index"),
        (b'{"weight_map": {}}', "is empty"),
        (b'{"weight_map": {"a": "../other/model.safetensors"}}', "must lie in its own folder, got '../other"),
        (b'{"weight_map": {"a": "/etc/passwd"}}', "must lie in its own folder"),
        (b'{"weight_map": {"a": "..\\\\x.safetensors"}}', "must lie in its own folder"),
        (b'{"weight_map": {"a": 3}}', "must lie in its own folder"),
        (b'{"weight_map": {"a": ".."}}', "must lie in its own folder"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
    ],
)
def test_broken_indexes(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "model.safetensors.index.json"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_index(file)
    assert str(file) in str(caught.value)


# ---- fitting


CONFIG = PegasusConfig(
    vocab_size=11, d_model=4, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
    decoder_attention_heads=2, encoder_ffn_dim=6, decoder_ffn_dim=5, max_position_embeddings=7,
)  # fmt: skip


def weights_of(head: Any = "conditional", config: PegasusConfig = CONFIG) -> dict[str, Stored]:
    rng = np.random.default_rng(0)
    values = {p.name: rng.normal(size=p.shape).astype("<f4") for p in parameters(config, head) if p.tied_to is None}
    return {name: Stored(name, a.shape, "F32", lambda a=a: a, "test") for name, a in values.items()}


@pytest.mark.parametrize(
    "alias", ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"]
)
def test_any_alias_of_the_shared_weight_will_do(alias: str) -> None:
    stored = weights_of()
    only = {**stored, alias: stored["model.shared.weight"].renamed(alias)}
    assert fit(only, CONFIG, parameters(CONFIG, "conditional")).is_clean, "equal copies are silent"
    del only["model.shared.weight"]
    for head in ("base", "conditional", "causal"):
        result = fit(only, CONFIG, parameters(CONFIG, head))
        assert result.is_clean
        owner = "model.decoder.embed_tokens.weight" if head == "causal" else "model.shared.weight"
        assert np.array_equal(result.weights[owner].read(), stored["model.shared.weight"].read())
    other = stored["model.shared.weight"].read() + 1
    unequal = {**stored, alias: Stored(alias, other.shape, "F32", lambda: other, "test")}
    with pytest.raises(CheckpointError, match=f"model.shared.weight and {alias} must be equal") as caught:
        fit(unequal, CONFIG, parameters(CONFIG, "conditional"))
    assert ("tie_word_embeddings=False" in str(caught.value)) == (alias == "lm_head.weight")


def test_an_untied_head_is_its_own() -> None:
    config = PegasusConfig(**{**CONFIG.to_dict(), "tie_word_embeddings": False})
    stored = weights_of(config=config)
    assert "lm_head.weight" in stored
    result = fit(stored, config, parameters(config, "conditional"))
    assert result.is_clean
    assert np.array_equal(result.weights["lm_head.weight"].read(), stored["lm_head.weight"].read())
    del stored["lm_head.weight"]
    result = fit(stored, config, parameters(config, "conditional"))
    assert result.is_clean
    assert result.new == ["lm_head.weight"]


def test_what_may_be_absent_is_not_missed() -> None:
    stored = weights_of()
    for name in [name for name in stored if "embed_positions" in name or name == "final_logits_bias"]:
        del stored[name]
    result = fit(stored, CONFIG, parameters(CONFIG, "conditional"))
    assert result.is_clean
    assert not result.new


def test_positions_of_another_length_are_computed() -> None:
    longer = PegasusConfig(**{**CONFIG.to_dict(), "max_position_embeddings": 9})
    result = fit(weights_of(), longer, parameters(longer, "base"))
    assert result.is_clean
    assert result.recomputed == ["model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"]


def test_all_faults_in_one_message() -> None:
    stored = weights_of()
    del stored["model.encoder.layers.0.fc1.bias"]
    del stored["model.decoder.layers.1.fc2.weight"]
    stored["model.decoder.layers.7.fc1.bias"] = stored["model.decoder.layers.0.fc1.bias"]
    wrong = np.zeros((6, 3), "<f4")
    stored["model.encoder.layers.0.fc1.weight"] = Stored("x", (6, 3), "F32", lambda: wrong)
    result = fit(stored, CONFIG, parameters(CONFIG, "conditional"))
    assert result.missing == ["model.decoder.layers.1.fc2.weight", "model.encoder.layers.0.fc1.bias"]
    assert result.unexpected == ["model.decoder.layers.7.fc1.bias"]
    assert result.mismatched == [("model.encoder.layers.0.fc1.weight", (6, 3), (6, 4))]
    text = misfit(result, stored, "PegasusForConditionalGeneration", CONFIG, "file.safetensors")
    assert text.startswith(
        "4 weights of file.safetensors do not fit PegasusForConditionalGeneration: missing: "
        "model.decoder.layers.1.fc2.weight, model.encoder.layers.0.fc1.bias; "
        "unexpected: model.decoder.layers.7.fc1.bias; "
        "model.encoder.layers.0.fc1.weight expected [6, 4], got [6, 3]."
    )


def test_heads_take_from_each_other() -> None:
    assert fit(weights_of("conditional"), CONFIG, parameters(CONFIG, "base")).is_clean
    assert fit(weights_of("base"), CONFIG, parameters(CONFIG, "conditional")).is_clean
    assert fit(weights_of("conditional"), CONFIG, parameters(CONFIG, "causal")).is_clean
    assert fit(weights_of("base"), CONFIG, parameters(CONFIG, "causal")).is_clean
    assert all("encoder." in name for name in fit(weights_of("causal"), CONFIG, parameters(CONFIG, "base")).missing)


def test_a_file_of_no_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(EIGHT)
    with pytest.raises(CheckpointError, match=r"must end in .* or \.h5 or \.msgpack, got .*model\.ckpt"):
        open_checkpoint([tmp_path / "model.ckpt"])
