"""Pipelines and conversations, on the demonstration checkpoints: what goes to the model, and what comes back."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from seq2seq_models import BlenderbotSmallForConditionalGeneration, Conversation, PegasusTokenizer, pipeline
from seq2seq_models.bundled import demo_checkpoint
from seq2seq_models.core.window import part_rows
from seq2seq_models.errors import CheckpointNotFoundError, GenerationError, InputError

REPORTS = [
    "A fire broke out in a bakery in Lisbon on Monday. Three people were hurt. The cause is not known.",
    "Porto beat Madrid 2-1 on Friday. Silva scored the first goal. The stadium was full. It was a quiet week in Riga.",
    "Thieves took six paintings from a museum in Vienna.",
    "Anna Berg is the new mayor of Oslo. Paul Rossi came second. It was a quiet week in Rome.",
]
HEADLINES = [
    "Fire at bakery in Lisbon, three hurt",
    "Porto beat Madrid 2-1, Silva scores",
    "Six paintings stolen from museum in Vienna",
    "Anna Berg elected mayor of Oslo",
]


class Recorder:
    """Stands in for a model's `generate`: notes each call, and makes it."""

    def __init__(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[dict[str, Any]] = []
        self._generate = model.generate
        monkeypatch.setattr(model, "generate", self)

    def __call__(self, **options: Any) -> Any:
        self.calls.append(options)
        return self._generate(**options)


@pytest.fixture(scope="module")
def summarizer() -> Any:
    return pipeline("summarization", device="cpu")


@pytest.fixture(scope="module")
def bot() -> Any:
    return pipeline("chat", device="cpu")


# Summaries and generated texts.


def test_a_text_gives_a_list_of_one_and_a_list_gives_one_each(summarizer: Any) -> None:
    assert summarizer(REPORTS[0]) == [{"summary_text": HEADLINES[0]}]
    assert summarizer(REPORTS) == [{"summary_text": headline} for headline in HEADLINES]
    assert summarizer([]) == []


def test_generated_text_has_its_own_key() -> None:
    generator = pipeline("text2text-generation", device="cpu")
    assert generator(REPORTS[2]) == [{"generated_text": HEADLINES[2]}]


def test_an_iterator_is_read_one_batch_ahead_and_gives_what_single_texts_give(summarizer: Any) -> None:
    read: list[int] = []

    def source() -> Iterator[str]:
        for index, text in enumerate(REPORTS):
            read.append(index)
            yield text

    results = summarizer(source(), batch_size=2)
    assert read == []
    assert next(results) == [{"summary_text": HEADLINES[0]}]
    assert read == [0, 1]
    assert list(results) == [[{"summary_text": headline}] for headline in HEADLINES[1:]]


def test_batches_are_sorted_by_length_and_results_are_not(summarizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(summarizer.model, monkeypatch)
    texts = [REPORTS[2], REPORTS[1], REPORTS[2], REPORTS[1]]
    results = summarizer(texts, batch_size=2)
    assert results == [{"summary_text": HEADLINES[index]} for index in (2, 1, 2, 1)]
    masks = [call["attention_mask"] for call in recorder.calls]
    assert [len(mask) for mask in masks] == [2, 2]
    assert all(bool(mask.all()) for mask in masks)
    assert masks[0].shape[1] > masks[1].shape[1]


def test_the_checkpoints_own_settings_are_left_alone(summarizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(summarizer.model, monkeypatch)
    summarizer(REPORTS[0])
    assert set(recorder.calls[0]) == {"input_ids", "attention_mask"}
    summarizer(REPORTS[0], num_beams=2, max_new_tokens=5)
    options = {name: value for name, value in recorder.calls[1].items() if name not in ("input_ids", "attention_mask")}
    assert options == {"num_beams": 2, "max_new_tokens": 5}
    assert (summarizer.generation_config.num_beams, summarizer.generation_config.length_penalty) == (8, 0.8)


def test_options_of_the_pipeline_are_defaults_of_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    short = pipeline("summarization", device="cpu", max_new_tokens=3, num_beams=1)
    recorder = Recorder(short.model, monkeypatch)
    short(REPORTS[0])
    short(REPORTS[0], num_beams=2)
    assert [(call["max_new_tokens"], call["num_beams"]) for call in recorder.calls] == [(3, 1), (3, 2)]


def test_several_sequences_come_as_a_list_per_text(summarizer: Any) -> None:
    single = summarizer(REPORTS[0], num_return_sequences=3)
    assert len(single) == 3
    assert single[0] == {"summary_text": HEADLINES[0]}
    assert len({one["summary_text"] for one in single}) == 3
    both = summarizer(REPORTS[:2], num_return_sequences=2)
    assert [many[0]["summary_text"] for many in both] == HEADLINES[:2]
    assert [len(many) for many in both] == [2, 2]


def test_token_ids_do_not_depend_on_the_batch(summarizer: Any) -> None:
    together = summarizer([REPORTS[0], REPORTS[3]], return_tensors=True)
    alone = [summarizer(REPORTS[index], return_tensors=True)[0] for index in (0, 3)]
    for one, other in zip(together, alone, strict=True):
        assert set(one) == {"summary_token_ids"}
        assert isinstance(one["summary_token_ids"], torch.Tensor)
        assert one["summary_token_ids"].tolist() == other["summary_token_ids"].tolist()
    ids = together[0]["summary_token_ids"].tolist()
    assert (ids[0], ids[-1]) == (0, 1)
    assert summarizer.tokenizer.decode(ids, skip_special_tokens=True) == HEADLINES[0]


def test_text_and_token_ids_can_both_be_asked_for(summarizer: Any) -> None:
    record = summarizer(REPORTS[0], return_tensors=True, return_text=True)[0]
    assert set(record) == {"summary_text", "summary_token_ids"}
    assert record["summary_text"] == HEADLINES[0]


def test_clean_up_joins_punctuation_to_words() -> None:
    generator = pipeline("text2text-generation", model=str(demo_checkpoint("blenderbot-small-demo")), device="cpu")
    spaced = generator("hi, i am anna.", clean_up_tokenization_spaces=False)[0]["generated_text"]
    joined = generator("hi, i am anna.", clean_up_tokenization_spaces=True)[0]["generated_text"]
    assert spaced == "nice to meet you , anna . do you have a pet ?"
    assert joined == "nice to meet you, anna. do you have a pet?"


def test_a_long_text_is_read_in_parts_and_the_log_says_so(summarizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    long = " ".join(REPORTS * 12)
    length = len(summarizer.tokenizer(long, verbose=False)["input_ids"])
    assert length > 512
    with caplog.at_level(logging.WARNING, "seq2seq_models"):
        together = summarizer([long, REPORTS[0]], num_beams=1)
    parts = part_rows(summarizer.tokenizer, [long], 512)[0]
    said = f"a text has {length} tokens and this model reads 512: it is read in {len(parts)} parts"
    assert caplog.messages[0] == f"{said}, whose summaries are joined"
    alone = [summarizer(summarizer.tokenizer.decode(row[:-1]), num_beams=1)[0]["summary_text"] for row in parts]
    assert [record["summary_text"] for record in together] == [" ".join(alone), HEADLINES[0]]
    several = summarizer(long, num_beams=2, num_return_sequences=2, return_tensors=True, return_text=True)
    assert len(several) == 2 and all(len(record["summary_token_ids"]) == len(parts) for record in several)
    assert several[0]["summary_text"].count(" ") > several[0]["summary_text"].count("  ")


class Words:
    """One token per word, and a closing one."""

    def __call__(self, texts: Any, verbose: bool = True) -> dict[str, Any]:
        many = [texts] if isinstance(texts, str) else texts
        rows = [[*map(hash, text.split()), 1] if len(text) < 3000 or " " in text else [0] * len(text) for text in many]
        return {"input_ids": rows[0] if isinstance(texts, str) else rows}


@pytest.mark.parametrize("sentences, words, limit", [(40, 9, 50), (7, 30, 64), (1, 500, 60), (300, 1, 40), (3, 9, 64)])
def test_parts_hold_every_sentence_once_in_order(sentences: int, words: int, limit: int) -> None:
    texts = [" ".join(f"w{i}x{j}" for j in range(words)) + "." for i in range(sentences)]
    document = " ".join(texts)
    (rows,) = part_rows(Words(), [document], limit)
    assert [token for row in rows for token in row[:-1]] == Words()(document)["input_ids"][:-1]
    assert all(len(row) <= limit for row in rows)
    fewest = -(-(sentences * words + 1) // limit)
    assert len(rows) <= 2 * fewest
    if words < limit // 2 and fewest > 1:
        ends = {hash(text.split()[-1]) for text in texts}
        assert all(row[-2] in ends for row in rows)


def test_a_long_text_is_cut_if_asked_and_the_log_says_so(summarizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    long = " ".join([REPORTS[0], *["It was a quiet week in Rome."] * 200])
    with caplog.at_level(logging.WARNING, "seq2seq_models"):
        cut = summarizer(long, num_beams=1, truncation=True)
    assert len(cut) == 1
    length = len(summarizer.tokenizer(long, verbose=False)["input_ids"])
    assert f"a text has {length} tokens and this model reads 512: only its beginning is read" in caplog.messages
    with pytest.raises(InputError, match="512"):
        summarizer(long, truncation=False)


def test_sampling_repeats_with_a_seed(summarizer: Any) -> None:
    def sample() -> str:
        torch.manual_seed(3)
        return summarizer(REPORTS[0], do_sample=True, num_beams=1, temperature=3.0)[0]["summary_text"]

    assert sample() == sample()


@pytest.mark.reference
def test_transformers_gives_the_same_summaries(summarizer: Any) -> None:
    import transformers

    folder = demo_checkpoint("pegasus-demo")
    model = transformers.PegasusForConditionalGeneration.from_pretrained(folder)
    tokenizer = transformers.PegasusTokenizer.from_pretrained(folder)
    theirs = transformers.pipeline("summarization", model=model, tokenizer=tokenizer, device="cpu")
    assert theirs(REPORTS) == summarizer(REPORTS)
    assert theirs(REPORTS[0]) == summarizer(REPORTS[0])


# What cannot be.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"task": "translation"}, InputError, "`task` must be one of 'text2text-generation', 'summarization', 'chat'"),
        ({"task": None}, InputError, "got None"),
        (
            {"task": "chat", "framework": "caffe"},
            InputError,
            "`framework` must be 'pytorch', 'tensorflow' or 'flax', got 'caffe'",
        ),
        ({"task": "chat", "device": "cuda:99"}, InputError, "`device` must be one of this machine, got 'cuda:99'"),
        ({"task": "chat", "device": "toaster"}, InputError, "`device` must be"),
        ({"task": "chat", "dtype": "float12"}, InputError, "`dtype` must be"),
        ({"task": "chat", "batch_size": 0}, InputError, "`batch_size` must be"),
        ({"task": "chat", "model": "./not-here"}, CheckpointNotFoundError, "not-here"),
    ],
)
def test_what_cannot_be_is_said(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pipeline(**options)


def test_a_call_with_something_else_than_text_is_refused(summarizer: Any) -> None:
    for wrong in (3, None, {"text": "a"}):
        with pytest.raises(InputError, match="`texts` must be a text or texts"):
            summarizer(wrong)
    with pytest.raises(InputError, match="`texts` must hold texts, got int"):
        summarizer(["a", 3])


def test_an_unknown_generation_option_is_refused(summarizer: Any) -> None:
    with pytest.raises(GenerationError, match="num_beems"):
        summarizer(REPORTS[0], num_beems=2)


def test_a_model_without_a_name_needs_its_tokenizer() -> None:
    loaded = pipeline("chat", device="cpu")
    loaded.model.config.name_or_path = ""
    with pytest.raises(InputError, match="`tokenizer` must be given"):
        pipeline("chat", model=loaded.model)


# Models and frameworks.


@pytest.mark.parametrize("framework", [None, "pytorch", "pt", "torch", "PyTorch"])
def test_pytorch_by_all_its_names(framework: str | None) -> None:
    assert isinstance(pipeline("chat", framework=framework).model, BlenderbotSmallForConditionalGeneration)


def test_a_loaded_model_and_tokenizer_are_taken_as_they_are(summarizer: Any) -> None:
    again = pipeline("summarization", model=summarizer.model, tokenizer=summarizer.tokenizer)
    assert again.model is summarizer.model
    assert again.tokenizer is summarizer.tokenizer
    by_name = pipeline("summarization", model=summarizer.model)
    assert isinstance(by_name.tokenizer, PegasusTokenizer)


@pytest.mark.parametrize("spelling", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", ["bfloat16", torch.bfloat16])
def test_dtype_in_either_spelling(spelling: str, value: Any) -> None:
    half = pipeline("summarization", device=-1, **{spelling: value})
    assert half.model.dtype == torch.bfloat16
    assert half.device.type == "cpu"
    assert half(REPORTS[0])[0]["summary_text"].startswith("Fire at")


def test_importing_the_pipelines_and_the_command_loads_no_framework() -> None:
    code = (
        "import sys; import seq2seq_models.pipelines, seq2seq_models.cli;"
        "names = ('torch', 'tensorflow', 'jax', 'keras', 'tokenizers', 'huggingface_hub');"
        "print([name for name in names if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Conversations.


def test_turns_are_joined_as_the_documentation_does(bot: Any) -> None:
    talk = Conversation("My friends are cool but they eat too many carbs.")
    talk.add_reply("what kind of carbs do they eat? i don't know much about carbs")
    talk.add_user("I'm not sure.")
    assert talk.prompt(bot.tokenizer) == (
        "My friends are cool but they eat too many carbs.__end__ __start__what kind of carbs do they eat? "
        "i don't know much about carbs__end__ __start__I'm not sure."
    )
    ids = bot.tokenizer(talk.prompt(bot.tokenizer))["input_ids"]
    assert (ids.count(1), ids.count(2)) == (2, 2)


def test_a_tokenizer_without_an_opening_token_gets_one_turn_per_line(summarizer: Any) -> None:
    talk = Conversation("one")
    talk.add_reply("two")
    assert talk.prompt(summarizer.tokenizer) == "one\ntwo"


def test_history_messages_and_reply() -> None:
    talk = Conversation([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}])
    assert talk.history == ["hi", "hello"]
    assert talk.reply == "hello"
    talk.add_user("how are you?")
    assert talk.reply is None
    assert talk.messages[-1] == {"role": "user", "content": "how are you?"}
    assert [turn.role for turn in talk] == ["user", "assistant", "user"]
    assert len(talk) == 3
    assert str(talk) == "user: hi\nassistant: hello\nuser: how are you?"
    assert Conversation(talk.turns).messages == talk.messages
    assert repr(talk) == f"Conversation({talk.messages!r})"


def test_the_oldest_turns_give_way(bot: Any, caplog: pytest.LogCaptureFixture) -> None:
    talk = Conversation("i live in lisbon.")
    for word in ("swimming", "reading", "cooking"):
        talk.add_reply("good to hear. tell me more.")
        talk.add_user(f"i like {word}.")
    turns = [len(bot.tokenizer(text)["input_ids"]) for text in talk.history]
    room = sum(turns[3:]) + 2 * 3
    with caplog.at_level(logging.WARNING, "seq2seq_models"):
        ids = talk.encode(bot.tokenizer, room)
        again = talk.encode(bot.tokenizer, room)
    assert ids == again == bot.tokenizer(talk.prompt(bot.tokenizer, 3))["input_ids"]
    assert len(ids) == room
    assert talk.left_out == 3
    assert caplog.messages == [f"the talk outgrew the {room} tokens this model reads: its first 3 turns are left out"]
    assert len(talk.history) == 7
    talk.encode(bot.tokenizer, 512)
    assert talk.left_out == 0


def test_of_a_last_turn_that_is_too_long_the_end_is_read(bot: Any, caplog: pytest.LogCaptureFixture) -> None:
    talk = Conversation("hello.")
    talk.add_reply("hello!")
    talk.add_user("no. " * 300 + "i like swimming.")
    with caplog.at_level(logging.WARNING, "seq2seq_models"):
        ids = talk.encode(bot.tokenizer, 512)
    assert len(ids) == 512
    assert talk.left_out == 2
    assert bot.tokenizer.decode(ids).endswith("no . i like swimming .")
    assert "the last turn has 604 tokens and this model reads 512: only its end is read" in caplog.messages


def test_a_talk_that_outgrows_the_window_goes_on(bot: Any) -> None:
    talk = Conversation()
    for _ in range(60):
        talk.add_user("do you know anything about chess? i live in lisbon.")
        bot(talk, num_beams=1)
    assert len(talk.history) == 120
    assert talk.left_out > 0
    assert all(talk.history[1::2])


@pytest.mark.parametrize("wrong", ["", "  ", 3, None])
def test_a_turn_needs_words(wrong: Any) -> None:
    with pytest.raises(InputError, match="`text` must be a text"):
        Conversation().add_user(wrong)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "system", "content": "be nice"}], "`role` of turn 0 must be 'user' or 'assistant', got 'system'"),
        ([{"role": "user"}], "turn 0 must be"),
        (["hi"], "turn 0 must be"),
    ],
)
def test_other_messages_are_refused(messages: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Conversation(messages)


# Chat.


def test_a_talk_remembers(bot: Any) -> None:
    talk = Conversation("hi, i am anna.")
    assert bot(talk) is talk
    assert talk.reply == "nice to meet you, anna. do you have a pet?"
    talk.add_user("yes, i have a dog called rex.")
    bot(talk)
    talk.add_user("what is my name?")
    assert bot(talk).reply == "your name is anna."


def test_text_and_messages_make_a_talk(bot: Any) -> None:
    assert bot("hi, i am anna.").reply == "nice to meet you, anna. do you have a pet?"
    assert bot([{"role": "user", "content": "hi, i am anna."}]).reply == "nice to meet you, anna. do you have a pet?"


def test_several_talks_are_answered_in_order(bot: Any) -> None:
    talks = [Conversation("i like reading."), Conversation("hi, i am anna."), "bye!"]
    answered = bot(talks, batch_size=2)
    assert answered[0] is talks[0]
    assert [talk.reply for talk in answered] == [
        "reading is fun. where do you live?",
        "nice to meet you, anna. do you have a pet?",
        "goodbye. talk to you soon.",
    ]


def test_a_streamer_sees_the_reply_grow(bot: Any) -> None:
    class Collector:
        def __init__(self) -> None:
            self.ids: list[int] = []
            self.ended = 0

        def put(self, value: Any) -> None:
            self.ids += value.reshape(-1).tolist()

        def end(self) -> None:
            self.ended += 1

    collector = Collector()
    reply = bot("hi, i am anna.", num_beams=1, streamer=collector).reply
    assert collector.ended == 1
    assert bot.tokenizer.decode(collector.ids, skip_special_tokens=True, clean_up_tokenization_spaces=True) == reply


def test_there_must_be_something_to_answer(bot: Any) -> None:
    with pytest.raises(InputError, match="no turn at all"):
        bot(Conversation())
    talk = Conversation("hi")
    talk.add_reply("hello")
    with pytest.raises(InputError, match="a reply at its end"):
        bot(talk)
    with pytest.raises(InputError, match="`num_return_sequences` must be 1, got 2"):
        bot("hi", num_return_sequences=2)
    with pytest.raises(InputError, match="`return_tensors` is no option of chat"):
        bot("hi", return_tensors=True)


def test_conversational_is_chat_by_its_old_name() -> None:
    assert pipeline("conversational").task == "chat"


# What a config asks for.


def asking(**values: Any) -> Any:
    """A summarizer whose model's config has these keys."""
    from seq2seq_models import PegasusForConditionalGeneration

    folder = demo_checkpoint("pegasus-demo")
    model = PegasusForConditionalGeneration.from_pretrained(folder)
    model.config.update(values)
    return lambda **options: pipeline(
        "summarization", model=model, tokenizer=PegasusTokenizer.from_pretrained(folder), **options
    )


REPORT = "Firefighters fought a fire at a bakery in Lisbon on Monday. Three people were hurt."


@pytest.mark.reference
@pytest.mark.parametrize(
    "values",
    [
        {"prefix": "It rained all day in Porto, and two streets were closed. "},
        {
            "task_specific_params": {
                "summarization": {"max_length": 6, "num_beams": 2, "prefix": "In Porto it rained. "}
            }
        },
        {"task_specific_params": {"translation": {"max_length": 3}}},
    ],
)
def test_a_config_s_prefix_and_task_specific_params(values: Any, summarizer: Any, caplog: Any) -> None:
    import transformers

    folder = demo_checkpoint("pegasus-demo")
    theirs = transformers.PegasusForConditionalGeneration.from_pretrained(folder)
    theirs.config.update(values)
    slow = transformers.PegasusTokenizer.from_pretrained(folder)
    expected = transformers.pipeline("summarization", model=theirs, tokenizer=slow, device=-1)(REPORT)
    with caplog.at_level(logging.WARNING):
        made = asking(**values)()
    found = made(REPORT)
    assert found == expected
    is_asked = "translation" not in str(values)
    assert (found != summarizer(REPORT)) == is_asked
    assert len([one for one in caplog.records if "the model's config asks for" in one.getMessage()]) == is_asked
    assert len(made(REPORT, max_length=9, return_tensors=True)[0]["summary_token_ids"]) <= 9, "the caller decides"


def test_an_option_that_is_none_is_told(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        asking(task_specific_params={"summarization": {"nonsense": 1}})()(REPORT)
    assert "nonsense, which is no option" in caplog.text


def test_data_sets_and_generators(summarizer: Any) -> None:
    from torch.utils.data import Dataset
    from transformers.pipelines.pt_utils import KeyDataset

    class Texts(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Any:
            return [REPORT, "It rained in Porto."][index]

    expected = [summarizer(Texts()[index]) for index in range(2)]
    assert list(summarizer(Texts())) == expected
    rows = [{"text": Texts()[0]}, {"text": Texts()[1]}]
    assert list(summarizer(KeyDataset(rows, "text"))) == expected
    assert list(summarizer(row["text"] for row in rows)) == expected


def test_arguments_of_transformers_pipeline() -> None:
    made = pipeline(
        "summarization", use_fast=False, num_workers=2, trust_remote_code=False, torch_dtype="float32", device=-1
    )
    assert type(made.tokenizer) is PegasusTokenizer and made.model.dtype == torch.float32
    assert made(REPORT, num_workers=0) == made(REPORT)
