"""Self-play: the policy makes up tasks, solves them, and learns from both."""

from __future__ import annotations

import collections
import json
import typing as tp

import numpy as np

from rlpt.tasks import triplets


def self_play(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    executor: str = "executor",
    language: str = "arithmetic",
    types: tuple[str, ...] = triplets.TYPES,
    proposers: int = 2,
    references: int = 2,
    cases: int = 4,
    remember: int = 256,
) -> tuple[tp.Any, tp.Any]:
    """Absolute Zero: blocks of proposals, and blocks of solutions to tasks that were proposed.

    The first `proposers` blocks ask for tasks, of the types in turn, and show some that are already
    there; each valid one is given to the solver `group` times at once, which says how hard it is.
    The other blocks are solutions: of the new tasks, as many as fit, and where there are fewer, of
    earlier ones.  No prompt of the stream is used: what is there at the start is the identity.

    Columns beside the usual ones, [P,G]: cell int32, 3 x role + type, role 0 proposes, 1 solves;
    proposes bool; formed bool, whether a reply has the form that was asked for; solve_rate float32,
    of a task the share of its solutions that are right, 1 of an invalid one, of a solution 1 or 0.
    `rewards.selfplay.absolute_zero` and `advantages.cells.task_relative` read them.  Counted with
    the outcomes: selfplay/valid, selfplay/learnable (of these, with a rate between 0 and 1) and
    selfplay/known (tasks remembered).

    Args:
      stream: unused.  tools: as in `sample.on_policy`.
      state: None, or {"tasks": the tasks that are there} as this function returned it; JSON.
      prompts: blocks in the batch.
      executor: the verifier of the config that is `verifiers.executor.executor`, with the same
        language.
      language: of `tasks.triplets`.  types: which of its TYPES are asked for.
      proposers: blocks that propose, fewer than prompts.
      references: tasks that a proposer is shown, as far as the prompt bucket has room for them.
      cases: inputs that a proposer of induction is asked for.
      remember: tasks that are kept, the last ones.
    Returns: ({"policy": batch}, state).

    Raises: ValueError for numbers that do not fit together or unknown types.

    Reference: Zhao et al., "Absolute Zero", arXiv:2505.03335.  Differs from it in: the solutions
    that measure how hard a task is are also those that are trained.
    """
    _check(tools, prompts=prompts, executor=executor, types=types, proposers=proposers)
    known: list[triplets.Task] = list(state["tasks"]) if state else []
    asked = [
        _proposer(
            tools, known, language, types[(step * proposers + b) % len(types)], references, cases,
            f"{step}:{b}", executor,
        )
        for b in range(proposers)
    ]  # fmt: skip
    proposals = tools.verify(tools.generate([(p, 0) for p in asked], group=group, step=step))
    new = _valid(tools, proposals, executor)
    order = sorted(new, key=lambda k: tools.uniform("selfplay", step, k))
    places = prompts - proposers
    tasks = [new[k][0] for k in order]
    known = [t for t in known if triplets.key(t) not in new]
    tasks += _earlier(tools, known, language, types, places - len(tasks), step)
    solutions = _solve(tools, tasks, executor, prompts, group, step)

    rate = np.ones((proposers, group), np.float32)
    right = _outcome(solutions, executor) == "correct"
    live = solutions.table["row_mask"]
    learnable = 0
    for b, k in enumerate(order):
        for at in new[k][1]:
            if live[b].any():
                rate[at] = right[b][live[b]].mean()
                learnable += 0 < rate[at] < 1
            else:
                proposals.table["row_mask"][at] = False
    solvers = tools.take_blocks(solutions, list(range(places)))
    batch = tools.concatenate([proposals, solvers])
    batch.outcomes.update(solutions.outcomes)
    kinds = np.array([triplets.TYPES.index(p.meta["type"]) for p in batch.text.prompts])
    proposes = np.broadcast_to(np.arange(prompts)[:, None] < proposers, (prompts, group))
    batch.table |= {
        "cell": (kinds[:, None] + len(triplets.TYPES) * ~proposes).astype(np.int32),
        "proposes": proposes.copy(),
        "formed": _outcome(batch, executor) != "unparsable",
        "solve_rate": np.concatenate([rate, right[:places].astype(np.float32)]),
    }
    known = known + [new[k][0] for k in order]
    known = known[max(len(known) - remember, 0) :]
    batch.outcomes["selfplay/valid"] = sum(len(at) for _, at in new.values())
    batch.outcomes["selfplay/learnable"] = learnable
    batch.outcomes["selfplay/known"] = len(known)
    return {"policy": batch}, {"tasks": known}


