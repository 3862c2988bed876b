"""Does more search at the test find more right answers? Best-of-n and step beams on SmolLM2.

  python -m benchmarks.search    # some ninety minutes on two CPU cores; goes on where it stopped

Snell et al., arXiv 2408.03314. Sums of three one-digit numbers, 48 held-out prompts, the process
reward model of configs/beam.py (a rule: false equations of the reply); temperature 0.8, seed 0.
Best-of-n draws n whole replies, the beam n beams that go on 4 ways after each step; what the rule
puts first counts. Registered before the first run: the share of right choices at n = 16 minus
pass@1 of plain samples is above 0, for both, and it rises from 4 to 8 to 16. Intervals: 95 %
percentile bootstrap over prompts, paired. Writes benchmarks/results/search.json.

Two starts. `embedded`: SmolLM2 as it is, with the prompt and the lines of configs/beam.py; it
hardly ever writes an equation, so that the rule has nothing to say. `imitated`, registered after
that: SmolLM2 after IMITATED steps of imitating "7 + 4 = 11, 11 + 1 = 12" on the training split
(16 prompts a step, learning rate 1e-5), where steps end with a comma. `imitated_logp`, registered
after that: the same start, with the mean log-prob of the tokens for a score, since the rule has the
same to say of too many replies.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import runpy
import typing as tp

import numpy as np

import rlpt
from rlpt import evaluate, statistics

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/search.json"
WIDTHS = (4, 8, 16)
STARTS = ("imitated_logp", "imitated", "embedded")
IMITATED = 9
TASK = (dict(fn="arithmetic.sums", low=1, high=9, terms=3, system="", hints=True),)


def imitation() -> tp.Any:
    """The config of the second start."""
    c = runpy.run_path(str(ROOT / "configs/sft.py"))["get_config"]()
    c.tasks = TASK
    c.steps = c.checkpoint.every = IMITATED
    c.rollout.prompts, c.rollout.options = 16, dict(completion="{hint} {answer}")
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (48,), (32,)
    c.eval.prompts = c.eval.samples = 8
    c.export = False
    return c


def run(start: str, source: str, width: int, rounds: int | None) -> dict:
    """An evaluation with so many beams. rounds: 1: best-of-n; None: plain samples."""
    config = runpy.run_path(str(ROOT / "configs/beam.py"))["get_config"]()
    config.eval.prompts, config.eval.samples = 48, width
    if start != "embedded":
        config.tasks, config.sampling.prompt_buckets = TASK, (48,)
        config.rollout.options.separator = ", "
    if start == "imitated_logp":
        config.rollout.options.by, config.rollout.options.sign = "", 1.0
    if rounds:
        config.rollout.options.rounds = rounds
    cache = evaluate.cache_directory()
    return evaluate.evaluate_source(config, source, plain=rounds is None, cache=cache)


def measure(start: str, source: str) -> None:
    """Writes what each width comes to into RESULTS, when it is there."""
    plain = run(start, source, max(WIDTHS), None)
    names = sorted(plain["per_prompt"])
    alone = np.array([plain["per_prompt"][p]["correct"] / plain["samples"] for p in names])
    found = {"plain": {k: v for k, v in plain.items() if isinstance(v, float)}, "chosen": {}}
    for how, rounds in (("best_of_n", 1), ("beam", 8)):
        for width in WIDTHS:
            rows = run(start, source, width, rounds)["per_prompt"]
            chosen = np.array([float(rows[p]["chosen"]) for p in names])
            found["chosen"][f"{how}, n={width}"] = {
                "right": chosen.mean(),
                "minus_pass@1": (chosen - alone).mean(),
                "interval": statistics.bootstrap(chosen - alone),
                "prompts": "".join(str(int(c)) for c in chosen),
            }
            shown = {
                k: v for k, v in found["chosen"][f"{how}, n={width}"].items() if k != "prompts"
            }
            print(start, how, width, json.dumps(shown), flush=True)
            whole = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            RESULTS.write_text(json.dumps({**whole, start: found}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs/search")
    parser.add_argument("--only", choices=STARTS)
    args = parser.parse_args()
    for start in (args.only,) if args.only else STARTS:
        source = "embedded"
        if start != "embedded":
            source = str(args.out / "imitated")
            rlpt.train(imitation(), args.out / "imitated")
        measure(start, source)


if __name__ == "__main__":
    main()
