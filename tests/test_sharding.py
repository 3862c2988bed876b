"""Meshes and placement rules, on eight CPU devices that XLA pretends to have.

Functions named `eight_*` run in one child process, since the number of devices is
fixed when jax starts; each is reported as a test of its own.
"""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import traceback
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as Spec

from rlpt import blocks, chain, learner, learners, optim, policy, scoring, sharding, tools
from rlpt import config as config_lib
from rlpt import metrics as metrics_lib
from rlpt import train as train_lib
from rlpt.checkpoint import Checkpointer, shapes
from rlpt.models import lora, transformer
from rlpt.models.load import load
from rlpt.plan import hlo, programs
from rlpt.tasks.base import Prompt, chat
from tests.numeric import devices

CONFIG = transformer.ModelConfig(
    vocab_size=33,  # odd, as vocabularies are
    num_layers=3,
    d_model=16,
    d_ff=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    qkv_bias=True,
    qk_norm=True,
    post_norms=True,
    tie_embeddings=False,
)
SIZES = {"data": 2, "fsdp": 2, "model": 2}


def loss(params, tokens):
    hidden = transformer.forward(CONFIG, params, tokens, jnp.ones(tokens.shape, bool))[0]
    logp = jax.nn.log_softmax(transformer.logits(CONFIG, params, hidden[:, :-1]))
    return -jnp.mean(jnp.take_along_axis(logp, tokens[:, 1:, None], -1))


def data():
    params = transformer.init_params(CONFIG, jax.random.key(0))
    return params, np.random.default_rng(0).integers(0, CONFIG.vocab_size, (8, 6))


# ---- on eight devices


def eight_rules_cut_what_they_say():
    mesh = sharding.make_mesh(SIZES)
    params = sharding.place(data()[0], mesh)
    want = {
        ("embed",): (33, 8),  # 33 rows are not cut
        ("head",): (33, 8),
        ("final_norm",): (16,),
        ("layers", "q"): (3, 8, 16),
        ("layers", "k"): (3, 8, 8),
        ("layers", "o"): (3, 16, 8),
        ("layers", "down"): (3, 16, 8),
        ("layers", "up"): (3, 8, 16),
        ("layers", "q_bias"): (3, 16),
        ("layers", "q_norm"): (3, 8),
        ("layers", "post_mlp_norm"): (3, 16),
    }
    for path, shape in want.items():
        leaf = params
        for part in path:
            leaf = leaf[part]
        assert leaf.addressable_shards[0].data.shape == shape, f"{path}: {leaf.sharding}"
    for placed, plain in zip(jax.tree.leaves(params), jax.tree.leaves(data()[0]), strict=True):
        np.testing.assert_array_equal(placed, plain)


def eight_tools_take_any_number_of_blocks():
    loaded = load("toy:layers=1,width=16,heads=2,kv_heads=2,ff=16")
    config, found = config_lib.default(), []
    config.sampling.prompt_buckets, config.sampling.completion_buckets = (32,), (4,)
    for mesh in (None, sharding.make_mesh(SIZES)):
        own = tools.Tools(
            loaded.config, loaded.tokenizer, None, config.sampling, {}, (), jax.random.key(0), mesh
        )
        placed = jax.tree.map(jnp.asarray, loaded.params)
        own.params = placed if mesh is None else sharding.place(placed, mesh)
        items = [(Prompt(f"p{i}", chat(f"{i}+1")), 0) for i in range(3)]
        batch = own.generate(items, group=2, step=0, first_sample=[0, 2, 4], prefixes=[[], [5], []])
        assert len(batch.text.prompts) == len(batch.table["row_mask"]) == 3
        found.append((batch.table["completion_tokens"], own.score(batch.table)))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    for name, value in found[0][1].items():
        np.testing.assert_allclose(value, found[1][1][name], atol=1e-4)


