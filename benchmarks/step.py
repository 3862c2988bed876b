"""Seconds and memory of one GRPO step on random weights, split by stage.

  python benchmarks/step.py --prompt-len 512

Rollout, verification, credit and update are the trainer's own, called in the trainer's order; what
is missing is evaluation, checkpoints and the files of a run.  The flags fix the work, so that
another implementation can be timed on the same: a Llama with an untied head; --prompts distinct
prompts of exactly --prompt-len tokens, --group completions each of exactly --completion-len tokens
(the end token lies outside the model's vocabulary, so that no row ends early), temperature 1; a
regular expression that judges every completion in the pool; --mu updates with AdamW on all rows, no
group skipped.  The prompt is encoded once for its group, in the rollout and in the update.

The last line is JSON: medians over the steps after --warmup, and minima (`*_min`), which a busy
machine disturbs least.  Compilation is in `first_step_s`.  `max_rss_mb` is the peak of this
process; `import_rss_mb` what it was after the imports, `worker_rss_mb` the verifiers' together.
Linux.
"""

from __future__ import annotations

import argparse
import collections.abc
import json
import os
import pathlib
import resource
import statistics
import time
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers

import rlpt.config
from rlpt import build, heap, records, scoring
from rlpt import learners as learners_lib
from rlpt import metrics as metrics_lib
from rlpt import tools as tools_lib
from rlpt.models import transformer
from rlpt.models.load import Loaded, fingerprint
from rlpt.models.tokenizer import Tokenizer
from rlpt.models.transformer import ModelConfig
from rlpt.tasks import base
from rlpt.tasks.stream import Source, Stream
from rlpt.verifiers.pool import VerifierPool


def parse(argv: collections.abc.Sequence[str] | None = None) -> argparse.Namespace:
    """The flags. Exits with a message for a shape that cannot work."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default, what in (
        ("layers", 4, ""),
        ("d-model", 256, ""),
        ("d-ff", 1024, ""),
        ("heads", 4, ""),
        ("kv-heads", 4, ""),
        ("head-dim", 0, "0: d-model / heads"),
        ("vocab", 8192, ""),
        ("prompts", 4, "distinct prompts a step"),
        ("group", 8, "completions of a prompt"),
        ("prompt-len", 32, "tokens"),
        ("completion-len", 64, "tokens"),
        ("mu", 1, "updates of a batch"),
        ("micro-blocks", 0, "prompts in a micro-batch of the update; 0: all"),
        ("logits-chunk", scoring.LOGITS, "logits of the update that exist at once"),
        ("steps", 8, "warm-up included"),
        ("warmup", 3, "steps that are not counted"),
        ("seed", 0, ""),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default})")
    parser.add_argument("--beta", type=float, default=0.0, help="KL coefficient; > 0: a reference")
    parser.add_argument("--dtype", default="float32", help="compute dtype, also bfloat16 (float32)")
    parser.add_argument(
        "--precision", default="default", help="model.matmul_precision, such as bfloat16 (default)"
    )
    parser.add_argument("--remat", default="dots", help="none, dots or full (dots)")
    a = parser.parse_args(argv)
    a.head_dim = a.head_dim or a.d_model // a.heads
    if a.head_dim % 2 or a.heads % a.kv_heads:
        parser.error(
            f"got --head-dim {a.head_dim} --heads {a.heads} --kv-heads {a.kv_heads}, expected an "
            "even head-dim and heads that are a multiple of kv-heads"
        )
    if not 0 <= a.warmup < a.steps:
        parser.error(f"got --steps {a.steps} --warmup {a.warmup}, expected more steps than warm-up")
    return a


def config_of(a: argparse.Namespace) -> tp.Any:
    """The run's settings: GRPO on policy, as `rlpt train` would read them."""
    c = rlpt.config.default()
    c.seed, c.steps = a.seed, a.steps
    c.model.dtype = c.sampling.dtype = a.dtype
    c.model.matmul_precision = a.precision
    c.model.remat, c.model.logits_chunk = a.remat, a.logits_chunk
    c.verifiers = (dict(fn="pattern.regex", name="even", pattern="[02468]$"),)
    c.rollout.prompts, c.rollout.group = a.prompts, a.group
    c.sampling.prompt_buckets = (a.prompt_len,)
    c.sampling.completion_buckets = (a.completion_len,)
    if a.beta:
        c.loss = (*c.loss, dict(fn="penalties.k3", coef=a.beta))
    c.learner.epochs, c.learner.micro_blocks = a.mu, a.micro_blocks
    c.learner.skip_zero_advantage = False
    c.optim.lr = 1e-4
    return c


