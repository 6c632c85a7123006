"""The configs of the two model families, and where to find the one for a `model_type`."""

from __future__ import annotations

from typing import Any, ClassVar

from ..errors import ConfigError
from .settings.pretrained_config import PretrainedConfig

__all__ = [
    "CONFIG_CLASSES",
    "BlenderbotSmallConfig",
    "PegasusConfig",
    "PretrainedConfig",
    "Seq2SeqConfig",
    "config_class",
    "config_of",
]


class Seq2SeqConfig(PretrainedConfig):
    """The keys that the two families share; their classes give the defaults.

    Args:
        vocab_size: number V of token ids.
        max_position_embeddings: longest input and longest output P, in tokens.
        encoder_layers: number of encoder layers, also read as `num_hidden_layers`.
        encoder_ffn_dim: width F of the encoder's feed-forward layers.
        encoder_attention_heads: attention heads H of an encoder layer, also read as `num_attention_heads`.
        decoder_layers: number of decoder layers.
        decoder_ffn_dim: width F of the decoder's feed-forward layers.
        decoder_attention_heads: attention heads H of a decoder layer.
        encoder_layerdrop: in training, the probability of leaving out an encoder layer.
        decoder_layerdrop: in training, the probability of leaving out a decoder layer.
        use_cache: the decoder returns keys and values for the next step.
        is_encoder_decoder: whether the model has both halves.
        activation_function: of the feed-forward layers: "gelu", "relu", "silu", "gelu_new", ...
        d_model: width D of all hidden states, also read as `hidden_size`.
        dropout: in training, the probability of zeroing a value of an embedding or a sublayer's output.
        attention_dropout: the same for attention weights.
        activation_dropout: the same inside feed-forward layers.
        init_std: standard deviation of freshly drawn weights.
        decoder_start_token_id: id the decoder starts with.
        scale_embedding: multiply token embeddings by the square root of `d_model`.
        pad_token_id: id of the token that fills a sequence up.
        eos_token_id: id of the token that ends a sequence, or a list of them.
        forced_eos_token_id: id that the last token of an output of `max_length` is forced to be.
        **kwargs: any other key; see `PretrainedConfig`.
    """

    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {
        "num_attention_heads": "encoder_attention_heads",
        "hidden_size": "d_model",
    }

    vocab_size: int
    max_position_embeddings: int
    encoder_layers: int
    encoder_ffn_dim: int
    encoder_attention_heads: int
    decoder_layers: int
    decoder_ffn_dim: int
    decoder_attention_heads: int
    encoder_layerdrop: float
    decoder_layerdrop: float
    use_cache: bool
    activation_function: str
    d_model: int
    dropout: float
    attention_dropout: float
    activation_dropout: float
    init_std: float
    scale_embedding: bool
    num_hidden_layers: int

    def _set_own(self, arguments: dict[str, Any]) -> None:
        """Takes the arguments of a family's `__init__`, as `locals()` gives them, and sets every key of the config."""
        own = {key: value for key, value in arguments.items() if key not in ("self", "kwargs", "__class__")}
        for key in [key for key in own if key in Seq2SeqConfig.__annotations__]:
            setattr(self, key, own.pop(key))
        self.num_hidden_layers = self.encoder_layers
        PretrainedConfig.__init__(self, **own, **arguments["kwargs"])


class PegasusConfig(Seq2SeqConfig):
    """The config of a Pegasus model. The defaults give 12 layers a side, not the 16 of the hub's checkpoints.

    The arguments are those of `Seq2SeqConfig`.

    Source: Zhang et al. 2020, "PEGASUS: Pre-training with Extracted Gap-sentences for Abstractive Summarization".
    """

    model_type = "pegasus"

    def __init__(
        self,
        vocab_size: int = 50265,
        max_position_embeddings: int = 1024,
        encoder_layers: int = 12,
        encoder_ffn_dim: int = 4096,
        encoder_attention_heads: int = 16,
        decoder_layers: int = 12,
        decoder_ffn_dim: int = 4096,
        decoder_attention_heads: int = 16,
        encoder_layerdrop: float = 0.0,
        decoder_layerdrop: float = 0.0,
        use_cache: bool = True,
        is_encoder_decoder: bool = True,
        activation_function: str = "gelu",
        d_model: int = 1024,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        init_std: float = 0.02,
        decoder_start_token_id: int | None = 0,
        scale_embedding: bool = False,
        pad_token_id: int | None = 0,
        eos_token_id: int | list[int] | None = 1,
        forced_eos_token_id: int | list[int] | None = 1,
        **kwargs: Any,
    ) -> None:
        self._set_own(locals())


class BlenderbotSmallConfig(Seq2SeqConfig):
    """The config of a BlenderbotSmall model. The defaults are the shape of facebook/blenderbot_small-90M.

    The arguments are those of `Seq2SeqConfig`, and `bos_token_id`, the id of the token that begins a sequence.

    Source: Roller et al. 2020, "Recipes for building an open-domain chatbot".
    """

    model_type = "blenderbot-small"

    def __init__(
        self,
        vocab_size: int = 50265,
        max_position_embeddings: int = 512,
        encoder_layers: int = 8,
        encoder_ffn_dim: int = 2048,
        encoder_attention_heads: int = 16,
        decoder_layers: int = 8,
        decoder_ffn_dim: int = 2048,
        decoder_attention_heads: int = 16,
        encoder_layerdrop: float = 0.0,
        decoder_layerdrop: float = 0.0,
        use_cache: bool = True,
        is_encoder_decoder: bool = True,
        activation_function: str = "gelu",
        d_model: int = 512,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        init_std: float = 0.02,
        decoder_start_token_id: int | None = 1,
        scale_embedding: bool = False,
        pad_token_id: int | None = 0,
        bos_token_id: int | None = 1,
        eos_token_id: int | list[int] | None = 2,
        forced_eos_token_id: int | list[int] | None = 2,
        **kwargs: Any,
    ) -> None:
        self._set_own(locals())


CONFIG_CLASSES: dict[str, type[Seq2SeqConfig]] = {
    config.model_type: config for config in (PegasusConfig, BlenderbotSmallConfig)
}
"""The config class of every family, by `model_type`."""


def config_class(model_type: Any) -> type[Seq2SeqConfig]:
    """The config class of a `model_type`.

    Raises:
        ConfigError: it is of neither family.
    """
    if model_type not in CONFIG_CLASSES:
        raise ConfigError(
            f"`model_type` must be one of {', '.join(map(repr, CONFIG_CLASSES))}, got {model_type!r}. "
            "This library holds these two families only."
        )
    return CONFIG_CLASSES[model_type]


def config_of(pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
    """The config of a checkpoint, of the class of its family; arguments and errors as `AutoConfig.from_pretrained`."""
    found, _ = PretrainedConfig.get_config_dict(pretrained_model_name_or_path, **dict(kwargs))
    return config_class(found.get("model_type")).from_pretrained(pretrained_model_name_or_path, **kwargs)
