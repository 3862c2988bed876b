"""Does a correction for a noisy verifier turn the update back? Known rates beside estimated ones.

  python benchmarks/noise_rates.py

prints the table and writes benchmarks/results/noise_rates.json.

Policies are softmax bandits over a few answers, so the expected update of each estimator is
exact: what the table shows is the direction of the summed update over all prompts, as its cosine
to the update under clean rewards, and the only randomness is that of the estimated rates.  They
come from appeals as a run makes them: rows drawn, verdicts flipped, `appeals.lodge` with
probability 0.1, and one of the estimators of `rlpt.rewards.appeals`.  `looks` is the expected
number of appeals; the file has the realised one.  Of the estimated rates the table shows the mean
cosine over the seeds and, in brackets, the smallest.  A minute on two CPU cores.

Cai et al., arXiv 2510.00915, has the corrections; the examples were made here.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np

from rlpt.advantages import noise as credit
from rlpt.rewards import appeals

PROBABILITY = 0.1
LOOKS, SEEDS = (300, 3000, 30000), 20
RESULTS = pathlib.Path(__file__).parent / "results" / "noise_rates.json"


@dataclasses.dataclass(frozen=True)
class World:
    """Prompts with A answers each, and a channel by stratum.

    Attributes:
      what: for people.
      logits, right, strata: [P,A]: the policy, the truth, and the stratum of each answer.
      fp, fn: [S], rates of each stratum.
      second: rates (true positive, false positive) of the second verifier.
      positives: appeals are of either verdict, and both rates are estimated; otherwise fn alone.
    """

    what: str
    logits: np.ndarray
    right: np.ndarray
    strata: np.ndarray
    fp: tuple[float, ...]
    fn: tuple[float, ...]
    second: tuple[float, float] = (1.0, 0.0)
    positives: bool = True

    @property
    def policy(self) -> np.ndarray:
        """[P,A] probabilities."""
        e = np.exp(self.logits - self.logits.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    @property
    def passes(self) -> np.ndarray:
        """[P,A] P(observed 1 | answer)."""
        fp, fn = np.array(self.fp)[self.strata], np.array(self.fn)[self.strata]
        return np.where(self.right == 1, 1 - fn, fp)


Z = [[0.3, -0.5, 1.0, 0.0, -1.2, 0.4], [1.2, -0.3, 0.1, 0.5, -0.7, 0.0]]
RIGHT = [[0, 1, 0, 1, 0, 0], [1, 0, 0, 0, 1, 0]]


def worlds() -> dict[str, World]:
    """The examples of the table."""
    z, right = np.array(Z), np.array(RIGHT, float)
    by_prompt = np.array([[0] * 6, [1] * 6])
    hack = np.array([[0, 0, 1, 0, 0, 0]])
    form = np.array([[0, 0, 1, 1, 0, 1]])
    many = np.random.default_rng(0)
    tasks = np.repeat([0, 1], 8)[:, None] + np.zeros((1, 6), int)
    rest = many.normal(size=(16, 6)), (many.random((16, 6)) < 0.4).astype(float), tasks
    return {
        "one channel": World(
            "rates .1 and .2 everywhere", z[:1], right[:1], 0 * hack, (0.1,), (0.2,)
        ),
        "two prompts": World(
            "rates (.02, .45) and (.30, .05); strata: the prompt",
            z, right, by_prompt, (0.02, 0.30), (0.45, 0.05),
        ),
        "two tasks": World(
            "rates (.0, .70) and (.20, .02); strata: the task, 8 prompts each",
            *rest, (0.0, 0.20), (0.70, 0.02),
        ),
        "format": World(
            "rates (.2, .05) for canonical replies, (.2, .45) for risky ones; strata: the format",
            z[:1], right[:1], form, (0.2, 0.2), (0.05, 0.45),
        ),
        "format, misses only": World(
            "rates (0, .05) and (0, .45); only negatives appeal; strata: the format",
            z[:1], right[:1], form, (0.0, 0.0), (0.05, 0.45), positives=False,
        ),
        "format, imperfect judge": World(
            "as format, but the second verifier has rates .05 and .1 of its own, which are known",
            z[:1], right[:1], form, (0.2, 0.2), (0.05, 0.45), second=(0.9, 0.05),
        ),
        "hack": World(
            "rates (.1, .2), but one wrong answer passes with .64; strata: that answer or not",
            z[:1], right[:1], hack, (0.1, 0.64), (0.2, 0.2),
        ),
    }  # fmt: skip


def update(world: World, passes: np.ndarray, one: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Expected update of all prompts' logits, [P*A]: E[coefficient * score].

    Args: passes: [P,A] P(observed 1).  one, zero: [P,A] coefficient of an observed 1 and 0.
    """
    pi = world.policy
    weighted = pi * (passes * one + (1 - passes) * zero)
    return (weighted - pi * weighted.sum(1, keepdims=True)).ravel()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def direction(
    world: World, fn: tp.Any, rates: tuple[np.ndarray, np.ndarray] | None = None, **settings: tp.Any
) -> float:
    """Cosine of an estimator's expected update to that under clean rewards.

    Args:
      fn: of `rlpt.advantages.noise`; called with groups of one, which have no baseline.
      rates: ([S], [S]) the false positives and negatives by stratum that it believes in.
    """
    columns = () if rates is None else (None, *(r[world.strata.reshape(-1, 1)] for r in rates))

    def level(observed: float) -> np.ndarray:
        rewards = jnp.full((world.strata.size, 1), observed)
        return np.asarray(fn(rewards, *columns, **settings)).reshape(world.strata.shape)

    clean = update(world, world.right, np.ones(world.right.shape), np.zeros(world.right.shape))
    return cosine(update(world, world.passes, level(1.0), level(0.0)), clean)


