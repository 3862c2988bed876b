"""Rollouts made of others: one after another by step, or side by side as several tables."""

from __future__ import annotations

import collections.abc
import typing as tp

from rlpt.rollouts import _inner

_LOOKS = 1000  # times the prompts wanted that a stream is searched for those of a task


class _OfTask:
    """The prompts of one task that a stream gives; those of others are passed over."""

    def __init__(self, stream: tp.Any, task: str):
        self.stream, self.task = stream, task

    def take(self, n: int) -> list[tp.Any]:
        taken: list[tp.Any] = []
        for _ in range(_LOOKS):
            taken += [
                draw for draw in self.stream.take(n - len(taken)) if draw[0].task == self.task
            ]
            if len(taken) == n:
                return taken
        raise ValueError(
            f"rollout: looked at {_LOOKS} batches for {n} prompts of the task {self.task!r} and "
            f"found {len(taken)}; expected the label (or fn) of an entry of config.tasks"
        )


def _run(
    spec: _inner.Spec,
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    prompts: int,
    group: int,
    group_blocks: int = 1,
) -> tuple[tp.Any, tp.Any]:
    """One inner rollout; `task` in its entry names the task that its prompts are of."""
    spec = dict(spec)
    if task := spec.pop("task", ""):
        stream = _OfTask(stream, task)
    return _inner.bind(spec, prompts, group, group_blocks)(stream, tools, state, step)


def _plain(spec: _inner.Spec, *own: str) -> dict[str, tp.Any]:
    """The entry of a rollout without the settings that are read here."""
    return {k: v for k, v in dict(spec).items() if k not in own}


def by_step(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    group_blocks: int = 1,
    stages: tuple[dict[str, tp.Any], ...],
) -> tuple[tp.Any, tp.Any]:
    """The rollout of the stage that a step is in: a recipe of several stages in one run.

    All stages draw from one stream; each has a state of its own, which waits while others run.
    Columns that only some stages make are there in all: NaN, -1 or False elsewhere.  What a loss
    term does in which stage is said by its coefficient, a schedule of the step.  An evaluation
    completes prompts as the last stage does.

    Args:
      stream, tools: as in `sample.on_policy`.
      state: None, or {stage: its state} as this function returned it; JSON.
      prompts, group: of a stage that does not say otherwise.  Blocks of another number or width are
        compiled anew; the number must suit the learners' micro_blocks.
      group_blocks: blocks of a prompt in all stages; those of a stage that fills one are empty.
      stages: dict(fn=, steps=, **settings) each, in order; `steps` is how long, 0: to the end, and
        `task` the label of the entry of config.tasks that its prompts are of, default any.
    Returns: the stage's batches, and the state.

    Raises: ValueError for no stages or steps below 1 in any but the last; ConfigError, at the
      start of a run, for what `rollout` refuses.

    Reference: Lambert et al., "TULU 3", arXiv:2411.15124 (SFT, DPO, RL with verifiable rewards).
    """
    at = _stage(stages, step)
    states = dict(state or {})
    spec = _plain(stages[at], "steps")
    batches, new = _run(
        spec, stream, tools, states.get(str(at)), step, prompts, group, group_blocks
    )
    wanted = _columns_by_step(stages=stages, group_blocks=group_blocks)
    for batch in batches.values():
        _inner.complete(batch.table, wanted)
    return batches, {**states, str(at): new}


def _stage(stages: collections.abc.Sequence[_inner.Spec], step: int) -> int:
    """The stage that a step (from 0) is in. Raises: ValueError, see `by_step`."""
    lengths = [int(stage.get("steps", 0)) for stage in stages]
    if not stages or min([1, *lengths[:-1]]) < 1 or lengths[-1] < 0:
        raise ValueError(
            f"by_step: got stages of {lengths} steps, expected at least one stage, and steps >= 1 "
            "in all but the last, where 0 means to the end"
        )
    end = 0
    for at, length in enumerate(lengths[:-1]):
        end += length
        if step < end:
            return at
    return len(stages) - 1


def _columns_by_step(
    *, stages: collections.abc.Sequence[_inner.Spec], group_blocks: int = 1
) -> _inner.Columns:
    _stage(stages, 0)
    out: _inner.Columns = {}
    for stage in stages:
        out |= _inner.columns(_plain(stage, "steps", "task"), group_blocks)
    return out


