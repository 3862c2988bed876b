"""Advantages of dense rewards without a baseline: what a token can still earn.

Tokens outside loss_mask (tool output, padding) are stepped over: nothing is
discounted there, and a reward that stands on one does not count.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.advantages import _tokens


def suffix(
    step_rewards: jax.Array,
    loss_mask: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    gamma: float = 1.0,
) -> jax.Array:
    """The discounted sum of the rewards from a token on; no baseline.

    Args:
      step_rewards: [P,G,T] float32.  loss_mask: [P,G,T] bool.  row_mask: [P,G] bool.
      gamma: discount per trained token.

    Returns: [P,G,T] float32.
    """
    chex.assert_equal_shape([step_rewards, loss_mask])
    mask = masks.trained(loss_mask, row_mask)
    return _tokens.discounted(step_rewards, mask, gamma)


def minimum(
    step_rewards: jax.Array,
    step_id: jax.Array,
    loss_mask: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    temperature: float = 0.1,
) -> jax.Array:
    """Soft minimum over steps instead of the sum: a good step cannot pay for a bad one.

    With r_k the reward on the last trained token of step k, w = softmax(-r / temperature) over the
    row's steps; the return of a token is the sum of w_k r_k over steps that end at or after it.

    Args:
      step_rewards: [P,G,T] float32; read at the last trained token of each step.
      step_id: [P,G,T] int32, -1: no step.
      loss_mask: [P,G,T] bool.  row_mask: [P,G] bool.
      temperature: > 0; towards 0 the minimum, towards infinity the mean.

    Returns: [P,G,T] float32; no baseline.

    Reference: Cheng et al., "Stop Summation" (PURE), arXiv:2504.15275.
    """
    chex.assert_equal_shape([step_rewards, step_id, loss_mask])
    mask = masks.trained(loss_mask, row_mask)
    ends = _tokens.step_ends(step_id, mask)
    weight = jax.nn.softmax(step_rewards / -temperature, axis=-1, where=ends)
    return _tokens.discounted(jnp.where(ends, weight * step_rewards, 0.0), mask, 1.0)
