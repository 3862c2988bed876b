"""Rewards of self-play, in which the policy makes up the tasks that it then solves."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks


def absolute_zero(
    solve_rate: jax.Array,
    formed: jax.Array,
    proposes: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    no_signal: float = -0.5,
    wrong: float = -0.5,
    malformed: float = -1.0,
) -> dict[str, jax.Array]:
    """Absolute Zero: a proposal is worth what can be learnt from it, a solution that it is right.

        proposer   1 - a for a solve rate a in (0, 1); no_signal for 0, for 1 and for no valid task
        solver     1; `wrong` for a wrong answer
        both       `malformed` for a reply that is not in the form that was asked for

    Args:
      solve_rate: [P,G] float32: of a proposed task, the share of solutions that are right, 1 of an
        invalid one; of a solution, 1 if it is right, else 0; needed only where formed.
      formed: [P,G] bool.  proposes: [P,G] bool, False: solves.
      row_mask: [P,G] bool.
      no_signal: -0.5 is the code's; the paper's text says 0.

    Returns: rewards [P,G] float32, 0 in rows outside row_mask; row_mask [P,G] bool, without rows of
      which the solve rate is not known (NaN).

    Reference: Zhao et al., "Absolute Zero", arXiv:2505.03335, eq. 4-6, and its code.
    """
    chex.assert_equal_shape([solve_rate, formed, proposes])
    some = (solve_rate > 0) & (solve_rate < 1)
    proposal = jnp.where(some, 1.0 - solve_rate, no_signal)
    solution = jnp.where(solve_rate > 0.5, 1.0, wrong)
    reward = jnp.where(formed, jnp.where(proposes, proposal, solution), malformed)
    known = masks.live(solve_rate, row_mask) & ~(formed & jnp.isnan(solve_rate))
    return {"rewards": jnp.where(known, reward, 0.0), "row_mask": known}
