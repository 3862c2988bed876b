"""Runs the claims' runs that are not finished, one after another; the same command goes on.

  python -m benchmarks.evidence.queue                      all of them, in the order of CLAIMS
  python -m benchmarks.evidence.queue --minutes 60 --only noise_form
  python -m benchmarks.evidence.queue --jobs 2             two at a time, each on its own cores
  python -m benchmarks.evidence.queue --seed 0             one seed of each claim
  python -m benchmarks.evidence.queue --dry-run            what is missing
  python -m benchmarks.evidence.queue --again --out DIR    also what benchmarks/results/ has

First all runs of seed 0 of a claim, then those of the next seed, so that a queue that is stopped
leaves whole comparisons.  --minutes, Ctrl-C and SIGTERM stop a run with a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import typing as tp

from rlpt import metrics, sweep
from rlpt.report import alarm
from rlpt.report import runs as runs_lib

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results/evidence"
SINGLE = (  # one seed each
    *("guide", "verifier_free", "laser", "rise", "prime", "tool", "cooper", "recipe", "rubrics"),
    *("ttrl_warm", "ttrl_cool", "ttrl_room", "guide_terms", "guide_room"),
    *("pure", "absolute_zero", "flips", "flips_calibrated", "spurious", "length_bias"),
    *("clip_higher", "dynamic", "gspo_clipped", "tis", "tis_top_p", "hacking"),
)
CLAIMS = {  # name -> file of benchmarks/evidence, with its argument
    "noise_form": "noise_form.py",
    "noise_prompts": "noise_prompts.py",
    "noise_uniform": "noise_uniform.py",
    "tempo": "tempo.py",
    "pass_at_k": "pass_at_k.py",
    "tempo_three_sums": "tempo.py:three_sums",
    "pass_at_k_warm": "pass_at_k_warm.py",
    "tempo_longer": "tempo_longer.py",
    **{name: f"{name}.py" for name in SINGLE},
}
KEPT = (
    "policy/correction",
    *("policy/clip_fraction", "policy/sampler_gap", "reward/zero_variance_groups"),
    *("eval/pass@1", "reward/mean", "policy/entropy", "policy/grad_norm"),
    *("rollout/length", "rollout/truncated", "time/rollout_and_verify", "time/credit"),
    "time/update",
)
KEPT_PREFIXES = (  # what verifiers and methods wrote
    "verdict/",
    *("audit_", "tree/", "fp_rate", "fn_rate", "injected_"),
    *("self/", "steps/", "vote/", "verify/rise/"),
    *("verify/guide/", "verify/scaf/", "verify/tool/", "verify/selfplay/"),
    *("verify/dynamic/", "verify/branch/"),
)
Json = dict[str, tp.Any]


def source(claim: str) -> str:
    return f"benchmarks/evidence/{CLAIMS[claim]}"


def outcome(workdir: pathlib.Path) -> Json:
    """What the ledger needs of a finished run."""
    found = {int(p.stem.split("_")[1]): json.loads(p.read_text()) for p in workdir.glob("eval_*")}
    first, *later = sorted(found)
    correct = {
        step: {name: p["correct"] for name, p in result["per_prompt"].items()}
        for step, result in found.items()
    }
    rows = metrics.read_jsonl(workdir / "metrics.jsonl")
    kept = {k for row in rows for k in row if k in KEPT or k.startswith(KEPT_PREFIXES)}
    summary = json.loads((workdir / "summary.json").read_text())
    curves = {k: [[row["step"], row[k]] for row in rows if k in row] for k in sorted(kept)}
    run = runs_lib.read(workdir)
    rung = alarm.hacking(run.series("reward/mean"), alarm.held_out(run))
    return {
        "alarm": rung is not None,
        "seconds": summary["seconds"]["all"],
        "versions": summary["versions"] | commit_of(workdir),
        **{
            when: {
                **{k: v for k, v in found[step].items() if isinstance(v, float)},
                "samples": found[step]["samples"],
                "correct": correct[step],
            }
            for when, step in (("before", first), ("after", later[-1]))
        },
        "evals": {str(step): correct[step] for step in later},
        "curves": curves | {"sampled_nll": sampled_nll(workdir)},
    }


def head() -> str:
    """The commit of this checkout, "-dirty" where files differ; "" in a copy without history.

    Results and the pages made of them, which runs write, are no difference.
    """

    def git(*command: str) -> str:
        say = ("git", "-C", str(ROOT), *command)
        return subprocess.run(say, capture_output=True, text=True, check=False).stdout.strip()

    commit = git("describe", "--always", "--exclude=*")
    made = (":!benchmarks/results", ":!docs/evidence", ":!docs/evidence.md")
    changed = git("status", "--porcelain", "--", ".", *made)
    return f"{commit}-dirty" if commit and changed else commit


def commit_of(workdir: pathlib.Path) -> dict[str, str]:
    """{"commit": of the code that ran}, where the queue has noted it beside the run."""
    note = workdir.with_suffix(".commit")
    return {"commit": note.read_text().strip()} if note.exists() else {}


def sampled_nll(workdir: pathlib.Path) -> list[list[float]]:
    """[[step, nats a token]] of what was sampled, by the sampler: its entropy, without bias.

    policy/entropy is of the rows that the update computes, which differ between methods.
    """
    sums: dict[int, list[float]] = {}
    for row in metrics.read_jsonl(workdir / "rollouts.jsonl"):
        own = sums.setdefault(row["step"], [0.0, 0.0])
        for logp, mine in zip(row["sampler_logp"], row["loss_mask"], strict=False):
            own[0] -= logp * bool(mine)
            own[1] += bool(mine)
    return [[step, nats / max(tokens, 1)] for step, (nats, tokens) in sorted(sums.items())]


def committed(claim: str, found: sweep.Sweep) -> Json:
    """What benchmarks/results/evidence/CLAIM.json has: {arm: {seed: outcome}}.

    Raises: SystemExit where the file is of another sweep, whose runs cannot stand beside these.
    """
    file = RESULTS / f"{claim}.json"
    if not file.exists():
        return {}
    known = json.loads(file.read_text())
    for key, wanted in (("source", found.source), ("baseline", found.baseline)):
        if known[key] != wanted:
            raise SystemExit(f"{file}: got {key} {known[key]}, expected {wanted}: move it away")
    gone = [name for name, runs in known["arms"].items() if runs and name not in found.settings]
    if gone:
        raise SystemExit(f"{file}: got runs of {', '.join(gone)}, which {found.source} lacks")
    return known["arms"]


def write(claim: str, found: sweep.Sweep, out: pathlib.Path) -> None:
    """benchmarks/results/evidence/CLAIM.json, with the runs that are finished under `out`.

    Runs that it has stay, such as those of another day's `out`, but for the same arm and seed.
    """
    known = committed(claim, found)
    arms: Json = {name: dict(known.get(name, {})) for name in found.settings}
    for run in found.runs:
        if sweep.summary_of(out, run):
            arms[run.setting][str(run.seed)] = outcome(out / run.name)
    arms = {
        name: dict(sorted(runs.items(), key=lambda r: int(r[0]))) for name, runs in arms.items()
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    had = {int(seed) for runs in arms.values() for seed in runs}
    seeds = sorted({run.seed for run in found.runs} | had)
    whole = {"source": found.source, "baseline": found.baseline, "seeds": seeds, "arms": arms}
    part = RESULTS / f"{claim}.json.part"  # it may be the only copy: never half a file
    part.write_text(json.dumps(whole) + "\n")
    part.replace(RESULTS / f"{claim}.json")


class Missing(tp.NamedTuple):
    claim: str
    found: sweep.Sweep
    out: pathlib.Path
    run: sweep.Run

    def __str__(self) -> str:
        return f"{self.claim} {self.run.name}"


def missing(
    claims: tp.Iterable[str],
    out: pathlib.Path,
    again: bool = False,
    seeds: tp.Container[int] | None = None,
) -> tp.Iterator[Missing]:
    """The runs that are not finished, in the order in which they are to be run.

    Args:
      again: also those that benchmarks/results/ has, unless they are finished under `out`.
      seeds: only these.
    """
    for claim in claims:
        found = sweep.load_sweep(source(claim))
        known = committed(claim, found)  # of another sweep: said before anything is run
        for run in sorted(found.runs, key=lambda r: (r.seed, r.index)):
            if seeds is not None and run.seed not in seeds:
                continue
            done = not again and str(run.seed) in known.get(run.setting, {})
            if not done and not sweep.summary_of(out / claim, run):
                yield Missing(claim, found, out / claim, run)


def start(item: Missing, cores: set[int]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rlpt.cli", *sweep.command(item.found, item.run, item.out)]
    item.out.mkdir(parents=True, exist_ok=True)
    (item.out / f"{item.run.name}.commit").write_text(head())
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or own)  # of this thread, which the process inherits
    try:
        return subprocess.Popen(command, cwd=ROOT)
    finally:
        os.sched_setaffinity(0, own)


def finish(item: Missing, status: int) -> None:
    if status:
        raise SystemExit(f"{item} ended with {status}")
    write(item.claim, item.found, item.out)
    shutil.rmtree(item.out / item.run.name / "checkpoints")  # 1.6 GB
    print(f"{item}: finished", flush=True)


def work(todo: tp.Iterator[Missing], shares: list[set[int]], end: float) -> None:
    """Runs them, one on each share of the cores at a time, until `end` of time.monotonic."""
    running: dict[int, tuple[Missing, subprocess.Popen[bytes]]] = {}
    try:
        while time.monotonic() < end:
            for i in set(range(len(shares))) - running.keys():
                if item := next(todo, None):
                    running[i] = item, start(item, shares[i])
            if not running:
                return
            time.sleep(1.0)
            for i, (item, process) in list(running.items()):
                if (status := process.poll()) is not None:
                    del running[i]
                    finish(item, status)
    finally:
        for _, process in running.values():
            process.send_signal(signal.SIGTERM)
        for item, process in running.values():
            if process.wait() == 0:  # it ended before it was stopped
                finish(item, 0)
            else:
                print(f"{item}: stopped with a checkpoint")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--only", action="append", choices=list(CLAIMS))
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs/evidence")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--again", action="store_true", help="also runs whose figures are there")
    args = parser.parse_args()
    todo = missing(args.only or CLAIMS, args.out, args.again, args.seed)
    if args.dry_run:
        print(*todo, sep="\n")
        return
    cores = sorted(os.sched_getaffinity(0))
    shares = [set(cores[i :: args.jobs]) for i in range(args.jobs)]
    with sweep.sigterm_interrupts():
        work(todo, shares, time.monotonic() + 60 * args.minutes)


if __name__ == "__main__":
    main()