def eight_an_update_is_the_same_as_on_one_device():
    params, tokens = data()
    optimizer, _ = optim.make_optimizer({"name": "sgd", "b1": 0.9, "lr": 0.1, "weight_decay": 0.1})

    def update(state, params, tokens):
        value, grads = jax.value_and_grad(loss)(params, tokens)
        params, state, info = optim.guarded_update(optimizer, grads, state, params, value)
        return params, value, info["grad_norm"]

    one = jax.jit(update)(optimizer.init(params), params, tokens)
    mesh = sharding.make_mesh(SIZES)
    placed = sharding.place(params, mesh)
    state = sharding.place_like(optimizer.init(params), placed, mesh)
    batch = jax.device_put(tokens, sharding.batch_sharding(mesh))
    # without out_shardings XLA is free to move the parameters
    stay = (sharding.shardings(placed, mesh), None, None)
    many = jax.jit(update, out_shardings=stay)(state, placed, batch)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(one[2], many[2], rtol=1e-5)


def eight_optimizer_state_lies_beside_its_parameters():
    mesh = sharding.make_mesh(SIZES)
    params = sharding.place(data()[0], mesh)
    for name in ("adamw", "adafactor"):
        optimizer, _ = optim.make_optimizer({"name": name})
        state = sharding.place_like(optimizer.init(data()[0]), params, mesh)
        assert jax.tree.structure(state) == jax.tree.structure(optimizer.init(data()[0]))
        assert optim.update_count(state).sharding.is_fully_replicated
        if name == "adamw":
            mu = state[1][0].mu["layers"]["q"]
            assert mu.sharding == params["layers"]["q"].sharding


def eight_adapters_follow_their_kernels():
    mesh = sharding.make_mesh(SIZES)
    params = data()[0]
    adapters = sharding.place(lora.init_lora(params, jax.random.key(1), 4), mesh)
    shapes = {
        f"{path}/{name}": leaf.addressable_shards[0].data.shape
        for path, pair in adapters.items()
        for name, leaf in pair.items()
    }
    assert shapes["layers/q/a"] == (3, 8, 4) and shapes["layers/q/b"] == (3, 4, 16)
    assert shapes["layers/down/a"] == (3, 16, 4) and shapes["layers/down/b"] == (3, 4, 8)
    whole = sharding.place(
        lora.attach(params, lora.init_lora(params, jax.random.key(1), 4), 1.0), mesh
    )
    assert whole["layers"]["q"].base.addressable_shards[0].data.shape == (3, 8, 16)


def eight_axes_that_do_not_divide():
    mesh = sharding.make_mesh({"model": 8})
    message = "axis 1 of 'x' has size 12, which does not divide by 8, the size of model"
    tree = {"x": jnp.zeros((4, 12))}
    with pytest.raises(ValueError, match=message):
        sharding.place(tree, mesh, [("x", Spec(None, "model"))])
    placed = sharding.place(tree, mesh, [("x", Spec(None, "model"), True)])
    assert placed["x"].sharding.is_fully_replicated
    both = sharding.make_mesh({"data": 4, "model": 2})
    with pytest.raises(ValueError, match="axis 0 of 'x' .* by 8, the size of data x model"):
        sharding.place(tree, both, [("x", Spec(("data", "model")))])


def eight_the_rest_of_the_mesh():
    assert dict(sharding.make_mesh({"fsdp": -1, "model": 2}).shape) == {
        "data": 1,
        "fsdp": 4,
        "model": 2,
    }
    for sizes in (
        {"data": 3},
        {"data": -1, "fsdp": -1},
        {"fsdp": -1, "model": 3},
        {"model": 16, "fsdp": -1},
    ):
        with pytest.raises(ValueError, match="product is the number of devices, 8"):
            sharding.make_mesh(sizes)


def eight_batch_is_cut_over_data_and_fsdp():
    mesh = sharding.make_mesh(SIZES)
    column = jax.device_put(np.arange(24).reshape(8, 3), sharding.batch_sharding(mesh))
    assert column.addressable_shards[0].data.shape == (2, 3)
    assert jax.jit(lambda x: x[::-1, 0])(column).tolist() == list(range(21, -1, -3)), (
        "indexing works"
    )


