"""Pegasus in TensorFlow: the shared models with this family's config."""

from ..core.config import PegasusConfig
from .heads import CausalModel, ConditionalGenerationModel, Seq2SeqModel
from .model import PreTrainedModel


class TFPegasusPreTrainedModel(PreTrainedModel):
    """Base of the Pegasus models."""

    config_class = PegasusConfig


class TFPegasusModel(Seq2SeqModel, TFPegasusPreTrainedModel):
    """The Pegasus encoder and decoder, returning states; no head.

    Args:
        config: a `PegasusConfig`. Weights are drawn at random; load trained ones with `from_pretrained`.
    """


class TFPegasusForConditionalGeneration(ConditionalGenerationModel, TFPegasusPreTrainedModel):
    """Pegasus with its language-modelling head, for `generate` and fine-tuning.

    Args:
        config: a `PegasusConfig`. Weights are drawn at random; load trained ones with `from_pretrained`.
    """

    base_class = TFPegasusModel


class TFPegasusForCausalLM(CausalModel, TFPegasusPreTrainedModel):
    """The Pegasus decoder alone with a language-modelling head.

    Args:
        config: a `PegasusConfig`; the model keeps a copy marked as a decoder.
    """
