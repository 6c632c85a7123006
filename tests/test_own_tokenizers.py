"""Subclasses of the tokenizers whose methods differ, beside the same subclasses of the reference's slow classes."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import transformers

import seq2seq_models
from seq2seq_models.bundled import demo_checkpoint
from seq2seq_models.errors import CheckpointNotFoundError, TokenizerError

pytestmark = pytest.mark.reference
DEMOS = {"PegasusTokenizer": "pegasus-demo", "BlenderbotSmallTokenizer": "blenderbot-small-demo"}
TEXTS = ["It rained all day in Porto on Monday.", "hello there </s> __end__ my friend"]


def capitals(base: type[Any]) -> type[Any]:
    class Own(base):  # type: ignore[misc]
        def prepare_for_tokenization(self, text: str, is_split_into_words: bool = False, **kwargs: Any) -> Any:
            return "so " + text, kwargs

    return Own


def backwards(base: type[Any]) -> type[Any]:
    class Own(base):  # type: ignore[misc]
        def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
            return list(reversed(super()._tokenize(text)))

    return Own


def short(base: type[Any]) -> type[Any]:
    class Own(base):  # type: ignore[misc]
        def tokenize(self, text: str, **kwargs: Any) -> list[str]:
            return super().tokenize(text, **kwargs)[:3]

    return Own


def other_ids(base: type[Any]) -> type[Any]:
    class Own(base):  # type: ignore[misc]
        def _convert_token_to_id(self, token: str) -> int:
            return int(super()._convert_token_to_id(token)) ^ 1

    return Own


def joined_otherwise(base: type[Any]) -> type[Any]:
    class Own(base):  # type: ignore[misc]
        def convert_tokens_to_string(self, tokens: list[str]) -> str:
            return "|".join(tokens)

    return Own


def other_tokens(base: type[Any]) -> type[Any]:
    class Own(base):  # type: ignore[misc]
        def _convert_id_to_token(self, index: int) -> str:
            return str(super()._convert_id_to_token(index)) + "x"

    return Own


def decoding_otherwise(base: type[Any]) -> type[Any]:
    class Own(base):  # type: ignore[misc]
        def _decode(self, *args: Any, **kwargs: Any) -> str:
            return "said: " + super()._decode(*args, **kwargs)

    return Own


CHANGES = (capitals, backwards, short, other_ids, joined_otherwise, other_tokens, decoding_otherwise)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", DEMOS)
def test_an_overridden_method_has_its_effect(name: str, change: Any) -> None:
    folder = demo_checkpoint(DEMOS[name])
    mine, theirs = (change(getattr(one, name)).from_pretrained(folder) for one in (seq2seq_models, transformers))
    plain = getattr(seq2seq_models, name).from_pretrained(folder)
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        assert mine(text)["input_ids"] == ids
        assert mine([text, "x"], padding=True)["input_ids"] == theirs([text, "x"], padding=True)["input_ids"]
        assert mine.encode(text, "and more") == theirs.encode(text, "and more")
        assert mine.tokenize(text) == theirs.tokenize(text)
        for skip in (False, True):
            assert mine.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
        assert mine.batch_decode([ids]) == theirs.batch_decode([ids])
    ids = plain(TEXTS[0])["input_ids"]
    assert (mine(TEXTS[0])["input_ids"], mine.decode(ids)) != (ids, plain.decode(ids))


def test_a_method_that_is_set_on_a_tokenizer_has_its_effect() -> None:
    tokenizer = seq2seq_models.PegasusTokenizer.from_pretrained(demo_checkpoint("pegasus-demo"))
    tokenizer._tokenize = lambda text, **kwargs: ["▁in"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("whatever")["input_ids"]) == ["▁in", "</s>"]


def test_places_in_the_text_are_not_made_up() -> None:
    kind = backwards(seq2seq_models.PegasusTokenizerFast)
    tokenizer = kind.from_pretrained(demo_checkpoint("pegasus-demo"))
    with pytest.raises(TokenizerError, match="own way of tokenizing only"):
        tokenizer(TEXTS[0], return_offsets_mapping=True)


@pytest.mark.parametrize("name", DEMOS)
def test_use_leaves_no_trace(name: str) -> None:
    """So `datasets.map` finds what it has stored again: its fingerprint is made of the pickled tokenizer."""
    from datasets.fingerprint import Hasher

    tokenizer = getattr(seq2seq_models, name).from_pretrained(demo_checkpoint(DEMOS[name]))
    before = Hasher.hash(tokenizer)
    ids = tokenizer(["one text", "another </s>"], padding=True, truncation=True)["input_ids"]
    tokenizer.batch_decode(ids, skip_special_tokens=True)
    tokenizer("a text that is too long " * 200)
    assert len(tokenizer) and tokenizer.all_special_ids and tokenizer.get_vocab()
    assert Hasher.hash(tokenizer) == before
    for again in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert again("one text")["input_ids"] == tokenizer("one text")["input_ids"]
        assert again.decode(ids[1]) == tokenizer.decode(ids[1]) and Hasher.hash(again) == before
    tokenizer.add_tokens(["<new>"])
    assert Hasher.hash(tokenizer) != before


@pytest.mark.parametrize("name", DEMOS)
def test_small_things_of_the_reference(name: str) -> None:
    mine, theirs = (
        getattr(one, name).from_pretrained(demo_checkpoint(DEMOS[name])) for one in (seq2seq_models, transformers)
    )
    assert mine.init_inputs == theirs.init_inputs == ()
    vocabulary = mine.get_vocab()
    assert vocabulary == theirs.get_vocab()
    if name == "PegasusTokenizer":
        assert list(vocabulary.values()) == sorted(vocabulary.values())
        assert list(vocabulary)[:2] == ["<pad>", "</s>"]
    for tokenizer in (mine, theirs):
        for wrong in ("<x>", [1]):
            with pytest.raises(AssertionError):
                tokenizer.add_special_tokens({"additional_special_tokens": wrong})
        tokenizer.additional_special_tokens = None
        assert not tokenizer.additional_special_tokens
        assert tokenizer("it rained")["input_ids"] == tokenizer("it rained")["input_ids"]


def test_an_empty_folder_is_a_checkpoint_that_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="tokenizer_config.json or config.json"):
        seq2seq_models.AutoTokenizer.from_pretrained(tmp_path)
