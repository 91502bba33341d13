"""What is measured. Each part starts what it needs, goes round (ABCABC..), and ends it again.

A part returns its figures: for each, a title, a unit, and the value of each round by name.
"""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from proxies import (
    Envoy,
    GrpcEnvoy,
    GrpcTailhop,
    KeptTailhop,
    ManyTailhop,
    ModelTailhop,
    PlainAgain,
    PlainTailhop,
    Proxy,
    Tailhop,
)
from tools import ROOT, Missing, Peer, Process, accepts, say

READ = ("GET", "/qdrant/collections/papers")
QUERY = ("POST", "/qdrant/collections/papers/points/query")
CONNECTIONS = 64
STREAMS = 2_000
TOKEN_STREAMS, TOKEN_GAP_MS, TOKEN_SECONDS = 200, 40, 2.5
RELOADS = 1_000


@dataclass
class Figure:
    """One row: the values of all rounds, by whom they are of, and whose are the measure."""

    title: str
    unit: str
    base: str = "nginx"
    values: dict[str, list[float]] = field(default_factory=dict)
    note: str = ""

    def add(self, name: str, value: float) -> None:
        """The value of a round."""
        self.values.setdefault(name, []).append(value)


@dataclass
class Stage:
    """What every part may use."""

    folder: Path
    peer: Path
    proxies: dict[type[Proxy], Path]
    ports: list[int]
    rounds: int
    scale: float

    def load(self, port: int, words: tuple, *more: object) -> Peer:
        """A load on a port."""
        kind, *rest = words
        return Peer(self.peer, self.folder, kind, f"127.0.0.1:{port}", *rest, *more)

    def count(self, requests: int) -> int:
        """So many requests, or fewer in a short run."""
        return max(CONNECTIONS, int(requests * self.scale))

    @contextlib.contextmanager
    def running(self, kinds: list[type[Proxy]] | None = None):
        """Every proxy, started in a folder of its own for this part."""
        with contextlib.ExitStack() as stack:
            rows = []
            for kind in kinds or list(self.proxies):
                proxy = make(self, kind)
                stack.callback(shutil.rmtree, proxy.folder, ignore_errors=True)
                rows.append((proxy, stack.enter_context(proxy.start())))
            # The first probes are over, and idle ones are few.
            time.sleep(1)
            yield rows


def make(stage: Stage, kind: type[Proxy]) -> Proxy:
    """A proxy that is not started yet."""
    binary = next((it for base, it in stage.proxies.items() if issubclass(kind, base)), None)
    if binary is None:
        raise Missing(f"{kind.name} is not here, or was not asked for")
    return kind(binary, stage.folder, stage.ports)


def cpu(stage: Stage) -> list[Figure]:
    """CPU a request: kept-alive reads and queries, and one new connection a request."""
    rows = [
        ("CPU a request: GET, kept-alive", READ, "kept", 20_000),
        ("CPU a request: POST of 250 bytes, kept-alive", QUERY, "kept", 20_000),
        ("CPU a request: GET, a new connection each", READ, "fresh", 6_000),
    ]
    figures = [Figure(title, "us") for title, *_ in rows]
    with stage.running() as running:
        for number in range(stage.rounds + 1):
            for figure, (_, ask, way, requests) in zip(figures, rows, strict=True):
                for proxy, process in running:
                    took = cpu_of(stage, proxy, process, ask, way, stage.count(requests))
                    # The first round only warms up.
                    if number:
                        figure.add(proxy.name, took)
    return figures


def cpu_of(stage: Stage, proxy: Proxy, process: Process, ask: tuple, way: str, requests: int):
    """CPU of a proxy for one request, in microseconds."""
    words = ("requests", *ask, CONNECTIONS, requests, way)
    with stage.load(proxy.port, words) as load:
        load.until_ready()
        before = process.cpu()
        whole(load.go(), requests)
        return (process.cpu() - before) / requests


def whole(result: dict, requests: int | None = None) -> dict:
    """A result in which nothing failed: other figures mean nothing."""
    if result["failed"] or (requests and result["answered"] != requests):
        raise RuntimeError(f"requests failed: {result}")
    return result


