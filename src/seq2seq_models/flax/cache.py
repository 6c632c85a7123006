"""Decoder key/value caches: entries of a fixed length, and the dict that `init_cache` gives users.

Entries are a tuple over the decoder's layers of keys and values, each [B, H, L, K]. The cross-attention's belong to the
input, not to the beam: they keep B rows while the self-attention's have B * beams, and are never reordered.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from ..core.config import PretrainedConfig
from ..errors import InputError
from .attention import Entry

Entries = tuple[Entry, ...]


def entries(config: PretrainedConfig, rows: int, length: int, dtype: Any) -> Entries:
    """Zeros for every layer, keys and values [rows, H, length, K].

    Args:
        config: of the model.
        rows: R = B * beams.
        length: tokens there is room for, L.
        dtype: of the computation.
    """
    heads = config.decoder_attention_heads
    shape = (rows, heads, length, config.d_model // heads)
    return tuple((jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(config.decoder_layers))


def to_dict(cache: Entries, index: Array | int, path: tuple[str, ...]) -> dict[str, Any]:
    """The cache as users hold it: a dict with transformers' names and layout, keys and values [B, L, H, K].

    Args:
        cache: the self-attention's entries.
        index: number of tokens in it, int32.
        path: where the decoder stands in the model: ("decoder",) or ("model", "decoder").
    """
    tree: dict[str, Any] = {
        "layers": {
            str(number): {
                "self_attn": {
                    "cached_key": keys.swapaxes(1, 2),
                    "cached_value": values.swapaxes(1, 2),
                    "cache_index": jnp.asarray(index, jnp.int32),
                }
            }
            for number, (keys, values) in enumerate(cache)
        }
    }
    for name in reversed(path):
        tree = {name: tree}
    return tree


def from_dict(tree: Any, path: tuple[str, ...], config: PretrainedConfig) -> tuple[Entries, Array]:
    """Entries and the number of tokens in them, of a dict that `init_cache` or an earlier call gave.

    Raises:
        InputError: it is no such dict.
    """
    wanted = "/".join((*path, "layers", "<number>", "self_attn", "cached_key"))
    try:
        for name in (*path, "layers"):
            tree = tree[name]
        held = [tree[str(number)]["self_attn"] for number in range(config.decoder_layers)]
        found = tuple((layer["cached_key"].swapaxes(1, 2), layer["cached_value"].swapaxes(1, 2)) for layer in held)
        return found, jnp.asarray(held[0]["cache_index"], jnp.int32)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"`past_key_values` must be the dict that `init_cache` gives, with {wanted} for each of "
            f"{config.decoder_layers} layers; got {type(tree).__name__} without {error}."
        ) from error
