"""From a config to the parts of a run: names resolved, tasks loaded, everything checked."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import hashlib
import inspect
import json
import os
import platform
import sys
import typing as tp

import jax
import jax.numpy as jnp

import rlpt
from rlpt import blocks, optim, probe, ranges, scoring, settings
from rlpt import chain as chain_lib
from rlpt import columns as columns_lib
from rlpt import config as config_lib
from rlpt import generate as generate_lib
from rlpt import learner as learner_lib
from rlpt import learners as learners_lib
from rlpt import sources as sources_lib
from rlpt import tools as tools_lib
from rlpt.columns import Table
from rlpt.config import ConfigError, suggest
from rlpt.models import transformer
from rlpt.models.load import Loaded
from rlpt.models.transformer import ModelConfig
from rlpt.rollouts import _inner
from rlpt.tasks import build as tasks_build
from rlpt.tasks.base import Prompt, asked
from rlpt.tasks.stream import Curriculum, Source
from rlpt.verifiers import base as verifiers_base

_TINY = ModelConfig(8, 1, 8, 8, 1, 1, 8)  # for shapes

# Settings that may change between a run and its resumption without changing what it computes.
_FREE = ("steps", "eval", "checkpoint", "log", "export", "debug", "pool", "mesh")
_EVALUATED = ("prompts", "samples", "temperature")  # else before and after are not of one thing


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    import flax
    import optax

    return {
        "rlpt": rlpt.__version__,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "device": jax.devices()[0].device_kind,
        "cpus": str(os.cpu_count()),
        "processes": str(jax.process_count()),
    }


def make_learner(config: tp.Any, model: ModelConfig, mesh: tp.Any = None) -> learner_lib.Learner:
    """The policy's learner as the config describes it. mesh: of `blocks.make_mesh`."""
    rank = config.model.lora.rank
    return learner_lib.Learner(
        **_shared(config, model, mesh, config.learner, {}),
        terms=learner_lib.make_terms(config.loss),
        old_logp=config.learner.old_logp,
        skip_zero_advantage=config.learner.skip_zero_advantage,
        lora_scale=config.model.lora.alpha / rank if rank else None,
    )


def set_matmul_precision(config: tp.Any) -> None:
    """Tells jax of config.model.matmul_precision; bfloat16 is the model's own."""
    own = config.model.matmul_precision
    jax.config.update(
        "jax_default_matmul_precision", None if own in ("default", "bfloat16") else own
    )


def model_config(config: tp.Any, model: ModelConfig) -> ModelConfig:
    """The model as config.model computes it."""
    how = "bfloat16" if config.model.matmul_precision == "bfloat16" else "default"
    return dataclasses.replace(model, attention=config.model.attention, matmul=how)


def make_learners(
    config: tp.Any, model: ModelConfig, mesh: tp.Any = None
) -> dict[str, learner_lib.Learner]:
    """The policy's learner and those of config.learners, by name. mesh: of `blocks.make_mesh`.

    Raises: ConfigError for entries that cannot work.
    """
    out = {"policy": make_learner(config, model, mesh)}
    for name in config.learners:
        entry = settings.learner_entry(config, name)
        out[name] = learner_lib.Learner(
            **_shared(config, model, mesh, entry, dict(entry["optim"])),
            terms=learner_lib.make_terms(entry["loss"]),
            name=name,
            output=entry["output"],
        )
    return out


def _shared(
    config: tp.Any,
    model: ModelConfig,
    mesh: tp.Any,
    layout: tp.Any,
    optimizer: dict[str, tp.Any],
) -> dict[str, tp.Any]:
    """What every learner has. optimizer: what differs from config.optim."""
    own = {**config.optim.to_dict(), **optimizer}
    own.pop("max_skipped")  # `train` counts
    own["decay_rules"] = own["decay_rules"] or None
    updates = max(config.steps - layout["start"], 0) * layout["epochs"] * layout["minibatches"]
    made, _ = optim.make_optimizer({**own, "total_steps": max(updates, 1)})
    return dict(
        model=model,
        optimizer=made,
        epochs=layout["epochs"],
        minibatches=layout["minibatches"],
        micro_blocks=layout["micro_blocks"],
        start=layout["start"],
        logits_chunk=config.model.logits_chunk,
        dtype=jnp.dtype(config.model.dtype),
        remat=config.model.remat,
        mesh=mesh,
    )


