"""Policy objectives per token, to be maximised.

The learner's policy term is -objective times the corrections times the weights
of an aggregation, summed.  Advantages come from the batch and carry no
gradient.  Ratios are exp of the log ratio clamped to +-20; beyond the clamp the
gradient is 0.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.losses._ratio import ratio


def reinforce(logp: jax.Array, advantages: jax.Array) -> jax.Array:
    """A_t log pi_t; its gradient is the score function estimator, A_t grad log pi_t.

    Args:
      logp, advantages: [P,G,T] float32.

    Returns: [P,G,T].

    Reference: Williams, "Simple statistical gradient-following algorithms", 1992.
    """
    chex.assert_equal_shape([logp, advantages])
    return advantages * logp


def ppo_clip(
    log_ratio: jax.Array, advantages: jax.Array, *, low: float = 0.2, high: float = 0.2
) -> jax.Array:
    """min(A rho, A clip(rho, 1 - low, 1 + high)).

    The gradient is A rho grad log pi, and 0 where the clipped branch is the smaller.

    Args:
      log_ratio, advantages: [P,G,T] float32.
      low, high: clip range, >= 0; DAPO: 0.2 and 0.28; GSPO: 3e-4 and 4e-4 (on a sequence ratio).

    Returns: [P,G,T].

    Reference: Schulman et al., arXiv:1707.06347, eq. 7; Yu et al., "DAPO", arXiv:2503.14476.
    """
    chex.assert_equal_shape([log_ratio, advantages])
    rho = ratio(log_ratio)
    return jnp.minimum(advantages * rho, advantages * jnp.clip(rho, 1.0 - low, 1.0 + high))


def dual_clip(
    log_ratio: jax.Array,
    advantages: jax.Array,
    *,
    low: float = 0.2,
    high: float = 0.2,
    c: float = 3.0,
) -> jax.Array:
    """`ppo_clip`, bounded below by c A where A < 0.

    Args:
      log_ratio, advantages, low, high: as `ppo_clip`.
      c: > 1 + high; the largest ratio that a negative advantage can meet.

    Returns: [P,G,T].

    Reference: Ye et al., "Mastering Complex Control in MOBA Games", arXiv:1912.09729.
    """
    objective = ppo_clip(log_ratio, advantages, low=low, high=high)
    return jnp.where(advantages < 0, jnp.maximum(objective, c * advantages), objective)


def cispo(
    log_ratio: jax.Array,
    logp: jax.Array,
    advantages: jax.Array,
    *,
    cap_low: float = 0.0,
    cap_high: float = 5.0,
) -> jax.Array:
    """sg(clip(rho, cap_low, cap_high)) A log pi: weights are clipped, no token loses its gradient.

    Args:
      log_ratio, logp, advantages: [P,G,T] float32.
      cap_low, cap_high: bounds on the ratio itself, not 1 -+ eps; the paper has no lower bound.

    Returns: [P,G,T].  Its value is not the surrogate return; only the gradient means something.

    Reference: MiniMax, "MiniMax-M1", arXiv:2506.13585.
    """
    chex.assert_equal_shape([log_ratio, logp, advantages])
    weight = jax.lax.stop_gradient(jnp.clip(ratio(log_ratio), cap_low, cap_high))
    return weight * advantages * logp


def stable_reinforce(
    log_ratio: jax.Array,
    advantages: jax.Array,
    *,
    low: float = 0.2,
    high: float = 0.2,
    floor: float = 1e-3,
    ceiling: float = 1e3,
) -> jax.Array:
    """`ppo_clip` of a ratio that is clipped to [floor, ceiling] before the exponential.

    The gradient is 0 outside the band, so that a negative advantage cannot explode.

    Args:
      log_ratio, advantages, low, high: as `ppo_clip`.
      floor, ceiling: bounds on the ratio, > 0.

    Returns: [P,G,T].

    Reference: Zhang et al., "R1-Reward", arXiv:2505.02835.
    """
    clipped = jnp.clip(log_ratio, jnp.log(floor), jnp.log(ceiling))
    return ppo_clip(clipped, advantages, low=low, high=high)


def rl_plus(
    log_ratio: jax.Array,
    logp: jax.Array,
    old_logp: jax.Array,
    advantages: jax.Array,
    origin: jax.Array,
    *,
    gamma: float = 0.5,
) -> jax.Array:
    """Unclipped ratio for the policy's rows, a bounded mixture ratio for external text.

    Own rows: A pi / pi_old.  External rows: A (1 - sg pi)^gamma 2 pi / (pi_old + (pi_old + 1) / 2),
    whose ratio is at most 4: pi <= 1 and the unknown behaviour law is taken as the mean of pi_old
    and the uniform bound 1.

    Args:
      log_ratio, logp, old_logp, advantages: [P,G,T] float32.
      origin: [P,G] int32; 3: external text.
      gamma: exponent of the factor that favours unlikely tokens.

    Returns: [P,G,T].

    Reference: Dong et al., "RL-PLUS", arXiv:2508.00222; gamma from the authors' code.
    """
    chex.assert_equal_shape([log_ratio, logp, old_logp, advantages])
    prob = jnp.exp(jnp.minimum(logp, 0.0))
    old_prob = jnp.exp(jnp.minimum(old_logp, 0.0))
    mixture = 2.0 * prob / (old_prob + 0.5 * (old_prob + 1.0))
    explore = jnp.power(1.0 - jax.lax.stop_gradient(prob), gamma)
    external = (origin == 3)[..., None]
    return advantages * jnp.where(external, explore * mixture, ratio(log_ratio))


def clip_metrics(
    log_ratio: jax.Array,
    advantages: jax.Array,
    loss_mask: jax.Array,
    row_mask: jax.Array | None = None,
    origin: jax.Array | None = None,
    *,
    low: float = 0.2,
    high: float = 0.2,
    c: float | None = None,
) -> dict[str, jax.Array]:
    """What a clip of [1 - low, 1 + high] does to this batch.

    Args:
      log_ratio, advantages: [P,G,T].  loss_mask: [P,G,T] bool.  row_mask: [P,G] bool.
      origin: [P,G] int32; rows of external text or another context (1, 3) are left out.
      low, high: as in the surrogate.  c: of the dual clip; None: not reported.

    Returns: scalars over the trained tokens: clip_fraction (the clipped branch is active),
      clip_fraction_low (of these with A < 0), clip_fraction_high (with A > 0), with c also
      dual_clip_fraction; ratio_mean and ratio_max, before any clipping; ppo_kl, the mean of
      log pi_old - log pi.
    """
    mask = masks.trained(loss_mask, row_mask)
    if origin is not None:
        mask = mask & ((origin == 0) | (origin == 2))[..., None]
    count = jnp.maximum(jnp.sum(mask), 1)

    def share(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(mask, x, 0.0)) / count

    rho = ratio(log_ratio)
    below = (advantages < 0) & (rho < 1.0 - low)
    above = (advantages > 0) & (rho > 1.0 + high)
    metrics = {
        "clip_fraction": share(below | above),
        "clip_fraction_low": share(below),
        "clip_fraction_high": share(above),
        "ratio_mean": share(rho),
        "ratio_max": jnp.max(jnp.where(mask, rho, 0.0)),
        "ppo_kl": share(-log_ratio),
    }
    if c is not None:
        metrics["dual_clip_fraction"] = share((advantages < 0) & (rho > c))
    return metrics