def grpc(stage: Stage) -> list[Figure]:
    """CPU of a unary gRPC call, against Envoy: one at a time, and many on few connections."""
    # As an app with one client does, and as one with many threads.
    rows = [("one at a time", 1, 1, 4_000), ("4 connections, 16 at once on each", 4, 16, 20_000)]
    figures = [Figure(f"CPU a gRPC call: {what}", "us", Envoy.name) for what, *_ in rows]
    with stage.running([GrpcTailhop, GrpcEnvoy]) as running:
        for number in range(stage.rounds + 1):
            for figure, (_, connections, at_once, calls) in zip(figures, rows, strict=True):
                for proxy, process in running:
                    took = cpu_of_calls(stage, proxy, process, (connections, at_once), calls)
                    # The first round only warms up.
                    if number:
                        figure.add(proxy.name, took)
    return figures


def cpu_of_calls(stage: Stage, proxy: Proxy, process: Process, way: tuple, calls: int) -> float:
    """CPU of a proxy for one call, in microseconds."""
    calls = stage.count(calls)
    with stage.load(proxy.calls, ("calls", "/qdrant.Points/Query", *way, calls)) as load:
        load.until_ready()
        before = process.cpu()
        whole(load.go(), calls)
        return (process.cpu() - before) / calls


def syscalls(stage: Stage) -> list[Figure]:
    """Calls of the kernel a request, counted by the kernel (perf), else by strace."""
    rows = [
        ("Syscalls a request: GET, kept-alive", "kept", 10_000),
        ("Syscalls a request: GET, a new connection each", "fresh", 4_000),
    ]
    counter = kernel_counter()
    figures = [Figure(title, "", note=counter.__doc__) for title, *_ in rows]
    with stage.running() as running:
        for _ in range(min(3, stage.rounds)):
            for figure, (_, way, requests) in zip(figures, rows, strict=True):
                for proxy, process in running:
                    words = ("requests", *READ, CONNECTIONS, requests, way)
                    with stage.load(proxy.port, words) as load:
                        load.until_ready()
                        count = counter(process.pid, lambda load=load: whole(load.go()))
                    figure.add(proxy.name, count / requests)
    return figures


def kernel_counter():
    """What counts system calls here."""
    event = ["perf", "stat", "-e", "raw_syscalls:sys_enter", "true"]
    if shutil.which("perf"):
        tried = subprocess.run(event, capture_output=True, text=True, check=False)
        if tried.returncode == 0 and re.search(r"\d\s+raw_syscalls", tried.stderr):
            return count_by_perf
    if shutil.which("strace"):
        return count_by_strace
    raise Missing("neither perf nor strace is here: apt-get install strace")


def count_by_perf(pid: int, run) -> int:
    """counted by perf"""
    command = ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", str(pid)]
    said = beside(command, run)
    return int(said.split(",", 1)[0])


def count_by_strace(pid: int, run) -> int:
    """counted by strace, which slows the proxy down"""
    said = beside(["strace", "-c", "-f", "-U", "calls,name", "-p", str(pid)], run)
    return int(re.search(r"(\d+) total", said)[1])


def beside(command: list[str], run) -> str:
    """What a counter says that is attached while `run` runs."""
    counter = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        time.sleep(0.4)
        run()
        counter.send_signal(signal.SIGINT)
        return counter.communicate(timeout=10)[1]
    finally:
        counter.kill()
        counter.wait()


def memory(stage: Stage) -> list[Figure]:
    """Resident memory an open token stream, 2,000 at once, in the first and in the third round."""
    title = f"Memory an open stream, of {STREAMS}, round "
    figures = {number: Figure(f"{title}{number}", "KiB") for number in (1, 3)}
    with stage.running() as running:
        idle = {proxy.name: process.resident() for proxy, process in running}
        for number in (1, 2, 3):
            for proxy, process in running:
                words = ("streams", "/ollama/api/chat?gap=1000", STREAMS)
                with stage.load(proxy.port, words) as load:
                    load.until_ready()
                    held = process.resident() - idle[proxy.name]
                    if load.go()["ended"]:
                        raise RuntimeError(f"{proxy.name} ended streams")
                if number in figures:
                    figures[number].add(proxy.name, held / STREAMS)
                time.sleep(0.3)
    return list(figures.values())