def eight_checkpoints_keep_or_change_the_sharding():
    mesh = sharding.make_mesh(SIZES)
    params = sharding.place(data()[0], mesh)
    key = jax.device_put(jax.random.key(3), NamedSharding(mesh, Spec()))
    loose = jnp.arange(3)
    with tempfile.TemporaryDirectory() as directory:
        checkpointer = Checkpointer(directory)
        checkpointer.save(1, {"params": params, "key": key, "loose": loose}, {})
        other = sharding.place(
            jax.tree.map(jnp.zeros_like, params), sharding.make_mesh({"fsdp": 8})
        )
        for like in (params, other):
            example = {"params": like, "key": key, "loose": jnp.zeros(3, int)}
            got = checkpointer.restore(example).device_state
            for a, b, c in zip(
                jax.tree.leaves(got["params"]),
                jax.tree.leaves(params),
                jax.tree.leaves(like),
                strict=True,
            ):
                np.testing.assert_array_equal(a, b)
                assert a.sharding == c.sharding
            assert jnp.all(got["key"] == key) and got["key"].sharding.is_fully_replicated
            # an array that was free to move still is: it mixes with the mesh in one jit
            assert (
                float(jax.jit(lambda x, y: x.sum() * 0 + y[2])(got["params"]["head"], got["loose"]))
                == 2
            )
        example = shapes({"params": other, "key": key, "loose": loose})
        got = checkpointer.restore(example).device_state
        assert got["params"]["layers"]["q"].sharding == other["layers"]["q"].sharding
        assert got["key"].sharding == key.sharding and not got["loose"].committed
        checkpointer.close()


MESHES = ((8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 1, 8))
POLICY = dict(surrogate="surrogates.ppo_clip", aggregate="aggregate.sequence_mean_token_mean")


def rows(p=16, g=2, length=4, width=5):
    """A table whose blocks differ in lengths, and of which half have no advantage."""
    rng = np.random.default_rng(0)
    prompt = np.arange(length) >= rng.integers(0, length, p)[:, None]
    mask = np.arange(width) < rng.integers(1, width + 1, (p, g))[..., None]
    advantages = rng.normal(size=(p, g, 1)) * (np.arange(p) % 2)[:, None, None] * mask
    return {
        "prompt_tokens": rng.integers(0, CONFIG.vocab_size, (p, length)),
        "prompt_mask": prompt,
        "completion_tokens": rng.integers(0, CONFIG.vocab_size, (p, g, width)),
        "completion_mask": mask,
        "loss_mask": mask,
        "sampler_logp": (-rng.random((p, g, width)) * mask).astype(np.float32),
        "temperature": np.ones((p, g), np.float32),
        "origin": np.zeros((p, g), np.int32),
        "row_mask": np.ones((p, g), bool),
        "advantages": advantages.astype(np.float32),
    }


