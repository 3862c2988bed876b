"""What all tests share: the environment, and the options --slow and --no-skips."""

from __future__ import annotations

import gc
import os
import pathlib
import sys

import hypothesis
import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Read by jax when it is imported, and by the processes that tests start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / "runs/.jax_cache"))
# Tiny programs: nearly all of the time would go into compiling them well. With its emitters for
# fusions XLA takes four times as long to compile an update for a CPU. RLPT_TEST_XLA=1: as users do.
if os.environ.get("RLPT_TEST_XLA") != "1":
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    given = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_use_fusion_emitters" not in given:
        os.environ["XLA_FLAGS"] = f"{given} --xla_cpu_use_fusion_emitters=false".strip()

# Compilation makes a first example slow; CI looks at the same examples every time.
hypothesis.settings.register_profile("rlpt", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("rlpt")


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Compiled programs hold memory maps, of which a process has some 65,000: let go of them."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        gc.collect()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rlpt")
    group.addoption("--slow", action="store_true", help="run the tests marked slow too")
    group.addoption("--no-skips", action="store_true", help="a skipped test fails the run")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Skips(config), "rlpt-skips")


@pytest.hookimpl(trylast=True)  # after -k and -m have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves tests marked slow out, as if not chosen: a skip would be a failure in CI."""
    if config.getoption("--slow"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


class _Skips:
    """With --no-skips: lists what was skipped (an xfail counts) and fails the run."""

    def __init__(self, config: pytest.Config):
        self._active = config.getoption("--no-skips")
        self._skipped: list[str] = []

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "xfail"
            self._skipped.append(f"{report.nodeid}: {reason}")

    pytest_runtest_logreport = _note
    pytest_collectreport = _note

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._active and self._skipped and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._active and self._skipped:
            terminalreporter.section("skipped, which --no-skips counts as failed")
            for line in self._skipped:
                terminalreporter.line(line)
