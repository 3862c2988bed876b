"""The sources of a user's own functions: a part of what a run is, like its config."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import pathlib
import re
import sys
import sysconfig
import types
import typing as tp


def names(settings: tp.Any) -> set[str]:
    """What a config, as JSON data, names as module:function."""
    found: set[str] = set()

    def walk(node: tp.Any) -> None:
        if isinstance(node, dict | list):
            for child in node.values() if isinstance(node, dict) else node:
                walk(child)
        elif isinstance(node, str) and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", node):
            found.add(node)

    walk(settings)
    return found


def own_code(settings: tp.Any) -> str:
    """The sources behind the functions that a config names as module:function.

    Of a function in a file: the file, and those of the modules that it imports outside of its
    functions, and of theirs, libraries and rlpt left out.  Of a function of a notebook: its cell.

    Args:
      settings: of a config, as JSON data.
    Returns: JSON by name; "" where it names none.
    """
    sources: dict[str, str] = {}
    left: list[types.ModuleType] = []
    for name in names(settings):
        module_name, _, attribute = name.partition(":")
        module = sys.modules.get(module_name)
        if module_name.partition(".")[0] == "rlpt":
            continue
        if hasattr(module, "__file__"):
            left.append(tp.cast(types.ModuleType, module))
        elif source := _source(getattr(module, attribute, None)):
            sources[name] = source
    roots = {_root(module) for module in left}
    while left:
        module = left.pop()
        if module.__name__ not in sources:
            sources[module.__name__] = source = _source(module)
            left += [m for m in _used(module, source) if _root(m) in roots or not _is_library(m)]
    return json.dumps(sources, sort_keys=True) if sources else ""


def _source(of: tp.Any) -> str:
    try:
        return inspect.getsource(of)
    except (OSError, TypeError):  # typed in, or compiled: there is none to read
        return ""


def _root(module: types.ModuleType) -> str:
    return module.__name__.partition(".")[0]


def _used(module: types.ModuleType, source: str) -> tp.Iterator[types.ModuleType]:
    """The modules that a module imports, or imports names from, outside of its functions."""
    try:
        left: list[ast.AST] = [ast.parse(source)]
    except SyntaxError:  # edited since it was imported
        return
    while left:
        node = left.pop()
        imported: list[str] = []
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            home = "." * node.level + (node.module or "")
            home = importlib.util.resolve_name(home, module.__package__)
            imported = [home, *(f"{home}.{alias.name}" for alias in node.names)]
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            left += ast.iter_child_nodes(node)
        for name in imported:
            parts = name.split(".")
            for i in range(len(parts)):
                found = sys.modules.get(".".join(parts[: i + 1]))
                if getattr(found, "__file__", None):
                    yield tp.cast(types.ModuleType, found)


def _is_library(module: types.ModuleType) -> bool:
    file = pathlib.Path(str(module.__file__)).resolve()
    standard = pathlib.Path(sysconfig.get_path("stdlib")).resolve()
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    return _root(module) == "rlpt" or bool(installed) or file.is_relative_to(standard)
