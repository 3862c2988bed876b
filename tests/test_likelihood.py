"""Rewards from the likelihood of a reference answer: numbers, exact gradients, the rollouts."""

import functools
import itertools
import runpy
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import build, columns
from rlpt import tools as tools_lib
from rlpt.advantages import group
from rlpt.advantages import likelihood as credit
from rlpt.losses import aggregate, surrogates
from rlpt.models import load
from rlpt.rewards import likelihood
from rlpt.rollouts import reference
from rlpt.scorers import answers
from rlpt.settings import missing_by_verifier
from rlpt.tasks.base import Prompt, chat
from tests.numeric import both, close
from tests.test_train import ROOT, toy
from tests.toy import starts_with_digit

# ---- numbers


def of_answer(probs, count=None, **settings):
    """likelihood.of_answer of one row with these token probabilities."""
    probs = np.asarray(probs, np.float32)
    scored = jnp.arange(len(probs)) < (len(probs) if count is None else count)
    logp = jnp.log(jnp.asarray(probs))[None, None]
    return float(both(likelihood.of_answer, logp, scored[None], **settings)[0, 0])


def test_forms():
    p = [0.9, 0.8, 0.01]
    for form, want in (
        ("mean_prob", 0.57),
        ("prob", 0.0072),
        ("geometric", 0.193098),
        ("log_prob", -4.933674),
        ("mean_log_prob", -1.644558),
    ):
        assert of_answer(p, form=form) == pytest.approx(want, abs=1e-6), form
        assert of_answer([*p, 0.5, 0.5], 3, form=form) == pytest.approx(want, abs=1e-6), "padding"
    with pytest.raises(ValueError, match="got 'product', expected one of mean_prob, prob"):
        of_answer(p, form="product")


def test_rows_without_a_place_and_prompts_without_a_reference():
    logp = jnp.log(jnp.array([[[0.5, 0.5], [0.9, 0.9]], [[0.5, 0.5], [0.9, 0.9]]]))
    scored = jnp.array([[True, True], [False, False]])
    slot = jnp.array([[True, False], [True, True]])
    for form, here, none in (("mean_prob", 0.5, 0.0), ("prob", 0.25, 0.0), ("geometric", 0.5, 0.0),
                             ("log_prob", np.log(0.25), np.log(0.25) - 2.0),
                             ("mean_log_prob", np.log(0.5), np.log(0.5) - 1.0)):  # fmt: skip
        got = both(likelihood.of_answer, logp, scored, slot, form=form, floor=-50.0)
        close(got[0], [here, none], 1e-5, form)
        assert (got[1] == 0).all(), f"{form}: no reference, no signal"
        nobody = both(likelihood.of_answer, logp, scored, slot & False, form=form, floor=-50.0)
        assert len(set(nobody[0].tolist())) == 1, f"{form}: no place in any row, no signal"
    live = jnp.array([[True, False], [True, True]])
    got = likelihood.of_answer(logp, scored, slot.at[0].set([False, True]), live, form="log_prob")
    assert got[0, 0] == -100, "what a dead row says sets no worst"
    assert of_answer([0.0, 1.0], form="log_prob", floor=-7.0) == -7.0, "one token cannot drown all"


def test_a_long_answer_has_a_slope_in_log_form_only():
    """80 tokens with a sum of -120 and of -118: 7.7e-53 is 0 in float32."""
    logp = jnp.array([[[-1.5] * 80, [-1.475] * 80]])
    scored = jnp.ones((1, 80), bool)
    get = functools.partial(both, likelihood.of_answer, logp, scored, atol=1e-4)
    assert np.exp(-120.0) == pytest.approx(7.7e-53, rel=0.01)
    assert (get(form="prob") == 0).all()
    close(group.rloo(jnp.asarray(get(form="prob"))), [[0, 0]], what="no advantage at all")
    close(get(form="log_prob"), [[-120, -118]], 1e-3)
    close(get(form="mean_log_prob"), [[-1.5, -1.475]], 1e-5)
    close(group.rloo(jnp.asarray(get(form="log_prob"))), [[-2, 2]], 1e-3)


