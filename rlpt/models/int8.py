"""Kernels in eight bits for the sampler: less memory to read for every token.

Only the weights are rounded, symmetrically, with one scale for each output of each layer, and only
the kernels of the layers: embeddings, head, norms and biases stay.  The law that is sampled is
that of the rounded weights, and `sampler_logp` says so: the update needs a correction for it, see
`rlpt.losses.corrections`.
"""

from __future__ import annotations

import re
import typing as tp

import flax.struct
import jax
import jax.numpy as jnp

KERNELS = r"layers/(q|k|v|o|gate|up|down)"


@flax.struct.dataclass
class Int8:
    """The kernel values * scale, never formed.

    values: [N, in, out] int8; scale: [N, 1, out] float32, where N (layers) is absent after the
    scan has sliced it.
    """

    values: jax.Array
    scale: jax.Array

    @property
    def ndim(self) -> int:
        return self.values.ndim


def is_int8(node: tp.Any) -> bool:
    """Whether a node of the parameters is an Int8; for jax.tree functions with is_leaf."""
    return isinstance(node, Int8)


def matmul(x: jax.Array, kernel: Int8) -> jax.Array:
    """x [..., in] @ kernel [in, out], summed in float32, in the dtype of x."""
    flat = jnp.matmul(
        x.reshape(-1, x.shape[-1]),
        kernel.values.astype(x.dtype),
        preferred_element_type=jnp.float32,
    )
    return (flat * kernel.scale).astype(x.dtype).reshape(*x.shape[:-1], -1)


@jax.jit
def quantise(params: tp.Any) -> tp.Any:
    """Parameters with Int8 nodes for the kernels of the layers; the other leaves as they are.

    scale = max |w| / 127 over the inputs of an output, values = round(w / scale): the error is at
    most half a scale.  What has no such kernels, such as adapters, comes back as it is.
    """

    def one(path: tp.Any, leaf: jax.Array) -> tp.Any:
        if not re.fullmatch(KERNELS, jax.tree_util.keystr(path, simple=True, separator="/")):
            return leaf
        w = leaf.astype(jnp.float32)
        scale = jnp.max(jnp.abs(w), axis=-2, keepdims=True) / 127
        values = jnp.round(w / jnp.where(scale > 0, scale, 1.0)).astype(jnp.int8)
        return Int8(values, scale)

    return jax.tree_util.tree_map_with_path(one, params)
