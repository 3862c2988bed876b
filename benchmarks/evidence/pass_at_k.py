"""Claim 3: learning from failures only keeps pass@k at large k.

Zhu et al., "The Surprising Effectiveness of Negative Reinforcement", arXiv 2506.01347. Task: sums
of three one-digit numbers in at most 24 tokens, 32 held-out prompts, 64 samples of each before
and after. (Which of two numbers is larger, registered first, was changed before any run: SmolLM2
solves 79 % of it in 8 samples from the start, which leaves 64 nothing to find.) Registered: nsr
minus grpo at pass@64 is above 0; psr minus grpo at pass@64 is below 0; w_reinforce minus grpo at
pass@1 is reported. The ledger has pass@k for k to 64, the entropy of what is sampled, and the
prompts gained and lost against the start. Baseline: grpo.
"""

CLAIM = "learning from failures alone keeps pass@64, from successes alone costs it"
EXPECTED = {"nsr": "above", "psr": "below"}
MEASURE = "pass@64"
CLEAN = "grpo"
ARMS: dict[str, dict] = {"grpo": {}, "psr": {}, "nsr": {}, "w_reinforce": dict(positive=0.1)}


def get_sweep(arg: str | None = None) -> dict:
    """arg: runlocal takes the toy model."""
    more = {"eval.samples": 2 if arg == "runlocal" else 64, "eval.every": 0}
    if arg != "runlocal":
        more |= {"eval.prompts": 32, "sampling.completion_buckets": (24,)}
    return dict(
        config=f"benchmarks/evidence/job.py:{arg or 'three_sums'}",
        settings=[
            (name, more | {"advantage": (dict(fn=f"group.{name}", **settings),)})
            for name, settings in ARMS.items()
        ],
        baseline="grpo",
        seeds=(0, 1, 2),
        measures=("pass@1", "pass@2") if arg == "runlocal" else ("pass@1", "pass@8", MEASURE),
    )
