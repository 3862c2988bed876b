"""The code verifier: which problems it takes, how results are compared, and through the pool."""

from __future__ import annotations

import json

import hypothesis
import hypothesis.strategies as st
import pytest

from rlpt.tasks import base as tasks_base
from rlpt.tasks import files
from rlpt.verifiers import base, code, pool
from rlpt.verifiers.sandbox import host

SQUARE = "def f(x): return x * x"
ASSERTS = ["assert f(3) == 9", "assert f(4) == 16"]


def problem(answer, **meta):
    return tasks_base.Prompt("p", tasks_base.chat("?"), answer, meta)


def judge(program, answer, *, meta=None, **settings):
    settings = {"extract": "whole", "seconds": 10.0} | settings
    return code.code(base.Trajectory(program), problem(answer, **meta or {}), **settings)


def fenced(program, language="python"):
    return f"Here it is:\n```{language}\n{program}\n```\nDone."


# ---- what is taken for the program


@pytest.mark.parametrize(
    ("text", "extract", "program"),
    [
        (fenced("a = 1"), "fence", "a = 1\n"),
        (fenced("a = 1", ""), "fence", "a = 1\n"),
        (fenced("a = 1") + fenced("b = 2"), "fence", "b = 2\n"),
        ("```python\nx = '''```'''\n```", "fence", "x = '''```'''\n"),
        ("a = 1", "fence", None),
        ("```python\na = 1", "fence", None),
        ("", "whole", None),
        ("a = 1", "whole", "a = 1"),
        ("a = 1", "auto", "a = 1"),
        (fenced("a = 1"), "auto", "a = 1\n"),
    ],
)
def test_extraction(text, extract, program):
    assert code._program(text, extract) == program


def test_no_program_is_unparsable():
    verdict = judge("I cannot.", ASSERTS, extract="fence")
    assert (verdict.score, verdict.outcome) == (None, "unparsable")


# ---- asserts


def test_asserts():
    assert judge(SQUARE, ASSERTS) == base.Verdict(1.0, "correct", "2 tests")
    for program, failure in (
        ("def f(x): return 9", "passed 1 of 2: AssertionError"),
        ("def g(x): return x * x", "passed 0 of 2: NameError: no function 'f'"),
        ("f = 9", "passed 0 of 2: NameError: no function 'f'"),
        ("def f(x) return", "passed 0 of 2: SyntaxError"),
        ("def f(): return 9", "passed 0 of 2: TypeError"),
        ("def f(x): return 1 / 0", "passed 0 of 2: ZeroDivisionError"),
    ):
        verdict = judge(program, ASSERTS)
        assert (verdict.score, verdict.outcome) == (0.0, "incorrect"), f"{program}: {verdict}"
        assert verdict.detail.startswith(failure), verdict


def test_a_result_that_is_too_deep_to_give_back_is_wrong():
    for depth in (59, 60, 63):
        program = f"def f(x):\n v = []\n for _ in range({depth}): v = [v]\n return v"
        assert judge(program, ["assert f(f(1)) == 1"]).outcome == "incorrect", depth


def test_a_candidate_cannot_write_into_the_log():
    verdict = judge("def f(x): raise ValueError('\\x1b[2J\\n\\ud800 passed')", ASSERTS)
    assert verdict.detail.isascii() and verdict.detail.isprintable(), repr(verdict.detail)
    assert "passed 0 of 2: ValueError: \\x1b[2J" in verdict.detail, verdict


def test_partial_scores():
    verdict = judge("def f(x): return 16", ASSERTS, partial=True)
    assert (verdict.score, verdict.outcome) == (0.5, "incorrect"), verdict
    assert judge("def f(x): return 16", ASSERTS).score == 0.0


def test_setup_and_other_imports_belong_to_the_tests():
    tests = ["import math\nassert math.isclose(f(R), 4 * PI)"]
    meta = {"test_setup_code": "PI = 3\nR = 2"}
    assert judge("def f(r): return 3.0 * r * r", tests, meta=meta).outcome == "correct"
    assert judge("PI = R = 0\ndef f(r): return 1", tests, meta=meta).outcome == "incorrect"


