"""The settings of a run: their defaults, and what can be known to be wrong with them.

Configs start from `rlpt.config.default()` (the same function) and change what they need.
"""

from __future__ import annotations

import difflib
import functools
import math
import typing as tp


class ConfigError(ValueError):
    """A setting that cannot work; the message says what is accepted."""


def suggest(name: str, known: tp.Iterable[str]) -> str:
    """The end of an error message: the nearest name, and all that are accepted."""
    known = sorted(set(known))
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Accepted: {', '.join(known) or '(none)'}."


def default() -> tp.Any:
    """Every setting with its default, as a locked ConfigDict; configs change what they need.

    Entries that name functions are dicts with `fn`: see `resolve`.  Order matters in
    shaping, advantage, loss, tasks and verifiers, so they are tuples.
    """
    import ml_collections

    c = ml_collections.ConfigDict()
    c.seed = 0
    c.steps = 100
    c.model = dict(
        source="embedded",  # embedded, toy[:...], a Hugging Face directory or a .gguf file
        dtype="float32",  # or bfloat16, in which is computed; parameters and optimizer stay float32
        remat="dots",  # none, dots (keep matmuls), full: what the backward pass recomputes
        attention="auto",  # reference, dot_product, splash: see rlpt.models.attention
        # highest for exact sampler/scorer agreement on TPU and GPU; bfloat16: products with weights
        # are of rounded factors (rlpt.models.products): faster on CPUs with AMX
        matmul_precision="default",
        logits_chunk=2**24,  # logits (positions x vocabulary) of the update that exist at once
        lora=dict(rank=0, alpha=16.0, targets=r"layers/(q|k|v|o|gate|up|down)"),
    )
    # what the chat template is told, such as c.model.chat.enable_thinking = False for Qwen3
    c.model.chat = ml_collections.ConfigDict()
    c.tasks = (dict(fn="arithmetic.sums", weight=1.0),)
    c.too_long = "drop"  # or fail: what to do with prompts wider than the largest bucket
    # by: band (pass rates between low and high) or uncertainty; see rlpt.tasks.stream.Curriculum
    c.curriculum = dict(
        enabled=False, by="band", low=0.0, high=1.0, momentum=0.5, revisit=0.1, patience=4
    )
    c.verifiers = (dict(fn="number.number", name="number", weight=1.0),)
    # What a row without a verdict counts as: a reward; mask: out of statistics and loss, also
    # where the verifier has weight 0; ignore: the verdict is NaN and the row stays, for one that
    # is only measured. An entry of verifiers may have a `missing` of its own, with what differs.
    c.missing = dict(unparsable="0", timeout="mask", crash="mask", invalid="mask")
    c.max_silent = 20  # stop after so many batches in a row in which no row counted
    # seconds: deadline of a call of a verifier, batch_deadline of all verdicts of a batch
    c.pool = dict(workers=2, deadline=5.0, batch_deadline=60.0)
    # A block is a prompt with `group` completions; group_blocks: blocks of a prompt, for groups
    # that are wider than a block, or of several contexts, as under a hint.
    # overlap: 1: the next batch is sampled while this one is judged; its rows are then of weights
    # one update old, and the ratio is against these.
    c.rollout = dict(fn="sample.on_policy", prompts=8, group=8, group_blocks=1, overlap=0)
    c.rollout.options = ml_collections.ConfigDict()  # keyword settings of rollout.fn
    c.sampling = dict(
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        stop_strings=(),
        prompt_buckets=(64,),
        completion_buckets=(16,),
        dtype="float32",
        weights="",  # int8: layer kernels in 8 bits, another law: see losses.corrections
        lanes=0,  # samples of a prompt under way at once; 0: all, until the longest ends
        slots=0,  # with lanes, prompts under way at once; 0: all
    )
    c.scorers = ()
    c.shaping = ()
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (dict(surrogate="surrogates.ppo_clip"),)
    c.learner = dict(
        epochs=1,
        minibatches=1,  # optimizer steps an epoch
        micro_blocks=0,  # blocks computed at once, without influence; 0: all of a minibatch
        old_logp="auto",  # auto, recompute, sampler
        skip_zero_advantage=True,  # blocks whose advantages are all 0 are not computed
        start=0,  # the first step that updates the policy; later than 0: critics get ahead
        reference_steps=(),  # steps at whose start the reference becomes a copy of the policy
    )
    c.learners = ml_collections.ConfigDict()  # name -> what differs from `LEARNER`
    c.optim = dict(
        name="adamw",  # or lion, sgd, adafactor
        lr=1e-6,
        schedule="constant",  # or linear, cosine: behind the warmup, to end_lr_fraction of lr
        warmup_steps=0,
        end_lr_fraction=0.0,
        b1=ml_collections.config_dict.placeholder(float),  # None: optax's default
        b2=ml_collections.config_dict.placeholder(float),
        eps=ml_collections.config_dict.placeholder(float),
        mu_dtype=ml_collections.config_dict.placeholder(str),  # bfloat16 halves the first moment
        moments="float32",  # or bfloat16 or factored: 8, 4 or 2 bytes a parameter with adamw
        weight_decay=0.0,
        decay_rules=(),  # ((regex, multiplier), ...); (): none for norms, biases, 1-D leaves
        max_grad_norm=1.0,  # 0: gradients are not clipped
        max_skipped=5,  # stop after so many batches in a row without an update that was finite
    )
    # Devices (-1: what is left): data and fsdp cut the blocks of a batch, fsdp and model the
    # weights. rollout: the weights that the sampler reads: as_trained, gathered (whole over fsdp,
    # cut over model) or replicated.
    c.mesh = dict(data=-1, fsdp=1, model=1, rollout="as_trained")
    # Evaluations are before and after the run, and every so many steps. prompts: the first held-out
    # prompts of each task (shuffle a file that is sorted), 0: all; samples: completions of each,
    # beside a greedy one; blocks: prompts at once, 0: rollout.prompts.
    c.eval = dict(every=0, prompts=0, samples=8, temperature=1.0, blocks=0)
    # keep: the last checkpoints, keep_best: those with the best number of an evaluation (best)
    # allow: names of the identity (config, model, tokenizer, versions, code) that may have changed
    c.checkpoint = dict(every=50, keep=3, keep_best=1, best="eval/pass@1", allow=())
    # rollouts_every: steps between those that rollouts.jsonl has, 0: none
    # profile: steps that are traced into profile/, from the third on; the stages are then summed up
    # columns: what rollouts.jsonl and the report have of a row beside the usual, such as "ref_logp"
    c.log = dict(
        rollouts_every=1, columns=(), tensorboard=True, wandb=False, console=True, profile=0
    )
    c.export = True
    c.debug = False  # check every table's columns
    c.lock()
    c.model.chat.unlock()
    c.rollout.options.unlock()
    c.learners.unlock()
    return c


