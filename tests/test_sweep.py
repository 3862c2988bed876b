"""Sweeps on the toy model: overrides, the plan, runs that fail or are stopped, the table."""

import json
import os
import pathlib
import shutil
import signal
import threading
import time

import numpy as np
import pytest

from rlpt import cli, statistics, sweep
from rlpt.settings import ConfigError
from tests.test_train import toy

ROOT = pathlib.Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "configs/sweeps").glob("*.py"))

CONFIG = """
from tests.test_train import toy
def get_config(arg=None):
    return toy(
        steps=3, eval__samples=2, export=False, log__tensorboard=False, debug=False,
        advantage=(dict(fn="group.grpo"),),
    )
"""
SETTINGS = [("base", {}), ("flat", {"advantage.0.eps": 10.0})]


def write(directory, settings=SETTINGS, **more):
    """A sweep file, and its config, in a directory. Returns: its path."""
    (directory / "config.py").write_text(CONFIG)
    given = dict(config=str(directory / "config.py"), settings=settings, baseline="base")
    given |= dict(seeds=(0, 1)) | more
    file = directory / "my_sweep.py"
    file.write_text(f"def get_sweep(arg=None):\n    return {given!r}\n")
    return str(file)


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for tests.toy in the runs' processes


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """(sweep, directory, table) of all runs, made in this process."""
    directory = tmp_path_factory.mktemp("unbroken")
    made = sweep.load_sweep(write(directory))
    for index in range(4):
        sweep.run_one(made, index, directory / "out")
    return made, directory / "out", sweep.table(sweep.collect(made, directory / "out"))


# ---- what a sweep says


@pytest.mark.parametrize("file", SWEEPS, ids=lambda f: f.stem)
def test_sweeps_of_the_repository(file, tmp_path):
    source = f"configs/sweeps/{file.name}"
    small, full = sweep.load_sweep(f"{source}:runlocal"), sweep.load_sweep(source)
    sweep.check(small, tmp_path)
    assert [r.name for r in small.runs] == [r.name for r in full.runs]
    configs = {r.name: sweep.config_of(full, r) for r in full.runs}
    assert all(c.model.source == "embedded" for c in configs.values())
    kinds = {
        json.dumps({**json.loads(c.to_json_best_effort()), "seed": 0}) for c in configs.values()
    }
    assert len(kinds) == len(full.settings), "two settings are the same"
    assert f"rlpt sweep {source} " in file.read_text(), "the docstring has no command"


def test_there_are_sweeps():
    assert [f.stem for f in SWEEPS] == [
        *("aggregation", "estimators", "learning_rate", "noise_rates", "tempo"),
    ]


def test_overrides_change_one_config_only(tmp_path):
    settings = [
        ("base", {}),
        ("other", {
            "optim.lr": 0.5, "advantage.0.eps": 1e-3, "loss.0.surrogate.low": 0.1,
            "rollout.options.step": 2, "verifiers": (),
        }),
    ]  # fmt: skip
    made = sweep.load_sweep(write(tmp_path, settings))
    base, other = (sweep.config_of(made, made.runs[i]) for i in (0, 3))
    assert (base.seed, other.seed) == (0, 1)
    assert other.optim.lr == 0.5 and base.optim.lr == 1e-2
    assert dict(other.advantage[0]) == {"fn": "group.grpo", "eps": 1e-3}
    assert dict(base.advantage[0]) == {"fn": "group.grpo"}
    assert other.loss[0]["surrogate"] == {"fn": "surrogates.ppo_clip", "low": 0.1}
    assert other.rollout.options.step == 2 and other.verifiers == ()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optim.lrr", 1.0, "no key 'lrr'. Did you mean 'lr'?"),
        ("advantage.1.eps", 1.0, "got '1', expected a place below 1"),
        ("advantage.eps", 1.0, "got 'eps', expected a place below 1"),
        ("steps.more", 1, "3 has no keys such as 'more'"),
        ("steps", "many", "steps: "),
        ("advantage.0.epsilon", 1.0, "unknown setting 'epsilon'"),
    ],
)
def test_wrong_overrides_are_found_before_anything_runs(tmp_path, key, value, message):
    made = sweep.load_sweep(write(tmp_path, [*SETTINGS, ("wrong", {key: value})]))
    with pytest.raises(ConfigError) as error:
        sweep.check(made, tmp_path / "out")
    assert message in str(error.value) and "my_sweep.py, wrong: " in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(seed=(0,)), "unknown key 'seed'. Did you mean 'seeds'?"),
        (dict(seeds=()), "seeds is missing or empty"),
        (dict(seeds=(0, 0)), "expected different integers"),
        (dict(settings=[("a/b", {})]), "'a/b' is no file name"),
        (dict(settings=[("a", {}), ("a", {})]), "two settings are called 'a'"),
        (dict(baseline="bse"), "no setting is called 'bse', the baseline. Did you mean 'base'"),
    ],
)
def test_wrong_sweeps(tmp_path, changes, message):
    with pytest.raises(ConfigError) as error:
        sweep.load_sweep(write(tmp_path, **changes))
    assert message in str(error.value)


