"""From a config to the parts of a run: names resolved, tasks loaded, everything checked."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import typing as tp

import jax
import jax.numpy as jnp

import rlpt
from rlpt import chain as chain_lib
from rlpt import columns as columns_lib
from rlpt import config as config_lib
from rlpt import generate as generate_lib
from rlpt import learner as learner_lib
from rlpt import optim
from rlpt.columns import Table
from rlpt.config import ConfigError
from rlpt.models.load import Loaded
from rlpt.models.transformer import ModelConfig
from rlpt.tasks import build as tasks_build
from rlpt.tasks.base import Prompt
from rlpt.tasks.stream import Source

# Settings that may change between a run and its resumption without changing what it computes.
_FREE = ("steps", "eval", "checkpoint", "log", "export", "debug", "pool")


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
    }


def make_learner(config: tp.Any, model: ModelConfig) -> learner_lib.Learner:
    """The policy's learner as the config describes it."""
    settings = config.optim.to_dict()
    settings.pop("max_skipped")
    settings["decay_rules"] = settings["decay_rules"] or None
    updates = config.steps * config.learner.epochs * config.learner.minibatches
    optimizer, _ = optim.make_optimizer({**settings, "total_steps": max(updates, 1)})
    rank = config.model.lora.rank
    return learner_lib.Learner(
        model=model,
        terms=tuple(learner_lib.make_term(t) for t in config.loss),
        optimizer=optimizer,
        epochs=config.learner.epochs,
        minibatches=config.learner.minibatches,
        micro_blocks=config.learner.micro_blocks,
        logits_chunk=config.model.logits_chunk,
        dtype=jnp.dtype(config.model.dtype),
        remat=config.model.remat,
        old_logp=config.learner.old_logp,
        skip_zero_advantage=config.learner.skip_zero_advantage,
        lora_scale=config.model.lora.alpha / rank if rank else None,
    )


def abstract_table(config: tp.Any) -> Table:
    """The columns that a rollout makes, as shapes."""
    p = config.rollout.prompts * config.rollout.group_blocks
    size = {"P": p, "G": config.rollout.group, "L": 8, "T": 8}
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
    return table


def check(config: tp.Any) -> tuple[chain_lib.Chain, learner_lib.Learner]:
    """Resolves every name and runs the device chain on shapes alone.

    Raises: ConfigError or ValueError for an unknown name, a wrong setting, a column
      that nothing makes or a shape that does not fit, before anything is loaded.
    """
    config_lib.validate(config)
    generate_lib.make_law(*(config.sampling[k] for k in generate_lib.LawNumbers._fields))
    names = [t.name for t in (learner_lib.make_term(t) for t in config.loss)]
    if len(set(names)) != len(names):
        raise ConfigError(f"config.loss: terms named {names}; give each a name= of its own")
    for spec in config.tasks:
        own = {k: v for k, v in dict(spec).items() if k not in ("weight", "label", "verifier")}
        config_lib.entry("tasks", own)
    of_pool = ("name", "weight", "range", "batch")  # settings that the pool reads
    for spec in config.verifiers:
        own = {k: v for k, v in dict(spec).items() if k not in of_pool}
        config_lib.entry("verifiers", own)
    rollout_of(config)
    chain = chain_lib.build(config, config.rollout.group_blocks)
    learner = make_learner(config, ModelConfig(8, 1, 8, 8, 1, 1, 8))

    def run(table: Table, key: jax.Array) -> tp.Any:
        state = chain.init()
        table["ref_logp"] = table["sampler_logp"]  # scored where a method reads it
        if learner.old_logp_given:
            table["old_logp"] = table["sampler_logp"]
        table, _ = chain(table, state, chain.numbers(0), key, jnp.int32(0))
        logp = table["sampler_logp"]
        given = {"logp": logp, "entropy": logp, "hidden": jnp.zeros((*logp.shape, 8))}
        table = {**table, "old_logp": logp, "ref_logp": logp}
        numbers = learner.numbers(0)
        weights = learner.term_weights(table, numbers)
        for term, w, n in zip(learner.terms, weights, numbers, strict=True):
            value, _ = term.evaluate(table, given, n)
            if value.shape != w.shape or value.shape != logp.shape:
                raise ConfigError(
                    f"loss term {term.name!r}: value {value.shape} and weights "
                    f"{w.shape}, expected [P,G,T] = {logp.shape}"
                )
        return table

    jax.eval_shape(run, abstract_table(config), jax.eval_shape(lambda: jax.random.key(0)))
    return chain, learner


def rollout_of(config: tp.Any) -> functools.partial[tp.Any]:
    """The rollout function with its settings."""
    options = {
        "prompts": config.rollout.prompts,
        "group": config.rollout.group,
        **config.rollout.options,
    }
    if config.rollout.group_blocks > 1:  # not every rollout has groups that span blocks
        options["group_blocks"] = config.rollout.group_blocks
    bound = config_lib.resolve("rollouts", config.rollout.fn, **options)
    if any(callable(v) for v in bound.numbers.values()):
        raise ConfigError("config.rollout.options: got a schedule, expected plain values")
    return functools.partial(bound.fn, **bound.static, **bound.numbers_at(0))


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
    for name in {p.verifier for s in sources for p in s.prompts} - {""}:
        known = [v["name"] for v in config.verifiers]
        if name not in known:
            raise ConfigError(
                f"tasks: prompts ask for the verifier {name!r}; config.verifiers has {known}"
            )
    return sources, held_out


def identity(config: tp.Any, loaded: Loaded) -> dict[str, str]:
    """What must be the same for a checkpoint to be resumed."""
    kept = {k: v for k, v in json.loads(config.to_json_best_effort()).items() if k not in _FREE}
    if config.optim.schedule != "constant":  # the learning rate depends on it
        kept["steps"] = config.steps
    text = json.dumps(kept, sort_keys=True)
    return {
        "config": hashlib.sha256(text.encode()).hexdigest()[:16],
        "tokenizer": loaded.tokenizer.fingerprint(),
        "model": loaded.fingerprint,
    }
