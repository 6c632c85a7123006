"""Diverse beam search over arrays of fixed shapes: beams in groups, each kept from saying what earlier ones say.

Letters in shapes: B inputs, G groups, g beams per group, n = G * g, k candidates, L width of the sequences, V
vocabulary.
"""

from __future__ import annotations

from .arrays import Array, State
from .beams import RULED_OUT, length_penalty
from .task import Found, Task

EMPTY = -float("inf")
LATE = 2**30
"""Above every number of an arrival."""


def diverse_beam_search(task: Task) -> Found:
    """The best finished sequences of all groups of each input; their scores hold the penalties.

    Each group has its own finished sequences and its own end. A sequence is finished by an end token, or open when the
    length, or something outside that all beams must meet, ends the search.

    Source: Vijayakumar et al. 2016 (diverse beam search), section 4; ends and ranking as in transformers 4.51.3.
    """
    xp, settings, numbers = task.xp, task.settings, task.numbers
    groups, size = settings.groups, settings.beams // settings.groups
    batch = task.ids.shape[0] // settings.beams
    width = settings.width
    running = xp.where(xp.arange(width)[None, :] < numbers.prompt_length, task.ids, settings.pad)
    running = xp.reshape(running, (batch, groups, size, width))
    no_rows = xp.full((batch, size, width - 1), -1, "int32")
    first = xp.where(xp.arange(size)[None, :] == 0, xp.full((batch, size), 0.0, "float32"), RULED_OUT)
    start: State = {
        "length": numbers.prompt_length,
        "arrived": xp.asarray(0, "int32"),
        "is_over": xp.full((), False, "bool"),
        "rows": xp.arange(batch * settings.beams),
        "cache": task.decoder.prefill(task.ids, numbers.prompt_length),
        # Every group on its own: the loop takes them one after the other.
        "groups": tuple(
            {
                "running": running[:, group],
                "running_rows": no_rows,
                # All beams of a group start equal: only the first counts, or one continuation would win g times.
                "scores": first,
                "is_done": xp.full((batch,), False, "bool"),
                # Finished sequences lie in places; `arrivals` says in which order they came, -1 where one is free.
                "finished": running[:, group],
                "finished_rows": no_rows,
                "finished_scores": xp.full((batch, size), EMPTY, "float32"),
                "arrivals": xp.full((batch, size), -1, "int32"),
            }
            for group in range(groups)
        ),
    }
    last = xp.while_loop(lambda state: ~state["is_over"], lambda state: _step(task, state), start)
    return _finish(task, last)


def _step(task: Task, state: State) -> State:
    """Every beam extended by one token, group after group."""
    xp, numbers, length = task.xp, task.numbers, state["length"]
    batch, size, width = state["groups"][0]["running"].shape
    count = len(state["groups"])
    rows = batch * count * size
    ids = xp.reshape(xp.stack([group["running"] for group in state["groups"]], 1), (rows, width))
    cache = task.decoder.reorder(state["cache"], state["rows"])
    logits, cache, details = task.decoder.next_logits(ids, length, cache)
    task.host.on_logits(logits)
    vocabulary = logits.shape[1]
    scores = xp.reshape(xp.log_probabilities(logits), (batch, count, size, vocabulary))
    groups: list[State] = []
    ruled: list[Array] = []
    taken: list[Array] = []
    arrived = state["arrived"]
    for index, group in enumerate(state["groups"]):
        flat = xp.reshape(scores[:, index], (batch * size, vocabulary))
        own = xp.reshape(group["running"], (batch * size, width))
        flat = task.score(own, length, flat, xp.concat(taken, 1) if taken else None)
        first_row = xp.arange(batch)[:, None] * (count * size) + index * size
        group, arrived = _extend(task, group, xp.reshape(flat, (batch, size, -1)), length, first_row, arrived)
        groups.append(group)
        ruled.append(xp.reshape(flat, (batch, size, -1)))
        taken.append(xp.at(group["running"], length, 2)[:, :, 0])
    task.host.on_scores(xp.reshape(xp.stack(ruled, 1), (rows, vocabulary)), details, length)
    is_done = xp.stack([group["is_done"] for group in groups], 1)
    new = length - numbers.prompt_length
    origin = xp.stack([xp.at(group["running_rows"], new, 2)[:, :, 0] for group in groups], 1)
    over = xp.full((batch, count, size), False, "bool") | is_done[:, :, None] | (length + 1 >= numbers.max_length)
    longer = xp.reshape(xp.stack([group["running"] for group in groups], 1), (rows, width))
    ended = task.host.should_stop(longer, length + 1, None)
    if ended is not None:
        over = over | xp.reshape(ended, over.shape)
    state = {
        "length": length + 1,
        "arrived": arrived,
        "is_over": xp.all(over),
        "rows": xp.reshape(origin, (rows,)),
        "cache": cache,
        "groups": tuple(groups),
    }
    task.host.on_tokens(state)
    return state


