"""Verifiers, and the pool that survives them."""

import collections
import fractions
import json
import os
import pathlib
import subprocess
import sys
import time

import hypothesis
import hypothesis.strategies as st
import pytest

from rlpt import config, distributed, tools
from rlpt.tasks import base as tasks_base
from rlpt.tasks import build
from rlpt.tasks import reasoning_gym as gym_tasks
from rlpt.verifiers import base, choice, gym, math, number, pattern, pool


def _prompt(answer, id="p", **kw):
    return tasks_base.Prompt(id, tasks_base.chat("?"), answer, **kw)


def _judge(verify, text, answer, **kw):
    return verify(base.Trajectory(text), _prompt(answer), **kw)


# What stands in for a user's own module of verifiers, good and bad.
ROGUE = """
import ctypes, os, signal, subprocess, sys, time, socket
from rlpt.verifiers import base


def rogue(trajectory, prompt, *, seconds: float = 1000.0):
    text = trajectory.text
    if text == "hang": time.sleep(seconds)
    if text == "hang without signals":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True: pass
    if text == "child":
        subprocess.Popen(["sleep", "987"])
        time.sleep(seconds)
    if text == "exit": os._exit(0)
    if text == "sys.exit": sys.exit(0)
    if text == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if text == "segfault": ctypes.string_at(0)
    if text == "base": raise BaseException("not an Exception")
    if text == "deep":
        def f(): f()
        f()
    if text == "memory": bytearray(1 << 34)
    if text == "flood":
        for _ in range(300): print("x" * 10**5)
    if text.startswith("socket"):
        for fd in range(3, 50):
            try:
                s = socket.socket(fileno=os.dup(fd))
            except OSError:
                continue
            if text == "socket garbage": s.sendall(b"\\0\\0\\0\\3abc")
            if text == "socket huge": s.sendall(b"\\x7f\\xff\\xff\\xff")
            if text == "socket closed": s.shutdown(socket.SHUT_RDWR)
    scores = {"nan": float("nan"), "inf": float("inf"), "two": 2.0, "negative": -0.5, "str": "1",
              "none": None, "true": True, "huge": 10**5000, "list": [1]}
    if text in scores: return base.Verdict(scores[text], "correct")
    if text == "outcome": return base.Verdict(1.0, "excellent")
    if text == "scored timeout": return base.Verdict(0.0, "timeout")
    if text == "float": return 1.0
    if text == "numpy":
        import numpy
        return base.Verdict(numpy.float32(0.5), "incorrect")
    return base.judged(True)


def environment(trajectory, prompt):
    return base.judged(False, " ".join(sorted(os.environ)))


@base.traits(pure=True)
def counting(trajectory, prompt, *, path):
    with open(path, "a") as f: f.write("x")
    return base.judged(True)


def process(trajectory, prompt):
    return base.judged(True, str(os.getpid()))


def lengths(trajectories, prompts, *, batches_to):
    with open(batches_to, "a") as f: f.write(f"{len(trajectories)} ")
    for t in trajectories:
        if t.text == "exit": os._exit(3)
    return [base.judged(len(t.text) > 1) for t in trajectories]


def slow(trajectory, prompt):
    time.sleep(0.3)
    return base.judged(True)
"""


