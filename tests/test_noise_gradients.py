"""Noisy verifiers: what corrections do to the update, and where a run refuses to lose them.

Policies are softmax bandits, whose expected update is exact; `benchmarks/noise_rates.py` has the
examples, and its committed results are held here.
"""

import json
import pathlib
import runpy
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import build, chain, config, probe, train
from rlpt.advantages import noise as credit
from rlpt.rewards import noise
from tests.numeric import close

ROOT = pathlib.Path(__file__).parents[1]
bench = types.SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks/noise_rates.py")))
WORLDS = bench.worlds()
RATES = {"fp_rate": 0.1, "fn_rate": 0.2}
C = 1 - 0.1 - 0.2


@pytest.fixture(autouse=True, scope="module")
def _quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# ---- the update of sampled groups

GROUPS, G = 20_000, 8
BOUND = 4.5  # standard errors: 6 numbers exceed it by chance 4 times in 100,000


def sampled(world):
    """GROUPS groups of G answers of the world's prompt, their truth and their stratum."""
    policy = world.policy[0]
    answers = np.random.default_rng(0).choice(len(policy), size=(GROUPS, G), p=policy)
    scores = (np.eye(len(policy)) - policy)[answers]
    return scores, world.right[0][answers], jnp.asarray(world.strata[0][answers])


def z_values(coefficient, scores, want):
    """(mean update of a group - want) in standard errors, [A], and these errors."""
    updates = np.einsum("ng,nga->na", np.asarray(coefficient, float), scores) / G
    error = updates.std(axis=0, ddof=1) / np.sqrt(GROUPS)
    return (updates.mean(axis=0) - want) / error, error


def clean_update(world):
    return bench.update(world, world.right, np.ones((1, 6)), np.zeros((1, 6)))


def test_backward_is_unbiased_and_forward_parallel():
    """Means over 20,000 groups of 8 answers, each number within 4.5 standard errors."""
    world = WORLDS["one channel"]
    scores, right, _ = sampled(world)
    ids = jnp.arange(GROUPS), jnp.arange(GROUPS * G).reshape(GROUPS, G)
    seen = noise.inject(jnp.asarray(right, jnp.float32), jax.random.key(0), *ids, **RATES)
    want = clean_update(world)
    for what, fn, settings, scale in (
        ("backward", credit.backward, RATES, 1.0),
        ("forward", credit.forward, RATES, C),
        ("control", credit.control, {}, C),
    ):
        coefficient = fn(seen["rewards"], **settings)
        z, error = z_values(coefficient, scores, scale * want)
        assert error.max() < 0.02 * np.linalg.norm(want), "too few samples to say anything"
        assert abs(z).max() < BOUND, f"{what}: {z} standard errors from {scale} grad J"
        z, _ = z_values(coefficient, scores, (1.7 - scale) * want)
        assert abs(z).max() > 3 * BOUND, f"{what}: the bound would let another scale pass: {z}"


def test_noise_by_format_turns_the_update_unless_the_rates_are_by_format():
    world = WORLDS["format"]
    scores, right, strata = sampled(world)
    ids = jnp.arange(GROUPS), jnp.arange(GROUPS * G).reshape(GROUPS, G)
    profile = {"fp_rate": world.fp, "fn_rate": world.fn}
    true = jnp.asarray(right, jnp.float32)
    seen = noise.inject(true, jax.random.key(0), *ids, strata, **profile)["rewards"]
    known = noise.known_rates(strata, **profile)
    rates = [known[k] for k in ("fp_rates", "fn_rates")]
    want = clean_update(world)
    z, _ = z_values(credit.backward(seen, None, *rates), scores, want)
    assert abs(z).max() < BOUND, f"rates by format: {z} standard errors"
    one = dict(zip(RATES, (float(r[0]) for r in bench.known(world, False)), strict=True))
    z, _ = z_values(credit.backward(seen, **one), scores, want)
    assert abs(z).max() > 3 * BOUND, f"the rates of all rows together should not do: {z}"


# ---- the direction of the expected update


def test_where_noise_turns_the_update():
    row = lambda name: {
        "uncorrected": bench.direction(WORLDS[name], credit.control),
        "one": bench.direction(WORLDS[name], credit.backward, bench.known(WORLDS[name], False)),
        "strata": bench.direction(WORLDS[name], credit.backward, bench.known(WORLDS[name])),
    }
    close(row("two prompts")["uncorrected"], 0.996232, what="rates that differ by prompt")
    close(row("hack")["uncorrected"], 0.33460, atol=1e-5, what="noise that depends on the reply")
    two = WORLDS["two prompts"]
    forward = bench.direction(two, credit.forward, bench.known(two))
    close(forward, 0.996232, what="forward without the channel's scale")
    scaled = bench.direction(two, credit.forward, bench.known(two), divide_by_channel=True)
    close(scaled, 1.0, what="and with it")
    for name in WORLDS:
        got = row(name)
        close(got["one"], got["uncorrected"], what=f"{name}: one channel only rescales")
        close(got["strata"], 1.0, what=f"{name}: known rates by stratum")
        assert (got["uncorrected"] > 0.99) == (name in ("one channel", "two prompts")), name


