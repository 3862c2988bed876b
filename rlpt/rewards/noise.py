"""Noisy verifiers: injecting noise, and rewards that are corrected for it.

The channel: fp_rate = P(observed 1 | true 0), fn_rate = P(observed 0 | true 1),
c = 1 - fp_rate - fn_rate > 0.  Rates may differ by row: the columns fp_rates and
fn_rates [P,G], written by `known_rates` or estimated by `rewards.appeals`, win
over the settings.  Corrections here rewrite rewards; an estimator that centres
and divides by the group's std undoes them exactly (use `advantages.noise`, or an
estimator without a std).  A run whose estimator does so stops at its start: see
`rlpt.probe`, which looks for functions marked `corrects_noise`.

Reference: Cai et al., "Reinforcement Learning with Verifiable yet Noisy Rewards
under Imperfect Verifiers", arXiv:2510.00915.
"""

from __future__ import annotations

import typing as tp

import chex
import jax
import jax.numpy as jnp

from rlpt import channel, masks
from rlpt.rewards import _draws

Rate = jax.Array | float
Rates = float | tp.Sequence[float]


def _of_stratum(rate: tp.Any, strata: jax.Array | None) -> Rate:
    """One rate, or that of each row's stratum: 0 below stratum 0, NaN above the last."""
    if not isinstance(rate, tuple | list):
        return rate
    if strata is None:
        raise ValueError(
            "noise rates: got a tuple, expected the column strata beside it (a transform of "
            "rewards.strata writes it)"
        )
    known = jnp.where(strata < len(rate), jnp.asarray(rate, jnp.float32)[strata], jnp.nan)
    return jnp.where(strata >= 0, known, 0.0)


def _flip(
    rewards: jax.Array,
    coin: jax.Array,
    strata: jax.Array | None,
    row_mask: jax.Array | None,
    fp_rate: Rates,
    fn_rate: Rates,
) -> dict[str, jax.Array]:
    channel.check(fp_rate, fn_rate)
    rows = masks.live(rewards, row_mask)
    binary = (rewards == 0) | (rewards == 1)
    traced = any(isinstance(x, jax.core.Tracer) for x in (rewards, rows))
    if not traced and not bool(jnp.all(binary | ~rows)):
        raise ValueError(
            f"noise: got a reward of {float(rewards[rows & ~binary][0])}, expected 0 or 1; "
            "rescale with shaping.affine first"
        )
    right = rewards == 1
    rate = jnp.where(right, _of_stratum(fn_rate, strata), _of_stratum(fp_rate, strata))
    flipped = rows & (coin < rate)
    observed = jnp.where(flipped, 1.0 - rewards, rewards)
    unknown = rows & (~binary | jnp.isnan(rate))  # a stratum behind the last rate

    def share(of: jax.Array) -> jax.Array:
        return jnp.sum(flipped & of) / jnp.maximum(jnp.sum(rows & of), 1)

    return {
        "rewards": jnp.where(unknown, jnp.nan, observed),
        "clean_rewards": rewards,
        "metrics/injected_fp": share(~right),
        "metrics/injected_fn": share(right),
    }


def inject(
    rewards: jax.Array,
    key: jax.Array,
    prompt_id: jax.Array,
    row_id: jax.Array,
    strata: jax.Array | None = None,
    row_mask: jax.Array | None = None,
    *,
    fp_rate: Rates,
    fn_rate: Rates,
    unit: str = "sample",
) -> dict[str, jax.Array]:
    """Flips binary rewards at random: the channel, made to order.

    Args:
      rewards: [P,G] float32 in {0, 1}.
      key: PRNG key of this step.
      prompt_id: [P] int32.  row_id: [P,G] int32.  The coin depends on them, not on the layout.
      strata: [P,G] int32, e.g. the answer's format; needed if a rate is a tuple.
      row_mask: [P,G] bool; other rows are left alone.
      fp_rate, fn_rate: flip probabilities of a 0 and of a 1; a tuple: by stratum, 0 for rows of
        none (strata -1).
      unit: 'sample': a coin a row; 'group': one coin a prompt, all its rows flip together.

    Returns: rewards (observed) and clean_rewards [P,G] float32 (for metrics only); scalars
      metrics/injected_fp and metrics/injected_fn, the realised rates.

    Raises: ValueError for rates that are no channel, an unknown unit, or rewards other than 0 and
      1 (inside jit these become NaN instead, which the trainer's finite check stops).

    Reference: arXiv:2510.00915; group coins: "The Climb Carves Wisdom Deeper Than the Summit",
    arXiv:2505.22653, as in its code.
    """
    chex.assert_equal_shape([rewards, row_id])
    if unit not in ("sample", "group"):
        raise ValueError(f"noise unit: got {unit!r}, expected 'sample' or 'group'")
    if unit == "sample":
        coin = _draws.per_row(key, prompt_id, row_id)
    else:
        coin = jnp.broadcast_to(_draws.per_prompt(key, prompt_id)[:, None], rewards.shape)
    return _flip(rewards, coin, strata, row_mask, fp_rate, fn_rate)


