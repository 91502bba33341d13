"""The vector stores of Python apps, by what the tests want of each: add notes, and find them.

A note is a number. The id of its point follows from the number, and the vector from its text, so
that what a store found, and what a Mac holds, can be told without asking a model.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from typing import Protocol

from langchain_core.embeddings import Embeddings
from langchain_qdrant import QdrantVectorStore as LangchainStore
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import VectorStoreQuery
from llama_index.vector_stores.qdrant import QdrantVectorStore as LlamaIndexStore
from qdrant_client import QdrantClient, models

DIMENSIONS = 8


def id_of(note: int) -> str:
    return str(uuid.UUID(int=note))


def note_of(point: object) -> int:
    return uuid.UUID(str(point)).int


def text_of(note: int) -> str:
    return f"note {note}"


def vector_of(text: str) -> list[float]:
    """Like that of no other text."""
    chosen = random.Random(text)
    return [chosen.uniform(-1.0, 1.0) for _ in range(DIMENSIONS)]


class Store(Protocol):
    """A store as an app uses it."""

    def add(self, notes: list[int]) -> None:
        """Returns when the server said that they are stored; raises what the library raises."""

    def find(self, note: int) -> list[int]:
        """The notes nearest to `note`, the nearest first."""


class Plain:
    """`qdrant-client` by itself."""

    def __init__(self, client: QdrantClient, collection: str) -> None:
        self.client, self.collection = client, collection
        create_if_missing(client, collection)

    def add(self, notes: list[int]) -> None:
        points = [
            models.PointStruct(
                id=id_of(note), vector=vector_of(text_of(note)), payload={"note": note}
            )
            for note in notes
        ]
        done = self.client.upsert(self.collection, points, wait=True)
        assert done.status == models.UpdateStatus.COMPLETED

    def find(self, note: int) -> list[int]:
        found = self.client.query_points(self.collection, vector_of(text_of(note)), limit=3)
        return [point.payload["note"] for point in found.points]


class TextEmbeddings(Embeddings):
    """`vector_of` as langchain takes it."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [vector_of(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return vector_of(text)


class Langchain:
    """`langchain-qdrant`."""

    def __init__(self, client: QdrantClient, collection: str) -> None:
        create_if_missing(client, collection)
        self.store = LangchainStore(client, collection, TextEmbeddings())

    def add(self, notes: list[int]) -> None:
        self.store.add_texts(
            [text_of(note) for note in notes],
            metadatas=[{"note": note} for note in notes],
            ids=[id_of(note) for note in notes],
        )

    def find(self, note: int) -> list[int]:
        found = self.store.similarity_search(text_of(note), k=3)
        return [document.metadata["note"] for document in found]


class LlamaIndex:
    """`llama-index-vector-stores-qdrant`, which makes its collection itself."""

    def __init__(self, client: QdrantClient, collection: str) -> None:
        # Without tries of its own, so that each of its errors is one answer.
        self.store = LlamaIndexStore(collection, client=client, max_retries=0)

    def add(self, notes: list[int]) -> None:
        self.store.add(
            [
                TextNode(
                    id_=id_of(note),
                    text=text_of(note),
                    embedding=vector_of(text_of(note)),
                    metadata={"note": note},
                )
                for note in notes
            ]
        )

    def find(self, note: int) -> list[int]:
        query = VectorStoreQuery(query_embedding=vector_of(text_of(note)), similarity_top_k=3)
        return [node.metadata["note"] for node in self.store.query(query).nodes]


STORES: dict[str, Callable[[QdrantClient, str], Store]] = {
    "qdrant-client": Plain,
    "langchain": Langchain,
    "llama-index": LlamaIndex,
}


def create_if_missing(client: QdrantClient, collection: str) -> None:
    if not client.collection_exists(collection):
        params = models.VectorParams(size=DIMENSIONS, distance=models.Distance.COSINE)
        client.create_collection(collection, vectors_config=params)
