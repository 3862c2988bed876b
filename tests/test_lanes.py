"""Continuous batching: the rows are those of the plain sampler, whatever lane they ran in."""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import config as config_lib
from rlpt import generate, lanes, sharding
from rlpt import tools as tools_lib
from rlpt.models import transformer
from rlpt.models.load import load
from rlpt.tasks import base
from tests.numeric import devices

P, G, L, T, V = 4, 6, 9, 40, 300
CFG = transformer.ModelConfig(  # the second layer sees five positions, as in Gemma
    V, 2, 32, 64, num_heads=4, num_kv_heads=2, head_dim=8, qk_norm=True, windows=(0, 5),
    rope_local_theta=100.0,
)  # fmt: skip
STOP = tuple(range(0, V, 15))  # one token in 15: lengths from 1 to beyond T


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def params():
    out = transformer.init_params(CFG, jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), out)


def inputs():
    """Prompts of several lengths and the rows' ids."""
    real = np.random.default_rng(0).integers(0, V, (P, L))
    mask = np.arange(L) >= np.array([0, 3, 5, 1])[:, None]
    ids = np.zeros((P, G, 4), int)
    ids[..., 0], ids[..., 3] = np.arange(P)[:, None] + 11, np.arange(G)
    return np.where(mask, real, 0), mask, ids


def sample(fn, **settings):
    tokens, mask, ids = inputs()
    given = dict(width=T, stop=STOP, law=generate.make_law()) | settings
    return jax.device_get(fn(CFG, params(), tokens, mask, jax.random.key(3), ids, **given))


def same(got, want, what=""):
    for name in want:
        if want[name].dtype != np.float32:
            np.testing.assert_array_equal(got[name], want[name], err_msg=f"{name} {what}")
    np.testing.assert_allclose(got["sampler_logp"], want["sampler_logp"], atol=1e-4, err_msg=what)


@functools.cache
def reference():
    return sample(generate.generate)


def test_the_rows_are_long_tailed():
    lengths = reference()["completion_mask"].sum(-1)
    assert lengths.min() <= 3 and (lengths == T).any(), f"the other tests show little: {lengths}"
    assert np.median(lengths) < T / 2, lengths
    truncated = reference()["truncated"]
    assert truncated.any() and not truncated.all(), "both ends are there"


@pytest.mark.parametrize(("k", "slots"), [(2, 0), (4, 3), (9, 1)])
def test_rows_are_those_of_the_plain_sampler(k, slots):
    same(sample(lanes.generate, lanes=k, slots=slots), reference())


def test_a_lane_is_never_idle_while_its_prompt_has_samples(monkeypatch):
    """The number of steps is that of a schedule made by hand."""
    taken = []

    def counted(*args, **kw):
        out = decode(*args, **kw)
        assert int(args[4]) == P * G * T, "all prompts are under way: one call is enough"
        taken.append(1)
        return out

    decode = lanes.decode
    monkeypatch.setattr(lanes, "decode", counted)
    sample(lanes.generate, lanes=2)
    assert len(taken) == 1, "the host interrupted the loop"

    lengths = reference()["completion_mask"].sum(-1)
    steps = 0
    for row in lengths:
        ends = [0, 0]
        for n in row:
            ends[ends.index(min(ends))] += int(n)
        steps = max(steps, *ends)
    first, state = started(k=2)
    few, busy = decode(*first, state, jnp.int32(steps - 1), *law(), **static())
    assert np.asarray(busy).any(), f"done in fewer than {steps} steps"
    assert not np.asarray(decode(*first, few, jnp.int32(1), *law(), **static())[1]).any()


def law():
    return jnp.asarray(STOP), generate.LawNumbers(*map(jnp.asarray, generate.make_law()[1]))


def static():
    return dict(law=generate.make_law()[0], mesh=None, dtype=jnp.float32)


def started(k):
    """(cfg, params, rows), and the state with all prompts encoded."""
    tokens, mask, ids = inputs()
    rows, state = lanes.begin(
        CFG, jax.random.key(3), jnp.asarray(ids), jnp.ones((P, G), bool), jnp.zeros(P, jnp.int32),
        slots=P, lanes=k, length=L, width=T, pad=0, mesh=None, dtype=jnp.float32,
    )  # fmt: skip
    places = jnp.arange(P)
    state = lanes.load(
        CFG, params(), rows, state, tokens, mask, places, places, mesh=None, dtype=jnp.float32
    )
    return (CFG, params(), rows), state


def test_empty_rows_and_empty_prompts_are_not_sampled():
    alive = np.ones((P, G), bool)
    alive[1], alive[2, :3], alive[3, 1] = False, False, False
    want = sample(generate.generate, alive=alive)
    got = sample(lanes.generate, lanes=2, slots=2, alive=alive)
    same(got, want)
    assert (got["completion_mask"].any(-1) == alive).all(), "what is empty stays empty"
    nothing = sample(lanes.generate, lanes=2, slots=2, alive=np.zeros((P, G), bool))
    assert not nothing["completion_mask"].any() and not nothing["truncated"].any()


def test_draws_count_from_the_start_of_the_completion():
    offset = np.array([0, 3, 1, 0])
    want = sample(generate.generate, offset=offset)
    same(sample(lanes.generate, lanes=2, slots=3, offset=offset), want)
    moved = (want["completion_tokens"] != reference()["completion_tokens"]).any((1, 2))
    np.testing.assert_array_equal(moved, offset > 0, "the offset matters")


