"""Cutting token lists to a length, and into overlapping windows. Works on lists of anything, one entry per token."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TypeVar

from ...errors import TokenizerError
from .call_options import TRUNCATION, CallOptions, choice

logger = logging.getLogger(__name__)
T = TypeVar("T")


def truncate(
    first: list[T], second: list[T] | None, excess: int, strategy: str, stride: int, side: str
) -> tuple[list[T], list[T] | None, list[T]]:
    """Both lists after cutting, and what was cut off of the one that the strategy names.

    Args:
        first: tokens of a text.
        second: tokens of its pair.
        excess: how many tokens have to go.
        strategy: one of TRUNCATION.
        stride: how many tokens that stay are repeated in what was cut off.
        side: "right" or "left", the end that is cut.
    """
    strategy = choice("truncation_strategy", strategy, TRUNCATION)
    if excess <= 0 or strategy == "do_not_truncate":
        return first, second, []
    if strategy == "only_second" and second is None:
        return first, second, []
    if strategy == "longest_first" and second is not None:
        return (*_shorten_both(first, second, excess, side), [])
    target = second if strategy == "only_second" and second is not None else first
    if len(target) <= excess:
        which = "second" if target is second else "first"
        logger.error(
            "A text cannot be cut: %d tokens have to go and its %s part has %d. Raise max_length%s.",
            excess, which, len(target), "" if strategy == "longest_first" else ", or use truncation='longest_first'",
        )  # fmt: skip
        return first, second, []
    window = min(len(target), stride + excess)
    kept, rest = (target[excess:], target[:window]) if side == "left" else (target[:-excess], target[-window:])
    return (first, kept, rest) if target is second else (kept, second, rest)


def _shorten_both(first: list[T], second: list[T], excess: int, side: str) -> tuple[list[T], list[T]]:
    """Takes from the longer one until both are equally long, then from both."""
    uneven = min(abs(len(second) - len(first)), excess)
    rest = excess - uneven
    if len(first) > len(second):
        from_first, from_second = uneven + rest // 2, rest - rest // 2
    else:
        from_first, from_second = rest // 2, uneven + rest - rest // 2
    if side == "left":
        return first[from_first:], second[from_second:]
    return first[: max(len(first) - from_first, 0)], second[: max(len(second) - from_second, 0)]


def windows(
    first: list[T], second: list[T] | None, room: int, options: CallOptions, side: str
) -> Iterator[tuple[list[T], list[T] | None]]:
    """All parts of a text that is too long, each short enough, neighbours sharing `stride` tokens.

    Args:
        first: tokens of a text.
        second: tokens of its pair.
        room: how many tokens both may have together.
        options: strategy and stride.
        side: "right" or "left", the end that a plain truncation would cut.
    """
    cuts_second = options.truncation == "only_second" and second is not None
    target = second if cuts_second and second is not None else first
    other = 0 if second is None else len(first if cuts_second else second)
    size = room - other
    if size <= options.stride or options.stride < 0:
        raise TokenizerError(
            f"`stride` must be at least 0 and below the {max(size, 0)} tokens that `max_length` leaves for the text, "
            f"got {options.stride}. Raise max_length."
        )
    step, length = size - options.stride, len(target)
    spans = []
    if side == "left":
        for end in range(length, 0, -step):
            spans.append((max(end - size, 0), end))
            if end <= size:
                break
    else:
        for start in range(0, length, step):
            spans.append((start, min(start + size, length)))
            if start + size >= length:
                break
    for start, end in spans:
        part = target[start:end]
        yield (first, part) if cuts_second else (part, second)
