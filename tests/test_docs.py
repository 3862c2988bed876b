"""The documents name settings that exist, and numbers that come out."""

import ast
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import config, learner, settings

TEXT = (pathlib.Path(__file__).parents[1] / "docs/settings.md").read_text()
PACKAGES = ("advantages", "losses", "rewards", "rollouts", "scorers", "verifiers")
OWNER = {name: p for p in PACKAGES for name in config.accepted_names(p)}
MODULES = {name.partition(".")[0] for name in OWNER}


def rows():
    """(header, cells) of all rows of the tables."""
    header = None
    for line in TEXT.splitlines():
        cells = [c.strip() for c in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            header = None
        elif header is None:
            header = cells
        elif not set(line) <= set("|-"):
            yield header, cells


def quoted(text):
    return re.findall(r"`([^`]+)`", text)


def column(name):
    return [(h, dict(zip(h, c, strict=True))) for h, c in rows() if name in h]


def literal(node):
    """The value of an expression of constants, tuples, signs and dict(...)."""
    if isinstance(node, ast.Call):
        assert node.func.id == "dict" and not node.args, ast.unparse(node)
        return {k.arg: literal(k.value) for k in node.keywords}
    if isinstance(node, ast.Tuple):
        return tuple(map(literal, node.elts))
    return ast.literal_eval(node)


def resolve(code):
    """What a name in the document stands for; raises where there is no such thing."""
    node = ast.parse(code).body[0]
    target, value = (node.targets[0], node.value) if isinstance(node, ast.Assign) else (None, None)
    name = ast.unparse(target if target is not None else node.value)
    if name.startswith("config."):
        *parents, last = name.split(".")[1:]
        c = settings.default()
        section = c
        for parent in parents:
            section = section[parent]
        if value is None:
            return section[last]
        section[last] = literal(value)  # refuses unknown names and other types
        settings.validate(c)
        return section[last]
    assert target is None, f"{code}: only config.<name> can be set"
    call = node.value
    if name.startswith("dict("):
        return learner.make_term(literal(call))
    given = {}
    if isinstance(call, ast.Call):
        given = {k.arg: literal(k.value) for k in call.keywords}
        name = ast.unparse(call.func)
    assert name in OWNER, f"rlpt has no {name}"
    return config.resolve(OWNER[name], name, **given)


def test_all_tables_are_read():
    tables = {tuple(h) for h, _ in rows()}
    assert len(column("rlpt")) > 50 and len(tables) == 2, tables
    for header, cells in rows():
        assert len(cells) == len(header), f"{len(cells)} cells in: {cells}"


@pytest.mark.parametrize("code", sorted({q for _, c in column("rlpt") for q in quoted(c["rlpt"])}))
def test_what_stands_for_a_setting_exists(code):
    resolve(code)


def test_the_column_holds_nothing_else():
    for _, cells in column("rlpt"):
        rest = re.sub(r"`[^`]+`", "", cells["rlpt"])
        assert set(re.findall(r"\w+", rest)) <= {"and"}, cells["rlpt"]


def test_names_of_rlpt_outside_that_column_exist_too():
    found = [q for q in quoted(TEXT) if re.match(rf"(config|{'|'.join(MODULES)})\.\w", q)]
    assert len(found) > 60
    for code in found:
        resolve(code)


def test_defaults_that_are_called_so_are_those():
    base = settings.default()
    for code in (
        'config.learner.old_logp="auto"',
        'config.too_long="drop"',
        'config.optim.schedule="constant"',
        "config.optim.lr=1e-6",
        "config.sampling.temperature=1.0",
        "config.rollout.group=8",
        "config.rollout.prompts=8",
    ):
        assert code in TEXT
        name, _, value = code.partition("=")
        section = base
        for part in name.split(".")[1:]:
            section = section[part]
        assert section == ast.literal_eval(value), name


@pytest.mark.parametrize(
    "cells", [c for h, c in column("rlpt") if h[0] == "rewards"], ids=lambda c: c["rlpt"]
)
def test_numbers(cells):
    rewards, want = (np.array(cells[k].split(), float) for k in ("rewards", "advantages"))
    got = resolve(quoted(cells["rlpt"])[0])({"rewards": jnp.asarray(rewards[None], jnp.float32)})
    np.testing.assert_allclose(got[0], want, atol=1e-6)


def test_a_name_that_is_gone_would_be_found():
    for code in (
        "config.rollout.groups=8",
        "config.rollout.group='8'",
        "config.learner.old_logp='no'",
        "group.grpo(epsilon=1)",
        "group.grop",
        "dict(surrogate='surrogates.ppo')",
        "dict(fn='penalties.k3', coefficient=1.0)",
    ):
        with pytest.raises((KeyError, TypeError, AttributeError, ValueError, AssertionError)):
            resolve(code)
