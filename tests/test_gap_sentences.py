"""Gap sentences: scores against the rouge-score package, choices against brute force, batches by value."""

from __future__ import annotations

import random
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from seq2seq_models import (
    AutoTokenizer,
    BlenderbotSmallTokenizer,
    DataCollatorForGapSentences,
    PegasusForConditionalGeneration,
)
from seq2seq_models.bundled import demo_checkpoint
from seq2seq_models.core.gap_sentences import SELECTIONS, WordCounts
from seq2seq_models.core.window import sentences
from seq2seq_models.errors import InputError

EXAMPLES = Path(__file__).parents[1] / "examples"
DOCUMENT = [
    "It rained all day in Porto.",
    "A fire broke out at the market in Porto.",
    "The market in Porto was closed.",
    "Nobody was hurt.",
]
"""The second and the third share most words with the rest: the, market, in, Porto, was."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(demo_checkpoint("pegasus-demo"))


@pytest.fixture(scope="module")
def reports() -> list[str]:
    """Short made-up reports of one to ten sentences."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        from demo_reports import reports
    finally:
        sys.path.pop(0)
    return [one.text for one in islice(reports(5), 400)]


def collator(tokenizer: Any, **options: Any) -> DataCollatorForGapSentences:
    return DataCollatorForGapSentences(tokenizer, return_tensors="np", **options)


def texts(tokenizer: Any, batch: Any) -> list[tuple[str, str]]:
    """What the model reads and what it is to write, per document."""
    read = tokenizer.batch_decode(batch["input_ids"])
    written = tokenizer.batch_decode(batch["labels"], skip_special_tokens=True)
    return [(text.replace("<pad>", ""), label) for text, label in zip(read, written, strict=True)]


# ---- scores and choices


def made_up(chance: random.Random) -> list[str]:
    """Sentences of few different words, so that they overlap, with signs that are no words, and some without words."""
    words = ["Fire", "fire", "rain", "rain's", "day", "1,200", "in", "snake_case", "A", "e-mail", "\u2014", "..."]
    return [" ".join(chance.choices(words, k=chance.randint(1, 9))) + "." for _ in range(chance.randint(2, 9))]


def rouge(left: list[str], right: list[str], unique: bool) -> float:
    """ROUGE-1 F1 by the rouge-score package; `unique` gives it each word of a side once."""
    sides = [" ".join(side) for side in (left, right)]
    if unique:
        from rouge_score.tokenize import tokenize

        sides = [" ".join(dict.fromkeys(tokenize(side, None))) for side in sides]
    return float(RougeScorer(["rouge1"]).score(*sides)["rouge1"].fmeasure)


@pytest.mark.parametrize("unique", [False, True])
def test_scores_are_those_of_the_rouge_score_package(unique: bool) -> None:
    chance = random.Random(0)
    for _ in range(300):
        document = made_up(chance)
        chosen = chance.sample(range(len(document)), chance.randrange(len(document)))
        scores = WordCounts(document, unique).scores(chosen)
        for one in set(range(len(document))) - set(chosen):
            inside = [document[number] for number in [*chosen, one]]
            outside = [text for number, text in enumerate(document) if number not in {*chosen, one}]
            assert scores[one] == pytest.approx(rouge(inside, outside, unique), abs=1e-12)


def brute_force(document: list[str], selection: str, count: int) -> list[int]:
    """The choice by ROUGE scores of joined texts; of equal ones the first sentence."""
    scheme, counting = selection.split("-")
    chosen: list[int] = []

    def score(one: int) -> float:
        inside = {*chosen, one} if scheme == "seq" else {one}
        left = [document[number] for number in inside]
        right = [text for number, text in enumerate(document) if number not in inside]
        return round(rouge(left, right, counting == "uniq"), 12)

    for _ in range(count):
        chosen.append(max((one for one in range(len(document)) if one not in chosen), key=score))
    return sorted(chosen)


