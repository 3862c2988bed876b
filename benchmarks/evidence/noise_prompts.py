"""Claim 1b: noise that differs by prompt turns the update; rates by stratum turn it back.

Two strata of prompts, by id: in one the verifier errs on 2 % of the rows, in the other it accepts
half of the wrong answers and rejects four in ten of the right ones. Cai et al., arXiv 2510.00915,
have the corrections; rates by stratum are ours. Registered: stratified (rates estimated from
appeals of one row in four, by stratum) minus uncorrected is above 0. Estimated against true rates
over the run are in the ledger. Arms know, where they know rates, the mean ones. Baseline:
uncorrected.
"""

FP, FN = (0.02, 0.5), (0.02, 0.4)
MEAN = dict(fp_rate=0.26, fn_rate=0.21)
STRATA = dict(fn="strata.by_id", count=2, reads=dict(column="prompt_id"))
INJECT = dict(fn="noise.inject", unit="sample", fp_rate=FP, fn_rate=FN)
LODGE = dict(fn="appeals.lodge", probability=0.25, reads=dict(second="verdict/number"))
CONTROL = dict(fn="noise.control", scale=1.0)
CLAIM = "rates by stratum correct noise that differs by prompt"
EXPECTED = {"stratified": "above"}


def arms(inject: dict, strata: dict, mean: dict) -> list:
    """(name, overrides) of all seven, for a channel by stratum."""
    noise = (strata, inject)
    own = dict(**CONTROL, writes="control_advantages")

    def corrected(name: str, *shaping: dict, **rates: float) -> dict:
        fix = dict(fn=f"noise.{name}", scale=1.0, **rates)
        return {"shaping": (*noise, *shaping), "advantage": (own, fix, "noise.audit")}

    pooled = dict(fn="appeals.pooled", probability=0.25, decay=0.95)
    both = LODGE | dict(positives=True)
    by_stratum = dict(fn="appeals.stratified_both", decay=0.95, shrink=20.0, shown=2)
    return [
        ("clean", {}),
        ("uncorrected", {"shaping": noise}),
        ("control", {"shaping": noise, "advantage": (own, CONTROL, "noise.audit")}),
        ("backward", corrected("backward", **mean)),
        ("forward", corrected("forward", **mean)),
        ("appeals_forward", corrected("forward", LODGE, pooled)),
        ("stratified", corrected("backward", both, by_stratum)),
    ]


def get_sweep(arg: str | None = None) -> dict:
    """arg: runlocal takes the toy model."""
    return dict(
        config="benchmarks/evidence/job.py" + (f":{arg}" if arg else ""),
        settings=arms(INJECT, STRATA, MEAN),
        baseline="uncorrected",
        seeds=(0, 1, 2),
    )
