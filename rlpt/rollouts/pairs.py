"""Tables without sampling: demonstrations, pairs and labelled completions that a task brings; and
pairs of the policy's own completions.

The column `preference` says which row of a block is better.  Texts are templates over what is known
of a prompt: {question}, its last message; {answer}, its reference; {other}, the reference of
another prompt of the batch, which is wrong here; {name}, what its task keeps under that name in
Prompt.meta (a text, or a list of messages that ends with the completion), as `tasks.files.jsonl`
does with meta=("chosen", ...).
Rows of external text end with the model's end token, have origin 3, and their sampler_logp is the
policy's own log-prob, as in `experts.inject`.  Texts that do not fit the largest bucket, or are
null in Prompt.meta, leave their slots empty and are counted: pairs/rows, pairs/missing.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing as tp

import numpy as np

from rlpt.rollouts._hints import verdict_name
from rlpt.rollouts.experts import ORIGIN
from rlpt.tasks.base import Prompt, stable_id

Items = list[tuple[Prompt, int]]
Texts = list[list[str | None]]  # by block and slot; None: an empty slot
_FIELD = re.compile(r"\{(\w+)\}")


def demonstrations(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    completion: str = "{answer}",
) -> tuple[tp.Any, tp.Any]:
    """One completion of each prompt, to be imitated.

    Args:
      stream, tools: as in `sample.on_policy`.  state: unused.
      group: slots of a block, of which the first is filled.
      completion: template, see the module.
    Returns: ({"policy": batch}, state).

    Raises: ValueError for a field that a prompt does not have.
    """
    items = stream.take(prompts)
    texts = [[text] for (text,) in _filled(items, (completion,))]
    return {"policy": _external(tools, items, texts, group)}, state


def preferred(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    chosen: str = "{chosen}",
    rejected: str = "{rejected}",
    strength: str = "",
) -> tuple[tp.Any, tp.Any]:
    """Two completions of each prompt, of which the first is preferred.

    Columns beside the usual ones: preference [P,G] float32, 1 and 0, NaN in further slots; strength
    [P] float32, how clear the preference is.

    Args:
      stream, tools: as in `sample.on_policy`.  state: unused.
      group: slots of a block, at least 2.
      chosen, rejected: templates, see the module.  strength: a key of Prompt.meta; "": 1.
    Returns: ({"policy": batch}, state); a block of which a text is missing is empty.

    Raises: ValueError for group < 2, a field that a prompt does not have, or a strength that is no
      number.
    """
    _check_preferred(tools, group=group)
    items = stream.take(prompts)
    clear = [_strength(p, strength) if strength else 1.0 for p, _ in items]
    texts: Texts = []
    for pair, strong in zip(_filled(items, (chosen, rejected)), clear, strict=True):
        whole = strong is not None and all(_fits(tools, text) for text in pair)
        texts.append([*pair] if whole else [None, None])
    batch = _external(tools, items, texts, group)
    batch.table["preference"] = _better_first(prompts, group)
    batch.table["strength"] = np.asarray([x or 0.0 for x in clear], np.float32)
    return {"policy": batch}, state


def _strength(prompt: Prompt, key: str) -> float | None:
    """None where the file has null. Raises: ValueError."""
    value = prompt.meta.get(key, "")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(
            f"preferred strength: the prompt {prompt.id!r} has meta[{key!r}] = {value!r:.80}, "
            f"expected a number; keep the column with meta=({key!r},) in its task"
        )
    return float(value)


def _check_preferred(setup: tp.Any, *, group: int) -> None:
    """Raises: ValueError, see `preferred`."""
    _require("preferred", group, 2)


preferred.check = _check_preferred  # type: ignore[attr-defined]
preferred.columns = {  # type: ignore[attr-defined]
    "preference": ("PG", "f"),
    "strength": ("P", "f"),
}


def unpaired(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    chosen: str = "{chosen}",
    rejected: str = "{rejected}",
    label: str = "",
) -> tuple[tp.Any, tp.Any]:
    """One completion of each prompt, desirable or not, and a foreign one to measure a KL on.

    Columns beside the usual ones: preference [P,G] float32, 1 desirable, 0 not, NaN elsewhere.  The
    second slot, where there is one, has the completion of the next block: without a preference, not
    trained (train_mask), read by `rewards.models.kl_baseline`.

    Args:
      stream, tools: as in `sample.on_policy`.  state: unused.
      group: slots of a block; 1: no foreign completion.
      chosen, rejected: templates of desirable and of other completions, see the module.  A file of
        labelled completions has the same one for both.
      label: a key of Prompt.meta, true: desirable; "": chosen and rejected
        in turn, block after block.
    Returns: ({"policy": batch}, state).

    Raises: ValueError for a field that a prompt does not have, or a label that is not true, false,
      1 or 0.

    Reference: Ethayarajh et al., "KTO", arXiv:2402.01306.
    """
    items = stream.take(prompts)
    good = [_label(p, label) if label else i % 2 == 0 for i, (p, _) in enumerate(items)]
    pairs = _filled(items, (chosen, rejected))
    own = [pair[0] if yes else pair[1] for pair, yes in zip(pairs, good, strict=True)]
    foreign = [own[(i + 1) % prompts] if prompts > 1 else None for i in range(prompts)]
    texts = [list(row)[:group] for row in zip(own, foreign, strict=True)]
    batch = _external(tools, items, texts, group)
    batch.table["preference"] = np.full((prompts, group), np.nan, np.float32)
    batch.table["preference"][:, 0] = good
    batch.table["train_mask"][:, 1:] = False
    return {"policy": batch}, state


def _label(prompt: Prompt, label: str) -> bool:
    value = prompt.meta.get(label)
    if value not in (0, 1):  # "false" would be true
        raise ValueError(
            f"unpaired label: the prompt {prompt.id!r} has meta[{label!r}] = {value!r:.80}, "
            "expected true, false, 1 or 0"
        )
    return bool(value)


unpaired.columns = {"preference": ("PG", "f")}  # type: ignore[attr-defined]


def best_worst(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    samples: int = 0,
    verifier: str = "",
) -> tuple[tp.Any, tp.Any]:
    """Pairs of the policy's own completions: of several samples the best and the worst.

    A prompt whose samples are all judged alike leaves an empty block.  Columns beside the usual
    ones: preference [P,G] float32, 1 and 0, NaN in further slots.  Counted with the outcomes:
    pairs/made, pairs/tied.

    Args:
      stream, tools: as in `sample.on_policy`.  state: unused.
      group: slots of a block, at least 2.
      samples: completions that are drawn and judged; 0: `group`.
      verifier: whose score counts; "": that of the only one.
    Returns: ({"policy": batch}, state); rows have origin 0.

    Raises: ValueError for group or samples below 2, or several verifiers of which none is named.

    Reference: Pang et al., "Iterative Reasoning Preference Optimization", arXiv:2404.19733.
    """
    name = _check_best_worst(tools, group=group, samples=samples, verifier=verifier)
    samples = samples or group
    batch = tools.verify(tools.generate(stream.take(prompts), group=samples, step=step))
    score = batch.table[f"verdict/{name}"]
    known = batch.table["row_mask"] & ~np.isnan(score)
    high, low = np.where(known, score, -np.inf), np.where(known, score, np.inf)
    two = np.stack([high.argmax(1), low.argmin(1)], axis=1)
    differ = high.max(1) > low.min(1)
    rows, outcomes = _rows(batch, two), batch.outcomes
    kept = tools.take_blocks(rows, [i if yes else -1 for i, yes in enumerate(differ)])
    kept = tools.widen(kept, group)
    kept.table["preference"] = _better_first(prompts, group)
    kept.outcomes.update(outcomes)
    kept.outcomes["pairs/made"] = int(differ.sum())
    kept.outcomes["pairs/tied"] = int((~differ).sum())
    shown = {(int(i), int(j)) for i in np.flatnonzero(differ) for j in two[i]}
    kept.left_out = tools.outcomes_of(batch, set(np.ndindex(*score.shape)) - shown)
    return {"policy": kept}, state


def _check_best_worst(setup: tp.Any, *, group: int, samples: int, verifier: str) -> str:
    """The verifier's name. Raises: ValueError, see `best_worst`."""
    _require("best_worst", min(group, samples or group), 2)
    return verdict_name(setup, verifier, "best_worst")


