"""Cooper: rollouts, and beside them pairs of a right completion and a wrong rewriting of it."""

from __future__ import annotations

import collections
import typing as tp

import numpy as np

from rlpt.columns import Table
from rlpt.rollouts import _hints

REWRITE = (
    "{question}\n\nA right solution:\n{solution}\n\nWrite a solution of the same length and style "
    "that makes one mistake and ends with a wrong answer. Write nothing else."
)
CONTEXT = "{question}\nReference answer: {answer}"


def contrasted(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    verifier: str = "",
    threshold: float = 0.0,
    tries: int = 3,
    rewrite: str = REWRITE,
    context: str = CONTEXT,
) -> tuple[tp.Any, tp.Any]:
    """On-policy groups as the table `policy`, and `pairs` [P,2] for a reward model.

    The first of a prompt's pair is its first completion that the verifier finds right; the second
    is a rewriting of it, by the policy, that the verifier finds wrong.  A prompt without a right
    completion, or without such a rewriting after `tries`, has a pair that is masked.  Both stand in
    the context that the reward model reads: the question and its reference answer.  The policy's
    table has that context too, as columns for `scorers.verification.in_context`.

    Columns beside the usual ones: judge_tokens [P,C] int32 and judge_mask [P,C] bool, C the
    largest prompt bucket; in `pairs` preference [P,2] float32, 1 and 0.  Counted with the outcomes,
    which are those of the completions: cooper/positives (prompts with a right completion),
    cooper/too_long (of the prompts, those whose context or request fits no bucket; without the
    context there is no reward), cooper/rewritings and cooper/pairs.

    Args:
      stream, tools: as in `sample.on_policy`.  state: unused.
      verifier, threshold: as in `guide.guided`: a verdict above the threshold is right.
      tries: rewritings of a completion, at most.
      rewrite: the request, with {question} and {solution}.
      context: the reward model's user message, with {question} and {answer}.
    Returns: ({"policy": batch, "pairs": batch}, state).

    Raises: ValueError for tries < 1, fewer than 2 completions, or an unknown verifier.

    Reference: Hong et al., "Cooper: Co-Optimizing Policy and Reward Models in Reinforcement
    Learning for Large Language Models", arXiv:2508.05613.  Differs from it in: the policy writes
    the wrong solutions, there another model does.
    """
    name = _check(tools, group=group, tries=tries, verifier=verifier)
    items = stream.take(prompts)
    batch = tools.verify(tools.generate(items, group=group, step=step))
    right = _hints.solved(batch.table, name, threshold)
    first, has_right = right.argmax(1), right.any(1)
    contexts = [_hints.with_hint(p, context, answer=str(p.answer)) for p, _ in items]
    batch.table |= _left_padded([tools.encode(c) for c in contexts], tools)
    read = batch.table["judge_mask"].any(1)
    batch.table["row_mask"] &= read[:, None]

    counts: collections.Counter[str] = collections.Counter(
        {f"cooper/{k}": 0 for k in ("too_long", "rewritings", "pairs")}
    )
    counts["cooper/positives"] = int(has_right.sum())
    asked: list[tp.Any] = [None] * prompts
    for i, (prompt, occurrence) in enumerate(items):
        solution = batch.text.completions[i][first[i]]
        request = _hints.with_hint(prompt, rewrite, solution=solution)
        fits = len(tools.encode(request)) <= tools.max_prompt
        if read[i] and has_right[i] and fits:
            asked[i] = (request, occurrence)
        counts["cooper/too_long"] += not read[i] or (has_right[i] and not fits)
    pairs = _empty_pairs(tools, batch)
    for attempt in range(1, tries + 1):
        if not any(asked):
            break
        again = tools.generate(asked, group=1, step=step, attempt=attempt)
        again.text.prompts = [x and item[0] for x, item in zip(asked, items, strict=True)]
        counts["cooper/rewritings"] += sum(x is not None for x in asked)
        wrong = tools.verify(again).table[f"verdict/{name}"][:, 0] <= threshold  # NaN: not known
        for at in np.flatnonzero(wrong & again.table["row_mask"][:, 0]).tolist():
            _hints.copy_row(batch, (at, first[at]), pairs, (at, 0))
            _hints.copy_row(again, (at, 0), pairs, (at, 1))
            asked[at] = None
    counts["cooper/pairs"] = int(pairs.table["row_mask"].all(1).sum())
    batch.outcomes.update(counts)
    return {"policy": batch, "pairs": pairs}, state


def _check(setup: tp.Any, *, group: int, tries: int, verifier: str) -> str:
    """The verifier's name. Raises: ValueError, see `contrasted`."""
    if tries < 1 or group < 2:
        raise ValueError(f"contrasted: got tries={tries}, group={group}; expected >= 1 and >= 2")
    return _hints.verdict_name(setup, verifier, "contrasted")


contrasted.check = _check  # type: ignore[attr-defined]
contrasted.columns = {  # type: ignore[attr-defined]
    "judge_tokens": ("PC", "i"),
    "judge_mask": ("PC", "b"),
}
contrasted.tables = {"pairs": {"preference": ("PG", "f")}}  # type: ignore[attr-defined]


def _left_padded(rows: list[list[int]], tools: tp.Any) -> Table:
    """judge_tokens and judge_mask [P,C] of some contexts; a row that does not fit is empty."""
    tokens = np.full((len(rows), tools.max_prompt), tools.tokenizer.pad_id, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for i, row in enumerate(rows):
        if len(row) <= tools.max_prompt:
            tokens[i, tools.max_prompt - len(row) :] = row
            mask[i, tools.max_prompt - len(row) :] = True
    return {"judge_tokens": tokens, "judge_mask": mask}


def _empty_pairs(tools: tp.Any, batch: tp.Any) -> tp.Any:
    """Blocks of two rows in the reward model's context, all masked, the first row preferred."""
    pairs = tools.take_blocks(batch, range(len(batch.text.prompts)))
    table = pairs.table
    for column in _hints.row_columns(table):
        table[column] = table[column][:, :2].copy()
    table["row_mask"][:] = False
    table["prompt_tokens"] = table.pop("judge_tokens")
    table["prompt_mask"] = table.pop("judge_mask")
    table["preference"] = np.tile(np.array([1.0, 0.0], np.float32), (len(table["group"]), 1))
    text = pairs.text
    text.completions = [x[:2] for x in text.completions]
    text.verdicts = [x[:2] for x in text.verdicts]
    return pairs
