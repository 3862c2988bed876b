"""Checkpoints: bit-exact, verified, and never silently wrong, whatever happens to the files."""

import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlpt import checkpoint
from rlpt.checkpoint import Checkpointer, CheckpointError, IdentityError, shapes
from tests.numeric import devices

HOST = {"stream": {"epoch": 1, "order": [3, 1, 2]}, "rng": 2**127 + 1, "ema": 0.1, "note": "é"}


class Counters(tp.NamedTuple):
    appeals: jax.Array
    seen: int


def make_state(seed=0):
    """One of everything that a run may keep."""
    key = jax.random.key(seed)
    params = {
        "embed": jax.random.normal(key, (64, 16)),
        "layers": {"q": jax.random.normal(key, (2, 16, 16), jnp.bfloat16)},
    }
    return {
        "params": params,
        "opt": optax.adamw(1e-3).init(params),
        "counters": Counters(jnp.array([True, False]), 7 + seed),
        "key": jax.random.fold_in(key, 1),
        "keys": jax.random.split(jax.random.key(seed, impl="rbg"), 3),
        "odd": jnp.array([jnp.nan, -0.0, jnp.inf, 1e-40], jnp.float32),
        "ints": jnp.array([-(2**31), -1, 0, 2**31 - 1], jnp.int32),
        "host": np.arange(6, dtype=np.float64).reshape(2, 3) / 3,
        "count": np.int64(2**62 + 1),
        "rate": 0.1,
        "flag": True,
        "nothing": None,
        "empty": optax.EmptyState(),
    }


def bits(leaf):
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(jax.random.key_impl(leaf)), bits(jax.random.key_data(leaf))
    array = np.asarray(leaf)
    return str(array.dtype), array.shape, array.tobytes()


