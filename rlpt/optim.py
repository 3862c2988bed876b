"""Optimizers: optax, with the settings of a config checked and the traps closed.

`make_optimizer` chains a global-norm clip, one of optax's optimizers at learning
rate 1, decoupled weight decay by parameter path, and the schedule, which reads
a count in the optimizer's own state, so that a resumed run continues on it.
`guarded_update` applies a step, or nothing at all when a number is not finite.
Parameters are named by their path, such as "layers/q" or, for an adapter,
"layers/q/a".
"""

from __future__ import annotations

import math
import re
import typing as tp

import jax
import jax.numpy as jnp
import optax

Tree = tp.Any
Rules = tp.Sequence[tuple[str, float]]
LrSchedule = tp.Callable[[jax.typing.ArrayLike], jax.Array]

# name -> {our setting: optax's keyword}; a setting that is not listed has no effect there
OPTIMIZERS: dict[str, dict[str, str]] = {
    "adamw": {"b1": "b1", "b2": "b2", "eps": "eps", "mu_dtype": "mu_dtype"},
    "lion": {"b1": "b1", "b2": "b2", "mu_dtype": "mu_dtype"},
    "sgd": {"b1": "momentum", "mu_dtype": "accumulator_dtype"},
    "adafactor": {"b1": "momentum", "eps": "eps", "mu_dtype": "dtype_momentum"},
}
# what optax would otherwise add: its own decay, and steps relative to the parameters' scale
_FIXED: dict[str, dict[str, tp.Any]] = {
    "adamw": {"weight_decay": 0.0},
    "lion": {"weight_decay": 0.0},
    "adafactor": {"multiply_by_parameter_scale": False},
}
# how the moments are kept, see `make_optimizer`; adafactor factors the second one anyway
MOMENTS = {
    "adamw": ("float32", "bfloat16", "factored"),
    "lion": ("float32", "bfloat16"),
    "sgd": ("float32", "bfloat16"),
    "adafactor": ("float32", "bfloat16"),
}
SCHEDULES = ("constant", "linear", "cosine")

DEFAULTS: dict[str, tp.Any] = {
    "name": "adamw",
    "lr": 1e-6,
    "schedule": "constant",
    "warmup_steps": 0,
    "total_steps": 0,
    "end_lr_fraction": 0.0,
    "b1": None,  # None: optax's default
    "b2": None,
    "eps": None,
    "weight_decay": 0.0,
    "decay_rules": None,
    "max_grad_norm": 1.0,
    "mu_dtype": None,
    "moments": "float32",
}