# A learner beside the policy, such as a critic: what its entry in config.learners may change.
LEARNER: dict[str, tp.Any] = {
    "source": "policy",  # weights at the start: the policy's, or as config.model.source
    "output": "value",  # logp (a language model) or value (a scalar head)
    "writes": "",  # the column for its output on the policy table; "": none
    "table": "policy",  # the table that it is trained on, one of those that the rollout makes
    "when": "after_credit",  # or before_credit
    "loss": (),
    "start": 0,
    "epochs": 1,
    "minibatches": 1,
    "micro_blocks": 0,
    "optim": {},  # what differs from config.optim
}


def learner_entry(config: tp.Any, name: str) -> dict[str, tp.Any]:
    """The entry of config.learners, complete.

    Raises: ConfigError for a name that is taken and for unknown or impossible settings.
    """
    given = dict(config.learners[name])
    where = f"config.learners.{name}"
    if name in ("policy", "reference", "loss"):
        raise ConfigError(f"{where}: the name is taken; call it critic, reward_model, …")
    for key in given:
        if key not in LEARNER:
            raise ConfigError(f"{where}: unknown setting {key!r}.{suggest(key, LEARNER)}")
    out = {**LEARNER, **given}
    for key, allowed in (
        ("output", ("logp", "value")),
        ("when", ("before_credit", "after_credit")),
    ):
        if out[key] not in allowed:
            raise ConfigError(f"{where}.{key}: got {out[key]!r}, expected {' or '.join(allowed)}")
    if not out["loss"]:
        raise ConfigError(f"{where}.loss: got (), expected at least one term")
    for key in out["optim"]:
        if key not in config.optim:
            raise ConfigError(f"{where}.optim: unknown key {key!r}.{suggest(key, config.optim)}")
    for key, low in (("start", 0), ("epochs", 1), ("minibatches", 1), ("micro_blocks", 0)):
        if type(out[key]) is not int or out[key] < low:
            raise ConfigError(f"{where}.{key}: got {out[key]!r}, expected an integer >= {low}")
    limit = out["optim"].get("max_skipped", 1)
    if type(limit) is not int or limit < 1:
        raise ConfigError(f"{where}.optim.max_skipped: got {limit!r}, expected an integer >= 1")
    return out


def max_skipped(config: tp.Any, name: str) -> int:
    """optim.max_skipped of a learner: config.optim's, or what its entry in config.learners says."""
    own = {} if name == "policy" else learner_entry(config, name)["optim"]
    return int(own.get("max_skipped", config.optim.max_skipped))


