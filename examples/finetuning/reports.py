"""What a run leaves for people: its history as lines and for TensorBoard, a picture, and a model card."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCardData
from tensorboardX import SummaryWriter

from .arguments import Settings
from .scores import ROUGE

FILE = "history.jsonl"
CARD, PICTURE = "README.md", "curves.png"


class History:
    """Everything measured, one JSON object a line in history.jsonl, and the same for TensorBoard in logs/."""

    def __init__(self, folder: Path, known: int, step: int) -> None:
        """Continue a history.

        Args:
            folder: the output folder.
            known: bytes of the file that belong to the state that the run continues from.
            step: the update of that state.
        """
        self.path = folder / FILE
        self.path.touch()
        os.truncate(self.path, known)
        self.board = SummaryWriter(str(folder / "logs"), purge_step=step + 1 if known else None)

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self.path.stat().st_size

    def add(self, step: int, values: dict[str, float]) -> None:
        """Record values measured after an update."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what TensorBoard still waits for."""
        self.board.close()


def read_history(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's history."""
    lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def draw(folders: dict[str, Path], path: Path) -> None:
    """Draw the losses and, where measured, ROUGE-L of one run or of several in one picture.

    Args:
        folders: output folders by the name that is to stand beside the curve.
        path: the picture, a .png or .svg file.
    """
    from matplotlib.figure import Figure

    histories = {name: read_history(folder) for name, folder in folders.items()}
    score = "rougeL" if any("rougeL" in line for lines in histories.values() for line in lines) else "perplexity"
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for name, lines in histories.items():
        for axes, key, style in ((losses, "loss", "-"), (losses, "validation_loss", "o--"), (scores, score, "o-")):
            points = [(line["step"], line[key]) for line in lines if key in line]
            label = f"{name} {key}".strip().replace("_", " ")
            if points:
                axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    for axes, title in ((losses, "loss of a token"), (scores, score)):
        axes.set(xlabel="update", title=title)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    losses.set_yscale("log")
    figure.savefig(path, dpi=120)


def write_card(settings: Settings, results: dict[str, float], framework: str) -> None:
    """Write the model card: how the model was made, and what was measured. Nothing else is claimed."""
    chat = settings.task == "chat"
    data = ModelCardData(
        library_name="seq2seq_models",
        base_model=None if Path(settings.model).is_dir() else settings.model,
        pipeline_tag="text-generation" if chat else "summarization",
        tags=["conversational" if chat else "summarization", "generated_from_script"],
    )
    rows = [f"| {name} | {value:.4g} |" for name, value in results.items()] or ["| nothing | |"]
    known = {key: value for key, value in settings.same_run().items() if value is not None and key != "train"}
    options = [f"| {key} | {value} |" for key, value in known.items()]
    measured = Path(settings.validation).name if settings.validation else "no held-out data"
    lines = [
        "---", data.to_yaml(), "---", "",
        f"# {settings.output.resolve().name}", "",
        f"`{Path(settings.model).name}` fine-tuned in {framework} on {Path(settings.train).name}.", "",
        "## Measured", "",
        f"On {measured}, best model of the run:", "",
        "| what | value |", "| --- | ---: |", *rows, "",
        f"![loss and scores]({PICTURE})", "",
        "## Made with", "",
        f"`{Path(sys.argv[0]).name}` and these settings:", "",
        "| option | value |", "| --- | --- |", *options, "",
    ]  # fmt: skip
    (settings.output / CARD).write_text("\n".join(lines), encoding="utf-8")


def push(settings: Settings) -> Any:
    """Upload the output folder, without the states that only its run needs."""
    hub = HfApi(library_name="seq2seq_models")
    repository = hub.create_repo(str(settings.push_to_hub), exist_ok=True).repo_id
    return hub.upload_folder(
        repo_id=repository, folder_path=settings.output, ignore_patterns=["state-*", "*.partial"],
        commit_message="Fine-tuned model",
    )  # fmt: skip


def shown(results: dict[str, float]) -> str:
    """Results in one line."""
    names = [name for name in (*ROUGE, "perplexity", "validation_loss") if name in results]
    return ", ".join(f"{name} {results[name]:.4g}" for name in names)


def summary(results: dict[str, float], step: int) -> str:
    """What the model in the output folder is, in one line."""
    return f"best after update {step}: {shown(results)}" if results else f"saved after update {step}; nothing measured"
