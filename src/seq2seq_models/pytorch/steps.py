"""The pieces every strategy of generation is made of: decoder steps, scores, draws, and when to stop.

Letters in shapes: B inputs, R rows (B * beams, or B * num_return_sequences), T tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core.decoding import Plan
from ..core.generation_config import GenerationConfig
from ..core.generation_rules import HammingDiversity
from ..core.outputs import BaseModelOutput
from ..core.sampling import uniforms
from ..core.stop_strings import StopStrings
from .cache import Cache, EncoderDecoderCache, StaticCache
from .packing import packed_linear
from .rules import apply_rules

Processor = Callable[[Tensor, Tensor], Tensor]
"""A user's rule: ids so far, int64 [R, length], and scores, float32 [R, V], to new scores."""

Criterion = Callable[[Tensor, Any], Any]
"""A user's stop: ids so far and the scores, to a bool or a bool per row [R]."""


@dataclass
class Records:
    """What is collected per step, for `return_dict_in_generate`."""

    scores: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    attentions: list[tuple[Tensor, ...]] = field(default_factory=list)
    cross_attentions: list[tuple[Tensor, ...]] = field(default_factory=list)
    hidden_states: list[tuple[Tensor, ...]] = field(default_factory=list)


@dataclass
class Source:
    """What the decoder attends to: the encoder's states and mask, and whether there are any."""

    states: Tensor | None
    mask: Tensor | None
    outputs: BaseModelOutput[Tensor] | None = None


