"""Every file format, written by transformers 4.57.6 and by ourselves, read by every class of every framework.

    python -m tests.matrix

prints one table: a row per writer, format and stored dtype; a column per framework and class. A cell says how many of
the two families came back with every element as it was written, or why there is no such file.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import seq2seq_models
from seq2seq_models.core.storage.torch_file import tensor_of

from .loading import BASE, CAUSAL, FULL, SHARD
from .tiny import FAMILIES, reference

HEADS = (BASE, FULL, CAUSAL)
FRAMEWORKS = {"PyTorch": "", "TensorFlow": "TF", "Flax": "Flax"}
DTYPES = ("float32", "float16", "bfloat16")
FORMATS = {
    "safetensors": "model.safetensors",
    "safetensors, sharded": "model.safetensors.index.json",
    "bin": "pytorch_model.bin",
    "bin of 2020": "pytorch_model.bin",
    "bin, sharded": "pytorch_model.bin.index.json",
    "h5": "tf_model.h5",
    "h5, weight:0": "tf_model.h5",
    "h5, sharded": "tf_model.h5.index.json",
    "msgpack": "flax_model.msgpack",
    "msgpack, sharded": "flax_model.msgpack.index.json",
}
"""Each with the file that shows it was written."""

NO_CLASS = "4.57.6 has no causal model in TensorFlow or Flax"
FLOAT32 = "4.57.6 writes h5 in float32 only"
NOBODY = "only transformers of 2020 and 2021 wrote it"


@dataclass(frozen=True)
class Cell:
    """A file, and the class that reads it."""

    writer: str
    form: str
    dtype: str
    family: str
    head: str
    framework: str = "PyTorch"


def model_of(cell: Cell) -> Any:
    """The reference's PyTorch model of a cell, in the dtype that is to be stored."""
    return reference(cell.family, cell.head).to(getattr(torch, cell.dtype))


def values(cell: Cell) -> dict[str, np.ndarray]:
    """Every tensor of the model by its name within the model, as float32."""
    found = {short(name): value.float().numpy() for name, value in model_of(cell).state_dict().items()}
    if cell.framework == "TensorFlow" and cell.family == "Pegasus":  # which computes them, in float32
        exact = reference(cell.family, cell.head).state_dict()
        found |= {short(name): value.numpy() for name, value in exact.items() if "embed_positions" in name}
    return found


def short(name: str) -> str:
    """A name without the part that only models with a head have."""
    return name.removeprefix("model.")


def why_not(cell: Cell) -> str | None:
    """Why there is no such file."""
    wing = cell.form.split(",")[0].split()[0]
    if cell.writer == "seq2seq_models":
        return NOBODY if cell.form in ("bin of 2020", "h5, weight:0") else None
    if wing in ("h5", "msgpack") and cell.head == CAUSAL:
        return NO_CLASS
    return FLOAT32 if wing == "h5" and cell.dtype != "float32" else None


def write(cell: Cell, folder: Path) -> None:
    """The files of a cell."""
    model = model_of(cell)
    if cell.writer == "transformers":
        _by_the_reference(cell, model, folder)
    else:
        _by_ourselves(cell, model, folder)
    assert (folder / FORMATS[cell.form]).is_file(), sorted(path.name for path in folder.iterdir())


def _size(cell: Cell) -> str:
    return SHARD if "sharded" in cell.form else "5GB"


def _by_the_reference(cell: Cell, model: Any, folder: Path) -> None:
    wing, size = cell.form.split(",")[0], _size(cell)
    if wing in ("safetensors", "bin"):
        model.save_pretrained(folder, safe_serialization=wing == "safetensors", max_shard_size=size)
    elif wing == "bin of 2020":
        model.config.save_pretrained(folder)
        file = folder / "pytorch_model.bin"
        torch.save(model.state_dict(), file, _use_new_zipfile_serialization=False)
        assert not file.read_bytes().startswith(b"PK")
    else:
        prefix = "TF" if wing == "h5" else "Flax"
        with tempfile.TemporaryDirectory() as scratch:
            model.save_pretrained(scratch)
            other = getattr(transformers, prefix + cell.family + cell.head).from_pretrained(scratch, from_pt=True)
        options: dict[str, Any] = {}
        if prefix == "Flax":
            cast = {"float32": other.to_fp32, "float16": other.to_fp16, "bfloat16": other.to_bf16}[cell.dtype]
            options["params"] = cast(other.params)
        other.save_pretrained(folder, max_shard_size=size, **options)
        if cell.form == "h5, weight:0":
            from .test_formats import as_in_2021

            as_in_2021(folder / "tf_model.h5")


