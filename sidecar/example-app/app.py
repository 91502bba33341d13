"""A question-and-answer app as it runs beside tailhop: a streaming chat, a semantic search, a
status for its own page and a health for its monitor.

All it knows of machines is tailhop's address. Which Mac answers, on which date, and what happens
when one sleeps, is none of its business: `/api/status` passes on what tailhop says of that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import httpx
import ollama
import requests
from flask import Flask, Response, jsonify, request
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from werkzeug.exceptions import BadRequest

# Longer than a request may take anywhere on the way: tailhop's own deadlines come first, with a
# reason.
PATIENCE_SECONDS = 300.0
# tailhop holds a request that nobody can take for 4 s, and then says why; qdrant-client's own 5 s
# would hide that from a search that is merely slow.
SEARCH_SECONDS = 70
FOUND = 3


@dataclass(frozen=True)
class Settings:
    """Where things are. Every value has a default: an emergency deployment wipes the variables."""

    ollama_url: str
    qdrant_url: str
    admin_url: str
    chat_model: str
    embedding_model: str
    collection: str

    @staticmethod
    def of(environment: Mapping[str, str]) -> Settings:
        def value(name: str, default: str) -> str:
            return (environment.get(name) or default).rstrip("/")

        return Settings(
            ollama_url=value("OLLAMA_URL", "http://127.0.0.1:8484/ollama"),
            qdrant_url=value("QDRANT_URL", "http://127.0.0.1:8484/qdrant"),
            admin_url=value("TAILHOP_ADMIN_URL", "http://127.0.0.1:9484"),
            chat_model=value("CHAT_MODEL", "medgemma"),
            embedding_model=value("EMBEDDING_MODEL", "nomic-embed-text"),
            collection=value("COLLECTION", "papers"),
        )


class Library:
    """The texts, found by what they mean."""

    def __init__(self, settings: Settings, language: ollama.Client) -> None:
        self.language = language
        self.model = settings.embedding_model
        self.collection = settings.collection
        # The version check is a request of its own at the start, when a tunnel may be starting.
        self.vectors = QdrantClient(
            url=settings.qdrant_url, timeout=SEARCH_SECONDS, check_compatibility=False
        )

    def add(self, texts: list[str]) -> int:
        vectors = self.embedded(texts)
        if not self.vectors.collection_exists(self.collection):
            cosine = models.VectorParams(size=len(vectors[0]), distance=models.Distance.COSINE)
            self.vectors.create_collection(self.collection, vectors_config=cosine)
        first = self.vectors.count(self.collection).count
        points = [
            models.PointStruct(id=first + number, vector=vector, payload={"text": text})
            for number, (text, vector) in enumerate(zip(texts, vectors, strict=True))
        ]
        self.vectors.upsert(self.collection, points, wait=True)
        return len(points)

    def search(self, query: str) -> list[dict[str, Any]]:
        (vector,) = self.embedded([query])
        found = self.vectors.query_points(self.collection, query=vector, limit=FOUND).points
        return [{"text": (point.payload or {}).get("text"), "score": point.score} for point in found]

    def embedded(self, texts: list[str]) -> list[list[float]]:
        answer = self.language.embed(self.model, texts)
        return [list(vector) for vector in answer.embeddings]


def create_app(environment: Mapping[str, str] = os.environ) -> Flask:
    settings = Settings.of(environment)
    language = ollama.Client(host=settings.ollama_url, timeout=PATIENCE_SECONDS)
    library = Library(settings, language)
    app = Flask(__name__)

    @app.post("/api/chat")
    def chat() -> Response:
        messages = [{"role": "user", "content": text_of("message")}]
        pieces = language.chat(settings.chat_model, messages, stream=True)
        # The first piece is taken here, so that an error has a status and not half a body.
        first = next(pieces, None)
        if first is None:
            raise ollama.ResponseError("the model said nothing", 502)
        return Response(words(chain([first], pieces)), mimetype="text/plain")

    @app.post("/api/documents")
    def documents() -> tuple[Response, int]:
        texts = (request.get_json(silent=True) or {}).get("texts")
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
            raise BadRequest('send {"texts": ["..", ".."]}')
        return jsonify(added=library.add(texts)), 201

    @app.post("/api/search")
    def search() -> Response:
        return jsonify(library.search(text_of("query")))

    @app.get("/api/status")
    def status() -> tuple[Response, int]:
        """Which Mac is active and why, for people."""
        try:
            answer = requests.get(f"{settings.admin_url}/status", timeout=2)
            services = answer.json()["services"]
        except (requests.RequestException, ValueError, KeyError) as error:
            return jsonify(status="degraded", error=str(error)), 503
        active = {
            service["name"]: {
                "backend": service["active"]["backend"],
                "why": service["active"]["sentence"],
                "serving": service["serving"],
            }
            for service in services
        }
        return jsonify(status="ok", services=active), 200

    @app.get("/health")
    def health() -> tuple[Response, int]:
        """For monitors: one boolean a check. A sleeping Mac is no reason to restart this app."""
        try:
            said = requests.get(f"{settings.admin_url}/health", timeout=2).json()
            checks = {name: bool(check["ok"]) for name, check in said["checks"].items()}
        except (requests.RequestException, ValueError, KeyError):
            checks = {"tailhop": False}
        return jsonify(status="healthy" if all(checks.values()) else "degraded", checks=checks), 200

    @app.get("/live")
    def live() -> str:
        return "live\n"

    @app.errorhandler(BadRequest)
    def wrong(error: BadRequest) -> tuple[Response, int]:
        return jsonify(error=error.description), 400

    @app.errorhandler(ollama.ResponseError)
    def language_failed(error: ollama.ResponseError) -> tuple[Response, int]:
        # Its words are tailhop's or Ollama's: they say which Mac, why, and what to do.
        return jsonify(error=error.error), known(error.status_code)

    @app.errorhandler(UnexpectedResponse)
    def vectors_failed(error: UnexpectedResponse) -> tuple[Response, int]:
        return jsonify(error=str(error)), known(error.status_code)

    @app.errorhandler(ResponseHandlingException)
    @app.errorhandler(httpx.HTTPError)
    @app.errorhandler(ConnectionError)
    def nobody(error: Exception) -> tuple[Response, int]:
        return jsonify(error=f"tailhop does not answer: {error}"), 503

    return app


def text_of(key: str) -> str:
    """The text under `key` of the request's JSON."""
    value = (request.get_json(silent=True) or {}).get(key)
    if not isinstance(value, str) or not value:
        raise BadRequest(f'send {{"{key}": ".."}}')
    return value


def words(pieces: Iterable[ollama.ChatResponse]) -> Iterator[str]:
    """What the model says. When the stream breaks, this raises, and the browser sees it break."""
    for piece in pieces:
        yield piece.message.content or ""


def known(status: int | None) -> int:
    """What a browser is told: 503 and 504 as they are, anything else is a bad gateway."""
    return status if status in (404, 503, 504) else 502
