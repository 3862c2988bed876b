"""Every estimator, loss and reward transform shows on the bandit what it is for, on every seed, and
a planted change takes it away.  The table is in tests/bandit_cases.py.

Some 180 trainings of four seeds; most of the time goes into compiling a small program a method.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import columns, config, learner
from tests import bandit
from tests.bandit_cases import CASES, EXEMPT

ROOT = pathlib.Path(__file__).parents[1]
SEEDS = 4
ALL = [(package, name) for package, cases in CASES.items() for name in cases]


@pytest.fixture(scope="module", autouse=True)
def _forget():
    yield
    trained.cache_clear()
    bandit.PROGRAMS.clear()


class Arm:
    """An arm as a key of the cache: arms are equal if they are written alike."""

    def __init__(self, arm):
        self.arm = arm

    def __hash__(self):
        return hash(repr(self.arm))

    def __eq__(self, other):
        return repr(self.arm) == repr(other.arm)


@functools.cache
def trained(key):
    return bandit.train(key.arm, SEEDS)


def holds(arm, expect):
    """Whether each seed meets the expectation, and the numbers in words."""
    quantities = trained(Arm(arm))
    met = [(low <= quantities[k]) & (quantities[k] <= high) for k, (low, high) in expect.items()]
    words = [
        f"{k} {np.round(quantities[k], 3)}, expected in [{low}, {high}]"
        for k, (low, high) in expect.items()
    ]
    return np.all(met, axis=0), "; ".join(words)


# ---- the table


@pytest.mark.parametrize("package, name", ALL)
def test_does_what_it_is_for_and_its_ablation_does_not(package, name):
    case = CASES[package][name]
    met, words = holds(case.arm, case.expect)
    assert met.all(), f"{name}: {words}"
    met, words = holds(case.ablation, case.expect)
    assert not met.any(), f"{name} still passes with {case.change!r}: {words}"


@pytest.mark.parametrize("package", EXEMPT)
def test_every_public_function_is_in_the_table(package):
    cases, exempt = set(CASES[package]), set(EXEMPT[package])
    public = set(config.accepted_names(package))
    assert not cases & exempt, f"both in the table and left out: {sorted(cases & exempt)}"
    missing, gone = public - cases - exempt, (cases | exempt) - public
    assert not missing, (
        f"rlpt/{package}: {sorted(missing)} have no row in tests/bandit_cases.py; add a case, or a "
        "reason to EXEMPT"
    )
    assert not gone, f"tests/bandit_cases.py names what is not in rlpt/{package}: {sorted(gone)}"


@pytest.mark.parametrize("package", EXEMPT)
def test_rows_are_about_their_function(package):
    for name, case in CASES[package].items():
        arm = case.arm
        parts = {
            "advantages": arm.advantage,
            "losses": arm.loss,
            "rewards": arm.shaping,
        }[package]
        assert f"'{name}'" in repr(parts), f"{package}: the arm of {name} does not use it"
        assert repr(case.ablation) != repr(arm), f"{name}: its ablation changes nothing"


def test_the_committed_table_has_every_row():
    text = (ROOT / "docs/bandit.md").read_text()
    rows = {line.split("|")[1].strip().strip("`") for line in text.splitlines() if "|" in line}
    missing = {name for _, name in ALL} - rows
    assert not missing, f"docs/bandit.md lacks {sorted(missing)}: python -m benchmarks.bandit"


# ---- the machinery


@functools.cache
def batch(bias=0.0, policy="table"):
    """One seed's state and table of columns."""
    keys, state = bandit.start(SEEDS, policy)
    visits = jnp.zeros((SEEDS, bandit.P, bandit.V))
    table, _ = bandit.sample(state, visits, keys, bandit.Arm(bias=bias))
    return jax.tree.map(lambda x: x[0], (state, table))


def test_batches_are_valid_tables():
    for policy in ("table", "transformer"):
        _, table = batch(policy=policy)
        columns.check(table | {"rewards": table["verdict/right"]})
        mask = np.asarray(table["completion_mask"])
        lengths = mask.sum(-1)
        assert set(np.unique(lengths)) == {1, 2, 3}, "all lengths are drawn"
        ended = (np.asarray(table["completion_tokens"]) == bandit.END)[mask].sum()
        assert ended + np.asarray(table["truncated"]).sum() == mask.shape[0] * mask.shape[1]


