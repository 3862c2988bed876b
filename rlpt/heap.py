"""The C library's heap in a process that computes on the CPU: large arrays, and a compiler.

glibc maps memory afresh for every large array and gives it back when the array goes, so that each
step pays for the same pages again; and what XLA's compiler leaves behind lies beside the arrays.
"""

from __future__ import annotations

import ctypes
import functools

import jax

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_SECONDS = 0.2  # programs that took longer to compile leave something worth returning


@functools.cache
def tune() -> None:
    """Keeps the pages of arrays for the next ones, and returns the compiler's to the system.

    Call it before anything is computed; where the C library is not glibc it does nothing.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        return
    for setting, value in (
        (_M_MMAP_MAX, 0),  # large arrays on the heap too,
        (_M_ARENA_MAX, 1),  # of which there is one,
        (_M_TRIM_THRESHOLD, 2**31 - 1),  # and which is not cut when one of them goes
        (_M_TOP_PAD, 2**26),
    ):
        libc.mallopt(setting, value)

    def after(event: str, duration_secs: float, **_: str | int) -> None:
        if event.endswith("backend_compile_duration") and duration_secs > _SECONDS:
            libc.malloc_trim(0)

    jax.monitoring.register_event_duration_secs_listener(after)
