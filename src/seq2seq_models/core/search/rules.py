"""The rules on scores over arrays of fixed shapes: one function each for what core/generation_rules.py describes.

A function gets its rule and a `Look` at the sequences, and float32 scores [R, V]; it returns new scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from .. import generation_rules as rules
from .arrays import Array, Arrays

NEVER = -float("inf")

FEW = 8
"""So many tokens are compared with one by one: a table in the body of a loop is what PyTorch's exporter refuses."""


@dataclass(frozen=True)
class Look:
    """What rules look at.

    Attributes:
        xp: the array namespace.
        ids: int32 [R, L]; what comes after `length` means nothing.
        length: int32 scalar, tokens so far.
        source_length: int32 scalar, columns of the source that are not filled up.
    """

    xp: Arrays
    ids: Array
    length: Array
    source_length: Array


RuleFunction = Callable[[Any, Look, Array], Array]

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


def sequence_bias(rule: rules.SequenceBias, look: Look, scores: Array) -> Array:
    import numpy as np

    xp, width = look.xp, scores.shape[1]
    alone = np.zeros((1, width), np.float32)
    longer: dict[int, list[tuple[tuple[int, ...], float]]] = {}
    for words, bias in rule.biases:
        if len(words) == 1:
            alone[0, words[0]] += bias
        else:
            longer.setdefault(len(words), []).append((words, bias))
    if alone.any():
        scores = scores + xp.asarray(alone, "float32")
    for size, group in longer.items():
        table = np.array([words for words, _ in group], np.int32)
        biases = xp.asarray(np.array([[bias for _, bias in group]], np.float32), "float32")
        begun = _latest(look, size - 1)[:, None, :] == xp.asarray(table[None, :, :-1], "int32")
        is_begun = xp.all(begun, axis=-1) & (look.length >= size)
        places = xp.asarray(np.broadcast_to(table[None, :, -1], (scores.shape[0], len(group))), "int32")
        scores = xp.add_at(scores, places, xp.where(is_begun, biases, 0.0))
    return scores


