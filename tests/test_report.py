"""The report: what it reads, what it draws, what it withstands, and that its page works."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import html
import html.parser
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from rlpt import config as config_lib
from rlpt import train as train_lib
from rlpt.advantages import tree as tree_lib
from rlpt.models import load
from rlpt.report import alarm, charts, page, panels, rollouts, runs, tree
from rlpt.report.text import HIDDEN, safe_json, short, visible

ROOT = pathlib.Path(__file__).parents[1]

HOSTILE = (
    "<script>window.pwned = 1</script>",
    "</script><script>window.pwned = 1</script>",
    "<!--<script>",
    '"><img src=x onerror="window.pwned = 1">',
    "'); window.pwned = 1; ('",
    "</style><style>* { display: none }</style>",
    "</title></textarea>",
    "{{ 7 * 7 }}{% raw %}&lt;b&gt;&amp;",
    "left \u202etfel\u202c \u2066isolated\u2069 \u200b",
    "nul \x00 bell \x07 escape \x1b[31m \ud800 \u2028 \ufeff",
)


# ---- workdirs


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A real run on the toy model."""
    c = config_lib.default()
    c.model.source, c.steps = "toy", 3
    c.verifiers = (dict(fn="tests.toy:starts_with_digit", name="digit"),)
    c.rollout.prompts, c.rollout.group = 4, 4
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (64,), (6,)
    c.eval.prompts, c.eval.samples, c.pool.workers = 4, 4, 1
    c.log.console, c.log.tensorboard = False, False
    return train_lib.train(c, tmp_path_factory.mktemp("toy") / "run").workdir


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def evaluation(scores, samples=8):
    return {
        "per_prompt": {
            f"p{i}": {"correct": round(s * samples), "samples": samples}
            for i, s in enumerate(scores)
        }
    }


def write_run(path, *, rewards=(0.0, 0.5, 1.0), evals=None, changed=None, summary=True, rows=()):
    """A workdir by hand: reward by step, {step: scores of the held-out prompts}, rollouts."""
    path.mkdir(parents=True, exist_ok=True)
    metrics = [{"step": 0, "eval/pass@1": 0.1}]
    metrics += [
        {"step": s, "reward/mean": r, "verify/v/correct": 3.0, "time/update": 1.0}
        for s, r in enumerate(rewards, 1)
    ]
    write_lines(path / "metrics.jsonl", metrics)
    for step, scores in (evals or {}).items():
        (path / f"eval_{step}.json").write_text(json.dumps(evaluation(scores)))
    diff = {k: {"value": repr(v), "default": "0"} for k, v in (changed or {}).items()}
    (path / "config_diff.json").write_text(json.dumps(diff))
    config = {"steps": len(rewards), "model": {"source": "toy"}, "seed": 0, **(changed or {})}
    (path / "config.json").write_text(json.dumps(config))
    if summary:
        (path / "summary.json").write_text(json.dumps({"steps": 3, "seconds": {"all": 9.0}}))
    if rows:
        write_lines(path / "rollouts.jsonl", rows)
    return path


@functools.cache
def toy_tokenizer():
    return load.load("toy").tokenizer


def rollout(step, block, sample, text, reward, **more):
    """A row as the training program writes it, of the toy's tokens (characters)."""
    tokens = toy_tokenizer().encode(text.encode("ascii", "ignore").decode())
    n = len(tokens)
    row = {"step": step, "block": block, "sample": sample, "group": block, "id": f"sum:{block}"}
    row |= {"answer": "7", "prompt_id": 5, "prompt": "3+4", "prompt_tokens": [1, 2]}
    row |= {"completion": text, "tokens": tokens, "loss_mask": [True] * n}
    row |= {"sampler_logp": [-0.5] * n, "advantages": [reward - 0.5] * n, "reward": reward}
    row |= {"row_mask": True, "truncated": False, "temperature": 1.0, "origin": 0}
    outcome = "correct" if reward else "incorrect"
    row |= {"verdicts": {"v": reward}, "outcomes": {"v": outcome}, "details": {"v": "got it"}}
    return row | more


# ---- the page as a browser's parser sees it


