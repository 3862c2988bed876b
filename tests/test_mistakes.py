"""What a function of one's own can get wrong: said before anything is loaded, or at the latest
when the first batch is there, and never trained on."""

import importlib
import inspect
import json
import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import blocks, build, config, memory, policy, probe, ranges, sources
from rlpt import chain as chain_lib
from rlpt import train as train_lib
from rlpt.checkpoint import IdentityError
from rlpt.columns import Transform
from rlpt.models.load import load
from rlpt.rollouts import sample
from tests.test_train import toy

ME = "tests.test_mistakes:"


def centred(rewards):
    return rewards - jnp.mean(rewards, 1, keepdims=True)


def misspelt_optional(rewards, row_maks=None):
    return centred(rewards) if row_maks is None else rewards


def optional_of_its_own(rewards, my_weights=None):
    return centred(rewards) if my_weights is None else rewards * my_weights


def misspelt_result(rewards):
    return {"advantages": centred(rewards), "train_maks": rewards > 0}


def misspelt_advantages(rewards):
    return {"advantage": centred(rewards)}


def nothing(rewards):
    centred(rewards)


def two_things(rewards):
    return centred(rewards), rewards


def transposed(rewards):
    return centred(rewards).T


def numbers_as_mask(rewards):
    return {"advantages": centred(rewards), "train_mask": (rewards >= 0).astype(jnp.int32) * 2}


def metric_of_rows(rewards):
    return {"advantages": centred(rewards), "metrics/mine": jnp.mean(rewards, 1)}


def metric_of_the_log(rewards):
    return {"advantages": centred(rewards), "metrics/reward/mean": jnp.float32(42)}


def quantile(rewards, *, q: float = 0.5, least: int):
    return rewards - jnp.quantile(rewards, q, axis=1, keepdims=True) * least


quantile.ranges = {"q": "(0, 1)"}


def elsewhere(rewards, *, q: float = 0.5):
    return rewards * q


elsewhere.ranges = {"p": "(0, 1)"}


def half_open(rewards, *, q: float = 0.5):
    return rewards * q


half_open.ranges = {"q": "0 to 1"}


def _mean():
    return {"mean": 0.0, "n": 0}


def _forgets(rewards, state):
    return rewards


def _grows(rewards, state):
    return rewards, state | {"more": rewards.mean()}


def _reshapes(rewards, state):
    return rewards, state | {"mean": rewards.mean(1)}


def _retypes(rewards, state):
    return rewards, state | {"n": state["n"] + 0.5}


def _remembers(rewards, state, step, *, at: int = -1):
    mean = jnp.where(step == at, jnp.nan, 0.5 * state["mean"] + 0.5 * jnp.mean(rewards))
    return rewards, {"mean": mean, "n": state["n"] + 1}


forgets, grows, reshapes, retypes, remembers = (
    Transform(_mean, f) for f in (_forgets, _grows, _reshapes, _retypes, _remembers)
)
sized = Transform(
    lambda *, size=4: jnp.zeros(size), lambda rewards, state, *, size=4: (rewards, state + 1)
)


def certainty(logp):
    return jnp.exp(logp)


def of_certainty(rewards, certainty):
    return centred(rewards) * jnp.mean(certainty, -1)


def batch_coupled(logp, advantages):
    return -(advantages - advantages.mean()) * logp


def row_coupled(logp, advantages):
    return -(advantages - advantages.mean(1, keepdims=True)) * logp


def always_moves(log_ratio, advantages):
    return (advantages + 0.1) * log_ratio


def moves_with_advantage(log_ratio, advantages):
    return advantages * log_ratio


def less_value(logp, advantages, value):
    return -logp * (advantages - value)


def of_old_logp(value, old_logp):
    return jnp.square(value - old_logp)


