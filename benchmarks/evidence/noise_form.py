"""Claim 1c: a grader that looks at the form turns the update; rates by form turn it back.

The grader accepts four in ten of the wrong replies that end in time, and rejects six in ten of
the right ones that the length limit cut: it pays for ending early. Registered: stratified (by
form, rates estimated from appeals) minus uncorrected is above 0; a correction with one pair of
rates (backward, forward) is not expected to help. Cai et al., arXiv 2510.00915; by form: ours.
Baseline: uncorrected.
"""

import pathlib
import runpy

prompts = runpy.run_path(str(pathlib.Path(__file__).with_name("noise_prompts.py")))
STRATA = dict(fn="strata.by_edges", edges=(0.5,), reads=dict(column="truncated"))
INJECT = dict(fn="noise.inject", unit="sample", fp_rate=(0.4, 0.0), fn_rate=(0.0, 0.6))
MEAN = dict(fp_rate=0.2, fn_rate=0.3)
CLAIM = "rates by form correct a grader that looks at the form"
EXPECTED = {"stratified": "above"}


def get_sweep(arg: str | None = None) -> dict:
    """arg: runlocal takes the toy model."""
    return dict(
        config="benchmarks/evidence/job.py" + (f":{arg}" if arg else ""),
        settings=prompts["arms"](INJECT, STRATA, MEAN),
        baseline="uncorrected",
        seeds=(0, 1, 2),
    )
