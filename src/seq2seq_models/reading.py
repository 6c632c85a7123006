"""A summary sentence by sentence, each with what it looked at in its source: as numbers, and as HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from .core.window import part_texts, sentences, window
from .plots import cross_attention

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .pipelines import SummarizationPipeline

FAINTEST = 0.05
"""Shades below it cannot be seen, and would make the page heavier."""


@dataclass(frozen=True)
class Part:
    """A stretch of the source that the model read at once.

    Attributes:
        start, end: where it is in the source, in characters.
        sentences: its summary.
        shades: how much each sentence looked at each character, float32 [sentences, end - start], from 0 to 1 for what
            it looked at most. What a token weighs, each of its characters weighs.
    """

    start: int
    end: int
    sentences: list[str]
    shades: NDArray[np.float32]


@dataclass(frozen=True)
class Reading:
    """A source and its summary.

    Attributes:
        source: the text.
        parts: what was read of it at once, in order: one, where the whole fits into the model.
    """

    source: str
    parts: list[Part]

    @property
    def summary(self) -> str:
        """All sentences in one line."""
        return " ".join(sentence for part in self.parts for sentence in part.sentences)


def read(summarizer: SummarizationPipeline, source: str, **options: Any) -> Reading:
    """The summary of a text, with what its sentences looked at.

    Args:
        summarizer: a pipeline, in any framework.
        source: the text.
        options: of `generate`.

    Raises:
        GenerationError: an option is unknown or out of range.
    """
    tokenizer = summarizer.tokenizer
    limit = window(summarizer.model.config, tokenizer)
    # The parts have all characters of the source but for white space, so counting the others finds each of them.
    solid = np.flatnonzero(_solid(source))
    parts = []
    for text in part_texts(tokenizer, source, limit):
        in_text = _solid(text)
        places, solid = np.split(solid, [in_text.sum()])
        encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
        output = summarizer.outputs(
            [encoded["input_ids"]], **options, return_dict_in_generate=True, output_attentions=True
        )
        weights = cross_attention(output)
        found, rows = _sentences_and_tokens(tokenizer, _new_ids(output, len(weights)))
        start, end = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)
        shades = np.zeros((len(found), end - start), np.float32)
        for sentence, row in enumerate(rows):
            shades[sentence, places - start] = _shades(weights[row].mean(0), encoded["offset_mapping"], in_text)
        parts.append(Part(start, end, found, shades))
    return Reading(source, parts)


def _solid(text: str) -> NDArray[np.bool_]:
    return np.array([not character.isspace() for character in text], bool)


def _new_ids(output: Any, count: int) -> list[int]:
    """The ids that were written, behind those that the decoder started with."""
    prompt = output.cross_attentions[0][0].shape[-2]
    return [int(token) for token in output.sequences[0][prompt : prompt + count]]


def _sentences_and_tokens(tokenizer: Any, ids: Sequence[int]) -> tuple[list[str], list[list[int]]]:
    """The sentences that ids stand for, and for each the indices of its ids."""
    ends = [len(tokenizer.decode(ids[:count], skip_special_tokens=True)) for count in range(len(ids) + 1)]
    # "<n>" is how Pegasus writes a new line.
    text = tokenizer.decode(ids, skip_special_tokens=True).replace("<n>", " \n ")
    found, rows, start = sentences(text), [], 0
    for sentence in found:
        start = text.index(sentence, start)
        end = start + len(sentence)
        tokens = enumerate(pairwise(ends))
        rows.append([index for index, (first, last) in tokens if max(first, start) < min(last, end)])
        start = end
    return found, rows


def _shades(
    weights: NDArray[np.float32], offsets: Sequence[tuple[int, int]], in_text: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """What each character of a part but white space weighs, the heaviest 1; closing tokens, with no place, nothing."""
    shades = np.zeros(len(in_text), np.float32)
    for weight, (start, end) in zip(weights, offsets, strict=True):
        shades[start:end] = np.maximum(shades[start:end], weight)
    most = shades.max(initial=0)
    shades = np.round(shades / most, 2) if most > 0 else shades
    return np.where(shades < FAINTEST, 0, shades)[in_text]


# As HTML.


def reading_html(reading: Reading) -> str:
    """The page of a reading: its sentences to choose from, and the source, shaded for the one that is chosen.

    No script is needed: the sentences are radio buttons, and a rule of CSS for each hands its shades on.
    """
    choices: list[str] = []
    rules, source, done = [], [], 0
    for part in reading.parts:
        first = len(choices)
        for number, sentence in enumerate(part.sentences, first):
            checked = "" if number else " checked"
            choices.append(
                f'<label><input type="radio" name="sentence" value="{number}"{checked}>'
                f"<span>{escaped(sentence)}</span></label>"
            )
            rules.append(f'.reading:has([value="{number}"]:checked) .source span {{ --shade: var(--s{number}, 0) }}')
        source += [escaped(reading.source[done : part.start]), *_shaded(reading.source, part, first)]
        done = part.end
    source.append(escaped(reading.source[done:]))
    return (
        f'<div class="reading"><style>{" ".join(rules)}</style>'
        f"<fieldset><legend>Summary</legend>{''.join(choices) or '<p>The model wrote nothing.</p>'}</fieldset>"
        '<p class="quiet">Choose a sentence, with the mouse or the arrow keys. The stronger the colour of a word, the '
        "more the model looked at it when it wrote the sentence.</p>"
        f'<div class="source" tabindex="0" role="region" aria-label="Source">{"".join(source)}</div></div>'
    )


def _shaded(source: str, part: Part, first: int) -> list[str]:
    """A part of the source, its stretches of one shade in elements that know the shade for each sentence."""
    turns = np.flatnonzero((part.shades[:, 1:] != part.shades[:, :-1]).any(0)) + 1
    pieces = []
    for start, end in pairwise([0, *turns.tolist(), part.end - part.start]):
        text = escaped(source[part.start + start : part.start + end])
        shades = enumerate(part.shades[:, start], first) if end > start else ()
        lit = ";".join(f"--s{number}:{shade:.2g}" for number, shade in shades if shade)
        pieces.append(f'<span style="{lit}">{text}</span>' if lit else text)
    return pieces


def escaped(text: str) -> str:
    """Text that neither HTML nor the page's templates read as anything but text."""
    shown = html.escape(text)
    for character in "{}$`\\":
        shown = shown.replace(character, f"&#{ord(character)};")
    return shown