def _extend(
    task: Task, group: State, scores: Array, length: Array, first_row: Array, arrived: Array
) -> tuple[State, Array]:
    """One token more for a group's beams, whose scores are [B, g, V]."""
    xp, numbers = task.xp, task.numbers
    batch, size, vocabulary = scores.shape
    kept = min(max(2, 1 + len(task.settings.end)) * size, size * vocabulary)  # enough that g unfinished ones remain
    totals = xp.reshape(scores + group["scores"][:, :, None], (batch, size * vocabulary))
    totals, picked = xp.top_k(totals, kept)
    beam, tokens = picked // vocabulary, picked % vocabulary
    candidates = xp.put(xp.pick(group["running"], beam), length, tokens[:, :, None], 2)
    origin = beam + first_row
    new = length - numbers.prompt_length
    rows = xp.put(xp.pick(group["running_rows"], beam), new, origin[:, :, None], 2)
    is_done, is_end = group["is_done"], task.is_end(tokens)
    for rank in range(min(size, kept)):  # ends below the g best do not count, so that g beams may go on
        wanted = is_end[:, rank] & ~is_done
        entry = (totals[:, rank], candidates[:, rank], rows[:, rank])
        group, arrived = _add(task, group, entry, wanted, length + 1, arrived)
    best = xp.argsort(xp.cast(is_end, "int32"))[:, :size]
    running = xp.pick(candidates, best)
    latest = xp.at(running, length, 2)
    running = xp.put(running, length, xp.where(is_done[:, None, None], task.settings.pad, latest), 2)
    over = cannot_improve(task, group, totals[:, 0], length)
    return {
        **group,
        "running": running,
        "running_rows": xp.pick(rows, best),
        "scores": xp.take_along(totals, best),
        "is_done": is_done | over,
    }, arrived


def _add(
    task: Task, group: State, entry: tuple[Array, Array, Array], wanted: Array, length: Array, arrived: Array
) -> tuple[State, Array]:
    """A sequence [B, L] joins the finished ones of a group where it is `wanted` [B] and one of the g best."""
    xp = task.xp
    total, ids, rows = entry
    score = total / length_penalty(task, length - task.numbers.prompt_length)
    held, arrivals = group["finished_scores"], group["arrivals"]
    worst = xp.min(held, axis=1)
    # A free place is the worst and the earliest; of equally bad sequences the earliest goes.
    place = xp.argmin(xp.where(held == worst[:, None], arrivals, LATE))
    accepted = wanted & ((score > worst) | xp.any(arrivals < 0, axis=1))
    here = (xp.arange(held.shape[1])[None, :] == place[:, None]) & accepted[:, None]
    return {
        **group,
        "finished_scores": xp.where(here, score[:, None], held),
        "arrivals": xp.where(here, arrived, arrivals),
        "finished": xp.where(here[:, :, None], ids[:, None, :], group["finished"]),
        "finished_rows": xp.where(here[:, :, None], rows[:, None, :], group["finished_rows"]),
    }, arrived + 1


def cannot_improve(task: Task, group: State, best: Array, length: Array) -> Array:
    """Whether a group is over: it has g finished sequences, and its best candidate [B] cannot beat the worst."""
    xp, settings, numbers = task.xp, task.settings, task.numbers
    is_full = xp.all(group["arrivals"] >= 0, axis=1)
    if settings.early_stopping is True:
        return is_full
    reaches_far = settings.early_stopping == "never" and settings.penalty_is_positive
    reach = (numbers.max_length if reaches_far else length + 1) - numbers.prompt_length
    return is_full & (xp.min(group["finished_scores"], axis=1) >= best / length_penalty(task, reach))


def _finish(task: Task, state: State) -> Found:
    """The best of all groups, those still running included."""
    xp, settings, numbers = task.xp, task.settings, task.numbers
    groups, arrived = [], state["arrived"]
    for group in state["groups"]:
        for beam in range(group["scores"].shape[1]):
            entry = (group["scores"][:, beam], group["running"][:, beam], group["running_rows"][:, beam])
            group, arrived = _add(task, group, entry, ~group["is_done"], state["length"], arrived)
        groups.append(group)
    batch, _, width = groups[0]["finished"].shape
    # Of equal scores the one that came last is first: so the order of transformers 4.51.3 has it.
    orders = [xp.argsort(group["arrivals"]) for group in groups]
    pairs = list(zip(groups, orders, strict=True))
    scores = xp.concat([xp.take_along(group["finished_scores"], order) for group, order in pairs], 1)
    sequences = xp.concat([xp.pick(group["finished"], order) for group, order in pairs], 1)
    rows = xp.concat([xp.pick(group["finished_rows"], order) for group, order in pairs], 1)
    count, returned = scores.shape[1], settings.returned
    places = xp.take(xp.argsort(scores), count - 1 - xp.arange(returned), 1)
    rows = xp.reshape(xp.pick(rows, places), (batch * returned, width - 1))
    new = xp.max(xp.sum(xp.cast(rows >= 0, "int32"), axis=1), axis=0)
    sequences = xp.reshape(xp.pick(sequences, places), (batch * returned, width))
    best = xp.reshape(xp.take_along(scores, places), (batch * returned,))
    return Found(sequences, numbers.prompt_length + new, best, rows)
