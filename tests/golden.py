"""The worked numbers of the methods: one table, run by tests/test_golden.py.

Each number was worked out from a paper's formula by hand or by a few lines of numpy, never by this
code, and is given with the decimals that it was printed with; half a unit of the last one, and the
rounding of the arithmetic, is what a result may be off.  A number is a case here, or names the test
that holds it.  `python -m tests.golden > docs/worked_numbers.md` writes the table out.
"""

from __future__ import annotations

import collections
import functools
import math
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np

from rlpt.advantages import batch, brorl, exploration, gae, group, tree
from rlpt.losses import aggregate, corrections, penalties, ratios, surrogates
from rlpt.rewards import combine, latent, outcomes, shaping

PRINTED, DERIVED, RECALLED = "printed", "derived", "recalled"
TAGS = {
    PRINTED: "the formula was read in the paper, in its authors' code, or in verl or TRL",
    DERIVED: "worked out for this code base from definitions; no paper prints it",
    RECALLED: "from secondary sources or memory; not confirmed against the paper's text",
}

SECTIONS = {
    "A1": "GRPO (arXiv:2402.03300), Dr.GRPO (2503.20783), RLOO (2402.14740)",
    "A2": "REINFORCE++ and its baseline form (2501.03262)",
    "A3": "PPO clip (1707.06347), DAPO clip-higher (2503.14476), dual clip (1912.09729)",
    "A4": "PPO with a critic (1707.06347), GAE (1506.02438)",
    "A5": "KL estimators: values, and gradients as a loss (2402.03300, 2512.02556)",
    "A6": "Sampler mismatch: truncated, masked and rejected importance weights (Yao et al., 2025)",
    "A7": "GSPO and GSPO-token (2507.18071)",
    "A8": "CISPO (2506.13585)",
    "A9": "Aggregation of token losses (2402.03300, 2503.14476, 2503.20783)",
    "A10": "DAPO: dynamic sampling, overlong punishment; entropy bonus (2503.14476)",
    "B1": "TEMPO (2509.18314)",
    "B2": "TreeRL (2506.11902)",
    "B3": "TreePS-RAG (2601.06922)",
    "C1": "The channel of a noisy verifier (2510.00915)",
    "C2": "Backward correction (2510.00915)",
    "C3": "Forward correction (2510.00915)",
    "C4": "Corrections inside a group estimator (2510.00915)",
    "C5": "What class-conditional noise does (2510.00915)",
    "C6": "Appeals: an online estimate of false negatives (2510.00915)",
    "C7": "The Climb Carves Wisdom Deeper Than the Summit (2505.22653)",
    "C8": "Injected noise (2510.00915)",
    "D1": "PSR, NSR, W-REINFORCE (2506.01347)",
    "D2": "PACS (2509.02522)",
    "D3": "CANON (2509.23962)",
    "D4": "THR (2510.03669)",
    "D5": "VERL (2509.23808)",
    "D6": "CURE (2508.11016)",
    "D7": "MRT (2503.07572)",
    "D8": "BroRL (2510.01180)",
    "D9": "PF-PPO (2409.06957)",
    "D10": "FAPO (2510.22543)",
    "D11": "RECAP (2510.21978)",
    "D12": "StableReinforce (2505.02835)",
    "D13": "RL-PLUS (2508.00222)",
    "D14": "Outcome-based exploration (2509.06941)",
    "D15": "DARLING (2509.02534)",
    "D16": "RLCR (2507.16806)",
    "D17": "TruthRL (2509.25760)",
    "D18": "G-RA (2508.10548)",
    "D19": "IGPO (2510.14967)",
    "D20": "LaRe (2412.11120)",
}


class Number(tp.NamedTuple):
    """A case (fn, columns, settings, want) or, with `test`, a pointer to where it is held."""

    section: str
    what: str
    tag: str
    test: str = ""
    fn: tp.Any = None
    columns: tuple[tp.Any, ...] = ()
    settings: tp.Mapping[str, tp.Any] = {}
    of: str = ""  # the column of a dict that fn returns
    want: tp.Any = None
    digits: int = 6  # decimals
    wide: bool = False  # in float64, for a number with more digits than float32 has

    def tolerance(self) -> float:
        """Half a unit of the last decimal, and the rounding of the largest entry."""
        eps = 2.0**-52 if self.wide else 2.0**-23
        return 0.5 * 10.0**-self.digits + eps * max(1.0, float(np.abs(self.want).max()))

    def shown(self) -> str:
        """The number as the document prints it."""
        want = np.atleast_1d(np.asarray(self.want, float))
        rows = want.reshape(-1, want.shape[-1])
        return "; ".join(", ".join(_plain(x, self.digits) for x in row) for row in rows)


def _plain(x: float, digits: int) -> str:
    text = f"{x:.{digits}f}".rstrip("0").rstrip(".") if abs(x) >= 1e-4 or x == 0 else f"{x:.6e}"
    return text.replace("-0", "0") if float(text) == 0 else text


def case(section, what, fn, *columns, want, of="", digits=6, tag=PRINTED, wide=False, **settings):
    """A number that `fn(*columns, **settings)` has to give; lists become float arrays."""
    return Number(section, what, tag, "", fn, columns, settings, of, want, digits, wide)


def held(section, what, test, tag=PRINTED):
    """A number that a test elsewhere holds: 'test_x.py::test_y'."""
    return Number(section, what, tag, test)


def ids(x):
    return np.asarray(x, np.int32)


def mask(x):
    return np.asarray(x, bool)


