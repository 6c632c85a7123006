"""Exported folders run without this library, each in its own runtime, and give the ids that this library gives."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import seq2seq_models
from seq2seq_models import cli
from seq2seq_models.bundled import demo_checkpoint
from seq2seq_models.core.generation.served import settled
from seq2seq_models.errors import CheckpointError, GenerationError, MissingFrameworkError
from seq2seq_models.export import FORMS, export_checkpoint

FAMILIES = {"pegasus-demo": "Pegasus", "blenderbot-small-demo": "BlenderbotSmall"}
SIZES = [(1, 1), (2, 7), (3, 20)]
"""Rows and lengths of the batches; the first row of each is padded to twice its length."""
TEXTS = {
    "pegasus-demo": [
        "Firefighters in Lisbon fought a fire at a bakery on Monday. Three people were taken to hospital.",
        "Porto beat Madrid 2-1 on Friday. Silva scored the first goal. The stadium was full.",
        "Firefighters in Porto fought a fire at a school on Friday. The cause is not known.",
    ],
    "blenderbot-small-demo": [
        "hi , i am anna .",
        "do you like music ?",
        "do you remember my name ? i had a long day .",
    ],
}
PLAIN = {"num_beams": 1, "no_repeat_ngram_size": 0}
"""What makes our `generate` the loop of generate.py."""
RULES = {
    "max_length": 14, "min_length": 6, "repetition_penalty": 1.3, "encoder_no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 1.2, "suppress_tokens": [802, 803], "begin_suppress_tokens": [869],
    "forced_bos_token_id": 5,
}  # fmt: skip
SAVED = {"num_beams": 2, "max_length": 16, "min_length": 8, "no_repeat_ngram_size": 2}

RUN = """
import json
import sys
from pathlib import Path

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("seq2seq_models", "transformers"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
sys.path.insert(0, sys.argv[1])
import numpy as np
import generate
import runtime

folder, given, has_steps = Path(sys.argv[1]), np.load(sys.argv[2]), sys.argv[4] == "steps"
names = ("generate", "encode", "decode_step") if has_steps else ("generate",)
functions, found = {name: runtime.load(folder, name) for name in names}, {}
for size in json.loads(sys.argv[5]):
    source = {name: given[f"{name}-{size}"] for name in ("input_ids", "attention_mask")}
    found[f"sequences-{size}"] = functions["generate"](**source)["sequences"]
    if has_steps:
        found[f"greedy-{size}"] = generate.greedy(functions["encode"], functions["decode_step"], **source)
        encoded, target = functions["encode"](**source), given[f"target-{size}"]
        layers, rows, heads, _, width = encoded["cross_keys"].shape
        keys = values = np.zeros((layers, rows, heads, 9, width), np.float32)
        at, logits = 0, []
        cross = {name: encoded[name] for name in ("cross_keys", "cross_values")}
        for count in (1, 3, 2):  # several tokens at once, too
            step = functions["decode_step"](
                decoder_input_ids=target[:, at : at + count], start=np.array(at, np.int32), cache_keys=keys,
                cache_values=values, attention_mask=source["attention_mask"], **cross,
            )
            keys, values, at = step["cache_keys"], step["cache_values"], at + count
            logits.append(step["logits"])
        found[f"logits-{size}"] = np.concatenate(logits, 1)
np.savez(sys.argv[3], **found)
"""


@cache
def model(name: str) -> Any:
    return getattr(seq2seq_models, f"{FAMILIES[name]}ForConditionalGeneration").from_pretrained(demo_checkpoint(name))


@cache
def batch(size: tuple[int, int] | str) -> dict[str, Any]:
    """Token ids int32 [rows, length], the first row half padding, their mask, and some decoder tokens.

    Or, for a checkpoint's name, those of its texts.
    """
    if isinstance(size, str):
        given = seq2seq_models.AutoTokenizer.from_pretrained(demo_checkpoint(size))(TEXTS[size], padding=True)
        return {name: np.array(given[name], np.int32) for name in ("input_ids", "attention_mask")}
    rows, length = size
    random = np.random.default_rng(rows)
    ids, mask = (one.astype(np.int32) for one in (random.integers(5, 1000, (rows, length)), np.ones((rows, length))))
    ids[0, (length + 1) // 2 :] = mask[0, (length + 1) // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask, "target": random.integers(5, 1000, (rows, 6)).astype(np.int32)}


def ours(name: str, size: tuple[int, int] | str, **options: Any) -> Any:
    """What this library generates for a batch."""
    given = batch(size)
    ids, mask = (torch.from_numpy(given[key]) for key in ("input_ids", "attention_mask"))
    return model(name).generate(ids, attention_mask=mask, **options).numpy()


def alone(code: str, *arguments: str) -> str:
    """What code prints in a process that sees no folder of this project."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", code, *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run(folder: Path, scratch: Path, sizes: Sequence[tuple[int, int] | str] = SIZES, steps: bool = True) -> Any:
    """What the folder's own programs give for every batch, by name."""
    given = {f"{name}-{i}": value for i, size in enumerate(sizes) for name, value in batch(size).items()}
    np.savez(scratch / "in.npz", **given)
    alone(
        RUN, str(folder), str(scratch / "in.npz"), str(scratch / "out.npz"), "steps" if steps else "whole",
        json.dumps(list(range(len(sizes)))),
    )  # fmt: skip
    return dict(np.load(scratch / "out.npz"))


def check_ids(found: Any, expected: Any, pad: int = 0) -> None:
    """The same ids, and padding after them."""
    width = expected.shape[1]
    assert found.dtype == np.int32
    assert found[:, :width].tolist() == expected.tolist()
    assert (found[:, width:] == pad).all()


def check(name: str, folder: Path, scratch: Path, **options: Any) -> None:
    """Everything in an exported folder is what this library computes."""
    found = run(folder, scratch)
    for index, size in enumerate(SIZES):
        check_ids(found[f"sequences-{index}"], ours(name, size, **options))
        check_ids(found[f"greedy-{index}"], ours(name, size, **{**options, **PLAIN}))
        given = batch(size)
        ids, mask, target = (torch.from_numpy(given[key]) for key in ("input_ids", "attention_mask", "target"))
        with torch.inference_mode():
            logits = model(name)(ids, attention_mask=mask, decoder_input_ids=target).logits
        np.testing.assert_allclose(found[f"logits-{index}"], logits.numpy(), rtol=3e-5, atol=3e-5)


# ---- each format


@pytest.fixture(scope="module")
def traces() -> dict[str, Any]:
    """What was traced so far, by the class of the model."""
    return {}


@pytest.fixture
def traced_once(traces: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both formats of PyTorch are written from the same traces, which take most of the time."""
    from seq2seq_models.pytorch import serving

    trace = serving.functions

    def functions(model: Any) -> Any:
        name = type(model).__name__
        if name not in traces:
            traces[name] = trace(model)
        return traces[name]

    monkeypatch.setattr(serving, "functions", functions)


@pytest.mark.heavy
@pytest.mark.parametrize("form", ["torch", "onnx"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_pytorch_export_runs_alone(name: str, form: str, tmp_path: Path, traced_once: None) -> None:
    export_checkpoint(demo_checkpoint(name), tmp_path / "out", form)
    check(name, tmp_path / "out", tmp_path)
    assert not any(b"site-packages" in path.read_bytes() for path in (tmp_path / "out").iterdir())


@pytest.mark.heavy
def test_a_trace_of_large_weights_holds_for_any_number_of_rows() -> None:
    """Outside of graphs, products of 64 rows and more with weights as large as these take another way."""
    from seq2seq_models.pytorch import linear, serving

    sizes = {"d_model": 512, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 600, "num_beams": 1}
    large = seq2seq_models.PegasusForConditionalGeneration(seq2seq_models.PegasusConfig(**sizes)).eval()
    assert large.model.encoder.layers[0].fc1.weight.numel() >= linear.ELEMENTS
    programs = serving.functions(large, max_length=4)
    for rows in (1, 2 * linear.ROWS):
        ids = torch.arange(2, 2 + rows * 2, dtype=torch.int32).reshape(rows, 2)
        found = programs["generate"].module()(ids, torch.ones_like(ids))["sequences"]
        assert found.tolist() == large.generate(ids, max_length=4, attention_mask=torch.ones_like(ids)).tolist()


@pytest.mark.heavy
@pytest.mark.parametrize("name", FAMILIES)
def test_a_jax_export_runs_alone(name: str, tmp_path: Path) -> None:
    export_checkpoint(demo_checkpoint(name), tmp_path / "out", "jax")
    check(name, tmp_path / "out", tmp_path)


@pytest.mark.heavy
def test_a_saved_model_runs_alone_with_options_in_it(tmp_path: Path) -> None:
    """Two rows at once, which three inputs do not fill; tests/test_tensorflow_models.py has both families."""
    name = "blenderbot-small-demo"
    export_checkpoint(
        demo_checkpoint(name), tmp_path / "out", "savedmodel", batch_size=2, source_length=24, options=SAVED
    )
    check(name, tmp_path / "out", tmp_path, **SAVED)


def words(rows: Any, end: int) -> list[list[int]]:
    """Rows up to their end: our beams of Pegasus have end tokens after it, as transformers', CTranslate2 padding."""
    return [row[: row.index(end) + 1] if end in row else row for row in rows.tolist()]


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 4}, {}], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_ctranslate2_gives_the_same_ids(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Greedily for any ids; beams for texts: it stops them by a rule of its own, which shows in improbable ones."""
    export_checkpoint(demo_checkpoint(name), tmp_path / "out", "ctranslate2", options=options)
    sizes = SIZES if options == {"num_beams": 1} else [name]
    found, end = run(tmp_path / "out", tmp_path, sizes, steps=False), model(name).config.eos_token_id
    for index, size in enumerate(sizes):
        assert words(found[f"sequences-{index}"], end) == words(ours(name, size, **options), end)


# ---- the folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that takes moments."""
    target = tmp_path_factory.mktemp("export") / "out"
    export_checkpoint(demo_checkpoint("pegasus-demo"), target, "ctranslate2", options={"num_beams": 2})
    return target


def test_the_folder_says_how_it_is_run(folder: Path) -> None:
    files = {path.name for path in folder.iterdir()}
    assert {
        "README.md",
        "config.json",
        "generation_config.json",
        "generate.py",
        "runtime.py",
        "tokenizer.json",
    } <= files
    assert json.loads((folder / "generation_config.json").read_text())["num_beams"] == 2
    page = (folder / "README.md").read_text()
    assert "--to ctranslate2" in page and "{" not in page


def test_generate_py_takes_texts_and_ids(folder: Path) -> None:
    text = "Porto beat Madrid 2-1 on Friday. Silva scored the first goal. The stadium was full."
    tokenizer = seq2seq_models.AutoTokenizer.from_pretrained(demo_checkpoint("pegasus-demo"))
    call = "import sys, runpy; sys.path.insert(0, sys.argv[1]); path = sys.argv.pop(1) + '/generate.py'; "
    call += "runpy.run_path(path, run_name='__main__')"
    assert alone(call, str(folder), text) == "Porto beat Madrid 2-1, Silva scores\n"
    printed = alone(call, str(folder), "--ids", *map(str, tokenizer(text).input_ids))
    expected = tokenizer(text_target="Porto beat Madrid 2-1, Silva scores").input_ids
    assert list(map(int, printed.split()))[1 : len(expected) + 1] == expected


@pytest.mark.parametrize("form", FORMS)
def test_every_page_names_what_it_needs(form: str) -> None:
    from seq2seq_models.export import _readme

    page = _readme(form, {"batch_size": 3, "source_length": 40})
    assert re.search(r"\{[a-z_]*\}", page) is None and FORMS[form].runs_on.split()[0] in page
    assert ("3 x 40" in page) == (form == "savedmodel")


# ---- refusals


def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path) -> None:
    with pytest.raises(GenerationError, match="num_beans"):
        export_checkpoint(demo_checkpoint("pegasus-demo"), tmp_path / "out", "ctranslate2", options={"num_beans": 2})
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_refused_and_so_is_an_unknown_format(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"`folder` must be new or empty.*`to` must be one of onnx, torch"):
        export_checkpoint(demo_checkpoint("pegasus-demo"), tmp_path, "tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.parametrize("option", [{"do_sample": True}, {"max_time": 1.0}, {"stop_strings": ["."]}])
def test_what_nothing_compiled_can_do_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(GenerationError, match=next(iter(option))):
        settled(model("pegasus-demo").generation_config, option)


def test_rules_that_pytorch_cannot_trace_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        GenerationError, match=r"`bad_words_ids` must be unset in an export of PyTorch.*jax or savedmodel"
    ):
        export_checkpoint(
            demo_checkpoint("pegasus-demo"), tmp_path / "out", "torch", options={"bad_words_ids": [[5, 6]]}
        )