def flat(stream, tools, state, step, *, prompts: int, group: int, what: str = ""):
    tables, state = sample.on_policy(stream, tools, state, step, prompts=prompts, group=group)
    table = tables["policy"].table
    if what != "none":
        table["mine"] = np.ones((prompts, group), np.float32)
    if what == "flat":
        table["mine"] = np.ones(prompts, np.float32)
    if what == "mask":
        table["completion_mask"] = table["completion_mask"] & False
    return tables, state


flat.columns = {"mine": ("PG", "f")}
CRITIC = dict(output="value", writes="values")
VERIFIERS = (
    dict(fn="tests.toy:starts_with_digit", name="digit"),
    dict(fn="tests.toy:always", name="shown", weight=0.0),
)


def square(**more):
    """As many prompts as completions: where axes are taken for each other."""
    return dict(rollout__prompts=4, rollout__group=4, **more)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(advantage=(ME + "misspelt_optional",)),
            "'row_maks', which nothing makes, so that it is always None. Did you mean 'row_mask'?",
        ),
        (
            dict(advantage=(ME + "misspelt_result",)),
            "column 'train_maks', which nothing reads. Did you mean 'train_mask'?",
        ),
        (
            dict(advantage=("group.grpo", ME + "misspelt_advantages")),
            "column 'advantage', which nothing reads. Did you mean 'advantages'?",
        ),
        (
            dict(shaping=(dict(fn="shaping.affine", scale=2.0, writes="rewrads"),)),
            "rewards shaping.affine writes the column 'rewrads', which nothing reads",
        ),
        (dict(curriculum__by="doubt"), "curriculum: got by='doubt', expected 'band' or"),
        (dict(advantage=(ME + "nothing",)), "nothing returned NoneType, expected an array, or a"),
        (dict(advantage=(ME + "two_things",)), "two_things returned tuple, expected an array"),
        (square(advantage=(ME + "transposed",)), "wrote 'advantages' with shape (4, 8), expected"),
        (dict(advantage=(ME + "numbers_as_mask",)), "'train_mask' as int32, expected bool"),
        (dict(advantage=(ME + "metric_of_rows",)), "with shape (8,), expected a scalar"),
        (dict(advantage=(ME + "metric_of_the_log",)), "reward/* is what the log itself measures"),
        (
            dict(advantage=(dict(fn="group.grpo", eps=-1.0),)),
            "group.grpo.eps: got -1.0, expected a number in (0, inf]",
        ),
        (
            dict(advantage=(dict(fn="noise.backward", scale=-1.0),)),
            "noise.backward.scale: got -1.0, expected a number in (0, inf]",
        ),
        (
            dict(verifiers=VERIFIERS, advantage=("group.gdpo",)),
            "group.gdpo takes every verdict, also that of 'shown', whose weight is 0; name those",
        ),
        (
            dict(loss=(dict(surrogate=dict(fn="surrogates.ppo_clip", low=float("nan"))),)),
            "surrogates.ppo_clip.low: got nan, expected a number in",
        ),
        (
            dict(loss=(dict(surrogate=dict(fn="surrogates.dual_clip", c=0.5)),)),
            "dual_clip.c: got 0.5, expected a number in (1, inf]",
        ),
        (
            dict(shaping=(dict(fn="shaping.affine", scale=float("nan")),)),
            "affine.scale: got nan, expected a number",
        ),
        (
            dict(shaping=(dict(fn="shaping.clip", low=1.0, high=0.0),)),
            "got low=1.0 above high=0.0",
        ),
        (
            dict(rollout__fn="dynamic.refill", rollout__options=dict(max_batches=0)),
            "dynamic.refill.max_batches: got 0, expected a number in [1, inf]",
        ),
        (
            dict(advantage=(dict(fn=ME + "quantile", q=1.0, least=1),)),
            "quantile.q: got 1.0, expected a number in (0, 1)",
        ),
        (
            dict(
                advantage=(
                    dict(
                        fn=ME + "quantile",
                        q=dict(schedule="linear", init=0.5, end=1.5, steps=9),
                        least=1,
                    ),
                )
            ),
            "quantile.q: got 1.5, expected a number in (0, 1)",
        ),
        (
            dict(advantage=(dict(fn=ME + "quantile", least="1"),)),
            "quantile.least: got '1', expected an integer",
        ),
        (dict(advantage=(ME + "elsewhere",)), "its ranges name 'p', which is no setting of it"),
        (dict(advantage=(ME + "half_open",)), "ranges: got '0 to 1', expected such as '[0, 1)'"),
        (dict(shaping=(ME + "forgets",)), "returns (columns, state); it returned one value"),
        (dict(shaping=(ME + "grows",)), "its update returned the state PyTreeDef({'mean': *, 'mor"),
        (dict(shaping=(ME + "reshapes",)), "the state['mean'] as float32[8], init as float32[]"),
        (dict(shaping=(ME + "retypes",)), "the state['n'] as float32[], init as int32[]"),
        (
            dict(scorers=(ME + "certainty", dict(fn="policy.surprise", writes="certainty"))),
            "writes 'certainty', which a scorer before it wrote",
        ),
        (
            dict(advantage=(dict(fn="group.grpo", reads=dict(rewards="certainty")),)),
            "needs the column 'certainty', which nothing makes",
        ),
        (
            dict(shaping=(dict(fn=ME + "remembers", reads=dict(step="row_id")),)),
            "reads= renames 'step', which is no column",
        ),
        (
            dict(loss=(dict(fn=ME + "batch_coupled"),), learner__micro_blocks=2),
            "its value in a block depends on the other blocks, from which micro_blocks=2 cuts it",
        ),
        (
            dict(loss=(dict(fn=ME + "row_coupled"),), rollout__group_blocks=2),
            "couples the rows of a group, which have to be in one block",
        ),
        (
            dict(loss=(dict(surrogate=ME + "always_moves"),)),
            "has a gradient where the advantages are 0, and blocks in which they all are would be",
        ),
        (
            dict(learners__critic=CRITIC | dict(loss=(dict(fn=ME + "of_old_logp"),))),
            "needs the column 'old_logp', which nothing makes.* config.learner.old_logp=\"recomp",
        ),
    ],
)
def test_refused_before_anything_is_loaded(changes, message):
    pattern = message if ".*" in message else re.escape(message)
    with pytest.raises(ValueError, match=pattern):
        build.check(toy(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        dict(advantage=(ME + "optional_of_its_own",)),
        dict(advantage=(dict(fn=ME + "quantile", q=0.9, least=2),)),
        dict(shaping=(ME + "remembers", ME + "sized")),
        dict(scorers=(ME + "certainty",), advantage=(ME + "of_certainty",)),
        dict(loss=(dict(fn=ME + "batch_coupled"),)),
        dict(loss=(dict(fn=ME + "row_coupled"),), learner__micro_blocks=1),
        dict(loss=(dict(surrogate=ME + "moves_with_advantage"),), learner__micro_blocks=2),
        dict(loss=(dict(surrogate=ME + "always_moves"),), learner__skip_zero_advantage=False),
    ],
)
def test_what_is_right_is_accepted(changes):
    build.check(toy(**changes))


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1]", (0, 0.5, 1), (-1e-9, 1.1, np.nan)),
        ("(0, 1)", (0.5,), (0, 1)),
        ("[1, inf]", (1, 10**9, np.inf), (0, -np.inf)),
    ],
)
def test_intervals(interval, inside, outside):
    assert all(ranges.within(x, interval) for x in inside)
    assert not any(ranges.within(x, interval) for x in outside)


