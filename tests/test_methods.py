"""The table of published methods: each is a config, and needs no line of the trainer.

All of them are trained for two steps on one tiny model with the same seed, so that the first
rollout of one is that of the others.  Nearly all of the time goes into compiling some fifteen
losses: a minute and a half of a core.
"""

import functools
import json
import pathlib
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import build, chain, learner
from rlpt import config as config_lib
from rlpt import train as train_lib
from rlpt.models.load import load
from rlpt.verifiers import pool as pool_lib
from tests.test_train import lines, params_of, same

ROOT = pathlib.Path(__file__).parents[1]

# Method -> its config. What is not here has no function yet, or reads columns that the default
# rollout does not make.
METHODS = {
    "GRPO": "grpo",
    "PPO": "ppo",
    "Dr.GRPO": "dr_grpo",
    "RLOO": "rloo",
    "REINFORCE++": "reinforce_pp",
    "REINFORCE++-baseline": "reinforce_pp_baseline",
    "MaxRL": "maxrl",
    "DAPO": "dapo",
    "GSPO": "gspo",
    "GSPO-token": "gspo_token",
    "CISPO": "cispo",
    "dual clip": "dual_clip",
    "PSR": "psr",
    "NSR": "nsr",
    "W-REINFORCE": "w_reinforce",
    "PACS": "pacs",
    "TEMPO": "tempo",
    "noisy control": "noisy_control",
    "backward noise correction": "noisy_backward",
    "forward noise correction": "noisy_forward",
    "appeals": "noisy_appeals",
    "rates by stratum": "noisy_stratified",
    "flipped groups, calibrated": "climb_carves",
    "truncated importance sampling": "tis",
    "StableReinforce": "stable_reinforce",
    "entropy bonus": "entropy_bonus",
    "KL in the reward": "kl_in_reward",
    "GDPO": "gdpo",
    "G-RA": "g_ra",
    "length reward": "length_penalty",
    "PF-PPO": "pf_ppo",
    "BroRL": "brorl",
    "random rewards": "spurious_random",
    "rewards for form": "spurious_format",
    "inverted rewards": "spurious_inverted",
    "TEMPO on grown trees": "tempo_branching",
    "TreeRL": "treerl",
    "CURE": "cure",
    "MRT": "mrt",
    "RL-PLUS": "rl_plus",
    "THR": "thr",
    "VERL": "verl",
    "Intuitor": "intuitor",
    "CANON": "canon",
    "DARLING": "darling",
    "outcome-based exploration": "outcome_exploration",
    "RECAP": "recap",
    "RLCR": "rlcr",
    "TruthRL": "truthrl",
    "FAPO": "fapo",
    "adaptive KL": "adaptive_kl",
    "adaptive entropy": "adaptive_entropy",
    "overlong completions": "overlong",
    "a model as the judge": "judge",
    "a calculator as a tool": "tool_calculator",
    "IGPO": "igpo",
    "step beam search": "beam",
    "Absolute Zero": "absolute_zero",
    "Guide-GRPO": "guide",
    "Guide, TEMPO and backward correction": "guide_tempo",
    "Scaf-GRPO": "scaf",
    "RISE": "rise",
    "LaSeR": "laser",
    "Cooper": "cooper",
    "SFT": "sft",
    "DPO": "dpo",
    "SimPO": "simpo",
    "KTO": "kto",
    "iterative DPO": "iterative_dpo",
    "reward model": "reward_model",
    "SFT, DPO, RLVR": "sft_dpo_rlvr",
    "PURE": "pure",
    "PRIME": "prime",
    "rubrics, explicit": "rubrics_explicit",
    "rubrics, implicit": "rubrics_implicit",
    "BRPO": "brpo",
    "RLPR": "rlpr",
    "VeriFree": "verifree",
    "log-likelihood of the answer": "log_likelihood",
    "TTRL": "ttrl",
    "EMPO": "empo",
    "Co-Reward": "co_reward",
}
# Close to another row in what they compile: their two updates are in the slow suite.
RELATED = {
    *("reinforce_pp_baseline", "maxrl", "dual_clip", "stable_reinforce", "length_penalty"),
    *("treerl", "cure", "mrt", "verl", "canon", "darling", "outcome_exploration", "recap", "rlcr"),
    *("truthrl", "fapo", "adaptive_kl", "adaptive_entropy", "overlong", "igpo", "beam", "sft"),
    *("simpo", "kto", "iterative_dpo", "rubrics_implicit", "brpo", "log_likelihood", "empo"),
    *("co_reward", "verifree", "pf_ppo"),
}
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
MODEL = "toy:vocab=24,layers=1,width=16,heads=2,kv_heads=1,ff=16"


