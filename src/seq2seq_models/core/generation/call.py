"""A call of `generate`, in every framework: arguments checked, inputs and prompt made, run, and given back as asked.

Letters in shapes: B inputs, L width of the sequences, S source, D model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import GenerationError, InputError
from ..decoding import following, plan
from ..generation_config import GenerationConfig
from ..generation_rules import tokens_of
from ..outputs import (
    BaseModelOutput,
    GenerateBeamDecoderOnlyOutput,
    GenerateBeamEncoderDecoderOutput,
    GenerateDecoderOnlyOutput,
    GenerateEncoderDecoderOutput,
)
from ..settings.generation_options import GenerationMode
from ..stop_strings import StopStrings
from ..strategies import ask, check_assistant
from .arrays import Arrays
from .callbacks import Criterion, LoopCallbacks
from .host_arrays import HostArrays
from .preparation import bucket, prepare, typed
from .run import Inputs, run, search
from .task import Found, Numbers, Processor, Settings, Task

if TYPE_CHECKING:
    from ..streamers import BaseStreamer

logger = logging.getLogger("seq2seq_models")

VECTORS = ("inputs_embeds", "encoder_outputs", "encoder_hidden_states")
SOURCES = ("input_ids", "inputs_embeds", "encoder_outputs")
HEAD_MASKS = ("head_mask", "decoder_head_mask", "cross_attn_head_mask")


class Backend(Protocol):
    """What a framework offers."""

    @property
    def xp(self) -> Arrays:
        """The array namespace of the model."""

    @property
    def inputs(self) -> Arrays:
        """The namespace of inputs whose values are known."""

    model: Any

    @property
    def more_inputs(self) -> frozenset[str]:
        """Arguments of the model beyond those of its family, which an overridden `forward` takes."""

    changed: str | None
    """What about the model is not this library's own, in words: then decoding goes through it. None if nothing is."""

    compiles: bool
    """Whether a call is one compiled program unless it needs the host; else the loop always runs from Python."""

    host_option: str
    """The argument of `generate` that asks for the loop from Python, whatever the call needs."""

    keeps_width: bool
    """Whether sequences always come back with `max_length` columns, as they do inside compiled code."""

    def is_symbolic(self, x: Any) -> bool:
        """Whether the values of an array are not known yet, because the caller's own code is being compiled."""

    def is_tracing(self) -> bool:
        """Whether the call is part of what is being compiled, even if no array of its inputs is symbolic."""

    def concrete(self, name: str, x: Any) -> Any:
        """An input of ids or of a mask as an array of `inputs`, checked; as it is where it is symbolic."""

    def compiled(self, settings: Settings) -> Callable[[Inputs, Numbers], Found]:
        """`run` for these settings, compiled; the same function for equal settings."""

    def traced(self, settings: Settings) -> Callable[[Inputs, Numbers], Found]:
        """`run` for these settings as part of what is being compiled."""

    def encoded(self, given: dict[str, Any], details: tuple[bool, bool]) -> Any:
        """The encoder's output object for the inputs of a call."""

    def loop(self, call: GenerateCall, callbacks: LoopCallbacks) -> tuple[Found, dict[str, Any]]:
        """What the loop that runs from Python returns, and further fields of the output."""

    def seed(self) -> Any:
        """int32 [2] or an integer, for the draws of this call."""


@dataclass
class GenerateArguments:
    """The arguments of `generate`, as its caller gave them."""

    inputs: Any
    generation_config: GenerationConfig | None
    options: dict[str, Any]
    processors: Iterable[Processor] | None = None
    criteria: Iterable[Criterion] | None = None
    prefix_allowed_tokens_fn: Callable[[int, Any], Sequence[int]] | None = None
    streamer: BaseStreamer | None = None
    tokenizer: Any = None
    assistant: Any = None
    on_host: bool = False


