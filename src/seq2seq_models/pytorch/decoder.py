"""The decoder that the searches of core/generation drive in PyTorch: over a cache that is written in place.

Letters in shapes: B inputs, R rows (B * beams, or B * num_return_sequences), T tokens, k candidates, D model, V
vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions
from ..errors import GenerationError
from .cache import Cache, DynamicCache, EncoderDecoderCache, StaticCache
from .packing import packed_linear, packed_products

Details = tuple[Any, Any, Any]
"""Attentions, cross-attentions and hidden states, each a tuple with one tensor per layer, or None."""


@dataclass
class Source:
    """What the decoder attends to: the encoder's states, additive mask and output, where there is an encoder."""

    states: Tensor | None
    mask: Tensor | None
    outputs: BaseModelOutput[Tensor] | None = None


class EagerDecoder:
    """Runs a model's decoder step by step for R rows over B inputs.

    The encoder's keys and values are kept once per input; the decoder's own in memory that is allocated once. The
    cache is this object's; what the searches hand on is the same cache.

    Args:
        model: has a head.
        source: what the decoder attends to.
        capacity: positions of the cache.
        mask: 1/0 over the prompt [R, length], or None where nothing is masked.
        head_masks: of the decoder, by argument name.
        details: whether attentions and hidden states are collected.
        use_cache: read every token once; else all of them at each step.
        low_memory: read candidates one after the other, and the chosen one once more.
        beams: rows per input that go on from each other.
        past: a cache of the prompt's first tokens, or its tuples, which is copied.
    """

    def __init__(
        self,
        model: Any,
        source: Source,
        capacity: int,
        mask: Tensor | None,
        *,
        head_masks: dict[str, Tensor | None] | None = None,
        details: tuple[bool, bool] = (False, False),
        use_cache: bool = True,
        low_memory: bool = False,
        beams: int = 1,
        past: Any = None,
    ) -> None:
        self.model, self.source, self.decoder_mask, self.details = model, source, mask, details
        self.head_masks = head_masks or {}
        self.low_memory, self.beams, self.capacity = low_memory, beams, capacity
        self.decoder = model.get_decoder()
        self.products = packed_products(self.decoder)
        head = model.lm_head
        self.head = packed_linear(head.weight, model._head_bias()) if type(head) is nn.Linear else None
        self.cache: Cache | None = None
        self.done = 0
        self.places: Tensor | None = None  # which row of the cache each row goes on from, int64 [R]; None: its own
        self.ids: Tensor | None = None  # what the rows of the last step were
        self.ahead: Any = None  # the outputs of candidates
        if use_cache:
            own = StaticCache(max_cache_len=capacity)
            self.cache = EncoderDecoderCache(own) if source.states is not None else own
            for index, (keys, values, *cross) in enumerate(past or ()):
                self.cache.update(keys, values, index)
                if cross and source.states is not None:
                    self.cache.set_cross(cross[0], cross[1], index)
                self.done = keys.shape[2]

    # ---- what a search asks for: see core/generation/decoder.py

    def prefill(self, ids: Tensor, length: int) -> Cache | None:
        return self.cache

    def next_logits(self, ids: Tensor, length: int, cache: Any) -> tuple[Tensor, Any, Details]:
        self.ids = ids = ids[:, :length]
        outputs = self.run(ids if self.places is None else ids[self.places.argsort()])
        hidden = outputs.last_hidden_state[:, -1]
        return self.logits(hidden if self.places is None else hidden[self.places]), cache, _details(outputs)

    def reorder(self, cache: Any, rows: Tensor) -> Any:
        """See core/generation/decoder.py; rows go on within their input.

        On a CPU only what would be lost is copied: a row that goes on stays where it is in the cache, and where others
        go on from it too, they get the places of rows from which none does.
        """
        if self.cache is None or self.ids is None:
            return cache  # everything is read anew, or nothing was read yet
        if rows.device.type != "cpu" or any(self.details):
            self.cache.reorder_cache(rows)
            return cache
        held = range(len(rows)) if self.places is None else self.places.tolist()
        places, sources, copies = succession([held[row] for row in rows.tolist()])
        if copies:
            # What all beams of an input have in common is the same in every row of the cache.
            running = self.ids.view(-1, self.beams, self.ids.shape[1])
            common = int((running == running[:, :1]).flatten(0, 1).all(0).long().cumprod(0).sum())
            self.cache.copy_rows(torch.tensor(sources), torch.tensor(copies), common)
        self.places = torch.tensor(places)
        return cache

    def read_prompt(self, ids: Tensor, length: int) -> tuple[Tensor, Any, Details]:
        outputs = self.run(ids[:, :length])
        return outputs.last_hidden_state, self.cache, _details(outputs)

    def look_ahead(self, ids: Tensor, length: int, cache: Any, candidates: Tensor) -> tuple[Tensor, Any]:
        ids = ids[:, :length]
        if self.low_memory:
            return torch.stack([self._state(ids, token[:, None]) for token in candidates.unbind(1)], 1), cache
        rows, count = candidates.shape
        if self.cache is None:
            longer = torch.cat([ids.repeat_interleave(count, 0), candidates.reshape(-1, 1)], 1)
            self.ahead = self.read(longer, self.mask(length + 1, count))
            return self.ahead.last_hidden_state[:, -1].view(rows, count, -1), cache
        positions = torch.full((count,), length, device=ids.device)
        self.ahead = self.read(candidates, self._side_by_side(length, candidates), positions)
        return self.ahead.last_hidden_state, cache

    def keep(self, ids: Tensor, length: int, cache: Any, chosen: Tensor, tokens: Tensor) -> tuple[Any, Details]:
        if self.low_memory:
            return cache, _details(self.run(torch.cat([ids[:, :length], tokens], 1)))
        held = _details(self.ahead)
        if self.cache is None:
            row = torch.arange(len(chosen), device=chosen.device)
            return cache, _changed(held, lambda x, _: x.view(len(chosen), -1, *x.shape[1:])[row, chosen])
        self.cache.keep(length, chosen)
        self.done = length + 1

        def alone(x: Tensor, kind: int) -> Tensor:
            """What the chosen candidate would have given had it been read alone."""
            if kind == 2:
                return _of_row(x, chosen, 1)[:, None]
            x = _of_row(x, chosen, 2)[:, :, None]
            return torch.cat([x[..., :length], _of_row(x[..., length:], chosen, 3)[..., None]], -1) if kind == 0 else x

        return cache, _changed(held, alone)

    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.model._logits(hidden) if self.head is None else self.head(hidden)
        return logits.float()

    # ---- what they are made of

    def run(self, ids: Tensor) -> Any:
        """What the decoder returns for all tokens so far, int64 [R, length]; with a cache, for those not in it yet."""
        new = ids if self.cache is None else ids[:, self.done :]
        self.done = ids.shape[1]
        return self.read(new, self.mask(ids.shape[1]))

    def read(self, new: Tensor, mask: Tensor | None, positions: Tensor | None = None) -> Any:
        """What the decoder returns for these tokens, int64 [rows, T].

        Args:
            new: the tokens; the cache takes them in.
            mask: 1/0 [rows, past + T], or additive with four dimensions.
            positions: int64 [T]; counted on from the cache by default.
        """
        return self.decoder._decode(
            new,
            None,
            mask,
            self.source.states,
            self.source.mask,
            self.cache,
            need_weights=self.details[0],
            need_states=self.details[1],
            cache_position=positions,
            products=self.products,
            **self.head_masks,
        )

    def tail(self, ids: Tensor, count: int) -> tuple[Tensor, Details, int]:
        """Logits float32 [R, count, V] after each of the last tokens, details, and how many tokens these are of."""
        outputs = self.run(ids)
        hidden = outputs.last_hidden_state
        return self.logits(hidden[:, -count:]), _details(outputs), hidden.shape[1]

    def crop(self, length: int) -> None:
        """Forget what was read after the first `length` tokens."""
        if self.cache is not None:
            self.cache.crop(length)
        self.done = min(self.done, length)

    def mask(self, length: int, copies: int = 1) -> Tensor | None:
        """The mask over a length of tokens, 1/0 [R * copies, length], or None where nothing is masked."""
        mask = self.decoder_mask
        if mask is None:
            return None
        return torch.nn.functional.pad(mask, (0, length - mask.shape[1]), value=1).repeat_interleave(copies, 0)

    def _state(self, ids: Tensor, token: Tensor) -> Tensor:
        """The state [R, D] that a token [R, 1] has after ids."""
        outputs = self.run(torch.cat([ids, token], 1))
        self.crop(ids.shape[1])
        state: Tensor = outputs.last_hidden_state[:, -1]
        return state

    def _side_by_side(self, length: int, candidates: Tensor) -> Tensor:
        """The additive mask [R or 1, 1, k, length + k] under which no candidate sees another."""
        count, dtype = candidates.shape[1], self.model.dtype
        lowest = torch.finfo(dtype).min
        apart = torch.full((count, count), lowest, dtype=dtype, device=candidates.device).fill_diagonal_(0.0)
        before = torch.zeros(1, 1, 1, length, dtype=dtype, device=candidates.device)
        mask = self.mask(length)
        if mask is not None:
            before = before.expand(len(mask), -1, -1, -1).masked_fill(mask[:, None, None] == 0, lowest)
        rows = before.shape[0]
        return torch.cat([before.expand(-1, -1, count, -1), apart.expand(rows, 1, -1, -1)], -1)


