"""The rules that change scores while generating, as data: one list for all frameworks, in the order they apply.

Every rule is computed once for all frameworks, in `generation/rules.py`; which rules a configuration asks for, and with
which numbers, is decided here. A rule looks at the scores, at the ids so far, or at the step (the length so far).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..errors import GenerationError

if TYPE_CHECKING:
    from .generation_config import GenerationConfig

LooksAt = Literal["scores", "ids", "step"]


@dataclass(frozen=True)
class Rule:
    """Base of the rules; `option` is the generation option that switches it on."""

    looks_at: ClassVar[LooksAt]
    option: ClassVar[str]


@dataclass(frozen=True)
class SequenceBias(Rule):
    """A word that would complete one of the listed sequences gets that sequence's bias added to its score.

    A sequence of one word is biased at every step. Biases of several sequences add up.
    """

    looks_at = "ids"
    option = "sequence_bias"
    biases: tuple[tuple[tuple[int, ...], float], ...]


@dataclass(frozen=True)
class BadWords(SequenceBias):
    """A word that would complete one of the forbidden sequences scores minus infinity."""

    option = "bad_words_ids"


@dataclass(frozen=True)
class HammingDiversity(Rule):
    """A word loses `penalty` for every beam of an earlier group that chose it at this step.

    `taken` are those beams' words [B, any], put in anew for every group; None before the first group.

    Source: Vijayakumar et al. 2016 (diverse beam search), section 4.3, "Hamming diversity".
    """

    looks_at = "ids"
    option = "diversity_penalty"
    penalty: float
    taken: Any = None


@dataclass(frozen=True)
class EncoderRepetitionPenalty(Rule):
    """Scores of the source's words are multiplied by `penalty` if positive, divided by it if negative.

    A penalty above 1 keeps the output near its source. The inverse of `RepetitionPenalty`, over the source's words.

    # Differs from transformers 4.57.6: with beams, every beam of an input is treated, not the first rows only.
    """

    looks_at = "scores"
    option = "encoder_repetition_penalty"
    penalty: float
    source: Any


@dataclass(frozen=True)
class EncoderNoRepeatNgrams(Rule):
    """A word that would complete an n-gram of the source scores minus infinity.

    Source: Roller et al. 2020 (recipes for an open-domain chatbot), section 4.1, "context blocking".
    """

    looks_at = "ids"
    option = "encoder_no_repeat_ngram_size"
    size: int
    source: Any


@dataclass(frozen=True)
class RepetitionPenalty(Rule):
    """Scores of words already produced are divided by `penalty` if positive, multiplied by it if negative.

    Source: Keskar et al. 2019 (CTRL), section 4.1.
    """

    looks_at = "ids"
    option = "repetition_penalty"
    penalty: float


@dataclass(frozen=True)
class NoRepeatNgrams(Rule):
    """A word that would complete an n-gram which is already in the output scores minus infinity.

    Source: Paulus et al. 2017, section 2.5, with n = `size` instead of 3.
    """

    looks_at = "ids"
    option = "no_repeat_ngram_size"
    size: int


@dataclass(frozen=True)
class MinLength(Rule):
    """The end is impossible while the output, prompt included, is shorter than `length`."""

    looks_at = "step"
    option = "min_length"
    length: int
    end: tuple[int, ...]


@dataclass(frozen=True)
class MinNewTokens(Rule):
    """The end is impossible until `length` tokens follow the prompt of `prompt_length`."""

    looks_at = "step"
    option = "min_new_tokens"
    length: int
    prompt_length: int
    end: tuple[int, ...]


@dataclass(frozen=True)
class PrefixAllowed(Rule):
    """Only the words that `allowed(row, ids so far)` lists keep their score.

    Source: De Cao et al. 2020 (autoregressive entity retrieval), section 3.2.
    """

    looks_at = "ids"
    option = "prefix_allowed_tokens_fn"
    allowed: Callable[[int, Any], Sequence[int]]
    beams: int


@dataclass(frozen=True)
class ForcedBegin(Rule):
    """The token after the start token is `token`, whatever its score."""

    looks_at = "step"
    option = "forced_bos_token_id"
    token: int


@dataclass(frozen=True)
class ForcedEnd(Rule):
    """The last token that fits into `max_length` is one of `tokens`."""

    looks_at = "step"
    option = "forced_eos_token_id"
    max_length: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class RemoveInvalid(Rule):
    """NaN scores 0; infinities become the largest finite number of their sign."""

    looks_at = "scores"
    option = "remove_invalid_values"


@dataclass(frozen=True)
class DecayLength(Rule):
    """Past a length, the end's score grows by its own size times (factor ** tokens past it - 1).

    `start` counts the prompt. A factor above 1 makes the end ever more likely.
    """

    looks_at = "step"
    option = "exponential_decay_length_penalty"
    start: int
    factor: float
    end: tuple[int, ...]


@dataclass(frozen=True)
class Suppress(Rule):
    """`tokens` score minus infinity at every step."""

    looks_at = "step"
    option = "suppress_tokens"
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class SuppressAtBegin(Rule):
    """`tokens` score minus infinity at the first free step, when the output has `length` tokens."""

    looks_at = "step"
    option = "begin_suppress_tokens"
    tokens: tuple[int, ...]
    length: int


@dataclass(frozen=True)
class Temperature(Rule):
    """Scores are divided by `temperature`: below 1 sharpens, above 1 flattens."""

    looks_at = "scores"
    option = "temperature"
    temperature: float


@dataclass(frozen=True)
class TopK(Rule):
    """Only the `count` best words keep their score, and any that tie with the last of them.

    Source: Fan et al. 2018, section 5.4.
    """

    looks_at = "scores"
    option = "top_k"
    count: int


@dataclass(frozen=True)
class TopP(Rule):
    """Only the smallest set of best words whose probability reaches `mass` keeps its score; at least `at_least` words.

    Source: Holtzman et al. 2019 (nucleus sampling), section 3.1.
    """

    looks_at = "scores"
    option = "top_p"
    mass: float
    at_least: int


@dataclass(frozen=True)
class MinP(Rule):
    """Words less probable than `share` times the most probable one are dropped; at least `at_least` words stay.

    Source: Nguyen et al. 2024 (min-p sampling), section 3.
    """

    looks_at = "scores"
    option = "min_p"
    share: float
    at_least: int


@dataclass(frozen=True)
class TypicalP(Rule):
    """Only the words whose surprise is nearest to the expected one, up to a probability of `mass`, keep their score.

    Surprise is -log p, the expected one the entropy. At least `at_least` words stay.

    Source: Meister et al. 2022 (locally typical sampling), section 5.
    """

    looks_at = "scores"
    option = "typical_p"
    mass: float
    at_least: int


@dataclass(frozen=True)
class EpsilonCutoff(Rule):
    """Words with a probability below `epsilon` are dropped; the `at_least` best stay.

    Source: Hewitt et al. 2022 (truncation sampling as desmoothing), section 4.
    """

    looks_at = "scores"
    option = "epsilon_cutoff"
    epsilon: float
    at_least: int


@dataclass(frozen=True)
class EtaCutoff(Rule):
    """Words with a probability below min(epsilon, sqrt(epsilon) * exp(-entropy)) are dropped; the `at_least` best stay.

    Source: Hewitt et al. 2022 (truncation sampling as desmoothing), section 4.2.
    """

    looks_at = "scores"
    option = "eta_cutoff"
    epsilon: float
    at_least: int


@dataclass(frozen=True)
class Renormalize(Rule):
    """Scores become log-probabilities again."""

    looks_at = "scores"
    option = "renormalize_logits"


def tokens_of(value: int | Sequence[int] | None) -> tuple[int, ...]:
    """One id, several or none, as a tuple."""
    if value is None:
        return ()
    return tuple(map(int, value)) if hasattr(value, "__iter__") else (int(value),)


def score_rules(
    config: GenerationConfig,
    prompt_length: int,
    prefix_allowed_tokens_fn: Callable[[int, Any], Sequence[int]] | None = None,
    source: Any = None,
) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    """The rules a resolved configuration asks for: those before the user's own processors, and those after them.

    Args:
        config: with `max_length` and `min_length` already in tokens of the whole output.
        prompt_length: number of decoder tokens given, the start token included.
        prefix_allowed_tokens_fn: the user's function for `PrefixAllowed`.
        source: the source's ids [B, S], for the rules that look at them.

    Raises:
        GenerationError: for a rule on the source when only its vectors are given.
    """
    end = tokens_of(config.eos_token_id)
    rules: list[Rule] = []
    if config.sequence_bias is not None:
        rules.append(SequenceBias(_biases(config.sequence_bias)))
    if config.diversity_penalty:
        rules.append(HammingDiversity(config.diversity_penalty))
    if config.encoder_repetition_penalty not in (None, 1.0):
        rules.append(EncoderRepetitionPenalty(config.encoder_repetition_penalty, _needed(source, "repetition_penalty")))
    if config.repetition_penalty not in (None, 1.0):
        rules.append(RepetitionPenalty(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        rules.append(NoRepeatNgrams(config.no_repeat_ngram_size))
    if config.encoder_no_repeat_ngram_size:
        size = config.encoder_no_repeat_ngram_size
        rules.append(EncoderNoRepeatNgrams(size, _needed(source, "no_repeat_ngram_size")))
    if config.bad_words_ids is not None:
        words = (tuple(map(int, word)) for word in config.bad_words_ids)
        rules.append(BadWords(tuple((word, -float("inf")) for word in words if word not in {(e,) for e in end})))
    if config.min_length and end:
        rules.append(MinLength(config.min_length, end))
    if config.min_new_tokens and end:
        rules.append(MinNewTokens(config.min_new_tokens, prompt_length, end))
    if prefix_allowed_tokens_fn is not None:
        rules.append(PrefixAllowed(prefix_allowed_tokens_fn, config.num_beams // config.num_beam_groups))
    if config.forced_bos_token_id is not None:
        rules.append(ForcedBegin(config.forced_bos_token_id))
    if config.forced_eos_token_id is not None:
        rules.append(ForcedEnd(config.max_length, tokens_of(config.forced_eos_token_id)))
    if config.remove_invalid_values:
        rules.append(RemoveInvalid())
    if config.exponential_decay_length_penalty is not None:
        start, factor = config.exponential_decay_length_penalty
        rules.append(DecayLength(prompt_length + int(start), factor, end))
    if config.suppress_tokens is not None:
        rules.append(Suppress(tokens_of(config.suppress_tokens)))
    if config.begin_suppress_tokens is not None:
        is_forced = prompt_length == 1 and config.forced_bos_token_id is not None
        rules.append(SuppressAtBegin(tokens_of(config.begin_suppress_tokens), prompt_length + is_forced))
    return tuple(rules), tuple(_sampling_rules(config, end))


def _biases(given: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    """The biases of a dict {(ids): bias} or of a list [[ids, bias]]."""
    pairs = given.items() if isinstance(given, dict) else given
    return tuple((tuple(map(int, ids)), float(bias)) for ids, bias in pairs)


def _needed(source: Any, option: str) -> Any:
    if source is None:
        raise GenerationError(
            f"`encoder_{option}` needs the source as `input_ids`, got none. Pass the ids along with the vectors or "
            "the encoder's outputs, or leave the option unset."
        )
    return source


def _sampling_rules(config: GenerationConfig, end: tuple[int, ...]) -> list[Rule]:
    rules: list[Rule] = []
    if config.do_sample:
        # Beams must be able to go on: one word more than there are ways to end stays possible.
        at_least = (len(end) or 1) + 1 if config.num_beams > 1 else 1
        if config.temperature not in (None, 1.0):
            rules.append(Temperature(config.temperature))
        if config.top_k:
            rules.append(TopK(max(config.top_k, at_least)))
        if config.top_p is not None and config.top_p < 1.0:
            rules.append(TopP(config.top_p, at_least))
        if config.min_p is not None:
            rules.append(MinP(config.min_p, at_least))
        if config.typical_p is not None and config.typical_p < 1.0:
            rules.append(TypicalP(config.typical_p, at_least))
        if config.epsilon_cutoff:
            rules.append(EpsilonCutoff(config.epsilon_cutoff, at_least))
        if config.eta_cutoff:
            rules.append(EtaCutoff(config.eta_cutoff, at_least))
    if config.renormalize_logits:
        rules.append(Renormalize())
    return rules
