"""How good a policy is on held-out prompts, and whether it is better than another.

Each measure is a mean over prompts of a number per prompt, so that intervals resample
prompts and two results are compared prompt by prompt.  `evaluate` judges a model in hand
(the trainer's); `evaluate_source` any model by name, prompt by prompt into a journal, so
that what is interrupted goes on and what is known is not computed again.
"""

from __future__ import annotations

import collections
import collections.abc
import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np

from rlpt import build, checkpoint, metrics, records, search, settings, statistics
from rlpt import config as config_lib
from rlpt import tools as tools_lib
from rlpt.endpoint import Completion, Endpoint
from rlpt.tasks import build as tasks_build
from rlpt.tasks.base import Prompt, content_id
from rlpt.tasks.stream import filter_long
from rlpt.verifiers import base as verifiers_base
from rlpt.verifiers.answer import canonical
from rlpt.verifiers.pool import VerifierPool

Sampler = collections.abc.Callable[
    [collections.abc.Sequence[Prompt], int, float], list[list[Completion]]
]
Verify = collections.abc.Callable[
    [list[verifiers_base.Trajectory], list[Prompt]],
    collections.abc.Sequence[collections.abc.Mapping[str, verifiers_base.Verdict]],
]
Complete = collections.abc.Callable[..., tools_lib.Batch]
Row = dict[str, tp.Any]  # what is known of a prompt, as JSON: see `judge`
# Of a row, for the trainer's log.
BRIEF = ("correct", "samples", "sample", "chosen", "greedy", "greedy_text", "content", "missing")
LOST = ("timeout", "crash", "invalid")  # outcomes that say nothing of the completion
CONFIDENCE = "confidence.confidence"  # the verifier whose score is a stated confidence


@dataclasses.dataclass(frozen=True)
class Local:
    """Samples with a model in this process. blocks: prompts in a batch, empty ones filled up.

    complete: of `build.completion_of`.
    """

    tools: tools_lib.Tools
    blocks: int
    complete: Complete | None = None

    @property
    def ranked(self) -> bool:
        """Whether the first completion of a prompt is the best by what made them."""
        return getattr(getattr(self.complete, "func", self.complete), "ranked", False)

    def __call__(
        self, prompts: collections.abc.Sequence[Prompt], n: int, temperature: float
    ) -> list[list[Completion]]:
        items: list[tp.Any] = [(p, 0) for p in prompts]
        items += [None] * (self.blocks - len(items))
        tools = self.tools
        make = functools.partial(self.complete, tools) if self.complete else tools.generate
        batch = make(items, group=n, step=0, purpose=tools_lib.EVALUATE, temperature=temperature)
        lengths = batch.table["completion_mask"].sum(-1)
        return [
            [
                Completion(
                    batch.text.completions[i][j],
                    int(lengths[i, j]),
                    bool(batch.table["truncated"][i, j]),
                    batch.text.prompt_text[i],
                )
                for j in range(n)
            ]
            for i in range(len(prompts))
        ]


def judge(
    sampler: Sampler,
    verify: Verify,
    prompts: collections.abc.Sequence[Prompt],
    *,
    samples: int,
    temperature: float,
    greedy: bool,
    counted: collections.abc.Collection[str] | None,
    reading: collections.abc.Mapping[str, str] | None = None,
) -> list[Row]:
    """Samples and judges completions of some prompts.

    Args: as `evaluate`; verify: as `VerifierPool.verify`; prompts: one batch; reading: settings of
      `canonical`.
    Returns: a row a prompt: correct (number), samples, sample (the first text), hits [bool],
      answers (`canonical`), verdicts {verifier: [[score, outcome]]}, tokens, truncated, one a
      completion; content (`content_id`); where verdicts were lost (LOST), missing, the number of
      such completions, which count as wrong; chosen (bool): of a search, that it puts first; and
      greedy (bool), greedy_text.  Without samples, verdicts, tokens and truncated are of the greedy
      completion.
    """
    rows: list[Row] = [{"task": p.task, "content": content_id(p)} for p in prompts]
    for sampled, n, heat in ((True, samples, temperature), (False, int(greedy), 0.0)):
        if not n:
            continue
        completions = sampler(prompts, n, heat)
        flat = [(c, p) for p, group in zip(prompts, completions, strict=True) for c in group]
        verdicts = iter(
            verify(
                [verifiers_base.Trajectory(c.text, c.prompt_text, c.truncated) for c, _ in flat],
                [p for _, p in flat],
            )
        )
        for row, group in zip(rows, completions, strict=True):
            judged = [next(verdicts) for _ in group]
            hits = [verifiers_base.correct(v, counted) for v in judged]
            if lost := sum(_lost(v, counted) for v in judged):
                row["missing"] = row.get("missing", 0) + lost
            if sampled or not samples:
                row["tokens"] = [c.tokens for c in group]
                row["truncated"] = [c.truncated for c in group]
                row["verdicts"] = {
                    name: [[v[name].score, v[name].outcome] for v in judged] for name in judged[0]
                }
            if sampled:
                row |= {"correct": sum(hits), "samples": n, "sample": group[0].text, "hits": hits}
                row["answers"] = [canonical(c.text, **(reading or {})) for c in group]
                if getattr(sampler, "ranked", False):
                    row["chosen"] = hits[0]
            else:
                row |= {"greedy": hits[0], "greedy_text": group[0].text}
    return rows


