"""StableHLO: functions that JAX runs without this library and without Flax.

Letters in shapes: B inputs, S source, T tokens, L places of the cache, N decoder layers, H heads, K per head.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array
from jax import export as stable_hlo
from safetensors.flax import save_file

from ..core.generation import served
from ..core.generation.preparation import facts
from ..core.generation.programs import Program
from .generation import ARRAYS, ModuleSteps
from .weights import flatten, nest

if TYPE_CHECKING:
    from .heads import ConditionalGenerationModel

PLATFORMS = ("cpu", "cuda", "tpu")
"""What the functions run on; JAX lowers them for all of these on any machine."""

Parameters = dict[str, Array]
"""By the names of the tree's branches, joined by dots."""


class Served:
    """A model as functions of its parameters and arrays; what is exported. Ids, masks and lengths are int32.

    Args:
        model: a conditional one.
        **options: for `generate`, beside the model's generation config.
    """

    def __init__(self, model: ConditionalGenerationModel, **options: Any) -> None:
        self.config = model.config
        self.settled = served.settled(model.generation_config, options)
        self._program = Program("decode", (type(model.module), facts(model.config)), module=model.module)

    def encode(self, params: Parameters, input_ids: Array, attention_mask: Array) -> dict[str, Array]:
        """As core/generation/served.py has it."""
        return served.encode(ARRAYS, self._steps(params), input_ids, attention_mask)

    def decode_step(self, params: Parameters, *inputs: Array) -> dict[str, Array]:
        """As core/generation/served.py has it."""
        return served.decode_step(ARRAYS, self._steps(params), *inputs)

    def generate(self, params: Parameters, input_ids: Array, attention_mask: Array) -> dict[str, Array]:
        """As core/generation/served.py has it."""
        return served.generate(ARRAYS, self._steps(params), self.settled, self.config, input_ids, attention_mask)

    def _steps(self, params: Parameters) -> ModuleSteps:
        return ModuleSteps(self._program, nest({tuple(name.split(".")): leaf for name, leaf in params.items()}))


def functions(model: ConditionalGenerationModel, **options: Any) -> dict[str, stable_hlo.Exported]:
    """The functions of a model as `jax.export` lowers them, by name, for batches and lengths of any size.

    Args:
        model: a conditional one.
        **options: for `Served`.
    """
    config, dtype = model.config, model.module.dtype
    most = config.max_position_embeddings
    heads = config.decoder_attention_heads
    layers, width = config.decoder_layers, config.d_model // heads
    # A function's sizes are of its own: all of them must show in the shapes of its inputs.
    rows, source = stable_hlo.symbolic_shape("batch, source", constraints=[f"source <= {most}"])
    sources = (_array((rows, source), jnp.int32),) * 2
    rows, source, tokens, places = stable_hlo.symbolic_shape(
        "batch, source, tokens, places", constraints=[f"source <= {most}", f"places <= {most}", "tokens <= places"]
    )
    cross = _array((layers, rows, heads, source, width), dtype)
    cache = _array((layers, rows, heads, places, width), dtype)
    ids, start = _array((rows, tokens), jnp.int32), _array((), jnp.int32)
    mask = _array((rows, source), jnp.int32)
    inputs = {
        "encode": sources,
        "decode_step": (ids, start, mask, cross, cross, cache, cache),
        "generate": sources,
    }
    module, params = Served(model, **options), jax.eval_shape(lambda: _parameters(model))
    lower = {name: jax.jit(getattr(module, name)) for name in inputs}
    return {name: stable_hlo.export(lower[name], platforms=PLATFORMS)(params, *inputs[name]) for name in inputs}


def export(model: ConditionalGenerationModel, folder: str, **options: Any) -> None:
    """Writes the functions of a model, each as <name>.stablehlo, and what they take first, weights.safetensors.

    Args:
        model: a conditional one.
        folder: is there.
        **options: for `functions`.
    """
    for name, exported in functions(model, **options).items():
        (Path(folder) / f"{name}.stablehlo").write_bytes(exported.serialize())
    save_file(_parameters(model), Path(folder) / "weights.safetensors")


def _array(shape: tuple[Any, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def _parameters(model: ConditionalGenerationModel) -> Parameters:
    return {".".join(path): jnp.asarray(leaf) for path, leaf in flatten(model.params)}
