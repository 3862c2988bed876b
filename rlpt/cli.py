"""`rlpt COMMAND`: a cover over Python functions."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
import itertools
import json
import pathlib
import re
import sys
import traceback
import typing as tp

USAGE = """usage: rlpt COMMAND [flags]

  train     --config FILE.py[:ARG] --workdir DIR [--config.KEY=VALUE ...]
            [--coordinator HOST:PORT --processes N --process I] [--distributed auto|on|off]
            [--debug] [--profile]
            trains; the same command with the same workdir resumes; several processes, each
            with this command, train one model: Slurm, Open MPI and TPU slices are recognised;
            --debug checks every batch, --profile traces two steps and sums up the stages
  supervise [--processes 1] [--restarts 0] -- train ...
            runs the processes of one run on this machine, and starts all of them again when
            one is killed, which resumes
  sample    --model SOURCE --prompt TEXT [--system TEXT] [--n 1] [--temperature 1.0]
            [--max_tokens 64] [--seed 0] [--top_k 0] [--top_p 1.0] [--min_p 0.0] [--stop TEXT]
  evaluate  --model SOURCE [--config FILE.py[:ARG]] [--out FILE.json] [--base FILE.json]
            [--best_of VERIFIER] [--cot VERIFIER] [--plain] [--cache DIR] [--model_name NAME]
            [--api_key_env OPENAI_API_KEY]
            held-out accuracy of a model on the tasks of a config, prompt by prompt: the same
            command goes on where it was interrupted; --base compares with an earlier result;
            of a server, SOURCE is its URL and --model_name what it calls the model
  evaluate  compare NEW.json BASE.json [--out FILE.json]
            compares two results prompt by prompt
  sweep     FILE.py[:ARG] [--workers 1] [--out DIR] [--dry-run] [--table] [--index I]
            runs the settings and seeds of a file in configs/sweeps/ and prints one table; the
            same command resumes; --dry-run also prints commands for Slurm and TPUs
  export    --workdir DIR --out DIR [--step N] [--dtype float32]
            writes a Hugging Face directory
  report    DIR [DIR ...] [--out FILE.html]
            runs as one HTML page: curves, alarms, rollouts; DIR is a workdir
  serve     [--model SOURCE] [--host 127.0.0.1] [--port 8000] [--name NAME] [--batch 8]
            [--prompt_tokens 512] [--max_tokens 64] [--max_n 16]
            answers OpenAI's chat protocol with a model's completions; RLPT_API_KEY: its key
  data      build --config FILE.py[:ARG] --name NAME --data_dir DIR
            writes the tasks of a config as an array_record data set (TFDS)
  doctor    [--config FILE.py[:ARG]] [--model SOURCE] [--workdir DIR] [--json] [--noselftest]
            what this machine has, and what a run would lack, before it starts; fails where it would
  plan      --config FILE.py[:ARG] --topology v5p:4x4x8 [--mesh data=8,fsdp=8,model=2] [--json]
            bytes, FLOPs and seconds a step on machines that are not here, by compiling for them

