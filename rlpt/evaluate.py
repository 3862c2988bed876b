"""How good a policy is on held-out prompts.

`evaluate` judges a model in hand (the trainer's); `evaluate_source` any model by name, prompt by
prompt into a journal, so that what is interrupted goes on and what is known is not computed
again.  What the judged completions come to is in `results`.
"""

from __future__ import annotations

import collections
import collections.abc
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import pathlib
import typing as tp

import jax
import jax.numpy as jnp

from rlpt import (
    build,
    checkpoint,
    learners,
    metrics,
    records,
    results,
    settings,
    sources,
    statistics,
)
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
# Of a row, for the trainer's log.
BRIEF = ("correct", "samples", "sample", "chosen", "greedy", "greedy_text", "content", "missing")
LOST = ("timeout", "crash", "invalid")  # outcomes that say nothing of the completion
Lost = collections.abc.Mapping[str, collections.abc.Collection[str]]  # by verifier
Reading = collections.abc.Callable[[str], str | None]
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
    lost: Lost | None = None,
    reading: Reading = canonical,
) -> list[results.Row]:
    """Samples and judges completions of some prompts.

    Args: as `evaluate`; verify: as `VerifierPool.verify`; prompts: one batch; reading: the answer
      of a text, for votes.
    Returns: a row a prompt: correct (number), samples, sample (the first text), hits [bool],
      answers (of `reading`), verdicts {verifier: [[score, outcome]]}, tokens, truncated, one a
      completion; content (`content_id`); where verdicts were lost, missing, the number of such
      completions, which count as wrong, and unheard, that of completions that lack one of a
      verifier that does not decide; chosen (bool): of a search, that it puts first; and
      greedy (bool), greedy_text.  Without samples, verdicts, tokens and truncated are of the greedy
      completion.
    """
    rows: list[results.Row] = [{"task": p.task, "content": content_id(p)} for p in prompts]
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
            for v in judged:
                gone = [k for k in v if v[k].outcome in (lost or {}).get(k, LOST)]
                if any(counted is None or k in counted for k in gone):
                    row["missing"] = row.get("missing", 0) + 1
                elif gone:
                    row["unheard"] = row.get("unheard", 0) + 1
            if sampled or not samples:
                row["tokens"] = [c.tokens for c in group]
                row["truncated"] = [c.truncated for c in group]
                row["verdicts"] = {
                    name: [[v[name].score, v[name].outcome] for v in judged] for name in judged[0]
                }
            if sampled:
                row |= {"correct": sum(hits), "samples": n, "sample": group[0].text, "hits": hits}
                row["answers"] = [reading(c.text) for c in group]
                if getattr(sampler, "ranked", False):
                    row["chosen"] = hits[0]
            else:
                row |= {"greedy": hits[0], "greedy_text": group[0].text}
    return rows


def lost_outcomes(verifiers: collections.abc.Iterable[tp.Any]) -> dict[str, tuple[str, ...]]:
    """{verifier: outcomes that say nothing of the completion}. verifiers: as in the config."""
    asks = {
        v["name"]: verifiers_base.traits_of(config_lib.find("verifiers", v["fn"])).asks
        for v in verifiers
    }
    return {name: (*LOST, "unparsable") if yes else LOST for name, yes in asks.items()}


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
    lost: Lost | None = None,
    complete: Complete | None = None,
) -> dict[str, tp.Any]:
    """Judges greedy and sampled completions of every prompt by the run's own verifiers.

    Args:
      tools: a `rlpt.tools.Tools` with the params to judge.
      samples: completions a prompt at `temperature`; 0: greedy only.
      blocks: prompts in a batch.  done: called with the number of prompts finished.
      counted: names of the verifiers that decide what is correct (`verifiers.base.counted_names`);
        None: all.
      lost: of `lost_outcomes`; None: LOST of every verifier.
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
            temperature=temperature, greedy=greedy, counted=counted, lost=lost,
        )  # fmt: skip
        if done:
            done(len(part))
    brief = [{k: r[k] for k in BRIEF if k in r} for r in rows]
    return results.summary(rows) | {
        "per_prompt": dict(zip((p.id for p in prompts), brief, strict=True))
    }


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
        self.rows: dict[str, results.Row] = {}
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

    def add(self, rows: dict[str, results.Row]) -> None:
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
      over prompts, which `interval` describes; too_long, the number of prompts that do not fit,
      if any; with a confidence verifier calibration
      (`statistics.calibration`, over the completions that state one; and `unstated`); key; and
      per_prompt with the whole rows of `judge`.
      Adapters are merged before weights are rounded (`learners.sampler_weights`), where a run
      rounds what they are beside: with LoRA and rounded weights the two differ a little.
    Raises: FileNotFoundError, endpoint.EndpointError; ValueError for settings.
    """
    names = [v["name"] for v in config.verifiers]
    for flag, name in (("best_of", best_of), ("cot", cot)):
        if name and name not in names:
            raise ValueError(f"{flag}: got {name!r}, expected a verifier of the config: {names}")
    _, prompts = build.load_tasks(config)
    _check(prompts)
    counted = verifiers_base.counted_names(config.verifiers)
    blocks, too_long = config.eval.blocks or config.rollout.prompts, 0
    lost, reading = lost_outcomes(config.verifiers), _reading(config, counted)
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
            prompts, too_long = filter_long(
                prompts, lambda p: len(tools.encode(p)), tools.max_prompt, config.too_long
            )
            if too_long:
                records.say(
                    f"{too_long} held-out prompts of more than {tools.max_prompt} tokens are left "
                    "out: raise config.sampling.prompt_buckets to have them"
                )
            complete = None if plain else build.completion_of(config)
            sampler = Local(tools, blocks, complete)
        key = evaluation_key(config, model, prompts)
        if isinstance(sampler, Local) and sampler.complete:
            key["completion"] = checkpoint.fingerprint(json.loads(config.rollout.to_json()))
        path = pathlib.Path(cache) / f"{checkpoint.fingerprint(key)}.jsonl" if cache else None
        journal = Journal(path, key)
        missing = [p for p in prompts if p.id not in journal.rows]
        unkept: dict[str, results.Row] = {}  # verdicts were lost: judged again the next time
        if known := len(prompts) - len(missing):
            records.say(f"{known} of {len(prompts)} prompts are in {path}")
        with metrics.progress("evaluate", len(missing)) if missing else _silent() as advance:
            for start in range(0, len(missing), blocks):
                part = missing[start : start + blocks]
                rows = judge(
                    sampler, pool.verify, part, samples=config.eval.samples,
                    temperature=config.eval.temperature, greedy=True, counted=counted,
                    lost=lost, reading=reading,
                )  # fmt: skip
                judged = dict(zip((p.id for p in part), rows, strict=True))
                again = {k for k, row in judged.items() if {"missing", "unheard"} & set(row)}
                journal.add({k: row for k, row in judged.items() if k not in again})
                unkept |= {k: judged[k] for k in again}
                advance(len(part))
    rows = [journal.rows.get(p.id) or unkept[p.id] for p in prompts]
    found = results.measures(rows, best_of, cot)
    result = results.summary(rows) | {k: float(v.mean()) for k, v in found.items()}
    result["intervals"] = {k: statistics.bootstrap(v) for k, v in found.items()}
    result["interval"] = (
        f"{statistics.LEVEL:.0%} percentile bootstrap over prompts, "
        f"{statistics.RESAMPLES} resamples, seed 0"
    )
    if too_long:
        result["too_long"] = too_long
    for spec in config.verifiers:
        if spec["fn"] == CONFIDENCE and config.eval.samples:
            result["calibration"] = results.calibration(rows, spec["name"])
    result |= {"model": source, "best_of": best_of, "cot": cot, "key": key}
    return result | {"per_prompt": dict(zip((p.id for p in prompts), rows, strict=True))}


