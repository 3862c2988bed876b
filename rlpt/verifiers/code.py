"""Runs code that a completion holds against the tests of its problem, in a sandbox.

The tests run in this process, which the policy has no access to, and the candidate's
function is a call into the sandbox: it sees arguments, never an expected result, and what it
returns is a claim made of built-in values.  So a problem is usable where its tests reach the
candidate through plain data alone; any other is refused when the references are read.

Three forms of tests, as `Prompt.answer`:

  asserts, a text or a list of texts, each one test: MBPP's test_list; HumanEval's test, which
    defines check(candidate).  Prompt.meta may have entry_point (default: the one name that the
    tests call and nobody defines), test_setup_code, and prompt, the beginning of the program.
  {"inputs": [text, ...], "outputs": [text, ...]}, or that as JSON text: a program that reads
    stdin, as in APPS and CodeContests.
  {"fn_name": name, "inputs": [[argument, ...], ...], "outputs": [result, ...]}: a function, or
    a method of a class Solution, as in APPS.

Chen et al., "Evaluating Large Language Models Trained on Code", arXiv 2107.03374 (HumanEval);
Austin et al., "Program Synthesis with Large Language Models", arXiv 2108.07732 (MBPP);
Hendrycks et al., "Measuring Coding Challenge Competence With APPS", arXiv 2105.09938.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import contextlib
import dataclasses
import json
import math
import re
import time
import typing as tp

from rlpt.tasks import base as tasks_base
from rlpt.verifiers import base
from rlpt.verifiers._values import same as _same
from rlpt.verifiers.sandbox import guest, host

MAX_SOURCE = 50_000  # characters of a candidate's program
EXTRACT = ("fence", "whole", "auto")
COMPARE = ("exact", "python")
_REFERENCES = ("code", "canonical_solution")  # in Prompt.meta: a solution, which has to pass
_FENCE = re.compile(r"^```[^`\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)

Same = collections.abc.Callable[[tp.Any, tp.Any], bool]


class Unsplittable(ValueError):
    """A problem whose tests need more of the candidate than plain arguments and results."""


def _prepare(*, tier: str = "auto", **_: tp.Any) -> dict[str, tp.Any]:
    """Chooses the sandbox; what a run records of it."""
    return {"sandbox": host.choose(tier), **host.rights()}


def _gold(prompt: tasks_base.Prompt, **settings: tp.Any) -> None:
    """Raises ValueError for a problem that cannot be split, or that its own solution fails."""
    problem = _problem(prompt, settings.get("unwrap", False))
    _check_settings(**{k: v for k, v in settings.items() if k in ("extract", "compare")})
    if isinstance(problem, _Asserts):
        problem.rehearse()
    for name in _REFERENCES:
        if prompt.meta.get(name):
            verdict = code(
                base.Trajectory(str(prompt.meta[name])), prompt, **settings | {"extract": "whole"}
            )
            if verdict.outcome != "correct":
                raise ValueError(f"its own solution fails: {verdict.detail}")


@base.traits(pure=True, gold=_gold, reads=False)
def code(
    trajectory: base.Trajectory,
    prompt: tasks_base.Prompt,
    *,
    extract: str = "fence",
    tier: str = "auto",
    compare: str = "exact",
    tolerance: float = 0.0,
    partial: bool = False,
    unwrap: bool = False,
    seconds: float = 2.0,
    memory_mb: int = 512,
) -> base.Verdict:
    """Whether the completion's program passes all tests.

    Whatever the program does to itself (no end, too much memory or output, a crash, an exit) is
    incorrect, not a missing verdict: else it would pay to crash rather than to be wrong.

    Args:
      extract: where the program is: "fence": in the last ```fenced``` block; "whole": the
        completion; "auto": the block, or else the completion.
      tier: the sandbox: "auto" the best that isolates, "bwrap", "unshare"; "rlimit" or "any" for
        limits alone, which isolate nothing that the sandbox's user can read.
      compare: "exact": results have the type of what is expected all the way down (1 is not
        True, nor 1.0, nor (1,) [1]); "python": by == on built-in values.  A list that is expected
        in JSON is also matched by a tuple, which JSON lacks.
      tolerance: for programs: numbers in the output may differ by this, absolutely or relatively.
      partial: the score is the share of passed tests; the outcome is correct only for all.
      unwrap: of {"fn_name"} problems: results stand in a list of one, as in much of APPS.
      seconds: wall time for all tests together, without the start of the sandboxes (one for a
        function, one for each input of a program), for which the pool's deadline leaves room.
      memory_mb: memory.
    Returns: correct or incorrect; unparsable without a program; invalid where the tests turn out
      to need more than plain data.
    Raises: ValueError for a bad setting or problem; SandboxError where the tier does not work.
    """
    _check_settings(extract=extract, compare=compare)
    problem = _problem(prompt, unwrap)
    source = _program(trajectory.text, extract)
    if source is None:
        return base.unparsable(f"no program ({extract})")
    if len(source) > MAX_SOURCE:
        return base.judged(False, f"a program of {len(source)} characters")
    # A module of two halves: where the completion goes on from the prompt, and where it is whole.
    beginning = prompt.meta.get("prompt") or ""
    sources = [f"{beginning}\n{source}", source] if beginning else [source]
    limits = host.Limits(seconds=seconds, memory_mb=memory_mb)
    same = _same if compare == "exact" else lambda a, b: bool(a == b)
    try:
        passed, total, detail = problem.judge(
            sources, host.choose(tier), limits, same, partial, tolerance
        )
    except Unsplittable as e:
        return base.Verdict(None, "invalid", str(e))
    if passed == total:
        return base.judged(True, f"{total} tests")
    score = passed / total if partial else 0.0
    return base.Verdict(score, "incorrect", f"passed {passed} of {total}: {detail}")


def _check_settings(extract: str = "fence", compare: str = "exact") -> None:
    for name, value, allowed in (("extract", extract, EXTRACT), ("compare", compare, COMPARE)):
        if value not in allowed:
            raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(allowed)}")


def _program(text: str, extract: str) -> str | None:
    if extract != "whole":
        blocks = _FENCE.findall(text)
        if blocks or extract == "fence":
            return blocks[-1] if blocks else None
    return text if text.strip() else None


# ---- comparison


def _untupled(value: tp.Any) -> tp.Any:
    """A value as JSON would have kept it: lists for tuples, text for the keys of dicts."""
    if isinstance(value, list | tuple):
        return [_untupled(v) for v in value]
    if isinstance(value, dict):
        return {k if type(k) is str else json.dumps(k): _untupled(v) for k, v in value.items()}
    return value


def _same_output(got: str, wanted: str, tolerance: float) -> bool:
    """Whether a program's output is the expected one, but for blanks at the ends of lines."""
    a, b = ([line.split() for line in text.rstrip().splitlines()] for text in (got, wanted))
    if not tolerance:
        return [line.rstrip() for line in got.rstrip().splitlines()] == [
            line.rstrip() for line in wanted.rstrip().splitlines()
        ]
    return len(a) == len(b) and all(
        len(x) == len(y) and all(_close(s, t, tolerance) for s, t in zip(x, y, strict=True))
        for x, y in zip(a, b, strict=True)
    )


