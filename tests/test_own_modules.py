"""Subclasses with modules and constructors of their own, in PyTorch: what is loaded, initialised, saved and refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import seq2seq_models
from seq2seq_models import PegasusConfig, PegasusForConditionalGeneration, PegasusModel
from seq2seq_models.errors import CheckpointError, ConfigError
from seq2seq_models.pytorch.pegasus import PegasusPreTrainedModel

from .tiny import FAMILIES, settings

HEADS = ("Model", "ForConditionalGeneration", "ForCausalLM")


class Gate(nn.Module):
    """Draws its weights as it likes, and counts how often it is asked to."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.register_buffer("scale", torch.full((2,), 0.25))
        self.register_buffer("unsaved", torch.arange(3), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, 0.5)


def with_parts(base: type[Any]) -> type[Any]:
    class WithParts(base):  # type: ignore[misc]  # the base is a variable
        def __init__(self, config: Any, size: int = 3, *, bias: bool = True) -> None:
            super().__init__(config)
            self.value = nn.Linear(config.d_model, size, bias=bias)
            self.gate = Gate(config.d_model)
            self.level = nn.Parameter(torch.tensor([0.125]))

    return WithParts


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    PegasusForConditionalGeneration(PegasusConfig(**settings("Pegasus"))).save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def is_real(model: nn.Module) -> bool:
    return not any(one.is_meta for one in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
def test_own_modules_are_initialised_saved_and_loaded(family: str, head: str, tmp_path: Path, caplog: Any) -> None:
    base = getattr(seq2seq_models, family + head)
    torch.manual_seed(2)
    plain = base(base.config_class(**settings(family)))
    plain.save_pretrained(tmp_path / "plain")
    kind = with_parts(base)
    with caplog.at_level(logging.WARNING):
        model = kind.from_pretrained(tmp_path / "plain")
    assert "value.weight" in caplog.text and "has to be trained" in caplog.text
    assert is_real(model)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0)
    assert model.gate.weight.tolist() == [0.5] * 24 and model.gate.scale.tolist() == [0.25, 0.25]
    assert model.gate.unsaved.tolist() == [0, 1, 2] and model.level.item() == 0.125
    assert 0.0 < model.value.weight.std() < 0.05, "drawn with the config's init_std"
    assert model.value.bias.tolist() == [0.0] * 3
    model.to("cpu")

    with torch.no_grad():
        for one in (model.value.weight, model.value.bias, model.gate.weight, model.gate.scale, model.level):
            one.normal_()
    model.save_pretrained(tmp_path / "own")
    again, info = kind.from_pretrained(tmp_path / "own", output_loading_info=True)
    assert info == {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []}
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)


def test_own_init_weights_decides(saved: Path) -> None:
    class Own(with_parts(PegasusForConditionalGeneration)):  # type: ignore[misc]
        def _init_weights(self, module: nn.Module) -> None:
            super()._init_weights(module)
            if module is self.value:
                nn.init.constant_(module.weight, 2.0)
            if module is self:
                nn.init.constant_(self.level, 4.0)

    model = Own.from_pretrained(saved)
    assert (model.value.weight == 2.0).all() and model.level.item() == 4.0


def test_a_constructor_takes_its_arguments(saved: Path) -> None:
    kind = with_parts(PegasusForConditionalGeneration)
    model = kind.from_pretrained(saved, 5, bias=False, dropout=0.375)
    assert model.value.weight.shape == (5, 24) and model.value.bias is None
    assert model.config.dropout == 0.375
    with pytest.raises(ConfigError, match="got size_of"):
        kind.from_pretrained(saved, size_of=5)
    with pytest.raises(CheckpointError, match="1 positional arguments"):
        PegasusForConditionalGeneration.from_pretrained(saved, 5)


def test_a_dtype_and_a_default_device_hold_for_own_modules(saved: Path) -> None:
    model = with_parts(PegasusForConditionalGeneration).from_pretrained(saved, dtype=torch.bfloat16)
    assert {one.dtype for one in (*model.parameters(), model.gate.scale)} == {torch.bfloat16}
    assert model.gate.unsaved.dtype == torch.int64