best_worst.check = _check_best_worst  # type: ignore[attr-defined]
best_worst.columns = {"preference": ("PG", "f")}  # type: ignore[attr-defined]


def _require(what: str, got: int, least: int) -> None:
    if got < least:
        raise ValueError(
            f"{what}: got {got} completions a block, expected at least {least}; set "
            f"config.rollout.group (or samples) to {least} or more"
        )


def _better_first(prompts: int, group: int) -> np.ndarray:
    """[P,G]: 1, 0 and NaN behind them."""
    out = np.full((prompts, group), np.nan, np.float32)
    out[:, :2] = (1.0, 0.0)
    return out


def _rows(batch: tp.Any, index: np.ndarray) -> tp.Any:
    """The batch with some rows of each block, [P,2] indices."""
    samples = batch.table["row_mask"].shape[1]
    table = dict(batch.table)
    for name, column in table.items():
        if column.shape[1:2] == (samples,) and not name.startswith("prompt_"):
            at = index.reshape(*index.shape, *(1,) * (column.ndim - 2))
            table[name] = np.take_along_axis(column, at, axis=1)
    pick = lambda rows: [[row[j] for j in js] for row, js in zip(rows, index, strict=True)]  # noqa: E731
    text = dataclasses.replace(
        batch.text,
        completions=pick(batch.text.completions),
        verdicts=pick(batch.text.verdicts),
    )
    return dataclasses.replace(batch, table=table, text=text)


