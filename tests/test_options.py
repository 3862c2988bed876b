"""Options of the trainer: each has a test that fails when it is ignored."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlpt
from rlpt import build, learner, learners
from rlpt import config as config_lib
from rlpt.models.load import load
from rlpt.models.transformer import ModelConfig
from tests.test_train import lines, params_of, same, toy


def train(tmp_path, name="run", **changes):
    changes = {"export": False, "log__tensorboard": False, "steps": 2, **changes}
    return rlpt.train(toy(**changes), tmp_path / name)


def steps(tmp_path, name="run"):
    return [m for m in lines(tmp_path / name / "metrics.jsonl") if "loss/total" in m]


def test_python_api_without_a_workdir():
    result = rlpt.train(toy(steps=1, export=False))
    assert result.summary["steps"] == 1 and (result.workdir / "metrics.jsonl").exists()


def test_mixture_weights_labels_verifiers_and_evaluation(tmp_path):
    result = train(
        tmp_path,
        steps=8,
        rollout__prompts=8,
        tasks=(
            dict(fn="arithmetic.sums", weight=3.0, label="add", verifier="digit"),
            dict(fn="arithmetic.products", weight=1.0, label="times", verifier="all"),
        ),
        verifiers=(
            dict(fn="tests.toy:starts_with_digit", name="digit"),
            dict(fn="tests.toy:always", name="all"),
        ),
    )
    after = result.summary["eval_after"]
    assert after["tasks"]["times"]["pass@1"] == 1.0 and after["tasks"]["add"]["pass@1"] < 1
    rows = lines(tmp_path / "run" / "rollouts.jsonl")
    adds = [r for r in rows if r["id"].startswith("sums")]
    assert 0.55 < len(adds) / len(rows) < 0.92  # 3 of 4 expected, 64 draws
    assert all(set(r["verdicts"]) == {"digit"} for r in adds)
    times = [r for r in rows if r not in adds]
    assert all(r["reward"] == 1.0 and r["row_mask"] for r in times)
    last = [m for m in lines(tmp_path / "run" / "metrics.jsonl") if "eval/times/pass@1" in m]
    assert last


def test_prompts_that_ask_for_an_unknown_verifier(tmp_path):
    with pytest.raises(ValueError, match="ask for the verifier 'maths'; config.verifiers has"):
        train(tmp_path, tasks=(dict(fn="arithmetic.sums", verifier="maths"),))


def undefined(rewards):
    return rewards * np.nan


def test_a_reward_that_is_nan_is_named(tmp_path):
    nan = (dict(fn="tests.test_options:undefined"),)
    with pytest.raises(
        FloatingPointError, match="rows of the last batch have an advantage that is"
    ):
        train(tmp_path, "nan", shaping=nan, optim__max_skipped=2, steps=4)
    last = steps(tmp_path, "nan")[-1]
    assert last["policy/skipped"] == 1 and last["advantage/not_finite"] > 0


def test_curriculum_passes_over_what_always_succeeds(tmp_path):
    kw = dict(
        steps=12,
        rollout__prompts=8,
        tasks=(
            dict(fn="arithmetic.sums", high=2, label="add", verifier="digit"),
            dict(fn="arithmetic.products", high=2, label="times", verifier="all"),
        ),
        verifiers=(
            dict(fn="tests.toy:starts_with_digit", name="digit"),
            dict(fn="tests.toy:always", name="all"),
        ),
        optim__lr=1e-6,
    )
    train(tmp_path, "plain", **kw)
    train(tmp_path, "curriculum", **kw, curriculum__enabled=True)
    share = {}
    for name in ("plain", "curriculum"):
        ids = [r["id"] for r in lines(tmp_path / name / "rollouts.jsonl") if r["step"] > 8]
        share[name] = np.mean([i.startswith("products") for i in ids])
    assert share["curriculum"] < share["plain"] - 0.1


def test_missing_verdicts_are_masked_or_count(tmp_path):
    verifiers = (dict(fn="number.number", name="number"),)  # most toy replies hold no number
    train(tmp_path, "zero", verifiers=verifiers)
    masked = config_lib.default().missing.to_dict() | {"unparsable": "mask"}
    train(tmp_path, "mask", verifiers=verifiers, missing=masked)
    own = (verifiers[0] | {"missing": {"unparsable": "mask"}},)
    train(tmp_path, "own", verifiers=own)  # of this verifier only
    zero, mask, only = (steps(tmp_path, name)[0] for name in ("zero", "mask", "own"))
    assert zero["rollout/masked_rows"] == 0
    assert mask["rollout/masked_rows"] == zero["verify/number/unparsable"] > 0
    assert only["rollout/masked_rows"] == mask["rollout/masked_rows"]
    assert only["rollout/without_verdict"] == only["rollout/masked_rows"]
    train(tmp_path, "out", verifiers=verifiers, shaping=("tests.toy:without_the_first",))
    out = steps(tmp_path, "out")[0]
    assert out["rollout/masked_rows"] == 4 and out["rollout/without_verdict"] == 0
    measured = verifiers[0] | {"name": "m", "weight": 0.0, "missing": {"unparsable": "ignore"}}
    digit = dict(fn="tests.toy:starts_with_digit", name="d")
    train(tmp_path, "ignore", verifiers=(digit, measured))
    one = steps(tmp_path, "ignore")[0]
    assert one["rollout/masked_rows"] == 0 and one["verify/m/unparsable"] > 0
    assert one["policy/skipped"] == 0 and one["verdict/m"] is not None
    counts = measured | {"weight": 0.5}
    with pytest.raises(config_lib.ConfigError, match="would count the row as 0; use 'mask'"):
        train(tmp_path, "counts", verifiers=(digit, counts))
    for wrong in ("nan", "drop"):
        with pytest.raises(config_lib.ConfigError, match="expected 'mask', 'ignore' or a number"):
            train(tmp_path, "wrong", verifiers=(verifiers[0] | {"missing": {"crash": wrong}},))


def test_trl_reward_function_as_it_is(tmp_path):
    train(tmp_path, verifiers=(dict(fn="trl.reward", function="tests.toy:trl_length", name="len"),))
    for r in lines(tmp_path / "run" / "rollouts.jsonl"):
        want = min(len(r["completion"]), 8) / 8
        assert r["reward"] == pytest.approx(want) or (not r["completion"] and not r["row_mask"])


def test_replay_gives_the_recorded_update(tmp_path):
    train(tmp_path, "first", steps=3)
    options = dict(path=str(tmp_path / "first" / "rollouts.jsonl"))
    c = toy(export=False, steps=3, rollout__fn="replay.recorded")
    c.rollout.options.update(options)
    rlpt.train(c, tmp_path / "again")
    for x, y in zip(
        jax.tree.leaves(params_of(tmp_path / "first")),
        jax.tree.leaves(params_of(tmp_path / "again")),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)
    c = toy(export=False, steps=9, rollout__fn="replay.recorded")
    c.rollout.options.update(options)
    with pytest.raises(ValueError, match="has no step 4; it has steps 1 to 3"):
        rlpt.train(c, tmp_path / "more")


def test_seed_decides_the_run(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tmp_path, name, seed=seed)
    assert same(params_of(tmp_path / "a"), params_of(tmp_path / "b"))
    assert not same(params_of(tmp_path / "a"), params_of(tmp_path / "c"))


def test_rollout_log_interval_and_eval_settings(tmp_path):
    result = train(tmp_path, steps=4, log__rollouts_every=3, eval__prompts=3, eval__samples=2)
    assert {r["step"] for r in lines(tmp_path / "run" / "rollouts.jsonl")} == {1, 4}
    assert result.summary["eval_after"]["prompts"] == 3
    assert set(result.summary["eval_after"]) >= {"pass@1", "pass@2"}
    assert "pass@4" not in result.summary["eval_after"]


def test_bf16_rollout_weights_open_a_gap_that_is_logged(tmp_path):
    train(tmp_path, "f32")
    train(tmp_path, "bf16", sampling__dtype="bfloat16")
    assert steps(tmp_path, "f32")[0]["policy/sampler_gap"] < 1e-5
    assert steps(tmp_path, "bf16")[0]["policy/sampler_gap"] > 1e-4


def test_sampling_law_reaches_the_rollout(tmp_path):
    train(tmp_path, "p", sampling__top_k=1)
    rows = lines(tmp_path / "p" / "rollouts.jsonl")
    assert all(lp == 0 for r in rows for lp in r["sampler_logp"])
    train(tmp_path, "t", sampling__temperature=2.0)
    assert {r["temperature"] for r in lines(tmp_path / "t" / "rollouts.jsonl")} == {2.0}


def test_optimizer_settings_reach_the_update():
    """Two steps of the learner's own optimizer on one kernel, against the default's."""
    kernel = {"layers": {"q": jnp.linspace(-1.0, 1.0, 12).reshape(1, 3, 4)}}

    def after(**changes):
        learner = build.make_learner(toy(**changes), ModelConfig(8, 1, 8, 8, 1, 1, 8))
        params, state = kernel, learner.optimizer.init(kernel)
        for scale in (1.0, -0.3):
            grads = jax.tree.map(lambda x, scale=scale: scale * jnp.cos(x), params)
            updates, state = learner.optimizer.update(grads, state, params)
            params = jax.tree.map(jnp.add, params, updates)
        return np.asarray(params["layers"]["q"])

    plain = after()
    for changes in (
        dict(optim__max_grad_norm=1e-4, optim__eps=1e-3),
        dict(optim__weight_decay=0.5),
        dict(optim__warmup_steps=10),
        dict(optim__schedule="linear"),
        dict(optim__schedule="linear", optim__end_lr_fraction=0.5),
        dict(optim__name="lion"),
        dict(optim__name="sgd"),
        dict(optim__mu_dtype="bfloat16"),
        dict(optim__moments="factored"),
        dict(optim__b1=0.5),
        dict(optim__b2=0.5),
        dict(optim__lr=3e-2),
    ):
        assert np.abs(after(**changes) - plain).max() > 1e-6, changes


def test_checkpoints_are_kept_as_asked(tmp_path):
    train(tmp_path, steps=6, checkpoint__every=1, checkpoint__keep=2)
    kept = sorted(
        int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit()
    )
    assert kept == [5, 6]


def test_gradient_that_is_never_finite_stops_the_run(tmp_path):
    c = toy(steps=20, export=False, advantage=(dict(fn="tests.toy:greedy_advantage", scale=3e38),))
    c.verifiers = (dict(fn="tests.toy:always", name="all"),)
    c.optim.max_skipped = 3
    with pytest.raises(
        FloatingPointError, match="not finite in every update of the last 3 batches"
    ):
        rlpt.train(c, tmp_path / "run")
    skipped = [m["policy/skipped"] for m in steps(tmp_path)]
    assert skipped == [1.0, 1.0, 1.0]
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


def test_a_critic_that_is_never_finite_stops_the_run(tmp_path):
    """After its own number of batches, counted over a resumption; the policy goes well."""
    critic = dict(loss=(dict(fn="tests.toy:undefined_value"),), optim=dict(max_skipped=3))
    kw = dict(learners__critic=critic, optim__max_skipped=2, export=False)
    train(tmp_path, steps=2, **kw)
    with pytest.raises(FloatingPointError, match="gradient of 'critic' was .* last 3 batches") as e:
        train(tmp_path, steps=9, **kw)
    assert "Lower config.learners.critic.optim.lr" in str(e.value)
    assert [m["policy/skipped"] for m in steps(tmp_path)] == [0.0] * 3


def test_verifiers_that_say_nothing_stop_the_run(tmp_path):
    """A service that is gone: rows are masked, never 0, and the run does not go on for ever."""
    gone = (dict(fn="tests.toy:gone", name="service"),)
    with pytest.raises(RuntimeError, match=r"no row of the last 2 batches, up to step 2, counted"):
        train(tmp_path, steps=9, verifiers=gone, max_silent=2, checkpoint__every=1)
    for m in steps(tmp_path):
        assert m["rollout/masked_rows"] == m["verify/service/crash"] == 16
    back = (dict(fn="tests.toy:always", name="service"),)
    changed = {"verifiers": back, "checkpoint__allow": ("config",)}
    train(tmp_path, steps=9, max_silent=2, checkpoint__every=1, **changed)
    rows = {m["step"]: m["rollout/masked_rows"] for m in steps(tmp_path)}
    assert sorted(rows) == list(range(1, 10)), "a step is lost or twice"
    assert all(masked == 0 for step, masked in rows.items() if step > 2), rows


def test_summary_names_the_run(tmp_path):
    train(tmp_path)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {"config", "tokenizer", "model", "code"} == set(summary["identity"])
    assert summary["seconds"]["all"] >= summary["seconds"]["train_and_eval"] > 0


def test_settings_follow_their_schedules(tmp_path):
    ramp = dict(schedule="linear", init=1.0, end=3.0, steps=2)
    train(
        tmp_path,
        steps=3,
        verifiers=(dict(fn="tests.toy:always", name="all"),),
        advantage=(dict(fn="tests.toy:greedy_advantage", scale=ramp),),
    )
    assert [m["advantage/abs_max"] for m in steps(tmp_path)] == [1.0, 2.0, 3.0]
    clip = learner.make_term(dict(surrogate=dict(fn="surrogates.ppo_clip", high=ramp)))
    assert clip.numbers(1)["1"]["high"] == 2.0


def test_every_method_and_step_has_draws_of_its_own(tmp_path):
    coins = []
    for seed in (0, 1):
        shaping = ("tests.toy:heads", "tests.toy:tails")
        train(tmp_path, str(seed), seed=seed, shaping=shaping, steps=3)
        coins += [m[k] for m in steps(tmp_path, str(seed)) for k in ("heads", "tails")]
    assert len(coins) == len(set(coins)) == 12


def test_each_step_and_epoch_shuffles_anew(tmp_path, monkeypatch):
    seen, real = [], np.random.default_rng

    def noted(*args):
        if args and isinstance(args[0], list):
            seen.append(tuple(args[0]))
        return real(*args)

    monkeypatch.setattr(np.random, "default_rng", noted)
    train(tmp_path, learner__epochs=2, learner__minibatches=2)
    assert len(seen) == len(set(seen)) == 4


@pytest.mark.parametrize("law", [dict(sampling__top_p=0.3), dict(sampling__min_p=0.5)])
def test_truncation_reaches_the_rollout(tmp_path, law):
    train(tmp_path, learner__skip_zero_advantage=False, **law)
    assert steps(tmp_path)[0]["policy/sampler_gap"] > 1e-3, "1e-5 under the whole law"


def test_an_update_is_as_wide_as_its_longest_live_row():
    c = toy(sampling__completion_buckets=(2, 4, 8))
    one = build.make_learner(c, load("toy").config)

    def table(lengths, dead):
        mask = np.arange(8) < np.array([lengths])[..., None]
        return {
            "completion_tokens": 7 * mask,
            "completion_mask": mask,
            "loss_mask": mask & (np.arange(8) != 1),
            "advantages": 1.0 * mask,
            "row_mask": np.array([[i not in dead for i in range(2)]]),
            "prompt_tokens": np.ones((1, 8), int),
        }

    for lengths, dead, width in (((1, 3), (), 4), ((2, 5), (), 8), ((2, 5), (1,), 2)):
        got = learners._trim(table(lengths, dead), one, c)
        assert got["completion_tokens"].shape[-1] == got["advantages"].shape[-1] == width
        assert got["prompt_tokens"].shape == (1, 8)
