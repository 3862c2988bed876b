"""Tasks, splits, and the order in which prompts come."""

import json
import subprocess
import sys

import pytest

import rlpt.build
from rlpt import config
from rlpt.tasks import arithmetic, base, build, files, reasoning_gym, stream, tfds
from tests.test_train import toy


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


def test_curriculum_by_uncertainty():
    """Prompts come as often as 2 sqrt(r (1 - r)) says: 1, 0.8, 0.6, and 0.1 for what is known."""
    c = _curriculum(by="uncertainty", revisit=0.1, patience=10**6)
    rates = {"a0": 0.5, "a1": 0.2, "a2": 0.1, "a3": 1.0, "a4": 0.0}
    for i in range(20):
        c.update(f"a{i}", rates.get(f"a{i}", 0.0))
    ids = [p.id for p, _ in c.take(4300)]
    count = {k: ids.count(k) for k in rates}
    chance = {"a0": 1.0, "a1": 0.8, "a2": 0.6, "a3": 0.1, "a4": 0.1}
    for k, want in chance.items():
        assert count[k] / count["a0"] == pytest.approx(want, abs=0.05), k
    untried = _curriculum(by="uncertainty", revisit=0.0)
    assert len({p.id for p, _ in untried.take(20)}) == 20, "untried prompts are the most uncertain"
    with pytest.raises(base.TaskError, match="got by='doubt', expected 'band' or 'uncertainty'"):
        _curriculum(by="doubt")
    with pytest.raises(base.TaskError, match="by='uncertainty', which has no band"):
        _curriculum(by="uncertainty", low=0.1)


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


# ---- files

ROWS = {
    "gsm8k": {"question": "Tom has 3 pens and 4 more?", "answer": "3+4=<<3+4=7>>7\n#### 1,007"},
    "math": {
        "problem": "What is $1+1$?",
        "solution": "First \\boxed{3}, no: \\boxed{\\frac{4}{2}}.",
        "level": "Level 1",
        "type": "Algebra",
    },
    "dapo": {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": "Solve it."}],
        "ability": "MATH",
        "reward_model": {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": "9a9b6eb4"},
    },
    "humaneval": {
        "task_id": "HumanEval/0",
        "prompt": "def f(x):\n",
        "canonical_solution": "    return x\n",
        "test": "def check(candidate):\n    assert candidate(1) == 1\n",
        "entry_point": "f",
    },
    "mbpp": {
        "task_id": 601,
        "text": "Write a function {like this}.",
        "code": "def f(): pass",
        "test_list": ["assert f(1) == 1", "assert f(2) == 2"],
        "test_setup_code": "",
        "challenge_test_list": [],
    },
}
WANTED = {
    "gsm8k": ("gsm8k/data:1", "Tom has 3 pens and 4 more?", "1,007", {}),
    "math": (
        "math/data:1",
        "What is $1+1$?",
        r"\frac{4}{2}",
        {"level": "Level 1", "type": "Algebra"},
    ),
    "dapo": ("dapo:9a9b6eb4", "Solve it.", "34", {}),
    "humaneval": (
        "humaneval:HumanEval/0",
        "def f(x):\n",
        ROWS["humaneval"]["test"],
        {"entry_point": "f", "prompt": "def f(x):\n"},
    ),
    "mbpp": (
        "mbpp:601",
        "Write a function {like this}.\nYour code should pass these tests:\n\n"
        "assert f(1) == 1\nassert f(2) == 2",
        ["assert f(1) == 1", "assert f(2) == 2"],
        {"test_setup_code": ""},
    ),
}


def _write(path, rows, end="\n"):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + end)
    return str(path)


@pytest.mark.parametrize("layout", files.LAYOUTS)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_layouts(layout, kind, tmp_path):
    path = tmp_path / f"data.{kind}"
    if kind == "jsonl":
        _write(path, [ROWS[layout]])
    else:
        pq = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        row = {k: v for k, v in ROWS[layout].items() if v != []}
        pq.write_table(pyarrow.Table.from_pylist([row]), path)
    load = getattr(files, kind)
    (p,) = load("train", path=str(path), layout=layout, system="Be brief.", verifier="v")
    assert (p.id, p.question, p.answer, p.meta) == WANTED[layout]
    assert p.messages[0] == {"role": "system", "content": "Be brief."}
    assert (p.task, p.verifier) == (layout, "v")


