"""The vector stores of Python apps, in both dialects, whatever becomes of the Macs.

On the active Mac through the tailhop of all tests; on fallback and during a switch before two Macs
of their own, which needs the binary in TAILHOP_BIN.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import grpc
import pytest
from qdrant_client.http.exceptions import UnexpectedResponse

from conftest import qdrant_client
from stores import STORES, Store, note_of
from two_macs import DEV1, M1, TwoMacs

FILLED = list(range(1, 21))
# A collection that the second Mac lacks.
ONLY_FIRST = "only-first"
# How long an app is at work before and after the active one moves. A date needs longer before, as a
# store is opened in that time too.
BEFORE_SECONDS, AFTER_SECONDS = 1.0, 1.5
SWITCH_SECONDS = 5.0
# A date passes, or an order is seen, within this.
MOVED_SECONDS = 30.0

on_each = pytest.mark.parametrize("store", STORES)
own_macs = pytest.mark.skipif(
    "TAILHOP_BIN" not in os.environ, reason="TAILHOP_BIN names no binary of tailhop"
)


@pytest.fixture
def named() -> Iterator[str]:
    name = f"tailhop-{uuid.uuid4().hex[:8]}"
    yield name
    qdrant_client("rest").delete_collection(name)


@on_each
def test_a_store_works_on_the_active(store: str, dialect: str, named: str) -> None:
    opened = STORES[store](qdrant_client(dialect), named)
    opened.add(FILLED)
    assert [opened.find(note)[0] for note in FILLED] == FILLED


@dataclass
class Fallback:
    """The active Mac's Qdrant is gone; every store was opened before."""

    macs: TwoMacs
    stores: dict[str, Store]


@pytest.fixture(scope="module")
def fallback(dialect: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fallback]:
    with TwoMacs(tmp_path_factory.mktemp("fallback")) as macs:
        STORES["qdrant-client"](macs.at(M1), ONLY_FIRST).add(FILLED)
        stores = filled(macs, dialect)
        assert [store.find(7)[0] for store in stores.values()] == [7] * len(stores)
        macs.lose(M1)
        yield Fallback(macs, stores)


@own_macs
@on_each
def test_on_fallback_searches_are_served_by_the_other_mac(store: str, fallback: Fallback) -> None:
    before = fallback.macs.served_by(DEV1)
    opened = fallback.stores[store]
    assert [opened.find(note)[0] for note in FILLED] == FILLED
    assert fallback.macs.served_by(DEV1) - before >= len(FILLED)


@own_macs
@on_each
def test_on_fallback_writes_are_refused_and_the_client_says_why(
    store: str, fallback: Fallback
) -> None:
    text, shown, request = refusal(lambda: fallback.stores[store].add([21]))
    # Of a long text the library prints the beginning.
    assert "a write for qdrant on macbook-m1 failed" in shown
    assert "Nothing was sent." in text
    assert fallback.macs.logged(request)
    assert notes(fallback.macs, DEV1, store) == set(FILLED)


@own_macs
def test_on_fallback_what_the_other_mac_lacks_is_not_said_to_be_nowhere(
    fallback: Fallback, dialect: str
) -> None:
    client = fallback.macs.through(dialect)
    for ask in (client.collection_exists, client.get_collection, client.count):
        text, *_ = refusal(lambda: ask(ONLY_FIRST))
        assert "Another backend lacks what was asked for" in text


@dataclass
class Moved:
    """What was done while the active one moved, and which Mac holds what was written."""

    work: Work
    first: set[int]
    second: set[int]


@pytest.fixture(scope="module", params=["date", "pin"])
def switch(
    request: pytest.FixtureRequest, dialect: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Moved]:
    """Every store at work while a date passes, and while a pin moves reads and writes."""
    by_date = request.param == "date"
    with TwoMacs(tmp_path_factory.mktemp("switch")) as macs:
        stores = filled(macs, dialect, SWITCH_SECONDS if by_date else None)
        return worked(macs, stores, lambda: None if by_date else pin(macs))