class GenerateCall:
    """One call of `generate`.

    Args:
        backend: the framework's side.
        model_config: of the model.
        own: the model's generation configuration.
        request: the caller's arguments.

    Raises:
        GenerationError: for an option that is unknown, out of range, contradictory or not supported.
        InputError: for a missing or unusable input.
    """

    def __init__(self, backend: Backend, model_config: Any, own: GenerationConfig, request: GenerateArguments) -> None:
        self.backend, self.model_config, self.request = backend, model_config, request
        self.is_seq2seq = bool(model_config.is_encoder_decoder)
        config, given, self.mode = ask(
            following(own, model_config),
            request.generation_config,
            request.options,
            is_encoder_decoder=self.is_seq2seq,
            inputs=request.inputs,
            assistant=request.assistant,
            streamer=request.streamer,
            tokenizer=request.tokenizer,
            more_inputs=backend.more_inputs,
        )
        self.config, self.given = config, {name: self._concrete(name, value) for name, value in given.items()}
        drafts = {"assistant_model": request.assistant, "prompt_lookup_num_tokens": config.prompt_lookup_num_tokens}
        if backend.compiles and any(value is not None for value in drafts.values()):
            names = ", ".join(f"`{name}`" for name, value in drafts.items() if value is not None)
            raise GenerationError(
                f"{names} must be None in this framework: drafts of changing length would be compiled anew for each. "
                "Leave it out, or use the PyTorch model."
            )
        if request.assistant is not None:
            check_assistant(model_config, request.assistant)
            self._check_draftable()
        if config.prompt_lookup_num_tokens is not None:
            self._check_sampled_draft("prompt_lookup_num_tokens")
        if (
            self.is_seq2seq
            and all(self.given.get(name) is None for name in SOURCES)
            and config.bos_token_id is not None
        ):
            # Nothing to read: the source is the token that begins one.
            self.given["input_ids"] = backend.inputs.full((1, 1), tokens_of(config.bos_token_id)[0], "int32")
        self._check_inputs()
        prompt, prompt_mask = self._decoder_prompt() if self.is_seq2seq else self._prompt()
        self.plan = plan(
            config,
            model_config,
            prompt.shape[1],
            max_length_given=request.options.get("max_length") is not None,
            prefix_allowed_tokens_fn=request.prefix_allowed_tokens_fn,
            source=self.given.get("input_ids"),
        )
        self.details = (
            bool(config.return_dict_in_generate and config.output_attentions),
            bool(config.return_dict_in_generate and config.output_hidden_states),
        )
        if backend.compiles and any(self.details) and self.mode is GenerationMode.CONTRASTIVE_SEARCH:
            raise GenerationError(
                "`output_attentions` and `output_hidden_states` must be unset with `penalty_alpha`, got True: compiled "
                "contrastive search does not collect them. Leave them out, or use the PyTorch model."
            )
        self.needs_host = not backend.compiles or backend.changed is not None or bool(self._host_options())
        self.is_traced = backend.is_tracing() or any(map(self._is_symbolic, (prompt, *self.given.values())))
        if self.is_traced and backend.changed is not None:
            raise GenerationError(
                f"a model inside compiled code must be as this library made it, got one of which {backend.changed}. "
                "Call `generate` outside of it."
            )
        if self.is_traced and self.needs_host:
            raise GenerationError(
                f"{', '.join(self._host_options())} must be unset inside compiled code, which the host cannot look "
                "into. Leave them out, or call `generate` outside of it."
            )
        self.prompt, self.prompt_mask = prompt, prompt_mask

    # ---- running

    def run(self) -> Any:
        """The output object."""
        form = "by the fast path" if self.backend.changed is None else f"through the model: {self.backend.changed}"
        logger.info("generate: %s decodes %s", type(self.backend.model).__name__, form)
        if self.needs_host:
            return self._run_from_python()
        settings, numbers, inputs = self.prepared(is_bucketed=True)
        call = self.backend.traced(settings) if self.is_traced else self.backend.compiled(settings)
        return self._output(call(inputs, numbers), None, {"encoder_outputs": self.given.get("encoder_outputs")})

    def _run_from_python(self) -> Any:
        config, request, backend = self.config, self.request, self.backend
        records = bool(config.return_dict_in_generate)
        callbacks = LoopCallbacks(
            backend.inputs,
            backend.xp,
            self.plan.prompt_length,
            criteria=tuple(request.criteria or ()),
            stop_strings=None if config.stop_strings is None else StopStrings(config.stop_strings, request.tokenizer),
            max_time=config.max_time,
            streamer=request.streamer,
            keeps_scores=records and bool(config.output_scores),
            keeps_logits=records and bool(config.output_logits),
            keeps_details=any(self.details),
            is_beams=config.num_beams > 1,
        )
        copies = 1 if config.num_beams > 1 else config.num_return_sequences
        callbacks.begin(backend.inputs.repeat(self.prompt, copies))
        found, more = backend.loop(self, callbacks)
        output = self._output(found, callbacks, more)
        callbacks.end(output.sequences)
        return output

    def _host_options(self) -> list[str]:
        """What this call asks for that compiled code cannot do."""
        config, request = self.config, self.request
        asked = {
            "`stopping_criteria`": request.criteria,
            "`prefix_allowed_tokens_fn`": request.prefix_allowed_tokens_fn,
            "`streamer`": request.streamer,
            "`max_time`": config.max_time is not None,
            "`stop_strings`": config.stop_strings,
            f"`{self.backend.host_option}`": request.on_host,
        }
        if config.return_dict_in_generate:
            names = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
            asked |= {f"`{name}`": getattr(config, name) for name in names}
        return [name for name, value in asked.items() if value]

    def prepared(self, is_bucketed: bool) -> tuple[Settings, Numbers, Inputs]:
        """Settings, numbers and arrays of the loop."""
        backend = self.backend
        positions = self.model_config.max_position_embeddings
        ids, embeds, states, mask = self._memory()
        lengths = [x.shape[1] for x in (ids, embeds, states) if x is not None]
        length = lengths[0] if lengths else 0
        settings, numbers = prepare(self.plan, self.mode, positions, tuple(self.request.processors or ()), length)
        numbers = typed(numbers)
        room = bucket(length, positions) if is_bucketed and lengths else length
        if numbers.source is not None:
            columns = bucket(numbers.source.shape[1], positions)
            numbers = replace(numbers, source=_wide(backend.xp, self._int32(numbers.source), columns, 0))
        if settings.do_sample:
            numbers = replace(numbers, seed=backend.seed())
        prompt_mask = self.prompt_mask
        inputs = Inputs(
            ids=None if ids is None or states is not None else _wide(backend.xp, self._int32(ids), room, 0),
            embeds=None if embeds is None or states is not None else _wide(backend.xp, embeds, room, 0.0),
            states=None if states is None else _wide(backend.xp, states, room, 0.0),
            mask=None if mask is None else _wide(backend.xp, self._int32(mask), room, 0),
            prompt=_wide(backend.xp, self.prompt, settings.width, self.plan.pad),
            prompt_mask=None if prompt_mask is None else _wide(backend.xp, self._int32(prompt_mask), settings.width, 1),
        )
        return settings, numbers, inputs

    # ---- inputs

    def _concrete(self, name: str, value: Any) -> Any:
        """Ids and masks as NumPy arrays where they can be; vectors as they are."""
        return value if name in VECTORS else self.backend.concrete(name, value)

    def _is_symbolic(self, x: Any) -> bool:
        if isinstance(x, tuple | list):
            return any(map(self._is_symbolic, x))
        if isinstance(x, dict):
            return any(map(self._is_symbolic, x.values()))
        return x is not None and self.backend.is_symbolic(x)

    def _check_inputs(self) -> None:
        given = self.given
        masks = [name for name in HEAD_MASKS if given.get(name) is not None]
        if masks and self.backend.compiles:
            raise InputError(
                f"{', '.join(f'`{name}`' for name in masks)} must be None in `generate` on this framework, got an "
                "array. Use the PyTorch model to generate with heads masked."
            )
        for name, shape in (("input_ids", "[B, S]"), ("decoder_input_ids", "[B, T]")):
            if given.get(name) is not None and self.backend.compiles:
                self._check_ids(name, shape, given[name])
        self._check_masks()
        ids, most = given.get("input_ids"), self.model_config.max_position_embeddings
        if self.is_seq2seq and ids is not None and ids.shape[1] > most:
            raise InputError(
                f"the sequence must have at most {most} positions (max_position_embeddings), got {ids.shape[1]}. "
                "Truncate the input, or call resize_position_embeddings."
            )

    def _check_draftable(self) -> None:
        """Raise unless the inputs are one source that an assistant, too, can read."""
        ids, states = self.given.get("input_ids"), self.given.get("encoder_hidden_states")
        assistant = self.request.assistant
        if ids is None:
            raise InputError(
                "`assistant_model` needs `input_ids`, got none: it has to read the source itself. Pass the ids along."
            )
        self._check_sampled_draft("assistant_model")
        if states is not None and states.shape[-1] != assistant.config.d_model:
            raise GenerationError(
                f"`assistant_model` must have d_model = {states.shape[-1]} as `encoder_hidden_states` have, "
                f"got {assistant.config.d_model}. Leave one of the two out."
            )

    def _check_sampled_draft(self, name: str) -> None:
        """Raise where tokens are drawn for several rows: each would keep another number of drafted ones."""
        rows = next((x.shape[0] for x in map(self.given.get, SOURCES[:2]) if x is not None and len(x.shape) > 1), 1)
        if self.config.do_sample and rows > 1:
            raise GenerationError(
                f"`{name}` goes with one input at a time where `do_sample` is true, got {rows} rows. "
                "Leave it out, or generate row by row."
            )

    def _check_ids(self, name: str, shape: str, ids: Any) -> None:
        if len(ids.shape) != 2 or not _is_whole(ids):
            raise InputError(f"`{name}` must be integers {shape}, got {_name(ids.dtype)} {list(ids.shape)}.")
        if None in tuple(ids.shape):
            raise InputError(
                f"`{name}` must have a known shape inside compiled code, got {list(ids.shape)}. Give the function an "
                "input signature without None."
            )
        size = self.model_config.vocab_size
        if not self._is_symbolic(ids) and ids.size and (ids.min() < 0 or ids.max() >= size):
            raise InputError(
                f"token ids must be between 0 and {size - 1}, got ids from {ids.min()} to {ids.max()}. "
                "Use the tokenizer of this checkpoint, or resize_token_embeddings."
            )

    def _check_masks(self) -> None:
        """Masks have a column for each of what they are about: a bucket's filling would hide that they do not."""
        given, outputs = self.given, self.given.get("encoder_outputs")
        about = {
            "attention_mask": ("input_ids", "inputs_embeds"),
            "decoder_attention_mask": ("decoder_input_ids",),
            "encoder_attention_mask": ("encoder_hidden_states",),
        }
        for name, sources in about.items():
            shapes = [given[source].shape for source in sources if given.get(source) is not None]
            if name == "attention_mask" and outputs is not None:
                shapes = [_states(outputs).shape]
            mask = given.get(name)
            if mask is not None and len(mask.shape) != 4 and shapes and tuple(mask.shape) != tuple(shapes[0][:2]):
                raise InputError(f"`{name}` must be {list(shapes[0][:2])}, got {list(mask.shape)}.")

    def _memory(self) -> tuple[Any, Any, Any, Any]:
        """The source's ids, vectors, states and 1/0 mask, each None where there is none."""
        given = self.given
        if not self.is_seq2seq:
            states = given.get("encoder_hidden_states")
            mask = given.get("encoder_attention_mask")
            return None, None, states, _ones(mask, states)
        outputs = given.get("encoder_outputs")
        ids, embeds, mask = given.get("input_ids"), given.get("inputs_embeds"), given.get("attention_mask")
        states = None if outputs is None else _states(outputs)
        if mask is None and ids is not None and outputs is None:
            mask = self.mask_of_padding(ids)
        source = states if states is not None else ids if ids is not None else embeds
        return ids, embeds, states, _ones(mask, source)

    def mask_of_padding(self, ids: Any) -> Any:
        """The mask that the padding in ids implies; None where padding also is an end token or is absent."""
        pad = self.config.pad_token_id
        if pad is None or pad in tokens_of(self.config.eos_token_id):
            return None
        return self._int32(ids != pad)

    def _arrays(self, *values: Any) -> Arrays:
        """The namespace of these inputs."""
        return self.backend.xp if any(map(self._is_symbolic, values)) else self.backend.inputs

    def _int32(self, x: Any) -> Any:
        return self._arrays(x).cast(x, "int32")

    def _prompt(self) -> tuple[Any, Any]:
        """The prompt of a causal model [B, length] and its mask."""
        ids, config = self.given.get("input_ids"), self.config
        if ids is None:
            start = config.bos_token_id if config.bos_token_id is not None else config.decoder_start_token_id
            if start is None:
                raise InputError("`generate` needs `input_ids`, or a `bos_token_id` to begin with, got neither.")
            ids = self.backend.inputs.full((1, 1), tokens_of(start)[0], "int32")
        mask = self.given.get("attention_mask")
        if mask is None:
            mask = self.mask_of_padding(ids)
        if mask is not None and self.backend.compiles and not self._is_symbolic(mask) and (mask != 0).all():
            mask = None
        return self._int32(ids), mask

    def _decoder_prompt(self) -> tuple[Any, Any]:
        """The decoder's first tokens [B, length], beginning with the start token, and their mask."""
        given, config, xp = self.given, self.config, self.backend.inputs
        ids, embeds, outputs = given.get("input_ids"), given.get("inputs_embeds"), given.get("encoder_outputs")
        if ids is not None and embeds is not None:
            raise InputError("`input_ids` and `inputs_embeds` are the same input, got both. Pass one of them.")
        if ids is None and embeds is None and outputs is None:
            raise InputError(
                "`generate` needs `input_ids`, `inputs_embeds` or `encoder_outputs`, or a `bos_token_id`, got none of "
                "them."
            )
        start = config.decoder_start_token_id if config.decoder_start_token_id is not None else config.bos_token_id
        if start is None:
            raise GenerationError(
                "`decoder_start_token_id` (or `bos_token_id`) must be set to begin with, got neither."
            )
        source: Any = _states(outputs) if outputs is not None else ids if ids is not None else embeds
        rows = source.shape[0]
        starts = tokens_of(start)
        if len(starts) not in (1, rows):
            raise GenerationError(
                f"`decoder_start_token_id` must be one id or {rows}, one per input, got {len(starts)}."
            )
        first = xp.asarray([[token] for token in (starts * rows)[:rows]], "int32")
        prompt, mask = given.get("decoder_input_ids"), given.get("decoder_attention_mask")
        if prompt is None:
            return first, mask
        if prompt.shape[0] != rows:
            raise InputError(f"`decoder_input_ids` must have one row for each of {rows} inputs, got {prompt.shape[0]}.")
        # Inside compiled code nobody can look whether the start token is there: it must be.
        if not self._is_symbolic(prompt) and bool((prompt[:, :1] != first).all()):
            prompt = xp.concat([first, self._int32(prompt)], 1)
            mask = None if mask is None else xp.concat([xp.full((rows, 1), 1, "int32"), self._int32(mask)], 1)
        return self._int32(prompt), mask

    # ---- what comes back

    def _output(self, found: Found, callbacks: LoopCallbacks | None, more: dict[str, Any]) -> Any:
        is_beam = found.scores is not None
        # Its length is known where the values are; inside compiled code every sequence has the full width.
        length = self.plan.max_length if self.is_traced or self.backend.keeps_width else int(found.length)
        encoder_outputs = more.pop("encoder_outputs", None)
        values: dict[str, Any] = {"sequences": found.sequences[:, :length], **more}
        if callbacks is not None:
            values["scores"] = tuple(callbacks.scores) if callbacks.keeps_scores else None
            values["logits"] = tuple(callbacks.logits) if callbacks.keeps_logits else None
            values |= self._recorded(callbacks, encoder_outputs)
        if is_beam:
            assert found.rows is not None
            if self.backend.compiles or self.config.output_scores:
                values["sequences_scores"] = found.scores
            values["beam_indices"] = found.rows[:, : length - self.plan.prompt_length]
        if self.is_seq2seq:
            return (GenerateBeamEncoderDecoderOutput if is_beam else GenerateEncoderDecoderOutput)(**values)
        return (GenerateBeamDecoderOnlyOutput if is_beam else GenerateDecoderOnlyOutput)(**values)

    def _recorded(self, callbacks: LoopCallbacks, encoder_outputs: Any) -> dict[str, Any]:
        """Attentions and hidden states of every step, and the encoder's."""
        with_attentions, with_hidden = self.details
        prefix = "decoder_" if self.is_seq2seq else ""
        values: dict[str, Any] = {}
        if with_attentions:
            values[prefix + "attentions"] = tuple(step[0] for step in callbacks.details)
        if with_hidden:
            values[prefix + "hidden_states"] = tuple(step[2] for step in callbacks.details)
        if self.is_seq2seq and encoder_outputs is not None:
            if with_attentions:
                values["cross_attentions"] = tuple(step[1] for step in callbacks.details)
            values["encoder_attentions"] = getattr(encoder_outputs, "attentions", None)
            values["encoder_hidden_states"] = getattr(encoder_outputs, "hidden_states", None)
        return values


