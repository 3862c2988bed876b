"""Which rows and which tokens count: what rewards, advantages and losses ask first."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def live(like: jax.Array, row_mask: jax.Array | None) -> jax.Array:
    """row_mask as it is; None: all rows of `like` [P,G,...].  [P,G] bool."""
    return jnp.ones(like.shape[:2], bool) if row_mask is None else row_mask


def trained(
    loss_mask: jax.Array, row_mask: jax.Array | None, train_mask: jax.Array | None = None
) -> jax.Array:
    """loss_mask [P,G,T] without the rows that are out, of statistics or of training."""
    chex.assert_rank(loss_mask, 3)
    for rows in (row_mask, train_mask):
        if rows is not None:
            chex.assert_shape(rows, loss_mask.shape[:2])
            loss_mask = loss_mask & rows[..., None]
    return loss_mask


def own_law(loss_mask: jax.Array, origin: jax.Array | None) -> jax.Array:
    """loss_mask [P,G,T] without rows of origin 1 and 3: of another context, or another author."""
    if origin is None:
        return loss_mask
    return loss_mask & ((origin != 1) & (origin != 3))[..., None]


def last_token(loss_mask: jax.Array) -> jax.Array:
    """[P,G,T] bool: the last True of each row."""
    behind = jnp.cumsum(loss_mask[..., ::-1], axis=-1)[..., ::-1]
    return loss_mask & (behind == 1)