def _close(got: str, wanted: str, tolerance: float) -> bool:
    if got == wanted:
        return True
    try:
        a, b = float(got), float(wanted)
    except ValueError:
        return False
    return math.isfinite(a) and math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)


# ---- problems

Judged = tuple[int, int, str]  # tests passed, tests, what the first failure was


def _problem(prompt: tasks_base.Prompt, unwrap: bool) -> _Asserts | _Table:
    """Raises: ValueError for what has none of the forms."""
    answer = prompt.answer
    if isinstance(answer, str) and answer.lstrip().startswith("{"):
        try:
            answer = json.loads(answer)
        except ValueError as e:
            raise ValueError(f"answer: starts as JSON, but {e}") from e
    if isinstance(answer, dict):
        return _Table(answer, unwrap)
    tests = [answer] if isinstance(answer, str) else answer
    if not (isinstance(tests, list) and tests and all(type(t) is str for t in tests)):
        raise ValueError(
            f"answer: got {answer!r:.80}, expected a text or a list of texts with asserts, or "
            '{"inputs": [...], "outputs": [...]}'
        )
    return _Asserts(tests, prompt.meta)


class _Table:
    """Inputs and outputs of a program or, with fn_name, of a function."""

    def __init__(self, answer: dict[str, tp.Any], unwrap: bool):
        inputs, outputs = answer.get("inputs"), answer.get("outputs")
        self.name = answer.get("fn_name") or ""
        if (
            not (isinstance(inputs, list) and isinstance(outputs, list) and inputs)
            or len(inputs) != len(outputs)
            or not isinstance(self.name, str)
        ):
            raise ValueError(
                f"answer: got {answer!r:.80}, expected {{'inputs': [...], 'outputs': [...]}} of "
                "one length, not empty, and perhaps 'fn_name'"
            )
        if self.name:
            if not all(isinstance(i, list) for i in inputs):
                raise ValueError("answer: with fn_name, each of the inputs is a list of arguments")
            if unwrap:
                if not all(isinstance(o, list) and len(o) == 1 for o in outputs):
                    raise ValueError("answer: with unwrap, each of the outputs is a list of one")
                outputs = [o[0] for o in outputs]
        else:  # some data sets have lists of lines
            inputs, outputs = (
                ["\n".join(map(str, t)) if isinstance(t, list) else t for t in texts]
                for texts in (inputs, outputs)
            )
            if not all(isinstance(t, str) for t in (*inputs, *outputs)):
                raise ValueError("answer: without fn_name, inputs and outputs are texts")
        self.rows = list(zip(inputs, outputs, strict=True))

    def judge(
        self,
        sources: list[str],
        tier: str,
        limits: host.Limits,
        same: Same,
        partial: bool,
        tolerance: float,
    ) -> Judged:
        """Runs the tests, up to the first that fails unless partial."""
        run = self._function if self.name else self._programs
        passed, detail = 0, ""
        with contextlib.closing(run(sources, tier, limits, same, tolerance)) as failures:
            for failure in failures:
                passed += not failure
                detail = detail or failure
                if failure and not partial:
                    break
        return passed, len(self.rows), detail

    def _function(
        self, sources: list[str], tier: str, limits: host.Limits, same: Same, tolerance: float
    ) -> collections.abc.Generator[str, None, None]:
        with host.Session(tier, limits) as session:
            try:
                session.load(sources, self.name)
            except Exception as e:
                session.failure = session.failure or _told(e)
            for args, wanted in self.rows:
                try:
                    got = session.call(tuple(args), {})
                    yield "" if same(_untupled(got), wanted) else "another result"
                except Exception as e:
                    yield _told(e)

    def _programs(
        self, sources: list[str], tier: str, limits: host.Limits, same: Same, tolerance: float
    ) -> collections.abc.Generator[str, None, None]:
        left = limits.seconds
        for stdin, wanted in self.rows:
            with host.Session(
                tier, dataclasses.replace(limits, seconds=max(left, 0.01))
            ) as session:
                start = time.monotonic()
                try:
                    got = session.run(sources[-1], stdin)
                    failure = "" if _same_output(got, wanted, tolerance) else "another output"
                except host.Failed as e:
                    failure = _told(e)
                left -= time.monotonic() - start
            yield failure


