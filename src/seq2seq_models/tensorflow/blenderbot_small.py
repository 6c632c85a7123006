"""BlenderbotSmall in TensorFlow: the shared models with this family's config."""

from ..core.config import BlenderbotSmallConfig
from .heads import CausalModel, ConditionalGenerationModel, Seq2SeqModel
from .model import PreTrainedModel


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
