"""The contract of all loading: a config says every weight of a model, by canonical name, shape, kind and tie.

Canonical names are the hub's PyTorch state-dict names of the conditional-generation model. Readers turn any file into
canonical names, adapters turn canonical names into one framework's variables; both meet here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .config import PretrainedConfig

Kind = Literal["linear", "norm", "embedding", "table", "plain"]
Head = Literal["base", "conditional", "causal", "encoder", "decoder"]
HEADS: dict[str, Head] = {"ForConditionalGeneration": "conditional", "ForCausalLM": "causal", "Model": "base"}
"""What a class is called after its family, and its head."""

PREFIXES: dict[str | None, str] = {"base": "model.", "encoder": "model.encoder.", "decoder": "model.decoder."}
"""What canonical names begin with that names in a file of these models do not."""

STACK_PARTS = ("embed_tokens", "embed_positions", "layers", "layer_norm", "layernorm_embedding")
"""The parts of an encoder and of a decoder."""

SHARED = "model.shared.weight"
LM_HEAD = "lm_head.weight"
FINAL_LOGITS_BIAS = "final_logits_bias"


@dataclass(frozen=True)
class Parameter:
    """One weight of a model.

    Attributes:
        name: canonical name, such as "model.encoder.layers.0.fc1.weight".
        shape: in PyTorch's order; a linear weight is [out, in].
        kind: "linear" (transposed in TensorFlow and Flax), "norm", "embedding", "table" (positions), "plain".
        tied_to: canonical name of the weight whose data this one shares; it holds none of its own.
        optional: a checkpoint may lack it without being incomplete: it is computed (sinusoids) or zero (the bias).
        trainable: whether gradients reach it.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    tied_to: str | None = None
    optional: bool = False
    trainable: bool = True


def parameters(config: PretrainedConfig, head: Head = "conditional") -> tuple[Parameter, ...]:
    """Every weight of a model with this config and head, ties included, in the order PyTorch lists them.

    Args:
        config: a Pegasus or BlenderbotSmall config.
        head: "base" (encoder and decoder), "conditional" (with the language-modelling head), "causal" (decoder and head
            only), "encoder" or "decoder" (one of them alone). The embedding of what has no shared one is its own; a
            full checkpoint holds it as the shared one.
    """
    found = list(_embeddings(config, head))
    if head not in ("causal", "decoder"):
        found += _stack(config, "encoder")
    if head != "encoder":
        found += _stack(config, "decoder")
    if head == "conditional":
        found.append(Parameter(FINAL_LOGITS_BIAS, (1, config.vocab_size), "plain", optional=True, trainable=False))
    if head in ("conditional", "causal"):
        source = "model.decoder.embed_tokens.weight" if head == "causal" else SHARED
        tie = source if config.tie_word_embeddings else None
        found.append(Parameter(LM_HEAD, (config.vocab_size, config.d_model), "linear", tied_to=tie))
    return tuple(found)


def several(names: Iterable[str]) -> str:
    """For a message: the first three names, and how many more there are."""
    found = sorted(names)
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _embeddings(config: PretrainedConfig, head: Head) -> Iterator[Parameter]:
    shape = (config.vocab_size, config.d_model)
    if head in ("causal", "encoder", "decoder"):
        side = "encoder" if head == "encoder" else "decoder"
        yield Parameter(f"model.{side}.embed_tokens.weight", shape, "embedding")
        return
    yield Parameter(SHARED, shape, "embedding")
    for side in ("encoder", "decoder"):
        yield Parameter(f"model.{side}.embed_tokens.weight", shape, "embedding", tied_to=SHARED)


def _stack(config: PretrainedConfig, side: Literal["encoder", "decoder"]) -> Iterator[Parameter]:
    architecture, prefix, dim = config.architecture, f"model.{side}", config.d_model
    computed = architecture.positions == "sinusoidal"
    yield Parameter(
        f"{prefix}.embed_positions.weight",
        (config.max_position_embeddings, dim),
        "table",
        optional=computed,
        trainable=not computed,
    )
    layers, ffn = (
        (config.encoder_layers, config.encoder_ffn_dim)
        if side == "encoder"
        else (config.decoder_layers, config.decoder_ffn_dim)
    )
    # A decoder without cross-attention (CausalLM with add_cross_attention=False) still holds the weights, as upstream.
    attentions = ("self_attn",) if side == "encoder" else ("self_attn", "encoder_attn")
    for index in range(layers):
        layer = f"{prefix}.layers.{index}"
        for attention in attentions:
            for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
                yield from _linear(f"{layer}.{attention}.{projection}", dim, dim)
            yield from _norm(f"{layer}.{attention}_layer_norm", dim)
        yield from _linear(f"{layer}.fc1", ffn, dim)
        yield from _linear(f"{layer}.fc2", dim, ffn)
        yield from _norm(f"{layer}.final_layer_norm", dim)
    if architecture.final_norm:
        yield from _norm(f"{prefix}.layer_norm", dim)
    if architecture.embedding_norm:
        yield from _norm(f"{prefix}.layernorm_embedding", dim)


def _linear(name: str, out_dim: int, in_dim: int) -> Iterator[Parameter]:
    yield Parameter(f"{name}.weight", (out_dim, in_dim), "linear")
    yield Parameter(f"{name}.bias", (out_dim,), "linear")


def _norm(name: str, dim: int) -> Iterator[Parameter]:
    yield Parameter(f"{name}.weight", (dim,), "norm")
    yield Parameter(f"{name}.bias", (dim,), "norm")