class CompilingBackend:
    """What the frameworks that compile share: their loop from Python computes in NumPy, over compiled steps."""

    compiles = True
    changed: str | None
    xp: Any

    @property
    def more_inputs(self) -> frozenset[str]:
        return frozenset()

    @property
    def inputs(self) -> Arrays:
        return HostArrays(self.xp)

    def loop(self: Any, call: GenerateCall, callbacks: LoopCallbacks) -> tuple[Found, dict[str, Any]]:
        import numpy as np

        given, xp, is_changed = call.given, self.xp, self.changed is not None
        needs_outputs = callbacks.keeps_details or is_changed
        if call.is_seq2seq and needs_outputs and given.get("encoder_outputs") is None:
            if given.get("attention_mask") is None and given.get("input_ids") is not None:
                given["attention_mask"] = call.mask_of_padding(given["input_ids"])
            given["encoder_outputs"] = self.encoded(given, call.details)
        settings, numbers, inputs = call.prepared(is_bucketed=not needs_outputs)
        settings = replace(settings, processors=tuple(_on_device(xp, one) for one in settings.processors))
        with np.errstate(all="ignore"):  # minus infinity is a score like any other
            if is_changed:
                found = search(self._task(call, callbacks, settings, numbers, inputs))
            else:
                own, steps = call.backend.inputs, self.steps(call.details)
                found = run(own, steps, settings, numbers, inputs, callbacks, xp, callbacks.keeps_details)
        found = Found(
            xp.asarray(found.sequences, "int32"),
            found.length,
            None if found.scores is None else xp.asarray(found.scores, "float32"),
            None if found.rows is None else xp.asarray(found.rows, "int32"),
        )
        return found, {"encoder_outputs": given.get("encoder_outputs")}

    def _task(
        self: Any,
        call: GenerateCall,
        callbacks: LoopCallbacks,
        settings: Settings,
        numbers: Numbers,
        inputs: Inputs,
    ) -> Task:
        """What a search is given to run a model that was changed, by way of its own methods."""
        if settings.mode is GenerationMode.CONTRASTIVE_SEARCH:
            raise GenerationError(
                f"`penalty_alpha` must be unset for a model of which {self.changed}: contrastive search does not go "
                "through it in this framework. Leave it out, or use the PyTorch model."
            )
        xp, given = call.backend.inputs, call.given
        copies = settings.beams if settings.beams > 1 else settings.returned
        ids = xp.repeat(inputs.prompt, copies)
        mask = None if call.prompt_mask is None else xp.repeat(call.prompt_mask, copies)
        without = {"input_ids", "inputs_embeds", "decoder_input_ids", "decoder_attention_mask", "labels"}
        without |= set() if call.is_seq2seq else {"attention_mask"}
        own = {name: value for name, value in given.items() if name not in without and value is not None}
        more = {
            name: self.xp.repeat(self.xp.asarray(value, str(value.dtype)), copies)
            for name, value in own.items()
            if name != "encoder_outputs"
        }
        if call.is_seq2seq:
            states = self.xp.repeat(_states(own["encoder_outputs"]), copies)
            more["encoder_outputs"] = BaseModelOutput(last_hidden_state=states)
        decoder = self.model_decoder(more, mask, call.details, settings)
        return Task(xp, settings, numbers, decoder, ids, None, callbacks)


