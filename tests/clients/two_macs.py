"""Two Macs with a Qdrant each, and a tailhop before them, all on loopback.

For the tests that break a Mac or move the active one, which they cannot do to the tailhop that the
others share. The Macs are two loopback addresses with the stand-in on the same ports; tailhop is
the binary in TAILHOP_BIN. Everything ends with the `with`, or with this process.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import TracebackType

import requests
from qdrant_client import QdrantClient

M1, DEV1 = "macbook-m1", "mac-dev1"
ADDRESSES = {M1: "127.0.0.2", DEV1: "127.0.0.3"}
START_SECONDS = 30
# Longer than tailhop ever lets one wait here, on a machine that is busy with other things.
CLIENT_SECONDS = 20
# Of util-linux: Python's own way to run something in a child before it begins breaks grpc.
ENDED_WITH_US = ["setpriv", "--pdeathsig", "KILL"]


class TwoMacs:
    """Both Macs are there from the beginning, tailhop from `start_tailhop` on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rest, self.grpc, self.data, self.admin, self.own, self.own_grpc = free_ports(6)
        self.log = (folder / "tailhop.log").open("w")
        self.running: dict[str, subprocess.Popen[str]] = {}
        try:
            for name in ADDRESSES:
                self.running[name] = self.start_stand_in(name)
            for process in self.running.values():
                until_listening(process)
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> TwoMacs:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()
        self.log.close()

    # What tests do.

    def start_tailhop(self, switch_in: float | None = None) -> None:
        """`switch_in`: seconds until the schedule makes the second Mac active."""
        self.config.write_text(self.routing(switch_in))
        self.running["tailhop"] = subprocess.Popen(
            [*ENDED_WITH_US, binary(), "run", "--config", self.config],
            stdout=self.log,
            stderr=self.log,
            env={},
        )
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            assert self.running["tailhop"].poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def through(self, dialect: str) -> QdrantClient:
        """A client of tailhop."""
        return client("127.0.0.1", self.own, self.own_grpc, dialect)

    def at(self, mac: str) -> QdrantClient:
        """A client of one Mac, past tailhop."""
        return client(ADDRESSES[mac], self.rest, self.grpc, "rest")

    def lose(self, mac: str) -> None:
        """Its Qdrant is gone; its ports refuse."""
        self.running[mac].kill()
        self.running.pop(mac).wait()

    def pin(self, mac: str) -> None:
        """Moves reads and writes; returns when tailhop holds it."""
        subprocess.run(
            [binary(), "pin", mac, "--writes", "--reason", "a test", "--config", self.config],
            check=True,
            capture_output=True,
            timeout=START_SECONDS,
            env={"TAILHOP_ADMIN": f"127.0.0.1:{self.admin}", "USER": "test"},
        )

    def served_by(self, mac: str) -> float:
        """How many requests this Mac answered, by tailhop's own count."""
        text = requests.get(f"http://127.0.0.1:{self.admin}/metrics", timeout=5).text
        lines = [line for line in text.splitlines() if line.startswith("tailhop_requests_total")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if f'"{mac}"' in line)

    def logged(self, request: str) -> bool:
        """Whether tailhop's log names this request: its line is written after the answer."""
        deadline = time.monotonic() + START_SECONDS
        while request not in self.said():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    # How it is built.

    @property
    def config(self) -> Path:
        return self.folder / "routing.toml"

    def start_stand_in(self, name: str) -> subprocess.Popen[str]:
        address = ADDRESSES[name]
        return subprocess.Popen(
            [
                *ENDED_WITH_US,
                sys.executable,
                Path(__file__).with_name("qdrant_stand_in.py"),
                f"--listen={address}:{self.rest}",
                f"--listen-grpc={address}:{self.grpc}",
                f"--data={self.folder / name}",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )

    def is_ready(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.admin}/ready", timeout=5).ok
        except requests.ConnectionError:
            return False

    def said(self) -> str:
        return (self.folder / "tailhop.log").read_text()

    def routing(self, switch_in: float | None) -> str:
        switch = ""
        if switch_in is not None:
            at = datetime.now(timezone.utc) + timedelta(seconds=switch_in)
            switch = f'switch = [{{ at = {at.isoformat(timespec="milliseconds")}, to = "{DEV1}" }}]'
        return f"""
            [listen]
            data  = "127.0.0.1:{self.data}"
            admin = "127.0.0.1:{self.admin}"

            [tailnet]
            dial = "direct"

            [backends]
            {M1} = {{ host = "{ADDRESSES[M1]}" }}
            {DEV1} = {{ host = "{ADDRESSES[DEV1]}" }}

            [services.qdrant]
            port        = {self.rest}
            grpc_port   = {self.grpc}
            listen      = "127.0.0.1:{self.own}"
            listen_grpc = "127.0.0.1:{self.own_grpc}"

            [timeouts]
            wait = "1s"

            [schedule]
            timezone = "Asia/Tokyo"
            default  = "{M1}"
            {switch}
        """


def client(host: str, port: int, grpc_port: int, dialect: str) -> QdrantClient:
    return QdrantClient(
        host=host,
        port=port,
        grpc_port=grpc_port,
        prefer_grpc=dialect == "grpc",
        timeout=CLIENT_SECONDS,
        check_compatibility=False,
    )


def binary() -> str:
    return os.environ["TAILHOP_BIN"]


def free_ports(count: int) -> list[int]:
    """Ports that are free on every loopback address, all held until the last one is found."""
    held = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def until_listening(stand_in: subprocess.Popen[str]) -> None:
    assert stand_in.stdout is not None
    for line in stand_in.stdout:
        if "grpc://" in line:
            return
    raise AssertionError("the stand-in ended")
