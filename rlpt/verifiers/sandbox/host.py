"""The verifier's side of the sandbox: which tier there is, and calls into a candidate.

Tiers, best first: "bwrap" (bubblewrap), "unshare" (the same namespaces, made here), "rlimit"
(another user where this one is root, limits, a filter of system calls and, where the kernel has
it, Landlock; but among the machine's own processes).  Which of them work is found by trying.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import select
import shutil
import socket
import subprocess
import sys
import time
import typing as tp

from rlpt.verifiers.sandbox import guest

TIERS = ("bwrap", "unshare", "rlimit")
START_DEADLINE = 20.0  # seconds until a sandbox is ready
END_DEADLINE = 20.0  # seconds until nothing of it is left
GRACE = 0.2  # seconds in which a process that has closed its channel may end by itself
FIRST_UID = 1_000_000_000  # users of sandboxes: this and the id of the process that judges
_NOBODY = 65534

_ROOT = pathlib.Path(__file__).parents[3]
_KEEPER = "import sys; sys.path.insert(0, sys.argv.pop()); "
_KEEPER += "from rlpt.verifiers.sandbox import keeper; keeper.main()"
_GUEST = "import json, sys; sys.path.insert(0, '/sandbox'); "
_GUEST += "import guest; guest.run(json.loads(sys.argv[1]))"
_PYTHON = os.path.realpath(sys.executable)
_FLAGS = ("-s", "-S", "-P")
_VISIBLE = ("/usr", "/lib", "/lib64", "/bin")


class SandboxError(RuntimeError):
    """The sandbox does not work here; nothing that a candidate does raises this."""


class Failed(Exception):
    """The candidate's process did not answer: ended, too slow, too large, not a reply."""


class Raised(Exception):
    """The candidate raised something that is no built-in exception."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one candidate may use.

    Attributes:
      seconds: wall time from the candidate's text to its last answer.
      memory_mb: memory of all its processes, and address space of each.
      disk_mb: files in its directory; and the largest file, at every tier.
      processes: processes and threads.
      output_kb: one result, or a program's output.
    """

    seconds: float = 2.0
    memory_mb: int = 512
    disk_mb: int = 16
    processes: int = 16
    output_kb: int = 256

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (type(value) in (int, float) and 0 < value < math.inf):
                raise ValueError(f"sandbox: {field.name}: got {value!r}, expected a number > 0")

    def rlimits(self) -> dict[str, int]:
        """The limits of the kernel, for one process."""
        return {
            "RLIMIT_AS": int(self.memory_mb * 2**20),
            "RLIMIT_FSIZE": int(self.disk_mb * 2**20),
            "RLIMIT_CPU": math.ceil(self.seconds) + 1,
            "RLIMIT_NPROC": int(self.processes),
            "RLIMIT_NOFILE": 64,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_CORE": 0,
        }


# ---- tiers


@functools.cache
def available() -> dict[str, str]:
    """{tier: "" where it works, else what is missing}, found by running a function in each."""
    return {tier: _try(tier) for tier in TIERS}


def choose(wanted: str) -> str:
    """The tier to use.

    Args:
      wanted: "auto" for the best that isolates (bwrap, unshare), "any" for the best at all, or
        one of TIERS.
    Raises: SandboxError saying what is missing and how to get it; ValueError for another word.
    """
    if wanted not in ("auto", "any", *TIERS):
        raise ValueError(f"sandbox tier: got {wanted!r}, expected auto, any, {', '.join(TIERS)}")
    if wanted in TIERS:
        reason = _try(wanted)
        if reason:
            raise SandboxError(f"sandbox tier {wanted!r} does not work here: {reason}")
        return wanted
    found = [tier for tier, reason in available().items() if not reason]
    if found and (wanted == "any" or found[0] != "rlimit"):
        return found[0]
    reasons = "\n  ".join(f"{tier}: {reason or 'works'}" for tier, reason in available().items())
    raise SandboxError(
        f"no sandbox that isolates the code of a model from this machine:\n  {reasons}\n"
        "Install bubblewrap (Debian, Ubuntu: apt-get install bubblewrap) or allow user namespaces. "
        "tier='any' would run the code with limits alone, where it can read what its user can."
    )


def report() -> dict[str, tp.Any]:
    """What a run records, as JSON: the best tier and what each of them says."""
    works = [tier for tier, reason in available().items() if not reason]
    return {
        "tier": works[0] if works else "none",
        "tiers": {tier: reason or "works" for tier, reason in available().items()},
        **rights(),
    }


