"""The rules a config must keep so that a model can be built from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..architecture import ACTIVATIONS
from .validity import Rule, flag, is_whole, one_of, or_none, real, token_id, whole

if TYPE_CHECKING:
    from .pretrained_config import PretrainedConfig

DTYPES = ("float32", "float16", "bfloat16", "float64")
"""The dtypes a config may name for its weights."""

_SIZES = (
    "vocab_size",
    "max_position_embeddings",
    "d_model",
    "encoder_layers",
    "encoder_ffn_dim",
    "encoder_attention_heads",
    "decoder_layers",
    "decoder_ffn_dim",
    "decoder_attention_heads",
)
_SHARES = ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop")
_FLAGS = (
    "scale_embedding",
    "use_cache",
    "is_encoder_decoder",
    "is_decoder",
    "add_cross_attention",
    "tie_word_embeddings",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
)
_TOKENS = ("bos_token_id", "pad_token_id", "sep_token_id", "unk_token_id", "forced_bos_token_id")
_TOKEN_LISTS = ("eos_token_id", "decoder_start_token_id", "forced_eos_token_id")

RULES: dict[str, Rule] = {
    **dict.fromkeys(_SIZES, whole(1)),
    **dict.fromkeys(_SHARES, real(0, 1)),
    **dict.fromkeys(_FLAGS, or_none(flag())),
    "init_std": real(0),
    "activation_function": one_of(ACTIVATIONS),
    "dtype": or_none(one_of(("auto", *DTYPES))),
    "tie_encoder_decoder": Rule("false: encoder and decoder have weights of their own here", lambda value: not value),
    "pruned_heads": Rule("empty: attention heads cannot be pruned here", lambda value: not value),
}
"""Per key of a config, what its value must be; a config without the key does not need it."""


def config_faults(config: PretrainedConfig) -> list[str]:
    """What stands in the way of building a model, one line per key; empty if nothing does."""
    values = vars(config)
    found = [rule.fault(key, values[key]) for key, rule in RULES.items() if key in values]
    return [*filter(None, found), *_head_faults(values), *_token_faults(values)]


def _head_faults(values: dict[str, Any]) -> Iterator[str]:
    width = values.get("d_model")
    for key in ("encoder_attention_heads", "decoder_attention_heads"):
        heads = values.get(key)
        if is_whole(width) and is_whole(heads) and width > 0 and heads > 0 and width % heads:
            yield f"`{key}` must be a divisor of `d_model` = {width}, got {heads}"


def _token_faults(values: dict[str, Any]) -> Iterator[str]:
    size = values.get("vocab_size")
    below = size if is_whole(size) and size > 0 else None
    for keys, rule in ((_TOKENS, token_id(below)), (_TOKEN_LISTS, token_id(below, several=True))):
        for key in keys:
            value = values.get(key)
            fault = None if value is None else rule.fault(key, value)
            if fault is not None:
                yield fault
