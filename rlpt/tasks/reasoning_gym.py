"""Generated puzzles of the reasoning-gym package (pip install reasoning-gym).

Its random generators are seeded per item with seed + index, so neighbouring seeds
share items; here the splits have distant seeds, and a question's hash decides which
split may have it.
"""

from __future__ import annotations

import collections.abc
import contextlib
import io
import json
import typing as tp

from rlpt.tasks import base

SYSTEM = "Give the final answer between <answer> and </answer>."

# Checked by hand: short questions and answers, generation in a few milliseconds and the same
# each time, and a scorer that compares text or numbers without running the answer as code.  Not
# coin_flip, whose scorer gives 1 to any beginning of the right number, such as "0".
TASKS = (
    "base_conversion", "basic_arithmetic", "bf", "calendar_arithmetic", "chain_sum",
    "complex_arithmetic", "count_bits", "count_primes", "decimal_arithmetic",
    "family_relationships", "gcd", "lcm", "leg_counting", "letter_counting", "number_sequence",
    "products", "simple_equations", "simple_geometry", "spell_backward", "syllogism",
    "time_intervals",
)  # fmt: skip


def dataset(
    split: str,
    *,
    task: str,
    size: int = 2000,
    seed: int = 0,
    eval_fraction: float = 0.2,
    config: collections.abc.Mapping[str, tp.Any] | None = None,
    system: str = SYSTEM,
) -> list[base.Prompt]:
    """At most `size` distinct questions of a task; judge them with gym.reasoning_gym.

    Args:
      task: one of TASKS.
      size: most prompts in the split; small tasks run out of questions before.
      seed: of the generator, and of which questions are held out.
      eval_fraction: share of all possible questions that is held out.
      config: the task's own settings, e.g. dict(min_terms=2, max_terms=3) for chain_sum.
      system: system message; "": none.
    Raises: TaskError for an unknown task or settings that it refuses; ImportError with
      what to install.
    """
    base.check_split(split)
    settings = dict(config or {})
    # Enough candidates for the share of the split, and some for repeated questions.
    share = eval_fraction if split == "eval" else 1.0 - eval_fraction
    if not 0.0 < share < 1.0 or size < 1:
        raise base.TaskError(
            f"reasoning_gym: got eval_fraction={eval_fraction}, size={size}; expected a "
            "fraction between 0 and 1 and size >= 1"
        )
    candidates = int(2 * size / share) + 50
    start = base.hash_int(seed, split, bits=32) % 2**30
    prompts: dict[str, base.Prompt] = {}
    with contextlib.redirect_stdout(io.StringIO()):  # some generators print
        made = create(task, seed=start, size=candidates, config=settings)
        for i in range(candidates):
            entry = json.loads(json.dumps(made[i], default=str))
            question = entry["question"]
            if base.split_of(question, eval_fraction, seed) != split or question in prompts:
                continue
            prompts[question] = base.Prompt(
                id=f"reasoning_gym.{task}:{base.hash_int(question):016x}",
                messages=base.chat(question, system),
                answer=entry["answer"],
                meta={"reasoning_gym": {"task": task, "config": settings, "entry": entry}},
                task=task,
            )
            if len(prompts) == size:
                break
    return base.checked(list(prompts.values()), f"reasoning_gym {task}")


def create(task: str, seed: int, size: int, config: dict[str, tp.Any]) -> tp.Any:
    """The data set of reasoning-gym itself, for an allowed task."""
    if task not in TASKS:
        raise base.TaskError(
            f"reasoning_gym: got task {task!r}, expected one of {', '.join(TASKS)} (others run "
            "the answer as code, are slow, or differ from run to run)"
        )
    try:
        import reasoning_gym
    except ImportError as e:
        raise ImportError("this task needs the package: pip install reasoning-gym") from e
    try:
        return reasoning_gym.create_dataset(task, seed=seed, size=size, **config)
    except (TypeError, AssertionError, ValueError) as e:
        raise base.TaskError(f"reasoning_gym {task}: {e} (config was {config})") from e
