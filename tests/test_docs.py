"""The documents name settings that exist, numbers that come out and commands that work."""

import ast
import html
import importlib.util
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import columns, config, learner, settings

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "docs/settings.md").read_text()
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


# ---- the commands of README.md

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]

# Beginnings of commands that are not run here, and why.
NOT_RUN = {
    "source .venv/bin/activate": "the tests run in an environment already",
    "pip install ": "it installs from the network; that the names exist is another test",
    ".venv/bin/pip install ": "the same",
    "rlpt train --config configs/grpo.py --workdir runs/x ": "one of two; see test_distributed.py",
    "rlpt supervise ": "the same",
    "sbatch ": "there is no Slurm; test_distributed.py runs the script with a stand-in",
}
# In what is run: the toy model in place of real ones, and few steps.
SMOKE = ((r"configs/(\w+)\.py", r"configs/\1.py:runlocal"), (r"\bembedded\b", "toy"))


def test_command_blocks_are_marked_as_such():
    assert len(COMMANDS) > 10
    for kind, text in BLOCKS:
        assert kind in ("", "bash"), f"README.md: a block of {kind}"
        starts = [line for line in text.splitlines() if re.match(r"(bash|rlpt|pip) \w", line)]
        assert kind == "bash" or not starts, f"README.md: mark as bash: {starts}"


# One process for them all: each by itself would import and compile again.
IN_TURN = """
import json, sys
from rlpt import cli
calls = json.loads(sys.argv[1])
for arguments in calls:
    sys.argv = ["rlpt", *arguments]  # --config.KEY=VALUE is looked for there
    print("$", *sys.argv, flush=True)
    cli.main()
"""


def test_the_commands_of_the_readme_work(tmp_path):
    """All of them, in order and in one directory, in a small form."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    calls = []
    for line in COMMANDS:
        command = line.partition("  #")[0]
        if command.startswith(tuple(NOT_RUN)):
            continue
        program, *arguments = shlex.split(command)
        if program == "bash":  # installs: what it would do
            script, *arguments = arguments
            called = ["bash", ROOT / script, "--dry-run", *arguments]
            done = subprocess.run(called, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}: {done.stderr}"
        else:
            assert program == "rlpt", f"say in NOT_RUN why this is not tried: {command}"
            for pattern, small in SMOKE:
                command = re.sub(pattern, small, command)
            calls.append(shlex.split(command)[1:])
    assert len(calls) >= 8
    done = subprocess.run(
        [sys.executable, "-c", IN_TURN, json.dumps(calls)], cwd=tmp_path, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    comparison = done.stdout.partition("--base runs/base.json")[2]
    assert "gained" in comparison, "no comparison with the base model"
    for name in ("mine/report.html", "both.html", "mine.json", "exported/model.safetensors"):
        assert (tmp_path / "runs" / name).stat().st_size > 1000, f"the commands wrote no {name}"


def test_what_the_readme_installs_exists():
    setup = (ROOT / "setup.py").read_text()
    installed = [line for line in COMMANDS if "pip install" in line]
    for extra in re.findall(r"\.\[(\w+)\]", " ".join(installed)):
        assert f'"{extra}": [' in setup, f"setup.py has no extra {extra}"
    scripts = (ROOT / "launch/common.sh").read_text()
    for pin in re.findall(r"[\w-]+==[\w.]+", " ".join(installed)):
        assert pin in setup + scripts, f"{pin} is another version elsewhere"


# ---- the site


def test_the_tour_runs(capsys):
    scope: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs/tour.md").read_text(), re.S):
        exec(block, scope)
    assert "Did you mean 'td_coef'?" in capsys.readouterr().out
    grpo, credit = scope["group"].grpo(scope["table"]["rewards"], ddof=0), scope["credit"]
    moved = np.abs(credit - grpo[..., None])[0] > 1e-3
    assert moved.tolist() == [[False, True, True], [False, True, True], [False, True, False],
                              [False, True, True]], credit  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install -e '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", out],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr  # a broken link is an error
    return out


def test_the_site_has_everything(site):
    read = lambda name: html.unescape((site / f"{name}.html").read_text())  # noqa: E731
    for name in columns.LEGEND:
        assert f"<code>{name}</code>" in read("columns"), f"columns.html: no {name}"
    methods = read("methods")
    for path in (ROOT / "configs").glob("*.py"):
        doc = ast.get_docstring(ast.parse(path.read_text())).splitlines()
        assert f'<h2 id="{path.stem}">{path.stem}</h2>' in methods
        assert doc[0] in methods and doc[-1].strip() in methods, path
    assert "config.advantage = ({'fn': 'tree.tempo'" in methods
    assert "c.sampling = dict(" in read("defaults")
    assert "best_of_group" in read("contributing")
    assert "97.4%" in read("results") and (site / "quickstart.png").is_file()
    for name in ("index", "tour", "judges", "log", "bandit", "worked_numbers", "benchmarks"):
        assert len(read(name)) > 5000, f"{name}.html is nearly empty"


def test_the_site_fetches_nothing(site):
    for path in site.rglob("*.html"):
        wanted = re.findall(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=.(https?:[^\"' >]+)",
                            path.read_text())  # fmt: skip
        assert not wanted, f"{path.name} fetches {wanted}"


def test_nothing_generated_is_kept():
    for name in ("index", "columns", "methods", "defaults", "results", "contributing"):
        assert not (ROOT / f"docs/{name}.md").exists(), f"docs/hooks.py makes {name}.md"
