"""Noise rates from appeals: a second verifier looks at some rows that the first has judged.

`lodge` draws the rows; the other three are transforms with memory that turn their
verdicts into the columns fn_rates and fp_rates, which the corrections of
`rewards.noise` and `advantages.noise` read.  A second verifier whose own rates
are known may be imperfect.  All estimates are bounded by max_rate.

Reference: Cai et al., "Reinforcement Learning with Verifiable yet Noisy Rewards
under Imperfect Verifiers", arXiv:2510.00915, sec. 4.
"""

from __future__ import annotations

import typing as tp

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


def _check_second(true_positive: tp.Any, false_positive: tp.Any) -> None:
    """Raises ValueError for rates of a second verifier that says nothing, or the opposite."""
    both = (true_positive, false_positive)
    if all(isinstance(r, float | int) for r in both) and not false_positive < true_positive:
        raise ValueError(
            f"appeals: got true_positive={true_positive} and false_positive={false_positive} of "
            "the second verifier, expected it to accept right replies more often than wrong ones"
        )


def _appealed(
    rewards: jax.Array, appeal: jax.Array, row_mask: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Rule-positives, rule-negatives, those of them that were heard, and that the appeal won."""
    rows = masks.live(rewards, row_mask)
    positive = rows & (rewards > 0.5)
    negative = rows & ~positive
    heard = negative & ~jnp.isnan(appeal)
    return positive, negative, heard, heard & (appeal > 0.5)


_LEAST = 1e-6  # heard rows that a stratum with a rate of its own has at least


class _Heard(tp.NamedTuple):
    """Sums over batches, with decay: rule-negatives, those heard, those won, and rule-positives."""

    negatives: jax.Array
    heard: jax.Array
    won: jax.Array
    positives: jax.Array

    def missed(self, true_positive: tp.Any, false_positive: tp.Any) -> jax.Array:
        """Negatives that are right, as the share of those heard; may be below 0.

        Counted, the share heard is what it is: a configured one would take a second verdict that
        is missing for a lost appeal.
        """
        right = (self.won - false_positive * self.heard) / (true_positive - false_positive)
        share = self.negatives / jnp.maximum(self.heard, _LEAST)
        return jnp.where(self.heard > _LEAST, right * share, 0.0)


def _kept(state: Arrays, new: Arrays) -> Arrays:
    """The new sums; the old ones where decay has left hardly anything of what was heard.

    Without appeals a rate stays as it was: of sums that vanish there is none.
    """
    vanished = (jnp.sum(state["heard"]) > 0) & (jnp.sum(new["heard"]) < 1e-3)
    return {name: jnp.where(vanished, state[name], x) for name, x in new.items()}


def _pooled_init() -> Arrays:
    sums = dict.fromkeys(_Heard._fields, jnp.float32(0.0))
    return {**sums, "fn_rate": jnp.float32(0.0), "updates": jnp.int32(0)}


def _pooled_update(
    rewards: jax.Array,
    appeal: jax.Array,
    state: Arrays,
    row_mask: jax.Array | None = None,
    *,
    decay: float = 0.9,
    alpha: float = 1e-5,
    beta: float = 1e-5,
    true_positive: float = 1.0,
    false_positive: float = 0.0,
    max_rate: float = 0.9,
    average: str = "counts",
    overwrite: bool = False,
) -> tuple[Arrays, Arrays]:
    """One false negative rate, from appeals of rule-negatives.

    With N rule-negatives, H of them heard, W appeals won and P rule-positives,

        missed = max(0, (W - false_positive H) / (true_positive - false_positive)) N / H
        rate   = (missed + alpha) / (missed + P + alpha + beta)

    of counts that are summed over batches with decay ('counts'), or of each batch by itself, and
    then rate <- decay rate + (1 - decay) estimate, the first as it is ('rates').  Rates of batches
    are too small in the mean where few appeals are won: 0.15 for 0.2 at 64 rows, 0.4 of them right
    and 0.1 of the negatives heard, and too large with an imperfect second verifier.

    Until some negative was heard, and with 'rates' after a batch in which none was, the rate stays
    as it was.  False positives of the rule count as positives and make it too small.

    Args:
      rewards: [P,G] float32 in {0, 1}, the rule's.
      appeal: [P,G] float32, the second verifier's verdict; NaN where it was not asked, or said
        nothing.  Those heard have to be a fair sample of the negatives.
      row_mask: [P,G] bool.
      true_positive, false_positive: rates of the second verifier.
      max_rate: ceiling of the rate.
      average: 'counts' or 'rates'.
      overwrite: also set the reward of a won appeal to 1.

    Returns: fn_rates [P,G] float32 (the rate after this batch), with `overwrite` rewards, scalars
      metrics/fn_rate and metrics/appeals_won; and the new state.

    Raises: ValueError for another average, or a second verifier without true_positive above
      false_positive.

    Reference: arXiv:2510.00915, sec. 4, which averages rates; the correction for an imperfect
    second verifier was derived here.  Differs from it in: the share of the negatives that was
    heard is counted, where the paper divides by the probability of an appeal.
    """
    chex.assert_equal_shape([rewards, appeal])
    if average not in ("counts", "rates"):
        raise ValueError(f"pooled average: got {average!r}, expected 'counts' or 'rates'")
    _check_second(true_positive, false_positive)
    positive, negative, heard, won = _appealed(rewards, appeal, row_mask)
    batch = _Heard(*(jnp.sum(x, dtype=jnp.float32) for x in (negative, heard, won, positive)))
    live = batch.negatives + batch.positives > 0
    # All batches are summed: to leave out those in which none was heard would favour those with
    # many negatives.
    take = live if average == "counts" else (batch.heard > 0) | (live & (batch.negatives == 0))
    added = {k: decay * state[k] + new for k, new in batch._asdict().items()}
    kept = _kept({k: state[k] for k in added}, added)
    sums = _Heard(**{k: jnp.where(take, kept[k], state[k]) for k in added})
    counted = sums if average == "counts" else batch
    known = take & ((counted.heard > 0) | (counted.negatives == 0))
    missed = jnp.maximum(counted.missed(true_positive, false_positive), 0.0)
    estimate = (missed + alpha) / (missed + counted.positives + alpha + beta)
    informed = known & (missed + counted.positives > 0)
    first = (state["updates"] == 0) | (average == "counts")
    rate = jnp.where(first, estimate, decay * state["fn_rate"] + (1.0 - decay) * estimate)
    rate = jnp.where(informed, jnp.clip(rate, 0.0, max_rate), state["fn_rate"])
    new = {**sums._asdict(), "fn_rate": rate, "updates": state["updates"] + informed}
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

    Estimates of no rows may be below 0: bounded here and not before, they add up to what is true.
    Where they leave less than no rows, the rate is the bound on the side of the estimate.

    Args: part, rest: [MAX_STRATA] float32.  shrink: rows that the pooled rate counts for.

    Returns: [MAX_STRATA + 1] float32 in [0, max_rate].
    """
    pooled = jnp.clip(jnp.sum(part) / jnp.maximum(jnp.sum(part + rest), 1e-6), 0.0, 1.0)
    rows = part + rest + shrink
    own = part + shrink * pooled
    rates = jnp.where(rows > 1e-6, own / jnp.maximum(rows, 1e-6), pooled)
    rates = jnp.where(rows < -1e-6, own > 0, rates)
    return jnp.clip(jnp.append(rates, pooled), 0.0, max_rate)


def _shown(count: int, **rates: jax.Array) -> Arrays:
    """Metrics of the first strata's rates: fp_rate=[MAX_STRATA + 1] gives metrics/fp_rate_0, ..."""
    if not 0 <= count <= MAX_STRATA:
        raise ValueError(f"shown: got {count}, expected 0 to {MAX_STRATA}, a number of strata")
    return {f"metrics/{name}_{i}": rate[i] for name, rate in rates.items() for i in range(count)}


def _stratified_init() -> Arrays:
    return dict.fromkeys(_Heard._fields, jnp.zeros(MAX_STRATA))


def _stratified_update(
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
    """`pooled` by stratum, from counts with decay, each rate shrunk to that of all.

    With f_s rows missed in stratum s and n_s missed and positive,
    rate_s = (f_s + shrink pooled) / (n_s + shrink), pooled = sum f / sum n.  A stratum with
    negatives of which none was heard is out of these sums and has the pooled rate.

    Args:
      strata: [P,G] int32 in [0, 64), of `rewards.strata`; other rows get the pooled rate.
      shrink: rows that the pooled rate counts for.
      shown: so many strata, from 0 on, have metrics of their own, such as metrics/fn_rate_0.
      The others as `pooled`.

    Returns: fn_rates [P,G] float32, scalar metrics/fn_rate (pooled); and the new state.

    Raises: ValueError for `shown` below 0 or above 64, and as `pooled` for the second verifier.
    """
    chex.assert_equal_shape([rewards, appeal, strata])
    _check_second(true_positive, false_positive)
    positive, *negative = _appealed(rewards, appeal, row_mask)
    batch = (_count(x, strata) for x in (*negative, positive))
    added = {k: decay * state[k] + x for k, x in zip(_Heard._fields, batch, strict=True)}
    sums = _Heard(**_kept(state, added))
    missed = sums.missed(true_positive, false_positive)
    known = (sums.heard > _LEAST) | (sums.negatives == 0)
    rates = _shrunk(missed, jnp.where(known, sums.positives, 0.0), shrink, max_rate)
    out = {"fn_rates": rates[_index(strata)], "metrics/fn_rate": rates[-1]}
    return out | _shown(shown, fn_rate=rates), sums._asdict()


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
    were heard and w_vs won; (w_vs - false_positive h_vs) / (true_positive - false_positive) of
    them are right, r_vs, and the others wrong, x_vs.  Then, bounded to [0, max_rate],

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
    _check_second(true_positive, false_positive)
    rows = ~jnp.isnan(appeal) if row_mask is None else row_mask & ~jnp.isnan(appeal)
    verdicts = (~(rewards > 0.5), rewards > 0.5)
    heard = jnp.stack([_count(rows & v, strata) for v in verdicts])
    won = jnp.stack([_count(rows & v & (appeal > 0.5), strata) for v in verdicts])
    new = {"heard": decay * state["heard"] + heard, "won": decay * state["won"] + won}
    new = _kept(state, new)
    right = (new["won"] - false_positive * new["heard"]) / (true_positive - false_positive)
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
