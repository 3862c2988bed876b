"""Files that hold each step once, their mirrors, the live line, and the learning curve."""

from __future__ import annotations

import json
import os
import pathlib
import pty
import signal
import subprocess
import sys
import textwrap

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest

from rlpt import metrics
from rlpt.report import curves

STEP = {
    "reward/mean": 0.5,
    "policy/entropy": 1.25,
    "rollout/length": 8.04,
    "rollout/truncated": 0.031,
    "rollout/tokens_per_second": 410.4,
    "verify/correct": 34.0,
    "verify/incorrect": 29.0,
    "verify/timeout": 0.0,
}


def writer(workdir: pathlib.Path, **settings) -> metrics.Metrics:
    settings = {"total_steps": 10, "tensorboard": False, "console": False, **settings}
    return metrics.Metrics(workdir, **settings)


def steps(path: pathlib.Path) -> list[int]:
    return [row["step"] for row in metrics.read_jsonl(path)]


def python(code: str, **kwargs) -> subprocess.CompletedProcess:
    """Runs code in a fresh process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], text=True, capture_output=True, **kwargs
    )


# ---- metrics.jsonl


def test_lines_are_strict_json_with_null_for_what_is_not_finite(tmp_path):
    with writer(tmp_path) as m:
        m.write(0, {"a": np.float32(0.25), "b": float("nan"), "c": np.inf, "d": np.array(3)})
        m.write(2, {"a": 1})

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    times = [row.pop("time") for row in rows]
    assert rows == [{"step": 0, "a": 0.25, "b": None, "c": None, "d": 3.0}, {"step": 2, "a": 1.0}]
    assert 1.6e9 < times[0] <= times[1], f"not Unix seconds: {times}"


def test_a_second_call_for_a_step_adds_to_its_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with writer(tmp_path) as m:
        m.write(0, {"a": 0.0})
        m.write(1, {"a": 0.123456789, "b": 2})
        m.write(1, {"a": 1, "eval/pass@1": 0.75})
        m.write(2, {"a": 3})
    rows = metrics.read_jsonl(path)
    assert steps(path) == [0, 1, 2]
    assert {**rows[1], "time": 0} == {"step": 1, "time": 0, "a": 1, "b": 2, "eval/pass@1": 0.75}


def test_a_shorter_line_leaves_no_rest_of_the_longer_one(tmp_path):
    with writer(tmp_path) as m:
        m.write(1, {"a": 0.123456789012345})
    with writer(tmp_path, resume_step=1) as m:
        m.write(1, {"a": 1})
    (row,) = metrics.read_jsonl(tmp_path / "metrics.jsonl")
    assert row["a"] == 1
    assert (tmp_path / "metrics.jsonl").read_text().endswith("}" + " " * 14 + "\n")


def test_wrong_calls_say_what_is_wrong(tmp_path):
    with writer(tmp_path) as m:
        m.write(3, {"a": 1})
        with pytest.raises(ValueError, match="got step 2 after 3; steps must not fall"):
            m.write(2, {"a": 1})
        with pytest.raises(ValueError, match="metric 'name': got 'grpo', expected a number"):
            m.write(4, {"name": "grpo"})
    assert steps(tmp_path / "metrics.jsonl") == [3]
    with pytest.raises(ValueError, match="got 'gs://bucket/run'.*mounted bucket"):
        writer("gs://bucket/run")


def test_other_processes_write_and_print_nothing(tmp_path, capsys):
    with writer(tmp_path / "run", primary=False, tensorboard=True, console=True) as m:
        m.write(1, STEP)
        m.live(1, STEP)
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


# ---- resuming


def test_resume_drops_later_steps_and_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with writer(tmp_path) as m:
        for step in range(6):
            m.write(step, {"a": step})
    with path.open("a") as file:
        file.write('{"step": 6, "a"')
    assert steps(path) == [0, 1, 2, 3, 4, 5], "a torn last line is not a row"
    with writer(tmp_path, resume_step=3) as m:
        m.write(4, {"a": -4})
    rows = metrics.read_jsonl(path)
    assert [row["a"] for row in rows] == [0, 1, 2, 3, -4]
    with writer(tmp_path) as m:  # a fresh run: nothing of the old one
        m.write(0, {"a": 7})
    assert steps(path) == [0]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1, "a\x00\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: got .*expected a JSON object"):
        writer(tmp_path, resume_step=2)
    path.write_text('{"step": 0}\n{"pets": 1}\n')
    with pytest.raises(ValueError, match="line 2: got .*'step'"):
        metrics.read_jsonl(path)


def test_kill_9_then_resume_has_each_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    code = """
        import itertools, sys
        from rlpt import metrics
        m = metrics.Metrics(sys.argv[1], total_steps=9, tensorboard=False, console=False)
        r = metrics.RolloutLog(sys.argv[1])
        for step in itertools.count(1):
            r.write(step, [{"tokens": list(range(5000))}] * 2)
            m.write(step, {"a": step})
            m.write(step, {"b": step})
            if step == 20:
                print("go", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"go\n"
        process.send_signal(signal.SIGKILL)
    with (
        writer(tmp_path, resume_step=15) as m,
        metrics.RolloutLog(tmp_path, resume_step=15) as rollouts,
    ):
        m.write(16, {"a": 16})
        rollouts.write(16, [{"tokens": []}])
    assert steps(path) == list(range(1, 17))
    rows = metrics.read_rollouts(tmp_path / "rollouts.jsonl")
    assert [row["step"] for row in rows] == sorted([*range(1, 16)] * 2) + [16]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    done = python(
        f"""
        import resource
        from rlpt import metrics
        m = metrics.Metrics({str(tmp_path)!r}, total_steps=9, tensorboard=False)
        m.write(0, {{"a": 0}})
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        m.write(1, {{f"metric {{i}}": i for i in range(100)}})
        """
    )
    assert done.returncode == 1, done.stderr
    assert f"File too large, while writing: '{tmp_path}/metrics.jsonl'" in done.stderr
    with writer(tmp_path, resume_step=0) as m:
        m.write(1, {"a": 1})
    assert steps(tmp_path / "metrics.jsonl") == [0, 1]


# ---- mirrors


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    with writer(tmp_path, tensorboard=True) as m:
        for step in range(4):
            m.write(step, {"reward/mean": step / 4, "bad": float("nan")})
    with writer(tmp_path, tensorboard=True, resume_step=1) as m:
        m.write(2, {"reward/mean": -2})
        m.write(3, {"reward/mean": -3})
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["reward/mean"]
    shown = [(e.step, e.value) for e in events.Scalars("reward/mean")]
    assert shown == [(0, 0.0), (1, 0.25), (2, -2.0), (3, -3.0)]


def test_neither_torch_nor_jax_is_imported(tmp_path):
    done = python(
        f"""
        import sys

        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("torch", "tensorflow", "jax"):
                    raise RuntimeError(f"import of {{name}}")

        sys.meta_path.insert(0, Refuse())
        from rlpt import metrics
        with metrics.Metrics({str(tmp_path)!r}, total_steps=9) as m:
            m.write(0, {{"a": 0}})
        try:
            import torch
        except RuntimeError as e:
            print(e)  # the import is free again afterwards
        """
    )
    assert done.stdout == "import of torch\n", done.stderr
    assert list((tmp_path / "tensorboard").iterdir()), "no event file"


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    code = f"""
        from rlpt import metrics
        settings = dict(project="p", config=dict(lr=1.0))
        for resume in (None, 0):
            with metrics.Metrics({str(tmp_path)!r}, total_steps=9, tensorboard=False,
                                 resume_step=resume, wandb=settings) as m:
                m.write(0 if resume is None else 1, dict(a=1))
    """
    done = python(code)
    assert done.returncode == 0, done.stderr
    runs = sorted(p.name for p in (tmp_path / "wandb").glob("offline-run-*"))
    run_id = (tmp_path / "wandb-id").read_text()
    assert runs and all(run_id in name for name in runs), f"{runs} are not of run {run_id}"


def test_wandb_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"not installed: pip install 'rlpt\[wandb\]'"):
        writer(tmp_path, wandb={})


