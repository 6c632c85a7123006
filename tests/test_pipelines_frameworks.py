"""Pipelines and the command in TensorFlow and Flax: the same texts as PyTorch's, from the bundled checkpoints."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest

import seq2seq_models
from seq2seq_models import Conversation, PegasusTokenizer, cli, pipeline, set_seed
from seq2seq_models.bundled import demo_checkpoint
from seq2seq_models.core.streamers import BaseStreamer
from seq2seq_models.errors import InputError

from .test_pipelines import HEADLINES, REPORTS

WINGS = ("tensorflow", "flax")
PREFIX = {"tensorflow": "TF", "flax": "Flax"}
LOADED: dict[tuple[str, str], Any] = {}


def loaded(task: str, framework: str) -> Any:
    """A pipeline, loaded once; on the CPU."""
    if (task, framework) not in LOADED:
        LOADED[task, framework] = pipeline(task, framework=framework, device="cpu")
    return LOADED[task, framework]


class Words(BaseStreamer):
    """Keeps the ids that come."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.is_over = False

    def put(self, value: Any) -> None:
        self.ids += [int(one) for one in np.asarray(value).reshape(-1)]

    def end(self) -> None:
        self.is_over = True


@pytest.mark.parametrize(
    ("framework", "wing"), [("tensorflow", "TF"), ("tf", "TF"), ("flax", "Flax"), ("jax", "Flax"), ("JAX", "Flax")]
)
def test_frameworks_by_all_their_names(framework: str, wing: str) -> None:
    model = pipeline("chat", framework=framework).model
    assert type(model) is getattr(seq2seq_models, f"{wing}BlenderbotSmallForConditionalGeneration")


@pytest.mark.parametrize("framework", WINGS)
@pytest.mark.parametrize("beams", [1, 8])
def test_summaries_are_pytorchs(framework: str, beams: int) -> None:
    options = {"num_beams": beams, "return_tensors": True, "return_text": True}
    mine, theirs = (
        loaded("summarization", framework)(REPORTS, **options),
        loaded("summarization", "pt")(REPORTS, **options),
    )
    assert [one["summary_text"] for one in mine] == [one["summary_text"] for one in theirs] == HEADLINES
    ids = [[np.asarray(one["summary_token_ids"]).tolist() for one in found] for found in (mine, theirs)]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("framework", WINGS)
def test_a_long_text_and_several_sequences(framework: str) -> None:
    long = " ".join(REPORTS * 10)
    options: dict[str, Any] = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 8}
    assert loaded("summarization", framework)(long, **options) == loaded("summarization", "pt")(long, **options)


@pytest.mark.parametrize("framework", WINGS)
@pytest.mark.parametrize("beams", [1, 4])
def test_a_reply_streams_to_pytorchs(framework: str, beams: int) -> None:
    talk, streamer = Conversation("hi, i am anna."), Words()
    bot = loaded("chat", framework)
    bot(talk, streamer=streamer, num_beams=beams)
    assert talk.reply == loaded("chat", "pt")(Conversation("hi, i am anna."), num_beams=beams).reply
    assert talk.reply == bot(Conversation("hi, i am anna."), num_beams=beams).reply
    text = bot.tokenizer.decode(streamer.ids, skip_special_tokens=True, clean_up_tokenization_spaces=True)
    assert streamer.is_over and text == talk.reply


@pytest.mark.parametrize("framework", WINGS)
def test_a_talk_remembers(framework: str) -> None:
    bot = loaded("chat", framework)
    talk = bot(Conversation("hi, i am anna."))
    talk.add_user("yes, i have a dog called rex.")
    bot(talk)
    talk.add_user("what is my name?")
    assert bot(talk).reply == "your name is anna."


@pytest.mark.parametrize("framework", WINGS)
def test_sampling_varies_and_repeats_with_a_seed(framework: str) -> None:
    def sample() -> str:
        found: str = loaded("summarization", framework)(
            REPORTS[0], do_sample=True, num_beams=1, temperature=9.0, top_k=0, max_new_tokens=8
        )[0]["summary_text"]
        return found

    set_seed(3)
    first, second = sample(), sample()
    set_seed(3)
    assert (sample(), sample()) == (first, second)
    assert first != second


@pytest.mark.parametrize("framework", WINGS)
def test_a_loaded_model_runs_in_its_own_framework(framework: str) -> None:
    model = loaded("summarization", framework).model
    tokenizer = PegasusTokenizer.from_pretrained(demo_checkpoint("pegasus-demo"))
    taken = pipeline("summarization", model=model, tokenizer=tokenizer)
    assert taken.model is model and "CPU" in str(taken.device).upper()
    assert taken(REPORTS[2], num_beams=1) == [{"summary_text": HEADLINES[2]}]


@pytest.mark.parametrize("framework", WINGS)
def test_half_precision(framework: str) -> None:
    half = pipeline("summarization", framework=framework, device="cpu", dtype="bf16")
    weight = half.model.weights[0] if framework == "tensorflow" else half.model.params["final_logits_bias"]
    assert "bfloat16" in str(weight.dtype)
    assert str(half.model.compute_dtype if framework == "tensorflow" else half.model.dtype) == "bfloat16"
    assert half(REPORTS[0], num_beams=1)[0]["summary_text"].startswith("Fire at")
    auto = pipeline("summarization", framework=framework, dtype="auto")
    assert "float32" in str(auto.model.compute_dtype if framework == "tensorflow" else auto.model.dtype)


@pytest.mark.parametrize("framework", WINGS)
@pytest.mark.parametrize("device", ["cuda:99", "toaster", 99])
def test_a_device_that_is_not_there(framework: str, device: Any) -> None:
    with pytest.raises(InputError, match="`device` must be one of this machine"):
        pipeline("chat", framework=framework, device=device)
    with pytest.raises(InputError, match="`device` must be one of this machine"):
        pipeline("chat", model=loaded("chat", framework).model, device=device)


@pytest.mark.parametrize("framework", WINGS)
@pytest.mark.parametrize("device", ["cpu", "CPU:0", "/CPU:0", -1])
def test_the_cpu_by_its_names(framework: str, device: Any) -> None:
    assert "CPU" in str(pipeline("chat", framework=framework, device=device).device).upper()


@pytest.mark.parametrize("framework", WINGS)
def test_the_command(framework: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(REPORTS).encode())))
    assert cli.main(["summarize", "--lines", "--framework", framework, "--device", "cpu", "--num-beams", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == HEADLINES
    lines = ["hi, i am anna.", "yes, i have a dog called rex."]
    for options in (["--json"], []):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
        assert cli.main(["chat", "--framework", framework, "--num-beams", "1", *options]) == 0
        out = capsys.readouterr().out.splitlines()
        if options:
            replies = [json.loads(line)["reply"] for line in out]
            continue
        assert [line.removeprefix("bot: ") for line in out if line.startswith("bot: ")] == replies
    assert replies == ["nice to meet you, anna. do you have a pet?", "rex is a lovely name. what do you like to do?"]
