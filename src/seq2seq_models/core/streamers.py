"""Streamers: objects that `generate` hands every new token to, to print or queue the text as it grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from queue import Queue
from typing import Any

from ..errors import InputError

_IDEOGRAPHS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
"""Code points of Chinese characters, which stand for themselves. Source: Unicode, the CJK ideograph blocks."""


class BaseStreamer:
    """What `generate` calls while it writes; derive from it to do something of your own with the tokens."""

    def put(self, value: Any) -> None:
        """Takes the prompt of the decoder, and then every new token.

        Args:
            value: token ids [T] or [1, T], as a tensor or array of any framework or a list.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `put`.")

    def end(self) -> None:
        """Is called once, after the last token."""
        raise NotImplementedError(f"{type(self).__name__} must define `end`.")


class TextStreamer(BaseStreamer):
    """Prints the text as soon as whole words of it are certain.

    Args:
        tokenizer: turns ids into text.
        skip_prompt: leave out the first ids that come, those the decoder was started with.
        **decode_kwargs: for `tokenizer.decode`, such as `skip_special_tokens=True`.
    """

    def __init__(self, tokenizer: Any, skip_prompt: bool = False, **decode_kwargs: Any) -> None:
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.decode_kwargs = decode_kwargs
        self._begin()

    def _begin(self) -> None:
        self._ids: list[int] = []
        self._printed = 0
        self._prompt_comes = True

    def put(self, value: Any) -> None:
        """Takes ids and passes on the words that they complete.

        Args:
            value: token ids [T] or [1, T].
        Raises:
            InputError: ids of several texts.
        """
        ids = _flat_ids(value)
        prompt, self._prompt_comes = self._prompt_comes, False
        if prompt and self.skip_prompt:
            return
        self._ids += ids
        text = self._text()
        line_ended = text.endswith("\n")
        end = len(text) if line_ended or _ends_in_ideograph(text) else text.rfind(" ") + 1
        ready = text[self._printed : end]
        self._printed += len(ready)
        if line_ended:
            self._ids, self._printed = [], 0
        self.on_finalized_text(ready)

    def end(self) -> None:
        """Passes on what is left, and makes ready for another text."""
        rest = self._text()[self._printed :] if self._ids else ""
        self._begin()
        self.on_finalized_text(rest, stream_end=True)

    def _text(self) -> str:
        return str(self.tokenizer.decode(self._ids, **self.decode_kwargs))

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Prints the text; override it to do something else.

        Args:
            text: what is new and certain; may be empty.
            stream_end: nothing comes after it; ends the line.
        """
        print(text, flush=True, end="\n" if stream_end else "")


class TextIteratorStreamer(TextStreamer):
    """Iterates over the text as it grows, while `generate` runs in another thread.

    Args:
        tokenizer: turns ids into text.
        skip_prompt: leave out the ids the decoder was started with.
        timeout: seconds to wait for text before `queue.Empty` is raised; None waits for ever.
        **decode_kwargs: for `tokenizer.decode`.
    """

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.timeout = timeout
        self.text_queue: Queue[str | None] = Queue()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Queues the text, and after the last one the end."""
        self.text_queue.put(text, timeout=self.timeout)
        if stream_end:
            self.text_queue.put(None, timeout=self.timeout)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        text = self.text_queue.get(timeout=self.timeout)
        if text is None:
            raise StopIteration
        return text


class AsyncTextIteratorStreamer(TextStreamer):
    """Iterates over the text with `async for`, while `generate` runs in a thread. Make it inside a coroutine.

    Args:
        tokenizer: turns ids into text.
        skip_prompt: leave out the ids the decoder was started with.
        timeout: seconds to wait for text before TimeoutError is raised; None waits for ever.
        **decode_kwargs: for `tokenizer.decode`.
    Raises:
        RuntimeError: no event loop runs here.
    """

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.timeout = timeout
        self.text_queue: asyncio.Queue[str | None] = asyncio.Queue()
        self.loop = asyncio.get_running_loop()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Queues the text in the event loop, and after the last one the end."""
        self.loop.call_soon_threadsafe(self.text_queue.put_nowait, text)
        if stream_end:
            self.loop.call_soon_threadsafe(self.text_queue.put_nowait, None)

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        async with asyncio.timeout(self.timeout):
            text = await self.text_queue.get()
        if text is None:
            raise StopAsyncIteration
        return text


def _flat_ids(value: Any) -> list[int]:
    ids = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(ids, int):
        return [ids]
    # A TensorFlow tensor has no tolist, but its array has.
    ids = ids.numpy().tolist() if hasattr(ids, "numpy") else list(ids)
    if ids and isinstance(ids[0], list | tuple):
        if len(ids) > 1:
            raise InputError(
                f"`value` must be the ids of one text, got {len(ids)} rows (streamer). Stream one text at once."
            )
        ids = ids[0]
    return [int(one) for one in ids]


def _ends_in_ideograph(text: str) -> bool:
    return bool(text) and any(first <= ord(text[-1]) <= last for first, last in _IDEOGRAPHS)
