"""What a step leaves in the log: metrics, rollout rows, and the lines that a run prints."""

from __future__ import annotations

import math
import pathlib
import typing as tp

import numpy as np

from rlpt import batches, distributed, metrics
from rlpt import columns as columns_lib
from rlpt import learner as learner_lib
from rlpt.columns import Table
from rlpt.report import runs as runs_lib
from rlpt.verifiers import base


def say(text: str = "") -> None:
    """Prints a line; of several processes only the first does."""
    if distributed.primary():
        with metrics.lasting():
            print(text, flush=True)


def batch_metrics(batch: batches.Batch, table: Table) -> dict[str, float]:
    """Flat scalars of one batch of rollouts."""
    rows = np.asarray(table["row_mask"])
    count = max(int(rows.sum()), 1)
    out = {f"verify/{k}": float(v) for k, v in batch.outcomes.items()}
    for name, verdict in columns_lib.under(table, "verdict").items():
        known = ~np.isnan(verdict)
        if known.any():
            out[f"verdict/{name}"] = float(np.mean(verdict[known]))
    reward = np.where(rows, table["rewards"], 0.0)
    groups = [table["group"] == g for g in np.unique(table["group"][rows.any(1)])]
    flat = [np.ptp(table["rewards"][own][rows[own]]) == 0 for own in groups]
    out |= {
        "reward/mean": float(reward.sum() / count),
        "reward/zero_variance_groups": float(np.mean(flat)) if flat else 0.0,
        "rollout/rows": float(rows.sum()),
        "rollout/masked_rows": float((~rows).sum()),
        "rollout/without_verdict": float(_unheard(batch)),
        "rollout/length": float(table["completion_mask"].sum(-1)[rows].mean())
        if rows.any()
        else 0.0,
        "rollout/truncated": float(table["truncated"][rows].mean()) if rows.any() else 0.0,
        "advantage/abs_max": float(np.abs(table["advantages"]).max()),
    }
    odd = rows & ~np.isfinite(table["advantages"]).all(-1)
    if odd.any():
        out["advantage/not_finite"] = float(odd.sum())
    if "clean_rewards" in table:  # before noise was injected
        out["reward/clean"] = float(np.where(rows, table["clean_rewards"], 0.0).sum() / count)
    for key, value in table.items():
        if key.startswith("metrics/"):
            out[key.removeprefix("metrics/")] = float(value)
    return out


def _unheard(batch: batches.Batch) -> int:
    """Rows that are out since a verifier gave no verdict on them."""
    return sum(
        not batch.table["row_mask"][i, j] and any(v.score is None for v in verdicts.values())
        for i, of_block in enumerate(batch.text.verdicts)
        for j, verdicts in enumerate(of_block)
    )


def pass_rates(batch: batches.Batch, counted: tp.Collection[str] | None = None) -> dict[str, float]:
    """Share of correct completions by prompt id, over all rows of the policy that were judged.

    Rows of another context (under a hint, in a block of their own or not) or of external text say
    nothing of the policy, and rows without a verdict nothing at all; prompts without others are
    not named.  What a rollout judged and left out counts.

    counted: as `verifiers.base.correct`.
    """
    table = batch.table
    first: dict[int, int] = {}  # group -> its first block
    judged = [(k, {n: base.Verdict(None, o) for n, o in own.items()}) for k, own in batch.left_out]
    for i, prompt in enumerate(batch.text.prompts):
        if prompt is None:
            continue
        at = first.setdefault(int(table["group"][i]), i)
        if any((table[k][i] != table[k][at]).any() for k in ("prompt_tokens", "prompt_mask")):
            continue
        own = table["row_mask"][i] & ((table["origin"][i] == 0) | (table["origin"][i] == 2))
        judged += [(prompt.id, batch.text.verdicts[i][j]) for j in np.flatnonzero(own)]
    found: dict[str, list[bool]] = {}
    for name, verdicts in judged:
        if any(counted is None or k in counted for k in verdicts):
            found.setdefault(name, []).append(base.correct(verdicts, counted))
    return {k: float(np.mean(v)) for k, v in found.items()}


