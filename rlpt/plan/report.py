"""The plan of a run: bytes, FLOPs, collectives and seconds a device, and what would make it fit."""

from __future__ import annotations

import importlib.metadata
import re
import typing as tp

import jax
import jax.numpy as jnp

from rlpt import sharding
from rlpt.models.transformer import ModelConfig, param_shapes
from rlpt.plan import chips, programs, shapes
from rlpt.plan.chips import GIB

HOW = (
    f"roofline: FLOPs, collectives from the compiled programs, bytes by arithmetic; "
    f"{chips.PEAK:.0%} of peak FLOP/s, {chips.PEAK_MEMORY:.0%} of memory bandwidth, "
    f"{chips.PEAK_LINKS:.0%} of link bandwidth assumed; every row has the full length; "
    "verification, host and data transfers left out; not measured"
)


def plan(
    config: tp.Any,
    topology: str,
    mesh_sizes: tp.Mapping[str, int] | None = None,
    say: tp.Callable[[str], None] = print,
) -> dict[str, tp.Any]:
    """Compiles a run's programs for a topology.

    Args:
      config: of the run.  topology: such as v5p:4x4x8 or h200:8.
      mesh_sizes: as config.mesh; None: config.mesh.  say: told what is being compiled.
    Returns: what `table` prints, as JSON can hold it; numbers are of one device.
    Raises: ValueError for a topology, mesh or config that cannot work.
    """
    kind, chip, count = chips.find(topology)
    how = chips.compiler(kind)
    devices = _devices(topology, count, how)
    mesh_sizes = mesh_sizes or {axis: config.mesh[axis] for axis in sharding.AXES}
    mesh = sharding.make_mesh(mesh_sizes, devices)
    model = shapes.find(config.model.source)
    run = programs.Abstract(config, model, mesh)
    parts = sharding.shards(mesh)
    micro = config.learner.micro_blocks or run.sizes["P"] // config.learner.minibatches
    if run.sizes["P"] % parts or micro % parts:
        raise ValueError(
            f"mesh: {run.sizes['P']} blocks in micro-batches of {micro} do not divide over the "
            f"{parts} parts of data x fsdp; change rollout.prompts, learner.micro_blocks or --mesh"
        )
    compiled, state = programs.compile_all(run, say)
    held = _held(run, state)
    fits, found, step = True, {}, {"overlapped": 0.0, "serial": 0.0}
    updates = config.learner.epochs * config.learner.minibatches
    scores = run.learner.needs_old_logp + ("ref_logp" in run.reads)
    for name, program in compiled.items():
        resident = _resident(name, held)
        need = program.need or _refused(program.error)
        fits &= not program.error and resident + need <= chips.USABLE * chip.memory
        seconds = chips.seconds(
            chip, program.counts.flops, _moved(run, name, held), sum(program.counts.wire.values())
        )
        times = {"update": updates, "score": scores}.get(name, 1)
        for k in step:
            step[k] += times * seconds[k]
        found[name] = {
            "times": times,
            "bytes": {**program.bytes, "resident": resident, "peak": resident + need},
            "flops": program.counts.flops,
            "collective_bytes": program.counts.wire,
            "collectives": program.counts.runs,
            "seconds": seconds,
            "compile_seconds": round(program.compile_seconds, 1),
            "error": program.error,
        }
    peak = max(p["bytes"]["peak"] for p in found.values())
    rows = run.sizes["P"] * run.sizes["G"]
    out = {
        "model": config.model.source,
        "topology": topology,
        "chip": chip.name,
        "source": chip.source,
        "devices": count,
        "mesh": dict(mesh.shape),
        "sizes": run.sizes,
        "compiler": _compiler(how, chip),
        "parameters": sum(int(x.size) for x in jax.tree.leaves(run.base)),
        "bytes": {
            **held,
            "activations": compiled["update"].bytes.get("temporaries", 0),
            "peak": peak,
            "memory": chip.memory,
        },
        "programs": found,
        "update_flops": {
            "formula": update_flops(run.model, config, run.sizes) / count,
            "compiled": compiled["update"].counts.flops * config.learner.minibatches,
        },
        "step_seconds": step,
        "tokens_per_second": {k: rows * run.sizes["T"] / v for k, v in step.items()},
        "how": HOW,
        "fits": bool(fits),
        "not_planned": _not_planned(config),
    }
    out["suggestions"] = [] if fits else suggestions(config, run, out)
    return out


def _not_planned(config: tp.Any) -> str:
    """What the rollout samples in shapes of its own, in words."""
    if config.rollout.fn == "sample.on_policy":
        return ""
    return (
        f"the sampler is planned as of sample.on_policy; {config.rollout.fn} may sample more rows, "
        "or behind longer contexts, which takes more memory and seconds"
    )


