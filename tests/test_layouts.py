"""How a batch is laid out changes neither loss nor gradient, for every loss there is.

All of them are terms of one learner on a tiny model.  Their coefficients are traced, so that one
compiled update gives the loss and the gradient of each term by itself.  Run as a program, this file
does the same on eight CPU devices that XLA pretends to have.
"""

from __future__ import annotations

import functools
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlpt import config, learner, sharding
from rlpt.losses import penalties
from rlpt.losses import preference as pairs
from rlpt.models import transformer
from tests.numeric import devices

ROOT = pathlib.Path(__file__).parents[1]
P, G, L, T, V = 8, 3, 4, 5, 12
MODEL = transformer.ModelConfig(V, 1, 16, 16, num_heads=2, num_kv_heads=1, head_dim=8)


# --- what is compared ---------------------------------------------------------------------------


def per_part(logp, loss_mask):
    """A mistake: normalised over the blocks at hand, not over the batch."""
    return logp / loss_mask.sum()


def by_place(logp):
    """A mistake: a row's weight is its place in the block."""
    return logp * jnp.arange(logp.shape[1])[:, None]


def by_width(logp):
    """A mistake: divided by the padded width, not by what is there."""
    return logp / logp.shape[2]


def value_mse(logp, returns):
    """A critic's loss of what this model has: the value of a token is its log-prob."""
    return penalties.value_mse(logp, returns)


def value_clip(logp, returns, old_value):
    return penalties.value_clip(logp, returns, old_value, clip=0.5)


def value_bce(logp, labels):
    return pairs.value_bce(logp + 2.5, labels)


def bradley_terry(logp, loss_mask, preference, row_mask, strength):
    return pairs.bradley_terry(
        logp, loss_mask, preference, row_mask, strength=strength, margin=0.3, scaled=True,
        centre=0.1,
    )  # fmt: skip


MISTAKES = {"micro": "per_part", "permuted": "by_place", "padded": "by_width"}
PPO = dict(fn="surrogates.ppo_clip", low=0.2, high=0.28)
SEQUENCES = "aggregate.sequence_mean_token_mean"
TERMS = {
    "surrogates.reinforce": dict(surrogate="surrogates.reinforce"),
    "surrogates.ppo_clip": dict(surrogate=PPO),
    "surrogates.dual_clip": dict(surrogate=dict(fn="surrogates.dual_clip", c=1.5)),
    "surrogates.cispo": dict(surrogate=dict(fn="surrogates.cispo", cap_high=1.3)),
    "surrogates.stable_reinforce": dict(
        surrogate=dict(fn="surrogates.stable_reinforce", floor=0.7, ceiling=1.4)
    ),
    "surrogates.rl_plus": dict(surrogate="surrogates.rl_plus"),
    "ratios.token": dict(surrogate=PPO, ratio="ratios.token"),
    "ratios.sequence": dict(surrogate=PPO, ratio="ratios.sequence", aggregate=SEQUENCES),
    "ratios.sequence_token": dict(
        surrogate=PPO, ratio="ratios.sequence_token", aggregate=SEQUENCES
    ),
    "off_policy.product": dict(surrogate=PPO, ratio="off_policy.product", aggregate=SEQUENCES),
    "off_policy.shaped": dict(surrogate="off_policy.shaped"),
    "verification.self_reward_mse": dict(fn="verification.self_reward_mse"),
    "verification.class_balanced": dict(surrogate=PPO, aggregate="verification.class_balanced"),
    **{
        f"corrections.{name}": dict(
            surrogate=PPO, corrections=(dict(fn=f"corrections.{name}", **settings),)
        )
        for name, settings in {
            "token_tis": dict(cap=1.1),
            "sequence_tis": dict(cap=1.1),
            "token_mask": dict(low=0.8, high=1.2),
            "sequence_mask": dict(low=0.7, high=1.3),
            "geometric_rejection": dict(low=0.9, high=1.1),
        }.items()
    },
    **{
        f"aggregate.{name}": dict(
            surrogate=PPO, aggregate=dict(fn=f"aggregate.{name}", **settings)
        )
        for name, settings in {
            "token_mean": {},
            "sequence_mean_token_mean": {},
            "sequence_mean_token_sum": {},
            "constant_length": dict(length=T),
            "prompt_mean": {},
            "top_entropy": dict(fraction=0.4),
        }.items()
    },
    **{
        f"penalties.{name}": dict(fn=f"penalties.{name}")
        for name in (
            "k1", "k2", "k3", "k3_straight_through", "k3_ratio", "scaled_k3", "entropy_bonus",
            "scaled_entropy_bonus",
        )
    },
    "penalties.pacs": dict(fn="penalties.pacs", aggregate=SEQUENCES),
    "penalties.value_mse": dict(fn="tests.test_layouts:value_mse"),
    "penalties.value_clip": dict(fn="tests.test_layouts:value_clip"),
    **{
        f"preference.{name}": dict(fn=f"preference.{name}", aggregate=SEQUENCES)
        for name in ("nll", "dpo", "ipo", "simpo", "orpo", "kto", "implicit_bce")
    },
    "preference.value_bce": dict(fn="tests.test_layouts:value_bce"),
    "preference.bradley_terry": dict(fn="tests.test_layouts:bradley_terry", aggregate=SEQUENCES),
    **{name: dict(fn=f"tests.test_layouts:{name}") for name in MISTAKES.values()},
}  # fmt: skip
LOSSES = [name for name in TERMS if "." in name]
LAYOUTS = ("micro", "permuted", "padded", "devices")


