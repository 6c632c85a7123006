"""Generation in PyTorch: every strategy over a cache that is written in place.

Greedy search, sampling and the inputs and outputs of all strategies are here; the other strategies have rooms of their
own (beams, diverse_beams, contrastive, assisted), and so have the pieces they are all made of (steps).

Letters in shapes: B inputs, n beams, R = B * n (or B * num_return_sequences) rows, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..core.decoding import CAUSAL_INPUTS, ENCODER_DECODER_INPUTS, Plan, plan, resolve
from ..core.generation_config import GenerationConfig
from ..core.outputs import (
    BaseModelOutput,
    GenerateBeamDecoderOnlyOutput,
    GenerateBeamEncoderDecoderOutput,
    GenerateDecoderOnlyOutput,
    GenerateEncoderDecoderOutput,
    ModelOutput,
)
from ..core.settings.generation_options import OUTPUT_OPTIONS, GenerationMode
from ..core.strategies import ask, assistant_options, check_assistant
from ..errors import GenerationError
from .assisted import AssistedDecoding, Draft
from .attention import padding_mask
from .beams import BeamSearch, generators
from .cache import Cache
from .contrastive import ContrastiveSearch
from .diverse_beams import DiverseBeamSearch
from .packing import packed
from .prompts import causal_prompt, check_draftable, decoder_prompt, mask_of_padding, memory_of
from .steps import Criterion, DecoderSteps, Draw, Processor, Records, Scorer, Source, Stop, at_strings

if TYPE_CHECKING:
    from ..core.streamers import BaseStreamer

LOOK_EVERY = {"cpu": 1}
"""Steps between two looks at whether every row is over, by device; 8 elsewhere."""


class GenerationMixin:
    """`generate` for models with a language-modelling head."""

    config: Any
    _generation_config: GenerationConfig

    if TYPE_CHECKING:

        @property
        def device(self) -> torch.device:
            """The model's."""

    @property
    def generation_config(self) -> GenerationConfig:
        """The options that hold where a call of `generate` says nothing else. One of transformers may be set, too."""
        return self._generation_config

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        self._generation_config = _as_ours(value)

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Iterable[Processor] | None = None,
        stopping_criteria: Iterable[Criterion] | None = None,
        prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | None = None,
        streamer: BaseStreamer | None = None,
        assistant_model: Any = None,
        **kwargs: Any,
    ) -> Tensor | ModelOutput:
        """Generated token ids, int64 [B * num_return_sequences, length], padded after their end.

        An encoder-decoder's output begins with the decoder's start token, a causal model's with the prompt.

        Args:
            inputs: int64 source [B, S] (or the prompt of a causal model); the same as `input_ids`.
            generation_config: settings for this call; where they are defaults, the model's own hold.
            logits_processor: functions (ids [R, length], scores [R, V]) -> scores, run after the built-in rules on
                ids and lengths and before those of sampling.
            stopping_criteria: functions (ids, scores) -> bool or bool [R]; a row stops when one of them says so.
            prefix_allowed_tokens_fn: (row, ids so far) -> the ids allowed next.
            streamer: gets the prompt and then each token as it is chosen; with beams, the tokens of the first input as
                soon as all its beams agree on them.
            assistant_model: a smaller model of the same family and vocabulary, which drafts what this one then reads at
                once: the same result, sooner. One input at a time; without beams.
            **kwargs: any option of `GenerationConfig` (they win over both configurations), and the model's inputs:
                `attention_mask` (made from the padding if not given), `inputs_embeds`, `encoder_outputs`,
                `decoder_input_ids`, `decoder_attention_mask`, head masks. `tokenizer` for `stop_strings`.

        Returns:
            The ids, or with `return_dict_in_generate` one of the `Generate…Output` classes.

        Raises:
            GenerationError: for an option that is unknown, out of range, contradictory or not supported.
            InputError: for a missing or unusable input.
        """
        is_seq2seq = bool(self.config.is_encoder_decoder)
        tokenizer = kwargs.pop("tokenizer", None)
        config, given, mode = ask(
            self.generation_config,
            _as_ours(generation_config),
            kwargs,
            is_encoder_decoder=is_seq2seq,
            inputs=inputs,
            assistant=assistant_model,
            streamer=streamer,
            tokenizer=tokenizer,
        )
        if assistant_model is not None:
            check_assistant(self.config, assistant_model)
            check_draftable(given, assistant_model)
        ids, decoder_mask = decoder_prompt(config, given) if is_seq2seq else causal_prompt(config, given, self.device)
        self._check_hook(ids, decoder_mask)
        max_length_given = kwargs.get("max_length") is not None
        resolved = plan(
            config,
            self.config,
            ids.shape[1],
            max_length_given=max_length_given,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            source=given.get("input_ids"),
        )
        source = self._source(config, given) if is_seq2seq else memory_of(given)
        copies = max(config.num_beams, config.num_return_sequences)
        records = Records()
        head_masks = {
            "head_mask": given.get("decoder_head_mask" if is_seq2seq else "head_mask"),
            "cross_attn_head_mask": given.get("cross_attn_head_mask"),
        }
        if copies > 1:
            ids = ids.repeat_interleave(copies, 0)
            decoder_mask = None if decoder_mask is None else decoder_mask.repeat_interleave(copies, 0)
        steps = DecoderSteps(self, config, source, _room(resolved, mode), decoder_mask, head_masks, records)
        scorer = Scorer(resolved, list(logits_processor or ()), records)
        criteria = list(stopping_criteria or ())
        if config.stop_strings is not None:
            criteria.append(at_strings(config.stop_strings, tokenizer))
        stop = Stop(resolved, criteria, ids.device)
        draft = None if assistant_model is None else self._draft(assistant_model, resolved, given, scorer.processors)
        with packed(steps.decoder):
            return self._run(mode, ids, steps, scorer, stop, source, streamer, draft)

    def _run(
        self,
        mode: GenerationMode,
        ids: Tensor,
        steps: DecoderSteps,
        scorer: Scorer,
        stop: Stop,
        source: Source,
        streamer: BaseStreamer | None,
        draft: Draft | None,
    ) -> Tensor | ModelOutput:
        """The strategy's loop, and what it returns."""
        resolved, records, config = scorer.plan, scorer.records, scorer.plan.config
        if mode is GenerationMode.GROUP_BEAM_SEARCH:
            return self._diverse_beam_search(ids, resolved, steps, scorer, stop, records, source)
        if config.num_beams > 1:
            return self._beam_search(ids, resolved, steps, scorer, stop, records, source, streamer)
        if draft is not None:
            sequences = self._decode_assisted(ids, resolved, steps, scorer, stop, draft, streamer)
        else:
            search = ContrastiveSearch(steps, resolved) if mode is GenerationMode.CONTRASTIVE_SEARCH else None
            sequences = self._choose_one_by_one(ids, resolved, steps, scorer, stop, streamer, search)
        if not config.return_dict_in_generate:
            return sequences
        return self._output(False, sequences, steps, records, source)

    # ---- inputs

    def _source(self, config: GenerationConfig, given: dict[str, Any]) -> Source:
        """The encoder's output, run once here and nowhere else, and the mask over it."""
        ids, embeds, outputs = given.get("input_ids"), given.get("inputs_embeds"), given.get("encoder_outputs")
        mask = given.get("attention_mask")
        if mask is None and ids is not None and outputs is None:
            mask = mask_of_padding(ids, config)
        if outputs is None:
            outputs = self.get_encoder()(  # type: ignore[attr-defined]
                input_ids=ids,
                attention_mask=mask,
                inputs_embeds=embeds,
                head_mask=given.get("head_mask"),
                output_attentions=bool(config.output_attentions),
                output_hidden_states=bool(config.output_hidden_states),
                return_dict=True,
            )
        elif isinstance(outputs, tuple | list):
            outputs = BaseModelOutput(*outputs[:3])
        states: Tensor = cast(Any, outputs).last_hidden_state
        return Source(states, padding_mask(mask, states.dtype), outputs)

    # ---- loops

    def _choose_one_by_one(
        self,
        ids: Tensor,
        plan: Plan,
        steps: DecoderSteps,
        scorer: Scorer,
        stop: Stop,
        streamer: BaseStreamer | None,
        search: ContrastiveSearch | None,
    ) -> Tensor:
        """Greedy search, sampling or a contrastive search: one token per row and step until every row is over."""
        rows, length = ids.shape
        sequences = ids.new_full((rows, plan.max_length), plan.pad)
        sequences[:, :length] = ids
        is_open = torch.ones(rows, dtype=torch.bool, device=ids.device)
        draw = Draw(rows, plan.max_length - length, ids.device) if plan.config.do_sample else None
        # A look at whether a row is still open waits for the device: every few steps is enough there. Steps past the
        # end only write padding, which is cut off.
        is_watched = streamer is not None or search is not None or plan.config.return_dict_in_generate or stop.criteria
        every = 1 if is_watched else LOOK_EVERY.get(ids.device.type, 8)
        prompt, still_open = length, torch.zeros((), dtype=torch.int64, device=ids.device)
        if streamer is not None:
            streamer.put(ids.cpu())
        while True:
            so_far = sequences[:, :length]
            scores = scorer(so_far, (search or steps)(so_far), normalize=False)
            if search is not None:
                tokens = search.choose(so_far, scores)
            elif draw is not None:
                tokens = draw(scores)
            else:
                tokens = scores.argmax(-1)
            if plan.end:
                tokens = torch.where(is_open, tokens, plan.pad)
            sequences[:, length] = tokens
            length += 1
            if streamer is not None:
                streamer.put(tokens.cpu())
            is_open &= ~stop(sequences[:, :length], scores)
            still_open += is_open.any()
            if ((length - prompt) % every == 0 or length == plan.max_length) and not bool(is_open.any()):
                break
        if every > 1:
            length = prompt + int(still_open) + 1
        if search is not None:
            search.finish(length)
        if streamer is not None:
            streamer.end()
        return sequences[:, :length]

    def _decode_assisted(
        self,
        ids: Tensor,
        plan: Plan,
        steps: DecoderSteps,
        scorer: Scorer,
        stop: Stop,
        draft: Draft,
        streamer: BaseStreamer | None,
    ) -> Tensor:
        """Greedy search or sampling of one sequence that an assistant drafts."""
        decode = AssistedDecoding(steps, scorer, stop, draft, plan)
        if streamer is None:
            sequences = decode(ids)
        else:
            show = streamer
            show.put(ids.cpu())
            sequences = decode(ids, lambda token: show.put(token.cpu()))
            show.end()
        if draft.options.is_own and draft.options.schedule == "heuristic":
            draft.steps.model.generation_config.num_assistant_tokens = draft.tokens
        return sequences

    def _draft(self, assistant: Any, plan: Plan, given: dict[str, Any], processors: Sequence[Processor]) -> Draft:
        """The assistant, which has read the source once."""
        config = copy.deepcopy(plan.config)
        for name in OUTPUT_OPTIONS:
            setattr(config, name, False)
        inputs = {name: value for name, value in given.items() if not name.endswith("head_mask")}
        inputs.pop("encoder_outputs", None)
        is_seq2seq = bool(self.config.is_encoder_decoder)
        source = assistant._source(config, inputs) if is_seq2seq else memory_of(inputs)
        _, mask = decoder_prompt(config, inputs) if is_seq2seq else causal_prompt(config, inputs, assistant.device)
        steps = DecoderSteps(assistant, config, source, plan.max_length, mask, {}, Records())
        random = generators(1, assistant.device)[0] if config.do_sample else None
        options = assistant_options(plan.config, assistant.generation_config)
        return Draft(steps, Scorer(plan, processors, Records()), options, plan.end, random)

    def _beam_search(
        self,
        ids: Tensor,
        plan: Plan,
        steps: DecoderSteps,
        scorer: Scorer,
        stop: Stop,
        records: Records,
        source: Source,
        streamer: BaseStreamer | None,
    ) -> Tensor | ModelOutput:
        """Beam search, or beam sampling if the plan samples."""
        search = BeamSearch(ids, plan)
        shown = ids.shape[1]
        if streamer is not None:
            streamer.put(ids[:: search.beams].cpu())
        while not search.is_over:
            so_far = search.ids()
            scores = scorer(so_far, steps(so_far), normalize=True)
            settled = search.settled()
            search.step(scores, stop)
            if streamer is not None and (agreed := search.agreed()) > shown:
                streamer.put(search.running[0, 0, shown:agreed].cpu())
                shown = agreed
            if not search.is_over:
                steps.reorder(search.rows(), settled)
        finished = search.finish()
        if streamer is not None:
            if finished[0].shape[1] > shown:
                streamer.put(finished[0][0, shown:].cpu())
            streamer.end()
        return self._beam_output(finished, plan, steps, records, source)

    def _diverse_beam_search(
        self,
        ids: Tensor,
        plan: Plan,
        steps: DecoderSteps,
        scorer: Scorer,
        stop: Stop,
        records: Records,
        source: Source,
    ) -> Tensor | ModelOutput:
        """Beam search in groups that keep from saying the same."""
        search = DiverseBeamSearch(ids, plan)
        while not search.is_over:
            search.step(steps(search.ids()), scorer, stop)
            if not search.is_over:
                steps.reorder(search.rows())
        return self._beam_output(search.finish(), plan, steps, records, source)

    def _beam_output(
        self, finished: tuple[Tensor, Tensor, Tensor], plan: Plan, steps: DecoderSteps, records: Records, source: Source
    ) -> Tensor | ModelOutput:
        """What `generate` returns for the sequences that a beam search has finished."""
        sequences, scores, indices = finished
        if not plan.config.return_dict_in_generate:
            return sequences
        output = self._output(True, sequences, steps, records, source)
        output["beam_indices"] = indices
        output["sequences_scores"] = scores if plan.config.output_scores else None
        return output

    def _output(
        self, is_beam: bool, sequences: Tensor, steps: DecoderSteps, records: Records, source: Source
    ) -> ModelOutput:
        """The output object, with what was asked to be collected."""
        config = steps.config
        is_seq2seq = source.outputs is not None
        values: dict[str, Any] = {
            "sequences": sequences,
            "scores": tuple(records.scores) if config.output_scores else None,
            "logits": tuple(records.logits) if config.output_logits else None,
            "past_key_values": steps.cache,
        }
        prefix = "decoder_" if is_seq2seq else ""
        values[prefix + "attentions"] = tuple(records.attentions) if config.output_attentions else None
        values[prefix + "hidden_states"] = tuple(records.hidden_states) if config.output_hidden_states else None
        if source.outputs is not None:
            values["cross_attentions"] = tuple(records.cross_attentions) if config.output_attentions else None
            values["encoder_attentions"] = source.outputs.attentions
            values["encoder_hidden_states"] = source.outputs.hidden_states
            return (GenerateBeamEncoderDecoderOutput if is_beam else GenerateEncoderDecoderOutput)(**values)
        return (GenerateBeamDecoderOnlyOutput if is_beam else GenerateDecoderOnlyOutput)(**values)

    # ---- around

    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: tuple[Tensor, ...],
        beam_indices: Tensor | None = None,
        normalize_logits: bool = False,
    ) -> Tensor:
        """The score of each generated token, float32 [rows of sequences, new tokens]; 0 after a beam's end.

        Args:
            sequences: int64 [rows, length], as `generate` returned them.
            scores: one [R, V] per step, as returned with `output_scores`.
            beam_indices: int64 [rows, new tokens] as returned for beams; which row of `scores` a token came from.
            normalize_logits: turn scores into log-probabilities first.
        """
        stacked = torch.stack(scores)  # [steps, R, V]
        if normalize_logits:
            stacked = stacked.log_softmax(-1)
        if beam_indices is None:
            beam_indices = torch.arange(stacked.shape[1], device=sequences.device)[:, None].expand(-1, len(scores))
        steps = int((beam_indices >= 0).sum(-1).max())
        beam_indices = beam_indices[:, :steps]
        step = torch.arange(steps, device=sequences.device)[None]
        chosen = stacked[step, beam_indices.clamp(min=0), sequences[:, sequences.shape[1] - steps :]]
        return chosen.masked_fill(beam_indices < 0, 0.0)

    def describe_generation(self, generation_config: GenerationConfig | None = None, **options: Any) -> str:
        """What `generate` would go by with these arguments: a line per option, its value and where that came from.

        Args:
            generation_config: as for `generate`.
            **options: as for `generate`; inputs of the model are not needed.

        Raises:
            GenerationError: as `generate` would.
        """
        names = ENCODER_DECODER_INPUTS if self.config.is_encoder_decoder else CAUSAL_INPUTS
        return resolve(self.generation_config, _as_ours(generation_config), options, names)[0].describe(defaults=False)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache_position: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Arguments of `forward` for one more step of a loop of your own; `generate` does not need it.

        Args:
            input_ids: int64, all decoder tokens so far [B, T].
            past_key_values: the cache so far; then only the tokens it lacks are passed on.
            attention_mask: 1/0, of the source for an encoder-decoder, of the tokens for a causal model.
            inputs_embeds: vectors instead of ids, used in the first step only.
            cache_position: int64, positions of the tokens to pass on.
            **kwargs: passed on as they are.
        """
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        key = "decoder_input_ids" if self.config.is_encoder_decoder else "input_ids"
        if inputs_embeds is not None and past == 0:
            first: dict[str, Any] = {"inputs_embeds": inputs_embeds}
        else:
            first = {key: input_ids[:, past:]}
        given = {"past_key_values": past_key_values, "attention_mask": attention_mask, "cache_position": cache_position}
        return {**first, **{name: value for name, value in given.items() if value is not None}, **kwargs}

    def _check_hook(self, ids: Tensor, mask: Tensor | None) -> None:
        """Raise if another library, or a subclass, has changed what the first step is given: `generate` would not."""
        hook = self.prepare_inputs_for_generation
        if getattr(hook, "__func__", None) is GenerationMixin.prepare_inputs_for_generation:
            return
        expected = GenerationMixin.prepare_inputs_for_generation(self, ids, attention_mask=mask)
        found = hook(ids, attention_mask=mask)
        changed = [name for name in sorted({**expected, **found}) if not _is_same(expected.get(name), found.get(name))]
        if changed:
            raise GenerationError(
                "`prepare_inputs_for_generation` must leave the inputs as they are, got others for "
                f"{', '.join(changed)}. `generate` does not go through it. Of the methods of peft, adapters work, and "
                "prompts of an encoder."
            )

    def _prepare_encoder_decoder_kwargs_for_generation(
        self,
        inputs_tensor: Tensor,
        model_kwargs: dict[str, Any],
        model_input_name: str | None = None,
        generation_config: GenerationConfig | None = None,
    ) -> dict[str, Any]:
        """The arguments with the encoder's output among them. Earlier versions of peft look for this name."""
        given = {**model_kwargs, model_input_name or "input_ids": inputs_tensor}
        source = self._source(_as_ours(generation_config) or self.generation_config, given)
        return {**model_kwargs, "encoder_outputs": source.outputs}


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    return one is other


def _as_ours(config: Any) -> Any:
    """A generation configuration of this library; one of transformers, as its Trainer sets, gives what it has set."""
    if isinstance(config, GenerationConfig) or not hasattr(config, "to_diff_dict"):
        return config
    return GenerationConfig.from_dict(config.to_diff_dict())


def _room(plan: Plan, mode: GenerationMode) -> int:
    """Length that the cache must have room for: contrastive search reads its candidates beyond the sequence."""
    return plan.max_length + ((plan.config.top_k or 0) if mode is GenerationMode.CONTRASTIVE_SEARCH else 0)