def _devices(topology: str, count: int, how: str) -> list[tp.Any]:
    if how == "libtpu":
        from jax.experimental import topologies

        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
        return list(found.devices)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ValueError(
            f"plan: {len(devices)} CPU devices here, expected {count}; call "
            "rlpt.plan.chips.prepare before jax is used, as `rlpt plan` does"
        )
    return devices[:count]


def _compiler(how: str, chip: chips.Chip) -> str:
    if how == "libtpu":
        return f"libtpu {importlib.metadata.version('libtpu')}: the real compiler of {chip.name}"
    why = "libtpu is not installed" if chip.name.startswith("TPU") else "a GPU is not here"
    return (
        f"XLA for fake CPU devices ({why}): bytes of temporaries are the CPU's, with attention "
        "scores that flash attention would not keep; collectives may differ"
    )


def _held(run: programs.Abstract, state: tp.Any) -> dict[str, int]:
    """Bytes of what a run holds between programs."""
    reference = "ref_logp" in run.reads and run.frozen is None
    own = 0 if run.shares_rollout_params else programs.local_bytes(run.rollout_params)
    cache = 0 if state is None else programs.local_bytes((state.prompt, state.cache))
    return {
        "params": programs.local_bytes(run.trained),
        "frozen": programs.local_bytes(run.frozen),
        "optimizer": programs.local_bytes(run.opt),
        "reference": programs.local_bytes(run.base) if reference else 0,
        "rollout_params": own,
        "cache": cache,
    }


def _resident(name: str, held: dict[str, int]) -> int:
    """Bytes that lie on the device beside a program's own arguments."""
    trained = held["params"] + held["optimizer"] + held["frozen"]
    return (
        held["reference"]
        + {
            "prefill": trained - (0 if held["rollout_params"] else held["params"]),
            "decode": trained - (0 if held["rollout_params"] else held["params"]),
            "score": trained - held["params"],
            "credit": trained,
            "update": 0,
        }[name]
    )


def _refused(error: str) -> int:
    """Bytes that the compiler asked for in vain, where its message says it."""
    match = re.search(r"Used ([\d.]+)([KMGT]) of", error)
    return int(float(match[1]) * 2 ** (10 * ("KMGT".index(match[2]) + 1))) if match else 0


