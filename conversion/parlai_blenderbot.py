"""ParlAI's Blender 90M as a repository in the hub's layout.

    python conversion/parlai_blenderbot.py blender_90M blenderbot_small-90M

The first folder holds `model`, `model.opt`, `model.dict` and `model.dict.codecs`. Needs torch, to read `model`.
docs/originals.md has the names and what differs from the original. Source: github.com/facebookresearch/ParlAI.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
from parlai_dictionary import read_codecs, read_dictionary

from seq2seq_models import BlenderbotSmallConfig, BlenderbotSmallTokenizer
from seq2seq_models.core.parameters import SHARED, Parameter
from seq2seq_models.core.storage.stored import Stored
from seq2seq_models.errors import CheckpointError, MissingFrameworkError

FILES = ("model", "model.opt", "model.dict", "model.dict.codecs")
EMBEDDING = "embeddings.weight"
COPIES = ("encoder.embeddings.weight", "decoder.embeddings.weight")
"""Other names of the one embedding in a state dict of ParlAI's."""

IGNORED = "START"
"""The id of `__start__`, which ParlAI keeps beside the weights."""

OUTSIDE = {"embed_positions": "position_embeddings", "layernorm_embedding": "norm_embeddings"}
PARTS = {
    "encoder": {
        "self_attn.q_proj": "attention.q_lin",
        "self_attn.k_proj": "attention.k_lin",
        "self_attn.v_proj": "attention.v_lin",
        "self_attn.out_proj": "attention.out_lin",
        "self_attn_layer_norm": "norm1",
        "fc1": "ffn.lin1",
        "fc2": "ffn.lin2",
        "final_layer_norm": "norm2",
    },
    "decoder": {
        "self_attn.q_proj": "self_attention.q_lin",
        "self_attn.k_proj": "self_attention.k_lin",
        "self_attn.v_proj": "self_attention.v_lin",
        "self_attn.out_proj": "self_attention.out_lin",
        "self_attn_layer_norm": "norm1",
        "encoder_attn.q_proj": "encoder_attention.q_lin",
        "encoder_attn.k_proj": "encoder_attention.k_lin",
        "encoder_attn.v_proj": "encoder_attention.v_lin",
        "encoder_attn.out_proj": "encoder_attention.out_lin",
        "encoder_attn_layer_norm": "norm2",
        "fc1": "ffn.lin1",
        "fc2": "ffn.lin2",
        "final_layer_norm": "norm3",
    },
}
"""The parts of a layer, here and there."""

REQUIRED = {
    "variant": ("xlm", "aiayn"),
    "output_scaling": (1.0, 1.0),
    "n_segments": (0, 0),
    "share_word_embeddings": (True, True),
    "dict_tokenizer": ("bpe", "re"),
    "dict_lower": (True, False),
}
"""Options that this family has no choice in: the value they must have, and ParlAI's default."""


def origin_of(parameter: Parameter) -> Origin:
    """The entry of the state dict that a weight comes from."""
    if parameter.name == SHARED:
        return Origin(EMBEDDING)
    found = part_of_layer(parameter.name)
    if found is not None:
        side, number, part, leaf = found
        return Origin(f"{side}.layers.{number}.{PARTS[side][part]}.{leaf}")
    steps = parameter.name.split(".")
    if len(steps) == 4 and steps[2] in OUTSIDE:
        return Origin(f"{steps[1]}.{OUTSIDE[steps[2]]}.{steps[3]}")
    return origin_of_rest(parameter.name)


# ---- reading


class _Ignored:
    """Stands for an object of the optimizer's, so that the file opens without the code that made it."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_weights(file: Path) -> dict[str, Stored]:
    """The model's weights under ParlAI's names. Nothing in the file is run: other objects in it become empty ones.

    Raises:
        CheckpointError: the file is damaged or holds no model, or copies of the embedding differ.
        MissingFrameworkError: torch is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingFrameworkError(
            f"{file} is a PyTorch file, and reading it needs torch. Install it: pip install 'seq2seq-models[torch]'"
        ) from None
    from seq2seq_models.core.storage.torch_file import stored_tensor

    content = _opened(file, torch)
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(
            f"{file} must hold a table of tensors under the key 'model', as ParlAI saves it, and does not. "
            "Give the file that ParlAI calls `model`."
        )
    held = {name: stored_tensor(name, value, str(file)) for name, value in state.items() if name != IGNORED}
    differing = [name for name in COPIES if name in state and not torch.equal(state[name], state[EMBEDDING])]
    if differing:
        raise CheckpointError(
            f"The embeddings of {file} must be one, but {', '.join(differing)} and {EMBEDDING} differ. A model with "
            "embeddings of their own (share_word_embeddings false) is none of this family."
        )
    return {name: tensor for name, tensor in held.items() if name not in COPIES}


