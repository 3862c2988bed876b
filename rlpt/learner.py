"""A learner: a model, a loss made of terms, an optimizer, and one jitted update.

Total loss = sum over terms of coef * sum(value * weights).  The weights of a term
are made once for the rows of one optimizer step, before anything is dropped or
cut, so micro-batches and skipped blocks cannot change the gradient.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np

from rlpt import config as config_lib
from rlpt import optim, scoring, sharding
from rlpt.columns import Table
from rlpt.config import Bound, ConfigError
from rlpt.losses import aggregate
from rlpt.models import lora
from rlpt.models.transformer import ModelConfig

Params = tp.Any
_OF_TOKENS = {
    "entropy", "sampler_gap", "kl_old", "kl_ref", "ratio", "clip_fraction", "correction", "value",
    "ratio_other_context",
}  # fmt: skip
MODEL_COLUMNS = (
    "prompt_tokens",
    "prompt_mask",
    "completion_tokens",
    "completion_mask",
    "temperature",
)


_OF_ORIGINS = {  # metrics of some rows only, NaN in a batch without any of them
    "clip_fraction": "_of_own_context",
    "ratio": "_of_own_context",
    "ratio_other_context": "_of_other_context",
    "kl_old": "_of_own_context",
    "sampler_gap": "_of_sampler",
}


@dataclasses.dataclass(frozen=True)
class Term:
    """coef * sum(value * weights); a policy term composes ratio, surrogate, corrections."""

    name: str
    weights: Bound
    coef: tp.Any
    value: Bound | None = None  # a plain term: [P,G,T], to be minimised
    ratio: Bound | None = None
    surrogate: Bound | None = None  # a policy term: objective [P,G,T], to be maximised
    corrections: tuple[Bound, ...] = ()

    @property
    def bound(self) -> tuple[Bound, ...]:
        parts = (self.value, self.ratio, self.surrogate, *self.corrections)
        return tuple(b for b in parts if b is not None)

    @property
    def reads_advantages(self) -> bool:
        """With all advantages of a block zero, this term's gradient there is zero."""
        return self.surrogate is not None and "advantages" in self.surrogate.reads

    def numbers(self, step: int) -> dict[str, tp.Any]:
        coef = self.coef(step) if callable(self.coef) else self.coef
        out: dict[str, tp.Any] = {"coef": float(coef), "weights": self.weights.numbers_at(step)}
        return out | {str(i): b.numbers_at(step) for i, b in enumerate(self.bound)}

    def evaluate(
        self, table: Table, given: Table, numbers: dict[str, tp.Any]
    ) -> tuple[jax.Array, Table]:
        """(value [P,G,T], metric arrays [P,G,T])."""
        mine = [numbers[str(i)] for i in range(len(self.bound))]
        if self.value is not None:
            return self.value(table, mine[0], **given), {}
        assert self.ratio is not None and self.surrogate is not None
        log_ratio = self.ratio(table, mine[0], **given)
        given = {**given, "log_ratio": log_ratio}
        surrogate = functools.partial(self.surrogate, table, mine[1])
        objective = surrogate(**given)
        # A token is clipped where the objective no longer moves with its ratio or its log-prob.
        slopes = jax.grad(
            lambda lr, lp: surrogate(**{**given, "log_ratio": lr, "logp": lp}).sum(), argnums=(0, 1)
        )(jax.lax.stop_gradient(log_ratio), jax.lax.stop_gradient(given["logp"]))
        still = (slopes[0] == 0) & (slopes[1] == 0) & (table["advantages"] != 0)
        metrics = {
            "clip_fraction": still.astype(jnp.float32),
            "ratio": jnp.exp(jnp.clip(log_ratio, -20, 20)),
        }
        for correction, own in zip(self.corrections, mine[2:], strict=True):
            factor = jax.lax.stop_gradient(correction(table, own, **given))
            objective = objective * factor
            metrics["correction"] = factor
        return -objective, metrics


