"""The wings of the house have the same rooms: one folder per framework, the same files, classes and argument names.

Whatever wings are there are compared with the list here and with each other; a new folder joins by itself.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import seq2seq_models

HOUSE = Path(seq2seq_models.__file__).parent
PREFIXES = {"pytorch": "", "tensorflow": "TF", "flax": "Flax"}
WINGS = [wing for wing in PREFIXES if (HOUSE / wing).is_dir()]

ROOMS = [
    "__init__",
    "assisted",
    "attention",
    "beams",
    "blenderbot_small",
    "cache",
    "contrastive",
    "diverse_beams",
    "generation",
    "heads",
    "layers",
    "model",
    "packing",
    "pegasus",
    "rules",
    "steps",
    "transformer",
    "weights",
]
FAMILY_CLASSES = [
    f"{family}{head}"
    for family in ("BlenderbotSmall", "Pegasus")
    for head in ("ForCausalLM", "ForConditionalGeneration", "Model", "PreTrainedModel")
]
Methods = dict[tuple[str, str, str], list[str]]
"""(room, class, method) -> argument names."""
COMPARED = ("__init__", "forward", "call", "__call__", "generate", "encode", "decode")
FORWARD = {"call": "forward", "__call__": "forward"}
"""One method under three names: what runs the model."""

# The honest exceptions, and all of them: what the documentation gives one framework and not another.
ONLY_IN = {
    "tensorflow": {"training", "decoder_position_ids"},
    "flax": {"train", "params", "dropout_rng", "input_shape", "seed", "dtype", "_do_init", "position_ids"}
    | {"decoder_position_ids"},
}
HEAD_MASKS = {"head_mask", "decoder_head_mask", "cross_attn_head_mask"}
NOT_IN = {
    "tensorflow": {"cache_position", "assistant_model"},
    "flax": {"cache_position", "encoder_outputs", "past_key_values", "inputs_embeds", "decoder_inputs_embeds", "labels"}
    | {"use_cache", "assistant_model"} | HEAD_MASKS,
}  # fmt: skip
CLASSES_OF_ONE_WING = {
    "pytorch": {"DynamicCache", "EncoderDecoderCache", "StaticCache"},
    "flax": set(),
    "tensorflow": set(),
}
# Flax documents no causal models for these families, TensorFlow neither; no cache objects outside PyTorch.
CLASSES_NOT_IN = {
    "tensorflow": {"BlenderbotSmallForCausalLM", "PegasusForCausalLM"},
    "flax": {"BlenderbotSmallForCausalLM", "PegasusForCausalLM"},
}


@cache
def tree(wing: str, room: str) -> ast.Module:
    return ast.parse((HOUSE / wing / f"{room}.py").read_text(encoding="utf-8"))


def classes(wing: str, room: str) -> dict[str, ast.ClassDef]:
    """The public classes of a room, by their name without the wing's prefix."""
    found = [node for node in tree(wing, room).body if isinstance(node, ast.ClassDef) and node.name[0] != "_"]
    return {node.name.removeprefix(PREFIXES[wing]): node for node in found}


def methods(wing: str) -> Methods:
    """(room, class, method) -> argument names, less the wing's own; the running method counts as `forward`."""
    found = {}
    for room in ROOMS:
        for name, node in classes(wing, room).items():
            for function in node.body:
                if isinstance(function, ast.FunctionDef) and function.name in COMPARED:
                    found[room, name, FORWARD.get(function.name, function.name)] = arguments(function, wing)
    return found


def arguments(function: ast.FunctionDef, wing: str) -> list[str]:
    given = function.args
    names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return [name for name in names if name not in ONLY_IN.get(wing, set())]


def differences(first: Methods, own: Methods, wing: str) -> list[str]:
    """What keeps a wing's methods from being those of the first, in words."""
    found = []
    for (room, name, method), wanted in first.items():
        if name in CLASSES_OF_ONE_WING["pytorch"] or name in CLASSES_NOT_IN.get(wing, set()):
            continue
        expected = [argument for argument in wanted if argument not in NOT_IN.get(wing, set())]
        got = own.get((room, name, method))
        if got is None:
            found.append(f"{wing}/{room}.py: {name}.{method} is missing")
        elif got != expected:
            found.append(f"{wing}/{room}.py: {name}.{method} takes {got}, not {expected}")
    return found


def public_names(wing: str) -> set[str]:
    """The names a wing exports, without its prefix."""
    for node in tree(wing, "__init__").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return {name.removeprefix(PREFIXES[wing]) for name in ast.literal_eval(node.value)}
    raise AssertionError(f"{wing} has no __all__")


def test_the_first_wing_is_there() -> None:
    assert WINGS[0] == "pytorch"


@pytest.mark.parametrize("wing", WINGS)
def test_the_same_files(wing: str) -> None:
    assert sorted(path.stem for path in (HOUSE / wing).glob("*.py")) == ROOMS


