"""Noise rates from appeals: a second verifier looks at some rows that the first has judged.

`lodge` draws the rows; the other three are transforms with memory that turn their
verdicts into the columns fn_rates and fp_rates, which the corrections of
`rewards.noise` and `advantages.noise` read.  A second verifier whose own rates
are known may be imperfect.  All estimates are bounded by max_rate.

Reference: Cai et al., "Reinforcement Learning with Verifiable yet Noisy Rewards
under Imperfect Verifiers", arXiv:2510.00915, sec. 4.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.columns import Transform
from rlpt.rewards import _draws
from rlpt.rewards.strata import MAX_STRATA

Arrays = dict[str, jax.Array]


def lodge(
    rewards: jax.Array,
    second: jax.Array,
    key: jax.Array,
    prompt_id: jax.Array,
    row_id: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    probability: float = 0.1,
    positives: bool = False,
) -> Arrays:
    """Draws the rows that appeal, each with `probability`, whatever the layout of the batch.

    A cheap second verifier may judge every row and be asked here.  A costly one is asked by the
    rollout, which writes the column `appeal` itself.

    Args:
      rewards: [P,G] float32 in {0, 1}, the first verifier's.
      second: [P,G] float32 in {0, 1}, the second verifier's verdict; NaN: none.
      key: PRNG key of this step.  prompt_id: [P] int32.  row_id: [P,G] int32.
      row_mask: [P,G] bool; other rows do not appeal.
      probability: in (0, 1].
      positives: rows that the first verifier called correct appeal too, for `stratified_both`.

    Returns: appeal [P,G] float32, NaN where not asked; scalar metrics/appeals_asked, rows.

    Raises: ValueError for a configured probability outside (0, 1].
    """
    chex.assert_equal_shape([rewards, second, row_id])
    if isinstance(probability, float | int) and not 0 < probability <= 1:
        raise ValueError(f"appeals probability: got {probability}, expected one in (0, 1]")
    rows = masks.live(rewards, row_mask)
    if not positives:
        rows = rows & ~(rewards > 0.5)
    asked = rows & (_draws.per_row(key, prompt_id, row_id) < probability) & ~jnp.isnan(second)
    return {"appeal": jnp.where(asked, second, jnp.nan), "metrics/appeals_asked": jnp.sum(asked)}


def _appealed(
    rewards: jax.Array, appeal: jax.Array, row_mask: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rule-positives, appealed rule-negatives, and those of them that the appeal won."""
    rows = masks.live(rewards, row_mask)
    positive = rows & (rewards > 0.5)
    heard = rows & ~positive & ~jnp.isnan(appeal)
    return positive, heard, heard & (appeal > 0.5)


def _pooled_init() -> Arrays:
    return {"fn_rate": jnp.float32(0.0), "updates": jnp.int32(0)}


def _pooled_update(
    rewards: jax.Array,
    appeal: jax.Array,
    state: Arrays,
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
) -> tuple[Arrays, Arrays]:
    """One false negative rate, from appeals of rule-negatives.

    With S the appealed rows and F those that the second verifier calls correct,

        missed = max(0, (|F| - false_positive |S|) / (true_positive - false_positive)) / probability
        estimate = (missed + alpha) / (missed + positives + alpha + beta)
        rate <- decay rate + (1 - decay) estimate     (the first estimate is taken as it is)

    A batch without positives and without won appeals leaves the rate as it was.  False positives
    of the rule count as positives and make the rate too small.

    Args:
      rewards: [P,G] float32 in {0, 1}, the rule's.
      appeal: [P,G] float32, the second verifier's verdict; NaN where it was not asked.
      row_mask: [P,G] bool.
      probability: with which a negative was appealed.
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


def _index(strata: jax.Array) -> jax.Array:
    """Strata, with MAX_STRATA for those outside of [0, MAX_STRATA)."""
    return jnp.where((strata >= 0) & (strata < MAX_STRATA), strata, MAX_STRATA)


def _count(rows: jax.Array, strata: jax.Array) -> jax.Array:
    """How many rows each stratum has, [MAX_STRATA] float32."""
    sums = jnp.zeros(MAX_STRATA + 1).at[_index(strata)].add(rows.astype(jnp.float32))
    return sums[:MAX_STRATA]


def _shrunk(
    part: jax.Array, rest: jax.Array, shrink: jax.Array | float, max_rate: jax.Array | float
) -> jax.Array:
    """part / (part + rest) by stratum, shrunk to the pooled rate, which is the last entry.

    Args: part, rest: [MAX_STRATA] float32, >= 0.  shrink: rows that the pooled rate counts for.

    Returns: [MAX_STRATA + 1] float32 in [0, max_rate].
    """
    seen = part + rest
    pooled = jnp.sum(part) / jnp.maximum(jnp.sum(seen), 1e-6)
    rates = (part + shrink * pooled) / jnp.maximum(seen + shrink, 1e-6)
    return jnp.clip(jnp.append(rates, pooled), 0.0, max_rate)


def _shown(count: int, **rates: jax.Array) -> Arrays:
    """Metrics of the first strata's rates: fp_rate=[MAX_STRATA + 1] gives metrics/fp_rate_0, ..."""
    if not 0 <= count <= MAX_STRATA:
        raise ValueError(f"shown: got {count}, expected 0 to {MAX_STRATA}, a number of strata")
    return {f"metrics/{name}_{i}": rate[i] for name, rate in rates.items() for i in range(count)}


