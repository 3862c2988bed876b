"""Rubrics: what a completion should do, criterion by criterion, as one score.

A criterion is judged by a model (`verifiers.judge`, with all its bounds, its cache and its ways to
fail) or by a program, which is another verifier.  What a completion does wrong lowers its score;
what the judge does wrong is no score.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import hashlib
import re
import typing as tp

from rlpt import config
from rlpt.tasks import base as tasks_base
from rlpt.verifiers import base
from rlpt.verifiers import judge as judge_lib

# The paper's; a pitfall is worded as what a good answer does ("does not ...").
WEIGHTS = {"Essential": 1.0, "Important": 0.7, "Optional": 0.3, "Pitfall": 0.9}
MOST = 64  # criteria of a rubric; the marks of all of them fit a verdict's detail

MEETS = (
    "Decide whether the candidate answer meets the one criterion below, whatever else is good or "
    'bad about it. "correct" is true if it does, and false if it does not or only claims to.'
)
RATES = (
    "Rate how well the candidate answer as a whole meets the criteria below, from {low:g} (none of "
    "them) to {high:g} (all of them). Criteria of more weight count more."
)
PREFERS = (
    "The candidate answer below holds two answers to the question, A and B, each between two lines "
    "with the same number, which neither of them can hold. Compare them{by}. The score is how sure "
    "you are that A is the better one: 0 if B surely is, 5 if they are equally good, 10 if A is."
)

_KEY = "criteria"  # of the meta of the prompts that the judge gets
_OWN = ("criteria", "rubric", "form", "low", "high", "threshold", "api_key_env")


@dataclasses.dataclass(frozen=True)
class Item:
    """A criterion.

    Attributes:
      text: what a good answer does.
      weight: counts towards the score if met; below 0: what it should not do (HealthBench).
      veto: an answer that does not meet it gets no more than the cap, whatever else it does; one
        of weight below 0 caps the answers that do what it says.
      program: {"fn": a verifier of one row, its settings}; {}: the judge decides.
    """

    text: str
    weight: float = 1.0
    veto: bool = False
    program: collections.abc.Mapping[str, tp.Any] = dataclasses.field(default_factory=dict)


def read_items(
    given: tp.Any,
    weights: collections.abc.Mapping[str, float] | None = None,
    foreign: bool = False,
) -> tuple[Item, ...]:
    """A rubric from JSON: a list of {"text"[, "category" or "weight"][, "veto"][, "program"]}.

    Args:
      weights: of the categories; None: WEIGHTS.  An item without either has weight 1.
      foreign: it came with data: its programs may be verifiers of rlpt only, no other code.
    Raises: ValueError saying what is wrong with which item.
    """
    if not isinstance(given, list | tuple) or not 1 <= len(given) <= MOST:
        raise ValueError(f"rubric: got {given!r:.80}, expected a list of 1 to {MOST} criteria")
    known = dict(WEIGHTS if weights is None else weights)
    items = []
    for number, item in enumerate(given, 1):

        def fail(what: str, got: tp.Any = item, number: int = number) -> tp.NoReturn:
            raise ValueError(f"rubric, criterion {number}: got {got!r:.80}, expected {what}")

        if not hasattr(item, "keys"):
            fail('an object such as {"text": ..., "category": "Essential"}')
        unknown = set(item) - {"text", "category", "weight", "veto", "program"}
        if unknown or {"category", "weight"} <= set(item):
            fail("the keys text, one of category and weight, veto, program", sorted(item))
        text, category = item.get("text"), item.get("category")
        weight = item.get("weight", 1.0) if category is None else known.get(category)
        program = item.get("program", {})
        if not isinstance(text, str) or not text.strip():
            fail("a text", text)
        if weight is None:
            fail(f"a category of {', '.join(known)}", category)
        if type(weight) not in (int, float) or not abs(weight) < 1e6:
            fail("a weight, a number", weight)
        if type(item.get("veto", False)) is not bool:
            fail("veto true or false", item["veto"])
        if not hasattr(program, "keys"):
            fail('a program such as {"fn": "number.number"}', program)
        if foreign and ":" in str(program.get("fn")):
            fail("a verifier of rlpt, since the rubric stands in the data", program)
        if program:
            _program(program)
        items.append(Item(text, float(weight), item.get("veto", False), dict(program)))
    if not any(item.weight > 0 for item in items):
        raise ValueError("rubric: got no criterion with a weight above 0, expected at least one")
    return tuple(items)


def aggregate(
    met: collections.abc.Sequence[float], items: collections.abc.Sequence[Item], cap: float = 0.0
) -> float:
    """sum_j w_j c_j / sum of the weights above 0; at most `cap` if a veto is broken.

    met: c_j in [0, 1].  With weights above 0 the score is in [0, 1] and 1 if all are met.  A veto
    is broken below 0.5; one of weight below 0, what not to do, from 0.5 on.
    """
    total = sum(item.weight for item in items if item.weight > 0)
    score = sum(item.weight * c for c, item in zip(met, items, strict=True)) / total
    broken = any(
        item.veto and (c < 0.5) == (item.weight >= 0) for c, item in zip(met, items, strict=True)
    )
    return min(score, cap) if broken else score


def _prepare(
    *,
    base_url: str = "",
    model: str = "",
    api_key_env: str = "",
    items: tp.Any = (),
    weights: tp.Any = None,
    options: tp.Any = None,
    **_: tp.Any,
) -> dict[str, tp.Any]:
    """At the start of a worker, as that of `judge`; without a server nothing."""
    if items:
        read_items(items, weights)
    if not base_url:
        return {}
    settings = _judge_settings(base_url, model, api_key_env, options)
    return judge_lib._prepare(**settings)


def _rubric(
    prompt: tasks_base.Prompt, rubric: str, items: tp.Any, weights: tp.Any
) -> tuple[Item, ...]:
    if items:
        return read_items(items, weights)
    if rubric not in prompt.meta:
        raise ValueError(f"meta[{rubric!r}]: there is none, expected a list of criteria")
    return read_items(prompt.meta[rubric], weights, foreign=True)


def _gold(
    prompt: tasks_base.Prompt,
    *,
    rubric: str = "rubric",
    items: tp.Any = (),
    weights: tp.Any = None,
    base_url: str = "",
    **_: tp.Any,
) -> None:
    found = _rubric(prompt, rubric, items, weights)
    if not base_url and not all(item.program for item in found):
        raise ValueError("rubric: a criterion without a program needs a judge: set base_url")


@base.traits(pure=True, batch=0, gold=_gold, asks=True)
def explicit(
    trajectories: collections.abc.Sequence[base.Trajectory],
    prompts: collections.abc.Sequence[tasks_base.Prompt],
    *,
    base_url: str = "",
    model: str = "",
    api_key_env: str = "",
    rubric: str = "rubric",
    items: tuple[tp.Any, ...] = (),
    weights: dict[str, float] | None = None,
    cap: float = 0.0,
    floor: float = 0.0,
    tolerate: float = 0.0,
    threshold: float = 0.5,
    reference: bool = False,
    options: dict[str, tp.Any] | None = None,
) -> list[base.Verdict]:
    """The weighted share of the criteria that a completion meets, each judged by itself.

    The detail of a verdict has a mark for each criterion: "1+ 2- 3+" (see `marks` and `shares`);
    3?: no verdict.

    Args:
      base_url, model, api_key_env: as `judge.judge`; without base_url all criteria need programs.
      rubric: key of the prompt's meta under which its rubric stands (`read_items`), or
      items: one rubric for all prompts.
      weights: of categories; None: WEIGHTS.
      cap: the most that an answer gets that does not meet a veto.
      floor: the least score; below 0 only with weights below 0, and then with range=(floor, 1).
        A completion that the judge does not get to read (too long, no span) meets no criterion,
        and of weight below 0 every one.
      tolerate: share of the criteria that may lack a verdict; they count against the completion,
        as not met or, of weight below 0, as met.  With more, or for a veto, the row has no verdict
        but the outcome of the first that failed.
      threshold: from this score on, the outcome is "correct".
      reference: the judge also reads the prompt's reference answer.
      options: further settings of `judge.judge`, such as max_tokens, deadline (for all criteria of
        all rows) and cache; `extract` is "whole" if not given.
    Returns: scores in [floor, 1].

    Reference: Gunjal et al., "Rubrics as Rewards", arXiv:2507.17746 (explicit aggregation); weights
    below 0 as in HealthBench, Arora et al., arXiv:2505.08775.
    """
    verdicts: list[list[base.Verdict | None]] = []
    asked: list[tuple[int, int]] = []
    rows, questions, rubrics = [], [], []
    for i, (trajectory, prompt) in enumerate(zip(trajectories, prompts, strict=True)):
        rubrics.append(_rubric(prompt, rubric, items, weights))
        verdicts.append([_run(item, trajectory, prompt) for item in rubrics[-1]])
        for j, item in enumerate(rubrics[-1]):
            if not item.program:
                asked.append((i, j))
                rows.append(trajectory)
                questions.append(_asking(prompt, item.text, reference))
    if rows:
        settings = _judge_settings(base_url, model, api_key_env, options)
        settings |= dict(criteria=MEETS, rubric=_KEY, form="boolean")
        found = judge_lib.judge(rows, questions, **settings)
        for (i, j), row, question, verdict in zip(asked, rows, questions, found, strict=True):
            unread = rubrics[i][j].weight < 0 and _unread(row, question, settings)
            verdicts[i][j] = base.judged(True, unread) if unread else verdict
    return [
        _scored(tp.cast(list[base.Verdict], found), own, cap, floor, tolerate, threshold)
        for found, own in zip(verdicts, rubrics, strict=True)
    ]


@base.traits(pure=True, batch=0, gold=_gold, asks=True)
def implicit(
    trajectories: collections.abc.Sequence[base.Trajectory],
    prompts: collections.abc.Sequence[tasks_base.Prompt],
    *,
    base_url: str,
    model: str,
    api_key_env: str = "",
    rubric: str = "rubric",
    items: tuple[tp.Any, ...] = (),
    weights: dict[str, float] | None = None,
    low: float = 1.0,
    high: float = 10.0,
    threshold: float = 0.5,
    reference: bool = False,
    options: dict[str, tp.Any] | None = None,
) -> list[base.Verdict]:
    """One rating of a completion by a judge that reads all criteria with their weights.

    The score is (s - low) / (high - low), s the rating; low=0 gives s / 10.  Vetoes and programs of
    criteria are the judge's business too.  A rating without a rubric ("Likert") is `judge.judge`
    with form="score" and criteria of one's own.

    Args: as `explicit`.
    Returns: scores in [0, 1].

    Reference: Gunjal et al., "Rubrics as Rewards", arXiv:2507.17746 (implicit aggregation; there 1
    to 10).
    """
    questions = []
    for prompt in prompts:
        found = _rubric(prompt, rubric, items, weights)
        lines = [f"{n}. (weight {item.weight:g}) {item.text}" for n, item in enumerate(found, 1)]
        questions.append(_asking(prompt, "\n".join(lines), reference))
    settings = _judge_settings(base_url, model, api_key_env, options)
    settings |= dict(criteria=RATES.format(low=low, high=high), rubric=_KEY, form="score")
    settings |= dict(low=low, high=high, threshold=threshold)
    return judge_lib.judge(trajectories, questions, **settings)


@base.traits(pure=True, batch=0, asks=True)
def pairwise(
    trajectories: collections.abc.Sequence[base.Trajectory],
    prompts: collections.abc.Sequence[tasks_base.Prompt],
    *,
    base_url: str,
    model: str,
    api_key_env: str = "",
    criteria: str = "",
    both: bool = False,
    reference: bool = False,
    options: dict[str, tp.Any] | None = None,
) -> list[base.Verdict]:
    """How sure a judge is that a completion is better than another one of the same prompt.

    The other one is `meta["opponent"]` of the trajectory, as the rollout `reference.bootstrapped`
    gives it; where there is none, as in an evaluation, it is the prompt's reference answer.

    Args:
      base_url, model, api_key_env, options: as `explicit`.
      criteria: what to compare them by, in words.
      both: ask in both orders and take the mean; False: in one, which a hash of the texts decides.
      reference: the judge also reads the prompt's reference answer.
    Returns: scores in [0, 1], 0.5 for equals, which need no judge; "correct" above 0.5.  Of a pair
      that does not fit max_chars, half for each, the one that is too long loses; where both are,
      there is no verdict ("invalid").

    Reference: Jia et al., "Writing-Zero", arXiv:2506.00103.  Differs from it in: one score for the
    pair, not one for each, and a judge that is not trained.
    """
    settings = _judge_settings(base_url, model, api_key_env, options)
    how, tag = settings["extract"], settings.get("tag", "answer")
    by = f" by these criteria: {criteria}" if criteria else ""
    settings |= dict(criteria=PREFERS.format(by=by), form="score", low=0.0, high=10.0)
    settings |= dict(extract="whole")
    most = (
        settings.get("max_chars", _default("max_chars")) - len(_pair("", "", True, "0" * 24))
    ) // 2
    verdicts: list[base.Verdict | None] = [None] * len(prompts)
    asked: list[tuple[int, bool]] = []
    rows, questions = [], []
    for i, (trajectory, prompt) in enumerate(zip(trajectories, prompts, strict=True)):
        other = trajectory.meta.get("opponent")
        if other is None and prompt.answer is None:
            why = "nothing to compare with: neither meta['opponent'] nor a reference answer"
            verdicts[i] = base.Verdict(None, "invalid", why)
            continue
        mine = base.extract(trajectory.text, how, tag) or ""
        theirs = str(prompt.answer) if other is None else base.extract(other, how, tag) or ""
        if mine.strip() == theirs.strip():
            verdicts[i] = base.Verdict(0.5, "incorrect", "equal texts")
            continue
        over = [len(text) > most for text in (mine, theirs)]
        if any(over):
            why = f"{len(mine)} against {len(theirs)} characters, expected at most {most} each"
            verdicts[i] = base.judged(over[1], why)
            if all(over):
                verdicts[i] = base.Verdict(None, "invalid", why)
            continue
        number = hashlib.sha256(f"{mine}\0{theirs}".encode("utf-8", "surrogatepass")).hexdigest()
        orders = (True, False) if both else (int(number[-1], 16) % 2 == 0,)
        for first in orders:
            asked.append((i, first))
            rows.append(base.Trajectory(_pair(mine, theirs, first, number[:24])))
            questions.append(_asking(prompt, "", reference))
    found: dict[int, list[base.Verdict]] = {}
    answers = judge_lib.judge(rows, questions, **settings) if rows else []
    for (i, first), verdict in zip(asked, answers, strict=True):
        if verdict.score is not None and not first:
            verdict = dataclasses.replace(verdict, score=1.0 - verdict.score)
        found.setdefault(i, []).append(verdict)
    for i, heard in found.items():
        failed = [v for v in heard if v.score is None]
        score = sum(v.score or 0.0 for v in heard) / len(heard)
        better = "correct" if score > 0.5 else "incorrect"
        verdicts[i] = failed[0] if failed else base.Verdict(score, better, heard[0].detail)
    return tp.cast(list[base.Verdict], verdicts)


def marks(detail: str) -> dict[int, bool | None]:
    """{number of the criterion, from 1: met; None: no verdict} from the detail of `explicit`."""
    values = {"+": True, "-": False, "?": None}
    return {int(n): values[mark] for n, mark in re.findall(r"\b([0-9]+)([-+?])(?=\s|$)", detail)}


def shares(
    rows: collections.abc.Iterable[collections.abc.Mapping[str, tp.Any]], name: str
) -> dict[int, float]:
    """How often each criterion was met, of the rows with a verdict on it.

    Args:
      rows: of rollouts.jsonl (`rlpt.metrics.read_rollouts`), of prompts with the same rubric.
      name: of the verifier.
    """
    met: dict[int, list[bool]] = {}
    for row in rows:
        for number, mark in marks(row["details"].get(name, "")).items():
            if mark is not None:
                met.setdefault(number, []).append(mark)
    return {number: sum(found) / len(found) for number, found in sorted(met.items())}


def _scored(
    found: list[base.Verdict],
    items: tuple[Item, ...],
    cap: float,
    floor: float,
    tolerate: float,
    threshold: float,
) -> base.Verdict:
    """One verdict from those on the criteria."""
    failed = [j for j, verdict in enumerate(found) if verdict.score is None]
    if len(failed) > tolerate * len(items) or any(items[j].veto for j in failed):
        first = found[failed[0]]
        return base.Verdict(None, first.outcome, f"criterion {failed[0] + 1}: {first.detail}")
    met = [
        float(item.weight < 0) if verdict.score is None else verdict.score
        for verdict, item in zip(found, items, strict=True)
    ]
    score = max(aggregate(met, items, cap), floor)
    signs = ["?" if v.score is None else "-+"[v.score >= 0.5] for v in found]
    detail = " ".join(f"{n}{sign}" for n, sign in enumerate(signs, 1))
    return base.Verdict(score, "correct" if score >= threshold else "incorrect", detail)


def _program(spec: collections.abc.Mapping[str, tp.Any]) -> tuple[tp.Any, dict[str, tp.Any]]:
    """The verifier that judges a criterion and its settings. Raises: ValueError."""
    settings = dict(spec)
    name = settings.pop("fn", None)
    fn = config.find("verifiers", name)
    config.resolve("verifiers", name, **settings)
    if base.is_batched(fn):
        raise ValueError(f"rubric, program: got {name!r}, expected a verifier of one row")
    return fn, settings


def _run(item: Item, trajectory: base.Trajectory, prompt: tasks_base.Prompt) -> base.Verdict | None:
    """A program's verdict, None where there is none; what it cannot read counts against it."""
    if not item.program:
        return None
    fn, settings = _program(item.program)
    verdict = fn(trajectory, prompt, **settings)
    unread = verdict.outcome == "unparsable"
    return base.judged(item.weight < 0, verdict.detail) if unread else verdict


