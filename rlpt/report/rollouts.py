"""A sample of rollouts.jsonl as the data of the inspector.

Completions are hostile text: characters that do not show, or that turn the direction of what
follows, are replaced by what can be read, and the page gets everything as JSON without `<`,
`>` and `&`.  Whole groups are taken, evenly over the file, until a budget of bytes is used up;
long completions lose their middle.  Trees and their values are computed from all tokens.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import typing as tp

from rlpt.report import tree
from rlpt.report.runs import Run, is_number
from rlpt.report.text import safe_json, short, visible

Row = dict[str, tp.Any]

TOKENS = 1200  # shown of a completion, before anything else is shortened
ROWS = 256  # shown of a group
_FEWEST_TOKENS = 40
_IN_VAIN = 100  # groups in a row that did not fit, after which no other is tried
_NODES = 400  # drawn of a tree
_TEXT = {"prompt": 6000, "answer": 500, "detail": 400, "name": 80, "piece": 120, "label": 60}
_VERIFIERS = _COLUMNS = 12  # shown of a row
_PART = "\ufffd"  # in what a part of a character decodes to

# What the lines of a file begin with: read without parsing lines that are not shown.
_HEAD = re.compile(rb'\{"step": (\d+), "block": (\d+), "sample": \d+(?:, "group": (-?\d+))?')


class Pieces:
    """The table of tokens that the page shows: [id, text], or [id, null] without a tokenizer."""

    def __init__(self) -> None:
        self.table: list[tuple[int, str | None]] = []
        self._index: dict[tuple[str, int, str | None], int] = {}
        self._backends: dict[str, tp.Any] = {}
        self._texts: dict[tuple[str, int], str | None] = {}

    def indices(self, source: pathlib.Path | None, tokens: tp.Sequence[int]) -> list[int]:
        """Where the tokens, as a text, are in the table.

        A character that several tokens spell together stands at the last of them.
        """
        texts = [self._text(source, token) for token in tokens]
        start = 0
        for i, text in enumerate(texts):
            if source is None or text is None or _PART not in text:
                start = i + 1
            elif _PART not in (whole := self._decoded(source, tokens[start : i + 1])):
                texts[start : i + 1] = [""] * (i - start) + [whole]
                start = i + 1
        return [self._place(source, *pair) for pair in zip(tokens, texts, strict=True)]

    def _place(self, source: pathlib.Path | None, token: int, text: str | None) -> int:
        key = (str(source), token, text)
        if key not in self._index:
            self._index[key] = len(self.table)
            shown = None if text is None else short(visible(text), _TEXT["piece"])
            self.table.append((token, shown))
        return self._index[key]

    def forget(self, size: int) -> None:
        """Drops what was added behind the first `size` tokens."""
        del self.table[size:]
        self._index = {key: at for key, at in self._index.items() if at < size}

    def _text(self, source: pathlib.Path | None, token: int) -> str | None:
        """What the token says by itself; None: nothing, or there is no tokenizer."""
        if source is None:
            return None
        key = (str(source), token)
        if key not in self._texts:
            self._texts[key] = self._decoded(source, [token]) or None
        return self._texts[key]

    def _decoded(self, source: pathlib.Path, tokens: tp.Sequence[int]) -> str:
        backend = self._backends.get(str(source))
        if backend is None:
            import tokenizers

            backend = tokenizers.Tokenizer.from_file(str(source))
            self._backends[str(source)] = backend
        # on its own a first token loses the blank before it: decode it behind another one
        before: str = backend.decode([*tokens], skip_special_tokens=False)
        both: str = backend.decode([*tokens, *tokens], skip_special_tokens=False)
        return both[len(before) :] if both.startswith(before) else before


def tokenizer_files(runs: tp.Sequence[Run]) -> list[pathlib.Path | None]:
    """tokenizer.json by run: of its workdir, of its export, of the directory that its model came
    from, or of another of the runs that started from the same model.

    One that is damaged is named in run.problems, and counts as none.
    """
    import tokenizers

    found: list[pathlib.Path | None] = []
    shared: dict[str, pathlib.Path] = {}
    sources = []
    for run in runs:
        model = run.config.get("model")
        source = model.get("source") if isinstance(model, dict) else None
        sources.append(source if isinstance(source, str) else "")
        found.append(None)
        for place in (run.path, run.path / "export", pathlib.Path(sources[-1] or run.path)):
            file = place / "tokenizer.json"
            if found[-1] is None and file.is_file():
                try:
                    tokenizers.Tokenizer.from_file(str(file))
                    found[-1] = file
                    shared.setdefault(sources[-1], file)
                except Exception as e:  # the library raises nothing narrower
                    run.problems.append(f"{place.name}/tokenizer.json: {short(str(e), 80)}")
    shared.pop("", None)
    return [file or shared.get(source) for file, source in zip(found, sources, strict=True)]


@dataclasses.dataclass(frozen=True)
class Group:
    """Where the rows of a group are in a file: (step, number, offsets of its lines)."""

    run: int
    file: pathlib.Path
    step: int
    number: int
    offsets: tuple[int, ...]


def groups(run: Run, number: int) -> list[Group]:
    """All groups of a run's rollouts*.jsonl in order of their steps; files are read once.

    Args: number: of the run, for `Group.run`.
    """
    found: dict[tuple[int, pathlib.Path, int], list[int]] = {}
    for path in sorted(run.path.glob("rollouts*.jsonl")):
        damaged, offset = 0, 0
        with path.open("rb") as file:
            for line in file:
                key = _key(line)
                if key is None or not line.endswith(b"\n"):
                    damaged += 1
                elif key[1] >= 0:
                    found.setdefault((key[0], path, key[1]), []).append(offset)
                offset += len(line)
        if damaged:
            run.problems.append(f"{path.name}: {damaged} damaged or unfinished line(s) left out")
    return [
        Group(number, path, step, group, tuple(offsets))
        for (step, path, group), offsets in sorted(found.items(), key=lambda item: item[0])
    ]


def _key(line: bytes) -> tuple[int, int] | None:
    """(step, group) of a line, by its beginning where that tells; None for a damaged one."""
    match = _HEAD.match(line)
    if match:
        return int(match[1]), int(match[2] if match[3] is None else match[3])
    try:
        row = json.loads(line)
        return int(row["step"]), int(row.get("group", row["block"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None


@dataclasses.dataclass
class Sample:
    """What the page shows of the rollouts.

    Attributes:
      data: of the inspector, as JSON data.
      statistics: (run name, step, numbers of `tree.statistics`) of each group.
      shown, total: groups.
      without_texts: names of the runs that have rollouts and no tokenizer.
    """

    data: Row
    statistics: list[tuple[str, int, dict[str, float]]]
    shown: int
    total: int
    without_texts: list[str]


def sample(runs: tp.Sequence[Run], budget: int) -> Sample:
    """Groups evenly over all runs and steps, as many as fit into `budget` bytes of JSON.

    A group takes at most a twentieth of the budget: its completions are shortened until it
    does, and it is left out where that is not enough.
    """
    every = [g for number, run in enumerate(runs) for g in groups(run, number)]
    sources = tokenizer_files(runs)
    pieces = Pieces()
    chosen: dict[int, Row] = {}
    statistics = []
    left = budget
    in_vain = 0
    for i in _spread(len(every)):
        if left <= budget // 100 or in_vain > _IN_VAIN:
            break
        run = runs[every[i].run]
        rows, most, known = _rows(every[i], run), TOKENS, len(pieces.table)
        if not rows:
            continue
        while True:
            group = _encode(every[i], rows, sources[every[i].run], pieces, most)
            size = len(safe_json([group, pieces.table[known:]]).encode())
            if size <= min(left, budget // 20) or most <= _FEWEST_TOKENS:
                break
            most = max(most // 2, _FEWEST_TOKENS)
            pieces.forget(known)
        if size > min(left, budget // 20):
            pieces.forget(known)
            in_vain += 1
            continue
        left -= size
        in_vain = 0
        chosen[i] = group
        if numbers := group.pop("statistics"):
            statistics.append((run.name, every[i].step, numbers))
    data = {
        "runs": [visible(run.name) for run in runs],
        "pieces": pieces.table,
        "groups": [chosen[i] for i in sorted(chosen)],
    }
    have = {group.run for group in every}
    bare = [run.name for i, run in enumerate(runs) if i in have and sources[i] is None]
    return Sample(data, statistics, len(chosen), len(every), bare)


def _spread(n: int) -> list[int]:
    """0 to n-1 so ordered that any first few of them lie evenly: the ends, then halves."""
    bits = max(n - 1, 1).bit_length()
    halves = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits)]
    return [i for i in dict.fromkeys([0, n - 1, *halves]) if 0 <= i < n]


def _rows(group: Group, run: Run) -> list[Row]:
    """The rows of a group that have what the inspector needs, by block and sample."""
    rows, damaged = [], 0
    with group.file.open("rb") as file:
        for offset in group.offsets:
            file.seek(offset)
            try:
                row = json.loads(file.readline())
                if _sound(row):
                    rows.append(row)
                    continue
            except (ValueError, RecursionError):
                pass
            damaged += 1
    if damaged:
        run.problems.append(
            f"{group.file.name}: step {group.step}, group {group.number}: {damaged} row(s) left "
            "out: not as `rlpt train` writes them"
        )
    return sorted(rows, key=lambda row: (row["block"], row["sample"]))


def _sound(row: tp.Any) -> bool:
    """The types of the keys that are read without a second look."""
    types = {"block": int, "sample": int, "prompt": str, "completion": str, "tokens": list}
    return (
        isinstance(row, dict)
        and all(isinstance(row.get(key), kind) for key, kind in types.items())
        and all(type(t) is int and 0 <= t < 2**31 for t in row["tokens"])
    )


def _encode(
    group: Group, rows: list[Row], source: pathlib.Path | None, pieces: Pieces, most: int
) -> Row:
    """A group for the inspector, `most` tokens a completion; rows and statistics of its tree."""
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    known = [row.get("row_mask", True) and is_number(row.get("reward")) for row in rows]
    live = [i for i in range(len(rows)) if known[i]]
    out: Row = {
        "run": group.run,
        "step": group.step,
        "group": group.number,
        "id": _clipped(rows[0].get("id", ""), "name"),
        "answer": _clipped(rows[0].get("answer", ""), "answer"),
        "prompts": [_clipped(text, "prompt") for text in prompts],
        "left_out": max(len(rows) - ROWS, 0),
        "rows": [_encode_row(row, prompts, source, pieces, most) for row in rows[:ROWS]],
        "tree": [],
        "statistics": {},
    }
    if live:
        tokens = [rows[i]["tokens"] for i in live]
        nodes = tree.prefix_tree(tokens, [rows[i]["reward"] for i in live])
        out["statistics"] = tree.statistics(nodes, [len(t) for t in tokens])
        for node in nodes[:_NODES]:  # parents come first
            first = tokens[node.rows[0]][node.start : node.end]
            shown = [pieces.table[at] for at in pieces.indices(source, first[:24])]
            text = "".join(f"⟨{t}⟩" if piece is None else piece for t, piece in shown)
            text += "…" if len(first) > 24 else ""
            out["tree"].append(
                {
                    "parent": node.parent,
                    "from": node.start,
                    "to": node.end,
                    "value": _round(node.value),
                    "rows": len(node.rows),
                    "row": live[node.rows[0]],
                    "text": short(text, _TEXT["label"]),
                }
            )
    return out


def _encode_row(
    row: Row, prompts: list[str], source: pathlib.Path | None, pieces: Pieces, most: int
) -> Row:
    """tokens, and what is recorded of each of them, without the middle of a long completion."""
    n = len(row["tokens"])
    head, tail = (n, 0) if n <= most else (-(-most * 3 // 5), most * 2 // 5)
    keep = [*range(head), *range(n - tail, n)]
    outcomes, verdicts, details = (
        row[key] if isinstance(row.get(key), dict) else {}
        for key in ("outcomes", "verdicts", "details")
    )
    named = list(dict.fromkeys([*outcomes, *verdicts]))[:_VERIFIERS]
    own_places = pieces.indices(source, row["tokens"])
    out: Row = {
        "prompt": prompts.index(row["prompt"]),
        "sample": row["sample"],
        "reward": _round(row.get("reward")),
        "live": bool(row.get("row_mask", True)),
        "truncated": bool(row.get("truncated")),
        "origin": row["origin"] if is_number(row.get("origin")) else 0,
        "verdicts": [
            [_clipped(v, "name"), _clipped(outcomes.get(v, "?"), "name"),
             _round(verdicts.get(v)), _clipped(details.get(v, ""), "detail")]
            for v in named
        ],
        "length": n,
        "cut": [head, n - head - tail],
        "tokens": [own_places[t] for t in keep],
    }  # fmt: skip
    if source is None:
        out["text"] = _clipped(row["completion"], "prompt")
    for name, key in (
        ("logp", "sampler_logp"),
        ("advantage", "advantages"),
    ):
        values = row.get(key)
        if isinstance(values, list) and len(values) == n:
            kept = [_round(values[t]) for t in keep]
            out[name] = kept[0] if kept and len(set(kept)) == 1 else kept
    columns = row["columns"] if isinstance(row.get("columns"), dict) else {}
    for name, values in list(columns.items())[:_COLUMNS]:
        if isinstance(values, list) and len(values) == n:
            own_values = out.setdefault("columns", {})
            own_values[_clipped(name, "name")] = [_round(values[t]) for t in keep]
        elif not isinstance(values, list):
            number = _round(int(values) if isinstance(values, bool) else values)
            out.setdefault("numbers", []).append([_clipped(name, "name"), number])
    old, own = columns.get("old_logp"), row.get("sampler_logp")
    if isinstance(old, list) and isinstance(own, list) and len(old) == len(own) == n:
        both = [(old[t], own[t]) for t in keep]
        out["log_ratio"] = [
            _round(a - b) if is_number(a) and is_number(b) else None for a, b in both
        ]
    trained = row.get("loss_mask")
    if isinstance(trained, list) and len(trained) == n and not all(trained):
        out["trained"] = [int(bool(trained[t])) for t in keep]
    return out


def _round(value: tp.Any) -> float | None:
    """To four significant digits; None for what is no number."""
    return float(f"{value:.4g}") if is_number(value) else None


def _clipped(text: tp.Any, kind: str) -> str:
    return visible(short(str(text), _TEXT[kind]))
