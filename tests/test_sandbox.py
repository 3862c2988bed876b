"""Programs that attack the sandbox, at each tier: what comes of them, and what they leave."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import pytest

from rlpt.tasks import base as tasks_base
from rlpt.verifiers import base, code
from rlpt.verifiers.sandbox import guest, host

SECONDS = 0.6
CANARY = "canary-4f1c"
TESTS = ["assert f(3) == 9", "assert f(4) == 16"]
HONEST = "def f(x): return x * x"

# A candidate's means: the channel to the verifier, and messages of its own on it.
CHANNEL = """
import os, socket, struct, json
def channel():
    for fd in range(3, 64):
        try:
            return socket.socket(fileno=os.dup(fd))
        except OSError:
            pass
def frame(body):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return struct.pack(">I", len(body)) + body
"""

# name -> program; each is judged "incorrect".
HOSTILE = {
    # ---- without end or measure
    "endless loop": "def f(x):\n while True: pass",
    "endless at import": "while True: pass",
    "sleeps": "import time\ndef f(x): time.sleep(1000)",
    "time bomb": "import time\ndef f(x):\n if x == 4: time.sleep(1000)\n return x * x",
    "ignores signals": """
import signal
for n in signal.valid_signals():
    try: signal.signal(n, lambda *a: None)
    except (OSError, ValueError): pass
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
def f(x):
    while True: pass""",
    "swallows everything": """
def f(x):
    while True:
        try:
            while True: pass
        except BaseException: pass""",
    "fork bomb": """
import os
def f(x):
    while True:
        try: os.fork()
        except OSError: pass""",
    "thread bomb": """
import threading, time
def f(x):
    while True: threading.Thread(target=time.sleep, args=(1000,)).start()""",
    "memory bomb": "def f(x):\n a = []\n while True: a.append(bytearray(1 << 20))",
    "memory bomb caught": """
def f(x):
    a = []
    while True:
        try: a.append(bytearray(1 << 24))
        except MemoryError: pass""",
    "memory in children": """
import os, time
for _ in range(4):
    if not os.fork():
        a = bytearray(os.urandom(1 << 20) * 60)
        time.sleep(1000)
time.sleep(1000)""",
    "10 GB at once": "def f(x): return len(bytearray(10 << 30))",
    "flood of output": "def f(x):\n while True: print('x' * 10**6)",
    "large result": "def f(x): return 'x' * 10**7",
    "endless result": "import itertools\ndef f(x): return itertools.count()",
    "huge integer": "def f(x): return 10 ** 10**5",
    "power tower": "x = 9**9**9**9\ndef f(x): return 9",
    "deep recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)",
    "deep value": "def f(x):\n a = 9\n for _ in range(10**4): a = [a]\n return a",
    "value within itself": "def f(x):\n a = []\n a.append(a)\n return a",
    "many files open": "a = []\nwhile True: a.append(open('/dev/null'))",
    "full disk": """
def f(x):
    i = 0
    while True:
        i += 1
        open(f'{i}', 'wb').write(bytes(1 << 20))""",
    "nested source": "(" * 5000 + "1" + ")" * 5000,
    "deep source": "x = " + "-" * 40000 + "1",
    "source with NUL": "def f(x):\n return x * x\n\0",
    "source with a lone surrogate": "def f(x): return '\ud800'",
    "large source": "#" * 60_000 + "\n" + HONEST,
    # ---- ends before the tests do
    "sys.exit": "import sys\nsys.exit(0)",
    "sys.exit in the call": "import sys\ndef f(x): sys.exit(0)",
    "os._exit": "import os\ndef f(x): os._exit(0)",
    "BaseException": "def f(x): raise BaseException('done')",
    "segmentation fault": "import ctypes\ndef f(x): return ctypes.string_at(0)",
    "abort": "import os\ndef f(x): os.abort()",
    "becomes another program": "import os\ndef f(x): os.execv('/bin/sleep', ['sleep', '1000'])",
    "pytest.skip": "class Skipped(BaseException): pass\ndef f(x): raise Skipped",
    # ---- wants to be equal to everything
    "__eq__": """
