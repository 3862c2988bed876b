"""Log importance ratios of the policy to the policy that made the batch.

Each function returns log ratios [P,G,T], 0 where loss_mask is False.  The
surrogates exponentiate; they clamp to +-20 first.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def token(logp: jax.Array, old_logp: jax.Array, loss_mask: jax.Array) -> jax.Array:
    """One ratio a token: log pi_t - log pi_old,t.

    Args:
      logp: [P,G,T] under the current weights.  old_logp: [P,G,T] at the start of the update.
      loss_mask: [P,G,T] bool.

    Returns: [P,G,T] float32.

    Reference: Schulman et al., "Proximal Policy Optimization Algorithms", arXiv:1707.06347.
    """
    chex.assert_equal_shape([logp, old_logp, loss_mask])
    return jnp.where(loss_mask, logp - old_logp, 0.0)


def _row_mean(log_ratio: jax.Array, loss_mask: jax.Array) -> jax.Array:
    length = jnp.maximum(jnp.sum(loss_mask, axis=-1, keepdims=True), 1)
    return jnp.sum(log_ratio, axis=-1, keepdims=True) / length


def sequence(logp: jax.Array, old_logp: jax.Array, loss_mask: jax.Array) -> jax.Array:
    """GSPO: the mean log ratio of the row, on each of its tokens.

    log s_i = (1/L_i) sum_t (log pi_t - log pi_old,t).  Pair it with
    `aggregate.sequence_mean_token_mean`; the gradient of a row is then
    A_i s_i (1/L_i) sum_t grad log pi_t.

    Args, Returns: as `token`.

    Reference: Zheng et al., "Group Sequence Policy Optimization", arXiv:2507.18071.
    """
    mean = _row_mean(token(logp, old_logp, loss_mask), loss_mask)
    return jnp.where(loss_mask, mean, 0.0)


def sequence_token(logp: jax.Array, old_logp: jax.Array, loss_mask: jax.Array) -> jax.Array:
    """GSPO-token: the value of `sequence`, the gradient of each token's own log-prob.

    log s_it = sg(log s_i) + log pi_t - sg(log pi_t), which allows advantages that differ
    between the tokens of a row.

    Args, Returns: as `token`.

    Reference: Zheng et al., arXiv:2507.18071.
    """
    mean = _row_mean(token(logp, old_logp, loss_mask), loss_mask)
    own = logp - jax.lax.stop_gradient(logp)
    return jnp.where(loss_mask, jax.lax.stop_gradient(mean) + own, 0.0)
