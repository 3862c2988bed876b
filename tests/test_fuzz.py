"""Ten thousand completions made to confuse verifiers: none may get out, and the harness can fail.

Golds with letters changed, random Unicode, control characters, enormous numbers, deep nesting and
what is known to run away, from a seed; and what hypothesis thinks of.
"""

from __future__ import annotations

import collections
import random
import sys
import time

import hypothesis
import hypothesis.strategies as st
import pytest

from rlpt import config
from rlpt.tasks import base as tasks_base
from rlpt.testing import faulty_judge
from rlpt.verifiers import base, math, pool
from tests import test_sandbox

TEXTS, PROGRAMS, FEW_PROGRAMS, ANSWERS = 10_000, 1_000, 100, 1_000
FINE = ("correct", "incorrect", "unparsable")
DEADLINE = 5.0  # seconds for a call; one that takes as long is a finding

# Math-Verify alone takes more than 12 s for each of the first five, seconds for the others.
RUNAWAY = (
    "10000000!", "9^{9^{9}}", "9^{9^{9^{9^{9}}}}", "(" * 2000 + "1" + ")" * 2000,
    r"\binom{10^8}{5\cdot10^7}", r"\frac{1}{" * 300 + "1" + "}" * 300,
    r"\sqrt{" * 300 + "2" + "}" * 300, "1" * 200_000, r"\{" + "1,2," * 3000 + r"3\}",
    r"\sum_{k=1}^{10^{10}} k", r"\int x^{x^{x^x}} dx", r"\frac{2^{2^{2^{2^2}}}}{3}", "((10!)!)!",
    "\\text{nan}", "1/2^{98}", "10^{-400}", "1e999999999", "0x" + "f" * 10_000,
)  # fmt: skip
GOLDS = (
    "12", "-5", "1,234", "0.5", "3/4", r"\frac{1}{2}", r"\sqrt{2}", "x^2+2x+1", r"\{1,2\}", "(1,2)",
    r"\pi", "2^{10}", "red", "B", "90^\\circ", "10\\%", "x=5", r"\frac{\sqrt{3}}{2}", "7", "1.25",
)  # fmt: skip
SHELLS = (
    "%s", r"\boxed{%s}", r"so \boxed{1} or \boxed{%s}", "<answer>%s</answer>", r"\boxed{%s",
    "The answer is (%s).", "<think>x</think><answer>%s</answer>", "7 + 5 = %s, thus",
    "<confidence>%s</confidence>", r"\fbox{$%s$}.", "I don't know, but %s",
)  # fmt: skip
ODD = (
    "\0\x07\x1b\x7f\u200b\u202e\u2066\ufeff\ufffe\ud800\udfff\U0010ffff\u0301\u0663\uff11\u00b2"
    "\u2212\u00d7\u2154\u5341{}[]()<>$\\^_%!~&#.,:;'\"|/+-*=eE0123456789 \n\t"
)


def mutated(rng: random.Random, text: str) -> str:
    """The text with some characters lost, doubled, exchanged or put in."""
    letters = list(text[:400])
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(letters) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            letters.insert(at, rng.choice(ODD))
        elif kind == 1 and at < len(letters):
            letters[at] = rng.choice(ODD)
        elif kind == 2:
            del letters[at : at + rng.randrange(1, 4)]
        else:
            letters[at:at] = letters[at : at + 8] * rng.randrange(1, 4)
    return "".join(letters)


def odd(rng: random.Random) -> str:
    """A text of random code points, surrogates and controls among them."""
    return "".join(
        rng.choice(ODD) if rng.random() < 0.5 else chr(rng.randrange(0x110000))
        for _ in range(rng.randrange(60))
    )