# ---- the live line


def test_live_is_one_plain_line_a_step_without_a_terminal(tmp_path, capsys):
    with writer(tmp_path, console=True) as m:
        m.live(0, {"eval/pass@1": 0.09})
        m.live(1, STEP)
        m.live(10, {**STEP, "eval/pass@1": 0.9, "reward/mean": float("nan")})
    first, second, last = capsys.readouterr().out.splitlines()
    assert first == (
        "step 0/10  reward -  eval pass@1 0.090  entropy -  length -  truncated -  tok/s -  ETA -"
    )
    assert second == (
        "step 1/10  reward 0.500  eval pass@1 0.090  entropy 1.250  length 8.0  truncated 3%  "
        "tok/s 410  ETA -  correct 34  incorrect 29"
    )
    assert last.startswith("step 10/10  reward nan  eval pass@1 0.900  ")
    assert "ETA 0:00:00" in last


def test_eta_leaves_the_first_step_out(tmp_path, monkeypatch, capsys):
    clock = iter([0.0, 100.0, 102.0, 104.0])  # seconds; the first step compiles
    monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
    with writer(tmp_path, console=True, total_steps=3603) as m:
        for step in range(4):
            m.live(step, {})
    etas = [line.split("ETA ")[1] for line in capsys.readouterr().out.splitlines()]
    assert etas == ["-", "-", "2:00:02", "2:00:00"]


