"""What the parts of a config do to each other, found by trying them on small random tables.

Does a correction for noise reach the advantages?  The corrections for a noisy
verifier are affine in a binary reward, and what an affine map does is lost where
a later step centres and divides by a standard deviation.  Whether it is lost
depends on all of the chain and on where the rates differ, so this is found by
trying: the chain runs on small random tables, once as it is and once with the
correction taken out (all rates 0), and the two must not give the same advantages.

Is the value of a loss of your own that of each block alone, and none where there is no advantage?
Is a column that a function of your own writes read by anything, under that name?

A function that corrects for noise has the attribute `corrects_noise = True`,
takes its rates as the settings fp_rate, fn_rate and the columns fp_rates,
fn_rates, or some of them, and returns an array; rates of 0 mean no correction.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np

from rlpt import columns as columns_lib
from rlpt.chain import Chain
from rlpt.columns import Table
from rlpt.config import GIVEN, Bound, ConfigError, suggest
from rlpt.learner import Learner, Term

# Tables one after the other, since estimates of rates have a memory; the last at the end of all
# schedules.
STEPS = (0, 1, 2, 2**30)
_SETTINGS, _COLUMNS = ("fp_rate", "fn_rate"), ("fp_rates", "fn_rates")
_EFFECT = "metrics/probe_effect"


def check_noise_correction(chain: Chain, table: Table) -> None:
    """Raises ConfigError if a step that corrects for noise leaves the advantages as they were.

    The same means: to within what the eps of the normalisers can do.  Advantages that a
    correction multiplies by a constant, as `noise.backward` with one channel does where nothing
    normalises them, are not the same.  Nothing is concluded about a step whose rates are 0.

    Args:
      chain: of the run.
      table: the columns that a rollout makes, as arrays or jax.ShapeDtypeStruct: shapes and types
        are read, values are not.
    """
    for i, (place, method) in enumerate(chain.methods):
        if not getattr(method.fn, "corrects_noise", False) or not _is_cancelled(chain, i, table):
            continue
        raise ConfigError(
            f"{method.name} (config.{place.partition('/')[0]}) corrects for a noisy verifier, but "
            f"once {_undone_by(chain, i, table)} has run the advantages are the same without it: "
            "centring and dividing by a standard deviation remove whatever is affine in the "
            "reward, and centring alone removes a shift. Correct in the advantages instead, with "
            "dict(fn='noise.backward', ...) or dict(fn='noise.forward', ...) as the last estimator "
            "of config.advantage: their scale is fixed. Or let an estimator without a standard "
            "deviation, such as group.rloo, follow rewards noise.backward. Where the rates are the "
            "same for all rows, an uncorrected run does as well."
        )


def noting(method: Bound, wrote: dict[str, set[str]]) -> Bound:
    """The method, noting what it writes where the names are the user's: {method: columns}."""
    if method.writes:
        wrote.setdefault(method.name, set()).add(method.writes)
    if not method.foreign:
        return method

    def call(**given: tp.Any) -> tp.Any:
        out = method.fn(**given)
        columns = out[0] if method.init and isinstance(out, tuple) and out else out
        if isinstance(columns, dict):
            wrote.setdefault(method.name, set()).update(columns)
        return out

    return dataclasses.replace(method, fn=call)


