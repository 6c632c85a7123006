"""Generation in PyTorch: the searches of core/generation in a loop that runs from Python.

Letters in shapes: B inputs, n beams, R = B * n (or B * num_return_sequences) rows, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.decoding import CAUSAL_INPUTS, ENCODER_DECODER_INPUTS, following, resolve
from ..core.generation.call import HEAD_MASKS, GenerateArguments, GenerateCall
from ..core.generation.callbacks import Criterion, LoopCallbacks, StepCallbacks
from ..core.generation.preparation import prepare
from ..core.generation.run import LOOPS
from ..core.generation.task import Found, Settings, Task
from ..core.generation_config import GenerationConfig
from ..core.outputs import BaseModelOutput, ModelOutput
from ..core.settings.generation_options import OUTPUT_OPTIONS, GenerationMode
from ..core.strategies import assistant_options
from ..errors import GenerationError, InputError
from .arrays import EagerArrays
from .assisted import Draft, LookupDraft, assisted_search
from .attention import padding_mask
from .cache import Cache
from .changes import changed_part
from .decoder import EagerDecoder, ModelDecoder, Source, repeated
from .layers import check_ids
from .transformer import Encoder

if TYPE_CHECKING:
    from ..core.streamers import BaseStreamer

Processor = Callable[[Tensor, Tensor], Tensor]
"""A user's rule: ids so far, int64 [R, length], and scores, float32 [R, V], to new scores."""

