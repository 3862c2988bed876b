"""Dense rewards from models that are trained beside the policy, for estimators of steps."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.rewards import _ranking


def value_scores(values: jax.Array, completion_mask: jax.Array) -> dict[str, jax.Array]:
    """What a process reward model says when a token has been read: p(good) - p(bad).

    The value is the log-odds of good, so this is tanh(value / 2), in [-1, 1].  The value at a token
    is that of the prefix before it, and a token's score the value at the next one; a row's last
    token, which nothing follows, has its own.

    Args:
      values: [P,G,T] float32, of a learner with output="value".
      completion_mask: [P,G,T] bool.

    Returns: step_scores [P,G,T] float32; 0 outside completion_mask.

    Reference: Cheng et al., "Stop Summation" (PURE), arXiv:2504.15275.
    """
    chex.assert_equal_shape([values, completion_mask])
    shift = ((0, 0), (0, 0), (0, 1))
    followed = jnp.pad(completion_mask[..., 1:], shift)
    after = jnp.where(followed, jnp.pad(values[..., 1:], shift), values)
    return {"step_scores": jnp.where(completion_mask, jnp.tanh(after / 2.0), 0.0)}


def implicit(
    model_logp: jax.Array,
    ref_logp: jax.Array,
    loss_mask: jax.Array,
    step_rewards: jax.Array | None = None,
    *,
    beta: float = 1.0,
) -> dict[str, jax.Array]:
    """The implicit process reward of each token, beta (log pi_model - log ref).

    The sum over a step is the step's reward, that over the row the model's outcome reward.  With
    `model` trained by `losses.preference.implicit_bce`, the sum up to a token is the soft value
    beta log E_ref exp(r / beta) of the prefix.

    Args:
      model_logp, ref_logp: [P,G,T] float32.  loss_mask: [P,G,T] bool.
      step_rewards: [P,G,T] float32, of methods before this one, to which it adds.
      beta: that of the training gives rewards in its units; PRIME leaves it out.

    Returns: step_rewards [P,G,T] float32; 0 outside loss_mask.

    Reference: Yuan et al., "Free Process Rewards without Process Labels", arXiv:2412.01981, prop.
    3.1; Cui et al., "PRIME", arXiv:2502.01456.
    """
    chex.assert_equal_shape([model_logp, ref_logp, loss_mask])
    own = jnp.where(loss_mask, beta * (model_logp - ref_logp), 0.0)
    return {"step_rewards": own if step_rewards is None else step_rewards + own}


def separation(
    step_rewards: jax.Array,
    rewards: jax.Array,
    loss_mask: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    threshold: float = 0.5,
) -> dict[str, jax.Array]:
    """How well the sum of a row's step rewards tells right rows from wrong ones.

    Of a model that was updated on this batch before it scored it (when="before_credit"), the answer
    flatters; with "after_credit" it is about rows that the model has not seen.

    Args:
      step_rewards: [P,G,T] float32.  loss_mask: [P,G,T] bool.  row_mask: [P,G] bool.
      rewards: [P,G] float32, the outcome; right if above `threshold`.

    Returns: scalars metrics/steps/auc, the share of pairs of a right and a wrong row of the batch
      in which the right one has more (ties: half; 0.5 without a pair), metrics/steps/pairs, how
      many there are, and metrics/steps/auc_group, of the pairs within a group.
    """
    chex.assert_equal_shape([step_rewards, loss_mask])
    total = jnp.sum(jnp.where(loss_mask, step_rewards, 0.0), axis=-1)
    rows = jnp.any(loss_mask, axis=-1)
    rows = rows & masks.live(rows, row_mask)
    right, wrong = rows & (rewards > threshold), rows & ~(rewards > threshold)

    share, pairs = _ranking.auc(*_ranking.whole(total, right, wrong))
    return {
        "metrics/steps/auc": share,
        "metrics/steps/pairs": pairs,
        "metrics/steps/auc_group": _ranking.auc(total, right, wrong)[0],
    }