def check_names(
    whole: Table,
    methods: tp.Iterable[Bound],
    wrote: dict[str, set[str]],
    reads: set[str],
) -> None:
    """Looks for columns that are misspelt where they are written, or where None is the default.

    Args:
      whole: all columns of a step.  methods: of all stages.  wrote: of `noting`.  reads: all names
        that something asks for.
    """
    known = {*columns_lib.LEGEND, *whole, *(k.partition("/")[0] for k in whole)}
    for method in (m for m in methods if m.foreign):
        for parameter, column, required in method.columns:
            if required or column in known or column in GIVEN:
                continue
            if near := difflib.get_close_matches(column, sorted(known), 1, 0.8):
                raise ConfigError(
                    f"{method.name} asks for the column {parameter!r}, which nothing makes, so "
                    f"that it is always None. Did you mean {near[0]!r}? Else give it another name"
                )
    asked = {*columns_lib.LEGEND, *reads}
    for writer, names in wrote.items():
        columns = [n for n in names if n.partition("/")[0] not in ("metrics", "verdict")]
        unread = [n for n in columns if not {n, n.partition("/")[0]} & asked]
        some = len(unread) < len(columns)  # it may offer more than this config reads
        for name in unread:
            if not some or difflib.get_close_matches(name, sorted(asked), 1, 0.8):
                raise ConfigError(
                    f"{writer} writes the column {name!r}, which nothing reads."
                    + suggest(name, sorted(asked))
                    + f" For the log, write the scalar metrics/{name}."
                )


def check_shapes(learner: Learner, table: Table) -> None:
    """Evaluates the terms of a loss on abstract columns and outputs.

    Raises: ConfigError for a term whose value or weights are not [P,G,T].
    """
    logp = table["sampler_logp"]
    given = {"hidden": jnp.zeros((*logp.shape, learner.model.d_model)), learner.output: logp}
    if learner.output == "logp":
        given |= {"entropy": logp, "log_ratio": logp}
        table = {**table, "old_logp": logp}
    numbers = learner.numbers(0)
    weights = learner.term_weights(table, numbers)
    for term, w, n in zip(learner.terms, weights, numbers, strict=True):
        value, _ = term.evaluate(table, given, n)
        if value.shape != w.shape or value.shape != logp.shape:
            raise ConfigError(
                f"loss term {term.name!r}: value {value.shape} and weights "
                f"{w.shape}, expected [P,G,T] = {logp.shape}"
            )


def check_terms(learner: Learner, table: Table, group_blocks: int = 1) -> None:
    """Tries what a learner takes for granted of losses, on those that are not rlpt's own.

    The value of a term in a block is that of the block alone, since micro-batches cut blocks apart;
    that of a row is of the row alone where groups span blocks; and a block whose advantages are all
    0 has no gradient by a surrogate that reads them, since such blocks are skipped.

    Args:
      learner: whose terms are tried.
      table: all columns of a step, as for `check_noise_correction`.
    Raises: ConfigError for a term of which that is not so and where it matters.
    """
    cuts = 0 < learner.micro_blocks < len(table["group"]) // learner.minibatches
    skips = learner.skip_zero_advantage and all(t.reads_advantages for t in learner.terms)
    for term, numbers in zip(learner.terms, learner.numbers(0), strict=True):
        if not any(b.foreign for b in term.bound):
            continue
        rows, given = _for_terms(learner, table)
        whole = _value(term, rows, given, numbers)
        live = rows["loss_mask"] & rows["row_mask"][..., None]
        if cuts and not _same(whole, _in_parts(term, rows, given, numbers, 0), live):
            raise ConfigError(
                f"loss term {term.name!r}: its value in a block depends on the other blocks, from "
                f"which micro_blocks={learner.micro_blocks} cuts it off. Let a scorer or an entry "
                "of config.advantage write what it needs of the batch as a column, or use "
                "micro_blocks=0"
            )
        if group_blocks > 1 and not _same(whole, _in_parts(term, rows, given, numbers, 1), live):
            raise ConfigError(
                f"loss term {term.name!r} couples the rows of a group, which have to be in one "
                f"block: got rollout.group_blocks={group_blocks}, expected 1 with a larger "
                "rollout.group"
            )
        if skips and _moves_without_advantage(term, rows, given, numbers):
            raise ConfigError(
                f"loss term {term.name!r} has a gradient where the advantages are 0, and blocks in "
                "which they all are would be left out; set config.learner.skip_zero_advantage=False"
            )


