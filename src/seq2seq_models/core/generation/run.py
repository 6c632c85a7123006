"""One decoding, from the source to the sequences: what a framework compiles as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..settings.generation_options import GenerationMode
from .arrays import Array, Arrays
from .beams import beam_search
from .callbacks import StepCallbacks
from .contrastive import contrastive_search
from .decoder import StaticDecoder, Steps, lowest
from .diverse_beams import diverse_beam_search
from .greedy import greedy_search
from .task import Found, Numbers, Settings, Task

LOOPS: dict[GenerationMode, Callable[[Task], Found]] = {
    GenerationMode.GREEDY_SEARCH: greedy_search,
    GenerationMode.SAMPLE: greedy_search,
    GenerationMode.BEAM_SEARCH: beam_search,
    GenerationMode.BEAM_SAMPLE: beam_search,
    GenerationMode.GROUP_BEAM_SEARCH: diverse_beam_search,
    GenerationMode.CONTRASTIVE_SEARCH: contrastive_search,
}


@dataclass(frozen=True)
class Inputs:
    """The arrays of one decoding.

    Attributes:
        ids: int32 source [B, S], or None.
        embeds: vectors [B, S, D] instead, or None.
        states: the encoder's output [B, S, D], if there already is one.
        mask: 1/0 int32 [B, S] over the source; None where there is none.
        prompt: int32 [B, L], the decoder's first tokens in the first places.
        prompt_mask: 1/0 int32 [B, L], 0 where the prompt is padding; None if it has none.
    """

    ids: Array | None
    embeds: Array | None
    states: Array | None
    mask: Array | None
    prompt: Array
    prompt_mask: Array | None


def run(
    xp: Arrays,
    steps: Steps,
    settings: Settings,
    numbers: Numbers,
    inputs: Inputs,
    host: StepCallbacks | None = None,
    device: Arrays | None = None,
    keeps_details: bool = False,
) -> Found:
    """The sequences of a strategy.

    Args:
        xp: the array namespace.
        steps: the model.
        settings: what is compiled.
        numbers: what is not.
        inputs: the source and the prompt.
        host: what happens between steps, if the loop is not compiled.
        device: the namespace of the model's own arrays, if that is another.
        keeps_details: whether the details of every step are wanted, the prompt's included.
    """
    states, cross, memory_mask = inputs.states, None, None
    if inputs.mask is not None:
        memory_mask = source_mask(xp, inputs.mask, numbers.memory_length, steps.dtype)
    if states is None and (inputs.ids is not None or inputs.embeds is not None):
        states = steps.encode(inputs.ids, inputs.embeds, memory_mask)
    if states is not None:
        cross = steps.cross_entries(states)
    copies = settings.beams if settings.beams > 1 else settings.returned
    ids = xp.repeat(inputs.prompt, copies)
    allowed = None if inputs.prompt_mask is None else xp.repeat(inputs.prompt_mask, copies) != 0
    is_contrastive = settings.mode is GenerationMode.CONTRASTIVE_SEARCH
    more = (1 if settings.low_memory else settings.top_k) if is_contrastive else 0  # candidates are read, too
    capacity, seen = settings.width - 1 + more, _wider(xp, allowed, more)
    decoder = StaticDecoder(
        xp,
        device or xp,
        steps,
        ids.shape[0],
        capacity,
        cross,
        memory_mask,
        seen,
        steps.packed(),
        use_cache=settings.use_cache,
        prompt_room=settings.prefill,
        low_memory=settings.low_memory,
        prompt_length=int(numbers.prompt_length) if keeps_details else None,
    )
    return search(Task(xp, settings, numbers, decoder, ids, allowed, host or StepCallbacks()))


def search(task: Task) -> Found:
    """What the strategy of a task returns, with padding behind the longest sequence."""
    xp, settings = task.xp, task.settings
    found = LOOPS[settings.mode](task)
    is_written = xp.arange(settings.width)[None, :] < found.length
    return replace(found, sequences=xp.where(is_written, found.sequences, settings.pad))


def source_mask(xp: Arrays, mask: Array, length: Array, dtype: str) -> Array:
    """Additive mask [B, 1, 1, S] for a 1/0 mask [B, S] of which `length` columns are not filled up.

    Padding gets the least finite number, so that a row of padding only stays finite; what fills up the bucket gets
    minus infinity, so that such a row is the same in every bucket.
    """
    zero = xp.full((), 0.0, dtype)
    padded = xp.where(mask != 0, zero, lowest(dtype))
    filled = xp.arange(mask.shape[1])[None, :] >= length
    return xp.where(filled, xp.full((), -float("inf"), dtype), padded)[:, None, None, :]


def _wider(xp: Arrays, allowed: Array | None, more: int) -> Array | None:
    """The same with so many more places, all allowed."""
    if allowed is None or not more:
        return allowed
    return xp.concat([allowed, xp.full((allowed.shape[0], more), True, "bool")], 1)