def test_rlpr_number():
    row = lambda *x: jnp.array([x])
    got = both(likelihood.rlpr, row(0.57, 0.1, 0.57), row(0.2, 0.2, 0.2), row(1.0, 1.0, 0.0))
    close(got, [[0.433, 0.1, 0.333]], what="a loss of likelihood counts as none")
    got = both(likelihood.rlpr, row(0.57, 0.57), row(0.2, 0.2), row(1.0, 0.0), strict=True)
    close(got, [[0.433, -1.0]])


def filtered(spreads, **settings):
    """Thresholds and kept prompts of batches of two prompts whose rewards are +-spread."""
    state, out = likelihood.std_filter.init(), []
    step = jax.jit(functools.partial(likelihood.std_filter.update, **settings))
    for a, b in spreads:
        rewards = jnp.array([[a, -a], [b, -b]])
        got, state = step(rewards, state)
        out.append((float(got["metrics/std_filter/threshold"]), got["train_mask"].all(1).tolist()))
    return out, state


def test_std_filter_numbers():
    """Five batches not looked at, five collected with a mean of .2, then .99 and .01."""
    first, collected = (
        [(9.0, 9.0)] * 5,
        [(0.1, 0.3), (0.2, 0.2), (0.3, 0.1), (0.4, 0.0), (0.2, 0.2)],
    )
    out, _ = filtered([*first, *collected, (0.02, 0.18), (0.0996, 0.0994)], ddof=0)
    assert out[:10] == [(0.0, [True, True])] * 10
    assert out[10][0] == pytest.approx(0.1, abs=1e-6) and out[10][1] == [False, True]
    assert out[11][0] == pytest.approx(0.0995, abs=1e-6), "0.5 (.99 .2 + .01 .1)"
    assert out[11][1] == [True, False]


def test_std_filter_leaves_out_what_is_not_there():
    rewards = jnp.array([[1.0, -1.0, np.nan], [5.0, 0.0, 0.0]])
    rows = jnp.array([[True, True, True], [True, False, False]])
    state = {"batches": jnp.int32(3), "mean": jnp.float32(0.0)}
    update = functools.partial(both, likelihood.std_filter.update)
    out, new = update(rewards, state, rows, ignore=2, collect=1, ddof=0)
    assert new["mean"] == pytest.approx(0.01), "the std of the one prompt that has one"
    none = jnp.zeros_like(rows)
    _, kept = update(rewards, new, none, ignore=2, collect=1)
    assert (kept["batches"], kept["mean"]) == (new["batches"], new["mean"]), "an empty batch"
    held = jnp.array([[True, False, True], [False] * 3])
    out, _ = update(rewards, state, rows, held, ignore=9)
    assert out["train_mask"].tolist() == held.tolist()
    with pytest.raises(ValueError, match="collect=0, expected >= 0 and >= 1 batches"):
        likelihood.std_filter.update(rewards, state, collect=0)


def test_verifree_and_jepo_numbers():
    r = jnp.array([[0.5, 0.1, 0.3, 0.1]])
    close(both(group.rloo, r), [[0.333333, -0.2, 0.066667, -0.2]], what="VeriFree")
    close(both(group.rloo, jnp.log(r)), [[1.243234, -0.902683, 0.562133, -0.902683]], what="log")
    out = both(credit.jepo, jnp.log(r))
    close(out["advantages"] / 4, [[0.405465, -0.182322, 0.068993, -0.182322]], what="JEPO")
    close(out["answer_weight"] / 4, [[0.5, 0.1, 0.3, 0.1]])
    wide = both(
        credit.jepo, jnp.log(jnp.array([[0.5, 0.1, 0.3, 0.1, 0.9]])), jnp.arange(5)[None] < 4
    )
    close(wide["advantages"][:, :4], out["advantages"], what="a row that is out")
    assert wide["advantages"][0, 4] == wide["answer_weight"][0, 4] == 0
    one = both(credit.jepo, jnp.log(r), jnp.arange(4)[None] < 1)
    assert (one["advantages"] == 0).all(), "one row has nothing to be compared with"


