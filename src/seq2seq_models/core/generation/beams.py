"""Beam search over arrays of fixed shapes: which continuations go on, which are finished, when nothing better can come.

Letters in shapes: B inputs, n beams, k kept candidates, L width of the sequences, V vocabulary.
"""

from __future__ import annotations

from .arrays import Array, Arrays, State
from .task import Found, Task

RULED_OUT = -1e9
"""Added to a candidate's log-probability so that nothing real ranks below it; finite, so that sums stay finite."""


def beam_search(task: Task) -> Found:
    """The best finished sequences of each input, ranked by log-probability / new tokens ** length_penalty.

    With `do_sample` the candidates are drawn instead of taken from the top.

    Source: Wu et al. 2016, section 7, with length ** penalty for the length normalisation, as in fairseq.
    """
    xp, settings, numbers = task.xp, task.settings, task.numbers
    beams, batch = settings.beams, task.ids.shape[0] // settings.beams
    fill = settings.pad or settings.end[0] if settings.end else -1
    shape = (batch, beams)
    running = xp.where(xp.arange(settings.width)[None, :] < numbers.prompt_length, task.ids, fill)
    running = xp.reshape(running, (*shape, settings.width))
    no_rows = xp.full((*shape, settings.width - 1), -1, "int32")
    start: State = {
        "length": numbers.prompt_length,
        "running": running,
        # All beams of an input start equal: only the first counts, or the same continuation would win n times.
        "running_scores": xp.where(xp.arange(beams)[None, :] == 0, xp.full(shape, 0.0, "float32"), RULED_OUT),
        "running_rows": no_rows,
        "finished": running,
        "finished_scores": xp.full(shape, RULED_OUT, "float32"),
        "finished_rows": no_rows,
        "is_finished": xp.full(shape, False, "bool"),
        "can_improve": xp.full((batch, 1), True, "bool"),
        "is_over": xp.full((), False, "bool"),
        "rows": xp.arange(batch * beams),
        "cache": task.decoder.prefill(task.ids, numbers.prompt_length),
    }
    last = xp.while_loop(lambda state: ~state["is_over"], lambda state: _step(task, state), start)
    returned = settings.returned
    rows = xp.reshape(last["finished_rows"][:, :returned], (batch * returned, settings.width - 1))
    sequences = xp.reshape(last["finished"][:, :returned], (batch * returned, settings.width))
    new = xp.max(xp.sum(xp.cast(rows >= 0, "int32"), axis=1), axis=0)
    scores = xp.reshape(last["finished_scores"][:, :returned], (batch * returned,))
    return Found(sequences, numbers.prompt_length + new, scores, rows)


def _step(task: Task, state: State) -> State:
    """Every beam extended by one token."""
    xp, numbers = task.xp, task.numbers
    batch, beams, width = state["running"].shape
    length = state["length"]
    ids = xp.reshape(state["running"], (batch * beams, width))
    cache = task.decoder.reorder(state["cache"], state["rows"])
    logits, cache, details = task.decoder.next_logits(ids, length, cache)
    task.host.on_logits(logits)
    scores = task.score(ids, length, xp.log_probabilities(logits))
    task.host.on_scores(scores, details, length)
    totals, beam, tokens = _candidates(task, state, scores)
    candidates = xp.put(xp.pick(state["running"], beam), length, tokens[:, :, None], 2)
    origin = beam + xp.arange(batch)[:, None] * beams
    new = length - numbers.prompt_length
    rows = xp.put(xp.pick(state["running_rows"], beam), new, origin[:, :, None], 2)
    is_over = task.is_end(tokens) | (length + 1 >= numbers.max_length)
    ended = task.host.should_stop(xp.reshape(candidates, (-1, width)), length + 1, None)
    if ended is not None:
        is_over = is_over | xp.reshape(ended, is_over.shape)
    going = select_running(xp, beams, totals, candidates, rows, origin, is_over)
    finished = update_finished(task, state, totals, candidates, rows, is_over)
    after: State = {**going, **finished, "length": length + 1, "cache": cache}
    can_improve = state["can_improve"] & can_improve_further(task, after)
    all_over = ~xp.any(can_improve) | xp.all(is_over)
    if task.settings.early_stopping is True:
        all_over = all_over | xp.all(after["is_finished"])
    after = {**after, "can_improve": can_improve, "is_over": all_over}
    task.host.on_tokens(after)
    return after


