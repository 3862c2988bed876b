"""The models of a run: the policy, its frozen reference, and further learners such as a critic.

What each model writes to the table, and when which learner is updated, is decided here; what one
update is, in `rlpt.learner`.
"""

from __future__ import annotations

import collections.abc
import functools
import typing as tp

import jax
import jax.numpy as jnp

from rlpt import batches, scoring, sharding
from rlpt.columns import Table
from rlpt.config import Bound, ConfigError
from rlpt.learner import MODEL_COLUMNS, Learner, LearnerState
from rlpt.models import int8, lora, products, transformer
from rlpt.models.load import Loaded, load
from rlpt.settings import LEARNER, learner_entry

Params = tp.Any


class _Models(dict[str, tp.Any]):
    """What scorers get as `models`; says what there is when asked for what there is not."""

    def __missing__(self, name: str) -> tp.NoReturn:
        raise ConfigError(
            f"scorers: there is no model {name!r}, only {', '.join(sorted(self))}; a learner in "
            "config.learners adds one, and reading ref_logp the reference"
        )


def score_columns(
    scorers: collections.abc.Sequence[Bound],
    models: collections.abc.Mapping[str, tuple[Learner, Params]],
    table: Table,
    numbers: collections.abc.Sequence[dict[str, tp.Any]],
    blocks: int,
) -> Table:
    """The columns that scorers write, later ones seeing those of earlier ones; no gradient.

    Args:
      models: name -> (how it is run, its parameters), `policy` among them.
      numbers: of each scorer at this step.  blocks: how many are scored at once; 0: all.
    Returns: new columns; an array goes to the column named by writes= or by the function.
    """
    policy, params = models["policy"]
    wanted = {w for s in scorers for w in s.wants}
    callables = _Models({k: lambda t, r=r, p=p: r.outputs(p, t) for k, (r, p) in models.items()})

    def some(part: Table) -> Table:
        given: Table = {
            "head": lambda hidden: transformer.logits(policy.model, params, hidden),
            "models": callables,
        }
        if wanted & {"logp", "entropy", "hidden"}:
            given |= policy.outputs(params, part)
        new: Table = {}
        for scorer, own in zip(scorers, numbers, strict=True):
            out = scorer({**part, **new}, own, **given)
            mine = out if isinstance(out, dict) else {scorer.writes or scorer.own_name: out}
            if twice := sorted(set(mine) & set(new)):
                raise ConfigError(
                    f"{scorer.name} writes {twice[0]!r}, which a scorer before it wrote; give one "
                    "of them writes= with another name"
                )
            new |= mine
        return jax.lax.stop_gradient(new)

    return scoring.by_blocks(some, table, blocks, sharding.shards(policy.mesh))


