"""The wings of the house have the same rooms: one folder per framework, the same files, classes and argument names.

Where they differ, `EXCEPTIONS` says so with a reason; nothing else may differ, and an exception that no longer holds is
a fault too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import pytest

import seq2seq_models

HOUSE = Path(seq2seq_models.__file__).parent
PREFIXES = {"pytorch": "", "tensorflow": "TF", "flax": "Flax"}
WINGS = list(PREFIXES)

ROOMS = [
    "__init__",
    "arrays",
    "attention",
    "blenderbot_small",
    "cache",
    "changes",
    "decoder",
    "generation",
    "heads",
    "layers",
    "loss",
    "model",
    "pegasus",
    "serving",
    "transformer",
    "weights",
]
FAMILY_CLASSES = [
    f"{family}{head}"
    for family in ("BlenderbotSmall", "Pegasus")
    for head in ("ForCausalLM", "ForConditionalGeneration", "Model", "PreTrainedModel")
]
RUNS = {"pytorch": "forward", "tensorflow": "call", "flax": "__call__"}
"""One method under three names: what runs the model. The first wing's name stands for all."""


@dataclass(frozen=True)
class Difference:
    """What one wing has, or lacks, that the first wing does not, or has, and why."""

    wing: str
    kind: Literal["room", "public class", "class elsewhere", "argument", "no argument"]
    names: set[str]
    reason: str
    where: str = ""
    """For arguments "Class.method", or several of them; for classes their room."""

    def __hash__(self) -> int:
        return id(self)


ALL_HEADS = "Seq2SeqModel.forward ConditionalGenerationModel.forward CausalModel.forward"
WITH_ENCODER = "Seq2SeqModel.forward ConditionalGenerationModel.forward"
GENERATE = "ConditionalGenerationModel.generate CausalModel.generate"
MADE = "Seq2SeqModel.__init__ ConditionalGenerationModel.__init__ CausalModel.__init__"
LOOP = "its loop runs from Python, over a cache written in place; the other wings compile the loop of core"
BY_KEYWORD = "by keyword, as the documentation has it: generate takes it among **kwargs"
DOCUMENTED = "the documentation of this framework's class"

EXCEPTIONS = [
    Difference("pytorch", "room", {"assisted"}, "drafting is not compiled; PyTorch does it"),
    Difference("pytorch", "room", {"linear"}, "MKL leaves speed unused that XLA and TensorFlow, with oneDNN, do not"),
    Difference("pytorch", "room", {"onnx_files"}, "ONNX is written from PyTorch's exported programs"),
    Difference("pytorch", "room", {"packing"}, "PyTorch lets a loop choose the layout of a weight; XLA chooses itself"),
    Difference("pytorch", "room", {"quantization"}, "products of 8-bit integers on a CPU are PyTorch's alone"),
    Difference("tensorflow", "room", {"linear"}, "Keras' own layers have no weights before they see an input"),
    Difference("tensorflow", "room", {"training"}, "compile, fit and datasets are methods of a Keras model"),
    Difference("flax", "room", {"modules"}, "linen modules are pure; the documented objects in `heads` hold one each"),
    Difference("flax", "room", {"parameters"}, "parameters are held, cast and drawn outside of modules"),
    Difference("flax", "room", {"sharding"}, "where parameters lie on a mesh is said beside a model, not inside"),
    Difference(
        "pytorch",
        "public class",
        {"DynamicCache", "EncoderDecoderCache", "StaticCache"},
        "upstream has cache objects in PyTorch only; TensorFlow documents tuples, Flax the dict of init_cache",
    ),
    Difference("tensorflow", "class elsewhere", {"EagerDecoder", "Source"}, LOOP, "decoder"),
    Difference("flax", "class elsewhere", {"EagerDecoder", "Source"}, LOOP, "decoder"),
    Difference("flax", "class elsewhere", {"DecoderWrapper"}, "parts of modules are in `modules`", "heads"),
    Difference("tensorflow", "argument", {"training"}, DOCUMENTED, ALL_HEADS),
    Difference("tensorflow", "argument", {"decoder_position_ids"}, DOCUMENTED, WITH_ENCODER),
    Difference("tensorflow", "no argument", {"cache_position"}, DOCUMENTED, ALL_HEADS),
    Difference("tensorflow", "argument", {"seed"}, DOCUMENTED, GENERATE),
    Difference(
        "tensorflow",
        "no argument",
        {"stopping_criteria", "prefix_allowed_tokens_fn", "streamer"},
        BY_KEYWORD,
        GENERATE,
    ),
    Difference("tensorflow", "no argument", {"assistant_model"}, "drafting is not compiled; PyTorch does it", GENERATE),
    Difference("flax", "argument", {"train", "params", "dropout_rng", "position_ids"}, DOCUMENTED, ALL_HEADS),
    Difference("flax", "argument", {"decoder_position_ids"}, DOCUMENTED, WITH_ENCODER),
    Difference(
        "flax",
        "no argument",
        {"head_mask", "cross_attn_head_mask", "inputs_embeds", "use_cache", "cache_position"},
        DOCUMENTED,
        ALL_HEADS,
    ),
    Difference(
        "flax",
        "no argument",
        {"decoder_head_mask", "encoder_outputs", "past_key_values", "decoder_inputs_embeds"},
        "the documentation: encoder outputs and caches go to `decode`",
        WITH_ENCODER,
    ),
    Difference(
        "flax",
        "no argument",
        {"labels"},
        "the documentation: losses are functions of parameters, outside the model",
        "ConditionalGenerationModel.forward CausalModel.forward",
    ),
    Difference("flax", "argument", {"input_shape", "seed", "dtype", "_do_init"}, DOCUMENTED, MADE),
    Difference("flax", "argument", {"input_ids", "prng_key", "trace", "params"}, DOCUMENTED, GENERATE),
    Difference(
        "flax",
        "no argument",
        {"inputs", "stopping_criteria", "prefix_allowed_tokens_fn", "streamer"},
        f"{BY_KEYWORD}; the source is called input_ids",
        GENERATE,
    ),
    Difference("flax", "no argument", {"assistant_model"}, "drafting is not compiled; PyTorch does it", GENERATE),
]
"""The honest exceptions, and all of them."""


