"""The job that the claims share; see README.md beside it."""

import pathlib
import runpy

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
small_tasks = runpy.run_path(str(CONFIGS / "small_tasks.py"))


def get_config(arg: str | None = None):
    """arg: products (the default), larger, three_sums, or runlocal for the toy model."""
    c = small_tasks["get_config"](arg or "products")
    c.advantage = (dict(fn="noise.control", scale=1.0),)
    c.export = False
    c.log.tensorboard = False
    if arg != "runlocal":
        c.steps = 30
        c.eval.every = 6
        c.checkpoint.every = 1000  # a stop leaves one, too
        c.checkpoint.keep, c.checkpoint.keep_best = 1, 0
        c.model.matmul_precision = "bfloat16"
        c.learner.micro_blocks = 0
    return c
