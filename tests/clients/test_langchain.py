"""`langchain-ollama` works through tailhop with nothing changed but its base URL."""

from __future__ import annotations

import asyncio

import pytest
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM


@pytest.fixture
def chain(ollama_url: str, model: str) -> ChatOllama:
    return ChatOllama(base_url=ollama_url, model=model, validate_model_on_init=True)


def test_a_chat_answers_whole(chain: ChatOllama) -> None:
    answer = chain.invoke("hello")
    assert answer.response_metadata["done"] and answer.usage_metadata["output_tokens"] > 0


def test_a_chat_streams_to_its_end(chain: ChatOllama) -> None:
    pieces = list(chain.stream("hello"))
    assert len(pieces) > 1
    assert any(piece.response_metadata.get("done") for piece in pieces)


def test_chats_run_side_by_side(chain: ChatOllama) -> None:
    async def both() -> list:
        return await asyncio.gather(chain.ainvoke("hello"), chain.ainvoke("goodbye"))

    assert all(answer.response_metadata["done"] for answer in asyncio.run(both()))


def test_a_completion_answers(ollama_url: str, model: str) -> None:
    assert OllamaLLM(base_url=ollama_url, model=model).invoke("hello")


def test_documents_and_a_query_are_embedded_alike(ollama_url: str, model: str) -> None:
    embeddings = OllamaEmbeddings(base_url=ollama_url, model=model)
    texts = [f"text {number}" for number in range(20)]
    documents = embeddings.embed_documents(texts)
    assert len(documents) == 20
    assert embeddings.embed_query(texts[7]) == pytest.approx(documents[7], abs=1e-4)