def runlocal(config: tp.Any) -> tp.Any:
    """Shrinks a run to some seconds on a laptop and returns it.

    Rollout, scorers, shaping, credit and losses stay as they are.  The model is a random one that
    writes characters, so each verifier becomes one that it can satisfy: the reply's first character
    is a digit (for the second verifier its second, …).  Sizes, micro-batches, evaluations and all
    learning rates are replaced too.
    """
    c = config
    c.steps = 4
    c.model.source, c.model.dtype, c.model.remat = "toy", "float32", "none"
    for key in list(c.model.chat):
        del c.model.chat[key]
    c.tasks = (dict(fn="arithmetic.sums"),)
    c.verifiers = tuple(
        dict(
            fn="pattern.regex",
            pattern=f"(?s)^.{{{i}}}[0-9]",
            name=v["name"],
            weight=v.get("weight", 1.0),
        )
        for i, v in enumerate(c.verifiers)
    )
    c.rollout.prompts, c.rollout.group = 4, min(c.rollout.group, 8)
    c.rollout.group_blocks = min(c.rollout.group_blocks, 2)
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (64,), (8,)
    c.learner.micro_blocks = 0
    for entry in c.learners.values():
        entry["micro_blocks"] = 0
        entry["optim"] = {}
    c.optim.lr, c.optim.schedule, c.optim.warmup_steps = 1e-2, "constant", 0
    c.eval.prompts, c.eval.samples, c.eval.every = 4, 4, 0
    return c


def differences(config: tp.Any, base: tp.Any) -> dict[str, tuple[tp.Any, tp.Any]]:
    """{dotted key: (value, default)} of what differs."""

    def flat(c: tp.Any, prefix: str = "") -> dict[str, tp.Any]:
        out: dict[str, tp.Any] = {}
        for k in c:
            if hasattr(c[k], "keys") and len(c[k]):
                out |= flat(c[k], f"{prefix}{k}.")
            else:
                out[prefix + k] = c[k]
        return out

    a, b = flat(config), flat(base)
    return {k: (a.get(k), b.get(k)) for k in sorted({*a, *b}) if a.get(k) != b.get(k)}