def test_each_range_is_that_of_a_setting():
    """And all defaults lie within them, since every function is bound here."""
    packages = ("tasks", "verifiers", "rollouts", "scorers", "rewards", "advantages", "losses")
    settings = set()
    for package in packages:
        for name in config.accepted_names(package):
            found = config.find(package, name)
            fn = found.update if isinstance(found, Transform) else found
            given = fn.__kwdefaults__ or {}
            ranges.check(name, name, fn, given)
            parameters = inspect.signature(fn).parameters.values()
            for key in (p.name for p in parameters if p.kind is p.KEYWORD_ONLY):
                settings |= {key, f"{name.partition('.')[0]}.{key}", f"{name}.{key}"}
    assert not set(ranges.RANGES) - settings, "ranges of no setting"


def test_a_model_output_can_be_renamed():
    """penalties.k1 of the sampler's log-probs, where its logp is otherwise the policy's."""
    table = {
        "sampler_logp": jnp.full((1, 1, 2), -2.0),
        "ref_logp": jnp.full((1, 1, 2), -1.5),
    }
    given = {"logp": jnp.full((1, 1, 2), -1.0)}
    plain = config.entry("losses", "penalties.k1")
    other = config.entry("losses", dict(fn="penalties.k1", reads=dict(logp="sampler_logp")))
    np.testing.assert_allclose(plain(table, **given), 0.5)
    np.testing.assert_allclose(other(table, **given), -0.5)


