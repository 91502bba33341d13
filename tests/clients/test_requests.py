"""Plain `requests`, as apps without a client library write it."""

from __future__ import annotations

import json

import requests

TIMEOUT = 60


def test_a_stream_arrives_line_by_line(ollama_url: str, model: str) -> None:
    body = {"model": model, "prompt": "hello"}
    with requests.post(
        f"{ollama_url}/api/generate", json=body, stream=True, timeout=TIMEOUT
    ) as answer:
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        pieces = [json.loads(line) for line in answer.iter_lines()]
    assert len(pieces) > 1 and pieces[-1]["done"]


def test_a_url_with_a_slash_at_its_end_makes_no_redirect(ollama_url: str, model: str) -> None:
    variable = ollama_url + "/"
    body = {"model": model, "prompt": "hello", "stream": False}
    answer = requests.post(
        f"{variable}/api/generate", json=body, allow_redirects=False, timeout=TIMEOUT
    )
    assert answer.status_code == 200 and answer.json()["done"]


def test_a_redirect_stays_behind_the_prefix(ollama_url: str) -> None:
    answer = requests.get(f"{ollama_url}/api/tags/", timeout=TIMEOUT)
    assert answer.status_code == 200 and answer.json()["models"]
    assert answer.url == f"{ollama_url}/api/tags"


def test_the_answer_names_the_backend_and_the_request(ollama_url: str) -> None:
    answer = requests.get(f"{ollama_url}/api/version", timeout=TIMEOUT)
    assert answer.headers["x-tailhop-backend"]
    assert answer.headers["x-request-id"]


def test_a_foreign_origin_does_not_reach_the_server(ollama_url: str) -> None:
    origin = {"Origin": "https://app.example"}
    answer = requests.get(f"{ollama_url}/api/version", headers=origin, timeout=TIMEOUT)
    assert answer.status_code == 200


def test_one_session_reaches_both_services(ollama_url: str, qdrant_url: str) -> None:
    with requests.Session() as session:
        for _ in range(3):
            assert session.get(f"{ollama_url}/api/version", timeout=TIMEOUT).ok
            assert session.get(f"{qdrant_url}/collections", timeout=TIMEOUT).ok
