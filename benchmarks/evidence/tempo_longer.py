"""Claim 2 on longer chains, with time to learn: TEMPO beats GRPO at equal samples.

Tran, Yao and Yu, arXiv 2509.18314. Registered after tempo_three_sums, where in 45 steps GRPO gained
0.16 of the 0.20 that a claim has to have, so that its +0.041 [+0.007, +0.080] does not count. The
same task, model and two of its arms with 60 steps, evaluated after every 15, in seeds that had no
run before: 5, 6 and 7, and no more than these. The forked arms are left out: forking itself cost
0.07 there and a third of the seconds. Registered: tempo minus grpo, in the mean over the run, is
above 0; the end of the run is reported. Baseline: grpo, with the same standardisation.
"""

from benchmarks.evidence import arms, tempo

CLAIM = "on sums of three numbers TEMPO is above GRPO over 60 steps at equal samples"
QUANTITY = tempo.QUANTITY
TIMED = True
EXPECTED = {"tempo": "above"}
REPORTED = [("tempo", "pass@1")]
CLEAN = "grpo"
units = arms.over_the_run


def get_sweep(arg: str | None = None) -> dict:
    """arg: runlocal takes the toy model."""
    found = tempo.get_sweep(arg or "three_sums")
    more = {} if arg else {"steps": 60, "eval.every": 15}
    plain = [(name, own | more) for name, own in found["settings"] if name in ("grpo", "tempo")]
    return found | dict(settings=plain, seeds=arms.seeds("tempo_longer"))
