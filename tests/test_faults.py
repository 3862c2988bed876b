"""What can go wrong with a run, from a kill to a NaN on one host: fourteen rows, one after another.

Faults of a part alone are tested beside that part; `ELSEWHERE` says where, and that these tests are
there is a test too.  Here whole runs of the toy model meet the rest.
"""

import ast
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from benchmarks import soak
from rlpt import metrics
from rlpt import train as train_lib
from rlpt.checkpoint import Checkpointer, CheckpointError
from rlpt.models.load import load
from rlpt.policy import load_policy
from tests.numeric import devices
from tests.test_train import toy

ROOT = pathlib.Path(__file__).parents[1]

ELSEWHERE = {
    "1 kill -9": (
        "checkpoint: test_killed_at_any_moment_the_newest_step_is_good",
        "metrics: test_kill_9_then_resume_has_each_step_once",
        "verifiers: test_workers_end_with_their_parent",
        "train: test_resume_in_a_fresh_process_is_bit_for_bit",
        "launch: test_local_starts_a_killed_run_again",
    ),
    "2 SIGTERM": (
        "train: test_ctrl_c_saves_and_the_same_command_goes_on",
        "launch: test_slurm_queues_the_job_again_before_its_time_is_over",
        "launch: test_tpu_is_replaced_after_preemption",
    ),
    "3 one of two processes dies": (
        "distributed: test_a_killed_process_has_all_started_again_and_the_run_ends_as_if_unbroken",
        "distributed: test_a_signal_to_one_process_stops_all_with_a_checkpoint",
    ),
    "4 damaged checkpoint": (
        "checkpoint: test_damage_to_any_file_is_never_loaded",
        "checkpoint: test_flipped_bits_in_the_data_fall_back_loudly",
        "checkpoint: test_a_wrong_value_that_orbax_reads_happily_is_found",
        "checkpoint: test_when_all_steps_are_damaged_it_says_so_and_never_starts_afresh",
        "checkpoint: test_going_on_after_a_fallback_sets_the_damaged_steps_aside",
        "checkpoint: test_two_processes_agree_on_what_is_good",
    ),
    "5 full disk": (
        "checkpoint: test_a_full_disk_is_reported_by_the_next_save_and_older_steps_survive",
        "metrics: test_a_full_disk_is_an_error_that_names_the_file",
        "workdir: test_a_full_disk_keeps_the_old_file_and_leaves_nothing_behind",
    ),
    "6 verifiers that hang, die and lie": (
        "verifiers: test_pool_survives_what_verifiers_do",
        "verifiers: test_pool_keeps_the_batch_deadline",
        "verifiers: test_pool_replaces_workers",
        "sandbox: test_hostile_program_is_incorrect",
    ),
    "7 one host judges slowly or otherwise": (
        "distributed: test_several_processes_end_as_one_does",
    ),
    "8 judge": (
        "judge: test_every_fault_has_its_outcome",
        "judge: test_what_passes_by_itself_is_asked_again",
        "judge: test_retry_after_is_kept",
        "judge: test_the_deadline_holds_for_all_rows",
        "judge: test_a_huge_body_is_not_read",
        "judge: test_breaker",
        "judge: test_a_run_masks_what_the_judge_did_not_say",
    ),
    "9 bad rows of data": (
        "tasks: test_jsonl_names_bad_rows",
        "tasks: test_jsonl_damage",
        "tasks: test_parquet_row_groups_and_damage",
        "train: test_references_that_cannot_be_read_are_found_at_the_start",
        "train: test_bad_data_names_file_and_line",
    ),
    "10 nothing to learn from": (
        "advantages: test_singletons_are_refused_or_raw",
        "learner: test_masked_rows_do_not_count",
        "learner: test_blocks_without_advantage_are_skipped_exactly",
    ),
    "11 NaN": (
        "learner: test_not_finite_gradient_leaves_everything_as_it_was",
        "optim: test_a_step_that_is_not_finite_changes_nothing",
        "options: test_gradient_that_is_never_finite_stops_the_run",
        "train: test_a_save_in_flight_survives_an_error",
    ),
    "12 another config, tokenizer, device count": (
        "checkpoint: test_a_changed_identity_is_refused_unless_allowed_by_name",
        "checkpoint: test_another_library_version_is_a_changed_identity",
        "train: test_changed_config_is_refused_unless_allowed",
        "tasks: test_stream_refuses_another_runs_state",
    ),
    "13 clock, read-only directory, two runs": (
        "workdir: test_a_read_only_workdir",
        "workdir: test_the_lock_excludes_other_processes_and_dies_with_its_holder",
        "train: test_workdir_in_use",
    ),
    "14 typing errors": (
        "cli: test_wrong_commands_say_what_to_do",
        "train: test_wrong_settings_fail_before_anything_is_loaded",
    ),
}