class DecoderSteps:
    """Runs the decoder one step at a time for R rows over B inputs, and gives the scores of the next token.

    The encoder's keys and values are kept once per input; the decoder's own in memory allocated once.
    """

    def __init__(
        self,
        model: Any,
        config: GenerationConfig,
        source: Source,
        max_length: int,
        decoder_mask: Tensor | None,
        head_masks: dict[str, Tensor | None],
        records: Records,
    ) -> None:
        self.model, self.config, self.source, self.records = model, config, source, records
        self.decoder = model.get_decoder()
        head = model.lm_head
        self.head = packed_linear(head.weight, model._head_bias()) if type(head) is nn.Linear else None
        self.decoder_mask = decoder_mask
        self.head_masks = head_masks
        self.cache: Cache | None = None
        self.done = 0
        self.places: Tensor | None = None  # which row of the cache each row goes on from, int64 [R]; None: its own
        if config.use_cache is not False:
            own = StaticCache(max_cache_len=max_length - 1)
            self.cache = EncoderDecoderCache(own) if source.states is not None else own

    def __call__(self, ids: Tensor) -> Tensor:
        """Logits of the next token, float32 [R, V], for all tokens so far, int64 [R, length]."""
        outputs = self.run(ids if self.places is None else ids[self.places.argsort()])
        self.record(outputs)
        hidden = outputs.last_hidden_state[:, -1]
        return self.logits(hidden if self.places is None else hidden[self.places])

    def run(self, ids: Tensor) -> Any:
        """What the decoder returns for all tokens so far, int64 [R, length]; with a cache, for those not in it yet."""
        new = ids if self.cache is None else ids[:, self.done :]
        self.done = ids.shape[1]
        return self.read(new, self.mask(ids.shape[1]))

    def read(self, new: Tensor, mask: Tensor | None, positions: Tensor | None = None) -> Any:
        """What the decoder returns for these tokens, int64 [rows, T].

        Args:
            new: the tokens; the cache takes them in.
            mask: 1/0 [rows, past + T], or additive with four dimensions.
            positions: int64 [T]; counted on from the cache by default.
        """
        return self.decoder(
            input_ids=new,
            attention_mask=mask,
            encoder_hidden_states=self.source.states,
            encoder_attention_mask=self.source.mask,
            past_key_values=self.cache,
            use_cache=self.cache is not None,
            output_attentions=bool(self.config.output_attentions),
            output_hidden_states=bool(self.config.output_hidden_states),
            return_dict=True,
            cache_position=positions,
            **self.head_masks,
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits, float32 [..., V], for states [..., D]."""
        logits: Tensor = self.model._logits(hidden) if self.head is None else self.head(hidden)
        return logits.float()

    def crop(self, length: int) -> None:
        """Forget what was read after the first `length` tokens."""
        if self.cache is not None:
            self.cache.crop(length)
        self.done = min(self.done, length)

    def keep(self, length: int, chosen: Tensor) -> None:
        """Of what was read after the first `length` tokens, keep the token chosen[row] only."""
        if self.cache is not None:
            self.cache.keep(length, chosen)
        self.done = length + 1

    def reorder(self, rows: Tensor, settled: int = 0) -> None:
        """Row i goes on from what row rows[i] was, within one input.

        On a CPU only what would be lost is copied: a row that goes on stays where it is in the cache, and where others
        go on from it too, they get the places of rows from which none does.

        Args:
            rows: int64 [R].
            settled: number of positions at the start that all rows of an input had in common before.
        """
        if self.cache is None:
            return  # everything is read anew
        if rows.device.type != "cpu" or self.keeps_outputs:
            self.cache.reorder_cache(rows)
            return
        held = range(len(rows)) if self.places is None else self.places.tolist()
        places, sources, copies = succession([held[row] for row in rows.tolist()])
        if copies:
            self.cache.copy_rows(torch.tensor(sources), torch.tensor(copies), settled)
        self.places = torch.tensor(places)

    def mask(self, length: int, copies: int = 1) -> Tensor | None:
        """The mask over a length of tokens, 1/0 [R * copies, length], or None where nothing is masked."""
        mask = self.decoder_mask
        if mask is None:
            return None
        return torch.nn.functional.pad(mask, (0, length - mask.shape[1]), value=1).repeat_interleave(copies, 0)

    @property
    def keeps_outputs(self) -> bool:
        """Whether attentions or hidden states are collected."""
        config = self.config
        return config.return_dict_in_generate and (config.output_attentions or config.output_hidden_states)

    def record(self, outputs: Any) -> None:
        """Collect the attentions and hidden states of one new token."""
        if not self.keeps_outputs:
            return
        if self.config.output_attentions:
            self.records.attentions.append(outputs.attentions)
            self.records.cross_attentions.append(outputs.cross_attentions)
        if self.config.output_hidden_states:
            self.records.hidden_states.append(outputs.hidden_states)


def succession(parents: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Where each row goes on, if row i followed from what is at parents[i]: as many as can stay where that is.

    Rows of one input lie side by side, so that those without a place and the places without a row, both in order,
    belong to the same input.

    Returns:
        The place of each row, and what must be copied to that end: places to read, and places to write.
    """
    free = iter(sorted(set(range(len(parents))).difference(parents)))
    places, sources, copies, taken = [], [], [], set()
    for parent in parents:
        if parent in taken:
            sources.append(parent)
            copies.append(next(free))
            places.append(copies[-1])
        else:
            taken.add(parent)
            places.append(parent)
    return places, sources, copies


class Scorer:
    """Turns logits into the scores tokens are chosen from: the rules, with the user's processors in their place."""

    def __init__(self, plan: Plan, processors: Sequence[Processor], records: Records) -> None:
        self.plan, self.processors, self.records = plan, processors, records
        self.keeps_logits = bool(plan.config.return_dict_in_generate and plan.config.output_logits)
        self.keeps_scores = bool(plan.config.return_dict_in_generate and plan.config.output_scores)
        self.standing: Tensor | None = None

    def __call__(self, ids: Tensor, logits: Tensor, normalize: bool) -> Tensor:
        """Scores [R, V] for logits [R, V]; log-probabilities if `normalize`, as beams need them. Collected if asked."""
        raw = logits.clone() if self.keeps_logits and not normalize else logits
        scores = self.score(ids, self._log_softmax(logits) if normalize else logits)
        self.record(raw, scores)
        return scores

    def _log_softmax(self, logits: Tensor) -> Tensor:
        """In memory that stands for all steps, unless a user's processor sees it: fresh memory costs more than the sum.

        A step of many beams would otherwise ask the system for megabytes and give them back, each time.
        """
        if self.processors or logits.device.type != "cpu":
            return logits.log_softmax(-1)
        if self.standing is None or self.standing.shape != logits.shape:
            self.standing = torch.empty_like(logits)
        return torch.log_softmax(logits, -1, out=self.standing)

    def score(self, ids: Tensor, scores: Tensor, taken: Tensor | None = None) -> Tensor:
        """Scores [R, V] after every rule; those before may be overwritten.

        Args:
            ids: all tokens so far, int64 [R, length].
            scores: before the rules, float32 [R, V].
            taken: tokens that earlier groups of beams chose at this step, int64 [B, any].
        """
        rules = self.plan.rules
        if taken is not None:
            rules = tuple(replace(rule, taken=taken) if isinstance(rule, HammingDiversity) else rule for rule in rules)
        scores = apply_rules(rules, ids, scores)
        for processor in self.processors:
            scores = processor(ids, scores)
        return apply_rules(self.plan.late_rules, ids, scores)

    def record(self, logits: Tensor, scores: Tensor) -> None:
        """Collect the logits and the scores of one step."""
        if self.keeps_logits:
            self.records.logits.append(logits)
        if self.keeps_scores:
            self.records.scores.append(scores.clone())


class Draw:
    """Chooses tokens by their probability. One number per row and step decides, from the row's own random stream.

    The streams follow from one draw of PyTorch's default generator, so that `torch.manual_seed` repeats them.
    """

    def __init__(self, rows: int, steps: int, device: torch.device) -> None:
        numbers = uniforms(int(torch.randint(2**62, ())), rows, steps)
        self.numbers = torch.from_numpy(numbers).to(device)
        self.step = 0

    def __call__(self, scores: Tensor) -> Tensor:
        """One token per row, int64 [R], drawn from softmax(scores [R, V])."""
        mass = scores.softmax(-1).double().cumsum(-1)
        total = mass[:, -1:]
        number = self.numbers[:, self.step, None] * total
        self.step += 1
        # Kept below the total: the first token whose mass exceeds the number always has a probability.
        number = torch.minimum(number, total.nextafter(torch.zeros_like(total)))
        return torch.searchsorted(mass, number, right=True)[:, 0]


def at_strings(strings: str | Sequence[str], tokenizer: Any) -> Criterion:
    """A criterion that stops a row when its newest token completes one of the strings."""
    is_complete = StopStrings(strings, tokenizer)

    def criterion(ids: Tensor, scores: Any) -> Tensor:
        return torch.tensor(is_complete(ids[:, -is_complete.tail :].tolist()), device=ids.device)

    return criterion


class Stop:
    """When a sequence is over: an end token, the maximum length, the time, or the user's criteria."""

    def __init__(self, plan: Plan, criteria: Sequence[Criterion], device: torch.device) -> None:
        self.max_length, self.criteria = plan.max_length, criteria
        self.end = torch.tensor(plan.end, device=device) if plan.end else None
        self.deadline = None if plan.config.max_time is None else time.monotonic() + plan.config.max_time

    def __call__(self, ids: Tensor, scores: Any) -> Tensor:
        """Which of the rows of ids [R, length] are over, bool [R]."""
        is_over = ids.shape[1] >= self.max_length or (self.deadline is not None and time.monotonic() > self.deadline)
        over = torch.full((ids.shape[0],), is_over, dtype=torch.bool, device=ids.device)
        if self.end is not None:
            over |= torch.isin(ids[:, -1], self.end)
        for criterion in self.criteria:
            over |= torch.as_tensor(criterion(ids, scores), dtype=torch.bool, device=ids.device)
        return over
