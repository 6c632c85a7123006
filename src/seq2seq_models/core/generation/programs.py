"""The functions a framework has compiled, kept for the next call of their shapes, and not more of them than fit."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Generic, TypeVar

from .task import Settings

MOST = 64
"""Functions kept by default. XLA takes 200 to 500 memory maps for each, of the 65,530 that Linux gives a process."""

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Program:
    """What a compiled function is specialised on, besides shapes: two models of the same shape share it.

    Attributes:
        piece: what it computes: "decode" for the whole, or the name of one piece of it.
        facts: everything about the model that the computation depends on.
        details: whether attentions and hidden states come along.
        settings: of the loop; None for a single piece.
        module: a module of these facts that holds no weights, where the framework has such.
    """

    piece: str
    facts: tuple[Any, ...]
    details: tuple[bool, bool] = (False, False)
    settings: Settings | None = None
    module: Any = field(default=None, compare=False)


class Programs(Generic[Function]):
    """Compiled functions by program and shapes of the inputs; the least recently used one makes room for a new one.

    Args:
        make: a function for a program, to be called with inputs of one shape only.
        drop: frees what a function holds.
        most: functions kept.

    Attributes:
        most: functions kept.
        made: how many functions were made so far, by piece.
    """

    def __init__(self, make: Callable[[Program], Function], drop: Callable[[Function], None], most: int = MOST) -> None:
        self._make, self._drop, self.most = make, drop, most
        self._kept: OrderedDict[tuple[Program, Hashable], Function] = OrderedDict()
        self._lock = Lock()
        self.made: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: tuple[Program, Hashable]) -> bool:
        return key in self._kept

    def get(self, program: Program, shapes: Hashable) -> Function:
        """The function for inputs of these shapes."""
        key = (program, shapes)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._make(program)
                self.made[program.piece] += 1
            self._kept.move_to_end(key)
            function = self._kept[key]
            gone = self._kept.popitem(last=False)[1] if len(self._kept) > self.most else None
        if gone is not None:
            self._drop(gone)
        return function
