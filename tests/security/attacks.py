"""Submissions that attack the examiner, with the outcome that each must have; all are written for these tests.

An attack is a project that defines the network `NET`, except where it says otherwise, and tries something beside. If it gets
what it wants, it ends the process at once, so that no model is loaded: most attacks must therefore leave the honest graph.
"""

from __future__ import annotations

import copy
import io
import json
import os
import socket
import tarfile
import textwrap
import zipfile
from collections.abc import Callable, Mapping
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""
# In the texts of an attack, these stand for a file that others own, and for the folder that holds it.
SECRET, OUTSIDE = "@secret@", "@outside@"
LIMIT_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A submission that attacks, and its honest outcome.

    ``files`` are those of the project. ``prepare``, called with the project's folder and the folder outside, adds what is no
    text, and returns the path of the submission. The submission is refused with a message in which the pattern ``refused`` is
    found or, if that is empty, loaded. A loaded model has the graph of `NET` if ``findings`` is empty; else it gets these
    statuses of requirements of the contract ``era-s7``. It may take ``seconds``.
    """

    name: str
    files: Mapping[str, str] = field(default_factory=lambda: {"net.py": NET})
    prepare: Callable[[Path, Path], Path] = lambda folder, _: folder
    refused: str = ""
    findings: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 45.0

    def build(self, folder: Path, outside: Path) -> Path:
        """Write the submission to a new folder and return its path; the folder ``outside`` holds a file ``secret``."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            replaced = content.replace(SECRET, str(outside / "secret")).replace(OUTSIDE, str(outside))
            path.write_text(replaced, encoding="utf-8", errors="surrogatepass")
        return self.prepare(folder, outside)


_PRELUDE = f"""
import atexit, builtins, contextlib, ctypes, fcntl, gc, json, os, pathlib, resource, shutil, signal, socket, subprocess, sys
import tempfile, termios, threading, time
import torch
from torch import nn

library = ctypes.CDLL(None, use_errno=True)
parent, workspace = os.getppid(), pathlib.Path(os.environ["HOME"]).parent
secret, outside = pathlib.Path("{SECRET}"), pathlib.Path("{OUTSIDE}")

def won(*_):
    os._exit(7)

def call(x86, arm, *arguments):
    number = x86 if os.uname().machine == "x86_64" else arm
    if number is None or library.syscall(number, *map(ctypes.c_long, arguments)) < 0:
        raise OSError("refused")
    return True
"""


def _tries(code: str) -> dict[str, str]:
    """The files of a project that tries something when it is imported, and goes on if an error says that it may not."""
    suppressed = "with contextlib.suppress(OSError, subprocess.SubprocessError):"
    return {"net.py": f"{_PRELUDE}\n{suppressed}\n{textwrap.indent(textwrap.dedent(code).strip(), '    ')}\n{NET}"}


def _runs(code: str, *, then: str = NET) -> dict[str, str]:
    """The files of a project that runs code when it is imported, before the network is defined."""
    return {"net.py": f"{_PRELUDE}\n{textwrap.dedent(code)}\n{then}"}


_READING = {
    "read a file": "secret.read_text() and won()",
    "read a file through the process's own root": "open(f'/proc/self/root{secret}').read() and won()",
    "read the accounts": "open('/etc/passwd').read() and won()",
    "read the parent's environment": "pathlib.Path(f'/proc/{parent}/environ').read_bytes() and won()",
    "read the environment of the first process": "pathlib.Path('/proc/1/environ').read_bytes() and won()",
    "read the parent's memory": "open(f'/proc/{parent}/mem', 'rb') and won()",
    "reopen the parent's files": "os.listdir(f'/proc/{parent}/fd') and won()",
    "list the folder of temporary files": "os.listdir(outside.parent) and won()",
    "list the workspaces of other submissions": "os.listdir(workspace.parent) and won()",
    "list the processes": "any(name.isdigit() and name != str(os.getpid()) for name in os.listdir('/proc')) and won()",
    "wait for changes of files": "call(294, 26, 0) and won()",
    "wait for changes of a folder": "fcntl.fcntl(os.open('.', os.O_RDONLY), fcntl.F_NOTIFY, 1); won()",
    "open a file by its handle": "call(304, 265, 0, 0, 0) and won()",
    "copy another process's memory": "call(310, 270, parent, 0, 0, 0, 0, 0) and won()",
    "use a file that the worker left open": """
        for number in range(3, 256):
            with contextlib.suppress(OSError):
                target = os.readlink(f'/proc/self/fd/{number}')
                if not target.startswith((str(workspace), '/proc', '/usr', '/dev', sys.prefix, sys.base_prefix)):
                    won()
    """,
    "leave something for the next submission": """
        builtins.left_behind = torch.left_behind = nn.Module.left_behind = sys.modules["left_behind"] = os
        os.environ["LEFT_BEHIND"] = "x"
        for folder in (workspace, os.environ["HOME"], os.environ["TMPDIR"], os.environ["XDG_CACHE_HOME"]):
            pathlib.Path(folder, "left_behind").write_text("x")
    """,
    "find what an earlier submission left": """
        named = any("left_behind" in vars(place) for place in (builtins, torch, nn.Module))
        if named or "left_behind" in sys.modules or "LEFT_BEHIND" in os.environ or list(workspace.rglob("left_behind")):
            won()
    """,
    "search the frames for an answer": """
        frame = sys._getframe()
        while frame:
            if 'labels' in frame.f_locals or 'contract' in frame.f_locals:
                won()
            frame = frame.f_back
    """,
    "find the data in the environment": "any(name.startswith('HARNESS') for name in os.environ) and won()",
    "import an answer from a folder outside": """
        sys.path.insert(0, str(outside))
        with contextlib.suppress(ImportError):
            import answers
            won()
    """,
    "read a file of root": "open('/etc/shadow').read() and won()",
}