def abstract_table(config: tp.Any) -> Table:
    """The columns that a rollout makes, as shapes."""
    return _abstract(config, rollout_columns(config))


def _abstract(config: tp.Any, own: dict[str, tuple[str, str]]) -> Table:
    """The usual columns of a table and some of its own, as shapes."""
    p, g = config.rollout.prompts * config.rollout.group_blocks, config.rollout.group
    p = 2 * p if p == g else p  # sizes that all differ, so that axes cannot be taken for others
    length, width, other = [n for n in (8, 7, 5, 6, 9) if n not in (p, g)][:3]
    size = {"P": p, "G": g, "L": length, "T": width}
    dtypes = {"i": jnp.int32, "b": jnp.bool_, "f": jnp.float32}
    made = (
        "prompt_tokens prompt_mask completion_tokens completion_mask loss_mask "
        "sampler_logp temperature "
        "truncated origin row_mask train_mask group prompt_id row_id answer_id"
    )
    table = {}
    for name in made.split():
        axes, kind, _ = columns_lib.LEGEND[name]
        table[name] = jax.ShapeDtypeStruct(tuple(size[a] for a in axes), dtypes[kind])
    for v in config.verifiers:
        table[f"verdict/{v['name']}"] = jax.ShapeDtypeStruct((p, size["G"]), jnp.float32)
    for name, (axes, kind) in own.items():
        table[name] = jax.ShapeDtypeStruct(tuple(size.get(a, other) for a in axes), dtypes[kind])
    return table


def rollout_columns(config: tp.Any) -> dict[str, tuple[str, str]]:
    """The columns that the rollout makes beside the usual ones: {name: (axes, kind)}.

    A rollout says so with fn.columns, the axes as in columns.LEGEND, any other letter being an axis
    of its own, the kind one of i, b and f. One whose columns depend on its settings has a function
    of config.rollout.options there.
    """
    return _inner.columns(_inner.outermost(config), config.rollout.group_blocks)


def rollout_tables(config: tp.Any) -> dict[str, dict[str, tuple[str, str]]]:
    """The columns of the tables that the rollout makes beside `policy`'s: {table: {name: …}}.

    A rollout says so with fn.tables, as `rollout_columns` reads fn.columns.
    """
    return dict(_inner.declared(_inner.outermost(config), "tables"))


