"""Tokenizers from and to their files: every file possibly absent, damaged, or written by somebody else."""

from __future__ import annotations

import copy
import json
import pickle
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from seq2seq_models.bundled import demo_checkpoint
from seq2seq_models.core.blenderbot_small import BlenderbotSmallTokenizer, BlenderbotSmallTokenizerFast
from seq2seq_models.core.pegasus import PegasusTokenizer, PegasusTokenizerFast
from seq2seq_models.core.tokenizing.spiece import PieceType, read_spiece_model, serialize, write_spiece_model
from seq2seq_models.core.tokenizing.tokenizer_class import tokenizer_class_for
from seq2seq_models.errors import CheckpointNotFoundError, TokenizerError

from .stand_in_hub import StandInHub
from .tokenizer_vocabularies import DATA, blenderbot_folder, english_paragraphs, pegasus_folder, written_texts

reference = pytest.mark.reference
FAMILIES = ("pegasus", "blenderbot-small")
TEXTS = [*written_texts()[:8], "a newtok<x>b  <sp> c Newtok", " <x>", "<sp><sp> newtok", "", "do.n't\nstop"]


def folder_of(family: str) -> Path:
    return pegasus_folder() if family == "pegasus" else blenderbot_folder()


def class_of(family: str, fast: bool = False) -> Any:
    if family == "pegasus":
        return PegasusTokenizerFast if fast else PegasusTokenizer
    return BlenderbotSmallTokenizerFast if fast else BlenderbotSmallTokenizer


def reference_of(family: str) -> Any:
    import transformers

    transformers.logging.set_verbosity(60)
    return transformers.PegasusTokenizer if family == "pegasus" else transformers.BlenderbotSmallTokenizer


def assert_same(one: Any, other: Any, texts: list[str] = TEXTS) -> None:
    for text in texts:
        ids = one(text)["input_ids"]
        assert ids == other(text)["input_ids"], text
        for skip in (False, True):
            assert one.decode(ids, skip_special_tokens=skip) == other.decode(ids, skip_special_tokens=skip), text


def assert_same_state(one: Any, other: Any) -> None:
    assert len(one) == len(other)
    assert one.vocab_size == other.vocab_size
    assert one.get_vocab() == other.get_vocab()
    assert one.special_tokens_map == other.special_tokens_map
    assert one.all_special_tokens == other.all_special_tokens
    assert one.all_special_ids == other.all_special_ids
    assert one.added_tokens_encoder == other.added_tokens_encoder
    assert one.added_tokens_decoder == other.added_tokens_decoder
    assert one.get_added_vocab() == other.get_added_vocab()


def grow(tokenizer: Any, known: str = "the") -> list[int]:
    """Adds tokens of every kind, `known` being one of the vocabulary; how many each call says are new."""
    counts = [
        tokenizer.add_tokens(["newtok", known, "newtok", "Größe"]),
        tokenizer.add_tokens(AddedToken("<x>", lstrip=True, rstrip=True)),
        tokenizer.add_tokens([AddedToken("alonely", single_word=True), AddedToken("<n2>", normalized=False)]),
        tokenizer.add_tokens("<special>", special_tokens=True),
        tokenizer.add_special_tokens({"cls_token": "<cls>"}),
        tokenizer.add_special_tokens({"additional_special_tokens": ["<sp>"]}, replace_additional_special_tokens=False),
    ]
    tokenizer.sep_token = "<cls>"
    return counts


GROWN = [
    *TEXTS,
    "the newtokthe <x> a  <x>  b",
    "alonely alonelyalonely xalonely alonely.",
    "<n2><N2> größe Größe",
    "<special> a <cls>b",
]