def test_what_tests_catch_is_no_pass():
    """A test may expect an exception; a process that ended is not one."""
    tests = ["try:\n y = f(-1)\n raise RuntimeError\nexcept ValueError:\n assert f(4) == 2"]
    right = "def f(x):\n if x < 0: raise ValueError('negative')\n return int(x ** 0.5)"
    assert judge(right, tests).outcome == "correct"
    swallowing = ["try:\n    y = f(3)\nexcept BaseException:\n    y = 9\nassert y == 9"]
    verdict = judge("import os\ndef f(x): os._exit(0)", swallowing)
    assert verdict.outcome == "incorrect" and "code 0" in verdict.detail, verdict


HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "from typing import List\n\ndef twice(x: int) -> int:\n    return 2 * x\n\n\n"
    'def f(xs: List[int]) -> List[int]:\n    """Each of them twice.\n    >>> f([1])\n    [2]\n'
    '    """\n',
    "entry_point": "f",
    "canonical_solution": "    return [twice(x) for x in xs]\n",
    "test": "METADATA = {'author': 'x'}\n\ndef check(candidate):\n"
    "    assert candidate([1, 2]) == [2, 4]\n"
    "    assert candidate([twice(3)]) == [12], 'helper'\n"
    "    for i in range(3):\n        assert candidate([i]) == [2 * i]\n",
}


def load(tmp_path, row, layout, **settings):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (prompt,) = files.jsonl("train", path=str(path), layout=layout, **settings)
    return prompt


def test_humaneval(tmp_path):
    meta = ("entry_point", "prompt", "canonical_solution")
    prompt = load(tmp_path, HUMANEVAL, "humaneval", meta=meta)
    code._gold(prompt, seconds=10.0)
    whole = "def f(xs: List[int]):\n    return [x + x for x in xs]"
    for text, outcome in (
        (HUMANEVAL["canonical_solution"], "correct"),
        (whole, "correct"),
        (HUMANEVAL["prompt"] + HUMANEVAL["canonical_solution"], "correct"),
        (HUMANEVAL["prompt"], "incorrect"),
        ("    return xs", "incorrect"),
        ("    return twice(xs)", "incorrect"),
        # the helper of the tests is theirs
        ("    return xs\n\ndef twice(x): return x", "incorrect"),
    ):
        verdict = code.code(base.Trajectory(text), prompt, extract="whole", seconds=10.0)
        assert verdict.outcome == outcome, f"{text!r}: {verdict}"


MBPP = {
    "task_id": 2,
    "text": "Write a function to find the shared elements of two lists.",
    "code": "def similar_elements(a, b):\r\n  return tuple(sorted(set(a) & set(b)))",
    "test_list": [
        "assert similar_elements((3, 4, 5, 6),(5, 7, 4, 10)) == (4, 5)",
        "assert set(similar_elements((1, 2),(2,))) == {2}",
    ],
    "test_setup_code": "",
}


def test_mbpp(tmp_path):
    prompt = load(tmp_path, MBPP, "mbpp", meta=("test_setup_code", "code"))
    code._gold(prompt, seconds=10.0)
    verdict = code.code(base.Trajectory(fenced(MBPP["code"])), prompt, seconds=10.0)
    assert verdict.outcome == "correct", verdict
    lists = "def similar_elements(a, b): return sorted(set(a) & set(b))"
    for compare in code.COMPARE:  # a list is no tuple for Python either
        verdict = code.code(base.Trajectory(fenced(lists)), prompt, compare=compare, seconds=10.0)
        assert verdict.outcome == "incorrect", verdict


def test_a_solution_that_fails_its_own_tests_is_found(tmp_path):
    prompt = load(tmp_path, MBPP | {"code": "def similar_elements(a, b): return 0"}, "mbpp",
                  meta=("code", "test_setup_code"))  # fmt: skip
    with pytest.raises(ValueError, match="its own solution fails: passed 0 of 2: AssertionError"):
        code._gold(prompt, seconds=10.0)