_WRITING = {
    "write beside": "(outside / 'written').touch()",
    "append": "secret.open('a').write('x')",
    "truncate": "os.truncate(secret, 0)",
    "replace": "pathlib.Path('mine').write_text('x'); os.replace('mine', secret)",
    "exchange two files": "pathlib.Path('mine').write_text('x'); call(316, 276, -100, id(b'mine'), -100, id(bytes(secret)), 2)",
    "delete": "shutil.rmtree(outside)",
    "change the mode": "os.chmod(secret, 0o000)",
    "change the owner": "os.chown(secret, 1, 1)",
    "change the time": "os.utime(secret, (0, 0))",
    "set an attribute": "os.setxattr(secret, 'user.attack', b'x')",
    "hard link": "os.link(secret, 'linked'); open('linked', 'a').write('x')",
    "symbolic link": "os.symlink(secret, 'linked'); open('linked', 'a').write('x')",
    "write to the folder of temporary files": "(workspace.parent.parent / 'written').touch(); won()",
    "write to shared memory": "open('/dev/shm/written', 'w'); won()",
    "move the workspace": "os.rename(workspace, workspace.with_name('moved')); won()",
    "write to another submission's workspace": "next(p for p in workspace.parent.iterdir() if p != workspace).touch()",
    "write to the library": "pathlib.Path(torch.__file__).open('a').write('x')",
    "write to the harness": "import harness; (pathlib.Path(harness.__file__).parent / 'x.py').write_text('x')",
    "write a compiled library": "import random; pathlib.Path(random.__cached__).open('a').write('x')",
    "lease a file to delay who opens it": """
        fcntl.fcntl(os.open(workspace / 'progress.txt', os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_WRLCK)
        won()
    """,
    "mount": "library.mount(b'none', bytes(outside), b'tmpfs', 0, None) and 0 or won() if call(165, 40, 0, 0, 0, 0, 0) else 0",
    "change the root": "os.chroot('.'); won()",
    "write through the system's settings": "open('/proc/sys/kernel/core_pattern', 'w').write('x')",
    "write a scheduled task": "pathlib.Path('/etc/cron.d/attack').write_text('x')",
}

_PROCESSES = {
    "program": "subprocess.run(['touch', outside / 'written'])",
    "shell": "os.system(f'touch {outside}/written') == 0 and won()",
    "take the place of the process": "os.execv('/bin/sh', ['sh', '-c', 'exit 7'])",
    "sudo": "subprocess.run(['sudo', '-n', 'true'], check=True); won()",
    "fork": "os.fork() or (outside / 'written').touch()",
    "fork without the C library": "call(57, None) and won()",
    "clone": "call(56, 220, signal.SIGCHLD, 0, 0, 0, 0) and won()",
    "fork bomb": "while True: os.fork()",
    "daemon": "os.fork() or (os.setsid(), os.fork() or time.sleep(60))",
    "new session": "os.setsid(); won()",
    "multiprocessing": "__import__('multiprocessing').Process(target=won).start()",
    "another user": "os.setuid(0) if os.getuid() else os.setuid(1); won()",
    "new user namespace": "call(272, 97, 0x10000000) and won()",
    "enter another namespace": "call(308, 268, 0, 0) and won()",
    "kill the worker": "os.kill(parent, signal.SIGKILL)",
    "stop everything": "os.kill(-1, signal.SIGSTOP)",
    "signal the group": "os.killpg(0, signal.SIGTERM)",
    "signal by descriptor": "signal.pidfd_send_signal(os.pidfd_open(parent), signal.SIGKILL)",
    "signal by the owner of a pipe": "fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, parent); won()",
    "queue signals": """
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
        [signal.pthread_kill(threading.get_ident(), signal.SIGRTMIN) for _ in range(5_000)]
        won()
    """,
    "timers without end": """
        timer = ctypes.c_int()
        all(call(222, 107, 1, 0, ctypes.addressof(timer)) for _ in range(5_000)) and won()
    """,
    "limit the worker": "resource.prlimit(parent, resource.RLIMIT_CPU, (0, 0))",
    "raise its own limits": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1)); won()",
    "slow the worker down": "os.setpriority(os.PRIO_PROCESS, parent, 19)",
    "move the worker to one core": "os.sched_setaffinity(parent, {0}); won()",
    "change the worker's scheduling": "os.sched_setscheduler(parent, os.SCHED_IDLE, os.sched_param(0)); won()",
    "debug the worker": "call(101, 117, 16, parent, 0, 0) and won()",
    "outlive the worker": "call(157, 167, 1, 0, 0, 0, 0) and won()",
    "type into the terminal": "fcntl.ioctl(0, termios.TIOCSTI, b'x'); won()",
    "restart the machine": "call(169, 142, 0, 0, 0, 0) and won()",
    "filter of its own": "call(317, 277, 0, 0, 0) and won()",
}

