"""Noisy verifiers: injecting noise, correcting for it, estimating its rates.

The channel: fp_rate = P(observed 1 | true 0), fn_rate = P(observed 0 | true 1),
c = 1 - fp_rate - fn_rate > 0.  Corrections here rewrite rewards; an estimator
that centres and divides by the group's std undoes them exactly (use
`advantages.noise`, or an estimator without a std).

Reference: Cai et al., "Reinforcement Learning with Verifiable yet Noisy Rewards
under Imperfect Verifiers", arXiv:2510.00915.
"""

from __future__ import annotations

import typing as tp

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rlpt.columns import Transform
from rlpt.rewards import _draws

Rate = jax.Array | float
Rates = float | tp.Sequence[float]

MAX_STRATA = 64  # size of the state of `stratified_appeals`


def _live(rewards: jax.Array, row_mask: jax.Array | None) -> jax.Array:
    return jnp.ones(rewards.shape, bool) if row_mask is None else row_mask


def _check(fp_rate: tp.Any, fn_rate: tp.Any) -> None:
    """Raises ValueError for configured rates that are no channel; traced ones pass."""
    rates = (fp_rate, fn_rate)
    if not all(isinstance(r, float | int | tuple | list) for r in rates):
        return
    fp, fn = np.broadcast_arrays(*(np.asarray(r, float) for r in rates))
    if not ((fp >= 0) & (fn >= 0) & (fp + fn < 1)).all():
        raise ValueError(
            f"noise rates: got fp_rate={fp_rate}, fn_rate={fn_rate}, expected both >= 0 and a sum "
            "below 1 (beyond that the verifier says the opposite: swap its verdicts)"
        )


def _of_stratum(rate: tp.Any, strata: jax.Array | None) -> Rate:
    """One rate, or the rate of each row's stratum."""
    if not isinstance(rate, tuple | list):
        return rate
    if strata is None:
        raise ValueError("noise rates: got a tuple, expected the column strata beside it")
    return jnp.asarray(rate, jnp.float32)[strata]