@pytest.mark.parametrize("row", ELSEWHERE)
def test_what_is_tested_elsewhere_is_there(row):
    number = row.partition(" ")[0]
    here = [name for name in globals() if name.startswith(f"test_row_{number}_")]
    assert here or ELSEWHERE[row], f"nothing tests row {row}"
    for entry in ELSEWHERE[row]:
        module, name = entry.split(": ")
        tree = ast.parse((ROOT / f"tests/test_{module}.py").read_text())
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert name in names, f"row {row}: tests/test_{module}.py has no {name}"


# ---- runs

STEPS = 8
CACHE_ALL = "jax_persistent_cache_min_compile_time_secs"  # 0: tiny programs too


@pytest.fixture(autouse=True, scope="module")
def cached():
    """Keeps every compiled program, since the same few are wanted again and again."""
    before = getattr(jax.config, CACHE_ALL)
    jax.config.update(CACHE_ALL, 0)
    yield
    jax.config.update(CACHE_ALL, before)


def config_of(steps):
    """The run of the soak: data, rollouts, shaping and optimizer all have a memory."""
    c = soak.make_config(steps)
    c.eval.every = 2  # so that a run has the same lines whether or not it ended in between
    return c


CONFIG = f"""
import os, time
import jax.numpy as jnp
from rlpt.verifiers.base import judged
from tests.test_faults import config_of

def get_config(arg=None):
    return config_of({STEPS})
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """steps -> the workdir of a run of so many steps that nothing has disturbed."""
    made = {}

    def run(steps=STEPS):
        if steps not in made:
            made[steps] = tmp_path_factory.mktemp(f"whole{steps}") / "run"
            train_lib.train(config_of(steps), made[steps])
        return made[steps]

    return run


@pytest.fixture
def half(whole, tmp_path):
    """The workdir of a run that stopped two steps before the end, to be spoilt."""
    return shutil.copytree(whole(STEPS - 2), tmp_path / "half")


def go_on(workdir, whole):
    """Resumes to the end; it must be the end of the run that was not disturbed."""
    train_lib.train(config_of(STEPS), workdir)
    found = soak.differences(whole(), workdir, STEPS)
    assert not found, f"the resumed run differs in {found}"


def start(directory, *args, config=CONFIG, env=None):
    """`rlpt train` as a process of its own, in directory/run."""
    (directory / "faulty.py").write_text(config)
    more = {"PYTHONPATH": f"{ROOT}:{directory}", CACHE_ALL.upper(): "0", **(env or {})}
    return subprocess.Popen(
        [sys.executable, "-m", "rlpt.cli", "train", "--config", str(directory / "faulty.py"),
         "--workdir", str(directory / "run"), *args],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | more,
    )  # fmt: skip


def output(process, timeout=280):
    """All that a process prints until its end, which comes by force if it does not come in time."""
    try:
        return process.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise


def read_until(process, wanted):
    """What a process prints up to the line that contains `wanted`."""
    seen = ""
    for line in process.stdout:
        seen += line
        if wanted in line:
            return seen
    raise AssertionError(f"it ended before {wanted!r}:\n{seen}")


def steps_of(workdir):
    """The lines of metrics of the training steps."""
    return [row for row in metrics.read_jsonl(workdir / "metrics.jsonl") if row["step"]]


def leaves(workdir, step):
    """Hashes of the parameters in a checkpoint, by path."""
    manifest = workdir / "checkpoints" / str(step) / "manifest" / "metadata"
    found = json.loads(manifest.read_text())["leaves"]
    return {k: v["hashes"] for k, v in found.items() if "/params/" in k}


def same_params(a, b):
    return all((x == y).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


# ---- 1: kill -9


@pytest.mark.parametrize("kills", [5, pytest.param(15, marks=pytest.mark.slow)])
def test_row_1_killed_in_every_phase(kills, tmp_path):
    result = soak.soak(tmp_path, kills, seed=kills)
    assert not result["differences"], result["differences"]
    assert {r["planned"] for r in result["log"]} >= set(soak.PHASES)
    assert len({r["phase"] for r in result["log"]}) >= 3, "kills came at other moments than meant"
    assert result["while_metrics_were_ahead_of_the_checkpoint"] > 0


# ---- 2: SIGTERM


def test_row_2_sigterm_saves_and_exits_130(whole, tmp_path):
    process = start(tmp_path, "--config.steps=400")
    seen = read_until(process, "step 3/")
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    rest = output(process, 60)
    assert process.returncode == 130, seen + rest
    assert time.monotonic() - asked < 30, "half a minute is what schedulers give"
    (said,) = [line for line in rest.splitlines() if line.startswith("stopped at step")]
    step = int(said.split()[3])
    assert 3 <= step < 400 and (tmp_path / "run/checkpoints" / str(step)).is_dir()
    end = step + step % 2 + 2  # lines with an evaluation have one in both runs
    train_lib.train(config_of(end), tmp_path / "run")
    assert not soak.differences(whole(end), tmp_path / "run", end)


# ---- 3, 7, 11: two processes

BAD = (2, 3)  # first and last batch in which one block, and so one process' shard, is NaN
TWO = """
def contrary(trajectory, prompt):
    second = os.environ["HOME"].endswith("1")  # the second process is slow, and judges otherwise
    time.sleep(0.02 * second)
    return judged(any(c in "abcdefghijklm" for c in trajectory.text) != second)

