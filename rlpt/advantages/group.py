"""Advantages from the statistics of a group of completions to one prompt.

Every function maps rewards [P,G] to advantages [P,G]; a group statistic is
axis 1.  Rows with row_mask False get 0 and stay out of mean, std and count.  A
group whose live rewards are equal, or with one live row, gets exactly 0 from
the estimators that centre.  Nothing here is differentiated: the policy loss
stops the gradient of what comes from the batch.
"""

from __future__ import annotations

import typing as tp

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.advantages import _stats

SCALES = ("group", "batch", "none")


def grpo(
    rewards: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    ddof: int = 1,
    eps: float = 1e-6,
    scale: str = "group",
    allow_singleton: bool = False,
) -> jax.Array:
    """Group-standardised rewards.

    A_i = (r_i - mean_G) / (std + eps).

    Args:
      rewards: [P,G] float32.
      row_mask: [P,G] bool; None: all rows count.
      ddof: 1: sample std (verl, TRL); 0: population std (the paper's formula).
      eps: added to std; > 0.
      scale: 'group': std of the group; 'batch': of all live rewards of the batch
        (the mean stays the group's); 'none': no division.
      allow_singleton: accept G=1, where A = r.

    Returns: [P,G] float32.

    Raises: ValueError for an unknown scale, or G=1 without allow_singleton.

    Reference: Shao et al., "DeepSeekMath", arXiv:2402.03300, sec. 4.1.
    """
    chex.assert_rank(rewards, 2)
    if scale not in SCALES:
        raise ValueError(f"grpo scale: got {scale!r}, expected one of {', '.join(SCALES)}")
    _stats.require_group(rewards, allow_singleton)
    rows = masks.live(rewards, row_mask)
    if rewards.shape[1] == 1:
        return jnp.where(rows, rewards, 0.0)
    centred, count = _stats.centre(rewards, rows)
    if scale == "none":
        return centred
    if scale == "batch":
        spread = _stats.std(*_stats.centre(rewards, rows, axis=(0, 1)), ddof, axis=(0, 1))
    else:
        spread = _stats.std(centred, count, ddof)
    return centred / (spread + eps)


def dr_grpo(
    rewards: jax.Array, row_mask: jax.Array | None = None, *, allow_singleton: bool = False
) -> jax.Array:
    """Centred rewards, A_i = r_i - mean_G; no std.

    The method also divides the loss by a constant: pair it with
    `losses.aggregate.constant_length`.

    Args:
      rewards: [P,G] float32.  row_mask: [P,G] bool.
      allow_singleton: accept G=1, where A = r.

    Returns: [P,G] float32.

    Raises: ValueError for G=1 without allow_singleton.

    Reference: Liu et al., "Understanding R1-Zero-Like Training", arXiv:2503.20783.
    """
    return grpo(rewards, row_mask, scale="none", allow_singleton=allow_singleton)


def rloo(
    rewards: jax.Array, row_mask: jax.Array | None = None, *, allow_singleton: bool = False
) -> jax.Array:
    """Leave-one-out baseline.

    A_i = r_i - mean_{j != i} r_j = n/(n-1) (r_i - mean_G), n live rows.

    Args:
      rewards: [P,G] float32.  row_mask: [P,G] bool.
      allow_singleton: accept G=1, where A = r.

    Returns: [P,G] float32; 0 where a larger group has one live row.

    Raises: ValueError for G=1 without allow_singleton.

    Reference: Ahmadian et al., "Back to Basics", arXiv:2402.14740.
    """
    chex.assert_rank(rewards, 2)
    _stats.require_group(rewards, allow_singleton)
    rows = masks.live(rewards, row_mask)
    if rewards.shape[1] == 1:
        return jnp.where(rows, rewards, 0.0)
    centred, count = _stats.centre(rewards, rows)
    return centred * count / jnp.maximum(count - 1, 1)


def maxrl(
    rewards: jax.Array, row_mask: jax.Array | None = None, *, allow_singleton: bool = False
) -> jax.Array:
    """Centred rewards divided by their mean; 0 where the mean is not positive.

    A_i = (r_i - mean_G) / mean_G.  Derived for rewards in {0, 1}; the division is
    meaningless for rewards that can be negative.

    Args:
      rewards: [P,G] float32, >= 0.  row_mask: [P,G] bool.
      allow_singleton: accept G=1, where A = r.

    Returns: [P,G] float32.

    Raises: ValueError for G=1 without allow_singleton.

    Reference: Tajwar et al., "Maximum Likelihood Reinforcement Learning", arXiv:2602.02710.
    """
    centred = grpo(rewards, row_mask, scale="none", allow_singleton=allow_singleton)
    if rewards.shape[1] == 1:
        return centred
    mean = _stats.mean(rewards, masks.live(rewards, row_mask))
    scaled = centred / jnp.where(mean > 0, mean, 1.0)
    return jnp.where(mean <= 0, 0.0, scaled)  # of an unknown mean: NaN, as centred is


