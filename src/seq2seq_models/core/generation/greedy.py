"""Greedy search and sampling: one token per row and step until every row is over."""

from __future__ import annotations

from .arrays import Array, State
from .task import Found, Task

BELOW_ONE = 1.0 - 2.0**-24
"""The greatest float32 below 1."""


def greedy_search(task: Task) -> Found:
    """Sequences that take the best token at each step, or with `do_sample` draw it.

    A draw is the first token whose running probability exceeds the step's number, of which every row has its own.
    """
    xp, settings, numbers = task.xp, task.settings, task.numbers
    rows = task.ids.shape[0]

    def is_on(state: State) -> Array:
        return xp.any(state["open"]) & (state["length"] < numbers.max_length)

    def step(state: State) -> State:
        ids, length, is_open = state["ids"], state["length"], state["open"]
        logits, cache, details = task.decoder.next_logits(ids, length, state["cache"])
        task.host.on_logits(logits)
        scores = task.score(ids, length, logits)
        task.host.on_scores(scores, details, length)
        tokens = _draw(task, scores, length) if settings.do_sample else xp.argmax(scores)
        # Steps past the end, where a namespace looks at it every few steps only, write padding and count nothing.
        new = {"length": length + 1, "written": state["written"] + xp.cast(xp.any(is_open), "int32"), "cache": cache}
        if settings.end:
            tokens = xp.where(is_open, tokens, settings.pad)
            is_open = is_open & ~task.is_end(tokens)
        ids = xp.put(ids, length, tokens[:, None], 1)
        stopped = task.host.should_stop(ids, length + 1, scores)
        if stopped is not None:
            is_open = is_open & ~stopped
        state = {**new, "ids": ids, "open": is_open}
        task.host.on_tokens(state)
        return state

    start = {
        "ids": task.ids,
        "length": numbers.prompt_length,
        "written": numbers.prompt_length,
        "open": xp.full((rows,), True, "bool"),
        "cache": task.decoder.prefill(task.ids, numbers.prompt_length),
    }
    last = xp.while_loop(is_on, step, start, numbers.max_length - numbers.prompt_length)
    return Found(last["ids"], last["written"])


def _draw(task: Task, scores: Array, length: Array) -> Array:
    """One token per row, int32 [R], drawn from softmax(scores [R, V])."""
    xp, numbers = task.xp, task.numbers
    chances = xp.cast(xp.softmax(scores), xp.precise)
    # Sums rounded in another order may fall from one index to the next: there no token without probability is drawn.
    mass = xp.where(chances > 0, xp.cumsum(chances), 0.0)
    total = xp.max(mass, axis=1, keepdims=True)
    number = xp.noise(numbers.seed, length - numbers.prompt_length, scores.shape[0], 1) * total
    # Kept below the total, so that some mass exceeds it.
    number = xp.minimum(number, total * BELOW_ONE)
    return xp.argmax(xp.cast(mass > number, "int32"))