def rights() -> dict[str, tp.Any]:
    """Of what the tiers are made here: whether the user is dropped, the version of Landlock."""
    return {"drops_user": os.getuid() == 0, "landlock": max(guest.landlock(), 0)}


@functools.cache
def _try(tier: str) -> str:
    """What is missing for a tier; "": nothing."""
    if sys.platform != "linux":
        return f"needs Linux, this is {sys.platform}"
    if tier == "bwrap" and not shutil.which("bwrap"):
        return "bubblewrap is not installed"
    try:
        with Session(tier, Limits(seconds=10.0)) as session:
            session.load(["import decimal\ndef double(x): return 2 * x"], "double")
            got = session.call((21,), {})
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return "" if got == 42 else f"a function that doubles gave {got!r:.80} for 21"


def _uid() -> int:
    """The user that a sandbox runs as, where this process is root; 0: its own.

    One of its own for each process that judges, so that one candidate's processes do not count
    for another; nobody, where a container has no such users.
    """
    if os.getuid():
        return 0
    uid = FIRST_UID + os.getpid()
    with open("/proc/self/uid_map") as file:
        ranges = [[int(n) for n in line.split()] for line in file]
    return uid if any(first <= uid < first + size for first, _, size in ranges) else _NOBODY


def _visible() -> list[str]:
    """What of the file system the sandbox sees, read-only."""
    prefix = os.path.realpath(sys.base_prefix)
    return [*_VISIBLE, *([prefix] if not prefix.startswith("/usr/") and prefix != "/usr" else [])]


def _bubblewrap(options: dict[str, tp.Any]) -> list[str]:
    """The command of the tier bwrap."""
    command = [str(shutil.which("bwrap")), "--die-with-parent", "--new-session"]
    command += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    if os.getuid():
        command += ["--unshare-user"]
    else:  # the guest drops them with its user
        command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        command += ["--cap-add", "CAP_SETPCAP"]
    for path in _visible():
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            for parent in reversed(pathlib.Path(path).parents[:-1]):  # else only root may enter
                command += ["--dir", str(parent)]
            command += ["--ro-bind", path, path]
    command += ["--ro-bind", os.path.dirname(guest.__file__), "/sandbox"]  # with its .pyc
    command += ["--proc", "/proc", "--dev", "/dev"]
    command += ["--perms", "1777", "--size", str(options["disk"]), "--tmpfs", options["cwd"]]
    command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", options["cwd"]]
    return [*command, "--", _PYTHON, *_FLAGS, "-c", _GUEST, json.dumps(options)]


# ---- one candidate


