"""Diverse beam search: the beams of an input in groups, each group kept from saying what earlier ones say.

Letters in shapes: B inputs, G groups, g beams per group, n = G * g, k candidates, L maximum length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.decoding import Plan

if TYPE_CHECKING:
    from .steps import Scorer

RULED_OUT = -1e9
"""The score of beams that only repeat the first; finite, so that sums stay finite."""

LATE = 2**62
"""Above every number of an arrival."""


class DiverseBeamSearch:
    """The state of G beam searches over B inputs, run side by side, one group after the other within a step.

    Each group has its own finished sequences and its own end; the best of all groups come back, and their scores hold
    the penalties. A sequence is finished by an end token, or open when the length, the time or a criterion of the
    user's, which all beams must meet, ends the search.

    Args:
        ids: int64 prompts [B * n, length], each repeated n times.
        plan: lengths, end tokens, beams and groups, penalties, and when to stop.

    Source: Vijayakumar et al. 2016 (diverse beam search), section 4; ends and ranking as in transformers 4.51.3.
    """

    # Differs from transformers 4.51.3: its `beam_indices` count within a group, and for all groups within the first;
    # here they are rows of the scores. A sequence that ended with the second of several end tokens shows that one,
    # not the first; a sequence cut short by time or a criterion does not get an end token that it never had.

    def __init__(self, ids: Tensor, plan: Plan) -> None:
        self.plan = plan
        config = plan.config
        self.groups = config.num_beam_groups
        self.size = config.num_beams // self.groups
        self.kept = max(2, 1 + len(plan.end)) * self.size  # enough that g unfinished ones remain
        self.batch = ids.shape[0] // config.num_beams
        self.length = self.prompt_length = ids.shape[1]
        self.is_over = False
        shape, device = (self.batch, self.groups, self.size), ids.device
        self.end = torch.tensor(plan.end, dtype=torch.int64, device=device)
        self.running = ids.new_full((*shape, plan.max_length), plan.pad)
        self.running[..., : self.length] = ids.view(*shape, -1)
        # All beams of a group start equal: only the first counts, or the same continuation would win g times.
        self.scores = torch.zeros(shape, device=device)
        self.scores[:, :, 1:] = RULED_OUT
        self.running_rows = torch.full((*shape, plan.max_length - self.length), -1, device=device)
        self.is_done = torch.zeros(shape[:2], dtype=torch.bool, device=device)
        # Finished sequences lie in places; `arrivals` says in which order they came, -1 where a place is free.
        self.finished = self.running.clone()
        self.finished_rows = self.running_rows.clone()
        self.finished_scores = torch.full(shape, -float("inf"), dtype=torch.float64, device=device)
        self.arrivals = torch.full(shape, -1, device=device)
        self.arrived = 0
        first = torch.arange(self.batch * self.groups, device=device) * self.size
        self.first_row = first.view(self.batch, self.groups, 1)

    def ids(self) -> Tensor:
        """The running beams' tokens so far, int64 [B * n, length]."""
        return self.running[..., : self.length].flatten(0, 2)

    def rows(self) -> Tensor:
        """For each running beam, the row of the last step it goes on from, int64 [B * n]."""
        return self.running_rows[..., self.length - 1 - self.prompt_length].flatten()

    def step(self, logits: Tensor, scorer: Scorer, stop: Callable[[Tensor, Any], Tensor]) -> None:
        """Extend every beam by one token.

        Args:
            logits: of the next token, float32 [B * n, V].
            scorer: applies the rules to a group's beams, with the tokens that earlier groups chose.
            stop: says which beams [B * n, length + 1] are over.
        """
        scores = logits.log_softmax(-1).view(self.batch, self.groups, self.size, -1)
        ruled = []
        for group in range(self.groups):
            taken = self.running[:, :group, :, self.length].flatten(1)
            ids = self.running[:, group, :, : self.length].flatten(0, 1)
            ruled.append(scorer.score(ids, scores[:, group].flatten(0, 1), taken).view(self.batch, self.size, -1))
            self._extend(group, ruled[-1])
        if scorer.keeps_logits or scorer.keeps_scores:
            scorer.record(logits, torch.stack(ruled, 1).flatten(0, 2))
        self.length += 1
        over = stop(self.ids(), None).view_as(self.scores) | self.is_done[:, :, None]
        self.is_over = bool(self.is_done.all() | over.all())

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sequences [B * returned, length], their scores, and the row each new token came from, -1 after the end."""
        for group in range(self.groups):
            for beam in range(self.size):
                total, ids = self.scores[:, group, beam], self.running[:, group, beam]
                self._add(group, total, ids, self.running_rows[:, group, beam], ~self.is_done[:, group], self.length)
        # Of equal scores the one that came last is first: so the order of transformers 4.51.3 has it.
        by_arrival = self.arrivals.argsort(-1)
        scores = self.finished_scores.gather(2, by_arrival).flatten(1)
        order = scores.argsort(dim=-1, stable=True).flip(-1)[:, : self.plan.config.num_return_sequences]
        places = (by_arrival + (self.first_row - self.first_row[:, :1])).flatten(1).gather(1, order)
        rows = _take(self.finished_rows.flatten(1, 2), places).flatten(0, 1)
        new = int((rows >= 0).sum(1).max())
        sequences = _take(self.finished.flatten(1, 2), places).flatten(0, 1)[:, : self.prompt_length + new]
        return sequences, scores.gather(1, order).flatten().float(), rows[:, :new]

    def _extend(self, group: int, scores: Tensor) -> None:
        """One token more for a group's beams, whose scores are [B, g, V]."""
        totals, picked = (scores + self.scores[:, group, :, None]).flatten(1).topk(self.kept)
        beam, token = picked // scores.shape[2], picked % scores.shape[2]
        candidates, rows = _take(self.running[:, group], beam), _take(self.running_rows[:, group], beam)
        candidates[..., self.length] = token
        rows[..., self.length - self.prompt_length] = beam + self.first_row[:, group]
        is_done, is_end = self.is_done[:, group], torch.isin(token, self.end)
        for rank in range(self.size):  # ends below the g best do not count, so that g beams may go on
            wanted = is_end[:, rank] & ~is_done
            self._add(group, totals[:, rank], candidates[:, rank], rows[:, rank], wanted, self.length + 1)
        best = is_end.long().argsort(dim=-1, stable=True)[:, : self.size]
        self.running[:, group], self.running_rows[:, group] = _take(candidates, best), _take(rows, best)
        self.running[:, group, :, self.length].masked_fill_(is_done[:, None], self.plan.pad)
        self.scores[:, group] = totals.gather(1, best)
        self.is_done[:, group] |= self._improves_no_more(group, totals[:, 0])

    def _add(self, group: int, total: Tensor, ids: Tensor, rows: Tensor, wanted: Tensor, length: int) -> None:
        """A sequence [B, L] joins the finished ones of a group where it is `wanted` [B] and one of the g best."""
        score = total.double() / float((length - self.prompt_length) ** self.plan.config.length_penalty)
        held, arrivals = self.finished_scores[:, group], self.arrivals[:, group]
        worst = held.amin(1)
        # A free place is the worst and the earliest; of equally bad sequences the earliest goes.
        place = torch.where(held == worst[:, None], arrivals, LATE).argmin(1)[:, None]
        accepted = wanted & ((score > worst) | (arrivals < 0).any(1))
        for held_tensor, new in (
            (self.finished_scores, score),
            (self.arrivals, torch.full_like(place[:, 0], self.arrived)),
            (self.finished, ids),
            (self.finished_rows, rows),
        ):
            _put(held_tensor[:, group], place, new, accepted)
        self.arrived += 1

    def _improves_no_more(self, group: int, best: Tensor) -> Tensor:
        """Whether a group is over: it has g finished sequences, and its best candidate [B] cannot beat the worst."""
        config = self.plan.config
        is_full = (self.arrivals[:, group] >= 0).all(1)
        if config.early_stopping is True:
            return is_full
        reaches_far = config.early_stopping == "never" and config.length_penalty > 0.0
        length = (self.plan.max_length if reaches_far else self.length + 1) - self.prompt_length
        worst = self.finished_scores[:, group].amin(1)
        return is_full & (worst >= best.double() / float(length**config.length_penalty))


def _take(tensor: Tensor, places: Tensor) -> Tensor:
    """The places [B, k] of a tensor [B, any, …]."""
    return tensor.gather(1, places[:, :, None].expand(-1, -1, tensor.shape[2]))


def _put(tensor: Tensor, place: Tensor, new: Tensor, accepted: Tensor) -> None:
    """Writes `new` [B, …] at the place [B, 1] of a tensor [B, any, …], in the rows that are accepted [B]."""
    index = place.view(-1, *[1] * (tensor.dim() - 1)).expand(-1, 1, *tensor.shape[2:])
    mask = accepted.view(-1, *[1] * (tensor.dim() - 1))
    tensor.scatter_(1, index, torch.where(mask, new[:, None], tensor.gather(1, index)))