def _lost(
    verdicts: collections.abc.Mapping[str, verifiers_base.Verdict],
    counted: collections.abc.Collection[str] | None,
) -> bool:
    return any(v.outcome in LOST for k, v in verdicts.items() if counted is None or k in counted)


def measures(
    rows: collections.abc.Sequence[Row], best_of: str = "", cot: str = ""
) -> dict[str, np.ndarray]:
    """The numbers whose means are the result: {measure: [N], one a prompt}.

    pass@k and, for k > 1, pass^k, maj@k, best@k and weighted@k for k in powers of two and n, the
    number of samples; avg@n, the share of correct samples, which pass@1 equals; cot_pass@k; chosen,
    the completion that a search puts first; greedy.  Only those that the rows allow: maj@k needs an
    answer in at least one completion.

    Args:
      rows: of `judge`, all with the same number of samples, or only with what is in BRIEF.
      best_of: name of the verifier whose score chooses the completion of best@k, and is the
        weight of its answer's vote in weighted@k.
      cot: name of a verifier that judges the reasoning: cot_pass@k is pass@k where a
        completion counts only if that one finds it correct too (Wen et al., arXiv 2506.14245).
    """
    out: dict[str, np.ndarray] = {}
    n = rows[0].get("samples", 0)
    if n:
        correct = np.array([r["correct"] for r in rows])
        ks = sorted({2**i for i in range(n.bit_length())} | {n})
        out |= {f"pass@{k}": statistics.pass_at_k(n, correct, k) for k in ks}
        out |= {f"pass^{k}": statistics.pass_all_k(n, correct, k) for k in ks[1:]}
        out[f"avg@{n}"] = correct / n
        answered = any(a is not None for r in rows for a in r.get("answers", ()))
        if answered:
            majority = statistics.majority_at_k
            for k in ks[1:]:
                out[f"maj@{k}"] = np.array([majority(r["hits"], r["answers"], k) for r in rows])
        if best_of:
            scores = [[s for s, _ in _verdicts(r, best_of)] for r in rows]
            each = list(zip(rows, scores, strict=True))
            for k in ks[1:]:
                out[f"best@{k}"] = np.array(
                    [statistics.best_of_k(r["hits"], s, k) for r, s in each]
                )
                if answered:
                    weighted = search.weighted_at_k
                    out[f"weighted@{k}"] = np.array(
                        [weighted(r["hits"], r["answers"], s, k) for r, s in each]
                    )
        if cot:
            sound = np.array(
                [
                    sum(h and o == "correct" for h, (_, o) in zip(r["hits"], v, strict=True))
                    for r, v in ((r, _verdicts(r, cot)) for r in rows)
                ]
            )
            out |= {f"cot_pass@{k}": statistics.pass_at_k(n, sound, k) for k in ks}
    for name in ("chosen", "greedy"):
        if name in rows[0]:
            out[name] = np.array([r[name] for r in rows], float)
    return out


def _verdicts(row: Row, name: str) -> list[tuple[float | None, str]]:
    """The verdicts of one verifier; of a prompt that it did not judge, none with a score."""
    return row["verdicts"].get(name, [(None, "")] * row["samples"])