def test_bound_of_several_samples_grows():
    """E[log mean of n] rises with n; with n = 1 it is the plain log-likelihood."""
    probs, chance = np.array([0.6, 0.1, 0.02]), np.array([0.2, 0.5, 0.3])
    bounds = []
    for n in (1, 2, 3, 4):
        rows = np.array(list(itertools.product(range(3), repeat=n)))
        bounds.append(np.sum(chance[rows].prod(1) * np.log(probs[rows].mean(1))))
    assert bounds[0] == pytest.approx(np.sum(chance * np.log(probs)))
    assert (np.diff(bounds) > 0).all() and bounds[-1] < np.log(np.sum(chance * probs))
    assert np.log(np.mean([0.5, 0.1, 0.3, 0.1])) == pytest.approx(-1.386294, abs=1e-6)


# ---- gradients on a policy that can be enumerated: one token of reasoning, one of answer

LOGITS = {"reason": jnp.array([0.3, -0.5, 0.1]),
          "answer": jnp.array([[0.2, 1.0, -0.3], [-1.0, 0.4, 0.2], [0.5, 0.1, 0.9]])}  # fmt: skip
RIGHT = 1


def law(theta):
    return jax.nn.log_softmax(theta["reason"]), jax.nn.log_softmax(theta["answer"])


def objective(theta, form, n):
    """What each method climbs, with all groups of n reasonings listed."""
    reason, answer = law(theta)
    rows = np.array(list(itertools.product(range(3), repeat=n)))
    chance = jnp.exp(reason[rows].sum(1))
    l = answer[rows, RIGHT]
    value = {
        "prob": jnp.exp(l).mean(1),
        "log_prob": l.mean(1),
        "jepo": jax.nn.logsumexp(l, axis=1) - np.log(n),
    }[form]
    return jnp.sum(chance * value)


def estimate(theta, form, n):
    """The expected loss term of the method over all groups of n rows; only its gradient counts."""
    fixed = jax.lax.stop_gradient(theta)
    rows = np.array(list(itertools.product(range(3), repeat=n)))
    reason, answer = law(fixed)
    chance = jnp.exp(reason[rows].sum(1))
    slot = jnp.ones(rows.shape, bool)
    value = likelihood.of_answer(
        answer[rows, RIGHT][..., None], jnp.ones((len(rows), 1), bool), slot,
        form="prob" if form == "prob" else "log_prob",
    )  # fmt: skip
    advantages, weight = group.rloo(value), value if form == "prob" else jnp.ones_like(value)
    if form == "jepo":
        out = credit.jepo(value)
        advantages, weight = out["advantages"], out["answer_weight"]
    context = jnp.broadcast_to(jnp.array([True, False]), (*rows.shape, 2))
    per_token = credit.spliced(advantages, weight, context, slot)
    reason, answer = law(theta)
    logp = jnp.stack([reason[rows], answer[rows, RIGHT]], axis=-1)
    weights = aggregate.sequence_mean_token_sum(jnp.ones(logp.shape, bool)) * len(rows)
    each = jnp.sum(surrogates.reinforce(logp, per_token) * weights, axis=(1, 2))
    return jnp.sum(chance * each)


@pytest.mark.parametrize("form", ["prob", "log_prob", "jepo"])
def test_gradients_are_exact(form):
    want = jax.grad(objective)(LOGITS, form, 2)
    got = jax.grad(estimate)(LOGITS, form, 2)
    for name in LOGITS:
        assert np.abs(want[name]).max() > 1e-2
        close(got[name], want[name], 1e-6, f"{form}, {name}")


