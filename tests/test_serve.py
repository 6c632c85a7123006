"""The page of `seq2seq-models serve`: what stands behind it, and the page itself in a browser without a window.

SERVE_SCREENSHOTS=docs/images has the browser make the pictures of the docs again.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from seq2seq_models import Conversation, cli, pipeline
from seq2seq_models.core.conversation import Turn
from seq2seq_models.errors import InputError
from seq2seq_models.page import EXAMPLE, SETTINGS, Line, Listener, changed, refusal, talk_html
from seq2seq_models.reading import FAINTEST, Part, Reading, read, reading_html
from seq2seq_models.serve import _listen

ROOT = Path(__file__).parents[1]
FIRE = "A fire broke out in a bakery in Lisbon on Monday.  Three people were hurt.\n\nThe cause is not known."
MATCH = "Porto beat Madrid 2-1 on Friday. Silva scored the first goal.\t<b>The</b> {{stadium}} was ${full} & `loud`."
LONG = "\n\n".join([FIRE] * 12 + [MATCH] * 9)
MOST = 5_000
CHROMIUM = ("chromium", "chromedriver")


@pytest.fixture(scope="module")
def summarizer() -> Any:
    return pipeline("summarization")


@pytest.fixture(scope="module")
def bot() -> Any:
    return pipeline("chat")


# What sentences looked at.


def lit(reading: Reading, sentence: int, least: float = FAINTEST) -> str:
    """The characters of the source that are at least so much lit for a sentence, the others as dots."""
    shown = ["."] * len(reading.source)
    first = 0
    for part in reading.parts:
        if first <= sentence < first + len(part.sentences):
            for place in np.flatnonzero(part.shades[sentence - first] >= least):
                shown[part.start + place] = reading.source[part.start + place]
        first += len(part.sentences)
    return "".join(shown)


def test_a_sentence_looked_at_the_words_it_tells(summarizer: Any) -> None:
    reading = read(summarizer, FIRE)
    assert [part.sentences for part in reading.parts] == [["Fire at bakery in Lisbon, three hurt"]]
    assert set(re.findall(r"\w+", lit(reading, 0, 0.5))) == {"fire", "bakery", "in", "Lisbon", "Three"}
    assert reading.parts[0].shades.max() == 1
    assert "  " not in lit(reading, 0) and "\n" not in lit(reading, 0)


def test_the_shades_are_the_attention(summarizer: Any) -> None:
    """Computed another way: token by token, from a source without white space to lose."""
    from seq2seq_models.plots import cross_attention

    source = "A fire broke out in Lisbon."
    encoded = summarizer.tokenizer(source, return_offsets_mapping=True)
    output = summarizer.outputs([encoded["input_ids"]], return_dict_in_generate=True, output_attentions=True)
    written = [int(one) for one in output.sequences[0][1:]]
    weights = cross_attention(output)[: written.index(summarizer.tokenizer.eos_token_id)].mean(0)[:-1]
    (part,) = read(summarizer, source).parts
    for weight, (start, end) in zip(weights / weights.max(), encoded["offset_mapping"], strict=False):
        np.testing.assert_allclose(part.shades[0, start:end], weight if weight >= FAINTEST else 0, atol=0.0051)


def test_a_long_text_is_read_in_parts_that_know_their_place(summarizer: Any) -> None:
    reading = read(summarizer, LONG)
    assert len(reading.parts) == 3
    assert reading.summary == summarizer(LONG)[0]["summary_text"]
    for part in reading.parts:
        assert LONG[part.start].strip() and LONG[part.end - 1].strip()
    assert LONG[reading.parts[0].end : reading.parts[1].start].isspace()
    first, *_, last = (lit(reading, number, 0.4) for number in range(3))
    assert "Lisbon" in first and not first[reading.parts[0].end :].strip(".")
    assert "Porto" in last and not last[: reading.parts[2].start].strip(".")


def test_sentences_of_one_part_are_told_apart(summarizer: Any) -> None:
    class Writes:
        """A model that copies a summary of two sentences out of a source."""

        tokenizer = summarizer.tokenizer
        model = summarizer.model
        summary = summarizer.tokenizer("A fire broke out.<n>Silva scored.")["input_ids"]

        def outputs(self, rows: list[list[int]], **options: Any) -> Any:
            from types import SimpleNamespace

            looked = np.eye(len(rows[0]), dtype=np.float32)[: len(self.summary)]
            steps = [(row[None, None, None, :],) for row in looked]
            return SimpleNamespace(sequences=[[0, *self.summary]], cross_attentions=steps)

    source = "A fire broke out here. Silva was not there, nor was he in Lisbon on that day."
    writes: Any = Writes()
    (part,) = read(writes, source).parts
    assert part.sentences == ["A fire broke out.", "Silva scored."]
    spans = summarizer.tokenizer(source, return_offsets_mapping=True)["offset_mapping"]
    tokens = summarizer.tokenizer.convert_ids_to_tokens(Writes.summary)
    first = tokens.index("<n>") if "<n>" in tokens else len(summarizer.tokenizer("A fire broke out.")["input_ids"]) - 1
    reached = int(np.flatnonzero(part.shades[0])[-1]) + 1
    assert reached == spans[first - 1][1]
    assert np.flatnonzero(part.shades[1])[0] >= reached


def test_html_of_a_reading_is_escaped_and_holds_the_whole_source() -> None:
    source = "a <b> {{x}} ${y} \\ `z`\n & c"
    shades = np.zeros((2, len(source) - 4), np.float32)
    shades[0, :1], shades[1, 2:5], shades[0, 2:4] = 1, 0.5, 0.25
    page = reading_html(Reading(source, [Part(0, len(source) - 4, ["<i>one</i>", "{two}"], shades)]))
    box = page[page.index('class="source"') :]
    assert '<span style="--s0:1">a</span> <span style="--s0:0.25;--s1:0.5">&lt;b</span>' in box
    assert "<span>&lt;i&gt;one&lt;/i&gt;</span>" in page and "<span>&#123;two&#125;</span>" in page
    for mark in ("{", "}", "$", "`", "\\", "<b>"):
        assert mark not in box
    assert box.endswith("\n &amp; c</div></div>")
    assert page.count(" checked>") == 1


def test_a_model_that_writes_nothing_is_told() -> None:
    page = reading_html(Reading("x", [Part(0, 1, [], np.zeros((0, 1), np.float32))]))
    assert "The model wrote nothing." in page and ">x</div>" in page


# Words, settings, limits.


def test_what_is_no_text_or_too_much_is_refused_in_words() -> None:
    assert refusal(None, 9) == refusal(" \n", 9) == "There is no text yet. Type or paste one."
    assert refusal("1234567890", 9) == "This text has 10 characters, and 9 are the limit. Shorten it."
    assert refusal("123456789", 9) == ""


def test_settings_that_were_changed_reach_generate(summarizer: Any) -> None:
    own = summarizer.generation_config
    values = {name: getattr(own, name) for name in SETTINGS}
    assert (values["num_beams"], values["length_penalty"]) == (8, 0.8)
    assert changed(own, list(values.values())) == {}
    values |= {"num_beams": 2, "do_sample": True, "top_k": None, "temperature": 1}
    assert changed(own, list(values.values())) == {"num_beams": 2, "do_sample": True}


def test_turns_that_are_left_out_are_marked() -> None:
    turns = [Turn("user", "<hi>"), Turn("assistant", "a"), Turn("user", "b")]
    assert 'class="user">&lt;hi&gt;</li><li class="assistant">a</li><li class="user">b</li></ol>' in talk_html(turns)
    page = talk_html(turns, 2, "<n")
    assert re.findall(r'<li class="([^"]*)"', page) == [
        "user left-out", "assistant left-out", "fold", "user", "assistant growing",
    ]  # fmt: skip
    assert "trimmed" in page and "&lt;n</li></ol>" in page


def test_a_line_works_in_turn_and_takes_no_more_than_it_has_places_for() -> None:
    release, done = threading.Event(), []
    with Line(2) as line:
        first = line.submit(lambda: (release.wait(30), done.append(1)))
        second = line.submit(lambda: done.append(2))
        with pytest.raises(InputError, match="takes 2 at a time. Try again in a moment"):
            line.submit(lambda: done.append(3))
        assert done == []
        release.set()
        second.result(30)
        assert first.done() and done == [1, 2]
        assert line.submit(lambda: 4).result(30) == 4


def talk_with(bot: Any, line: Line, talk: Conversation) -> Callable[[], Any]:
    """A coroutine that has the bot answer, and gives all texts that were seen of the reply."""

    async def follow() -> list[str]:
        listener = Listener(bot.tokenizer)
        call = line.submit(lambda: bot(talk, num_beams=1, streamer=listener, stopping_criteria=listener.criteria))
        return [text async for text in listener.follow(call)]

    return follow


def test_a_reply_grows_and_two_talks_do_not_mix(bot: Any) -> None:
    words = {"anna": "hi, i am anna.", "ben": "hi, i am ben."}
    talks = {name: Conversation(text) for name, text in words.items()}

    async def both(line: Line) -> list[list[str]]:
        return await asyncio.gather(*(talk_with(bot, line, talk)() for talk in talks.values()))

    with Line(2) as line:
        seen = asyncio.run(both(line))
    for (name, talk), texts in zip(talks.items(), seen, strict=True):
        assert talk.reply == bot(words[name], num_beams=1).reply == texts[-1]
        assert name in talk.reply
        assert len(set(texts)) > 5
        assert sorted(texts, key=len) == texts


def test_who_goes_away_ends_the_writing(bot: Any) -> None:
    steps = []

    async def leave(line: Line) -> None:
        listener = Listener(bot.tokenizer)
        criteria = [*listener.criteria, lambda ids, scores: steps.append(len(steps)) or False]
        call = line.submit(
            lambda: bot(Conversation("hi."), num_beams=1, min_length=400, max_length=500, streamer=listener,
                        stopping_criteria=criteria)
        )  # fmt: skip
        async for _ in listener.follow(call):
            break

    with Line(1) as line:
        asyncio.run(leave(line))
    assert len(steps) < 300


def test_a_fault_reaches_who_follows(bot: Any) -> None:
    from seq2seq_models.errors import GenerationError

    async def fail(line: Line) -> None:
        listener = Listener(bot.tokenizer)
        async for _ in listener.follow(line.submit(lambda: bot(Conversation("hi."), num_beams=0, streamer=listener))):
            pass

    with Line(1) as line, pytest.raises(GenerationError, match="`num_beams`"):
        asyncio.run(fail(line))


def test_without_gradio_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_log_to_stderr", lambda level: None)  # its handler would outlive the test
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["serve"]) == 2
    assert capsys.readouterr().err == "error: serve needs gradio. Install it: pip install 'seq2seq-models[serve]'\n"


def test_limits_and_addresses_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_log_to_stderr", lambda level: None)
    for option, value in (("concurrency", 0), ("max-characters", 0), ("port", 70_000), ("port", -1)):
        assert cli.main(["serve", f"--{option}", str(value)]) == 2
        assert re.match(f"error: `--{option}` must be .*, got {value} .serve", capsys.readouterr().err)
    with _listen("127.0.0.1", 0) as taken, pytest.raises(InputError, match="got 127.0.0.1 and .*in use.*any free one"):
        _listen("127.0.0.1", taken.getsockname()[1])


# The page in a browser.


def _heed_interrupts() -> None:
    """A shell starts what runs in the background deaf to Ctrl-C, and so is all that is started from there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where the command serves, as a user runs it. Ctrl-C ends it in the end."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("gradio is not installed beside the reference, whose huggingface_hub it cannot use: test-newest")
    if os.environ.get("NO_BROWSER") == "1":
        pytest.skip("NO_BROWSER=1")
    absent = [name for name in CHROMIUM if shutil.which(name) is None]
    assert not absent, f"{' and '.join(absent)} not found: install chromium and chromium-driver, or set NO_BROWSER=1"
    words = [sys.executable, "-m", "seq2seq_models", "serve", "--port", "0", "--max-characters", str(MOST), "--quiet"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=_heed_interrupts
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        said = re.fullmatch(r"Serving on (http://127\.0\.0\.1:\d+)\. Ctrl-C ends it\.\n", running.stdout.readline())
        assert said, running.communicate(timeout=60)
        yield said[1]
        running.send_signal(signal.SIGINT)
        out, errors = running.communicate(timeout=60)
    assert (running.returncode, out, errors) == (130, "", "")


@pytest.fixture(scope="module")
def chromium(address: str) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


class Visit:
    """One visit to the page, which is a session of its own."""

    def __init__(self, driver: Any, address: str, width: int = 1000) -> None:
        self.driver = driver
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        driver.get(address)
        self.find("#text textarea")

    def until(self, condition: Callable[[], Any]) -> Any:
        """What the condition gives as soon as it is true."""
        from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, TimeoutException
        from selenium.webdriver.support.ui import WebDriverWait

        passing = (NoSuchElementException, StaleElementReferenceException)
        try:
            return WebDriverWait(self.driver, 90, 0.05, ignored_exceptions=passing).until(lambda _: condition())
        except TimeoutException:
            shown = self.script(
                "return document.body.innerText + [...document.querySelectorAll('textarea')].map(a => a.value)"
            )
            raise AssertionError(f"what was waited for did not come; the page shows: {shown}") from None

    def find(self, css: str) -> Any:
        """The first of these elements that can be seen."""
        return self.until(lambda: next((one for one in self.all(css) if one.is_displayed()), None))

    def all(self, css: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", css))

    def button(self, text: str) -> Any:
        return self.until(lambda: next((one for one in self.all("button") if one.text == text), None))

    def script(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def write(self, css: str, text: str) -> None:
        """Text as if pasted: typing thousands of characters takes a minute."""
        field = self.find(css)
        field.clear()
        field.click()
        self.driver.execute_cdp_cmd("Input.insertText", {"text": text})

    def summarize(self, text: str) -> None:
        self.write("#text textarea", text)
        self.find("#summarize").click()
        self.until(lambda: self.script("return document.querySelector('.source')?.textContent") == text)

    def sentences(self) -> list[str]:
        return [one.text for one in self.all(".reading label span")]

    def lit(self) -> str:
        """The source as the test's `lit` shows it, from the colours that the browser paints."""
        return str(
            self.script(
                """let shown = "";
                const walk = document.createTreeWalker(document.querySelector(".source"), NodeFilter.SHOW_TEXT);
                while (walk.nextNode()) {
                    const style = getComputedStyle(walk.currentNode.parentNode);
                    const text = walk.currentNode.textContent;
                    const painted = walk.currentNode.parentNode.localName == "span"
                        && !/(\\/ 0|, 0)\\)$/.test(style.backgroundColor);
                    shown += painted ? text : ".".repeat(text.length);
                }
                return shown"""
            )
        )

    def chat(self) -> None:
        next(one for one in self.all("button[role=tab]") if one.text == "Chat").click()
        self.find("#box textarea, #box input")

    def say(self, text: str) -> str:
        """Says something; the reply when it is whole."""
        from selenium.webdriver.common.keys import Keys

        before = len(self.all(".talk li.assistant"))
        self.write("#box textarea, #box input", text)
        self.press(Keys.ENTER)
        self.until(lambda: len(self.all(".talk li.assistant:not(.growing)")) > before and not self.all(".growing"))
        return str(self.all(".talk li.assistant")[-1].get_property("textContent"))

    def fits(self) -> bool:
        return bool(self.script("return document.documentElement.scrollWidth <= innerWidth"))

    def tab_to(self, css: str, most: int = 40) -> Any:
        """Presses Tab until the focus is there."""
        from selenium.webdriver.common.keys import Keys

        for _ in range(most):
            self.press(Keys.TAB)
            if self.script("return document.activeElement.matches(arguments[0])", css):
                return self.driver.switch_to.active_element
        raise AssertionError(f"Tab never reached {css}")

    def press(self, keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(keys).perform()

    def shoot(self, name: str) -> None:
        """A picture for the docs, if they are wanted."""
        if folder := os.environ.get("SERVE_SCREENSHOTS"):
            metrics = {"width": 760, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            self.script("document.activeElement.blur()")
            height = self.script("return document.querySelector('main > .column').getBoundingClientRect().bottom + 24")
            clip = {"x": 0, "y": 0, "width": 760, "height": height, "scale": 1}
            picture = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip})["data"]
            (Path(folder) / name).write_bytes(base64.b64decode(picture))


@pytest.fixture
def visit(chromium: Any, address: str) -> Iterator[Callable[..., Visit]]:
    """Opens the page. In the end, nothing was asked of another host, and the browser had nothing to complain about."""
    yield lambda width=1000: Visit(chromium, address, width)
    events = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]
    assert len(asked) > 10
    assert {urlsplit(url).netloc for url in asked if not url.startswith("data:")} == {urlsplit(address).netloc}
    assert [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_summary_whose_sentences_light_up_the_source(visit: Callable[..., Visit], summarizer: Any) -> None:
    page, reading = visit(), read(summarizer, LONG)
    page.summarize(LONG)
    assert " ".join(page.sentences()) == summarizer(LONG)[0]["summary_text"]
    assert page.find("#notice").text == "This text is longer than the model reads at once: it was read in 3 parts."
    assert page.lit() == lit(reading, 0)
    page.all(".reading label")[1].click()
    page.until(lambda: page.lit() == lit(reading, 1) != lit(reading, 0))
    page.all(".reading label")[0].click()
    page.until(lambda: page.lit() == lit(reading, 0))
    page.summarize(EXAMPLE)
    assert page.sentences() == [summarizer(EXAMPLE)[0]["summary_text"]]
    assert page.lit() == lit(read(summarizer, EXAMPLE), 0)
    assert not page.all(".notice")
    page.shoot("serve-summarize.png")


def test_a_file_is_read(visit: Callable[..., Visit], tmp_path: Path) -> None:
    page = visit()
    for name, data in (("good.txt", "\ufeff" + FIRE), ("bad.txt", b"\xff\xfe\xfa"), ("long.txt", "a " * MOST)):
        file = tmp_path / name
        file.write_bytes(data if isinstance(data, bytes) else data.encode())
        page.until(lambda: page.all("#file input[type=file]"))[0].send_keys(str(file))
        if name == "good.txt":
            page.until(lambda: page.find("#text textarea").get_property("value") == FIRE)
        elif name == "bad.txt":
            page.until(lambda: "not UTF-8" in page.find("#notice .notice").text)
            assert page.find("#text textarea").get_property("value") == FIRE
        else:
            page.until(lambda: "5,000 are the limit" in page.find("#notice .notice").text)


def test_a_text_that_is_too_long_gets_a_friendly_word(visit: Callable[..., Visit]) -> None:
    page = visit()
    page.write("#text textarea", "b" * (MOST + 1))
    page.find("#summarize").click()
    said = "This text has 5,001 characters, and 5,000 are the limit. Shorten it."
    assert page.find("#notice .notice").text == said
    assert not page.all(".source")
    page.chat()
    page.write("#box textarea, #box input", "b" * (MOST + 1))
    page.find("#send").click()
    assert page.find("#chat-notice .notice").text == said
    assert not page.all(".talk li")
    assert page.find("#box textarea, #box input").get_property("value") == "b" * (MOST + 1)


def test_the_keyboard_is_enough(visit: Callable[..., Visit], summarizer: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    page, reading = visit(), read(summarizer, LONG)
    page.tab_to("#text textarea")
    page.driver.execute_cdp_cmd("Input.insertText", {"text": LONG})
    page.tab_to("#summarize")
    page.press(Keys.ENTER)
    page.find(".source")
    page.tab_to(".reading input")
    page.press(Keys.ARROW_DOWN)
    page.until(lambda: page.lit() == lit(reading, 1))
    page.press(Keys.ARROW_UP)
    page.until(lambda: page.lit() == lit(reading, 0))
    assert page.script("return getComputedStyle(document.querySelector('.reading label')).outlineStyle") == "solid"

    page = visit()
    page.tab_to("button[role=tab]:not([aria-selected=true])")
    page.press(Keys.ENTER)
    page.find("#box textarea, #box input")
    page.tab_to("#box textarea, #box input")
    page.press("hi, i am anna." + Keys.ENTER)
    page.until(lambda: page.all(".talk li.assistant:not(.growing)"))
    page.tab_to("#new")
    page.press(Keys.ENTER)
    page.until(lambda: not page.all(".talk li"))
    page.tab_to("button:not([role=tab])")
    page.press(Keys.ENTER)
    assert page.find("input[type=number]").get_property("value") == "10"


def test_nothing_is_wider_than_a_narrow_window(visit: Callable[..., Visit]) -> None:
    page = visit(360)
    page.summarize(LONG.replace("Friday", "F" * 200))
    assert page.fits()
    page.find("button.label-wrap").click()
    page.find("input[type=number]")
    assert page.fits()
    page.chat()
    page.say("w" * 200)
    page.find("button.label-wrap").click()
    page.find("input[type=number]")
    assert page.fits()


def test_a_chat_streams_and_remembers(visit: Callable[..., Visit], bot: Any) -> None:
    page = visit()
    page.chat()
    talk = Conversation()
    for words in ("hi, i am anna.", "yes, i have a dog called rex."):
        talk.add_user(words)
        assert page.say(words) == bot(talk).reply
    page.shoot("serve-chat.png")
    page.find("button.label-wrap").click()
    page.write("input[type=number]", "1")
    page.script(
        """window.seen = [];
        new MutationObserver(() => {
            const growing = document.querySelector(".talk .growing");
            if (growing) window.seen.push(growing.textContent);
        }).observe(document.querySelector("#talk"), {subtree: true, childList: true, characterData: true})"""
    )
    talk.add_user("do you remember my pet?")
    reply = bot(talk, num_beams=1).reply
    assert page.say("do you remember my pet?") == reply == "your pet is called rex."
    grown = list(dict.fromkeys(text for text in page.script("return window.seen") if text != "…"))
    assert [text for text in grown if not reply.startswith(text)] == []
    assert len([text for text in grown if len(text) < len(reply)]) > 1
    page.find("#new").click()
    page.until(lambda: not page.all(".talk li"))
    assert page.say("do you remember my pet?") == bot("do you remember my pet?", num_beams=1).reply != reply


def test_what_is_sent_while_a_reply_grows_is_answered_after_it(visit: Callable[..., Visit], bot: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    page, talk, settings = visit(), Conversation(), {"num_beams": 1, "max_length": 220, "min_length": 200}
    page.chat()
    page.find("button.label-wrap").click()
    page.find("input[type=number]")
    fields = [one for one in page.all("input[type=number]") if one.is_displayed()]
    for field, value in zip(fields, settings.values(), strict=False):
        field.clear()
        field.send_keys(str(value))
    for words in ("hi, i am anna.", "i like swimming."):
        talk.add_user(words)
        bot(talk, **settings)
        page.write("#box textarea, #box input", words)
        page.press(Keys.ENTER)
        page.find(".talk .growing")
    page.until(lambda: len(page.all(".talk li")) == 4 and not page.all(".growing"))
    assert [one.get_property("textContent") for one in page.all(".talk li")] == talk.history
    page.write("#box textarea, #box input", "i live in lisbon.")
    page.press(Keys.ENTER)
    page.find(".talk .growing")
    page.find("#new").click()
    page.until(lambda: not page.all(".talk li"))
    assert page.say("hi, i am anna.") == bot("hi, i am anna.", **settings).reply


def test_turns_that_the_model_no_longer_reads_are_shown_as_trimmed(visit: Callable[..., Visit], bot: Any) -> None:
    page, talk = visit(), Conversation()
    page.chat()
    for words in ("i have a dog called rex.", "i like swimming. " * 60, "i live in lisbon. " * 60):
        talk.add_user(words.strip())
        assert page.say(words.strip()) == bot(talk).reply
    assert talk.left_out >= 2
    marked = page.all(".talk li.left-out")
    assert [one.get_property("textContent") for one in marked] == talk.history[: talk.left_out]
    fold = page.script("return [...document.querySelectorAll('.talk li')].findIndex(one => one.className == 'fold')")
    assert fold == talk.left_out
    page.say("i had soup for lunch. " * 120)
    assert "only its end is read" in page.find("#chat-notice .notice").text


def test_what_looks_like_markup_is_shown_as_it_is(visit: Callable[..., Visit]) -> None:
    page, words = visit(), "<b>hi</b> {{7*7}} ${7*7} `\\\\` <img src=x onerror=alert(1)> &amp;"
    page.chat()
    page.say(words)
    assert page.find(".talk li.user").text == words


def test_two_visitors_do_not_mix(visit: Callable[..., Visit], chromium: Any) -> None:
    first = visit()
    here = chromium.current_window_handle
    first.chat()
    assert "anna" in first.say("hi, i am anna.")
    chromium.switch_to.new_window("tab")
    try:
        second = visit()
        second.chat()
        assert not second.all(".talk li")
        assert "ben" in second.say("hi, i am ben.")
        there = chromium.current_window_handle
        chromium.switch_to.window(here)
        assert first.say("what is my name?") and "anna" in first.say("do you know who i am?") + first.find(".talk").text
        assert "ben" not in first.find(".talk").text
        chromium.switch_to.window(there)
        second.say("what is my name?")
        assert "anna" not in second.find(".talk").text
    finally:
        chromium.close()
        chromium.switch_to.window(here)


def test_who_finds_no_place_is_told_and_keeps_what_was_said(address: str, summarizer: Any, bot: Any) -> None:
    from seq2seq_models.page import Page, Session

    release = threading.Event()

    async def ask(page: Page) -> tuple[list[Any], list[Any]]:
        values = [None] * len(SETTINGS)
        summary = [one async for one in page.summarize(FIRE, *values)]
        return summary, [one async for one in page.answer("hi.", Session(), *values)]

    with Line(1) as line:
        line.submit(lambda: release.wait(60))
        ((word, summary),), ((box, shown, notice),) = asyncio.run(ask(Page(summarizer, bot, line, line, MOST)))
        release.set()
    assert "takes 1 at a time" in word and notice == word
    assert (summary, box, shown) == ("", "hi.", talk_html([]))
