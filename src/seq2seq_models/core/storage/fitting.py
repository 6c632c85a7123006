"""Which tensor of a checkpoint goes where in a model, and all that does not fit, found before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

from ...errors import CheckpointError
from ..architecture import ARCHITECTURES
from ..parameters import LM_HEAD, SHARED, Parameter, parameters
from .stored import Stored, as_float32

if TYPE_CHECKING:
    from ..config import PretrainedConfig

ENCODER_TOKENS, DECODER_TOKENS = "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"
ARCHITECTURE = ("model", "lm_head", "final_logits_bias")
"""What the names of an architecture's weights begin with."""

_MISSPELT = 0.85
"""How alike a name must be to one of the architecture's to be taken for a misspelling of it."""

EMBEDDINGS = (SHARED, DECODER_TOKENS, ENCODER_TOKENS)
"""All names of the one token embedding, the most trusted first."""


_AT_ONCE = 2**24
"""Bytes that are compared at a time: a comparison takes memory of its own, and an embedding is large."""


@dataclass
class Fit:
    """A checkpoint laid against a model.

    Attributes:
        weights: canonical name of a parameter -> the tensor to put there; ties have none.
        missing: parameters that the checkpoint should have and has not.
        unexpected: tensors that no model of this config has.
        mismatched: (name, shape in the checkpoint, shape in the model).
        new: parameters of a head or of a user's own module that the checkpoint does not have.
        additional: tensors of modules beside the architecture's, which the model has not got, such as "v_head.weight".
        recomputed: position tables of another length in the checkpoint, computed for the config's instead.
    """

    weights: dict[str, Stored] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    additional: list[str] = field(default_factory=list)
    recomputed: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is missing, unexpected or of the wrong shape."""
        return not (self.missing or self.unexpected or self.mismatched)


def fit(
    stored: Mapping[str, Stored],
    config: PretrainedConfig,
    wanted: Sequence[Parameter],
    own: Mapping[str, tuple[int, ...]] | None = None,
) -> Fit:
    """Matches the tensors of a checkpoint to the parameters of a model.

    A checkpoint of any head fits a model of any other as far as their parameters go: a causal model takes the decoder
    of a full one, a base model leaves the head, a model with a head takes a base model.

    Args:
        stored: by canonical name; nothing is read, except copies of tied weights, which are compared.
        config: of the model.
        wanted: the architecture's parameters that the model has.
        own: shapes, by canonical name, of the weights of modules that a user has added to the model.

    Raises:
        CheckpointError: copies of a tied weight differ.
    """
    result, own = Fit(), own or {}
    for parameter in wanted:
        if parameter.tied_to is not None:
            continue
        found = _find(stored, parameter, config)
        if found is None:
            _note_absent(result, parameter, stored)
        elif found.shape == parameter.shape:
            result.weights[parameter.name] = found.renamed(parameter.name)
        elif parameter.kind == "table" and parameter.optional:
            result.recomputed.append(parameter.name)
        else:
            result.mismatched.append((parameter.name, found.shape, parameter.shape))
    for name, shape in own.items():
        tensor = stored.get(name)
        if tensor is None:
            result.new.append(name)
        elif tensor.shape == shape:
            result.weights[name] = tensor
        else:
            result.mismatched.append((name, tensor.shape, shape))
    known = {parameter.name for side in ("conditional", "causal") for parameter in parameters(config, side)}
    absent = sorted(known - set(stored))
    for name in sorted(set(stored) - known - set(own)):
        is_ours = name.partition(".")[0] in ARCHITECTURE or get_close_matches(name, absent, 1, _MISSPELT)
        (result.unexpected if is_ours else result.additional).append(name)
    result.missing.sort()
    result.mismatched.sort()
    return result


def _find(stored: Mapping[str, Stored], parameter: Parameter, config: PretrainedConfig) -> Stored | None:
    """The tensor for a parameter; for the token embedding, whichever of its names the checkpoint uses."""
    if parameter.name not in EMBEDDINGS:
        return stored.get(parameter.name)
    names = (*EMBEDDINGS, LM_HEAD) if config.tie_word_embeddings else EMBEDDINGS
    copies = [stored[name] for name in names if name in stored]
    for other in copies[1:]:
        if not _is_equal(copies[0], other):
            advice = (
                "If the head was trained apart from the embedding, load with tie_word_embeddings=False. "
                if other.name == LM_HEAD
                else ""
            )
            raise CheckpointError(
                f"{copies[0].name} and {other.name} must be equal, because the model shares one weight for both, but "
                f"their values differ ({other.file or 'state_dict'}). {advice}"
                "Otherwise keep only the right one in the file."
            )
    return copies[0] if copies else None


def _is_equal(one: Stored, other: Stored) -> bool:
    import numpy as np

    if one.shape != other.shape:
        return False
    if one.dtype == other.dtype:
        a, b = one.read(), other.read()
        if a.__array_interface__["data"] == b.__array_interface__["data"]:
            return True
        a, b = a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8)
        pieces = range(0, a.size, _AT_ONCE)
        equal = all(np.array_equal(a[at : at + _AT_ONCE], b[at : at + _AT_ONCE]) for at in pieces)
        other.release()
        return equal
    return bool(np.array_equal(as_float32(one), as_float32(other)))


def _note_absent(result: Fit, parameter: Parameter, stored: Mapping[str, Stored]) -> None:
    if parameter.optional:
        return
    if parameter.name == LM_HEAD and LM_HEAD not in stored:
        result.new.append(parameter.name)
    else:
        result.missing.append(parameter.name)


def misfit(result: Fit, stored: Mapping[str, Stored], class_name: str, config: PretrainedConfig, where: str) -> str:
    """What does not fit, every name of it, in one message."""
    family = _family(stored)
    if not stored:
        return f"{where} holds no weights at all, so {class_name} cannot be loaded from it. Save or download it again."
    if not result.weights:
        first = ", ".join(sorted(stored)[:3])
        return (
            f"{where} holds no weight of {class_name} (its first names are {first}). It was made for another "
            "architecture; load it with that library's class."
        )
    if family is not None and family != config.architecture.model_type:
        return (
            f"{where} holds weights of the family {family!r}, but {class_name} is of the family "
            f"{config.architecture.model_type!r}. Use the class of that family, or AutoModelForSeq2SeqLM."
        )
    parts = []
    if result.missing:
        parts.append(f"missing: {', '.join(result.missing)}")
    if result.unexpected:
        parts.append(f"unexpected: {', '.join(result.unexpected)}")
    for name, found, expected in result.mismatched:
        parts.append(f"{name} expected {list(expected)}, got {list(found)}")
    count = len(result.missing) + len(result.unexpected) + len(result.mismatched)
    verb = "weight of" if count == 1 else "weights of"
    return (
        f"{count} {verb} {where} {'does' if count == 1 else 'do'} not fit {class_name}: {'; '.join(parts)}. "
        "Check that config.json belongs to these weights; ignore_mismatched_sizes=True loads what fits and initialises "
        "the rest."
    )


def _family(stored: Mapping[str, Stored]) -> str | None:
    """The family whose norms these names have; None if they fit neither or both."""

    def ends(stems: Iterable[str]) -> bool:
        return any(f"model.{side}.{stem}.weight" in stored for side in ("encoder", "decoder") for stem in stems)

    fitting = [
        name
        for name, architecture in ARCHITECTURES.items()
        if ends(["layer_norm"]) == architecture.final_norm
        and ends(["layernorm_embedding"]) == architecture.embedding_norm
    ]
    return fitting[0] if len(fitting) == 1 else None
