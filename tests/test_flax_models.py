"""The Flax model objects: parameters, casts, loading and saving, wrong inputs, and modules used alone."""

from __future__ import annotations

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from jax.sharding import Mesh, PartitionSpec

import seq2seq_models
from seq2seq_models.errors import CheckpointError, ConfigError, InputError
from seq2seq_models.flax.attention import causal_mask, mask_of, padding_mask
from seq2seq_models.flax.sharding import PARTITION_RULES, partition_specs, shardings
from seq2seq_models.flax.transformer import shift_tokens_right
from seq2seq_models.flax.weights import flatten, slots

from .tiny import FAMILIES, reference, settings
from .tiny_flax import BASE, CAUSAL, FULL, arrays, near, ours_of, trio

pytestmark = pytest.mark.reference
HEADS = (BASE, FULL, CAUSAL)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fresh(family: str, head: str = FULL, **options: Any) -> Any:
    overrides = options.pop("overrides", {})
    config = getattr(seq2seq_models, f"{family}Config")(**settings(family, **overrides))
    return getattr(seq2seq_models, f"Flax{family}{head}")(config, **options)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head", HEADS)
def test_the_tree_is_that_of_the_module_and_of_the_reference(family, head, tied):
    model = fresh(family, head, overrides={"tie_word_embeddings": tied})
    ids = jnp.ones((1, 1), jnp.int32)
    drawn = jax.eval_shape(lambda: model.module.init(jax.random.key(0), ids))["params"]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), drawn) == jax.tree.map(
        lambda x: (x.shape, x.dtype), model.params_shape_tree
    )
    assert jax.tree.structure(model.params) == jax.tree.structure(drawn)
    assert model.required_params == {path for path, _ in flatten(model.params)}
    if head != CAUSAL:
        theirs = getattr(transformers, f"Flax{family}{head}")(
            getattr(transformers, f"{family}Config")(**settings(family, tie_word_embeddings=tied)), _do_init=False
        )
        assert model.required_params == theirs.required_params
        shapes = flax.traverse_util.flatten_dict(theirs.params_shape_tree)
        assert {path: leaf.shape for path, leaf in flatten(model.params)} == {k: v.shape for k, v in shapes.items()}


def test_handles(family):
    model = fresh(family)
    assert (model.framework, model.base_model_prefix, model.main_input_name) == ("flax", "model", "input_ids")
    assert model.dtype == jnp.float32 and model.module.config is model.config
    assert type(model).module_class is type(model.module)
    assert not getattr(seq2seq_models, f"Flax{family}{BASE}").can_generate()
    for name in ("BaseModelOutput", "Seq2SeqLMOutput", "CausalLMOutputWithCrossAttentions"):
        assert getattr(seq2seq_models, f"Flax{name}") is getattr(seq2seq_models, name)


def test_fresh_parameters(family):
    model = fresh(family, overrides={"vocab_size": 4000, "d_model": 48})
    inner = model.params["model"]
    assert abs(float(inner["shared"]["embedding"].std()) - 0.02) < 5e-4
    layer = inner["encoder"]["layers"]["0"]
    assert abs(float(layer["fc1"]["kernel"].std()) - 0.02) < 2e-3 and not layer["fc1"]["bias"].any()
    assert (layer["final_layer_norm"]["scale"] == 1).all() and not model.params["final_logits_bias"].any()
    again, other = fresh(family, seed=0), fresh(family, seed=1)
    jax.tree.map(near, fresh(family).params, again.params)
    kernels = [m.params["model"]["encoder"]["layers"]["0"]["fc1"]["kernel"] for m in (again, other)]
    assert not jnp.array_equal(*kernels)
    assert not jnp.array_equal(layer["self_attn"]["q_proj"]["kernel"], layer["self_attn"]["k_proj"]["kernel"])
    traced = jax.eval_shape(model.init_weights, jax.random.PRNGKey(0))
    assert jax.tree.map(lambda x: x.shape, traced) == jax.tree.map(lambda x: x.shape, model.params_shape_tree)


def test_init_weights_keeps_what_it_is_given(family):
    model = fresh(family)
    lacking = {"model": {"shared": {"embedding": jnp.full((83, 24), 7.0)}}}
    filled = model.init_weights(jax.random.key(3), (1, 1), lacking)
    assert (filled["model"]["shared"]["embedding"] == 7).all()
    assert jax.tree.structure(filled) == jax.tree.structure(model.params)


