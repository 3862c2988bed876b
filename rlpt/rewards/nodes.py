"""Rewards of the leaves of an explicit tree of segments, as the tree estimators read them."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks


def leaf_rewards(
    rewards: jax.Array,
    leaf_parent: jax.Array,
    fork_parent: jax.Array,
    row_mask: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """The tree that a branching rollout made, a row's reward at its last segment.

    Args:
      rewards: [P,G] float32.
      leaf_parent: [P,G] int32, the parent of node j, the last segment of row j; -1: a root.
      fork_parent: [P,G] int32, the parent of node G + j, the segment that ends where row j, and no
        row before it, branches off; -1: a root or no node.
      row_mask: [P,G] bool; False: no leaf.

    Returns: node_parent [P,2G] int32 and node_reward [P,2G] float32, NaN: not a leaf.
    """
    chex.assert_equal_shape([rewards, leaf_parent, fork_parent])
    live = masks.live(rewards, row_mask)
    leaf = jnp.where(live, rewards, jnp.nan)
    return {
        "node_parent": jnp.concatenate([leaf_parent, fork_parent], axis=1),
        "node_reward": jnp.concatenate([leaf, jnp.full_like(leaf, jnp.nan)], axis=1),
    }
