"""Gap sentences, the pretraining of Pegasus: a document loses its principal sentences, and the model writes them.

Source: Zhang et al., PEGASUS: Pre-training with Extracted Gap-sentences for Abstractive Summarization, arXiv
1912.08777, section 3.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import InputError
from .collator import DataCollatorForSeq2Seq
from .window import sentences as split_sentences

SELECTIONS = ("ind-orig", "seq-orig", "ind-uniq", "seq-uniq", "random", "lead")
"""How the gap sentences of a document are chosen, by the paper's names."""

IGNORED = -100
"""The label of a token that no loss counts."""

_WORD = re.compile(r"[^\W_]+")
_WORD_START = "\u2581"


@dataclass
class DataCollatorForGapSentences:
    """Documents to one batch: some sentences of each become its labels, and a mask stands in their place.

    What is chosen depends on the seed and the document alone, not on the batch that the document is in. Another seed
    for each epoch (`collator.seed = epoch`) draws anew where there is chance.

    A document of one sentence is copied: the sentence is the label and stays in the input, since nothing can be told
    from a mask alone.

    Attributes:
        tokenizer: of Pegasus, with a mask for sentences (`mask_token_sent`).
        model: if it has `prepare_decoder_input_ids_from_labels`, the batch also gets `decoder_input_ids` from it.
        gap_sentences_ratio: share of the sentences that are chosen, rounded down, at least one; two numbers are the
            ends of a range to draw it from for each document.
        selection: "ind-orig" takes the sentences with the highest ROUGE-1 F1 against the rest of the document, each
            scored by itself; "seq-orig" takes one after another, so that those taken together score highest;
            "ind-uniq" and "seq-uniq" count each word once; "random"; "lead" takes the first ones.
        unchanged_probability: share of the chosen sentences that also stay in the input.
        score_noise: scores are multiplied by a number drawn from 1 - `score_noise` to 1 + `score_noise`.
        mlm_probability: share of the input's words that are hidden, too: eight of ten become `mask_token`, one becomes
            random tokens, one stays. The batch then has `mlm_labels` [B, S], which the model itself does not take.
        max_source_length: tokens of a document that are read, in whole sentences; None is the tokenizer's own limit.
        max_target_length: tokens of the labels; None sets no limit.
        seed: what is drawn follows from it.
        field: under which key a document is found where examples are dictionaries.
        pad_to_multiple_of: round lengths up to a multiple of this many tokens.
        return_tensors: "pt", "tf", "np" or "jax".
    Raises:
        InputError: an option is out of range, or the tokenizer has no mask for sentences.
    """

    tokenizer: Any
    model: Any = None
    gap_sentences_ratio: float | tuple[float, float] = 0.3
    selection: str = "ind-orig"
    unchanged_probability: float = 0.0
    score_noise: float = 0.0
    mlm_probability: float = 0.0
    max_source_length: int | None = None
    max_target_length: int | None = None
    seed: int = 0
    field: str = "text"
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"

    def __post_init__(self) -> None:
        if faults := sorted(self._faults()):
            raise InputError(" ".join(faults))

    def _faults(self) -> Iterable[str]:
        low, high = self._ratios()
        if not 0 < low <= high < 1:
            yield (
                f"`gap_sentences_ratio` must be above 0 and below 1, or two such numbers in order, got "
                f"{self.gap_sentences_ratio!r} (gap sentences). The paper has 0.3."
            )
        if self.selection not in SELECTIONS:
            names = ", ".join(map(repr, SELECTIONS))
            yield f"`selection` must be one of {names}, got {self.selection!r} (gap sentences)."
        for name in ("unchanged_probability", "score_noise", "mlm_probability"):
            if not 0 <= getattr(self, name) < 1:
                yield f"`{name}` must be at least 0 and below 1, got {getattr(self, name)!r} (gap sentences)."
        for name in ("max_source_length", "max_target_length"):
            length = getattr(self, name)
            if length is not None and length < 2:
                yield f"`{name}` must be at least 2 tokens, got {length!r} (gap sentences): the last one ends the text."
        if self._mask_token() is None:
            yield (
                f"`tokenizer` must have a mask for sentences (mask_token_sent), got {type(self.tokenizer).__name__} "
                "(gap sentences). Pass the tokenizer of a Pegasus model."
            )

    def _mask_token(self) -> str | None:
        # The fast class of transformers keeps it among its arguments only.
        name, given = "mask_token_sent", getattr(self.tokenizer, "init_kwargs", {})
        found: str | None = getattr(self.tokenizer, name, given.get(name))
        return found

    def _ratios(self) -> tuple[float, float]:
        ratio = self.gap_sentences_ratio
        return (ratio[0], ratio[1]) if isinstance(ratio, tuple | list) else (ratio, ratio)

    def __call__(self, features: Sequence[Any], return_tensors: str | None = None) -> Any:
        """The batch: `input_ids` and `attention_mask` [B, S], `labels` [B, T] int64, padded with -100.

        Args:
            features: documents: texts, lists of sentences, or dictionaries with one of these under `field`.
            return_tensors: "pt", "tf", "np" or "jax", instead of the collator's own.
        Raises:
            InputError: something is no document, or has no sentence.
        """
        documents = [self._sentences(feature, number) for number, feature in enumerate(features)]
        texts = [sentence for document in documents for sentence in document]
        rows = iter(self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
        examples = [self._example(document, [list(next(rows)) for _ in document]) for document in documents]
        kind = return_tensors or self.return_tensors
        pad = DataCollatorForSeq2Seq(self.tokenizer, self.model, pad_to_multiple_of=self.pad_to_multiple_of)
        hidden = [example.pop("mlm_labels") for example in examples]
        batch = pad(examples, kind)
        if self.mlm_probability:
            # Rows of the input's length, so that they are padded like it.
            pad.model = None
            pairs = zip(examples, hidden, strict=True)
            batch["mlm_labels"] = pad([{**example, "labels": words} for example, words in pairs], kind)["labels"]
        return batch

    def _sentences(self, feature: Any, number: int) -> list[str]:
        """The sentences of one document."""
        document = feature.get(self.field) if isinstance(feature, Mapping) else feature
        if isinstance(document, str):
            found = split_sentences(document)
        elif isinstance(document, Sequence) and all(isinstance(sentence, str) for sentence in document):
            found = [sentence.strip() for sentence in document if sentence.strip()]
        else:
            raise InputError(
                f"A document must be a text or a list of sentences, got {type(document).__name__} (gap sentences, "
                f"example {number}). Name the key of the texts in `field`, which is {self.field!r}."
            )
        if not found:
            raise InputError(
                f"A document must have at least one sentence, got none (gap sentences, example {number}). "
                "Leave empty documents out."
            )
        return found

    def _example(self, sentences: list[str], rows: list[list[int]]) -> dict[str, Any]:
        """One example from the sentences of a document and the token ids of each."""
        eos, mask = self.tokenizer.eos_token_id, self.tokenizer.convert_tokens_to_ids(self._mask_token())
        # A number of its own for each document, so that a batch, a worker or a resumed run changes nothing.
        text = f"{self.seed} {' '.join(sentences)}".encode(errors="surrogatepass")
        chance = np.random.default_rng(int.from_bytes(hashlib.blake2b(text, digest_size=16).digest()))
        limit = int(self.max_source_length or self.tokenizer.model_max_length)
        lengths = np.cumsum([len(row) for row in rows])
        # The rest of a document is what the model reads of it: a gap beyond the window would be no gap.
        read = max(1, int(np.count_nonzero(lengths < limit)))
        gaps = self._gaps(sentences[:read], chance)
        stays = chance.random(len(gaps)) < self.unchanged_probability
        hidden = {number for number, stay in zip(gaps, stays, strict=True) if not stay and read > 1}
        source = [token for number in range(read) for token in ([mask] if number in hidden else rows[number])]
        source = [*source[: limit - 1], eos]
        labels = [token for number in gaps for token in rows[number]]
        room = None if self.max_target_length is None else self.max_target_length - 1
        labels = [*labels[:room], eos]
        words = None
        if self.mlm_probability:
            source, words = self._word_mask(source, self.mlm_probability, chance)
        return {"input_ids": source, "attention_mask": [1] * len(source), "labels": labels, "mlm_labels": words}

    @cached_property
    def _word_mask(self) -> _WordMask:
        return _WordMask(self.tokenizer)

    def _gaps(self, sentences: list[str], chance: np.random.Generator) -> list[int]:
        """The numbers of the chosen sentences, ascending."""
        share = chance.uniform(*self._ratios())
        # Something of a document must be left; and 0.29 of 100 are 29, though their product is a little less.
        count = max(1, min(int(len(sentences) * share + 1e-9), len(sentences) - 1))
        if self.selection == "lead":
            return list(range(count))
        if self.selection == "random":
            return sorted(map(int, chance.choice(len(sentences), count, replace=False)))
        scheme, _, counting = self.selection.partition("-")
        words = WordCounts(sentences, unique=counting == "uniq")
        noise = 1 + self.score_noise * chance.uniform(-1, 1, len(sentences))
        if scheme == "ind":
            return sorted(map(int, np.argsort(-words.scores() * noise, kind="stable")[:count]))
        chosen: list[int] = []
        for _ in range(count):
            scores = words.scores(chosen) * noise
            scores[chosen] = -1.0
            chosen.append(int(np.argmax(scores)))
        return sorted(chosen)


class WordCounts:
    """The words of a document's sentences, counted, to score sentences against the rest.

    Words are runs of letters and digits in lower case: for ASCII text, those of the `rouge-score` package.
    """

    def __init__(self, sentences: Sequence[str], unique: bool = False) -> None:
        """Counts.

        Args:
            sentences: the sentences of one document.
            unique: count each word once on either side (the paper's Uniq), not as often as it stands there (Orig).
        """
        counts = [Counter(_WORD.findall(sentence.lower())) for sentence in sentences]
        numbers = {word: number for number, word in enumerate(dict.fromkeys(word for one in counts for word in one))}
        self._sentence = np.repeat(np.arange(len(counts)), [len(one) for one in counts])
        self._word = np.array([numbers[word] for one in counts for word in one], dtype=np.int64)
        self._count = np.array([times for one in counts for times in one.values()], dtype=np.int64)
        self._total = np.bincount(self._word, self._count, len(numbers)).astype(np.int64)
        self._sentences = len(counts)
        self._most = 1 if unique else np.iinfo(np.int64).max

    def scores(self, chosen: Sequence[int] = ()) -> np.ndarray[Any, np.dtype[np.float64]]:
        """ROUGE-1 F1 of each sentence, together with the chosen ones, against all others; no sense for those chosen.

        Args:
            chosen: numbers of sentences.
        """
        picked = np.isin(self._sentence, chosen)
        inside = np.bincount(self._word[picked], self._count[picked], len(self._total)).astype(np.int64)
        outside = self._total - inside
        # Only the words of the sentence that moves change their place.
        before = self._counted(inside), self._counted(outside)
        after = self._counted(inside[self._word] + self._count), self._counted(outside[self._word] - self._count)
        overlap = np.minimum(*before).sum() + self._by_sentence(
            np.minimum(*after) - np.minimum(before[0][self._word], before[1][self._word])
        )
        size = (before[0] + before[1]).sum() + self._by_sentence(
            after[0] + after[1] - before[0][self._word] - before[1][self._word]
        )
        return np.asarray(2.0 * overlap / np.maximum(size, 1), dtype=np.float64)

    def _counted(self, counts: Any) -> Any:
        return np.minimum(counts, self._most)

    def _by_sentence(self, values: Any) -> Any:
        return np.bincount(self._sentence, values, self._sentences)


class _WordMask:
    """Hides whole words of an input, as the original code does (BERT's scheme)."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids)
        self._ordinary = [token for token in range(len(tokenizer)) if token not in self._special]

    def __call__(self, ids: list[int], share: float, chance: np.random.Generator) -> tuple[list[int], list[int]]:
        """The ids with some words hidden, and at their places what stood there, elsewhere -100."""
        words = self._words(ids)
        labels = [IGNORED] * len(ids)
        found = list(ids)
        for number in chance.permutation(len(words))[: max(1, int(len(words) * share))]:
            kind = chance.random()
            for place in words[number]:
                labels[place] = ids[place]
                if kind < 0.8:
                    found[place] = self._tokenizer.mask_token_id
                elif kind < 0.9:
                    found[place] = self._ordinary[int(chance.integers(len(self._ordinary)))]
        return found, labels

    def _words(self, ids: list[int]) -> list[list[int]]:
        """The places of each word's tokens."""
        words: list[list[int]] = []
        inside = False
        for place, (token, piece) in enumerate(zip(ids, self._tokenizer.convert_ids_to_tokens(ids), strict=True)):
            if token in self._special:
                inside = False
                continue
            if not inside or piece.startswith(_WORD_START):
                words.append([])
            words[-1].append(place)
            inside = True
        return words
