"""What values a number in a config may have, asked when its method is bound.

Inside a method a number is traced, so that a comparison there cannot raise; and eps=-1 trains as
quietly as 1e-6 does.  NaN is refused for every setting.  A function of your own says what else it
refuses: fn.ranges = {"quantile": "(0, 1)"}, [ and ] for bounds that are allowed.
"""

from __future__ import annotations

import math
import typing as tp

from rlpt.settings import ConfigError, suggest

_NOT_NEGATIVE, _POSITIVE, _SHARE, _COUNT = "[0, inf]", "(0, inf]", "[0, 1]", "[1, inf]"

# Of rlpt's own functions: a setting's name means the same in all of them, but for those that are
# named with their module, or with module and function, as in configs.
RANGES = {
    **dict.fromkeys(
        ("min_std", "cap_low", "cap_high", "budget", "shrink", "shown", "remember", "references",
         "limit", "lookahead", "cooldown", "desirable", "undesirable", "tolerance"),
        _NOT_NEGATIVE,
    ),
    **dict.fromkeys(
        ("fp_rate", "fn_rate", "gamma", "lam", "decay", "probability", "eval_fraction",
         "false_positive", "true_positive", "max_rate", "tolerate", "ddof"),
        _SHARE,
    ),
    **dict.fromkeys(
        ("prompts", "group", "group_blocks", "children", "first", "expand", "max_batches",
         "attempts", "breaker", "concurrency", "max_tokens", "digits", "terms", "cells", "chunk",
         "stride", "window", "collect", "width", "tries", "most", "answer_tokens", "memory_mb",
         "full_count", "ngram", "max_length", "cache"),
        _COUNT,
    ),
    **dict.fromkeys(
        ("eps", "horizon", "timeout", "deadline", "seconds", "kappa", "clip", "length",
         "noise.scale"),
        _POSITIVE,
    ),
    **dict.fromkeys(("eps_c", "fraction"), "(0, 1]"),
    **dict.fromkeys(
        ("surrogates.low", "surrogates.high", "corrections.low", "corrections.high",
         "corrections.cap", "corrections.floor"),
        _NOT_NEGATIVE,
    ),
    **dict.fromkeys(("consensus.empo.low", "consensus.empo.high"), _SHARE),
    **dict.fromkeys(
        ("penalties.pacs.beta", "preference.dpo.beta", "preference.ipo.beta",
         "preference.implicit_bce.beta", "preference.kto.beta", "preference.simpo.beta",
         "process.pure.temperature", "returns.minimum.temperature", "off_policy.shaped.gamma",
         "controllers.recap.temperature", "controllers.adaptive_kl.target",
         "group.stable_reinforce.bound", "surrogates.stable_reinforce.floor",
         "surrogates.stable_reinforce.ceiling"),
        _POSITIVE,
    ),
    **dict.fromkeys(
        ("group.canon.alpha", "influence.thr.keep", "pairwise.brpo.bound", "hidden.verl.rate"),
        "(0, 1]",
    ),
    **dict.fromkeys(("preference.dpo.smoothing", "preference.bradley_terry.smoothing"), "[0, 0.5)"),
    "preference.simpo.gamma": _NOT_NEGATIVE,
    "hidden.verl.kappa": _COUNT,
    "surrogates.dual_clip.c": "(1, inf]",
    "likelihood.std_filter.beta": _NOT_NEGATIVE,
    "rubrics.gated.share": "(0, 1)",
    "verification.self_mixed.share": _SHARE,
    "aggregate.constant_length.length": _COUNT,
}  # fmt: skip

