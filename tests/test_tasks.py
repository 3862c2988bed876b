"""Tasks, splits, and the order in which prompts come."""

import json
import subprocess
import sys

import pytest

from rlpt import config
from rlpt.tasks import arithmetic, base, stream


def _operands(prompt, sign="+"):
    return tuple(int(x) for x in prompt.id.partition(":")[2].split(sign))


def _run(code):
    """Runs Python code in a fresh process; its output."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_host_packages_import_no_jax():
    out = _run(
        "import sys, pkgutil, importlib, rlpt.tasks, rlpt.verifiers\n"
        "for package in (rlpt.tasks, rlpt.verifiers):\n"
        "    for m in pkgutil.iter_modules(package.__path__):\n"
        "        importlib.import_module(f'{package.__name__}.{m.name}')\n"
        "heavy = ('jax', 'transformers', 'tensorflow', 'torch', 'sympy', 'reasoning_gym')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    assert out == "[]", "these were imported by rlpt.tasks or rlpt.verifiers"


def test_stable_id_and_split():
    assert base.stable_id("sums:7+5") == 1841619607, "keys of old runs depend on it"
    ids = [base.stable_id(f"p{i}") for i in range(1000)]
    assert all(0 <= i < 2**31 for i in ids) and len(set(ids)) == 1000
    share = sum(base.split_of(str(i), 0.25, 3) == "eval" for i in range(4000)) / 4000
    assert abs(share - 0.25) < 0.03, share
    with pytest.raises(base.TaskError, match="eval_fraction: got 1.5"):
        base.split_of("x", 1.5)
    with pytest.raises(base.TaskError, match="got 'test', expected one of train, eval"):
        arithmetic.sums("test")


@pytest.mark.parametrize("seed", range(5))
def test_sums_of_one_digit(seed):
    train, held_out = arithmetic.sums("train", seed=seed), arithmetic.sums("eval", seed=seed)
    assert len(train) + len(held_out) == 100
    assert len(held_out) >= 25, "too few held-out pairs for a readable figure"
    held = {_operands(p) for p in held_out}
    assert held == {(b, a) for a, b in held}, "both orders of a held-out pair are held out"
    assert not held & {_operands(p) for p in train}
    for p in train:
        a, b = _operands(p)
        assert p.answer == str(a + b)
        assert p.messages[0] == {"role": "system", "content": "Answer with a number."}
        assert p.messages[1] == {"role": "user", "content": f"{a} + {b} ="}
        assert p.question == f"{a} + {b} ="


def test_arithmetic_is_the_same_in_another_process():
    here = [p.id for p in arithmetic.sums("train")][:5]
    code = "from rlpt.tasks import arithmetic as a; print([p.id for p in a.sums('train')][:5])"
    assert _run(code) == str(here)


def test_large_spaces_are_sampled_and_disjoint():
    train = arithmetic.sums("train", digits=3, terms=3, size=500)
    held_out = arithmetic.sums("eval", digits=3, terms=3, size=300)
    assert (len(train), len(held_out)) == (500, 300)
    assert arithmetic.sums("train", digits=3, terms=3, size=500) == train
    held = {tuple(sorted(_operands(p))) for p in held_out}
    assert not held & {tuple(sorted(_operands(p))) for p in train}
    assert all(p.answer == str(sum(_operands(p))) for p in train)
    long = arithmetic.sums("train", low=0, high=1, terms=14, size=100)
    assert len(long) == 100, "many terms of few values are enumerated without permutations"


def test_other_arithmetic():
    for p in arithmetic.products("train", digits=2, size=50):
        a, b = _operands(p, "*")
        assert p.answer == str(a * b) and p.question == f"{a} * {b} ="
    plain = arithmetic.differences("train")
    assert all(int(p.answer) >= 0 for p in plain)
    assert any(int(p.answer) < 0 for p in arithmetic.differences("train", negative=True))
    for p in arithmetic.larger("eval", system=""):
        a, b = _operands(p, ",")
        assert a != b and p.answer == str(max(a, b))
        assert [m["role"] for m in p.messages] == ["user"]
    with pytest.raises(base.TaskError, match="low=5, high=2"):
        arithmetic.sums("train", low=5, high=2)
    with pytest.raises(base.TaskError, match="eval_fraction: got 0.0"):
        arithmetic.sums("train", eval_fraction=0.0)


def test_tasks_are_found_by_name():
    assert config.find("tasks", "arithmetic.sums") is arithmetic.sums
    with pytest.raises(config.ConfigError, match="Did you mean 'arithmetic.sums'"):
        config.find("tasks", "arithmetics.sums")


def _prompts(name, n):
    return [base.Prompt(f"{name}{i}", base.chat(str(i))) for i in range(n)]


def _stream(seed=0):
    sources = [
        stream.Source("a", _prompts("a", 7), weight=3.0),
        stream.Source("b", _prompts("b", 11)),
    ]
    return stream.Stream(sources, seed)


def _ids(draws):
    return [(p.id, occurrence) for p, occurrence in draws]


def test_stream_shows_every_prompt_once_an_epoch():
    draws = _ids(stream.Stream([stream.Source("a", _prompts("a", 7))], seed=1).take(21))
    epochs = [draws[i : i + 7] for i in (0, 7, 14)]
    for n, epoch in enumerate(epochs):
        assert sorted(epoch) == [(f"a{i}", n) for i in range(7)]
    assert [i for i, _ in epochs[0]] != [i for i, _ in epochs[1]], "reshuffled each epoch"
    other = _ids(stream.Stream([stream.Source("a", _prompts("a", 7))], seed=2).take(21))
    assert other != draws


def test_stream_mixes_by_weight():
    draws = _stream().take(2000)
    share = sum(p.id.startswith("a") for p, _ in draws) / 2000
    assert abs(share - 0.75) < 0.03, share
    assert len(set(_ids(draws))) == 2000, "a prompt and its occurrence name a draw"


@pytest.mark.parametrize("cut", [0, 1, 6, 7, 20, 333])
def test_stream_resumes_exactly(cut):
    whole = _ids(_stream().take(cut + 50))
    first = _stream()
    first.take(cut)
    state = json.loads(json.dumps(first.get_state()))
    second = _stream()
    second.set_state(state)
    assert _ids(second.take(50)) == whole[cut:]
    first.take(50)
    assert second.get_state() == first.get_state()


def test_stream_refuses_another_runs_state():
    state = _stream().get_state()
    with pytest.raises(base.TaskError, match="saved with other seed: 0, now 5"):
        _stream(seed=5).set_state(state)
    fewer = stream.Stream([stream.Source("a", _prompts("a", 7))], seed=0)
    with pytest.raises(base.TaskError, match="saved with other sources"):
        fewer.set_state(state)
    changed = stream.Stream(
        [stream.Source("a", _prompts("a", 7)), stream.Source("b", _prompts("c", 11))], seed=0
    )
    with pytest.raises(base.TaskError, match="saved with other prompts of 'b'"):
        changed.set_state(state)


def test_stream_refuses_bad_sources():
    with pytest.raises(base.TaskError, match="no sources"):
        stream.Stream([])
    with pytest.raises(base.TaskError, match="'a' has no prompts"):
        stream.Stream([stream.Source("a", [])])
    with pytest.raises(base.TaskError, match="the id 'x0' is in 'a' and again in 'b'"):
        sources = [stream.Source("a", _prompts("x", 1)), stream.Source("b", _prompts("x", 1))]
        stream.Stream(sources)
    with pytest.raises(base.TaskError, match="weight 0.0, expected > 0"):
        stream.Stream([stream.Source("a", _prompts("a", 1), weight=0.0)])


def _curriculum(**kw):
    return stream.Curriculum(stream.Stream([stream.Source("a", _prompts("a", 20))]), **kw)


def test_curriculum_prefers_the_band():
    c = _curriculum(revisit=0.0, patience=50)
    for i in range(20):
        c.update(f"a{i}", 0.0 if i < 8 else 1.0 if i < 15 else 0.5)
    assert {p.id for p, _ in c.take(15)} == {f"a{i}" for i in range(15, 20)}
    untried = _curriculum(revisit=0.0)
    assert len({p.id for p, _ in untried.take(20)}) == 20, "untried prompts are in the band"


def test_curriculum_fills_up_with_the_nearest_and_tries_again():
    c = _curriculum(low=0.3, high=0.7, revisit=0.0, patience=1)
    for i in range(20):
        c.update(f"a{i}", i / 20)
    ids = [int(p.id[1:]) for p, _ in c.take(20)]
    assert sorted(ids) == list(range(20)), "patience 1 takes what comes"
    assert set(ids[:7]) == set(range(7, 14)), "the band first"
    assert ids[-1] == 0 and set(ids[7:9]) == {6, 14}, "then the nearest to the band"
    always = _curriculum(revisit=1.0)
    for i in range(20):
        always.update(f"a{i}", 0.0)
    plain = stream.Stream([stream.Source("a", _prompts("a", 20))])
    assert _ids(always.take(10)) == _ids(plain.take(10))


def test_curriculum_rate_and_state():
    c = _curriculum(momentum=0.75)
    c.update("a0", 1.0)
    c.update("a0", 0.0)
    c.update("a0", float("nan"))
    c.update("a1", 1.0)
    c.take(9)
    state = json.loads(json.dumps(c.get_state()))
    assert state["rates"] == {"a0": 0.75, "a1": 1.0}
    resumed = _curriculum(momentum=0.75)
    resumed.set_state(state)
    assert _ids(resumed.take(30)) == _ids(c.take(30))
    with pytest.raises(base.TaskError, match=r"pass rate 1.5 of 'a0', expected in \[0, 1\]"):
        c.update("a0", 1.5)
    with pytest.raises(base.TaskError, match="low=0.9, high=0.1"):
        _curriculum(low=0.9, high=0.1)


def test_filter_long():
    prompts = [base.Prompt(f"p{n}", base.chat("x" * n)) for n in (3, 9, 5)]

    def length(p):
        return len(p.question)

    kept, dropped = stream.filter_long(prompts, length, 5)
    assert [p.id for p in kept] == ["p3", "p5"] and dropped == 1
    with pytest.raises(base.TaskError, match="'p9' has 9 tokens, the limit is 5"):
        stream.filter_long(prompts, length, 5, policy="fail")
    with pytest.raises(base.TaskError, match="all 3 prompts are longer than 2 tokens"):
        stream.filter_long(prompts, length, 2)
    with pytest.raises(base.TaskError, match="policy 'cut'"):
        stream.filter_long(prompts, length, 2, policy="cut")