@pytest.mark.parametrize(
    ("name", "looks"),
    [("two tasks", 3000), ("format", 3000), ("format, misses only", 3000), ("hack", 30000)],
)
def test_estimated_rates_by_stratum_turn_it_back(name, looks):
    """Six seeds of some `looks` appeals each."""
    row = bench.measure(WORLDS[name], looks=(looks,), seeds=6)
    one, many = row["one estimated channel"][str(looks)], row["estimated by stratum"][str(looks)]
    assert many["smallest"] > 0.99, f"{name}: cosine {many['smallest']} with rates by stratum"
    assert one["mean"] < 0.97, f"{name}: cosine {one['mean']} with one pair of rates"
    assert abs(many["appeals"] - looks) < 4 * np.sqrt(looks), "as many appeals as stated"


def test_committed_results():
    got = json.loads((ROOT / "benchmarks/results/noise_rates.json").read_text())["worlds"]
    assert set(got) == set(WORLDS)
    for name, world in WORLDS.items():
        close(got[name]["uncorrected"], bench.direction(world, credit.control), what=name)
        for v in got[name]["estimated by stratum"].values():
            assert v["smallest"] <= v["mean"] <= 1 + 1e-6
        most = got[name]["estimated by stratum"]["30000"]
        assert most["smallest"] > 0.99, f"{name}: 30,000 appeals are many"


def test_documented_results():
    """The table of docs/noisy_verifiers.md is that of the results, row by row."""
    lines = (ROOT / "docs/noisy_verifiers.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| (fp_rate, fn_rate)")) + 2
    got = json.loads((ROOT / "benchmarks/results/noise_rates.json").read_text())["worlds"]
    for line, (name, row) in zip(lines[start:], got.items(), strict=False):
        cells = [row[k] for k in ("uncorrected", "one known channel", "known by stratum")]
        shown = [f"{x:.3f}" for x in cells]
        made = row["estimated by stratum"].values()
        shown += [f"{v['mean']:.3f} ({v['smallest']:.3f})" for v in made]
        assert line.split(" | ", 1)[1].removesuffix(" |") == " | ".join(shown), name


# ---- corrections that a normaliser undoes

INJECT = dict(fn="noise.inject", **RATES)
BACKWARD = dict(fn="noise.backward", **RATES)
FORWARD = dict(fn="noise.forward", fn_rate=0.2)
CONTROL = dict(fn="noise.control", writes="control_advantages")
LODGE = dict(fn="appeals.lodge", reads=dict(second="verdict/number"), probability=0.5)
BY_REPLY = dict(fn="strata.by_edges", reads=dict(column="truncated"))
BY_PROMPT = dict(fn="strata.by_id", reads=dict(column="prompt_id"), count=2)
KNOWN = dict(fn="noise.known_rates", fp_rate=0.2, fn_rate=(0.05, 0.45))
BARE = dict(fn="noise.backward")
OF_CORRECTED = dict(fn="group.grpo", reads=dict(rewards="corrected"))
GROWING = dict(fn="noise.backward", fp_rate=dict(schedule="linear", init=0.0, end=0.2, steps=9))


def probed(shaping, advantage):
    c = config.default()
    c.rollout.prompts, c.rollout.group = 4, 6
    c.shaping, c.advantage = tuple(shaping), tuple(advantage)
    probe.check_noise_correction(chain.build(c), build.abstract_table(c))


@pytest.mark.parametrize(
    ("shaping", "advantage"),
    [
        ([INJECT, BACKWARD], ["group.rloo"]),  # a constant factor is no cancellation
        ([INJECT], [CONTROL, BACKWARD, "noise.audit"]),
        ([FORWARD], ["tests.toy:greedy_advantage"]),  # nothing is centred
        ([BACKWARD], [dict(fn="group.grpo", eps=1.0)]),  # hardly a normaliser
        ([BY_REPLY, KNOWN, BARE], ["group.grpo"]),  # rates differ within a group
        ([BY_PROMPT, KNOWN, BARE], [dict(fn="group.grpo", scale="batch")]),
        ([BY_REPLY, LODGE, "appeals.stratified", BARE], ["group.grpo"]),
        ([BARE], ["group.grpo"]),  # rates 0: nothing is corrected
        ([], [BACKWARD | dict(writes="corrected"), "group.grpo"]),  # kept for the log
        ([BACKWARD | dict(writes="corrected")], [OF_CORRECTED | dict(fn="group.rloo")]),
        ([BACKWARD | dict(writes="rewards")], ["group.rloo"]),
    ],
)
def test_corrections_that_arrive(shaping, advantage):
    probed(shaping, advantage)