# Of the settings of a run that nothing else looks at before it begins.
OF_RUN = {
    "seed": "[0, 4294967295]", "eval.temperature": "(0, inf)", "pool.deadline": _POSITIVE,
    "pool.batch_deadline": _POSITIVE, "model.lora.alpha": "(0, inf)",
}  # fmt: skip
OF_OPTIM = {"b1": "[0, 1)", "b2": "[0, 1)", "eps": "(0, inf)", "end_lr_fraction": "[0, inf)"}
OF_ENTRIES = {
    "verifiers": {"weight": "(-inf, inf)"}, "tasks": {"weight": "(0, inf)"},
    "loss": {"coef": "(-inf, inf)"},
}  # fmt: skip
# Bounds of one and the same quantity; of the surrogates they are widths to both sides of 1.
_PAIRS = (("low", "high"), ("cap_low", "cap_high"), ("floor", "ceiling"))
_WIDTHS = ("surrogates", "off_policy")


def is_ours(fn: tp.Any) -> bool:
    """Whether a function is rlpt's own, not the user's."""
    return str(getattr(fn, "__module__", "")).startswith("rlpt.")


def within(value: float, interval: str) -> bool:
    """Whether a number lies in an interval such as "[0, 1)"; NaN lies in none.

    Raises: ConfigError for what is no interval.
    """
    try:
        low, high = (float(x) for x in interval.strip()[1:-1].split(","))
        opens, closes = {"[": True, "(": False}[interval[0]], {"]": True, ")": False}[interval[-1]]
    except (ValueError, KeyError, IndexError) as e:
        raise ConfigError(f"ranges: got {interval!r}, expected such as '[0, 1)'") from e
    return (low <= value if opens else low < value) and (value <= high if closes else value < high)


def check(where: str, name: str, fn: tp.Any, settings: tp.Mapping[str, tp.Any]) -> None:
    """Looks at the numbers of a method.

    Args:
      where: for the message.  name: 'module.function' of the config.  fn: what it stands for.
      settings: as bound: numbers, schedules (whose both ends are looked at) and anything else.
    Raises: ConfigError naming the setting, what it got and the interval.
    """
    own = dict(getattr(fn, "ranges", {}))
    if foreign := sorted(set(own) - set(settings)):
        known = [k for k in settings if k not in own]
        raise ConfigError(
            f"{where}: its ranges name {foreign[0]!r}, which is no setting of it."
            + suggest(foreign[0], known)
        )
    ours = is_ours(fn)
    for key, value in settings.items():
        interval = own.get(key)
        if ours:
            family = name.partition(".")[0]
            found = (RANGES.get(k) for k in (f"{name}.{key}", f"{family}.{key}", key))
            interval = next((x for x in found if x), interval)
        ends = (value.init, value.end) if hasattr(value, "restarts") else (value,)
        for x in ends:
            if isinstance(x, bool) or not isinstance(x, int | float):
                continue
            if math.isnan(x) or (interval and not within(x, interval)):
                raise ConfigError(
                    f"{where}.{key}: got {x}, expected a number"
                    + f" in {interval}" * bool(interval)
                )
    for low, high in _PAIRS if ours and name.partition(".")[0] not in _WIDTHS else ():
        a, b = settings.get(low), settings.get(high)
        if isinstance(a, int | float) and isinstance(b, int | float) and a > b:
            raise ConfigError(f"{where}: got {low}={a} above {high}={b}, expected it below")


def check_run(config: tp.Any) -> None:
    """Looks at the numbers of a run that belong to no method.

    Raises: ConfigError naming the setting, what it got and the interval.
    """
    found: list[tuple[str, tp.Any, str]] = []
    for name, interval in OF_RUN.items():
        value = config
        for part in name.split("."):
            value = value[part]
        found.append((name, value, interval))
    optims = {"optim": config.optim}
    optims |= {f"learners.{k}.optim": v.get("optim", {}) for k, v in config.learners.items()}
    for where, optim in optims.items():
        found += [(f"{where}.{k}", optim.get(k), own) for k, own in OF_OPTIM.items()]
    for where, intervals in OF_ENTRIES.items():
        for i, entry in enumerate(config[where]):
            given = entry if hasattr(entry, "keys") else {}
            found += [(f"{where}[{i}].{k}", given.get(k), own) for k, own in intervals.items()]
    for where, value, interval in found:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and not within(value, interval):
            raise ConfigError(f"config.{where}: got {value}, expected a number in {interval}")
