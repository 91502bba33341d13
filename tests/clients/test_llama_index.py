"""`llama-index` works through tailhop with nothing changed but its base URL."""

from __future__ import annotations

import pytest
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.llms.ollama import Ollama

HELLO = [ChatMessage(role="user", content="hello")]


@pytest.fixture
def llm(ollama_url: str, model: str) -> Ollama:
    return Ollama(base_url=ollama_url, model=model, request_timeout=60, context_window=512)


def test_a_chat_answers_whole(llm: Ollama) -> None:
    assert llm.chat(HELLO).raw["done"]


def test_a_chat_streams_to_its_end(llm: Ollama) -> None:
    pieces = list(llm.stream_chat(HELLO))
    assert len(pieces) > 1 and pieces[-1].raw["done"]


def test_a_completion_answers(llm: Ollama) -> None:
    assert llm.complete("hello").raw["done"]


def test_texts_are_embedded(ollama_url: str, model: str) -> None:
    embedding = OllamaEmbedding(base_url=ollama_url, model_name=model)
    first, second = embedding.get_text_embedding_batch(["hello", "goodbye"])
    assert len(first) == len(second) > 0 and first != second
