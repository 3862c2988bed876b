"""What a step moves between host and device, and what it compiles: listed, and bounded.

Copies to the device are counted by `jax.transfer_guard`, which logs each; copies to the host, which
the guard does not see on CPU, where jax makes them.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]

CHILD = """
import collections, json, sys
import jax
from jax._src.array import ArrayImpl
from rlpt import metrics, train
from tests.test_train import toy

value, read = ArrayImpl._value, collections.Counter()

def counted(self):
    if self._npy_value is None:
        read[f"{self.dtype}{list(self.shape)}"] += 1
    return value.fget(self)

ArrayImpl._value = property(counted)
live = metrics.Metrics.live

def mark(self, step, row):
    live(self, step, row)
    seen = json.dumps({"step": step, "compiled": row["time/compilations"], "read": read})
    print("READ", seen, file=sys.stderr, flush=True)
    read.clear()

metrics.Metrics.live = mark
c = toy(steps=5, eval__prompts=1, debug=False, learner__skip_zero_advantage=False)
c.rollout.prompts, c.rollout.group = (int(x) for x in sys.argv[2:4])
train.train(c, sys.argv[1])
"""


def steps(workdir, prompts, group):
    """step -> read: {dtype[shape]: how often}; sent: copies to the device; compiled: so far."""
    env = {
        **os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT),
        "JAX_TRANSFER_GUARD": "log_explicit",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(workdir), str(prompts), str(group)],
        env=env, cwd=ROOT, text=True, capture_output=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found, sent = {}, 0
    for line in done.stderr.splitlines():
        sent += "host-to-device transfer" in line
        if line.startswith("READ"):
            row = json.loads(line.removeprefix("READ"))
            found[row["step"]] = {**row, "sent": sent}
            sent = 0
    return found


def size(name):
    dtype, _, shape = name.partition("[")
    dims = [int(x) for x in shape.rstrip("]").split(",") if x]
    return np.dtype(dtype).itemsize * int(np.prod(dims))


@pytest.fixture(scope="module")
def small_and_large(tmp_path_factory):
    path = tmp_path_factory.mktemp("transfers")
    return steps(path / "a", 4, 4), steps(path / "b", 8, 8)


def test_a_step_compiles_nothing_after_the_first(small_and_large):
    for found in small_and_large:
        assert found[2]["compiled"] == found[5]["compiled"] > 0


def test_copies_to_the_device_are_as_many_for_every_step_and_batch(small_and_large):
    counts = {found[step]["sent"] for found in small_and_large for step in (3, 4)}
    assert len(counts) == 1, f"copies grow with the step or the batch: {counts}"
    assert 0 < counts.pop() <= 60


def test_what_is_read_back_is_the_completions_their_credit_and_scalars(small_and_large):
    """Never parameters, logits or what grows with prompts x group x vocabulary."""
    for found, (p, g) in zip(small_and_large, ((4, 4), (8, 8)), strict=True):
        for step in (3, 4):
            read = found[step]["read"]
            arrays = {k: n for k, n in read.items() if size(k) > 8}
            allowed = {
                f"int32[{p}, {g}, 6]": 1,  # completion_tokens
                f"bool[{p}, {g}, 6]": 1,  # completion_mask
                f"float32[{p}, {g}, 6]": 2,  # sampler_logp, advantages
                f"bool[{p}, {g}]": 1,  # truncated
                f"float32[{p}, {g}]": 1,  # rewards
            }
            for name, n in arrays.items():
                assert n <= allowed.get(name, 0), f"step {step} reads {name} {n} times: {arrays}"
            assert sum(read.values()) - sum(arrays.values()) <= 40, f"scalars: {read}"