# ---- which problems can be split


@pytest.mark.parametrize(
    ("tests", "meta", "reason"),
    [
        (["assert f([Pair(1, 2)]) == 1"], {}, "use Pair, f of the candidate"),
        (["assert f([Pair(1, 2)]) == 1"], {"entry_point": "f"}, "use Pair, which neither"),
        (["assert f(lambda x: x) == 1"], {}, "a value of type function"),
        (["assert f(iter([1])) == 1"], {}, "list_iterator"),
        (["x = [2, 1]\nf(x)\nassert x == [1, 2]"], {}, "what a call changes"),
        (["assert f.__doc__"], {}, "the attribute '__doc__'"),
        (["def check(candidate):\n    assert candidate.calls == 0"], {"entry_point": "f"},
         "the attribute 'calls'"),
        (["f(1)"], {}, "a test without an assert"),
        (["assert 1 == 1"], {}, "use nothing of the candidate"),
        (["assert f(1) == 1", "assert 1 == 1"], {}, "does not use f"),
        (["assert f(1) =="], {}, "answer: not Python"),
        (["assert f(1) == 1"], {"test_setup_code": "1 +"}, "test_setup_code: not Python"),
        ([], {}, "expected a text or a list of texts"),
        (7, {}, "expected a text or a list of texts"),
        ("{1", {}, "starts as JSON"),
        ({"inputs": [], "outputs": []}, {}, "of one length, not empty"),
        ({"inputs": ["1"], "outputs": []}, {}, "of one length"),
        ({"inputs": [1], "outputs": ["1"]}, {}, "are texts"),
        ({"fn_name": "f", "inputs": [1], "outputs": [1]}, {}, "a list of arguments"),
    ],
)  # fmt: skip
def test_what_cannot_be_split_is_refused(tests, meta, reason):
    with pytest.raises(ValueError, match=reason):
        code._gold(problem(tests, **meta))


def test_tests_that_turn_out_not_to_work_are_no_verdict():
    """Behind what was tried at load."""
    verdict = judge(SQUARE, ["assert f(3) == 9\nassert f(len) == 0"])
    assert verdict.outcome == "invalid" and "builtin_function" in verdict.detail, verdict
    verdict = judge(SQUARE, ["if False:\n    assert f(3) == 9"])
    assert verdict.outcome == "invalid" and "without a call" in verdict.detail, verdict
    verdict = judge(SQUARE, ["import no_such_module\nassert f(3) == 9"])
    assert verdict.outcome == "invalid" and "no_such_module" in verdict.detail, verdict


def test_settings_are_checked():
    for bad in ({"extract": "last"}, {"compare": "close"}, {"tier": "docker"}, {"seconds": 0.0}):
        with pytest.raises(ValueError, match="expected"):
            judge(SQUARE, ASSERTS, **bad)
    with pytest.raises(ValueError, match="a list of one"):
        code._gold(problem({"fn_name": "f", "inputs": [[1]], "outputs": [1]}), unwrap=True)


# ---- comparison


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (1, 1, True),
        (1, True, False),
        (1, 1.0, False),
        (0.0, -0.0, True),
        (float("nan"), float("nan"), False),
        ((1, 2), [1, 2], False),
        ([1, [True]], [1, [1]], False),
        ({1, 2}, {2, 1}, True),
        ({1}, {True}, False),
        ({1}, {1, 2}, False),
        ({(1, 2)}, {(1, 2.0)}, False),
        ({frozenset({1})}, {frozenset({True})}, False),
        ({1: "a"}, {True: "a"}, False),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1, "b": (2,)}, {"b": (2,), "a": 1}, True),
        ("1", 1, False),
        ("a", b"a", False),
        (None, False, False),
    ],
)
def test_exact_comparison(a, b, same):
    assert code._same(a, b) == same and code._same(b, a) == same


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(-2, 2) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers(0, 2) | st.booleans() | st.text("a"), inner, max_size=3)
    ),
    max_leaves=6,
)


