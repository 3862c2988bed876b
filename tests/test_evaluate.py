"""Evaluations: the estimators against enumeration, resumption, servers, comparisons."""

import concurrent.futures
import itertools
import json
import math
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from rlpt import build, cli, evaluate, records, results, statistics, tools
from rlpt.endpoint import Endpoint, EndpointError
from rlpt.tasks.base import Prompt, chat
from rlpt.verifiers import base
from rlpt.verifiers.base import Traits, Verdict, judged, unparsable
from rlpt.verifiers.pool import VerifierPool
from tests.test_train import toy

# ---- estimators


@pytest.mark.parametrize(
    ("n", "correct", "k", "expected"),
    [
        *((4, 2, k, p) for k, p in ((1, 0.5), (2, 5 / 6), (4, 1.0))),
        *((16, 4, k, p) for k, p in ((2, 0.45), (4, 0.728022), (8, 0.961538), (16, 1.0))),
        (3, 2, 1, 2 / 3),
        (4, 1, 4, 1.0),  # drawn with replacement it would be 1 - 0.75**4 = 0.684
        (10, 3, 5, 0.916667),
        (5, 0, 5, 0.0),
    ],
)
def test_pass_at_k_by_hand(n, correct, k, expected):
    assert statistics.pass_at_k(n, np.array([correct]), k)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_pass_k_is_unbiased(p):
    n = 8
    weight = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    for k in range(1, n + 1):
        any_of = statistics.pass_at_k(n, np.arange(n + 1), k)
        all_of = statistics.pass_all_k(n, np.arange(n + 1), k)
        assert np.dot(weight, any_of) == pytest.approx(1 - (1 - p) ** k), f"pass@{k}"
        assert np.dot(weight, all_of) == pytest.approx(p**k), f"pass^{k}"


