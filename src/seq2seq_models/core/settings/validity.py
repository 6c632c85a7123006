"""What a value must be, as data: one rule per key, and one error that names every key that breaks its rule."""

from __future__ import annotations

import logging
import math
import numbers
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeGuard


@dataclass(frozen=True)
class Rule:
    """A rule on one value.

    Attributes:
        must: the rule in words that follow "must be".
        holds: whether a value keeps it.
    """

    must: str
    holds: Callable[[Any], bool]

    def fault(self, name: str, value: Any) -> str | None:
        """What is wrong with `value`, in words; None if nothing is."""
        return None if self.holds(value) else f"`{name}` must be {self.must}, got {value!r}"


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a value is an integer and no bool, which Python counts as one."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_real(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number and no bool."""
    return not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)


def whole(least: int) -> Rule:
    """An integer of at least `least`."""
    return Rule(f"a whole number of at least {least}", lambda value: is_whole(value) and value >= least)


def real(low: float = -math.inf, high: float = math.inf, *, above_low: bool = False, below_high: bool = False) -> Rule:
    """A finite number between `low` and `high`, the ends included unless `above_low` or `below_high`."""
    words = "a number"
    if low > -math.inf:
        words += f" {'above' if above_low else 'of at least'} {low:g}"
    if high < math.inf:
        words += f"{' and' if low > -math.inf else ''} {'below' if below_high else 'at most'} {high:g}"

    def holds(value: Any) -> bool:
        if not is_real(value):
            return False
        fits_low = value > low if above_low else value >= low
        return bool(fits_low and (value < high if below_high else value <= high))

    return Rule(words, holds)


def flag() -> Rule:
    """True or False."""
    return Rule("true or false", lambda value: isinstance(value, bool))


def text() -> Rule:
    """A string."""
    return Rule("a string", lambda value: isinstance(value, str))


def one_of(values: Collection[Any]) -> Rule:
    """One of the values, of the same type as it: 1 is not True here."""
    words = ", ".join(repr(value) for value in values)
    return Rule(f"one of {words}", lambda value: any(type(value) is type(one) and value == one for one in values))


def token_id(below: int | None = None, *, several: bool = False) -> Rule:
    """A token id, smaller than `below`; with `several`, a list of them is one too."""
    end = "" if below is None else f" below `vocab_size` = {below}"
    words = f"a token id of at least 0{end}" + (" or a list of such ids" if several else "")

    def is_id(value: Any) -> bool:
        return is_whole(value) and value >= 0 and (below is None or value < below)

    def holds(value: Any) -> bool:
        if several and isinstance(value, list | tuple):
            return len(value) > 0 and all(is_id(one) for one in value)
        return is_id(value)

    return Rule(words, holds)


def end_id() -> Rule:
    """A token id, or a list of them; a negative number is one that no token has."""

    def holds(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return len(value) > 0 and all(map(is_whole, value))
        return is_whole(value)

    return Rule("a token id or a list of such ids", holds)


@cache
def warn_once(logger: logging.Logger, text: str) -> None:
    """Log a warning, the first time only."""
    logger.warning(text)


def or_none(rule: Rule) -> Rule:
    """The same rule, with None allowed."""
    return Rule(f"{rule.must}, or null", lambda value: value is None or rule.holds(value))


def message(faults: Iterable[str], where: str, advice: str) -> str:
    """The text of one error for all faults, sorted; `where` says where the values stand, `advice` what to do."""
    found = sorted(set(faults))
    if len(found) == 1:
        return f"{found[0]} ({where}). {advice}"
    return f"{len(found)} values cannot be used ({where}):\n" + "\n".join(f"- {one}" for one in found) + f"\n{advice}"
