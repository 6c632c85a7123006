"""Which tokenizer class fits a repository or folder."""

from __future__ import annotations

import os
from typing import Any

from ...errors import TokenizerError
from ..blenderbot_small import BlenderbotSmallTokenizer, BlenderbotSmallTokenizerFast
from ..hub import Repository
from ..pegasus import PegasusTokenizer, PegasusTokenizerFast
from .tokenizer_files import TOKENIZER_CONFIG, TOKENIZER_JSON, read_json_file, read_repository_json

_ANY_FAMILY = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Classes of transformers that hold the tokenizer.json of any family."""


def tokenizer_class_for(repository: str | os.PathLike[str] | Repository, use_fast: bool = True) -> type[Any]:
    """The tokenizer class that fits a repository or folder.

    By `tokenizer_class` of tokenizer_config.json, else `tokenizer_class` or `model_type` of config.json, else by the
    vocabulary files themselves.

    Args:
        repository: where the files are.
        use_fast: prefer the class whose name ends in "Fast"; both give the same ids.

    Raises:
        CheckpointNotFoundError: there is no such repository, or none of these files in it.
        TokenizerError: it is another family's tokenizer, or none that can be told.
    """
    repository = Repository.from_options(repository, {})
    families: dict[str, tuple[type[Any], type[Any]]] = {
        "PegasusTokenizer": (PegasusTokenizer, PegasusTokenizerFast),
        "BlenderbotSmallTokenizer": (BlenderbotSmallTokenizer, BlenderbotSmallTokenizerFast),
    }
    types = {"pegasus": "PegasusTokenizer", "blenderbot-small": "BlenderbotSmallTokenizer"}
    named = read_repository_json(repository, TOKENIZER_CONFIG).get("tokenizer_class")
    kind = None
    if named is None:
        config = read_repository_json(repository, "config.json")
        named, kind = config.get("tokenizer_class"), config.get("model_type")
    if named in _ANY_FAMILY:
        named, kind = None, read_repository_json(repository, "config.json").get("model_type")
    name = str(named).removesuffix("Fast") if named is not None else types.get(str(kind)) or _by_vocabulary(repository)
    if name not in families:
        wanted = (TOKENIZER_CONFIG, "config.json", "vocab.json", "spiece.model", TOKENIZER_JSON)
        if named is None and kind is None and not any(map(repository.find, wanted)):
            raise repository.missing(*wanted)
        raise TokenizerError(
            f"{repository} must hold a tokenizer of {' or '.join(families)}, got "
            f"{'tokenizer_class ' + repr(named) if named is not None else 'model_type ' + repr(kind)}. "
            "Pass a repository of one of these families, or call the class you want directly."
        )
    return families[name][use_fast]


def _by_vocabulary(repository: Repository) -> str | None:
    vocab = repository.find("vocab.json")
    if vocab is not None and "__null__" in read_json_file(vocab):
        return "BlenderbotSmallTokenizer"
    if repository.find("spiece.model") is not None:
        return "PegasusTokenizer"
    model = read_repository_json(repository, TOKENIZER_JSON).get("model") or {}
    return {"Unigram": "PegasusTokenizer", "BPE": "BlenderbotSmallTokenizer"}.get(model.get("type", ""))
