"""Pegasus in PyTorch: the shared models with this family's config."""

from ..core.config import PegasusConfig
from .attention import Attention
from .heads import CausalModel, ConditionalGenerationModel, DecoderWrapper, Seq2SeqModel
from .heads import shift_tokens_right as shift_tokens_right
from .layers import DecoderLayer, EncoderLayer, PositionEmbedding
from .model import PreTrainedModel
from .transformer import Decoder, Encoder

# The parts under transformers' names; they are the same for both families.
PegasusAttention = Attention
PegasusDecoder = Decoder
PegasusDecoderLayer = DecoderLayer
PegasusDecoderWrapper = DecoderWrapper
PegasusEncoder = Encoder
PegasusEncoderLayer = EncoderLayer
PegasusSinusoidalPositionalEmbedding = PositionEmbedding


class PegasusPreTrainedModel(PreTrainedModel):
    """Base of the Pegasus models."""

    config_class = PegasusConfig


class PegasusModel(Seq2SeqModel, PegasusPreTrainedModel):
    """The Pegasus encoder and decoder, returning states; no head.

    Args:
        config: a `PegasusConfig`. Weights are drawn at random; load trained ones with `from_pretrained`.
    """


class PegasusForConditionalGeneration(ConditionalGenerationModel, PegasusPreTrainedModel):
    """Pegasus with its language-modelling head, for `generate` and fine-tuning.

    Args:
        config: a `PegasusConfig`. Weights are drawn at random; load trained ones with `from_pretrained`.
    """

    base_class = PegasusModel


class PegasusForCausalLM(CausalModel, PegasusPreTrainedModel):
    """The Pegasus decoder alone with a language-modelling head.

    Args:
        config: a `PegasusConfig`; the model keeps a copy marked as a decoder.
    """
