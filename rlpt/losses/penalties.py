"""Terms that are minimised beside the policy objective: KL, entropy, value, PACS.

Each returns a value per token [P,G,T]; weights and coefficient are the
learner's.  With tokens drawn from pi and l = log pi - log ref, the three KL
estimators have these expected gradients when the draw is not differentiated:
k1 none, k2 that of KL(pi||ref), k3 that of KL(ref||pi), and the ratio times k3
that of KL(pi||ref).  Schulman, "Approximating KL divergence", 2020.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.losses._ratio import MAX_LOG_RATIO, ratio


def k1(logp: jax.Array, ref_logp: jax.Array) -> jax.Array:
    """l = log pi - log ref: unbiased, and as a loss inert (expected gradient 0).

    Put it in the reward (`rewards.shaping.kl_in_reward`) to regularise; here it is for
    measurement.

    Args:
      logp, ref_logp: [P,G,T] float32.

    Returns: [P,G,T].
    """
    chex.assert_equal_shape([logp, ref_logp])
    return logp - ref_logp


def k2(logp: jax.Array, ref_logp: jax.Array) -> jax.Array:
    """l^2 / 2: biased in value, its expected gradient is exactly that of KL(pi||ref).

    Args, Returns: as `k1`.
    """
    return 0.5 * jnp.square(k1(logp, ref_logp))


def k3(logp: jax.Array, ref_logp: jax.Array) -> jax.Array:
    """exp(-l) - 1 + l: >= 0, unbiased, low variance; -l above 20 counts as 20, without gradient.

    Args, Returns: as `k1`.

    Reference: Shao et al., "DeepSeekMath", arXiv:2402.03300, eq. 4.
    """
    difference = k1(logp, ref_logp)
    exponent = jnp.clip(-difference, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    return jnp.expm1(exponent) - jnp.minimum(-difference, MAX_LOG_RATIO)


def k3_straight_through(logp: jax.Array, ref_logp: jax.Array) -> jax.Array:
    """The value of k3 with the gradient of k2.

    Args, Returns: as `k1`.
    """
    quadratic = k2(logp, ref_logp)
    return quadratic + jax.lax.stop_gradient(k3(logp, ref_logp) - quadratic)


def k3_ratio(log_ratio: jax.Array, logp: jax.Array, ref_logp: jax.Array) -> jax.Array:
    """rho k3 with a differentiable ratio: expected gradient of KL(pi||ref), off-policy too.

    Tokens at which k3 is clamped have no gradient.

    Args:
      log_ratio: [P,G,T] float32, of `losses.ratios.token`.  logp, ref_logp: as `k1`.

    Returns: [P,G,T].

    Reference: DeepSeek-AI, "DeepSeek-V3.2", arXiv:2512.02556.
    """
    rho = ratio(log_ratio)
    clamped = k1(logp, ref_logp) < -MAX_LOG_RATIO
    return jnp.where(clamped, jax.lax.stop_gradient(rho), rho) * k3(logp, ref_logp)


def entropy_bonus(entropy: jax.Array) -> jax.Array:
    """-H_t: with a positive coefficient the policy's entropy is raised.

    Args:
      entropy: [P,G,T] float32, nats, from the full logits.

    Returns: [P,G,T].
    """
    return -entropy


def scaled_k3(logp: jax.Array, ref_logp: jax.Array, kl_coef: jax.Array) -> jax.Array:
    """`k3` times a coefficient per row, such as that of `rewards.controllers.adaptive_kl`.

    Args:
      logp, ref_logp: as `k1`.  kl_coef: [P,G] float32.

    Returns: [P,G,T].
    """
    chex.assert_shape(kl_coef, logp.shape[:2])
    return kl_coef[..., None] * k3(logp, ref_logp)


def scaled_entropy_bonus(entropy: jax.Array, entropy_coef: jax.Array) -> jax.Array:
    """`entropy_bonus` times a coefficient per row, as of `rewards.controllers.adaptive_entropy`.

    Args:
      entropy: as `entropy_bonus`.  entropy_coef: [P,G] float32.

    Returns: [P,G,T].
    """
    chex.assert_shape(entropy_coef, entropy.shape[:2])
    return entropy_coef[..., None] * entropy_bonus(entropy)


def value_mse(value: jax.Array, returns: jax.Array) -> jax.Array:
    """Half the squared error of the critic.

    Args:
      value: [P,G,T] float32, the critic now.  returns: [P,G,T] float32.

    Returns: [P,G,T].
    """
    chex.assert_equal_shape([value, returns])
    return 0.5 * jnp.square(value - returns)


def value_clip(
    value: jax.Array, returns: jax.Array, old_value: jax.Array, *, clip: float = 0.2
) -> jax.Array:
    """Half the larger squared error of the value and of the value clipped around the old one.

    0.5 max((v - R)^2, (clip(v, v_old - clip, v_old + clip) - R)^2).

    Args:
      value, returns: as `value_mse`.
      old_value: [P,G,T] float32, the critic at the start of the update.
      clip: > 0, in units of the return.

    Returns: [P,G,T].
    """
    chex.assert_equal_shape([value, returns, old_value])
    clipped = jnp.clip(value, old_value - clip, old_value + clip)
    return jnp.maximum(value_mse(value, returns), value_mse(clipped, returns))


def pacs(
    logp: jax.Array,
    old_logp: jax.Array,
    loss_mask: jax.Array,
    rewards: jax.Array,
    row_mask: jax.Array | None = None,
    train_mask: jax.Array | None = None,
    *,
    beta: float = 1.0,
    threshold: float = 0.5,
    class_weights: bool = True,
) -> jax.Array:
    """Supervised form of RLVR: predict the verdict from the leave-one-out log ratio.

    u_i = beta sum_t (log pi - log pi_old), psi_i = u_i - mean_{j != i} u_j,
    value_i = omega_i BCE(sigmoid(psi_i), R_i), omega = n / (2 n_class) if the group has both
    classes, else 1.  The gradient flows through every u_j that trains: the term couples the rows of
    a group, which have to be in one block.

    Args:
      logp, old_logp: [P,G,T] float32.  loss_mask: [P,G,T] bool.
      rewards: [P,G] float32; R_i = 1 if above `threshold`.
      row_mask, train_mask: [P,G] bool; rows that do not train are others to those that do.
      beta: scale of the log ratio.  class_weights: False: omega = 1.

    Returns: [P,G,T], the row's value on each of its trained tokens; with
      `aggregate.sequence_mean_token_mean` the loss is the mean over rows.

    Reference: Li et al., "Implicit Actor Critic Coupling" (PACS), arXiv:2509.02522.  Differs
    from the authors' code in: the sum is masked.
    """
    chex.assert_equal_shape([logp, old_logp, loss_mask])
    rows = jnp.any(loss_mask, axis=-1)
    rows = rows & masks.live(rows, row_mask)
    count = jnp.sum(rows, axis=1, keepdims=True)
    log_ratio = beta * jnp.sum(jnp.where(loss_mask, logp - old_logp, 0.0), axis=-1)
    train = masks.live(rows, train_mask)
    log_ratio = jnp.where(train, log_ratio, jax.lax.stop_gradient(log_ratio))
    others = jnp.sum(jnp.where(rows, log_ratio, 0.0), axis=1, keepdims=True) - log_ratio
    psi = jnp.where(rows, log_ratio - others / jnp.maximum(count - 1, 1), 0.0)
    correct = rows & (rewards > threshold)
    value = jax.nn.softplus(psi) - psi * correct
    if class_weights:
        positives = jnp.sum(correct, axis=1, keepdims=True)
        own_class = jnp.where(correct, positives, count - positives)
        both = (positives > 0) & (positives < count)
        value = value * jnp.where(both, count / (2.0 * jnp.maximum(own_class, 1)), 1.0)
    value = jnp.where(jnp.isnan(rewards), jnp.nan, value)  # not a wrong row
    return jnp.where(loss_mask & rows[..., None], value[..., None], 0.0)


pacs.couples_rows = True  # type: ignore[attr-defined]
