"""BlenderbotSmall's vocabulary in a tokenizer.json of the `tokenizers` library, and back.

"x@@" is written "x" and "x" is written "x</w>"; then it is a plain BPE with an end-of-word suffix, and the text rules
are a chain of that library's own steps. That library wants every product of a merge to be a token. A vocabulary for
which this does not hold (the published one was cut by frequency) is not written.
"""

from __future__ import annotations

from typing import Any

from .bpe import END, GOES_ON, NEW_LINE

Merges = list[tuple[str, ...]]


def bpe_to_json(vocab: dict[str, int], merges: Merges, added: list[dict[str, Any]], unk: str) -> dict[str, Any] | None:
    """The content of tokenizer.json; None if it cannot say this vocabulary.

    Args:
        vocab: token to id.
        merges: the pairs in order.
        added: the added tokens as tokenizer.json has them.
        unk: the unknown token.
    """
    verbatim = {token["content"] for token in added}
    names = {token: _renamed(token, verbatim) for token in vocab}
    renamed = {names[token]: index for token, index in sorted(vocab.items(), key=lambda item: item[1])}
    symbols = set(renamed)
    if len(renamed) != len(vocab) or unk not in vocab:
        return None
    if len(set(merges)) != len(merges):
        return None
    if any(len(pair) != 2 or not {*pair, "".join(pair)} <= symbols for pair in merges):
        return None
    apart = [_split("'", "Isolated"), _split("[.,!?()]", "MergedWithNext")]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Replace", "pattern": {"Regex": r"(?<=[^\s'])\n"}, "content": f" {NEW_LINE} "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, *apart]},
        "post_processor": None,
        "decoder": {"type": "BPEDecoder", "suffix": END},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": unk, "continuing_subword_prefix": None,
            "end_of_word_suffix": END, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": renamed, "merges": [list(pair) for pair in merges],
        },
    }  # fmt: skip


def _split(pattern: str, behavior: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def _renamed(token: str, verbatim: set[str]) -> str:
    if token in verbatim:
        return token
    return token.removesuffix(GOES_ON) if token.endswith(GOES_ON) and token != GOES_ON else token + END


def bpe_from_json(data: dict[str, Any]) -> tuple[dict[str, int], Merges] | str:
    """Vocabulary and merges of a tokenizer.json; or what is wrong with it."""
    model = data.get("model") or {}
    if model.get("type") != "BPE" or model.get("end_of_word_suffix") != END:
        return f"it is {model.get('type')!r} with end-of-word suffix {model.get('end_of_word_suffix')!r}"
    try:
        verbatim = {token["content"] for token in data.get("added_tokens") or []}
        vocab = {_original(token, verbatim): int(index) for token, index in model["vocab"].items()}
        merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"it cannot be read ({error!r})"
    return vocab, merges


def _original(token: str, verbatim: set[str]) -> str:
    if token in verbatim:
        return token
    return token.removesuffix(END) if token.endswith(END) else token + GOES_ON
