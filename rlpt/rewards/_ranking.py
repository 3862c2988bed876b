"""How well a number tells right rows from wrong ones."""

from __future__ import annotations

import typing as tp

import jax
import jax.numpy as jnp


def auc(score: jax.Array, right: jax.Array, wrong: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The share of pairs of a right and a wrong row in which the right one has the higher score.

    Args:
      score: [P,G] float32; pairs are within a row of it.  right, wrong: [P,G] bool.

    Returns: the share, in which a tie counts as half a pair and 0.5 stands where there is no pair,
      and the number of pairs; scalars.
    """
    others = jnp.sort(jnp.where(wrong, score, jnp.inf), axis=1)
    below = jax.vmap(lambda o, s: jnp.searchsorted(o, s, side="left"))(others, score)
    up_to = jax.vmap(lambda o, s: jnp.searchsorted(o, s, side="right"))(others, score)
    pairs = jnp.sum(jnp.sum(right, 1) * jnp.sum(wrong, 1).astype(jnp.float32))
    won = jnp.sum(jnp.where(right, (below + up_to) / 2.0, 0.0))
    return jnp.where(pairs > 0, won / jnp.maximum(pairs, 1.0), 0.5), pairs


def whole(*columns: jax.Array) -> tp.Iterator[jax.Array]:
    """Columns [P,G] as [1,PG], for pairs over the whole batch."""
    return (column.reshape(1, -1) for column in columns)