def check(config: tp.Any) -> tuple[chain_lib.Chain, tuple[config_lib.Bound, ...]]:
    """Resolves every name and runs scorers, chain and losses on shapes alone.

    Returns: the chain, and the scorers.
    Raises: ConfigError or ValueError for an unknown name, a wrong setting, a column
      that nothing makes or a shape that does not fit, before anything is loaded.
    """
    config_lib.validate(config)
    ranges.check_run(config)
    generate_lib.make_law(*(config.sampling[k] for k in generate_lib.LawNumbers._fields))
    for spec in config.tasks:
        own = {k: v for k, v in dict(spec).items() if k not in ("weight", "label", "verifier")}
        config_lib.entry("tasks", own)
    of_pool = ("name", "weight", "range", "batch", "missing")  # settings that the run reads
    missing = settings.missing_by_verifier(config)
    for i, spec in enumerate(config.verifiers):
        own = {k: v for k, v in dict(spec).items() if k not in of_pool}
        config_lib.entry("verifiers", own)
        asks = verifiers_base.traits_of(config_lib.find("verifiers", spec["fn"])).asks
        counts_as = missing[spec["name"]]["unparsable"]
        said = "unparsable" in dict(spec.get("missing", {}))
        if asks and not said and counts_as not in ("mask", "ignore"):
            raise ConfigError(
                f"config.verifiers[{i}].missing: {spec['fn']} asks somebody else, whose refusals "
                f"and slips (unparsable) would count as {counts_as}; write missing=dict("
                "unparsable='mask') into the entry, which leaves such rows out (or 'ignore' with "
                "weight=0.0), or the number that you mean"
            )
    rollout_of(config)
    completion_of(config)
    Curriculum(tp.cast(tp.Any, None), **curriculum_of(config))
    of_blocks = {k for k, (axes, _) in rollout_columns(config).items() if axes[1:2] != "G"}
    chain = chain_lib.build(config, config.rollout.group_blocks, frozenset(of_blocks))
    scorers = tuple(config_lib.entry("scorers", s) for s in config.scorers)
    learners = make_learners(config, _TINY)
    entries = {name: settings.learner_entry(config, name) for name in config.learners}
    reads = {c for _, m in chain.methods for c in m.reads}
    reads = reads.union(*(r.reads() for r in learners.values()), *(s.reads for s in scorers))
    reads = reads.union(config.log.columns)
    for learner in learners.values():
        names = [t.name for t in learner.terms]
        if len(set(names)) != len(names):
            raise ConfigError(
                f"loss of {learner.name}: terms named {names}; give each a name= of its own"
            )
        own = entries.get(learner.name, settings.LEARNER)
        if config.rollout.group_blocks > 1 and own["table"] == "policy":
            for term in learner.terms:
                if term.value and getattr(term.value.fn, "couples_rows", False):
                    raise ConfigError(
                        f"loss term {term.name!r} couples the rows of a group, which have to be "
                        f"in one block: got rollout.group_blocks={config.rollout.group_blocks}, "
                        "expected 1 with a larger rollout.group"
                    )

    wrote: dict[str, set[str]] = {}

    def scored(table: Table, params: tp.Any) -> Table:
        table["ref_logp"] = logp = table["sampler_logp"]  # scored where a method reads it
        if learners["policy"].old_logp_given:
            table["old_logp"] = logp
        models = {"policy": (learners["policy"], params)}
        if "ref_logp" in reads:
            models["reference"] = models["policy"]
        for name, entry in entries.items():
            if entry["table"] == "policy" and entry["when"] == "before_credit":
                probe.check_shapes(learners[name], table)
        for name, learner in learners.items():
            if learner.output == "value":
                models[name] = (learner, scoring.value_params(params))
            elif name != "policy":
                models[name] = (learner, params)
            if name != "policy" and (writes := entries[name]["writes"]):
                table[writes] = logp
        numbers = [s.numbers_at(0) for s in scorers]
        noted = [probe.noting(s, wrote) for s in scorers]
        return table | learners_lib.score_columns(noted, models, table, numbers, 0)

    def credited(table: Table, key: jax.Array) -> Table:
        shaping, credit = (
            tuple(probe.noting(m, wrote) for m in ms) for ms in (chain.shaping, chain.credit)
        )
        noted = dataclasses.replace(chain, shaping=shaping, credit=credit)
        table, _ = noted(table, chain.init(), chain.numbers(0), key, jnp.int32(0))
        for name, learner in learners.items():
            entry = entries.get(name, settings.LEARNER)
            if entry["table"] == "policy" and entry["when"] == "after_credit":
                probe.check_shapes(learner, table)
        return table

    others = rollout_tables(config)
    for name, entry in entries.items():
        if entry["table"] != "policy":
            if entry["table"] not in others:
                raise ConfigError(
                    f"config.learners.{name}.table: got {entry['table']!r}, expected "
                    f"{' or '.join(map(repr, ['policy', *others]))}, of {config.rollout.fn}"
                )
            own = _abstract(config, others[entry["table"]])
            jax.eval_shape(functools.partial(probe.check_shapes, learners[name]), own)
    blocks.check(config)

    params = jax.eval_shape(lambda: transformer.init_params(_TINY, jax.random.key(0)))
    rolled = abstract_table(config)
    table = jax.eval_shape(scored, rolled, params)
    whole = jax.eval_shape(credited, table, jax.eval_shape(lambda: jax.random.key(0)))
    methods = [m for _, m in chain.methods]
    methods += [b for r in learners.values() for t in r.terms for b in (*t.bound, t.weights)]
    probe.check_names(whole, (*methods, *scorers), wrote, reads)
    _check_logged(config.log.columns, whole)
    silent = [v["name"] for v in config.verifiers if not v.get("weight", 1.0)]
    for _, method in chain.methods:
        setting = getattr(method.fn, "takes_all_unless", "")
        if setting and silent and not method.static.get(setting):
            raise ConfigError(
                f"{method.name} takes every verdict, also that of {silent[0]!r}, whose weight is "
                f"0; name those that count with {setting}="
            )
    probe.check_noise_correction(chain, table)
    for name, learner in learners.items():
        if entries.get(name, settings.LEARNER)["table"] == "policy":
            probe.check_terms(learner, whole, config.rollout.group_blocks)
    return chain, scorers


