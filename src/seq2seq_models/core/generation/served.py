"""What is exported of a model that generates: three functions of arrays, for frameworks whose shapes may be symbols.

Letters in shapes: B inputs, S source, T tokens, L places of the cache, N decoder layers, H heads, K per head, D model,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import GenerationError
from ..decoding import Plan, plan
from ..generation_config import GenerationConfig
from ..generation_rules import tokens_of
from ..settings.generation_options import GenerationMode
from ..strategies import ask
from .arrays import Array, Arrays
from .decoder import Entries, StaticDecoder, Steps
from .preparation import prepare
from .run import Inputs, run, source_mask
from .task import Numbers, Settings

if TYPE_CHECKING:
    from ..config import PretrainedConfig

FUNCTIONS = {
    "encode": (("input_ids", "attention_mask"), ("encoder_last_hidden_state", "cross_keys", "cross_values")),
    "decode_step": (
        (
            "decoder_input_ids",
            "start",
            "attention_mask",
            "cross_keys",
            "cross_values",
            "cache_keys",
            "cache_values",
        ),
        ("logits", "cache_keys", "cache_values"),
    ),
    "generate": (("input_ids", "attention_mask"), ("sequences",)),
}
"""The functions, in every format, and the names of what they take and give, in this order."""

ON_HOST = ("max_time", "stop_strings", "do_sample", "return_dict_in_generate", "prompt_lookup_num_tokens")
"""Options that need something outside of a compiled loop: a clock, a tokenizer, random numbers, records of steps."""


def encode(xp: Arrays, steps: Steps, input_ids: Array, attention_mask: Array) -> dict[str, Array]:
    """The encoder's states [B, S, D] and the keys and values that `decode_step` attends to, each [N, B, H, S, K].

    Args:
        xp: the array namespace.
        steps: the model.
        input_ids, attention_mask: int32 [B, S]; 1/0, 0 where the source is padding.
    """
    memory = steps.encode(input_ids, None, _mask(xp, steps, attention_mask))
    keys, values = _stacked(xp, steps.cross_entries(memory))
    return {"encoder_last_hidden_state": memory, "cross_keys": keys, "cross_values": values}


def decode_step(
    xp: Arrays,
    steps: Steps,
    decoder_input_ids: Array,
    start: Array,
    attention_mask: Array,
    cross_keys: Array,
    cross_values: Array,
    cache_keys: Array,
    cache_values: Array,
) -> dict[str, Array]:
    """Logits [B, T, V] of new tokens, and the cache with them in it.

    Args:
        xp: the array namespace.
        steps: the model.
        decoder_input_ids: int32 [B, T], the tokens that are not in the cache yet.
        start: int32 scalar, how many are.
        attention_mask: int32 [B, S], the source's.
        cross_keys, cross_values: from `encode`.
        cache_keys, cache_values: [N, B, H, L, K], zeros at first; L is the most tokens there can be.
    """
    cross, mask = _entries(cross_keys, cross_values), _mask(xp, steps, attention_mask)
    decoder = StaticDecoder(xp, xp, steps, decoder_input_ids.shape[0], cache_keys.shape[3], cross, mask, None)
    hidden, cache, _ = decoder.read(decoder_input_ids, start, _entries(cache_keys, cache_values))
    keys, values = _stacked(xp, cache)
    return {"logits": decoder.logits(hidden), "cache_keys": keys, "cache_values": values}


def generate(
    xp: Arrays, steps: Steps, resolved: tuple[GenerationConfig, GenerationMode], model_config: PretrainedConfig,
    input_ids: Array, attention_mask: Array,
) -> dict[str, Array]:  # fmt: skip
    """Generated token ids, int32 [B * num_return_sequences, max_length], padded after their end.

    Args:
        xp: the array namespace.
        steps: the model.
        resolved: from `settled`.
        model_config: of the model.
        input_ids, attention_mask: int32 [B, S].
    """
    config, mode = resolved
    decoding = plan(config, model_config, 1, max_length_given=True, source=input_ids)
    settings, numbers = _prepared(xp, decoding, mode, model_config.max_position_embeddings, input_ids)
    start = config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id
    first = xp.full((input_ids.shape[0], 1), tokens_of(start)[0], "int32")
    rest = xp.full((input_ids.shape[0], settings.width - 1), decoding.pad, "int32")
    inputs = Inputs(input_ids, None, None, attention_mask, xp.concat([first, rest], 1), None)
    return {"sequences": run(xp, steps, settings, numbers, inputs).sequences[:, : decoding.max_length]}


def settled(own: GenerationConfig, options: Mapping[str, Any]) -> tuple[GenerationConfig, GenerationMode]:
    """The generation config of an exported `generate`, and its strategy.

    Args:
        own: the model's.
        options: what is to be otherwise.

    Raises:
        GenerationError: for options that are unknown, out of range or contradictory, or that nothing compiled can do.
    """
    config: Any
    config, _, mode = ask(own, None, dict(options), is_encoder_decoder=True)
    asked = [name for name in ON_HOST if getattr(config, name)]
    if asked:
        found = ", ".join(f"`{name}`" for name in asked)
        raise GenerationError(f"{found} must be unset in a model that is exported. Leave them out, or loop over steps.")
    if config.decoder_start_token_id is None and config.bos_token_id is None:
        raise GenerationError("`decoder_start_token_id` (or `bos_token_id`) must be set to begin with, got neither.")
    if config.max_length is None and config.max_new_tokens is None:
        config.max_length = 1 + (GenerationConfig().max_length or 20)
    return config, mode


def _prepared(
    xp: Arrays, decoding: Plan, mode: GenerationMode, positions: int, source: Array
) -> tuple[Settings, Numbers]:
    """Settings and numbers of the loop, the numbers as arrays: what is known when it is compiled is constant there."""
    settings, numbers = prepare(decoding, mode, positions, (), 0)

    def one(number: int | float) -> Array:
        return xp.full((), number, "int32" if isinstance(number, int) else "float32")

    length = xp.full((), source.shape[1], "int32")
    # Wider by a rule's window: whether a source of unknown length has room for one is not to be asked.
    size = decoding.config.encoder_no_repeat_ngram_size or 0
    wider = xp.concat([xp.cast(source, "int32"), xp.full((source.shape[0], size), 0, "int32")], 1)
    return settings, replace(
        numbers,
        max_length=one(numbers.max_length),
        prompt_length=one(numbers.prompt_length),
        memory_length=length,
        source_length=length,
        source=None if numbers.source is None else wider,
        rules=tuple(tuple(map(one, held)) for held in numbers.rules),
        late_rules=tuple(tuple(map(one, held)) for held in numbers.late_rules),
        penalties=xp.asarray(numbers.penalties, "float32"),
        alpha=None if numbers.alpha is None else one(float(numbers.alpha)),
    )


def _mask(xp: Arrays, steps: Steps, attention_mask: Array) -> Array:
    return source_mask(xp, attention_mask, attention_mask.shape[1], steps.dtype)


def _entries(keys: Array, values: Array) -> Entries:
    return tuple((keys[index], values[index]) for index in range(keys.shape[0]))


def _stacked(xp: Arrays, entries: Entries) -> tuple[Array, Array]:
    return xp.stack([keys for keys, _ in entries], 0), xp.stack([values for _, values in entries], 0)
