"""Plans the recipes in configs/ for their machines, one after another, and writes what came out.

  python benchmarks/plans.py                              all recipes, then weak scaling
  python benchmarks/plans.py --only qwen3_8b_v5p_64       one, beside what is there already

Each is a process of its own, `rlpt plan`, whose seconds and peak memory are noted.  Weak scaling
plans one recipe on 16, 64 and 256 chips with as many prompts a chip.  The results go to
benchmarks/results/plans.json, from which docs/plans.md is written.  Linux.
"""

from __future__ import annotations

import argparse
import collections.abc
import json
import os
import pathlib
import runpy
import subprocess
import sys
import time
import typing as tp

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/plans.json"
PAGE = ROOT / "docs/plans.md"
GIB = 2**30
RECIPES = {
    "qwen3_1p7b_v5e_16": "v5e:4x4",
    "qwen3_8b_v5p_64": "v5p:4x4x4",
    "llama3_70b_v5p_256": "v5p:4x8x8",
    "llama3_70b_v6e_256": "v6e:16x16",
    "qwen3_8b_h200_8": "h200:8",
}
WEAK = "qwen3_1p7b_v5e_16"  # one prompt a chip in a micro-batch, two in the batch
CHIPS = {16: "v5e:4x4", 64: "v5e:8x8", 256: "v5e:16x16"}


def jobs() -> dict[str, list[str]]:
    """{name: flags of `rlpt plan`} of all recipes and points of weak scaling."""
    out = {
        name: ["--config", f"configs/{name}.py", "--topology", topology]
        for name, topology in RECIPES.items()
    }
    small = runpy.run_path(str(ROOT / f"configs/{WEAK}.py"))["get_config"]()
    for count, topology in CHIPS.items():
        if topology != RECIPES[WEAK]:
            times = count // small.mesh.fsdp
            out[f"{WEAK} on {count}"] = [
                "--config", f"configs/{WEAK}.py", "--topology", topology,
                f"--config.mesh.fsdp={count}",
                f"--config.rollout.prompts={times * small.rollout.prompts}",
                f"--config.learner.micro_blocks={times * small.learner.micro_blocks}",
                f"--config.model.logits_chunk={times * small.model.logits_chunk}",
            ]  # fmt: skip
    return out


def run(flags: collections.abc.Sequence[str]) -> dict[str, tp.Any]:
    """One plan, with the wall seconds and the peak memory of its process.

    Raises: RuntimeError if it fails; what it said is on stderr.
    """
    began = time.time()
    command = [sys.executable, "-m", "rlpt.cli", "plan", *flags, "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        text = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}, see above")
    took = {"wall_s": round(time.time() - began), "cpu_s": round(usage.ru_utime + usage.ru_stime)}
    return {**json.loads(text), "process": {**took, "rss_mb": usage.ru_maxrss // 1024}}


def page(found: dict[str, tp.Any]) -> str:
    """docs/plans.md."""
    how = next(iter(found.values()))["how"]
    lines = [
        "# Plans",
        "",
        "What `rlpt plan` says of the recipes in `configs/`, written by `python "
        "benchmarks/plans.py`;",
        "all numbers, collectives by kind among them, are in `benchmarks/results/plans.json`.",
        "No recipe has been run on its machine. A TPU's programs are compiled by its real",
        "compiler, for chips that are not here; a GPU's by XLA for fake CPU devices, whose",
        "temporaries hold attention scores that flash attention would not keep.",
        "",
        f"Seconds a step are a {how}. Two are given: all communication hidden, and none.",
        "",
        "GiB and numbers of one device:",
        "",
        "| recipe | mesh | params + optimizer | sampler's weights | cache | temporaries, update "
        "| peak | of | fits | FLOPs, update (formula) | on the wire, rollout | update | s a step "
        "| planned in |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in RECIPES:
        if name in found:
            lines.append(_row(name, found[name]))
    missing = [name for name in RECIPES if name not in found]
    if missing:
        lines += ["", f"Not planned yet: {', '.join(missing)}."]
    points = {n: found.get(WEAK if n == 16 else f"{WEAK} on {n}") for n in CHIPS}
    if all(points.values()):
        lines += ["", *_weak(tp.cast(dict[int, dict[str, tp.Any]], points))]
    return "\n".join(lines) + "\n"


def _row(name: str, p: dict[str, tp.Any]) -> str:
    held, programs = p["bytes"], p["programs"]
    gib = lambda size: f"{size / GIB:.2f}"
    wire = lambda *names: gib(
        sum(sum(programs[n]["collective_bytes"].values()) for n in names if n in programs)
    )
    flops, step = p["update_flops"], p["step_seconds"]
    mesh = ", ".join(f"{k} {v}" for k, v in p["mesh"].items() if v > 1)
    cells = (
        name, mesh, gib(held["params"] + held["optimizer"]), gib(held["rollout_params"]),
        gib(held["cache"]), gib(held["activations"]), gib(held["peak"]), gib(held["memory"]),
        "yes" if p["fits"] else "no",
        f"{flops['compiled'] / 1e12:.1f}e12 ({flops['formula'] / 1e12:.1f}e12)",
        wire("prefill", "decode"), wire("update"),
        f"{step['overlapped']:.1f} to {step['serial']:.1f}",
        f"{p['process']['cpu_s']} CPU s, {p['process']['rss_mb'] / 1024:.1f} GiB",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _weak(points: dict[int, dict[str, tp.Any]]) -> list[str]:
    """The table of weak scaling: tokens a second and chip, as a share of the fewest chips'."""
    lines = [
        f"Weak scaling of {WEAK}: as many prompts a chip on each number of chips. Efficiency is",
        "tokens a second and chip, relative to 16 chips; the goal is 0.90.",
        "",
        "| chips | s a step, hidden | none hidden | efficiency, hidden | none hidden |",
        "|---|---|---|---|---|",
    ]
    first = points[min(points)]["step_seconds"]
    for count, p in points.items():
        step = p["step_seconds"]
        shares = [first[k] / step[k] for k in ("overlapped", "serial")]
        lines.append(
            f"| {count} | {step['overlapped']:.2f} | {step['serial']:.2f} "
            f"| {shares[0]:.2f} | {shares[1]:.2f} |"
        )
    last = points[max(points)]["programs"]
    name, part = max(
        ((n, k) for n, p in last.items() for k in ("compute", "memory", "links")),
        key=lambda nk: last[nk[0]]["times"] * last[nk[0]]["seconds"][nk[1]],
    )
    return [*lines, "", f"On {max(points)} chips the longest part is {part} in {name}."]


def main(argv: collections.abc.Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = jobs()
    parser.add_argument("--only", action="append", choices=[*every, "page"], help="default: all")
    a = parser.parse_args(argv)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in a.only or every:
        if name != "page":
            found[name] = run(every[name])
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        PAGE.write_text(page(found))
        print(f"{name}: done", flush=True)


if __name__ == "__main__":
    main()
