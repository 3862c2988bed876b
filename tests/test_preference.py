"""Losses on pairs, their tables, and recipes of several stages."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import build, columns, records
from rlpt import tools as tools_lib
from rlpt import train as train_lib
from rlpt.config import ConfigError
from rlpt.losses import aggregate, preference
from rlpt.models.load import load
from rlpt.rewards import models
from rlpt.rollouts import pairs, sample, stages
from rlpt.settings import missing_by_verifier
from rlpt.tasks.base import Prompt, chat
from rlpt.tasks.stream import Stream
from rlpt.verifiers.pool import VerifierPool
from tests.numeric import both, close
from tests.test_train import lines, params_of, same, toy

NAN = np.nan


@pytest.fixture(scope="module", autouse=True)
def _compile_fast():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def rows(x):
    return jnp.asarray(x, jnp.float32)


def total(value, loss_mask, row_mask=None):
    """The loss that a learner makes of it: the mean over rows."""
    weights = aggregate.sequence_mean_token_mean(loss_mask, row_mask)
    return float(jnp.sum(jnp.where(weights != 0, value * weights, 0.0)))


# --- worked numbers -----------------------------------------------------------------------------

# Two rows of 5 and 8 tokens whose log-probs sum to -10 and -12, under the reference to -11, -11.5.
LENGTH = np.array([5, 8])
TOKENS = jnp.asarray(np.arange(8) < LENGTH[None, :, None])
LOGP, REF = (
    jnp.where(TOKENS, rows(np.array(x)[None, :, None] / LENGTH[None, :, None]), 9.0)
    for x in ([-10.0, -12.0], [-11.0, -11.5])
)
FIRST = rows([[1, 0]])


@pytest.mark.parametrize(
    ("fn", "columns", "settings", "want"),
    [
        ("dpo", (LOGP, REF), {}, 0.620957),
        ("dpo", (LOGP, REF), {"smoothing": 0.1}, 0.9 * 0.620957 + 0.1 * 0.770957),
        ("dpo", (LOGP, REF), {"per_token": True}, np.log1p(np.exp(-0.1 * (0.2 + 0.0625)))),
        ("ipo", (LOGP, REF), {}, 12.25),
        ("ipo", (LOGP, REF), {"per_token": True}, (0.2625 - 5) ** 2),
        ("simpo", (LOGP,), {"beta": 2.0, "gamma": 1.0}, 2.126928),
        ("orpo", (LOGP,), {}, 1.042058),
    ],
)
def test_numbers_of_a_pair(fn, columns, settings, want):
    value = both(getattr(preference, fn), *columns, TOKENS, FIRST, atol=4e-6, **settings)
    assert total(value, TOKENS) == pytest.approx(want, rel=2e-6)
    assert (value[~np.asarray(TOKENS)] == 0).all()


def test_kto_numbers():
    baseline = rows([[0.5, 0.5]])
    value = both(preference.kto, LOGP, REF, TOKENS, FIRST, baseline)
    close(value[0, :, 0], [0.487503, 0.475021], what="desirable, undesirable")
    heavy = both(preference.kto, LOGP, REF, TOKENS, FIRST, baseline, desirable=1.5, undesirable=2.0)
    close(heavy[0, :, 0], [1.5 * 0.487503, 2 * 0.475021])
    some = both(preference.kto, LOGP, REF, TOKENS, rows([[1, NAN]]))
    close(some[0, :, 0], [1 / (1 + np.exp(0.1)), 0], what="no baseline is 0, no label nothing")


def test_bradley_terry_numbers():
    """Scores 1.5 and 0.5, at the last token."""
    last = np.asarray(TOKENS) & (np.arange(8) == LENGTH[None, :, None] - 1)
    value = jnp.where(last, rows([[[1.5], [0.5]]]), 7.0)
    clear = rows([2.0])

    def loss(*more, **settings):
        return total(
            both(preference.bradley_terry, value, TOKENS, FIRST, None, *more, **settings), TOKENS
        )

    assert loss() == pytest.approx(0.313262, abs=1e-6)
    assert loss(margin=0.5) == pytest.approx(0.474077, abs=1e-6)
    assert loss(clear, margin=0.25) == pytest.approx(0.474077, abs=1e-6), "of its strength"
    assert loss(clear, scaled=True) == pytest.approx(2 * 0.313262, abs=1e-6)
    assert loss(smoothing=0.2) == pytest.approx(0.8 * 0.313262 + 0.2 * 1.313262, abs=1e-6)
    assert loss(centre=0.01) == pytest.approx(0.313262 + 0.04, abs=1e-6)
    assert loss(length_cost=0.1) == pytest.approx(np.log1p(np.exp(-1.3)), abs=1e-6)
    shifted = preference.bradley_terry(value + 3.0, TOKENS, FIRST)
    assert total(shifted, TOKENS) == pytest.approx(loss(), abs=1e-6), "any shift of a prompt"
    centred = preference.bradley_terry(value + 3.0, TOKENS, FIRST, centre=0.01)
    assert total(centred, TOKENS) == pytest.approx(0.313262 + 0.64, abs=1e-6), "but not here"
    none = lambda v: preference.bradley_terry(v, TOKENS, FIRST * NAN, None, rows([NAN]))  # noqa: E731
    slope = jax.grad(lambda v: none(v).sum())(value)
    close(slope, np.zeros(slope.shape), what="a block of another stage: no pair, no strength")
    score = both(models.last_value, value, TOKENS)
    close(score, [[1.5, 0.5]], what="what it learnt is what it rewards")
    close(both(models.last_value, value, TOKENS, squash=True), 1 / (1 + np.exp([[-1.5, -0.5]])))
    dead = both(models.last_value, value, TOKENS.at[0, 0].set(False), jnp.asarray([[True, False]]))
    close(dead, [[0, 0]])


def test_nll():
    value = both(preference.nll, LOGP, FIRST)
    close(value[0, 0, :5], [2.0] * 5), close(value[0, 1], np.zeros(8), what="not the rejected one")
    close(preference.nll(LOGP, rows([[NAN, NAN]])), -LOGP, what="no preference: all")
    close(preference.nll(LOGP), -LOGP)
    assert 2 * total(value, TOKENS) == pytest.approx(2.0), "alpha 1: the mean over the chosen row"
    both_terms = 2 * total(value, TOKENS) + 0.1 * total(
        preference.orpo(LOGP, TOKENS, FIRST), TOKENS
    )
    assert both_terms == pytest.approx(2.0 + 0.1 * 1.042058, abs=1e-6), "ORPO, a pair"


# --- invariants ---------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
X, R = (rows(RNG.normal(-1, 0.5, (3, 4, 6))) for _ in range(2))
MASK = jnp.asarray(np.arange(6) < RNG.integers(1, 7, (3, 4, 1)))
RANK = rows([[2, 0, 1, NAN], [0, 0, 3, 3], [1, 1, NAN, NAN]])
WITH_REFERENCE = {"dpo": (0.1, np.log(2)), "ipo": (0.25, 4.0)}
PAIRED = {
    "dpo": lambda x, *rest, **more: preference.dpo(x, R, *rest, **more),
    "ipo": lambda x, *rest, **more: preference.ipo(x, R, *rest, **more),
    "simpo": preference.simpo,
    "orpo": preference.orpo,
    "bradley_terry": preference.bradley_terry,
}


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_only_the_ratio_to_the_reference_counts(name):
    fn, (beta, at_reference) = getattr(preference, name), WITH_REFERENCE[name]
    moved = fn(X + 0.7, R + 0.7, MASK, RANK, beta=beta)
    close(moved, fn(X, R, MASK, RANK, beta=beta), atol=1e-5)
    value = np.asarray(fn(R, R, MASK, RANK, beta=beta))
    paired = np.asarray(MASK) & np.array([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])[..., None] > 0
    close(value, np.where(paired, at_reference, 0), atol=1e-5, what="ln 2, 1 / (4 beta^2)")


def test_kto_at_the_reference_and_moved():
    moved = preference.kto(X + 0.7, R + 0.7, MASK, RANK)
    close(moved, preference.kto(X, R, MASK, RANK), atol=1e-5)
    value = np.asarray(preference.kto(R, R, MASK, RANK))
    close(value, np.where(np.asarray(MASK) & ~np.isnan(RANK)[..., None], 0.5, 0), what="1 - 1/2")


@pytest.mark.parametrize("name", PAIRED)
def test_ranked_rows_are_the_mean_of_their_pairs(name):
    """And a block of others, of equal or of no rank does not matter."""
    fn = PAIRED[name]
    if name in ("dpo", "ipo"):
        fn = lambda x, *rest: getattr(preference, name)(x, R[:1], *rest)  # noqa: E731
    whole = np.asarray(fn(X[:1], MASK[:1], RANK[:1]))[0]
    parts = []
    for i, j in ((0, 2), (0, 1), (2, 1)):
        only = np.full((1, 4), NAN)
        only[0, i], only[0, j] = 1, 0
        parts.append(np.asarray(fn(X[:1], MASK[:1], rows(only)))[0, i, 0])
    close(whole[:3, 0], [np.mean(parts)] * 3, atol=1e-5)
    assert (whole[3] == 0).all(), "no rank"
    ties = np.asarray(PAIRED[name](X, MASK, RANK))[2]
    assert (ties == 0).all(), "nothing is preferred there"
    assert getattr(preference, name).couples_rows


@pytest.mark.parametrize("name", PAIRED)
def test_what_is_masked_does_not_matter(name):
    fn = PAIRED[name]
    live = jnp.asarray([[True, True, False, True]] * 3)
    wild = jnp.where(MASK & live[..., None], X, jnp.inf)

    def loss(x):
        value = fn(x, MASK, RANK, live)
        return jnp.sum(jnp.where(MASK & live[..., None], value, 0.0))

    clean = jnp.where(jnp.isinf(wild), 0.0, X)
    for got, want in zip(jax.value_and_grad(loss)(wild), jax.value_and_grad(loss)(clean),
                         strict=True):  # fmt: skip
        assert np.isfinite(np.asarray(want)).all()
        close(got, want, atol=1e-5)
    dead = np.asarray(fn(X, MASK, RANK, live))[:, 2]
    assert (dead == 0).all()


@pytest.mark.parametrize("name", PAIRED)
def test_rows_that_do_not_train_are_in_no_pair(name):
    fn, train = PAIRED[name], jnp.asarray([[True, True, False, True]] * 3)

    def loss(x):
        return jnp.sum(jnp.where(train[..., None], fn(x, MASK, RANK, train_mask=train), 0.0))

    slope = np.asarray(jax.grad(loss)(X))
    assert (slope[:, 2] == 0).all() and (slope != 0).any()
    close(fn(X, MASK, RANK, train_mask=train), fn(X, MASK, RANK, train), what="as if it were out")


def test_sure_models_stay_finite():
    sure = jnp.zeros((1, 2, 8))
    loss = lambda x: preference.orpo(x, TOKENS, FIRST).sum()  # noqa: E731
    value, slope = jax.value_and_grad(loss)(sure)
    assert np.isfinite(value) and np.isfinite(np.asarray(slope)).all()
    far = preference.dpo(LOGP * 1e4, REF, TOKENS, FIRST)
    assert np.isfinite(np.asarray(far)).all()


def test_kl_baseline_is_of_the_foreign_rows():
    gap = jnp.where(MASK, X - R, 5.0)
    foreign = np.isnan(np.asarray(RANK))
    sums = np.asarray(jnp.where(MASK, X - R, 0).sum(-1))[foreign]
    for sign in (1.0, -1.0):
        out = both(models.kl_baseline, R + sign * gap, R, MASK, RANK)
        want = max(sign * sums.mean(), 0)
        close(out["kl_baseline"], np.full((3, 4), want), atol=1e-5)
        close(out["metrics/kl_baseline"], want, atol=1e-5)
    none = both(models.kl_baseline, X, R, MASK, jnp.ones((3, 4)))
    assert (none["kl_baseline"] == 0).all()


# --- tables -------------------------------------------------------------------------------------

CONFIG = toy()
SMALL = "toy:layers=1,width=16,heads=2,kv_heads=1,ff=16"


@pytest.fixture(scope="module")
def tools():
    loaded = load(SMALL)
    with VerifierPool([dict(fn="tests.toy:starts_with_digit", name="digit")], workers=1) as pool:
        out = tools_lib.Tools(
            loaded.config, loaded.tokenizer, pool, CONFIG.sampling, missing_by_verifier(CONFIG),
            ["digit"], jax.random.key(2),
        )  # fmt: skip
        out.params = jax.tree.map(jnp.asarray, loaded.params)
        yield out


class Given:
    """A stream of these prompts, again and again."""

    def __init__(self, *prompts):
        self.prompts, self.taken = prompts, 0

    def take(self, n):
        draws = [divmod(self.taken + i, len(self.prompts)) for i in range(n)]
        self.taken += n
        return [(self.prompts[at], epoch) for epoch, at in draws]


def prompt(name, answer="1", task="", **meta):
    return Prompt(name, chat(f"say {name}"), answer, meta, task=task)


def texts(batch, tokenizer):
    """What is in each slot, None: nothing; its end token is checked and left out."""
    out = []
    for i, j in np.ndindex(*batch.table["row_mask"].shape):
        tokens = batch.table["completion_tokens"][i, j][batch.table["completion_mask"][i, j]]
        assert (len(tokens) > 0) == batch.table["row_mask"][i, j]
        assert len(tokens) == 0 or tokens[-1] == tokenizer.eos_ids[0]
        text = tokenizer.decode(tokens[:-1]) if len(tokens) else None
        assert batch.text.completions[i][j] == (text or "")
        out.append(text)
    return np.array(out, object).reshape(batch.table["row_mask"].shape).tolist()


def test_demonstrations(tools):
    stream = Given(prompt("a", "12", reply="yes"), prompt("b", 7, reply="no"))
    batches, _ = pairs.demonstrations(stream, tools, None, 0, prompts=3, group=2)
    batch = batches["policy"]
    columns.check(batch.table)
    assert texts(batch, tools.tokenizer) == [["12", None], ["7", None], ["12", None]]
    assert batch.table["origin"].tolist() == [[3, 0]] * 3
    assert [p.id for p in batch.text.prompts] == ["a", "b", "a"]
    encoded = batch.table["prompt_tokens"][1][batch.table["prompt_mask"][1]]
    assert encoded.tolist() == tools.encode(stream.prompts[1])
    own = tools.score(batch.table)["logp"]
    np.testing.assert_array_equal(batch.table["sampler_logp"], own)
    batches, _ = pairs.demonstrations(
        stream, tools, None, 0, prompts=1, group=1, completion="{reply}, {answer}"
    )
    assert texts(batches["policy"], tools.tokenizer) == [["no, 7"]]
    assert batches["policy"].outcomes == {"pairs/rows": 1, "pairs/missing": 0}


def test_pairs_of_a_task(tools):
    reply = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "B"}]
    stream = Given(
        prompt("a", chosen="A", rejected="x", clear=2),
        prompt("b", chosen=reply, rejected="y", clear=1),
        prompt("c", chosen="too long to fit", rejected="z", clear=3),
    )
    batches, _ = pairs.preferred(stream, tools, None, 0, prompts=3, group=3, strength="clear")
    batch = batches["policy"]
    columns.check(batch.table)
    assert texts(batch, tools.tokenizer) == [["A", "x", None], ["B", "y", None], [None] * 3]
    np.testing.assert_array_equal(batch.table["preference"], [[1, 0, NAN]] * 3)
    assert batch.table["strength"].tolist() == [2, 1, 3]
    assert batch.outcomes["pairs/missing"] == 2, "a pair of which one is missing is none"
    with pytest.raises(
        ValueError, match=r"asks for 'good', the prompt 'a' has \['answer', 'chosen"
    ):
        pairs.preferred(stream, tools, None, 0, prompts=1, group=2, chosen="{good}")
    with pytest.raises(ValueError, match="expected a text or a list of messages"):
        pairs.preferred(Given(prompt("d", chosen=[1], rejected="")), tools, None, 0,
                        prompts=1, group=2)  # fmt: skip
    nulls = Given(
        prompt("e", chosen=None, rejected="", clear=1), prompt("f", chosen="A", rejected="B"),
        prompt("g", chosen="A", rejected="B", clear=None),
    )  # fmt: skip
    settings = dict(prompts=3, group=2)
    batches, _ = pairs.preferred(nulls, tools, None, 0, **settings)
    got = texts(batches["policy"], tools.tokenizer)
    assert got == [[None, None], ["A", "B"], ["A", "B"]], "null in a row of the file is no end"
    with pytest.raises(ValueError, match=r"meta\['clear'\] = '', expected a number; keep"):
        pairs.preferred(nulls, tools, None, 0, **settings, strength="clear")
    one = Given(prompt("g", chosen="A", rejected="B", clear=None))
    batches, _ = pairs.preferred(one, tools, None, 0, prompts=1, group=2, strength="clear")
    assert batches["policy"].outcomes == {"pairs/rows": 0, "pairs/missing": 2}
    with pytest.raises(ValueError, match="got 1 completions a block, expected at least 2"):
        pairs.preferred(stream, tools, None, 0, prompts=1, group=1)


def test_the_answer_of_another_prompt(tools):
    settings = dict(prompts=3, group=2, chosen="{answer}", rejected="{other}")
    stream = Given(prompt("a", "1"), prompt("b", "1"), prompt("c", "2"))
    batches, _ = pairs.preferred(stream, tools, None, 0, **settings)
    assert texts(batches["policy"], tools.tokenizer) == [["1", "2"], ["1", "2"], ["2", "1"]]
    alike = Given(prompt("a", "1"), prompt("b", "1"), prompt("c", "1"))
    batches, _ = pairs.preferred(alike, tools, None, 0, **settings)
    assert not batches["policy"].table["row_mask"].any()


def test_labelled_completions(tools):
    stream = Given(*(prompt(x, text=x.upper(), good=x in "ac") for x in "abc"))
    settings = dict(prompts=3, chosen="{text}", rejected="{text}", label="good")
    batches, _ = pairs.unpaired(stream, tools, None, 0, group=2, **settings)
    batch = batches["policy"]
    columns.check(batch.table)
    assert texts(batch, tools.tokenizer) == [["A", "B"], ["B", "C"], ["C", "A"]]
    np.testing.assert_array_equal(batch.table["preference"], [[1, NAN], [0, NAN], [1, NAN]])
    assert batch.table["train_mask"].tolist() == [[True, False]] * 3
    batches, _ = pairs.unpaired(stream, tools, None, 0, group=1, **settings)
    assert texts(batches["policy"], tools.tokenizer) == [["A"], ["B"], ["C"]]
    both_kinds = dict(prompts=4, group=1, chosen="{text}", rejected="not {text}")
    batches, _ = pairs.unpaired(stream, tools, None, 0, **both_kinds)
    assert texts(batches["policy"], tools.tokenizer) == [["A"], ["not B"], ["C"], ["not A"]], (
        "in turn"
    )


def test_a_label_is_no_text(tools):
    stream = Given(prompt("a", text="A", good="false"))
    settings = dict(prompts=1, group=1, chosen="{text}", rejected="{text}", label="good")
    with pytest.raises(ValueError, match=r"meta\['good'\] = 'false', expected true, false, 1 or 0"):
        pairs.unpaired(stream, tools, None, 0, **settings)


def test_best_and_worst_of_the_samples(tools):
    source = lambda: Stream(build.load_tasks(CONFIG)[0], seed=0)  # noqa: E731
    settings = dict(prompts=4, samples=8)
    batches, _ = pairs.best_worst(source(), tools, None, 0, group=2, **settings)
    batch = batches["policy"]
    columns.check(batch.table)
    plain = sample.on_policy(source(), tools, None, 0, prompts=4, group=8)[0]["policy"]
    score = plain.table["verdict/digit"]
    differ = score.max(1) > score.min(1)
    assert 0 < differ.sum() < 4, "the toy run has both kinds"
    assert batch.table["row_mask"].tolist() == [[bool(d)] * 2 for d in differ]
    assert batch.table["group"].tolist() == [i if d else -1 for i, d in enumerate(differ)]
    for i in np.flatnonzero(differ):
        assert batch.table["verdict/digit"][i].tolist() == [1, 0]
        for k, j in enumerate((score[i].argmax(), score[i].argmin())):
            for name in ("completion_tokens", "sampler_logp", "truncated", "origin"):
                np.testing.assert_array_equal(batch.table[name][i, k], plain.table[name][i, j])
            assert batch.text.completions[i][k] == plain.text.completions[i][j]
    np.testing.assert_array_equal(batch.table["preference"], [[1, 0]] * 4)
    n = batch.outcomes
    assert (n["pairs/made"], n["pairs/tied"]) == (differ.sum(), 4 - differ.sum())
    assert n["digit/correct"] + n["digit/incorrect"] == 32
    rates = records.pass_rates(batch)
    want = {p.id: s for p, s in zip(plain.text.prompts, score.mean(1), strict=True)}
    assert rates == pytest.approx(want), "a curriculum hears of all samples"
    wide, _ = pairs.best_worst(source(), tools, None, 0, group=3, **settings)
    columns.check(wide["policy"].table)
    assert not wide["policy"].table["row_mask"][:, 2].any()
    with pytest.raises(ValueError, match="got verifier='word', expected one of digit"):
        pairs.best_worst(source(), tools, None, 0, group=2, verifier="word", **settings)
    with pytest.raises(ValueError, match="expected at least 2"):
        pairs.best_worst(source(), tools, None, 0, prompts=1, group=2, samples=1)


# --- rollouts of rollouts -----------------------------------------------------------------------


def counting(stream, tools, state, step, *, prompts, group):
    """On-policy rows; counts its calls."""
    batches, _ = sample.on_policy(stream, tools, None, step, prompts=prompts, group=group)
    return batches, {"calls": (state or {"calls": 0})["calls"] + 1}


RECIPE = (
    dict(fn="tests.test_preference:counting", steps=1, group=2),
    dict(fn="pairs.demonstrations", steps=2, task="text", completion="{reply}"),
    dict(fn="tests.test_preference:counting", prompts=1),
)


def test_stages_follow_each_other_and_keep_their_state(tools):
    stream = Given(prompt("a"), prompt("b", task="text", reply="B"), prompt("c"))
    state, seen = None, []
    for step in range(5):
        settings = dict(prompts=2, group=1, stages=RECIPE)
        batches, state = stages.by_step(stream, tools, state, step, **settings)
        state = json.loads(json.dumps(state))
        batch = batches["policy"]
        columns.check(batch.table)
        seen.append(("".join(p.id for p in batch.text.prompts), batch.table["row_mask"].shape[1]))
    assert seen == [("ab", 2), ("bb", 1), ("bb", 1), ("c", 1), ("a", 1)]
    assert state == {"0": {"calls": 1}, "1": None, "2": {"calls": 2}}
    with pytest.raises(ValueError, match="for 2 prompts of the task 'poem'"):
        stages.by_step(stream, tools, None, 0, prompts=2, group=1,
                       stages=(dict(fn="pairs.demonstrations", task="poem"),))  # fmt: skip


def test_stages_have_the_columns_of_all(tools):
    recipe = (
        dict(fn="pairs.preferred", steps=1, chosen="A", rejected="B"),
        dict(fn="branch.branching", first=1),
    )
    tables = [
        stages.by_step(Given(prompt("a")), tools, None, step, prompts=1, group=2, stages=recipe)[0][
            "policy"
        ].table
        for step in (0, 1)
    ]
    assert set(tables[0]) == set(tables[1])
    assert np.isnan(tables[1]["preference"]).all() and np.isnan(tables[1]["strength"]).all()
    assert (tables[0]["node_id"] == -1).all() and (tables[1]["node_id"] >= 0).any()
    config = toy(rollout__fn="stages.by_step", rollout__group=2)
    config.rollout.options = dict(stages=recipe)
    config.loss = (dict(fn="preference.dpo"),)
    build.check(config)
    made = build.abstract_table(config)
    for name in ("preference", "strength", "node_id", "branch_at"):
        assert made[name].dtype == tables[0][name].dtype
        assert made[name].ndim == tables[0][name].ndim
    for bad, match in (
        ((), "at least one stage"),
        ((dict(fn="sample.on_policy"), dict(fn="sample.on_policy")), "steps >= 1"),
        ((dict(fn="sample.off_policy"),), "has no 'off_policy'"),
        ((dict(fn="sample.on_policy", groups=2),), "unknown setting 'groups'"),
    ):
        config.rollout.options = dict(stages=bad)
        with pytest.raises(ValueError, match=match):
            build.check(config)


def test_tables_beside_each_other(tools):
    stream = Given(*(prompt(x, chosen="A", rejected="B") for x in "abcd"))
    tables = dict(
        pairs=dict(fn="pairs.preferred", prompts=2, group=2),
        policy=dict(fn="tests.test_preference:counting"),
    )
    batches, state = stages.beside(stream, tools, None, 0, prompts=1, group=3, tables=tables)
    assert {k: [p.id for p in b.text.prompts] for k, b in batches.items()} == {
        "policy": ["a"],
        "pairs": ["b", "c"],
    }
    assert batches["policy"].table["row_mask"].shape == (1, 3)
    assert state == {"policy": {"calls": 1}, "pairs": None}
    config = toy(rollout__fn="stages.beside")
    config.rollout.options = dict(tables=tables)
    build.check(config)
    assert "preference" not in build.abstract_table(config), "only the policy's columns are checked"
    config.rollout.options = dict(tables=dict(pairs=tables["pairs"]))
    with pytest.raises(ValueError, match="expected `policy` among them"):
        build.check(config)


def test_a_reference_moves_only_where_there_is_one():
    with pytest.raises(ConfigError, match="increasing steps >= 1"):
        build.check(toy(learner__reference_steps=(2, 1)))
    with pytest.raises(ConfigError, match="which does not move"):
        build.check(toy(learner__reference_steps=(1,), model__lora__rank=2))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A run of three stages on the toy model, whole, and broken off in the last."""
    root = tmp_path_factory.mktemp("recipe")

    def run(name, steps):
        config = toy(steps=steps, eval__prompts=1, export=False, log__tensorboard=False)
        config.model.source = SMALL
        config.rollout.fn, config.rollout.group = "stages.by_step", 4
        config.rollout.options = dict(
            stages=(
                dict(fn="pairs.demonstrations", steps=4, completion="{answer}"),
                dict(fn="pairs.preferred", steps=4, chosen="{answer}", rejected="no"),
                dict(fn="dynamic.refill", max_batches=6),
            )
        )
        since = lambda start: dict(schedule="step", init=0.0, end=1.0, steps=start)  # noqa: E731
        mean = "aggregate.sequence_mean_token_mean"
        config.loss = (
            dict(fn="preference.nll", coef=dict(schedule="step", init=1.0, end=0.0, steps=4)),
            dict(fn="preference.dpo", beta=0.5, aggregate=mean, coef=since(4)),
            dict(surrogate="surrogates.ppo_clip", coef=since(8)),
        )
        config.learner.reference_steps = (4, 8)
        train_lib.train(config, root / name)

    run("whole", 11)
    run("broken", 10)
    run("broken", 11)
    return root


