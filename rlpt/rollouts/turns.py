"""Completions in several turns: the policy calls a tool, and goes on from what the tool says.

What the policy sampled is kept token by token; only what the tool says is tokenised, by itself.  It
is attended to like any token of the row, and has no loss.
"""

from __future__ import annotations

import collections.abc
import typing as tp

import numpy as np

from rlpt.rollouts._onward import onward, tokens


def with_tool(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    tool: str,
    opening: str = "<<",
    closing: str = ">>",
    reply: str = " = {}",
    turns: int = 4,
    longest: int = 200,
    answer: str = "{answer}",
    width: int = 8,
) -> tuple[tp.Any, tp.Any]:
    """On-policy completions that may call a tool up to `turns` times each.

    A turn ends behind the token that completes `closing`; what stands between the turn's last
    `opening` and that is the call, so choose a closing that is not written otherwise.  The verifier
    `tool` of the config answers it, in the pool, and `reply` with {} for its answer is appended to
    the row; an answer that is not correct begins with "error: ".  Behind the last call the row goes
    on to its end, with what is left of the largest completion bucket for all its turns together;
    where that has no room for the answer and a token, it ends there, truncated, and where one of
    the stop strings would come about, it just ends.

    Columns beside the usual ones: step_id [P,G,T] int32, the turn of a sampled token, from 0, -1
    for others; tool_calls and tool_errors [P,G] int32; answer_tokens [P,A] int32, answer_mask [P,A]
    bool, the reference answer, which `scorers.answers.information_gain` reads, empty where there is
    none or it does not fit.  Counted with the outcomes: tool/calls, tool/errors, tool/unheard
    (calls behind which the row ends) and tool/no_answer (blocks without a reference).

    Args:
      stream, tools: as in `sample.on_policy`.  state: unused.
      tool: name of a verifier of the config, such as one of `verifiers.calculator.calculator` or
        `verifiers.interpreter.python`.
      opening: "": all that the turn has before `closing` is the call.
      turns: calls of a row, at most.
      longest: characters of an answer of the tool that are shown.
      answer: how the reference answer is written, with {answer} for it.
      width: A, tokens.
    Returns: ({"policy": batch}, state).

    Raises: ValueError for settings that cannot work.

    Reference: Li et al., "ToRL", arXiv:2503.23383, and Feng et al., "ReTool", arXiv:2504.11536
    (rows with a tool, whose output is masked).
    """
    items = stream.take(prompts)
    batch = complete(
        tools, items, group=group, step=step, tool=tool, opening=opening, closing=closing,
        reply=reply, turns=turns, longest=longest,
    )  # fmt: skip
    references = _references(tools, items, answer, width)
    batch.table |= references
    batch.outcomes["tool/no_answer"] = int((~references["answer_mask"].any(1)).sum())
    return {"policy": tools.verify(batch)}, state


def _check(setup: tp.Any, *, tool: str, closing: str, reply: str, turns: int, longest: int) -> None:
    """Raises: ValueError, see `with_tool`."""
    setup.need_verifier(tool, "with_tool tool")
    if not closing or turns < 0 or longest < 1 or reply.count("{}") != 1:
        raise ValueError(
            f"with_tool: got closing={closing!r}, reply={reply!r}, turns={turns}, longest={longest}"
            "; expected a closing that is not empty, one {} in the reply, turns >= 0, longest >= 1"
        )
    if clash := [s for s in setup.sampling.stop_strings if s in closing + reply]:
        raise ValueError(
            f"with_tool: the stop strings {clash} are in closing={closing!r} or reply={reply!r}, "
            "so that every row would end at its first call; change one of them"
        )


with_tool.check = _check  # type: ignore[attr-defined]
with_tool.columns = {  # type: ignore[attr-defined]
    "step_id": ("PGT", "i"),
    "tool_calls": ("PG", "i"),
    "tool_errors": ("PG", "i"),
    "answer_tokens": ("PA", "i"),
    "answer_mask": ("PA", "b"),
}


