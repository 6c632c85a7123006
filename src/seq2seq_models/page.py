"""The page of `seq2seq-models serve`: what stands on it, what it says, and who waits for which model."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from .core.conversation import Conversation, Turn
from .core.settings.generation_options import OPTIONS
from .core.streamers import BaseStreamer
from .core.window import window
from .errors import GenerationError, InputError
from .reading import escaped, read, reading_html

SETTINGS = (
    "num_beams", "max_length", "min_length", "length_penalty", "no_repeat_ngram_size", "repetition_penalty",
    "do_sample", "temperature", "top_k", "top_p",
)  # fmt: skip
"""The options of `generate` that the page offers."""

EXAMPLE = (
    "A reporter from Ghent was there. Firefighters in Lisbon fought a fire at a bakery on Monday. Three people were "
    'taken to hospital. "I have never seen anything like it," said Maria Costa. The cause is not known.'
)


class Line:
    """A thread that does what it is asked in turn, and takes no more than it has places for.

    A model, its random numbers and its caches are not made for several threads.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._free = threading.BoundedSemaphore(places)
        self._thread = ThreadPoolExecutor(1)

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """What the call will return.

        Raises:
            InputError: all places are taken.
        """
        if not self._free.acquire(blocking=False):
            raise InputError(f"Too many are waiting: this model takes {self._places} at a time. Try again in a moment.")
        future = self._thread.submit(call)
        future.add_done_callback(lambda _: self._free.release())
        return future

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)


class Listener(BaseStreamer):
    """The text of a reply as far as it is written, again each time that it has grown.

    It is made and followed in an event loop, and told by the thread of a `Line`.

    Attributes:
        criteria: the stopping criteria of `generate` that end the writing when nobody follows any more.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.criteria = [self._ends]
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._loop = asyncio.get_running_loop()
        self._texts: asyncio.Queue[str | None] = asyncio.Queue()
        self._is_left = False

    async def follow(self, future: Future[Any]) -> AsyncIterator[str]:
        """The texts, until the call that writes them is done; its error, if it has one, is raised."""
        future.add_done_callback(lambda _: self._tell(None))
        try:
            while (text := await self._texts.get()) is not None:
                yield text
            if not self._is_left:
                future.result()
        finally:
            self._is_left = True
            future.cancel()

    def leave(self) -> None:
        """Ends the writing, and whoever follows it."""
        self._is_left = True
        self._texts.put_nowait(None)

    def put(self, value: Any) -> None:
        """Takes the next token ids."""
        self._ids += [int(token) for token in value.reshape(-1)]
        self._tell(self._tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=True))

    def end(self) -> None:
        """Does nothing: a call that fails never gets here, so the call itself is watched."""

    def _tell(self, text: str | None) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits for it
            self._loop.call_soon_threadsafe(self._texts.put_nowait, text)

    def _ends(self, ids: Any, scores: Any) -> bool:
        if self._is_left:
            raise CancelledError
        return False


class Session:
    """A visitor's talk, and who listens to the reply that is being written, if one is."""

    def __init__(self) -> None:
        self.talk = Conversation()
        self.listener: Listener | None = None


# What the page says.


def refusal(text: str | None, most: int) -> str:
    """Why a text is not taken, in words for the page; nothing where it is."""
    if text is None or not text.strip():
        return "There is no text yet. Type or paste one."
    if len(text) > most:
        return f"This text has {len(text):,} characters, and {most:,} are the limit. Shorten it."
    return ""


def changed(own: Any, values: Sequence[Any]) -> dict[str, Any]:
    """The options of `generate` that differ from the checkpoint's; an empty field is one left alone.

    Args:
        own: the generation config of the checkpoint.
        values: of `SETTINGS`, in their order.
    """
    given = zip(SETTINGS, values, strict=True)
    return {name: value for name, value in given if value is not None and value != getattr(own, name)}


