"""BlenderbotSmall in Flax: the shared models with this family's config."""

from ..core.config import BlenderbotSmallConfig
from .attention import Attention
from .heads import CausalModel, ConditionalGenerationModel, Seq2SeqModel
from .heads import shift_tokens_right as shift_tokens_right
from .layers import DecoderLayer, EncoderLayer
from .model import PreTrainedModel
from .modules import CausalModule, ConditionalGenerationModule, Seq2SeqModule
from .transformer import Decoder, Encoder

# The linen modules under transformers' names; they are the same for both families.
FlaxBlenderbotSmallAttention = Attention
FlaxBlenderbotSmallDecoder = Decoder
FlaxBlenderbotSmallDecoderLayer = DecoderLayer
FlaxBlenderbotSmallEncoder = Encoder
FlaxBlenderbotSmallEncoderLayer = EncoderLayer
FlaxBlenderbotSmallForCausalLMModule = CausalModule
FlaxBlenderbotSmallForConditionalGenerationModule = ConditionalGenerationModule
FlaxBlenderbotSmallModule = Seq2SeqModule


class FlaxBlenderbotSmallPreTrainedModel(PreTrainedModel):
    """Base of the BlenderbotSmall models."""

    config_class = BlenderbotSmallConfig


class FlaxBlenderbotSmallModel(Seq2SeqModel, FlaxBlenderbotSmallPreTrainedModel):
    """The BlenderbotSmall encoder and decoder, returning states; no head.

    Args:
        config: a `BlenderbotSmallConfig`. Weights are drawn at random; load trained ones with `from_pretrained`.
        input_shape, seed, dtype, _do_init, **kwargs: as for `PreTrainedModel`.
    """


class FlaxBlenderbotSmallForConditionalGeneration(ConditionalGenerationModel, FlaxBlenderbotSmallPreTrainedModel):
    """BlenderbotSmall with its language-modelling head, for `generate` and fine-tuning.

    Args:
        config: a `BlenderbotSmallConfig`. Weights are drawn at random; load trained ones with `from_pretrained`.
        input_shape, seed, dtype, _do_init, **kwargs: as for `PreTrainedModel`.
    """


class FlaxBlenderbotSmallForCausalLM(CausalModel, FlaxBlenderbotSmallPreTrainedModel):
    """The BlenderbotSmall decoder alone with a language-modelling head.

    Args:
        config: a `BlenderbotSmallConfig`; the model keeps a copy marked as a decoder.
        input_shape, seed, dtype, _do_init, **kwargs: as for `PreTrainedModel`.
    """