def _flip(
    rewards: jax.Array,
    coin: jax.Array,
    strata: jax.Array | None,
    row_mask: jax.Array | None,
    fp_rate: Rates,
    fn_rate: Rates,
) -> dict[str, jax.Array]:
    _check(fp_rate, fn_rate)
    rows = _live(rewards, row_mask)
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

    def share(of: jax.Array) -> jax.Array:
        return jnp.sum(flipped & of) / jnp.maximum(jnp.sum(rows & of), 1)

    return {
        "rewards": jnp.where(rows & ~binary, jnp.nan, observed),
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
      fp_rate, fn_rate: flip probabilities of a 0 and of a 1; a tuple: by stratum.
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
      seed: of the hash.  The others as `inject`.

    Returns, Raises: as `inject`.
    """
    chex.assert_equal_shape([completion_tokens, completion_mask])
    coin = _draws.hashed(seed, prompt_id, completion_tokens, completion_mask)
    return _flip(rewards, coin, strata, row_mask, fp_rate, fn_rate)


def backward(
    rewards: jax.Array,
    fp_rates: jax.Array | None = None,
    fn_rates: jax.Array | None = None,
    strata: jax.Array | None = None,
    *,
    fp_rate: Rates = 0.0,
    fn_rate: Rates = 0.0,
    eps_c: float = 0.1,
) -> jax.Array:
    """Rewards that are unbiased for the true ones: (r - fp) / max(1 - fp - fn, eps_c).

    Args:
      rewards: [P,G] float32 in {0, 1}; other levels need shaping.affine first.
      fp_rates, fn_rates: [P,G] float32 estimates; they win over fp_rate and fn_rate.
      strata: [P,G] int32, needed if a rate is a tuple.
      fp_rate, fn_rate: the channel; a tuple: by stratum.
      eps_c: floor of the denominator; 0.1 bounds |r| by 10.

    Returns: [P,G] float32; variance fn (1 - fn) / c^2 at a true 1, fp (1 - fp) / c^2 at a true 0.

    Raises: ValueError for configured rates that are no channel.
    """
    chex.assert_rank(rewards, 2)
    _check(fp_rate, fn_rate)
    fp = _of_stratum(fp_rate, strata) if fp_rates is None else fp_rates
    fn = _of_stratum(fn_rate, strata) if fn_rates is None else fn_rates
    return (rewards - fp) / jnp.maximum(1.0 - fp - fn, eps_c)


def forward(
    rewards: jax.Array,
    fn_rates: jax.Array | None = None,
    strata: jax.Array | None = None,
    *,
    fn_rate: Rates = 0.0,
) -> jax.Array:
    """Forward coefficients: r - (1 - fn), i.e. fn for an observed 1 and fn - 1 for a 0.

    Their mean is 0 for a true 1 and -c for a true 0; the estimator must not centre them.

    Args: as `backward`.

    Returns: [P,G] float32.
    """
    chex.assert_rank(rewards, 2)
    _check(0.0, fn_rate)
    fn = _of_stratum(fn_rate, strata) if fn_rates is None else fn_rates
    return rewards - (1.0 - fn)


def _appealed(
    rewards: jax.Array, appeal: jax.Array, row_mask: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rule-positives, appealed rule-negatives, and those of them that the appeal won."""
    rows = _live(rewards, row_mask)
    positive = rows & (rewards > 0.5)
    heard = rows & ~positive & ~jnp.isnan(appeal)
    return positive, heard, heard & (appeal > 0.5)


def _appeals_init() -> dict[str, jax.Array]:
    return {"fn_rate": jnp.float32(0.0), "updates": jnp.int32(0)}


def _appeals_update(
    rewards: jax.Array,
    appeal: jax.Array,
    state: dict[str, jax.Array],
    row_mask: jax.Array | None = None,
    *,
    probability: float = 0.1,
    decay: float = 0.9,
    alpha: float = 1e-5,
    beta: float = 1e-5,
    true_positive: float = 1.0,
    false_positive: float = 0.0,
    max_rate: float = 0.9,
    overwrite: bool = False,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The rule verifier's false negative rate, from a second verifier's look at some negatives.

    Each rule-negative is appealed with `probability`; with S the appealed rows and F those that
    the second verifier calls correct,

        missed = max(0, (|F| - false_positive |S|) / (true_positive - false_positive)) / probability
        estimate = (missed + alpha) / (missed + positives + alpha + beta)
        rate <- decay rate + (1 - decay) estimate     (the first estimate is taken as it is)

    A batch without positives and without won appeals leaves the rate as it was.

    Args:
      rewards: [P,G] float32 in {0, 1}, the rule's.
      appeal: [P,G] float32, the second verifier's verdict; NaN where it was not asked.
      row_mask: [P,G] bool.
      probability: with which the rollout appeals a negative.
      true_positive, false_positive: rates of the second verifier.
      max_rate: ceiling of the rate.
      overwrite: also set the reward of a won appeal to 1.

    Returns: fn_rates [P,G] float32 (the rate after this batch), with `overwrite` rewards, scalars
      metrics/fn_rate and metrics/appeals_won; and the new state.

    Reference: arXiv:2510.00915, sec. 4; the correction for an imperfect second verifier was
    derived here.
    """
    chex.assert_equal_shape([rewards, appeal])
    positive, heard, won = _appealed(rewards, appeal, row_mask)
    excess = (jnp.sum(won) - false_positive * jnp.sum(heard)) / (true_positive - false_positive)
    missed, positives = jnp.maximum(excess, 0.0) / probability, jnp.sum(positive)
    estimate = (missed + alpha) / (missed + positives + alpha + beta)
    informed = missed + positives > 0
    blended = decay * state["fn_rate"] + (1.0 - decay) * estimate
    rate = jnp.where(state["updates"] == 0, estimate, blended)
    rate = jnp.where(informed, jnp.clip(rate, 0.0, max_rate), state["fn_rate"])
    new = {"fn_rate": rate, "updates": state["updates"] + informed.astype(jnp.int32)}
    out = {
        "fn_rates": jnp.broadcast_to(rate, rewards.shape),
        "metrics/fn_rate": rate,
        "metrics/appeals_won": jnp.sum(won),
    }
    if overwrite:
        out["rewards"] = jnp.where(won, 1.0, rewards)
    return out, new


def _stratified_init() -> dict[str, jax.Array]:
    return {"missed": jnp.zeros(MAX_STRATA), "positives": jnp.zeros(MAX_STRATA)}


def _stratified_update(
    rewards: jax.Array,
    appeal: jax.Array,
    strata: jax.Array,
    state: dict[str, jax.Array],
    row_mask: jax.Array | None = None,
    *,
    probability: float = 0.1,
    decay: float = 0.9,
    shrink: float = 20.0,
    true_positive: float = 1.0,
    false_positive: float = 0.0,
    max_rate: float = 0.9,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """`appeals` by stratum, each shrunk to the pooled rate.

    Missed and positive rows are summed by stratum with decay; with n_s their sum and f_s = missed
    in stratum s, rate_s = (f_s + shrink pooled) / (n_s + shrink), pooled = sum f / sum n.

    Args:
      strata: [P,G] int32 in [0, 64), e.g. the answer's format; others get the pooled rate.
      shrink: rows that the pooled rate counts for.
      The others as `appeals`.

    Returns: fn_rates [P,G] float32, scalar metrics/fn_rate (pooled); and the new state.
    """
    chex.assert_equal_shape([rewards, appeal, strata])
    positive, heard, won = _appealed(rewards, appeal, row_mask)
    stratum = jnp.where((strata >= 0) & (strata < MAX_STRATA), strata, MAX_STRATA).ravel()

    def by_stratum(rows: jax.Array) -> jax.Array:
        sums = jnp.zeros(MAX_STRATA + 1).at[stratum].add(rows.ravel().astype(jnp.float32))
        return sums[:MAX_STRATA]

    excess = by_stratum(won) - false_positive * by_stratum(heard)
    new = {
        "missed": decay * state["missed"] + excess / (true_positive - false_positive) / probability,
        "positives": decay * state["positives"] + by_stratum(positive),
    }
    missed = jnp.maximum(new["missed"], 0.0)
    seen = missed + new["positives"]
    pooled = jnp.sum(missed) / jnp.maximum(jnp.sum(seen), 1e-6)
    rates = (missed + shrink * pooled) / jnp.maximum(seen + shrink, 1e-6)
    rates = jnp.clip(jnp.append(rates, pooled), 0.0, max_rate)
    out = {"fn_rates": rates[stratum].reshape(rewards.shape), "metrics/fn_rate": rates[-1]}
    return out, new


appeals = Transform(_appeals_init, _appeals_update)
stratified_appeals = Transform(_stratified_init, _stratified_update)


def pattern_reward(
    phrases: jax.Array,
    repetition: jax.Array,
    extra_turns: jax.Array,
    *,
    full_count: float = 20.0,
) -> jax.Array:
    """Reasoning-pattern reward: max(0, min(1, phrases / full_count) - repetition - extra_turns).

    Args:
      phrases: [P,G] float32, distinct reasoning phrases in the response.
      repetition: [P,G] float32, share of 20-grams that occur more than once.
      extra_turns: [P,G] float32, fake user turns.

    Returns: [P,G] float32 in [0, 1].

    Reference: Lv et al., "The Climb Carves Wisdom Deeper Than the Summit", arXiv:2505.22653.
    """
    chex.assert_equal_shape([phrases, repetition, extra_turns])
    return jnp.maximum(jnp.minimum(phrases / full_count, 1.0) - repetition - extra_turns, 0.0)


def calibrate(
    rewards: jax.Array, pattern: jax.Array, *, threshold: float = 0.5, alpha: float = 0.1
) -> jax.Array:
    """Lifts likely false negatives of a score s: min(1, s + alpha pattern) where s < threshold.

    Args:
      rewards: [P,G] float32, scores in [0, 1].  pattern: [P,G] float32, of `pattern_reward`.

    Returns: [P,G] float32.

    Reference: as `pattern_reward`.
    """
    chex.assert_equal_shape([rewards, pattern])
    return jnp.where(rewards < threshold, jnp.minimum(rewards + alpha * pattern, 1.0), rewards)


def pattern_when_wrong(
    rewards: jax.Array, pattern: jax.Array, *, threshold: float = 0.5
) -> jax.Array:
    """A wrong answer (reward below threshold) earns its pattern reward instead.

    Args: as `calibrate`.

    Returns: [P,G] float32.

    Reference: as `pattern_reward`.
    """
    chex.assert_equal_shape([rewards, pattern])
    return jnp.where(rewards < threshold, pattern, rewards)
