"""Rollouts that go on until the batch holds prompts with a signal."""

from __future__ import annotations

import collections
import typing as tp

import numpy as np


def refill(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    max_batches: int = 10,
    carry: bool = True,
    min_std: float = 0.0,
) -> tuple[tp.Any, tp.Any]:
    """Dynamic sampling: prompts whose completions are all judged alike are replaced.

    Batches of `prompts` fresh prompts are generated and verified until `prompts` blocks are kept.
    A block is kept if the live rows differ in some verdict that counts (of a weight that is not 0);
    the weighted sum of several verdicts may still agree.  After `max_batches` batches the rest are
    empty blocks.

    Counted with the outcomes: dynamic/batches and dynamic/generated (blocks), dynamic/kept (of
    these), dynamic/carried (from the step before), dynamic/dropped and dynamic/empty.

    Args:
      stream, tools: as in `sample.on_policy`.
      state: None, or {"carried": rows} as this function returned it; JSON.
      prompts: blocks in the batch.  group: completions of each.
      max_batches: batches generated in a step at most, >= 1.
      carry: kept blocks that are too many come first in the next step, with origin 2 and the
        sampler's log-probs as old_logp, since older weights made them; False: they are dropped.
        Not with top-k, top-p or min-p, whose log-probs are of another law than the ratio's.
      min_std: standard deviation that a verdict has to exceed.
    Returns: ({"policy": batch}, state).

    Raises: ValueError for max_batches < 1, or carry with a law that leaves tokens out.

    Reference: Yu et al., "DAPO", arXiv:2503.14476, sec. 3.2.  Differs from it in: surplus blocks
    can be carried to the next step.
    """
    _check(tools, max_batches=max_batches, carry=carry)
    counts: collections.Counter[str] = collections.Counter()
    kept, have = [], 0
    left_out: list[tuple[str, dict[str, str]]] = []
    if state and state["carried"]:
        kept.append(tools.from_rows(state["carried"], origin=2))
        have = counts["dynamic/carried"] = len(kept[0].text.prompts)
    for attempt in range(max_batches):
        if have >= prompts:
            break
        items = stream.take(prompts)
        batch = tools.verify(tools.generate(items, group=group, step=step, attempt=attempt))
        good = [i for i in range(prompts) if _differs(batch.table, tools.counted_names, i, min_std)]
        kept.append(tools.take_blocks(batch, good))
        rest = [(i, j) for i in range(prompts) if i not in good for j in range(group)]
        left_out += tools.outcomes_of(batch, rest)
        have += len(good)
        counts.update(batch.outcomes)
        counts["dynamic/batches"] += 1
        counts["dynamic/generated"] += prompts
        counts["dynamic/kept"] += len(good)
    pool = tools.concatenate(kept)
    order = list(range(min(have, prompts))) + [-1] * max(prompts - have, 0)
    surplus = list(range(prompts, have))
    counts["dynamic/empty"] = order.count(-1)
    counts["dynamic/dropped"] = 0 if carry else len(surplus)
    if not carry:
        left_out += tools.outcomes_of(pool, [(i, j) for i in surplus for j in range(group)])
    batch = tools.take_blocks(pool, order)
    batch.outcomes.update(counts)
    batch.left_out = left_out
    if carry:
        batch.table["old_logp"] = batch.table["sampler_logp"].copy()
    rows = tools.to_rows(tools.take_blocks(pool, surplus)) if carry and surplus else []
    return {"policy": batch}, {"carried": rows}


def _check(setup: tp.Any, *, max_batches: int, carry: bool) -> None:
    """Raises: ValueError, see `refill`."""
    if max_batches < 1:
        raise ValueError(f"refill: got max_batches={max_batches}, expected at least 1")
    if carry:
        setup.need_whole_law("refill carry=True")


refill.check = _check  # type: ignore[attr-defined]


def _differs(table: tp.Any, names: tuple[str, ...], block: int, min_std: float) -> bool:
    """Whether the live rows of a block have different values of one of these verdicts."""
    for column in (table[f"verdict/{name}"] for name in names):
        scores = column[block][table["row_mask"][block] & ~np.isnan(column[block])]
        if len(scores) and scores.max() > scores.min() and scores.std() > min_std:
            return True
    return False