def inject_hashed(
    rewards: jax.Array,
    prompt_id: jax.Array,
    completion_tokens: jax.Array,
    completion_mask: jax.Array,
    strata: jax.Array | None = None,
    row_mask: jax.Array | None = None,
    *,
    fp_rate: Rates,
    fn_rate: Rates,
    seed: int = 0,
) -> dict[str, jax.Array]:
    """`inject` with a coin that depends on the response: the same answer is always misjudged alike.

    Args:
      completion_tokens: [P,G,T] int32.  completion_mask: [P,G,T] bool.
      seed: of the hash; with the same, two noisy verifiers err on the same rows.  The others as
        `inject`.

    Returns, Raises: as `inject`.
    """
    chex.assert_equal_shape([completion_tokens, completion_mask])
    coin = _draws.hashed(seed, prompt_id, completion_tokens, completion_mask)
    return _flip(rewards, coin, strata, row_mask, fp_rate, fn_rate)


def known_rates(strata: jax.Array, *, fp_rate: Rates, fn_rate: Rates) -> dict[str, jax.Array]:
    """Rates that are known by stratum, as the columns that corrections read.

    Args:
      strata: [P,G] int32, of `rewards.strata`.
      fp_rate, fn_rate: the channel of every stratum, or a tuple: of each; rows of no stratum
        (-1) have rate 0 of a tuple.

    Returns: fp_rates, fn_rates [P,G] float32; NaN where a tuple is too short for a stratum.

    Raises: ValueError for rates that are no channel.
    """
    channel.check(fp_rate, fn_rate)
    return {
        name: jnp.broadcast_to(jnp.asarray(_of_stratum(rate, strata), jnp.float32), strata.shape)
        for name, rate in (("fp_rates", fp_rate), ("fn_rates", fn_rate))
    }


def backward(
    rewards: jax.Array,
    fp_rates: jax.Array | None = None,
    fn_rates: jax.Array | None = None,
    *,
    fp_rate: float = 0.0,
    fn_rate: float = 0.0,
    eps_c: float = 0.1,
) -> jax.Array:
    """Rewards that are unbiased for the true ones: (r - fp) / max(1 - fp - fn, eps_c).

    Args:
      rewards: [P,G] float32 in {0, 1}; other levels need shaping.affine first.
      fp_rates, fn_rates: [P,G] float32, rates by row; they win over fp_rate and fn_rate.
      fp_rate, fn_rate: the channel.
      eps_c: floor of the denominator; 0.1 bounds |r| by 10.

    Returns: [P,G] float32; variance fn (1 - fn) / c^2 at a true 1, fp (1 - fp) / c^2 at a true 0.

    Raises: ValueError for configured rates that are no channel.
    """
    chex.assert_rank(rewards, 2)
    channel.check(fp_rate, fn_rate)
    fp = fp_rate if fp_rates is None else fp_rates
    fn = fn_rate if fn_rates is None else fn_rates
    return (rewards - fp) / jnp.maximum(1.0 - fp - fn, eps_c)


def forward(
    rewards: jax.Array, fn_rates: jax.Array | None = None, *, fn_rate: float = 0.0
) -> jax.Array:
    """Forward coefficients: r - (1 - fn), i.e. fn for an observed 1 and fn - 1 for a 0.

    Their mean is 0 for a true 1 and -c for a true 0; the estimator must not centre them.

    Args: as `backward`.

    Returns: [P,G] float32.

    Raises: as `backward`.
    """
    chex.assert_rank(rewards, 2)
    channel.check(0.0, fn_rate)
    return rewards - (1.0 - (fn_rate if fn_rates is None else fn_rates))


backward.corrects_noise = True  # type: ignore[attr-defined]
forward.corrects_noise = True  # type: ignore[attr-defined]


def calibrate(
    rewards: jax.Array, pattern: jax.Array, *, threshold: float = 0.5, alpha: float = 0.1
) -> jax.Array:
    """Lifts likely false negatives of a score s: min(1, s + alpha pattern) where s < threshold.

    Args:
      rewards: [P,G] float32, scores in [0, 1].
      pattern: [P,G] float32 in [0, 1], how the response reasons: `verifiers.reasoning.patterns`.

    Returns: [P,G] float32.

    Reference: Lv et al., "The Climb Carves Wisdom Deeper Than the Summit", arXiv:2505.22653.
    """
    chex.assert_equal_shape([rewards, pattern])
    return jnp.where(rewards < threshold, jnp.minimum(rewards + alpha * pattern, 1.0), rewards)


def pattern_when_wrong(
    rewards: jax.Array, pattern: jax.Array, *, threshold: float = 0.5
) -> jax.Array:
    """A wrong answer (reward below threshold) earns its pattern reward instead.

    Args: as `calibrate`.

    Returns: [P,G] float32.

    Reference: as `calibrate`.
    """
    chex.assert_equal_shape([rewards, pattern])
    return jnp.where(rewards < threshold, pattern, rewards)
