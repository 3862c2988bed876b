"""Strata: an integer a row that says which rows share their noise rates.

A verifier errs more on some tasks, prompts, answer formats or responses than on
others.  These transforms write `strata` [P,G] int32 from any column; -1 is a row
of no stratum.  Where the table has strata already, the new ones divide each of
them: two entries make the strata of task and format, say.
"""

from __future__ import annotations

import typing as tp

import jax
import jax.numpy as jnp

MAX_STRATA = 64  # rates are estimated for strata 0 to 63


def _write(
    new: jax.Array, count: int, row_mask: jax.Array, strata: jax.Array | None
) -> dict[str, jax.Array]:
    """The new strata, numbered within the old ones; -1 where either is none or the row is empty."""
    known = row_mask & (new >= 0)
    if strata is not None:
        known, new = known & (strata >= 0), strata * count + new
    return {"strata": jnp.where(known, new, -1).astype(jnp.int32)}


def _by_row(column: jax.Array, row_mask: jax.Array) -> jax.Array:
    return jnp.broadcast_to(column[:, None] if column.ndim == 1 else column, row_mask.shape)


def by_edges(
    column: jax.Array,
    row_mask: jax.Array,
    strata: jax.Array | None = None,
    *,
    edges: tp.Sequence[float] = (0.5,),
) -> dict[str, jax.Array]:
    """The bin of a number: 0 below edges[0], 1 from it on, and so forth; a bin more for NaN.

    That makes len(edges) + 2 strata: a verdict about the format (0, 1, NaN: not judged) 3 of them,
    and edges=() two, rows that a verifier judged and rows of tasks that it does not judge.

    Args:
      column: [P,G] or [P], float, int or bool, e.g. verdict/format or truncated.
      row_mask: [P,G] bool.  strata: [P,G] int32, to be divided.
      edges: increasing.

    Returns: strata [P,G] int32, -1 outside row_mask.

    Raises: ValueError for edges that do not increase.
    """
    edges = tuple(float(e) for e in edges)
    if list(edges) != sorted(set(edges)):
        raise ValueError(f"strata edges: got {edges}, expected increasing numbers")
    value = _by_row(column, row_mask).astype(jnp.float32)
    bins = jnp.sum(value[..., None] >= jnp.asarray(edges, jnp.float32), axis=-1)
    bins = jnp.where(jnp.isnan(value), len(edges) + 1, bins)
    return _write(bins, len(edges) + 2, row_mask, strata)


def by_id(
    column: jax.Array, row_mask: jax.Array, strata: jax.Array | None = None, *, count: int = 16
) -> dict[str, jax.Array]:
    """An identity modulo count, e.g. of the prompt; several identities may share a stratum.

    Args:
      column: [P] or [P,G] int32, e.g. prompt_id or answer_id; below 0: none.
      row_mask: [P,G] bool.  strata: [P,G] int32, to be divided.
      count: how many strata, at least 1.

    Returns: strata [P,G] int32, -1 outside row_mask and where there is no identity.

    Raises: ValueError for a count below 1.
    """
    if count < 1:
        raise ValueError(f"strata count: got {count}, expected at least 1")
    value = _by_row(column, row_mask)
    return _write(jnp.where(value >= 0, value % count, -1), count, row_mask, strata)
