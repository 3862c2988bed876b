"""Rollouts inside rollouts: from an entry of settings to a function and its columns."""

from __future__ import annotations

import collections.abc
import functools
import typing as tp

import numpy as np

from rlpt import config
from rlpt.columns import Table, sizes

Spec = collections.abc.Mapping[str, tp.Any]
Columns = dict[str, tuple[str, str]]  # name -> (axes, kind), as `fn.columns` of a rollout

_MISSING = {"f": np.nan, "i": -1, "b": False}
_DTYPES = {"f": np.float32, "i": np.int32, "b": bool}


def bind(spec: Spec, prompts: int, group: int) -> functools.partial[tp.Any]:
    """The rollout dict(fn=name, **settings); prompts and group are those outside unless it has own.

    Raises: ConfigError for an unknown name or setting, or a schedule.
    """
    bound = config.entry("rollouts", {"prompts": prompts, "group": group, **spec})
    if any(callable(v) for v in bound.numbers.values()):
        raise config.ConfigError(f"{bound.name}: got a schedule, expected plain values")
    return functools.partial(bound.fn, **bound.static, **bound.numbers_at(0))


def columns(spec: Spec) -> Columns:
    """What the rollout adds to the usual columns. Raises: ConfigError, as `bind`."""
    inner = bind(spec, 1, 1)
    own = getattr(inner.func, "columns", {})
    settings = {k: v for k, v in spec.items() if k not in ("fn", "prompts", "group")}
    return dict(own(**settings) if callable(own) else own)


def complete(table: Table, wanted: Columns) -> None:
    """Adds the columns that a table lacks: NaN, -1 or False; an axis of their own is 1 wide."""
    size = sizes(table)
    for name, (axes, kind) in wanted.items():
        if name not in table:
            shape = tuple(size.get(a, 1) for a in axes)
            table[name] = np.full(shape, _MISSING[kind], _DTYPES[kind])