def test_rows_that_the_host_ends_make_room():
    """The host ends rows with a 7 in them, as it would for a stop string."""
    seen = []

    def check(tokens, lengths, done):
        new = np.arange(T) < lengths[..., None]
        seen.append(lengths)
        return done | (new & (tokens % 10 == 7)).any(-1)

    out = sample(lanes.generate, lanes=2, slots=3, check=check, check_every=4)
    growth = np.diff(np.stack([np.zeros_like(seen[0]), *seen]), axis=0)
    assert growth.max() <= 4, "a row grew by more than check_every between two looks"
    want = reference()["completion_tokens"]
    lengths = reference()["completion_mask"].sum(-1)
    short = 0
    for i, j in np.ndindex(P, G):
        row = out["completion_tokens"][i, j][out["completion_mask"][i, j]]
        np.testing.assert_array_equal(row, want[i, j, : len(row)], f"row {i}, {j}")
        hits = np.flatnonzero(want[i, j, : lengths[i, j]] % 10 == 7)
        if len(hits):
            last = min(hits[0] + 4, lengths[i, j])  # the look after the hit
            assert hits[0] < len(row) <= last, (i, j, hits, len(row))
            assert not out["truncated"][i, j], (i, j)
            short += len(row) < lengths[i, j]
        else:
            assert len(row) == lengths[i, j], (i, j)
    assert short > 3, "the host ended hardly any"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(lanes=0), "lanes: got 0, expected 1 or more"),
        (dict(lanes=1, slots=-2), "slots: got -2, expected 0"),
    ],
)
def test_numbers_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        sample(lanes.generate, **settings)


def test_settings():
    config = config_lib.default()
    config.sampling.slots = 2
    with pytest.raises(config_lib.ConfigError, match="slots: got 2 with sampling.lanes=0"):
        config_lib.validate(config)
    config.sampling.lanes = -1
    with pytest.raises(
        config_lib.ConfigError, match="sampling.lanes: got -1, expected an integer >= 0"
    ):
        config_lib.validate(config)


@functools.cache
def toy():
    return load("toy")


def batch(changes, **kw):
    """What a rollout gets, with changed config.sampling, from the toy model."""
    sampling = config_lib.default().sampling.unlock()
    sampling.update(dict(completion_buckets=(24,), stop_strings=("7", "ab")) | changes)
    tools = tools_lib.Tools(
        toy().config, toy().tokenizer, None, sampling, {}, (), jax.random.key(2)
    )
    tools.params = jax.tree.map(jnp.asarray, toy().params)
    items = [(base.Prompt(str(i), base.chat(f"{i} + {i} =")), 0) for i in range(3)]
    items.insert(1, None)
    return tools.generate(items, group=4, step=0, **kw)


@pytest.mark.parametrize("kw", [dict(), dict(prefixes=[[5, 6], [], [], [9]], max_tokens=14)])
def test_a_batch_is_the_same_table_and_text(kw):
    want, got = batch({}, **kw), batch(dict(lanes=2, slots=2), **kw)
    assert want.text.completions == got.text.completions
    assert set(got.table) == set(want.table)
    for name, column in want.table.items():
        np.testing.assert_allclose(got.table[name], column, atol=1e-5, err_msg=name)
    mask, tokens = want.table["completion_mask"], want.table["completion_tokens"]
    ended = mask.any(-1) & ~want.table["truncated"]
    stopped = ended & ~np.isin(tokens, toy().tokenizer.eos_ids).any(-1)
    assert stopped.any(), "no row met a stop string"


def test_on_eight_devices():
    """XLA pretends to have them, in a process of its own."""
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": devices(8),
        "PYTHONPATH": str(pathlib.Path(__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_lanes"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def eight():
    """Cut over four devices, and over all eight; a slot serves two prompts in turn."""
    tokens, mask, ids = (np.concatenate([x, x]) for x in inputs())
    ids[P:, :, 0] += 100
    given = dict(width=T, stop=STOP, law=generate.make_law())
    rest = (tokens, mask, jax.random.key(3), ids)
    want = jax.device_get(generate.generate(CFG, params(), *rest, **given))
    mesh = sharding.make_mesh(dict(data=2, fsdp=2, model=2))
    placed = sharding.place(params(), mesh)
    got = lanes.generate(CFG, placed, *rest, **given, lanes=3, slots=4, mesh=mesh)
    assert got["completion_tokens"].sharding.spec[0] == ("data", "fsdp"), "gathered"
    same(jax.device_get(got), want)
    try:
        lanes.generate(CFG, placed, *rest, **given, lanes=3, slots=6, mesh=mesh)
    except ValueError as e:
        assert "slots: got 6, expected 0: all, or a multiple of 4" in str(e), e
    else:
        raise AssertionError("six slots over four parts")
    plain = generate.generate(CFG, placed, *rest, **given, mesh=mesh)
    same(jax.device_get(plain), want)


def test_caches_lie_where_the_batch_does():
    """Nothing else may hold what only one device needs; checked for a mesh of one by its names."""
    mesh = sharding.make_mesh({}, jax.devices()[:1])
    shape = jax.eval_shape(lambda: generate.empty_cache(CFG, P, G, T, jnp.float32))
    assert shape[0].shape == (CFG.num_layers, P, G, CFG.num_kv_heads, T, CFG.head_dim)
    text = jax.jit(lambda: generate.cut(generate.empty_cache(CFG, P, G, T, jnp.float32), mesh))
    assert '[{}, {"data", "fsdp"}, {}, {"model"}' in text.lower().as_text()


if __name__ == "__main__":
    jax.config.update("jax_disable_most_optimizations", True)
    eight()
