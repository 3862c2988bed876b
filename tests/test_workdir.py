"""The workdir: one run at a time, files whole or not there, errors that say what to do."""

import json
import os
import resource
import signal
import subprocess
import sys

import pytest

from rlpt.workdir import Workdir, WorkdirError, WorkdirInUse


def test_makes_and_names_its_files(tmp_path):
    with Workdir(tmp_path / "a" / ".." / "b" / "run") as work:
        assert work.path == tmp_path / "b" / "run" and work.path.is_dir()
        named = {
            work.metrics: "metrics.jsonl",
            work.rollouts: "rollouts.jsonl",
            work.config: "config.json",
            work.config_diff: "config_diff.json",
            work.summary: "summary.json",
            work.checkpoints: "checkpoints",
            work.export: "export",
        }
        for path, name in named.items():
            assert path == work.path / name


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with Workdir("~/run") as work:
        assert work.path == tmp_path / "run"


def test_a_second_run_is_told_who_holds_it_and_what_to_do(tmp_path):
    with Workdir(tmp_path):
        with pytest.raises(WorkdirInUse) as error:
            Workdir(tmp_path)
        for part in (
            f"in use by pid {os.getpid()} on ",
            "choose another --workdir",
            "do not delete",
        ):
            assert part in str(error.value)
        Workdir(tmp_path, lock=False).close()
        with pytest.raises(WorkdirInUse):
            Workdir(tmp_path)
    Workdir(tmp_path).close()


def test_the_lock_excludes_other_processes_and_dies_with_its_holder(tmp_path):
    code = (
        "import sys, time; from rlpt.workdir import Workdir\n"
        "work = Workdir(sys.argv[1]); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(WorkdirInUse, match=f"pid {holder.pid} on "):
            Workdir(tmp_path)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with Workdir(tmp_path):
        assert f"pid {os.getpid()} " in (tmp_path / ".lock").read_text()


def test_json_is_strict_whole_and_readable(tmp_path):
    with Workdir(tmp_path) as work:
        path = work.write_json("summary.json", {"b": [1, 2.5, None], "a": "é"})
        assert path == work.summary and json.loads(path.read_text("utf-8")) == {
            "b": [1, 2.5, None],
            "a": "é",
        }
        assert path.stat().st_mode & 0o777 == 0o644
        with pytest.raises(ValueError, match="JSON compliant"):
            work.write_json("summary.json", {"x": float("nan")})
        with pytest.raises(TypeError, match="not JSON serializable"):
            work.write_json("summary.json", {"x": {1, 2}})
        assert json.loads(path.read_text("utf-8"))["a"] == "é", (
            "a failed write must keep the old file"
        )


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_behind(tmp_path):
    with Workdir(tmp_path) as work:
        work.write_json("config.json", {"old": 1})
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(WorkdirError, match="cannot write .*config.json.*free space"):
                work.write_json("config.json", {"new": "x" * 5000})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert json.loads(work.config.read_text()) == {"old": 1}
        assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "config.json"]


def test_places_that_cannot_be_a_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="cannot write there .Not a directory.*--workdir"):
        Workdir(tmp_path / "file" / "run")
    with pytest.raises(WorkdirError, match="got a URL"):
        Workdir("gs://bucket/run")


def test_a_read_only_workdir(tmp_path):
    """In a child without the superuser's power to write anywhere."""
    tmp_path.chmod(0o755)
    (tmp_path / "run").mkdir(mode=0o555)
    code = (
        "import os, sys; from rlpt.workdir import Workdir, WorkdirError\n"
        "os.chdir(sys.argv[1])\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "try: Workdir('run')\n"
        "except WorkdirError as e: print(e)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "cannot write there (Permission denied)" in ran.stdout, ran.stderr


def test_needs_no_jax():
    code = "import sys, rlpt.workdir; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
