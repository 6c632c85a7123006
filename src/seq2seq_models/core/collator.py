"""Making one batch of several examples, for training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass
class DataCollatorForSeq2Seq:
    """Pads the inputs and labels of several examples to one length each, as tensors.

    Attributes:
        tokenizer: pads the inputs, on its `padding_side`; labels are padded on the same side.
        model: if it has `prepare_decoder_input_ids_from_labels`, the batch also gets `decoder_input_ids` from it.
        padding: True or "longest" pads to the longest, "max_length" to `max_length`, False or "do_not_pad" not at all.
        max_length: the length to pad to, in tokens, with padding "max_length".
        pad_to_multiple_of: round lengths up to a multiple of this many tokens.
        label_pad_token_id: fills labels up; losses ignore -100.
        return_tensors: "pt", "tf", "np" or "jax".
    """

    tokenizer: Any
    model: Any = None
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = -100
    return_tensors: str = "pt"

    def __call__(self, features: Sequence[Mapping[str, Any]], return_tensors: str | None = None) -> Any:
        """The batch: padded inputs [B, S], `labels` [B, T] int64 or None, and with a model `decoder_input_ids` [B, T].

        Args:
            features: examples, each with `input_ids` and usually `labels` (or `label`), lists or arrays.
            return_tensors: "pt", "tf", "np" or "jax", instead of the collator's own.
        Raises:
            InputError: some examples have labels and others have none, or padding is off and lengths differ.
        """
        kind = return_tensors or self.return_tensors
        name = "label" if "label" in features[0] else "labels"
        labels = [feature.get(name) for feature in features]
        inputs = [{key: value for key, value in feature.items() if key != name} for feature in features]
        batch = self._pad_inputs(inputs, kind)
        batch["labels"] = None
        if any(label is not None for label in labels):
            batch["labels"] = _tensor(self._padded(labels), kind)
            if hasattr(self.model, "prepare_decoder_input_ids_from_labels"):
                batch["decoder_input_ids"] = self.model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        return batch

    def _pad_inputs(self, inputs: list[dict[str, Any]], kind: str) -> Any:
        # A tokenizer of transformers would advise against `pad` once; there is no other way to batch ids.
        notes = getattr(self.tokenizer, "deprecation_warnings", None)
        noted = None if notes is None else notes.get("Asking-to-pad-a-fast-tokenizer", False)
        if notes is not None:
            notes["Asking-to-pad-a-fast-tokenizer"] = True
        try:
            return self.tokenizer.pad(
                inputs,
                padding=self.padding,
                max_length=self.max_length,
                pad_to_multiple_of=self.pad_to_multiple_of,
                return_tensors=kind,
            )
        finally:
            if notes is not None:
                notes["Asking-to-pad-a-fast-tokenizer"] = noted

    def _padded(self, labels: list[Any]) -> list[list[int]]:
        missing = [str(number) for number, label in enumerate(labels) if label is None]
        if missing:
            raise InputError(
                f"`labels` must be there for all examples or for none, got none for example {', '.join(missing)} "
                "(data collator). Give every example labels."
            )
        rows = [list(row.tolist() if hasattr(row, "tolist") else row) for row in labels]
        if self.padding in (False, "do_not_pad"):
            if len({len(row) for row in rows}) > 1:
                lengths = ", ".join(str(len(row)) for row in rows)
                raise InputError(
                    f"`labels` must be of one length without padding, got {lengths} (data collator). "
                    "Set `padding=True`."
                )
            return rows
        length = self._label_length(rows)
        fills = [[self.label_pad_token_id] * (length - len(row)) for row in rows]
        on_right = self.tokenizer.padding_side == "right"
        return [row + fill if on_right else fill + row for row, fill in zip(rows, fills, strict=True)]

    def _label_length(self, rows: list[list[int]]) -> int:
        longest = max(len(row) for row in rows)
        if self.padding == "max_length" and self.max_length is not None:
            if longest > self.max_length:
                raise InputError(
                    f"`labels` must be at most `max_length` = {self.max_length} tokens long, got {longest} "
                    "(data collator). Truncate them when tokenizing."
                )
            longest = self.max_length
        step = self.pad_to_multiple_of or 1
        return -(-longest // step) * step


def _tensor(rows: list[list[int]], kind: str) -> Any:
    import numpy as np

    array = np.asarray(rows, dtype=np.int64)
    if kind == "pt":
        import torch

        return torch.from_numpy(array)
    if kind == "tf":
        import tensorflow

        return tensorflow.constant(array)
    if kind == "jax":
        import jax.numpy

        return jax.numpy.asarray(array)
    return array
