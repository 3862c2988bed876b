"""The benchmark of a step: the real command on a tiny shape, beside a peer, and what it refuses."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import compare, gpu, lanes, overlap, scaling, step
from rlpt import build
from rlpt.models import transformer

ROOT = pathlib.Path(__file__).parents[1]
SHAPE = {
    "layers": 1, "d-model": 8, "d-ff": 16, "heads": 2, "kv-heads": 1, "vocab": 32, "prompts": 2,
    "group": 2, "prompt-len": 5, "completion-len": 3, "steps": 3, "warmup": 1,
}  # fmt: skip
PARAMS = 2 * 32 * 8 + 8 + (2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 16 + 2 * 8)  # embed, head, norm; layer
TINY = [x for name, n in SHAPE.items() for x in (f"--{name}", str(n))]
PEER = f"""
import json, sys
shape = dict(zip(sys.argv[1::2], sys.argv[2::2]))
print("a line of the peer's own")
print(json.dumps(dict(params={PARAMS}, sec_per_step=1e6, sec_per_step_min=1e6, path="secret",
                      max_rss_mb=int(shape["--prompt-len"]),
                      others=any("precision" in x for x in sys.argv))))
"""


def test_a_step_beside_a_peer(tmp_path):
    (tmp_path / "peer.py").write_text(PEER)
    command = [sys.executable, str(ROOT / "benchmarks/compare.py"), "--rounds", "1"]
    command += ["--peer-python", sys.executable, "--peer-script", str(tmp_path / "peer.py")]
    done = subprocess.run(
        [
            *command,
            "--ours=--precision=bfloat16",
            "--json",
            str(tmp_path / "out.json"),
            "--",
            *TINY,
        ],
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    ours, peer = result["runs"]["ours"][0], result["runs"]["peer"][0]
    assert peer["max_rss_mb"] == 5, "the peer got the shape's flags"
    assert ours["precision"] == "bfloat16" and not peer["others"], "a flag for our side alone"
    assert "path" not in peer, "where the peer is installed is written down"
    assert ours["params"] == PARAMS
    assert ours["rows"] == 4 and ours["tokens_sampled_last"] == 12, ours
    assert len(ours["all_steps"]) == 3 and ours["steps_timed"] == 2, ours
    stages = ("rollout_s", "reward_s", "credit_s", "update_s")
    assert all(ours[k] > 0 for k in stages), ours
    assert ours["rollout_s_min"] + ours["update_s_min"] <= ours["sec_per_step_min"], ours
    assert ours["sec_per_step_min"] <= ours["sec_per_step"] < ours["first_step_s"], ours
    rate = ours["sampled_tok_per_s"] * ours["rollout_s"]
    assert abs(rate - 12) < 0.2 * 12, f"{rate} tokens in a rollout of 12 (times are rounded)"
    assert ours["worker_rss_mb"] > 10 and ours["import_rss_mb"] <= ours["max_rss_mb"], ours
    ratio = result["summary"]["sec_per_step"]["ratio"]
    assert ratio == pytest.approx(1e6 / ours["sec_per_step"]), result["summary"]
    assert "rollout_s" not in result["summary"], "the peer did not say it"
    assert f"{ratio:.2f} |" in done.stdout, done.stdout


def test_a_peer_needs_a_program_of_its_own(capsys):
    for given, missing in (
        (["--peer-python", "python"], "script"),
        (["--peer-script", "x"], "python"),
    ):
        with pytest.raises(SystemExit):
            compare.parse(["--peer", "trl", *given])
        assert f"--peer trl: got no --peer-{missing}" in capsys.readouterr().err
    assert compare.parse(["--peer", "rlpt"]).peer_script == str(ROOT / "benchmarks/step.py")


def test_reference_and_further_updates_are_settings_of_the_run():
    config = step.config_of(step.parse([*TINY, "--beta", "0.1", "--mu", "2"]))
    build.check(config)
    learner = build.make_learner(config, step.random_model(step.parse(TINY)).config)
    assert "ref_logp" in learner.reads() and learner.needs_old_logp
    assert not learner.skip_zero_advantage, "groups would be skipped"
    plain = build.make_learner(step.config_of(step.parse(TINY)), learner.model)
    assert "ref_logp" not in plain.reads() and not plain.needs_old_logp, "work that is not needed"


def test_prompts_have_exactly_the_length_and_no_token_ends_a_row():
    a = step.parse(TINY)
    tokenizer = step.random_model(a).tokenizer
    prompts = step.random_prompts(a)
    assert len(prompts) == 2 * 3
    assert {len(tokenizer.chat(list(p.messages))) for p in prompts} == {5}
    assert min(tokenizer.eos_ids) >= a.vocab, "the model can end a row"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "2", "--warmup", "2"], "expected more steps than warm-up"),
        (["--heads", "3", "--kv-heads", "2"], "a multiple of kv-heads"),
    ],
)
def test_shapes_that_cannot_work_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        step.parse([*TINY, *flags])
    assert message in capsys.readouterr().err


def test_less_work_than_asked_for_is_an_error():
    a = step.parse(TINY)
    table = {"loss_mask": np.ones((2, 2, 3), bool), "row_mask": np.ones((2, 2), bool)}
    numbers = {"policy/live_blocks": 2, "policy/skipped": 0.0}
    step._check(a, table, numbers)
    for wrong in (
        ({**table, "row_mask": np.array([[True, True], [True, False]])}, numbers),
        (table, {**numbers, "policy/live_blocks": 1}),
        (table, {**numbers, "policy/skipped": 1.0}),
    ):
        with pytest.raises(RuntimeError, match="expected 12 of 2"):
            step._check(a, *wrong)


TRL = {
    "config": {"num_iterations": 2},
    "versions": {"trl": "1.16.0"},
    "params": 7,
    "generated_tokens_per_step": 100,
    "seconds": {
        "step_with_generation": 5.0,
        "step_min": 4.0,
        "update": 3.0,
        "rollout_total": 1.5,
        "generate": 1.25,
    },
    "max_rss_mib": 9.0,
}


def test_trl_speaks_its_own_words():
    flags = compare.peer_flags("trl", ["--group", "8", "--mu", "2", "--prompt-len", "512"], 2)
    renamed = "--num-generations 8 --num-iterations 2 --prompt-len 512 --tie 0 --threads 2"
    assert " ".join(flags) == renamed
    assert compare.peer_flags("tunix", ["--group", "8"], 2) == ["--group", "8"]
    report = compare.read_report("trl", "progress\n" + json.dumps(TRL, indent=1) + "\n")
    assert report["sec_per_step"] == 5 + 3, "a batch of two updates"
    assert report["update_s"] == 6 and report["rollout_s"] == 1.5
    assert report["sampled_tok_per_s"] == 80 and report["max_rss_mb"] == 9
    with pytest.raises(ValueError, match="expected a JSON object at the end"):
        compare.read_report("tunix", "Traceback\n")


def test_ratios_are_above_one_where_less_is_taken():
    ours = {"params": 7, "sec_per_step": 1.0, "sec_per_step_min": 0.5, "sampled_tok_per_s": 80.0}
    peer = {"params": 7, "sec_per_step": 3.0, "sec_per_step_min": 2.0, "sampled_tok_per_s": 20.0}
    slow = {**ours, "sec_per_step": 9.0, "sec_per_step_min": 9.0}
    summary = compare.summarise({"ours": [ours, ours, slow], "peer": [peer] * 3})
    assert summary["sec_per_step"]["ratio"] == 3, "the median of the rounds"
    assert summary["sec_per_step_min"]["ratio"] == 4, "the least of the rounds"
    assert summary["sampled_tok_per_s"]["ratio"] == 4
    assert "| s a step | 1.000 | 3.000 | 3.00 |" in compare.table("tunix", summary)
    with pytest.raises(ValueError, match="differ in size"):
        compare.summarise({"ours": [ours], "peer": [{**peer, "params": 8}]})


def test_scaling_varies_one_flag(tmp_path):
    shapes = {}
    for axis, (name, values) in scaling.AXES.items():
        for value in values:
            a = step.parse(scaling.flags(axis, value))
            assert getattr(a, name.replace("-", "_")) == value
            keys = (k.replace("-", "_") for k in scaling.BASE)
            shapes[axis, value] = [getattr(a, k) for k in keys]
    for (axis, value), shape in shapes.items():
        base = (scaling.BASE | scaling.CHANGED.get(axis, {})).values()
        differ = sum(x != y for x, y in zip(shape, base, strict=True))
        assert differ <= 1, f"{axis}={value}: {shape}"
    point = {"rollout_s_min": 0.25, "update_s_min": 0.5, "max_rss_mb": 900, "beyond_mb": 77}
    points = {"L": [{"value": n, **point} for n in (32, 128)], "V": [{"value": 64, **point}]}
    assert "| 128 | 0.250 | 0.500 | 900 | 77 |" in scaling.table("L", points["L"])
    scaling.plot(points, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_lanes_beside_waiting_for_the_longest():
    flags = {
        "layers": 1, "d-model": 64, "d-ff": 64, "heads": 2, "vocab": 40, "prompts": 2, "group": 8,
        "lanes": 2, "prompt-len": 3, "width": 32, "median": 6, "rounds": 1,
    }  # fmt: skip
    a = lanes.parse([x for name, n in flags.items() for x in (f"--{name}", str(n))])
    law = np.exp(lanes.law_of_lengths(a))
    assert law.sum() == pytest.approx(1) and law[:6].sum() == pytest.approx(0.5, abs=0.15)
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        result = lanes.measure(a)
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    mean = law @ np.arange(1, 33)
    assert abs(result["lengths"]["mean"] - mean) < 0.5 * mean, (result["lengths"], mean)
    assert result["lengths"]["max"] > 2 * result["lengths"]["median"], "no long tail"
    names = {"wait", "batches", "lanes", "slots"}
    for key in ("wall", "cpu", "wall_min", "cpu_min", "speedup"):
        assert set(result[key]) == names and min(result[key].values()) > 0, result[key]
    assert result["speedup"]["lanes"] == 1
    assert set(result["forms"]) == {"float32", "bfloat16", "int8"}
    tokens = {"wait": np.zeros((1, 2, 3)), "lanes": np.zeros((1, 2, 3))}
    lanes._check(tokens)
    tokens["lanes"][0, 1, 2] = 1
    with pytest.raises(RuntimeError, match="lanes: 1 rows differ"):
        lanes._check(tokens)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--vocab", "100", "--width", "100"], "a vocabulary that counts"),
        (["--group", "6", "--lanes", "4"], "lanes that divide the group"),
    ],
)
def test_lanes_that_cannot_work_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        lanes.parse(flags)
    assert message in " ".join(capsys.readouterr().err.split())


def test_one_accelerator_against_its_own_limits(monkeypatch):
    monkeypatch.setattr(gpu, "grpo", lambda small: {"steps": 2, "small": small})  # see test_train
    out = gpu.measure(gpu.parse(["--small", "--repeats", "1"]))
    json.dumps(out)
    decode, update = out["decode"], out["update"]
    assert out["grpo"]["small"] and out["model"] == "tiny" and out["device"] == "cpu", out
    assert decode["rows"] == 4 and decode["s_per_token"] > 0, decode
    assert decode["share_of_bandwidth"] == decode["bound_s"] / decode["s_per_token"]
    weights = sum(4 * np.prod(s) for s in jax.tree.leaves(
        transformer.param_shapes(gpu.TINY), is_leaf=lambda x: isinstance(x, tuple)
    ))  # fmt: skip
    row = 2 * 4 * gpu.TINY.num_layers * gpu.TINY.num_kv_heads * gpu.TINY.head_dim  # of the cache
    prompt = 2 * 8 * (row + 4 + 1)  # with positions and masks
    read = weights + prompt + 4 * 9 * row / 2
    assert decode["bound_s"] * out["bandwidth"] == pytest.approx(read), "weights and cache"
    assert update["blocks"] == 2 and update["flops"] > 0, update
    assert update["share_of_matmul_rate"] == update["bound_s"] / update["s"]


def test_overlap_runs_each_verifier_with_and_without(tmp_path, capsys):
    flags = ["--steps", "4", "--warmup", "1", "--rounds", "1", "--json", str(tmp_path / "o.json")]
    found = overlap.main([*TINY, *flags])
    assert json.loads((tmp_path / "o.json").read_text()) == found
    assert set(found["summary"]) == {
        f"{verifier}, overlap={n}" for verifier in ("sleeps", "computes") for n in (0, 1)
    }
    for row in found["summary"].values():
        assert row["step_s"] >= row["rollout_and_wait_s"] > 0
    assert "computes, overlap=1" in capsys.readouterr().out
