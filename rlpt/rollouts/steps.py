"""Steps of completions: text is split at a separator, and the steps are found among the tokens."""

from __future__ import annotations

import collections.abc
import typing as tp

import numpy as np

from rlpt.rollouts import _inner

Decode = collections.abc.Callable[[collections.abc.Sequence[int]], str]
_ON_POLICY: dict[str, tp.Any] = {"fn": "sample.on_policy"}
_UNFINISHED = "\ufffd"  # what an incomplete character decodes to


def spans(text: str, separator: str) -> list[tuple[int, int, int]]:
    """The steps of a text as character offsets (start, end of what it says, end).

    A separator, and blanks in front of it, belong to the step before; those at the very start to
    the first step.  The steps together are the text.

    Args: separator: such as a blank line; not empty.

    Raises: ValueError for an empty separator.
    """
    if not separator:
        raise ValueError("steps: got separator='', expected a text such as '\\n\\n'")
    out: list[tuple[int, int, int]] = []
    start = 0  # of the piece
    for piece in text.split(separator):
        end = min(start + len(piece) + len(separator), len(text))
        said = start + len(piece.rstrip())
        if piece.strip():
            out.append((out[-1][2] if out else 0, said, end))
        elif out:
            out[-1] = (*out[-1][:2], end)
        start = end
    return out


def covering(
    decode: Decode,
    tokens: collections.abc.Sequence[int],
    offsets: collections.abc.Iterable[int],
) -> list[int]:
    """How many tokens from the start it takes to write so many characters, for each offset.

    A token that reaches beyond an offset counts, so a boundary inside a token lies behind it.

    Args:
      decode: ids to text.  tokens: of the whole text.  offsets: characters, not decreasing.
    Returns: one number an offset, not decreasing, at most len(tokens).
    """
    out: list[int] = []
    for offset in offsets:
        low, high = (out[-1] if out else 0) - 1, len(tokens)  # not enough, enough
        while high - low > 1:
            middle = (low + high) // 2
            enough = _written(decode, tokens[:middle]) >= offset
            low, high = (low, middle) if enough else (middle, high)
        out.append(high)
    return out


def _written(decode: Decode, tokens: collections.abc.Sequence[int]) -> int:
    """How many whole characters these tokens write."""
    return len(decode(tokens).rstrip(_UNFINISHED))


def split(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    group_blocks: int = 1,
    separator: str = "\n\n",
    inner: dict[str, tp.Any] = _ON_POLICY,
) -> tuple[tp.Any, tp.Any]:
    """Another rollout, with its completions cut into steps.

    Columns beside those of the other: step_id [P,G,T] int32, the step, from 0, of a token, -1: no
    token; separator_mask [P,G,T] bool, tokens that only separate steps.  A token that ends one step
    and begins the next belongs to the one that it ends; an end token to the last.  Counted with the
    outcomes: steps/rows and steps/steps.

    Args:
      stream, tools, group_blocks: as in `sample.on_policy`.  state: that of the other rollout.
      separator: text between two steps.
      inner: dict(fn=, **settings) of the other rollout.
    Returns: the batches and the state of the other rollout.

    Raises: ValueError for an empty separator, or a rollout inside that has steps of its own.

    Reference: Cheng et al., "Stop Summation" (PURE), arXiv:2504.15275 (blank lines).
    """
    batches, state = _inner.bind(inner, prompts, group, group_blocks)(stream, tools, state, step)
    batch = batches["policy"]
    mask = batch.table["completion_mask"]
    step_id = np.where(mask, 0, -1).astype(np.int32)
    separates = np.zeros(mask.shape, bool)
    for i, j in zip(*np.nonzero(mask.any(-1)), strict=True):
        tokens = batch.table["completion_tokens"][i, j][mask[i, j]].tolist()
        decode = tools.tokenizer.decode
        found = spans(decode(tokens), separator)
        ends = covering(decode, tokens, [x for _, said, end in found for x in (said, end)])
        for k in range(len(found)):
            said, end = ends[2 * k : 2 * k + 2]
            beyond = _written(decode, tokens[:end]) > found[k][2]  # the last begins the next step
            separates[i, j, said : end - beyond] = True
            step_id[i, j, end : len(tokens)] = min(k + 1, len(found) - 1)
        batch.outcomes["steps/rows"] += 1
        batch.outcomes["steps/steps"] += len(np.unique(step_id[i, j, : len(tokens)]))
    batch.table |= {"step_id": step_id, "separator_mask": separates}
    return batches, state


def _columns(
    *, group_blocks: int = 1, separator: str = "\n\n", inner: dict[str, tp.Any] = _ON_POLICY
) -> _inner.Columns:
    return {
        **_inner.columns(inner, group_blocks),
        "step_id": ("PGT", "i"),
        "separator_mask": ("PGT", "b"),
    }


def _check(
    setup: tp.Any,
    *,
    prompts: int,
    group: int,
    group_blocks: int,
    separator: str,
    inner: dict[str, tp.Any],
) -> None:
    """Raises: ValueError, see `split`; ConfigError for what does not suit the rollout inside."""
    spans("", separator)
    _inner.check(setup, inner, prompts, group, group_blocks)
    if "step_id" in _inner.columns(inner, group_blocks):
        raise ValueError(
            f"split: got inner {inner['fn']!r}, which has steps of its own in the column step_id; "
            "expected a rollout without"
        )


def _blocks(
    *, prompts: int, group_blocks: int, separator: str = "", inner: dict[str, tp.Any] = _ON_POLICY
) -> dict[str, set[int]]:
    return _inner.blocks(inner, prompts, group_blocks)


split.columns = _columns  # type: ignore[attr-defined]
split.check = _check  # type: ignore[attr-defined]
split.blocks = _blocks  # type: ignore[attr-defined]
split.evaluated_as = lambda inner=_ON_POLICY: inner  # type: ignore[attr-defined]
