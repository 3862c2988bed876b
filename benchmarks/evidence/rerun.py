"""Runs one arm of a claim again and compares it, bit for bit, with the committed figures.

  python -m benchmarks.evidence.rerun ttrl_room random 0

Compared is all that benchmarks/results/evidence/CLAIM.json has of the run but times: every curve at
every step, every held-out prompt's right samples in every evaluation, and whether the hacking alarm
rang.  Ends with status 1 where something differs.
On the same kind of machine and versions nothing should; the versions that differ are named.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import typing as tp

from benchmarks.evidence import queue
from rlpt import sweep

Json = dict[str, tp.Any]


def differences(committed: Json, again: Json) -> list[str]:
    """What differs between two outcomes of `queue.outcome`, a line each; times do not count.

    Keys that only the newer one has, of figures that were not kept then, are passed over.
    """
    lines = []
    for name, points in committed["curves"].items():
        own = again["curves"].get(name)
        if not name.startswith("time/") and own != points:
            where = next((a for a, b in zip(points, own or [], strict=False) if a != b), None)
            lines.append(f"{name}: {'is missing' if own is None else f'differs at {where}'}")
    for when in ("before", "after"):
        for key, value in committed[when].items():
            if again[when].get(key) != value:
                lines.append(f"{when} {key}: committed {value}, now {again[when].get(key)}"[:200])
    for step, correct in committed.get("evals", {}).items():
        now = again.get("evals", {}).get(step)
        if now != correct:
            lines.append(f"evaluation after {step} steps: committed {correct}, now {now}"[:200])
    if "alarm" in committed and committed["alarm"] != again.get("alarm"):
        lines.append(f"alarm: committed {committed['alarm']}, now {again.get('alarm')}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("claim", choices=list(queue.CLAIMS))
    parser.add_argument("arm")
    parser.add_argument("seed", type=int)
    parser.add_argument("--out", type=pathlib.Path, help="None: a temporary directory")
    args = parser.parse_args()
    found = sweep.load_sweep(queue.source(args.claim))
    file = queue.RESULTS / f"{args.claim}.json"
    known = json.loads(file.read_text())["arms"] if file.exists() else {}
    if str(args.seed) not in known.get(args.arm, {}):
        has = ", ".join(f"{arm} {seed}" for arm, seeds in known.items() for seed in seeds) or "none"
        raise SystemExit(f"rerun: got {args.arm} {args.seed}, expected a run of {file}: {has}")
    (run,) = (r for r in found.runs if (r.setting, r.seed) == (args.arm, args.seed))
    with tempfile.TemporaryDirectory() as scratch:
        out = args.out or pathlib.Path(scratch)
        command = [sys.executable, "-m", "rlpt.cli", *sweep.command(found, run, out)]
        subprocess.run(command, cwd=queue.ROOT, check=True)
        again = queue.outcome(out / run.name)
        again["versions"] |= {"commit": queue.head()}
    committed = known[args.arm][str(args.seed)]
    for name, version in committed["versions"].items():
        if again["versions"].get(name) != version:
            print(f"version of {name}: {version} then, {again['versions'].get(name)} now")
    lines = differences(committed, again)
    same = [name for name in committed["curves"] if not name.startswith("time/")]
    print("\n".join(lines) or f"the same, bit for bit: {len(same)} curves and all evaluations")
    raise SystemExit(bool(lines))


if __name__ == "__main__":
    main()