def test_live_is_a_table_on_a_terminal(tmp_path):
    code = f"""
        from rlpt import metrics
        with metrics.Metrics({str(tmp_path)!r}, total_steps=30, tensorboard=False) as m:
            for step in range(1, 22):
                m.live(step, {{"reward/mean": step / 100, "verify/[odd]": 3.0}})
            with metrics.progress("evaluate", 2) as advance:
                advance(2)
    """
    read, write = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=write, env=env) as process:
        os.close(write)
        shown = b""
        while True:
            try:
                block = os.read(read, 4096)
            except OSError:  # Linux: the other end is closed
                break
            if not block:
                break
            shown += block
    os.close(read)
    assert process.returncode == 0
    text = shown.decode()
    assert text.count("eval pass@1") == 2, f"a heading at the top and after 20 rows: {text}"
    rows = [line for line in text.splitlines() if "/30" in line]
    assert len(rows) == 21
    assert rows[9].split() == [
        "10/30",
        "0.100",
        "-",
        "-",
        "-",
        "-",
        "-",
        rows[9].split()[7],
        "[odd]",
        "3",
    ]
    assert "evaluate" in text, "no bar"


def test_progress_is_one_line_without_a_terminal(capsys):
    with metrics.progress("evaluate (before)", 5) as advance:
        advance(2)
        advance(3)
    out = capsys.readouterr().out
    assert out.startswith("evaluate (before): 5 in ") and out.count("\n") == 1, out


def test_timer_adds_up_by_stage(monkeypatch):
    clock = iter([0.0, 1.0, 10.0, 15.0, 20.0, 20.5])
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(clock))
    timer = metrics.Timer()
    with timer("rollout"):
        pass
    with pytest.raises(KeyError), timer("update"):
        raise KeyError
    with timer("rollout"):
        pass
    assert timer.seconds == {"rollout": 1.5, "update": 5.0}


# ---- rollouts.jsonl


