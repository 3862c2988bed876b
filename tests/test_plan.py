"""`rlpt plan`: what is counted, what is held, and that a TPU's compiler takes the programs."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import pytest

import rlpt.config
from benchmarks import plans
from rlpt import build, learners, sharding
from rlpt.models.load import load
from rlpt.plan import chips, hlo, programs, report, shapes

ROOT = pathlib.Path(__file__).parents[1]
TOY = "toy:vocab=24,layers=3,width=32,heads=4,kv_heads=2,ff=64"


def small():
    """A run small enough to compile in seconds, with a reference to be scored."""
    c = rlpt.config.default()
    c.model.source, c.model.remat, c.model.logits_chunk = TOY, "full", 16 * 24
    c.rollout.prompts, c.rollout.group, c.learner.micro_blocks = 4, 2, 2
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (16,), (9,)
    c.loss = (*c.loss, dict(fn="penalties.k3", coef=0.1))
    return c


@pytest.fixture(scope="module")
def planned():
    return report.plan(small(), "h200:1", {"data": 1}, lambda line: None)


# ---- counts


def test_loops_count_as_often_as_they_run():
    def program(x, w, n):
        x, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=5)
        return jax.lax.fori_loop(0, n, lambda i, x: jnp.tanh(x @ w), x)

    shape = jax.ShapeDtypeStruct((4, 8), jnp.float32), jax.ShapeDtypeStruct((8, 8), jnp.float32)
    text = jax.jit(program).lower(*shape, jax.ShapeDtypeStruct((), jnp.int32)).compile().as_text()
    one = 2 * 4 * 8 * 8
    assert hlo.count(text, dynamic=7).flops == (5 + 7) * one, "five by the scan, seven as told"


HLO = """HloModule m
%body (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %p = (s32[], f32[8,16]) parameter(0)
  %x = f32[8,16]{1,0} get-tuple-element(%p), index=1
  %g = f32[32,16]{1,0} all-gather(%x), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %w = f32[16,16]{1,0} constant({...})
  %c = f32[8,16]{1,0} convolution(%x, %w), dim_labels=bf_io->bf
}
%cond (p: (s32[], f32[8,16])) -> pred[] {
  %p = (s32[], f32[8,16]) parameter(0)
  %n = s32[] constant(3)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}
ENTRY %main (a: f32[8,16]) -> f32[8,16] {
  %a = f32[8,16]{1,0} parameter(0)
  %t = (s32[], f32[8,16]) tuple(%a, %a)
  %l = (s32[], f32[8,16]) while(%t), condition=%cond, body=%body
  %r = bf16[10]{0} all-reduce(%a), channel_id=2, replica_groups={{0,1},{2,3}}, to_apply=%cond
  %s = f32[2,16]{1,0} reduce-scatter(%a), channel_id=3, replica_groups=mesh['a'=2,'b'=4] {'b'}
}
"""


def test_collectives_count_what_a_ring_sends():
    found = hlo.count(HLO)
    gathered = 32 * 16 * 4 * 3 / 4
    assert found.wire["all-gather"] == 3 * gathered, "four devices, three runs"
    assert found.wire["all-reduce"] == 2 * 20 / 2, "there and back, in pairs"
    assert found.wire["reduce-scatter"] == 2 * 16 * 4 * 3
    assert found.flops == 3 * 2 * 8 * 16 * 16
    with pytest.raises(ValueError, match=r"expected compiled.as_text"):
        hlo.count("")


def test_flops_of_the_update_agree_with_the_formula(planned):
    flops = planned["update_flops"]
    assert flops["compiled"] == pytest.approx(flops["formula"], rel=0.1), (
        "matmuls of the compiled program against two a weight and token"
    )


# ---- bytes


def test_bytes_are_those_of_the_run_itself(planned):
    """What the trainer's own arrays compile to, made as `rlpt train` makes them."""
    config = small()
    loaded = load(config.model.source)
    run = learners.Learners(
        config, build.make_learners(config, loaded.config), (), loaded, {"rewards"},
        jax.random.key(0),
    )  # fmt: skip
    abstract = programs.Abstract(config, loaded.config, sharding.make_mesh({}, jax.devices()[:1]))
    table = {
        k: jnp.zeros(v.shape, v.dtype)
        for k, v in abstract.batch.items()
        if "/" not in k and k != "answer_id"
    }
    table["advantages"] = jnp.zeros(table["sampler_logp"].shape)
    policy = run.policy
    step = policy.step.lower(
        run.states["policy"], None, table, policy.numbers(0), jnp.int32(2)
    ).compile()
    m = step.memory_analysis()
    real = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
    real += m.temp_size_in_bytes + m.generated_code_size_in_bytes
    update = planned["programs"]["update"]["bytes"]
    assert update["peak"] - update["resident"] == pytest.approx(real, rel=0.15)
    size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
    assert planned["bytes"]["params"] == size(run.states["policy"]["params"])
    assert planned["bytes"]["optimizer"] == size(run.states["policy"]["opt"])
    assert planned["bytes"]["reference"] == size(run.reference) == update["resident"]


