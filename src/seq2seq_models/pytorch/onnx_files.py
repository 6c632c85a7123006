"""ONNX files of exported programs, whose weights lie in one safetensors file beside them."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from ..core.generation.served import FUNCTIONS
from ..core.storage.safetensors_file import write_safetensors
from ..core.storage.stored import Stored
from ..errors import GenerationError, MissingFrameworkError

WEIGHTS = "weights.safetensors"

SMALLEST = 1024
"""Bytes; smaller constants stay in the graphs, where a runtime reads shapes from them."""

DTYPES = {"FLOAT": "F32", "FLOAT16": "F16", "BFLOAT16": "BF16", "INT64": "I64", "INT32": "I32", "BOOL": "BOOL"}
"""ONNX's names of dtypes and those of safetensors."""


def write_onnx(programs: Mapping[str, ExportedProgram], folder: Path) -> None:
    """Writes each program as <name>.onnx; a weight is in the folder once, whichever of the programs use it.

    ONNX finds a weight by file, offset and length, which a safetensors file has for each of its tensors. An output that
    is called like an input has "new_" before its name: a graph has each name once.

    Args:
        programs: by their names in `FUNCTIONS`.
        folder: is there.

    Raises:
        GenerationError: an option of `generate` has no form in ONNX.
        MissingFrameworkError: onnx or onnxscript is not installed.
    """
    try:
        import onnx_ir as ir
        import onnxscript  # noqa: F401  (what torch.onnx writes through)
    except ImportError as error:
        raise MissingFrameworkError(
            "export to ONNX needs onnx and onnxscript. Install them: pip install 'seq2seq-models[export]'"
        ) from error
    models = {name: _translated(name, program) for name, program in programs.items()}
    stored: dict[str, Stored] = {}
    uses: list[tuple[Any, str]] = []
    for name, model in models.items():
        for value in (value for graph in model.graphs() for value in graph.initializers.values()):
            if value.const_value.nbytes >= SMALLEST:
                content = hashlib.blake2b(value.const_value.tobytes(), digest_size=16).hexdigest()
                uses.append((value, content))
                stored.setdefault(content, _stored(f"{name}.{value.name}", value.const_value))
    write_safetensors(folder / WEIGHTS, list(stored.values()))
    places = _places(folder / WEIGHTS)
    for value, content in uses:
        first, length = places[stored[content].name]
        was = value.const_value
        value.const_value = ir.ExternalTensor(
            WEIGHTS, first, length, was.dtype, shape=was.shape, name=was.name, base_dir=folder
        )
    for name, model in models.items():
        ir.save(model, folder / f"{name}.onnx")


def _translated(name: str, program: ExportedProgram) -> Any:
    """The program as a model of onnx_ir."""
    inputs, outputs = FUNCTIONS[name]
    outputs = tuple(f"new_{one}" if one in inputs else one for one in outputs)
    try:
        with _quiet():
            found = torch.onnx.export(program, dynamo=True, verbose=False, input_names=inputs, output_names=outputs)
    except torch.onnx.OnnxExporterError as error:
        raise GenerationError(
            f"`{name}` must be made of what PyTorch can write as ONNX, got options that it cannot: diverse beams, or "
            "more than eight tokens in one rule. Leave them out, or export to torch, jax or savedmodel."
        ) from error
    assert found is not None
    return found.model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own notes: that torchvision is not there, and that a tree of PyTorch's has a new name."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _stored(name: str, tensor: Any) -> Stored:
    import numpy as np

    def read() -> Any:
        values = tensor.numpy()
        return values.view(np.uint16) if tensor.dtype.name == "BFLOAT16" else values

    return Stored(name, tuple(tensor.shape.numpy()), DTYPES[tensor.dtype.name], read)


def _places(file: Path) -> dict[str, tuple[int, int]]:
    """Where each tensor of a safetensors file lies: its first byte, counted from the file's, and its length."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    entries = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return {name: (8 + size + first, last - first) for name, (first, last) in entries.items()}
