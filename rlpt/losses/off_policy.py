"""Ratio and surrogate for rows that were drawn under another context than they are trained under.

Their log ratio is far from 0 already at the start of an update (`rollouts.guide`).
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt.losses import ratios, surrogates
from rlpt.losses._ratio import ratio


def product(logp: jax.Array, old_logp: jax.Array, loss_mask: jax.Array) -> jax.Array:
    """The log ratio of the whole row, sum_t (log pi_t - log pi_old,t), on each of its tokens.

    The one whose mean is unbiased: E_old[rho f grad log pi] is E_pi[f grad log pi], which with a
    ratio per token it is for rows of one token only.  Its variance grows with length.  Pair it with
    `aggregate.sequence_mean_token_mean`, which makes the gradient of a row A rho grad log pi(row).

    Args:
      logp: [P,G,T] under the current weights.  old_logp: [P,G,T] under the law of the draw.
      loss_mask: [P,G,T] bool.

    Returns: [P,G,T] float32, 0 where loss_mask is False.
    """
    total = jnp.sum(ratios.token(logp, old_logp, loss_mask), axis=-1, keepdims=True)
    return jnp.where(loss_mask, total, 0.0)


def shaped(
    log_ratio: jax.Array,
    advantages: jax.Array,
    origin: jax.Array,
    *,
    gamma: float = 0.1,
    low: float = 0.2,
    high: float = 0.2,
) -> jax.Array:
    """A f(rho), f(rho) = rho / (rho + gamma), for rows of another context; `ppo_clip` for others.

    f is in (0, 1), and f'(rho) = gamma / (rho + gamma)^2 is largest where rho is small: a token
    that the policy would hardly say learns more than with a plain ratio, and none is clipped.

    Args:
      log_ratio, advantages: [P,G,T] float32.
      origin: [P,G] int32; 1: another context.
      gamma: > 0; 0.1 in LUFFY.  low, high: of the clip.

    Returns: [P,G,T].

    Reference: the shaping is that of Yan et al., "Learning to Reason under Off-Policy Guidance"
    (LUFFY), arXiv:2504.14945.
    """
    chex.assert_equal_shape([log_ratio, advantages])
    rho = ratio(log_ratio)
    clipped = surrogates.ppo_clip(log_ratio, advantages, low=low, high=high)
    return jnp.where((origin == 1)[..., None], advantages * rho / (rho + gamma), clipped)