def summary(rows: collections.abc.Sequence[Row]) -> dict[str, tp.Any]:
    """pass@k and greedy, their intervals, lengths, truncation and outcomes: see `evaluate`."""
    result: dict[str, tp.Any] = {"prompts": len(rows), "samples": rows[0].get("samples", 0)}
    brief = ("pass@", "chosen", "greedy")
    shown = {k: v for k, v in measures(rows).items() if k.startswith(brief)}
    result |= {k: float(v.mean()) for k, v in shown.items()}
    lengths = [t for r in rows for t in r["tokens"] if t is not None]
    if lengths:
        result["length"] = float(np.mean(lengths))
    result["truncated"] = float(np.mean([t for r in rows for t in r["truncated"]]))
    if missing := sum(r.get("missing", 0) for r in rows):
        result["missing"] = missing / sum(r.get("samples", 0) + ("greedy" in r) for r in rows)
    result["outcomes"] = dict(
        collections.Counter(
            f"{name}/{outcome}"
            for r in rows
            for name, verdicts in r["verdicts"].items()
            for _, outcome in verdicts
        )
    )
    tasks = sorted({r["task"] for r in rows})
    if len(tasks) > 1:
        result["tasks"] = {}
        for task in tasks:
            own = measures([r for r in rows if r["task"] == task])
            result["tasks"][task] = {
                k: float(own[k].mean()) for k in ("pass@1", "greedy") if k in own
            }
    return result


def evaluate(
    tools: tp.Any,
    prompts: collections.abc.Sequence[Prompt],
    *,
    samples: int = 8,
    temperature: float = 1.0,
    blocks: int = 8,
    greedy: bool = True,
    done: collections.abc.Callable[[int], None] | None = None,
    counted: collections.abc.Collection[str] | None = None,
    complete: Complete | None = None,
) -> dict[str, tp.Any]:
    """Judges greedy and sampled completions of every prompt by the run's own verifiers.

    Args:
      tools: a `rlpt.tools.Tools` with the params to judge.
      samples: completions a prompt at `temperature`; 0: greedy only.
      blocks: prompts in a batch.  done: called with the number of prompts finished.
      counted: names of the verifiers that decide what is correct (`verifiers.base.counted_names`);
        None: all.
      complete: how completions are made, of `build.completion_of`.
    Returns: pass@1, pass@k for k in powers of two up to samples and for samples, greedy
      (fractions), length (tokens), truncated (fraction), prompts, samples, outcomes, missing (the
      fraction of completions whose verdict was lost, and that count as wrong, if any), with
      several tasks `tasks`: {task: {"pass@1", "greedy"}}, and `per_prompt`: {id: {"correct",
      "samples", "greedy", …}}.
    Raises: ValueError for no prompts.
    """
    _check(prompts)
    rows = []
    for start in range(0, len(prompts), blocks):
        part = prompts[start : start + blocks]
        rows += judge(
            Local(tools, blocks, complete), tools.judge, part, samples=samples,
            temperature=temperature, greedy=greedy, counted=counted,
        )  # fmt: skip
        if done:
            done(len(part))
    brief = [{k: r[k] for k in BRIEF if k in r} for r in rows]
    return summary(rows) | {"per_prompt": dict(zip((p.id for p in prompts), brief, strict=True))}


def _check(prompts: collections.abc.Sequence[Prompt]) -> None:
    if not prompts:
        raise ValueError("evaluate: no prompts; give config.tasks an eval split that is not empty")


# ---- any model by name


class Journal:
    """Rows of an evaluation in a file, a line each, written as they are made.

    A line that a killed process left unfinished is cut off, and its prompt judged again.
    Without a path nothing is kept.
    Raises: ValueError for a file that is damaged otherwise.
    """

    def __init__(self, path: pathlib.Path | None, key: dict[str, tp.Any]):
        self.rows: dict[str, Row] = {}
        self._path = path
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            file.seek(0)
            whole = file.read()
            whole = whole[: whole.rfind(b"\n") + 1]
            file.truncate(len(whole))
            if not whole:
                file.write(json.dumps({"key": key}).encode() + b"\n")
        try:
            for line in whole.splitlines()[1:]:
                self.rows |= json.loads(line)
        except ValueError as e:
            raise ValueError(f"{path} is damaged ({e}); delete it to judge its prompts anew") from e

    def add(self, rows: dict[str, Row]) -> None:
        self.rows |= rows
        if self._path is not None:
            text = "".join(json.dumps({name: row}) + "\n" for name, row in rows.items())
            with self._path.open("ab") as file:
                file.write(text.encode())


def cache_directory() -> pathlib.Path:
    """Where journals are by default: rlpt/evaluations in the user's cache directory."""
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return root / "rlpt" / "evaluations"


