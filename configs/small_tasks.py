"""GRPO on tasks with more room than the quickstart's, same model and settings.

  rlpt train --config configs/small_tasks.py:larger --workdir runs/larger

Tasks: larger (which of two numbers is larger), three_sums (three one-digit numbers),
products (two one-digit numbers), gcd (reasoning-gym's greatest common divisor).
40 steps of 64 completions on SmolLM2-135M-Instruct; on two CPU cores some four
minutes each.  What they reach is in LOG.md.

Shao et al., "DeepSeekMath", arXiv 2402.03300 (GRPO).
"""

import importlib.util
import pathlib

TASKS = {
    "larger": dict(fn="arithmetic.larger"),
    "three_sums": dict(fn="arithmetic.sums", terms=3),
    "products": dict(fn="arithmetic.products"),
    "gcd": dict(fn="reasoning_gym.dataset", task="gcd", size=400, system="Answer with a number."),
}


def get_config(arg: str | None = None):
    """arg: one of TASKS, or runlocal."""
    path = pathlib.Path(__file__).with_name("quickstart.py")
    spec = importlib.util.spec_from_file_location("quickstart", path)
    quickstart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    c = quickstart.get_config("runlocal" if arg == "runlocal" else None)
    name = "larger" if arg in (None, "runlocal") else arg
    if name not in TASKS:
        raise ValueError(f"small_tasks: got {arg!r}, expected one of {', '.join(TASKS)}, runlocal")
    c.tasks = (TASKS[name],)
    if arg == "runlocal":
        c.sampling.prompt_buckets = (48,)
        return c
    c.steps = 40
    c.eval.prompts = 40
    c.eval.every = 20
    c.sampling.prompt_buckets = (48, 96)
    c.checkpoint.every = 20
    return c
