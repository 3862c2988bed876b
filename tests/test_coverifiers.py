"""A policy that judges itself, and a reward model that learns with it: RISE, LaSeR, Cooper."""

import json
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import build, columns, learners, scoring
from rlpt import config as config_lib
from rlpt import tools as tools_lib
from rlpt.advantages import group
from rlpt.advantages import verification as advantages_lib
from rlpt.losses import aggregate, preference
from rlpt.losses import verification as losses_lib
from rlpt.models.load import load
from rlpt.rewards import models as reward_models
from rlpt.rewards import verification
from rlpt.rollouts import cooper, laser, rise, sample
from rlpt.scorers import verification as scorers_lib
from rlpt.settings import missing_by_verifier
from rlpt.tasks import base
from tests.numeric import both, close
from tests.test_guidance import Judge, prompt, stream
from tests.test_train import ROOT, toy

MODEL = "toy:layers=1,width=16,heads=2,kv_heads=1,ff=16"
CONFIG = toy(sampling__prompt_buckets=(64, 128), model__source=MODEL)
PROMPTS = [prompt(i) for i in range(4)]


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def make():
    loaded = load(MODEL)
    params = jax.tree.map(jnp.asarray, loaded.params)

    def tools(*calls, names=("digit",), **missing):
        policies = missing_by_verifier(CONFIG)
        policies["digit"] = {**policies["digit"], **missing}
        out = tools_lib.Tools(
            loaded.config, loaded.tokenizer, Judge(*calls), CONFIG.sampling, policies, list(names),
            jax.random.key(6),
        )  # fmt: skip
        out.params = params
        return out

    return tools


def column(*rows, dtype=jnp.float32):
    return jnp.asarray(rows, dtype)


# ---- RISE

RISE = dict(
    prompts=4, group=4, checks=2, template="{question}{reply}|{correct} {incorrect} {unparsable}"
)


def verified(tools, step=0, **settings):
    given = stream(*PROMPTS)
    return rise.verifying(given, tools, None, step, **{**RISE, **settings})[0]["policy"]


def test_questions_about_replies_are_prompts_of_their_own(make):
    tools = make("1u00 x010", "1011 u100", unparsable="-1")
    batch = verified(tools)
    columns.check(batch.table)
    first, second = tools.pool.seen
    assert batch.table["group"].tolist() == [0, 1, 2, 3]
    assert (
        batch.table["row_mask"].tolist()
        == [[True] * 4, [False, True, True, True]] + [[True] * 4] * 2
    )
    said = dict(zip("10u", rise.OUTCOMES, strict=True))
    outcomes = [said[c] for c in "1u00010"]  # a reply without a verdict is not asked about
    replies = [t.text for (t, _), c in zip(first, "1u00x010", strict=True) if c != "x"]
    of = dict(zip(rise.OUTCOMES, rise.LABELS, strict=True))
    for question in (second[0][1], second[4][1]):
        about = [k for k in range(7) if f"={replies[k]}|1 -0.5 -1" in question.question]
        assert of[outcomes[about[0]]] == question.answer
        assert question.verifier == "digit" and question.id in ("p0#check", "p1#check")
        assert question.messages == base.chat(question.question)
    n = batch.outcomes
    assert (n["digit/correct"], n["digit/unparsable"], n["digit/timeout"]) == (2, 1, 1)
    assert n["rise/checks"] == 2 and n["rise/too_long"] == 0
    assert batch.table["train_mask"].all()
    read = verified(make("1u00 x010", "1011 u100", unparsable="-1"), train=False)
    assert read.table["train_mask"].all(1).tolist() == [True, True, False, False]
    assert not read.table["train_mask"][2:].any() and read.outcomes == n
    kinds = [{v: k for k, v in of.items()}[second[4 * k][1].answer] for k in (0, 1)]
    want = dict.fromkeys(rise.OUTCOMES, 0)
    for kind, right in zip(kinds, (3, 1), strict=True):
        want[kind] += right
    assert {k: n[f"rise/{k}/right"] for k in rise.OUTCOMES} == want
    assert sum(n[f"rise/{k}/rows"] for k in rise.OUTCOMES) == 8