def evaluate_source(
    config: tp.Any,
    source: str,
    *,
    best_of: str = "",
    cot: str = "",
    plain: bool = False,
    cache: str | os.PathLike[str] | None = None,
    model_name: str = "",
    api_key_env: str = "OPENAI_API_KEY",
) -> dict[str, tp.Any]:
    """Judges a model on the held-out prompts of a config, with all `measures`.

    Args:
      source: as config.model.source, the workdir of a run, or the URL of an OpenAI-compatible
        server (http://127.0.0.1:8000/v1), whose chat template is then used and whose model is
        `model_name`.
      best_of, cot: names of verifiers of the config, see `measures`.
      plain: completions are plain samples where the config's rollout makes them with a tool or by
        search; a server's are plain in any case.
      cache: directory of journals, one for each (model, task, settings, code) by hash; None:
        none is kept.  What a server has behind a model's name cannot be hashed: its name is.
      api_key_env: environment variable with the server's key.
    Returns: as `evaluate`, with all measures; intervals {measure: [low, high]} by the bootstrap
      over prompts, which `interval` describes; with a confidence verifier calibration
      (`statistics.calibration`, over the completions that state one; and `unstated`); key; and
      per_prompt with the whole rows of `judge`.
    Raises: FileNotFoundError, endpoint.EndpointError; ValueError for settings.
    """
    names = [v["name"] for v in config.verifiers]
    for flag, name in (("best_of", best_of), ("cot", cot)):
        if name and name not in names:
            raise ValueError(f"{flag}: got {name!r}, expected a verifier of the config: {names}")
    _, prompts = build.load_tasks(config)
    _check(prompts)
    counted = verifiers_base.counted_names(config.verifiers)
    blocks = config.eval.blocks or config.rollout.prompts
    with contextlib.ExitStack() as stack:
        # before jax is used, as the pool asks for
        pool = stack.enter_context(
            VerifierPool(tuple(dict(v) for v in config.verifiers), **config.pool)
        )
        prompts = pool.check_gold(prompts, tasks_build.skipping(config.tasks))
        sampler: Sampler
        if source.startswith(("http://", "https://")):
            if not model_name:
                raise ValueError(f"model_name: needed for the server {source}, as it calls it")
            sampler = stack.enter_context(
                Endpoint(
                    source, model_name, config.sampling, seed=config.seed, api_key_env=api_key_env
                )
            )
            model = f"{model_name} at {source}"
        else:
            tools, model = _load(config, source, pool)
            prompts, _ = filter_long(
                prompts, lambda p: len(tools.encode(p)), tools.max_prompt, config.too_long
            )
            complete = None if plain else build.completion_of(config)
            sampler = Local(tools, blocks, complete)
        key = evaluation_key(config, model, prompts)
        if isinstance(sampler, Local) and sampler.complete:
            key["completion"] = checkpoint.fingerprint(json.loads(config.rollout.to_json()))
        path = pathlib.Path(cache) / f"{checkpoint.fingerprint(key)}.jsonl" if cache else None
        journal = Journal(path, key)
        missing = [p for p in prompts if p.id not in journal.rows]
        unkept: dict[str, Row] = {}  # whose verdicts were lost: the next time they are judged again
        if known := len(prompts) - len(missing):
            records.say(f"{known} of {len(prompts)} prompts are in {path}")
        with metrics.progress("evaluate", len(missing)) if missing else _silent() as advance:
            for start in range(0, len(missing), blocks):
                part = missing[start : start + blocks]
                rows = judge(
                    sampler, pool.verify, part, samples=config.eval.samples,
                    temperature=config.eval.temperature, greedy=True, counted=counted,
                    reading=_reading(config, counted),
                )  # fmt: skip
                judged = dict(zip((p.id for p in part), rows, strict=True))
                journal.add({k: row for k, row in judged.items() if "missing" not in row})
                unkept |= {k: row for k, row in judged.items() if "missing" in row}
                advance(len(part))
    rows = [journal.rows.get(p.id) or unkept[p.id] for p in prompts]
    found = measures(rows, best_of, cot)
    result = summary(rows) | {k: float(v.mean()) for k, v in found.items()}
    result["intervals"] = {k: statistics.bootstrap(v) for k, v in found.items()}
    result["interval"] = (
        f"{statistics.LEVEL:.0%} percentile bootstrap over prompts, "
        f"{statistics.RESAMPLES} resamples, seed 0"
    )
    for spec in config.verifiers:
        if spec["fn"] == CONFIDENCE and config.eval.samples:
            result["calibration"] = _calibration(rows, spec["name"])
    result |= {"model": source, "best_of": best_of, "cot": cot, "key": key}
    return result | {"per_prompt": dict(zip((p.id for p in prompts), rows, strict=True))}


