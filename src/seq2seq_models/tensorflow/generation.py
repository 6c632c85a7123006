"""Generation in TensorFlow: the searches of core/generation as one XLA program per shape, weights as arguments."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ..core.generation.call import CompilingBackend, GenerateArguments, GenerateCall
from ..core.generation.decoder import Entries
from ..core.generation.preparation import facts
from ..core.generation.programs import Program, Programs
from ..core.generation.run import Inputs, run
from ..core.generation.task import Found, Numbers, Processor, Settings
from ..core.generation_config import GenerationConfig
from ..core.outputs import BaseModelOutput, ModelOutput
from .arrays import TensorFlowArrays
from .changes import changed_part

logger = logging.getLogger("seq2seq_models")
Tensor = Any
ARRAYS = TensorFlowArrays()
NOT_GIVEN = frozenset(
    "kwargs use_cache output_attentions output_hidden_states return_dict past_key_values training "
    "decoder_inputs_embeds decoder_position_ids".split()
)
"""Arguments of `call` that `generate` gives itself, or has options for."""


_MODEL: ContextVar[Any] = ContextVar("model")
"""The model whose call is being traced: programs must not hold one, or its weights would never be freed."""


class ModelSteps:
    """A Keras model as the loops want it."""

    def __init__(self, model: Any, details: tuple[bool, bool] = (False, False)) -> None:
        self.model, self.details = model, details
        self.dtype: str = keras.backend.standardize_dtype(model.compute_dtype)

    def encode(self, ids: Tensor, embeds: Tensor, mask: Tensor) -> Tensor:
        return self.model.encode(ids, mask, inputs_embeds=embeds).last_hidden_state

    def cross_entries(self, memory: Tensor) -> Entries:
        found: Entries = self.model.cross_entries(tf.cast(memory, self.dtype))
        return found

    def entries(self, rows: int, length: int) -> Entries:
        found: Entries = self.model.get_decoder().entries(rows, length)
        return found

    def step(
        self,
        tokens: Tensor,
        start: Tensor,
        cache: Entries,
        cross: Entries | None,
        self_mask: Tensor,
        memory_mask: Tensor,
        positions: Tensor,
        packed: Any,
    ) -> tuple[Tensor, Entries, Any]:
        found: tuple[Tensor, Entries, Any] = self.model.step(
            tokens,
            start,
            cache,
            cross,
            self_mask,
            memory_mask,
            positions=positions,
            packed=packed,
            need_weights=self.details[0],
            need_hidden=self.details[1],
        )
        return found

    def packed(self) -> Any:
        return self.model.get_decoder().packed()

    def head(self, hidden: Tensor) -> Tensor:
        return self.model.logits(hidden)


class CompiledSteps(ModelSteps):
    """The same with every piece compiled by itself, for loops on the host."""

    def encode(self, ids: Tensor, embeds: Tensor, mask: Tensor) -> Tensor:
        return self._call("encode", ids, embeds, mask)

    def cross_entries(self, memory: Tensor) -> Entries:
        found: Entries = self._call("cross_entries", memory)
        return found

    def packed(self) -> Any:
        return None

    def step(self, *inputs: Any) -> tuple[Tensor, Entries, Any]:
        found: tuple[Tensor, Entries, Any] = self._call("step", *inputs)
        return found

    def head(self, hidden: Tensor) -> Tensor:
        return self._call("head", hidden)

    def _call(self, piece: str, *inputs: Any) -> Any:
        return _compiled(Program(piece, _facts(self.model), self.details))(
            self.model, *tf.nest.map_structure(_tensor, inputs)
        )


def _facts(model: Any) -> tuple[Any, ...]:
    return (type(model), keras.backend.standardize_dtype(model.compute_dtype), facts(model.config))


def _compiled(program: Program) -> Callable[..., Any]:
    """A function of a model and a program's inputs; compiled once per program and shape of the inputs."""

    def call(model: Any, *inputs: Any) -> Any:
        with _tracing(model):
            return _function(program, inputs)([variable.value for variable in model.weights], *inputs)

    return call


@contextmanager
def _tracing(model: Any) -> Any:
    token = _MODEL.set(model)
    try:
        yield
    finally:
        _MODEL.reset(token)


def _traced(program: Program, weights: Sequence[Tensor], *inputs: Any) -> Any:
    """What a program computes, with these weights in the place of the model's."""
    model = _MODEL.get()
    own = list(zip(model.weights, map(tf.convert_to_tensor, weights), strict=True))
    with keras.StatelessScope(own):
        steps = ModelSteps(model, program.details)
        if program.settings is None:
            return getattr(steps, program.piece)(*inputs)
        arrays, numbers = inputs
        found = run(ARRAYS, steps, program.settings, Numbers(**numbers), Inputs(**arrays))
        return vars(found)


