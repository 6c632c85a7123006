"""BlenderbotSmall in PyTorch: the shared models with this family's config."""

from ..core.config import BlenderbotSmallConfig
from .attention import Attention
from .heads import CausalModel, ConditionalGenerationModel, DecoderWrapper, Seq2SeqModel
from .heads import shift_tokens_right as shift_tokens_right
from .layers import DecoderLayer, EncoderLayer, PositionEmbedding
from .model import PreTrainedModel
from .transformer import Decoder, Encoder

# The parts under transformers' names; they are the same for both families.
BlenderbotSmallAttention = Attention
BlenderbotSmallDecoder = Decoder
BlenderbotSmallDecoderLayer = DecoderLayer
BlenderbotSmallDecoderWrapper = DecoderWrapper
BlenderbotSmallEncoder = Encoder
BlenderbotSmallEncoderLayer = EncoderLayer
BlenderbotSmallLearnedPositionalEmbedding = PositionEmbedding


class BlenderbotSmallPreTrainedModel(PreTrainedModel):
    """Base of the BlenderbotSmall models."""

    config_class = BlenderbotSmallConfig


class BlenderbotSmallModel(Seq2SeqModel, BlenderbotSmallPreTrainedModel):
    """The BlenderbotSmall encoder and decoder, returning states; no head.

    Args:
        config: a `BlenderbotSmallConfig`. Weights are drawn at random; load trained ones with `from_pretrained`.
    """


class BlenderbotSmallForConditionalGeneration(ConditionalGenerationModel, BlenderbotSmallPreTrainedModel):
    """BlenderbotSmall with its language-modelling head, for `generate` and fine-tuning.

    Args:
        config: a `BlenderbotSmallConfig`. Weights are drawn at random; load trained ones with `from_pretrained`.
    """

    base_class = BlenderbotSmallModel


class BlenderbotSmallForCausalLM(CausalModel, BlenderbotSmallPreTrainedModel):
    """The BlenderbotSmall decoder alone with a language-modelling head.

    Args:
        config: a `BlenderbotSmallConfig`; the model keeps a copy marked as a decoder.
    """
