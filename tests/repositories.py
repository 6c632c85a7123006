"""Repositories in exactly the hub's layout, with random weights of any size and vocabularies of a few sentences.

The config files are the hub's own (tests/data/hub-configs) with only the sizes changed; weights are a
`pytorch_model.bin` with the names that the hub's file has; the tokenizer files are the kind each family has there.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import seq2seq_models
from seq2seq_models.core.checkpoints import FORMATS, write_checkpoint
from seq2seq_models.core.storage.torch_file import stored_tensor
from seq2seq_models.core.tokenizing.spiece import PieceType, write_spiece_model

CONFIGS = Path(__file__).parent / "data" / "hub-configs"
FAMILY = {
    "facebook/blenderbot_small-90M": "BlenderbotSmall",
    "google/pegasus-large": "Pegasus",
    "google/pegasus-xsum": "Pegasus",
}
SMALL = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_hidden_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 80,
}
PEGASUS_SPECIAL_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
PEGASUS_OFFSET = 103


def add_repository(hub: Any, name: str, folder: Path, sentences: Iterable[str], **sizes: Any) -> Path:
    """The folder that the stand-in hub now serves as `name`, with these sizes (small ones unless given)."""
    write_repository(folder, name, sentences, **{**SMALL, **sizes})
    hub.add(name, folder)
    return folder


def write_repository(
    folder: Path, name: str, sentences: Iterable[str], formats: Iterable[str] = ("bin",), **sizes: Any
) -> None:
    """All files of one of the hub's repositories, with these sizes and a vocabulary of the words in `sentences`.

    Its weights come as .bin, and in "h5" and "msgpack" on request: three repositories of the hub have all three.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for source in (CONFIGS / "inferred", CONFIGS):
        for file in sorted((source / name.replace("/", "__")).glob("*.json")):
            (folder / file.name).write_bytes(file.read_bytes())
    family = FAMILY[name]
    write = write_pegasus_vocabulary if family == "Pegasus" else write_blenderbot_vocabulary
    size = write(folder, list(sentences))
    if family == "Pegasus" and not (folder / "special_tokens_map.json").exists():
        length = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
        write_json(folder / "special_tokens_map.json", PEGASUS_SPECIAL_TOKENS)
        files = {"special_tokens_map_file": None, "full_tokenizer_file": None}
        write_json(folder / "tokenizer_config.json", {"model_max_length": length, **files})
    config = {**json.loads((folder / "config.json").read_text()), "vocab_size": size, **sizes}
    write_json(folder / "config.json", config)
    write_weights(folder, family, config, formats)


def write_weights(folder: Path, family: str, config: dict[str, Any], formats: Iterable[str]) -> None:
    """The same weights in these formats; the embedding in .h5 has its name of 2021."""
    state = weights(family, config)
    made = getattr(seq2seq_models, f"{family}Config").from_dict(config)
    for form in formats:
        if form == "bin":
            torch.save(state, folder / "pytorch_model.bin")
            continue
        held = FORMATS[form].named([stored_tensor(*item) for item in state.items()], made, "conditional")
        old = [tensor.renamed(tensor.name.replace("shared/embeddings:0", "shared/weight:0")) for tensor in held]
        write_checkpoint(folder, old, form=form)


def weights(family: str, config: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights by the names of the hub's file: the embedding three times, no head, no computed positions."""
    torch.manual_seed(seed)
    made = getattr(seq2seq_models, f"{family}Config").from_dict(config)
    model = getattr(seq2seq_models, f"{family}ForConditionalGeneration")(made)
    state = {}
    for name, tensor in model.state_dict().items():
        if not (family == "Pegasus" and "embed_positions" in name):
            state[name] = tensor
    with torch.no_grad():
        for name, tensor in state.items():
            if tensor.dim() == 1 or name == "final_logits_bias":
                tensor.add_(torch.randn_like(tensor) * 0.1)
            else:
                tensor.mul_(3.0)
    for stack in ("encoder", "decoder"):
        state[f"model.{stack}.embed_tokens.weight"] = state["model.shared.weight"]
    return state


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_blenderbot_vocabulary(folder: Path, sentences: list[str]) -> int:
    """The number of tokens in the vocab.json and merges.txt that are written: byte pairs merged up to whole words."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    split = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[.,!?()']"), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    trainer = trainers.BpeTrainer(vocab_size=5000, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator([" ".join(re.sub("__[a-z]+__", " ", text) for text in sentences)], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    names = [token[:-4] if token.endswith("</w>") else f"{token}@@" for token in model["vocab"]]
    vocabulary = dict.fromkeys(["__null__", "__start__", "__end__", "__unk__", "__newln__", *names])
    ids = {token: index for index, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return len(ids)


def write_pegasus_vocabulary(folder: Path, sentences: list[str]) -> int:
    """The number of tokens of the spiece.model that is written: whole words, single characters, and <n>."""
    words = Counter(f"▁{word}" for text in sentences for word in re.findall(r"\w+|[^\w\s]", text))
    letters = Counter(character for word in words for character in word)
    counts = {**dict.fromkeys(sorted(letters), 1), **words}
    total = sum(counts.values())
    pieces = [("<pad>", 0.0, PieceType.CONTROL), ("</s>", 0.0, PieceType.CONTROL), ("<unk>", 0.0, PieceType.UNKNOWN)]
    pieces.append(("<n>", 0.0, PieceType.USER_DEFINED))
    pieces += [(piece, math.log(count / total), PieceType.NORMAL) for piece, count in counts.items()]
    write_spiece_model(folder / "spiece.model", [(piece, score, int(kind)) for piece, score, kind in pieces])
    return len(pieces) + PEGASUS_OFFSET