def module(name):
    path = ROOT / "configs" / f"{name}.py"
    out = types.ModuleType(name)
    out.__file__ = str(path)
    exec(compile(path.read_text(), str(path), "exec"), vars(out))
    return out


# ---- what every config has to pass


@pytest.mark.parametrize("name", CONFIGS)
def test_config_resolves_in_both_forms(name):
    source = module(name)
    for arg in (None, "runlocal"):
        config = source.get_config(arg)
        build.check(config)
        json.loads(config.to_json())  # strings and numbers only
    assert config.model.source.startswith("toy") and 2 <= config.steps <= 4, "runlocal is small"


@pytest.mark.parametrize("name", METHODS.values())
def test_config_names_paper_and_command(name):
    doc = module(name).__doc__
    assert re.search(r"arXiv\s\d{4}\.\d{4,5}", doc), "no paper"
    assert f"rlpt train --config configs/{name}.py --workdir " in doc


def test_the_readme_lists_every_method():
    section = (ROOT / "README.md").read_text().partition("## Methods")[2].partition("\n\nWhat")[0]
    cells = [line.split("|")[2] for line in section.splitlines() if line.startswith("|")]
    assert set(re.findall(r"\w+", " ".join(cells))) - {"---"} == {*METHODS.values()}


def test_the_trainer_names_no_method():
    """A method that needs a line there is not a config."""
    names = {"ppo", *METHODS.values()}
    for name in set(METHODS.values()):
        config = module(name).get_config()
        entries = [*config.shaping, *config.advantage, *config.loss]
        settings = re.findall(r"\b[a-z_]+\.[a-z_]\w+", repr(entries))
        names |= {s.partition(".")[2] for s in settings}
    assert {"tempo", "ppo_clip", "k3", "inject", "token_tis"} <= names
    names -= {"token_mean", "sequence", "batch"}  # plain words there
    for file in ("train.py", "learner.py", "columns.py"):
        words = set(re.findall(r"\w+", (ROOT / "rlpt" / file).read_text().lower()))
        assert not names & words, f"rlpt/{file} names {sorted(names & words)}"


# ---- two updates each


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """name -> metrics and rollout rows of its run; workers and compiled updates are shared."""
    pools, learners = {}, {}
    patch = pytest.MonkeyPatch()

    class Pool:
        """A VerifierPool that outlives a run."""

        def __init__(self, specs, **settings):
            self.key = repr((specs, settings))
            if self.key not in pools:
                pools[self.key] = pool_lib.VerifierPool(specs, **settings)

        def __enter__(self):
            return pools[self.key]

        def __exit__(self, *_):
            pass

    make_learner = build.make_learner

    def shared(config, model, mesh=None):
        key = repr((model, config.loss, config.optim.to_dict(), config.learner.to_dict()))
        if key not in learners:
            learners[key] = make_learner(config, model, mesh)
        return learners[key]

    patch.setattr(train_lib, "VerifierPool", Pool)
    patch.setattr(build, "make_learner", shared)
    patch.setattr(train_lib.curves, "learning_curve", lambda *_: None)
    jax.config.update("jax_disable_most_optimizations", True)  # compiling is most of the work

    @functools.cache
    def run(name):
        c = small(name)
        work = tmp_path_factory.mktemp(name)
        train_lib.train(c, work)
        out = types.SimpleNamespace(
            metrics=[m for m in lines(work / "metrics.jsonl") if "loss/total" in m],
            rows=lines(work / "rollouts.jsonl"),
            params=params_of(work),
        )
        out.first = [r for r in out.rows if r["step"] == 1]
        return out

    yield run
    jax.config.update("jax_disable_most_optimizations", False)
    patch.undo()
    for pool in pools.values():
        pool.close()


