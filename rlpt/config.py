"""From names in a config to bound functions.

A method is a function whose positional parameters are columns (a default of
None makes one optional) and whose keyword-only parameters are settings.
`resolve` imports it by dotted name and binds the settings; there is no
registry.  Floats and schedules are handed over as traced numbers, so that a
changing number does not recompile; strings, bools, ints and tuples are static.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pathlib
import pkgutil
import re
import runpy
import typing as tp

from rlpt import columns as columns_lib
from rlpt import ranges
from rlpt.settings import ConfigError, default, differences, runlocal, suggest, validate

__all__ = (
    "Bound", "ConfigError", "Schedule", "accepted_names", "default", "differences", "entry",
    "find", "resolve", "runlocal", "schedule", "suggest", "validate",
)  # fmt: skip

_HOW = {"old_logp": ' config.learner.old_logp="recompute" writes it.'}  # of a column, how to get it
RESERVED = ("key", "step", "state", "models", "head")
MODEL_OUTPUTS = ("logp", "entropy", "value", "hidden")

# What a setting without a default is like, by its annotation (a name or a type).
_LIKE = {"bool": False, bool: False, "int": 1, int: 1, "float": 1.0, float: 1.0, "str": "", str: ""}
GIVEN = (*RESERVED, *MODEL_OUTPUTS, "log_ratio")  # parameters that are no columns

# What the first parameter is called where not every public function is a method.
_FIRST = {
    "tasks": ("split",),
    "verifiers": ("trajectory", "trajectories"),
    "rollouts": ("stream",),
}


def _fits(package: str, fn: tp.Any) -> bool:
    first = next(iter(inspect.signature(fn).parameters), "")
    return package not in _FIRST or first in _FIRST[package]


def accepted_names(package: str) -> list[str]:
    """Dotted names 'module.function' of what a package of rlpt offers."""
    root = importlib.import_module(f"rlpt.{package}")
    names = []
    for info in pkgutil.iter_modules(root.__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"rlpt.{package}.{info.name}")
        for name, obj in vars(module).items():
            own = getattr(obj, "__module__", None) == module.__name__
            transform = isinstance(obj, columns_lib.Transform)
            fits = transform or (own and inspect.isfunction(obj) and _fits(package, obj))
            if fits and not name.startswith("_"):
                names.append(f"{info.name}.{name}")
    return sorted(names)


def check_source(source: str, function: str = "get_config") -> None:
    """Whether FILE.py:ARG is a file, and its argument one that does something there.

    A file whose function gives the same for `arg`, for none and for a word that nobody would take
    does not know `arg`: a typing error there would silently be another run.

    Raises: FileNotFoundError; ConfigError for an argument that changes nothing.
    """
    path, _, arg = source.partition(":")
    file = pathlib.Path(path)
    if not file.is_file():
        near = [str(p) for p in file.parent.glob("*.py")] if file.parent.is_dir() else []
        hint = suggest(path, near).partition(" Accepted")[0]  # the list would be ninety files
        raise FileNotFoundError(f"{path}: no such file.{hint}")
    make = runpy.run_path(path).get(function)
    if not arg or make is None:
        return
    parts = arg.split(",")
    for i, part in enumerate(parts):
        key, equals, _ = part.partition("=")
        instead = [[], ["no-such-argument"], *[[f"{key}=no-such-value"]] * bool(equals)]
        rivals = [",".join([*parts[:i], *x, *parts[i + 1 :]]) or None for x in instead]
        try:
            made = {str(make(a)) for a in (arg, *rivals)}
        except Exception:  # whatever a config raises for a word that it does not know
            continue
        if len(made) == 1:
            words = re.findall(r"\w+", make.__doc__ or "")
            hint = suggest(key, words).partition(" Accepted")[0]
            if part in words:
                hint = " Its docstring names it, but nothing there looks at it."
            raise ConfigError(
                f"{path}: the argument {part!r} changes nothing there.{hint} See its {function}."
            )


def find(package: str, name: str) -> tp.Any:
    """The object behind 'module.function' of rlpt.<package>, or 'my_pkg.mod:fn'.

    Raises: ConfigError naming what is accepted.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{package}: got {name!r}, expected a name such as 'module.function'")
    if ":" in name:
        module_name, _, attribute = name.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as e:
            if e.name and module_name.startswith(e.name):
                raise ConfigError(
                    f"{package}: cannot import {module_name!r} (from {name!r}); if it lies in "
                    "this directory, begin the command with PYTHONPATH=."
                ) from e
            raise
    else:
        module_name, _, attribute = name.rpartition(".")
        full = f"rlpt.{package}.{module_name}"
        try:
            found: tp.Any = importlib.import_module(full) if module_name else None
        except ModuleNotFoundError as e:
            if not (e.name and full.startswith(e.name)):
                raise
            found = None
        if found is None:
            raise ConfigError(
                f"{package}: unknown name {name!r}.{suggest(name, accepted_names(package))} "
                "A function of your own is module:function, such as my_paper:my_function."
            )
        module = found
    obj = getattr(module, attribute, None)
    if obj is None:
        known = (
            accepted_names(package)
            if ":" not in name
            else [n for n, v in vars(module).items() if n[0] != "_" and inspect.isfunction(v)]
        )
        raise ConfigError(
            f"{package}: {module.__name__} has no {attribute!r}.{suggest(name, known)} "
            "A function of your own is module:function, such as my_paper:my_function."
        )
    return obj


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A number that goes from init to end over `steps` steps, with `restarts` on the way.

    kind: linear, cosine, or step (init until the end).  delay: steps before it starts.
    """

    kind: str
    init: float
    end: float
    steps: int
    delay: int = 0
    restarts: int = 0

    def __call__(self, step: int) -> float:
        x = min(max((step - self.delay) / max(self.steps, 1), 0.0), 1.0)
        if x < 1.0:
            x = (x * (self.restarts + 1)) % 1.0
        if self.kind == "cosine":
            x = 0.5 * (1.0 - math.cos(math.pi * x))
        elif self.kind == "step":
            x = float(x >= 1.0)
        return self.init + (self.end - self.init) * x


def schedule(value: tp.Any, where: str = "") -> tp.Any:
    """A number as it is, or a `Schedule` from dict(schedule=kind, init=, end=, steps=, …)."""
    if not (hasattr(value, "keys") and "schedule" in value):
        return value
    value = dict(value)
    kind = value.pop("schedule")
    allowed = {"init", "end", "steps", "delay", "restarts"}
    if (
        kind not in ("linear", "cosine", "step")
        or not set(value) <= allowed
        or not {"init", "end", "steps"} <= set(value)
    ):
        raise ConfigError(
            f"{where}: got schedule={kind!r} with {sorted(value)}; expected "
            "dict(schedule='linear'|'cosine'|'step', init=, end=, steps=[, delay=, restarts=])"
        )
    return Schedule(
        kind,
        float(value["init"]),
        float(value["end"]),
        int(value["steps"]),
        int(value.get("delay", 0)),
        int(value.get("restarts", 0)),
    )


@dataclasses.dataclass(frozen=True)
class Bound:
    """A method with its settings: call it with a table, get columns.

    columns: (parameter, column, required) in order.  numbers: traced settings;
    static: the others.  `wants`: the reserved names and model outputs it asks for.
    since: of shaping and advantages, the first step, from 0, at which it changes columns that were
    there before it.
    """

    name: str
    fn: tp.Callable[..., tp.Any]
    columns: tuple[tuple[str, str, bool], ...]
    numbers: dict[str, tp.Any]
    static: dict[str, tp.Any]
    writes: str
    init: tp.Callable[..., tp.Any] | None = None
    since: int = 0

    @property
    def wants(self) -> tuple[str, ...]:
        return tuple(p for p, c, _ in self.columns if p == c and p in RESERVED + MODEL_OUTPUTS)

    @property
    def reads(self) -> tuple[str, ...]:
        """Column names, required or not, without reserved names.

        Model outputs are among them: where the model at hand has no such output, as a policy has no
        value, the name is that of a column.
        """
        return tuple(c for p, c, _ in self.columns if p not in RESERVED)

    @property
    def foreign(self) -> bool:
        """Whether the function is the user's, not rlpt's own."""
        return not ranges.is_ours(self.fn)

    @property
    def own_name(self) -> str:
        """The function's name, without its module."""
        return re.split(r"[.: ]", self.name)[-1]

    def numbers_at(self, step: int) -> dict[str, float]:
        return {k: float(v(step) if callable(v) else v) for k, v in self.numbers.items()}

    def settings_of(self, fn: tp.Callable[..., tp.Any]) -> dict[str, tp.Any]:
        """Those of its settings that fn takes too, numbers as they are at step 0."""
        own = inspect.signature(fn).parameters
        return {k: v for k, v in (self.static | self.numbers_at(0)).items() if k in own}

    def check(self, setup: tp.Any) -> None:
        """Asks a rollout's fn.check(setup, **those of its settings that it takes), if it has one.

        setup: `rlpt.tools.Setup`, what is known before a run begins.  A function of your own says
        so in the same way: fn.check = a function that raises ValueError for what cannot work.

        Raises: ConfigError with what fn.check says.
        """
        if (ask := getattr(self.fn, "check", None)) is None:
            return
        own = inspect.signature(ask).parameters
        known = {k: p.default for k, p in inspect.signature(self.fn).parameters.items()}
        known |= self.static | self.numbers_at(0)
        try:
            ask(setup, **{k: v for k, v in known.items() if k in own})
        except ValueError as e:
            raise ConfigError(str(e)) from e

    def __call__(
        self, table: columns_lib.Table, numbers: dict[str, tp.Any] | None = None, **given: tp.Any
    ) -> tp.Any:
        """Calls fn. given: reserved names and model outputs at hand, unless reads= renames them."""
        args: dict[str, tp.Any] = {}
        for parameter, column, required in self.columns:
            if column == parameter and given.get(parameter) is not None:
                args[parameter] = given[parameter]
            elif column in table:
                args[parameter] = table[column]
            elif found := columns_lib.under(table, column):
                args[parameter] = found
            elif given.get(column) is not None:
                args[parameter] = given[column]
            elif required:
                raise ConfigError(
                    f"{self.name} needs the column {column!r}, which nothing makes."
                    + suggest(column, [*table, *given])
                    + _HOW.get(column, " Add the scorer, verifier or transform that writes it, or "
                    "rename with reads=dict(...).")
                )  # fmt: skip
        return self.fn(
            **args, **self.static, **(self.numbers_at(0) if numbers is None else numbers)
        )


