"""What transformers' Trainer leaves out of the checkpoints of models that are not its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


class SaveConfigCallback:
    """A callback of transformers' `Trainer` that writes config.json and generation_config.json beside the weights.

    The Trainer calls `save_pretrained` on transformers' own classes only, and of any other model it writes the weights.
    With this callback every checkpoint folder, and at the end of the training the output folder, has the two files, so
    that it loads by `from_pretrained`, here and in transformers. Only the first process of a run writes.

        trainer = Seq2SeqTrainer(model=model, ..., callbacks=[SaveConfigCallback()])
    """

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Writes the files of the model into the checkpoint that was just made."""
        self._write(Path(args.output_dir) / f"checkpoint-{state.global_step}", state, model)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Writes the files of the model into the output folder, where `trainer.save_model()` puts the weights."""
        self._write(Path(args.output_dir), state, model)

    def _write(self, folder: Path, state: Any, model: Any) -> None:
        if not state.is_world_process_zero:
            return
        for name in ("config", "generation_config"):
            config: Any = getattr(model, name, None)
            if hasattr(config, "save_pretrained"):
                config.save_pretrained(folder)

    def __getattr__(self, name: str) -> Callable[..., None]:
        # The Trainer calls a method for each of its events. The base class that has them all is transformers', which
        # this library does not need.
        if name.startswith("on_"):
            return _nothing
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


def _nothing(*args: Any, **kwargs: Any) -> None:
    """What is done at the Trainer's other events."""
