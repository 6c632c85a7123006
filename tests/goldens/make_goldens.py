"""Writes strategies.json: what transformers 4.51.3 generates with diverse beams and with contrastive search.

That version is the last that holds these strategies itself, and it does not stand beside the newer one that the other
tests compare with. So it runs once, in an environment of its own, from the repository's root:

    python3 -m venv .venv-4.51
    .venv-4.51/bin/pip install torch==2.13.0 transformers==4.51.3 numpy
    .venv-4.51/bin/python -m tests.goldens.make_goldens

Weights are drawn by name with NumPy, so that the tests give our models the same ones without a file of weights.
"""

from __future__ import annotations

import json
import random
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

GOLDENS = Path(__file__).with_name("strategies.json")
FAMILIES = ("Pegasus", "BlenderbotSmall")
END = {"Pegasus": 1, "BlenderbotSmall": 2}
SIZES = {
    "vocab_size": 83,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 56,
    "max_position_embeddings": 37,
}
OWN: dict[str, dict[str, Any]] = {
    "Pegasus": {"activation_function": "relu", "scale_embedding": True},
    "BlenderbotSmall": {},
}
SCALES = {"bias": 0.05, "proj": 0.15, "fc": 0.6, "shared": 0.4, "embed_tokens": 0.4, "lm_head": 0.4, "": 0.3}
"""Standard deviations by a part of the name, such that states differ from each other and words do not just repeat."""

PER_FAMILY = 150
Case = dict[str, Any]


def settings(case: Case) -> dict[str, Any]:
    """The model configuration of a case."""
    return {**SIZES, **OWN[case["family"]], "vocab_size": case["vocabulary"]}


def fill(model: Any, seed: int) -> Any:
    """The model with weights that depend on their names and on the seed, and on nothing else."""
    import torch

    with torch.no_grad():
        for name, value in model.state_dict().items():
            if is_computed(model, name):
                continue
            is_tied = name.endswith(("shared.weight", "embed_tokens.weight", "lm_head.weight"))
            key = "model.shared.weight" if is_tied else name
            drawn = np.random.default_rng([zlib.crc32(key.encode()), seed]).normal(size=tuple(value.shape))
            drawn *= next(scale for part, scale in SCALES.items() if part in name)
            is_gain = "norm" in name and name.endswith("weight")
            value.copy_(torch.from_numpy(drawn + 1.0 if is_gain else drawn).to(value.dtype))
    return model.eval()


def is_computed(model: Any, name: str) -> bool:
    return type(model).__name__.startswith("Pegasus") and "embed_positions" in name


def rules(draw: random.Random, family: str, vocabulary: int) -> dict[str, Any]:
    """Random options; every one is off more often than on, so that all pairs occur."""
    length = draw.choice([5, 9, 14, 20])
    options: dict[str, Any] = {"max_new_tokens" if draw.random() < 0.5 else "max_length": length}

    def word() -> int:
        return draw.randrange(3, vocabulary)

    if draw.random() < 0.3:
        options["min_new_tokens" if draw.random() < 0.5 else "min_length"] = draw.randrange(1, length)
    if draw.random() < 0.4:
        options["no_repeat_ngram_size"] = draw.choice([1, 2, 3])
    if draw.random() < 0.4:
        options["repetition_penalty"] = draw.choice([0.7, 1.3, 2.0])
    if draw.random() < 0.2:
        options["forced_bos_token_id"] = word()
    if draw.random() < 0.3:
        options["forced_eos_token_id"] = draw.choice([None, END[family], [END[family], 5]])
    if draw.random() < 0.4:
        options["eos_token_id"] = [END[family], *draw.sample(range(3, vocabulary), min(6, vocabulary - 4))]
    if draw.random() < 0.2:
        options["suppress_tokens"] = [word()]
    if draw.random() < 0.2:
        options["encoder_no_repeat_ngram_size"] = draw.choice([1, 2, 3])
    if draw.random() < 0.2:
        options["bad_words_ids"] = [[word()], [word(), word()]]
    if draw.random() < 0.3:
        options["sequence_bias"] = [[[END[family]], draw.choice([2.0, 4.0])], [[word()], 1.0]]
    # Where a rule before it has made an end token impossible, the reference's decay makes NaN of minus infinity.
    impossible = {"min_new_tokens", "min_length", "eos_token_id", "encoder_no_repeat_ngram_size", "forced_eos_token_id"}
    if draw.random() < 0.5 and not impossible & set(options):
        options["exponential_decay_length_penalty"] = [draw.randrange(1, 6), draw.choice([1.1, 1.5])]
    return options


