"""CURE: completions are begun again at a critical token of each first one."""

from __future__ import annotations

import typing as tp

import numpy as np


def critical(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    group_blocks: int = 1,
    children: int = 3,
    top: int = 20,
    min_chars: int = 2,
) -> tuple[tp.Any, tp.Any]:
    """`group` completions of every prompt, and `children` more from inside some of them.

    The first group_blocks - 1 completions of a prompt are branched once each: among their `top`
    tokens of highest entropy, one is chosen at random, and from the tokens before it the policy
    goes on anew.  Such a branch is a block whose context is the prompt with these tokens, which
    are therefore not trained; the slots beyond `children` are empty.  All blocks of a prompt are
    one group.  A row whose tokens are all unfit is sampled again from the prompt.

    One more column: prefix_length [P,G] int32, the tokens of a branch that stand in its context.
    Counted with the outcomes: cure/branches, cure/at_prompt (of these) and cure/prefix_tokens.

    Args:
      stream, tools: as in `sample.on_policy`.  state: unused.
      group: completions before any branching.  group_blocks: blocks of a prompt, > 1; all
        completions are branched with group + 1.
      children: completions of a branch, at most `group`.
      top: tokens to choose from.
      min_chars: a token whose text is shorter is not fit, nor is the first; special tokens have
        no text.
    Returns: ({"policy": batch}, state).

    Raises: ValueError for numbers that do not fit together.

    Reference: Li et al., "CURE", arXiv:2508.11016; positions as in the authors' code (n1 = 4,
    n2 = 3, top 20).  Differs from it in: the budget of tokens is that of the whole completion.
    """
    _check(tools, group=group, group_blocks=group_blocks, children=children, top=top)
    branches = group_blocks - 1
    items = stream.take(prompts)
    batch = tools.generate(items, group=group, step=step)
    table = batch.table
    entropy = tools.score(table)["entropy"]
    at = [(i, j) for i in range(prompts) for j in range(branches)]
    prefixes = []
    for i, j in at:
        tokens = table["completion_tokens"][i, j][table["completion_mask"][i, j]].tolist()
        chars = [len(tools.tokenizer.decode([t])) for t in tokens]
        fit = np.array([t for t, n in enumerate(chars) if t and n >= min_chars], int)
        best = fit[np.argsort(-entropy[i, j, fit], kind="stable")][:top]
        u = tools.uniform("cure", step, items[i][0].id, items[i][1], j)
        prefixes.append(tokens[: best[int(u * len(best))]] if len(best) else [])
    again = tools.generate(
        [items[i] for i, _ in at],
        group=children,
        step=step,
        attempt=1,
        first_sample=[j * children for _, j in at],
        prefixes=prefixes,
    )
    both = tools.concatenate([batch, tools.widen(again, group)])
    order = [
        block
        for i in range(prompts)
        for block in (i, *range(prompts + i * branches, prompts + (i + 1) * branches))
    ]
    out = tools.take_blocks(both, order)
    lengths = [0] * prompts + [len(x) for x in prefixes]
    out.table["prefix_length"] = np.repeat(np.array(lengths, np.int32)[order], group).reshape(
        -1, group
    )
    out.table["group"] = np.repeat(np.arange(prompts, dtype=np.int32), group_blocks)
    out.outcomes["cure/branches"] = len(at)
    out.outcomes["cure/at_prompt"] = sum(not x for x in prefixes)
    out.outcomes["cure/prefix_tokens"] = sum(map(len, prefixes))
    return {"policy": tools.verify(out)}, state


def _check(setup: tp.Any, *, group: int, group_blocks: int, children: int, top: int) -> None:
    """Raises: ValueError, see `critical`."""
    if not 2 <= group_blocks <= group + 1 or not 1 <= children <= group or top < 1:
        raise ValueError(
            f"critical: got group={group}, group_blocks={group_blocks}, children={children}, "
            f"top={top}; expected 2 to {group + 1} blocks (config.rollout.group_blocks), 1 to "
            f"{group} children and a top >= 1"
        )


critical.check = _check  # type: ignore[attr-defined]
critical.columns = {"prefix_length": ("PG", "i")}  # type: ignore[attr-defined]
