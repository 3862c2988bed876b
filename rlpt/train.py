"""The training program: one linear `train`, read from top to bottom.

tables = rollout(...)            host: take prompts, generate, verify
tables |= shape, credit(tables)  device: rewards, masks, advantages
learner.update(tables)           device: one or several optimizer steps
log, evaluate, checkpoint
"""

from __future__ import annotations

import collections
import collections.abc
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
import time
import types
import typing as tp

import jax
import jax.numpy as jnp

from rlpt import blocks, build, distributed, memory, overlap, profile, records, settings, sharding
from rlpt import checkpoint as checkpoint_lib
from rlpt import columns as columns_lib
from rlpt import config as config_lib
from rlpt import evaluate as evaluate_lib
from rlpt import learners as learners_lib
from rlpt import metrics as metrics_lib
from rlpt import tools as tools_lib
from rlpt.checkpoint import Checkpointer, IdentityError
from rlpt.columns import Table
from rlpt.models import hf
from rlpt.models.load import Loaded, load
from rlpt.policy import workdir_config
from rlpt.report import curves
from rlpt.tasks import build as tasks_build
from rlpt.tasks.base import Prompt
from rlpt.tasks.stream import Curriculum, Source, Stream, filter_long
from rlpt.verifiers import base as verifiers_base
from rlpt.verifiers.pool import VerifierPool
from rlpt.workdir import Workdir, WorkdirError


@dataclasses.dataclass
class Result:
    """What a run leaves: its directory and what summary.json holds."""

    workdir: pathlib.Path
    summary: dict[str, tp.Any]


def count_compilations() -> collections.abc.Callable[[], int]:
    """A function that tells how many programs XLA has compiled or loaded since now."""
    count = [0]

    def listen(event: str, duration_secs: float, **kw: str | int) -> None:
        count[0] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    return lambda: count[0]