def assert_same(got, want):
    """Bit for bit, and the same kinds of leaves."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
        assert type(a) is type(b), f"{path}: got a {type(a)}, expected a {type(b)}"
        assert bits(a) == bits(b), f"{path} changed"


@pytest.fixture
def open_at(tmp_path):
    """Makes Checkpointers and closes them at the end."""
    made = []

    def make(directory=tmp_path / "checkpoints", **settings):
        made.append(Checkpointer(directory, **settings))
        return made[-1]

    yield make
    for checkpointer in made:
        checkpointer.close()


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory):
    """A directory with steps 1, 2, 3 of make_state(step); tests work on copies."""
    directory = tmp_path_factory.mktemp("good") / "checkpoints"
    checkpointer = Checkpointer(directory)
    for step in (1, 2, 3):
        checkpointer.save(step, make_state(step), {**HOST, "step": step})
    checkpointer.close()
    return directory


@pytest.fixture
def copied(three_steps, tmp_path):
    return shutil.copytree(three_steps, tmp_path / "checkpoints")


def test_round_trip_is_bit_exact_and_keeps_kinds(three_steps):
    checkpointer = Checkpointer(three_steps)
    step, state, host = checkpointer.restore(make_state(9))
    assert step == 3 and host == {**HOST, "step": 3}
    assert_same(state, make_state(3))
    assert checkpointer.restore(make_state(9), step=1).host_state["step"] == 1
    abstract = jax.tree.map(
        lambda leaf: (
            jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if isinstance(leaf, jax.Array) else leaf
        ),
        make_state(9),
    )
    assert_same(checkpointer.restore(abstract).device_state, make_state(3))
    made = shapes(make_state(9))
    assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(made))
    assert_same(checkpointer.restore(made).device_state, make_state(3))
    jax.random.normal(state["key"], (2,)), jax.random.normal(state["keys"][0], (2,))
    checkpointer.close()


def test_nothing_saved_is_none(open_at):
    assert open_at().restore(make_state()) is None


def test_partial_restore_reads_what_is_asked_for(three_steps):
    checkpointer = Checkpointer(three_steps)
    example = {"params": make_state(9)["params"]}
    got = checkpointer.restore(example, partial=True)
    assert_same(got.device_state, {"params": make_state(3)["params"]})
    with pytest.raises(ValueError, match="step 3 does not fit .* is only in the checkpoint"):
        checkpointer.restore(example)
    checkpointer.close()


def test_the_tree_must_fit(three_steps):
    checkpointer = Checkpointer(three_steps)
    other = make_state(9)
    other["params"]["embed"] = jnp.zeros((65, 16))
    other["params"]["head"] = jnp.zeros((2, 2))
    other["keys"] = jax.random.split(jax.random.key(0), 3)
    with pytest.raises(ValueError) as error:
        checkpointer.restore(other)
    for part in (
        "params/head is not in the checkpoint",
        "params/embed is {'dtype': 'float32', 'shape': [64, 16]} in the checkpoint, expected",
        "'key': 'rbg'} in the checkpoint, expected",
    ):
        assert part in str(error.value)
    checkpointer.close()


def test_arrays_may_be_donated_and_written_to_right_after_save(open_at):
    checkpointer = open_at()
    advance = jax.jit(lambda x: x * 1.5 + 1, donate_argnums=0)
    state = {"x": jnp.arange(500_000.0), "n": np.arange(100_000)}
    expected = {}
    for step in range(4):
        expected = jax.tree.map(np.array, state)
        checkpointer.save(step, state, {})
        state["x"] = advance(state["x"])
        state["n"] += 1
    got = checkpointer.restore(state)
    assert got.step == 3
    jax.tree.map(np.testing.assert_array_equal, got.device_state, expected)


def test_keeps_newest_and_best_over_restarts(tmp_path, open_at):
    settings = {"keep": 2, "keep_best": 1, "best_metric": "eval/pass@1"}
    first = open_at(**settings)
    for step, score in enumerate([0.1, 0.9, 0.3]):
        first.save(step, {"x": jnp.ones(2)}, {}, {"eval/pass@1": score, "loss": 5.0})
    first.wait()
    assert first.steps() == [1, 2]
    second = open_at(**settings)
    for step, metrics in ((3, {"eval/pass@1": float("nan")}), (4, None), (5, {"loss": 1.0})):
        second.save(step, {"x": jnp.ones(2)}, {}, metrics)
    second.wait()
    assert second.steps() == [1, 4, 5], "the best step is kept, steps without a score are not"
    second.save(6, {"x": jnp.ones(2)}, {}, {"eval/pass@1": 0.95})
    second.wait()
    assert second.steps() == [5, 6]


# ---- damage


def files_of(step_directory):
    return sorted(p for p in pathlib.Path(step_directory).rglob("*") if p.is_file())


def damage_and_restore(copied, file, data):
    """Restores with one file replaced, and puts the file back."""
    original = file.read_bytes()
    if data is None:
        file.unlink()
    else:
        file.write_bytes(data)
    checkpointer = Checkpointer(copied)
    try:
        return checkpointer.restore(make_state(9))
    finally:
        checkpointer.close()
        file.write_bytes(original)


# Orbax leaves the reads that were under way behind when one of them fails
ignore_reads_left_behind = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@ignore_reads_left_behind
@pytest.mark.parametrize("kind", ["flip", "truncate", "delete"])
def test_damage_to_any_file_is_never_loaded(copied, kind):
    rng = np.random.default_rng(0)
    fell_back = 0
    for file in files_of(copied / "3"):
        original = file.read_bytes()
        position = int(rng.integers(len(original)))
        flipped = bytearray(original)
        flipped[position] ^= 1 << int(rng.integers(8))
        data = {"flip": bytes(flipped), "truncate": original[: len(original) // 2], "delete": None}
        step, state, host = damage_and_restore(copied, file, data[kind])
        name = f"{kind} of {file.relative_to(copied)} at byte {position}"
        assert step in (2, 3) and host == {**HOST, "step": step}, name
        assert_same(state, make_state(step))
        fell_back += step == 2
    assert fell_back >= 4, "the damage was not seen at all"


@ignore_reads_left_behind
def test_flipped_bits_in_the_data_fall_back_loudly(copied, caplog):
    data = max(files_of(copied / "3"), key=lambda p: p.stat().st_size)
    original = data.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(8):
        flipped = bytearray(original)
        flipped[int(rng.integers(len(original)))] ^= 1 << int(rng.integers(8))
        caplog.clear()
        step, state, _ = damage_and_restore(copied, data, bytes(flipped))
        assert_same(state, make_state(step))
        if step == 2:
            assert "CHECKPOINT DAMAGED" in caplog.text and "step 3 is damaged" in caplog.text


def test_a_wrong_value_that_orbax_reads_happily_is_found(copied, open_at, caplog):
    """What a flipped bit does in uncompressed data: Orbax restores it without a word."""
    other = open_at(copied.parent / "other")
    state = make_state(3)
    state["params"]["embed"] = state["params"]["embed"].at[5, 5].add(1e-6)
    other.save(3, state, {**HOST, "step": 3})
    other.wait()
    shutil.rmtree(copied / "3" / "state")
    shutil.copytree(copied.parent / "other" / "3" / "state", copied / "3" / "state")
    assert open_at(copied).restore(make_state(9)).step == 2
    assert "params/embed does not match its hash" in caplog.text


def test_when_all_steps_are_damaged_it_says_so_and_never_starts_afresh(copied, open_at):
    for step in (1, 2, 3):
        (copied / str(step) / "manifest" / "metadata").write_text("{}")
    checkpointer = open_at(copied)
    with pytest.raises(
        CheckpointError, match="no good checkpoint .* step 3 is damaged.* step 1 is"
    ):
        checkpointer.restore(make_state(9))


def test_a_step_asked_for_is_not_replaced_by_another(copied, open_at):
    (copied / "2" / "host" / "metadata").write_text('{"step": 2}')
    checkpointer = open_at(copied)
    with pytest.raises(CheckpointError, match="step 2 is damaged: .* host state does not match"):
        checkpointer.restore(make_state(9), step=2)
    with pytest.raises(CheckpointError, match=r"no step 7 in .*; there are \[1, 2, 3\]"):
        checkpointer.restore(make_state(9), step=7)


def test_going_on_after_a_fallback_sets_the_damaged_steps_aside(copied, open_at):
    (copied / "3" / "manifest" / "metadata").write_text("{}")
    (copied / "4.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    checkpointer = open_at(copied)
    assert checkpointer.restore(make_state(9)).step == 2
    assert checkpointer.steps() == [1, 2, 3], "reading must change nothing"
    assert (copied / "4.orbax-checkpoint-tmp").exists()
    checkpointer.save(3, make_state(33), HOST)
    checkpointer.save(4, make_state(4), HOST)
    checkpointer.wait()
    assert checkpointer.steps() == [2, 3, 4]
    assert sorted(p.name for p in copied.iterdir()) == ["2", "3", "4", "set-aside-3"]
    fresh = open_at(copied)
    assert_same(fresh.restore(make_state(9)).device_state, make_state(4))
    assert_same(fresh.restore(make_state(9), step=3).device_state, make_state(33))
    fresh.save(3, make_state(0), HOST)
    fresh.wait()
    assert {"set-aside-3", "set-aside-3.2", "set-aside-4"} <= {p.name for p in copied.iterdir()}


# ---- identity


def test_a_changed_identity_is_refused_unless_allowed_by_name(open_at):
    first = open_at(identity={"config": "aaa", "tokenizer": "t1"})
    first.save(1, {"x": jnp.ones(2)}, {})
    first.close()
    same = open_at(identity={"config": "aaa", "tokenizer": "t1"})
    assert same.restore({"x": jnp.ones(2)}).step == 1
    other = open_at(identity={"config": "bbb", "tokenizer": "t2"})
    with pytest.raises(IdentityError) as error:
        other.restore({"x": jnp.ones(2)})
    for part in ("config (saved 'aaa', now 'bbb')", "tokenizer (saved 't1', now 't2')", "allow"):
        assert part in str(error.value)
    with pytest.raises(IdentityError, match="another tokenizer"):
        other.restore({"x": jnp.ones(2)}, allow=("config",))
    assert other.restore({"x": jnp.ones(2)}, allow=("config", "tokenizer")).step == 1
    with pytest.raises(
        ValueError, match="allow: got confg, expected names among config, tokenizer"
    ):
        other.restore({"x": jnp.ones(2)}, allow=("confg",))
    nameless = open_at()
    with pytest.raises(IdentityError, match="config .saved 'aaa', now None"):
        nameless.restore({"x": jnp.ones(2)})


def test_another_library_version_is_a_changed_identity(open_at, monkeypatch):
    first = open_at()
    first.save(1, {"x": jnp.ones(2)}, {})
    first.close()
    monkeypatch.setattr(checkpoint.importlib.metadata, "version", lambda name: "99.0")
    later = open_at()
    with pytest.raises(IdentityError, match="another versions .saved .*'jax': "):
        later.restore({"x": jnp.ones(2)})
    assert later.restore({"x": jnp.ones(2)}, allow=("versions",)).step == 1


def test_fingerprints():
    assert checkpoint.fingerprint({"a": 1, "b": (2, 3)}) == checkpoint.fingerprint(
        {"b": [2, 3], "a": 1}
    )
    assert checkpoint.fingerprint({"a": 1}) != checkpoint.fingerprint({"a": 2})
    tree = {"w": jnp.zeros((2, 3))}
    assert checkpoint.tree_fingerprint(tree) == checkpoint.tree_fingerprint(
        {"w": np.zeros((2, 3), np.float32)}
    )
    for other in ({"w": jnp.zeros((3, 2))}, {"v": tree["w"]}, {"w": -tree["w"]}):
        assert checkpoint.tree_fingerprint(tree) != checkpoint.tree_fingerprint(other)


# ---- what cannot be saved


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ({"x": (1, 2)}, "'x' would come back from JSON changed: use lists"),
        ({"x": {1: 2}}, "'x' would come back from JSON changed"),
        ({"x": float("nan")}, "'x' is not strict JSON"),
        ({"x": {1, 2}}, "'x' is not strict JSON"),
    ],
)
def test_host_state_must_be_strict_json(open_at, host, message):
    with pytest.raises(ValueError, match=message):
        open_at().save(1, {"x": jnp.ones(2)}, host)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"x": "text"}, "got a leaf 'text', expected numbers"),
        ({"x": jnp.zeros((0, 3))}, "leaf 'x' has no elements"),
        ({"a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}}, "two leaves .* are both called 'a/b'"),
    ],
)
def test_state_that_cannot_be_saved(open_at, state, message):
    with pytest.raises(ValueError, match=message):
        open_at().save(1, state, {})


def test_bad_settings(tmp_path):
    with pytest.raises(ValueError, match="got keep=0, keep_best=1; expected >= 1 and >= 0"):
        Checkpointer(tmp_path, keep=0)


# ---- the disk


def test_a_full_disk_is_reported_by_the_next_save_and_older_steps_survive(open_at):
    """A limit on the size of files stands for the full disk: the same path, EFBIG for ENOSPC."""
    checkpointer = open_at(keep=1)
    big = {"x": jax.random.normal(jax.random.key(0), (300_000,))}
    checkpointer.save(1, big, HOST)
    checkpointer.wait()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(CheckpointError) as error:
            checkpointer.save(2, big, HOST)
            checkpointer.save(3, big, HOST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for part in ("saving step 3 to", "Steps [1] are untouched", "Check that there is space"):
        assert part in str(error.value)
    checkpointer.save(3, big, HOST)
    checkpointer.wait()
    assert checkpointer.steps() == [3]
    assert_same(open_at().restore(big).device_state, big)


def test_a_save_is_tried_after_one_that_failed(open_at):
    """There may be space again; what failed is said."""
    checkpointer = open_at()
    big = {"x": jax.random.normal(jax.random.key(0), (300_000,))}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        checkpointer.save(1, big, HOST)
        while checkpointer._manager.is_saving_in_progress():
            time.sleep(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    checkpointer.save(2, big, HOST)
    assert checkpointer.steps() == [2], "it is there when the call returns"
    assert_same(open_at().restore(big).device_state, big)


def test_the_host_state_is_that_of_the_call(open_at):
    checkpointer, state = open_at(), {"skipped": {"policy": 0}}
    checkpointer.save(1, {"x": jnp.ones(2)}, state)
    state["skipped"]["policy"] = 7
    checkpointer.wait()
    assert open_at().restore({"x": jnp.ones(2)}).host_state == {"skipped": {"policy": 0}}


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        CheckpointError, match="cannot use .*/file/checkpoints .* writable directory"
    ):
        Checkpointer(tmp_path / "file" / "checkpoints")


def test_a_directory_that_goes_away_while_running(tmp_path, open_at):
    checkpointer = open_at()
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match="saving step 1 to .* failed"):
        checkpointer.save(1, {"x": jnp.ones(2)}, {})
        checkpointer.wait()
    (tmp_path / "checkpoints").unlink()
    (tmp_path / "checkpoints").mkdir()


KILLED = """
import sys, numpy as np
from rlpt.checkpoint import Checkpointer
checkpointer = Checkpointer(sys.argv[1], keep=2)
found = checkpointer.restore({"x": np.zeros(200_000)})
step = found.step if found else 0
while True:
    step += 1
    checkpointer.save(step, {"x": np.full(200_000, float(step))}, {"step": step})
    print(step, flush=True)
