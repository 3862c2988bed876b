"""What every estimator, loss and reward transform must do on the bandit, and a planted change after
which it no longer does.

An expectation holds for a seed if all its quantities (`bandit.measure`, `bandit.observe`) lie in
their ranges.  It must hold for every seed of the method and for none of its ablation.
"""

from __future__ import annotations

import dataclasses
import math
import typing as tp

from tests.bandit import CLIP, NOISE, Arm, G

INF = math.inf
Entry = dict[str, tp.Any]
Expectation = dict[str, tuple[float, float]]  # quantity -> (lowest, highest)


@dataclasses.dataclass(frozen=True)
class Case:
    """A method's arm, what it must do, the arm in which it must not, and what that one changes."""

    arm: Arm
    expect: Expectation
    ablation: Arm
    change: str


def case(expect: Expectation, change: str, ablation: Entry, **arm: tp.Any) -> Case:
    """ablation: fields of the arm that are replaced."""
    full = Arm(**arm)
    return Case(full, expect, full.but(**ablation), change)


def credited(
    expect: Expectation,
    change: str,
    entry: Entry,
    settings: Entry,
    first: tuple = (),
    **arm: tp.Any,
) -> Case:
    """A case of an advantage entry, the last of the chain, whose ablation has other settings."""
    ablation = dict(advantage=(*first, {**entry, **settings}))
    return case(expect, change, ablation, advantage=(*first, entry), **arm)


def shaped(
    expect: Expectation,
    change: str,
    entry: Entry,
    settings: Entry,
    first: tuple = (),
    **arm: tp.Any,
) -> Case:
    """A case of a shaping entry, the last of the chain, whose ablation has other settings."""
    ablation = dict(shaping=(*first, {**entry, **settings}))
    return case(expect, change, ablation, shaping=(*first, entry), **arm)


def policy(**settings: tp.Any) -> tuple[Entry, ...]:
    """A loss of one policy term."""
    return ({**CLIP, **settings},)


LEARNS: Expectation = {"right": (0.9, 1.0)}
CHANCE: Expectation = {"right": (0.02, 0.4)}  # 1/6 at the start
VARIED: Expectation = {"accepted": (0.9, 1.0), "variety": (2.9, 3.0)}
SECOND: Expectation = {"second": (0.8, 1.0)}
NEAR: Expectation = {"kl": (0.0, 1.0)}
SPREAD: Expectation = {"entropy": (0.5, 2.0), "right": (0.3, 1.0)}
# Tokens behind the first earn nothing: where credit says so, their law hardly moves.
LATER_FREE: Expectation = {"later_entropy": (1.7, 1.8)}

ACCEPTED: Entry = dict(verdicts={"accepted": 1.0})  # three first tokens are right
NOTHING: Entry = dict(verdicts={"right": 0.0})
NO_BASELINE = "tests.toy:greedy_advantage"  # A = r
DR_GRPO = dict(advantage=("group.dr_grpo",))
NO_BONUS = "no bonus"
COEFFICIENT_0 = "coefficient 0"

# ---- noise

# The verifier misses right answers and often accepts the decoy.  Where rows are told apart by
# stratum, the rates are known, or found out by appeals to a second verifier.
FP, FN = (0.0, NOISE), (NOISE, 0.0)
CHANNEL = dict(fn="noise.inject", reads=dict(strata="tricked"), fp_rate=FP, fn_rate=FN)
MISSED = dict(fn="noise.inject", fp_rate=0.0, fn_rate=0.4)
BY_EDGES = dict(fn="strata.by_edges", reads=dict(column="verdict/decoy"), edges=(0.5,))
BY_ID = dict(fn="strata.by_id", reads=dict(column="tricked"), count=2)
KNOWN = dict(fn="noise.known_rates", fp_rate=FP, fn_rate=FN)
APPEAL = dict(fn="appeals.lodge", reads=dict(second="verdict/right"), probability=0.25)
APPEAL_ALL = {**APPEAL, "positives": True, "probability": 0.5}
POOLED = dict(fn="appeals.pooled")
STRATIFIED = dict(fn="appeals.stratified", shrink=5.0)
BOTH = dict(fn="appeals.stratified_both", decay=0.98, shrink=2.0)
RATE_FOUND: Expectation = {"metrics/fn_rate": (0.25, 0.5)}
UNKNOWN = "rates taken as 0"
ONE_RATE = "one rate for all strata"
BACKWARD = dict(advantage=("noise.backward",))

RANDOM = (
    dict(fn="shaping.affine", scale=0.0),
    dict(fn="noise.inject", fp_rate=0.5, fn_rate=0.0),
)