ROWS = ("S", "aS", "bS", "aa", "ab", "ba", "bb")  # reasoning that S ends, or the length limit
SLOT = np.array([row[-1] == "S" for row in ROWS])
TABLES = {"reason": jnp.array([[0.2, -0.4, 0.5], [0.1, 0.3, 0.8], [-0.6, 0.2, 0.4]]),
          "answer": jnp.array([[[0.2, -0.3], [0.9, 0.1]], [[1.1, 0.4], [-0.2, 0.5]],
                               [[-0.5, 0.3], [0.1, 0.2]]])}  # fmt: skip


def token_logps(theta):
    """Of each of ROWS [7,4] and which tokens it has: reasoning, then the right answer (0, 1)."""
    reason, answer = (jax.nn.log_softmax(theta[k]) for k in ("reason", "answer"))
    logp, there = [], []
    for row, slot in zip(ROWS, SLOT, strict=True):
        states = [0, *("ab".index(c) + 1 for c in row[:-1])]
        own = [reason[s, "abS".index(c)] for s, c in zip(states, row, strict=True)]
        own += [answer[states[-1], 0, 0], answer[states[-1], 1, 1]] * bool(slot)
        logp.append(jnp.stack([*own, *[jnp.zeros(())] * (4 - len(own))]))
        there.append([k < len(own) for k in range(4)])
    return jnp.stack(logp), jnp.array(there)


@pytest.mark.parametrize("n", [2, 3])
def test_gradients_are_exact_where_rows_differ_in_length(n):
    """Reasoning of one or two tokens, an answer of two, and rows without a place for it."""
    context = jnp.array([[k < len(row) for k in range(4)] for row in ROWS])
    groups = np.array(list(itertools.product(range(len(ROWS)), repeat=n)))

    def parts(theta):
        logp, there = token_logps(theta)
        z = jnp.sum(jnp.where(context, logp, 0), -1)
        answer = jnp.stack([row[len(r) : len(r) + 2] if s else jnp.zeros(2)
                            for row, r, s in zip(logp, ROWS, SLOT, strict=True)])  # fmt: skip
        return logp, there, z, answer

    def objective(theta):
        _, _, z, answer = parts(theta)
        return jnp.sum(jnp.where(SLOT, jnp.exp(z + answer.sum(-1)), 0))

    def estimate(theta):
        _, _, z, answer = parts(jax.lax.stop_gradient(theta))
        chance, slot = jnp.exp(z[groups].sum(1)), jnp.asarray(SLOT)[groups]
        scored = jnp.ones((len(groups), 2), bool)
        value = likelihood.of_answer(answer[groups], scored, slot, form="prob")
        per_token = credit.spliced(group.rloo(value), value, context[groups], slot)
        logp, there, _, _ = parts(theta)
        weights = aggregate.sequence_mean_token_sum(there[groups]) * len(groups)
        each = surrogates.reinforce(logp[groups], per_token) * weights
        return jnp.sum(chance * jnp.sum(each, axis=(1, 2)))

    want, got = jax.grad(objective)(TABLES), jax.grad(estimate)(TABLES)
    for name in TABLES:
        assert np.abs(want[name]).max() > 1e-2
        close(got[name], want[name], 1e-6, name)


def test_the_probability_is_less_noisy_than_a_sampled_answer():
    """Rao-Blackwell: with pi(y*|z) instead of 1[y = y*] the same mean, and no more variance."""

    def score(theta, z, y):
        reason, answer = law(theta)
        return reason[z] + answer[z, y]

    gradient = lambda z, y: np.concatenate(
        [np.ravel(x) for x in jax.tree.leaves(jax.grad(score)(LOGITS, z, y))]
    )
    reason, answer = (np.exp(x) for x in law(LOGITS))
    likely, sampled = [], []
    for z in range(3):
        likely.append((reason[z], answer[z, RIGHT] * gradient(z, RIGHT)))
        for y in range(3):
            hit = (y == RIGHT) * gradient(z, RIGHT)
            sampled.append((reason[z] * answer[z, y], hit))
    mean = lambda draws: sum(p * g for p, g in draws)
    spread = lambda draws: sum(p * np.sum((g - mean(draws)) ** 2) for p, g in draws)
    close(mean(likely), mean(sampled), 1e-6)
    assert spread(likely) < 0.9 * spread(sampled)


