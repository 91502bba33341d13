"""A real Flask app under gunicorn, with tailhop as its only address."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from conftest import admin_url, tailhop_url
from qdrant_client import QdrantClient

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "api_status.json"
TIMEOUT = 60


@pytest.fixture(scope="module")
def app_url() -> Iterator[str]:
    """The app on a free port, which gunicorn tells in its log."""
    collection = f"tailhop-{uuid.uuid4().hex[:8]}"
    environment = os.environ | {
        "TAILHOP_URL": tailhop_url(),
        "TAILHOP_ADMIN_URL": admin_url(),
        "APP_COLLECTION": collection,
    }
    command = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "--threads", "4"]
    server = subprocess.Popen(
        [*command, "app:create_app()"], cwd=HERE, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        yield listening_at(server)
    finally:
        server.terminate()
        server.wait(timeout=10)
        QdrantClient(url=f"{tailhop_url()}/qdrant").delete_collection(collection)


def listening_at(server: subprocess.Popen[str]) -> str:
    said = []
    for line in server.stderr:
        said.append(line)
        if found := re.search(r"Listening at: (http://\S+)", line):
            return found[1]
    raise AssertionError("gunicorn did not start:\n" + "".join(said))


def test_the_app_streams_a_chat(app_url: str) -> None:
    with requests.post(
        f"{app_url}/api/chat", json={"message": "hello"}, stream=True, timeout=TIMEOUT
    ) as answer:
        assert answer.status_code == 200
        assert answer.headers["transfer-encoding"] == "chunked"
        assert sum(len(piece) for piece in answer.iter_content(None)) > 0


def test_the_app_finds_what_it_was_told(app_url: str) -> None:
    texts = ["the sea is wide", "a train to Osaka", "an apple a day"]
    added = requests.post(f"{app_url}/api/documents", json={"texts": texts}, timeout=TIMEOUT)
    assert (added.status_code, added.json()) == (201, {"added": 3})
    found = requests.post(f"{app_url}/api/search", json={"query": texts[1]}, timeout=TIMEOUT).json()
    assert found[0]["text"] == texts[1]
    assert found[0]["score"] == pytest.approx(1.0, abs=1e-3)


def test_the_apps_status_is_as_agreed(app_url: str, ollama_url: str, qdrant_url: str) -> None:
    """Compared to the golden file; TAILHOP_UPDATE_GOLDEN=1 writes it anew."""
    # Each service has answered someone, and each backend was probed.
    assert requests.get(f"{ollama_url}/api/version", timeout=TIMEOUT).ok
    assert requests.get(f"{qdrant_url}/collections", timeout=TIMEOUT).ok
    until_all_is_known_and_well(app_url)
    answer = requests.get(f"{app_url}/api/status", timeout=TIMEOUT)
    assert answer.status_code == 200, answer.text
    seen = json.dumps(masked(answer.json()), indent=2, sort_keys=True) + "\n"
    if os.environ.get("TAILHOP_UPDATE_GOLDEN") == "1":
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(seen)
    assert seen == GOLDEN.read_text()


def until_all_is_known_and_well(app_url: str) -> None:
    """Every backend is probed and told its models or collections, and tailscaled has no complaint
    about itself left from before."""
    deadline = time.monotonic() + 30
    while True:
        status = requests.get(f"{app_url}/api/status", timeout=TIMEOUT)
        tailhop = status.json()["tailhop"]
        tells = {"ollama": "models", "qdrant": "collections"}
        told = [
            tells[service["name"]] in backend
            for service in tailhop["services"]
            for backend in service["backends"]
            if service["name"] in tells
        ]
        if all(told) and "unknown" not in status.text and not tailhop["tailnet"]["detail"]:
            return
        assert time.monotonic() < deadline, status.text
        time.sleep(0.1)


# What differs from run to run, by its key or by its form.
MASKED_KEYS = {"instance", "version", "hash", "generation", "path"}
# The same, whatever is in them: what happened so far, how fast, and by which path.
MASKED_WHOLE = {"recent", "history", "repairs", "direct", "shields_up", "warning", "models",
                "collections"}  # fmt: skip
MASKED_FORMS = {
    "<time>": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S*"),
    "<hash>": re.compile(r"[0-9a-f]{64}"),
}


def masked(value: object, key: str = "") -> object:
    match value:
        case _ if key in MASKED_WHOLE:
            return f"<{key}>"
        # A failure that is over, such as of the first probe; the verdict says whether it is.
        case {"text": str(), "at": str(), **more} if key == "last_error" and not more:
            return None
        case dict():
            return {name: masked(inner, name) for name, inner in value.items()}
        case list():
            return [masked(inner, key) for inner in value]
        case str() | int() if key in MASKED_KEYS:
            return f"<{key}>"
        case str():
            for mask, form in MASKED_FORMS.items():
                value = form.sub(mask, value)
    return value
