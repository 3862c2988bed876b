"""Claim 1c: a grader that looks at the form pays for the wrong form; rates by form mend it.

Products of 2 to 9. The grader accepts seven in ten of the wrong replies whose last number has one
digit (a known wrong pattern), and rejects four in ten of the right ones whose last number has
more: one digit, always wrong or nearly so, pays 0.7, and a right answer 0.6. Cai et al., arXiv
2510.00915; rates by form: ours. Arms: uncorrected; backward and forward with the one pair of rates
that is the mean of both forms; appeals_forward with one pair estimated from appeals of half of the
rows (a second verifier that never errs); stratified, backward with rates by form from the same
appeals; known, the same with the true rates. Registered: stratified and known minus uncorrected are
above 0; one pair of rates is not expected to help. (Rates by form are not shrunk to those of all
rows, changed before any run: of replies with one digit hardly any is right, so that their misses
would be taken from the others, which with their 0.7 leaves no channel.) Baseline: uncorrected.
"""

from benchmarks.evidence import arms

CLAIM = "rates by form correct a grader that looks at the form"
QUANTITY = "held-out pass@1, mean over the run"
EXPECTED = {"stratified": "above", "known": "above"}
CLEAN = "clean"
FOUND = (
    "stratum 0 are replies whose last number has more than one digit, stratum 1 those of one "
    "digit. Both corrections by form are above uncorrected at the end in four seeds of five "
    "(known in all five), but stratified of seed 4 stays at the wrong form, with misses "
    "estimated at 0.28 for 0.4 from few right replies, and the mean over the run counts the "
    "first steps, in which an unbiased correction is the noisier one (a reply of one digit gets "
    "1 or -2.33 with the true rates, and right replies are one in twenty). What would decide: "
    "the end of a longer run, more rows a step, or a forward form by stratum. The hacking alarm "
    "is silent for uncorrected in all seeds, although two replies of three are of the wrong form "
    "that is paid: it needs a held-out score that falls, and this one rises, from 0.05 to 0.23 in "
    "the mean; it rings in backward of seed 1 and in appeals_forward of seeds 1 and "
    "4. GRPO with its std was not run under this noise."
)
INJECT = dict(fn="noise.inject", unit="sample", fp_rate=(0.0, 0.7), fn_rate=(0.4, 0.0))
MEAN = dict(fp_rate=0.35, fn_rate=0.2)
FORM = dict(
    fn="pattern.regex", name="one_digit", pattern=r"(?s)^(.*\D)?[0-9]\D*$", weight=0.0
)  # fmt: skip
STRATA = dict(fn="strata.by_edges", edges=(0.5,), reads=dict(column="verdict/one_digit"))
LODGE = dict(
    fn="appeals.lodge", probability=0.5, positives=True, reads=dict(second="verdict/number")
)
units = arms.over_the_run


def get_sweep(arg: str | None = None) -> dict:
    """arg: runlocal takes the toy model."""
    number = dict(fn="number.number", name="number", weight=1.0)
    job = {"verifiers": (number, FORM)}
    if not arg:
        job |= {"tasks": (dict(fn="arithmetic.products", low=2, high=9),)}
    noisy = job | {"shaping": (STRATA, INJECT)}
    rates = dict(fn="appeals.stratified_both", decay=0.95, shown=2)
    true = {k: INJECT[k] for k in ("fp_rate", "fn_rate")}
    return dict(
        config="benchmarks/evidence/job.py" + (f":{arg}" if arg else ""),
        settings=[
            ("clean", job),
            ("uncorrected", noisy),
            ("backward", arms.corrected(noisy, "backward", **MEAN)),
            ("forward", arms.corrected(noisy, "forward", **MEAN)),
            ("appeals_forward", arms.corrected(noisy, "forward", LODGE, rates | dict(shrink=1e6))),
            ("stratified", arms.corrected(noisy, "backward", LODGE, rates | dict(shrink=0.0))),
            ("known", arms.corrected(noisy, "backward", dict(fn="noise.known_rates", **true))),
        ],
        baseline="uncorrected",
        seeds=arms.seeds("noise_form"),
    )
