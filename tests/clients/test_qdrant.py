"""`qdrant-client` works through tailhop with nothing changed but its URL, by REST and by gRPC.

The URL names its port: without one the client would add 6333.
"""

from __future__ import annotations

import asyncio

import grpc
import pytest
import requests
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from conftest import qdrant_client

POINTS = [
    models.PointStruct(id=1, vector=[1.0, 0.0, 0.0, 0.0], payload={"city": "Tokyo"}),
    models.PointStruct(id=2, vector=[0.0, 1.0, 0.0, 0.0], payload={"city": "Osaka"}),
    models.PointStruct(id=3, vector=[0.9, 0.1, 0.0, 0.0], payload={"city": "Tokyo"}),
]
IN_TOKYO = models.Filter(
    must=[models.FieldCondition(key="city", match=models.MatchValue(value="Tokyo"))]
)


@pytest.fixture
def filled(vectors: QdrantClient, collection: str) -> str:
    done = vectors.upsert(collection, POINTS, wait=True)
    assert done.status == models.UpdateStatus.COMPLETED
    return collection


@pytest.mark.parametrize("form", ["", "/"])
def test_the_start_up_check_finds_the_server(qdrant_url: str, form: str) -> None:
    answer = requests.get(qdrant_url + form, allow_redirects=False, timeout=10)
    assert answer.status_code == 200
    assert "qdrant" in answer.json()["title"]
    assert QdrantClient(url=qdrant_url + form).info().version


def test_a_prefix_does_what_a_path_in_the_url_does(qdrant_url: str, filled: str) -> None:
    base, _, prefix = qdrant_url.rpartition("/")
    assert QdrantClient(url=base, prefix=prefix).count(filled).count == len(POINTS)


def test_a_collection_is_listed_and_described(vectors: QdrantClient, filled: str) -> None:
    assert filled in [found.name for found in vectors.get_collections().collections]
    assert vectors.get_collection(filled).points_count == len(POINTS)


def test_existence_is_told_truly(vectors: QdrantClient, collection: str) -> None:
    assert vectors.collection_exists(collection)
    assert not vectors.collection_exists(collection + "-not")


def test_the_nearest_points_come_first(vectors: QdrantClient, filled: str) -> None:
    found = vectors.query_points(filled, query=[1.0, 0.0, 0.0, 0.0], limit=2).points
    assert [point.id for point in found] == [1, 3]
    assert found[0].score == pytest.approx(1.0)


def test_a_filter_narrows_a_query(vectors: QdrantClient, filled: str) -> None:
    found = vectors.query_points(filled, query=2, query_filter=IN_TOKYO).points
    assert sorted(point.id for point in found) == [1, 3]


def test_scroll_goes_through_everything(vectors: QdrantClient, filled: str) -> None:
    first, following = vectors.scroll(filled, limit=2)
    rest, end = vectors.scroll(filled, limit=2, offset=following)
    assert [point.id for point in first + rest] == [1, 2, 3]
    assert end is None


def test_count_and_retrieve(vectors: QdrantClient, filled: str) -> None:
    assert vectors.count(filled, count_filter=IN_TOKYO).count == 2
    (point,) = vectors.retrieve(filled, ids=[2])
    assert point.payload == {"city": "Osaka"}


def test_a_payload_is_changed(vectors: QdrantClient, filled: str) -> None:
    vectors.set_payload(filled, payload={"visited": True}, points=[1])
    (point,) = vectors.retrieve(filled, ids=[1])
    assert point.payload == {"city": "Tokyo", "visited": True}


def test_deleted_points_are_gone(vectors: QdrantClient, filled: str) -> None:
    vectors.delete(filled, points_selector=[1])
    assert vectors.retrieve(filled, ids=[1]) == []
    assert vectors.count(filled).count == len(POINTS) - 1


def test_a_missing_collection_keeps_the_servers_words(vectors: QdrantClient) -> None:
    with pytest.raises((UnexpectedResponse, grpc.RpcError)) as caught:
        vectors.get_collection("no-such-collection")
    error = caught.value
    if isinstance(error, UnexpectedResponse):
        assert error.status_code == 404
        assert b"`no-such-collection` doesn't exist" in error.content
    else:
        assert error.code() == grpc.StatusCode.NOT_FOUND
        assert "`no-such-collection` doesn't exist" in error.details()


def test_the_async_client_asks_many_things_at_once(dialect: str, filled: str) -> None:
    async def search() -> list[int]:
        client = qdrant_client(dialect, AsyncQdrantClient)
        asked = [client.query_points(filled, query=point.vector, limit=1) for point in POINTS * 30]
        found = [answer.points[0].id for answer in await asyncio.gather(*asked)]
        await client.close()
        return found

    assert asyncio.run(search()) == [point.id for point in POINTS] * 30


def test_a_message_of_32_megabytes_passes_both_ways(vectors: QdrantClient, collection: str) -> None:
    text = "0123456789abcdef" * 65536
    points = [
        models.PointStruct(id=number, vector=[1.0, 0.0, 0.0, 0.0], payload={"text": text})
        for number in range(32)
    ]
    vectors.upsert(collection, points, wait=True, timeout=60)
    back = vectors.retrieve(collection, ids=range(32), timeout=60)
    assert [point.payload["text"] == text for point in back] == [True] * 32
