"""RISE: the policy also judges completions of its own, and both tasks are trained together."""

from __future__ import annotations

import collections
import typing as tp

from rlpt.rollouts import _hints
from rlpt.tasks import base

CRITERIA = (
    "{question}\n\nA reply to this question:\n{reply}\n\nSay what is right or wrong with the reply,"
    " and end with its score: {correct} if the answer is right, {incorrect} if it is wrong, "
    "{unparsable} if there is none."
)
LABELS = ("1", "-0.5", "-1")
OUTCOMES = ("correct", "incorrect", "unparsable")  # of a reply, in the order of the labels


def verifying(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    checks: int,
    verifier: str = "",
    labels: tuple[str, ...] = LABELS,
    template: str = CRITERIA,
    system: str = "",
    train: bool = True,
) -> tuple[tp.Any, tp.Any]:
    """On-policy groups, of which `checks` are for questions about the others' completions.

    prompts - checks prompts are answered and judged; then `checks` of these replies, drawn at
    random, are shown to the policy, which has to say how they were judged.  Such a question is a
    prompt of its own, with a group of its own, whose reference answer is the label of the verdict;
    the same verifier reads the reply.  Nothing is weighted: with `rewards.verification.graded` both
    tasks earn 1, -0.5 or -1.  Where fewer replies fit, the rest are empty blocks.

    Counted with the outcomes, which are those of the first task: rise/checks, rise/too_long
    (replies that fit no bucket) and, by what the reply under question was, rise/<outcome>/rows
    (judgements of such replies) and rise/<outcome>/right (of these).

    Args:
      stream, tools: as in `sample.on_policy`.  state: unused.
      prompts: blocks of both tasks; with a mesh, checks and the rest divide over its parts too.
      checks: 1 to prompts - 1; 128 beside 1024 in the paper.
      verifier: whose verdicts are asked for, and who reads the label; "": the only one.
      labels: what to call a reply that is correct, incorrect, unparsable; all different.
      template: the question, with {question}, {reply}, {correct}, {incorrect}, {unparsable}.
      system: its system message; "": none.
      train: False: the judgements are counted, and nothing is learnt from them.
    Returns: ({"policy": batch}, state).

    Raises: ValueError for checks outside 1 to prompts - 1, other than three different labels, or an
      unknown verifier.

    Reference: Liu et al., "Trust, But Verify: A Self-Verification Approach to Reinforcement
    Learning with Verifiable Rewards" (RISE), arXiv:2505.13445; the wording is our own.
    """
    name = _check(tools, prompts=prompts, checks=checks, verifier=verifier, labels=labels)
    label = dict(zip(OUTCOMES, labels, strict=True))
    items = stream.take(prompts - checks)
    batch = tools.verify(tools.generate(items, group=group, step=step))
    counts: collections.Counter[str] = collections.Counter(batch.outcomes)
    counts.update({f"rise/{k}": 0 for k in ("checks", "too_long")})
    rows = sorted(  # at random
        zip(*batch.table["row_mask"].nonzero(), strict=True),
        key=lambda at: tools.uniform("rise", step, items[at[0]][0].id, items[at[0]][1], at[1]),
    )
    asked: list[tuple[base.Prompt, int] | None] = []
    kinds: list[str] = []
    for i, j in rows:
        verdict = batch.text.verdicts[i][j].get(name)
        if len(asked) == checks or verdict is None or verdict.outcome not in label:
            continue
        prompt, occurrence = items[i]
        texts = {"question": prompt.question, "reply": batch.text.completions[i][j], **label}
        question = base.Prompt(
            id=f"{prompt.id}#check",
            messages=base.chat(_hints.filled(template, texts), system),
            answer=label[verdict.outcome],
            verifier=name,
            task="check",
        )
        if len(tools.encode(question)) > tools.max_prompt:
            counts["rise/too_long"] += 1
        else:
            asked.append((question, occurrence))
            kinds.append(verdict.outcome)
    counts["rise/checks"] = len(asked)
    asked += [None] * (checks - len(asked))
    judged = tools.verify(
        tools.generate(
            asked,
            group=group,
            step=step,
            attempt=1,
            first_sample=[k * group for k in range(checks)],  # two checks may be of one prompt
        )
    )
    right = _hints.solved(judged.table, name, 0.0)
    for kind in OUTCOMES:
        blocks = [k for k, found in enumerate(kinds) if found == kind]
        counts[f"rise/{kind}/rows"] = int(judged.table["row_mask"][blocks].sum())
        counts[f"rise/{kind}/right"] = int(right[blocks].sum())
    judged.outcomes.clear()
    judged.table["train_mask"] &= train
    batch.outcomes = counts
    return {"policy": tools.concatenate([batch, judged])}, state


def _check(
    setup: tp.Any, *, prompts: int, checks: int, verifier: str, labels: tuple[str, ...]
) -> str:
    """The verifier's name. Raises: ValueError, see `verifying`."""
    if not 1 <= checks < prompts:
        raise ValueError(
            f"verifying checks: got {checks}, expected 1 to prompts - 1 = {prompts - 1}"
        )
    if len(set(labels)) != len(OUTCOMES) or len(labels) != len(OUTCOMES):
        raise ValueError(
            f"verifying labels: got {labels}, expected three different ones: {', '.join(OUTCOMES)}"
        )
    return _hints.verdict_name(setup, verifier, "verifying")


verifying.check = _check  # type: ignore[attr-defined]
