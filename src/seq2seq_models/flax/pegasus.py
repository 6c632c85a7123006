"""Pegasus in Flax: the shared models with this family's config."""

from ..core.config import PegasusConfig
from .attention import Attention
from .heads import CausalModel, ConditionalGenerationModel, Seq2SeqModel
from .heads import shift_tokens_right as shift_tokens_right
from .layers import DecoderLayer, EncoderLayer
from .model import PreTrainedModel
from .modules import CausalModule, ConditionalGenerationModule, Seq2SeqModule
from .transformer import Decoder, Encoder

# The linen modules under transformers' names; they are the same for both families.
FlaxPegasusAttention = Attention
FlaxPegasusDecoder = Decoder
FlaxPegasusDecoderLayer = DecoderLayer
FlaxPegasusEncoder = Encoder
FlaxPegasusEncoderLayer = EncoderLayer
FlaxPegasusForCausalLMModule = CausalModule
FlaxPegasusForConditionalGenerationModule = ConditionalGenerationModule
FlaxPegasusModule = Seq2SeqModule


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
