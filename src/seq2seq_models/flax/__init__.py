"""The models in Flax (linen). Importing this package loads jax and flax, and no other framework."""

from ..errors import MissingFrameworkError

try:
    import flax.linen as _linen  # noqa: F401
    import jax as _jax  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("jax", "jaxlib", "flax"):
        raise
    raise MissingFrameworkError(
        "seq2seq_models.flax needs jax and flax. Install them: pip install 'seq2seq-models[flax]'"
    ) from None

from .blenderbot_small import (
    FlaxBlenderbotSmallForCausalLM,
    FlaxBlenderbotSmallForConditionalGeneration,
    FlaxBlenderbotSmallModel,
    FlaxBlenderbotSmallPreTrainedModel,
)
from .pegasus import (
    FlaxPegasusForCausalLM,
    FlaxPegasusForConditionalGeneration,
    FlaxPegasusModel,
    FlaxPegasusPreTrainedModel,
)

__all__ = [
    "FlaxBlenderbotSmallForCausalLM",
    "FlaxBlenderbotSmallForConditionalGeneration",
    "FlaxBlenderbotSmallModel",
    "FlaxBlenderbotSmallPreTrainedModel",
    "FlaxPegasusForCausalLM",
    "FlaxPegasusForConditionalGeneration",
    "FlaxPegasusModel",
    "FlaxPegasusPreTrainedModel",
]
