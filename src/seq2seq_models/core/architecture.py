"""The facts in which the two families differ, as data. Everything else about them is one code path per framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LAYER_NORM_EPSILON = 1e-5
"""Of every layer norm in both families and all frameworks. Keras would take 1e-3 and linen 1e-6 by default."""

FP16_CLAMP = 65504.0 - 1000.0
"""In float16, encoder layers clamp their output to plus or minus this, so that the residual stream stays finite."""

ACTIVATIONS = (
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh", "gelu_pytorch_tanh",
    "laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu", "swish",
    "tanh",
)  # fmt: skip
"""The activation names a config may carry, the same in all frameworks: those of transformers without parameters."""


@dataclass(frozen=True)
class Architecture:
    """What makes Pegasus Pegasus and BlenderbotSmall BlenderbotSmall.

    Attributes:
        model_type: the hub's name of the family, as in config.json.
        norm: "pre" norms the input of a sublayer, "post" norms the sum after it.
        positions: "sinusoidal" (computed, frozen, extendable exactly) or "learned" (rows of the checkpoint).
        final_norm: encoder and decoder end with a `layer_norm`.
        embedding_norm: encoder and decoder have a `layernorm_embedding`. The encoder norms token + position, the
            decoder norms the token alone and adds the position after.
    """

    model_type: str
    norm: Literal["pre", "post"]
    positions: Literal["sinusoidal", "learned"]
    final_norm: bool
    embedding_norm: bool


PEGASUS = Architecture("pegasus", norm="pre", positions="sinusoidal", final_norm=True, embedding_norm=False)
BLENDERBOT_SMALL = Architecture(
    "blenderbot-small", norm="post", positions="learned", final_norm=False, embedding_norm=True
)
ARCHITECTURES = {architecture.model_type: architecture for architecture in (PEGASUS, BLENDERBOT_SMALL)}