def _each(methods: str, names: list[str]) -> dict[str, list[str]]:
    return {method: names for method in methods.split()}  # noqa: C420


# Argument names in the documentation's own order, from transformers 4.57.6; CausalLM in TensorFlow and Flax is our own.
_MASKS = ["head_mask", "decoder_head_mask", "cross_attn_head_mask"]
_STATES = ["encoder_outputs", "past_key_values", "inputs_embeds", "decoder_inputs_embeds"]
_WHAT = ["use_cache", "output_attentions", "output_hidden_states", "return_dict"]
_TORCH = ["input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask", *_MASKS, *_STATES]
_KERAS = [*_TORCH[:4], "decoder_position_ids", *_TORCH[4:]]
_CAUSAL = ["input_ids", "attention_mask", "encoder_hidden_states", "encoder_attention_mask", "head_mask"]
_CAUSAL += ["cross_attn_head_mask", "past_key_values", "inputs_embeds", "labels"]
_LINEN = [*_TORCH[:4], "position_ids", "decoder_position_ids", *_WHAT[1:], "train", "params", "dropout_rng"]
_ENCODE = ["input_ids", "attention_mask", "position_ids", *_WHAT[1:], "train", "params", "dropout_rng"]
_DECODE = ["decoder_input_ids", "encoder_outputs", "encoder_attention_mask", "decoder_attention_mask"]
_DECODE += ["decoder_position_ids", "past_key_values", *_WHAT[1:]]
_MODEL = ["config", "input_shape", "seed", "dtype", "_do_init"]
_OPTIONS = ["inputs", "generation_config", "logits_processor"]
ARGUMENTS: dict[str, dict[str, list[str]]] = {
    "pytorch": {
        "Seq2SeqModel.forward": [*_TORCH, *_WHAT, "cache_position"],
        "ConditionalGenerationModel.forward": [*_TORCH, "labels", *_WHAT, "cache_position"],
        "CausalModel.forward": [*_CAUSAL, *_WHAT, "cache_position"],
        **_each(MADE, ["config"]),
        **_each(GENERATE, [*_OPTIONS, "stopping_criteria", "prefix_allowed_tokens_fn", "streamer", "assistant_model"]),
    },
    "tensorflow": {
        "Seq2SeqModel.forward": [*_KERAS, *_WHAT, "training"],
        "ConditionalGenerationModel.forward": [*_KERAS, *_WHAT, "labels", "training"],
        "CausalModel.forward": [*_CAUSAL, *_WHAT, "training"],
        **_each(MADE, ["config"]),
        **_each(GENERATE, [*_OPTIONS, "seed"]),
    },
    "flax": {
        "Seq2SeqModel.forward": _LINEN,
        "ConditionalGenerationModel.forward": _LINEN,
        "CausalModel.forward": [
            *_CAUSAL[:4], "position_ids", *_WHAT[1:], "train", "params", "past_key_values", "dropout_rng",
        ],
        "Seq2SeqModel.encode": _ENCODE,
        "ConditionalGenerationModel.encode": _ENCODE,
        "Seq2SeqModel.decode": [*_DECODE, "train", "params", "dropout_rng"],
        "ConditionalGenerationModel.decode": [*_DECODE, "deterministic", "params", "dropout_rng"],
        **_each(MADE, _MODEL),
        **_each(GENERATE, ["input_ids", "generation_config", "prng_key", "trace", "params", "logits_processor"]),
    },
}  # fmt: skip


