"""BlenderbotSmall in TensorFlow: the shared models with this family's config."""

from ..core.config import BlenderbotSmallConfig
from .attention import Attention
from .heads import CausalModel, ConditionalGenerationModel, Seq2SeqModel
from .heads import shift_tokens_right as shift_tokens_right
from .layers import DecoderLayer, EncoderLayer, PositionEmbedding
from .model import PreTrainedModel
from .transformer import Decoder, Encoder

# The layers under transformers' names; they are the same for both families.
TFBlenderbotSmallAttention = Attention
TFBlenderbotSmallDecoder = Decoder
TFBlenderbotSmallDecoderLayer = DecoderLayer
TFBlenderbotSmallEncoder = Encoder
TFBlenderbotSmallEncoderLayer = EncoderLayer
TFBlenderbotSmallLearnedPositionalEmbedding = PositionEmbedding


class TFBlenderbotSmallPreTrainedModel(PreTrainedModel):
    """Base of the BlenderbotSmall models."""

    config_class = BlenderbotSmallConfig


class TFBlenderbotSmallModel(Seq2SeqModel, TFBlenderbotSmallPreTrainedModel):
    """The BlenderbotSmall encoder and decoder, returning states; no head.

    Args:
        config: a `BlenderbotSmallConfig`. Weights are drawn at random; load trained ones with `from_pretrained`.
    """


class TFBlenderbotSmallForConditionalGeneration(ConditionalGenerationModel, TFBlenderbotSmallPreTrainedModel):
    """BlenderbotSmall with its language-modelling head, for `generate` and fine-tuning.

    Args:
        config: a `BlenderbotSmallConfig`. Weights are drawn at random; load trained ones with `from_pretrained`.
    """

    base_class = TFBlenderbotSmallModel


class TFBlenderbotSmallForCausalLM(CausalModel, TFBlenderbotSmallPreTrainedModel):
    """The BlenderbotSmall decoder alone with a language-modelling head.

    Args:
        config: a `BlenderbotSmallConfig`; the model keeps a copy marked as a decoder.
    """