def eight_losses_and_gradients_are_those_of_one_device():
    """Plain SGD, so that the step is the gradient; micro-batches, skipped blocks, old log-probs."""
    optimizer, _ = optim.make_optimizer({"name": "sgd", "lr": 1.0, "max_grad_norm": None})
    terms = (learner.make_term(POLICY),)
    table, table32 = rows(), rows(p=32)
    table32["advantages"] = table32["advantages"] + table32["loss_mask"]  # all blocks are busy

    def update(mesh, table=table, **kw):
        model = dataclasses.replace(CONFIG, num_kv_heads=4)
        one = learner.Learner(model, terms, optimizer, mesh=mesh, **kw)
        start = jax.device_get(transformer.init_params(model, jax.random.key(0)))
        state = one.place(one.init(jax.tree.map(jnp.asarray, start)))
        scored = one.score(
            state["params"],
            sharding.place_batch({k: table[k] for k in learner.MODEL_COLUMNS}, mesh),
        )
        new, metrics = one.update(state, None, table, one.numbers(0), (0,))
        grads = jax.tree.map(lambda a, b: a - np.asarray(b), start, new["params"])
        return grads, metrics, np.asarray(scored), new

    want, metrics, scored, _ = update(None)
    want32, *_ = update(None, table=table32)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(want))
    assert largest > 1e-3 and metrics["policy/live_blocks"] == 8
    for shape in MESHES:
        mesh = sharding.make_mesh(dict(zip(sharding.AXES, shape, strict=True)))
        got, m, logp, new = update(mesh, micro_blocks=8)
        np.testing.assert_allclose(logp, scored, rtol=1e-5, atol=1e-5, err_msg=str(shape))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * largest, err_msg=str(shape))
        for k in ("loss/policy", "policy/entropy", "policy/grad_norm", "policy/live_blocks"):
            np.testing.assert_allclose(m[k], metrics[k], rtol=1e-5, err_msg=f"{k} {shape}")
        four, *_ = update(mesh, micro_blocks=8, table=table32)
        for a, b in zip(jax.tree.leaves(four), jax.tree.leaves(want32), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * largest, err_msg=str(shape))
        stay = sharding.shardings(new["params"], mesh)
        assert all(
            a.sharding.is_equivalent_to(b, a.ndim)
            for a, b in zip(jax.tree.leaves(new["params"]), jax.tree.leaves(stay), strict=True)
        ), "the parameters have moved"


def eight_weights_travel_and_activations_stay():
    """What an update sends is a few times the weights, however many tokens it is of."""
    optimizer, _ = optim.make_optimizer({"name": "sgd", "lr": 1.0, "max_grad_norm": None})
    mesh = sharding.make_mesh({"fsdp": 8})
    model = dataclasses.replace(CONFIG, vocab_size=40)

    def sent():
        one = learner.Learner(
            model,
            (learner.make_term(POLICY),),
            optimizer,
            mesh=mesh,
            logits_chunk=40 * 64,
            micro_blocks=8,
            remat="full",
            dtype=jnp.bfloat16,
        )
        params = one.place(one.init(transformer.init_params(model, jax.random.key(0))))
        table = sharding.place_batch(rows(p=16, g=4, length=16, width=64), mesh)
        step = one.step.lower(params, None, table, one.numbers(0), jnp.int32(1))
        counts = hlo.count(step.compile().as_text())
        return sum(counts.wire.values()) / programs.local_bytes(params["params"]) / 8

    ours = sent()
    with mock.patch.object(sharding, "gathered", lambda tree, *_: tree):
        left_alone = sent()
    assert ours < 4.5 < left_alone, (ours, left_alone)  # two gathers and a sum over a ring


def eight_scorers_divide_their_work():
    """What a device computes for a scorer is its share, and the result that of one device."""
    optimizer, _ = optim.make_optimizer({"name": "sgd", "lr": 1.0})
    table = rows() | {"verdict/number": np.tile(np.float32([0, 1]), (16, 1))}
    table |= {"answer_tokens": table["prompt_tokens"], "answer_mask": np.ones((16, 4), bool)}
    params = jax.device_get(transformer.init_params(CONFIG, jax.random.key(0)))
    for name, settings in (
        ("influence.on_correct", {"chunk": 4}),
        ("influence.on_correct", {"chunk": 4, "top_k": 3}),
        ("policy.self_certainty", {"chunk": 16}),
        ("answers.answer_logp", {}),
    ):
        scorer = config_lib.resolve("scorers", name, **settings)
        found, flops = [], []
        for mesh in (None, sharding.make_mesh({"data": 4, "fsdp": 2})):
            one = learner.Learner(CONFIG, (learner.make_term(POLICY),), optimizer, mesh=mesh)
            state = one.place(one.init(jax.tree.map(jnp.asarray, params)))
            score = jax.jit(
                lambda params, table, one=one, own=scorer: learners.score_columns(
                    (own,), {"policy": (one, params)}, table, [own.numbers_at(0)], 8
                )
            ).lower(state["params"], sharding.place_batch(table, mesh))
            compiled = score.compile()
            flops.append(hlo.count(compiled.as_text()).flops)
            found.append(compiled(state["params"], sharding.place_batch(table, mesh)))
        for a, b in zip(*map(jax.tree.leaves, found), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=name)
        assert flops[1] < 1.1 * flops[0] / 8, (name, settings, flops)


