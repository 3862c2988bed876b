"""A judge with no service at all: `rlpt serve` in another process, audited and trained on."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest

from rlpt import build, train
from rlpt.tasks import base as tasks_base
from rlpt.verifiers import judge, pool

ROOT = pathlib.Path(__file__).parents[1]
get_config = runpy.run_path(str(ROOT / "configs/judge.py"))["get_config"]


@contextlib.contextmanager
def served(model, prompt_tokens):
    """The base URL of a model in a process of its own."""
    command = [sys.executable, "-m", "rlpt.cli", "serve", "--model", model, "--port", "0"]
    command += ["--prompt_tokens", str(prompt_tokens), "--max_tokens", "64", "--name", "judge"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        try:
            line = process.stdout.readline()
            found = re.search(r"at (http://127\.0\.0\.1:\d+/v1)", line)
            assert found, line
            yield found[1]
        finally:
            process.kill()


def labelled(n):
    """n right and n wrong answers to sums."""
    prompts = [
        tasks_base.Prompt(str(i), tasks_base.chat(f"What is {i} + 1?"), str(i + 1))
        for i in range(n)
    ]
    right = [judge.Labelled(p, p.answer, True) for p in prompts]
    return prompts, right + [judge.Labelled(p, str(int(p.answer) + 5), False) for p in prompts]


# Replies of one length: to a random model a shorter one is likelier.
SCORES = dict(form="score", low=1.0, high=5.0)


def best_case(found):
    """The measured rates, or where they say that it knows nothing the best that the labels allow.

    A correction refuses a judge that passes wrong answers as often as right ones.
    """
    rates = found.noise()
    if rates["fp_rate"] + rates["fn_rate"] < 1:
        return rates
    config = get_config("model=judge,fp_rate={fp_rate},fn_rate={fn_rate}".format(**rates))
    with pytest.raises(ValueError, match="expected both >= 0 and a sum below 1"):
        build.check(config)
    return {"fp_rate": found.false_positive_interval[0],
            "fn_rate": 1.0 - found.true_positive_interval[1]}  # fmt: skip


def trained(url, workdir, rates, verifier, **changes):
    """A run of configs/judge.py, small, with measured rates; its result and its rows."""
    arg = f"url={url},model=judge,max_tokens=64,deadline=900,fp_rate={rates['fp_rate']}"
    config = get_config(f"{arg},fn_rate={rates['fn_rate']}")
    correction = config.advantage[1]
    assert (correction["fp_rate"], correction["fn_rate"]) == (rates["fp_rate"], rates["fn_rate"])
    small = get_config("runlocal")
    small.verifiers = ({**config.verifiers[0], **verifier},)
    small.advantage = config.advantage
    small.pool.update(config.pool)
    small.steps, small.pool.workers = 1, 1
    small.log.tensorboard = small.log.console = small.export = False
    for key, value in changes.items():
        small.update_from_flattened_dict({key.replace("__", "."): value})
    build.check(small)
    result = train.train(small, workdir)
    lines = (workdir / "rollouts.jsonl").read_text().splitlines()
    return result, [json.loads(line) for line in lines]


def test_a_served_model_is_audited_measured_and_trained_on(tmp_path, monkeypatch):
    monkeypatch.setattr(train.curves, "learning_curve", lambda *_: None)  # takes seconds
    with served("toy", 1600) as url:
        settings = dict(base_url=url, model="judge", max_tokens=64, extract="whole", deadline=200.0)
        settings |= dict(timeout=100.0, **SCORES)
        prompts, rows = labelled(6)
        spec = dict(fn="judge.judge", base_url=url, model="judge")
        with pytest.raises(
            pool.VerifierError, match=r"max_tokens: got 256, expected at most 64, .*serve --max_to"
        ):
            pool.VerifierPool([spec], workers=1)
        audit = judge.audit(prompts[:2], probes=(":", "Thought process:", "Solution"), **settings)
        assert audit.missing == 0, "the server keeps to the form that it is asked for"
        assert audit.rates[":"] == 0.0, "refused without asking"
        assert all(rate in (0.0, 0.5, 1.0) for rate in audit.rates.values()), audit
        found = judge.rates(rows, **settings)
        assert (found.right, found.wrong, found.missing) == (6, 6, 0), found
        result, rollouts = trained(
            url, tmp_path / "run", best_case(found), SCORES, rollout__prompts=2, rollout__group=4,
            eval__prompts=1, eval__samples=4, eval__blocks=2, sampling__completion_buckets=(4,),
        )  # fmt: skip
    assert result.summary["verifiers"]["judge"] == {"model": "judge", "at": url}
    assert len(rollouts) == 8, rollouts
    for row in rollouts:
        assert row["outcomes"]["judge"] in ("correct", "incorrect"), row
        assert row["verdicts"]["judge"] in (0.0, 0.25, 0.5, 0.75, 1.0), row
        assert all(map(math.isfinite, row["advantages"])), row


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_smollm2_as_the_judge(tmp_path):
    """Poor, and known to be: what it is fooled by is measured before anything relies on it."""
    pytest.importorskip("gguf")
    with served("embedded", 768) as url:
        settings = dict(
            base_url=url, model="judge", max_tokens=64, extract="whole", deadline=3000.0,
            timeout=600.0,
        )  # fmt: skip
        prompts, rows = labelled(12)
        audit = judge.audit(prompts[:3], **settings)
        found = judge.rates(rows, **settings)
        print(f"audit: worst {audit.worst:.2f}, missing {audit.missing}, {audit.rates}")
        print(f"rates: {found}")
        assert audit.rates["."] == 0.0 and 0.0 <= audit.worst <= 1.0
        assert found.right + found.wrong + found.missing == 24 and found.right and found.wrong
        small = dict(rollout__prompts=2, rollout__group=4, eval__samples=4, eval__blocks=2)
        small |= dict(model__source="embedded", eval__prompts=1)
        _, rollouts = trained(url, tmp_path / "run", best_case(found), {}, **small)
    heard = [row for row in rollouts if row["verdicts"]["judge"] is not None]
    print(f"run: {len(heard)} verdicts on {len(rollouts)} rows")
    assert heard and len(rollouts) == 8
