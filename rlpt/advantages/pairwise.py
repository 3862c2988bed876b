"""Advantages from being better than one other completion of the group."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.advantages import _stats


def brpo(
    rewards: jax.Array,
    reference_row: jax.Array,
    row_mask: jax.Array | None = None,
    train_mask: jax.Array | None = None,
    *,
    tie: float = -1.0,
    bound: float = 0.9,
) -> dict[str, jax.Array]:
    """+1 for what is better than the group's reference row, -1 for what is not; nothing else.

    A_i = 1 if r_i > r_k, `tie` if r_i = r_k, else -1, k the reference row, which does not train.
    A group does not train if |mean of A_i over the other rows| > bound: it has no contrast left.

    Args:
      rewards: [P,G] float32: scores; or, of `verifiers.rubric.pairwise`, how surely each row is
        better than the reference, which has 0.5 itself.
      reference_row: [P] int32, k; drawn uniformly by the rollout `reference.bootstrapped`.
      row_mask, train_mask: [P,G] bool.  If the reference row is out, so is its group.
      tie: of a row that is as good.
      bound: in (0, 1]; 1 drops no group.

    Returns: advantages [P,G] float32; train_mask [P,G] bool.

    Reference: Jia et al., "Writing-Zero" (BRPO), arXiv:2506.00103.  What a tie gets and the bound
    were not confirmed against the paper's text.
    """
    chex.assert_rank([rewards, reference_row], [2, 1])
    rows = masks.live(rewards, row_mask)
    reference = jnp.arange(rewards.shape[1]) == reference_row[:, None]
    others = rows & ~reference & jnp.any(rows & reference, axis=1, keepdims=True)
    against = jnp.sum(jnp.where(reference & rows, rewards, 0.0), axis=1, keepdims=True)
    sign = jnp.where(rewards > against, 1.0, jnp.where(rewards == against, tie, -1.0))
    sign = jnp.where(others, _stats.known(rewards + against, sign), 0.0)
    mean = jnp.sum(sign, axis=1, keepdims=True) / jnp.maximum(jnp.sum(others, 1, keepdims=True), 1)
    keep = others & ~(jnp.abs(mean) > bound) & masks.live(rewards, train_mask)
    return {"advantages": sign, "train_mask": keep}