@reference
@pytest.mark.parametrize("family", FAMILIES)
def test_added_tokens(family: str) -> None:
    ours, theirs = (
        class_of(family).from_pretrained(folder_of(family)),
        reference_of(family).from_pretrained(folder_of(family)),
    )
    assert grow(ours) == grow(theirs)
    assert_same_state(ours, theirs)
    assert_same(ours, theirs, GROWN)
    for name in ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "mask_token", "sep_token"):
        if theirs.special_tokens_map.get(name) is not None:
            assert getattr(ours, name) == getattr(theirs, name)
            assert getattr(ours, f"{name}_id") == getattr(theirs, f"{name}_id")
    assert ours.additional_special_tokens_ids == theirs.additional_special_tokens_ids
    for tokenizer in (ours, theirs):
        tokenizer.add_special_tokens({"additional_special_tokens": ["<only>"]})
    assert ours.additional_special_tokens == theirs.additional_special_tokens == ["<only>"]
    assert_same(ours, theirs, [*GROWN, "<only> <sp>"])
    assert ours.get_special_tokens_mask(ours.encode("a<only>"), already_has_special_tokens=True) == (
        theirs.get_special_tokens_mask(theirs.encode("a<only>"), already_has_special_tokens=True)
    )


@reference
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_read_again(family: str, fast: bool, tmp_path: Path) -> None:
    """By this library and by the reference, with all files and with tokenizer.json alone."""
    source = blenderbot_folder(cut=False) if family == "blenderbot-small" else folder_of(family)
    cls = class_of(family, fast)
    ours = cls.from_pretrained(source, model_max_length=77, padding_side="left")
    grow(ours, known="the" if family == "pegasus" else "newtok")
    written = ours.save_pretrained(tmp_path / "saved")
    vocabulary = ["spiece.model"] if family == "pegasus" else ["merges.txt", "vocab.json"]
    assert sorted(Path(path).name for path in written) == sorted(
        ["added_tokens.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", *vocabulary]
    )
    for name in vocabulary[:1]:
        assert (tmp_path / "saved" / name).read_bytes() == (source / name).read_bytes()
    again = cls.from_pretrained(tmp_path / "saved")
    theirs = reference_of(family).from_pretrained(tmp_path / "saved")
    for other in (again, theirs):
        assert_same_state(ours, other)
        assert_same(ours, other, GROWN)
        assert (other.model_max_length, other.padding_side) == (77, "left")
    assert repr(again).startswith(f"{cls.__name__}(name_or_path=")
    again.save_pretrained(tmp_path / "twice")
    for path in sorted((tmp_path / "saved").iterdir()):
        if path.name == "special_tokens_map.json":
            continue  # tokens given as text have become AddedTokens by then, and are written as such
        assert (tmp_path / "twice" / path.name).read_bytes() == path.read_bytes(), path.name
    for name in vocabulary:
        (tmp_path / "saved" / name).unlink()
    alone = cls.from_pretrained(tmp_path / "saved")
    assert_same_state(ours, alone)
    assert_same(ours, alone, GROWN)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokenizer_json_as_the_tokenizers_library_reads_it(family: str, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    source = blenderbot_folder(cut=False) if family == "blenderbot-small" else folder_of(family)
    ours = class_of(family).from_pretrained(source)
    ours.save_pretrained(tmp_path)
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    paragraphs = english_paragraphs(6000)[::10]
    same = sum(library.encode(text).ids == ours(text)["input_ids"] for text in paragraphs)
    assert same >= 0.99 * len(paragraphs)
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "tokenizer.json", tmp_path / "alone" / "tokenizer.json")
    assert_same(ours, class_of(family).from_pretrained(tmp_path / "alone"))
    assert ours.backend_tokenizer.get_vocab_size() == library.get_vocab_size()


def test_vocabulary_that_tokenizer_json_cannot_hold(tmp_path: Path) -> None:
    cut = BlenderbotSmallTokenizer.from_pretrained(blenderbot_folder(cut=True))
    written = {Path(path).name for path in cut.save_pretrained(tmp_path)}
    assert written == {"special_tokens_map.json", "tokenizer_config.json", "vocab.json", "merges.txt"}
    with pytest.raises(TokenizerError, match="merges lead to tokens that it lacks"):
        _ = cut.backend_tokenizer