class Page(html.parser.HTMLParser):
    """Tags with their attributes, the text of scripts and styles, and the visible text."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.text, self._in = "", ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in self.raw:
            self._in = tag
            self.raw[tag].append("")

    def handle_endtag(self, tag):
        if tag == self._in:
            self._in = ""

    def handle_data(self, data):
        if self._in:
            self.raw[self._in][-1] += data
        else:
            self.text += data

    @property
    def data(self):
        """Of the inspector."""
        return json.loads(self.raw["script"][0])


TAGS = {
    *("html", "head", "meta", "title", "style", "script", "noscript", "body", "header", "main"),
    *("nav", "section", "h1", "h2", "h3", "h4", "p", "b", "a", "small", "ul", "li", "div", "span"),
    *("table", "thead", "tbody", "tr", "th", "td", "code", "details", "summary", "figure"),
    *("figcaption", "svg", "path", "text", "rect", "circle", "form", "label", "select"),
    *("option", "input", "button", "output"),
}


def look(path) -> Page:
    """Parses a page and checks what holds for every one."""
    raw = pathlib.Path(path).read_bytes()
    assert len(raw) <= page.LIMIT, f"{len(raw):,} bytes"
    found = Page(raw.decode())
    assert {tag for tag, _ in found.tags} <= TAGS, {tag for tag, _ in found.tags} - TAGS
    for tag, attributes in found.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"<{tag} {name}={value!r}>"
            assert name not in ("src", "style", "srcdoc", "action"), f"<{tag} {name}={value!r}>"
            if name == "href":
                assert value.startswith("#"), f"a link to {value!r}"
    assert len(found.raw["style"]) == 1 and len(found.raw["script"]) in (1, 2)
    policy = next(a["content"] for t, a in found.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ")
    for kind, text in (("script", found.raw["script"][-1]), ("style", found.raw["style"][0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy, f"the policy does not know the {kind}"
    assert not HIDDEN.search(found.text), "a hidden character on the page"
    return found


# ---- trees


def test_tree_by_hand():
    """Rows ab·c, ab·d, ab and e with rewards 1, 0, 1, 0."""
    nodes = tree.prefix_tree([[1, 2, 3], [1, 2, 4], [1, 2], [5]], [1.0, 0.0, 1.0, 0.0])
    got = [(n.parent, n.start, n.end, n.rows, round(n.value, 6)) for n in nodes]
    assert got == [
        (-1, 0, 0, [0, 1, 2, 3], 0.5),
        (0, 0, 2, [0, 1, 2], 0.666667),
        (1, 2, 3, [0], 1.0),
        (1, 2, 3, [1], 0.0),
        (1, 2, 2, [2], 1.0),
        (0, 0, 1, [3], 0.0),
    ]
    numbers = tree.statistics(nodes, [3, 3, 2, 1])
    # V changes once for each row below every node but the root: 3 + 1 + 1 + 1 + 1 of 9 tokens
    assert numbers == {"distinct": 1.0, "forks": 2.0, "shared_tokens": 0.0, "credited": 7 / 9}
    same = tree.statistics(tree.prefix_tree([[1, 2], [1, 2]], [0.0, 1.0]), [2, 2])
    assert same == {"distinct": 0.5, "forks": 0.0, "shared_tokens": 2.0, "credited": 0.0}
    with pytest.raises(ValueError, match="got 0 rows and 0 rewards, expected"):
        tree.prefix_tree([], [])


def test_equal_rewards_are_no_credit():
    tokens = [[1, 2], [1, 3], [1, 4]]
    nodes = tree.prefix_tree(tokens, [0.1, 0.1, 0.1])
    assert tree.statistics(nodes, [2, 2, 2])["credited"] == 0, "but for rounding"


def test_tree_has_the_values_of_tempo():
    """The changes of V along a row are what TEMPO adds to the group's advantage."""
    rng = np.random.default_rng(0)
    p, g, t = 60, 5, 4
    lengths = rng.integers(1, t + 1, (p, g))
    mask = np.arange(t) < lengths[..., None]
    tokens = np.where(mask, rng.integers(1, 4, (p, g, t)), 0)
    rewards = rng.integers(0, 2, (p, g)).astype(np.float32)
    given = tuple(map(jnp.asarray, (rewards, tokens, mask, mask)))
    with_td, without = (
        np.asarray(tree_lib.tempo(*given, td_coef=c, scale="none")) for c in (1.0, 0.0)
    )
    got = np.zeros((p, g, t))
    for i in range(p):
        rows = [tokens[i, j, : lengths[i, j]].tolist() for j in range(g)]
        nodes = tree.prefix_tree(rows, rewards[i].tolist())
        for node in nodes[1:]:
            for j in node.rows:
                at = min(node.start, len(rows[j]) - 1)  # the end belongs to the last token
                got[i, j, at] += node.value - nodes[node.parent].value
    assert (got != 0).mean() > 0.2, "nothing to compare"
    np.testing.assert_allclose(got, np.where(mask, with_td - without, 0.0), atol=1e-6)


# ---- the alarm


def rising(n=40):
    return {s: 0.2 + 0.015 * s for s in range(1, n + 1)}


def scores(mean, n=40):
    return {f"p{i}": mean + (0.05 if i % 2 else -0.05) for i in range(n)}


def test_alarm_by_hand():
    found = alarm.hacking(rising(), {0: scores(0.5), 20: scores(0.8), 40: scores(0.4)})
    assert (found.start, found.end) == (20, 40), found
    # rewards of steps 11-20 and 31-40 are 20 steps of 0.015 apart
    assert found.fall == pytest.approx(0.4) and found.rise == pytest.approx(0.3), found
    assert found.fall_error < 1e-9 and found.rise_error == pytest.approx(0.0203, abs=1e-4)


@pytest.mark.parametrize(
    "why, rewards, held_out",
    [
        ("the held-out score rises too", rising(), {0: scores(0.2), 40: scores(0.6)}),
        ("the reward is flat", dict.fromkeys(range(1, 41), 0.5), {0: scores(0.8), 40: scores(0.4)}),
        ("the fall is tiny", rising(), {0: scores(0.8), 40: scores(0.785)}),
        ("one evaluation", rising(), {40: scores(0.4)}),
        ("other prompts", rising(), {0: scores(0.8), 40: {"q1": 0.1, "q2": 0.2}}),
        ("no training", {}, {0: scores(0.8), 40: scores(0.4)}),
        ("one prompt", rising(), {0: {"p": 1.0}, 40: {"p": 0.0}}),
    ],
)
def test_alarm_is_quiet(why, rewards, held_out):
    assert alarm.hacking(rewards, held_out) is None, why


def test_alarm_tells_hacking_from_noise():
    """40 prompts x 8 samples, 64 rows a step: never rings for a constant policy, always for one
    that goes from 0.6 to 0.4 held out and from 0.3 to 0.8 in training."""
    rng = np.random.default_rng(0)
    rings = {"constant": 0, "learning": 0, "hacking": 0}
    ways = {"constant": (0.5, 0.5, 0.5, 0.5), "learning": (0.3, 0.8, 0.3, 0.7)}
    ways["hacking"] = (0.3, 0.8, 0.6, 0.4)
    for name, (r0, r1, h0, h1) in ways.items():
        for _ in range(60):
            reward = {s: rng.binomial(64, r0 + (r1 - r0) * s / 40) / 64 for s in range(1, 41)}
            held = {
                s: {f"p{i}": rng.binomial(8, h0 + (h1 - h0) * s / 40) / 8 for i in range(40)}
                for s in (0, 10, 20, 30, 40)
            }
            rings[name] += alarm.hacking(reward, held) is not None
    assert rings["hacking"] == 60 and rings["learning"] == 0, rings
    assert rings["constant"] <= 1, rings