def make_optimizer(cfg: tp.Mapping[str, tp.Any]) -> tuple[optax.GradientTransformation, LrSchedule]:
    """An optimizer and its learning rate from settings.

    Args:
      cfg: any of
        name: adamw, lion, sgd (b1 is its momentum) or adafactor (steps are not
          scaled by the parameters' size, so that lr means what it means elsewhere).
        lr: peak learning rate, > 0.
        schedule: constant, linear or cosine, after `warmup_steps` updates of linear
          warm-up, whose first update already has lr / warmup_steps; linear and
          cosine reach end_lr_fraction * lr at update `total_steps`.
        b1, b2, eps, mu_dtype: as in optax; None leaves optax's default.
        weight_decay: decoupled, >= 0: params -= lr * weight_decay * multiplier * params.
        decay_rules: ((regex, multiplier), ...), first full match of the path wins;
          None: 0 for norms, biases and leaves of fewer than 2 axes, 1 for the others.
        max_grad_norm: clip of the global norm; None or 0: no clip.
        moments: how the moments are kept. float32: as optax does (mu_dtype may say
          otherwise of the first). bfloat16: in 2 bytes each; the first is rounded to
          nearest, adamw's second stochastically (see `_second_moment_in_bfloat16`).
          factored (adamw): the second as the sums of the rows and columns of each
          matrix of 128 x 128 or more (see `_factored_adamw`), the first in bfloat16,
          or as mu_dtype says, or not at all with b1=0.
    Returns: (optimizer, schedule); schedule(count) is the learning rate of the
      update that follows `count` others, applied or left out, see `update_count`.
    Raises: ValueError for an unknown setting or a value that cannot work.
    """
    unknown = sorted(set(cfg) - set(DEFAULTS))
    if unknown:
        raise ValueError(
            f"optim: unknown setting {unknown[0]!r}; accepted: {', '.join(sorted(DEFAULTS))}"
        )
    settings = {**DEFAULTS, **{key: cfg[key] for key in cfg}}
    name = settings["name"]
    _choice("name", name, OPTIMIZERS)
    _positive_or_zero(settings, "weight_decay", "end_lr_fraction", "warmup_steps", "total_steps")
    keywords: dict[str, tp.Any] = {}
    for ours in ("b1", "b2", "eps", "mu_dtype"):
        if settings[ours] is None:
            continue
        if ours not in OPTIMIZERS[name]:
            raise ValueError(
                f"optim.{ours}: got {settings[ours]!r}, but {name} has no such setting; "
                f"set it to None (it accepts {', '.join(OPTIMIZERS[name])})"
            )
        keywords[OPTIMIZERS[name][ours]] = settings[ours]
    if isinstance(settings["mu_dtype"], str):
        _choice("mu_dtype", settings["mu_dtype"], ("float32", "bfloat16", "float16"))
    needs_b1 = "momentum" in OPTIMIZERS[name].values() and settings["b1"] is None
    for setting, default in (("mu_dtype", None), ("moments", "float32")):
        if needs_b1 and settings[setting] != default:
            raise ValueError(f"optim.{setting}: {name} keeps no such moment without b1; set b1")
    lr_at = _schedule(settings)
    chain = [_scaled(name, settings["moments"], keywords)]
    if settings["max_grad_norm"]:
        _positive_or_zero(settings, "max_grad_norm")
        chain.insert(0, optax.clip_by_global_norm(settings["max_grad_norm"]))
    if settings["weight_decay"] or settings["decay_rules"] is not None:
        chain.append(_decay(settings["weight_decay"], settings["decay_rules"]))
    return optax.chain(*chain, optax.scale_by_schedule(lr_at)), lr_at


def _scaled(name: str, moments: str, keywords: dict[str, tp.Any]) -> optax.GradientTransformation:
    """The optimizer at learning rate 1, its moments kept as `moments` says."""
    if moments not in MOMENTS[name]:
        raise ValueError(
            f"optim.moments: got {moments!r}, expected one of {', '.join(MOMENTS[name])} "
            f"with {name}"
        )
    if moments == "factored":
        return _factored_adamw(**keywords)
    if moments == "bfloat16":
        dtype = OPTIMIZERS[name]["mu_dtype"]
        if keywords.get(dtype, "bfloat16") != "bfloat16":
            raise ValueError(
                f"optim.mu_dtype: got {keywords[dtype]!r} with moments=bfloat16, which is about "
                "both moments; set mu_dtype to None, or moments to float32"
            )
        keywords = {**keywords, dtype: "bfloat16"}
    made = getattr(optax, name)(learning_rate=1.0, **_FIXED.get(name, {}), **keywords)
    return _second_moment_in_bfloat16(made) if (name, moments) == ("adamw", "bfloat16") else made


def _second_moment_in_bfloat16(adamw: optax.GradientTransformation) -> optax.GradientTransformation:
    """adamw with its `nu` stored in bfloat16, rounded up or down at random, right in the mean.

    To nearest it would never shrink: a step takes (1 - b2) of it away, 0.1 %, and bfloat16
    has steps of 0.4 to 0.8 %.  The noise follows from the count, the leaf and the place in
    it, so that neither a resumption nor the layout on devices changes it.
    """

    def stored(nu: Tree, count: jax.Array) -> Tree:
        leaves, structure = jax.tree.flatten(nu)
        seeds = _mix(_mix(count.astype(jnp.uint32)) + jnp.arange(len(leaves), dtype=jnp.uint32))
        rounded = [stochastic_round(x, seeds[i]) for i, x in enumerate(leaves)]
        return jax.tree.unflatten(structure, rounded)

    def init(params: Tree) -> Tree:  # zeros like the parameters, never in float32
        return adamw.init(optax.tree_utils.tree_cast(params, jnp.bfloat16))

    def update(updates: Tree, state: Tree, params: Tree = None) -> tuple[Tree, Tree]:
        nu = optax.tree_utils.tree_cast(optax.tree_utils.tree_get(state, "nu"), jnp.float32)
        state = optax.tree_utils.tree_set(state, nu=nu)
        updates, state = adamw.update(updates, state, params)
        nu, count = (optax.tree_utils.tree_get(state, name) for name in ("nu", "count"))
        return updates, optax.tree_utils.tree_set(state, nu=stored(nu, count))

    return optax.GradientTransformation(init, update)


