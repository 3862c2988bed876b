"""Bonuses for rare final answers, added to advantages.

Reference: "Outcome-based Exploration for LLM Reasoning", arXiv:2509.06941.  The
formulas were not confirmed against the paper's text.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.advantages import _stats


def _add(advantages: jax.Array, bonus: jax.Array) -> jax.Array:
    return advantages + (bonus if advantages.ndim == 2 else bonus[..., None])


def historical(
    advantages: jax.Array,
    answer_id: jax.Array,
    answer_visits: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    coef: float,
    baseline: str = "mean",
    constant: float = 0.5,
) -> jax.Array:
    """A + coef (b - baseline), b = min(1, 1 / sqrt(visits of this answer to this prompt)).

    Args:
      advantages: [P,G] or [P,G,T] float32.
      answer_id: [P,G] int32; -1 (no answer): no bonus, and not in the mean.
      answer_visits: [P,G] float32 or int32, over training, the present one included.
      row_mask: [P,G] bool.
      coef: weight of the bonus.
      baseline: 'none'; 'mean' of the group; 'constant', below which an answer that was seen too
        often is discouraged.
      constant: of that baseline.

    Returns: the shape of advantages.

    Raises: ValueError for an unknown baseline.
    """
    chex.assert_equal_shape([answer_id, answer_visits])
    if baseline not in ("none", "mean", "constant"):
        raise ValueError(f"baseline: got {baseline!r}, expected 'none', 'mean' or 'constant'")
    rows = masks.live(answer_id, row_mask) & (answer_id >= 0)
    bonus = jax.lax.rsqrt(jnp.maximum(answer_visits, 1).astype(jnp.float32))
    if baseline != "none":
        bonus = bonus - (_stats.mean(bonus, rows) if baseline == "mean" else constant)
    return _add(advantages, coef * jnp.where(rows, bonus, 0.0))


def batch(
    advantages: jax.Array,
    answer_id: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    coef: float,
) -> jax.Array:
    """A - coef (1/n) #{j != i: the same answer}, n live rows of the group.

    Args: as `historical`.

    Returns: the shape of advantages.
    """
    live = masks.live(answer_id, row_mask)
    rows = live & (answer_id >= 0)
    same = (answer_id[:, :, None] == answer_id[:, None, :]) & rows[:, :, None] & rows[:, None, :]
    others = jnp.maximum(jnp.sum(same, axis=-1) - 1, 0)
    share = others / jnp.maximum(jnp.sum(live, axis=1, keepdims=True), 1)
    return _add(advantages, -coef * share)
