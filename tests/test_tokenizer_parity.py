"""Ids, masks and decoded text equal to the slow tokenizers of transformers 4.57.6, text by text."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from seq2seq_models.core.blenderbot_small import BlenderbotSmallTokenizer, BlenderbotSmallTokenizerFast
from seq2seq_models.core.pegasus import PegasusTokenizer, PegasusTokenizerFast
from seq2seq_models.core.tokenizing.bpe import BytePairs

from .tokenizer_vocabularies import DATA, blenderbot_folder, english_paragraphs, pegasus_folder, written_texts

pytestmark = pytest.mark.reference

FAMILIES = ("pegasus", "blenderbot-small")
SPECIAL = {
    "pegasus": [
        "<pad>",
        "</s>",
        "<unk>",
        "<mask_1>",
        "<mask_2>",
        "<unk_2>",
        "<unk_10>",
        "<unk_102>",
        "<unk_103>",
        "<n>",
    ],
    "blenderbot-small": ["__null__", "__start__", "__end__", "__unk__", "__newln__", "__START__", "@@", "@@ ", "</w>"],
}
ODD = [
    "", " ", "  ", "\n", "\t", "a", ".", "'", "'\n", "a\n\nb", "\n\na\r\nb\r", "a  b   c ", " lead", "trail  ",
    "!!!!! ------ ...... ??", "a.b,c!d?e(f)g'h", "x ' y", "don't can't I'm '' ' '", "▁a ▁ b▁", "▁", "a▁", "</w>a@@ b",
    "café cafe\u0301 a\u0300\u0301 \u0301", "¨ ´ ½ ① ﬁ ㍿ Å Ω K", "\u200b\u200ba\u200d \ufeff",
    "\x00\x01a\x7f\x1c\x1d b\x85c",
    "İstanbul ΑΣ ΣΑΣ ß ŉ ǆ", "日本語のテキスト。 中文 한국어 각", "👍👍🏽 👩‍👩‍👧 🇩🇪 ❤️", "e\u0301" * 20,
    "ﾊﾞ ﾊﾟ ｶﾞ", "اللغة العربية",
    "\u00a0a\u2003b\u3000c\u2028d", "a" * 300, "ab" * 80, "-" * 300, "= " * 100, "\ufffd\ufffe", "𝒳𝓎 𝟙𝟚",
]  # fmt: skip


@pytest.fixture(scope="session")
def families() -> dict[str, tuple[Any, Any]]:
    """Our tokenizer and the reference's slow one, on vocabularies of the same files."""
    import transformers

    transformers.logging.set_verbosity_error()
    pegasus, blenderbot = pegasus_folder(), blenderbot_folder()
    return {
        "pegasus": (
            PegasusTokenizer.from_pretrained(pegasus), transformers.PegasusTokenizer.from_pretrained(pegasus)
        ),
        "blenderbot-small": (
            BlenderbotSmallTokenizer.from_pretrained(blenderbot),
            transformers.BlenderbotSmallTokenizer.from_pretrained(blenderbot),
        ),
    }  # fmt: skip


def assert_same(ours: Any, reference: Any, text: str) -> None:
    """All there is to compare for one text."""
    got, want = ours(text), reference(text)
    assert dict(got) == dict(want), text
    ids = got["input_ids"]
    assert ours.tokenize(text) == reference.tokenize(text), text
    assert got.tokens()[: len(ids)] == reference.convert_ids_to_tokens(ids) or ours.unk_token_id in ids
    traced = [token.id for row in got.encodings for token in row.sources if token]
    assert traced == ours.encode(text, add_special_tokens=False), text
    for skip in (False, True):
        for clean in (False, True):
            options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
            assert ours.decode(ids, **options) == reference.decode(ids, **options), text
    options = {"spaces_between_special_tokens": False}
    assert ours.decode(ids, **options) == reference.decode(ids, **options), text


def texts_of(family: str) -> st.SearchStrategy[str]:
    """Texts put together from words, special tokens, odd strings, white space and any Unicode at all."""
    characters = st.characters(exclude_categories=["Cs"])
    marks = st.text(st.characters(categories=["Mn", "Mc", "Me", "Lm", "Sk", "Cf", "Cc", "Zs"]), max_size=4)
    letters = st.text(st.characters(categories=["Ll", "Lu", "Lo", "Nd", "No", "Po", "So"]), max_size=6)
    emoji = st.sampled_from(["👍", "🏽", "👩‍👩‍👧", "🇩🇪", "❤️", "😭", "1️⃣", "\u200d", "\ufe0f"])
    latin = st.text(string.ascii_letters + string.digits + "éèñüßİıΣςσ.,!?()'\"-_@#<>/", max_size=12)
    words = st.sampled_from(sorted({word for text in written_texts() for word in text.split()}))
    gaps = [" ", " ", " ", "  ", "     ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", ""]
    space = st.sampled_from(gaps)
    piece = st.one_of(
        words, latin, letters, marks, emoji, space, st.text(characters, max_size=8), st.sampled_from(SPECIAL[family]),
        st.sampled_from(ODD),
    )  # fmt: skip
    return st.one_of(st.lists(piece, max_size=12).map("".join), st.lists(st.tuples(piece, space), max_size=12).map(
        lambda parts: "".join(word + gap for word, gap in parts)))  # fmt: skip