@pytest.mark.parametrize("wing", WINGS)
def test_the_same_public_names(wing: str) -> None:
    expected = {*FAMILY_CLASSES, *CLASSES_OF_ONE_WING[wing]} - CLASSES_NOT_IN.get(wing, set())
    assert public_names(wing) == expected


@pytest.mark.parametrize("wing", WINGS)
def test_every_family_room_holds_its_classes_under_the_wings_prefix(wing: str) -> None:
    for room, family in (("blenderbot_small", "BlenderbotSmall"), ("pegasus", "Pegasus")):
        names = [node.name for node in tree(wing, room).body if isinstance(node, ast.ClassDef)]
        assert all(name.startswith(f"{PREFIXES[wing]}{family}") for name in names)
        expected = {name for name in FAMILY_CLASSES if name.startswith(family)} - CLASSES_NOT_IN.get(wing, set())
        assert {name.removeprefix(PREFIXES[wing]) for name in names} == expected


@pytest.mark.parametrize("wing", WINGS)
def test_both_families_are_the_same_code(wing: str) -> None:
    """A family's room differs from the other's in its name only: nothing is copied, nothing is special."""
    texts = []
    for room, family in (("blenderbot_small", "BlenderbotSmall"), ("pegasus", "Pegasus")):
        module = tree(wing, room)
        names = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
        shapes = []
        for name, node in sorted(names.items()):
            bare = ast.unparse(ast.ClassDef(node.name, node.bases, node.keywords, node.body[1:], [], type_params=[]))
            assert isinstance(node.body[0], ast.Expr), f"{name} has no docstring"
            shapes.append(re.sub(family, "Family", bare))
        texts.append(shapes)
    assert texts[0] == texts[1]


def test_the_same_methods_and_argument_names() -> None:
    first = methods("pytorch")
    assert len(first) > 20
    assert [line for wing in WINGS[1:] for line in differences(first, methods(wing), wing)] == []


def test_a_lost_method_or_argument_would_be_found() -> None:
    first = methods("pytorch")
    key = ("heads", "ConditionalGenerationModel", "forward")
    shorter = {**first, key: [name for name in first[key] if name not in ("labels", "cache_position")]}
    assert differences(first, first, "pytorch") == []
    assert len(differences(first, shorter, "pytorch")) == 1
    (said,) = differences({key: first[key]}, shorter, "tensorflow")
    assert "tensorflow/heads.py: ConditionalGenerationModel.forward takes" in said
    assert differences({key: first[key]}, {}, "flax") == [
        "flax/heads.py: ConditionalGenerationModel.forward is missing"
    ]


@pytest.mark.parametrize("wing", WINGS)
def test_the_documented_arguments_of_the_forward_pass(wing: str) -> None:
    """Compared with the documentation's own order, so that the first wing has something to be held to as well."""
    found = methods(wing)
    masks = ["head_mask", "decoder_head_mask", "cross_attn_head_mask"]
    ends = ["use_cache", "output_attentions", "output_hidden_states", "return_dict", "cache_position"]
    decoder = ["decoder_input_ids", "decoder_attention_mask"]
    base = ["self", "input_ids", "attention_mask", *decoder, *masks, "encoder_outputs", "past_key_values"]
    base += ["inputs_embeds", "decoder_inputs_embeds"]
    causal = ["self", "input_ids", "attention_mask", "encoder_hidden_states", "encoder_attention_mask", "head_mask"]
    causal += ["cross_attn_head_mask", "past_key_values", "inputs_embeds", "labels"]
    documented = {
        "Seq2SeqModel": [*base, *ends],
        "ConditionalGenerationModel": [*base, "labels", *ends],
        "CausalModel": [*causal, *ends],
    }
    for name in classes(wing, "heads").keys() & documented.keys():
        expected = [argument for argument in documented[name] if argument not in NOT_IN.get(wing, set())]
        assert found["heads", name, "forward"] == expected, name
    assert {"Seq2SeqModel", "ConditionalGenerationModel"} <= classes(wing, "heads").keys()


def test_core_imports_no_framework() -> None:
    frameworks = {"torch", "tensorflow", "keras", "jax", "flax", "transformers"}
    for path in sorted((HOUSE / "core").glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in PREFIXES, f"{path.name} imports a wing"
            assert not frameworks & {name.split(".")[0] for name in names}, path.name


def test_no_wing_imports_another() -> None:
    for wing in WINGS:
        others = set(PREFIXES) - {wing}
        for path in sorted((HOUSE / wing).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.level == 2:
                    assert (node.module or "").split(".")[0] not in others, f"{path} imports another wing"


def test_no_room_is_a_lumber_room() -> None:
    names = {path.name for path in HOUSE.rglob("*.py")}
    assert not {"utils.py", "common.py", "helpers.py"} & names