class Interrupt:
    """Turns the first SIGINT, SIGTERM or hang-up into a request to stop after the step."""

    def __init__(self) -> None:
        self.signal = 0
        self._old: dict[int, tp.Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            asked = [signal.SIGINT, signal.SIGTERM]
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
                asked.append(signal.SIGHUP)
            for s in asked:
                self._old[s] = signal.signal(s, self._handle)
        return self

    def _handle(self, number: int, frame: tp.Any) -> None:
        if self.signal:  # the second time: at once; shells pass a hang-up on, so it comes twice
            if number == signal.SIGHUP:
                return
            raise KeyboardInterrupt
        self.signal = number
        with contextlib.suppress(RuntimeError), metrics_lib.lasting():  # it may stop a print
            print(
                "\nstopping after this step, with a checkpoint (again to stop at once)", flush=True
            )

    def __exit__(self, *exc: tp.Any) -> None:
        for s, old in self._old.items():
            signal.signal(s, old)


def compilation_cache() -> str:
    """The directory in which compiled programs are kept between runs."""
    home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    own = pathlib.Path(home).expanduser() / "rlpt" / "jax"
    return os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(own)


def train(config: tp.Any, workdir: str | os.PathLike[str] | None = None) -> Result:
    """Trains as `config` says, in `workdir`; resumes where that directory holds a checkpoint.

    Args:
      config: from `rlpt.config.default()`, changed.
      workdir: made if it is not there; None: a new temporary directory.
    Returns: Result; the directory holds metrics.jsonl, rollouts.jsonl, summary.json,
      tokenizer.json, learning_curve.png, checkpoints/ and, with config.export, export/.
    Raises: ConfigError before anything is loaded for settings that cannot work;
      WorkdirInUse; WorkdirError for a finished run without checkpoints; KeyboardInterrupt after a
      stop by signal, with a checkpoint.
    """
    t0 = time.monotonic()
    chain, scorers = build.check(config)
    distributed.need_connection()
    primary = distributed.primary()
    if workdir is None:
        if distributed.count() > 1:
            raise ValueError("train: got no workdir, expected one that all processes share")
        workdir = tempfile.mkdtemp(prefix="rlpt-")
    jax.config.update("jax_compilation_cache_dir", compilation_cache())
    build.set_matmul_precision(config)
    compilations = count_compilations()

    with (
        Workdir(workdir, primary=primary) as work,
        VerifierPool(tuple(dict(v) for v in config.verifiers), **config.pool.to_dict()) as pool,
        Interrupt() as interrupt,
    ):
        distributed.share(work.path)
        mesh = blocks.make_mesh(config)

        # ---- what is trained on, and what
        sources, held_out = _readable(config, pool)
        loaded = load(config.model.source, chat=config.model.chat)
        model = build.model_config(config, loaded.config)
        records.say(
            f"model    {loaded.source}: {model.num_layers} layers, d {model.d_model}, "
            f"vocabulary {model.vocab_size}"
        )

        root = jax.random.key(config.seed)
        counted = verifiers_base.counted_names(config.verifiers)
        tools = tools_lib.Tools(
            model, loaded.tokenizer, pool, config.sampling, settings.missing_by_verifier(config),
            [v["name"] for v in config.verifiers], root, mesh, counted,
        )  # fmt: skip
        complete = build.completion_of(config)
        sources, held_out = _fitting(config, tools, sources, held_out)
        plain = Stream(sources, config.seed)
        stream: Stream | Curriculum = plain
        if config.curriculum.enabled:
            stream = Curriculum(plain, **build.curriculum_of(config))

        # ---- learners and state
        with memory.explain_oom("start", config):
            learners = learners_lib.Learners(
                config, build.make_learners(config, model, mesh), scorers, loaded,
                {c for _, m in chain.methods for c in m.reads}, jax.random.fold_in(root, 7),
            )  # fmt: skip
        loaded = dataclasses.replace(loaded, params={})
        transforms = sharding.replicate(chain.init(), mesh)
        own_columns = build.rollout_columns(config)
        rollouts = overlap.Rollouts(
            build.rollout_of(config), stream, tools, learners.rollout_params, config.steps,
            config.rollout.overlap,
        )  # fmt: skip
        records.say_arithmetic(config, learners.policy)

        # ---- resume
        identity = build.identity(config, loaded)  # now: the sources may be edited meanwhile
        _compare_processes(config, identity, sources, held_out)
        checkpointer = Checkpointer(
            work.checkpoints, keep=config.checkpoint.keep, keep_best=config.checkpoint.keep_best,
            best_metric=config.checkpoint.best, identity=identity,
        )  # fmt: skip
        step, saved_at = 0, -1
        host: dict[str, tp.Any] = {"eval_before": None, "eval_latest": None, "seconds": 0.0}
        host |= {"skipped": {}, "silent_in_a_row": 0}  # skipped: by learner, batches in a row
        if checkpointer.steps():  # the state of a start and the one that was saved would not fit
            learners.states = checkpoint_lib.shapes(learners.states)
        try:
            saved = checkpointer.restore(
                {"learners": learners.states, "transforms": transforms},
                allow=[name for names in config.checkpoint.allow for name in names.split(",")],
            )
        except IdentityError as e:
            raise IdentityError(f"{e}{_differs(work, config) * ('config' in e.names)}") from e
        if saved is not None:
            step, device_state, found = saved
            host |= found
            learners.states, transforms = device_state["learners"], device_state["transforms"]
            rollouts.set_state(host)
            saved_at = step
            records.say(f"resume   at step {step} of {config.steps}")
        elif work.summary.exists():
            raise WorkdirError(
                f"{work.path} holds a finished run whose checkpoints are gone: to begin anew would "
                "empty its logs. Choose another --workdir, or delete its summary.json"
            )
        work.forget(step if saved else -1, finished=step == config.steps)
        work.write_json("config.json", json.loads(config.to_json_best_effort()))
        changed = config_lib.differences(config, config_lib.default())
        work.write_json(
            "config_diff.json",
            {k: {"value": repr(a), "default": repr(b)} for k, (a, b) in changed.items()},
        )
        work.write_json("tokenizer.json", json.loads(loaded.tokenizer.backend.to_str()))

        # ---- jitted edges
        @jax.jit
        def credit(
            table: Table, state: tp.Any, numbers: tp.Any, key: jax.Array, step: jax.Array
        ) -> tp.Any:
            new, state = chain(table, state, numbers, key, step)
            return {k: v for k, v in new.items() if v is not table.get(k)}, state

        def evaluate(name: str) -> dict[str, tp.Any]:
            tools.params = learners.rollout_params()
            with (
                memory.explain_oom("evaluate", config),
                metrics_lib.progress(f"evaluate ({name})", len(held_out), primary) as advance,
            ):
                result = evaluate_lib.evaluate(
                    tools,
                    held_out,
                    samples=config.eval.samples,
                    temperature=config.eval.temperature,
                    blocks=config.eval.blocks or config.rollout.prompts,
                    done=advance,
                    counted=counted,
                    lost=evaluate_lib.lost_outcomes(config.verifiers),
                    complete=complete,
                )
            tools.params = None  # a copy, where the sampler has its own dtype or layout
            per_prompt = result.pop("per_prompt")
            work.write_json(f"eval_{step}.json", {"step": step, **result, "per_prompt": per_prompt})
            numbers = {k: v for k, v in result.items() if isinstance(v, float)}
            records.say(
                f"eval     {name}: " + "  ".join(f"{k} {v:.3f}" for k, v in numbers.items())
            )
            return result

        def save() -> None:
            metrics.sync()
            rollout_log.sync()
            checkpointer.save(
                step,
                {"learners": learners.states, "transforms": transforms},
                host | rollouts.get_state(),
                metrics={k: v for k, v in row.items() if k.startswith("eval/")},
            )

        with (
            contextlib.closing(checkpointer),
            metrics_lib.Metrics(
                work.path, resume_step=step if saved else None, tensorboard=config.log.tensorboard,
                wandb={"config": changed} if config.log.wandb else None, console=config.log.console,
                total_steps=config.steps, primary=primary,
            ) as metrics,
            metrics_lib.RolloutLog(
                work.path, resume_step=step if saved else None, primary=primary
            ) as rollout_log,
            profile.Profile(work.path / "profile", config.log.profile * primary) as profiler,
        ):  # fmt: skip
            started, first_step = time.monotonic(), step
            seconds_before = host["seconds"]
            if step == 0 and host["eval_before"] is None and held_out:
                first = evaluate("before")
                host["eval_before"] = first
                metrics.write(0, records.eval_metrics(first))
            latest = host["eval_latest"] or host["eval_before"]
            if latest:
                records.say_if_no_best(config, latest)
            after = None
            row: dict[str, float] = {}
            stop = distributed.agree(interrupt.signal)

            # ---- the loop
            while step < config.steps and not stop:
                timer = metrics_lib.Timer()
                profiler.begin(step - first_step)
                with memory.explain_oom("generate", config), timer("rollout_and_verify"):
                    batches = rollouts(step)
                    batch = batches["policy"]
                columns_lib.check(batch.table, values=config.debug, own=own_columns)
                if isinstance(stream, Curriculum):
                    for name, rate in records.pass_rates(batch, counted).items():
                        stream.update(name, rate)

                with memory.explain_oom("score", config), timer("credit"):
                    key = jax.random.fold_in(jax.random.fold_in(root, 3), step)
                    tables = {name: b.table for name, b in batches.items()}
                    learners.prepare(batch.table)
                    numbers = learners.update("before_credit", tables, step)
                    learners.score(batch.table, step)
                    table, transforms = credit(
                        sharding.place_batch(batch.table, mesh),
                        transforms,
                        chain.numbers(step),
                        key,
                        jnp.int32(step),
                    )
                    tables["policy"] = table = {**batch.table, **sharding.fetch(table)}

                with memory.explain_oom("update", config), timer("update"):
                    numbers |= learners.update("after_credit", tables, step)
                profiler.end(timer.seconds, step - first_step)
                step += 1

                # ---- log
                row = records.batch_metrics(batch, table) | numbers
                row |= {f"time/{k}": v for k, v in timer.seconds.items()}
                row["time/compilations"] = float(compilations())
                row["rollout/tokens_per_second"] = float(
                    batch.table["completion_mask"].sum() / timer.seconds["rollout_and_verify"]
                )
                for name in learners.learners:
                    if (share := numbers.get(f"{name}/skipped")) is not None:  # of optimizer steps
                        so_far = host["skipped"].get(name, 0)
                        host["skipped"][name] = so_far + 1 if share == 1.0 else 0
                judged = batch.table["row_mask"].any()
                if judged and step == 1 and not (table["row_mask"] & table["train_mask"]).any():
                    records.say(
                        "note     shaping left no row of the first batch to train on; in a recipe "
                        "of stages, since= says from which step on a method of config.shaping masks"
                    )
                host["silent_in_a_row"] = 0 if judged else host["silent_in_a_row"] + 1
                last = step == config.steps
                if held_out and (last or (config.eval.every and step % config.eval.every == 0)):
                    latest = evaluate("after" if last else f"step {step}")
                    after = latest if last else None
                    host["eval_latest"] = latest
                    row |= records.eval_metrics(latest)
                if config.log.rollouts_every and (step - 1) % config.log.rollouts_every == 0:
                    further = sharding.fetch({k: table[k] for k in config.log.columns})
                    rollout_log.write(step, records.rollout_rows(batch, table, further))
                metrics.write(step, row)
                metrics.live(step, row | (records.eval_metrics(latest) if latest else {}))
                host["seconds"] = seconds_before + time.monotonic() - started

                # ---- checkpoint
                stop = distributed.agree(interrupt.signal)
                _stop_if_hopeless(config, host, step, row, checkpointer)
                if step % config.checkpoint.every == 0 or step == config.steps or stop:
                    save()
                    saved_at = step

            if config.log.profile and (stages := profiler.table()):
                records.say(f"{stages}\n{'trace':>20}  {profiler.directory}")
            if stop:
                if saved_at != step:
                    save()
                checkpointer.wait()
                records.say(
                    f"stopped at step {step} with a checkpoint; the same command goes on from there"
                )
                raise KeyboardInterrupt

            # ---- what is left behind
            if after is None and held_out:  # the run was resumed at its end
                after = evaluate("after")
                metrics.write(step, records.eval_metrics(after))
        spent = {"train_and_eval": host["seconds"], "all": seconds_before + time.monotonic() - t0}
        summary: dict[str, tp.Any] = {
            "steps": step,
            "eval_before": host["eval_before"],
            "eval_after": after,
            "seconds": spent,  # of all lives of the run; "all" with this one's start
            "versions": build.versions(),
            "verifiers": pool.report(),
            "identity": identity,
        }
        if config.export:
            _export(work, loaded, learners, summary)
            summary["export"] = "export"
        work.write_json("summary.json", summary)
        if primary and (held_out or config.steps):
            curves.learning_curve(
                {"run": [work.path / "metrics.jsonl"]}, work.path / "learning_curve.png"
            )
        records.say_summary(summary, work.path)
        distributed.agree(0)  # those that wrote nothing wait for the one that does
        return Result(work.path, summary)


def _differs(work: Workdir, config: tp.Any) -> str:
    """What a run may not change between its lives, where its config.json has something else."""
    try:
        old = build.identifying(workdir_config(str(work.path)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # of another rlpt
        return ""
    return records.changed_settings(old, build.identifying(config))


def _compare_processes(
    config: tp.Any, identity: dict[str, str], sources: list[Source], held_out: list[Prompt]
) -> None:
    """Raises: ValueError where the processes of this run have not loaded the same."""
    if distributed.count() == 1:
        return
    given = {"training data": [p for s in sources for p in s.prompts], "held-out data": held_out}
    whole: dict[str, tp.Any] = {
        k: [dataclasses.asdict(p) for p in prompts] for k, prompts in given.items()
    }
    whole |= {"settings": json.loads(config.to_json_best_effort()), "versions": build.versions()}
    prints = {name: checkpoint_lib.fingerprint(value) for name, value in whole.items()}
    distributed.alike(identity | prints)


def _readable(config: tp.Any, pool: VerifierPool) -> tuple[list[Source], list[Prompt]]:
    """Training sources and held-out prompts whose references the verifiers can read."""
    sources, held_out = build.load_tasks(config)
    given = [p for source in sources for p in source.prompts] + held_out
    read = [p.id for p in pool.check_gold(given, tasks_build.skipping(config.tasks))]
    good = set(distributed.join(read if distributed.primary() else []))  # in every process alike
    for name, noted in pool.report().items():
        records.say(f"{name:<8} " + "  ".join(f"{k} {v}" for k, v in noted.items()))
    kept = [
        dataclasses.replace(source, prompts=[p for p in source.prompts if p.id in good])
        for source in sources
    ]
    return kept, [p for p in held_out if p.id in good]


def _fitting(
    config: tp.Any, tools: tools_lib.Tools, sources: list[Source], held_out: list[Prompt]
) -> tuple[list[Source], list[Prompt]]:
    """Those that fit the prompt buckets; says how many there are."""
    length = lambda p: len(tools.encode(p))  # noqa: E731
    kept, dropped = [], 0
    for source in sources:
        prompts, n = filter_long(source.prompts, length, tools.max_prompt, config.too_long)
        kept.append(dataclasses.replace(source, prompts=prompts))
        dropped += n
    held_out, n = filter_long(held_out, length, tools.max_prompt, config.too_long)
    count = sum(len(source.prompts) for source in kept)
    records.say(
        f"data     {count} training and {len(held_out)} held-out prompts"
        + (f"; dropped as too long: {dropped} and {n}" if dropped or n else "")
    )
    return kept, held_out


def _stop_if_hopeless(
    config: tp.Any,
    host: dict[str, tp.Any],
    step: int,
    row: dict[str, float],
    checkpointer: Checkpointer,
) -> None:
    """Raises: FloatingPointError or RuntimeError after too many batches that taught nothing."""
    silent = host["silent_in_a_row"]
    limits = {name: settings.max_skipped(config, name) for name in host["skipped"]}
    stuck = [name for name, count in host["skipped"].items() if count >= limits[name]]
    if not stuck and silent < config.max_silent:
        return
    checkpointer.wait()
    saves = checkpointer.steps()
    newest = f"The newest checkpoint is of step {saves[-1]}. " if saves else ""
    if stuck:
        name = stuck[0]
        optim = "config.optim" if name == "policy" else f"config.learners.{name}.optim"
        advice = f"Lower {optim}.lr, or look at the last rows of rollouts.jsonl."
        if odd := int(row.get("advantage/not_finite", 0)):
            advice = (
                f"{odd} rows of the last batch have an advantage that is not finite: a method of "
                "config.shaping or config.advantage read a reward or verdict that was NaN, such as "
                "that of a verifier without a verdict on the row."
            )
        of = "" if name == "policy" else f" of {name!r}"
        raise FloatingPointError(
            f"loss or gradient{of} was not finite in every update of the last "
            f"{host['skipped'][name]} batches, up to step {step}; parameters are unchanged since. "
            f"{newest}{advice}"
        )
    outcomes = {k: int(v) for k, v in row.items() if k.startswith("verify/")}
    raise RuntimeError(
        f"no row of the last {silent} batches, up to step {step}, counted ({outcomes}); nothing "
        f"was learnt from them. {newest}See that the verifiers and their services work and give "
        "the same command again; config.max_silent is the limit."
    )


def _export(
    work: Workdir, loaded: Loaded, learners: learners_lib.Learners, summary: dict[str, tp.Any]
) -> None:
    """The policy as a Hugging Face directory, in place of that of an earlier end of the run."""
    if distributed.primary() and work.export.exists():
        shutil.rmtree(work.export)
    after = summary["eval_after"] or {}
    info = {
        "run_id": f"{work.path.name}-{summary['identity']['config']}",
        "base": loaded.source,
        "steps": summary["steps"],
        "eval": {k: v for k, v in after.items() if isinstance(v, float)},
    }
    hf.save_hf(
        work.export, loaded.config, learners.policy_params(), loaded.tokenizer,
        run_info=info, fetch=sharding.fetch,
    )  # fmt: skip


class _Callable(types.ModuleType):
    """Lets `rlpt.train(config)` be what a notebook calls, beside `rlpt.train.train`."""

    def __call__(self, config: tp.Any, workdir: str | os.PathLike[str] | None = None) -> Result:
        return train(config, workdir)


sys.modules[__name__].__class__ = _Callable
