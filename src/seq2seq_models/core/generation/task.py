"""What a decoding loop is given: settings it is compiled for, numbers it takes anew, and the decoder's step.

Letters in shapes: B inputs, n beams, R = B * n (or B * num_return_sequences) rows, L width of the sequences, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ..generation_rules import HammingDiversity, Rule
from ..settings.generation_options import GenerationMode
from .arrays import Array, Arrays
from .callbacks import StepCallbacks
from .decoder import Decoder
from .rules import RuleContext, apply_rules, join

Processor = Callable[[Array, Array, Array], Array]
"""A user's rule: the sequences int32 [R, L], the scores float32 [R, V] and the length so far, to new scores."""


@dataclass(frozen=True)
class Settings:
    """What a loop is compiled for; equal settings and shapes share one compiled loop.

    Attributes:
        mode: the strategy.
        width: L, room for tokens; at least the greatest length.
        prefill: prompt tokens that are read before the loop, rounded up; 0 if the prompt is one token.
        beams, groups, returned: of a beam search.
        do_sample: draw instead of taking the best.
        end: ids that end a sequence.
        pad: fills a sequence after its end.
        early_stopping: as in GenerationConfig.
        penalty_is_positive: whether a longer sequence gains by the length penalty.
        top_k: candidates of a contrastive search.
        low_memory: a contrastive search reads its candidates one after the other.
        use_cache: read every token once; else all of them at each step.
        rules, late_rules: without their numbers (see `rules.split`).
        processors: the user's, called in between.
    """

    mode: GenerationMode
    width: int
    prefill: int
    beams: int
    groups: int
    returned: int
    do_sample: bool
    end: tuple[int, ...]
    pad: int
    early_stopping: bool | str
    penalty_is_positive: bool
    top_k: int
    low_memory: bool
    use_cache: bool
    rules: tuple[Rule, ...]
    late_rules: tuple[Rule, ...]
    processors: tuple[Processor, ...]


@dataclass(frozen=True)
class Numbers:
    """What may change from call to call without compiling anew.

    Attributes:
        max_length: int32 scalar, tokens of the whole output.
        prompt_length: int32 scalar.
        memory_length: int32 scalar, columns that the decoder attends to that are not filled up.
        source_length: int32 scalar, columns of `source` that are not filled up.
        rules, late_rules: the numbers of each rule.
        source: int32 [B, S], for the rules that look at it; or None.
        penalties: float32 [L + 1], length ** length_penalty.
        seed: int32 [2], of the draws; or None.
        alpha: float32 scalar, `penalty_alpha`; or None.
    """

    max_length: Array
    prompt_length: Array
    memory_length: Array
    source_length: Array
    rules: tuple[tuple[Array, ...], ...]
    late_rules: tuple[tuple[Array, ...], ...]
    source: Array | None = None
    penalties: Array | None = None
    seed: Array | None = None
    alpha: Array | None = None


@dataclass(frozen=True)
class Found:
    """What a loop returns.

    Attributes:
        sequences: int32 [N, L], padded after their end.
        length: int32 scalar, of the longest.
        scores: float32 [N] of a beam search, else None.
        rows: int32 [N, L - 1], the row of each new token in the step's scores, -1 after the end; of a beam search.
    """

    sequences: Array
    length: Array
    scores: Array | None = None
    rows: Array | None = None


@dataclass(frozen=True)
class Task:
    """Everything a loop needs.

    Attributes:
        xp: the array namespace.
        settings, numbers: see there.
        decoder: runs the model.
        ids: int32 [R, L], the prompt in its first places.
        allowed: bool [R, L], False where the prompt is padding; None if it has none.
        host: what happens between steps.
    """

    xp: Arrays
    settings: Settings
    numbers: Numbers
    decoder: Decoder
    ids: Array
    allowed: Array | None = None
    host: StepCallbacks = field(default_factory=StepCallbacks)

    def score(self, ids: Array, length: Array, scores: Array, taken: Array | None = None) -> Array:
        """Scores [R, V] after every rule.

        Args:
            ids: int32 [R, L].
            length: tokens so far.
            scores: before the rules; consumed.
            taken: tokens that earlier groups of beams chose at this step, int32 [B, any].
        """
        xp, settings, numbers = self.xp, self.settings, self.numbers
        ids = xp.written(ids, length)
        context = RuleContext(xp, ids, length, numbers.source_length)
        scores = apply_rules(self._joined(settings.rules, numbers.rules, taken), context, scores)
        for processor in settings.processors:
            scores = processor(ids, scores, length)
        return apply_rules(self._joined(settings.late_rules, numbers.late_rules, taken), context, scores)

    def _joined(self, rules: tuple[Rule, ...], numbers: tuple[Any, ...], taken: Array | None) -> list[Rule]:
        whole = [join(rule, held, self.numbers.source) for rule, held in zip(rules, numbers, strict=True)]
        return [replace(rule, taken=taken) if isinstance(rule, HammingDiversity) else rule for rule in whole]

    def is_end(self, tokens: Array) -> Array:
        """Which tokens end a sequence, bool of their shape."""
        found = tokens == self.settings.end[0] if self.settings.end else tokens != tokens
        for token in self.settings.end[1:]:
            found = found | (tokens == token)
        return found
