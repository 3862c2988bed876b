"""Advantages from rewards of steps and tokens that a trained model gives.

Both methods compare a row with the others of its group (leave one out) and sum what a token can
still earn.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.advantages import _stats, _tokens, group, returns


def _step_sums(values: jax.Array, step_id: jax.Array, mask: jax.Array) -> jax.Array:
    """The sum over each step, at every masked token of the step; 0 elsewhere; [P,G,T]."""
    inside = mask & (step_id >= 0)
    step = jnp.where(inside, step_id, 0)
    at = (jnp.arange(len(step))[:, None, None], jnp.arange(step.shape[1])[:, None], step)
    sums = jnp.zeros(values.shape, jnp.float32).at[at].add(jnp.where(inside, values, 0.0))
    return jnp.where(inside, jnp.take_along_axis(sums, step, axis=-1), 0.0)


def _one_of(what: str, got: str, known: tuple[str, ...]) -> None:
    if got not in known:
        raise ValueError(f"{what}: got {got!r}, expected one of {', '.join(known)}")


def _others(of_row: jax.Array, rows: jax.Array) -> jax.Array:
    """The sum over the other live rows of the group, [P,G]."""
    kept = jnp.where(rows, of_row, 0.0)
    return jnp.sum(kept, axis=1, keepdims=True) - kept


def pure(
    step_scores: jax.Array,
    step_id: jax.Array,
    loss_mask: jax.Array,
    rewards: jax.Array | None = None,
    step_rewards: jax.Array | None = None,
    separator_mask: jax.Array | None = None,
    row_mask: jax.Array | None = None,
    *,
    form: str = "min",
    temperature: float = 0.1,
    baseline: str = "token",
    outcome_coef: float = 1.0,
) -> jax.Array:
    """PURE: the worst step of a row decides, not the sum of its steps.

    r*_k = softmax(-r / temperature)_k r_k over the steps of a row, S = sum_k r*_k, about min r.
    The baseline takes off

        token   b n_k, n_k the tokens of step k and b = sum_{j != i} S_j / sum_{j != i} length_j
        step    mean_{j != i} S_j / steps_j

    and A_t sums what is left over the steps that end at or after t, with step_rewards of the tokens
    from t on and outcome_coef (o_i - mean_{j != i} o_j).  Under 'step', rows of few steps are
    favoured.

    Args:
      step_scores: [P,G,T] float32 in [-1, 1], read at the last trained token of each step.
      step_id: [P,G,T] int32, -1: no step.
      loss_mask: [P,G,T] bool.
      rewards: [P,G] float32, the outcome o; a prompt whose rows are not verified has equal ones,
        which say nothing.  The paper verifies one prompt in ten.
      step_rewards: [P,G,T] float32, other rewards of tokens: `rewards.shaping.kl_in_reward`.
      separator_mask: [P,G,T] bool, tokens that only separate steps, whose A is 0.
      row_mask: [P,G] bool.
      form: 'min'; 'sum': r*_k = r_k, the usual credit, under which more steps earn more: what the
        paper compares with.
      temperature: > 0; towards 0 the minimum, towards infinity the mean.
      baseline: 'token' or 'step'.  outcome_coef: weight of the outcome.

    Returns: [P,G,T] float32; 0 in a row that is out.  A row that is alone in its group has b = 0:
      r* itself, and no outcome.

    Raises: ValueError for an unknown form or baseline, or G=1.

    Reference: Cheng et al., "Stop Summation: Min-Form Credit Assignment Is All Process Reward Model
    Needs for Reasoning", arXiv:2504.15275, and its code.
    """
    chex.assert_equal_shape([step_scores, step_id, loss_mask])
    _one_of("pure form", form, ("min", "sum"))
    _one_of("pure baseline", baseline, ("token", "step"))
    _stats.require_group(step_scores, False)
    mask = masks.trained(loss_mask, row_mask)
    inside = mask & (step_id >= 0)
    ends = _tokens.step_ends(step_id, mask)
    if form == "min":
        earned = returns.minimum(step_scores, step_id, loss_mask, row_mask, temperature=temperature)
    else:
        earned = _tokens.discounted(jnp.where(ends, step_scores, 0.0), mask, 1.0)
    first = jnp.argmax(mask, axis=-1)[..., None]
    score = jnp.take_along_axis(earned, first, axis=-1)[..., 0]
    steps, length = jnp.sum(ends, axis=-1), jnp.sum(inside, axis=-1)
    rows = steps > 0
    if baseline == "token":
        tokens = jnp.maximum(_others(length, rows), 1)
        cost = (_others(score, rows) / tokens)[..., None] * _step_sums(inside, step_id, mask)
    else:
        count = jnp.maximum(_others(rows, rows), 1)
        cost = (_others(score / jnp.maximum(steps, 1), rows) / count)[..., None]
    advantages = earned - _tokens.discounted(jnp.where(ends, cost, 0.0), mask, 1.0)
    if step_rewards is not None:
        advantages = advantages + returns.suffix(step_rewards, loss_mask, row_mask)
    if rewards is not None:
        alive = masks.live(rewards, row_mask)
        advantages = advantages + outcome_coef * group.rloo(rewards, alive)[..., None]
    kept = mask if separator_mask is None else mask & ~separator_mask
    return jnp.where(kept, advantages, 0.0)


def prime(
    step_rewards: jax.Array,
    rewards: jax.Array,
    loss_mask: jax.Array,
    row_mask: jax.Array | None = None,
    step_id: jax.Array | None = None,
    *,
    process_coef: float = 5.0,
    outcome_coef: float = 5.0,
    gamma: float = 1.0,
    form: str = "released",
    granularity: str = "token",
    batch_norm: bool = True,
    whiten: bool = True,
    eps: float = 1e-8,
) -> jax.Array:
    """PRIME: leave-one-out returns of the implicit process reward, and of the outcome.

    With m_j the mean of q over the tokens of row j, n live rows and S = sum_j m_j,

        paper     q' = q - (S - m_i) / (n - 1)
        released  q' = n / (n - 1) q - S / (n - 1), which scales the row's own rewards

    A_t = process_coef sum_{s >= t} gamma^(s-t) q'_s + outcome_coef (o_i - mean_{j != i} o_j), where
    'released' discounts the outcome too, from the last token on.

    Args:
      step_rewards: [P,G,T] float32, q, of `rewards.steps.implicit`.
      rewards: [P,G] float32, the outcome o.
      loss_mask: [P,G,T] bool.  row_mask: [P,G] bool.
      step_id: [P,G,T] int32, where granularity is 'step'.
      process_coef, outcome_coef: 5 in the released settings; the paper has no coefficients.
      gamma: discount per trained token.
      form: 'paper' or 'released'.
      granularity: 'token'; 'step': the sum of a step on its last token; 'whole': that of the row.
      batch_norm: divide q first by the batch's largest |sum_{s >= t} q_s| + 1e-6.
      whiten: standardise A over the batch's tokens.  eps: added to the variance then.

    Returns: [P,G,T] float32; rows without a trained token do not count.

    Raises: ValueError for an unknown form or granularity, 'step' without step_id, or G=1.

    Reference: Cui et al., "Process Reinforcement through Implicit Rewards", arXiv:2502.01456,
    eq. 5, and its code.
    """
    chex.assert_equal_shape([step_rewards, loss_mask])
    _one_of("prime form", form, ("paper", "released"))
    _one_of("prime granularity", granularity, ("token", "step", "whole"))
    _stats.require_group(rewards, False)
    mask = masks.trained(loss_mask, row_mask)
    q = jnp.where(mask, step_rewards, 0.0)
    if granularity == "step":
        if step_id is None:
            raise ValueError("prime granularity='step' needs the column step_id; see steps.split")
        q = jnp.where(_tokens.step_ends(step_id, mask), _step_sums(q, step_id, mask), 0.0)
    elif granularity == "whole":
        q = jnp.where(masks.last_token(mask), jnp.sum(q, axis=-1, keepdims=True), 0.0)
    if batch_norm:
        q = q / (jnp.max(jnp.abs(_tokens.discounted(q, mask, 1.0))) + 1e-6)
    rows = jnp.any(mask, axis=-1)
    count = jnp.sum(rows, axis=1, keepdims=True)
    mean = jnp.sum(q, axis=-1) / jnp.maximum(jnp.sum(mask, axis=-1), 1)
    rest = jnp.maximum(count - 1, 1)
    if form == "paper":
        relative = q - (_others(mean, rows) / rest)[..., None]
    else:
        total = jnp.sum(jnp.where(rows, mean, 0.0), axis=1, keepdims=True)
        relative = q * (count / rest)[..., None] - (total / rest)[..., None]
    relative = jnp.where(mask & (count > 1)[..., None], relative, 0.0)
    earned, outcome = process_coef * relative, outcome_coef * group.rloo(rewards, rows)[..., None]
    if form == "released":
        earned = earned + jnp.where(masks.last_token(mask), outcome, 0.0)
    advantages = _tokens.discounted(earned, mask, gamma)
    advantages = jnp.where(mask, advantages + outcome * (form == "paper"), 0.0)
    return _tokens.whiten(advantages, mask, eps) if whiten else advantages