def known(**advantage: tp.Any) -> Case:
    """Learns under the channel; without its rates, the decoy wins."""
    full = dict(shaping=(CHANNEL, BY_EDGES, KNOWN), advantage=(advantage,))
    return case(LEARNS, UNKNOWN, dict(shaping=(CHANNEL,)), **full)


# ---- advantages


def baseline(advantage: str) -> Case:
    """Learns from rewards of 20 and 21, which takes a baseline."""
    full = dict(shaping=(dict(fn="shaping.affine", shift=20.0),), advantage=(advantage,))
    return case(LEARNS, "no baseline: A = r", dict(advantage=(NO_BASELINE,)), **full)


SUFFIX = dict(fn="returns.suffix", reads=dict(step_rewards="early"))
MINIMUM = dict(fn="returns.minimum", reads=dict(step_rewards="trap"), temperature=0.1)
IGPO = dict(fn="turns.igpo", reads=dict(step_rewards="dense"))
STEPS_BACKWARD = dict(fn="noise.backward_steps", reads=dict(step_rewards="noisy"))
CANON = dict(fn="group.canon", reads=dict(metric="length"), alpha=0.5, discounted="high")
TWO_REWARDS = dict(fn="group.gdpo", weights={"right": 1.0, "lucky": 1.0})
HISTORICAL = dict(fn="exploration.historical", coef=2.0)
VERL = dict(
    fn="hidden.verl",
    reads=dict(effective_rank="rank", rank_velocity="few", rank_acceleration="few"),
    weight=1.0,
    kappa=1.0,
)
WEIGHTS = dict(fn="selection.pf_ppo_weights", kind="power", power=1.0)
REWEIGHTED = dict(advantage=("group.grpo", "group.reweight"))
UNREWARDED: Expectation = {"update/unrewarded": (0.0, 1e-6)}
AUDITED = (
    dict(fn="noise.control", writes="control_advantages"),
    dict(fn="noise.backward", fp_rate=0.2, fn_rate=0.2),
    "noise.audit",
)
TREE = dict(fn="nodes.leaf_rewards")
NO_FORKS = dict(shaping=({**TREE, "reads": dict(leaf_parent="fork_parent")},))
EXTERNAL = case(
    {"expert": (0.9, 1.0)},
    "no external solutions",
    dict(experts=0),
    verdicts={"expert": 1.0},
    experts=2,
    advantage=("group.rl_plus",),
    loss=policy(surrogate="surrogates.rl_plus"),
)
GAE = dict(advantage=(dict(fn="gae.gae", reads=dict(values="old_value")),))
CRITIC = dict(fn="penalties.value_mse")
UNTRAINED = dict(loss=(CLIP, {**CRITIC, "coef": 0.0}))

