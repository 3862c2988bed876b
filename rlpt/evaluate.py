"""Accuracy of a policy on held-out prompts: greedy, pass@1 and unbiased pass@k."""

from __future__ import annotations

import collections
import collections.abc
import typing as tp

import numpy as np

from rlpt import tools as tools_lib
from rlpt.tasks.base import Prompt


def pass_at_k(n: int, correct: np.ndarray, k: int) -> np.ndarray:
    """Unbiased estimate of P(at least one of k samples is correct), per prompt.

    1 - C(n-c, k) / C(n, k) for c correct of n samples; exact for k <= n.
    Reference: Chen et al., "Evaluating Large Language Models Trained on Code",
    arXiv 2107.03374.
    Raises: ValueError for k > n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@k: got k={k} with n={n} samples, expected 1 <= k <= n")
    correct = np.asarray(correct)
    i = np.arange(k)
    return 1.0 - np.prod(np.maximum(n - correct[..., None] - i, 0) / (n - i), axis=-1)


def _sample(
    tools: tp.Any,
    prompts: collections.abc.Sequence[Prompt],
    group: int,
    temperature: float,
    blocks: int,
    done: collections.abc.Callable[[int], None] | None,
) -> dict[str, tp.Any]:
    counts = []
    lengths, truncated, entries = [], [], []
    outcomes: collections.Counter[str] = collections.Counter()
    for start in range(0, len(prompts), blocks):
        part: list[tp.Any] = [(p, 0) for p in prompts[start : start + blocks]]
        live = len(part)
        part += [None] * (blocks - live)
        batch = tools.verify(
            tools.generate(
                part, group=group, step=0, purpose=tools_lib.EVALUATE, temperature=temperature
            )
        )
        outcomes.update(batch.outcomes)
        for i in range(live):
            hits = [tools_lib.correct(v) for v in batch.text.verdicts[i]]
            counts.append(sum(hits))
            entries.append((batch.text.prompts[i].id, batch.text.completions[i], hits))
        lengths.append(batch.table["completion_mask"][:live].sum(-1).ravel())
        truncated.append(batch.table["truncated"][:live].ravel())
        if done:
            done(live)
    return {
        "counts": np.array(counts),
        "length": float(np.concatenate(lengths).mean()),
        "truncated": float(np.concatenate(truncated).mean()),
        "outcomes": dict(outcomes),
        "entries": entries,
    }


def evaluate(
    tools: tp.Any,
    prompts: collections.abc.Sequence[Prompt],
    *,
    samples: int = 8,
    temperature: float = 1.0,
    blocks: int = 8,
    greedy: bool = True,
    done: collections.abc.Callable[[int], None] | None = None,
) -> dict[str, tp.Any]:
    """Judges greedy and sampled completions of every prompt by the run's own verifiers.

    Args:
      tools: a `rlpt.tools.Tools` with the params to judge.
      samples: completions a prompt at `temperature`; 0: greedy only.
      blocks: prompts in a batch.  done: called with the number of prompts finished.
    Returns: pass@1, pass@k for k in powers of two up to samples, greedy (fractions),
      length (tokens), truncated (fraction), prompts, samples, outcomes, with several
      tasks `tasks`: {task: {"pass@1", "greedy"}}, and `per_prompt`: {id: {"correct",
      "samples", "greedy", …}}.
    Raises: ValueError for no prompts.
    """
    if not prompts:
        raise ValueError("evaluate: no prompts; give config.tasks an eval split that is not empty")
    result: dict[str, tp.Any] = {"prompts": len(prompts), "samples": samples}
    per_prompt: dict[str, dict[str, tp.Any]] = {p.id: {} for p in prompts}
    if samples:
        out = _sample(tools, prompts, samples, temperature, blocks, done)
        k = 1
        while k <= samples:
            result[f"pass@{k}"] = float(pass_at_k(samples, out["counts"], k).mean())
            k *= 2
        result |= {k: out[k] for k in ("length", "truncated", "outcomes")}
        for name, texts, hits in out["entries"]:
            per_prompt[name] |= {"correct": sum(hits), "samples": len(hits), "sample": texts[0]}
    if greedy:
        out = _sample(tools, prompts, 1, 0.0, blocks, done)
        result["greedy"] = float(out["counts"].mean())
        result.setdefault("length", out["length"])
        result.setdefault("truncated", out["truncated"])
        for name, texts, hits in out["entries"]:
            per_prompt[name] |= {"greedy": bool(hits[0]), "greedy_text": texts[0]}
    tasks = sorted({p.task for p in prompts})
    if len(tasks) > 1:
        result["tasks"] = {}
        for task in tasks:
            rows = [per_prompt[p.id] for p in prompts if p.task == task]
            own = (
                {"pass@1": float(np.mean([r["correct"] / r["samples"] for r in rows]))}
                if samples
                else {}
            )
            own |= {"greedy": float(np.mean([r["greedy"] for r in rows]))} if greedy else {}
            result["tasks"][task] = own
    result["per_prompt"] = per_prompt
    return result
