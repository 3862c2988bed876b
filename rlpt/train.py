"""The training program: one linear `train`, read from top to bottom.

tables = rollout(...)            host: take prompts, generate, verify
tables |= shape, credit(tables)  device: rewards, masks, advantages
learner.update(tables)           device: one or several optimizer steps
log, evaluate, checkpoint
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import platform
import signal
import threading
import time
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np

import rlpt
from rlpt import chain as chain_lib
from rlpt import columns as columns_lib
from rlpt import config as config_lib
from rlpt import evaluate as evaluate_lib
from rlpt import learner as learner_lib
from rlpt import metrics as metrics_lib
from rlpt import optim, scoring
from rlpt import tools as tools_lib
from rlpt.checkpoint import Checkpointer
from rlpt.columns import Table
from rlpt.config import ConfigError
from rlpt.models import hf, lora
from rlpt.models.load import Loaded, load
from rlpt.models.transformer import ModelConfig
from rlpt.report import curves
from rlpt.tasks.base import Prompt
from rlpt.tasks.stream import Source, Stream, filter_long
from rlpt.verifiers.pool import VerifierPool
from rlpt.workdir import Workdir

# Settings that may change between a run and its resumption without changing what it computes.
_FREE = ("steps", "eval", "checkpoint", "log", "export", "debug", "pool")


@dataclasses.dataclass
class Result:
    """What a run leaves: its directory and what summary.json holds."""

    workdir: pathlib.Path
    summary: dict[str, tp.Any]


def count_compilations() -> collections.abc.Callable[[], int]:
    """A function that tells how many programs XLA has compiled or loaded since now."""
    count = [0]

    def listen(event: str, seconds: float, **kw: tp.Any) -> None:
        count[0] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    return lambda: count[0]


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
    updates = config.steps * config.update.epochs * config.update.minibatches
    optimizer, _ = optim.make_optimizer({**settings, "total_steps": max(updates, 1)})
    rank = config.model.lora.rank
    return learner_lib.Learner(
        model=model,
        terms=tuple(learner_lib.make_term(t) for t in config.loss),
        optimizer=optimizer,
        epochs=config.update.epochs,
        minibatches=config.update.minibatches,
        micro_blocks=config.update.micro_blocks,
        logits_chunk=config.model.logits_chunk,
        dtype=jnp.dtype(config.model.dtype),
        remat=config.model.remat,
        old_logp=config.update.old_logp,
        skip_zero_advantage=config.update.skip_zero_advantage,
        lora_scale=config.model.lora.alpha / rank if rank else None,
    )


def abstract_table(config: tp.Any) -> Table:
    """The columns that a rollout makes, as shapes."""
    p = config.rollout.prompts * config.rollout.group_blocks
    size = {"P": p, "G": config.rollout.group, "L": 8, "T": 8}
    dtypes = {"i": jnp.int32, "b": jnp.bool_, "f": jnp.float32}
    made = (
        "prompt_tokens prompt_mask completion_tokens completion_mask loss_mask sampler_logp temperature "
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
    for spec in config.tasks:
        spec = dict(spec)
        spec.pop("weight", None)
        config_lib.entry("tasks", spec)
    for spec in config.verifiers:
        config_lib.entry("verifiers", {k: v for k, v in dict(spec).items() if k not in ("name", "weight")})
    rollout_of(config)
    chain = chain_lib.build(config, config.rollout.group_blocks)
    learner = make_learner(config, ModelConfig(8, 1, 8, 8, 1, 1, 8))

    def run(table: Table, key: jax.Array) -> tp.Any:
        state = chain.init()
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
                    f"loss term {term.name!r}: value {value.shape} and weights {w.shape}, expected [P,G,T] = {logp.shape}"
                )
        return table

    jax.eval_shape(run, abstract_table(config), jax.eval_shape(lambda: jax.random.key(0)))
    return chain, learner


def rollout_of(config: tp.Any) -> functools.partial[tp.Any]:
    """The rollout function with its settings."""
    options = {"prompts": config.rollout.prompts, "group": config.rollout.group, **config.rollout.options}
    bound = config_lib.resolve("rollouts", config.rollout.fn, **options)
    return functools.partial(bound.fn, **bound.static, **bound.numbers_at(0))


def load_tasks(config: tp.Any) -> tuple[list[Source], list[Prompt]]:
    """Training sources and held-out prompts of config.tasks."""
    sources, held_out = [], []
    for spec in config.tasks:
        spec = dict(spec)
        weight = float(spec.pop("weight", 1.0))
        bound = config_lib.entry("tasks", spec)
        settings = {**bound.static, **bound.numbers_at(0)}
        sources.append(Source(spec["fn"], bound.fn("train", **settings), weight))
        held_out += list(bound.fn("eval", **settings))
    if config.eval.prompts:
        held_out = held_out[: config.eval.prompts]
    return sources, held_out


def identity(config: tp.Any, loaded: Loaded) -> dict[str, str]:
    """What must be the same for a checkpoint to be resumed."""
    kept = {k: v for k, v in json.loads(config.to_json_best_effort()).items() if k not in _FREE}
    text = json.dumps(kept, sort_keys=True)
    return {
        "config": hashlib.sha256(text.encode()).hexdigest()[:16],
        "tokenizer": loaded.tokenizer.fingerprint(),
        "model": loaded.fingerprint,
    }


class Interrupt:
    """Turns the first SIGINT or SIGTERM into a request to stop after the step."""

    def __init__(self) -> None:
        self.signal = 0
        self._old: dict[int, tp.Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for s in (signal.SIGINT, signal.SIGTERM):
                self._old[s] = signal.signal(s, self._handle)
        return self

    def _handle(self, number: int, frame: tp.Any) -> None:
        if self.signal:  # the second time: at once
            raise KeyboardInterrupt
        self.signal = number
        print("\nstopping after this step, with a checkpoint (again to stop at once)", flush=True)

    def __exit__(self, *exc: tp.Any) -> None:
        for s, old in self._old.items():
            signal.signal(s, old)


def say(text: str = "") -> None:
    print(text, flush=True)


def train(config: tp.Any, workdir: str | os.PathLike[str]) -> Result:
    """Trains as `config` says, in `workdir`; resumes where that directory holds a checkpoint.

    Args:
      config: from `rlpt.config.default()`, changed.  workdir: made if it is not there.
    Returns: Result; the directory holds metrics.jsonl, rollouts.jsonl, summary.json,
      learning_curve.png, checkpoints/ and, with config.export, export/.
    Raises: ConfigError before anything is loaded for settings that cannot work;
      WorkdirInUse; KeyboardInterrupt after a stop by signal, with a checkpoint.
    """
    t0 = time.time()
    chain, _ = check(config)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(
        pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "rlpt" / "jax"
    )
    jax.config.update("jax_compilation_cache_dir", cache)
    if config.model.matmul_precision != "default":
        jax.config.update("jax_default_matmul_precision", config.model.matmul_precision)
    compilations = count_compilations()

    with Workdir(workdir) as work, VerifierPool(
        tuple(dict(v) for v in config.verifiers), **config.pool.to_dict()
    ) as pool, Interrupt() as interrupt:
        # ---- what is trained on, and what
        work.write_json("config.json", json.loads(config.to_json_best_effort()))
        changed = config_lib.differences(config, config_lib.default())
        work.write_json("config_diff.json", {k: {"value": repr(a), "default": repr(b)} for k, (a, b) in changed.items()})
        sources, held_out = load_tasks(config)
        loaded = load(config.model.source)
        model = loaded.config
        say(f"model    {loaded.source}: {model.num_layers} layers, d {model.d_model}, vocabulary {model.vocab_size}")

        root = jax.random.key(config.seed)
        tools = tools_lib.Tools(
            model, loaded.tokenizer, pool, config.sampling, config.missing,
            [v["name"] for v in config.verifiers], root,
        )  # fmt: skip
        length = lambda p: len(tools.encode(p))  # noqa: E731
        dropped = 0
        for source in sources:
            source.prompts, n = filter_long(source.prompts, length, tools.max_prompt, config.too_long)
            dropped += n
        held_out, n = filter_long(held_out, length, tools.max_prompt, config.too_long)
        say(
            f"data     {sum(len(s.prompts) for s in sources)} training and {len(held_out)} held-out prompts"
            + (f"; dropped as too long: {dropped} and {n}" if dropped or n else "")
        )
        stream = Stream(sources, config.seed)

        # ---- learner and state
        learner = make_learner(config, model)
        base = jax.tree.map(jnp.asarray, loaded.params)
        rank = config.model.lora.rank
        if rank:
            trained = lora.init_lora(base, jax.random.fold_in(root, 7), rank, config.model.lora.targets)
            frozen = base
        else:
            trained, frozen = base, None
        needs_ref = "ref_logp" in learner.reads() | {c for _, m in chain.methods for c in m.reads}
        reference = None
        if needs_ref:
            reference = base if rank else jax.tree.map(jnp.copy, base)
        state = learner.init(trained)
        del base, trained
        loaded.params = None
        transforms = chain.init()
        rollout, rollout_state = rollout_of(config), None
        say_arithmetic(config, learner)

        # ---- resume
        checkpointer = Checkpointer(
            work.checkpoints, keep=config.checkpoint.keep, identity=identity(config, loaded),
            allow=tuple(config.checkpoint.allow),
        )  # fmt: skip
        step = 0
        host: dict[str, tp.Any] = {"eval_before": None, "seconds": 0.0, "skipped_in_a_row": 0}
        saved = checkpointer.restore({"learner": state, "transforms": transforms})
        if saved is not None:
            step, device_state, host = saved
            state, transforms = device_state["learner"], device_state["transforms"]
            stream.set_state(host["stream"])
            rollout_state = host["rollout"]
            say(f"resume   at step {step} of {config.steps}")

        # ---- jitted edges
        @jax.jit
        def credit(table: Table, state: tp.Any, numbers: tp.Any, key: jax.Array, step: jax.Array) -> tp.Any:
            return chain(table, state, numbers, key, step)

        cast = jax.jit(lambda p: jax.tree.map(lambda x: x.astype(config.sampling.dtype), p))

        def rollout_params() -> tp.Any:
            params = learner.assemble(state["params"], frozen)
            return params if config.sampling.dtype == "float32" else cast(params)

        def evaluate(name: str) -> dict[str, tp.Any]:
            tools.params = rollout_params()
            with metrics_lib.progress(f"evaluate ({name})", 2 * len(held_out)) as advance:
                result = evaluate_lib.evaluate(
                    tools, held_out, samples=config.eval.samples, temperature=config.eval.temperature,
                    blocks=config.eval.blocks or config.rollout.prompts, done=advance,
                )  # fmt: skip
            per_prompt = result.pop("per_prompt")
            work.write_json(f"eval_{step}.json", {"step": step, **result, "per_prompt": per_prompt})
            numbers = {k: v for k, v in result.items() if isinstance(v, float)}
            say(f"eval     {name}: " + "  ".join(f"{k} {v:.3f}" for k, v in numbers.items()))
            return result

        def save() -> None:
            checkpointer.save(
                step,
                {"learner": state, "transforms": transforms},
                {**host, "stream": stream.get_state(), "rollout": rollout_state},
            )

        with (
            metrics_lib.Metrics(
                work.path, resume_step=step if saved else None, tensorboard=config.log.tensorboard,
                wandb={"config": changed} if config.log.wandb else None, console=config.log.console,
                total_steps=config.steps,
            ) as metrics,
            metrics_lib.RolloutLog(work.path, resume_step=step if saved else None) as rollouts,
        ):  # fmt: skip
            started = time.time()
            before = host["seconds"]
            if host["eval_before"] is None and held_out:
                host["eval_before"] = evaluate("before")
                metrics.write(0, _eval_metrics(host["eval_before"]))
            latest = host["eval_before"]

            # ---- the loop
            while step < config.steps and not interrupt.signal:
                timer = metrics_lib.Timer()
                with timer("rollout_and_verify"):
                    tools.params = rollout_params()
                    batches, rollout_state = rollout(stream, tools, rollout_state, step)
                    batch = batches["policy"]
                if config.debug:
                    columns_lib.check(batch.table)

                with timer("credit"):
                    key = jax.random.fold_in(jax.random.fold_in(root, 3), step)
                    if needs_ref:
                        batch.table["ref_logp"] = _score(learner, reference, batch.table)
                    if learner.needs_old_logp:
                        own = _score(learner, learner.assemble(state["params"], frozen), batch.table)
                        foreign = (batch.table["origin"] != 0)[..., None]
                        batch.table["old_logp"] = jnp.where(foreign, batch.table.get("old_logp", own), own)
                    elif config.update.old_logp == "sampler":
                        batch.table["old_logp"] = batch.table["sampler_logp"]
                    table, transforms = credit(batch.table, transforms, chain.numbers(step), key, jnp.int32(step))
                    table = {**batch.table, **jax.device_get(table)}

                with timer("update"):
                    data = trim(table, learner, config)
                    state, numbers = learner.update(
                        state, frozen, data, learner.numbers(step), (config.seed, step)
                    )
                step += 1

                # ---- log
                row = batch_metrics(batch, table) | numbers
                row |= {f"time/{k}": v for k, v in timer.seconds.items()}
                row["time/compilations"] = float(compilations())
                row["rollout/tokens_per_second"] = float(
                    batch.table["completion_mask"].sum() / timer.seconds["rollout_and_verify"]
                )
                host["skipped_in_a_row"] = host["skipped_in_a_row"] + 1 if numbers["policy/skipped"] else 0
                if config.eval.every and step % config.eval.every == 0 and step < config.steps and held_out:
                    latest = evaluate(f"step {step}")
                    row |= _eval_metrics(latest)
                if config.log.rollouts_every and (step - 1) % config.log.rollouts_every == 0:
                    rollouts.write(step, rollout_rows(batch, table))
                metrics.write(step, row)
                metrics.live(step, row | (_eval_metrics(latest) if latest else {}))
                host["seconds"] = before + time.time() - started

                # ---- checkpoint
                if host["skipped_in_a_row"] > config.optim.max_skipped:
                    raise FloatingPointError(
                        f"the gradient was not finite in {host['skipped_in_a_row']} updates in a row (the last at step "
                        f"{step}); parameters are unchanged since. The last checkpoint is from step "
                        f"{max(checkpointer.steps(), default=0)}. Lower config.optim.lr or look at rollouts.jsonl."
                    )
                if step % config.checkpoint.every == 0 or step == config.steps or interrupt.signal:
                    save()

            if interrupt.signal:
                checkpointer.close()
                say(f"stopped at step {step} with a checkpoint; the same command goes on from there")
                raise KeyboardInterrupt

            # ---- what is left behind
            after = evaluate("after") if held_out else None
            if after:
                metrics.write(step, _eval_metrics(after))
        checkpointer.close()
        summary: dict[str, tp.Any] = {
            "steps": step,
            "eval_before": host["eval_before"],
            "eval_after": after,
            "seconds": {"train_and_eval": host["seconds"], "all": time.time() - t0},
            "versions": versions(),
            "identity": identity(config, loaded),
        }
        if config.export:
            params = state["params"] if not rank else lora.merge(frozen, state["params"], learner.lora_scale)
            info = {"workdir": str(work.path.name), "steps": step, "source": loaded.source}
            hf.save_hf(work.export, model, jax.device_get(params), loaded.tokenizer, run_info=info)
            summary["export"] = "export"
        work.write_json("summary.json", summary)
        if held_out or config.steps:
            curves.learning_curve({"run": [work.path / "metrics.jsonl"]}, work.path / "learning_curve.png")
        say_summary(summary, work.path)
        return Result(work.path, summary)


def _score(learner: learner_lib.Learner, params: tp.Any, table: Table) -> jax.Array:
    columns = {k: table[k] for k in learner_lib.MODEL_COLUMNS}
    out = scoring.score(learner.model, params, columns, dtype=learner.dtype, chunk=learner.logits_chunk)
    return out["logp"]


def trim(table: Table, learner: learner_lib.Learner, config: tp.Any) -> Table:
    """What the update reads, no wider than the bucket of the longest trained row."""
    needed = {*learner_lib.MODEL_COLUMNS, *learner.reads(), "loss_mask", "row_mask", "train_mask"}
    needed |= {"origin", "sampler_logp", "advantages", "old_logp", "ref_logp"}
    live = table["completion_mask"] & table["row_mask"][..., None]
    longest = int(live.any((0, 1)).sum())
    width = tools_lib.bucket(max(longest, 1), config.sampling.completion_buckets, "completion")
    full = table["completion_tokens"].shape[-1]
    return {
        k: v[..., :width] if v.ndim == 3 and v.shape[-1] == full else v
        for k, v in table.items()
        if k in needed
    }


def batch_metrics(batch: tools_lib.Batch, table: Table) -> dict[str, float]:
    """Flat scalars of one batch of rollouts."""
    rows = np.asarray(table["row_mask"])
    count = max(int(rows.sum()), 1)
    out = {f"verify/{k}": float(v) for k, v in batch.outcomes.items()}
    for name, verdict in columns_lib.under(table, "verdict").items():
        known = ~np.isnan(verdict)
        if known.any():
            out[f"verdict/{name}"] = float(np.mean(verdict[known]))
    reward = np.where(rows, table["rewards"], 0.0)
    mean = reward.sum(1, keepdims=True) / np.maximum(rows.sum(1, keepdims=True), 1)
    spread = np.where(rows, np.abs(reward - mean), 0.0).max(1)
    filled = rows.any(1)
    out |= {
        "reward/mean": float(reward.sum() / count),
        "reward/zero_variance_groups": float((spread[filled] == 0).mean()) if filled.any() else 0.0,
        "rollout/rows": float(rows.sum()),
        "rollout/masked_rows": float((~rows).sum()),
        "rollout/length": float(table["completion_mask"].sum(-1)[rows].mean()) if rows.any() else 0.0,
        "rollout/truncated": float(table["truncated"][rows].mean()) if rows.any() else 0.0,
        "advantage/abs_max": float(np.abs(table["advantages"]).max()),
    }
    for key, value in table.items():
        if key.startswith("metrics/"):
            out[key.removeprefix("metrics/")] = float(value)
    return out


def rollout_rows(batch: tools_lib.Batch, table: Table) -> list[dict[str, tp.Any]]:
    """One record a live or masked row, for rollouts.jsonl."""
    rows = []
    for i, prompt in enumerate(batch.text.prompts):
        if prompt is None:
            continue
        for j, text in enumerate(batch.text.completions[i]):
            n = int(table["completion_mask"][i, j].sum())
            verdicts = batch.text.verdicts[i][j]
            rows.append(
                {
                    "block": i,
                    "sample": j,
                    "id": prompt.id,
                    "prompt_id": int(table["prompt_id"][i]),
                    "prompt": batch.text.prompt_text[i],
                    "answer": prompt.answer,
                    "completion": text,
                    "prompt_tokens": table["prompt_tokens"][i][table["prompt_mask"][i]].tolist(),
                    "tokens": table["completion_tokens"][i, j, :n].tolist(),
                    "loss_mask": table["loss_mask"][i, j, :n].tolist(),
                    "sampler_logp": table["sampler_logp"][i, j, :n].tolist(),
                    "advantages": table["advantages"][i, j, :n].tolist(),
                    "reward": float(table["rewards"][i, j]),
                    "row_mask": bool(table["row_mask"][i, j]),
                    "truncated": bool(table["truncated"][i, j]),
                    "temperature": float(table["temperature"][i, j]),
                    "verdicts": {k: v.score for k, v in verdicts.items()},
                    "outcomes": {k: v.outcome for k, v in verdicts.items()},
                    "details": {k: v.detail for k, v in verdicts.items() if v.detail},
                }
            )
    return rows


def _eval_metrics(result: dict[str, tp.Any]) -> dict[str, float]:
    return {f"eval/{k}": v for k, v in result.items() if isinstance(v, float)}


def say_arithmetic(config: tp.Any, learner: learner_lib.Learner) -> None:
    """Prints what one step consists of."""
    r, u = config.rollout, config.update
    blocks = r.prompts * r.group_blocks
    size = u.micro_blocks or blocks // u.minibatches
    say(
        f"step     {r.prompts} prompts x {r.group * r.group_blocks} completions = {blocks * r.group} rows of up to "
        f"{max(config.sampling.completion_buckets)} tokens; {u.epochs} epochs x {u.minibatches} minibatches = "
        f"{u.epochs * u.minibatches} updates of {blocks // u.minibatches} blocks in micro-batches of {size}"
    )
    skipped = learner.skip_zero_advantage and all(t.reads_advantages for t in learner.terms)
    say(
        "         old log-probs: " + ("computed before the update" if learner.needs_old_logp else
        "the sampler's" if learner.old_logp == "sampler" else "the update's own (one update a batch)")
        + ("; blocks without advantage are skipped" if skipped else "")
    )  # fmt: skip


def say_summary(summary: dict[str, tp.Any], path: pathlib.Path) -> None:
    """Prints before and after."""
    before, after = summary["eval_before"], summary["eval_after"]
    if before and after:
        say(f"{'held out':>10}  {'before':>7}  {'after':>7}")
        for k in ("pass@1", "greedy"):
            if k in before and k in after:
                say(f"{k:>10}  {before[k]:7.1%}  {after[k]:7.1%}")
    say(f"{summary['steps']} steps, {summary['seconds']['all']:.0f} s; everything is in {path}")
