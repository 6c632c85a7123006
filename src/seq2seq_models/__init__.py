"""Pegasus and BlenderbotSmall with the transformers API.

Importing this package loads no framework. A name is looked up when it is asked for: a PyTorch class loads torch and
nothing of TensorFlow or JAX, a tokenizer loads the tokenizers library only.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .auto import AutoConfig as AutoConfig
    from .auto import AutoModel as AutoModel
    from .auto import AutoModelForCausalLM as AutoModelForCausalLM
    from .auto import AutoModelForSeq2SeqLM as AutoModelForSeq2SeqLM
    from .auto import AutoTokenizer as AutoTokenizer
    from .auto import FlaxAutoModel as FlaxAutoModel
    from .auto import FlaxAutoModelForCausalLM as FlaxAutoModelForCausalLM
    from .auto import FlaxAutoModelForSeq2SeqLM as FlaxAutoModelForSeq2SeqLM
    from .auto import TFAutoModel as TFAutoModel
    from .auto import TFAutoModelForCausalLM as TFAutoModelForCausalLM
    from .auto import TFAutoModelForSeq2SeqLM as TFAutoModelForSeq2SeqLM
    from .core.blenderbot_small import BlenderbotSmallTokenizer as BlenderbotSmallTokenizer
    from .core.blenderbot_small import BlenderbotSmallTokenizerFast as BlenderbotSmallTokenizerFast
    from .core.collator import DataCollatorForSeq2Seq as DataCollatorForSeq2Seq
    from .core.config import BlenderbotSmallConfig as BlenderbotSmallConfig
    from .core.config import PegasusConfig as PegasusConfig
    from .core.config import PretrainedConfig as PretrainedConfig
    from .core.conversation import Conversation as Conversation
    from .core.gap_sentences import DataCollatorForGapSentences as DataCollatorForGapSentences
    from .core.generation_config import GenerationConfig as GenerationConfig
    from .core.outputs import BaseModelOutput as BaseModelOutput
    from .core.outputs import BaseModelOutputWithPastAndCrossAttentions as BaseModelOutputWithPastAndCrossAttentions
    from .core.outputs import CausalLMOutputWithCrossAttentions as CausalLMOutputWithCrossAttentions
    from .core.outputs import FlaxBaseModelOutput as FlaxBaseModelOutput
    from .core.outputs import (
        FlaxBaseModelOutputWithPastAndCrossAttentions as FlaxBaseModelOutputWithPastAndCrossAttentions,
    )
    from .core.outputs import FlaxCausalLMOutputWithCrossAttentions as FlaxCausalLMOutputWithCrossAttentions
    from .core.outputs import FlaxSeq2SeqLMOutput as FlaxSeq2SeqLMOutput
    from .core.outputs import FlaxSeq2SeqModelOutput as FlaxSeq2SeqModelOutput
    from .core.outputs import GenerateBeamDecoderOnlyOutput as GenerateBeamDecoderOnlyOutput
    from .core.outputs import GenerateBeamEncoderDecoderOutput as GenerateBeamEncoderDecoderOutput
    from .core.outputs import GenerateDecoderOnlyOutput as GenerateDecoderOnlyOutput
    from .core.outputs import GenerateEncoderDecoderOutput as GenerateEncoderDecoderOutput
    from .core.outputs import ModelOutput as ModelOutput
    from .core.outputs import Seq2SeqLMOutput as Seq2SeqLMOutput
    from .core.outputs import Seq2SeqModelOutput as Seq2SeqModelOutput
    from .core.outputs import TFBaseModelOutput as TFBaseModelOutput
    from .core.outputs import TFBaseModelOutputWithPastAndCrossAttentions as TFBaseModelOutputWithPastAndCrossAttentions
    from .core.outputs import TFCausalLMOutputWithCrossAttentions as TFCausalLMOutputWithCrossAttentions
    from .core.outputs import TFSeq2SeqLMOutput as TFSeq2SeqLMOutput
    from .core.outputs import TFSeq2SeqModelOutput as TFSeq2SeqModelOutput
    from .core.pegasus import PegasusTokenizer as PegasusTokenizer
    from .core.pegasus import PegasusTokenizerFast as PegasusTokenizerFast
    from .core.processors import LogitsProcessorList as LogitsProcessorList
    from .core.processors import StoppingCriteriaList as StoppingCriteriaList
    from .core.seed import set_seed as set_seed
    from .core.streamers import AsyncTextIteratorStreamer as AsyncTextIteratorStreamer
    from .core.streamers import TextIteratorStreamer as TextIteratorStreamer
    from .core.streamers import TextStreamer as TextStreamer
    from .core.tokenizer import PreTrainedTokenizer as PreTrainedTokenizer
    from .core.tokenizing.batch_encoding import BatchEncoding as BatchEncoding
    from .core.trainer_callback import SaveConfigCallback as SaveConfigCallback
    from .flax import FlaxBlenderbotSmallForCausalLM as FlaxBlenderbotSmallForCausalLM
    from .flax import FlaxBlenderbotSmallForConditionalGeneration as FlaxBlenderbotSmallForConditionalGeneration
    from .flax import FlaxBlenderbotSmallModel as FlaxBlenderbotSmallModel
    from .flax import FlaxBlenderbotSmallPreTrainedModel as FlaxBlenderbotSmallPreTrainedModel
    from .flax import FlaxPegasusForCausalLM as FlaxPegasusForCausalLM
    from .flax import FlaxPegasusForConditionalGeneration as FlaxPegasusForConditionalGeneration
    from .flax import FlaxPegasusModel as FlaxPegasusModel
    from .flax import FlaxPegasusPreTrainedModel as FlaxPegasusPreTrainedModel
    from .pipelines import pipeline as pipeline
    from .plots import cross_attention as cross_attention
    from .plots import plot_attention as plot_attention
    from .pytorch import BlenderbotSmallForCausalLM as BlenderbotSmallForCausalLM
    from .pytorch import BlenderbotSmallForConditionalGeneration as BlenderbotSmallForConditionalGeneration
    from .pytorch import BlenderbotSmallModel as BlenderbotSmallModel
    from .pytorch import BlenderbotSmallPreTrainedModel as BlenderbotSmallPreTrainedModel
    from .pytorch import DynamicCache as DynamicCache
    from .pytorch import EncoderDecoderCache as EncoderDecoderCache
    from .pytorch import PegasusForCausalLM as PegasusForCausalLM
    from .pytorch import PegasusForConditionalGeneration as PegasusForConditionalGeneration
    from .pytorch import PegasusModel as PegasusModel
    from .pytorch import PegasusPreTrainedModel as PegasusPreTrainedModel
    from .pytorch import StaticCache as StaticCache
    from .tensorflow import TFBlenderbotSmallForCausalLM as TFBlenderbotSmallForCausalLM
    from .tensorflow import TFBlenderbotSmallForConditionalGeneration as TFBlenderbotSmallForConditionalGeneration
    from .tensorflow import TFBlenderbotSmallModel as TFBlenderbotSmallModel
    from .tensorflow import TFBlenderbotSmallPreTrainedModel as TFBlenderbotSmallPreTrainedModel
    from .tensorflow import TFPegasusForCausalLM as TFPegasusForCausalLM
    from .tensorflow import TFPegasusForConditionalGeneration as TFPegasusForConditionalGeneration
    from .tensorflow import TFPegasusModel as TFPegasusModel
    from .tensorflow import TFPegasusPreTrainedModel as TFPegasusPreTrainedModel

_ROOMS = {
    "auto": (
        "AutoConfig",
        "AutoModel",
        "AutoModelForCausalLM",
        "AutoModelForSeq2SeqLM",
        "AutoTokenizer",
        "FlaxAutoModel",
        "FlaxAutoModelForCausalLM",
        "FlaxAutoModelForSeq2SeqLM",
        "TFAutoModel",
        "TFAutoModelForCausalLM",
        "TFAutoModelForSeq2SeqLM",
    ),
    "core.tokenizing.batch_encoding": ("BatchEncoding",),
    "core.blenderbot_small": ("BlenderbotSmallTokenizer", "BlenderbotSmallTokenizerFast"),
    "core.collator": ("DataCollatorForSeq2Seq",),
    "core.config": ("BlenderbotSmallConfig", "PegasusConfig", "PretrainedConfig"),
    "core.conversation": ("Conversation",),
    "core.gap_sentences": ("DataCollatorForGapSentences",),
    "core.generation_config": ("GenerationConfig",),
    "core.outputs": (
        "BaseModelOutput",
        "BaseModelOutputWithPastAndCrossAttentions",
        "CausalLMOutputWithCrossAttentions",
        "FlaxBaseModelOutput",
        "FlaxBaseModelOutputWithPastAndCrossAttentions",
        "FlaxCausalLMOutputWithCrossAttentions",
        "FlaxSeq2SeqLMOutput",
        "FlaxSeq2SeqModelOutput",
        "GenerateBeamDecoderOnlyOutput",
        "GenerateBeamEncoderDecoderOutput",
        "GenerateDecoderOnlyOutput",
        "GenerateEncoderDecoderOutput",
        "ModelOutput",
        "Seq2SeqLMOutput",
        "Seq2SeqModelOutput",
        "TFBaseModelOutput",
        "TFBaseModelOutputWithPastAndCrossAttentions",
        "TFCausalLMOutputWithCrossAttentions",
        "TFSeq2SeqLMOutput",
        "TFSeq2SeqModelOutput",
    ),
    "core.pegasus": ("PegasusTokenizer", "PegasusTokenizerFast"),
    "core.processors": ("LogitsProcessorList", "StoppingCriteriaList"),
    "core.seed": ("set_seed",),
    "core.streamers": ("AsyncTextIteratorStreamer", "TextIteratorStreamer", "TextStreamer"),
    "core.tokenizer": ("PreTrainedTokenizer",),
    "core.trainer_callback": ("SaveConfigCallback",),
    "flax": (
        "FlaxBlenderbotSmallForCausalLM",
        "FlaxBlenderbotSmallForConditionalGeneration",
        "FlaxBlenderbotSmallModel",
        "FlaxBlenderbotSmallPreTrainedModel",
        "FlaxPegasusForCausalLM",
        "FlaxPegasusForConditionalGeneration",
        "FlaxPegasusModel",
        "FlaxPegasusPreTrainedModel",
    ),
    "pipelines": ("pipeline",),
    "plots": ("cross_attention", "plot_attention"),
    "pytorch": (
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
    ),
    "tensorflow": (
        "TFBlenderbotSmallForCausalLM",
        "TFBlenderbotSmallForConditionalGeneration",
        "TFBlenderbotSmallModel",
        "TFBlenderbotSmallPreTrainedModel",
        "TFPegasusForCausalLM",
        "TFPegasusForConditionalGeneration",
        "TFPegasusModel",
        "TFPegasusPreTrainedModel",
    ),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_ROOM_OF)

# Type checkers read the block above; were __getattr__ visible to them, a misspelt name would pass.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        import importlib

        if name not in _ROOM_OF:
            raise AttributeError(f"module 'seq2seq_models' has no attribute {name!r}.")
        value = getattr(importlib.import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_ROOM_OF})