def _stratified_init() -> Arrays:
    return {"missed": jnp.zeros(MAX_STRATA), "positives": jnp.zeros(MAX_STRATA)}


def _stratified_update(
    rewards: jax.Array,
    appeal: jax.Array,
    strata: jax.Array,
    state: Arrays,
    row_mask: jax.Array | None = None,
    *,
    probability: float = 0.1,
    decay: float = 0.9,
    shrink: float = 20.0,
    true_positive: float = 1.0,
    false_positive: float = 0.0,
    max_rate: float = 0.9,
    shown: int = 0,
) -> tuple[Arrays, Arrays]:
    """`pooled` by stratum, each rate shrunk to that of all.

    Missed and positive rows are summed by stratum with decay; with n_s their sum and f_s = missed
    in stratum s, rate_s = (f_s + shrink pooled) / (n_s + shrink), pooled = sum f / sum n.

    Args:
      strata: [P,G] int32 in [0, 64), of `rewards.strata`; other rows get the pooled rate.
      shrink: rows that the pooled rate counts for.
      shown: so many strata, from 0 on, have metrics of their own, such as metrics/fn_rate_0.
      The others as `pooled`.

    Returns: fn_rates [P,G] float32, scalar metrics/fn_rate (pooled); and the new state.

    Raises: ValueError for `shown` below 0 or above 64.
    """
    chex.assert_equal_shape([rewards, appeal, strata])
    positive, heard, won = _appealed(rewards, appeal, row_mask)
    excess = _count(won, strata) - false_positive * _count(heard, strata)
    new = {
        "missed": decay * state["missed"] + excess / (true_positive - false_positive) / probability,
        "positives": decay * state["positives"] + _count(positive, strata),
    }
    rates = _shrunk(jnp.maximum(new["missed"], 0.0), new["positives"], shrink, max_rate)
    out = {"fn_rates": rates[_index(strata)], "metrics/fn_rate": rates[-1]}
    return out | _shown(shown, fn_rate=rates), new


def _both_init() -> Arrays:
    return {"heard": jnp.zeros((2, MAX_STRATA)), "won": jnp.zeros((2, MAX_STRATA))}


def _both_update(
    rewards: jax.Array,
    appeal: jax.Array,
    strata: jax.Array,
    state: Arrays,
    row_mask: jax.Array | None = None,
    *,
    decay: float = 0.9,
    shrink: float = 20.0,
    true_positive: float = 1.0,
    false_positive: float = 0.0,
    max_rate: float = 0.9,
    shown: int = 0,
) -> tuple[Arrays, Arrays]:
    """False positive and false negative rates by stratum, from appeals of either verdict.

    All rows appeal with one probability (`lodge` with positives=True), so the appealed rows are a
    fair sample of the stratum.  By stratum s and first verdict v, summed with decay, h_vs rows
    were heard and w_vs won; (w_vs - false_positive h_vs) / (true_positive - false_positive),
    bounded to [0, h_vs], of them are right, r_vs, and the others wrong, x_vs.  Then

        fn_s = (r_0s + shrink fn) / (r_0s + r_1s + shrink),   fn = sum r_0 / sum (r_0 + r_1)
        fp_s = (x_1s + shrink fp) / (x_0s + x_1s + shrink),   fp = sum x_1 / sum (x_0 + x_1)

    A stratum whose rows are all right, or all wrong, has the pooled rate for what it cannot show.
    Until rows of both verdicts were heard, all rates are 0.

    Args: as `stratified`.

    Returns: fp_rates and fn_rates [P,G] float32, scalars metrics/fp_rate and metrics/fn_rate
      (pooled); and the new state.

    Raises: as `stratified`.

    Reference: derived here; without strata and false positives it estimates what `pooled` does.
    """
    chex.assert_equal_shape([rewards, appeal, strata])
    rows = ~jnp.isnan(appeal) if row_mask is None else row_mask & ~jnp.isnan(appeal)
    verdicts = (~(rewards > 0.5), rewards > 0.5)
    heard = jnp.stack([_count(rows & v, strata) for v in verdicts])
    won = jnp.stack([_count(rows & v & (appeal > 0.5), strata) for v in verdicts])
    new = {"heard": decay * state["heard"] + heard, "won": decay * state["won"] + won}
    right = (new["won"] - false_positive * new["heard"]) / (true_positive - false_positive)
    right = jnp.clip(right, 0.0, new["heard"])
    wrong = new["heard"] - right
    highest = jnp.where(jnp.all(jnp.sum(new["heard"], axis=1) > 0), max_rate, 0.0)
    fn_rates = _shrunk(right[0], right[1], shrink, highest)
    fp_rates = _shrunk(wrong[1], wrong[0], shrink, highest)
    out = {
        "fp_rates": fp_rates[_index(strata)],
        "fn_rates": fn_rates[_index(strata)],
        "metrics/fp_rate": fp_rates[-1],
        "metrics/fn_rate": fn_rates[-1],
    }
    return out | _shown(shown, fp_rate=fp_rates, fn_rate=fn_rates), new


pooled = Transform(_pooled_init, _pooled_update)
stratified = Transform(_stratified_init, _stratified_update)
stratified_both = Transform(_both_init, _both_update)