def test_files_of_a_layout_have_ids_of_their_own(tmp_path):
    s = {f"{k}path": _write(tmp_path / f"{k}x.jsonl", [ROWS["gsm8k"]]) for k in ("", "eval_")}
    both = [files.jsonl(split, layout="gsm8k", **s) for split in base.SPLITS]
    assert [b[0].id for b in both] == ["gsm8k/x:1", "gsm8k/eval_x:1"]


def test_held_out_prompts_that_are_trained_on_are_counted(tmp_path, capsys):
    path = _write(tmp_path / "a.jsonl", [{"q": "1 1?"}, {"q": "2  2?", "a": "4"}])
    held_out = _write(tmp_path / "b.jsonl", [{"q": "2 2? ", "a": 4}, {"q": "3?"}])
    c = config.default()
    c.tasks = (dict(fn="files.jsonl", prompt="q", path=path, eval_path=held_out),)
    rlpt.build.load_tasks(c)
    assert "1 of 2 held-out prompts are trained on too" in capsys.readouterr().err
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    rlpt.build.load_tasks(c)
    assert not capsys.readouterr().err


def test_blanks_do_not_part_equal_questions(tmp_path):
    rows = [{"q": f"{i} and  {j}?{end}"} for i in range(9) for j in range(3) for end in ("", " ")]
    s = dict(path=_write(tmp_path / "a.jsonl", rows), prompt="q", eval_fraction=0.3)
    train, held_out = ({p.question.strip() for p in files.jsonl(x, **s)} for x in base.SPLITS)
    assert train and held_out and not train & held_out


def test_two_prompts_of_one_id_are_refused(tmp_path):
    specs = []
    for name, question in (("a", "1?"), ("b", "2?")):
        (tmp_path / name).mkdir()
        places = (tmp_path / f"{name}.jsonl", tmp_path / name / "e.jsonl")
        path, held_out = (_write(place, [{"q": question}]) for place in places)
        specs.append(dict(fn="files.jsonl", label=name, prompt="q", path=path, eval_path=held_out))
    with pytest.raises(config.ConfigError, match=r"two prompts have the id 'e:1' \(a and b\)"):
        rlpt.build.load_tasks(toy(tasks=specs))


def test_jsonl_splits(tmp_path):
    rows = [{"q": f"question {i % 50}", "a": str(i)} for i in range(100)]
    path = _write(tmp_path / "all.jsonl", rows)
    s = dict(path=path, prompt="q", answer="a")
    train = files.jsonl("train", eval_fraction=0.3, **s)
    held_out = files.jsonl("eval", eval_fraction=0.3, **s)
    assert len(train) + len(held_out) == 100 and len(held_out) > 10
    assert not {p.question for p in train} & {p.question for p in held_out}
    assert len(files.jsonl("train", **s)) == 100
    assert [p.id for p in files.jsonl("train", limit=3, **s)] == ["all:1", "all:2", "all:3"]
    with pytest.raises(base.TaskError, match="give eval_path or eval_fraction"):
        files.jsonl("eval", **s)
    other = _write(tmp_path / "test.jsonl", rows[:2])
    assert [p.id for p in files.jsonl("eval", eval_path=other, **s)] == ["test:1", "test:2"]
    with pytest.raises(base.TaskError, match="both eval_path and eval_fraction"):
        files.jsonl("eval", eval_path=other, eval_fraction=0.1, **s)


GOOD = {"q": "1+1?", "a": "#### 2", "n": "x"}


@pytest.mark.parametrize(
    "bad, reason",
    [
        ({"q": "1+1?", "n": "y"}, "no field 'a'; it has: q, n"),
        ({"a": "#### 2", "n": "y"}, "no field 'q'; it has: a, n"),
        ({**GOOD, "a": None}, "field 'a': got None, expected a reference"),
        ({**GOOD, "a": ""}, "field 'a': got '', expected a reference"),
        ({**GOOD, "a": 2}, "field 'a': got 2, expected a text"),
        ({**GOOD, "a": "two"}, "field 'a': no reference in ...'two' by answer_pattern"),
        ({**GOOD, "q": 5}, "field 'q': got 5, expected a text"),
        ({**GOOD, "q": " "}, "field 'q': got ' ', expected a text"),
        ({**GOOD, "n": "x1"}, "the id 'data:x1' occurred before"),
        ({**GOOD, "q": "a \ud800 b"}, "a lone surrogate, '\\ud800', which is no character"),
        ("[" * 100_000, "not JSON: "),
        ([1, 2], "got a JSON list, expected an object"),
        ("{'q': 1}", "not JSON: Expecting property name"),
    ],
)
def test_jsonl_names_bad_rows(bad, reason, tmp_path):
    path = _write(tmp_path / "data.jsonl", [{**GOOD, "n": "x1"}, bad, {**GOOD, "n": "x3"}])
    s = dict(path=path, prompt="q", answer="a", answer_pattern="#### (.+)", id="n")
    with pytest.raises(base.TaskError) as e:
        files.jsonl("train", **s)
    assert f"data.jsonl:2: {reason}" in str(e.value)
    assert "on_bad_row='skip'" in str(e.value)
    kept = files.jsonl("train", on_bad_row="skip", **s)
    assert [p.id for p in kept] == ["data:x1", "data:x3"]