def gdpo(
    verdict: dict[str, jax.Array],
    row_mask: jax.Array | None = None,
    *,
    weights: tp.Mapping[str, float] | None = None,
    ddof: int = 1,
    eps: float = 1e-6,
    whiten: bool = True,
) -> jax.Array:
    """Several rewards, each standardised in its group, then summed.

    A_i = sum_k w_k (r_ki - mean_k) / (std_k + eps); with `whiten` the sum is then
    standardised over the live rows of the batch.

    Args:
      verdict: name -> [P,G] float32.  NaN: no verdict; that row stays out of that
        reward's statistics and gets 0 from it.
      row_mask: [P,G] bool.
      weights: name -> weight; None: every verdict with weight 1.
      ddof: of the std.  eps: added to std.  whiten: standardise over the batch.

    Returns: [P,G] float32.

    Raises: ValueError for a weight whose verdict is absent, or G=1.

    Reference: Liu et al., "GDPO: Group reward-Decoupled Normalization Policy
    Optimization", arXiv:2601.05242.
    """
    weights = dict.fromkeys(sorted(verdict), 1.0) if weights is None else dict(weights)
    missing = sorted(set(weights) - set(verdict))
    if missing or not weights:
        raise ValueError(
            f"gdpo weights: got {missing or weights}, expected some of {sorted(verdict)}"
        )
    first = verdict[next(iter(weights))]
    rows = masks.live(first, row_mask)
    total = jnp.zeros(first.shape, jnp.float32)
    for name, weight in weights.items():
        known = rows & ~jnp.isnan(verdict[name])
        total = total + weight * grpo(verdict[name], known, ddof=ddof, eps=eps)
    if not whiten:
        return total
    centred, count = _stats.centre(total, rows, axis=(0, 1))
    return centred / (_stats.std(centred, count, ddof, axis=(0, 1)) + eps)


gdpo.takes_all_unless = "weights"  # type: ignore[attr-defined]  # a verifier may only inform


def psr(
    rewards: jax.Array,
    row_mask: jax.Array | None = None,
    train_mask: jax.Array | None = None,
    *,
    threshold: float = 0.5,
) -> dict[str, jax.Array]:
    """Positive sample reinforcement: A = 1, and only correct rows train.

    Args:
      rewards: [P,G] float32; a row is correct if its reward exceeds `threshold`.
      row_mask, train_mask: [P,G] bool.

    Returns: advantages [P,G] float32 (1 or 0), train_mask [P,G] bool.  With no correct
      row nothing trains and the loss is 0.

    Reference: Zhu et al., "The Surprising Effectiveness of Negative Reinforcement",
    arXiv:2506.01347.
    """
    rows = masks.live(rewards, row_mask)
    right = rows & ~(rewards <= threshold)
    keep = right & masks.live(rewards, train_mask)
    value = jnp.where(right, _stats.known(rewards, jnp.float32(1.0)), 0.0)
    return {"advantages": value, "train_mask": keep}


def nsr(
    rewards: jax.Array,
    row_mask: jax.Array | None = None,
    train_mask: jax.Array | None = None,
    *,
    threshold: float = 0.5,
) -> dict[str, jax.Array]:
    """Negative sample reinforcement: A = -1, and only incorrect rows train.

    Args, Returns, Reference: as `psr`, with the other half of the rows.
    """
    rows = masks.live(rewards, row_mask)
    wrong = rows & ~(rewards > threshold)
    keep = wrong & masks.live(rewards, train_mask)
    value = jnp.where(wrong, _stats.known(rewards, jnp.float32(-1.0)), 0.0)
    return {"advantages": value, "train_mask": keep}


def w_reinforce(
    rewards: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    positive: float = 0.1,
    threshold: float = 0.5,
) -> jax.Array:
    """Weighted REINFORCE: A = `positive` if correct, else -1; no baseline.

    Args:
      rewards: [P,G] float32; a row is correct if its reward exceeds `threshold`.
      row_mask: [P,G] bool.
      positive: the paper's lambda; 1 gives REINFORCE with rewards +1 and -1.

    Returns: [P,G] float32.

    Reference: Zhu et al., arXiv:2506.01347 (lambda = 0.1).
    """
    chex.assert_rank(rewards, 2)
    rows = masks.live(rewards, row_mask)
    signed = jnp.where(rewards > threshold, positive, -1.0)
    return jnp.where(rows, _stats.known(rewards, signed), 0.0)


