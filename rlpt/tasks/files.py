"""Prompts from JSONL and Parquet files, by column names.

Which column holds what is a matter of settings; `LAYOUTS` has those of well-known
data sets, so that `layout="gsm8k"` is enough.  Dots reach into nested columns
("reward_model.ground_truth").  Whatever is wrong with a row is found at load and
names the file and the line.
"""

from __future__ import annotations

import collections.abc
import json
import logging
import os
import re
import typing as tp

from rlpt.tasks import base
from rlpt.verifiers import base as verifiers_base

# GSM8K: {"question", "answer": "... #### 42"}
# MATH: {"problem", "solution": "... \\boxed{42}", "level", "type"}
# DAPO, in verl's layout: {"prompt": messages, "reward_model": {"ground_truth"},
#   "extra_info": {"index"}}
# HumanEval: {"task_id", "prompt", "canonical_solution", "test", "entry_point"}
# MBPP: {"task_id", "text", "code", "test_list", "test_setup_code"}
LAYOUTS: dict[str, dict[str, tp.Any]] = {
    "gsm8k": {"prompt": "question", "answer": "answer", "answer_pattern": r"####\s*(\S.*?)\s*$"},
    "math": {
        "prompt": "problem",
        "answer": "solution",
        "answer_pattern": "boxed",
        "meta": ("level", "type"),
    },
    "dapo": {"messages": "prompt", "answer": "reward_model.ground_truth", "id": "extra_info.index"},
    "humaneval": {
        "prompt": "prompt",
        "answer": "test",
        "id": "task_id",
        "meta": ("entry_point", "prompt"),
    },
    "mbpp": {
        "prompt_template": "{text}\nYour code should pass these tests:\n\n{test_list}",
        "answer": "test_list",
        "id": "task_id",
        "meta": ("test_setup_code",),
    },
}

Rows = collections.abc.Iterator[tuple[str, tp.Any]]  # where a row is; a dict, or what is wrong


def jsonl(
    split: str,
    *,
    path: str,
    eval_path: str = "",
    eval_fraction: float = 0.0,
    seed: int = 0,
    layout: str = "",
    prompt: str = "",
    prompt_template: str = "",
    messages: str = "",
    answer: str = "",
    answer_pattern: str = "",
    id: str = "",
    meta: tuple[str, ...] = (),
    system: str = "",
    verifier: str = "",
    on_bad_row: str = "fail",
    limit: int = 0,
) -> list[base.Prompt]:
    r"""Prompts of a file with one JSON object a line.

    Args:
      path: the file; all of it is for training, unless eval_fraction takes a part.
      eval_path: a file of held-out prompts.
      eval_fraction: without eval_path: share of the questions, by their hash, that is
        held out.
      seed: of that choice.
      layout: a key of LAYOUTS; other settings override it.
      prompt: column of the question; or
      prompt_template: text in which {column} is filled in; or
      messages: column of a list of {"role", "content"}.
      answer: column of the reference; "": the task has none.
      answer_pattern: a regular expression whose first group, in its last match, is the
        reference (GSM8K: r"####\s*(\S.*?)\s*$"); or "boxed": what stands in the last \boxed{}.
      id: column of an identity; "": the number of the row, from 1, blank lines not
        counted.
      meta: columns to keep in Prompt.meta.
      system: system message, where the row has none.
      verifier: Prompt.verifier.
      on_bad_row: "fail", or "skip" to leave bad rows out with a warning that counts them.
      limit: at most this many prompts; 0: all.
    Raises: TaskError naming file and line for bad rows, double ids; for no prompts.
    """
    return _load(_jsonl_rows, dict(locals()))


def parquet(
    split: str,
    *,
    path: str,
    eval_path: str = "",
    eval_fraction: float = 0.0,
    seed: int = 0,
    layout: str = "",
    prompt: str = "",
    prompt_template: str = "",
    messages: str = "",
    answer: str = "",
    answer_pattern: str = "",
    id: str = "",
    meta: tuple[str, ...] = (),
    system: str = "",
    verifier: str = "",
    on_bad_row: str = "fail",
    limit: int = 0,
) -> list[base.Prompt]:
    """Prompts of a Parquet file, read by row groups; settings as in `jsonl`.

    Raises: as `jsonl`; ImportError with what to install.
    """
    return _load(_parquet_rows, dict(locals()))


class _RowError(Exception):
    """What is wrong with one row."""