def poisoned(rewards, step, *, first: int = 0, last: int = 0):
    bad = (step >= first) & (step <= last)
    block = jnp.arange(rewards.shape[0])[:, None]
    return jnp.where(bad & (block == rewards.shape[0] - 1), jnp.nan, rewards)

def get_config(arg=None):
    c = config_of({steps})
    c.model.source = "toy:layers=1,width=16,heads=2,kv_heads=1,ff=16"  # quickly compiled
    c.rollout.fn = "sample.on_policy"
    del c.rollout.options.max_batches
    c.learner.epochs = c.learner.minibatches = 1
    c.verifiers = (dict(fn="faulty:contrary", name="contrary"),)
    c.advantage = (dict(fn="faulty:poisoned", first={first}, last={last}),)
    c.optim.max_skipped = 3
    return c
"""


class Pair:
    """A run as two processes of `rlpt train`; a context manager that leaves none behind."""

    def __init__(self, directory, first=BAD[0], last=BAD[1]):
        directory.mkdir(exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        functions = TWO.format(steps=STEPS, first=first, last=last)
        config = CONFIG[: CONFIG.index("def get_config")] + functions
        self.workdir, self.processes = directory / "run", []
        for i in range(2):
            home = directory / f"home{i}"
            home.mkdir(exist_ok=True)
            env = {"RLPT_COORDINATOR": f"127.0.0.1:{port}", "RLPT_PROCESSES": "2",
                   "RLPT_PROCESS": str(i), "HOME": str(home)}  # fmt: skip
            self.processes.append(start(directory, config=config, env=env))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for process in self.processes:
            process.kill()
            process.communicate()

    def end(self, status, timeout=280):
        """What both have printed; each must end with this status."""
        outputs = [output(process, timeout) for process in self.processes]
        for process, out in zip(self.processes, outputs, strict=True):
            assert process.returncode == status, out
        return outputs


@pytest.fixture(scope="module")
def pair_whole(tmp_path_factory):
    """The workdir of a run of two processes that was not killed."""
    with Pair(tmp_path_factory.mktemp("pair")) as pair:
        pair.end(0)
    return pair.workdir


@pytest.mark.timeout(900)  # two more runs of two processes, which compile again
@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_row_3_of_two_processes_one_is_killed(victim, pair_whole, tmp_path):
    with Pair(tmp_path) as pair:
        read_until(pair.processes[0], "step 5/")
        pair.processes[victim].kill()
        survivor = pair.processes[1 - victim]
        out = output(survivor, 60)
        assert survivor.returncode != 0, out
    with Pair(tmp_path) as pair:
        out, _ = pair.end(0)
    assert "resume   at step" in out
    found = soak.differences(pair_whole, pair.workdir, STEPS)
    assert not found, f"the resumed run differs in {found}"


@pytest.mark.timeout(600)
def test_row_7_processes_that_judge_otherwise_stay_equal(pair_whole):
    """A checkpoint is refused where two processes hold different copies of a parameter."""
    assert (pair_whole / f"checkpoints/{STEPS}/manifest/metadata").is_file()
    rows = metrics.read_rollouts(pair_whole / "rollouts.jsonl")
    plain = [any(c in "abcdefghijklm" for c in row["completion"]) for row in rows]
    given = [row["verdicts"]["contrary"] == 1.0 for row in rows]
    agree = np.mean([a == b for a, b in zip(plain, given, strict=True)])
    assert 0.2 < agree < 0.8, f"the processes judged alike: {agree} of the verdicts are the first's"


def test_row_11_nan_in_one_shard_is_skipped_by_all(pair_whole):
    rows = steps_of(pair_whole)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row in rows:
        bad = BAD[0] <= row["step"] - 1 <= BAD[1]
        assert row["policy/skipped"] == (1.0 if bad else 0.0), row


def test_row_11_nan_that_stays_ends_both_behind_a_good_checkpoint(tmp_path):
    with Pair(tmp_path, first=2, last=99) as pair:
        for out in pair.end(1):
            assert "not finite in every update of the last 3 batches, up to step 5" in out, out
            assert "The newest checkpoint is of step 4" in out, out
    assert leaves(pair.workdir, 4) == leaves(pair.workdir, 2), "the parameters from before"
    assert leaves(pair.workdir, 4) != {}


# ---- 4: damaged checkpoints


def _flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGE = {
    "truncated": lambda largest, step: os.truncate(largest, largest.stat().st_size // 2),
    "one bit": lambda largest, step: _flip(largest),
    "no manifest": lambda largest, step: (step / "manifest/metadata").unlink(),
}


def test_row_2_a_stop_while_resuming_saves_nothing_again(half, whole, monkeypatch):
    before = sorted(p.name for p in (half / "checkpoints").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(train_lib.distributed, "agree", lambda signal: True)
        with pytest.raises(KeyboardInterrupt):
            train_lib.train(config_of(STEPS), half)
    assert sorted(p.name for p in (half / "checkpoints").iterdir()) == before
    go_on(half, whole)


# Orbax leaves the reads that were under way behind when one of them fails
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", DAMAGE)
def test_row_4_a_damaged_checkpoint_costs_a_step(damage, half, whole, caplog):
    newest = half / "checkpoints" / str(STEPS - 2)
    files = [p for p in newest.rglob("*") if p.is_file()]
    DAMAGE[damage](max(files, key=lambda p: p.stat().st_size), newest)
    (half / "checkpoints" / f"{STEPS}.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    go_on(half, whole)
    assert f"step {STEPS - 2} is damaged" in caplog.text
    assert (half / f"checkpoints/set-aside-{STEPS - 2}").is_dir(), "the damaged step is kept"


# ---- 5: full disk


@pytest.mark.parametrize("file", ["checkpoint", "log"])
def test_row_5_a_full_disk_ends_the_run_and_costs_nothing(file, half, whole, tmp_path):
    """A limit on the size of files stands for the full disk: the same path, EFBIG for ENOSPC."""
    half = half.rename(tmp_path / "run")
    before = sorted(p.name for p in (half / "checkpoints").iterdir())
    largest = max(p.stat().st_size for p in (half / "checkpoints").rglob("*"))
    log = (half / "rollouts.jsonl").stat().st_size + 100
    assert 4 * log < largest, "the limit for checkpoints would stop the log"
    process = start(tmp_path)
    limit = 2 * log if file == "checkpoint" else log  # how Orbax parts its files differs by run
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    out = output(process)
    assert process.returncode == 1, out
    if file == "checkpoint":
        assert f"saving step {STEPS - 1} to" in out and "Check that there is space" in out, out
    else:
        assert f"File too large, while writing: '{half}/rollouts.jsonl'" in out, out
    assert before == sorted(p.name for p in (half / "checkpoints").iterdir() if "tmp" not in p.name)
    go_on(half, whole)


# ---- 6: verifiers

ROGUE = """
import os, time, zlib
from rlpt.verifiers.base import Verdict, judged