# ---- the rollouts

G = 32  # completions of a prompt: enough for some that say 1
MODEL = "toy:vocab=24,layers=1,width=16,heads=2,kv_heads=1,ff=16"
CONFIG = toy()
CONFIG.sampling.prompt_buckets, CONFIG.sampling.completion_buckets = (16,), (6,)


class Pool:
    """Judges in this process."""

    def verify(self, trajectories, prompts):
        return [
            {"digit": starts_with_digit(t, p)} for t, p in zip(trajectories, prompts, strict=True)
        ]


@pytest.fixture(scope="module")
def tools():
    loaded = load.load(MODEL)
    out = tools_lib.Tools(
        loaded.config, loaded.tokenizer, Pool(), CONFIG.sampling, missing_by_verifier(CONFIG),
        ["digit"], jax.random.key(0),
    )  # fmt: skip
    out.params = jax.tree.map(jnp.asarray, loaded.params)
    return out


class Prompts:
    """A stream of sums, of which the last has no answer and the one before a long one."""

    def take(self, n):
        answers = ["12", "7", "1234567", None][:n]
        return [(Prompt(f"p{i}", chat("1+1"), a), 0) for i, a in enumerate(answers)]


def run(tools, fn, **options):
    batches, _ = fn(Prompts(), tools, None, 0, prompts=4, group=G, **options)
    columns.check(batches["policy"].table)
    return batches["policy"]


def test_the_whole_reply_is_the_reasoning(tools):
    batch = run(tools, reference.answers, before="=", after=" .", width=6)
    t = batch.table
    encode = tools.tokenizer.encode
    want = encode("=") + encode("12") + encode(" .")
    assert t["answer_tokens"][0, :5].tolist() == want and t["answer_mask"][0].sum() == 5
    assert t["answer_scored"][0].tolist() == [False, True, True, True, True, False]
    assert not t["answer_mask"][2:].any() and not t["answer_slot"][2:].any()
    assert t["answer_slot"][:2].all()
    for i, j in np.ndindex(2, G):
        tokens = t["completion_tokens"][i, j][t["context_mask"][i, j]].tolist()
        whole = t["completion_tokens"][i, j][t["completion_mask"][i, j]].tolist()
        assert tokens == [x for x in whole if x not in tools.tokenizer.eos_ids]
    np.testing.assert_array_equal(t["context_mask"][2:], t["completion_mask"][2:])
    n = batch.outcomes
    assert (n["reference/slots"], n["reference/no_answer"], n["reference/no_slot"]) == (2 * G, 2, 0)
    with pytest.raises(ValueError, match="width: got 0"):
        run(tools, reference.answers, width=0)


def scorer(tools, t):
    """answers.answer_logp on the table of a rollout."""

    def model(table):
        lib = tools_lib.scoring
        return lib.outputs(tools.model, tools.params, table, entropy=False)

    names = ("prompt_tokens", "prompt_mask", "completion_tokens", "completion_mask", "temperature",
             "answer_tokens", "answer_mask", "context_mask")  # fmt: skip
    given = [jnp.asarray(t[name]) for name in names]
    return jax.jit(lambda *c: answers.answer_logp({"policy": model}, *c))(*given)