@pytest.mark.parametrize(
    ("shaping", "advantage", "entry", "undone_by"),
    [
        ([INJECT, BACKWARD], ["group.grpo"], "rewards noise.backward", "group.grpo"),
        ([BACKWARD], [dict(fn="group.grpo", eps=1e-2)], "rewards noise.backward", "group.grpo"),
        (
            [BACKWARD],
            [dict(fn="group.grpo", scale="batch")],
            "rewards noise.backward",
            "group.grpo",
        ),
        ([BACKWARD], ["batch.reinforce_pp"], "rewards noise.backward", "batch.reinforce_pp"),
        ([FORWARD], ["group.dr_grpo"], "rewards noise.forward", "group.dr_grpo"),
        (
            [INJECT],
            [CONTROL, BACKWARD, dict(fn="group.grpo"), "noise.audit"],
            "advantages noise.backward",
            "group.grpo",
        ),
        ([BY_PROMPT, KNOWN, BARE], ["group.grpo"], "rewards noise.backward", "group.grpo"),
        ([LODGE, "appeals.pooled", BARE], ["group.grpo"], "rewards noise.backward", "group.grpo"),
        ([GROWING], ["group.grpo"], "rewards noise.backward", "group.grpo"),
        *(
            ([BACKWARD | dict(writes=name)], [estimator], "rewards noise.backward", "group.grpo")
            for name, estimator in (("corrected", OF_CORRECTED), ("rewards", "group.grpo"))
        ),
    ],
)
def test_corrections_that_are_undone(shaping, advantage, entry, undone_by):
    want = rf"^{entry} \(config\.\w+\) corrects .* once advantages {undone_by} has run"
    with pytest.raises(config.ConfigError, match=want) as e:
        probed(shaping, advantage)
    assert "Correct in the advantages instead" in str(e.value), "how to fix it"


def test_a_run_stops_at_its_start():
    c = runpy.run_path(str(ROOT / "configs/noisy_control.py"))["get_config"]("runlocal")
    c.shaping, c.advantage = (INJECT, BACKWARD), (dict(fn="group.grpo"),)
    with pytest.raises(config.ConfigError, match="corrects for a noisy verifier"):
        build.check(c)


def test_groups_that_span_blocks():
    c = config.default()
    c.rollout.prompts, c.rollout.group, c.rollout.group_blocks = 2, 3, 2
    c.shaping, c.advantage = (BACKWARD,), (dict(fn="group.grpo"),)
    with pytest.raises(config.ConfigError, match="corrects for a noisy verifier"):
        probe.check_noise_correction(chain.build(c, 2), build.abstract_table(c))


def test_credit_by_steps_takes_a_correction():
    """Whose masks, were they all True, would leave nothing to be credited."""
    c = runpy.run_path(str(ROOT / "configs/pure.py"))["get_config"]("runlocal")
    c.shaping = (BACKWARD, *c.shaping)
    build.check(c)


# ---- the configs


def configs():
    for path in sorted((ROOT / "configs").glob("*.py")):
        yield path.stem, runpy.run_path(str(path))["get_config"]()


def test_every_config_that_corrects_logs_the_audit():
    found = set()
    for name, c in configs():
        made = chain.build(c, c.rollout.group_blocks)
        fns = [m.fn for _, m in made.methods]
        if not any(getattr(f, "corrects_noise", False) for f in fns) and noise.calibrate not in fns:
            continue
        found.add(name)
        run = lambda t, made=made: made(t, made.init(), made.numbers(0), jax.random.key(0), 0)[0]
        out = jax.eval_shape(run, build.abstract_table(c))
        missing = {f"metrics/audit_{k}" for k in ("cosine", "mean", "max")} - set(out)
        assert not missing, f"{name} corrects and does not log {missing}"
    corrected = {"noisy_backward", "noisy_forward", "noisy_appeals", "noisy_stratified"}
    assert corrected | {"climb_carves"} <= found


def test_corrected_configs_differ_from_the_control_in_what_they_say():
    made = dict(configs())
    base = made["noisy_control"]
    for name in ("noisy_backward", "noisy_forward"):
        assert set(config.differences(made[name], base)) == {"advantage"}, name
    for name in ("noisy_appeals", "noisy_stratified"):
        assert set(config.differences(made[name], base)) <= {"advantage", "shaping", "verifiers"}


def test_evaluation_is_clean(tmp_path):
    """Before training, a run with much noise has the accuracy of one without any."""
    results = []
    for name in ("noisy", "clean"):
        c = runpy.run_path(str(ROOT / "configs/noisy_control.py"))["get_config"]("runlocal")
        c.steps, c.export, c.pool.workers = 0, False, 1
        c.log.tensorboard = c.log.console = False
        c.model.source = "toy:vocab=24,layers=1,width=16,heads=2,kv_heads=1,ff=16"
        noisy = dict(fn="noise.inject", fp_rate=0.45, fn_rate=0.45)
        c.shaping = (noisy,) if name == "noisy" else ()
        train.train(c, tmp_path / name)
        results.append(json.loads((tmp_path / name / "eval_0.json").read_text()))
    assert results[0] == results[1]
    hits = [v["correct"] for v in results[0]["per_prompt"].values()]
    assert 0 < sum(hits) < 4 * len(hits), "flips would show"