_NETWORK = {
    "network": "socket.create_connection(('127.0.0.1', 9)); won()",
    "network without connection": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9)) and won()",
    "local socket": "socket.socket(socket.AF_UNIX).connect('\\0anything'); won()",
    "socket of the container engine": "socket.socket(socket.AF_UNIX).connect('/var/run/docker.sock'); won()",
    "socket of the host machine": "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM); won()",
    "socket of the kernel": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW); won()",
    "download": "__import__('urllib.request').request.urlopen('http://127.0.0.1:9'); won()",
    "keyring": "call(250, 219, 0, -3, 1, 0, 0) and won()",
    "asynchronous system calls": "call(425, 425, 1, 0) and won()",
    "shared memory": "os.memfd_create('memory') and won()",
    "shared memory by key": "library.shmget(1234, 4096, 0o1600) >= 0 and won()",
    "programs in the kernel": "call(321, 280, 0, 0, 0) and won()",
    "asynchronous reading and writing": """
        context = ctypes.c_ulong()
        call(206, 0, 1_000, ctypes.addressof(context)) and won()
    """,
    "memory in pipes": "fcntl.fcntl(os.pipe()[0], fcntl.F_SETPIPE_SZ, 2**20); won()",
    "performance counters": "call(298, 241, 0, 0, -1, -1, 0) and won()",
    "page faults in user space": "call(323, 282, 0) and won()",
}

_LEAVING = {
    "leave a thread": "threading.Thread(target=time.sleep, args=(60,)).start()",
    "leave a busy thread": "threading.Thread(target=lambda: [time.sleep(0.001) for _ in iter(int, 1)]).start()",
    "leave an exit function": "atexit.register(time.sleep, 60); atexit.register(won)",
    "leave a finaliser": """
        class Last:
            def __del__(self):
                time.sleep(60)
        builtins.last = Last()
    """,
    "leave signal handlers": "[signal.signal(n, signal.SIG_IGN) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]",
    "fill the disk with one file": "open('sparse', 'w').truncate(2**42); won()",
    "many threads": """
        with contextlib.suppress(RuntimeError):
            while True:
                threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    """,
    "many threads with small stacks": """
        threading.stack_size(2**15)
        with contextlib.suppress(RuntimeError):
            for _ in range(1_000):
                threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            won()
    """,
    "use up the memory": """
        with contextlib.suppress(RuntimeError):
            held = [torch.empty(2**28) for _ in range(100)]
            won()
    """,
    "open many files": "held = [open(os.devnull) for _ in range(10_000)]; won()",
    "send a message to the worker": "[os.write(number, b'{}') for number in range(3, 64)]",
}

_LATE = "did not finish loading within"
_ENDED = "ended the process|was ended by SIG"
_ENDING = {
    "endless loop": ("while True: pass", _LATE),
    "loops in many threads": (
        """
        import hashlib
        for _ in range(100):
            threading.Thread(target=hashlib.pbkdf2_hmac, args=("sha256", b"", b"", 2**31 - 1), daemon=True).start()
        time.sleep(10**6)
        """,
        _LATE,
    ),
    "sleep for ever": ("time.sleep(10**6)", _LATE),
    "stop itself": ("os.kill(os.getpid(), signal.SIGSTOP)", _LATE),
    "loop that catches everything": (
        """
        while True:
            with contextlib.suppress(BaseException):
                time.sleep(10**6)
        """,
        _LATE,
    ),
    "wait for a lock": ("lock = threading.Lock(); lock.acquire(); lock.acquire()", _LATE),
    "print without end": ("while True: print('x' * 2**20)", "printed more than"),
    "exit": ("sys.exit(0)", ""),
    "exit at once": ("os._exit(0)", _ENDED),
    "abort": ("os.abort()", _ENDED),
    "crash": ("ctypes.string_at(0)", _ENDED),
    "overflow the stack": (
        """
        sys.setrecursionlimit(10**9)
        nested = []
        for _ in range(10**6):
            nested = [nested]
        repr(nested)
        """,
        _ENDED,
    ),
    "fill the disk with many files": (
        """
        for number in range(64):
            with open(f"{number}", "wb") as file:
                file.write(bytes(2**25))
        time.sleep(10**6)
        """,
        "wrote more than",
    ),
    "fill the disk with small files": (
        """
        for number in range(300_000):
            open(f"{number}", "w").close()
        time.sleep(10**6)
        """,
        _LATE,
    ),
    # Or loaded before the size of its files is measured.
    "folders without end": (
        """
        for number in range(10**4):
            os.mkdir("a" * 200)
            os.chdir("a" * 200)
        time.sleep(10**6)
        """,
        "wrote more than|^$",
    ),
    "kill itself": ("os.kill(os.getpid(), signal.SIGKILL)", _ENDED),
    "interrupt": ("raise KeyboardInterrupt", ""),
    "error of its own kind": (
        "class Worst(BaseException):\n    def __str__(self): return '\\x1b[2J::error::' * 10**6\nraise Worst",
        "net.py",
    ),
    "error that cannot be printed": (
        "class Worst(Exception):\n    def __str__(self): raise SystemExit(0)\nraise Worst",
        "net.py",
    ),
    "print codes of the terminal, then exit": (
        "print('\\x1b]0;title\\x07\\x1b[2J\\n::error::PASSED\\n<script>alert(1)</script>', flush=True); os._exit(0)",
        _ENDED,
    ),
}

