"""Between canonical weights and a PyTorch model: `assign` puts them in place, `extract` lists them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core.parameters import FINAL_LOGITS_BIAS, Head, Parameter, parameters
from ..core.storage.stored import Stored
from ..core.storage.torch_file import stored_tensor, tensor_of
from ..errors import ConfigError

if TYPE_CHECKING:
    from ..core.config import PretrainedConfig
    from .model import PreTrainedModel


def assign(
    model: PreTrainedModel,
    weights: Mapping[str, Stored],
    *,
    head: Head,
    config: PretrainedConfig,
    dtype: str | None,
    device: Any,
) -> None:
    """Gives a model that was built on the meta device its weights, without a copy where dtype and device allow.

    A weight of the wanted dtype on the CPU stays where it was read, in the file's memory map, and is fetched from disk
    when first used. Others are cast and moved one by one.

    Args:
        model: built under `torch.device("meta")`.
        weights: canonical name -> tensor of the right shape; what is absent is initialised by `model._init_missing`.
        head: of the model.
        config: of the model.
        dtype: name of the dtype for the floating-point weights; None is PyTorch's default.
        device: None is PyTorch's default device, "auto" an accelerator if there is one.
    """
    wanted = getattr(torch, dtype) if dtype else torch.get_default_dtype()
    place = resolve_device(device)
    every = parameters(config, head)
    absent = [p for p in every if p.tied_to is None and p.name not in weights]
    for parameter in absent:
        fresh = torch.zeros if parameter.name == FINAL_LOGITS_BIAS else torch.empty
        _set(model, parameter, fresh(parameter.shape, dtype=wanted, device=place), head)
    # Before the others arrive: a module is initialised as a whole, and on the meta device that touches nothing.
    model._init_missing([_local(parameter.name, head) for parameter in absent if parameter.name != FINAL_LOGITS_BIAS])
    for parameter in every:
        if parameter.name in weights:
            stored = weights[parameter.name]
            read = tensor_of(stored)
            tensor = read.to(device=place, dtype=wanted)
            _set(model, parameter, tensor, head)
            if tensor is not read:  # a copy: two of each weight would be in memory otherwise
                stored.release()
    for parameter in every:
        if parameter.tied_to is not None:
            owner, leaf = _owner(model, _local(parameter.name, head))
            source, source_leaf = _owner(model, _local(parameter.tied_to, head))
            setattr(owner, leaf, getattr(source, source_leaf))


def resolve_device(device: Any) -> torch.device:
    """The device that a `device_map` means for a whole model.

    Raises:
        ConfigError: it is no device, or the meta device, which holds no weights.
    """
    if device is None:
        found = torch.get_default_device()
    elif device == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        found = accelerator or torch.device("cpu")
    else:
        try:
            found = torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise ConfigError(
                f'`device_map` must be "auto" or a device such as "cpu" or "cuda:0", got {device!r}. Give one of these.'
            ) from error
    if found.type == "meta":
        raise ConfigError(
            "`device_map` must be a device that holds weights, got the meta device. "
            "For an empty model, build the class from a config."
        )
    return found


def extract(model: PreTrainedModel) -> Iterator[Stored]:
    """The weights of a model under their canonical names, in its own order, tied ones once."""
    head: Head = model.head
    ties = {p.name: p.tied_to for p in parameters(model.config, head) if p.tied_to is not None}
    state = {_canonical(name, head): tensor for name, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        source = state.get(ties[name]) if name in ties else None
        if source is None or source.data_ptr() != tensor.data_ptr() or source.shape != tensor.shape:
            yield stored_tensor(name, tensor)


def shared_names(model: nn.Module) -> list[list[str]]:
    """The names of each parameter that has several, in the model's order."""
    found: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), []).append(name)
    return [names for names in found.values() if len(names) > 1]


def complete(state_dict: dict[str, Any], names: Sequence[str], *, keep_one: bool) -> None:
    """Puts the value of a shared parameter under all its names, if the state dict has it under one of them.

    Args:
        state_dict: completed in place.
        names: of one parameter.
        keep_one: the values will be assigned, not copied: all names get one and the same parameter, so that it stays
            shared.
    """
    value = next((state_dict[name] for name in names if name in state_dict), None)
    if value is None:
        return
    if keep_one and not isinstance(value, nn.Parameter):
        value = nn.Parameter(value, requires_grad=False)  # whether it does is set when it is assigned
    for name in names:
        if keep_one or name not in state_dict:
            state_dict[name] = value


def from_state_dict(state_dict: Mapping[str, Tensor]) -> list[Stored]:
    """The tensors of a state dict under its own names, each memory once."""
    found: dict[tuple[int, torch.Size, tuple[int, ...]], Stored] = {}
    for name, tensor in state_dict.items():
        key = (tensor.data_ptr() or id(tensor), tensor.shape, tensor.stride())
        found.setdefault(key, stored_tensor(name, tensor))
    return list(found.values())


def _local(name: str, head: Head) -> str:
    return name.removeprefix("model.") if head == "base" else name


def _canonical(name: str, head: Head) -> str:
    return f"model.{name}" if head == "base" else name


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _set(model: nn.Module, parameter: Parameter, tensor: Tensor, head: Head) -> None:
    owner, leaf = _owner(model, _local(parameter.name, head))
    old = getattr(owner, leaf)
    if isinstance(old, nn.Parameter):
        setattr(owner, leaf, nn.Parameter(tensor, requires_grad=old.requires_grad))
    else:
        owner.register_buffer(leaf, tensor)
