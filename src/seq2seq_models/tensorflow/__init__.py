"""The models in TensorFlow, for Keras 3. Importing this package loads TensorFlow and Keras, and no other framework."""

from ..errors import MissingFrameworkError

try:
    import keras as _keras
    import tensorflow as _tensorflow  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("keras", "tensorflow"):
        raise
    raise MissingFrameworkError(
        f"seq2seq_models.tensorflow needs {error.name}. Install it: pip install 'seq2seq-models[tensorflow]'"
    ) from None

if _keras.backend.backend() != "tensorflow":
    raise MissingFrameworkError(
        f"seq2seq_models.tensorflow needs Keras on TensorFlow, got Keras on {_keras.backend.backend()}. "
        "Set KERAS_BACKEND=tensorflow before keras is imported."
    )

from .blenderbot_small import (
    TFBlenderbotSmallForCausalLM,
    TFBlenderbotSmallForConditionalGeneration,
    TFBlenderbotSmallModel,
    TFBlenderbotSmallPreTrainedModel,
)
from .pegasus import (
    TFPegasusForCausalLM,
    TFPegasusForConditionalGeneration,
    TFPegasusModel,
    TFPegasusPreTrainedModel,
)

__all__ = [
    "TFBlenderbotSmallForCausalLM",
    "TFBlenderbotSmallForConditionalGeneration",
    "TFBlenderbotSmallModel",
    "TFBlenderbotSmallPreTrainedModel",
    "TFPegasusForCausalLM",
    "TFPegasusForConditionalGeneration",
    "TFPegasusModel",
    "TFPegasusPreTrainedModel",
]
