"""The same question in two wordings, each a group of its own."""

from __future__ import annotations

import dataclasses
import typing as tp

import numpy as np

from rlpt.tasks.base import Prompt


def two(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    key: str = "rephrased",
    template: str = "",
) -> tuple[tp.Any, tp.Any]:
    """`prompts` / 2 prompts, and behind each the same one with its last user message reworded.

    One more column: other_view [P] int32, the block with the other wording, for
    `rewards.consensus.co_reward`.  A pair of which the other wording fits no prompt bucket leaves
    its blocks empty; views/too_long counts such pairs.

    Args:
      stream, tools: as in `sample.on_policy`.  state: unused.
      prompts: blocks, an even number.
      key: of the prompt's meta, under which the other wording stands; or
      template: the other wording, with {question} for the first.
    Returns: ({"policy": batch}, state).

    Raises: ValueError for an odd number of blocks, a prompt without another wording, or a template
      without {question}.

    Reference: Zhang et al., "Co-Reward", arXiv:2508.00410.
    """
    _check(tools, prompts=prompts, template=template)
    items: list[tuple[Prompt, int] | None] = []
    for prompt, occurrence in stream.take(prompts // 2):
        other = _reworded(prompt, key, template)
        fits = len(tools.encode(other)) <= tools.max_prompt
        items += [(prompt, occurrence), (other, occurrence)] if fits else [None, None]
    batch = tools.verify(tools.generate(items, group=group, step=step))
    batch.outcomes["views/too_long"] = items.count(None) // 2
    batch.table["other_view"] = np.arange(prompts, dtype=np.int32) ^ 1
    return {"policy": batch}, state


def _check(setup: tp.Any, *, prompts: int, template: str) -> None:
    """Raises: ValueError, see `two`."""
    if prompts % 2:
        raise ValueError(f"two: got prompts={prompts}, expected an even number of blocks")
    if template and "{question}" not in template:
        raise ValueError(f"two template: got {template!r}, expected one with {{question}} in it")


two.check = _check  # type: ignore[attr-defined]
two.columns = {"other_view": ("P", "i")}  # type: ignore[attr-defined]


def _reworded(prompt: Prompt, key: str, template: str) -> Prompt:
    """The prompt with another last user message, and an id of its own. Raises: ValueError."""
    text = template.replace("{question}", prompt.question) or prompt.meta.get(key)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(
            f"two: the prompt {prompt.id!r} has meta[{key!r}] = {text!r:.80}, expected its "
            "question in other words; or set config.rollout.options.template"
        )
    last = max(i for i, m in enumerate(prompt.messages) if m["role"] == "user")
    messages = tuple(
        {**m, "content": text} if i == last else m for i, m in enumerate(prompt.messages)
    )
    return dataclasses.replace(prompt, id=f"{prompt.id}#2", messages=messages)
