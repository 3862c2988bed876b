"""Seconds of a rollout whose completions have long-tailed lengths, with and without lanes.

  python benchmarks/lanes.py --json benchmarks/results/lanes.json

The model counts down: token n is followed by token n - 1, and 0 ends a row.  What follows the
prompt is drawn from a log-normal law, cut at --width, so that a completion's first token draws its
length.  It does so with embeddings and a head made for it; its layers are random and small but
computed in full, and the samplers do not know any length before a row ends.

Measured in turn, round by round, in one process, after a round that compiles:

  wait     the plain sampler: all rows until the longest ends
  batches  the plain sampler with --lanes samples of each prompt at a time, batch after batch, each
           until its longest ends: as many rows at once, and as much memory, as with lanes
  lanes    continuous batching, `sampling.lanes`
  slots    the same with half of the prompts at a time, `sampling.slots`

`wall` and `cpu` are medians over the rounds of seconds and of this process's CPU seconds, `*_min`
minima; `speedup` is the least CPU seconds over that of lanes.  `forms` are CPU seconds of
the plain sampler for 64 tokens of each row with float32, bfloat16 and int8 weights.
"""

from __future__ import annotations

import argparse
import collections.abc
import functools
import json
import os
import pathlib
import statistics
import time
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np

import rlpt
from rlpt import generate, lanes
from rlpt.models import int8, transformer
from rlpt.models.transformer import ModelConfig

_SURE = 40.0  # logit of the token that counts down


