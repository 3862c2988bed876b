"""Claim 3: learning from failures only keeps pass@k at large k.

Zhu et al., "The Surprising Effectiveness of Negative Reinforcement", arXiv 2506.01347. Task: sums
of three one-digit numbers in at most 12 tokens, 45 steps, 32 held-out prompts, 64 samples of each
before and after. Two set-ups were changed before any run, since they left large k nothing to find:
which of two numbers is larger, of which SmolLM2 solves 79 % in 8 samples from the start, and 24
tokens, with which 7 of 192 untrained samples on 7 of 32 prompts are right, so that pass@64 begins
near 1. GRPO may well come near 1 at 64, so that what is registered is of 16: nsr minus grpo at
pass@16 is above 0; psr minus grpo at pass@16 is below 0; both at pass@64 and w_reinforce minus grpo
at pass@1 are reported. The ledger has pass@k for k to 64, the entropy of what is sampled, and the
prompts gained and lost against the start. Baseline: grpo.
"""

from benchmarks.evidence import arms

CLAIM = "learning from failures alone keeps pass@16, from successes alone costs it"
EXPECTED = {"nsr": "above", "psr": "below"}
MEASURE = "pass@16"
REPORTED = [("nsr", "pass@64"), ("psr", "pass@64"), ("w_reinforce", "pass@1")]
CLEAN = "grpo"
FOUND = (
    "from a start at which one sample in 86 is right failures alone teach nothing in 45 steps, "
    "in none of the seeds: what is pushed away from 2.3 nats of wrong replies goes to other "
    "wrong ones, probably. The paper's models solve much of their task before. Successes alone "
    "end at half of GRPO's entropy, which is the order that the paper has, and lose nothing at "
    "16 or 64 that shows. What would decide: a start at which a part is solved, which is "
    "pass_at_k_warm."
)
ARMS: dict[str, dict] = {"grpo": {}, "psr": {}, "nsr": {}, "w_reinforce": dict(positive=0.1)}


def get_sweep(arg: str | None = None) -> dict:
    """arg: runlocal takes the toy model."""
    more = {"eval.samples": 2 if arg == "runlocal" else 64, "eval.every": 0}
    if arg != "runlocal":
        more |= {"eval.prompts": 32, "steps": 45}
    return dict(
        config=f"benchmarks/evidence/job.py:{arg or 'three_sums'}",
        settings=[
            (name, more | {"advantage": (dict(fn=f"group.{name}", **settings),)})
            for name, settings in ARMS.items()
        ],
        baseline="grpo",
        seeds=arms.seeds("pass_at_k"),
        measures=("pass@1", "pass@2") if arg == "runlocal" else ("pass@1", MEASURE, "pass@64"),
    )
