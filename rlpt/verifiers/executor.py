"""Runs the programs of self-play: is a proposed task a task, and is a solution one?

The prompts and the forms of the replies are those of `tasks.triplets`.  Arithmetic is evaluated
here; Python runs in the sandbox, in a fresh process for every reply.
"""

from __future__ import annotations

import ast
import fractions
import json
import typing as tp

from rlpt.tasks import base as tasks_base
from rlpt.tasks import triplets
from rlpt.verifiers import base, calculator, number
from rlpt.verifiers._values import same
from rlpt.verifiers.sandbox import host

LONGEST = 100  # characters of an input or output
LANGUAGES = ("arithmetic", "python")
# Time, chance and the machine: what would make an output more than a function of the input.
BANNED = {
    "asyncio", "builtins", "ctypes", "datetime", "gc", "importlib", "inspect", "io",
    "multiprocessing", "os", "pathlib", "platform", "random", "secrets", "shutil", "signal",
    "socket", "subprocess", "sys", "tempfile", "threading", "time", "uuid",
}  # fmt: skip
_CALLS = {
    "__import__", "compile", "eval", "exec", "globals", "hash", "id", "input", "locals", "open",
    "vars",
}  # fmt: skip


def _prepare(*, language: str = "arithmetic", tier: str = "auto", **_: tp.Any) -> dict[str, tp.Any]:
    """Chooses the sandbox where there is need of one; what a run records of it."""
    if language not in LANGUAGES:
        raise ValueError(f"language: got {language!r}, expected one of {', '.join(LANGUAGES)}")
    return {} if language == "arithmetic" else {"sandbox": host.choose(tier), **host.rights()}


@base.traits(pure=True, on_request=True)
def executor(
    trajectory: base.Trajectory,
    prompt: tasks_base.Prompt,
    *,
    language: str = "arithmetic",
    tier: str = "auto",
    seconds: float = 2.0,
    memory_mb: int = 512,
) -> base.Verdict:
    """Judges a proposal or a solution, by the role in Prompt.meta.

    A proposal is correct if its program gives an output for every input, the same when run again,
    imports nothing that chance or time come from, and both can be written down; the detail of the
    verdict is then the list of its outputs as JSON.  A solution of deduction is correct if it is
    the output, one of abduction if the program gives the output for it, one of induction if it is a
    program that gives all outputs, those that were not shown too.

    Args:
      language: "arithmetic": expressions of x; "python": functions f.
      tier, seconds, memory_mb: of the sandbox, as `code.code`.
    Returns: correct, incorrect with the reason, or unparsable for a reply in another form.
    Raises: SandboxError where the tier does not work.
    """
    kind = prompt.meta["type"]
    run: tp.Any = _arithmetic
    if language == "python":
        run = _Python(host.choose(tier), host.Limits(seconds=seconds, memory_mb=memory_mb))
    read = _number if language == "arithmetic" else _literal
    try:
        if prompt.meta["role"] == triplets.PROPOSE:
            task = triplets.read_task(trajectory.text, kind, prompt.answer)
            if task is None:
                return base.unparsable("no task in the form that was asked for")
            return _proposal(task, run, read)
        answer = triplets.read_answer(trajectory.text)
        if answer is None:
            return base.unparsable("no answer in the form that was asked for")
        wanted = [read(text) for text in prompt.answer["outputs"]]
        if kind == "deduction":
            got = [read(answer)]
        elif kind == "abduction":
            got = run(prompt.answer["program"], [read(answer)])
        else:
            got = run(answer, [read(text) for text in prompt.answer["inputs"]])
    except ValueError as e:
        return base.judged(False, str(e)[:200])
    right = all(same(a, b) for a, b in zip(got, wanted, strict=True))
    return base.judged(right, "" if right else "another output")


def _proposal(task: triplets.Task, run: tp.Any, read: tp.Any) -> base.Verdict:
    """Raises: ValueError for what makes it no task."""
    inputs = [read(text) for text in task["inputs"]]
    if len({repr(i) for i in inputs}) < len(inputs):
        raise ValueError("an input occurs twice")
    outputs = run(task["program"], inputs)
    if outputs != run(task["program"], inputs):
        raise ValueError("another output when run again")
    texts = [str(o) if isinstance(o, fractions.Fraction) else repr(o) for o in outputs]
    for text, output in zip(texts, outputs, strict=True):
        if output is None or read(text) != output:
            raise ValueError("no output that can be written down")
    detail = json.dumps(texts)
    if len(detail) > 4 * LONGEST:
        raise ValueError("outputs that are too long")
    return base.judged(True, detail)


def _number(text: str) -> fractions.Fraction:
    """A number that is written out; an expression would be its own answer."""
    value = number.to_fraction(text) if len(text) <= LONGEST else None
    if value is None:
        raise ValueError("not a number")
    return value


def _arithmetic(program: str, inputs: list[fractions.Fraction]) -> list[fractions.Fraction]:
    return [calculator.evaluate(program, {"x": value}) for value in inputs]


def _literal(text: str) -> tp.Any:
    """Python literals, separated by commas as arguments are: one value, or a tuple of several."""
    if len(text) > LONGEST:
        raise ValueError(f"more than {LONGEST} characters")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise ValueError("not Python literals") from None


class _Python:
    """Runs functions f in the sandbox."""

    def __init__(self, tier: str, limits: host.Limits):
        self._tier, self._limits = tier, limits

    def __call__(self, program: str, inputs: list[tp.Any]) -> list[tp.Any]:
        """f of every input. Raises: ValueError with the reason why there is no output."""
        _check(program)
        with host.Session(self._tier, self._limits) as session:
            try:
                session.load([program], "f")
                return [session.call(_arguments(i), {}) for i in inputs]
            except Exception as e:  # whatever the program raises
                raise ValueError(f"{type(e).__name__}: {e}") from e


def _arguments(value: tp.Any) -> tuple[tp.Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _check(program: str) -> None:
    """Raises: ValueError for a program that uses what it should not."""
    try:
        nodes = list(ast.walk(ast.parse(program)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("not a Python program") from None
    used: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            used |= {alias.name.partition(".")[0] for alias in node.names} & BANNED
        elif isinstance(node, ast.ImportFrom):
            used |= {(node.module or "").partition(".")[0]} & BANNED
        elif isinstance(node, ast.Name):
            used |= {node.id} & _CALLS
    if used:
        raise ValueError(f"uses {', '.join(sorted(used))}")