def parse(argv: collections.abc.Sequence[str] | None = None) -> argparse.Namespace:
    """The flags. Exits with a message for a shape that cannot work."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default, what in (
        ("layers", 4, ""),
        ("d-model", 256, ""),
        ("d-ff", 1024, ""),
        ("heads", 4, "and KV heads"),
        ("vocab", 8192, ""),
        ("prompts", 4, ""),
        ("group", 32, "completions of a prompt"),
        ("lanes", 8, "completions of a prompt under way at once"),
        ("prompt-len", 32, "tokens"),
        ("width", 512, "tokens of a completion at most"),
        ("median", 60, "tokens of a completion"),
        ("rounds", 2, ""),
        ("seed", 0, ""),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default})")
    parser.add_argument("--sigma", type=float, default=1.0, help="of the log of the lengths (1.0)")
    parser.add_argument("--json", type=pathlib.Path, help="where to write the result")
    a = parser.parse_args(argv)
    if a.vocab < a.width + 2:
        parser.error(f"got --vocab {a.vocab} --width {a.width}, expected a vocabulary that counts")
    if a.group % a.lanes or a.prompts % 2:
        parser.error(
            f"got --group {a.group} --lanes {a.lanes} --prompts {a.prompts}, expected lanes that "
            "divide the group and an even number of prompts"
        )
    return a


def law_of_lengths(a: argparse.Namespace) -> np.ndarray:
    """Log-probs [T] of 1, ..., T tokens: a log-normal density, normalised."""
    log_n = np.log(np.arange(1, a.width + 1))
    density = -0.5 * ((log_n - np.log(a.median)) / a.sigma) ** 2 - log_n
    return density - np.log(np.exp(density).sum())


def counting_model(a: argparse.Namespace) -> tuple[ModelConfig, dict[str, tp.Any]]:
    """A model that counts down from a number that it draws behind the token vocab - 1."""
    cfg = ModelConfig(
        vocab_size=a.vocab, num_layers=a.layers, d_model=a.d_model, d_ff=a.d_ff,
        num_heads=a.heads, num_kv_heads=a.heads, head_dim=a.d_model // a.heads,
        tie_embeddings=False, max_positions=a.prompt_len + a.width,
    )  # fmt: skip
    params = jax.device_get(transformer.init_params(cfg, jax.random.key(a.seed)))
    rng = np.random.default_rng(a.seed)
    embed = rng.choice([-1.0, 1.0], (a.vocab, a.d_model))
    embed[:, 0], embed[-1] = 0, 0  # the first unit is for the start token alone
    embed[-1, 0] = a.d_model**0.5
    head = np.zeros((a.vocab, a.d_model))
    head[: a.width] = embed[1 : a.width + 1] * _SURE / a.d_model
    first = np.full(a.vocab, -_SURE)
    first[: a.width] = law_of_lengths(a)
    head[:, 0] = first / a.d_model**0.5
    params["embed"], params["head"] = embed.astype(np.float32), head.astype(np.float32)
    return cfg, jax.tree.map(jnp.asarray, params)


def measure(a: argparse.Namespace) -> dict[str, tp.Any]:
    """Runs a.rounds rounds and returns what is written.

    Raises: RuntimeError where a sampler made other tokens than the plain one.
    """
    cfg, params = counting_model(a)
    prompts = np.random.default_rng(a.seed).integers(0, a.vocab - 1, (a.prompts, a.prompt_len))
    prompts[:, -1] = a.vocab - 1
    ids = np.zeros((a.prompts, a.group, 4), np.int32)
    ids[..., 0], ids[..., 3] = np.arange(a.prompts)[:, None], np.arange(a.group)
    inputs = (prompts, np.ones(prompts.shape, bool))
    law = generate.make_law()
    sample = functools.partial(generate.generate, cfg, params, *inputs, law=law)
    laned = functools.partial(lanes.generate, cfg, params, *inputs, law=law, lanes=a.lanes)

    def batches(key: jax.Array, ids: np.ndarray, **kw: tp.Any) -> dict[str, tp.Any]:
        parts = [ids[:, i : i + a.lanes] for i in range(0, a.group, a.lanes)]
        outs = [jax.block_until_ready(sample(key, part, **kw)) for part in parts]
        return {k: np.concatenate([out[k] for out in outs], 1) for k in outs[0]}

    samplers: dict[str, tp.Callable[..., dict[str, tp.Any]]] = {
        "wait": sample,
        "batches": batches,
        "lanes": laned,
        "slots": functools.partial(laned, slots=a.prompts // 2),
    }
    load = os.getloadavg()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in samplers}
    lengths = []
    for i in range(a.rounds + 1):
        key, tokens = jax.random.key(i), {}
        for name, sampler in samplers.items():
            wall, cpu = time.perf_counter(), time.process_time()
            out = jax.device_get(sampler(key, ids, width=a.width, stop=[0]))
            taken = time.perf_counter() - wall, time.process_time() - cpu
            tokens[name] = out["completion_tokens"]
            if i:
                seconds[name].append(taken)
        _check(tokens)
        if i:
            lengths.append(out["completion_mask"].sum(-1))
    n = np.stack(lengths)
    least = {name: min(cpu for _, cpu in s) for name, s in seconds.items()}
    return {
        "rlpt": rlpt.__version__, "jax": jax.__version__, "device": jax.devices()[0].device_kind,
        "cpus": len(os.sched_getaffinity(0)), "load": [round(x, 1) for x in load],
        "shape": {k: v for k, v in vars(a).items() if k != "json"},
        "lengths": {
            "mean": round(float(n.mean()), 1), "median": float(np.median(n)),
            "p95": float(np.quantile(n, 0.95)), "max": int(n.max()),
        },
        "wall": {k: _median(w for w, _ in s) for k, s in seconds.items()},
        "cpu": {k: _median(c for _, c in s) for k, s in seconds.items()},
        "wall_min": {k: round(min(w for w, _ in s), 3) for k, s in seconds.items()},
        "cpu_min": {k: round(v, 3) for k, v in least.items()},
        "speedup": {k: round(v / least["lanes"], 2) for k, v in least.items()},
        "forms": forms(a.rounds, cfg, params, *inputs, ids[:, : a.lanes]),
    }  # fmt: skip


def _median(values: collections.abc.Iterable[float]) -> float:
    return round(statistics.median(values), 3)


def _check(tokens: dict[str, np.ndarray]) -> None:
    """Raises RuntimeError unless the samplers drew the same rows.

    The draws' noise is the same; a tie within float32 would be an error here too.
    """
    for name, got in tokens.items():
        if different := int((got != tokens["wait"]).any(-1).sum()):
            raise RuntimeError(f"{name}: {different} rows differ from those of the plain sampler")


def forms(
    rounds: int,
    cfg: ModelConfig,
    params: tp.Any,
    prompts: np.ndarray,
    mask: np.ndarray,
    ids: np.ndarray,
) -> dict[str, float]:
    """CPU seconds, the least of the rounds, for rows of 64 tokens with other forms of weights."""
    made: dict[str, tuple[tp.Any, tp.Any]] = {
        "float32": (params, jnp.float32),
        "bfloat16": (jax.tree.map(lambda x: x.astype(jnp.bfloat16), params), jnp.bfloat16),
        "int8": (int8.quantise(params), jnp.float32),
    }
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds + 1):
        for name, (weights, dtype) in made.items():
            cpu = time.process_time()
            out = generate.generate(
                cfg, weights, prompts, mask, jax.random.key(0), ids, width=64, stop=[],
                law=generate.make_law(), dtype=dtype,
            )  # fmt: skip
            jax.block_until_ready(out)
            seconds[name].append(time.process_time() - cpu)
    return {name: round(min(s[1:]), 3) for name, s in seconds.items()}


if __name__ == "__main__":
    args = parse()
    result = measure(args)
    print(json.dumps(result, indent=1), flush=True)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