"""


def test_killed_at_any_moment_the_newest_step_is_good(tmp_path):
    directory = tmp_path / "checkpoints"
    reached = 0
    for delay in (0.05, 0.13):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(directory)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        for _ in range(3):
            started = int(process.stdout.readline())
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        checkpointer = Checkpointer(directory)
        step, state, host = checkpointer.restore({"x": np.zeros(200_000)})
        checkpointer.close()
        assert step >= started - 1 > reached, "every step but the one in flight was committed"
        assert host == {"step": step} and (state["x"] == step).all()
        reached = step


# ---- two processes

TWO = """
import sys, jax, numpy as np
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec as Spec
jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", 2, int(sys.argv[1]))
from rlpt import sharding
from rlpt.checkpoint import Checkpointer, CheckpointError

mesh = sharding.make_mesh({"fsdp": 4})
def make(step):
    values = np.arange(8192.0, dtype=np.float32).reshape(8, 1024) + step
    rules = [("w", Spec("fsdp")), ("norm", Spec())]
    return sharding.place({"w": values, "norm": values[0]}, mesh, rules) | {"n": step}
def same(got, step):
    for name in ("w", "norm"):
        wanted = make(step)[name].addressable_shards
        for a, b in zip(got[name].addressable_shards, wanted, strict=True):
            np.testing.assert_array_equal(a.data, b.data)
        assert got[name].sharding == make(0)[name].sharding
    assert got["n"] == step

