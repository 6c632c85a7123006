"""Assisted decoding: a smaller model, or a look into the source, drafts tokens; the model reads them all at once.

What comes out is what the model alone would have written: the same tokens in greedy search, the same distribution in
sampling. Letters in shapes: R rows, c drafted tokens, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
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

    def __call__(self, sequences: Tensor, length: int, is_open: Tensor) -> list[Tensor]:
        """Writes a draft into sequences [R, L] from `length` on; the probabilities [R, V] of each of its tokens."""
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
            is_unsure = chances.gather(1, token[:, None])[:, 0] < self.options.threshold
            if bool((self.task.is_end(token) | is_unsure | ~is_open).all()):
                break
        return probabilities

    def learn(self, drafted: int, kept: int, length: int) -> None:
        """After the model kept some of the drafted tokens: how many to draft next, and from which length."""
        if self.options.schedule != "constant":
            self.tokens = self.tokens + 2 if kept == drafted else max(1, self.tokens - 1)
        decoder: Any = self.task.decoder
        decoder.crop(length - 1)


class LookupDraft:
    """Drafts what followed the latest tokens where they stood before: in the source, or in what was written.

    Args:
        source: the source's ids, int [R, S], or None.
        count: tokens drafted at once, at most.
        longest: of the latest tokens, how many are looked up together, at most; fewer where they are found nowhere.
        vocabulary: V.
        generator: the random stream for sampling; greedy search if None.

    Source: Saxena 2023 (prompt lookup decoding), which looks in the decoder's prompt; here the source comes first.
    """

    def __init__(
        self, source: Tensor | None, count: int, longest: int, vocabulary: int, generator: torch.Generator | None
    ) -> None:
        self.source = None if source is None else source.cpu().numpy()
        self.count, self.longest, self.vocabulary, self.generator = count, longest, vocabulary, generator

    def __call__(self, sequences: Tensor, length: int, is_open: Tensor) -> list[Tensor]:
        """As `Draft` does; each token has the probability 1, and greedy search gets the tokens instead [R]."""
        most = min(self.count, sequences.shape[1] - length - 1)
        written, rows = sequences[:, :length].cpu().numpy(), is_open.nonzero()[:, 0].tolist()
        found = {row: self._following(row, written[row])[:most] for row in rows}
        size = min(map(len, found.values()))
        for row, tokens in found.items():
            sequences[row, length : length + size] = torch.as_tensor(tokens[:size].copy(), device=sequences.device)
        drafted = sequences[:, length : length + size]
        if self.generator is not None:
            drafted = torch.nn.functional.one_hot(drafted, self.vocabulary).float()
        return list(drafted.unbind(1))

    def learn(self, drafted: int, kept: int, length: int) -> None:
        """Nothing is learnt."""

    def _following(self, row: int, written: Any) -> Any:
        """The tokens after an earlier occurrence of the latest ones, the longest run first; none if there is none."""
        texts = (written,) if self.source is None else (self.source[row], written)
        for size in range(min(self.longest, len(written)), 0, -1):
            latest = written[len(written) - size :]
            for text in texts:
                if len(text) <= size:
                    continue
                # A run at the very end is followed by nothing.
                same = (np.lib.stride_tricks.sliding_window_view(text[:-1], size) == latest).all(1)
                if same.any():
                    start = int(same.argmax()) + size
                    return text[start : start + self.count]
        return written[:0]


def assisted_search(task: Task, draft: Draft | LookupDraft) -> Found:
    """Sequences that a draft goes ahead of: greedy search, or for one row sampling if the task samples.

    All rows go on by the same number of tokens, that of the row that keeps the fewest.
    """
    decoder: Any = task.decoder
    numbers, settings, host, sequences = task.numbers, task.settings, task.host, task.ids
    length = numbers.prompt_length
    is_open = torch.ones(len(sequences), dtype=torch.bool, device=sequences.device)
    while bool(is_open.any()) and length < numbers.max_length:
        drafted = draft(sequences, length, is_open)
        count = len(drafted)
        logits, details, queries = decoder.tail(sequences[:, : length + count], count + 1)
        raw = logits.clone()
        scores = [task.score(sequences, length + i, logits[:, i]) for i in range(count + 1)]
        tokens = _settled(task, sequences[:, length : length + count], scores, drafted, is_open, draft.generator)
        first = length
        for i, token in enumerate(tokens.unbind(1)):
            sequences[:, length] = torch.where(is_open, token, settings.pad) if settings.end else token
            length += 1
            host.on_logits(raw[:, i])
            host.on_scores(scores[i], _at(details, i, first, queries - count + i, decoder.cache is None), length - 1)
            is_open = is_open & ~task.is_end(token)
            stopped = host.should_stop(sequences, length, scores[i])
            is_open = is_open if stopped is None else is_open & ~stopped
            host.on_tokens({"ids": sequences, "length": length})
            if not bool(is_open.any()) or length >= numbers.max_length:
                break
        decoder.crop(length - 1)
        draft.learn(count, tokens.shape[1] - 1, length)
    return Found(sequences, length)


def _settled(
    task: Task,
    candidates: Tensor,
    scores: list[Tensor],
    drafted: list[Tensor],
    is_open: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """The drafted tokens that stay and the one after them, int64 [R, kept + 1]."""
    stacked = torch.stack(scores, 1)
    if generator is None:
        tokens = stacked.argmax(-1)
        is_end = task.is_end(candidates).long()
        is_over = (is_end.cumsum(1) > is_end) | ~is_open[:, None]  # what comes after an end counts nothing
        kept = int(((tokens[:, :-1] == candidates) | is_over).long().cumprod(1).sum(1).min())
        return tokens[:, : kept + 1]
    chances = torch.stack(drafted, 1) if drafted else stacked[:, :0]
    many, token = accept(stacked.softmax(-1), chances, candidates, generator)
    return torch.cat([candidates[:, : int(many)], token[:, None]], 1)


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