@pytest.mark.parametrize("selection", SELECTIONS[:4])
def test_choices_are_those_of_brute_force(tokenizer: Any, selection: str) -> None:
    chance = random.Random(1)
    choices = []
    for number in range(120):
        document = made_up(chance)
        share = (0.2, 0.45, 0.75)[number % 3]
        gaps = collator(tokenizer, selection=selection, gap_sentences_ratio=share)._gaps(
            document, np.random.default_rng(0)
        )
        assert gaps == brute_force(document, selection, max(1, int(len(document) * share)))
        choices.append(gaps)
    other = {"ind": "seq", "seq": "ind"}[selection[:3]] + selection[3:]
    chance = random.Random(1)
    documents = [made_up(chance) for _ in range(120)]
    differ = [brute_force(one, other, len(found)) != found for one, found in zip(documents, choices, strict=True)]
    assert sum(differ) > 10  # so that the documents tell the two schemes apart


def test_words_of_other_scripts_count_too() -> None:
    scores = WordCounts(["Пожар в порту.", "Порт закрыт: пожар!", "Дождь."]).scores()
    assert scores.tolist() == pytest.approx([2 / 7, 2 / 7, 0])


# ---- batches


def test_principal_sentences_become_gaps_and_labels(tokenizer: Any) -> None:
    batch = collator(tokenizer, gap_sentences_ratio=0.5)([" ".join(DOCUMENT), DOCUMENT[:2]])
    (read, written), (short, start) = texts(tokenizer, batch)
    assert read == f"{DOCUMENT[0]}<mask_1><mask_1>{DOCUMENT[3]}</s>"
    assert written == f"{DOCUMENT[1]} {DOCUMENT[2]}"
    # Both share as much with the other, and the first is taken.
    assert (short, start) == (f"<mask_1>{DOCUMENT[1]}</s>", DOCUMENT[0])
    wanted = tokenizer(f"<mask_1> {DOCUMENT[1]}")["input_ids"]
    length = batch["input_ids"].shape[1]
    assert batch["input_ids"][1].tolist() == wanted + [0] * (length - len(wanted))
    assert batch["attention_mask"].tolist() == [[1] * length, [1] * len(wanted) + [0] * (length - len(wanted))]
    wanted = tokenizer(start)["input_ids"]
    assert batch["labels"][1].tolist() == wanted + [-100] * (batch["labels"].shape[1] - len(wanted))


@pytest.mark.parametrize(
    ("selection", "gaps"),
    [("ind-orig", [1, 2]), ("seq-orig", [0, 2]), ("ind-uniq", [1, 2]), ("seq-uniq", [0, 2]), ("lead", [0, 1])],
)
def test_a_selection_by_hand(tokenizer: Any, selection: str, gaps: list[int]) -> None:
    """Alone, the second sentence shares four words with the rest and the third five; once the third is taken, the
    first adds two that the rest still has, and the second leaves it with fewer to share."""
    ((_, written),) = texts(tokenizer, collator(tokenizer, selection=selection, gap_sentences_ratio=0.5)([DOCUMENT]))
    assert written == " ".join(DOCUMENT[number] for number in gaps)


def test_ids_are_those_of_the_text_with_masks(tokenizer: Any, reports: list[str]) -> None:
    """Sentences are encoded one by one; put together, they are what the tokenizer makes of the whole text."""
    found = collator(tokenizer, gap_sentences_ratio=0.4, selection="lead")
    several = 0
    for text in reports[:200]:
        parts = sentences(text)
        count = max(1, int(0.4 * len(parts)))
        masked = " ".join(["<mask_1>"] * count + parts[count:]) if len(parts) > 1 else text
        batch = found([text])
        assert batch["input_ids"].tolist() == [tokenizer(masked)["input_ids"]]
        assert batch["labels"].tolist() == [tokenizer(" ".join(parts[:count]))["input_ids"]]
        several += count > 1
    assert several > 20


@pytest.mark.parametrize("selection", ["random", "seq-orig"])
def test_a_document_is_treated_alike_in_every_batch(tokenizer: Any, reports: list[str], selection: str) -> None:
    options = {"selection": selection, "unchanged_probability": 0.3, "score_noise": 0.5, "mlm_probability": 0.2}
    many = collator(tokenizer, gap_sentences_ratio=(0.15, 0.45), **options)
    together = many(reports[:40])
    for number, text in enumerate(reports[:40]):
        alone = collator(tokenizer, gap_sentences_ratio=(0.15, 0.45), **options)([{"text": text, "id": 7}])
        for name, value in alone.items():
            row = together[name][number]
            fill = {"labels": -100, "mlm_labels": -100, "input_ids": 0, "attention_mask": 0}[name]
            assert row.tolist() == value[0].tolist() + [fill] * (len(row) - value.shape[1])
    many.seed = 1
    again = texts(tokenizer, many(reports[:40]))
    first = texts(tokenizer, together)
    assert sum(one[1] != other[1] for one, other in zip(first, again, strict=True)) > 10


