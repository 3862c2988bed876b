"""MRT: what the policy would answer if its thought were ended after each episode of it."""

from __future__ import annotations

import typing as tp

import numpy as np

from rlpt.rollouts import _hints


def episodes(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    termination: str,
    most: int = 4,
    tokens: int = 0,
    separator: str = "\n\n",
    samples: int = 2,
    answer_tokens: int = 8,
    verifier: str = "",
) -> tuple[tp.Any, tp.Any]:
    """On-policy completions, with the success of forced endings after each of their episodes.

    Behind the first episodes of a completion, `termination` is appended and `samples` short
    answers are drawn; the mean verdict of prompt + episodes + termination + answer is the value
    of having thought so far.  The forced answers are measurements: none of them is trained.

    Columns beside the usual ones: start_value [P,G] float32, the value before the first episode,
    shared by a prompt's rows; episode_value [P,G,T] float32, at the last token of each episode its
    value; step_id [P,G,T] int32, the episode, from 0, that a token belongs to, -1 behind the last
    that was measured.  Values are NaN where there are none: inside an episode, behind the last,
    where the ending fits no bucket or no answer has a verdict.  Counted with the outcomes:
    mrt/endings and mrt/answer_tokens.

    Args:
      stream, tools: as in `sample.on_policy`.  state: unused.
      termination: text that ends the thought and asks for the answer.
      most: episodes of a completion that are measured, at most.
      tokens: the length of an episode; 0: an episode ends with `separator`.
      samples: answers of each ending.  answer_tokens: of an answer, at most.
      verifier: whose score is the value; "": that of the only one.
    Returns: ({"policy": batch}, state).

    Raises: ValueError for an unknown verifier, or none named of several, or numbers below 1.

    Reference: Qu et al., "Optimizing Test-Time Compute via Meta Reinforcement Fine-Tuning",
    arXiv:2503.07572.  Differs from it in: episodes end at a separator or a length, wherever the
    completion has its answer.
    """
    name = _check(
        tools, most=most, tokens=tokens, samples=samples, answer_tokens=answer_tokens,
        verifier=verifier,
    )  # fmt: skip
    column = f"verdict/{name}"
    items = stream.take(prompts)
    batch = tools.verify(tools.generate(items, group=group, step=step))
    table = batch.table
    ending = tools.tokenizer.encode(termination)
    longest = min(tools.contexts[-1], tools.model.max_positions - answer_tokens)
    room = [longest - len(tools.encode(prompt)) for prompt, _ in items]
    start_value = np.full((prompts, group), np.nan, np.float32)
    value = np.full(table["completion_mask"].shape, np.nan, np.float32)
    step_id = np.full(value.shape, -1, np.int32)
    # (prompt, row, episodes, prefix)
    wanted = [(i, 0, 0, ending) for i in range(prompts) if len(ending) <= room[i]]
    for i, j in np.ndindex(prompts, group):
        row = table["completion_tokens"][i, j][table["completion_mask"][i, j]].tolist()
        start = 0
        for e, end in enumerate(_ends(tools, row, most, tokens, separator)):
            if end + len(ending) <= room[i]:
                wanted.append((i, j, e + 1, row[:end] + ending))
                step_id[i, j, start:end] = e
                start = end
    at_once = max(1, prompts * group // samples)  # as many rows as in the batch itself
    for lot in range(0, len(wanted), at_once):
        part = wanted[lot : lot + at_once]
        empty = at_once - len(part)
        forced = tools.verify(
            tools.generate(
                [items[i] for i, *_ in part] + [None] * empty,
                group=samples,
                step=step,
                attempt=1,
                first_sample=[(j * most + e) * samples for _, j, e, _ in part] + [0] * empty,
                prefixes=[prefix for *_, prefix in part] + [[]] * empty,
                max_tokens=answer_tokens,
            )
        )
        for b, (i, j, e, _) in enumerate(part):
            known = forced.table[column][b][forced.table["row_mask"][b]]
            known = known[~np.isnan(known)]
            mean = known.mean() if len(known) else np.nan
            if e:
                value[i, j, np.flatnonzero(step_id[i, j] == e - 1)[-1]] = mean
            else:
                start_value[i] = mean
        batch.outcomes["mrt/endings"] += len(part)
        batch.outcomes["mrt/answer_tokens"] += int(forced.table["completion_mask"].sum())
    table |= {"start_value": start_value, "episode_value": value, "step_id": step_id}
    return {"policy": batch}, state


def _check(
    setup: tp.Any, *, most: int, tokens: int, samples: int, answer_tokens: int, verifier: str
) -> str:
    """The verifier's name. Raises: ValueError, see `episodes`."""
    if min(most, samples, answer_tokens) < 1 or tokens < 0:
        raise ValueError(
            f"episodes: got most={most}, tokens={tokens}, samples={samples}, "
            f"answer_tokens={answer_tokens}; expected positive numbers (tokens may be 0)"
        )
    return _hints.verdict_name(setup, verifier, "episodes")


episodes.check = _check  # type: ignore[attr-defined]
episodes.columns = {  # type: ignore[attr-defined]
    "start_value": ("PG", "f"),
    "episode_value": ("PGT", "f"),
    "step_id": ("PGT", "i"),
}


def _ends(tools: tp.Any, row: list[int], most: int, tokens: int, separator: str) -> list[int]:
    """Where the first episodes of a completion end, before its own end."""
    if tokens:
        return list(range(tokens, len(row), tokens))[:most]
    ends = [tools.tokens_until(row, (separator,), n + 1) for n in range(most)]
    return sorted({end for end in ends if end is not None and end < len(row)})
