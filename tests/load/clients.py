"""Clients that misbehave: what they cost in memory, and what a bystander notices of them."""

import http.client
import http.server
import json
import multiprocessing
import os
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time

CONFIG = """
listen = {{ data = "127.0.0.1:{data}", admin = "127.0.0.1:{admin}" }}
tailnet.dial = "direct"
backends.m1.host = "127.0.0.1"
services.web = {{ kind = "http", port = {origin} }}
"""
LARGE = b"x" * (1 << 20)


class Origin(http.server.BaseHTTPRequestHandler):
    """Answers at once, or with 200 MiB."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16

    def do_GET(self):
        pieces = 200 if self.path == "/large" else 0
        self.send_response(200)
        self.send_header("content-length", str(pieces * len(LARGE) or 2))
        self.end_headers()
        try:
            for _ in range(pieces):
                self.wfile.write(LARGE)
            if not pieces:
                self.wfile.write(b"ok")
            self.wfile.flush()
        except OSError:
            self.close_connection = True

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Instance:
    """tailhop before an origin, with a limit of descriptors if given."""

    def __init__(self, binary, descriptors=None):
        # Its usual backlog of 5 would lose the dials of a burst.
        http.server.ThreadingHTTPServer.request_queue_size = 1024
        origin = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
        # In a process of its own, so that it does not hold the clients up.
        self.origin = multiprocessing.get_context("fork").Process(target=origin.serve_forever, daemon=True)
        self.origin.start()
        self.data, self.admin = free_port(), free_port()
        self.folder = tempfile.TemporaryDirectory()
        path = os.path.join(self.folder.name, "routing.toml")
        with open(path, "w") as file:
            file.write(CONFIG.format(data=self.data, admin=self.admin, origin=origin.server_port))

        def limit():
            if descriptors:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        self.process = subprocess.Popen(
            [binary, "run", "--config", path],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=limit)
        while not self.answers():
            time.sleep(0.05)

    def answers(self):
        try:
            return self.ask(self.admin, "/ready")[0] == 200
        except OSError:
            return False

    def ask(self, port, path):
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status, time.perf_counter() - began

    def rss(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            words = stat.read().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.origin.terminate()
        self.folder.cleanup()


def bystander(instance, seconds, work=lambda: None):
    """Asks on one kept connection while `work` is done now and then; the times in milliseconds."""
    connection = http.client.HTTPConnection("127.0.0.1", instance.data, timeout=10)
    times, until, statuses = [], time.monotonic() + seconds, set()
    while time.monotonic() < until:
        work()
        began = time.perf_counter()
        connection.request("GET", "/web/a")
        answer = connection.getresponse()
        answer.read()
        statuses.add(answer.status)
        times.append((time.perf_counter() - began) * 1e3)
        time.sleep(0.005)
    times.sort()
    return {"p50_ms": round(times[len(times) // 2], 2), "p99_ms": round(times[len(times) * 99 // 100], 2),
            "max_ms": round(times[-1], 2), "asked": len(times), "statuses": sorted(statuses)}


def connect(instance, count, first=b"", narrow=False):
    clients = []
    for number in range(count):
        client = socket.socket()
        if narrow:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # More than one address, as one has too few ports for many tests in a row.
        client.bind((f"127.0.1.{number % 200 + 1}", 0))
        client.connect(("127.0.0.1", instance.data))
        client.sendall(first)
        clients.append(client)
    time.sleep(0.5)
    return clients


def measure(name, instance, count, **kind):
    work = kind.pop("work", None)
    instance.ask(instance.data, "/web/a")
    alone = bystander(instance, 2)
    before = instance.rss()
    clients = connect(instance, count, **kind)
    turn = [0]

    def trickle():
        for client in clients[turn[0]::50]:
            client.send(b"a")
        turn[0] = (turn[0] + 1) % 50

    began = instance.cpu()
    result = bystander(instance, 5, trickle if work else lambda: None)
    return {"case": name, "clients": count, "rss_kib_before": before, "rss_kib": instance.rss(),
            "kib_each": round((instance.rss() - before) / count, 2),
            "cpu_s_of_5": round(instance.cpu() - began, 2), "bystander": result, "alone": alone}


def descriptors(instance, count):
    """Holds `count` connections with a request each, and looks at what new ones are told."""
    kept = http.client.HTTPConnection("127.0.0.1", instance.data, timeout=10)
    kept.request("GET", "/web/a")
    kept.getresponse().read()
    clients = connect(instance, count, b"GET /web/a HTTP/1.1\r\nHost: x\r\n\r\n")
    told = {}
    for client in clients:
        ready = select.select([client], [], [], 2)[0]
        try:
            first = client.recv(12) if ready else b"nothing"
        except OSError as error:
            first = type(error).__name__.encode()
        word = first[9:12].decode() if first.startswith(b"HTTP") else repr(first)
        told[word] = told.get(word, 0) + 1
    kept.request("GET", "/web/a")
    goes_on = kept.getresponse().status
    admin = [instance.ask(instance.admin, "/health")[0] for _ in range(20)]
    for client in clients:
        client.close()
    time.sleep(0.2)
    began = time.monotonic()
    while instance.ask(instance.data, "/web/a")[0] != 200:
        time.sleep(0.01)
    return {"case": "descriptors", "clients": count, "told": told, "kept": goes_on,
            "admin_200": admin.count(200), "recovered_s": round(time.monotonic() - began, 3), "rss_kib": instance.rss()}


def main():
    binary = sys.argv[1]
    large = b"GET /web/large HTTP/1.1\r\nHost: x\r\n\r\n"
    rows = [
        ("idle", None, lambda it: measure("idle", it, 10_000)),
        ("slow-heads", None, lambda it: measure("slow-heads", it, 2000, first=b"GET /web/a HTTP/1.1\r\nHost: x\r\nA: ", work=True)),
        ("slow-read", None, lambda it: measure("slow-read", it, 50, first=large, narrow=True)),
        ("descriptors", 256, lambda it: descriptors(it, 400)),
    ]
    for name, limit, row in rows:
        if len(sys.argv) > 2 and name not in sys.argv[2:]:
            continue
        instance = Instance(binary, limit)
        try:
            print(json.dumps(row(instance)), flush=True)
        finally:
            instance.stop()


if __name__ == "__main__":
    main()