def _reading(config: tp.Any, counted: collections.abc.Collection[str]) -> dict[str, str]:
    """Where the answers of completions stand: where the first verifier that counts looks."""
    for spec in config.verifiers:
        defaults = config_lib.find("verifiers", spec["fn"]).__kwdefaults__ or {}
        extract = spec.get("extract", defaults.get("extract"))
        if spec["name"] in counted and extract in ("boxed", "tag", "whole", "last"):
            return {"extract": extract, "tag": spec.get("tag", "answer")}
    return {}


@contextlib.contextmanager
def _silent() -> tp.Iterator[tp.Callable[[int], None]]:
    yield lambda n: None


def _load(config: tp.Any, source: str, pool: VerifierPool) -> tuple[tools_lib.Tools, str]:
    """Tools with the model's params, and a hash over all that it is."""
    from rlpt.policy import load_policy

    loaded = load_policy(source)
    tools = tools_lib.Tools(
        loaded.config, loaded.tokenizer, pool, config.sampling,
        settings.missing_by_verifier(config), [v["name"] for v in config.verifiers],
        jax.random.key(config.seed),
    )  # fmt: skip
    tools.params = jax.tree.map(jnp.asarray, loaded.params)
    parts = [repr(loaded.config), loaded.tokenizer.fingerprint()]
    return tools, checkpoint.fingerprint([*parts, checkpoint.tree_fingerprint(tools.params)])


def evaluation_key(
    config: tp.Any, model: str, prompts: collections.abc.Sequence[Prompt]
) -> dict[str, tp.Any]:
    """What an evaluation follows from, as JSON: model, task, settings and code.

    model: its hash.  The code is that of rlpt, of verifiers from elsewhere (their own file), and
    the versions of the libraries.
    """
    settings = json.loads(config.to_json_best_effort())
    evaluation = {k: settings["eval"][k] for k in ("samples", "temperature")}
    elsewhere = {v["fn"].partition(":")[0] for v in config.verifiers if ":" in v["fn"]}
    return {
        "model": model,
        "task": checkpoint.fingerprint([json.loads(json.dumps(vars(p))) for p in prompts]),
        "settings": checkpoint.fingerprint(
            [settings[k] for k in ("seed", "verifiers", "sampling", "pool")] + [evaluation]
        ),
        "code": {name: _code(name) for name in sorted({"rlpt"} | elsewhere)},
        "versions": build.versions(),
    }


@functools.cache
def _code(module: str) -> str:
    """A hash over the source of a module, or of all modules of a package."""
    spec = importlib.util.find_spec(module)
    origin = pathlib.Path(spec.origin) if spec and spec.origin else None
    if origin is None:
        return ""
    files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(origin.parent)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _calibration(rows: collections.abc.Sequence[Row], name: str) -> dict[str, tp.Any]:
    pairs = [
        (score, hit)
        for r in rows
        for hit, (score, outcome) in zip(r["hits"], _verdicts(r, name), strict=True)
        if outcome == "correct"
    ]
    unstated = sum(r["samples"] for r in rows) - len(pairs)
    if not pairs:
        return {"rows": 0, "unstated": unstated}
    stated, right = (np.array(x) for x in zip(*pairs, strict=True))
    return {**statistics.calibration(stated, right), "unstated": unstated}


# ---- two results