def test_counts_are_rounded_down_and_never_everything(tokenizer: Any) -> None:
    found = [f"This is sentence {number}." for number in range(20)]
    for share, count in ((0.15, 3), (0.3, 6), (0.45, 9), (0.04, 1), (1 - 1e-12, 19)):
        batch = collator(tokenizer, gap_sentences_ratio=share)([found])
        assert (batch["input_ids"] == 2).sum() == count
    drawn = collator(tokenizer, gap_sentences_ratio=(0.15, 0.45))([[*found, f"More {number}."] for number in range(60)])
    counts = set((drawn["input_ids"] == 2).sum(axis=1).tolist())
    assert counts == {3, 4, 5, 6, 7, 8, 9}


def test_a_single_sentence_is_copied(tokenizer: Any) -> None:
    """From a mask alone nothing can be told."""
    for selection in SELECTIONS:
        batch = collator(tokenizer, selection=selection)([DOCUMENT[1]])
        assert texts(tokenizer, batch) == [(f"{DOCUMENT[1]}</s>", DOCUMENT[1])]


def test_some_chosen_sentences_stay_in_the_input(tokenizer: Any, reports: list[str]) -> None:
    options = {"selection": "random", "gap_sentences_ratio": 0.45}
    gone, some = (collator(tokenizer, unchanged_probability=share, **options)(reports) for share in (0.0, 0.2))
    several = [len(sentences(text)) > 1 for text in reports]
    all_gaps, gaps = ((batch["input_ids"] == 2).sum(axis=1)[several] for batch in (gone, some))
    assert np.array_equal(gone["labels"], some["labels"])
    assert (gaps <= all_gaps).all()
    assert gaps.sum() / all_gaps.sum() == pytest.approx(0.8, abs=0.04)
    kept = collator(tokenizer, unchanged_probability=1 - 1e-12, **options)(reports[:20])
    assert [read for read, _ in texts(tokenizer, kept)] == [f"{text}</s>" for text in reports[:20]]


def test_noise_moves_near_choices_only(tokenizer: Any, reports: list[str]) -> None:
    calm, noisy, wild = (collator(tokenizer, score_noise=noise)(reports)["labels"] for noise in (0.0, 0.2, 0.99))
    width = min(calm.shape[1], noisy.shape[1], wild.shape[1])
    differ = [float((calm[:, :width] != other[:, :width]).any(axis=1).mean()) for other in (noisy, wild)]
    assert 0.02 < differ[0] < differ[1] < 0.8


def test_long_documents_are_read_in_whole_sentences(tokenizer: Any) -> None:
    lengths = [len(tokenizer(sentence)["input_ids"]) - 1 for sentence in DOCUMENT]
    for limit in range(2, 60):
        batch = collator(tokenizer, selection="lead", max_source_length=limit)([DOCUMENT])
        read = max(1, sum(sum(lengths[: count + 1]) < limit for count in range(4)))
        rest = "<mask_1> " + " ".join(DOCUMENT[1:read]) if read > 1 else DOCUMENT[0]
        ids = tokenizer(rest)["input_ids"]
        assert batch["input_ids"].tolist() == [ids if len(ids) <= limit else [*ids[: limit - 1], 1]]
        assert batch["input_ids"].shape[1] <= limit
    whole = len(tokenizer(" ".join(DOCUMENT * 40), verbose=False)["input_ids"])
    unlimited = AutoTokenizer.from_pretrained(demo_checkpoint("pegasus-demo"), model_max_length=int(1e30))
    for found, width in ((tokenizer, 512), (unlimited, whole)):
        batch = collator(found, selection="lead", gap_sentences_ratio=0.001)([DOCUMENT * 40])
        assert width - 30 < batch["input_ids"].shape[1] + lengths[0] - 1 <= width
    assert whole > 1000