def chain_of(*shaping):
    c = toy(shaping=shaping)
    return chain_lib.build(c), probe._random(build.abstract_table(c), 1, 0)


def test_numbers_in_a_state_become_arrays_and_init_gets_the_settings():
    chain, _ = chain_of(ME + "remembers", dict(fn=ME + "sized", size=7))
    state = chain.init()
    assert state["shaping/1"]["mean"].dtype == jnp.float32
    assert state["shaping/1"]["n"].dtype == jnp.int32
    assert state["shaping/2"].shape == (7,)


def test_a_state_with_nan_is_not_kept():
    chain, rows = chain_of(dict(fn=ME + "remembers", at=1), ME + "sized")
    run = jax.jit(lambda s, t: chain(rows, s, chain.numbers(0), jax.random.key(0), t))
    state, seen = chain.init(), []
    for step in range(3):
        out, state = run(state, jnp.int32(step))
        own = state["shaping/1"]
        seen.append((int(own["n"]), int(out["metrics/chain/nan_states"])))
        assert np.isfinite(own["mean"])
    assert seen == [(1, 0), (1, 1), (2, 0)], "the step with NaN leaves the state as it was"
    assert (np.asarray(state["shaping/2"]) == 3).all(), "another method's state goes on"


def test_a_policy_loss_reads_the_column_of_a_critic(tmp_path):
    """Its parameter has the name of an output that a policy has not."""
    reads = dict(returns="advantages")
    critic = dict(output="value", loss=(dict(fn="penalties.value_mse", reads=reads),))
    seen = []
    for writes, loss in (
        ("value", dict(fn=ME + "less_value")),
        ("values", dict(fn=ME + "less_value", reads=dict(value="values"))),
    ):
        c = toy(steps=2, learners__critic=critic | dict(writes=writes), loss=(loss,))
        c.export = c.log.tensorboard = False
        train_lib.train(c, tmp_path / writes)
        rows = (tmp_path / writes / "metrics.jsonl").read_text().splitlines()
        seen.append([json.loads(r)["loss/total"] for r in rows if "loss/total" in r])
    assert seen[0] == seen[1] and len(seen[0]) == 2


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("flat", r"'mine': got shape \(4,\), expected \[P,G\]"),
        ("none", "'mine': got none, expected it as the rollout's columns declare it"),
        ("mask", "'loss_mask': got True where completion_mask is False"),
    ],
)
def test_a_rollout_is_held_to_its_columns(tmp_path, what, message):
    c = toy(steps=1, rollout__fn=ME + "flat", rollout__options=dict(what=what), debug=False)
    c.export = c.log.tensorboard = False
    with pytest.raises(ValueError, match=message):
        train_lib.train(c, tmp_path)