def test_rollouts_come_back_by_step(tmp_path):
    hostile = "a\u2028b\x00\ud800</script>\n\r"
    row = {
        "prompt_id": np.int32(7),
        "id": "7+5",
        "completion": hostile,
        "tokens": np.array([3, 1, 2], np.int32),
        "sampler_logp": np.array([-0.12345678, -np.inf, np.nan], np.float32),
        "verdicts": {"number": 1.0, "judge": None, "nan": float("nan")},
        "outcomes": {"number": "correct"},
        "truncated": np.bool_(False),
        "reward": np.float32(1),
    }
    with metrics.RolloutLog(tmp_path) as log:
        log.write(1, [row, {**row, "id": "second"}])
        log.write(2, [row])
    back = metrics.read_rollouts(log.path, step=1)
    assert log.path.name == "rollouts.jsonl"
    assert [r["id"] for r in back] == ["7+5", "second"]
    assert back[0] == {
        "step": 1,
        "prompt_id": 7,
        "id": "7+5",
        "completion": hostile,
        "tokens": [3, 1, 2],
        "sampler_logp": [-0.123457, None, None],
        "verdicts": {"number": 1.0, "judge": None, "nan": None},
        "outcomes": {"number": "correct"},
        "truncated": False,
        "reward": 1.0,
    }
    assert len(log.path.read_bytes().splitlines()) == 3, "a line a row"
    assert [r["step"] for r in metrics.read_rollouts(log.path)] == [1, 1, 2]
    assert metrics.read_rollouts(log.path, step=9) == []


def test_only_the_first_process_writes_rollouts(tmp_path):
    with metrics.RolloutLog(tmp_path, primary=False) as log:
        log.write(1, [{"a": 1}])
    assert not list(tmp_path.iterdir())


# ---- the learning curve


def run_file(path: pathlib.Path, slope: float, reward: bool = True) -> pathlib.Path:
    with writer(path) as m:
        for step in range(0, 11, 2):
            row = {"eval/pass@1": slope * step / 10, "eval/greedy": 0.3 + slope * step / 20}
            m.write(step, row | ({"reward/mean": slope * step} if reward else {}))
    return path / "metrics.jsonl"


def colours_in(png: pathlib.Path, alpha: float = 1.0, pixels_at_least: int = 1) -> list[bool]:
    """Which of curves.COLOURS, mixed with white, are in a picture."""
    pixels = np.round(matplotlib.image.imread(png)[..., :3] * 255)
    assert pixels.shape == (630, 1500, 3)
    found = []
    for colour in curves.COLOURS:
        mixed = alpha * np.array(matplotlib.colors.to_rgb(colour)) + 1 - alpha
        found.append((abs(pixels - mixed * 255) <= 1).all(-1).sum() >= pixels_at_least)
    return found


def test_band_is_over_the_steps_that_all_seeds_have():
    steps, mean, low, high = curves.band([{0: 1.0, 2: 4.0, 4: 9.0}, {0: 3.0, 2: 0.0}])
    np.testing.assert_array_equal(steps, [0, 2])
    np.testing.assert_array_equal(mean, [2, 2])
    np.testing.assert_array_equal(low, [1, 0])
    np.testing.assert_array_equal(high, [3, 4])


def test_series_leaves_gaps_out():
    rows = [{"step": 1, "a": 1.0}, {"step": 2, "a": None}, {"step": 3}, {"step": 4, "a": 0.0}]
    assert curves.series(rows, "a") == {1: 1.0, 4: 0.0}


def test_learning_curve_draws_every_run(tmp_path):
    one, two, scores_only = (
        run_file(tmp_path / name, slope, reward=name != "scores")
        for name, slope in (("one", 1.0), ("two", 0.5), ("scores", 0.8))
    )
    out = curves.learning_curve({"run": one}, tmp_path / "new" / "one.png")
    assert colours_in(out) == [True, True] + [False] * 4, "one run: pass@1 and greedy"
    assert not any(colours_in(out, 0.2, 3000)), "one run has no band"
    out = curves.learning_curve({"a": one, "b": [two, one], "c": scores_only}, tmp_path / "c.png")
    assert colours_in(out) == [True] * 3 + [False] * 3, "three runs: a colour each"
    assert colours_in(out, 0.2, 3000)[:3] == [False, True, False], "a band for the two seeds"


def test_learning_curve_of_nothing_names_the_file(tmp_path):
    with writer(tmp_path) as m:
        m.write(0, {"time/rollout": 1.0})
    with pytest.raises(ValueError, match=r"metrics\.jsonl: got no row with reward/mean or eval/"):
        curves.learning_curve({"run": tmp_path / "metrics.jsonl"}, tmp_path / "x.png")