# TensorFlow never frees an XLA program, and XLA crashes when the process has no memory maps left.
PROGRAMS: Programs[Any] = Programs(
    lambda program: tf.function(partial(_traced, program), jit_compile=True, autograph=False),
    drop=lambda function: None,
    most=100,
)
GRAPHS: Programs[Any] = Programs(
    lambda program: tf.function(partial(_traced, program), autograph=False), drop=lambda function: None
)


def _function(program: Program, inputs: tuple[Any, ...]) -> Any:
    """A program as XLA compiled it, or as a TensorFlow graph once there are too many of those."""
    shapes = tuple(None if x is None else tuple(x.shape) for x in tf.nest.flatten(inputs))
    if (program, shapes) in PROGRAMS or len(PROGRAMS) < PROGRAMS.most:
        return PROGRAMS.get(program, shapes)
    if not len(GRAPHS):
        logger.warning(
            "this process has compiled %d programs with XLA, which TensorFlow never frees: further shapes and options "
            "run as TensorFlow graphs, which start sooner and decode slower. Use fewer batch sizes, lengths and sets "
            "of options, or another process.",
            PROGRAMS.most,
        )
    return GRAPHS.get(program, shapes)


class TensorFlowBackend(CompilingBackend):
    """This framework's side of a call of `generate`; see core/generation/call.py."""

    xp = ARRAYS
    host_option = "run_eagerly"
    keeps_width = False

    def __init__(self, model: Any, seed: Any, on_host: bool) -> None:
        self.model, self.given_seed, self.on_host = model, seed, on_host
        self.changed = changed_part(model)

    @property
    def more_inputs(self) -> frozenset[str]:
        if self.changed is None:
            return frozenset()
        methods = (self.model.call, self.model.prepare_inputs_for_generation)
        return frozenset().union(*(inspect.signature(one).parameters for one in methods)) - NOT_GIVEN

    def model_decoder(self, inputs: dict[str, Any], mask: Any, details: tuple[bool, bool], settings: Settings) -> Any:
        from .decoder import ModelDecoder

        return ModelDecoder(self.model, inputs, mask, details, settings.use_cache)

    def is_symbolic(self, x: Any) -> bool:
        return bool(tf.is_symbolic_tensor(x))

    def is_tracing(self) -> bool:
        return not tf.executing_eagerly()

    def concrete(self, name: str, x: Any) -> Any:
        return x if self.is_symbolic(x) else np.asarray(x)

    def compiled(self, settings: Settings) -> Callable[[Inputs, Numbers], Found]:
        function = _compiled(Program("decode", _facts(self.model), settings=settings))

        def call(inputs: Inputs, numbers: Numbers) -> Found:
            return Found(**function(self.model, _tensors(vars(inputs)), _tensors(vars(numbers))))

        return call

    def traced(self, settings: Settings) -> Callable[[Inputs, Numbers], Found]:
        def call(inputs: Inputs, numbers: Numbers) -> Found:
            arrays, values = Inputs(**_tensors(vars(inputs))), Numbers(**_tensors(vars(numbers)))
            return run(ARRAYS, ModelSteps(self.model), settings, values, arrays)

        return call

    def steps(self, details: tuple[bool, bool]) -> ModelSteps:
        return (ModelSteps if self.on_host else CompiledSteps)(self.model, details)

    def encoded(self, given: dict[str, Any], details: tuple[bool, bool]) -> BaseModelOutput[Tensor]:
        found: BaseModelOutput[Tensor] = self.model.encode(
            given.get("input_ids"),
            given.get("attention_mask"),
            inputs_embeds=given.get("inputs_embeds"),
            output_attentions=details[0],
            output_hidden_states=details[1],
        )
        return found

    def seed(self) -> Tensor:
        if self.given_seed is None:
            return tf.random.uniform((2,), maxval=2**31 - 1, dtype=tf.int32)
        pair = self.given_seed if hasattr(self.given_seed, "__len__") else (0, self.given_seed)
        return tf.cast(pair, tf.int32)


def _tensors(values: dict[str, Any]) -> dict[str, Any]:
    """The same with arrays and numbers as tensors: what a program takes without tracing anew for every value."""
    return {name: tf.nest.map_structure(_tensor, value) for name, value in values.items()}


def _tensor(value: Any) -> Any:
    return tf.constant(value) if isinstance(value, np.ndarray | np.generic) else value


