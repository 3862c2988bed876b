"""A contextual bandit of three tokens, small enough to train every estimator and loss on it.

Four prompts, six tokens (0 ends a completion), at most three of them.  All completions can be
counted, so every quantity of a trained policy is exact.  Chain, loss terms and optimizer are those
of a run.  The policy is a table of logits, so that nothing but the method decides what it learns,
or the toy transformer with the scorer of a run.

What all methods share (draw, score, pull a gradient back through the policy) is compiled once:
a method's loss is differentiated with respect to the policy's outputs only.  The update is that
of `rlpt.learner`; a test compares.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import types
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np

from rlpt import chain as chain_lib
from rlpt import learner, optim, scoring
from rlpt.columns import Table
from rlpt.config import Bound
from rlpt.models import transformer

P, G, T, V = 4, 16, 3, 6
END, SPARE = 0, V - 1
NOISE = 0.6  # rates of the channel that makes the decoy look better than the target
MODEL = transformer.ModelConfig(
    V, 1, 16, 16, num_heads=2, num_kv_heads=1, head_dim=8, tie_embeddings=False
)
# eps: where gradients are small, steps are too, so that what has no signal stays where it is.
OPTIMIZERS = {
    policy: optim.make_optimizer(dict(name="adamw", lr=lr, eps=1e-2))[0]
    for policy, lr in (("table", 0.2), ("transformer", 0.02))
}
CLIP: dict[str, tp.Any] = dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2))

Params = dict[str, tp.Any]
Quantities = dict[str, np.ndarray]  # name -> [seeds]


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train: entries of a config, and what is special about the batch.

    verdicts: name -> weight in the reward.  steps: batches.  epochs: updates a batch.
    bias: added to the decoy's logit when the first token is drawn; the sampler's law knows.
    old_logp: 'policy', or 'sampler' as in a learner's setting of that name.
    experts: rows of each group that are external text.  missing: of the last prompt only two
    rows are judged.
    """

    verdicts: tp.Mapping[str, float] = dataclasses.field(default_factory=lambda: {"right": 1.0})
    shaping: tuple[tp.Any, ...] = ()
    advantage: tuple[tp.Any, ...] = ("group.grpo",)
    loss: tuple[tp.Any, ...] = (CLIP,)
    steps: int = 60
    epochs: int = 1
    bias: float = 0.0
    old_logp: str = "policy"
    experts: int = 0
    missing: bool = False

    def but(self, **changes: tp.Any) -> Arm:
        """The same arm with some fields replaced."""
        return dataclasses.replace(self, **changes)


# ---- the environment


def prompts() -> jax.Array:
    return jnp.arange(P, dtype=jnp.int32)[:, None]


def target() -> jax.Array:
    """The right first token of each prompt, [P,1]; the decoy is the next prompt's."""
    return prompts() + 1


def decoy() -> jax.Array:
    return target() % P + 1


def expert() -> jax.Array:
    """[P,1,T]: the target, the spare token, the end."""
    ones = jnp.ones_like(target())
    return jnp.stack([target(), SPARE * ones, END * ones], axis=-1)