def test_jsonl_damage(tmp_path, caplog):
    s = dict(prompt="q", answer="a")
    path = _write(tmp_path / "cut.jsonl", [GOOD, json.dumps(GOOD)[:-7]], end="")
    with pytest.raises(base.TaskError, match="cut.jsonl:2: not JSON.*was the file cut off"):
        files.jsonl("train", path=path, **s)
    assert len(files.jsonl("train", path=path, on_bad_row="skip", **s)) == 1
    assert "skipped 1 rows; the first" in caplog.text
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(json.dumps(GOOD).encode() + b'\n{"q": "caf\xe9", "a": "1"}\n')
    with pytest.raises(base.TaskError, match="latin.jsonl:2: not UTF-8"):
        files.jsonl("train", path=str(latin), **s)
    empty = _write(tmp_path / "empty.jsonl", [])
    with pytest.raises(base.TaskError, match="empty.jsonl.*no prompts"):
        files.jsonl("train", path=empty, **s)
    bad = _write(tmp_path / "bad.jsonl", ["{"])
    with pytest.raises(base.TaskError, match="1 rows were skipped; the first"):
        files.jsonl("train", path=bad, on_bad_row="skip", **s)
    with pytest.raises(base.TaskError, match="nowhere.jsonl: no such file"):
        files.jsonl("train", path=str(tmp_path / "nowhere.jsonl"), **s)


def test_files_refuse_bad_settings(tmp_path):
    path = _write(tmp_path / "data.jsonl", [GOOD])
    for settings, message in (
        ({}, "got none of prompt, prompt_template and messages"),
        ({"prompt": "q", "messages": "m"}, "got prompt and messages of"),
        ({"layout": "gsm9k"}, "layout: got 'gsm9k', expected one of gsm8k"),
        ({"prompt": "q", "on_bad_row": "ignore"}, "on_bad_row: got 'ignore'"),
        ({"prompt": "q", "answer_pattern": "("}, "does not compile"),
        ({"prompt": "q", "answer_pattern": "x"}, "has no group"),
    ):
        with pytest.raises(base.TaskError, match=message):
            files.jsonl("train", path=path, **settings)
    (p,) = files.jsonl("train", path=path, layout="gsm8k", prompt_template="Q: {q}", answer="a")
    assert (p.question, p.answer) == ("Q: 1+1?", "2"), "settings override the layout"
    rows = [{"q": "Add.", "the text": "1 + 1", "null": None}]
    named = _write(tmp_path / "named.jsonl", rows)
    (p,) = files.jsonl("train", path=named, prompt_template="{q} { the text}? \\boxed{}, {a b}")
    assert p.question == "Add. 1 + 1? \\boxed{}, {a b}", "fields of any name, other braces stay"
    for template, message in (("{q} {null}", "field 'null': got None"), ("{x}", "no field 'x'")):
        with pytest.raises(base.TaskError, match=message):
            files.jsonl("train", path=named, prompt_template=template)
    roles = [{"role": r, "content": "2"} for r in ("user", "assistant")]
    solved = _write(tmp_path / "solved.jsonl", [{"m": roles}])
    with pytest.raises(base.TaskError, match="the last message is the assistant's, '2'"):
        files.jsonl("train", path=solved, messages="m")
    messages = _write(tmp_path / "m.jsonl", [{"m": [{"role": "user"}]}])
    with pytest.raises(base.TaskError, match="m.jsonl:1: field 'm': got .* expected a list of"):
        files.jsonl("train", path=messages, messages="m")


