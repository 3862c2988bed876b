"""Groups in which some completions are external text: worked solutions from a file."""

from __future__ import annotations

import functools
import json
import pathlib
import typing as tp

import numpy as np

ORIGIN = 3  # external text


def inject(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    path: str = "",
    count: int = 1,
    template: str = "{answer}",
) -> tuple[tp.Any, tp.Any]:
    """On-policy groups whose last `count` completions give way to solutions of the prompt.

    A solution is encoded as a completion with an end token, judged like any other, trained whole,
    and has origin 3.  The law that it was drawn from is unknown: its sampler_logp is the policy's
    own log-prob of it, and with no old_logp in the table the learner takes the policy's too, as
    the surrogate of RL-PLUS expects.  A prompt with fewer solutions that fit keeps more rows of
    its own.

    Counted with the outcomes: experts/rows, experts/missing (slots that no solution took) and
    experts/too_long (solutions that do not fit the largest bucket).

    Args:
      stream, tools: as in `sample.on_policy`.  state: unused.
      path: JSON lines {"id": the prompt's id, "solution": text}; several of a prompt are taken in
        turn, time after time.  "": the one solution is the reference answer of the task.
      count: rows that give way, < group.
      template: the solution where there is no file, with {answer} for the reference answer.
    Returns: ({"policy": batch}, state).

    Raises: ValueError for a count outside 1..group - 1, or a file that is not as above.

    Reference: Dong et al., "RL-PLUS", arXiv:2508.00222 (one external row of eight).
    """
    _check(tools, group=group, path=path, count=count)
    items = stream.take(prompts)
    batch = tools.generate(items, group=group, step=step)
    table = batch.table
    for i, (prompt, occurrence) in enumerate(items):
        known = (
            read(path).get(prompt.id, [])
            if path
            else [template.replace("{answer}", str(prompt.answer))] * (prompt.answer is not None)
        )
        rows = [tools.tokenizer.encode(x) + [tools.tokenizer.eos_ids[0]] for x in known]
        fit = [n for n, row in enumerate(rows) if len(row) <= tools.width]
        turn = occurrence * count
        chosen = [fit[(turn + n) % len(fit)] for n in range(min(count, len(fit)))]
        for j, n in enumerate(chosen, start=group - len(chosen)):
            length = len(rows[n])
            for name in ("completion_mask", "loss_mask"):
                table[name][i, j] = np.arange(tools.width) < length
            table["completion_tokens"][i, j] = tools.tokenizer.pad_id
            table["completion_tokens"][i, j, :length] = rows[n]
            table["truncated"][i, j], table["origin"][i, j] = False, ORIGIN
            batch.text.completions[i][j] = tools.tokenizer.decode(rows[n])
        batch.outcomes["experts/rows"] += len(chosen)
        batch.outcomes["experts/missing"] += count - len(chosen)
        batch.outcomes["experts/too_long"] += len(rows) - len(fit)
    external = (table["origin"] == ORIGIN)[..., None]
    table["sampler_logp"] = np.where(external, tools.score(table)["logp"], table["sampler_logp"])
    return {"policy": tools.verify(batch)}, state


def _check(setup: tp.Any, *, group: int, path: str, count: int) -> None:
    """Raises: ValueError, see `inject`; OSError for a file that cannot be read."""
    if not 1 <= count < group:
        raise ValueError(f"inject: got count={count}, expected 1 to group - 1 = {group - 1}")
    if path:
        read(path)


inject.check = _check  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=4)
def read(path: str) -> dict[str, list[str]]:
    """The solutions of each prompt id in a file, in order; see `inject`. Raises: ValueError."""
    found: dict[str, list[str]] = {}
    for number, line in enumerate(pathlib.Path(path).read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            key, text = row["id"], row["solution"]
        except (ValueError, KeyError, TypeError) as e:
            raise ValueError(
                f"{path}, line {number}: got {line[:60]!r}, expected "
                f'{{"id": prompt id, "solution": text}} ({type(e).__name__}: {e})'
            ) from e
        if not (isinstance(key, str) and isinstance(text, str) and text):
            raise ValueError(f"{path}, line {number}: id and solution must be strings, not empty")
        found.setdefault(key, []).append(text)
    if not found:
        raise ValueError(f"{path}: no solutions; expected JSON lines with id and solution")
    return found
