"""What tailhop tells of models, and what it keeps of them, before a real Ollama.

`TAILHOP_KEPT` is the path of a service with a cache, `TAILHOP_SLOW_MODEL` a model whose tokens take
milliseconds; without them these tests are skipped.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator

import ollama
import pytest
import requests

from conftest import admin_url, tailhop_url

TIMEOUT = 60


def total(family: str, **labels: str) -> float:
    """The sum of the samples of a family that have these labels."""
    text = requests.get(admin_url() + "/metrics", timeout=5).text
    rows = re.findall(rf"^{family}{{(.*)}} (\S+)$", text, re.MULTILINE)
    wanted = [f'{name}="{value}"' for name, value in labels.items()]
    return sum(float(value) for has, value in rows if all(label in has for label in wanted))


@pytest.fixture
def slow() -> str:
    if not (name := os.environ.get("TAILHOP_SLOW_MODEL")):
        pytest.skip("TAILHOP_SLOW_MODEL is not set")
    return name


@pytest.fixture
def kept() -> Iterator[str]:
    if not (path := os.environ.get("TAILHOP_KEPT")):
        pytest.skip("TAILHOP_KEPT is not set")
    url = tailhop_url() + path
    # Nothing is kept of a model whose digest is not known yet.
    deadline = time.monotonic() + 30
    while not any(
        backend.get("models")
        for service in requests.get(admin_url() + "/status", timeout=5).json()["services"]
        if "/" + service["name"] == path
        for backend in service["backends"]
    ):
        assert time.monotonic() < deadline, "no models are told"
        time.sleep(0.05)
    yield url


def test_a_chat_is_told_by_the_name_of_its_model(chat: ollama.Client, slow: str) -> None:
    labels = {"model": f"{slow}:latest"}
    families = ["time_to_first_token", "time_per_output_token", "prompt_duration", "queue_duration"]
    families = [f"tailhop_llm_{name}_seconds_count" for name in families]
    before = [total(family, **labels) for family in families]
    tokens = total("tailhop_llm_tokens_total", type="output", **labels)
    last = list(chat.chat(slow, [{"role": "user", "content": "hello"}], stream=True))[-1]
    assert [total(family, **labels) for family in families] == [one + 1 for one in before]
    assert total("tailhop_llm_tokens_total", type="output", **labels) == tokens + last.eval_count
    told = total("tailhop_llm_tokens_per_second", **labels)
    assert told == pytest.approx(last.eval_count / last.eval_duration * 1e9, rel=0.01)


def test_the_wait_in_ollama_that_nobody_tells_is_told(chat: ollama.Client, slow: str) -> None:
    """One model answers one request at a time; who waits is seen in no field of an answer."""
    family, label = "tailhop_llm_queue_duration_seconds_sum", f"{slow}:latest"
    hello = [{"role": "user", "content": "hello"}]
    first = chat.chat(slow, hello, stream=True, options={"num_predict": 64})
    next(first)
    before = total(family, model=label)
    answers: list[ollama.ChatResponse] = []
    waiting = threading.Thread(target=lambda: answers.append(chat.chat(slow, hello)))
    began = time.monotonic()
    waiting.start()
    last = list(first)[-1]
    busy = time.monotonic() - began
    waiting.join()
    assert answers[0].done and last.done
    waited = total(family, model=label) - before
    assert busy * 0.5 < waited < busy + 1, f"{waited:.2f} of {busy:.2f} s"


@pytest.mark.parametrize("api", ["/api/embed", "/v1/embeddings"])
def test_a_vector_that_is_kept_is_byte_by_byte_the_one_that_came(
    kept: str, model: str, api: str
) -> None:
    def ask(inputs: list[str]) -> requests.Response:
        body = {"model": model, "input": inputs}
        answer = requests.post(kept + api, json=body, timeout=TIMEOUT)
        answer.raise_for_status()
        return answer

    def vectors(answer: requests.Response) -> list[str]:
        return re.findall(r"\[[-+.0-9eE, ]+\]", answer.text)

    texts = [f"{api} {number}" for number in range(10)]
    first = ask(texts[:9])
    assert first.headers["x-tailhop-cache"] == "hit=0, miss=9"
    assert len(vectors(first)) == 9
    both = ask(texts[::-1])
    assert both.headers["x-tailhop-cache"] == "hit=9, miss=1"
    assert vectors(both)[1:] == vectors(first)[::-1]
    again = ask(texts)
    assert again.headers["x-tailhop-reason"] == "cache"
    assert vectors(again) == vectors(both)[::-1]


def test_the_client_cannot_tell_what_is_kept(kept: str, model: str) -> None:
    client = ollama.Client(host=kept, timeout=TIMEOUT)
    first, again = [client.embed(model, ["one", "two"]) for _ in range(2)]
    assert first.embeddings == again.embeddings and again.model == model