def compare(new: dict[str, tp.Any], base: dict[str, tp.Any]) -> dict[str, tp.Any]:
    """Compares two results on the prompts that both have.

    Args:
      new, base: as `evaluate_source` returns or a run leaves in eval_<step>.json.
    Returns: prompts (shared), only_new, only_base (numbers of others), measures {measure: of
      `statistics.paired`}, and, where both drew as many samples, support: a prompt is in a
      model's support if at least one of its n samples is correct, so it depends on n;
      gained, lost (ids), kept, never (numbers), retained (kept / (kept + lost); None: the
      base solves none).
    Raises: ValueError where no prompt is shared, or one id stands for two prompts.
    """
    a, b = new["per_prompt"], base["per_prompt"]
    shared = [name for name in a if name in b]
    if not shared:
        raise ValueError(
            f"compare: none of the {len(a)} and {len(b)} prompts is in both results; compare "
            "results on the same task"
        )
    first, second = [a[name] for name in shared], [b[name] for name in shared]
    for name, x, y in zip(shared, first, second, strict=True):
        known = {row["content"] for row in (x, y) if "content" in row}
        if len(known) > 1:
            raise ValueError(
                f"compare: {name!r} is another prompt in one result than in the other (question or "
                "reference differ); judge both models on the same data"
            )
    settings = [{k: r.get(k, "") for k in ("best_of", "cot")} for r in (new, base)]
    mine, theirs = measures(first, **settings[0]), measures(second, **settings[1])
    out: dict[str, tp.Any] = {
        "prompts": len(shared),
        "only_new": len(a) - len(shared),
        "only_base": len(b) - len(shared),
        "measures": {k: statistics.paired(mine[k], theirs[k]) for k in mine if k in theirs},
    }
    if first[0].get("samples", 0) == second[0].get("samples", 0) > 0:
        solved = [
            (name, x["correct"] > 0, y["correct"] > 0)
            for name, x, y in zip(shared, first, second, strict=True)
        ]
        gained = [name for name, x, y in solved if x and not y]
        lost = [name for name, x, y in solved if y and not x]
        kept = sum(x and y for _, x, y in solved)
        out["support"] = {
            "samples": first[0]["samples"],
            **{"gained": gained, "lost": lost, "kept": kept},
            "never": len(shared) - kept - len(gained) - len(lost),
            "retained": kept / (kept + len(lost)) if kept or lost else None,
        }
    return out


def read_result(path: str | os.PathLike[str]) -> dict[str, tp.Any]:
    """A result from its file. Raises: FileNotFoundError; ValueError for another file."""
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; expected one that `rlpt evaluate` wrote")
    try:
        result = json.loads(pathlib.Path(path).read_text())
    except ValueError as e:
        raise ValueError(f"{path}: is not JSON ({e}); expected a file of `rlpt evaluate`") from e
    if not isinstance(result, dict) or not result.get("per_prompt"):
        raise ValueError(f"{path}: has no per_prompt; expected a file that `rlpt evaluate` wrote")
    return result


def table(result: dict[str, tp.Any]) -> str:
    """A result for people: a line a measure, with its interval."""
    lines = [f"{result['prompts']} prompts x {result['samples']} samples"]
    for name, (low, high) in result["intervals"].items():
        lines.append(f"{name:>12}  {result[name]:.4f}  [{low:.4f}, {high:.4f}]")
    for name in ("length", "truncated"):
        if name in result:
            lines.append(f"{name:>12}  {result[name]:.4f}")
    if "missing" in result:
        lines.append(
            f"{'missing':>12}  {result['missing']:.4f}  of the completions have no verdict and "
            "count as wrong; the same command judges their prompts again"
        )
    if rows := result.get("calibration", {}).get("rows"):
        c = result["calibration"]
        lines.append(f"{'ece':>12}  {c['ece']:.4f}")
        lines.append(f"{'brier':>12}  {c['brier']:.4f}  ({rows} rows, {c['unstated']} unstated)")
    return "\n".join([*lines, f"[low, high]: {result['interval']}"])


def comparison_table(found: dict[str, tp.Any]) -> str:
    """A comparison for people."""
    others = ""
    if found["only_new"] or found["only_base"]:
        others = f" ({found['only_new']} and {found['only_base']} others are in one result only)"
    lines = [f"{found['prompts']} prompts in both{others}"]
    lines.append(
        f"{'':>12}  {'new':>7}  {'base':>7}  {'change':>8}  {'interval':>18}  "
        f"{'better':>6}  {'worse':>6}  {'p':>8}"
    )
    for name, m in found["measures"].items():
        interval = f"[{m['low']:+.4f}, {m['high']:+.4f}]"
        lines.append(
            f"{name:>12}  {m['new']:7.4f}  {m['base']:7.4f}  {m['difference']:+8.4f}  "
            f"{interval:>18}  {m['wins']:6}  {m['losses']:6}  {m['p']:8.2g}"
        )
    if s := found.get("support"):
        retained = "" if s["retained"] is None else f" ({s['retained']:.1%} of the base's)"
        lines.append(
            f"solved at least once in {s['samples']} samples: gained {len(s['gained'])}, lost "
            f"{len(s['lost'])}, kept {s['kept']}{retained}, never {s['never']}"
        )
    lines.append("interval: 95% percentile bootstrap over prompts; p: exact sign test, two-sided")
    return "\n".join(lines)
