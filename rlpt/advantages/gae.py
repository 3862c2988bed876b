"""Generalised advantage estimation with a critic."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.advantages import _tokens


def gae(
    values: jax.Array,
    loss_mask: jax.Array,
    rewards: jax.Array | None = None,
    step_rewards: jax.Array | None = None,
    row_mask: jax.Array | None = None,
    truncated: jax.Array | None = None,
    last_value: jax.Array | None = None,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    whiten: bool = True,
    eps: float = 1e-8,
    outcome_coef: float = 1.0,
    bootstrap_truncated: bool = False,
) -> dict[str, jax.Array]:
    """delta_t = x_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lam A_{t+1};  returns = A + V.

    x is outcome_coef times `rewards` on the row's last trained token, plus `step_rewards`.  Tokens
    outside loss_mask (tool output) are stepped over: the next V and A are carried through them
    unchanged.

    Args:
      values: [P,G,T] float32, of the prefix before each token.
      loss_mask: [P,G,T] bool.
      rewards: [P,G] float32.  step_rewards: [P,G,T] float32.  At least one of the two.
      row_mask: [P,G] bool.
      truncated: [P,G] bool.  last_value: [P,G] float32, of the state after the last token.
      gamma, lam: discount and trace decay per trained token.
      whiten: standardise the advantages over the batch's tokens (not the returns).
      eps: added to the variance then.
      outcome_coef: 0 where step_rewards already sum to the outcome, as those of
        `rewards.latent.lare` do.
      bootstrap_truncated: a truncated row ends in last_value, which the scorer
        `verification.end_value` writes; otherwise every row ends in 0.

    Returns: advantages and returns, [P,G,T] float32, 0 outside loss_mask and row_mask; scalar
      metrics/explained_variance, 1 - var(returns - values) / var(returns) over trained tokens (0
      where the returns are all alike).

    Raises: ValueError without any reward, or for bootstrap_truncated without its two columns.

    Reference: Schulman et al., "High-Dimensional Continuous Control Using GAE", arXiv:1506.02438.
    """
    chex.assert_equal_shape([values, loss_mask])
    mask = masks.trained(loss_mask, row_mask)
    outcome = None if rewards is None else outcome_coef * rewards
    dense = _tokens.token_rewards(mask, outcome, step_rewards)
    end = jnp.zeros(mask.shape[:2], jnp.float32)
    if bootstrap_truncated:
        if truncated is None or last_value is None:
            raise ValueError(
                "gae bootstrap_truncated=True needs the columns truncated and last_value, the "
                "latter of config.scorers = (dict(fn='verification.end_value', model='critic'),)"
            )
        end = jnp.where(truncated, last_value, end)

    def back(
        carry: tuple[jax.Array, jax.Array],
        token: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        next_value, next_advantage = carry
        x, value, own = token
        advantage = x + gamma * next_value - value + gamma * lam * next_advantage
        carry = (
            jnp.where(own, value, next_value),
            jnp.where(own, advantage, next_advantage),
        )
        return carry, advantage

    tokens = (jnp.moveaxis(dense, -1, 0), jnp.moveaxis(values, -1, 0), jnp.moveaxis(mask, -1, 0))
    _, out = jax.lax.scan(back, (end, jnp.zeros_like(end)), tokens, reverse=True)
    advantages = jnp.where(mask, jnp.moveaxis(out, 0, -1), 0.0)
    returns = jnp.where(mask, advantages + values, 0.0)
    unexplained, total = (_variance(x, mask) for x in (returns - values, returns))
    explained = 1.0 - unexplained / jnp.where(total > 0, total, 1.0)
    if whiten:
        advantages = _tokens.whiten(advantages, mask, eps)
    return {
        "advantages": advantages,
        "returns": returns,
        "metrics/explained_variance": jnp.where(total > 0, explained, 0.0),
    }


def _variance(x: jax.Array, mask: jax.Array) -> jax.Array:
    count = jnp.maximum(jnp.sum(mask), 1)
    mean = jnp.sum(jnp.where(mask, x, 0.0)) / count
    return jnp.sum(jnp.where(mask, jnp.square(x - mean), 0.0)) / count
