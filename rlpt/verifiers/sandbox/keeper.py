"""The process that starts one sandbox, and leaves no process and no file of it behind.

It stands between a verifier and the candidate, as the reaper of whatever the candidate leaves.
When the sandbox ends, needs too much memory, or the verifier closes the control socket (or is
killed), it kills all that is below it, says how the sandbox ended, and goes.  Standard library
only, and nothing of the candidate's is read here.
"""

from __future__ import annotations

import ctypes
import glob
import json
import os
import select
import signal
import socket
import struct
import sys
import time
import typing as tp

from rlpt.verifiers.sandbox import guest

INTERVAL = 0.02  # seconds between two looks at the memory

_LIBC = ctypes.CDLL(None, use_errno=True)
_CHILD_SUBREAPER = 36
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_DETACH, _RECURSIVE, _MOUNT_SETATTR, _PIVOT_ROOT = 2, 0x8000, 442, {"x86_64": 155, "aarch64": 41}


def _checked(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


# ---- processes


def _descendants(pid: int) -> list[int]:
    """All processes below `pid`, some of which may have ended by now."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        at = waiting.pop()
        for path in glob.glob(f"/proc/{at}/task/*/children"):
            try:
                with open(path) as file:
                    children = [int(child) for child in file.read().split()]
            except OSError:  # the thread has ended
                continue
            found += children
            waiting += children
    return found


def _resident(pids: list[int]) -> int:
    """Bytes of memory that processes hold."""
    pages = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm") as file:
                pages += int(file.read().split()[1])
        except (OSError, IndexError):
            continue
    return pages * os.sysconf("SC_PAGE_SIZE")


def _end_all(child: int) -> int:
    """Kills everything below until nothing is left; the child's status."""
    status = 0
    while True:
        for pid in _descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                status = ended[1] if ended[0] == child else status
        except ChildProcessError:
            return status
        time.sleep(0.001)


# ---- a root directory of its own


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    encoded = [s.encode() if s is not None else None for s in (source, target, kind)]
    _checked(_LIBC.mount(*encoded, ctypes.c_ulong(flags), data.encode()), f"mount {target}")


def _unshare(options: dict[str, tp.Any]) -> None:
    """Goes on in a child that sees no other process, no network, and of the file system what
    Python needs, read-only; its parent waits for it and does not return.
    """
    uid, gid = os.getuid(), os.getgid()
    flags = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET | (_NEWUSER if uid else 0)
    _checked(_LIBC.unshare(flags), "unshare")
    if uid:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"),
                           ("gid_map", f"{gid} {gid} 1")):  # fmt: skip
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    child = os.fork()
    if child:
        os.close(options["fd"])
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)

    new, old = "/tmp", "/tmp/old"
    _mount("none", "/", None, _REC | _PRIVATE)
    _mount("root", new, "tmpfs", _NOSUID | _NODEV, "mode=755,size=1m")
    for path in options["visible"]:
        if os.path.islink(path):
            os.symlink(os.readlink(path), new + path)
        elif os.path.exists(path):
            if os.path.isdir(path):
                os.makedirs(new + path, exist_ok=True)
            else:
                os.makedirs(os.path.dirname(new + path), exist_ok=True)
                open(new + path, "w").close()
            _mount(path, new + path, None, _BIND | _REC)
            if os.path.isdir(path):
                attributes = struct.pack("=QQQQ", _RDONLY | _NOSUID, 0, 0, 0)
                made = _LIBC.syscall(
                    _MOUNT_SETATTR, -100, (new + path).encode(), _RECURSIVE, attributes,
                    ctypes.c_size_t(len(attributes)),
                )  # fmt: skip
                _checked(made, f"mount_setattr {path}")
    os.makedirs(new + options["cwd"])
    size = f"mode=1777,size={options['disk']}"
    _mount("work", new + options["cwd"], "tmpfs", _NOSUID | _NODEV, size)
    os.mkdir(old)
    number = _PIVOT_ROOT[os.uname().machine]
    _checked(_LIBC.syscall(number, new.encode(), old.encode()), "pivot_root")
    os.chdir("/")
    _checked(_LIBC.umount2(b"/old", _DETACH), "umount")
    os.rmdir("/old")
    _mount("none", "/", None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)


def _keep_library() -> None:
    """Keeps Python's library importable for a user who may not enter the directory above it."""
    place = os.open(sys.base_prefix, os.O_PATH)
    os.set_inheritable(place, True)
    for paths in [sys.path, *(getattr(m, "__path__", []) for m in [*sys.modules.values()])]:
        paths[:] = [p.replace(sys.base_prefix, f"/proc/self/fd/{place}", 1) for p in paths]
    sys.path_importer_cache.clear()


# ---- the work


def _start(options: dict[str, tp.Any]) -> None:
    """In the child: becomes the sandbox."""
    if options["command"]:
        os.set_inheritable(options["fd"], True)
        os.execv(options["command"][0], options["command"])
    if options["tier"] == "unshare":
        _unshare(options)
    else:
        _keep_library()
    guest.run(options)


def main() -> None:
    """Starts the sandbox and stays until nothing of it is left."""
    options = json.loads(sys.argv[1])
    control = socket.socket(fileno=options.pop("control"))
    _checked(_LIBC.prctl(_CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper")
    directory = ""
    if options["tier"] == "rlimit":
        import tempfile  # slow to import, as shutil is, and the other tiers do without

        directory = options["cwd"] = tempfile.mkdtemp(prefix="rlpt-")
        os.chown(directory, options["uid"] or -1, -1)
        files = [path for path in options["visible"] if os.path.exists(path)]
        options["files"] = {path: "r" if os.path.isdir(path) else "rw" for path in files}
        options["files"][directory] = "all"
    child = os.fork()
    if not child:
        control.close()
        _start(options)
        return
    os.close(options["fd"])
    nothing = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    ends: list[tp.Any] = [control, os.pidfd_open(child)]
    too_much = False
    while not too_much and not select.select(ends, [], [], INTERVAL)[0]:
        too_much = _resident(_descendants(os.getpid())) > options["memory"]
    status = os.waitstatus_to_exitcode(_end_all(child))
    if directory:
        import shutil

        shutil.rmtree(directory, ignore_errors=True)
    try:
        control.sendall(guest.pack({"status": status, "memory": too_much}))
    except OSError:
        return