def test_the_first_task_is_that_of_plain_rollouts(make):
    plain = sample.on_policy(stream(*PROMPTS), make("1000 0110"), None, 0, prompts=2, group=4)
    plain, mine = plain[0]["policy"].table, verified(make("1000 0110", "0" * 8)).table
    for name in ("completion_tokens", "sampler_logp", "verdict/digit", "origin", "row_mask"):
        np.testing.assert_array_equal(mine[name][:2], plain[name], err_msg=name)
    assert not mine["origin"].any()


def test_labels_are_the_three_levels(make):
    """Whatever is judged, a question's reference answer is 1, -0.5 or -1, and so is its reward."""
    seen = set()
    for step in range(3):
        tools = make("1u00 u010", "1" * 24, unparsable="-1")
        batch = verified(tools, step, prompts=8, checks=6)
        answers = [p.answer for p in batch.text.prompts[2:]]
        assert len(set(zip(answers, batch.text.prompt_text[2:], strict=True))) == 6, "all different"
        seen |= set(answers)
        rewards = verification.graded(jnp.asarray(batch.table["verdict/digit"][:2]))
        close(rewards, [[1, -1, -0.5, -0.5], [-1, -0.5, 1, -0.5]])
    assert seen == {"1", "-0.5", "-1"}


def test_the_choice_of_replies_depends_on_the_step_and_not_on_the_call(make):
    def asked(step):
        batch = verified(make("1000 0110", "0" * 8), step)
        return batch.text.prompt_text[2:]

    assert asked(0) == asked(0)
    assert len({tuple(x.split("|")[0] for x in asked(step)) for step in range(4)}) > 1


def test_where_no_question_fits_blocks_are_empty(make):
    batch = verified(make("1000 0110", ""), template="x" * 200 + "{reply}")
    columns.check(batch.table)
    assert batch.table["group"].tolist() == [0, 1, -1, -1]
    assert batch.outcomes["rise/too_long"] == 8 and batch.outcomes["rise/checks"] == 0


@pytest.mark.parametrize(
    "settings, match",
    [
        (dict(checks=4), "checks: got 4, expected 1 to prompts - 1 = 3"),
        (dict(checks=0), "checks: got 0"),
        (dict(labels=("1", "1", "0")), "expected three different ones"),
        (dict(verifier="other"), "verifier='other', expected one of digit"),
    ],
)
def test_rise_settings_that_cannot_work(make, settings, match):
    with pytest.raises(ValueError, match=match):
        verified(make(), **settings)


def test_three_levels():
    close(both(verification.graded, column([1, 0, -1, 0.75])), [[1, -0.5, -1, 1]])


# ---- LaSeR: numbers

SAID, RIGHT = column([0.9, 0.8, 0.3, 0.1]), column([1.0, 1.0, 0.0, 0.0])
WHOLE = jnp.zeros((1, 4), bool)


def test_self_reward_numbers():
    logp = column([-23.0, -18.0, -13.0, -15.0])
    got = both(verification.self_reward, logp, jnp.full((1, 4), -23.0))["self_rewards"]
    close(got, [[0.0, 0.5, 1.0, 0.8]], atol=1e-6)
    assert ((got > 0.5) == [[False, False, True, True]]).all()


def as_tokens(said, reference=-23.0, beta=0.1):
    """logp [P,G,2] of which the second token is the verdict, and the completion_mask."""
    logp = jnp.stack([jnp.full(said.shape, -0.3), said / beta + reference], -1)
    return logp, jnp.ones(logp.shape, bool)


