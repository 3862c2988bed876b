"""Claim 3 from a start at which a part is solved: failures alone end above GRPO at pass@16.

Zhu et al., "The Surprising Effectiveness of Negative Reinforcement", arXiv 2506.01347, whose models
solve much of their task before training. Registered after pass_at_k, in which one sample in 86 was
right at the start and failures alone taught nothing. The same task and model; all arms are the
same run for 20 steps of GRPO, after which 5 to 22 % of the samples of training are expected to be
right (as there in steps 16 to 20, on a schedule of 45 steps); then 30 steps of GRPO, or of
successes, failures or failures with a tenth of the successes. 32 held-out prompts, 64 samples of
each before, after 20 and 40 steps and at the end. Registered: nsr minus grpo at pass@16 is above 0;
psr minus grpo at pass@16 is below 0; both at pass@64 and all at pass@1 are reported, and what each
has after the 20 steps, which says whether an arm keeps it. The gain of 0.20 that grpo must have is
over the untrained model. Baseline: grpo.
"""

from benchmarks.evidence import arms, pass_at_k

CLAIM = "where a part is solved, failures alone end above GRPO at pass@16, successes alone below"
EXPECTED = {"nsr": "above", "psr": "below"}
MEASURE = "pass@16"
REPORTED = [(arm, m) for m in ("pass@64", "pass@1") for arm in ("nsr", "psr", "w_reinforce")]
CLEAN = "grpo"
FOUND = (
    "failures alone do teach from here: from 0.65 and 0.67 at pass@16 they go on to 0.80 and 0.78 "
    "in seeds 0 and 2, GRPO to 0.88 and 0.85. In seed 1 they fall within 20 steps from 0.85 to "
    "0.30, at an entropy of 0.2 to 0.3, where GRPO is: it is not a loss of spread. So the sign of "
    "the effect is that of all three seeds and its size that of one; Student's t does not exclude "
    "0."
)
SINCE = 20  # steps that all arms have in common


def get_sweep(arg: str | None = None) -> dict:
    """arg: runlocal takes the toy model."""
    found = pass_at_k.get_sweep(arg)
    more = {} if arg == "runlocal" else {"steps": SINCE + 30, "eval.every": SINCE}
    settings = []
    for name, changes in found["settings"]:
        (own,) = changes["advantage"]
        both = (dict(fn="group.grpo"), dict(own, since=SINCE))
        settings.append((name, changes | more | {"advantage": both[: 1 + (name != "grpo")]}))
    return found | dict(settings=settings, seeds=arms.seeds("pass_at_k_warm"))
