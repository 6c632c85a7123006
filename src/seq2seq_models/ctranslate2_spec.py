"""A checkpoint as a CTranslate2 model: both families, from canonical weights, without transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .core.architecture import LAYER_NORM_EPSILON
from .core.parameters import FINAL_LOGITS_BIAS, LM_HEAD, SHARED
from .errors import ConfigError, MissingFrameworkError

if TYPE_CHECKING:
    from .core.config import PretrainedConfig
    from .core.storage.stored import Stored

ACTIVATIONS = {
    "gelu": "GELU", "gelu_new": "GELUTanh", "gelu_fast": "GELUTanh", "quick_gelu": "GELUSigmoid", "relu": "RELU",
    "silu": "SWISH", "swish": "SWISH", "tanh": "Tanh", "sigmoid": "Sigmoid",
}  # fmt: skip
"""Our names and CTranslate2's; it has no "linear"."""


def write_ctranslate2(
    weights: Mapping[str, Stored], config: PretrainedConfig, words: Sequence[str], start: int, end: int, folder: Path
) -> None:
    """Writes what `ctranslate2.Translator(folder)` loads, in float32; it can compute in others when it is loaded.

    Args:
        weights: by canonical name, float32, of a conditional model.
        config: of the model.
        words: its vocabulary in the order of the ids.
        start, end: the ids that a decoded sequence begins and ends with.
        folder: made.

    Raises:
        ConfigError: CTranslate2 has no such activation, or two ids have the same word.
        MissingFrameworkError: ctranslate2 is not installed.
    """
    try:
        from ctranslate2.specs import transformer_spec
    except ImportError as error:
        raise MissingFrameworkError(
            "export to CTranslate2 needs ctranslate2. Install it: pip install 'seq2seq-models[export]'"
        ) from error
    if len(set(words)) < len(words):
        twice = sorted({word for word in words if words.count(word) > 1})[:3]
        raise ConfigError(
            f"The words of a vocabulary must differ, got {', '.join(twice)} for several ids (CTranslate2)."
        )
    reader = _Reader(weights, config)
    spec = transformer_spec.TransformerSpec(reader.stack("encoder"), reader.stack("decoder"))
    spec.register_source_vocabulary(list(words))
    spec.register_target_vocabulary(list(words))
    spec.config.bos_token = spec.config.decoder_start_token = words[start]
    spec.config.eos_token = words[end]
    spec.config.unk_token = next((word for word in ("<unk>", "__unk__") if word in words), words[start])
    spec.validate()
    spec.optimize()
    folder.mkdir()
    spec.save(str(folder))


class _Reader:
    """Reads weights into the parts of a CTranslate2 model."""

    def __init__(self, weights: Mapping[str, Stored], config: PretrainedConfig) -> None:
        from ctranslate2.specs import common_spec

        name = ACTIVATIONS.get(config.activation_function)
        if name is None:
            raise ConfigError(
                f"`activation_function` must be one of {', '.join(ACTIVATIONS)}, got {config.activation_function!r} "
                "(CTranslate2). Serve this model in another format."
            )
        self.weights, self.config, self.activation = weights, config, common_spec.Activation[name]

    def stack(self, side: str) -> Any:
        """The encoder or the decoder."""
        from ctranslate2.specs import transformer_spec

        config, architecture, prefix = self.config, self.config.architecture, f"model.{side}"
        is_decoder = side == "decoder"
        kind = transformer_spec.TransformerDecoderSpec if is_decoder else transformer_spec.TransformerEncoderSpec
        # CTranslate2 norms token + position in both; a decoder that norms the token alone has that done beforehand.
        norms_sum = architecture.embedding_norm and not is_decoder
        spec = kind(
            getattr(config, f"{side}_layers"),
            getattr(config, f"{side}_attention_heads"),
            pre_norm=architecture.norm == "pre",
            activation=self.activation,
            layernorm_embedding=norms_sum,
        )
        scale = config.d_model**0.5 if config.scale_embedding else 1.0
        table = self.read(SHARED)
        if is_decoder and architecture.embedding_norm:
            table = self._normed(table * table.dtype.type(scale), f"{prefix}.layernorm_embedding")
            spec.scale_embeddings = False
        else:
            spec.scale_embeddings = config.scale_embedding
        embeddings = spec.embeddings if is_decoder else spec.embeddings[0]
        embeddings.weight = table
        spec.position_encodings.encodings = self.read(f"{prefix}.embed_positions.weight")
        if norms_sum:
            self.norm(spec.layernorm_embedding, f"{prefix}.layernorm_embedding")
        if architecture.final_norm:
            self.norm(spec.layer_norm, f"{prefix}.layer_norm")
        for index, layer in enumerate(spec.layer):
            self.layer(layer, f"{prefix}.layers.{index}", is_decoder)
        if is_decoder:
            spec.projection.weight = self.read(LM_HEAD if LM_HEAD in self.weights else SHARED)
            bias = self.read(FINAL_LOGITS_BIAS).reshape(-1)
            if bias.any():
                spec.projection.bias = bias
        return spec

    def layer(self, spec: Any, name: str, is_decoder: bool) -> None:
        """Attentions, feed-forward and their norms."""
        self.linear(spec.self_attention.linear[0], *(f"{name}.self_attn.{one}_proj" for one in "qkv"))
        self.linear(spec.self_attention.linear[1], f"{name}.self_attn.out_proj")
        self.norm(spec.self_attention.layer_norm, f"{name}.self_attn_layer_norm")
        if is_decoder:
            self.linear(spec.attention.linear[0], f"{name}.encoder_attn.q_proj")
            self.linear(spec.attention.linear[1], *(f"{name}.encoder_attn.{one}_proj" for one in "kv"))
            self.linear(spec.attention.linear[2], f"{name}.encoder_attn.out_proj")
            self.norm(spec.attention.layer_norm, f"{name}.encoder_attn_layer_norm")
        self.linear(spec.ffn.linear_0, f"{name}.fc1")
        self.linear(spec.ffn.linear_1, f"{name}.fc2")
        self.norm(spec.ffn.layer_norm, f"{name}.final_layer_norm")

    def linear(self, spec: Any, *names: str) -> None:
        """One product in the place of several: their outputs side by side."""
        import numpy as np

        spec.weight = np.concatenate([self.read(f"{name}.weight") for name in names])
        spec.bias = np.concatenate([self.read(f"{name}.bias") for name in names])

    def norm(self, spec: Any, name: str) -> None:
        """A layer norm; CTranslate2's epsilon is the checkpoints'."""
        spec.gamma, spec.beta = self.read(f"{name}.weight"), self.read(f"{name}.bias")

    def read(self, name: str) -> Any:
        """A weight, float32."""
        return self.weights[name].read()

    def _normed(self, table: Any, name: str) -> Any:
        mean, variance = table.mean(-1, keepdims=True), table.var(-1, keepdims=True)
        weight, bias = self.read(f"{name}.weight"), self.read(f"{name}.bias")
        return ((table - mean) / (variance + LAYER_NORM_EPSILON) ** 0.5 * weight + bias).astype(table.dtype)
