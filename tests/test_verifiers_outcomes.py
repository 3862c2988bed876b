"""Verifiers whose scores are no rewards yet: stated confidence, abstention, flawed steps."""

import math

import pytest

from rlpt import config
from rlpt.tasks import base as tasks_base
from rlpt.verifiers import abstain, base, confidence, equations, pool

PROMPT = tasks_base.Prompt("p", tasks_base.chat("7 + 5 ="), "12")


def judge(verify, text, **settings):
    return verify(base.Trajectory(text), PROMPT, **settings)


# ---- confidence


@pytest.mark.parametrize(
    ("inside", "value"),
    [
        ("0.8", 0.8),
        (" .8\n", 0.8),
        ("1", 1.0),
        ("1.0", 1.0),
        ("0", 0.0),
        ("1.", 1.0),
        ("00.5", 0.5),
    ],
)
def test_confidence_is_a_decimal(inside, value):
    got = judge(confidence.confidence, f"12 <confidence>{inside}</confidence>")
    assert (got.score, got.outcome) == (value, "correct"), got


@pytest.mark.parametrize(
    "inside",
    ["", "1.1", "-0.1", "80%", "nan", "inf", "1e-1", "0,8", "high", "0.8 0.9", "+0.5", "0x1", ".",
     "1_0", "\u0661"],
)  # fmt: skip
def test_what_is_no_confidence_is_malformed(inside):
    got = judge(confidence.confidence, f"<confidence>{inside}</confidence>")
    assert (got.score, got.outcome) == (-1.0, "incorrect"), f"{inside!r}: {got}"
    assert inside[:10] in got.detail, "the detail shows what was found"


@pytest.mark.parametrize(
    "text",
    [
        "12",
        "<confidence>0.5",
        "0.5</confidence>",
        "</confidence>0.5<confidence>",
        "<confidence>0.1</confidence> <confidence>0.9</confidence>",
        "<confidence>0.1 <confidence>0.9</confidence>",
        "<Confidence>0.5</Confidence>",
    ],
)
def test_the_tag_stands_there_once(text):
    got = judge(confidence.confidence, text)
    assert (got.score, got.outcome) == (-1.0, "incorrect"), got


def test_another_tag():
    assert judge(confidence.confidence, "<p>0.25</p>", tag="p").score == 0.25


# ---- abstention


@pytest.mark.parametrize(
    ("text", "silent"),
    [
        ("I don't know.", True),
        ("I don\u2019t know.", True),
        ("Sorry, i do not really KNOW that", True),
        ("I cannot answer this", True),
        ("I'm not sure", True),
        ("I am unable to answer", True),
        ("There is not enough information.", True),
        ("12", False),
        ("", False),
        ("You don't know me", False),
        ("I know: 12", False),
        ("Know that I dont, well, 12", False),
    ],
)
def test_abstention(text, silent):
    got = judge(abstain.abstain, text)
    want = (1.0, "incorrect") if silent else (0.0, "correct")
    assert (got.score, got.outcome) == want, got


def test_abstention_is_looked_for_where_the_answer_stands():
    text = "Hm, I don't know. Wait: <answer>12</answer>"
    assert judge(abstain.abstain, text).score == 1.0
    assert judge(abstain.abstain, text, extract="tag").score == 0.0
    text = "7 + 5 is hard. <answer>I don't know</answer>"
    assert judge(abstain.abstain, text, extract="tag").score == 1.0
    assert judge(abstain.abstain, "I don't know", extract="tag").score == 0.0, "no tag, no silence"


def test_own_patterns():
    assert judge(abstain.abstain, "PASS", patterns=("^pass$",)).score == 1.0
    assert judge(abstain.abstain, "I don't know", patterns=("^pass$",)).score == 0.0
    for bad in ((), ("",), ("(",)):
        with pytest.raises(ValueError, match="patterns: "):
            judge(abstain.abstain, "x", patterns=bad)


# ---- false equations


@pytest.mark.parametrize(
    "text",
    [
        "3 + 4 = 8",
        "so 3+4=8.",
        "first 3 + 4 = 7, then 7 * 2 = 15",
        "2 - 3 = 1",
        "x = 3 + 4 = 8",
        "6 x 7 = 43",
        "6 \u00d7 7 = 41",
        "0.1 + 0.2 = 0.31",
        "1 / 0 = 0",
        "10 / 4 = 2.6",
        "3 + 4 = 8\n",
    ],
)
def test_false_equations_are_flagged(text):
    got = judge(equations.equations, text)
    assert (got.score, got.outcome) == (1.0, "incorrect"), got
    assert "false: " in got.detail


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12",
        "3 + 4 = 7",
        "2 - 3 = -1",
        "2 \u2212 3 = \u22121",
        "0.1 + 0.2 = 0.3",
        "10 / 4 = 2.5",
        "10 / 3 = 3.33",
        "7 / 2 = 3 remainder 1",
        # what is not read: longer expressions, other forms
        "1 + 2 + 3 = 6",
        "1+2+3=6",
        "2 * 3 + 4 = 10",
        "2 ^ 3 + 1 = 9",
        "2^3 + 1 = 9",
        "3 + 4 = 2 + 5",
        "3 + 4 = 14 / 2",
        "1,200 + 34 = 1234",
        "1200 + 34 = 1,234",
        "1/2 + 1/2 = 1",
        "0x10 = 16",
        "3 + 4 = 5x",
        "version 1.2 + 3 = 4.5.6",
    ],
)
def test_true_equations_and_other_text_pass(text):
    got = judge(equations.equations, text)
    assert (got.score, got.outcome) == (0.0, "correct"), got


def test_a_long_text_is_read_in_no_time():
    text = "1 + " * 20_000 + "1" * 20_000 + " = 3" + "(" * 20_000
    assert judge(equations.equations, text).score == 0.0


# ---- from a config


def test_the_pool_takes_their_scores():
    specs = (
        dict(fn="confidence.confidence", name="confidence"),
        dict(fn="abstain.abstain", name="abstained", patterns=("pass",)),
        dict(fn="equations.equations", name="flawed"),
    )
    texts = ["3 + 4 = 8 <confidence>0.25</confidence>", "Pass"]
    with pool.VerifierPool(specs, workers=1) as judges:
        got = judges.verify([base.Trajectory(t) for t in texts], [PROMPT] * 2)
    scores = [[v[name].score for name in ("confidence", "abstained", "flawed")] for v in got]
    assert scores == [[0.25, 0.0, 1.0], [-1.0, 1.0, 0.0]], "-1 is in the range of the verifier"
    assert all(math.isfinite(s) for row in scores for s in row)


def test_unknown_settings_are_named():
    with pytest.raises(config.ConfigError, match="pattern'.*patterns"):
        config.resolve("verifiers", "abstain.abstain", pattern="x")