def one_row(x):
    """[n] -> [1,1,n]."""
    return [[list(map(float, x))]]


def lengths(*x):
    """A mask [1,G,T] with these lengths."""
    return np.arange(max(x)) < np.asarray(x)[None, :, None]


def loss_of(surrogate):
    """Surrogates are maximised; numbers are those of the loss."""
    return functools.wraps(surrogate)(lambda *columns, **s: -surrogate(*columns, **s))


def total(value, weights):
    return jnp.sum(jnp.where(weights != 0, value * weights, 0.0))


# --- inputs and small losses -------------------------------------------------------------------

R1, R2 = [[1, 0, 0, 0]], [[0.2, 1.2, -0.4, 0.8, 0.2]]
BATCH, ONE_TOKEN = [[1, 0, 0, 0], [1, 1, 1, 0]], np.ones((2, 4, 1), bool)
LOG_RHO = one_row(np.log([0.5, 0.79, 0.9, 1.1, 1.25, 1.5, 4.0]))
UP, DOWN = one_row([1] * 7), one_row([-1] * 7)
VALUES, FOUR = one_row([0.5, 0.6, 0.4, 0.8]), np.ones((1, 1, 4), bool)
P, Q = one_row(np.log([0.5, 0.3, 0.2])), one_row(np.log([0.4, 0.4, 0.2]))
SAMPLER = [-1.0, -2.0, -0.5, -0.1]
OLD = one_row(np.add(SAMPLER, [0, 0.5, 1.2, -2]))
SAMPLER = one_row(SAMPLER)
SEQUENCES = [[[0.02, -0.01, 0.05], [-0.1, 0.3, 9.0]]]
TWO_ROWS = mask([[[1, 1, 1], [1, 1, 0]]])
LOSSES = [[[1, 2, 3, 4], [5, 6, np.nan, np.nan]]]
RAGGED = mask([[[1, 1, 1, 1], [1, 1, 0, 0]]])
U = [[[0.3], [-0.2], [0.1], [0.0]]]
CANON = [[0.9, 0.2, 0.5, 0.7]]
ANSWERS, VISITS = ids([[0, 0, 1, 2]]), ids([[9, 9, 1, 1]])
PARENT = ids([-1, 0, 0, 1, 1, 2, 2])  # root -> a, b; a -> a1, a2; b -> b1, b2
LEAVES = [np.nan, np.nan, np.nan, 1, 0, 0, 0]
PATHS = ids([[[1, 2, 3, 9], [1, 2, 4, 9], [1, 5, 9, 0], [1, 2, 3, 9]]])  # ABCE ABDE AFE ABCE
PATHS_MASK = mask([[[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]])
ENDS = [[1, 0, 0, 1]]


def gae_pair(values, rows, rewards, *, gamma, lam):
    got = gae.gae(values, rows, rewards, gamma=gamma, lam=lam, whiten=False)
    return jnp.stack([got["advantages"], got["returns"]])


def mean_of(estimator):
    """Its mean and variance under p."""

    def moments(logp, ref):
        p, x = jnp.exp(logp), estimator(logp, ref)
        mean = jnp.sum(p * x)
        return jnp.stack([mean, jnp.sum(p * x**2) - mean**2])

    return moments


def expected_gradient(estimator):
    """Of the estimator as a loss with respect to logits, tokens drawn from p, draws held fixed."""

    def slope(logp, ref):
        chance = jnp.exp(logp)
        loss = lambda z: jnp.sum(chance * estimator(jax.nn.log_softmax(z), ref))
        return jax.grad(loss)(logp)

    return slope


def ratio_k3(logp, ref):
    return penalties.k3_ratio(logp - jax.lax.stop_gradient(logp), logp, ref)


def row_ratio(ratio):
    """s_i [P,G]; sequence ratios are the same on all tokens of a row."""
    return lambda log_ratio, rows: jnp.exp(ratio(log_ratio, 0 * log_ratio, rows))[..., 0]


def row_loss(ratio):
    """The GSPO loss of each row: mean over its tokens."""

    def loss(log_ratio, rows, *, low, high):
        advantages = jnp.where(rows, jnp.asarray([[[1.0], [-1.0]]]), 0.0)
        s = ratio(log_ratio, 0 * log_ratio, rows)
        value = -surrogates.ppo_clip(s, advantages, low=low, high=high)
        weights = aggregate.sequence_mean_token_mean(rows) * 2  # sum over rows, not mean
        return jnp.sum(value * weights, axis=-1)

    return loss


def cispo_slope(log_ratio, logp, advantages):
    loss = lambda x: -surrogates.cispo(log_ratio + x - logp, x, advantages, cap_high=1.28).sum()
    return jax.grad(loss)(logp)


def ppo_slope(log_ratio, advantages):
    return jax.grad(lambda x: -surrogates.ppo_clip(x, advantages, high=0.28).sum())(log_ratio)


def rejected(old, sampler, rows, *, low, high):
    return corrections.geometric_rejection(old, sampler, rows, low=low, high=high)


def aggregated(weights):
    return lambda value, rows: total(value, weights(rows))


def kept_share(chance, *, completions=16):
    """The chance that the filter keeps a group whose rows are each correct with this chance."""
    k = np.arange(completions + 1)
    groups = (np.arange(completions) < k[:, None]).astype(np.float32)
    kept = shaping.zero_variance_filter(jnp.asarray(groups))["train_mask"][:, 0]
    ways = np.array([math.comb(completions, int(i)) for i in k], float)
    return jnp.sum(jnp.where(kept, ways * chance**k * (1 - chance) ** (completions - k), 0.0))


def entropy(z):
    logp = jax.nn.log_softmax(z)
    return -penalties.entropy_bonus(-jnp.sum(jnp.exp(logp) * logp))


def tempo_change(rewards, tokens, rows):
    """V(s') - V(s) of each token."""
    with_change = tree.tempo(rewards, tokens, rows, rows, scale="none")
    return with_change - tree.tempo(rewards, tokens, rows, rows, scale="none", td_coef=0.0)


def below(rewards, tokens, rows):
    """Rows below each prefix and their mean reward, at depths 0 to T of each completion."""
    live = jnp.ones(rewards.shape, bool)
    count, reward = tree._below(tokens, rows, live, rewards, None)
    return {"count": count[..., :5], "value": (reward / jnp.maximum(count, 1))[..., :5]}


def common_prefixes(tokens, rows):
    """In tokens; the function counts the end symbol of identical completions too."""
    length = rows.sum(-1)
    shared = tree._common_prefixes(jnp.where(rows, tokens, tree._END), length)
    return jnp.minimum(shared, length[:, :, None])


def pacs(u, rewards, **settings):
    ones = jnp.ones(u.shape, bool)
    return penalties.pacs(u, 0 * u, ones, rewards, **settings)[..., 0]


def pacs_loss(u, rewards):
    return pacs(u, rewards).mean()


def pacs_psi(u):
    """softplus(psi) is the value of a row that is wrong, as all are here."""
    return jnp.log(jnp.expm1(pacs(u, jnp.zeros(u.shape[:2]))))


def logit_slope(estimator):
    """Expected slope of the objective from draws of token 1, by logit."""

    def slope(z, reward):
        advantage = estimator(reward)["advantages"][0, 0]
        objective = lambda z: surrogates.reinforce(jax.nn.log_softmax(z)[1], advantage)
        return jax.nn.softmax(z)[1] * jax.grad(objective)(z)

    return slope


def brorl_formula(z, right, seen):
    return brorl.mass_change(jax.nn.softmax(z), right, seen, step_size=1e-5, samples=4)["total"]


def brorl_exact(z, right, seen):
    after = jax.nn.softmax(brorl.step(z, right, seen, step_size=1e-5, samples=4))
    return jnp.sum(jnp.where(right, after - jax.nn.softmax(z), 0.0))


def fapo_advantages(correct, flawed):
    return group.grpo(outcomes.fapo(correct, flawed)["rewards"], ddof=0, eps=1e-9)


def last_z(rewards):
    return group.stable_reinforce(rewards)["advantages"][0, -1]


def gated(outcome, first, second):
    verdict = {"outcome": outcome, "first": first, "second": second}
    return combine.gated_sum(verdict, order=tuple(verdict))["rewards"]


def darling_advantages(quality, classes):
    return group.dr_grpo(outcomes.darling(quality, classes))


def rlcr_mean(confidence, *, p):
    right, wrong = (outcomes.rlcr(jnp.full_like(confidence, y), confidence) for y in (1.0, 0.0))
    return p * right["rewards"] + (1 - p) * wrong["rewards"]


def truthrl_advantages(correct, abstained):
    return group.grpo(outcomes.truthrl(correct, abstained)["rewards"], ddof=0, eps=1e-9)


REVERSE = [[[0.098938, -0.093885, -0.005053]]]
STEP = (np.random.default_rng(3).normal(size=8), mask([1, 1, 1, 0, 0, 0, 0, 0]),
        mask([1, 0, 1, 1, 1, 0, 0, 0]))  # fmt: skip
Z, SAMPLED = np.array([1.0, 0.2, -0.3]), np.array([0.0, 1.0, 0.0])
PZ = np.exp(Z) / np.exp(Z).sum()

# --- the table ---------------------------------------------------------------------------------

# fmt: off
NUMBERS: tuple[Number, ...] = (
    case("A1", "GRPO, sample std, r = 1 0 0 0", group.grpo, R1,
         want=[1.499997, -0.499999, -0.499999, -0.499999]),
    case("A1", "GRPO, population std, r = 1 0 0 0", group.grpo, R1, ddof=0,
         want=[1.732047, -0.577349, -0.577349, -0.577349]),
    case("A1", "Dr.GRPO, r = 1 0 0 0", group.dr_grpo, R1, want=[0.75, -0.25, -0.25, -0.25]),
    case("A1", "RLOO, r = 1 0 0 0", group.rloo, R1, want=[1, -1 / 3, -1 / 3, -1 / 3]),
    case("A1", "GRPO, sample std, r = .2 1.2 -.4 .8 .2", group.grpo, R2,
         want=[-0.324442, 1.297769, -1.297769, 0.648885, -0.324442]),
    case("A1", "GRPO, population std, the same r", group.grpo, R2, ddof=0,
         want=[-0.362737, 1.450950, -1.450950, 0.725475, -0.362737]),
    case("A1", "RLOO, the same r", group.rloo, R2, want=[-0.25, 1, -1, 0.5, -0.25]),
    case("A1", "GRPO, r = 1 1 1", group.grpo, [[1, 1, 1]], want=[0, 0, 0]),
    held("A1", "GRPO of k correct in 8: sqrt((1-p)/p), -sqrt(p/(1-p)); times sqrt(7/8)",
         "test_advantages.py::test_grpo_binary_closed_form", DERIVED),
    held("A1", "G = 1: an error, or A = r",
         "test_advantages.py::test_singletons_are_refused_or_raw"),
    case("A2", "REINFORCE++, r = 1 0 0 0 and 1 1 1 0, one token each",
         batch.reinforce_pp, BATCH, ONE_TOKEN,
         want=[[0.935414, *[-0.935414] * 3], [*[0.935414] * 3, -0.935414]]),
    case("A2", "its baseline form, the same r", batch.reinforce_pp_baseline, BATCH, ONE_TOKEN,
         want=[[1.620185, *[-0.540062] * 3], [*[0.540062] * 3, -1.620185]]),
    case("A2", "REINFORCE++, r = 1 -1 with 1 and 3 tokens: statistics are over tokens",
         batch.reinforce_pp, [[1, -1]], lengths(1, 3), want=[[1.5, 0, 0], [-0.5, -0.5, -0.5]]),
    case("A3", "PPO .2/.2, A = 1, ratios .5 .79 .9 1.1 1.25 1.5 4", loss_of(surrogates.ppo_clip),
         LOG_RHO, UP, want=[-0.5, -0.79, -0.9, -1.1, -1.2, -1.2, -1.2]),
    case("A3", "PPO .2/.2, A = -1", loss_of(surrogates.ppo_clip), LOG_RHO, DOWN,
         want=[0.8, 0.8, 0.9, 1.1, 1.25, 1.5, 4]),
    case("A3", "DAPO .2/.28, A = 1", loss_of(surrogates.ppo_clip), LOG_RHO, UP, high=0.28,
         want=[-0.5, -0.79, -0.9, -1.1, -1.25, -1.28, -1.28]),
    case("A3", "dual clip, c = 3, A = -1", loss_of(surrogates.dual_clip), LOG_RHO, DOWN, c=3.0,
         want=[0.8, 0.8, 0.9, 1.1, 1.25, 1.5, 3]),
    case("A3", "dual clip, c = 3, A = 1: as PPO", loss_of(surrogates.dual_clip), LOG_RHO, UP,
         c=3.0, want=[-0.5, -0.79, -0.9, -1.1, -1.2, -1.2, -1.2]),
    *(
        case("A4", f"GAE, gamma {gamma:g}, lambda {lam:g}, r = 1, V = .5 .6 .4 .8, and returns",
             gae_pair, VALUES, FOUR, [[1]], gamma=gamma, lam=lam, want=want)
        for gamma, lam, want in (
            (1.0, 1.0, [[0.5, 0.4, 0.6, 0.2], [1, 1, 1, 1]]),
            (1.0, 0.95, [[0.442475, 0.3605, 0.59, 0.2], [0.942475, 0.9605, 0.99, 1]]),
            (1.0, 0.0, [[0.1, -0.2, 0.4, 0.2], [0.6, 0.4, 0.8, 1]]),
            (0.99, 0.95, [[0.41526, 0.341584, 0.5801, 0.2], [0.91526, 0.941584, 0.9801, 1]]),
        )
    ),
    case("A4", "GAE, gamma 1, lambda .95, token 1 an observation", gae.gae, VALUES,
         mask([[[1, 0, 1, 1]]]), [[1]], of="advantages", lam=0.95, whiten=False,
         want=[0.4605, 0, 0.59, 0.2]),
    case("A4", "clipped value loss .2, v = .9 .2, old .5, return 1: mean",
         lambda *columns, clip: penalties.value_clip(*columns, clip=clip).mean(),
         one_row([0.9, 0.2]), one_row([1, 1]), one_row([0.5, 0.5]), clip=0.2, want=0.1825),
    held("A4", "adaptive KL coefficient",
         "test_controllers.py::test_kl_coefficient_follows_the_formula"),
    case("A5", "k1, p = .5 .3 .2, q = .4 .4 .2", penalties.k1, P, Q, want=[0.223144, -0.287682, 0]),
    case("A5", "k2", penalties.k2, P, Q, want=[0.024897, 0.041380, 0]),
    case("A5", "k3", penalties.k3, P, Q, want=[0.023144, 0.045651, 0]),
    case("A5", "k3 with the gradient of k2: value", penalties.k3_straight_through, P, Q,
         want=[0.023144, 0.045651, 0]),
    case("A5", "mean and variance of k1: KL(p||q)", mean_of(penalties.k1), P, Q, wide=True,
         want=[0.0252671539, 0.0490863856], digits=10, tag=DERIVED),
    case("A5", "mean and variance of k3", mean_of(penalties.k3), P, Q, wide=True,
         want=[0.0252671539, 0.0002545942], digits=10, tag=DERIVED),
    case("A5", "mean of k2", lambda p, q: mean_of(penalties.k2)(p, q)[0], P, Q, wide=True,
         want=0.0248624073, digits=10, tag=DERIVED),
    case("A5", "mean of k1 under q: KL(q||p)", lambda p, q: mean_of(penalties.k1)(q, p)[0], P, Q,
         wide=True, want=0.0258154085, digits=10, tag=DERIVED),
    case("A5", "mean gradient of k1 as a loss: none", expected_gradient(penalties.k1), P, Q,
         want=[0, 0, 0], tag=DERIVED),
    case("A5", "of k2: that of KL(p||q)", expected_gradient(penalties.k2), P, Q, want=REVERSE,
         tag=DERIVED),
    case("A5", "of k3: that of KL(q||p), p - q", expected_gradient(penalties.k3), P, Q,
         want=[0.1, -0.1, 0], tag=DERIVED),
    case("A5", "of ratio times k3: that of KL(p||q)", expected_gradient(ratio_k3), P, Q,
         want=REVERSE, tag=DERIVED),
    case("A5", "of k3 with the gradient of k2", expected_gradient(penalties.k3_straight_through),
         P, Q, want=REVERSE, tag=DERIVED),
    held("A5", "KL in the reward follows the sequence's reverse KL",
         "test_rewards.py::test_kl_in_reward_is_the_gradient_of_the_sequence_kl", DERIVED),
    case("A6", "weights at gaps 0 .5 1.2 -2", corrections.token_tis, OLD, SAMPLER, FOUR, cap=1e9,
         want=[1, 1.648721, 3.320117, 0.135335]),
    case("A6", "truncated at 2", corrections.token_tis, OLD, SAMPLER, FOUR, cap=2.0,
         want=[1, 1.648721, 2, 0.135335]),
    case("A6", "masked outside [.5, 2]", corrections.token_mask, OLD, SAMPLER, FOUR,
         want=[1, 1.648721, 0, 0]),
    case("A6", "sequence weight, truncated at 2", corrections.sequence_tis, OLD, SAMPLER, FOUR,
         want=[0.740818] * 4),
    case("A6", "sequence weight, masked outside [0, 3]", corrections.sequence_mask, OLD, SAMPLER,
         FOUR, want=[0.740818] * 4),
    case("A6", "geometric mean weight .927744: within [.927743, .927745]", rejected, OLD, SAMPLER,
         FOUR, low=0.927743, high=0.927745, want=[1] * 4),
    case("A6", "and not within [.927745, 2]", rejected, OLD, SAMPLER, FOUR, low=0.927745, high=2.0,
         want=[0] * 4),
    held("A6", "equal laws: exactly 1", "test_losses.py::test_corrections_without_a_gap"),
    *(
        number
        for name, ratio in (("GSPO", ratios.sequence), ("GSPO-token", ratios.sequence_token))
        for number in (
            case("A7", f"{name}: s of log ratios .02 -.01 .05 and -.1 .3", row_ratio(ratio),
                 SEQUENCES, TWO_ROWS, want=[1.0202013, 1.1051709], digits=7, wide=True),
            case("A7", f"{name}: loss, A = 1 -1, clip 3e-4/4e-4", row_loss(ratio), SEQUENCES,
                 TWO_ROWS, low=3e-4, high=4e-4, want=[-1.0004, 1.105171]),
            case("A7", f"{name}: loss, clip .2/.28", row_loss(ratio), SEQUENCES, TWO_ROWS,
                 low=0.2, high=0.28, want=[-1.020201, 1.105171]),
        )
    ),
    case("A8", "CISPO, ratios .5 1.1 3, A = 1 1 -1, log-probs -1 -.5 -2, cap 1.28",
         loss_of(surrogates.cispo), one_row(np.log([0.5, 1.1, 3])), one_row([-1, -0.5, -2]),
         one_row([1, 1, -1]), cap_high=1.28, want=[0.5, 0.55, -2.56]),
    case("A8", "its gradient", cispo_slope, one_row(np.log([0.5, 1.1, 3])), one_row([-1, -0.5, -2]),
         one_row([1, 1, -1]), want=[-0.5, -1.1, 1.28]),
    case("A8", "that of PPO .2/.28", ppo_slope, one_row(np.log([0.5, 1.1, 3])), one_row([1, 1, -1]),
         want=[-0.5, -1.1, 3]),
    case("A9", "token mean of 1 2 3 4 and 5 6", aggregated(aggregate.token_mean), LOSSES, RAGGED,
         want=3.5),
    case("A9", "sequence mean of token means", aggregated(aggregate.sequence_mean_token_mean),
         LOSSES, RAGGED, want=4),
    case("A9", "sequence mean of token sums", aggregated(aggregate.sequence_mean_token_sum), LOSSES,
         RAGGED, want=10.5, digits=5),
    case("A9", "divided by rows and a constant length of 4 (5.25 where the rows are left out)",
         aggregated(functools.partial(aggregate.constant_length, length=4)), LOSSES, RAGGED,
         want=2.625),
    held("A9", "1 and 8 micro-batches, 1 and 8 devices: the same",
         "test_layouts.py::test_loss_and_gradient"),
    *(
        case("A10", f"share of groups of 16 kept, chance {p:g}", kept_share, p, digits=digits,
             want=want, tag=DERIVED)
        for p, want, digits in ((0.5, 0.99997, 5), (0.1, 0.814698, 6), (0.01, 0.148542, 6))
    ),
    case("A10", "overlong punishment, 20480 and 4096: lengths 16384 17408 18432 20480 21000",
         shaping.soft_overlong, [[0] * 5], lengths(16384, 17408, 18432, 20480, 21000),
         max_length=20480, cache=4096, want=[0, -0.25, -0.5, -1, -1]),
    case("A10", "entropy of logits 2 1 0", entropy, [2, 1, 0], want=0.8323956, digits=7, wide=True,
         tag=DERIVED),
    case("A10", "its gradient", lambda z: jax.grad(entropy)(z), [2, 1, 0],
         want=[-0.282587, 0.140770, 0.141817], tag=DERIVED),
    held("A10", "adaptive entropy coefficient, steps of .005",
         "test_controllers.py::test_entropy_coefficient_rises_only_below_its_target"),
    case("B1", "rows below each prefix of ABCE ABDE AFE ABCE", below, ENDS, PATHS, PATHS_MASK,
         of="count", tag=RECALLED,
         want=[[4, 4, 3, 2, 2], [4, 4, 3, 1, 1], [4, 4, 1, 1, 1], [4, 4, 3, 2, 2]]),
    case("B1", "values of the prefixes, r = 1 0 0 1", below, ENDS, PATHS, PATHS_MASK, of="value",
         want=[[0.5, 0.5, 2 / 3, 1, 1], [0.5, 0.5, 2 / 3, 0, 0], [0.5, 0.5, 0, 0, 0],
               [0.5, 0.5, 2 / 3, 1, 1]], tag=RECALLED),
    case("B1", "changes of value", tempo_change, ENDS, PATHS, PATHS_MASK, tag=RECALLED,
         want=[[0, 1 / 6, 1 / 3, 0], [0, 1 / 6, -2 / 3, 0], [0, -1 / 2, 0, 0],
               [0, 1 / 6, 1 / 3, 0]]),
    case("B1", "advantages", tree.tempo, ENDS, PATHS, PATHS_MASK, PATHS_MASK, eps=1e-9,
         want=[[1, 4 / 3, 5 / 3, 1], [-1, -2 / 3, -7 / 3, -1], [-1, -2, -1, 0],
               [1, 4 / 3, 5 / 3, 1]], tag=RECALLED),
    case("B1", "longest common prefixes", common_prefixes, PATHS, PATHS_MASK, tag=DERIVED,
         want=[[4, 2, 1, 4], [2, 4, 1, 2], [1, 1, 3, 1], [4, 2, 1, 4]]),
    case("B1", "all part at once, r = 1 0 0 0: twice GRPO, then GRPO", tree.tempo, R1,
         ids([[[0, 9], [1, 9], [2, 9], [3, 9]]]), np.ones((1, 4, 2), bool),
         np.ones((1, 4, 2), bool), eps=1e-9, tag=DERIVED,
         want=[[3.464102, 1.732051], *[[-1.154701, -0.577350]] * 3]),
    held("B1", "against a tree of pointers", "test_tree.py::test_tempo_equals_the_tree", RECALLED),
    held("B1", "changes of value add up to V(leaf) - mean",
         "test_tree.py::test_value_changes_add_up", DERIVED),
    case("B2", "TreeRL step rewards of a, b, a1, a2, b1, b2, of which a1 is right",
         lambda *columns: tree.treerl_step_reward(*columns)[1:], PARENT, LEAVES,
         want=[0.353553, -0.353553, 1.25, -0.75, -0.25, -0.25], tag=RECALLED),
    case("B2", "V, V - V(root), V - V(parent) of root, a, b, a1, a2, b1, b2",
         lambda *columns: jnp.stack(tree.tree_advantages(*columns)), PARENT, LEAVES, tag=RECALLED,
         want=[[0.25, 0.5, 0, 1, 0, 0, 0], [0, 0.25, -0.25, 0.75, -0.25, -0.25, -0.25],
               [0, 0.25, -0.25, 0.5, -0.5, 0, 0]]),
    held("B3", "GA + LA of steps, standardised over the tree", "test_tree.py::test_steps_to_tokens",
         RECALLED),
    held("C1", "mean of observed rewards: c mean(r) + fp", "test_noise.py::test_injected_rates"),
    held("C2", "rates .1 .2: 1.285714 and -.142857", "test_noise.py::test_numbers"),
    held("C2", "variances fn(1-fn)/c^2 and fp(1-fp)/c^2", "test_noise.py::test_injected_rates",
         DERIVED),
    held("C3", "weights .2 and -.8", "test_noise.py::test_numbers"),
    held("C3", "means 0 and -c; E[w G] = c grad J",
         "test_noise.py::test_expected_gradients_are_exact", DERIVED),
    held("C4", "standardising undoes both corrections",
         "test_noise.py::test_standardising_undoes_a_correction"),
    held("C4", "groups of 3 enumerated: scales 1, 2/3, .7, .466667, .989947, .393129",
         "test_noise.py::test_group_recipes_by_enumeration", DERIVED),
    held("C4", "leave-one-out recipes: 1.02041 -.61224, .71429 -.42857, .2 -.8",
         "test_noise.py::test_numbers"),
    held("C5", "two prompts: cosines .996232, 1, .996232, 1; noise by response: .3346",
         "test_noise.py::test_rates_that_differ_between_prompts", DERIVED),
    held("C5", "traces of covariance .19114 .36318 .44053 .70030",
         "test_noise.py::test_variances", DERIVED),
    held("C6", "40 positives, 500 negatives, q .1, 1 flip: .2; from .15: .155",
         "test_noise.py::test_appeals_by_hand"),
    held("C6", "an imperfect second verifier",
         "test_noise.py::test_appeals_debias_an_imperfect_second_verifier", DERIVED),
    held("C6", "simulated: .1999 .2429 .2008 .1745 .2027",
         "test_noise.py::test_appeals_in_the_long_run", DERIVED),
    held("C7", "12 phrases, repetition .05: .55; scores .3 and .7: .355 and .7",
         "test_noise.py::test_pattern_reward_numbers"),
    held("C7", "one coin a group", "test_noise.py::test_group_coins"),
    held("C8", "rates .1 .2 of 20000 draws within 4 standard deviations",
         "test_noise.py::test_injected_rates"),
    held("C8", "rates by answer format: .2; .05 and .45", "test_noise.py::test_rates_by_stratum"),
    case("D1", "W-REINFORCE, r = 1 0 1 0", group.w_reinforce, [[1, 0, 1, 0]],
         want=[0.1, -1, 0.1, -1]),
    case("D1", "PSR", group.psr, [[1, 0, 1, 0]], of="advantages", want=[1, 0, 1, 0]),
    case("D1", "NSR", group.nsr, [[1, 0, 1, 0]], of="advantages", want=[0, -1, 0, -1]),
    case("D1", "NSR: slope of the logits when token 1 is drawn, p p_u and -p (1 - p)",
         logit_slope(group.nsr), Z, [[0]], want=PZ * PZ[1] - PZ[1] * SAMPLED),
    case("D1", "PSR: the opposite", logit_slope(group.psr), Z, [[1]],
         want=PZ[1] * SAMPLED - PZ * PZ[1]),
    case("D2", "psi of u = .3 -.2 .1 0", pacs_psi, U, want=[1 / 3, -1 / 3, 1 / 15, -1 / 15]),
    case("D2", "loss, R = 1 0 0 1", pacs_loss, U, ENDS, want=0.6336708, digits=7, wide=True),
    case("D2", "four times its gradient", lambda u, r: 4 * jax.grad(pacs_loss)(u, r), U, ENDS,
         want=[-0.556573, 0.556573, 0.688881, -0.688881], tag=DERIVED),
    case("D2", "class weights of 1 correct in 4", lambda u, r: pacs(u, r) / jnp.log(2.0),
         [[[0]] * 4], R1, want=[2, 2 / 3, 2 / 3, 2 / 3]),
    *(
        case("D3", f"CANON {part}, metric .9 .2 .5 .7, r = {' '.join(map(str, r))}", group.canon,
             [r], CANON, mu=mu, want=want)
        for r, inter, intra in (
            ([1, 0, 1, 0], [0.5, -0.5, 0.5, -0.5], [0.5, -0.5, 0.5, -0.5]),
            ([1, 0, 0, 1], [1, -1, -1, 1], [0, 0, 0, 0]),
            ([1, 0, 0, 0], [1, -0.5, -0.5, 0], [0.5, 0, 0, -0.5]),
        )
        for part, mu, want in (("inter", 1.0, inter), ("intra", 0.0, intra))
    ),
    held("D4", "sum of A influence, and the finite difference: 3.8568959",
         "test_scorers.py::test_thr_number_and_finite_difference", DERIVED),
    held("D5", "effective rank of singular values 3 1: 1.754765",
         "test_scorers.py::test_effective_rank_number"),
    held("D5", "ranks 2 3 3.5 5: velocity 1.388889, acceleration .583333",
         "test_scorers.py::test_motion_numbers"),
    held("D5", "deviations .2 -.1 .5: phi .117488; advantages 1 and -.2: 1.117488 and -.1",
         "test_scorers.py::test_verl_numbers"),
    held("D6", "4 first rows and 3 branches of each: 16 rows, one group",
         "test_branching.py::test_critical_tokens_begin_blocks_of_their_own"),
    held("D7", "values .1 .3 .25 .7: progress .2 -.05 .45",
         "test_branching.py::test_progress_by_hand", RECALLED),
    held("D7", "outcome 1, alpha .5: 1.3", "test_branching.py::test_progress_bonus_by_hand",
         RECALLED),
    case("D8", "first-order change of the correct mass", brorl_formula, *STEP, wide=True,
         want=1.111566e-7, digits=13, tag=RECALLED),
    case("D8", "exact change after the step", brorl_exact, *STEP, wide=True,
         want=1.111566e-7, digits=13, tag=DERIVED),
    held("D9", "which rows train: best; best and random; best and worst",
         "test_rewards.py::test_pf_ppo"),
    held("D9", "resampling weights |r|^p; 1 and 0; .4 and .1",
         "test_rewards.py::test_pf_ppo_weights"),
    case("D10", "FAPO rewards of clean, flawed, wrong", outcomes.fapo, [[1, 1, 0]], [[0, 1, 0]],
         of="rewards", want=[1, 0, -1]),
    case("D10", "advantages of 2 clean, 2 flawed, 4 wrong", fapo_advantages,
         [[1] * 4 + [0] * 4], [[0, 0, 1, 1] + [0] * 4],
         want=[*[1.507557] * 2, *[0.301511] * 2, *[-0.904534] * 4]),
    case("D10", "of 4 clean, 2 flawed, 2 wrong", fapo_advantages,
         [[1] * 6 + [0] * 2], [[0] * 4 + [1] * 2 + [0] * 2],
         want=[*[0.904534] * 4, *[-0.301511] * 2, *[-1.507557] * 2]),
    held("D10", "flawed rows are reinforced while clean / wrong < 2 / coef - 1",
         "test_rewards.py::test_fapo"),
    held("D11", "c = 1 .6 .9, i = 0 .3 .1: weights 1.006644 .986711 1.006644 at temperature 5, "
         "1.064309 .871382 1.064309 at .5", "test_controllers.py::test_recap_numbers", RECALLED),
    case("D12", "z of 5 beside 19 times .1", last_z, [[0.1] * 19 + [5]], want=4.3589, digits=4,
         tag=RECALLED),
    held("D12", "which is beyond 3 and does not train",
         "test_advantages.py::test_stable_reinforce_filter", RECALLED),
    case("D12", "reward of correct, consistent, well formed", outcomes.stable_reinforce,
         [[1]], [[1]], [[1]], of="rewards", want=2),
    case("D13", "RL-PLUS, pi .3, old .2, A = 1: loss of an external and of an own row",
         loss_of(surrogates.rl_plus), np.log([[[1.5]] * 2]), np.log([[[0.3]] * 2]),
         np.log([[[0.2]] * 2]), [[[1]] * 2], ids([[3, 0]]), want=[-0.627495, -1.5]),
    case("D13", "without the exploration factor: ratio .75", loss_of(surrogates.rl_plus),
         np.log([[[1.5]]]), np.log([[[0.3]]]), np.log([[[0.2]]]), [[[1]]], ids([[3]]), gamma=0.0,
         want=-0.75),
    *(
        case("D14", f"bonus of answers a a b c seen 9 9 1 1 times, baseline: {baseline}",
             exploration.historical, [[0] * 4], ANSWERS, VISITS, coef=1.0, baseline=baseline,
             want=want, tag=RECALLED)
        for baseline, want in (
            ("none", [1 / 3, 1 / 3, 1, 1]),
            ("mean", [-1 / 3, -1 / 3, 1 / 3, 1 / 3]),
            ("constant", [-1 / 6, -1 / 6, 0.5, 0.5]),
        )
    ),
    case("D14", "penalty within the batch", exploration.batch, [[0] * 4], ANSWERS, coef=1.0,
         want=[-0.25, -0.25, 0, 0], tag=RECALLED),
    case("D15", "DARLING diversity of classes 0 0 1 2", outcomes.darling, [[1] * 4], ANSWERS,
         want=[2 / 3, 2 / 3, 1, 1]),
    case("D15", "rewards of quality 1 1 1 0", outcomes.darling, [[1, 1, 1, 0]], ANSWERS,
         want=[2 / 3, 2 / 3, 1, 0]),
    case("D15", "advantages", darling_advantages, [[1, 1, 1, 0]], ANSWERS,
         want=[0.083333, 0.083333, 0.416667, -0.583333]),
    case("D16", "RLCR, confidence .8: correct and wrong", outcomes.rlcr, [[1, 0]], [[0.8, 0.8]],
         of="rewards", want=[0.96, -0.64]),
    case("D16", "mean at P(correct) .6, confidence .6 .9 0", rlcr_mean, [[0.6, 0.9, 0]], p=0.6,
         want=[0.36, 0.27, 0], tag=DERIVED),
    held("D16", "the mean is largest at confidence p, where it is p^2",
         "test_rewards.py::test_rlcr", DERIVED),
    case("D17", "TruthRL advantages of correct, abstained, wrong, wrong", truthrl_advantages,
         [[1, 0, 0, 0]], [[0, 1, 0, 0]], want=[1.507557, 0.301511, -0.904534, -0.904534],
         tag=RECALLED),
    case("D17", "of abstained, abstained, wrong, wrong", truthrl_advantages,
         [[0] * 4], [[1, 1, 0, 0]], want=[1, 1, -1, -1], tag=RECALLED),
    case("D18", "G-RA, outcome 1 and 0, steps .2 .1", gated, [[1, 0]], [[0.2, 0.2]], [[0.1, 0.1]],
         want=[1.3, 0], tag=RECALLED),
    held("D19", "mean log-probs -3 -1 -1.5: turn rewards .318092 -.144749",
         "test_scorers.py::test_information_gain_numbers"),
    held("D19", "pooled with .1 -.05 0: z .887207 -1.191594 1.704225, -.09233 -.766039 -.541469; "
         "summed to go: 1.399838 .512631 1.704225", "test_scorers.py::test_igpo_numbers", RECALLED),
    case("D20", "LaRe, factors (1,0) (0,1) (1,1), weights 1 .5: rewards of the steps", latent.proxy,
         [[[[1, 0], [0, 1], [1, 1]]]], [1, 0.5], want=[1, 0.5, 1.5]),
    case("D20", "their loss for the outcome 3", latent.decomposition_loss,
         [[[[1, 0], [0, 1], [1, 1]]]], [1, 0.5], [[3]], want=0),
)
# fmt: on


# --- the document ------------------------------------------------------------------------------


def labelled() -> dict[str, Number]:
    """{'A1.3': the third number of section A1}"""
    count: collections.Counter[str] = collections.Counter()
    out = {}
    for number in NUMBERS:
        count[number.section] += 1
        out[f"{number.section}.{count[number.section]}"] = number
    return out


def document() -> str:
    """docs/worked_numbers.md."""
    lines = [
        "# Worked numbers",
        "",
        "Generated from `tests/golden.py` by `python -m tests.golden > docs/worked_numbers.md`.",
        "A label in the last column, [A1.1], is a case of `tests/test_golden.py::test_number`, run",
        "eagerly and under jit; it may be off by half a unit of its last decimal and the rounding",
        "of the arithmetic. All were worked out from the formulas by hand or in numpy, apart from",
        "this code. What papers measured by training is not here.",
        "",
        *(f"- **{tag}**: {meaning}." for tag, meaning in TAGS.items()),
        "",
        "| section | method |",
        "|---|---|",
        *(f"| {name} | {method} |" for name, method in SECTIONS.items()),
        "",
        "| section | number | provenance | test |",
        "|---|---|---|---|",
    ]
    for label, n in labelled().items():
        what = n.what if n.test else f"{n.what}: {n.shown()}"
        what = what.replace("|", "\\|")
        tag = n.tag if n.tag == PRINTED else f"**{n.tag}**"
        lines.append(f"| {n.section} | {what} | {tag} | {n.test or f'[{label}]'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(document(), end="")
