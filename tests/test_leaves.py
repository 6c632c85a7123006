"""Names of leaves in TensorFlow and Flax, there and back for every parameter of both families."""

from __future__ import annotations

import numpy as np
import pytest

from seq2seq_models import BlenderbotSmallConfig, PegasusConfig
from seq2seq_models.core.leaves import FLAX, KERAS, flax_path, from_flax, from_keras, keras_path, leaf_of, turned
from seq2seq_models.core.parameters import Head, parameters
from seq2seq_models.errors import CheckpointError

SIZES = {
    "vocab_size": 40,
    "d_model": 8,
    "encoder_layers": 2,
    "decoder_layers": 11,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": 16,
}


@pytest.mark.parametrize("config_class", [PegasusConfig, BlenderbotSmallConfig])
@pytest.mark.parametrize("head", ["base", "conditional", "causal"])
def test_every_name_goes_there_and_back(config_class: type, head: Head) -> None:
    every = [p for p in parameters(config_class(**SIZES, tie_word_embeddings=False), head) if p.tied_to is None]
    assert len(every) > 100
    for parameter in every:
        values = np.arange(np.prod(parameter.shape)).reshape(parameter.shape)
        flax, keras = leaf_of(parameter, FLAX), leaf_of(parameter, KERAS)
        assert flax.transpose == keras.transpose == (parameter.kind == "linear" and parameter.name.endswith("weight"))
        assert np.array_equal(turned(turned(values, flax), flax), values)
        assert from_flax(flax_path(parameter)) == (parameter.name, flax.transpose)
        assert from_keras(keras_path(parameter) + ":0") == (parameter.name, keras.transpose)
    assert len({flax_path(p) for p in every}) == len({keras_path(p) for p in every}) == len(every)


def test_names_as_they_stand_in_real_files() -> None:
    assert from_flax(("model", "encoder", "layers", "3", "self_attn", "k_proj", "kernel")) == (
        "model.encoder.layers.3.self_attn.k_proj.weight",
        True,
    )
    assert from_flax(("model", "shared", "embedding")) == ("model.shared.weight", False)
    assert from_flax(("final_logits_bias",)) == ("final_logits_bias", False)
    assert from_keras("model/encoder/layers.0/self_attn/k_proj/kernel:0") == (
        "model.encoder.layers.0.self_attn.k_proj.weight",
        True,
    )
    assert from_keras("model.shared/model.shared/embeddings:0") == ("model.shared.weight", False)
    assert from_keras("model.shared/model.shared/weight:0") == ("model.shared.weight", False)
    assert from_keras("model/decoder/layernorm_embedding/gamma:0") == (
        "model.decoder.layernorm_embedding.weight",
        False,
    )
    assert from_keras("final_logits_bias:0") == ("final_logits_bias", False)
    assert from_keras("decoder/embed_positions/weight:0") == ("model.decoder.embed_positions.weight", False)


@pytest.mark.parametrize(
    "head", ["", "model/tf_pegasus_model/", "tf_pegasus_for_conditional_generation_3/", "summarizer/tf_pegasus_model/"]
)
def test_what_stands_before_a_keras_path_is_left_out(head: str) -> None:
    for path, name in {
        "model/encoder/layers.0/fc1/kernel:0": "model.encoder.layers.0.fc1.weight",
        "model/decoder/embed_positions/embeddings:0": "model.decoder.embed_positions.weight",
        "model.shared/model.shared/embeddings:0": "model.shared.weight",
        "model.shared/weight:0": "model.shared.weight",
        "shared/embeddings:0": "model.shared.weight",
        "final_logits_bias:0": "final_logits_bias",
        "lm_head/kernel:0": "lm_head.weight",
    }.items():
        assert from_keras(head + path) == (name, path.endswith("kernel:0"))


def test_a_square_weight_is_turned() -> None:
    square = next(p for p in parameters(PegasusConfig(**SIZES)) if p.name.endswith("self_attn.q_proj.weight"))
    values = np.arange(64).reshape(8, 8)
    assert turned(values, leaf_of(square, FLAX))[1, 0] == values[0, 1]


def test_foreign_leaves_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"must be one of .*kernel.*, got model/encoder/fc1/moving_mean"):
        from_keras("model/encoder/fc1/moving_mean")
    with pytest.raises(CheckpointError, match="got model/encoder/fc1/weight"):
        from_keras("model/encoder/fc1/weight")
    with pytest.raises(CheckpointError, match="got model/encoder/fc1/weight_g"):
        from_flax(("model", "encoder", "fc1", "weight_g"))
