"""Rewards of the leaves of an explicit tree of segments, as the tree estimators read them."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def leaf_rewards(
    rewards: jax.Array,
    completion_mask: jax.Array,
    row_mask: jax.Array | None = None,
    node_parent: jax.Array | None = None,
    node_id: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """node_reward of the tree that a branching rollout made: a row's reward at its last segment.

    Args:
      rewards: [P,G] float32.  completion_mask: [P,G,T] bool.
      row_mask: [P,G] bool; False: no leaf.
      node_parent: [P,N] int32, N >= G, whose node j is the last segment of row j.
      node_id: [P,G,T] int32.  Without both every row is a tree of one node.

    Returns: node_reward [P,N] float32, NaN: not a leaf; node_parent and node_id.

    Raises: ValueError for one of node_parent and node_id without the other.
    """
    chex.assert_equal_shape_prefix([rewards, completion_mask], 2)
    if (node_parent is None) != (node_id is None):
        raise ValueError("leaf_rewards: got one of node_parent and node_id, expected both or none")
    if node_parent is None or node_id is None:
        node_parent = jnp.full(rewards.shape, -1, jnp.int32)
        row = jnp.arange(rewards.shape[1], dtype=jnp.int32)[:, None]
        node_id = jnp.where(completion_mask, row, -1)
    live = jnp.ones(rewards.shape, bool) if row_mask is None else row_mask
    inner = jnp.full((len(rewards), node_parent.shape[1] - rewards.shape[1]), jnp.nan)
    leaf = jnp.concatenate([jnp.where(live, rewards, jnp.nan), inner], axis=1)
    return {"node_reward": leaf, "node_parent": node_parent, "node_id": node_id}