def eight_credit_over_groups_divides_its_work():
    """Groups of two blocks, gathered by an index that is data: still a share for each device."""
    c = config_lib.default()
    c.advantage = ("tree.tempo",)
    table = rows(p=32, g=4, width=64)
    rng = np.random.default_rng(1)
    table |= {
        "verdict/number": rng.integers(0, 2, (32, 4)).astype(np.float32),
        "group": rng.permutation(np.repeat(np.arange(16, dtype=np.int32), 2)),
        "train_mask": np.ones((32, 4), bool),
    }
    made = chain.build(c, group_blocks=2)
    found, flops = [], []
    for mesh in (None, sharding.make_mesh({"data": 4, "fsdp": 2})):
        placed = sharding.place_batch(table, mesh)
        credit = jax.jit(
            lambda table: made(table, {}, made.numbers(0), jax.random.key(0), jnp.int32(0))[0]
        )
        compiled = credit.lower(placed).compile()
        flops.append(compiled.cost_analysis()["flops"])  # hlo.count is of products of matrices
        found.append(compiled(placed)["advantages"])
    assert np.abs(found[0]).max() > 0.5
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-5)
    assert flops[1] < 0.4 * flops[0], flops


def eight_a_run_is_the_same_on_every_mesh():
    """`rlpt.train` on the toy model: the same tokens, and the same parameters up to rounding."""
    runs = {}
    layouts = {(8, 1, 1): "as_trained", (1, 4, 2): "gathered", (2, 2, 2): "replicated"}
    for shape in (None, *layouts):
        c = config_lib.default()
        c.model.source = "toy:vocab=24,layers=1,width=32,heads=4,kv_heads=2,ff=32"
        c.steps, c.seed, c.debug, c.export = 2, 3, True, False
        c.verifiers = (dict(fn="tests.toy:starts_with_digit", name="digit"),)
        c.rollout.prompts, c.rollout.group, c.learner.micro_blocks = 16, 4, 8
        c.sampling.prompt_buckets, c.sampling.completion_buckets = (64,), (4,)
        c.optim.name, c.optim.lr = "sgd", 0.1
        c.eval.prompts = c.eval.samples = 0
        c.log.tensorboard = c.log.console = False
        if shape:
            c.mesh.data, c.mesh.fsdp, c.mesh.model = shape
        c.mesh.rollout = layouts.get(shape, "as_trained")
        make_mesh = blocks.make_mesh
        blocks.make_mesh = make_mesh if shape else lambda config: None
        try:
            with tempfile.TemporaryDirectory() as work:
                train_lib.train(c, work)
                rollouts = metrics_lib.read_rollouts(f"{work}/rollouts.jsonl")
                params = policy.load_policy(work).params
        finally:
            blocks.make_mesh = make_mesh
        runs[shape] = [r["tokens"] for r in rollouts], jax.device_get(params)
    tokens, params = runs.pop(None)
    for shape, (other, moved) in runs.items():
        assert other == tokens, f"other completions on {shape}"
        for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=str(shape))