def talk_html(turns: Iterable[Turn], left_out: int = 0, growing: str | None = None) -> str:
    """A talk as a list: the turns that the model no longer reads are marked, and the last reply may still grow."""
    shown = [
        f'<li class="{turn.role}{" left-out" if number < left_out else ""}">{escaped(turn.text)}</li>'
        for number, turn in enumerate(turns)
    ]
    if growing is not None:
        shown.append(f'<li class="assistant growing">{escaped(growing) or "…"}</li>')
    if left_out:
        shown.insert(
            left_out, '<li class="fold">What stands above has been trimmed: the model reads on from here.</li>'
        )
    return f'<div class="talk" role="log" aria-label="Talk" tabindex="0"><ol>{"".join(shown)}</ol></div>'


def _notice(text: str) -> str:
    return f'<p class="notice" role="alert">{escaped(text)}</p>' if text else ""


def _name(loaded: Any) -> str:
    """What the model of a pipeline is called: its repository, or the last part of its folder."""
    name = str(loaded.model.config.name_or_path)
    return Path(name).name if Path(name).is_dir() else name


class Page:
    """The page: two models, the line in front of each, and what happens when somebody asks for something."""

    def __init__(self, summarizer: Any, bot: Any, reading: Line, talking: Line, most: int) -> None:
        """Takes what `pipeline` gave, a line for each, and the number of characters that a text may have."""
        import gradio

        self._gr: Any = gradio
        self._summarizer, self._bot = summarizer, bot
        self._reading, self._talking = reading, talking
        self._most = most

    def app(self) -> Any:
        """The page as an ASGI application."""
        from fastapi import FastAPI

        gr = self._gr
        with gr.Blocks(title="seq2seq-models", analytics_enabled=False, delete_cache=(600, 600)) as blocks:
            gr.HTML("<h1>seq2seq-models</h1>")
            with gr.Tab("Summarize"):
                self._summarize_tab()
            with gr.Tab("Chat"):
                self._chat_tab()
        blocks.queue(default_concurrency_limit=None, api_open=False)
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        return gr.mount_gradio_app(
            app, blocks, "/", theme=self._theme(), css_paths=Path(__file__).with_suffix(".css"), footer_links=[],
            run_history=False, ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False,
            max_file_size=4 * self._most + 4,
        )  # fmt: skip

    def _theme(self) -> Any:
        """Gradio's own, with the fonts of the machine, and with texts that stand out from what is behind them."""
        fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
        theme = self._gr.themes.Default(primary_hue="indigo", neutral_hue="slate", **fonts)
        quiet = (
            "block_title_text_color", "block_label_text_color", "block_info_text_color", "input_placeholder_color",
            "body_text_color_subdued",
        )  # fmt: skip
        return theme.set(
            button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700",
            color_accent="*primary_600",
            **dict.fromkeys(quiet, "*neutral_600"), **{f"{name}_dark": "*neutral_300" for name in quiet},
        )  # fmt: skip

    def _summarize_tab(self) -> None:
        gr = self._gr
        with gr.Row(equal_height=True):
            text = gr.Textbox(
                label="Text", lines=7, max_lines=14, placeholder="Paste a text here.", scale=3, elem_id="text"
            )
            file = gr.File(label="Or a text file", type="binary", height=150, scale=1, min_width=160, elem_id="file")
        with gr.Row():
            start = gr.Button("Summarize", variant="primary", elem_id="summarize")
            example = gr.Button("Take an example")
        notice, result = gr.HTML(elem_id="notice"), gr.HTML()
        settings = self._settings(self._summarizer)
        quietly = {"api_visibility": "private", "show_progress": "hidden"}
        start.click(self.summarize, [text, *settings], [notice, result], **quietly)
        example.click(lambda: EXAMPLE, None, text, **quietly)
        file.upload(self.open, file, [text, notice, file], **quietly)

    def _chat_tab(self) -> None:
        gr = self._gr
        session = gr.State(Session())
        shown = gr.HTML(talk_html([]), elem_id="talk")
        notice = gr.HTML(elem_id="chat-notice")
        box = gr.Textbox(label="Your turn", placeholder="Say something.", elem_id="box")
        with gr.Row():
            send = gr.Button("Send", variant="primary", elem_id="send")
            new = gr.Button("New chat", elem_id="new")
        settings = self._settings(self._bot)
        quietly = {"api_visibility": "private", "show_progress": "hidden"}
        outputs = [box, shown, notice]
        # What is sent while a reply still grows is answered after it.
        gr.on(
            [box.submit, send.click], self.answer, [box, session, *settings], outputs, trigger_mode="always_last",
            **quietly,
        )  # fmt: skip
        new.click(self.start_anew, session, outputs, **quietly)

    def _settings(self, loaded: Any) -> list[Any]:
        """The fields of `SETTINGS`, in a drawer, with the values of the checkpoint."""
        gr, fields = self._gr, []
        with gr.Accordion(f"Settings of {_name(loaded)}", open=False), gr.Row():
            for name in SETTINGS:
                option, value = OPTIONS[name], getattr(loaded.generation_config, name)
                about = {"label": name, "info": option.does, "min_width": 220}
                if isinstance(option.default, bool):
                    fields.append(gr.Checkbox(value, **about))
                else:
                    whole = isinstance(option.default, int)
                    fields.append(gr.Number(value, **about, precision=0 if whole else None, step=1 if whole else 0.1))
        return fields

    # What happens.

    def open(self, data: bytes) -> tuple[Any, str, None]:
        """The text of a file, a notice, and the field of the file, empty again."""
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            return self._gr.skip(), _notice("This file is not UTF-8 text. Save it as UTF-8, or paste the text."), None
        return text, _notice(refusal(text, self._most)), None

    async def summarize(self, text: str, *values: Any) -> AsyncIterator[tuple[str, str]]:
        """A notice, and the summary of a text with what its sentences looked at."""
        if word := refusal(text, self._most):
            yield _notice(word), ""
            return
        listener = Listener(self._summarizer.tokenizer)
        options = changed(self._summarizer.generation_config, values)
        try:
            call = self._reading.submit(
                lambda: read(self._summarizer, text, **options, stopping_criteria=listener.criteria)
            )
            yield _notice("The model is reading …"), ""
            async for _ in listener.follow(call):
                pass
        except (GenerationError, InputError) as error:
            yield _notice(str(error)), ""
            return
        reading = call.result()
        count = len(reading.parts)
        word = f"This text is longer than the model reads at once: it was read in {count} parts." if count > 1 else ""
        yield _notice(word), reading_html(reading)

    async def answer(self, text: str, session: Session, *values: Any) -> AsyncIterator[tuple[Any, Any, Any]]:
        """The field of the visitor, the talk, and a notice, each time that the reply has grown."""
        keep = self._gr.skip()
        if word := refusal(text, self._most):
            yield keep, keep, _notice(word if text else "")
            return
        bot, talk = self._bot, copy.deepcopy(session.talk)
        talk.add_user(text)
        turns = list(talk)
        listener = session.listener = Listener(bot.tokenizer)
        options = changed(bot.generation_config, values)
        if bot.generation_config.num_beam_groups == 1:
            options["streamer"] = listener
        too_long = len(bot.tokenizer(text, verbose=False)["input_ids"]) > window(bot.model.config, bot.tokenizer)
        word = "Your turn is longer than the model reads at once: only its end is read." if too_long else ""
        try:
            call = self._talking.submit(lambda: bot(talk, **options, stopping_criteria=listener.criteria))
            yield "", talk_html(turns, talk.left_out, ""), _notice(word)
            async for growing in listener.follow(call):
                yield keep, talk_html(turns, talk.left_out, growing), keep
        except (GenerationError, InputError) as error:
            yield text, talk_html(session.talk, session.talk.left_out), _notice(str(error))
            return
        if session.listener is listener:  # else another chat has begun
            session.talk = talk
        yield keep, talk_html(session.talk, session.talk.left_out), keep

    async def start_anew(self, session: Session) -> tuple[str, str, str]:
        """The same of a new chat; a reply that is being written to the old one ends."""
        if session.listener is not None:
            session.listener.leave()
        session.talk, session.listener = Conversation(), None
        return "", talk_html([]), ""