def _opened(file: Path, torch: Any) -> Any:
    """What a file holds. Optimizers save objects of ParlAI's or apex' classes; here these stand for nothing."""
    with file.open("rb") as stream:
        is_zip = stream.read(2) == b"PK"
    ignored: list[Any] = []
    for _ in range(50):
        try:
            with torch.serialization.safe_globals(ignored):
                return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
        except pickle.UnpicklingError as error:
            refused = re.search(r"Unsupported global: GLOBAL (\S+) was not", str(error))
            if refused is None:
                raise CheckpointError(
                    f"{file} cannot be opened: it is damaged, no PyTorch file, or wants code that is never run "
                    f"({str(error).splitlines()[-1].strip()}). Save its 'model' alone, or download it again."
                ) from None
            ignored.append((_Ignored, refused[1]))
        except Exception as error:  # a damaged pickle makes torch raise anything, AssertionError among it
            raise CheckpointError(
                f"{file} cannot be opened: it is cut off or damaged ({error}). Download it again."
            ) from None
    raise CheckpointError(f"{file} holds objects of more than {len(ignored)} classes. Save its 'model' alone.")


def read_options(file: Path) -> dict[str, Any]:
    """The options of a model; all that stand in the way of a conversion are named in one error."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} must be JSON, but: {error}. Download it again.") from None
    if not isinstance(found, dict) or not isinstance(found.get("n_heads"), int) or found["n_heads"] < 1:
        raise CheckpointError(
            f"{file} must be ParlAI's options and say `n_heads`, a number of at least 1. Complete it."
        )
    faults = [
        f"`{name}` must be {must!r}, got {found.get(name, default)!r}"
        for name, (must, default) in REQUIRED.items()
        if found.get(name, default) != must
    ]
    if faults:
        raise CheckpointError(
            f"The options of {file} must be those of Blender 90M, but {'; '.join(faults)}. Models of other options "
            "compute something else and cannot be converted."
        )
    return found


# ---- writing


def config_of(held: Mapping[str, Stored], options: Mapping[str, Any], where: Path) -> BlenderbotSmallConfig:
    """The config: sizes from the weights' shapes, all else from the options."""
    widths = [f"{side}.layers.0.ffn.lin1.weight" for side in ("encoder", "decoder")]
    shapes = size_of(held, [EMBEDDING, "encoder.position_embeddings.weight", *widths], "Blender 90M", where)
    (vocabulary, dim), (positions, _), (encoder_ffn, _), (decoder_ffn, _) = shapes
    config = BlenderbotSmallConfig(
        architectures=["BlenderbotSmallForConditionalGeneration"], vocab_size=vocabulary, d_model=dim,
        encoder_layers=layer_count(held, r"encoder\.layers\.([0-9]+)\."),
        decoder_layers=layer_count(held, r"decoder\.layers\.([0-9]+)\."),
        encoder_ffn_dim=encoder_ffn, decoder_ffn_dim=decoder_ffn, max_position_embeddings=positions,
        encoder_attention_heads=options["n_heads"], decoder_attention_heads=options["n_heads"],
        activation_function=options.get("activation", "relu"), scale_embedding=options.get("embeddings_scale", True),
        dropout=options.get("dropout", 0.0), attention_dropout=options.get("attention_dropout", 0.0),
        activation_dropout=options.get("relu_dropout", 0.0),
    )  # fmt: skip
    config.validate(where=str(where))
    return config


def generation_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """What generation_config.json says. ParlAI's `label_truncate` is the longest reply that it was trained on."""
    blocked, longest = options.get("beam_block_ngram") or 0, options.get("label_truncate") or 0
    return {
        "num_beams": options.get("beam_size", 1),
        "min_length": options.get("beam_min_length", 1),
        "no_repeat_ngram_size": max(blocked, 0),  # ParlAI's -1 is "none", as here 0
        "length_penalty": options.get("beam_length_penalty", 0.65),
        "max_length": longest if longest > 0 else 128,
    }


def convert(options: argparse.Namespace) -> list[Path]:
    """Converts as the arguments say; the files that were written."""
    model, opt, dictionary, codecs = (options.source / name for name in FILES)
    absent = [file.name for file in (model, opt, dictionary, codecs) if not file.is_file()]
    if absent:
        raise CheckpointError(
            f"`source` must be a folder with {', '.join(FILES)}, got {options.source} without {', '.join(absent)}. "
            "Unpack the whole archive."
        )
    settings = read_options(opt)
    held = read_weights(model)
    config = config_of(held, settings, model)
    tensors = laid_out(held, config, origin_of, model)
    tokens, merges = read_dictionary(dictionary, settings, config.vocab_size), read_codecs(codecs)

    def write_tokenizer(folder: Path) -> None:
        vocab, pairs = folder / "vocab.json", folder / "merges.txt"
        vocab.write_text(json.dumps({token: index for index, token in enumerate(tokens)}), encoding="utf-8")
        pairs.write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8", newline="\n")
        special = {f"{ours}_token": tokens[place] for place, ours in enumerate(("pad", "bos", "eos", "unk"))}
        tokenizer = BlenderbotSmallTokenizer(vocab, pairs, model_max_length=config.max_position_embeddings, **special)
        tokenizer.save_pretrained(folder, legacy_format=True)

    return write_repository(options.target, tensors, config, generation_of(settings), write_tokenizer, options)


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description="ParlAI's Blender 90M to the hub's layout.")
    parser.add_argument("source", type=Path, help=f"folder with {', '.join(FILES)}")
    parser.add_argument("target", type=Path, help="folder to write")
    add_options(parser)
    return run(convert, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
