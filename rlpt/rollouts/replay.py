"""Recorded rollouts instead of fresh ones: debug an update, or train on what there is."""

from __future__ import annotations

import typing as tp


def recorded(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    group_blocks: int = 1,
    path: str,
    first_step: int = 1,
    origin: int = 0,
) -> tuple[tp.Any, tp.Any]:
    """Step first_step, first_step + 1, … of a rollouts.jsonl, each as one batch.

    The log-probs in the file have 6 decimals; with origin 0 and one update a batch the
    ratio does not use them, so the replayed update is the recorded one.  Columns of a rollout's
    own, such as the tree of branches, are not in the file, nor are masks of a rollout in files of
    earlier versions: shaping has its own `row_mask` in them.

    Args:
      path: a rollouts.jsonl of a run with the same prompts, group and group_blocks.
      origin: 0: as if sampled now; 2: by older weights.  Rows recorded with another origin
        than 0 keep it; the ratio of all rows but those of origin 0 is to the recorded log-probs.
    Raises: ValueError where the file has no such step or another shape, or has rows of another
      origin than 0 while sampling is cut by top_k, top_p or min_p.
    """
    stream.take(prompts)  # the stream moves on as in the recorded run
    blocks = prompts * group_blocks
    batch = tools.recorded(path, first_step + step, origin=origin, blocks=blocks)
    got = batch.table["row_mask"].shape
    if got != (blocks, group):
        raise ValueError(
            f"replay: {path} holds {got} blocks x group, the config has {(blocks, group)}"
        )
    if batch.table["origin"].any():
        tools.need_whole_law("recorded rows of an origin other than 0")
        batch.table["old_logp"] = batch.table["sampler_logp"]
    return {"policy": batch}, state
