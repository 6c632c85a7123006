#!/usr/bin/env python3
"""Fine-tune Pegasus or BlenderbotSmall in TensorFlow.

    python examples/finetune_tensorflow.py --train train.jsonl --validation validation.jsonl --output tuned
    TF_CONFIG='{"cluster": ..., "task": ...}' python examples/finetune_tensorflow.py ...      # on several processes

The command line, the data, the loop and the reports are those of finetune_pytorch.py and finetune_flax.py; what stands
here is TensorFlow's part, with Keras' optimizers. For less code of your own and none of the control, there is `fit`.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from finetuning.arguments import Settings, parse
from finetuning.batches import Batch
from finetuning.training import fine_tune
from seq2seq_models import TFAutoModelForSeq2SeqLM
from seq2seq_models.bundled import resolve_model

EPSILON = 1e-8
"""PyTorch's and optax's default, added to the root of the corrected second moment."""


class AdamW(keras.optimizers.Adam):
    """Keras' Adam in one kernel for each weight, which updates it and both moments in place.

    Keras adds epsilon to a root that is not yet corrected for the first steps, so it means another thing in each of
    them; here it means what it does in PyTorch.

    Source: Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, for the weight decay that Keras adds.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update a weight and its moments."""
        place = self._get_variable_index(variable)
        made = tf.cast(self.iterations + 1, tf.float32)
        first, second = tf.pow(self.beta_1, made), tf.pow(self.beta_2, made)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[place].value.handle,
            v=self._velocities[place].value.handle,
            beta1_power=first,
            beta2_power=second,
            lr=tf.cast(learning_rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon * tf.sqrt(1.0 - second),
            grad=gradient,
        )


class TensorFlowLearner:
    """A model, its optimizer, and what TensorFlow does with a batch.

    Every process has a whole model of its own. They stay equal because each makes the same update of the same sum of
    gradients, and that sum is all that the processes share.
    """

    framework = "TensorFlow"

    def __init__(self, settings: Settings) -> None:
        refuse(settings)
        self.settings, self.rank, self.world = settings, 0, 1
        if settings.device == "cpu":
            tf.config.set_visible_devices([], "GPU")
        self.strategy = tf.distribute.get_strategy()
        if "TF_CONFIG" in os.environ:  # the cluster, and which of its processes this one is
            self.join()
        noise: dict[str, Any] = {}
        if settings.dropout is not None:
            noise = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), settings.dropout)
        # In bfloat16 are products and what lies between them; weights, norms and the loss stay in float32.
        keras.config.set_dtype_policy("mixed_bfloat16" if settings.precision == "bfloat16" else "float32")
        self.model = TFAutoModelForSeq2SeqLM.from_pretrained(resolve_model(settings.model), **noise)
        self.weights = self.model.trainable_variables
        self.optimizer = self.make_optimizer()
        self.optimizer.build(self.weights)
        state = [*self.model.variables, *self.optimizer.variables]
        self.state = tf.train.Checkpoint(variables=[variable.value for variable in state])
        # Traced once for each shape of a batch, and run as graphs from then on.
        graph = partial(tf.function, autograph=False)
        self.differentiate, self.measure = graph(self.gradients), graph(self.cross_entropy)
        self.update, self.everywhere = graph(self.updated), graph(self.summed)
        self.collect = graph(self.collected, input_signature=[tf.TensorSpec([None], tf.int32)])

    def join(self) -> None:
        """Join the other processes of the run.

        Raises:
            ValueError: a process has several devices, or is no worker.
        """
        self.strategy = tf.distribute.MultiWorkerMirroredStrategy()
        resolver, replicas = self.strategy.cluster_resolver, self.strategy.num_replicas_in_sync
        self.rank, self.world = resolver.task_id, resolver.cluster_spec().num_tasks("worker")
        if self.world != replicas:
            raise ValueError(
                f"TF_CONFIG must name a worker for each device, got {self.world} for {replicas}. Start a process for "
                "each GPU, with its CUDA_VISIBLE_DEVICES, and name no other kind of task."
            )

    def make_optimizer(self) -> keras.optimizers.Optimizer:
        """AdamW, or Adafactor, of which Keras keeps half as much state."""
        decay = self.settings.weight_decay or None
        if self.settings.optimizer == "adafactor":
            return keras.optimizers.Adafactor(learning_rate=0.0, weight_decay=decay)
        return AdamW(learning_rate=0.0, weight_decay=decay, epsilon=EPSILON)

    def tensors(self, batch: Batch) -> dict[str, tf.Tensor]:
        return {name: tf.constant(value, tf.int32) for name, value in batch.inputs.items()}

    # ---- graphs

    def cross_entropy(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        """The mean loss of a label, without label smoothing and dropout."""
        return self.model.cross_entropy(**inputs)

    def gradients(self, inputs: dict[str, tf.Tensor], share: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The loss of a batch times its share of the labels, and the gradient of that."""
        with tf.GradientTape() as tape:
            smoothing = self.settings.label_smoothing
            loss = share * self.model.cross_entropy(**inputs, label_smoothing=smoothing, training=True)
        found = tape.gradient(loss, [weight.value for weight in self.weights])
        return loss, [tf.convert_to_tensor(gradient) for gradient in found]

    def summed(self, loss: tf.Tensor, gradients: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The sums over all processes."""

        def add(values: list[tf.Tensor]) -> list[tf.Tensor]:
            here = [tf.identity(value) for value in values]  # on this process's device, where the sums go
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, here)

        loss, *gradients = self.strategy.run(add, args=([loss, *gradients],))
        return loss, gradients

    def collected(self, mine: tf.Tensor) -> tf.Tensor:
        """The rows of all processes, in the order of their ranks."""
        return self.strategy.gather(mine, axis=0)

    def updated(self, gradients: list[tf.Tensor]) -> tf.Tensor:
        """Change the weights; the gradient's norm before it was clipped."""
        norm = tf.linalg.global_norm(gradients)
        if self.settings.clip:
            gradients, _ = tf.clip_by_global_norm(gradients, self.settings.clip, use_norm=norm)
        self.optimizer.apply(gradients, self.weights)
        return norm

    # ---- what the loop asks for

    def step(self, several: Sequence[Batch], labels: int, rate: float, number: int) -> tuple[float, float]:
        """One update; the mean loss, and the gradient's norm."""
        # Seeds for each update: one that is made after a kill drops what it would have dropped before.
        seeds = np.random.SeedSequence([self.settings.seed, number, self.rank]).generate_state(4)
        self.model.get_encoder().seeds.state.assign(seeds[:2])
        self.model.get_decoder().seeds.state.assign(seeds[2:])
        total: Any = None
        for batch in several:
            found = self.differentiate(self.tensors(batch), tf.constant(batch.labels / labels, tf.float32))
            total = found if total is None else tf.nest.map_structure(tf.add, total, found)
        loss, gradients = self.everywhere(*total) if self.world > 1 else total
        self.optimizer.learning_rate = rate
        norm = self.update(gradients)
        return float(loss), float(norm)

    def loss(self, batch: Batch) -> float:
        """The loss of a batch, summed over its labels."""
        return float(self.measure(self.tensors(batch))) * batch.labels

    def generate(self, batch: Batch) -> list[list[int]]:
        """Token ids written for each row."""
        inputs = self.tensors(batch)
        ids = self.model.generate(
            inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            num_beams=self.settings.beams,
            max_new_tokens=self.settings.max_new_tokens,
        )
        return ids.numpy().tolist()

    def save(self, folder: Path) -> None:
        """Save the model as `from_pretrained` reads it."""
        if self.rank == 0:
            self.model.save_pretrained(folder)

    def save_state(self, folder: Path) -> None:
        """Save weights and the optimizer's state, which all processes have alike."""
        if self.rank == 0:
            self.state.write(str(folder / "tensorflow"))

    def load_state(self, folder: Path) -> None:
        """Go back to what was saved."""
        self.state.read(str(folder / "tensorflow")).assert_consumed()

    def gather(self, values: list[Any]) -> list[Any]:
        """The values of all processes, in the order of their ranks."""
        if self.world == 1:
            return values
        mine = np.frombuffer(pickle.dumps(values[0]), np.uint8)
        rows = self.collect(tf.constant(mine, tf.int32))  # bytes themselves are not collected
        every = io.BytesIO(rows.numpy().astype(np.uint8).tobytes())
        return [pickle.load(every) for _ in range(self.world)]


def refuse(settings: Settings) -> None:
    """Raise for what this script cannot do.

    Raises:
        ValueError: the message names the option.
    """
    if settings.shard_model > 1:
        raise ValueError(
            f"--shard-model must be 1 in TensorFlow, got {settings.shard_model}. MultiWorkerMirroredStrategy does not "
            "split a model; finetune_pytorch.py and finetune_flax.py do."
        )
    if settings.gradient_checkpointing:
        raise ValueError(
            "--gradient-checkpointing must be off in TensorFlow: its ways to compute a layer again would draw other "
            "dropout then. Take a smaller --batch-size and more --accumulation, or finetune_pytorch.py."
        )


if __name__ == "__main__":
    settings = parse(__doc__)
    fine_tune(settings, TensorFlowLearner(settings))