def _filled(items: Items, templates: tuple[str, ...]) -> list[tuple[str | None, ...]]:
    """Each prompt's texts; None where there is no {other} answer."""
    out = []
    for i, (prompt, _) in enumerate(items):
        around = [p.answer for p, _ in items[i + 1 :] + items[:i] if p.answer != prompt.answer]
        known = {**prompt.meta, "question": prompt.question, "answer": prompt.answer}
        known["other"] = around[0] if around else None
        nulls = {k for k, v in prompt.meta.items() if v is None} | {"other"}
        out.append(tuple(_fill(template, known, prompt.id, nulls) for template in templates))
    return out


def _fill(template: str, known: dict[str, tp.Any], prompt_id: str, nulls: set[str]) -> str | None:
    """None where a field of `nulls` is. Raises: ValueError for one unknown, or that is no text."""
    values = {}
    for name in _FIELD.findall(template):
        if name not in known:
            raise ValueError(
                f"pairs: the template {template!r} asks for {name!r}, the prompt {prompt_id!r} has "
                f"{sorted(known)}; keep the column with meta=({name!r},) in its task"
            )
        value = known[name]
        if value is None and name in nulls:
            return None
        if isinstance(value, list) and value and isinstance(value[-1], dict):
            value = value[-1].get("content")
        if not isinstance(value, str | int | float):
            raise ValueError(
                f"pairs: {name!r} of the prompt {prompt_id!r} is {value!r:.80}, expected a text or "
                "a list of messages"
            )
        values[name] = str(value)
    return _FIELD.sub(lambda match: values[match[1]], template)


def _encode(tools: tp.Any, text: str) -> list[int]:
    return [*tools.tokenizer.encode(text), tools.tokenizer.eos_ids[0]]


def _fits(tools: tp.Any, text: str | None) -> bool:
    return text is not None and len(_encode(tools, text)) <= tools.width


def _external(tools: tp.Any, items: Items, texts: Texts, group: int) -> tp.Any:
    """A batch of these completions, None or one that does not fit: an empty slot."""
    rows, missing = [], 0
    for i, (prompt, _) in enumerate(items):
        shared = {
            "block": i,
            "id": prompt.id,
            "answer": prompt.answer,
            "prompt_id": stable_id(prompt.id),
            "prompt": tools.tokenizer.render(list(prompt.messages)),
            "prompt_tokens": tools.encode(prompt),
            "temperature": 1.0,
            "truncated": False,
            "verdicts": {},
            "outcomes": {},
        }
        fit = [text if _fits(tools, text) else None for text in texts[i]]
        missing += fit.count(None)
        for j, text in enumerate(fit + [None] * (group - len(fit))):
            tokens = [] if text is None else _encode(tools, text)
            own = {
                "sample": j,
                "completion": text or "",
                "tokens": tokens,
                "loss_mask": [True] * len(tokens),
                "sampler_logp": [0.0] * len(tokens),
                "row_mask": bool(tokens),
                "origin": ORIGIN if tokens else 0,
            }
            rows.append(shared | own)
    batch = tools.from_rows(rows)
    batch.text.prompts = [prompt for prompt, _ in items]
    batch.table["sampler_logp"] = np.array(tools.score(batch.table)["logp"])
    batch.outcomes["pairs/rows"] = int(batch.table["row_mask"].sum())
    batch.outcomes["pairs/missing"] = missing
    return batch
