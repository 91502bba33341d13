"""Where tailhop is, and the clients as an app would build them.

    TAILHOP_URL         the app's address, default http://127.0.0.1:8484
    TAILHOP_ADMIN_URL   the admin address, default http://127.0.0.1:9484
    TAILHOP_MODEL       an Ollama model that chats and embeds, default tiny
    TAILHOP_SLOW_MODEL  one whose tokens take milliseconds, for test_models.py
    TAILHOP_KEPT        the path of a service with a cache, for the same
    TAILHOP_OLLAMA_PORT, TAILHOP_QDRANT_PORT, TAILHOP_QDRANT_GRPC_PORT
                        of the services' own addresses, default 11434, 6333 and 6334
    TAILHOP_BIN         a binary of tailhop, for tests that need one of their own
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

import ollama
import pytest
import requests
from qdrant_client import QdrantClient, models

DIMENSIONS = 4


def pytest_sessionstart() -> None:
    """Without a tailhop every test would fail on its own, slowly."""
    try:
        requests.get(admin_url() + "/ready", timeout=5).raise_for_status()
    except requests.RequestException as error:
        pytest.exit(f"no tailhop is ready at {admin_url()}: {error}", returncode=2)


def tailhop_url() -> str:
    return os.environ.get("TAILHOP_URL", "http://127.0.0.1:8484").rstrip("/")


def admin_url() -> str:
    return os.environ.get("TAILHOP_ADMIN_URL", "http://127.0.0.1:9484").rstrip("/")


@pytest.fixture
def ollama_url() -> str:
    return f"{tailhop_url()}/ollama"


@pytest.fixture
def qdrant_url() -> str:
    return f"{tailhop_url()}/qdrant"


@pytest.fixture
def model() -> str:
    return os.environ.get("TAILHOP_MODEL", "tiny")


@pytest.fixture
def chat(ollama_url: str) -> ollama.Client:
    return ollama.Client(host=ollama_url, timeout=60)


def qdrant_client(dialect: str, client: type[Any] = QdrantClient) -> Any:
    """As an app builds it: `rest` by the route, `grpc` by the address of its own."""
    grpc_port = int(os.environ.get("TAILHOP_QDRANT_GRPC_PORT", "6334"))
    return client(
        url=f"{tailhop_url()}/qdrant", prefer_grpc=dialect == "grpc", grpc_port=grpc_port
    )


@pytest.fixture
def vectors(dialect: str) -> QdrantClient:
    return qdrant_client(dialect)


@pytest.fixture(scope="session", params=["rest", "grpc"])
def dialect(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def collection(vectors: QdrantClient) -> Iterator[str]:
    """A collection of its own for one test, so that runs do not meet."""
    name = f"tailhop-{uuid.uuid4().hex[:8]}"
    params = models.VectorParams(size=DIMENSIONS, distance=models.Distance.COSINE)
    assert vectors.create_collection(name, vectors_config=params)
    yield name
    vectors.delete_collection(name)