def _is_whole(x: Any) -> bool:
    return "int" in _name(x.dtype)


def _name(dtype: Any) -> str:
    return str(getattr(dtype, "name", dtype))


def _states(outputs: Any) -> Any:
    return outputs[0]


def _ones(mask: Any, source: Any) -> Any:
    """The mask, or one that hides nothing [B, S]."""
    import numpy as np

    return np.ones(source.shape[:2], np.int32) if mask is None and source is not None else mask


def _on_device(xp: Arrays, processor: Processor) -> Processor:
    """A user's processor for a loop on the host: it gets arrays of its framework."""
    import numpy as np

    def processed(ids: Any, scores: Any, length: Any) -> Any:
        return np.asarray(processor(xp.asarray(ids, "int32"), xp.asarray(scores, "float32"), length))

    return processed


def _wide(xp: Arrays, x: Any, length: int, value: float) -> Any:
    """x [B, S, …] filled up to a length."""
    import numpy as np

    more = length - x.shape[1]
    if more <= 0:
        return x
    if isinstance(x, np.ndarray):
        return np.pad(x, [(0, 0), (0, more)] + [(0, 0)] * (x.ndim - 2), constant_values=value)
    return xp.concat([x, xp.full((x.shape[0], more, *x.shape[2:]), value, _name(x.dtype))], 1)
