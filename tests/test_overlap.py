"""Verification of one batch while the next is sampled: what is stale, how long it takes, resume."""

import signal
import threading
import time

import numpy as np
import pytest

from rlpt import build, overlap
from rlpt import train as train_lib
from rlpt.config import ConfigError
from rlpt.rollouts import sample
from rlpt.verifiers.base import judged
from tests.test_train import lines, params_of, same, toy


def late(trajectory, prompt, *, seconds: float = 0.0):
    """A verdict that takes its time."""
    time.sleep(seconds)
    return judged(trajectory.text[:1].isdigit())


@pytest.fixture(scope="module")
def ahead(tmp_path_factory):
    work = tmp_path_factory.mktemp("ahead")
    train_lib.train(toy(rollout__overlap=1, steps=4), work)
    return work


def test_rows_are_one_update_old_but_for_the_first(ahead):
    origins = {}
    for row in lines(ahead / "rollouts.jsonl"):
        origins.setdefault(row["step"], set()).add(row["origin"])
    assert origins == {1: {0}, 2: {2}, 3: {2}, 4: {2}}
    metrics = {m["step"]: m for m in lines(ahead / "metrics.jsonl") if "loss/total" in m}
    assert metrics[1]["policy/ratio"] == pytest.approx(1, abs=1e-6)
    moved = [m for s, m in metrics.items() if s > 1 and m.get("policy/ratio") is not None]
    assert moved and any(abs(m["policy/ratio"] - 1) > 1e-5 for m in moved), "ratio is not corrected"


def test_the_batch_ahead_is_sampled_with_the_weights_before_the_update(ahead, tmp_path):
    """The first two batches are of the same weights; on policy only the first is the same."""
    train_lib.train(toy(steps=2, optim__lr=1e-30), tmp_path / "frozen")
    tokens = lambda path, step: [  # noqa: E731
        r["tokens"] for r in lines(path / "rollouts.jsonl") if r["step"] == step
    ]
    for step in (1, 2):
        assert tokens(ahead, step) == tokens(tmp_path / "frozen", step)
    assert tokens(ahead, 3) != tokens(ahead, 2)


def test_a_run_that_stops_with_a_batch_ahead_goes_on_with_it(ahead, tmp_path, monkeypatch):
    write = train_lib.metrics_lib.Metrics.write

    def stop(self, step, values):
        write(self, step, values)
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train_lib.metrics_lib.Metrics, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        train_lib.train(toy(rollout__overlap=1, steps=4), tmp_path)
    monkeypatch.undo()
    train_lib.train(toy(rollout__overlap=1, steps=4), tmp_path)
    assert same(params_of(ahead), params_of(tmp_path))
    drop = lambda row: {k: v for k, v in row.items() if k != "details"}  # noqa: E731
    a, b = ([drop(r) for r in lines(w / "rollouts.jsonl")] for w in (ahead, tmp_path))
    assert a == b
    counted = [
        {k: v for k, v in m.items() if k.startswith(("verify/", "policy/", "reward/"))}
        for w in (ahead, tmp_path)
        for m in lines(w / "metrics.jsonl")
    ]
    assert counted[: len(counted) // 2] == counted[len(counted) // 2 :]


def test_a_slow_verifier_hides_behind_the_sampler(tmp_path):
    """The verdicts of a batch are asked for before the next is sampled, and waited for after."""
    order = []

    class Tools:
        defer, params = False, None

        def take(self, n):
            return [None] * n

        def generate(self, items, *, group, step, first_sample):
            order.append(f"generate {step}")
            table = {"origin": np.zeros((1, 1), np.int32), "sampler_logp": np.zeros((1, 1, 1))}
            return overlap.Batch(table, None)

        def verify(self, batch):
            order.append("verify" if self.defer else "wait")
            return batch

        def settle(self, batch):
            order.append("wait")

    tools = Tools()
    rollout = lambda *a: sample.on_policy(*a, prompts=1, group=1)  # noqa: E731
    rollouts = overlap.Rollouts(rollout, tools, tools, dict, steps=3, ahead=1)
    for step in range(3):
        rollouts(step)
        order.append("update")
    assert order == [
        "generate 0", "verify", "generate 1", "verify", "wait", "update",
        "generate 2", "verify", "wait", "update", "wait", "update",
    ]  # fmt: skip


def test_verdicts_come_in_the_background(tmp_path):
    config = toy(
        rollout__overlap=1, steps=3, eval__prompts=1, eval__samples=1, pool__workers=2,
        verifiers=(dict(fn="tests.test_overlap:late", name="late", seconds=0.05),),
    )  # fmt: skip
    before = threading.active_count()
    train_lib.train(config, tmp_path)
    assert threading.active_count() <= before + 1, "threads are left"
    rows = lines(tmp_path / "rollouts.jsonl")
    assert len(rows) == 48 and all(r["outcomes"]["late"] in ("correct", "incorrect") for r in rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout__overlap": 2}, "rollout.overlap: got 2, expected 0"),
        ({"rollout__overlap": 1, "sampling__top_p": 0.9}, "truncated law"),
        ({"rollout__overlap": 1, "rollout__fn": "dynamic.refill"}, "looks at verdicts"),
    ],
)
def test_what_cannot_be_ahead(changes, message):
    with pytest.raises(ConfigError, match=message):
        build.check(toy(**changes))
