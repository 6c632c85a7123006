"""Greedy search and sampling: one token per row and step until every row is over."""

from __future__ import annotations

from .arrays import Array, State
from .task import Found, Task

BELOW_ONE = 1.0 - 2.0**-24
"""The greatest float32 below 1."""


def one_by_one(task: Task) -> Found:
    """Sequences that take the best token at each step, or draw it.

    A draw is the first token whose running probability exceeds the step's number, of which every row has its own.
    """
    xp, settings, numbers = task.xp, task.settings, task.numbers
    rows = task.ids.shape[0]

    def is_on(state: State) -> Array:
        return xp.any(state["open"]) & (state["length"] < numbers.max_length)

    def step(state: State) -> State:
        ids, length = state["ids"], state["length"]
        logits, cache, details = task.next_logits(ids, length, state["cache"])
        scores = task.score(ids, length, logits)
        task.host.seen(details, logits, scores, length)
        tokens = _draw(task, scores, length) if settings.do_sample else xp.argmax(scores)
        if settings.end:
            tokens = xp.where(state["open"], tokens, settings.pad)
        ids = xp.put(ids, length, tokens[:, None], 1)
        stays = state["open"] & ~task.is_end(tokens)
        ended = task.host.over(ids, length + 1, scores)
        if ended is not None:
            stays = stays & ~ended
        state = {"ids": ids, "length": length + 1, "open": stays, "cache": cache}
        task.host.chosen(state)
        return state

    start = {
        "ids": task.ids,
        "length": numbers.prompt_length,
        "open": xp.full((rows,), True, "bool"),
        "cache": task.begin(),
    }
    last = xp.while_loop(is_on, step, start)
    return Found(last["ids"], last["length"])


def _draw(task: Task, scores: Array, length: Array) -> Array:
    """One token per row, int32 [R], drawn from softmax(scores [R, V])."""
    xp, numbers = task.xp, task.numbers
    chances = xp.softmax(scores)
    # Sums rounded in another order may fall from one place to the next: nothing without probability may be found there.
    mass = xp.where(chances > 0, xp.cumsum(chances), 0.0)
    total = xp.max(mass, axis=1, keepdims=True)
    number = xp.noise(numbers.seed, length - numbers.prompt_length, scores.shape[0], 1) * total
    # Kept below the total, so that some mass exceeds it.
    number = xp.minimum(number, total * BELOW_ONE)
    return xp.argmax(xp.cast(mass > number, "int32"))
