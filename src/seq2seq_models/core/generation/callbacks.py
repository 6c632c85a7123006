"""What happens between the steps of a loop that runs from Python: records, criteria, the clock, streamers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..stop_strings import StopStrings
from .arrays import Array, Arrays, State

if TYPE_CHECKING:
    from ..streamers import BaseStreamer

Criterion = Callable[[Array, Any], Any]
"""A user's stop: ids so far, int [R, length], and the scores [R, V] or None, to a bool or a bool per row."""


class StepCallbacks:
    """What a search calls at each step; nothing happens here. Only a loop that runs from Python has others.

    A search calls `on_logits` and `on_scores` with the values before and after the rules, `should_stop` for the rows
    that something outside ends, and `on_tokens` with the state after the step.
    """

    def on_logits(self, logits: Array) -> None:
        """The logits [R, V], before anything consumes them."""

    def on_scores(self, scores: Array, details: Any, length: Any) -> None:
        """The scores [R, V] after the rules, and the decoder's attentions and hidden states."""

    def should_stop(self, ids: Array, length: Any, scores: Array | None) -> Array | None:
        """bool [rows of ids]: those that must end; None if nothing outside ends any."""
        return None

    def on_tokens(self, state: State) -> None:
        """The state after a step."""


@dataclass
class LoopCallbacks(StepCallbacks):
    """The callbacks of a loop that runs from Python.

    Attributes:
        xp: the namespace the loop computes in.
        device: the namespace of the model's own arrays, which the user's functions get.
        prompt_length: decoder tokens given.
        criteria: the user's own stops.
        stop_strings: ends a row at a string; or None.
        max_time: seconds after which every row ends; or None.
        streamer: gets the tokens as they come; or None.
        keeps_scores, keeps_logits, keeps_details: what to record.
        is_beams: whether tokens are certain only once all beams agree.
    """

    xp: Arrays
    device: Arrays
    prompt_length: int
    criteria: Sequence[Criterion] = ()
    stop_strings: StopStrings | None = None
    max_time: float | None = None
    streamer: BaseStreamer | None = None
    keeps_scores: bool = False
    keeps_logits: bool = False
    keeps_details: bool = False
    is_beams: bool = False
    scores: list[Array] = field(default_factory=list)
    logits: list[Array] = field(default_factory=list)
    details: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.deadline = None if self.max_time is None else time.monotonic() + self.max_time
        self.shown = self.prompt_length

    @property
    def looks_at_steps(self) -> bool:
        """Whether anything here needs to know of every step when it happens."""
        watched = (self.streamer, self.stop_strings, self.max_time)
        records = (self.keeps_scores, self.keeps_logits, self.keeps_details)
        return any(one is not None for one in watched) or any(records) or bool(self.criteria)

    def begin(self, ids: Array) -> None:
        """Before the first step, with the prompt of every row, or of every input if there are beams."""
        if self.streamer is not None:
            self.streamer.put(self.xp.to_host(ids))

    def on_logits(self, logits: Array) -> None:
        if self.keeps_logits:
            self.logits.append(self.device.asarray(self.xp.copy(logits), "float32"))

    def on_scores(self, scores: Array, details: Any, length: Any) -> None:
        if self.keeps_scores:
            self.scores.append(self.device.asarray(self.xp.copy(scores), "float32"))
        if self.keeps_details:
            self.details.append(_cut(details, int(length)))

    def should_stop(self, ids: Array, length: Any, scores: Array | None) -> Array | None:
        so_far, over = ids[:, : int(length)], None
        if self.stop_strings is not None:
            over = self._merged(over, self.stop_strings(so_far[:, -self.stop_strings.tail :].tolist()), so_far)
        if self.criteria:
            shown = None if scores is None else self.device.asarray(scores, "float32")
            own = self.device.asarray(so_far, "int32")
            for criterion in self.criteria:
                over = self._merged(over, criterion(own, shown), so_far)
        if self.deadline is not None and time.monotonic() > self.deadline:
            over = self._merged(over, True, so_far)
        return over

    def _merged(self, over: Array | None, flags: Any, ids: Array) -> Array:
        new = self.xp.full((ids.shape[0],), False, "bool") | self.xp.asarray(flags, "bool")
        return new if over is None else over | new

    def on_tokens(self, state: State) -> None:
        if self.streamer is None:
            return
        length = int(state["length"])
        if "ids" in state:
            self.streamer.put(self.xp.to_host(state["ids"])[:, length - 1])
            return
        agreed = self._agreed(state, length)
        if agreed > self.shown:
            self.streamer.put(self.xp.to_host(state["running"])[0, 0, self.shown : agreed])
            self.shown = agreed

    def end(self, sequences: Any) -> None:
        """After the last step, with the sequences, int [rows, length]."""
        if self.streamer is None:
            return
        if self.is_beams and self.shown < sequences.shape[1]:
            self.streamer.put(self.device.to_host(sequences)[0, self.shown :])
        self.streamer.end()

    def _agreed(self, state: State, length: int) -> int:
        """How many tokens all that may still win for the first input have in common, the prompt included."""
        import numpy as np

        running, finished, is_finished = (
            np.asarray(self.xp.to_host(state[name])[0]) for name in ("running", "finished", "is_finished")
        )
        every = np.concatenate([running, finished[is_finished]])[:, :length]
        return int(np.cumprod((every == every[:1]).all(0)).sum())


def _cut(details: Any, length: int) -> Any:
    """Attentions, cross-attentions and hidden states without what is beyond the length."""
    attentions, cross, hidden = details
    return (
        None if attentions is None else tuple(weights[:, :, :length, :length] for weights in attentions),
        None if cross is None else tuple(weights[:, :, :length] for weights in cross),
        None if hidden is None else tuple(states[:, :length] for states in hidden),
    )
