"""A talk as turns, and the text a model reads of it: the newest turns that fit, joined by the model's own tokens."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import InputError

logger = logging.getLogger("seq2seq_models")
Role = Literal["user", "assistant"]
_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant"}


@dataclass(frozen=True)
class Turn:
    """What one side said at once.

    Attributes:
        role: "user" or "assistant".
        text: the words, as they were given.
    """

    role: Role
    text: str


class Conversation:
    """A talk between a user and a model: a list of turns, oldest first.

    >>> talk = Conversation("My friends are cool.")
    >>> talk.add_reply("what do they like?")
    >>> talk.add_user("I'm not sure.")
    >>> talk.prompt(tokenizer)      # with BlenderbotSmallTokenizer
    "My friends are cool.__end__ __start__what do they like?__end__ __start__I'm not sure."

    Attributes:
        turns: all turns so far. None is ever deleted: a model that cannot read them all is shown the newest.
        left_out: how many of the oldest turns no longer fitted when the talk was last encoded.
    """

    def __init__(self, start: str | Iterable[Turn | Mapping[str, str]] | None = None) -> None:
        """A talk that starts with what the user said, with the given turns, or empty.

        Args:
            start: the user's first words; or turns, each a `Turn` or {"role": "user" | "assistant", "content": text}.
        """
        self.turns: list[Turn] = []
        self.left_out = 0
        self._limit = 0
        if isinstance(start, str):
            self.add_user(start)
        else:
            for index, turn in enumerate(start or ()):
                self.turns.append(turn if isinstance(turn, Turn) else _turn(turn, index))

    def add_user(self, text: str) -> None:
        """Appends what the user said."""
        self.turns.append(Turn("user", _checked(text)))

    def add_reply(self, text: str) -> None:
        """Appends what the model said, which may be nothing."""
        self.turns.append(Turn("assistant", text))

    @property
    def history(self) -> list[str]:
        """The words of all turns, oldest first."""
        return [turn.text for turn in self.turns]

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns as {"role": ..., "content": ...}."""
        return [{"role": turn.role, "content": turn.text} for turn in self.turns]

    @property
    def reply(self) -> str | None:
        """What the model said last, or None when it has said nothing since the user spoke."""
        return self.turns[-1].text if self.turns and self.turns[-1].role == "assistant" else None

    def prompt(self, tokenizer: Any, start: int = 0) -> str:
        """The text of the turns from `start` on, as the model was trained to read it.

        Turns are joined by the closing token, a space, and the opening token: "...__end__ __start__..." for
        BlenderbotSmall. A tokenizer without both tokens (Pegasus) gets one turn per line.
        """
        opening, closing = tokenizer.bos_token, tokenizer.eos_token
        between = f"{closing} {opening}" if opening and closing else "\n"
        return between.join(self.history[start:])

    def encode(self, tokenizer: Any, limit: int) -> list[int]:
        """Token ids of the newest turns that fit into `limit` tokens, which `left_out` then tells.

        The reply needs no room here: the decoder that writes it has positions of its own. Of a last turn that is too
        long by itself, the end is kept. Whatever is left out newly is said in the log.

        Args:
            tokenizer: the model's tokenizer.
            limit: tokens that the model reads at once, see `core.window.window`.

        Raises:
            InputError: there is nothing to answer: no turn, or the last is the model's own.
        """
        if not self.turns or self.turns[-1].role != "user":
            raise InputError(
                "`conversation` must end with a turn of the user, got "
                + ("a reply at its end" if self.turns else "no turn at all")
                + ". Say something with add_user(text)."
            )
        before, last = self.left_out, len(self.turns) - 1
        # A talk only grows: what did not fit before will not fit now, unless another model with more room asks.
        first = min(before, last) if limit == self._limit else 0
        for start in range(first, last + 1):
            ids: list[int] = list(tokenizer(self.prompt(tokenizer, start), verbose=False)["input_ids"])
            if len(ids) <= limit:
                break
        self.left_out, self._limit = start, limit
        if start > before:
            logger.warning(
                "the talk outgrew the %d tokens this model reads: its first %d turns are left out", limit, start
            )
        if len(ids) > limit:
            logger.warning("the last turn has %d tokens and this model reads %d: only its end is read", len(ids), limit)
        return ids[-limit:]

    def __len__(self) -> int:
        return len(self.turns)

    def __iter__(self) -> Iterator[Turn]:
        return iter(self.turns)

    def __repr__(self) -> str:
        return f"Conversation({self.messages!r})"

    def __str__(self) -> str:
        return "\n".join(f"{turn.role}: {turn.text}" for turn in self.turns)


def _checked(text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"`text` must be a text with at least one word, got {text!r} (Conversation).")
    return text


def _turn(message: Mapping[str, str], index: int) -> Turn:
    """A turn from a message as chat templates write it."""
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        raise InputError(f'turn {index} must be {{"role": ..., "content": ...}}, got {message!r} (Conversation).')
    role = _ROLES.get(message["role"])
    if role is None:
        raise InputError(
            f"`role` of turn {index} must be 'user' or 'assistant', got {message['role']!r} (Conversation)."
        )
    return Turn(role, _checked(message["content"]))
