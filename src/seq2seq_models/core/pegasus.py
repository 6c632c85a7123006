"""The Pegasus tokenizer: a SentencePiece unigram vocabulary, its ids moved up to make room for Pegasus' own tokens.

Ids (google/pegasus-*): 0 <pad>, 1 </s>, 2 <mask_1> (a sentence), 3 <mask_2> (a word), 4 to 104 <unk_2> to <unk_102>,
105 <unk>, then the pieces. Source: github.com/google-research/pegasus, ops/pretrain_parsing_ops.cc.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import AddedToken

from ..errors import TokenizerError
from .tokenizer import PreTrainedTokenizer, without_list
from .tokenizing.encoding import TokenSource
from .tokenizing.spiece import PieceType, SentencePieceModel, check_model, read_spiece_model, serialize
from .tokenizing.tokenizer_files import read_json_file
from .tokenizing.unigram import SPACE, Unigram

_HARMLESS = ("Precompiled", "Strip", "Replace")


class PegasusTokenizer(PreTrainedTokenizer):
    """Text to the ids of a Pegasus model and back.

    A text becomes its pieces and the closing `</s>`. Newlines are spaces; characters outside of the vocabulary are
    `<unk>`, a run of them one `<unk>`.

    Args:
        vocab_file: a `spiece.model`.
        pad_token: fills rows up.
        eos_token: closes a text.
        unk_token: stands for what is not in the vocabulary.
        mask_token: stands for a masked word in pretraining.
        mask_token_sent: stands for a masked sentence in pretraining; None for a vocabulary without it.
        additional_special_tokens: further special tokens; filled up with `<unk_2>`, ... to `offset` - 1 tokens.
        offset: how far the ids of the pieces are moved up.
        sp_model_kwargs: accepted; sampling options must not be set.
        tokenizer_file: a `tokenizer.json` to take the vocabulary from where there is no `vocab_file`.
        **kwargs: see PreTrainedTokenizer.
    Raises:
        TokenizerError: files or options that make no tokenizer.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "spiece.model"}
    _plain: dict[int, str] | None

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | None = None,
        pad_token: str | AddedToken = "<pad>",
        eos_token: str | AddedToken = "</s>",
        unk_token: str | AddedToken = "<unk>",
        mask_token: str | AddedToken = "<mask_2>",
        mask_token_sent: str | None = "<mask_1>",
        additional_special_tokens: list[Any] | None = None,
        offset: int = 103,
        sp_model_kwargs: dict[str, Any] | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        options = without_list({**kwargs, "additional_special_tokens": additional_special_tokens})
        additional_special_tokens, kwargs = options.pop("additional_special_tokens"), options
        if (sp_model_kwargs or {}).get("enable_sampling"):
            raise TokenizerError("`sp_model_kwargs` must not enable sampling: it is not supported. Leave it out.")
        names = [str(pad_token), str(eos_token)]
        if vocab_file is not None:
            model = read_spiece_model(vocab_file)
        elif tokenizer_file is not None:
            model = _read_tokenizer_json(Path(tokenizer_file), offset, names)
        else:
            raise TokenizerError("`vocab_file` must be the path of a spiece.model, got None. Or use from_pretrained.")
        self.offset = offset
        self.mask_token_sent = mask_token_sent
        self.sp_model_kwargs = sp_model_kwargs or {}
        self.vocab_file = None if vocab_file is None else str(vocab_file)
        self.unigram = Unigram(model)
        unk_ids = {f"<unk_{number}>" for number in range(2, offset)}
        additional = _additional_tokens(additional_special_tokens, mask_token_sent, offset)
        own = [*names, *([mask_token_sent, str(mask_token)] if mask_token_sent is not None else [])]
        own += [f"<unk_{number}>" for number in range(2, 2 + len(unk_ids))]
        added = dict(kwargs.pop("added_tokens_decoder", None) or {})
        added.update({index: AddedToken(token, normalized=False, special=True) for index, token in enumerate(own)})
        super().__init__(
            eos_token=eos_token, unk_token=unk_token, mask_token=mask_token, pad_token=pad_token,
            mask_token_sent=mask_token_sent, offset=offset, additional_special_tokens=additional,
            sp_model_kwargs=self.sp_model_kwargs, added_tokens_decoder=added, **kwargs,
        )  # fmt: skip

    @property
    def vocab_size(self) -> int:
        """Pieces plus `offset`: the size of the model's embedding, if no tokens were added."""
        return len(self.unigram.model.pieces) + self.offset

    def get_vocab(self) -> dict[str, int]:
        """Token to id, added tokens included."""
        pieces = self.unigram.model.pieces
        added = self._added_by_id
        below = range(min(self.offset, len(pieces)))
        # In the order of ids: Pegasus' own tokens, the last of which is the unknown piece, then the other pieces.
        vocab = {token.content: index for index, token in sorted(added.items()) if index <= self.offset + 2}
        vocab.update({pieces[index]: index for index in below if index not in added})
        vocab.update({piece: i for i, piece in enumerate(pieces, self.offset) if i not in added})
        vocab.update({token.content: index for index, token in sorted(added.items())})
        return vocab

    def _convert_token_to_id(self, token: str) -> int:
        return self.unigram.ids.get(token, self.unigram.unk_id) + self.offset

    def _convert_id_to_token(self, index: int) -> str:
        pieces = self.unigram.model.pieces
        place = index if index < self.offset else index - self.offset
        if not 0 <= place < len(pieces):
            raise IndexError(f"An id must be at least 0 and below {self.vocab_size}, got {index}.")
        return pieces[place]

    def _encode_stretch(self, text: str) -> list[int]:
        offset = self.offset
        return [index + offset for index in self.unigram.encode(text)]

    def _tokens_of_stretch(self, text: str) -> list[str]:
        return [span.piece for span in self.unigram.spans(text)]

    def _sources_of_stretch(self, text: str) -> list[TokenSource]:
        found: list[TokenSource] = []
        word = -1
        for span in self.unigram.spans(text):
            word += 1 if word < 0 or span.piece.startswith(SPACE) else 0
            found.append(TokenSource(span.id + self.offset, span.piece, span.start, span.end, word))
        return found

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text that tokens stand for; special tokens stay as they are."""
        special = self._special_token_set()
        if special.isdisjoint(tokens):
            return self.unigram.decode(tokens).strip()
        text: list[str] = []
        run: list[str] = []
        for token in tokens:
            if token in special:
                text += [self.unigram.decode(run), token]
                run = []
            else:
                run.append(token)
        return "".join([*text, self.unigram.decode(run)]).strip()

    def _decode_plain(self, ids: list[int]) -> str | None:
        if self._plain is None:
            added = self._added_by_id
            words = enumerate(self.unigram.words_of_pieces(), self.offset)
            self._plain = {index: word for index, word in words if word is not None and index not in added}
        try:
            return "".join(map(self._plain.__getitem__, ids)).strip()
        except KeyError:
            return None

    def _forget(self) -> None:
        super()._forget()
        self._plain = None

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """The ids of one text, or of two after another, and the closing `</s>`."""
        return [*token_ids_0, *(token_ids_1 or ()), self._special_id("eos_token")]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """1: the closing `</s>`."""
        return 1

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 for each special token but `<unk>`, else 0; with the closing `</s>` if the ids do not have it yet."""
        special = self._special_id_set() - {self.unk_token_id}
        mask = [int(index in special) for index in [*token_ids_0, *(token_ids_1 or ())]]
        return mask if already_has_special_tokens else [*mask, 1]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """The `spiece.model` that was written, byte for byte as it was read.

        Args:
            save_directory: a folder that exists.
            filename_prefix: put before the file's name, with a "-".
        """
        path = Path(save_directory) / ((f"{filename_prefix}-" if filename_prefix else "") + "spiece.model")
        if not path.parent.is_dir():
            raise TokenizerError(f"`save_directory` must be a folder, got {save_directory}. Make it first.")
        path.write_bytes(self.unigram.model.serialized)
        return (str(path),)

    def _backend_json(self) -> str:
        model, offset = self.unigram.model, self.offset
        vocab: list[list[Any]] = [[self._token_of(index), 0.0 if index < 4 else -100.0] for index in range(offset + 2)]
        scores = self.unigram.scores
        vocab += [[piece, scores.get(i, model.scores[i])] for i, piece in enumerate(model.pieces) if i >= 2]
        rules: list[dict[str, Any]] = []
        if model.charsmap:
            rules.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()})
        rules.append({"type": "Strip", "strip_left": False, "strip_right": True})
        rules.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": SPACE})
        space = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
        eos = str(self.eos_token)
        close = {"SpecialToken": {"id": eos, "type_id": 0}}
        first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
        return json.dumps(
            {
                "version": "1.0", "truncation": None, "padding": None,
                "added_tokens": self._added_json(),
                "normalizer": {"type": "Sequence", "normalizers": rules},
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, space]},
                "post_processor": {
                    "type": "TemplateProcessing", "single": [first, close], "pair": [first, second, close],
                    "special_tokens": {eos: {"id": eos, "ids": [self.eos_token_id], "tokens": [eos]}},
                },
                "decoder": space,
                "model": {"type": "Unigram", "unk_id": model.unk_id + offset, "vocab": vocab,
                          "byte_fallback": model.byte_fallback},
            },
            ensure_ascii=False,
        )  # fmt: skip


