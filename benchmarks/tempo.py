"""What TEMPO's credit costs beside the update, at long completions.

  python benchmarks/tempo.py

prints a table and writes benchmarks/results/tempo.json.

Credit: P=64 prompts x G=16 completions x T=4096 tokens, whose prefix trees branch at random
places, alone and inside the jitted chain of shaping and credit, against `group.grpo` in the same
chain.  Update: that of SmolLM2-135M's shape with random weights, by the learner of a run.  On a
CPU 64 x 16 rows of 4096 tokens would take hours, so one row is updated, prompt and all, and its
time times 1024 stands for the update; what a row costs does not depend on how many there are.
Medians of REPEATS calls, the update's of two.  Some five minutes on two CPU cores.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import time
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np

import rlpt.config
from rlpt import build, chain, learner
from rlpt.advantages import tree
from rlpt.models import transformer

P, G, T, L = 64, 16, 4096, 64
REPEATS = 5
SMOLLM2 = transformer.ModelConfig(
    vocab_size=49152, num_layers=30, d_model=576, d_ff=1536, num_heads=9, num_kv_heads=3,
    head_dim=64, tie_embeddings=True,
)  # fmt: skip
RESULTS = pathlib.Path(__file__).parent / "results" / "tempo.json"


def table(p: int, g: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A batch whose rows follow another row of their group for a random while, then part."""
    tokens = rng.integers(5, SMOLLM2.vocab_size, (p, g, T))
    for i in range(p):
        for j in range(1, g):
            shared = rng.integers(0, T)
            tokens[i, j, :shared] = tokens[i, rng.integers(0, j), :shared]
    mask = np.arange(T) < rng.integers(T // 2, T + 1, (p, g))[..., None]
    prompt = np.ones((p, L), bool)
    return {
        "prompt_tokens": rng.integers(5, SMOLLM2.vocab_size, (p, L)).astype(np.int32),
        "prompt_mask": prompt,
        "completion_tokens": tokens.astype(np.int32),
        "completion_mask": mask,
        "loss_mask": mask,
        "sampler_logp": np.where(mask, -1.0, 0.0).astype(np.float32),
        "temperature": np.ones((p, g), np.float32),
        "origin": np.zeros((p, g), np.int32),
        "row_mask": np.ones((p, g), bool),
        "train_mask": np.ones((p, g), bool),
        "verdict/number": rng.integers(0, 2, (p, g)).astype(np.float32),
    }


def seconds(call: tp.Callable[[], tp.Any], repeats: int) -> float:
    """Median wall time of a call, after one that compiles."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def in_chain(batch: dict[str, jax.Array], method: str) -> float:
    config = rlpt.config.default()
    config.advantage = (method,)
    made = chain.build(config)
    run = jax.jit(lambda t: made(t, {}, made.numbers(0), jax.random.key(0), 0)[0]["advantages"])
    return seconds(lambda: run(batch), REPEATS)


def one_row_update() -> float:
    config = rlpt.config.default()
    config.model.remat = "full"
    lr = build.make_learner(config, SMOLLM2)
    state = lr.init(transformer.init_params(SMOLLM2, jax.random.key(0)))
    rows = table(1, 1, np.random.default_rng(1))
    full = np.ones((1, 1, T), bool)
    rows |= {"completion_mask": full, "loss_mask": full, "advantages": full.astype(np.float32)}
    batch = {k: jnp.asarray(v) for k, v in rows.items() if k in {
        *learner.MODEL_COLUMNS, *lr.reads(), "loss_mask", "row_mask", "train_mask", "origin",
        "sampler_logp",
    }}  # fmt: skip

    def call() -> tp.Any:
        nonlocal state
        state, metrics = lr.step(state, None, batch, lr.numbers(0), jnp.int32(1))
        return metrics

    return seconds(call, 2)


def main() -> None:
    batch = {k: jnp.asarray(v) for k, v in table(P, G, np.random.default_rng(0)).items()}
    rewards = batch["verdict/number"]
    masks = (batch["completion_tokens"], batch["completion_mask"], batch["loss_mask"])
    alone = jax.jit(tree.tempo)
    result = {
        "shape": {"P": P, "G": G, "T": T, "L": L},
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "tempo_alone_s": seconds(lambda: alone(rewards, *masks), REPEATS),
        "tempo_in_chain_s": in_chain(batch, "tree.tempo"),
        "grpo_in_chain_s": in_chain(batch, "group.grpo"),
        "update_of_one_row_s": one_row_update(),
    }
    result["update_s"] = result["update_of_one_row_s"] * P * G
    result["share_of_update"] = result["tempo_in_chain_s"] / result["update_s"]
    for name, value in result.items():
        print(f"{name:22} {value:.6g}" if isinstance(value, float) else f"{name:22} {value}")
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