@cache
def tree(wing: str, room: str) -> ast.Module:
    return ast.parse((HOUSE / wing / f"{room}.py").read_text(encoding="utf-8"))


def rooms(wing: str) -> list[str]:
    return sorted(path.stem for path in (HOUSE / wing).glob("*.py"))


def classes(wing: str, room: str) -> dict[str, ast.ClassDef]:
    """The public classes of a room, by their name without the wing's prefix."""
    found = [node for node in tree(wing, room).body if isinstance(node, ast.ClassDef) and node.name[0] != "_"]
    return {node.name.removeprefix(PREFIXES[wing]): node for node in found}


@cache
def everywhere(wing: str) -> dict[str, ast.ClassDef]:
    """The public classes of all rooms of a wing."""
    return {name: node for room in rooms(wing) for name, node in classes(wing, room).items()}


def exceptions(wing: str, kind: str, where: str = "", among: Iterable[Difference] = EXCEPTIONS) -> set[str]:
    """The names of a wing's exceptions of a kind, at a place if one is given."""
    found = [one for one in among if (one.wing, one.kind) == (wing, kind) and (not where or where in one.where.split())]
    return {name for one in found for name in one.names}


def arguments(wing: str, method: str) -> list[str] | None:
    """The argument names of "Class.method", its own or its bases' in this wing; None if there is no such method."""
    name, _, called = method.partition(".")
    called = RUNS[wing] if called == "forward" else called
    waiting, seen = [name], set()
    while waiting:
        node = everywhere(wing).get(waiting.pop(0))
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        for function in node.body:
            if isinstance(function, ast.FunctionDef) and function.name == called:
                given = function.args
                return [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)][1:]
        waiting[:0] = [ast.unparse(base).removeprefix(PREFIXES[wing]) for base in node.bases]
    return None


def differences(first: dict[str, list[str]], own: dict[str, list[str]], wing: str) -> list[str]:
    """What keeps a wing's methods from having the first's arguments, exceptions apart, in words."""
    found = []
    for method, wanted in first.items():
        expected = set(wanted) - exceptions(wing, "no argument", method) | exceptions(wing, "argument", method)
        got = own.get(method)
        if got is None:
            found.append(f"{wing}: {method} is missing")
        elif set(got) != expected:
            found.append(f"{wing}: {method} differs in {', '.join(sorted(set(got) ^ expected))}")
    return found


def idle(first: dict[str, list[str]], wing: str, among: Iterable[Difference] = EXCEPTIONS) -> list[str]:
    """Exceptions about arguments that change nothing."""
    found = []
    for one in among:
        if one.wing == wing and one.kind in ("argument", "no argument"):
            for method in one.where.split():
                useless = one.names & set(first[method]) if one.kind == "argument" else one.names - set(first[method])
                found += [f"{wing}: {method} {name}" for name in sorted(useless)]
    return found


def public_names(wing: str) -> set[str]:
    """The names a wing exports, without its prefix."""
    for node in tree(wing, "__init__").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return {name.removeprefix(PREFIXES[wing]) for name in ast.literal_eval(node.value)}
    raise AssertionError(f"{wing} has no __all__")


def test_every_exception_has_a_reason() -> None:
    assert all(len(one.reason) > 20 and one.names and one.wing in WINGS for one in EXCEPTIONS)


@pytest.mark.parametrize("wing", WINGS)
def test_the_same_files(wing: str) -> None:
    assert rooms(wing) == sorted({*ROOMS, *exceptions(wing, "room")})


@pytest.mark.parametrize("wing", WINGS)
def test_the_same_public_names(wing: str) -> None:
    assert public_names(wing) == {*FAMILY_CLASSES, *exceptions(wing, "public class")}


@pytest.mark.parametrize("wing", WINGS[1:])
@pytest.mark.parametrize("room", [room for room in ROOMS if room not in ("arrays", "cache", "generation")])
def test_every_room_holds_the_classes_of_the_first_wing(wing: str, room: str) -> None:
    """But for caches, of which every framework documents its own kind, and array namespaces, which bear its name."""
    missing = classes("pytorch", room).keys() - classes(wing, room).keys()
    assert missing == exceptions(wing, "class elsewhere", room)


