"""Clients that know no prefix work on the services' own addresses with nothing changed at all."""

from __future__ import annotations

import os
import uuid

import ollama
import pytest
import requests
from conftest import DIMENSIONS
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

OLLAMA_PORT = int(os.environ.get("TAILHOP_OLLAMA_PORT", "11434"))
QDRANT_PORT = int(os.environ.get("TAILHOP_QDRANT_PORT", "6333"))
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def plain() -> QdrantClient:
    """As an app without a URL builds it."""
    return QdrantClient(host="127.0.0.1", port=QDRANT_PORT, https=False)


def test_tailhop_answers_there() -> None:
    for port, path in [(OLLAMA_PORT, "/api/version"), (QDRANT_PORT, "/collections")]:
        answer = requests.get(f"http://127.0.0.1:{port}{path}", timeout=10)
        assert answer.status_code == 200
        assert answer.headers["x-tailhop-backend"]


@pytest.mark.skipif(OLLAMA_PORT != 11434, reason="the default URL names port 11434")
def test_ollamas_default_url_works(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    assert ollama.Client().list().models
    assert ollama.chat(model, HELLO).done
    pieces = list(ollama.chat(model, HELLO, stream=True))
    assert pieces[-1].done


def test_ollama_by_host_and_port(model: str) -> None:
    client = ollama.Client(host=f"127.0.0.1:{OLLAMA_PORT}")
    assert client.embed(model, "hello").embeddings
    with pytest.raises(ollama.ResponseError) as error:
        client.chat("no-such-model", HELLO)
    assert error.value.status_code == 404


def test_the_openai_path_works_there(model: str) -> None:
    answer = requests.post(
        f"http://localhost:{OLLAMA_PORT}/v1/chat/completions",
        json={"model": model, "messages": HELLO},
        timeout=60,
    )
    assert answer.status_code == 200
    assert answer.json()["choices"]


def test_qdrant_by_host_and_port(plain: QdrantClient) -> None:
    name = f"tailhop-{uuid.uuid4().hex[:8]}"
    params = models.VectorParams(size=DIMENSIONS, distance=models.Distance.COSINE)
    assert plain.create_collection(name, vectors_config=params)
    try:
        point = models.PointStruct(id=1, vector=[1.0, 0.0, 0.0, 0.0], payload={"city": "Tokyo"})
        plain.upsert(name, [point], wait=True)
        found = plain.query_points(name, query=[1.0, 0.0, 0.0, 0.0], limit=1).points
        assert [point.id for point in found] == [1]
        assert plain.collection_exists(name)
    finally:
        plain.delete_collection(name)


def test_both_addresses_show_the_same_data(plain: QdrantClient, collection: str) -> None:
    assert collection in [found.name for found in plain.get_collections().collections]


def test_a_missing_collection_is_the_servers_own_error(plain: QdrantClient) -> None:
    with pytest.raises(UnexpectedResponse) as error:
        plain.get_collection("tailhop-no-such")
    assert error.value.status_code == 404