ADVANTAGES: dict[str, Case] = {
    "group.grpo": baseline("group.grpo"),
    "group.dr_grpo": baseline("group.dr_grpo"),
    "group.rloo": baseline("group.rloo"),
    "batch.reinforce_pp": baseline("batch.reinforce_pp"),
    "batch.reinforce_pp_baseline": baseline("batch.reinforce_pp_baseline"),
    "noise.control": baseline("noise.control"),
    "group.maxrl": case(
        {"hard": (0.2, 0.5)},  # two of four prompts are hard
        "not divided by the mean (Dr.GRPO)",
        DR_GRPO,
        verdicts={"mixed": 1.0},
        advantage=("group.maxrl",),
        steps=20,
    ),
    "group.gdpo": case(
        LEARNS,
        "GRPO on the sum, of which the other reward is nearly all",
        dict(advantage=("group.grpo",)),
        verdicts={"right": 1.0, "lucky": 20.0},
        advantage=(TWO_REWARDS,),
    ),
    "group.psr": credited(
        LEARNS,
        "every row counts as correct",
        dict(fn="group.psr", threshold=0.5),
        dict(threshold=-1.0),
    ),
    "group.nsr": case(
        VARIED,
        "PSR: the correct rows instead of the wrong ones",
        dict(advantage=("group.psr",)),
        advantage=("group.nsr",),
        **ACCEPTED,
    ),
    "group.w_reinforce": credited(
        VARIED,
        "weight 10 instead of 0.1 on correct rows",
        dict(fn="group.w_reinforce", positive=0.1),
        dict(positive=10.0),
        **ACCEPTED,
    ),
    "group.canon": credited(
        LEARNS | {"length": (2.0, 2.2)},
        "the longer half is not discounted",
        CANON,
        dict(alpha=1.0),
    ),
    "group.stable_reinforce": credited(
        LEARNS | {"update/rows": (0.3, 0.98)},
        "no bound on outlying advantages",
        dict(fn="group.stable_reinforce", bound=1.5),
        dict(bound=1e9),
    ),
    "group.rl_plus": EXTERNAL,
    "group.reweight": shaped(
        LEARNS | UNREWARDED, "all weights 1", WEIGHTS, dict(power=0.0), **REWEIGHTED
    ),
    "gae.gae": case(
        LEARNS | {"value_error": (0.0, 0.15)},
        "the critic is not trained",
        UNTRAINED,
        loss=(CLIP, CRITIC),
        **GAE,
    ),
    "returns.suffix": case(
        LEARNS | LATER_FREE,
        "the row's reward on all its tokens (PSR)",
        dict(advantage=("group.psr",)),
        advantage=(SUFFIX,),
    ),
    "returns.minimum": credited(
        LEARNS, "the mean over steps instead of the minimum", MINIMUM, dict(temperature=1e6)
    ),
    "tree.tempo": credited(
        LEARNS | {"update/first_credit": (1.25, 3.0)},
        "no change of prefix value (GRPO)",
        dict(fn="tree.tempo", td_coef=1.0),
        dict(td_coef=0.0),
    ),
    "tree.treerl": case(
        LEARNS,
        "no segment is shared by rows",
        NO_FORKS,
        shaping=(TREE,),
        advantage=("tree.treerl",),
    ),
    "tree.treeps": case(
        LEARNS,
        "no segment is shared by rows",
        NO_FORKS,
        shaping=(TREE,),
        advantage=("tree.treeps",),
    ),
    "turns.igpo": credited(
        {"steps": (0.9, 1.0)}, "no rewards of turns", IGPO, dict(reads=dict(step_rewards="zeros"))
    ),
    "influence.thr": credited(
        LEARNS | {"update/first_credit": (1.5, 3.0)},
        "all tokens are kept",
        dict(fn="influence.thr", p=0.5, keep=0.2),
        dict(keep=1.0),
        first=("group.grpo",),
    ),
    "hidden.verl": credited(
        {"accepted": (0.9, 1.0), "spare": (0.5, 1.0)},
        NO_BONUS,
        VERL,
        dict(weight=0.0),
        first=("group.grpo",),
        steps=100,
        **ACCEPTED,
    ),
    "exploration.historical": credited(
        VARIED,
        NO_BONUS,
        HISTORICAL,
        dict(coef=0.0),
        first=("group.dr_grpo",),
        steps=120,
        **ACCEPTED,
    ),
    "exploration.batch": credited(
        VARIED,
        "no penalty",
        dict(fn="exploration.batch", coef=0.5),
        dict(coef=0.0),
        first=("group.dr_grpo",),
        steps=120,
        **ACCEPTED,
    ),
    "noise.backward": known(fn="noise.backward"),
    "noise.forward": known(fn="noise.forward", divide_by_channel=True),
    "noise.backward_steps": case(
        LEARNS,
        UNKNOWN,
        dict(shaping=()),
        shaping=(BY_EDGES, KNOWN),
        advantage=(STEPS_BACKWARD,),
    ),
    "noise.audit": case(
        {"metrics/audit_cosine": (0.999, 1.001), "metrics/audit_max": (0.1, INF)},
        "rates that differ between answers",
        dict(shaping=(CHANNEL, BY_EDGES, KNOWN)),
        shaping=(dict(fn="noise.inject", fp_rate=0.2, fn_rate=0.2),),
        advantage=AUDITED,
    ),
}

# ---- losses

# The sampler draws the decoy too often; without a baseline its reward of a half then wins.
MISMATCH = dict(verdicts={"right": 1.0, "decoy": 0.5}, advantage=(NO_BASELINE,), bias=1.5)
# The sampler hardly draws the decoy, and the ratio is to the sampler's law: it is large there.
SURPRISED = dict(bias=-3.0, old_logp="sampler")
SEQUENCE_MEAN = dict(aggregate="aggregate.sequence_mean_token_mean")
NOT_HEAVY: Expectation = {"update/heavy": (0.0, 1e-9)}
NOT_CLIPPED = "nothing is clipped"
SCALED_K3 = (CLIP, dict(fn="penalties.scaled_k3"))
SCALED_BONUS = (CLIP, dict(fn="penalties.scaled_entropy_bonus"))
ADAPTIVE_KL = dict(fn="controllers.adaptive_kl", unit="row", target=0.5, coef=0.05, horizon=64.0)
FIXED_KL = {**ADAPTIVE_KL, "coef": 1.0, "horizon": 1e9}
ADAPTIVE_ENTROPY = dict(
    fn="controllers.adaptive_entropy",
    reads=dict(policy_entropy="old_entropy"),
    target=1.6,
    delta=0.05,
)
FIXED_ENTROPY = {**ADAPTIVE_ENTROPY, "target": 2.0, "delta": 0.0, "coef": 0.3}


