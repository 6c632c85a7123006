"""Originals made up for tests, in the formats of ParlAI and of Google, and what the original models compute.

The forward passes are written in NumPy after the originals' own formulation. Nothing here imports the library.
"""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Weights = dict[str, Array]


@dataclass(frozen=True)
class Sizes:
    """Of a model; both sides have the same heads, as in both originals, and here all other numbers differ."""

    vocabulary: int
    dim: int = 24
    encoder_layers: int = 2
    decoder_layers: int = 3
    ffn: int = 40
    heads: int = 4
    positions: int = 37


class Draws:
    """Random weights of which every one matters: no norm is near one, no bias near zero."""

    def __init__(self, seed: int, dtype: Any = np.float32) -> None:
        self.generator = np.random.default_rng(seed)
        self.dtype = dtype

    def matrix(self, *shape: int, scale: float | None = None) -> Array:
        drawn = self.generator.standard_normal(shape, np.float32)
        return (drawn * np.float32(scale or shape[0] ** -0.5)).astype(self.dtype)

    def vector(self, size: int, mean: float = 0.0) -> Array:
        return (mean + 0.3 * self.generator.standard_normal(size, np.float32)).astype(self.dtype)


# ---- what both compute


def norm(values: Array, scale: Array, shift: Array, epsilon: float) -> Array:
    centred = values - values.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * scale + shift


