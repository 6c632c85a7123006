"""What Keras needs to train these models: their own loss, batches in every form, and datasets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from ..core.outputs import ModelOutput
from ..errors import InputError
from .loss import language_modeling_loss

OWN_LOSS = ("auto", "auto_with_warning", "passthrough", None)
"""What `compile` may be given as loss to mean the model's own."""


class TrainingMixin:
    """`compile`, `fit`, `evaluate` and `predict` for the models, over what Keras does for any model."""

    if TYPE_CHECKING:
        call: Callable[..., Any]

    _has_own_loss = True

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = "auto",
        metrics: Any = None,
        loss_weights: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str = False,
        **kwargs: Any,
    ) -> None:
        """Prepare for `fit`, as `keras.Model.compile` does, with the model's own loss if none is given.

        Args:
            loss: "auto" is the cross-entropy of the labels, in float32; else any Keras loss of the logits.
            jit_compile: False by default, not "auto": XLA would compile every new length of a batch anew.
            optimizer, metrics, loss_weights, weighted_metrics, run_eagerly, steps_per_execution, **kwargs: Keras's.
        """
        self._has_own_loss = loss is None or (isinstance(loss, str) and loss in OWN_LOSS)
        super().compile(  # type: ignore[misc]
            optimizer=optimizer,
            loss=None if self._has_own_loss else loss,
            metrics=metrics,
            loss_weights=loss_weights,
            weighted_metrics=weighted_metrics,
            run_eagerly=bool(run_eagerly),
            steps_per_execution=steps_per_execution or 1,
            jit_compile=jit_compile,
            **kwargs,
        )

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as a model was that is loaded from a .keras file."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:  # type: ignore[attr-defined]
            self.optimizer.build(self.trainable_variables)  # type: ignore[attr-defined]

    # ---- one batch

    def train_step(self, data: Any) -> Any:
        """One step of `fit` on a batch: inputs with labels among them, or (inputs, labels[, weights])."""
        return super().train_step(self._prepared(data))  # type: ignore[misc]

    def test_step(self, data: Any) -> Any:
        """One step of `evaluate` on such a batch."""
        return super().test_step(self._prepared(data))  # type: ignore[misc]

    def predict_step(self, data: Any) -> Any:
        """One step of `predict`: the outputs without the loss and, unless asked for, without the cache."""
        inputs = self.unpacked(keras.utils.unpack_x_y_sample_weight(data)[0])
        inputs.pop("labels", None)
        # Differs from transformers 4.57.6: the caches of all batches would be kept until the end.
        inputs.setdefault("use_cache", False)
        return self(**inputs, training=False)  # type: ignore[operator]

    def _prepared(self, data: Any) -> tuple[Any, Any, Any]:
        """(inputs by name, labels, weights) of a batch in any of its forms."""
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        inputs = self.unpacked(x)
        labels = y.get("labels") if isinstance(y, Mapping) else y
        labels = inputs.get("labels") if labels is None else labels
        if self._has_own_loss:
            if labels is None or "labels" not in self.argument_names():
                raise InputError(
                    f"`labels` must be among the inputs, or beside them, to train {type(self).__name__} with its own "
                    "loss, got none. Add them, or give `compile` a loss and `fit` targets."
                )
            inputs.setdefault("labels", labels)
        else:
            inputs.pop("labels", None)
            self._add_decoder_inputs(inputs, labels)
        return inputs, labels, weights

    def _add_decoder_inputs(self, inputs: dict[str, Any], labels: Any) -> None:
        has_some = "decoder_input_ids" in inputs or "decoder_inputs_embeds" in inputs
        if not has_some and labels is not None and hasattr(self, "prepare_decoder_input_ids_from_labels"):
            inputs["decoder_input_ids"] = self.prepare_decoder_input_ids_from_labels(labels)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The loss of a batch, as Keras asks for it."""
        if not self._has_own_loss:
            return super().compute_loss(x, y, _first_output(y_pred), sample_weight, training)  # type: ignore[misc]
        loss = y_pred["loss"]
        if sample_weight is not None:
            labels = self._known(x["labels"])  # type: ignore[attr-defined]
            loss = language_modeling_loss(y_pred["logits"], labels, weights=sample_weight)
        for own in self.losses:  # type: ignore[attr-defined]
            loss = loss + ops.cast(own, "float32")
        # Gradients of the replicas are added up; that of the mean is wanted.
        return loss / tf.distribute.get_strategy().num_replicas_in_sync

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Metrics of a batch: those given to `compile` see labels and logits."""
        return super().compute_metrics(x, y, _first_output(y_pred), sample_weight)  # type: ignore[misc]

    # ---- inputs

    @classmethod
    def argument_names(cls) -> list[str]:
        """The names of `call`'s arguments, in order; for `**kwargs` those of the class above, which gets them."""
        names: dict[str, None] = {}
        for kind in cls.__mro__:
            if "call" not in vars(kind):
                continue
            takes = list(inspect.signature(vars(kind)["call"]).parameters.values())
            names |= dict.fromkeys(one.name for one in takes if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL))
            if not any(one.kind is one.VAR_KEYWORD for one in takes):
                break
        names.pop("self", None)
        return list(names)

    def unpacked(self, inputs: Any) -> dict[str, Any]:
        """The arguments of `call` in a tensor, list, tuple or mapping; None is left out.

        Names that `call` does not know are left out too, as a dataset may have columns that are not for the model.

        Raises:
            InputError: a list is longer than the arguments.
        """
        names = self.argument_names()
        if isinstance(inputs, Mapping) or hasattr(inputs, "keys"):
            return {name: inputs[name] for name in inputs.keys() if name in names and inputs[name] is not None}
        if not isinstance(inputs, list | tuple):
            return {} if inputs is None else {names[0]: inputs}
        if len(inputs) > len(names):
            raise InputError(f"a list of inputs must have at most {len(names)} items, got {len(inputs)}.")
        found: dict[str, Any] = {}
        for position, value in enumerate(inputs):
            # Symbolic inputs say themselves which argument they are, in whatever order they come.
            own = getattr(value, "name", None) if isinstance(value, keras.KerasTensor) else None
            if value is not None:
                found[own if own in names else names[position]] = value
        return found

    # ---- datasets

    def prepare_tf_dataset(
        self,
        dataset: Any,
        batch_size: int = 8,
        shuffle: bool = True,
        tokenizer: Any = None,
        collate_fn: Callable[..., Any] | None = None,
        collate_fn_args: dict[str, Any] | None = None,
        drop_remainder: bool | None = None,
        prefetch: bool = True,
    ) -> tf.data.Dataset:
        """Batches for `fit`: (inputs by name, labels), or the inputs alone if there are no labels.

        Args:
            dataset: a `datasets.Dataset`, or any sequence of examples, each a dict of columns.
            batch_size: examples per batch B.
            shuffle: a new order in every epoch.
            tokenizer: pads the inputs of a batch to one length; labels are padded with -100.
            collate_fn: makes a batch of a list of examples instead, as arrays or tensors.
            collate_fn_args: keywords for it.
            drop_remainder: leave out a last batch that is not full; by default so if shuffled.
            prefetch: make the next batch while one is computed with.

        Raises:
            InputError: the dataset is empty, or no column of it is an input of the model.
        """
        batches = Batches(self.argument_names(), dataset, batch_size, shuffle, _collator(tokenizer, collate_fn))
        batches.options = collate_fn_args or {}
        batches.drop_remainder = shuffle if drop_remainder is None else drop_remainder
        made = tf.data.Dataset.from_generator(batches, output_signature=batches.signature())
        made = made.apply(tf.data.experimental.assert_cardinality(len(batches)))
        return made.prefetch(tf.data.AUTOTUNE) if prefetch else made


