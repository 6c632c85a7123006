"""From a resolved plan to what a compiled loop is given: lengths in buckets, numbers apart from structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..decoding import Plan
from ..settings.generation_options import GenerationMode
from .rules import split
from .task import Numbers, Processor, Settings

LEAST = 16
"""The smallest bucket."""


def bucket(length: int, most: int | None = None) -> int:
    """The length that a loop is compiled for: 16, 24, 32, 48, 64, 96, ...; at most `most`, at least `length`."""
    size = LEAST
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return size if most is None else max(length, min(size, most))


def facts(config: Any) -> tuple[Any, ...]:
    """Everything in a config that decoding computes by: models that agree in it share their compiled loops."""
    names = (
        "vocab_size",
        "max_position_embeddings",
        "d_model",
        "encoder_layers",
        "encoder_attention_heads",
        "encoder_ffn_dim",
        "decoder_layers",
        "decoder_attention_heads",
        "decoder_ffn_dim",
        "activation_function",
        "scale_embedding",
        "tie_word_embeddings",
        "is_encoder_decoder",
    )
    return (config.architecture, *(getattr(config, name) for name in names))


def prepare(
    plan: Plan,
    mode: GenerationMode,
    positions: int,
    processors: Sequence[Processor],
    memory_length: int,
    is_bucketed: bool = True,
) -> tuple[Settings, Numbers]:
    """Settings and numbers for a loop; the numbers as Python's and NumPy's, the seed left open.

    Args:
        plan: as `decoding.plan` returned it.
        mode: the strategy.
        positions: rows of the model's position table.
        processors: the user's own.
        memory_length: columns that the decoder attends to.
        is_bucketed: whether the width is rounded up, so that calls of other lengths share what is compiled.
    """
    import numpy as np

    config, source = plan.config, source_of(plan)
    rules, rule_numbers, late_rules, late_numbers = [], [], [], []
    for rule in plan.rules:
        alone, numbers, _ = split(rule)
        rules.append(alone)
        rule_numbers.append(numbers)
    for rule in plan.late_rules:
        alone, numbers, _ = split(rule)
        late_rules.append(alone)
        late_numbers.append(numbers)
    room = bucket(plan.max_length - 1, positions) if is_bucketed else plan.max_length - 1
    prompt = plan.prompt_length - 1
    settings = Settings(
        mode=mode,
        width=room + 1,
        prefill=min(bucket(prompt), room) if prompt else 0,
        beams=config.num_beams,
        groups=config.num_beam_groups,
        returned=config.num_return_sequences,
        do_sample=bool(config.do_sample),
        end=plan.end,
        pad=plan.pad,
        early_stopping=config.early_stopping,
        penalty_is_positive=config.length_penalty > 0.0,
        top_k=(config.top_k or 1) if mode is GenerationMode.CONTRASTIVE_SEARCH else 1,
        low_memory=bool(config.low_memory),
        use_cache=config.use_cache is not False,
        rules=tuple(rules),
        late_rules=tuple(late_rules),
        processors=tuple(processors),
    )
    with np.errstate(divide="ignore"):
        penalties = (np.arange(room + 2, dtype=np.float64) ** config.length_penalty).astype(np.float32)
    return settings, Numbers(
        max_length=plan.max_length,
        prompt_length=plan.prompt_length,
        memory_length=memory_length,
        source_length=0 if source is None else source.shape[1],
        source=source,
        rules=tuple(rule_numbers),
        late_rules=tuple(late_numbers),
        penalties=penalties,
        alpha=config.penalty_alpha,
    )


def source_of(plan: Plan) -> Any:
    """The source that the plan's rules look at, or None."""
    sources = (getattr(rule, "source", None) for rule in plan.rules)
    return next((source for source in sources if source is not None), None)


def typed(numbers: Numbers) -> Numbers:
    """The same with every number as a NumPy scalar of the dtype that a loop expects."""
    import numpy as np

    def one(number: Any) -> Any:
        return np.int32(number) if isinstance(number, int) else np.float32(number)

    return replace(
        numbers,
        max_length=np.int32(numbers.max_length),
        prompt_length=np.int32(numbers.prompt_length),
        memory_length=np.int32(numbers.memory_length),
        source_length=np.int32(numbers.source_length),
        rules=tuple(tuple(map(one, held)) for held in numbers.rules),
        late_rules=tuple(tuple(map(one, held)) for held in numbers.late_rules),
        alpha=None if numbers.alpha is None else np.float32(numbers.alpha),
    )
