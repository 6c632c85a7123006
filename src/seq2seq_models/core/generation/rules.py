"""The rules on scores: one function each for what core/generation_rules.py describes, for all frameworks and drivers.

A function gets its rule, a `RuleContext` and float32 scores [R, V], which it consumes; it returns the new scores. Where
the length is a Python number, as in a loop that runs from Python, a condition on it is an `if`; where it is an array, a
`where`: `xp.when` is both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from .. import generation_rules as rules
from .arrays import Array, Arrays

NEVER = -float("inf")


@dataclass(frozen=True)
class RuleContext:
    """What rules look at besides the scores.

    Attributes:
        xp: the array namespace.
        ids: int [R, L]; columns from `length` on, if there are any, mean nothing.
        length: tokens so far; a Python number, or an int32 scalar inside compiled code.
        source_length: columns of the source that are not filled up; likewise.
    """

    xp: Arrays
    ids: Array
    length: Any
    source_length: Any


RuleFunction = Callable[[Any, RuleContext, Array], Array]

NUMBERS: dict[type[rules.Rule], tuple[str, ...]] = {
    rules.HammingDiversity: ("penalty",),
    rules.EncoderRepetitionPenalty: ("penalty",),
    rules.RepetitionPenalty: ("penalty",),
    rules.MinLength: ("length",),
    rules.MinNewTokens: ("length", "prompt_length"),
    rules.ForcedEnd: ("max_length",),
    rules.DecayLength: ("start",),
    rules.SuppressAtBegin: ("length",),
    rules.Temperature: ("temperature",),
    rules.TopP: ("mass",),
    rules.MinP: ("share",),
    rules.TypicalP: ("mass",),
    rules.EpsilonCutoff: ("epsilon",),
    rules.EtaCutoff: ("epsilon",),
}
"""The fields of a rule that may change without compiling anew; the others are part of the compiled loop."""


def split(rule: rules.Rule) -> tuple[rules.Rule, tuple[int | float, ...], Any]:
    """A rule in three parts: what is compiled, the numbers that are not, and the source it looks at, if it does."""
    names = NUMBERS.get(type(rule), ())
    kinds = {field.name: int if field.type == "int" else float for field in fields(rule)}
    numbers = tuple(kinds[name](getattr(rule, name)) for name in names)
    source = getattr(rule, "source", None)
    blank: dict[str, Any] = dict.fromkeys(names, 0)
    if source is not None:
        blank["source"] = None
    return replace(rule, **blank), numbers, source


def join(rule: rules.Rule, numbers: Sequence[Array], source: Array | None) -> rules.Rule:
    """The rule of these three parts."""
    held = dict(zip(NUMBERS.get(type(rule), ()), numbers, strict=True))
    if any(field.name == "source" for field in fields(rule)):
        held["source"] = source
    return replace(rule, **held)


def sequence_bias(rule: rules.SequenceBias, context: RuleContext, scores: Array) -> Array:
    xp, rows = context.xp, scores.shape[0]
    for size, table, biases in _bias_tables(rule.biases):
        last = xp.asarray(_per_row_table(table[:, -1], rows), "int32")
        added = xp.asarray(_per_row_table(biases, rows), "float32")
        if size > 1:
            if isinstance(context.length, int) and context.length < size - 1:
                continue
            begun = _latest(context, size - 1)[:, None, :] == xp.asarray(table[None, :, :-1], "int32")
            added = xp.where(xp.all(begun, axis=-1) & (context.length >= size), added, 0.0)
        scores = xp.add_at(scores, last, added)
    return scores


def hamming_diversity(rule: rules.HammingDiversity, context: RuleContext, scores: Array) -> Array:
    if rule.taken is None or rule.taken.shape[1] == 0:
        return scores
    xp = context.xp
    taken = xp.repeat(rule.taken, scores.shape[0] // rule.taken.shape[0])
    times = xp.full(scores.shape, 0.0, "float32")
    times = xp.add_at(times, taken, xp.full(taken.shape, 1.0, "float32"))
    return scores - rule.penalty * times


def encoder_repetition_penalty(rule: rules.EncoderRepetitionPenalty, context: RuleContext, scores: Array) -> Array:
    xp = context.xp
    tokens = _known(context, _per_row(context, rule.source, scores), context.source_length)
    seen = xp.take_along(scores, tokens)
    return xp.put_at(scores, tokens, xp.where(seen < 0, seen / rule.penalty, seen * rule.penalty))


def encoder_no_repeat_ngrams(rule: rules.EncoderNoRepeatNgrams, context: RuleContext, scores: Array) -> Array:
    source = _per_row(context, rule.source, scores)
    return _without_ngrams(context, source, context.source_length, rule.size, scores)


def repetition_penalty(rule: rules.RepetitionPenalty, context: RuleContext, scores: Array) -> Array:
    xp = context.xp
    tokens = _known(context, context.ids, context.length)
    seen = xp.take_along(scores, tokens)
    return xp.put_at(scores, tokens, xp.where(seen < 0, seen * rule.penalty, seen / rule.penalty))


def no_repeat_ngrams(rule: rules.NoRepeatNgrams, context: RuleContext, scores: Array) -> Array:
    return _without_ngrams(context, context.ids, context.length, rule.size, scores)


def min_length(rule: rules.MinLength, context: RuleContext, scores: Array) -> Array:
    return _without(context, scores, rule.end, context.length < rule.length)


def min_new_tokens(rule: rules.MinNewTokens, context: RuleContext, scores: Array) -> Array:
    return _without(context, scores, rule.end, context.length - rule.prompt_length < rule.length)


def prefix_allowed(rule: rules.PrefixAllowed, context: RuleContext, scores: Array) -> Array:
    """Calls the user's function, so never inside a compiled loop."""
    import numpy as np

    is_forbidden = np.full(scores.shape, True)
    for row, ids in enumerate(context.ids[:, : int(context.length)]):
        allowed = [int(token) for token in rule.allowed(row // rule.beams, ids)]
        if not allowed:
            raise ValueError(
                f"`prefix_allowed_tokens_fn` must allow at least one token, got none for row {row // rule.beams} "
                f"after {ids.tolist()}."
            )
        is_forbidden[row, allowed] = False
    return context.xp.fill(scores, context.xp.asarray(is_forbidden, "bool"), NEVER)


def forced_begin(rule: rules.ForcedBegin, context: RuleContext, scores: Array) -> Array:
    return _only(context, scores, (rule.token,), context.length == 1)


def forced_end(rule: rules.ForcedEnd, context: RuleContext, scores: Array) -> Array:
    return _only(context, scores, rule.tokens, context.length == rule.max_length - 1)


def remove_invalid(rule: rules.RemoveInvalid, context: RuleContext, scores: Array) -> Array:
    import numpy as np

    xp, most = context.xp, float(np.finfo(np.float32).max)
    scores = xp.fill(scores, xp.isnan(scores), 0.0)
    return xp.minimum(xp.maximum(scores, -most), most)


def decay_length(rule: rules.DecayLength, context: RuleContext, scores: Array) -> Array:
    import numpy as np

    xp, width = context.xp, context.ids.shape[1]
    if not rule.end:
        return scores
    # Differs from transformers 4.57.6: an impossible end stays impossible, where it becomes NaN and wins there.
    with np.errstate(over="ignore"):
        growth = (np.float64(rule.factor) ** np.arange(width + 1) - 1).astype(np.float32)
    past = context.length - rule.start
    end = xp.asarray(_per_row_table(np.array(rule.end), scores.shape[0]), "int32")

    def grown(scores: Array) -> Array:
        factor = xp.element(growth, past if isinstance(past, int) else xp.minimum(xp.maximum(past, 0), width))
        ending = xp.take_along(scores, end)
        return xp.put_at(scores, end, xp.where(xp.isinf(ending), ending, ending + xp.abs(ending) * factor))

    return xp.when(past > 0, grown, scores)


def suppress(rule: rules.Suppress, context: RuleContext, scores: Array) -> Array:
    return context.xp.fill_columns(scores, rule.tokens, NEVER)


def suppress_at_begin(rule: rules.SuppressAtBegin, context: RuleContext, scores: Array) -> Array:
    return _without(context, scores, rule.tokens, context.length == rule.length)


def temperature(rule: rules.Temperature, context: RuleContext, scores: Array) -> Array:
    return context.xp.divide(scores, rule.temperature)


def top_k(rule: rules.TopK, context: RuleContext, scores: Array) -> Array:
    last = context.xp.top_k(scores, min(rule.count, scores.shape[1]))[0][:, -1:]
    return context.xp.fill(scores, scores < last, NEVER)


def top_p(rule: rules.TopP, context: RuleContext, scores: Array) -> Array:
    xp, width = context.xp, scores.shape[1]
    # Differs from transformers 4.57.6: tokens that tie at the cut all stay, where its sort leaves open which do.
    ordered = xp.sort(scores)
    is_dropped = xp.cumsum(xp.softmax(ordered)) <= 1 - rule.mass
    count = xp.minimum(xp.sum(xp.cast(is_dropped, "int32"), axis=1, keepdims=True), width - rule.at_least)
    return xp.fill(scores, scores < xp.take_along(ordered, count), NEVER)


def min_p(rule: rules.MinP, context: RuleContext, scores: Array) -> Array:
    # Differs from transformers 4.57.6: of tokens that tie with the last of the `at_least` best, all stay.
    chances = context.xp.softmax(scores)
    return _cut(context, scores, chances < rule.share * context.xp.max(chances, axis=1, keepdims=True), rule.at_least)


def typical_p(rule: rules.TypicalP, context: RuleContext, scores: Array) -> Array:
    xp, width = context.xp, scores.shape[1]
    surprise = -xp.log_softmax(scores)
    distance = xp.abs(surprise - _entropy(context, surprise))
    order = xp.argsort(distance)
    mass = xp.cumsum(xp.softmax(xp.take_along(scores, order)))
    last = xp.minimum(xp.sum(xp.cast(mass < rule.mass, "int32"), axis=1, keepdims=True), width - 1)
    last = xp.maximum(last, rule.at_least - 1)
    limit = xp.take_along(distance, xp.take_along(order, last))
    return xp.fill(scores, distance > limit, NEVER)


def epsilon_cutoff(rule: rules.EpsilonCutoff, context: RuleContext, scores: Array) -> Array:
    return _cut(context, scores, context.xp.softmax(scores) < rule.epsilon, rule.at_least)


def eta_cutoff(rule: rules.EtaCutoff, context: RuleContext, scores: Array) -> Array:
    xp = context.xp
    logs = xp.log_softmax(scores)
    epsilon = xp.asarray(rule.epsilon, "float32")
    least = xp.minimum(xp.sqrt(epsilon) * xp.exp(-_entropy(context, -logs)), epsilon)
    return _cut(context, scores, xp.exp(logs) < least, rule.at_least)


def renormalize(rule: rules.Renormalize, context: RuleContext, scores: Array) -> Array:
    return context.xp.log_softmax(scores)


FUNCTIONS: dict[type[rules.Rule], RuleFunction] = {
    rules.SequenceBias: sequence_bias,
    rules.BadWords: sequence_bias,
    rules.HammingDiversity: hamming_diversity,
    rules.EncoderRepetitionPenalty: encoder_repetition_penalty,
    rules.EncoderNoRepeatNgrams: encoder_no_repeat_ngrams,
    rules.DecayLength: decay_length,
    rules.TypicalP: typical_p,
    rules.EpsilonCutoff: epsilon_cutoff,
    rules.EtaCutoff: eta_cutoff,
    rules.RepetitionPenalty: repetition_penalty,
    rules.NoRepeatNgrams: no_repeat_ngrams,
    rules.MinLength: min_length,
    rules.MinNewTokens: min_new_tokens,
    rules.PrefixAllowed: prefix_allowed,
    rules.ForcedBegin: forced_begin,
    rules.ForcedEnd: forced_end,
    rules.RemoveInvalid: remove_invalid,
    rules.Suppress: suppress,
    rules.SuppressAtBegin: suppress_at_begin,
    rules.Temperature: temperature,
    rules.TopK: top_k,
    rules.TopP: top_p,
    rules.MinP: min_p,
    rules.Renormalize: renormalize,
}


def apply_rules(active: Sequence[rules.Rule], context: RuleContext, scores: Array) -> Array:
    """The scores [R, V] after these rules, in order; `scores` is consumed."""
    for rule in active:
        scores = FUNCTIONS[type(rule)](rule, context, scores)
    return scores


@lru_cache(maxsize=64)
def _bias_tables(biases: Any) -> list[tuple[int, Any, Any]]:
    """The sequences of each size as a table int32 [n, size], and their biases float32 [n]."""
    import numpy as np

    by_size: dict[int, list[tuple[tuple[int, ...], float]]] = {}
    for tokens, bias in biases:
        by_size.setdefault(len(tokens), []).append((tokens, bias))
    return [
        (size, np.array([one for one, _ in group], np.int32), np.array([bias for _, bias in group], np.float32))
        for size, group in by_size.items()
    ]


def _per_row_table(values: Any, rows: int) -> Any:
    """Values [n] for every row [R, n], NumPy."""
    import numpy as np

    return np.broadcast_to(values[None, :], (rows, len(values))).copy()


def _without(context: RuleContext, scores: Array, tokens: Sequence[int], condition: Any) -> Array:
    """These tokens become impossible where the condition, a scalar, holds."""
    xp = context.xp
    return xp.when(condition, lambda scores: xp.fill_columns(scores, tokens, NEVER), scores)


def _only(context: RuleContext, scores: Array, tokens: Sequence[int], condition: Any) -> Array:
    """Only these tokens stay possible where the condition, a scalar, holds; they score 0."""
    xp = context.xp

    def alone(scores: Array) -> Array:
        return xp.fill_columns(xp.full(scores.shape, NEVER, "float32"), tokens, 0.0)

    return xp.when(condition, alone, scores)


def _known(context: RuleContext, tokens: Array, count: Any) -> Array:
    """Tokens [R, M] whose columns from `count` on repeat the first one, so that they change nothing."""
    if isinstance(count, int) and tokens.shape[1] == count:
        return tokens
    xp = context.xp
    return xp.where(xp.arange(tokens.shape[1])[None, :] < count, tokens, tokens[:, :1])


def _latest(context: RuleContext, count: int) -> Array:
    """The last `count` tokens, int32 [R, count]; nonsense if there are fewer."""
    indices = context.xp.maximum(context.length - count + context.xp.arange(count), 0)
    return context.xp.take(context.ids, indices, 1)


def _per_row(context: RuleContext, source: Array, scores: Array) -> Array:
    """The source's ids [B, S] for each row of the scores [R, V]."""
    return context.xp.repeat(source, scores.shape[0] // source.shape[0])


def _without_ngrams(context: RuleContext, tokens: Array, held: Any, size: int, scores: Array) -> Array:
    """Forbid the last token of each n-gram of tokens [R, M] whose first tokens are the latest of the ids.

    Args:
        context: holds the ids.
        tokens: int32 [R, M].
        held: how many of the columns count.
        size: tokens per n-gram.
        scores: float32 [R, V], consumed.
    """
    xp, windows = context.xp, tokens.shape[1] - size + 1
    if windows < 1 or (isinstance(context.length, int) and context.length + 1 < size):
        return scores
    begun = _latest(context, size - 1)
    is_begun = (xp.arange(windows)[None, :] + size <= held) & (context.length + 1 >= size)
    for index in range(size - 1):
        is_begun = is_begun & (tokens[:, index : index + windows] == begun[:, index : index + 1])
    last = tokens[:, size - 1 : size - 1 + windows]
    limits = xp.where(is_begun, NEVER, -NEVER) + xp.full(last.shape, 0.0, "float32")
    return xp.min_at(scores, last, limits)


def _entropy(context: RuleContext, surprise: Array) -> Array:
    """The expected surprise [R, 1]; impossible tokens count nothing."""
    expected = context.xp.where(context.xp.isinf(surprise), 0.0, context.xp.exp(-surprise) * surprise)
    return context.xp.sum(expected, axis=1, keepdims=True)


def _cut(context: RuleContext, scores: Array, is_dropped: Array, at_least: int) -> Array:
    """Drop tokens, but not the `at_least` best of a row nor what ties with the last of them."""
    last = context.xp.top_k(scores, min(at_least, scores.shape[1]))[0][:, -1:]
    return context.xp.fill(scores, is_dropped & (scores < last), NEVER)