def pin(macs: TwoMacs) -> None:
    time.sleep(BEFORE_SECONDS)
    macs.pin(DEV1)


@own_macs
@on_each
def test_during_a_switch_no_search_is_empty(store: str, switch: dict[str, Moved]) -> None:
    work = switch[store].work
    assert [trouble for trouble in work.trouble if trouble.startswith("find")] == []
    assert work.searches > len(FILLED)


@own_macs
@on_each
def test_during_a_switch_no_write_is_lost_or_split(store: str, switch: dict[str, Moved]) -> None:
    moved = switch[store]
    assert [trouble for trouble in moved.work.trouble if trouble.startswith("add")] == []
    # Those before it are on the first Mac, those after it on the second, none on both.
    assert moved.first and moved.second
    assert sorted(moved.first) + sorted(moved.second) == moved.work.written


class Work:
    """An app that searches and writes all the time, on a thread each."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.searches = 0
        self.written: list[int] = []
        self.trouble: list[str] = []
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=it) for it in (self.search, self.write)]

    def __enter__(self) -> None:
        for thread in self.threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def search(self) -> None:
        while not self.ended.is_set():
            note = FILLED[self.searches % len(FILLED)]
            self.attempt(f"find {note}", lambda: self.found(note))
            self.searches += 1

    def found(self, note: int) -> None:
        got = self.store.find(note)
        assert got and got[0] == note, got

    def write(self) -> None:
        note = FILLED[-1]
        while not self.ended.is_set():
            note += 1
            if self.attempt(f"add {note}", lambda: self.store.add([note])):
                self.written.append(note)

    def attempt(self, what: str, work: Callable[[], None]) -> bool:
        try:
            work()
        except Exception as error:
            self.trouble.append(f"{what}: {error!r}")
            return False
        return True


def worked(macs: TwoMacs, stores: dict[str, Store], move: Callable[[], None]) -> dict[str, Moved]:
    """Every store is at work while `move` moves the active one."""
    works = {name: Work(store) for name, store in stores.items()}
    with ExitStack() as at_work:
        for work in works.values():
            at_work.enter_context(work)
        move()
        deadline = time.monotonic() + MOVED_SECONDS
        while any(notes(macs, DEV1, name) == set(FILLED) for name in works):
            trouble = {name: work.trouble for name, work in works.items()}
            assert time.monotonic() < deadline, f"nothing moved: {trouble}\n{macs.said()}"
            time.sleep(0.05)
        time.sleep(AFTER_SECONDS)
    first, second = (
        {name: notes(macs, mac, name) - set(FILLED) for name in works} for mac in (M1, DEV1)
    )
    return {name: Moved(work, first[name], second[name]) for name, work in works.items()}


def filled(macs: TwoMacs, dialect: str, switch_in: float | None = None) -> dict[str, Store]:
    """Every store through tailhop, in a collection of its name, before two Macs that hold the same
    notes.
    """
    for name, store in STORES.items():
        for mac in (M1, DEV1):
            store(macs.at(mac), name).add(FILLED)
    macs.start_tailhop(switch_in)
    return {name: store(macs.through(dialect), name) for name, store in STORES.items()}


def notes(macs: TwoMacs, mac: str, collection: str) -> set[int]:
    """What a Mac holds, past tailhop."""
    found, following = macs.at(mac).scroll(collection, limit=100_000)
    assert following is None
    return {note_of(point.id) for point in found}


def refusal(work: Callable[[], object]) -> tuple[str, str, str]:
    """An error of tailhop's: its text, what the library prints of it, and the id of its request."""
    with pytest.raises((UnexpectedResponse, grpc.RpcError)) as caught:
        work()
    error = caught.value
    if isinstance(error, UnexpectedResponse):
        assert error.status_code == 503
        text = error.structured()["status"]["error"]
    else:
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        text = error.details()
    return text, str(error), text.rsplit("Request ", 1)[1].rstrip(".")