def test_the_answer_takes_the_place_of_the_rows_own(tools):
    settings = dict(until="1", before="=", after="<eos>", width=4)
    plain = run(tools, reference.answers, **settings)
    batch = run(tools, reference.spliced, **settings)
    old, t = plain.table, batch.table
    decode = functools.partial(tools.tokenizer.decode, skip_special=False)
    count = {0: 4, 1: 3}
    for i, j in np.argwhere(old["answer_slot"]).tolist():
        tokens = old["completion_tokens"][i, j][old["context_mask"][i, j]].tolist()
        assert decode(tokens).endswith("1") and decode(tokens).count("1") == 1
        fits = len(tokens) + count[i] <= 6
        assert t["answer_slot"][i, j] == fits
        row = t["completion_tokens"][i, j][t["completion_mask"][i, j]].tolist()
        trained = t["completion_tokens"][i, j][t["loss_mask"][i, j]].tolist()
        answer = ["12", "7"][i]
        if fits:
            assert decode(row) == f"{decode(tokens)}={answer}<eos>"
            assert decode(trained) == f"{decode(tokens)}{answer}<eos>", "what was put in between"
            assert not t["truncated"][i, j]
    assert t["answer_slot"].sum() > 2 and (old["answer_slot"] & ~t["answer_slot"]).any()
    rest = ~t["answer_slot"]
    for name in ("completion_tokens", "completion_mask", "loss_mask", "sampler_logp", "truncated"):
        np.testing.assert_array_equal(t[name][rest], old[name][rest], err_msg=name)
    np.testing.assert_array_equal(t["context_mask"][rest], t["completion_mask"][rest])
    np.testing.assert_array_equal(t["verdict/digit"], old["verdict/digit"])
    assert batch.text.completions == plain.text.completions, "of what was sampled"
    strict = run(tools, reference.answers, **settings, cut_off=False).table["answer_slot"]
    np.testing.assert_array_equal(strict, old["answer_slot"] & ~old["truncated"])
    assert (strict != old["answer_slot"]).any(), "no place in a row that was cut off"
    with pytest.raises(ValueError, match="until: got '', expected text that ends the reasoning"):
        run(tools, reference.spliced, until="")

    kept = {**old, "context_mask": t["context_mask"]}
    slot = t["answer_slot"][..., None]
    same = np.where(slot, scorer(tools, kept), 0)
    close(t["answer_logp"], same, 1e-4, "the scorer behind the row, the rollout in it")
    close(t["sampler_logp"], np.where(t["completion_mask"], tools.score(t)["logp"], 0), 1e-4)
    trained = np.where(t["loss_mask"], t["sampler_logp"], 0) * ~t["context_mask"] * slot
    scored = np.where(t["answer_scored"][:, None], t["answer_logp"], 0)
    close(trained.sum(-1), scored.sum(-1), 1e-4, "the answer's log-prob is that of its tokens")


def test_a_token_that_shows_some_of_the_answer_leaves_no_place():
    words = {1: "so ", 2: "<answer", 3: ">", 4: "<answer>12", 9: ""}
    tokenizer = types.SimpleNamespace(
        decode=lambda ids: "".join(words[i] for i in ids), eos_ids=(9,)
    )
    holder = types.SimpleNamespace(tokenizer=tokenizer)
    holder.tokens_until = functools.partial(tools_lib.Tools.tokens_until, holder)
    reasoning = functools.partial(reference._reasoning, holder)
    assert reasoning([1, 2, 3, 1], "<answer") == 2
    assert reasoning([1, 4], "<answer") is None and reasoning([1, 4], "<answer>") is None
    assert reasoning([1, 1], "<answer") is None
    assert reasoning([1, 2, 9], "") == 2 and reasoning([1, 2], "") == 2 and reasoning([], "") == 0


def test_columns_have_the_axes_that_they_declare(tools):
    """An axis of the rollout's own is neither the prompt's nor the completion's."""
    config = toy(rollout__fn="reference.spliced")
    config.rollout.options = dict(until="1", width=4)
    table = build.abstract_table(config)
    real = run(tools, reference.spliced, until="1", width=4).table
    for name, (axes, _) in reference.spliced.columns.items():
        assert table[name].ndim == real[name].ndim == len(axes)
        assert table[name].dtype == real[name].dtype, name
    assert table["answer_tokens"].shape[1] not in table["completion_tokens"].shape


def test_the_arm_of_the_config():
    config = runpy.run_path(str(ROOT / "configs/verifree.py"))["get_config"]("jepo")
    assert config.advantage[0] == "likelihood.jepo"
    build.check(config)
