"""ParameterHolder: loading, saving, setting, casting and drawing the parameters of a Flax model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax import Array

from ..core.config import PretrainedConfig
from ..core.parameters import parameters, several
from ..core.pretrained import Match, PretrainedModelMixin
from ..core.storage.stored import Stored
from ..errors import ConfigError, InputError
from . import weights

_OWN_OPTIONS = ("dtype", "_do_init", "input_shape", "seed", "gradient_checkpointing")


class ParameterHolder(PretrainedModelMixin):
    """The half of a model that is about its parameters: loading, saving, setting, casting and drawing them."""

    _params: weights.Tree | None
    _slots: tuple[weights.Slot, ...]
    _module: Any
    key: Array
    input_shape: tuple[int, ...]

    @classmethod
    def _own_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        return {key: options.pop(key) for key in _OWN_OPTIONS if key in options}

    @classmethod
    def _build(
        cls,
        config: PretrainedConfig,
        match: Match,
        *,
        dtype: str | None,
        device: Any,
        attn_implementation: str | None,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        own: Mapping[str, Any] | None = None,
    ) -> Self:
        """A model holding the stored weights; nothing is drawn that is loaded."""
        if device not in (None, "auto"):
            raise ConfigError(
                f"`device_map` must be None for a Flax model, got {device!r}. Load inside jax.default_device(...), or "
                "move the parameters with jax.device_put."
            )
        if attn_implementation not in (None, "eager"):
            raise ConfigError(f"`attn_implementation` must be 'eager' for a Flax model, got {attn_implementation!r}.")
        made: Any = cls
        model = made(config, *args, **{**(kwargs or {}), **(own or {}), "_do_init": False})
        own_shapes = {slot.parameter.name: slot.parameter.shape for slot in model._slots if slot.is_own}
        wanted = [slot.parameter for slot in model._slots if not slot.is_own]
        named = {parameter.name for parameter in wanted}
        every = parameters(model.config, cls.head or "conditional")
        wanted += [parameter for parameter in every if parameter.kind == "table" and parameter.name not in named]
        stored = match(wanted, own_shapes)
        held = weights.assign(stored, model._slots, dtype)
        model._params = model.init_weights(model.key, model.input_shape, weights.nest(held))
        config.dtype = model.config.dtype = str(next(iter(jax.tree.leaves(model._params))).dtype)
        built: Self = model
        return built

    @classmethod
    def _result(cls, model: Any, own: Mapping[str, Any]) -> Any:
        if own.get("_do_init", True):
            return model
        params, model._params = model._params, None
        return model, params

    def _weights(self) -> Iterator[Stored]:
        return weights.extract(self.params)

    def _own_names(self) -> set[str]:
        return {slot.parameter.name for slot in self._slots if slot.is_own}

    @classmethod
    def _stored(cls, state_dict: Mapping[str, Any]) -> list[Stored]:
        return list(weights.extract(state_dict))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        dtype: Any = jnp.float32,
        *model_args: Any,
        config: PretrainedConfig | str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        ignore_mismatched_sizes: bool = False,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str = "main",
        **kwargs: Any,
    ) -> Any:
        """A model with the weights of a hub repository or folder.

        Args:
            pretrained_model_name_or_path: "owner/name" on the hub, or a folder; None with `config` and `state_dict`.
            dtype: of the computation. The parameters keep the file's: cast them with `to_bf16` and the like, or with
                `torch_dtype`.
            *model_args: for the constructor of a class of your own, after the config.
            config: a config, or where to read it from; by default the repository's config.json.
            cache_dir: the hub cache to use.
            ignore_mismatched_sizes: load what fits and draw the rest, instead of raising.
            force_download: fetch again what is cached.
            local_files_only: never use the network.
            token: for private and gated repositories.
            revision: branch, tag or commit.
            **kwargs: `_do_init=False` gives (model, params), the model without parameters of its own; `seed`,
                `input_shape` and `gradient_checkpointing` as for the class; `torch_dtype`, a dtype to cast the
                parameters to; the others are those of the PyTorch classes' `from_pretrained`.

        Raises:
            CheckpointNotFoundError: no such repository, folder or file, or the hub cannot be reached.
            CheckpointError: the files are damaged, or do not fit this class; the message names all that is wrong.
            ConfigError: config.json is of another family, or no model can be built from it.
        """
        return super().from_pretrained(
            pretrained_model_name_or_path,
            *model_args,
            config=config,
            cache_dir=cache_dir,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
            revision=revision,
            dtype=floating(dtype),
            **kwargs,
        )

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        params: Mapping[str, Any] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "10GB",
        token: str | bool | None = None,
        safe_serialization: bool = True,
        **kwargs: Any,
    ) -> None:
        """Writes config.json, generation_config.json and the weights into a folder, or leaves the folder as it was.

        Args:
            save_directory: made if it is not there; weights of an earlier save in the same format are replaced.
            params: what to write instead of the model's own parameters.
            push_to_hub: upload what was written, to `repo_id` or the repository of the folder's name.
            max_shard_size: largest size of one file ("10GB", or bytes); more go into shards with an index.
            token: for the upload.
            safe_serialization: model.safetensors, which every framework reads; False writes flax_model.msgpack.
                # Differs from transformers 4.57.6: False there by default.
            **kwargs: `variant` and what the upload takes.

        Raises:
            CheckpointError: `save_directory` is a file, or `max_shard_size` is no size.
            InputError: `params` lacks parameters of this model.
        """
        super().save_pretrained(
            save_directory,
            state_dict=self._params_or(params),
            push_to_hub=push_to_hub,
            max_shard_size=max_shard_size,
            token=token,
            safe_serialization=safe_serialization,
            **kwargs,
        )

    @property
    def module(self) -> Any:
        """The linen module. It holds no parameters: `module.apply({"params": params}, …)`."""
        return self._module

    @property
    def params(self) -> weights.Tree:
        """The parameters, a nested dict with the names of transformers' Flax checkpoints.

        Raises:
            InputError: if the model was made with `_do_init=False`, or what is set lacks parameters of this model.
        """
        if self._params is None:
            raise InputError(
                f"`params` must be passed to {type(self).__name__}, because it was made with _do_init=False and holds "
                "none. Pass the ones that from_pretrained or init_weights gave."
            )
        return self._params

    @params.setter
    def params(self, params: Mapping[str, Any]) -> None:
        if self._params is None:
            raise InputError(
                f"`params` cannot be set on a {type(self).__name__} made with _do_init=False. Keep them outside."
            )
        self._check_params(params)
        self._params = weights.nest(dict(weights.flatten(params)))

    @property
    def params_shape_tree(self) -> weights.Tree:
        """The parameters as `jax.ShapeDtypeStruct`, float32."""
        struct: Any = jax.ShapeDtypeStruct
        return weights.nest({slot.path: struct(slot.shape, jnp.float32) for slot in self._slots})

    @property
    def required_params(self) -> set[weights.Path]:
        """The path of every parameter: ("model", "shared", "embedding") and so on."""
        return {slot.path for slot in self._slots}

    def init_weights(
        self, rng: Array, input_shape: tuple[int, ...] = (1, 1), params: Mapping[str, Any] | None = None
    ) -> weights.Tree:
        """Parameters drawn anew: normal with the config's `init_std`, norms 1, biases 0; float32.

        Pure, so it may be traced: `jax.jit(lambda rng: model.init_weights(rng), out_shardings=...)`.

        Args:
            rng: a key.
            input_shape: accepted for compatibility; no parameter depends on it.
            params: parameters to keep; only those that it lacks are drawn.
        """
        held = dict(weights.flatten(params or {}))
        own = [slot.path for slot in self._slots if slot.is_own and slot.path not in held]
        if own:

            def drawn(rng: Array) -> dict[weights.Path, Array]:
                leaves = dict(weights.flatten(self._draw(rng, input_shape)))
                return {path: leaves[path] for path in own}

            held |= jax.jit(drawn)(rng)  # compiled, nothing else is drawn
        return weights.fresh(self._slots, self.config.init_std, rng, held)

    def _draw(self, rng: Array, input_shape: tuple[int, ...]) -> Any:
        """All parameters as the linen module itself draws them."""
        return self.module.init({"params": rng, "dropout": rng}, jnp.ones(input_shape, jnp.int32))["params"]

    def _all_slots(self) -> tuple[weights.Slot, ...]:
        """Every leaf of this model's tree, those of a user's own modules among them."""
        if f"{type(self.module).__module__}.".startswith("seq2seq_models."):
            return weights.slots(self.config, self.head)
        is_drawn_here = type(self).init_weights is ParameterHolder.init_weights
        draw = self._draw if is_drawn_here else self.init_weights
        shapes = jax.eval_shape(partial(draw, input_shape=self.input_shape), self.key)
        return weights.slots(self.config, self.head, dict(weights.flatten(shapes)))

    def _check_params(self, params: Any) -> None:
        if not isinstance(params, Mapping):
            raise InputError(f"`params` must be a nested dict of parameters, got {type(params).__name__}.")
        missing, faults = [], []
        for slot in self._slots:
            found: Any = params
            for name in slot.path:
                found = found.get(name) if isinstance(found, Mapping) else None
            if found is None:
                missing.append("/".join(slot.path))
            elif tuple(found.shape) != slot.shape:
                faults.append(f"{'/'.join(slot.path)} expected {list(slot.shape)}, got {list(found.shape)}")
        if missing:
            advice = ""
            if "params" in params:
                advice = " Pass what is under its key 'params'."
            elif len(missing) == len(self._slots):
                advice = f" These are of another class, with {several(params)} at the top."
            faults.insert(0, f"missing: {several(missing)}.{advice}")
        if faults:
            raise InputError(f"`params` must hold all parameters of {type(self).__name__}; {'; '.join(faults)}")

    def _params_or(self, params: Mapping[str, Any] | None) -> Mapping[str, Any]:
        if params is None:
            return self.params
        self._check_params(params)
        return params

    def to_bf16(self, params: Mapping[str, Any], mask: Any = None) -> Any:
        """New parameters, cast to bfloat16.

        Args:
            params: a tree of parameters; it is left as it is.
            mask: a tree of the same structure, False where a parameter is to keep its dtype.
        """
        return _cast(params, jnp.bfloat16, mask)

    def to_fp16(self, params: Mapping[str, Any], mask: Any = None) -> Any:
        """New parameters, cast to float16; `mask` as for `to_bf16`."""
        return _cast(params, jnp.float16, mask)

    def to_fp32(self, params: Mapping[str, Any], mask: Any = None) -> Any:
        """New parameters, cast to float32; `mask` as for `to_bf16`."""
        return _cast(params, jnp.float32, mask)


def floating(dtype: Any) -> Any:
    """The dtype that is meant, if it is a floating-point one.

    Raises:
        ConfigError: it is not.
    """
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise ConfigError(
            f"`dtype` must be a floating-point dtype such as jnp.float32 or jnp.bfloat16, got {dtype!r}. "
            "It is the dtype of the computation."
        )
    return found


def _cast(params: Mapping[str, Any], dtype: Any, mask: Any) -> weights.Tree:
    marks = {} if mask is None else dict(weights.flatten(mask))
    leaves = dict(weights.flatten(params))
    if mask is not None and set(marks) != set(leaves):
        different = ", ".join(sorted("/".join(path) for path in set(marks) ^ set(leaves)))
        raise InputError(f"`mask` must have the structure of `params`; only one of them has {different}.")
    return weights.nest(
        {
            path: leaf.astype(dtype) if marks.get(path, True) and jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
            for path, leaf in leaves.items()
        }
    )
