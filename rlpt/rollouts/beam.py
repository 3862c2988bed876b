"""Completions that are searched for step by step, by what a process reward model says of them."""

from __future__ import annotations

import collections.abc
import dataclasses
import typing as tp

import numpy as np

from rlpt import search
from rlpt.rollouts._onward import onward, tokens


@dataclasses.dataclass(frozen=True)
class Beam:
    """A beginning of a completion, or a whole one.

    at: (block, slot).  logp: of its tokens, as drawn.  scores: of its steps.  over: it ended.
    """

    at: tuple[int, int]
    tokens: tuple[int, ...] = ()
    logp: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    text: str = ""
    over: bool = False
    truncated: bool = False


def steps(
    stream: tp.Any,
    tools: tp.Any,
    state: tp.Any,
    step: int,
    *,
    prompts: int,
    group: int,
    by: str = "",
    sign: float = 1.0,
    expand: int = 4,
    separator: str = "\n\n",
    rounds: int = 40,
    aggregate: str = "last",
    diverse: bool = False,
    lookahead: int = 0,
) -> tuple[tp.Any, tp.Any]:
    """Beam search over steps: `group` beams of every prompt, whose rows are what it finds.

    In each round every beam goes on by one step, which ends behind `separator`, and is scored.
    Those that have ended are put aside; of the others, without duplicates, the group / expand best
    are kept and each goes on in turn until there are `group` again.  In the last round they go on
    to their end.  The rows of a prompt are its ended beams, best first, at most `group`, those of
    a search again where they are fewer.  A prompt is done when it has `group` of them.

    With expand=1 nothing is chosen, and the rows are `group` plain samples; with expand=group the
    one best beginning goes on.  sampler_logp is that of the draws: that a row was chosen among
    others is not in it.

    Columns beside the usual ones: beam_score [P,G] float32.  Counted with the outcomes: beam/steps
    (those drawn) and beam/rounds.

    Args:
      stream, tools: as in `sample.on_policy`.  state: unused.
      by: the verifier of the config that judges a beginning as it judges a completion, such as a
        process reward model at an endpoint; no score is the worst.  "": the mean log-prob of its
        tokens.
      sign: times the score; -1 for a verifier whose low scores are good.
      expand: how many ways a kept beginning goes on, a divisor of group, or more than that.
      rounds: at most.
      aggregate: of the scores of a beginning's steps: min, prod, last or mean.
      diverse: group / expand searches of `expand` beams each, of which one is kept, beside each
        other (diverse verifier tree search).
      lookahead: `by` judges a beginning with so many further steps, which are greedy and not kept.
    Returns: ({"policy": batch}, state).

    Raises: ValueError for numbers that do not fit together.

    Reference: Snell et al., "Scaling LLM Test-Time Compute Optimally", arXiv:2408.03314; DVTS and
    defaults as in Hugging Face's search-and-learn.  Differs from it in: a search ends when it has
    as many ended beams as it returns.
    """
    items = stream.take(prompts)
    batch = complete(
        tools, items, group=group, step=step, by=by, sign=sign, expand=expand, separator=separator,
        rounds=rounds, aggregate=aggregate, diverse=diverse, lookahead=lookahead,
    )  # fmt: skip
    return {"policy": tools.verify(batch)}, state


def _check(
    setup: tp.Any,
    *,
    group: int,
    by: str,
    sign: float,
    expand: int,
    separator: str,
    rounds: int,
    aggregate: str,
    lookahead: int,
) -> None:
    """Raises: ValueError, see `steps`."""
    if by:
        setup.need_verifier(by, "steps by")
    if (
        min(expand, rounds) < 1
        or group % min(expand, group)
        or lookahead < 0
        or not separator
        or aggregate not in search.AGGREGATES
        or (aggregate == "prod" and not (by and sign > 0))
    ):
        raise ValueError(
            f"steps: got group={group}, expand={expand}, rounds={rounds}, lookahead={lookahead}, "
            f"separator={separator!r}, aggregate={aggregate!r}; expected group a multiple of "
            "expand, rounds >= 1, lookahead >= 0, a separator that is not empty, and aggregate one "
            f"of {', '.join(search.AGGREGATES)} (prod of scores >= 0 only: with by, and sign > 0)"
        )


steps.columns = {"beam_score": ("PG", "f")}  # type: ignore[attr-defined]
steps.check = _check  # type: ignore[attr-defined]