@pytest.fixture
def rogue(tmp_path, monkeypatch):
    """Makes ROGUE importable, here and in workers, as `rogue_verifiers`."""
    (tmp_path / "rogue_verifiers.py").write_text(ROGUE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("rogue_verifiers", None)


@pytest.mark.parametrize(
    "text, value",
    [
        ("12", 12),
        ("7 + 5 = 12.", 12),
        ("so it is -5", -5),
        ("so it is \u22125", -5),
        ("7-5", 5),
        ("x=-3", -3),
        ("1,234,567 in all", 1234567),
        ("$1,234.50", fractions.Fraction(2469, 2)),
        ("-$5", -5),
        ("3/4", fractions.Fraction(3, 4)),
        ("about .5", fractions.Fraction(1, 2)),
        ("first 3, then 4", 4),
        ("**12**", 12),
        (r"\boxed{8}", 8),
        ("5kg", 5),
        ("no number", None),
        ("", None),
        ("1/0", None),
        ("1,2345", None),
        ("1.2.3", None),
        ("12/05/2020", None),
        ("1e5", None),
        ("7 apples; 1.5e3 in all", None),  # not 7: the last number cannot be read
        ("roughly 35; no: 12,5", None),
        ("5 (see 1.2.3)", None),
        ("it is 5, for H2O", 5),
        ("9" * 65, None),
        ("\u0663", None),  # an Arabic digit
        ("so \u20135", -5),  # an en dash
        ("3\u20135", 5),
        ("1 000", 1000),
        ("12 345.5 in all", fractions.Fraction(24691, 2)),
        ("1 000 00", None),
        ("in 2020 100", None),
        ("7 5", 5),
        ("answer\n1\n200", 200),
        (r"\boxed{1{,}000}", 1000),
        (r"10,\!000", 10000),
        (r"1\,000", 1000),
        ("3 1/2", fractions.Fraction(7, 2)),
        ("-3 1/2", fractions.Fraction(-7, 2)),
        ("3 5/2", None),
        (r"\frac{1}{2}", fractions.Fraction(1, 2)),
        (r"= -\frac12", fractions.Fraction(-1, 2)),
        (r"3\dfrac{1}{2}", fractions.Fraction(7, 2)),
        (r"7 = \frac{\pi}{2}", None),
        (r"7 = \frac{3}{x+2}", None),
        (r"9: \sqrt{2}", None),
        (r"9: \sqrt2", None),
        (r"x\approx5", 5),
        ("7 = 10^3", None),
        ("7 = 10^{-3}", None),
        ("7 = 10\u00b2", None),
        ("7 = 2**3", None),
        ("10^3 = 1000", 1000),
        ("7 = x_{12}", None),
        ("7 = 413_5", None),
        ("7 = 1_000", None),
        ("3x^2", None),  # not a unit
        ("50 cm^2", 50),
        (r"50\text{ cm}^2", 50),
        ("9.8 m/s^2", fractions.Fraction(49, 5)),
        (r"90^\circ", 90),
        ("3 + 9 = _12_", 12),
        ("3 + 9 = __-12__", -12),
        ("_It is 12_", 12),
        ("7 = 3\u00bd", None),
        (r"-\$5", -5),
        ('{"answer": 12}', 12),
        *[(text, None) for text in (
            "The result is 1e-3", "2.5e-4", "6.02e+23", "12E-2", "2^(10)", "2**(3)",
            "5\u00d710^(3)", "10^(-3)", "sqrt(49)", "\u221a(49)", "1/(4)", "1/(x+4)", "log(100)",
            r"\log_{2}8",
            r"\log 8", r"\sqrt[3]5", "-(5)", "3(5)", "f(5)", "1'234", "1\u2019234", "3:30",
            "0x1F", "12k", "12 million", "5+3i", r"25\pi", "25\u03c0", "25 pi", "5x", "3/-4",
            r"5\sqrt{3}", "3 + 9 = \uff11\uff12",
        )],
        *[(text, -5) for text in (
            "The answer is \u20115", "The answer is \u20105", "The answer is \uff0d5", "x = - 5",
            r"\boxed{- 5}", r"$-\,5$", "It is - 5", r"x \approx - 5",
        )],
        (r"= - \frac{1}{2}", fractions.Fraction(-1, 2)),
        ("12 - 7 = 5", 5),
        ("- 5", 5),  # an item
        ("(in all 5)", 5),
        ("so it is (5)", 5),
        ("**(5)**", 5),
        (r"\left(5\right)", 5),
        ("5cm", 5),
        ("5 pirates", 5),
        ("Answer:5", 5),
        ("f(2) = 5", 5),
        ("x_1 = 5", 5),
        ("the log says 5", 5),
    ],
)  # fmt: skip
def test_last_number(text, value):
    assert number.last_number(text) == value


def test_number_is_exact():
    def outcome(text, answer, **kw):
        return _judge(number.number, text, answer, **kw).outcome

    assert outcome("The answer is 1,234.0", "1234") == "correct"
    assert outcome("0.5", "1/2") == "correct"
    assert outcome("0.333", "1/3") == "incorrect"
    assert outcome("0.333", "1/3", tolerance="0.001") == "correct"
    assert outcome("0.1", 0.1) == "correct", "a JSON number is read as it is written"
    big = str(2**100)
    assert outcome(str(2**100 + 1), big) == "incorrect", "no rounding to float"
    assert outcome("nothing", "5") == "unparsable"
    assert outcome(r"3 and \boxed{5}", "5", extract="boxed") == "correct"
    assert outcome(r"\boxed{5} or \boxed{6}", "5", extract="boxed") == "incorrect"
    assert outcome(r"\boxed{5} or \boxed{6", "5", extract="boxed") == "unparsable"
    assert outcome(r"\boxed{5 or 6}", "5", extract="boxed") == "unparsable"
    assert outcome("<answer> 5. </answer>", "5", extract="tag") == "correct"
    assert outcome("<a>5</a> 6", "5", extract="tag", tag="a") == "correct"
    assert outcome("5", "5", extract="whole") == "correct"
    assert outcome("It is 5", "5", extract="whole") == "unparsable"


@pytest.mark.parametrize(
    "span, value",
    [
        *[(span, 1000) for span in (
            r"\$1000", "1{,}000", r"1\,000", "$1000$", r"$\$1000$", r"\text{1000}", "x=1000",
            r"1000\text{ dollars}", "1000 dollars", r"\textbf{1{,}000}", r"1000\ \text{cm}^2",
            "1000 m^2", r"1000\text{ square units}", r"x = 1000\mathrm{km}", "1000.",
        )],
        (r"3\frac{1}{2}", fractions.Fraction(7, 2)),
        (r"1000\text{ million}", None),
        (r"5\text{ or more}", None),
        ("5 is wrong", None),
        ("5 or 6", None),
        ("5 M", None),
        ("10^3", None),
        ("1000_7", None),
        (r"\text{1000 cookies}", 1000),
        (r"\text{1000 million}", None),
        (r"5\text{k}", None),
        (r"5\text{ squared}", None),
        (r"413\text{ base five}", None),
        ("- 1000", -1000),
    ],
)  # fmt: skip
def test_spans_hold_a_number_and_what_belongs_to_it(span, value):
    assert number.of_span(span) == value
    outcome = _judge(number.number, rf"7 \boxed{{{span}}}", "1000", extract="boxed").outcome
    assert outcome == ("correct" if value == 1000 else "incorrect" if value else "unparsable")


@pytest.mark.parametrize("answer", ["five", "", None, True, ["5"], "5 apples"])
def test_number_refuses_bad_references(answer):
    with pytest.raises(ValueError, match="answer: got .* expected a number"):
        _judge(number.number, "5", answer)


def test_number_refuses_bad_settings():
    with pytest.raises(ValueError, match="tolerance: got '-1'"):
        _judge(number.number, "5", "5", tolerance="-1")
    with pytest.raises(ValueError, match="extract: got 'first'"):
        _judge(number.number, "5", "5", extract="first")


@pytest.mark.parametrize("part", ["1", "1/", "-", "1,", "1 ", "100 ", "1 1/", r"\frac{1", "_", "{"])
def test_number_is_linear_in_hostile_text(part):
    text = part * (10**6 // len(part)) + "5"
    start = time.monotonic()
    _judge(number.number, text, "5")
    assert time.monotonic() - start < 3.0


@pytest.mark.parametrize(
    "text, boxed",
    [
        (r"\boxed{5}", "5"),
        (r"\boxed{\frac{1}{2}} then", r"\frac{1}{2}"),
        (r"\boxed{1} \fbox{2}", "2"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{1} \boxed{2", None),
        ("boxed 5", None),
    ],
)
def test_last_boxed(text, boxed):
    assert base.last_boxed(text) == boxed


def test_validated_refuses_what_breaks_the_contract():
    def outcome(*args):
        return base.validated(*args, 0.0, 1.0).outcome

    assert outcome(0.5, "incorrect", "") == "incorrect"
    assert outcome(None, "timeout", "") == "timeout"
    for bad in (None, "1", True, float("nan"), float("inf"), 1.1, -0.1, 10**400, [1]):
        assert outcome(bad, "correct", "") == "invalid", bad
    assert outcome(0.0, "timeout", "") == "invalid"
    assert outcome(1.0, "excellent", "") == "invalid"
    assert outcome(1.0, None, "") == "invalid"
    assert base.validated(2.0, "correct", "", 0.0, 3.0).score == 2.0


def test_pool_judges_rows_in_order():
    specs = (
        dict(fn="number.number", name="last", weight=0.5),
        dict(fn="number.number", name="whole", extract="whole"),
    )
    with pool.VerifierPool(specs, workers=2) as p:
        texts = [f"is {i}" if i % 2 else str(i) for i in range(200)]
        prompts = [_prompt("7", id=f"p{i}") for i in range(200)]
        prompts[4] = _prompt("4", id="own", verifier="whole")
        verdicts = p.verify([base.Trajectory(t) for t in texts], prompts)
    assert [v["last"].score for i, v in enumerate(verdicts) if i != 4] == [
        float(i == 7) for i in range(200) if i != 4
    ]
    assert [v["whole"].outcome for v in verdicts[:4]] == [
        "incorrect", "unparsable", "incorrect", "unparsable",
    ]  # fmt: skip
    assert list(verdicts[4]) == ["whole"] and verdicts[4]["whole"].outcome == "correct"
    counts = collections.Counter(f"{k}/{v.outcome}" for row in verdicts for k, v in row.items())
    assert counts["last/correct"] == 1 and counts["last/incorrect"] == 198
    assert counts["whole/unparsable"] == 100 and counts["whole/crash"] == 0
    with pytest.raises(pool.VerifierError, match="closed"):
        p.verify([base.Trajectory("1")], [prompts[0]])


FAULTS = {
    "hang": "timeout",
    "hang without signals": "timeout",
    "child": "timeout",
    "exit": "crash",
    "sys.exit": "crash",
    "kill": "crash",
    "segfault": "crash",
    "base": "crash",
    "deep": "crash",
    "memory": "crash",
    "flood": "correct",
    "socket garbage": "invalid",
    "socket huge": "invalid",
    "socket closed": "crash",
    "nan": "invalid",
    "inf": "invalid",
    "two": "invalid",
    "negative": "invalid",
    "str": "invalid",
    "none": "invalid",
    "true": "invalid",
    "huge": "invalid",
    "list": "invalid",
    "outcome": "invalid",
    "scored timeout": "invalid",
    "float": "invalid",
    "numpy": "incorrect",
    "\ud800 \0 \u202e": "correct",
}


def _processes():
    """(pid, parent's pid, command line) of every process, zombies too."""
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            yield int(path.name), int(parent), (path / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue


def _children():
    return {pid for pid, parent, _ in _processes() if parent == os.getpid()}


def test_pool_survives_what_verifiers_do(rogue):
    before = _children()
    good = [str(i) for i in range(20)]
    texts = [t for pair in zip(FAULTS, good + good[:8], strict=True) for t in pair]
    with pool.VerifierPool([dict(fn="rogue_verifiers:rogue")], workers=2, deadline=1.0) as p:
        start = time.monotonic()
        verdicts = p.verify([base.Trajectory(t) for t in texts], [_prompt(None)] * len(texts))
        assert time.monotonic() - start < 20.0
        for text, verdict in zip(texts, verdicts, strict=True):
            expected = FAULTS.get(text, "correct")
            assert verdict["rogue"].outcome == expected, (text, verdict)
            assert (verdict["rogue"].score is None) == (expected not in base.JUDGED), text
        assert "code -11" in verdicts[texts.index("segfault")]["rogue"].detail
        assert "BaseException: not an" in verdicts[texts.index("base")]["rogue"].detail
        again = p.verify([base.Trajectory(t) for t in good], [_prompt(None)] * 20)
        assert all(v["rogue"].outcome == "correct" for v in again), "the pool is whole again"
    assert _children() == before, "no zombies, no workers left"
    asleep = [pid for pid, _, command in _processes() if command == b"sleep\0987\0"]
    assert not asleep, "a verifier's child outlived it"


def test_the_deadline_is_that_of_one_call(rogue):
    """Of a worker's chunk of rows, which together take longer."""
    with pool.VerifierPool([dict(fn="rogue_verifiers:slow")], workers=1, deadline=1.5) as p:
        verdicts = p.verify([base.Trajectory(str(i)) for i in range(16)], [_prompt(None)] * 16)
    assert {v["slow"].outcome for v in verdicts} == {"correct"}


def test_pool_keeps_the_batch_deadline(rogue):
    spec = dict(fn="rogue_verifiers:rogue")
    with pool.VerifierPool([spec], workers=2, deadline=60.0, batch_deadline=1.0) as p:
        texts = ["ok"] + ["hang"] * 50
        start = time.monotonic()
        verdicts = p.verify([base.Trajectory(t) for t in texts], [_prompt(None)] * 51)
        assert time.monotonic() - start < 3.0
        assert [v["rogue"].outcome for v in verdicts] == ["correct"] + ["timeout"] * 50
        assert "batch deadline of 1.0 s" in verdicts[-1]["rogue"].detail
        (after,) = p.verify([base.Trajectory("ok")], [_prompt(None)])
        assert after["rogue"].outcome == "correct"


def test_pool_replaces_workers(rogue):
    spec = dict(fn="rogue_verifiers:process")
    with pool.VerifierPool([spec], workers=1, recycle=10) as p:
        rows = [base.Trajectory(str(i)) for i in range(100)]
        pids = {v["process"].detail for v in p.verify(rows, [_prompt(None)] * 100)}
        assert 2 <= len(pids) <= 10, f"{len(pids)} processes for 100 calls, 10 or more a process"
        (w,) = p._workers
        os.kill(w.process.pid, 9)  # as the kernel does when memory is short
        time.sleep(0.2)
        (verdict,) = p.verify(rows[:1], [_prompt(None)])
        assert verdict["process"].outcome == "correct", "its death between calls costs no row"


def test_pool_judges_equal_rows_once(rogue):
    path = rogue / "calls"
    with pool.VerifierPool([dict(fn="rogue_verifiers:counting", path=str(path))]) as p:
        rows = [base.Trajectory("a"), base.Trajectory("b")] * 10
        prompts = [_prompt("1", id="p")] * 10 + [_prompt("1", id="q")] * 10
        assert all(v["counting"].score == 1.0 for v in p.verify(rows, prompts))
    assert path.read_text() == "x" * 4, "two texts for two prompts"


def test_workers_get_no_secrets(rogue, monkeypatch):
    monkeypatch.setenv("RLPT_CANARY", "a1b2c3d4")
    with pool.VerifierPool([dict(fn="rogue_verifiers:environment")], workers=1) as p:
        (verdict,) = p.verify([base.Trajectory("")], [_prompt(None)])
        names = verdict["environment"].detail.split()
        assert "PATH" in names and "RLPT_CANARY" not in names
        environ = pathlib.Path(f"/proc/{p._workers[0].process.pid}/environ").read_bytes()
        assert b"a1b2c3d4" not in environ


def test_workers_end_with_their_parent(rogue):
    code = (
        "from rlpt.verifiers import base, pool\n"
        "from rlpt.tasks.base import Prompt\n"
        "p = pool.VerifierPool([dict(fn='rogue_verifiers:rogue')], workers=2, deadline=1.0)\n"
        "print(*[w.process.pid for w in p._workers], flush=True)\n"
        "p.verify([base.Trajectory('hang')], [Prompt('p', ())])\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        time.sleep(0.3)
        parent.kill()
    end = time.monotonic() + 10.0
    while alive := [pid for pid in pids if _runs(pid)]:
        assert time.monotonic() < end, f"{alive} outlived their parent"
        time.sleep(0.05)


def _runs(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_many_rows_at_once(rogue):
    path = rogue / "batches"
    spec = dict(fn="rogue_verifiers:lengths", batches_to=str(path), batch=4)
    with pool.VerifierPool([spec], workers=1) as p:
        rows = [base.Trajectory("x" * (i % 3)) for i in range(10)]
        verdicts = p.verify(rows, [_prompt(None)] * 10)
        assert [v["lengths"].score for v in verdicts] == [float(i % 3 == 2) for i in range(10)]
        assert path.read_text() == "4 4 2 "
        rows[5] = base.Trajectory("exit")
        verdicts = p.verify(rows, [_prompt(None)] * 10)
        outcomes = [v["lengths"].outcome for v in verdicts]
        assert outcomes.count("crash") == 1 and outcomes[5] == "crash", "it costs only its row"


def test_pool_refuses_bad_configs(rogue):
    for specs, message in (
        ([], "none given"),
        ([dict(name="x")], "expected dict\\(fn="),
        ([dict(fn="number.numbr")], "Did you mean"),
        ([dict(fn="number.number", tolerence="1")], "Did you mean 'tolerance'"),
        ([dict(fn="number.number"), dict(fn="number.number")], "two are named 'number'"),
        ([dict(fn="no_such_module:fn")], "cannot import 'no_such_module'"),
    ):
        with pytest.raises(config.ConfigError, match=message):
            pool.VerifierPool(specs)
    with pytest.raises(config.ConfigError, match="workers: got 0"):
        pool.VerifierPool([dict(fn="number.number")], workers=0)
    with pool.VerifierPool([dict(fn="number.number")], workers=1) as p:
        with pytest.raises(config.ConfigError, match="asks for the verifier 'code'"):
            p.verify([base.Trajectory("")], [_prompt("1", verifier="code")])
        row = _prompt("1", meta={"x": object()})
        (verdict,) = p.verify([base.Trajectory("1")], [row])
        assert verdict["number"].outcome == "invalid"
        assert "not JSON" in verdict["number"].detail


def test_pool_says_why_it_cannot_start(rogue):
    (rogue / "late_verifiers.py").write_text(
        "import sys\n"
        "from rlpt.verifiers.base import judged\n"
        "if 'rlpt.verifiers.pool' not in sys.modules: raise OSError('no licence file')\n"
        "def late(trajectory, prompt): return judged(True)\n"
    )
    before = _children()
    with pytest.raises(pool.VerifierError, match="OSError: no licence file"):
        pool.VerifierPool([dict(fn="late_verifiers:late")], workers=1)
    assert _children() == before


def test_check_gold():
    prompts = [_prompt("5", id="good"), _prompt("five", id="bad"), _prompt([1], id="worse")]
    spec = dict(fn="number.number")
    with pool.VerifierPool([spec], workers=1) as p:
        assert p.check_gold(prompts[:1]) == prompts[:1]
        with pytest.raises(tasks_base.TaskError) as e:
            p.check_gold(prompts)
    message = str(e.value)
    assert "2 references cannot be read" in message
    assert "bad (number: answer: got 'five'" in message and "worse (number" in message
    assert "good" not in message


def test_bad_references_may_be_skipped(caplog):
    """Those of tasks that say so, counted; not those on which a verifier failed."""
    prompts = [_prompt(a, id=a, task=t) for t in ("mine", "other") for a in ("5", f"no {t}")]
    with pool.VerifierPool([dict(fn="number.number")], workers=1) as p:
        with pytest.raises(tasks_base.TaskError, match="1 references cannot be read:\n  no other"):
            p.check_gold(prompts, {"mine"})
        assert [q.id for q in p.check_gold(prompts[:2], {"mine"})] == ["5"]
        assert "skipped 1 prompts whose reference cannot be read:\n  no mine" in caplog.text
        with pytest.raises(tasks_base.TaskError, match="1 references cannot be read"):
            p.check_gold(prompts[1:2], {"mine"})  # none is left
        odd = _prompt("5", id="odd", task="mine", meta={"x": object()})
        with pytest.raises(tasks_base.TaskError, match="row is not JSON"):
            p.check_gold([*prompts[:1], odd], {"mine"})
    files = dict(fn="files.jsonl", on_bad_row="skip")
    specs = (files, files | {"label": "mine"}, dict(fn="a.b", on_bad_row="fail"), dict(fn="c.d"))
    assert build.skipping(specs) == {"files.jsonl", "mine"}


NOTING = """
import os
from rlpt.verifiers.base import judged
def _prepare(**_): return {"sandbox": open(os.path.dirname(__file__) + "/tier").read()}
def noting(trajectory, prompt): return judged(True)
"""


def test_what_verifiers_note_is_reported_and_stays(rogue, monkeypatch):
    monkeypatch.setattr(pool, "START_DEADLINE", 20.0)
    (rogue / "noting_verifiers.py").write_text(NOTING)
    (rogue / "tier").write_text("bwrap")
    specs = [dict(fn="noting_verifiers:noting", name="code"), dict(fn="number.number")]
    with pool.VerifierPool(specs, workers=1, recycle=1) as p:
        assert p.report() == {"code": {"sandbox": "bwrap"}}
        rows = [base.Trajectory("1")] * 2
        assert [v["code"].score for v in p.verify(rows, [_prompt("1")] * 2)] == [1.0, 1.0]
        (rogue / "tier").write_text("rlimit")
        outcomes = [v["code"] for v in p.verify(rows, [_prompt("1")] * 2)]
    assert outcomes[-1].outcome == "crash", "a worker under other conditions judges nothing"
    assert "starts with" in outcomes[-1].detail and "rlimit" in outcomes[-1].detail


# ---- mathematics


def _math(gold, answer):
    return _judge(math.math, f"so it is \\boxed{{{answer}}}.", gold).outcome


@pytest.mark.parametrize(
    "gold, answer",
    [
        ("12", "12"),
        ("12", "12.0"),
        ("1234", "1,234"),
        ("\\frac{1}{2}", "0.5"),
        ("\\frac12", "\\dfrac{1}{2}"),
        ("-\\frac{3}{4}", "\\frac{-3}{4}"),
        ("$\\sqrt{2}/2$", "\\frac{1}{\\sqrt2}"),
        ("x^2+2x+1", "(x+1)^2"),
        ("x=5", "5"),
        ("5", "x=5"),
        ("y=2x+3", "2x+3=y"),
        ("\\{1,2\\}", "\\{2,1\\}"),
        ("5", "5\\text{ cm}"),
        ("90^\\circ", "90"),
        ("10\\%", "10"),
        ("(-\\infty, 3]", "(-\\infty,3]"),
        ("1<x<2", "(1,2)"),
        ("1,2,3", "3,2,1"),
        ("\\text{Tuesday}", "tuesday"),
        ("2^{2023}", "2\\cdot 2^{2022}"),
        ("120", "\\binom{10}{3}"),
        ("\\pi", "3.14159265"),
        ("12", "3\\cdot 4=12"),
        ("12", "7+5"),
        ("so \\boxed{3}", "3"),
        (7, "7"),
        ("0.5", "50\\%"),
        ("1/2", "50\\%"),
        ("50\\%", "0.5"),
        ("50\\%", "\\frac{1}{2}"),
        ("50", "50\\%"),
        ("50\\%", "50%"),
        ("(-\\infty,3]", "x \\le 3"),
        ("(-\\infty,3]", "3 \\ge x"),
        ("(1,2)", "1<x<2"),
        ("413_5", "413_{5}"),
        ("413_{12}", "413_{12}"),
        ("a_1+a_2", "a_2+a_{1}"),
        ("x^2_1+1", "1+x_1^2"),
        ("1000", "1{,}000"),
        ("1{,}000", "1\\,000"),
        ("(1,2)", "1,2"),
        ("(3,2),(5,4)", "(5,4),(3,2)"),
        ("(3,1),(2,5)", "(3,1), (2,5)"),
        ("\\{(1,2),(3,4)\\}", "\\{(3,4),(1,2)\\}"),
        ("x+y=6", "x+y=6"),
        ("AB=5", "5"),
        ("5", "AB=5"),
        ("18\\text{ inches}", "18"),
        ("18\\text{ inches}", "18\\text{ in}"),
        ("18\\text{ inches}", "18 inch"),
        ("18\\text{ apples}", "18\\text{ pieces}"),
    ],
)
def test_math_accepts(gold, answer):
    assert _math(gold, answer) == "correct"


@pytest.mark.parametrize(
    "gold, answer",
    [
        ("12", "13"),
        ("1/3", "0.333"),
        (str(2**100), str(2**100 + 1)),
        ("1/2^{98}", "1/2^{99}"),  # Math-Verify alone: equal
        ("\\{1,2^{-98}\\}", "\\{1,2^{-99}\\}"),
        ("0.00001234", "0.000012"),
        ("0", "10^{-30}"),
        ("3", "4=3"),  # Math-Verify alone: equal
        ("listen", "silent"),  # Math-Verify alone: equal, as products of letters
        ("2x+3y=5", "x+y=1"),
        ("y=2x+3", "y=3x+5"),
        ("n=1,2,3", "n=2,3,4"),
        ("3", "3,4"),
        ("3", "3 or 4"),
        ("(1,2)", "[1,2]"),
        ("\\log_2 3", "1/2^{98}"),  # SymPy alone: seconds
        ("\\infty", "-\\infty"),
        ("2,500", "2,5\\infty00"),
        ("413_5", "413_7"),
        ("413_5", "413_{7}"),
        ("413", "413_7"),
        ("413_5", "413"),
        ("(1,2)", "\\{1,2\\}"),
        ("\\{1,2\\}", "(1,2)"),
        ("50\\%", "0.5\\%"),
        ("50\\%", "5000"),
        ("(-\\infty,3]", "x < 3"),
        ("(-\\infty,3]", "x \\ge 3"),
        ("(-\\infty,3]", "x \\le 4"),
        ("7", "(3,2),(5,4)"),  # SymPy: no order of pairs
        ("5", "5,(3,2)"),
        ("5", "((3,2),3)"),
        ("5", "\\{(2,1)\\}"),
        ("(3,2),(5,4)", "(5,4),(3,1)"),
        ("(3,1),(2,5)", "(3,1)"),
        ("x+y+z=0", "0"),  # Math-Verify alone: equal, as its right side
        ("x^2+y^2=25", "25"),
        ("xy=12", "12"),
        ("18\\text{ inches}", "18\\text{ feet}"),  # Math-Verify alone: no units
        ("10\\text{ dollars}", "10\\text{ cents}"),
        ("2\\text{ hours}", "2\\text{ minutes}"),
        ("\\{1,2\\}", "x \\in (1,2)"),
    ],
)
def test_math_refuses(gold, answer):
    assert _math(gold, answer) == "incorrect"


RUNAWAY = [
    "10000000!",
    "10,000,000!",
    "10{,}000{,}000!",
    "((10)!)!",
    "9^{9^{9}}",
    "9^9^9",
    "2^{2^{2^{2^{2}}}}",
    "2^{9!}",
    "(9^{9})^{(9^{9})}",
    "((2^{999})^{999})^{999}",
    "10^{99999}",
    "2^{10\\cdot 10\\cdot 1000\\cdot 99}",
    "x^{x^{x^x}}",
    "(" * 200 + "1" + ")" * 200,
    "\\frac{1}{" * 33 + "1" + "}" * 33,
    "\\binom{10^8}{5\\cdot10^7}",
    "\\sum_{k=1}^{10^{10}} k",
    "\\int x^{x} dx",
    "1" * 200,
    "1+" * 300 + "1",
]


@pytest.mark.parametrize("answer", RUNAWAY)
def test_math_refuses_what_runs_away(answer):
    start = time.monotonic()
    verdict = _judge(math.math, f"\\boxed{{{answer}}}", "5")
    assert verdict.outcome == "unparsable" and verdict.score is None, verdict
    assert len(verdict.detail) < 200
    assert time.monotonic() - start < 0.5


def test_math_reads_one_delimited_answer():
    def outcome(text, gold="5", **kw):
        return _judge(math.math, text, gold, **kw).outcome

    assert outcome("it is 5") == "unparsable", "no delimiter, no answer"
    assert outcome("$5$") == "unparsable"
    assert outcome(r"\boxed{5} or \boxed{6}") == "incorrect", "the last box counts"
    assert outcome(r"\boxed{6} or \boxed{5}") == "correct"
    assert outcome(r"\boxed{5} or \boxed{6") == "unparsable"
    assert outcome(r"\boxed{}") == "unparsable"
    assert outcome(r"\boxed{\text{nan}}", r"x+1") != "correct"
    assert outcome("<answer>$5$</answer>", extract="tag") == "correct"
    assert outcome(r"<answer>5} \boxed{6</answer>", "x", extract="tag") == "unparsable"
    with pytest.raises(ValueError, match="extract: got 'whole', expected boxed or tag"):
        outcome("5", extract="whole")


def test_math_bad_references():
    bad = [r"\text{nan}", "", r"\frac{1}{0}", "10000000!", ["5"], None, "x" * 600, r"\frac{", "5 ?"]
    prompts = [_prompt(answer, id=f"bad{i}") for i, answer in enumerate(bad)]
    good = [_prompt(answer, id=f"good{i}") for i, answer in enumerate(["5", "x=2", "red", "(1,2]"])]
    with pool.VerifierPool([dict(fn="math.math")], workers=1) as p:
        assert p.check_gold(good) == good
        with pytest.raises(tasks_base.TaskError, match="9 references cannot be read") as e:
            p.check_gold(prompts + good)
    assert all(prompt.id in str(e.value) for prompt in prompts) and "good" not in str(e.value)


def test_math_in_the_pool_among_hostile_rows():
    with pool.VerifierPool([dict(fn="math.math", name="math")], workers=2, deadline=5.0) as p:
        texts = [f"\\boxed{{{a}}}" for a in RUNAWAY + ["x+1"] * 20]
        prompts = [_prompt("1+x", id=str(i)) for i in range(len(texts))]
        verdicts = p.verify([base.Trajectory(t) for t in texts], prompts)
    assert [v["math"].outcome for v in verdicts] == ["unparsable"] * len(RUNAWAY) + ["correct"] * 20


# ---- the others


@pytest.mark.parametrize(
    "text, kw, outcome",
    [
        ("I think it is (B).", {}, "correct"),
        ("The answer is B", {}, "correct"),
        ("Answer: **B**, since A is wrong.", {}, "correct"),
        ("B", {}, "correct"),
        ("(A) looks right, but (B)", {}, "correct"),
        ("(B) looks right, but (A)", {}, "incorrect"),
        ("A good guess is hard", {}, "unparsable"),
        ("Bananas", {}, "unparsable"),
        ("(E)", {}, "unparsable"),
        ("(E)", {"letters": "ABCDE"}, "incorrect"),
        (r"\boxed{\text{B}}", {"extract": "boxed"}, "correct"),
        (r"\boxed{(B)}", {"extract": "boxed"}, "correct"),
        ("<answer>B. Paris</answer>", {"extract": "tag"}, "correct"),
        ("<answer>A good one</answer>", {"extract": "tag"}, "unparsable"),
        ("(B)", {"extract": "boxed"}, "unparsable"),
        ("The answer is B.\nExplanation: (A) is wrong", {}, "correct"),
        ("The answer is A. No: the answer is B. (C) is wrong", {}, "correct"),
        ("The answer A is tempting, but it is (B)", {}, "correct"),
        ("I think (B), not (A)", {}, "correct"),
        ("I think (A), not (B)", {}, "incorrect"),
        ("It isn't (A) but (B)", {}, "correct"),
        ("The answer is not B", {}, "unparsable"),
        ("The answer is not **(B)**", {}, "unparsable"),
        ("The answer cannot be B.", {}, "unparsable"),
        ("The answer is not A but B", {}, "correct"),
        ("The answer is A or B", {}, "unparsable"),
        (r"Answer is \boxed{B}", {}, "correct"),
        (r"So \boxed{\text{(B)}} since A is hot", {}, "correct"),
        (r"So \boxed{B} since A is hot", {}, "correct"),
        ("The answer is: **B**, since (A) is hot", {}, "correct"),
        ("The answer is $B$", {}, "correct"),
        (r"The answer is \(\mathrm{B}\).", {}, "correct"),
        ("**Answer:** B", {}, "correct"),
        ("B) Paris", {}, "correct"),
        ("It is\n**B)** Paris", {}, "correct"),
        ("A) Rome\nB) Paris", {}, "unparsable"),
        ("A) Rome\nB) Paris\nAnswer: B) Paris", {}, "correct"),
        *[(text, {}, "unparsable") for text in (
            "Answer: B, A, C, D", "The answer is B and C", "Answer: B & A", "Answer: B; C",
            "The answer is (B) and (A).", "Both (A) and (B)", "(A), (B)", "Both (A) and (B) are it",
            "neither A nor B",
        )],
        ("The answer is B, A is too small", {}, "correct"),
        ("The answer is B and (A) is not", {}, "correct"),
        ("The answer is B, because A is hot", {}, "correct"),
        ("Neither (A) nor (C): (B)", {}, "correct"),
        *[(rf"\boxed{{{span}}}", {"extract": "boxed"}, "correct") for span in (
            r"\textbf{(B)}", r"\mathrm{B}", "$B$", r"\text{(B) }5", "B. Paris", "B: A good one",
            "B. Vitamin C", r"\textbf{B}", "**B**", "(B) (B)",
        )],
        *[(rf"\boxed{{{span}}}", {"extract": "boxed"}, "unparsable") for span in (
            "B/A/C/D", "B, A", "B. or A.", "B and C", "(B)(C)", "B. Paris A. Rome", "B, C, D",
            r"B \text{ or } A", "not B", "Bananas",
        )],
    ],
)  # fmt: skip
def test_choice(text, kw, outcome):
    assert _judge(choice.choice, text, "B", **kw).outcome == outcome
    assert _judge(choice.choice, text, 1, **kw).outcome == outcome, "the index of B"


def test_choice_refuses_bad_references():
    for answer in ("E", "", "AB", 4, -1, None, True):
        with pytest.raises(ValueError, match="expected one of ABCD or an index"):
            _judge(choice.choice, "(A)", answer)


def test_regex():
    def outcome(text, answer=None, **kw):
        return _judge(pattern.regex, text, answer, **kw).outcome

    assert outcome("a cat", pattern="c.t") == "correct"
    assert outcome("a dog", pattern="c.t") == "incorrect"
    assert outcome("a cat", "c.t") == "correct", "the reference as the pattern"
    named = "(?i)answer: (?P<answer>.*)"
    assert outcome("Answer: x\nanswer: y ", "y", pattern=named) == "correct"
    assert outcome("answer: x", "y", pattern=named) == "incorrect"
    assert outcome("x", "y", pattern=named) == "unparsable"
    with pytest.raises(ValueError, match=r"pattern '\(' does not compile"):
        outcome("x", pattern="(")
    with pytest.raises(ValueError, match="does not compile"):
        outcome("x", None)


def test_regex_that_explodes_costs_its_row():
    spec = dict(fn="pattern.regex", pattern="(a+)+$")
    with pool.VerifierPool([spec], workers=2, deadline=1.0) as p:
        rows = [base.Trajectory("a" * 60 + "b"), *[base.Trajectory("a" * i) for i in range(1, 9)]]
        start = time.monotonic()
        verdicts = p.verify(rows, [_prompt(None)] * 9)
        assert time.monotonic() - start < 3.0
    assert [v["regex"].outcome for v in verdicts] == ["timeout"] + ["correct"] * 8


@pytest.mark.parametrize(
    "text, kw, score",
    [
        ("<think>so</think> <answer>5</answer>\n", {}, 1.0),
        ("<think>so</think>", {}, 0.0),
        ("<think>so</think><answer>5", {}, 0.0),
        ("<answer>5</answer><think>so</think>", {}, 0.0),
        ("<think>so</think><answer>5</answer><answer>6</answer>", {}, 0.0),
        ("<think> </think><answer>5</answer>", {}, 0.0),
        ("Well, <think>so</think><answer>5</answer>", {}, 0.0),
        ("Well, <think>so</think><answer>5</answer>", {"strict": False}, 1.0),
        ("<think>a<answer>5</answer></think>", {}, 0.0),
        ("<a>1</a>", {"tags": ("a",)}, 1.0),
    ],
)
def test_format(text, kw, score):
    assert _judge(pattern.format, text, None, **kw).score == score


def test_gym_scores():
    pytest.importorskip("reasoning_gym")

    def judge(text, prompt, **kw):
        prompt = tasks_base.Prompt(**json.loads(json.dumps(vars(prompt))))  # as a worker gets it
        return gym.reasoning_gym(base.Trajectory(text), prompt, **kw)

    for task in gym_tasks.TASKS:
        prompts = gym_tasks.dataset("train", task=task, size=3)
        for prompt in prompts:
            right = f"<answer> {prompt.answer} </answer>"
            assert judge(right, prompt).outcome == "correct", (task, prompt)
            for junk in ("", "junk", "nan", "nan+nanj", "-inf", "1e999", "[[", "-"):
                verdict = judge(junk, prompt, extract="whole")
                assert verdict.outcome in ("incorrect", "unparsable"), (task, junk, verdict)
            if task != "time_intervals":  # which reads the number before "days"
                hedge = f"{prompt.answer} or not"
                assert judge(hedge, prompt, extract="whole").outcome != "correct", task
            loose = ("decimal_arithmetic", "time_intervals")  # whose scorers say what they accept
            gold = str(prompt.answer)
            for part in {gold[:1], gold[: len(gold) // 2], gold[:-1], f"{gold}x", f"{gold} or 7"}:
                if part != gold and task not in loose:
                    verdict = judge(part, prompt, extract="whole")
                    assert verdict.outcome != "correct", (task, part, gold)
    nine = tasks_base.Prompt("n", tasks_base.chat("?"), "gnihtemos", {
        "reasoning_gym": {"task": "spell_backward", "config": {}, "entry": {"answer": "gnihtemos"}}
    })  # fmt: skip
    assert judge("gnihtemos!", nine, extract="whole", raw=True).score == 0.8, (
        "9 times 1/9 is above 1"
    )
    with pytest.raises(tasks_base.TaskError, match="got task 'coin_flip'"):
        gym_tasks.dataset("train", task="coin_flip")
    prompt = gym_tasks.dataset("train", task="gcd", size=1)[0]
    hedge = f"{prompt.answer} or more"
    shaped = judge(hedge, prompt, extract="whole", raw=True)
    assert 0.0 < shaped.score < 1.0 and shaped.outcome == "incorrect"
    assert judge(hedge, prompt, extract="whole").score == 0.0
    assert judge("5", prompt).outcome == "unparsable", "no tag"


def test_gym_runs_no_code(tmp_path):
    pytest.importorskip("reasoning_gym")
    path = tmp_path / "pwned"
    attack = f"__import__('pathlib').Path({str(path)!r}).touch()"
    for task in gym_tasks.TASKS:
        (prompt,) = gym_tasks.dataset("train", task=task, size=1)
        for text in (attack, f"[{attack}]", f"1 + {attack}"):
            verdict = gym.reasoning_gym(base.Trajectory(text), prompt, extract="whole")
            assert verdict.outcome != "correct", task
            assert not path.exists(), f"the scorer of {task} runs the answer as code"
    with pytest.raises(ValueError, match="'p' was not made by the task reasoning_gym.dataset"):
        _judge(gym.reasoning_gym, "5", "5")


TRL = """
def brevity(completions, **kwargs):
    return [-float(len(c)) for c in completions]

def matches(prompts, completions, solution, level=None):
    assert prompts == ["?"] * len(completions), prompts
    return [None if s is None else float(c == s) for c, s in zip(completions, solution)]

def chat(prompts, completions, **kwargs):
    return [float(p[-1]["role"] == "user" and c[0]["content"] == "yes" and g == 3)
            for p, c, g in zip(prompts, completions, kwargs["grade"])]

def short(completions, **kwargs):
    return [1.0]

def centred(completions, **kwargs):
    n = [len(c) for c in completions]
    return [x - sum(n) / len(n) for x in n]
"""


def test_trl_functions_are_used_as_they_are(tmp_path, monkeypatch):
    (tmp_path / "trl_rewards.py").write_text(TRL)
    monkeypatch.syspath_prepend(str(tmp_path))
    reward = dict(fn="trl.reward")
    specs = [
        {**reward, "name": "brevity", "function": "trl_rewards:brevity"},
        {**reward, "name": "matches", "function": "trl_rewards:matches",
         "answer_column": "solution"},
        {**reward, "name": "chat", "function": "trl_rewards:chat", "conversational": True},
        {**reward, "name": "short", "function": "trl_rewards:short"},
        {**reward, "name": "centred", "function": "trl_rewards:centred", "batch": 0},
        {**reward, "name": "bounded", "function": "trl_rewards:brevity", "range": (-2.0, 0.0)},
    ]  # fmt: skip
    texts = ["yes", "no", "maybe"]
    prompts = [_prompt(a, id=str(i), meta={"grade": 3}) for i, a in enumerate(["yes", None, "x"])]
    with pool.VerifierPool(specs, workers=1) as p:
        verdicts = p.verify([base.Trajectory(t) for t in texts], prompts)
    by_name = {name: [v[name] for v in verdicts] for name in verdicts[0]}
    assert [v.score for v in by_name["brevity"]] == [-3.0, -2.0, -5.0]
    assert [v.score for v in by_name["matches"]] == [1.0, None, 0.0]
    assert [v.outcome for v in by_name["matches"]] == ["correct", "unparsable", "incorrect"]
    assert [v.score for v in by_name["chat"]] == [1.0, 0.0, 0.0]
    assert [v.score for v in by_name["short"]] == [1.0, 1.0, 1.0], "judged one by one in the end"
    assert sum(v.score for v in by_name["centred"]) == pytest.approx(0.0)
    assert [v.outcome for v in by_name["bounded"]] == ["invalid", "incorrect", "invalid"]
    assert "range=(low, high)" in by_name["bounded"][0].detail


RANKS = """
import os, time

def rank(completions, **kwargs):
    if "raise" in completions: raise RuntimeError("a bad row")
    if "hang" in completions: time.sleep(1000)
    if "exit" in completions: os._exit(3)
    order = sorted(completions, key=len)
    return [order.index(c) / max(len(order) - 1, 1) for c in completions]
"""


def test_rows_that_are_compared_are_judged_together_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "trl_ranks.py").write_text(RANKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = dict(fn="trl.reward", name="rank", function="trl_ranks:rank")
    whole, some = {**spec, "batch": 0}, {**spec, "name": "some", "batch": 64}
    with pool.VerifierPool([whole, some], workers=1, deadline=1.0) as p:

        def judged(name, *texts):
            own = _prompt(None, verifier=name)
            found = p.verify([base.Trajectory(t) for t in texts], [own] * len(texts))
            return [(v[name].score, v[name].outcome) for v in found]

        rows = ["a", "bb", "ccc"]
        assert [score for score, _ in judged("rank", *rows)] == [0.0, 0.5, 1.0]
        for bad, outcome in (("raise", "crash"), ("exit", "crash"), ("hang", "timeout")):
            assert judged("rank", *rows, bad) == [(None, outcome)] * 4, "a rank of one row is none"
        assert [score for score, _ in judged("rank", *rows)] == [0.0, 0.5, 1.0]
        assert [outcome for _, outcome in judged("some", *rows, "raise")][3] == "crash"
        assert [score for score, _ in judged("some", *rows, "raise")][:3] == [0.0] * 3, "one by one"
        assert p.coupled([_prompt(None)]) and p.coupled([_prompt(None, verifier="rank")])
        assert not p.coupled([_prompt(None, verifier="some")]) and not p.coupled([])


@pytest.mark.parametrize("index", [0, 1])
def test_one_process_of_several_judges_rows_that_are_compared(monkeypatch, index):
    class Pool:
        def coupled(self, prompts):
            return any(prompt.id == "compared" for prompt in prompts)

    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed.jax, "process_index", lambda: index)
    own = tools.Tools.__new__(tools.Tools)
    own.pool = Pool()
    rows = [(base.Trajectory(str(i)), _prompt(None)) for i in range(4)]
    assert own._part(rows) == rows[2 * index : 2 * index + 2]
    rows[3] = (rows[3][0], _prompt(None, id="compared"))
    assert own._part(rows) == (rows if index == 0 else [])


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
    st.text(max_size=80)
    | st.from_regex(r"(\\boxed\{[-0-9a-z+^{}()\\/!., ]{0,20}\}?|<answer>|5){1,3}")
)
def test_verifiers_are_total(text):
    for verify, answer, kw in (
        (number.number, "5", {}),
        (number.number, "5", {"extract": "boxed"}),
        (math.math, "word", {}),
        (choice.choice, "A", {}),
        (pattern.format, None, {}),
        (pattern.regex, "5", {}),
    ):
        verdict = _judge(verify, text, answer, **kw)
        again = base.validated(verdict.score, verdict.outcome, verdict.detail, 0.0, 1.0)
        assert again == verdict, (verify, verdict)
