"""Sums and statistics over the trained tokens of rows, shared by this package.

Tokens outside loss_mask (tool output, padding) are stepped over: nothing is
discounted there, and a reward that stands on one does not count.
"""

from __future__ import annotations

import typing as tp

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.advantages import _stats


def token_rewards(
    loss_mask: jax.Array, rewards: jax.Array | None, step_rewards: jax.Array | None
) -> jax.Array:
    """rewards [P,G] on the last trained token, plus step_rewards [P,G,T]; [P,G,T] float32.

    Raises: ValueError if both are None.
    """
    if rewards is None and step_rewards is None:
        raise ValueError(
            "got neither rewards [P,G] nor step_rewards [P,G,T], expected at least one"
        )
    total = jnp.zeros(loss_mask.shape, jnp.float32)
    if step_rewards is not None:
        chex.assert_equal_shape([step_rewards, loss_mask])
        total = jnp.where(loss_mask, step_rewards, total)
    if rewards is not None:
        chex.assert_shape(rewards, loss_mask.shape[:2])
        total = total + jnp.where(masks.last_token(loss_mask), rewards[..., None], 0.0)
    return total


def _backwards(
    step: tp.Callable[[jax.Array, tuple[jax.Array, jax.Array]], tuple[jax.Array, jax.Array]],
    start: jax.Array,
    values: jax.Array,
    loss_mask: jax.Array,
) -> jax.Array:
    """Scans `step` over (value, mask) from the last token to the first; [P,G,T]."""
    tokens = (jnp.moveaxis(values, -1, 0), jnp.moveaxis(loss_mask, -1, 0))
    _, out = jax.lax.scan(step, start, tokens, reverse=True)
    return jnp.moveaxis(out, 0, -1)


def discounted(values: jax.Array, loss_mask: jax.Array, gamma: jax.Array | float) -> jax.Array:
    """R_t = x_t + gamma R_{t+1} over the trained tokens, 0 at others; [P,G,T]."""

    def back(total: jax.Array, token: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, own = token
        total = jnp.where(own, x + gamma * total, total)
        return total, total

    start = jnp.zeros(values.shape[:-1], values.dtype)
    return jnp.where(loss_mask, _backwards(back, start, values, loss_mask), 0.0)


def step_ends(step_id: jax.Array, loss_mask: jax.Array) -> jax.Array:
    """The last trained token of each step, [P,G,T] bool; step_id -1: no step."""

    def back(after: jax.Array, token: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        step, own = token
        return jnp.where(own, step, after), own & (step >= 0) & (step != after)

    start = jnp.full(step_id.shape[:-1], -1, step_id.dtype)
    return _backwards(back, start, step_id, loss_mask)


def whiten(values: jax.Array, mask: jax.Array, eps: jax.Array | float) -> jax.Array:
    """(x - mean) / sqrt(var + eps) over the masked tokens of the batch, var with n - 1."""
    axes = tuple(range(values.ndim))
    centred, count = _stats.centre(values, mask, axis=axes)
    return centred * jax.lax.rsqrt(jnp.square(_stats.std(centred, count, 1, axis=axes)) + eps)
