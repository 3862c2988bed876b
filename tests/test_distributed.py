"""Runs of several processes over loopback: they end as one process does, and start again."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from rlpt import cli, distributed, supervise

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = """
from tests.test_train import toy


def get_config(arg=""):
    c = toy(eval__every=2, checkpoint__every=2, steps=int(arg or 4))
    c.learner.skip_zero_advantage = False
    c.log.columns = ("ref_logp",)
    c.optim.name, c.optim.lr = "sgd", 0.3  # AdamW's first steps are signs, which rounding turns
    return c
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("distributed")
    (path / "config.py").write_text(CONFIG)
    return path


def command(place, name, *more, steps=""):
    return [
        "train",
        "--config",
        f"{place}/config.py:{steps}",
        "--workdir",
        f"{place}/{name}",
        *more,
    ]


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **more}


def run(argv, **env):
    return subprocess.run(
        [sys.executable, "-m", "rlpt.cli", *argv],
        env=environment(**env), cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def rows(workdir):
    lines = (workdir / "rollouts.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def compare(one, other):
    a, b = (load_file(w / "export" / "model.safetensors") for w in (one, other))
    for name in a:
        np.testing.assert_allclose(b[name], a[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert len(rows(one)) == len(rows(other)) > 0
    for x, y in zip(rows(one), rows(other), strict=True):
        for key in ("tokens", "verdicts", "outcomes", "completion", "reward", "row_id"):
            assert x[key] == y[key], key
        logp = (z["columns"]["ref_logp"] for z in (x, y))
        np.testing.assert_allclose(*logp, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def alone(place):
    done = run(command(place, "alone"))
    assert done.returncode == 0, done.stderr[-2000:]
    return place / "alone"


@pytest.mark.parametrize("n", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_end_as_one_does(place, alone, n):
    done = run(["supervise", f"--processes={n}", "--", *command(place, f"of{n}")])
    assert done.returncode == 0, done.stderr[-2000:]
    compare(alone, place / f"of{n}")
    assert done.stdout.count("step 4/4") == 1, "more than one process prints"
    summary = json.loads((place / f"of{n}" / "summary.json").read_text())
    assert summary["versions"]["processes"] == str(n)
    checkpoint = json.loads((alone / "summary.json").read_text())
    assert summary["eval_after"] == checkpoint["eval_after"]


def test_a_killed_process_has_all_started_again_and_the_run_ends_as_if_unbroken(place, alone):
    work = place / "killed"
    argv = ["supervise", "--processes=2", "--restarts=2", "--", *command(place, "killed")]
    process = subprocess.Popen(
        [sys.executable, "-m", "rlpt.cli", *argv], env=environment(), cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(work.glob("checkpoints/2")):
        time.sleep(0.05)
    children = _children(process.pid)
    assert len(children) == 2, "the run was over before it could be killed"
    os.kill(children[1], signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-2000:]
    assert "start 2 of 3" in err and "start 3" not in err, err[-2000:]
    assert "resume   at step 2 of 4" in out
    compare(alone, work)


def _children(pid):
    """Those that are a process of the run, in the order of their index."""
    found = {}
    for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(status.read_text().rpartition(")")[2].split()[1]) == pid:
                env = (status.parent / "environ").read_bytes().split(b"\0")
                index = next(e for e in env if e.startswith(b"RLPT_PROCESS="))
                found[int(index.partition(b"=")[2])] = int(status.parent.name)
        except (OSError, StopIteration):
            continue
    return [found[i] for i in sorted(found)]


def test_a_signal_to_one_process_stops_all_with_a_checkpoint(place):
    """Slurm and Kubernetes tell each process by itself, and not all at one moment."""
    work = place / "stopped"
    argv = ["supervise", "--processes=2", "--", *command(place, "stopped", steps=10000)]
    process = subprocess.Popen(
        [sys.executable, "-m", "rlpt.cli", *argv], env=environment(), cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(work.glob("checkpoints/2")):
        time.sleep(0.05)
    os.kill(_children(process.pid)[1], signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err[-2000:]
    step = int(out.rpartition("stopped at step ")[2].split()[0])
    assert (work / "checkpoints" / str(step)).is_dir()


@pytest.mark.parametrize(
    ("env", "arguments", "message"),
    [
        ({}, {"coordinator": "localhost:1"}, "processes, process is not given"),
        ({"RLPT_PROCESSES": "two"}, {}, "RLPT_PROCESSES: got 'two', expected an integer"),
        (
            {"RLPT_COORDINATOR": "localhost:1", "RLPT_PROCESSES": "2", "RLPT_PROCESS": "2"}, {},
            "got process 2 of 2, expected an index from 0",
        ),
        ({}, {"mode": "perhaps"}, "got 'perhaps', expected auto, on or off"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together(env, arguments, message, monkeypatch):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        distributed.initialize(**arguments)


@pytest.mark.parametrize(
    ("env", "several"),
    [
        ({}, False),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"SLURM_STEP_NUM_TASKS": "4"}, False),  # in the batch script, not in a step
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "t1v-0,t1v-1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "WARNING: not found, please set it"}, False),
    ],
)
def test_which_environments_are_of_several_processes(env, several, monkeypatch):
    for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE",
                 "TPU_WORKER_HOSTNAMES"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert distributed._several() is several


def test_what_processes_loaded_is_compared(monkeypatch):
    others = [{"data": "a", "model": "m"}, {"data": "a", "model": "n"}]
    monkeypatch.setattr(distributed, "join", lambda results: others)
    monkeypatch.setattr(distributed, "count", lambda: 2)
    with pytest.raises(ValueError, match="process 1 of 2 has loaded another model than process 0"):
        distributed.alike(others[0])
    others[1] = others[0]
    distributed.alike(others[0])


def test_processes_that_have_not_joined_are_told_how(monkeypatch):
    distributed.need_connection()
    monkeypatch.setattr(distributed, "count", lambda: 4)
    with pytest.raises(ValueError, match="one of 4 processes .* --distributed on"):
        distributed.need_connection()


def test_a_workdir_that_is_not_shared_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(distributed, "count", lambda: 2)
    monkeypatch.setattr(distributed, "agree", lambda value: value)
    distributed.sees(tmp_path)
    with pytest.raises(ValueError, match="not seen by every process .* all hosts share"):
        distributed.sees(tmp_path / "elsewhere", seconds=0.3)


def test_two_processes_with_other_data_do_not_begin(place):
    path = place / "other"
    path.mkdir()
    text = CONFIG.replace("return c", "c.tasks = tasks()\n    return c")
    text += """

def tasks():
    import os

    return (dict(fn="arithmetic.sums", low=int(os.environ["RLPT_PROCESS"])),)
"""
    (path / "config.py").write_text(text)
    done = run(["supervise", "--processes=2", "--", *command(path, "x")])
    assert done.returncode == 1, done.stdout[-2000:]
    assert "process 1 of 2 has loaded another" in done.stderr, done.stderr[-2000:]
    assert not (path / "x/checkpoints/2").exists()


def test_alone_nothing_is_shared():
    assert distributed.join(list(distributed.part([1, 2]))) == [1, 2]
    assert distributed.agree(15) == 15 and distributed.primary()


def test_a_lost_peer_is_seen_behind_another_error(monkeypatch, capsys):
    left = []
    monkeypatch.setattr(distributed.jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.os, "_exit", left.append)
    lost = RuntimeError("UNAVAILABLE: connection reset")
    for cause in (lost, None):
        error = ValueError("saving step 3 failed")
        error.__cause__ = cause
        distributed.leave(1, error)
    assert left == [distributed.PEER_LOST, 1]
    assert "another process of this run is gone" in capsys.readouterr().err


def test_errors_of_the_runtime_may_be_started_again(monkeypatch):
    def crash(argv):
        raise jax.errors.JaxRuntimeError("INTERNAL: the driver is gone")

    monkeypatch.setitem(cli.COMMANDS, "train", crash)
    with pytest.raises(SystemExit) as e:
        cli.main(["train"])
    assert e.value.code == 70 and e.value.code not in supervise._FINAL


def test_supervise_ends_with_an_error_that_comes_back(capfd):
    assert supervise.supervise(["nonsense"], restarts=3) == 2
    assert capfd.readouterr().err.count("unknown command") == 1, "it was started again"
    with pytest.raises(ValueError, match="processes=0"):
        supervise.supervise(["train"], processes=0)


@pytest.mark.parametrize(
    ("codes", "status"),
    [((-9, 1), -9), ((1, -9), 1), ((137, 1), 137), ((-9, 130), 130), ((75, 2), 2), ((0, 0), 0)],
)
def test_a_status_of_the_runtime_does_not_hide_a_killed_peer(codes, status, monkeypatch):
    """The first of the codes is that which ended first."""
    now = [0]

    class Ends:
        def __init__(self, when, code):
            self._when, self._code = when, code

        returncode = None

        def poll(self):
            self.returncode = self._code if now[0] >= self._when else None
            return self.returncode

    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + 1))
    assert supervise._watch([Ends(1, codes[0]), Ends(3, codes[1])], grace=5.0) == status
    now[0] = 0
    assert supervise._watch([Ends(3, codes[1]), Ends(1, codes[0])], grace=5.0) == status


# Starts two tasks with the variables that Slurm gives them; ends with the highest status.
SRUN = """#!{python}
import os, subprocess, sys
tasks = [
    subprocess.Popen(sys.argv[2:], env=os.environ | {{
        "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i), "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost",
    }})
    for i in range(2)
]
sys.exit(max(t.wait() for t in tasks))
"""


def test_two_tasks_of_slurm_train_one_model(place, alone):
    programs = place / "programs"
    programs.mkdir()
    (programs / "srun").write_text(SRUN.format(python=sys.executable))
    (programs / "srun").chmod(0o755)
    script = programs / "venv" / "bin" / "rlpt"
    script.parent.mkdir(parents=True)
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m rlpt.cli "$@"\n')
    script.chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / "launch" / "slurm.sbatch"), *command(place, "slurm")],
        cwd=ROOT, text=True, capture_output=True, timeout=240,
        env=environment(
            PATH=f"{programs}:{os.environ['PATH']}", RLPT_VENV=str(programs / "venv"),
            SLURM_JOB_ID=str(os.getpid()), SLURM_SUBMIT_DIR=str(ROOT),
        ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("step 4/4") == 1
    compare(alone, place / "slurm")
