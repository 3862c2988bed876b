"""Low-rank adapters as a kind of kernel leaf, so that there is no second forward.

A kernel is a plain array, an `Int8` node or a `LoRA` node holding one of these, frozen,
and its adapter; `matmul` dispatches on which.  The adapters live in a flat dict
{"layers/q": {"a", "b"}, ...} of their own: that dict is what is trained and
saved, `attach` puts it into the parameters inside the jitted loss, and `merge`
folds it into plain arrays for export.  The layers of the model are stacked on
axis 0 and scanned, which slices every array of a node alike.

Reference: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models",
arXiv 2106.09685, section 4.1.
"""

from __future__ import annotations

import re
import typing as tp

import flax.struct
import jax
import jax.numpy as jnp

from rlpt.models import int8, products
from rlpt.models.int8 import Int8

Params = tp.Any  # nested dict of arrays
Adapters = dict[str, dict[str, jax.Array]]

ALL_KERNELS = int8.KERNELS


@flax.struct.dataclass
class LoRA:
    """The kernel base + scale * a @ b, never formed.

    base: [N, in, out], frozen; a: [N, in, r]; b: [N, r, out], where N (layers) is
    absent after the scan has sliced it.  scale: alpha / r, a static number.
    """

    base: jax.Array | Int8
    a: jax.Array
    b: jax.Array
    scale: float = flax.struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the kernel that it stands for."""
        return (*self.a.shape[:-1], self.b.shape[-1])

    def __getitem__(self, layer: int) -> LoRA:
        """One layer of it."""
        return tp.cast(LoRA, jax.tree.map(lambda x: x[layer], self))


def matmul(x: jax.Array, kernel: jax.Array | Int8 | LoRA, precision: str = "default") -> jax.Array:
    """x @ kernel in the dtype of x.

    Args:
      x: [..., in], in the compute dtype.
      kernel: [in, out], or an Int8 or a LoRA of such; uint16: the bits of bfloat16.
      precision: bfloat16: of float32 factors rounded to it, summed in float32; else as jax does.
    Returns: [..., out].
    """
    if isinstance(kernel, LoRA):
        adapted = matmul(matmul(x, kernel.a, precision), kernel.b, precision)
        return matmul(x, kernel.base, precision) + adapted * kernel.scale
    rounds = precision == "bfloat16" and x.dtype == jnp.float32
    if isinstance(kernel, Int8) and not rounds:
        return int8.matmul(x, kernel)
    flat = x.reshape(-1, x.shape[-1])
    if isinstance(kernel, Int8):
        flat = products.rounded(flat, kernel.values.astype(jnp.bfloat16)) * kernel.scale
    else:
        if kernel.dtype == jnp.uint16:
            kernel = jax.lax.bitcast_convert_type(kernel, jnp.bfloat16)
        flat = products.rounded(flat, kernel) if rounds else flat @ kernel.astype(x.dtype)
    return flat.reshape(*x.shape[:-1], -1)


def kernel_paths(params: Params) -> list[str]:
    """Paths such as "layers/q" of the leaves that `matmul` reads: stacked, [N, in, out]."""
    leaves = jax.tree_util.tree_flatten_with_path(params, is_leaf=int8.is_int8)[0]
    return [_name(path) for path, leaf in leaves if leaf.ndim == 3]


def init_lora(params: Params, key: jax.Array, rank: int, targets: str = ALL_KERNELS) -> Adapters:
    """Fresh adapters: `a` uniform in +-1/sqrt(in), `b` zero, so the model is unchanged.

    The law of `a` is that of the authors' code and of peft (Kaiming uniform with
    slope sqrt(5)), so that learning rates carry over; the paper says Gaussian.

    Args:
      params: the model's parameters, arrays or ShapeDtypeStructs; kernels [N, in, out].
      key: PRNG key.
      rank: r >= 1.
      targets: regular expression that must match the whole path of a kernel.
    Returns: {path: {"a": [N, in, r], "b": [N, r, out]}} in float32.
    Raises: ValueError when rank < 1 or when no kernel matches.
    """
    if rank < 1:
        raise ValueError(f"LoRA rank: got {rank}, expected 1 or more")
    known = kernel_paths(params)
    chosen = [path for path in known if re.fullmatch(targets, path)]
    if not chosen:
        raise ValueError(
            f"LoRA targets: {targets!r} matches no kernel; kernels are {', '.join(known) or 'none'}"
        )
    adapters: Adapters = {}
    for path, path_key in zip(chosen, jax.random.split(key, len(chosen)), strict=True):
        n, fan_in, fan_out = _get(params, path).shape
        bound = fan_in**-0.5
        a = jax.random.uniform(path_key, (n, fan_in, rank), jnp.float32, -bound, bound)
        adapters[path] = {"a": a, "b": jnp.zeros((n, rank, fan_out), jnp.float32)}
    return adapters


def attach(params: Params, adapters: Adapters, scale: float) -> Params:
    """The parameters with a LoRA node in place of every adapted kernel; copies nothing.

    Differentiate with respect to `adapters` alone: `params` stays frozen.
    """
    return _replace(params, adapters, lambda base, ab: LoRA(base, ab["a"], ab["b"], scale))


def merge(params: Params, adapters: Adapters, scale: float) -> Params:
    """Plain parameters: those with an adapter folded, a leaf at a time, the others as they are.

    params: arrays, or what jnp.asarray makes arrays of.
    """
    return _replace(params, adapters, lambda base, ab: fold(LoRA(base, ab["a"], ab["b"], scale)))


def fold(kernel: tp.Any) -> tp.Any:
    """base + scale * a @ b of a LoRA, computed in float32, in the dtype of base; else as it is."""
    if not isinstance(kernel, LoRA):
        return kernel
    base = jnp.asarray(kernel.base)
    delta = jnp.matmul(kernel.a, kernel.b, precision="highest") * kernel.scale
    return (base.astype(jnp.float32) + delta).astype(base.dtype)


def _name(path: tp.Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _get(params: Params, path: str) -> tp.Any:
    for part in path.split("/"):
        params = params[part]
    return params


def _replace(params: Params, adapters: Adapters, make: tp.Callable[..., tp.Any]) -> Params:
    missing = sorted(set(adapters) - set(kernel_paths(params)))
    if missing:
        raise ValueError(
            f"adapters for {', '.join(missing)}, but the kernels of these parameters are "
            f"{', '.join(kernel_paths(params)) or 'none'}; are they of another model?"
        )

    def one(path: tp.Any, leaf: jax.Array) -> tp.Any:
        name = _name(path)
        return make(leaf, adapters[name]) if name in adapters else leaf

    return jax.tree_util.tree_map_with_path(one, params, is_leaf=int8.is_int8)