def test_long_labels_are_cut_and_still_end(tokenizer: Any) -> None:
    whole = collator(tokenizer)([DOCUMENT])["labels"][0].tolist()
    for limit in range(2, len(whole) + 3):
        cut = collator(tokenizer, max_target_length=limit)([DOCUMENT])["labels"][0].tolist()
        assert cut == (whole if len(whole) <= limit else [*whole[: limit - 1], 1])


def test_words_are_hidden_whole_and_told_in_labels_of_their_own(tokenizer: Any, reports: list[str]) -> None:
    plain = collator(tokenizer)(reports)
    batch = collator(tokenizer, mlm_probability=0.15)(reports)
    assert np.array_equal(plain["labels"], batch["labels"])
    told = batch["mlm_labels"] != -100
    assert np.array_equal(np.where(told, batch["mlm_labels"], batch["input_ids"]), plain["input_ids"])
    assert not told[plain["input_ids"] <= 105].any()  # never a mask, an end or padding
    kinds = {"masked": 0, "same": 0, "other": 0}
    words = hidden = 0
    for row, (ids, seen) in enumerate(zip(plain["input_ids"], batch["input_ids"], strict=True)):
        pieces = tokenizer.convert_ids_to_tokens(ids.tolist())
        starts = [place for place, piece in enumerate(pieces) if piece.startswith("\u2581")]
        ends = [next((p for p in range(s + 1, len(ids)) if p in starts or ids[p] <= 105), len(ids)) for s in starts]
        words += len(starts)
        for start, end in zip(starts, ends, strict=True):
            assert told[row, start:end].all() or not told[row, start:end].any()
            if told[row, start]:
                hidden += 1
                same, mask = (seen[start:end] == ids[start:end]).all(), (seen[start:end] == 3).all()
                kinds["masked" if mask else "same" if same else "other"] += 1
    assert 0.13 < hidden / words < 0.17
    assert kinds["masked"] / hidden == pytest.approx(0.8, abs=0.04)
    assert kinds["same"] / hidden == pytest.approx(0.1, abs=0.03)
    assert kinds["other"] / hidden == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(
    ("kind", "module"),
    [("pt", "torch"), ("jax", "jaxlib"), pytest.param("tf", "tensorflow", marks=pytest.mark.heavy)],
)
def test_every_kind_of_tensor_holds_the_same(tokenizer: Any, kind: str, module: str) -> None:
    options = {"mlm_probability": 0.3, "pad_to_multiple_of": 16}
    found = collator(tokenizer, **options)
    wanted = found([DOCUMENT, DOCUMENT[:2]])
    assert {value.shape[1] % 16 for value in wanted.values()} == {0}
    for batch in (
        found([DOCUMENT, DOCUMENT[:2]], return_tensors=kind),
        DataCollatorForGapSentences(tokenizer, return_tensors=kind, **options)([DOCUMENT, DOCUMENT[:2]]),
    ):
        assert set(batch) == {"input_ids", "attention_mask", "labels", "mlm_labels"}
        for name, value in batch.items():
            assert type(value).__module__.partition(".")[0] == module
            assert np.array_equal(np.asarray(value), wanted[name])


def test_a_model_gives_the_decoder_its_inputs(tokenizer: Any) -> None:
    model = PegasusForConditionalGeneration.from_pretrained(demo_checkpoint("pegasus-demo"))
    batch = DataCollatorForGapSentences(tokenizer, model)([DOCUMENT])
    assert batch["decoder_input_ids"].tolist() == [[0, *batch["labels"][0, :-1].tolist()]]
    shifted = batch.pop("decoder_input_ids")
    assert model(**batch).loss.item() == model(**batch, decoder_input_ids=shifted).loss.item() > 0


@pytest.mark.reference
def test_the_tokenizers_of_transformers_do_as_well(tokenizer: Any, reports: list[str]) -> None:
    import transformers

    for name in ("PegasusTokenizer", "PegasusTokenizerFast"):
        theirs = getattr(transformers, name).from_pretrained(demo_checkpoint("pegasus-demo"))
        ours, found = (collator(one, mlm_probability=0.15)(reports[:50]) for one in (tokenizer, theirs))
        assert {key: value.tolist() for key, value in ours.items()} == {
            key: value.tolist() for key, value in found.items()
        }