class GenerationMixin:
    """`generate` for models with a language-modelling head."""

    config: Any
    generation_config: GenerationConfig

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def generate(
        self,
        inputs: Tensor = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Any = None,
        seed: Any = None,
        **kwargs: Any,
    ) -> Tensor | ModelOutput:
        """Generated token ids, int32 [B * num_return_sequences, length], padded after their end.

        The whole call, encoder and loop, is one XLA program. It is compiled once for a batch size, a bucket of lengths
        (16, 24, 32, 48, 64, …), a strategy and a set of rules, and serves every model of the same shape; the numbers in
        the options are arguments of it. What only the host can do (a streamer, stopping criteria,
        `prefix_allowed_tokens_fn`, `stop_strings`, `max_time`, the outputs of every step) runs the loop from Python
        over compiled steps. Inside a `tf.function` of your own the loop becomes part of that; its sequences then have
        `max_length` columns, and `decoder_input_ids` must begin with the start token.

        Args:
            inputs: int source [B, S] (or the prompt of a causal model); the same as `input_ids`.
            generation_config: settings for this call; where they are defaults, the model's own hold.
            logits_processor: functions (sequences int32 [R, L], scores float32 [R, V], length so far) -> scores, which
                TensorFlow can trace; run after the built-in rules on ids and lengths and before those of sampling.
                Columns from the length on mean nothing.
            seed: two integers (or one) that decide what sampling draws; by default TensorFlow's own random numbers do,
                which `tf.random.set_seed` repeats.
            **kwargs: any option of `GenerationConfig` (they win over both configurations); `attention_mask` (made from
                the padding if not given), `inputs_embeds`, `encoder_outputs`, `decoder_input_ids`,
                `decoder_attention_mask`; `stopping_criteria`, `prefix_allowed_tokens_fn`, `streamer`, `tokenizer` for
                `stop_strings`; `run_eagerly=True` computes operation by operation, to look into it.

        Returns:
            The ids, or with `return_dict_in_generate` one of the `Generate…Output` classes.

        Raises:
            GenerationError: for an option that is unknown, out of range, contradictory or not supported.
            InputError: for a missing or unusable input.
        """
        run_eagerly = kwargs.pop("run_eagerly", None)
        on_host = bool(getattr(self, "run_eagerly", False) if run_eagerly is None else run_eagerly)
        request = GenerateArguments(
            inputs=inputs,
            generation_config=generation_config,
            processors=_processors(logits_processor),
            criteria=kwargs.pop("stopping_criteria", None),
            prefix_allowed_tokens_fn=kwargs.pop("prefix_allowed_tokens_fn", None),
            streamer=kwargs.pop("streamer", None),
            tokenizer=kwargs.pop("tokenizer", None),
            assistant=kwargs.pop("assistant_model", None),
            on_host=on_host,
            options=kwargs,
        )
        call = GenerateCall(TensorFlowBackend(self, seed, on_host), self.config, self.generation_config, request)
        output = call.run()
        return output if call.config.return_dict_in_generate else output.sequences

    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: tuple[Tensor, ...],
        beam_indices: Tensor = None,
        normalize_logits: bool = False,
    ) -> Tensor:
        """The score of each generated token, float32 [rows of sequences, new tokens]; 0 after a beam's end.

        Args:
            sequences: int [rows, length], as `generate` returned them.
            scores: one [R, V] per step, as returned with `output_scores`.
            beam_indices: int [rows, new tokens] as returned for beams; which row of `scores` a token came from.
            normalize_logits: turn scores into log-probabilities first.
        """
        stacked = tf.stack(scores)  # [steps, R, V]
        if normalize_logits:
            stacked = tf.nn.log_softmax(stacked)
        if beam_indices is None:
            beam_indices = tf.broadcast_to(tf.range(stacked.shape[1])[:, None], (stacked.shape[1], len(scores)))
        steps = int(tf.reduce_max(tf.reduce_sum(tf.cast(beam_indices >= 0, tf.int32), -1)))
        rows = tf.cast(beam_indices[:, :steps], tf.int32)
        step = tf.broadcast_to(tf.range(steps)[None], rows.shape)
        tokens = tf.cast(sequences[:, sequences.shape[1] - steps :], tf.int32)
        chosen = tf.gather_nd(stacked, tf.stack([step, tf.maximum(rows, 0), tokens], -1))
        return tf.where(rows < 0, 0.0, chosen)


def _processors(given: Any) -> tuple[Processor, ...]:
    return () if given is None else tuple(given) if hasattr(given, "__iter__") else (given,)
