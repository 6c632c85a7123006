"""Contrastive search: of the likely next words, the one whose state is least like the states before it.

Letters in shapes: B inputs, k candidates, L maximum length, D model, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.decoding import Plan

if TYPE_CHECKING:
    from .generation import DecoderSteps


class ContrastiveSearch:
    """Runs the decoder for contrastive search: logits of the next token, and then the choice among the k best.

    All candidates of an input are read in one run, side by side at the same position: each sees what came before and
    itself. So the cache is not copied per candidate, and the one that is chosen just stays in it. With `low_memory`
    they are read one after the other, and the chosen one once more; without a cache, each with all before it.

    Args:
        steps: runs the decoder.
        plan: the lengths, `penalty_alpha` and `top_k`.

    Source: Su et al. 2022 (a contrastive framework for neural text generation), section 3.2.
    """

    def __init__(self, steps: DecoderSteps, plan: Plan) -> None:
        self.steps, self.plan = steps, plan
        assert plan.config.penalty_alpha is not None
        self.alpha = plan.config.penalty_alpha
        self.one_by_one = bool(plan.config.low_memory)
        self.context = torch.empty(0)  # directions of the states so far [B, L, D]
        self.ignored: Tensor | None = None  # where the prompt is padding [B, 1, length]
        self.next: tuple[Any, Tensor] | None = None  # outputs and state of the token that was chosen
        self.mask: Tensor | None = None

    def __call__(self, ids: Tensor) -> Tensor:
        """Logits of the next token, float32 [B, V], for all tokens so far, int64 [B, length]."""
        if self.next is None:
            outputs = self.steps.run(ids)
            hidden = outputs.last_hidden_state
            if self.context.numel() == 0:
                self._begin(ids, hidden)
            self.next = (outputs, hidden[:, -1])
        outputs, hidden = self.next
        self.steps.record(outputs)
        return self.steps.logits(hidden)

    def choose(self, ids: Tensor, scores: Tensor) -> Tensor:
        """The next token of each row, int64 [B], for ids [B, length] and the scores after the rules [B, V].

        It has the greatest (1 - alpha) * probability - alpha * the greatest cosine to a state before.
        """
        length = ids.shape[1]
        top_k = self.plan.config.top_k or 1
        probabilities, candidates = scores.softmax(-1).topk(min(top_k, scores.shape[1]))
        outputs, hidden = self._look_ahead(ids, candidates)
        directions = hidden / hidden.norm(dim=-1, keepdim=True)
        cosines = directions @ self.context[:, :length].transpose(1, 2)  # [B, k, length]
        if self.ignored is not None:
            cosines[:, :, : self.ignored.shape[2]].masked_fill_(self.ignored, torch.finfo(cosines.dtype).min)
        chosen = ((1.0 - self.alpha) * probabilities - self.alpha * cosines.amax(-1)).argmax(-1)
        row = torch.arange(len(chosen), device=chosen.device)
        self.context[:, length] = directions[row, chosen]
        self.next = None
        if outputs is not None:
            self.next = (self._keep(outputs, chosen, length), hidden[row, chosen])
        return candidates[row, chosen]

    def finish(self, length: int) -> None:
        """Forget the last of `length` tokens in the cache, which other strategies would not have read."""
        self.steps.crop(length - 1)

    def _begin(self, ids: Tensor, hidden: Tensor) -> None:
        rows, length, width = hidden.shape
        self.context = hidden.new_empty(rows, self.plan.max_length, width)
        self.context[:, :length] = hidden / hidden.norm(dim=-1, keepdim=True)
        if self.steps.decoder_mask is not None:
            self.ignored = (self.steps.decoder_mask == 0)[:, None]

    def _look_ahead(self, ids: Tensor, candidates: Tensor) -> tuple[Any, Tensor]:
        """What the decoder returns for the candidates [B, k], and their states [B, k, D].

        One by one, nothing of it is kept but the states.
        """
        if self.one_by_one:
            return None, torch.stack([self._state(ids, token[:, None]) for token in candidates.unbind(1)], 1)
        rows, count = candidates.shape
        if self.steps.cache is None:
            longer = torch.cat([ids.repeat_interleave(count, 0), candidates.reshape(-1, 1)], 1)
            outputs = self.steps.run(longer, self.steps.mask(longer.shape[1], count))
            return outputs, outputs.last_hidden_state[:, -1].view(rows, count, -1)
        length = ids.shape[1]
        positions = torch.full((count,), length, device=ids.device)
        outputs = self.steps.run(candidates, self._side_by_side(length, candidates), positions)
        return outputs, outputs.last_hidden_state

    def _state(self, ids: Tensor, token: Tensor) -> Tensor:
        """The state [B, D] that a token [B, 1] has after ids."""
        length = ids.shape[1]
        outputs = self.steps.run(torch.cat([ids, token], 1))
        self.steps.crop(length)
        state: Tensor = outputs.last_hidden_state[:, -1]
        return state

    def _side_by_side(self, length: int, candidates: Tensor) -> Tensor:
        """The additive mask [B or 1, 1, k, length + k] under which no candidate sees another."""
        count, lowest = candidates.shape[1], torch.finfo(self.context.dtype).min
        if self.mask is None:
            rows = 1 if self.ignored is None else len(candidates)
            self.mask = self.context.new_zeros(rows, 1, count, self.plan.max_length + count)
            if self.ignored is not None:
                self.mask[..., : self.ignored.shape[2]].masked_fill_(self.ignored[:, None], lowest)
        self.mask[..., length - 1].masked_fill_(self.mask[..., length - 1] < 0, 0.0)
        return self.mask

    def _keep(self, outputs: Any, chosen: Tensor, length: int) -> Any:
        return outputs