def stochastic_round(x: jax.Array, seed: jax.Array) -> jax.Array:
    """bfloat16 neighbours of x, each as likely as x is near to it, so that the mean is x.

    The noise is a hash of seed and place: jax.random would need several times x of memory.

    Args:
      x: float32, finite.  seed: uint32; every one is another draw.
    """
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        place = place * jnp.uint32(size) + along
    noise = _mix(_mix(place) ^ seed) >> 16
    bits = (jax.lax.bitcast_convert_type(x, jnp.uint32) + noise) & jnp.uint32(0xFFFF0000)
    return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(jnp.bfloat16)


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of uint32, every bit of which depends on all of x: MurmurHash3's last step."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _factored_adamw(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, mu_dtype: str | None = None
) -> optax.GradientTransformation:
    """Adam at learning rate 1 whose second moment is factored as in Adafactor.

    b2 is Adam's, bias correction included, and so is eps in effect (as eps^2 under the
    root).  The first moment is that of the scaled gradients, whose root mean square in a
    parameter is clipped to 1.

    References: Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear
      Memory Cost", arXiv 1804.04235, sections 3 and 6; Zhai et al., "Scaling Vision
      Transformers", arXiv 2106.04560, "Memory-efficient optimizers", for the b2 that is
      not a schedule and the first moment in bfloat16.
    """

    def decay(count: jax.typing.ArrayLike, b2: jax.typing.ArrayLike) -> jax.Array:
        t = jnp.asarray(count, jnp.float32)  # updates before this one
        return jnp.asarray(b2 * (1.0 - b2**t) / (1.0 - b2 ** (t + 1.0)))

    chain = [
        optax.scale_by_factored_rms(decay_rate=b2, epsilon=eps**2, decay_rate_fn=decay),
        optax.clip_by_block_rms(1.0),
    ]
    if b1:
        chain.append(optax.ema(b1, debias=True, accumulator_dtype=mu_dtype or "bfloat16"))
    return optax.chain(*chain, optax.scale(-1.0))


def guarded_update(
    optimizer: optax.GradientTransformation,
    grads: Tree,
    state: Tree,
    params: Tree,
    loss: jax.typing.ArrayLike = 0.0,
) -> tuple[Tree, Tree, dict[str, jax.Array]]:
    """One update, or none at all when the loss or any gradient is not finite, or all are zero.

    A batch that says nothing moves nothing: without this, momentum and weight decay would.

    The decision is the same on every device and host when the gradients are global
    arrays, since it depends on their norm and the loss alone.  Jit-able.

    Args:
      grads, params: trees alike.  state: of the optimizer.  loss: scalar.
    Returns: (params, state, info).  An update that is left out leaves params and state bit for
      bit as they were, but for the schedule's count: total_steps counts all updates, and what else
      goes by step does not wait.  info: `grad_norm` before the clip; `skipped` bool, for what is
      not finite; `unchanged` bool, for zeros.
    """
    grad_norm = global_norm(grads)
    finite = jnp.isfinite(grad_norm) & jnp.isfinite(loss)
    updates, new_state = optimizer.update(grads, state, params)

    applied = finite & (grad_norm > 0)

    def keep(new: tp.Any, old: tp.Any) -> tp.Any:
        return new if _is_schedule(new) else jnp.where(applied, new, old)

    params = jax.tree.map(keep, optax.apply_updates(params, updates), params)
    state = jax.tree.map(keep, new_state, state, is_leaf=_is_schedule)
    return params, state, {"grad_norm": grad_norm, "skipped": ~finite, "unchanged": grad_norm == 0}


def global_norm(tree: Tree) -> jax.Array:
    """sqrt of the sum of squares over all leaves, accumulated in float32."""
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(jnp.sum(jnp.stack(squares)))