def term(
    expect: Expectation, change: str, settings: Entry, surrogate: Entry, **arm: tp.Any
) -> Case:
    """A case of a surrogate, whose ablation has other settings."""
    ablation = dict(loss=policy(surrogate={**surrogate, **settings}))
    return case(expect, change, ablation, loss=policy(surrogate=surrogate), **arm)


def correction(**settings: tp.Any) -> Case:
    loss = policy(corrections=(settings,))
    return case(LEARNS, "no correction", dict(loss=policy()), loss=loss, **MISMATCH)


def aggregation(expect: Expectation, other: str, aggregate: tp.Any, **arm: tp.Any) -> Case:
    ablation = dict(loss=policy(aggregate=f"aggregate.{other}"))
    full = policy(aggregate=aggregate)
    return case(LEARNS | expect, f"{other} instead", ablation, loss=full, **arm)


def penalty(expect: Expectation, fn: str, coef: float, **arm: tp.Any) -> Case:
    full, without = ((CLIP, dict(fn=f"penalties.{fn}", coef=c)) for c in (coef, 0.0))
    return case(expect, COEFFICIENT_0, dict(loss=without), loss=full, **arm)


LOSSES: dict[str, Case] = {
    "surrogates.reinforce": case(
        LEARNS,
        "the sign of the loss",
        dict(loss=policy(surrogate="surrogates.reinforce", coef=-1.0)),
        loss=policy(surrogate="surrogates.reinforce"),
    ),
    "surrogates.ppo_clip": term(
        LEARNS | {"update/clipped": (0.01, 1.0)},
        NOT_CLIPPED,
        dict(low=1e9, high=1e9),
        dict(fn="surrogates.ppo_clip", low=0.2, high=0.2),
        epochs=4,
    ),
    "surrogates.dual_clip": term(
        LEARNS | NOT_HEAVY,
        "no second clip",
        dict(c=1e9),
        dict(fn="surrogates.dual_clip", c=3.0),
        **SURPRISED,
    ),
    "surrogates.stable_reinforce": term(
        LEARNS | NOT_HEAVY,
        "a ceiling of 1000 on the ratio",
        dict(ceiling=1e3),
        dict(fn="surrogates.stable_reinforce", ceiling=3.0),
        **SURPRISED,
    ),
    "surrogates.cispo": case(
        {"decoy": (0.9, 1.0), "update/clipped": (0.0, 0.0)},
        "PPO's clip, under which rare tokens have no gradient",
        dict(loss=policy()),
        verdicts={"decoy": 1.0},
        loss=policy(surrogate=dict(fn="surrogates.cispo", cap_high=5.0)),
        **SURPRISED,
    ),
    "surrogates.rl_plus": EXTERNAL,
    "ratios.token": case(
        LEARNS | {"update/spread": (0.01, INF)},
        "one ratio a row",
        dict(loss=policy(ratio="ratios.sequence")),
        loss=policy(ratio="ratios.token"),
        epochs=4,
    ),
    "ratios.sequence": case(
        LEARNS | {"update/spread": (0.0, 1e-5)},
        "one ratio a token",
        dict(loss=policy(ratio="ratios.token", **SEQUENCE_MEAN)),
        loss=policy(ratio="ratios.sequence", **SEQUENCE_MEAN),
        epochs=4,
    ),
    "ratios.sequence_token": case(
        LEARNS | LATER_FREE | {"update/spread": (0.0, 1e-5)},
        "one gradient a row (GSPO)",
        dict(loss=policy(ratio="ratios.sequence", **SEQUENCE_MEAN)),
        advantage=(SUFFIX,),
        loss=policy(ratio="ratios.sequence_token", **SEQUENCE_MEAN),
        epochs=2,
    ),
    "corrections.token_tis": correction(fn="corrections.token_tis", cap=2.0),
    "corrections.sequence_tis": correction(fn="corrections.sequence_tis", cap=2.0),
    "corrections.token_mask": correction(fn="corrections.token_mask", low=0.5, high=2.0),
    "corrections.sequence_mask": correction(fn="corrections.sequence_mask", low=0.5, high=3.0),
    "corrections.geometric_rejection": correction(
        fn="corrections.geometric_rejection", low=0.9, high=1.5
    ),
    "aggregate.token_mean": aggregation(
        {"update/long_rows": (2.9, 3.1)}, "sequence_mean_token_mean", "aggregate.token_mean"
    ),
    "aggregate.sequence_mean_token_mean": aggregation(
        {"update/long_rows": (0.99, 1.01)}, "token_mean", "aggregate.sequence_mean_token_mean"
    ),
    "aggregate.sequence_mean_token_sum": aggregation(
        {"update/weight": (1.5, 3.0)}, "token_mean", "aggregate.sequence_mean_token_sum"
    ),
    "aggregate.constant_length": aggregation(
        {"update/weight": (0.3, 0.98)}, "token_mean", dict(fn="aggregate.constant_length", length=3)
    ),
    "aggregate.prompt_mean": aggregation(
        {"update/last_prompt": (0.249, 0.251)}, "token_mean", "aggregate.prompt_mean", missing=True
    ),
    "aggregate.top_entropy": aggregation(
        {"update/tokens": (0.7, 0.9)}, "token_mean", dict(fn="aggregate.top_entropy", fraction=0.8)
    ),
    "penalties.k1": case(
        LEARNS | {"kl": (1.5, INF)},  # inert as a loss
        "k2, which is not",
        dict(loss=(CLIP, dict(fn="penalties.k2", coef=1.0))),
        loss=(CLIP, dict(fn="penalties.k1", coef=1.0)),
    ),
    "penalties.k2": penalty(NEAR, "k2", 1.0),
    "penalties.k3": penalty(NEAR, "k3", 1.0),
    "penalties.k3_straight_through": penalty(NEAR, "k3_straight_through", 1.0),
    "penalties.k3_ratio": penalty(NEAR, "k3_ratio", 1.0, epochs=2),
    "penalties.scaled_k3": shaped(NEAR, COEFFICIENT_0, FIXED_KL, dict(coef=0.0), loss=SCALED_K3),
    "penalties.entropy_bonus": penalty(SPREAD, "entropy_bonus", 0.3, **DR_GRPO),
    "penalties.scaled_entropy_bonus": shaped(
        SPREAD, COEFFICIENT_0, FIXED_ENTROPY, dict(coef=0.0), loss=SCALED_BONUS, **DR_GRPO
    ),
    "penalties.value_mse": penalty({"value_error": (0.0, 0.15)}, "value_mse", 1.0, **GAE),
    "penalties.value_clip": case(
        {"value_error": (0.0, 0.15), "update/critic": (0.0, 0.93)},
        NOT_CLIPPED,
        dict(loss=(CLIP, dict(fn="penalties.value_clip", clip=1e9))),
        loss=(CLIP, dict(fn="penalties.value_clip", clip=0.02)),
        epochs=4,
        **GAE,
    ),
    "penalties.pacs": case(
        LEARNS,
        "every row counts as wrong",
        dict(loss=(dict(fn="penalties.pacs", threshold=2.0, **SEQUENCE_MEAN),)),
        loss=(dict(fn="penalties.pacs", threshold=0.5, **SEQUENCE_MEAN),),
    ),
}