def test_parquet_row_groups_and_damage(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    path = tmp_path / "data.parquet"
    rows = [{"q": f"q{i}", "r": {"gold": str(i)}, "blob": b"\xff"} for i in range(25)]
    pq.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=10)
    s = dict(path=str(path), prompt="q", answer="r.gold")
    prompts = files.parquet("train", **s)
    assert [p.answer for p in prompts] == [str(i) for i in range(25)]
    assert prompts[24].id == "data:25"
    with pytest.raises(base.TaskError, match="row 1: no field 'r.silver'; it has: gold"):
        files.parquet("train", **{**s, "answer": "r.silver"})
    with pytest.raises(base.TaskError, match="row 1: field 'blob': .*not JSON serializable"):
        files.parquet("train", **s, meta=("blob",))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(base.TaskError, match="data.parquet: not a whole Parquet file"):
        files.parquet("train", **s)


# ---- reasoning-gym


def test_reasoning_gym_splits():
    pytest.importorskip("reasoning_gym")
    s = dict(task="chain_sum", config=dict(min_terms=2, max_terms=2, max_digits=1), size=200)
    train, held_out = reasoning_gym.dataset("train", **s), reasoning_gym.dataset("eval", **s)
    assert train == reasoning_gym.dataset("train", **s), "the same each time"
    assert len(train) > 50 and len(held_out) > 10
    assert not {p.question for p in train} & {p.question for p in held_out}
    assert len({p.id for p in train + held_out}) == len(train) + len(held_out)
    assert json.loads(json.dumps(train[0].meta)) == train[0].meta
    first = reasoning_gym.dataset("train", task="gcd", size=5)
    assert len(first) == 5
    assert first != reasoning_gym.dataset("train", task="gcd", size=5, seed=1)


def test_reasoning_gym_refuses():
    pytest.importorskip("reasoning_gym")
    with pytest.raises(base.TaskError, match="got task 'n_queens', expected one of base_conv"):
        reasoning_gym.dataset("train", task="n_queens")
    with pytest.raises(base.TaskError, match="unexpected keyword argument 'max_term'"):
        reasoning_gym.dataset("train", task="chain_sum", config=dict(max_term=2))
    with pytest.raises(base.TaskError, match="eval_fraction=1.0"):
        reasoning_gym.dataset("train", task="gcd", eval_fraction=1.0)


# ---- TFDS

# TensorFlow as if it were installed; importing it raises.
NO_TENSORFLOW = """
import importlib.util, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "tensorflow":
            return importlib.util.spec_from_loader(name, self)

    def exec_module(self, module):
        raise RuntimeError("tensorflow was imported")

    def create_module(self, spec):
        return None

sys.meta_path.insert(0, Refuse())
"""


def test_tfds_round_trip_without_tensorflow(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    out = _run(
        NO_TENSORFLOW + "from rlpt.tasks import base, build, tfds, arithmetic\n"
        "specs = (dict(fn='arithmetic.sums', weight=2.0, label='sums 1'),\n"
        "         dict(fn='arithmetic.larger', verifier='choice'))\n"
        f"build.build(specs, 'mixed', {str(tmp_path)!r})\n"
        f"train = tfds.dataset('train', builder='mixed', data_dir={str(tmp_path)!r})\n"
        "wanted = [p for s in specs for p in build.load(s, 'train')]\n"
        "print(train == wanted, len(train), 'tensorflow' in sys.modules)\n"
        "print({(p.task, p.verifier) for p in train} == "
        "{('sums 1', ''), ('larger', 'choice')})"
    ).splitlines()
    assert out[-2:] == ["True 137 False", "True"]
    answer = {"b": [1, None, 2.5], "a": "x"}
    prompt = base.Prompt("id/1", base.chat("q\u00e9", "s"), answer, {"k": [1]}, "v", "t")
    tfds.build({"eval": [prompt]}, "one", str(tmp_path))
    assert tfds.dataset("eval", builder="one", data_dir=str(tmp_path)) == [prompt]
    with pytest.raises(base.TaskError, match="has no split 'train'; it has eval"):
        tfds.dataset("train", builder="one", data_dir=str(tmp_path))
    with pytest.raises(base.TaskError, match="is there already"):
        tfds.build({"eval": [prompt]}, "one", str(tmp_path))
    with pytest.raises(base.TaskError, match="no .*two.* write it with"):
        tfds.dataset("eval", builder="two", data_dir=str(tmp_path))
    with pytest.raises(base.TaskError, match="got name 'My-Sums'"):
        tfds.build({"eval": [prompt]}, "My-Sums", str(tmp_path))
    with pytest.raises(base.TaskError, match="the id 'id/1' occurs twice"):
        tfds.build({"eval": [prompt, prompt]}, "two", str(tmp_path))


def test_load_checks_settings():
    with pytest.raises(config.ConfigError, match="Did you mean 'digits'"):
        build.load(dict(fn="arithmetic.sums", digit=1), "train")
