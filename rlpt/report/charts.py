"""Charts as inline SVG: lines with bands, and stacked areas.

Colours are classes (`c0` to `c5`) that the page's style sheet defines for light and dark;
a second distinction is the dash.  Every label goes through markupsafe, so that the name of
a metric is text whatever it holds.  The numbers under the pointer are `<title>` elements,
which need no script.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import typing as tp

import markupsafe
import numpy as np

from rlpt.report.text import visible

Series = tp.Mapping[tp.Any, float]  # x, a number -> y

COLOURS, DASHES = 6, 4
_WIDTH, _HEIGHT = 420, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 10, 8, 30
_TITLES = 240  # positions with numbers under the pointer, divided by the number of lines
_STRIPS = 60  # and at most so many


@dataclasses.dataclass
class Line:
    """One curve, and the band around it where low and high are given; x -> y each."""

    label: str
    mean: Series
    low: Series | None = None
    high: Series | None = None
    colour: int = 0
    dash: int = 0


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) in [low, high]."""
    if not high > low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / most))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= most)
    return [n * step for n in range(math.ceil(low / step - 1e-9), int(high / step + 1e-9) + 1)]


def _whole_ticks(xs: tp.Sequence[float]) -> list[float]:
    """Those of the x axis: steps are whole numbers."""
    return [v for v in ticks(xs[0], xs[-1], 6) if v == round(v)]


def thin(series: Series, points: int) -> dict[float, float]:
    """At most `points` points: means over neighbours, at their mean x."""
    x, y = np.array(list(series), float), np.array(list(series.values()), float)
    if len(x) <= points:
        return dict(zip(x.tolist(), y.tolist(), strict=True))
    parts = zip(np.array_split(x, points), np.array_split(y, points), strict=True)
    return {float(a.mean()): float(b.mean()) for a, b in parts}


def number(value: float) -> str:
    """Four significant digits, without an exponent where that is readable."""
    text = f"{value:.4g}"
    return f"{value:.0f}" if "e+" in text and abs(value) < 1e7 else text


def tick(value: float, marks: tp.Sequence[float]) -> str:
    """A mark of an axis, with as many digits as tell it from its neighbours."""
    top, step = max(map(abs, marks)), marks[1] - marks[0] if len(marks) > 1 else 0.0
    if not top or not step:
        return number(value)
    digits = math.floor(math.log10(top)) - math.floor(math.log10(step) + 1e-9) + 1
    text = f"{value:.{max(digits, 1)}g}"
    return f"{value:.0f}" if "e+" in text and top < 1e6 else text