def updates(path):
    return [m for m in lines(path / "metrics.jsonl") if "loss/total" in m]


def test_a_recipe_of_three_stages(recipe):
    sft, dpo, rl = (updates(recipe / "whole")[i:j] for i, j in ((0, 4), (4, 8), (8, 11)))
    assert [m["loss/total"] for m in sft] == pytest.approx([m["loss/nll"] for m in sft])
    assert sft[-1]["loss/nll"] < sft[0]["loss/nll"] - 0.1, "it imitates"
    assert [m["loss/total"] for m in dpo] == pytest.approx([m["loss/dpo"] for m in dpo])
    assert dpo[0]["loss/dpo"] == pytest.approx(np.log(2), abs=1e-5), "the reference is what it was"
    assert dpo[-1]["loss/dpo"] < np.log(2) - 0.01, "and is left behind"
    for stage in (sft, dpo, rl):
        kl = [m["policy/kl_ref"] for m in stage]
        assert kl[0] == pytest.approx(0, abs=1e-6) and max(map(abs, kl)) > 1e-4, kl
    assert all(m["loss/dpo"] == 0 and m["loss/total"] == m["loss/policy"] for m in rl)
    assert all(m["policy/grad_norm"] > 0 for m in rl)
    assert all(m["policy/sampler_gap"] < 1e-4 for m in rl)
    assert not any("policy/sampler_gap" in m for m in sft), "nobody sampled what is imitated"
    found = lines(recipe / "whole" / "rollouts.jsonl")
    external = [r for r in found if r["step"] == 1 and r["row_mask"]]
    assert [r["completion"] for r in external] == [r["answer"] for r in external] != []


def test_a_recipe_resumes(recipe):
    """With the reference of its stage, and the rows that the stage carries."""
    whole, broken = recipe / "whole", recipe / "broken"
    assert same(params_of(whole), params_of(broken))
    for name in ("loss/total", "policy/kl_ref", "reward/mean"):
        assert [m[name] for m in updates(whole)] == [m[name] for m in updates(broken)], name
    assert lines(whole / "rollouts.jsonl") == lines(broken / "rollouts.jsonl")
