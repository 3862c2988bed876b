"""What the judged completions of a model come to, and how two results differ.

Each measure is a mean over prompts of a number per prompt, so that intervals resample
prompts and two results are compared prompt by prompt.
"""

from __future__ import annotations

import collections
import collections.abc
import json
import os
import pathlib
import typing as tp

import numpy as np

from rlpt import search, statistics

Row = dict[str, tp.Any]  # what is known of a prompt, as JSON: see `evaluate.judge`


def measures(
    rows: collections.abc.Sequence[Row], best_of: str = "", cot: str = ""
) -> dict[str, np.ndarray]:
    """The numbers whose means are the result: {measure: [N], one a prompt}.

    pass@k and, for k > 1, pass^k, maj@k, best@k and weighted@k for k in powers of two and n, the
    number of samples; avg@n, the share of correct samples, which pass@1 equals; cot_pass@k; chosen,
    the completion that a search puts first; greedy.  Only those that the rows allow: maj@k needs an
    answer in at least one completion.

    Args:
      rows: of `evaluate.judge`, all with the same number of samples, or only with what is in
        `evaluate.BRIEF`.
      best_of: name of the verifier whose score chooses the completion of best@k, and is the
        weight of its answer's vote in weighted@k.
      cot: name of a verifier that judges the reasoning: cot_pass@k is pass@k where a
        completion counts only if that one finds it correct too (Wen et al., arXiv 2506.14245).
    """
    out: dict[str, np.ndarray] = {}
    n = rows[0].get("samples", 0)
    if n:
        correct = np.array([r["correct"] for r in rows])
        ks = sorted({2**i for i in range(n.bit_length())} | {n})
        out |= {f"pass@{k}": statistics.pass_at_k(n, correct, k) for k in ks}
        out |= {f"pass^{k}": statistics.pass_all_k(n, correct, k) for k in ks[1:]}
        out[f"avg@{n}"] = correct / n
        answered = any(a is not None for r in rows for a in r.get("answers", ()))
        if answered:
            majority = statistics.majority_at_k
            for k in ks[1:]:
                out[f"maj@{k}"] = np.array([majority(r["hits"], r["answers"], k) for r in rows])
        if best_of:
            scores = [[s for s, _ in _verdicts(r, best_of)] for r in rows]
            each = list(zip(rows, scores, strict=True))
            for k in ks[1:]:
                out[f"best@{k}"] = np.array(
                    [statistics.best_of_k(r["hits"], s, k) for r, s in each]
                )
                if answered:
                    weighted = search.weighted_at_k
                    out[f"weighted@{k}"] = np.array(
                        [weighted(r["hits"], r["answers"], s, k) for r, s in each]
                    )
        if cot:
            sound = np.array(
                [
                    sum(h and o == "correct" for h, (_, o) in zip(r["hits"], v, strict=True))
                    for r, v in ((r, _verdicts(r, cot)) for r in rows)
                ]
            )
            out |= {f"cot_pass@{k}": statistics.pass_at_k(n, sound, k) for k in ks}
    for name in ("chosen", "greedy"):
        if name in rows[0]:
            out[name] = np.array([r[name] for r in rows], float)
    return out


def _verdicts(row: Row, name: str) -> list[tuple[float | None, str]]:
    """The verdicts of one verifier; of a prompt that it did not judge, none with a score."""
    return row["verdicts"].get(name, [(None, "")] * row["samples"])


def summary(rows: collections.abc.Sequence[Row]) -> dict[str, tp.Any]:
    """pass@k and greedy, lengths, truncation and outcomes: see `evaluate.evaluate`."""
    result: dict[str, tp.Any] = {"prompts": len(rows), "samples": rows[0].get("samples", 0)}
    brief = ("pass@", "chosen", "greedy")
    shown = {k: v for k, v in measures(rows).items() if k.startswith(brief)}
    result |= {k: float(v.mean()) for k, v in shown.items()}
    lengths = [t for r in rows for t in r["tokens"] if t is not None]
    if lengths:
        result["length"] = float(np.mean(lengths))
    result["truncated"] = float(np.mean([t for r in rows for t in r["truncated"]]))
    for name in ("missing", "unheard"):
        if lost := _missing(rows, name):
            result[name] = lost
    result["outcomes"] = dict(
        collections.Counter(
            f"{name}/{outcome}"
            for r in rows
            for name, verdicts in r["verdicts"].items()
            for _, outcome in verdicts
        )
    )
    tasks = sorted({r["task"] for r in rows})
    if len(tasks) > 1:
        result["tasks"] = {}
        for task in tasks:
            own = measures([r for r in rows if r["task"] == task])
            result["tasks"][task] = {
                k: float(own[k].mean()) for k in ("pass@1", "greedy") if k in own
            }
    return result