# --- the batch ----------------------------------------------------------------------------------


@functools.cache
def params():
    out = transformer.init_params(MODEL, jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), out)


@functools.cache
def batch():
    """Ragged rows of all origins, with tool tokens, dead rows, rows that do not train."""
    rng = np.random.default_rng(0)
    normal = lambda scale: (scale * rng.normal(size=(P, G, T))).astype(np.float32)
    mask = np.arange(T) < rng.integers(1, T + 1, (P, G, 1))
    prompt = np.arange(L) >= rng.integers(0, L, P)[:, None]
    table = {
        "prompt_tokens": rng.integers(0, V, (P, L)) * prompt,
        "prompt_mask": prompt,
        "completion_tokens": rng.integers(0, V, (P, G, T)) * mask,
        "completion_mask": mask,
        "loss_mask": mask & (rng.random((P, G, T)) < 0.8),
        "temperature": np.ones((P, G), np.float32),
        "origin": rng.choice(4, (P, G), p=(0.7, 0.1, 0.1, 0.1)).astype(np.int32),
        "row_mask": rng.random((P, G)) < 0.9,
        "train_mask": rng.random((P, G)) < 0.9,
        "group": np.array([0, 0, 1, 2, 3, 3, 3, 4], np.int32),
        "rewards": rng.integers(0, 2, (P, G)).astype(np.float32),
        "advantages": normal(1.0) + rng.normal(size=(P, G, 1)).astype(np.float32),
        "returns": normal(0.5) - 2.5,
        "old_value": normal(0.5) - 2.5,
        "old_entropy": np.abs(normal(1.0)),
        "kl_coef": rng.random((P, G)).astype(np.float32),
        "entropy_coef": rng.random((P, G)).astype(np.float32),
    }
    table["old_logp"] = normal(0.3) - math.log(V)  # about what the model says
    table["sampler_logp"] = table["old_logp"] + normal(0.4)
    table["ref_logp"] = table["old_logp"] + normal(0.5)
    ranks = rng.integers(0, 3, (P, G)).astype(np.float32)
    table["preference"] = np.where(rng.random((P, G)) < 0.8, ranks, np.nan).astype(np.float32)
    table["labels"] = np.where(np.isnan(table["preference"]), np.nan, ranks / 2)
    table["kl_baseline"] = rng.random((P, G)).astype(np.float32)
    table["strength"] = rng.random(P).astype(np.float32) + 0.5
    table["self_reference"] = rng.random((P, G)).astype(np.float32) - 8.0
    table["truncated"] = rng.random((P, G)) < 0.2
    return table


def permuted(table):
    """Blocks in another order, and the rows of each block."""
    rng = np.random.default_rng(1)
    blocks, rows, out = rng.permutation(P), [rng.permutation(G) for _ in range(P)], {}
    for name, column in table.items():
        moved = column[blocks]
        if column.shape[1:2] == (G,):
            moved = np.stack([block[order] for block, order in zip(moved, rows, strict=True)])
        out[name] = moved
    return out


def padded(table):
    """Empty blocks and slots, longer prompts and completions, garbage where nothing is read."""
    rng = np.random.default_rng(2)
    out = {}
    for name, column in table.items():
        widths = [(0, 2)]
        if name.startswith("prompt_"):
            widths.append((2, 0))
        elif column.ndim > 1:
            widths += [(0, 1), (0, 3)][: column.ndim - 1]
        fill = np.pad(np.zeros(column.shape, bool), widths, constant_values=True)
        wide = np.pad(column, widths)
        if name == "group":
            wide[fill] = -1
        elif name == "temperature":
            wide[fill] = 1.0
        elif column.dtype != bool and "tokens" not in name and name != "origin":
            wide[fill] = rng.normal(size=fill.sum()) * 9
        out[name] = wide
    return out


