"""Whole runs under suspicion: without a network, and with secrets in their environment."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from rlpt.testing import faulty_judge
from rlpt.verifiers.sandbox import host

ROOT = pathlib.Path(__file__).parents[1]
TINY = "toy:vocab=24,layers=1,width=16,heads=2,kv_heads=1,ff=16"


def run(command, **environment):
    done = subprocess.run(
        [*map(str, command)], cwd=ROOT, text=True, capture_output=True, timeout=280,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# ---- no network

WITHOUT_NETWORK = """
import errno, socket, sys
for address in (("127.0.0.1", 9), ("192.0.2.1", 80)):
    try:
        socket.create_connection(address, 1)
    except OSError as e:
        assert e.errno == errno.ENETUNREACH, e
    else:
        raise AssertionError(f"{address} can be reached")
from rlpt import cli
work, tiny = sys.argv[1:]
train = ["train", "--config", "configs/grpo.py:runlocal", "--workdir", f"{work}/run",
         f"--config.model.source={tiny}", "--config.log.tensorboard=False",
         "--config.eval.prompts=1", "--config.pool.workers=1"]
def rlpt(*argv):
    sys.argv = ["rlpt", *argv]
    cli.main(sys.argv[1:])
rlpt(*train, "--config.steps=1")
rlpt(*train, "--config.steps=2")
rlpt("evaluate", "--model", f"{work}/run", "--cache", work, "--out", f"{work}/result.json")
rlpt("export", "--workdir", f"{work}/run", "--out", f"{work}/hf")
rlpt("report", f"{work}/run", "--out", f"{work}/page.html")
"""


def denied():
    """A command that runs another one without a network."""
    if os.getuid() == 0 and shutil.which("unshare"):
        return ["unshare", "--net"]
    if shutil.which("bwrap"):
        return ["bwrap", "--dev-bind", "/", "/", "--unshare-net"]
    pytest.skip("neither bubblewrap nor, as root, unshare")


def test_a_run_needs_no_network(tmp_path):
    out = run([*denied(), sys.executable, "-c", WITHOUT_NETWORK, tmp_path, TINY])
    assert "resume   at step 1 of 2" in out and out.count("step 2/2") == 1, out
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["steps"] == 2
    assert 0.0 <= json.loads((tmp_path / "result.json").read_text())["pass@1"] <= 1.0
    assert (tmp_path / "hf/model.safetensors").is_file() and (tmp_path / "run/export").is_dir()
    page = (tmp_path / "page.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", ""), "the page asks for something"


# ---- secrets

SECRETS = {
    "JUDGE_API_KEY": "sk-canary-7f3a91c2e5d84b60",
    "RLPT_CANARY": "canary-environment-55aa",
    "WANDB_API_KEY": "canary-wandb-1234abcd",
    "AWS_SECRET_ACCESS_KEY": "canary-aws-99ff00",
}
# What each candidate begins with: tells in an exception, which the log shows, what it could find.
SPY = """
import glob, os, sys
def f(x):
    seen = [repr(dict(os.environ)), repr(sys.argv), repr(sys.orig_argv)]
    for kind in ("environ", "cmdline", "cwd/*", "maps"):
        for path in glob.glob(f"/proc/*/{kind}"):
            try: seen.append(open(path, errors="replace").read(1 << 20))
            except OSError: pass
    at = [text[text.find("canary"):][:40] for text in seen if "canary" in text]
    raise ValueError(f"looked at {len(seen)} places: {at}")
"""
CONFIG = """
import rlpt.config
def get_config(arg):
    url, data, cache, tier = arg.split(",")
    c = rlpt.config.runlocal(rlpt.config.default())
    c.model.source = "TINY"
    c.tasks = (dict(fn="files.jsonl", path=data, eval_fraction=0.4, prompt="question",
                    answer="tests", meta=("prompt", "entry_point"), on_bad_row="skip"),)
    c.verifiers = (
        dict(fn="judge.judge", name="judge", base_url=url, model="m", api_key_env="JUDGE_API_KEY",
             extract="whole", breaker=10**6, cache=cache),
        dict(fn="code.code", name="code", extract="whole", tier=tier, seconds=5.0),
    )
    c.missing.unparsable = "mask"
    c.pool.workers, c.pool.deadline, c.pool.batch_deadline = 1, 60.0, 200.0
    c.steps, c.rollout.prompts, c.rollout.group = 1, 2, 4
    c.sampling.completion_buckets = (1,)  # a letter, of which the digits are programs
    c.eval.prompts, c.eval.samples, c.eval.blocks = 1, 4, 2
    return c
"""


def test_secrets_are_in_nothing_that_a_run_leaves(tmp_path):
    """Logs, rollouts, manifests, reports, caches, what candidates see and the judge is sent."""
    tier = host.report()["tier"]
    if tier == "none":
        pytest.skip("no sandbox here")
    rows = [{"question": f"{i} + 1?", "tests": [f"assert f({i}) == {i + 1}"]} for i in range(8)]
    rows.append({"question": "?", "tests": ["assert f(lambda: 0) == 0"]})
    rows = [{**row, "prompt": SPY, "entry_point": "f"} for row in rows]
    work, files = tmp_path / "work", tmp_path / "files"
    files.mkdir()
    (files / "config.py").write_text(CONFIG.replace("TINY", TINY))
    (files / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rlpt = [sys.executable, "-m", "rlpt.cli"]
    with faulty_judge.FaultyJudge("mixed") as server:
        arg = f"{server.url},{files / 'data.jsonl'},{work / 'verdicts.db'},{tier}"
        work.mkdir()
        config = f"--config={files / 'config.py'}:{arg}"
        said = run([*rlpt, "train", config, "--workdir", work], **SECRETS)
        said += run([*rlpt, "report", work, "--out", work / "page.html"], **SECRETS)
        asked = server.log()["requests"]
    want = hashlib.sha256(f"Bearer {SECRETS['JUDGE_API_KEY']}".encode()).hexdigest()
    assert asked and {r["authorization"] for r in asked} == {want}, "the key was used"
    details = [json.loads(line) for line in (work / "rollouts.jsonl").read_text().splitlines()]
    spied = [r["details"]["code"] for r in details if "looked at" in r["details"].get("code", "")]
    assert spied, f"no candidate has run: {details[0]}"
    assert "looked at 3 places" not in "".join(spied), "and found nowhere to look"

    written = {p: p.read_bytes() for p in work.rglob("*") if p.is_file()}
    names = {p.name for p in written}
    assert names >= {"rollouts.jsonl", "metrics.jsonl", "summary.json", "config.json", "page.html",
                     "verdicts.db", "model.safetensors"}, names  # fmt: skip
    everything = {**written, "printed": said.encode(), "asked": json.dumps(asked).encode()}
    holding = [str(name) for name, data in everything.items() if b"canary" in data]
    assert not holding, f"a secret stands in {holding}"

    summary = json.loads((work / "summary.json").read_text())
    assert summary["verifiers"]["code"]["sandbox"] == tier
    assert summary["verifiers"]["judge"] == {"model": "m", "at": server.url}
    assert f"code     sandbox {tier}" in said, said
    assert "skipped 1 prompts whose reference cannot be read" in said, "counted, and no abort"