def groups(draw: random.Random) -> dict[str, Any]:
    beams, count = draw.choice([(2, 2), (4, 2), (6, 3), (6, 2), (4, 4), (9, 3)])
    return {
        "num_beams": beams,
        "num_beam_groups": count,
        "diversity_penalty": draw.choice([0.3, 1.0, 2.5, 10.0]),
        "length_penalty": draw.choice([0.0, 0.6, 1.0, 2.0, -1.0]),
        "early_stopping": draw.choice([True, False, "never"]),
        "num_return_sequences": draw.randrange(1, beams + 1),
    }


def contrastive(draw: random.Random) -> dict[str, Any]:
    return {"penalty_alpha": draw.choice([0.2, 0.5, 0.7, 0.9]), "top_k": draw.choice([2, 3, 4, 7])}


def combination(strategy: str, family: str, index: int) -> Case:
    """The inputs and options of one case."""
    draw = random.Random(f"{strategy} {family} {index}")
    is_small = index % 10 == 0  # fewer words than twice the beams
    is_causal = index % 5 == 1
    vocabulary = 10 if is_small else SIZES["vocab_size"]
    own = groups(draw) if strategy == "groups" else contrastive(draw)
    if is_small and strategy == "groups":
        own.update(num_beams=6, num_beam_groups=2, num_return_sequences=6)
    options = own | ({"max_new_tokens": 4} if is_small else rules(draw, family, vocabulary))
    if index % 10 == 5:
        options = own | {"max_new_tokens": 1}
    if index % 10 == 7:  # every row ends as soon as it may
        options["sequence_bias"] = [[[END[family]], 30.0]]
    rows, length = draw.choice([1, 2, 4]), draw.choice([1, 6, 13])
    ids = [[draw.randrange(3, vocabulary) for _ in range(length)] for _ in range(rows)]
    if index % 10 == 3:
        ids[0] = [END[family]] * length
    padding = [min(3 * row, length - 1) for row in range(rows)]
    if is_causal:
        if "max_length" in options:
            options["max_new_tokens"] = options.pop("max_length")
        options.pop("min_length", None)
        options.pop("encoder_no_repeat_ngram_size", None)
        ids = [[0] * pad + row[pad:] for row, pad in zip(ids, padding, strict=True)]
        mask = [[0] * pad + [1] * (length - pad) for pad in padding]
    else:
        ids = [row[: length - pad] + [0] * pad for row, pad in zip(ids, padding, strict=True)]
        mask = [[1] * (length - pad) + [0] * pad for pad in padding]
    inputs = {"input_ids": ids, "attention_mask": mask}
    if not is_causal and index % 10 == 8:
        inputs["decoder_input_ids"] = [[3 + row, 4, 5] for row in range(rows)]
    head = "ForCausalLM" if is_causal else "ForConditionalGeneration"
    case = {"strategy": strategy, "family": family, "head": head, "seed": index % 4, "vocabulary": vocabulary}
    return {**case, "inputs": inputs, "options": options}


def outcome(case: Case) -> Case:
    """The case with what the reference generates: ids, and scores that say how near another choice was."""
    import torch
    import transformers

    config = getattr(transformers, case["family"] + "Config")(**settings(case))
    model = fill(getattr(transformers, case["family"] + case["head"])(config), case["seed"])
    inputs = {name: torch.tensor(value) for name, value in case["inputs"].items()}
    out = model.generate(**inputs, **case["options"], return_dict_in_generate=True, output_scores=True)
    found: Case = {"ids": out.sequences.tolist()}
    if case["strategy"] == "groups":
        found["scores"] = [round(score, 5) for score in out.sequences_scores.tolist()]
    else:
        new = out.sequences[0, -len(out.scores) :]
        found["scores"] = [round(float(step[0, token]), 4) for step, token in zip(out.scores, new, strict=True)]
    return {**case, **found}


def main() -> None:
    import torch
    import transformers

    assert transformers.__version__ == "4.51.3", transformers.__version__
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cases = [
        outcome(combination(strategy, family, index))
        for strategy in ("groups", "contrastive")
        for family in FAMILIES
        for index in range(PER_FAMILY)
    ]
    versions = {"transformers": transformers.__version__, "torch": torch.__version__, "numpy": np.__version__}
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    GOLDENS.write_text(f'{{"versions":{json.dumps(versions)},\n"cases":[\n{lines}\n]}}\n', encoding="utf-8")
    print(f"{len(cases)} cases written to {GOLDENS}")


if __name__ == "__main__":
    main()