@pytest.mark.parametrize("wing", WINGS)
def test_both_directions_of_weights_have_one_name(wing: str) -> None:
    functions = {node.name for node in tree(wing, "weights").body if isinstance(node, ast.FunctionDef)}
    assert {"assign", "extract"} <= functions
    assert "GenerationMixin" in classes(wing, "generation")


@pytest.mark.parametrize("wing", WINGS)
def test_every_wing_exports_the_same_functions(wing: str) -> None:
    found = {node.name for node in tree(wing, "serving").body if isinstance(node, ast.FunctionDef)}
    assert {"functions", "export"} <= found
    served = classes(wing, "serving")["Served"]
    assert {"encode", "decode_step", "generate"} <= {n.name for n in served.body if isinstance(n, ast.FunctionDef)}
    core = ast.parse((HOUSE / "core/generation/arrays.py").read_text())
    protocol, shared = (node for node in core.body if isinstance(node, ast.ClassDef))
    asked, common = ({n.name for n in one.body if isinstance(n, ast.FunctionDef)} for one in (protocol, shared))
    written = [statement for node in classes(wing, "arrays").values() for statement in node.body]
    given = {statement.name for statement in written if isinstance(statement, ast.FunctionDef)}
    given |= {ast.unparse(statement.targets[0]) for statement in written if isinstance(statement, ast.Assign)}
    assert asked <= given | common
    if wing == "pytorch":
        assert common < asked


@pytest.mark.parametrize("wing", WINGS)
def test_every_family_room_holds_its_classes_under_the_wings_prefix(wing: str) -> None:
    for room, family in (("blenderbot_small", "BlenderbotSmall"), ("pegasus", "Pegasus")):
        names = [node.name for node in tree(wing, room).body if isinstance(node, ast.ClassDef)]
        assert all(name.startswith(f"{PREFIXES[wing]}{family}") for name in names)
        expected = {name for name in FAMILY_CLASSES if name.startswith(family)}
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


@pytest.mark.parametrize("wing", WINGS)
def test_the_documented_arguments_in_their_order(wing: str) -> None:
    found = {method: arguments(wing, method) for method in ARGUMENTS[wing]}
    assert found == ARGUMENTS[wing]


def test_the_same_arguments_but_for_the_exceptions() -> None:
    assert [line for wing in WINGS for line in differences(ARGUMENTS["pytorch"], ARGUMENTS[wing], wing)] == []
    assert [line for wing in WINGS for line in idle(ARGUMENTS["pytorch"], wing)] == []


@pytest.mark.parametrize("wing", WINGS[1:])
def test_a_compiled_step_takes_what_the_loops_give_it(wing: str) -> None:
    """What core/generation asks of a model's decoder, whatever else a wing lets it take."""
    asked = [
        "tokens",
        "start",
        "cache",
        "cross",
        "self_mask",
        "memory_mask",
        "positions",
        "need_weights",
        "need_hidden",
    ]
    found = arguments(wing, "Decoder.step")
    assert found is not None and [name for name in found if name in asked] == asked
    assert arguments(wing, "Decoder.cross_entries") == ["memory"]


def test_a_lost_method_or_argument_would_be_found() -> None:
    first, key = ARGUMENTS["pytorch"], "ConditionalGenerationModel.forward"
    shorter = {**first, key: [name for name in first[key] if name not in ("labels", "cache_position")]}
    assert differences(first, first, "pytorch") == []
    assert differences(first, shorter, "pytorch") == [f"pytorch: {key} differs in cache_position, labels"]
    keras = {key: [name for name in ARGUMENTS["tensorflow"][key] if name != "labels"]}
    assert differences({key: first[key]}, keras, "tensorflow") == [f"tensorflow: {key} differs in labels"]
    assert differences({key: first[key]}, {}, "flax") == [f"flax: {key} is missing"]
    needless = [Difference("flax", "no argument", {"wings"}, "none", key)]
    assert idle(first, "flax", needless) == [f"flax: {key} wings"]
    assert arguments("pytorch", "Seq2SeqModel.encode") is None
    assert arguments("flax", "CausalModel.generate") == arguments("flax", "GenerationMixin.generate")


def test_core_imports_no_framework() -> None:
    frameworks = {"torch", "tensorflow", "keras", "jax", "flax", "transformers"}
    files = sorted((HOUSE / "core").rglob("*.py"))
    assert {"core", "generation", "settings", "storage", "tokenizing"} == {path.parent.name for path in files}
    for path in files:
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
