"""What a step takes when the next batch is sampled while this one is judged.

  python -m benchmarks.overlap --json benchmarks/results/overlap.json

Model, prompts and flags are those of step.py; a step is rollout, credit and one update.  The
verifier takes as long for a batch as sampling does (--share of it), either sleeping, as one that
waits for a server, or computing in one process, which takes a core from the sampler.  The rows are
medians over the steps after --warmup; all four ways run in one process, in turn (--rounds times).
"""

from __future__ import annotations

import argparse
import collections.abc
import json
import os
import pathlib
import statistics
import sys
import time
import typing as tp

import jax
import jax.numpy as jnp

from benchmarks import step as step_lib
from rlpt import build, overlap
from rlpt import learners as learners_lib
from rlpt import tools as tools_lib
from rlpt.tasks.stream import Source, Stream
from rlpt.verifiers.base import Verdict, judged
from rlpt.verifiers.pool import VerifierPool


def sleeps(trajectory: tp.Any, prompt: tp.Any, *, seconds: float) -> Verdict:
    """A verdict that is waited for."""
    time.sleep(seconds)
    return judged(len(trajectory.text) % 2 == 0)


def computes(trajectory: tp.Any, prompt: tp.Any, *, seconds: float) -> Verdict:
    """A verdict that takes processor time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return judged(len(trajectory.text) % 2 == 0)


def measure(a: argparse.Namespace, verifier: str, seconds: float, ahead: int) -> dict[str, float]:
    """Median seconds of a step and of its parts. seconds: of the verifier, a batch."""
    config = step_lib.config_of(a)
    config.rollout.overlap = ahead
    rows = a.prompts * a.group
    spec = dict(fn=f"benchmarks.overlap:{verifier}", name="even", seconds=seconds / rows)
    config.verifiers = (spec,)
    chain, scorers = build.check(config)
    loaded, root = step_lib.random_model(a), jax.random.key(a.seed)
    stream = Stream([Source("random", step_lib.random_prompts(a))], a.seed)
    with VerifierPool((spec,), workers=1, deadline=60.0, batch_deadline=600.0) as pool:
        tools = tools_lib.Tools(
            loaded.config, loaded.tokenizer, pool, config.sampling, config.missing, ["even"], root
        )
        learners = learners_lib.Learners(
            config, build.make_learners(config, loaded.config), scorers, loaded,
            {c for _, m in chain.methods for c in m.reads}, root,
        )  # fmt: skip
        rollouts = overlap.Rollouts(
            build.rollout_of(config), stream, tools, learners.rollout_params, a.steps, ahead
        )
        state, credit = chain.init(), jax.jit(chain.__call__)
        whole, sampled = [], []
        for step in range(a.steps):
            start = time.perf_counter()
            table = rollouts(step)["policy"].table
            sampled.append(time.perf_counter() - start)
            learners.prepare(table)
            new, state = credit(
                table, state, chain.numbers(step), jax.random.fold_in(root, step), jnp.int32(step)
            )
            learners.update("after_credit", {"policy": {**table, **jax.device_get(new)}}, step)
            whole.append(time.perf_counter() - start)
    counted = slice(a.warmup, a.steps - 1)  # the last samples nothing ahead
    return {
        "step_s": round(statistics.median(whole[counted]), 3),
        "rollout_and_wait_s": round(statistics.median(sampled[counted]), 3),
    }


def main(argv: collections.abc.Sequence[str] | None = None) -> dict[str, tp.Any]:
    """Runs all of it and returns what is printed and written."""
    own = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    own.add_argument("--share", type=float, default=1.0, help="verifier's time / the sampler's (1)")
    own.add_argument("--rounds", type=int, default=2)
    own.add_argument("--json", help="also write everything here")
    mine, rest = own.parse_known_args(argv)
    a = step_lib.parse(rest)
    free = measure(a, "sleeps", 0.0, 0)
    seconds = mine.share * free["rollout_and_wait_s"]
    runs: dict[str, list[dict[str, float]]] = {}
    for _ in range(mine.rounds):
        for verifier in ("sleeps", "computes"):
            for ahead in (0, 1):
                found = measure(a, verifier, seconds, ahead)
                runs.setdefault(f"{verifier}, overlap={ahead}", []).append(found)
    summary = {
        name: {k: statistics.median(r[k] for r in found) for k in found[0]}
        for name, found in runs.items()
    }
    out = {
        "jax": jax.__version__, "cpus": len(os.sched_getaffinity(0)),
        "load_after": [round(x, 1) for x in os.getloadavg()], "rows": a.prompts * a.group,
        "completion": a.completion_len, "prompt": a.prompt_len,
        "without_verifier": free, "verifier_s": round(seconds, 3), "summary": summary,
    }  # fmt: skip
    print(f"sampling {free['rollout_and_wait_s']} s, verifier {seconds:.3f} s, "
          f"step without a verifier {free['step_s']} s")  # fmt: skip
    for name, found in summary.items():
        print(f"{name:>22}: step {found['step_s']:.3f} s")
    if mine.json:
        pathlib.Path(mine.json).write_text(json.dumps(out, indent=1) + "\n")
    return out


if __name__ == "__main__":
    main(sys.argv[1:])