def test_what_is_wrong_is_said_at_once(tokenizer: Any) -> None:
    with pytest.raises(InputError) as caught:
        collator(
            tokenizer,
            gap_sentences_ratio=1,
            selection="rouge",
            mlm_probability=-0.1,
            score_noise=1.0,
            max_target_length=1,
        )
    for name in ("gap_sentences_ratio", "selection", "mlm_probability", "score_noise", "max_target_length"):
        assert f"`{name}` must be" in str(caught.value)
    for ratio in (0, (0.4, 0.2), (0.0, 0.5)):
        with pytest.raises(InputError, match="`gap_sentences_ratio` must be above 0 and below 1"):
            collator(tokenizer, gap_sentences_ratio=ratio)
    chat = BlenderbotSmallTokenizer.from_pretrained(demo_checkpoint("blenderbot-small-demo"))
    with pytest.raises(InputError, match="`tokenizer` must have a mask for sentences .* got BlenderbotSmallTokenizer"):
        collator(chat)
    with pytest.raises(InputError, match="A document must be a text or a list of sentences, got NoneType .* example 1"):
        collator(tokenizer)([DOCUMENT, {"document": DOCUMENT}])
    for empty in ("", " \n ", [], ["  "]):
        with pytest.raises(InputError, match="A document must have at least one sentence, got none .* example 0"):
            collator(tokenizer)([empty])


# ---- the example


@pytest.fixture(scope="module")
def script() -> Any:
    """examples/pretrain_gap_sentences.py as a module."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        import pretrain_gap_sentences
    finally:
        sys.path.pop(0)
    return pretrain_gap_sentences


def losses(said: str) -> list[float]:
    return [float(line.split("loss ")[1].split(",")[0]) for line in said.splitlines() if "loss" in line]


def test_pretraining_lowers_the_loss_and_repeats_with_its_seed(script: Any, tmp_path: Path, capsys: Any) -> None:
    options = ["--steps", "16", "--batch-size", "8", "--examples", "64", "--log-every", "4", "--warmup-steps", "4"]
    said = []
    for name in ("one", "other"):
        script.main(["--out", str(tmp_path / name), *options])
        said.append(losses(capsys.readouterr().out))
    assert said[0] == said[1]
    assert said[0][0] == pytest.approx(np.log(1127), abs=0.4)  # nothing is known at first
    assert said[0][-1] < said[0][0] - 1
    one, other = (PegasusForConditionalGeneration.from_pretrained(tmp_path / name) for name in ("one", "other"))
    assert all(bool((value == other.state_dict()[key]).all()) for key, value in one.state_dict().items())
    assert AutoTokenizer.from_pretrained(tmp_path / "one")(DOCUMENT[0]) == AutoTokenizer.from_pretrained(
        demo_checkpoint("pegasus-demo")
    )(DOCUMENT[0])


def test_pretraining_goes_on_from_a_checkpoint_with_documents_of_a_file(
    script: Any, tokenizer: Any, tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / "documents.txt"
    file.write_text(" ".join(DOCUMENT) + "\n\n" + " ".join(DOCUMENT[:2]) + "\n", encoding="utf-8")
    options = ["--keep-weights", "--selection", "lead", "--gap-sentences-ratio", "0.5", "--steps", "1"]
    script.main(["--out", str(tmp_path / "out"), "--documents", str(file), *options])
    model = PegasusForConditionalGeneration.from_pretrained(demo_checkpoint("pegasus-demo"))
    batch = DataCollatorForGapSentences(tokenizer, selection="lead", gap_sentences_ratio=0.5)([DOCUMENT, DOCUMENT[:2]])
    assert losses(capsys.readouterr().out) == [pytest.approx(model(**batch).loss.item(), abs=1e-4)]
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="must have a document per line, got none"):
        script.main(["--out", str(tmp_path / "none"), "--documents", str(file)])
    assert not (tmp_path / "none").exists()