class Session:
    """One candidate in one sandbox; a context manager that leaves no process and no file.

    Either `load` a function and `call` it, or `run` a program, once.
    """

    def __init__(self, tier: str, limits: Limits):
        """Starts the sandbox. Raises: SandboxError."""
        self.failure = ""  # why the candidate's process did not answer
        self._limits = limits
        self._deadline = time.monotonic() + START_DEADLINE
        self._channel, theirs = socket.socketpair()
        self._control, control = socket.socketpair()
        options: dict[str, tp.Any] = {
            "tier": tier,
            "fd": theirs.fileno(),
            "uid": _uid(),
            "limits": limits.rlimits(),
            "cwd": "/tmp",
            "disk": int(limits.disk_mb * 2**20),
            "files": {},
        }
        command = _bubblewrap(options) if tier == "bwrap" else []
        options |= {
            "command": command,
            "control": control.fileno(),
            "memory": int(limits.memory_mb * 2**20),
            "visible": [*_visible(), "/dev/null", "/dev/zero", "/dev/urandom"],
        }
        with theirs, control:
            self._keeper = subprocess.Popen(
                [_PYTHON, *_FLAGS, "-c", _KEEPER, json.dumps(options), str(_ROOT)],
                pass_fds=[theirs.fileno(), control.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0"},  # a verdict does not depend on the order of a set
                cwd="/",
                start_new_session=True,
            )
        try:
            filtered = self._receive()["filtered"]
            if tier == "rlimit" and not filtered:
                raise Failed("the kernel has no seccomp, which this tier cannot do without")
        except Failed as e:
            status = self._end()
            raise SandboxError(f"the sandbox {tier} did not start: {e} ({status})") from e
        except BaseException:
            self._end()
            raise
        self._deadline = time.monotonic() + limits.seconds

    def load(self, sources: list[str], entry: str) -> None:
        """Runs the first of the sources that defines a function `entry`.

        Raises: Failed; Raised or a built-in exception, where none does.
        """
        self._send({"sources": sources, "entry": entry})
        self._result()

    def call(self, args: tuple[tp.Any, ...], kwargs: dict[str, tp.Any]) -> tp.Any:
        """What the function claims to return: built-in types only.

        Raises: TypeError or ValueError for arguments that are not plain data; Failed; what the
          function raised, as the built-in exception of that name or Raised.
        """
        self._send({"call": guest.encode([args, kwargs])})
        return self._result()

    def run(self, source: str, stdin: str) -> str:
        """What a whole program writes for an input. Raises: Failed, also for exit codes but 0."""
        self._send({"source": source, "stdin": stdin})
        output = bytearray()
        assert self._keeper.stdout
        while True:  # ends with the last process that could still write
            self._wait(self._keeper.stdout)
            part = os.read(self._keeper.stdout.fileno(), 1 << 16)
            output += part
            if not part:
                break
            if len(output) > self._limits.output_kb * 1024:
                raise self._failed(f"more than {self._limits.output_kb} kB of output")
        self._wait(self._control)  # a program may close its output long before it ends
        status = self._end()
        if status != "ended with code 0":
            raise self._failed(status)
        return output.decode("utf-8", "replace")

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _failed(self, reason: str) -> Failed:
        self.failure = self.failure or reason
        return Failed(self.failure)

    def _send(self, message: tp.Any) -> None:
        if self.failure:
            raise Failed(self.failure)
        if select.select([self._channel], [], [], 0)[0]:
            raise self._failed("a reply that no call asked for, or the end of the process")
        data = memoryview(guest.pack(message))
        self._channel.setblocking(False)
        while data:
            self._wait(self._channel, write=True)
            try:
                data = data[self._channel.send(data) :]
            except OSError:
                raise self._failed(self._end()) from None

    def _wait(self, file: tp.Any, write: bool = False) -> None:
        """Waits until a file can be read or written. Raises: Failed at the deadline."""
        left = max(self._deadline - time.monotonic(), 0.0)
        if not any(select.select([] if write else [file], [file] if write else [], [], left)):
            raise self._failed(f"no answer within {self._limits.seconds} s")

    def _receive(self) -> tp.Any:
        """The next message, and nothing behind it. Raises: Failed."""
        size = None
        data = bytearray()
        while size is None or len(data) < size:
            self._wait(self._channel)
            try:
                part = self._channel.recv(1 << 16)
            except OSError:
                part = b""
            if not part:
                select.select([self._control], [], [], GRACE)
                raise self._failed(self._end())
            data += part
            if size is None and len(data) >= guest.HEADER.size:
                size = guest.HEADER.size + guest.HEADER.unpack_from(data)[0]
                if size > self._limits.output_kb * 1024:
                    raise self._failed(f"a reply of {size} bytes")
        if len(data) > size:
            raise self._failed("more than one reply")
        try:
            return json.loads(data[guest.HEADER.size :])
        except (ValueError, RecursionError) as e:
            raise self._failed(f"not a reply: {type(e).__name__}") from None

    def _result(self) -> tp.Any:
        """The next message as a value. Raises: as `call`."""
        message = self._receive()
        try:
            if set(message) == {"value"}:
                # depth: the tests may give it to the function again, in a list or two
                return guest.decode(message["value"], depth=4)
            name, text = message["error"], str(message["text"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
            raise self._failed(f"not a reply: {type(e).__name__}") from None
        kind = getattr(builtins, name, None) if type(name) is str else None
        # StopIteration would end the loops of the tests themselves, which then pass
        ends = (StopIteration, StopAsyncIteration)
        if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, ends):
            error: Exception = Raised(f"{name}: {text}")
            with contextlib.suppress(TypeError):  # UnicodeDecodeError takes more than a text
                error = kind(text)
            raise error
        raise Raised(f"{name!s:.80}: {text}")

    def _end(self) -> str:
        """Ends the sandbox and waits until nothing of it is left; says how it had ended."""
        if self._keeper.returncode is not None:
            return "ended"
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        self._channel.close()
        self._control.settimeout(END_DEADLINE)
        if self._keeper.stdout:
            self._keeper.stdout.close()
        try:
            status = json.loads(self._control.recv(1 << 12)[guest.HEADER.size :] or "null")
            self._keeper.wait(END_DEADLINE)
        except (OSError, subprocess.TimeoutExpired) as e:
            self._keeper.kill()
            self._keeper.wait()
            raise SandboxError(f"a sandbox could not be ended: {e!r}") from e
        finally:
            self._control.close()
        if status is None:
            return f"its keeper ended with code {self._keeper.returncode}"
        if status["memory"]:
            return f"more than {self._limits.memory_mb} MB of memory"
        code = status["status"]
        return f"ended with code {code if code >= 0 else 128 - code}"