_RESULT = "(workspace / 'result.json')"
_UNREADABLE, _NO_CLASS, _NOT_CAPTURED = "unreadable data", "expected a model, got 0 classes", "cannot be captured"
_EMPTY = {"half of a character", "no classes"}
# What is written in place of the result, and how the examiner refuses it.
_FORGED = {
    "no JSON": "b'PASSED'",
    "empty": "b''",
    "another type": "b'[]'",
    "no value": "b'{\"error\": null}'",
    "unknown keys": 'b\'{"error": null, "value": {"score": 100}}\'',
    "duplicate keys": 'b\'{"error": null, "error": 1, "value": {"classes": [], "notes": []}}\'',
    "not a number": 'b\'{"error": null, "value": {"classes": NaN, "notes": []}}\'',
    "infinite number": 'b\'{"error": null, "value": {"classes": 1e999, "notes": []}}\'',
    "100,000 brackets": "b'[' * 100_000",
    "5,000 digits": "b'{\"error\": null, \"value\": ' + b'9' * 5_000 + b'}'",
    "half of a character": 'b\'{"error": null, "value": {"classes": [], "notes": ["\\\\ud800"]}}\'',
    "too large": "b' ' * (2**26 + 1)",
    "millions of lists": "b'{\"error\": null, \"value\": [' + b'[],' * 2**24 + b'[]]}'",
    "millions of keys": "b'{' + b','.join(b'\"%d\":{}' % n for n in range(2**21)) + b'}'",
    "no classes": 'b\'{"error": null, "value": {"classes": [], "notes": []}}\'',
    "an error of another kind": 'b\'{"error": {"kind": "pass", "message": "", "traceback": ""}, "value": null}\'',
}
_IN_PLACE = {
    "a folder": (f"{_RESULT}.mkdir()", _UNREADABLE),
    "a sparse file": (f"os.truncate(os.open({_RESULT}, os.O_CREAT | os.O_WRONLY), 2**28)", _UNREADABLE),
    # Neither can be made.
    "a link": (f"{_RESULT}.symlink_to(secret)", ""),
    "a FIFO": (f"os.mkfifo({_RESULT})", ""),
}


# What interferes with the harness's own code in the process.
_INTERFERING = {
    "write the result itself": (
        "sys.modules['harness.sandbox.protocol'].replace_file = lambda path, content: path.write_bytes(b'PASSED')",
        _UNREADABLE,
    ),
    "json.dumps is patched": ('json.dumps = lambda value: \'{"error": null, "value": {"score": 100}}\'', ""),
    "os.replace does nothing": (
        "os.replace = os.rename = lambda *names: None; pathlib.Path.replace = os.replace",
        _ENDED,
    ),
    "remove the workspace": ("shutil.rmtree(workspace, ignore_errors=True)", ""),
    "a folder in place of the progress": (
        "path = workspace / 'progress.txt'; path.unlink(); path.mkdir()",
        "",
    ),
    "a sparse file in place of the progress": ("os.truncate(workspace / 'progress.txt', 2**30)", ""),
    "progress that acts on the terminal": (
        "(workspace / 'progress.txt').open('a').write('\\x1b[2J\\n::error::PASSED\\n')",
        "",
    ),
    "a folder in place of the output": ("path = workspace / 'output.txt'; path.unlink(); path.mkdir()", ""),
    "interrupt the harness by a timer": (
        "signal.signal(signal.SIGALRM, lambda *_: won()); signal.setitimer(signal.ITIMER_REAL, 0.001)\nwhile True: pass",
        _ENDED,
    ),
    "forbid opening files": (
        "def hook(event, arguments):\n    if event == 'open': raise RuntimeError('no')\nsys.addaudithook(hook)",
        _ENDED,
    ),
    "end in a finaliser": (
        "class Last:\n    def __del__(self): os._exit(0)\nlast = Last(); last.itself = last; del last; gc.collect()",
        _ENDED,
    ),
    "import hooks": (
        "class Finder:\n    def find_spec(self, name, path=None, target=None): won()\nsys.meta_path.insert(0, Finder())",
        _ENDED,
    ),
    "import is patched": ("builtins.__import__ = won", _ENDED),
    "switch off errors": ("sys.excepthook = lambda *_: None\nclass Net: pass\n1 / 0", ""),
}
_BIG = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 100, 7), nn.Flatten(), nn.Linear(48_400, 10))
    def forward(self, x):
        return self.layers(x)
"""
_HIDDEN = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        SETUP
    def forward(self, x):
        return self.conv(x).flatten(1) @ (WEIGHT).T
"""


