"""Pegasus in Flax: the shared models with this family's config."""

from ..core.config import PegasusConfig
from .heads import CausalModel, ConditionalGenerationModel, Seq2SeqModel
from .model import PreTrainedModel


class FlaxPegasusPreTrainedModel(PreTrainedModel):
    """Base of the Pegasus models."""

    config_class = PegasusConfig


class FlaxPegasusModel(Seq2SeqModel, FlaxPegasusPreTrainedModel):
    """The Pegasus encoder and decoder, returning states; no head.

    Args:
        config: a `PegasusConfig`. Weights are drawn at random; load trained ones with `from_pretrained`.
        input_shape, seed, dtype, _do_init, **kwargs: as for `PreTrainedModel`.
    """


class FlaxPegasusForConditionalGeneration(ConditionalGenerationModel, FlaxPegasusPreTrainedModel):
    """Pegasus with its language-modelling head, for `generate` and fine-tuning.

    Args:
        config: a `PegasusConfig`. Weights are drawn at random; load trained ones with `from_pretrained`.
        input_shape, seed, dtype, _do_init, **kwargs: as for `PreTrainedModel`.
    """


class FlaxPegasusForCausalLM(CausalModel, FlaxPegasusPreTrainedModel):
    """The Pegasus decoder alone with a language-modelling head.

    Args:
        config: a `PegasusConfig`; the model keeps a copy marked as a decoder.
        input_shape, seed, dtype, _do_init, **kwargs: as for `PreTrainedModel`.
    """
