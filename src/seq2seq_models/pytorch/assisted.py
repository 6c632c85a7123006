"""Assisted decoding: a smaller model drafts some tokens, and the model reads them all at once.

What comes out is what the model alone would have written: the same tokens in greedy search, the same distribution in
sampling. Letters in shapes: R rows, c drafted tokens, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.generation.task import Found, Task
from ..core.strategies import AssistantOptions

if TYPE_CHECKING:
    from .decoder import Details


def accept(
    wanted: Tensor, drafted: Tensor, candidates: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """How many candidates stay, int64 [R], and the token after them, int64 [R], so that all follow `wanted`.

    A candidate stays with probability min(1, wanted / drafted); the first that does not is drawn anew from what
    `wanted` has more than `drafted`.

    Args:
        wanted: the model's probabilities at every candidate's place and the one after them [R, c + 1, V].
        drafted: the probabilities that the candidates were drawn from [R, c, V].
        candidates: int64 [R, c].
        generator: the random stream.

    Source: Leviathan et al. 2022 (speculative decoding), algorithm 1.
    """
    place = candidates[..., None]
    chance, drafted_chance = wanted[:, :-1].gather(2, place)[..., 0], drafted.gather(2, place)[..., 0]
    number = torch.rand(candidates.shape, generator=generator, device=candidates.device)
    kept = (number * drafted_chance < chance).long().cumprod(1).sum(1)
    row = torch.arange(len(kept), device=kept.device)
    after = wanted[row, kept]
    none = torch.zeros_like(wanted[:, :1])
    left = (after - torch.cat([drafted, none], 1)[row, kept]).clamp(min=0.0)
    left = torch.where(left.sum(-1, keepdim=True) > 0, left, after)  # nothing is left where both are the same
    return kept, torch.multinomial(left, 1, generator=generator)[:, 0]


class Draft:
    """The assistant's side: what it would write next.

    Args:
        task: the assistant's decoder, and the rules, the same as for the model.
        options: how many tokens, and when to end a draft early.
        positions: of the assistant, which may have fewer than the model.
        generator: the random stream for sampling; greedy search if None.
    """

    def __init__(
        self, task: Task, options: AssistantOptions, positions: int, generator: torch.Generator | None
    ) -> None:
        self.task, self.options, self.positions, self.generator = task, options, positions, generator
        self.tokens = options.tokens

    def __call__(self, sequences: Tensor, length: int) -> list[Tensor]:
        """Writes a draft into sequences [1, L] from `length` on; the probabilities [1, V] of each of its tokens."""
        probabilities: list[Tensor] = []
        # One place is left for the model's own token.
        most = min(self.tokens, sequences.shape[1] - length - 1, self.positions - length + 1)
        for place in range(length, length + most):
            logits, _, _ = self.task.decoder.next_logits(sequences, place, None)
            chances = self.task.score(sequences, place, logits).softmax(-1)
            probabilities.append(chances)
            if self.generator is None:
                token = chances.argmax(-1)
            else:
                token = torch.multinomial(chances, 1, generator=self.generator)[:, 0]
            sequences[:, place] = token
            if int(token) in self.task.settings.end or float(chances[0, token]) < self.options.threshold:
                break
        return probabilities

    def learn(self, drafted: int, kept: int, length: int) -> None:
        """After the model kept some of the drafted tokens: how many to draft next, and from which length."""
        if self.options.schedule != "constant":
            self.tokens = self.tokens + 2 if kept == drafted else max(1, self.tokens - 1)
        decoder: Any = self.task.decoder
        decoder.crop(length - 1)


def assisted_search(task: Task, draft: Draft) -> Found:
    """One sequence that a draft goes ahead of: greedy search, or sampling if the task samples."""
    decoder: Any = task.decoder
    numbers, host, sequences = task.numbers, task.host, task.ids
    length, is_over = numbers.prompt_length, False
    while not is_over:
        drafts = draft(sequences, length)
        logits, details, queries = decoder.tail(sequences[:, : length + len(drafts)], len(drafts) + 1)
        raw = logits.clone()
        scores = [task.score(sequences, length + i, logits[:, i]) for i in range(len(drafts) + 1)]
        kept = _settle(sequences, length, scores, drafts, draft.generator)
        for i in range(kept + 1):
            length += 1
            host.on_logits(raw[:, i])
            own = _at(details, i, length - i - 1, queries - len(drafts) + i, decoder.cache is None)
            host.on_scores(scores[i], own, length - 1)
            stopped = host.should_stop(sequences, length, scores[i])
            is_over = bool(task.is_end(sequences[:, length - 1])) or length >= numbers.max_length
            is_over = is_over or (stopped is not None and bool(stopped.all()))
            host.on_tokens({"ids": sequences, "length": length})
            if is_over:
                break
        decoder.crop(length - 1)
        draft.learn(len(drafts), kept, length)
    return Found(sequences, length)


def _settle(
    sequences: Tensor, length: int, scores: list[Tensor], drafts: list[Tensor], generator: torch.Generator | None
) -> int:
    """How many drafted tokens stay; the token after them is written in their row."""
    candidates = sequences[:, length : length + len(drafts)]
    stacked = torch.stack(scores, 1)
    if generator is None:
        tokens = stacked.argmax(-1)
        kept = int((tokens[:, :-1] == candidates).long().cumprod(1).sum())
        sequences[:, length + kept] = tokens[:, kept]
        return kept
    drafted = torch.stack(drafts, 1) if drafts else stacked[:, :0]
    many, token = accept(stacked.softmax(-1), drafted, candidates, generator)
    kept = int(many)
    sequences[:, length + kept] = token
    return kept


def _at(details: Details, index: int, length: int, last: int, is_whole: bool) -> Details:
    """The details as if the tokens that give the new token at `index` had been read alone.

    Args:
        details: of all tokens that were read.
        index: of the new token among those of this round.
        length: of the sequence before this round.
        last: of the tokens that were read, how many that new token follows from.
        is_whole: whether every step reads all tokens, as without a cache.
    """
    own, cross, hidden = details
    first = 0 if index == 0 or is_whole else last - 1
    return (
        None if own is None else tuple(one[:, :, first:last, : length + index] for one in own),
        None if cross is None else tuple(one[:, :, first:last] for one in cross),
        None if hidden is None else tuple(one[:, first:last] for one in hidden),
    )