def tokens(stage: Stage) -> list[Figure]:
    """How long a token takes from the origin to the client, 200 streams at once."""
    figures = {at: Figure(f"Token delay {at}, {TOKEN_STREAMS} streams", "us") for at in
               ("p50", "p99")}  # fmt: skip
    target = f"?gap={TOKEN_GAP_MS}"
    with stage.running() as running:
        places = [(proxy.name, proxy.port, "/ollama/api/chat") for proxy, _ in running]
        places.append(("no proxy", stage.ports[0], "/api/chat"))
        for _ in range(min(4, stage.rounds)):
            for name, port, path in places:
                words = ("tokens", path + target, TOKEN_STREAMS, TOKEN_SECONDS)
                with stage.load(port, words) as load:
                    load.until_ready()
                    result = whole(load.go())
                for at, figure in figures.items():
                    figure.add(name, result[at])
    return list(figures.values())


def models(stage: Stage) -> list[Figure]:
    """Kind ollama against kind http: CPU of a 2 KB chat, token delay; embeddings that are kept."""
    chat = Figure("CPU of a chat of 2 KB, its stream of 2 KB", "us", "kind http")
    title = f"Token delay {{}}, {TOKEN_STREAMS} streams, 10 ms a token"
    delay = {at: Figure(title.format(at), "us", "kind http") for at in ("p50", "p99")}
    token = Figure("CPU of a token of such a stream", "us", "kind http")
    kept = Figure("Embeddings a second, 8 connections, 10 ms each", "1/s", "kind ollama")
    with stage.running([PlainTailhop, ModelTailhop, KeptTailhop, PlainAgain]) as running:
        kinds, keepers = running[:2], running[1:3]
        for number in range(stage.rounds + 1):
            passed = set()
            for proxy, process in kinds:
                took, result = chats(stage, proxy, process)
                passed.add(result["bytes"])
                # The first round only warms up.
                if number:
                    chat.add(proxy.name, took)
            if len(passed) > 1:
                raise RuntimeError(f"bytes were changed: {passed}")
        for _ in range(stage.rounds * 2):
            for proxy, process in (*kinds, running[3]):
                words = ("tokens", "/ollama/api/chat?gap=10", TOKEN_STREAMS, TOKEN_SECONDS)
                with stage.load(proxy.port, words) as load:
                    load.until_ready()
                    before = process.cpu()
                    result = whole(load.go())
                    # Those of the first moments passed as well, and are not in the count.
                    share = result["answered"] / result["seconds"] * TOKEN_SECONDS
                    token.add(proxy.name, (process.cpu() - before) / share)
                for at, figure in delay.items():
                    figure.add(proxy.name, result[at])
        for _ in range(min(3, stage.rounds)):
            for (proxy, _), requests in zip(keepers, (800, 20_000), strict=True):
                words = ("requests", "POST", "/ollama/api/embed", 8, requests, "kept")
                with stage.load(proxy.port, words) as load:
                    load.until_ready()
                    kept.add(proxy.name, requests / whole(load.go(), requests)["seconds"])
    return [chat, token, *delay.values(), kept]


def chats(stage: Stage, proxy: Proxy, process: Process) -> tuple[float, dict]:
    """CPU of a whole chat, in microseconds, and what came of all of them."""
    requests = stage.count(10_000)
    words = ("requests", "POST", "/ollama/api/chat?whole", CONNECTIONS, requests, "kept")
    with stage.load(proxy.port, words) as load:
        load.until_ready()
        before = process.cpu()
        result = whole(load.go(), requests)
        return (process.cpu() - before) / requests, result


def start(stage: Stage) -> list[Figure]:
    """From exec to the first accepted connection; memory when idle; the size of the program."""
    took, idle = Figure("Exec to accepting", "ms"), Figure("Idle memory (RSS)", "MiB")
    size = Figure("Program", "MiB", note="nginx, HAProxy: without the libraries they load")
    for number in range(10):
        for kind in stage.proxies:
            proxy = make(stage, kind)
            try:
                # Popen returns when exec has succeeded.
                with proxy.spawn() as process:
                    began = time.perf_counter()
                    while not accepts(proxy.port):
                        if process.child.poll() is not None:
                            raise RuntimeError(f"{proxy.name} ended: {process.last_words()}")
                        time.sleep(0.0001)
                    took.add(proxy.name, (time.perf_counter() - began) * 1000)
                    if number < 3:
                        time.sleep(1)
                        idle.add(proxy.name, process.resident() / 1024)
            finally:
                shutil.rmtree(proxy.folder)
            if not number:
                size.add(proxy.name, proxy.size() / 1024 / 1024)
    return [took, idle, size]