def test_do_init_false_keeps_no_parameters(family, tmp_path):
    model = fresh(family, _do_init=False)
    with pytest.raises(InputError, match="_do_init=False"):
        model(arrays()["input_ids"])
    with pytest.raises(InputError, match="cannot be set"):
        model.params = {}
    params = model.init_weights(jax.random.key(0), (1, 1))
    assert model(arrays()["input_ids"], params=params).logits.shape == (3, 11, 83)
    _, mine, _ = trio(family)
    mine.save_pretrained(tmp_path)
    loaded, params = type(mine).from_pretrained(tmp_path, _do_init=False)
    near(loaded(**arrays(), params=params).logits, mine(**arrays()).logits)
    with pytest.raises(InputError, match="holds none"):
        loaded.params  # noqa: B018


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "msgpack"])
def test_saved_models_come_back_and_the_reference_reads_them(family, head, safe, tmp_path):
    theirs, mine, _ = trio(family, head)
    mine.save_pretrained(tmp_path, safe_serialization=safe)
    assert (tmp_path / ("model.safetensors" if safe else "flax_model.msgpack")).exists()
    again = type(mine).from_pretrained(tmp_path)
    jax.tree.map(near, again.params, mine.params)
    if theirs is not None:
        read = type(theirs).from_pretrained(tmp_path)
        jax.tree.map(near, mine.params, flax.core.unfreeze(read.params))


def test_other_parameters_than_the_models_own_are_saved(family, tmp_path):
    _, mine, _ = trio(family)
    mine.save_pretrained(tmp_path, params=mine.to_bf16(mine.params))
    again = type(mine).from_pretrained(tmp_path)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(again.params)} == {"bfloat16"}
    assert again.dtype == jnp.float32 and again.config.dtype == "bfloat16"
    jax.tree.map(near, again.params, mine.to_bf16(mine.params))
    with pytest.raises(InputError, match="missing: final_logits_bias"):
        mine.save_pretrained(tmp_path, params={"model": mine.params["model"]})
    wide = type(mine).from_pretrained(tmp_path, torch_dtype="float32")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(wide.params)} == {"float32"}


def test_heads_are_added_and_left_out(family, tmp_path):
    """A base checkpoint serves a model with a head, and the other way round; what is missing is drawn or zero."""
    _, mine, _ = trio(family)
    mine.save_pretrained(tmp_path)
    base = getattr(seq2seq_models, f"Flax{family}{BASE}").from_pretrained(tmp_path)
    jax.tree.map(near, base.params, mine.params["model"])
    causal = getattr(seq2seq_models, f"Flax{family}{CAUSAL}").from_pretrained(tmp_path)
    near(causal.params["model"]["decoder"]["embed_tokens"]["embedding"], mine.params["model"]["shared"]["embedding"])
    base.save_pretrained(tmp_path / "base")
    whole = type(mine).from_pretrained(tmp_path / "base")
    assert not whole.params["final_logits_bias"].any()
    with pytest.raises(CheckpointError, match="encoder_layers|do not fit"):
        type(mine).from_pretrained(tmp_path, encoder_layers=3)
    grown = type(mine).from_pretrained(tmp_path, encoder_layers=3, ignore_mismatched_sizes=True)
    jax.tree.map(near, *(m.params["model"]["encoder"]["layers"]["0"] for m in (grown, mine)))
    assert grown.params["model"]["encoder"]["layers"]["2"]["fc1"]["kernel"].any()


def test_loaded_memory_is_nobody_elses(family, tmp_path):
    """Loading may keep host memory as the array's own: changing the file or donating the array harms nothing."""
    _, mine, _ = trio(family)
    mine.save_pretrained(tmp_path)
    one, other = (type(mine).from_pretrained(tmp_path) for _ in range(2))
    double = jax.jit(lambda tree: jax.tree.map(lambda x: x * 2, tree), donate_argnums=0)
    twice = double(one.params)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"\0" * file.stat().st_size)
    jax.tree.map(near, other.params, mine.params)
    jax.tree.map(lambda a, b: near(a, b * 2), twice, mine.params)


def test_auto_classes(family, tmp_path):
    _, mine, _ = trio(family)
    mine.save_pretrained(tmp_path)
    for auto, head in (
        ("FlaxAutoModel", BASE),
        ("FlaxAutoModelForSeq2SeqLM", FULL),
        ("FlaxAutoModelForCausalLM", CAUSAL),
    ):
        found = getattr(seq2seq_models, auto).from_pretrained(tmp_path)
        assert type(found) is getattr(seq2seq_models, f"Flax{family}{head}")
        assert type(getattr(seq2seq_models, auto).from_config(mine.config)) is type(found)


