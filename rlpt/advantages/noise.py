"""Advantages for rewards that a noisy verifier gave, in a form that keeps the correction.

The channel: fp_rate = P(observed 1 | true 0), fn_rate = P(observed 0 | true 1),
c = 1 - fp_rate - fn_rate > 0.  For binary rewards both corrections are affine in
the reward, so centring and dividing by the group's std would undo them exactly;
the scale here is fixed and the baseline leaves the own row out.  Where the
channel is the same for all prompts, uncorrected rewards already give a parallel
gradient and a correction changes scale and variance only; it turns the update
where rates differ between prompts.  `audit` measures what it did.

Rates come from the config, or per row from the columns fp_rates and fn_rates
(known by stratum: `rewards.noise.known_rates`; estimated: `rewards.appeals`),
which win over the config.  `rlpt.probe` looks for functions marked
`corrects_noise` and stops a run in which a later step would undo them.

Reference: Cai et al., "Reinforcement Learning with Verifiable yet Noisy Rewards
under Imperfect Verifiers", arXiv:2510.00915, sec. 3-4 and appendix B.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import channel, masks
from rlpt.advantages import _stats, _tokens

Rate = jax.Array | float


def _rates(
    fp_rates: jax.Array | None, fn_rates: jax.Array | None, fp_rate: Rate, fn_rate: Rate
) -> tuple[Rate, Rate]:
    """The columns where given, else the settings; configured constants are checked."""
    fp = fp_rate if fp_rates is None else fp_rates
    fn = fn_rate if fn_rates is None else fn_rates
    channel.check(fp, fn)
    return fp, fn


def _leave_one_out(x: jax.Array, rows: jax.Array) -> jax.Array:
    """x_i - mean_{j != i} x_j; x_i itself where a group has one live row."""
    centred, count = _stats.centre(x, rows)
    alone = jnp.where(rows, x, 0.0)
    return jnp.where(count > 1, centred * count / jnp.maximum(count - 1, 1), alone)


def control(
    rewards: jax.Array, row_mask: jax.Array | None = None, *, scale: float = 1.0
) -> jax.Array:
    """The same plumbing without a correction: a_i = (r_i - mean_{j != i} r_j) / scale.

    Args:
      rewards: [P,G] float32, observed.  row_mask: [P,G] bool.
      scale: fixed, > 0; never this group's std.

    Returns: [P,G] float32.
    """
    chex.assert_rank(rewards, 2)
    return _leave_one_out(rewards, masks.live(rewards, row_mask)) / scale


def backward(
    rewards: jax.Array,
    row_mask: jax.Array | None = None,
    fp_rates: jax.Array | None = None,
    fn_rates: jax.Array | None = None,
    *,
    fp_rate: float = 0.0,
    fn_rate: float = 0.0,
    eps_c: float = 0.1,
    scale: float = 1.0,
) -> jax.Array:
    """Backward correction (PGBC): rewards that are unbiased for the true ones, leave-one-out.

    r^_i = (r_i - fp) / max(1 - fp - fn, eps_c);  a_i = (r^_i - mean_{j != i} r^_j) / scale.

    Args:
      rewards: [P,G] float32, observed, in {0, 1}.  row_mask: [P,G] bool.
      fp_rates, fn_rates: [P,G] float32, rates by row; they win over fp_rate and fn_rate.
      fp_rate, fn_rate: the channel.  Too small is safe, too large blows up.
      eps_c: floor of the denominator; 0.1 bounds |r^| by 10.
      scale: fixed, > 0.

    Returns: [P,G] float32.  With rates 0 this is `group.rloo`, but for a row that is alone in its
      group, which has no others to be compared with and keeps its r^.

    Raises: ValueError for configured rates whose sum is not below 1.
    """
    chex.assert_rank(rewards, 2)
    fp, fn = _rates(fp_rates, fn_rates, fp_rate, fn_rate)
    corrected = (rewards - fp) / jnp.maximum(1.0 - fp - fn, eps_c)
    return _leave_one_out(corrected, masks.live(rewards, row_mask)) / scale


def forward(
    rewards: jax.Array,
    row_mask: jax.Array | None = None,
    fp_rates: jax.Array | None = None,
    fn_rates: jax.Array | None = None,
    *,
    fp_rate: float = 0.0,
    fn_rate: float = 0.0,
    eps_c: float = 0.1,
    scale: float = 1.0,
    divide_by_channel: bool = False,
) -> jax.Array:
    """Forward correction (PGFC): a coefficient whose mean is 0 for a true positive.

    w_i = r_i - (1 - fn);  a_i = w_i / scale, without centring.  E[w | true 1] = 0 and
    E[w | true 0] = -c, so E[w grad log pi] = c grad J; the false positive rate does not enter.
    An all-negative group is pushed down.

    Args:
      rewards, row_mask, fp_rates, fn_rates, fp_rate, fn_rate: as `backward`.
      scale: fixed, > 0.
      divide_by_channel: divide by max(c, eps_c) too; needed where rates differ between prompts.

    Returns: [P,G] float32.

    Raises: as `backward`.
    """
    chex.assert_rank(rewards, 2)
    fp, fn = _rates(fp_rates, fn_rates, fp_rate, fn_rate)
    coefficient = (rewards - (1.0 - fn)) / scale
    if divide_by_channel:
        coefficient = coefficient / jnp.maximum(1.0 - fp - fn, eps_c)
    return jnp.where(masks.live(rewards, row_mask), coefficient, 0.0)


def backward_steps(
    step_rewards: jax.Array,
    step_id: jax.Array,
    loss_mask: jax.Array,
    row_mask: jax.Array | None = None,
    fp_rates: jax.Array | None = None,
    fn_rates: jax.Array | None = None,
    *,
    fp_rate: float = 0.0,
    fn_rate: float = 0.0,
    eps_c: float = 0.1,
    gamma: float = 1.0,
    scale: float = 1.0,
) -> jax.Array:
    """`backward` for process rewards: each step's reward corrected, then summed to go.

    Args:
      step_rewards: [P,G,T] float32 in {0, 1}, read at the last trained token of each step.
      step_id: [P,G,T] int32, -1: none.  loss_mask: [P,G,T] bool.  row_mask: [P,G] bool.
      gamma: discount per trained token.  The others as `backward`; there is no baseline.

    Returns: [P,G,T] float32.

    Raises: as `backward`.
    """
    chex.assert_equal_shape([step_rewards, step_id, loss_mask])
    fp, fn = _rates(
        None if fp_rates is None else fp_rates[..., None],
        None if fn_rates is None else fn_rates[..., None],
        fp_rate,
        fn_rate,
    )
    mask = masks.trained(loss_mask, row_mask)
    corrected = (step_rewards - fp) / jnp.maximum(1.0 - fp - fn, eps_c)
    at_ends = jnp.where(_tokens.step_ends(step_id, mask), corrected, 0.0)
    return _tokens.discounted(at_ends, mask, gamma) / scale


backward.corrects_noise = True  # type: ignore[attr-defined]
forward.corrects_noise = True  # type: ignore[attr-defined]
backward_steps.corrects_noise = True  # type: ignore[attr-defined]


def audit(
    advantages: jax.Array,
    control_advantages: jax.Array,
    loss_mask: jax.Array | None = None,
    row_mask: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """What a correction changed, against `control` on the same batch.

    Args:
      advantages, control_advantages: [P,G] or [P,G,T] float32.
      loss_mask: [P,G,T] bool, needed if one of them has T.  row_mask: [P,G] bool.

    Returns: scalars metrics/audit_cosine (1 where both are zero), metrics/audit_mean and
      metrics/audit_max of the absolute difference.  A difference of 0 means that the correction
      did nothing; a cosine of 1, that it only rescaled.
    """
    mask = masks.live(advantages, row_mask)
    if max(advantages.ndim, control_advantages.ndim) == 3:
        if loss_mask is None:
            raise ValueError("audit: advantages are [P,G,T]; got no loss_mask, expected one")
        mask = loss_mask & mask[..., None]

    def spread(x: jax.Array) -> jax.Array:
        return jnp.where(mask, x[..., None] if x.ndim < mask.ndim else x, 0.0)

    ours, theirs = spread(advantages), spread(control_advantages)
    difference = jnp.abs(ours - theirs)
    norms = jnp.sqrt(jnp.sum(jnp.square(ours))) * jnp.sqrt(jnp.sum(jnp.square(theirs)))
    equal = jnp.where(jnp.any(difference > 0), 0.0, 1.0)
    cosine = jnp.sum(ours * theirs) / jnp.where(norms > 0, norms, 1.0)
    return {
        "metrics/audit_cosine": jnp.where(norms > 0, cosine, equal),
        "metrics/audit_mean": jnp.sum(difference) / jnp.maximum(jnp.sum(mask), 1),
        "metrics/audit_max": jnp.max(difference),
    }
