"""Products with weights whose factors are rounded to bfloat16 and whose sums are float32.

What a TPU makes of float32 products by default, here for any backend and written out, since XLA
ignores its precision settings on CPU.  There it pays where the processor has AMX for bfloat16
(benchmarks/README.md); elsewhere rounded factors are multiplied in float32, with the same values.
Activations, norms, attention and optimizer stay float32.
"""

from __future__ import annotations

import functools
import math
import pathlib
import re
import typing as tp

import jax
import jax.numpy as jnp

from rlpt import sharding
from rlpt.models import int8


@functools.cache
def _amx() -> bool:
    """Whether this machine's processor multiplies tiles of bfloat16."""
    found = pathlib.Path("/proc/cpuinfo")
    return found.exists() and "amx_bf16" in found.read_text()


def _multiplies_bfloat16(x: jax.Array) -> bool:
    """Whether XLA is given factors in bfloat16, or rounded ones in float32 (the same values).

    XLA for CPU runs such products, with a float32 result, by YNNPACK alone: where that does not
    take them, as with most optimizations off, they raise UNIMPLEMENTED when they are run.
    """
    if sharding.platform(x) != "cpu":
        return True
    return _amx() and not jax.config.values["jax_disable_most_optimizations"]


def as_bfloat16(x: jax.Array) -> jax.Array:
    """float32 of the values of bfloat16; two casts would be removed as excess precision."""
    return jax.lax.reduce_precision(x.astype(jnp.float32), exponent_bits=8, mantissa_bits=7)


def _dot(x: jax.Array, y: jax.Array, of_x: int, of_y: int) -> jax.Array:
    """Sums over axis of_x of x and of_y of y; float32."""
    if _multiplies_bfloat16(x):
        x, y = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)
    else:
        x, y = as_bfloat16(x), as_bfloat16(y)
    summed = (((of_x,), (of_y,)), ((), ()))
    return jax.lax.dot_general(x, y, summed, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rounded(x: jax.Array, kernel: jax.Array, turned: bool = False) -> jax.Array:
    """x [M, in] @ kernel [in, out], or with `turned` [out, in]: [M, out] float32.

    Of the gradients each is such a product too, in the dtype of what it is of.
    """
    return _dot(x, kernel, 1, int(turned))


def _forward(x: jax.Array, kernel: jax.Array, turned: bool) -> tp.Any:
    return _dot(x, kernel, 1, int(turned)), (x, kernel)


def _backward(turned: bool, kept: tp.Any, given: jax.Array) -> tp.Any:
    x, kernel = kept
    to_x = _dot(given, kernel, 1, 1 - int(turned))
    to_kernel = of_kernel(given, x) if turned else of_kernel(x, given)
    return to_x.astype(x.dtype), to_kernel.astype(kernel.dtype)


rounded.defvjp(_forward, _backward)


def of_kernel(x: jax.Array, given: jax.Array) -> jax.Array:
    """x.T @ given: the gradient [in, out] float32 of a kernel, from [M, in] and [M, out].

    Not to be transposed: XLA folds that into the product, which YNNPACK then does not take.
    """
    by_ynnpack = sharding.platform(x) == "cpu" and _multiplies_bfloat16(x)
    if not by_ynnpack or sharding.mesh_of(x) is not None:
        return _dot(x, given, 0, 0)
    # XLA folds a transposition into the product, which is then none that YNNPACK takes, and runs
    # at a fourth of the speed; it does not see through one in two steps, the first of them a loop,
    # before which it does not make x anew in the order of its columns either.
    more = max(-len(x) % 2, 4 - len(x))  # rows of zeros, for tiles of two and a loop of two rounds
    x, given = (jnp.pad(z, ((0, more), (0, 0))) for z in (x, given))
    m, k = x.shape
    rows = math.gcd(m, 64)
    rows = rows // 2 if rows == m else rows
    tiles = jax.lax.map(jnp.transpose, x.reshape(m // rows, rows, k))
    return _dot(jnp.swapaxes(tiles, 0, 1).reshape(k, m), given, 1, 0)


def is_kernel(path: tp.Any) -> bool:
    """Whether a path of jax.tree_util is that of a plain kernel of the layers."""
    return bool(re.fullmatch(int8.KERNELS, jax.tree_util.keystr(path, simple=True, separator="/")))


@functools.partial(jax.jit, static_argnames="bits")
def _rounded_kernel(kernel: jax.Array, bits: bool) -> jax.Array:
    kernel = kernel.astype(jnp.bfloat16)
    return jax.lax.bitcast_convert_type(kernel, jnp.uint16) if bits else kernel


def round_kernels(params: tp.Any, bits: bool) -> tp.Any:
    """Parameters with the plain kernels of the layers in bfloat16, for what only reads them.

    Args:
      bits: as uint16, which `lora.matmul` takes for it: on CPU XLA slices a layer out of bfloat16
        by way of float32, and a token's products are then five times as slow.
    Returns: the other leaves are those given.
    """

    def one(path: tp.Any, leaf: jax.Array) -> jax.Array:
        return _rounded_kernel(leaf, bits) if is_kernel(path) else leaf

    return jax.tree_util.tree_map_with_path(one, params)