def test_casts_and_their_mask(family):
    _, mine, _ = trio(family)
    for cast, dtype in ((mine.to_bf16, "bfloat16"), (mine.to_fp16, "float16"), (mine.to_fp32, "float32")):
        assert {leaf.dtype.name for leaf in jax.tree.leaves(cast(mine.params))} == {dtype}
    mask = jax.tree_util.tree_map_with_path(lambda path, _: "norm" not in jax.tree_util.keystr(path), mine.params)
    for path, leaf in flatten(mine.to_bf16(mine.params, mask)):
        assert leaf.dtype == ("float32" if any("norm" in name for name in path) else "bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(mine.params)} == {"float32"}
    near(mine(**arrays(), params=mine.to_bf16(mine.params)).logits, mine(**arrays()).logits, 0.3)
    with pytest.raises(InputError, match="only one of them has model/"):
        mine.to_bf16(mine.params, {"final_logits_bias": True})


def test_parameters_are_checked_by_name_and_shape(family):
    _, mine, _ = trio(family)
    ids = arrays()["input_ids"]
    with pytest.raises(InputError, match="missing: final_logits_bias"):
        mine(ids, params={"model": mine.params["model"]})
    with pytest.raises(InputError, match=r"Pass what is under its key 'params'"):
        mine(ids, params={"params": mine.params})
    with pytest.raises(InputError, match=r"final_logits_bias expected \[1, 83\], got \[83\]"):
        mine.encode(ids, params={**mine.params, "final_logits_bias": jnp.zeros(83)})
    with pytest.raises(InputError, match="nested dict"):
        mine(ids, params=[1])
    model = fresh(family)
    with pytest.raises(InputError, match=f"all parameters of Flax{family}{FULL}; missing: final_logits_bias, model/"):
        model.params = mine.params["model"]
    model.params = flax.core.freeze(mine.params)
    assert type(model.params) is dict
    near(model(ids).logits, mine(ids).logits)


def test_wrong_inputs_are_named(family):
    _, mine, _ = trio(family)
    ids, long = np.ones((1, 3), np.int64), np.ones((1, 38), np.int64)
    for bad, said in (
        ((long,), "at most 37 positions .*got 38 in `input_ids`"),
        ((ids, None, long), "at most 37 positions .*got 38 in `decoder_input_ids`"),
        ((np.array([[1, 83]]),), "between 0 and 82, got ids from 1 to 83"),
        ((jnp.array([[-1, 5]]),), "between 0 and 82, got ids from -1 to 5"),
        ((ids.astype(np.float32),), "`input_ids` must be integers, got float32"),
        ((ids[0],), "2 dimensions"),
        ((ids, np.ones((1, 4))), r"`attention_mask` must be \[1, 3\], got \[1, 4\]"),
        ((ids, None, ids.repeat(2, 0)), "as many rows as `input_ids`, 1, got 2"),
        ((ids, None, None, None, ids + 40), "`position_ids` must be between 0 and 36"),
        ((ids, None, None, None, ids[:, :2]), "`position_ids` must be"),
    ):
        with pytest.raises(InputError, match=said):
            mine(*bad)
    with pytest.raises(InputError, match="`encoder_outputs` must be what `encode` returns"):
        mine.decode(ids, (np.ones((1, 3)),))
    with pytest.raises(InputError, match="`dropout_rng` must be a key"):
        mine(ids, train=True)
    encoded = mine.encode(ids)
    with pytest.raises(InputError, match="room for 4 tokens, got room for 3"):
        first = mine.decode(ids, encoded, past_key_values=mine.init_cache(1, 3, encoded))
        mine.decode(ids[:, :1], encoded, past_key_values=first.past_key_values)
    with pytest.raises(InputError, match="the dict that `init_cache` gives"):
        mine.decode(ids, encoded, past_key_values={"decoder": {}})
    with pytest.raises(InputError, match="as many rows as `encoder_outputs`"):
        mine.decode(ids.repeat(3, 0), mine.encode(ids.repeat(2, 0)))


def test_wrong_makings_are_named(family):
    cls = getattr(seq2seq_models, f"Flax{family}{FULL}")
    other = next(name for name in FAMILIES if name != family)
    with pytest.raises(ConfigError, match=f"must be a {family}Config, got {other}Config"):
        cls(getattr(seq2seq_models, f"{other}Config")())
    with pytest.raises(ConfigError, match="`dtype` must be a floating-point dtype"):
        fresh(family, dtype=jnp.int32)
    with pytest.raises(ConfigError, match="`dtype` must be a floating-point dtype"):
        cls.from_pretrained("./nowhere", dtype="auto")
    with pytest.raises(ConfigError, match="base of the family"):
        fresh(family, "PreTrainedModel")


def test_a_traced_call_checks_what_it_can_and_clips_the_rest(family):
    _, mine, _ = trio(family)
    call = jax.jit(lambda params, ids: mine(ids, params=params).logits)
    ids = jnp.asarray(arrays()["input_ids"])
    near(call(mine.params, ids), mine(ids).logits)
    assert jnp.isfinite(call(mine.params, ids.at[0, 0].set(200))).all()
    with pytest.raises(InputError, match="at most 37"):
        call(mine.params, jnp.ones((1, 38), jnp.int32))


def test_outputs_are_pytrees(family):
    _, mine, _ = trio(family)
    out = jax.jit(lambda ids: mine(ids, output_hidden_states=True))(jnp.asarray(arrays()["input_ids"]))
    assert type(out) is seq2seq_models.FlaxSeq2SeqLMOutput and len(out.decoder_hidden_states) == 4
    doubled = jax.tree.map(lambda x: x * 2, out)
    near(doubled.logits, out.logits * 2)
    assert list(doubled.keys()) == list(out.keys()) and doubled.loss is None
    paths = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(out)}
    assert ".logits" in paths and ".decoder_hidden_states[0]" in paths


