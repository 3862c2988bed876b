"""What the heap's settings do, in a process of their own: they hold for all of it."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, pathlib, resource, sys
import jax
from rlpt import heap

if sys.argv[1] == "tuned":
    heap.tune()
    heap.tune()  # once is enough
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]


def array(size):
    at = libc.malloc(size)
    ctypes.memset(at, 1, size)
    libc.free(at)


def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096


array(2**26)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
array(2**26)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
held = resident()
for seconds in (0.01, 10.0):
    jax.monitoring.record_event_duration_secs("/jax/core/compile/backend_compile_duration", seconds)
    print(resident() - held, end=" ")
print(faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
def test_pages_stay_for_the_next_array_and_go_after_compiling():
    done = {}
    for how in ("plain", "tuned"):
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM, how], text=True, capture_output=True, check=True
        )
        done[how] = [int(x) for x in run.stdout.split()]
    assert done["plain"][2] > 2**26 // 4096 / 2, f"memory is not mapped afresh: {done}"
    small, large, faults = done["tuned"]
    assert faults < 100, f"pages were not kept: {done}"
    assert abs(small) < 2**24 and large < -(2**25), f"returned after a long compilation: {done}"