def test_a_class_over_the_base_loads_what_it_has(saved: Path, caplog: Any) -> None:
    class Classifier(PegasusPreTrainedModel):
        def __init__(self, config: PegasusConfig, labels: int = 2) -> None:
            super().__init__(config)
            self.model = PegasusModel(config)
            self.classifier = nn.Linear(config.d_model, labels)
            self.post_init()

        def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            states = self.model(input_ids, decoder_input_ids=input_ids, **kwargs).last_hidden_state
            out: torch.Tensor = self.classifier(states[:, -1])
            return out

    plain = PegasusForConditionalGeneration.from_pretrained(saved)
    with caplog.at_level(logging.WARNING):
        model = Classifier.from_pretrained(saved, labels=4)
    assert is_real(model) and "classifier.weight" in caplog.text
    ids = torch.tensor([[5, 6, 7]])
    expected = plain.model(ids, decoder_input_ids=ids).last_hidden_state[:, -1] @ model.classifier.weight.T
    torch.testing.assert_close(model(ids), expected)
    assert model.model.encoder.embed_tokens.weight is model.model.shared.weight

    model.save_pretrained(saved.parent / "own")
    again = Classifier.from_pretrained(saved.parent / "own", labels=4)
    torch.testing.assert_close(again(ids), model(ids), rtol=0, atol=0)
    with pytest.raises(CheckpointError, match=r"classifier.weight expected \[3, 24\], got \[4, 24\]"):
        Classifier.from_pretrained(saved.parent / "own", labels=3)
    lenient = Classifier.from_pretrained(saved.parent / "own", labels=3, ignore_mismatched_sizes=True)
    assert is_real(lenient) and lenient.classifier.weight.shape == (3, 24)
    assert 0 < lenient.classifier.weight.std() < 0.05
    torch.testing.assert_close(lenient.model.shared.weight, model.model.shared.weight, rtol=0, atol=0)


def test_a_model_within_a_model_is_initialised(saved: Path) -> None:
    class WithTeacher(PegasusForConditionalGeneration):
        def __init__(self, config: PegasusConfig) -> None:
            super().__init__(config)
            self.teacher = PegasusModel(config)

    torch.manual_seed(5)
    model = WithTeacher.from_pretrained(saved)
    assert is_real(model)
    fresh = PegasusModel(model.config)
    torch.testing.assert_close(model.teacher.encoder.embed_positions.weight, fresh.encoder.embed_positions.weight)
    assert 0.015 < model.teacher.shared.weight.std() < 0.025
    assert (model.teacher.encoder.layers[0].self_attn_layer_norm.weight == 1).all()
    assert model.teacher.decoder.embed_tokens.weight is model.teacher.shared.weight


def test_a_replaced_head_keeps_its_bias(saved: Path) -> None:
    class Biased(PegasusForConditionalGeneration):
        def __init__(self, config: PegasusConfig) -> None:
            super().__init__(config)
            self.lm_head = nn.Linear(config.d_model, config.vocab_size)

    model = Biased.from_pretrained(saved)
    assert model.lm_head.weight is model.model.shared.weight and is_real(model)
    with torch.no_grad():
        model.lm_head.bias.normal_()
    model.save_pretrained(saved.parent / "own")
    again = Biased.from_pretrained(saved.parent / "own")
    torch.testing.assert_close(again.lm_head.bias, model.lm_head.bias, rtol=0, atol=0)
    assert again.lm_head.weight is again.model.shared.weight