def _moved(run: programs.Abstract, name: str, held: dict[str, int]) -> float:
    """Bytes that a program reads and writes at least: weights as they are used, and caches."""
    c, size = run.config, run.sizes
    rows = size["P"] // c.learner.minibatches
    slabs = rows // (c.learner.micro_blocks or rows)
    count = sum(int(x.size) for x in jax.tree.leaves(run.base)) / run.mesh.shape["model"]
    used = count * jnp.dtype(c.model.dtype).itemsize  # gathered over fsdp
    own = jax.tree.leaves(run.rollout_params)
    sampled = count * sum(x.size * x.dtype.itemsize for x in own) / sum(x.size for x in own)
    if c.mesh.rollout == "replicated":
        sampled *= run.mesh.shape["model"]
    prompt = size["L"] / (size["L"] + size["G"] * size["T"])
    steps = size["T"] - 1
    cache = held["cache"] * (prompt + (1 - prompt) / 2)  # half full in the mean
    return {
        "prefill": sampled + held["cache"] * prompt,
        "decode": steps * (sampled + cache),
        "score": slabs * used * (size["P"] // rows),
        "credit": 0.0,
        "update": 3 * slabs * used + 2 * (held["params"] + held["optimizer"]) + held["params"],
    }[name]


def update_flops(cfg: ModelConfig, config: tp.Any, size: dict[str, int]) -> float:
    """FLOPs of the matmuls in one pass over a batch, by formula, on all devices.

    Two a weight and token forward, twice that backward, and what remat computes again; the
    head, in chunks, twice forward; attention over visible pairs where a kernel skips the others.
    """
    p, g, prompt, width = size["P"], size["G"], size["L"], size["T"]
    layers = param_shapes(cfg)["layers"]
    weights = sum(s[0] * s[1] * s[2] for s in layers.values() if len(s) == 3)
    tokens = p * (prompt + g * (width - 1))
    again = config.model.remat == "full"
    flops = 2.0 * weights * tokens * (3 + again)
    chunks = p * g * width * cfg.vocab_size > config.model.logits_chunk
    flops += 2.0 * cfg.vocab_size * cfg.d_model * p * g * width * (3 + chunks)
    pairs = p * (prompt**2 + g * (width - 1) * (prompt + width - 1))
    return flops + 4.0 * cfg.num_layers * cfg.num_heads * cfg.head_dim * pairs * (3 + again)


def suggestions(config: tp.Any, run: programs.Abstract, found: dict[str, tp.Any]) -> list[str]:
    """Settings that would need less, with the bytes that arithmetic says they save a device."""
    worst = max(found["programs"], key=lambda k: found["programs"][k]["bytes"]["peak"])
    held, parts = found["bytes"], sharding.shards(run.mesh)
    over = held["peak"] - chips.USABLE * held["memory"]
    options: list[tuple[str, float]] = []
    micro = config.learner.micro_blocks or run.sizes["P"] // config.learner.minibatches
    if worst == "update":
        spare = max(found["programs"]["update"]["bytes"]["peak"] - held["params"] * 2
                    - held["optimizer"] - held["reference"] - held["frozen"], 0)  # fmt: skip
        if micro > parts:
            options.append(
                (
                    f"learner.micro_blocks={max(micro // 2, parts)}",
                    spare * (1 - max(micro // 2, parts) / micro),
                )
            )
        if config.model.remat != "full":
            options.append(("model.remat='full'", spare / 2))
    if worst in ("prefill", "decode"):
        if config.sampling.dtype == "float32" and not run.rounds_kernels:
            options.append(
                ("sampling.dtype='bfloat16'", (held["rollout_params"] + held["cache"]) / 2)
            )
        cuts = {"as_trained": run.mesh.shape["fsdp"] * run.mesh.shape["model"]}
        cuts |= {"gathered": run.mesh.shape["model"], "replicated": 1}
        now = cuts[config.mesh.rollout]
        options += [
            (f"mesh.rollout={layout!r}", held["rollout_params"] * (1 - now / cut))
            for layout, cut in cuts.items()
            if cut > now
        ]
        if run.sizes["P"] > parts:
            options.append((f"rollout.prompts={config.rollout.prompts // 2}", held["cache"] / 2))
    if config.optim.moments == "float32":
        options.append(("optim.moments='bfloat16'", held["optimizer"] / 2))
    if run.mesh.shape["data"] > 1:
        state = 2 * held["params"] + held["optimizer"]
        fsdp = 2 * run.mesh.shape["fsdp"]
        options.append((f"mesh data={run.mesh.shape['data'] // 2}, fsdp={fsdp}", state / 2))
    if not config.model.lora.rank:
        options.append(("model.lora.rank=16", held["optimizer"] + held["params"]))
    ordered = sorted(options, key=lambda o: -o[1])
    return [
        f"{name}: saves about {_gib(saved)}" + (", enough" if saved >= over else "")
        for name, saved in ordered
    ]


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def table(found: dict[str, tp.Any]) -> str:
    """The plan as text."""
    held, mesh = found["bytes"], ", ".join(f"{k} {v}" for k, v in found["mesh"].items())
    size = ", ".join(f"{k} {v}" for k, v in found["sizes"].items())
    lines = [
        f"{found['model']}, {found['parameters'] / 1e9:.2f}e9 parameters, on {found['devices']} x "
        f"{found['chip']} ({mesh}); {size}",
        f"compiled by {found['compiler']}",
        "",
        "bytes a device, held between programs: "
        + ", ".join(
            f"{k} {_gib(v)}" for k, v in held.items()
            if v and k not in ("activations", "peak", "memory")
        ),
        f"activations of the update: {_gib(held['activations'])}",
        "",
        f"{'program':<8} {'times':>5} {'peak':>11} {'TFLOP':>9} {'wire':>11} "
        f"{'compute':>9} {'memory':>9} {'links':>9}  s",
    ]  # fmt: skip
    for name, p in found["programs"].items():
        s = p["seconds"]
        lines.append(
            f"{name:<8} {p['times']:>5} {_gib(p['bytes']['peak']):>11} {p['flops'] / 1e12:>9.2f} "
            f"{_gib(sum(p['collective_bytes'].values())):>11} {s['compute']:>9.3f} "
            f"{s['memory']:>9.3f} {s['links']:>9.3f}" + (f"  {p['error']}" if p["error"] else "")
        )
        if p["collective_bytes"]:
            kinds = ", ".join(f"{k} {_gib(v)}" for k, v in sorted(p["collective_bytes"].items()))
            lines.append(f"         {kinds}")
    flops = found["update_flops"]
    step, rate = found["step_seconds"], found["tokens_per_second"]
    lines += [
        "",
        f"FLOPs of the update: {flops['compiled'] / 1e12:.1f}e12 a device in the program, "
        f"{flops['formula'] / 1e12:.1f}e12 by formula",
        f"a step: {step['overlapped']:.1f} s with communication hidden, {step['serial']:.1f} s "
        f"with none hidden; {rate['overlapped']:.0f} and {rate['serial']:.0f} sampled tokens/s",
        f"how: {found['how']}",
        *([f"not planned: {found['not_planned']}"] if found["not_planned"] else []),
        f"{'fits' if found['fits'] else 'DOES NOT FIT'}: {_gib(held['peak'])} of "
        f"{_gib(held['memory'])}" + ", but for what is not planned" * bool(found["not_planned"]),
        *(f"  {line}" for line in found["suggestions"]),
    ]
    return "\n".join(lines)
