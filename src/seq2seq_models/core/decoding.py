"""From a checkpoint's settings and a caller's arguments to one resolved plan of decoding, for all frameworks.

Everything that can be wrong with the options is found here, before any computation.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import GenerationError
from .generation_config import GenerationConfig
from .generation_rules import Rule, score_rules, tokens_of
from .settings.generation_options import OPTIONS, OUTPUT_OPTIONS
from .settings.validity import warn_once

if TYPE_CHECKING:
    from .config import PretrainedConfig

logger = logging.getLogger("seq2seq_models")

ENCODER_DECODER_INPUTS = frozenset(
    "input_ids attention_mask inputs_embeds encoder_outputs decoder_input_ids decoder_attention_mask "
    "head_mask decoder_head_mask cross_attn_head_mask labels".split()
)
"""Arguments of `generate` that go to an encoder-decoder, not to the plan; `labels` come along in training loops."""

CAUSAL_INPUTS = frozenset(
    "input_ids attention_mask encoder_hidden_states encoder_attention_mask head_mask cross_attn_head_mask".split()
)
"""Arguments of `generate` that go to a causal model, not to the plan."""

METADATA = frozenset("transformers_version generation_kwargs _from_model_config".split())

IMPLEMENTED = METADATA | frozenset(
    "max_length max_new_tokens min_length min_new_tokens early_stopping max_time do_sample num_beams use_cache "
    "temperature top_k top_p min_p typical_p epsilon_cutoff eta_cutoff repetition_penalty encoder_repetition_penalty "
    "no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids sequence_bias length_penalty renormalize_logits "
    "exponential_decay_length_penalty stop_strings num_beam_groups diversity_penalty penalty_alpha low_memory "
    "num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold prompt_lookup_num_tokens "
    "max_matching_ngram_size "
    "forced_bos_token_id forced_eos_token_id remove_invalid_values suppress_tokens begin_suppress_tokens "
    "num_return_sequences output_attentions output_hidden_states output_scores output_logits return_dict_in_generate "
    "pad_token_id bos_token_id eos_token_id decoder_start_token_id".split()
)
"""Options that `generate` honours. Any other one that is set raises: nothing is silently ignored."""


@dataclass(frozen=True)
class Plan:
    """What a decoding loop needs to know.

    Attributes:
        config: the resolved configuration.
        prompt_length: decoder tokens given, the start token included.
        max_length: tokens of the whole output, prompt included.
        end: ids that end a sequence; empty if nothing does.
        pad: id that fills a sequence after its end.
        rules: score rules that come before the user's own processors.
        late_rules: score rules that come after them.
    """

    config: GenerationConfig
    prompt_length: int
    max_length: int
    end: tuple[int, ...]
    pad: int
    rules: tuple[Rule, ...]
    late_rules: tuple[Rule, ...]


def resolve(
    own: GenerationConfig, given: GenerationConfig | None, options: dict[str, Any], inputs: frozenset[str]
) -> tuple[GenerationConfig, dict[str, Any]]:
    """One generation configuration, and the arguments that are inputs of the model.

    Keywords come first, then the values of `given` that are not defaults, then the model's `own`, then the defaults. An
    `own` configuration written before version 4.50 lends a `given` one its special tokens only, as upstream.

    Args:
        own: the model's configuration.
        given: the `generation_config` argument, if any.
        options: all further keyword arguments. `use_model_defaults` says whether `given` is completed by all that `own`
            has set, or by its special tokens only.
        inputs: names that are inputs of the model.

    Raises:
        GenerationError: naming every option that is unknown, out of range, contradictory or not supported.
    """
    config = copy.deepcopy(own if given is None else given)
    options = dict(options)
    use_model_defaults = options.pop("use_model_defaults", None)
    if given is not None:
        _complete(config, own, use_model_defaults)
    model_inputs = {name: value for name, value in options.items() if name in inputs}
    settings = {name: value for name, value in options.items() if name not in inputs}
    if settings.pop("synced_gpus", None):
        raise GenerationError("`synced_gpus` must be False or None, got True. Gather the model on each device first.")
    unknown = config.unknown(settings)
    if unknown:
        raise GenerationError(_unknown(unknown))
    config.update(**settings)
    _refuse_unsupported(config)
    config.validate()
    _drop_ends_of_no_token(config)
    return config, {name: value for name, value in model_inputs.items() if value is not None}


def _drop_ends_of_no_token(config: GenerationConfig) -> None:
    """A negative `eos_token_id` is no token's: nothing ends a sequence by it."""
    ends = tokens_of(config.eos_token_id)
    kept = [end for end in ends if end >= 0]
    if len(kept) == len(ends):
        return
    warn_once(
        logger,
        f"`eos_token_id` must be at least 0 to end a sequence, got {config.eos_token_id} (generate): it never does.",
    )
    config.eos_token_id = kept or None