SOURCE is `embedded` (SmolLM2-135M-Instruct), a Hugging Face directory, a .gguf file or
the workdir of a run; for evaluate also the URL of an OpenAI-compatible server.
`rlpt COMMAND --help` lists a command's flags.
"""

# Errors whose message is meant for the user: printed without a traceback.
_PLAIN = (ValueError, OSError, FloatingPointError, RuntimeError)


def _flags(
    command: str, argv: list[str], define: tp.Callable[[tp.Any], None], config: bool
) -> tp.Any:
    """Parses a command's flags with absl; --config as in ml_collections' config_flags."""
    from absl import flags
    from ml_collections import config_flags

    from rlpt import config as config_lib

    values = flags.FlagValues()
    define(values)
    if config:
        config_flags.DEFINE_config_file(
            "config", None, "config file, with :arg", flag_values=values
        )
    flags.DEFINE_boolean("help", False, "show the flags", short_name="h", flag_values=values)
    try:
        if config and (source := _config_source(argv)):
            config_lib.check_source(source)
        rest = values([f"rlpt {command}", *argv])[1:]
        if config and not values.help:
            values.config  # noqa: B018  (runs the file)
    except Exception as e:
        if config and (where := _inside(e, _config_source(argv))):
            raise SystemExit(f"rlpt {command}: {where}") from e
        if not isinstance(
            e, OSError | flags.Error | AttributeError | LookupError | TypeError | ValueError
        ):
            raise
        raise SystemExit(f"rlpt {command}: {_explain(e, argv)}") from e
    if values.help:
        print(USAGE + "\n" + values.get_help())
        raise SystemExit(0)
    if rest:
        raise SystemExit(f"rlpt {command}: unexpected argument {rest[0]!r}\n\n{USAGE}")
    return values


def _config_source(argv: list[str]) -> str:
    """What --config says, FILE.py[:ARG]; "" if it is not there."""
    for i, arg in enumerate(argv):
        name, given, value = arg.partition("=")
        if name in ("--config", "-config"):
            return value if given else "".join(argv[i + 1 : i + 2])
    return ""


def _inside(error: BaseException, source: str) -> str:
    """What a config file itself raised, with the lines from that file on; "" if it did not."""
    path = pathlib.Path(source.partition(":")[0]).resolve()
    same = lambda name: pathlib.Path(name or "").resolve() == path  # noqa: E731
    e: BaseException | None = error
    while e is not None:  # what reads the flags wraps it
        last = "".join(traceback.format_exception_only(e)).strip()
        if isinstance(e, SyntaxError) and same(e.filename):
            return last
        frames = traceback.extract_tb(e.__traceback__)
        own = [i for i, frame in enumerate(frames) if same(frame.filename)]
        if own and frames[-1].filename.endswith("config_dict.py"):  # told better by `_explain`
            return ""
        line = frames[-1].line or "" if frames else ""
        if own and same(frames[-1].filename) and line.startswith("raise "):  # its own words
            return str(e)
        if own:
            lines = "".join(traceback.format_list(frames[own[0] :]))
            return f"{source} failed: {last}\n{lines}".rstrip()
        e = e.__cause__ or e.__context__
    return ""


def _explain(e: BaseException, argv: list[str]) -> str:
    """What is wrong with a flag; for a mistyped config key, what is accepted there."""
    from rlpt import config as config_lib

    for arg in argv:
        if not arg.startswith("--config."):
            continue
        level, at = config_lib.default(), "config"
        for part in re.split(r"[.\[]", arg[len("--config.") :].partition("=")[0]):
            if part not in level and len(level):
                return f"{at} has no key {part!r} ({arg}).{config_lib.suggest(part, level.keys())}"
            level, at = level.get(part, {}), f"{at}.{part}"
            if not hasattr(level, "keys"):
                break
    text = str(e.args[0] if isinstance(e, KeyError) and e.args else e)
    if re.fullmatch(r"""["']*\w+["']*""", text):  # a KeyError, or one in another's message
        name = text.strip("\"'")
        return (
            f"{_config_source(argv)} does not set {name!r}: flags change what is there, so set it "
            "in the file"
        )
    if text == "tuple index out of range":
        return "a flag with [i]: the tuple has no entry i; the first one is 0"
    if unknown := re.search(r'Key "(\w+)" does not exist', text):  # the rest is the whole config
        near = re.search(r'Did you mean "(\w+)"', text)
        hint = f"; did you mean {near[1]!r}?" if near else "; rlpt/settings.py has all of them"
        return f"{_config_source(argv)}: there is no setting {unknown[1]!r}{hint}"
    return text


def _need(values: tp.Any, command: str, *names: str) -> None:
    for name in names:
        if not getattr(values, name):
            raise SystemExit(f"rlpt {command}: --{name} is needed\n\n{USAGE}")


def _train(argv: list[str]) -> None:
    from absl import flags

    def define(v: tp.Any) -> None:
        flags.DEFINE_string("workdir", None, "directory of the run", flag_values=v)
        flags.DEFINE_enum(
            "distributed", "auto", ["auto", "on", "off"], "join other processes", flag_values=v
        )
        flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0", flag_values=v)
        flags.DEFINE_integer("processes", None, "of this run", lower_bound=1, flag_values=v)
        flags.DEFINE_integer("process", None, "index of this one", lower_bound=0, flag_values=v)

        flags.DEFINE_boolean("debug", False, "config.debug", flag_values=v)
        flags.DEFINE_boolean("profile", False, "config.log.profile=2", flag_values=v)

    values = _flags("train", argv, define, config=True)
    _need(values, "train", "config", "workdir")
    if values.debug:
        values.config.debug = True
    if values.profile:
        values.config.log.profile = values.config.log.profile or 2
    from rlpt import distributed

    distributed.initialize(values.distributed, values.coordinator, values.processes, values.process)
    from rlpt import heap, train

    heap.tune()
    train.train(values.config, values.workdir)


def _supervise(argv: list[str]) -> None:
    from absl import flags

    def define(v: tp.Any) -> None:
        flags.DEFINE_integer("processes", 1, "at a time", lower_bound=1, flag_values=v)
        flags.DEFINE_integer("restarts", 0, "of all of them", lower_bound=0, flag_values=v)

    at = argv.index("--") if "--" in argv else len(argv)
    values = _flags("supervise", argv[:at], define, config=False)
    command = argv[at + 1 :]
    if not command:
        raise SystemExit(f"rlpt supervise: a command of rlpt is needed behind --\n\n{USAGE}")
    from rlpt import supervise

    status = supervise.supervise(command, values.processes, values.restarts)
    raise SystemExit(128 - status if status < 0 else status)


def _sample(argv: list[str]) -> None:
    from absl import flags

    def define(v: tp.Any) -> None:
        flags.DEFINE_string("model", "embedded", "source", flag_values=v)
        flags.DEFINE_string("prompt", None, "user message", flag_values=v)
        flags.DEFINE_string("system", "", "system message", flag_values=v)
        flags.DEFINE_integer("n", 1, "completions", lower_bound=1, flag_values=v)
        flags.DEFINE_integer("max_tokens", 64, "longest completion", lower_bound=1, flag_values=v)
        flags.DEFINE_integer("seed", 0, "seed", flag_values=v)
        flags.DEFINE_float("temperature", 1.0, "0 is greedy", flag_values=v)
        flags.DEFINE_integer("top_k", 0, "0 is off", flag_values=v)
        flags.DEFINE_float("top_p", 1.0, "1 is off", flag_values=v)
        flags.DEFINE_float("min_p", 0.0, "0 is off", flag_values=v)
        flags.DEFINE_multi_string("stop", [], "stop string", flag_values=v)

    values = _flags("sample", argv, define, config=False)
    _need(values, "sample", "prompt")
    import jax
    import jax.numpy as jnp

    from rlpt import config as config_lib
    from rlpt import policy, tools
    from rlpt.tasks import base

    loaded = policy.load_policy(values.model)
    prompt = base.Prompt("prompt", base.chat(values.prompt, values.system))
    sampling = config_lib.default().sampling.unlock()
    length = len(loaded.tokenizer.chat(list(prompt.messages)))
    sampling.prompt_buckets = (-(-length // 32) * 32,)
    sampling.completion_buckets = (values.max_tokens,)
    for name in ("temperature", "top_k", "top_p", "min_p"):
        sampling[name] = getattr(values, name)
    sampling.stop_strings = tuple(values.stop)
    t = tools.Tools(
        loaded.config, loaded.tokenizer, None, sampling, {}, (), jax.random.key(values.seed)
    )
    t.params = jax.tree.map(jnp.asarray, loaded.params)
    batch = t.generate([(prompt, 0)], group=values.n, step=0, purpose=tools.SAMPLE)
    for text in batch.text.completions[0]:
        print(text)


def _evaluate(argv: list[str]) -> None:
    from absl import flags

    if argv[:1] == ["compare"]:
        _compare(argv[1:])
        return

    def define(v: tp.Any) -> None:
        flags.DEFINE_string("model", None, "source", flag_values=v)
        flags.DEFINE_string("out", None, "write the result here as JSON", flag_values=v)
        flags.DEFINE_string("base", None, "result to compare with", flag_values=v)
        flags.DEFINE_string("best_of", "", "verifier that chooses for best@k", flag_values=v)
        flags.DEFINE_string("cot", "", "verifier of the reasoning, for cot_pass@k", flag_values=v)
        flags.DEFINE_boolean(
            "plain", False, "sample without the tool or the search of the config's rollout",
            flag_values=v,
        )  # fmt: skip
        flags.DEFINE_string(
            "cache", None, "directory of journals; '' keeps none (default: in the user's cache)",
            flag_values=v,
        )  # fmt: skip
        flags.DEFINE_string("model_name", "", "the model's name at a server", flag_values=v)
        flags.DEFINE_string(
            "api_key_env", "OPENAI_API_KEY", "variable with the server's key", flag_values=v
        )

    values = _flags("evaluate", argv, define, config=True)
    _need(values, "evaluate", "model")
    from rlpt import evaluate, policy, results

    config = values.config
    if config is None:
        if not policy.is_workdir(values.model):
            raise SystemExit(
                "rlpt evaluate: --config is needed (only a run's workdir knows its own tasks)"
            )
        config = policy.workdir_config(values.model)
    base = results.read_result(values.base) if values.base else None  # before the work
    if values.out and not pathlib.Path(values.out).absolute().parent.is_dir():
        raise SystemExit(f"rlpt evaluate: --out {values.out}: there is no such directory; make it")
    result = evaluate.evaluate_source(
        config, values.model, best_of=values.best_of, cot=values.cot, plain=values.plain,
        cache=evaluate.cache_directory() if values.cache is None else values.cache,
        model_name=values.model_name, api_key_env=values.api_key_env,
    )  # fmt: skip
    print(results.table(result))
    _write_json(values.out, result)  # a comparison that is refused loses nothing
    if base:
        result["comparison"] = results.compare(result, base)
        print(results.comparison_table(result["comparison"]))
        _write_json(values.out, result)


def _compare(argv: list[str]) -> None:
    from absl import flags

    def define(v: tp.Any) -> None:
        flags.DEFINE_string("out", None, "write the comparison here as JSON", flag_values=v)

    files, rest = argv[:2], argv[2:]
    if len(files) < 2 or any(f.startswith("-") for f in files):
        raise SystemExit(f"rlpt evaluate compare: expected NEW.json BASE.json\n\n{USAGE}")
    values = _flags("evaluate compare", rest, define, config=False)
    from rlpt import results

    found = results.compare(*map(results.read_result, files))
    print(results.comparison_table(found))
    _write_json(values.out, found)


def _write_json(path: str | None, value: tp.Any) -> None:
    if path:
        pathlib.Path(path).write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")


def _sweep(argv: list[str]) -> None:
    from absl import flags

    def define(v: tp.Any) -> None:
        flags.DEFINE_string("out", "", "directory of the workdirs", flag_values=v)
        flags.DEFINE_integer("workers", 1, "runs at a time", lower_bound=1, flag_values=v)
        flags.DEFINE_integer("index", None, "run only this one, here", flag_values=v)
        flags.DEFINE_boolean("dry-run", False, "print what would be run", flag_values=v)
        flags.DEFINE_boolean("table", False, "only print the table", flag_values=v)

    named = bool(argv) and not argv[0].startswith("-")
    values = _flags("sweep", argv[named:], define, config=False)
    if not named:
        raise SystemExit(f"rlpt sweep: expected FILE.py[:ARG] first\n\n{USAGE}")
    from rlpt import sweep

    failed = sweep.main(
        argv[0], values.out, values.workers, values.index, values["dry-run"].value, values.table
    )
    if failed:
        raise SystemExit(1)


def _export(argv: list[str]) -> None:
    from absl import flags

    def define(v: tp.Any) -> None:
        flags.DEFINE_string("workdir", None, "directory of the run", flag_values=v)
        flags.DEFINE_string("out", None, "directory to write", flag_values=v)
        flags.DEFINE_integer("step", None, "checkpoint; default: the newest", flag_values=v)
        flags.DEFINE_enum(
            "dtype", "float32", ["float32", "bfloat16", "float16"], "of the weights", flag_values=v
        )

    values = _flags("export", argv, define, config=False)
    _need(values, "export", "workdir", "out")
    from rlpt import policy
    from rlpt.models import hf

    if not policy.is_workdir(values.workdir):
        raise SystemExit(f"rlpt export: {values.workdir} holds no checkpoints/")
    loaded = policy.load_policy(values.workdir, values.step)
    info = {"run_id": pathlib.Path(values.workdir).name, "source": loaded.source}
    hf.save_hf(
        values.out, loaded.config, loaded.params, loaded.tokenizer,
        dtype=values.dtype, run_info=info,
    )  # fmt: skip
    print(f"wrote {values.out} from {loaded.source}")


def _report(argv: list[str]) -> None:
    from absl import flags

    def define(v: tp.Any) -> None:
        flags.DEFINE_string("out", None, "the page to write", flag_values=v)

    workdirs = list(itertools.takewhile(lambda arg: not arg.startswith("-"), argv))
    values = _flags("report", argv[len(workdirs) :], define, config=False)
    if not workdirs:
        raise SystemExit(f"rlpt report: a workdir is needed, before the flags\n\n{USAGE}")
    from rlpt.report import page

    print(f"wrote {page.report(workdirs, values.out)}")


def _serve(argv: list[str]) -> None:
    from absl import flags

    def define(v: tp.Any) -> None:
        flags.DEFINE_string("model", "embedded", "source", flag_values=v)
        flags.DEFINE_string("host", "127.0.0.1", "address to listen at", flag_values=v)
        flags.DEFINE_integer("port", 8000, "0: any that is free", 0, 65535, flag_values=v)
        flags.DEFINE_string("name", "", "name of the model; default: the source", flag_values=v)
        flags.DEFINE_integer("prompt_tokens", 512, "longest prompt", lower_bound=1, flag_values=v)
        flags.DEFINE_integer("max_tokens", 64, "longest completion", lower_bound=1, flag_values=v)
        flags.DEFINE_integer("batch", 8, "requests at a time", lower_bound=1, flag_values=v)
        flags.DEFINE_integer("max_n", 16, "completions a request", lower_bound=1, flag_values=v)

    values = _flags("serve", argv, define, config=False)
    from rlpt import serve

    serve.serve(
        values.model, values.host, values.port, values.name, prompt_tokens=values.prompt_tokens,
        max_tokens=values.max_tokens, batch=values.batch, max_n=values.max_n,
    )  # fmt: skip


def _data(argv: list[str]) -> None:
    from absl import flags

    if argv[:1] != ["build"]:
        raise SystemExit(f"rlpt data: got {argv[:1]}, expected `build`\n\n{USAGE}")

    def define(v: tp.Any) -> None:
        flags.DEFINE_string("name", None, "name of the data set", flag_values=v)
        flags.DEFINE_string("data_dir", None, "directory to write", flag_values=v)

    values = _flags("data build", argv[1:], define, config=True)
    _need(values, "data build", "config", "name", "data_dir")
    from rlpt.tasks import build as build_lib

    print(f"wrote {build_lib.build(values.config.tasks, values.name, values.data_dir)}")


def _doctor(argv: list[str]) -> None:
    from absl import flags

    def define(v: tp.Any) -> None:
        flags.DEFINE_string("model", "", "source; default: the config's", flag_values=v)
        flags.DEFINE_string("workdir", "", "where a run would write", flag_values=v)
        flags.DEFINE_boolean("json", False, "print JSON instead of a table", flag_values=v)
        flags.DEFINE_boolean("selftest", True, "train a toy model for a step", flag_values=v)

    values = _flags("doctor", argv, define, config=True)
    from rlpt import doctor

    findings = doctor.examine(values.config, values.model, values.workdir, values.selftest)
    ok = all(f.status != "failed" for f in findings)
    if values.json:
        found = [dataclasses.asdict(f) for f in findings]
        print(json.dumps({"ok": ok, "findings": found}, indent=1))
    else:
        print(doctor.table(findings, sys.stdout.isatty()))
    if not ok:
        raise SystemExit(1)


def _plan(argv: list[str]) -> None:
    from absl import flags

    def define(v: tp.Any) -> None:
        flags.DEFINE_string("topology", None, "such as v5p:4x4x8 or h200:8", flag_values=v)
        flags.DEFINE_string("mesh", "", "default: the config's", flag_values=v)
        flags.DEFINE_boolean("json", False, "print JSON instead of text", flag_values=v)

    values = _flags("plan", argv, define, config=True)
    _need(values, "plan", "config", "topology")
    pairs = [part.partition("=") for part in values.mesh.split(",") if part]
    if any(not size.lstrip("-").isdecimal() for _, _, size in pairs):
        raise SystemExit(
            f"rlpt plan: --mesh: got {values.mesh!r}, expected such as data=8,fsdp=8,model=2"
        )
    from rlpt.plan import chips, report

    chips.prepare(values.topology)
    say = lambda line: print(line, file=sys.stderr, flush=True)
    found = report.plan(values.config, values.topology, {k: int(v) for k, _, v in pairs}, say)
    print(json.dumps(found, indent=1) if values.json else report.table(found))


COMMANDS = {
    "train": _train,
    "supervise": _supervise,
    "sample": _sample,
    "evaluate": _evaluate,
    "sweep": _sweep,
    "export": _export,
    "report": _report,
    "serve": _serve,
    "data": _data,
    "doctor": _doctor,
    "plan": _plan,
}


def _leave(status: int, error: BaseException | None = None) -> tp.NoReturn:
    """Ends the process; one of several at once, with a status of its own where a peer is gone."""
    if "jax" in sys.modules:
        from rlpt import distributed

        distributed.leave(status, error)
    raise SystemExit(status) from error


def main(argv: list[str] | None = None) -> None:
    """Entry point.

    Exits with 0 done, 1 an error that says what to do, 2 usage, 70 an error of the runtime or the
    driver, which may not come back, 75 another process of the run is gone (start all again), 130
    interrupted.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0 if argv else 2)
    if argv[0] == "--version":
        print(importlib.metadata.version("rlpt"))
        raise SystemExit(0)
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        print(f"{USAGE}\nrlpt: unknown command {argv[0]!r}{hint}", file=sys.stderr)
        raise SystemExit(2)
    try:
        COMMANDS[argv[0]](argv[1:])
    except KeyboardInterrupt:
        _leave(130)
    except _PLAIN as e:
        print(f"rlpt {argv[0]}: {type(e).__name__}: {e}", file=sys.stderr)
        _leave(70 if type(e).__name__ in ("JaxRuntimeError", "XlaRuntimeError") else 1, e)
    except Exception as e:
        traceback.print_exc()
        _leave(1, e)


if __name__ == "__main__":
    main()
