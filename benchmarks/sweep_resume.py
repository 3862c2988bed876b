"""Kills a sweep of SmolLM2 half-way: does it end in the table of the sweep that nobody killed?

  python -m benchmarks.sweep_resume --out DIR     # the same command goes on where it stopped

runs configs/sweeps/learning_rate.py (two settings, three seeds, ten steps each) twice: once
without a break, and once killed with SIGKILL, runs and all, when the fourth run is at its half;
then the same command again.  Writes benchmarks/results/sweep_resume.json.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/sweep_resume.json"
SWEEP = "configs/sweeps/learning_rate.py"
HALF = "lr_1e-5-seed0", 5  # the run and its step


def start(out: pathlib.Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rlpt.cli", "sweep", SWEEP, "--out", str(out), *more],
        cwd=ROOT, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    """What it printed. Raises: RuntimeError if it failed."""
    printed, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the sweep ended with {process.returncode}:\n{printed}")
    return printed


def last_step(run: pathlib.Path) -> int:
    """Of metrics.jsonl; -1 if there is none."""
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return max((json.loads(x)["step"] for x in lines if x.endswith("}")), default=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs/sweep_resume")
    out = parser.parse_args().out
    began = time.monotonic()
    finish(start(out / "whole"))
    table = finish(start(out / "whole", "--table"))
    name, step = HALF
    if not (out / "killed").exists():
        process = start(out / "broken")
        while last_step(out / "broken" / name) < step:
            if process.poll() is not None:
                raise RuntimeError(f"the sweep ended before step {step} of {name}")
            time.sleep(0.2)
        runs = subprocess.run(["pgrep", "-P", str(process.pid)], text=True, capture_output=True)
        for pid in (
            process.pid,
            *map(int, runs.stdout.split()),
        ):  # the sweep first: it starts no other
            os.kill(pid, signal.SIGKILL)
        process.wait()
        done = sorted(p.parent.name for p in (out / "broken").glob("*/summary.json"))
        killed = {"at": [name, last_step(out / "broken" / name)], "finished": done}
        (out / "killed").write_text(json.dumps(killed))
    again = finish(start(out / "broken"))
    log = (out / "broken" / name / "sweep.log").read_text()
    result = {
        "sweep": SWEEP,
        "killed": json.loads((out / "killed").read_text()),
        "resumed": next(line.strip() for line in log.splitlines() if "resume  " in line),
        "seconds": round(time.monotonic() - began),
        "same_table": again.endswith(table),
        "table": table.splitlines(),
        "printed_after_the_kill": again.splitlines(),
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if not table or not result["same_table"]:
        raise SystemExit("failed: the tables differ")


if __name__ == "__main__":
    main()
