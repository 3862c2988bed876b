"""The bandit of tests/bandit.py with more seeds and on the toy transformer too.

  python -m benchmarks.bandit                       # all rows: seven minutes of a core
  python -m benchmarks.bandit group.grpo ratios.token  # these rows only; the others stay

writes benchmarks/results/bandit.json and docs/bandit.md.
"""

from __future__ import annotations

import json
import math
import pathlib
import sys
import typing as tp

import jax
import numpy as np

from rlpt import build
from tests import bandit
from tests.bandit_cases import CASES, Expectation

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/bandit.json"
TABLE = ROOT / "docs/bandit.md"
SEEDS = {"table": 16, "transformer": 4}
TITLES = {
    "advantages": "Estimators of advantages",
    "losses": "Losses: surrogates, ratios, corrections, aggregation, penalties",
    "rewards": "Reward transforms",
    "controls": "Controls: what must not teach the answer",
}
HEAD = """\
# What every method shows on a bandit

Made by `python -m benchmarks.bandit`; the rows are those of `tests/bandit_cases.py`, which
`tests/test_bandit.py` holds with four seeds in each run of the tests.

Four prompts, six tokens, completions of at most three tokens. A completion is *right* if its first
token is the prompt's (1/6 by chance). *decoy* and *spare* are two other first tokens; where it
says *accepted*, all three are right, and *variety* is how many of them the policy still gives (exp
of the entropy). All quantities are exact, by counting all completions; those under `update/` and
`metrics/` are means over the updates. What each is, and how the batch is made, stands in
`tests/bandit.py`.

A row: what the method must do; how many of {table} seeds do, the policy being a table of logits;
the lowest and highest value over the seeds. Then the same with one planted change, after which no
seed may. The last column is the toy transformer: of {transformer} seeds with the same settings
(learning rate 0.02 instead of 0.2), how many of the method, how many of its ablation. It is no
test: the ranges were made for the table, and in the transformer what is learnt of one prompt or
place moves the others.
"""
LEFT = """\
On the table {table} of {rows} rows hold for every seed and for no seed of their ablation; on the
transformer {transformer} do.
"""


def run(arm: bandit.Arm, expect: Expectation, policy: str) -> dict[str, tp.Any]:
    """Seeds that meet the expectation, and {quantity: [lowest, highest]}."""
    quantities = bandit.train(arm, SEEDS[policy], policy)
    met = [(low <= quantities[k]) & (quantities[k] <= high) for k, (low, high) in expect.items()]
    ends = {k: (quantities[k].min(), quantities[k].max()) for k in expect}
    values = {k: [float(f"{x:.4g}") for x in v] for k, v in ends.items()}
    return {"met": int(np.all(met, axis=0).sum()), "values": values}


def row(package: str, name: str) -> dict[str, tp.Any]:
    """A row of the results, trained now."""
    case = CASES[package][name]
    out: dict[str, tp.Any] = {
        "package": package,
        "name": name,
        "expect": {
            k: [low, None if high == math.inf else high] for k, (low, high) in case.expect.items()
        },
        "change": case.change,
    }
    for policy in SEEDS:
        method = run(case.arm, case.expect, policy)
        out[policy] = {"method": method, "ablation": run(case.ablation, case.expect, policy)}
    return out


def measure(names: list[str], before: dict[str, tp.Any]) -> dict[str, tp.Any]:
    """The rows of these names, or of all, trained now; the others as they were before."""
    known = {(r["package"], r["name"]): r for r in before.get("rows", [])}
    rows = []
    for package, cases in CASES.items():
        for name in cases:
            if not names or name in names or (package, name) not in known:
                known[package, name] = row(package, name)
                print(package, json.dumps(known[package, name]), flush=True)
            rows.append(known[package, name])
        bandit.PROGRAMS.clear()  # another family has other programs
        jax.clear_caches()
    return {"seeds": SEEDS, "versions": build.versions(), "rows": rows}


def number(x: float) -> str:
    return f"{x:.3g}" if abs(x) < 10 else f"{x:.0f}"


def wanted(low: float, high: float | None) -> str:
    if high is None:
        return f"at least {number(low)}"
    if low == high:
        return f"exactly {number(low)}"
    return f"{number(low)} to {number(high)}"


def spread(values: dict[str, list[float]]) -> str:
    return "; ".join(f"{number(low)} … {number(high)}" for low, high in values.values())


def table(results: dict[str, tp.Any]) -> str:
    """docs/bandit.md from the results."""
    seeds, rows = results["seeds"], results["rows"]
    whole = {
        policy: sum(
            row[policy]["method"]["met"] == n and row[policy]["ablation"]["met"] == 0
            for row in rows
        )
        for policy, n in seeds.items()
    }
    parts = [HEAD.format(**seeds), LEFT.format(rows=len(rows), **whole)]
    for package, title in TITLES.items():
        lines = [
            f"## {title}\n",
            "| | must | seeds | values | planted change | seeds | values | transformer |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            if row["package"] != package:
                continue
            must = "; ".join(f"{k} {wanted(*v)}" for k, v in row["expect"].items())
            exact, toy = row["table"], row["transformer"]
            cells = [
                f"`{row['name']}`",
                must,
                f"{exact['method']['met']}/{seeds['table']}",
                spread(exact["method"]["values"]),
                row["change"],
                f"{exact['ablation']['met']}/{seeds['table']}",
                spread(exact["ablation"]["values"]),
                f"{toy['method']['met']}, {toy['ablation']['met']}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines) + "\n")
    made = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    parts.append(f"Trained with {made}.\n")
    return "\n".join(parts)


def main(names: list[str]) -> None:
    unknown = set(names) - {name for cases in CASES.values() for name in cases}
    if unknown:
        raise SystemExit(f"got {sorted(unknown)}, expected names in tests/bandit_cases.py")
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results = measure(names, before)
    TABLE.write_text(table(results))
    lines = ",\n".join(json.dumps(r) for r in results.pop("rows"))
    RESULTS.write_text(json.dumps(results)[:-1] + f', "rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main(sys.argv[1:])
