"""Where parameters lie on a mesh of devices: rules for data and tensor parallelism, the same for both families.

    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "model"))
    params = jax.device_put(model.params, shardings(model.params, mesh))
    batch = jax.device_put(batch, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))

A jitted function of these then runs on all devices, and its results are those of one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..errors import InputError
from .weights import flatten, nest

Rules = Sequence[tuple[str, PartitionSpec]]

# Not typed upstream.
_spec_of: Any = PartitionSpec
_sharding: Any = NamedSharding

PARTITION_RULES: Rules = (
    (r"(q_proj|k_proj|v_proj|fc1)/kernel$", _spec_of(None, "model")),
    (r"(q_proj|k_proj|v_proj|fc1)/bias$", _spec_of("model")),
    (r"(out_proj|fc2)/kernel$", _spec_of("model", None)),
    (r"(shared|embed_tokens)/embedding$", _spec_of("model", None)),
    (r"lm_head/kernel$", _spec_of(None, "model")),
    (r"final_logits_bias$", _spec_of(None, "model")),
    (r".*", _spec_of()),
)
"""Pattern of a parameter's path and how its axes are split; the first that is found decides.

Heads and feed-forward units are split over "model", so that each block of a layer needs one sum over the devices
(Shoeybi et al. 2019, section 3), and so are the words of the vocabulary. Norms, positions and the biases after a sum
are on every device.
"""


def partition_specs(params: Any, rules: Rules = PARTITION_RULES) -> dict[str, Any]:
    """A tree like `params` with the `PartitionSpec` of every parameter.

    Raises:
        InputError: no rule fits a parameter.
    """
    return nest({path: _spec("/".join(path), rules) for path, _ in flatten(params)})


def shardings(params: Any, mesh: Mesh, rules: Rules = PARTITION_RULES) -> dict[str, Any]:
    """A tree like `params` with the `NamedSharding` of every parameter, for `jax.device_put` and `jax.jit`.

    An axis stays whole where the mesh has no axis of the rule's name or its size does not divide it, as that of the
    hub's vocabularies often does not.

    Args:
        params: arrays or `jax.ShapeDtypeStruct`, as `model.params` or `model.params_shape_tree`.
        mesh: with axes "data" and "model", or either.
        rules: by default those above.
    """
    return nest(
        {
            path: _sharding(mesh, _fitting(_spec("/".join(path), rules), leaf.shape, mesh.shape))
            for path, leaf in flatten(params)
        }
    )


def _spec(path: str, rules: Rules) -> PartitionSpec:
    for pattern, spec in rules:
        if re.search(pattern, path):
            return spec
    raise InputError(f"`rules` must have one for every parameter, got none for {path}. End them with ('.*', P()).")


def _fitting(spec: PartitionSpec, shape: tuple[int, ...], sizes: Mapping[str, int]) -> PartitionSpec:
    axes = zip(tuple(spec), shape, strict=False)
    kept = (name if name in sizes and length % sizes[name] == 0 else None for name, length in axes)
    found: PartitionSpec = _spec_of(*kept)
    return found
