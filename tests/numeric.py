"""Running a method as a notebook and as a trainer would, for the tests of the mathematics."""

import os

import jax
import numpy as np


def devices(count):
    """XLA_FLAGS of a child process in which the CPU is so many devices."""
    given = os.environ.get("XLA_FLAGS", "")
    return f"{given} --xla_force_host_platform_device_count={count}".strip()


def both(fn, *columns, atol=1e-6, **settings):
    """fn eagerly, checked against fn under jit with its float settings traced; numpy arrays."""
    numbers = {k: v for k, v in settings.items() if isinstance(v, float)}
    static = {k: v for k, v in settings.items() if k not in numbers}
    eager = jax.tree.map(np.asarray, fn(*columns, **settings))
    traced = jax.jit(lambda c, n: fn(*c, **static, **n))(columns, numbers)
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(traced), strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5, err_msg=f"{fn.__name__}: eager, jit")
    return eager


def close(got, want, atol=2e-6, what=""):
    """Equal up to atol, with both printed."""
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), atol=atol, rtol=0, err_msg=what)