def test_weights_of_additional_modules_are_left_out_by_name(saved: Path, caplog: Any) -> None:
    model = with_parts(PegasusForConditionalGeneration).from_pretrained(saved)
    model.level = None
    model.save_pretrained(saved.parent / "own")
    with caplog.at_level(logging.WARNING):
        plain, info = PegasusForConditionalGeneration.from_pretrained(saved.parent / "own", output_loading_info=True)
    names = ["gate.scale", "gate.weight", "value.bias", "value.weight"]
    assert info["unexpected_keys"] == names
    warnings = [one.getMessage() for one in caplog.records if "left out" in one.getMessage()]
    assert len(warnings) == 1 and all(name in warnings[0] for name in names)
    assert not hasattr(plain, "value")
    state = plain.state_dict()
    state["model.encoder.layers.0.fc1.wieght"] = torch.zeros(2)
    with pytest.raises(CheckpointError, match=r"unexpected: model\.encoder\.layers\.0\.fc1\.wieght"):
        PegasusForConditionalGeneration.from_pretrained(None, config=plain.config, state_dict=state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_training_wrappers_are_left_out(prefix: str, saved: Path, caplog: Any) -> None:
    from safetensors.torch import save_file

    plain = PegasusForConditionalGeneration.from_pretrained(saved)
    wrapped = {prefix + name: tensor.clone() for name, tensor in plain.state_dict().items()}
    save_file(wrapped, saved / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level(logging.INFO, logger="seq2seq_models"):
        model = PegasusForConditionalGeneration.from_pretrained(saved)
    assert len([one for one in caplog.records if "wrapped" in one.getMessage()]) == 1
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0)


def test_loading_info_names_weights_as_the_class_does(saved: Path) -> None:
    state = {k.removeprefix("model."): v for k, v in PegasusModel.from_pretrained(saved).state_dict().items()}
    del state["encoder.layers.0.fc1.bias"]
    config = PegasusConfig.from_pretrained(saved)
    _, info = PegasusModel.from_pretrained(
        None, config=config, state_dict=state, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert info["missing_keys"] == ["encoder.layers.0.fc1.bias"]


@pytest.fixture
def registered() -> Any:
    """A family of one's own, forgotten afterwards."""
    from seq2seq_models import auto
    from seq2seq_models.core.config import CONFIG_CLASSES

    class NewsConfig(PegasusConfig):
        model_type = "news-pegasus"

    class NewsModel(with_parts(PegasusForConditionalGeneration)):  # type: ignore[misc]
        config_class = NewsConfig

    configs, models = dict(CONFIG_CLASSES), dict(auto._AutoModel._registered)
    yield NewsConfig, NewsModel
    for held, before in ((CONFIG_CLASSES, configs), (auto._AutoModel._registered, models)):
        held.clear()
        held.update(before)


def test_auto_classes_take_registered_ones(registered: Any, tmp_path: Path) -> None:
    config_class, model_class = registered
    model_class(config_class(**settings("Pegasus"))).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="got 'news-pegasus'"):
        seq2seq_models.AutoConfig.from_pretrained(tmp_path)
    seq2seq_models.AutoConfig.register("news-pegasus", config_class)
    assert type(seq2seq_models.AutoConfig.from_pretrained(tmp_path)) is config_class
    assert type(seq2seq_models.AutoConfig.for_model("news-pegasus")) is config_class
    with pytest.raises(ConfigError, match="must know a model class for NewsConfig"):
        seq2seq_models.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    seq2seq_models.AutoModelForSeq2SeqLM.register(config_class, model_class)
    assert type(seq2seq_models.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)) is model_class
    assert type(seq2seq_models.AutoModelForSeq2SeqLM.from_config(config_class(**settings("Pegasus")))) is model_class


def test_what_cannot_be_registered_is_refused(registered: Any) -> None:
    config_class, model_class = registered
    with pytest.raises(ConfigError, match="must be that of NewsConfig, 'news-pegasus', got 'news'"):
        seq2seq_models.AutoConfig.register("news", config_class)
    with pytest.raises(ConfigError, match="must not be registered yet, got 'pegasus'"):
        seq2seq_models.AutoConfig.register("pegasus", PegasusConfig)
    with pytest.raises(ConfigError, match="must be a subclass of PegasusConfig"):
        seq2seq_models.AutoConfig.register("news-pegasus", dict)
    with pytest.raises(ConfigError, match="must have PegasusConfig as its `config_class`"):
        seq2seq_models.AutoModelForSeq2SeqLM.register(PegasusConfig, model_class)
    with pytest.raises(ConfigError, match="must not have a model in AutoModelForSeq2SeqLM yet"):
        seq2seq_models.AutoModelForSeq2SeqLM.register(PegasusConfig, PegasusForConditionalGeneration)