def test_alarm_is_on_the_page(tmp_path):
    falls = {0: [0.8] * 20 + [0.9] * 20, 20: [0.3] * 20 + [0.4] * 20}
    hacked = write_run(tmp_path / "hacked", rewards=[0.03 * s for s in range(20)], evals=falls)
    fine = write_run(tmp_path / "fine", rewards=[0.03 * s for s in range(20)], changed={"a": 1})
    found = look(page.report([hacked, fine], tmp_path / "out.html"))
    rung = [a for t, a in found.tags if a.get("class") == "alarm"]
    assert len(rung) == 1, "an alarm for one of the two runs"
    assert "hacked: the held-out score falls while the training reward rises" in found.text
    assert "fell by\n0.500" in found.text and alarm.RULE in found.text
    assert "fine: 0 evaluations, too few to compare" in found.text


def test_remarks_look_at_the_last_steps(tmp_path):
    run = runs.read(write_run(tmp_path / "run"))
    run.metrics = [
        {"step": s, "rollout/truncated": 1.0 if s > 15 else 0.0, "policy/skipped": 0.0}
        for s in range(30)
    ]
    assert alarm.remarks(run) == [
        "rollout/truncated is 1 over the last 10 steps: most completions hit the length limit: "
        "lengthen the bucket"
    ]


# ---- charts


def test_ticks_are_round():
    assert charts.ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert charts.ticks(0, 40, 6) == [0, 10, 20, 30, 40]
    assert charts.ticks(3.0, 3.0) == [3.0]
    marks = charts.ticks(0.99999, 1.00003)
    assert len({charts.tick(v, marks) for v in marks}) == len(marks), "marks that look the same"


def test_thin_keeps_the_mean():
    series = {x: float(x % 7) for x in range(1000)}
    thinned = charts.thin(series, 100)
    assert len(thinned) == 100
    assert np.mean(list(thinned.values())) == pytest.approx(np.mean(list(series.values())))
    assert charts.thin({1: 2.0}, 100) == {1.0: 2.0}


def points_of(figure, kind):
    """Coordinates of the paths of a class."""
    root = xml.etree.ElementTree.fromstring(str(figure))
    inside = root.findall("svg/path")  # not those of the legend
    paths = [p.get("d") for p in inside if p.get("class", "").startswith(kind + " ")]
    return [[tuple(map(float, xy.split())) for xy in re.split("[MLZ]", d) if xy] for d in paths]


def test_lines_are_where_the_numbers_are():
    figure = charts.line_chart("t", [charts.Line("a", {0: 0.0, 5: 1.0, 10: 0.5})], y_range=(0, 1))
    line = points_of(figure, "line")[0]
    (x0, y0), (x1, y1), (x2, y2) = line
    assert x1 - x0 == pytest.approx(x2 - x1), "steps are not evenly spaced"
    assert y2 == pytest.approx((y0 + y1) / 2) and y1 < y0, "up is not up"
    assert charts.line_chart("t", [charts.Line("a", {})]) == ""
    assert "step 5\na: 1" in str(figure), "no numbers under the pointer"


def test_stack_adds_up():
    figure = charts.stack_chart("t", {"a": {1: 1.0, 2: 1.0}, "b": {1: 3.0}})
    root = xml.etree.ElementTree.fromstring(str(figure))
    areas = [p.get("d") for p in root.iter("path") if p.get("class", "").startswith("area")]
    heights = [[float(xy.split()[1]) for xy in re.split("[MLZ]", d) if xy][:2] for d in areas]
    bottom, unit = 180.0, (180.0 - 8.0) / 4  # the top is at 1 + 3
    assert heights[0] == pytest.approx([bottom - unit] * 2, abs=0.1)
    assert heights[1] == pytest.approx([bottom - 4 * unit, bottom - unit], abs=0.1)


@pytest.mark.parametrize("text", HOSTILE)
def test_labels_are_text(text):
    shown = visible(text)
    line = charts.Line(text, {0: 0.0, 1: 1.0})
    for figure in (
        charts.line_chart(text, [line], note=text),
        charts.stack_chart(text, {text: {0: 1.0}}, note=text),
    ):
        root = xml.etree.ElementTree.fromstring(str(figure))  # well-formed
        assert root.find("figcaption").text == shown and root.find("ul/li").text is None
        assert root.find("ul/li/svg").tail == shown
        assert {e.tag for e in root.iter()} <= TAGS


def test_pass_at_k_over_k(tmp_path):
    """Two prompts, 4 and 1 of 8 correct, then 8 and 8; mean of the unbiased estimates."""
    work = write_run(tmp_path / "run", evals={0: [0.5, 0.125], 5: [0.75, 0.5], 10: [1.0, 1.0]})
    figure = str(panels._pass_at_k(runs.settings([runs.read(work)])))
    first = np.mean([1 - math.comb(4, 4) / math.comb(8, 4), 1 - math.comb(7, 4) / math.comb(8, 4)])
    assert f"k 4\nrun, step 0: {first:.4g}\nrun, step 10: 1" in html.unescape(figure)
    assert "step 5" not in figure, "only the first and the last"
    assert len(points_of(figure, "band")) == 2


# ---- runs


