"""How good the texts of an evaluation are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rouge_score.rouge_scorer import RougeScorer

ROUGE = ("rouge1", "rouge2", "rougeL")


def rouge(written: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """Mean F-measures of ROUGE-1, ROUGE-2 and ROUGE-L, from 0 to 100, with stemming."""
    scorer = RougeScorer(ROUGE, use_stemmer=True)
    each = [scorer.score(right, text) for text, right in zip(written, wanted, strict=True)]
    return {name: 100 * sum(one[name].fmeasure for one in each) / len(each) for name in ROUGE}


def perplexity(loss: float) -> float:
    """e to the mean loss of a token."""
    return math.exp(min(loss, 700.0))


def better(metric: str, value: float, best: float | None) -> bool:
    """Whether a value of this metric is better than the best so far: more of ROUGE, less of the others."""
    return best is None or (value > best if metric in ROUGE else value < best)