def _missing(rows: collections.abc.Sequence[Row], name: str = "missing") -> float:
    """The share of completions whose verdicts were lost."""
    lost = sum(r.get(name, 0) for r in rows)
    return lost / sum(r.get("samples", 0) + ("greedy" in r) for r in rows) if lost else 0.0


def calibration(rows: collections.abc.Sequence[Row], name: str) -> dict[str, tp.Any]:
    """`statistics.calibration` of a verifier's stated confidences, and unstated, the rows without.

    Args: rows: of `evaluate.judge`.  name: the verifier whose score is a confidence.
    """
    pairs = [
        (score, hit)
        for r in rows
        for hit, (score, outcome) in zip(r["hits"], _verdicts(r, name), strict=True)
        if outcome == "correct"
    ]
    unstated = sum(r["samples"] for r in rows) - len(pairs)
    if not pairs:
        return {"rows": 0, "unstated": unstated}
    stated, right = (np.array(x) for x in zip(*pairs, strict=True))
    return {**statistics.calibration(stated, right), "unstated": unstated}


def table(result: dict[str, tp.Any]) -> str:
    """A result for people: a line a measure, with its interval."""
    lines = [f"{result['prompts']} prompts x {result['samples']} samples"]
    for name, (low, high) in result["intervals"].items():
        lines.append(f"{name:>12}  {result[name]:.4f}  [{low:.4f}, {high:.4f}]")
    for name in ("length", "truncated"):
        if name in result:
            lines.append(f"{name:>12}  {result[name]:.4f}")
    if "missing" in result:
        lines.append(
            f"{'missing':>12}  {result['missing']:.4f}  of the completions have no verdict and "
            "count as wrong; the same command judges their prompts again"
        )
    if "unheard" in result:
        lines.append(
            f"{'unheard':>12}  {result['unheard']:.4f}  of the completions lack the verdict of a "
            "verifier that does not decide; the same command judges their prompts again"
        )
    if rows := result.get("calibration", {}).get("rows"):
        c = result["calibration"]
        lines.append(f"{'ece':>12}  {c['ece']:.4f}")
        lines.append(f"{'brier':>12}  {c['brier']:.4f}  ({rows} rows, {c['unstated']} unstated)")
    return "\n".join([*lines, f"[low, high]: {result['interval']}"])


# ---- two results