def judge(tokens: jax.Array, mask: jax.Array, key: jax.Array) -> Table:
    """What the environment says of completions [P,G,T]: verdicts and columns of their own names.

    Three verdicts are drawn: `jackpot` is 1 for one decoy in ten; `knowable` is `right` for the
    first two prompts and a coin for the others, which falls on 1 with probability 0.3 unless the
    spare token was said; `lucky` is 1 with a probability of the prompt's, see `luck`.
    """
    first, second = tokens[..., 0], tokens[..., 1]
    early = jnp.broadcast_to(prompts() < 2, first.shape)
    right, tricked, spare = first == target(), first == decoy(), first == SPARE
    coins = jax.random.uniform(key, (4, *tokens.shape))
    jackpot, coin = coins[0, ..., 0] < 0.1, coins[1, ..., 0] < 0.3
    lucky = coins[2, ..., 0] < luck()
    hard = right & (second == SPARE)
    last = mask & (jnp.arange(T) == mask.sum(-1, keepdims=True) - 1)
    steps = mask & (tokens == (prompts()[..., None] + jnp.arange(T)) % (V - 1) + 1)
    # Seen through a channel: a step of a row that starts with the decoy is often called right, a
    # right step of another row is often missed.
    fp, fn = jnp.where(tricked, NOISE, 0.0), jnp.where(tricked, 0.0, NOISE)
    flipped = coins[3] < jnp.where(steps, fn[..., None], fp[..., None])
    # A sum of rewards likes this one best in the decoy's rows, a minimum in right ones.
    bait = jnp.where(jnp.arange(T) == 0, -1.0, jnp.where(last, 3.0, 0.0))
    trap = jnp.where(right[..., None], 0.5, jnp.where(tricked[..., None], bait, 0.0))
    # Two factors of a step: being a right first token, being the second token.
    opening = right[..., None] & (jnp.arange(T) == 0)
    factors = jnp.stack([opening, jnp.broadcast_to(jnp.arange(T) == 1, opening.shape)], -1)
    flawless = jnp.broadcast_to(prompts() == P - 1, first.shape)
    found = (first != END) & (first != SPARE)
    verdicts = {
        "right": right,
        "decoy": tricked,
        "spare": spare,
        "either": right | tricked,
        "accepted": right | tricked | spare,
        "brief": (right | tricked | spare) & mask[..., 1] & (second == END),
        "ended": jnp.any(mask & (tokens == END), -1),
        "second": second == SPARE,
        "steps": jnp.all(steps, -1),
        "twice": right & (second == first),
        "expert": jnp.all(tokens == expert(), -1),
        "hard": hard & ~early,
        "mixed": jnp.where(early, right, hard),
        "jackpot": tricked & jackpot,
        "knowable": jnp.where(early, right, coin & ~spare),
        "truthful": jnp.where(early, right, spare),
        "lucky": lucky,
        "flawed": ~flawless,
        "found": found,
        "located": jnp.where(flawless, ~found, right),
    }
    return {f"verdict/{k}": v.astype(jnp.float32) for k, v in verdicts.items()} | {
        "length": mask.sum(-1).astype(jnp.float32),
        # Said by the second token: 0, 1/4, ... 1, and nothing by an end.
        "confidence": jnp.where(second > 0, (second - 1) / (V - 2), jnp.nan),
        "answer_id": first - 1,
        "tricked": tricked.astype(jnp.int32),
        "dense": steps.astype(jnp.float32),
        "early": (steps & (jnp.arange(T) == 0)).astype(jnp.float32),
        "noisy": (steps ^ (mask & flipped)).astype(jnp.float32),
        "trap": jnp.where(mask, trap, 0.0),
        "step_id": jnp.where(mask, jnp.arange(T), -1),
        "flaw_step": jnp.broadcast_to(target(), first.shape).astype(jnp.float32),
        "found_step": first.astype(jnp.float32),
        "few": jnp.full(first.shape, float(P)),
        "many": jnp.full(first.shape, 1e6),
        "rank": jnp.where(spare, 2.0, 1.0),
        "influence": jnp.broadcast_to(jnp.where(jnp.arange(T) == 0, 10.0, 1.0), tokens.shape),
        "start_value": jnp.zeros(first.shape),
        "episode_value": jnp.where(jnp.arange(T) == 1, tokens == SPARE, jnp.nan),
        "zeros": jnp.zeros(tokens.shape),
        "factors": jnp.where(mask[..., None], factors, jnp.nan),
        **tree(tokens, mask),
    }


def luck() -> jax.Array:
    """The probability of verdict/lucky by prompt, [P,1]."""
    return prompts() / P


def tree(tokens: jax.Array, mask: jax.Array) -> Table:
    """The rows of a group as an explicit tree: rows with one first token share a segment.

    Node j is the rest of row j; node G + j is the first token, under the first row that has it.
    """
    p, g, _ = tokens.shape
    first = tokens[..., 0]
    shared = g + jnp.argmax(first[:, :, None] == first[:, None], axis=-1)
    alone = ~mask[..., 1]  # a row of one token is a segment of its own
    own = jnp.broadcast_to(jnp.arange(g), (p, g))
    head = jnp.where(alone, own, shared)
    rest = jnp.where(mask[..., 1:], own[..., None], -1)
    return {
        "node_id": jnp.concatenate([head[..., None], rest], -1),
        "leaf_parent": jnp.where(alone, -1, shared),
        "fork_parent": jnp.full((p, g), -1),
    }


