"""Credit of turns, where a completion is a conversation with tools."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.advantages import _stats, _tokens

NORMS = ("pooled", "separate", "position")


def _standard(rewards: jax.Array, mask: jax.Array, ddof: int, eps: jax.Array | float) -> jax.Array:
    """(r - mean) / (std + eps) over the masked turns of a group; 0 outside the mask."""
    centred, count = _stats.centre(rewards, mask, axis=(1, 2))
    return centred / (_stats.std(centred, count, ddof, axis=(1, 2)) + eps)


def igpo(
    rewards: jax.Array,
    step_rewards: jax.Array,
    step_id: jax.Array,
    loss_mask: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    norm: str = "pooled",
    gamma: float = 1.0,
    ddof: int = 0,
    eps: float = 1e-6,
) -> jax.Array:
    """IGPO: rewards of turns, compared within the group and summed over what follows.

    The reward of a turn is the sum of step_rewards over its trained tokens; the last turn also
    gets the row's reward.  Every trained token of turn k gets A_k:

        pooled    A_k = sum_{l >= k} gamma^(l-k) z_l, z the rewards of all turns of all rows of the
                  group, standardised together
        separate  the same, the last turns' rewards standardised among themselves, the others too
        position  R_k = sum_{l >= k} gamma^(l-k) r_l; A_k = R_k - mean of R_k over the group's rows
                  that have a turn k

    Args:
      rewards: [P,G] float32, of the outcome.
      step_rewards: [P,G,T] float32, e.g. of `scorers.answers.information_gain`.
      step_id: [P,G,T] int32, the turn of a token, in [0, T); other tokens get 0.
      loss_mask: [P,G,T] bool.  row_mask: [P,G] bool.
      norm: 'pooled' is the paper's; it and 'separate' are in the present code, 'position' was the
        first release's.
      gamma: discount per turn.
      ddof, eps: of the std, which 'position' has not.

    Returns: [P,G,T] float32.  Rows of one turn get what `group.grpo` gives them with the same ddof
      ('pooled').

    Raises: ValueError for an unknown norm.

    Reference: Wang et al., "Information Gain-based Policy Optimization", arXiv:2510.14967.
    """
    chex.assert_equal_shape([step_rewards, step_id, loss_mask])
    if norm not in NORMS:
        raise ValueError(f"igpo norm: got {norm!r}, expected one of {', '.join(NORMS)}")
    trained = masks.trained(loss_mask, row_mask) & (step_id >= 0)
    dense = _tokens.token_rewards(trained, rewards, step_rewards)
    turn = jnp.where(trained, step_id, 0)
    at = (jnp.arange(len(turn))[:, None, None], jnp.arange(turn.shape[1])[:, None], turn)
    turns = jnp.zeros(turn.shape, jnp.int32).at[at].add(trained) > 0  # [P,G,turn]
    reward = jnp.zeros(turn.shape).at[at].add(dense)
    final = masks.last_token(turns)
    if norm == "position":
        ahead = _tokens.discounted(reward, turns, gamma)
        credit, _ = _stats.centre(ahead, turns)
    else:
        if norm == "pooled":
            z = _standard(reward, turns, ddof, eps)
        else:
            z = _standard(reward, turns & ~final, ddof, eps) + _standard(reward, final, ddof, eps)
        credit = _tokens.discounted(z, turns, gamma)
    return jnp.where(trained, jnp.take_along_axis(credit, turn, axis=-1), 0.0)
