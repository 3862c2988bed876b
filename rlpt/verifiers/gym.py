"""The scorers of reasoning-gym, for prompts made by `rlpt.tasks.reasoning_gym`.

Several of reasoning-gym's scorers evaluate the completion as Python code.  Only
tasks whose scorer compares text or numbers are allowed here (the list is with the
task), and they still belong into a `VerifierPool`.
"""

from __future__ import annotations

import functools
import json
import re
import typing as tp

from rlpt.tasks import base as tasks_base
from rlpt.tasks import reasoning_gym as task_lib
from rlpt.verifiers import base

_NAN = re.compile(r"(?i)(?<![a-z])nan(?![a-ik-z])")


def _prepare(**_: tp.Any) -> None:
    import reasoning_gym  # noqa: F401


def _gold(prompt: tasks_base.Prompt, **_: tp.Any) -> None:
    _scorer(prompt)


@base.traits(pure=True, gold=_gold)
def reasoning_gym(
    trajectory: base.Trajectory,
    prompt: tasks_base.Prompt,
    *,
    extract: str = "tag",
    tag: str = "answer",
    threshold: float = 1.0,
    raw: bool = False,
) -> base.Verdict:
    r"""The task's own score of the extracted answer.

    Args:
      extract: "tag": what stands in the last <answer></answer>; "boxed"; "whole".
      tag: the tag's name.
      threshold: from this raw score on, an answer is correct.  Below 1.0 most tasks
        also reward an answer that merely contains the right one.
      raw: give the raw score in [0, 1], not 0 or 1.
    Returns: correct or incorrect with the raw score as detail; unparsable without a
      span, or where the scorer raised on it.
    Raises: ValueError for a prompt of another kind.
    """
    score_answer, entry = _scorer(prompt)
    span = base.extract(trajectory.text, extract, tag)
    if span is None:
        return base.unparsable(f"no complete {extract} answer")
    span = span.strip()
    if _NAN.search(span) and span != entry["answer"]:
        return base.unparsable("nan, whose distance to anything some scorers take for none")
    try:
        score = float(score_answer(span, entry))
    except Exception as e:  # on text that is not of the task's form
        return base.unparsable(f"the scorer raised {type(e).__name__}: {e}")
    if score > 1.0:  # letters in common that add up, by rounding: not the right answer
        score = 0.8  # as spell_backward means it
    verdict = base.judged(score >= threshold, f"raw score {score:.4g}")
    return base.Verdict(score, verdict.outcome, verdict.detail) if raw else verdict


def _scorer(prompt: tasks_base.Prompt) -> tuple[tp.Any, dict[str, tp.Any]]:
    made = prompt.meta.get("reasoning_gym")
    if not made or made["task"] not in task_lib.TASKS:
        raise ValueError(
            f"prompt {prompt.id!r} was not made by the task reasoning_gym.dataset, "
            "whose prompts are all that this verifier judges"
        )
    return _dataset(made["task"], json.dumps(made["config"])).score_answer, made["entry"]


@functools.lru_cache(maxsize=64)
def _dataset(task: str, config: str) -> tp.Any:
    return task_lib.create(task, seed=0, size=1, config=json.loads(config))