def compare(new: dict[str, tp.Any], base: dict[str, tp.Any]) -> dict[str, tp.Any]:
    """Compares two results on the prompts that both have.

    Args:
      new, base: as `evaluate.evaluate_source` returns or a run leaves in eval_<step>.json.
    Returns: prompts (shared), only_new, only_base (numbers of others), measures {measure: of
      `statistics.paired`}, notes (texts: what is not compared, what of it is missing verdicts),
      and, where both drew as many samples, support: a prompt is in a
      model's support if at least one of its n samples is correct, so it depends on n;
      gained, lost (ids), kept, never (numbers), retained (kept / (kept + lost); None: the
      base solves none).
    Raises: ValueError where no prompt is shared, or one id stands for two prompts.
    """
    a, b = new["per_prompt"], base["per_prompt"]
    shared = [name for name in a if name in b]
    if not shared:
        raise ValueError(
            f"compare: none of the {len(a)} and {len(b)} prompts is in both results; compare "
            "results on the same task"
        )
    first, second = [a[name] for name in shared], [b[name] for name in shared]
    for name, x, y in zip(shared, first, second, strict=True):
        known = {row["content"] for row in (x, y) if "content" in row}
        if len(known) > 1:
            raise ValueError(
                f"compare: {name!r} is another prompt in one result than in the other (question or "
                "reference differ); judge both models on the same data"
            )
    settings = [{k: r.get(k, "") for k in ("best_of", "cot")} for r in (new, base)]
    mine, theirs = measures(first, **settings[0]), measures(second, **settings[1])
    notes = []
    for key, prefixes in (("best_of", ("best@", "weighted@")), ("cot", ("cot_",))):
        own, other = (s[key] for s in settings)
        if own and other and own != other:
            mine = {k: v for k, v in mine.items() if not k.startswith(prefixes)}
            notes.append(
                f"{'k, '.join(prefixes)}k: not compared, of {own!r} in one and {other!r} in the "
                "other"
            )
    gone = [_missing(rows) for rows in (first, second)]
    if any(gone):
        notes.append(
            f"{gone[0]:.1%} of the completions of new and {gone[1]:.1%} of base have no verdict "
            "and count as wrong"
        )
    out: dict[str, tp.Any] = {
        "prompts": len(shared),
        "only_new": len(a) - len(shared),
        "only_base": len(b) - len(shared),
        "measures": {k: statistics.paired(mine[k], theirs[k]) for k in mine if k in theirs},
        "notes": notes,
    }
    if first[0].get("samples", 0) == second[0].get("samples", 0) > 0:
        solved = [
            (name, x["correct"] > 0, y["correct"] > 0)
            for name, x, y in zip(shared, first, second, strict=True)
        ]
        gained = [name for name, x, y in solved if x and not y]
        lost = [name for name, x, y in solved if y and not x]
        kept = sum(x and y for _, x, y in solved)
        out["support"] = {
            "samples": first[0]["samples"],
            **{"gained": gained, "lost": lost, "kept": kept},
            "never": len(shared) - kept - len(gained) - len(lost),
            "retained": kept / (kept + len(lost)) if kept or lost else None,
        }
    return out


def read_result(path: str | os.PathLike[str]) -> dict[str, tp.Any]:
    """A result from its file. Raises: FileNotFoundError; ValueError for another file."""
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; expected one that `rlpt evaluate` wrote")
    try:
        result = json.loads(pathlib.Path(path).read_text())
    except ValueError as e:
        raise ValueError(f"{path}: is not JSON ({e}); expected a file of `rlpt evaluate`") from e
    if not isinstance(result, dict) or not result.get("per_prompt"):
        raise ValueError(f"{path}: has no per_prompt; expected a file that `rlpt evaluate` wrote")
    return result


def comparison_table(found: dict[str, tp.Any]) -> str:
    """A comparison for people."""
    others = ""
    if found["only_new"] or found["only_base"]:
        others = f" ({found['only_new']} and {found['only_base']} others are in one result only)"
    lines = [f"{found['prompts']} prompts in both{others}"]
    lines.append(
        f"{'':>12}  {'new':>7}  {'base':>7}  {'change':>8}  {'interval':>18}  "
        f"{'better':>6}  {'worse':>6}  {'p':>8}"
    )
    for name, m in found["measures"].items():
        interval = f"[{m['low']:+.4f}, {m['high']:+.4f}]"
        lines.append(
            f"{name:>12}  {m['new']:7.4f}  {m['base']:7.4f}  {m['difference']:+8.4f}  "
            f"{interval:>18}  {m['wins']:6}  {m['losses']:6}  {m['p']:8.2g}"
        )
    if s := found.get("support"):
        retained = "" if s["retained"] is None else f" ({s['retained']:.1%} of the base's)"
        lines.append(
            f"solved at least once in {s['samples']} samples: gained {len(s['gained'])}, lost "
            f"{len(s['lost'])}, kept {s['kept']}{retained}, never {s['never']}"
        )
    lines += [f"note: {note}" for note in found.get("notes", ())]
    lines.append("interval: 95% percentile bootstrap over prompts; p: exact sign test, two-sided")
    return "\n".join(lines)