def validate(config: tp.Any) -> None:
    """Raises ConfigError for what can be known to be wrong before anything is loaded."""
    if not hasattr(config, "get_ref"):
        raise ConfigError(
            f"config: got a {type(config).__name__}, expected rlpt.config.default() with changes"
        )
    for at, section in (("config", default()), *((f"config.{k}", v) for k, v in default().items())):
        if not hasattr(section, "keys") or not len(section):  # learners, rollout.options
            continue
        mine = config if at == "config" else config[at.removeprefix("config.")]
        for key in set(mine) - set(section):
            raise ConfigError(f"{at}: unknown key {key!r}.{suggest(key, section.keys())}")
        for key in sorted(set(section) - set(mine)):
            raise ConfigError(
                f"{at}.{key} is missing: set keys one by one instead of replacing {at}"
            )

    def at_least(low: int, *names: str) -> None:
        for name in names:
            value = functools.reduce(lambda c, k: c[k], name.split("."), config)
            if type(value) is not int or value < low:
                raise ConfigError(f"config.{name}: got {value!r}, expected an integer >= {low}")

    at_least(1, "rollout.prompts", "rollout.group", "rollout.group_blocks", "learner.epochs")
    at_least(1, "learner.minibatches", "pool.workers", "checkpoint.every", "checkpoint.keep")
    at_least(1, "model.logits_chunk", "optim.max_skipped", "max_silent")
    at_least(0, "steps", "learner.micro_blocks", "learner.start", "eval.every", "eval.samples")
    at_least(0, "eval.prompts", "eval.blocks", "model.lora.rank", "log.rollouts_every")
    at_least(0, "log.profile")
    at_least(0, "checkpoint.keep_best", "sampling.lanes", "sampling.slots")
    s = config.sampling
    if s.slots and not s.lanes:
        raise ConfigError(
            f"config.sampling.slots: got {s.slots} with sampling.lanes=0, which takes all prompts "
            "at once; set lanes too, such as lanes=8, or leave slots at 0"
        )
    if config.rollout.overlap not in (0, 1):
        raise ConfigError(
            f"config.rollout.overlap: got {config.rollout.overlap!r}, expected 0 (on policy) or 1 "
            "(one update behind)"
        )
    truncated = s.top_k or s.top_p < 1 or s.min_p
    if config.rollout.overlap and truncated:
        raise ConfigError(
            "config.rollout.overlap: 1 with top_k, top_p or min_p: the log-probs of the batch that "
            "is ahead are of the truncated law, those of the update are not; use 0"
        )
    if not s.temperature > 0:
        raise ConfigError(
            f"config.sampling.temperature: got {s.temperature}, expected > 0: greedy completions "
            "of a prompt are all alike, and nothing can be learnt from them"
        )
    if isinstance(s.stop_strings, str) or "" in s.stop_strings:
        raise ConfigError(
            f"config.sampling.stop_strings: got {s.stop_strings!r}, expected a tuple of strings "
            "that are not empty"
        )
    if config.learner.old_logp == "sampler" and truncated:
        raise ConfigError(
            "config.learner.old_logp: 'sampler' with top_k, top_p or min_p: the sampler's "
            "log-probs are of the truncated law, the ratio's numerator is not; use 'recompute'"
        )
    moves = tuple(config.learner.reference_steps)
    if any(type(x) is not int or x < 1 for x in moves) or list(moves) != sorted(set(moves)):
        raise ConfigError(
            f"config.learner.reference_steps: got {moves}, expected increasing steps >= 1"
        )
    if moves and config.model.lora.rank:
        raise ConfigError(
            "config.learner.reference_steps: with model.lora.rank the reference is the base model, "
            "which does not move; use () or rank 0"
        )
    if not str(config.checkpoint.best).startswith("eval/"):
        raise ConfigError(
            f"config.checkpoint.best: got {config.checkpoint.best!r}, expected a number of the "
            "evaluations, such as eval/pass@1 or eval/greedy; keep_best=0 keeps no best"
        )
    if not config.loss:
        raise ConfigError("config.loss: got (), expected at least one term")
    if config.model.dtype == "float16":
        raise ConfigError(
            "config.model.dtype: got float16, in which gradients underflow to 0 without a word: "
            "the loss is not scaled; expected bfloat16 or float32 (sampling.dtype may be float16)"
        )
    for key in ("prompt_buckets", "completion_buckets"):
        widths = tuple(config.sampling[key])
        if not widths or list(widths) != sorted(set(widths)) or widths[0] < 1:
            raise ConfigError(
                f"config.sampling.{key}: got {widths}, expected increasing widths such as (64, 128)"
            )
    for key, allowed in (
        ("too_long", ("drop", "fail")),
        ("model.remat", ("none", "dots", "full")),
        ("model.attention", ("auto", "reference", "dot_product", "splash")),
        ("model.matmul_precision", ("default", "high", "highest", "bfloat16")),
        ("model.dtype", ("float32", "bfloat16")),
        ("sampling.dtype", ("float32", "bfloat16", "float16")),
        ("sampling.weights", ("", "int8")),
        ("optim.moments", ("float32", "bfloat16", "factored")),
        ("learner.old_logp", ("auto", "recompute", "sampler")),
        ("mesh.rollout", ("as_trained", "gathered", "replicated")),
    ):
        value = config
        for part in key.split("."):
            value = value[part]
        if value not in allowed:
            raise ConfigError(f"config.{key}: got {value!r}, expected one of {', '.join(allowed)}")
    for name in config.learners:
        learner_entry(config, name)
    names = [v["name"] for v in config.verifiers if "name" in v]
    if len(names) != len(config.verifiers) or len(set(names)) != len(names) or not names:
        raise ConfigError(
            "config.verifiers: every entry needs a name of its own, as in "
            "dict(fn='number.number', name='number')"
        )
    if not config.tasks:
        raise ConfigError(
            "config.tasks: got (), expected at least one dict(fn='arithmetic.sums', ...)"
        )
    missing_by_verifier(config)


def missing_by_verifier(config: tp.Any) -> dict[str, dict[str, str]]:
    """{verifier: {outcome: what it counts as}}: config.missing, and what an entry says instead.

    Raises: ConfigError for unknown outcomes, and values other than 'mask', 'ignore' and numbers.
    """
    out = {}
    for i, spec in enumerate(config.verifiers):
        own = dict(spec.get("missing", {}))
        for outcome in own:
            if outcome not in config.missing:
                raise ConfigError(
                    f"config.verifiers[{i}].missing: unknown outcome {outcome!r}."
                    + suggest(outcome, config.missing.keys())
                )
        out[spec["name"]] = {**config.missing, **own}
        for outcome, value in out[spec["name"]].items():
            try:
                number = value in ("mask", "ignore") or math.isfinite(float(value))
            except ValueError:
                number = False
            if not number:
                raise ConfigError(
                    f"missing.{outcome} of the verifier {spec['name']!r}: got {value!r}, "
                    "expected 'mask', 'ignore' or a number as a string"
                )
            if value == "ignore" and float(spec.get("weight", 1.0)):
                raise ConfigError(
                    f"missing.{outcome} of the verifier {spec['name']!r}: got 'ignore' with weight "
                    f"{spec.get('weight', 1.0)}, which would count the row as 0; use 'mask', a "
                    "number, or weight=0.0 for a verifier that only informs"
                )
    return out
