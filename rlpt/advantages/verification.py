"""Advantages in which the policy's own verdicts have a share."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.advantages import _stats, group


def self_mixed(
    advantages: jax.Array,
    self_rewards: jax.Array,
    truncated: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    share: float = 0.1,
    min_std: float = 0.1,
    ddof: int = 1,
    eps: float = 1e-6,
) -> jax.Array:
    """(1 - share) A + share A_s, with A_s the group's standardised self-rewards.

    A_s is `group.grpo` of clip(r_s, 0, 1), where a completion that was cut off has r_s = 0.  In a
    group whose r_s have a std of at most min_std, A_s is A.

    Args:
      advantages: [P,G] or [P,G,T] float32, of an estimator before this one.
      self_rewards: [P,G] float32, of `rewards.verification.self_reward`.
      truncated, row_mask: [P,G] bool.
      share: the paper's tau, 0.1 after a warm-up of 200 steps in which it is 0; a schedule does.
      min_std: of the clipped r_s.  ddof, eps: of the standardisation.

    Returns: the shape of advantages.

    Reference: Yang et al., "LaSeR", arXiv:2510.14943.
    """
    chex.assert_equal_shape([self_rewards, truncated])
    rows = masks.live(self_rewards, row_mask)
    said = jnp.where(truncated, 0.0, jnp.clip(self_rewards, 0.0, 1.0))
    own = group.grpo(said, row_mask, ddof=ddof, eps=eps)
    varied = _stats.std(*_stats.centre(said, rows), ddof) > min_std
    if advantages.ndim == 3:
        own, varied = own[..., None], varied[..., None]
    return (1.0 - share) * advantages + share * jnp.where(varied, own, advantages)
