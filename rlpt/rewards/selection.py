"""Which rows of a group train, and how much: for many rollouts and noisy reward models.

Rows that are left out stay in the group's statistics.  Draws depend on key,
prompt_id and row_id, not on the layout of the batch.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.rewards import _draws


def _top(score: jax.Array, rows: jax.Array) -> jax.Array:
    """The one row with the largest score in each group; none where no row is eligible."""
    best = jnp.argmax(jnp.where(rows, score, -jnp.inf), axis=1)
    return rows & (jnp.arange(score.shape[1]) == best[:, None])


def subsample(
    key: jax.Array,
    prompt_id: jax.Array,
    row_id: jax.Array,
    row_mask: jax.Array | None = None,
    train_mask: jax.Array | None = None,
    *,
    keep: int,
) -> dict[str, jax.Array]:
    """`keep` rows of each group train, drawn at random from those that would.

    With hundreds of completions a prompt the statistics use all and the update a few (BroRL).

    Args:
      key: PRNG key.  prompt_id: [P] int32.  row_id: [P,G] int32.
      row_mask, train_mask: [P,G] bool.
      keep: >= 1; a group with fewer rows trains them all.

    Returns: train_mask [P,G] bool.

    Raises: ValueError for keep < 1.

    Reference: Hu et al., "BroRL", arXiv:2510.01180.
    """
    if keep < 1:
        raise ValueError(f"subsample: got keep={keep}, expected at least 1")
    rows = masks.live(row_id, row_mask) & masks.live(row_id, train_mask)
    draw = jnp.where(rows, _draws.per_row(key, prompt_id, row_id), jnp.inf)
    rank = jnp.argsort(jnp.argsort(draw, axis=1), axis=1)
    return {"train_mask": rows & (rank < keep)}


def pf_ppo(
    rewards: jax.Array,
    key: jax.Array,
    prompt_id: jax.Array,
    row_id: jax.Array,
    row_mask: jax.Array | None = None,
    train_mask: jax.Array | None = None,
    *,
    keep: str = "best_random",
) -> dict[str, jax.Array]:
    """Policy filtration: only the rows of a group whose reward can be trusted train.

    Args:
      rewards: [P,G] float32, of a reward model.
      key, prompt_id, row_id, row_mask, train_mask: as `subsample`.
      keep: 'best'; 'best_random': the best and one of the others; 'best_worst'.  Choose by the
        R^2 between score and truth on the kept rows.

    Returns: train_mask [P,G] bool.

    Raises: ValueError for an unknown keep.

    Reference: Shen and Zhang, "Policy Filtration in RLHF" (PF-PPO), arXiv:2409.06957.
    """
    chex.assert_equal_shape([rewards, row_id])
    if keep not in ("best", "best_random", "best_worst"):
        raise ValueError(f"pf_ppo keep: got {keep!r}, expected best, best_random or best_worst")
    rows = masks.live(rewards, row_mask) & masks.live(rewards, train_mask)
    best = _top(rewards, rows)
    rest = rows & ~best
    if keep == "best":
        return {"train_mask": best}
    score = -rewards if keep == "best_worst" else _draws.per_row(key, prompt_id, row_id)
    return {"train_mask": best | _top(score, rest)}


def pf_ppo_weights(
    rewards: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    kind: str = "power",
    power: float = 1.0,
    extreme: float = 0.4,
    middle: float = 0.1,
) -> dict[str, jax.Array]:
    """How often each row would be drawn if the batch were resampled, as a weight of mean 1.

    Apply it with `advantages.group.reweight` after the estimator.  Expected counts take the place
    of a draw with replacement: the same mean update with less variance.

    Args:
      rewards: [P,G] float32, of a reward model.  row_mask: [P,G] bool.
      kind: 'power': |r|^power; 'extremes': 1 for the group's largest and smallest, else 0;
        'mixed': `extreme` for the group's largest, else `middle`.

    Returns: row_weight [P,G] float32, mean 1 over the live rows (0 if all weights are 0).

    Raises: ValueError for an unknown kind.

    Reference: as `pf_ppo`; the three kinds are those of verl.  Differs from it in: extremes are
    those of the group, there of the batch, which says nothing where rewards are binary.
    """
    chex.assert_rank(rewards, 2)
    if kind not in ("power", "extremes", "mixed"):
        raise ValueError(f"pf_ppo_weights kind: got {kind!r}, expected power, extremes or mixed")
    rows = masks.live(rewards, row_mask)
    high = rewards == jnp.max(jnp.where(rows, rewards, -jnp.inf), axis=1, keepdims=True)
    low = rewards == jnp.min(jnp.where(rows, rewards, jnp.inf), axis=1, keepdims=True)
    if kind == "power":
        weight = jnp.power(jnp.abs(rewards), power)
    elif kind == "extremes":
        weight = jnp.where(high | low, 1.0, 0.0)
    else:
        weight = jnp.where(high, extreme, middle)
    weight = jnp.where(rows, weight, 0.0)
    total = jnp.sum(weight)
    return {"row_weight": weight * jnp.sum(rows) / jnp.where(total > 0, total, 1.0)}
