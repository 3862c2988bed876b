"""Coefficients that a run adjusts as it goes: of a KL penalty, an entropy bonus, several rewards.

Each is a `Transform`: its state is in the checkpoint.  A coefficient is written as a column, the
same in every row, for `kl_in_reward` here or the scaled terms of `losses.penalties`.  The state
holds what was learnt, not the settings, so that a schedule may still move those.
"""

from __future__ import annotations

import typing as tp

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.columns import Transform
from rlpt.rewards import shaping

MAX_OBJECTIVES = 16  # size of the state of `recap`
MAX_WINDOW = 32

State = dict[str, jax.Array]


def _token_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of x [P,G,T] over a row's masked tokens, [P,G]; 0 where there are none."""
    total = jnp.sum(jnp.where(mask, x, 0.0), axis=-1)
    return total / jnp.maximum(jnp.sum(mask, axis=-1), 1)


# ---- adaptive KL


def _kl_init() -> State:
    return {"factor": jnp.float32(1.0)}


def _kl_update(
    old_logp: jax.Array,
    ref_logp: jax.Array,
    loss_mask: jax.Array,
    state: State,
    row_mask: jax.Array | None = None,
    origin: jax.Array | None = None,
    *,
    coef: float = 0.001,
    target: float = 0.1,
    horizon: float = 10_000.0,
    bound: float = 0.2,
    unit: str = "token",
) -> tuple[dict[str, jax.Array], State]:
    """A KL coefficient that grows while the policy is further from the reference than wanted.

    beta <- beta (1 + clip(KL / target - 1, -bound, bound) n / horizon), n live rows of the batch;
    this batch gets the beta from before it.

    Args:
      old_logp, ref_logp: [P,G,T] float32; KL is estimated by k1 = old_logp - ref_logp.
      loss_mask: [P,G,T] bool.  row_mask: [P,G] bool.
      origin: as in `shaping.kl_in_reward`.
      coef: beta at the start, reward per nat.
      target: the KL to hold, nats, > 0.  horizon: rows; the smaller, the faster.
      bound: of the relative error.
      unit: of KL and target: 'token', the mean over rows of the row's token mean, as in verl,
        whose defaults these are; 'row', the mean over rows of the row's sum, as in the paper.

    Returns: kl_coef [P,G] float32, for `kl_in_reward` or `penalties.scaled_k3`; scalars
      metrics/adaptive_kl/coef (applied to this batch) and metrics/adaptive_kl/kl; the new state.
      A batch without a trained token leaves beta as it was.

    Raises: ValueError for an unknown unit.

    Reference: Ziegler et al., "Fine-Tuning Language Models from Human Preferences",
    arXiv:1909.08593.
    """
    chex.assert_equal_shape([old_logp, ref_logp, loss_mask])
    if unit not in ("token", "row"):
        raise ValueError(f"adaptive_kl unit: got {unit!r}, expected 'token' or 'row'")
    mask = masks.trained(masks.own_law(loss_mask, origin), row_mask)
    rows = jnp.any(mask, axis=-1)
    count = jnp.sum(rows)
    distance = _token_mean(old_logp - ref_logp, mask)
    if unit == "row":
        distance = distance * jnp.sum(mask, axis=-1)
    kl = jnp.sum(distance) / jnp.maximum(count, 1)
    error = jnp.clip(kl / target - 1.0, -bound, bound)
    factor = state["factor"] * (1.0 + error * count / horizon)
    beta = coef * state["factor"]
    out = {
        "kl_coef": jnp.full(rows.shape, beta),
        "metrics/adaptive_kl/coef": beta,
        "metrics/adaptive_kl/kl": kl,
    }
    return out, {"factor": factor}


adaptive_kl = Transform(_kl_init, _kl_update)


