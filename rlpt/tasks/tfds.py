"""Prompts as a TensorFlow Datasets data set, written and read without TensorFlow.

Records are array_record files.  TFDS stores them in the order of a hash, so each
has its own id and position.  Needs: pip install tensorflow-datasets array_record.
"""

from __future__ import annotations

import collections.abc
import json
import os
import typing as tp

import numpy as np

from rlpt.tasks import base

LATEST = "1.0.0"
_FIELDS = ("id", "messages", "answer", "meta", "verifier", "task")


def build(
    source_prompts: collections.abc.Mapping[str, collections.abc.Sequence[base.Prompt]],
    name: str,
    data_dir: str,
) -> str:
    """Writes prompts as the data set `name`.

    Args:
      source_prompts: by split, "train" and perhaps "eval".
      name: snake_case.
      data_dir: directory of data sets; one of the same name is not overwritten.
    Returns: the directory written, data_dir/name/1.0.0.
    Raises: TaskError for a bad split or name, double ids, or where there is one already.
    """
    if not name.isidentifier() or name != name.lower():
        raise base.TaskError(f"tfds: got name {name!r}, expected snake_case such as 'my_sums'")
    splits = {split: base.checked(prompts, split) for split, prompts in source_prompts.items()}
    for split in splits:
        base.check_split(split)
    directory = os.path.join(data_dir, name, LATEST)
    if os.path.exists(directory):
        raise base.TaskError(f"tfds: {directory} is there already; remove it or use another name")
    core, features, snake_case = _import().core, _import().features, name

    class Builder(core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore
        VERSION = core.Version(LATEST)
        name = snake_case

        def _info(self) -> tp.Any:
            columns = {field: features.Text() for field in _FIELDS}
            columns["position"] = features.Scalar(np.int64)
            # dataset_info_from_configs would look for a package directory.
            return core.DatasetInfo(builder=self, features=features.FeaturesDict(columns))

        def _split_generators(self, dl_manager: tp.Any) -> tp.Any:
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split: str) -> tp.Any:
            for position, prompt in enumerate(splits[split]):
                record = {
                    field: value
                    if isinstance(value, str) and field != "answer"
                    else json.dumps(value)
                    for field in _FIELDS
                    for value in [getattr(prompt, field)]
                }
                yield prompt.id, {**record, "position": position}

    _import().disable_progress_bar()
    Builder(data_dir=data_dir, file_format="array_record").download_and_prepare()
    return directory


def dataset(split: str, *, builder: str, data_dir: str, limit: int = 0) -> list[base.Prompt]:
    """Prompts of a data set that `build` (or `rlpt data build`) has written, in their order.

    Args:
      builder: its name.
      data_dir: the directory of data sets.
      limit: at most this many prompts; 0: all.
    Raises: TaskError where there is none; ImportError with what to install.
    """
    base.check_split(split)
    directory = os.path.join(data_dir, builder, LATEST)
    if not os.path.isdir(directory):
        raise base.TaskError(f"tfds: no {directory}; write it with `rlpt data build`")
    made = _import().builder_from_directory(directory)
    if split not in made.info.splits:
        raise base.TaskError(
            f"tfds: {directory} has no split {split!r}; it has {', '.join(made.info.splits)}"
        )
    records = sorted(made.as_data_source(split), key=lambda record: record["position"])
    prompts = [_prompt(record) for record in (records[:limit] if limit else records)]
    return base.checked(prompts, f"tfds {builder}")


def _prompt(record: dict[str, tp.Any]) -> base.Prompt:
    text = {field: record[field].decode() for field in _FIELDS}  # TFDS gives bytes
    return base.Prompt(
        id=text["id"],
        messages=tuple(json.loads(text["messages"])),
        answer=json.loads(text["answer"]),
        meta=json.loads(text["meta"]),
        verifier=text["verifier"],
        task=text["task"],
    )


def _import() -> tp.Any:
    try:
        import array_record  # noqa: F401
        import tensorflow_datasets
    except ImportError as e:
        raise ImportError(
            "this task needs packages: pip install tensorflow-datasets array_record"
        ) from e
    return tensorflow_datasets
