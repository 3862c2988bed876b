"""Advantages standardised over all trained tokens of the batch (REINFORCE++).

Statistics are over tokens, so long rows weigh more; on several devices they are
those of the whole batch.  The variance is unbiased (n - 1) and eps is added to
it, as in verl.  A batch of equal values gets exactly 0.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.advantages import _stats, _tokens


def reinforce_pp(
    rewards: jax.Array,
    loss_mask: jax.Array,
    row_mask: jax.Array | None = None,
    step_rewards: jax.Array | None = None,
    *,
    gamma: float = 1.0,
    eps: float = 1e-8,
) -> jax.Array:
    """REINFORCE++: whitened discounted returns.

    The reward of a row stands on its last trained token, step_rewards (a KL penalty, say) on
    theirs; G_t = x_t + gamma G_{t+1}; A = (G - mean) / sqrt(var + eps).

    Args:
      rewards: [P,G] float32.  loss_mask: [P,G,T] bool.  row_mask: [P,G] bool.
      step_rewards: [P,G,T] float32.
      gamma: discount per trained token.  eps: added to the variance.

    Returns: [P,G,T] float32.

    Reference: Hu et al., "REINFORCE++", arXiv:2501.03262.
    """
    chex.assert_shape(rewards, loss_mask.shape[:2])
    mask = masks.trained(loss_mask, row_mask)
    dense = _tokens.token_rewards(mask, rewards, step_rewards)
    return _tokens.whiten(_tokens.discounted(dense, mask, gamma), mask, eps)


def reinforce_pp_baseline(
    rewards: jax.Array,
    loss_mask: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    eps: float = 1e-8,
) -> jax.Array:
    """REINFORCE++-baseline: rewards minus the group mean, whitened over the batch's tokens.

    Args:
      rewards: [P,G] float32.  loss_mask: [P,G,T] bool.  row_mask: [P,G] bool.
      eps: added to the variance.

    Returns: [P,G,T] float32.

    Raises: ValueError for G=1.

    Reference: Hu et al., arXiv:2501.03262.
    """
    chex.assert_shape(rewards, loss_mask.shape[:2])
    _stats.require_group(rewards, False)
    centred, _ = _stats.centre(rewards, masks.live(rewards, row_mask))
    mask = masks.trained(loss_mask, row_mask)
    return _tokens.whiten(jnp.where(mask, centred[..., None], 0.0), mask, eps)
