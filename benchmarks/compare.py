"""Times benchmarks/step.py and a peer's own GRPO step in turn (A B A B ...) and prints the ratios.

  python benchmarks/compare.py --peer tunix --peer-python PYTHON --peer-script SCRIPT \\
      --rounds 3 --json benchmarks/results/tunix_short.json -- --prompt-len 32 --steps 8 --warmup 3

PYTHON is the interpreter of an environment that has the peer, SCRIPT a program that takes the
flags of step.py and prints one JSON object of the same keys at its end.  For --peer trl flags and
keys are translated: --num-generations for --group, --num-iterations for --mu; --cpus threads and
an untied head are asked for, and its nested report is read.  What follows `--` goes to both.

--peer rlpt is step.py itself: --ours=--precision=bfloat16 and the like then go to our side alone,
so that a setting is compared with its default.

Every run is a process of its own, on the same --cpus.  A figure is the median over the rounds of a
run's median, and the minimum over the rounds of its minimum; a ratio is the peer's over ours, above
1 where we take less.  Wall time means something on a machine that does nothing else: the load at
the start of each run is in the file.  Linux.
"""

from __future__ import annotations

import argparse
import collections.abc
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import typing as tp

OURS = pathlib.Path(__file__).parent / "step.py"
# What the table shows: key, what it is; the minimum of a key is under key + "_min".
FIGURES = (
    ("sec_per_step", "s a step"),
    ("rollout_s", "rollout, s"),
    ("update_s", "update, s"),
    ("sampled_tok_per_s", "tokens sampled a second"),
    ("max_rss_mb", "peak memory, MB"),
)
MORE_IS_BETTER = ("sampled_tok_per_s",)
Report = dict[str, tp.Any]


def parse(argv: collections.abc.Sequence[str] | None = None) -> argparse.Namespace:
    """The flags; `shape` is what goes to both programs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", default="tunix", choices=("tunix", "trl", "rlpt"))
    parser.add_argument("--peer-python", default="", help="interpreter that has the peer")
    parser.add_argument("--peer-script", default="", help="program that runs the peer's step")
    parser.add_argument("--ours", action="append", default=[], help="a flag for our side alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=2, help="both are held to so many (2)")
    parser.add_argument("--json", help="also write everything here")
    parser.add_argument("shape", nargs="*", help="flags of step.py, after --")
    a = parser.parse_args(argv)
    if a.peer == "rlpt":
        a.peer_python, a.peer_script = sys.executable, str(OURS)
    for flag in ("python", "script"):
        if not getattr(a, f"peer_{flag}"):
            parser.error(f"--peer {a.peer}: got no --peer-{flag}, expected the peer's own")
    return a


def peer_flags(peer: str, shape: collections.abc.Sequence[str], cpus: int) -> list[str]:
    """The flags of step.py in the peer's words."""
    if peer in ("tunix", "rlpt"):
        return list(shape)
    renamed = {"--group": "--num-generations", "--mu": "--num-iterations"}
    return [renamed.get(x, x) for x in shape] + ["--tie", "0", "--threads", str(cpus)]


def read_report(peer: str, text: str) -> Report:
    """The figures in a program's output, under the keys of step.py.

    Raises: ValueError where the output does not end with a JSON object.
    """
    lines = text.rstrip().splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("{")]
    try:
        found = json.loads("\n".join(lines[starts[-1] :]))
    except (IndexError, json.JSONDecodeError) as e:
        raise ValueError(f"expected a JSON object at the end, got {text[-300:]!r}") from e
    if peer != "trl":
        return tp.cast(Report, found)
    seconds, mu = found["seconds"], found["config"]["num_iterations"]
    tokens = found["generated_tokens_per_step"]
    return {  # an optimizer step of TRL is one of the mu updates of a batch
        **{k: found[k] for k in ("params", "versions", "config")},
        "sec_per_step": seconds["step_with_generation"] + (mu - 1) * seconds["update"],
        "sec_per_step_min": seconds["step_min"] + (mu - 1) * seconds["update"],
        "rollout_s": seconds["rollout_total"],
        "update_s": mu * seconds["update"],
        "sampled_tok_per_s": tokens / seconds["generate"],
        "max_rss_mb": found["max_rss_mib"],
    }


def run(peer: str, command: collections.abc.Sequence[str]) -> Report:
    """Runs one program and reads its report; the load before it is added.

    Raises: RuntimeError with the end of its output where it fails.
    """
    load = round(os.getloadavg()[0], 1)
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} failed:\n{done.stdout[-500:]}{done.stderr[-2000:]}"
        )
    return read_report(peer, done.stdout) | {"load_before": load}


def summarise(runs: dict[str, list[Report]]) -> dict[str, dict[str, float]]:
    """{figure: {ours, peer, ratio}} of the runs of "ours" and "peer".

    Raises: ValueError where the two models have different numbers of parameters.
    """
    sizes = {name: reports[0]["params"] for name, reports in runs.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the models differ in size: {sizes}; give both the same shape")
    out = {}
    for key, _ in FIGURES:
        for name, join in ((key, statistics.median), (f"{key}_min", min)):
            if all(name in r for reports in runs.values() for r in reports):
                both = {who: join([r[name] for r in reports]) for who, reports in runs.items()}
                ratio = both["peer"] / both["ours"]
                out[name] = {**both, "ratio": 1 / ratio if key in MORE_IS_BETTER else ratio}
    return out


def table(peer: str, summary: dict[str, dict[str, float]]) -> str:
    """The summary as Markdown."""
    lines = [f"| | ours | {peer} | ratio |", "| --- | ---: | ---: | ---: |"]
    for key, what in FIGURES:
        for name, suffix in ((key, ""), (f"{key}_min", " (min)")):
            if name in summary:
                s = summary[name]
                digits = 0 if s["ours"] > 100 else 3
                lines.append(
                    f"| {what}{suffix} | {s['ours']:.{digits}f} | {s['peer']:.{digits}f} | "
                    f"{s['ratio']:.2f} |"
                )
    return "\n".join(lines)


def main(argv: collections.abc.Sequence[str] | None = None) -> None:
    a = parse(argv)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: a.cpus])  # the children inherit it
    commands = {
        "ours": [sys.executable, str(OURS), *a.shape, *a.ours],
        "peer": [a.peer_python, a.peer_script, *peer_flags(a.peer, a.shape, a.cpus)],
    }
    runs: dict[str, list[Report]] = {who: [] for who in commands}
    for i in range(a.rounds):
        for who, command in commands.items():
            runs[who].append(run("" if who == "ours" else a.peer, command))
            report = runs[who][-1]
            print(
                f"round {i + 1} {who}: {report['sec_per_step']:.3f} s a step, "
                f"load {report['load_before']} before",
                flush=True,
            )
    summary = summarise(runs)
    print(table(a.peer, summary))
    if a.json:
        for report in runs["peer"]:
            report.pop("path", None)  # where Tunix is installed says nothing
        machine = {"processor": platform.machine(), "cpus": len(os.sched_getaffinity(0))}
        result = {
            "peer": a.peer, "flags": a.shape, "ours": a.ours, "machine": machine,
            "summary": summary, "runs": runs,
        }  # fmt: skip
        pathlib.Path(a.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