def test_seeds_are_one_setting(tmp_path):
    where = [
        write_run(tmp_path / f"grpo-{s}", rewards=[s, s + 1.0], changed={"seed": s, "lr": 1e-5})
        for s in (0, 2, 4)
    ]
    where.append(write_run(tmp_path / "rloo", changed={"advantage": "rloo"}))
    found = runs.settings(runs.read_all(where))
    assert [(s.label, len(s.runs)) for s in found] == [("grpo (3 seeds)", 3), ("rloo", 1)]
    panel = panels.Panel("reward", "reward/mean")
    figure = panels._panel(found[:1], panel, ["reward/mean"], 100)
    assert len(points_of(figure, "band")) == 1 and len(points_of(figure, "line")) == 1
    assert "step 1\nreward/mean: 2" in str(figure), "not the mean of 0, 2 and 4"
    rows = runs.differences(runs.read_all(where))
    assert rows[0] == ("advantage", "0", [None, None, None, "'rloo'"])


def test_what_is_one_setting(tmp_path):
    """By config.json; what cannot be read is no default."""

    def made(name, seed=0, **changed):
        return write_run(tmp_path / name, changed=changed | dict(seed=seed))

    def labels(*where):
        return [(s.label, len(s.runs)) for s in runs.settings(runs.read_all(where))]

    old = made("v-seed0")  # of other defaults: config_diff.json is the same
    config = json.loads((old / "config.json").read_text()) | {"optim": {"lr": 1.0}}
    (old / "config.json").write_text(json.dumps(config))
    assert labels(old, made("v-seed1", 1)) == [("v-seed0", 1), ("v-seed1", 1)]
    assert labels(made("g0"), made("g1")) == [("g (2 runs of 1 seed)", 2)]
    slow = {"pool.deadline": 5.0}
    assert len(labels(made("p0"), made("p1", 1, **slow))) == 2, "verdicts that time out"
    assert len(labels(made("w0"), made("w1", 1, **{"pool.workers": 9}))) == 1
    rates = [made(f"lr1e-{e}/{s}", s, lr=e) for e in (5, 6) for s in (0, 1)]
    assert labels(*rates) == [("lr1e-5 (2 seeds)", 2), ("lr1e-6 (2 seeds)", 2)]
    assert labels(made("run-10", 0), made("run-11", 1)) == [("run (2 seeds)", 2)]
    damaged = made("d", lr=3)
    (damaged / "config_diff.json").write_text("{")
    assert runs.differences(runs.read_all([rates[0], damaged]))[0][2] == ["5", runs.UNKNOWN]


def test_only_verdicts_are_among_the_outcomes(tmp_path):
    work = write_run(tmp_path / "run")
    rows = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    counts = {"verify/dynamic/generated": 96.0, "verify/w/invalid": 2.0, "time/compilations": 7.0}
    write_lines(work / "metrics.jsonl", [row | counts for row in rows])
    text = page.render([runs.read(work)]).decode()
    stacked = text[text.index("Outcomes of the verifiers") :]
    stacked = stacked[: stacked.index("</figure>")]
    assert "w/invalid" in stacked and "dynamic" not in stacked
    other = text[text.index("Other metrics") :]
    assert "verify/dynamic/generated" in other, "nothing is lost"


def test_settings_that_differ_late_are_two(tmp_path):
    long = ["x" * 400 + f" probability={p} " + "y" * 400 for p in ("0.25", "0.75")]
    where = [
        write_run(tmp_path / f"p-{i}", changed={"shaping": text}) for i, text in enumerate(long)
    ]
    found = runs.read_all(where)
    assert [len(s.runs) for s in runs.settings(found)] == [1, 1]
    ((_, _, values),) = runs.differences(found)
    assert "probability=0.25" in values[0] and "probability=0.75" in values[1]
    assert max(map(len, values)) < 400


def test_runs_get_names_of_their_own(tmp_path):
    where = [write_run(tmp_path / a / "run") for a in ("x", "y")]
    assert [r.name for r in runs.read_all([*where, where[0]])] == ["x/run", "y/run"]


def test_long_settings_are_shortened():
    text = short("a" * 1000 + "b" * 1000, 100)
    assert text == "a" * 60 + " […1900 characters left out…] " + "b" * 40
    assert short("a" * 100, 100) == "a" * 100


def spoil(work, name, change):
    path = work / name
    path.write_bytes(change(path.read_bytes()))


