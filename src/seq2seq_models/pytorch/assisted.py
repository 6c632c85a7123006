"""Assisted decoding: a smaller model drafts some tokens, and the model reads them all at once.

What comes out is what the model alone would have written: the same tokens in greedy search, the same distribution in
sampling. Letters in shapes: R rows, c drafted tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.decoding import Plan
from ..core.outputs import BaseModelOutputWithPastAndCrossAttentions
from ..core.strategies import AssistantOptions

if TYPE_CHECKING:
    from .steps import DecoderSteps, Scorer, Stop


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
        steps: runs the assistant's decoder.
        scorer: applies the rules, the same as for the model.
        options: how many tokens, and when to end a draft early.
        end: ids that end a sequence.
        generator: the random stream for sampling; greedy search if None.
    """

    def __init__(
        self,
        steps: DecoderSteps,
        scorer: Scorer,
        options: AssistantOptions,
        end: tuple[int, ...],
        generator: torch.Generator | None,
    ) -> None:
        self.steps, self.scorer, self.options, self.generator = steps, scorer, options, generator
        self.end = frozenset(end)
        self.tokens = options.tokens
        self.positions = steps.model.config.max_position_embeddings

    def __call__(self, sequences: Tensor, length: int) -> list[Tensor]:
        """Writes a draft into sequences [1, L] from `length` on; the probabilities [1, V] of each of its tokens."""
        probabilities: list[Tensor] = []
        # One place is left for the model's own token; the assistant may have fewer positions than the model.
        most = min(self.tokens, sequences.shape[1] - length - 1, self.positions - length + 1)
        for place in range(length, length + most):
            so_far = sequences[:, :place]
            chances = self.scorer.score(so_far, self.steps(so_far)).softmax(-1)
            probabilities.append(chances)
            if self.generator is None:
                token = chances.argmax(-1)
            else:
                token = torch.multinomial(chances, 1, generator=self.generator)[:, 0]
            sequences[:, place] = token
            if int(token) in self.end or float(chances[0, token]) < self.options.threshold:
                break
        return probabilities

    def learn(self, drafted: int, kept: int, length: int) -> None:
        """After the model kept some of the drafted tokens: how many to draft next, and from which length."""
        if self.options.schedule != "constant":
            self.tokens = self.tokens + 2 if kept == drafted else max(1, self.tokens - 1)
        self.steps.crop(length - 1)


class AssistedDecoding:
    """Writes one sequence with drafts: greedy search, or sampling if the plan samples.

    Args:
        steps: runs the model's decoder.
        scorer: applies the rules.
        stop: says when the sequence is over.
        draft: the assistant.
        plan: the lengths.
    """

    def __init__(self, steps: DecoderSteps, scorer: Scorer, stop: Stop, draft: Draft, plan: Plan) -> None:
        self.steps, self.scorer, self.stop, self.draft, self.plan = steps, scorer, stop, draft, plan

    def __call__(self, ids: Tensor, show: Callable[[Tensor], Any] | None = None) -> Tensor:
        """The sequence, int64 [1, length], that goes on from ids [1, length]; every new token goes to `show` first."""
        length = ids.shape[1]
        sequences = ids.new_full((1, self.plan.max_length), self.plan.pad)
        sequences[:, :length] = ids
        is_over = False
        while not is_over:
            drafts = self.draft(sequences, length)
            outputs = self.steps.run(sequences[:, : length + len(drafts)])
            logits = self.steps.logits(outputs.last_hidden_state[:, -len(drafts) - 1 :])
            raw = logits.clone() if self.scorer.keeps_logits else logits
            places = range(len(drafts) + 1)
            scores = [self.scorer.score(sequences[:, : length + i], logits[:, i]) for i in places]
            kept = self._settle(sequences, length, scores, drafts)
            over = [self.stop(sequences[:, : length + i + 1], scores[i]) for i in range(kept + 1)]
            flags = torch.cat(over).tolist()
            new = flags.index(True) + 1 if True in flags else kept + 1
            for i in range(new):
                self.scorer.record(raw[:, i], scores[i])
                self.steps.record(self._at(outputs, i, length, len(drafts)))
                if show is not None:
                    show(sequences[:, length + i])
            length += new
            self.steps.crop(length - 1)
            self.draft.learn(len(drafts), kept, length)
            is_over = True in flags
        return sequences[:, :length]

    def _settle(self, sequences: Tensor, length: int, scores: list[Tensor], drafts: list[Tensor]) -> int:
        """How many drafted tokens stay; the token after them is written in their row."""
        candidates = sequences[:, length : length + len(drafts)]
        stacked = torch.stack(scores, 1)
        if self.draft.generator is None:
            tokens = stacked.argmax(-1)
            kept = int((tokens[:, :-1] == candidates).long().cumprod(1).sum())
            sequences[:, length + kept] = tokens[:, kept]
            return kept
        drafted = torch.stack(drafts, 1) if drafts else stacked[:, :0]
        many, token = accept(stacked.softmax(-1), drafted, candidates, self.draft.generator)
        kept = int(many)
        sequences[:, length + kept] = token
        return kept

    def _at(self, outputs: Any, index: int, length: int, drafted: int) -> Any:
        """The decoder's outputs as if the tokens that give the new token at `index` had been read alone."""
        if not self.steps.keeps_outputs:
            return outputs
        queries = outputs.last_hidden_state.shape[1]
        last = queries - drafted + index
        first = 0 if index == 0 or self.steps.cache is None else last - 1
        hidden, own, cross = outputs.hidden_states, outputs.attentions, outputs.cross_attentions
        return BaseModelOutputWithPastAndCrossAttentions(
            hidden_states=None if hidden is None else tuple(one[:, first:last] for one in hidden),
            attentions=None if own is None else tuple(one[:, :, first:last, : length + index] for one in own),
            cross_attentions=None if cross is None else tuple(one[:, :, first:last] for one in cross),
        )