def known(world: World, by_stratum: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The true rates by stratum, or those of all rows together, repeated for each stratum."""
    if by_stratum:
        return np.array(world.fp), np.array(world.fn)
    wrong, right = world.policy * (1 - world.right), world.policy * world.right
    fp = (wrong * world.passes).sum() / wrong.sum()
    fn = (right * (1 - world.passes)).sum() / right.sum()
    return np.full(len(world.fp), fp), np.full(len(world.fp), fn)


@functools.partial(jax.jit, static_argnames="positives")
def _appeal(
    observed: jax.Array,
    second: jax.Array,
    strata: jax.Array,
    live: jax.Array,
    key: jax.Array,
    judge: jax.Array,
    positives: bool,
) -> tuple[dict[str, jax.Array], jax.Array]:
    ids = jnp.arange(1), jnp.arange(observed.size)[None]
    asked = appeals.lodge(
        observed, second, key, *ids, live, probability=PROBABILITY, positives=positives
    )
    init, estimate = appeals.stratified_both if positives else appeals.stratified
    settings: dict[str, tp.Any] = {"true_positive": judge[0], "false_positive": judge[1]}
    out, _ = estimate(observed, asked["appeal"], strata, init(), live, **settings)
    return out, asked["metrics/appeals_asked"]


def estimated(
    world: World, looks: int, seed: int, by_stratum: bool = True
) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """Rates by stratum from about `looks` appeals, and how many there were."""
    rng = np.random.default_rng((seed, looks))
    asked = 1.0 if world.positives else (world.policy * (1 - world.passes)).sum(1).mean()
    rows = round(looks / PROBABILITY / asked)
    prompt = rng.integers(len(world.policy), size=rows)
    past = rng.random((rows, 1)) > np.cumsum(world.policy, axis=1)[prompt, :-1]
    at = prompt, past.sum(1)
    observed = rng.random(rows) < world.passes[at]
    second = rng.random(rows) < np.where(world.right[at] == 1, *world.second)
    kinds = len(world.fp)  # empty rows at the end, one of each stratum, show its rates
    strata = np.append(world.strata[at], np.arange(kinds)) * by_stratum
    columns = [np.append(x, np.zeros(kinds, x.dtype))[None] for x in (observed, second)]
    live = (np.arange(rows + kinds) < rows)[None]
    key = jax.random.key(seed)
    out, count = _appeal(
        *(x.astype(np.float32) for x in columns), strata[None], live, key, world.second,
        positives=world.positives,
    )  # fmt: skip
    fn = np.asarray(out["fn_rates"])[0, rows:]
    fp = np.asarray(out["fp_rates"])[0, rows:] if world.positives else np.array(world.fp)
    return (fp, fn), int(count)


def measure(world: World, looks: tp.Sequence[int] = LOOKS, seeds: int = SEEDS) -> dict[str, tp.Any]:
    """The row of a world: cosines of each correction, with known and with estimated rates."""
    by_c = {"divide_by_channel": True}
    row: dict[str, tp.Any] = {
        "what": world.what,
        "uncorrected": direction(world, credit.control),
        "one known channel": direction(world, credit.backward, known(world, by_stratum=False)),
        "known by stratum": direction(world, credit.backward, known(world)),
        "known by stratum, forward": direction(world, credit.forward, known(world), **by_c),
    }
    for by_stratum, name in ((False, "one estimated channel"), (True, "estimated by stratum")):
        row[name] = {}
        for n in looks:
            runs = [estimated(world, n, seed, by_stratum) for seed in range(seeds)]
            cosines = [direction(world, credit.backward, rates) for rates, _ in runs]
            row[name][str(n)] = {
                "mean": float(np.mean(cosines)),
                "smallest": min(cosines),
                "appeals": float(np.mean([count for _, count in runs])),
            }
    return row


def main() -> None:
    rows = {name: measure(world) for name, world in worlds().items()}
    heads = [f"{n} looks" for n in LOOKS]
    print(f"{'':26}{'':>12}{'one channel':>24}  {'by stratum':>12}")
    print(f"{'':26}{'uncorrected':>12}{'known':>12}{heads[-1]:>14}{'known':>10}", end="")
    print("".join(f"{h:>20}" for h in heads))
    for name, row in rows.items():
        one, many = row["one estimated channel"][str(LOOKS[-1])], row["estimated by stratum"]
        print(f"{name:26}{row['uncorrected']:12.4f}{row['one known channel']:12.4f}", end="")
        print(f"{one['mean']:14.4f}{row['known by stratum']:10.4f}", end="")
        print("".join(f"{v['mean']:12.4f} ({v['smallest']:.3f})" for v in many.values()))
    settings = {"probability": PROBABILITY, "seeds": SEEDS, "jax": jax.__version__}
    result = {"command": "python benchmarks/noise_rates.py", **settings, "worlds": rows}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
