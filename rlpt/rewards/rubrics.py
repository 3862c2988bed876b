"""A rubric that is the same for all prompts: each criterion is a verifier, its verdict a column.

So every criterion is in the log by itself.  Rubrics of single prompts are `verifiers.rubric`.
"""

from __future__ import annotations

import typing as tp

import jax
import jax.numpy as jnp

from rlpt.rewards import combine


def _normalised(weights: tp.Mapping[str, float], where: str) -> dict[str, float]:
    total = sum(w for w in weights.values() if w > 0)
    if not total > 0:
        raise ValueError(f"{where} weights: got {dict(weights)}, expected one above 0")
    return {name: w / total for name, w in weights.items()}


def explicit(
    verdict: dict[str, jax.Array],
    row_mask: jax.Array | None = None,
    *,
    weights: tp.Mapping[str, float],
    vetoes: tp.Sequence[str] = (),
    threshold: float = 0.5,
    cap: float = 0.0,
) -> dict[str, jax.Array]:
    """sum_k w_k verdict_k / sum of the weights above 0; at most `cap` where a veto is broken.

    Args:
      verdict: name -> [P,G] float32 in [0, 1].  NaN in one that is used takes the row out.
      row_mask: [P,G] bool.
      weights: name -> weight.
      vetoes: names, of those in `weights` (whose weight may be 0); broken below `threshold`, or,
        where the weight is below 0 (what an answer should not do), from it on.

    Returns: rewards [P,G] float32, row_mask [P,G] bool.

    Raises: ValueError for an unknown name, or no weight above 0.

    Reference: Gunjal et al., "Rubrics as Rewards", arXiv:2507.17746 (predefined rubric); vetoes:
    Huang et al., "Reinforcement Learning with Rubric Anchors", arXiv:2508.12790.
    """
    unknown = sorted(set(vetoes) - set(weights))
    if unknown:
        raise ValueError(f"explicit vetoes: got {unknown}, expected of {sorted(weights)}")
    out = combine.weighted_sum(verdict, row_mask, weights=_normalised(weights, "explicit"))
    rewards = out["rewards"]
    for name in vetoes:
        broken = (verdict[name] < threshold) == (weights[name] >= 0)
        rewards = jnp.where(out["row_mask"] & broken, jnp.minimum(rewards, cap), rewards)
    return {**out, "rewards": rewards}


def gated(
    verdict: dict[str, jax.Array],
    row_mask: jax.Array | None = None,
    *,
    bottom: tp.Mapping[str, float],
    weights: tp.Mapping[str, float],
    share: float = 0.5,
) -> dict[str, jax.Array]:
    """What an answer has to be comes first; only then what it should be counts.

    With the gate open if s_b >= theta_b for all of `bottom`, and S = sum w_d s_d / sum w_d:

        open    share + (1 - share) S
        closed  share min_b s_b

    Where all theta_b <= 1 and scores are in [0, 1], closed is below share, open is not.

    Args:
      verdict: name -> [P,G] float32 in [0, 1].  NaN in `bottom`, or of `weights` behind an open
        gate, takes the row out of row_mask.
      row_mask: [P,G] bool.
      bottom: name -> theta.  weights: name -> w, > 0, of what counts behind the gate.
      share: of the reward that is for the bottom, in (0, 1).

    Returns: rewards [P,G] float32, row_mask [P,G] bool.

    Raises: ValueError for an unknown name, or nothing in bottom or weights.

    Reference: "SearchLLM" (2026), of which only the idea is public: the formula is ours.
    `combine.gated_sum` is the gate of G-RA, which adds rewards up.
    """
    if not bottom:
        raise ValueError("gated bottom: got {}, expected at least one name and threshold")
    base = combine.weighted_sum(verdict, row_mask, weights=dict.fromkeys(bottom, 1.0))
    rows = base["row_mask"]
    lowest = jnp.min(jnp.stack([verdict[name] for name in bottom]), axis=0)
    passed = jnp.all(jnp.stack([verdict[n] >= theta for n, theta in bottom.items()]), axis=0)
    behind = combine.weighted_sum(verdict, rows, weights=_normalised(weights, "gated"))
    rows = rows & (~passed | behind["row_mask"])
    rewards = jnp.where(passed, share + (1.0 - share) * behind["rewards"], share * lowest)
    return {"rewards": jnp.where(rows, rewards, 0.0), "row_mask": rows}