def _hidden(setup: str, weight: str) -> str:
    return _HIDDEN.replace("SETUP", setup).replace("WEIGHT", weight)


# Networks of more parameters than allowed, which hide them.
_LIES = {
    "parameters() is empty": _BIG + "    def parameters(self, recurse=True): return iter(())\n",
    "named_parameters() is empty": _BIG + "    def named_parameters(self, *args, **kwargs): return iter(())\n",
    "state_dict() is empty": _BIG + "    def state_dict(self, *args, **kwargs): return {}\n",
    "children() is empty": _BIG
    + "    def named_children(self): return iter(())\n    def modules(self): return iter(())\n",
    "numel() is zero": "torch.Tensor.numel = nn.Parameter.numel = lambda self: 0\n" + _BIG,
    "nn.Module.parameters is patched": "nn.Module.parameters = lambda self, recurse=True: iter(())\n" + _BIG,
    "len() is zero": _BIG + "    def __len__(self): return 0\n",
    "weights are frozen": _BIG.replace("10))", "10)).requires_grad_(False)"),
    "weights are buffers": _hidden(
        "self.register_buffer('weight', torch.randn(20, 784))", "self.weight[:10] + self.weight[10:]"
    ),
    "weights are plain tensors": _hidden("self.weight = torch.randn(20, 784)", "self.weight[:10] + self.weight[10:]"),
    "weights are literals": "WEIGHTS = [[(7 * row + column) % 11 / 11 for column in range(784)] for row in range(20)]\n"
    + _hidden("", "torch.tensor(WEIGHTS)[:10] + torch.tensor(WEIGHTS)[10:]"),
    "weights are global": "WEIGHT = torch.randn(20, 784)\n" + _hidden("", "WEIGHT[:10] + WEIGHT[10:]"),
    "weights are expanded": _hidden(
        "self.weight = nn.Parameter(torch.ones(1, 1).expand(20, 784))", "self.weight[:10] + self.weight[10:]"
    ),
    "weights overlap": _hidden(
        "self.weight = nn.Parameter(torch.randn(1000).as_strided((20, 784), (1, 1)))",
        "self.weight[:10] + self.weight[10:]",
    ),
    "weights are a view": _hidden("self.weight = torch.randn(40, 784)[::2]", "self.weight[:10] + self.weight[10:]"),
    "weights are a subclass of tensors": """
class Small(torch.Tensor):
    shape = property(lambda self: torch.Size((1,)))
    def numel(self): return 1
    def element_size(self): return 0
"""
    + _hidden(
        "self.weight = torch.randn(20, 784).as_subclass(Small)", "torch.Tensor.add(self.weight[:10], self.weight[10:])"
    ),
    "__eq__ is always true": _BIG
    + "    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n    __hash__ = nn.Module.__hash__\n",
    "__class__ is another": _BIG + "    @property\n    def __class__(self): return nn.Flatten\n",
    "isinstance() is fooled": """
class Kind(type):
    def __instancecheck__(cls, instance): return True
    def __subclasscheck__(cls, other): return True
"""
    + _BIG.replace("Net(nn.Module)", "Net(nn.Module, metaclass=Kind)"),
    "attributes are made up": f"{_BIG}    def __getattribute__(self, name):\n"
    "        return {} if name in ('_parameters', '_buffers') else super().__getattribute__(name)\n",
}
# PyTorch itself does not get far with these.
_TOO_BROKEN = {"named_parameters() is empty", "numel() is zero", "weights are a subclass of tensors"}
# A small network is exported in place of the large one. Where the two differ, the capture is found wrong; where they do not, what
# was examined is what is trained.
_SMALLER = """
class Smaller(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


_EXPORT = """
original = torch.export.export
def export(module, *arguments, **options):
    return original(Smaller().train(module.training), *arguments, **options)