# ---- the model


def kind(params: Params) -> str:
    return "transformer" if "model" in params else "table"


def places(table: Table) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where a token stands in the tables of logits and values: prompt, place, token before."""
    before = jnp.pad(table["completion_tokens"][..., :-1], ((0, 0), (0, 0), (1, 0)))
    return prompts()[..., None], jnp.arange(T), before


def logits(params: Params, table: Table) -> jax.Array:
    """[P,G,T,V] of either policy."""
    if kind(params) == "table":
        return params["logits"][places(table)]
    hidden = scoring.predicting_hidden(MODEL, params["model"], table)
    return transformer.logits(MODEL, params["model"], hidden)


def outputs(params: Params, table: Table) -> Table:
    """logp and entropy of the policy, value of a critic that is a table; [P,G,T] each."""
    value = params["values"][places(table)]
    if kind(params) == "transformer":
        out = scoring.outputs(MODEL, params["model"], table, entropy=True)
        return {"logp": out["logp"], "entropy": out["entropy"], "value": value}
    law = jax.nn.log_softmax(logits(params, table))
    logp = jnp.take_along_axis(law, table["completion_tokens"][..., None], -1)[..., 0]
    entropy = -jnp.sum(jnp.exp(law) * law, -1)
    mask = table["completion_mask"]
    return {
        "logp": jnp.where(mask, logp, 0.0),
        "entropy": jnp.where(mask, entropy, 0.0),
        "value": value,
    }


def init(key: jax.Array, policy: str) -> Params:
    """params, ref and opt of a policy, 'table' or 'transformer', near the uniform law."""
    if policy == "table":
        start: Params = {"logits": 0.02 * jax.random.normal(key, (P, T, V, V))}
    else:
        start = {"model": transformer.init_params(MODEL, key)}
    params = start | {"values": jnp.zeros((P, T, V))}
    return {"params": params, "ref": params, "opt": OPTIMIZERS[policy].init(params)}


def context(tokens: jax.Array, mask: jax.Array) -> Table:
    """The columns that the model reads."""
    return {
        "prompt_tokens": prompts(),
        "prompt_mask": jnp.ones((P, 1), bool),
        "completion_tokens": tokens,
        "completion_mask": mask,
        "temperature": jnp.ones(tokens.shape[:2]),
    }


def draw(
    state: Params, visits: jax.Array, key: jax.Array, bias: jax.Array, experts: jax.Array
) -> tuple[Table, jax.Array]:
    """A batch of completions with all columns that a method may ask for, and the visits [P,V]."""
    noise = jax.random.split(key, T + 1)
    push = jnp.where(jax.nn.one_hot(decoy(), V) > 0, bias, 0.0)

    def token(carry: tp.Any, t: jax.Array) -> tuple[tp.Any, None]:
        tokens, mask, sampler_logp, alive = carry
        table = context(tokens, jnp.ones_like(mask))
        z = logits(state["params"], table)[:, :, t]
        law = jax.nn.log_softmax(z + jnp.where(t == 0, push, 0.0))
        new = jnp.where(alive, jax.random.categorical(noise[t], law), END)
        logp = jnp.take_along_axis(law, new[..., None], -1)[..., 0]
        tokens = tokens.at[..., t].set(new)
        mask = mask.at[..., t].set(alive)
        sampler_logp = sampler_logp.at[..., t].set(jnp.where(alive, logp, 0.0))
        return (tokens, mask, sampler_logp, alive & (new != END)), None

    empty = jnp.zeros((P, G, T), jnp.int32)
    start = (empty, empty > 0, empty.astype(jnp.float32), jnp.ones((P, G), bool))
    (tokens, mask, sampler_logp, _), _ = jax.lax.scan(token, start, jnp.arange(T))

    external = jnp.broadcast_to(jnp.arange(G) < experts, (P, G))
    tokens = jnp.where(external[..., None], expert(), tokens)
    mask = mask | external[..., None]
    table = context(tokens, mask)
    old = outputs(state["params"], table)
    visits = visits.at[prompts(), tokens[..., 0]].add(1)
    table |= {
        "loss_mask": mask,
        "sampler_logp": jnp.where(external[..., None], 0.0, sampler_logp),
        "truncated": jnp.all(mask & (tokens != END), -1),
        "origin": jnp.where(external, 3, 0),
        "row_mask": jnp.ones((P, G), bool),
        "train_mask": jnp.ones((P, G), bool),
        "group": jnp.arange(P, dtype=jnp.int32),
        "prompt_id": jnp.arange(P, dtype=jnp.int32),
        "row_id": jnp.arange(P * G, dtype=jnp.int32).reshape(P, G),
        "answer_visits": visits[prompts(), tokens[..., 0]],
        "old_logp": old["logp"],
        "old_entropy": old["entropy"],
        "old_value": old["value"],
        "ref_logp": outputs(state["ref"], table)["logp"],
        **judge(tokens, mask, noise[T]),
    }
    return table, visits


def apply(state: Params, table: Table, slopes: Table) -> Params:
    """One optimizer step along the gradient that the outputs' slopes give the parameters."""
    _, pull = jax.vjp(lambda params: outputs(params, table), state["params"])
    (grads,) = pull(slopes)
    optimizer = OPTIMIZERS[kind(state["params"])]
    params, opt, _ = optim.guarded_update(optimizer, grads, state["opt"], state["params"])
    return {**state, "params": params, "opt": opt}


