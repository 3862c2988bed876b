"""Claim 4a: training survives flipped rewards, and reasoning patterns alone teach something.

Lv et al., "The Climb Carves Wisdom Deeper Than the Summit", arXiv 2505.22653 (40 % flips: 72 %
against 75 %; the reasoning-pattern reward alone above 70 %). One-digit products; flips of both
kinds by row or, as in their code, by whole groups. Quantity: held-out pass@1, mean over the
evaluations after 10, 20 and 30 steps. Registered: rows of 10 and 20 % and groups of 10 and 20 %
are no different from clean, and so are 40 %, as they report; patterns alone (12-token replies
hardly hold any) is reported. Their calibration: flips_calibrated. Baseline: clean.
"""

from benchmarks.evidence import arms

CLAIM = "training survives flipped rewards"
KINDS = [(unit, share) for unit in ("sample", "group") for share in (10, 20, 40)]
EXPECTED = {f"{unit}_{share}": "same" for unit, share in KINDS}
CLEAN = "clean"
QUANTITY = "held-out pass@1, mean over the run"
units = arms.over_the_run
FOUND = (
    "10 % flipped rows are further below clean than 20 %, which says how far one seed carries, "
    "also for the verdict on group_10. Learning goes on at 40 %, which leave a fifth of the "
    "signal, slowly: the paper's robustness may be that of longer runs. What would decide: 150 "
    "steps, and seeds. Patterns alone teach to say 'To solve this problem, we need to find' and "
    "to end there: 12 tokens have no room for phrases and an answer."
)
PATTERNS = dict(fn="reasoning.patterns", name="reasoning", weight=0.0)


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    base = dict(advantage=(dict(fn="group.rloo"),), eval__every=10, **arms.FAST)
    found = {"clean": arms.arm("small_tasks", "products", **base)}
    for unit, share in KINDS:
        flips = dict(fn="noise.inject", fp_rate=share / 100, fn_rate=share / 100, unit=unit)
        shaping = (flips,)
        found[f"{unit}_{share}"] = arms.arm("small_tasks", "products", shaping=shaping, **base)
    number = found["clean"]["verifiers"]
    patterns = dict(verifiers=(*number, PATTERNS), **base)
    found["patterns"] = arms.arm(
        "small_tasks", "products", **patterns,
        shaping=(dict(fn="combine.weighted_sum", weights=dict(reasoning=1.0)),),
    )  # fmt: skip
    return arms.sweep(arg, found, "clean")