SPOILT = {
    "half a last line": (
        lambda w: spoil(w, "metrics.jsonl", lambda b: b[:-20]),
        "metrics.jsonl: 1 damaged or unfinished line(s) left out, first line 4",
    ),
    "a damaged line": (
        lambda w: spoil(w, "metrics.jsonl", lambda b: b.replace(b'{"step": 2', b"\xff\x00{", 1)),
        "metrics.jsonl: 1 damaged or unfinished line(s) left out, first line 3",
    ),
    "other JSON": (
        lambda w: spoil(w, "metrics.jsonl", lambda b: b'[1]\n"x"\n{"step": "1"}\n' + b),
        "metrics.jsonl: 3 damaged",
    ),
    "no metrics": (lambda w: (w / "metrics.jsonl").unlink(), "metrics.jsonl: No such file"),
    "half a config": (lambda w: spoil(w, "config.json", lambda b: b[:9]), "config.json: damaged"),
    "a list": (lambda w: spoil(w, "config.json", lambda b: b"[]"), "config.json: damaged"),
    "half a diff": (
        lambda w: spoil(w, "config_diff.json", lambda b: b[:9]), "config_diff.json: damaged",
    ),
    "a damaged evaluation": (
        lambda w: (w / "eval_3.json").write_bytes(b"\x00"), "eval_3.json: damaged",
    ),
    "deep JSON": (
        lambda w: spoil(w, "config.json", lambda b: b"[" * 100_000), "config.json: damaged",
    ),
    "half a rollout": (
        lambda w: spoil(w, "rollouts.jsonl", lambda b: b[:-9]),
        "rollouts.jsonl: 1 damaged or unfinished line(s) left out",
    ),
    "an odd rollout": (
        lambda w: spoil(w, "rollouts.jsonl", lambda b: b.replace(b'"tokens": [', b'"tokens": [-')),
        "rollouts.jsonl: step 1, group 0: 4 row(s) left out",
    ),
    "no rollouts": (lambda w: (w / "rollouts.jsonl").unlink(), None),
    "a damaged tokenizer": (
        lambda w: ((w / "export").mkdir(), (w / "export/tokenizer.json").write_text("{}")),
        "export/tokenizer.json: ",
    ),
    "numbers that are none": (
        lambda w: spoil(
            w, "metrics.jsonl",
            lambda b: b + b'{"step": 4, "reward/mean": NaN, "x": 1e999, "y": "<b>", "z": null}\n',
        ),
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILT)
def test_a_spoilt_workdir_is_still_a_report(tmp_path, what):
    rows = [rollout(1, 0, j, "7", float(j % 2)) for j in range(4)]
    work = write_run(tmp_path / "run", rows=rows, evals={0: [0.5, 1.0]}, changed={"a": 1})
    change, problem = SPOILT[what]
    change(work)
    found = look(page.report([work]))
    if problem:
        assert f"not read: {problem}" in found.text, found.text[:1500]
    else:
        assert "not read" not in found.text, found.text[:1500]
    assert "Training reward" in found.text or what == "no metrics"


def test_an_empty_directory_and_a_running_run(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "No numbers yet" in look(page.report([tmp_path / "empty"])).text
    work = write_run(tmp_path / "running", summary=False)
    assert "running or stopped, step 3 of 3" in look(page.report([work])).text
    (tmp_path / "pages").mkdir()
    assert page.report([work], tmp_path / "pages") == tmp_path / "pages/report.html"


def test_what_cannot_be_reported_is_said(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/data.csv").write_text("1")
    with pytest.raises(FileNotFoundError, match=r"neither metrics.jsonl nor config.json"):
        page.report([tmp_path / "other"])
    with pytest.raises(FileNotFoundError, match="is not a directory; give the --workdir"):
        page.report([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="got 0 workdirs, expected 1 to 24"):
        page.report([])


# ---- rollouts


def test_hidden_characters_are_shown():
    assert visible("a\u202eb\x00\n\tc\ud800") == "a‹U+202E›b‹U+0000›\n\tc‹U+D800›"
    assert visible("שלום 👩\u200d🔬 é") == "שלום 👩\u200d🔬 é", "joiners and scripts stay"


@hypothesis.given(st.text(max_size=30))
def test_json_is_inert_and_whole(text):
    safe = safe_json([visible(text)])
    assert not set("<>&") & set(safe) and not HIDDEN.search(safe)
    assert json.loads(safe) == [visible(text)]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 8, 100])
def test_spread_takes_all_and_begins_evenly(n):
    order = rollouts._spread(n)
    assert sorted(order) == list(range(n))
    if n == 100:
        gaps = np.diff(sorted(order[:12]))
        assert {0, 99} <= set(order[:2]) and gaps.max() <= 16, sorted(order[:12])


def test_tokens_have_their_texts(toy, tmp_path):
    run = runs.read(toy)
    sample = rollouts.sample([run], 10**6)
    assert (sample.shown, sample.total, sample.without_texts) == (12, 12, [])
    running = shutil.copytree(toy, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    assert rollouts.sample([runs.read(running)], 10**6).without_texts == [], "before its export"
    (running / "tokenizer.json").unlink()
    assert rollouts.sample([runs.read(running)], 10**6).without_texts == ["run"]
    tokenizer = toy_tokenizer()
    shown = 0
    for group in sample.data["groups"]:
        for row in group["rows"]:
            ids = [sample.data["pieces"][t][0] for t in row["tokens"]]
            text = "".join(sample.data["pieces"][t][1] for t in row["tokens"])
            assert text == visible(tokenizer.decode(ids, skip_special=False)), ids
            shown += len(ids)
    written = [json.loads(s) for s in (toy / "rollouts.jsonl").read_text().splitlines()]
    assert shown == sum(len(row["tokens"]) for row in written), "tokens are missing"


def test_a_word_begins_with_its_blank():
    """Decoders drop the blank before a first token: the table must not."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"▁a": 0, "b": 1}, "b"))
    backend.decoder = tokenizers.decoders.Metaspace()
    pieces = rollouts.Pieces()
    pieces._backends["f"] = backend
    pieces.indices(pathlib.Path("f"), [0, 1, 0])
    assert pieces.table == [(0, " a"), (1, "b")]


def test_characters_of_several_tokens_are_shown():
    said = "é 数学 😀!"
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    backend.model = tokenizers.models.BPE({c: i for i, c in enumerate(letters)}, [])
    pieces, ids = rollouts.Pieces(), backend.encode(said).ids
    pieces._backends["f"] = backend
    shown = [pieces.table[at] for at in pieces.indices(pathlib.Path("f"), ids)]
    assert [i for i, _ in shown] == ids and "".join(text for _, text in shown) == said
    torn = pieces.indices(pathlib.Path("f"), ids[:1])
    assert pieces.table[torn[0]][1] == "\ufffd", "half a character"


def test_groups_may_span_blocks_and_files(tmp_path):
    rows = [rollout(1, b, 0, "7", 1.0) | {"group": 0} for b in (0, 1)]
    work = write_run(tmp_path / "run", rows=[*rows, rollout(1, 2, 0, "", 0.0) | {"group": -1}])
    write_lines(work / "rollouts-1.jsonl", [rollout(1, 0, j, "8", 0.0) for j in (0, 1)])
    shown = rollouts.sample([runs.read(work)], 10**6)
    assert sorted(len(g["rows"]) for g in shown.data["groups"]) == [2, 2], shown.data["groups"]


def test_rows_without_reward_are_not_in_the_tree(tmp_path):
    rows = [rollout(1, 0, j, t, float(r)) for j, (t, r) in enumerate([("77", 1), ("78", 0)])]
    rows.append(rollout(1, 0, 2, "99", 0.0) | {"row_mask": False, "reward": None})
    shown = rollouts.sample([runs.read(write_run(tmp_path / "run", rows=rows))], 10**6)
    nodes = shown.data["groups"][0]["tree"]
    assert [(n["value"], n["rows"]) for n in nodes] == [(0.5, 2), (1.0, 1), (0.0, 1)], nodes
    assert [row["live"] for row in shown.data["groups"][0]["rows"]] == [True, True, False]


def test_recorded_columns_come_through(tmp_path):
    columns = {"entropy": [0.1, 0.2], "old_logp": [-0.5, -0.25], "certainty": 3.14159, "late": True}
    columns |= {"rank": None, "short": [1.0]}
    rows = [rollout(1, 0, 0, "77", 1.0) | {"columns": columns, "loss_mask": [True, False]}]
    shown = rollouts.sample([runs.read(write_run(tmp_path / "run", rows=rows))], 10**6)
    row = shown.data["groups"][0]["rows"][0]
    assert row["columns"] == {"entropy": [0.1, 0.2], "old_logp": [-0.5, -0.25]}
    assert row["numbers"] == [["certainty", 3.142], ["late", 1.0], ["rank", None]]
    assert row["trained"] == [1, 0]
    assert row["log_ratio"] == [0.0, 0.25] and row["advantage"] == 0.5 and row["logp"] == -0.5
    for damaged in ("old_logp", [1], {"x": {"y": 1}}):
        rows = [rollout(1, 0, 0, "77", 1.0) | {"columns": damaged}]
        shown = rollouts.sample([runs.read(write_run(tmp_path / "run", rows=rows))], 10**6)
        assert "columns" not in shown.data["groups"][0]["rows"][0]


def test_the_page_stays_small(tmp_path):
    """Completions of a megabyte, and many groups."""
    giant = "<b>" + "7" * 1_000_000
    tokens = [5 + i % 9 for i in range(100_000)]
    rows = []
    for step in range(1, 3):
        for j in range(4):
            row = rollout(step, 0, j, "7", float(j % 2))
            row |= {"completion": giant, "tokens": tokens, "loss_mask": [True] * len(tokens)}
            row |= {"sampler_logp": [-i / 1e5 for i in tokens], "advantages": [0.1] * len(tokens)}
            rows.append(row | {"prompt": giant, "details": {"v": giant}, "answer": giant})
    small = [
        rollout(s, b, j, "7" * 40, 1.0) for s in range(3, 60) for b in (0, 1) for j in range(4)
    ]
    work = write_run(tmp_path / "run", rows=rows + small)
    found = look(page.report([work]))
    row = found.data["groups"][0]["rows"][0]
    assert row["length"] == 100_000 and row["cut"][1] > 90_000, row["cut"]
    assert len(row["tokens"]) == row["length"] - row["cut"][1] <= rollouts.TOKENS
    sample = rollouts.sample([runs.read(work)], 60_000)
    size = len(safe_json(sample.data).encode())
    steps = [g["step"] for g in sample.data["groups"]]
    assert size < 70_000 and 10 < sample.shown < sample.total == 116, (size, sample.shown)
    assert steps == sorted(steps) and steps[-1] == 59 and max(np.diff(steps)) < 20, steps
    assert rollouts.sample([runs.read(work)], 0).shown == 0


def test_very_many_curves_leave_less_room_for_rollouts(tmp_path, monkeypatch):
    rows = [rollout(s, 0, j, "7" * 40, 1.0) for s in range(40) for j in range(4)]
    work = write_run(tmp_path / "run", rows=rows)
    whole = look(page.report([work]))
    assert len(whole.data["groups"]) == 40
    monkeypatch.setattr(page, "LIMIT", (work / "report.html").stat().st_size - 10_000)
    monkeypatch.setattr(page, "_SLACK", 500)
    fewer = look(page.report([work]))
    assert 0 < len(fewer.data["groups"]) < 40 and "A sample:" in fewer.text
    monkeypatch.setattr(page, "LIMIT", 10_000)
    with pytest.raises(ValueError, match="without rollouts, expected at most 10,000; give fewer"):
        page.report([work])


# ---- the page


def test_a_real_run(toy, tmp_path):
    found = look(page.report([toy], tmp_path / "report.html"))
    for title in (
        "Training reward and held-out score", "Held-out pass@k", "Entropy", "Length",
        "Outcomes of the verifiers", "Sampler gap", "Time by stage", "Distinct completions",
        "Reward before and after shaping", "Clip fractions", "Gradient norm", "Truncated",
    ):  # fmt: skip
        assert title in found.text, f"no chart {title!r}"
    metrics = [json.loads(s) for s in (toy / "metrics.jsonl").read_text().splitlines()]
    unseen = []
    for name in set().union(*metrics) - {"step", "time"}:
        shown = (
            name.removeprefix("verify/") if name[:7] == "verify/" else name.removeprefix("time/")
        )
        if shown not in found.text and name not in found.text:
            unseen.append(name)
    assert not unseen, f"metrics that no chart shows: {unseen}"
    assert "rollout.group" in found.text and "config.json" not in found.text
    assert sorted(p.name for p in toy.iterdir() if p.name.startswith("report")) == []


def test_hostile_text_is_text(tmp_path):
    rows = []
    for j, text in enumerate(HOSTILE):
        row = rollout(
            1, 0, j, "7", float(j % 2), completion=text, prompt=text, answer=text, id=text
        )
        row |= {"verdicts": {text: 1.0}, "outcomes": {text: text}, "details": {text: text}}
        rows.append(row)
    name = HOSTILE[3]
    work = write_run(tmp_path / name, rows=rows, changed={HOSTILE[0]: HOSTILE[1]})
    metric = {"step": 3, "reward/mean": 1.0} | {text: 0.5 for text in HOSTILE}
    metric |= {f"verify/{text}": 1.0 for text in HOSTILE}
    with (work / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(metric) + "\n")
    (work / "eval_0.json").write_text(json.dumps({"per_prompt": {t: t for t in HOSTILE}}))
    found = look(page.report([work], tmp_path / "out.html"))
    group = found.data["groups"][0]
    assert group["prompts"] == [visible(text) for text in HOSTILE]
    assert [row["text"] for row in group["rows"]] == [visible(text) for text in HOSTILE]
    assert HOSTILE[0] in found.text and "{{ 7 * 7 }}" in found.text, "not shown as it is"


def test_the_command(tmp_path):
    work = write_run(tmp_path / "run")

    def rlpt(*args):
        return subprocess.run(
            [sys.executable, "-m", "rlpt.cli", "report", *map(str, args)], cwd=ROOT,
            text=True, capture_output=True,
        )  # fmt: skip

    done = rlpt(work, work, "--out", tmp_path / "deep/er.html")
    assert done.returncode == 0 and done.stdout.strip() == f"wrote {tmp_path}/deep/er.html", done
    look(tmp_path / "deep/er.html")
    assert "a workdir is needed" in rlpt("--out", "x.html").stderr
    missing = rlpt(tmp_path / "nowhere")
    assert missing.returncode == 1 and "is not a directory" in missing.stderr, missing


# ---- in a browser


class Browser:
    """Headless Chromium, spoken to over its DevTools pipe (JSON messages, each ended by NUL)."""

    def __init__(self, profile: pathlib.Path):
        binary = shutil.which("chromium") or shutil.which("google-chrome")
        if not binary:
            pytest.skip("no Chromium (Debian: apt-get install chromium)")
        read, self._out = os.pipe()
        self._in, write = os.pipe()
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
        ]
        flags += [
            "--disable-dev-shm-usage",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{read} 4>&{write}', "bash", binary, *flags],
            pass_fds=(read, write), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read)
        os.close(write)
        self._buffer, self._number, self._session = b"", 0, ""
        self.events: list[dict] = []

    def send(self, method: str, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _receive(self):
        while b"\0" not in self._buffer:
            part = os.read(self._in, 1 << 20)
            assert part, "Chromium ended"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def open(
        self, page: pathlib.Path, width: int = 1360, height: int = 1000, after: str = ""
    ) -> None:
        """Loads a page in a tab of its own; its script has run when this returns."""
        self._session, self.events = "", []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.send("Page.navigate", url=page.as_uri() + after)
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._receive())

    def run(self, script: str):
        """The value of an expression in the page."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """A real click of the mouse on the middle of an element."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect(); "
            "return [b.x + b.width / 2, b.y + b.height / 2] })()"
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        self.click(selector)
        self.send("Input.insertText", text=text)

    def complaints(self) -> list[str]:
        """Errors of the console and of the page's policy, and what it tried to fetch."""
        found = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"]))
            if method == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(params["entry"]["text"])
            if method == "Network.requestWillBeSent" and params.get("type") != "Document":
                found.append("asked for " + params["request"]["url"])
        return found

    def close(self) -> None:
        self._session = ""
        with contextlib.suppress(AssertionError, OSError):
            self.send("Browser.close")
        self._process.wait(20)
        os.close(self._in)
        os.close(self._out)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    """A page with 60 ordinary completions and a group of hostile ones."""
    rows = [
        rollout(s, b, j, text, float(j == 3))
        for s in range(1, 6) for b in range(3)
        for j, text in enumerate(("3+4=8", "3+4=9", "eight", "3+4=7"))
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("page")
    toy_tokenizer().save(folder / "run/export")
    file = folder / "run/export/tokenizer.json"
    backend = tokenizers.Tokenizer.from_file(str(file))
    spelt = [text.encode("utf-8", "ignore").decode() for text in HOSTILE]
    backend.add_tokens(spelt)  # each a token of its own
    backend.save(str(file))
    for j, text in enumerate(HOSTILE):
        tokens = [backend.token_to_id(spelt[j])] * 2
        more = {"tokens": tokens, "loss_mask": [True] * 2, "sampler_logp": [-0.5] * 2}
        more |= {"completion": text, "prompt": text, "details": {"v": text}, "id": "hostile"}
        rows.append(rollout(9, 0, j, "77", 0.0, **more))
    work = write_run(folder / "run", rows=rows)
    browser.open(page.report([work]))
    return browser


COUNT = "document.querySelector('#count').textContent"
FIRST = "[...document.querySelectorAll('#rows tbody tr')].map(r => r.innerText.split('\\t'))"


def select(browser, selector, value):
    browser.run(
        f"(() => {{ const s = document.querySelector('{selector}'); s.value = {json.dumps(value)}; "
        "s.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


@pytest.mark.slow  # needs Chromium
def test_filters_and_sorting_work(opened):
    opened.click("#clear")
    assert opened.run(COUNT) == "70 of 70 completions"
    assert "1 to 50" in opened.run("document.querySelector('#place').textContent")
    opened.click("#forth")
    assert "51 to 70" in opened.run("document.querySelector('#place').textContent")
    opened.type("#from", "2")
    opened.type("#to", "5")
    assert opened.run(COUNT) == "48 of 70 completions"
    opened.type("#low", "0.5")
    assert opened.run(COUNT) == "12 of 70 completions", "4 steps x 3 prompts, one correct each"
    opened.type("#text", "sum:1")
    assert opened.run(COUNT) == "4 of 70 completions"
    opened.click("#clear")
    select(opened, "#outcome", "=v: correct")
    assert opened.run(COUNT) == "15 of 70 completions"
    opened.click("#clear")
    select(opened, "#sort", "reward")
    opened.click("#down")
    rewards = [row[2] for row in opened.run(FIRST)]
    assert rewards == ["1"] * 15 + ["0"] * 35, rewards
    select(opened, "#sort", "step")
    steps = [int(row[0]) for row in opened.run(FIRST)]
    assert steps == sorted(steps, reverse=True) and steps[0] == 9, steps


@pytest.mark.slow  # needs Chromium
def test_a_group_is_drawn(opened):
    opened.click("#clear")
    opened.click("#rows tbody tr:nth-child(4)")
    title = opened.run("document.querySelector('#group-title').textContent")
    assert title == "step 1, sum:0: mean reward 0.25 over 4 completions"
    cards = opened.run("[...document.querySelectorAll('.card .tokens')].map(c => c.textContent)")
    assert cards == ["3+4=8", "3+4=9", "eight", "3+4=7"], cards
    shades = opened.run(
        "[...document.querySelectorAll('.card')].map(c => "
        "c.querySelector('.tokens span').style.background)"
    )
    assert shades == ["rgba(0, 114, 178, 0.75)"] * 3 + ["rgba(213, 94, 0, 0.75)"], shades
    drawn = opened.run("[...document.querySelectorAll('#tree text')].map(t => t.textContent)")
    assert drawn == [
        "(start)", "V 0.25  n 4", "3+4=", "V 0.3333  n 3", "8", "V 0  #1", "9", "V 0  #2",
        "7", "V 1  #4", "eight", "V 0  #3",
    ], drawn  # fmt: skip
    select(opened, "#mode", "surprise")
    assert opened.run("document.querySelector('#scale').textContent") == "00.5"
    x, y = opened.run(
        "(() => { const e = document.querySelectorAll('.card .tokens span')[4]; "
        "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect(); "
        "return [b.x + b.width / 2, b.y + b.height / 2] })()"
    )
    opened.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    token = toy_tokenizer().encode("8")[0]
    assert opened.run("document.querySelector('#tip').textContent") == (
        f"token 4, id {token}\nadvantage -0.5\nlog-prob -0.5 (p 0.6065)"
    )
    assert "group=0&row=3" in opened.run("location.hash"), "no address of this view"


@pytest.mark.slow  # needs Chromium
def test_hostile_completions_in_a_browser(opened):
    opened.click("#clear")
    opened.type("#text", "hostile")
    assert opened.run(COUNT) == "10 of 70 completions"
    for row in range(len(HOSTILE)):
        opened.click(f"#rows tbody tr:nth-child({row + 1})")
    prompts = opened.run("[...document.querySelectorAll('#prompts pre')].map(p => p.textContent)")
    assert prompts == [visible(text) for text in HOSTILE]
    assert opened.run("window.pwned") is None, "a completion ran"
    assert opened.run("document.querySelectorAll('img, iframe, object').length") == 0
    shown = opened.run(
        "[...document.querySelectorAll('.card .tokens span')].map(t => t.textContent)"
    )
    spelt = [visible(text.encode("utf-8", "ignore").decode()) for text in HOSTILE for _ in "12"]
    assert [t.strip() for t in shown] == [t.strip() for t in spelt]
    assert opened.complaints() == []


@pytest.mark.slow  # needs Chromium
def test_the_policy_stops_a_script_that_came_through(browser, tmp_path):
    """If escaping failed: markup put into a finished page by hand does nothing."""
    path = page.report([write_run(tmp_path / "run")])
    planted = (
        "<script>window.pwned = 1</script><img src='http://127.0.0.1:9/x' onerror='pwned = 1'>"
    )
    path.write_text(path.read_text().replace("<main>", "<main>" + planted))
    browser.open(path)
    assert browser.run("window.pwned") is None
    refused = " ".join(browser.complaints())
    assert "script-src" in refused and "img-src" in refused, refused


@pytest.mark.slow  # needs Chromium
def test_an_address_opens_its_view(browser, tmp_path):
    rows = [rollout(s, 0, j, f"{s}{j}", 0.0) for s in range(1, 4) for j in range(2)]
    rows = [r | {"columns": {"x": [-0.5] * len(r["tokens"]), "rank": 2}} for r in rows]
    path = page.report([write_run(tmp_path / "run", rows=rows)])
    browser.open(path, after="#inspector?group=2&row=1&mode=column x&from=2")
    assert browser.run("document.querySelector('#mode').value") == "column x"
    assert browser.run("document.querySelector('#scale').textContent") == "-0.500.5"
    facts = browser.run("document.querySelector('.card dl').textContent")
    assert "rank 2" in facts, facts
    browser.open(path, after="#inspector?group=2&row=1&mode=surprise&from=2")
    assert browser.run("document.querySelector('#group-title').textContent").startswith("step 3, ")
    assert browser.run("document.querySelector('.card.chosen b').textContent").startswith("#2 ")
    assert browser.run("document.querySelector('#mode').value") == "surprise"
    assert browser.run(COUNT) == "4 of 6 completions"


@pytest.mark.slow  # needs Chromium
def test_dark_and_light(opened):
    grounds = []
    for scheme in ("light", "dark"):
        opened.send(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        grounds.append(opened.run("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(255, 255, 255)", "rgb(20, 23, 26)"], grounds