def _check_logged(names: tp.Sequence[str], table: Table) -> None:
    """Raises ConfigError for a column that rollouts.jsonl cannot keep. Args: table: all columns."""
    for name in names:
        if name not in table:
            raise ConfigError(
                f"config.log.columns: got {name!r}, which nothing makes." + suggest(name, table)
            )
        tokens = table["completion_tokens"].shape
        if (shape := table[name].shape) not in (tokens[:1], tokens[:2], tokens):
            raise ConfigError(
                f"config.log.columns: {name!r} has the shape {shape}, expected [P], [P,G] or "
                "[P,G,T], which is a number or one a token of each row"
            )


def rollout_of(config: tp.Any) -> functools.partial[tp.Any]:
    """The rollout function with its settings."""
    for name in ("prompts", "group", "group_blocks"):
        if name in config.rollout.options:  # credit, the mesh and minibatches would not know of it
            raise ConfigError(
                f"config.rollout.options: got {name}={config.rollout.options[name]}, expected it "
                f"as config.rollout.{name}, which credit, the mesh and minibatches read too"
            )
    options = {
        "prompts": config.rollout.prompts,
        "group": config.rollout.group,
        **config.rollout.options,
    }
    if config.rollout.group_blocks > 1:  # not every rollout has groups that span blocks
        options["group_blocks"] = config.rollout.group_blocks
    bound = config_lib.resolve("rollouts", config.rollout.fn, **options)
    if config.rollout.overlap and not getattr(bound.fn, "overlaps", False):
        raise ConfigError(
            f"config.rollout.overlap: got 1 with {config.rollout.fn}, which looks at verdicts "
            "before its batch is whole, or makes columns of its own; use 0, or sample.on_policy"
        )
    if any(callable(v) for v in bound.numbers.values()):
        raise ConfigError("config.rollout.options: got a schedule, expected plain values")
    bound.check(_setup(config))
    return functools.partial(bound.fn, **bound.static, **bound.numbers_at(0))


def _setup(config: tp.Any) -> tools_lib.Setup:
    """What rollouts may ask of the run."""
    labels = [spec.get("label") or spec["fn"] for spec in config.tasks]
    return tools_lib.Setup(config.sampling, [v["name"] for v in config.verifiers], labels)


def curriculum_of(config: tp.Any) -> dict[str, tp.Any]:
    """The settings of `tasks.stream.Curriculum`."""
    return {k: v for k, v in config.curriculum.items() if k != "enabled"}


