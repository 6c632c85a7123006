"""The models in PyTorch. Importing this package loads torch, and no other framework."""

from ..errors import MissingFrameworkError

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise MissingFrameworkError(
        "seq2seq_models.pytorch needs torch. Install it: pip install 'seq2seq-models[torch]'"
    ) from None

from .blenderbot_small import (
    BlenderbotSmallForCausalLM,
    BlenderbotSmallForConditionalGeneration,
    BlenderbotSmallModel,
    BlenderbotSmallPreTrainedModel,
)
from .cache import DynamicCache, EncoderDecoderCache, StaticCache
from .pegasus import PegasusForCausalLM, PegasusForConditionalGeneration, PegasusModel, PegasusPreTrainedModel

__all__ = [
    "BlenderbotSmallForCausalLM",
    "BlenderbotSmallForConditionalGeneration",
    "BlenderbotSmallModel",
    "BlenderbotSmallPreTrainedModel",
    "DynamicCache",
    "EncoderDecoderCache",
    "PegasusForCausalLM",
    "PegasusForConditionalGeneration",
    "PegasusModel",
    "PegasusPreTrainedModel",
    "StaticCache",
]
