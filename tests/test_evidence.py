"""Claims about methods: their arms are configs that work, and the ledger follows its own rules."""

import itertools
import json
import os
import pathlib
import re
import time
import types

import numpy as np
import pytest

from benchmarks.evidence import arms, claims, coverage, effects, figures, ledger, queue, rerun
from rlpt import build, sweep


@pytest.mark.parametrize("claim", queue.CLAIMS)
def test_arms_resolve(claim):
    file = queue.source(claim).partition(":")[0]
    headline = "runlocal" in pathlib.Path(file).read_text()  # else a single method's
    for source in (queue.source(claim), f"{file}:{'runlocal' if headline else 'short'}"):
        found = sweep.load_sweep(source)
        seeds = set(arms.seeds(claim)) if headline else {0}
        assert found.baseline in found.settings and {r.seed for r in found.runs} == seeds
        for run in found.runs:
            if run.seed == min(seeds):
                build.check(sweep.config_of(found, run))


def test_the_queue_runs_two_at_a_time_and_goes_on_after_a_stop(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(queue, "CLAIMS", {"form": "noise_form.py:runlocal"})
    monkeypatch.setattr(queue, "RESULTS", tmp_path / "results")
    two = lambda: itertools.islice(queue.missing(queue.CLAIMS, tmp_path), 2)  # noqa: E731
    queue.work(two(), [set()], time.monotonic() + 0.1)
    assert "form clean-seed0: stopped" in capfd.readouterr().out
    assert not (tmp_path / "results").exists()

    cores = os.sched_getaffinity(0)
    queue.work(two(), [cores, cores], float("inf"))
    assert os.sched_getaffinity(0) == cores
    found = json.loads((tmp_path / "results/form.json").read_text())
    done = {name for name, of_seeds in found["arms"].items() if of_seeds}
    assert done == {"clean", "uncorrected"} and found["seeds"] == list(arms.seeds("noise_form"))
    assert str(next(two())) == "form backward-seed0"


def fake_sweep(**changes):
    """A sweep of two arms and two seeds."""
    runs = [sweep.Run(i, a, s, {}) for i, (a, s) in enumerate(itertools.product("ab", (0, 1)))]
    given = dict(source="form.py", settings={"a": {}, "b": {}}, baseline="a", runs=runs)
    return types.SimpleNamespace(**given | changes)


def test_seeds_that_were_run_elsewhere_are_kept_and_not_run_again(monkeypatch, tmp_path):
    monkeypatch.setattr(queue, "CLAIMS", {"form": "form.py"})
    monkeypatch.setattr(queue, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(queue, "outcome", lambda workdir: {"at": str(workdir)})
    finished = set()
    monkeypatch.setattr(sweep, "summary_of", lambda out, run: (out, run.index) in finished)
    one, other = tmp_path / "one/form", tmp_path / "other/form"
    found = fake_sweep()
    monkeypatch.setattr(sweep, "load_sweep", lambda source: found)
    left = lambda out, **how: [m.run.index for m in queue.missing(["form"], out.parent, **how)]  # noqa: E731
    known = lambda: json.loads((tmp_path / "results/form.json").read_text())  # noqa: E731

    finished |= {(one, 1), (one, 2)}  # a of seed 1, b of seed 0
    queue.write("form", found, one)
    finished |= {(other, 0), (other, 2)}
    queue.write("form", found, other)
    dirs = {a: {s: run["at"] for s, run in runs.items()} for a, runs in known()["arms"].items()}
    at = lambda out, i: str(out / found.runs[i].name)  # noqa: E731
    assert dirs == {"a": {"0": at(other, 0), "1": at(one, 1)}, "b": {"0": at(other, 2)}}
    assert list(dirs["a"]) == ["0", "1"] and known()["seeds"] == [0, 1]
    assert left(tmp_path / "third/form") == [3], "b of seed 1 alone is nowhere"
    assert left(tmp_path / "third/form", again=True) == [0, 2, 1, 3]
    assert left(tmp_path / "third/form", again=True, seeds=[1]) == [1, 3]
    assert left(other, again=True) == [1, 3], "what is finished there is not run again"

    for change, said in (
        (dict(source="other.py"), "got source form.py, expected other.py"),
        (dict(baseline="b"), "got baseline a, expected b"),
        (dict(settings={"a": {}}), "got runs of b, which form.py lacks"),
    ):
        before = known()
        with pytest.raises(SystemExit, match=said):
            queue.write("form", fake_sweep(**change), one)
        assert known() == before


def test_two_seeds_more_are_of_the_claims_that_owe_them(monkeypatch):
    monkeypatch.setattr(arms, "OWED", ("tempo",))
    assert arms.seeds("tempo") == (0, 1, 2, 3, 4) and arms.seeds("pass_at_k") == (0, 1, 2)


def test_the_page_is_that_of_the_committed_figures(monkeypatch, tmp_path):
    monkeypatch.setattr(ledger, "PAGE", tmp_path / "evidence.md")
    ledger.main()
    committed = (ledger.ROOT / "docs/evidence.md").read_text()
    assert ledger.PAGE.read_text() == committed, "python -m benchmarks.evidence.ledger"
    drawn = {path.name for path in (tmp_path / "evidence").iterdir()}
    assert drawn == {path.name for path in (ledger.ROOT / "docs/evidence").iterdir()}
    assert drawn == set(re.findall(r"\(evidence/(\w+\.png)\)", committed))


def test_a_picture_shows_estimates_beside_the_true_rates():
    def run(shift):
        points = lambda *values: [[i + 1, v] for i, v in enumerate(values)]  # noqa: E731
        curves = {"verdict/number": points(0.0, 0.5), "fp_rate_0": points(0.1 + shift, 0.3)}
        solved = {"pass@1": 0.2, "pass@4": 0.5, "samples": 4, "correct": {"a": 1}}
        return {"curves": curves, "before": solved, "after": solved}

    found = {"arms": {"stratified": {"0": run(0.0), "1": run(0.2)}, "none": {}}}
    registered = {"INJECT": {"fp_rate": (0.4, 0.0)}, "MEASURE": "pass@4"}
    effect = {"stratified": claims.Effect(0.2, 0.1, 0.4, "above: reproduced")}
    found["baseline"] = "none"
    figure = figures.one(claims.Claim("form", registered, found, {}, effect))
    training, solved, rates, effects = figure.axes
    assert list(training.lines[0].get_ydata()) == [0.0, 0.25]
    assert [line.get_label() for line in solved.lines] == ["before", "stratified"]
    estimated, true = rates.lines
    assert list(estimated.get_ydata()) == pytest.approx([0.2, 0.3])
    assert set(true.get_ydata()) == {0.4}
    assert list(effects.lines[0].get_xdata()) == [0.1, 0.4]
    assert effects.lines[0].get_color() == figures.DECIDED["reproduced"]


def timed(evals=()):
    """A run of ten steps of 1 s, the first 50 s as it was compiled; step i is right in 0.1 i."""
    verdicts = [[i, 0.1 * i] for i in range(1, 11)]
    times = [[i, 50.0 if i == 1 else 0.5] for i in range(1, 11)]
    curves = {"verdict/number": verdicts} | dict.fromkeys(ledger.TIMES[:2], times)
    curves |= {"time/update": [[i, 0.0] for i in range(1, 11)], "eval/pass@1": list(evals)}
    return {"curves": curves, "before": {"pass@1": 0.1}}


def test_what_is_right_after_equal_seconds_and_when_half_is_reached():
    held_out = timed(evals=([0, 0.1], [4, 0.3], [8, 0.9]))
    assert ledger.right_by(held_out, 6.0) == pytest.approx(0.6), "half-way from 0.3 to 0.9"
    assert ledger.right_by(held_out, 100.0) == pytest.approx(0.9)
    assert ledger.half_way(held_out, 0.8) == pytest.approx(4 + 4 / 3), "0.5, a third of the way"
    assert np.isnan(ledger.half_way(held_out, 2.0)), "never"
    training = timed(evals=([0, 0.1], [10, 0.9]))  # not evaluated on its way: means of five steps
    assert ledger.right_by(training, 7.0) == pytest.approx(0.5), "the mean of steps 3 to 7"
    assert ledger.half_way(training, 0.8) == pytest.approx(7.0)
    late = timed()
    late["curves"]["verdict/number"] = late["curves"]["verdict/number"][4:]
    assert ledger.right_by(late, 7.0) is None, "what was right before is not known"
    assert np.isnan(ledger.half_way(late, 0.8))
    late["curves"]["verdict/number"] = [p for p in timed()["curves"]["verdict/number"] if p[0] != 3]
    assert list(ledger.solved_at(late)[0]) == [0, 6, 7, 8, 9, 10], "a step without a verdict"


def test_the_summary_has_several_seeds_first(loaded):
    runs = {"a": [finished(0.25)] * 2, "b": [finished(0.5)] * 2}
    one = loaded('EXPECTED = {"b": "above"}', {arm: own[:1] for arm, own in runs.items()})
    two = loaded('EXPECTED = {"b": "above"}', runs, seeds=2)
    none = one._replace(found=None, effects={})
    rows = ledger.summary([one, none, two])[4:]
    assert rows[0].startswith("| [form](#form-it-works) | b | 0, 1 | +0.250 [+0.250, +0.250] | [")
    assert rows[0].endswith("| above: reproduced |")
    assert rows[1].endswith(" |  | above: reproduced, in one seed |")
    assert rows[2] == "| [form](#form-it-works) | | none yet | | | |"
    assert ledger.heading_of(one) == "form: it works"
    hollow = [line.get_markerfacecolor() for line in figures.every_effect([one, two]).axes[0].lines]
    assert hollow.count("white") == 2, "the one, and that of the legend"


def test_the_mean_over_the_run_leaves_the_start_out():
    run = {"evals": {"6": {"a": 4, "b": 0}, "12": {"a": 8, "b": 2}}, "after": {"samples": 8}}
    run["after"]["correct"] = run["evals"]["12"]
    assert arms.over_the_run(run) == pytest.approx({"a": 0.75, "b": 0.125})


def test_the_last_steps_are_of_the_run_and_not_of_what_is_present():
    run = {"curves": {"policy/entropy": [[1, 9.0], [2, 1.0], [5, 2.0]]}}  # 3 and 4 are missing
    assert arms.last_steps(run, "policy/entropy", 3) == {"5": 2.0}
    assert arms.last_steps(run, "policy/entropy", 4) == {"2": 1.0, "5": 2.0}


def test_entropy_of_what_is_sampled(tmp_path):
    rows = [  # step, log-probs, which of them are the policy's own
        (1, [-1.0, -2.0, -9.0], [True, True, False]),
        (1, [-3.0], [True]),
        (5, [-0.5], [True]),
    ]
    (tmp_path / "rollouts.jsonl").write_text(
        "".join(
            json.dumps({"step": s, "sampler_logp": p, "loss_mask": m}) + "\n" for s, p, m in rows
        )
    )
    assert queue.sampled_nll(tmp_path) == [[1, pytest.approx(2.0)], [5, 0.5]]


def test_a_claim_does_not_count_where_clean_rewards_teach_little(monkeypatch, tmp_path):
    monkeypatch.setattr(claims, "RESULTS", tmp_path)

    def run(after):
        one = {"pass@1": after, "samples": 8, "correct": {"a": round(8 * after), "b": 8}}
        return {"before": {"pass@1": 0.1}, "after": one, "evals": {"6": one["correct"]}}

    for gained, said in ((0.15, "does not count: clean gained 0.05"), (0.5, "too few seeds")):
        found = {"clean": run(gained), "uncorrected": run(0.1), "backward": run(0.1)}
        found = {name: {"0": of} for name, of in found.items()}
        whole = {"arms": found, "baseline": "uncorrected", "seeds": [0, 1, 2]}
        (tmp_path / "noise_uniform.json").write_text(json.dumps(whole))
        judged = claims.load("noise_uniform").effects
        assert judged["backward"].verdict == f"same: {said}"


def test_a_rerun_names_what_differs():
    def outcome(**changes):
        curves = {"verdict/number": [[1, 0.1], [2, 0.2]], "time/update": [[1, 5.0]]}
        one = {"pass@1": 0.5, "correct": {"a": 4}}
        return {"curves": curves | changes, "before": one, "after": dict(one)}

    same = outcome(**{"time/update": [[1, 9.0]], "sampled_nll": [[1, 2.0]]})
    assert rerun.differences(outcome(), same) == []
    other = outcome(**{"verdict/number": [[1, 0.1], [2, 0.2000001]]})
    other["after"]["correct"] = {"a": 5}
    assert rerun.differences(outcome(), other) == [
        "verdict/number: differs at [2, 0.2]",
        "after correct: committed {'a': 4}, now {'a': 5}",
    ]
    del other["curves"]["verdict/number"]
    assert rerun.differences(outcome(), other)[0] == "verdict/number: is missing"

    old = outcome() | {"evals": {"6": {"a": 3}, "12": {"a": 4}}, "alarm": False}
    assert rerun.differences(outcome(), old) == [], "figures that were not kept then"
    assert rerun.differences(old, old | {"evals": {"6": {"a": 2}, "12": {"a": 4}}}) == [
        "evaluation after 6 steps: committed {'a': 3}, now {'a': 2}"
    ]
    assert rerun.differences(old, old | {"alarm": True}) == ["alarm: committed False, now True"]


def run_of(correct, samples=8):
    after = {"samples": samples, "correct": {str(i): int(c) for i, c in enumerate(correct)}}
    return {"after": after}


def test_pass_at_k_of_a_run():
    assert effects.solved(run_of([0, 2, 8, 5]), "pass@1") == pytest.approx(
        {"0": 0, "1": 0.25, "2": 1, "3": 0.625}
    )
    # 1 - C(2,2)/C(4,2), 1 - C(3,2)/C(4,2)
    assert effects.solved(run_of([2, 1], 4), "pass@2") == pytest.approx({"0": 5 / 6, "1": 0.5})


def test_intervals_are_of_paired_differences():
    draws = np.random.default_rng(0)
    hard = draws.integers(0, 6, (3, 30))  # prompts differ much more than the arms do
    base = {str(s): run_of(c) for s, c in enumerate(hard)}
    arm = {str(s): run_of(c + 2) for s, c in enumerate(hard)}
    solved = lambda runs: {s: effects.solved(run, "pass@1") for s, run in runs.items()}  # noqa: E731
    mean, low, high = effects.difference(solved(arm), solved(base))
    assert (mean, low, high) == pytest.approx((0.25, 0.25, 0.25))
    mean, low, high = effects.difference(solved(arm), solved(base), paired=False)
    assert mean == pytest.approx(0.25) and low < 0.22 and high > 0.28
    kinds = {"0": [{"a": 1.0, "b": 0.5}, {"c": 0.0}]}, {"0": [{"x": 0.25}, {"y": 0.0, "z": 0.5}]}
    assert effects.mean_of(kinds[0]["0"]) == pytest.approx(0.375)
    mean, low, high = effects.difference(*kinds, paired=False)
    assert mean == pytest.approx(0.375 - 0.25) and low >= 0 - 0.125 and high <= 0.5 - 0.125
    with pytest.raises(ValueError, match="without units"):
        effects.mean_of([{}, {"a": 1.0}])
    other = {str(s): run_of(draws.permutation(c)) for s, c in enumerate(hard)}
    mean, low, high = effects.difference(solved(other), solved(base))
    assert mean == pytest.approx(0) and low < -0.03 and high > 0.03


@pytest.mark.parametrize(
    ("expected", "low", "high", "verdict"),
    [
        ("above", 0.01, 0.2, "reproduced"),
        ("above", -0.01, 0.2, "undecided"),
        ("above", -0.2, -0.01, "not reproduced"),
        ("below", -0.2, -0.01, "reproduced"),
        ("below", 0.01, 0.2, "not reproduced"),
        ("same", -0.09, 0.05, "reproduced"),
        ("same", -0.2, 0.05, "undecided"),
        ("same", -0.3, -0.11, "not reproduced"),
    ],
)
def test_verdicts(expected, low, high, verdict):
    assert effects.verdict(expected, low, high) == verdict


def test_intervals_over_seeds_cover_what_is_true():
    """Prompts are drawn once for all seeds: drawn in each of them, 82 % of the intervals cover."""
    got = coverage.coverage(*coverage.SETTINGS["48 prompts, seeds alike"])
    assert got["bootstrap"] > 0.88


def test_students_interval_is_of_the_means_of_runs():
    base = {str(s): {"a": 0.0, "b": 0.5} for s in range(3)}
    arm = {str(s): {"a": 0.1 * s, "b": 0.5 + 0.1 * s} for s in range(3)}
    mean, low, high = effects.over_runs(arm, base)
    half = 4.3027 * 0.1 / 3**0.5  # t of 0.975 with 2 degrees of freedom
    assert (mean, low, high) == pytest.approx((0.1, 0.1 - half, 0.1 + half), abs=1e-4)
    mean, low, high = effects.over_runs({"2": arm["2"]}, base)
    assert mean == pytest.approx(0.2) and np.isnan([low, high]).all(), "one run has no interval"


def finished(share=0.5, curves=(), alarm=False, samples=8, prompts=6):
    """A finished run: `share` right samples of each prompt, from 0.125 at the start."""
    of = lambda right: {f"p{i}": round(right * samples) for i in range(prompts)}  # noqa: E731
    points = {name: [[i + 1, v] for i, v in enumerate(own)] for name, own in dict(curves).items()}
    return {
        "before": {"pass@1": 0.125, "samples": samples, "correct": of(0.125)},
        "after": {"pass@1": share, "samples": samples, "correct": of(share)},
        "curves": dict.fromkeys(ledger.TIMES, [[1, 1.0], [2, 1.0]]) | points,
        **{"seconds": 2.0, "alarm": alarm},
    }


HEAD = """'''Claim.

What is registered.
'''
CLAIM = "it works"
"""


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    """Loads a claim of the text of a file and {arm: [the run of each seed]}."""
    monkeypatch.setattr(effects, "DRAWS", 200)
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    for module in (claims, ledger):
        monkeypatch.setattr(module, "source", lambda name: str(tmp_path / f"{name}.py"))

    def load(text, found, seeds=1):
        (tmp_path / "form.py").write_text(f"{HEAD}{text}")
        found = {a: {str(s): run for s, run in enumerate(runs)} for a, runs in found.items()}
        whole = {"arms": found, "baseline": next(iter(found)), "seeds": list(range(seeds))}
        (tmp_path / "form.json").write_text(json.dumps(whole))
        return claims.load("form")

    return load


BY_STEP = """
EXPECTED, QUANTITY, UNIT = {"b": "above"}, "tokens of a reply", "tokens"
def units(run):
    return {str(step): value for step, value in run["curves"]["rollout/length"]}
"""


def test_steps_of_one_run_are_no_test(loaded):
    long = lambda mean: finished(curves={"rollout/length": [mean - 1, mean, mean + 1]})  # noqa: E731
    one = loaded(BY_STEP, {"a": [long(10.0)], "b": [long(19.0)]})
    effect = one.effects["b"]
    assert effect.mean == pytest.approx(9.0) and np.isnan(effect.low)
    assert effect.verdict == "above: one run: shown, not tested"
    assert "| +9.000 | above: one run: shown, not tested |" in "\n".join(ledger.section(one))

    runs = {"a": [long(10.0), long(10.0)], "b": [long(19.0), long(12.0)]}
    two = loaded(BY_STEP, runs, seeds=2)  # differences of 9 and 2: t of 1 degree is 12.7
    assert two.effects["b"].verdict == "above: undecided"
    assert two.effects["b"][:3] == pytest.approx((5.5, 5.5 - 44.47, 5.5 + 44.47), abs=0.01)
    assert "Student" not in "\n".join(ledger.section(two)), "the first table has it"

    other = loaded(BY_STEP + "STEPS = False", {"a": [long(10.0)], "b": [long(19.0)]})
    assert other.effects["b"].verdict == "above: reproduced, in one seed"
    prompts = BY_STEP.replace("str(step)", "'p' + str(step)")
    assert loaded(prompts, {"a": [long(10.0)], "b": [long(19.0)]}).effects["b"].low > 0
    with pytest.raises(ValueError, match="got shares to 19, expected UNIT"):
        loaded(BY_STEP + "UNIT = 'share'", {"a": [long(10.0)], "b": [long(19.0)]})


def test_every_claim_may_name_its_clean_arm(loaded):
    text = 'EXPECTED, CLEAN = {"b": "above"}, "clean"'
    runs = {"a": [finished(0.25)], "b": [finished(0.5)], "clean": [finished(0.25)]}
    said = loaded(text, runs).effects["b"].verdict
    assert said == "above: does not count: clean gained 0.12, in one seed"
    said = loaded(text, runs | {"clean": [finished(0.75)]}).effects["b"].verdict
    assert said == "above: reproduced, in one seed"
    said = loaded(text, runs | {"clean": []}).effects["b"].verdict
    assert said == "above: does not count yet: clean was not run, in one seed"
    with pytest.raises(ValueError, match="got arms cleen, expected some of a, b, clean"):
        loaded(text.replace('"clean"', '"cleen"'), runs)


def test_the_alarm_is_judged_as_registered(loaded):
    text = 'EXPECTED, ALARM = {"truth": "above"}, {"hole": True, "truth": False}'
    runs = {"hole": [finished(0.25, alarm=True)], "truth": [finished(0.5)]}
    claim = loaded(text, runs)
    assert claim.effects["truth"].verdict == "above: reproduced, in one seed"
    said = "The alarm as registered (hole rings, truth is silent): "
    assert said + "held." in ledger.section(claim)
    claim = loaded(text, runs | {"hole": [finished(0.25)]})
    assert claim.effects["truth"].verdict == (
        "above: not reproduced: the alarm of hole rang in 0 of 1, in one seed"
    )
    assert said + "not held, hole rang in 0 of 1." in ledger.section(claim)
    both = {"hole": runs["hole"] * 2, "truth": [finished(0.5), finished(0.5, alarm=True)]}
    verdict = loaded(text, both, seeds=2).effects["truth"].verdict
    assert verdict == "above: not reproduced: the alarm of truth rang in 1 of 2"
    gated = text.replace('"truth": "above"', '"gated": "above"')
    claim = loaded(gated, runs | {"gated": [finished(0.5)], "truth": []})
    assert claim.effects["gated"].verdict == "above: too few seeds, in one seed"
    assert said + "is not known yet." in ledger.section(claim)


def test_an_arm_may_have_a_baseline_of_its_own(loaded):
    text = 'EXPECTED = {"c": "above", "d": "above"}\nAGAINST = {"d": "c"}'
    runs = {"a": [finished(0.25)], "c": [finished(0.75)], "d": [finished(0.5)]}
    claim = loaded(text, runs)
    assert [claim.effects[arm].mean for arm in "cd"] == pytest.approx([0.5, -0.25])
    assert claim.effects["d"].verdict == "above: not reproduced, in one seed"
    page = "\n".join(ledger.section(claim))
    assert "| minus a |" in page and "| baseline |" in page
    assert "| -0.250 [-0.250, -0.250] (minus c) |" in page
    effects = figures.one(claim).axes[-1]
    assert [label.get_text() for label in effects.get_yticklabels()] == ["c", "d - c"]
    (axes,) = figures.every_effect([claim]).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["form: c", "form: d - c"]
    with pytest.raises(ValueError, match="got arms e"):
        loaded(text.replace('"c"}', '"e"}'), runs)


def test_what_is_reported_and_found_afterwards_is_under_the_table(loaded):
    text = """EXPECTED, MEASURE = {"b": "above"}, "pass@2"
REPORTED = [("b", "pass@1")]
FOUND = "The seeds were drawn twice."
"""
    runs = {"a": [finished(0.25)], "b": [finished(0.5)]}
    for run in itertools.chain(*runs.values()):
        run["before"]["pass@2"] = run["after"]["pass@2"] = 0.5
    lines = ledger.section(loaded(text, runs))
    said = "Reported, without a verdict: b minus a at pass@1: +0.250 [+0.250, +0.250]."
    found = "Found afterwards: The seeds were drawn twice."
    assert lines[-6:] == [said, "", found, "", "Commit: not recorded.", ""]
    runs["a"][0]["versions"] = {"commit": "abc-dirty"}
    runs["b"].append(finished(0.5) | {"versions": {"commit": "def"}})
    runs["b"][0]["versions"] = {"commit": "def"}
    runs["b"][1]["before"]["pass@2"] = runs["b"][1]["after"]["pass@2"] = 0.5
    assert ledger.section(loaded(text, runs))[-2] == "Commit: def; abc-dirty (a 0)."


def test_wide_intervals_owe_two_seeds_more(loaded):
    text = 'EXPECTED = {"b": "above"}'
    base = [finished(0.5)] * 3
    wide = [finished(share) for share in (0.125, 0.5, 1.0)]
    claim = loaded(text, {"a": base, "b": wide, "c": wide}, seeds=3)
    assert claims.owed(claim) == ["b"], "of c nothing is registered"
    page = "\n".join(ledger.section(claim))
    assert "form owes seeds 3 and 4: its interval of b contains 0 and reaches beyond ±0.15." in page
    assert "| minus a, Student's t over seeds |  | +0.042 [-1.049, +1.132] |" in page
    assert claims.owed(loaded(text, {"a": base, "b": [finished(0.75)] * 3}, seeds=3)) == []
    five = {"a": base + base[:2], "b": wide + wide[:2]}
    assert claims.owed(loaded(text, five, seeds=5)) == [], "they were run"
    assert claims.owed(loaded(text, {"a": base[:1], "b": wide[:1]})) == []
    assert claims.owed(loaded(text, {"a": base, "b": wide[:2]}, seeds=3)) == [], "not yet"


def test_seeds_that_never_reach_half_of_the_gain_are_counted(loaded):
    assert ledger.over_seeds([14.0, 14.2, float("nan")]) == "2 of 3: 14.1"
    assert ledger.over_seeds([float("nan")] * 2) == "0 of 2" and ledger.over_seeds([2.0]) == "2"
    fast, slow = ([0.0] * 5 + [1.0] * 9, [0.0] * 14)
    arm = [finished(0.75, {"verdict/number": own}) for own in (fast, slow, fast)]
    text = 'EXPECTED = {"b": "above"}'
    page = "\n".join(ledger.section(loaded(text, {"a": arm, "b": arm}, seeds=3)))
    assert re.search(r"half of the baseline's gain \| 2 of 3: 7.19 \| 2 of 3: 7.19 \|", page)


def test_pictures_and_tables_take_the_verdicts_that_there_are(loaded):
    text = 'EXPECTED = {"b": "above"}'

    def pictured(*curves):
        arms = {
            name: [finished(curves={c: [0.1, 0.2] for c in own} | {"reward/mean": [0.5, 0.7]})]
            for name, own in zip("ab", curves, strict=True)
        }
        figure = figures.one(claim := loaded(text, arms))
        legend = [t.get_text() for t in figure.legends[0].get_texts()]
        assert legend == ["a", "b"], "whatever panel an arm is in"
        titles = [axes.get_title().partition(",")[0] for axes in figure.axes[:-2]]
        return titles, "\n".join(ledger.section(claim))

    titles, page = pictured(["verdict/sums", "verdict/products"], ["verdict/sums"])
    assert titles == ["products while training", "sums while training"]
    assert "| products while training, last 5 steps | 0.15 |  |" in page
    assert "| sums while training, last 5 steps | 0.15 | 0.15 |" in page
    several = [f"verdict/{name}" for name in ("format", "number", "opener", "plain")]
    titles, _ = pictured(several, several[1:2])
    assert titles[:2] == ["right while training", "format while training"] and len(titles) == 3
    titles, page = pictured([], [])
    assert titles == ["reward"] and "while training" not in page


def test_effects_of_other_units_have_a_panel_of_their_own():
    effect = claims.Effect(0.2, 0.1, 0.4, "above: reproduced")
    tokens = claims.Effect(-9.0, float("nan"), float("nan"), f"below: {claims.ONE_RUN}")
    three = [
        claims.Claim("x", {}, {"arms": {}}, {}, {"b": effect, "c": effect._replace(verdict="")}),
        claims.Claim("y", {"UNIT": "tokens"}, {"arms": {}}, {}, {"b": tokens}),
        claims.Claim("z", {}, {"arms": {}}, {}, {"b": effect}),
    ]
    figure = figures.every_effect(three)
    labels = [[t.get_text() for t in axes.get_yticklabels()] for axes in figure.axes]
    assert labels == [["x: b", "z: b"], ["y: b"]]
    assert [axes.get_title().rpartition(", ")[2] for axes in figure.axes] == ["shares", "tokens"]
    assert list(figure.axes[1].lines[1].get_xdata()) == [-9.0]