def kl_in_reward(
    old_logp: jax.Array,
    ref_logp: jax.Array,
    loss_mask: jax.Array,
    kl_coef: jax.Array,
    step_rewards: jax.Array | None = None,
    origin: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """`shaping.kl_in_reward` with a coefficient per row, such as that of `adaptive_kl`.

    Args:
      old_logp, ref_logp: [P,G,T] float32.  loss_mask: [P,G,T] bool.
      kl_coef: [P,G] float32, reward per nat.
      step_rewards: [P,G,T] float32, added to.  origin: as there.

    Returns: step_rewards [P,G,T] float32.
    """
    chex.assert_shape(kl_coef, loss_mask.shape[:2])
    one = shaping.kl_in_reward(old_logp, ref_logp, loss_mask, origin=origin, coef=1.0)
    cost = one["step_rewards"]
    cost = kl_coef[..., None] * cost
    return {"step_rewards": cost if step_rewards is None else step_rewards + cost}


# ---- adaptive entropy


def _entropy_init() -> State:
    return {"change": jnp.float32(0.0)}


def _entropy_update(
    policy_entropy: jax.Array,
    loss_mask: jax.Array,
    state: State,
    row_mask: jax.Array | None = None,
    *,
    target: float = 0.2,
    coef: float = 0.0,
    delta: float = 0.005,
    low: float = 0.0,
    high: float = 1.0,
) -> tuple[dict[str, jax.Array], State]:
    """An entropy coefficient that rises by steps while the entropy is at or below its target.

    Applied to this batch: c if H <= target, else 0.  Then c <- clip(c + delta if H <= target else
    c - delta, low, high).

    Args:
      policy_entropy: [P,G,T] float32, nats, of the policy before the update; the scorer
        `policy.policy_entropy` writes it.
      loss_mask: [P,G,T] bool.  row_mask: [P,G] bool.
      target: of H, the mean over the batch's trained tokens, nats.  Look at policy/entropy of a
        run first: a target far below it never acts.
      coef: c at the start, in [low, high].  delta: step of c.

    Returns: entropy_coef [P,G] float32, for `penalties.scaled_entropy_bonus`; scalars
      metrics/adaptive_entropy/coef (applied to this batch) and metrics/adaptive_entropy/entropy;
      the new state.  A batch without a trained token gets 0 and leaves c as it was.

    Reference: He et al., "Skywork Open Reasoner 1", arXiv:2505.22312 (target 0.2, delta
    0.005); the bounds are those of TRL.
    """
    chex.assert_equal_shape([policy_entropy, loss_mask])
    mask = masks.trained(loss_mask, row_mask)
    count = jnp.sum(mask)
    entropy = jnp.sum(jnp.where(mask, policy_entropy, 0.0)) / jnp.maximum(count, 1)
    poor = (entropy <= target) & (count > 0)
    before = coef + state["change"]
    moved = jnp.clip(before + jnp.where(poor, delta, -delta), low, high)
    applied = jnp.where(poor, before, 0.0)
    out = {
        "entropy_coef": jnp.full(mask.shape[:2], applied),
        "metrics/adaptive_entropy/coef": applied,
        "metrics/adaptive_entropy/entropy": entropy,
    }
    return out, {"change": jnp.where(count > 0, moved - coef, state["change"])}


adaptive_entropy = Transform(_entropy_init, _entropy_update)


# ---- several rewards


def _recap_init() -> State:
    return {
        "history": jnp.zeros((2 * MAX_WINDOW, MAX_OBJECTIVES)),  # newest last
        "count": jnp.zeros(MAX_OBJECTIVES, jnp.int32),
    }


def _recap_update(
    verdict: dict[str, jax.Array],
    state: State,
    row_mask: jax.Array | None = None,
    *,
    names: tp.Sequence[str] = (),
    window: int = 10,
    temperature: float = 5.0,
    convergence: float = 1.0,
    instability: float = 1.0,
) -> tuple[dict[str, jax.Array], State]:
    """Weights the rewards that get better slowest, or least steadily, most.

    With the loss of a reward 1 - its batch mean, mu and sigma of the last `window` batches and mu'
    of the `window` before:

        s_k = convergence mu_k / mu'_k + instability sigma_k / (mu_k + mu'_k)
        lambda = K softmax(s / temperature),  r = (1/K) sum_k lambda_k r_k

    lambda is 1 until every reward has been seen in 2 `window` batches, this one included.

    Args:
      verdict: name -> [P,G] float32, at most 1, so that the loss is not negative.  NaN: not
        judged by this one; adds nothing, and is not in its mean.
      row_mask: [P,G] bool.
      names: of the K verdicts to weigh, at most MAX_OBJECTIVES; (): all, sorted.
      window: batches, at most MAX_WINDOW.
      temperature: > 0; the larger, the more alike the weights.
      convergence, instability: 1 and 1 in the paper; 0.5 and 0.5 in the authors' code.

    Returns: rewards [P,G] float32; scalars metrics/recap/<name>, the weights; the new state.

    Raises: ValueError for an unknown name, too many of them, or a window out of range.

    Reference: "RECAP", arXiv:2510.21978 (window 10, temperature 5).  Differs from it in: it weighs
    losses; that of a policy gradient is near 0 and changes its sign, so rewards are tracked.  And
    mu' and mu + mu', where they divide, are at least 1 / (P G), one wrong row in a batch.
    """
    names = tuple(names) or tuple(sorted(verdict))
    unknown = sorted(set(names) - set(verdict))
    if unknown or not names or len(names) > MAX_OBJECTIVES:
        raise ValueError(
            f"recap names: got {unknown or names}, expected 1 to {MAX_OBJECTIVES} of "
            f"{sorted(verdict)}"
        )
    if not 1 <= window <= MAX_WINDOW:
        raise ValueError(f"recap window: got {window}, expected 1..{MAX_WINDOW} batches")
    size = len(names)
    scores = jnp.stack([verdict[name] for name in names], axis=-1)
    rows = masks.live(scores, row_mask)
    known = rows[..., None] & ~jnp.isnan(scores)
    seen = jnp.sum(known, axis=(0, 1))
    scores = jnp.where(known, scores, 0.0)
    loss = 1.0 - jnp.sum(scores, axis=(0, 1)) / jnp.maximum(seen, 1)

    old = state["history"][:, :size]
    history = jnp.where(seen > 0, jnp.concatenate([old[1:], loss[None]]), old)
    count = state["count"][:size] + (seen > 0)
    now, before = history[-window:], history[-2 * window : -window]
    mean, mean_before = now.mean(0), before.mean(0)
    least = 1.0 / rows.size  # one wrong row: what was perfect for a window is no division by 0
    score = convergence * mean / jnp.maximum(mean_before, least)
    score = score + instability * now.std(0) / jnp.maximum(mean + mean_before, least)
    weight = size * jax.nn.softmax(score / temperature)
    weight = jnp.where(jnp.all(count >= 2 * window), weight, 1.0)

    out = {f"metrics/recap/{name}": weight[k] for k, name in enumerate(names)}
    out["rewards"] = jnp.sum(weight * scores, axis=-1) / size
    new = {
        "history": state["history"].at[:, :size].set(history),
        "count": state["count"].at[:size].set(count),
    }
    return out, new


_recap_update.takes_all_unless = "names"  # type: ignore[attr-defined]  # a verifier may only inform
recap = Transform(_recap_init, _recap_update)
