"""Vocabularies that the tokenizer tests train themselves, and the English they are trained and tested on."""

from __future__ import annotations

import ast
import functools
import io
import json
import sysconfig
import tempfile
from pathlib import Path

DATA = Path(__file__).parent / "data"
BLENDERBOT_FIRST = ["__null__", "__start__", "__end__", "__unk__", "__newln__"]


def written_texts() -> list[str]:
    """Paragraphs and dialogues written for these tests."""
    return (DATA / "tokenizer_texts.txt").read_text(encoding="utf-8").strip().split("\n\n")


@functools.cache
def english_paragraphs(count: int) -> list[str]:
    """The written texts, then paragraphs of the standard library's own documentation."""
    import pydoc_data.topics

    found = written_texts()
    found += [text for topic in pydoc_data.topics.topics.values() for text in topic.split("\n\n")]
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if len(found) > 2 * count:
            break
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                found += (ast.get_docstring(node) or "").split("\n\n")
    distinct = list(dict.fromkeys(text for text in found if len(text) > 20))
    return distinct[:count]


@functools.cache
def pegasus_folder(size: int = 8000, paragraphs: int = 6000) -> Path:
    """A folder with a spiece.model like Pegasus': unigram, nmt_nfkc, <pad> </s> <unk> first, <n> as a symbol."""
    import sentencepiece

    folder = Path(tempfile.mkdtemp(prefix="pegasus-"))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(text.split()) for text in english_paragraphs(paragraphs)]),
        model_writer=model, vocab_size=size, model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        normalization_rule_name="nmt_nfkc", user_defined_symbols=["<n>"], num_threads=2, minloglevel=2,
        max_sentence_length=100_000, hard_vocab_limit=False,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(model.getvalue())
    return folder


@functools.cache
def blenderbot_folder(size: int = 8000, paragraphs: int = 6000, cut: bool = True) -> Path:
    """A folder with vocab.json and merges.txt like BlenderbotSmall's.

    `cut` leaves some products of merges out of the vocabulary, as the published one, cut by frequency, does.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("\n", " __newln__ "), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[.,!?()']"), "isolated")]
    )
    trainer = trainers.BpeTrainer(vocab_size=size, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(english_paragraphs(paragraphs), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    names = [t.removesuffix("</w>") if t.endswith("</w>") else f"{t}@@" for t in model["vocab"]]
    if cut:
        names = [name for place, name in enumerate(names) if place % 50 or name == "__newln__"]
    folder = Path(tempfile.mkdtemp(prefix="blenderbot-"))
    vocab = {token: index for index, token in enumerate(dict.fromkeys(BLENDERBOT_FIRST + names))}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return folder