def complete(
    tools: tp.Any,
    items: collections.abc.Sequence[tp.Any],
    *,
    group: int,
    step: int,
    purpose: int = 0,
    temperature: float | None = None,
    tool: str,
    opening: str = "<<",
    closing: str = ">>",
    reply: str = " = {}",
    turns: int = 4,
    longest: int = 200,
) -> tp.Any:
    """The batch of `with_tool` for given items (None: an empty block), not verified.

    Raises: ValueError, see `with_tool`.
    """
    _check(tools, tool=tool, closing=closing, reply=reply, turns=turns, longest=longest)
    stops = tuple(tools.sampling.stop_strings)
    ask = dict(step=step, purpose=purpose, temperature=temperature)
    batch = tools.generate(items, group=group, until=(closing,) if turns else (), **ask)
    table, counts = batch.table, batch.outcomes
    width = table["completion_mask"].shape[-1]
    table["step_id"] = np.where(table["completion_mask"], 0, -1).astype(np.int32)
    for name in ("tool_calls", "tool_errors"):
        table[name] = np.zeros(table["row_mask"].shape, np.int32)
    rows = [(i, j) for i, j in np.ndindex(*table["row_mask"].shape) if table["row_mask"][i, j]]
    for turn in range(1, turns + 1):
        spoken = [(at, tools.tokenizer.decode(_turn(table, at, turn - 1))) for at in rows]
        calls = [(at, text.partition(closing)[0]) for at, text in spoken if closing in text]
        said = tools.ask(
            tool,
            [text.rpartition(opening)[2] if opening else text for _, text in calls],
            [items[i][0] for (i, _), _ in calls],
        )
        rows = []
        for (at, _), verdict in zip(calls, said, strict=True):
            wrong = verdict.outcome != "correct"
            table["tool_calls"][at] += 1
            table["tool_errors"][at] += wrong
            text = ("error: " if wrong else "") + (verdict.detail or verdict.outcome)[:longest]
            answer = _plain(tools, reply.replace("{}", text))
            whole = [*tokens(table, *at), *answer]
            if stops and tools.tokens_until(whole, stops) is not None:
                continue
            if len(whole) < width:
                _append(table, at, answer, -1)
                rows.append(at)
            else:
                table["truncated"][at] = True
        counts["tool/calls"] += len(calls)
        counts["tool/errors"] += sum(v.outcome != "correct" for v in said)
        counts["tool/unheard"] += len(calls) - len(rows)
        if not rows:
            break
        new = onward(
            tools, items, rows, [tokens(table, *at) for at in rows], attempt=turn,
            until=(closing,) if turn < turns else (), **ask,
        )  # fmt: skip
        for b, (i, j) in enumerate(rows):
            own = tokens(new.table, b, 0)
            _append(table, (i, j), own, turn, new.table["sampler_logp"][b, 0, : len(own)])
            table["truncated"][i, j] = new.table["truncated"][b, 0]
            batch.text.completions[i][j] = new.text.completions[b][0]
    return batch


with_tool.complete = complete  # type: ignore[attr-defined]  # for evaluation


def _turn(table: tp.Any, at: tuple[int, int], turn: int) -> list[int]:
    """The tokens of a row that were sampled in a turn."""
    return table["completion_tokens"][at][table["step_id"][at] == turn].tolist()


def _append(
    table: tp.Any, at: tuple[int, int], new: list[int], turn: int, logp: tp.Any = 0.0
) -> None:
    """Tokens behind a row's last: sampled in a turn >= 0, or, with -1, said by the tool."""
    start = len(tokens(table, *at))
    where = slice(start, start + len(new))
    table["completion_tokens"][at][where] = new
    table["completion_mask"][at][where] = True
    table["loss_mask"][at][where] = turn >= 0
    table["sampler_logp"][at][where] = logp
    table["step_id"][at][where] = turn


def _plain(tools: tp.Any, text: str) -> list[int]:
    """The tokens of a text without special tokens, which the tool has no right to say."""
    decode = tools.tokenizer.decode
    ids = tools.tokenizer.encode(text.encode("utf-8", "replace").decode())  # no lone surrogates
    return [t for t in ids if decode([t]) == decode([t], skip_special=False)]


def _references(
    tools: tp.Any, items: collections.abc.Sequence[tp.Any], template: str, width: int
) -> dict[str, np.ndarray]:
    """answer_tokens and answer_mask of `with_tool`."""
    ids = np.full((len(items), width), tools.tokenizer.pad_id, np.int32)
    mask = np.zeros((len(items), width), bool)
    for i, (prompt, _) in enumerate(items):
        text = template.replace("{answer}", str(prompt.answer))
        own = tools.tokenizer.encode(text) if prompt.answer is not None else []
        if len(own) <= width:
            ids[i, : len(own)], mask[i, : len(own)] = own, True
    return {"answer_tokens": ids, "answer_mask": mask}
