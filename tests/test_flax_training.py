"""Training in JAX: dropout, checkpointing, precision, donated state, many devices, strict modes, and export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import seq2seq_models

from .tiny import FAMILIES, settings
from .tiny_flax import CAUSAL, FULL, near

SOURCE = Path(seq2seq_models.__file__).parent.parent


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def made(family: str, head: str = FULL, dtype: Any = jnp.float32, **overrides: Any) -> Any:
    config = getattr(seq2seq_models, f"{family}Config")(**settings(family, **overrides))
    return getattr(seq2seq_models, f"Flax{family}{head}")(config, dtype=dtype)


def batch(rows: int = 4) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    mask = np.ones((rows, 9), np.int32)
    mask[1, 5:] = 0
    return {
        "input_ids": jnp.asarray(rng.integers(3, 83, (rows, 9)), jnp.int32),
        "attention_mask": jnp.asarray(mask),
        "decoder_input_ids": jnp.asarray(rng.integers(3, 83, (rows, 6)), jnp.int32),
        "labels": jnp.asarray(rng.integers(3, 83, (rows, 6)), jnp.int32),
    }


def loss_of(model: Any) -> Any:
    def loss(params: Any, batch: dict[str, jax.Array], rng: Any = None) -> jax.Array:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        logits = model(**inputs, params=params, train=rng is not None, dropout_rng=rng).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()

    return loss


NOISY = {"dropout": 0.3, "attention_dropout": 0.2, "activation_dropout": 0.2}


def test_dropout_follows_its_key(family):
    model, inputs = made(family, **NOISY), batch()
    loss = jax.jit(loss_of(model))
    one, other = jax.random.key(1), jax.random.key(2)
    quiet = loss(model.params, inputs)
    assert loss(model.params, inputs, one) == loss(model.params, inputs, one)
    assert len({float(loss(model.params, inputs, key)) for key in (one, other)} | {float(quiet)}) == 3


@pytest.mark.heavy
@pytest.mark.parametrize("which", ["dropout", "attention_dropout", "activation_dropout"])
def test_every_dropout_is_applied(family, which):
    rates = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, which: 0.5}
    model, inputs = made(family, init_std=1.0, **rates), batch()
    source = inputs["input_ids"]
    quiet = model.encode(source, return_dict=True)[0]
    noisy = model.encode(source, train=True, dropout_rng=jax.random.PRNGKey(0))[0]
    assert float(jnp.abs(noisy - quiet).max()) > 1e-3
    decoded = [
        model.decode(inputs["decoder_input_ids"], (quiet,), deterministic=still, dropout_rng=jax.random.key(3)).logits
        for still in (True, False)
    ]
    assert float(jnp.abs(decoded[0] - decoded[1]).max()) > 1e-4


def test_dropout_keeps_the_mean():
    import flax.linen as nn

    from seq2seq_models.flax.attention import drop

    class Dropper(nn.Module):
        rate: float

        def __call__(self, values: jax.Array) -> jax.Array:
            return drop(self, values, self.rate, False)

    ones = jnp.ones((200, 200))
    for rate in (0.1, 0.5):
        out = Dropper(rate).apply({}, ones, rngs={"dropout": jax.random.key(0)})
        assert abs(float(out.mean()) - 1) < 0.02 and abs(float((out == 0).mean()) - rate) < 0.01
    assert not Dropper(1.0).apply({}, ones, rngs={"dropout": jax.random.key(0)}).any()


def test_layerdrop_one_skips_every_layer(family):
    none = made(family, dropout=0.0)
    model = made(family, dropout=0.0, encoder_layerdrop=1.0, decoder_layerdrop=1.0)
    inputs = {name: value for name, value in batch().items() if name != "labels"}
    out = model(**inputs, params=none.params, train=True, dropout_rng=jax.random.key(0), output_hidden_states=True)
    for states in (out.encoder_hidden_states, out.decoder_hidden_states):
        for state in states[1:-1]:
            near(state, states[0])
    near(model(**inputs, params=none.params).logits, none(**inputs).logits)


@pytest.mark.heavy
@pytest.mark.parametrize("head", [FULL, CAUSAL])
def test_checkpointing_changes_nothing_but_memory(family, head):
    model, inputs = made(family, head, **NOISY), batch()

    def loss(params: Any, model: Any) -> Any:
        target = inputs["decoder_input_ids"]
        source = (target,) if head == CAUSAL else (inputs["input_ids"], inputs["attention_mask"], target)
        return jnp.square(model(*source, params=params, train=True, dropout_rng=jax.random.key(5)).logits).mean()

    plain = jax.make_jaxpr(jax.grad(lambda params: loss(params, model)))(model.params)
    kept = jax.jit(jax.value_and_grad(lambda params: loss(params, model)))(model.params)
    model.enable_gradient_checkpointing()
    again = jax.jit(jax.value_and_grad(lambda params: loss(params, model)))(model.params)
    near(again[0], kept[0])
    jax.tree.map(near, again[1], kept[1])
    recomputing = jax.make_jaxpr(jax.grad(lambda params: loss(params, model)))(model.params)
    # The activation alone is computed again in any case; here whole layers are.
    layers = model.config.decoder_layers + (model.config.encoder_layers if head == FULL else 0)
    assert str(recomputing).count("remat") >= str(plain).count("remat") + layers


@pytest.mark.heavy
def test_a_jitted_step_in_bfloat16_with_float32_parameters_and_donated_state(family):
    model, inputs = made(family, dtype=jnp.bfloat16, **NOISY), batch()
    optimizer, loss = optax.adamw(3e-3), loss_of(model)

    def step(state: Any, batch: Any, key: Any) -> Any:
        params, moments = state
        value, gradient = jax.value_and_grad(loss)(params, batch, key)
        updates, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    compiled = jax.jit(step, donate_argnums=0)
    state = (model.params, optimizer.init(model.params))
    first = jax.tree.leaves(state[0])
    losses = []
    for index in range(30):
        state, value = compiled(state, inputs, jax.random.key(index))
        losses.append(float(value))
    assert first[0].is_deleted()
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state[0])} == {"float32"}
    assert losses[-1] < 0.7 * losses[0]
    assert compiled._cache_size() == 1
    assert not state[0]["final_logits_bias"].any()


ON_FOUR_DEVICES = """
import json, sys
from contextlib import nullcontext
from functools import partial
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import seq2seq_models
from seq2seq_models.flax import loss as room
from seq2seq_models.flax.sharding import shardings

