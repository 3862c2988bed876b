"""Which prompts need help, how a hint enters a prompt, and how a row moves to another block."""

from __future__ import annotations

import dataclasses
import re
import typing as tp

import numpy as np

from rlpt.columns import Table
from rlpt.tasks.base import Prompt


def verdict_name(tools: tp.Any, verifier: str, where: str) -> str:
    """The verifier of this name, "": the only one.

    Raises: ValueError for an unknown name, or none given of several.
    """
    names = tools.verifier_names
    if verifier in names or (not verifier and len(names) == 1):
        return verifier or names[0]
    raise ValueError(f"{where}: got verifier={verifier!r}, expected one of {', '.join(names)}")


def solved(table: Table, name: str, threshold: float) -> tp.Any:
    """The live rows whose verdict is above the threshold, [P,G] bool."""
    return table["row_mask"] & (table[f"verdict/{name}"] > threshold)  # NaN is not above


def failed(table: Table, name: str, threshold: float) -> list[int]:
    """The blocks with live rows that have this verdict, of which none is `solved`."""
    alive = (table["row_mask"] & ~np.isnan(table[f"verdict/{name}"])).any(1)
    return [int(i) for i in (alive & ~solved(table, name, threshold).any(1)).nonzero()[0]]


def filled(template: str, texts: tp.Mapping[str, str]) -> str:
    """The template with each {name} of `texts` replaced, at once: texts may have braces."""
    return re.sub("|".join(rf"\{{{k}\}}" for k in texts), lambda m: texts[m[0][1:-1]], template)


def with_hint(prompt: Prompt, template: str, **texts: str) -> Prompt:
    """The prompt with `template` in place of its last user message.

    template: {question} stands for that message, {name} for each of `texts`.

    Raises: ValueError for a prompt without one.
    """
    content = filled(template, {"question": prompt.question, **texts})
    messages = list(prompt.messages)
    last = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=None)
    if last is None:
        raise ValueError(f"prompt {prompt.id!r}: got no user message, expected one to add to")
    messages[last] = {**messages[last], "content": content}
    return dataclasses.replace(prompt, messages=tuple(messages))


def row_columns(table: Table) -> list[str]:
    """The columns [P,G,...] that say what a row is and how it was judged."""
    own = (
        "completion_tokens", "completion_mask", "loss_mask", "sampler_logp", "temperature",
        "truncated", "origin", "row_mask", "train_mask", "row_id", "answer_id",
    )  # fmt: skip
    return [k for k in table if k in own or k.startswith("verdict/")]


def copy_row(source: tp.Any, at: tuple[int, int], batch: tp.Any, to: tuple[int, int]) -> None:
    """Row `to` (block, sample) of a batch becomes row `at` of another, but for its row_id."""
    for column in row_columns(batch.table):
        if column != "row_id":
            batch.table[column][to] = source.table[column][at]
    for texts, own in (
        (source.text.completions, batch.text.completions),
        (source.text.verdicts, batch.text.verdicts),
    ):
        own[to[0]][to[1]] = texts[at[0]][at[1]]
