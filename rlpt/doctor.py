"""`rlpt doctor`: what this machine can do, and what stands in the way of a run, before it starts.

Each check looks at one thing and never raises: what goes wrong is its finding.  A finding is "ok",
"note" (something that is not there and that this run does not need) or "failed".
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import io
import os
import pathlib
import shutil
import sys
import tempfile
import time
import typing as tp

PYTHONS = ((3, 11), (3, 12))
REPORTED = ("rlpt", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
OPTIONAL = {  # module -> what it is for
    "gguf": "GGUF files and the embedded model",
    "reasoning_gym": "the tasks of reasoning-gym",
    "wandb": "config.log.wandb",
}
LOW_DISK = 2 << 30  # bytes
GOLD = 64  # references that are read


@dataclasses.dataclass(frozen=True)
class Finding:
    """name: of the check.  status: ok, note or failed.  detail: for people, some lines."""

    name: str
    status: str
    detail: str


def examine(
    config: tp.Any = None, model: str = "", workdir: str = "", selftest: bool = True
) -> list[Finding]:
    """Looks at the machine, and at what a config, a model and a workdir need of it.

    Args:
      config: of a run; None: nothing is known of one.
      model: source of a model; "": the config's.
      workdir: where the run would write; it is not made.
      selftest: also run a tiny training step and a sandboxed call: some five seconds, more where
        nothing is compiled yet.
    """
    checks: dict[str, collections.abc.Callable[[], tuple[str, str]]] = {
        "versions": _versions,
        "devices": _devices,
        "packages": _packages,
        "compilation cache": _cache,
        "sandbox": _sandbox,
    }
    if workdir:
        checks["workdir"] = lambda: _workdir(workdir)
    source = model or (config.model.source if config is not None else "")
    if source:
        checks["model"] = lambda: _model(source)
    if config is not None:
        checks |= {"config": lambda: _config(config), "data": lambda: _data(config)}
    if selftest:
        checks["self-test"] = _selftest
    return [_found(name, check) for name, check in checks.items()]


def _found(name: str, check: collections.abc.Callable[[], tuple[str, str]]) -> Finding:
    try:
        return Finding(name, *check())
    except Exception as e:  # whatever stands in the way is what was looked for
        return Finding(name, "failed", str(e) or type(e).__name__)


def table(findings: collections.abc.Sequence[Finding], terminal: bool) -> str:
    """The findings as text: with colours on a terminal, else plain lines."""
    import rich.console
    import rich.table

    colours = {"ok": "green", "note": "yellow", "failed": "bold red"}
    made = rich.table.Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for f in findings:
        made.add_row(f"[{colours[f.status]}]{f.status}[/]", f.name, rich.text.Text(f.detail))
    width = None if terminal else 1000
    out = rich.console.Console(file=io.StringIO(), force_terminal=terminal, width=width)
    out.print(made)
    text = tp.cast(io.StringIO, out.file).getvalue()
    return "\n".join(line.rstrip() for line in text.splitlines())


# ---- the machine


def _versions() -> tuple[str, str]:
    found = [f"Python {sys.version.split()[0]}"]
    found += [f"{name} {importlib.metadata.version(name)}" for name in REPORTED]
    if sys.version_info[:2] not in PYTHONS:
        wanted = " or ".join(".".join(map(str, v)) for v in PYTHONS)
        return "failed", f"{', '.join(found)}; expected Python {wanted}"
    return "ok", ", ".join(found)


def _devices() -> tuple[str, str]:
    import jax

    try:
        found = jax.devices()
    except Exception as e:  # of many types
        asked = os.environ.get("JAX_PLATFORMS", "not set")
        said = f"{type(e).__name__}: {e}".rstrip(": ")
        return "failed", f"jax finds no devices (JAX_PLATFORMS is {asked}): {said}"
    lines = []
    for kind, devices in _grouped(found, lambda d: d.device_kind).items():
        limits = [(d.memory_stats() or {}).get("bytes_limit", 0) for d in devices]
        memory = f" with {_size(limits[0])} each" if all(limits) else ""
        lines.append(f"{len(devices)} x {kind} ({devices[0].platform}){memory}")
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines.append(f"host: {cores} cores, {_size(pages * size)} of memory")
    return "ok", "\n".join(lines)


def _packages() -> tuple[str, str]:
    lacking = [f"{m} ({use})" for m, use in OPTIONAL.items() if not importlib.util.find_spec(m)]
    if lacking:
        return "note", f"not installed: {', '.join(lacking)}"
    return "ok", f"{', '.join(OPTIONAL)} are installed"


def _cache() -> tuple[str, str]:
    from rlpt import train

    path = pathlib.Path(train.compilation_cache())
    _try_writing(path)
    files = [f.stat().st_size for f in path.iterdir()] if path.is_dir() else []
    return "ok", f"{path}: {len(files)} programs, {_size(sum(files))}"


def _sandbox() -> tuple[str, str]:
    from rlpt.verifiers.sandbox import host

    found = host.report()
    lines = [f"{tier}: {says}" for tier, says in found["tiers"].items()]
    if found["tier"] in ("bwrap", "unshare"):
        return "ok", "\n".join([f"code of a model runs at the tier {found['tier']}", *lines])
    try:
        host.choose("auto")
    except host.SandboxError as e:
        return "note", str(e)
    raise AssertionError(f"tier {found['tier']} was chosen, which does not isolate")


# ---- the run


def _workdir(workdir: str) -> tuple[str, str]:
    path = pathlib.Path(workdir).expanduser().absolute()
    _try_writing(path)
    free = shutil.disk_usage(_existing(path)).free
    state = "holds a run, which goes on" if (path / "checkpoints").is_dir() else "can be written"
    if free < LOW_DISK:
        return "failed", f"{path}: only {_size(free)} free; a run keeps several checkpoints"
    return "ok", f"{path}: {state}, {_size(free)} free"


def _model(source: str) -> tuple[str, str]:
    """Looks at what loading it would read, without loading what may be large."""
    from rlpt import policy
    from rlpt.models import load, tokenizer

    path = pathlib.Path(source).expanduser()
    if policy.is_workdir(source):
        base = policy.workdir_config(source).model.source
        steps = [p.name for p in (path / "checkpoints").iterdir() if p.name.isdecimal()]
        status, detail = _model(base)
        return status, f"{source}: {len(steps)} checkpoints; trained from {detail}"
    if path.is_dir():
        text = tokenizer.Tokenizer.from_dir(path)
        weights = list(path.glob("*.safetensors"))
        if not weights or not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path} lacks config.json or *.safetensors")
        size = sum(w.stat().st_size for w in weights)
        return "ok", f"{path}: {_size(size)} of weights, {text.vocab_size} tokens"
    if path.suffix == ".gguf" and path.is_file():
        return "ok", f"{path}: {_size(path.stat().st_size)}"
    if source == "embedded":
        if not importlib.util.find_spec("gguf"):
            raise ImportError("the embedded model needs the package: pip install gguf")
        return "ok", f"embedded: {load.find_embedded()}"
    loaded = load.load(source)  # a toy, or it says what is accepted
    return "ok", f"{source}: {loaded.config.num_layers} layers, d {loaded.config.d_model}"


def _config(config: tp.Any) -> tuple[str, str]:
    from rlpt import build

    build.check(config)
    return "ok", f"{config.steps} steps; all names, settings and shapes fit"


def _data(config: tp.Any) -> tuple[str, str]:
    """The tasks, the verifiers, and whether the one can read the references of the other."""
    from rlpt import build
    from rlpt.tasks import build as tasks_build
    from rlpt.verifiers.pool import VerifierPool

    sources, held_out = build.load_tasks(config)
    prompts = [p for s in sources for p in s.prompts[:GOLD]] + held_out[:GOLD]
    settings = {**config.pool.to_dict(), "workers": 1}
    with VerifierPool(tuple(dict(v) for v in config.verifiers), **settings) as pool:
        kept = pool.check_gold(prompts, tasks_build.skipping(config.tasks))
        noted = pool.report()
    lines = [f"{s.name}: {len(s.prompts)} training prompts" for s in sources]
    lines += [f"{len(held_out)} held-out prompts"]
    lines += [f"{len(kept)} of {len(prompts)} references looked at can be read"]
    lines += [f"{name}: {', '.join(f'{k} {v}' for k, v in n.items())}" for name, n in noted.items()]
    return "ok", "\n".join(lines)


# ---- the self-test


def _selftest() -> tuple[str, str]:
    """Samples, judges and updates once with the real trainer, and calls into the best sandbox."""
    import jax

    from rlpt import config as config_lib
    from rlpt import train
    from rlpt.verifiers.sandbox import host

    start = time.monotonic()
    c = config_lib.runlocal(config_lib.default())
    c.model.source = "toy:vocab=24,layers=1,width=16,heads=2,kv_heads=1,ff=16"
    c.steps, c.pool.workers = 1, 1
    c.sampling.completion_buckets = (4,)
    c.eval.prompts, c.eval.samples, c.eval.blocks = 1, c.rollout.group, c.rollout.prompts
    c.log.tensorboard = c.log.console = c.export = False
    slow = jax.config.read("jax_disable_most_optimizations")
    with (
        tempfile.TemporaryDirectory(prefix="rlpt-doctor-") as directory,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.ExitStack() as after,
    ):
        after.callback(jax.config.update, "jax_disable_most_optimizations", slow)
        jax.config.update("jax_disable_most_optimizations", True)  # most of the time is compiling
        train.train(c, directory)
    lines = [f"a GRPO step on a toy model: {time.monotonic() - start:.1f} s"]
    start = time.monotonic()
    tier = host.report()["tier"]
    if tier == "none":
        return "ok", "\n".join([*lines, "no sandbox to call"])
    with host.Session(tier, host.Limits(seconds=5.0)) as session:
        session.load(["def f(x): return x * x"], "f")
        got = session.call((12,), {})
    if got != 144:
        raise RuntimeError(f"the sandbox {tier}: got {got!r:.80} for 12 * 12")
    return "ok", "\n".join([*lines, f"a call into {tier}: {time.monotonic() - start:.2f} s"])


# ---- helpers


def _existing(path: pathlib.Path) -> pathlib.Path:
    """The path, or the nearest directory above it that is there."""
    return next(p for p in (path, *path.parents) if p.exists())


def _try_writing(path: pathlib.Path) -> None:
    """Writes to a directory, or to where it would be made. Raises: OSError."""
    place = _existing(path)
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".rlpt-doctor-") as file:
            file.write(b"x")
            file.flush()
    except OSError as e:
        raise OSError(f"{path}: cannot write in {place} ({e.strerror or e})") from e


def _size(n: float) -> str:
    return f"{n / 2**30:.1f} GB" if n >= 1 << 30 else f"{n / 2**20:.0f} MB"


def _grouped(
    items: collections.abc.Iterable[tp.Any], key: collections.abc.Callable[[tp.Any], str]
) -> dict[str, list[tp.Any]]:
    out: dict[str, list[tp.Any]] = {}
    for item in items:
        out.setdefault(key(item), []).append(item)
    return out