class PegasusTokenizerFast(PegasusTokenizer):
    """PegasusTokenizer under the name that transformers gives to its second implementation of it.

    Here both are one implementation with the same ids. What differs is the form of overflowing tokens: here they
    become rows of their own.

    Args:
        vocab_file: a `spiece.model`.
        tokenizer_file: a `tokenizer.json` to take the vocabulary from where there is no `vocab_file`.
        pad_token, eos_token, unk_token, mask_token, mask_token_sent, additional_special_tokens, offset, **kwargs: as in
            PegasusTokenizer.
    """

    # Differs from transformers 4.57.6: the ids of its slow class also where its fast class has others (odd spacing).
    _windows = True

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None,
        pad_token: str | AddedToken = "<pad>",
        eos_token: str | AddedToken = "</s>",
        unk_token: str | AddedToken = "<unk>",
        mask_token: str | AddedToken = "<mask_2>",
        mask_token_sent: str | None = "<mask_1>",
        additional_special_tokens: list[Any] | None = None,
        offset: int = 103,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            vocab_file, pad_token, eos_token, unk_token, mask_token, mask_token_sent, additional_special_tokens,
            offset, tokenizer_file=tokenizer_file, **kwargs,
        )  # fmt: skip


def _additional_tokens(given: Any, mask_token_sent: str | None, offset: int) -> list[Any]:
    """The additional special tokens: those given, `mask_token_sent`, and `<unk_2>`, ... as far as there is room."""
    first = [] if mask_token_sent is None else [mask_token_sent]
    if given is None:
        return first + [f"<unk_{number}>" for number in range(2, offset)]
    if not isinstance(given, list):
        raise TypeError(f"`additional_special_tokens` must be a list, got {type(given).__name__}.")
    tokens = given if set(first) <= set(map(str, given)) else first + given
    tokens = tokens + [f"<unk_{number}>" for number in range(len(tokens), offset - 1)]
    twice = sorted({str(token) for token in tokens if list(map(str, tokens)).count(str(token)) > 1})
    if twice:
        raise TokenizerError(
            f"`additional_special_tokens` must name each token once, got {', '.join(twice)} again after filling up "
            "with <unk_x>. Shift the <unk_x> of your list."
        )
    return tokens


