"""The command line of the fine-tuning scripts: one description for all three."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any


def _option(default: Any, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, **more})


@dataclass(frozen=True)
class Settings:
    """What a run is to do; each field is an option of the command line."""

    train: str = field(
        metadata={"help": "JSON lines (.jsonl), .csv, a folder of `datasets`, or its name on the hub", "required": True}
    )
    output: Path = field(
        metadata={"help": "folder of the model, its state and its reports", "required": True, "type": Path}
    )
    validation: str | None = _option(None, "the same for evaluation; without it nothing is measured")
    model: str = _option("pegasus-demo", "a folder, a name on the hub, or pegasus-demo, blenderbot-small-demo")
    task: str | None = _option(
        None, "by default what the model is made for", choices=["summarization", "chat"], type=str
    )

    source_column: str | None = _option(None, "column of the texts (default: source, document, article, text)")
    target_column: str | None = _option(None, "column of the answers (default: target, summary, highlights, headline)")
    dialogue_column: str | None = _option(
        None, "chat: column of the turns, a list of texts or of {role, content} (default: turns, dialogue, messages)"
    )
    max_source_length: int | None = _option(
        None, "tokens of a source that are read (default: all that the model reads)", type=int
    )
    max_target_length: int = _option(128, "tokens of a target that are learnt")
    train_examples: int | None = _option(None, "learn from so many examples only", type=int)
    validation_examples: int | None = _option(None, "evaluate on so many examples only", type=int)

    epochs: int = _option(3, "passes over the training data")
    max_steps: int | None = _option(None, "end after so many updates, whatever the epochs", type=int)
    batch_size: int = _option(8, "examples of one forward pass, on each process")
    accumulation: int = _option(1, "forward passes of one update")
    pad_to_multiple_of: int = _option(32, "round the lengths of a batch up; few lengths are few programs to compile")
    learning_rate: float = _option(5e-5, "the highest learning rate")
    optimizer: str = _option("adamw", "adafactor keeps far less state", choices=["adamw", "adafactor"])
    schedule: str = _option("linear", "of the learning rate after warm-up", choices=["linear", "cosine", "constant"])
    warmup_steps: int = _option(0, "updates over which the learning rate rises")
    weight_decay: float = _option(0.0, "decoupled weight decay")
    clip: float = _option(1.0, "largest norm of a gradient; 0 leaves gradients as they are")
    label_smoothing: float = _option(0.0, "share of each label that is spread over all words")
    dropout: float | None = _option(None, "instead of the model's own, of every kind", type=float)
    precision: str = _option("float32", "of the computation; weights stay float32", choices=["float32", "bfloat16"])
    gradient_checkpointing: bool = _option(False, "compute layers twice to keep less in memory")
    shard_model: int = _option(1, "devices that share one copy of the model; all other devices share the data")
    device: str | None = _option(None, "cpu, cuda, ... (default: the framework's own choice)", type=str)
    seed: int = _option(0, "of the order of the data and of dropout")

    evaluate_every: int = _option(0, "updates between evaluations; 0 is once an epoch")
    beams: int = _option(1, "beams of the evaluation's texts; 1 is greedy search")
    max_new_tokens: int = _option(64, "longest text of an evaluation, in tokens")
    metric: str | None = _option(
        None, "what the best model is best in (default: rougeL for summaries, perplexity for chat)",
        choices=["rouge1", "rouge2", "rougeL", "loss", "perplexity"], type=str,
    )  # fmt: skip
    patience: int = _option(0, "evaluations without a better model before the run ends; 0 never ends it")

    save_every: int = _option(500, "updates between two states from which a killed run continues")
    overwrite: bool = _option(False, "begin anew, whatever the output folder holds")
    log_every: int = _option(10, "updates between two lines of the log")
    push_to_hub: str | None = _option(None, "owner/name of a repository that gets the output folder", type=str)

    def same_run(self) -> dict[str, Any]:
        """What must not change between a run and its continuation."""
        free = ("output", "overwrite", "save_every", "log_every", "push_to_hub", "device")
        return {key: value for key, value in asdict(self).items() if key not in free}


def parse(description: str, arguments: Sequence[str] | None = None) -> Settings:
    """The settings that a command line asks for.

    Args:
        description: what `--help` says first.
        arguments: the words of the command line; the process's own by default.
    """
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=description.split("\n\n")[0], formatter_class=formatter)
    for one in fields(Settings):
        options = dict(one.metadata)
        name = "--" + one.name.replace("_", "-")
        if options.get("required"):
            parser.add_argument(name, metavar="DATA" if one.name == "train" else "FOLDER", **options)
        elif isinstance(one.default, bool):
            parser.add_argument(name, action="store_true", **options)
        else:
            options.setdefault("type", type(one.default) if one.default is not None else str)
            parser.add_argument(name, default=one.default, **options)
    settings = Settings(**vars(parser.parse_args(arguments)))
    for name in (
        "epochs",
        "batch_size",
        "accumulation",
        "pad_to_multiple_of",
        "shard_model",
        "log_every",
        "save_every",
    ):
        if getattr(settings, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(settings, name)}")
    return settings