def rows_of_completions():
    """40 random prompts: (hits, answers, scores)."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        n = int(rng.integers(1, 8))
        answers = [(None, "a", "b", "c")[i] for i in rng.integers(0, 4, n)]
        scores = [(None, 0.0, 1.0, 2.0)[i] for i in rng.integers(0, 4, n)]
        yield rng.integers(0, 2, n).astype(bool).tolist(), answers, scores


def test_majority_of_thousands_of_samples():
    """The number of subsets is beyond a float."""
    hits, answers = [True] * 1500 + [False] * 600, ["a"] * 1500 + ["b"] * 600
    assert statistics.majority_at_k(hits, answers, 3) == pytest.approx(
        1 - sum(math.comb(600, j) * math.comb(1500, 3 - j) for j in (2, 3)) / math.comb(2100, 3)
    )


def test_majority_is_the_mean_over_all_subsets():
    for hits, answers, _ in rows_of_completions():
        n = len(hits)
        worth = {a: np.mean([hits[i] for i in range(n) if answers[i] == a]) for a in set(answers)}
        for k in range(1, n + 1):
            values = []
            for subset in itertools.combinations(answers, k):
                votes = [a for a in subset if a is not None]
                most = max(map(votes.count, votes), default=0)
                winners = [a for a in set(votes) if votes.count(a) == most]
                values.append(np.mean([worth[a] for a in winners]) if winners else 0.0)
            got = statistics.majority_at_k(hits, answers, k)
            assert got == pytest.approx(np.mean(values), abs=1e-12), (hits, answers, k)


def test_best_of_k_is_the_mean_over_all_subsets():
    assert statistics.best_of_k([False, True, True], [3, 2, 1], 2) == pytest.approx(1 / 3)
    for hits, _, scores in rows_of_completions():
        values = [-math.inf if s is None else s for s in scores]
        for k in range(1, len(hits) + 1):
            each = []
            for subset in itertools.combinations(range(len(hits)), k):
                top = max(values[i] for i in subset)
                each.append(np.mean([hits[i] for i in subset if values[i] == top]))
            got = statistics.best_of_k(hits, scores, k)
            assert got == pytest.approx(np.mean(each), abs=1e-12), (hits, scores, k)


def test_k_beyond_the_samples_is_refused():
    for estimate in (
        lambda k: statistics.pass_at_k(4, np.array([1]), k),
        lambda k: statistics.pass_all_k(4, np.array([1]), k),
        lambda k: statistics.majority_at_k([True] * 4, ["a"] * 4, k),
        lambda k: statistics.best_of_k([True] * 4, [1.0] * 4, k),
    ):
        for k in (0, 5):
            with pytest.raises(ValueError, match=f"got k={k} with n=4"):
                estimate(k)


def test_calibration_by_hand():
    found = statistics.calibration(np.array([0.9, 0.9, 0.1, 1.0]), np.array([1, 0, 0, 1], bool))
    # bins: [0.1, 0.2) one row off by 0.1; [0.9, 1] three rows, accuracy 2/3, confidence 2.8/3
    assert found["ece"] == pytest.approx(0.25 * 0.1 + 0.75 * (2.8 - 2) / 3)
    assert found["brier"] == pytest.approx((0.01 + 0.81 + 0.01 + 0) / 4)
    assert [b["rows"] for b in found["bins"]] == [1, 3]
    for bad in ([], [1.5]):
        with pytest.raises(ValueError, match="expected some, within"):
            statistics.calibration(np.array(bad), np.zeros(len(bad), bool))


def test_bootstrap_covers_what_it_says():
    rng = np.random.default_rng(1)
    inside = 0
    for trial in range(300):
        values = rng.random(60) < 0.3
        low, high = statistics.bootstrap(values, resamples=300, seed=trial)
        inside += low <= 0.3 <= high
    assert 0.90 <= inside / 300 <= 0.98, f"the 95 % interval covers {inside / 3:.1f} %"
    assert statistics.bootstrap(values, seed=3) == statistics.bootstrap(values, seed=3)
    assert statistics.bootstrap(np.ones(5)) == (1.0, 1.0)
    with pytest.raises(ValueError, match="no values"):
        statistics.bootstrap(np.array([]))


def test_sign_test_and_pairs():
    wins, losses, p = statistics.sign_test(np.array([1] * 8 + [-1] * 2 + [0] * 5))
    assert (wins, losses) == (8, 2) and p == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert statistics.sign_test(np.zeros(3)) == (0, 0, 1.0)
    assert statistics.sign_test(np.array([1, -1]))[2] == 1.0, "a p-value above 1"
    # Both vary a lot between prompts, and the new one is always a little better.
    base = np.linspace(0, 0.9, 50)
    found = statistics.paired(base + 0.1 + 0.01 * np.sin(np.arange(50)), base)
    assert 0.09 < found["low"] < found["difference"] < found["high"] < 0.11, found
    assert found["wins"] == 50 and found["p"] == pytest.approx(2 / 2**50)
    with pytest.raises(ValueError, match="expected the same"):
        statistics.paired(np.ones(2), np.ones(3))


def test_students_interval():
    for freedom, expected in ((1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (30, 2.0423)):
        assert statistics.t_quantile(0.975, freedom) == pytest.approx(expected, abs=1e-4), freedom
    low, high = statistics.t_interval(np.array([1.0, 2.0, 3.0]))
    assert (low + high) / 2 == pytest.approx(2)
    assert (high - low) / 2 == pytest.approx(4.3027 / 3**0.5, abs=1e-4)
    assert statistics.t_interval(np.array([1.0])) is None, "one seed has no interval"


# ---- what is correct, and what is voted for


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{12}, not 7", "12"),
        ("it is 12.0", "12"),
        ("24/2", "12"),
        ("<answer>1,000</answer> 5", "1000"),
        (r"\boxed{ x + y }", "x+y"),
        ("no idea", None),
        (r"\boxed{}", None),
        (r"\boxed{\frac{1}{2}}", "1/2"),
        (r"\boxed{\dfrac{1}{2}}", "1/2"),
        (r"\boxed{1/2}", "1/2"),
        (r"\boxed{$12$}", "12"),
        (r"\boxed{x = 12}", "12"),
        (r"\boxed{50\%}", "50"),
        (r"\boxed{\text{red}}", "red"),
        (r"\boxed{Paris}", "paris"),
        (r"\boxed{New  York}", "newyork"),
        (r"\boxed{AB}", "AB"),
        (r"\boxed{1{,}000}", "1000"),
        (r"\boxed{1\,000}", "1000"),
        (r"\boxed{12\text{ cm}}", "12"),
        (r"\boxed{413_5}", "413_5"),
        (r"\boxed{413_{5}}", "413_5"),
    ],
)
def test_canonical_answers(text, answer):
    assert evaluate.canonical(text) == answer


def test_verifiers_of_weight_0_do_not_count():
    specs = [dict(name="a"), dict(name="b", weight=0.0), dict(name="c", weight=-1.0)]
    assert base.counted_names(specs) == ("a", "c")
    assert base.counted_names([dict(name="b", weight=0.0)]) == ("b",), "none is left to count"
    verdicts = {"a": judged(True), "b": judged(False)}
    assert not base.correct(verdicts) and base.correct(verdicts, ("a", "c"))
    assert not base.correct({"b": judged(True)}, ("a",)), "nobody who counts judged it"
    assert not base.correct({"a": unparsable("")}, ("a",))
    text = tools.Text([Prompt("p", chat("?"))], [""], [["x"]], [[verdicts]])
    batch = tools.Batch(plain_table(1), text)
    assert records.pass_rates(batch) == {"p": 0.0}
    assert records.pass_rates(batch, ("a",)) == {"p": 1.0}
    assert records.pass_rates(batch, ("c",)) == {}, "judged by nobody who counts"
    batch.left_out = [("p", {"a": "incorrect"}), ("q", {"a": "correct"}), ("r", {})]
    assert records.pass_rates(batch, ("a",)) == {"p": 0.5, "q": 1.0}, "of all that were judged"


def plain_table(blocks):
    ones = np.ones((blocks, 1))
    table = {"row_mask": ones > 0, "origin": 0 * ones, "group": 0 * ones[:, 0]}
    return table | {"prompt_tokens": 0 * ones, "prompt_mask": ones > 0}


def test_what_a_hint_brought_is_no_pass_rate():
    right, wrong = {"a": judged(True)}, {"a": judged(False)}
    prompt = Prompt("p", chat("?"))
    text = tools.Text([prompt] * 3, [""] * 3, [["x"]] * 3, [[wrong], [right], [right]])
    batch = tools.Batch(plain_table(3), text)
    batch.table["prompt_tokens"][1] = 7  # trained under the hint
    batch.table["origin"][2] = 1  # trained without it
    assert records.pass_rates(batch) == {"p": 0.0}
    batch.table["origin"][2] = 2
    assert records.pass_rates(batch) == {"p": 0.5}, "of older weights: it is the policy's"


# ---- a model by name

DIGIT = dict(fn="tests.toy:starts_with_digit", name="digit")


def small(**changes):
    return toy(eval__prompts=6, rollout__prompts=2, eval__samples=4, **changes)


def without_rows(result):
    return {k: v for k, v in result.items() if k != "per_prompt"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return evaluate.evaluate_source(small(), "toy", cache=tmp_path_factory.mktemp("whole"))


def test_prompts_that_do_not_fit_are_counted(capsys):
    tasks = (dict(fn="arithmetic.sums", low=8, high=12),)  # of one digit and of two
    config = toy(tasks=tasks, eval__prompts=0, eval__samples=1)
    _, prompts = build.load_tasks(config)
    tools, _ = evaluate._load(config, "toy", None)
    lengths = sorted(len(tools.encode(p)) for p in prompts)
    fit = lengths.index(lengths[-1])
    assert 0 < fit < len(prompts)
    config.sampling.prompt_buckets = (lengths[-1] - 1,)
    result = evaluate.evaluate_source(config, "toy")
    left_out = len(prompts) - fit
    assert (result["prompts"], result["too_long"]) == (fit, left_out)
    assert f"{left_out} held-out prompts of more than" in "".join(capsys.readouterr())


def test_what_is_evaluated_is_computed_as_the_config_says():
    def dtypes(**changes):
        tools, _ = evaluate._load(small(**changes), "toy", None)
        return tools.model.matmul, tools.params["layers"]["q"]

    matmul, exact = dtypes()
    assert matmul == "default" and exact.dtype == np.float32
    matmul, bits = dtypes(model__matmul_precision="bfloat16")
    assert matmul == "bfloat16" and bits.dtype == np.uint16
    _, small_kernel = dtypes(sampling__weights="int8")
    assert small_kernel.values.dtype == np.int8


@pytest.fixture
def calls(monkeypatch):
    """Prompts that were judged, batch by batch; `calls.stop_at` interrupts before that batch."""
    judge = evaluate.judge

    class Calls(list):
        stop_at = None

    calls = Calls()

    def watched(sampler, verify, prompts, **kw):
        if len(calls) == calls.stop_at:
            raise KeyboardInterrupt
        calls.append([p.id for p in prompts])
        return judge(sampler, verify, prompts, **kw)

    monkeypatch.setattr(evaluate, "judge", watched)
    return calls


def test_all_measures_of_a_model(whole):
    expected = {"pass@1", "pass@2", "pass@4", "pass^2", "pass^4", "avg@4", "maj@2", "maj@4"}
    assert set(whole["intervals"]) == expected | {"greedy"}
    rows = whole["per_prompt"].values()
    assert whole["avg@4"] == np.mean([h for r in rows for h in r["hits"]]) == whole["pass@1"]
    assert whole["pass@4"] == np.mean([any(r["hits"]) for r in rows])
    assert 0 < whole["pass@1"] < whole["pass@4"], "the toy model is always or never right"
    for name, (low, high) in whole["intervals"].items():
        assert low <= whole[name] <= high, name
    assert whole["outcomes"]["digit/correct"] == sum(r["correct"] for r in rows)
    shown = results.table(whole)
    assert "6 prompts x 4 samples" in shown and "percentile bootstrap over prompts" in shown


def test_the_trainer_sees_the_same_numbers(whole):
    """In other batches, too: draws belong to prompts."""
    config, seen = small(), []
    _, prompts = build.load_tasks(config)
    with VerifierPool(config.verifiers) as pool:
        with_model, _ = evaluate._load(config, "toy", pool)
        again = evaluate.evaluate(with_model, prompts, samples=4, blocks=4, done=seen.append)
    assert seen == [4, 2], "progress counts prompts"
    for name in ("pass@1", "pass@2", "pass@4", "greedy", "length", "truncated", "outcomes"):
        assert again[name] == whole[name], name
    for name, row in again["per_prompt"].items():
        assert row == {k: whole["per_prompt"][name][k] for k in row}, name


def test_an_interrupted_evaluation_goes_on(whole, calls, tmp_path, capsys):
    calls.stop_at = 1
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate_source(small(), "toy", cache=tmp_path)
    (file,) = tmp_path.iterdir()
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) == 3, "a line for what it is, and one for each of two prompts"
    file.write_text("".join(lines)[:-5])  # killed while it wrote the last of them
    calls.stop_at = None
    result = evaluate.evaluate_source(small(), "toy", cache=tmp_path)
    assert sum(calls, [])[2:] == list(result["per_prompt"])[1:], "judged again or not at all"
    assert "1 of 6 prompts are in" in capsys.readouterr().out
    assert result == whole
    file.write_text("{}\n!\n")
    with pytest.raises(ValueError, match="is damaged .*; delete it"):
        evaluate.evaluate_source(small(), "toy", cache=tmp_path)


def test_what_is_known_is_not_computed_again(whole, calls, tmp_path, capsys):
    first = evaluate.evaluate_source(small(), "toy", cache=tmp_path)
    out = capsys.readouterr().out
    assert "evaluate: 6 in " in out, "progress counts prompts"
    assert len(calls) == 3
    assert evaluate.evaluate_source(small(), "toy", cache=tmp_path) == first == whole
    assert len(calls) == 3, "judged again"
    always = (dict(fn="tests.toy:always", name="digit"),)
    others = [("toy", small(seed=1, verifiers=always)), ("toy:seed=1", small())]
    keys = {json.dumps(first["key"])}
    for source, config in others:
        calls.clear()
        keys.add(json.dumps(evaluate.evaluate_source(config, source, cache=tmp_path)["key"]))
        assert len(calls) == 3, f"{source} took another's rows"
    assert len(keys) == len(list(tmp_path.iterdir())) == 3


def flaky(trajectory, prompt, *, down):
    """Right, or no verdict while there is a file of that name."""
    if pathlib.Path(down).exists():
        return Verdict(None, "crash", "down")
    return judged(True)


def test_an_outage_is_said_and_not_remembered(tmp_path, capsys):
    down = tmp_path / "down"
    spec = dict(fn="tests.test_evaluate:flaky", name="v", down=str(down))
    config = small(verifiers=(spec,))
    down.touch()
    first = evaluate.evaluate_source(config, "toy", cache=tmp_path / "cache")
    assert first["pass@1"] == 0 and first["missing"] == 1.0
    assert "1.0000  of the completions have no verdict" in results.table(first)
    down.unlink()
    again = evaluate.evaluate_source(config, "toy", cache=tmp_path / "cache")
    assert again["pass@1"] == 1 and "missing" not in again
    assert "0 of 6 prompts" not in capsys.readouterr().out
    with_model = results.summary(list(first["per_prompt"].values()))
    assert with_model["missing"] == 1.0, "the trainer's evaluation says it too"


def longer_is_better(trajectory, prompt):
    return Verdict(min(len(trajectory.text) / 10, 1.0), "incorrect")


def states_confidence(trajectory, prompt):
    """As `confidence.confidence`, by the length of the text."""
    n = len(trajectory.text)
    return Verdict(n / 10, "correct") if n % 2 else Verdict(-1.0, "incorrect")


def test_scorers_judges_and_confidence(monkeypatch):
    monkeypatch.setattr(evaluate, "CONFIDENCE", "tests.test_evaluate:states_confidence")
    config = small(
        verifiers=(
            DIGIT,
            dict(fn="tests.test_evaluate:longer_is_better", name="length", weight=0.0),
            dict(fn="tests.toy:always", name="sound", score=0.0, weight=0.0),
            dict(
                fn="tests.test_evaluate:states_confidence", name="sure", weight=0.0,
                range=(-1.0, 1.0),
            ),
        )
    )  # fmt: skip
    result = evaluate.evaluate_source(config, "toy", best_of="length", cot="sound")
    rows = list(result["per_prompt"].values())
    assert result["pass@1"] > 0, "verifiers of weight 0 count"
    assert result["cot_pass@4"] == 0, "the judge of the reasoning finds nothing sound"
    best = [
        statistics.best_of_k(r["hits"], [score for score, _ in r["verdicts"]["length"]], 4)
        for r in rows
    ]
    assert result["best@4"] == pytest.approx(np.mean(best))
    stated = [
        (score, hit)
        for r in rows
        for hit, (score, outcome) in zip(r["hits"], r["verdicts"]["sure"], strict=True)
        if outcome == "correct"
    ]
    found = result["calibration"]
    assert found["rows"] == len(stated) and found["unstated"] == 24 - len(stated)
    assert found["brier"] == pytest.approx(np.mean([(s - h) ** 2 for s, h in stated]))
    assert "brier" in results.table(result)
    for flag in ("best_of", "cot"):
        with pytest.raises(ValueError, match=f"{flag}: got 'nobody'"):
            evaluate.evaluate_source(config, "toy", **{flag: "nobody"})


def test_greedy_only_and_no_prompts():
    result = evaluate.evaluate_source(toy(eval__samples=0), "toy")
    assert set(result["intervals"]) == {"greedy"} and result["outcomes"]["digit/incorrect"] >= 0
    with pytest.raises(ValueError, match="no prompts"):
        evaluate.evaluate(None, [])


# ---- comparisons


def made(corrects, samples=4, start=0):
    """A result as a run leaves it in eval_<step>.json."""
    return {
        "per_prompt": {
            f"p{start + i}": {"correct": c, "samples": samples, "greedy": c > 1}
            for i, c in enumerate(corrects)
        }
    }


def test_compare_by_hand():
    found = results.compare(made([4, 2, 0, 0, 1]), made([1, 2, 3, 0], start=0))
    assert (found["prompts"], found["only_new"], found["only_base"]) == (4, 1, 0)
    first = found["measures"]["pass@1"]
    assert first["new"] == 6 / 16 and first["base"] == 6 / 16 and first["difference"] == 0
    assert (first["wins"], first["losses"], first["p"]) == (1, 1, 1.0)
    support = found["support"]
    assert support["gained"] == [] and support["lost"] == ["p2"]
    assert support["kept"] == 2 and support["never"] == 1 and support["retained"] == 2 / 3
    shown = results.comparison_table(found)
    assert "gained 0, lost 1, kept 2 (66.7% of the base's), never 1" in shown
    assert "(1 and 0 others are in one result only)" in shown


def test_compare_refuses_and_leaves_out():
    with pytest.raises(ValueError, match="none of the 2 and 2 prompts is in both"):
        results.compare(made([1, 2]), made([1, 2], start=10))
    new, old = made([1, 2]), made([1, 2])
    for result, content in ((new, "a"), (old, "b")):
        next(iter(result["per_prompt"].values()))["content"] = content
    with pytest.raises(ValueError, match="is another prompt in one result than in the other"):
        results.compare(new, old)
    fewer = results.compare(made([1, 2]), made([1, 1], samples=2))
    assert "support" not in fewer, "supports from 4 and from 2 samples"
    assert "pass@2" in fewer["measures"] and "pass@4" not in fewer["measures"]
    assert not fewer["notes"]


def test_compare_says_what_is_lost_and_what_was_chosen_otherwise():
    judges = {"a": [[0.9, "correct"], [0.1, "incorrect"]], "b": [[0.2, "correct"]] * 2}
    row = dict(correct=1, samples=2, hits=[True, False], answers=["1", "2"], verdicts=judges)
    new, base = ({"best_of": name, "per_prompt": {"p": dict(row)}} for name in "ab")
    base["per_prompt"]["p"]["missing"] = 1
    found = results.compare(new, base)
    assert "pass@1" in found["measures"] and "best@2" not in found["measures"]
    shown = results.comparison_table(found)
    assert "note: best@k, weighted@k: not compared, of 'a' in one and 'b' in the other" in shown
    assert "note: 0.0% of the completions of new and 50.0% of base have no verdict" in shown
    alike = results.compare(new, new)
    assert {"best@2", "weighted@2"} <= set(alike["measures"]) and not alike["notes"]


@pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections imports configs with it
def test_commands(whole, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base, new = tmp_path / "base.json", tmp_path / "new.json"
    base.write_text(json.dumps(whole))
    config = tmp_path / "config.py"
    config.write_text("from tests.test_evaluate import small\nget_config = small\n")
    args = ["evaluate", "--model", "toy", "--config", str(config), "--base", str(base)]
    cli.main([*args, "--out", str(new)])
    out = capsys.readouterr().out
    assert "6 prompts in both" in out and "kept" in out
    written = json.loads(new.read_text())
    assert written["pass@1"] == whole["pass@1"]
    assert len(list((tmp_path / "cache/rlpt/evaluations").iterdir())) == 1
    base.write_text(json.dumps(whole | {"per_prompt": made([1])["per_prompt"]}))
    with pytest.raises(SystemExit):
        cli.main([*args, "--out", str(tmp_path / "kept.json")])
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert kept["pass@1"] == whole["pass@1"], "a comparison that is refused loses nothing"
    capsys.readouterr()
    base.write_text(json.dumps(whole))
    cli.main(["evaluate", "compare", str(new), str(base), "--out", str(tmp_path / "c.json")])
    assert json.loads((tmp_path / "c.json").read_text()) == written["comparison"]
    (tmp_path / "bad.json").write_text("[1]")
    (tmp_path / "worse.json").write_text("{")
    for wrong, message in (("bad", "has no per_prompt"), ("worse", "is not JSON"), ("no", "no.js")):
        with pytest.raises(SystemExit):
            cli.main(["evaluate", "compare", str(new), str(tmp_path / f"{wrong}.json")])
        assert message in capsys.readouterr().err, wrong
    with pytest.raises(SystemExit, match="expected NEW.json BASE.json"):
        cli.main(["evaluate", "compare", str(new)])


# ---- servers

SERVER = """
import http.server, json, sys
script = json.loads(sys.argv[1])  # statuses or bodies of the first replies
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = {"path": self.path, "key": self.headers.get("authorization", ""), **body}
        with open(sys.argv[2], "a") as log: log.write(json.dumps(asked) + "\\n")
        status, reply = 200, None
        if script:
            first = script.pop(0)
            status, reply = (first, "busy") if isinstance(first, int) else (200, first)
        if reply is None:
            number = body["seed"] % 3 if body["temperature"] else 7
            reply = json.dumps({
                "choices": [
                    {"message": {"content": f"{number} it is"}, "finish_reason": "stop"},
                    {"message": {"content": None}, "finish_reason": "length"},
                ][: body["n"]],
                "usage": {"completion_tokens": 3 * min(body["n"], 2)},
            })
        self.send_response(status)
        if status == 429: self.send_header("retry-after", "0")
        self.end_headers()
        self.wfile.write(reply.encode())
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@pytest.fixture
def serve(tmp_path):
    """serve(*script) -> (url, a function that reads the requests so far)."""
    running = []

    def start(*script):
        log = tmp_path / f"requests{len(running)}"
        log.touch()
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, json.dumps(script), str(log)], stdout=subprocess.PIPE
        )
        running.append(process)
        port = process.stdout.readline().decode().strip()
        requests = lambda: [json.loads(line) for line in log.read_text().splitlines()]
        return f"http://127.0.0.1:{port}/v1", requests

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_server_is_evaluated_and_resumed(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-4711")
    url, requests = serve(429)
    config = toy(
        eval__prompts=2, eval__samples=3, sampling__stop_strings=("\n",), sampling__top_k=5
    )
    judge = lambda: evaluate.evaluate_source(
        config, url, cache=tmp_path / "c", model_name="m", api_key_env="MY_KEY"
    )
    result = judge()
    rows = result["per_prompt"].values()
    # of three samples two replies give two texts and one; every second text is empty
    assert [r["hits"] for r in rows] == [[True, False, True]] * 2
    assert [r["truncated"] for r in rows] == [[False, True, False]] * 2
    assert result["greedy"] == 1.0 and result["length"] == 3.0
    sent = requests()
    assert len(sent) == 1 + 2 * 3, "one refused, then two for the samples and one greedy a prompt"
    assert {r["path"] for r in sent} == {"/v1/chat/completions"}
    assert {r["key"] for r in sent} == {"Bearer secret-4711"}
    assert sorted(r["n"] for r in sent if r["temperature"] == 1.0)[:2] == [1, 1]
    assert all(r["stop"] == ["\n"] and r["top_k"] == 5 and r["max_tokens"] == 6 for r in sent)
    assert len({r["seed"] for r in sent if r["temperature"]}) == 4, "equal seeds"
    kept = "".join(p.read_text() for p in (tmp_path / "c").iterdir()) + json.dumps(result)
    assert "secret-4711" not in kept, "the key is in a file"
    assert judge() == result and len(requests()) == len(sent), "asked again"


@pytest.mark.parametrize(
    ("script", "message", "asked"),
    [
        ((401,), "status 401: busy", 1),
        ((500,) * 3, "status 500", 2),
        (("{}",), r"got '\{\}', expected JSON with texts in choices", 1),
        (('{"choices": []}',), "got no choices", 1),
        (('{"choices": [{"message": {"content": [{"text": "x"}]}}]}',), "expected JSON with te", 1),
        (("<html>",), "OpenAI-compatible", 1),
    ],
)
def test_a_server_that_fails_is_named(serve, script, message, asked):
    url, requests = serve(*script)
    with (
        Endpoint(url, "m", toy().sampling, attempts=2) as endpoint,
        pytest.raises(EndpointError, match=message) as error,
    ):
        endpoint([Prompt("p", chat("?"))], 1, 0.0)
    assert url in str(error.value) and len(requests()) == asked


def test_leaving_asks_for_nothing_more(serve):
    url, requests = serve(*(500,) * 50)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with Endpoint(url, "m", toy().sampling, attempts=50) as endpoint:
            asked = pool.submit(endpoint, [Prompt("p", chat("?"))], 1, 0.0)
            while not requests():
                time.sleep(0.01)
            started = time.monotonic()
        assert time.monotonic() - started < 20, "as after Ctrl-C"
        assert isinstance(asked.exception(10), EndpointError) and len(requests()) < 50


def test_no_server_and_no_name():
    url = "http://127.0.0.1:9/v1"
    with (
        Endpoint(url, "m", toy().sampling, attempts=1) as endpoint,
        pytest.raises(EndpointError, match="is the server running"),
    ):
        endpoint([Prompt("p", chat("?"))], 1, 0.0)
    with pytest.raises(ValueError, match="model_name: needed"):
        evaluate.evaluate_source(toy(), url)


def test_judge_needs_no_model():
    """A sampler is any function; prompts with a verifier of their own are judged by that alone."""
    prompts = [Prompt("a", chat("?")), Prompt("b", chat("?"), verifier="digit")]
    sampler = lambda prompts, n, t: [[evaluate.Completion("7", 1, False)] * n for _ in prompts]
    with VerifierPool((DIGIT, dict(fn="tests.toy:always", name="never", score=0.0))) as pool:
        rows = evaluate.judge(
            sampler, pool.verify, prompts, samples=2, temperature=1.0, greedy=False, counted=None
        )
    assert [r["correct"] for r in rows] == [0, 2]
    assert set(rows[0]["verdicts"]) == {"digit", "never"} and set(rows[1]["verdicts"]) == {"digit"}
    assert "greedy" not in rows[0]
    found = results.measures(rows, best_of="never")
    assert found["best@2"].tolist() == [0.0, 1.0], "a prompt without scores"


def test_code_of_verifiers_is_part_of_the_key(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = pathlib.Path(tmp_path / "my_verifier_4711.py")
    config = toy(verifiers=(dict(fn="my_verifier_4711:f", name="f"),))
    codes = []
    for text in ("f = 1\n", "f = 2  # changed\n"):
        file.write_text(text)
        evaluate._code.cache_clear()
        codes.append(evaluate.evaluation_key(config, "m", [])["code"])
    assert codes[0]["rlpt"] == codes[1]["rlpt"] != ""
    assert set(codes[0]) == {"rlpt", "my_verifier_4711", "own"}
    assert codes[0]["my_verifier_4711"] != codes[1]["my_verifier_4711"]
    for inside in (  # named by a setting of a verifier of rlpt's, and of the rollout
        dict(verifiers=(dict(fn="trl.reward", name="f", function="my_verifier_4711:f"),)),
        dict(rollout__fn="my_verifier_4711:f"),
    ):
        assert "my_verifier_4711" in evaluate.evaluation_key(toy(**inside), "m", [])["code"]
    assert evaluate.evaluation_key(config, "m", [])["versions"]["math-verify"]


@pytest.mark.parametrize(
    "changes",
    [
        *(dict(eval__samples=8), dict(eval__temperature=0.7), dict(seed=1)),
        *(dict(sampling__top_p=0.9), dict(sampling__stop_strings=("x",))),
        *(dict(pool__deadline=1.0), dict(model__matmul_precision="highest")),
        *(dict(model__attention="reference"), dict(verifiers=(dict(DIGIT, weight=2.0),))),
    ],
)
def test_every_setting_is_in_the_key(changes):
    def key(config, answer="1"):
        return evaluate.evaluation_key(config, "m", [Prompt("p", chat("?"), answer)])

    assert key(toy(**changes)) != key(toy()) == key(toy(steps=9))
    assert key(toy()) != key(toy(), "2")


READ = [
    (
        (dict(fn="choice.choice", name="c"),),
        ["(B) since 7 > 5", "(B) as 3 < 4", "It is (A): 7 is the most", "I choose (B)"],
        ["B", "B", "A", "B"],
    ),
    (
        (dict(fn="choice.choice", name="c", extract="boxed"),),
        [r"\boxed{B}", r"\boxed{(B)}", r"\boxed{B. Paris}", "B"],
        ["B", "B", "B", None],
    ),
    ((dict(fn="code.code", name="c"),), ["```python\n1\n```", "2"], [None, None]),
    ((dict(fn="number.number", name="n"),), ["7 or 12.0", "12", "x"], ["12", "12", None]),
    (
        (dict(fn="pattern.format", name="f"), dict(fn="number.number", name="n", extract="boxed")),
        [r"\boxed{24/2}", r"7 \boxed{x = 12}", "12"],
        ["12", "12", None],
    ),
    ((dict(fn="math.math", name="m"),), [r"\boxed{ x+1 }", "x+1"], ["x+1", None]),
    ((DIGIT,), [r"\boxed{5}", "it is 7"], ["5", "7"]),
]


@pytest.mark.parametrize(("verifiers", "texts", "answers"), READ)
def test_votes_are_for_what_the_verifier_reads(verifiers, texts, answers):
    config = toy(verifiers=verifiers)
    reading = evaluate._reading(config, [v["name"] for v in verifiers])
    assert [reading(text) for text in texts] == answers


def outcome_of(trajectory, prompt, *, outcome, down):
    gone = pathlib.Path(down).exists()
    return Verdict(None, outcome) if gone else Verdict(1.0, "correct")


def asks(trajectory, prompt, *, outcome, down):
    return outcome_of(trajectory, prompt, outcome=outcome, down=down)


asks.traits = Traits(asks=True)


def test_what_a_judge_did_not_say_is_asked_again(tmp_path, capsys):
    """Of a judge that decides, or whose scores only choose; unparsable is a judge's fault too."""
    down = tmp_path / "down"
    judge = dict(fn="tests.test_evaluate:asks", name="j", outcome="unparsable", down=str(down))
    for weight, missing in ((1.0, 1.0), (0.0, None)):
        config = small(verifiers=(DIGIT, judge | dict(weight=weight)))
        cache = tmp_path / f"cache{weight}"
        down.touch()
        first = evaluate.evaluate_source(config, "toy", cache=cache, best_of="j")
        assert first.get("missing") == missing and first.get("unheard") == (1.0 - weight or None)
        assert "judges their prompts again" in results.table(first)
        down.unlink()
        capsys.readouterr()
        again = evaluate.evaluate_source(config, "toy", cache=cache, best_of="j")
        assert "missing" not in again and "prompts are in" not in capsys.readouterr().out
        assert all(s == 1.0 for row in again["per_prompt"].values()
                   for s, _ in row["verdicts"]["j"])  # fmt: skip
    plain = judge | dict(fn="tests.test_evaluate:outcome_of")
    down.touch()
    result = evaluate.evaluate_source(small(verifiers=(plain,)), "toy", cache=tmp_path / "c")
    assert "missing" not in result and result["pass@1"] == 0, "a reply without an answer is wrong"
