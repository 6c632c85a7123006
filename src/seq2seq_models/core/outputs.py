"""What models and `generate` return: dataclasses that are also dicts and index like tuples, for all frameworks.

Letters in shapes: Batch, Source, Target, D model, Heads, K per head, F ffn, Vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

Array = TypeVar("Array")


class ModelOutput(dict[str, Any]):
    """Base of all outputs: fields as attributes and keys; integer and slice indices skip the fields that are None.

    `outputs.logits`, `outputs["logits"]` and `outputs[0]` are the same thing when logits come first. A subclass is a
    dataclass. Built from one mapping, it takes its fields from there, as libraries that move dicts between devices do.
    """

    def __post_init__(self) -> None:
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        first = getattr(self, names[0])
        if isinstance(first, Iterator):  # of pairs: how TensorFlow makes any mapping anew
            first = dict(first)
        if isinstance(first, dict) and not isinstance(first, ModelOutput):
            setattr(self, names[0], None)
            unknown = sorted(set(first) - set(names))
            if unknown:
                raise TypeError(f"fields of {type(self).__name__} must be among {names}, got {unknown}.")
            for name, value in first.items():
                object.__setattr__(self, name, value)
        for name in names:
            if getattr(self, name) is not None:
                super().__setitem__(name, getattr(self, name))

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None, in order."""
        values = (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
        return tuple(value for value in values if value is not None)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __setattr__(self, name: str, value: Any) -> None:
        if value is not None:
            super().__setitem__(name, value)
        elif name in self:
            super().__delitem__(name)
        object.__setattr__(self, name, value)

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def __delitem__(self, key: str) -> None:
        raise TypeError(f"a field of {type(self).__name__} cannot be deleted, got {key!r}. Set it to None instead.")

    def pop(self, *args: Any) -> Any:
        raise TypeError(f"a field of {type(self).__name__} cannot be popped. Set it to None instead.")

    def update(self, *args: Any, **kwargs: Any) -> None:
        for name, value in dict(*args, **kwargs).items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()


@dataclass
class BaseModelOutput(ModelOutput, Generic[Array]):
    """What an encoder returns.

    Attributes:
        last_hidden_state: [B, S, D], after the last layer (and the final norm, where the family has one).
        hidden_states: with `output_hidden_states`, encoder_layers + 1 times [B, S, D], the embeddings first.
        attentions: with `output_attentions`, encoder_layers times [B, H, S, S], after the softmax.
    """

    last_hidden_state: Array | None = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@dataclass
class BaseModelOutputWithPastAndCrossAttentions(ModelOutput, Generic[Array]):
    """What a decoder returns.

    Attributes:
        last_hidden_state: [B, T, D].
        past_key_values: with `use_cache`, the cache to pass to the next call.
        hidden_states: with `output_hidden_states`, decoder_layers + 1 times [B, T, D].
        attentions: with `output_attentions`, decoder_layers times [B, H, T, past + T].
        cross_attentions: with `output_attentions` and an encoder's states, decoder_layers times [B, H, T, S].
    """

    last_hidden_state: Array | None = None
    past_key_values: Any = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None
    cross_attentions: tuple[Array, ...] | None = None


@dataclass
class Seq2SeqModelOutput(ModelOutput, Generic[Array]):
    """What a base model returns.

    Attributes:
        last_hidden_state: [B, T, D], of the decoder.
        past_key_values: with `use_cache`, the cache to pass to the next call.
        decoder_hidden_states: with `output_hidden_states`, decoder_layers + 1 times [B, T, D].
        decoder_attentions: with `output_attentions`, decoder_layers times [B, H, T, past + T].
        cross_attentions: with `output_attentions`, decoder_layers times [B, H, T, S].
        encoder_last_hidden_state: [B, S, D].
        encoder_hidden_states: with `output_hidden_states`, encoder_layers + 1 times [B, S, D].
        encoder_attentions: with `output_attentions`, encoder_layers times [B, H, S, S].
    """

    last_hidden_state: Array | None = None
    past_key_values: Any = None
    decoder_hidden_states: tuple[Array, ...] | None = None
    decoder_attentions: tuple[Array, ...] | None = None
    cross_attentions: tuple[Array, ...] | None = None
    encoder_last_hidden_state: Array | None = None
    encoder_hidden_states: tuple[Array, ...] | None = None
    encoder_attentions: tuple[Array, ...] | None = None


@dataclass
class Seq2SeqLMOutput(ModelOutput, Generic[Array]):
    """What a conditional-generation model returns.

    Attributes:
        loss: with `labels`, the mean cross-entropy over labels that are not -100, a float32 scalar.
        logits: [B, T, V], before the softmax.
        past_key_values: with `use_cache`, the cache to pass to the next call.
        decoder_hidden_states: with `output_hidden_states`, decoder_layers + 1 times [B, T, D].
        decoder_attentions: with `output_attentions`, decoder_layers times [B, H, T, past + T].
        cross_attentions: with `output_attentions`, decoder_layers times [B, H, T, S].
        encoder_last_hidden_state: [B, S, D].
        encoder_hidden_states: with `output_hidden_states`, encoder_layers + 1 times [B, S, D].
        encoder_attentions: with `output_attentions`, encoder_layers times [B, H, S, S].
    """

    loss: Array | None = None
    logits: Array | None = None
    past_key_values: Any = None
    decoder_hidden_states: tuple[Array, ...] | None = None
    decoder_attentions: tuple[Array, ...] | None = None
    cross_attentions: tuple[Array, ...] | None = None
    encoder_last_hidden_state: Array | None = None
    encoder_hidden_states: tuple[Array, ...] | None = None
    encoder_attentions: tuple[Array, ...] | None = None


@dataclass
class CausalLMOutputWithCrossAttentions(ModelOutput, Generic[Array]):
    """What a causal language model returns.

    Attributes:
        loss: with `labels`, the mean cross-entropy over labels that are not -100, a float32 scalar.
        logits: [B, T, V], before the softmax.
        past_key_values: with `use_cache`, the cache to pass to the next call.
        hidden_states: with `output_hidden_states`, decoder_layers + 1 times [B, T, D].
        attentions: with `output_attentions`, decoder_layers times [B, H, T, past + T].
        cross_attentions: with `output_attentions` and an encoder's states, decoder_layers times [B, H, T, S].
    """

    loss: Array | None = None
    logits: Array | None = None
    past_key_values: Any = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None
    cross_attentions: tuple[Array, ...] | None = None


@dataclass
class GenerateEncoderDecoderOutput(ModelOutput, Generic[Array]):
    """What `generate(return_dict_in_generate=True)` of an encoder-decoder returns for greedy search and sampling.

    Attributes:
        sequences: int64 [B * num_return_sequences, length], the decoder's start token first, padded at the end.
        scores: with `output_scores`, one [B, V] per new token: the scores the token was chosen from.
        logits: with `output_logits`, one [B, V] per new token: the model's logits before any rule, float32.
        encoder_attentions: with `output_attentions`, encoder_layers times [B, H, S, S].
        encoder_hidden_states: with `output_hidden_states`, encoder_layers + 1 times [B, S, D].
        decoder_attentions: per new token, decoder_layers times [B, H, 1, length so far].
        cross_attentions: per new token, decoder_layers times [B, H, 1, S].
        decoder_hidden_states: per new token, decoder_layers + 1 times [B, 1, D].
        past_key_values: the cache after the last step.
    """

    sequences: Array | None = None
    scores: tuple[Array, ...] | None = None
    logits: tuple[Array, ...] | None = None
    encoder_attentions: tuple[Array, ...] | None = None
    encoder_hidden_states: tuple[Array, ...] | None = None
    decoder_attentions: tuple[tuple[Array, ...], ...] | None = None
    cross_attentions: tuple[tuple[Array, ...], ...] | None = None
    decoder_hidden_states: tuple[tuple[Array, ...], ...] | None = None
    past_key_values: Any = None


@dataclass
class GenerateBeamEncoderDecoderOutput(ModelOutput, Generic[Array]):
    """What `generate(return_dict_in_generate=True)` of an encoder-decoder returns for beam methods.

    Attributes:
        sequences: int64 [B * num_return_sequences, length], best first per input, padded at the end.
        sequences_scores: with `output_scores`, [B * num_return_sequences], the length-penalised log-probability.
        scores: with `output_scores`, one [B * beams, V] per step: log-probabilities after the rules.
        logits: with `output_logits`, one [B * beams, V] per step, before any rule, float32.
        beam_indices: with `output_scores`, int64 [B * num_return_sequences, new tokens]: which beam (a row of `scores`)
            each token was taken from, -1 after the end.

    The others are those of `GenerateEncoderDecoderOutput`, with B * beams rows in the decoder's.
    """

    sequences: Array | None = None
    sequences_scores: Array | None = None
    scores: tuple[Array, ...] | None = None
    logits: tuple[Array, ...] | None = None
    beam_indices: Array | None = None
    encoder_attentions: tuple[Array, ...] | None = None
    encoder_hidden_states: tuple[Array, ...] | None = None
    decoder_attentions: tuple[tuple[Array, ...], ...] | None = None
    cross_attentions: tuple[tuple[Array, ...], ...] | None = None
    decoder_hidden_states: tuple[tuple[Array, ...], ...] | None = None
    past_key_values: Any = None


@dataclass
class GenerateDecoderOnlyOutput(ModelOutput, Generic[Array]):
    """What `generate(return_dict_in_generate=True)` of a causal model returns for greedy search and sampling.

    Attributes as in `GenerateEncoderDecoderOutput`; `sequences` begin with the prompt.
    """

    sequences: Array | None = None
    scores: tuple[Array, ...] | None = None
    logits: tuple[Array, ...] | None = None
    attentions: tuple[tuple[Array, ...], ...] | None = None
    hidden_states: tuple[tuple[Array, ...], ...] | None = None
    past_key_values: Any = None


@dataclass
class GenerateBeamDecoderOnlyOutput(ModelOutput, Generic[Array]):
    """What `generate(return_dict_in_generate=True)` of a causal model returns for beam methods.

    Attributes as in `GenerateBeamEncoderDecoderOutput`; `sequences` begin with the prompt.
    """

    sequences: Array | None = None
    sequences_scores: Array | None = None
    scores: tuple[Array, ...] | None = None
    logits: tuple[Array, ...] | None = None
    beam_indices: Array | None = None
    attentions: tuple[tuple[Array, ...], ...] | None = None
    hidden_states: tuple[tuple[Array, ...], ...] | None = None
    past_key_values: Any = None


# TensorFlow's names for the same classes.
TFBaseModelOutput = BaseModelOutput
TFBaseModelOutputWithPastAndCrossAttentions = BaseModelOutputWithPastAndCrossAttentions
TFCausalLMOutputWithCrossAttentions = CausalLMOutputWithCrossAttentions
TFSeq2SeqLMOutput = Seq2SeqLMOutput
TFSeq2SeqModelOutput = Seq2SeqModelOutput

# Flax's names for them.
FlaxBaseModelOutput = BaseModelOutput
FlaxBaseModelOutputWithPastAndCrossAttentions = BaseModelOutputWithPastAndCrossAttentions
FlaxCausalLMOutputWithCrossAttentions = CausalLMOutputWithCrossAttentions
FlaxSeq2SeqLMOutput = Seq2SeqLMOutput
FlaxSeq2SeqModelOutput = Seq2SeqModelOutput