def _check_by_step(
    setup: tp.Any,
    *,
    stages: collections.abc.Sequence[_inner.Spec],
    prompts: int,
    group: int,
    group_blocks: int,
) -> None:
    """Raises: ConfigError and ValueError, see `by_step`, for every stage."""
    _stage(stages, 0)
    for spec in stages:
        _check_inner(setup, _plain(spec, "steps"), prompts, group, group_blocks)


def _check_inner(
    setup: tp.Any, spec: _inner.Spec, prompts: int, group: int, group_blocks: int
) -> None:
    """Raises: ConfigError as `_inner.check`, ValueError for a task that the config lacks."""
    task = spec.get("task", "")
    if task and task not in (setup.tasks or (task,)):
        raise ValueError(
            f"{spec['fn']}: got task={task!r}, expected the label (or fn) of an entry of "
            f"config.tasks: {', '.join(setup.tasks)}"
        )
    _inner.check(setup, _plain(spec, "task"), prompts, group, group_blocks)


def _blocks_by_step(
    *, stages: collections.abc.Sequence[_inner.Spec], prompts: int, group_blocks: int
) -> dict[str, set[int]]:
    own = [_inner.blocks(_plain(s, "steps", "task"), prompts, group_blocks) for s in stages]
    return {"policy": set().union(*(b["policy"] for b in own))}


by_step.columns = _columns_by_step  # type: ignore[attr-defined]
by_step.check = _check_by_step  # type: ignore[attr-defined]
by_step.blocks = _blocks_by_step  # type: ignore[attr-defined]
by_step.evaluated_as = lambda stages: _plain(stages[-1], "steps", "task")  # type: ignore[attr-defined]


def beside(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    group_blocks: int = 1,
    tables: dict[str, dict[str, tp.Any]],
) -> tuple[tp.Any, tp.Any]:
    """Several tables a step, each of a rollout of its own: such as pairs for a reward model.

    Args:
      stream, tools: as in `sample.on_policy`.
      state: None, or {table: its state} as this function returned it; JSON.
      prompts, group: of a table that does not say otherwise.
      group_blocks: blocks of a prompt in the policy's table.
      tables: name -> dict(fn=, **settings), `policy` among them, which takes its prompts first, the
        others in alphabetical order; `task` as in `by_step`.
    Returns: {name: batch}, and the state.

    Raises: ValueError without a `policy`; ConfigError, at the start of a run, for what `rollout`
      refuses.
    """
    _columns_beside(tables=tables, group_blocks=group_blocks)
    batches, states = {}, dict(state or {})
    for name in sorted(tables, key=lambda name: (name != "policy", name)):
        blocks = group_blocks if name == "policy" else 1
        made, states[name] = _run(
            tables[name], stream, tools, states.get(name), step, prompts, group, blocks
        )
        batches[name] = made["policy"]
    return batches, states


def _columns_beside(
    *, tables: collections.abc.Mapping[str, _inner.Spec], group_blocks: int = 1
) -> _inner.Columns:
    """Those of the policy's table; the others are read by their learners only."""
    if "policy" not in tables:
        raise ValueError(f"beside: got the tables {sorted(tables)}, expected `policy` among them")
    _tables_beside(tables=tables)
    return _inner.columns(_plain(tables["policy"], "task"), group_blocks)


def _tables_beside(
    *, tables: collections.abc.Mapping[str, _inner.Spec]
) -> dict[str, _inner.Columns]:
    return {k: _inner.columns(_plain(v, "task")) for k, v in tables.items() if k != "policy"}


def _check_beside(
    setup: tp.Any,
    *,
    tables: collections.abc.Mapping[str, _inner.Spec],
    prompts: int,
    group: int,
    group_blocks: int,
) -> None:
    """Raises: ConfigError and ValueError, see `beside`, for every table."""
    _columns_beside(tables=tables, group_blocks=group_blocks)
    for name, spec in tables.items():
        blocks = group_blocks if name == "policy" else 1
        _check_inner(setup, spec, prompts, group, blocks)


def _blocks_beside(
    *, tables: collections.abc.Mapping[str, _inner.Spec], prompts: int, group_blocks: int
) -> dict[str, set[int]]:
    return {
        name: _inner.blocks(_plain(spec, "task"), prompts, group_blocks if name == "policy" else 1)[
            "policy"
        ]
        for name, spec in tables.items()
    }


beside.columns = _columns_beside  # type: ignore[attr-defined]
beside.check = _check_beside  # type: ignore[attr-defined]
beside.blocks = _blocks_beside  # type: ignore[attr-defined]
beside.tables = _tables_beside  # type: ignore[attr-defined]
beside.evaluated_as = lambda tables: _plain(tables["policy"], "task")  # type: ignore[attr-defined]