@hypothesis.given(VALUES, VALUES)
def test_exact_equality_is_equality_with_equal_types(a, b):
    assert code._same(a, a) and code._same(a, b) == code._same(b, a)
    assert not code._same(a, b) or a == b


def test_exact_and_python_comparison_of_asserts():
    for program, exact, python in (
        ("def f(x): return x == 1", "incorrect", "correct"),
        ("def f(x): return float(x)", "incorrect", "correct"),
        ("def f(x): return x", "correct", "correct"),
        ("def f(x): return str(x)", "incorrect", "incorrect"),
    ):
        for compare, outcome in (("exact", exact), ("python", python)):
            verdict = judge(program, ["assert f(1) == 1"], compare=compare)
            assert verdict.outcome == outcome, f"{program}, {compare}: {verdict}"
    assert judge("def f(x): return True", ["assert f(1) != 1"]).outcome == "correct"
    assert judge("def f(x): return 1", ["assert not f(1) != 1"]).outcome == "correct"


@pytest.mark.parametrize(
    ("got", "wanted", "tolerance", "same"),
    [
        ("4\n", "4", 0.0, True),
        ("4  \n5\n\n", "4\n5", 0.0, True),
        ("4 5", "4\n5", 0.0, False),
        ("", "4", 0.0, False),
        ("4.0", "4", 0.0, False),
        ("0.3333", "0.333333", 1e-3, True),
        ("0.3333", "0.333333", 1e-6, False),
        ("nan", "1", 1e9, False),
        ("inf", "1", 1e9, False),
        ("1 yes", "1.0 yes", 1e-6, True),
        ("1 yes", "1.0 no", 1e-6, False),
        ("1\n2", "1", 1e-6, False),
        ("1 2", "1", 1e-6, False),
    ],
)
def test_outputs(got, wanted, tolerance, same):
    assert code._same_output(got, wanted, tolerance) == same


# ---- inputs and outputs


def test_programs():
    answer = {"inputs": ["2\n", "3\n"], "outputs": ["4\n", "9\n"]}
    square = "n = int(input())\nprint(n * n)"
    for form in (answer, json.dumps(answer), {k: [[t] for t in v] for k, v in answer.items()}):
        assert judge(square, form) == base.Verdict(1.0, "correct", "2 tests"), form
    for program, failure in (
        ("print(4)", "passed 1 of 2: another output"),
        ("print(int(input()) ** 2)\nraise SystemExit(1)", "passed 0 of 2: Failed: ended with code"),
        ("print(int(input()) ** 2)\nwhile True: pass", "passed 0 of 2: Failed: no answer within"),
        ("while True: print(4)", "passed 0 of 2: Failed: more than 256 kB"),
        ("def f(:", "passed 0 of 2: Failed: ended with code 1"),
    ):
        verdict = judge(program, answer, seconds=1.5)
        assert verdict.outcome == "incorrect", f"{program}: {verdict}"
        assert verdict.detail.startswith(failure), f"{program}: {verdict}"
    assert judge("print(4)", answer, partial=True).score == 0.5


def test_all_inputs_share_the_time():
    answer = {"inputs": ["", "", "", ""], "outputs": ["1"] * 4}
    verdict = judge("import time\ntime.sleep(0.3)\nprint(1)", answer, seconds=0.7)
    assert verdict.outcome == "incorrect" and "no answer within" in verdict.detail, verdict
    assert verdict.detail[:11] in ("passed 1 of", "passed 2 of"), verdict


def test_functions_of_tables():
    answer = {"fn_name": "f", "inputs": [[1, 2], [3, 4]], "outputs": [[1, 2], [3, 4]]}
    for program in (
        "def f(a, b): return [a, b]",
        "def f(a, b): return a, b",
        "class Solution:\n    def f(self, a, b): return [a, b]",
    ):
        assert judge(program, answer).outcome == "correct", program
    for program in ("def f(a, b): return a", "def f(a): return [1, 2]", "def g(a, b): pass"):
        assert judge(program, answer).outcome == "incorrect", program
    wrapped = {"fn_name": "f", "inputs": [[3], [4]], "outputs": [[9], [16]]}
    assert judge(SQUARE, wrapped, unwrap=True).outcome == "correct"
    assert judge(SQUARE, wrapped).outcome == "incorrect"
    keys = {"fn_name": "f", "inputs": [[]], "outputs": [{"1": "a"}]}
    assert judge("def f(): return {1: 'a'}", keys).outcome == "correct", "JSON's keys are texts"


