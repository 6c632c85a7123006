"""The two vocabularies of the demonstration checkpoints, counted from the text they are to read, and their files."""

from __future__ import annotations

import json
import math
import string
import struct
from collections import Counter
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from seq2seq_models.core.tokenizing.bpe import split_parts, split_words
from seq2seq_models.core.tokenizing.spiece import PieceType, write_spiece_model

UNSEEN = -14.0
"""Log probability of a character that the text does not hold; below that of every piece that it does."""


_CHARACTERS = {
    **dict.fromkeys("\t\n\r\u00a0", " "),
    **dict.fromkeys("\u201c\u201d\u201e", '"'),
    **dict.fromkeys("\u2018\u2019", "'"),
    **dict.fromkeys("\u2013\u2014", "-"),
    "\u2026": "...",
}
"""What becomes of characters that reports hold and the vocabulary does not; line ends are spaces, as in Pegasus."""


def compile_characters(rules: dict[str, str]) -> bytes:
    """The rules as SentencePiece compiles them: a double-array trie over UTF-8, then the replacements.

    A unit of the trie holds its label in bits 0 to 7, whether a rule ends below it in bit 8, and from bit 10 the
    offset to its children; a unit with bit 31 is a value. Source: github.com/s-yata/darts-clone.

    Args:
        rules: replacement of each character, none of which begins another.
    """
    texts, places = b"", {}
    for character, replacement in rules.items():
        places[character.encode()] = len(texts)
        texts += replacement.encode() + b"\0"
    units: dict[int, int] = {0: 0}

    def grow(node: int, prefix: bytes) -> None:
        following = sorted({key[len(prefix)] for key in places if key.startswith(prefix) and len(key) > len(prefix)})
        wanted = following or [0]
        base = next(base for base in range(1, 1 << 20) if all(base ^ label not in units for label in wanted))
        units[node] |= (node ^ base) << 10
        units.update({base ^ label: label for label in following})
        if not following:
            units[node] |= 1 << 8
            units[base] = places[prefix] | 1 << 31
        for label in following:
            grow(base ^ label, prefix + bytes([label]))

    grow(0, b"")
    # Every label is looked for within the block of 256 units that a base lies in, so the last block must be whole.
    length = (max(units) // 256 + 1) * 256
    trie = struct.pack(f"<{length}I", *(units.get(index, 0) for index in range(length)))
    return struct.pack("<I", len(trie)) + trie + texts


def _merged(words: list[str], size: int, suffix: str | None, first: list[str], letters: str) -> Tokenizer:
    """Byte-pair merges over these words, which spaces part."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=suffix) if suffix else models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    alphabet = list(letters + string.digits + string.punctuation)
    options = {"end_of_word_suffix": suffix} if suffix else {}
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=first, initial_alphabet=alphabet, show_progress=False, **options
    )
    tokenizer.train_from_iterator(words, trainer)
    return tokenizer


def write_pegasus_vocabulary(folder: Path, texts: list[str], size: int, length: int) -> None:
    """Writes spiece.model and its companions: a unigram vocabulary of whole words, pieces of words, and characters.

    Args:
        folder: where to.
        texts: what it is counted from.
        size: pieces, the three special ones included.
        length: tokens that the model reads at once.
    """
    words = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Split(Regex(r"[^\w▁]"), "isolated")])
    lines = [" ".join(word for word, _ in words.pre_tokenize_str(text)) for text in texts]
    merged = _merged(lines, size - 3, None, [], string.ascii_letters)
    counts = Counter(token for line in merged.encode_batch(lines) for token in line.tokens)
    total = sum(counts.values())
    # A merge that only ever led on to a longer piece never stands in the text; characters stay, for other texts.
    kept = [piece for piece in merged.get_vocab() if counts[piece] or len(piece) == 1]
    scored = [(piece, math.log(counts[piece] / total) if counts[piece] else UNSEEN) for piece in kept]
    pieces = [("<pad>", 0.0, PieceType.CONTROL), ("</s>", 0.0, PieceType.CONTROL), ("<unk>", 0.0, PieceType.UNKNOWN)]
    pieces += [(piece, score, PieceType.NORMAL) for piece, score in sorted(scored, key=lambda one: (-one[1], one[0]))]
    write_spiece_model(folder / "spiece.model", pieces, compile_characters(_CHARACTERS))
    _write(folder / "special_tokens_map.json", {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"})
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "PegasusTokenizer", "model_max_length": length})


def write_blenderbot_vocabulary(folder: Path, texts: list[str], size: int, length: int) -> None:
    """Writes vocab.json and merges.txt and their companions, as ParlAI's byte-pair encoding is converted to.

    Args:
        folder: where to.
        texts: what it is counted from.
        size: tokens, the five special ones included.
        length: tokens that the model reads at once.
    """
    special = ["__null__", "__start__", "__end__", "__unk__", "__newln__"]
    # A new line goes through the merges as the word __newln__, so the merges must be able to build it.
    texts = [*texts, *["hello\n"] * 2000]
    lines = [" ".join(part for word in split_words(text) for part in split_parts(word)).lower() for text in texts]
    merged = json.loads(_merged(lines, size, "</w>", special, string.ascii_lowercase).to_str())["model"]
    # The trainer numbers characters in no fixed order, so that is settled here: characters, then merges as they came.
    vocabulary = {token: index for index, token in enumerate(special)}
    for character in string.ascii_lowercase + string.digits + string.punctuation:
        # A word of one character, and the end of a longer one, are looked up without a mark.
        vocabulary.setdefault(f"{character}@@", len(vocabulary))
        vocabulary.setdefault(character, len(vocabulary))
    for pair in merged["merges"]:
        piece = "".join(pair)
        token = piece.removesuffix("</w>") if piece.endswith("</w>") else f"{piece}@@"
        vocabulary.setdefault(token, len(vocabulary))
    merges = ["#version: 0.2", *(" ".join(pair) for pair in merged["merges"])]
    _write(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    named = {"bos_token": "__start__", "eos_token": "__end__", "unk_token": "__unk__", "pad_token": "__null__"}
    _write(folder / "special_tokens_map.json", named)
    described = {"tokenizer_class": "BlenderbotSmallTokenizer", "model_max_length": length}
    _write(folder / "tokenizer_config.json", {**named, **described})


def _write(file: Path, value: dict[str, object] | dict[str, int]) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
