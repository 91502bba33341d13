"""The `openai` client works through tailhop with nothing changed but its base URL."""

from __future__ import annotations

import openai
import pytest

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(ollama_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{ollama_url}/v1", api_key="none", max_retries=0, timeout=60)


def test_a_chat_answers_whole(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=HELLO)
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.completion_tokens > 0


def test_a_chat_streams_to_its_end_with_its_usage(client: openai.OpenAI, model: str) -> None:
    stream = client.chat.completions.create(
        model=model, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    pieces = list(stream)
    assert len(pieces) > 2
    assert pieces[-1].usage.completion_tokens > 0


def test_a_response_streams_to_its_end(client: openai.OpenAI, model: str) -> None:
    events = [event.type for event in client.responses.create(model=model, input="hello", stream=True)]
    assert events[-1] == "response.completed"


def test_embeddings_come_for_each_input(client: openai.OpenAI, model: str) -> None:
    answer = client.embeddings.create(model=model, input=["hello", "goodbye"])
    first, second = [row.embedding for row in answer.data]
    assert len(first) == len(second) > 0 and first != second


def test_the_models_are_listed(client: openai.OpenAI, model: str) -> None:
    assert any(entry.id.startswith(model) for entry in client.models.list())


def test_a_missing_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no-such-model"):
        client.chat.completions.create(model="no-such-model", messages=HELLO)
