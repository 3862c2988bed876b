"""Rollouts whose completions branch: further rows of a prompt start inside earlier ones.

Independent samples part within a few tokens, and a tree of their prefixes has little to say
about the rest.  Here the policy is asked again at the tokens where it was least sure.  A
branch has its parent's tokens as its own first ones, so that credit by prefixes sees the tree.
"""

from __future__ import annotations

import typing as tp

import numpy as np

from rlpt.columns import Table
from rlpt.rollouts import _onward


def branching(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    first: int = 2,
    children: int = 1,
    rounds: int = 1,
    by: str = "surprise",
    train_prefix: bool = False,
    until: tuple[str, ...] = (),
) -> tuple[tp.Any, tp.Any]:
    """`first` completions of every prompt, and branches of them up to `group`.

    (group - first) / children positions of a prompt's rows are forked, in turn one of the tree of
    each first row; from the tokens before it `children` rows go on anew, the token itself included.
    In a later round the branches of earlier ones may be forked too.  A position is chosen by the
    largest score among the tokens that a row has of its own, without the first of them; where none
    is left, the row starts at the prompt.

    Columns beside the usual ones: branch_at [P,G] int32, the tokens that a row has from its
    parent, and those of `segments`, which `rewards.nodes.leaf_rewards` makes a tree of.  Counted
    with the outcomes: branch/forks, branch/at_prompt (of these), branch/copied_tokens and
    branch/sampled_tokens.

    Args:
      stream, tools: as in `sample.on_policy`.  state: unused.
      first, children, rounds: TreeRL's EPTree(M, N, L, T) is first M, children T, rounds L and
        group M (1 + N L T).
      by: "surprise": -log-prob of the token under the law it was drawn from; "entropy": of the
        model's next-token law there, which costs a forward pass a round.
      train_prefix: copied tokens train in every row; False: once, in the row that drew them.
      until: no fork behind the token that completes one of these strings, such as "answer".
    Returns: ({"policy": batch}, state); a prompt is one block.

    Raises: ValueError for numbers that do not fit together or an unknown `by`.

    Reference: Hou et al., "TreeRL", arXiv:2506.11902.  Differs from it in: the forks of
    a round are spread evenly over the trees, and no leaf is dropped.
    """
    _check(tools, group=group, first=first, children=children, rounds=rounds, by=by)
    forks = _forks(group, first, children, rounds)
    items = stream.take(prompts)
    batch = tools.widen(tools.generate(items, group=first, step=step), group)
    table, counts = batch.table, batch.outcomes
    counts["branch/sampled_tokens"] = int(table["completion_mask"].sum())
    parent = np.full((prompts, group), -1)
    at = np.zeros((prompts, group), int)
    tree = np.arange(group) % first  # of the first rows; of a branch its fork's
    tree[first:] = np.repeat(np.arange((group - first) // children) % first, children)
    used = np.zeros(table["completion_mask"].shape, bool)
    for r, part in enumerate(forks):
        score = -table["sampler_logp"] if by == "surprise" else tools.score(table)["entropy"]
        free = table["completion_mask"] & ~used
        free &= np.arange(free.shape[-1]) > at[..., None]
        for i, j in np.ndindex(*at.shape if until else (0, 0)):
            end = tools.tokens_until(_onward.tokens(table, i, j), until)
            free[i, j, end if end is not None else free.shape[-1] :] = False
        cuts = _choose(np.where(free, score, -np.inf), tree, first + part * children)
        for i, _, j, k in cuts:
            used[i, j, k] |= j >= 0
        new = tools.generate(
            [items[i] for i, *_ in cuts],
            group=children,
            step=step,
            attempt=1 + r,
            first_sample=[row for _, row, *_ in cuts],
            prefixes=[_onward.tokens(table, i, j)[:k] for i, _, j, k in cuts],
        )
        for b, (i, row, j, k) in enumerate(cuts):
            for c in range(children):
                _lay_back(batch, (i, row + c), j, k, new, (b, c), train_prefix)
                parent[i, row + c], at[i, row + c] = j, k
        counts["branch/forks"] += len(cuts)
        counts["branch/at_prompt"] += sum(j < 0 for *_, j, _ in cuts)
        counts["branch/sampled_tokens"] += int(new.table["completion_mask"].sum())
    counts["branch/copied_tokens"] = int(at.sum())
    table |= {"branch_at": at.astype(np.int32), **segments(parent, at, table["completion_mask"])}
    return {"policy": tools.verify(batch)}, state


def _check(setup: tp.Any, *, group: int, first: int, children: int, rounds: int, by: str) -> None:
    """Raises: ValueError, see `branching`."""
    _forks(group, first, children, rounds)
    if by not in ("surprise", "entropy"):
        raise ValueError(f"branching by: got {by!r}, expected 'surprise' or 'entropy'")


branching.check = _check  # type: ignore[attr-defined]
branching.columns = {  # type: ignore[attr-defined]
    "branch_at": ("PG", "i"),
    "leaf_parent": ("PG", "i"),
    "fork_parent": ("PG", "i"),
    "node_id": ("PGT", "i"),
}


def _forks(group: int, first: int, children: int, rounds: int) -> list[np.ndarray]:
    """The numbers of the forks of each round. Raises: ValueError, see `branching`."""
    least = min(first, children, rounds)
    count, rest = divmod(group - first, max(children, 1))
    if least < 1 or rest or count < rounds:
        raise ValueError(
            f"branching: got group={group}, first={first}, children={children}, rounds={rounds}; "
            "expected positive numbers with group - first a multiple of children, and at least "
            "one fork a round"
        )
    return np.array_split(np.arange(count), rounds)


def _choose(
    score: np.ndarray, tree: np.ndarray, rows: np.ndarray
) -> list[tuple[int, int, int, int]]:
    """Where to fork: (prompt, row, parent, position) for each prompt and row to be filled.

    Args:
      score: [P,G,T] float32, -inf where no fork may be.  tree: [G] int, the tree of a row.
      rows: the first row of each fork.
    Returns: parent -1 and position 0 where the row's tree has no position left.
    """
    cuts = []
    for i, left in enumerate(score.copy()):
        for row in rows.tolist():
            mine = np.where((tree == tree[row])[:, None], left, -np.inf)
            j, k = map(int, np.unravel_index(np.argmax(mine), mine.shape))
            if mine[j, k] == -np.inf:
                j, k = -1, 0
            else:
                left[j, k] = -np.inf
            cuts.append((i, row, j, k))
    return cuts


def _lay_back(
    batch: tp.Any,
    to: tuple[int, int],
    j: int,
    k: int,
    new: tp.Any,
    source: tuple[int, int],
    train_prefix: bool,
) -> None:
    """Row `to` becomes the first k tokens of row j of its block, and row `source` of `new`."""
    table, i = batch.table, to[0]
    for name in ("completion_tokens", "completion_mask", "loss_mask", "sampler_logp"):
        width = table[name].shape[-1]
        table[name][to][:k] = table[name][i, j, :k]
        table[name][to][k:] = new.table[name][source][: width - k]
    if not train_prefix:
        table["loss_mask"][to][:k] = False
    for name in ("truncated", "temperature", "origin", "row_mask"):
        table[name][to] = new.table[name][source]
    batch.text.completions[i][to[1]] = new.text.completions[source[0]][source[1]]


def segments(parent: np.ndarray, at: np.ndarray, completion_mask: np.ndarray) -> Table:
    """The tree of segments that branches cut their rows into.

    A segment is a stretch of a row's own tokens that ends where a row branches off, or with the
    row.  The last segment of row j is node j; the one that ends where row c, and no earlier one,
    branches off is node G + c.

    Args:
      parent: [P,G] the row that a row branches from, before it in the block; -1: none.
      at: [P,G] the tokens that it has from there.  completion_mask: [P,G,T] bool.

    Returns: the parents of these nodes, leaf_parent [P,G] int32 of node j and fork_parent [P,G]
      int32 of node G + c, -1: a root or no node; node_id [P,G,T] int32, the node that a token
      belongs to, that of the parent for a copied token; -1: no token.
    """
    p, g, t = completion_mask.shape
    node_parent = np.full((p, 2 * g), -1, np.int32)
    node_id = np.full((p, g, t), -1, np.int32)
    for i, j in np.ndindex(p, g):
        start, length = int(at[i, j]), int(completion_mask[i, j].sum())
        if start:
            node_id[i, j, :start] = node_id[i, parent[i, j], :start]
        forks = {int(at[i, c]): g + c for c in np.flatnonzero(parent[i] == j)[::-1]}
        for end, node in sorted(forks.items()) + [(length, j)]:
            node_parent[i, node] = node_id[i, j, start - 1] if start else -1
            node_id[i, j, start:end] = node
            start = end
    leaf, fork = node_parent[:, :g], node_parent[:, g:]
    return {"leaf_parent": leaf, "fork_parent": fork, "node_id": node_id}
