"""Learning curves from metrics.jsonl as a picture.

Training reward on the left, scores on held-out prompts on the right, over steps.  Runs
that share a label (seeds) become a mean and a band.
"""

from __future__ import annotations

import os
import pathlib
import typing as tp

import numpy as np

from rlpt import metrics

REWARD = "reward/mean"
EVALS = {"pass@1": "-", "greedy": "--"}  # eval/<score> and its line style

# Okabe and Ito's palette without yellow and black: told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

Runs = tp.Mapping[str, metrics.PathLike | tp.Sequence[metrics.PathLike]]
Series = dict[int, float]  # step -> value


def series(rows: tp.Sequence[metrics.Row], name: str) -> Series:
    """The values of a metric by step, without the rows where it is missing or null."""
    return {row["step"]: row[name] for row in rows if row.get(name) is not None}


def band(seeds: tp.Sequence[Series]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(steps, mean, lowest, highest), each [N], over the N steps that all seeds have."""
    steps = sorted(set.intersection(*(set(s) for s in seeds)))
    values = np.array([[s[step] for step in steps] for s in seeds])  # [seeds, N]
    return np.array(steps), values.mean(0), values.min(0), values.max(0)


def learning_curve(runs: Runs, out_png: metrics.PathLike, title: str = "") -> pathlib.Path:
    """Draws the training reward (left) and held-out scores (right) over steps.

    Args:
      runs: label -> metrics.jsonl, or several of them (seeds): their mean, and a band
        from the lowest to the highest.
      out_png: where the picture goes, 1500 x 630 pixels.
    Returns: its path.
    Raises: ValueError naming the file when it has neither reward nor scores.
    """
    import matplotlib.figure

    # a Figure without pyplot draws with Agg: needs no display, changes nothing global
    figure = matplotlib.figure.Figure(figsize=(10, 4.2), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (label, given) in enumerate(runs.items()):
        paths = [given] if isinstance(given, str | os.PathLike) else list(given)
        seeds = [metrics.read_jsonl(path) for path in paths]
        names = (REWARD, *(f"eval/{score}" for score in EVALS))
        for path, rows in zip(paths, seeds, strict=True):
            if not any(series(rows, name) for name in names):
                raise ValueError(f"{path}: got no row with {' or '.join(names)}: nothing to draw")
        many = f" ({len(paths)} seeds)" if len(paths) > 1 else ""
        colour = COLOURS[number % len(COLOURS)]
        _draw(left, [series(rows, REWARD) for rows in seeds], label + many, color=colour)
        for nth, (score, style) in enumerate(EVALS.items()):
            if len(runs) == 1:  # one run: a colour for each score
                colour = COLOURS[number + nth]
            text = f"{label}, {score}" if len(runs) > 1 else score + many
            scores = [series(rows, f"eval/{score}") for rows in seeds]
            _draw(right, scores, text, color=colour, linestyle=style, marker="o", markersize=5)
    left.set_title("training reward", fontsize=14)
    right.set_title("held-out accuracy", fontsize=14)
    for axes in (left, right):
        axes.set_xlabel("step", fontsize=13)
        axes.tick_params(labelsize=12)
        axes.grid(True, color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    if right.lines and len(runs) == 1:
        right.legend(frameon=False, fontsize=12)
    elif right.lines or left.lines:  # beside the curves, which would run through it
        named = right if right.lines else left
        figure.legend(*named.get_legend_handles_labels(), loc="outside right center", frameon=False)
    if right.lines:
        right.set_ylim(-0.03, 1.03)
    if title:
        figure.suptitle(title, fontsize=15)
    out = pathlib.Path(out_png)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    return out


def _draw(axes: tp.Any, seeds: list[Series], label: str, **style: tp.Any) -> None:
    """Adds the mean as a line, with a band where there are several seeds."""
    steps, mean, low, high = band(seeds)
    if len(steps):
        axes.plot(steps, mean, label=label, linewidth=2, **style)
        if len(seeds) > 1:
            axes.fill_between(steps, low, high, color=style["color"], alpha=0.2, linewidth=0)
