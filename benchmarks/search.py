"""Does more search at the test find more right answers? Best-of-n and step beams on SmolLM2.

  python -m benchmarks.search    # some ten minutes on two CPU cores; goes on where it stopped

Snell et al., arXiv 2408.03314. Sums of three numbers, 48 held-out prompts, the model and the
process reward model (a rule: false equations of the reply) of configs/beam.py; temperature 0.8,
seed 0. Best-of-n draws n whole replies, the beam n beams that go on 4 ways after each line; what
the rule puts first counts. Registered before the first run: the share of right choices at n = 16
minus pass@1 of plain samples is above 0, for both, and it rises from 4 to 8 to 16. Intervals:
95 % percentile bootstrap over prompts, paired. Writes benchmarks/results/search.json.
"""

from __future__ import annotations

import json
import pathlib
import runpy

import numpy as np

from rlpt import evaluate, statistics

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/search.json"
WIDTHS = (4, 8, 16)


def run(width: int, rounds: int | None) -> dict:
    """An evaluation with so many beams. rounds: 1: best-of-n; None: plain samples."""
    config = runpy.run_path(str(ROOT / "configs/beam.py"))["get_config"]()
    config.eval.prompts, config.eval.samples = 48, width
    if rounds:
        config.rollout.options.rounds = rounds
    cache = evaluate.cache_directory()
    return evaluate.evaluate_source(config, "embedded", plain=rounds is None, cache=cache)


def main() -> None:
    plain = run(max(WIDTHS), None)
    names = sorted(plain["per_prompt"])
    alone = np.array([plain["per_prompt"][p]["correct"] / plain["samples"] for p in names])
    found = {"plain": {k: v for k, v in plain.items() if isinstance(v, float)}, "chosen": {}}
    for how, rounds in (("best_of_n", 1), ("beam", 8)):
        for width in WIDTHS:
            rows = run(width, rounds)["per_prompt"]
            chosen = np.array([float(rows[p]["chosen"]) for p in names])
            found["chosen"][f"{how}, n={width}"] = {
                "right": chosen.mean(),
                "minus_pass@1": (chosen - alone).mean(),
                "interval": statistics.bootstrap(chosen - alone),
                "prompts": [int(c) for c in chosen],
            }
            print(how, width, json.dumps(found["chosen"][f"{how}, n={width}"]), flush=True)
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
