"""Google's Pegasus checkpoints (TensorFlow 1) as a repository in the hub's layout.

    python conversion/google_pegasus.py pegasus_ckpt/xsum/model.ckpt-30000 \
        pegasus_ckpt/c4.unigram.newline.10pct.96000.model pegasus-xsum --dataset xsum

Needs tensorflow, for its reader of checkpoints. docs/originals.md has the names and what differs from the original.
Source: github.com/google-research/pegasus.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_layout import (
    Origin,
    add_options,
    laid_out,
    layer_count,
    origin_of_rest,
    part_of_layer,
    run,
    size_of,
    write_repository,
)

from seq2seq_models import PegasusConfig, PegasusTokenizer
from seq2seq_models.core.parameters import SHARED, Parameter
from seq2seq_models.core.storage.stored import DTYPES, Stored
from seq2seq_models.core.tokenizing.spiece import read_spiece_model
from seq2seq_models.errors import CheckpointError, MissingFrameworkError

if TYPE_CHECKING:
    from numpy.typing import NDArray

OFFSET = 103
"""How far the ids of the pieces are moved up: room for masks and reserved tokens."""

EMBEDDING = "embeddings/weights"
PARTS = {
    "self_attn_layer_norm": "self_attention/LayerNorm",
    "self_attn.q_proj": "self_attention/q_proj",
    "self_attn.k_proj": "self_attention/k_proj",
    "self_attn.v_proj": "self_attention/v_proj",
    "self_attn.out_proj": "self_attention/output_proj",
    "encoder_attn_layer_norm": "memory_attention/LayerNorm",
    "encoder_attn.q_proj": "memory_attention/q_proj",
    "encoder_attn.k_proj": "memory_attention/k_proj",
    "encoder_attn.v_proj": "memory_attention/v_proj",
    "encoder_attn.out_proj": "memory_attention/output_proj",
    "final_layer_norm": "ffn/LayerNorm",
    "fc1": "ffn/dense",
    "fc2": "ffn/dense_1",
}
"""The parts of a layer, here and there."""


@dataclass(frozen=True)
class DataSet:
    """What a checkpoint's data set says about its config and its generation config."""

    positions: int
    max_length: int
    min_length: int | None
    length_penalty: float


DATA_SETS = {
    "large": DataSet(1024, 256, None, 0.8),
    "aeslc": DataSet(512, 32, None, 0.6),
    "arxiv": DataSet(1024, 256, None, 0.8),
    "big_patent": DataSet(1024, 256, 32, 0.7),
    "billsum": DataSet(1024, 256, 32, 0.6),
    "cnn_dailymail": DataSet(1024, 128, 32, 0.8),
    "gigaword": DataSet(128, 32, 32, 0.6),
    "multi_news": DataSet(1024, 256, 32, 0.8),
    "newsroom": DataSet(512, 128, 32, 0.8),
    "pubmed": DataSet(1024, 256, None, 0.8),
    "reddit_tifu": DataSet(512, 128, 32, 0.6),
    "wikihow": DataSet(512, 256, 32, 0.6),
    "xsum": DataSet(512, 64, None, 0.6),
}
"""The values of the hub's google/pegasus-*, as far as they are known; of arxiv, pubmed and aeslc, those that
pegasus-large states as `task_specific_params`."""


def origin_of(parameter: Parameter) -> Origin:
    """The variable that a weight comes from."""
    if parameter.name == SHARED:
        return Origin(EMBEDDING)
    found = part_of_layer(parameter.name)
    leaf = parameter.name.rpartition(".")[2]
    if found is not None:
        side, number, part, _ = found
        stem = f"{side}/layer_{number}/{PARTS[part]}"
    elif parameter.name.endswith(f".layer_norm.{leaf}"):
        stem = f"{parameter.name.split('.')[1]}/LayerNorm"
    else:
        return origin_of_rest(parameter.name)
    if parameter.kind == "norm":
        return Origin(f"{stem}/{'gamma' if leaf == 'weight' else 'beta'}")
    if leaf == "bias":
        return Origin(None if stem.endswith("_proj") else f"{stem}/bias")
    return Origin(f"{stem}/kernel", turned=True)


# ---- reading