# ---- through the pool


def test_in_the_pool(tmp_path):
    prompts = [problem(ASSERTS), problem({"inputs": ["2"], "outputs": ["4"]})]
    texts = [SQUARE, "print(int(input()) ** 2)", "import os\nos._exit(0)", "while True: pass", "?"]
    rows = [(fenced(t), p) for t in texts for p in prompts] + [("none", p) for p in prompts]
    spec = dict(fn="code.code", name="code", seconds=1.0)
    with pool.VerifierPool((spec,), workers=1, deadline=20.0) as workers:
        workers.check_gold(prompts)
        verdicts = workers.verify([base.Trajectory(t) for t, _ in rows], [p for _, p in rows])
        with pytest.raises(tasks_base.TaskError) as refused:
            workers.check_gold([*prompts, problem(["assert f(lambda: 0) == 0"]), problem("f(1)")])
    got = [v["code"].outcome for v in verdicts]
    assert got[:4] == ["correct", "incorrect", "incorrect", "correct"], verdicts
    assert got[4:] == ["incorrect"] * 6 + ["unparsable"] * 2, verdicts
    assert "2 references cannot be read" in str(refused.value), "counted"
    assert "a value of type function" in str(refused.value), "and why"


def test_a_run_without_isolation_does_not_start(monkeypatch):
    reasons = {"bwrap": "not installed", "unshare": "not permitted", "rlimit": ""}
    monkeypatch.setattr(host, "available", lambda: reasons)
    with pytest.raises(host.SandboxError, match="not permitted"):
        code._prepare(tier="auto", seconds=1.0)
    code._prepare(tier="any")
    with pytest.raises(pool.VerifierError, match="expected auto, any, bwrap, unshare, rlimit"):
        pool.VerifierPool((dict(fn="code.code", name="code", tier="docker"),), workers=1)


@hypothesis.settings(max_examples=1000)
@hypothesis.given(st.text() | st.text("`\n python:()=[]{}").map(fenced))
def test_any_text_has_a_program_or_none(text):
    for extract in code.EXTRACT:
        found = code._program(text, extract)
        assert found is None or found in text


# Lines that make programs of many kinds, most of them broken.
LINES = st.lists(
    st.sampled_from(
        ["def f(x):", "    return x * x", "    return x", "    yield x", "import sys", "f = None",
         "class Solution:", "    def f(self, x): return x", "    raise ValueError(x)", "print(3)",
         "    return {x: [x]}", "    return f(x - 1) if x else 0", "f = lambda x: (x,)", "1 / 0",
         "    return b'\\xff'", "    return float('inf')", "    return 10 ** 5000", "    return f",
         "sys.exit(0)", "\ud800", "\0", "```", "    import gc; return gc.get_objects()"]
    ) | st.text(max_size=12),
    max_size=5,
).map("\n".join)  # fmt: skip


def check_any_completion(text):
    verdict = code.code(base.Trajectory(text), problem(ASSERTS), extract="auto", seconds=1.0)
    valid = base.validated(verdict.score, verdict.outcome, verdict.detail, 0.0, 1.0)
    assert valid.outcome == verdict.outcome, f"{text!r}: {verdict}"
    assert verdict.outcome in ("correct", "incorrect", "unparsable"), f"{text!r}: {verdict}"


@hypothesis.settings(max_examples=40)
@hypothesis.given(LINES)
def test_any_completion_has_an_outcome(text):
    check_any_completion(text)


@pytest.mark.slow
@hypothesis.settings(max_examples=1000)
@hypothesis.given(LINES)
def test_a_thousand_completions_have_outcomes(text):
    check_any_completion(text)
