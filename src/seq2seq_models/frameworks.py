"""Frameworks as the pipelines and the command name them, and how each loads, places and feeds a model.

A framework is imported by the functions that are told to use it, and by no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from .errors import InputError

FRAMEWORKS = {
    "pytorch": "pytorch", "pt": "pytorch", "torch": "pytorch",
    "tensorflow": "tensorflow", "tf": "tensorflow",
    "flax": "flax", "jax": "flax",
}  # fmt: skip
"""Every usual spelling of a framework's name."""

_TENSORS = {"pytorch": "pt", "tensorflow": "tf", "flax": "jax"}
_DTYPES = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16", "auto": "auto"}
_DTYPES |= {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def framework_name(framework: str | None) -> str:
    """ "pytorch", "tensorflow" or "flax", from any usual spelling of it; PyTorch where none is named.

    Raises:
        InputError: no framework is called that.
    """
    name = FRAMEWORKS.get(str(framework).lower()) if framework is not None else "pytorch"
    if name is None:
        raise InputError(
            f"`framework` must be 'pytorch', 'tensorflow' or 'flax', got {framework!r} (pipeline). "
            "Leave it out for PyTorch."
        )
    return name


def framework_of(model: Any) -> str:
    """The framework of a loaded model."""
    return FRAMEWORKS.get(str(getattr(model, "framework", "pt")), "pytorch")


def tensor_kind(model: Any) -> str:
    """What the tokenizer's `return_tensors` is for this model's framework."""
    return _TENSORS[framework_of(model)]


def load_model(framework: str, source: Any, device: Any, options: Mapping[str, Any], further: Mapping[str, Any]) -> Any:
    """The conditional-generation model of a checkpoint; `place` still has to move it.

    Args:
        framework: as `framework_name` gives it.
        source: a repository of the hub or a folder.
        device: as for `place`; TensorFlow's variables stay where they are made, so they are made there.
        options: keywords of `from_pretrained`, those that are None left out; `dtype` is of weights and computation.
        further: keywords that are passed on as they are.

    Raises:
        InputError: `dtype` is the name of none.
        MissingFrameworkError: the framework is not installed.
    """
    from . import auto

    prefix = {"pytorch": "", "tensorflow": "TF", "flax": "Flax"}[framework]
    loader = getattr(auto, f"{prefix}AutoModelForSeq2SeqLM")
    given = {name: value for name, value in options.items() if value is not None}
    dtype = given.pop("dtype", None)
    if isinstance(dtype, str):
        dtype = _dtype(dtype)
    if dtype is not None:
        given["torch_dtype"] = dtype
        if framework == "flax":  # there, `dtype` is the computation's alone
            given["dtype"] = _stored_dtype(source, given) if dtype == "auto" else dtype
    if framework == "tensorflow" and device is not None and "device_map" not in given:
        given["device_map"] = _tensorflow_device(device)
    return loader.from_pretrained(source, **given, **further)


def _dtype(name: str) -> str:
    if name in _DTYPES:
        return _DTYPES[name]
    raise InputError(f"`dtype` must be 'auto', 'float32', 'bfloat16' or 'float16', got {name!r} (pipeline).")


def _stored_dtype(source: Any, options: Mapping[str, Any]) -> str:
    """The dtype that the checkpoint's config names."""
    from .core.config import config_of

    config = options.get("config")
    if config is None:
        places = {name: options[name] for name in ("revision", "token") if name in options}
        config = config_of(source, **places)
    return str(config.dtype or "float32")


# Devices.


def place(model: Any, device: Any) -> Any:
    """Puts the model's weights onto a device, and gives the device to run on: None where the weights decide that.

    Args:
        model: of any framework.
        device: "cpu", "cuda:0" (or "gpu:0"), a number (-1 is the CPU), a device of the framework, or None for the
            first GPU that is there, else the CPU.

    Raises:
        InputError: there is no such device.
    """
    places = {"pytorch": _place_pytorch, "tensorflow": _place_tensorflow, "flax": _place_flax}
    found: Any = places[framework_of(model)](model, device)
    return found


def _place_pytorch(model: Any, device: Any) -> None:
    # PyTorch says only in the middle of things that there is no such device.
    import torch

    if device is None:
        if isinstance(getattr(model, "device", None), torch.device) and model.device.type != "cpu":
            return
        if getattr(model, "is_rounded", False):  # computes on a CPU only
            return
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        if isinstance(device, int):
            device = "cpu" if device < 0 else f"cuda:{device}"
        model.to(torch.device(device))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputError(_no_such(device, str(error).strip().splitlines()[0])) from error


def _place_tensorflow(model: Any, device: Any) -> Any:
    return None if device is None else _tensorflow_device(device)


def _tensorflow_device(device: Any) -> str:
    """TensorFlow's own name of a device."""
    import tensorflow as tf

    there = tf.config.list_logical_devices()
    kind, number = _kind_and_number(device)
    found = [one for one in there if (one.device_type.lower(), one.name.rpartition(":")[2]) == (kind, str(number))]
    if not found:
        raise InputError(_no_such(device, f"TensorFlow sees {', '.join(one.name for one in there)}"))
    return str(found[0].name)


def _place_flax(model: Any, device: Any) -> None:
    import jax

    if device is None:
        return
    if not isinstance(device, jax.Device):
        kind, number = _kind_and_number(device)
        try:
            there = jax.devices(kind)
        except RuntimeError as error:
            raise InputError(_no_such(device, str(error).strip().splitlines()[0])) from error
        if number >= len(there):
            raise InputError(_no_such(device, f"JAX sees {', '.join(map(str, there))}"))
        device = there[number]
    model.params = jax.device_put(model.params, device)


def _kind_and_number(device: Any) -> tuple[str, int]:
    """("cpu" or "gpu", its number) for "cuda:1", "GPU:1", "/device:GPU:1", 1 or -1."""
    if isinstance(device, int):
        return ("cpu", 0) if device < 0 else ("gpu", device)
    parts = str(device).lower().rpartition("/")[2].removeprefix("device:").split(":")
    kind = "gpu" if parts[0] == "cuda" else parts[0]
    return kind, int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0


def _no_such(device: Any, reason: str) -> str:
    return f"`device` must be one of this machine, got {device!r} (pipeline): {reason}"


def device_of(model: Any) -> Any:
    """Where the model's weights are, in its framework's words."""
    framework = framework_of(model)
    if framework == "tensorflow":
        return model.weights[0].value.device
    if framework == "flax":
        import jax

        return next(iter(jax.tree.leaves(model.params)[0].devices()))
    return model.device


# Running.


def running_on(model: Any, device: Any) -> AbstractContextManager[Any]:
    """What to call `generate` in, for the device that `place` gave."""
    if device is None or framework_of(model) != "tensorflow":
        return nullcontext()
    import tensorflow as tf

    scope: AbstractContextManager[Any] = tf.device(device)
    return scope


def with_key(model: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of `generate`; for a Flax model that samples, with a key that NumPy draws, which `set_seed` repeats.

    The other frameworks have random numbers of their own. JAX has none, and would draw the same for every call.
    """
    draws = options.get("do_sample")
    if framework_of(model) != "flax" or "prng_key" in options:
        return options
    if not (model.generation_config.do_sample if draws is None else draws):
        return options
    import jax
    import numpy as np

    return {**options, "prng_key": jax.random.PRNGKey(np.random.randint(2**31))}