def small(name):
    """The runlocal form of a config on the model and sizes that all methods share."""
    c = module(name).get_config("runlocal")
    c.steps = 2
    c.model.source = MODEL
    c.rollout.prompts, c.rollout.group = 4 // c.rollout.group_blocks, 4
    c.sampling.completion_buckets = (4,)  # the prompts' are runlocal's, or what its prompts need
    c.optim.name, c.optim.lr, c.optim.warmup_steps, c.optim.weight_decay = "sgd", 0.1, 0, 0.0
    c.eval.prompts = c.pool.workers = 1
    c.eval.samples = c.eval.blocks = 4  # shapes that are compiled anyway
    c.log.tensorboard = c.log.console = c.export = False
    c.debug = True
    return c


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=method, marks=[pytest.mark.slow] if name in RELATED else [])
        for method, name in METHODS.items()
    ],
)
def test_two_updates(trained, name):
    run = trained(name)
    assert [m["step"] for m in run.metrics] == [1, 2]
    for m in run.metrics:
        bad = {k: v for k, v in m.items() if isinstance(v, float) and not np.isfinite(v)}
        assert not bad and m["policy/skipped"] == 0
        assert m["policy/live_blocks"] > 0 and m["policy/grad_norm"] > 0
    assert not same(load(MODEL).params, run.params), "parameters have not moved"


# ---- what sets a method apart


def advantages(run):
    return [np.array(r["advantages"]) for r in run.first]


def rewards(run):
    return np.array([r["reward"] for r in run.first])


def per_row(run):
    """The advantage of each row, which has to be the same on all of its tokens."""
    out = advantages(run)
    assert all((a == a[0]).all() for a in out)
    return np.array([a[0] for a in out])


def test_first_rollouts_are_the_same(trained):
    tokens = {name: [r["tokens"] for r in trained(name).first] for name in ("grpo", "nsr", "tempo")}
    assert tokens["grpo"] == tokens["nsr"] == tokens["tempo"]
    correct = rewards(trained("grpo")).reshape(4, 4).mean(1)
    assert (0 < correct.mean() < 1) and len(set(correct)) > 1


def test_halves_of_the_rows(trained):
    for name, positive, negative in (("psr", 1, 0), ("nsr", 0, -1), ("w_reinforce", 0.1, -1)):
        want = np.where(rewards(trained(name)) > 0.5, positive, negative)
        np.testing.assert_allclose(per_row(trained(name)), want, rtol=1e-6, err_msg=name)


def test_group_statistics_differ_by_a_factor(trained):
    centred = per_row(trained("dr_grpo")).reshape(4, 4)
    reward = rewards(trained("dr_grpo")).reshape(4, 4)
    np.testing.assert_allclose(centred, reward - reward.mean(1, keepdims=True), atol=1e-6)
    std = reward.std(1, ddof=1, keepdims=True)
    mean = reward.mean(1, keepdims=True)
    factors = {"grpo": 1 / (std + 1e-6), "rloo": 4 / 3, "maxrl": 1 / np.maximum(mean, 0.1)}
    for name, factor in factors.items():
        got = per_row(trained(name)).reshape(4, 4)
        np.testing.assert_allclose(got, centred * factor, rtol=1e-4, atol=1e-6, err_msg=name)


def test_tempo_credits_the_tokens_where_completions_part(trained):
    plain, tree = advantages(trained("grpo")), advantages(trained("tempo"))
    assert all((a == a[0]).all() for a in plain)
    for i in range(0, 16, 4):
        tokens = [r["tokens"] for r in trained("tempo").first[i : i + 4]]
        varies = any((a != a[0]).any() for a in tree[i : i + 4])
        if len(set(rewards(trained("tempo"))[i : i + 4])) == 1:
            assert not varies, "no signal, no credit"
        elif max(map(len, tokens)) > 1:
            assert varies, "with replies of several tokens the first is where they part"
    m = trained("tempo").metrics[0]
    assert m["tree/nodes"] > 1 and 0 < m["tree/branch_fraction"] <= 1


def test_noise_is_injected_and_the_audit_logged(trained):
    backward, forward = (trained(n).metrics[0] for n in ("noisy_backward", "noisy_forward"))
    # with one channel for all prompts the backward correction is a rescaling, and says so
    assert backward["audit_cosine"] == pytest.approx(1) and backward["audit_mean"] > 0.01
    assert forward["audit_cosine"] < 0.99
    run = trained("noisy_forward")
    observed = rewards(run)
    number = [r["verdicts"]["number"] for r in run.first]
    assert forward["reward/clean"] == pytest.approx(np.mean(number)) != forward["reward/mean"]
    want = np.where(observed > 0.5, 0.2, -0.8)
    np.testing.assert_allclose(per_row(run), want, atol=1e-6)


