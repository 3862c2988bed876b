"""How near one accelerator's limits the sampler and the update come, in under eight minutes.

  python benchmarks/gpu.py                 on a GPU or TPU: a Qwen3-1.7B of random weights
  python benchmarks/gpu.py --small         a tiny shape, as on a CPU

Measured first, on this device: what a copy moves a second, and what a bfloat16 matmul computes.
Then with the run's own programs: decoding 256 rows, as a share of the time that reading the weights
and the filled cache takes at that bandwidth; one update, as a share of the time that its matmuls
take at that rate (by formula, recomputation included: `rlpt.plan.report.update_flops`); and one
GRPO run, of SmolLM2 with the settings of configs/quickstart.py (of the toy model if small).
The last line is JSON. The goal on a GPU is 0.6 for decoding and 0.45 for the update.
"""

from __future__ import annotations

import argparse
import collections.abc
import json
import pathlib
import runpy
import statistics
import tempfile
import time
import typing as tp

import jax
import jax.numpy as jnp

import rlpt
import rlpt.config
from rlpt import build, generate, sharding, train
from rlpt.models import transformer
from rlpt.models.transformer import ModelConfig
from rlpt.plan import programs, report, shapes

ROOT = pathlib.Path(__file__).parents[1]
TINY = ModelConfig(64, 2, 16, 32, 4, 2, 8)


