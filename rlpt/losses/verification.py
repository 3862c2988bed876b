"""The loss that makes a policy's verdict on its own completion come true.

The verdict is the likelihood of one token behind the completion (`rollouts.laser`), which is read
and not sampled: the last of completion_mask, outside loss_mask.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks


def self_reward_mse(
    logp: jax.Array,
    self_reference: jax.Array,
    completion_mask: jax.Array,
    rewards: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    beta: float = 0.1,
) -> jax.Array:
    """(r_s - r)^2 at the token behind the completion, r_s = beta (log pi - c).

    Args:
      logp: [P,G,T] float32, of the policy.  completion_mask: [P,G,T] bool.
      self_reference: [P,G] float32, c; NaN: a row of another stage, which adds nothing.
      rewards: [P,G] float32, 1 right, 0 wrong.  row_mask: [P,G] bool.
      beta: as in `rewards.verification.self_reward`.

    Returns: [P,G,T], 0 elsewhere; weigh it with `class_balanced`.

    Reference: Yang et al., "LaSeR", arXiv:2510.14943.
    """
    chex.assert_equal_shape([logp, completion_mask])
    chex.assert_equal_shape([self_reference, rewards])
    known = (~jnp.isnan(self_reference) & masks.live(rewards, row_mask))[..., None]
    reference = jnp.where(known, self_reference[..., None], 0.0)
    error = beta * (logp - reference) - jnp.where(known, rewards[..., None], 0.0)
    return jnp.where(masks.last_token(completion_mask) & known, jnp.square(error), 0.0)


def class_balanced(
    completion_mask: jax.Array,
    rewards: jax.Array,
    truncated: jax.Array,
    row_mask: jax.Array | None = None,
    train_mask: jax.Array | None = None,
) -> jax.Array:
    """Weights on the last token of each completion, with which right and wrong rows weigh alike.

    omega / N with omega = N / (2 N_class) over the N = N_right + N_wrong rows that were not cut
    off: the right rows have half of the weight, the wrong ones the other half.

    Args:
      completion_mask: [P,G,T] bool.  rewards: [P,G] float32, right if above 0.5.
      truncated, row_mask, train_mask: [P,G] bool.

    Returns: [P,G,T] float32; a class without rows has no weight.

    Reference: Yang et al., "LaSeR", arXiv:2510.14943.
    """
    chex.assert_equal_shape([rewards, truncated])
    rows = ~truncated
    for mask in (row_mask, train_mask):
        if mask is not None:
            rows = rows & mask
    right = rewards > 0.5
    of_class = jnp.where(right, jnp.sum(rows & right), jnp.sum(rows & ~right))
    weight = jnp.where(rows, 0.5 / jnp.maximum(of_class, 1), 0.0)
    return jnp.where(masks.last_token(completion_mask), weight[..., None], 0.0).astype(jnp.float32)
