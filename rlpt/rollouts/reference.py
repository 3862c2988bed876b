"""Rollouts that bring a reference: the task's answer behind each row's own reasoning, or one row of
a group that the others are compared with.
"""

from __future__ import annotations

import collections
import typing as tp

import numpy as np

from rlpt.columns import Table


def answers(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    until: str = "",
    before: str = "",
    after: str = "",
    width: int = 16,
    cut_off: bool = True,
) -> tuple[tp.Any, tp.Any]:
    """On-policy rows, and the reference answer to be scored behind the reasoning of each.

    What follows a row's reasoning is `before`, the answer and `after`.  Each is encoded by itself,
    so that the tokens are the same behind every row and none spans a seam.

    Columns beside the usual ones, for `scorers.answers.answer_logp` and `rewards.likelihood`:
    answer_tokens [P,A] int32 and answer_mask [P,A] bool, what follows, empty where the task has no
    answer or it does not fit; answer_scored [P,A] bool, of these the answer and `after`;
    context_mask [P,G,T] bool, the reasoning; answer_slot [P,G] bool, whether the row has a place
    for an answer: without one context_mask is the whole row.  Counted with the outcomes:
    reference/slots, reference/no_slot (rows) and reference/no_answer (blocks).

    Args:
      stream, tools: as in `sample.on_policy`.  state: unused.
      until: text that ends the reasoning, where it first occurs; a token that goes on behind it
        would show some of the row's own answer, so such a row has no place: choose a text that
        tokens do not cross, such as "<answer" with before=">".  "": all of the completion is
        reasoning, but for an end token.
      before, after: text around the answer.
      width: A, tokens.
      cut_off: whether rows that the length limit cut off may have a place; False: they have none,
        as in the code of RLPR and VeriFree.
    Returns: ({"policy": batch}, state).

    Reference: Yu et al., "RLPR", arXiv:2506.18254.
    """
    items = stream.take(prompts)
    batch = tools.verify(tools.generate(items, group=group, step=step))
    room = tools.width + width  # the answer is scored behind the row, not in it
    columns, counts = _columns(
        tools, items, batch.table, until, before, after, width, cut_off, room
    )
    batch.table |= columns
    batch.outcomes.update(counts)
    return {"policy": batch}, state


_COLUMNS = {
    "answer_tokens": ("PA", "i"),
    "answer_mask": ("PA", "b"),
    "answer_scored": ("PA", "b"),
    "context_mask": ("PGT", "b"),
    "answer_slot": ("PG", "b"),
}
answers.columns = _COLUMNS  # type: ignore[attr-defined]


def spliced(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    until: str,
    before: str = "",
    after: str = "",
    width: int = 16,
    cut_off: bool = True,
) -> tuple[tp.Any, tp.Any]:
    """On-policy reasoning with the reference answer in the place of the row's own.

    As `answers`; then every row with a place is its reasoning, `before`, the answer and `after`, of
    which `before` is not trained.  Verdicts and text are of what was sampled.  Rows without a place
    stay as they are.  A row in which the answer does not fit the largest bucket has no place.

    One more column: answer_logp [P,G,A] float32, log-probs of what follows the reasoning under the
    weights that sampled, 0 where there is nothing.  They are the sampler_logp of these tokens too.

    Args, Returns: as `answers`.

    Raises: ValueError for no `until`: the policy has to say itself where its reasoning ends.

    Reference: Zhou et al., "VeriFree", arXiv:2505.21493.
    """
    _check_spliced(tools, until=until)
    items = stream.take(prompts)
    batch = tools.verify(tools.generate(items, group=group, step=step))
    table = batch.table
    room = table["completion_mask"].shape[-1]
    columns, counts = _columns(tools, items, table, until, before, after, width, cut_off, room)
    batch.table |= columns
    batch.outcomes.update(counts)
    rows = []  # block, row, tokens of reasoning, tokens in all
    for i, j in np.argwhere(table["answer_slot"]).tolist():
        n, k = int(table["context_mask"][i, j].sum()), int(table["answer_mask"][i].sum())
        rows.append((i, j, n, n + k))
        table["completion_tokens"][i, j, n:] = tools.tokenizer.pad_id
        table["completion_tokens"][i, j, n : n + k] = table["answer_tokens"][i, :k]
        table["completion_mask"][i, j] = np.arange(room) < n + k
        table["loss_mask"][i, j, n:] = False
        table["loss_mask"][i, j, n : n + k] = table["answer_scored"][i, :k]
        table["truncated"][i, j] = False
    logp = tools.score(table)["logp"]
    table["answer_logp"] = np.zeros((prompts, group, width), np.float32)
    for i, j, n, end in rows:
        table["answer_logp"][i, j, : end - n] = logp[i, j, n:end]
        table["sampler_logp"][i, j, n:] = logp[i, j, n:]
    return {"policy": batch}, state


