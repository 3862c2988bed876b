"""Where arrays live: a mesh of devices, and rules from parameter paths to shardings.

The mesh has three axes: "data" and "fsdp" cut the P axis of a batch, "fsdp" cuts
parameters too (they are gathered where they are used), "model" cuts heads and hidden
units.  A rule is (regex, PartitionSpec): the first whose regex matches the whole path
of a parameter wins, and a parameter that no rule covers is an error, not a silent
copy on every device.  Numbers depend on none of this but for the order of sums.
"""

from __future__ import annotations

import functools
import math
import re
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

Tree = tp.Any

AXES = ("data", "fsdp", "model")
GATHERED = "gathered"


class Rule(tp.NamedTuple):
    """pattern: full match of a path; optional: an axis that does not divide is not cut."""

    pattern: str
    spec: Spec
    optional: bool = False


# Layers are stacked on axis 0, which the scan walks through: it is never cut. Nor is the
# rank of an adapter (".../a" [N, in, r], ".../b" [N, r, out]). Vocabularies are often odd.
PARAM_RULES = (
    Rule("embed|head", Spec("model", "fsdp"), optional=True),
    Rule("layers/(q|k|v|gate|up)(/base)?", Spec(None, "fsdp", "model")),
    Rule("layers/(o|down)(/base)?", Spec(None, "model", "fsdp")),
    Rule("layers/(q|k|v|gate|up)/a", Spec(None, "fsdp", None)),
    Rule("layers/(q|k|v|gate|up)/b", Spec(None, None, "model")),
    Rule("layers/(o|down)/a", Spec(None, "model", None)),
    Rule("layers/(o|down)/b", Spec(None, None, "fsdp")),
    Rule("layers/(q|k|v)_bias", Spec(None, "model")),
    Rule(r"(layers/)?\w*norm", Spec()),
    Rule("value_head/kernel", Spec()),
)


