"""Factors for the gap between the law that drew a token and the policy of the update.

w_t = exp(old_logp_t - sampler_logp_t), clamped to +-20 in the exponent.  Each
function returns a factor [P,G,T] for the policy term, 0 where loss_mask is
False; with sampler_logp == old_logp the factor is exactly 1.  Rows of another
context or of external text (origin 1, 3) have no sampler law to compare with
and get 1.  The factors come from the batch and carry no gradient.

Factors are not normalised to mean 1 over the batch: that would depend on how a
batch is cut.  Reference: Yao et al., "Your efficient RL framework secretly
brings you off-policy RL training" (truncated importance sampling), 2025.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.losses._ratio import ratio


def _comparable(loss_mask: jax.Array, origin: jax.Array | None) -> jax.Array:
    """Trained tokens of rows whose sampler law is that of the policy, now or before."""
    if origin is None:
        return loss_mask
    return loss_mask & ((origin == 0) | (origin == 2))[..., None]


def _gap(old_logp: jax.Array, sampler_logp: jax.Array, mask: jax.Array) -> jax.Array:
    chex.assert_equal_shape([old_logp, sampler_logp, mask])
    return jnp.where(mask, old_logp - sampler_logp, 0.0)


def _factor(weight: jax.Array, loss_mask: jax.Array, comparable: jax.Array) -> jax.Array:
    """The weight where laws can be compared, 1 at other trained tokens, 0 at padding."""
    return jnp.where(comparable, weight, jnp.where(loss_mask, 1.0, 0.0))


def token_tis(
    old_logp: jax.Array,
    sampler_logp: jax.Array,
    loss_mask: jax.Array,
    origin: jax.Array | None = None,
    *,
    cap: float = 2.0,
    floor: float = 0.0,
) -> jax.Array:
    """Truncated importance sampling per token: clip(w_t, floor, cap).

    Args:
      old_logp, sampler_logp: [P,G,T] float32.  loss_mask: [P,G,T] bool.
      origin: [P,G] int32; None: all rows are the policy's.
      cap, floor: bounds on the weight.

    Returns: [P,G,T] float32.
    """
    mask = _comparable(loss_mask, origin)
    weight = ratio(_gap(old_logp, sampler_logp, mask))
    return _factor(jnp.clip(weight, floor, cap), loss_mask, mask)


def sequence_tis(
    old_logp: jax.Array,
    sampler_logp: jax.Array,
    loss_mask: jax.Array,
    origin: jax.Array | None = None,
    *,
    cap: float = 2.0,
) -> jax.Array:
    """Truncated importance sampling per row: min(prod_t w_t, cap) on each of its tokens.

    The product grows with length: a mean gap of 0.012 over 100 tokens is already 3.3.

    Args, Returns: as `token_tis`.
    """
    mask = _comparable(loss_mask, origin)
    log_weight = jnp.sum(_gap(old_logp, sampler_logp, mask), axis=-1, keepdims=True)
    return _factor(jnp.minimum(ratio(log_weight), cap), loss_mask, mask)


def token_mask(
    old_logp: jax.Array,
    sampler_logp: jax.Array,
    loss_mask: jax.Array,
    origin: jax.Array | None = None,
    *,
    low: float = 0.5,
    high: float = 2.0,
) -> jax.Array:
    """Masked importance sampling (MIS, IcePop): w_t if it lies in [low, high], else 0.

    Args:
      low, high: bounds on the weight, included.  The others as `token_tis`.

    Returns: [P,G,T] float32.
    """
    mask = _comparable(loss_mask, origin)
    weight = ratio(_gap(old_logp, sampler_logp, mask))
    kept = (weight >= low) & (weight <= high)
    return _factor(jnp.where(kept, weight, 0.0), loss_mask, mask)


def sequence_mask(
    old_logp: jax.Array,
    sampler_logp: jax.Array,
    loss_mask: jax.Array,
    origin: jax.Array | None = None,
    *,
    low: float = 0.0,
    high: float = 3.0,
) -> jax.Array:
    """The row's weight prod_t w_t if it lies in [low, high], else 0, on each of its tokens.

    Args:
      low, high: bounds on the product, included; see `sequence_tis` on its growth with length.

    Returns: [P,G,T] float32.
    """
    mask = _comparable(loss_mask, origin)
    weight = ratio(jnp.sum(_gap(old_logp, sampler_logp, mask), axis=-1, keepdims=True))
    kept = (weight >= low) & (weight <= high)
    return _factor(jnp.where(kept, weight, 0.0), loss_mask, mask)


def geometric_rejection(
    old_logp: jax.Array,
    sampler_logp: jax.Array,
    loss_mask: jax.Array,
    origin: jax.Array | None = None,
    *,
    low: float = 0.99,
    high: float = 1.01,
) -> jax.Array:
    """1 if the row's geometric mean weight lies in [low, high], else 0; independent of length.

    Args:
      low, high: bounds on exp(mean_t log w_t), included.

    Returns: [P,G,T] float32.
    """
    mask = _comparable(loss_mask, origin)
    length = jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1)
    gap = jnp.sum(_gap(old_logp, sampler_logp, mask), axis=-1, keepdims=True)
    mean = ratio(gap / length)
    return _factor(jnp.where((mean >= low) & (mean <= high), 1.0, 0.0), loss_mask, mask)


def mismatch_metrics(
    old_logp: jax.Array,
    sampler_logp: jax.Array,
    loss_mask: jax.Array,
    row_mask: jax.Array | None = None,
    origin: jax.Array | None = None,
    *,
    cap: float = 2.0,
) -> dict[str, jax.Array]:
    """How far the sampler's law is from the policy that the update starts with.

    Args:
      old_logp, sampler_logp: [P,G,T].  loss_mask: [P,G,T] bool.  row_mask: [P,G] bool.
      origin: [P,G] int32; only rows of origin 0 are measured.
      cap: of the weight, for the truncated share.

    Returns: scalars over the measured tokens: gap_mean and gap_max of |old - sampler|,
      truncated_fraction (w > cap), weight_mean (untruncated), k3 (estimates
      KL(sampler || old)), chi2 (mean w^2 - 1).
    """
    mask = masks.trained(loss_mask, row_mask)
    if origin is not None:
        mask = mask & (origin == 0)[..., None]
    gap = _gap(old_logp, sampler_logp, mask)
    weight = ratio(gap)
    count = jnp.sum(mask)

    def mean(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(count, 1)

    return {
        "gap_mean": mean(jnp.abs(gap)),
        "gap_max": jnp.max(jnp.abs(gap)),
        "truncated_fraction": mean(weight > cap),
        "weight_mean": mean(weight),
        "k3": mean(weight - 1.0 - gap),
        "chi2": jnp.where(count > 0, mean(jnp.square(weight)) - 1.0, 0.0),
    }
