"""The rules on scores in PyTorch: one function each for the rules that core/generation_rules.py describes.

A function gets the rule, the ids so far, int64 [R, length], and the scores, float32 [R, V], which it may overwrite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core import generation_rules as rules

NEVER = -float("inf")
RuleFunction = Callable[[Any, Tensor, Tensor], Tensor]


def sequence_bias(rule: rules.SequenceBias, ids: Tensor, scores: Tensor) -> Tensor:
    for words, bias in rule.biases:
        before = len(words) - 1
        if before == 0:
            scores[:, words[-1]] += bias
        elif before < ids.shape[1]:
            begun = (ids[:, -before:] == torch.tensor(words[:-1], device=ids.device)).all(1)
            scores[:, words[-1]] += torch.where(begun, bias, 0.0)
    return scores


def hamming_diversity(rule: rules.HammingDiversity, ids: Tensor, scores: Tensor) -> Tensor:
    if rule.taken is None or rule.taken.shape[1] == 0:
        return scores
    batch = rule.taken.shape[0]
    times = scores.new_zeros(batch, scores.shape[1]).scatter_add_(1, rule.taken, scores.new_ones(rule.taken.shape))
    return (scores.view(batch, -1, scores.shape[1]) - rule.penalty * times[:, None]).flatten(0, 1)


def encoder_repetition_penalty(rule: rules.EncoderRepetitionPenalty, ids: Tensor, scores: Tensor) -> Tensor:
    source = _per_row(rule.source, scores)
    seen = scores.gather(1, source)
    return scores.scatter_(1, source, torch.where(seen < 0, seen / rule.penalty, seen * rule.penalty))


def encoder_no_repeat_ngrams(rule: rules.EncoderNoRepeatNgrams, ids: Tensor, scores: Tensor) -> Tensor:
    if ids.shape[1] + 1 < rule.size or rule.source.shape[1] < rule.size:
        return scores
    return _without_ngrams(_per_row(rule.source, scores).unfold(1, rule.size, 1), ids, scores)


def repetition_penalty(rule: rules.RepetitionPenalty, ids: Tensor, scores: Tensor) -> Tensor:
    seen = scores.gather(1, ids)
    return scores.scatter_(1, ids, torch.where(seen < 0, seen * rule.penalty, seen / rule.penalty))


def no_repeat_ngrams(rule: rules.NoRepeatNgrams, ids: Tensor, scores: Tensor) -> Tensor:
    return scores if ids.shape[1] < rule.size else _without_ngrams(ids.unfold(1, rule.size, 1), ids, scores)


def min_length(rule: rules.MinLength, ids: Tensor, scores: Tensor) -> Tensor:
    return _without(scores, rule.end) if ids.shape[1] < rule.length else scores


def min_new_tokens(rule: rules.MinNewTokens, ids: Tensor, scores: Tensor) -> Tensor:
    return _without(scores, rule.end) if ids.shape[1] - rule.prompt_length < rule.length else scores


def prefix_allowed(rule: rules.PrefixAllowed, ids: Tensor, scores: Tensor) -> Tensor:
    kept = torch.full_like(scores, NEVER)
    for row, so_far in enumerate(ids):
        allowed = list(rule.allowed(row // rule.beams, so_far))
        if not allowed:
            raise ValueError(
                f"`prefix_allowed_tokens_fn` must allow at least one token, got none for row {row // rule.beams} "
                f"after {so_far.tolist()}."
            )
        kept[row, allowed] = scores[row, allowed]
    return kept


def forced_begin(rule: rules.ForcedBegin, ids: Tensor, scores: Tensor) -> Tensor:
    return _only(scores, (rule.token,)) if ids.shape[1] == 1 else scores


def forced_end(rule: rules.ForcedEnd, ids: Tensor, scores: Tensor) -> Tensor:
    return _only(scores, rule.tokens) if ids.shape[1] == rule.max_length - 1 else scores


def remove_invalid(rule: rules.RemoveInvalid, ids: Tensor, scores: Tensor) -> Tensor:
    return scores.nan_to_num_(nan=0.0)


def decay_length(rule: rules.DecayLength, ids: Tensor, scores: Tensor) -> Tensor:
    past = ids.shape[1] - rule.start
    if past > 0 and rule.end:
        end = list(rule.end)
        ending = scores[:, end]
        # Differs from transformers 4.57.6: an impossible end stays impossible, where it becomes NaN and wins there.
        grown = ending + ending.abs() * (rule.factor**past - 1)
        scores[:, end] = torch.where(ending.isinf(), ending, grown)
    return scores


def suppress(rule: rules.Suppress, ids: Tensor, scores: Tensor) -> Tensor:
    return _without(scores, rule.tokens)


def suppress_at_begin(rule: rules.SuppressAtBegin, ids: Tensor, scores: Tensor) -> Tensor:
    return _without(scores, rule.tokens) if ids.shape[1] == rule.length else scores


def temperature(rule: rules.Temperature, ids: Tensor, scores: Tensor) -> Tensor:
    return scores.div_(rule.temperature)


def top_k(rule: rules.TopK, ids: Tensor, scores: Tensor) -> Tensor:
    last = scores.topk(min(rule.count, scores.shape[1])).values[:, -1:]
    return scores.masked_fill_(scores < last, NEVER)


def top_p(rule: rules.TopP, ids: Tensor, scores: Tensor) -> Tensor:
    ordered, places = scores.sort()
    dropped = ordered.softmax(-1).cumsum(-1) <= 1 - rule.mass
    dropped[:, -rule.at_least :] = False
    return scores.masked_fill_(torch.zeros_like(dropped).scatter_(1, places, dropped), NEVER)


def min_p(rule: rules.MinP, ids: Tensor, scores: Tensor) -> Tensor:
    probabilities = scores.softmax(-1)
    dropped = probabilities < rule.share * probabilities.amax(-1, keepdim=True)
    kept = scores.topk(min(rule.at_least, scores.shape[1])).indices
    return scores.masked_fill_(dropped.scatter_(1, kept, False), NEVER)


def typical_p(rule: rules.TypicalP, ids: Tensor, scores: Tensor) -> Tensor:
    surprise = -scores.log_softmax(-1)
    entropy = ((-surprise).exp() * surprise).nansum(-1, keepdim=True)
    distance, places = (surprise - entropy).abs().sort()
    mass = scores.gather(1, places).softmax(-1).cumsum(-1)
    last = (mass < rule.mass).sum(1, keepdim=True).clamp_(max=scores.shape[1] - 1)
    dropped = distance > distance.gather(1, last)
    dropped[:, : rule.at_least] = False
    return scores.masked_fill_(torch.zeros_like(dropped).scatter_(1, places, dropped), NEVER)


def epsilon_cutoff(rule: rules.EpsilonCutoff, ids: Tensor, scores: Tensor) -> Tensor:
    return _cut(scores, scores.softmax(-1) < rule.epsilon, rule.at_least)


def eta_cutoff(rule: rules.EtaCutoff, ids: Tensor, scores: Tensor) -> Tensor:
    logs = scores.log_softmax(-1)
    entropy = -(logs.exp() * logs).nansum(-1, keepdim=True)
    least = (rule.epsilon**0.5 * (-entropy).exp()).clamp(max=rule.epsilon)
    return _cut(scores, logs.exp() < least, rule.at_least)


def renormalize(rule: rules.Renormalize, ids: Tensor, scores: Tensor) -> Tensor:
    return scores.log_softmax(-1)


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


def apply_rules(active: tuple[rules.Rule, ...], ids: Tensor, scores: Tensor) -> Tensor:
    """The scores after these rules, in order; `scores` [R, V] is overwritten."""
    for rule in active:
        scores = FUNCTIONS[type(rule)](rule, ids, scores)
    return scores


def _without(scores: Tensor, tokens: tuple[int, ...]) -> Tensor:
    scores[:, list(tokens)] = NEVER
    return scores


def _only(scores: Tensor, tokens: tuple[int, ...]) -> Tensor:
    scores.fill_(NEVER)
    scores[:, list(tokens)] = 0.0
    return scores


def _per_row(source: Tensor, scores: Tensor) -> Tensor:
    """The source's ids [B, S] for each row of the scores [R, V]."""
    return source.repeat_interleave(scores.shape[0] // source.shape[0], 0)


def _without_ngrams(ngrams: Tensor, ids: Tensor, scores: Tensor) -> Tensor:
    """Forbid the last word of each n-gram [R, any, n] whose first words are the latest of ids [R, length]."""
    begun = ids[:, ids.shape[1] + 1 - ngrams.shape[2] :]
    is_begun = (ngrams[:, :, :-1] == begun[:, None]).all(-1)
    # The smaller of score and limit, in place: no list of hits, for which a device would have to be waited for.
    return scores.scatter_reduce_(1, ngrams[:, :, -1], torch.where(is_begun, NEVER, -NEVER), "amin")


def _cut(scores: Tensor, dropped: Tensor, at_least: int) -> Tensor:
    """Drop words, but not the `at_least` best of a row nor what ties with the last of them."""
    last = scores.topk(min(at_least, scores.shape[1])).values[:, -1:]
    return scores.masked_fill_(dropped & (scores < last), NEVER)