def canon(
    rewards: jax.Array,
    metric: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    alpha: float = 1.0,
    mu: float = 1.0,
    discounted: str = "low",
    mu_from: str = "setting",
) -> jax.Array:
    """Compares each row with the half of its group that differs in a metric, or with its own half.

    The group is sorted by `metric` (stable); the first floor(n/2) of its n live rows are the low
    half.  With r' = alpha r in the `discounted` half and r' = r in the other:

        inter_i = r'_i - mean of r' over the other half
        intra_i = r_i - mean of r over the own half
        A = mu inter + (1 - mu) intra

    Args:
      rewards: [P,G] float32.
      metric: [P,G] float32, e.g. mean token entropy or length (rename with reads=).
      row_mask: [P,G] bool.
      alpha: in (0, 1]; below 1 it favours the half that is not discounted.
      mu: weight of the comparison between halves.
      discounted: 'low' (the paper's entropy version) or 'high' (its length version).
      mu_from: 'setting'; 'accuracy': the mean reward of the batch (first intra, later
        inter); 'error': one minus that.

    Returns: [P,G] float32; 0 in groups with fewer than 2 live rows.  The paper's 1/L_max is the
      loss's: pair with `losses.aggregate.constant_length`.

    Raises: ValueError for an unknown `discounted` or `mu_from`.

    Reference: "Conditional Advantage Estimation" (CANON), arXiv:2509.23962.
    """
    chex.assert_equal_shape([rewards, metric])
    if discounted not in ("low", "high"):
        raise ValueError(f"canon discounted: got {discounted!r}, expected 'low' or 'high'")
    if mu_from not in ("setting", "accuracy", "error"):
        raise ValueError(f"canon mu_from: got {mu_from!r}, expected 'setting', 'accuracy', 'error'")
    rows = masks.live(rewards, row_mask)
    count = jnp.sum(rows, axis=1, keepdims=True)
    order = jnp.argsort(jnp.where(rows, metric, jnp.inf), axis=1, stable=True)
    rank = jnp.argsort(order, axis=1, stable=True)
    low, high = rows & (rank < count // 2), rows & (rank >= count // 2)
    scaled = jnp.where(low if discounted == "low" else high, alpha * rewards, rewards)
    inter = scaled - jnp.where(low, _stats.mean(scaled, high), _stats.mean(scaled, low))
    intra = rewards - jnp.where(low, _stats.mean(rewards, low), _stats.mean(rewards, high))
    accuracy = _stats.mean(rewards, rows, axis=(0, 1))
    shares: dict[str, tp.Any] = {"setting": mu, "accuracy": accuracy, "error": 1.0 - accuracy}
    share = shares[mu_from]
    return jnp.where(rows & (count > 1), share * inter + (1.0 - share) * intra, 0.0)


def stable_reinforce(
    rewards: jax.Array,
    row_mask: jax.Array | None = None,
    train_mask: jax.Array | None = None,
    *,
    bound: float = 3.0,
    ddof: int = 0,
    eps: float = 1e-6,
) -> dict[str, jax.Array]:
    """GRPO advantages, standardised over the batch; outliers do not train.

    z = GRPO advantage, centred and divided by its std over the batch's live rows; rows with
    |z| > bound leave loss and denominator.  In a group of n rows |z| <= sqrt(n-1), which is why
    the test looks at the batch.

    Args:
      rewards: [P,G] float32.  row_mask, train_mask: [P,G] bool.
      bound: in standard deviations.  ddof, eps: of both standardisations.

    Returns: advantages [P,G] float32 (z), train_mask [P,G] bool.

    Raises: ValueError for G=1.

    Reference: Zhang et al., "R1-Reward", arXiv:2505.02835.
    """
    rows = masks.live(rewards, row_mask)
    advantages = grpo(rewards, row_mask, ddof=ddof, eps=eps)
    centred, count = _stats.centre(advantages, rows, axis=(0, 1))
    z = centred / (_stats.std(centred, count, ddof, axis=(0, 1)) + eps)
    keep = rows & (jnp.abs(z) <= bound) & masks.live(rewards, train_mask)
    return {"advantages": z, "train_mask": keep}


def rl_plus(rewards: jax.Array, origin: jax.Array, row_mask: jax.Array | None = None) -> jax.Array:
    """Rewards minus the group mean over the policy's own rows; external rows too.

    A_i = r_i - mean of r over rows with origin != 3.

    Args:
      rewards: [P,G] float32; 1 for a verified external solution.
      origin: [P,G] int32; 3: external text.  row_mask: [P,G] bool.

    Returns: [P,G] float32.

    Reference: Dong et al., "RL-PLUS", arXiv:2508.00222; its loss is `losses.surrogates.rl_plus`.
    Differs from its code in: one row of the policy is its own mean, there the mean is 0 then.
    """
    chex.assert_equal_shape([rewards, origin])
    rows = masks.live(rewards, row_mask)
    own = rows & (origin != 3)
    return jnp.where(rows, rewards - _stats.mean(rewards, own), 0.0)


def reweight(advantages: jax.Array, row_weight: jax.Array) -> jax.Array:
    """Advantages times a weight per row, e.g. of `rewards.selection.pf_ppo_weights`.

    Args:
      advantages: [P,G] or [P,G,T] float32.  row_weight: [P,G] float32, >= 0.

    Returns: the shape of advantages.
    """
    weight = row_weight if advantages.ndim == 2 else row_weight[..., None]
    return advantages * weight
