"""A small app as it runs beside tailhop: streaming chat, semantic search, and a status.

All it knows of machines is tailhop's address. Environment: TAILHOP_URL, TAILHOP_ADMIN_URL,
TAILHOP_MODEL, APP_COLLECTION.

    gunicorn --bind 127.0.0.1:5000 --threads 4 'app:create_app()'
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import ollama
import requests
from flask import Flask, Response, jsonify, request
from qdrant_client import QdrantClient, models


def create_app() -> Flask:
    url = os.environ.get("TAILHOP_URL", "http://127.0.0.1:8484")
    admin = os.environ.get("TAILHOP_ADMIN_URL", "http://127.0.0.1:9484")
    model = os.environ.get("TAILHOP_MODEL", "tiny")
    collection = os.environ.get("APP_COLLECTION", "app")
    language = ollama.Client(host=f"{url}/ollama", timeout=60)
    vectors = QdrantClient(url=f"{url}/qdrant")
    app = Flask(__name__)

    @app.post("/api/chat")
    def chat() -> Response:
        messages = [{"role": "user", "content": request.json["message"]}]
        pieces = language.chat(model, messages, stream=True)
        return Response(words(pieces), mimetype="text/plain")

    @app.post("/api/documents")
    def add_documents() -> tuple[Response, int]:
        texts = request.json["texts"]
        embeddings = language.embed(model, texts).embeddings
        if not vectors.collection_exists(collection):
            vectors.create_collection(collection, vectors_config=cosine(len(embeddings[0])))
        first = vectors.count(collection).count
        points = [
            models.PointStruct(id=first + number, vector=list(vector), payload={"text": text})
            for number, (text, vector) in enumerate(zip(texts, embeddings, strict=True))
        ]
        vectors.upsert(collection, points, wait=True)
        return jsonify(added=len(points)), 201

    @app.post("/api/search")
    def search() -> Response:
        (vector,) = language.embed(model, request.json["query"]).embeddings
        found = vectors.query_points(collection, query=list(vector), limit=3).points
        return jsonify([{"text": point.payload["text"], "score": point.score} for point in found])

    @app.get("/api/status")
    def status() -> tuple[Response, int]:
        try:
            answer = requests.get(f"{admin}/status", timeout=2)
            answer.raise_for_status()
        except requests.RequestException as error:
            return jsonify(status="degraded", error=str(error)), 503
        return jsonify(status="ok", tailhop=answer.json()), 200

    return app


def words(pieces: Iterator[ollama.ChatResponse]) -> Iterator[str]:
    for piece in pieces:
        yield piece.message.content or ""


def cosine(dimensions: int) -> models.VectorParams:
    return models.VectorParams(size=dimensions, distance=models.Distance.COSINE)
