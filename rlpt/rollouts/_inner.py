"""Rollouts inside rollouts: from an entry of settings to a function and its columns."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import typing as tp

import numpy as np

from rlpt import config
from rlpt.columns import Table, sizes

Spec = collections.abc.Mapping[str, tp.Any]
Columns = dict[str, tuple[str, str]]  # name -> (axes, kind), as `fn.columns` of a rollout

_MISSING = {"f": np.nan, "i": -1, "b": False}
_DTYPES = {"f": np.float32, "i": np.int32, "b": bool}


def bind(spec: Spec, prompts: int, group: int, group_blocks: int = 1) -> functools.partial[tp.Any]:
    """The rollout dict(fn=name, **settings); prompts and group are those outside unless it has own.

    Its batches have prompts * group_blocks blocks.  Where it knows of no groups that span blocks,
    each of its blocks is a group, followed by empty ones.

    Raises: ConfigError for an unknown name or setting, or a schedule.
    """
    if "group_blocks" in spec:
        raise config.ConfigError(
            f"{spec['fn']}: got group_blocks={spec['group_blocks']} in a rollout inside another; "
            "it is the same for all of them: set config.rollout.group_blocks"
        )
    takes = "group_blocks" in inspect.signature(config.find("rollouts", spec["fn"])).parameters
    spans = dict(group_blocks=group_blocks) if takes and group_blocks > 1 else {}
    bound = config.entry("rollouts", {"prompts": prompts, "group": group, **spec, **spans})
    if any(callable(v) for v in bound.numbers.values()):
        raise config.ConfigError(f"{bound.name}: got a schedule, expected plain values")
    own = functools.partial(bound.fn, **bound.static, **bound.numbers_at(0))
    if takes or group_blocks == 1:
        return own
    if "fork_parent" in getattr(bound.fn, "columns", {}):
        raise config.ConfigError(
            f"{bound.name}: got group_blocks={group_blocks} of the rollout around it, expected 1: "
            "the nodes of its tree are numbered within one block"
        )
    return functools.partial(_spread, own, group_blocks)


def _spread(
    rollout: tp.Any, group_blocks: int, stream: tp.Any, tools: tp.Any, *args: tp.Any
) -> tuple[tp.Any, tp.Any]:
    """The rollout, with empty blocks behind each of its policy's."""
    batches, state = rollout(stream, tools, *args)
    batch = batches["policy"]
    places = np.full((len(batch.table["group"]), group_blocks), -1)
    places[:, 0] = np.arange(len(places))
    wide = tools.take_blocks(batch, places.ravel().tolist())
    wide.table["group"] //= group_blocks  # of an empty block: -1 as before
    wide.outcomes, wide.left_out = batch.outcomes, batch.left_out
    return {**batches, "policy": wide}, state


def columns(spec: Spec, group_blocks: int = 1) -> Columns:
    """What the rollout adds to the usual columns. Raises: ConfigError, as `bind`."""
    bind(spec, 1, 1, group_blocks)
    own = getattr(config.find("rollouts", spec["fn"]), "columns", {})
    if not callable(own):
        return dict(own)
    known = inspect.signature(own).parameters
    settings = {k: v for k, v in spec.items() if k not in ("fn", "prompts", "group")}
    return dict(
        own(**settings, **({"group_blocks": group_blocks} if "group_blocks" in known else {}))
    )


def complete(table: Table, wanted: Columns) -> None:
    """Adds the columns that a table lacks: NaN, -1 or False; an axis of their own is 1 wide."""
    size = sizes(table)
    for name, (axes, kind) in wanted.items():
        if name not in table:
            shape = tuple(size.get(a, 1) for a in axes)
            table[name] = np.full(shape, _MISSING[kind], _DTYPES[kind])