def _reading(config: tp.Any, counted: collections.abc.Collection[str]) -> Reading:
    """The answers of completions as the first verifier that counts, and has some, reads them."""
    otherwise: Reading = canonical
    for spec in config.verifiers:
        if spec["name"] not in counted:
            continue
        fn = config_lib.find("verifiers", spec["fn"])
        reads = verifiers_base.traits_of(fn).reads
        if callable(reads):
            own = inspect.signature(reads).parameters
            return functools.partial(reads, **{k: v for k, v in spec.items() if k in own})
        extract = spec.get("extract", (fn.__kwdefaults__ or {}).get("extract"))
        if not reads:
            otherwise = lambda text: None  # noqa: E731
        elif extract in ("boxed", "tag", "whole"):
            return functools.partial(canonical, extract=extract, tag=spec.get("tag", "answer"))
    return otherwise


@contextlib.contextmanager
def _silent() -> tp.Iterator[tp.Callable[[int], None]]:
    yield lambda n: None


def _load(config: tp.Any, source: str, pool: VerifierPool) -> tuple[tools_lib.Tools, str]:
    """Tools with the model's params, and a hash over all that it is."""
    from rlpt.policy import load_policy

    loaded = load_policy(source)
    loaded.tokenizer.preset(config.model.get("chat", {}))
    build.set_matmul_precision(config)
    tools = tools_lib.Tools(
        build.model_config(config, loaded.config), loaded.tokenizer, pool, config.sampling,
        settings.missing_by_verifier(config), [v["name"] for v in config.verifiers],
        jax.random.key(config.seed),
    )  # fmt: skip
    params = jax.tree.map(jnp.asarray, loaded.params)
    tools.params = learners.sampler_weights(config, params)
    parts = [repr(loaded.config), loaded.tokenizer.fingerprint()]
    return tools, checkpoint.fingerprint([*parts, checkpoint.tree_fingerprint(params)])


def evaluation_key(
    config: tp.Any, model: str, prompts: collections.abc.Sequence[Prompt]
) -> dict[str, tp.Any]:
    """What an evaluation follows from, as JSON: model, task, settings and code.

    model: its hash.  The code is that of rlpt and of functions from elsewhere that verifiers and
    the rollout name, with the modules of one's own that these use, and the versions of libraries.
    """
    settings = json.loads(config.to_json_best_effort())
    evaluation = {k: settings["eval"][k] for k in ("samples", "temperature")}
    judging = {k: settings[k] for k in ("verifiers", "rollout")}
    elsewhere = {name.partition(":")[0] for name in sources.names(judging)}
    return {
        "model": model,
        "task": checkpoint.fingerprint([json.loads(json.dumps(vars(p))) for p in prompts]),
        "settings": checkpoint.fingerprint(
            [settings[k] for k in ("seed", "verifiers", "sampling", "pool")]
            + [evaluation, *(settings["model"][k] for k in ("matmul_precision", "attention"))]
        ),
        "code": {name: _code(name) for name in sorted({"rlpt"} | elsewhere)}
        | {"own": checkpoint.fingerprint(sources.own_code(judging))},
        "versions": build.versions() | {name: _version(name) for name in _JUDGES},
    }


_JUDGES = ("math-verify", "latex2sympy2-extended", "sympy", "reasoning-gym", "tokenizers")


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


@functools.cache
def _code(module: str) -> str:
    """A hash over the source of a module, or of all modules of a package; "": there is none."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    origin = pathlib.Path(spec.origin) if spec and spec.origin else None
    if origin is None:
        return ""
    files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(origin.parent)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]