def compare_generated(ours: Any, reference: Any, family: str, count: int) -> int:
    """How many generated texts were compared."""
    seen = 0

    @settings(
        max_examples=count, deadline=None, database=None, derandomize=True, phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(texts_of(family))
    def compare(text: str) -> None:
        nonlocal seen
        seen += 1
        assert_same(ours, reference, text)

    compare()
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_written_and_odd_texts(families: dict[str, tuple[Any, Any]], family: str) -> None:
    special = SPECIAL[family]
    patterns = ("{}", "a{}b", " a {} b ", "{0}{0}", "a \n{}\n b")
    around = [pattern.format(token) for token in special for pattern in patterns]
    for text in [*written_texts(), *ODD, *around, " ".join(special), "".join(special)]:
        assert_same(*families[family], text)


@pytest.mark.parametrize("family", FAMILIES)
def test_paragraphs(families: dict[str, tuple[Any, Any]], family: str) -> None:
    for text in english_paragraphs(6000)[::25]:
        assert_same(*families[family], text)


@pytest.mark.parametrize("family", FAMILIES)
def test_generated_texts(families: dict[str, tuple[Any, Any]], family: str) -> None:
    assert compare_generated(*families[family], family, 200) >= 200


@pytest.mark.parametrize("family", FAMILIES)
def test_one_long_text(families: dict[str, tuple[Any, Any]], family: str) -> None:
    """Here the reference's float32 sums grow so large that their rounding chooses between segmentations."""
    text = " ".join(english_paragraphs(6000)[::6])
    assert len(text) > 100_000
    ours, reference = families[family]
    assert ours(text)["input_ids"] == reference(text)["input_ids"]


def test_runs_of_dashes(families: dict[str, tuple[Any, Any]]) -> None:
    """Segmentations of equal probability: the rounding of what stands before chooses, a symbol's bonus included."""
    for before in ("", "a", "<n>", "It<n><n>", "It <n> "):
        for length in range(20, 200, 9):
            assert_same(*families["pegasus"], before + "-" * length)


@pytest.mark.heavy
@pytest.mark.parametrize("family", FAMILIES)
def test_ten_thousand_texts(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    folder = pegasus_folder(16_000, 9000) if family == "pegasus" else blenderbot_folder(16_000, 9000)
    name = "PegasusTokenizer" if family == "pegasus" else "BlenderbotSmallTokenizer"
    own = PegasusTokenizer if family == "pegasus" else BlenderbotSmallTokenizer
    ours, reference = own.from_pretrained(folder), getattr(transformers, name).from_pretrained(folder)
    paragraphs = english_paragraphs(9000)
    for text in paragraphs:
        assert_same(ours, reference, text)
    generated = compare_generated(ours, reference, family, 5000)
    with capsys.disabled():
        print(f"\n{family}: vocabulary of {ours.vocab_size}, equal on {len(paragraphs)} paragraphs and {generated} "
              f"generated texts ({len(paragraphs) + generated} in all)")  # fmt: skip
    assert len(paragraphs) + generated >= 10_000


def test_fast_names_give_the_same_ids(families: dict[str, tuple[Any, Any]]) -> None:
    for family, cls, folder in (
        ("pegasus", PegasusTokenizerFast, pegasus_folder()),
        ("blenderbot-small", BlenderbotSmallTokenizerFast, blenderbot_folder()),
    ):
        fast = cls.from_pretrained(folder)
        for text in [*written_texts(), *ODD]:
            assert dict(fast(text)) == dict(families[family][0](text))


def test_rules_of_the_published_blenderbot_vectors(tmp_path: Path) -> None:
    """The split into tokens, with a vocabulary made of the vectors' own tokens and ids."""
    vectors = json.loads((DATA / "blenderbot_small-90M.tokenization.json").read_text(encoding="utf-8"))
    special = {"__null__", "__start__", "__end__", "__unk__"}
    ids = {"__null__": 0, "__start__": 1, "__end__": 2, "__unk__": 3, "__newln__": 4}
    merges: dict[str, None] = {}
    for vector in vectors:
        for token, index in zip(vector["python_tokens"], vector["ids"], strict=True):
            if index != 3:
                assert ids.setdefault(token, index) == index
            if token in special:
                continue
            symbols = list(token.removesuffix("@@"))
            if not token.endswith("@@"):
                symbols[-1] += "</w>"
            while len(symbols) > 1:
                merges[f"{symbols[0]} {symbols[1]}"] = None
                symbols[:2] = [symbols[0] + symbols[1]]
    (tmp_path / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    tokenizer = BlenderbotSmallTokenizer.from_pretrained(tmp_path)
    import transformers

    reference = transformers.BlenderbotSmallTokenizer.from_pretrained(tmp_path)
    for vector in vectors:
        assert tokenizer(vector["text"])["input_ids"] == reference(vector["text"])["input_ids"], vector["name"]
        decoded = tokenizer.decode(vector["ids"], clean_up_tokenization_spaces=True)
        assert decoded == vector["decoded"], vector["name"]


def test_long_words_merge_as_short_ones_do() -> None:
    """Two ways to the same merges, also with merges in an order that no training gives, and with some twice."""
    choose = random.Random(0)
    for _ in range(1000):
        pool = ["a", "b", "c"]
        merges = []
        for _ in range(choose.randrange(1, 12)):
            merges.append((choose.choice(pool), choose.choice([*pool, *(f"{letter}</w>" for letter in "abc")])))
            pool.append("".join(merges[-1]).replace("</w>", ""))
        choose.shuffle(merges)
        pairs = BytePairs(merges)
        symbols = [*choose.choices("abc", k=choose.randrange(1, 40)), choose.choice("abc") + "</w>"]
        assert pairs._merge_long(symbols) == pairs._merge_short(symbols), (merges, symbols)


def test_a_long_text_without_a_space(families: dict[str, tuple[Any, Any]]) -> None:
    text = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=100_000))
    text += " " + " ".join(choose * size for choose in "-=*.a" for size in range(5, 60))
    for ours, _ in families.values():
        assert len(ours.tokenize(text)) > 10_000
    ours, reference = families["pegasus"]
    assert ours(text)["input_ids"] == reference(text)["input_ids"]
