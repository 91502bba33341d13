"""From exec to accepting, and the memory of an idle instance, of a release binary.

    cargo build --release && python3 benches/start.py [BINARY]

Starts it ten times with a configuration that needs no tailnet; prints every figure, sorted.
"""

import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 10
IDLE_SECONDS = 1.0
CONFIG = """
[listen]
data = "127.0.0.1:{data}"
admin = "127.0.0.1:{admin}"
[tailnet]
dial = "direct"
[backends]
m1 = {{ host = "127.0.0.1" }}
[services]
ollama = {{ port = {port} }}
"""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def once(binary: Path, folder: Path) -> tuple[float, int]:
    """Milliseconds from exec to the first accepted connection, and KiB resident when idle."""
    data = free_port()
    config = folder / "routing.toml"
    config.write_text(CONFIG.format(data=data, admin=free_port(), port=free_port()))
    began = time.perf_counter()
    with subprocess.Popen(
        [binary, "run", "--config", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            while not accepts(data):
                time.sleep(0.0002)
            took = (time.perf_counter() - began) * 1000
            time.sleep(IDLE_SECONDS)
            return took, resident(process.pid)
        finally:
            process.terminate()


def accepts(port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def resident(pid: int) -> int:
    """Resident memory of a process in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def main() -> None:
    """Measures and prints."""
    binary = Path(sys.argv[1] if len(sys.argv) > 1 else "target/release/tailhop")
    with tempfile.TemporaryDirectory() as folder:
        figures = [once(binary, Path(folder)) for _ in range(ROUNDS)]
    print("exec to accepting, ms:", *(f"{took:.1f}" for took in sorted(f[0] for f in figures)))
    print("idle RSS, KiB:        ", *sorted(f[1] for f in figures))


if __name__ == "__main__":
    main()
