"""rlpt doctor, as a person runs it, and what its checks say of a machine that lacks something."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from rlpt import config as config_lib
from rlpt import doctor
from rlpt.verifiers.sandbox import host

ROOT = pathlib.Path(__file__).parents[1]


def run(*args, **environment):
    return subprocess.run(
        [sys.executable, "-m", "rlpt.cli", "doctor", *map(str, args)], cwd=ROOT, text=True,
        capture_output=True, env={**os.environ, **environment}, timeout=200,
    )  # fmt: skip


def test_a_machine_that_can_train(tmp_path):
    config = ("--config", "configs/quickstart.py:runlocal")
    done = run(*config, "--workdir", tmp_path / "new", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    by_name = {f["name"]: f for f in found["findings"]}
    assert found["ok"] and set(by_name) == {
        "versions", "devices", "packages", "compilation cache", "sandbox", "workdir", "model",
        "config", "data", "self-test",
    }  # fmt: skip
    assert {f["status"] for f in found["findings"]} <= {"ok", "note"}
    for name, said in (
        ("versions", "jax 0."),
        ("devices", "1 x cpu (cpu)"),
        ("workdir", "can be written"),
        ("model", "toy: 2 layers, d 64"),
        ("data", "references looked at can be read"),
        ("self-test", "a GRPO step on a toy model"),
    ):
        assert said in by_name[name]["detail"], by_name[name]
    best = host.report()["tier"]
    assert best == "none" or f"a call into {best}" in by_name["self-test"]["detail"]
    assert not (tmp_path / "new").exists(), "doctor leaves nothing behind"


def test_what_a_run_would_lack_is_named(tmp_path):
    (tmp_path / "file").touch()
    done = run(
        "--config", "configs/quickstart.py:runlocal", "--config.optim.name=sgdd",
        "--workdir", tmp_path / "file/run", "--model", tmp_path / "model", "--noselftest",
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed")]
    assert [line.split()[1] for line in failed] == ["workdir", "model", "config"], done.stdout
    assert "cannot write in" in failed[0] and "no such directory" in failed[1], failed
    assert "sgdd" in failed[2] and "self-test" not in done.stdout
    assert not done.stderr.count("Traceback"), done.stderr


def test_a_device_that_is_not_there():
    done = run("--noselftest", "--json", JAX_PLATFORMS="cuda")
    found = {f["name"]: f for f in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1 and found["devices"]["status"] == "failed", done.stdout
    assert "cuda" in found["devices"]["detail"]


def test_a_sandbox_that_is_not_there(monkeypatch):
    reasons = {"bwrap": "bubblewrap is not installed", "unshare": "not permitted", "rlimit": ""}
    monkeypatch.setattr(host, "available", lambda: reasons)
    found = {f.name: f for f in doctor.examine(selftest=False)}
    assert found["sandbox"].status == "note", "only a run with a code verifier needs it"
    assert "apt-get install bubblewrap" in found["sandbox"].detail
    assert "unshare: not permitted" in found["sandbox"].detail
    config = config_lib.runlocal(config_lib.default())
    config.verifiers = (dict(fn="code.code", name="code", tier="docker"),)
    status, data = doctor._found("data", lambda: doctor._data(config)), "expected auto, any, bwrap"
    assert status.status == "failed" and data in status.detail, status


def test_a_full_disk_and_an_old_python(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert doctor._workdir(str(tmp_path)) == (
        "failed",
        f"{tmp_path}: only 1 MB free; a run keeps several checkpoints",
    )
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    status, detail = doctor._versions()
    assert status == "failed" and "expected Python 3.11 or 3.12" in detail


def test_models_are_looked_at_and_not_loaded(tmp_path, monkeypatch):
    from rlpt.models import hf, load

    loaded = load.load("toy:vocab=24,layers=1,width=16,heads=2,kv_heads=1,ff=16")
    hf.save_hf(
        tmp_path / "hf", loaded.config, loaded.params, loaded.tokenizer, run_info={"run_id": "r"}
    )
    monkeypatch.setattr(load, "load", lambda source: pytest.fail(f"{source} was loaded"))
    status, detail = doctor._model(str(tmp_path / "hf"))
    assert status == "ok" and detail.endswith("0 MB of weights, 24 tokens"), detail
    (tmp_path / "hf/model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks config.json or \*.safetensors"):
        doctor._model(str(tmp_path / "hf"))
    (tmp_path / "run/checkpoints/3").mkdir(parents=True)
    (tmp_path / "a.gguf").write_bytes(bytes(1 << 20))
    source = {"model": {"source": str(tmp_path / "a.gguf")}}
    (tmp_path / "run/config.json").write_text(json.dumps(source))
    status, detail = doctor._model(str(tmp_path / "run"))
    assert status == "ok" and "1 checkpoints; trained from" in detail and "1 MB" in detail


def test_the_table_is_plain_where_nobody_looks():
    findings = [doctor.Finding("a", "ok", "x [red]y[/]\nz"), doctor.Finding("b c", "failed", "w")]
    assert doctor.table(findings, terminal=False) == (
        "ok      a    x [red]y[/]\n             z\nfailed  b c  w"
    )
    assert "\x1b[" in doctor.table(findings, terminal=True)