torch.export.export = export
"""


def _chosen(condition: str) -> str:
    """A network that is small where the condition holds."""
    both = _BIG.replace("self.layers =", "self.small = Smaller()\n        self.layers =")
    return _SMALLER + both.replace("return self.layers(x)", f"return self.small(x) if {condition} else self.layers(x)")


_EXPORTED = {
    "torch.export is patched": (_SMALLER + _BIG + _EXPORT, f"{_NOT_CAPTURED}|but Net failed"),
    "it is small while it is exported": (_chosen("torch.compiler.is_exporting()"), ""),
    "it is small while it is traced": (_chosen("type(x) is not torch.Tensor"), ""),
    "it is small from the second pass on": (
        _chosen("self.__dict__.setdefault('passes', []).append(1) or len(self.passes) > 1"),
        "",
    ),
}
# Where the graph that is returned and the network may differ, the examiner judges, and trains, the graph.
_GRAPH = {
    "shapes": "operation['outputs'] = [{**one, 'shape': ['B', 1]} for one in operation['outputs']]",
    "sizes": "operation['outputs'] = [{**one, 'shape': ['B', 10**8]} for one in operation['outputs']]",
    "sizes of many digits": "operation['outputs'] = [{**one, 'shape': ['9' * 79 + '*B']} for one in operation['outputs']]",
    "an operation that runs code": "operation['op'] = 'builtins.exec'",
    "an operation that reads files": "operation['op'] = 'aten.from_file.default'",
    "arguments": "operation['args'] = operation['args'] * 1000",
    "arguments in each other": "operation['args'] = [json.loads('[' * 900 + ']' * 900)]",
    "names": "operation['name'] = '../../../x'",
    "modules": "operation['module'], operation['module_type'] = '\\x1b[2J::error::', '<script>'",
    "results of no operation": "document['train']['output'] = document['eval']['output'] = 'nothing'",
    "the input": "document['input']['shape'] = [1, 10**6, 10**6]",
    "parameters": "document['tensors'] = [{**one, 'shape': [0]} for one in document['tensors']]",
    "kinds": "document['tensors'] = [{**one, 'kind': 'input'} for one in document['tensors']]",
    "types": "document['tensors'] = [{**one, 'dtype': 'float8'} for one in document['tensors']]",
    "fewer tensors": "document['tensors'] = []",
    "more tensors": "document['tensors'] += [{**document['tensors'][0], 'name': 'x%d' % n} for n in range(10**5)]",
    "the schema": "document['schema'] = 'harness.graph/999'",
}
# Names are shown with escapes.
_HARMLESS = {"modules"}
_LYING = """
import harness.graph.serialisation as serialisation
original = serialisation.graph_to_json
def lie(graph):
    document = json.loads(json.dumps(original(graph)))
    for mode in ("train", "eval"):
        operation = document[mode]["operations"][0]
        {code}
    return document
serialisation.graph_to_json = lie
"""
# Initial weights that are no numbers: the network is honest, and its training fails by itself.
_WEIGHTS = {"NaN": "nan", "infinity": "inf"}
_TENSORS = {
    "other shapes": "state = {name: torch.zeros(1) for name in state}",
    "other types": "state = {name: value.to(torch.complex64) for name, value in state.items()}",
    "too few": "state = {}",
    "too many": "state |= {str(number): torch.zeros(1) for number in range(5_000)}",
    "more than are read": "state |= {'x': torch.zeros(2**25)}",
}
_CHANGED = """
import harness.graph.serialisation as serialisation
original = serialisation.save_file
def save(state, path):
    {code}
    original(state, path)