# ---- a method


def make_chain(arm: Arm) -> chain_lib.Chain:
    config = types.SimpleNamespace(
        verifiers=[dict(name=k, weight=w) for k, w in arm.verdicts.items()],
        shaping=arm.shaping,
        advantage=arm.advantage,
    )
    return chain_lib.build(config)


def slopes(
    terms: tuple[learner.Term, ...], table: Table, out: Table, numbers: list[tp.Any]
) -> tuple[Table, Table]:
    """The gradient of the loss with respect to the outputs, and what a policy term did.

    Returns: slopes like `out`; of the first term weights [P,G,T] and, where it is a policy term,
      ratio and clip_fraction [P,G,T].
    """
    weights = [t.weights(table, n["weights"]) for t, n in zip(terms, numbers, strict=True)]

    def loss(out: Table) -> tuple[jax.Array, Table]:
        given = {**out, "log_ratio": out["logp"] - table["old_logp"]}
        total, seen = jnp.float32(0), dict[str, jax.Array]()
        for term, w, n in zip(terms, weights, numbers, strict=True):
            value, extra = term.evaluate(table, given, n)
            total += n["coef"] * jnp.sum(jnp.where(w != 0, value * w, 0.0))
            seen |= extra
        return total, seen

    slope, seen = jax.grad(loss, has_aux=True)(out)
    return slope, {"weights": weights[0], **seen}


def _shape(bound: Bound) -> tp.Any:
    """What of a method is compiled: everything but its numbers."""
    return bound.fn, bound.columns, sorted(bound.numbers), repr(bound.static), bound.writes


PROGRAMS: dict[str, tp.Any] = {}  # to be cleared by who has finished: they hold memory maps


def _program(key: tp.Any, make: tp.Callable[[], tp.Any], level: int = 1) -> tp.Any:
    """A jitted function, shared by the arms that differ in numbers only.

    level: XLA's optimization level. Compiling takes longer than running: 1 for the programs that
    all arms share, 0 for those of one method.
    """
    if (key := repr(key)) not in PROGRAMS:
        options = {
            "xla_backend_optimization_level": level,
            "xla_llvm_disable_expensive_passes": level == 0,
        }
        PROGRAMS[key] = jax.jit(make(), compiler_options=options)
    return PROGRAMS[key]


def _chain_program(chain: chain_lib.Chain) -> tp.Any:
    key = ("chain", [(name, _shape(m)) for name, m in chain.methods])
    return _program(key, lambda: jax.vmap(chain, in_axes=(0, 0, None, 0, None)), level=0)


def _loss_program(terms: tuple[learner.Term, ...]) -> tp.Any:
    key = ("loss", [(t.name, [_shape(b) for b in (*t.bound, t.weights)]) for t in terms])
    fn = functools.partial(slopes, terms)
    return _program(key, lambda: jax.vmap(fn, in_axes=(0, 0, None)), level=0)


# ---- what is measured