def completion_of(config: tp.Any) -> collections.abc.Callable[..., tp.Any] | None:
    """How an evaluation completes prompts; None: with one call of `Tools.generate`.

    A rollout whose completions take more than that, such as a tool's answers or a search, notes how
    one is made: fn.complete(tools, items, *, group, step, purpose, temperature, ...), with settings
    of the rollout behind these.  One made of others says which counts: fn.evaluated_as(**its
    settings), an entry dict(fn=, **settings).

    Raises: ConfigError where so many samples as config.eval has do not suit that rollout.
    """
    spec = _inner.outermost(config)
    fn = config_lib.find("rollouts", spec["fn"])
    while inner := getattr(fn, "evaluated_as", None):
        own = inspect.signature(inner).parameters
        spec = dict(inner(**{k: v for k, v in spec.items() if k in own}))
        fn = config_lib.find("rollouts", spec["fn"])
    complete = getattr(fn, "complete", None)
    if complete is None:
        return None
    if config.eval.samples:
        asked = {**spec, "prompts": config.rollout.prompts, "group": config.eval.samples}
        try:
            config_lib.entry("rollouts", asked).check(_setup(config))
        except ConfigError as e:
            samples = config.eval.samples
            raise ConfigError(f"config.eval.samples: {samples} as the group of {e}") from e
    own = inspect.signature(complete).parameters
    return functools.partial(complete, **{k: v for k, v in spec.items() if k in own})


def load_tasks(config: tp.Any) -> tuple[list[Source], list[Prompt]]:
    """Training sources and held-out prompts of config.tasks."""
    sources: list[Source] = []
    held_out: list[Prompt] = []
    for given in config.tasks:
        spec = dict(given)
        spec["label"] = spec.get("label") or spec["fn"]
        weight = float(spec.get("weight", 1.0))
        sources.append(Source(spec["label"], tasks_build.load(spec, "train"), weight))
        judged = tasks_build.load(spec, "eval")
        held_out += judged[: config.eval.prompts] if config.eval.prompts else judged
    _check_ids([p for s in sources for p in s.prompts], held_out)
    for name in {p.verifier for s in sources for p in s.prompts} - {""}:
        known = [v["name"] for v in config.verifiers]
        if name not in known:
            raise ConfigError(
                f"tasks: prompts ask for the verifier {name!r}; config.verifiers has {known}"
            )
    return sources, held_out


def _check_ids(train: list[Prompt], held_out: list[Prompt]) -> None:
    """Results are kept by id, so no two held-out prompts share one, and no others but equal ones.

    Says how many of them are trained on too: what is measured then is what was learnt by heart.

    Raises: ConfigError naming the first.
    """
    trained, judged = {p.id: p for p in train}, dict[str, Prompt]()
    for prompt in held_out:
        other = judged.get(prompt.id) or trained.get(prompt.id, prompt)
        same = (other.messages, other.answer) == (prompt.messages, prompt.answer)
        if prompt.id in judged or not same:
            raise ConfigError(
                f"tasks: two prompts have the id {prompt.id!r} ({other.task} and {prompt.task}), "
                "expected one; give the files different names, or name a column with ids (id=)"
            )
        judged[prompt.id] = prompt
    known = {asked(p) for p in train}
    if seen := sum(asked(p) in known for p in held_out):
        print(
            f"tasks    WARNING: {seen} of {len(held_out)} held-out prompts are trained on too",
            file=sys.stderr,
        )


def identifying(config: tp.Any) -> dict[str, tp.Any]:
    """The settings that a run may not change between its lives, as JSON data."""
    kept = {k: v for k, v in json.loads(config.to_json_best_effort()).items() if k not in _FREE}
    kept["model"].pop("chat", None)  # a part of the tokenizer
    kept["eval"] = {k: config.eval[k] for k in _EVALUATED}
    further = (settings.learner_entry(config, name)["optim"] for name in config.learners)
    schedules = {o.get("schedule", config.optim.schedule) for o in (config.optim, *further)}
    if schedules != {"constant"} or config.rollout.overlap:
        # learning rates depend on it, and at the last step no batch is sampled ahead
        kept["steps"] = config.steps
    return kept


def identity(config: tp.Any, loaded: Loaded) -> dict[str, str]:
    """What must be the same for a checkpoint to be resumed."""
    kept = identifying(config)
    text = json.dumps(kept, sort_keys=True)
    same = {
        "config": hashlib.sha256(text.encode()).hexdigest()[:16],
        "tokenizer": loaded.tokenizer.fingerprint(),
        "model": loaded.fingerprint,
    }
    if code := sources_lib.own_code(kept):  # of functions outside rlpt
        same["code"] = hashlib.sha256(code.encode()).hexdigest()[:16]
    return same