def hamming_diversity(rule: rules.HammingDiversity, look: Look, scores: Array) -> Array:
    if rule.taken is None or rule.taken.shape[1] == 0:
        return scores
    xp = look.xp
    taken = xp.repeat(rule.taken, scores.shape[0] // rule.taken.shape[0])
    times = xp.full(scores.shape, 0.0, "float32")
    times = xp.add_at(times, taken, xp.full(taken.shape, 1.0, "float32"))
    return scores - rule.penalty * times


def encoder_repetition_penalty(rule: rules.EncoderRepetitionPenalty, look: Look, scores: Array) -> Array:
    source = _per_row(look, rule.source, scores)
    # Columns that only fill up repeat the first word, which has its penalty anyway.
    places = look.xp.where(look.xp.arange(source.shape[1])[None, :] < look.source_length, source, source[:, :1])
    seen = look.xp.take_along(scores, places)
    new = look.xp.where(seen < 0, seen / rule.penalty, seen * rule.penalty)
    return look.xp.put_at(scores, places, new)


def encoder_no_repeat_ngrams(rule: rules.EncoderNoRepeatNgrams, look: Look, scores: Array) -> Array:
    return _without_ngrams(look, _per_row(look, rule.source, scores), look.source_length, rule.size, scores)


def repetition_penalty(rule: rules.RepetitionPenalty, look: Look, scores: Array) -> Array:
    xp, ids = look.xp, look.ids
    places = xp.where(xp.arange(ids.shape[1])[None, :] < look.length, ids, ids[:, :1])
    seen = xp.take_along(scores, places)
    return xp.put_at(scores, places, xp.where(seen < 0, seen * rule.penalty, seen / rule.penalty))


def no_repeat_ngrams(rule: rules.NoRepeatNgrams, look: Look, scores: Array) -> Array:
    return _without_ngrams(look, look.ids, look.length, rule.size, scores)


def min_length(rule: rules.MinLength, look: Look, scores: Array) -> Array:
    return _without(look, scores, rule.end, look.length < rule.length)


def min_new_tokens(rule: rules.MinNewTokens, look: Look, scores: Array) -> Array:
    return _without(look, scores, rule.end, look.length - rule.prompt_length < rule.length)


def prefix_allowed(rule: rules.PrefixAllowed, look: Look, scores: Array) -> Array:
    """Asks the user's function on the host, so never inside a compiled loop."""
    import numpy as np

    ids, length = np.asarray(look.ids), int(look.length)
    kept = np.full(scores.shape, NEVER, np.float32)
    for row in range(len(ids)):
        allowed = list(rule.allowed(row // rule.beams, ids[row, :length]))
        if not allowed:
            raise ValueError(
                f"`prefix_allowed_tokens_fn` must allow at least one token, got none for row {row // rule.beams} "
                f"after {ids[row, :length].tolist()}."
            )
        kept[row, allowed] = 0.0
    return scores + look.xp.asarray(kept, "float32")


def forced_begin(rule: rules.ForcedBegin, look: Look, scores: Array) -> Array:
    return _only(look, scores, (rule.token,), look.length == 1)


def forced_end(rule: rules.ForcedEnd, look: Look, scores: Array) -> Array:
    return _only(look, scores, rule.tokens, look.length == rule.max_length - 1)


def remove_invalid(rule: rules.RemoveInvalid, look: Look, scores: Array) -> Array:
    import numpy as np

    xp, most = look.xp, float(np.finfo(np.float32).max)
    bounded = xp.minimum(xp.maximum(xp.where(xp.isnan(scores), 0.0, scores), -most), most)
    return xp.where(xp.isnan(scores), 0.0, bounded)


def decay_length(rule: rules.DecayLength, look: Look, scores: Array) -> Array:
    import numpy as np

    if not rule.end:
        return scores
    xp, width = look.xp, look.ids.shape[1]
    # Differs from transformers 4.57.6: an impossible end stays impossible, where it becomes NaN and wins there.
    with np.errstate(over="ignore"):
        growth = (np.float64(rule.factor) ** np.arange(width + 1) - 1).astype(np.float32)
    past = xp.minimum(xp.maximum(look.length - rule.start, 0), width)
    factor = xp.take(xp.asarray(growth, "float32"), xp.reshape(past, (1,)), 0)[:, None]
    is_grown = _mask_of(look, rule.end, scores) & (past > 0) & ~xp.isinf(scores)
    return xp.where(is_grown, scores + xp.abs(scores) * factor, scores)


def suppress(rule: rules.Suppress, look: Look, scores: Array) -> Array:
    return look.xp.where(_mask_of(look, rule.tokens, scores), NEVER, scores)


def suppress_at_begin(rule: rules.SuppressAtBegin, look: Look, scores: Array) -> Array:
    return _without(look, scores, rule.tokens, look.length == rule.length)


def temperature(rule: rules.Temperature, look: Look, scores: Array) -> Array:
    return scores / rule.temperature


def top_k(rule: rules.TopK, look: Look, scores: Array) -> Array:
    last = look.xp.top_k(scores, min(rule.count, scores.shape[1]))[0][:, -1:]
    return look.xp.where(scores < last, NEVER, scores)


def top_p(rule: rules.TopP, look: Look, scores: Array) -> Array:
    xp, width = look.xp, scores.shape[1]
    # Differs from transformers 4.57.6: words that tie at the cut all stay, where its sort leaves open which do.
    ordered = xp.sort(scores)
    is_dropped = xp.cumsum(xp.softmax(ordered)) <= 1 - rule.mass
    count = xp.minimum(xp.sum(xp.cast(is_dropped, "int32"), axis=1, keepdims=True), width - rule.at_least)
    return xp.where(scores < xp.take_along(ordered, count), NEVER, scores)


def min_p(rule: rules.MinP, look: Look, scores: Array) -> Array:
    chances = look.xp.softmax(scores)
    return _cut(look, scores, chances < rule.share * look.xp.max(chances, axis=1, keepdims=True), rule.at_least)


def typical_p(rule: rules.TypicalP, look: Look, scores: Array) -> Array:
    xp, width = look.xp, scores.shape[1]
    surprise = -xp.log_softmax(scores)
    distance = xp.abs(surprise - _entropy(look, surprise))
    places = xp.argsort(distance)
    mass = xp.cumsum(xp.softmax(xp.take_along(scores, places)))
    last = xp.minimum(xp.sum(xp.cast(mass < rule.mass, "int32"), axis=1, keepdims=True), width - 1)
    last = xp.maximum(last, rule.at_least - 1)
    limit = xp.take_along(distance, xp.take_along(places, last))
    return xp.where(distance > limit, NEVER, scores)


def epsilon_cutoff(rule: rules.EpsilonCutoff, look: Look, scores: Array) -> Array:
    return _cut(look, scores, look.xp.softmax(scores) < rule.epsilon, rule.at_least)


def eta_cutoff(rule: rules.EtaCutoff, look: Look, scores: Array) -> Array:
    xp = look.xp
    logs = xp.log_softmax(scores)
    epsilon = xp.asarray(rule.epsilon, "float32")
    least = xp.minimum(xp.sqrt(epsilon) * xp.exp(-_entropy(look, -logs)), epsilon)
    return _cut(look, scores, xp.exp(logs) < least, rule.at_least)


def renormalize(rule: rules.Renormalize, look: Look, scores: Array) -> Array:
    return look.xp.log_softmax(scores)


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


def apply_rules(active: Sequence[rules.Rule], look: Look, scores: Array) -> Array:
    """The scores [R, V] after these rules, in order."""
    for rule in active:
        scores = FUNCTIONS[type(rule)](rule, look, scores)
    return scores


def _mask_of(look: Look, tokens: Sequence[int], scores: Array) -> Array:
    """True at these tokens, bool [1, V]."""
    import numpy as np

    if 0 < len(tokens) <= FEW:
        places = look.xp.arange(scores.shape[1])[None, :]
        found = places == tokens[0]
        for token in tokens[1:]:
            found = found | (places == token)
        return found
    mask = np.zeros((1, scores.shape[1]), bool)
    mask[0, list(tokens)] = True
    return look.xp.asarray(mask, "bool")


def _without(look: Look, scores: Array, tokens: Sequence[int], condition: Array) -> Array:
    return look.xp.where(_mask_of(look, tokens, scores) & condition, NEVER, scores)


def _only(look: Look, scores: Array, tokens: Sequence[int], condition: Array) -> Array:
    alone = look.xp.where(_mask_of(look, tokens, scores), 0.0, NEVER)
    return look.xp.where(condition, alone + look.xp.full(scores.shape, 0.0, "float32"), scores)


def _latest(look: Look, count: int) -> Array:
    """The last `count` tokens, int32 [R, count]; nonsense if there are fewer."""
    places = look.xp.maximum(look.length - count + look.xp.arange(count), 0)
    return look.xp.take(look.ids, places, 1)


def _per_row(look: Look, source: Array, scores: Array) -> Array:
    """The source's ids [B, S] for each row of the scores [R, V]."""
    return look.xp.repeat(source, scores.shape[0] // source.shape[0])


def _without_ngrams(look: Look, tokens: Array, held: Array, size: int, scores: Array) -> Array:
    """Forbid the last word of each n-gram of tokens [R, M] whose first words are the latest of the ids.

    Args:
        look: holds the ids.
        tokens: int32 [R, M].
        held: int32 scalar, how many of the columns count.
        size: words per n-gram.
        scores: float32 [R, V].
    """
    xp, windows = look.xp, tokens.shape[1] - size + 1
    if windows < 1:
        return scores
    begun = _latest(look, size - 1)
    is_begun = (xp.arange(windows)[None, :] + size <= held) & (look.length + 1 >= size)
    for place in range(size - 1):
        is_begun = is_begun & (tokens[:, place : place + windows] == begun[:, place : place + 1])
    last = tokens[:, size - 1 : size - 1 + windows]
    limits = xp.where(is_begun, NEVER, -NEVER) + xp.full(last.shape, 0.0, "float32")
    return xp.min_at(scores, last, limits)


def _entropy(look: Look, surprise: Array) -> Array:
    """The expected surprise [R, 1]; impossible words count nothing."""
    expected = look.xp.where(look.xp.isinf(surprise), 0.0, look.xp.exp(-surprise) * surprise)
    return look.xp.sum(expected, axis=1, keepdims=True)


def _cut(look: Look, scores: Array, is_dropped: Array, at_least: int) -> Array:
    """Drop words, but not the `at_least` best of a row nor what ties with the last of them."""
    last = look.xp.top_k(scores, min(at_least, scores.shape[1]))[0][:, -1:]
    return look.xp.where(is_dropped & (scores < last), NEVER, scores)