NOT_GIVEN = frozenset(
    "self kwargs use_cache output_attentions output_hidden_states return_dict cache_position "
    "decoder_inputs_embeds inputs_embeds".split()
)
"""Arguments of `forward` that `generate` gives itself, or has options for."""

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
                once: the same result, sooner. Without beams; one input at a time if it samples.
            **kwargs: any option of `GenerationConfig` (they win over both configurations), and the model's inputs:
                `attention_mask` (made from the padding if not given), `inputs_embeds`, `encoder_outputs`,
                `decoder_input_ids`, `decoder_attention_mask`, head masks; `past_key_values` of an earlier call, whose
                output the prompt is; further arguments of an overridden `forward`. `tokenizer` for `stop_strings`.

        Returns:
            The ids, or with `return_dict_in_generate` one of the `Generate…Output` classes.

        Raises:
            GenerationError: for an option that is unknown, out of range, contradictory or not supported.
            InputError: for a missing or unusable input.
        """
        request = GenerateArguments(
            inputs=inputs,
            generation_config=_as_ours(generation_config),
            processors=[_without_length(one) for one in logits_processor or ()],
            criteria=stopping_criteria,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            streamer=streamer,
            tokenizer=kwargs.pop("tokenizer", None),
            assistant=assistant_model,
            options=kwargs,
        )
        call = GenerateCall(PyTorchBackend(self, _device(inputs, kwargs)), self.config, self.generation_config, request)
        output: ModelOutput = call.run()
        return output if call.config.return_dict_in_generate else cast(Any, output).sequences

    def _source(self, config: GenerationConfig, given: dict[str, Any]) -> Source:
        """The encoder's output, run once here and nowhere else, and the mask over it."""
        ids, embeds, outputs = given.get("input_ids"), given.get("inputs_embeds"), given.get("encoder_outputs")
        mask = given.get("attention_mask")
        if outputs is None:
            encoder = self.get_encoder()  # type: ignore[attr-defined]  # the class that this is mixed into has it
            options = {
                "input_ids": ids,
                "attention_mask": mask,
                "inputs_embeds": embeds,
                "head_mask": given.get("head_mask"),
                "output_attentions": bool(config.output_attentions),
                "output_hidden_states": bool(config.output_hidden_states),
                "return_dict": True,
            }
            if type(encoder) is not Encoder:  # one of the user's own gets what it takes, further arguments included
                options |= {name: value for name, value in given.items() if name not in ENCODER_DECODER_INPUTS}
                takes = inspect.signature(encoder.forward).parameters
                if not any(one.kind is one.VAR_KEYWORD for one in takes.values()):
                    options = {name: value for name, value in options.items() if name in takes}
            outputs = encoder(**options)
        elif isinstance(outputs, tuple | list):
            outputs = BaseModelOutput(*outputs[:3])
        states: Tensor = cast(Any, outputs).last_hidden_state
        return Source(states, padding_mask(mask, states.dtype), outputs)

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
        own = following(self.generation_config, self.config)
        return resolve(own, _as_ours(generation_config), options, names)[0].describe(defaults=False)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache_position: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Arguments of `forward` for one more step; `generate` asks it where a model was changed, and so may your loop.

        Args:
            input_ids: int64, all decoder tokens so far [B, T].
            past_key_values: the cache so far; then only the tokens it lacks are passed on.
            attention_mask: 1/0, of the source for an encoder-decoder, of the tokens for a causal model.
            inputs_embeds: vectors instead of ids, used in the first step only.
            cache_position: int64, positions of the tokens to pass on.
            **kwargs: passed on as they are.
        """
        past = 0
        if cache_position is not None:
            past = int(cache_position[0])
        elif past_key_values is not None:
            is_legacy = isinstance(past_key_values, tuple | list)
            past = past_key_values[0][0].shape[2] if is_legacy else past_key_values.get_seq_length()
        key = "decoder_input_ids" if self.config.is_encoder_decoder else "input_ids"
        if inputs_embeds is not None and past == 0:
            first: dict[str, Any] = {"inputs_embeds": inputs_embeds}
        else:
            first = {key: input_ids[:, past:]}
        given = {"past_key_values": past_key_values, "attention_mask": attention_mask, "cache_position": cache_position}
        return {**first, **{name: value for name, value in given.items() if value is not None}, **kwargs}

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


def _as_ours(config: Any) -> Any:
    """A generation configuration of this library; one of transformers, as its Trainer sets, gives what it has set."""
    if isinstance(config, GenerationConfig) or not hasattr(config, "to_diff_dict"):
        return config
    return GenerationConfig.from_dict(config.to_diff_dict())


class PyTorchBackend:
    """This framework's side of a call of `generate`; see core/generation/call.py."""

    compiles = False
    host_option = ""
    keeps_width = False

    def __init__(self, model: Any, device: torch.device | None = None) -> None:
        self.model, self.device = model, device or model.device
        self.xp = self.inputs = EagerArrays(self.device)
        self.changed = changed_part(model)

    @property
    def more_inputs(self) -> frozenset[str]:
        names = {"past_key_values"}
        for name in ("forward", "prepare_inputs_for_generation"):
            names |= set(inspect.signature(getattr(self.model, name)).parameters)
        return frozenset(names - NOT_GIVEN)

    # Never called: `compiles` is False, so that every call goes to `loop`, which runs the encoder itself.
    def compiled(self, settings: Settings) -> Any:
        raise NotImplementedError("PyTorch's loop runs from Python")

    traced = compiled

    def encoded(self, given: dict[str, Any], details: tuple[bool, bool]) -> Any:
        raise NotImplementedError("PyTorch's loop runs from Python")

    def is_symbolic(self, x: Any) -> bool:
        return False

    def is_tracing(self) -> bool:
        return False

    def concrete(self, name: str, x: Any) -> Any:
        if name in ("input_ids", "decoder_input_ids"):
            check_ids(name, x, dimensions=2)
        return x

    def seed(self) -> int:
        return int(torch.randint(2**62, ()))

    def loop(self, call: GenerateCall, callbacks: LoopCallbacks) -> tuple[Found, dict[str, Any]]:
        """The loop over a cache that is written in place."""
        config, given, model = call.config, call.given, self.model
        ids = given.get("input_ids")
        if call.is_seq2seq and given.get("encoder_outputs") is None and given.get("attention_mask") is None:
            given["attention_mask"] = None if ids is None else call.mask_of_padding(ids)
        source = model._source(config, given) if call.is_seq2seq else _memory_of(given)
        every = 1 if callbacks.looks_at_steps else LOOK_EVERY.get(self.device.type, 8)
        self.xp = EagerArrays(self.device, every, reuses=not call.request.processors)
        task = self._task(model, call, source, callbacks)
        is_assisted = call.mode is GenerationMode.ASSISTED_GENERATION
        found = self._assisted(call, task) if is_assisted else LOOPS[call.mode](task)
        decoder: Any = task.decoder
        if isinstance(decoder, EagerDecoder):
            decoder.crop(int(found.length) - 1)
        return found, {"past_key_values": decoder.cache, "encoder_outputs": source.outputs}

    def _task(self, model: Any, call: GenerateCall, source: Source, callbacks: StepCallbacks) -> Task:
        """What a search is given to run this model, or its assistant, for the call."""
        plan = call.plan
        settings, numbers = prepare(plan, call.mode, 0, tuple(call.request.processors or ()), 0, is_bucketed=False)
        if settings.do_sample:
            numbers = replace(numbers, seed=self.seed())
        copies = max(settings.beams, settings.returned)
        ids = call.prompt.new_full((len(call.prompt), settings.width), plan.pad)
        ids[:, : plan.prompt_length] = call.prompt
        mask = call.prompt_mask
        ids, mask = self.xp.repeat(ids, copies), None if mask is None else self.xp.repeat(mask, copies)
        is_own = model is self.model
        details = call.details if is_own else (False, False)
        decoder: Any
        if (self.changed if is_own else changed_part(model)) is None:
            decoder = EagerDecoder(
                model,
                source,
                settings.width - 1 + self._candidates(call, settings),
                mask,
                head_masks=self._head_masks(call) if is_own else None,
                details=details,
                use_cache=settings.use_cache,
                low_memory=settings.low_memory,
                beams=settings.beams,
                past=self._past(call, plan.prompt_length, len(ids)) if is_own else None,
            )
        else:
            inputs = self._inputs(call, source, copies, mask, is_own)
            use_cache = settings.use_cache and call.mode is not GenerationMode.CONTRASTIVE_SEARCH
            past = self._past(call, plan.prompt_length, len(ids)) if is_own and use_cache else None
            decoder = ModelDecoder(model, inputs, details=details, use_cache=use_cache, past=past)
        allowed = None
        if mask is not None:
            allowed = F.pad(mask != 0, (0, settings.width - mask.shape[1]), value=True)
        return Task(self.xp, settings, numbers, decoder, ids, allowed, callbacks)

    def _past(self, call: GenerateCall, length: int, rows: int) -> Any:
        """The cache that a call goes on from, if it is given one that is not empty."""
        past = call.given.get("past_key_values")
        if past is None or len(past) == 0:
            return None
        if call.mode is GenerationMode.CONTRASTIVE_SEARCH or call.config.use_cache is False:
            raise GenerationError(
                "`past_key_values` must be None with `penalty_alpha` or `use_cache=False`, which read every token, "
                "got a cache. Leave it out."
            )
        held = past[0][0].shape
        if held[0] != rows or held[2] >= length:
            raise InputError(
                f"`past_key_values` must hold {rows} rows of fewer than {length} tokens, the prompt's, "
                f"got {held[0]} of {held[2]}. Pass all tokens so far as the prompt, and a row for each that is decoded."
            )
        return past

    def _candidates(self, call: GenerateCall, settings: Settings) -> int:
        """Tokens that a contrastive search reads beyond the sequence."""
        if call.mode is not GenerationMode.CONTRASTIVE_SEARCH:
            return 0
        return 1 if settings.low_memory else settings.top_k

    def _head_masks(self, call: GenerateCall) -> dict[str, Tensor | None]:
        prefix = "decoder_" if call.is_seq2seq else ""
        return {
            "head_mask": call.given.get(prefix + "head_mask"),
            "cross_attn_head_mask": call.given.get("cross_attn_head_mask"),
        }

    def _inputs(
        self, call: GenerateCall, source: Source, copies: int, mask: Tensor | None, is_own: bool
    ) -> dict[str, Any]:
        """What the model's `forward` is given beside the tokens, a row for each sequence."""
        without = {"input_ids", "inputs_embeds", "decoder_input_ids", "labels", "encoder_outputs", "past_key_values"}
        without |= {"head_mask"} if call.is_seq2seq else {"attention_mask"}
        without |= {"decoder_attention_mask"} | (set() if is_own else set(HEAD_MASKS))
        inputs = {
            name: self.xp.repeat(value, copies) if isinstance(value, Tensor) and name not in HEAD_MASKS else value
            for name, value in call.given.items()
            if name not in without
        }
        inputs["decoder_attention_mask" if call.is_seq2seq else "attention_mask"] = mask
        if call.is_seq2seq:
            inputs["encoder_outputs"] = source.outputs if copies == 1 else repeated(source.outputs, copies)
        return {name: value for name, value in inputs.items() if value is not None}

    def _assisted(self, call: GenerateCall, task: Task) -> Found:
        """Greedy search or sampling with drafts."""
        if call.request.assistant is None:
            count, longest = call.config.prompt_lookup_num_tokens or 1, call.config.max_matching_ngram_size or 2
            source = call.given.get("input_ids") if call.is_seq2seq else None
            random = torch.Generator(self.device).manual_seed(self.seed()) if call.config.do_sample else None
            return assisted_search(task, LookupDraft(source, count, longest, self.model.config.vocab_size, random))
        assistant, config = call.request.assistant, copy.deepcopy(call.config)
        for name in OUTPUT_OPTIONS:
            setattr(config, name, False)
        inputs = {name: value for name, value in call.given.items() if not name.endswith("head_mask")}
        inputs.pop("encoder_outputs", None)
        if call.is_seq2seq and inputs.get("attention_mask") is None:
            inputs["attention_mask"] = call.mask_of_padding(inputs["input_ids"])
        source = assistant._source(config, inputs) if call.is_seq2seq else _memory_of(inputs)
        options = assistant_options(call.config, assistant.generation_config)
        generator = None
        if config.do_sample:
            generator = torch.Generator(assistant.device).manual_seed(self.seed())
        own = self._task(assistant, call, source, StepCallbacks())
        draft = Draft(own, options, assistant.config.max_position_embeddings, generator)
        found = assisted_search(task, draft)
        if options.is_own and options.schedule == "heuristic":
            assistant.generation_config.num_assistant_tokens = draft.tokens
        return found


def _device(inputs: Any, options: dict[str, Any]) -> torch.device | None:
    """Where the inputs of a call are: the weights of a model that is offloaded lie elsewhere."""
    return next((one.device for one in (inputs, *options.values()) if isinstance(one, Tensor)), None)


def _without_length(processor: Processor) -> Callable[[Tensor, Tensor, int], Tensor]:
    """A user's processor as the searches call it, which tell the length apart from the ids."""
    return lambda ids, scores, length: processor(ids, scores)


def _memory_of(given: dict[str, Any]) -> Source:
    """What a causal model attends to besides its own tokens, if anything."""
    states = given.get("encoder_hidden_states")
    return Source(states, None if states is None else padding_mask(given.get("encoder_attention_mask"), states.dtype))