def following(own: GenerationConfig, model_config: PretrainedConfig) -> GenerationConfig:
    """A model's generation configuration, with the options that were set on the model's config since.

    Only one that was made from the model's config follows it, and only in options that were not set on itself; what a
    forward pass returns is no matter of generation.
    """
    if not own._from_model_config:
        return own
    now, first = GenerationConfig.from_model_config(model_config), own._at_first
    names = OPTIONS.keys() & first.keys() - {*OUTPUT_OPTIONS, "return_dict_in_generate", "use_cache"}
    changed = {name: getattr(now, name) for name in names if getattr(now, name) != first[name] == getattr(own, name)}
    if not changed:
        return own
    told = ", ".join(f"{name}={value!r}" for name, value in sorted(changed.items()))
    warn_once(
        logger,
        f"generate: {told} was set on the model's config, and is used. Set it on `model.generation_config` instead.",
    )
    followed = copy.deepcopy(own)
    for name, value in changed.items():
        setattr(followed, name, value)
    return followed


def _complete(config: GenerationConfig, own: GenerationConfig, use_model_defaults: bool | None) -> None:
    version = str(getattr(own, "transformers_version", None) or "4.50")
    is_old = tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < (4, 50)
    if is_old if use_model_defaults is None else not use_model_defaults:
        config.fill_from(own, ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"))
    else:
        config.fill_from(own)


def _unknown(names: Sequence[str]) -> str:
    return f"every argument of `generate` must be an option or an input of the model, got {', '.join(names)}."


def _refuse_unsupported(config: GenerationConfig) -> None:
    default = GenerationConfig().to_dict()
    neutral = {"guidance_scale": 1.0}
    refused = []
    for name, standard in default.items():
        value = getattr(config, name, None)
        if name in IMPLEMENTED or value is None or value == standard or value == neutral.get(name):
            continue
        refused.append(f"{name}={value!r}")
    if refused:
        raise GenerationError(
            f"`generate` does not support these options yet: {', '.join(sorted(refused))}. Leave them unset; "
            "nothing is silently ignored."
        )


def plan(
    config: GenerationConfig,
    model_config: PretrainedConfig,
    prompt_length: int,
    *,
    max_length_given: bool,
    prefix_allowed_tokens_fn: Callable[[int, Any], Sequence[int]] | None = None,
    source: Any = None,
) -> Plan:
    """The plan for a prompt of this length; `config` gets its lengths in tokens of the whole output.

    `max_new_tokens` wins over `max_length`, `min_new_tokens` over `min_length`. An unset `max_length` is the prompt and
    20 more tokens.

    Args:
        config: as `resolve` returned it; changed.
        model_config: the model's configuration.
        prompt_length: decoder tokens given.
        max_length_given: whether the caller named `max_length` in this call.
        prefix_allowed_tokens_fn: see `PrefixAllowed`.
        source: the source's ids [B, S], for the rules that look at them.

    Raises:
        GenerationError: if the lengths leave nothing to generate, or more than the model has positions for.
    """
    positions = model_config.max_position_embeddings
    if config.max_new_tokens is not None:
        config.max_length = prompt_length + config.max_new_tokens
    elif not max_length_given and config.max_length in (None, GenerationConfig().max_length):
        config.max_length = min(GenerationConfig().max_length + prompt_length, positions)
    if config.min_new_tokens is not None:
        config.min_length = prompt_length + config.min_new_tokens
    if config.max_length is None or config.max_length <= prompt_length:
        raise GenerationError(
            f"`max_length` must be more than the {prompt_length} decoder tokens given, got {config.max_length}. "
            "Raise it, or use `max_new_tokens`."
        )
    # The last token is never read again, but for contrastive search, which reads every candidate.
    more = 0 if config.penalty_alpha else 1
    if config.max_length - more > positions:
        raise GenerationError(
            f"`max_length` must be at most {positions + more} (max_position_embeddings {positions}"
            f"{', and one more token' * more}), "
            f"got {config.max_length}. Lower it or `max_new_tokens`, or call resize_position_embeddings."
        )
    end = tokens_of(config.eos_token_id)
    pad = config.pad_token_id
    if pad is None:
        pad = end[0] if end else 0
    rules, late_rules = score_rules(config, prompt_length, prefix_allowed_tokens_fn, source)
    return Plan(config, prompt_length, config.max_length, end, pad, rules, late_rules)
