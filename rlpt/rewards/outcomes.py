"""Rewards that papers make from several verdicts on one completion.

The parameters are named for what the verdict says; a config points them at its
verifiers with reads=dict(correct='verdict/<name>').  A verdict of NaN that the
formula needs takes the row out of row_mask.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks


def _judged(
    rewards: jax.Array, known: jax.Array, row_mask: jax.Array | None
) -> dict[str, jax.Array]:
    rows = known if row_mask is None else known & row_mask
    return {"rewards": jnp.where(rows, rewards, 0.0), "row_mask": rows}


def _yes(verdict: jax.Array) -> jax.Array:
    return verdict > 0.5


def truthrl(
    correct: jax.Array,
    abstained: jax.Array,
    row_mask: jax.Array | None = None,
    unknowable: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """+1 correct, 0 abstained, -1 wrong: to answer pays if P(correct) > 1/2.

    Args:
      correct, abstained: [P,G] float32, 1 or 0; correct is not needed where the row abstained.
      row_mask: [P,G] bool.
      unknowable: [P,G] float32, 1 where the model cannot know; to abstain is then worth +1.

    Returns: rewards [P,G] float32, row_mask [P,G] bool.

    Reference: Wei et al., "TruthRL", arXiv:2509.25760.
    """
    chex.assert_equal_shape([correct, abstained])
    silent = _yes(abstained)
    silence = (
        jnp.zeros_like(correct) if unknowable is None else _yes(unknowable).astype(jnp.float32)
    )
    rewards = jnp.where(silent, silence, jnp.where(_yes(correct), 1.0, -1.0))
    return _judged(rewards, ~jnp.isnan(abstained) & (silent | ~jnp.isnan(correct)), row_mask)


def rlcr(
    correct: jax.Array,
    confidence: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    form: str = "paper",
    malformed: float = -1.0,
) -> dict[str, jax.Array]:
    """Correctness minus the Brier score of the stated confidence.

    R = y - (y - q)^2, y in {0, 1}: with P(correct) = p it is largest at q = p, where it is p^2.

    Args:
      correct: [P,G] float32, 1 or 0.
      confidence: [P,G] float32, q; NaN or outside [0, 1]: malformed.
      row_mask: [P,G] bool.
      form: 'paper', R above; 'code', 0.5 + 0.5 y + 0.5 (1 - (y - q)^2), where the first
        half is for the format and a malformed row gets 0.
      malformed: reward of a malformed row under 'paper'; the least a well-formed one can get is -1.

    Returns: rewards [P,G] float32, row_mask [P,G] bool.

    Raises: ValueError for an unknown form.

    Reference: Damani et al., "Beyond Binary Rewards", arXiv:2507.16806.
    """
    chex.assert_equal_shape([correct, confidence])
    if form not in ("paper", "code"):
        raise ValueError(f"rlcr form: got {form!r}, expected 'paper' or 'code'")
    y = _yes(correct).astype(jnp.float32)
    brier = jnp.square(y - confidence)
    well_formed = (confidence >= 0) & (confidence <= 1)
    if form == "paper":
        rewards = jnp.where(well_formed, y - brier, malformed)
    else:
        rewards = jnp.where(well_formed, 0.5 + 0.5 * y + 0.5 * (1.0 - brier), 0.0)
    return _judged(rewards, ~jnp.isnan(correct), row_mask)


def fapo(
    correct: jax.Array,
    flawed: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    coef: float = 1.0,
) -> dict[str, jax.Array]:
    """+1 correct, -1 wrong, and coef less for a correct answer with flawed reasoning.

    With a share a of clean and b of wrong rows the flawed ones are reinforced while
    a / b < 2 / coef - 1, and discouraged later.

    Args:
      correct: [P,G] float32, 1 or 0.
      flawed: [P,G] float32, 1 or 0; needed only where correct.
      row_mask: [P,G] bool.  coef: the paper's lambda.

    Returns: rewards [P,G] float32, row_mask [P,G] bool.

    Reference: Ding et al., "FAPO: Flawed-Aware Policy Optimization", arXiv:2510.22543.
    """
    chex.assert_equal_shape([correct, flawed])
    right = _yes(correct)
    rewards = jnp.where(right, 1.0 - coef * _yes(flawed), -1.0)
    return _judged(rewards, ~jnp.isnan(correct) & ~(right & jnp.isnan(flawed)), row_mask)


def fapo_judge(
    flawed: jax.Array,
    flawed_prediction: jax.Array,
    flaw_step: jax.Array,
    flaw_step_prediction: jax.Array,
    num_steps: jax.Array,
    row_mask: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Reward of the judge that finds flaws: +-1 for its verdict, minus how far off the step is.

    Args: flawed, flawed_prediction: [P,G] float32, 1 or 0; flaw_step, flaw_step_prediction,
      num_steps: [P,G] float32, used where a flaw was found that is there.  row_mask: [P,G] bool.

    Returns: rewards [P,G] float32, row_mask [P,G] bool.

    Reference: as `fapo`.
    """
    chex.assert_equal_shape([flawed, flawed_prediction, flaw_step, flaw_step_prediction, num_steps])
    truth, guess = _yes(flawed), _yes(flawed_prediction)
    distance = jnp.abs(flaw_step_prediction - flaw_step) / jnp.maximum(num_steps, 1)
    rewards = jnp.where(truth == guess, 1.0, -1.0) - jnp.where(truth & guess, distance, 0.0)
    known = ~jnp.isnan(flawed) & ~jnp.isnan(flawed_prediction)
    return _judged(rewards, known & ~(truth & guess & jnp.isnan(distance)), row_mask)