# --- the update ---------------------------------------------------------------------------------


@functools.cache
def policy(micro_blocks):
    """With an optimizer whose state after an update is the gradient."""
    terms = tuple(learner.make_term(dict(spec, name=name)) for name, spec in TERMS.items())
    return learner.Learner(
        MODEL, terms, optax.trace(decay=0.0), old_logp="recompute", micro_blocks=micro_blocks
    )


def compute(table, micro_blocks=0, start=lambda: jax.tree.map(jnp.copy, params())):
    """{term: (loss, gradient as one vector)}"""
    one, found = policy(micro_blocks), {}
    for term in one.terms:
        numbers = one.numbers(0)
        for n, other in zip(numbers, one.terms, strict=True):
            n["coef"] = float(other is term)
        state, metrics = one.update(one.init(start()), None, table, numbers, (0, 0))
        gradient = [np.ravel(x) for x in jax.tree.leaves(state["opt"].trace)]
        found[term.name] = (metrics["loss/total"], np.concatenate(gradient))
    return found


def on_devices():
    """With blocks and parameters cut over a mesh of eight."""
    mesh = sharding.make_mesh({"data": 4, "fsdp": 2})
    table = jax.device_put(batch(), sharding.batch_sharding(mesh))
    shards = table["advantages"].addressable_shards
    assert len(shards) == 8 and shards[0].data.shape == (1, G, T)
    return compute(table, start=lambda: sharding.place(params(), mesh))


# --- tests --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """layout -> what `compute` gives under it; the devices' is made in a process of its own."""
    path = tmp_path_factory.mktemp("layouts") / "devices.npz"
    environment = os.environ | {
        "XLA_FLAGS": devices(8),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.test_layouts", str(path)], cwd=ROOT, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    jax.config.update("jax_disable_most_optimizations", True)  # compiling is most of the work

    @functools.cache
    def get(layout):
        if layout == "devices":
            said, _ = child.communicate(timeout=250)
            assert child.returncode == 0, said
            with np.load(path) as found:
                return {k: (v[0], v[1:]) for k, v in found.items()}
        if layout == "micro":
            return compute(batch(), micro_blocks=1)
        change = {"whole": lambda table: table, "permuted": permuted, "padded": padded}[layout]
        return compute(change(batch()))

    yield get
    jax.config.update("jax_disable_most_optimizations", False)
    child.kill()
    child.communicate()


def distance(one, other):
    """Largest difference of loss or gradient, as a share of the largest entry."""
    size = max(abs(one[0]), np.abs(one[1]).max())
    return max(abs(one[0] - other[0]), np.abs(one[1] - other[1]).max()) / size


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient(layouts, layout, name):
    whole, other = layouts("whole")[name], layouts(layout)[name]
    assert np.abs(whole[1]).max() > 1e-3, "no gradient to compare"
    assert distance(whole, other) < 1e-5, f"{name}: {layout} is off by {distance(whole, other)}"


@pytest.mark.parametrize("layout", MISTAKES)
def test_mistakes_are_seen(layouts, layout):
    """A loss that depends on the layout does not pass the test above."""
    name = MISTAKES[layout]
    assert distance(layouts("whole")[name], layouts(layout)[name]) > 0.01


def test_the_terms_differ(layouts):
    """Each is computed, and with its own settings: no clip, cap or mask is without effect."""
    found = {name: layouts("whole")[name] for name in LOSSES}
    same = {"surrogates.ppo_clip", "ratios.token", "aggregate.token_mean"}
    for i, a in enumerate(LOSSES):
        for b in LOSSES[:i]:
            if not {a, b} <= same:
                assert distance(found[a], found[b]) > 1e-4, f"{a} is {b}"


def test_every_loss_is_here():
    metrics = {"surrogates.clip_metrics", "corrections.mismatch_metrics"}
    known = set(config.accepted_names("losses")) - metrics
    assert known == set(LOSSES), f"differ: {known ^ set(LOSSES)}"


if __name__ == "__main__":
    np.savez(sys.argv[1], **{k: np.r_[v[0], v[1]] for k, v in on_devices().items()})