def test_an_edited_function_is_not_resumed_with_silently(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file, work = tmp_path / "edited_paper.py", tmp_path / "run"
    helper, numbers = tmp_path / "paper_helper.py", tmp_path / "paper_numbers.py"

    def run(scale, power="1.0", **changes):
        text = "from paper_helper import power\n\ndef mine(rewards):\n"
        file.write_text(text + f"    return power(rewards) * {scale}\n")
        text = "import jax\nfrom paper_numbers import POWER\n\n@jax.jit\ndef power(x):\n"
        helper.write_text(text + "    return x ** POWER\n")
        numbers.write_text(f"POWER = {power}\n")
        for name in ("edited_paper", "paper_helper", "paper_numbers"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        c = toy(advantage=("edited_paper:mine",), checkpoint__every=1, **changes)
        c.export = c.log.tensorboard = False
        train_lib.train(c, work)

    run("1.0", steps=1)
    run("1.0", steps=2)
    with pytest.raises(IdentityError, match="another code .saved '.*', now '"):
        run("1.25", steps=3)
    assert policy.load_policy(str(work)).params, "its weights are read whatever the code is"
    run("1.25", steps=3, checkpoint__allow=("code",))
    with pytest.raises(IdentityError, match="another code .saved '.*', now '"):
        run("1.25", power="2.0", steps=4)
    used = sources.own_code({"a": ["edited_paper:mine", "rlpt.chain:build"]})
    own = {"edited_paper", "paper_helper", "paper_numbers"}
    assert set(json.loads(used)) == own, "no jax, no rlpt"


def test_what_a_judge_does_not_say_is_no_silent_zero():
    spec = dict(fn="judge.judge", name="judge", base_url="http://127.0.0.1:9/v1", model="m")
    first = toy().verifiers[0]
    for more in (dict(), dict(missing=dict(crash="0"))):
        with pytest.raises(
            config.ConfigError, match=r"verifiers\[1\].missing: judge.judge asks so"
        ):
            build.check(toy(verifiers=(first, spec | more)))
    for said in ("mask", "0"):
        build.check(toy(verifiers=(first, spec | dict(missing=dict(unparsable=said)))))
    build.check(toy(verifiers=(first, spec), missing__unparsable="mask"))


PAIR = dict(fn="pairs.best_worst")
ROLLOUTS = [  # fn, settings, changes of the config, what is said
    ("beam.steps", dict(expand=3), {}, "steps: got group=4, expand=3"),
    ("beam.steps", dict(by="grader"), {}, "steps by: got 'grader', .* of the config: digit"),
    ("beam.steps", dict(aggregate="mode"), {}, "aggregate one of min, prod"),
    ("branch.branching", dict(first=3, children=2), {}, "branching: got group=4, first=3"),
    ("branch.branching", dict(by="length"), {}, "expected 'surprise' or 'entropy'"),
    ("cooper.contrasted", dict(verifier="digits"), {}, "got verifier='digits', expected one of"),
    ("cure.critical", dict(children=5), dict(rollout__group_blocks=2), "1 to 4 children"),
    ("cure.critical", {}, {}, "critical: got group=4, group_blocks=1"),
    ("dynamic.refill", {}, dict(sampling__top_k=5), "refill carry=True: got top_k=5"),
    ("experts.inject", dict(count=4), {}, "inject: got count=4, expected 1 to group - 1 = 3"),
    ("guide.guided", {}, {}, "got group_blocks=1, expected 2, own and guided: set config.rollout"),
    ("guide.guided", {}, dict(rollout__group_blocks=2, sampling__min_p=0.1), "guided: got top_k"),
    ("laser.marked", dict(token="|"), dict(sampling__temperature=0.7), "temperature=0.7"),
    ("mrt.episodes", dict(termination="!", tokens=-1), {}, "tokens=-1"),
    ("pairs.preferred", {}, dict(rollout__group=1), "preferred: got 1 completions a block"),
    ("pairs.best_worst", dict(verifier="other"), {}, "best_worst: got verifier='other'"),
    ("propose.self_play", {}, {}, "self_play executor: got 'executor', expected a verifier"),
    ("reference.spliced", dict(until=""), {}, "spliced until: got ''"),
    ("rise.verifying", dict(checks=4), {}, "got 4, expected 1 to prompts - 1 = 3"),
    ("rise.verifying", dict(checks=1, labels=("1", "1", "0")), {}, "three different ones"),
    ("scaf.rescued", dict(replace=("both",)), dict(rollout__group_blocks=2), "hinted and question"),
    ("steps.split", dict(separator=""), {}, "separator=''"),
    ("steps.split", dict(inner=dict(fn="beam.steps", expand=3)), {}, "group=4, expand=3"),
    (
        "steps.split",
        dict(inner=dict(fn="mrt.episodes", termination="!")),
        {},
        "has steps of its own in the column step_id",
    ),
    ("turns.with_tool", dict(tool="calculator"), {}, "with_tool tool: got 'calculator'"),
    ("turns.with_tool", dict(tool="digit"), dict(sampling__stop_strings=(">>",)), "the stop str"),
    ("views.two", {}, dict(rollout__prompts=3), "got prompts=3, expected an even number"),
]


@pytest.mark.parametrize(("fn", "options", "changes", "message"), ROLLOUTS)
def test_rollouts_say_when_the_config_is_read_what_does_not_suit(fn, options, changes, message):
    with pytest.raises(config.ConfigError, match=message):
        build.check(toy(rollout__fn=fn, rollout__options=options, **changes))
    if "rollout__prompts" in changes:  # a stage has its own
        options, changes = options | dict(prompts=changes["rollout__prompts"]), {}
    stages = (dict(fn="sample.on_policy", steps=2), dict(fn=fn, **options))
    recipe = dict(rollout__fn="stages.by_step", rollout__options=dict(stages=stages))
    with pytest.raises(config.ConfigError, match=message):
        build.check(toy(**recipe, **changes))


def test_a_stage_of_a_task_that_there_is_not():
    stages = (dict(fn="sample.on_policy", steps=2), dict(fn="sample.on_policy", task="sum"))
    with pytest.raises(config.ConfigError, match=r"task='sum', expected .*: arithmetic.sums"):
        build.check(toy(rollout__fn="stages.by_step", rollout__options=dict(stages=stages)))
    tables = dict(policy=dict(fn="sample.on_policy"), more=dict(fn="sample.on_policy", task="x"))
    with pytest.raises(config.ConfigError, match=r"task='x', expected"):
        build.check(toy(rollout__fn="stages.beside", rollout__options=dict(tables=tables)))


def bad_quantile(setup, *, q):
    if q * len(setup.verifier_names) > 1:
        raise ValueError(f"my_rollout: got q={q} of {setup.verifier_names} at {setup.tasks}")


def my_rollout(stream, tools, state, step, *, prompts, group, q=0.5):
    return sample.on_policy(stream, tools, state, step, prompts=prompts, group=group)


my_rollout.check = bad_quantile


def test_a_rollout_of_ones_own_says_what_does_not_suit():
    build.check(toy(rollout__fn=ME + "my_rollout"))
    with pytest.raises(config.ConfigError, match=r"my_rollout: got q=2.0 of \('digit',\) at \('ar"):
        build.check(toy(rollout__fn=ME + "my_rollout", rollout__options=dict(q=2.0)))


def test_samples_of_an_evaluation_that_a_beam_does_not_divide():
    changes = dict(rollout__fn="beam.steps", rollout__options=dict(expand=2), eval__samples=5)
    with pytest.raises(config.ConfigError, match=r"config.eval.samples: 5 as the group of steps:"):
        build.check(toy(**changes))
    build.check(toy(**changes | dict(eval__samples=0)))
    build.check(toy(**changes | dict(eval__samples=6)))


MODEL = dict(output="logp", table="pairs", loss=(dict(fn="preference.simpo"),))


@pytest.mark.parametrize("where", ["stages", "tables"])
def test_blocks_of_stages_and_of_other_tables_divide(where):
    """Each learner is held to the blocks of its own table, in every stage."""
    plain = dict(fn="sample.on_policy")
    if where == "stages":
        stages = (plain | dict(steps=1, prompts=6), plain)
        c = toy(rollout__fn="stages.by_step", rollout__options=dict(stages=stages))
        c.learner.minibatches = 2
        c.learner.micro_blocks = 1
        assert blocks.of_tables(c) == {"policy": {4, 6}}
        build.check(c)
        c.learner.micro_blocks = 2
        with pytest.raises(config.ConfigError, match="learner.micro_blocks: 2 .* the 3 blocks of"):
            build.check(c)
        return
    tables = dict(policy=plain, pairs=PAIR | dict(prompts=6))
    c = toy(rollout__fn="stages.beside", rollout__options=dict(tables=tables))
    c.learners.model = MODEL | dict(minibatches=3)
    assert blocks.of_tables(c) == {"policy": {4}, "pairs": {6}}
    build.check(c)
    assert [r.lower for r in memory.remedies("update", c) if "model.micro" in r.setting] == [1]
    c.learners.model.minibatches = 4
    with pytest.raises(config.ConfigError, match="model.minibatches: 4 does not divide the 6 bl"):
        build.check(c)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("eval__temperature", x) for x in (-1.0, 0.0, math.nan)),
        *(("pool__deadline", -1.0), ("pool__batch_deadline", 0.0), ("model__lora__alpha", 0.0)),
        *(("optim__b1", 1.0), ("optim__b2", -0.1), ("optim__eps", 0.0)),
        *(("optim__end_lr_fraction", -1.0), ("seed", -1), ("seed", 2**32)),
        ("verifiers", (dict(fn="tests.toy:always", name="a", weight=math.nan),)),
        ("tasks", (dict(fn="arithmetic.sums", weight=-1.0),)),
        ("loss", (dict(surrogate="surrogates.ppo_clip", coef=math.inf),)),
        ("learners__critic", dict(output="value", loss=("penalties.value_mse",), optim=dict(b1=2))),
    ],
)
def test_numbers_of_the_run_are_within_their_ranges(setting, value):
    with pytest.raises(config.ConfigError, match=r"config\..*: got .*, expected a number in [\[(]"):
        build.check(toy(**{setting: value}))


