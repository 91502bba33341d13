"""The calls of the five systems, by the clients that they use, against a running tailhop.

    python calls.py SYSTEM

Each function makes what its app makes and nothing else. Addresses and keys come in the environment,
as they come to the app; a call that goes wrong ends this with its traceback.
"""

from __future__ import annotations

import asyncio
import os
import sys

import botocore.session
import httpx
import ollama
import requests
from botocore.config import Config
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

HELLO = [{"role": "user", "content": "Does it reduce weight?"}]
VECTOR = [0.1, 0.2, 0.3, 0.4]


def data(path: str = "") -> str:
    return f"http://{os.environ['TAILHOP_DATA']}{path}"


def clinical_evidence_agent() -> None:
    language = ollama.Client(host=data("/ollama"))
    pieces = list(language.chat("medgemma", HELLO, stream=True))
    assert "".join(piece.message.content or "" for piece in pieces) == "It does."
    assert pieces[-1].done
    (vector,) = language.embed("nomic-embed-text", "weight").embeddings
    found = QdrantClient(url=data("/qdrant")).query_points("papers", query=list(vector)).points
    assert [point.payload for point in found] == [{"text": "the sea is wide"}]
    generated = requests.post(
        data("/ollama/api/generate"), json={"model": "medgemma", "prompt": "?", "stream": False}
    )
    assert generated.json()["response"] == "It does."
    assert generated.headers["x-tailhop-backend"] == os.environ["EXPECTED_BACKEND"]


def research_paas() -> None:
    """In another container: the api_key is tailhop's token, not the cluster's key."""
    port = int(os.environ["TAILHOP_QDRANT_PORT"])
    vectors = QdrantClient(
        host="127.0.0.1", port=port, https=False, api_key=os.environ["TAILHOP_TOKEN"]
    )
    search(vectors)
    try:
        QdrantClient(host="127.0.0.1", port=port, https=False).get_collections()
    except UnexpectedResponse as error:
        assert error.status_code == 401
    else:
        raise AssertionError("a stranger was let in")


def research_paas_beside() -> None:
    """In the network of tailhop's container: the address is all there is."""
    port = int(os.environ["TAILHOP_QDRANT_PORT"])
    search(QdrantClient(host="127.0.0.1", port=port, https=False))


def search(vectors: QdrantClient) -> None:
    assert [found.name for found in vectors.get_collections().collections] == ["papers"]
    point = models.PointStruct(id=1, vector=VECTOR, payload={"text": "the sea is wide"})
    vectors.upsert("papers", [point], wait=True)
    found = vectors.query_points("papers", query=VECTOR).points
    assert [point.id for point in found] == [1]


def rag_medical_assistant() -> None:
    language = ollama.AsyncClient(host=data("/ollama"))

    async def eighty() -> None:
        asked = [language.chat("llama3.2", HELLO) for _ in range(80)]
        answers = await asyncio.gather(*asked)
        assert {answer.message.content for answer in answers} == {"It does."}

    asyncio.run(eighty())
    search(QdrantClient(url=data("/qdrant")))
    checks = requests.get(f"http://{os.environ['TAILHOP_ADMIN']}/health").json()["checks"]
    assert {type(check["ok"]) for check in checks.values()} == {bool}


def imgstream() -> None:
    language = ollama.Client(host=data("/ollama"))
    caption = language.generate("llava", "What is on it?", images=[b"\x89PNG"], stream=False)
    assert caption.response == "It does."
    with httpx.Client(headers={"authorization": "Bearer of-the-machine"}) as storage:
        kept = storage.post(
            data("/upload/storage/v1/b/photos/o?uploadType=media&name=a%2Fb.jpg"), content=b"jpeg"
        )
        assert kept.status_code == 200, kept.text
        assert storage.get(data("/storage/v1/b/photos/o/a%2Fb.jpg?alt=media")).status_code == 200


def hera() -> None:
    tier = os.environ["HERA_ENVIRONMENT"]
    assert ollama.Client(host=data("/ollama")).chat("llama3.2", HELLO).done
    search(QdrantClient(url=data("/qdrant")))
    store = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=data(),
        region_name="us-east-1",
        aws_access_key_id="tailhop-access",
        aws_secret_access_key="tailhop-secret",
        config=Config(
            signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 0}
        ),
    )
    for key in ["report.pdf", "with space", "a//b", "\u65e5\u672c/\u00e4.txt"]:
        store.put_object(Bucket=f"hera-{tier}", Key=key, Body=b"hera")
        assert store.get_object(Bucket=f"hera-{tier}", Key=key)["Body"].read() == b"hera"


if __name__ == "__main__":
    globals()[sys.argv[1].replace("-", "_")]()
