"""The command `seq2seq-models env`: what a report of a fault should say about the machine, and nothing private."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
from collections.abc import Callable
from importlib import metadata
from typing import Any

from . import __version__
from .checkpoint_commands import add_log_options

PACKAGES = ("torch", "tensorflow", "keras", "jax", "jaxlib", "flax", "numpy", "tokenizers", "huggingface_hub",
            "safetensors", "regex", "h5py", "transformers")  # fmt: skip
"""What the results of this library depend on, and transformers, which people compare them with."""

VARIABLES = ("CUDA_VISIBLE_DEVICES", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "JAX_PLATFORMS",
             "KERAS_BACKEND", "OMP_NUM_THREADS", "TF_XLA_FLAGS", "XLA_FLAGS")  # fmt: skip
"""Environment variables that change what frameworks and the hub's client do."""

SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""Of these only whether they are set is told."""


def add_environment_command(commands: Any) -> None:
    """Adds `env` to the commands of the parser."""
    command = commands.add_parser(
        "env",
        help="show what a bug report should say about this machine",
        description="Shows versions and settings as Markdown, to be pasted into a bug report. No framework is loaded.",
    )
    command.add_argument("--devices", action="store_true", help="load the frameworks and show the devices they see")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    add_log_options(command)
    command.set_defaults(run=show)


def show(options: argparse.Namespace) -> None:
    """Prints the report."""
    found = environment(options.devices)
    print(json.dumps(found, ensure_ascii=False, indent=2) if options.json else as_markdown(found))


def environment(devices: bool = False) -> dict[str, Any]:
    """Versions (None for a package that is not installed), the machine, and the variables that are set.

    Args:
        devices: load every framework that is installed and ask it for its devices.
    """
    settings = {name: _without_password(os.environ[name]) for name in VARIABLES if name in os.environ}
    settings |= {name: "(set)" for name in SECRETS if os.environ.get(name)}
    found: dict[str, Any] = {
        "seq2seq_models": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "packages": {name: _version(name) for name in PACKAGES},
        "variables": settings,
    }
    if devices:
        found["devices"] = {name: _devices(name) for name in DEVICES if found["packages"][name] is not None}
    return found


def as_markdown(found: dict[str, Any]) -> str:
    """The report as a list."""
    lines = []
    for name, value in found.items():
        if not isinstance(value, dict):
            lines.append(f"- {name}: {value}")
            continue
        inner = [f"  - {key}: {'not installed' if one is None else one}" for key, one in value.items()]
        lines += [f"- {name}:", *inner] if inner else [f"- {name}: none"]
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _without_password(value: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//(hidden)@", value)


def _torch_devices() -> list[str]:
    import torch

    return ["cpu", *(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))]


def _tensorflow_devices() -> list[str]:
    import tensorflow as tf

    return [device.name for device in tf.config.list_physical_devices()]


def _jax_devices() -> list[str]:
    import jax

    return [f"{device.platform}:{device.id} ({device.device_kind})" for device in jax.devices()]


DEVICES: dict[str, Callable[[], list[str]]] = {
    "torch": _torch_devices,
    "tensorflow": _tensorflow_devices,
    "jax": _jax_devices,
}


def _devices(framework: str) -> str:
    """The devices of a framework, or why it does not say: a broken installation is what is reported here."""
    try:
        return ", ".join(DEVICES[framework]())
    except Exception as error:
        return f"{type(error).__name__}: {error}"