class ModelDecoder:
    """The same through the model: its own `prepare_inputs_for_generation` and `forward`, and logits from the output.

    Whatever a subclass, a hook or a replaced module changes has its effect. It reads one row of the encoder's output
    for each of the R rows, as a `forward` of the user's expects.

    Args:
        model: has a head.
        inputs: further arguments of the model by name, a row per sequence, R, where they have rows; the source's mask
            is `attention_mask`, the prompt's `decoder_attention_mask` (of a causal model: `attention_mask`).
        details, use_cache: as for `EagerDecoder`.
        past: a cache of the prompt's first tokens, or its tuples, which is handed on as one that grows.
    """

    def __init__(
        self,
        model: Any,
        inputs: dict[str, Any],
        *,
        details: tuple[bool, bool] = (False, False),
        use_cache: bool = True,
        past: Any = None,
    ) -> None:
        self.model, self.inputs, self.details, self.use_cache = model, inputs, details, use_cache
        self.is_seq2seq = bool(model.config.is_encoder_decoder)
        # The first step is given none, and makes one: a cache that is empty would hide from other libraries, which know
        # their own caches only, that it is the first.
        self.cache: Any = None
        if past is not None:  # it grows, which the one of an earlier call may not
            kind = EncoderDecoderCache if self.is_seq2seq else DynamicCache
            self.cache = kind.from_legacy_cache(tuple(past))
        self.done = 0 if past is None else past[0][0].shape[2]
        takes = inspect.signature(model.forward).parameters.values()
        self.takes_position = any(one.name == "cache_position" or one.kind is one.VAR_KEYWORD for one in takes)
        self.ahead: Any = None  # the logits and details of candidates, or of the last of them that was kept

    def prefill(self, ids: Tensor, length: int) -> Any:
        return self.cache

    def next_logits(self, ids: Tensor, length: int, cache: Any) -> tuple[Tensor, Any, Details]:
        outputs = self._call(ids[:, :length])
        return outputs.logits[:, -1].float(), self.cache, self._details(outputs)

    def reorder(self, cache: Any, rows: Tensor) -> Any:
        held = self.cache
        if isinstance(held, tuple | list):
            self.cache = tuple(tuple(one.index_select(0, rows) for one in layer) for layer in held)
        elif held is not None:
            held.reorder_cache(rows)
        return self.cache

    def read_prompt(self, ids: Tensor, length: int) -> tuple[Tensor, Any, Details]:
        outputs = self._call(ids[:, :length], hidden=True, cached=False)
        self.ahead = (outputs.logits[:, -1].float(), self._details(outputs))
        return self._hidden(outputs), None, self.ahead[1]

    def look_ahead(self, ids: Tensor, length: int, cache: Any, candidates: Tensor) -> tuple[Tensor, Any]:
        rows, count = candidates.shape
        longer = torch.cat([ids[:, :length].repeat_interleave(count, 0), candidates.reshape(-1, 1)], 1)
        outputs = self._call(longer, hidden=True, cached=False, copies=count)
        self.ahead = (outputs.logits[:, -1].float(), self._details(outputs))
        return self._hidden(outputs)[:, -1].view(rows, count, -1), None

    def keep(self, ids: Tensor, length: int, cache: Any, chosen: Tensor, tokens: Tensor) -> tuple[Any, Details]:
        logits, held = self.ahead
        row = torch.arange(len(chosen), device=chosen.device)

        def kept(x: Tensor, kind: int = 0) -> Tensor:
            return x.view(len(chosen), -1, *x.shape[1:])[row, chosen]

        self.ahead = (kept(logits), _changed(held, kept))
        return None, self.ahead[1]

    def logits(self, hidden: Tensor) -> Tensor:
        """Of the tokens whose states were read last."""
        logits: Tensor = self.ahead[0]
        return logits.clone()

    def tail(self, ids: Tensor, count: int) -> tuple[Tensor, Details, int]:
        outputs = self._call(ids)
        return outputs.logits[:, -count:].float(), self._details(outputs), outputs.logits.shape[1]

    def crop(self, length: int) -> None:
        self.done = min(self.done, length)
        if hasattr(self.cache, "crop"):
            self.cache.crop(length)
        elif self.cache is not None:
            raise GenerationError(
                "`past_key_values` must be a cache with `crop` to take drafted tokens back, got a tuple from this "
                "model's `forward`. Generate without `assistant_model`."
            )

    def _call(self, ids: Tensor, hidden: bool = False, cached: bool = True, copies: int = 1) -> Any:
        """What the model returns for all tokens so far, int64 [R * copies, length]."""
        given = {
            name: value.repeat_interleave(copies, 0) if copies > 1 and isinstance(value, Tensor) else value
            for name, value in self.inputs.items()
        }
        if copies > 1 and given.get("encoder_outputs") is not None:
            given["encoder_outputs"] = repeated(given["encoder_outputs"], copies)
        name = "decoder_attention_mask" if self.is_seq2seq else "attention_mask"
        if given.get(name) is not None:
            given[name] = nn.functional.pad(given[name], (0, ids.shape[1] - given[name].shape[1]), value=1)
        is_cached = cached and self.use_cache
        cache = self.cache if is_cached else None
        # Counted by tokens, not by the cache, which may hold more: the prefix of an adapter.
        position = torch.arange(0 if cache is None else self.done, ids.shape[1], device=ids.device)
        inputs = self.model.prepare_inputs_for_generation(
            ids, past_key_values=cache, use_cache=is_cached, cache_position=position, **given
        )
        if not self.takes_position:
            inputs.pop("cache_position", None)
        outputs = self.model(
            **inputs,
            return_dict=True,
            output_attentions=self.details[0],
            output_hidden_states=self.details[1] or hidden,
        )
        if is_cached:
            self.cache, self.done = getattr(outputs, "past_key_values", None), ids.shape[1]
        return outputs

    def _hidden(self, outputs: Any) -> Tensor:
        states: Tensor = (outputs.decoder_hidden_states if self.is_seq2seq else outputs.hidden_states)[-1]
        return states

    def _details(self, outputs: Any) -> Details:
        prefix = "decoder_" if self.is_seq2seq else ""
        cross = getattr(outputs, "cross_attentions", None) if self.details[0] else None
        own = getattr(outputs, prefix + "attentions", None) if self.details[0] else None
        return own, cross, getattr(outputs, prefix + "hidden_states", None) if self.details[1] else None