def test_controls(trained):
    flipped, plain = trained("spurious_inverted"), trained("grpo")
    np.testing.assert_allclose(per_row(flipped), -per_row(plain), atol=1e-5)
    np.testing.assert_array_equal(rewards(flipped), 1 - rewards(plain))
    verdicts = {
        name: [list(r["verdicts"].values()) for r in trained(name).first]
        for name in ("spurious_random", "spurious_format")
    }
    number = np.array([v[0] for v in verdicts["spurious_random"]])
    np.testing.assert_array_equal(number, rewards(plain))
    random = rewards(trained("spurious_random"))
    assert set(random) == {0.0, 1.0} and (random != number).any() and (random == number).any()
    form = [v[1] for v in verdicts["spurious_format"]]
    np.testing.assert_array_equal(rewards(trained("spurious_format")), form)


def test_two_rewards(trained):
    number, form = (
        np.array([r["verdicts"][k] for r in trained("g_ra").first]) for k in ("number", "format")
    )
    np.testing.assert_array_equal(rewards(trained("g_ra")), np.where(number > 0, 1 + form, 0))
    np.testing.assert_array_equal(rewards(trained("gdpo")), number + form)
    summed = rewards(trained("gdpo")).reshape(4, 4)
    grpo = (summed - summed.mean(1, keepdims=True)) / (summed.std(1, ddof=1, keepdims=True) + 1e-6)
    assert np.abs(per_row(trained("gdpo")).reshape(4, 4) - grpo).max() > 0.05


def test_statistics_over_all_blocks_of_a_prompt(trained):
    a = per_row(trained("brorl")).reshape(2, 8)
    np.testing.assert_allclose(a.sum(1), 0, atol=1e-5)
    assert np.abs(a.reshape(2, 2, 4).sum(2)).max() > 0.1


def test_dynamic_sampling_leaves_no_group_without_a_signal(trained):
    for step, m in enumerate(trained("dapo").metrics, 1):
        rows = [r for r in trained("dapo").rows if r["step"] == step]
        verdicts = np.array([r["verdicts"]["number"] for r in rows]).reshape(4, 4)
        assert (np.ptp(verdicts, axis=1) > 0).all()
        assert m["verify/dynamic/kept"] + m.get("verify/dynamic/carried", 0) >= 4
    assert "verify/dynamic/kept" not in trained("grpo").metrics[0]


def test_rows_drawn_under_a_hint_train_without_it(trained):
    helped = [m for m in trained("guide").metrics if m["verify/guide/solved"]]
    rows = [r for r in trained("guide").rows if r["origin"] == 1]
    assert helped and len(rows) == 4 * sum(m["verify/guide/solved"] for m in helped)
    assert all(m["policy/ratio_other_context"] != pytest.approx(1, abs=1e-5) for m in helped)
    assert [m["policy/ratio"] for m in helped] == pytest.approx([1] * len(helped), abs=1e-6)
    own = {(r["step"], r["group"]): r["prompt"] for r in trained("guide").rows if not r["origin"]}
    assert all(r["prompt"] == own[r["step"], r["group"]] for r in rows)
    told = [r for r in trained("scaf").rows if "solution" in r["prompt"] and r["row_mask"]]
    assert told and not any(r["origin"] for r in trained("scaf").rows)
    assert [m["policy/ratio"] for m in trained("scaf").metrics] == pytest.approx([1, 1], abs=1e-6)


def test_bfloat16_rollout_is_corrected(trained):
    plain, tis = trained("grpo").metrics[0], trained("tis").metrics[0]
    assert plain["policy/sampler_gap"] < 1e-5 < tis["policy/sampler_gap"]
    assert "policy/correction" not in plain
    assert 0 < abs(tis["policy/correction"] - 1) < 0.05


def test_terms_beside_the_policy(trained):
    m = trained("entropy_bonus").metrics[0]
    assert m["loss/entropy_bonus"] == pytest.approx(-m["policy/entropy"], rel=1e-4)
    first, second = trained("kl_in_reward").metrics
    assert first["policy/kl_ref"] == pytest.approx(0, abs=1e-6) != second["policy/kl_ref"]
    later = [np.array(r["advantages"]) for r in trained("kl_in_reward").rows if r["step"] == 2]
    assert any(len(a) > 1 and np.ptp(a) > 0 for a in later), "the KL of a token is its own"
    assert "loss/pacs" in trained("pacs").metrics[0]


