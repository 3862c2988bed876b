"""The tree of shared prefixes of a group's completions, on the host.

The value V of a node is the mean reward of the live rows below it, as in `advantages.tree`;
here runs of tokens without a fork are one node, which is what a picture needs.
"""

from __future__ import annotations

import dataclasses
import math
import os
import typing as tp


@dataclasses.dataclass
class Node:
    """A stretch of tokens that the same rows share.

    Attributes:
      parent: index of the node above, -1 for the root.
      start, end: its tokens are those at start <= t < end of each of its rows; empty at the
        root where nothing is shared, and for the end of a row that others go on from.
      rows: indices of the rows below.
      value: V, their mean reward.
    """

    parent: int
    start: int
    end: int
    rows: list[int]
    value: float


def prefix_tree(tokens: tp.Sequence[tp.Sequence[int]], rewards: tp.Sequence[float]) -> list[Node]:
    """The nodes, parents before children, siblings in the order of their first row.

    V(s) = mean reward of the rows that start with s.  Identical rows share a leaf.  A row that
    is a prefix of another parts from it at its end, in a leaf without tokens.

    Args:
      tokens: of each live row, without padding.
      rewards: of each live row.
    Raises: ValueError for no rows, or other lengths.
    Reference: TEMPO, arXiv 2509.18314.
    """
    if not tokens or len(tokens) != len(rewards):
        raise ValueError(
            f"prefix_tree: got {len(tokens)} rows and {len(rewards)} rewards, expected as many of "
            "both, and at least one"
        )
    nodes: list[Node] = []
    waiting = [(-1, 0, list(range(len(tokens))))]
    while waiting:
        parent, start, rows = waiting.pop()
        rest = [list(tokens[row][start:]) for row in rows]
        end = start + len(os.path.commonprefix(rest))  # compares any sequences
        nodes.append(Node(parent, start, end, rows, sum(rewards[r] for r in rows) / len(rows)))
        branches: dict[int | None, list[int]] = {}
        for row in rows:
            following = tokens[row][end] if len(tokens[row]) > end else None
            branches.setdefault(following, []).append(row)
        if len(branches) > 1:
            here = len(nodes) - 1
            waiting += [(here, end, part) for part in reversed(branches.values())]
    return nodes


def statistics(nodes: tp.Sequence[Node], lengths: tp.Sequence[int]) -> dict[str, float]:
    """What a tree says about a group.

    Args: nodes of `prefix_tree`; lengths: tokens of each of its rows.
    Returns: distinct (share of rows: leaves / rows), forks (nodes with children),
      shared_tokens (before the first fork), credited (share of all tokens at which V
      changes, which is where TEMPO's term is not zero).
    """
    parents = {node.parent for node in nodes}
    leaves = sum(i not in parents for i in range(len(nodes)))
    moved = sum(
        len(n.rows)
        for n in nodes
        if n.parent >= 0 and not math.isclose(n.value, nodes[n.parent].value, abs_tol=1e-9)
    )
    return {
        "distinct": leaves / len(lengths),
        "forks": float(len(parents - {-1})),
        "shared_tokens": float(nodes[0].end),
        "credited": moved / max(sum(lengths), 1),
    }
