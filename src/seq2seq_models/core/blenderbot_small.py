"""The BlenderbotSmall tokenizer: lower-cased byte-pair encoding in the notation of subword-nmt.

Ids (facebook/blenderbot_small-90M): 0 __null__ (padding), 1 __start__, 2 __end__, 3 __unk__, 4 __newln__, then the
vocabulary. No special token is put around a text. Turns of a conversation are joined with "__end__ __start__".
"""

from __future__ import annotations

import json
import os
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import AddedToken

from ..errors import TokenizerError
from .tokenizer import PreTrainedTokenizer
from .tokenizing.bpe import GOES_ON, BytePairs, part_spans, split_parts, split_words, word_spans
from .tokenizing.bpe_json import bpe_from_json, bpe_to_json
from .tokenizing.encoding import TokenSource
from .tokenizing.tokenizer_files import read_json_file

_WORDS_KEPT = 200_000


class _Words(dict[str, tuple[int, ...]]):
    """Word to ids, filled on demand."""

    def __init__(self, tokenizer: BlenderbotSmallTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = self[word] = tuple(map(self.tokenizer._id_of, self.tokenizer._tokens_of_word(word)))
        return ids


class BlenderbotSmallTokenizer(PreTrainedTokenizer):
    """Text to the ids of a BlenderbotSmall model and back.

    The text is lower-cased, `. , ! ? ( ) '` are set apart, a newline after a word becomes `__newln__`, other white
    space only separates. What is not in the vocabulary is `__unk__`.

    Args:
        vocab_file: a `vocab.json`, token to id.
        merges_file: a `merges.txt`, one pair per line; its first and its last line are not looked at.
        bos_token: begins a turn.
        eos_token: ends a turn.
        unk_token: stands for what is not in the vocabulary.
        pad_token: fills rows up.
        tokenizer_file: a `tokenizer.json` to take the vocabulary from where the other two are not given.
        **kwargs: see PreTrainedTokenizer.
    Raises:
        TokenizerError: files or options that make no tokenizer.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "vocab.json", "merges_file": "merges.txt"}

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | None = None,
        merges_file: str | os.PathLike[str] | None = None,
        bos_token: str | AddedToken = "__start__",
        eos_token: str | AddedToken = "__end__",
        unk_token: str | AddedToken = "__unk__",
        pad_token: str | AddedToken = "__null__",
        tokenizer_file: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if vocab_file is not None and merges_file is not None:
            self.encoder = _read_vocab(Path(vocab_file))
            merges = _read_merges(Path(merges_file))
        elif tokenizer_file is not None:
            self.encoder, merges = _read_tokenizer_json(Path(tokenizer_file))
        else:
            raise TokenizerError(
                "`vocab_file` and `merges_file` must be the paths of a vocab.json and a merges.txt, got "
                f"{vocab_file} and {merges_file}. Or use from_pretrained."
            )
        self.decoder = {index: token for token, index in self.encoder.items()}
        self.merges = BytePairs(merges)
        self._words = _Words(self)
        super().__init__(bos_token=bos_token, eos_token=eos_token, unk_token=unk_token, pad_token=pad_token, **kwargs)

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary, without those added to it."""
        return len(self.encoder)

    def get_vocab(self) -> dict[str, int]:
        """Token to id, added tokens included."""
        return {**self.encoder, **self._added_ids}

    def _vocabulary_changed(self) -> None:
        super()._vocabulary_changed()
        self._words = _Words(self)

    def _forget(self) -> None:
        super()._forget()
        self._words = _Words(self)

    def _convert_token_to_id(self, token: str) -> int:
        index = self.encoder.get(token.lower())
        if index is not None:
            return index
        unknown = str(self._special_tokens["unk_token"])
        index = self.encoder.get(unknown, self._added_ids.get(unknown))
        if index is None:
            raise TokenizerError(f"`unk_token` must be in the vocabulary, got {unknown!r}, which is not. Add it.")
        return index

    def _convert_id_to_token(self, index: int) -> str:
        return self.decoder.get(index, str(self.unk_token))

    def _tokens_of_word(self, word: str) -> list[str]:
        return [token for part in split_parts(word) for token in self.merges.split(part)]

    def _tokens_of_stretch(self, text: str) -> list[str]:
        return [token for word in split_words(text) for token in self._tokens_of_word(word)]

    def _encode_stretch(self, text: str) -> list[int]:
        if len(self._words) > _WORDS_KEPT:
            self._words = _Words(self)
        return list(chain.from_iterable(map(self._words.__getitem__, split_words(text))))

    def _sources_of_stretch(self, text: str) -> list[TokenSource]:
        found: list[TokenSource] = []
        for number, (start, end) in enumerate(word_spans(text)):
            for part, origins in part_spans(text[start:end]):
                tokens = self.merges.split(part)
                ends = list(accumulate(len(token) - len(GOES_ON) for token in tokens[:-1]))
                for token, first, last in zip(tokens, [0, *ends], [*ends, len(part)], strict=True):
                    span = start + origins[first][0], start + origins[last - 1][1]
                    found.append(TokenSource(self._id_of(token), token, *span, number))
        return found

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text that tokens stand for."""
        return " ".join(tokens).replace(f"{GOES_ON} ", "").strip()

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """The `vocab.json` and `merges.txt` that were written.

        Args:
            save_directory: a folder that exists.
            filename_prefix: put before each file's name, with a "-".
        """
        folder, prefix = Path(save_directory), f"{filename_prefix}-" if filename_prefix else ""
        if not folder.is_dir():
            raise TokenizerError(f"`save_directory` must be a folder, got {save_directory}. Make it first.")
        vocab, merges = folder / f"{prefix}vocab.json", folder / f"{prefix}merges.txt"
        text = json.dumps(self.encoder, indent=2, sort_keys=True, ensure_ascii=False)
        vocab.write_text(text + "\n", encoding="utf-8", newline="\n")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self.merges.pairs)]
        merges.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        return str(vocab), str(merges)

    def _backend_json(self) -> str | None:
        added = self._added_json()
        data = bpe_to_json(self.encoder, self.merges.pairs, added, str(self.unk_token))
        return None if data is None else json.dumps(data, ensure_ascii=False)


class BlenderbotSmallTokenizerFast(BlenderbotSmallTokenizer):
    """BlenderbotSmallTokenizer under the name that transformers gives to another tokenizer for it.

    Here both are one implementation with the same ids. What differs is the form of overflowing tokens: here they
    become rows of their own.

    Args:
        vocab_file: a `vocab.json`, token to id.
        merges_file: a `merges.txt`, one pair per line.
        unk_token: stands for what is not in the vocabulary.
        bos_token: begins a turn.
        eos_token: ends a turn.
        add_prefix_space: accepted, no effect.
        trim_offsets: accepted, no effect.
        pad_token: fills rows up.
        tokenizer_file: a `tokenizer.json` to take the vocabulary from where the other two are not given.
        **kwargs: see PreTrainedTokenizer.
    """

    # Differs from transformers 4.57.6: its class of this name is byte-level with <|endoftext|> as every special token,
    # and cannot be used with the published vocabulary.
    _windows = True

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | None = None,
        merges_file: str | os.PathLike[str] | None = None,
        unk_token: str | AddedToken = "__unk__",
        bos_token: str | AddedToken = "__start__",
        eos_token: str | AddedToken = "__end__",
        add_prefix_space: bool = False,
        trim_offsets: bool = True,
        pad_token: str | AddedToken = "__null__",
        tokenizer_file: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(vocab_file, merges_file, bos_token, eos_token, unk_token, pad_token, tokenizer_file, **kwargs)


def _read_vocab(path: Path) -> dict[str, int]:
    vocab = read_json_file(path)
    wrong = [token for token, index in vocab.items() if type(index) is not int or index < 0]
    if wrong or not vocab:
        got = f"{wrong[0]!r}: {vocab[wrong[0]]!r}" if wrong else "no tokens"
        raise TokenizerError(f"{path} must map tokens to ids, got {got}. Download it again.")
    return vocab


def _read_merges(path: Path) -> list[tuple[str, ...]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} must be UTF-8 text, but: {error}. Download it again.") from None
    if lines[0].startswith("version https://git-lfs"):
        raise TokenizerError(f"{path} is a git-lfs pointer and not the merges. Fetch the file with `git lfs pull`.")
    return [tuple(line.split()) for line in lines[1:-1]]


def _read_tokenizer_json(path: Path) -> tuple[dict[str, int], list[tuple[str, ...]]]:
    found = bpe_from_json(read_json_file(path))
    if isinstance(found, str):
        raise TokenizerError(
            f"{path} must hold a BlenderbotSmall vocabulary, but {found}. Use the vocab.json and merges.txt instead."
        )
    return found