def test_rounded_kernels_are_held_as_the_sampler_holds_them():
    config, exact = small(), small()
    config.model.matmul_precision = "bfloat16"
    loaded, mesh = load(config.model.source), sharding.make_mesh({}, jax.devices()[:1])
    runs = [programs.Abstract(c, loaded.config, mesh) for c in (config, exact)]
    own = learners.sampler_weights(config, loaded.params, mesh)
    dtypes = lambda tree: jax.tree.map(lambda x: x.dtype, tree)  # noqa: E731
    assert dtypes(runs[0].rollout_params) == dtypes(own) != dtypes(runs[1].rollout_params)
    assert runs[1].shares_rollout_params and not runs[0].shares_rollout_params
    held = {"cache": 0, "params": 0, "optimizer": 0}
    rounded, whole = (report._moved(run, "prefill", held) for run in runs)
    assert 0.5 < rounded / whole < 0.95


def test_what_does_not_fit_says_which_setting_would(monkeypatch):
    config = small()
    config.learner.micro_blocks = 4
    tiny = chips.Chip("tiny", 1e5, 1e9, 1e9, 1e9, "")
    monkeypatch.setitem(chips.CHIPS, "h200", tiny)
    found = report.plan(config, "h200:1", {"data": 1}, lambda line: None)
    assert not found["fits"] and found["bytes"]["peak"] > tiny.memory
    text = report.table(found)
    assert "DOES NOT FIT" in text and "learner.micro_blocks=2: saves about" in text, text


def test_the_plan_prints_what_a_step_costs(planned):
    text = report.table(planned)
    for word in ("prefill", "decode", "score", "credit", "update", "fits", "not measured"):
        assert word in text, text
    json.dumps(planned)
    times = {name: p["times"] for name, p in planned["programs"].items()}
    assert times == {"prefill": 1, "decode": 1, "score": 1, "credit": 1, "update": 1}
    total = sum(p["seconds"]["serial"] for p in planned["programs"].values())
    assert planned["step_seconds"]["serial"] == pytest.approx(total)


def test_the_page_of_plans_says_what_is_there_and_what_is_not(planned):
    process = {"process": {"cpu_s": 7, "rss_mb": 2048, "wall_s": 9}}
    plan = {**planned, **process}
    text = plans.page({plans.WEAK: plan, f"{plans.WEAK} on 64": plan, f"{plans.WEAK} on 256": plan})
    assert "| 256 | " in text and "| 1.00 | 1.00 |" in text, "the same plan scales perfectly"
    assert "7 CPU s, 2.0 GiB" in text and "Not planned yet: qwen3_8b_v5p_64, " in text, text
    topologies = {flags[3] for flags in plans.jobs().values()}
    assert all(chips.find(t)[2] in (8, 16, 64, 256) for t in topologies), topologies


def test_seconds_are_a_roofline():
    chip = chips.Chip("x", 1.0, 100.0, 1000.0, 10.0, "")
    s = chips.seconds(chip, flops=600.0, moved=160.0, wire=24.0)
    assert (s["compute"], s["memory"], s["links"]) == pytest.approx((1.0, 2.0, 3.0))
    assert (s["overlapped"], s["serial"]) == pytest.approx((3.0, 5.0))


