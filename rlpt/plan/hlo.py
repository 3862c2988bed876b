"""Counts in a compiled program's text: FLOPs of matmuls and kernels, bytes of collectives.

XLA's own cost analysis counts the body of a loop once; here a body counts as often as its loop
runs.  How often is read from the loop's condition; where that depends on data (micro-batches,
sampled tokens) the caller says it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import typing as tp

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2}
_BYTES |= {"f16": 2, "s16": 2, "u16": 2}  # all others: 1
_ARRAY = re.compile(r"\b(pred|bf16|[fsu]\d+\w*)\[([\d,]*)\]")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$")
_CALLED = re.compile(r"(?:calls|to_apply|called_computations)=\{?%?([\w.\-]+)")
_MATMULS = {"fwd": 2, "dq": 3, "dkv": 4}  # of a splash kernel, over the pairs that it visits


@dataclasses.dataclass
class Counts:
    """flops: of matmuls and kernels on one device; wire: {kind: bytes it sends}; runs: of them."""

    flops: float = 0.0
    wire: dict[str, float] = dataclasses.field(default_factory=dict)
    runs: dict[str, float] = dataclasses.field(default_factory=dict)


class _Instruction(tp.NamedTuple):
    name: str
    type: str
    op: str
    rest: str  # from the opening parenthesis of the operands


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """{computation: its instructions} and the name of the entry."""
    found: dict[str, list[_Instruction]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = head[1]
            found[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif current and (match := _LINE.match(line)):
            name, right = match.groups()
            end = right.index(")" if right.startswith("(") else " ")
            while right[:end].count("(") > right[:end].count(")"):
                end = right.index(" ", end + 1)  # of a tuple's type
            op, _, rest = right[end + 1 :].partition("(")
            found[current].append(_Instruction(name, right[:end], op, rest))
    if not entry:
        raise ValueError("got a text without an ENTRY, expected compiled.as_text()")
    return found, entry


def _shapes(text: str) -> list[tuple[str, list[int]]]:
    return [(k, [int(n) for n in d.split(",") if n]) for k, d in _ARRAY.findall(text)]


def _size(kind: str, shape: list[int]) -> int:
    return _BYTES.get(kind, 1) * math.prod(shape)


def _operands(instruction: _Instruction) -> list[str]:
    return re.findall(r"%([\w.\-]+)", instruction.rest.partition(")")[0])


def _matmul(instruction: _Instruction, types: dict[str, str]) -> float:
    """FLOPs of a dot or of the convolution that a TPU makes of it."""
    out = math.prod(_shapes(instruction.type)[0][1])
    left, right = (_shapes(types[name])[0][1] for name in _operands(instruction)[:2])
    if instruction.op == "dot":
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
        assert axes is not None
        return 2.0 * out * math.prod(left[int(a)] for a in axes[1].split(",") if a)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->", instruction.rest)
    assert labels is not None
    summed = right[labels[2].index("i")]
    window = re.search(r"window=\{([^}]*)\}", instruction.rest)
    options = dict(o.split("=") for o in window[1].split()) if window else {}
    taps = [int(n) for n in options["size"].split("x")] if "size" in options else []
    # An axis of a batch is a window over a dilated axis, in which one tap meets a number.
    for option in ("lhs_dilate", "rhs_dilate"):
        steps = options.get(option, "x".join("1" * len(taps))).split("x") if taps else []
        taps = [1 if int(step) > 1 else n for n, step in zip(taps, steps, strict=True)]
    if "pad" in options:
        pads = options["pad"].split("x")
        taps = [
            1 if max(map(int, p.split("_"))) >= n - 1 > 0 else n
            for n, p in zip(taps, pads, strict=True)
        ]
    return 2.0 * out * summed * math.prod(taps)


def _group(rest: str) -> int:
    """How many devices take part in each group of a collective."""
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match[2]))
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(match[1].split(","))
    return 2  # a permutation: what is sent is what is received


def _wire(kind: str, instruction: _Instruction) -> float:
    """Bytes that one device sends, in a ring."""
    n = _group(instruction.rest)
    sizes = [_size(*shape) for shape in _shapes(instruction.type)]
    size = max(sizes) if instruction.op.endswith("-start") else sum(sizes)
    share = (n - 1) / n
    return {
        "all-gather": size * share,
        "all-reduce": 2 * size * share,
        "reduce-scatter": size * (n - 1),
        "all-to-all": size * share,
        "collective-permute": size,
    }[kind]


def _trips(condition: list[_Instruction], rest: str) -> int | None:
    """How often a loop runs; None: it depends on data."""
    if match := re.search(r'known_trip_count":\{"n":"(\d+)"', rest):
        return int(match[1])
    limits = [
        int(i.rest.partition(")")[0])
        for i in condition
        if i.op == "constant" and re.match(r"[su]32\[\]", i.type)
    ]
    compares = any(i.op in ("compare", "fusion") for i in condition)
    return limits[0] if len(limits) == 1 and compares else None


def count(
    text: str, dynamic: float = 1.0, pairs: tp.Callable[[int, int], float] | None = None
) -> Counts:
    """Counts in `compiled.as_text()`, on one device.

    Args:
      dynamic: how often a loop runs whose length depends on data.
      pairs: (queries, keys) of a splash kernel -> (query, key) pairs that it visits;
        None: all.
    """
    computations, entry = _parse(text)
    out = Counts()
    seen: dict[str, tuple[str, float, float]] = {}  # channel -> kind, bytes, runs

    @functools.cache
    def types(computation: str) -> dict[str, str]:
        return {i.name: i.type for i in computations[computation]}

    def walk(computation: str, times: float) -> None:
        for i in computations[computation]:
            kind = i.op.removesuffix("-start")
            if i.op in ("dot", "convolution"):
                out.flops += times * _matmul(i, types(computation))
            elif kind in COLLECTIVES:
                channel = re.search(r"channel_id=(\d+)", i.rest)
                # Steps of an asynchronous collective repeat its channel.
                key = channel[1] if channel else f"{computation}/{i.name}"
                runs = max(times, seen[key][2] if key in seen else 0.0)
                seen[key] = (kind, _wire(kind, i), runs)
            elif i.op == "custom-call" and (m := re.search(r"splash_m[hq]a_(fwd|dq|dkv)", i.name)):
                layouts = _shapes(i.rest.partition("operand_layout_constraints=")[2])
                floats = ("bf16", "f16", "f32")
                q, k = [s for t, s in layouts if t in floats and len(s) >= 3][:2]  # [..., S, hd]
                visited = pairs(q[-2], k[-2]) if pairs else float(q[-2] * k[-2])
                out.flops += times * 2 * _MATMULS[m[1]] * math.prod(q) / q[-2] * visited
            elif i.op == "while":
                names = dict(re.findall(r"(condition|body)=%?([\w.\-]+)", i.rest))
                trips = _trips(computations[names["condition"]], i.rest)
                walk(names["body"], times * (dynamic if trips is None else trips))
            elif i.op == "conditional":  # one of its branches: layers with and without a window
                branches = re.search(r"branch_computations=\{([^}]*)\}", i.rest)
                listed = re.findall(r"%?([\w.\-]+)", branches[1]) if branches else []
                listed += re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", i.rest)
                for branch in listed:
                    walk(branch, times / len(listed))
            elif called := _CALLED.search(i.rest):
                if called[1] in computations and i.op not in ("reduce", "scatter", "sort", "map"):
                    walk(called[1], times)

    walk(entry, 1.0)
    for kind, size, runs in seen.values():
        out.wire[kind] = out.wire.get(kind, 0.0) + size * runs
        out.runs[kind] = out.runs.get(kind, 0.0) + runs
    return out