def enormous(rng: random.Random) -> str:
    """A number, or an expression of one, that is large, small or deep."""
    digits = "".join(rng.choice("0123456789") for _ in range(rng.choice((5, 60, 101, 600, 5000))))
    n = rng.choice((2, 33, 400, 3000))
    return rng.choice(
        (digits, f"-{digits}.{digits}", f"{digits}/{digits}", f"{digits}!", f"2^{{{digits}}}",
         f"{digits}e{digits}", "(" * n + "1" + ")" * n, "2^" * n + "2", "-" * n + "1", "1+" * n,
         r"\frac{1}{" * n + "2" + "}" * n, r"\boxed{" * n + "3" + "}" * n, "{" * n, "1," * n,
         "<answer>" * n + "4", "x" * n, f"\\sqrt[{digits}]{{2}}", rng.choice(RUNAWAY))
    )  # fmt: skip


def completion(rng: random.Random) -> str:
    gold = rng.choice(GOLDS)
    inside = rng.choice((gold, mutated(rng, gold), odd(rng), enormous(rng)))
    text = rng.choice(SHELLS).replace("%s", inside)
    return mutated(rng, text) if rng.random() < 0.2 else text


def thought_of(n: int) -> list[str]:
    """Texts of hypothesis, the same every time."""
    found: list[str] = []
    parts = st.text(max_size=30) | st.sampled_from((*GOLDS, *SHELLS, "\\boxed{", "</answer>", "!"))

    @hypothesis.settings(
        max_examples=n, derandomize=True, database=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(st.lists(parts, max_size=5).map("".join))
    def collect(text: str) -> None:
        found.append(text)

    collect()
    return found


def texts(n: int) -> list[str]:
    rng = random.Random(0)
    made = [*(s.replace("%s", a) for a in RUNAWAY for s in SHELLS), *thought_of(n // 10)]
    return made + [completion(rng) for _ in range(n - len(made))]


# Every verifier that reads text: its config, and the references that it takes.
VERIFIERS = (
    (dict(fn="number.number", name="number"), ("12", "-5", "3/4")),
    (dict(fn="number.number", name="boxed", extract="boxed", tolerance="0.01"), ("12", "0.5")),
    (dict(fn="math.math", name="math"), GOLDS),
    (dict(fn="math.math", name="tagged", extract="tag"), GOLDS),
    (dict(fn="choice.choice", name="choice"), ("A", "B", 2)),
    (dict(fn="choice.choice", name="letter", extract="boxed"), ("A", "B", 2)),
    (dict(fn="equations.equations", name="equations"), (None,)),
    (dict(fn="reasoning.patterns", name="reasoning"), (None,)),
    (dict(fn="confidence.confidence", name="confidence"), (None,)),
    (dict(fn="abstain.abstain", name="abstain"), (None,)),
    (dict(fn="pattern.format", name="format"), (None,)),
    (dict(fn="pattern.regex", name="regex", pattern=r"(?s)answer is (?P<answer>.*)"), ("12",)),
)  # fmt: skip


def verdicts_of(spec, golds, rows, places, **settings) -> list[base.Verdict]:
    """The verdicts on rows[i] for each of the places i, with the reference golds[i % len]."""
    prompts = [tasks_base.Prompt(f"p{g}", tasks_base.chat("?"), a) for g, a in enumerate(golds)]
    settings = dict(workers=2, deadline=DEADLINE, batch_deadline=300.0, recycle=10**6) | settings
    with pool.VerifierPool((spec,), **settings) as p:
        trajectories = [base.Trajectory(rows[i]) for i in places]
        judged = p.verify(trajectories, [prompts[i % len(golds)] for i in places])
    return [v[spec["name"]] for v in judged]


Seen = collections.Counter[tuple[str, float | None]]


def findings(spec, golds, rows, outcomes=FINE, **settings) -> tuple[list[str], Seen]:
    """What is wrong with the verdicts on some rows; each fourth is judged again, in another order.

    outcomes: those that a verifier may come to.
    Returns: the findings, and how often there was each outcome with its score.
    """
    low = -1.0 if spec["name"] == "confidence" else 0.0
    first = verdicts_of(spec, golds, rows, range(len(rows)), **settings)
    out = []
    for text, v in zip(rows, first, strict=True):
        where = f"{spec['name']} on {ascii(text[:60])}: {v}"
        if v.outcome not in outcomes:
            out.append(f"{v.outcome}: {where}")
        elif v.score is not None and not low <= v.score <= 1.0:  # NaN too
            out.append(f"range: {where}")
        elif (v.score is None) == (v.outcome in base.JUDGED):
            out.append(f"no score: {where}")
        elif not v.detail.isprintable():
            out.append(f"detail: {where}")
    places = range(len(rows))[::-4]
    for i, v in zip(places, verdicts_of(spec, golds, rows, places, **settings), strict=True):
        if v != first[i]:
            out.append(f"unstable: {spec['name']} on {ascii(rows[i][:60])}: {first[i]}, then {v}")
    return out, collections.Counter((v.outcome, v.score) for v in first)


def told(found: list[str]) -> str:
    return f"{len(found)} findings:\n" + "\n".join(found[:10])


@pytest.fixture(scope="module")
def fuzzed():
    rows = texts(TEXTS)
    assert len(rows) == TEXTS and len(set(rows)) > TEXTS // 2
    return rows


@pytest.mark.parametrize("spec, golds", VERIFIERS, ids=[spec["name"] for spec, _ in VERIFIERS])
def test_any_text_has_a_verdict(fuzzed, spec, golds):
    found, seen = findings(spec, golds, fuzzed)
    assert not found, told(found)
    rare = len(fuzzed) - max(seen.values())
    assert rare > 5, f"the texts make no difference to it: {seen}"


BUGGY = """
import os, time
from rlpt.verifiers import base
def buggy(trajectory, prompt, *, bug):
    if "\\u202e" in trajectory.text:
        if bug == "raises": raise KeyError("x")
        if bug == "raises more": raise BaseException("x")
        if bug == "hangs": time.sleep(1000)
        if bug == "exits": os._exit(0)
        if bug == "nan": return base.Verdict(float("nan"), "correct")
        if bug == "two": return base.Verdict(2.0, "correct")
        if bug == "escapes": return base.judged(True, "\\x1b[2J")
        if bug == "random": return base.judged(os.urandom(1)[0] < 128)
    return base.judged(False)
"""
BUGS = {
    "raises": "crash", "raises more": "crash", "hangs": "timeout", "exits": "crash",
    "nan": "invalid", "two": "invalid", "escapes": "detail", "random": "unstable",
}  # fmt: skip


@pytest.fixture
def buggy(tmp_path, monkeypatch):
    (tmp_path / "buggy_verifiers.py").write_text(BUGGY)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield dict(fn="buggy_verifiers:buggy", name="buggy")
    sys.modules.pop("buggy_verifiers", None)


@pytest.mark.parametrize("bug", BUGS)
def test_the_harness_finds_a_bug(fuzzed, buggy, bug):
    hidden = [t for t in fuzzed if "\u202e" in t]
    assert 0 < len(hidden) < TEXTS / 10, "a bug in a corner"
    again = 8 if bug == "random" else 1  # a quarter is judged twice: 16 coins have to fall alike
    rows = fuzzed[-200:] + hidden[:8] * again
    found, _ = findings(buggy | {"bug": bug}, (None,), rows, deadline=1.0)
    assert found and {f.partition(":")[0] for f in found} == {BUGS[bug]}, told(found)


def test_the_harness_finds_none_where_there_is_none(fuzzed, buggy):
    found, seen = findings(buggy | {"bug": "none"}, (None,), fuzzed[-200:])
    assert not found and seen == {("incorrect", 0.0): 200}, told(found)


SYMMETRIC = [g for g in GOLDS if g != "x=5"]  # an equation may be answered by its value


def test_equality_is_symmetric_and_each_gold_is_itself():
    """Math-Verify alone is not symmetric: between intervals and inequalities, and in rounding."""
    for spec, golds in (
        (dict(fn="math.math", name="math"), SYMMETRIC),
        (dict(fn="number.number", name="number", extract="boxed"), ("12", "-5", "0.5", "3/4")),
    ):
        pairs = [(a, b) for a in golds for b in golds]
        rows = [tasks_base.Prompt(f"{a}, {b}", tasks_base.chat("?"), a) for a, b in pairs]
        with pool.VerifierPool((spec,), workers=2, deadline=DEADLINE) as p:
            judged = p.verify([base.Trajectory(rf"\boxed{{{b}}}") for _, b in pairs], rows)
        same = {pair: v[spec["name"]].outcome for pair, v in zip(pairs, judged, strict=True)}
        for a, b in pairs:
            assert same[a, b] == same[b, a], f"{a} against {b}: {same[a, b]} and {same[b, a]}"
            assert same[a, b] in base.JUDGED and (a != b or same[a, b] == "correct"), (a, b)


FAST = [(spec, golds) for spec, golds in VERIFIERS if spec["fn"] != "math.math"]


def test_the_fast_path_is_fast(fuzzed):
    """Verifiers without SymPy on everything; math on what is a number, a word, or refused."""
    seconds = []
    for spec, golds in FAST:
        fn = config.find("verifiers", spec["fn"])
        settings = {k: v for k, v in spec.items() if k not in ("fn", "name")}
        prompts = [tasks_base.Prompt("p", tasks_base.chat("?"), a) for a in golds]
        for i, text in enumerate(fuzzed[::4]):
            start = time.perf_counter()
            fn(base.Trajectory(text), prompts[i % len(golds)], **settings)
            seconds.append(time.perf_counter() - start)
    exact = [rf"\boxed{{{a}}}" for a in ("12", "1,234.5", "3/4", "red", *RUNAWAY[:8])] * 100
    for i, text in enumerate(exact):
        start = time.perf_counter()
        math.math(base.Trajectory(text), tasks_base.Prompt("p", tasks_base.chat("?"), str(i)))
        seconds.append(time.perf_counter() - start)
    p99 = sorted(seconds)[int(0.99 * len(seconds))]
    assert p99 < 0.05, f"p99 is {1000 * p99:.1f} ms of {len(seconds)} verdicts"


# ---- programs and the judge


def programs(n: int) -> list[str]:
    """Programs of all kinds with letters changed, in a block of code or not; and any text."""
    rng = random.Random(1)
    honest = "def f(x): return x * x"
    kinds = [honest, *test_sandbox.HOSTILE.values()]
    made = []
    for _ in range(n):
        kind = rng.randrange(4)
        text = honest
        if kind:
            text = completion(rng) if kind == 3 else mutated(rng, rng.choice(kinds))
        made.append(f"```python\n{text}\n```" if rng.random() < 0.7 else text)
    return made


def check_programs(rows):
    spec = dict(fn="code.code", name="code", seconds=0.3, memory_mb=128)
    tests = ["assert f(3) == 9", "assert f(4) == 16"]
    found, seen = findings(spec, (tests,), rows, deadline=60.0, batch_deadline=900.0)
    # What runs near its limit may end either way when the machine is busy.
    found = [f for f in found if not f.startswith("unstable")]
    assert not found, told(found)
    for verdict in (("correct", 1.0), ("incorrect", 0.0), ("unparsable", None)):
        assert seen[verdict] > len(rows) / 50, seen
    assert not test_sandbox.left(), f"left behind: {test_sandbox.left()}"


def test_any_program_has_a_verdict():
    check_programs(programs(FEW_PROGRAMS))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_any_of_a_thousand_programs_has_a_verdict():
    check_programs(programs(PROGRAMS))


@pytest.mark.parametrize("fault", ["honest", "mixed"])
def test_any_answer_is_judged(fuzzed, fault):
    """mixed: of seven replies three are none, which is an outcome and not a score."""
    rows = fuzzed[:: TEXTS // ANSWERS]
    with faulty_judge.FaultyJudge(fault) as server:
        spec = dict(
            fn="judge.judge", name="judge", base_url=server.url, model="m", extract="whole",
            breaker=10**6, deadline=100.0,
        )  # fmt: skip
        outcomes = FINE if fault == "honest" else (*FINE, "invalid")
        found, _ = findings(spec, ("12", "red"), rows, outcomes, deadline=120.0)
        bodies = [request["body"] for request in server.log()["requests"]]
    assert not found, told(found)
    assert len(rows) == ANSWERS and len(bodies) > ANSWERS // 2, len(bodies)