def random_model(a: argparse.Namespace) -> Loaded:
    """Random weights, and a tokenizer whose token i is the word "i" and whose end is never drawn.

    A text of n words is n tokens.
    """
    model = ModelConfig(
        vocab_size=a.vocab, num_layers=a.layers, d_model=a.d_model, d_ff=a.d_ff,
        num_heads=a.heads, num_kv_heads=a.kv_heads, head_dim=a.head_dim,
        tie_embeddings=False, max_positions=a.prompt_len + a.completion_len,
    )  # fmt: skip
    words = {str(i): i for i in range(a.vocab)}
    backend = tokenizers.Tokenizer(models.WordLevel(words | {"<eos>": a.vocab}, "0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = Tokenizer(
        backend, chat_template="{{ messages[0].content }}", eos_ids=[a.vocab], pad_id=0
    )
    params = jax.device_get(transformer.init_params(model, jax.random.key(a.seed)))
    return Loaded(model, params, tokenizer, "random", fingerprint(model, params))


def random_prompts(a: argparse.Namespace) -> list[base.Prompt]:
    """As many prompts of exactly prompt_len tokens as the run takes."""
    rng = np.random.default_rng(a.seed)
    rows = rng.integers(0, a.vocab, (a.prompts * a.steps, a.prompt_len))
    return [base.Prompt(str(i), base.chat(" ".join(map(str, row)))) for i, row in enumerate(rows)]


class TimedTools(tools_lib.Tools):
    """Tools that note how long generate and verify take."""

    timer: metrics_lib.Timer

    def generate(self, *args: tp.Any, **kw: tp.Any) -> tools_lib.Batch:
        with self.timer("generate"):
            return super().generate(*args, **kw)

    def verify(self, batch: tools_lib.Batch) -> tools_lib.Batch:
        with self.timer("verify"):
            return super().verify(batch)


def peak_mb() -> int:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def children_peak_mb() -> int:
    """Peak resident memory of the processes that this one started, added up."""
    found = 0
    for children in pathlib.Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            found += int(status.partition("VmHWM:")[2].split()[0])
    return found // 1024


def measure(a: argparse.Namespace) -> dict[str, tp.Any]:
    """Runs a.steps steps and returns what is printed.

    Raises: RuntimeError where a step did less than the flags say.
    """
    import_mb, load = peak_mb(), os.getloadavg()
    heap.tune()
    config = config_of(a)
    build.set_matmul_precision(config)
    chain, scorers = build.check(config)
    loaded, root = random_model(a), jax.random.key(a.seed)
    model = build.model_config(config, loaded.config)
    stream = Stream([Source("random", random_prompts(a))], a.seed)
    n_params = sum(x.size for x in jax.tree.leaves(loaded.params))
    verifiers = tuple(dict(v) for v in config.verifiers)
    with VerifierPool(verifiers, **config.pool.to_dict()) as pool:
        tools = TimedTools(
            model, loaded.tokenizer, pool, config.sampling, config.missing,
            [v["name"] for v in verifiers], root,
        )  # fmt: skip
        learners = learners_lib.Learners(
            config, build.make_learners(config, model), scorers, loaded,
            {c for _, m in chain.methods for c in m.reads}, root,
        )  # fmt: skip
        del loaded
        rollout, rollout_state = build.rollout_of(config), None
        state, credit = chain.init(), jax.jit(chain.__call__)
        seconds: list[dict[str, float]] = []
        for step in range(a.steps):
            timer = tools.timer = metrics_lib.Timer()
            cpu = time.process_time()
            with timer("step"):
                tools.params = learners.rollout_params()
                batches, rollout_state = rollout(stream, tools, rollout_state, step)
                tools.params, table = None, batches["policy"].table
                with timer("prepare"):
                    learners.prepare(table)
                    jax.block_until_ready(table)
                with timer("credit"):
                    new, state = credit(
                        table, state, chain.numbers(step), jax.random.fold_in(root, step),
                        jnp.int32(step),
                    )  # fmt: skip
                    table = {**table, **jax.device_get(new)}
                with timer("update"):
                    numbers = learners.update("after_credit", {"policy": table}, step)
                numbers |= records.batch_metrics(batches["policy"], table)
            timer.seconds["cpu"] = time.process_time() - cpu
            seconds.append(timer.seconds)
            _check(a, table, numbers)
        worker_mb = children_peak_mb()

    counted = seconds[a.warmup :]
    median = lambda k: round(statistics.median(s[k] for s in counted), 4)
    least = lambda k: round(min(s[k] for s in counted), 4)
    rows = a.prompts * a.group
    return {
        "rlpt": rlpt.__version__, "jax": jax.__version__, "device": jax.devices()[0].device_kind,
        "cpus": len(os.sched_getaffinity(0)), "load": [round(x, 1) for x in load],
        "params": n_params, "dtype": a.dtype, "precision": a.precision, "rows": rows,
        "prompt": a.prompt_len, "completion": a.completion_len, "vocab": a.vocab,
        "beta": a.beta, "mu": a.mu,
        "steps_timed": len(counted),
        "sec_per_step": median("step"), "rollout_s": median("generate"),
        "reward_s": median("verify"), "old_ref_logps_s": median("prepare"),
        "credit_s": median("credit"), "update_s": median("update"),
        "sec_per_step_min": least("step"), "rollout_s_min": least("generate"),
        "update_s_min": least("update"), "cpu_sec_per_step": median("cpu"),
        "first_step_s": round(seconds[0]["step"], 2),
        "tokens_sampled_last": rows * a.completion_len,
        "sampled_tok_per_s": round(rows * a.completion_len / median("generate"), 1),
        "max_rss_mb": peak_mb(), "import_rss_mb": import_mb, "worker_rss_mb": worker_mb,
        "all_steps": [round(s["step"], 3) for s in seconds],
    }  # fmt: skip


def _check(a: argparse.Namespace, table: tp.Any, numbers: dict[str, float]) -> None:
    """Raises RuntimeError unless all rows are whole, judged and trained on."""
    tokens = int((table["loss_mask"] & table["row_mask"][..., None]).sum())
    expected = a.prompts * a.group * a.completion_len
    if (
        tokens != expected
        or numbers["policy/live_blocks"] != a.prompts
        or numbers["policy/skipped"]
    ):
        raise RuntimeError(
            f"trained on {tokens} tokens of {numbers['policy/live_blocks']} prompts, expected "
            f"{expected} of {a.prompts}; the figures would be of other work"
        )


if __name__ == "__main__":
    print(json.dumps(measure(parse())), flush=True)
