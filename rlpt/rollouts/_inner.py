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
    bound, takes = _resolved(spec, prompts, group, group_blocks)
    own = functools.partial(bound.fn, **bound.static, **bound.numbers_at(0))
    if takes or group_blocks == 1:
        return own
    return functools.partial(_spread, own, group_blocks)


def _resolved(spec: Spec, prompts: int, group: int, group_blocks: int) -> tuple[config.Bound, bool]:
    """See `bind`, and whether it knows of groups that span blocks."""
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
    if not takes and group_blocks > 1 and "fork_parent" in getattr(bound.fn, "columns", {}):
        raise config.ConfigError(
            f"{bound.name}: got group_blocks={group_blocks} of the rollout around it, expected 1: "
            "the nodes of its tree are numbered within one block"
        )
    return bound, takes


def check(setup: tp.Any, spec: Spec, prompts: int, group: int, group_blocks: int = 1) -> None:
    """Asks the rollout whether its settings suit each other and the run, see `Bound.check`.

    Raises: ConfigError, and as `bind`.
    """
    _resolved(spec, prompts, group, group_blocks)[0].check(setup)


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


def outermost(config: tp.Any) -> dict[str, tp.Any]:
    """config.rollout as such an entry, without prompts and group."""
    return {"fn": config.rollout.fn, **config.rollout.options}


def columns(spec: Spec, group_blocks: int = 1) -> Columns:
    """What the rollout adds to the usual columns."""
    return dict(declared(spec, "columns", group_blocks=group_blocks))


def blocks(spec: Spec, prompts: int, group_blocks: int = 1) -> dict[str, set[int]]:
    """How many blocks each table of the rollout may have: {table: numbers}.

    Its tables have one a prompt, `policy` group_blocks, unless it says otherwise with fn.blocks(
    prompts=, group_blocks=, **its settings).
    """
    prompts = int(spec.get("prompts", prompts))
    if said := declared(spec, "blocks", prompts=prompts, group_blocks=group_blocks):
        return dict(said)
    return {**{k: {prompts} for k in declared(spec, "tables")}, "policy": {prompts * group_blocks}}


def declared(spec: Spec, what: str, **further: tp.Any) -> tp.Any:
    """fn.columns, fn.tables or fn.blocks of the rollout, {} where it has none.

    Those that are functions get the settings of the entry, without prompts and group, and those of
    `further` that they take.
    """
    own = getattr(config.find("rollouts", spec["fn"]), what, {})
    if not callable(own):
        return own
    known = inspect.signature(own).parameters
    settings = {k: v for k, v in spec.items() if k not in ("fn", "prompts", "group")}
    return own(**settings, **{k: v for k, v in further.items() if k in known})


def complete(table: Table, wanted: Columns) -> None:
    """Adds the columns that a table lacks: NaN, -1 or False; an axis of their own is 1 wide."""
    size = sizes(table)
    for name, (axes, kind) in wanted.items():
        if name not in table:
            shape = tuple(size.get(a, 1) for a in axes)
            table[name] = np.full(shape, _MISSING[kind], _DTYPES[kind])
