"""`generate` in Flax: what every compiling framework must do (compiled.py), and what JAX asks for besides."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seq2seq_models
from seq2seq_models.core.generation.programs import Programs
from seq2seq_models.errors import GenerationError, InputError
from seq2seq_models.flax import generation

from . import compiled
from .combinations import source
from .compiled import CONTRAST, GROUPS, STRATEGIES, Collect, numbers, plain, same_ids, stored, thin, twin
from .tiny import FAMILIES

pytestmark = [pytest.mark.reference]


class Flax:
    """See compiled.Side."""

    eager: ClassVar[dict[str, Any]] = {"trace": False}
    keeps_width: ClassVar[bool] = True

    def load(self, folder: str, name: str) -> Any:
        return getattr(seq2seq_models, "Flax" + name).from_pretrained(folder)

    def generate(self, model: Any, inputs: Any = None, **options: Any) -> Any:
        if inputs is not None and "input_ids" not in options:  # its first argument goes by that name here
            options["input_ids"] = inputs
        elif inputs is not None:
            options["inputs"] = inputs
        return model.generate(**options)

    def array(self, x: Any) -> Any:
        return jnp.asarray(x)

    def seeded(self, seed: int) -> dict[str, Any]:
        return {"prng_key": jax.random.PRNGKey(seed)}

    def compiled_loops(self) -> int:
        return generation.PROGRAMS.made["decode"]

    def leaf(self, model: Any) -> Any:
        return jax.tree.leaves(model.params)[0]

    def inside(self, call: Callable[[Any], Any]) -> list[Callable[[Any], Any]]:
        return [jax.jit(call)]

    def no_even(self, ids: Any, scores: Any, length: Any) -> Any:
        return jnp.where((jnp.arange(scores.shape[1]) % 2 == 0)[None], -jnp.inf, scores)

    def encoder_outputs(self, model: Any, inputs: dict[str, Any]) -> Any:
        return model.encode(**inputs)

    def favour(self, model: Any, in_class: bool) -> None:
        decode = type(model).decode

        def favoured(self: Any, *args: Any, **kwargs: Any) -> Any:
            outputs = decode(self, *args, **kwargs)
            outputs.logits = outputs.logits.at[..., compiled.TOKEN].add(8.0)
            return outputs

        if in_class:
            model.__class__ = type("Favouring", (type(model),), {"decode": favoured})
        else:
            model.decode = partial(favoured, model)

    def many_shapes(self) -> Any:
        return nullcontext()


class TestCompilations(compiled.Compilations):
    side = Flax()


class TestSampling(compiled.Sampling):
    side = Flax()


class TestInputs(compiled.Inputs):
    side = Flax()


class TestOutputs(compiled.Outputs):
    side = Flax()


class TestThroughTheModel(compiled.ThroughTheModel):
    side = Flax()


class TestCallbacks(compiled.Callbacks):
    side = Flax()


class TestInside(compiled.Inside):
    side = Flax()


class TestFaults(compiled.Faults):
    side = Flax()


def test_vectors_as_the_source_are_refused():
    model = twin(Flax(), thin("Pegasus"))
    with pytest.raises(InputError, match="`inputs_embeds` must be None"):
        model.generate(inputs_embeds=np.zeros((1, 3, 24), np.float32))


# ---- parameters and keys as arguments


@pytest.mark.parametrize("family", FAMILIES)
def test_other_parameters_are_an_argument(family):
    one, other = (thin(family, seed=seed) for seed in (0, 1))
    mine, theirs = twin(Flax(), one), twin(Flax(), other)
    inputs, options = source(3), {"max_new_tokens": 6}
    for own in ({}, Flax.eager, {"streamer": Collect()}):
        rows = {name: value[:1] for name, value in inputs.items()} if "streamer" in own else inputs
        found = mine.generate(**plain(rows), **options, **own, params=theirs.params).sequences
        compiled.same_ids(Flax(), found, other.generate(**rows, **options))
    bare, params = type(mine)(mine.config, _do_init=False), theirs.params
    found = bare.generate(**plain(inputs), **options, params=params).sequences
    compiled.same_ids(Flax(), found, other.generate(**inputs, **options))
    with pytest.raises(InputError, match="_do_init=False"):
        bare.generate(**plain(inputs), **options)


def test_parameters_may_be_what_the_users_function_is_traced_for():
    """The ids are constants there; only the parameters and the key are symbolic."""
    model, inputs = thin("Pegasus"), source(3)
    mine, expected = twin(Flax(), model), model.generate(**inputs, max_new_tokens=6)

    @jax.jit
    def decode(params):
        return mine.generate(**plain(inputs), max_new_tokens=6, params=params).sequences

    compiled.same_ids(Flax(), decode(mine.params), expected)

    def streamed(params):
        return mine.generate(**plain(inputs), max_new_tokens=6, params=params, streamer=Collect()).sequences

    with pytest.raises(GenerationError, match="`streamer` must be unset inside compiled code"):
        jax.jit(streamed)(mine.params)

    def draw(key, **more):
        return mine.generate(**plain(inputs), max_new_tokens=6, do_sample=True, prng_key=key, **more).sequences

    keys = jax.random.PRNGKey(3), jax.random.key(3)
    drawn = [numbers(call(key)).tolist() for key in keys for call in (draw, jax.jit(draw))]
    assert all(one == drawn[0] for one in drawn) and drawn[0] != numbers(draw(jax.random.PRNGKey(4))).tolist()
    with pytest.raises(GenerationError, match="`streamer` must be unset inside compiled code"):
        jax.jit(lambda key: draw(key, streamer=Collect()))(keys[0])


# ---- strict JAX and small dtypes


@pytest.mark.parametrize(
    "strategy",
    ["sampling", *(pytest.param(name, marks=pytest.mark.heavy) for name in (*STRATEGIES, "beam sampling"))],
)
@pytest.mark.parametrize("own", [{}, pytest.param({"trace": False}, marks=pytest.mark.heavy)], ids=["traced", "host"])
def test_strict_promotion_and_debugging_of_nans(strategy, own):
    """Every rule of numbers is on; nothing is promoted silently, and nothing is NaN on the way."""
    model = twin(Flax(), thin("Pegasus"))
    rules = {
        "repetition_penalty": 2,
        "no_repeat_ngram_size": 2,
        "encoder_no_repeat_ngram_size": 3,
        "min_new_tokens": 2,
        "suppress_tokens": [5],
        "bad_words_ids": [[4], [6, 7]],
        "exponential_decay_length_penalty": (2, 1.1),
        "renormalize_logits": True,
    }
    draws = {"do_sample": True, "temperature": 2, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.9}
    draws |= {"epsilon_cutoff": 1e-3, "eta_cutoff": 1e-3}
    options = STRATEGIES.get(strategy, draws) | ({"num_beams": 2} if strategy == "beam sampling" else {})
    given = {**plain(source(3)), **options, **rules, "max_new_tokens": 7, **own}
    expected = numbers(model.generate(**given).sequences)
    jax.clear_caches()
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.debug_nans(True),
    ):
        found = numbers(model.generate(**given).sequences)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("BlenderbotSmall", "bfloat16"),
        pytest.param("Pegasus", "bfloat16", marks=pytest.mark.heavy),
        pytest.param("Pegasus", "float16", marks=pytest.mark.heavy),
    ],
)
def test_small_dtypes_give_plausible_ids(family, dtype):
    whole = twin(Flax(), thin(family))
    small = type(whole)(whole.config, dtype=jnp.dtype(dtype), _do_init=False)
    agree = 0
    for seed in range(6):
        given = {**plain(source(seed)), "max_new_tokens": 4}
        expected = numbers(whole.generate(**given).sequences)[:, 1]
        half = whole.to_bf16(whole.params) if dtype == "bfloat16" else whole.to_fp16(whole.params)
        for params in (whole.params, half):
            agree += (numbers(small.generate(**given, params=params).sequences)[:, 1] == expected).sum()
    assert agree >= 28  # of 36
    out = small.generate(**given, params=whole.params, output_scores=True, return_dict_in_generate=True)
    assert all(step.dtype == jnp.float32 and np.isfinite(step).all() for step in out.scores[:-1])
    for options in ({"num_beams": 3}, CONTRAST, GROUPS) if family == "Pegasus" and dtype == "bfloat16" else ({},):
        masked = {**given, "attention_mask": given["attention_mask"] * 0}
        assert small.generate(**masked, **options, params=whole.params).sequences.shape == (3, 5)


# ---- export


@pytest.mark.parametrize("strategy", ["greedy", pytest.param("beams", marks=pytest.mark.heavy), "sampling"])
def test_the_whole_of_generate_reloads_without_flax(strategy, tmp_path):
    """Exported for fixed shapes, and called in a process that can import neither flax nor this library."""
    from jax import export

    model = twin(Flax(), thin("Pegasus"))
    inputs = plain(source(3))
    options = {**STRATEGIES.get(strategy, {"do_sample": True}), "max_new_tokens": 7}
    leaves, tree = jax.tree.flatten(model.params)

    def decode(leaves, key, ids, mask):
        params = jax.tree.unflatten(tree, leaves)
        found = model.generate(ids, attention_mask=mask, params=params, prng_key=key, **options)
        return found.sequences

    key = np.asarray(jax.random.PRNGKey(5))
    arguments = (leaves, key, inputs["input_ids"], inputs["attention_mask"])
    (tmp_path / "generate.bin").write_bytes(export.export(jax.jit(decode))(*arguments).serialize())
    np.savez(tmp_path / "arguments.npz", *leaves, **{"key": key, "ids": arguments[2], "mask": arguments[3]})
    script = """