def make_term(spec: tp.Any) -> Term:
    """A term from its config entry.

    dict(surrogate=…, ratio=…, corrections=(…), aggregate=…, coef=…, name=…) for the
    policy, dict(fn=…, aggregate=…, coef=…) for anything else.
    """
    if not hasattr(spec, "keys"):
        raise ConfigError(f"loss: got {spec!r}, expected dict(surrogate=…) or dict(fn=…)")
    spec = dict(spec)
    accepted = ("fn", "surrogate", "ratio", "corrections", "aggregate", "coef", "name")
    settings = set(spec) - set(accepted)
    if "surrogate" not in spec and "fn" not in spec:
        raise ConfigError(
            f"loss: got {spec!r}, expected surrogate= (the policy term) or fn= (another term)"
        )
    weights = config_lib.entry("losses", spec.pop("aggregate", "aggregate.token_mean"))
    coef = config_lib.schedule(spec.pop("coef", 1.0), "loss coef")
    if not (callable(coef) or isinstance(coef, int | float)):
        raise ConfigError(f"loss coef: got {coef!r}, expected a number or a schedule")
    name = spec.pop(
        "name", "policy" if "surrogate" in spec else re.split("[.:]", str(spec["fn"]))[-1]
    )
    if "surrogate" in spec:
        if settings:
            raise ConfigError(
                f"loss: unknown setting {sorted(settings)[0]!r}. Accepted: {', '.join(accepted)}."
            )
        return Term(
            name,
            weights,
            coef,
            ratio=config_lib.entry("losses", spec.get("ratio", "ratios.token")),
            surrogate=config_lib.entry("losses", spec["surrogate"]),
            corrections=tuple(config_lib.entry("losses", c) for c in spec.get("corrections", ())),
        )
    return Term(name, weights, coef, value=config_lib.entry("losses", spec))


def make_terms(specs: tp.Iterable[tp.Any]) -> tuple[Term, ...]:
    """The terms of a loss.  One whose coefficient is 0, and stays 0, is left out after it was read:
    what only that term reads, such as log-probs of the reference, is then not computed.
    """
    return tuple(t for t in map(make_term, specs) if callable(t.coef) or t.coef)


class LearnerState(tp.TypedDict):
    """params: what is trained (the adapters under LoRA); opt: optax state."""

    params: Params
    opt: tp.Any


