"""Every generation option as data: its default, what a value must be, and what it does."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from .validity import Rule, end_id, flag, is_real, is_whole, one_of, real, token_id, whole

Group = Literal["length", "strategy", "scores", "tokens", "output", "cache", "assistant"]

CACHES = (
    "static",
    "offloaded_static",
    "sliding_window",
    "hybrid",
    "hybrid_chunked",
    "offloaded_hybrid",
    "offloaded_hybrid_chunked",
    "dynamic",
    "dynamic_full",
    "offloaded",
    "quantized",
)
"""The names `cache_implementation` may have in a file."""

GENERATE_ARGUMENTS = (
    "assistant_model",
    "logits_processor",
    "negative_prompt_attention_mask",
    "negative_prompt_ids",
    "prefix_allowed_tokens_fn",
    "stopping_criteria",
    "streamer",
    "synced_gpus",
    "use_model_defaults",
)
"""Arguments of `generate` that are no part of a generation config."""


@dataclass(frozen=True)
class Option:
    """One generation option.

    Attributes:
        default: its value where nothing sets it. Null in a file means unset.
        rule: what a value must be.
        group: what kind of option it is.
        does: what it does, in one line.
        none_is_off: None is a value of its own, which switches the option off.
    """

    default: Any
    rule: Rule
    group: Group
    does: str
    none_is_off: bool = False

    def fault(self, name: str, value: Any) -> str | None:
        """What is wrong with `value`, in words; None if nothing is."""
        unset = value is None and (self.default is None or self.none_is_off)
        return None if unset else self.rule.fault(name, value)


def _ids(value: Any, least: int = 0) -> bool:
    return isinstance(value, list | tuple) and len(value) >= least and all(is_whole(one) and one >= 0 for one in value)


def _biases(value: Any) -> bool:
    if isinstance(value, dict):
        return len(value) > 0 and all(_ids(key, 1) and is_real(bias) for key, bias in value.items())
    pairs = isinstance(value, list | tuple) and len(value) > 0
    return pairs and all(
        isinstance(one, list | tuple) and len(one) == 2 and _ids(one[0], 1) and is_real(one[1]) for one in value
    )


def _decay(value: Any) -> bool:
    pair = isinstance(value, list | tuple) and len(value) == 2
    return pair and is_whole(value[0]) and value[0] >= 0 and is_real(value[1]) and value[1] > 0


def _strings(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(one, str) for one in value)
    )


def _words(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(_ids(one, 1) for one in value)


_ID_LIST = Rule("a list of token ids of at least 0", _ids)
_WORDS = Rule("a list of lists of token ids, none of them empty", _words)
_ANYTHING = Rule("anything", lambda value: True)
# Differs from transformers 4.57.6: `top_p` = 0, of which it makes the single best token, is refused.
_SHARE = real(0, 1, above_low=True)
_CUTOFF = real(0, 1, below_high=True)
_POSITIVE = real(0, above_low=True)

OPTIONS: dict[str, Option] = {
    "max_length": Option(20, whole(1), "length", "longest output in tokens, the start token counted"),
    # Differs from transformers 4.57.6: `max_new_tokens` may be 0.
    "max_new_tokens": Option(None, whole(0), "length", "longest output in tokens, without the start; wins"),
    "min_length": Option(0, whole(0), "length", "shortest output in tokens, the start token counted"),
    "min_new_tokens": Option(None, whole(0), "length", "shortest output in tokens, without the start; wins"),
    "early_stopping": Option(False, one_of((True, False, "never")), "length", "when beam search gives up on better"),
    "max_time": Option(None, real(0), "length", "stop after this many seconds"),
    "stop_strings": Option(None, Rule("a string or a list of strings", _strings), "length", "stop at this text"),
    "do_sample": Option(False, flag(), "strategy", "draw tokens instead of taking the best"),
    "num_beams": Option(1, whole(1), "strategy", "beams of beam search; 1 is none"),
    "num_beam_groups": Option(1, whole(1), "strategy", "groups of diverse beam search"),
    "diversity_penalty": Option(0.0, real(0), "strategy", "taken off tokens that other groups chose at this step"),
    "penalty_alpha": Option(None, real(0), "strategy", "weight of dissimilarity in contrastive search"),
    "dola_layers": Option(None, _ANYTHING, "strategy", "layers to contrast the last one with"),
    "constraints": Option(None, _ANYTHING, "strategy", "constraints that beams must meet"),
    "force_words_ids": Option(None, _ANYTHING, "strategy", "words that beams must contain"),
    "low_memory": Option(None, flag(), "strategy", "contrastive search one candidate at a time"),
    "temperature": Option(1.0, _POSITIVE, "scores", "scores are divided by it before drawing"),
    "top_k": Option(50, whole(0), "scores", "draw from this many best tokens; 0 is off", none_is_off=True),
    "top_p": Option(1.0, _SHARE, "scores", "draw from the fewest best tokens with this much probability"),
    "min_p": Option(None, real(0, 1), "scores", "leave out tokens below this share of the best one's probability"),
    "typical_p": Option(1.0, _SHARE, "scores", "draw from the most typical tokens with this much probability"),
    "epsilon_cutoff": Option(0.0, _CUTOFF, "scores", "leave out tokens below this probability"),
    "eta_cutoff": Option(0.0, _CUTOFF, "scores", "the same, adapted to the entropy"),
    "repetition_penalty": Option(1.0, _POSITIVE, "scores", "above 1, tokens already written become less likely"),
    "encoder_repetition_penalty": Option(1.0, _POSITIVE, "scores", "above 1, tokens of the input become more likely"),
    "length_penalty": Option(1.0, real(), "scores", "exponent of the length that divides a score"),
    "no_repeat_ngram_size": Option(0, whole(0), "scores", "no run of this many tokens twice; 0 is off"),
    "encoder_no_repeat_ngram_size": Option(0, whole(0), "scores", "no run of this many tokens from the input"),
    "bad_words_ids": Option(None, _WORDS, "scores", "token sequences that may not appear"),
    "sequence_bias": Option(
        None, Rule("a list of [token ids, number] pairs, or a dictionary", _biases), "scores", "added to a score"
    ),
    "exponential_decay_length_penalty": Option(
        None, Rule("a start position and a factor above 0", _decay), "scores", "makes the end likelier, step by step"
    ),
    "suppress_tokens": Option(None, _ID_LIST, "scores", "tokens that may not appear"),
    "begin_suppress_tokens": Option(None, _ID_LIST, "scores", "tokens that may not come first"),
    "forced_bos_token_id": Option(None, token_id(), "scores", "the first token after the start"),
    "forced_eos_token_id": Option(None, token_id(several=True), "scores", "the last token at `max_length`"),
    "remove_invalid_values": Option(False, flag(), "scores", "turn NaN and infinite scores into finite ones"),
    "renormalize_logits": Option(False, flag(), "scores", "make scores log-probabilities again after all rules"),
    "guidance_scale": Option(None, real(), "scores", "weight of classifier-free guidance"),
    "token_healing": Option(False, flag(), "scores", "mend the last token of a prompt"),
    "watermarking_config": Option(None, _ANYTHING, "scores", "settings of a watermark"),
    "pad_token_id": Option(None, token_id(), "tokens", "fills finished rows up"),
    "bos_token_id": Option(None, token_id(several=True), "tokens", "begins a sequence"),
    "eos_token_id": Option(None, end_id(), "tokens", "ends a sequence; a negative number never does"),
    "decoder_start_token_id": Option(None, token_id(several=True), "tokens", "the decoder starts with it"),
    "num_return_sequences": Option(1, whole(1), "output", "outputs per input"),
    "output_attentions": Option(False, flag(), "output", "return attention weights"),
    "output_hidden_states": Option(False, flag(), "output", "return hidden states"),
    "output_scores": Option(False, flag(), "output", "return scores after all rules"),
    "output_logits": Option(None, flag(), "output", "return scores before all rules"),
    "return_dict_in_generate": Option(False, flag(), "output", "return an object instead of token ids alone"),
    "use_cache": Option(True, flag(), "cache", "keep keys and values of earlier steps"),
    "cache_implementation": Option(None, one_of(CACHES), "cache", "kind of cache"),
    "cache_config": Option(None, _ANYTHING, "cache", "settings of the cache"),
    "return_legacy_cache": Option(None, flag(), "cache", "return the cache as tuples"),
    "prefill_chunk_size": Option(None, whole(1), "cache", "read the prompt in pieces of this length"),
    "compile_config": Option(None, _ANYTHING, "cache", "settings of the compiler; never saved"),
    "disable_compile": Option(False, flag(), "cache", "never compile"),
    "is_assistant": Option(False, flag(), "assistant", "this config is of the smaller model"),
    "num_assistant_tokens": Option(20, whole(1), "assistant", "tokens the smaller model guesses at once"),
    "num_assistant_tokens_schedule": Option(
        "constant", one_of(("constant", "heuristic", "heuristic_transient")), "assistant", "how that number changes"
    ),
    "assistant_confidence_threshold": Option(0.4, real(0, 1), "assistant", "stop guessing below this probability"),
    "prompt_lookup_num_tokens": Option(
        None, whole(1), "assistant", "tokens to copy at once from the source, or from what was written"
    ),
    "max_matching_ngram_size": Option(
        None, whole(1), "assistant", "longest run of tokens that is looked up there; 2 if unset"
    ),
    "assistant_early_exit": Option(None, whole(1), "assistant", "layer after which to guess"),
    "assistant_lookbehind": Option(10, whole(1), "assistant", "tokens of the smaller model to align"),
    "target_lookbehind": Option(10, whole(1), "assistant", "tokens of the larger model to align"),
}
"""All options by name, in the order in which they are shown."""

SAMPLING_OPTIONS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Options without effect unless tokens are drawn."""

