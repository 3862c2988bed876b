"""Scaf-GRPO: a failed group gets one row that the least revealing hint brought."""

from __future__ import annotations

import collections
import typing as tp

import numpy as np

from rlpt.rollouts import _hints
from rlpt.rollouts.guide import ORIGIN
from rlpt.tasks.base import Prompt

_COUNTS = ("failed", "no_hint", "too_long", "samples", "rescued")
FORMS = ("hinted", "question")
Level = tuple[str, str]  # tier, hint


def rescued(
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
    tiers: tuple[str, ...] = ("knowledge", "planning", "solution"),
    hints: str = "tiers",
    template: str = "{question}\n{tier}: {hint}",
    replace: tuple[str, ...] = ("hinted",),
    exempt_steps: int = 0,
) -> tuple[tp.Any, tp.Any]:
    """On-policy groups; where all of one failed, a row gives way to a success under a hint.

    One completion is sampled at every level of a failed prompt's hints: tier after tier, within a
    tier its first part, its first two, and so on.  That of the lowest level which succeeds takes
    the place of a failed row, so that the group keeps its size.  As "hinted" it is trained under
    the hint that it was sampled under: it is a block of its own in the same group, of origin 0.  As
    "question" it stays in the block of the others and is trained without the hint: origin 1,
    old_logp its log-probs under the hint.  Other groups are as `sample.on_policy` makes them.

    Counted with the outcomes, which are those of the unhinted rows: scaf/failed (groups),
    scaf/no_hint (of these), scaf/too_long (levels that fit no bucket), scaf/samples (under hints),
    scaf/rescued (groups) and scaf/rescued_<tier> (of these).

    Args:
      stream, tools: as in `sample.on_policy`.  state: unused.
      group_blocks: 2.
      verifier, threshold: as in `guide.guided`.
      tiers: names of the tiers, the least revealing first.
      hints: the key of Prompt.meta with {tier: [parts]}; a text is one part, None no hint.
      template: the last user message under a hint, with {question}, {tier} and {hint}, the parts
        joined by spaces.
      replace: what becomes of the success, a failed row giving way to each: 'hinted', 'question'.
      exempt_steps: the first steps, in which no group is rescued.
    Returns: ({"policy": batch}, state).

    Raises: ValueError for other group_blocks than 2, an unknown verifier, a form that is unknown or
      there twice, or 'question' where sampling is cut by top_k, top_p or min_p; for hints that are
      no {tier: [parts]}.

    Reference: Zhang et al., "Scaf-GRPO", arXiv:2510.19807, and its code, where 12 levels are 3
    tiers of 4 parts.  Differs from the code in: the ratio of 'question' rows is to the law that
    they were drawn from.
    """
    name = _check(tools, group=group, group_blocks=group_blocks, verifier=verifier, replace=replace)
    items = stream.take(prompts)
    batch = tools.verify(tools.generate(items, group=group, step=step))
    counts: collections.Counter[str] = collections.Counter(batch.outcomes)
    counts.update({f"scaf/{k}": 0 for k in (*_COUNTS, *(f"rescued_{tier}" for tier in tiers))})
    asked: list[tuple[int, int, str, Prompt]] = []  # block, level, tier, question with the hint
    for i in _hints.failed(batch.table, name, threshold) if step >= exempt_steps else []:
        counts["scaf/failed"] += 1
        levels = _levels(items[i][0], hints, tiers)
        counts["scaf/no_hint"] += not levels
        for level, (tier, text) in enumerate(levels):
            question = _hints.with_hint(items[i][0], template, tier=tier, hint=text)
            if len(tools.encode(question)) > tools.max_prompt:
                counts["scaf/too_long"] += 1
            else:
                asked.append((i, level, tier, question))
    found: dict[int, tp.Any] = {}  # block -> a batch of the row that rescues it
    at_once = prompts * group  # as many rows as in the batch itself
    for lot in range(0, len(asked), at_once):
        part = asked[lot : lot + at_once]
        empty = at_once - len(part)
        tried = tools.generate(
            [(question, items[i][1]) for i, *_, question in part] + [None] * empty,
            group=1,
            step=step,
            attempt=1,
            first_sample=[level for _, level, *_ in part] + [0] * empty,
        )
        for b, (i, *_) in enumerate(part):
            tried.text.prompts[b] = items[i][0]  # judged as an answer to the question
        right = _hints.solved(tools.verify(tried).table, name, threshold)[:, 0]
        for b, (i, _, tier, _) in enumerate(part):
            if right[b] and i not in found:
                found[i] = tools.take_blocks(tried, [b])
                counts[f"scaf/rescued_{tier}"] += 1
    counts["scaf/samples"], counts["scaf/rescued"] = len(asked), len(found)
    parts, order = [batch], []
    for i in range(prompts):
        order += [i, -1]
        if i in found:
            leaving = np.flatnonzero(batch.table["row_mask"][i])[-len(replace) :]
            gave_way = dict(zip(replace, leaving, strict=False))
            for form, j in gave_way.items():
                if form == "question":
                    _hints.copy_row(found[i], (0, 0), batch, (i, j))
                    batch.table["origin"][i, j] = ORIGIN
                else:
                    batch.table["row_mask"][i, j] = False
            if "hinted" in gave_way:
                order[-1] = prompts + len(parts) - 1
                parts.append(tools.widen(found[i], group))
    out = tools.take_blocks(tools.concatenate(parts), order)
    out.table["group"] //= 2  # of an empty block: -1 as before
    out.table["old_logp"] = out.table["sampler_logp"].copy()
    out.outcomes.update(counts)
    return {"policy": out}, state


def _check(
    setup: tp.Any, *, group: int, group_blocks: int, verifier: str, replace: tuple[str, ...]
) -> str:
    """The verifier's name. Raises: ValueError, see `rescued`."""
    if group_blocks != 2:
        raise ValueError(
            f"rescued: got group_blocks={group_blocks}, expected 2, own and hinted: set "
            "config.rollout.group_blocks"
        )
    if not replace or set(replace) - set(FORMS) or not len(set(replace)) == len(replace) <= group:
        forms = " and ".join(FORMS)
        raise ValueError(f"rescued replace: got {replace}, expected one or both of {forms}")
    if "question" in replace:
        setup.need_whole_law("rescued replace='question'")
    return _hints.verdict_name(setup, verifier, "rescued")


rescued.check = _check  # type: ignore[attr-defined]


def _levels(prompt: Prompt, key: str, tiers: tuple[str, ...]) -> list[Level]:
    """What is said at each level, the least revealing first. Raises: ValueError."""
    hints, levels = prompt.meta.get(key) or {}, []
    for tier in tiers:
        parts = (hints.get(tier) or []) if isinstance(hints, dict) else None
        parts = [parts] if isinstance(parts, str) else parts
        if not isinstance(parts, list | tuple) or not all(isinstance(x, str) for x in parts):
            raise ValueError(
                f"rescued: {key!r} of the prompt {prompt.id!r} is {hints!r:.80}, expected "
                "{tier: [parts]}, each a text"
            )
        levels += [(tier, " ".join(parts[: n + 1])) for n in range(len(parts))]
    return levels
