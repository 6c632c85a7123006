"""The demonstration checkpoints inside this package: small, trained on made-up text, there without any download."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

DEMO_CHECKPOINTS = {
    "summarization": "pegasus-demo",
    "text2text-generation": "pegasus-demo",
    "chat": "blenderbot-small-demo",
}
"""Which one a task uses when no model is named."""


def demo_checkpoint(name: str) -> Path:
    """The folder of a demonstration checkpoint, such as "pegasus-demo"."""
    return Path(str(resources.files(__package__) / "checkpoints" / name))


def resolve_model(name: str) -> str | Path:
    """The folder of a demonstration checkpoint if that is its name, and no folder here is called the same."""
    bundled = name in DEMO_CHECKPOINTS.values() and not Path(name).is_dir()
    return demo_checkpoint(name) if bundled else name
