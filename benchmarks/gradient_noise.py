"""How noisy is TEMPO's gradient beside GRPO's, at the same parameters and on the same rows?

  python -m benchmarks.gradient_noise    # some 40 minutes on two cores; goes on where it stopped

The arms grpo and tempo of benchmarks/evidence/tempo.py, at SmolLM2's weights and after 12 steps of
its GRPO: 12 batches of 64 rows each, by the trainer with a learning rate that is lost in
the rounding of the weights, so that both arms sample the same rows. AdamW's two moments, with
decays next to 1, are then the means of the gradient and of its square, by coordinate. Noise: the
trace of the gradient's covariance over batches, divided by the square of its mean, both unbiased
(the mean square less trace / 12): how many batches it takes until noise and signal are equal.
Registered before the first run: nothing is expected, both are reported, for seeds 0, 1 and 2.
Writes benchmarks/results/gradient_noise.json.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import runpy
import typing as tp

import jax
import numpy as np
import optax

import rlpt
from benchmarks.evidence.queue import ROOT
from rlpt import build, metrics
from rlpt.checkpoint import Checkpointer
from rlpt.models.load import load

RESULTS = ROOT / "benchmarks/results/gradient_noise.json"
BATCHES, WARM, SEEDS, DECAY = 12, 12, (0, 1, 2), 0.9999
FOUND = (
    "TEMPO's gradient is the larger one, by 1.9 to 3.3 times in the square of its mean, and so is "
    "its variance, by 1.4 to 1.8 times; relative to its mean it is the less noisy one, in each of "
    "the three seeds. That says that its steps agree with each other more, not that they agree "
    "with the gradient of the reward, which GRPO's mean would be but for its std. Products alone "
    "were measured; the three seeds after 12 steps begin at the same trained weights. Commit: "
    "08e48eb."
)
STILL = 1e-12  # a learning rate at which float32 weights do not move
OWN = ("versions", "config", "tokenizer", "model")  # the checkpoint is of this very config
Json = dict[str, tp.Any]


def config(arm: str, arg: str | None) -> tp.Any:
    """The job of claim 2. arg: runlocal takes the toy model."""
    evidence = ROOT / "benchmarks/evidence"
    sweep = runpy.run_path(str(evidence / "tempo.py"))["get_sweep"](arg)
    c = runpy.run_path(str(evidence / "job.py"))["get_config"](arg)
    for name, value in dict(sweep["settings"])[arm].items():
        c[name] = value
    c.eval.prompts = c.eval.samples = 1
    c.eval.every = 0
    return c


def still(c: tp.Any, source: str, seed: int) -> tp.Any:
    """The config of a run that stays where it is and averages gradients."""
    c.model.source, c.seed = source, seed
    c.steps = c.checkpoint.every = BATCHES
    c.optim.name, c.optim.lr, c.optim.schedule = "adamw", STILL, "constant"
    c.optim.b1 = c.optim.b2 = DECAY
    c.optim.max_grad_norm = c.optim.warmup_steps = 0
    return c


def noise(c: tp.Any, workdir: pathlib.Path) -> Json:
    """Trace and squared mean of the gradient, from the moments in the last checkpoint."""
    params = jax.eval_shape(lambda x: x, load(c.model.source).params)
    learner = build.make_learner(c, load(c.model.source).config)
    opt = jax.eval_shape(learner.init, params)["opt"]
    keeper = Checkpointer(workdir / "checkpoints")
    saved = keeper.restore({"learners": {"policy": {"opt": opt}}}, allow=OWN, partial=True)
    keeper.close()
    assert saved is not None
    state = saved.device_state["learners"]["policy"]["opt"]
    mean, square = (jax.tree.leaves(optax.tree_utils.tree_get(state, k)) for k in ("mu", "nu"))
    count = int(optax.tree_utils.tree_get_all_with_path(state, "count")[0][1])
    whole = 1.0 - DECAY**count
    total = lambda leaves: sum(float(np.sum(x, dtype=np.float64)) for x in leaves)  # noqa: E731
    second = total(np.asarray(x) / whole for x in square)
    first = total(np.square(np.asarray(x, np.float64) / whole) for x in mean)
    norms = [row["policy/grad_norm"] for row in metrics.read_jsonl(workdir / "metrics.jsonl")
             if row.get("policy/grad_norm")]  # fmt: skip
    np.testing.assert_allclose(second, np.mean(np.square(norms)), rtol=1e-3)
    trace = (second - first) * count / (count - 1)
    signal = first - trace / count
    return {"batches": count, "trace": trace, "signal": signal, "noise": trace / signal}


def table(found: Json) -> list[str]:
    """Markdown: by start and arm one figure a seed, and of the noise its geometric mean."""
    cells: dict[str, dict[str, list[Json]]] = {}
    for name, of in found.items():
        when, arm, _ = name.split(", ")
        cells.setdefault(when, {}).setdefault(arm, []).append(of)
    lines = [
        "| at | arm | variance (trace) by seed | squared mean | noise | geometric mean of it |",
        "|---|---|---|---|---|---|",
    ]
    for when, arms in cells.items():
        for arm, runs in arms.items():
            each = [" ".join(f"{r[k]:.3g}" for r in runs) for k in ("trace", "signal", "noise")]
            noise = [r["noise"] for r in runs]
            low = min(noise) <= 0  # no signal is seen in so many batches
            mean = "no signal seen" if low else f"{np.exp(np.mean(np.log(noise))):.3g}"
            lines.append(f"| {when} | {arm} | {' | '.join(each)} | {mean} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs/gradient_noise")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--arg", help="runlocal takes the toy model")
    args = parser.parse_args()
    found = json.loads(args.results.read_text()) if args.results.exists() else {}

    trained = args.out / "trained"
    if not (trained / "export").is_dir():
        c = config("grpo", args.arg)
        c.steps = c.checkpoint.every = WARM if args.arg is None else c.steps
        c.export = True
        rlpt.train(c, trained)
    start = config("grpo", args.arg).model.source
    for when, source in (("start", start), (f"after {WARM} steps", str(trained / "export"))):
        for seed in SEEDS:
            for arm in ("grpo", "tempo"):
                name = f"{when}, {arm}, seed {seed}"
                if name in found:
                    continue
                c = still(config(arm, args.arg), source, seed)
                workdir = args.out / name.replace(", ", "_").replace(" ", "_")
                rlpt.train(c, workdir)
                found[name] = noise(c, workdir)
                args.results.write_text(json.dumps(found, indent=1) + "\n")
                print(name, json.dumps(found[name]), flush=True)


if __name__ == "__main__":
    main()