@reference
@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_reference_saves(family: str, tmp_path: Path) -> None:
    theirs = reference_of(family).from_pretrained(folder_of(family), model_max_length=33)
    grow(theirs)
    theirs.save_pretrained(tmp_path)
    ours = class_of(family).from_pretrained(tmp_path)
    assert_same_state(ours, theirs)
    assert_same(ours, theirs, GROWN)
    assert ours.model_max_length == 33
    if family == "pegasus":
        import transformers

        fast = transformers.PegasusTokenizerFast.from_pretrained(folder_of(family))
        fast.save_pretrained(tmp_path / "fast")
        (tmp_path / "fast" / "spiece.model").unlink()
        assert_same(
            PegasusTokenizerFast.from_pretrained(tmp_path / "fast"), PegasusTokenizer.from_pretrained(pegasus_folder())
        )


@reference
@pytest.mark.parametrize("family", FAMILIES)
def test_older_files(family: str, tmp_path: Path) -> None:
    """special_tokens_map.json and added_tokens.json of the years before tokenizer_config.json held it all."""
    shutil.copytree(folder_of(family), tmp_path / "old")
    size = class_of(family).from_pretrained(folder_of(family)).vocab_size
    end = {"content": "<end>", "lstrip": True, "normalized": True, "rstrip": False, "single_word": False}
    special = {"eos_token": end, "additional_special_tokens": ["<one>", "<two>"]}
    (tmp_path / "old" / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    added = {"<end>": size, "newtok": size + 1}
    (tmp_path / "old" / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    if family == "pegasus":  # the reference cannot put another token in the place of </s> here
        special.pop("eos_token")
        (tmp_path / "old" / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    ours, theirs = (
        class_of(family).from_pretrained(tmp_path / "old"),
        reference_of(family).from_pretrained(tmp_path / "old"),
    )
    assert_same_state(ours, theirs)
    assert_same(ours, theirs, [*TEXTS, "a  <end> b", "<one> <two>c"])


@pytest.mark.parametrize("name", ["facebook/blenderbot-90M", "facebook/blenderbot_small-90M", "google/pegasus-large"])
def test_repositories_of_the_hub(name: str, hub: StandInHub, tmp_path: Path) -> None:
    """The files that each repository has and lacks, from a stand-in hub."""
    family = "pegasus" if "pegasus" in name else "blenderbot-small"
    folder = tmp_path / "repository"
    shutil.copytree(folder_of(family), folder)
    shutil.copytree(DATA / "tokenizers" / name.replace("/", "__"), folder, dirs_exist_ok=True)
    assert (folder / "tokenizer_config.json").exists() == (name != "facebook/blenderbot-90M")
    hub.add(name, folder)
    assert tokenizer_class_for(name, use_fast=False) is class_of(family)
    assert tokenizer_class_for(name) is class_of(family, fast=True)
    tokenizer = class_of(family).from_pretrained(name)
    assert tokenizer.model_max_length == (1024 if family == "pegasus" else 512)
    assert tokenizer.name_or_path == name
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == ((0, 1) if family == "pegasus" else (0, 2))
    assert_same(tokenizer, class_of(family).from_pretrained(folder_of(family)))


def test_class_by_what_there_is(tmp_path: Path) -> None:
    for family in FAMILIES:
        assert tokenizer_class_for(folder_of(family), use_fast=False) is class_of(family)
        class_of(family).from_pretrained(
            blenderbot_folder(cut=False) if family == "blenderbot-small" else folder_of(family)
        ).save_pretrained(tmp_path / family)
        assert tokenizer_class_for(tmp_path / family) is class_of(family, fast=True)
        (tmp_path / family / "tokenizer_config.json").unlink()
        (tmp_path / family / "config.json").write_text(json.dumps({"model_type": family}), encoding="utf-8")
        assert tokenizer_class_for(tmp_path / family) is class_of(family, fast=True)
        (tmp_path / f"{family}-json").mkdir()
        shutil.copy(tmp_path / family / "tokenizer.json", tmp_path / f"{family}-json" / "tokenizer.json")
        assert tokenizer_class_for(tmp_path / f"{family}-json") is class_of(family, fast=True)
    (tmp_path / "config.json").write_text('{"model_type": "bart"}', encoding="utf-8")
    with pytest.raises(TokenizerError, match="got model_type 'bart'"):
        tokenizer_class_for(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BartTokenizerFast"}', encoding="utf-8")
    with pytest.raises(TokenizerError, match="got tokenizer_class 'BartTokenizerFast'"):
        tokenizer_class_for(tmp_path)


def test_missing_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"has no spiece\.model or tokenizer\.json"):
        PegasusTokenizer.from_pretrained(tmp_path)
    shutil.copy(blenderbot_folder() / "vocab.json", tmp_path / "vocab.json")
    with pytest.raises(CheckpointNotFoundError, match=r"has no .*merges\.txt"):
        BlenderbotSmallTokenizer.from_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match="`vocab_file` must be the path of a spiece.model, got None"):
        PegasusTokenizer()
    with pytest.raises(TokenizerError, match="`vocab_file` and `merges_file` must be"):
        BlenderbotSmallTokenizer()


@pytest.mark.parametrize("family", FAMILIES)
def test_damaged_files(family: str, tmp_path: Path) -> None:
    """Each names the file, whatever is in it."""
    texts = {
        "tokenizer_config.json": [
            '{"a": ',
            "[1]",
            '{"added_tokens_decoder": {"x": {}}}',
            '{"added_tokens_decoder": [1]}',
        ],
        "special_tokens_map.json": ["nope", "[]"],
        "added_tokens.json": ['{"a": "b"}', "\udcff"],
        "vocab.json": ["{", "{}", '{"a": "b"}', '{"a": -1}', '{"a": true}'] if family == "blenderbot-small" else [],
        "merges.txt": ["\udcff", "version https://git-lfs.github.com/spec/v1"] if family == "blenderbot-small" else [],
    }
    for name, contents in texts.items():
        for content in contents:
            folder = tmp_path / "damaged"
            shutil.copytree(folder_of(family), folder)
            (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
            with pytest.raises(
                TokenizerError, match=re.escape(name) if "decoder" not in content else "added_tokens_decoder"
            ):
                class_of(family).from_pretrained(folder)
            shutil.rmtree(folder)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordPiece"}}', encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json must hold a .* vocabulary"):
        class_of(family).from_pretrained(tmp_path)


def test_damaged_tokenizer_json(tmp_path: Path) -> None:
    PegasusTokenizer.from_pretrained(pegasus_folder()).save_pretrained(tmp_path / "good")
    good = json.loads((tmp_path / "good" / "tokenizer.json").read_text(encoding="utf-8"))
    path = tmp_path / "tokenizer.json"

    def broken(**model: Any) -> dict[str, Any]:
        return {**good, "model": {**good["model"], **model}}

    for data, words in (
        (broken(vocab=5), "must be a saved tokenizer"),
        (broken(vocab=[["a"]]), "must be a saved tokenizer"),
        (broken(unk_id=None), "must be a saved tokenizer"),
        (broken(unk_id=0), "`offset` must fit"),
        (broken(vocab=[*good["model"]["vocab"][:106], ["x", 0.0], ["x", 0.0]]), "pieces occur twice: 'x'"),
        ({**good, "normalizer": {"type": "Lowercase"}}, "got steps that Pegasus lacks: \\['Lowercase'\\]"),
        ({**good, "normalizer": {"type": "Precompiled", "precompiled_charsmap": "%"}}, "saved tokenizer|charsmap"),
        ({**good, "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "charsmap"),
    ):
        path.write_text(json.dumps(data), encoding="utf-8")
        with pytest.raises(TokenizerError, match=words):
            PegasusTokenizer.from_pretrained(tmp_path)


def test_damaged_spiece_model(tmp_path: Path) -> None:
    """Cut off anywhere or changed at random: an error that names the file, or a vocabulary, never a crash or a hang."""
    good = (pegasus_folder() / "spiece.model").read_bytes()
    path = tmp_path / "spiece.model"
    choose = random.Random(1)
    cuts = [good[:size] for size in (0, 1, 2, 3, 10, 1000, len(good) // 2, len(good) - 1)]
    noise = [bytes(choose.randrange(256) for _ in range(choose.randrange(1, 300))) for _ in range(200)]
    changed = []
    small = serialize(write_spiece_model(tmp_path / "small", _small_pieces()))
    for _ in range(400):
        data = bytearray(small)
        for _ in range(choose.randrange(1, 4)):
            data[choose.randrange(len(data))] = choose.randrange(256)
        changed.append(bytes(data))
    raised = 0
    for data in [*cuts, *noise, *changed, b"version https://git-lfs.github.com/spec/v1\noid x"]:
        path.write_bytes(data)
        try:
            PegasusTokenizer(path)("Hello there")
        except TokenizerError as error:
            raised += 1
            assert str(path) in str(error) or "charsmap" in str(error)
    assert raised > 300
    for data in (*cuts[:6], b"version https://git-lfs.github.com/spec/v1"):
        path.write_bytes(data)
        with pytest.raises(TokenizerError, match=re.escape(str(path))):
            read_spiece_model(path)


def _small_pieces() -> list[tuple[str, float, int]]:
    pieces = [("<pad>", 0.0, PieceType.CONTROL), ("</s>", 0.0, PieceType.CONTROL), ("<unk>", 0.0, PieceType.UNKNOWN)]
    words = ["▁", "▁hello", "lo", "l", "o", "he", "h", "e", "▁there", "re", "t", "r", "ab", "a", "b", "aba"]
    normal = [(word, -2.0 - 0.37 * place, PieceType.NORMAL) for place, word in enumerate(words)]
    return [*pieces, ("<n>", 0.0, PieceType.USER_DEFINED), *normal, ("gone", -9.0, PieceType.UNUSED)]


WRITTEN = [
    "hello there",
    "  hello   there ",
    "hellothere<n>aba",
    "xyz hello",
    "gone ababab",
    "",
    "é <n> <n>",
    "the  </s> x",
    "▁a",
]


@reference
@pytest.mark.parametrize("options", [
    {}, {"charsmap": True}, {"add_dummy_prefix": False}, {"remove_extra_whitespaces": False},
    {"add_dummy_prefix": False, "remove_extra_whitespaces": False}, {"byte_fallback": True, "charsmap": True},
])  # fmt: skip
def test_written_spiece_model(options: dict[str, Any], tmp_path: Path) -> None:
    """What we write, the sentencepiece package loads: equal ids in the reference's slow class."""
    options = dict(options)
    pieces = _small_pieces()
    if options.get("byte_fallback"):
        pieces += [(f"<0x{byte:02X}>", 0.0, PieceType.BYTE) for byte in range(256)]
    if options.pop("charsmap", False):
        options["charsmap"] = read_spiece_model(pegasus_folder() / "spiece.model").charsmap
    model = write_spiece_model(tmp_path / "spiece.model", pieces, **options)
    assert read_spiece_model(tmp_path / "spiece.model") == model
    ours, theirs = PegasusTokenizer.from_pretrained(tmp_path), reference_of("pegasus").from_pretrained(tmp_path)
    assert_same_state(ours, theirs)
    assert_same(ours, theirs, [*WRITTEN, *written_texts()[:4]])
    for text in WRITTEN:
        assert ours.tokenize(text) == theirs.tokenize(text)


def test_vocabularies_that_cannot_be_written(tmp_path: Path) -> None:
    pieces = _small_pieces()
    for wrong, words in (
        ([], "it holds no pieces"),
        (pieces[:2], "it must have one unknown piece and has 0"),
        ([*pieces, pieces[5]], "pieces occur twice: '▁hello'"),
        ([*pieces, ("", 0.0, 1)], "is empty"),
        ([*pieces, ("x", float("nan"), 1)], "not a finite number"),
    ):
        with pytest.raises(TokenizerError, match=words):
            write_spiece_model(tmp_path / "spiece.model", wrong)
    assert not (tmp_path / "spiece.model").exists()


@reference
@pytest.mark.parametrize("offset", [0, 103, 20])
def test_pegasus_options(offset: int) -> None:
    path = str(pegasus_folder() / "spiece.model")
    for options in (
        {}, {"mask_token_sent": None}, {"additional_special_tokens": ["<a>", "<b>"]}, {"mask_token": "[MASK]"},
        {"additional_special_tokens": ["<mask_1>", *(f"<unk_{n}>" for n in range(2, 103))]}, {"pad_token": "<PAD>"},
    ):  # fmt: skip
        if offset == 0 and "mask_token_sent" not in options:
            continue
        ours, theirs = (
            PegasusTokenizer(path, offset=offset, **options),
            reference_of("pegasus")(path, offset=offset, **options),
        )
        assert_same_state(ours, theirs)
        assert_same(ours, theirs, [*TEXTS, "<unk_2> <unk_50>x<mask_1>", "[MASK] a <mask_2>"])


def test_wrong_pegasus_options() -> None:
    path = pegasus_folder() / "spiece.model"
    with pytest.raises(TypeError, match="`additional_special_tokens` must be a list, got str"):
        PegasusTokenizer(path, additional_special_tokens="<a>")
    with pytest.raises(ValueError, match="<unk_3>, <unk_4> again"):
        PegasusTokenizer(path, additional_special_tokens=["<unk_3>", "<unk_4>"])
    with pytest.raises(TypeError, match="`pad_token` must be a str or an AddedToken, got int"):
        BlenderbotSmallTokenizer(blenderbot_folder() / "vocab.json", blenderbot_folder() / "merges.txt", pad_token=5)
    with pytest.raises(TokenizerError, match="`padding_side` must be 'right' or 'left', got 'up'"):
        PegasusTokenizer(path, padding_side="up")
    with pytest.raises(AttributeError, match=r"got \['decode'\]"):
        PegasusTokenizer(path, decode=1)
    with pytest.raises(TokenizerError, match="must not enable sampling"):
        PegasusTokenizer(path, sp_model_kwargs={"enable_sampling": True})


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_copies(family: str, fast: bool) -> None:
    tokenizer = class_of(family, fast).from_pretrained(folder_of(family))
    grow(tokenizer)
    for same in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer), copy.copy(tokenizer)):
        assert_same_state(tokenizer, same)
        assert_same(tokenizer, same, GROWN)
        assert repr(same) == repr(tokenizer)
    grown = copy.deepcopy(tokenizer)
    grown.add_tokens("only-here")
    assert "only-here" not in tokenizer.get_vocab()
    assert tokenizer("only-here")["input_ids"] != grown("only-here")["input_ids"]


@reference
@pytest.mark.parametrize("family", FAMILIES)
def test_chat_template(family: str) -> None:
    template = (
        "{% for message in messages %}{{ bos_token or '' }} {{ message['content'] | trim }} "
        "{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}reply:{% endif %}"
    )
    chat = [{"role": "user", "content": "Hi there."}, {"role": "assistant", "content": " Hello! "}]
    ours = class_of(family).from_pretrained(folder_of(family), chat_template=template)
    theirs = reference_of(family).from_pretrained(folder_of(family), chat_template=template)
    for options in (
        {"tokenize": False}, {"tokenize": False, "add_generation_prompt": True}, {},
        {"padding": "max_length", "max_length": 30},
        {"tokenize": False, "continue_final_message": True}, {"max_length": 5, "truncation": True},
    ):  # fmt: skip
        assert ours.apply_chat_template(chat, **options) == theirs.apply_chat_template(chat, **options), options
        assert ours.apply_chat_template([chat, chat[:1]], **options) == theirs.apply_chat_template(
            [chat, chat[:1]], **options
        )
    full = ours.apply_chat_template(chat, return_dict=True)
    assert dict(full) == dict(theirs.apply_chat_template(chat, return_dict=True))
    plain = class_of(family).from_pretrained(folder_of(family))
    with pytest.raises(TokenizerError, match="this tokenizer comes without one"):
        plain.apply_chat_template(chat)


def test_chat_template_without_jinja(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from seq2seq_models.errors import MissingFrameworkError

    monkeypatch.setitem(sys.modules, "jinja2.exceptions", None)
    tokenizer = PegasusTokenizer.from_pretrained(pegasus_folder())
    with pytest.raises(MissingFrameworkError, match="needs jinja2, which is not installed"):
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], chat_template="{{ messages }}")


def test_saving_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = PegasusTokenizer.from_pretrained(pegasus_folder())

    def fail(*arguments: Any) -> Any:
        raise OSError("disk full")

    monkeypatch.setattr(tokenizer, "save_vocabulary", fail)
    with pytest.raises(OSError, match="disk full"):
        tokenizer.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_prefix_and_formats(tmp_path: Path) -> None:
    tokenizer = PegasusTokenizer.from_pretrained(pegasus_folder())
    names = {Path(path).name for path in tokenizer.save_pretrained(tmp_path / "a", filename_prefix="x")}
    assert names == {"x-special_tokens_map.json", "x-tokenizer_config.json", "x-spiece.model", "x-tokenizer.json"}
    legacy = {Path(path).name for path in tokenizer.save_pretrained(tmp_path / "b", legacy_format=True)}
    assert legacy == {"special_tokens_map.json", "tokenizer_config.json", "spiece.model"}
    modern = {Path(path).name for path in tokenizer.save_pretrained(tmp_path / "c", legacy_format=False)}
    assert modern == {"special_tokens_map.json", "tokenizer_config.json", "tokenizer.json"}
    with pytest.raises(TokenizerError, match="`save_directory` must be a folder"):
        tokenizer.save_vocabulary(str(tmp_path / "nowhere"))


def test_nothing_but_the_tokenizers_library_is_imported() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from seq2seq_models.core.pegasus import PegasusTokenizer as P; "
        "from seq2seq_models.core.blenderbot_small import BlenderbotSmallTokenizer as B; "
        f"P.from_pretrained({str(pegasus_folder())!r})('a b'); B.from_pretrained({str(blenderbot_folder())!r})('a b'); "
        "print([m for m in ('torch', 'tensorflow', 'jax', 'sentencepiece', 'google.protobuf', 'transformers', "
        "'jinja2') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


SETTABLE = {
    "chat_template": "{{ messages[0]['content'] }}",
    "padding_side": "left",
    "truncation_side": "left",
    "model_max_length": 17,
    "model_input_names": ["input_ids"],
    "clean_up_tokenization_spaces": True,
    "split_special_tokens": True,
    "pad_token": "<fill>",
    "eos_token": "<over>",
    "unk_token": "<what>",
    "sep_token": "<sep>",
    "cls_token": "<cls>",
    "mask_token": "<hole>",
    "bos_token": "<go>",
    "additional_special_tokens": ["<speaker>", "<other>"],
}


@pytest.mark.parametrize("name", SETTABLE)
@pytest.mark.parametrize("demo", ["pegasus-demo", "blenderbot-small-demo"])
def test_what_is_set_on_a_tokenizer_survives(demo: str, name: str, tmp_path: Path) -> None:
    kind = {"pegasus-demo": PegasusTokenizer, "blenderbot-small-demo": BlenderbotSmallTokenizer}[demo]
    tokenizer = kind.from_pretrained(demo_checkpoint(demo))
    setattr(tokenizer, name, SETTABLE[name])
    assert getattr(tokenizer, name) == SETTABLE[name]
    for _ in range(2):
        tokenizer.save_pretrained(tmp_path)
        tokenizer = kind.from_pretrained(tmp_path)
        found = getattr(tokenizer, name)
        if name == "additional_special_tokens":
            found = [token for token in found if "unk" not in token and "mask" not in token]  # Pegasus fills them up
        assert found == SETTABLE[name]


@pytest.mark.parametrize("given", ["{{ 1 }}", {"default": "{{ 1 }}", "rag": "{{ 2 }}"}])
@pytest.mark.parametrize("demo", ["pegasus-demo", "blenderbot-small-demo"])
def test_chat_templates_survive(demo: str, given: Any, tmp_path: Path) -> None:
    kind = {"pegasus-demo": PegasusTokenizer, "blenderbot-small-demo": BlenderbotSmallTokenizer}[demo]
    tokenizer = kind.from_pretrained(demo_checkpoint(demo))
    (tmp_path / "chat_template.jinja").write_text("{{ 'an older one' }}", encoding="utf-8")
    tokenizer.chat_template = given
    tokenizer.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    assert again.chat_template == given
    talk = [{"role": "user", "content": "x"}]
    assert again.apply_chat_template(talk, tokenize=False) == "1"
    if isinstance(given, dict):
        assert again.apply_chat_template(talk, tokenize=False, chat_template="rag") == "2"
    theirs = getattr(pytest.importorskip("transformers"), kind.__name__).from_pretrained(tmp_path)
    assert theirs.apply_chat_template(talk, tokenize=False) == "1"
