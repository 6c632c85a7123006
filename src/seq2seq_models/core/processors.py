"""Lists of a user's own score processors and stopping criteria, for all frameworks."""

from __future__ import annotations

from typing import Any


class LogitsProcessorList(list[Any]):
    """Functions (ids so far, scores) -> scores, applied in order. `generate` takes one as `logits_processor`."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """The scores [R, V] after every processor; `kwargs` go to each of them."""
        for processor in self:
            scores = processor(input_ids, scores, **kwargs)
        return scores


class StoppingCriteriaList(list[Any]):
    """Functions (ids so far, scores) -> bool or bool [R]. `generate` takes one as `stopping_criteria`."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Whether generation stops, for all rows or for each, by any of the criteria."""
        over: Any = False
        for criterion in self:
            over = criterion(input_ids, scores, **kwargs) | over
        return over