def eight_rounded_products_are_those_of_one_device():
    """Where the head were not rounded, its gradients would be 1e-3 apart."""
    model = dataclasses.replace(CONFIG, matmul="bfloat16")
    rng = np.random.default_rng(0)
    table = dict(
        prompt_tokens=rng.integers(0, CONFIG.vocab_size, (8, 4)),
        prompt_mask=np.ones((8, 4), bool),
        completion_tokens=rng.integers(0, CONFIG.vocab_size, (8, 2, 5)),
        completion_mask=np.ones((8, 2, 5), bool),
        temperature=np.ones((8, 2), np.float32),
    )
    weights = rng.normal(size=(8, 2, 5)).astype(np.float32)

    def total(params, table):
        out = scoring.outputs(model, params, table)
        return jnp.sum(out["logp"] * weights)

    params, mesh = data()[0], sharding.make_mesh(SIZES)
    one = jax.jit(jax.grad(total))(params, table)
    placed = jax.device_put(table, sharding.batch_sharding(mesh))
    many = jax.jit(jax.grad(total))(sharding.place(params, mesh), placed)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(many), strict=True
    ):
        gap = np.linalg.norm(np.asarray(a) - b) / np.linalg.norm(a)
        assert gap < 3e-4, f"{path}: {gap}"


def eight_blocks_that_do_not_divide_are_refused():
    c = config_lib.default()
    for prompts, micro, message in (
        (12, 0, "rollout.prompts x rollout.group_blocks is 12 blocks, which do not divide over"),
        (16, 4, "learner.micro_blocks is 4 blocks, which do not divide over the 8 parts"),
    ):
        c.rollout.prompts, c.learner.micro_blocks = prompts, micro
        with pytest.raises(ValueError, match=message):
            blocks.make_mesh(c)
    c.mesh.data = 3
    with pytest.raises(ValueError, match="product is the number of devices, 8"):
        blocks.make_mesh(c)


EIGHT = [name for name in list(globals()) if name.startswith("eight_")]


@pytest.fixture(scope="module")
def outcomes():
    """{function: traceback or ""} of all functions above, run with eight devices."""
    env = os.environ | {
        "XLA_FLAGS": devices(8),
        "JAX_PLATFORMS": "cpu",
    }
    root = pathlib.Path(__file__).parents[1]
    env["PYTHONPATH"] = os.pathsep.join([str(root), env.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, __file__],
        env=env,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", EIGHT)
def test_on_eight_devices(outcomes, name):
    assert outcomes[name] == "", outcomes[name]


# ---- on one


def test_every_parameter_of_every_model_has_a_rule():
    mesh = sharding.make_mesh({})
    shapes = jax.eval_shape(lambda: transformer.init_params(CONFIG, jax.random.key(0)))
    specs = sharding.shardings(shapes, mesh)
    assert jax.tree.structure(specs) == jax.tree.structure(shapes)
    assert specs["layers"]["down"].spec == Spec(None, "model", "fsdp")


def test_an_uncovered_parameter_is_named():
    with pytest.raises(
        ValueError, match=re.escape("no rule covers 'layers/router' of shape (2, 4)")
    ):
        sharding.place({"layers": {"router": jnp.zeros((2, 4))}}, sharding.make_mesh({}))


def test_the_first_rule_wins_and_scalars_need_none():
    mesh = sharding.make_mesh({})
    rules = [("a", Spec("data")), (".*", Spec())]
    specs = sharding.shardings(
        {"a": jnp.zeros(2), "b": jnp.zeros(2), "count": jnp.zeros(())}, mesh, rules
    )
    assert [specs[k].spec for k in ("a", "b", "count")] == [Spec("data"), Spec(), Spec()]
    assert sharding.shardings({"count": jnp.zeros(())}, mesh, [])["count"].spec == Spec()


def test_a_rule_with_too_many_axes():
    with pytest.raises(ValueError, match="'a' of shape .2,. has fewer axes than its rule"):
        sharding.place({"a": jnp.zeros(2)}, sharding.make_mesh({}), [("a", Spec(None, "model"))])


def test_an_unknown_mesh_axis():
    with pytest.raises(ValueError, match="got the axis 'tensor', expected among data, fsdp, model"):
        sharding.make_mesh({"tensor": 2})


def main():
    results = {}
    for name in EIGHT:
        try:
            globals()[name]()
            results[name] = ""
        except Exception:
            results[name] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
