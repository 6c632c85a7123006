"""Between canonical weights and a PyTorch model: `assign` puts them in place, `extract` lists them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core.checkpoints import canonical_name
from ..core.parameters import FINAL_LOGITS_BIAS, Parameter, parameters
from ..core.storage.stored import Stored
from ..core.storage.torch_file import stored_tensor, tensor_of
from ..errors import ConfigError

if TYPE_CHECKING:
    from ..core.pretrained import Match
    from .model import PreTrainedModel


def assign(model: PreTrainedModel, match: Match, *, dtype: str | None, device: torch.device) -> None:
    """Gives a model that was built to be loaded its weights, without a copy where dtype and device allow.

    A weight of the wanted dtype on the CPU stays where it was read, in the file's memory map, and is fetched from disk
    when first used. Others are cast and moved one by one.

    Args:
        model: its modules of this library are on the meta device; a user's own modules need not be.
        match: what is stored for it; what is absent is initialised by `model._init_missing`.
        dtype: name of the dtype for the floating-point weights; None is PyTorch's default.
        device: for all of it.
    """
    wanted = getattr(torch, dtype) if dtype else torch.get_default_dtype()
    held = _tensors(model)
    every = _architecture(model, held)
    known = {id(held[parameter.name]) for parameter in every}
    own = {name: tensor for name, tensor in held.items() if id(tensor) not in known}
    weights = match(every, {name: tuple(tensor.shape) for name, tensor in own.items()})
    places = _places(model)

    def put(name: str, tensor: Tensor) -> None:
        old, names = held[name], places[id(held[name])]
        if isinstance(old, nn.Parameter):
            tensor = nn.Parameter(tensor, requires_grad=old.requires_grad)
        for place in names:
            owner, leaf = _owner(model, place)
            if isinstance(old, nn.Parameter):
                setattr(owner, leaf, tensor)
            else:
                owner._buffers[leaf] = tensor

    absent = [parameter for parameter in every if parameter.tied_to is None and parameter.name not in weights]
    for parameter in absent:
        fresh = torch.zeros if parameter.name == FINAL_LOGITS_BIAS else torch.empty
        put(parameter.name, fresh(parameter.shape, dtype=wanted, device=device))
    for name, tensor in {**own, **_unsaved(model, held)}.items():
        kind = wanted if tensor.is_floating_point() else tensor.dtype
        if tensor.is_meta:
            put(name, torch.zeros(tensor.shape, dtype=kind, device=device))
        elif tensor.device != device or tensor.dtype != kind:
            put(name, tensor.detach().to(device, kind))
    # Before the others arrive: a module is initialised as a whole, and on the meta device that touches nothing.
    missing = [parameter.name for parameter in absent if parameter.name != FINAL_LOGITS_BIAS]
    missing += [name for name in own if name not in weights]
    model._init_missing([place for name in missing for place in places[id(held[name])][:1]])
    for name, stored in weights.items():
        read = tensor_of(stored)
        tensor = read.to(device=device, dtype=wanted if read.is_floating_point() else held[name].dtype)
        put(name, tensor)
        if tensor is not read:  # a copy: two of each weight would be in memory otherwise
            stored.release()
    for parameter in every:
        if parameter.tied_to is not None:
            source, source_leaf = _owner(model, places[id(held[parameter.tied_to])][0])
            for place in places[id(held[parameter.name])]:
                owner, leaf = _owner(model, place)
                setattr(owner, leaf, getattr(source, source_leaf))


def _tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Every parameter, under all its names, and every buffer that is saved, by canonical name."""
    saved = set(nn.Module.state_dict(model))
    found: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    found |= {name: tensor for name, tensor in model.named_buffers(remove_duplicate=False) if name in saved}
    return {_canonical(model, name): tensor for name, tensor in found.items()}


def _unsaved(model: PreTrainedModel, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every buffer that is not saved, by canonical name."""
    found = {_canonical(model, name): tensor for name, tensor in model.named_buffers(remove_duplicate=False)}
    return {name: tensor for name, tensor in found.items() if name not in held}


def _places(model: nn.Module) -> dict[int, list[str]]:
    """The names in the model of each of its tensors, by the tensor's identity."""
    found: dict[int, list[str]] = {}
    for named in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in named:
            found.setdefault(id(tensor), []).append(name)
    return found


def _architecture(model: PreTrainedModel, held: Mapping[str, Tensor]) -> list[Parameter]:
    """The parameters of the architecture that a model has, in the shapes that it has them."""
    every = [parameter for parameter in parameters(model.config, model.head or "conditional") if parameter.name in held]
    tied = {parameter.name for parameter in every}
    return [
        replace(
            parameter,
            shape=tuple(held[parameter.name].shape) if parameter.tied_to is None else parameter.shape,
            tied_to=parameter.tied_to if parameter.tied_to in tied else None,
        )
        for parameter in every
    ]


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
    every = parameters(model.config, model.head or "conditional")
    ties = {parameter.name: parameter.tied_to for parameter in every if parameter.tied_to is not None}
    state = {_canonical(model, name): tensor for name, tensor in model.state_dict().items()}
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


def _canonical(model: PreTrainedModel, name: str) -> str:
    """The canonical name of a tensor of the model; a base model's own modules keep their names."""
    return canonical_name(name, model.head) or name


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf
