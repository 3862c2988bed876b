"""What one policy gradient step does to the probability of being right, in a softmax bandit.

An analysis of why many completions a prompt help: the only term that can lower
the correct mass comes from answers that were not sampled.

Reference: Hu et al., "BroRL: Scaling Reinforcement Learning via Broadened
Exploration", arXiv:2510.01180.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def _sampled_return(
    probs: jax.Array, correct: jax.Array, sampled: jax.Array, right: float, wrong: float
) -> jax.Array:
    return jnp.sum(jnp.where(sampled, probs * jnp.where(correct, right, wrong), 0.0))


def mass_change(
    probs: jax.Array,
    correct: jax.Array,
    sampled: jax.Array,
    *,
    step_size: float,
    samples: int,
    right: float = 1.0,
    wrong: float = -1.0,
) -> dict[str, jax.Array]:
    """First-order change of the correct mass Q after one step on the sampled answers.

    With S = sum of p r over the sampled mass and second moments of p over the four classes:
    dQ = (step / N) [(right - S)(1 - Q) A2 + (S - wrong) Q B2 + S (Q Un2 - (1 - Q) Up2)].

    Args:
      probs: [V] float32, the softmax policy.  correct, sampled: [V] bool.
      step_size: of the logits.  samples: N, completions a prompt.
      right, wrong: rewards.

    Returns: scalars `sampled_correct` and `sampled_wrong` (both >= 0), `unsampled` (of either
      sign, to 0 as everything is sampled) and their sum `total`.
    """
    chex.assert_equal_shape([probs, correct, sampled])
    s = _sampled_return(probs, correct, sampled, right, wrong)
    q = jnp.sum(jnp.where(correct, probs, 0.0))

    def second_moment(which: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(which, jnp.square(probs), 0.0))

    rate = step_size / samples
    up, un = second_moment(correct & ~sampled), second_moment(~correct & ~sampled)
    out = {
        "sampled_correct": rate * (right - s) * (1.0 - q) * second_moment(correct & sampled),
        "sampled_wrong": rate * (s - wrong) * q * second_moment(~correct & sampled),
        "unsampled": rate * s * (q * un - (1.0 - q) * up),
    }
    return out | {"total": out["sampled_correct"] + out["sampled_wrong"] + out["unsampled"]}


def step(
    logits: jax.Array,
    correct: jax.Array,
    sampled: jax.Array,
    *,
    step_size: float,
    samples: int,
    right: float = 1.0,
    wrong: float = -1.0,
) -> jax.Array:
    """The logits after that step: dz_i = (step / N) p_i (r_i 1[i sampled] - S).

    Args: logits [V]; the others as `mass_change`.

    Returns: [V] float32.
    """
    chex.assert_equal_shape([logits, correct, sampled])
    probs = jax.nn.softmax(logits)
    s = _sampled_return(probs, correct, sampled, right, wrong)
    reward = jnp.where(sampled, jnp.where(correct, right, wrong), 0.0)
    return logits + step_size / samples * probs * (reward - s)