def _read_tokenizer_json(path: Path, offset: int, names: list[str]) -> SentencePieceModel:
    """The vocabulary in a `tokenizer.json`, as the `spiece.model` it was made from."""
    data = read_json_file(path)
    model = data.get("model") or {}
    if model.get("type") != "Unigram":
        raise TokenizerError(f"{path} must hold a Unigram vocabulary for Pegasus, got {model.get('type')!r}.")
    try:
        rows = [(str(piece), float(score)) for piece, score in model["vocab"]]
        unknown = int(model["unk_id"]) - offset
        charsmap = _charsmap(path, data.get("normalizer"))
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        if isinstance(error, TokenizerError):
            raise
        raise TokenizerError(f"{path} must be a saved tokenizer, but: {error!r}. Download it again.") from None
    pieces = [(name, 0.0) for name in names] + rows[offset + 2 :]
    kinds = [PieceType.CONTROL] * 2 + [PieceType.NORMAL] * (len(pieces) - 2)
    if not 2 <= unknown < len(kinds):
        raise TokenizerError(
            f"`offset` must fit {path}, whose unknown token has id {unknown + offset}, got {offset}. "
            "Pass the offset it was saved with."
        )
    kinds[unknown] = PieceType.UNKNOWN
    found = SentencePieceModel(
        [piece for piece, _ in pieces], [score for _, score in pieces], [int(kind) for kind in kinds],
        charsmap=charsmap, byte_fallback=bool(model.get("byte_fallback")),
    )  # fmt: skip
    fault = check_model(found)
    if fault is not None:
        raise TokenizerError(f"{path} must hold a Unigram vocabulary, but {fault}. Download it again.")
    return SentencePieceModel(**{**found.__dict__, "serialized": serialize(found)})


def _charsmap(path: Path, normalizer: Any) -> bytes:
    """The compiled character rules in the normalizer of a tokenizer.json; its other steps are Pegasus' own rules."""
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    foreign = sorted({str(step.get("type")) for step in steps} - set(_HARMLESS))
    if foreign:
        raise TokenizerError(f"{path} must have a Pegasus normalizer, got steps that Pegasus lacks: {foreign}.")
    for step in steps:
        if step["type"] == "Precompiled":
            return base64.b64decode(step["precompiled_charsmap"], validate=True)
    return b""
