"""Claim 1b: noise that differs by task starves a task; rates by task feed it.

One-digit products and sums, each prompt of a step of either kind by a coin; the verifier of the
products misses seven in ten of their right answers, that of the sums never errs. Cai et al., arXiv
2510.00915; rates by task: ours. Without a correction a group of products counts 0.3 of what it
would. Arms: uncorrected; backward and forward with the mean of both tasks' rates; appeals_forward
with one pair for all, from appeals of half of the products (a second verifier that never errs);
stratified, backward with rates by task from the same appeals; known, the same with the true rates.
Quantity: pass@1 of held-out products, mean over the run. Registered: stratified and known minus
uncorrected are above 0. (Strata by prompt, registered first with the mean over all prompts, were
changed before any run: rates of 0.5 and 0.4 leave a stratum whose corrected rewards are nearly
noise alone, and swapped operands stood in both strata.) Baseline: uncorrected.
"""

from benchmarks.evidence import arms

CLAIM = "rates by task correct a verifier that is harder on one task"
QUANTITY = "pass@1 of held-out products, mean over the run"
EXPECTED = {"stratified": "above", "known": "above"}
CLEAN = "clean"
FOUND = (
    "stratum 0 are the products, stratum 1 the sums. There is little to win: uncorrected is "
    "within 0.09 of clean, probably since a group of eight has a right product that is heard in "
    "most steps, and AdamW undoes the scale of each. Rates by task are estimated as they are "
    "(0.69 missed products for 0.7). appeals_forward takes one rate for all rows, from appeals "
    "of products alone: 0.68, where a quarter to a third of all right rows are missed. forward "
    "with the mean of both rates costs more still; its coefficients r - (1 - fn) are not "
    "centred, so that groups in which all were called wrong are pushed down. What would decide "
    "the claim: rates at which clean and uncorrected lie apart. GRPO with its std was not run "
    "under these rates."
)
RATES = dict(fp_rate=(0.0, 0.0), fn_rate=(0.7, 0.0))  # of products, of sums
INJECT = dict(fn="noise.inject", unit="sample", **RATES)
MEAN = dict(fp_rate=0.0, fn_rate=0.35)
STRATA = dict(fn="strata.by_edges", edges=(), reads=dict(column="verdict/products"))
LODGE = dict(
    fn="appeals.lodge", probability=0.5, positives=True, reads=dict(second="verdict/products")
)
TASKS = ("products", "sums")


def units(run: dict) -> dict[str, float]:
    """{held-out product: share of right samples, mean over the run}."""
    return {p: x for p, x in arms.over_the_run(run).items() if p.startswith("products:")}


def get_sweep(arg: str | None = None) -> dict:
    """arg: runlocal takes the toy model."""
    plain = dict(system="") if arg else {}
    job = {
        "tasks": tuple(dict(fn=f"arithmetic.{t}", verifier=t, **plain) for t in TASKS),
        "verifiers": tuple(dict(fn="number.number", name=t, weight=1.0) for t in TASKS),
    }
    noisy = job | {"shaping": (STRATA, INJECT)}
    both = dict(fn="appeals.stratified_both", decay=0.95, shown=2)
    return dict(
        config="benchmarks/evidence/job.py" + (f":{arg}" if arg else ""),
        settings=[
            ("clean", job),
            ("uncorrected", noisy),
            ("backward", arms.corrected(noisy, "backward", **MEAN)),
            ("forward", arms.corrected(noisy, "forward", **MEAN)),
            ("appeals_forward", arms.corrected(noisy, "forward", LODGE, both | dict(shrink=1e6))),
            ("stratified", arms.corrected(noisy, "backward", LODGE, both | dict(shrink=0.0))),
            ("known", arms.corrected(noisy, "backward", dict(fn="noise.known_rates", **RATES))),
        ],
        baseline="uncorrected",
        seeds=arms.seeds("noise_prompts"),
    )