def _for_terms(learner: Learner, table: Table) -> tuple[Table, Table]:
    """Random columns of four blocks, and random outputs of a model."""
    few = {k: v for k, v in table.items() if not k.startswith("metrics/")}
    few = {k: jax.ShapeDtypeStruct((min(len(v), 4), *v.shape[1:]), v.dtype) for k, v in few.items()}
    rows = {k: jnp.asarray(v) for k, v in _random(few, 1, 0).items()}
    draws = jax.random.split(jax.random.key(0), 3)
    old = rows["old_logp"]
    given = {"hidden": jax.random.normal(draws[0], (*old.shape, 4))}
    if learner.output == "value":
        return rows, given | {"value": jax.random.normal(draws[1], old.shape)}
    logp = old - 0.1 * jax.random.uniform(draws[1], old.shape)
    entropy = jax.random.uniform(draws[2], old.shape)
    return rows, given | {"logp": logp, "entropy": entropy, "log_ratio": logp - old}


def _value(term: Term, rows: Table, given: Table, numbers: tp.Any) -> jax.Array:
    return term.evaluate(rows, given, numbers)[0]


def _moves_without_advantage(term: Term, rows: Table, given: Table, numbers: tp.Any) -> bool:
    still = {**rows, "advantages": jnp.zeros_like(rows["advantages"])}
    slopes = jax.grad(lambda x: _value(term, still, x, numbers).sum())(given)
    return any(bool(jnp.any(x != 0)) for x in slopes.values())


def _in_parts(term: Term, rows: Table, given: Table, numbers: tp.Any, axis: int) -> jax.Array:
    """The value [P,G,T] of each block (axis 0) or row (axis 1) by itself."""
    shape = given["hidden"].shape[:2]

    def part(table: Table, i: int) -> Table:
        cut = (slice(None), slice(i, i + 1)) if axis else (slice(i, i + 1),)
        return {
            k: v[cut] if v.shape[: axis + 1] == shape[: axis + 1] else v for k, v in table.items()
        }

    parts = [_value(term, part(rows, i), part(given, i), numbers) for i in range(shape[axis])]
    return jnp.concatenate(parts, axis)


def _same(a: jax.Array, b: jax.Array, live: jax.Array) -> bool:
    at = np.asarray(live)
    return np.allclose(np.asarray(a)[at], np.asarray(b)[at], rtol=1e-3, atol=1e-5, equal_nan=True)


def _writes(place: str, method: Bound) -> str:
    return method.writes or ("advantages" if place.startswith("advantage/") else "rewards")


def _undone_by(chain: Chain, index: int, table: Table) -> str:
    """The first estimator behind the method at `index` after which the correction is lost."""
    for end in range(max(1, index - len(chain.shaping) + 2), len(chain.credit)):
        part = dataclasses.replace(chain, credit=chain.credit[:end])
        made = any(m.writes in ("", "advantages") for m in part.credit)
        if made and _is_cancelled(part, index, table):
            return part.credit[-1].name
    return chain.credit[-1].name


def _is_cancelled(chain: Chain, index: int, table: Table) -> bool:
    """Whether the advantages are those without the correction, wherever it did something."""
    if _writes(*chain.methods[index]) not in ("rewards", "advantages"):
        if not _is_used(chain, index, table):
            return False  # kept beside them, for the log
    plain = _without_correction(chain, index)
    tolerance = _tolerance(chain)

    @jax.jit
    def compare(rows: Table, numbers: tp.Any, states: tp.Any, step: jax.Array) -> tp.Any:
        key = jax.random.key(step)
        new, state = chain(rows, states[0], numbers, key, step)
        old, plain_state = plain(rows, states[1], numbers, key, step)
        a, b = new["advantages"], old["advantages"]
        scale = jnp.maximum(jnp.max(jnp.abs(a)), jnp.max(jnp.abs(b)))
        same = jnp.max(jnp.abs(a - b)) <= tolerance * scale  # NaN: not the same
        return same, (old[_EFFECT] > 0) & (scale > 0), (state, plain_state)

    states, verdicts = (chain.init(), plain.init()), []
    for step in STEPS:
        rows = _random(table, chain.group_blocks, step)
        same, effective, states = compare(rows, chain.numbers(step), states, jnp.int32(step))
        if effective:
            verdicts.append(bool(same))
    return bool(verdicts) and all(verdicts)