def parse(argv: collections.abc.Sequence[str] | None = None) -> argparse.Namespace:
    """The flags; --small is the default on a CPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a tiny shape")
    parser.add_argument(
        "--model", default="Qwen3-1.7B", help=f"among {', '.join(shapes.PUBLISHED)}"
    )
    parser.add_argument("--repeats", type=int, default=3, help="timings; the median counts (3)")
    parser.add_argument("--attention", default="auto", help="config.model.attention (auto)")
    a = parser.parse_args(argv)
    a.small |= jax.default_backend() == "cpu"
    return a


def config_of(a: argparse.Namespace) -> tp.Any:
    """256 rows of 16 prompts in bfloat16, updated one prompt at a time; or a few, if small."""
    c = rlpt.config.default()
    c.model.source, c.model.attention = a.model, a.attention
    c.model.dtype = c.sampling.dtype = "float32" if a.small else "bfloat16"
    c.model.remat, c.model.logits_chunk = "full", 16 if a.small else 2048
    c.rollout.prompts, c.rollout.group = (2, 2) if a.small else (16, 16)
    c.learner.micro_blocks = 1
    c.sampling.prompt_buckets = (8,) if a.small else (256,)
    c.sampling.completion_buckets = (9,) if a.small else (513,)
    return c


def seconds(fn: tp.Callable[..., tp.Any], repeats: int, setup: tp.Callable[[], tp.Any]) -> float:
    """Median seconds of fn(*setup()), after one call that compiles."""
    jax.block_until_ready(fn(*setup()))
    took = []
    for _ in range(repeats):
        arguments = jax.block_until_ready(setup())
        began = time.perf_counter()
        jax.block_until_ready(fn(*arguments))
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def limits(a: argparse.Namespace) -> dict[str, float]:
    """Bytes a second of a copy, read and written, and FLOP a second of a bfloat16 matmul."""
    size, width = (2**20, 256) if a.small else (2**30, 8192)
    x = jnp.zeros(size // 2, jnp.bfloat16)
    w = jnp.ones((width, width), jnp.bfloat16)
    copy = seconds(jax.jit(lambda x: x + 1), a.repeats, lambda: (x,))
    matmul = seconds(jax.jit(jnp.matmul), a.repeats, lambda: (w, w))
    return {"bandwidth": 2 * size / copy, "matmul_rate": 2 * width**3 / matmul}


def decoding(a: argparse.Namespace, run: programs.Abstract, limit: dict[str, float]) -> tp.Any:
    """Seconds a token of the sampler, and the share of the bandwidth that it reaches."""
    size, dtype = run.sizes, jnp.dtype(run.config.sampling.dtype)
    p, g, width = size["P"], size["G"], size["T"]
    params = _random(run.model, dtype)
    law, numbers = generate.make_law()
    tokens = jnp.ones((p, size["L"]), jnp.int32)
    ids = jnp.arange(p * g * 4, dtype=jnp.int32).reshape(p, g, 4)
    stop = jnp.array([-1], jnp.int32)

    def start() -> tuple[generate.State]:
        return (
            generate.start(
                run.model, params, tokens, tokens > 0, jax.random.key(0), ids, stop, numbers,
                jnp.ones((p, g), bool), jnp.zeros((p, 1), jnp.int32),
                law=law, width=width, pad=0, dtype=dtype,
            ),
        )  # fmt: skip

    def decode(state: generate.State) -> generate.State:
        return generate.decode(
            run.model, params, state, jnp.int32(width), stop, numbers, law=law, pad=0, dtype=dtype
        )

    took = seconds(decode, a.repeats, start) / (width - 1)
    read = _bytes(params)
    if not run.model.tie_embeddings:  # a row a token
        read -= params["embed"].nbytes
    state = start()[0]
    cache = _bytes(state.prompt) + _bytes(state.cache) / 2  # half full in the mean
    bound = (read + cache) / limit["bandwidth"]
    return {
        "rows": p * g, "prompt": size["L"], "completion": width, "s_per_token": took,
        "tokens_per_s": p * g / took, "bound_s": bound, "share_of_bandwidth": bound / took,
    }  # fmt: skip


def updating(a: argparse.Namespace, run: programs.Abstract, limit: dict[str, float]) -> tp.Any:
    """Seconds of one update, and the share of the matmul rate that it reaches."""
    learner = build.make_learner(run.config, run.model)
    table = {
        k: jnp.ones(v.shape, v.dtype)
        for k, v in run.batch.items()
        if "/" not in k and k != "answer_id"
    }
    table["advantages"] = table["sampler_logp"]
    kept = learner.init(_random(run.model, jnp.float32))
    live = jnp.int32(run.sizes["P"] // run.config.learner.micro_blocks)

    def step() -> tp.Any:
        nonlocal kept
        kept, metrics = learner.step(kept, None, table, learner.numbers(0), live)
        return metrics

    took = seconds(step, a.repeats, lambda: ())
    flops = report.update_flops(run.model, run.config, run.sizes)
    bound = flops / limit["matmul_rate"]
    return {
        "blocks": run.sizes["P"], "group": run.sizes["G"], "s": took, "flops": flops,
        "bound_s": bound, "share_of_matmul_rate": bound / took,
    }  # fmt: skip


def grpo(small: bool) -> dict[str, float]:
    """A short GRPO run of the trainer: seconds in all, and accuracy before and after."""
    quickstart = runpy.run_path(str(ROOT / "configs/quickstart.py"))
    config = quickstart["get_config"]("runlocal" if small else None)
    config.export = config.log.console = config.log.tensorboard = False
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as workdir:
        summary = train.train(config, workdir).summary
    return {
        "steps": summary["steps"], "s": time.perf_counter() - began,
        "before": summary["eval_before"]["pass@1"], "after": summary["eval_after"]["pass@1"],
    }  # fmt: skip


def _random(model: ModelConfig, dtype: tp.Any) -> tp.Any:
    params = transformer.init_params(model, jax.random.key(0))
    return jax.tree.map(lambda x: x.astype(dtype), params)


def _bytes(tree: tp.Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def measure(a: argparse.Namespace) -> dict[str, tp.Any]:
    """All of it, as it is printed."""
    began, config = time.perf_counter(), config_of(a)
    model = TINY if a.small else shapes.find(a.model)
    run = programs.Abstract(config, model, sharding.make_mesh({}, jax.devices()[:1]))
    limit = limits(a)
    out = {
        "device": jax.devices()[0].device_kind, "rlpt": rlpt.__version__, "jax": jax.__version__,
        "model": "tiny" if a.small else a.model, "attention": a.attention, **limit,
        "decode": decoding(a, run, limit), "update": updating(a, run, limit),
        "grpo": {"model": "toy" if a.small else "SmolLM2", **grpo(a.small)},
    }  # fmt: skip
    return {**out, "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    print(json.dumps(measure(parse())), flush=True)