class Always:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
def f(x): return Always()""",
    "__eq__ of an int": """
class Always(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def f(x): return Always(7)""",
    "__class__": """
class Always:
    __class__ = property(lambda self: int)
    def __eq__(self, other): return True
def f(x): return Always()""",
    "__reduce__": """
class Bomb:
    def __reduce__(self): return (exec, ("import os; os._exit(0)",))
def f(x): return Bomb()""",
    "__eq__ of a str": """
class Always(str):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def f(x): return Always('9')""",
    "__eq__ of a list": """
class Always(list):
    def __eq__(self, other): return True
    def __len__(self): return 1
def f(x): return Always([9])""",
    "negative zero": "def f(x): return -0.0",
    "True": "def f(x): return True",
    "NaN": "def f(x): return float('nan')",
    "another type": "def f(x): return float(x * x)",
    "AssertionError": "def f(x): raise AssertionError",
    "StopIteration": "def f(x): raise StopIteration(9)",
    # ---- writes to the channel itself
    "replies ahead": CHANNEL + """
channel().sendall(frame({"value": None}) + frame({"value": 9}) + frame({"value": 16}))
def f(x): return 0""",
    "replies twice": CHANNEL + """
def f(x):
    channel().sendall(frame({"value": 9}) + frame({"value": 16}))
    return 0""",
    "says it passed": CHANNEL + """
channel().sendall(frame({"passed": True, "verdict": "correct", "score": 1.0}))
def f(x): return 0""",
    "not a message": CHANNEL + "def f(x): channel().sendall(b'passed' * 100)",
    "a length of 4 GB": CHANNEL + "def f(x): channel().sendall(b'\\xff' * 100)",
    "nested message": CHANNEL + "def f(x): channel().sendall(frame(b'[' * 10**5))",
    "half a message": CHANNEL + """
import time
def f(x):
    channel().sendall(b'\\0\\0\\1\\0{')
    time.sleep(1000)""",
    "no such type": CHANNEL + "def f(x): channel().sendall(frame({'value': {'eval': ['9']}}))",
    "two keys": CHANNEL + "def f(x): channel().sendall(frame({'value': {'set': [], 'a': 1}}))",
    "a set of lists": CHANNEL + "def f(x): channel().sendall(frame({'value': {'set': [[1]]}}))",
    "closes all files": "import os\ndef f(x):\n os.closerange(0, 1000)\n return x * x",
    "closes them and stays": "import os\nos.closerange(0, 1000)\nwhile True: pass",
    "answers later": CHANNEL + """
import os, time
def f(x):
    if not os.fork():
        time.sleep(0.1)
        channel().sendall(frame({"value": x * x}))
        os._exit(0)
    os._exit(0)""",
    "answers when it ends": CHANNEL + """
import atexit
atexit.register(lambda: channel().sendall(frame({"value": 9}) + frame({"value": 16})))
def f(x): raise SystemExit(0)""",
    "shuts the channel": CHANNEL + "channel().shutdown(2)\n" + HONEST,
    "prints what a harness prints": """
print('{"value": 9}\\nOK\\npassed\\n1 passed in 0.01s')
def f(x): return 0""",
    # ---- changes the process that it runs in
    "patches json and builtins": """
import builtins, json
json.dumps = lambda *a, **k: '{"value": 9}'
builtins.isinstance = lambda *a: True
builtins.AssertionError = type('Quiet', (Exception,), {})
def f(x): return 'anything'""",
    "patches time": """
import signal, time
time.monotonic = time.time = time.perf_counter = lambda: 0.0
time.sleep = lambda seconds: None
signal.setitimer(signal.ITIMER_REAL, 0)
def f(x):
    while True: time.sleep(1000)""",
    "overwrites the tests": """
import builtins, sys
def run_tests(*a, **k): return True
def check(candidate): return None
def _same(a, b): return True
for module in list(sys.modules.values()):
    for name in ('run_tests', 'check', '_same', 'judge', 'verify', 'main'):
        try: setattr(module, name, lambda *a, **k: True)
        except (AttributeError, TypeError): pass
builtins._same = _same
def f(x): return 0""",
    "patches pytest": """
import sys, types
hook = "def pytest_runtest_makereport(item, call):\\n    return 'passed'\\n"
open('conftest.py', 'w').write(hook)
sys.modules['pytest'] = sys.modules['unittest'] = types.ModuleType('pytest')
def f(x): return 0""",
    "counts its calls": """
calls = 0
def f(x):
    global calls
    calls += 1
    return x * x if calls == 1 else 0""",
    "patches the harness": """
import gc, sys
frame = sys._getframe()
while frame:
    for name in list(frame.f_globals):
        if name in ('encode', 'decode', '_same', 'pack'):
            frame.f_globals[name] = lambda *a: b'\\0\\0\\0\\x0c{"value": 9}'
    frame = frame.f_back
for o in gc.get_objects():
    if isinstance(o, dict) and '_same' in o: o['_same'] = lambda a, b: True
def f(x): return 0""",
    "looks for the tests": """
import gc, inspect, sys
def f(x):
    seen = [repr(vars(s.frame.f_globals.get('__builtins__')) if 0 else s.frame.f_locals)
            for s in inspect.stack()]
    seen += [o for o in gc.get_objects() if isinstance(o, str)]
    for o in gc.get_objects():
        if isinstance(o, (list, tuple)): seen += [s for s in o if isinstance(s, str)]
    if any('assert f(' in s for s in seen if 'gc.get_objects' not in s): return x * x
    return 0""",
    "reads arguments, environment and files": """
import glob, os, sys
def f(x):
    seen = repr(sys.argv) + repr(sys.orig_argv) + repr(dict(os.environ))
    paths = glob.glob('/proc/*/cmdline') + glob.glob('/proc/*/environ') + glob.glob('/tmp/**/*')
    for path in paths + [f'/proc/self/fd/{fd}' for fd in range(3, 64)]:
        try:
            with open(path, 'rb') as file: seen += repr(file.read(1 << 20))
        except (OSError, ValueError): pass
    return x * x if 'assert f(' in seen.replace("'assert f(' in seen", '') else 0""",
    "reads all memory": """
import re
def f(x):
    for line in open('/proc/self/maps'):
        a, b = (int(n, 16) for n in line.split()[0].split('-'))
        with open('/proc/self/mem', 'rb', 0) as m:
            try:
                m.seek(a)
                if re.search(rb'asser[t] f[(]3[)]', m.read(b - a)): return x * x
            except (OSError, OverflowError, ValueError): pass
    return 0""",
    "a user's module": """
import sys, types
sys.modules['solution'] = types.SimpleNamespace(f=lambda x: 9)
sys.modules['json'] = None
f = 9""",
    # ---- leaves something behind
    "daemon": """
import os, time
def f(x):
    if not os.fork():
        if not os.fork():
            time.sleep(1000)
        os._exit(0)
    return 0""",
    "daemon in a session of its own": """
import os, time
def f(x):
    if not os.fork():
        try: os.setsid()
        except OSError: pass
        if os.fork(): os._exit(0)
        os.closerange(0, 1000)
        time.sleep(1000)
    os.wait()
    return 0""",
    "zombies": """
import os
def f(x):
    for _ in range(8):
        if not os.fork(): os._exit(0)
    return 0""",
    "stops its children": """
import subprocess
def f(x):
    p = subprocess.Popen(['sleep', '1000'])
    open(f'/proc/{p.pid}/status').read()
    return 0""",
    "a thread that goes on": """
import threading
def forever():
    while True: pass
def f(x):
    threading.Thread(target=forever).start()
    return 0""",
    "works when it is deleted": """
import atexit, os, time
class Late:
    def __del__(self): time.sleep(1000)
late = Late()
atexit.register(time.sleep, 1000)
def f(x): return 0""",
}  # fmt: skip


@pytest.fixture(params=host.TIERS)
def tier(request):
    reason = host.available()[request.param]
    if reason:
        pytest.skip(f"this machine has no sandbox {request.param!r}: {reason}")
    return request.param


def judge(program, tests=TESTS, **settings):
    prompt = tasks_base.Prompt("p", tasks_base.chat("?"), tests)
    settings = {"extract": "whole", "seconds": SECONDS, "memory_mb": 128} | settings
    return code.code(base.Trajectory(program), prompt, **settings)


def call(tier, program, *args, **limits):
    """What f(*args) of a program returns."""
    with host.Session(tier, host.Limits(**limits)) as session:
        session.load([program], "f")
        return session.call(args, {})


def left():
    """Processes and files of sandboxes that this process has started."""
    found = []
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/children") as file:
            found += [f"child {pid}" for pid in file.read().split()]
    uid = host._uid()
    for entry in pathlib.Path("/proc").glob("[0-9]*/status") if uid else ():
        try:
            if f"\nUid:\t{uid}\t" in entry.read_text():
                found.append(f"process {entry.parent.name}")
        except OSError:
            continue
    found += [str(p) for p in pathlib.Path("/tmp").glob("rlpt-*") if uid and p.stat().st_uid == uid]
    return found


def test_every_tier_that_ci_offers_is_tested():
    """What a tier lacks is named; where bubblewrap is installed, it has to work."""
    for name, reason in host.available().items():
        assert name in host.TIERS and "\n" not in reason, reason
    if os.path.exists("/usr/bin/bwrap"):
        assert host.available()["bwrap"] == ""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_program_is_incorrect(tier, name):
    start = time.monotonic()
    verdict = judge(HOSTILE[name], tier=tier)
    seconds = time.monotonic() - start
    assert (verdict.outcome, verdict.score) == ("incorrect", 0.0), verdict
    assert seconds < SECONDS + 5, f"took {seconds:.1f} s: {verdict}"
    assert not left(), f"left behind: {left()}"


def test_an_honest_program_between_hostile_ones(tier):
    for name in ("fork bomb", "closes all files", "replies ahead", "memory in children"):
        judge(HOSTILE[name], tier=tier, seconds=0.3)
        verdict = judge(HONEST, tier=tier, seconds=5.0)
        assert verdict.outcome == "correct", f"after {name!r}: {verdict}"


WITHOUT_ROOT = """
import json, os, sys
if not os.getuid():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.path.insert(0, sys.argv[1])
from rlpt.verifiers.sandbox import host
found = {}
for tier in host.TIERS:
    if not host.available()[tier]:
        for name, source in json.loads(sys.argv[2]).items():
            try:
                with host.Session(tier, host.Limits(seconds=1.0)) as session:
                    session.load([source], "f")
                    found[f"{tier}, {name}"] = session.call((3,), {})
            except Exception as e:
                found[f"{tier}, {name}"] = str(e)
with open("/proc/self/task/%d/children" % os.getpid()) as file:
    print(json.dumps([os.getuid(), found, file.read()]))
"""


def test_a_fork_bomb_without_root():
    """Where the user of the verifier, who is not root, is the candidate's too."""
    programs = {name: HOSTILE[name] for name in ("fork bomb", "thread bomb")} | {"honest": HONEST}
    with tempfile.TemporaryDirectory() as place:  # which anyone may read, as they may not the rest
        os.chmod(place, 0o755)
        package = pathlib.Path(host.__file__).parents[2]
        for path in ("__init__.py", "verifiers/__init__.py", "verifiers/sandbox"):
            (target := pathlib.Path(place, "rlpt", path)).parent.mkdir(exist_ok=True, parents=True)
            (shutil.copytree if (package / path).is_dir() else shutil.copy)(package / path, target)
        done = None
        for python in (sys.executable, "/usr/bin/python3"):
            command = [python, "-c", WITHOUT_ROOT, place, json.dumps(programs)]
            done = subprocess.run(command, capture_output=True, text=True, cwd="/", env={})
            if done.returncode == 0 and json.loads(done.stdout)[1]:
                break
    if done.returncode or not json.loads(done.stdout)[1]:
        pytest.skip(f"no Python, or no tier, for a user who is not root: {done.stderr}")
    uid, found, left_over = json.loads(done.stdout)
    assert uid and not left_over, f"left: {left_over}"
    for what, got in found.items():
        if what.endswith("honest"):
            assert got == 9, f"{what}: {got}"
        else:
            assert type(got) is str and got, f"{what}: {got}"


REACH = """
import os, ctypes, glob, socket
def attempt(what):
    try:
        what()
        return "possible"
    except (OSError, IndexError, ValueError) as e:
        return type(e).__name__
def f(ppid, port, places):
    libc = ctypes.CDLL(None, use_errno=True)
    def call(name, *a):
        if getattr(libc, name)(*a) == -1: raise OSError(ctypes.get_errno(), name)
    found = {
        "signal": attempt(lambda: os.kill(ppid, 9)),
        "signal to all": attempt(lambda: os.kill(-1, 9)),
        "signal to the parent": attempt(lambda: os.kill(os.getppid() or ppid, 9)),
        "ptrace": attempt(lambda: call("ptrace", 16, ppid, 0, 0)),
        "memory of another": attempt(lambda: open(f"/proc/{ppid}/mem", "rb")),
        "network": attempt(lambda: socket.create_connection(("127.0.0.1", port), 1)),
        "unix socket": attempt(lambda: socket.socket(socket.AF_UNIX)),
        "user namespace": attempt(lambda: call("unshare", 0x10000000)),
        "mount": attempt(lambda: call("mount", b"x", b"/tmp", b"tmpfs", 0, 0)),
        "chroot": attempt(lambda: os.chroot("/")),
        "become root": attempt(lambda: os.setuid(0)),
        "own session": attempt(os.setsid),
        "raise its limits": attempt(lambda: __import__("resource").setrlimit(7, (4096, 4096))),
        "memory file": attempt(lambda: os.memfd_create("x")),
    }
    for place in places:
        found["write " + place] = attempt(lambda: open(place + "/x-rlpt", "w"))
        os.path.lexists("link") and os.unlink("link")
        os.symlink(place, "link")
        found["link " + place] = attempt(lambda: open("link/x-rlpt", "w"))
    return found
"""


@pytest.mark.skipif(os.getuid() != 0, reason="without root the user is not dropped at tier rlimit")
def test_nothing_can_be_reached(tier):
    import rlpt

    package = os.path.dirname(rlpt.__file__)
    places = ["/", "/usr", "/etc", os.path.expanduser("~"), os.path.dirname(os.__file__), package]
    places += [os.path.dirname(pytest.__file__), f"/proc/{os.getpid()}/cwd", os.getcwd()]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        got = call(tier, REACH, os.getpid(), port, places)
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()
    possible = [what for what, outcome in got.items() if outcome == "possible"]
    assert not possible and len(got) == 14 + 2 * len(places), got


SECRETS = """
import os, glob
def f(paths):
    seen = [repr(dict(os.environ)), os.getcwd(), repr(os.listdir("."))]
    kinds = ("environ", "cmdline", "cwd/*", "maps")
    for path in [p for kind in kinds for p in glob.glob(f"/proc/*/{kind}")] + paths:
        try:
            with open(path) as file: seen.append(file.read())
        except OSError: pass
    return "".join(seen)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="without root the user is not dropped at tier rlimit")
def test_no_secret_is_seen(tier, tmp_path, monkeypatch):
    monkeypatch.setenv("RLPT_CANARY", CANARY)
    kept = tmp_path / "checkpoint"  # under a directory that only its owner may enter
    kept.write_text(CANARY)
    seen = call(tier, SECRETS, [str(kept)], output_kb=4096)
    assert "listdir" not in seen and len(seen) > 5, "the program ran"
    assert CANARY not in seen


LEAVES = """
import glob, os, site, sys
def f(x):
    text = "import builtins\\nbuiltins.helped = lambda x: x * x\\n"
    places = ["", "/tmp", "/dev/shm", os.path.expanduser("~"), *sys.path, *site.getsitepackages()]
    for place in places + glob.glob("/tmp/*"):
        for name in ("sitecustomize.py", "usercustomize.py", "solution.py", "helped.py", "json.py"):
            try: open(os.path.join(place, name), "w").write(text)
            except OSError: pass
    return 0
"""
FINDS = """
import glob, os, sys
def read(path):
    try: return open(path).read() if os.path.getsize(path) < 99 else ""
    except (OSError, ValueError): return ""
def f(x):
    places = ["", "/tmp", "/dev/shm", *glob.glob("/tmp/*"), *sys.path]
    found = [p for place in places for p in glob.glob(os.path.join(place, "*.py"))]
    return [p for p in found if "builtins.helped" in read(p)]
"""


def test_a_file_does_not_help_the_next_candidate(tier):
    assert call(tier, LEAVES, 3) == 0
    assert call(tier, FINDS, 3, seconds=10.0) == []
    both = f"{LEAVES}\nleave = f\n{FINDS}\nfind = f\ndef f(x): return leave(x) or find(x)"
    assert call(tier, both, 3, seconds=10.0), "it would be found"


@pytest.mark.parametrize("isolating", ["bwrap", "unshare"])
def test_its_file_system_is_its_own(isolating, tmp_path):
    if host.available()[isolating]:
        pytest.skip(f"this machine has no sandbox {isolating!r}: {host.available()[isolating]}")
    tmp_path.chmod(0o755)
    (tmp_path / "public").write_text("x")
    look = "import os\ndef f(paths): return [os.path.exists(p) for p in paths], os.listdir('.')"
    import rlpt

    hidden = ["/etc/passwd", "/home", str(tmp_path / "public"), rlpt.__file__, "/sys", "/boot"]
    assert call(isolating, look, hidden) == ([False] * len(hidden), [])
    write = "import tempfile\ndef f(): return tempfile.NamedTemporaryFile(delete=False).name"
    name = call(isolating, write)
    assert name.startswith("/tmp/") and not os.path.exists(name)
    assert call(isolating, look, [name]) == ([False], []), "a file helps the next candidate"
    processes = "import glob\ndef f(): return len(glob.glob('/proc/[0-9]*'))"
    assert call(isolating, processes) <= 3, "processes of the machine are seen"


def test_files_at_the_lowest_tier(tmp_path):
    """With Landlock even there only the library can be read, and only its directory written."""
    if not guest.landlock() > 0:
        pytest.skip("the kernel has no Landlock")
    if host.available()["rlimit"]:
        pytest.skip(f"no tier rlimit: {host.available()['rlimit']}")
    look = """
def f(read, write):
    import encodings.idna, os
    open("own", "w").write("x")
    os.rename("own", "renamed")
    open("/dev/null", "w").write("x")
    out = []
    for paths, mode in ((read, "r"), (write, "w")):
        for path in paths:
            try: open(path, mode).close()
            except PermissionError: continue
            out.append(path)
    return out, open("renamed").read()
"""
    os.chmod(tmp_path, 0o777)
    (tmp_path / "public").write_text("x")
    read = ["/etc/passwd", "/proc/self/maps", str(tmp_path / "public")]
    write = ["/tmp/rlpt-left", "/dev/shm/rlpt-left", str(tmp_path / "left")]
    assert call("rlimit", look, read, write) == ([], "x")
    assert os.listdir(tmp_path) == ["public"]


def test_the_sandbox_of_a_verifier_that_is_killed_ends(tier):
    """As the pool does with a worker past its deadline."""
    program = (
        "import sys\nfrom rlpt.verifiers.sandbox import host\n"
        f"with host.Session({tier!r}, host.Limits(seconds=100)) as s:\n"
        "    print(host._uid(), s._keeper.pid, flush=True)\n"
        "    s.load(['import os\\nfor _ in range(3): os.fork()\\nwhile True: pass'], 'f')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as p:
        uid, keeper = p.stdout.readline().split()
        time.sleep(0.3)
        p.kill()
    for _ in range(200):
        gone = not os.path.exists(f"/proc/{keeper}")
        if gone:
            break
        time.sleep(0.05)
    assert gone, "the keeper outlives its verifier"
    running = subprocess.run(["ps", "-o", "pid=", "-U", uid], capture_output=True, text=True)
    assert uid == "0" or not running.stdout.strip(), f"left: {running.stdout}"


def test_concurrent_sandboxes_do_not_share_limits(tier):
    """A fork bomb takes processes from its own candidate only."""
    if os.getuid():
        pytest.skip("without root all sandboxes have one user")
    program = (
        "import sys\nfrom rlpt.verifiers.sandbox import host\n"
        f"with host.Session({tier!r}, host.Limits(seconds=100)) as s:\n"
        "    print(flush=True)\n"
        "    s.load(['import os\\nwhile True:\\n try: os.fork()\\n except OSError: pass'], 'f')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as bomb:
        bomb.stdout.readline()
        time.sleep(0.2)
        threads = "import threading\ndef f():\n t = threading.Thread()\n t.start()\n return 1"
        try:
            assert call(tier, threads, seconds=20.0) == 1
        finally:
            bomb.kill()


# ---- values


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -(2**80), 1.5, float("inf"), "\ud800\0é", b"\xff", 1j, [], (), {}, set(),
     {1: "a", (1, 2): [3]}, {1, 2}, frozenset({(1, frozenset())}), [(1, [2, {3: {4}}])]],
    ids=repr,
)  # fmt: skip
def test_values_survive_with_their_types(value):
    back = guest.decode(json.loads(json.dumps(guest.encode(value))))
    assert back == value and type(back) is type(value)


def test_values_become_built_in_types():
    import collections

    for value, plain in (
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.namedtuple("P", "x y")(1, 2), (1, 2)),
        (bytearray(b"a"), b"a"),
    ):
        back = guest.decode(guest.encode(value))
        assert back == plain and type(back) is type(plain)


@pytest.mark.parametrize("value", [object(), len, iter([]), range(3), [object()], {1: print}])
def test_other_values_are_refused(value):
    with pytest.raises(TypeError, match="expected plain data"):
        guest.encode(value)


@pytest.mark.parametrize(
    "forged",
    [{}, {"set": [[1]]}, {"dict": [1]}, {"dict": [[[], 1]]}, {"bytes": "zz"}, {"bytes": [1]},
     {"complex": ["a", 1]}, {"complex": [1]}, {"eval": ["1"]}, {"tuple": 1}, {"a": 1, "b": 2}],
    ids=repr,
)  # fmt: skip
def test_forged_values_are_refused(forged):
    with pytest.raises((ValueError, TypeError)):
        guest.decode(forged)


# ---- sessions


def test_what_a_function_raises_is_raised(tier):
    program = "class Own(Exception): pass\ndef f(x): raise {0: KeyError, 1: Own}[x]('why')"
    for x, kind in ((0, KeyError), (1, host.Raised), (2, KeyError)):
        with pytest.raises(kind):
            call(tier, program, x)
    with pytest.raises(host.Raised, match="SystemExit"):
        call(tier, "def f(): raise SystemExit(0)")
    with pytest.raises(host.Raised, match="StopIteration"):  # it would end a loop of the tests
        call(tier, "def f(): raise StopIteration")


def test_what_a_function_prints_is_lost_and_does_no_harm(tier):
    assert call(tier, "def f():\n print('x' * 10**6, flush=True)\n return 1") == 1


def test_programs(tier):
    def run(program, stdin="", **limits):
        with host.Session(tier, host.Limits(**limits)) as session:
            return session.run(program, stdin)

    reverse = "import sys\nprint(sys.stdin.read()[::-1], end='')"
    assert run(reverse, "aé\n" * 10**5, output_kb=1024) == "\néa" * 10**5
    main = "import sys\nif __name__ == '__main__': print(open(0).read())\nsys.exit()"
    assert run(main, "x") == "x\n"
    assert run("import sys\nsys.stdout.buffer.write(b'\\xff\\0ok')") == "\ufffd\0ok"
    with pytest.raises(host.Failed, match="code 3"):
        run("print(1)\nraise SystemExit(3)")
    with pytest.raises(host.Failed, match="code 1"):
        run("print(1)\n1/0")
    with pytest.raises(host.Failed, match="4 kB of output"):
        run("while True: print('x' * 1000)", output_kb=4)
    with pytest.raises(host.Failed, match=r"within 0.5 s"):
        run("import os, time\nos.closerange(0, 99)\ntime.sleep(1000)", seconds=0.5)
    with pytest.raises(host.Failed, match="memory"):
        run(HOSTILE["memory in children"], memory_mb=128)
    with pytest.raises(host.Failed):
        run("import os\nos.fork()\nwhile True: pass", seconds=0.3)
    assert not left()


def test_limits_are_checked():
    for bad in ({"seconds": 0}, {"memory_mb": -1}, {"seconds": float("inf")}, {"disk_mb": "1"}):
        with pytest.raises(ValueError, match="expected a number > 0"):
            host.Limits(**bad)


# ---- tiers


@pytest.fixture
def tiers(monkeypatch):
    """Sets which tiers work."""

    def set_to(*working):
        reasons = {t: "" if t in working else f"no {t} here" for t in host.TIERS}
        monkeypatch.setattr(host, "available", lambda: reasons)
        monkeypatch.setattr(host, "_try", lambda t: reasons[t])

    return set_to


def test_the_best_tier_is_taken(tiers):
    tiers("unshare", "rlimit")
    assert host.choose("auto") == host.choose("any") == host.choose("unshare") == "unshare"
    assert host.report()["tier"] == "unshare" and host.report()["tiers"]["rlimit"] == "works"
    with pytest.raises(host.SandboxError, match="'bwrap' does not work here: no bwrap here"):
        host.choose("bwrap")


def test_the_lowest_tier_is_refused_unless_allowed(tiers):
    tiers("rlimit")
    with pytest.raises(host.SandboxError, match=r"(?s)no bwrap here.*apt-get install bubblewrap"):
        host.choose("auto")
    assert host.choose("any") == host.choose("rlimit") == "rlimit"
    tiers()
    assert host.report()["tier"] == "none"
    with pytest.raises(host.SandboxError):
        host.choose("any")
    with pytest.raises(ValueError, match="expected auto, any, bwrap, unshare, rlimit"):
        host.choose("docker")


def test_a_sandbox_that_does_not_start_is_no_verdict(monkeypatch):
    monkeypatch.setattr(host, "_bubblewrap", lambda options: ["/bin/false"])
    host._try.cache_clear()
    try:
        assert "did not start" in host._try("bwrap") and "code 1" in host._try("bwrap")
    finally:
        host._try.cache_clear()
    assert not left()