def _load(
    read: collections.abc.Callable[[str, tuple[str, ...]], Rows], settings: dict[str, tp.Any]
) -> list[base.Prompt]:
    s = _resolved(settings)
    path = s["eval_path"] if s["split"] == "eval" and s["eval_path"] else s["path"]
    if not os.path.isfile(path):
        raise base.TaskError(f"{path}: no such file")
    stem = os.path.splitext(os.path.basename(path))[0]
    name = s["layout"] or stem
    ids = name if stem == name else f"{name}/{stem}"  # a layout has several files
    prompts: dict[str, base.Prompt] = {}
    bad: list[str] = []
    for number, (where, row) in enumerate(read(path, _columns(s)), start=1):
        try:
            if isinstance(row, _RowError):
                raise row
            made = _prompt(row, s, name, f"{ids}:{number}")
            if made.id in prompts:
                raise _RowError(f"the id {made.id!r} occurred before; ids must be unique")
        except _RowError as e:
            bad.append(f"{where}: {e}")
            if s["on_bad_row"] == "fail":
                raise base.TaskError(
                    f"{bad[0]}\nCorrect the row, or set on_bad_row='skip' to leave such rows out."
                ) from e
            continue
        if _belongs(made, s):
            prompts[made.id] = made
            if len(prompts) == s["limit"]:
                break
    if bad:
        logging.getLogger(__name__).warning("skipped %d rows; the first: %s", len(bad), bad[0])
    skipped = f" ({len(bad)} rows were skipped; the first: {bad[0]})" if bad else ""
    return base.checked(list(prompts.values()), f"{path}, split {s['split']!r}{skipped}")


def _resolved(settings: dict[str, tp.Any]) -> dict[str, tp.Any]:
    """The settings with those of the layout filled in. Raises: TaskError."""
    s = dict(settings)
    base.check_split(s["split"])
    if s["layout"]:
        if s["layout"] not in LAYOUTS:
            raise base.TaskError(
                f"layout: got {s['layout']!r}, expected one of {', '.join(LAYOUTS)}"
            )
        if any(s[key] for key in ("prompt", "prompt_template", "messages")):
            layout = {
                k: v
                for k, v in LAYOUTS[s["layout"]].items()
                if k not in ("prompt", "prompt_template", "messages")
            }
        else:
            layout = LAYOUTS[s["layout"]]
        s |= {key: value for key, value in layout.items() if not s[key]}
    given = [key for key in ("prompt", "prompt_template", "messages") if s[key]]
    if len(given) != 1:
        raise base.TaskError(
            f"files: got {' and '.join(given) or 'none'} of prompt, prompt_template and "
            "messages; expected one of them, or a layout"
        )
    if s["on_bad_row"] not in ("fail", "skip"):
        raise base.TaskError(f"on_bad_row: got {s['on_bad_row']!r}, expected 'fail' or 'skip'")
    if s["eval_path"] and s["eval_fraction"]:
        raise base.TaskError("files: got both eval_path and eval_fraction, expected one of them")
    if s["split"] == "eval" and not (s["eval_path"] or s["eval_fraction"]):
        raise base.TaskError("files: no held-out prompts; give eval_path or eval_fraction")
    if s["answer_pattern"] not in ("", "boxed"):
        try:
            groups = re.compile(s["answer_pattern"]).groups
        except re.error as e:
            raise base.TaskError(
                f"answer_pattern: {s['answer_pattern']!r} does not compile: {e}"
            ) from e
        if not groups:
            raise base.TaskError(
                f"answer_pattern: {s['answer_pattern']!r} has no group, expected one around the "
                "reference, as in r'#### (.+)'"
            )
    return s


def _belongs(prompt: base.Prompt, s: dict[str, tp.Any]) -> bool:
    """Whether a prompt is in the split; questions alike but for blanks are in the same."""
    if s["eval_path"] or not s["eval_fraction"]:
        return True
    return base.split_of(base.asked(prompt), s["eval_fraction"], s["seed"]) == s["split"]


_FIELD = re.compile(r"\{\s*([^{}]*?)\s*\}")
_NAME = re.compile(r"[A-Za-z_][\w.]*")


def _columns(s: dict[str, tp.Any]) -> tuple[str, ...]:
    """The columns that the settings name."""
    named = [s["prompt"], s["messages"], s["answer"], s["id"], *s["meta"]]
    named += _FIELD.findall(s["prompt_template"])
    return tuple(dict.fromkeys(filter(None, named)))