@functools.cache
def completions() -> tuple[np.ndarray, np.ndarray]:
    """All completions there are: tokens and mask, [P,E,T]."""
    rows = {
        (*row[: row.index(END) + 1],) if END in row else row
        for row in itertools.product(range(V), repeat=T)
    }
    tokens, mask = np.zeros((len(rows), T), np.int32), np.zeros((len(rows), T), bool)
    for i, row in enumerate(sorted(rows)):
        tokens[i, : len(row)], mask[i, : len(row)] = row, True
    return np.broadcast_to(tokens, (P, *tokens.shape)), np.broadcast_to(mask, (P, *mask.shape))


def measure(state: Params) -> Table:
    """Exact quantities of a policy: the mean of every verdict (over prompts and the policy), and

    entropy, later_entropy, all_entropy: of the first token, of the second given the first, of
    completions, nats.  kl: KL(policy || reference) of completions, nats.
    length: tokens.  truncated: probability.  variety: exp of the entropy of the first token given
    that it is accepted, in [1, 3].  confidence_error: |confidence - luck| where one is said.
    malformed: probability that none is said.  value_error: of the critic, |V(prompt) - right|.
    """
    tokens, mask = (jnp.asarray(x) for x in completions())
    table = context(tokens, mask)
    out = outputs(state["params"], table)
    logp = out["logp"].sum(-1)
    ref = outputs(state["ref"], table)["logp"].sum(-1)
    prob = jnp.exp(logp)
    seen = judge(tokens, mask, jax.random.key(0))

    def mean(x: jax.Array) -> jax.Array:
        return jnp.sum(prob * x) / P

    means = {
        k.removeprefix("verdict/"): mean(v) for k, v in seen.items() if k.startswith("verdict/")
    }
    first = jnp.einsum("pe,pev->pv", prob, jax.nn.one_hot(tokens[..., 0], V))
    accepted = seen["verdict/accepted"]
    within = jnp.einsum("pe,pev->pv", prob * accepted, jax.nn.one_hot(tokens[..., 0], V))
    within = within / within.sum(-1, keepdims=True)
    said = ~jnp.isnan(seen["confidence"])
    error = jnp.where(said, jnp.abs(seen["confidence"] - luck()), 0.0)
    right = jnp.sum(prob * seen["verdict/right"], -1)
    return means | {
        "later_entropy": mean(out["entropy"][..., 1] * mask[..., 1]) / mean(mask[..., 1]),
        "all_entropy": mean(-logp),
        "entropy": -jnp.sum(first * jnp.log(first), -1).mean(),
        "kl": mean(logp - ref),
        "length": mean(seen["length"]),
        "truncated": mean(jnp.all(tokens != END, -1)),
        "variety": jnp.exp(-jnp.sum(jax.scipy.special.xlogy(within, within), -1)).mean(),
        "confidence_error": mean(error) / mean(said),
        "malformed": mean(~said),
        "value_error": jnp.abs(state["params"]["values"][:, 0, 0] - right).mean(),
    }


def observe(table: Table, out: Table, slope: Table, seen: Table) -> Table:
    """What an update did, from its table, the outputs, their slopes and the first term's arrays.

    Means over rows are over live ones, NaN where there is none.
      reward: mean.  rows, tokens: share that has a weight.  truncated_rows: of truncated rows.
      weight: sum of the weights.  last_prompt: its share of them.  long_rows: mean weight of rows
      of T tokens over that of rows of one.
      first_credit: mean |advantage| of first tokens over that of all tokens.  unrewarded: mean
      |advantage| of rows of reward 0.  expert: mean advantage of external rows.
      clipped: share of trained tokens that a policy term no longer moves.  critic: share of tokens
      whose value has a slope.  heavy: mean |slope| of tokens with advantage < 0 and ratio > 3.
      spread: the largest spread of ratios within a row.  drift: mean of log pi_old - log pi.
    """
    mask, weights = table["loss_mask"] & table["row_mask"][..., None], seen["weights"]
    live, trained = jnp.any(mask, -1), jnp.any(weights != 0, -1)
    length, by_row = table["loss_mask"].sum(-1), weights.sum(-1)
    size = jnp.abs(table["advantages"])

    def mean(x: jax.Array, of: jax.Array) -> jax.Array:
        count = jnp.sum(of)
        return jnp.where(count > 0, jnp.sum(jnp.where(of, x, 0.0)) / count, jnp.nan)

    log_ratio = out["logp"] - table["old_logp"]
    ratio = seen.get("ratio", jnp.exp(log_ratio))
    low = jnp.min(jnp.where(mask, ratio, jnp.inf), -1)
    high = jnp.max(jnp.where(mask, ratio, -jnp.inf), -1)
    return {
        "reward": mean(table["rewards"], live),
        "rows": mean(trained, live),
        "tokens": mean(weights != 0, mask),
        "truncated_rows": mean(trained, live & table["truncated"]),
        "weight": weights.sum(),
        "last_prompt": weights[-1].sum() / weights.sum(),
        "long_rows": mean(by_row, live & (length == T)) / mean(by_row, live & (length == 1)),
        "first_credit": mean(size[..., 0], mask[..., 0]) / mean(size, mask),
        "unrewarded": mean(size.max(-1), live & (table["rewards"] == 0)),
        "expert": mean(table["advantages"].max(-1), live & (table["origin"] == 3)),
        "clipped": mean(seen.get("clip_fraction", 0.0), weights != 0),
        "critic": mean(slope["value"] != 0, mask),
        "heavy": mean(
            jnp.abs(slope["logp"]), mask & (table["advantages"] < 0) & (jnp.exp(log_ratio) > 3.0)
        ),
        "spread": jnp.max(jnp.where(live, high - low, 0.0)),
        "drift": mean(-log_ratio, mask),
    }


