"""Every subcommand as a person runs it: a process of its own."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from rlpt import policy
from rlpt.cli import main
from rlpt.models.load import load

ROOT = pathlib.Path(__file__).parent.parent
TOY = "configs/quickstart.py:runlocal"

# Finds torch and tensorflow where they are installed, and raises when one is imported.
GUARD = """
import importlib.machinery, sys
class Refuse:
    def create_module(self, spec):
        raise AssertionError(f"{spec.name} was imported")
    def exec_module(self, module):
        pass
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name not in ("torch", "tensorflow"):
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        return found and importlib.machinery.ModuleSpec(name, Refuse(), origin=found.origin)
sys.meta_path.insert(0, Guard())
from rlpt.cli import main
main(sys.argv[1:])
"""


def test_the_guard_works():
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, "-c", GUARD.replace("from rlpt.cli import main", "import torch")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert "AssertionError: torch was imported" in done.stderr


def rlpt(*args, code=0, guard=True, timeout=280):
    command = ["-c", GUARD] if guard else ["-m", "rlpt.cli"]
    done = subprocess.run(
        [sys.executable, *command, *map(str, args)], cwd=ROOT, text=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    work = tmp_path_factory.mktemp("cli") / "run"
    out, _ = rlpt("train", "--config", TOY, "--workdir", work, "--config.optim.lr=2e-5")
    assert "8 prompts x 8 completions = 64 rows" in out and "held out" in out
    return work


def test_train_writes_what_it_was_told(workdir):
    diff = json.loads((workdir / "config_diff.json").read_text())
    assert diff["optim.lr"] == {"value": "2e-05", "default": "1e-06"}
    assert (workdir / "summary.json").is_file()


def test_train_again_resumes(workdir):
    out, _ = rlpt("train", "--config", TOY, "--workdir", workdir, "--config.optim.lr=2e-5")
    assert "resume   at step 2 of 2" in out


def test_the_home_directory_may_be_written_short(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/config.json").write_text('{"steps": 3}')
    assert policy.is_workdir("~/run") and policy.workdir_config("~/run").steps == 3
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "none")):
        load("~/none")


@pytest.mark.slow
def test_evaluate_all_three_sources(workdir, tmp_path):
    config = ("--config", TOY)
    rlpt("export", "--workdir", workdir, "--out", tmp_path / "hf")
    results = []
    for source in (workdir, tmp_path / "hf", workdir / "export"):
        file = tmp_path / "result.json"
        out, _ = rlpt("evaluate", "--model", source, *config, "--out", file, "--cache=")
        assert "pass@1" in out and "greedy" in out
        results.append(json.loads(file.read_text()))
    assert results[0]["per_prompt"] == results[1]["per_prompt"] == results[2]["per_prompt"]
    out, _ = rlpt("evaluate", "--model", workdir, "--cache=")  # a workdir knows its own tasks
    assert "pass@1" in out


def test_sample(workdir):
    args = ("--prompt", "2 + 2 =", "--n", 3, "--max_tokens", 5)
    out, _ = rlpt("sample", "--model", workdir, *args)
    again, _ = rlpt("sample", "--model", workdir, *args)
    other, _ = rlpt("sample", "--model", workdir, *args, "--seed", 1)
    assert out == again != other


def test_data_build_and_train_on_it(tmp_path):
    pytest.importorskip("array_record")
    rlpt("data", "build", "--config", TOY, "--name", "tiny_sums", "--data_dir", tmp_path / "d")
    config = tmp_path / "config.py"
    config.write_text(
        "import sys; sys.path.insert(0, 'configs')\n"
        "import quickstart\n"
        "def get_config():\n"
        "    c = quickstart.get_config('runlocal')\n"
        f"    data = dict(builder='tiny_sums', data_dir={str(tmp_path / 'd')!r})\n"
        "    c.tasks = (dict(fn='tfds.dataset', **data),)\n"
        "    return c\n"
    )
    out, _ = rlpt("train", "--config", config, "--workdir", tmp_path / "run")
    assert "71 training and 4 held-out prompts" in out


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ((), 2, "usage: rlpt COMMAND"),
        (("trian",), 2, "unknown command 'trian'; did you mean 'train'?"),
        (("train", "--config", TOY), 1, "--workdir is needed"),
        (("train", "--config", "configs/nowhere.py", "--workdir", "w"), 1, "nowhere.py"),
        (
            ("train", "--config", "configs/quikstart.py", "--workdir", "w"),
            1,
            "configs/quikstart.py: no such file. Did you mean 'configs/quickstart.py'?",
        ),
        (
            ("train", "--config=configs/quickstart.py:runlocl", "--workdir", "w"),
            1,
            "the argument 'runlocl' changes nothing there. Did you mean 'runlocal'?",
        ),
        *[
            (("train", f"--config=configs/judge.py:{arg}", "--workdir", "w"), 1, said)
            for arg, said in (
                ("url=http://x/v1,fprate=0.1", "the argument 'fprate=0.1' changes nothing there."),
                ("modle=Qwen,url=http://x/v1", "'modle=Qwen' changes nothing there. Did you mean"),
            )
        ],
        (
            ("train", "--config", TOY, "--workdir", "w", "--config.optim.lrr=1"),
            1,
            "config.optim has no key 'lrr' (--config.optim.lrr=1). Did you mean 'lr'? Accepted: b1",
        ),
        (("train", "--config", TOY, "--workdir", "w", "--config.optim.lr=fast"), 1, "fast"),
        *[
            (("train", "--config", TOY, "--workdir", "w", *given), 1, said)
            for given, said in (
                (["--config.model.chat.think=false"], f"{TOY} does not set 'think': flags change"),
                (["--config.advantage[0].fn=group.rloo", "--config.steps=x"], "steps=x: invalid"),
                (["--config.advantage[7].fn=group.rloo"], "the tuple has no entry i"),
            )
        ],
        (("train", "--config", TOY, "--workdr", "w"), 1, "Did you mean: workdir"),
        (("sample",), 1, "--prompt is needed"),
        (("sample", "--model", "/nowhere", "--prompt", "x"), 1, "/nowhere"),
        (("sample", "--prompt", "x", "--top_p", "2", "--model", "toy"), 1, "top_p: got 2.0"),
        (("export", "--workdir", "/nowhere", "--out", "x"), 1, "holds no checkpoints"),
        (("evaluate", "--model", "toy"), 1, "--config is needed"),
        (("data", "bild"), 1, "expected `build`"),
    ],
)
def test_wrong_commands_say_what_to_do(args, code, message):
    out, err = rlpt(*args, code=code)
    assert message in out + err and "Traceback" not in err
    assert not (ROOT / "w").exists()


def test_a_wrong_key_in_a_config_file_is_named(tmp_path):
    config = tmp_path / "mine.py"
    text = (
        "import rlpt.config\ndef get_config():\n    c = rlpt.config.default()\n    c.advantag = ()"
    )
    config.write_text(text)
    _, err = rlpt("train", "--config", config, "--workdir", tmp_path / "run", code=1)
    said = f"rlpt train: {config}: there is no setting 'advantag'; did you mean 'advantage'?"
    assert err.strip().splitlines()[-1] == said


@pytest.mark.parametrize(
    ("body", "first", "last"),
    [
        ("return unknown", "failed: NameError: name 'unknown' is not defined", "return unknown"),
        ("raise ValueError('give me data=DIR')", "give me data=DIR", "give me data=DIR"),
        ("return (", 'mine.py", line 2', "SyntaxError: '(' was never closed"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of ml_collections
def test_a_config_file_that_fails_is_shown_alone(tmp_path, body, first, last):
    config = tmp_path / "mine.py"
    config.write_text(f"def get_config(arg=None):\n    {body}\n")
    with pytest.raises(SystemExit) as stop:
        main(["train", "--config", str(config), "--workdir", str(tmp_path / "run")])
    lines = str(stop.value).splitlines()
    assert lines[0].startswith("rlpt train: ") and first in lines[0] and len(lines) < 6
    assert any(last in line for line in lines) and "ml_collections" not in str(stop.value)