import sys
for name in ("flax", "seq2seq_models", "torch", "tensorflow"):
    sys.modules[name] = None
import numpy as np
from jax import export
held = dict(np.load("arguments.npz"))
leaves = [held[f"arr_{index}"] for index in range(sum(name.startswith("arr_") for name in held))]
decode = export.deserialize(open("generate.bin", "rb").read())
print(np.asarray(decode.call(leaves, held["key"], held["ids"], held["mask"])).tolist())
"""
    told = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = numbers(model.generate(**inputs, **options, prng_key=jnp.asarray(key)).sequences)
    assert told.stdout.strip() == str(expected.tolist())


def test_programs_beyond_the_most_make_room(monkeypatch):
    """A process has room for some hundred programs: the one not used for longest is freed."""
    model, options = thin("Pegasus"), {"max_new_tokens": 4}
    freed = []
    programs = Programs(generation.PROGRAMS._make, lambda made: freed.append(made.clear_cache()), most=2)
    monkeypatch.setattr(generation, "PROGRAMS", programs)
    for rows in (1, 2, 1, 3, 1, 2):
        inputs = source(rows, rows=rows)
        found = Flax().generate(twin(Flax(), model), **plain(inputs), **options)
        same_ids(Flax(), found.sequences, model.generate(**inputs, **options))
    assert programs.made == {"decode": 4} and len(programs) == len(freed) == 2


def test_ids_are_the_same_as_xla_compiles_for_users():
    """The other tests ask XLA to optimize little; this process does not."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    script = "from tests.test_flax_generation import optimized; print(optimized())"
    told = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip() == "4"


def optimized() -> int:
    """How many random combinations gave PyTorch's ids, every strategy with them."""
    test, count = compiled.Combinations(), 0
    test.side = Flax()
    for family, seed in zip(FAMILIES, (16, 48), strict=True):
        test.check(seed, family, {})
        count += 1
    for strategy in ("groups", "contrastive"):
        test.check_stored(stored(strategy)[31], {})
        count += 1
    return count
