"""Tiny models whose sizes are all distinct, so that a swapped axis or a missed transpose shows."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import transformers

import seq2seq_models

FAMILIES = ("Pegasus", "BlenderbotSmall")
HEADS = ("Model", "ForConditionalGeneration", "ForCausalLM")
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
# BlenderbotSmall's reference in PyTorch lost the decoder's scale, so the families are compared without it there;
# test_parity.py compares the scaled case with the reference in Flax.
OWN = {"Pegasus": {"activation_function": "relu", "scale_embedding": True}, "BlenderbotSmall": {}}


def settings(family: str, **overrides: Any) -> dict[str, Any]:
    return {**SIZES, **OWN[family], **overrides}


def reference(family: str, head: str = "ForConditionalGeneration", seed: int = 0, **overrides: Any) -> Any:
    """A reference model with weights drawn so that every one of them, biases and norms included, matters."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**settings(family, **overrides))
    model = getattr(transformers, family + head)(config).eval()
    spread(model, skip_positions=family == "Pegasus")
    return model


def spread(model: Any, skip_positions: bool) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not (skip_positions and "embed_positions" in name):
                parameter.add_(torch.randn_like(parameter) * 0.3)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()


def same_ids(mine: Any, theirs: Any, inputs: dict[str, Any], options: dict[str, Any]) -> tuple[Any, bool]:
    """What `generate` returns, held to the reference, and whether float32 alone could tell.

    Two beams may be so near that the last bit of a product, which another processor rounds otherwise, says which is
    ahead. Where the ids differ they must be equal in float64.
    """
    found, expected = mine.generate(**inputs, **options), theirs.generate(**inputs, **options)
    is_clear = found.tolist() == expected.tolist()
    if not is_clear:
        try:
            exact = [model.double().generate(**inputs, **options).tolist() for model in (mine, theirs)]
        finally:
            mine.float(), theirs.float()
        assert exact[0] == exact[1], options
    return found, is_clear


def ours_like(model: Any, **overrides: Any) -> Any:
    """Our model of the same class with the same config and weights."""
    name = type(model).__name__
    family = next(family for family in FAMILIES if name.startswith(family))
    config = getattr(seq2seq_models, f"{family}Config").from_dict({**model.config.to_dict(), **overrides})
    mine = getattr(seq2seq_models, name)(config)
    mine.load_state_dict(model.state_dict())
    return mine.train(model.training)


@cache
def pair(family: str, head: str = "ForConditionalGeneration", seed: int = 0) -> tuple[Any, Any]:
    """A reference model and ours with the same weights; shared between tests, so not to be changed."""
    theirs = reference(family, head, seed)
    return theirs, ours_like(theirs)


def batch(seed: int = 1, rows: int = 3, source: int = 11, target: int = 7, vocabulary: int = 83) -> dict[str, Any]:
    """Source ids with padding, and target ids: {input_ids, attention_mask, decoder_input_ids}."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocabulary, (rows, source), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(rows):
        mask[row, source - (3 * row) % source :] = 0 if row else 1
    ids = ids.masked_fill(mask == 0, 0)
    target_ids = torch.randint(3, vocabulary, (rows, target), generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": target_ids}


def close(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
