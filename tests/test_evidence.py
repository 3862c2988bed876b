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

from benchmarks.evidence import arms, figures, ledger, queue, rerun
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
            if run.seed == 0:
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
    assert done == {"clean", "uncorrected"} and found["seeds"] == [0, 1, 2]
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
    effect = {"stratified": ledger.Effect(0.2, 0.1, 0.4, "above: reproduced")}
    found["baseline"] = "none"
    figure = figures.one(ledger.Claim("form", registered, found, {}, effect))
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
    monkeypatch.setattr(ledger, "RESULTS", tmp_path)

    def run(after):
        one = {"pass@1": after, "samples": 8, "correct": {"a": round(8 * after), "b": 8}}
        return {"before": {"pass@1": 0.1}, "after": one, "evals": {"6": one["correct"]}}

    for gained, said in ((0.15, "does not count: clean gained 0.05"), (0.5, "too few seeds")):
        found = {"clean": run(gained), "uncorrected": run(0.1), "backward": run(0.1)}
        found = {name: {"0": of} for name, of in found.items()}
        whole = {"arms": found, "baseline": "uncorrected", "seeds": [0, 1, 2]}
        (tmp_path / "noise_uniform.json").write_text(json.dumps(whole))
        effects = ledger.load("noise_uniform").effects
        assert effects["backward"].verdict == f"same: {said}"


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
    assert ledger.solved(run_of([0, 2, 8, 5]), "pass@1") == pytest.approx(
        {"0": 0, "1": 0.25, "2": 1, "3": 0.625}
    )
    # 1 - C(2,2)/C(4,2), 1 - C(3,2)/C(4,2)
    assert ledger.solved(run_of([2, 1], 4), "pass@2") == pytest.approx({"0": 5 / 6, "1": 0.5})


def test_intervals_are_of_paired_differences():
    draws = np.random.default_rng(0)
    hard = draws.integers(0, 6, (3, 30))  # prompts differ much more than the arms do
    base = {str(s): run_of(c) for s, c in enumerate(hard)}
    arm = {str(s): run_of(c + 2) for s, c in enumerate(hard)}
    solved = lambda runs: {s: ledger.solved(run, "pass@1") for s, run in runs.items()}  # noqa: E731
    mean, low, high = ledger.difference(solved(arm), solved(base))
    assert (mean, low, high) == pytest.approx((0.25, 0.25, 0.25))
    mean, low, high = ledger.difference(solved(arm), solved(base), paired=False)
    assert mean == pytest.approx(0.25) and low < 0.22 and high > 0.28
    kinds = {"0": [{"a": 1.0, "b": 0.5}, {"c": 0.0}]}, {"0": [{"x": 0.25}, {"y": 0.0, "z": 0.5}]}
    assert ledger.mean_of(kinds[0]["0"]) == pytest.approx(0.375)
    mean, low, high = ledger.difference(*kinds, paired=False)
    assert mean == pytest.approx(0.375 - 0.25) and low >= 0 - 0.125 and high <= 0.5 - 0.125
    with pytest.raises(ValueError, match="without units"):
        ledger.mean_of([{}, {"a": 1.0}])
    other = {str(s): run_of(draws.permutation(c)) for s, c in enumerate(hard)}
    mean, low, high = ledger.difference(solved(other), solved(base))
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
    assert ledger.verdict(expected, low, high) == verdict


def test_intervals_over_seeds_cover_what_is_true(monkeypatch):
    """Prompts are drawn once for all seeds: drawn in each of them, 82 % of the intervals cover."""
    monkeypatch.setattr(ledger, "DRAWS", 300)
    draws, prompts, trials, covered = np.random.default_rng(1), 48, 400, 0
    for _ in range(trials):
        of_prompt, of_seed = draws.normal(0, 0.15, prompts), draws.normal(0, 0.04, (3, 1))
        effect = of_prompt + of_seed + draws.normal(0, 0.12, (3, prompts))
        arm = {str(s): {str(p): x for p, x in enumerate(row)} for s, row in enumerate(effect)}
        base = {s: dict.fromkeys(own, 0.0) for s, own in arm.items()}
        mean, low, high = ledger.difference(arm, base)
        assert mean == pytest.approx(effect.mean())
        covered += low <= 0 <= high
    assert covered / trials > 0.88


def test_students_interval_is_of_the_means_of_runs():
    base = {str(s): {"a": 0.0, "b": 0.5} for s in range(3)}
    arm = {str(s): {"a": 0.1 * s, "b": 0.5 + 0.1 * s} for s in range(3)}
    mean, low, high = ledger.over_runs(arm, base)
    half = 4.3027 * 0.1 / 3**0.5  # t of 0.975 with 2 degrees of freedom
    assert (mean, low, high) == pytest.approx((0.1, 0.1 - half, 0.1 + half), abs=1e-4)
    mean, low, high = ledger.over_runs({"2": arm["2"]}, base)
    assert mean == pytest.approx(0.2) and np.isnan([low, high]).all(), "one run has no interval"