def _candidates(task: Task, state: State, scores: Array) -> tuple[Array, Array, Array]:
    """The k best continuations of each input: total scores, the beams they come from and their tokens, each [B, k]."""
    xp = task.xp
    batch, beams, _ = state["running"].shape
    vocabulary = scores.shape[1]
    kept = min(max(2, 1 + len(task.settings.end)) * beams, beams * vocabulary)  # enough that n unfinished ones remain
    totals = xp.add(xp.reshape(scores, (batch, beams, vocabulary)), state["running_scores"][:, :, None])
    if task.settings.do_sample:
        return _drawn(task, xp.reshape(totals, (batch, beams * vocabulary)), state["length"], kept, vocabulary)
    return xp.best(totals, kept)


def _drawn(task: Task, totals: Array, length: Array, kept: int, vocabulary: int) -> tuple[Array, Array, Array]:
    """k different candidates per input, drawn by softmax(totals [B, n * V]), best draw first.

    The k largest of score + Gumbel noise are such a draw; each input has its own stream of noise.
    """
    xp, numbers = task.xp, task.numbers
    noise = xp.noise(numbers.seed, length - numbers.prompt_length, *totals.shape)
    gumbel = -xp.log(-xp.log(xp.maximum(noise, 1e-20)))
    _, picked = xp.top_k(totals + gumbel, kept)
    return xp.take_along(totals, picked), picked // vocabulary, picked % vocabulary


def select_running(
    xp: Arrays, beams: int, totals: Array, candidates: Array, rows: Array, origin: Array, is_over: Array
) -> State:
    """The n best candidates that are not over become the running beams."""
    scores, best = xp.top_k(totals + xp.cast(is_over, "float32") * RULED_OUT, beams)
    return {
        "running": xp.pick(candidates, best),
        "running_rows": xp.pick(rows, best),
        "running_scores": scores,
        "rows": xp.reshape(xp.take_along(origin, best), (-1,)),
    }


def update_finished(task: Task, state: State, totals: Array, candidates: Array, rows: Array, is_over: Array) -> State:
    """Candidates that are over join the finished sequences; the n best of those stay."""
    xp, numbers = task.xp, task.numbers
    beams = state["running"].shape[1]
    # Only the n best candidates count: the others are there so that enough unfinished ones remain.
    just_finished = is_over & (xp.arange(totals.shape[1])[None, :] < beams)
    new = state["length"] + 1 - numbers.prompt_length
    totals = totals / length_penalty(task, new)
    if task.settings.early_stopping is True:
        full = xp.all(state["is_finished"], axis=1, keepdims=True)
        totals = totals + xp.cast(full, "float32") * RULED_OUT
    totals = totals + xp.cast(~state["can_improve"], "float32") * RULED_OUT
    totals = totals + xp.cast(~just_finished, "float32") * RULED_OUT
    scores, best = xp.top_k(xp.concat([state["finished_scores"], totals], 1), beams)
    return {
        "finished_scores": scores,
        "is_finished": xp.take_along(xp.concat([state["is_finished"], just_finished], 1), best),
        "finished": xp.pick(xp.concat([state["finished"], candidates], 1), best),
        "finished_rows": xp.pick(xp.concat([state["finished_rows"], rows], 1), best),
    }


def can_improve_further(task: Task, state: State) -> Array:
    """Whether the best running beam could still beat the worst finished one, bool [B, 1].

    With `early_stopping="never"` and a positive penalty, it is judged at the greatest length it may reach,
    otherwise at its length now (a heuristic, and the default).
    """
    xp, settings, numbers = task.xp, task.settings, task.numbers
    reaches_far = settings.early_stopping == "never" and settings.penalty_is_positive
    length = (numbers.max_length if reaches_far else state["length"]) - numbers.prompt_length
    best = state["running_scores"][:, :1] / length_penalty(task, length)
    worst = xp.min(state["finished_scores"], axis=1, keepdims=True)
    return xp.any(best > xp.where(state["is_finished"], worst, RULED_OUT), axis=1, keepdims=True)


def length_penalty(task: Task, length: Array) -> Array:
    """length ** length_penalty, a float32 scalar."""
    return task.xp.element(task.numbers.penalties, length)
