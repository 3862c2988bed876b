"""Credit where the reference answer stands behind the policy's own reasoning, in the same row.

The objective is the likelihood of that answer; its gradient has a part that makes good reasoning
likelier, by a score function, and one that makes the answer likelier after it, by plain likelihood.
The rollout `reference.spliced` makes such rows.  Pair with `surrogates.reinforce` and
`aggregate.sequence_mean_token_sum`: the sums over tokens are the log-probs of the formulas.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks


def spliced(
    advantages: jax.Array,
    answer_weight: jax.Array,
    context_mask: jax.Array,
    answer_slot: jax.Array,
) -> jax.Array:
    """The row's advantage on its reasoning, `answer_weight` on the answer behind it.

    With R_i = pi(y* | x, z_i) as the weight and its leave-one-out advantage on the reasoning, the
    gradient is that of E_z[pi(y* | x, z)]:

        E[A_i grad log pi(z_i | x) + R_i grad log pi(y* | x, z_i)]

    Args:
      advantages: [P,G] or [P,G,T] float32, such as of `group.rloo`.
      answer_weight: [P,G] float32.
      context_mask: [P,G,T] bool, the reasoning.
      answer_slot: [P,G] bool; False: the row has no such answer, and all of it is reasoning.

    Returns: [P,G,T] float32.

    Reference: Zhou et al., "VeriFree", arXiv:2505.21493.
    """
    chex.assert_equal_shape([answer_weight, answer_slot])
    chex.assert_equal_shape_prefix([advantages, answer_weight, context_mask], 2)
    reasoning = context_mask | ~answer_slot[..., None]
    own = advantages if advantages.ndim == 3 else advantages[..., None]
    return jnp.where(reasoning, own, answer_weight[..., None])


def jepo(likelihood: jax.Array, row_mask: jax.Array | None = None) -> dict[str, jax.Array]:
    """The gradient of log((1/n) sum_i pi(y* | x, z_i)), a bound on log pi(y* | x).

    With l_i = log pi(y* | x, z_i), n live rows, L = log((1/n) sum exp l_i) and L_-i the same
    without row i: the reasoning gets L - L_-i, the answer softmax(l)_i.

    Args:
      likelihood: [P,G] float32, l_i (`rewards.likelihood.of_answer` with form='log_prob').
      row_mask: [P,G] bool.

    Returns: advantages [P,G] float32, 0 in a group with fewer than 2 live rows; answer_weight
      [P,G] float32, which `spliced` reads, times n: the aggregation takes a mean over rows where
      the formula has a sum.  So are the advantages.

    Reference: "JEPO", arXiv:2503.19618, the bound of several samples; the formulas were not
    confirmed against the paper's text.
    """
    chex.assert_rank(likelihood, 2)
    rows = masks.live(likelihood, row_mask)
    count = jnp.sum(rows, axis=1, keepdims=True)
    logp = jnp.where(rows, likelihood, -jnp.inf)
    total = jax.nn.logsumexp(logp, axis=1, keepdims=True)
    own = jnp.eye(logp.shape[1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logp[:, None, :]), axis=2)
    whole = total - jnp.log(jnp.maximum(count, 1))
    without = others - jnp.log(jnp.maximum(count - 1, 1))
    gain = jnp.where(rows & (count > 1), whole - without, 0.0)
    weight = jnp.where(rows, jnp.exp(likelihood - total), 0.0)
    return {"advantages": count * gain, "answer_weight": count * weight}