def stable_reinforce(
    correct: jax.Array,
    consistent: jax.Array,
    well_formed: jax.Array,
    row_mask: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """correct (1 + consistent / 2) + well_formed / 2.

    Args: correct, well_formed: [P,G] float32; consistent: [P,G] float32, whether a judge finds
      that the analysis supports the answer, needed only where correct.  row_mask: [P,G] bool.

    Returns: rewards [P,G] float32, row_mask [P,G] bool.

    Reference: Zhang et al., "R1-Reward", arXiv:2505.02835.
    """
    chex.assert_equal_shape([correct, consistent, well_formed])
    right = _yes(correct)
    rewards = jnp.where(right, 1.0 + 0.5 * consistent, 0.0) + 0.5 * well_formed
    known = ~jnp.isnan(correct) & ~jnp.isnan(well_formed) & ~(right & jnp.isnan(consistent))
    return _judged(rewards, known, row_mask)


def darling(
    rewards: jax.Array,
    diversity_class: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    floor: float = 0.1,
) -> jax.Array:
    """Quality times diversity: r_i max(floor, (n - |class of i|) / (n - 1)).

    Estimate with `group.dr_grpo`, as the paper does.  A reward of 0 stays 0; scores of a reward
    model go through `shaping.min_shift` first.

    Args:
      rewards: [P,G] float32, >= 0, the quality.
      diversity_class: [P,G] int32, semantic class within the group; -1: in a class of its own.
      row_mask: [P,G] bool.
      floor: least diversity.

    Returns: [P,G] float32; diversity is 1 in a group of one.

    Reference: Li et al., "Jointly Reinforcing Diversity and Quality" (DARLING), arXiv:2509.02534.
    """
    chex.assert_equal_shape([rewards, diversity_class])
    rows = masks.live(rewards, row_mask)
    count = jnp.sum(rows, axis=1, keepdims=True)
    same = diversity_class[:, :, None] == diversity_class[:, None, :]
    same = same & rows[:, None, :] & (diversity_class >= 0)[:, None, :]
    size = jnp.maximum(jnp.sum(same, axis=-1), 1)
    diversity = jnp.maximum((count - size) / jnp.maximum(count - 1, 1), floor)
    return jnp.where(rows, rewards * jnp.where(count > 1, diversity, 1.0), 0.0)
