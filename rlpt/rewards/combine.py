"""From verdicts to the one number that the estimator sees.

A verdict is NaN where a verifier gave none (timeout, crash, unparsable).  Such
a row is never scored 0 in silence: it leaves row_mask, or counts as a number
that the config names.
"""

from __future__ import annotations

import typing as tp

import jax
import jax.numpy as jnp

from rlpt import masks


def _rows(verdict: dict[str, jax.Array], row_mask: jax.Array | None) -> jax.Array:
    return masks.live(next(iter(verdict.values())), row_mask)


def _require(verdict: dict[str, jax.Array], names: tp.Iterable[str], where: str) -> None:
    unknown = sorted(set(names) - set(verdict))
    if unknown:
        raise ValueError(f"{where}: got {unknown}, expected names of verdicts: {sorted(verdict)}")


def weighted_sum(
    verdict: dict[str, jax.Array],
    row_mask: jax.Array | None = None,
    *,
    weights: tp.Mapping[str, float] | None = None,
    missing: float | None = None,
) -> dict[str, jax.Array]:
    """sum_k w_k verdict_k.

    Args:
      verdict: name -> [P,G] float32, NaN: none.
      row_mask: [P,G] bool.
      weights: name -> weight; verdicts that it does not name are not used.  None: all, with
        weight 1.
      missing: what a missing verdict counts as; None: the row leaves row_mask.

    Returns: rewards [P,G] float32 (0 in rows outside row_mask), row_mask [P,G] bool.

    Raises: ValueError for an unknown name or no verdict at all.
    """
    weights = dict.fromkeys(sorted(verdict), 1.0) if weights is None else dict(weights)
    _require(verdict, weights, "weighted_sum weights")
    if not weights:
        raise ValueError("weighted_sum: got no verdicts, expected at least one verifier")
    rows = _rows(verdict, row_mask)
    total = jnp.zeros(rows.shape, jnp.float32)
    for name, weight in weights.items():
        value = verdict[name]
        if missing is None:
            rows = rows & ~jnp.isnan(value)
        else:
            value = jnp.where(jnp.isnan(value), missing, value)
        total = total + weight * value
    return {"rewards": jnp.where(rows, total, 0.0), "row_mask": rows}


def gated_sum(
    verdict: dict[str, jax.Array],
    row_mask: jax.Array | None = None,
    *,
    order: tp.Sequence[str],
    thresholds: tp.Mapping[str, float] | None = None,
    inclusive: bool = False,
) -> dict[str, jax.Array]:
    """G-RA: a reward counts only if every reward of higher priority passed its threshold.

    R = sum_i R_i prod_{j before i} 1[R_j > v_j].

    Args:
      verdict: name -> [P,G] float32.  NaN behind a closed gate is not missed; NaN that is
        reached takes the row out of row_mask.
      row_mask: [P,G] bool.
      order: names from the highest priority to the lowest.
      thresholds: name -> v; 0 for names that it leaves out.
      inclusive: gates open at R_j >= v_j.

    Returns: rewards [P,G] float32, row_mask [P,G] bool.

    Raises: ValueError for an unknown name.

    Reference: "Stabilizing Long-term Multi-turn RL with Gated Rewards", arXiv:2508.10548.
    """
    thresholds = dict(thresholds or {})
    _require(verdict, order, "gated_sum order")
    _require({name: verdict[name] for name in order}, thresholds, "gated_sum thresholds")
    rows = _rows(verdict, row_mask)
    gate, total = rows, jnp.zeros(rows.shape, jnp.float32)
    for name in order:
        value, threshold = verdict[name], thresholds.get(name, 0.0)
        rows = rows & ~(gate & jnp.isnan(value))
        total = total + jnp.where(gate, value, 0.0)
        gate = gate & ((value >= threshold) if inclusive else (value > threshold))
    return {"rewards": jnp.where(rows, total, 0.0), "row_mask": rows}