class _Asserts:
    """Tests written as asserts, which run here; the candidate's function is a stand-in."""

    def __init__(self, tests: list[str], meta: dict[str, tp.Any]):
        setup = str(meta.get("test_setup_code") or "")
        beginning = str(meta.get("prompt") or "")
        self.setup = [_parsed(setup, "test_setup_code")] if setup else []
        with_helpers = _parsed(beginning, "") if beginning else None  # not all are Python
        self.tests = [_parsed(test, "answer") for test in tests]
        self.checks = any(
            isinstance(node, ast.FunctionDef) and node.name == "check"
            for test in self.tests
            for node in test.body
        )
        self.name = str(meta.get("entry_point") or "")
        known = set(vars(builtins)) | {"__name__"}
        for tree in (*self.setup, *self.tests, *filter(None, [with_helpers])):
            known |= _bound(tree)
        free = {name for test in self.tests for name in _free(test) if name not in known}
        if not self.name and len(free) != 1:
            raise Unsplittable(
                f"the tests use {', '.join(sorted(free)) or 'nothing'} of the candidate, expected "
                "one function; where it is another, name it as entry_point"
            )
        self.name = self.name or free.pop()
        if free - {self.name}:
            raise Unsplittable(
                f"the tests use {', '.join(sorted(free - {self.name}))}, which neither they nor "
                f"the setup defines, beside the function {self.name}"
            )
        if with_helpers:  # what the problem's text defines for its tests, not what is asked for
            with_helpers.body = [
                node
                for node in with_helpers.body
                if not (isinstance(node, ast.FunctionDef) and node.name == self.name)
            ]
            self.setup.append(with_helpers)
        for test in self.tests:
            self._check(test)

    def _check(self, test: ast.Module) -> None:
        """Raises: Unsplittable for what shows that more than calls with data are needed."""
        names = {self.name}
        for node in test.body:
            if isinstance(node, ast.FunctionDef) and node.name == "check" and node.args.args:
                names.add(node.args.args[0].arg)
        nodes = list(ast.walk(test))
        if not any(isinstance(n, ast.Assert) for n in nodes):
            raise Unsplittable("a test without an assert")
        if not any(isinstance(n, ast.Name) and n.id in names for n in nodes):
            raise Unsplittable(f"a test that does not use {self.name}")
        for n in nodes:
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name):
                if n.value.id in names:
                    raise Unsplittable(f"the tests look at the attribute {n.attr!r} of a function")
            call = n.value if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call) else None
            if call and isinstance(call.func, ast.Name) and call.func.id in names:
                raise Unsplittable("the tests look at what a call changes, not at its result")

    def rehearse(self) -> None:
        """Runs the tests up to their first assert. Raises: Unsplittable for its arguments."""
        for index in range(len(self.tests)):
            candidate = _StandIn(lambda args, kwargs: None)
            with contextlib.suppress(Exception):
                self._run(index, candidate, _same)
            if candidate.unsplittable:
                raise Unsplittable(candidate.unsplittable)

    def _run(self, index: int, function: tp.Any, same: Same) -> None:
        """Runs one test with a function in the candidate's place. Raises what the test raises."""
        names: dict[str, tp.Any] = {"__name__": "tests", "_same": same}
        for tree in self.setup:
            exec(compile(tree, "setup", "exec"), names)
        names[self.name] = function
        test = _exact(self.tests[index])
        exec(compile(test, "tests", "exec", optimize=0), names)  # under python -O too
        if self.checks:
            names["check"](function)

    def judge(
        self,
        sources: list[str],
        tier: str,
        limits: host.Limits,
        same: Same,
        partial: bool,
        tolerance: float,
    ) -> Judged:
        """Runs the tests, up to the first that fails unless partial."""
        passed, detail = 0, ""
        with host.Session(tier, limits) as session:
            try:
                session.load(sources, self.name)
            except Exception as e:
                return 0, len(self.tests), _told(e)
            for index in range(len(self.tests)):
                candidate = _StandIn(session.call)
                try:
                    self._run(index, candidate, same)
                    failure = session.failure  # a test may have caught what a call raised
                except Exception as e:
                    failure = session.failure or _told(e)
                if candidate.unsplittable:
                    raise Unsplittable(candidate.unsplittable)
                if not candidate.calls:
                    raise Unsplittable(f"the tests end without a call of the candidate: {failure}")
                passed += not failure
                detail = detail or failure
                if failure and not partial:
                    break
        return passed, len(self.tests), detail