def _without_correction(chain: Chain, index: int) -> Chain:
    """The chain with all rates 0 in the method at `index`, and how much that changed its result."""
    place, method = chain.methods[index]
    writes = _writes(place, method)

    def uncorrected(**given: tp.Any) -> Table:
        accepted = inspect.signature(method.fn).parameters
        rest = {k: v for k, v in given.items() if k not in _COLUMNS}
        out = method.fn(**rest | {k: 0.0 for k in _SETTINGS if k in accepted})
        effect = jnp.max(jnp.abs(method.fn(**given) - out))
        return {writes: out, _EFFECT: effect}

    return _with(chain, index, uncorrected)


def _is_used(chain: Chain, index: int, table: Table) -> bool:
    """Whether the advantages depend on what the method at `index` writes."""
    writes, method = _writes(*chain.methods[index]), chain.methods[index][1]

    def anything(**given: tp.Any) -> Table:
        out = method.fn(**given)
        return {writes: jax.random.normal(jax.random.key(1), out.shape)}

    def advantages(of: Chain) -> jax.Array:
        rows, step = _random(table, chain.group_blocks, 0), STEPS[-1]
        run = jax.jit(lambda t, s, n: of(t, s, n, jax.random.key(0), jnp.int32(step)))
        return run(rows, of.init(), of.numbers(step))[0]["advantages"]

    return not bool(jnp.all(advantages(chain) == advantages(_with(chain, index, anything))))


def _with(chain: Chain, index: int, fn: tp.Callable[..., Table]) -> Chain:
    """The chain with another function, which writes columns by name, in the place `index`."""
    credit = chain.methods[index][0].startswith("advantage/")
    methods = list(chain.credit if credit else chain.shaping)
    at = index - (len(chain.shaping) if credit else 0)
    methods[at] = dataclasses.replace(methods[at], fn=fn, writes="")
    if credit:
        return dataclasses.replace(chain, credit=tuple(methods))
    return dataclasses.replace(chain, shaping=tuple(methods))


def _tolerance(chain: Chain) -> float:
    """How much of the largest advantage rounding and the eps of the normalisers can change.

    A correction multiplies a group's std s by 1/c, so eps acts as c eps does: the advantages
    change by the factor 1 + eps (1 - c) / (c s) at most, with c >= 0.1 and s about 0.3 or more.
    """
    return min(3e-5 + 30 * max((_eps(m) for m in chain.credit), default=0.0), 0.05)


def _eps(method: Bound) -> float:
    parameter = inspect.signature(method.fn).parameters.get("eps")
    return 0.0 if parameter is None else method.numbers_at(0).get("eps", parameter.default or 0.0)


def _random(table: Table, group_blocks: int, seed: int) -> Table:
    """A table of these shapes: full rows, random verdicts of 0 and 1 and further masks, log-probs
    below 0."""
    rng = np.random.default_rng(seed)
    out: Table = {}
    logp = {k: table["sampler_logp"] for k in ("old_logp", "ref_logp") if "sampler_logp" in table}
    for name, column in (logp | table).items():
        draw = rng.random(column.shape)
        if name in columns_lib.LEGEND and name.endswith("_mask"):
            value = np.ones(column.shape)
        elif name == "group":
            value = np.arange(column.size) // group_blocks
        elif name in ("prompt_id", "row_id"):
            value = np.arange(column.size).reshape(column.shape)
        elif column.dtype == bool or name.startswith("verdict/"):
            value = draw < 0.5
        elif jnp.issubdtype(column.dtype, jnp.integer):
            value = draw * 4
        else:
            value = -draw if name.endswith("logp") else draw
        out[name] = value.astype(column.dtype)
    return out