class Learners:
    """Parameters, optimizer states and schedules of everything that is trained.

    Args:
      config: of the run.  learners: name -> Learner, the policy first (`build.make_learners`).
      scorers: of config.scorers.  loaded: the policy's model.
      reads: columns that shaping and advantage ask for.  key: for fresh adapters.

    `states` is the pytree to be saved and donated.
    """

    def __init__(
        self,
        config: tp.Any,
        learners: dict[str, Learner],
        scorers: tuple[Bound, ...],
        loaded: Loaded,
        reads: set[str],
        key: jax.Array,
    ):
        self.config, self.learners, self.scorers = config, learners, scorers
        self.mesh = learners["policy"].mesh
        base = self._placed(loaded.params)
        self.entries = {name: learner_entry(config, name) for name in config.learners}
        self.states: dict[str, LearnerState] = {}
        self.frozen: Params = None  # the base model under LoRA
        trained = base
        if rank := config.model.lora.rank:
            self.frozen = base
            trained = self._placed(lora.init_lora(base, key, rank, config.model.lora.targets))
        read = reads.union(*(r.reads() for r in learners.values()), *(s.reads for s in scorers))
        read = read.union(config.log.columns)
        self._fixed_reference: Params = None
        if "ref_logp" in read:
            reference = base if rank else jax.tree.map(jnp.copy, base)
            if config.learner.reference_steps:  # it moves, and so is a state
                self.states["reference"] = {"params": reference, "opt": ()}
            else:
                self._fixed_reference = reference
        elif config.learner.reference_steps:
            raise ConfigError(
                f"config.learner.reference_steps: got {config.learner.reference_steps}, but "
                "nothing reads ref_logp, so there is no reference; use ()"
            )
        for name, learner in learners.items():
            if name != "policy":
                trained = self._weights(self.entries[name]["source"], base, loaded)
                if learner.output == "value":
                    trained = scoring.value_params(trained)
            self.states[name] = learner.place(learner.init(trained))
            trained = None
        self._frozen_rollout = self._for_rollout(self.frozen)
        self._score = jax.jit(
            lambda params, table, numbers: score_columns(
                scorers, {k: (self._runner(k), p) for k, p in params.items()}, table, numbers,
                self.policy.micro_blocks,
            )
        )  # fmt: skip

    @property
    def policy(self) -> Learner:
        return self.learners["policy"]

    @property
    def reference(self) -> Params:
        """The parameters behind ref_logp; None: nothing reads it."""
        moving = self.states.get("reference")
        return self._fixed_reference if moving is None else moving["params"]

    def _runner(self, name: str) -> Learner:
        return self.policy if name == "reference" else self.learners[name]

    def _placed(self, params: Params) -> Params:
        if self.mesh is None:
            return jax.tree.map(jnp.asarray, params)
        return sharding.place(params, self.mesh)

    def _weights(self, source: str, base: Params, loaded: Loaded) -> Params:
        """The weights that a learner starts from: a copy of the policy's, or those of a source.

        Raises: ConfigError for a model of another shape or tokenizer than the policy's.
        """
        if source == "policy":
            return jax.tree.map(jnp.copy, base)
        other = load(source, chat=self.config.model.chat)
        if other.config != loaded.config or (
            other.tokenizer.fingerprint() != loaded.tokenizer.fingerprint()
        ):
            raise ConfigError(
                f"config.learners: {source!r} has another shape or tokenizer than the policy "
                f"{loaded.source!r}; learners read the same tokens and share its ModelConfig"
            )
        return self._placed(other.params)

    def _for_rollout(self, params: Params) -> Params:
        """In the sampler's dtype and layout; the same arrays where these are the update's."""
        if params is None:
            return None
        params = sampler_weights(self.config, params, self.mesh)
        if self.config.mesh.rollout == "replicated" and self.mesh is not None:
            params = sharding.replicate(params, self.mesh)
        if self.config.mesh.rollout == "gathered" and self.mesh is not None:
            params = sharding.gather(params)
        return params

    def policy_params(self) -> Params:
        """The policy as it is now; its buffers are donated to the next update."""
        return self.policy.assemble(self.states["policy"]["params"], self.frozen)

    def rollout_params(self) -> Params:
        """The policy as the sampler wants it."""
        own = self._for_rollout(self.states["policy"]["params"])
        return self.policy.assemble(own, self._frozen_rollout)

    def prepare(self, table: Table) -> None:
        """Writes ref_logp and old_logp, where something reads them."""
        policy = self.policy
        columns = self._columns(table)
        if self.reference is not None:
            table["ref_logp"] = policy.score(self.reference, columns)
        if policy.needs_old_logp:
            own = policy.score(self.policy_params(), columns)
            table["old_logp"] = _own_or_brought(table, own)
        elif policy.old_logp_given:
            table["old_logp"] = _own_or_brought(table, table["sampler_logp"])

    def _columns(self, table: Table) -> Table:
        return sharding.place_batch({k: table[k] for k in MODEL_COLUMNS}, self.mesh)

    def score(self, table: Table, step: int) -> None:
        """Writes the columns of further learners (values, …) and of the scorers."""
        columns = self._columns(table)
        for name, learner in self.learners.items():
            if name != "policy" and (writes := self.entries[name]["writes"]):
                table[writes] = learner.score(self.states[name]["params"], columns)
        if self.scorers:
            params = {k: s["params"] for k, s in self.states.items()}
            params["policy"] = self.policy_params()
            if self.reference is not None:
                params["reference"] = self.reference
            numbers = [s.numbers_at(step) for s in self.scorers]
            table |= self._score(params, sharding.place_batch(table, self.mesh), numbers)

    def update(
        self, when: str, tables: collections.abc.Mapping[str, Table], step: int
    ) -> dict[str, float]:
        """Updates the learners of before_credit or after_credit that have a table and have begun.

        Returns: their metrics.
        """
        metrics: dict[str, float] = {}
        for i, (name, learner) in enumerate(self.learners.items()):
            entry = self.entries.get(name, LEARNER)
            table = tables.get(entry["table"])
            if entry["when"] != when or table is None or step < learner.start:
                continue
            if name != "policy" and learner.output == "logp":  # that of the table is the policy's
                table = {k: v for k, v in table.items() if k != "old_logp"}
                if learner.needs_old_logp:
                    own = self.states[name]["params"]
                    table["old_logp"] = learner.score(own, self._columns(table))
            self.states[name], new = learner.update(
                self.states[name],
                self.frozen if name == "policy" else None,
                _trim(table, learner, self.config),
                learner.numbers(step),
                (self.config.seed, step, i) if i else (self.config.seed, step),
            )
            metrics |= new
        if when == "after_credit" and step + 1 in self.config.learner.reference_steps:
            copy = jax.tree.map(jnp.copy, self.states["policy"]["params"])
            self.states["reference"] = {"params": copy, "opt": ()}
        return metrics