def test_squared_error_number_and_its_place():
    logp, mask = as_tokens(SAID)
    reference = jnp.full((1, 4), -23.0)
    value = both(losses_lib.self_reward_mse, logp, reference, mask, RIGHT, atol=1e-5)
    close(value[..., 0], np.zeros((1, 4)))
    close(value[..., 1].mean(), 0.0375, atol=1e-5)
    short = mask.at[0, 0, 1].set(False)
    value = losses_lib.self_reward_mse(logp, reference, short, RIGHT)
    assert value[0, 0, 0] > 0 and value[0, 0, 1] == 0, "the last token of the completion"
    loss = lambda x, c: losses_lib.self_reward_mse(x, c, mask, RIGHT).sum()  # noqa: E731
    close(jax.grad(loss)(logp, reference)[..., 1], 2 * 0.1 * (SAID - RIGHT), atol=1e-5)
    other = reference.at[0, 1].set(jnp.nan)  # a row of another stage, whose coefficient may be 0
    slope = jax.grad(loss)(logp, other)
    assert np.isfinite(loss(logp, other)) and np.isfinite(slope).all()
    close(slope[0, 1], np.zeros(2)), close(slope[0, 0, 1], 2 * 0.1 * (SAID - RIGHT)[0, 0], 1e-5)


def test_class_weight_numbers():
    mask = jnp.ones((1, 4, 2), bool)
    right = column([0.0, 1.0, 0.0, 0.0])
    weights = both(losses_lib.class_balanced, mask, right, WHOLE)
    close(weights[..., 1] * 4, [[0.666667, 2.0, 0.666667, 0.666667]], atol=1e-6)
    close(weights.sum(), 1.0)
    assert not weights[..., 0].any(), "only behind the completion"
    cut = WHOLE.at[0, 0].set(True)
    weights = losses_lib.class_balanced(mask, right, cut)
    close(weights[0, :, 1], [0, 0.5, 0.25, 0.25])
    dead = losses_lib.class_balanced(mask, right, WHOLE, ~cut, jnp.ones((1, 4), bool))
    close(dead, weights)
    one = losses_lib.class_balanced(mask, jnp.zeros((1, 4)), WHOLE)
    close(one[0, :, 1], [0.125] * 4, what="an empty class has no weight, the other its half")
    assert not losses_lib.class_balanced(mask, right, ~WHOLE).any()


def test_mixed_advantage_numbers():
    verdicts = group.grpo(RIGHT, eps=0.0)
    close(verdicts, [[0.866025, 0.866025, -0.866025, -0.866025]], atol=1e-6)
    own = [0.970947, 0.712028, -0.582568, -1.100406]
    mixed = [0.876518, 0.850626, -0.83768, -0.889463]
    run = lambda *c, **s: both(advantages_lib.self_mixed, *c, eps=1e-9, **s)
    close(run(verdicts, SAID, WHOLE, share=1.0), [own], atol=1e-5)
    close(run(verdicts, SAID, WHOLE, share=0.1), [mixed], atol=1e-5)
    assert np.std(np.asarray(SAID), ddof=1) == pytest.approx(0.386221, abs=1e-6)
    close(run(verdicts, SAID, WHOLE, share=1.0, min_std=0.3863), verdicts, atol=1e-6)
    close(run(verdicts, SAID, WHOLE, share=0.0), verdicts, atol=1e-6)
    tokens = jnp.broadcast_to(verdicts[..., None], (1, 4, 3))
    close(run(tokens, SAID, WHOLE, share=0.1), np.repeat([mixed], 3, 0).T[None], atol=1e-5)


def test_mixed_advantages_clip_cut_off_and_leave_out():
    verdicts = group.grpo(RIGHT)
    run = lambda said, cut=WHOLE, rows=None: advantages_lib.self_mixed(
        verdicts, column(said), cut, rows, share=1.0
    )
    close(run([9.0, 1.0, -3.0, 0.0]), group.grpo(column([1.0, 1.0, 0.0, 0.0])), atol=1e-6)
    cut = WHOLE.at[0, 0].set(True)
    close(run([0.9, 0.8, 0.3, 0.1], cut), group.grpo(column([0.0, 0.8, 0.3, 0.1])), atol=1e-6)
    rows = ~cut
    got = run([jnp.nan, 0.8, 0.3, 0.1], WHOLE, rows)
    close(got, group.grpo(column([5.0, 0.8, 0.3, 0.1]), rows), atol=1e-6)


