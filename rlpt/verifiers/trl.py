"""Reward functions written for TRL, used as they are."""

from __future__ import annotations

import collections.abc
import inspect
import math
import typing as tp

from rlpt import config
from rlpt.tasks import base as tasks_base
from rlpt.verifiers import base


def _prepare(*, function: str, **_: tp.Any) -> None:
    config.find("verifiers", function)


@base.traits(low=-math.inf, high=math.inf, couples_rows=True)
def reward(
    trajectories: collections.abc.Sequence[base.Trajectory],
    prompts: collections.abc.Sequence[tasks_base.Prompt],
    *,
    function: str,
    answer_column: str = "answer",
    conversational: bool = False,
    threshold: float = 1.0,
) -> list[base.Verdict]:
    """The rewards of a function `(prompts, completions, **columns) -> list of float or None`.

    It is called with some rows at a time (`batch` in the verifier's spec); one that
    compares rows with each other needs batch=0, which is all rows of a step at once, on the
    first of several processes.  Where such a call fails or is late, no row of it has a verdict:
    by themselves rows would get other rewards.  With another batch they are tried one by one.

    Args:
      function: "my_pkg.mod:fn".
      answer_column: the name under which the function expects the reference
        ("solution", "ground_truth", ...).  Each key of the prompts' meta is a column too.
      conversational: give prompts and completions as lists of messages, not as text.
      threshold: from this reward on, the outcome counts as "correct".
    Returns: verdicts with any finite score; None from the function is no verdict.
    Raises: ValueError if it does not give one reward a row.
    """
    fn = config.find("verifiers", function)
    columns: dict[str, list[tp.Any]] = {
        key: [prompt.meta.get(key) for prompt in prompts]
        for key in dict.fromkeys(key for prompt in prompts for key in prompt.meta)
    }
    columns[answer_column] = [prompt.answer for prompt in prompts]
    if conversational:
        columns["prompts"] = [list(prompt.messages) for prompt in prompts]
        columns["completions"] = [[{"role": "assistant", "content": t.text}] for t in trajectories]
    else:
        columns["prompts"] = [
            t.prompt_text or p.question for t, p in zip(trajectories, prompts, strict=True)
        ]
        columns["completions"] = [t.text for t in trajectories]
    parameters = inspect.signature(fn).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        columns = {key: column for key, column in columns.items() if key in parameters}
    rewards = list(fn(**columns))
    if len(rewards) != len(trajectories):
        raise ValueError(f"{function} gave {len(rewards)} rewards for {len(trajectories)} rows")
    return [
        base.unparsable(f"{function} gave None")
        if value is None
        else base.Verdict(
            float(value), "correct" if value >= threshold else "incorrect", f"reward {value}"
        )
        for value in rewards
    ]
