"""What a generation begins with: the decoder's first tokens, the masks that padding implies, and what is refused.

Letters in shapes: B inputs, S source.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ..core.generation_config import GenerationConfig
from ..core.generation_rules import tokens_of
from ..errors import GenerationError, InputError
from .attention import padding_mask
from .layers import check_ids
from .steps import Source


def check_draftable(given: dict[str, Any], assistant: Any) -> None:
    """Raise unless the inputs are one source that an assistant, too, can read."""
    ids, states = given.get("input_ids"), given.get("encoder_hidden_states")
    if ids is None:
        raise InputError(
            "`assistant_model` needs `input_ids`, got none: it has to read the source itself. Pass the ids along."
        )
    if ids.dim() == 2 and ids.shape[0] > 1:
        raise GenerationError(
            f"`assistant_model` goes with one input at a time, got {ids.shape[0]} rows of `input_ids`. "
            "Leave it out, or generate row by row."
        )
    if states is not None and states.shape[-1] != assistant.config.d_model:
        raise GenerationError(
            f"`assistant_model` must have d_model = {states.shape[-1]} as `encoder_hidden_states` have, "
            f"got {assistant.config.d_model}. Leave one of the two out."
        )


def mask_of_padding(ids: Tensor, config: GenerationConfig) -> Tensor | None:
    """The mask [B, S] that the padding in ids implies; None where padding also is an end token or is absent."""
    pad = config.pad_token_id
    if pad is None or pad in tokens_of(config.eos_token_id):
        return None
    return (ids != pad).long()


def memory_of(given: dict[str, Any]) -> Source:
    """What a causal model attends to besides its own tokens, if anything."""
    states = given.get("encoder_hidden_states")
    return Source(states, None if states is None else padding_mask(given.get("encoder_attention_mask"), states.dtype))


def decoder_prompt(config: GenerationConfig, given: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """The decoder's first tokens [B, length], beginning with the start token, and their mask; nothing is computed."""
    ids, embeds, outputs = given.get("input_ids"), given.get("inputs_embeds"), given.get("encoder_outputs")
    if ids is not None and embeds is not None:
        raise InputError("`input_ids` and `inputs_embeds` are the same input, got both. Pass one of them.")
    if ids is None and embeds is None and outputs is None:
        raise InputError("`generate` needs `input_ids`, `inputs_embeds` or `encoder_outputs`, got none of them.")
    check_ids("input_ids", ids, dimensions=2)
    check_ids("decoder_input_ids", given.get("decoder_input_ids"), dimensions=2)
    source = cast(Tensor, outputs[0] if outputs is not None else ids if ids is not None else embeds)
    start = config.decoder_start_token_id if config.decoder_start_token_id is not None else config.bos_token_id
    if start is None:
        raise GenerationError("`decoder_start_token_id` (or `bos_token_id`) must be set to begin with, got neither.")
    rows = source.shape[0]
    starts = torch.tensor(tokens_of(start), device=source.device)
    if len(starts) not in (1, rows):
        raise GenerationError(f"`decoder_start_token_id` must be one id or {rows}, one per input, got {len(starts)}.")
    first = starts[:, None].expand(rows, 1) if len(starts) == 1 else starts[:, None]
    prompt, mask = given.get("decoder_input_ids"), given.get("decoder_attention_mask")
    if prompt is None:
        return first, mask
    if prompt.shape[0] != rows:
        raise InputError(f"`decoder_input_ids` must have one row for each of {rows} inputs, got {prompt.shape[0]}.")
    if bool((prompt[:, :1] != first).all()):
        prompt = torch.cat([first, prompt], 1)
        mask = None if mask is None else torch.nn.functional.pad(mask, (1, 0), value=1)
    return prompt, mask


def causal_prompt(
    config: GenerationConfig, given: dict[str, Any], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """The prompt of a causal model [B, length] and its mask; the token to begin with, where none is given."""
    ids = given.get("input_ids")
    if ids is None:
        start = config.bos_token_id if config.bos_token_id is not None else config.decoder_start_token_id
        if start is None:
            raise InputError("`generate` needs `input_ids`, or a `bos_token_id` to begin with, got neither.")
        ids = torch.full((1, 1), tokens_of(start)[0], device=device)
    check_ids("input_ids", ids, dimensions=2)
    mask = given.get("attention_mask")
    if mask is None:
        mask = mask_of_padding(ids, config)
    return ids, mask