def repeated(outputs: Any, copies: int) -> Any:
    """An encoder's outputs with so many copies of each row, side by side."""
    if isinstance(outputs, tuple | list):
        return tuple(one.repeat_interleave(copies, 0) if isinstance(one, Tensor) else one for one in outputs)
    fields = {
        name: value.repeat_interleave(copies, 0) if isinstance(value, Tensor) else value
        for name, value in outputs.items()
    }
    return type(outputs)(**fields)


def succession(parents: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Where each row goes on, if row i followed from what is at parents[i]: as many as can stay where that is.

    Rows of one input lie side by side, so that those without a place and the places without a row, both in order,
    belong to the same input.

    Returns:
        The place of each row, and what must be copied to that end: places to read, and places to write.
    """
    free = iter(sorted(set(range(len(parents))).difference(parents)))
    places, sources, copies, taken = [], [], [], set()
    for parent in parents:
        if parent in taken:
            sources.append(parent)
            copies.append(next(free))
            places.append(copies[-1])
        else:
            taken.add(parent)
            places.append(parent)
    return places, sources, copies


def _details(outputs: BaseModelOutputWithPastAndCrossAttentions[Tensor]) -> Details:
    return outputs.attentions, outputs.cross_attentions, outputs.hidden_states


def _changed(details: Details, change: Callable[[Tensor, int], Tensor]) -> Details:
    """Details with every tensor changed; the change is told which of the three kinds it has."""
    attentions, cross, hidden = (
        None if tensors is None else tuple(None if one is None else change(one, kind) for one in tensors)
        for kind, tensors in enumerate(details)
    )
    return attentions, cross, hidden


def _of_row(tensor: Tensor, chosen: Tensor, dim: int) -> Tensor:
    """What a tensor [R, …] has at chosen[row] along a dimension, which goes."""
    index = chosen.view(-1, *[1] * (tensor.dim() - 1))
    size = [1 if axis == dim else length for axis, length in enumerate(tensor.shape)]
    return tensor.gather(dim, index.expand(size)).squeeze(dim)