room.ELEMENTS = 84 * 12  # 12 of the 48 rows of logits at once, on each device of a mesh that is set
family, sizes = sys.argv[1], json.loads(sys.argv[2])
config = getattr(seq2seq_models, family + "Config")(**sizes)
model = getattr(seq2seq_models, "Flax" + family + "ForConditionalGeneration")(config, seed=1)
rng = np.random.default_rng(0)
batch = {name: jnp.asarray(rng.integers(3, 83, (8, n)), jnp.int32)
         for name, n in (("input_ids", 9), ("decoder_input_ids", 6), ("labels", 6))}
optimizer = optax.adam(1e-2)

def of_logits(params, batch):
    logits = model(batch["input_ids"], decoder_input_ids=batch["decoder_input_ids"], params=params).logits
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()

def loss(params, batch):
    return model.cross_entropy(**batch, params=params)

def step(params, moments, batch, loss):
    value, gradient = jax.value_and_grad(loss)(params, batch)
    updates, moments = optimizer.update(gradient, moments)
    return optax.apply_updates(params, updates), moments, value, gradient

def run(mesh, loss=loss):
    params, data, one = jax.tree.map(jnp.array, model.params), batch, jax.jit(partial(step, loss=loss))
    if mesh is not None:
        params = jax.device_put(params, shardings(params, mesh))
        rows = PartitionSpec("data") if "data" in mesh.axis_names else PartitionSpec()
        data = jax.device_put(batch, NamedSharding(mesh, rows))
    moments, values = jax.jit(optimizer.init)(params), []
    for _ in range(2):
        params, moments, value, gradient = one(params, moments, data)
        values.append(float(value))
    return params, values, gradient

alone = run(None, of_logits)
found = {"devices": jax.device_count()}
for name, shape, axes in (("data", (4,), ("data",)), ("model", (4,), ("model",)), ("both", (2, 2), ("data", "model"))):
    mesh = Mesh(np.array(jax.devices()).reshape(shape), axes)
    with jax.set_mesh(mesh) if name == "both" else nullcontext():
        many = run(mesh)
    kernel = many[0]["model"]["encoder"]["layers"]["0"]["fc1"]["kernel"]
    differences = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), many[2], alone[2])
    found[name] = [max(map(abs, np.subtract(many[1], alone[1]))), max(jax.tree.leaves(differences)),
                   kernel.addressable_shards[0].data.shape[1]]
print(json.dumps(found))
"""


def in_a_process(code: str, *arguments: str, **environment: str) -> str:
    settings = {**os.environ, "PYTHONPATH": str(SOURCE), "JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.heavy
def test_four_devices_train_as_one(family):
    """Data parallel, tensor parallel and both: the losses of two steps and the last gradients."""
    sizes = settings(family, vocab_size=84, encoder_layers=1, decoder_layers=1, dropout=0.0)
    said = in_a_process(
        ON_FOUR_DEVICES, family, json.dumps(sizes), XLA_FLAGS="--xla_force_host_platform_device_count=4"
    )
    found = json.loads(said.splitlines()[-1])
    assert found.pop("devices") == 4
    for name, (loss, gradient, width) in found.items():
        assert loss < 1e-5 and gradient < 1e-5, (name, loss, gradient)
        assert width == {"data": 40, "model": 10, "both": 20}[name]


STRICT = """
import sys
import jax, jax.numpy as jnp, numpy as np
import seq2seq_models
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_nans", True)
sys.path.insert(0, sys.argv[1])
sizes = dict(vocab_size=83, d_model=24, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4,
             decoder_attention_heads=6, encoder_ffn_dim=40, decoder_ffn_dim=56, max_position_embeddings=37)
