"""Rows of a batch that go on one by one: a turn after a tool has spoken, a step of a search."""

from __future__ import annotations

import collections.abc
import typing as tp


def onward(
    tools: tp.Any,
    items: collections.abc.Sequence[tp.Any],
    at: collections.abc.Sequence[tuple[int, int]],
    prefixes: collections.abc.Sequence[list[int]],
    **how: tp.Any,
) -> tp.Any:
    """One completion of each prefix, in a block of its own; the batch of these blocks.

    Empty blocks are added up to len(items) times a power of two, so that few shapes are compiled.

    Args:
      at: (item, sample) of each prefix; the sample enters the draws.
      how: step, attempt, purpose, temperature and until of `Tools.generate`.
    """
    size = len(items)
    while size < len(at):
        size *= 2
    empty = size - len(at)
    return tools.generate(
        [items[i] for i, _ in at] + [None] * empty,
        group=1,
        first_sample=[j for _, j in at] + [0] * empty,
        prefixes=[*prefixes, *[[]] * empty],
        **how,
    )


def tokens(table: tp.Any, i: int, j: int) -> list[int]:
    """The tokens of a row."""
    return table["completion_tokens"][i, j][table["completion_mask"][i, j]].tolist()