class Batches:
    """Batches of examples, in a new order each time they are gone through if `shuffle`."""

    def __init__(self, names: list[str], dataset: Any, size: int, shuffle: bool, collate: Callable[..., Any]) -> None:
        self.names, self.dataset, self.size, self.shuffle, self.collate = names, dataset, size, shuffle, collate
        self.options: dict[str, Any] = {}
        self.drop_remainder = False
        if len(dataset) == 0:
            raise InputError("`dataset` must hold at least one example, got none.")

    def __len__(self) -> int:
        return len(self.dataset) // self.size if self.drop_remainder else -(-len(self.dataset) // self.size)

    def __call__(self) -> Iterator[Any]:
        order = np.random.permutation(len(self.dataset)) if self.shuffle else np.arange(len(self.dataset))
        for number in range(len(self)):
            yield self.batch(order[number * self.size : (number + 1) * self.size])

    def batch(self, rows: Any) -> Any:
        """The batch of these rows: inputs and, if there are some, labels."""
        given = self.collate([dict(self.dataset[int(row)]) for row in rows], **self.options)
        columns = {
            "labels" if name in ("label", "label_ids") else name: np.asarray(given[name])
            for name in given.keys()
            if given[name] is not None
        }
        labels = columns.pop("labels", None)
        inputs: Any = {name: values for name, values in columns.items() if name in self.names}
        if not inputs:
            raise InputError(
                f"`dataset` must have a column that is an input of the model, got {', '.join(sorted(columns))}. "
                "Tokenize it first."
            )
        return inputs if labels is None else (inputs, labels)

    def signature(self) -> Any:
        """Dtypes and ranks of a batch; its sizes may differ."""
        return tf.nest.map_structure(
            lambda values: tf.TensorSpec([None] * values.ndim, values.dtype),
            self.batch(range(min(2, len(self.dataset)))),
        )


def _collator(tokenizer: Any, collate_fn: Callable[..., Any] | None) -> Callable[..., Any]:
    if collate_fn is not None:
        return collate_fn
    if tokenizer is None:
        return _stacked
    from ..core.collator import DataCollatorForSeq2Seq

    return DataCollatorForSeq2Seq(tokenizer, return_tensors="np")


def _stacked(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Columns of examples of one length; text and the like is left out."""
    found = {name: np.asarray([example[name] for example in examples]) for name in examples[0]}
    return {name: values for name, values in found.items() if values.dtype.kind in "iufb"}


def _first_output(output: Any) -> Any:
    """What a loss or metric compares with the labels: the logits, or the first thing returned."""
    if isinstance(output, ModelOutput | dict):
        return output["logits"] if "logits" in output else next(iter(output.values()))
    return output[0] if isinstance(output, tuple | list) else output
