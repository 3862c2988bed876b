"""Guide: a hint where a whole group failed, and the unhinted policy learns from what it brought."""

from __future__ import annotations

import collections
import typing as tp

import numpy as np

from rlpt.rollouts import _hints

ORIGIN = 1  # another context: the row was sampled under a hint that it is not trained under
_COUNTS = ("failed", "no_hint", "too_long", "asked", "solved", "rows", "correct")


def guided(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    group_blocks: int = 1,
    verifier: str = "",
    threshold: float = 0.0,
    hint: str = "hint",
    template: str = "{question}\nHint: {hint}",
) -> tuple[tp.Any, tp.Any]:
    """On-policy groups, and `group` completions more under a hint where all of a group failed.

    A prompt has two blocks: its own completions, and those under the hint.  Both are one group, and
    both are trained under the prompt without the hint; the guided rows have origin 1, and as
    old_logp the log-probs under the hint, the law that they were drawn from.  So their ratio is
    pi(o | q) / pi_old(o | q, hint), which does not start at 1.  The second block is empty where
    some row succeeded, where there is no hint, and where the hint did not help: such a group is
    that of `sample.on_policy`.

    Counted with the outcomes, which are those of the unguided rows: guide/failed (groups),
    guide/no_hint and guide/too_long (of these), guide/asked (groups that got a hint), guide/solved
    (of these), guide/rows (sampled under a hint) and guide/correct (of these).

    Args:
      stream, tools: as in `sample.on_policy`.  state: unused.
      group_blocks: 2.
      verifier: whose verdicts tell success, such as the one that is not about format; "": the only
        one.  A row without that verdict is no success; a group without any has not failed.
      threshold: a verdict above it is a success.
      hint: the key of Prompt.meta that has the hint; it should not tell the answer.
      template: the last user message under the hint, with {question} and {hint}.
    Returns: ({"policy": batch}, state).

    Raises: ValueError for other group_blocks than 2, an unknown verifier, or sampling that is cut
      by top_k, top_p or min_p.

    Reference: Nath et al., "Adaptive Guidance Accelerates Reinforcement Learning of Reasoning
    Models", arXiv:2506.13923.  Advantages over the union of both halves, and as many guided rows
    as unguided ones, were chosen here.
    """
    name = _check(tools, group_blocks=group_blocks, verifier=verifier)
    items = stream.take(prompts)
    batch = tools.verify(tools.generate(items, group=group, step=step))
    counts: collections.Counter[str] = collections.Counter(batch.outcomes)
    counts.update({f"guide/{k}": 0 for k in _COUNTS})
    asked: list[tp.Any] = [None] * prompts
    for i in _hints.failed(batch.table, name, threshold):
        counts["guide/failed"] += 1
        prompt, occurrence = items[i]
        if not prompt.meta.get(hint):
            counts["guide/no_hint"] += 1
            continue
        question = _hints.with_hint(prompt, template, hint=str(prompt.meta[hint]))
        if len(tools.encode(question)) > tools.max_prompt:
            counts["guide/too_long"] += 1
        else:
            asked[i] = (question, occurrence)
    parts, helped = [batch], np.zeros(prompts, bool)
    if any(asked):
        again = tools.generate(asked, group=group, step=step, attempt=1)
        for column in ("prompt_tokens", "prompt_mask"):  # trained under the question alone
            again.table[column] = batch.table[column]
        again.table["origin"][:] = ORIGIN
        again.text.prompts = [x and item[0] for x, item in zip(asked, items, strict=True)]
        again.text.prompt_text = batch.text.prompt_text
        correct = _hints.solved(tools.verify(again).table, name, threshold)
        helped = correct.any(1)
        counts["guide/asked"] = sum(x is not None for x in asked)
        counts["guide/rows"] = counts["guide/asked"] * group
        counts["guide/solved"], counts["guide/correct"] = int(helped.sum()), int(correct.sum())
        parts.append(again)
    order = [b for i in range(prompts) for b in (i, prompts + i if helped[i] else -1)]
    out = tools.take_blocks(tools.concatenate(parts), order)
    out.table["group"] //= 2  # of an empty block: -1 as before
    out.table["old_logp"] = out.table["sampler_logp"].copy()
    out.outcomes.update(counts)
    return {"policy": out}, state


def _check(setup: tp.Any, *, group_blocks: int, verifier: str) -> str:
    """The verifier's name. Raises: ValueError, see `guided`."""
    if group_blocks != 2:
        raise ValueError(
            f"guided: got group_blocks={group_blocks}, expected 2, own and guided: set "
            "config.rollout.group_blocks"
        )
    setup.need_whole_law("guided")
    return _hints.verdict_name(setup, verifier, "guided")


guided.check = _check  # type: ignore[attr-defined]
