"""Generation in JAX: the searches of core/generation as one jitted function per shape, parameters as arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..core.generation.call import CompilingBackend, GenerateArguments, GenerateCall
from ..core.generation.decoder import Entries
from ..core.generation.preparation import facts
from ..core.generation.programs import Program, Programs
from ..core.generation.run import Inputs, run
from ..core.generation.task import Found, Numbers, Processor, Settings
from ..core.generation_config import GenerationConfig
from ..core.outputs import BaseModelOutput, ModelOutput
from ..errors import InputError
from .arrays import JaxArrays
from .cache import entries
from .changes import changed_part
from .decoder import ModelDecoder

for _record in (Inputs, Numbers, Found):
    jax.tree_util.register_dataclass(_record)

ARRAYS = JaxArrays()


class ModuleSteps:
    """A linen module and its parameters as the loops want them."""

    def __init__(self, program: Program, params: Any) -> None:
        self.program, self.params = program, params
        self.dtype = jnp.dtype(program.module.dtype).name

    def encode(self, ids: Array | None, embeds: Array | None, mask: Array | None) -> Array:
        states: Array = self._apply(ids, mask, method="encode").last_hidden_state
        return states

    def cross_entries(self, memory: Array) -> Entries:
        cross: Entries = self._apply(memory, method="cross_entries")
        return cross

    def entries(self, rows: int, length: int) -> Entries:
        module = self.program.module
        return entries(module.config, rows, length, module.dtype)

    def step(
        self,
        tokens: Array,
        start: Array,
        cache: Entries,
        cross: Entries | None,
        self_mask: Array,
        memory_mask: Array | None,
        positions: Array | None,
        packed: Any,
    ) -> tuple[Array, Entries, Any]:
        weights, hidden = self.program.details
        options = {"positions": positions, "packed": packed, "need_weights": weights, "need_hidden": hidden}
        found: tuple[Array, Entries, Any] = self._apply(
            tokens, start, cache, cross, self_mask, memory_mask, **options, method="step"
        )
        return found

    def packed(self) -> Any:
        return self._apply(method="packed")

    def head(self, hidden: Array) -> Array:
        logits: Array = self._apply(hidden, method="head")
        return logits

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        return self.program.module.apply({"params": self.params}, *args, **kwargs)


class CompiledSteps(ModuleSteps):
    """The same with every piece compiled by itself, for loops on the host."""

    def encode(self, ids: Array | None, embeds: Array | None, mask: Array | None) -> Array:
        found: Array = self._call("encode", ids, embeds, mask)
        return found

    def cross_entries(self, memory: Array) -> Entries:
        found: Entries = self._call("cross_entries", memory)
        return found

    def packed(self) -> Any:
        return None

    def step(self, *inputs: Any) -> tuple[Array, Entries, Any]:
        found: tuple[Array, Entries, Any] = self._call("step", *inputs)
        return found

    def head(self, hidden: Array) -> Array:
        found: Array = self._call("head", hidden)
        return found

    def _call(self, piece: str, *inputs: Any) -> Any:
        return _compiled(replace(self.program, piece=piece), self.params, *inputs)


def _traced(program: Program, params: Any, *inputs: Any) -> Any:
    """What a program computes."""
    steps = ModuleSteps(program, params)
    if program.settings is None:
        return getattr(steps, program.piece)(*inputs)
    arrays, numbers = inputs
    return run(ARRAYS, steps, program.settings, numbers, arrays)


PROGRAMS: Programs[Any] = Programs(lambda program: jax.jit(partial(_traced, program)), lambda made: made.clear_cache())


def _compiled(program: Program, params: Any, *inputs: Any) -> Any:
    """A program's result, compiled once per program and shape of the inputs; the parameters are an argument."""
    leaves, structure = jax.tree.flatten(inputs)
    return PROGRAMS.get(program, (structure, tuple(map(jnp.shape, leaves))))(params, *inputs)