def _prompt(row: tp.Any, s: dict[str, tp.Any], name: str, place: str) -> base.Prompt:
    """Raises: _RowError."""
    if not isinstance(row, dict):
        raise _RowError(f"got a JSON {type(row).__name__}, expected an object")
    if s["messages"]:
        chat = _messages(_field(row, s["messages"]), s["messages"])
        if s["system"] and chat[0]["role"] != "system":
            chat = ({"role": "system", "content": s["system"]}, *chat)
    elif s["prompt_template"]:
        text = _FIELD.sub(lambda match: _text(row, match), s["prompt_template"])
        if not text.strip():
            raise _RowError(f"prompt_template: got {text!r:.80}, expected a text")
        chat = base.chat(text, s["system"])
    else:
        text = _field(row, s["prompt"])
        if not isinstance(text, str) or not text.strip():
            raise _RowError(f"field {s['prompt']!r}: got {text!r:.80}, expected a text")
        chat = base.chat(text, s["system"])
    prompt = base.Prompt(
        id=f"{name}:{_field(row, s['id'])}" if s["id"] else place,
        messages=chat,
        answer=_answer(row, s) if s["answer"] else None,
        meta={column: _json(_field(row, column), column) for column in s["meta"]},
        verifier=s["verifier"],
        task=name,
    )
    try:
        json.dumps([prompt.id, chat, prompt.answer, prompt.meta], ensure_ascii=False).encode()
    except UnicodeEncodeError as e:  # "\ud800" of JSON: no tokenizer takes it, no file holds it
        found = e.object[e.start : e.end]
        raise _RowError(f"a lone surrogate, {found!r}, which is no character") from e
    return prompt


def _field(row: dict[str, tp.Any], name: str) -> tp.Any:
    """row[name], or row["a"]["b"] for "a.b". Raises: _RowError naming the fields that it has."""
    if name in row:
        return row[name]
    value: tp.Any = row
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            has = ", ".join(map(str, value)) if isinstance(value, dict) else repr(value)[:80]
            raise _RowError(f"no field {name!r}; it has: {has or 'nothing'}")
        value = value[part]
    return value


def _messages(value: tp.Any, column: str) -> tuple[dict[str, str], ...]:
    keys = ("role", "content")
    if not (
        isinstance(value, list)
        and value
        and all(isinstance(m, dict) and all(isinstance(m.get(k), str) for k in keys) for m in value)
    ):
        raise _RowError(
            f"field {column!r}: got {value!r:.80}, expected a list of "
            '{"role": text, "content": text}'
        )
    if value[-1]["role"] == "assistant":
        raise _RowError(
            f"field {column!r}: the last message is the assistant's, {value[-1]['content']!r:.80}; "
            "expected the user's: a reply is what is sampled behind it"
        )
    return tuple({key: m[key] for key in keys} for m in value)


def _answer(row: dict[str, tp.Any], s: dict[str, tp.Any]) -> tp.Any:
    column, pattern = s["answer"], s["answer_pattern"]
    value = _field(row, column)
    if value is None or value == "" or value == []:
        raise _RowError(f"field {column!r}: got {value!r}, expected a reference answer")
    if not pattern:
        return _json(value, column)
    if not isinstance(value, str):
        raise _RowError(f"field {column!r}: got {value!r:.80}, expected a text")
    if pattern == "boxed":
        found = verifiers_base.last_boxed(value)
    else:
        matches = list(re.finditer(pattern, value, re.MULTILINE))
        found = matches[-1][1] if matches else None
    if not found:
        raise _RowError(
            f"field {column!r}: no reference in ...{value[-80:]!r} by answer_pattern {pattern!r}"
        )
    return found


def _text(row: dict[str, tp.Any], match: re.Match[str]) -> str:
    """A column as text for a template, lists line by line; braces around no name as they are.

    Raises: _RowError.
    """
    name = match[1]
    if name not in row and not _NAME.fullmatch(name):
        return match[0]  # such as those of \boxed{}
    value = _field(row, name)
    if value is None:
        raise _RowError(f"field {name!r}: got None, expected a text for prompt_template")
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _json(value: tp.Any, column: str) -> tp.Any:
    try:
        json.dumps(value)
    except (TypeError, ValueError) as e:
        raise _RowError(f"field {column!r}: {e}; expected what JSON can hold") from e
    return value


def _jsonl_rows(path: str, columns: tuple[str, ...]) -> Rows:
    with open(path, "rb") as f:
        for number, line in enumerate(f, start=1):
            where = f"{path}:{number}"
            if not line.strip():
                continue
            try:
                yield where, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as e:
                yield where, _RowError(f"not UTF-8: {e}")
            except (ValueError, RecursionError) as e:
                cut = "" if line.endswith(b"\n") else " (the last line; was the file cut off?)"
                yield where, _RowError(f"not JSON: {e}{cut}")


def _parquet_rows(path: str, columns: tuple[str, ...]) -> Rows:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as e:
        raise ImportError("Parquet files need the package: pip install pyarrow") from e
    try:
        with pyarrow.parquet.ParquetFile(path) as f:
            # Columns that no setting names may be large; missing ones are reported by row.
            tops = {column.split(".")[0] for column in columns} | set(columns)
            wanted = [name for name in f.schema_arrow.names if name in tops]
            number = 0
            for group in range(f.num_row_groups):
                for row in f.read_row_group(group, columns=wanted or None).to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except pyarrow.ArrowException as e:
        raise base.TaskError(f"{path}: not a whole Parquet file: {e}") from e
    except OSError as e:
        raise base.TaskError(f"{path}: cannot be read as Parquet: {e}") from e