def make_mesh(sizes: tp.Mapping[str, int], devices: tp.Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes data, fsdp and model.

    Args:
      sizes: {axis: devices along it}; an axis left out is 1, one may be -1: what is left.
      devices: all of every process by default.
    Raises: ValueError for an unknown axis or a product that is not the number of devices.
    """
    count = len(jax.devices() if devices is None else devices)
    unknown = sorted(set(sizes) - set(AXES))
    if unknown:
        raise ValueError(f"mesh: got the axis {unknown[0]!r}, expected among {', '.join(AXES)}")
    shape = [sizes.get(axis, 1) for axis in AXES]
    if shape.count(-1) == 1:
        shape[shape.index(-1)] = count // max(-math.prod(shape), 1)
    if min(shape) < 1 or math.prod(shape) != count:
        raise ValueError(
            f"mesh: got {dict(sizes)}, expected sizes >= 1, or one -1 for what is left, whose "
            f"product is the number of devices, {count}"
        )
    # jax.make_mesh refuses, on most TPUs, an axis that is a part of an axis of the torus.
    grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Cuts axis 0, the P axis of every column, over data and fsdp; P must divide by both."""
    return NamedSharding(mesh, Spec(("data", "fsdp")))


def everywhere(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, Spec())


def shards(mesh: Mesh | None) -> int:
    """Into how many parts the P axis is cut."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def place_batch(table: Tree, mesh: Mesh | None) -> Tree:
    """Columns [P,...] on the devices of the mesh, cut over P; without a mesh as they are.

    Every process gives the same values of what is not on the mesh yet.
    """
    if mesh is None:
        return table
    return jax.tree.map(lambda x: _put(x, batch_sharding(mesh)), table)


def replicate(tree: Tree, mesh: Mesh | None) -> Tree:
    """The leaves whole on every device of the mesh; without a mesh as they are."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda x: _put(x, everywhere(mesh)), tree)


def without_fsdp(where: NamedSharding) -> NamedSharding:
    """The same, but whole over fsdp."""

    def kept(axis: tp.Any) -> tp.Any:
        names = tuple(n for n in (axis if isinstance(axis, tuple) else (axis,)) if n != "fsdp")
        return names if len(names) > 1 else names[0] if names else None

    return NamedSharding(where.mesh, Spec(*map(kept, where.spec)))


def gather(tree: Tree) -> Tree:
    """The leaves whole over fsdp, and cut over model as they are."""
    return jax.tree.map(lambda x: _put(x, without_fsdp(x.sharding)), tree)


def fetch(tree: Tree) -> Tree:
    """The leaves as numpy arrays, whole in every process; every process calls it."""

    def one(x: tp.Any) -> tp.Any:
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            mesh = tp.cast(NamedSharding, x.sharding).mesh
            x = jax.jit(_same, out_shardings=everywhere(tp.cast(Mesh, mesh)))(x)
        return x

    return jax.device_get(jax.tree.map(one, tree))


def _same(x: jax.Array) -> jax.Array:
    return x


def shardings(
    tree: Tree, mesh: Mesh, rules: tp.Sequence[tp.Sequence[tp.Any]] = PARAM_RULES
) -> Tree:
    """The sharding of every leaf.

    Args:
      tree: arrays or ShapeDtypeStructs, named by path, such as "layers/q"; scalars are
        on every device and need no rule.
      rules: Rules, or tuples (regex, PartitionSpec) with True as third if optional.
    Raises: ValueError that names a parameter without a rule, or an axis that the mesh
      does not divide.
    """
    known = [Rule(*rule) for rule in rules]

    def one(path: tp.Any, leaf: tp.Any) -> NamedSharding:
        if leaf.ndim == 0:
            return everywhere(mesh)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for rule in known:
            if re.fullmatch(rule.pattern, name):
                return NamedSharding(mesh, _fitted(name, leaf.shape, rule, mesh))
        raise ValueError(
            f"sharding: no rule covers {name!r} of shape {leaf.shape}; the rules are "
            f"{', '.join(repr(rule.pattern) for rule in known)}"
        )

    return jax.tree_util.tree_map_with_path(one, tree)


def place(tree: Tree, mesh: Mesh, rules: tp.Sequence[tp.Sequence[tp.Any]] = PARAM_RULES) -> Tree:
    """The leaves on the devices of the mesh; every process gives the same values."""
    return jax.tree.map(_put, tree, shardings(tree, mesh, rules))


def block_cuts(x: jax.Array) -> int:
    """Into how many parts the mesh that x [P,...] lives on cuts P; 1 without a mesh."""
    mesh = jax.typeof(x).sharding.mesh
    cut = 1 if mesh.empty else mesh.shape["data"] * mesh.shape["fsdp"]
    return cut if x.shape[0] % cut == 0 else 1


def cut_blocks(tree: Tree) -> Tree:
    """Arrays [P,...] cut over data and fsdp, as batches are; without a mesh as they are."""

    def one(x: jax.Array) -> jax.Array:
        if not x.ndim or block_cuts(x) == 1:
            return x
        rest = (Spec.UNCONSTRAINED,) * (x.ndim - 1)
        where = NamedSharding(jax.typeof(x).sharding.mesh, Spec(("data", "fsdp"), *rest))
        return jax.lax.with_sharding_constraint(x, where)

    return jax.tree.map(one, tree)


def cuts_weights(leaf: jax.Array) -> bool:
    """Whether the mesh that a parameter lives on cuts over fsdp."""
    mesh = jax.typeof(leaf).sharding.mesh
    return not mesh.empty and mesh.shape["fsdp"] > 1


def mesh_of(x: jax.Array) -> tp.Any:
    """The mesh that an array or tracer lives on, or None."""
    mesh = jax.typeof(x).sharding.mesh
    return None if mesh.empty else mesh


def platform(x: jax.Array) -> str:
    """What the program is compiled for: the platform of the mesh, which may not be here."""
    mesh = mesh_of(x)
    device = None if mesh is None else mesh.abstract_device
    name: str = jax.default_backend() if device is None else device.platform
    return "gpu" if name in ("cuda", "rocm") else name


def gathered(tree: Tree, dtype: tp.Any, prefix: str = "") -> Tree:
    """Kernels whole over fsdp, in the dtype that they are used in, and their gradients cut again.

    Left alone, the compiler may move activations in place of weights: for every layer of every
    micro-batch, those of all devices.  As given without a mesh, or with one that does not cut fsdp.

    Args:
      tree: kernels of one layer or of the head, named by path behind `prefix`, such as "layers/";
        vectors and integers are left as they are.  What is gathered bears the name GATHERED for
        policies of jax.checkpoint.
    """

    def one(path: tp.Any, leaf: jax.Array) -> jax.Array:
        floats = jnp.issubdtype(leaf.dtype, jnp.floating)
        if not cuts_weights(leaf) or leaf.ndim != 2 or not floats:
            return leaf
        mesh = jax.typeof(leaf).sharding.mesh
        name = prefix + jax.tree_util.keystr(path, simple=True, separator="/")
        for rule in PARAM_RULES:
            if re.fullmatch(rule.pattern, name):
                spec = rule.spec[-2:]
                cut = _fitted(name, leaf.shape, rule._replace(spec=Spec(*spec)), mesh)
                where = NamedSharding(mesh, cut)
                return checkpoint_name(_gather(where, without_fsdp(where), dtype, leaf), GATHERED)
        return leaf

    return jax.tree_util.tree_map_with_path(one, tree)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _gather(cut: NamedSharding, whole: NamedSharding, dtype: tp.Any, leaf: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(leaf.astype(dtype), whole)


def _gather_forward(
    cut: NamedSharding, whole: NamedSharding, dtype: tp.Any, leaf: jax.Array
) -> tp.Any:
    return _gather(cut, whole, dtype, leaf), jnp.zeros((), leaf.dtype)


def _gather_backward(
    cut: NamedSharding, whole: NamedSharding, dtype: tp.Any, like: jax.Array, given: jax.Array
) -> tp.Any:
    return (jax.lax.with_sharding_constraint(given, cut).astype(like.dtype),)


_gather.defvjp(_gather_forward, _gather_backward)


def shardings_like(
    state: Tree, params: Tree, mesh: Mesh, rules: tp.Sequence[tp.Sequence[tp.Any]] = PARAM_RULES
) -> Tree:
    """The shardings of optimizer state beside the parameters that it mirrors.

    A leaf whose path ends in a parameter's path, and which has its shape, gets its
    sharding; the others, such as counts and factored moments, are on every device.

    Args, Raises: as `shardings`; params: arrays, tracers or shapes.
    """
    known = {
        jax.tree_util.keystr(path, simple=True, separator="/"): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(params),
            jax.tree.leaves(shardings(params, mesh, rules)),
            strict=True,
        )
    }

    def one(path: tp.Any, leaf: tp.Any) -> NamedSharding:
        for start in range(len(path)):
            name = jax.tree_util.keystr(path[start:], simple=True, separator="/")
            if name in known and known[name][0] == leaf.shape:
                return known[name][1]
        return everywhere(mesh)

    return jax.tree_util.tree_map_with_path(one, state)


def place_like(state: Tree, params: Tree, mesh: Mesh) -> Tree:
    """Optimizer state on the devices of the mesh, see `shardings_like`."""
    return jax.tree.map(_put, state, shardings_like(state, params, mesh))


def _put(leaf: tp.Any, sharding: NamedSharding) -> jax.Array:
    """Unlike device_put, this does not compare the values of all processes.

    leaf: an array, or what has a shape and gives a part of itself as leaf[slices].
    """
    if isinstance(leaf, jax.Array):
        if len(leaf.sharding.device_set) == sharding.mesh.size > 1:
            if leaf.is_fully_addressable:
                return jax.device_put(leaf, sharding)
            return jax.jit(_same, out_shardings=sharding)(leaf)
        leaf = np.asarray(leaf)
    return jax.make_array_from_callback(
        np.shape(leaf), sharding, lambda index: np.asarray(leaf[index] if index else leaf)
    )


def _fitted(name: str, shape: tuple[int, ...], rule: Rule, mesh: Mesh) -> Spec:
    """The rule's spec for this shape, without the cuts that an optional rule may lose."""
    if len(rule.spec) > len(shape):
        raise ValueError(
            f"sharding: {name!r} of shape {shape} has fewer axes than its rule {rule.pattern!r}, "
            f"{rule.spec}"
        )
    cuts = list(rule.spec)
    for axis, cut in enumerate(cuts):
        names = () if cut is None else (cut,) if isinstance(cut, str) else cut
        parts = math.prod(mesh.shape[n] for n in names)
        if shape[axis] % parts == 0:
            continue
        problem = (
            f"sharding: axis {axis} of {name!r} has size {shape[axis]}, which does not divide by "
            f"{parts}, the size of {' x '.join(names)}"
        )
        if not rule.optional:
            raise ValueError(f"{problem}; choose another mesh, or make the rule optional")
        logging.info("%s; it is not cut", problem)
        cuts[axis] = None
    return Spec(*cuts)
