"""Programs that run without this library: PyTorch's own (.pt2), and ONNX.

Letters in shapes: B inputs, S source, T tokens, L places of the cache, N decoder layers, H heads, K per head, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..core.generation import served
from ..core.generation.decoder import Entries
from ..errors import GenerationError
from .arrays import ExportArrays
from .cache import Cache

if TYPE_CHECKING:
    from .heads import ConditionalGenerationModel

ARRAYS = ExportArrays()

UNTRACED = ("bad_words_ids", "sequence_bias", "exponential_decay_length_penalty")
"""Options whose rules are tables inside the loop, at which PyTorch's exporter stops."""


class Served(nn.Module):
    """A model as functions of tensors; what is exported. Ids, masks and lengths are int32.

    Args:
        model: a conditional one.
        **options: for `generate`, beside the model's generation config.
    """

    def __init__(self, model: ConditionalGenerationModel, **options: Any) -> None:
        super().__init__()
        self.model = model
        self.settled = served.settled(model.generation_config, options)
        asked = [f"`{name}`" for name in UNTRACED if getattr(self.settled[0], name)]
        if asked:
            raise GenerationError(
                f"{', '.join(asked)} must be unset in an export of PyTorch, whose exporter cannot trace these rules. "
                "Leave them out, or export to jax or savedmodel."
            )

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """As core/generation/served.py has it."""
        return served.encode(ARRAYS, _ModelSteps(self.model), input_ids, attention_mask)

    def decode_step(self, *inputs: Tensor) -> dict[str, Tensor]:
        """As core/generation/served.py has it."""
        return served.decode_step(ARRAYS, _ModelSteps(self.model), *inputs)

    def generate(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """As core/generation/served.py has it."""
        steps = _ModelSteps(self.model)
        return served.generate(ARRAYS, steps, self.settled, self.model.config, input_ids, attention_mask)


def functions(model: ConditionalGenerationModel, **options: Any) -> dict[str, ExportedProgram]:
    """The functions of a model as `torch.export` traces them, by name, for batches and lengths of any size.

    Args:
        model: a conditional one.
        **options: for `Served`.
    """
    config, heads = model.config, model.config.decoder_attention_heads
    most = config.max_position_embeddings
    rows, source, tokens = Dim("batch"), Dim("source", max=most), Dim("tokens", max=most)
    places = Dim("places", max=most)
    layers, width = config.decoder_layers, config.d_model // heads

    # Examples have sizes above 1: a trace takes a size of 0 or 1 for one that never changes. Each is a tensor of its
    # own: it takes two inputs that are the same tensor for one input.
    def ids(length: Any, size: int) -> tuple[Tensor, dict[int, Any]]:
        return torch.ones(2, size, dtype=torch.int32), {0: rows, 1: length}

    def entry(length: Any, size: int) -> tuple[Tensor, dict[int, Any]]:
        return torch.zeros(layers, 2, heads, size, width, dtype=model.dtype), {1: rows, 3: length}

    inputs = {
        "encode": (ids(source, 3), ids(source, 3)),
        "decode_step": (
            ids(tokens, 4),
            (torch.tensor(0, dtype=torch.int32), None),
            ids(source, 3),
            entry(source, 3),
            entry(source, 3),
            entry(places, 5),
            entry(places, 5),
        ),
        "generate": (ids(source, 3), ids(source, 3)),
    }
    module = Served(model, **options)
    with _at_rest(model):
        return {name: _traced(module, name, given) for name, given in inputs.items()}


def export(
    model: ConditionalGenerationModel, folder: str, form: Literal["torch", "onnx"] = "torch", **options: Any
) -> None:
    """Writes the functions of a model, each in a file: `encode`, `decode_step` and `generate`; see `Served`.

    Args:
        model: a conditional one.
        folder: is there.
        form: "torch" (.pt2) or "onnx" (.onnx, the weights of all three in weights.safetensors).
        **options: for `functions`.
    """
    programs = functions(model, **options)
    if form == "onnx":
        from .onnx_files import write_onnx

        write_onnx(programs, Path(folder))
    else:
        for name, program in programs.items():
            torch.export.save(program, Path(folder) / f"{name}.pt2")


class _Function(nn.Module):
    """One function of a served model as the `forward` that `torch.export` asks for."""

    def __init__(self, served: Served, name: str) -> None:
        super().__init__()
        self.served, self.name = served, name

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = getattr(self.served, self.name)(*inputs)
        return found


def _traced(served: Served, name: str, inputs: Sequence[tuple[Tensor, Any]]) -> ExportedProgram:
    examples = tuple(example for example, _ in inputs)
    shapes = (tuple(sizes for _, sizes in inputs),)
    with torch.no_grad():
        program = torch.export.export(_Function(served, name), examples, dynamic_shapes=shapes)
    for graph in (one.graph for one in program.graph_module.modules() if isinstance(one, torch.fx.GraphModule)):
        for node in graph.nodes:
            # Lines and paths of this machine, most of a file; and a history that writing ONNX copies at every node.
            for kind in ("stack_trace", "from_node"):
                node.meta.pop(kind, None)
    return program


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    try:
        model.eval()
        yield
    finally:
        model.train(was_training)


class _ModelSteps:
    """A model as the loops of core/generation want it."""

    def __init__(self, model: ConditionalGenerationModel) -> None:
        self.model, self.decoder = model, model.get_decoder()
        self.layers: Any = self.decoder.layers
        self.dtype = str(model.dtype).removeprefix("torch.")

    def encode(self, ids: Tensor | None, embeds: Tensor | None, mask: Tensor | None) -> Tensor:
        states: Tensor = self.model.get_encoder()(ids, mask, inputs_embeds=embeds, return_dict=True).last_hidden_state
        return states

    def cross_entries(self, memory: Tensor) -> Entries:
        return tuple(layer.encoder_attn._keys_and_values(memory, None) for layer in self.layers)

    def entries(self, rows: int, length: int) -> Entries:
        attention = self.layers[0].self_attn
        empty = torch.zeros(rows, attention.num_heads, length, attention.head_dim, dtype=self.model.dtype)
        return tuple((empty, empty) for _ in self.decoder.layers)

    def step(
        self,
        tokens: Tensor,
        start: Tensor,
        cache: Entries,
        cross: Entries | None,
        self_mask: Tensor,
        memory_mask: Tensor | None,
        positions: Tensor | None,
        packed: Any,
    ) -> tuple[Tensor, Entries, Any]:
        own = start + torch.arange(tokens.shape[1], dtype=torch.int32)
        hidden = self.decoder._embed(tokens, None, 0, own if positions is None else positions)
        written = _WrittenCache(cache, cross, own)
        for layer in self.layers:
            (hidden,) = layer(hidden, self_mask, None, memory_mask, past_key_values=written)
        return self.decoder._finish(hidden), tuple(written.entries), None

    def packed(self) -> None:
        return None

    def head(self, hidden: Tensor) -> Tensor:
        return self.model._logits(hidden).float()


class _WrittenCache(Cache):
    """Entries of a fixed length in which new keys and values are written at the places of their tokens."""

    def __init__(self, entries: Entries, cross: Entries | None, places: Tensor) -> None:
        super().__init__()
        self.entries, self._cross, self._places = list(entries), cross, places.long()

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, cache_kwargs: dict[str, Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        keys, values = self.entries[layer_idx]
        self.entries[layer_idx] = (
            keys.index_copy(2, self._places, key_states),
            values.index_copy(2, self._places, value_states),
        )
        return self.entries[layer_idx]

    def cross(self, layer_idx: int) -> tuple[Tensor, Tensor] | None:
        return None if self._cross is None else self._cross[layer_idx]