def update_count(state: Tree) -> jax.Array:
    """The count of updates, applied or left out, in a state of `make_optimizer`, int32."""
    found = [x for x in jax.tree.leaves(state, is_leaf=_is_schedule) if _is_schedule(x)]
    if len(found) != 1:
        raise ValueError(f"got a state with {len(found)} schedules, expected one of make_optimizer")
    count: jax.Array = found[0].count
    return count


def _is_schedule(state: tp.Any) -> bool:
    return isinstance(state, optax.ScaleByScheduleState)


def decay_multipliers(params: Tree, rules: Rules | None = None) -> Tree:
    """The factor on weight_decay for each parameter, see `make_optimizer`.

    Raises: ValueError for a parameter that no rule covers, a rule that covers no
      parameter, or a rule that is not (regex, number >= 0).
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    named = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves
    ]
    if rules is None:
        return jax.tree.unflatten(
            structure,
            [
                0.0 if leaf.ndim < 2 or re.fullmatch(r"(.*/)?\w*(norm|bias)", name) else 1.0
                for name, leaf in named
            ],
        )
    for rule in rules:
        if len(rule) != 2 or not isinstance(rule[0], str) or not 0 <= rule[1] < math.inf:
            raise ValueError(f"optim.decay_rules: got {rule!r}, expected (regex, number >= 0)")
        if not any(re.fullmatch(rule[0], name) for name, _ in named):
            raise ValueError(
                f"optim.decay_rules: {rule[0]!r} matches no parameter; there are "
                f"{', '.join(name for name, _ in named)}"
            )
    multipliers = []
    for name, _ in named:
        matching = [float(factor) for pattern, factor in rules if re.fullmatch(pattern, name)]
        if not matching:
            raise ValueError(
                f"optim.decay_rules: no rule covers {name!r}; end the rules with ('.*', multiplier)"
            )
        multipliers.append(matching[0])
    return jax.tree.unflatten(structure, multipliers)


def _decay(weight_decay: float, rules: Rules | None) -> optax.GradientTransformation:
    """Adds -weight_decay * multiplier * params to updates that still lack the learning rate."""

    def init(params: Tree) -> optax.EmptyState:
        decay_multipliers(params, rules)  # a wrong rule fails here, before anything is compiled
        return optax.EmptyState()

    def update(updates: Tree, state: optax.EmptyState, params: Tree = None) -> tuple[Tree, Tree]:
        decayed = jax.tree.map(
            lambda u, p, m: u - weight_decay * m * p if m else u,
            updates,
            params,
            decay_multipliers(params, rules),
        )
        return decayed, state

    return optax.GradientTransformation(init, update)


def _schedule(settings: dict[str, tp.Any]) -> LrSchedule:
    lr, kind = settings["lr"], settings["schedule"]
    warmup, total = settings["warmup_steps"], settings["total_steps"]
    end = settings["end_lr_fraction"]
    _choice("schedule", kind, SCHEDULES)
    if isinstance(lr, bool) or not isinstance(lr, (int, float)) or not 0 < lr < math.inf:
        raise ValueError(f"optim.lr: got {lr!r}, expected a number > 0")
    if kind != "constant" and total <= warmup:
        raise ValueError(
            f"optim.total_steps: got {total}, expected more than warmup_steps={warmup} "
            f"for the {kind} schedule"
        )

    def lr_at(count: jax.typing.ArrayLike) -> jax.Array:
        count = jnp.asarray(count, jnp.float32)
        warm = jnp.minimum((count + 1) / max(warmup, 1), 1.0)
        done = jnp.clip((count - warmup) / max(total - warmup, 1), 0.0, 1.0)
        left = {
            "constant": jnp.float32(1.0),
            "linear": 1.0 - done,
            "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * done)),
        }[kind]
        return lr * warm * (end + (1.0 - end) * left)

    return lr_at


def _choice(setting: str, got: tp.Any, accepted: tp.Iterable[str]) -> None:
    if got not in accepted:
        raise ValueError(f"optim.{setting}: got {got!r}, expected one of {', '.join(accepted)}")


def _positive_or_zero(settings: dict[str, tp.Any], *names: str) -> None:
    for name in names:
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise ValueError(f"optim.{name}: got {value!r}, expected a number >= 0")