def complete(
    tools: tp.Any,
    items: collections.abc.Sequence[tp.Any],
    *,
    group: int,
    step: int,
    purpose: int = 0,
    temperature: float | None = None,
    by: str = "",
    sign: float = 1.0,
    expand: int = 4,
    separator: str = "\n\n",
    rounds: int = 40,
    aggregate: str = "last",
    diverse: bool = False,
    lookahead: int = 0,
) -> tp.Any:
    """The batch of `steps` for given items (None: an empty block), not verified.

    Raises: ValueError, see `steps`.
    """
    _check(
        tools, group=group, by=by, sign=sign, expand=expand, separator=separator, rounds=rounds,
        aggregate=aggregate, lookahead=lookahead,
    )  # fmt: skip
    expand = min(expand, group)
    size = expand if diverse else group  # beams of one search
    keep = size // expand
    draw = dict(step=step, purpose=purpose, temperature=temperature)
    until = (separator,) if rounds > 1 else ()
    batch = tools.generate(items, group=group, until=until, **draw)
    counts = batch.outcomes
    slots = [(i, j) for i, item in enumerate(items) if item for j in range(group)]
    active = [_longer(tools, Beam(at), batch, at, until) for at in slots]
    ended: dict[tuple[int, int], list[Beam]] = {(i, j // size): [] for i, j in slots}
    for number in range(1, rounds + 1):
        counts["beam/steps"] += len(active)
        counts["beam/rounds"] = number
        values = _values(tools, items, active, by, sign, lookahead, separator, draw)
        active = [
            dataclasses.replace(beam, scores=(*beam.scores, value))
            for beam, value in zip(active, values, strict=True)
        ]
        going = []
        for (i, tree), done in ended.items():
            own = [b for b in active if (b.at[0], b.at[1] // size) == (i, tree)]
            done += [b for b in own if b.over]
            own = [b for b in own if not b.over]
            if len(done) >= size or not own:
                continue
            if expand > 1:
                scores = [search.aggregate(b.scores, aggregate) for b in own]
                kept = search.survivors(scores, [b.tokens for b in own], keep)
                places = search.repeated(len(kept), size)
                own = [
                    dataclasses.replace(own[kept[place]], at=(i, tree * size + slot))
                    for slot, place in enumerate(places)
                ]
            going += own
        if not going:
            break
        until = (separator,) if number < rounds - 1 else ()
        new = onward(
            tools, items, [b.at for b in going], [list(b.tokens) for b in going],
            attempt=number if expand > 1 else 0,  # what was not chosen goes on as it would have
            until=until, **draw,
        )  # fmt: skip
        active = [_longer(tools, b, new, (k, 0), until) for k, b in enumerate(going)]
    batch.table["beam_score"] = np.zeros(batch.table["row_mask"].shape, np.float32)
    rows: dict[int, list[tuple[float, Beam]]] = {}
    for (i, _), done in ended.items():
        values = [search.aggregate(b.scores, aggregate) for b in done]
        best = search.best(values, size)
        rows.setdefault(i, []).extend(
            (values[best[k]], done[best[k]]) for k in search.repeated(len(best), size)
        )
    for i, found in rows.items():  # of all searches of a prompt, best first
        for slot, (value, beam) in enumerate(sorted(found, key=lambda row: -row[0])):
            _enter(batch, (i, slot), beam, value, tools.tokenizer.pad_id)
    return batch


steps.complete = complete  # type: ignore[attr-defined]  # for evaluation
complete.ranked = True  # type: ignore[attr-defined]  # best first


def _longer(
    tools: tp.Any, beam: Beam, batch: tp.Any, at: tuple[int, int], until: tuple[str, ...]
) -> Beam:
    """A beam with the tokens of a row of a batch behind its own, which was drawn `until` there."""
    own = tokens(batch.table, *at)
    whole = (*beam.tokens, *own)
    stops = tuple(tools.sampling.stop_strings)
    goes_on = any(s in tools.tokenizer.decode(own) for s in until) and not (
        stops and tools.tokens_until(whole, stops) is not None
    )
    full = goes_on and len(whole) >= tools.width
    return dataclasses.replace(
        beam,
        tokens=whole,
        logp=(*beam.logp, *batch.table["sampler_logp"][at][: len(own)].tolist()),
        text=batch.text.completions[at[0]][at[1]],
        over=full or not goes_on,
        truncated=full or bool(batch.table["truncated"][at]),
    )


def _values(
    tools: tp.Any,
    items: collections.abc.Sequence[tp.Any],
    beams: list[Beam],
    by: str,
    sign: float,
    lookahead: int,
    separator: str,
    draw: dict[str, tp.Any],
) -> list[float]:
    """What each beam is worth."""
    ahead = list(beams)
    for _ in range(lookahead):
        open_ = [k for k, b in enumerate(ahead) if not b.over]
        if not open_:
            break
        new = onward(
            tools, items, [ahead[k].at for k in open_], [list(ahead[k].tokens) for k in open_],
            until=(separator,), **draw | dict(temperature=0.0),
        )  # fmt: skip
        for n, k in enumerate(open_):
            ahead[k] = _longer(tools, ahead[k], new, (n, 0), (separator,))
    if not by:  # of what was drawn: steps that are looked ahead are greedy, and say nothing here
        return [sign * float(np.mean(b.logp)) for b in beams]
    said = tools.ask(by, [b.text for b in ahead], [items[b.at[0]][0] for b in ahead])
    return [-np.inf if v.score is None else sign * v.score for v in said]


def _enter(batch: tp.Any, at: tuple[int, int], beam: Beam, value: float, pad: int) -> None:
    """Writes a beam into a row of the batch."""
    table, n = batch.table, len(beam.tokens)
    for name, own, empty in (
        ("completion_tokens", beam.tokens, pad),
        ("sampler_logp", beam.logp, 0),
        ("completion_mask", True, False),
        ("loss_mask", True, False),
    ):
        table[name][at][:] = empty
        table[name][at][:n] = own
    table["truncated"][at] = beam.truncated
    table["beam_score"][at] = value
    batch.text.completions[at[0]][at[1]] = beam.text
