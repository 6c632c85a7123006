"""Pegasus in TensorFlow: the shared models with this family's config."""

from ..core.config import PegasusConfig
from .attention import Attention
from .heads import CausalModel, ConditionalGenerationModel, Seq2SeqModel
from .heads import shift_tokens_right as shift_tokens_right
from .layers import DecoderLayer, EncoderLayer, PositionEmbedding
from .model import PreTrainedModel
from .transformer import Decoder, Encoder

# The layers under transformers' names; they are the same for both families.
TFPegasusAttention = Attention
TFPegasusDecoder = Decoder
TFPegasusDecoderLayer = DecoderLayer
TFPegasusEncoder = Encoder
TFPegasusEncoderLayer = EncoderLayer
TFPegasusSinusoidalPositionalEmbedding = PositionEmbedding


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
