"""What runs inside the sandbox: gives up its rights, then runs the candidate.

Everything that leaves it is a claim of the candidate, who can read and change all of
this process: there are no expected outputs in it, and nothing that it says is taken for
more than a value.  Values are JSON; the types that JSON lacks are objects with one key,
as in {"tuple": [1, 2]}.  Standard library only: the file runs on its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import struct
import sys
import types
import typing as tp

HEADER = struct.Struct(">I")
MAX_DEPTH = 64  # of nested values


# ---- values


def encode(value: tp.Any, depth: int = 0) -> tp.Any:
    """A plain value as what JSON can hold; subclasses count as the type they derive from.

    Raises: TypeError for a value that is not None, bool, int, float, str, bytes, complex or a
      list, tuple, dict or set of those; ValueError for nesting deeper than MAX_DEPTH.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"values nested deeper than {MAX_DEPTH}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [encode(v, depth + 1) for v in value]
    if isinstance(value, dict):
        return {"dict": [[encode(k, depth + 1), encode(v, depth + 1)] for k, v in value.items()]}
    for name, kind in (("tuple", tuple), ("set", set), ("frozenset", frozenset)):
        if isinstance(value, kind):
            return {name: [encode(v, depth + 1) for v in value]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    raise TypeError(f"a value of type {type(value).__name__}, expected plain data")


def decode(value: tp.Any, depth: int = 0) -> tp.Any:
    """The value of what `encode` made, of built-in types only.

    Raises: ValueError or TypeError for anything else.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"values nested deeper than {MAX_DEPTH}")
    if type(value) is list:
        return [decode(v, depth + 1) for v in value]
    if type(value) is not dict:
        return value
    ((name, inside),) = value.items()
    if type(inside) is str and name == "bytes":
        return bytes.fromhex(inside)
    if type(inside) is not list:
        raise ValueError(f"{name!r:.40} of a {type(inside).__name__}")
    if name == "dict":
        return {decode(k, depth + 1): decode(v, depth + 1) for k, v in inside}
    if name == "complex":
        real, imag = inside
        return complex(real, imag)
    kinds = {"tuple": tuple, "set": set, "frozenset": frozenset}
    if name not in kinds:
        raise ValueError(f"no type {name!r:.40}")
    return kinds[name](decode(v, depth + 1) for v in inside)


# ---- messages


def pack(message: tp.Any) -> bytes:
    """A message for the channel: its length in four bytes, then JSON in ASCII."""
    body = json.dumps(message).encode("ascii")
    return HEADER.pack(len(body)) + body


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = channel.recv(min(size - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def _receive(channel: socket.socket) -> tp.Any:
    """The next message. Raises: EOFError when there are no more."""
    (size,) = HEADER.unpack(_exactly(channel, HEADER.size))
    return json.loads(_exactly(channel, size))


# ---- rights

_LIBC = ctypes.CDLL(None, use_errno=True)
_PDEATHSIG, _DUMPABLE, _SECCOMP, _CAPBSET_DROP, _NO_NEW_PRIVS = 1, 4, 22, 24, 38

# System calls by (number on x86_64, on aarch64).  What acts on other processes, ...
_DENIED = [(62, 129), (200, 130), (234, 131), (129, 138), (297, 240), (424, 424)]  # signals
_DENIED += [(101, 117), (310, 270), (311, 271), (438, 438)]  # ptrace, process_vm_*, pidfd_getfd
_DENIED += [(112, 157), (109, 154)]  # setsid, setpgid
# ... talks to the outside, ...
_DENIED += [(41, 198), (425, 425), (426, 426), (427, 427)]  # socket, io_uring_*
# ... holds memory that no limit counts, ...
_DENIED += [(319, 279), (29, 194), (64, 190), (68, 186), (240, 180)]  # memfd_create, shm, sem, msg
# ... or makes namespaces and mounts, and parts of the kernel that only exploits need here.
_DENIED += [(272, 97), (308, 268), (165, 40), (166, 39), (155, 41), (161, 51), (442, 442)]
_DENIED += [(428, 428), (429, 429), (430, 430), (431, 431), (432, 432), (433, 433)]
_DENIED += [(303, 264), (304, 265), (321, 280), (298, 241), (323, 282)]
_DENIED += [(248, 217), (249, 218), (250, 219), (175, 105), (313, 273), (246, 104)]
_ARCHITECTURES = {"x86_64": (0xC000003E, 56, 0), "aarch64": (0xC00000B7, 220, 1)}
_CLONE3, _NEW_NAMESPACES = 435, 0x7E020000
_LANDLOCK = 444  # to make a set of rules; the next two add a rule and enforce the set


def _prctl(option: int, *arguments: int) -> bool:
    padded = [ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4]]
    return _LIBC.prctl(option, *padded) == 0


def _filter_system_calls() -> bool:
    """Denies _DENIED with EPERM; whether the kernel has seccomp for this architecture."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURES or sys.maxsize < 2**32:
        return False
    audit, clone, column = _ARCHITECTURES[machine]
    kill, eperm, enosys, allow = 0x80000000, 0x50001, 0x50026, 0x7FFF0000
    program = [(0x20, 0, 0, 4), (0x15, 1, 0, audit), (0x06, 0, 0, kill)]  # the architecture
    program += [(0x20, 0, 0, 0), (0x35, 0, 1, 0x40000000), (0x06, 0, 0, kill)]  # the number; x32
    program += [(0x15, 0, 1, _CLONE3), (0x06, 0, 0, enosys)]  # libc then uses clone
    for numbers in _DENIED:
        program += [(0x15, 0, 1, numbers[column]), (0x06, 0, 0, eperm)]
    program += [(0x15, 0, 3, clone), (0x20, 0, 0, 16), (0x45, 0, 1, _NEW_NAMESPACES)]
    program += [(0x06, 0, 0, eperm), (0x06, 0, 0, allow)]
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(
        struct.pack("=HxxxxxxQ", len(program), ctypes.addressof(buffer)), 16
    )
    return _prctl(_SECCOMP, 2, ctypes.addressof(header))


def landlock() -> int:
    """The version of the kernel's Landlock; 0 or less: it has none."""
    if sys.platform != "linux":
        return 0
    return int(_LIBC.syscall(_LANDLOCK, None, ctypes.c_size_t(0), 1))


def _restrict_files(rights: dict[str, str]) -> None:
    """Leaves of the file system the paths {path: "r" | "rw" | "all"}, where there is Landlock."""
    version = landlock()
    if version < 1:
        return
    # From version 2 on, renaming between directories, from 3 on, truncating.
    every = 0x1FFF | (0x2000 if version >= 2 else 0) | (0x4000 if version >= 3 else 0)
    rules = _LIBC.syscall(_LANDLOCK, struct.pack("=Q", every), ctypes.c_size_t(8), 0)
    for path, right in rights.items():
        if not os.path.exists(path):
            continue
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        # Execute 1, write 2, read 4, list 8.
        allowed = {"r": 1 | 4 | 8, "rw": 2 | 4, "all": every}[right]
        if _LIBC.syscall(_LANDLOCK + 1, rules, 1, struct.pack("=Qi", allowed, place), 0):
            raise OSError(ctypes.get_errno(), f"landlock {path}")
        os.close(place)
    if _LIBC.syscall(_LANDLOCK + 2, rules, 0):
        raise OSError(ctypes.get_errno(), "landlock")
    os.close(rules)


def give_up_rights(uid: int, limits: dict[str, int], files: dict[str, str]) -> bool:
    """Becomes the user `uid` (0: stays who it is), without capabilities; then sets the limits.

    limits: {"RLIMIT_AS": bytes, ...}.  The user comes first: the kernel does not hold root to a
    number of processes.  files: what stays of the file system, as in `_restrict_files`; {}: all.
    Returns: whether system calls are filtered too.
    """
    if not _prctl(_NO_NEW_PRIVS, 1):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if files:
        _restrict_files(files)
    for capability in range(64):
        _prctl(_CAPBSET_DROP, capability)
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = struct.pack("=Ii", 0x20080522, 0)
    if _LIBC.capset(header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    _prctl(_DUMPABLE, 1)  # its own /proc/self stays open to it
    for name, value in limits.items():
        what = getattr(resource, name)
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value + (name == "RLIMIT_CPU" and value != hard)))
    return _filter_system_calls()