ids, mask = np.array([[5, 6, 7, 0], [9, 0, 0, 0]]), np.array([[1, 1, 1, 0], [0, 0, 0, 0]])
key = jax.random.key(0)
for family in ("Pegasus", "BlenderbotSmall"):
    config = getattr(seq2seq_models, family + "Config")(**sizes, attention_dropout=0.1, activation_dropout=0.1,
                                                        encoder_layerdrop=0.1, decoder_layerdrop=0.1)
    for dtype, cast in ((jnp.float32, False), (jnp.bfloat16, True), (jnp.float16, False)):
        model = getattr(seq2seq_models, "Flax" + family + "ForConditionalGeneration")(config, dtype=dtype)
        params = model.to_bf16(model.params) if cast else model.params
        @jax.jit
        def loss(params):
            logits = model(ids, mask, params=params, train=True, dropout_rng=key).logits
            return jnp.square(logits).mean()
        jax.block_until_ready(jax.grad(loss)(params))
        encoded = model.encode(ids, mask, params=params)
        cache = model.init_cache(2, 6, encoded)
        out = model.decode(ids[:, :2], encoded, mask, past_key_values=cache, params=params)
        model.decode(ids[:, 2:3], encoded, mask, past_key_values=out.past_key_values, params=params)
        causal = getattr(seq2seq_models, "Flax" + family + "ForCausalLM")(config, dtype=dtype)
        assert jnp.isfinite(causal(ids, mask).logits).all()
print("clean")
"""


@pytest.mark.heavy
def test_strict_promotion_and_debug_nans_pass():
    """In a process of its own: nothing is enabled for others. One source row is masked throughout."""
    assert in_a_process(STRICT, str(SOURCE)).split()[-1] == "clean"


EXPORTED = """
import importlib.abc, json, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("flax", "seq2seq_models", "torch", "tensorflow"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
import jax, jax.export, numpy as np
from pathlib import Path

folder = Path(sys.argv[1])
held = np.load(folder / "inputs.npz")
leaves = [held[name] for name in sorted(n for n in held if n.startswith("p"))]
encode, step = (jax.export.deserialize(bytearray((folder / name).read_bytes())) for name in ("encode", "step"))
states, cross = encode.call(leaves, held["ids"], held["mask"])
logits, cache = step.call(leaves, held["tokens"], np.int32(0), [held["k"]] * 2, cross, held["mask"])
logits, cache = step.call(leaves, held["tokens"], np.int32(1), cache, cross, held["mask"])
np.savez(folder / "outputs.npz", states=states, logits=logits)
"""


@pytest.mark.heavy
def test_encoder_and_step_run_exported_without_flax(family, tmp_path):
    """Exported for any number of rows and source tokens, saved, and called where flax cannot be imported."""
    from jax import export

    from seq2seq_models.flax.attention import causal_mask, padding_mask

    model = made(family, decoder_layers=1)
    module, dtype = model.module, jnp.float32
    leaves, tree = jax.tree.flatten(model.params)

    def encode(leaves: Any, ids: jax.Array, mask: jax.Array) -> Any:
        variables = {"params": jax.tree.unflatten(tree, leaves)}
        states = module.apply(variables, ids, mask, method="encode").last_hidden_state
        return states, [list(entry) for entry in module.apply(variables, states, method="cross_entries")]

    def step(leaves: Any, tokens: Any, start: Any, cache: Any, cross: Any, mask: Any) -> Any:
        variables = {"params": jax.tree.unflatten(tree, leaves)}
        seen = causal_mask(None, start + jnp.arange(1, dtype=jnp.int32), 5, dtype)
        entries = (tuple(cache),), tuple(tuple(entry) for entry in cross)
        hidden, cache, _ = module.apply(
            variables, tokens, start, *entries, seen, padding_mask(mask, dtype), method="step"
        )
        return module.apply(variables, hidden, method="head"), list(cache[0])

    ids, mask = (np.asarray(batch(2)[name]) for name in ("input_ids", "attention_mask"))
    rows, places = export.symbolic_shape("b, s")
    symbolic = [jax.ShapeDtypeStruct((rows, places), jnp.int32)] * 2
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    (tmp_path / "encode").write_bytes(export.export(jax.jit(encode))(shapes, *symbolic).serialize())
    states, cross = encode(leaves, ids, mask)
    tokens, empty = np.array([[5], [7]], np.int32), np.zeros((2, 6, 5, 4), np.float32)
    arguments = (leaves, tokens, np.int32(0), [empty] * 2, cross, mask)
    (tmp_path / "step").write_bytes(export.export(jax.jit(step))(*arguments).serialize())
    held = {f"p{index:04d}": np.asarray(leaf) for index, leaf in enumerate(leaves)}
    np.savez(tmp_path / "inputs.npz", ids=ids, mask=mask, tokens=tokens, k=empty, **held)

    in_a_process(EXPORTED, str(tmp_path))
    found = np.load(tmp_path / "outputs.npz")
    near(found["states"], states)
    near(found["logits"], model(ids, mask, tokens.repeat(2, 1)).logits[:, 1:])
