"""Beam search: which continuations go on, which are finished, and when nothing better can come.

Letters in shapes: B inputs, n beams, k kept candidates, L maximum length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.decoding import Plan
from ..core.sampling import uniforms

BLOCK = 128
"""Scores that `largest` looks at together."""

RULED_OUT = -1e9
"""Added to a candidate's log-probability so that nothing real ranks below it; finite, so that sums stay finite."""


class BeamSearch:
    """The state of a beam search over B inputs with n beams each.

    Finished sequences are ranked by log-probability / length ** length_penalty, the length counting new tokens only.

    Args:
        ids: int64 prompts [B * n, length], each repeated n times.
        plan: lengths, end tokens, beams, length penalty and when to stop.

    Source: Wu et al. 2016, section 7, with length ** penalty for the length normalisation, as in fairseq.
    """

    def __init__(self, ids: Tensor, plan: Plan) -> None:
        self.plan = plan
        self.beams = plan.config.num_beams
        self.kept = max(2, 1 + len(plan.end)) * self.beams  # enough that n unfinished ones remain
        self.batch = ids.shape[0] // self.beams
        self.length = ids.shape[1]
        self.prompt_length = self.length
        self.is_over = False
        shape = (self.batch, self.beams)
        device, long, boolean = ids.device, torch.int64, torch.bool
        fill = plan.pad or plan.end[0] if plan.end else -1
        self.running = torch.full((*shape, plan.max_length), fill, dtype=long, device=device)
        self.running[:, :, : self.length] = ids.view(*shape, -1)
        self.finished = self.running.clone()
        # All beams of an input start equal: only the first counts, or the same continuation would win n times.
        self.running_scores = torch.zeros(shape, device=device)
        self.running_scores[:, 1:] = RULED_OUT
        self.finished_scores = torch.full(shape, RULED_OUT, device=device)
        self.is_finished = torch.zeros(shape, dtype=boolean, device=device)
        self.can_improve = torch.ones((self.batch, 1), dtype=boolean, device=device)
        # Which row of the step's scores each token came from, for `beam_indices`.
        self.running_rows = torch.full((*shape, plan.max_length - self.length), -1, dtype=long, device=device)
        self.finished_rows = self.running_rows.clone()
        self.first_row = torch.arange(self.batch, device=device)[:, None] * self.beams
        self.generators = generators(self.batch, device) if plan.config.do_sample else []
        self.is_top = torch.arange(self.kept, device=device) < self.beams
        self.totals: Tensor | None = None  # memory for the scores of a step, [B, n, V]

    def ids(self) -> Tensor:
        """The running beams' tokens so far, int64 [B * n, length]."""
        return self.running[:, :, : self.length].flatten(0, 1)

    def rows(self) -> Tensor:
        """For each running beam, the row of the last step it goes on from, int64 [B * n]."""
        return self.running_rows[:, :, self.length - 1 - self.prompt_length].flatten()

    def settled(self) -> int:
        """How many tokens all beams of each input have in common: they come from one beam, and so will all later ones.

        On a device the answer would have to be waited for: there it is none.
        """
        if self.running.device.type != "cpu":
            return 0
        running = self.running[:, :, : self.length]
        return int((running == running[:, :1]).flatten(0, 1).all(0).long().cumprod(0).sum())

    def step(self, scores: Tensor, stop: Callable[[Tensor, Any], Tensor]) -> None:
        """Extend every beam by one token.

        Args:
            scores: log-probabilities after the rules, float32 [B * n, V].
            stop: says which candidates [B * k, length + 1] are over.
        """
        totals, candidates, rows = self._candidates(scores)
        is_over = stop(candidates[:, :, : self.length + 1].flatten(0, 1), None).view(self.batch, -1)
        self._go_on(totals, candidates, rows, is_over)
        self._collect(totals, candidates, rows, is_over)
        self.length += 1
        self.can_improve &= self._improvement_possible()
        all_done = self.plan.config.early_stopping is True and bool(self.is_finished.all())
        self.is_over = all_done or not bool(self.can_improve.any()) or bool(is_over.all())

    def agreed(self) -> int:
        """How many tokens all that may still win for the first input have in common, the prompt included."""
        running = self.running[0, :, : self.length]
        finished = self.finished[0, :, : self.length][self.is_finished[0]]
        same = (torch.cat([running, finished]) == running[:1]).all(0)
        return int(same.long().cumprod(0).sum())

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sequences [B * returned, length], their scores, and the row each new token came from, -1 after the end."""
        returned = self.plan.config.num_return_sequences
        rows = self.finished_rows[:, :returned].flatten(0, 1)
        new = int((rows >= 0).sum(1).max())
        sequences = self.finished[:, :returned].flatten(0, 1)[:, : self.prompt_length + new]
        return sequences, self.finished_scores[:, :returned].flatten(), rows[:, :new]

    def _candidates(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The k best continuations of each input: total scores [B, k], tokens [B, k, L], rows [B, k, L - prompt]."""
        vocabulary = scores.shape[1]
        if self.totals is None:
            self.totals = torch.empty_like(scores).view(self.batch, self.beams, vocabulary)
        torch.add(scores.view_as(self.totals), self.running_scores[:, :, None], out=self.totals)
        totals = self.totals.flatten(1)
        if self.plan.config.do_sample:
            picked = self._draw(totals)
            totals = totals.gather(1, picked)
        else:
            totals, picked = largest(totals, min(self.kept, totals.shape[1]))
        beam, token = picked // vocabulary, picked % vocabulary
        candidates, rows = _take(self.running, beam), _take(self.running_rows, beam)
        candidates[:, :, self.length] = token
        rows[:, :, self.length - self.prompt_length] = beam + self.first_row
        return totals, candidates, rows

    def _draw(self, totals: Tensor) -> Tensor:
        """k different candidates per input, int64 [B, k], drawn by softmax(totals [B, n * V]), best draw first.

        The k largest of probability / noise are such a draw; each input has its own stream of noise.
        """
        noise = torch.empty_like(totals)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        return (totals.softmax(-1) / noise).topk(min(self.kept, totals.shape[1])).indices

    def _go_on(self, totals: Tensor, candidates: Tensor, rows: Tensor, is_over: Tensor) -> None:
        """The n best candidates that are not over become the running beams."""
        totals = totals + is_over.float() * RULED_OUT
        best = totals.topk(self.beams).indices
        self.running, self.running_rows = _take(candidates, best), _take(rows, best)
        self.running_scores = totals.gather(1, best)

    def _collect(self, totals: Tensor, candidates: Tensor, rows: Tensor, is_over: Tensor) -> None:
        """Candidates that are over join the finished sequences; the n best of those stay."""
        # Only the n best candidates count: the others are there so that enough unfinished ones remain.
        just_finished = is_over & self.is_top[: is_over.shape[1]]
        new = self.length + 1 - self.prompt_length
        totals = totals / new**self.plan.config.length_penalty
        if self.plan.config.early_stopping is True:
            totals = totals + self.is_finished.all(1, keepdim=True).float() * RULED_OUT
        totals = totals + (~self.can_improve).float() * RULED_OUT + (~just_finished).float() * RULED_OUT
        merged = torch.cat([self.finished_scores, totals], 1)
        best = merged.topk(self.beams).indices
        self.finished_scores = merged.gather(1, best)
        self.is_finished = torch.cat([self.is_finished, just_finished], 1).gather(1, best)
        self.finished = _take(torch.cat([self.finished, candidates], 1), best)
        self.finished_rows = _take(torch.cat([self.finished_rows, rows], 1), best)

    def _improvement_possible(self) -> Tensor:
        """Whether the best running beam could still beat the worst finished one, bool [B, 1].

        With `early_stopping="never"` and a positive penalty, it is judged at the greatest length it may reach,
        otherwise at its length now (a heuristic, and the default).
        """
        config = self.plan.config
        reaches_far = config.early_stopping == "never" and config.length_penalty > 0.0
        length = (self.plan.max_length if reaches_far else self.length) - self.prompt_length
        best_running = self.running_scores[:, :1] / float(length**config.length_penalty)
        worst = torch.where(self.is_finished, self.finished_scores.amin(1, keepdim=True), RULED_OUT)
        return (best_running > worst).any(1, keepdim=True)


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row and their places, both [B, count], largest first, as `topk` gives them.

    On a CPU the maximum of each block says which blocks to look into: that reads the row once, and sorts little.

    Args:
        values: [B, any].
    """
    size = values.shape[1]
    blocks = size // BLOCK
    if values.device.type != "cpu" or blocks < 4 * count:
        return _topk(values, count)
    inside = values[:, : blocks * BLOCK].view(len(values), blocks, BLOCK)
    chosen = inside.amax(2).topk(count).indices.sort().values
    # What is left over behind the blocks is looked at as a whole.
    few = torch.cat(
        [inside.gather(1, chosen[:, :, None].expand(-1, -1, BLOCK)).flatten(1), values[:, blocks * BLOCK :]], 1
    )
    top, place = few.topk(count)
    if not bool(top[:, -1].isfinite().all()):
        return _topk(values, count)  # among what is ruled out, it decides which come first
    block = chosen.gather(1, (place // BLOCK).clamp(max=count - 1))
    rest = place - count * BLOCK + blocks * BLOCK
    return top, torch.where(place < count * BLOCK, block * BLOCK + place % BLOCK, rest)


def _topk(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    top, place = values.topk(count)
    return top, place


def _take(tensor: Tensor, beam: Tensor) -> Tensor:
    """The beams [B, k] of a tensor [B, n, …]."""
    return tensor.gather(1, beam[:, :, None].expand(-1, -1, tensor.shape[2]))


def generators(rows: int, device: torch.device) -> list[torch.Generator]:
    """One random stream per row, following from one draw of PyTorch's default generator."""
    seeds = uniforms(int(torch.randint(2**62, ())), rows, 1)[:, 0]
    return [torch.Generator(device).manual_seed(int(seed * 2**53)) for seed in seeds]