BEAM_OPTIONS = ("early_stopping", "length_penalty")
"""Options without effect unless there are beams."""

OUTPUT_OPTIONS = ("output_attentions", "output_hidden_states", "output_scores", "output_logits")
"""Options without effect unless `return_dict_in_generate`."""

CACHE_OPTIONS = ("cache_implementation", "cache_config", "return_legacy_cache")
"""Options without effect unless `use_cache`."""


class GenerationMode(StrEnum):
    """The strategies of `generate`; each also is its name as a string."""

    CONTRASTIVE_SEARCH = "contrastive_search"
    GREEDY_SEARCH = "greedy_search"
    SAMPLE = "sample"
    ASSISTED_GENERATION = "assisted_generation"
    DOLA_GENERATION = "dola_generation"
    BEAM_SEARCH = "beam_search"
    BEAM_SAMPLE = "beam_sample"
    CONSTRAINED_BEAM_SEARCH = "constrained_beam_search"
    GROUP_BEAM_SEARCH = "group_beam_search"


class OptionValues:
    """The options as typed attributes, for those who read them."""

    max_length: int
    max_new_tokens: int | None
    min_length: int
    min_new_tokens: int | None
    early_stopping: bool | str
    max_time: float | None
    stop_strings: str | list[str] | None
    do_sample: bool
    num_beams: int
    num_beam_groups: int
    diversity_penalty: float
    penalty_alpha: float | None
    dola_layers: Any
    constraints: Any
    force_words_ids: Any
    low_memory: bool | None
    temperature: float
    top_k: int | None
    top_p: float
    min_p: float | None
    typical_p: float
    epsilon_cutoff: float
    eta_cutoff: float
    repetition_penalty: float
    encoder_repetition_penalty: float
    length_penalty: float
    no_repeat_ngram_size: int
    encoder_no_repeat_ngram_size: int
    bad_words_ids: list[list[int]] | None
    sequence_bias: Any
    exponential_decay_length_penalty: tuple[int, float] | list[float] | None
    suppress_tokens: list[int] | None
    begin_suppress_tokens: list[int] | None
    forced_bos_token_id: int | None
    forced_eos_token_id: int | list[int] | None
    remove_invalid_values: bool
    renormalize_logits: bool
    guidance_scale: float | None
    token_healing: bool
    watermarking_config: Any
    pad_token_id: int | None
    bos_token_id: int | list[int] | None
    eos_token_id: int | list[int] | None
    decoder_start_token_id: int | list[int] | None
    num_return_sequences: int
    output_attentions: bool
    output_hidden_states: bool
    output_scores: bool
    output_logits: bool | None
    return_dict_in_generate: bool
    use_cache: bool
    cache_implementation: str | None
    cache_config: Any
    return_legacy_cache: bool | None
    prefill_chunk_size: int | None
    compile_config: Any
    disable_compile: bool
    is_assistant: bool
    num_assistant_tokens: int
    num_assistant_tokens_schedule: str
    assistant_confidence_threshold: float
    prompt_lookup_num_tokens: int | None
    max_matching_ngram_size: int | None
    assistant_early_exit: int | None
    assistant_lookbehind: int
    target_lookbehind: int