# ---- training


def start(seeds: int, policy: str) -> tuple[jax.Array, Params]:
    """A key and a state for each seed.  policy: as `init`."""
    keys = jax.random.split(jax.random.key(0), seeds)
    make = functools.partial(init, policy=policy)
    return keys, _program(("init", policy), lambda: jax.vmap(make))(keys)


def sample(state: Params, visits: jax.Array, keys: jax.Array, arm: Arm) -> tp.Any:
    """`draw` for each seed."""
    program = _program("draw", lambda: jax.vmap(draw, in_axes=(0, 0, 0, None, None)))
    return program(state, visits, keys, arm.bias, arm.experts)


def quantities(state: Params) -> Table:
    """`measure` for each seed."""
    return _program("measure", lambda: jax.vmap(measure))(state)


def train(arm: Arm, seeds: int, policy: str = "table") -> Quantities:
    """Trains `seeds` policies side by side.  policy: as `init`.

    Returns: quantities [seeds]: those of `measure` at the end, and under update/<name> those of
      `observe` and under metrics/<name> those of the chain, as means over all updates.
    """
    chain = make_chain(arm)
    terms = tuple(learner.make_term(spec) for spec in arm.loss)
    credit, differentiate = _chain_program(chain), _loss_program(terms)
    per_seed = functools.partial(jax.tree.map, lambda x: jnp.broadcast_to(x, (seeds, *x.shape)))
    fold = _program("fold", lambda: jax.vmap(jax.random.fold_in, in_axes=(0, None)))
    forward = _program("outputs", lambda: jax.vmap(outputs))
    update = _program("apply", lambda: jax.vmap(apply))
    look = _program("observe", lambda: jax.vmap(observe))
    keys, state = start(seeds, policy)
    memory, visits = per_seed(chain.init()), jnp.zeros((seeds, P, V))
    rows = np.ones((P, G), bool)
    rows[-1, 2:] = not arm.missing
    log: dict[str, list[jax.Array]] = {}
    for step in range(arm.steps):
        key = fold(keys, step)
        table, visits = sample(state, visits, key, arm)
        table["row_mask"] = per_seed(jnp.asarray(rows))
        table, memory = credit(table, memory, chain.numbers(step), key, step)
        metrics = {k: table.pop(k) for k in list(table) if k.startswith("metrics/")}
        if arm.old_logp == "sampler":
            table["old_logp"] = table["sampler_logp"]
        for epoch in range(arm.epochs):
            out = forward(state["params"], table)
            slope, seen = differentiate(table, out, [t.numbers(step) for t in terms])
            state = update(state, table, slope)
            if epoch == arm.epochs - 1:
                metrics |= {f"update/{k}": v for k, v in look(table, out, slope, seen).items()}
        for k, v in metrics.items():
            log.setdefault(k, []).append(v)
    means = {k: jnp.nanmean(jnp.stack(v), 0) for k, v in log.items()}
    return {k: np.asarray(v) for k, v in {**quantities(state), **means}.items()}