def read_checkpoint(checkpoint: Path) -> dict[str, Stored]:
    """The weights of a checkpoint by Google's names, each read when it is asked for; the optimizer's slots left out.

    Args:
        checkpoint: the files' common prefix (".../model.ckpt-30000"), one of the files, or a folder with a file
            `checkpoint` that names the newest.
    Raises:
        CheckpointError: there is no sound checkpoint.
        MissingFrameworkError: tensorflow is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else it reports on GPUs, which nothing here uses
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        raise MissingFrameworkError(
            "Reading a checkpoint of TensorFlow needs tensorflow. Install it: pip install 'seq2seq-models[tensorflow]'"
        ) from None
    if checkpoint.suffix in (".index", ".meta") or ".data-" in checkpoint.suffix:
        checkpoint = checkpoint.with_suffix("")
    try:
        reader = tf.train.load_checkpoint(str(checkpoint))
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"`checkpoint` must be the prefix of a TensorFlow checkpoint, got {checkpoint} ({error}). Give the path "
            "that the files .index and .data-… begin with."
        ) from None
    held = {}
    for name, shape in shapes.items():
        if name == "global_step" or "Adafactor" in name:
            continue
        dtype = DTYPES.get(dtypes[name].name)
        if dtype is None or not dtypes[name].is_floating or dtype == "BF16":
            raise CheckpointError(
                f"The variables of {checkpoint} must be float32, got {name} of {dtypes[name].name}. Is it of Pegasus?"
            )
        held[name] = Stored(name, tuple(shape), dtype, partial(reader.get_tensor, name), str(checkpoint))
    return held


def config_of(held: Mapping[str, Stored], options: argparse.Namespace) -> PegasusConfig:
    """The config: sizes from the variables' shapes, heads from the arguments, positions of the data set."""
    dense = {side: f"{side}/layer_0/ffn/dense/kernel" for side in ("encoder", "decoder")}
    shapes = size_of(held, [EMBEDDING, *dense.values()], "a Pegasus model", options.checkpoint)
    (vocabulary, dim), (_, encoder_ffn), (_, decoder_ffn) = shapes
    if options.heads < 1 or dim % options.heads or dim % 2:
        raise CheckpointError(
            f"`--heads` must divide the width of the model, which must be even, got {options.heads} heads and the "
            f"width {dim} ({options.checkpoint}). Give the number of heads it was trained with."
        )
    positions = DATA_SETS[options.dataset].positions if options.positions is None else options.positions
    config = PegasusConfig(
        architectures=["PegasusForConditionalGeneration"], vocab_size=vocabulary, d_model=dim,
        encoder_layers=layer_count(held, r"encoder/layer_([0-9]+)/"),
        decoder_layers=layer_count(held, r"decoder/layer_([0-9]+)/"),
        encoder_ffn_dim=encoder_ffn, decoder_ffn_dim=decoder_ffn,
        encoder_attention_heads=options.heads, decoder_attention_heads=options.heads,
        max_position_embeddings=positions,
        activation_function="relu", scale_embedding=True, attention_dropout=0.1, activation_dropout=0.1,
        bos_token_id=0,
    )  # fmt: skip
    config.validate(where=str(options.checkpoint))
    return config


# ---- what is not a mere renaming


def with_zero_start(shared: Stored) -> Stored:
    """The embedding with a zero row for <pad>: Google's decoder begins with a zero vector, ours with <pad>."""

    def read() -> NDArray[Any]:
        values = shared.read().copy()
        values[0] = 0
        return values

    return Stored(shared.name, shared.shape, shared.dtype, read, shared.file)


def timing_signal(length: int, dim: int) -> NDArray[Any]:
    """Google's positions [length, dim]: sines, then cosines, the last wavelength exactly 10000 times the first.

    Hub checkpoints have the same halves with wavelengths of a slightly smaller step (core/positions.py).
    """
    import numpy as np

    scales = np.exp(np.arange(dim // 2) * -(math.log(10000.0) / max(dim // 2 - 1, 1)))
    angles = np.arange(length)[:, None] * scales[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def position_tables(config: PegasusConfig) -> list[Stored]:
    """Google's positions as tables of the encoder and the decoder."""
    shape = (config.max_position_embeddings, config.d_model)
    names = [f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder")]
    return [Stored(name, shape, "F32", lambda: timing_signal(*shape)) for name in names]


def check_vocabulary(vocabulary: Path, config: PegasusConfig) -> None:
    """Raises if a SentencePiece model is not the one of these weights."""
    pieces = read_spiece_model(vocabulary).pieces
    if pieces[:3] != ["<pad>", "</s>", "<unk>"]:
        raise CheckpointError(
            f"The vocabulary must begin with <pad>, </s> and <unk>, got {', '.join(pieces[:3])} ({vocabulary}). "
            "Give the SentencePiece model that comes with the checkpoint."
        )
    if len(pieces) + OFFSET != config.vocab_size:
        raise CheckpointError(
            f"The vocabulary must have {config.vocab_size - OFFSET} pieces, {OFFSET} less than the embedding has rows, "
            f"got {len(pieces)} ({vocabulary}). Give the SentencePiece model that comes with the checkpoint."
        )


def convert(options: argparse.Namespace) -> list[Path]:
    """Converts as the arguments say; the files that were written."""
    held = read_checkpoint(options.checkpoint)
    config = config_of(held, options)
    tensors = laid_out(held, config, origin_of, options.checkpoint)
    tensors = [with_zero_start(tensor) if tensor.name == SHARED else tensor for tensor in tensors]
    if options.timing == "original":
        tensors += position_tables(config)
    check_vocabulary(options.vocabulary, config)
    preset = DATA_SETS[options.dataset]
    generation = {"max_length": preset.max_length, "num_beams": 8, "length_penalty": preset.length_penalty}
    if preset.min_length is not None:
        generation["min_length"] = preset.min_length

    def write_tokenizer(folder: Path) -> None:
        tokenizer = PegasusTokenizer(options.vocabulary, model_max_length=config.max_position_embeddings)
        tokenizer.save_pretrained(folder, legacy_format=True)

    return write_repository(options.target, tensors, config, generation, write_tokenizer, options)


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description="Google's Pegasus checkpoints to the hub's layout.")
    parser.add_argument("checkpoint", type=Path, help="prefix of the checkpoint's files, or their folder")
    parser.add_argument("vocabulary", type=Path, help="the SentencePiece model")
    parser.add_argument("target", type=Path, help="folder to write")
    tuned = "what it was tuned for: lengths, length penalty and positions (large: pretrained only)"
    parser.add_argument("--dataset", choices=sorted(DATA_SETS), default="large", help=tuned)
    parser.add_argument("--heads", type=int, default=16, help="attention heads, which no shape tells (16)")
    parser.add_argument("--positions", type=int, help="longest input and output in tokens (the data set's)")
    timing = "positions as the hub's checkpoints compute them, or Google's own as a table (hub)"
    parser.add_argument("--timing", choices=("hub", "original"), default="hub", help=timing)
    add_options(parser)
    return run(convert, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
