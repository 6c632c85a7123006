#!/usr/bin/env python3
"""Fine-tune Pegasus or BlenderbotSmall in JAX.

    python examples/finetune_flax.py --train train.jsonl --validation validation.jsonl --output tuned
    srun python examples/finetune_flax.py ... --shard-model 4      # on many hosts, 4 devices to a copy of the model

The command line, the data, the loop and the reports are those of finetune_pytorch.py and finetune_tensorflow.py; what
stands here is JAX's part. One program runs on all devices of all processes, which form a mesh: rows of data along one
axis, parts of the model along the other.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax import Array
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from finetuning.arguments import Settings, parse
from finetuning.batches import Batch
from finetuning.training import fine_tune
from seq2seq_models import FlaxAutoModelForSeq2SeqLM
from seq2seq_models.bundled import resolve_model
from seq2seq_models.flax.sharding import shardings

CLUSTERS = ("SLURM_STEP_NODELIST", "OMPI_MCA_orte_hnp_uri", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
"""Variables of the launchers from which JAX itself knows what processes there are."""


def join() -> None:
    """Join the other processes of the run, if the environment tells of any. It comes before all other use of JAX."""
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        named = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
        jax.distributed.initialize(**{key: int(os.environ[name]) for key, name in named.items() if name in os.environ})
    elif any(name in os.environ for name in CLUSTERS):
        jax.distributed.initialize()


class FlaxLearner:
    """Parameters, the optimizer's state, and what JAX does with a batch."""

    framework = "JAX"

    def __init__(self, settings: Settings) -> None:
        if settings.device:
            jax.config.update("jax_platforms", settings.device)
        join()
        self.settings, self.rank, self.world = settings, jax.process_index(), jax.process_count()
        devices, shared = jax.device_count(), settings.shard_model
        if devices % shared or settings.batch_size * self.world % devices:
            raise ValueError(
                f"--shard-model must divide the number of devices, {devices}, and those of a process "
                f"--batch-size, got {shared} and {settings.batch_size}."
            )
        self.mesh = jax.make_mesh((devices // shared, shared), ("data", "model"), (AxisType.Auto, AxisType.Auto))
        noise: dict[str, Any] = {}
        if settings.dropout is not None:
            noise = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), settings.dropout)
        self.model, params = FlaxAutoModelForSeq2SeqLM.from_pretrained(
            resolve_model(settings.model),
            dtype=jnp.dtype(settings.precision),  # of matrix products; parameters, norms and the loss stay in float32
            gradient_checkpointing=settings.gradient_checkpointing,
            _do_init=False,
            **noise,
        )
        self.optimizer = self.make_optimizer()
        self.whole = NamedSharding(self.mesh, PartitionSpec())
        places = shardings(params, self.mesh)
        self.params = jax.tree.map(self.placed, params, places)
        self.state = jax.jit(self.optimizer.init, out_shardings=self.state_places(places))(self.params)
        self.update = jax.jit(self.updated, donate_argnums=(0, 1))
        self.measure, self.write = jax.jit(self.measured), jax.jit(self.written, out_shardings=self.whole)

    def make_optimizer(self) -> optax.GradientTransformation:
        """AdamW, or Adafactor, which keeps sums of rows and columns instead of a value for every weight.

        Both without the learning rate, of which `updated` takes care.
        """
        trained = lambda params: {name: name != "final_logits_bias" for name in params}  # noqa: E731
        decay = optax.add_decayed_weights(self.settings.weight_decay, trained)
        if self.settings.optimizer == "adafactor":
            scaled = (
                optax.scale_by_factored_rms(min_dim_size_to_factor=2),
                optax.clip_by_block_rms(1.0),
                optax.scale_by_param_block_rms(),
            )
            return optax.chain(*scaled, decay)
        return optax.chain(optax.scale_by_adam(), decay)

    def placed(self, values: Array, place: NamedSharding) -> Array:
        """A parameter on the mesh, of which a process holds only what its devices need."""
        return jax.make_array_from_callback(values.shape, place, lambda part: jnp.copy(values[part]))

    def state_places(self, places: Any) -> Any:
        """Where the optimizer's state lies: moments with their parameters, everything else on all devices."""
        state = jax.eval_shape(self.optimizer.init, self.params)
        choose = lambda kept, of, place: place if kept.shape == of.shape else self.whole  # noqa: E731
        return optax.tree.map_params(
            self.optimizer, choose, state, self.params, places, transform_non_params=lambda _: self.whole
        )

    def arrays(self, several: Sequence[Batch]) -> dict[str, Array]:
        """The batches of all processes on the mesh, int32 [forward passes, B of all processes, S or T]."""
        fills = {"input_ids": self.model.config.pad_token_id, "attention_mask": 0, "labels": -100}
        lengths = np.array([[batch.inputs[name].shape[1] for name in fills] for batch in several]).max(0)
        if self.world > 1:
            lengths = np.asarray(process_allgather(lengths)).max(0)  # the processes' arrays must be of one shape
        rows = NamedSharding(self.mesh, PartitionSpec(None, ("data", "model")))
        made = {}
        for (name, fill), length in zip(fills.items(), lengths.tolist(), strict=True):
            table = np.full((len(several), self.settings.batch_size, length), fill, np.int32)
            for place, batch in enumerate(several):
                table[place, :, : batch.inputs[name].shape[1]] = batch.inputs[name]
            made[name] = jax.make_array_from_process_local_data(rows, table)
        return made

    def updated(
        self, params: Any, state: Any, batches: dict[str, Array], labels: Array, rate: Array, number: Array
    ) -> tuple[Any, Any, Array, Array]:
        """New parameters and state, the loss, and the gradient's norm. Compiled once for each shape of the batches."""
        # A key for each update: one that is made after a kill drops what it would have dropped before.
        key = jax.random.fold_in(jax.random.key(self.settings.seed), number)

        def part(params: Any, batch: dict[str, Array], key: Array) -> Array:
            batch = jax.lax.with_sharding_constraint(batch, NamedSharding(self.mesh, PartitionSpec("data")))
            smoothing = self.settings.label_smoothing
            loss = self.model.cross_entropy(
                **batch, label_smoothing=smoothing, params=params, train=True, dropout_rng=key
            )
            return loss * ((batch["labels"] != -100).sum() / labels)

        def one(sums: Any, several: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, jax.value_and_grad(part)(params, *several)), None

        keys = jax.random.split(key, len(batches["labels"]))
        nothing = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        (loss, gradient), _ = jax.lax.scan(one, nothing, (batches, keys))
        norm = optax.tree.norm(gradient)
        if self.settings.clip:
            gradient = optax.tree.scale(jnp.minimum(self.settings.clip / (norm + 1e-6), 1.0), gradient)
        changes, state = self.optimizer.update(gradient, state, params)
        return optax.apply_updates(params, optax.tree.scale(-rate, changes)), state, loss, norm

    def measured(self, params: Any, batches: dict[str, Array]) -> Array:
        """The loss of a batch, summed over its labels."""
        batch = {name: values[0] for name, values in batches.items()}
        return self.model.cross_entropy(**batch, params=params) * (batch["labels"] != -100).sum()

    def written(self, params: Any, batches: dict[str, Array]) -> Array:
        """Token ids written for each row of a batch."""
        options = {"num_beams": self.settings.beams, "max_new_tokens": self.settings.max_new_tokens}
        ids, mask = batches["input_ids"][0], batches["attention_mask"][0]
        return self.model.generate(ids, attention_mask=mask, params=params, **options).sequences

    def step(self, several: Sequence[Batch], labels: int, rate: float, number: int) -> tuple[float, float]:
        """One update; the mean loss, and the gradient's norm."""
        values = np.float32(labels), np.float32(rate), np.int32(number)
        with jax.set_mesh(self.mesh):
            self.params, self.state, loss, norm = self.update(self.params, self.state, self.arrays(several), *values)
        return float(loss), float(norm)

    def loss(self, batch: Batch) -> float:
        """This process's share of the loss of all processes' batches, summed over their labels."""
        return float(self.measure(self.params, self.arrays([batch]))) / self.world

    def generate(self, batch: Batch) -> list[list[int]]:
        """Token ids written for each row."""
        rows = slice(self.rank * self.settings.batch_size, (self.rank + 1) * self.settings.batch_size)
        return np.asarray(self.write(self.params, self.arrays([batch])))[rows].tolist()

    def save(self, folder: Path) -> None:
        """Save the model as `from_pretrained` reads it."""
        params = process_allgather(self.params, tiled=True) if self.world > 1 else self.params
        if self.rank == 0:
            self.model.save_pretrained(folder, params=params)

    def save_state(self, folder: Path) -> None:
        """Save parameters and the optimizer's state, each process its own part."""
        with ocp.StandardCheckpointer() as writer:
            writer.save(folder.absolute() / "jax", (self.params, self.state))

    def load_state(self, folder: Path) -> None:
        """Go back to what was saved, on whatever devices there are now."""
        with ocp.StandardCheckpointer() as reader:
            self.params, self.state = reader.restore(folder.absolute() / "jax", (self.params, self.state))

    def gather(self, values: list[Any]) -> list[Any]:
        """The values of all processes."""
        if self.world == 1:
            return values
        written = np.frombuffer(pickle.dumps(values), np.uint8)
        sizes = process_allgather(np.array([written.size]))[:, 0].tolist()
        rows = process_allgather(np.pad(written, (0, max(sizes) - written.size)))
        return [value for row, size in zip(rows, sizes, strict=True) for value in pickle.loads(row[:size].tobytes())]


if __name__ == "__main__":
    settings = parse(__doc__)
    fine_tune(settings, FlaxLearner(settings))