def _by_ourselves(cell: Cell, model: Any, folder: Path) -> None:
    wing = cell.form.split(",")[0]
    framework = {"h5": "TensorFlow", "msgpack": "Flax"}.get(wing, "PyTorch")
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        own = load(framework, cell, Path(scratch))
    own.save_pretrained(folder, safe_serialization=wing == "safetensors", max_shard_size=_size(cell))


def load(framework: str, cell: Cell, folder: Path) -> Any:
    """Our model of a framework in the dtype of the files."""
    cls = getattr(seq2seq_models, FRAMEWORKS[framework] + cell.family + cell.head)
    return cls.from_pretrained(folder, dtype="auto" if framework == "PyTorch" else cell.dtype)


def read(cell: Cell, folder: Path) -> str | None:
    """None if every element came back, otherwise what did not."""
    model = load(cell.framework, cell, folder)
    if cell.framework == "PyTorch" and model.dtype != getattr(torch, cell.dtype):
        return f"loaded as {model.dtype}"
    found = {short(weight.name): weight for weight in model._weights()}
    expected = values(cell)
    for name, weight in found.items():
        if not np.array_equal(tensor_of(weight).float().numpy(), expected[name]):
            return f"{name} differs"
    missing = [name for name in expected if name not in found and not _is_an_alias(name, cell)]
    return f"missing {missing}" if missing else None


def _is_an_alias(name: str, cell: Cell) -> bool:
    """A second name of the tied embedding, or positions that the model computes."""
    return name.endswith(("embed_tokens.weight", "lm_head.weight")) or (
        cell.family == "Pegasus" and "embed_positions" in name
    )


def rows() -> Iterator[tuple[str, str, str]]:
    for writer in ("transformers", "seq2seq_models"):
        for form in FORMATS:
            for dtype in DTYPES:
                yield writer, form, dtype


def row(writer: str, form: str, dtype: str, told: Callable[[Cell, str], None] = lambda cell, said: None) -> list[str]:
    """What stands in the cells of a row: one per framework and class."""
    found: dict[tuple[str, str], list[str]] = {(f, head): [] for f in FRAMEWORKS for head in HEADS}
    for family in FAMILIES:
        for head in HEADS:
            source = Cell(writer, form, dtype, family, head)
            reason, folder = why_not(source), Path(tempfile.mkdtemp())
            try:
                if reason is None:
                    write(source, folder)
                for framework in FRAMEWORKS:
                    cell = Cell(writer, form, dtype, family, head, framework)
                    said = reason or read(cell, folder) or "equal"
                    told(cell, said)
                    found[framework, head].append(said)
            finally:
                shutil.rmtree(folder)
    return ["/".join(dict.fromkeys(said)) for said in found.values()]


def main() -> None:
    """Prints the table and, under it, what its letters stand for."""
    transformers.logging.set_verbosity_error()
    heads = [f"{framework} {head.removeprefix('For')}" for framework in FRAMEWORKS for head in HEADS]
    print("| written by | format | stored | " + " | ".join(heads) + " |")
    print("|" + " --- |" * (3 + len(heads)))
    letters = {NO_CLASS: "a", FLOAT32: "b", NOBODY: "c"}
    for writer, form, dtype in rows():
        cells = [letters.get(said, said) for said in row(writer, form, dtype)]
        print(f"| {writer} | {form} | {dtype} | " + " | ".join(cells) + " |", flush=True)
    for reason, letter in letters.items():
        print(f"\n{letter}: {reason}")


if __name__ == "__main__":
    main()