def test_a_string_is_no_tuple():
    for package, fn, key, value in (
        ("verifiers", "pattern.format", "tags", "answer"),
        ("verifiers", "abstain.abstain", "patterns", "I give up"),
        ("rollouts", "branch.branching", "until", "</think>"),
    ):
        more = dict(prompts=1, group=4) if package == "rollouts" else {}
        with pytest.raises(config.ConfigError, match=rf"{key}: got the string '{value}', expected"):
            config.resolve(package, fn, **{key: value}, **more)
        config.resolve(package, fn, **{key: (value,)}, **more)


def test_parts_of_an_argument_of_a_config():
    config.check_source("configs/judge.py:url=http://x/v1,fp_rate=0.336")  # its default
    with pytest.raises(config.ConfigError, match="the argument 'fprate=0.1' changes nothing"):
        config.check_source("configs/judge.py:url=http://x/v1,fprate=0.1")


def test_steps_belong_to_a_run_that_samples_ahead():
    """At its last step such a run samples nothing ahead, which a longer one would have."""
    loaded = load("toy")
    ids = [
        build.identity(toy(steps=n, rollout__overlap=o, optim__schedule="constant"), loaded)
        for n, o in ((3, 0), (4, 0), (3, 1), (4, 1))
    ]
    assert ids[0] == ids[1] and ids[2] != ids[3]