def rollout_rows(
    batch: batches.Batch, table: Table, further: Table | None = None
) -> list[dict[str, tp.Any]]:
    """One record a live or masked row, for rollouts.jsonl: that of the tools, and what it is worth.

    Args:
      table: the batch's columns after credit.  further: columns of config.log.columns, as numpy
        arrays [P], [P,G] or [P,G,T].
    Returns: records; numbers that are not finite are null.
    """
    finite = lambda x: x if math.isfinite(x) else None  # noqa: E731
    rows = batches.to_rows(batches.Batch(table, batch.text))
    for row in rows:
        i, j = row["block"], row["sample"]
        own = table["advantages"][i, j, : len(row["tokens"])]
        row["advantages"] = [finite(x) for x in own.tolist()]
        row["reward"] = finite(float(table["rewards"][i, j]))
        # before shaping, which `table` is behind
        row["rollout_masks"] = {k: bool(batch.table[k][i, j]) for k in ("row_mask", "train_mask")}
        row["rows_of_step"] = len(rows)
        if further:
            n = len(row["tokens"])
            row["columns"] = {k: _of_row(x, i, j, n) for k, x in further.items()}
    return rows


def _of_row(column: np.ndarray, block: int, sample: int, tokens: int) -> tp.Any:
    """What a column [P], [P,G] or [P,G,T] has of a row, without padding."""
    of_row = column[block] if column.ndim == 1 else column[block, sample]
    return of_row[:tokens].tolist() if of_row.ndim else of_row.item()


def eval_metrics(result: dict[str, tp.Any]) -> dict[str, float]:
    out = {f"eval/{k}": v for k, v in result.items() if isinstance(v, float)}
    for task, numbers in result.get("tasks", {}).items():
        out |= {f"eval/{task}/{k}": v for k, v in numbers.items()}
    return out


def say_if_no_best(config: tp.Any, result: dict[str, tp.Any]) -> None:
    """Says so where an evaluation lacks the number by which the best checkpoints are kept."""
    known = eval_metrics(result)
    if config.checkpoint.keep_best and config.checkpoint.best not in known:
        say(
            f"note     no checkpoint is kept as the best: an evaluation has no number "
            f"{config.checkpoint.best!r} (config.checkpoint.best); it has {', '.join(known)}"
        )


def say_arithmetic(config: tp.Any, learner: learner_lib.Learner) -> None:
    """Prints what one step consists of."""
    r, u = config.rollout, config.learner
    blocks = r.prompts * r.group_blocks
    part = blocks // u.minibatches
    say(
        f"step     {r.prompts} prompts x {r.group * r.group_blocks} completions = "
        f"{blocks * r.group} rows of up to {max(config.sampling.completion_buckets)} tokens"
    )
    say(
        f"update   {u.epochs} epochs x {u.minibatches} minibatches = {u.epochs * u.minibatches} "
        f"optimizer steps of {part} blocks, in micro-batches of {u.micro_blocks or part}"
    )
    old = "the update's own (one optimizer step a batch)"
    if learner.old_logp_given:
        old = "computed before the update" if learner.needs_old_logp else "the sampler's"
    skips = learner.skip_zero_advantage and all(t.reads_advantages for t in learner.terms)
    say(
        f"         old log-probs: {old}; blocks without advantage: {'skipped' if skips else 'kept'}"
    )


def changed_settings(saved: dict[str, tp.Any], now: dict[str, tp.Any]) -> str:
    """The settings in which two configs, as JSON data, differ: the end of a message."""
    old, new = runs_lib.flat(saved), runs_lib.flat(now)
    lines = [
        f"\n  {k}: saved {old.get(k, 'nothing')}, now {new.get(k, 'nothing')}"
        for k in sorted({*old, *new})
        if old.get(k) != new.get(k)
    ]
    if not lines:
        return ""
    more = f"\n  and {len(lines) - 20} more" if len(lines) > 20 else ""
    return "\nSettings that differ:" + "".join(lines[:20]) + more


def say_summary(summary: dict[str, tp.Any], path: pathlib.Path) -> None:
    """Prints before and after."""
    before, after = summary["eval_before"], summary["eval_after"]
    if before and after:
        say(f"{'held out':>10}  {'before':>7}  {'after':>7}")
        for k in ("pass@1", "greedy"):
            if k in before and k in after:
                say(f"{k:>10}  {before[k]:7.1%}  {after[k]:7.1%}")
    say(f"{summary['steps']} steps, {summary['seconds']['all']:.0f} s; everything is in {path}")