def resolve(
    package: str, name: str, /, *, reads: tp.Any = None, writes: str = "", **settings: tp.Any
) -> Bound:
    """Binds `name` of rlpt.<package> (or 'my_pkg.mod:fn') to its settings.

    Args:
      reads: {parameter: column} renames; a column that is named here has to be there.
      writes: the column that an array result goes to (default: by extension point).
      settings: keyword-only parameters of the function; of rewards and advantages also `since`, see
        `Bound`, for recipes of several stages: what masks rows by verdicts would mask a stage that
        has none.
    Raises: ConfigError for an unknown name or setting, with what is accepted.
    """
    obj = find(package, name)
    since = settings.pop("since", 0) if package in ("rewards", "advantages") else 0
    if type(since) is not int or since < 0:
        raise ConfigError(f"{package} {name}.since: got {since!r}, expected a step, 0 or more")
    init, fn = (obj.init, obj.update) if isinstance(obj, columns_lib.Transform) else (None, obj)
    parameters = inspect.signature(fn).parameters.values()
    reads = dict(reads or {})
    cols, accepted, required_settings = [], [], []
    for p in parameters:
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            required = p.default is p.empty or p.name in reads  # what is asked for by name
            cols.append((p.name, reads.pop(p.name, p.name), required))
        elif p.kind is p.KEYWORD_ONLY:
            accepted.append(p.name)
            if p.default is p.empty:
                required_settings.append(p.name)
    if reads:
        raise ConfigError(
            f"{package} {name}: reads= renames unknown parameters {sorted(reads)}."
            + suggest(sorted(reads)[0], [c[0] for c in cols])
        )
    fixed = [p for p, c, _ in cols if p in RESERVED and c != p]
    if fixed:
        raise ConfigError(
            f"{package} {name}: reads= renames {fixed[0]!r}, which is no column; "
            f"{', '.join(RESERVED)} are given by the run"
        )
    unknown = sorted(set(settings) - set(accepted))
    if unknown:
        raise ConfigError(
            f"{package} {name}: unknown setting {unknown[0]!r}.{suggest(unknown[0], accepted)}"
        )
    missing = sorted(set(required_settings) - set(settings))
    if missing:
        raise ConfigError(
            f"{package} {name}: the setting {missing[0]!r} has no default; give it in the config"
        )
    numbers: dict[str, tp.Any] = {}
    static: dict[str, tp.Any] = {}
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    annotations = {p.name: p.annotation for p in parameters}
    for key, value in settings.items():
        value = schedule(value, f"{package} {name}.{key}")
        default = defaults[key]
        if default is inspect.Parameter.empty:
            default = _LIKE.get(annotations[key], default)
        if isinstance(default, bool) and not isinstance(value, bool):
            raise ConfigError(f"{package} {name}.{key}: got {value!r}, expected True or False")
        if type(default) is int and type(value) is not int:
            raise ConfigError(f"{package} {name}.{key}: got {value!r}, expected an integer")
        if isinstance(default, str) and not isinstance(value, str):
            raise ConfigError(
                f"{package} {name}.{key}: got {value!r}, expected a string such as {default!r}"
            )
        if isinstance(default, tuple) and isinstance(value, str):  # its letters, else
            raise ConfigError(
                f"{package} {name}.{key}: got the string {value!r}, expected a tuple such as "
                f"({value!r},)"
            )
        if isinstance(default, float) and not (
            isinstance(value, Schedule)
            or (isinstance(value, (int, float)) and not isinstance(value, bool))
        ):
            raise ConfigError(
                f"{package} {name}.{key}: got {value!r}, expected a number such as {default!r}"
            )
        if isinstance(default, float) and isinstance(value, int):
            value = float(value)
        (numbers if isinstance(value, (float, Schedule)) else static)[key] = value
    ranges.check(f"{package} {name}", name, fn, {**defaults, **static, **numbers})
    return Bound(f"{package} {name}", fn, tuple(cols), numbers, static, writes, init, since)


def entry(package: str, spec: tp.Any) -> Bound:
    """Resolves a config entry: a name, or dict(fn=name, **settings)."""
    if isinstance(spec, str):
        return resolve(package, spec)
    spec = {k: (v.to_dict() if hasattr(v, "to_dict") else v) for k, v in dict(spec).items()}
    if "fn" not in spec:
        raise ConfigError(f"{package}: got {spec!r}, expected dict(fn='module.function', ...)")
    return resolve(package, spec.pop("fn"), **spec)