def test_gspo_token_is_gspo_where_advantages_are_those_of_rows(trained):
    one, two = trained("gspo").params, trained("gspo_token").params
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def policy_term(name):
    return learner.make_term(small(name).loss[0])


def random_table():
    rng = np.random.default_rng(0)
    mask = np.arange(6) < np.array([[6, 3], [4, 6]])[..., None]
    table = {
        "loss_mask": jnp.asarray(mask),
        "old_logp": jnp.asarray(rng.normal(size=mask.shape), jnp.float32),
        "advantages": jnp.ones(mask.shape),
    }
    return table, {"logp": table["old_logp"] + jnp.asarray(rng.normal(size=mask.shape)) * 0.1}


def test_ratio_is_one_a_row_in_gspo_and_one_a_token_in_grpo():
    table, given = random_table()
    for name, constant in (("gspo", True), ("gspo_token", True), ("grpo", False)):
        term = policy_term(name)
        got = np.asarray(term.ratio(table, {}, **given))
        mask = np.asarray(table["loss_mask"])
        rows = [got[i][mask[i]] for i in np.ndindex(2, 2)]
        spread = max(np.ptp(r) for r in rows)
        assert (spread < 1e-6) == constant, name
        assert np.ptp([r[0] for r in rows]) > 1e-3


@pytest.mark.parametrize(
    ("name", "ratio", "advantage", "clipped"),
    [
        ("grpo", 1.25, 1.0, True),
        ("dapo", 1.25, 1.0, False),  # clip-higher
        ("dapo", 1.30, 1.0, True),
        ("cispo", 7.0, 1.0, False),  # the weight is clipped, the gradient stays
        ("grpo", 4.0, -1.0, False),
        ("dual_clip", 4.0, -1.0, True),
        ("rloo", 7.0, 1.0, False),
        ("stable_reinforce", 2e3, -1.0, True),
        ("grpo", 2e3, -1.0, False),
        ("gspo", 1.001, 1.0, True),
        ("gspo", 1.0003, 1.0, False),
    ],
)
def test_where_the_policy_stops_pushing(name, ratio, advantage, clipped):
    table, _ = random_table()
    table |= {"advantages": jnp.full(table["old_logp"].shape, advantage)}
    logp = table["old_logp"] + jnp.log(ratio)
    term = policy_term(name)
    _, metrics = term.evaluate(table, {"logp": logp}, term.numbers(0))
    got = np.asarray(metrics["clip_fraction"])[np.asarray(table["loss_mask"])]
    assert (got == clipped).all()


def credited(name, table):
    c = small(name)
    made = chain.build(c, c.rollout.group_blocks)
    run = jax.jit(lambda t: made(t, made.init(), made.numbers(0), jax.random.key(0), 0)[0])
    return run(table)


def test_rows_that_train(trained):
    """PF-PPO and BroRL keep few rows of a group in the update, all in the statistics."""
    run = trained("grpo")
    shape = (4, 4)
    table = {
        "verdict/number": rewards(run).reshape(shape).astype(np.float32),
        "row_mask": np.ones(shape, bool),
        "train_mask": np.ones(shape, bool),
        "row_id": np.arange(16, dtype=np.int32).reshape(shape),
        "prompt_id": np.arange(4, dtype=np.int32),
        "completion_tokens": np.ones((*shape, 4), np.int32),
        "loss_mask": np.ones((*shape, 4), bool),
        "group": np.arange(4, dtype=np.int32),
    }
    for name, kept in (("pf_ppo", 2), ("spurious_inverted", 4)):
        out = credited(name, table)
        assert out["train_mask"].sum(1).tolist() == [kept] * 4, name
    table["group"] = np.array([0, 0, 1, 1], np.int32)
    out = credited("brorl", table)
    assert out["train_mask"].reshape(2, 8).sum(1).tolist() == [4, 4]


def test_every_config_differs_from_the_defaults():
    """Settings that the method is about are written out, not inherited."""
    for name in METHODS.values():
        changed = config_lib.differences(module(name).get_config(), config_lib.default())
        assert {"optim.lr", "steps"} & set(changed), name
