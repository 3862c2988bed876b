"""The default rollout: take prompts, generate, verify."""

from __future__ import annotations

import typing as tp


def on_policy(
    stream: tp.Any, tools: tp.Any, state: tp.Any, step: int, *, prompts: int, group: int
) -> tuple[tp.Any, tp.Any]:
    """`prompts` fresh prompts and `group` completions of each.

    Args:
      stream: take(n) -> [(prompt, occurrence)].  tools: generate and verify.
      state: this rollout's own JSON state (unused here).
    Returns: ({"policy": batch}, state).
    """
    batch = tools.generate(stream.take(prompts), group=group, step=step)
    return {"policy": tools.verify(batch)}, state
