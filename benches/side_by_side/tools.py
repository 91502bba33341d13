"""Processes that are started, pinned, measured, and never left behind."""

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROXY_CORE, ENDS_CORE = 0, 1
PATIENCE = 20.0
PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class Missing(Exception):
    """Something that this machine does not have; the text says how to get it."""


def say(words: str) -> None:
    """Progress, beside the results on standard output."""
    print(words, file=sys.stderr, flush=True)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Asks the kernel for a signal at the parent's end, also when that is killed."""
    _LIBC.prctl(PR_SET_PDEATHSIG, number)


def prepare_this_process() -> None:
    """Ends by exceptions, so that everything is cleaned up; may open as much as is allowed."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    die_with_parent(signal.SIGTERM)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # This process only waits and reads clocks; it must not do so beside the proxy.
    os.sched_setaffinity(0, {ENDS_CORE})


@contextlib.contextmanager
def work_folder():
    """A folder that goes at the end; a helper removes it if this process is killed."""
    folder = Path(tempfile.mkdtemp(prefix="tailhop-side-by-side-"))
    script = 'read -r _; rm -rf "$1"'
    janitor = subprocess.Popen(
        ["sh", "-c", script, "sh", folder], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield folder
    finally:
        janitor.stdin.close()
        janitor.wait()
        shutil.rmtree(folder, ignore_errors=True)


class Process:
    """A child on one core, killed at the end of its `with`, or with this process."""

    def __init__(self, command: list, core: int, log: Path, **options):
        def before_exec() -> None:
            os.sched_setaffinity(0, {core})
            die_with_parent()

        self.log = log
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **options}
        with log.open("ab") as diagnostics:
            self.child = subprocess.Popen(
                [str(word) for word in command],
                stderr=diagnostics,
                preexec_fn=before_exec,
                **options,
            )
        self.pid = self.child.pid

    def __enter__(self):
        return self

    def __exit__(self, *_exception) -> None:
        self.child.kill()
        self.child.wait()

    def until_accepting(self, port: int) -> None:
        """Returns when it accepts connections."""
        deadline = time.monotonic() + PATIENCE
        while not accepts(port):
            if self.child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.child.args[0]} does not listen: {self.last_words()}")
            time.sleep(0.01)

    def last_words(self) -> str:
        """The end of what it said."""
        return self.log.read_text(errors="replace")[-2000:]

    def cpu(self) -> float:
        """User and system time of all its threads, also of those that ended, in microseconds.

        The kernel's clock of another process, in nanoseconds; `/proc/PID/stat` has ticks of 10 ms.
        """
        return time.clock_gettime_ns((~self.pid << 3) | 2) / 1000

    def resident(self) -> int:
        """Resident memory in KiB."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def accepts(port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on now, below those that clients are given."""
    first, ports = 20_000 + os.getpid() * 7 % 9_000, []
    for port in range(first, 32_000):
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                taken.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError("no free ports")


class Peer(Process):
    """The origin, or one load: see `peer/main.rs`."""

    def __init__(self, binary: Path, folder: Path, *words: object):
        super().__init__(
            [binary, *words], ENDS_CORE, folder / "peer.log", stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def line(self) -> str:
        """The next line of its output."""
        line = self.child.stdout.readline()
        if not line:
            raise RuntimeError(f"the load failed: {self.last_words()}")
        return line.strip()

    def until_ready(self) -> None:
        """Returns when it has opened what it needs."""
        line = self.line()
        if line != "ready":
            raise RuntimeError(f"the load said {line!r}")

    def go(self) -> dict:
        """Lets it begin, or end, and returns what it says then."""
        self.child.stdin.write("\n")
        return json.loads(self.line())


def build(binary: Path | None, peer: Path | None) -> tuple[Path, Path]:
    """Both binaries of this project; what is not given is built.

    Two calls: built at once, the test features of the peer's libraries would be in the product.
    """
    cargo = ["cargo", "build", "--release", "--locked", "--quiet"]
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    if binary is None:
        subprocess.run([*cargo, "--bin", "tailhop"], cwd=ROOT, check=True)
    if peer is None:
        subprocess.run([*cargo, "--example", "peer"], cwd=ROOT, check=True)
    return (binary or target / "tailhop").resolve(), (peer or target / "examples/peer").resolve()