class FlaxBackend(CompilingBackend):
    """This framework's side of a call of `generate`; see core/generation/call.py."""

    xp = ARRAYS
    host_option = "trace"
    keeps_width = True

    def __init__(self, model: Any, params: Any, prng_key: Array | None) -> None:
        self.model, self.params, self.prng_key = model, params, prng_key
        self.changed = changed_part(model)

    def model_decoder(self, inputs: dict[str, Any], mask: Any, details: tuple[bool, bool], settings: Settings) -> Any:
        return ModelDecoder(self.model, self.params, inputs, mask, details, settings.width)

    def is_symbolic(self, x: Any) -> bool:
        return isinstance(x, jax.core.Tracer)

    def is_tracing(self) -> bool:
        return any(map(self.is_symbolic, jax.tree.leaves((self.params, self.prng_key))))

    def concrete(self, name: str, x: Any) -> Any:
        return x if self.is_symbolic(x) else np.asarray(x)

    def compiled(self, settings: Settings) -> Callable[[Inputs, Numbers], Found]:
        return partial(_compiled, self._program((False, False), settings), self.params)

    traced = compiled

    def steps(self, details: tuple[bool, bool]) -> CompiledSteps:
        return CompiledSteps(self._program(details), self.params)

    def encoded(self, given: dict[str, Any], details: tuple[bool, bool]) -> BaseModelOutput[Array]:
        found: BaseModelOutput[Array] = self.model.encode(
            given["input_ids"],
            given.get("attention_mask"),
            output_attentions=details[0],
            output_hidden_states=details[1],
            return_dict=True,
            params=self.params,
        )
        return found

    def seed(self) -> Array:
        key = jax.random.PRNGKey(0) if self.prng_key is None else self.prng_key
        return jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jnp.asarray(key)

    def _program(self, details: tuple[bool, bool], settings: Settings | None = None) -> Program:
        module = self.model.module
        own = (type(module), jnp.dtype(module.dtype).name, facts(module.config))
        return Program("decode", own, details, settings, module)


class GenerationMixin:
    """`generate` for models with a language-modelling head."""

    config: Any
    generation_config: GenerationConfig
    params: Any

    def generate(
        self,
        input_ids: Array | None = None,
        generation_config: GenerationConfig | None = None,
        prng_key: Array | None = None,
        trace: bool = True,
        params: Mapping[str, Any] | None = None,
        logits_processor: Any = None,
        **kwargs: Any,
    ) -> ModelOutput:
        """An output object whose `sequences`, int32 [B * num_return_sequences, max_length], are padded after their end.

        The whole call, encoder and loop, is one compiled function. It is compiled once for a batch size, a bucket of
        lengths (16, 24, 32, 48, 64, …), a strategy and a set of rules, and serves every model and parameter set of the
        same shape; the numbers in the options are arguments of it. What only the host can do (a streamer, stopping
        criteria, `prefix_allowed_tokens_fn`, `stop_strings`, `max_time`, the outputs of every step) runs the loop from
        Python over compiled steps.

        Inside `jax.jit` of your own, `input_ids`, masks, `params` and `prng_key` may be traced; `decoder_input_ids`
        must then begin with the start token.

        Args:
            input_ids: int32 source [B, S] (or the prompt of a causal model).
            generation_config: settings for this call; where they are defaults, the model's own hold.
            prng_key: decides what sampling draws; `jax.random.PRNGKey(0)` by default.
            trace: False runs the loop from Python, operation by operation, to look into it.
            params: the parameters; the model's own by default.
            logits_processor: functions (sequences int32 [R, L], scores float32 [R, V], length so far) -> scores, which
                JAX can trace; run after the built-in rules on ids and lengths and before those of sampling. Columns
                from the length on mean nothing.
            **kwargs: any option of `GenerationConfig` (they win over both configurations); `attention_mask` (made from
                the padding if not given), `encoder_outputs`, `decoder_input_ids`, `decoder_attention_mask`;
                `stopping_criteria`, `prefix_allowed_tokens_fn`, `streamer`, and `tokenizer` for `stop_strings`.

        Raises:
            GenerationError: for an option that is unknown, out of range, contradictory or not supported.
            InputError: for a missing or unusable input.
        """
        chosen = self.params if params is None else params
        if kwargs.get("inputs_embeds") is not None:
            raise InputError("`inputs_embeds` must be None, got an array: Flax models take `input_ids` only.")
        request = GenerateArguments(
            inputs=input_ids,
            generation_config=generation_config,
            processors=_processors(logits_processor),
            criteria=kwargs.pop("stopping_criteria", None),
            prefix_allowed_tokens_fn=kwargs.pop("prefix_allowed_tokens_fn", None),
            streamer=kwargs.pop("streamer", None),
            tokenizer=kwargs.pop("tokenizer", None),
            assistant=kwargs.pop("assistant_model", None),
            on_host=not trace,
            options=kwargs,
        )
        output: ModelOutput = GenerateCall(
            FlaxBackend(self, chosen, prng_key), self.config, self.generation_config, request
        ).run()
        return output


def _processors(given: Any) -> tuple[Processor, ...]:
    return () if given is None else tuple(given) if hasattr(given, "__iter__") else (given,)
