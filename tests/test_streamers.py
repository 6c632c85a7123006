"""Streamers against transformers 4.57.6: the same pieces of text, for the same ids, in the same order."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from queue import Empty
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from seq2seq_models.core.streamers import AsyncTextIteratorStreamer, BaseStreamer, TextIteratorStreamer, TextStreamer
from seq2seq_models.errors import InputError

PIECES = [
    "<s>",
    " the",
    " cat",
    "s",
    " sat",
    ".",
    "\n",
    "漢",
    "字",
    " on",
    ",",
    "  ",
    "é",
    " mat's",
    "𠀀",
    "豈",
    "ひ",
    "</s>",
]


class PieceTokenizer:
    """Ids are pieces of text; 0 and the last are special."""

    def decode(self, ids: list[int], skip_special_tokens: bool = False, upper: bool = False) -> str:
        special = (0, len(PIECES) - 1)
        text = "".join(PIECES[one] for one in ids if not (skip_special_tokens and one in special)).strip(" ")
        return text.upper() if upper else text


class Array:
    """An array of a framework that has `numpy` and no `tolist`, as TensorFlow's."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    def numpy(self) -> Any:
        return self.values


def random_ids(seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(len(PIECES)) for _ in range(rng.randrange(1, 40))]


def pieces_of(streamer_class: type, ids: list[int], wrap: Callable[[Any], Any], **options: Any) -> list[str]:
    """What a streamer yields for a start token and then these ids."""
    streamer = streamer_class(PieceTokenizer(), **options)
    streamer.put(wrap([[0]]))
    for one in ids:
        streamer.put(wrap([one]))
    streamer.end()
    return list(streamer)


@pytest.mark.parametrize(
    "options", [{}, {"skip_prompt": True}, {"skip_special_tokens": True}, {"upper": True}], ids=str
)
def test_pieces_are_those_of_the_reference(options: dict[str, Any]) -> None:
    for seed in range(300):
        ids = random_ids(seed)
        theirs = pieces_of(transformers.TextIteratorStreamer, ids, torch.tensor, **options)
        assert pieces_of(TextIteratorStreamer, ids, list, **options) == theirs, ids
        end = ids if options.get("skip_prompt") else [0, *ids]
        if "\n" not in "".join(theirs):
            decode = {key: value for key, value in options.items() if key != "skip_prompt"}
            assert "".join(theirs) == PieceTokenizer().decode(end, **decode)


@pytest.mark.parametrize("wrap", [torch.tensor, np.array, list, tuple, Array], ids=lambda wrap: wrap.__name__)
def test_ids_may_be_of_any_framework(wrap: Callable[[Any], Any]) -> None:
    ids = [1, 2, 3, 4, 5]
    assert pieces_of(TextIteratorStreamer, ids, wrap, skip_prompt=True) == ["", "the ", "", "the cats "[4:], "", "sat."]


@pytest.mark.parametrize("one", [7, np.int64(7), torch.tensor(7), np.array([[7]])])
def test_a_single_id(one: Any) -> None:
    streamer = TextIteratorStreamer(PieceTokenizer())
    streamer.put(one)
    streamer.end()
    assert list(streamer) == ["漢", ""]


def test_printing_is_that_of_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(50):
        printed = []
        for streamer in (TextStreamer(PieceTokenizer()), transformers.TextStreamer(PieceTokenizer())):
            for one in random_ids(seed):
                streamer.put(torch.tensor([one]))
            streamer.end()
            printed.append(capsys.readouterr().out)
        assert printed[0] == printed[1]
        assert printed[0].endswith("\n")


def test_one_streamer_for_two_texts() -> None:
    streamer = TextIteratorStreamer(PieceTokenizer(), skip_prompt=True)
    for _ in range(2):
        for one in (0, 1, 2, 4):
            streamer.put([one])
        streamer.end()
        assert "".join(streamer) == "the cat sat"


def test_words_come_only_when_they_are_complete() -> None:
    seen: list[tuple[str, bool]] = []

    class Keep(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            seen.append((text, stream_end))

    streamer = Keep(PieceTokenizer())
    for one in (1, 2, 3, 4):
        streamer.put([one])
    assert [text for text, _ in seen] == ["", "the ", "", "cats "]
    streamer.end()
    assert seen[-1] == ("sat", True)


def test_several_texts_are_refused() -> None:
    with pytest.raises(InputError, match="`value` must be the ids of one text, got 2 rows"):
        TextStreamer(PieceTokenizer()).put([[1], [2]])


def test_a_streamer_of_ones_own_must_define_both_methods() -> None:
    class Half(BaseStreamer):
        pass

    for call in (lambda: Half().put([1]), Half().end):
        with pytest.raises(NotImplementedError, match="Half must define"):
            call()


def test_waiting_ends() -> None:
    with pytest.raises(Empty):
        next(TextIteratorStreamer(PieceTokenizer(), timeout=0.01))


def test_iterating_while_another_thread_writes() -> None:
    streamer = TextIteratorStreamer(PieceTokenizer(), timeout=30)
    ids = [*random_ids(1), 1, 2]

    def write() -> None:
        for one in ids:
            streamer.put([one])
        streamer.end()

    thread = threading.Thread(target=write)
    thread.start()
    theirs = transformers.TextIteratorStreamer(PieceTokenizer())
    for one in ids:
        theirs.put(torch.tensor([one]))
    theirs.end()
    assert list(streamer) == list(theirs)
    thread.join()


def test_async_iteration() -> None:
    async def read() -> list[str]:
        streamer = AsyncTextIteratorStreamer(PieceTokenizer(), timeout=30, skip_special_tokens=True)

        def write() -> None:
            for one in (0, 1, 2, 4, 17):
                streamer.put([one])
            streamer.end()

        thread = threading.Thread(target=write)
        thread.start()
        found = [text async for text in streamer]
        thread.join()
        return found

    assert asyncio.run(read()) == ["", "", "the ", "cat ", "", "sat"]


def test_async_waiting_ends() -> None:
    async def read() -> str:
        return await anext(aiter(AsyncTextIteratorStreamer(PieceTokenizer(), timeout=0.01)))

    with pytest.raises(TimeoutError):
        asyncio.run(read())
