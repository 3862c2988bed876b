"""Masked statistics shared by the estimators of this package.

Rows with `row_mask` False are read through `where`, so that NaN or garbage in
an empty slot cannot leak.  Variances take two passes.  A constant group is
exactly zero after centring: a mean is the live minimum plus the mean of what
lies above it, and where nothing does the difference is not left to rounding
(a compiler that fuses x = a b + c into both sides may round them differently).
"""

from __future__ import annotations

import typing as tp

import jax
import jax.numpy as jnp

Axis = int | tuple[int, ...] | None


def mean(x: jax.Array, mask: jax.Array, axis: Axis = 1) -> jax.Array:
    """Mean over the masked entries, dims kept; 0 where there are none."""
    count = jnp.sum(mask, axis=axis, keepdims=True)
    low = jnp.min(jnp.where(mask, x, jnp.inf), axis=axis, keepdims=True)
    low = jnp.where(count > 0, low, 0.0)
    above = jnp.sum(jnp.where(mask, x - low, 0.0), axis=axis, keepdims=True)
    return low + above / jnp.maximum(count, 1)


def centre(x: jax.Array, mask: jax.Array, axis: Axis = 1) -> tuple[jax.Array, jax.Array]:
    """(x - mean over the masked entries, their count); 0 outside the mask, count keeps dims.

    One NaN inside the mask makes all of it NaN, for the finite check of the update to see.
    """
    count = jnp.sum(mask, axis=axis, keepdims=True)
    low = jnp.min(jnp.where(mask, x, jnp.inf), axis=axis, keepdims=True)
    high = jnp.max(jnp.where(mask, x, -jnp.inf), axis=axis, keepdims=True)
    return jnp.where(mask & ~(high <= low), x - mean(x, mask, axis), 0.0), count


def known(rewards: jax.Array, value: jax.Array) -> jax.Array:
    """NaN where the reward is, which a comparison would have read as wrong."""
    return jnp.where(jnp.isnan(rewards), jnp.nan, value)


def std(centred: jax.Array, count: jax.Array, ddof: int, axis: Axis = 1) -> jax.Array:
    """Standard deviation from the output of `centre`; 0 where count <= ddof."""
    squares = jnp.sum(jnp.square(centred), axis=axis, keepdims=True)
    return jnp.sqrt(squares / jnp.maximum(count - ddof, 1))


def require_group(rewards: tp.Any, allow_singleton: bool) -> None:
    """Raises ValueError for G=1: a group statistic of one completion is no signal."""
    if rewards.shape[1] == 1 and not allow_singleton:
        raise ValueError(
            "G=1 in rewards [P,G]: a group needs at least 2 completions; "
            "set rollout.group >= 2 or allow_singleton=True (then A = r)"
        )
