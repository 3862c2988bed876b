"""The notebooks that train SmolLM2: in smoke mode two updates each."""

import json
import pathlib

import pytest

from rlpt import metrics
from tests.notebooks.kernel import read, run

pytestmark = pytest.mark.timeout(900)


def updates(workdir: pathlib.Path) -> list[float]:
    """Gradient norms of a run of the embedded model, which all of its updates applied."""
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["source"] == "embedded", "this is not SmolLM2"
    rows = [r for r in metrics.read_jsonl(workdir / "metrics.jsonl") if "policy/grad_norm" in r]
    assert all(r["policy/skipped"] == 0 for r in rows), "an update was skipped"
    return [r["policy/grad_norm"] for r in rows]


def test_01_quickstart(tmp_path):
    printed = run(read("01_quickstart"), tmp_path, tiny=False)
    norms = updates(tmp_path / "runs/01_quickstart")
    assert len(norms) == 2 and min(norms) > 0, norms
    assert "Did you mean 'group.grpo'?" in printed
    assert not (tmp_path / "runs/never").exists()


def test_02_your_own_method(tmp_path):
    printed = run(read("02_your_own_method"), tmp_path, tiny=False)
    norms = updates(tmp_path / "runs/02_your_own_method")
    assert len(norms) == 2 and min(norms) > 0, norms
    assert "8 groups: all advantages are those of duels" in printed
    config = json.loads((tmp_path / "runs/02_your_own_method/config.json").read_text())
    assert config["advantage"][0]["fn"] == "__main__:duels"
    assert config["verifiers"][0]["fn"] == "my_verifiers:brief"


def test_05_from_trl(tmp_path):
    printed = run(read("05_from_trl"), tmp_path, tiny=False)
    norms = updates(tmp_path / "runs/05_from_trl")
    assert len(norms) == 2 and min(norms) > 0, norms
    assert "8 groups have the rewards and advantages that TRL would give them" in printed
