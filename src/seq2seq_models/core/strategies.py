"""Which strategy a call of `generate` asks for, and which options do not go with it, for all frameworks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import GenerationError, InputError
from .decoding import CAUSAL_INPUTS, ENCODER_DECODER_INPUTS, resolve
from .settings.generation_options import GenerationMode
from .settings.validity import message

if TYPE_CHECKING:
    from .generation_config import GenerationConfig

ASSISTANT_OPTIONS = ("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold")
"""Options without effect unless there is an `assistant_model`."""


@dataclass(frozen=True)
class AssistantOptions:
    """How an assistant drafts.

    Attributes:
        tokens: number of tokens drafted at once, to begin with.
        schedule: "constant", or "heuristic": 2 more after a draft that was right throughout, 1 less after any other;
            "heuristic" keeps the number for the next call, "heuristic_transient" does not.
        threshold: a draft ends after a token that the assistant gives less probability than this.
        is_own: the number comes from the assistant's own generation config, which then keeps it.
    """

    tokens: int
    schedule: str
    threshold: float
    is_own: bool


def ask(
    own: GenerationConfig,
    given: GenerationConfig | None,
    options: dict[str, Any],
    *,
    is_encoder_decoder: bool,
    inputs: Any = None,
    assistant: Any = None,
    streamer: Any = None,
    tokenizer: Any = None,
    more_inputs: frozenset[str] = frozenset(),
) -> tuple[GenerationConfig, dict[str, Any], GenerationMode]:
    """What a call of `generate` asks for: its configuration, the model's inputs by name, and the strategy.

    Args:
        own: the model's generation configuration.
        given: the `generation_config` argument.
        options: all further keyword arguments.
        is_encoder_decoder: which inputs the model has.
        inputs: the `inputs` argument, the same as `input_ids`.
        assistant, streamer, tokenizer: of this call, if any.
        more_inputs: arguments of the model beyond those of its family.

    Raises:
        GenerationError: for options that are unknown, out of range, contradictory or not supported, all of them named.
        InputError: for both `inputs` and `input_ids`.
    """
    names = (ENCODER_DECODER_INPUTS if is_encoder_decoder else CAUSAL_INPUTS) | more_inputs
    config, found = resolve(own, given, options, names)
    mode = strategy(config, options, assistant=assistant, streamer=streamer)
    if config.stop_strings is not None and tokenizer is None:
        raise GenerationError("`stop_strings` needs `tokenizer`, got none. Pass the model's tokenizer to `generate`.")
    if inputs is not None:
        if found.get("input_ids") is not None:
            raise InputError("`inputs` and `input_ids` are the same thing, got both. Pass one of them.")
        found["input_ids"] = inputs
    return config, found, mode


def strategy(
    config: GenerationConfig, keywords: Iterable[str] = (), *, assistant: Any = None, streamer: Any = None
) -> GenerationMode:
    """The strategy that a resolved configuration asks for.

    Args:
        config: as `resolve` returned it.
        keywords: names of the options that this call itself gave.
        assistant: the smaller model that drafts, if any.
        streamer: the streamer of this call, if any.

    Raises:
        GenerationError: naming the options that do not go together.
    """
    faults = [*_group_faults(config, assistant, streamer), *_contrastive_faults(config, assistant)]
    faults += [*_assistant_faults(config, set(keywords), assistant), *_lookup_faults(config, set(keywords), assistant)]
    if faults:
        raise GenerationError(message(faults, "generate", "Leave one of the two unset."))
    return config.get_generation_mode(assistant)


def _group_faults(config: GenerationConfig, assistant: Any, streamer: Any) -> Iterator[str]:
    groups = config.num_beam_groups
    if groups == 1:
        if config.diversity_penalty:
            yield f"`diversity_penalty` must be 0 with `num_beam_groups` = 1, got {config.diversity_penalty}"
        return
    if streamer is not None:
        yield f"`streamer` must be None with `num_beam_groups` = {groups}: groups are made not to agree on a prefix"
    if config.stop_strings is not None:
        yield f"`stop_strings` must be None with `num_beam_groups` = {groups}, got {config.stop_strings!r}"


def _contrastive_faults(config: GenerationConfig, assistant: Any) -> Iterator[str]:
    # Differs from transformers 4.51.3: where these options exclude each other, it leaves one of them out silently.
    alpha = config.penalty_alpha
    if not alpha:
        if config.low_memory:
            yield "`low_memory` must be unset without `penalty_alpha`, got True"
        return
    if config.num_beams > 1:
        yield f"`num_beams` must be 1 with `penalty_alpha` = {alpha}, got {config.num_beams}"
    if config.do_sample:
        yield f"`do_sample` must be false with `penalty_alpha` = {alpha}, got True"
    if (config.top_k or 0) < 2:
        yield f"`top_k` must be at least 2 with `penalty_alpha` = {alpha}, got {config.top_k}"
    if assistant is not None:
        yield f"`assistant_model` must be None with `penalty_alpha` = {alpha}"


def _assistant_faults(config: GenerationConfig, keywords: set[str], assistant: Any) -> Iterator[str]:
    if assistant is None:
        yield from (f"`{name}` must be unset without `assistant_model`" for name in keywords & set(ASSISTANT_OPTIONS))
        return
    if config.num_beams > 1:
        yield f"`assistant_model` must be None with `num_beams` = {config.num_beams}"
    if config.num_return_sequences > 1:
        yield f"`assistant_model` must be None with `num_return_sequences` = {config.num_return_sequences}"


def _lookup_faults(config: GenerationConfig, keywords: set[str], assistant: Any) -> Iterator[str]:
    count = config.prompt_lookup_num_tokens
    if count is None:
        if "max_matching_ngram_size" in keywords and config.max_matching_ngram_size is not None:
            yield "`max_matching_ngram_size` must be unset without `prompt_lookup_num_tokens`"
        return
    others = {"num_beams": 1, "num_return_sequences": 1, "penalty_alpha": None}
    for name, neutral in others.items():
        value = getattr(config, name)
        if value not in (neutral, 0):
            yield f"`{name}` must be {neutral} with `prompt_lookup_num_tokens` = {count}, got {value}"
    if assistant is not None:
        yield f"`assistant_model` must be None with `prompt_lookup_num_tokens` = {count}"


def check_assistant(model_config: Any, assistant: Any) -> None:
    """Raise unless `assistant` is a model that can draft for the one of this configuration.

    Raises:
        GenerationError: naming all in which they differ, and both values.
    """
    own = getattr(assistant, "config", None)
    if own is None or not hasattr(assistant, "generate"):
        raise GenerationError(f"`assistant_model` must be a model of this library, got {type(assistant).__name__}.")
    needed = ("model_type", "vocab_size", "is_encoder_decoder")
    faults = [
        f"`assistant_model` must have {name} = {getattr(model_config, name)!r}, got {getattr(own, name, None)!r}"
        for name in needed
        if getattr(own, name, None) != getattr(model_config, name)
    ]
    if faults:
        raise GenerationError(message(faults, "generate", "Use a smaller model of the same family and vocabulary."))


def assistant_options(config: GenerationConfig, own: GenerationConfig) -> AssistantOptions:
    """How to draft: as the call or the model's configuration says, and for the rest the assistant's own configuration.

    Args:
        config: of the call, as `resolve` returned it.
        own: the assistant's.
    """
    # Differs from transformers 4.57.6: there the assistant's configuration alone counts, and a call's is ignored.
    holders = {name: config if name in config._sources else own for name in ASSISTANT_OPTIONS}
    values = {name: getattr(holder, name) for name, holder in holders.items()}
    tokens, schedule, threshold = (values[name] for name in ASSISTANT_OPTIONS)
    return AssistantOptions(tokens, schedule, threshold, holders[ASSISTANT_OPTIONS[0]] is own)
