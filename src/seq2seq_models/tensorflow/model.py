"""PreTrainedModel: what every Keras model of this library can do besides its forward pass."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, cast

import keras
import numpy as np
import optree
import tensorflow as tf
from keras import ops

from ..core import outputs
from ..core.checkpoints import Stored
from ..core.config import PretrainedConfig, Seq2SeqConfig
from ..core.generation_config import GenerationConfig
from ..core.outputs import ModelOutput
from ..core.parameters import parameters
from ..core.pretrained import Match, PretrainedModelMixin
from ..errors import ConfigError, InputError
from . import serving, weights
from .layers import PositionEmbedding, TokenEmbedding
from .linear import Variables
from .training import TrainingMixin
from .transformer import Stack


class PreTrainedModel(PretrainedModelMixin, TrainingMixin, Variables, keras.Model):  # type: ignore[misc]
    """Base of all Keras models: loading and saving, inputs in every form, embeddings, serving.

    Args:
        config: the model's configuration.
        **kwargs: Keras's `name`, `dtype` (a dtype or a policy such as "mixed_bfloat16") and `trainable`.

    Raises:
        ConfigError: if no model can be built from `config`; the message names every fault.
    """

    config_class: ClassVar[type[Seq2SeqConfig]]
    base_model_prefix: ClassVar[str] = "model"
    main_input_name: ClassVar[str] = "input_ids"
    framework: ClassVar[str] = "tf"

    def __init__(self, config: Seq2SeqConfig, *inputs: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(config, self.config_class):
            raise ConfigError(
                f"`config` of {type(self).__name__} must be a {self.config_class.__name__}, "
                f"got {type(config).__name__}. Load a model with from_pretrained."
            )
        config.validate()
        if getattr(config, "gradient_checkpointing", False):
            raise ConfigError(
                f"`gradient_checkpointing` must be False for {type(self).__name__}, got True: Keras models keep what "
                "they compute. Set it to False, or use the PyTorch or the Flax model."
            )
        self.config = config
        self.initials = {}
        self.name_or_path = config.name_or_path
        if self.can_generate():
            self.generation_config = GenerationConfig.from_model_config(config)
        self.built = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "config_class" in vars(cls) or hasattr(cls, "config_class"):
            keras.saving.register_keras_serializable(package="seq2seq_models")(cls)

    # ---- building

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
    ) -> PreTrainedModel:
        """A model holding the stored weights; nothing is drawn that is loaded.

        Args:
            dtype: of weights and computation; None is Keras's dtype policy.
            device: a TensorFlow device name; None and "auto" leave the choice to TensorFlow.
            attn_implementation: has no effect; there is one.
        """
        made: Any = cls
        options = dict(kwargs or {}) if dtype is None else {**(kwargs or {}), "dtype": dtype}
        make = partial(made, config, *args, **options)
        if not f"{cls.__module__}.".startswith("seq2seq_models."):
            with tf.device(None if device == "auto" else device):
                return weights.load_own(make(), match)
        with tf.device(None if device == "auto" else device), keras.StatelessScope():
            # Variables made in here ask for their values when the scope is left.
            model = make()
            weights.assign(model, match(parameters(model.config, cast(Any, cls.head)), {}))
        return cast(PreTrainedModel, model)

    def _weights(self) -> Iterator[Stored]:
        return weights.extract(self)

    def _own_names(self) -> set[str]:
        return set(weights.own_variables(self))

    @classmethod
    def _stored(cls, state_dict: Mapping[str, Any]) -> list[Stored]:
        return weights.from_state_dict(state_dict)

    def get_config(self) -> dict[str, Any]:
        """What `from_config` makes the same model from, without its weights."""
        own: dict[str, Any] = {"name": self.name, "dtype": self.dtype_policy.name}
        if self.can_generate():
            own["generation_config"] = self.generation_config.to_dict()
        return {**self.config.to_dict(), "_keras": own}

    @classmethod
    def from_config(cls, config: Seq2SeqConfig | dict[str, Any], **kwargs: Any) -> Any:
        """A model with fresh weights for a config, or for the dict of one."""
        generation_config = None
        if isinstance(config, dict):
            values = dict(config)
            own = dict(values.pop("_keras", {}))
            generation_config = own.pop("generation_config", None)
            kwargs = {**own, **kwargs}
            config = cls.config_class.from_dict(values)
        model = cls(config, **kwargs)
        if generation_config is not None:
            model.generation_config = GenerationConfig.from_dict(generation_config)
        return model

    @classmethod
    def _from_config(cls, config: Seq2SeqConfig, **kwargs: Any) -> Any:
        """A model with fresh weights for a copy of a config; `kwargs` as for the class."""
        return cls(copy.deepcopy(config), **kwargs)

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the model has a head to generate with."""
        return cls.head != "base"

    # ---- running

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What `call` returns, for its arguments or for one tensor, list, tuple or dict of them."""
        named: dict[str, Any] = {}
        if args:
            named = self.unpacked(args[0])
            named.update(zip(self.argument_names()[1:], args[1:], strict=False))
        try:
            return super().__call__(**{**named, **kwargs})
        except InputError as error:
            # Keras wraps the message in one about the call, with all arguments; ours says it all.
            own = error.__context__
            raise (own if isinstance(own, InputError) else error) from None

    @property
    def input_signature(self) -> dict[str, tf.TensorSpec]:
        """Names, shapes [None, None] and dtype int32 of the inputs of `serving`."""
        wanted = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
        names = [name for name in wanted if name in self.argument_names()]
        return {name: tf.TensorSpec([None, None], tf.int32, name=name) for name in names}

    @property
    def dummy_inputs(self) -> dict[str, tf.Tensor]:
        """A small valid input: ones [1, 2] for each name of `input_signature`."""
        return {name: tf.ones((1, 2), spec.dtype) for name, spec in self.input_signature.items()}

    @property
    def serving(self) -> Any:
        """A `tf.function` of a dict of inputs, int32 or int64, that gives the outputs in a form that can be served.

        `model.serving.get_concrete_function(model.input_signature)` is a signature for `tf.saved_model.save`.
        """
        config = self.config
        asked = (config.use_cache, config.output_attentions, config.output_hidden_states)  # what a trace holds for
        made: dict[Any, Any] = self.__dict__.setdefault("_serving", {})  # not an attribute that Keras would save
        if asked not in made:
            made[asked] = tf.function(self._serve)
        return made[asked]

    def _serve(self, inputs: Mapping[str, Any]) -> Any:
        """The outputs for a dict of inputs, tuples of tensors stacked."""
        return self.serving_output(self(dict(inputs)))

    def _serve_by_default(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs that are single tensors, for the signature that TensorFlow saves by itself."""
        output = self.serving_output(self(dict(inputs), use_cache=False, training=False))
        return {name: value for name, value in output.items() if not isinstance(value, tuple)}

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Writes the forward pass for inference, as `keras.Model.export` does; the model need not have been called.

        A SavedModel gets the outputs that are single tensors, by name, as its endpoint "serve".

        Args:
            filepath: where to.
            format: "tf_saved_model", or another one that Keras knows, which is left to Keras.
            verbose: print what was written.
            input_signature: the inputs' shapes and dtypes; by default those of `input_signature`.
            **kwargs: Keras's.
        """
        if format != "tf_saved_model":
            super().export(filepath, format=format, verbose=verbose, input_signature=input_signature, **kwargs)
            return
        archive = keras.export.ExportArchive()
        archive.track(self)
        archive.add_endpoint("serve", self._serve_by_default, input_signature or [self.input_signature])
        archive.write_out(os.fspath(filepath), verbose=verbose, **kwargs)

    # What TFLite's converter and TensorFlow's own saver ask a Keras model for.

    def _get_save_spec(self, dynamic_batch: bool = True) -> Any:
        raise InputError(
            "`TFLiteConverter.from_keras_model` must be given a model that takes floating-point arrays, got one of "
            "token ids, for which it would make float32 inputs. Call model.export(folder, input_signature=...) with "
            "inputs of fixed shapes, then tf.lite.TFLiteConverter.from_saved_model(folder)."
        )

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> dict[str, Any]:
        children: dict[str, Any] = super()._trackable_children(save_type, **kwargs)
        if save_type == "savedmodel":
            function = tf.function(self._serve_by_default, input_signature=[self.input_signature])
            children["_default_save_signature"] = function
        return children

    def serving_output(self, output: Any) -> Any:
        """Outputs with each tuple of tensors stacked: states [layers + 1, B, T, D], attentions [layers, B, H, T, ..].

        Keys and values, if the config says `use_cache`, become a tuple of four, each [layers, B, H, length, K].
        """
        return serving.stacked(output, self.config) if isinstance(output, ModelOutput) else output

    @property
    def vocab_size(self) -> int:
        """Number of words."""
        return int(self.config.vocab_size)

    # ---- weights

    def num_parameters(self, only_trainable: bool = False) -> int:
        """Number of weights, tied ones counted once; Pegasus' positions are computed and do not count."""
        return sum(int(np.prod(one.shape)) for one in (self.trainable_weights if only_trainable else self.weights))

    def get_input_embeddings(self) -> TokenEmbedding:
        """The token embedding, which holds `embeddings` [V, D]."""
        raise NotImplementedError

    def set_input_embeddings(self, value: Any) -> None:
        """Take over the vectors of another embedding, or of a tensor [V, D]."""
        self.get_input_embeddings().resize(ops.convert_to_tensor(getattr(value, "embeddings", value)))

    def get_output_embeddings(self) -> Any:
        """None: there is no head."""
        return None

    def set_output_embeddings(self, value: Any) -> None:
        """Not possible without a head."""
        raise NotImplementedError(f"{type(self).__name__} has no head. Use the class for conditional generation.")

    def get_bias(self) -> dict[str, Any] | None:
        """None: no bias is added to logits."""
        return None

    def set_bias(self, value: dict[str, Any]) -> None:
        """Not possible without a bias."""
        raise NotImplementedError(
            f"{type(self).__name__} has no bias on logits. Use the class for conditional generation."
        )

    def resize_token_embeddings(self, new_num_tokens: int | None = None) -> TokenEmbedding:
        """Change the number of words, in the embedding, the head and its bias, and the config; returns the embedding.

        New rows are drawn with the config's `init_std`; the bias is extended with zeros. Do it before `compile`.

        Args:
            new_num_tokens: the new number of words; None keeps it.
        """
        embedding = self.get_input_embeddings()
        size = embedding.input_dim if new_num_tokens is None else new_num_tokens
        if size < 1:
            raise InputError(f"`new_num_tokens` must be at least 1, got {size}.")
        if size != embedding.input_dim:
            embedding.resize(_resized(embedding.embeddings, size, self.config.init_std))
            head, bias = self.get_output_embeddings(), self.get_bias()
            if head is not None and head is not embedding:
                kernel = _resized(ops.transpose(head.kernel), size, self.config.init_std)
                head.replace("kernel", ops.transpose(kernel))
                head.out = size
            if bias is not None:
                self.set_bias({name: _resized(ops.transpose(held), size, 0.0)[:, 0] for name, held in bias.items()})
            self.config.vocab_size = size
        return embedding

    def _stacks(self) -> list[Stack]:
        return [layer for layer in self._flatten_layers() if isinstance(layer, Stack)]

    def get_position_embeddings(self) -> PositionEmbedding | tuple[PositionEmbedding, ...]:
        """The position tables: of encoder and decoder, or the decoder's alone where there is no encoder."""
        tables = tuple(stack.embed_positions for stack in self._stacks())
        return tables if len(tables) > 1 else tables[0]

    def resize_position_embeddings(self, new_num_position_embeddings: int) -> None:
        """Make room for this many positions, in encoder and decoder and in the config.

        Pegasus' sinusoids are extended exactly. BlenderbotSmall keeps its learned rows and draws new ones, which mean
        nothing before they are trained.
        """
        if new_num_position_embeddings < 1:
            raise InputError(f"`new_num_position_embeddings` must be at least 1, got {new_num_position_embeddings}.")
        self.config.max_position_embeddings = new_num_position_embeddings
        for stack in self._stacks():
            stack.resize_position_embeddings(new_num_position_embeddings)

    def prune_heads(self, heads_to_prune: dict[int, list[int]]) -> None:
        """Not offered for these families, as upstream: a pruned model no longer fits its checkpoint format."""
        raise NotImplementedError(
            f"prune_heads is not possible for {type(self).__name__}: checkpoints hold square projections only. "
            "Mask heads with `head_mask`, `decoder_head_mask` and `cross_attn_head_mask` instead."
        )

    # ---- saving

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        saved_model: bool = False,
        version: int = 1,
        push_to_hub: bool = False,
        signatures: Any = None,
        max_shard_size: int | str = "5GB",
        create_pr: bool = False,
        safe_serialization: bool = True,
        token: str | bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes config.json, generation_config.json and the weights into a folder, or leaves the folder as it was.

        Args:
            save_directory: made if it is not there; weights of an earlier save in the same format are replaced.
            saved_model: write a SavedModel too, into `saved_model/<version>`, which is served without this library.
            version: of the SavedModel.
            push_to_hub: upload what was written, to `repo_id` or the repository of the folder's name.
            signatures: of the SavedModel; by default those that `seq2seq_models` gives it.
            max_shard_size: largest size of one file ("5GB", or bytes); more go into shards with an index.
            create_pr: upload as a pull request.
            safe_serialization: safetensors; False writes tf_model.h5.
            token: for the upload.
            **kwargs: `variant`, and for the upload `repo_id`, `private`, `commit_message`, ...

        Raises:
            CheckpointError: `save_directory` is a file, or `max_shard_size` is no size.

        # Differs from transformers 4.57.6: safetensors is the default, as in PyTorch.
        """
        if saved_model:
            serving.export(self, os.path.join(os.fspath(save_directory), "saved_model", str(version)), signatures)  # noqa: PTH118
        super().save_pretrained(
            save_directory,
            push_to_hub=push_to_hub,
            max_shard_size=max_shard_size,
            safe_serialization=safe_serialization,
            token=token,
            create_pr=create_pr,
            **kwargs,
        )


def _resized(values: Any, size: int, std: float) -> Any:
    """The first rows of [V, D], and drawn ones if there are too few."""
    values = ops.convert_to_tensor(values)
    kept = min(size, values.shape[0])
    fresh = keras.random.normal((size - kept, values.shape[1]), stddev=std)
    return ops.concatenate([values[:kept], ops.cast(fresh, values.dtype)], axis=0)


def _register(kind: type[Any]) -> None:
    """Makes a mapping one that Keras looks into, for `predict`, symbolic inputs and converters."""

    def flatten(output: Any) -> tuple[tuple[Any, ...], tuple[str, ...], tuple[str, ...]]:
        return tuple(output.values()), tuple(output), tuple(output)

    def unflatten(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
        return kind(**dict(zip(names, values, strict=True)))

    optree.register_pytree_node(kind, flatten, unflatten, namespace="keras")  # type: ignore[arg-type]


for _kind in (
    outputs.BaseModelOutput,
    outputs.BaseModelOutputWithPastAndCrossAttentions,
    outputs.Seq2SeqModelOutput,
    outputs.Seq2SeqLMOutput,
    outputs.CausalLMOutputWithCrossAttentions,
):
    _register(_kind)
