"""The `ollama` client works through tailhop with nothing changed but its host."""

from __future__ import annotations

import ollama
import pytest

HELLO = [{"role": "user", "content": "hello"}]


def test_list_names_the_model(chat: ollama.Client, model: str) -> None:
    names = [entry.model for entry in chat.list().models]
    assert f"{model}:latest" in names or model in names


def test_show_describes_the_model(chat: ollama.Client, model: str) -> None:
    assert chat.show(model).modelinfo["general.architecture"]


def test_chat_answers_whole(chat: ollama.Client, model: str) -> None:
    answer = chat.chat(model, HELLO)
    assert answer.done and answer.eval_count > 0
    assert answer.message.role == "assistant"


def test_chat_streams_to_its_end(chat: ollama.Client, model: str) -> None:
    pieces = list(chat.chat(model, HELLO, stream=True))
    assert len(pieces) > 1
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_generate_answers(chat: ollama.Client, model: str) -> None:
    answer = chat.generate(model, "hello")
    assert answer.done and answer.eval_count > 0


def test_embed_gives_a_vector_for_each_input(chat: ollama.Client, model: str) -> None:
    first, second = chat.embed(model, ["hello", "goodbye"]).embeddings
    assert len(first) == len(second) > 0
    assert first != second


def test_a_missing_model_is_named_in_the_error(chat: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as error:
        chat.chat("no-such-model", HELLO)
    assert error.value.status_code == 404
    assert "no-such-model" in error.value.error and "not found" in error.value.error


def test_a_host_with_a_slash_at_its_end_works(ollama_url: str, model: str) -> None:
    assert ollama.Client(host=ollama_url + "/").show(model).modelinfo


def test_the_host_may_come_from_the_environment(
    ollama_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama_url)
    assert ollama.Client().list().models


def test_a_stream_may_be_left_early(chat: ollama.Client, model: str) -> None:
    for _ in range(3):
        stream = chat.chat(model, HELLO, stream=True, options={"num_predict": 400})
        assert next(stream).message is not None
        stream.close()
    # Abandoned streams must hold nothing back: one model answers one request at a time.
    assert chat.chat(model, HELLO).done