def test_a_module_alone(family):
    _, mine, _ = trio(family)
    inputs = {name: jnp.asarray(value) for name, value in arrays().items()}
    near(mine.module.apply({"params": mine.params}, **inputs).logits, mine(**arrays()).logits)
    as_tuple = mine.module.apply({"params": mine.params}, **inputs, return_dict=False)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == 2


def test_masks_and_shifts():
    lowest = float(jnp.finfo(jnp.float16).min)
    assert padding_mask(jnp.array([[1, 0]]), jnp.float16).tolist() == [[[[0, lowest]]]]
    assert padding_mask(None, jnp.float32) is None
    seen = causal_mask(jnp.array([[0, 1]]), jnp.array([1, 2]), 4, jnp.float32)
    assert (seen == 0).tolist() == [[[[False, True, False, False], [False, True, True, False]]]]
    additive = jnp.zeros((1, 1, 2, 4))
    assert causal_mask(additive, jnp.array([0]), 4, jnp.float32) is additive
    with pytest.raises(InputError, match="2 or 4 dimensions"):
        padding_mask(jnp.ones(3), jnp.float32)
    assert mask_of("m", [[1, 1]], (1, 3), exact=False).shape == (1, 2)
    assert shift_tokens_right(jnp.array([[5, -100, 7]]), 0, 2).tolist() == [[2, 5, 0]]
    with pytest.raises(ConfigError, match="pad_token_id"):
        shift_tokens_right(jnp.array([[5]]), None, 2)


def test_partition_rules_name_every_parameter(family):
    for head in HEADS:
        model = fresh(family, head, overrides={"tie_word_embeddings": False})
        specs = dict(flatten(partition_specs(model.params)))
        for slot in slots(model.config, model.head):
            spec, split = specs[slot.path], slot.path[-2:]
            assert len(spec) in (0, len(slot.shape))
            whole = split in (("out_proj", "bias"), ("fc2", "bias")) or "norm" in split[0] or "positions" in split[0]
            assert bool(spec) != whole
    mesh = Mesh(np.array(jax.devices()[:1]), ("model",))
    placed = jax.device_put(model.params, shardings(model.params, mesh))
    jax.tree.map(near, placed, model.params)
    with pytest.raises(InputError, match="one for every parameter"):
        partition_specs(model.params, PARTITION_RULES[:1])
    assert PARTITION_RULES[-1][1] == PartitionSpec()


def test_bin_files_are_read_with_from_pt(family, tmp_path):
    torch_reference = reference(family)
    torch_reference.save_pretrained(tmp_path, safe_serialization=False)
    mine = type(trio(family)[1]).from_pretrained(tmp_path, from_pt=True)
    jax.tree.map(near, mine.params, ours_of(torch_reference, family).params)
