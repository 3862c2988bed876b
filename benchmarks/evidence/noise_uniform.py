"""Claim 1a: uniform noise scales the update and does not turn it.

Cai et al., arXiv 2510.00915: with one channel for all rows (here false positives 0.2, false
negatives 0.3, so that half of the signal is left) the expected update keeps its direction, and
correcting the rewards changes its scale alone, which AdamW undoes. Registered: backward, forward
and grpo minus uncorrected are no difference; clean minus uncorrected, the price of the noise, is
reported. GRPO with its std is an arm, uncorrected: it would undo any correction of the rewards
exactly, so that a corrected GRPO is the same run (the trainer refuses it). Baseline: uncorrected,
whose advantages are those of the control in the corrected arms.
"""

from benchmarks.evidence import arms

RATES = dict(fp_rate=0.2, fn_rate=0.3)
NOISE = {"shaping": (dict(fn="noise.inject", unit="sample", **RATES),)}
CLAIM = "uniform noise keeps the direction of the update"
QUANTITY = "held-out pass@1, mean over the run"
EXPECTED = {name: "same" for name in ("backward", "forward", "grpo")}
CLEAN = "clean"
FOUND = (
    "backward is uncorrected bit for bit in four of five seeds: with one pair of rates it doubles "
    "all advantages, which AdamW undoes wherever the gradient is clipped to norm 1 in both. In "
    "seed 3 the first gradient had norm 0.94 (1.88 in backward), was clipped in one of them alone, "
    "and the runs part from the third step on. The effect is an identity and no evidence. "
    "forward, whose coefficients are not centred, is below uncorrected by the bootstrap and not "
    "by Student's t: worse than the claim has it, and not shown to be beyond the margin of 0.10. "
    "backward and forward of seed 1 ran from a tree with changes that were not committed."
)
units = arms.over_the_run


def get_sweep(arg: str | None = None) -> dict:
    """arg: runlocal takes the toy model."""
    return dict(
        config="benchmarks/evidence/job.py" + (f":{arg}" if arg else ""),
        settings=[
            ("clean", {}),
            ("uncorrected", NOISE),
            ("backward", arms.corrected(NOISE, "backward", **RATES)),
            ("forward", arms.corrected(NOISE, "forward", **RATES)),
            ("grpo", NOISE | {"advantage": (dict(fn="group.grpo"),)}),
        ],
        baseline="uncorrected",
        seeds=arms.seeds("noise_uniform"),
    )