def _check(
    setup: tp.Any, *, prompts: int, executor: str, types: tuple[str, ...], proposers: int
) -> None:
    """Raises: ValueError, see `self_play`."""
    setup.need_verifier(executor, "self_play executor")
    if not 1 <= proposers < prompts or not types or not set(types) <= set(triplets.TYPES):
        raise ValueError(
            f"self_play: got proposers={proposers} of prompts={prompts} and types={tuple(types)}; "
            f"expected 1 to prompts - 1 proposers and types of {', '.join(triplets.TYPES)}"
        )


self_play.check = _check  # type: ignore[attr-defined]
self_play.columns = {  # type: ignore[attr-defined]
    "cell": ("PG", "i"),
    "proposes": ("PG", "b"),
    "formed": ("PG", "b"),
    "solve_rate": ("PG", "f"),
}


def _proposer(
    tools: tp.Any,
    known: list[triplets.Task],
    language: str,
    kind: str,
    references: int,
    cases: int,
    name: str,
    executor: str,
) -> tp.Any:
    """The prompt of a proposer, with as many references as it has room for."""
    own = [t for t in known if t["type"] == kind] or [triplets.seed(language, kind)]
    chosen = sorted(own, key=lambda t: tools.uniform("reference", name, triplets.key(t)))

    def ask(program: str, count: int) -> tp.Any:
        return triplets.ask_for_task(language, kind, chosen[:count], program, cases, name, executor)

    def fits(prompt: tp.Any) -> bool:
        return len(tools.encode(prompt)) <= tools.max_prompt

    programs = [t["program"] for t in known] or [own[0]["program"]]
    program = programs[int(tools.uniform("program", name) * len(programs))]
    if not fits(ask(program, 0)):  # what fits a solver's prompt may not fit this one
        program = triplets.seed(language, kind)["program"]
    counts = range(min(references, len(chosen)), -1, -1)
    return next((p for p in (ask(program, n) for n in counts) if fits(p)), ask(program, 0))


def _valid(
    tools: tp.Any, proposals: tp.Any, executor: str
) -> dict[str, tuple[triplets.Task, list[tuple[int, int]]]]:
    """The valid tasks by key: each with the rows that propose it."""
    found: dict[str, tuple[triplets.Task, list[tuple[int, int]]]] = {}
    for i, j in np.argwhere(_outcome(proposals, executor) == "correct").tolist():
        prompt, text = proposals.text.prompts[i], proposals.text.completions[i][j]
        task = triplets.read_task(text, prompt.meta["type"], prompt.answer)
        if task is None:
            continue
        task["outputs"] = json.loads(proposals.text.verdicts[i][j][executor].detail)
        if len(tools.encode(triplets.ask_for_solution(task, executor))) <= tools.max_prompt:
            found.setdefault(triplets.key(task), (task, []))[1].append((i, j))
    return found


def _earlier(
    tools: tp.Any,
    known: list[triplets.Task],
    language: str,
    types: tuple[str, ...],
    count: int,
    step: int,
) -> list[triplets.Task]:
    """Tasks to fill up with: earlier ones in a random order, and then those of the start."""
    earlier = sorted(known, key=lambda t: tools.uniform("earlier", step, triplets.key(t)))
    seeds = [triplets.seed(language, types[i % len(types)]) for i in range(max(count, 0))]
    return (earlier + seeds)[: max(count, 0)]


def _solve(
    tools: tp.Any,
    tasks: list[triplets.Task],
    executor: str,
    at_once: int,
    group: int,
    step: int,
) -> tp.Any:
    """Judged solutions, a block a task, `at_once` blocks in a batch."""
    seen: collections.Counter[str] = collections.Counter()
    items: list[tp.Any] = []
    for task in tasks:
        prompt = triplets.ask_for_solution(task, executor)
        items.append((prompt, seen[prompt.id]))  # the same task again meets other draws
        seen[prompt.id] += 1
    parts = []
    for start in range(0, len(items), at_once):
        part = items[start : start + at_once]
        part += [None] * (at_once - len(part))
        parts.append(tools.verify(tools.generate(part, group=group, step=step, attempt=1)))
    return tools.concatenate(parts)


def _outcome(batch: tp.Any, name: str) -> np.ndarray:
    """The outcome of a verifier for every row, "" where it judged none; [P,G]."""
    return np.array(
        [[row[name].outcome if name in row else "" for row in rows] for rows in batch.text.verdicts]
    )