def scale(stage: Stage) -> list[Figure]:
    """CPU a request of tailhop with 1,000 routes and 100 backends, against 2 and 2."""
    title = f"CPU a request: {ManyTailhop.ROUTES:,} routes, {ManyTailhop.BACKENDS} backends"
    figures = [Figure(f"{title}, {what}", "us", Tailhop.name) for what in ("read", "query")]
    with stage.running([Tailhop, ManyTailhop]) as running:
        for number in range(stage.rounds + 1):
            for figure, ask in zip(figures, (READ, QUERY), strict=True):
                for proxy, process in running:
                    took = cpu_of(stage, proxy, process, ask, "kept", stage.count(20_000))
                    if number:
                        figure.add(proxy.name, took)
    return figures


def reloads(stage: Stage) -> list[Figure]:
    """Latency at a steady load while routing.toml is edited, against the same without edits."""
    pairs = 10
    each = max(1, int(RELOADS * min(1, stage.scale)) // pairs)
    title = f"Latency p99 at 4,000 requests/s, {each * pairs} reloads"
    figure = Figure(title, "us", "without")
    failed = 0
    with stage.running([Tailhop]) as [(proxy, _)]:
        for _ in range(pairs):
            for name, edits in (("without", False), ("with reloads", True)):
                words = ("paced", *QUERY, 16, 4_000)
                with stage.load(proxy.port, words) as load:
                    load.until_ready()
                    edit(proxy, each, edits)
                    result = load.go()
                failed += result["failed"]
                figure.add(name, result["p99"])
    figure.note = f"{failed} requests failed"
    return [figure]


def edit(proxy: Proxy, times: int, really: bool) -> None:
    """Moves the default to and fro, each time until it holds; or only does as much beside it."""
    file, beside_it = proxy.folder / "routing.toml", proxy.folder / "routing.new"
    client = http.client.HTTPConnection("127.0.0.1", proxy.port)
    for _ in range(times):
        text = file.read_text()
        to = "m2" if 'default = "m1"' in text else "m1"
        beside_it.write_text(re.sub(r'default = "m\d"', f'default = "{to}"', text))
        if really:
            beside_it.rename(file)
        deadline = time.monotonic() + 10
        for look in range(10_000):
            time.sleep(0.004)
            # Asked of the path itself: the admin pages would cost more than the edit.
            active = backend_that_answers(client)
            if active == to or (not really and look > 1):
                break
            if time.monotonic() > deadline:
                raise RuntimeError("an edit did not become effective")


def backend_that_answers(client: http.client.HTTPConnection) -> str | None:
    """Which backend a read goes to now."""
    client.request(*READ)
    answer = client.getresponse()
    answer.read()
    return answer.getheader("x-tailhop-backend")


def tailnet(stage: Stage) -> list[Figure]:
    """CPU of tailhop and tailscaled a request over a real tailnet, against tailscaled alone."""
    title = "CPU a request over the tailnet, 16 connections"
    figure = Figure(title, "us", "tailscaled alone")
    command = ["cargo", "test", "--locked", "--quiet", "--test", "rig", "--"]
    command += ["--ignored", "--exact", "--nocapture", "cost::of_the_container"]
    more = {"TAILHOP_BIN": str(stage.proxies[Tailhop]), "TAILHOP_RIG_ROUNDS": str(stage.rounds)}
    # Both cores: the rest of the tailnet runs on this machine, too.
    ran = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **more}, capture_output=True, text=True, check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, range(os.cpu_count())),
    )  # fmt: skip
    said = ran.stdout + ran.stderr
    if skipped := re.search(r"skipped: (.*)", said):
        raise Missing(skipped[1])
    if not (rounds := re.findall(r"^cost (\{.*\})$", said, re.MULTILINE)):
        say(said[-3000:])
        raise RuntimeError("the rig did not tell the cost")
    for line in rounds:
        one = json.loads(line)
        figure.add("tailscaled alone", one["alone"])
        figure.add("with tailhop", one["tailscaled"] + one["tailhop"])
        figure.add("(of it tailhop)", one["tailhop"])
    return [figure]


PARTS = {
    part.__name__: part
    for part in (cpu, grpc, syscalls, memory, tokens, models, start, scale, reloads, tailnet)
}