checkpointer = Checkpointer(sys.argv[3], identity={"config": "a"})
assert checkpointer.restore(make(0)) is None
for step in (1, 2, 3):
    checkpointer.save(step, make(step), {"step": step})
checkpointer.wait()
if jax.process_index() == 1:  # the other process must not load what this one cannot
    for data in checkpointer.directory.glob("3/state/ocdbt.process_1/d/*"):
        data.write_bytes(data.read_bytes()[:40])
jax.experimental.multihost_utils.sync_global_devices("damaged")
found = checkpointer.restore(make(0))
assert found.step == 2 and found.host_state == {"step": 2}, found
same(found.device_state, 2)
checkpointer.save(3, make(30), {"step": 30})
checkpointer.wait()
found = checkpointer.restore(make(0))
assert found.step == 3 and checkpointer.steps() == [1, 2, 3]
same(found.device_state, 30)
assert sorted(p.name for p in checkpointer.directory.iterdir()) == ["1", "2", "3", "set-aside-3"]
try:
    checkpointer.save(4, make(4) | {"n": jax.process_index()}, {})
except CheckpointError as e:
    assert "n differs between processes" in str(e), e
else:
    raise AssertionError("processes that have run apart were saved")
checkpointer.close()
print("fine", flush=True)
"""


def test_two_processes_agree_on_what_is_good(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = {"XLA_FLAGS": devices(2), "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(rank), str(port), str(tmp_path / "checkpoints")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | flags,
        )
        for rank in (0, 1)
    ]
    try:
        for process in processes:
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0 and out.endswith("fine\n"), err
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("best", [0, 1, 2, 3, 4])
def test_as_many_best_steps_are_kept_as_asked(open_at, best):
    checkpointer = open_at(keep=1, keep_best=best, best_metric="m")
    for step, score in enumerate([0.9, 0.8, 0.1, 0.7, 0.2]):
        checkpointer.save(step, {"x": jnp.ones(2)}, {}, {"m": score})
    checkpointer.wait()
    assert checkpointer.steps() == sorted({4, *[0, 1, 3, 4][:best]})