@pytest.mark.parametrize("topology", ("v9:2x2", "v5p", "v5p:2xtwo", "h200:0"))
def test_wrong_topologies_are_named(topology):
    with pytest.raises(ValueError, match=f"got '{topology}', expected CHIP:SHAPE"):
        chips.find(topology)


def test_bytes_beyond_32_bits_are_counted():
    whole = sharding.everywhere(sharding.make_mesh({"data": 1}, jax.devices()[:1]))
    cache = jax.ShapeDtypeStruct((2**20, 2**12), jnp.bfloat16, sharding=whole)
    assert programs.local_bytes([cache]) == 2**33


class _Chip:
    """A device of a 4x4 torus, as far as the order of a mesh asks."""

    platform, device_kind, process_index, core_on_chip = "tpu", "TPU v6 lite", 0, 0

    def __init__(self, number):
        self.id, self.coords = number, (number % 4, number // 4, 0)


def test_a_mesh_may_cut_an_axis_of_the_torus():
    mesh = sharding.make_mesh({"fsdp": 8, "model": 2}, [_Chip(i) for i in range(16)])
    assert mesh.shape == {"data": 1, "fsdp": 8, "model": 2}
    for first, second in mesh.devices[0]:
        assert sum(abs(a - b) for a, b in zip(first.coords, second.coords, strict=True)) == 1


def test_shapes_of_published_models(tmp_path):
    billions = {"Qwen3-1.7B": 1.72, "Qwen3-8B": 8.19, "Llama-3-70B": 70.55}
    for name, expected in billions.items():
        tree = programs.transformer.param_shapes(shapes.find(f"/data/{name}"))
        leaves = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, tuple))
        count = sum(jnp.prod(jnp.array(s, jnp.float32)) for s in leaves)
        assert float(count) / 1e9 == pytest.approx(expected, abs=0.006), name
    raw = shapes.PUBLISHED["Qwen3-8B"] | {"num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert shapes.find(str(tmp_path)).num_layers == 2, "a directory's own config.json"
    with pytest.raises(FileNotFoundError, match="known without one are Qwen3"):
        shapes.find("/data/unknown")


# ---- the compiler of a TPU


CONFIG = f"""
import rlpt.config

def get_config(arg=None):
    c = rlpt.config.default()
    c.model.source, c.model.dtype, c.sampling.dtype = "{TOY}", "bfloat16", "bfloat16"
    c.model.remat = "full"
    c.rollout.prompts, c.rollout.group, c.learner.micro_blocks = 4, 2, 2
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (16,), (9,)
    return c
"""


def test_a_tpu_compiles_rollout_and_update(tmp_path):
    """In a process of its own: libtpu stays in the one that loads it."""
    pytest.importorskip("libtpu")
    (tmp_path / "config.py").write_text(textwrap.dedent(CONFIG))
    command = [sys.executable, "-m", "rlpt.cli", "plan", "--json", "--topology", "v5e:2x2"]
    command += ["--config", str(tmp_path / "config.py"), "--mesh", "fsdp=2,model=2"]
    done = subprocess.run(
        command, text=True, capture_output=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": "."}
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["fits"] and found["devices"] == 4, found["bytes"]
    assert "libtpu" in found["compiler"], found["compiler"]
    compiled = found["programs"]
    assert set(compiled) == {"prefill", "decode", "credit", "update"}
    assert compiled["update"]["collective_bytes"], "weights cut over devices have to meet"
    flops = found["update_flops"]
    # The kernel pads a toy's heads and rows to 128, so that there is no upper bound here.
    assert flops["compiled"] > 0.5 * flops["formula"], flops
    assert 0 < found["bytes"]["params"] < 4 * found["parameters"] / 3, "cut over four devices"


@pytest.mark.parametrize(("name", "value"), [("weights", "int8"), ("lanes", 2)])
def test_what_is_not_planned_is_refused(name, value):
    config = small()
    config.sampling[name] = value
    with pytest.raises(
        rlpt.config.ConfigError, match=f"config.sampling.{name}={value!r}, expected"
    ):
        programs.Abstract(config, load(TOY).config, None)