def _own_or_brought(table: Table, own: tp.Any) -> tp.Any:
    """old_logp [P,G,T]: a learner's own, but of rows of another origin what they brought."""
    if "old_logp" not in table:
        return own
    return jnp.where((table["origin"] != 0)[..., None], table["old_logp"], own)


def _trim(table: Table, learner: Learner, config: tp.Any) -> Table:
    """What the update reads, no wider than the bucket of the longest trained row."""
    needed = {*MODEL_COLUMNS, *learner.reads(), "loss_mask", "row_mask", "train_mask"}
    needed |= {"origin", "sampler_logp", "advantages", "old_logp", "ref_logp"}
    live = table["completion_mask"] & table["row_mask"][..., None]
    longest = int(live.any((0, 1)).sum())
    width = batches.bucket(max(longest, 1), config.sampling.completion_buckets, "completion")
    full = table["completion_tokens"].shape[-1]
    return {
        k: v[..., :width] if v.ndim == 3 and v.shape[-1] == full else v
        for k, v in table.items()
        if k in needed or k.partition("/")[0] in needed
    }


@functools.partial(jax.jit, static_argnames=("dtype",))
def _cast(params: Params, dtype: tp.Any) -> Params:
    """Int8 kernels stay as they are, and weights of norms, which are used in float32."""

    def cast(path: tuple[tp.Any, ...], x: tp.Any) -> tp.Any:
        own = int8.is_int8(x) or jax.tree_util.keystr(path[-1:], simple=True).endswith("norm")
        return x if own else x.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, params, is_leaf=int8.is_int8)


def sampler_weights(config: tp.Any, params: Params, mesh: tp.Any = None) -> Params:
    """As config.sampling and config.model.matmul_precision have the sampler's."""
    if config.sampling.weights == "int8":
        params = int8.quantise(params)
    if (dtype := jnp.dtype(config.sampling.dtype)) != jnp.float32:
        return _cast(params, dtype)
    if config.model.matmul_precision == "bfloat16":  # once, not at every token
        bits = mesh is None and jax.default_backend() == "cpu"
        params = products.round_kernels(params, bits)
    return params
