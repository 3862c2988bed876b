"""Pages of the site that are made when it is built: a hook of mkdocs, see mkdocs.yml.

The documents at the top of the repository become pages; columns, settings and methods are read from
the code and the configs, results from the files that the benchmarks wrote.  None of it is kept.
"""

from __future__ import annotations

import inspect
import json
import pathlib
import posixpath
import re
import runpy
import typing as tp

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from rlpt import columns, config, settings

ROOT = pathlib.Path(__file__).parents[1]

# Files of the repository -> their pages.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LOG.md": "log.md",
    "benchmarks/README.md": "benchmarks.md",
}
_SOURCES = {page: source for source, page in PAGES.items()}
_TYPES = {"i": "int32", "b": "bool", "f": "float32"}
_LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)")
_SHOWN = ("rollout", "scorers", "shaping", "advantage", "loss", "learners")  # of a method's config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what is generated, and the files that pages link to."""
    pages = {page: (ROOT / source).read_text() for source, page in PAGES.items()}
    pages |= {
        "columns.md": columns_page(),
        "defaults.md": settings_page(),
        "methods.md": methods_page(),
        "results.md": results_page(),
    }
    linked = {
        posixpath.normpath(posixpath.join(posixpath.dirname(_SOURCES.get(page, "docs/x")), target))
        for page, text in pages.items()
        for _, target in _LINK.findall(text)
    }
    for name in sorted(linked - set(PAGES)):
        if not name.startswith("docs/"):
            pages[f"files/{name}"] = (ROOT / name).read_text()
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that are right in the repository become right in the site."""
    folder = posixpath.dirname(_SOURCES.get(page.file.src_uri, "docs/x"))

    def moved(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[2]))
        inside = path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}"
        return match[1] + PAGES.get(path, inside)

    return _LINK.sub(moved, markdown)


def table(header: tp.Sequence[str], rows: tp.Iterable[tp.Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def columns_page() -> str:
    """The legend of `rlpt.columns`."""
    rows = [
        (f"`{name}`", f"[{','.join(axes)}]", _TYPES[kind], what)
        for name, (axes, kind, what) in columns.LEGEND.items()
    ]
    rows.append(("`verdict/<verifier>`", "[P,G]", "float32", "its score; NaN: no verdict"))
    letters = (
        "P blocks, G completions in a block, L prompt width (left-padded), T completion width "
        "(right-padded). A method may add columns without listing them."
    )
    head = "# Columns\n\nA batch is a table: a dict from name to array.\n\n"
    return f"{head}{letters}\n\n{table(('column', 'shape', 'type', 'what it is'), rows)}"


def settings_page() -> str:
    """The default config, as it stands in the code."""
    code = inspect.getsource(settings.default)
    return (
        "# All settings\n\nThe default of every setting, from `rlpt/settings.py`. A config starts "
        "from it and changes what it needs; on the command line: `--config.optim.lr=2e-5`.\n\n"
        f"```python\n{code}```\n"
    )


def methods_page() -> str:
    """Every config: its docstring, and what it sets of the method."""
    rows, sections = [], []
    base = config.default()
    for path in sorted((ROOT / "configs").glob("*.py")):
        scope = runpy.run_path(str(path))
        first, _, rest = inspect.cleandoc(scope["__doc__"]).partition("\n\n")
        papers = dict.fromkeys(re.findall(r"\b\d{4}\.\d{4,5}\b", scope["__doc__"]))
        links = ", ".join(f"[{paper}](https://arxiv.org/abs/{paper})" for paper in papers)
        rows.append((f"[{path.stem}](#{path.stem})", first, links))
        changed = config.differences(scope["get_config"](), base)
        lines = [
            f"config.{key} = {value!r}"
            for key, (value, _) in changed.items()
            if key.partition(".")[0] in _SHOWN
        ]
        sections.append(f"## {path.stem}\n\n{first}\n\n```text\n{rest}\n```\n")
        if lines:
            sections.append("```python\n" + "\n".join(lines) + "\n```\n")
    head = (
        f"# All methods\n\n{len(rows)} configs in `configs/`; below the table what each file says "
        "of itself, and what it sets of rollout, reward, advantage and loss.\n\n"
    )
    return head + table(("config", "what it is", "arXiv"), rows) + "\n" + "\n".join(sections)


def results_page() -> str:
    """What trained runs reached, from benchmarks/results."""
    parts = ["# Results\n\nWhat was measured, and the files that hold the numbers.\n"]
    for name, picture in (("quickstart_seeds", "quickstart.png"), ("small_tasks", None)):
        runs = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
        rows = []
        for run, found in runs.items():
            summary = found["summary"]
            before, after = summary["eval_before"], summary["eval_after"]
            cells = [f"{x[k]:.1%}" for k in ("pass@1", "greedy") for x in (before, after)]
            rows.append((run, summary["steps"], *cells))
        header = ("run", "steps", "pass@1 before", "after", "greedy before", "after")
        picture = picture or f"{name}.png"
        parts.append(f"## {name}\n\n{table(header, rows)}\n![{name}]({picture})\n")
    files = sorted((ROOT / "benchmarks/results").glob("*.json"))
    listed = "".join(f"- [{f.name}](../{f.relative_to(ROOT)})\n" for f in files)
    parts.append(
        f"## Files\n\nWhat wrote them says [the page on benchmarks](benchmarks.md).\n\n{listed}"
    )
    return "\n".join(parts)
