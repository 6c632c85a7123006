"""Contrastive search: of the likely next tokens, the one whose state is least like the states before it.

Letters in shapes: B inputs, k candidates, L width of the sequences, D model, V vocabulary.
"""

from __future__ import annotations

from .arrays import Array, State
from .task import Found, Task

LOWEST = -3.4028234663852886e38
"""The least finite float32."""


def contrastive_search(task: Task) -> Found:
    """Sequences that take, of the k best tokens, the one that repeats the states before it least.

    The decoder reads all candidates of an input at the same position, where each sees what came before and itself. The
    one that is chosen stays in the cache.

    Source: Su et al. 2022 (a contrastive framework for neural text generation), section 3.2.
    """
    xp, settings, numbers = task.xp, task.settings, task.numbers
    rows = task.ids.shape[0]
    hidden, cache, details = task.decoder.read_prompt(task.ids, numbers.prompt_length)
    directions = _directions(task, hidden)
    room = xp.full((rows, settings.width, hidden.shape[2]), 0.0, "float32")
    last = xp.at(hidden, numbers.prompt_length - 1, 1)[:, 0]

    def is_on(state: State) -> Array:
        return xp.any(state["open"]) & (state["length"] < numbers.max_length)

    def step(state: State) -> State:
        ids, length = state["ids"], state["length"]
        logits = task.decoder.logits(state["hidden"])
        task.host.on_logits(logits)
        scores = task.score(ids, length, logits)
        task.host.on_scores(scores, state["details"], length)
        tokens, state = _choose(task, state, scores)
        if settings.end:
            tokens = xp.where(state["open"], tokens, settings.pad)
        ids = xp.put(ids, length, tokens[:, None], 1)
        stays = state["open"] & ~task.is_end(tokens)
        ended = task.host.should_stop(ids, length + 1, scores)
        if ended is not None:
            stays = stays & ~ended
        state = {**state, "ids": ids, "length": length + 1, "open": stays}
        task.host.on_tokens(state)
        return state

    start = {
        "ids": task.ids,
        "length": numbers.prompt_length,
        "open": xp.full((rows,), True, "bool"),
        "cache": cache,
        "details": details,
        "hidden": last,
        "context": xp.put(room, xp.asarray(0, "int32"), directions, 1),
    }
    end = xp.while_loop(is_on, step, start)
    return Found(end["ids"], end["length"])


def _choose(task: Task, state: State, scores: Array) -> tuple[Array, State]:
    """The chosen token of each row, int32 [B], and the state that knows it."""
    xp, numbers, length = task.xp, task.numbers, state["length"]
    count = min(task.settings.top_k, scores.shape[1])
    chances, candidates = xp.top_k(xp.softmax(scores), count)
    hidden, cache = task.decoder.look_ahead(state["ids"], length, state["cache"], candidates)
    directions = _directions(task, hidden)
    context = xp.written(state["context"], length)
    cosines = xp.matmul(directions, xp.transpose(context, (0, 2, 1)))  # [B, k, L]
    seen = xp.arange(context.shape[1])[None, None, :] < length
    if task.allowed is not None:
        seen = seen & xp.written(task.allowed, length)[:, None, :]
    worst = xp.max(xp.where(seen, cosines, LOWEST), axis=2)
    alpha: Array = numbers.alpha
    chosen = xp.argmax((1.0 - alpha) * chances - alpha * worst)
    index = chosen[:, None]
    tokens = xp.take_along(candidates, index)
    cache, details = task.decoder.keep(state["ids"], length, cache, chosen, tokens)
    return tokens[:, 0], {
        **state,
        "cache": cache,
        "details": details,
        "hidden": xp.pick(hidden, index)[:, 0],
        "context": xp.put(state["context"], length, xp.pick(directions, index), 1),
    }


def _directions(task: Task, hidden: Array) -> Array:
    """States [B, T, D] as float32 of length one."""
    hidden = task.xp.cast(hidden, "float32")
    return hidden / task.xp.sqrt(task.xp.sum(hidden * hidden, axis=2, keepdims=True))
