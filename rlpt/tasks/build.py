"""Tasks of a config, loaded; and written to disk once, for many hosts to read."""

from __future__ import annotations

import collections.abc
import dataclasses
import typing as tp

from rlpt import config
from rlpt.tasks import base, tfds

Spec = collections.abc.Mapping[str, tp.Any]


def load(spec: Spec, split: str) -> list[base.Prompt]:
    """Prompts of one entry of config.tasks.

    Args:
      spec: fn and its settings; weight is not looked at, label replaces Prompt.task and
        verifier Prompt.verifier.
      split: "train" or "eval".
    Raises: ConfigError for an unknown name or setting; TaskError for what the task finds.
    """
    spec = dict(spec)
    spec.pop("weight", None)
    changes = {"task": spec.pop("label", ""), "verifier": spec.pop("verifier", "")}
    changes = {key: value for key, value in changes.items() if value}
    bound = config.entry("tasks", spec)
    prompts = bound.fn(split, **bound.static, **bound.numbers_at(0))
    return [dataclasses.replace(prompt, **changes) for prompt in prompts]


def skipping(specs: collections.abc.Iterable[Spec]) -> set[str]:
    """The tasks, by Prompt.task, of which bad rows are left out: those with on_bad_row="skip"."""
    return {s.get("label") or s["fn"] for s in specs if s.get("on_bad_row") == "skip"}


def build(config_task: Spec | list[Spec] | tuple[Spec, ...], name: str, data_dir: str) -> str:
    """Writes both splits of one or more tasks as a data set for `tfds.dataset`.

    Args:
      config_task: an entry of config.tasks, or all of them.
      name, data_dir: as in `tfds.build`.
    Returns: the directory written.
    """
    specs: list[Spec] = (
        list(config_task) if isinstance(config_task, list | tuple) else [config_task]
    )
    splits = {split: [p for spec in specs for p in load(spec, split)] for split in base.SPLITS}
    return tfds.build(splits, name, data_dir)
