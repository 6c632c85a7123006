"""What happens between the steps of a loop that runs on the host: records, criteria, the clock, streamers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..stop_strings import StopStrings
from .arrays import Array, Arrays, State
from .task import Host

if TYPE_CHECKING:
    from ..streamers import BaseStreamer

Criterion = Callable[[Array, Any], Any]
"""A user's stop: ids so far, int32 [R, length], and the scores [R, V] or None, to a bool or a bool per row."""


@dataclass
class HostLoop(Host):
    """A loop's companion on the host.

    Attributes:
        xp: the namespace of the model's own arrays, which the user's functions get.
        prompt_length: decoder tokens given.
        criteria: the user's own stops.
        stop_strings: ends a row at a string; or None.
        max_time: seconds after which every row ends; or None.
        streamer: gets the tokens as they come; or None.
        keeps_scores, keeps_logits, wants_details: what to record.
        is_beams: whether tokens are certain only once all beams agree.
    """

    xp: Arrays
    prompt_length: int
    criteria: Sequence[Criterion] = ()
    stop_strings: StopStrings | None = None
    max_time: float | None = None
    streamer: BaseStreamer | None = None
    keeps_scores: bool = False
    keeps_logits: bool = False
    wants_details: bool = False
    is_beams: bool = False
    scores: list[Array] = field(default_factory=list)
    logits: list[Array] = field(default_factory=list)
    details: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.deadline = None if self.max_time is None else time.monotonic() + self.max_time
        self.shown = self.prompt_length

    def begin(self, ids: Array) -> None:
        """Before the first step, with the prompt of every row, or of every input if there are beams."""
        if self.streamer is not None:
            self.streamer.put(ids)

    def seen(self, details: Any, logits: Array, scores: Array, length: Array) -> None:
        if self.keeps_logits:
            self.logits.append(logits)
        if self.keeps_scores:
            self.scores.append(self.xp.asarray(scores, "float32"))
        if self.wants_details:
            self.details.append(_cut(details, int(length)))

    def over(self, ids: Array, length: Array, scores: Array | None) -> Array | None:
        import numpy as np

        so_far = ids[:, : int(length)]
        rows = np.asarray(so_far)
        over = np.zeros(len(rows), bool)
        if self.deadline is not None and time.monotonic() > self.deadline:
            over[:] = True
        if self.stop_strings is not None:
            over |= np.asarray(self.stop_strings(rows.tolist()), bool)
        for criterion in self.criteria:
            shown = None if scores is None else self.xp.asarray(scores, "float32")
            over |= np.asarray(criterion(self.xp.asarray(so_far, "int32"), shown), bool)
        return over if over.any() else None

    def chosen(self, state: State) -> None:
        import numpy as np

        if self.streamer is None:
            return
        length = int(state["length"])
        if "ids" in state:
            self.streamer.put(np.asarray(state["ids"])[:, length - 1])
            return
        agreed = _agreed(state, length)
        if agreed > self.shown:
            self.streamer.put(np.asarray(state["running"])[0, 0, self.shown : agreed])
            self.shown = agreed

    def end(self, sequences: Any) -> None:
        """After the last step, with the sequences, int [rows, length]."""
        import numpy as np

        if self.streamer is None:
            return
        if self.is_beams and self.shown < sequences.shape[1]:
            self.streamer.put(np.asarray(sequences)[0, self.shown :])
        self.streamer.end()


def _agreed(state: State, length: int) -> int:
    """How many tokens all that may still win for the first input have in common, the prompt included."""
    import numpy as np

    running = np.asarray(state["running"])[0, :, :length]
    finished = np.asarray(state["finished"])[0, :, :length][np.asarray(state["is_finished"])[0]]
    same = (np.concatenate([running, finished]) == running[:1]).all(0)
    return int(np.cumprod(same).sum())


def _cut(details: Any, length: int) -> Any:
    """Attentions, cross-attentions and hidden states without what is beyond the length."""
    attentions, cross, hidden = details
    return (
        None if attentions is None else tuple(weights[:, :, :length, :length] for weights in attentions),
        None if cross is None else tuple(weights[:, :, :length] for weights in cross),
        None if hidden is None else tuple(states[:, :length] for states in hidden),
    )