def test_agreement():
    rows = jnp.array([[True, True, True, True, False, True]])
    said = column([0.9, 0.2, 0.8, 0.1, 0.9, 0.9])
    right = column([1.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    cut = jnp.array([[False] * 5 + [True]])
    got = both(verification.agreement, said, right, cut, rows)
    # one right and one wrong verdict on each side
    want = dict.fromkeys(("on_correct", "on_wrong", "accuracy", "f1"), 0.5)
    want |= dict(error=(0.1 + 0.8) * 2 / 4, auc=0.75, pairs=4)
    want = {f"metrics/self/{k}": v for k, v in want.items()}
    assert {k: float(v) for k, v in got.items()} == pytest.approx(want, abs=1e-6)
    sure = verification.agreement(right, right, cut, rows)
    assert float(sure["metrics/self/f1"]) == 1 and float(sure["metrics/self/error"]) == 0
    assert float(sure["metrics/self/auc"]) == 1
    none = verification.agreement(said, right, cut | True, rows)
    assert float(none.pop("metrics/self/auc")) == 0.5  # of no pairs
    assert not any(float(v) for v in none.values())


# ---- LaSeR: the token behind a completion


def test_a_token_is_appended_read_and_not_trained(make):
    tools = make("1000 0110", "1000 0110")
    run = dict(prompts=2, group=4, token="<unk>")
    batches, state = laser.marked(stream(*PROMPTS), tools, None, 0, **run)
    batch = batches["policy"]
    columns.check(batch.table)
    table, unk = batch.table, tools.tokenizer.encode("<unk>")[0]
    assert table["completion_tokens"].shape == (2, 4, tools.width)
    length = table["completion_mask"].sum(-1)
    trained = table["loss_mask"].sum(-1)
    np.testing.assert_array_equal(trained, length - 1)
    assert (trained == tools.width - 1).any() and table["truncated"].any(), "a full row has room"
    plain = sample.on_policy(stream(*PROMPTS), make("0" * 8), None, 0, prompts=2, group=4)
    for i, j in np.ndindex(2, 4):
        n = trained[i, j]
        assert table["completion_tokens"][i, j, n] == unk and table["sampler_logp"][i, j, n] == 0
        np.testing.assert_array_equal(
            table["completion_tokens"][i, j, :n],
            plain[0]["policy"].table["completion_tokens"][i, j, :n],
        )
    outputs = tools.score(table)
    logp = np.asarray(scorers_lib.self_logp(outputs["logp"], table["completion_mask"]))
    last = np.take_along_axis(np.asarray(outputs["logp"]), trained[..., None], -1)[..., 0]
    close(logp, last)
    assert state == {"reference": pytest.approx(logp.mean(), abs=1e-5)}
    assert json.loads(json.dumps(state)) == state
    close(table["self_reference"], np.full((2, 4), state["reference"]))
    again, later = laser.marked(stream(*PROMPTS), tools, {"reference": -7.0}, 1, **run)
    assert later == {"reference": -7.0} and (again["policy"].table["self_reference"] == -7).all()
    _, given = laser.marked(stream(*PROMPTS), make("0" * 8), None, 0, reference_logp=-23.0, **run)
    assert given == {"reference": -23.0}


def test_the_verdict_is_of_the_completion_with_its_end(make):
    """Changing the completion's last own token changes the appended token's log-prob."""
    tools = make("0" * 8)
    run = dict(prompts=2, group=4, token="<unk>")
    table = laser.marked(stream(*PROMPTS), tools, None, 0, **run)[0]["policy"].table
    logp = lambda: np.asarray(
        scorers_lib.self_logp(tools.score(table)["logp"], table["completion_mask"])
    )
    before, n = logp(), int(table["loss_mask"][0, 0].sum())
    table["completion_tokens"][0, 0, n - 1] = 7
    assert abs(logp()[0, 0] - before[0, 0]) > 1e-4
    close(np.delete(logp().ravel(), 0), np.delete(before.ravel(), 0), atol=1e-6)


def test_what_laser_cannot_use(make):
    run = dict(prompts=2, group=4)
    with pytest.raises(ValueError, match="'ab', which is 2 tokens, expected one"):
        laser.marked(stream(*PROMPTS), make(), None, 0, token="ab", **run)
    tools = make()
    tools.sampling = tools.sampling.copy_and_resolve_references()
    tools.sampling.temperature = 0.7
    with pytest.raises(ValueError, match=r"temperature=0.7, expected 1"):
        laser.marked(stream(*PROMPTS), tools, None, 0, token="<unk>", **run)


def test_without_shares_laser_is_grpo():
    """share 0 and weight 0 leave nothing but the group's advantages."""
    advantages = group.grpo(RIGHT)
    close(advantages_lib.self_mixed(advantages, SAID, WHOLE, share=0.0), advantages)


# ---- Cooper


COOPER = dict(
    prompts=4, group=4, rewrite="{question} not {solution}", context="{question} {answer}"
)


@pytest.fixture(scope="module")
def contrasted(make):
    """Prompt 0 is rewritten at once, prompt 1 at the third try, 2 has nothing right, 3 never."""
    tools = make("0110 1000 0000 0001", "0 11", "x1", "01")
    return tools, *cooper.contrasted(stream(*PROMPTS), tools, "kept", 0, **COOPER)


def test_pairs_are_a_right_completion_and_a_wrong_rewriting(contrasted):
    tools, batches, state = contrasted
    batch, pairs = batches["policy"], batches["pairs"]
    columns.check(batch.table)
    columns.check(pairs.table)
    assert state == "kept"
    table = pairs.table
    assert table["row_mask"].tolist() == [[True] * 2, [True] * 2, [False] * 2, [False] * 2]
    assert table["preference"].tolist() == [[1, 0]] * 4
    for i, first in ((0, 1), (1, 0)):
        assert pairs.text.completions[i][0] == batch.text.completions[i][first]
        np.testing.assert_array_equal(
            table["completion_tokens"][i, 0], batch.table["completion_tokens"][i, first]
        )
        assert table["verdict/digit"][i].tolist() == [1, 0]
    seen = tools.pool.seen
    assert [len(x) for x in seen] == [16, 3, 2, 2]
    assert pairs.text.completions[0][1] == seen[1][0][0].text
    assert pairs.text.completions[1][1] == seen[3][0][0].text
    assert {p.id for x in seen for _, p in x} == {"p0", "p1", "p2", "p3"}
    assert seen[1][0][1] == PROMPTS[0], "judged as an answer to the question"
    n = {k[7:]: v for k, v in batch.outcomes.items() if k.startswith("cooper/")}
    assert n == dict(positives=3, too_long=0, rewritings=7, pairs=2)
    assert batch.outcomes["digit/correct"] == 4


def test_the_reward_model_reads_the_reference_answer(contrasted):
    tools, batches, _ = contrasted
    for table, tokens, mask in (
        (batches["pairs"].table, "prompt_tokens", "prompt_mask"),
        (batches["policy"].table, "judge_tokens", "judge_mask"),
    ):
        text = [
            tools.tokenizer.decode(t[m]) for t, m in zip(table[tokens], table[mask], strict=True)
        ]
        assert text == [f"{i} + {i} = {2 * i}" for i in range(4)]
    assert "judge_tokens" not in batches["pairs"].table


def test_pairs_without_a_right_row_or_a_wrong_rewriting_do_not_count(contrasted):
    _, batches, _ = contrasted
    table = batches["pairs"].table
    rng = np.random.default_rng(0)
    value = jnp.asarray(rng.normal(size=table["loss_mask"].shape), jnp.float32)

    def loss(value, rows):
        terms = preference.bradley_terry(value, table["loss_mask"], table["preference"], rows)
        weights = aggregate.sequence_mean_token_mean(table["loss_mask"], rows)
        return jnp.sum(jnp.where(weights != 0, terms * weights, 0.0))

    last = table["loss_mask"].sum(-1)[:2, :, None] - 1
    score = np.take_along_axis(np.asarray(value)[:2], last, -1)[..., 0]
    want = np.log1p(np.exp(score[:, 1] - score[:, 0])).mean()
    got, slope = jax.value_and_grad(loss)(value, table["row_mask"])
    assert float(got) == pytest.approx(want, abs=1e-5)
    assert np.abs(slope[:2]).max() > 0.01 and not np.asarray(slope[2:]).any()
    none = np.zeros((4, 2), bool)
    assert float(loss(value, none)) == 0 and np.isfinite(jax.grad(loss)(value, none)).all()


def test_a_context_that_does_not_fit_has_no_reward(make):
    long = base.Prompt("p1", PROMPTS[1].messages, answer="9" * 200)
    given = stream(PROMPTS[0], long, *PROMPTS[2:])
    tools = make("1000 1000 0000 0000", "0")
    batches, _ = cooper.contrasted(given, tools, None, 0, **COOPER)
    table = batches["policy"].table
    columns.check(table)
    assert table["row_mask"].sum(1).tolist() == [4, 0, 4, 4]
    assert batches["policy"].outcomes["cooper/too_long"] == 1
    assert batches["pairs"].table["row_mask"].sum(1).tolist() == [2, 0, 0, 0]


def test_cooper_settings_that_cannot_work(make):
    for wrong in (dict(tries=0), dict(group=1)):
        with pytest.raises(ValueError, match="expected >= 1 and >= 2"):
            cooper.contrasted(stream(*PROMPTS), make(), None, 0, **{**COOPER, **wrong})


def test_scores_under_another_context(contrasted):
    """Under the prompt's own tokens a scorer says what the learner writes; elsewhere it differs."""
    tools, batches, _ = contrasted
    config = toy(model__source=MODEL)
    config.learners.judge = dict(loss=(dict(fn="penalties.value_mse"),))
    made = build.make_learners(config, tools.model)
    params = scoring.value_params(tools.params)
    kernel = jax.random.normal(jax.random.key(0), params["value_head"]["kernel"].shape)
    params["value_head"] = {"kernel": kernel, "bias": jnp.float32(0.5)}
    table = {k: jnp.asarray(v) for k, v in batches["policy"].table.items()}
    entry = config_lib.entry(
        "scorers", dict(fn="verification.in_context", model="judge", writes="values")
    )
    models = {"policy": (made["policy"], tools.params), "judge": (made["judge"], params)}

    @jax.jit
    def values(table):
        return learners.score_columns((entry,), models, table, [{}], 0)["values"]

    wider = ((0, 0), (table["judge_mask"].shape[1] - table["prompt_mask"].shape[1], 0))
    own = {k: jnp.pad(table[f"prompt_{k}"], wider) for k in ("tokens", "mask")}
    same = {**table, "judge_tokens": own["tokens"], "judge_mask": own["mask"]}
    own = jax.jit(made["judge"].outputs)(params, table)["value"]
    close(values(same), own, atol=1e-5)
    assert np.abs(values(table) - own).max() > 1e-3, "the reference answer is seen"
    rewards = reward_models.last_value(values(table), table["loss_mask"], squash=True)
    assert ((rewards > 0) & (rewards < 1)).all() and np.ptp(rewards) > 1e-3
    with pytest.raises(ValueError, match="output: got 'logp', expected of 'judge': value"):
        wrong = config_lib.entry(
            "scorers", dict(fn="verification.in_context", model="judge", output="logp")
        )
        jax.eval_shape(lambda t: learners.score_columns((wrong,), models, t, [{}], 0), table)


def test_losses_on_other_tables_are_checked_before_the_run():
    def config(name, **changes):
        c = runpy.run_path(str(ROOT / f"configs/{name}.py"))["get_config"]("runlocal")
        (learner,) = c.learners.values()
        learner.update(changes)
        return c

    for name in ("cooper", "reward_model"):
        build.check(config(name))
    typo = dict(fn="preference.bradley_terry", reads=dict(preference="prefernce"))
    with pytest.raises(
        config_lib.ConfigError, match="needs the column 'prefernce'.*mean 'preference'"
    ):
        build.check(config("cooper", loss=(typo,)))
    with pytest.raises(
        config_lib.ConfigError, match="table: got 'pears', expected 'policy' or 'pairs'"
    ):
        build.check(config("cooper", table="pears"))
    with pytest.raises(config_lib.ConfigError, match="'ref_logp', which nothing makes"):
        dpo = dict(output="logp", loss=(dict(fn="preference.dpo"),), writes="")
        build.check(config("reward_model", **dpo))