@pytest.mark.heavy
def test_every_other_rule_is_in_the_program() -> None:
    """Also those over the source, whose length is not known when they are traced."""
    from seq2seq_models.flax.serving import functions as in_jax
    from seq2seq_models.pytorch.serving import functions as in_pytorch

    name, options = "pegasus-demo", {**PLAIN, **RULES}
    theirs = seq2seq_models.FlaxPegasusForConditionalGeneration.from_pretrained(demo_checkpoint(name))
    traced, lowered = in_pytorch(model(name), **options)["generate"].module(), in_jax(theirs, **options)["generate"]
    weights = {".".join(map(str, path)): leaf for path, leaf in _leaves(theirs.params)}
    for size in SIZES:
        given = [batch(size)[key] for key in ("input_ids", "attention_mask")]
        expected = ours(name, size, **options)
        check_ids(traced(*map(torch.from_numpy, given))["sequences"].numpy(), expected)
        check_ids(np.asarray(lowered.call(weights, *given)["sequences"]), expected)


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> Any:
    for name, branch in tree.items():
        yield from _leaves(branch, (*path, name)) if isinstance(branch, dict) else [((*path, name), branch)]


@pytest.mark.parametrize(("package", "form"), [("onnxscript", "onnx"), ("ctranslate2", "ctranslate2")])
def test_a_missing_package_is_named(package: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seq2seq_models.pytorch import serving

    monkeypatch.setattr(serving, "functions", lambda model, **options: {})
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.specs", None)
    with pytest.raises(MissingFrameworkError, match=rf"{package}.*pip install 'seq2seq-models\[export\]'"):
        export_checkpoint(demo_checkpoint("pegasus-demo"), tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "pegasus-demo", str(tmp_path / "out"), "--to", "ctranslate2"]
    assert cli.main([*words, "--options", "[4]"]) == 2
    assert "`--options` must be a JSON object" in capsys.readouterr().err
    assert cli.main([*words, "--options", '{"num_beams": 4}']) == 0
    assert "README.md says how to run them" in capsys.readouterr().out
    assert cli.main(words) == 2 and "must be new or empty" in capsys.readouterr().err