# ---- the candidate


def _load(sources: list[str], entry: str) -> tp.Any:
    """The function `entry` of the first source that is Python and has one.

    Also a method of a class Solution, as LeetCode's problems have it.
    """
    error: BaseException = NameError(f"no function {entry!r}")
    for source in sources:
        module = types.ModuleType("solution")
        sys.modules["solution"] = module
        try:
            exec(compile(source, "solution.py", "exec"), vars(module))
            if callable(getattr(module, entry, None)):
                return getattr(module, entry)
            if hasattr(module, "Solution"):
                return getattr(module.Solution(), entry)
        except BaseException as e:
            error = e
    raise error


def _answer(make: tp.Callable[[], tp.Any]) -> bytes:
    """The message of a result, or of what was raised."""
    try:
        return pack({"value": encode(make())})
    except BaseException as e:
        return pack({"error": type(e).__name__, "text": str(e)[:200]})


def _serve(channel: socket.socket, job: dict[str, tp.Any]) -> None:
    """Loads the function, then answers calls until the channel ends; what it prints is lost."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
    found: list[tp.Any] = []
    channel.sendall(_answer(lambda: found.append(_load(job["sources"], job["entry"]))))
    while True:
        args, kwargs = decode(_receive(channel)["call"])
        channel.sendall(_answer(lambda: found[0](*args, **kwargs)))  # noqa: B023


def _run_program(source: str, stdin: str) -> None:
    """Runs a whole program; what it raises ends this process, as a program ends."""
    with open("stdin", "w+b") as file:
        file.write(stdin.encode("utf-8", "surrogatepass"))
        file.seek(0)
        os.dup2(file.fileno(), 0)
    os.unlink("stdin")
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    sys.argv = ["solution.py"]
    exec(compile(source, "solution.py", "exec"), vars(main))


def run(options: dict[str, tp.Any]) -> None:
    """The process's work: gives up its rights, says so, gets the candidate and runs it.

    options: fd of the channel, tier, cwd, uid, limits, files.
    """
    os.chdir(options["cwd"])
    os.environ.clear()
    sys.path[:] = [p for p in sys.path if p.startswith((sys.base_prefix, "/proc/self/fd/"))]
    channel = socket.socket(fileno=options["fd"])
    channel.set_inheritable(False)
    filtered = give_up_rights(options["uid"], options["limits"], options["files"])
    if options["tier"] != "bwrap":  # which has an option for this
        _prctl(_PDEATHSIG, signal.SIGKILL)
    channel.sendall(pack({"ready": True, "filtered": filtered}))
    try:
        job = _receive(channel)
        if "entry" in job:
            _serve(channel, job)
    except (EOFError, OSError):
        return
    channel.close()
    _run_program(job["source"], job["stdin"])