# ---- rewards

TRUTH = dict(correct="verdict/knowable", abstained="verdict/spare")
FLAWS = dict(correct="verdict/either", flawed="verdict/decoy")
JUDGE = dict(
    flawed="verdict/flawed",
    flawed_prediction="verdict/found",
    flaw_step_prediction="found_step",
    num_steps="few",
)
CONSISTENT = dict(correct="verdict/right", consistent="verdict/twice", well_formed="verdict/ended")
PATTERN = dict(pattern="verdict/second")
DARLING = dict(fn="outcomes.darling", reads=dict(diversity_class="answer_id"), floor=0.1)
NO_DIVERSITY = "no diversity in the reward (a floor of 1)"
SHIFT_DOWN = dict(fn="shaping.affine", shift=-2.0)
# Three whole completions are right.
FEW: Expectation = {"brief": (0.75, 1.0), "variety": (2.1, 3.0)}
BRIEF: Entry = dict(verdicts={"brief": 1.0}, steps=100)
RECAP = dict(fn="controllers.recap", names=("right", "lucky"), temperature=0.5)
FEW_ROWS: Expectation = {"update/rows": (2 / G, 2 / G)}

REWARDS: dict[str, Case] = {
    "combine.weighted_sum": shaped(
        LEARNS,
        "the other verdict",
        dict(fn="combine.weighted_sum", weights={"right": 1.0}),
        dict(weights={"decoy": 1.0}),
    ),
    "combine.gated_sum": case(
        LEARNS,
        "the sum: the spare token's reward of 2 wins",
        dict(shaping=()),
        verdicts={"right": 1.0, "spare": 2.0},
        shaping=(dict(fn="combine.gated_sum", order=("right", "spare")),),
    ),
    "noise.inject": case(
        CHANCE, "the verdict instead of random rewards", dict(shaping=()), shaping=RANDOM
    ),
    "noise.inject_hashed": case(
        {"update/reward": (0.75, 1.0)},
        "coins of the row, which no answer can exploit",
        dict(shaping=(dict(fn="noise.inject", fp_rate=0.4, fn_rate=0.4),)),
        shaping=(dict(fn="noise.inject_hashed", fp_rate=0.4, fn_rate=0.4),),
    ),
    "noise.known_rates": shaped(
        LEARNS,
        "the same rates for all strata",
        KNOWN,
        dict(fp_rate=0.2, fn_rate=0.2),
        first=(CHANNEL, BY_EDGES),
        **BACKWARD,
    ),
    "noise.backward": case(
        LEARNS,
        UNKNOWN,
        dict(shaping=(CHANNEL, "noise.backward")),
        shaping=(CHANNEL, BY_EDGES, KNOWN, "noise.backward"),
        advantage=("group.rloo",),
    ),
    "noise.forward": case(
        LEARNS,
        UNKNOWN,
        dict(shaping=(CHANNEL, "noise.forward")),
        shaping=(CHANNEL, BY_EDGES, KNOWN, "noise.forward"),
        advantage=(NO_BASELINE,),
    ),
    "noise.calibrate": shaped(
        SECOND,
        "alpha 0",
        dict(fn="noise.calibrate", reads=PATTERN, alpha=0.5),
        dict(alpha=0.0),
        **NOTHING,
    ),
    "noise.pattern_when_wrong": shaped(
        SECOND,
        "nothing counts as wrong",
        dict(fn="noise.pattern_when_wrong", reads=PATTERN, threshold=0.5),
        dict(threshold=-1.0),
        **NOTHING,
    ),
    "strata.by_edges": case(
        LEARNS,
        "an edge that divides nothing",
        dict(shaping=(CHANNEL, {**BY_EDGES, "edges": (2.0,)}, KNOWN)),
        shaping=(CHANNEL, BY_EDGES, KNOWN),
        **BACKWARD,
    ),
    "strata.by_id": case(
        LEARNS,
        "all rows in one stratum",
        dict(shaping=(CHANNEL, {**BY_ID, "count": 1}, KNOWN)),
        shaping=(CHANNEL, BY_ID, KNOWN),
        **BACKWARD,
    ),
    "appeals.lodge": case(
        RATE_FOUND,
        "hardly any row appeals",
        dict(shaping=(MISSED, {**APPEAL, "probability": 1e-6}, POOLED)),
        shaping=(MISSED, APPEAL, POOLED),
    ),
    "appeals.pooled": shaped(
        RATE_FOUND,
        "a second verifier taken for one that calls half of the wrong rows right",
        POOLED,
        dict(false_positive=0.5),
        first=(MISSED, APPEAL),
    ),
    "appeals.stratified": shaped(
        LEARNS,
        ONE_RATE,
        STRATIFIED,
        dict(shrink=1e9),
        first=(CHANNEL, BY_EDGES, APPEAL),
        advantage=("noise.forward",),
    ),
    "appeals.stratified_both": shaped(
        LEARNS,
        ONE_RATE,
        BOTH,
        dict(shrink=1e9),
        first=(CHANNEL, BY_EDGES, APPEAL_ALL),
        steps=100,
        **BACKWARD,
    ),
    "answers.of_completions": shaped(
        FEW,
        NO_DIVERSITY,
        DARLING,
        dict(floor=1.0),
        first=("answers.of_completions",),
        **BRIEF,
        **DR_GRPO,
    ),
    "answers.visits": credited(
        FEW,
        NO_BONUS,
        {**HISTORICAL, "coef": 1.5},
        dict(coef=0.0),
        first=("group.dr_grpo",),
        shaping=("answers.of_completions", "answers.visits"),
        **BRIEF,
    ),
    "controllers.adaptive_kl": shaped(
        NEAR,
        "a horizon at which the coefficient stays",
        ADAPTIVE_KL,
        dict(horizon=1e9),
        loss=SCALED_K3,
    ),
    "controllers.kl_in_reward": case(
        NEAR,
        COEFFICIENT_0,
        dict(shaping=({**FIXED_KL, "coef": 0.0}, "controllers.kl_in_reward")),
        shaping=(FIXED_KL, "controllers.kl_in_reward"),
        advantage=("batch.reinforce_pp",),
    ),
    "controllers.adaptive_entropy": shaped(
        SPREAD,
        "the coefficient stays at 0",
        ADAPTIVE_ENTROPY,
        dict(delta=0.0),
        loss=SCALED_BONUS,
        **DR_GRPO,
    ),
    "controllers.recap": shaped(
        {"metrics/recap/lucky": (1.05, 2.0)},
        "equal weights (an infinite temperature)",
        RECAP,
        dict(temperature=1e9),
        verdicts={"right": 1.0, "lucky": 1.0},
    ),
    "latent.lare": shaped(
        LEARNS | LATER_FREE,
        "the model of the factors is not fitted",
        dict(fn="latent.lare", lr=0.1),
        dict(lr=0.0),
        advantage=("returns.suffix",),
    ),
    "nodes.leaf_rewards": shaped(
        LEARNS,
        "the same reward at all leaves",
        TREE,
        dict(reads=dict(rewards="few")),
        advantage=("tree.treerl",),
    ),
    "progress.progress_bonus": shaped(
        SECOND,
        "alpha 0",
        dict(fn="progress.progress_bonus", alpha=1.0),
        dict(alpha=0.0),
        **NOTHING,
    ),
    "progress.progress_steps": shaped(
        SECOND,
        "alpha 0",
        dict(fn="progress.progress_steps", alpha=1.0),
        dict(alpha=0.0),
        advantage=("returns.suffix",),
    ),
    "outcomes.truthrl": case(
        {"truthful": (0.9, 1.0)},
        "a wrong answer costs no more than silence",
        dict(shaping=()),
        verdicts={"knowable": 1.0},
        shaping=(dict(fn="outcomes.truthrl", reads=TRUTH),),
    ),
    "outcomes.rlcr": case(
        {"confidence_error": (0.0, 0.12), "malformed": (0.0, 0.1)},
        "correctness alone",
        dict(shaping=()),
        verdicts={"lucky": 1.0},
        shaping=(dict(fn="outcomes.rlcr", reads=dict(correct="verdict/lucky")),),
        steps=150,
    ),
    "outcomes.fapo": shaped(
        LEARNS,
        "flaws cost nothing",
        dict(fn="outcomes.fapo", reads=FLAWS, coef=1.0),
        dict(coef=0.0),
    ),
    "outcomes.fapo_judge": shaped(
        {"located": (0.9, 1.0)},
        "the place of a flaw does not matter",
        dict(fn="outcomes.fapo_judge", reads=JUDGE),
        dict(reads={**JUDGE, "num_steps": "many"}),
        **DR_GRPO,
    ),
    "outcomes.stable_reinforce": shaped(
        {"twice": (0.9, 1.0)},
        "another verdict as that on consistency",
        dict(fn="outcomes.stable_reinforce", reads=CONSISTENT),
        dict(reads={**CONSISTENT, "consistent": "verdict/ended"}),
        steps=100,
    ),
    "outcomes.darling": shaped(
        VARIED, NO_DIVERSITY, DARLING, dict(floor=1.0), steps=120, **ACCEPTED, **DR_GRPO
    ),
    "selection.subsample": shaped(
        LEARNS | FEW_ROWS,
        "all rows train",
        dict(fn="selection.subsample", keep=2),
        dict(keep=G),
    ),
    "selection.pf_ppo": case(
        LEARNS | FEW_ROWS,
        "all rows train",
        dict(shaping=()),
        shaping=(dict(fn="selection.pf_ppo", keep="best_random"),),
    ),
    "selection.pf_ppo_weights": shaped(
        LEARNS | UNREWARDED,
        "the smallest reward trains too",
        WEIGHTS,
        dict(kind="extremes"),
        **REWEIGHTED,
    ),
    "shaping.affine": shaped(
        {"right": (0.0, 0.1)},
        "rewards not inverted",
        dict(fn="shaping.affine", scale=-1.0, shift=1.0),
        dict(scale=1.0, shift=0.0),
    ),
    "shaping.clip": shaped(
        LEARNS,
        "a bound of 1000: a rare prize of 200 for the decoy wins",
        dict(fn="shaping.clip", high=1.0),
        dict(high=1e3),
        verdicts={"right": 1.0, "jackpot": 200.0},
        **DR_GRPO,
    ),
    "shaping.min_shift": case(
        VARIED,
        "negative scores times diversity",
        dict(shaping=(SHIFT_DOWN, DARLING)),
        shaping=(SHIFT_DOWN, "shaping.min_shift", DARLING),
        **ACCEPTED,
        **DR_GRPO,
    ),
    "shaping.soft_overlong": shaped(
        LEARNS | {"truncated": (0.0, 0.1)},
        "factor 0",
        dict(fn="shaping.soft_overlong", max_length=3, cache=1, factor=1.0),
        dict(factor=0.0),
    ),
    "shaping.length_cost": shaped(
        LEARNS | {"length": (2.0, 2.2)},
        COEFFICIENT_0,
        dict(fn="shaping.length_cost", coef=0.2),
        dict(coef=0.0),
    ),
    "shaping.group_length": shaped(
        LEARNS | {"length": (2.0, 2.2)},
        COEFFICIENT_0,
        dict(fn="shaping.group_length", coef=1.0),
        dict(coef=0.0),
    ),
    "shaping.kl_in_reward": shaped(
        NEAR,
        COEFFICIENT_0,
        dict(fn="shaping.kl_in_reward", coef=1.0),
        dict(coef=0.0),
        advantage=("batch.reinforce_pp",),
    ),
    "shaping.overlong_filter": case(
        LEARNS | {"update/truncated_rows": (0.0, 0.0)},
        "truncated rows train",
        dict(shaping=()),
        shaping=("shaping.overlong_filter",),
    ),
    "shaping.zero_variance_filter": case(
        LEARNS | {"update/rows": (0.2, 0.8)},
        "groups of equal rewards train",
        dict(shaping=()),
        shaping=("shaping.zero_variance_filter",),
    ),
}