class _StandIn:
    """What the tests call in place of the candidate's function."""

    def __init__(self, call: collections.abc.Callable[..., tp.Any]):
        self._call = call
        self.calls = 0
        self.unsplittable = ""

    def __call__(self, *args: tp.Any, **kwargs: tp.Any) -> tp.Any:
        self.calls += 1
        try:
            guest.encode([args, kwargs])
        except (TypeError, ValueError) as e:
            self.unsplittable = f"an argument is {e}"
            raise
        return self._call(args, kwargs)


def _told(error: Exception) -> str:
    """An exception for people, on one line of ASCII; its text may be the candidate's."""
    text = f"{type(error).__name__}: {error}"[:200].rstrip(": ")
    return text.encode("unicode_escape").decode("ascii")


def _parsed(text: str, where: str) -> ast.Module:
    """Raises: ValueError where it is no Python; with where "" it is empty then."""
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as e:
        if not where:
            return ast.Module([], [])
        raise ValueError(f"{where}: not Python: {e}") from e


def _bound(tree: ast.AST) -> set[str]:
    """The names that a piece of code gives a meaning, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
    return found


def _free(tree: ast.AST) -> set[str]:
    """The names that a piece of code reads."""
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


class _Exact(ast.NodeTransformer):
    """a == b becomes _same(a, b), and a != b the opposite."""

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) != 1 or not isinstance(node.ops[0], ast.Eq | ast.NotEq):
            return node
        made: ast.expr = ast.Call(
            ast.Name("_same", ast.Load()), [node.left, node.comparators[0]], []
        )
        if isinstance(node.ops[0], ast.NotEq):
            made = ast.UnaryOp(ast.Not(), made)
        return ast.copy_location(made, node)


def _exact(test: ast.Module) -> ast.Module:
    copy = ast.parse(ast.unparse(test))
    return ast.fix_missing_locations(_Exact().visit(copy))