def rogue(trajectory, prompt):
    n = zlib.crc32(trajectory.text.encode()) % 24
    if n == 0: time.sleep(60)
    if n == 1: os._exit(0)
    if n == 2: os.abort()
    if n == 3: raise KeyboardInterrupt
    if n == 4: return Verdict(float("nan"), "correct")
    if n == 5: return Verdict(float("inf"), "correct")
    if n == 6: return Verdict(2.0, "correct")
    if n == 7: return "correct"
    if n == 8: return None
    return judged(n > 15)
"""


def children():
    """Processes whose parent is this one, zombies too."""
    own = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[1]) == os.getpid():
            own.append(int(path.parent.name))
    return set(own)


def test_row_6_rogue_verifiers_cost_their_rows_only(tmp_path, monkeypatch):
    (tmp_path / "row6.py").write_text(ROGUE)
    monkeypatch.syspath_prepend(str(tmp_path))
    c = toy(steps=4, export=False, verifiers=(dict(fn="row6:rogue", name="rogue"),))
    c.eval.samples, c.eval.prompts = 2, 2
    c.pool.workers, c.pool.deadline, c.pool.batch_deadline = 2, 0.5, 20.0
    c.log.tensorboard = False
    before = children()
    train_lib.train(c, tmp_path / "run")
    assert children() == before, "no zombies, no workers left"
    rows = steps_of(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    total = {
        k: sum(row.get(f"verify/rogue/{k}", 0) for row in rows)
        for k in ("correct", "incorrect", "timeout", "crash", "invalid")
    }
    assert min(total.values()) > 0 and sum(total.values()) == 4 * 16, total
    lost = total["timeout"] + total["crash"] + total["invalid"]
    assert sum(row["rollout/masked_rows"] for row in rows) == lost, "masked, and no silent 0"
    for row in rows:
        assert row["time/rollout_and_verify"] < 25, "the batch's deadline has passed"
        assert row["policy/skipped"] == 0 and 0 < row["policy/grad_norm"] < 1e3, row


# ---- 9: data


def test_row_9_a_prompt_of_a_megabyte_is_dropped_or_named(tmp_path):
    data = tmp_path / "data.jsonl"
    rows = [{"q": f"{i} + 1 =", "a": str(i + 1)} for i in range(20)]
    rows.insert(3, {"q": "1" * 2**20, "a": "1"})
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    task = dict(fn="files.jsonl", path=str(data), prompt="q", answer="a", eval_fraction=0.2)
    c = toy(tasks=(task,), steps=0, export=False, too_long="fail", log__tensorboard=False)
    with pytest.raises(ValueError, match=r"data:4.* has \d{7} tokens, the limit is 64"):
        train_lib.train(c, tmp_path / "run")


# ---- 10: nothing to learn from


def always(score):
    return dict(verifiers=(dict(fn="tests.toy:always", name="v", score=score),))


NOTHING = {
    "all correct": always(1.0),
    "all wrong": always(0.0),
    "all masked": dict(
        verifiers=(dict(fn="number.number", name="v", extract="whole"),),
        missing=dict(unparsable="mask", timeout="mask", crash="mask", invalid="mask"),
    ),
    "empty batch": dict(
        **always(1.0), rollout__fn="dynamic.refill", rollout__options=dict(max_batches=1)
    ),
    "G=1": dict(
        **always(1.0), rollout__group=1, advantage=(dict(fn="group.rloo", allow_singleton=True),)
    ),
}
EXPECTED = {  # live rows, and whether a row has an advantage
    "all correct": (16, False),
    "all wrong": (16, False),
    "all masked": (0, False),
    "empty batch": (0, False),
    "G=1": (4, True),
}


@pytest.mark.parametrize("case", NOTHING)
def test_row_10_nothing_to_learn_from_is_no_nan(case, tmp_path):
    c = toy(steps=2, export=False, log__tensorboard=False, eval__samples=2, **NOTHING[case])
    train_lib.train(c, tmp_path)
    live, learns = EXPECTED[case]
    rows = steps_of(tmp_path)
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert row["rollout/rows"] == live, row
        assert row["policy/skipped"] == 0, "nothing is no fault"
        assert row["policy/live_blocks"] == (4 if learns else 0), row
        assert (row["loss/total"] != 0) == learns and (row["policy/grad_norm"] > 0) == learns
        bad = [k for k, v in row.items() if v is None]
        assert not bad, f"{bad} are NaN or infinite"
        assert row["reward/zero_variance_groups"] == (1.0 if live else 0.0), row
    assert same_params(load("toy").params, load_policy(str(tmp_path)).params) != learns


# ---- 12: another number of devices


def test_row_12_more_devices_go_on_from_one(half, whole, tmp_path):
    half.rename(tmp_path / "run")
    process = start(tmp_path, env={"XLA_FLAGS": devices(2)})
    out = output(process)
    assert process.returncode == 0 and f"resume   at step {STEPS - 2} of" in out, out
    got, want = (load_policy(str(w)).params for w in (tmp_path / "run", whole()))
    first = load("toy").params
    for a, b, c in zip(*map(jax.tree.leaves, (got, want, first)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)
        assert abs(b - c).max() > 1e-5, "more than the tolerance was learnt"
    mine, theirs = (steps_of(w)[-1] for w in (tmp_path / "run", whole()))
    for key in ("reward/mean", "policy/entropy", "policy/grad_norm", "loss/total"):
        assert mine[key] == pytest.approx(theirs[key], abs=1e-4), key


# ---- 13: the clock


@pytest.mark.parametrize("jump", [-86400.0, 86400.0], ids=["back", "forth"])
def test_row_13_a_clock_that_jumps_changes_nothing(jump, half, whole, monkeypatch):
    """By a day, in the middle of a save. Forth, Orbax may take the save for one that hangs."""
    real, calls, saving = time.time, [0], [0.0]

    def jumping():
        calls[0] += 1
        return real() + saving[0]

    def save(self, *args, **kw):
        original(self, *args, **kw)
        saving[0] = jump

    original = Checkpointer.save
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", jumping)
        patched.setattr(Checkpointer, "save", save)
        try:
            train_lib.train(config_of(STEPS), half)
        except CheckpointError as e:
            assert jump > 0 and "timed out" in str(e) and "are untouched" in str(e), e
    assert calls[0] > 10, "nothing has asked for the time"
    go_on(half, whole)
