"""The batch that a rollout fills: a table of numpy columns and, beside it, the text.

Here is what needs neither model nor verifiers: taking blocks, widening, joining, and writing rows.
"""

from __future__ import annotations

import collections
import collections.abc
import concurrent.futures
import dataclasses
import typing as tp

import numpy as np

from rlpt.columns import Table
from rlpt.config import ConfigError
from rlpt.tasks.base import Prompt
from rlpt.verifiers.base import Verdict

_EMPTY = {"group": -1, "answer_id": -1, "temperature": 1.0, "train_mask": True}  # others: 0


@dataclasses.dataclass
class Text:
    """The strings of a batch, by block and row. None: an empty block.

    prompt_text: the rendered chat.  completions: the assistant's turn without special tokens;
    where the context of a block ends with the beginning of that turn, this beginning included.
    """

    prompts: list[Prompt | None]
    prompt_text: list[str]
    completions: list[list[str]]
    verdicts: list[list[dict[str, Verdict]]]


class Pending(tp.NamedTuple):
    """Verdicts under way: the rows (block, sample) that are judged, and this process' part."""

    rows: list[tuple[int, int]]
    part: concurrent.futures.Future[list[tp.Any]]


@dataclasses.dataclass
class Batch:
    """One table and its text; `outcomes` counts '<verifier>/<outcome>'.

    left_out: rows that were judged and are not in the table, as (prompt id, {verifier: outcome}):
      a curriculum learns from them too.
    pending: the verdicts are being made, see `Tools.settle`.
    """

    table: Table
    text: Text
    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    left_out: list[tuple[str, dict[str, str]]] = dataclasses.field(default_factory=list)
    pending: Pending | None = None


def bucket(n: int, widths: collections.abc.Sequence[int], what: str) -> int:
    """The smallest width that holds n."""
    for w in widths:
        if n <= w:
            return w
    raise ConfigError(
        f"{what}: {n} tokens do not fit the largest bucket {max(widths)}; add a larger one"
    )


def take_blocks(batch: Batch, indices: collections.abc.Sequence[int]) -> Batch:
    """Some blocks of a batch, in that order; -1: an empty block.

    `group` (a group a block) and `row_id` are new; outcomes stay with the whole.
    """
    at = np.asarray(indices, int)
    table: Table = {}
    for name, column in batch.table.items():
        fill = np.nan if name.startswith("verdict/") else _EMPTY.get(name, 0)
        table[name] = np.full((len(at), *column.shape[1:]), fill, column.dtype)
        table[name][at >= 0] = column[at[at >= 0]]
    old, group = batch.text, batch.table["row_mask"].shape[1]
    text = Text([], [], [], [])
    for i in at:
        text.prompts.append(old.prompts[i] if i >= 0 else None)
        text.prompt_text.append(old.prompt_text[i] if i >= 0 else "")
        text.completions.append(list(old.completions[i]) if i >= 0 else [""] * group)
        text.verdicts.append([dict(old.verdicts[i][j]) if i >= 0 else {} for j in range(group)])
    return Batch(_numbered(table), text)


def outcomes_of(
    batch: Batch, rows: collections.abc.Iterable[tuple[int, int]]
) -> list[tuple[str, dict[str, str]]]:
    """What `Batch.left_out` says of rows (block, sample) of a verified batch that were judged."""
    judged = batch.table["row_mask"]
    return [
        (prompt.id, {k: v.outcome for k, v in batch.text.verdicts[i][j].items()})
        for i, j in rows
        if judged[i, j] and (prompt := batch.text.prompts[i]) is not None
    ]


