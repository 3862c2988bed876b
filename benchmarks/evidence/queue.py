"""Runs the claims' runs that are not finished, one after another; the same command goes on.

  python -m benchmarks.evidence.queue                      all of them, in the order of CLAIMS
  python -m benchmarks.evidence.queue --minutes 60 --only noise_form
  python -m benchmarks.evidence.queue --dry-run            what is missing

First all runs of seed 0 of a claim, then those of the next seed, so that a queue that is stopped
leaves whole comparisons.  A run that --minutes ends is stopped with a checkpoint.
"""

from __future__ import annotations

import argparse
import json
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
    *("ttrl_warm", "ttrl_cool", "guide_terms"),
    *("pure", "absolute_zero", "flips", "spurious", "length_bias", "clip_higher", "dynamic"),
    *("gspo_clipped", "tis", "hacking"),
)
CLAIMS = {  # name -> file of benchmarks/evidence, with its argument
    "noise_form": "noise_form.py",
    "noise_prompts": "noise_prompts.py",
    "noise_uniform": "noise_uniform.py",
    "tempo": "tempo.py",
    "pass_at_k": "pass_at_k.py",
    "tempo_three_sums": "tempo.py:three_sums",
    **{name: f"{name}.py" for name in SINGLE},
}
KEPT = (
    "verdict/rubric",
    *("policy/clip_fraction", "policy/sampler_gap", "reward/zero_variance_groups"),
    *("eval/pass@1", "reward/mean", "verdict/number", "policy/entropy", "policy/grad_norm"),
    *("rollout/length", "rollout/truncated", "time/rollout_and_verify", "time/credit"),
    "time/update",
)
KEPT_PREFIXES = (  # what methods wrote
    *("audit_", "tree/", "fp_rate", "fn_rate", "self/", "steps/", "vote/", "verify/rise/"),
    *("verify/guide/", "verify/scaf/", "verify/tool/", "verify/selfplay/"),
)
Json = dict[str, tp.Any]


def source(claim: str) -> str:
    return f"benchmarks/evidence/{CLAIMS[claim]}"


def outcome(workdir: pathlib.Path) -> Json:
    """What the ledger needs of a finished run."""
    first, *_, last = sorted(workdir.glob("eval_*.json"), key=lambda p: int(p.stem.split("_")[1]))
    evals = {k: json.loads(p.read_text()) for k, p in (("before", first), ("after", last))}
    rows = metrics.read_jsonl(workdir / "metrics.jsonl")
    kept = {k for row in rows for k in row if k in KEPT or k.startswith(KEPT_PREFIXES)}
    summary = json.loads((workdir / "summary.json").read_text())
    run = runs_lib.read(workdir)
    rung = alarm.hacking(run.series("reward/mean"), alarm.held_out(run))
    return {
        "alarm": rung is not None,
        "seconds": summary["seconds"]["all"],
        "versions": summary["versions"],
        **{
            when: {
                **{k: v for k, v in found.items() if isinstance(v, float)},
                "samples": found["samples"],
                "correct": {name: p["correct"] for name, p in found["per_prompt"].items()},
            }
            for when, found in evals.items()
        },
        "curves": {k: [[row["step"], row[k]] for row in rows if k in row] for k in sorted(kept)},
    }


def write(claim: str, found: sweep.Sweep, out: pathlib.Path) -> None:
    """benchmarks/results/evidence/CLAIM.json, of the runs that are finished."""
    runs = [r for r in found.runs if sweep.summary_of(out, r)]
    arms: Json = {name: {} for name in found.settings}
    for run in runs:
        arms[run.setting][str(run.seed)] = outcome(out / run.name)
    RESULTS.mkdir(parents=True, exist_ok=True)
    seeds = sorted({run.seed for run in found.runs})
    whole = {"source": found.source, "baseline": found.baseline, "seeds": seeds, "arms": arms}
    text = json.dumps(whole)
    (RESULTS / f"{claim}.json").write_text(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--only", action="append", choices=list(CLAIMS))
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs/evidence")
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    for claim in args.only or CLAIMS:
        found, out = sweep.load_sweep(source(claim)), args.out / claim
        for run in sorted(found.runs, key=lambda r: (r.seed, r.index)):
            if sweep.summary_of(out, run):
                continue
            if args.dry_run:
                print(claim, run.name)
                continue
            command = [sys.executable, "-m", "rlpt.cli", *sweep.command(found, run, out)]
            process = subprocess.Popen(command, cwd=ROOT)
            try:
                status = process.wait(max(end - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
                process.wait()
                print(f"{claim} {run.name}: stopped with a checkpoint")
                return
            if status:
                raise SystemExit(f"{claim} {run.name} ended with {status}")
            write(claim, found, out)
            shutil.rmtree(out / run.name / "checkpoints")  # 1.6 GB
            print(f"{claim} {run.name}: finished", flush=True)


if __name__ == "__main__":
    main()