def attention(queries: Array, keys: Array, values: Array, allowed: Array, heads: int) -> Array:
    """[B, T, D] from [B, T, D] and [B, S, D]; `allowed` is [B, T or 1, S]."""
    rows, length, dim = queries.shape
    queries, keys, values = (
        part.reshape(rows, -1, heads, dim // heads).transpose(0, 2, 1, 3) for part in (queries, keys, values)
    )
    scores = queries @ keys.transpose(0, 1, 3, 2) / math.sqrt(dim // heads)
    scores = np.where(allowed[:, None], scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return (shares @ values).transpose(0, 2, 1, 3).reshape(rows, length, dim)


def earlier(length: int) -> Array:
    """[1, T, T]: which positions may be seen from which."""
    return np.tril(np.ones((1, length, length), bool))


# ---- Google's Pegasus


def google_weights(sizes: Sizes, seed: int = 0) -> Weights:
    """The variables that training ends with, without the optimizer's; embeddings as wide as theirs are at the start."""
    draw, found = Draws(seed), {}
    found["embeddings/weights"] = draw.matrix(sizes.vocabulary, sizes.dim, scale=sizes.dim**-0.5)
    for side, layers in (("encoder", sizes.encoder_layers), ("decoder", sizes.decoder_layers)):
        norms = [f"{side}/LayerNorm"]
        for number in range(layers):
            layer = f"{side}/layer_{number}"
            attentions = [f"{layer}/self_attention", *([f"{layer}/memory_attention"] if side == "decoder" else [])]
            for name in attentions:
                for projection in ("q_proj", "k_proj", "v_proj", "output_proj"):
                    found[f"{name}/{projection}/kernel"] = draw.matrix(sizes.dim, sizes.dim)
            found[f"{layer}/ffn/dense/kernel"] = draw.matrix(sizes.dim, sizes.ffn)
            found[f"{layer}/ffn/dense/bias"] = draw.vector(sizes.ffn)
            found[f"{layer}/ffn/dense_1/kernel"] = draw.matrix(sizes.ffn, sizes.dim)
            found[f"{layer}/ffn/dense_1/bias"] = draw.vector(sizes.dim)
            norms += [f"{name}/LayerNorm" for name in (*attentions, f"{layer}/ffn")]
        for name in norms:
            found[f"{name}/gamma"] = draw.vector(sizes.dim, mean=1.0)
            found[f"{name}/beta"] = draw.vector(sizes.dim)
    return found


def google_slots(weights: Weights) -> Weights:
    """What Adafactor keeps: the averages over rows and over columns of a matrix, and of a vector the whole."""
    slots: Weights = {}
    for name, values in weights.items():
        if values.ndim == 2:
            slots[f"{name}/Adafactor"] = np.full(values.shape[0], 0.5, np.float32)
            slots[f"{name}/Adafactor_1"] = np.full(values.shape[1], 0.5, np.float32)
        else:
            slots[f"{name}/Adafactor"] = np.full(values.shape, 0.5, np.float32)
    return slots


def write_google(folder: Path, weights: Weights, step: int = 30000) -> Path:
    """A checkpoint as TensorFlow 1 saves it, slots and step included; the prefix of its files."""
    import tensorflow as tf

    v1 = tf.compat.v1
    everything: dict[str, Any] = {**weights, **google_slots(weights), "global_step": np.int64(step)}
    with tf.Graph().as_default(), v1.Session() as session:
        places, assignments = {}, []
        for name, values in everything.items():
            zeros = v1.zeros_initializer()
            variable = v1.get_variable(name, values.shape, values.dtype, initializer=zeros, use_resource=False)
            place = v1.placeholder(values.dtype, values.shape)
            assignments.append(v1.assign(variable, place).op)
            places[place] = values
        saver = v1.train.Saver()
        session.run(assignments, places)
        return Path(saver.save(session, str(folder / "model.ckpt"), global_step=step))


def google_timing(length: int, dim: int) -> Array:
    """Sines, then cosines, of dim / 2 wavelengths from 2 pi to 20000 pi, both ends included."""
    steps = np.arange(dim // 2) / (dim // 2 - 1)
    angles = np.arange(length)[:, None] * 10000.0**-steps
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)


def hub_timing(length: int, dim: int) -> Array:
    """The same but for the step between the wavelengths: dim / 2 of them, the last end not included."""
    angles = np.arange(length)[:, None] * 10000.0 ** -(np.arange(dim // 2) / (dim // 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)


class GooglePegasus:
    """Encoder and decoder in float64: norms first, no biases in attention, a zero vector in front of the targets."""

    def __init__(self, weights: Weights, sizes: Sizes, timing: Any = google_timing, epsilon: float = 1e-12) -> None:
        self.weights, self.sizes, self.timing, self.epsilon = weights, sizes, timing, epsilon

    def logits(self, inputs: Array, targets: Array) -> Array:
        """[B, T, V]: the scores of each target, from the inputs and the targets before it."""
        seen = (inputs != 0)[:, None, :]
        memory = self._stack("encoder", self.sizes.encoder_layers, self._embedded(inputs), seen, None, seen)
        states = self._embedded(targets, shifted=True)
        states = self._stack("decoder", self.sizes.decoder_layers, states, earlier(targets.shape[1]), memory, seen)
        return states @ self.weights["embeddings/weights"].astype(np.float64).T

    def _embedded(self, ids: Array, shifted: bool = False) -> Array:
        vectors = self.weights["embeddings/weights"][ids].astype(np.float64) * math.sqrt(self.sizes.dim)
        if shifted:
            vectors = np.concatenate([np.zeros_like(vectors[:, :1]), vectors[:, :-1]], axis=1)
        return vectors + self.timing(ids.shape[1], self.sizes.dim)

    def _stack(self, side: str, layers: int, states: Array, own: Array, memory: Array | None, seen: Array) -> Array:
        for number in range(layers):
            layer = f"{side}/layer_{number}"
            states = states + self._attended(f"{layer}/self_attention", states, None, own)
            if memory is not None:
                states = states + self._attended(f"{layer}/memory_attention", states, memory, seen)
            hidden = self._dense(f"{layer}/ffn/dense", self._normed(f"{layer}/ffn", states))
            states = states + self._dense(f"{layer}/ffn/dense_1", np.maximum(hidden, 0))
        return self._normed(side, states)

    def _attended(self, name: str, states: Array, memory: Array | None, allowed: Array) -> Array:
        normed = self._normed(name, states)
        source = normed if memory is None else memory
        queries, keys, values = (
            given @ self.weights[f"{name}/{part}_proj/kernel"]
            for part, given in (("q", normed), ("k", source), ("v", source))
        )
        heads = attention(
            queries, keys, values, np.broadcast_to(allowed, (len(states), *allowed.shape[1:])), self.sizes.heads
        )
        return heads @ self.weights[f"{name}/output_proj/kernel"]

    def _normed(self, name: str, states: Array) -> Array:
        name = f"{name}/LayerNorm"
        return norm(states, self.weights[f"{name}/gamma"], self.weights[f"{name}/beta"], self.epsilon)

    def _dense(self, name: str, states: Array) -> Array:
        return states @ self.weights[f"{name}/kernel"] + self.weights[f"{name}/bias"]


# ---- ParlAI's Blender 90M


def parlai_weights(sizes: Sizes, seed: int = 0, dtype: Any = np.float32) -> Weights:
    """A state dict of ParlAI's, but for START and the copies of the embedding."""
    draw, found = Draws(seed, dtype), {}
    dim = sizes.dim
    found["embeddings.weight"] = draw.matrix(sizes.vocabulary, dim, scale=dim**-0.5)

    def linear(name: str, outer: int, inner: int) -> None:
        found[f"{name}.weight"] = draw.matrix(outer, inner, scale=inner**-0.5)
        found[f"{name}.bias"] = draw.vector(outer)

    for side, layers in (("encoder", sizes.encoder_layers), ("decoder", sizes.decoder_layers)):
        found[f"{side}.position_embeddings.weight"] = draw.matrix(sizes.positions, dim, scale=0.5)
        norms = [f"{side}.norm_embeddings"]
        attentions = ["attention"] if side == "encoder" else ["self_attention", "encoder_attention"]
        for layer in (f"{side}.layers.{number}" for number in range(layers)):
            for name in attentions:
                for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
                    linear(f"{layer}.{name}.{part}", dim, dim)
            linear(f"{layer}.ffn.lin1", sizes.ffn, dim)
            linear(f"{layer}.ffn.lin2", dim, sizes.ffn)
            norms += [f"{layer}.norm{number}" for number in range(1, len(attentions) + 2)]
        for name in norms:
            found[f"{name}.weight"] = draw.vector(dim, mean=1.0)
            found[f"{name}.bias"] = draw.vector(dim)
    return found


def parlai_options(sizes: Sizes, **overrides: Any) -> dict[str, Any]:
    return {
        "n_layers": sizes.decoder_layers, "n_encoder_layers": sizes.encoder_layers, "n_heads": sizes.heads,
        "ffn_size": sizes.ffn, "embedding_size": sizes.dim, "n_positions": sizes.positions, "variant": "xlm",
        "activation": "gelu", "output_scaling": 1.0, "n_segments": 0, "share_word_embeddings": True,
        "learn_positional_embeddings": True, "embeddings_scale": True, "dropout": 0.1, "attention_dropout": 0.0,
        "relu_dropout": 0.0, "dict_tokenizer": "bpe", "dict_lower": True, "dict_nulltoken": "__null__",
        "dict_starttoken": "__start__", "dict_endtoken": "__end__", "dict_unktoken": "__unk__", "fp16": True,
        "fp16_impl": "apex", "optimizer": "adamax", "inference": "beam", "beam_size": 10, "beam_min_length": 20,
        "beam_block_ngram": 3, "beam_context_block_ngram": 3, "beam_length_penalty": 0.65, "text_truncate": 512,
        "label_truncate": 128, "betas": [0.9, 0.999], "init_model": None, "override": {}, **overrides,
    }  # fmt: skip


def write_parlai(
    folder: Path,
    weights: Weights,
    options: dict[str, Any],
    tokens: list[str],
    merges: list[str],
    *,
    is_zip: bool = False,
    extra: dict[str, Any] | None = None,
) -> None:
    """The four files of a model: `model`, `model.opt`, `model.dict`, `model.dict.codecs`."""
    import torch

    state = {"START": torch.tensor([1])}
    for name, values in weights.items():
        state[name] = torch.from_numpy(values)
    state["encoder.embeddings.weight"] = state["decoder.embeddings.weight"] = state["embeddings.weight"]
    training: dict[str, Any] = {
        "number_training_updates": 1000, "optimizer_type": "adamax", "lr_scheduler_type": "invsqrt",
        "lr_scheduler": {"base_lrs": [7.5e-06], "last_epoch": 1000},
        "warmup_scheduler": {"last_epoch": 100, "lr_lambdas": [None]},
    }  # fmt: skip
    content = {"model": state, **training, **(extra or {})}
    torch.save(content, folder / "model", _use_new_zipfile_serialization=is_zip)
    (folder / "model.opt").write_text(json.dumps(options, indent=4), encoding="utf-8")
    lines = [f"{token}\t{10 * len(tokens) - place}\n" for place, token in enumerate(tokens)]
    (folder / "model.dict").write_text("".join(lines), encoding="utf-8")
    (folder / "model.dict.codecs").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def optimizer_state(module: str = "parlai.utils.fp16") -> dict[str, Any]:
    """What ParlAI's memory-efficient optimizer saves: an object of a class of its own among the numbers.

    The class is there while the file is written, and has to be forgotten after: `forget(module)`.
    """
    scaler = type("DynamicLossScaler", (), {"__module__": module})
    for name in packages(module):
        sys.modules[name] = ModuleType(name)
    vars(sys.modules[module])["DynamicLossScaler"] = scaler
    found = scaler()
    found.loss_scale = 2.0**15
    return {"optimizer": {"state": {}, "param_groups": [{"lr": 7.5e-06, "params": [0, 1]}], "loss_scaler": found}}


def forget(module: str = "parlai.utils.fp16") -> None:
    for name in packages(module):
        del sys.modules[name]


def packages(module: str) -> list[str]:
    """A module and all that it lies in: "a", "a.b", "a.b.c"."""
    steps = module.split(".")
    return [".".join(steps[: end + 1]) for end in range(len(steps))]


class ParlaiBlender:
    """Encoder and decoder in float64, variant xlm: the encoder norms token and position together, the decoder the
    token alone; norms after each sum."""

    epsilon = 1e-5

    def __init__(self, weights: Weights, sizes: Sizes) -> None:
        self.weights, self.sizes = weights, sizes

    def logits(self, inputs: Array, replies: Array) -> Array:
        """[B, T, V]: the scores of what comes after each token of the replies, which begin with __start__."""
        mask = inputs != 0
        vectors = self._tokens(inputs) + self._positions("encoder", inputs.shape[1])
        states = self._normed("encoder.norm_embeddings", vectors) * mask[..., None]
        for number in range(self.sizes.encoder_layers):
            layer = f"encoder.layers.{number}"
            attended = self._attended(f"{layer}.attention", states, states, mask[:, None])
            states = self._normed(f"{layer}.norm1", states + attended)
            states = self._normed(f"{layer}.norm2", states + self._ffn(layer, states)) * mask[..., None]
        memory = states
        states = self._normed("decoder.norm_embeddings", self._tokens(replies))
        states = states + self._positions("decoder", replies.shape[1])
        own = np.broadcast_to(earlier(replies.shape[1]), (len(replies), replies.shape[1], replies.shape[1]))
        for number in range(self.sizes.decoder_layers):
            layer = f"decoder.layers.{number}"
            attended = self._attended(f"{layer}.self_attention", states, states, own)
            states = self._normed(f"{layer}.norm1", states + attended)
            attended = self._attended(f"{layer}.encoder_attention", states, memory, mask[:, None])
            states = self._normed(f"{layer}.norm2", states + attended)
            states = self._normed(f"{layer}.norm3", states + self._ffn(layer, states))
        return states @ self.weights["embeddings.weight"].astype(np.float64).T

    def _tokens(self, ids: Array) -> Array:
        return self.weights["embeddings.weight"][ids].astype(np.float64) * np.sqrt(self.sizes.dim)

    def _positions(self, side: str, length: int) -> Array:
        return self.weights[f"{side}.position_embeddings.weight"][:length].astype(np.float64)

    def _linear(self, name: str, states: Array) -> Array:
        weight, bias = (self.weights[f"{name}.{leaf}"].astype(np.float64) for leaf in ("weight", "bias"))
        return states @ weight.T + bias

    def _normed(self, name: str, states: Array) -> Array:
        return norm(states, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], self.epsilon)

    def _attended(self, name: str, states: Array, source: Array, allowed: Array) -> Array:
        queries = self._linear(f"{name}.q_lin", states)
        keys, values = self._linear(f"{name}.k_lin", source), self._linear(f"{name}.v_lin", source)
        return self._linear(f"{name}.out_lin", attention(queries, keys, values, allowed, self.sizes.heads))

    def _ffn(self, layer: str, states: Array) -> Array:
        hidden = self._linear(f"{layer}.ffn.lin1", states)
        error_function = np.vectorize(math.erf, otypes=[np.float64])
        return self._linear(f"{layer}.ffn.lin2", 0.5 * hidden * (1 + error_function(hidden / math.sqrt(2))))


class ParlaiDictionary:
    """ParlAI's way from text to ids: words and single marks, subword-nmt's merges, a line's number for each piece."""

    def __init__(self, folder: Path) -> None:
        lines = (folder / "model.dict").read_text(encoding="utf-8").splitlines()
        self.ids = {line.split("\t")[0]: number for number, line in enumerate(lines)}
        merges = (folder / "model.dict.codecs").read_text(encoding="utf-8").splitlines()[1:]
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in reversed(list(enumerate(merges)))}

    def encode(self, text: str) -> list[int]:
        words = re.findall(r"\w+|[^\w\s]", text.lower().replace("\n", " __newln__ "))
        pieces = [piece for word in words for piece in self._pieces(word)]
        return [self.ids.get(piece, self.ids["__unk__"]) for piece in pieces]

    def _pieces(self, word: str) -> list[str]:
        if len(word) == 1:
            return [word]
        symbols = (*word[:-1], f"{word[-1]}</w>")
        while len(symbols) > 1:
            pairs = [pair for pair in pairwise(symbols) if pair in self.ranks]
            if not pairs:
                break
            best = min(pairs, key=lambda pair: self.ranks[pair])
            merged: list[str] = []
            for symbol in symbols:
                if merged and (merged[-1], symbol) == best:
                    merged[-1] += symbol
                else:
                    merged.append(symbol)
            symbols = tuple(merged)
        return [*(f"{symbol}@@" for symbol in symbols[:-1]), symbols[-1].removesuffix("</w>")]
