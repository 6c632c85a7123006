"""Contrastive search: of the likely next words, the one whose state is least like the states before it.

Letters in shapes: B inputs, k candidates, L maximum length, D model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.decoding import Plan
from ..core.outputs import BaseModelOutputWithPastAndCrossAttentions

if TYPE_CHECKING:
    from .steps import DecoderSteps


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
        self.room: Tensor | None = None  # of the mask, for every length

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
        length = ids.shape[1]
        if self.steps.cache is None:
            longer = torch.cat([ids.repeat_interleave(count, 0), candidates.reshape(-1, 1)], 1)
            outputs = self.steps.read(longer, self.steps.mask(length + 1, count))
            return outputs, outputs.last_hidden_state[:, -1].view(rows, count, -1)
        positions = torch.full((count,), length, device=ids.device)
        outputs = self.steps.read(candidates, self._side_by_side(length, candidates), positions)
        return outputs, outputs.last_hidden_state

    def _state(self, ids: Tensor, token: Tensor) -> Tensor:
        """The state [B, D] that a token [B, 1] has after ids."""
        outputs = self.steps.run(torch.cat([ids, token], 1))
        self.steps.crop(ids.shape[1])
        state: Tensor = outputs.last_hidden_state[:, -1]
        return state

    def _side_by_side(self, length: int, candidates: Tensor) -> Tensor:
        """The additive mask [B or 1, 1, k, length + k] under which no candidate sees another."""
        count, lowest = candidates.shape[1], torch.finfo(self.context.dtype).min
        if self.room is None:
            rows = 1 if self.ignored is None else len(candidates)
            self.room = self.context.new_zeros(rows, 1, count, self.plan.max_length + count)
            if self.ignored is not None:
                self.room[..., : self.ignored.shape[2]].masked_fill_(self.ignored[:, None], lowest)
            self.apart = self.context.new_full((count, count), lowest).fill_diagonal_(0.0)
        if length > self.plan.prompt_length:
            self.room[..., length - 1] = 0.0  # what was a candidate's place in the last step
        self.room[..., length : length + count] = self.apart
        return self.room[..., : length + count]

    def _keep(self, outputs: Any, chosen: Tensor, length: int) -> Any:
        """The outputs as if the chosen tokens [B] had been read alone; the others leave the cache."""
        if self.steps.cache is None:
            row = torch.arange(len(chosen), device=chosen.device)
            return _map_outputs(outputs, lambda tensor, _: tensor.view(len(chosen), -1, *tensor.shape[1:])[row, chosen])
        self.steps.keep(length, chosen)

        def alone(tensor: Tensor, name: str) -> Tensor:
            if name == "hidden_states":
                return _chosen(tensor, chosen, 1)[:, None]
            tensor = _chosen(tensor, chosen, 2)[:, :, None]
            if name == "attentions":
                own = _chosen(tensor[..., length:], chosen, 3)[..., None]
                tensor = torch.cat([tensor[..., :length], own], -1)
            return tensor

        return _map_outputs(outputs, alone)


def _map_outputs(outputs: Any, change: Callable[[Tensor, str], Tensor]) -> Any:
    """Outputs of the decoder with every tensor of the attentions and hidden states changed."""
    names = ("attentions", "cross_attentions", "hidden_states")
    held = {name: getattr(outputs, name) for name in names}
    changed = {
        name: None if tensors is None else tuple(None if one is None else change(one, name) for one in tensors)
        for name, tensors in held.items()
    }
    return BaseModelOutputWithPastAndCrossAttentions(**changed)


def _chosen(tensor: Tensor, chosen: Tensor, dim: int) -> Tensor:
    """What a tensor [B, …] has at chosen[row] along a dimension, which goes."""
    index = chosen.view(-1, *[1] * (tensor.dim() - 1))
    size = [1 if axis == dim else length for axis, length in enumerate(tensor.shape)]
    return tensor.gather(dim, index.expand(size)).squeeze(dim)