# ---- what must not teach the answer

CONTROLS: dict[str, Case] = {
    "random rewards": case(
        CHANCE, "the verdict instead of random rewards", dict(shaping=()), shaping=RANDOM
    ),
    "rewards for form": case(
        {"right": (0.0, 0.4), "ended": (0.9, 1.0)},
        "the verdict on the answer",
        dict(verdicts={"right": 1.0}),
        verdicts={"right": 0.0, "ended": 1.0},
    ),
    "inverted rewards": case(
        {"right": (0.0, 0.1)},
        "rewards not inverted",
        dict(shaping=()),
        shaping=(dict(fn="shaping.affine", scale=-1.0, shift=1.0),),
    ),
}

CASES: dict[str, dict[str, Case]] = {
    "advantages": ADVANTAGES,
    "losses": LOSSES,
    "rewards": REWARDS,
    "controls": CONTROLS,
}

# Public functions that no bandit can train, and why.
MEASURES = "a measurement: nothing trains on it"
EXEMPT: dict[str, dict[str, str]] = {
    "advantages": {
        "brorl.mass_change": "an analysis of one softmax: reads no columns",
        "brorl.step": "an analysis of one softmax: reads no columns",
        "likelihood.jepo": "of a reference text: tests/test_likelihood.py",
        "likelihood.spliced": "of a reference text: tests/test_likelihood.py",
        "pairwise.brpo": "of a judge that compares two rows: tests/test_rubrics.py",
        "cells.task_relative": "of rows of several kinds of tasks: tests/test_selfplay.py",
        "process.prime": "needs a model trained beside: tests/test_process.py",
        "process.pure": "returns.minimum less what the other rows have: tests/test_process.py",
        "tree.tree_advantages": "of one tree: tree.treerl is the method",
        "tree.treerl_step_reward": "of one tree: tree.treerl is the method",
        "tree.tree_metrics": MEASURES,
        "verification.self_mixed": "of a policy that judges itself: tests/test_coverifiers.py",
    },
    "losses": {
        "corrections.mismatch_metrics": MEASURES,
        **{
            f"preference.{name}": "of pairs, or of a second model: tests/test_preference.py"
            for name in (
                "bradley_terry",
                "dpo",
                "implicit_bce",
                "ipo",
                "kto",
                "nll",
                "orpo",
                "simpo",
                "value_bce",
            )
        },
        "off_policy.product": "of rows drawn under a hint: tests/test_guidance.py",
        "off_policy.shaped": "of rows drawn under a hint: tests/test_guidance.py",
        "surrogates.clip_metrics": MEASURES,
        "verification.class_balanced": "of verification.self_reward_mse",
        "verification.self_reward_mse": "of a token that is not drawn: tests/test_coverifiers.py",
    },
    "rewards": {
        "answers.of_verdict": "names what a verifier has parsed: tests/test_consensus.py",
        "consensus.co_reward": "of two wordings of a prompt: tests/test_consensus.py",
        "consensus.empo": "teaches what the start believes: tests/test_consensus.py",
        "consensus.majority": "teaches what the start believes: tests/test_consensus.py",
        "consensus.most_agreed": "chooses prompts by votes: tests/test_consensus.py",
        "latent.decomposition_loss": "a part of latent.lare",
        "latent.proxy": "a part of latent.lare",
        "likelihood.of_answer": "of a reference text: tests/test_likelihood.py",
        "likelihood.rlpr": "of a reference text: tests/test_likelihood.py",
        "likelihood.std_filter": "its first batches teach all: tests/test_likelihood.py",
        "models.kl_baseline": "a part of preference.kto",
        "models.last_value": "of a second model: tests/test_preference.py",
        "progress.progress": "a part of progress.progress_bonus",
        "progress.regret": MEASURES,
        "selfplay.absolute_zero": "of two roles: tests/test_selfplay.py",
        "turns.gate_steps": "of completions with a tool: tests/test_turns.py",
        "rubrics.explicit": "combine.weighted_sum with a cap: tests/test_rubrics.py",
        "rubrics.gated": "combine.gated_sum as a mixture: tests/test_rubrics.py",
        "verification.agreement": MEASURES,
        "verification.graded": "of two tasks at once: tests/test_coverifiers.py",
        "verification.self_reward": "a part of verification.self_reward_mse",
        "steps.implicit": "of a second model: tests/test_process.py",
        "steps.separation": MEASURES,
        "steps.value_scores": "of a second model: tests/test_process.py",
    },
}