def test_files_that_are_no_sweeps(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        sweep.load_sweep(str(tmp_path / "nowhere.py"))
    (tmp_path / "x.py").write_text("")
    with pytest.raises(ConfigError, match=r"has no get_sweep\(arg\)"):
        sweep.load_sweep(str(tmp_path / "x.py"))
    with pytest.raises(SystemExit, match="expected FILE.py"):
        cli.main(["sweep", "--workers", "2"])


def test_dry_run_prints_what_is_left(unbroken, tmp_path, capsys):
    file = write(tmp_path)
    out = tmp_path / "out"
    shutil.copytree(unbroken[1] / "base-seed1", out / "base-seed1")
    cli.main(["sweep", file, "--out", str(out), "--dry-run"])
    command = f"sweep {file} --out {out}"
    assert capsys.readouterr().out.splitlines() == [
        "  0  to do     base-seed0",
        "  1  finished  base-seed1",
        "  2  to do     flat-seed0  advantage.0.eps=10.0",
        "  3  to do     flat-seed1  advantage.0.eps=10.0",
        "",
        "# on this machine",
        f"rlpt {command} --workers 1",
        "# Slurm",
        f"sbatch --array=0,2,3 launch/slurm.sbatch {command}",
        "# TPUs, one a run; --bucket gs://... keeps what is under runs/",
        *[
            f"bash launch/tpu_pod.sh --name my-sweep-{i} -- {command} --index {i}"
            for i in (0, 2, 3)
        ],
    ]
    assert sorted(p.name for p in out.iterdir()) == ["base-seed1"], "a dry run made something"
    made, full, _ = unbroken
    assert sweep.plan(made, full).endswith("nothing is left to do")


# ---- the table


def test_table_by_hand(unbroken):
    made, out, shown = unbroken
    value = {
        r.name: json.loads((out / r.name / "summary.json").read_text())["eval_after"]["pass@1"]
        for r in made.runs
    }
    assert len(set(value.values())) > 2, "seeds and settings make no difference to this test"
    found = sweep.collect(made, out)
    cell = found["settings"]["flat"]["pass@1"]
    flat = [value[f"flat-seed{s}"] for s in (0, 1)]
    change = [value[f"flat-seed{s}"] - value[f"base-seed{s}"] for s in (0, 1)]
    assert cell["seeds"] == dict(enumerate(flat)) and cell["mean"] == np.mean(flat)
    assert (cell["low"], cell["high"]) == statistics.t_interval(np.array(flat))
    assert cell["difference"]["seeds"] == 2 and cell["difference"]["mean"] == np.mean(change)
    assert "difference" not in found["settings"]["base"]["pass@1"] and not found["unfinished"]
    header, base, line = shown.splitlines()[:3]
    assert header.split() == ["pass@1", "seeds", "mean", "difference", "from", "base"]
    assert base.split()[:3] == [
        "base",
        "2",
        f"{np.mean([value['base-seed0'], value['base-seed1']]):.3f}",
    ]
    assert base.endswith("baseline") and f"{np.mean(change):+.3f} [" in line
    assert "greedy" in shown


def test_pairs_are_of_equal_seeds(unbroken, tmp_path):
    made, out, _ = unbroken
    for name in ("base-seed0", "flat-seed0", "flat-seed1"):
        shutil.copytree(out / name, tmp_path / name)
    found = sweep.collect(made, tmp_path)
    cell = found["settings"]["flat"]["pass@1"]
    assert list(cell["seeds"]) == [0, 1] and cell["difference"]["seeds"] == 1
    assert cell["difference"]["low"] is None, "an interval from one pair"
    assert found["unfinished"] == {"base-seed1": "not finished"}
    assert sweep.table(found).endswith("base-seed1: not finished")
    shutil.rmtree(tmp_path / "base-seed0")
    assert " -" in sweep.table(sweep.collect(made, tmp_path)), "a mean of nothing"


def test_an_unknown_measure_is_named(unbroken, tmp_path):
    made = sweep.load_sweep(write(tmp_path, measures=("pass@3",)))
    with pytest.raises(
        ConfigError, match="measures: got 'pass@3', expected some of pass@1, .* Did"
    ):
        sweep.check(made, tmp_path / "none")
    found = sweep.collect(made, unbroken[1])
    why = "finished; its evaluation has no pass@3"
    assert found["unfinished"]["base-seed0"] == why and why in sweep.table(found)
    for n, names in ((0, []), (1, ["pass@1"]), (6, ["pass@1", "pass@2", "pass@4", "pass@6"])):
        assert sweep.measures_of(toy(eval__samples=n))[: len(names) + 1] == [*names, "greedy"]


def test_a_seed_is_no_setting(tmp_path):
    with pytest.raises(ConfigError, match="b: the seed is not a setting: write it into seeds"):
        sweep.load_sweep(write(tmp_path, [("base", {}), ("b", {"seed": 7})]))


def test_an_index_runs_its_run_and_nothing_else(unbroken, tmp_path, capsys):
    _, out, _ = unbroken
    file = write(tmp_path, [("base", {}), ("flat", {"optim.lr": 1.0})])
    for more, place, said in (
        (("0", "--dry-run"), tmp_path / "out", "give it without"),
        (("0", "--table"), tmp_path / "out", "give it without"),
        (("2",), out, "flat-seed0 is of a run with another config"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["sweep", file, "--out", str(place), "--index", *more])
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---- running


def test_another_config_under_the_same_name_is_refused(unbroken, tmp_path):
    _, out, _ = unbroken
    made = sweep.load_sweep(write(tmp_path, [("base", {}), ("flat", {"optim.lr": 1.0})]))
    with pytest.raises(ConfigError, match=r"flat-seed0 is of a run with another config \(adv"):
        sweep.check(made, out)


def test_one_failed_run_stops_no_other_and_is_named(unbroken, tmp_path, capsys):
    settings = [("base", {}), ("gone", {"model.source": "/nowhere"})]
    file, out = write(tmp_path, settings, seeds=(0,)), tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        cli.main(["sweep", file, "--out", str(out), "--workers", "2"])
    assert stop.value.code == 1
    shown = capsys.readouterr().out
    assert "FAILED  gone-seed0" in shown and "finished  base-seed0" in shown
    last = shown.splitlines()[-1]
    assert last.startswith("gone-seed0: ") and "FileNotFoundError: model '/nowhere'" in last
    found = json.loads((out / "sweep.json").read_text())
    assert found["unfinished"] == {"gone-seed0": last.removeprefix("gone-seed0: ")}
    same = json.loads((unbroken[1] / "base-seed0/summary.json").read_text())["eval_after"]
    assert found["settings"]["base"]["pass@1"]["seeds"] == {"0": same["pass@1"]}
    before = (out / "base-seed0/metrics.jsonl").stat().st_mtime_ns
    cli.main(["sweep", file, "--out", str(out), "--table"])
    assert "gone-seed0: not finished" in capsys.readouterr().out
    cli.main(["sweep", file, "--out", str(out), "--index", "0"])
    assert "base-seed0 is finished" in capsys.readouterr().out
    assert (out / "base-seed0/metrics.jsonl").stat().st_mtime_ns == before, "it ran again"
    with pytest.raises(SystemExit):
        cli.main(["sweep", file, "--out", str(out), "--index", "2"])
    assert "--index: got 2, expected 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_that_stop_a_sweep(number):
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also below nohup
    try:
        with sweep.sigterm_interrupts():
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
            if number == signal.SIGHUP:
                signal.raise_signal(number)  # shells pass it on: it comes twice
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stopped_sweep_resumes_to_the_same_table(unbroken, tmp_path, capsys):
    made, whole, expected = unbroken
    out = tmp_path / "out"
    for name in ("base-seed0", "flat-seed1"):
        shutil.copytree(whole / name, out / name)
    log = out / "base-seed1/metrics.jsonl"

    def stop_in_the_middle():
        while not (log.exists() and '"step": 1' in log.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_in_the_middle, daemon=True).start()
    arguments = ["sweep", made.source, "--out", str(out)]
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 130
    assert not (out / "flat-seed0").exists(), "it went on with the next run"
    stopped = (out / "base-seed1" / sweep.LOG).read_text()
    assert "stopped at step" in stopped and "with a checkpoint" in stopped, stopped
    shutil.copytree(whole / "flat-seed0", out / "flat-seed0")
    capsys.readouterr()
    cli.main(arguments)
    printed = capsys.readouterr().out
    assert "3 of 4 runs are finished" in printed
    assert "resume   at step" in (out / "base-seed1" / sweep.LOG).read_text()
    assert printed.endswith(expected + "\n"), "another table than the unbroken sweep's"


def test_no_workers():
    made = sweep.Sweep("x.py", "c.py", (), "", ())
    with pytest.raises(ValueError, match="--workers: got 0"):
        sweep.run_local(made, pathlib.Path("runs"), 0)
