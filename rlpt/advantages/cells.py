"""Advantages standardised within cells of the batch: rows that do the same kind of task.

A cell is not a group: its rows answer different prompts, and what they share is the role and the
type of the task, whose rewards have a scale of their own.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.advantages import _stats


def task_relative(
    rewards: jax.Array,
    cell: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    cells: int = 6,
    ddof: int = 1,
    eps: float = 1e-8,
) -> jax.Array:
    """Task-relative REINFORCE++: A = (r - mean of the cell) / (std of the cell + eps).

    Args:
      rewards: [P,G] float32.
      cell: [P,G] int32 in [0, cells), such as 3 x role + type; rows of others get 0.
      row_mask: [P,G] bool.
      cells: how many there are.
      ddof, eps: of the std.

    Returns: [P,G] float32; 0 in cells whose rewards are all equal, or of one row.

    Raises: ValueError for cells < 1.

    Reference: Zhao et al., "Absolute Zero", arXiv:2505.03335 (six baselines, by role and type).
    Differs from the code in: statistics are over rows, there over their tokens.
    """
    chex.assert_equal_shape([rewards, cell])
    if cells < 1:
        raise ValueError(f"task_relative cells: got {cells}, expected at least 1")
    rows = masks.live(rewards, row_mask)

    def within(k: jax.Array) -> jax.Array:
        own = rows & (cell == k)
        centred, count = _stats.centre(rewards, own, axis=(0, 1))
        return centred / (_stats.std(centred, count, ddof, axis=(0, 1)) + eps)

    return jnp.sum(jax.vmap(within)(jnp.arange(cells)), axis=0)