def widen(batch: Batch, group: int) -> Batch:
    """The batch with blocks of `group` completions: empty slots behind those that it has.

    Raises: ValueError where it has more than that.
    """
    p, have = batch.table["row_mask"].shape
    if group < have:
        raise ValueError(f"widen: got blocks of {have} rows, expected at most {group}")
    table: Table = {}
    for name, column in batch.table.items():
        table[name] = column
        if column.shape[1:2] == (have,) and not name.startswith("prompt_"):
            fill = np.nan if name.startswith("verdict/") else _EMPTY.get(name, 0)
            more = np.full((p, group - have, *column.shape[2:]), fill, column.dtype)
            table[name] = np.concatenate([column, more], axis=1)
    table["row_id"] = np.arange(p * group, dtype=np.int32).reshape(p, group)
    text = Text(
        list(batch.text.prompts),
        list(batch.text.prompt_text),
        [x + [""] * (group - have) for x in batch.text.completions],
        [x + [{} for _ in range(group - have)] for x in batch.text.verdicts],
    )
    return Batch(table, text, batch.outcomes)


def concatenate(batches: collections.abc.Sequence[Batch]) -> Batch:
    """The blocks of several batches one after the other, prompts padded to the widest.

    `group` (a group a block) and `row_id` are new; outcomes are summed.
    Raises: ValueError where the batches have other columns.
    """
    names = set(batches[0].table)
    for other in batches[1:]:
        if set(other.table) != names:
            raise ValueError(
                f"concatenate: got batches of which only some have the columns "
                f"{sorted(names ^ set(other.table))}, expected the same in all"
            )
    length = max(b.table["prompt_mask"].shape[1] for b in batches)
    table: Table = {}
    for name in batches[0].table:
        columns = [b.table[name] for b in batches]
        if name in ("prompt_tokens", "prompt_mask"):
            columns = [np.pad(c, ((0, 0), (length - c.shape[1], 0))) for c in columns]
        table[name] = np.concatenate(columns)
    text = Text([], [], [], [])
    outcomes: collections.Counter[str] = collections.Counter()
    for b in batches:
        text.prompts += b.text.prompts
        text.prompt_text += b.text.prompt_text
        text.completions += b.text.completions
        text.verdicts += b.text.verdicts
        outcomes.update(b.outcomes)
    return Batch(_numbered(table), text, outcomes)


def to_rows(batch: Batch) -> list[dict[str, tp.Any]]:
    """The rows of a verified batch without empty blocks as JSON, for `from_rows`."""
    table, text = batch.table, batch.text
    out = []
    for i, j in np.ndindex(*table["row_mask"].shape):
        prompt, verdicts = text.prompts[i], text.verdicts[i][j]
        if prompt is None:
            continue
        n = int(table["completion_mask"][i, j].sum())
        row = {
            "block": i,
            "sample": j,
            "group": int(table["group"][i]),
            "id": prompt.id,
            "answer": prompt.answer,
            "prompt_id": int(table["prompt_id"][i]),
            "prompt": text.prompt_text[i],
            "prompt_tokens": table["prompt_tokens"][i][table["prompt_mask"][i]].tolist(),
            "completion": text.completions[i][j],
            "tokens": table["completion_tokens"][i, j, :n].tolist(),
            "verdicts": {k: v.score for k, v in verdicts.items()},
            "outcomes": {k: v.outcome for k, v in verdicts.items()},
            "details": {k: v.detail for k, v in verdicts.items() if v.detail},
            "rollout_masks": {k: bool(table[k][i, j]) for k in ("row_mask", "train_mask")},
        }
        row |= {k: table[k][i, j, :n].tolist() for k in ("loss_mask", "sampler_logp")}
        row |= {
            k: table[k][i, j].item()
            for k in ("row_id", "origin", "row_mask", "truncated", "temperature")
        }
        out.append(row)
    return out


def _numbered(table: Table) -> Table:
    """The table with each block a group and rows counted from 0."""
    p, g = table["row_mask"].shape
    group = np.where(table["group"] < 0, -1, np.arange(p)).astype(np.int32)
    return table | {"group": group, "row_id": np.arange(p * g, dtype=np.int32).reshape(p, g)}