@dataclasses.dataclass(frozen=True, eq=False)
class Learner:
    """Everything static about one learner; the state is a pytree that `update` donates.

    output: what its model says of each completion token: logp (and entropy), of a language
      model, or value, of one with a scalar head (`scoring.value_params`).
    """

    model: ModelConfig
    terms: tuple[Term, ...]
    optimizer: tp.Any
    name: str = "policy"
    output: str = "logp"
    start: int = 0  # the first step (from 0) that updates it
    epochs: int = 1
    minibatches: int = 1
    micro_blocks: int = 0  # blocks in a micro-batch; 0: all
    logits_chunk: int = scoring.LOGITS
    dtype: tp.Any = jnp.float32
    remat: str = "none"
    old_logp: str = "auto"  # auto, recompute, sampler
    skip_zero_advantage: bool = True
    lora_scale: float | None = None
    mesh: tp.Any = None  # of rlpt.sharding; None: one device

    @property
    def needs_old_logp(self) -> bool:
        """Whether old_logp must be computed before the first update of a batch."""
        return self.old_logp == "recompute" or (
            self.old_logp == "auto" and self.epochs * self.minibatches > 1
        )

    @property
    def old_logp_given(self) -> bool:
        """Whether the table's old_logp stands for every row, not for other origins only."""
        return self.needs_old_logp or self.old_logp == "sampler"

    def reads(self) -> set[str]:
        return {c for t in self.terms for b in (*t.bound, t.weights) for c in b.reads}

    def init(self, params: Params) -> LearnerState:
        return {"params": params, "opt": self.optimizer.init(params)}

    def assemble(self, params: Params, frozen: Params) -> Params:
        """The model's parameters from what is trained and what is frozen."""
        if self.lora_scale is None:
            return params
        return lora.attach(frozen, params, self.lora_scale)

    def numbers(self, step: int) -> list[dict[str, tp.Any]]:
        return [t.numbers(step) for t in self.terms]

    def outputs(self, params: Params, table: Table) -> Table:
        """What the model with these (assembled) parameters says of a table, differentiable."""
        columns = {k: table[k] for k in MODEL_COLUMNS}
        if self.output == "value":
            return scoring.values(self.model, params, columns, dtype=self.dtype, remat=self.remat)
        return scoring.outputs(
            self.model, params, columns,
            entropy=True, dtype=self.dtype, remat=self.remat, chunk=self.logits_chunk,
        )  # fmt: skip

    def _metric(self, name: str) -> str:
        """loss/* of the policy has no prefix; everything else has the learner's name."""
        return name if self.name == "policy" and name[:5] == "loss/" else f"{self.name}/{name}"

    def term_weights(self, table: Table, numbers: list[tp.Any]) -> list[jax.Array]:
        """One [P,G,T] array a term, normalised over the rows of this table."""
        return [t.weights(table, n["weights"]) for t, n in zip(self.terms, numbers, strict=True)]

    def loss(
        self,
        params: Params,
        frozen: Params,
        table: Table,
        weights: list[jax.Array],
        numbers: list[tp.Any],
    ) -> tuple[jax.Array, Table]:
        """The (partial) loss of some blocks and its metrics as sums over tokens."""
        out = self.outputs(self.assemble(params, frozen), table)
        given, metrics = dict(out), {}
        if self.output == "value":
            metrics["value"] = out["value"]
        else:
            old = jax.lax.stop_gradient(out["logp"])
            if "old_logp" in table:
                given_rows = self.old_logp_given | (table["origin"] != 0)
                old = jnp.where(given_rows[..., None], table["old_logp"], old)
            table = {**table, "old_logp": old}
            given["log_ratio"] = out["logp"] - old
            trainer = out["logp"] if self.old_logp == "sampler" else old
            metrics["entropy"] = out["entropy"]
            metrics["sampler_gap"] = jnp.abs(trainer - table["sampler_logp"])
            metrics["kl_old"] = old - out["logp"]
            if "ref_logp" in table:
                metrics["kl_ref"] = out["logp"] - table["ref_logp"]
        total = jnp.float32(0.0)
        for term, w, n in zip(self.terms, weights, numbers, strict=True):
            value, extra = term.evaluate(table, given, n)
            part = jnp.sum(jnp.where(w != 0, value * w, 0.0))
            total = total + n["coef"] * part
            metrics |= {f"loss/{term.name}": part, **extra}
        if "ratio" in metrics:
            metrics["ratio_other_context"] = metrics["ratio"]
        means = {}
        for name, value in metrics.items():
            if value.ndim:
                token = table[_OF_ORIGINS.get(name, "_of_all")]
                value = jnp.sum(jnp.where(token > 0, value * token, 0.0))
            means[self._metric(name)] = value
        return total, jax.lax.stop_gradient(means)

    @functools.cached_property
    def score(self) -> tp.Callable[[Params, Table], jax.Array]:
        """(assembled parameters, MODEL_COLUMNS) -> `output` [P,G,T], jitted, by micro-batches."""

        def score(params: Params, table: Table) -> jax.Array:
            read = lambda part: self.outputs(params, part)[self.output]  # noqa: E731
            return scoring.by_blocks(read, table, self.micro_blocks, sharding.shards(self.mesh))

        return jax.jit(score)

    @functools.cached_property
    def step(self) -> tp.Callable[..., tuple[LearnerState, Table]]:
        """`_step`, jitted, donating the state; it and its programs go when the learner goes."""
        return jax.jit(self._step, donate_argnames=("state",))

    def _step(
        self,
        state: LearnerState,
        frozen: Params,
        table: Table,
        numbers: list[tp.Any],
        live: jax.Array,
    ) -> tuple[LearnerState, Table]:
        """One optimizer step on the rows of a table.

        Args:
          table: [P,...]; live: scalar, micro-batches to compute, from the left of every
            shard; those behind hold only blocks whose gradient is known to be zero.
        """
        table = dict(table)
        weights = self.term_weights(table, numbers)
        p, g = table["row_mask"].shape
        size = self.micro_blocks or p
        shards = sharding.shards(self.mesh)
        local, each = p // shards, size // shards  # blocks of a shard: all, of a micro-batch
        computed = jnp.broadcast_to((jnp.arange(p) % local < live * each)[:, None], (p, g))
        origin = table["origin"]  # a mean is over what is computed, and over rows that it is about
        for name, about in (
            ("_of_all", computed),
            ("_of_own_context", computed & ((origin == 0) | (origin == 2))),
            ("_of_other_context", computed & ((origin == 1) | (origin == 3))),
            ("_of_sampler", computed & (origin == 0)),
        ):
            rows = table["row_mask"] & about
            table[name] = aggregate.token_mean(table["loss_mask"], rows, table.get("train_mask"))
        grad = jax.value_and_grad(self.loss, has_aux=True)
        params = state["params"]
        if size >= p:
            (loss, metrics), grads = grad(params, frozen, table, weights, numbers)
        else:

            def cut(x: jax.Array, i: jax.Array) -> jax.Array:
                x = jnp.asarray(x).reshape(shards, local, *x.shape[1:])
                x = jax.lax.dynamic_slice_in_dim(x, i * each, each, axis=1)
                return x.reshape(size, *x.shape[2:])

            def micro(i: jax.Array) -> tp.Any:
                t, w = jax.tree.map(lambda x: cut(x, i), (table, weights))
                return grad(params, frozen, t, w, numbers)

            zeros = jax.tree.map(
                lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(micro, jnp.int32(0))
            )
            (loss, metrics), grads = jax.lax.fori_loop(
                0, live, lambda i, acc: jax.tree.map(jnp.add, acc, micro(i)), zeros
            )
        params, opt, info = optim.guarded_update(self.optimizer, grads, state["opt"], params, loss)
        metrics |= {self._metric(k): v for k, v in {"loss/total": loss, **info}.items()}
        for name, rows_of in _OF_ORIGINS.items():
            if (key := self._metric(name)) in metrics:
                metrics[key] = jnp.where(jnp.any(table[rows_of] > 0), metrics[key], jnp.nan)
        new: LearnerState = {"params": params, "opt": opt}
        if self.mesh is not None:  # or XLA is free to move them
            where: LearnerState = {
                "params": sharding.shardings(params, self.mesh),
                "opt": sharding.shardings_like(opt, params, self.mesh),
            }
            new = jax.lax.with_sharding_constraint(new, where)
        return new, metrics

    def place(self, state: LearnerState) -> LearnerState:
        """The state on the devices of the mesh; without a mesh as it is."""
        if self.mesh is None:
            return state
        params = sharding.place(state["params"], self.mesh)
        return {
            "params": params,
            "opt": sharding.place_like(state["opt"], params, self.mesh),
        }

    def update(
        self,
        state: LearnerState,
        frozen: Params,
        table: Table,
        numbers: list[tp.Any],
        seed: tp.Sequence[int],
    ) -> tuple[LearnerState, dict[str, float]]:
        """All optimizer steps of one batch: epochs x minibatches.

        Args:
          table: columns with numpy or jax arrays; P divisible by minibatches, and a
            minibatch by micro_blocks.  seed: what the shuffling of blocks depends on.
        Returns: the new state and metrics, means over the optimizer steps; those of tokens
          (entropy, ratio, …) are over the blocks that were computed.
        """
        p = table["completion_tokens"].shape[0]
        rows = p // self.minibatches
        size, shards = self.micro_blocks or rows, sharding.shards(self.mesh)
        if p % self.minibatches or rows % size or size % shards:
            raise ConfigError(
                f"update: {p} blocks do not divide into {self.minibatches} "
                f"minibatches of micro_blocks={size} over {shards} parts of the mesh"
            )
        skip = self.skip_zero_advantage and all(t.reads_advantages for t in self.terms)
        counts = table["advantages"] != 0 if skip else table["row_mask"][..., None]
        busy = np.asarray(jnp.any(counts, axis=(1, 2)))  # empty blocks add nothing to any term
        totals: dict[str, list[tp.Any]] = {}
        for epoch in range(self.epochs):
            order = np.arange(p)
            if self.minibatches > 1:
                order = np.random.default_rng([*seed, epoch]).permutation(p)
            for part in order.reshape(self.minibatches, rows):
                part = part[np.argsort(~busy[part], kind="stable")]
                part = part.reshape(-1, shards).T.ravel()  # as many busy blocks on each
                live = -(-int(busy[part].sum()) // size)
                if self.minibatches == 1 and (part == np.arange(p)).all():
                    batch = table
                else:
                    batch = {k: v[part] for k, v in table.items()}
                batch = sharding.place_batch(batch, self.mesh)
                state, metrics = self.step(state, frozen, batch, numbers, jnp.int32(live))
                metrics[self._metric("live_blocks")] = int(busy[part].sum())
                for k, v in metrics.items():
                    totals.setdefault(k, []).append(v)
                if not live:  # nothing was computed: these are no numbers
                    for k in metrics:
                        if k.rpartition("/")[2] in _OF_TOKENS:
                            totals[k].pop()
        means = {k: [float(x) for x in v] for k, v in totals.items()}
        for name in _OF_ORIGINS:  # over the optimizer steps that had such rows
            key = self._metric(name)
            means[key] = [x for x in means.get(key, []) if not math.isnan(x)]
        return state, {k: float(np.mean(v)) for k, v in means.items() if v}