def _default(name: str) -> tp.Any:
    return (judge_lib.judge.__kwdefaults__ or {})[name]


def _unread(
    trajectory: base.Trajectory, prompt: tasks_base.Prompt, settings: dict[str, tp.Any]
) -> str:
    """Why the judge was not asked; "": it was."""
    how, tag, most = (settings.get(k, _default(k)) for k in ("extract", "tag", "max_chars"))
    return judge_lib.not_worth_asking(trajectory, prompt, how, tag, most)


def _asking(prompt: tasks_base.Prompt, criteria: str, reference: bool) -> tasks_base.Prompt:
    """The prompt as the judge gets it."""
    answer = prompt.answer if reference else None
    return dataclasses.replace(prompt, answer=answer, meta={_KEY: criteria}, verifier="")


def _judge_settings(
    base_url: str, model: str, api_key_env: str, options: tp.Any
) -> dict[str, tp.Any]:
    """Settings of `judge.judge`. Raises: ValueError for options that it has not."""
    given = dict(options or {})
    accepted = sorted(set(judge_lib.judge.__kwdefaults__ or {}) - set(_OWN))
    if unknown := sorted(set(given) - set(accepted)):
        raise ValueError(f"rubric, options: got {unknown[0]!r}, expected of {', '.join(accepted)}")
    own = dict(base_url=base_url, model=model, api_key_env=api_key_env)
    return {"extract": "whole", **given, **own}


def _pair(mine: str, theirs: str, first: bool, number: str) -> str:
    """Two answers as one text, this completion's as A or as B."""
    a, b = (mine, theirs) if first else (theirs, mine)
    lines = (f"--- {number} A ---", a, f"--- {number} A ---", f"--- {number} B ---", b)
    return "\n".join((*lines, f"--- {number} B ---"))