class _Frame:
    """The axes of a chart: from numbers to pixels, and the SVG around the curves."""

    def __init__(self, xs: tp.Sequence[float], low: float, high: float, log_x: bool = False):
        self._log = log_x
        self.x0, self.x1 = min(xs), max(xs)
        flat = 1e-5 * max(abs(low), abs(high))  # rounding errors are not worth a picture
        if not high - low > flat:
            low, high = low - abs(low) * 0.1, high + (abs(high) or 1) * 0.1
        self.y0, self.y1 = low, high

    def x(self, value: float) -> float:
        a, b, v = self.x0, self.x1, value
        if self._log:
            a, b, v = math.log(a), math.log(b), math.log(v)
        share = (v - a) / (b - a) if b > a else 0.5
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.y0) / (self.y1 - self.y0)
        return _HEIGHT - _BOTTOM - min(max(share, 0.0), 1.0) * (_HEIGHT - _TOP - _BOTTOM)

    def path(self, series: Series) -> str:
        return "M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in series.items())

    def area(self, low: Series, high: Series) -> str:
        back = dict(reversed(list(low.items())))
        return f"{self.path(high)}L{self.path(back)[1:]}Z"

    def axes(self, label: str, x_ticks: tp.Sequence[float]) -> str:
        out = []
        marks = ticks(self.y0, self.y1)
        for v in marks:
            y = f"{self.y(v):.1f}"
            out.append(f'<path class="grid" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>')
            out.append(f'<text class="num" x="{_LEFT - 5}" y="{y}" dy="4">{tick(v, marks)}</text>')
        for v in x_ticks:
            out.append(
                f'<text class="mid" x="{self.x(v):.1f}" y="{_HEIGHT - 16}">{number(v)}</text>'
            )
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        out.append(f'<text class="mid axis" x="{middle}" y="{_HEIGHT - 3}">{label}</text>')
        return "".join(out)

    def titles(self, label: str, lines: tp.Sequence[tuple[str, Series]]) -> markupsafe.Markup:
        """Strips with the numbers at up to so many positions as <title>."""
        xs = sorted({x for _, series in lines for x in series})
        most = min(_STRIPS, max(_TITLES // max(len(lines), 1), 1))
        chosen = [xs[i] for i in np.unique(np.linspace(0, len(xs) - 1, most).astype(int))]
        between = [(self.x(a) + self.x(b)) / 2 for a, b in itertools.pairwise(chosen)]
        edges = [_LEFT, *between, _WIDTH - _RIGHT]
        strip = markupsafe.Markup(
            '<rect class="hit" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
        )
        out = []
        for i, at in enumerate(chosen):
            text = [f"{label} {number(at)}"]
            text += [f"{name}: {number(s[at])}" for name, s in lines if at in s]
            width = f"{max(edges[i + 1] - edges[i], 1):.1f}"
            height = _HEIGHT - _TOP - _BOTTOM
            out.append(
                strip.format(f"{edges[i]:.1f}", _TOP, width, height, visible("\n".join(text)))
            )
        return markupsafe.Markup("").join(out)


def _figure(
    title: str, note: str, body: str, legend: tp.Sequence[tuple[str, str]]
) -> markupsafe.Markup:
    """legend: (class of the sample, label)."""
    keys = markupsafe.Markup("").join(
        markupsafe.Markup(
            '<li><svg class="key" viewBox="0 0 22 8" aria-hidden="true">'
            '<path class="{}" d="M1 4H21"/></svg>{}</li>'
        ).format(kind, visible(label))
        for kind, label in legend
    )
    return markupsafe.Markup(
        '<figure><figcaption>{}<small>{}</small></figcaption><svg viewBox="0 0 {} {}" role="img" '
        'aria-label="{}">{}</svg><ul class="legend">{}</ul></figure>'
    ).format(
        visible(title),
        visible(note),
        _WIDTH,
        _HEIGHT,
        visible(title),
        markupsafe.Markup(body),
        keys,
    )


def line_chart(
    title: str,
    lines: tp.Sequence[Line],
    *,
    note: str = "",
    x_label: str = "step",
    log_x: bool = False,
    y_range: tuple[float, float] | None = None,
    points: int = 200,
) -> markupsafe.Markup:
    """A figure with curves; nothing where no line has a point.

    Args:
      lines: what to draw; a line of one point is a dot.
      note: small print under the title.
      log_x: positive x on a logarithmic axis, ticks at the values that occur.
      y_range: None: of the numbers.
      points: at most so many a line; of more, means over neighbours are drawn.
    """
    shown = []
    for line in lines:
        if line.mean:
            drawn = dataclasses.replace(line, mean=thin(line.mean, points))
            if line.low and line.high:
                drawn.low, drawn.high = thin(line.low, points), thin(line.high, points)
            shown.append(drawn)
    if not shown:
        return markupsafe.Markup("")
    every = [s for line in shown for s in (line.mean, line.low, line.high) if s]
    values = [v for s in every for v in s.values()]
    low, high = min(values), max(values)
    if y_range:
        low, high = min(y_range[0], low), max(y_range[1], high)
    xs = sorted({x for line in shown for x in line.mean})
    frame = _Frame(xs, low, high, log_x)
    body = [frame.axes(x_label, xs if log_x else _whole_ticks(xs))]
    for line in shown:
        if line.low and line.high:
            band = frame.area(line.low, line.high)
            body.append(f'<path class="band c{line.colour % COLOURS}" d="{band}"/>')
    for line in shown:
        kind = f"c{line.colour % COLOURS} d{line.dash % DASHES}"
        body.append(f'<path class="line {kind}" d="{frame.path(line.mean)}"/>')
        if len(line.mean) <= 12:
            for x, y in line.mean.items():
                body.append(
                    f'<circle class="dot {kind}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" '
                    'r="2.5"/>'
                )
    body.append(frame.titles(x_label, [(line.label, line.mean) for line in shown]))
    legend = [
        (f"line c{line.colour % COLOURS} d{line.dash % DASHES}", line.label) for line in shown
    ]
    return _figure(title, note, "".join(body), legend)


def stack_chart(
    title: str,
    parts: tp.Mapping[str, Series],
    *,
    note: str = "",
    colours: tp.Sequence[int] = (),
    points: int = 100,
) -> markupsafe.Markup:
    """A figure of areas on top of each other; a part without a value at a step counts as 0.

    colours: of the parts, by default in order; a colour's second part is paler.
    """
    steps = sorted({x for series in parts.values() for x in series})
    if not steps:
        return markupsafe.Markup("")
    filled = {name: {x: series.get(x, 0.0) for x in steps} for name, series in parts.items()}
    if len(steps) == 1:  # an area needs a width
        steps.append(steps[0] + 1)
        for series in filled.values():
            series[steps[1]] = series[steps[0]]
    thinned = {name: thin(series, points) for name, series in filled.items()}
    xs = list(next(iter(thinned.values())))
    top = max(sum(max(series[x], 0.0) for series in thinned.values()) for x in xs)
    frame = _Frame(xs, 0.0, top)
    body, legend, below = [], [], dict.fromkeys(xs, 0.0)
    used: collections.Counter[int] = collections.Counter()
    for nth, (name, part) in enumerate(thinned.items()):
        above = {x: below[x] + max(part[x], 0.0) for x in xs}
        colour = (colours[nth] if colours else nth) % COLOURS
        kind = f"c{colour} p{min(used[colour], 2)}"
        used[colour] += 1
        body.append(f'<path class="area {kind}" d="{frame.area(below, above)}"/>')
        legend.append((f"swatch {kind}", name))
        below = above
    body.append(frame.axes("step", _whole_ticks(xs)))
    body.append(frame.titles("step", list(thinned.items())))
    return _figure(title, note, "".join(body), legend)
