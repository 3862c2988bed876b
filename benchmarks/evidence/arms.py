"""Arms of a claim that are configs of their own: what the runs of single methods share."""

from __future__ import annotations

import pathlib
import runpy
import typing as tp

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
BASE = "configs/quickstart.py"  # the config of such a sweep, of which its arms replace all
SEEDS = (0, 1, 2)  # of the claims 1 to 3
MORE = (3, 4)  # two seeds more, for the claims of which docs/evidence.md says that they owe them
# A step at 1.8 times the speed with AMX; of the claims that had no run before this was there.
FAST = dict(
    model__matmul_precision="bfloat16", learner__micro_blocks=0, checkpoint__every=1000
)  # fmt: skip
OWED: tuple[str, ...] = ("noise_form", "noise_uniform")  # their names, as in queue.CLAIMS
FRESH = {"tempo_longer": (5, 6, 7)}  # of a claim that was registered after a look at the others


def seeds(claim: str) -> tuple[int, ...]:
    """The seeds of a claim's sweep, in the order in which they are run."""
    return FRESH.get(claim, SEEDS + MORE * (claim in OWED))


def arm(file: str, arg: str | None = None, **changes: tp.Any) -> dict[str, tp.Any]:
    """Every field of configs/FILE.py:ARG but the seed, as the overrides of a sweep's setting.

    30 steps at a learning rate that falls linearly to a tenth, evaluated before and after.

    Args:
      changes: fields to change, with __ for the dots, such as steps=20, eval__prompts=48.
    """
    c = runpy.run_path(str(CONFIGS / f"{file}.py"))["get_config"](arg)
    own = dict(
        steps=30, optim__schedule="linear", optim__end_lr_fraction=0.1, eval__prompts=48,
        eval__every=0, checkpoint__every=15, checkpoint__keep=1, checkpoint__keep_best=0,
        export=False, log__tensorboard=False,
    )  # fmt: skip
    for name, value in {**own, **changes}.items():
        *path, last = name.split("__")
        node = c
        for key in path:
            node = node[key]
        node[last] = value
    return {k: v for k, v in c.items() if k != "seed"}  # which is the sweep's


def after_imitation(
    own: dict[str, tp.Any], steps: int, **demonstrations: tp.Any
) -> dict[str, tp.Any]:
    """The arm behind so many steps of imitation in the same run.

    Args:
      demonstrations: settings of `rollouts.pairs.demonstrations`.
    """
    since = dict(schedule="step", init=0.0, end=1.0, steps=steps)
    nll = dict(fn="preference.nll", aggregate="aggregate.token_mean")
    rollout = own["rollout"]
    first = dict(fn="pairs.demonstrations", steps=steps, **demonstrations)
    last = dict(fn=rollout.fn, **rollout.options)
    rollout.fn, rollout.options = "stages.by_step", dict(stages=(first, last))
    entries = [dict(fn=s) if isinstance(s, str) else dict(s) for s in own["shaping"]]
    shaping = tuple(s | dict(since=steps) for s in entries)  # it masks by verdicts, of which
    terms = [dict(nll, coef=since | dict(init=1.0, end=0.0))]  # demonstrations have none
    terms += [dict(term, coef=since) for term in own["loss"]]
    return own | dict(loss=tuple(terms), rollout=rollout, shaping=shaping)


def corrected(
    base: dict[str, tp.Any], name: str, *shaping: dict[str, tp.Any], **rates: float
) -> dict[str, tp.Any]:
    """A setting with an advantage of `advantages.noise` in place of the control, audited by it.

    Args:
      base: the setting without, of whose shaping the last entry injects the noise.
      name: backward or forward.  shaping: what estimates the rates.  rates: what is known of them.
    """
    control = dict(fn="noise.control", scale=1.0, writes="control_advantages")
    fix = dict(fn=f"noise.{name}", scale=1.0, **rates)
    return base | {
        "shaping": (*base["shaping"], *shaping),
        "advantage": (control, fix, "noise.audit"),
    }


def over_the_run(run: dict[str, tp.Any]) -> dict[str, float]:
    """{held-out prompt: share of right samples, mean over the evaluations behind the first}."""
    evals, samples = run["evals"].values(), run["after"]["samples"]
    return {p: sum(e[p] for e in evals) / (len(evals) * samples) for p in run["after"]["correct"]}


def last_steps(run: dict[str, tp.Any], curve: str, steps: int) -> dict[str, float]:
    """{step: value of a curve}, of the last steps of a run."""
    points = run["curves"][curve]
    return {str(step): value for step, value in points if step > points[-1][0] - steps}


def sweep(
    arg: str | None,
    arms: dict[str, dict[str, tp.Any]],
    baseline: str,
    seeds: tuple[int, ...] = (0,),
) -> dict[str, tp.Any]:
    """The sweep of these arms, of one seed unless said otherwise.

    Args:
      arg: "short": one step and an evaluation of two prompts, to see that the arms run.
    """
    if arg == "short":
        for own in arms.values():
            own["steps"] = 1
            own["eval"].prompts, own["eval"].samples = 2, 2
    return dict(config=BASE, settings=list(arms.items()), baseline=baseline, seeds=seeds)
