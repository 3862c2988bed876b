"""What a step costs against G, L, T, P and V: one of them varied, the others held.

  python benchmarks/scaling.py                            (all; a process for each point)
  python benchmarks/scaling.py --axes L V --steps 4

runs benchmarks/step.py, prints a table for each axis, and writes benchmarks/results/scaling.json
and docs/scaling.png.  Axes that are not run keep what the file has of them, so that a long
measurement can be made in parts.

Times are minima over the steps.  `beyond_mb` is the peak of the process less what it was after the
imports and less 16 bytes a parameter (weights, gradient and two moments in float32): activations,
logits, cache, and what the compiler used.  "L, G=2" is L with a quarter of the completions: where
the prompt is encoded once for its group, both lines rise by nearly as much.  Linux.
"""

from __future__ import annotations

import argparse
import collections.abc
import json
import pathlib
import subprocess
import sys
import typing as tp

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results"
PICTURE = HERE.parent / "docs/scaling.png"
BASE = {"prompts": 4, "group": 8, "prompt-len": 128, "completion-len": 64, "vocab": 8192}
BASE |= {"layers": 2, "d-model": 128, "d-ff": 512}
AXES: dict[str, tuple[str, tuple[int, ...]]] = {
    "G": ("group", (2, 8, 32)),
    "L": ("prompt-len", (32, 256, 512, 1024)),
    "L, G=2": ("prompt-len", (32, 256, 512, 1024)),
    "T": ("completion-len", (16, 64, 256)),
    "P": ("prompts", (1, 2, 4, 8)),
    "V": ("vocab", (2048, 8192, 32768, 131072)),
}
CHANGED = {"L, G=2": {"group": 2}}  # of BASE, on these axes
Point = dict[str, tp.Any]


def flags(axis: str, value: int) -> list[str]:
    """The flags of step.py for a point: BASE with one value changed."""
    shape = BASE | CHANGED.get(axis, {}) | {AXES[axis][0]: value}
    return [x for name, n in shape.items() for x in (f"--{name}", str(n))]


def measure(axis: str, value: int, more: collections.abc.Sequence[str]) -> Point:
    """Runs step.py at a point. Raises: RuntimeError with the end of its output if it fails."""
    command = [sys.executable, str(HERE / "step.py"), *flags(axis, value), *more]
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    report = json.loads(done.stdout.splitlines()[-1])
    weights = 16 * report["params"] / 2**20
    beyond = report["max_rss_mb"] - report["import_rss_mb"] - weights
    kept = ("sec_per_step_min", "rollout_s_min", "update_s_min", "cpu_sec_per_step", "max_rss_mb")
    return {
        "value": value,
        **{k: report[k] for k in kept},
        "params": report["params"],
        "load": report["load"][0],
        "beyond_mb": round(beyond),
    }


def table(axis: str, points: collections.abc.Sequence[Point]) -> str:
    """Markdown: a row a point."""
    lines = [f"| {axis} | rollout s | update s | peak MB | of it beyond weights |"]
    lines.append("| ---: " * 5 + "|")
    for p in points:
        lines.append(
            f"| {p['value']} | {p['rollout_s_min']:.3f} | {p['update_s_min']:.3f} | "
            f"{p['max_rss_mb']} | {p['beyond_mb']} |"
        )
    return "\n".join(lines)


def plot(points: collections.abc.Mapping[str, list[Point]], path: pathlib.Path) -> None:
    """One panel an axis: seconds of rollout and update on the left, memory on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(points) // 3)
    figure = Figure(figsize=(10, 3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for i, (axis, found) in enumerate(points.items()):
        left = figure.add_subplot(rows, 3, i + 1)
        x = [p["value"] for p in found]
        for key, name in (("rollout_s_min", "rollout"), ("update_s_min", "update")):
            left.plot(x, [p[key] for p in found], "o-", label=f"{name}, s")
        right = left.twinx()
        right.plot(x, [p["beyond_mb"] for p in found], "s:", color="gray", label="memory, MB")
        left.set_xlabel(f"{axis} ({AXES[axis][0]})")
        left.locator_params(axis="x", nbins=4)
        left.set_xlim(left=0)
        left.set_ylim(bottom=0)
        right.set_ylim(0, 1.5 * max(p["beyond_mb"] for p in found))
        if i == 0:
            handles = [h for a in (left, right) for h in a.get_lines()]
            left.legend(handles, [str(h.get_label()) for h in handles], loc="upper left")
    figure.savefig(path, dpi=80)


def main(argv: collections.abc.Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=1)
    a = parser.parse_args(argv)
    path = RESULTS / "scaling.json"
    found: dict[str, list[Point]] = json.loads(path.read_text())["axes"] if path.exists() else {}
    for axis in a.axes:
        more = ["--steps", str(a.steps), "--warmup", str(a.warmup)]
        found[axis] = [measure(axis, value, more) for value in AXES[axis][1]]
        print(table(axis, found[axis]), end="\n\n", flush=True)
        found = {k: found[k] for k in AXES if k in found}
        path.write_text(json.dumps({"base": BASE, "axes": found}, indent=1) + "\n")
    plot(found, PICTURE)


if __name__ == "__main__":
    main()