def test_the_sampler_says_which_law_it_drew_from():
    _, table = batch()
    np.testing.assert_allclose(table["sampler_logp"], table["old_logp"], atol=1e-6)
    _, biased = batch(bias=1.5)
    gap = np.asarray(biased["sampler_logp"] - biased["old_logp"])
    decoy = np.asarray(biased["verdict/decoy"]) > 0
    assert (gap[decoy, 0] > 0.5).all(), "the decoy is likelier under the sampler"
    assert (gap[~decoy, 0] < 0).all(), "and everything else less likely"
    assert np.abs(gap[..., 1:]).max() < 1e-6, "only the first token's law is biased"


def test_quantities_count_every_completion_once():
    state, _ = batch()
    tokens, mask = bandit.completions()
    assert tokens.shape[1] == 1 + 5 + 25 + 125, "ended by the 1st, 2nd, 3rd token, or not"
    logp = bandit.outputs(state["params"], bandit.context(jnp.asarray(tokens), jnp.asarray(mask)))
    np.testing.assert_allclose(np.exp(logp["logp"].sum(-1)).sum(-1), 1.0, rtol=1e-5)
    at_start = bandit.quantities(bandit.start(SEEDS, "table")[1])
    np.testing.assert_allclose(at_start["right"], 1 / 6, atol=0.02, err_msg="chance")
    np.testing.assert_allclose(at_start["entropy"], np.log(6), atol=0.01)
    np.testing.assert_allclose(at_start["truncated"], (5 / 6) ** 3, atol=0.02)
    np.testing.assert_allclose(at_start["kl"], 0.0, atol=1e-6, err_msg="its own reference")


def test_the_update_is_the_learners():
    """The shared pull-back gives the parameters that one step of a run's learner gives."""
    mean = dict(aggregate="aggregate.sequence_mean_token_mean")
    surrogate = dict(
        surrogate="surrogates.ppo_clip",
        ratio="ratios.sequence",
        corrections=("corrections.token_tis",),
        **mean,
    )
    penalties = (
        dict(fn="penalties.k3", coef=0.1),
        dict(fn="penalties.entropy_bonus", coef=0.1),
        dict(fn="penalties.pacs", **mean),
    )
    arm = bandit.Arm(loss=(surrogate, *penalties), bias=1.5)
    state, table = batch(arm.bias, "transformer")
    chain = bandit.make_chain(arm)
    table, _ = chain(table, chain.init(), chain.numbers(0), jax.random.key(0), jnp.int32(0))
    table = {k: v for k, v in table.items() if not k.startswith("metrics/")}
    # Away from the policy that drew the batch, so that ratios are not 1.
    params = {**state["params"], "model": jax.tree.map(lambda x: 1.3 * x, state["params"]["model"])}
    state = {**state, "params": params}
    terms = tuple(learner.make_term(spec) for spec in arm.loss)
    numbers = [t.numbers(0) for t in terms]

    def ours(state, table):
        out = bandit.outputs(state["params"], table)
        slope, _ = bandit.slopes(terms, table, out, numbers)
        return bandit.apply(state, table, slope)["params"]["model"]

    whole = learner.Learner(bandit.MODEL, terms, bandit.OPTIMIZERS["transformer"], epochs=2)
    start = jax.tree.map(jnp.copy, params["model"])
    after, _ = whole.step(whole.init(start), None, table, numbers, jnp.int32(bandit.P))
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), after["params"], params["model"])
    assert max(jax.tree.leaves(moved)) > 1e-3, "nothing was learnt: the comparison would be empty"
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        jax.jit(ours)(state, table),
        after["params"],
    )


def test_the_toy_transformer_learns_too():
    arm = bandit.Arm(steps=80)
    right = bandit.train(arm, SEEDS, policy="transformer")["right"]
    assert (right > 0.9).all(), f"GRPO: {right}"
    ablated = arm.but(loss=({**bandit.CLIP, "coef": -1.0},))
    right = bandit.train(ablated, SEEDS, policy="transformer")["right"]
    assert (right < 0.2).all(), f"GRPO with the sign turned round: {right}"