def _check_spliced(setup: tp.Any, *, until: str) -> None:
    """Raises: ValueError, see `spliced`."""
    if not until:
        raise ValueError(
            "spliced until: got '', expected text that ends the reasoning, such as '<answer'"
        )


spliced.check = _check_spliced  # type: ignore[attr-defined]
spliced.columns = {**_COLUMNS, "answer_logp": ("PGA", "f")}  # type: ignore[attr-defined]


def bootstrapped(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
) -> tuple[tp.Any, tp.Any]:
    """On-policy rows that are judged against one of their group, drawn at random.

    Verifiers find its text as meta["opponent"] of each trajectory (`verifiers.rubric.pairwise`).
    One more column: reference_row [P] int32, which row it is, for `advantages.pairwise.brpo`.

    Args:
      stream, tools: as in `sample.on_policy`.  state: unused.
    Returns: ({"policy": batch}, state).

    Reference: Jia et al., "Writing-Zero" (BRPO), arXiv:2506.00103.
    """
    items = stream.take(prompts)
    batch = tools.generate(items, group=group, step=step)
    chosen = [
        int(group * tools.uniform("opponent", step, prompt.id, occurrence))
        for prompt, occurrence in items
    ]
    batch.table["reference_row"] = np.array(chosen, np.int32)
    opponents = {
        (i, j): {"opponent": batch.text.completions[i][k]}
        for i, k in enumerate(chosen)
        for j in range(group)
    }
    return {"policy": tools.verify(batch, opponents)}, state


bootstrapped.columns = {"reference_row": ("P", "i")}  # type: ignore[attr-defined]


def _columns(
    tools: tp.Any,
    items: tp.Any,
    table: Table,
    until: str,
    before: str,
    after: str,
    width: int,
    cut_off: bool,
    room: int,
) -> tuple[Table, collections.Counter[str]]:
    """The columns of `answers`, and its counts. room: tokens of a row with its answer, at most."""
    if width < 1:
        raise ValueError(f"reference width: got {width}, expected at least 1 token")
    mask = table["completion_mask"]
    p, g, t = mask.shape
    columns: Table = {
        "answer_tokens": np.full((p, width), tools.tokenizer.pad_id, np.int32),
        "answer_mask": np.zeros((p, width), bool),
        "answer_scored": np.zeros((p, width), bool),
        "context_mask": mask.copy(),
        "answer_slot": np.zeros((p, g), bool),
    }
    counts: collections.Counter[str] = collections.Counter()
    lead, tail = tools.tokenizer.encode(before), tools.tokenizer.encode(after)
    for i, (prompt, _) in enumerate(items):
        answer = [] if prompt.answer is None else tools.tokenizer.encode(str(prompt.answer))
        follows = lead + answer + tail
        if not answer or len(follows) > width:
            counts["reference/no_answer"] += 1
            continue
        columns["answer_tokens"][i, : len(follows)] = follows
        columns["answer_mask"][i, : len(follows)] = True
        columns["answer_scored"][i, len(lead) : len(follows)] = True
        for j in range(g):
            tokens = table["completion_tokens"][i, j][mask[i, j]].tolist()
            length = _reasoning(tools, tokens, until)
            fits = length is not None and length + len(follows) <= room
            fits = fits and (cut_off or not table["truncated"][i, j])
            counts["reference/slots" if fits else "reference/no_slot"] += 1
            if fits:
                columns["answer_slot"][i, j] = True
                columns["context_mask"][i, j] = np.arange(t) < length
    return columns, counts


def _reasoning(tools: tp.Any, tokens: list[int], until: str) -> int | None:
    """How many tokens of a completion are reasoning; None: it has no place for an answer."""
    if not until:
        return len(tokens) - (len(tokens) > 0 and tokens[-1] in tools.tokenizer.eos_ids)
    end = tools.tokens_until(tokens, (until,))
    if end is None or not tools.tokenizer.decode(tokens[:end]).endswith(until):
        return None
    return end
