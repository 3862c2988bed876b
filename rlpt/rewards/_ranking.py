"""How well a number tells right rows from wrong ones."""

from __future__ import annotations

import typing as tp

import jax
import jax.numpy as jnp


def auc(score: jax.Array, right: jax.Array, wrong: jax.Array) -> jax.Array:
    """The share of pairs of a right and a wrong row in which the right one has the higher score.

    Args:
      score: [P,G] float32; pairs are within a row of it.  right, wrong: [P,G] bool.

    Returns: scalar; a tie counts as half a pair, and 0.5 stands where there is no pair.
    """
    more = jnp.sign(score[:, :, None] - score[:, None, :]) / 2.0 + 0.5
    pair = right[:, :, None] & wrong[:, None, :]
    count = jnp.sum(pair)
    share = jnp.sum(jnp.where(pair, more, 0.0)) / jnp.maximum(count, 1)
    return jnp.where(count > 0, share, 0.5)


def whole(*columns: jax.Array) -> tp.Iterator[jax.Array]:
    """Columns [P,G] as [1,PG], for pairs over the whole batch."""
    return (column.reshape(1, -1) for column in columns)