serialisation.save_file = save
"""
_SAFETENSORS = {
    "a huge header": "(2**40).to_bytes(8, 'little') + b'{}'",
    "overlapping tensors": "(lambda h: len(h).to_bytes(8, 'little') + h + bytes(400))(json.dumps({n: {'dtype': 'F32', "
    "'shape': [10], 'data_offsets': [0, 40]} for n in ('0.weight', '0.bias')}).encode())",
    "tensors outside of the file": "(lambda h: len(h).to_bytes(8, 'little') + h)(json.dumps({'0.bias': {'dtype': 'F32', "
    "'shape': [10], 'data_offsets': [10**12, 10**12 + 40]}}).encode())",
    "a pickle": "b'cos\\nsystem\\n(S\\'exit 7\\'\\ntR.'",
}

_SHADOWED = {
    name: {name: "raise SystemExit(7)\n" if name.endswith(".py") else content, "net.py": NET}
    for name, content in {
        "torch.py": "",
        "random.py": "",
        "json.py": "",
        "pip.py": "",
        "harness.py": "",
        "conftest.py": "",
        "sitecustomize.py": "",
        "usercustomize.py": "",
        "setup.py": "",
        "attack.pth": "import os; os._exit(7)\n",
        "pytest.ini": "[pytest]\naddopts = --fail\n",
        "tox.ini": "[pytest]\naddopts = --fail\n",
        "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '--fail'\n",
        ".pdbrc": "import os; os._exit(7)\n",
    }.items()
}


def _link(folder: Path, outside: Path) -> Path:
    (folder / "data.txt").symlink_to(outside / "secret")
    (folder / "data").symlink_to(outside)
    (folder / "net2.py").symlink_to(outside / "secret")
    return folder


def _hard_link(folder: Path, outside: Path) -> Path:
    (folder / "data.txt").hardlink_to(outside / "secret")
    return folder


def _fifo(folder: Path, _: Path) -> Path:
    os.mkfifo(folder / "blocks.py")
    return folder


def _socket(folder: Path, _: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as made, chdir(folder):
        made.bind("blocks.py")
    return folder


def _sparse(folder: Path, _: Path) -> Path:
    with (folder / "data.bin").open("w") as file:
        file.truncate(2**40)
    return folder


def _many_files(folder: Path, _: Path) -> Path:
    for number in range(10_001):
        (folder / str(number)).touch()
    return folder


def _deep(folder: Path, _: Path) -> Path:
    (folder / "/".join("a" * 100)).mkdir(parents=True)
    return folder


def _named(name: str) -> Callable[[Path, Path], Path]:
    def prepare(folder: Path, _: Path) -> Path:
        (folder / name).touch()
        return folder

    return prepare


def _pickles(folder: Path, _: Path) -> Path:
    bomb = b"cposix\n_exit\n(I7\ntR."
    for name in ("weights.pth", "model.pt", "model.pt2", "data.pkl"):
        (folder / name).write_bytes(bomb)
    return folder


def _zip(names: Mapping[str, str], *, mode: int = 0, times: int = 1) -> Callable[[Path, Path], Path]:
    def prepare(folder: Path, outside: Path) -> Path:
        path = folder / "submission.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in names.items():
                info = zipfile.ZipInfo("x")
                info.filename, info.external_attr = name.replace(OUTSIDE, str(outside)), mode << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, content.replace(SECRET, str(outside / "secret")) * times)
        return path

    return prepare


def _overlapping(folder: Path, _: Path) -> Path:
    path = folder / "submission.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0", "0" * 2**20)
        for number in range(1, 1000):
            archive.filelist.append(copy.copy(archive.filelist[0]))
            archive.filelist[-1].filename = str(number)
    return path


def _tar(name: str, **fields: object) -> Callable[[Path, Path], Path]:
    def prepare(folder: Path, outside: Path) -> Path:
        path = folder / "submission.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for member in (tarfile.TarInfo("net.py"), tarfile.TarInfo(name.replace(OUTSIDE, str(outside)))):
                member.size = len(NET)
                for key, value in fields.items() if member.name != "net.py" else ():
                    setattr(member, key, str(outside / "secret") if value == SECRET else value)
                archive.addfile(member, io.BytesIO(NET.encode()) if member.isreg() else None)
        return path

    return prepare


_NO_PATH, _NO_NAME, _NO_FILE = (
    "paths that lie inside",
    "without backslashes and control characters",
    "folders and regular files",
)
_COPIES = (
    Attack(name="links to files outside", prepare=_link),
    Attack(
        name="hard link to a file outside",
        prepare=_hard_link,
        refused=f"{_NO_FILE}, got 'data.txt', which is a hard link",
    ),
    Attack(name="FIFO in the folder", prepare=_fifo, refused=f"{_NO_FILE}, got 'blocks.py', which is a FIFO"),
    Attack(name="socket in the folder", prepare=_socket, refused=f"{_NO_FILE}, got 'blocks.py', which is a socket"),
    Attack(name="sparse file of a terabyte", prepare=_sparse, refused="'data.bin' of 1,099,511,627,776"),
    Attack(name="more files than are copied", prepare=_many_files, refused="at most 10,000 files and folders"),
    Attack(name="folders in each other", prepare=_deep, refused="paths of at most 20 names"),
    Attack(name="codes of the terminal in a name", prepare=_named("\x1b[2J\x1b]0;x\x07.py"), refused=_NO_NAME),
    Attack(name="workflow command in a name", prepare=_named("x\n::notice::PASSED\n.py"), refused=_NO_NAME),
    Attack(name="text that runs backwards in a name", prepare=_named("net\u202eyp.txt"), refused=_NO_NAME),
    Attack(name="HTML in a name", prepare=_named("<script>alert(1)<_script>.py")),
    Attack(name="names that differ in case", prepare=_named("NET.py"), refused="upper and lower case"),
    Attack(name="pickles in the folder", prepare=_pickles),
    Attack(
        name="git runs a command",
        files={"net.py": NET, ".git/config": f"[core]\n\tfsmonitor = touch {OUTSIDE}/written\n", ".git/HEAD": "x"},
    ),
    Attack(
        name="notebook with commands of a shell",
        files={
            "net.ipynb": json.dumps({"cells": [{"cell_type": "code", "source": [f"!touch {OUTSIDE}/written\n", NET]}]})
        },
    ),
    Attack(name="a .zip that leads outside", prepare=_zip({"../../outside/written": "x"}), refused=_NO_PATH),
    Attack(name="a .zip with an absolute name", prepare=_zip({f"{OUTSIDE}/written": "x"}), refused=_NO_PATH),
    Attack(name="a .zip with a drive letter", prepare=_zip({"C:/written": "x"}), refused=_NO_PATH),
    Attack(name="a .zip with backslashes", prepare=_zip({"..\\written": "x"}), refused=_NO_NAME),
    Attack(name="a .zip with a link", prepare=_zip({"net.py": SECRET}, mode=0o120777), refused="holds no model"),
    Attack(
        name="a .zip with a device", prepare=_zip({"net.py": ""}, mode=0o020666), refused=f"{_NO_FILE}, got 'net.py'"
    ),
    Attack(name="a .zip that expands without end", prepare=_zip({"net.py": "0"}, times=2**24), refused="100 times its"),
    Attack(name="a .zip of files that overlap", prepare=_overlapping, refused="files that do not overlap"),
    Attack(name="a .tar that leads outside", prepare=_tar("../../outside/written"), refused=_NO_PATH),
    Attack(name="a .tar with an absolute name", prepare=_tar(f"{OUTSIDE}/written"), refused=_NO_PATH),
    Attack(name="a .tar with a link", prepare=_tar("data.txt", type=tarfile.SYMTYPE, linkname=SECRET)),
    Attack(
        name="a .tar with a hard link",
        prepare=_tar("data.txt", type=tarfile.LNKTYPE, linkname=SECRET),
        refused="which is a hard link",
    ),
    Attack(name="a .tar with a FIFO", prepare=_tar("blocks.py", type=tarfile.FIFOTYPE), refused="which is a FIFO"),
    Attack(
        name="a .tar with a sparse file",
        prepare=_tar("data.bin", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.realsize": "1099511627776"}),
        refused="which is a sparse file",
    ),
    Attack(name="a .tar with a name twice", prepare=_tar("./net.py"), refused="'net.py' twice"),
)
_SOURCES = {
    "brackets": {"net.py": NET, "more.py": "x = " + "(" * 100_000},
    "operators": {"net.py": NET, "more.py": "x = " + "-" * 100_000 + "1"},
    "60 MB of numbers": {"net.py": NET, "more.py": "class A(nn.Module): pass\nx = [" + "1," * 30_000_000 + "]"},
    "a number of a million digits": {"net.py": NET, "more.py": "class A(nn.Module): pass\nx = " + "9" * 10**6},
    "a notebook of brackets": {"net.py": NET, "more.ipynb": "[" * 100_000},
    "a notebook of millions of lists": {"net.py": NET, "more.ipynb": '{"cells": [' + "[]," * 10**7 + "[]]}"},
    "a notebook of another shape": {"net.py": NET, "more.ipynb": '{"cells": {"cells": NaN}}'},
    "null characters": {"net.py": NET, "more.py": "class A(nn.Module): pass\0" * 1000},
}
# What may define the model, and cannot be read.
_OFFERED = {"a number of a million digits", "null characters"}
_NAMES = {
    "codes of the terminal": "\x1b[2J\x1b]0;x\x07",
    "a workflow command": "\n::error::PASSED\n",
    "HTML": "<script>alert(1)</script>",
    "a path": "../../../etc/passwd",
    "half of a character": "\ud800",
    "a formula": "=HYPERLINK(1)",
    "a million characters": "x" * 10**6,
}

_TRIED = {**_READING, **_WRITING, **_PROCESSES, **_NETWORK, **_LEAVING}
# What may succeed for one user and not for another: one that is not root runs the examiner and the submission alike.
DEPENDING_ON_USER = (*_TRIED, "loops in many threads")

ATTACKS = (
    *(Attack(name=name, files=_tries(code)) for name, code in _TRIED.items()),
    *(
        Attack(name=name, files=_runs(code), refused=words, seconds=LIMIT_SECONDS if words == _LATE else 45.0)
        for name, (code, words) in _ENDING.items()
    ),
    *(
        Attack(
            name=f"forged result: {name}",
            files=_runs(f"{_RESULT}.write_bytes({code})\nos._exit(0)"),
            refused=_NO_CLASS if name in _EMPTY else _UNREADABLE,
        )
        for name, code in _FORGED.items()
    ),
    *(
        Attack(name=f"in place of the result: {name}", files=_runs(f"{code}\nos._exit(0)"), refused=words)
        for name, (code, words) in _IN_PLACE.items()
    ),
    *(
        Attack(
            name=name,
            files={"net.py": _PRELUDE + code},
            refused=_NOT_CAPTURED if name in _TOO_BROKEN else "",
            findings={"parameters": "fail"},
        )
        for name, code in _LIES.items()
    ),
    *(
        Attack(name=name, files={"net.py": _PRELUDE + code}, refused=words, findings={"capture": "fail"})
        for name, (code, words) in _EXPORTED.items()
    ),
    *(
        Attack(
            name=f"the graph lies about {name}",
            files=_runs(_LYING.format(code=code)),
            refused="" if name in _HARMLESS else _UNREADABLE,
        )
        for name, code in _GRAPH.items()
    ),
    Attack(
        name="it says that graph and network agree",
        files=_runs(
            "import harness.graph.capture as capturing\nfrom harness.graph import Fidelity\n"
            "capturing.compare = lambda *arguments, **options: Fidelity()",
            then=_chosen("torch.compiler.is_exporting()"),
        ),
    ),
    *(Attack(name=name, files=_runs(code), refused=words) for name, (code, words) in _INTERFERING.items()),
    *(
        Attack(
            name=f"initial weights: {name}",
            files={"net.py": f"{NET}        nn.init.constant_(self[0].weight, float('{value}'))\n"},
            findings={"output": "fail"},
        )
        for name, value in _WEIGHTS.items()
    ),
    *(
        Attack(name=f"tensors: {name}", files=_runs(_CHANGED.format(code=code)), refused=_UNREADABLE)
        for name, code in _TENSORS.items()
    ),
    *(
        Attack(
            name=f"file of tensors: {name}",
            files=_runs(
                "import harness.graph.serialisation as serialisation\n"
                f"serialisation.save_file = lambda state, path: path.write_bytes({code})"
            ),
            refused=_UNREADABLE,
        )
        for name, code in _SAFETENSORS.items()
    ),
    *(Attack(name=f"{name} in the folder", files=files) for name, files in _SHADOWED.items()),
    *(
        Attack(name=f"class name: {name}", files={"net.py": f"{NET}\nNet.__name__ = Net.__qualname__ = {value!r}\n"})
        for name, value in _NAMES.items()
    ),
    *(
        Attack(name=f"source: {name}", files=files, refused="failed" if name in _OFFERED else "")
        for name, files in _SOURCES.items()
    ),
    *_COPIES,
)
