"""The keywords of `from_pretrained`: which are taken, ignored or refused, and what dtype and device mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError, ConfigError
from .stored import DTYPE_NAMES, Stored

if TYPE_CHECKING:
    from ..config import PretrainedConfig

# Accepted as transformers accepts them, and without effect: every load here is lazy and without random initialisation.
_NO_EFFECT = ("low_cpu_mem_usage", "_fast_init", "offload_state_dict", "max_memory", "offload_folder",
              "offload_buffers", "adapter_kwargs", "adapter_name", "use_kernels", "trust_remote_code")  # fmt: skip
# Refused by name rather than ignored: each would change the result.
_REFUSED = {
    "quantization_config": "Quantized weights are not supported",
    "load_in_8bit": "Quantized weights are not supported",
    "load_in_4bit": "Quantized weights are not supported",
    "gguf_file": "GGUF files are not supported",
    "tp_plan": "Tensor parallelism is not supported",
    "tp_size": "Tensor parallelism is not supported",
    "device_mesh": "Tensor parallelism is not supported",
    "distributed_config": "Tensor parallelism is not supported",
    "key_mapping": "Renaming weights on the way is not supported",
}
FROM_KEYS = {"from_pt": "pt", "from_tf": "tf", "from_flax": "flax"}
"""The keywords that ask for the files of one framework, and what `framework` calls it."""
_DTYPES = (*DTYPE_NAMES.values(), "half", "float", "double")
_SYNONYMS = {"half": "float16", "float": "float32", "double": "float64"}


class Choices:
    """The keywords of a load that are neither about the repository nor about the config, taken out of `options`."""

    def __init__(self, options: dict[str, Any]) -> None:
        for name in _NO_EFFECT:
            options.pop(name, None)
        self.state_dict: Mapping[str, Any] | None = options.pop("state_dict", None)
        self.variant: str | None = options.pop("variant", None)
        self.output_loading_info: bool = options.pop("output_loading_info", False)
        self.device_map: Any = options.pop("device_map", None)
        self.attn_implementation: str | None = options.pop("attn_implementation", None)
        self.generation_config: Any = options.pop("generation_config", None)
        old, new = options.pop("torch_dtype", None), options.pop("dtype", None)
        self.dtype: Any = old if new is None else new


def check_refused(name: str, args: tuple[Any, ...], options: dict[str, Any], weights_only: bool) -> None:
    """Raises for what transformers takes and we do not; an argument left at its default is no request."""
    faults = [f"`{key}`: {why}" for key, why in _REFUSED.items() if options.pop(key, None) not in (None, False)]
    asked = [key for key in FROM_KEYS if options.get(key)]
    if len(asked) > 1:
        faults.append(f"{' and '.join(f'`{key}`' for key in asked)}: weights come from one framework")
    if not weights_only:
        faults.append("`weights_only` must be True: a pickle that may run code is never opened")
    if args:
        faults.append(f"{len(args)} positional arguments after the name: pass keys of the config by keyword")
    if faults:
        raise CheckpointError(
            f"{name}.from_pretrained cannot do what was asked. {'; '.join(sorted(faults))}. Leave it out."
        )


def resolve_dtype(wanted: Any, config: PretrainedConfig, stored: Mapping[str, Stored]) -> str | None:
    """The name of the dtype to load in; None is the framework's default, float32."""
    if wanted is None:
        return None
    name = getattr(wanted, "name", None) or getattr(wanted, "__name__", None) or str(wanted)
    name = str(name).removeprefix("torch.")
    if name == "auto":
        own = str(config.dtype).removeprefix("torch.") if config.dtype else None
        name = own or next((DTYPE_NAMES[tensor.dtype] for tensor in stored.values() if tensor.is_floating), "float32")
    if name not in _DTYPES:
        raise ConfigError(
            f'`dtype` must be "auto" or a floating-point dtype ({", ".join(DTYPE_NAMES.values())}), got {wanted!r}. '
            "Choose one of them."
        )
    return _SYNONYMS.get(name, name)


def resolve_device(wanted: Any) -> Any:
    """The one device for the whole model, in the framework's own words; "auto" stays "auto", None is the default."""
    if isinstance(wanted, Mapping):
        if list(wanted) != [""]:
            raise CheckpointError(
                f'`device_map` must put the whole model on one device, {{"": device}}, got parts {sorted(wanted)}. '
                "These models fit on one device; pass its name."
            )
        wanted = wanted[""]
    if wanted in ("balanced", "balanced_low_0", "sequential"):
        return "auto"
    return wanted
